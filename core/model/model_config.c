/* A Hugging Face folder's config.json: the hyperparameters, and how its tensors are called. What the file leaves out is
 * filled in as the transformers package does; what would change the result and is not implemented is refused by name.
 *
 * Both spellings of RoPE are read: rope_theta beside rope_scaling, and (since 2025) rope_parameters, which gemma-3 has
 * once for each kind of layer. */
#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/model/json.h"
#include "core/model/model_arch.h"
#include "core/model/rope.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_CONFIG (1u << 20)
#define MAX_VALUES (1u << 16)
#define TWO_PI 6.283185307179586

typedef struct reader {
    const cJSON *root;
    const char *name;  /* of the file, for texts */
    const ht_architecture *arch;
    ht_shape *shape;
    ht_config *out;
    ht_error *err;
    int rc;            /* the first failure; later reads do nothing */
} reader;

/* An item that is there and not null. */
static const cJSON *item_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static double get_number(reader *r, const cJSON *object, const char *key, double otherwise, double low, double high)
{
    const cJSON *item = item_of(object, key);
    if (r->rc < 0) return low;
    if (!item && !isnan(otherwise)) return otherwise;
    if (!item) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is missing", r->name, key);
    else if (!cJSON_IsNumber(item)) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is no number", r->name, key);
    else if (!(item->valuedouble >= low && item->valuedouble <= high))
        r->rc = ht_fail(r->err, -EINVAL, "%s: %s is %g, should be %g to %g", r->name, key, item->valuedouble, low, high);
    return r->rc < 0 ? low : item->valuedouble;
}

static float get_float(reader *r, const cJSON *object, const char *key, double otherwise, double low, double high)
{
    return (float)get_number(r, object, key, otherwise, low, high);
}

/* An integer of the root object; `otherwise` below zero: required. */
static int32_t get_int(reader *r, const char *key, int32_t otherwise, int32_t low, int32_t high)
{
    double v = get_number(r, r->root, key, otherwise < 0 ? (double)NAN : otherwise, low, high);
    if (r->rc >= 0 && v != floor(v)) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is %g, should be whole", r->name, key, v);
    return r->rc < 0 ? low : (int32_t)v;
}

static bool get_bool(reader *r, const char *key, bool otherwise)
{
    const cJSON *item = item_of(r->root, key);
    if (r->rc < 0 || !item) return otherwise;
    if (!cJSON_IsBool(item)) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is neither true nor false", r->name, key);
    return cJSON_IsTrue(item);
}

/* An object, or NULL when it is absent. */
static const cJSON *get_object(reader *r, const cJSON *object, const char *key)
{
    const cJSON *item = item_of(object, key);
    if (r->rc >= 0 && item && !cJSON_IsObject(item)) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is no object", r->name, key);
    return item;
}

static void refuse(reader *r, const char *what)
{
    if (r->rc >= 0) r->rc = ht_fail(r->err, -ENOTSUP, "%s: %s is not supported", r->name, what);
}

/* ---- parts ---- */

static void read_activation(reader *r)
{
    static const struct { const char *name; ht_activation activation; } names[] = {
        {"silu", HT_SILU}, {"swish", HT_SILU}, {"relu", HT_RELU}, {"gelu", HT_GELU}, {"gelu_new", HT_GELU_TANH},
        {"gelu_pytorch_tanh", HT_GELU_TANH},
    };
    /* Gemma has a name of its own for it; what stands under the other was a mistake and is not followed. */
    const char *key = r->arch->scaled_embedding ? "hidden_activation" : "hidden_act";
    const cJSON *item = item_of(r->root, key);
    r->shape->activation = r->arch->activation;
    if (r->rc < 0 || !item) return;
    for (size_t i = 0; cJSON_IsString(item) && i < sizeof names / sizeof *names; i++) {
        if (strcmp(item->valuestring, names[i].name) != 0) continue;
        r->shape->activation = names[i].activation;
        return;
    }
    r->rc = ht_fail(r->err, -ENOTSUP, "%s: %s \"%.60s\" is not supported", r->name, key,
                    cJSON_IsString(item) ? item->valuestring : "?");
}

static void read_heads(reader *r)
{
    ht_shape *s = r->shape;
    s->n_heads = get_int(r, "num_attention_heads", -1, 1, 4096);
    s->n_kv_heads = get_int(r, "num_key_value_heads", s->n_heads, 1, 4096);
    int32_t told = get_int(r, "head_dim", 0, 1, 4096);
    if (r->rc < 0) return;
    if (s->n_heads % s->n_kv_heads != 0)
        r->rc = ht_fail(r->err, -EINVAL, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", r->name,
                        s->n_heads, s->n_kv_heads);
    else if (!told && !r->arch->head_dim && s->n_embd % s->n_heads != 0)
        r->rc = ht_fail(r->err, -EINVAL, "%s: hidden_size %d is not a multiple of num_attention_heads %d", r->name,
                        s->n_embd, s->n_heads);
    s->head_dim = told ? told : r->arch->head_dim ? r->arch->head_dim : s->n_embd / s->n_heads;
    if (r->rc >= 0 && s->head_dim % 2)
        r->rc = ht_fail(r->err, -ENOTSUP, "%s: heads of %d elements; supported are even numbers", r->name, s->head_dim);
}

/* layer_types says of each layer whether it has the window; known are all, none, and all but every so manieth. */
static void read_layer_types(reader *r)
{
    ht_shape *s = r->shape;
    const cJSON *list = item_of(r->root, "layer_types"), *item;
    int32_t n = 0, local = 0, first_full = -1;
    if (r->rc < 0 || !list) return;
    if (!cJSON_IsArray(list)) {
        r->rc = ht_fail(r->err, -EINVAL, "%s: layer_types is no list", r->name);
        return;
    }
    cJSON_ArrayForEach(item, list)
    {
        bool sliding = cJSON_IsString(item) && strcmp(item->valuestring, "sliding_attention") == 0;
        if (!sliding && !(cJSON_IsString(item) && strcmp(item->valuestring, "full_attention") == 0)) {
            r->rc = ht_fail(r->err, -ENOTSUP, "%s: layer_types[%d] \"%.60s\" is not supported", r->name, n,
                            cJSON_IsString(item) ? item->valuestring : "?");
            return;
        }
        if (!sliding && first_full < 0) first_full = n;
        local += sliding;
        n++;
    }
    if (n != s->n_layers) {
        r->rc = ht_fail(r->err, -EINVAL, "%s: layer_types has %d items for %d layers", r->name, n, s->n_layers);
        return;
    }
    if (local == 0) s->window = 0;
    s->window_period = first_full < 0 ? 0 : first_full + 1;
    n = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (ht_layer_is_local(s, n++) != (strcmp(item->valuestring, "sliding_attention") == 0 && s->window > 0))
            return refuse(r, "this order of layers with and without a sliding window");
    }
}

static void read_window(reader *r)
{
    ht_shape *s = r->shape;
    const char *name = r->arch->name;
    bool qwen = strncmp(name, "qwen", 4) == 0, second = strcmp(name, "gemma2") == 0, third = strcmp(name, "gemma3") == 0;
    if (strcmp(name, "llama") == 0 || strcmp(name, "gemma") == 0) return;
    if (qwen && !get_bool(r, "use_sliding_window", false)) return;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->root, "sliding_window");
    if (cJSON_IsNull(item)) return; /* null is "none"; absent is the default */
    s->window = get_int(r, "sliding_window", second || third || qwen || strcmp(name, "mistral") == 0 ? 4096 : 0, 0, 1 << 30);
    s->window_period = r->arch->window_period;
    if (third) {
        s->window_period = get_int(r, "_sliding_window_pattern", s->window_period, 0, 1 << 20);
        s->window_period = get_int(r, "sliding_window_pattern", s->window_period, 0, 1 << 20);
    }
    if (qwen && !item_of(r->root, "layer_types")) {
        int32_t from = get_int(r, "max_window_layers", 28, 0, 1 << 20);
        if (from >= s->n_layers) s->window = 0;
        else if (from > 0) refuse(r, "a sliding window in the layers from max_window_layers on");
    }
    read_layer_types(r);
}

static void read_scores(reader *r)
{
    ht_shape *s = r->shape;
    if (!s->post_norms) return;
    bool second = strcmp(r->arch->name, "gemma2") == 0;
    const char *keys[2] = {"attn_logit_softcapping", "final_logit_softcapping"};
    float *out[2] = {&s->attn_softcap, &s->logit_softcap};
    for (int i = 0; i < 2; i++) {
        if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(r->root, keys[i]))) continue;
        *out[i] = get_float(r, r->root, keys[i], !second ? 0 : i ? 30 : 50, 0, 1e6);
    }
    if (!second && s->attn_softcap > 0) refuse(r, keys[0]); /* transformers reads it and does not apply it */
    s->attn_scale = (float)(1 / sqrt(get_number(r, r->root, "query_pre_attn_scalar", 256, 1e-6, 1e6)));
    if (get_bool(r, "use_bidirectional_attention", false)) refuse(r, "use_bidirectional_attention");
}

/* ---- RoPE ---- */

static float *new_divisors(reader *r, int which)
{
    float *v = ht_alloc((size_t)r->shape->rope.dims / 2, sizeof *v);
    if (!v) r->rc = ht_fail(r->err, -ENOMEM, "%s: out of memory", r->name);
    r->out->divisors[which] = v;
    return v;
}

/* Llama 3.1: long waves are slowed by the factor, short ones not, with a ramp between over the number of turns that a
 * wave makes in the original context. */
static void llama3_divisors(reader *r, const cJSON *p)
{
    const ht_rope *rope = &r->shape->rope;
    double factor = get_number(r, p, "factor", NAN, 1, 1e6), low = get_number(r, p, "low_freq_factor", NAN, 1e-6, 1e6),
           high = get_number(r, p, "high_freq_factor", NAN, 1e-6, 1e6);
    if (r->rc >= 0 && high <= low)
        r->rc = ht_fail(r->err, -EINVAL, "%s: high_freq_factor %g is not above low_freq_factor %g", r->name, high, low);
    float *v = r->rc < 0 ? NULL : new_divisors(r, 0);
    for (int32_t i = 0; v && i < rope->dims / 2; i++) {
        double turns = rope->original_context * pow(rope->base, -2.0 * i / rope->dims) / TWO_PI;
        double kept = fmin(1, fmax(0, (turns - low) / (high - low)));
        v[i] = (float)(1 / ((1 - kept) / factor + kept));
    }
}

static void read_factors(reader *r, const cJSON *p, const char *key, int which)
{
    const cJSON *list = item_of(p, key), *item;
    int32_t n = 0, pairs = r->shape->rope.dims / 2;
    if (r->rc >= 0 && !cJSON_IsArray(list)) r->rc = ht_fail(r->err, -EINVAL, "%s: %s is missing or no list", r->name, key);
    if (r->rc >= 0 && cJSON_GetArraySize(list) != pairs)
        r->rc = ht_fail(r->err, -EINVAL, "%s: %s has %d items, should be %d", r->name, key, cJSON_GetArraySize(list), pairs);
    float *v = r->rc < 0 ? NULL : new_divisors(r, which);
    if (!v) return;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0) || item->valuedouble > 1e9) {
            r->rc = ht_fail(r->err, -EINVAL, "%s: %s[%d] is no positive number", r->name, key, n);
            return;
        }
        v[n++] = (float)item->valuedouble;
    }
}

/* One set of divisors up to the original context and another beyond it; cos and sin grow with the extension. */
static void read_longrope(reader *r, const cJSON *p)
{
    ht_rope *rope = &r->shape->rope;
    double factor = (double)r->shape->n_context / rope->original_context;
    if (rope->original_context == r->shape->n_context) factor = get_number(r, p, "factor", 1, 1e-6, 1e6);
    double grown = factor > 1 && rope->original_context > 1 ? sqrt(1 + log(factor) / log(rope->original_context)) : 1;
    rope->attn_factor = get_float(r, p, "attention_factor", grown, 1e-6, 1e6);
    read_factors(r, p, "short_factor", 0);
    read_factors(r, p, "long_factor", 1);
}

static void read_scaling(reader *r, const cJSON *p)
{
    ht_rope *rope = &r->shape->rope;
    const cJSON *named = item_of(p, "rope_type") ? item_of(p, "rope_type") : item_of(p, "type");
    const char *type = !named ? "default" : cJSON_IsString(named) ? named->valuestring : "?";
    rope->original_context = get_int(r, "original_max_position_embeddings", r->shape->n_context, 1, 1 << 30);
    rope->original_context = (int32_t)get_number(r, p, "original_max_position_embeddings", rope->original_context, 1, 1 << 30);
    if (r->rc < 0 || strcmp(type, "default") == 0) return;
    if (strcmp(type, "linear") == 0) {
        rope->scaling = HT_ROPE_LINEAR;
        rope->factor = get_float(r, p, "factor", NAN, 1e-6, 1e6);
    } else if (strcmp(type, "yarn") == 0) {
        if (item_of(p, "mscale") || item_of(p, "mscale_all_dim")) refuse(r, "mscale in rope_scaling");
        if (cJSON_IsFalse(item_of(p, "truncate"))) refuse(r, "truncate = false in rope_scaling");
        rope->scaling = HT_ROPE_YARN;
        rope->factor = get_float(r, p, "factor", NAN, 1, 1e6);
        rope->beta_fast = get_float(r, p, "beta_fast", 32, 1e-6, 1e6);
        rope->beta_slow = get_float(r, p, "beta_slow", 1, 1e-6, 1e6);
        double own = ht_yarn_magnitude(rope->factor);
        rope->attn_factor = (float)(get_number(r, p, "attention_factor", own, 1e-6, 1e6) / own);
    } else if (strcmp(type, "llama3") == 0) {
        llama3_divisors(r, p);
    } else if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        read_longrope(r, p);
    } else {
        r->rc = ht_fail(r->err, -ENOTSUP, "%s: rope_type \"%.40s\" is not supported; default, linear, yarn, llama3 and "
                        "longrope are", r->name, type);
    }
}

static void read_rope(reader *r)
{
    ht_shape *s = r->shape;
    const cJSON *p = get_object(r, r->root, "rope_parameters"), *local = get_object(r, p, "sliding_attention");
    bool third = strcmp(r->arch->name, "gemma3") == 0;
    double base = third ? 1e6 : 10000;
    if (!p) p = get_object(r, r->root, "rope_scaling");
    if (item_of(p, "full_attention")) p = get_object(r, p, "full_attention");
    s->rope = (ht_rope){.pairing = HT_ROPE_HALVES, .factor = 1, .attn_factor = 1, .beta_fast = 32, .beta_slow = 1,
                        .ext_factor = 1, .freqs = -1};
    double part = get_number(r, r->root, "partial_rotary_factor", 1, 1e-6, 1);
    part = get_number(r, p, "partial_rotary_factor", part, 1e-6, 1);
    if (part != 1 && !r->arch->partial_rope) refuse(r, "partial_rotary_factor"); /* transformers pays it no heed there */
    s->rope.dims = (int32_t)(s->head_dim * part);
    s->rope.base = get_float(r, p, "rope_theta", get_number(r, r->root, "rope_theta", base, 1, 1e12), 1, 1e12);
    if (third)
        s->rope_local_base = get_float(r, local, "rope_theta",
                                       get_number(r, r->root, "rope_local_base_freq", 10000, 1, 1e12), 1, 1e12);
    if (r->rc >= 0 && (s->rope.dims < 2 || s->rope.dims % 2))
        r->rc = ht_fail(r->err, -EINVAL, "%s: RoPE over %d elements of heads of %d", r->name, s->rope.dims, s->head_dim);
    if (r->rc >= 0) read_scaling(r, p);
}

/* ---- the file ---- */

static void read_all(reader *r)
{
    ht_shape *s = r->shape;
    const ht_architecture *a = r->arch;
    *s = (ht_shape){.n_experts = 1, .norm = a->norm, .gated = a->gated, .post_norms = a->post_norms};
    if (item_of(r->root, "quantization_config")) refuse(r, "quantization_config");
    s->n_layers = get_int(r, "num_hidden_layers", -1, 1, 1000);
    s->n_embd = get_int(r, "hidden_size", -1, 1, 1 << 20);
    s->n_vocab = get_int(r, "vocab_size", 0, 1, 1 << 24);
    s->n_ff = get_int(r, "intermediate_size", -1, 1, 1 << 24);
    s->n_context = get_int(r, "max_position_embeddings", -1, 1, 1 << 30);
    s->norm_eps = get_float(r, r->root, a->norm == HT_NORM_LAYER ? "norm_epsilon" : "rms_norm_eps",
                            a->eps > 0 ? a->eps : 1e-6, 0, 1);
    s->embd_scale = a->scaled_embedding ? sqrtf((float)s->n_embd) : 1.0f;
    r->out->tied = get_bool(r, "tie_word_embeddings", a->tied);
    read_activation(r);
    if (r->rc >= 0) read_heads(r);
    if (r->rc >= 0) read_window(r);
    if (r->rc >= 0) read_scores(r);
    if (r->rc >= 0) read_rope(r);
}

int ht_config_parse(ht_config *out, const char *text, size_t size, const char *name, ht_error *err)
{
    *out = (ht_config){0};
    cJSON *root = ht_json_parse(text, size, MAX_VALUES);
    const cJSON *type = item_of(root, "model_type");
    reader r = {.root = root, .name = name, .shape = &out->shape, .out = out, .err = err};
    if (!cJSON_IsObject(root)) {
        r.rc = ht_fail(err, -EINVAL, "%s is not sound JSON", name);
    } else if (!cJSON_IsString(type)) {
        r.rc = ht_fail(err, -EINVAL, "%s: model_type is missing", name);
    } else if (!(r.arch = out->arch = ht_architecture_find_hf(type->valuestring))) {
        r.rc = ht_fail(err, -ENOTSUP, "%s: the architecture \"%.64s\" is not supported; supported are: %s", name,
                       type->valuestring, ht_architecture_hf_names());
    } else {
        read_all(&r);
    }
    cJSON_Delete(root);
    if (r.rc < 0) ht_config_close(out);
    return r.rc;
}

int ht_config_read(ht_config *out, const char *folder, ht_error *err)
{
    char path[4096];
    char *text;
    size_t size;
    *out = (ht_config){0};
    if (snprintf(path, sizeof path, "%s/config.json", folder) >= (int)sizeof path)
        return ht_fail(err, -ENAMETOOLONG, "%s: the path is too long", folder);
    int rc = ht_file_slurp(path, MAX_CONFIG, &text, &size, err);
    if (rc < 0) return rc;
    rc = ht_config_parse(out, text, size, "config.json", err);
    ht_free(text);
    return rc;
}

void ht_config_close(ht_config *c)
{
    ht_free(c->divisors[0]);
    ht_free(c->divisors[1]);
    *c = (ht_config){0};
}

/* ---- names ---- */

void ht_hf_tensor_name(const ht_architecture *arch, const char *name, char *out, size_t room)
{
    static const struct { const char *gguf, *hf; } layer[] = {
        {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"}, {"attn_qkv", "self_attn.qkv_proj"}, {"attn_output", "self_attn.o_proj"},
        {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
        {"post_attention_norm", "post_attention_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},
    }, whole[] = {{"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
    int block, at = 0;
    bool in_layer = sscanf(name, "blk.%d.%n", &block, &at) == 1 && at > 0;
    const char *what = in_layer ? name + at : name, *dot = strrchr(what, '.');
    size_t n = dot ? (size_t)(dot - what) : strlen(what);
    const char *found = NULL;
    for (size_t i = 0; i < (in_layer ? sizeof layer / sizeof *layer : 3); i++) {
        const char *key = in_layer ? layer[i].gguf : whole[i].gguf;
        if (strlen(key) == n && memcmp(key, what, n) == 0) found = in_layer ? layer[i].hf : whole[i].hf;
    }
    if (!found && n == 8 && memcmp(what, "ffn_norm", 8) == 0)
        found = arch->post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    if (!found && n == 6 && memcmp(what, "ffn_up", 6) == 0)
        found = arch->fused_gate_up ? "mlp.gate_up_proj" : arch->gated ? "mlp.up_proj" : "mlp.c_fc";
    if (!found && n == 8 && memcmp(what, "ffn_down", 8) == 0) found = arch->gated ? "mlp.down_proj" : "mlp.c_proj";
    if (!found) snprintf(out, room, "%s", name); /* has no counterpart: such a tensor is optional */
    else if (in_layer) snprintf(out, room, "model.layers.%d.%s%s", block, found, dot ? dot : "");
    else snprintf(out, room, "%s%s", found, dot ? dot : "");
}
