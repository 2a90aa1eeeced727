/* Inspection: what it must say of a model, of a container without a model, and of hostile text in a file. */
#include "core/base/memory.h"
#include "core/model/gguf_write.h"
#include "core/model/inspect.h"
#include "core/model/synth.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
static char *text; /* all lines */
static size_t size;
static int lines;
static ht_error err;

static void make_folder(void)
{
    test_temp_dir(folder);
    err = (ht_error){0}; /* tests may run in one process */
    size = 0;
    lines = 0;
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    text = calloc(1, 1 << 20);
}

static void remove_folder(void)
{
    remove(path);
    remove(folder);
    free(text);
}

static void collect(void *user, const char *line)
{
    cr_assert_eq(user, &lines);
    size += (size_t)snprintf(text + size, (1 << 20) - size, "%s\n", line);
    lines++;
    for (const char *c = line; *c; c++) cr_assert((unsigned char)*c >= 0x20, "a control byte in '%s'", line);
}

static void inspect(bool json)
{
    size = 0;
    lines = 0;
    uint64_t live = ht_memory_get_stats().live;
    cr_assert_eq(ht_inspect(path, json, collect, &lines, &err), 0, "%s", err.text);
    cr_assert_eq(ht_memory_get_stats().live, live);
}

static void has(const char *words)
{
    cr_expect(strstr(text, words) != NULL, "'%s' is not in:\n%s", words, text);
}

static double number(const cJSON *o, const char *a, const char *b)
{
    const cJSON *v = cJSON_GetObjectItem(cJSON_GetObjectItem(o, a), b);
    cr_assert(cJSON_IsNumber(v), "%s.%s", a, b);
    return v->valuedouble;
}

Test(inspect, a_model, .init = make_folder, .fini = remove_folder)
{
    ht_synth_options o = {.type = "q4_0", .n_layers = 2, .quiet = true};
    cr_assert_eq(ht_synth(path, &o, &err), 0, "%s", err.text);
    inspect(false);
    has("GGUF version 3, alignment 32, 1 file");
    has(path);
    has("general.architecture");
    has("512 x string: <unk>, <s>, </s>, <0x00>");
    has("blk.1.ffn_down.weight");
    has("256, 768");
    has("4 of 64, 2 for K and V");
    has("can be run");
    inspect(true);
    cr_assert_eq(lines, 1);
    cJSON *j = cJSON_Parse(text);
    cr_assert(j != NULL);
    cr_assert_eq(number(j, "model", "n_layers"), 2);
    cr_assert_eq(number(j, "model", "n_ff"), 768);
    cr_assert_eq(number(j, "metadata", "llama.block_count"), 2);
    cr_assert_eq(number(j, "sums", "overlaps"), 0);
    const cJSON *tensors = cJSON_GetObjectItem(j, "tensors"), *sums = cJSON_GetObjectItem(j, "sums");
    cr_assert_eq(cJSON_GetArraySize(tensors), 21);
    double bytes = 0;
    const cJSON *t;
    cJSON_ArrayForEach(t, tensors) bytes += cJSON_GetObjectItem(t, "bytes")->valuedouble;
    cr_assert_eq(bytes, number(j, "sums", "bytes"));
    cr_assert_eq(bytes, number(j, "model", "weight_bytes"));
    cr_assert_eq(cJSON_GetArraySize(cJSON_GetObjectItem(sums, "layer_bytes")), 2);
    cr_assert_eq(number(cJSON_GetObjectItem(sums, "types"), "Q4_0", "tensors"), 15);
    cJSON_Delete(j);
}

/* Sound weights with a vocabulary of another kind. */
Test(inspect, a_model_without_words, .init = make_folder, .fini = remove_folder)
{
    static const char key[] = "tokenizer.ggml.model";
    static char head[4096];
    ht_synth_options o = {.type = "q4_0", .n_layers = 1, .quiet = true};
    cr_assert_eq(ht_synth(path, &o, &err), 0, "%s", err.text);
    FILE *f = fopen(path, "r+");
    cr_assert_eq(fread(head, 1, sizeof head, f), sizeof head);
    const char *at = memmem(head, sizeof head, key, sizeof key - 1);
    cr_assert(at != NULL);
    fseek(f, (at - head) + (long)sizeof key - 1 + 4 + 8, SEEK_SET); /* its kind, and the length of "llama" */
    fwrite("bert?", 1, 5, f);
    fclose(f);
    inspect(false);
    has("cannot be run");
    has("'bert?' is not supported");
    inspect(true);
    cJSON *j = cJSON_Parse(text);
    cr_assert(cJSON_IsObject(cJSON_GetObjectItem(j, "model")) && cJSON_IsString(cJSON_GetObjectItem(j, "why_not")), "%s", text);
    cJSON_Delete(j);
}

Test(inspect, hostile_text_and_no_model, .init = make_folder, .fini = remove_folder)
{
    ht_gguf_writer *w;
    cr_assert_eq(ht_gguf_writer_open(&w, path, 0, &err), 0);
    ht_gguf_put_string(w, "general.architecture", "evil\x1b[31m\xff\xc3");
    ht_gguf_put_string(w, "key\x07with bell \xe2\x82\xac", "multi\nline \xed\xa0\x80 \xf4\x90\x80\x80");
    ht_gguf_put_f32(w, "nan", NAN);
    int32_t t = ht_gguf_add_tensor(w, "t\x1b]0;x\x07", HT_F32, 1, (int64_t[]){2}, &err);
    float two[2] = {0};
    cr_assert(t == 0 && ht_gguf_writer_begin(w, &err) == 0 && ht_gguf_write_at(w, 0, 0, two, 8, &err) == 0);
    cr_assert_eq(ht_gguf_writer_finish(w, &err), 0);
    ht_gguf_writer_close(&w);
    inspect(false);
    has("evil\\x1b[31m??");
    has("key\\x07with bell \xe2\x82\xac");
    has("multi\\nline");
    has("cannot be run");
    has("is not supported");
    inspect(true);
    cJSON *j = cJSON_Parse(text);
    cr_assert(j != NULL, "%s", text);
    cr_assert(cJSON_IsNull(cJSON_GetObjectItem(j, "model")));
    cr_assert(cJSON_IsString(cJSON_GetObjectItem(j, "why_not")));
    cJSON_Delete(j);
}

Test(inspect, a_folder)
{
    char first[TEST_PATH_MAX];
    cr_assert(test_data(first, "models/arch/gemma2/config.json"));
    *strrchr(first, '/') = 0;
    make_folder();
    memcpy(path, first, sizeof first);
    inspect(false);
    has("Hugging Face folder, 2 safetensors files");
    has("model.layers.1.post_feedforward_layernorm.weight");
    has("a layer has 24.31 KiB to 24.38 KiB");
    has("5 tokens, all in every layer number 2");
    has("can be run: 22304 weights");
    inspect(true);
    cJSON *j = cJSON_Parse(text);
    cr_assert(j != NULL && number(j, "model", "n_layers") == 2);
    cr_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(j, "container")), "safetensors");
    cJSON_Delete(j);
    remove(folder);
    free(text);
}

Test(inspect, errors_name_the_file)
{
    cr_assert_eq(ht_inspect("/nonexistent.gguf", false, collect, &lines, &err), -ENOENT);
    cr_assert(strstr(err.text, "/nonexistent.gguf") != NULL);
}
