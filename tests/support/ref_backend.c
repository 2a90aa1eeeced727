/* The reference backend: see ref_backend.h. */
#include "tests/support/ref_backend.h"

#include "core/base/memory.h"

#include <math.h>
#include <string.h>

typedef struct ref_backend {
    ht_backend base;       /* first */
    ht_step step;          /* borrowed arrays, as the port allows */
    int32_t n;             /* columns now: fewer after select */
    float *row;            /* one dequantised weight row */
    float *normed;         /* (columns, widest input) */
    int64_t width;
    ht_ref_counts counts;
    int64_t fail_sync;
    void (*on_pass)(void *user);
    void *user;
} ref_backend;

static int ref_alloc(ht_backend *b, size_t bytes, void **out, ht_error *err)
{
    (void)b;
    *out = ht_calloc(1, bytes);
    return *out ? 0 : ht_fail(err, -ENOMEM, "reference backend: no memory for %zu bytes", bytes);
}

static void ref_free(ht_backend *b, void *p)
{
    (void)b;
    ht_free(p);
}

static int ref_copy(ht_backend *b, void *dst, const void *src, size_t bytes, ht_error *err)
{
    (void)b, (void)err;
    memcpy(dst, src, bytes);
    return 0;
}

static int ref_await(ht_backend *b, ht_event event, ht_error *err)
{
    (void)b;
    return ht_event_wait(event, err);
}

static int ref_sync(ht_backend *backend, ht_error *err)
{
    ref_backend *b = (ref_backend *)backend;
    if (b->fail_sync && --b->fail_sync == 0) return ht_fail(err, -EIO, "reference backend: sync failed on purpose");
    return 0;
}

/* ---- the rules of a step -------------------------------------------------------------------------------- */

static int check_step(const ht_step *s, const ht_ops_limits *lim, ht_error *err)
{
    int32_t next = 0;

    if (s->n < 1 || s->n > lim->columns || s->n_sequences < 1 || s->n_sequences > lim->sequences)
        return ht_fail(err, -EINVAL, "step of %d columns, %d sequences", s->n, s->n_sequences);
    for (int32_t q = 0; q < s->n_sequences; q++) {
        int32_t begin = next;
        while (next < s->n && s->sequence[next] == q) {
            if (next > begin && s->position[next] != s->position[next - 1] + 1)
                return ht_fail(err, -EINVAL, "column %d is out of order", next);
            if (s->token[next] < 0 || s->token[next] >= lim->shape.n_vocab)
                return ht_fail(err, -EINVAL, "column %d: token %d", next, s->token[next]);
            next++;
        }
        if (next == begin) return ht_fail(err, -EINVAL, "sequence %d has no column", q);
        if (s->length[q] != s->position[next - 1] + 1 || s->length[q] > lim->context)
            return ht_fail(err, -EINVAL, "sequence %d has length %d", q, s->length[q]);
    }
    return next == s->n ? 0 : ht_fail(err, -EINVAL, "column %d belongs to no sequence", next);
}

static int ref_begin(ht_backend *backend, const ht_step *step, ht_error *err)
{
    ref_backend *b = (ref_backend *)backend;
    b->step = *step;
    b->n = step->n;
    b->counts.steps++;
    b->counts.columns += step->n;
    if (step->class_ == HT_CLASS_BLOCK) b->counts.block_columns += step->n;
    if (step->n > b->counts.widest) b->counts.widest = step->n;
    return check_step(step, &backend->limits, err);
}

/* ---- arithmetic ----------------------------------------------------------------------------------------- */

static float dot(const ref_backend *b, const float *w, const float *x, int64_t n)
{
    float sum = 0;
    if (b->step.class_ == HT_CLASS_BLOCK)
        for (int64_t i = 0; i < n; i++) sum += w[i] * x[i];
    else
        for (int64_t i = n - 1; i >= 0; i--) sum += w[i] * x[i];
    return sum;
}

static const float *weight_row(ref_backend *b, const ht_matrix *m, int64_t r)
{
    ht_type_get(m->type)->dequantize((const char *)m->data + (size_t)r * m->row_bytes, b->row, m->cols);
    return b->row;
}

/* y (n, rows) = W x (n, cols) + bias */
static void multiply(ref_backend *b, const ht_matrix *m, const float *bias, const float *x, float *y, bool add)
{
    for (int64_t r = 0; r < m->rows; r++) {
        const float *w = weight_row(b, m, r);
        for (int32_t c = 0; c < b->n; c++) {
            float v = dot(b, w, x + c * m->cols, m->cols) + (bias ? bias[r] : 0);
            float *out = &y[c * m->rows + r];
            *out = add ? *out + v : v;
        }
    }
}

static void norm(float *y, const float *x, const ht_norm *a, int64_t n)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean = a->kind == HT_NORM_LAYER ? mean / (double)n : 0;
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(square / (double)n + a->eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * scale * (a->gain ? a->gain[i] : 1)) + (a->bias ? a->bias[i] : 0);
}

static const float *norm_columns(ref_backend *b, const float *x, const ht_norm *a, int64_t d)
{
    if (!a->gain) return x;
    for (int32_t c = 0; c < b->n; c++) norm(b->normed + c * d, x + c * d, a, d);
    return b->normed;
}

static void ref_embed(ht_backend *backend, const ht_matrix *table, float scale, float *x)
{
    ref_backend *b = (ref_backend *)backend;
    if (b->on_pass) b->on_pass(b->user);
    for (int32_t c = 0; c < b->n; c++) {
        const float *w = weight_row(b, table, b->step.token[c]);
        for (int64_t i = 0; i < table->cols; i++) x[c * table->cols + i] = scale * w[i];
    }
}

static void ref_project(ht_backend *backend, const ht_project_args *a)
{
    ref_backend *b = (ref_backend *)backend;
    const float *x = norm_columns(b, a->x, &a->norm, a->w[0].cols);
    for (int32_t i = 0; i < a->n_out; i++) multiply(b, &a->w[i], a->bias[i], x, a->y[i], false);
}

static void ref_add_project(ht_backend *backend, const ht_add_project_args *a)
{
    multiply((ref_backend *)backend, &a->w, a->bias, a->y, a->x, true);
}

static void ref_add_norm(ht_backend *backend, const ht_add_norm_args *a)
{
    ref_backend *b = (ref_backend *)backend;
    int64_t d = backend->limits.shape.n_embd;
    const float *y = norm_columns(b, a->y, &a->norm, d);
    for (int64_t i = 0; i < b->n * d; i++) a->x[i] += y[i];
}

static double activate(ht_activation kind, double g)
{
    switch (kind) {
    case HT_SILU: return g / (1 + exp(-g));
    case HT_RELU: return g > 0 ? g : 0;
    case HT_GELU: return 0.5 * g * (1 + erf(g * M_SQRT1_2));
    case HT_GELU_TANH: return 0.5 * g * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (g + 0.044715 * g * g * g)));
    }
    return NAN;
}

static void ref_ffn(ht_backend *backend, const ht_ffn_args *a)
{
    ref_backend *b = (ref_backend *)backend;
    const float *x = norm_columns(b, a->x, &a->norm, a->up.cols);
    int64_t f = a->up.rows;
    multiply(b, &a->up, a->up_bias, x, a->h, false);
    for (int64_t r = 0; r < f; r++) {
        const float *w = a->gate.data ? weight_row(b, &a->gate, r) : NULL;
        for (int32_t c = 0; c < b->n; c++) {
            float *h = &a->h[c * f + r];
            float g = w ? dot(b, w, x + c * a->gate.cols, a->gate.cols) + (a->gate_bias ? a->gate_bias[r] : 0) : *h;
            *h = (float)(activate(a->activation, g) * (w ? *h : 1));
        }
    }
}

/* ---- attention ------------------------------------------------------------------------------------------ */

static void turn(const ht_rope *r, const float *divisors, double local_base, int32_t position, float *head)
{
    double scale = r->scaling == HT_ROPE_LINEAR && !(local_base > 0) ? r->factor : 1; /* no YaRN here */
    double magnitude = r->attn_factor > 0 && !(local_base > 0) ? r->attn_factor : 1;
    int32_t half = r->dims / 2;
    for (int32_t i = 0; i < half; i++) {
        double angle = position / scale * pow(local_base > 0 ? local_base : r->base, -2.0 * i / r->dims);
        if (divisors && !(local_base > 0)) angle /= divisors[i];
        int32_t p = r->pairing == HT_ROPE_HALVES ? i : 2 * i, q = r->pairing == HT_ROPE_HALVES ? i + half : 2 * i + 1;
        double x = head[p], y = head[q], c = cos(angle) * magnitude, s = sin(angle) * magnitude;
        head[p] = (float)(x * c - y * s);
        head[q] = (float)(x * s + y * c);
    }
}

static float load(const void *row, ht_type type, int32_t i)
{
    return type == HT_F16 ? ht_half_to_float(((const ht_half *)row)[i]) : ((const float *)row)[i];
}

static void store(void *row, ht_type type, int32_t i, float v)
{
    if (type == HT_F16) ((ht_half *)row)[i] = ht_half_from_float(v);
    else ((float *)row)[i] = v;
}

static char *kv_row(const ref_backend *b, void *const *page, int32_t column_sequence, int32_t t, int32_t g, bool value)
{
    const ht_kv_layout *k = &b->base.limits.kv;
    char *p = page[b->step.pages[column_sequence][t / HT_KV_TILE]];
    size_t row = (size_t)g * HT_KV_TILE + (size_t)(t % HT_KV_TILE);
    return value ? p + k->v_offset + row * k->v_row_bytes : p + row * k->k_row_bytes;
}

static void ref_rope_append(ht_backend *backend, const ht_rope_append_args *a)
{
    ref_backend *b = (ref_backend *)backend;
    const ht_shape *s = &b->base.limits.shape;
    const ht_kv_layout *kv = &b->base.limits.kv;
    int32_t e = s->head_dim;
    ht_norm qn = {HT_NORM_RMS, a->norm_eps, a->q_norm, NULL}, kn = {HT_NORM_RMS, a->norm_eps, a->k_norm, NULL};
    for (int32_t c = 0; c < b->n; c++) {
        int32_t t = b->step.position[c], q = b->step.sequence[c];
        for (int32_t h = 0; h < s->n_heads; h++) {
            float *head = a->q + ((int64_t)c * s->n_heads + h) * e;
            if (a->q_norm) norm(head, head, &qn, e);
            turn(&s->rope, a->freqs, a->local_base, t, head);
        }
        for (int32_t g = 0; g < s->n_kv_heads; g++) {
            float *head = a->k + ((int64_t)c * s->n_kv_heads + g) * e;
            const float *v = a->v + ((int64_t)c * s->n_kv_heads + g) * e;
            if (a->k_norm) norm(head, head, &kn, e);
            turn(&s->rope, a->freqs, a->local_base, t, head);
            for (int32_t i = 0; i < e; i++) {
                store(kv_row(b, a->page, q, t, g, false), kv->k_type, i, head[i]);
                store(kv_row(b, a->page, q, t, g, true), kv->v_type, i, v[i]);
            }
        }
    }
}

static void attend(const ref_backend *b, const ht_attention_args *a, int32_t c, int32_t h)
{
    const ht_shape *s = &b->base.limits.shape;
    const ht_kv_layout *kv = &b->base.limits.kv;
    int32_t e = s->head_dim, g = h / (s->n_heads / s->n_kv_heads), seq = b->step.sequence[c], at = b->step.position[c];
    int32_t first = a->window && at + 1 > a->window ? at + 1 - a->window : 0;
    const float *q = a->q + ((int64_t)c * s->n_heads + h) * e;
    double acc[256] = {0}, sum = 0, max = -INFINITY;
    for (int32_t t = first; t <= at; t++) {
        const char *k = kv_row(b, a->page, seq, t, g, false), *v = kv_row(b, a->page, seq, t, g, true);
        double score = 0;
        for (int32_t i = 0; i < e; i++) score += (double)q[i] * load(k, kv->k_type, i);
        score *= a->scale;
        if (a->softcap > 0) score = a->softcap * tanh(score / a->softcap);
        double top = score > max ? score : max, old = exp(max - top), w = exp(score - top);
        for (int32_t i = 0; i < e; i++) acc[i] = acc[i] * old + w * load(v, kv->v_type, i);
        sum = sum * old + w;
        max = top;
    }
    for (int32_t i = 0; i < e; i++) a->out[((int64_t)c * s->n_heads + h) * e + i] = (float)(acc[i] / sum);
}

static void ref_attention(ht_backend *backend, const ht_attention_args *a)
{
    const ref_backend *b = (const ref_backend *)backend;
    for (int32_t c = 0; c < b->n; c++)
        for (int32_t h = 0; h < b->base.limits.shape.n_heads; h++) attend(b, a, c, h);
}

static void ref_select(ht_backend *backend, float *dst, const float *src, const int32_t *columns, int32_t m)
{
    ref_backend *b = (ref_backend *)backend;
    size_t d = (size_t)b->base.limits.shape.n_embd;
    for (int32_t i = 0; i < m; i++) memcpy(dst + (size_t)i * d, src + (size_t)columns[i] * d, d * sizeof *dst);
    b->n = m;
}

static void ref_close(ht_backend *backend)
{
    ref_backend *b = (ref_backend *)backend;
    if (!b) return;
    ht_free(b->row);
    ht_free(b->normed);
    ht_free(b);
}

static const ht_ops ref_ops = {
    .name = "reference",
    .alloc = ref_alloc,
    .free = ref_free,
    .upload = ref_copy,
    .download = ref_copy,
    .await = ref_await,
    .sync = ref_sync,
    .begin = ref_begin,
    .embed = ref_embed,
    .project = ref_project,
    .rope_append = ref_rope_append,
    .attention = ref_attention,
    .add_project = ref_add_project,
    .add_norm = ref_add_norm,
    .ffn = ref_ffn,
    .select = ref_select,
    .close = ref_close,
};

int ht_ref_backend_open(ht_backend **out, const ht_ops_limits *limits, ht_error *err)
{
    const ht_shape *s = &limits->shape;
    int64_t width = s->n_embd;

    *out = NULL;
    if (s->n_ff > width) width = s->n_ff;
    if (s->n_heads * s->head_dim > width) width = s->n_heads * s->head_dim;
    if (s->head_dim > 256) return ht_fail(err, -EINVAL, "reference backend: heads of more than 256 elements");
    ref_backend *b = ht_calloc(1, sizeof *b);
    if (!b) return ht_fail(err, -ENOMEM, "reference backend: no memory");
    b->base = (ht_backend){.ops = &ref_ops, .limits = *limits};
    b->width = width;
    b->row = ht_alloc((size_t)width, sizeof(float));
    b->normed = ht_alloc((size_t)(limits->columns * width), sizeof(float));
    if (!b->row || !b->normed) {
        ref_close(&b->base);
        return ht_fail(err, -ENOMEM, "reference backend: no memory");
    }
    *out = &b->base;
    return 0;
}

ht_ref_counts ht_ref_backend_counts(const ht_backend *b) { return ((const ref_backend *)b)->counts; }
void ht_ref_backend_fail_sync(ht_backend *b, int64_t n) { ((ref_backend *)b)->fail_sync = n; }

void ht_ref_backend_on_pass(ht_backend *b, void (*fn)(void *user), void *user)
{
    ((ref_backend *)b)->on_pass = fn;
    ((ref_backend *)b)->user = user;
}
