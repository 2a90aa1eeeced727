/* Opening models: every architecture of the table, what a file may leave out, and what must be an error with names
 * and shapes in it. */
#include "core/base/memory.h"
#include "core/model/gguf_write.h"
#include "core/model/model.h"
#include "core/model/model_arch.h"
#include "core/model/rope.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 64, F = 96, HEADS = 4, KV = 2, E = 16, V = 40, L = 2 };

/* What to make of a file: names may be left out, given another shape, or added. */
typedef struct recipe {
    const char *arch, *skip, *misshape, *extra;
    bool tied, biases, rope_freqs, longrope;
    const char *u32_key; /* one more or another value */
    uint32_t u32;
    const char *f32_key;
    float f32, rope_factor;
    const char *string_key, *string;
} recipe;

static char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
static ht_error err;

static void make_folder(void)
{
    test_temp_dir(folder);
    err = (ht_error){0}; /* tests may run in one process */
    snprintf(path, sizeof path, "%s/m.gguf", folder);
}

static void remove_folder(void)
{
    remove(path);
    remove(folder);
}

static void add(ht_gguf_writer *w, const recipe *r, const char *name, int64_t cols, int64_t rows)
{
    if (r->skip && strcmp(name, r->skip) == 0) return;
    if (r->misshape && strcmp(name, r->misshape) == 0) cols += 32;
    cr_assert_geq(ht_gguf_add_tensor(w, name, HT_F32, rows ? 2 : 1, (int64_t[]){cols, rows}, &err), 0, "%s", err.text);
}

static void add_layer(ht_gguf_writer *w, const recipe *r, int layer)
{
    const ht_architecture *a = ht_architecture_find(r->arch, strlen(r->arch));
    struct { const char *name; int64_t cols, rows; bool there; } all[] = {
        {"attn_norm.weight", D, 0, true},
        {"attn_norm.bias", D, 0, a->norm == HT_NORM_LAYER},
        {"attn_q.weight", D, HEADS * E, !a->fused_qkv},
        {"attn_k.weight", D, KV * E, !a->fused_qkv},
        {"attn_v.weight", D, KV * E, !a->fused_qkv},
        {"attn_qkv.weight", D, (HEADS + 2 * KV) * E, a->fused_qkv},
        {"attn_q.bias", HEADS * E, 0, a->qkv_bias == HT_REQUIRED || r->biases},
        {"attn_k.bias", KV * E, 0, a->qkv_bias == HT_REQUIRED || r->biases},
        {"attn_v.bias", KV * E, 0, a->qkv_bias == HT_REQUIRED || r->biases},
        {"attn_q_norm.weight", E, 0, a->qk_norm == HT_REQUIRED},
        {"attn_k_norm.weight", E, 0, a->qk_norm == HT_REQUIRED},
        {"attn_output.weight", HEADS * E, D, true},
        {"attn_output.bias", D, 0, a->o_bias == HT_REQUIRED || r->biases},
        {"post_attention_norm.weight", D, 0, a->post_norms},
        {"post_ffw_norm.weight", D, 0, a->post_norms},
        {"ffn_norm.weight", D, 0, true},
        {"ffn_norm.bias", D, 0, a->norm == HT_NORM_LAYER},
        {"ffn_gate.weight", D, F, a->gated && !a->fused_gate_up},
        {"ffn_up.weight", D, a->fused_gate_up ? 2 * F : F, true},
        {"ffn_up.bias", F, 0, a->ffn_bias == HT_REQUIRED || r->biases},
        {"ffn_down.weight", F, D, true},
        {"ffn_down.bias", D, 0, a->ffn_bias == HT_REQUIRED || r->biases},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", layer, all[i].name);
        if (all[i].there) add(w, r, name, all[i].cols, all[i].rows);
    }
}

static void put_keys(ht_gguf_writer *w, const recipe *r)
{
    static const struct { const char *key; uint32_t v; } keys[] = {
        {"block_count", L}, {"embedding_length", D}, {"feed_forward_length", F}, {"context_length", 1000},
        {"attention.head_count", HEADS}, {"attention.head_count_kv", KV}, {"rope.scaling.original_context_length", 100},
    };
    char key[128];
    ht_gguf_put_string(w, "general.architecture", r->arch);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(key, sizeof key, "%s.%s", r->arch, keys[i].key);
        if (r->skip && strcmp(key, r->skip) == 0) continue;
        ht_gguf_put_u32(w, key, r->u32_key && strcmp(key, r->u32_key) == 0 ? r->u32 : keys[i].v);
    }
    bool known = false;
    for (size_t i = 0; r->u32_key && i < sizeof keys / sizeof *keys; i++)
        known = known || strstr(r->u32_key, keys[i].key) != NULL;
    if (r->u32_key && !known) ht_gguf_put_u32(w, r->u32_key, r->u32);
    if (r->f32_key) ht_gguf_put_f32(w, r->f32_key, r->f32);
    snprintf(key, sizeof key, "%s.rope.scaling.factor", r->arch);
    if (r->rope_factor > 0) ht_gguf_put_f32(w, key, r->rope_factor);
    if (r->string_key) ht_gguf_put_string(w, r->string_key, r->string);
}

static void write_model(const recipe *r)
{
    ht_gguf_writer *w;
    cr_assert_eq(ht_gguf_writer_open(&w, path, 0, &err), 0, "%s", err.text);
    put_keys(w, r);
    add(w, r, "token_embd.weight", D, V);
    if (!r->tied) add(w, r, "output.weight", D, V);
    add(w, r, "output_norm.weight", D, 0);
    if (strcmp(r->arch, "starcoder2") == 0) add(w, r, "output_norm.bias", D, 0);
    if (r->rope_freqs) add(w, r, "rope_freqs.weight", E / 2, 0);
    if (r->longrope) add(w, r, "rope_factors_short.weight", E / 2, 0), add(w, r, "rope_factors_long.weight", E / 2, 0);
    for (int l = 0; l < L; l++) add_layer(w, r, l);
    if (r->extra) add(w, r, r->extra, D, 0);
    cr_assert_eq(ht_gguf_writer_begin(w, &err), 0, "%s", err.text);
    static const uint8_t zeros[4 * F * D * 2];
    for (int32_t t = 0;; t++) {
        ht_error end = {0};
        if (ht_gguf_write_at(w, t, 0, zeros, 0, &end) < 0) break; /* beyond the last */
        uint64_t bytes = ht_gguf_tensor_bytes(w, t);
        cr_assert(bytes <= sizeof zeros);
        cr_assert_eq(ht_gguf_write_at(w, t, 0, zeros, (size_t)bytes, &err), 0, "%s", err.text);
    }
    cr_assert_eq(ht_gguf_writer_finish(w, &err), 0, "%s", err.text);
    ht_gguf_writer_close(&w);
}

static ht_model *open_model(recipe r)
{
    ht_model *m;
    write_model(&r);
    cr_assert_eq(ht_model_open(&m, path, &err), 0, "%s", err.text);
    return m;
}

static void refused(recipe r, int code, const char *a, const char *b, const char *c)
{
    ht_model *m;
    write_model(&r);
    uint64_t live = ht_memory_get_stats().live;
    memset(&err, 0, sizeof err);
    int rc = ht_model_open(&m, path, &err);
    cr_expect_eq(rc, code, "%d %s", rc, err.text);
    cr_expect(!m);
    cr_expect(strstr(err.text, a) && strstr(err.text, b) && strstr(err.text, c) && strstr(err.text, path),
              "'%s' lacks one of '%s' '%s' '%s'", err.text, a, b, c);
    cr_expect_eq(ht_memory_get_stats().live, live);
    ht_model_close(&m);
}

Test(model, opens_llama, .init = make_folder, .fini = remove_folder)
{
    ht_model *m = open_model((recipe){.arch = "llama", .rope_freqs = true});
    const ht_shape *s = &m->shape;
    cr_assert_str_eq(m->architecture, "llama");
    cr_assert_str_eq(m->name, "m.gguf");
    cr_assert(s->n_layers == L && s->n_embd == D && s->n_ff == F && s->n_heads == HEADS && s->n_kv_heads == KV);
    cr_assert(s->head_dim == E && s->n_vocab == V && s->n_context == 1000 && s->n_experts == 1 && s->window == 0);
    cr_assert(s->norm == HT_NORM_RMS && s->activation == HT_SILU && s->gated && s->embd_scale == 1.0f);
    cr_assert(s->rope.pairing == HT_ROPE_INTERLEAVED && s->rope.scaling == HT_ROPE_NONE && s->rope.dims == E);
    cr_assert(s->rope.base == 10000.0f && s->rope.factor == 1.0f && s->rope.attn_factor == 1.0f);
    cr_assert_str_eq(m->dir->tensors[s->rope.freqs].name, "rope_freqs.weight");
    const ht_layer_refs *r = &m->layers[1];
    cr_assert_str_eq(m->dir->tensors[r->k.tensor].name, "blk.1.attn_k.weight");
    cr_assert(r->k.row == 0 && r->k.rows == KV * E && r->down.rows == D && r->gate.rows == F && r->attn_norm.rows == D);
    cr_assert(r->q_bias.tensor == -1 && r->q_norm.tensor == -1 && r->router.tensor == -1 && r->up_bias.tensor == -1);
    cr_assert(m->output.tensor != m->embd.tensor && m->output.rows == V);
    uint64_t expected = 2 * V * D + D + E / 2 + L * (2 * D + 2 * HEADS * E * D + 2 * KV * E * D + 3 * D * F);
    cr_assert_eq(m->n_parameters, expected);
    cr_assert_eq(m->weight_bytes, 4 * expected);
    ht_model_close(&m);
    ht_model_close(&m);
    m = open_model((recipe){.arch = "llama", .tied = true, .biases = true});
    cr_assert_eq(m->output.tensor, m->embd.tensor);
    cr_assert(m->shape.rope.freqs == -1);
    cr_assert(m->layers[0].v_bias.tensor >= 0 && m->layers[0].o_bias.tensor >= 0 && m->layers[0].down_bias.tensor >= 0);
    ht_model_close(&m);
}

Test(model, every_architecture_of_the_table, .init = make_folder, .fini = remove_folder)
{
    static const struct { const char *name; ht_rope_pairing pairing; bool gated; } all[] = {
        {"llama", HT_ROPE_INTERLEAVED, true}, {"mistral", HT_ROPE_INTERLEAVED, true}, {"qwen2", HT_ROPE_HALVES, true},
        {"qwen3", HT_ROPE_HALVES, true},      {"phi3", HT_ROPE_HALVES, true},
        {"starcoder2", HT_ROPE_HALVES, false}, {"gemma", HT_ROPE_HALVES, true},
        {"gemma2", HT_ROPE_HALVES, true},      {"gemma3", HT_ROPE_HALVES, true},
    };
    char names[200] = "", hf_names[200] = "";
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        ht_model *m = open_model((recipe){.arch = all[i].name});
        const ht_layer_refs *r = &m->layers[1];
        cr_expect_eq(m->shape.rope.pairing, all[i].pairing, "%s", all[i].name);
        cr_expect_eq(m->shape.gated, all[i].gated);
        cr_expect_eq(r->gate.tensor >= 0, all[i].gated);
        cr_expect(r->q.rows == HEADS * E && r->k.rows == KV * E && r->v.rows == KV * E && r->up.rows == F);
        if (strcmp(all[i].name, "phi3") == 0) {
            cr_expect(r->q.tensor == r->v.tensor && r->k.row == HEADS * E && r->v.row == (HEADS + KV) * E);
            cr_expect(r->gate.tensor == r->up.tensor && r->gate.row == 0 && r->up.row == F);
        }
        if (strcmp(all[i].name, "starcoder2") == 0)
            cr_expect(m->shape.norm == HT_NORM_LAYER && r->attn_norm_bias.tensor >= 0 && r->up_bias.tensor >= 0 &&
                      m->output_norm_bias.tensor >= 0 && m->shape.activation == HT_GELU_TANH);
        if (strcmp(all[i].name, "qwen3") == 0) cr_expect(r->k_norm.tensor >= 0 && r->k_norm.rows == E);
        if (strncmp(all[i].name, "gemma", 5) == 0) cr_expect_eq(m->shape.embd_scale, 8.0f);
        cr_expect_eq(r->attn_post_norm.tensor >= 0 && r->ffn_post_norm.tensor >= 0, m->shape.post_norms);
        if (strcmp(all[i].name, "gemma2") == 0)
            cr_expect(m->shape.attn_softcap == 50 && m->shape.logit_softcap == 30 && m->shape.window == 4096 &&
                      ht_layer_is_local(&m->shape, 0) && !ht_layer_is_local(&m->shape, 1));
        if (strcmp(all[i].name, "gemma3") == 0)
            cr_expect(m->shape.attn_softcap == 0 && m->shape.window == 1024 && m->shape.rope_local_base == 10000 &&
                      r->q_norm.tensor >= 0 && ht_layer_is_local(&m->shape, 4) && !ht_layer_is_local(&m->shape, 5));
        ht_model_close(&m);
        strcat(strcat(names, i ? ", " : ""), all[i].name);
        strcat(strcat(hf_names, i ? ", " : ""), ht_architecture_find(all[i].name, strlen(all[i].name))->hf_name);
    }
    cr_assert_str_eq(names, ht_architecture_names());
    cr_assert_str_eq(hf_names, ht_architecture_hf_names());
}

Test(model, rope_scaling, .init = make_folder, .fini = remove_folder)
{
    ht_model *m = open_model((recipe){.arch = "llama", .f32_key = "llama.rope.scaling.factor", .f32 = 4,
                                      .string_key = "llama.rope.scaling.type", .string = "yarn"});
    const ht_rope *r = &m->shape.rope;
    cr_assert(r->scaling == HT_ROPE_YARN && r->factor == 4.0f && r->original_context == 100 && r->ext_factor == 1.0f);
    cr_assert(r->beta_fast == 32.0f && r->beta_slow == 1.0f && r->attn_factor == 1.0f);
    ht_model_close(&m);
    /* what config.json calls attention_factor is all that cos and sin are multiplied by */
    m = open_model((recipe){.arch = "llama", .rope_factor = 4, .f32_key = "llama.rope.scaling.yarn_attn_factor", .f32 = 1.5f,
                            .string_key = "llama.rope.scaling.type", .string = "yarn"});
    double frequency[E / 2];
    cr_assert_float_eq(ht_rope_frequencies(&m->shape.rope, NULL, frequency), 1.5, 1e-6);
    ht_model_close(&m);
    m = open_model((recipe){.arch = "llama", .f32_key = "llama.rope.scaling.factor", .f32 = 2,
                            .string_key = "llama.rope.scaling.type", .string = "linear"});
    cr_assert(m->shape.rope.scaling == HT_ROPE_LINEAR && m->shape.rope.factor == 2.0f);
    ht_model_close(&m);
    m = open_model((recipe){.arch = "llama", .f32_key = "llama.rope.scale_linear", .f32 = 8});
    cr_assert(m->shape.rope.scaling == HT_ROPE_LINEAR && m->shape.rope.factor == 8.0f);
    ht_model_close(&m);
    m = open_model((recipe){.arch = "phi3", .longrope = true, .f32_key = "phi3.rope.scaling.attn_factor", .f32 = 1.19f,
                            .string_key = "phi3.rope.scaling.type", .string = "longrope"});
    cr_assert(m->shape.rope.attn_factor == 1.19f && m->shape.n_context == 1000);
    ht_model_fit_context(m, 100); /* the original context */
    cr_assert_str_eq(m->dir->tensors[m->shape.rope.freqs].name, "rope_factors_short.weight");
    ht_model_fit_context(m, 101);
    cr_assert_str_eq(m->dir->tensors[m->shape.rope.freqs].name, "rope_factors_long.weight");
    ht_model_close(&m);
}

Test(model, activation, .init = make_folder, .fini = remove_folder)
{
    ht_model *m = open_model((recipe){.arch = "llama", .string_key = "hearth.ffn.activation", .string = "relu"});
    cr_assert_eq(m->shape.activation, HT_RELU);
    ht_model_close(&m);
    refused((recipe){.arch = "llama", .string_key = "hearth.ffn.activation", .string = "swish"}, -ENOTSUP, "swish",
            "hearth.ffn.activation", "relu");
}

Test(model, refuses_wrong_tensors, .init = make_folder, .fini = remove_folder)
{
    static const char *const names[] = {
        "token_embd.weight", "output_norm.weight", "blk.1.attn_norm.weight", "blk.1.attn_q.weight", "blk.1.attn_k.weight",
        "blk.0.attn_v.weight", "blk.1.attn_output.weight", "blk.0.ffn_norm.weight", "blk.1.ffn_gate.weight",
        "blk.1.ffn_up.weight", "blk.1.ffn_down.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        refused((recipe){.arch = "llama", .skip = names[i]}, -EINVAL, names[i], "is missing", "expected with shape");
        refused((recipe){.arch = "llama", .misshape = names[i]}, -EINVAL, names[i], "has shape", "expected (");
    }
    refused((recipe){.arch = "llama", .misshape = "blk.1.attn_k.weight"}, -EINVAL, "(32, 96)", "(32, 64)", "");
    refused((recipe){.arch = "llama", .misshape = "output.weight"}, -EINVAL, "output.weight", "(40, 96)", "(40, 64)");
    refused((recipe){.arch = "llama", .extra = "blk.0.attn_q_norm.weight"}, -ENOTSUP, "blk.0.attn_q_norm.weight", "llama",
            "not part");
    refused((recipe){.arch = "phi3", .skip = "blk.0.attn_qkv.weight"}, -EINVAL, "attn_qkv", "(128, 64)", "missing");
    refused((recipe){.arch = "qwen2", .skip = "blk.0.attn_q.bias"}, -EINVAL, "attn_q.bias", "(64)", "missing");
    refused((recipe){.arch = "starcoder2", .skip = "output_norm.bias"}, -EINVAL, "output_norm.bias", "(64)", "missing");
    refused((recipe){.arch = "phi3", .longrope = true, .skip = "rope_factors_long.weight"}, -EINVAL, "rope_factors_long",
            "missing", "(8)");
}

Test(model, refuses_wrong_numbers, .init = make_folder, .fini = remove_folder)
{
    static const struct { const char *key; uint32_t v; int code; } bad[] = {
        {"llama.block_count", 0, -EINVAL},
        {"llama.block_count", 1001, -EINVAL},
        {"llama.block_count", UINT32_MAX, -EINVAL},
        {"llama.embedding_length", 0, -EINVAL},
        {"llama.embedding_length", 1u << 31, -EINVAL},
        {"llama.feed_forward_length", 1u << 30, -EINVAL},
        {"llama.context_length", 0, -EINVAL},
        {"llama.attention.head_count", 0, -EINVAL},
        {"llama.attention.head_count_kv", 3, -EINVAL},
        {"llama.attention.head_count_kv", 0, -EINVAL},
        {"llama.attention.key_length", 15, -ENOTSUP},
        {"llama.attention.value_length", 32, -ENOTSUP},
        {"llama.rope.dimension_count", 7, -EINVAL},
        {"llama.rope.dimension_count", 18, -EINVAL},
        {"llama.expert_count", 8, -ENOTSUP},
        {"llama.rope.freq_base", 10000, -EINVAL}, /* not a float */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused((recipe){.arch = "llama", .u32_key = bad[i].key, .u32 = bad[i].v}, bad[i].code,
                strstr(bad[i].key, "_length") && bad[i].code == -ENOTSUP ? "heads of" : strrchr(bad[i].key, '.') + 1, "", "");
    refused((recipe){.arch = "llama", .skip = "llama.context_length"}, -EINVAL, "llama.context_length", "missing", "");
    static const float floats[] = {NAN, INFINITY, -1.0f, 0.0f};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        refused((recipe){.arch = "llama", .f32_key = "llama.rope.freq_base", .f32 = floats[i]}, -EINVAL,
                "llama.rope.freq_base", "", "");
    refused((recipe){.arch = "llama", .f32_key = "llama.attention.layer_norm_rms_epsilon", .f32 = NAN}, -EINVAL, "epsilon",
            "nan", "");
    refused((recipe){.arch = "llama", .f32_key = "llama.logit_scale", .f32 = 0.5f}, -ENOTSUP, "llama.logit_scale", "0.5", "");
    refused((recipe){.arch = "llama", .f32_key = "llama.rope.scaling.yarn_log_multiplier", .f32 = 0.1f}, -ENOTSUP,
            "llama.rope.scaling.yarn_log_multiplier", "0.1", "");
    refused((recipe){.arch = "llama", .string_key = "llama.rope.scaling.type", .string = "longrope"}, -EINVAL,
            "rope_factors_short.weight is missing", "", "");
    refused((recipe){.arch = "llama", .string_key = "llama.rope.scaling.type", .string = "ntk"}, -ENOTSUP, "ntk",
            "rope.scaling.type", "");
}

Test(model, refuses_unknown_architectures, .init = make_folder, .fini = remove_folder)
{
    ht_gguf_writer *w;
    ht_model *m;
    cr_assert_eq(ht_gguf_writer_open(&w, path, 0, &err), 0);
    ht_gguf_put_string(w, "general.architecture", "mamba");
    cr_assert_eq(ht_gguf_writer_begin(w, &err), 0);
    cr_assert_eq(ht_gguf_writer_finish(w, &err), 0);
    ht_gguf_writer_close(&w);
    cr_assert_eq(ht_model_open(&m, path, &err), -ENOTSUP);
    cr_assert(strstr(err.text, "\"mamba\"") && strstr(err.text, "qwen3") && strstr(err.text, path), "%s", err.text);
    cr_assert_eq(ht_model_open(&m, "/nonexistent", &err), -ENOENT);
}

Test(model, survives_failing_allocations, .init = make_folder, .fini = remove_folder)
{
    recipe r = {.arch = "llama"};
    write_model(&r);
    uint64_t live = ht_memory_get_stats().live;
    int64_t n = 0;
    for (;; n++) {
        ht_model *m;
        ht_memory_fail_after(n);
        int rc = ht_model_open(&m, path, &err);
        ht_memory_fail_after(-1);
        if (rc == 0) {
            ht_model_close(&m);
            break;
        }
        cr_assert_eq(rc, -ENOMEM, "%s", err.text);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
    cr_assert_gt(n, 20);
}
