/* What a step computes on the device: each operation of the port as one to three launches, in the numeric class of the
 * step. Decode class of a dense layer with quantised weights: norm, QKV, RoPE + append, attention, merge, output
 * projection, norm, gate + up + activation, down: nine launches.
 *
 * Columns reach a product in one of three forms, chosen by class, activation mode and weight type: 8-bit blocks (decode,
 * block types), F16 (block class, tensor cores), F32 (the rest, and all of --act f32). */
#include "gpu/backend_internal.h"

#include <string.h>

/* ---- launches -------------------------------------------------------------------------------------------- */

/* A failed launch is remembered, and everything after it is skipped until sync. */
static bool failed(const gpu_backend *b) { return b->failure.code != 0; }

static void launched(gpu_backend *b, int code, const char *kernel)
{
    if (code && !failed(b)) (void)b->device->launched(&b->gpu->device, code, kernel, &b->failure);
}

static bool is_float(ht_type t) { return t == HT_F32 || t == HT_F16 || t == HT_BF16; }

/* ---- forms of columns ------------------------------------------------------------------------------------ */

typedef enum form { FORM_F32, FORM_Q8, FORM_F16 } form;

static form form_for(const gpu_backend *b, ht_type weights)
{
    if (b->base.limits.act == HT_ACT_F32) return FORM_F32;
    if (b->class_ == HT_CLASS_DECODE) return is_float(weights) ? FORM_F32 : FORM_Q8;
    return b->tensor_cores && weights != HT_F32 ? FORM_F16 : FORM_F32;
}

/* Columns of one source, in the forms that were made of them; NULL where they were not. */
typedef struct forms {
    const float *f32;
    const void *q8;
    const ht_half *f16;
} forms;

/* Norms x (n, cols) into all forms that the matrices want. Without a norm (or with one without gain) F32 is x itself,
 * and 8-bit columns may be there already. */
static forms prepare(gpu_backend *b, const float *x, int32_t cols, const ht_norm *norm, const ht_matrix *w, int32_t n_w)
{
    gpu_scratch *s = &b->scratch;
    ht_k_norm k = {.x = x, .n = b->n, .cols = cols, .kind = HT_K_NORM_NONE};
    forms out = {0};

    if (norm && !norm->gain) norm = NULL;
    if (norm) {
        k.kind = norm->kind == HT_NORM_LAYER ? HT_K_NORM_LAYER : HT_K_NORM_RMS;
        k.eps = norm->eps;
        k.gain = norm->gain;
        k.bias = norm->bias;
    }
    for (int32_t i = 0; i < n_w; i++) {
        switch (w[i].data ? form_for(b, w[i].type) : FORM_F32) {
        case FORM_F32: out.f32 = norm ? (k.f32 = s->normed) : x; break;
        case FORM_Q8: out.q8 = !norm && b->twin_of == x ? s->twin : (k.q8 = s->q8); break;
        case FORM_F16:
            out.f16 = k.f16 = s->f16;
            k.f16_scale = s->f16_scale;
            break;
        }
    }
    if (k.f32 || k.q8 || k.f16) launched(b, b->gpu->kernels.norm(&k, b->stream), "norm");
    return out;
}

/* ---- products -------------------------------------------------------------------------------------------- */

static ht_k_rows rows_of(const ht_matrix *w, const float *bias, float *y)
{
    return (ht_k_rows){.w = w->data, .row_bytes = (int64_t)w->row_bytes, .rows = (int32_t)w->rows, .bias = bias, .y = y};
}

/* y = W x + bias for neighbours of one type in one launch. */
static void multiply_decode(gpu_backend *b, const forms *x, const ht_matrix *w, const float *const *bias,
                            float *const *y, int32_t n_out, int add)
{
    for (int32_t i = 0; i < n_out;) {
        form f = form_for(b, w[i].type);
        ht_k_matvec k = {
            .type = w[i].type,
            .cols = (int32_t)w[i].cols,
            .n = b->n,
            .add = add,
            .q8 = f == FORM_Q8,
            .x = f == FORM_Q8 ? x->q8 : x->f32,
            .x_bytes = f == FORM_Q8 ? (int64_t)HT_K_ACT_STRIDE(w[i].cols) : w[i].cols * (int64_t)sizeof(float),
        };
        for (; i < n_out && w[i].type == k.type; i++) k.out[k.n_out++] = rows_of(&w[i], bias[i], y[i]);
        launched(b, b->gpu->kernels.matvec(&k, b->stream), "matvec");
    }
}

static void multiply_block(gpu_backend *b, const forms *x, const ht_matrix *w, const float *bias, float *y, int add)
{
    bool half = form_for(b, w->type) == FORM_F16;
    ht_k_matmat k = {
        .type = w->type,
        .out = rows_of(w, bias, y),
        .cols = (int32_t)w->cols,
        .n = b->n,
        .add = add,
        .x = half ? NULL : x->f32,
        .x_f16 = half ? x->f16 : NULL,
        .x_scale = half ? b->scratch.f16_scale : NULL,
    };
    launched(b, b->gpu->kernels.matmat(&k, b->stream), "matmat");
}

static void multiply(gpu_backend *b, const forms *x, const ht_matrix *w, const float *const *bias, float *const *y,
                     int32_t n_out, int add)
{
    if (b->class_ == HT_CLASS_DECODE) {
        multiply_decode(b, x, w, bias, y, n_out, add);
        return;
    }
    for (int32_t i = 0; i < n_out; i++) multiply_block(b, x, &w[i], bias[i], y[i], add);
}

void gpu_backend_project(ht_backend *base, const ht_project_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (failed(b) || !b->n) return;
    forms x = prepare(b, a->x, (int32_t)a->w[0].cols, &a->norm, a->w, a->n_out);
    multiply(b, &x, a->w, a->bias, a->y, a->n_out, 0);
}

void gpu_backend_add_project(ht_backend *base, const ht_add_project_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (failed(b) || !b->n) return;
    forms y = prepare(b, a->y, (int32_t)a->w.cols, NULL, &a->w, 1);
    multiply(b, &y, &a->w, &a->bias, &a->x, 1, 1);
}

/* ---- FFN ------------------------------------------------------------------------------------------------- */

/* Gate and up of one type, in the decode class: one launch, with h quantised for the second half. */
static bool ffn_fused(gpu_backend *b, const ht_ffn_args *a, const forms *x)
{
    form f = form_for(b, a->up.type);
    bool quantise = b->base.limits.act == HT_ACT_Q8 && a->up.rows % HT_QK == 0;

    if (b->class_ != HT_CLASS_DECODE || (a->gate.data && a->gate.type != a->up.type)) return false;
    ht_k_glu k = {
        .type = a->up.type,
        .gate = a->gate.data,
        .up = a->up.data,
        .row_bytes = (int64_t)a->up.row_bytes,
        .f = (int32_t)a->up.rows,
        .cols = (int32_t)a->up.cols,
        .n = b->n,
        .activation = (int32_t)a->activation,
        .q8 = f == FORM_Q8,
        .x = f == FORM_Q8 ? x->q8 : x->f32,
        .x_bytes = f == FORM_Q8 ? (int64_t)HT_K_ACT_STRIDE(a->up.cols) : a->up.cols * (int64_t)sizeof(float),
        .gate_bias = a->gate_bias,
        .up_bias = a->up_bias,
        .h = a->h,
        .h_q8 = quantise ? b->scratch.twin : NULL,
    };
    launched(b, b->gpu->kernels.glu(&k, b->stream), "glu");
    b->twin_of = quantise ? a->h : NULL;
    return true;
}

void gpu_backend_ffn(ht_backend *base, const ht_ffn_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    const ht_matrix w[2] = {a->up, a->gate};
    const float *const bias[2] = {a->up_bias, a->gate_bias};
    float *const y[2] = {a->gate.data ? b->scratch.second : a->h, a->h};
    int32_t n = a->gate.data ? 2 : 1;

    if (failed(b) || !b->n) return;
    b->twin_of = NULL;
    forms x = prepare(b, a->x, (int32_t)a->up.cols, &a->norm, w, n);
    if (ffn_fused(b, a, &x)) return;
    multiply(b, &x, w, bias, y, n, 0);
    ht_k_activate k = {
        .g = a->h,
        .u = a->gate.data ? b->scratch.second : NULL,
        .h = a->h,
        .n = (int64_t)b->n * a->up.rows,
        .activation = (int32_t)a->activation,
    };
    launched(b, b->gpu->kernels.activate(&k, b->stream), "activate");
}

/* ---- attention ------------------------------------------------------------------------------------------- */

static ht_k_pages pages_of(const gpu_backend *b, void *const *page)
{
    const ht_kv_layout *kv = &b->base.limits.kv;

    return (ht_k_pages){
        .page = page,
        .table = b->table,
        .stride = b->table_stride,
        .sequence = b->sequence,
        .position = b->position,
        .k_type = kv->k_type,
        .v_type = kv->v_type,
        .k_row_bytes = (int64_t)kv->k_row_bytes,
        .v_row_bytes = (int64_t)kv->v_row_bytes,
        .v_offset = (int64_t)kv->v_offset,
    };
}

/* The angles are the same for all layers whose divisors are the same. */
static void find_angles(gpu_backend *b, const float *divisor)
{
    ht_k_angles k = {
        .position = b->position,
        .frequency = b->scratch.frequency,
        .divisor = divisor,
        .magnitude = b->magnitude,
        .n = b->n,
        .pairs = b->pairs,
        .angles = b->scratch.angles,
    };

    if (!b->pairs || (b->angles_known && b->angles_divisor == divisor)) return;
    launched(b, b->gpu->kernels.angles(&k, b->stream), "angles");
    b->angles_known = true;
    b->angles_divisor = divisor;
}

void gpu_backend_rope_append(ht_backend *base, const ht_rope_append_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    const ht_shape *s = &base->limits.shape;

    if (failed(b) || !b->n) return;
    find_angles(b, a->freqs);
    ht_k_rope_append k = {
        .q = a->q,
        .k = a->k,
        .v = a->v,
        .q_norm = a->q_norm,
        .k_norm = a->k_norm,
        .eps = a->norm_eps,
        .angles = b->scratch.angles,
        .n = b->n,
        .heads = s->n_heads,
        .kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .pairs = b->pairs,
        .halves = s->rope.pairing == HT_ROPE_HALVES,
        .pages = pages_of(b, a->page),
    };
    launched(b, b->gpu->kernels.rope_append(&k, b->stream), "rope_append");
}

static ht_k_attend attend_args(const gpu_backend *b, const ht_attention_args *a)
{
    const ht_shape *s = &b->base.limits.shape;

    return (ht_k_attend){
        .q = a->q,
        .groups = b->groups,
        .n_groups = b->n_groups,
        .columns_per_group = b->columns_per_group,
        .heads = s->n_heads,
        .kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .window = a->window,
        .scale = a->scale,
        .pages = pages_of(b, a->page),
        .splits = 1,
        .split_tiles = b->table_stride,
    };
}

/* Columns [first, first + n) over split sequences: the partial results of n <= HT_K_COLUMNS columns fit the scratch. */
static void attend_splits(gpu_backend *b, const ht_attention_args *a, int32_t first, int32_t n, bool quantise)
{
    const ht_shape *s = &b->base.limits.shape;
    ht_k_attend k = attend_args(b, a);
    int64_t width = (int64_t)s->n_heads * s->head_dim;

    k.q += first * width;
    k.pages.sequence += first;
    k.pages.position += first;
    k.n_groups = n; /* the first n groups: columns 0 .. n - 1 of what q points at */
    k.splits = b->step_splits;
    k.split_tiles = b->split_tiles;
    k.max = b->scratch.split_max;
    k.sum = b->scratch.split_sum;
    k.acc = b->scratch.split_acc;
    launched(b, b->gpu->kernels.attend(&k, b->stream), "attend");
    ht_k_merge m = {
        .max = k.max,
        .sum = k.sum,
        .acc = k.acc,
        .n = n,
        .heads = s->n_heads,
        .head_dim = s->head_dim,
        .splits = k.splits,
        .out = a->out + first * width,
        .q8 = quantise ? b->scratch.twin + (size_t)first * HT_K_ACT_STRIDE(width) : NULL,
    };
    launched(b, b->gpu->kernels.merge(&m, b->stream), "merge");
}

void gpu_backend_attention(ht_backend *base, const ht_attention_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (failed(b) || !b->n) return;
    b->twin_of = NULL;
    if (b->class_ == HT_CLASS_BLOCK) {
        ht_k_attend k = attend_args(b, a);
        k.out = a->out;
        launched(b, b->gpu->kernels.attend(&k, b->stream), "attend");
        return;
    }
    bool quantise = base->limits.act == HT_ACT_Q8 && base->limits.shape.head_dim % HT_QK == 0;
    for (int32_t c = 0; c < b->n; c += HT_K_COLUMNS)
        attend_splits(b, a, c, b->n - c < HT_K_COLUMNS ? b->n - c : HT_K_COLUMNS, quantise);
    if (quantise) b->twin_of = a->out;
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

void gpu_backend_embed(ht_backend *base, const ht_matrix *table, float scale, float *x)
{
    gpu_backend *b = gpu_backend_of(base);

    if (failed(b) || !b->n) return;
    ht_k_embed k = {
        .type = table->type,
        .table = table->data,
        .row_bytes = (int64_t)table->row_bytes,
        .token = b->token,
        .n = b->n,
        .cols = (int32_t)table->cols,
        .scale = scale,
        .x = x,
    };
    launched(b, b->gpu->kernels.embed(&k, b->stream), "embed");
}

void gpu_backend_select(ht_backend *base, float *dst, const float *src, const int32_t *columns, int32_t m)
{
    gpu_backend *b = gpu_backend_of(base);

    b->n = m;
    if (failed(b) || !m) return;
    if (b->twin_of == dst) b->twin_of = NULL;
    if (gpu_backend_post(b, b->scratch.chosen, columns, (size_t)m * sizeof *columns, &b->failure) < 0) return;
    ht_k_gather k = {.dst = dst, .src = src, .columns = b->scratch.chosen, .m = m, .cols = base->limits.shape.n_embd};
    launched(b, b->gpu->kernels.gather(&k, b->stream), "gather");
}
