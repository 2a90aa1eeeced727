/* The host backend against naive double-precision code, and its numeric contract: a column's bits do not depend on
 * threads, chunks, or on what else is in the step. */
#include "core/base/memory.h"
#include "core/base/random.h"
#include "cpu/host.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* F and VOCAB, which are rows of matrices, are no multiples of any tile of rows. */
enum { D = 256, F = 500, VOCAB = 61, CONTEXT = 1300, PAGES = 64, COLUMNS = 160, SEQUENCES = 4 };

static float noise(uint64_t seed, int64_t i) { return (float)(2.0 * ht_random_uniform(seed, 1, (uint64_t)i, 0) - 1.0); }

static float *noise_vector(uint64_t seed, int64_t n)
{
    float *v = malloc((size_t)n * sizeof(*v));
    for (int64_t i = 0; i < n; i++) v[i] = noise(seed, i);
    return v;
}

/* ---- a world: one layer of weights, KV pages, a backend ---------------------------------------------------- */

typedef struct world {
    ht_shape shape;
    ht_ops_limits limits;
    ht_pool *pool;
    ht_backend *b;
    ht_matrix embd, q, k, v, o, gate, up, down;
    float *norm, *q_bias, *o_bias, *gate_bias, *head_norm;
    char *kv;
    void *page[PAGES];
    int32_t pages[SEQUENCES][32];
} world;

static const ht_shape shape_plain = {
    .n_layers = 1, .n_embd = D, .n_ff = F, .n_heads = 8, .n_kv_heads = 2, .head_dim = 32, .n_vocab = VOCAB,
    .n_context = CONTEXT, .n_experts = 1, .norm_eps = 1e-5f, .activation = HT_SILU, .gated = true, .embd_scale = 1.0f,
    .rope = {.pairing = HT_ROPE_HALVES, .dims = 32, .base = 10000.0f, .factor = 1.0f, .attn_factor = 1.0f, .freqs = -1},
};

static ht_matrix matrix(uint64_t seed, ht_type type, int64_t rows, int64_t cols)
{
    const ht_type_info *info = ht_type_get(type);
    ht_matrix m = {.type = type, .rows = rows, .cols = cols, .row_bytes = ht_row_bytes(info, cols)};
    char *data = malloc((size_t)rows * m.row_bytes);
    float *row = malloc((size_t)cols * sizeof(float));

    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) row[i] = 0.2f * noise(seed, r * cols + i);
        if (info->quantize) info->quantize(row, data + (size_t)r * m.row_bytes, cols);
        else memcpy(data + (size_t)r * m.row_bytes, row, m.row_bytes);
    }
    free(row);
    m.data = data;
    return m;
}

static void world_open_kv(world *w, const ht_shape *shape, ht_type k_type, ht_type v_type, ht_act_mode act, ht_isa isa,
                          int threads, uint32_t jitter)
{
    ht_error err = {0};

    memset(w, 0, sizeof(*w));
    w->shape = *shape;
    w->limits = (ht_ops_limits){.columns = COLUMNS, .sequences = SEQUENCES, .context = CONTEXT, .shape = *shape, .act = act};
    cr_assert_eq(ht_kv_layout_init(&w->limits.kv, shape, k_type, v_type, &err), 0, "%s", err.text);
    cr_assert_eq(ht_pool_open(&w->pool, &(ht_pool_options){.threads = threads, .jitter = jitter}, &err), 0);
    cr_assert_eq(ht_host_open(&w->b, &(ht_host_options){w->limits, w->pool, isa}, &err), 0, "%s", err.text);
    int64_t q = (int64_t)shape->n_heads * shape->head_dim, kv = (int64_t)shape->n_kv_heads * shape->head_dim;
    w->embd = matrix(1, HT_Q8_0, VOCAB, D);
    w->q = matrix(2, HT_Q4_K, q, D);
    w->k = matrix(3, HT_F16, kv, D);
    w->v = matrix(4, HT_Q6_K, kv, D);
    w->o = matrix(5, HT_Q8_0, D, q);
    w->gate = matrix(6, HT_Q4_0, F, D);
    w->up = matrix(7, HT_Q5_K, F, D);
    w->down = matrix(8, HT_F16, D, F);
    w->norm = noise_vector(9, D);
    w->q_bias = noise_vector(10, q);
    w->o_bias = noise_vector(11, D);
    w->gate_bias = noise_vector(12, F);
    w->head_norm = noise_vector(13, shape->head_dim);
    /* Poisoned: what is beyond a sequence's tokens must never matter. */
    w->kv = malloc(PAGES * w->limits.kv.page_bytes);
    memset(w->kv, 0xff, PAGES * w->limits.kv.page_bytes);
    for (int i = 0; i < PAGES; i++) w->page[i] = w->kv + (size_t)((i * 37) % PAGES) * w->limits.kv.page_bytes;
}

static void world_open(world *w, ht_act_mode act, ht_isa isa, int threads, uint32_t jitter)
{
    world_open_kv(w, &shape_plain, HT_F16, HT_Q8_0, act, isa, threads, jitter);
}

static void world_close(world *w)
{
    w->b->ops->close(w->b);
    ht_pool_close(&w->pool);
    const void *all[] = {w->embd.data, w->q.data, w->k.data, w->v.data, w->o.data, w->gate.data, w->up.data,
                         w->down.data, w->norm, w->q_bias, w->o_bias, w->gate_bias, w->head_norm, w->kv};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) free((void *)all[i]);
}

/* A step of columns (sequence, position) with made-up tokens; pages of sequence s are its own. */
typedef struct step_data {
    ht_step step;
    int32_t token[COLUMNS], position[COLUMNS], sequence[COLUMNS], length[SEQUENCES], table[SEQUENCES][32];
    const int32_t *pages[SEQUENCES];
} step_data;

static void step_reset(step_data *s, ht_class class_)
{
    memset(s, 0, sizeof(*s));
    s->step = (ht_step){.class_ = class_, .token = s->token, .position = s->position, .sequence = s->sequence,
                        .n_sequences = SEQUENCES, .pages = s->pages, .length = s->length};
    for (int i = 0; i < SEQUENCES; i++) {
        s->pages[i] = s->table[i];
        for (int j = 0; j < 32; j++) s->table[i][j] = i < 2 ? i * 24 + j : 48 + (i - 2) * 8 + j;
    }
}

static void step_add(step_data *s, int32_t sequence, int32_t begin, int32_t end)
{
    for (int32_t p = begin; p < end; p++) {
        int32_t c = s->step.n++;
        s->token[c] = (p * 7 + sequence * 13) % VOCAB;
        s->position[c] = p;
        s->sequence[c] = sequence;
    }
    if (end > s->length[sequence]) s->length[sequence] = end;
}

/* ---- naive code -------------------------------------------------------------------------------------------- */

static double *weights_of(const ht_matrix *m)
{
    double *w = malloc((size_t)(m->rows * m->cols) * sizeof(*w));
    float *row = malloc((size_t)m->cols * sizeof(*row));
    for (int64_t r = 0; r < m->rows; r++) {
        ht_type_get(m->type)->dequantize((const char *)m->data + (size_t)r * m->row_bytes, row, m->cols);
        for (int64_t i = 0; i < m->cols; i++) w[r * m->cols + i] = row[i];
    }
    free(row);
    return w;
}

static void naive_norm(double *y, const float *x, const float *gain, double eps, int64_t n)
{
    double s = 0.0;
    for (int64_t i = 0; i < n; i++) s += (double)x[i] * x[i];
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / sqrt(s / n + eps) * gain[i];
}

/* What 8-bit activations make of x. */
static void naive_round(double *x, int64_t n)
{
    for (int64_t b = 0; b < n; b += 32) {
        double top = 0.0;
        for (int i = 0; i < 32; i++) top = fmax(top, fabs(x[b + i]));
        for (int i = 0; i < 32; i++) x[b + i] = top > 0.0 ? rint(x[b + i] * 127.0 / top) * top / 127.0 : 0.0;
    }
}

static double naive_dot(const double *w, const double *x, int64_t n)
{
    double s = 0.0;
    for (int64_t i = 0; i < n; i++) s += w[i] * x[i];
    return s;
}

/* Compares y (n, rows) with W x + bias. Tolerances are of the size of the row's terms; a flip of a rounded activation
 * is a hundred times smaller than rounding all of them. */
static void check_product(const char *what, const ht_matrix *m, const float *bias, const float *y, const double *x,
                          int64_t n, double tolerance)
{
    double *w = weights_of(m);
    for (int64_t c = 0; c < n; c++)
        for (int64_t r = 0; r < m->rows; r++) {
            double want = naive_dot(w + r * m->cols, x + c * m->cols, m->cols) + (bias ? bias[r] : 0.0);
            cr_assert(fabs(y[c * m->rows + r] - want) <= tolerance, "%s column %d row %d: %g, not %g", what, (int)c,
                      (int)r, y[c * m->rows + r], want);
        }
    free(w);
}

static double tolerance_of(ht_act_mode act, ht_class class_, const ht_matrix *m)
{
    double term = 2e-5;
    if (act == HT_ACT_Q8 && m->type != HT_F16) term = 4e-3;
    /* In fixed point (cpu/fixed.h) weights of 0.2 and columns of 2 or 3 at most are off by 1e-5 and 2e-4 at most, so a product
     * of typical ones, 0.1 and 0.8, by 1.5e-5 as a rule; sums of them, by 3e-5 for each root of a term at most (measured). */
    else if (act == HT_ACT_Q8 && class_ == HT_CLASS_BLOCK) term = 4e-5;
    return term * sqrt((double)m->cols);
}

static void check_matrices(ht_act_mode act, ht_class class_, int32_t n, ht_isa isa)
{
    world w;
    step_data s;
    world_open_kv(&w, &shape_plain, HT_F16, HT_F16, act, isa, 2, 0);
    step_reset(&s, class_);
    step_add(&s, 0, 0, n);
    cr_assert_eq(w.b->ops->begin(w.b, &s.step, NULL), 0);

    float *x = noise_vector(20, (int64_t)n * D), *y[3], *h = malloc((size_t)n * F * sizeof(float));
    float *in = noise_vector(21, (int64_t)n * F), *sum = noise_vector(22, (int64_t)n * D);
    float *old = malloc((size_t)n * D * sizeof(float));
    double *xn = malloc((size_t)n * F * sizeof(double)), *xr = malloc((size_t)n * F * sizeof(double));
    for (int i = 0; i < 3; i++) y[i] = malloc((size_t)n * D * sizeof(float));
    ht_norm norm = {HT_NORM_RMS, 1e-5f, w.norm, NULL};
    for (int32_t c = 0; c < n; c++) naive_norm(xn + c * D, x + c * D, w.norm, 1e-5, D);
    memcpy(xr, xn, (size_t)n * D * sizeof(double));
    if (act == HT_ACT_Q8) naive_round(xr, (int64_t)n * D);

    w.b->ops->project(w.b, &(ht_project_args){x, norm, 3, {w.q, w.k, w.v}, {w.q_bias, NULL, NULL}, {y[0], y[1], y[2]}});
    check_product("q", &w.q, w.q_bias, y[0], xr, n, tolerance_of(act, class_, &w.q));
    check_product("k", &w.k, NULL, y[1], xn, n, tolerance_of(act, class_, &w.k));
    check_product("v", &w.v, NULL, y[2], xr, n, tolerance_of(act, class_, &w.v));

    w.b->ops->ffn(w.b, &(ht_ffn_args){x, norm, w.gate, w.up, w.gate_bias, NULL, HT_SILU, h});
    double *wg = weights_of(&w.gate), *wu = weights_of(&w.up);
    for (int32_t c = 0; c < n; c++)
        for (int32_t r = 0; r < F; r++) {
            double g = naive_dot(wg + r * D, xr + c * D, D) + w.gate_bias[r], u = naive_dot(wu + r * D, xr + c * D, D);
            cr_assert_float_eq(h[c * F + r], g / (1.0 + exp(-g)) * u,
                               tolerance_of(act, class_, &w.gate) * (2.0 + fabs(g) + fabs(u)), "ffn column %d row %d", c, r);
        }

    w.b->ops->ffn(w.b, &(ht_ffn_args){x, norm, {0}, w.up, NULL, w.gate_bias, HT_RELU, h});
    for (int32_t c = 0; c < n; c++)
        for (int32_t r = 0; r < F; r++) {
            double u = naive_dot(wu + r * D, xr + c * D, D) + w.gate_bias[r];
            cr_assert_float_eq(h[c * F + r], fmax(u, 0.0), tolerance_of(act, class_, &w.up), "plain ffn %d %d", c, r);
        }

    const ht_matrix *adds[] = {&w.o, &w.down};
    for (int a = 0; a < 2; a++) {
        int64_t values = (int64_t)n * adds[a]->cols;
        memcpy(old, sum, (size_t)n * D * sizeof(float));
        w.b->ops->add_project(w.b, &(ht_add_project_args){sum, *adds[a], w.o_bias, in});
        for (int64_t i = 0; i < values; i++) xr[i] = in[i];
        if (act == HT_ACT_Q8 && adds[a]->type != HT_F16) naive_round(xr, values);
        for (int64_t i = 0; i < (int64_t)n * D; i++) old[i] = sum[i] - old[i];
        check_product(a ? "down" : "o", adds[a], w.o_bias, old, xr, n, tolerance_of(act, class_, adds[a]));
    }

    for (int i = 0; i < 3; i++) free(y[i]);
    free(x), free(h), free(in), free(sum), free(old), free(xn), free(xr), free(wg), free(wu);
    world_close(&w);
}

Test(host, matrices_match_double_precision, .timeout = 120)
{
    static const int32_t n_of[] = {1, 3, 8, 11};
    for (int i = 0; i < 4; i++)
        for (int class_ = 0; class_ < 2; class_++)
            for (int act = 0; act < 2; act++)
                for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
                    check_matrices((ht_act_mode)act, (ht_class)class_, n_of[i], isa);
}

/* ---- attention --------------------------------------------------------------------------------------------- */

static void fill_kv(world *w, const step_data *s, int32_t sequence, int32_t tokens, uint64_t seed)
{
    const ht_kv_layout *kv = &w->limits.kv;
    ht_kernels k;
    int32_t e = kv->head_dim;
    float row[512];

    ht_kernels_init(&k, HT_ISA_REF);
    for (int32_t t = 0; t < tokens; t++)
        for (int32_t g = 0; g < kv->n_kv_heads; g++)
            for (int which = 0; which < 2; which++) {
                char *page = w->page[s->table[sequence][t / HT_KV_TILE]];
                size_t rows = (size_t)(g * HT_KV_TILE);
                for (int32_t i = 0; i < e; i++) row[i] = 2.0f * noise(seed, (((int64_t)t * 8 + g) * 2 + which) * e + i);
                if (which) k.kv_store[kv->v_type][1](row, page + kv->v_offset + rows * kv->v_row_bytes, t % HT_KV_TILE, e);
                else k.kv_store[kv->k_type][0](row, page + rows * kv->k_row_bytes, t % HT_KV_TILE, e);
            }
}

static void naive_attention(const world *w, const step_data *s, int32_t column, int32_t head, const float *q,
                            double scale, int32_t window, double *out)
{
    const ht_kv_layout *kv = &w->limits.kv;
    int32_t e = kv->head_dim, g = head / (w->shape.n_heads / kv->n_kv_heads), p = s->position[column];
    int32_t first = window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;
    double *score = malloc((size_t)(p + 1) * sizeof(double)), top = -INFINITY, sum = 0.0;
    float row[512];

    for (int32_t t = first; t <= p; t++) {
        const char *page = w->page[s->table[s->sequence[column]][t / HT_KV_TILE]];
        ht_kv_read_row(kv, page, false, g, t % HT_KV_TILE, row);
        score[t] = 0.0;
        for (int32_t i = 0; i < e; i++) score[t] += (double)q[i] * row[i] * scale;
        top = fmax(top, score[t]);
    }
    for (int32_t i = 0; i < e; i++) out[i] = 0.0;
    for (int32_t t = first; t <= p; t++) {
        const char *page = w->page[s->table[s->sequence[column]][t / HT_KV_TILE]];
        ht_kv_read_row(kv, page, true, g, t % HT_KV_TILE, row);
        sum += exp(score[t] - top);
        for (int32_t i = 0; i < e; i++) out[i] += exp(score[t] - top) * row[i];
    }
    for (int32_t i = 0; i < e; i++) out[i] /= sum;
    free(score);
}

static void check_attention(const ht_shape *shape, ht_type kt, ht_type vt, ht_class class_, int32_t begin, int32_t end,
                            int32_t window, ht_isa isa)
{
    world w;
    step_data s;
    int32_t width = shape->n_heads * shape->head_dim;

    world_open_kv(&w, shape, kt, vt, HT_ACT_F32, isa, 2, 0);
    step_reset(&s, class_);
    step_add(&s, 1, begin, end);
    step_add(&s, 3, 5, 8);
    fill_kv(&w, &s, 1, end, 31);
    fill_kv(&w, &s, 3, 8, 32);
    cr_assert_eq(w.b->ops->begin(w.b, &s.step, NULL), 0);
    float *q = noise_vector(33, (int64_t)s.step.n * width), *out = malloc((size_t)(s.step.n * width) * sizeof(float));
    double want[512], error = 3e-6;
    if (kt == HT_Q16 || vt == HT_Q16) error = 1e-4 + 2e-6 * shape->head_dim; /* queries, or weights, are rounded too */
    float scale = 1.0f / sqrtf((float)shape->head_dim);
    w.b->ops->attention(w.b, &(ht_attention_args){q, w.page, scale, 0, window, out});
    for (int32_t c = 0; c < s.step.n; c++)
        for (int32_t head = 0; head < shape->n_heads; head++) {
            int64_t at = (int64_t)c * width + head * shape->head_dim;
            naive_attention(&w, &s, c, head, q + at, scale, window, want);
            for (int32_t i = 0; i < shape->head_dim; i++)
                cr_assert(fabs(out[at + i] - want[i]) <= error, "%s KV %s/%s class %d e %d window %d column %d head %d: "
                          "%.9g, not %.9g", ht_isa_name(isa), ht_kv_type_name(kt), ht_kv_type_name(vt), class_,
                          shape->head_dim, window, c, head, out[at + i], want[i]);
        }
    free(q), free(out);
    world_close(&w);
}

Test(host, attention_matches_double_precision, .timeout = 240)
{
    static const int32_t dims[] = {32, 64, 80, 96, 128, 256};
    static const ht_type types[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0, HT_Q16};
    static const int32_t begins[] = {0, 60, 511, 1094};

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int class_ = 0; class_ < 2; class_++)
            for (int d = 0; d < 6; d++)
                for (int t = 0; t < 5; t++) {
                    ht_shape shape = shape_plain;
                    ht_type kt = types[t], vt = types[(t + d) % 5];
                    if (!ht_kv_type_fits(kt, dims[d]) || !ht_kv_type_fits(vt, dims[d])) continue;
                    shape.head_dim = dims[d];
                    shape.n_heads = d % 2 ? 6 : 1;
                    shape.n_kv_heads = d % 3 == 1 ? 2 : 1;
                    if (shape.n_heads % shape.n_kv_heads) shape.n_heads = 2;
                    shape.rope.dims = 32;
                    int32_t begin = begins[(d + t) % 4], window = (d + 2 * t) % 3 == 0 ? 70 : 0;
                    check_attention(&shape, kt, vt, (ht_class)class_, begin, begin + 6, window, isa);
                }
}

/* Partial results are weighed a tile of them at a time. A sequence that long has the same few pages again and again. */
Test(host, decode_merges_more_partial_results_than_a_tile_has_tokens, .timeout = 120)
{
    enum { GROUP = 8 * HT_KV_TILE, TOKENS = (HT_KV_TILE + 2) * GROUP + 17, OF_PAGES = 20, E = 32 };
    ht_shape shape = shape_plain;
    shape.n_heads = shape.n_kv_heads = 1;
    int32_t *table = malloc((size_t)ht_kv_pages_of(TOKENS) * sizeof(*table));
    double *score = malloc(TOKENS * sizeof(*score));
    float *q = noise_vector(33, E), out[E], row[E];

    for (int32_t i = 0; i < E; i++) q[i] *= 4.0f; /* so that maxima are far apart */
    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++) {
        world w;
        step_data s;
        ht_backend *b;
        double want[E] = {0}, top = -INFINITY, sum = 0.0;
        world_open_kv(&w, &shape, HT_F32, HT_F32, HT_ACT_F32, isa, 2, 0);
        w.limits.context = TOKENS;
        cr_assert_eq(ht_host_open(&b, &(ht_host_options){w.limits, w.pool, isa}, NULL), 0);
        step_reset(&s, HT_CLASS_DECODE);
        step_add(&s, 1, TOKENS - 1, TOKENS);
        fill_kv(&w, &s, 1, OF_PAGES * HT_KV_TILE, 31);
        for (int32_t i = 0; i < ht_kv_pages_of(TOKENS); i++) table[i] = s.table[1][i % OF_PAGES];
        s.pages[1] = table;
        cr_assert_eq(b->ops->begin(b, &s.step, NULL), 0);
        b->ops->attention(b, &(ht_attention_args){q, w.page, 0.25f, 0, 0, out});
        for (int32_t t = 0; t < TOKENS; t++) {
            ht_kv_read_row(&w.limits.kv, w.page[table[t / HT_KV_TILE]], false, 0, t % HT_KV_TILE, row);
            score[t] = 0.0;
            for (int32_t i = 0; i < E; i++) score[t] += 0.25 * q[i] * row[i];
            top = fmax(top, score[t]);
        }
        for (int32_t t = 0; t < TOKENS; t++) {
            ht_kv_read_row(&w.limits.kv, w.page[table[t / HT_KV_TILE]], true, 0, t % HT_KV_TILE, row);
            sum += exp(score[t] - top);
            for (int32_t i = 0; i < E; i++) want[i] += exp(score[t] - top) * row[i];
        }
        for (int32_t i = 0; i < E; i++)
            cr_assert_float_eq(out[i], want[i] / sum, 1e-5, "level %s element %d", ht_isa_name(isa), i);
        b->ops->close(b);
        world_close(&w);
    }
    free(table), free(score), free(q);
}

/* ---- RoPE and the KV pages --------------------------------------------------------------------------------- */

static double naive_theta(const ht_rope *r, const float *divisors, int32_t position, int32_t i)
{
    double f = pow(r->base, -2.0 * i / r->dims) / (divisors ? divisors[i] : 1.0);
    if (r->scaling == HT_ROPE_NONE) return position * f;
    if (r->scaling == HT_ROPE_LINEAR) return position * f / r->factor;
    double low = floor(r->dims * log(r->original_context / (r->beta_fast * 2.0 * M_PI)) / (2.0 * log(r->base)));
    double high = ceil(r->dims * log(r->original_context / (r->beta_slow * 2.0 * M_PI)) / (2.0 * log(r->base)));
    double ramp = (i - fmax(low, 0.0)) / (fmin(high, r->dims - 1.0) - fmax(low, 0.0));
    ramp = 1.0 - fmin(1.0, fmax(0.0, ramp));
    return position * (f / r->factor * (1.0 - ramp) + f * ramp);
}

static void check_rope(const ht_rope *rope, const float *divisors, bool normed, int32_t begin, int32_t end)
{
    world w;
    step_data s;
    ht_shape shape = shape_plain;
    int32_t e = shape.head_dim, g_n = shape.n_kv_heads, heads = shape.n_heads;

    shape.rope = *rope;
    world_open_kv(&w, &shape, HT_F32, HT_F32, HT_ACT_F32, ht_isa_detect(), 2, 0);
    step_reset(&s, HT_CLASS_BLOCK);
    step_add(&s, 1, begin, end);
    cr_assert_eq(w.b->ops->begin(w.b, &s.step, NULL), 0);
    int32_t n = s.step.n;
    float *q = noise_vector(41, (int64_t)n * heads * e), *k = noise_vector(42, (int64_t)n * g_n * e);
    float *q0 = noise_vector(41, (int64_t)n * heads * e), *k0 = noise_vector(42, (int64_t)n * g_n * e);
    float *v = noise_vector(43, (int64_t)n * g_n * e);
    const float *gain = normed ? w.head_norm : NULL;
    w.b->ops->rope_append(w.b, &(ht_rope_append_args){q, k, v, gain, gain, 1e-6f, divisors, 0, w.page});
    double magnitude = rope->attn_factor * (rope->scaling == HT_ROPE_YARN ? 1.0 + 0.1 * log(rope->factor) : 1.0);
    for (int32_t c = 0; c < n; c++) {
        int32_t p = s.position[c];
        const char *page = w.page[s.table[1][p / HT_KV_TILE]];
        for (int32_t head = 0; head < heads + g_n; head++) {
            bool is_k = head >= heads;
            int32_t g = head - heads;
            const float *in = is_k ? k0 + (c * g_n + g) * e : q0 + (c * heads + head) * e;
            size_t at = (size_t)(g * HT_KV_TILE + p % HT_KV_TILE);
            const float *out = is_k ? (const float *)(const void *)(page + at * w.limits.kv.k_row_bytes)
                                    : q + (c * heads + head) * e;
            double x[32];
            for (int32_t i = 0; i < e; i++) x[i] = in[i];
            if (normed) naive_norm(x, in, w.head_norm, 1e-6, e);
            for (int32_t i = 0; i < e; i++) {
                bool halves = rope->pairing == HT_ROPE_HALVES, second = halves ? i >= rope->dims / 2 : i % 2;
                int32_t pair = halves ? i % (rope->dims / 2) : i / 2, mate = halves ? (second ? pair : pair + rope->dims / 2) : i ^ 1;
                double want = x[i];
                if (i < rope->dims) {
                    double t = naive_theta(rope, divisors, p, pair);
                    want = magnitude * (second ? x[mate] * sin(t) + x[i] * cos(t) : x[i] * cos(t) - x[mate] * sin(t));
                }
                cr_assert(fabs(out[i] - want) <= 2e-6, "position %d head %d element %d: %g, not %g", p, head, i, out[i], want);
            }
            if (is_k)
                cr_assert_eq(memcmp(page + w.limits.kv.v_offset + at * w.limits.kv.v_row_bytes, v + (c * g_n + g) * e,
                                    (size_t)e * sizeof(float)), 0, "V of position %d", p);
        }
    }
    free(q), free(k), free(q0), free(k0), free(v);
    world_close(&w);
}

Test(host, rope_and_append_match_double_precision)
{
    ht_rope r = shape_plain.rope;
    float divisors[16];

    for (int i = 0; i < 16; i++) divisors[i] = 1.0f + (float)i / 4.0f;
    check_rope(&r, NULL, false, 0, 80);
    check_rope(&r, divisors, true, 1200, 1203);
    r.pairing = HT_ROPE_INTERLEAVED;
    r.dims = 20;
    check_rope(&r, NULL, false, 60, 70);
    r.scaling = HT_ROPE_LINEAR;
    r.factor = 4.0f;
    check_rope(&r, NULL, false, 1000, 1010);
    r = shape_plain.rope;
    r.scaling = HT_ROPE_YARN;
    r.factor = 8.0f;
    r.original_context = 160;
    r.beta_fast = 32.0f;
    r.beta_slow = 1.0f;
    r.ext_factor = 1.0f;
    r.attn_factor = 1.5f;
    check_rope(&r, NULL, true, 1100, 1120);
}

/* ---- the numeric contract ---------------------------------------------------------------------------------- */

/* One layer and the logits, as the engine calls it. x: (n, D), in and out; the logits are added to its beginning. */
static void layer(world *w, int32_t n, float *x)
{
    const ht_ops *o = w->b->ops;
    int64_t q_n = (int64_t)w->shape.n_heads * w->shape.head_dim, kv_n = (int64_t)w->shape.n_kv_heads * w->shape.head_dim;
    float *q = malloc((size_t)(n * q_n) * 4), *k = malloc((size_t)(n * kv_n) * 4), *v = malloc((size_t)(n * kv_n) * 4);
    float *out = malloc((size_t)(n * q_n) * 4), *h = malloc((size_t)n * F * 4), *logits = malloc((size_t)n * VOCAB * 4);
    ht_norm norm = {HT_NORM_RMS, 1e-5f, w->norm, NULL};
    uint64_t before = ht_guard_violations();

    ht_guard_enter();
    o->embed(w->b, &w->embd, 1.5f, x);
    o->project(w->b, &(ht_project_args){x, norm, 3, {w->q, w->k, w->v}, {w->q_bias, NULL, NULL}, {q, k, v}});
    o->rope_append(w->b, &(ht_rope_append_args){q, k, v, w->head_norm, NULL, 1e-5f, NULL, 0, w->page});
    o->attention(w->b, &(ht_attention_args){q, w->page, 0.17f, 0, 0, out});
    o->add_project(w->b, &(ht_add_project_args){x, w->o, w->o_bias, out});
    o->ffn(w->b, &(ht_ffn_args){x, norm, w->gate, w->up, NULL, NULL, HT_SILU, h});
    o->add_project(w->b, &(ht_add_project_args){x, w->down, NULL, h});
    o->project(w->b, &(ht_project_args){x, norm, 1, {w->embd}, {NULL}, {logits}});
    ht_guard_leave();
    cr_assert_eq(ht_guard_violations(), before, "an operation allocated memory");
    cr_assert_eq(o->sync(w->b, NULL), 0);
    for (int32_t c = 0; c < n; c++) /* so that they are compared too */
        for (int i = 0; i < VOCAB; i++) x[(int64_t)c * D + i] += logits[(int64_t)c * VOCAB + i];
    free(q), free(k), free(v), free(out), free(h), free(logits);
}

/* A sequence of `n` prompt tokens and `more` generated ones, in chunks, beside `others` more sequences. x: (n + more,
 * D) of the sequence alone. */
static void run_sequence(ht_act_mode act, ht_isa isa, int threads, uint32_t jitter, int32_t n, int32_t more,
                         const int32_t *chunk, int others, float *x)
{
    world w;
    step_data *s = malloc(sizeof(*s));
    float *step_x = malloc(COLUMNS * D * sizeof(float));

    world_open(&w, act, isa, threads, jitter);
    step_reset(s, HT_CLASS_BLOCK);
    for (int32_t at = 0, i = 0; at < n + more; i++) {
        bool prompt = at < n;
        int32_t end = at + chunk[i % 4];
        if (prompt && end > n) end = n;
        if (end > n + more) end = n + more;
        int32_t n_others = others * (i % 3 + 1);
        if (n_others > COLUMNS - (end - at)) n_others = COLUMNS - (end - at);
        s->step.n = 0;
        s->step.class_ = prompt ? HT_CLASS_BLOCK : HT_CLASS_DECODE;
        if (others) step_add(s, 0, i % 5, i % 5 + n_others);
        int32_t mine = s->step.n;
        step_add(s, 1, at, end);
        if (others > 1 && s->step.n + 2 <= COLUMNS) step_add(s, 2, i, i + 2);
        cr_assert_eq(w.b->ops->begin(w.b, &s->step, NULL), 0);
        layer(&w, s->step.n, step_x);
        memcpy(x + (int64_t)at * D, step_x + (int64_t)mine * D, (size_t)(end - at) * D * sizeof(float));
        at = end;
    }
    free(step_x), free(s);
    world_close(&w);
}

static void compare_bits(const char *what, const float *a, const float *b, int32_t n)
{
    for (int32_t c = 0; c < n; c++)
        cr_assert_eq(memcmp(a + (int64_t)c * D, b + (int64_t)c * D, D * sizeof(float)), 0, "%s: column %d differs", what, c);
}

static void check_contract_at(ht_act_mode act, ht_isa isa)
{
    enum { PROMPT = 150, MORE = 12, ALL = PROMPT + MORE };
    static const int32_t chunks[4][4] = {{160, 160, 160, 160}, {1, 1, 1, 1}, {64, 7, 33, 2}, {8, 8, 40, 9}};
    float *want = malloc(ALL * D * sizeof(float)), *got = malloc(ALL * D * sizeof(float));
    char what[100];

    run_sequence(act, isa, 1, 0, PROMPT, MORE, chunks[1], 0, want);
    for (int64_t i = 0; i < ALL * D; i++) cr_assert(isfinite(want[i]), "element %d is %g", (int)i, want[i]);
    for (int threads = 1; threads <= 4; threads++) {
        int others = threads % 3;
        run_sequence(act, isa, threads, (uint32_t)threads * 77, PROMPT, MORE, chunks[threads - 1], others, got);
        snprintf(what, sizeof(what), "%s, %d threads, chunks of %d, %d others", ht_isa_name(isa), threads,
                 chunks[threads - 1][0], others);
        compare_bits(what, got, want, ALL);
    }
    free(want), free(got);
}

/* The reference where a CPU has nothing better. */
static void check_contract(ht_act_mode act)
{
    ht_isa top = ht_isa_detect();
    for (ht_isa isa = top < HT_ISA_AVX2 ? top : HT_ISA_AVX2; isa <= top; isa++) check_contract_at(act, isa);
}

Test(host, bits_do_not_depend_on_threads_chunks_or_neighbours_q8, .timeout = 120) { check_contract(HT_ACT_Q8); }
Test(host, bits_do_not_depend_on_threads_chunks_or_neighbours_f32, .timeout = 120) { check_contract(HT_ACT_F32); }

/* Long enough for several groups of tiles, and so for merging. */
Test(host, long_decode_attention_does_not_depend_on_threads, .timeout = 120)
{
    float *out[3];
    ht_shape shape = shape_plain;
    int32_t width = shape.n_heads * shape.head_dim;

    for (int i = 0; i < 3; i++) {
        world w;
        step_data s;
        world_open_kv(&w, &shape, HT_F16, HT_F16, HT_ACT_Q8, ht_isa_detect(), i + 1, (uint32_t)i);
        step_reset(&s, HT_CLASS_DECODE);
        if (i > 0) step_add(&s, 0, 600, 600 + 9); /* the columns of interest move to another batch */
        fill_kv(&w, &s, 0, 1200, 51);
        int32_t mine = s.step.n;
        step_add(&s, 0, 1150, 1152);
        cr_assert_eq(w.b->ops->begin(w.b, &s.step, NULL), 0);
        float *q = malloc((size_t)(s.step.n * width) * sizeof(float)), *o = malloc((size_t)(s.step.n * width) * sizeof(float));
        for (int32_t x = 0; x < s.step.n * width; x++) q[x] = noise(52, x - mine * width);
        w.b->ops->attention(w.b, &(ht_attention_args){q, w.page, 0.2f, 0, 0, o});
        out[i] = malloc((size_t)(2 * width) * sizeof(float));
        memcpy(out[i], o + mine * width, (size_t)(2 * width) * sizeof(float));
        free(q), free(o);
        world_close(&w);
        if (i) cr_assert_eq(memcmp(out[0], out[i], (size_t)(2 * width) * sizeof(float)), 0, "%d threads", i + 1);
    }
    for (int i = 0; i < 3; i++) free(out[i]);
}

/* ---- the rest ---------------------------------------------------------------------------------------------- */

Test(host, select_gathers_columns_and_narrows_the_step)
{
    static const int32_t columns[] = {6, 2, 2, 0}, again[] = {3, 0};
    world w;
    step_data s;
    float x[7 * D], y[4 * D], z[4 * D], table[VOCAB * D];

    world_open(&w, HT_ACT_Q8, ht_isa_detect(), 1, 0);
    step_reset(&s, HT_CLASS_BLOCK);
    step_add(&s, 1, 10, 17);
    cr_assert_eq(w.b->ops->begin(w.b, &s.step, NULL), 0);
    for (int t = 0; t < VOCAB; t++)
        ht_type_get(HT_Q8_0)->dequantize((const char *)w.embd.data + t * w.embd.row_bytes, table + t * D, D);
    w.b->ops->embed(w.b, &w.embd, 1.0f, x);
    w.b->ops->select(w.b, y, x, columns, 4);
    w.b->ops->embed(w.b, &w.embd, 1.0f, z);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(memcmp(y + i * D, table + s.token[columns[i]] * D, sizeof(float) * D), 0, "column %d", i);
        cr_assert_eq(memcmp(z + i * D, y + i * D, sizeof(float) * D), 0, "the step's column %d", i);
    }
    w.b->ops->select(w.b, z, y, again, 2);
    w.b->ops->embed(w.b, &w.embd, 1.0f, y);
    cr_assert_eq(memcmp(y, table + s.token[0] * D, sizeof(float) * D), 0);
    cr_assert_eq(memcmp(y + D, table + s.token[6] * D, sizeof(float) * D), 0);
    world_close(&w);
}

Test(host, steps_beyond_the_limits_are_refused)
{
    world w;
    step_data s;
    ht_error err = {0};

    world_open(&w, HT_ACT_Q8, ht_isa_detect(), 1, 0);
    for (int i = 0; i < 6; i++) {
        step_reset(&s, HT_CLASS_BLOCK);
        step_add(&s, 0, 0, 5);
        if (i == 0) s.step.n = COLUMNS + 1;
        if (i == 1) s.step.n_sequences = SEQUENCES + 1;
        if (i == 2) s.length[0] = CONTEXT + 1;
        if (i == 3) s.sequence[3] = SEQUENCES;
        if (i == 4) s.position[4] = 5;
        if (i == 5) s.token[1] = VOCAB;
        err.text[0] = 0;
        cr_assert_eq(w.b->ops->begin(w.b, &s.step, &err), -EINVAL, "case %d", i);
        cr_assert(err.text[0] != 0, "case %d has no text", i);
    }
    world_close(&w);
}

static int open_host(void *context, ht_error *err)
{
    world *w = context;
    return ht_host_open(&w->b, &(ht_host_options){w->limits, w->pool, ht_isa_detect()}, err);
}

static void close_host(void *context)
{
    world *w = context;
    w->b->ops->close(w->b);
    w->b = NULL;
}

Test(host, open_survives_every_failed_allocation)
{
    world w;
    ht_backend *kept;

    world_open(&w, HT_ACT_Q8, ht_isa_detect(), 2, 0);
    kept = w.b;
    cr_assert_geq(test_fail_each_allocation(open_host, close_host, &w), 3);
    w.b = kept;
    w.limits.kv.v_type = HT_Q4_K;
    ht_error err = {0};
    cr_assert_eq(open_host(&w, &err), -ENOTSUP);
    cr_assert_not_null(strstr(err.text, "Q4_K"), "%s", err.text);
    w.b = kept;
    world_close(&w);
}

Test(host, buffers_are_freed_at_close_at_the_latest)
{
    ht_memory_stats before = ht_memory_get_stats();
    world w;
    void *p[3];

    world_open(&w, HT_ACT_Q8, ht_isa_detect(), 1, 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(w.b->ops->alloc(w.b, (size_t)1 << (10 + 6 * i), &p[i], NULL), 0);
        cr_assert_eq((uintptr_t)p[i] % 64, 0);
        memset(p[i], 1, (size_t)1 << (10 + 6 * i));
    }
    w.b->ops->free(w.b, p[1]);
    world_close(&w);
    ht_memory_stats after = ht_memory_get_stats();
    cr_assert_eq(after.live, before.live);
    cr_assert_eq(after.page_bytes, before.page_bytes);
}
