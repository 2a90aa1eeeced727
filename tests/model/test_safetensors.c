/* Safetensors and Hugging Face folders: what is read, and how every lie is refused by name. */
#include "core/base/memory.h"
#include "core/model/model.h"
#include "core/model/model_arch.h"
#include "core/model/safetensors.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[TEST_PATH_MAX];

static void make_folder(void) { test_temp_dir(folder); }
static void remove_folder(void) { test_temp_remove(folder); }

static void write_bytes(const char *name, const void *data, size_t n)
{
    char path[TEST_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(data, 1, n, f) == n);
    fclose(f);
}

static void write_text(const char *name, const char *text) { write_bytes(name, text, strlen(text)); }

/* A file of that header and `data` bytes. */
static size_t image(uint8_t *out, const char *header, size_t data)
{
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 1, data);
    return 8 + n + data;
}

static void write_tensors(const char *name, const char *header, size_t data)
{
    uint8_t bytes[4096];
    write_bytes(name, bytes, image(bytes, header, data));
}

#define T(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

Test(safetensors, a_header)
{
    uint8_t bytes[1024];
    size_t n = image(bytes, "{\"__metadata__\":{\"a\":\"b\"},\"late\":" T("BF16", "[4,2]", "24", "40") ",\"one\":"
                     T("F32", "[]", "41", "45") ",\"first\":" T("F16", "[3,2,2]", "0", "24") "}", 45);
    ht_tensor_dir d;
    ht_error err = {0};
    cr_assert_eq(ht_safetensors_parse(&d, bytes, n, n, "f", &err), 0, "%s", err.text);
    cr_assert_eq(d.n_tensors, 3);
    const ht_tensor_info *t = d.tensors;
    cr_assert_str_eq(t[0].name, "first");
    cr_assert(t[0].type == HT_F16 && t[0].n_dims == 3 && t[0].dim[0] == 2 && t[0].dim[2] == 3 && t[0].offset == n - 45);
    cr_assert(t[1].type == HT_BF16 && t[1].dim[0] == 2 && t[1].dim[1] == 4 && t[1].bytes == 16);
    cr_assert(t[2].type == HT_F32 && t[2].n_dims == 1 && t[2].dim[0] == 1 && t[2].offset == n - 4);
    cr_assert_eq(ht_tensor_find(&d, "late"), 1);
    ht_tensor_dir_close(&d);
    for (size_t cut = 0; cut < n; cut++) /* never read beyond the end, never accepted */
        cr_assert(ht_safetensors_parse(&d, bytes, cut, cut, "f", &err) < 0, "%zu", cut);
    cr_assert_eq(ht_safetensors_parse(&d, bytes, 20, n, "f", &err), -ENODATA);
}

/* Short values become long ones in memory. */
Test(safetensors, far_too_many_values)
{
    enum { VALUES = (8 << 18) + 2 };
    static const char begin[] = "{\"__metadata__\":{\"a\":[0", end[] = "]}}";
    size_t n = sizeof begin - 1 + 2 * VALUES + sizeof end - 1;
    char *header = malloc(n + 1), *at = header + sizeof begin - 1;
    uint8_t *bytes = malloc(n + 8);
    ht_tensor_dir d;
    ht_error err = {0};
    memcpy(header, begin, sizeof begin);
    for (int i = 0; i < VALUES; i++, at += 2) memcpy(at, ",0", 2);
    memcpy(at, end, sizeof end);
    size_t size = image(bytes, header, 0);
    cr_assert_eq(ht_safetensors_parse(&d, bytes, size, size, "f", &err), -EINVAL);
    cr_assert(strstr(err.text, "too many values") != NULL, "%s", err.text);
    free(header);
    free(bytes);
}

Test(safetensors, lies_are_named)
{
    static const struct { const char *header, *names; int code; } cases[] = {
        {"[]", "no JSON object", -EINVAL},
        {"{\"a\":", "not sound JSON", -EINVAL},
        {"{\"a\":" T("I64", "[1]", "0", "8") "}", "tensor a has dtype \"I64\"", -ENOTSUP},
        {"{\"a\":7}", "tensor a has dtype", -ENOTSUP},
        {"{\"a\":" T("F32", "[1,1,1,1,1]", "0", "4") "}", "tensor a has no shape", -EINVAL},
        {"{\"a\":" T("F32", "7", "0", "4") "}", "tensor a has no shape", -EINVAL},
        {"{\"a\":" T("F32", "[0]", "0", "0") "}", "tensor a has a dimension", -EINVAL},
        {"{\"a\":" T("F32", "[-1]", "0", "4") "}", "tensor a has a dimension", -EINVAL},
        {"{\"a\":" T("F32", "[1.5]", "0", "4") "}", "tensor a has a dimension", -EINVAL},
        {"{\"a\":" T("F32", "[4294967296,4294967296]", "0", "4") "}", "tensor a has a dimension", -EINVAL},
        {"{\"a\":" T("F32", "[1]", "8", "4") "}", "tensor a has no sound data_offsets", -EINVAL},
        {"{\"a\":" T("F32", "[1]", "0.5", "4.5") "}", "tensor a has no sound data_offsets", -EINVAL},
        {"{\"a\":" T("F32", "[1]", "0", "1e300") "}", "tensor a has no sound data_offsets", -EINVAL},
        {"{\"a\":" T("F32", "[1]", "62", "66") "}", "tensor a ends at byte 66 of data, the file has 64", -EINVAL},
        {"{\"a\":" T("F32", "[3]", "0", "8") "}", "tensor a takes 8 bytes, its type and shape make 12", -EINVAL},
        {"{\"a\":" T("F32", "[2]", "0", "8") ",\"b\":" T("F16", "[2]", "6", "10") "}", "tensors a and b overlap", -EINVAL},
        {"{\"a\":" T("F32", "[2]", "0", "8") ",\"a\":" T("F32", "[2]", "8", "16") "}", "tensor a is there twice", -EEXIST},
        {"{\"\":" T("F32", "[2]", "0", "8") "}", "name has 0 bytes", -EINVAL},
    };
    uint8_t bytes[1024];
    ht_tensor_dir d;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_error err = {0};
        uint64_t live = ht_memory_get_stats().live;
        size_t n = image(bytes, cases[i].header, 64);
        cr_expect_eq(ht_safetensors_parse(&d, bytes, n, n, "file", &err), cases[i].code, "%s: %s", cases[i].header, err.text);
        cr_expect(strstr(err.text, cases[i].names) && strstr(err.text, "file"), "'%s' lacks '%s'", err.text, cases[i].names);
        cr_expect_eq(ht_memory_get_stats().live, live);
    }
    /* a header length that cannot be: nothing is allocated for it */
    static const uint64_t lengths[] = {57, 1ull << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < 4; i++) {
        ht_error err = {0};
        uint8_t file[64] = {0};
        for (int k = 0; k < 8; k++) file[k] = (uint8_t)(lengths[i] >> (8 * k));
        cr_expect_eq(ht_safetensors_parse(&d, file, 64, 64, "file", &err), -EINVAL);
        cr_expect(strstr(err.text, "claims a header"), "%s", err.text);
    }
    ht_error err = {0};
    uint8_t large[8] = {1, 0, 0x40, 0x06}; /* 100 MiB and 1, in a file that has them */
    cr_expect_eq(ht_safetensors_parse(&d, large, 8, 1ull << 30, "file", &err), -EFBIG, "%s", err.text);
}

static void expect_folder(int code, const char *names)
{
    ht_tensor_dir d;
    ht_error err = {0};
    uint64_t live = ht_memory_get_stats().live;
    int rc = ht_safetensors_open(&d, folder, &err);
    cr_expect_eq(rc, code, "%d %s", rc, err.text);
    cr_expect(strstr(err.text, names), "'%s' lacks '%s'", err.text, names);
    if (rc < 0) cr_expect_eq(ht_memory_get_stats().live, live);
    else ht_tensor_dir_close(&d);
}

Test(safetensors, shards, .init = make_folder, .fini = remove_folder)
{
    ht_tensor_dir d;
    ht_error err = {0};
    expect_folder(-ENOENT, "neither model.safetensors nor");
#define INDEX "model.safetensors.index.json"
    write_text(INDEX, "{");
    expect_folder(-EINVAL, "not sound JSON");
    write_text(INDEX, "{\"weight_map\":{}}");
    expect_folder(-EINVAL, "weight_map is missing or empty");
    write_text(INDEX, "{\"weight_map\":{\"a\":\"../x\"}}");
    expect_folder(-EINVAL, "\"../x\" is no name of a file");
    write_text(INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    expect_folder(-ENOENT, "1.safetensors");
    write_tensors("1.safetensors", "{\"a\":" T("F32", "[2]", "0", "8") "}", 8);
    write_tensors("2.safetensors", "{\"c\":" T("F32", "[2]", "0", "8") "}", 8);
    expect_folder(-EINVAL, "2.safetensors lacks the tensor b");
    write_tensors("2.safetensors", "{\"a\":" T("F32", "[2]", "0", "8") "}", 8);
    expect_folder(-EEXIST, "tensor a is there twice");
    write_tensors("2.safetensors", "{\"b\":" T("F16", "[2]", "0", "4") "}", 4);
    cr_assert_eq(ht_safetensors_open(&d, folder, &err), 0, "%s", err.text);
    cr_assert(d.n_files == 2 && d.n_tensors == 2 && d.tensors[ht_tensor_find(&d, "b")].file == 1);
    ht_tensor_dir_close(&d);
    write_text(INDEX, "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}}");
    expect_folder(-EINVAL, "lacks the tensor");
    write_tensors("model.safetensors", "{\"x\":" T("F16", "[2]", "0", "4") "}", 4); /* a whole file goes first */
    cr_assert_eq(ht_safetensors_open(&d, folder, &err), 0, "%s", err.text);
    cr_assert(d.n_files == 1 && ht_tensor_find(&d, "x") == 0);
    ht_tensor_dir_close(&d);
    write_bytes("model.safetensors", "x", 1);
    expect_folder(-EINVAL, "too short");
}

/* ---- config.json ---- */

#define PLAIN "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"max_position_embeddings\":1000"
#define LLAMA "{\"model_type\":\"llama\"," PLAIN
#define QWEN3 "{\"model_type\":\"qwen3\"," PLAIN

static ht_config read_config(const char *text)
{
    ht_config c;
    ht_error err = {0};
    cr_assert_eq(ht_config_parse(&c, text, strlen(text), "config.json", &err), 0, "%s: %s", text, err.text);
    return c;
}

Test(safetensors, config)
{
    ht_config c = read_config(LLAMA "}");
    const ht_shape *s = &c.shape;
    cr_assert(s->n_layers == 2 && s->n_embd == 64 && s->n_ff == 96 && s->n_heads == 4 && s->n_kv_heads == 2);
    cr_assert(s->head_dim == 16 && s->norm_eps == 1e-6f && s->activation == HT_SILU && s->window == 0 && !c.tied);
    cr_assert(s->rope.pairing == HT_ROPE_HALVES && s->rope.base == 10000 && s->rope.dims == 16 && s->rope.freqs == -1);
    ht_config_close(&c);
    c = read_config(QWEN3 ",\"tie_word_embeddings\":true,\"hidden_act\":\"gelu\",\"rope_theta\":5e5,\"sliding_window\":7}");
    cr_assert(c.shape.head_dim == 128 && c.tied && c.shape.activation == HT_GELU && c.shape.rope.base == 5e5f && !c.shape.window);
    c = read_config("{\"model_type\":\"mistral\",\"sliding_window\":null," PLAIN "}");
    cr_assert_eq(c.shape.window, 0);
    c = read_config("{\"model_type\":\"mistral\",\"sliding_window\":9," PLAIN "}");
    cr_assert(ht_layer_is_local(&c.shape, 0) && ht_layer_is_local(&c.shape, 1));
    c = read_config("{\"model_type\":\"gemma2\"," PLAIN ",\"attn_logit_softcapping\":null,\"query_pre_attn_scalar\":64}");
    cr_assert(c.shape.attn_softcap == 0 && c.shape.logit_softcap == 30 && c.shape.attn_scale == 0.125f && c.tied);
    cr_assert(ht_layer_is_local(&c.shape, 0) && !ht_layer_is_local(&c.shape, 1) && c.shape.window == 4096);
    c = read_config(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}");
    cr_assert(c.shape.rope.scaling == HT_ROPE_LINEAR && c.shape.rope.factor == 4);
    c = read_config(LLAMA ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,\"rope_theta\":77,"
                    "\"original_max_position_embeddings\":250,\"attention_factor\":1}}");
    cr_assert(c.shape.rope.scaling == HT_ROPE_YARN && c.shape.rope.base == 77 && c.shape.rope.original_context == 250);
    cr_assert(fabs(c.shape.rope.attn_factor * (1 + 0.1 * log(4)) - 1) < 1e-6);
    ht_config_close(&c);
}

Test(safetensors, config_errors_name_the_key)
{
    static const struct { const char *text, *names; int code; } cases[] = {
        {"nothing", "not sound JSON", -EINVAL},
        {"{}", "model_type is missing", -EINVAL},
        {"{\"model_type\":\"mamba\"}", "\"mamba\" is not supported; supported are: llama", -ENOTSUP},
        {"{\"model_type\":\"llama\"}", "num_hidden_layers is missing", -EINVAL},
        {LLAMA ",\"hidden_size\":64,\"head_dim\":0}", "head_dim is 0", -EINVAL},
        {LLAMA ",\"head_dim\":15}", "heads of 15", -ENOTSUP},
        {LLAMA ",\"head_dim\":16.5}", "head_dim is 16.5, should be whole", -EINVAL},
        {LLAMA ",\"head_dim\":\"x\"}", "head_dim is no number", -EINVAL},
        {LLAMA ",\"hidden_act\":\"mish\"}", "hidden_act \"mish\"", -ENOTSUP},
        {LLAMA ",\"tie_word_embeddings\":1}", "tie_word_embeddings is neither", -EINVAL},
        {LLAMA ",\"quantization_config\":{}}", "quantization_config is not supported", -ENOTSUP},
        {LLAMA ",\"rope_theta\":0}", "rope_theta is 0", -EINVAL},
        {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "rope_type \"dynamic\"", -ENOTSUP},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor is missing", -EINVAL},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":1}}", "mscale", -ENOTSUP},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}}",
         "high_freq_factor", -EINVAL},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1]}}", "short_factor has 1 items",
         -EINVAL},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0],\"long_factor\":[1]}}",
         "short_factor[7]", -EINVAL},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,"
               "\"f\":1,\"g\":1,\"h\":1},\"long_factor\":[1]}}", "short_factor is missing or no list", -EINVAL},
        {"{\"model_type\":\"phi3\"," PLAIN ",\"partial_rotary_factor\":0.2}", "RoPE over 3 elements", -EINVAL},
        {LLAMA ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor is not supported", -ENOTSUP},
        {LLAMA ",\"rope_scaling\":\"linear\"}", "rope_scaling is no object", -EINVAL},
        {LLAMA ",\"rope_parameters\":[]}", "rope_parameters is no object", -EINVAL},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":7}}", "rope_type \"?\"", -ENOTSUP},
        {LLAMA ",\"vocab_size\":0}", "vocab_size is 0", -EINVAL},
        {"{\"model_type\":\"gemma3\"}", "\"gemma3\" is not supported; supported are: llama, mistral, qwen2, qwen3, phi3, "
         "starcoder2, gemma, gemma2, gemma3_text", -ENOTSUP},
        {"{\"model_type\":\"gemma3_text\"," PLAIN ",\"attn_logit_softcapping\":4}", "attn_logit_softcapping", -ENOTSUP},
        {"{\"model_type\":\"mistral\"," PLAIN ",\"layer_types\":[\"full_attention\"]}", "layer_types has 1 items", -EINVAL},
        {"{\"model_type\":\"mistral\"," PLAIN ",\"layer_types\":{\"0\":\"full_attention\"}}", "layer_types is no list", -EINVAL},
        {"{\"model_type\":\"mistral\"," PLAIN ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "this order of layers",
         -ENOTSUP},
        {"{\"model_type\":\"mistral\"," PLAIN ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", "layer_types[1]",
         -ENOTSUP},
        {QWEN3 ",\"use_sliding_window\":true,\"sliding_window\":4,\"max_window_layers\":1}", "max_window_layers", -ENOTSUP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_config c;
        ht_error err = {0};
        uint64_t live = ht_memory_get_stats().live;
        cr_expect_eq(ht_config_parse(&c, cases[i].text, strlen(cases[i].text), "config.json", &err), cases[i].code, "%s: %s",
                     cases[i].text, err.text);
        cr_expect(strstr(err.text, cases[i].names) && strstr(err.text, "config.json"), "'%s' lacks '%s'", err.text, cases[i].names);
        cr_expect_eq(ht_memory_get_stats().live, live);
    }
}

/* ---- models ---- */

static void expect_model(int code, const char *names)
{
    ht_model *m;
    ht_error err = {0};
    int rc = ht_model_open(&m, folder, &err);
    cr_expect_eq(rc, code, "%d %s", rc, err.text);
    cr_expect(strstr(err.text, names) && strstr(err.text, folder), "'%s' lacks '%s'", err.text, names);
    ht_model_close(&m);
}

Test(safetensors, models_that_are_none, .init = make_folder, .fini = remove_folder)
{
    expect_model(-ENOENT, "config.json");
    write_text("config.json", LLAMA "}");
    expect_model(-ENOENT, "neither model.safetensors");
    write_tensors("model.safetensors", "{\"a\":" T("F16", "[2]", "0", "4") "}", 4);
    expect_model(-EINVAL, "tensor model.embed_tokens.weight is missing, expected with shape (*, 64)");
    write_tensors("model.safetensors", "{\"model.embed_tokens.weight\":" T("F16", "[64]", "0", "128") "}", 128);
    expect_model(-EINVAL, "lm_head.weight is missing");
    write_text("config.json", LLAMA ",\"vocab_size\":2}");
    expect_model(-EINVAL, "tensor model.embed_tokens.weight has shape (64), expected (2, 64)");
    write_text("config.json", LLAMA ",\"tie_word_embeddings\":true}");
    expect_model(-EINVAL, "model.norm.weight is missing");
    write_tensors("model.safetensors", "{\"model.embed_tokens.weight\":" T("F16", "[1,64]", "0", "128") ",\"model.norm.weight\":"
                  T("F16", "[65]", "128", "258") "}", 258);
    expect_model(-EINVAL, "tensor model.norm.weight has shape (65), expected (64)");
    write_tensors("model.safetensors", "{\"model.embed_tokens.weight\":" T("F16", "[1,64]", "0", "128") ",\"model.norm.weight\":"
                  T("F16", "[64]", "128", "256") "}", 256);
    expect_model(-EINVAL, "model.layers.0.input_layernorm.weight is missing");
    ht_model *m;
    ht_error err = {0};
    cr_assert_eq(ht_model_open(&m, "a/model.safetensors", &err), -EINVAL);
    cr_assert(strstr(err.text, "a/model.safetensors: the model is the folder"), "%s", err.text);
}

Test(safetensors, a_model_survives_failing_allocations)
{
    static const char *const names[] = {"qwen2", "phi3"}; /* sharded; with divisors of its own */
    for (size_t i = 0; i < 2; i++) {
        char path[TEST_PATH_MAX], relative[64];
        snprintf(relative, sizeof relative, "models/arch/%s/config.json", names[i]);
        cr_assert(test_data(path, relative));
        *strrchr(path, '/') = 0;
        uint64_t live = ht_memory_get_stats().live;
        int64_t n = 0;
        for (;; n++) {
            ht_model *m;
            ht_error err = {0};
            ht_memory_fail_after(n);
            int rc = ht_model_open(&m, path, &err);
            ht_memory_fail_after(-1);
            if (rc == 0) {
                cr_assert_str_eq(m->name, names[i]);
                cr_assert_str_eq(m->architecture, names[i]);
                cr_assert_eq(m->dir->n_files, i ? 1 : 2);
                ht_model_close(&m);
                break;
            }
            cr_assert_eq(rc, -ENOMEM, "%s", err.text);
            cr_assert_eq(ht_memory_get_stats().live, live);
        }
        cr_assert_gt(n, 20);
    }
}
