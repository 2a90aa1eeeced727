/* What a step computes on the device: each operation of the port as commands (backend_queue.c), in the numeric class of
 * the step. The decode class of a dense layer is six launches where Q, K and V are of one type, else seven: norm +
 * quantise + QKV, RoPE + append, attention, output projection, norm + quantise + gate + up + activation, down.
 *
 * Columns reach a product in one of three forms, chosen by class, activation mode and weight type: 8-bit blocks (decode,
 * block types), F16 (block class, tensor cores), F32 (the rest, and all of --act f32). */
#include "gpu/backend_internal.h"

#include <string.h>

static bool is_float(ht_type t) { return t == HT_F32 || t == HT_F16 || t == HT_BF16; }

/* ---- forms of columns ------------------------------------------------------------------------------------ */

typedef enum form { FORM_F32, FORM_Q8, FORM_F16 } form;

static form form_for(const gpu_backend *b, ht_type weights)
{
    if (b->base.limits.act == HT_ACT_F32) return FORM_F32;
    if (b->class_ == HT_CLASS_DECODE) return is_float(weights) ? FORM_F32 : FORM_Q8;
    return b->tensor_cores && weights != HT_F32 ? FORM_F16 : FORM_F32;
}

/* The columns of an operation: x, its norm, and which forms were made of it. */
typedef struct operand {
    const float *x;
    const ht_norm *norm; /* NULL: as it is */
    int32_t cols;
    bool made[FORM_F16 + 1];
} operand;

static operand operand_of(const float *x, const ht_norm *norm, int64_t cols)
{
    return (operand){.x = x, .norm = norm && norm->gain ? norm : NULL, .cols = (int32_t)cols};
}

static void set_norm(ht_k_affine *out, const ht_norm *norm)
{
    out->kind = !norm ? HT_K_NORM_NONE : norm->kind == HT_NORM_LAYER ? HT_K_NORM_LAYER : HT_K_NORM_RMS;
    if (!norm) return;
    out->eps = norm->eps;
    out->gain = norm->gain;
    out->bias = norm->bias;
}

/* The columns in a form, made in a launch of its own the first time it is asked for. */
static const void *in_form(gpu_backend *b, operand *x, form f)
{
    gpu_scratch *s = &b->scratch;

    if (f == FORM_F32 && !x->norm) return x->x;
    if (f == FORM_Q8 && !x->norm && b->twin_of == x->x) return s->twin;
    if (!x->made[f]) {
        gpu_command *c = gpu_backend_command(b, GPU_NORM);
        ht_k_norm *k = &c->u.norm;
        k->x = x->x;
        k->n = b->n;
        k->cols = x->cols;
        set_norm(&k->norm, x->norm);
        if (f == FORM_F32) k->f32 = s->normed;
        if (f == FORM_Q8) k->q8 = s->q8;
        if (f == FORM_F16) k->f16 = s->f16, k->f16_scale = s->f16_scale;
        gpu_backend_submit(b, c);
        x->made[f] = true;
    }
    return f == FORM_F32 ? (const void *)s->normed : f == FORM_Q8 ? (const void *)s->q8 : (const void *)s->f16;
}

/* The columns of a decode-class product: as they are, or normed and quantised by the product itself, or before it. */
static void set_columns(gpu_backend *b, operand *x, form f, ht_k_columns *k)
{
    bool ready = !x->norm && (f == FORM_F32 || b->twin_of == x->x);

    memset(k, 0, sizeof *k);
    k->cols = x->cols;
    k->n = b->n;
    k->q8 = f == FORM_Q8;
    k->fused = !ready && ht_k_can_fuse(x->cols, b->n, k->q8);
    k->bytes = k->q8 && !k->fused ? (int64_t)HT_K_ACT_STRIDE(x->cols) : x->cols * (int64_t)sizeof(float);
    if (k->fused) {
        k->x = x->x;
        k->blocks = b->resident_blocks;
        set_norm(&k->norm, x->norm);
    } else {
        k->x = in_form(b, x, f);
    }
}

/* ---- products -------------------------------------------------------------------------------------------- */

static void set_rows(ht_k_rows *out, const ht_matrix *w, const float *bias, float *y)
{
    out->w = w->data;
    out->row_bytes = (int64_t)w->row_bytes;
    out->rows = w->rows;
    out->bias = bias;
    out->y = y;
}

/* y = W x + bias for neighbours of one type in one launch. */
static void multiply_decode(gpu_backend *b, operand *x, const ht_matrix *w, const float *const *bias, float *const *y,
                            int32_t n_out, int add)
{
    for (int32_t i = 0; i < n_out;) {
        ht_k_columns in;
        ht_type type = w[i].type;
        set_columns(b, x, form_for(b, type), &in);
        gpu_command *c = gpu_backend_command(b, GPU_MATVEC);
        ht_k_matvec *k = &c->u.matvec;
        k->type = type;
        k->add = add;
        k->x = in;
        for (; i < n_out && w[i].type == type; i++) set_rows(&k->out[k->n_out++], &w[i], bias[i], y[i]);
        gpu_backend_submit(b, c);
    }
}

static void multiply_block(gpu_backend *b, operand *x, const ht_matrix *w, const float *bias, float *y, int add)
{
    form f = form_for(b, w->type);
    const void *in = in_form(b, x, f);
    gpu_command *c = gpu_backend_command(b, GPU_MATMAT);
    ht_k_matmat *k = &c->u.matmat;

    k->type = w->type;
    set_rows(&k->out, w, bias, y);
    k->cols = (int32_t)w->cols;
    k->n = b->n;
    k->add = add;
    k->x = f == FORM_F16 ? NULL : in;
    k->x_f16 = f == FORM_F16 ? in : NULL;
    k->x_scale = f == FORM_F16 ? b->scratch.f16_scale : NULL;
    k->multiprocessors = b->multiprocessors;
    gpu_backend_submit(b, c);
}

static void multiply(gpu_backend *b, operand *x, const ht_matrix *w, const float *const *bias, float *const *y,
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
    operand x = operand_of(a->x, &a->norm, a->w[0].cols);

    if (gpu_backend_failed(b) || !b->n) return;
    multiply(b, &x, a->w, a->bias, a->y, a->n_out, 0);
}

void gpu_backend_add_project(ht_backend *base, const ht_add_project_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    operand y = operand_of(a->y, NULL, a->w.cols);

    if (gpu_backend_failed(b) || !b->n) return;
    multiply(b, &y, &a->w, &a->bias, &a->x, 1, 1);
}

/* x += norm(y): after a product that was not added at once, because its result is normed first. */
void gpu_backend_add_norm(ht_backend *base, const ht_add_norm_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (gpu_backend_failed(b) || !b->n) return;
    gpu_command *c = gpu_backend_command(b, GPU_NORM);
    ht_k_norm *k = &c->u.norm;
    k->x = a->y;
    k->n = b->n;
    k->cols = base->limits.shape.n_embd;
    set_norm(&k->norm, a->norm.gain ? &a->norm : NULL);
    k->add = 1;
    k->f32 = a->x;
    gpu_backend_submit(b, c);
}

/* ---- FFN ------------------------------------------------------------------------------------------------- */

/* Gate and up of one type, in the decode class: one launch, with h quantised for the second half. */
static bool ffn_fused(gpu_backend *b, const ht_ffn_args *a, operand *x)
{
    bool quantise = b->base.limits.act == HT_ACT_Q8 && a->up.rows % HT_QK == 0;
    ht_k_columns in;

    if (b->class_ != HT_CLASS_DECODE || (a->gate.data && a->gate.type != a->up.type)) return false;
    set_columns(b, x, form_for(b, a->up.type), &in);
    gpu_command *c = gpu_backend_command(b, GPU_GLU);
    ht_k_glu *k = &c->u.glu;
    k->type = a->up.type;
    k->gate = a->gate.data;
    k->up = a->up.data;
    k->row_bytes = (int64_t)a->up.row_bytes;
    k->f = (int32_t)a->up.rows;
    k->activation = (int32_t)a->activation;
    k->x = in;
    k->gate_bias = a->gate_bias;
    k->up_bias = a->up_bias;
    k->h = a->h;
    k->h_q8 = quantise ? b->scratch.twin : NULL;
    gpu_backend_submit(b, c);
    b->twin_of = quantise ? a->h : NULL;
    return true;
}

void gpu_backend_ffn(ht_backend *base, const ht_ffn_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    const ht_matrix w[2] = {a->up, a->gate};
    const float *const bias[2] = {a->up_bias, a->gate_bias};
    float *const y[2] = {a->gate.data ? b->scratch.second : a->h, a->h};
    operand x = operand_of(a->x, &a->norm, a->up.cols);

    if (gpu_backend_failed(b) || !b->n) return;
    b->twin_of = NULL;
    if (ffn_fused(b, a, &x)) return;
    multiply(b, &x, w, bias, y, a->gate.data ? 2 : 1, 0);
    gpu_command *c = gpu_backend_command(b, GPU_ACTIVATE);
    ht_k_activate *k = &c->u.activate;
    k->g = a->h;
    k->u = a->gate.data ? b->scratch.second : NULL;
    k->h = a->h;
    k->n = (int64_t)b->n * a->up.rows;
    k->activation = (int32_t)a->activation;
    gpu_backend_submit(b, c);
}

void gpu_backend_active(ht_backend *base, const ht_active_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (gpu_backend_failed(b)) return;
    for (int32_t i = 0; i < b->n; i++) {
        gpu_command *c = gpu_backend_command(b, GPU_ACTIVE);
        ht_k_active *k = &c->u.active;
        k->h = a->h + (int64_t)i * a->f;
        k->f = a->f;
        k->threshold = a->threshold;
        k->list = a->list + (int64_t)i * a->f;
        k->n_active = a->count + i;
        gpu_backend_submit(b, c);
    }
}

/* h *= up norm(x) + bias for the listed neurons of column i. */
static void multiply_up(gpu_backend *b, const ht_payload_args *a, operand *x, int32_t i)
{
    ht_k_columns in;

    set_columns(b, x, form_for(b, a->up.type), &in);
    gpu_command *c = gpu_backend_command(b, GPU_UP);
    ht_k_up *k = &c->u.up;
    k->type = a->up.type;
    k->f = (int32_t)a->up.rows;
    k->row_bytes = (int64_t)a->up.row_bytes;
    k->up = a->up.data;
    k->bias = a->up_bias;
    k->x = in;
    k->x.x = (const uint8_t *)in.x + i * in.bytes;
    k->x.n = 1;
    k->list = a->list + i * a->up.rows;
    k->n_active = a->count + i;
    k->h = a->h + i * a->up.rows;
    gpu_backend_submit(b, c);
}

void gpu_backend_payload(ht_backend *base, const ht_payload_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    operand x = operand_of(a->x, &a->norm, a->up.cols);
    int64_t f = a->down.rows, d = a->down.cols;

    if (gpu_backend_failed(b)) return;
    if (b->twin_of == a->h || b->twin_of == a->y) b->twin_of = NULL;
    for (int32_t i = 0; i < b->n; i++) {
        if (a->up.data) multiply_up(b, a, &x, i);
        gpu_command *c = gpu_backend_command(b, GPU_AXPY);
        ht_k_axpy *k = &c->u.axpy;
        k->type = a->down.type;
        k->f = (int32_t)f;
        k->cols = (int32_t)d;
        k->first = a->first;
        k->row_bytes = (int64_t)a->down.row_bytes;
        k->down = a->down.data;
        k->h = a->h + i * f;
        k->list = a->list + i * f;
        k->n_active = a->count + i;
        k->partial = b->scratch.partial;
        k->x = a->y + i * d;
        gpu_backend_submit(b, c);
    }
}

/* ---- attention ------------------------------------------------------------------------------------------- */

static void set_pages(const gpu_backend *b, void *const *page, ht_k_pages *out)
{
    const ht_kv_layout *kv = &b->base.limits.kv;

    out->page = page;
    out->table = b->table;
    out->stride = b->table_stride;
    out->sequence = b->sequence;
    out->position = b->position;
    out->k_type = kv->k_type;
    out->v_type = kv->v_type;
    out->k_row_bytes = (int64_t)kv->k_row_bytes;
    out->v_row_bytes = (int64_t)kv->v_row_bytes;
    out->v_offset = (int64_t)kv->v_offset;
}

/* The angles are the same for all layers of a kind whose divisors are the same. Layers with a base of their own know no
 * divisors and no magnitude. */
static const float *find_angles(gpu_backend *b, const float *divisor, bool local)
{
    float *angles = b->scratch.angles + (local ? (size_t)b->base.limits.columns * (size_t)b->pairs * 2 : 0);

    if (local) divisor = NULL;
    if (!b->pairs || (b->angles_known[local] && (local || b->angles_divisor == divisor))) return angles;
    gpu_command *c = gpu_backend_command(b, GPU_ANGLES);
    ht_k_angles *k = &c->u.angles;
    k->position = b->position;
    k->frequency = b->scratch.frequency + (local ? b->pairs : 0);
    k->divisor = divisor;
    k->magnitude = local ? 1.0f : b->magnitude;
    k->n = b->n;
    k->pairs = b->pairs;
    k->angles = angles;
    gpu_backend_submit(b, c);
    b->angles_known[local] = true;
    if (!local) b->angles_divisor = divisor;
    return angles;
}

void gpu_backend_rope_append(ht_backend *base, const ht_rope_append_args *a)
{
    gpu_backend *b = gpu_backend_of(base);
    const ht_shape *s = &base->limits.shape;

    if (gpu_backend_failed(b) || !b->n) return;
    const float *angles = find_angles(b, a->freqs, a->local_base > 0.0f);
    gpu_command *c = gpu_backend_command(b, GPU_ROPE_APPEND);
    ht_k_rope_append *k = &c->u.rope_append;
    k->q = a->q;
    k->k = a->k;
    k->v = a->v;
    k->q_norm = a->q_norm;
    k->k_norm = a->k_norm;
    k->eps = a->norm_eps;
    k->angles = angles;
    k->n = b->n;
    k->heads = s->n_heads;
    k->kv_heads = s->n_kv_heads;
    k->head_dim = s->head_dim;
    k->pairs = b->pairs;
    k->halves = s->rope.pairing == HT_ROPE_HALVES;
    set_pages(b, a->page, &k->pages);
    gpu_backend_submit(b, c);
}

/* Columns from `first` on, in n_groups groups; `splits` of the fixed splits of a sequence. */
static void attend(gpu_backend *b, const ht_attention_args *a, int32_t first, int32_t n_groups, int32_t splits,
                   bool quantise)
{
    const ht_shape *s = &b->base.limits.shape;
    int64_t width = (int64_t)s->n_heads * s->head_dim;
    gpu_command *c = gpu_backend_command(b, GPU_ATTEND);
    ht_k_attend *k = &c->u.attend;

    k->q = a->q + first * width;
    k->groups = b->groups; /* of a decode step: 0, 1, ... of what q points at */
    k->n_groups = n_groups;
    k->columns_per_group = b->columns_per_group;
    k->heads = s->n_heads;
    k->kv_heads = s->n_kv_heads;
    k->head_dim = s->head_dim;
    k->window = a->window;
    k->scale = a->scale;
    k->softcap = a->softcap;
    set_pages(b, a->page, &k->pages);
    k->pages.sequence += first;
    k->pages.position += first;
    k->splits = splits;
    k->split_tiles = b->split_tiles;
    k->out = a->out + first * width;
    k->q8 = quantise ? b->scratch.twin + (size_t)first * HT_K_ACT_STRIDE(width) : NULL;
    k->max = b->scratch.split_max;
    k->sum = b->scratch.split_sum;
    k->acc = b->scratch.split_acc;
    k->arrived = b->scratch.arrived;
    gpu_backend_submit(b, c);
}

void gpu_backend_attention(ht_backend *base, const ht_attention_args *a)
{
    gpu_backend *b = gpu_backend_of(base);

    if (gpu_backend_failed(b) || !b->n) return;
    b->twin_of = NULL;
    if (b->class_ == HT_CLASS_BLOCK) {
        attend(b, a, 0, b->n_groups, 1, false);
        return;
    }
    /* The partial results of HT_K_COLUMNS columns fit the scratch. */
    bool quantise = base->limits.act == HT_ACT_Q8 && base->limits.shape.head_dim % HT_QK == 0;
    for (int32_t c = 0; c < b->n; c += HT_K_COLUMNS)
        attend(b, a, c, b->n - c < HT_K_COLUMNS ? b->n - c : HT_K_COLUMNS, b->step_splits, quantise);
    if (quantise) b->twin_of = a->out;
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

void gpu_backend_embed(ht_backend *base, const ht_matrix *table, float scale, float *x)
{
    gpu_backend *b = gpu_backend_of(base);

    if (gpu_backend_failed(b) || !b->n) return;
    gpu_command *c = gpu_backend_command(b, GPU_EMBED);
    ht_k_embed *k = &c->u.embed;
    k->type = table->type;
    k->table = table->data;
    k->row_bytes = (int64_t)table->row_bytes;
    k->token = b->token;
    k->n = b->n;
    k->cols = (int32_t)table->cols;
    k->scale = scale;
    k->x = x;
    gpu_backend_submit(b, c);
}

void gpu_backend_select(ht_backend *base, float *dst, const float *src, const int32_t *columns, int32_t m)
{
    gpu_backend *b = gpu_backend_of(base);

    b->n = m;
    if (gpu_backend_failed(b) || !m) return;
    if (b->twin_of == dst) b->twin_of = NULL;
    if (b->queue.gathers) gpu_backend_flush(b); /* they still read the columns chosen before */
    b->queue.gathers = true;
    if (gpu_backend_post(b, b->scratch.chosen, columns, (size_t)m * sizeof *columns, &b->failure) < 0) return;
    gpu_command *c = gpu_backend_command(b, GPU_GATHER);
    ht_k_gather *k = &c->u.gather;
    k->dst = dst;
    k->src = src;
    k->columns = b->scratch.chosen;
    k->m = m;
    k->cols = base->limits.shape.n_embd;
    gpu_backend_submit(b, c);
}
