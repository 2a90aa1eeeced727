/* tokenize, inspect, synth, eval and bench on small files. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/spawn.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char model[TEST_PATH_MAX], vocab[TEST_PATH_MAX], text[TEST_PATH_MAX];

static void find_data(void)
{
    if (!test_data(model, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) model[0] = '\0';
    if (!test_data(text, "models/kjv-relu-7m/valid.txt")) text[0] = '\0';
    if (!test_data(vocab, "tokenizers/gpt-2.gguf")) vocab[0] = '\0';
}

#define NEED(path)                                                                                                 \
    do                                                                                                             \
        if (!path[0]) cr_skip_test("no " #path " in the test data");                                               \
    while (0)

static double number(const cJSON *j, const char *a, const char *b)
{
    const cJSON *at = cJSON_GetObjectItem(j, a);
    if (b) at = cJSON_GetObjectItem(at, b);
    cr_assert(cJSON_IsNumber(at), "no number %s%s%s", a, b ? "." : "", b ? b : "");
    return cJSON_GetNumberValue(at);
}

/* ---- tokenize ------------------------------------------------------------------------------------------------- */

Test(tools, tokenize_both_ways, .init = find_data)
{
    NEED(vocab);
    static const char sample[] = "Hello, wörld! 3 \xf0\x9f\x99\x82\n\tx ";
    spawned ids = test_hearth(sample, "tokenize", "-m", vocab, "--ids");
    cr_assert_eq(ids.code, 0, "%s", ids.err);
    spawned back = test_hearth(ids.out, "tokenize", "-m", vocab, "--decode");
    cr_assert_eq(back.code, 0, "%s", back.err);
    cr_assert_str_eq(back.out, sample);
    spawned lines = test_hearth(sample, "tokenize", "-m", vocab);
    cr_assert(strstr(lines.out, "'Hello'") && strstr(lines.out, "'\\n'"), "%s", lines.out);
    int n_lines = 0, n_ids = 1;
    for (char *c = lines.out; *c; c++) n_lines += *c == '\n';
    for (char *c = ids.out; *c; c++) n_ids += *c == ' ';
    cr_assert_eq(n_lines, n_ids);
    spawned_free(&ids);
    spawned_free(&back);
    spawned_free(&lines);
}

/* Each text of the vectors through the command, as a whole file and by -f. */
Test(tools, tokenize_a_vector, .init = find_data)
{
    NEED(vocab);
    spawned s = test_hearth(NULL, "tokenize", "-m", vocab, "--ids", "-p", "Hello World");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.out, "15496 2159\n");
    spawned_free(&s);
    s = test_hearth(NULL, "tokenize", "-m", vocab, "--ids", "-e", "-p", "\\n");
    cr_assert_str_eq(s.out, "198\n");
    spawned_free(&s);
    s = test_hearth("", "tokenize", "-m", vocab, "--ids");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.out, "\n");
    spawned_free(&s);
}

Test(tools, tokenize_refuses_what_is_no_id, .init = find_data)
{
    NEED(vocab);
    static const char *const bad[] = {"1 2 x", "99999999", "-1", "1.5", "18446744073709551616"};
    for (int i = 0; i < 5; i++) {
        spawned s = test_hearth(bad[i], "tokenize", "-m", vocab, "--decode");
        cr_expect_eq(s.code, 1, "%s", bad[i]);
        cr_expect(strstr(s.err, "no token id"), "%s: %s", bad[i], s.err);
        spawned_free(&s);
    }
}

/* Added tokens without a row of the embedding are left out, as by the engine; a tokenizer alone knows no rows. Weights that
 * cannot be read make a warning. */
Test(tools, a_folders_tokens_are_the_models)
{
    char folder[TEST_PATH_MAX], hf[TEST_PATH_MAX], command[5 * TEST_PATH_MAX];
    if (!test_data(hf, "models/arch/llama/config.json")) cr_skip_test("no models/arch/llama");
    *strrchr(hf, '/') = '\0';
    test_temp_dir(folder);
    snprintf(command, sizeof command, "cp '%s'/*.json '%s'/*.safetensors '%s' && sed -i "
             "'s/\"added_tokens\":\\[/&{\"id\":64,\"content\":\"!#\"},/' '%s/tokenizer.json'", hf, hf, folder, folder);
    cr_assert_eq(system(command), 0);
    spawned s = test_hearth(NULL, "tokenize", "-m", folder, "--ids", "-p", "!#");
    cr_expect_eq(s.code, 0, "%s", s.err);
    cr_expect_str_eq(s.out, "2 4\n");
    cr_expect(strstr(s.err, "embedding's 64 rows") && strstr(s.err, "'!#'"), "%s", s.err);
    spawned_free(&s);
    static const struct { const char *edit, *why; } broken[] = {
        {"truncate -s 1000 model.safetensors", "/model.safetensors: "},
        {"mv model.safetensors model-00001-of-00002.safetensors", "has neither model.safetensors nor"},
        {"mv config.json kept", "/config.json'"},
        {"mv kept config.json && rm *.safetensors", NULL}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        snprintf(command, sizeof command, "cd '%s' && %s", folder, broken[i].edit);
        cr_assert_eq(system(command), 0);
        s = test_hearth(NULL, "tokenize", "-m", folder, "--ids", "-p", "!#");
        cr_expect_eq(s.code, 0, "%s: %s", broken[i].edit, s.err);
        cr_expect_str_eq(s.out, "64\n");
        if (!broken[i].why) cr_expect_str_eq(s.err, "");
        else cr_expect(strncmp(s.err, "warning: ", 9) == 0 && strstr(s.err, broken[i].why), "%s: %s", broken[i].edit, s.err);
        cr_expect(!s.err[0] || strchr(s.err, '\n') == s.err + strlen(s.err) - 1, "not one line: %s", s.err);
        spawned_free(&s);
    }
    test_temp_remove(folder);
}

/* ---- inspect, synth ------------------------------------------------------------------------------------------- */

Test(tools, a_zero_byte_is_no_id, .init = find_data)
{
    NEED(vocab);
    char path[] = "/tmp/hearth-ids-XXXXXX";
    FILE *f = fdopen(mkstemp(path), "w");
    fwrite("1 2\0003", 1, 5, f);
    fclose(f);
    spawned s = test_hearth(NULL, "tokenize", "-m", vocab, "--decode", "-f", path);
    cr_assert_eq(s.code, 1, "%s", s.out);
    cr_assert(strstr(s.err, "no token id"), "%s", s.err);
    spawned_free(&s);
    remove(path);
}

Test(tools, inspect_lists_tensors, .init = find_data)
{
    NEED(model);
    spawned s = test_hearth(NULL, "inspect", model);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(strstr(s.out, "blk.0.ffn_gate.weight") && strstr(s.out, "hearth.ffn.activation"), "%s", s.out);
    spawned_free(&s);
    s = test_hearth(NULL, "inspect", model, "--json");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert(cJSON_IsObject(j));
    cJSON_Delete(j);
    spawned_free(&s);
}

Test(tools, synth_makes_a_model_that_runs)
{
    char folder[TEST_PATH_MAX], a[TEST_PATH_MAX + 16], b[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(a, sizeof a, "%s/a.gguf", folder);
    snprintf(b, sizeof b, "%s/b.gguf", folder);
    spawned s = test_hearth(NULL, "synth", "-o", a, "--shape", "tiny", "--type", "q4_0", "-s", "5", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "synth", "-o", b, "--shape", "tiny", "--type", "q4_0", "-s", "5", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    char command[3 * TEST_PATH_MAX];
    snprintf(command, sizeof command, "cmp -s '%s' '%s'", a, b);
    cr_assert_eq(system(command), 0, "the same seed gives the same file");
    s = test_hearth(NULL, "run", "-m", a, "-p", "x", "-n", "8", "--temp", "0", "--ignore-eos", "--json", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert_eq(number(j, "completion_tokens", NULL), 8);
    cJSON_Delete(j);
    spawned_free(&s);
    s = test_hearth(NULL, "bench", "-m", a, "-p", "16", "-n", "8", "-np", "1,9", "-r", "2", "--json", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    j = cJSON_Parse(s.out);
    cr_assert_gt(number(j, "read_bytes_per_second_before", NULL), 1e8);
    cJSON *results = cJSON_GetObjectItem(j, "results");
    cr_assert_eq(cJSON_GetArraySize(results), 3);
    for (int i = 0; i < 3; i++) {
        cJSON *r = cJSON_GetArrayItem(results, i);
        cr_assert_eq(number(r, "sequences", NULL), i == 2 ? 9 : 1);
        cr_assert_eq(number(r, "tokens", NULL), i == 0 ? 16 : i == 1 ? 8 : 72);
        cr_assert_gt(number(r, "tokens_per_second", NULL), 0);
        cr_assert_leq(number(r, "slowest", NULL), number(r, "tokens_per_second", NULL));
        cr_assert_geq(number(r, "fastest", NULL), number(r, "tokens_per_second", NULL));
        cr_assert_eq(cJSON_GetArraySize(cJSON_GetObjectItem(r, "seconds")), 2);
        /* compared with the memory's speed: one sequence that decodes */
        cr_assert_eq(cJSON_HasObjectItem(r, "share_of_read"), i == 1);
        if (i == 1) cr_assert_gt(number(r, "share_of_read", NULL), 0);
    }
    cJSON_Delete(j);
    spawned_free(&s);
    test_temp_remove(folder);
}

/* Bytes of KV a token of a model of one layer, of heads of `dim`, with these options. */
static double kv_token_bytes(const char *path, const char *heads, const char *kv_heads, const char *dim, const char *k_type,
                             const char *v_type, const char *device)
{
    spawned s = test_hearth(NULL, "synth", "-o", path, "--shape", "tiny", "--type", "q8_0", "--layers", "1", "--heads", heads,
                            "--kv-heads", kv_heads, "--head-dim", dim, "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", path, "-p", "x", "-n", "2", "-c", "64", "--json", "-q", "-ctk", k_type, "-ctv", v_type,
                    "--device", device);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    double bytes = number(j, "model", "kv_token_bytes");
    cJSON_Delete(j);
    spawned_free(&s);
    return bytes;
}

/* A row of e elements has 2 e bytes in F16, and 4 more in Q16, which it is by itself from three heads a KV head on. */
Test(tools, the_kv_type_is_chosen_by_the_heads_that_read_it, .timeout = 120)
{
    static const struct { const char *heads, *kv_heads, *dim, *k_type, *v_type, *device; double bytes; } cases[] = {
        {"4", "2", "64", "auto", "auto", "none", 2 * (128 + 128)},
        {"6", "2", "64", "auto", "auto", "none", 2 * (132 + 132)},
        {"8", "1", "80", "auto", "auto", "none", 164 + 164},
        {"6", "2", "64", "f16", "auto", "none", 2 * (128 + 132)},
        {"6", "2", "64", "auto", "f32", "none", 2 * (132 + 256)},
        {"4", "4", "64", "q16", "auto", "none", 4 * (132 + 128)},
        {"8", "2", "24", "auto", "auto", "none", 2 * (48 + 48)}, /* not what Q16 takes */
        {"6", "2", "64", "auto", "auto", "emu", 2 * (128 + 128)}, /* nor what a GPU reads */
    };
    char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(kv_token_bytes(path, cases[i].heads, cases[i].kv_heads, cases[i].dim, cases[i].k_type, cases[i].v_type,
                                    cases[i].device), cases[i].bytes, "case %zu", i);
    test_temp_remove(folder);
}

/* ---- eval ----------------------------------------------------------------------------------------------------- */

/* reference-q4.json: 42.038356 over the 5012 tokens of the first 20,480 bytes. */
Test(tools, perplexity_is_the_reference, .init = find_data)
{
    NEED(model);
    NEED(text);
    spawned s = test_hearth(NULL, "eval", "-m", model, "-f", text, "--bytes", "20480", "--act", "f32", "--json");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert_eq(number(j, "scored_tokens", NULL), 5012);
    double value = number(j, "model", "perplexity");
    cr_assert(fabs(value / 42.038356 - 1) < 1e-3, "perplexity %.6f", value);
    double error = number(j, "model", "perplexity_error");
    cr_assert(error > 0.5 && error < 3, "standard error %.6f", error);
    cJSON_Delete(j);
    spawned_free(&s);
}

Test(tools, other_vocabularies_are_not_compared, .init = find_data)
{
    NEED(model);
    char folder[TEST_PATH_MAX], other[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(other, sizeof other, "%s/other.gguf", folder);
    spawned s = test_hearth(NULL, "synth", "-o", other, "--layers", "1", "--vocab-size", "4096", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "eval", "-m", model, "-p", "In the beginning", "--against", other);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "make other tokens"), "%s", s.err);
    spawned_free(&s);
    test_temp_remove(folder);
}

Test(tools, comparison_of_a_setting_with_itself_and_another, .init = find_data)
{
    NEED(model);
    NEED(text);
    char folder[TEST_PATH_MAX], dump[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(dump, sizeof dump, "%s/dump.jsonl", folder);
    spawned s = test_hearth(NULL, "eval", "-m", model, "-f", text, "--bytes", "3000", "--json", "--against", model,
                            "--dump", dump);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert_eq(number(j, "comparison", "top1_agreement"), 1);
    cr_assert(fabs(number(j, "comparison", "kl_max")) < 1e-12);
    cr_assert_eq(number(j, "comparison", "logprob_difference_mean"), 0);
    double scored = number(j, "scored_tokens", NULL), nll = number(j, "model", "mean_nll");
    cJSON_Delete(j);
    spawned_free(&s);

    /* The dump has a line a token, and its mean is the mean. */
    FILE *file = fopen(dump, "r");
    cr_assert(file != NULL);
    char line[512];
    double sum = 0;
    int lines = 0;
    for (; fgets(line, sizeof line, file); lines++) {
        cJSON *entry = cJSON_Parse(line);
        cr_assert(entry != NULL, "%s", line);
        cr_assert_leq(number(entry, "logprob", NULL), number(entry, "top_logprob", NULL) + 1e-6);
        cr_assert_eq(number(entry, "at", NULL), lines);
        sum -= number(entry, "logprob", NULL);
        cJSON_Delete(entry);
    }
    fclose(file);
    cr_assert_eq(lines, scored);
    cr_assert_float_eq(sum / lines, nll, 1e-6);
    test_temp_remove(folder);

    /* 8 bits against 32: close, not the same. */
    s = test_hearth(NULL, "eval", "-m", model, "-f", text, "--bytes", "3000", "--json", "--against-act", "f32");
    cr_assert_eq(s.code, 0, "%s", s.err);
    j = cJSON_Parse(s.out);
    double kl = number(j, "comparison", "kl_mean");
    cr_assert(kl > 0 && kl < 0.01, "KL %g", kl);
    cr_assert_gt(number(j, "comparison", "top1_agreement"), 0.95);
    cJSON_Delete(j);
    spawned_free(&s);
}

Test(tools, a_dump_overwrites_nothing_that_is_read)
{
    char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16], byte[2] = "";
    test_temp_dir(folder);
    char split[TEST_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs("x", file) >= 0 && fclose(file) == 0);
    snprintf(split, sizeof split, "%s/m-00002-of-00002.gguf", folder);
    cr_assert_eq(symlink(path, split), 0);
    strcpy(strrchr(split, '/'), "/m-00001-of-00002.gguf");
    const char *const arguments[][10] = {
        {"eval", "-m", path, "-p", "x", "--dump", path},
        {"eval", "-m", "m", "-f", path, "--dump", path},
        {"eval", "-m", "m", "-p", "x", "--against", path, "--dump", path},
        {"eval", "-m", folder, "-p", "x", "--dump", path},
        {"eval", "-m", "m", "-p", "x", "--against", folder, "--dump", path},
        {"eval", "-m", split, "-p", "x", "--dump", path},
    };
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        spawned s = test_hearth_full(arguments[i], NULL, NULL);
        cr_expect_eq(s.code, 2, "%zu: exit code %d", i, s.code);
        cr_expect(strstr(s.err, "--dump") && strstr(s.err, path), "%s", s.err);
        spawned_free(&s);
    }
    file = fopen(path, "r");
    cr_assert(file && fread(byte, 1, 1, file) == 1 && fclose(file) == 0);
    cr_assert_str_eq(byte, "x");
    test_temp_remove(folder);
}

/* Weights that are no numbers give logits that are none, which JSON cannot spell. */
Test(tools, a_dump_of_broken_weights_is_json, .init = find_data)
{
    NEED(model);
    char folder[TEST_PATH_MAX], bad[TEST_PATH_MAX + 16], dump[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(bad, sizeof bad, "%s/bad.gguf", folder);
    snprintf(dump, sizeof dump, "%s/dump.jsonl", folder);
    FILE *in = fopen(model, "rb"), *out = fopen(bad, "wb");
    cr_assert(in && out);
    fseek(in, 0, SEEK_END);
    long size = ftell(in);
    rewind(in);
    for (long i = 0; i < size; i++) {
        int c = getc(in);
        putc(i < size - 4096 ? c : 0xff, out); /* the last tensor's rows get scales that are NaN */
    }
    fclose(in);
    fclose(out);
    spawned s = test_hearth(NULL, "eval", "-m", bad, "-p", "In the beginning God created", "--dump", dump, "--json");
    cr_assert_eq(s.code, 0, "%s", s.err);
    FILE *file = fopen(dump, "r");
    cr_assert(file != NULL);
    char line[512];
    int broken = 0;
    while (fgets(line, sizeof line, file)) {
        cJSON *entry = cJSON_ParseWithOpts(line, NULL, false);
        cr_assert(entry != NULL && !strstr(line, "nan"), "%s", line);
        broken += cJSON_IsNull(cJSON_GetObjectItem(entry, "logprob"));
        cJSON_Delete(entry);
    }
    fclose(file);
    cr_assert_gt(broken, 0, "the weights were not broken enough for this test");
    spawned_free(&s);
    test_temp_remove(folder);
}

/* A window and the BOS in front of it fill the context. */
Test(tools, windows_of_reference_fill_the_context, .init = find_data)
{
    NEED(model);
    NEED(text);
    spawned s = test_hearth(NULL, "eval", "-m", model, "-f", text, "-c", "64", "--max-windows", "1", "--json");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert_eq(number(j, "window", NULL), 63);
    cr_assert_eq(number(j, "scored_tokens", NULL), 63);
    cJSON_Delete(j);
    spawned_free(&s);
}

Test(tools, windows_of_llama_score_the_second_halves, .init = find_data)
{
    NEED(model);
    NEED(text);
    spawned s = test_hearth(NULL, "eval", "-m", model, "-f", text, "--windows", "llama", "-c", "128", "--max-windows", "3",
                            "--json");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert_eq(number(j, "scored_tokens", NULL), 3 * 63); /* 128 - 64 - 1 each */
    cJSON_Delete(j);
    spawned_free(&s);
    s = test_hearth(NULL, "eval", "-m", model, "-p", "In the", "--windows", "llama");
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "too short"), "%s", s.err);
    spawned_free(&s);
}
