/* Synthetic models: shapes, metadata, vocabulary, and how large the weights of each matrix are.
 *
 * The scales. The norms make their output's elements about 1, so a matrix of deviation 1/sqrt(columns) does too.
 * - Q and K are somewhat larger: attention scores have a deviation of 2, so attention picks a few tokens, not the
 *   mean of all, and what it picks depends on the position.
 * - The outputs of all attention blocks and FFNs together are 1.5 times the embedding, so the next token depends on
 *   the context as much as on the last token; 3 times with a tied output matrix, whose small models would otherwise go
 *   round in circles now and then.
 * - With a tied output matrix, the embedding of the last token must be a small part of the final state, or the model
 *   would say the same token again: its logit stands out from the others by sqrt(d) / gain deviations, where the best
 *   of V random ones is at about 4. The last FFN alone is that loud (gain sqrt(d)): were all layers, each would
 *   amplify the rounding errors of those before it.
 * - Logits have a deviation of 4. Rows of control tokens are zero in the output matrix: text does not end by itself.
 */
#include "core/model/synth.h"

#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/random.h"
#include "core/model/model.h"
#include "core/model/synth_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct shape {
    const char *name;
    int32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    float rope_base;
    bool tied;
} shape;

static const shape shapes[] = {
    {"tiny", 4, 256, 768, 4, 2, 64, 512, 512, 1e4f, false},
    {"135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5f, true},       /* SmolLM2 */
    {"1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5f, true},    /* Llama 3.2 */
    {"1.1b", 22, 2048, 5632, 32, 4, 64, 32000, 2048, 1e4f, false},    /* TinyLlama */
    {"3b", 28, 3072, 8192, 24, 8, 128, 128256, 131072, 5e5f, true},   /* Llama 3.2 */
    {"7b", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4f, false},   /* Llama 2 */
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 5e5f, false},   /* Llama 3 */
    {"13b", 40, 5120, 13824, 40, 40, 128, 32000, 4096, 1e4f, false},  /* Llama 2 */
    {"70b", 80, 8192, 28672, 64, 8, 128, 32000, 4096, 1e4f, false},   /* Llama 2 */
};

const char *ht_synth_shapes(void)
{
    return "tiny, 135m, 1b, 1.1b, 3b, 7b, 8b, 13b, 70b";
}

/* All that is decided before anything is written. */
typedef struct plan {
    shape s;
    const ht_synth_mix *mix;
    bool relu;
    uint64_t seed;
    ht_gguf vocab;        /* zeroed, or the file the vocabulary comes from; owned */
    bool has_vocab;
    bool *silent;         /* [n_vocab], owned: tokens that the model must not say */
    float sigma[HT_SYNTH_OUTPUT + 1];
    float last_down;      /* deviation of the last layer's ffn_down */
} plan;

/* ---- options ---- */

static int check_range(const char *name, int64_t v, int64_t low, int64_t high, int32_t multiple, ht_error *err)
{
    if (v < low || v > high || v % multiple != 0)
        return ht_fail(err, -EINVAL, "%s is %" PRId64 ", should be a multiple of %d from %" PRId64 " to %" PRId64, name, v,
                       multiple, low, high);
    return 0;
}

static int check_shape(const shape *s, ht_error *err)
{
    const struct { const char *name; int64_t v, low, high; int32_t multiple; } checks[] = {
        {"n_layers", s->n_layers, 1, 1000, 1},
        {"n_embd", s->n_embd, 32, 1 << 20, 32},
        {"n_ff", s->n_ff, 32, 1 << 24, 32},
        {"n_heads", s->n_heads, 1, 4096, 1},
        {"n_kv_heads", s->n_kv_heads, 1, 4096, 1},
        {"head_dim", s->head_dim, 2, 4096, 2},
        {"n_heads * head_dim", (int64_t)s->n_heads * s->head_dim, 32, 1 << 20, 32},
        {"n_vocab", s->n_vocab, 300, 1 << 24, 1},
        {"n_context", s->n_context, 1, 1 << 30, 1},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        int rc = check_range(checks[i].name, checks[i].v, checks[i].low, checks[i].high, checks[i].multiple, err);
        if (rc < 0) return rc;
    }
    if (s->n_heads % s->n_kv_heads)
        return ht_fail(err, -EINVAL, "n_heads %d is not a multiple of n_kv_heads %d", s->n_heads, s->n_kv_heads);
    return 0;
}

static int choose_shape(plan *p, const ht_synth_options *o, ht_error *err)
{
    const char *name = o->shape ? o->shape : "tiny";
    const shape *named = NULL;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0) named = &shapes[i];
    if (!named) return ht_fail(err, -EINVAL, "no shape is called \"%s\"; there are: %s", name, ht_synth_shapes());
    p->s = *named;
    const struct { int32_t from; int32_t *to; } overrides[] = {
        {o->n_layers, &p->s.n_layers}, {o->n_embd, &p->s.n_embd},         {o->n_ff, &p->s.n_ff},
        {o->n_heads, &p->s.n_heads},   {o->n_kv_heads, &p->s.n_kv_heads}, {o->n_vocab, &p->s.n_vocab},
        {o->n_context, &p->s.n_context},
    };
    for (size_t i = 0; i < sizeof overrides / sizeof *overrides; i++)
        if (overrides[i].from) *overrides[i].to = overrides[i].from;
    if (o->n_heads && !o->n_kv_heads) p->s.n_kv_heads = o->n_heads;
    if (o->head_dim) p->s.head_dim = o->head_dim;
    else if (o->n_embd || o->n_heads) p->s.head_dim = p->s.n_heads > 0 ? p->s.n_embd / p->s.n_heads : 0;
    p->s.tied = p->s.tied || o->tied;
    return 0;
}

static int take_vocab(plan *p, const ht_synth_options *o, ht_error *err)
{
    if (!o->vocab) return 0;
    int rc = ht_gguf_open(&p->vocab, o->vocab, err);
    if (rc < 0) return rc;
    p->has_vocab = true;
    const ht_gguf_value *tokens = ht_gguf_find(&p->vocab, "tokenizer.ggml.tokens");
    if (!tokens || tokens->kind != HT_GGUF_ARRAY || tokens->item != HT_GGUF_STRING || tokens->count > 1 << 24)
        return ht_fail(err, -EINVAL, "%s: has no vocabulary (tokenizer.ggml.tokens)", o->vocab);
    if (o->n_vocab && (uint64_t)o->n_vocab != tokens->count)
        return ht_fail(err, -EINVAL, "n_vocab is %d, the vocabulary of %s has %" PRIu64 " tokens", o->n_vocab, o->vocab,
                       tokens->count);
    p->s.n_vocab = (int32_t)tokens->count;
    return 0;
}

/* Tokens of these kinds are never said. A tied matrix is also the embedding, so there only those are silenced that
 * never come in either. */
static int choose_silent(plan *p, ht_error *err)
{
    enum { UNKNOWN = 2, CONTROL = 3, UNUSED = 5, BYTE = 6 };
    p->silent = ht_calloc((size_t)p->s.n_vocab, sizeof *p->silent);
    if (!p->silent) return ht_fail(err, -ENOMEM, "out of memory for %d tokens", p->s.n_vocab);
    if (!p->has_vocab) {
        for (int32_t i = 0; i < 259; i++) p->silent[i] = p->s.tied ? i == 0 || i == 2 : true;
        return 0;
    }
    int64_t bos = -1;
    const ht_gguf_value *kinds = ht_gguf_find(&p->vocab, "tokenizer.ggml.token_type");
    ht_gguf_get_i64(&p->vocab, "tokenizer.ggml.bos_token_id", &bos, NULL);
    if (!kinds || kinds->kind != HT_GGUF_ARRAY || kinds->item == HT_GGUF_STRING || kinds->count != (uint64_t)p->s.n_vocab)
        return 0;
    for (int32_t i = 0; i < p->s.n_vocab; i++) {
        int64_t kind = ht_gguf_item_i64(kinds, (uint64_t)i);
        p->silent[i] = kind == UNKNOWN || kind == CONTROL || kind == UNUSED || (kind == BYTE && !p->s.tied);
        if (p->s.tied && i == bos) p->silent[i] = false;
    }
    return 0;
}

static void choose_scales(plan *p)
{
    double d = p->s.n_embd, q = (double)p->s.n_heads * p->s.head_dim, f = p->s.n_ff;
    double embedding = p->s.tied ? 4.0 / sqrt(d) : 1.0;
    /* Deviation that one block adds; the last FFN of a tied model does not count. */
    double branch = p->s.tied ? 3.0 * embedding / sqrt(2.0 * p->s.n_layers - 1) : 1.5 * embedding / sqrt(2.0 * p->s.n_layers);
    /* sqrt(E[act(g)^2]) for g normal: silu 0.597, relu sqrt(1/2). */
    double hidden = p->relu ? 0.7071 : 0.597;
    p->sigma[HT_SYNTH_EMBEDDING] = (float)embedding;
    p->sigma[HT_SYNTH_Q] = p->sigma[HT_SYNTH_K] = (float)sqrt(2.0 / d);
    p->sigma[HT_SYNTH_V] = p->sigma[HT_SYNTH_GATE] = p->sigma[HT_SYNTH_UP] = (float)(1.0 / sqrt(d));
    p->sigma[HT_SYNTH_O] = (float)(branch / sqrt(q));
    p->sigma[HT_SYNTH_DOWN] = (float)(branch / (hidden * sqrt(f)));
    p->last_down = p->s.tied ? (float)(sqrt(d) * embedding / (hidden * sqrt(f))) : p->sigma[HT_SYNTH_DOWN];
    p->sigma[HT_SYNTH_OUTPUT] = (float)(4.0 / sqrt(d));
}

static int make_plan(plan *p, const ht_synth_options *o, ht_error *err)
{
    const char *type = o->type ? o->type : "q4_0", *activation = o->activation ? o->activation : "silu";
    p->seed = o->seed;
    int rc = choose_shape(p, o, err);
    if (rc < 0) return rc;
    p->mix = ht_synth_mix_find(type);
    if (!p->mix) return ht_fail(err, -EINVAL, "no type is called \"%s\"; there are: %s", type, ht_synth_types());
    p->relu = strcmp(activation, "relu") == 0;
    if (!p->relu && strcmp(activation, "silu") != 0)
        return ht_fail(err, -EINVAL, "activation is \"%s\", should be silu or relu", activation);
    if ((rc = take_vocab(p, o, err)) < 0 || (rc = check_shape(&p->s, err)) < 0 || (rc = choose_silent(p, err)) < 0)
        return rc;
    choose_scales(p);
    return 0;
}

/* ---- metadata ---- */

/* SentencePiece type: unknown, BOS, EOS, the 256 bytes, then words " w00260". No word can be built by merging pairs,
 * so text is encoded byte by byte. */
static int put_made_up_vocab(ht_gguf_writer *w, int32_t n, ht_error *err)
{
    enum { WIDTH = 12 };
    ht_gguf_string *tokens = ht_alloc((size_t)n, sizeof *tokens);
    char *text = ht_alloc((size_t)n, WIDTH + 1);
    float *scores = ht_alloc((size_t)n, sizeof *scores);
    int32_t *kinds = ht_alloc((size_t)n, sizeof *kinds);
    int rc = 0;
    if (!tokens || !text || !scores || !kinds) {
        rc = ht_fail(err, -ENOMEM, "out of memory for %d tokens", n);
        goto done;
    }
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    for (int32_t i = 0; i < n; i++) {
        char *t = text + (size_t)i * (WIDTH + 1);
        int len = i < 3      ? snprintf(t, WIDTH, "%s", special[i])
                  : i < 259  ? snprintf(t, WIDTH, "<0x%02X>", (unsigned)(i - 3) & 255u)
                  : i == 259 ? snprintf(t, WIDTH, "\xe2\x96\x81")
                             : snprintf(t, WIDTH + 1, "\xe2\x96\x81w%05d", i);
        tokens[i] = (ht_gguf_string){t, (uint64_t)len};
        scores[i] = i < 259 ? 0.0f : -(float)i;
        kinds[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    }
    ht_gguf_put_string(w, "tokenizer.ggml.model", "llama");
    ht_gguf_put_string(w, "tokenizer.ggml.pre", "default");
    ht_gguf_put_strings(w, "tokenizer.ggml.tokens", tokens, (uint64_t)n);
    ht_gguf_put_array(w, "tokenizer.ggml.scores", HT_GGUF_F32, scores, (uint64_t)n);
    ht_gguf_put_array(w, "tokenizer.ggml.token_type", HT_GGUF_I32, kinds, (uint64_t)n);
    ht_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    ht_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
    ht_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    ht_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    ht_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
done:
    ht_free(kinds);
    ht_free(scores);
    ht_free(text);
    ht_free(tokens);
    return rc;
}

static int put_metadata(ht_gguf_writer *w, const plan *p, ht_error *err)
{
    const shape *s = &p->s;
    char name[64];
    snprintf(name, sizeof name, "synthetic %s %s", s->name, p->mix->name);
    ht_gguf_put_string(w, "general.architecture", "llama");
    ht_gguf_put_string(w, "general.name", name);
    ht_gguf_put_u32(w, "general.file_type", (uint32_t)p->mix->file_type);
    ht_gguf_put_u32(w, "general.quantization_version", 2);
    ht_gguf_put_u32(w, "llama.block_count", (uint32_t)s->n_layers);
    ht_gguf_put_u32(w, "llama.context_length", (uint32_t)s->n_context);
    ht_gguf_put_u32(w, "llama.embedding_length", (uint32_t)s->n_embd);
    ht_gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)s->n_ff);
    ht_gguf_put_u32(w, "llama.attention.head_count", (uint32_t)s->n_heads);
    ht_gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)s->n_kv_heads);
    ht_gguf_put_u32(w, "llama.attention.key_length", (uint32_t)s->head_dim);
    ht_gguf_put_u32(w, "llama.attention.value_length", (uint32_t)s->head_dim);
    ht_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    ht_gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)s->head_dim);
    ht_gguf_put_f32(w, "llama.rope.freq_base", s->rope_base);
    ht_gguf_put_u32(w, "llama.vocab_size", (uint32_t)s->n_vocab);
    if (p->relu) ht_gguf_put_string(w, "hearth.ffn.activation", "relu");
    if (!p->has_vocab) return put_made_up_vocab(w, s->n_vocab, err);
    for (uint64_t i = 0; i < p->vocab.n_values; i++)
        if (strncmp(p->vocab.values[i].key, "tokenizer.", 10) == 0) ht_gguf_put_value(w, &p->vocab.values[i]);
    return 0;
}

/* ---- tensors ---- */

/* What is written of a tensor, in the order of the file. role < 0: a norm. */
typedef struct piece { int role; ht_type type; int64_t rows, cols; float sigma; } piece;

#define PIECES_PER_LAYER 9
#define GAIN_STREAM 31 /* of the random numbers */

static int add_piece(ht_gguf_writer *w, const plan *p, piece *list, int32_t *n, int role, int32_t layer, const char *what,
                     int64_t rows, int64_t cols, ht_error *err)
{
    const shape *s = &p->s;
    char name[64];
    if (layer < 0) snprintf(name, sizeof name, "%s", what);
    else snprintf(name, sizeof name, "blk.%d.%s", layer, what);
    int like = role == HT_SYNTH_EMBEDDING && s->tied ? HT_SYNTH_OUTPUT : role; /* a tied matrix is quantised as output */
    ht_type type = role < 0 ? HT_F32
                            : ht_synth_type_of(p->mix, (ht_synth_role)like, layer < 0 ? 0 : layer, s->n_layers,
                                               s->n_heads / s->n_kv_heads, cols);
    int32_t tensor = ht_gguf_add_tensor(w, name, type, role < 0 ? 1 : 2, (int64_t[]){cols, rows}, err);
    if (tensor < 0) return tensor;
    float sigma = role < 0                                                  ? 0.0f
                  : role == HT_SYNTH_DOWN && layer == p->s.n_layers - 1 ? p->last_down
                                                                            : p->sigma[role];
    list[(*n)++] = (piece){role, type, rows, cols, sigma};
    return 0;
}

static int add_pieces(ht_gguf_writer *w, const plan *p, piece *list, int32_t *n, ht_error *err)
{
    const shape *s = &p->s;
    int64_t d = s->n_embd, f = s->n_ff, q = (int64_t)s->n_heads * s->head_dim, kv = (int64_t)s->n_kv_heads * s->head_dim;
    const struct { int role; const char *what; int64_t rows, cols; } layer[PIECES_PER_LAYER] = {
        {-1, "attn_norm.weight", 1, d},
        {HT_SYNTH_Q, "attn_q.weight", q, d},
        {HT_SYNTH_K, "attn_k.weight", kv, d},
        {HT_SYNTH_V, "attn_v.weight", kv, d},
        {HT_SYNTH_O, "attn_output.weight", d, q},
        {-1, "ffn_norm.weight", 1, d},
        {HT_SYNTH_GATE, "ffn_gate.weight", f, d},
        {HT_SYNTH_UP, "ffn_up.weight", f, d},
        {HT_SYNTH_DOWN, "ffn_down.weight", d, f},
    };
    int rc = add_piece(w, p, list, n, HT_SYNTH_EMBEDDING, -1, "token_embd.weight", s->n_vocab, d, err);
    for (int32_t l = 0; l < s->n_layers && rc == 0; l++)
        for (int i = 0; i < PIECES_PER_LAYER && rc == 0; i++)
            rc = add_piece(w, p, list, n, layer[i].role, l, layer[i].what, layer[i].rows, layer[i].cols, err);
    if (rc == 0) rc = add_piece(w, p, list, n, -1, -1, "output_norm.weight", 1, d, err);
    if (rc == 0 && !s->tied) rc = add_piece(w, p, list, n, HT_SYNTH_OUTPUT, -1, "output.weight", s->n_vocab, d, err);
    return rc;
}

/* Gains of a norm: around 1. */
static int write_norm(ht_gguf_writer *w, const plan *p, int32_t tensor, int64_t n, ht_error *err)
{
    float *gain = ht_alloc((size_t)n, sizeof *gain);
    if (!gain) return ht_fail(err, -ENOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        gain[i] = 1.0f + 0.1f * (float)ht_random_normal(p->seed, (uint64_t)tensor, (uint64_t)i, GAIN_STREAM);
    int rc = ht_gguf_write_at(w, tensor, 0, gain, (size_t)n * sizeof *gain, err);
    ht_free(gain);
    return rc;
}

static int write_pieces(ht_gguf_writer *w, const plan *p, const piece *list, int32_t n, const ht_synth_options *o,
                        ht_error *err)
{
    ht_synth_filler *filler = NULL;
    ht_progress progress = {0};
    uint64_t done = 0;
    int rc = ht_synth_filler_open(&filler, p->seed, o->threads, err);
    if (!o->quiet) ht_progress_begin(&progress, "writing", ht_gguf_writer_size(w));
    for (int32_t t = 0; t < n && rc == 0; t++) {
        const piece *c = &list[t];
        bool says = c->role == HT_SYNTH_OUTPUT || (c->role == HT_SYNTH_EMBEDDING && p->s.tied);
        rc = c->role < 0 ? write_norm(w, p, t, c->cols, err)
                         : ht_synth_fill(filler, w, t, c->type, c->rows, c->cols, c->sigma, says,
                                         says ? p->silent : NULL, err);
        done += ht_gguf_tensor_bytes(w, t);
        if (!o->quiet) ht_progress_update(&progress, done);
    }
    if (!o->quiet) ht_progress_end(&progress);
    ht_synth_filler_close(&filler);
    return rc;
}

int ht_synth(const char *path, const ht_synth_options *options, ht_error *err)
{
    plan p = {0};
    ht_gguf_writer *w = NULL;
    piece *list = NULL;
    int32_t n = 0;
    int rc = make_plan(&p, options, err);
    if (rc < 0) goto done;
    list = ht_alloc((size_t)p.s.n_layers * PIECES_PER_LAYER + 3, sizeof *list);
    if (!list) {
        rc = ht_fail(err, -ENOMEM, "out of memory for %d layers", p.s.n_layers);
        goto done;
    }
    if ((rc = ht_gguf_writer_open(&w, path, 0, err)) < 0) goto done;
    if ((rc = put_metadata(w, &p, err)) < 0) goto done;
    if ((rc = add_pieces(w, &p, list, &n, err)) < 0) goto done;
    if ((rc = ht_gguf_writer_begin(w, err)) < 0) goto done;
    if ((rc = write_pieces(w, &p, list, n, options, err)) < 0) goto done;
    rc = ht_gguf_writer_finish(w, err);
done:
    ht_gguf_writer_close(&w);
    ht_free(list);
    ht_free(p.silent);
    ht_gguf_close(&p.vocab);
    return rc;
}
