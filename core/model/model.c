/* Opening a model: metadata to shape (model_arch.c), names to typed references. Every tensor that the architecture
 * has must be there with its shape, and every tensor that is there must be one that the architecture has: a tensor
 * that would be left out means that the model computes something else. */
#include "core/model/model.h"

#include "core/base/memory.h"
#include "core/model/model_arch.h"
#include "core/model/safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct builder {
    const ht_architecture *arch;
    ht_model *m;
    bool hf;         /* tensors are named as in safetensors */
    bool tied;       /* folders: the output matrix is the embedding */
    bool *used;      /* [n_tensors], owned */
    ht_error *err;
    int rc;          /* the first failure; later calls do nothing */
} builder;

static const ht_tensor_ref absent = {.tensor = -1};

/* Finds a tensor of (rows, cols); rows 0: a vector of cols elements; rows -1: as many as there are. */
static int32_t find(builder *b, ht_presence presence, int64_t rows, int64_t cols, const char *name)
{
    if (b->rc < 0 || presence == HT_ABSENT) return -1;
    char expected[64], hf_name[128];
    if (b->hf) {
        ht_hf_tensor_name(b->arch, name, hf_name, sizeof hf_name);
        name = hf_name;
    }
    if (rows == 0) snprintf(expected, sizeof expected, "(%" PRId64 ")", cols);
    else if (rows < 0) snprintf(expected, sizeof expected, "(*, %" PRId64 ")", cols);
    else snprintf(expected, sizeof expected, "(%" PRId64 ", %" PRId64 ")", rows, cols);
    int32_t i = ht_tensor_find(b->m->dir, name);
    if (i < 0) {
        if (presence == HT_REQUIRED)
            b->rc = ht_fail(b->err, -EINVAL, "tensor %s is missing, expected with shape %s", name, expected);
        return -1;
    }
    const ht_tensor_info *t = &b->m->dir->tensors[i];
    bool good = t->dim[0] == cols && t->dim[2] == 1 && t->dim[3] == 1;
    good = good && (rows == 0 ? t->dim[1] == 1 : rows < 0 ? t->dim[1] <= INT32_MAX : t->dim[1] == rows);
    if (!good) {
        char found[96];
        int n = 0;
        for (int k = t->n_dims - 1; k >= 0; k--)
            n += snprintf(found + n, sizeof found - (size_t)n, "%s%" PRId64, n ? ", " : "(", t->dim[k]);
        b->rc = ht_fail(b->err, -EINVAL, "tensor %s has shape %s), expected %s", name, found, expected);
        return -1;
    }
    b->used[i] = true;
    return i;
}

/* The same for a tensor of a layer, "blk.<layer>.<what>". */
static int32_t find_in_layer(builder *b, ht_presence presence, int64_t rows, int64_t cols, int32_t layer,
                             const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", layer, what);
    return find(b, presence, rows, cols, name);
}

static ht_tensor_ref range(int32_t tensor, int64_t row, int64_t rows)
{
    return tensor < 0 ? absent : (ht_tensor_ref){.tensor = tensor, .row = row, .rows = rows};
}

/* The gain of a norm; gemma's are stored less by 1 in safetensors. */
static ht_tensor_ref gain(builder *b, ht_presence p, int64_t n, int32_t layer, const char *what)
{
    int32_t t = layer < 0 ? find(b, p, 0, n, what) : find_in_layer(b, p, 0, n, layer, what);
    if (t >= 0 && b->hf && b->arch->scaled_embedding) b->m->gguf.dir.tensors[t].added = 1.0f;
    return range(t, 0, n);
}

static ht_tensor_ref vector(builder *b, ht_presence p, int64_t n, int32_t layer, const char *what)
{
    return range(find_in_layer(b, p, 0, n, layer, what), 0, n);
}

static ht_tensor_ref matrix(builder *b, int64_t rows, int64_t cols, int32_t layer, const char *what)
{
    return range(find_in_layer(b, HT_REQUIRED, rows, cols, layer, what), 0, rows);
}

static void take_attention(builder *b, ht_layer_refs *r, int32_t l)
{
    const ht_architecture *a = b->arch;
    const ht_shape *s = &b->m->shape;
    int64_t d = s->n_embd, q = (int64_t)s->n_heads * s->head_dim, kv = (int64_t)s->n_kv_heads * s->head_dim;
    r->attn_norm = gain(b, HT_REQUIRED, d, l, "attn_norm.weight");
    r->attn_norm_bias = vector(b, a->norm == HT_NORM_LAYER ? HT_REQUIRED : HT_ABSENT, d, l, "attn_norm.bias");
    if (a->fused_qkv) {
        int32_t w = find_in_layer(b, HT_REQUIRED, q + 2 * kv, d, l, "attn_qkv.weight");
        int32_t bias = find_in_layer(b, a->qkv_bias, 0, q + 2 * kv, l, "attn_qkv.bias");
        r->q = range(w, 0, q);
        r->k = range(w, q, kv);
        r->v = range(w, q + kv, kv);
        r->q_bias = range(bias, 0, q);
        r->k_bias = range(bias, q, kv);
        r->v_bias = range(bias, q + kv, kv);
    } else {
        r->q = matrix(b, q, d, l, "attn_q.weight");
        r->k = matrix(b, kv, d, l, "attn_k.weight");
        r->v = matrix(b, kv, d, l, "attn_v.weight");
        r->q_bias = vector(b, a->qkv_bias, q, l, "attn_q.bias");
        r->k_bias = vector(b, a->qkv_bias, kv, l, "attn_k.bias");
        r->v_bias = vector(b, a->qkv_bias, kv, l, "attn_v.bias");
    }
    r->q_norm = gain(b, a->qk_norm, s->head_dim, l, "attn_q_norm.weight");
    r->k_norm = gain(b, a->qk_norm, s->head_dim, l, "attn_k_norm.weight");
    r->attn_post_norm = gain(b, a->post_norms ? HT_REQUIRED : HT_ABSENT, d, l, "post_attention_norm.weight");
    r->ffn_post_norm = gain(b, a->post_norms ? HT_REQUIRED : HT_ABSENT, d, l, "post_ffw_norm.weight");
    r->o = matrix(b, d, q, l, "attn_output.weight");
    r->o_bias = vector(b, a->o_bias, d, l, "attn_output.bias");
}

static void take_ffn(builder *b, ht_layer_refs *r, int32_t l)
{
    const ht_architecture *a = b->arch;
    const ht_shape *s = &b->m->shape;
    int64_t d = s->n_embd, f = s->n_ff;
    r->router = absent;
    r->ffn_norm = gain(b, HT_REQUIRED, d, l, "ffn_norm.weight");
    r->ffn_norm_bias = vector(b, a->norm == HT_NORM_LAYER ? HT_REQUIRED : HT_ABSENT, d, l, "ffn_norm.bias");
    if (a->fused_gate_up) {
        int32_t w = find_in_layer(b, HT_REQUIRED, 2 * f, d, l, "ffn_up.weight");
        int32_t bias = find_in_layer(b, a->ffn_bias, 0, 2 * f, l, "ffn_up.bias");
        r->gate = range(w, 0, f);
        r->up = range(w, f, f);
        r->gate_bias = range(bias, 0, f);
        r->up_bias = range(bias, f, f);
    } else {
        r->gate = a->gated ? matrix(b, f, d, l, "ffn_gate.weight") : absent;
        r->up = matrix(b, f, d, l, "ffn_up.weight");
        r->gate_bias = vector(b, a->gated ? a->ffn_bias : HT_ABSENT, f, l, "ffn_gate.bias");
        r->up_bias = vector(b, a->ffn_bias, f, l, "ffn_up.bias");
    }
    r->down = matrix(b, d, f, l, "ffn_down.weight");
    r->down_bias = vector(b, a->ffn_bias, d, l, "ffn_down.bias");
}

/* RoPE divisors: llama 3.1's, or LongRoPE's two sets, of which ht_model_fit_context chooses. */
static void take_rope(builder *b)
{
    ht_shape *s = &b->m->shape;
    int64_t n = s->rope.dims / 2;
    s->rope.freqs = find(b, HT_OPTIONAL, 0, n, "rope_freqs.weight");
    int32_t factors = find(b, s->rope.longrope ? HT_REQUIRED : HT_OPTIONAL, 0, n, "rope_factors_short.weight");
    b->m->long_freqs = find(b, factors >= 0 ? HT_REQUIRED : HT_ABSENT, 0, n, "rope_factors_long.weight");
    if (factors >= 0 && b->rc >= 0) s->rope.freqs = factors;
}

static void take_all(builder *b)
{
    ht_model *m = b->m;
    int64_t d = m->shape.n_embd;
    int32_t embd = find(b, HT_REQUIRED, m->shape.n_vocab ? m->shape.n_vocab : -1, d, "token_embd.weight");
    if (b->rc < 0) return;
    int64_t rows = m->dir->tensors[embd].dim[1];
    m->shape.n_vocab = (int32_t)rows;
    m->embd = range(embd, 0, rows);
    /* A folder says whether it is tied; then a matrix that is there all the same is not used. */
    int32_t output = find(b, b->hf && !b->tied ? HT_REQUIRED : HT_OPTIONAL, rows, d, "output.weight");
    m->output = output < 0 || b->tied ? m->embd : range(output, 0, rows);
    m->output_norm = gain(b, HT_REQUIRED, d, -1, "output_norm.weight");
    m->output_norm_bias = range(find(b, b->arch->norm == HT_NORM_LAYER ? HT_REQUIRED : HT_ABSENT, 0, d,
                                     "output_norm.bias"), 0, d);
    take_rope(b);
    for (int32_t l = 0; l < m->shape.n_layers; l++) {
        take_attention(b, &m->layers[l], l);
        take_ffn(b, &m->layers[l], l);
    }
}

/* Tensors that say nothing of their own: tables that older converters wrote. */
static bool is_ignored(const char *name)
{
    static const char *const ends[] = {".attn_rot_embd", ".attn_rot_embd.weight", ".rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(name), e = strlen(ends[i]);
        if (n >= e && strcmp(name + n - e, ends[i]) == 0) return true;
    }
    return strncmp(name, "hearth.", 7) == 0;
}

static void count(builder *b)
{
    const ht_tensor_dir *dir = b->m->dir;
    for (int32_t i = 0; i < dir->n_tensors && b->rc >= 0; i++) {
        const ht_tensor_info *t = &dir->tensors[i];
        if (!b->used[i]) {
            if (!is_ignored(t->name))
                b->rc = ht_fail(b->err, -ENOTSUP, "tensor %s is not part of the architecture %s as hearth knows it",
                                t->name, b->arch->name);
            continue;
        }
        if (i != b->m->output.tensor && b->tied && strcmp(t->name, "lm_head.weight") == 0) continue;
        b->m->weight_bytes += t->bytes;
        b->m->n_parameters += (uint64_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]);
    }
}

static void check_vocabulary(builder *b)
{
    const ht_gguf_value *tokens = ht_gguf_find(&b->m->gguf, "tokenizer.ggml.tokens");
    if (b->rc < 0 || !tokens || tokens->kind != HT_GGUF_ARRAY) return;
    if (tokens->count > (uint64_t)b->m->shape.n_vocab)
        b->rc = ht_fail(b->err, -EINVAL, "tokenizer.ggml.tokens has %" PRIu64 " tokens, token_embd.weight has %d rows",
                        tokens->count, b->m->shape.n_vocab);
}

/* general.name, or the last part of the path. */
static char *name_of(const ht_gguf *g, const char *path)
{
    ht_gguf_string s;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--; /* of a folder */
    if (ht_gguf_get_string(g, "general.name", &s, NULL) == 1 && s.len > 0 && s.len < 200 && !memchr(s.data, 0, s.len))
        return ht_strndup(s.data, s.len);
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    return ht_strndup(path + begin, n - begin);
}

/* The rest, when architecture and shape are known. */
static int build(builder *b, const char *path)
{
    ht_model *m = b->m;
    m->architecture = ht_strdup(b->arch->name);
    m->name = name_of(&m->gguf, path);
    m->layers = ht_calloc((size_t)m->shape.n_layers, sizeof *m->layers);
    b->used = ht_calloc((size_t)m->dir->n_tensors, sizeof *b->used);
    if (m->architecture && m->name && m->layers && b->used) {
        take_all(b);
        check_vocabulary(b);
        count(b);
    } else {
        b->rc = ht_fail(b->err, -ENOMEM, "out of memory for %d layers", m->shape.n_layers);
    }
    ht_free(b->used);
    return b->rc;
}

static int open_folder(ht_model *m, const char *path, ht_error *err)
{
    ht_config config;
    int rc = ht_config_read(&config, path, err);
    if (rc < 0) return rc;
    m->shape = config.shape;
    for (int i = 0; i < 2; i++) m->divisors[i] = config.divisors[i];
    m->shape.rope.divisors = m->divisors[0];
    m->folder = ht_strdup(path);
    if (!m->folder) return ht_fail(err, -ENOMEM, "out of memory");
    if ((rc = ht_safetensors_open(&m->gguf.dir, path, err)) < 0) return rc;
    builder b = {.arch = config.arch, .m = m, .hf = true, .tied = config.tied, .err = err};
    return build(&b, path);
}

static int open_gguf(ht_model *m, const char *path, ht_error *err)
{
    ht_gguf_string arch_name = {0};
    int rc = ht_gguf_get_string(&m->gguf, "general.architecture", &arch_name, err);
    if (rc < 0) return rc;
    if (rc == 0) return ht_fail(err, -EINVAL, "general.architecture is missing");
    const ht_architecture *arch = ht_architecture_find(arch_name.data, arch_name.len);
    if (!arch)
        return ht_fail(err, -ENOTSUP, "the architecture \"%.*s\" is not supported; supported are: %s",
                       (int)(arch_name.len < 64 ? arch_name.len : 64), arch_name.data, ht_architecture_names());
    if ((rc = ht_shape_read(&m->shape, arch, &m->gguf, err)) < 0) return rc;
    builder b = {.arch = arch, .m = m, .err = err};
    return build(&b, path);
}

/* A file of a folder, given in its place. */
static bool is_in_folder(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0);
}

int ht_model_open(ht_model **out, const char *path, ht_error *err)
{
    *out = NULL;
    if (is_in_folder(path) && !ht_is_folder(path))
        return ht_fail(err, -EINVAL, "%s: the model is the folder that this file is in: give that", path);
    ht_model *m = ht_calloc(1, sizeof *m);
    if (!m) return ht_fail(err, -ENOMEM, "%s: out of memory", path);
    bool folder = ht_is_folder(path);
    m->dir = &m->gguf.dir;
    m->long_freqs = -1;
    int rc = folder ? 0 : ht_gguf_open(&m->gguf, path, err);
    if (rc == 0) {
        rc = folder ? open_folder(m, path, err) : open_gguf(m, path, err);
        if (rc < 0 && !strstr(err ? err->text : "", path)) ht_error_prefix(err, "%s", path);
    }
    if (rc < 0) {
        ht_model_close(&m);
        return rc;
    }
    *out = m;
    return 0;
}

uint64_t ht_model_token_bytes(const ht_model *m)
{
    const ht_tensor_info *t = &m->dir->tensors[m->embd.tensor];
    if (m->output.tensor == m->embd.tensor) return m->weight_bytes; /* the table is read as the output matrix */
    return m->weight_bytes - (t->bytes - ht_row_bytes(ht_type_get(t->type), t->dim[0]));
}

void ht_model_fit_context(ht_model *m, int32_t context)
{
    ht_rope *rope = &m->shape.rope;
    if (context <= rope->original_context) return;
    if (m->long_freqs >= 0) rope->freqs = m->long_freqs;
    if (m->divisors[1]) rope->divisors = m->divisors[1];
}

void ht_model_close(ht_model **model)
{
    ht_model *m = *model;
    if (!m) return;
    ht_free(m->architecture);
    ht_free(m->name);
    ht_free(m->layers);
    ht_free(m->folder);
    for (int i = 0; i < 2; i++) ht_free(m->divisors[i]);
    ht_gguf_close(&m->gguf);
    ht_free(m);
    *model = NULL;
}

int ht_model_open_tokenizer(ht_tokenizer **out, const ht_model *m, const char *path, ht_error *err)
{
    int32_t rows = m->shape.n_vocab;
    int rc = m->folder ? ht_tokenizer_from_hf(out, path, rows, err) : ht_tokenizer_from_gguf(out, &m->gguf, err);
    int32_t n = rc < 0 ? 0 : ht_tokenizer_size(*out);
    if (n > rows) {
        ht_tokenizer_close(out);
        rc = ht_fail(err, -EINVAL, "the tokenizer has %d tokens, the embedding %d rows", n, rows);
    }
    return rc < 0 ? ht_error_prefix(err, "%s", path) : rc;
}
