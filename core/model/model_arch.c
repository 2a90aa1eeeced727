/* The table of architectures, and the hyperparameters from the metadata. Every value is checked to be sane, so that
 * nothing computed from them overflows; what would change the result and is not implemented is refused. */
#include "core/model/model_arch.h"

#include "core/model/rope.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define I HT_ROPE_INTERLEAVED
#define H HT_ROPE_HALVES
static const ht_architecture table[] = {
    {.name = "llama", .hf_name = "llama", .pairing = I, .activation = HT_SILU, .gated = true, .qkv_bias = HT_OPTIONAL,
     .o_bias = HT_OPTIONAL, .ffn_bias = HT_OPTIONAL},
    {.name = "mistral", .hf_name = "mistral", .pairing = I, .activation = HT_SILU, .gated = true},
    {.name = "qwen2", .hf_name = "qwen2", .pairing = H, .activation = HT_SILU, .gated = true, .qkv_bias = HT_REQUIRED},
    {.name = "qwen3", .hf_name = "qwen3", .pairing = H, .activation = HT_SILU, .gated = true, .qk_norm = HT_REQUIRED,
     .head_dim = 128},
    {.name = "phi3", .hf_name = "phi3", .pairing = H, .activation = HT_SILU, .gated = true, .fused_qkv = true,
     .fused_gate_up = true, .partial_rope = true, .eps = 1e-5f},
    {.name = "starcoder2", .hf_name = "starcoder2", .pairing = H, .norm = HT_NORM_LAYER, .activation = HT_GELU_TANH,
     .qkv_bias = HT_REQUIRED, .o_bias = HT_REQUIRED, .ffn_bias = HT_REQUIRED, .tied = true, .eps = 1e-5f},
    {.name = "gemma", .hf_name = "gemma", .pairing = H, .activation = HT_GELU_TANH, .gated = true,
     .scaled_embedding = true, .tied = true, .head_dim = 256},
    {.name = "gemma2", .hf_name = "gemma2", .pairing = H, .activation = HT_GELU_TANH, .gated = true,
     .scaled_embedding = true, .post_norms = true, .window_period = 2, .tied = true, .head_dim = 256},
    {.name = "gemma3", .hf_name = "gemma3_text", .pairing = H, .activation = HT_GELU_TANH, .gated = true,
     .scaled_embedding = true, .post_norms = true, .window_period = 6, .qk_norm = HT_REQUIRED, .tied = true,
     .head_dim = 256},
};
#undef I
#undef H

const ht_architecture *ht_architecture_find(const char *name, uint64_t len)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0) return &table[i];
    return NULL;
}

const ht_architecture *ht_architecture_find_hf(const char *name)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].hf_name, name) == 0) return &table[i];
    return NULL;
}

const char *ht_architecture_names(void)
{
    return "llama, mistral, qwen2, qwen3, phi3, starcoder2, gemma, gemma2, gemma3"; /* a test compares it with the table */
}

const char *ht_architecture_hf_names(void)
{
    return "llama, mistral, qwen2, qwen3, phi3, starcoder2, gemma, gemma2, gemma3_text";
}

/* ---- keys ---- */

typedef struct reader {
    const ht_architecture *arch;
    const ht_gguf *g;
    ht_error *err;
    int rc; /* the first failure; later reads do nothing */
    char key[128];
} reader;

/* "<architecture>.<name>" */
static const char *key_of(reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch->name, name);
    return r->key;
}

/* An integer in [low, high]. `otherwise` is taken when it is absent; below zero: it is required. */
static int32_t get_int(reader *r, const char *name, int64_t otherwise, int64_t low, int64_t high)
{
    int64_t v = otherwise;
    if (r->rc < 0) return 0;
    int found = ht_gguf_get_i64(r->g, key_of(r, name), &v, r->err);
    if (found < 0) r->rc = found;
    else if (!found && otherwise < 0) r->rc = ht_fail(r->err, -EINVAL, "%s is missing", r->key);
    else if (v < low || v > high)
        r->rc = ht_fail(r->err, -EINVAL, "%s is %" PRId64 ", should be %" PRId64 " to %" PRId64, r->key, v, low, high);
    return r->rc < 0 ? 0 : (int32_t)v;
}

/* A finite float in [low, high]. */
static float get_float(reader *r, const char *name, float otherwise, float low, float high)
{
    float v = otherwise;
    if (r->rc < 0) return 0.0f;
    int found = ht_gguf_get_f32(r->g, key_of(r, name), &v, r->err);
    if (found < 0) r->rc = found;
    else if (!(v >= low && v <= high))
        r->rc = ht_fail(r->err, -EINVAL, "%s is %g, should be %g to %g", r->key, (double)v, (double)low, (double)high);
    return v;
}

/* ---- parts ---- */

/* Keys of other members of an architecture's family: a value other than the neutral one changes the result. */
static void refuse_unsupported(reader *r)
{
    static const struct { const char *name; double neutral; } keys[] = {
        {"expert_count", 0},       {"logit_scale", 1},           {"residual_scale", 1},
        {"embedding_scale", 1},
        {"attention.causal", 1},   {"use_parallel_residual", 0}, {"attention.max_alibi_bias", 0},
        {"attention.clamp_kqv", 0}, {"attention.temperature_scale", 0}, {"rope.scaling.yarn_log_multiplier", 0},
    };
    for (size_t i = 0; r->rc >= 0 && i < sizeof keys / sizeof *keys; i++) {
        const ht_gguf_value *v = ht_gguf_find(r->g, key_of(r, keys[i].name));
        if (!v) continue;
        double found = v->kind == HT_GGUF_BOOL                               ? v->as.b
                       : v->kind == HT_GGUF_F32 || v->kind == HT_GGUF_F64    ? v->as.f
                       : v->kind == HT_GGUF_STRING || v->kind == HT_GGUF_ARRAY ? (double)NAN
                                                                             : (double)v->as.u;
        if (found != keys[i].neutral) r->rc = ht_fail(r->err, -ENOTSUP, "%s = %g is not supported", r->key, found);
    }
}

static bool text_is(ht_gguf_string s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static void read_activation(reader *r, ht_shape *s)
{
    static const struct { const char *name; ht_activation activation; } names[] = {
        {"silu", HT_SILU}, {"relu", HT_RELU}, {"gelu", HT_GELU}, {"gelu_tanh", HT_GELU_TANH},
    };
    ht_gguf_string name;
    s->activation = r->arch->activation;
    if (r->rc < 0) return;
    int found = ht_gguf_get_string(r->g, "hearth.ffn.activation", &name, r->err);
    if (found < 0) r->rc = found;
    if (found <= 0) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!text_is(name, names[i].name)) continue;
        s->activation = names[i].activation;
        return;
    }
    r->rc = ht_fail(r->err, -ENOTSUP, "hearth.ffn.activation is \"%.*s\", should be silu, relu, gelu or gelu_tanh",
                    (int)(name.len < 100 ? name.len : 100), name.data);
}

static void read_rope(reader *r, ht_shape *s)
{
    ht_rope *rope = &s->rope;
    rope->pairing = r->arch->pairing;
    rope->freqs = -1;
    rope->dims = get_int(r, "rope.dimension_count", s->head_dim, 2, s->head_dim > 2 ? s->head_dim : 2);
    rope->base = get_float(r, "rope.freq_base", 10000.0f, 1.0f, 1e12f);
    rope->factor = get_float(r, "rope.scaling.factor", get_float(r, "rope.scale_linear", 1.0f, 0.0f, 1e6f), 0.0f, 1e6f);
    rope->original_context = get_int(r, "rope.scaling.original_context_length", s->n_context, 1, 1 << 30);
    rope->attn_factor = get_float(r, "rope.scaling.attn_factor", 1.0f, 1e-6f, 1e6f);
    rope->beta_fast = get_float(r, "rope.scaling.yarn_beta_fast", 32.0f, 1e-6f, 1e6f);
    rope->beta_slow = get_float(r, "rope.scaling.yarn_beta_slow", 1.0f, 1e-6f, 1e6f);
    rope->ext_factor = get_float(r, "rope.scaling.yarn_ext_factor", 1.0f, 0.0f, 1.0f);
    if (rope->factor == 0.0f) rope->factor = 1.0f; /* written by some tools for "none" */
    if (r->rc >= 0 && rope->dims % 2)
        r->rc = ht_fail(r->err, -EINVAL, "%s.rope.dimension_count is %d, should be even", r->arch->name, rope->dims);

    ht_gguf_string type = {0};
    if (r->rc < 0) return;
    int found = ht_gguf_get_string(r->g, key_of(r, "rope.scaling.type"), &type, r->err);
    if (found < 0) r->rc = found;
    rope->scaling = rope->factor == 1.0f ? HT_ROPE_NONE : HT_ROPE_LINEAR; /* older files have no type */
    if (found <= 0) return;
    if (text_is(type, "yarn")) {
        /* converters write config.json's attention_factor: it stands in the place of what YaRN would multiply by */
        float own = rope->ext_factor != 0.0f ? (float)ht_yarn_magnitude(rope->factor) : 1.0f;
        rope->scaling = HT_ROPE_YARN;
        rope->attn_factor *= get_float(r, "rope.scaling.yarn_attn_factor", own, 1e-6f, 1e6f) / own;
    } else if (text_is(type, "linear")) {
        rope->scaling = HT_ROPE_LINEAR;
    } else if (text_is(type, "none") || text_is(type, "longrope")) {
        rope->scaling = HT_ROPE_NONE;
        rope->factor = 1.0f;
        rope->longrope = text_is(type, "longrope");
    } else {
        r->rc = ht_fail(r->err, -ENOTSUP, "%s is \"%.*s\", should be none, linear, yarn or longrope", r->key,
                        (int)(type.len < 100 ? type.len : 100), type.data);
    }
}

static void read_heads(reader *r, ht_shape *s)
{
    s->n_heads = get_int(r, "attention.head_count", -1, 1, 4096);
    s->n_kv_heads = get_int(r, "attention.head_count_kv", s->n_heads, 1, 4096);
    if (r->rc < 0) return;
    const char *arch = r->arch->name;
    if (s->n_heads % s->n_kv_heads != 0) {
        r->rc = ht_fail(r->err, -EINVAL, "%s.attention.head_count %d is not a multiple of head_count_kv %d", arch,
                        s->n_heads, s->n_kv_heads);
        return;
    }
    bool told = ht_gguf_find(r->g, key_of(r, "attention.key_length")) != NULL;
    if (!told && s->n_embd % s->n_heads != 0) {
        r->rc = ht_fail(r->err, -EINVAL, "%s.embedding_length %d is not a multiple of attention.head_count %d", arch,
                        s->n_embd, s->n_heads);
        return;
    }
    s->head_dim = get_int(r, "attention.key_length", s->n_embd / s->n_heads, 1, 4096);
    int32_t value_length = get_int(r, "attention.value_length", s->head_dim, 1, 4096);
    if (r->rc < 0) return;
    if (s->head_dim % 2 || value_length != s->head_dim)
        r->rc = ht_fail(r->err, -ENOTSUP, "%s: heads of %d (keys) and %d (values) elements; supported: equal and even",
                        arch, s->head_dim, value_length);
}

/* The scores, and what gemma-2 and gemma-3 have beside. Their scale of attention is not in their files but follows from
 * the size: the 27B models divide by width / heads, which is not their head's length. */
static void read_scores(reader *r, ht_shape *s)
{
    bool second = strcmp(r->arch->name, "gemma2") == 0;
    s->attn_scale = get_float(r, "attention.scale", 0.0f, 0.0f, 1e6f);
    s->attn_softcap = get_float(r, "attn_logit_softcapping", second ? 50.0f : 0.0f, 0.0f, 1e6f);
    s->logit_softcap = get_float(r, "final_logit_softcapping", second ? 30.0f : 0.0f, 0.0f, 1e6f);
    if (!s->post_norms || r->rc < 0) return;
    s->window = get_int(r, "attention.sliding_window", second ? 4096 : 1024, 0, 1 << 30);
    s->window_period = get_int(r, "attention.sliding_window_pattern", r->arch->window_period, 0, 1 << 20);
    if (!second) s->rope_local_base = get_float(r, "rope.freq_base_swa", 10000.0f, 1.0f, 1e12f);
    if (s->attn_scale == 0.0f && s->n_layers == (second ? 46 : 62))
        s->attn_scale = 1.0f / sqrtf((float)s->n_embd / (float)s->n_heads);
}

int ht_shape_read(ht_shape *out, const ht_architecture *arch, const ht_gguf *g, ht_error *err)
{
    reader r = {.arch = arch, .g = g, .err = err};
    ht_shape s = {.n_experts = 1, .norm = arch->norm, .gated = arch->gated, .post_norms = arch->post_norms};
    refuse_unsupported(&r);
    s.n_layers = get_int(&r, "block_count", -1, 1, 1000);
    s.n_embd = get_int(&r, "embedding_length", -1, 1, 1 << 20);
    s.n_ff = get_int(&r, "feed_forward_length", -1, 1, 1 << 24);
    s.n_context = get_int(&r, "context_length", -1, 1, 1 << 30);
    s.window = get_int(&r, "attention.sliding_window", 0, 0, 1 << 30);
    s.norm_eps = get_float(&r, arch->norm == HT_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                         : "attention.layer_norm_epsilon", 1e-5f, 0.0f, 1.0f);
    s.embd_scale = arch->scaled_embedding ? sqrtf((float)s.n_embd) : 1.0f;
    read_heads(&r, &s);
    read_activation(&r, &s);
    read_rope(&r, &s);
    read_scores(&r, &s);
    *out = s;
    return r.rc;
}
