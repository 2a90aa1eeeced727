/* Products with weight matrices on the pool: projections, the FFN's first half, and their sums into the residual
 * stream. One dispatch prepares the input (norm, quantise, pack), one computes all rows of all matrices that share it.
 *
 * Work is cut by rows of weights, never by columns or along the sum, so a column's bits know nothing of the cutting.
 * A decode-class step of many columns (several sequences) is multiplied by the block-class kernels where their bits are
 * those of the decode class: they unpack a weight once for all columns.
 */
#include "core/base/arith.h"
#include "core/model/tiles.h"
#include "cpu/host_internal.h"

#define DECODE_TILE HT_TILE_ROWS      /* rows of a decode unit: a tile of every kernel */
#define FEW_COLUMNS 6                 /* up to so many, decode-class kernels are faster */
#define SERIAL_ELEMENTS (32 << 10)   /* a decode input smaller than this is prepared by the caller alone */

static ht_host *host_of(ht_backend *b) { return (ht_host *)(void *)b; }

/* ---- input ----------------------------------------------------------------------------------------------- */

/* One input matrix (n, cols) in all the forms that the matrices which share it want. */
typedef struct input {
    ht_host *h;
    ht_class class_;
    int64_t n, cols;
    const float *x;              /* as given */
    const ht_norm *norm;         /* NULL or without gain: x as it is */
    const float *f32;            /* after the norm */
    bool quantise;               /* some matrix wants x in 8 bits */
    int n_forms;
    struct form { const ht_matmul *kernel; bool f32; char *packed; } form[HT_MAX_OUT]; /* block class */
} input;

static int mode_of(const ht_host *h) { return h->base.limits.act == HT_ACT_F32; } /* index of the kernels */

/* The form in which kernels take x: see ht_kernels. */
static bool wants_f32(const ht_host *h, ht_type type)
{
    return mode_of(h) == 1 || type == HT_F32 || type == HT_F16 || type == HT_BF16;
}

static const ht_matmul *matmul_of(const ht_host *h, ht_type type) { return &h->kernels.matmul[type][mode_of(h)]; }

/* Whether a matrix of this type is multiplied by the block-class kernels. */
static bool in_block(const input *in, ht_type type)
{
    return in->class_ == HT_CLASS_BLOCK || (in->n > FEW_COLUMNS && matmul_of(in->h, type)->decode_bits);
}

static const void *rows_of_input(const input *in, bool f32, size_t *stride)
{
    *stride = f32 ? (size_t)in->cols * sizeof(float) : in->h->act_stride;
    return f32 ? (const void *)in->f32 : (const void *)in->h->act;
}

static void prepare_range(void *context, int64_t begin, int64_t end, int thread)
{
    const input *in = context;
    const ht_kernels *k = &in->h->kernels;
    int64_t cols = in->cols;

    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        const float *x = in->x + c * cols;
        if (in->f32 != in->x) {
            float *y = in->h->normed + c * cols;
            if (in->norm->kind == HT_NORM_LAYER)
                k->layer_norm(y, x, in->norm->gain, in->norm->bias, in->norm->eps, cols);
            else k->rms_norm(y, x, in->norm->gain, in->norm->eps, cols);
            x = y;
        }
        if (in->quantise) k->act_quantize(x, in->h->act + (size_t)c * in->h->act_stride, cols);
    }
    for (int i = 0; i < in->n_forms; i++) {
        size_t stride;
        const void *x = rows_of_input(in, in->form[i].f32, &stride);
        in->form[i].kernel->pack(in->form[i].packed, x, stride, begin, end, in->n, cols);
    }
}

/* Two types whose kernels pack alike share one form. */
static void add_form(input *in, const ht_matmul *kernel, bool f32, size_t *used)
{
    for (int i = 0; i < in->n_forms; i++)
        if (in->form[i].kernel->pack == kernel->pack && in->form[i].f32 == f32) return;
    in->form[in->n_forms++] = (struct form){kernel, f32, in->h->packed + *used};
    *used += ht_align_up(kernel->packed_bytes(in->n, in->cols), 64);
}

static int64_t common_multiple(int64_t a, int64_t b)
{
    int64_t x = a, y = b;

    while (y) {
        int64_t r = x % y;
        x = y;
        y = r;
    }
    return a / x * b;
}

static void prepare(input *in, ht_host *h, const float *x, const ht_norm *norm, const ht_matrix *const *w, int n_w)
{
    int64_t chunk = 1;
    size_t used = 0;

    *in = (input){.h = h, .class_ = h->step.class_, .n = h->step.n, .cols = w[0]->cols, .x = x, .norm = norm};
    in->f32 = norm && norm->gain ? h->normed : x;
    for (int i = 0; i < n_w; i++) {
        bool f32 = wants_f32(h, w[i]->type);
        const ht_matmul *kernel = matmul_of(h, w[i]->type);
        in->quantise |= !f32;
        if (!in_block(in, w[i]->type)) continue;
        add_form(in, kernel, f32, &used);
        chunk = common_multiple(chunk, kernel->column_tile);
    }
    if (in->class_ == HT_CLASS_BLOCK) chunk *= ht_max_i64(1, in->n / (4 * h->threads) / chunk);
    else if (in->n_forms) chunk = 2; /* few columns: rather in neighbouring lines than by one thread */
    else if (in->n * in->cols <= SERIAL_ELEMENTS) chunk = in->n;
    if (in->f32 == x && !in->quantise && !in->n_forms) return;
    ht_pool_for(h->pool, in->n, chunk > 0 ? chunk : 1, prepare_range, in);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* y[c * y_stride + r] = W[row + r] x[c] for all columns; y as the kernels have it. */
static void product(const input *in, const ht_matrix *w, int64_t row, int64_t rows, float *y, int64_t y_stride,
                    int thread)
{
    ht_host *h = in->h;
    bool f32 = wants_f32(h, w->type);
    const char *data = (const char *)w->data + (size_t)row * w->row_bytes;

    if (in_block(in, w->type)) {
        const ht_matmul *kernel = matmul_of(h, w->type);
        int i = 0;
        while (in->form[i].kernel->pack != kernel->pack || in->form[i].f32 != f32) i++;
        ht_matmul_fn *run = w->woven ? kernel->run_woven : kernel->run;
        run(y, y_stride, data, w->row_bytes, rows, in->form[i].packed, in->n, in->cols, h->scratch[thread].matmul);
        return;
    }
    ht_dot_fn *dot = w->woven ? h->kernels.dot_woven[w->type] : h->kernels.dot[w->type][mode_of(h)];
    size_t stride;
    const char *x = rows_of_input(in, f32, &stride);
    for (int64_t c = 0; c < in->n; c += HT_DECODE_COLUMNS)
        dot(y + c * y_stride, y_stride, data, w->row_bytes, rows, x + (size_t)c * stride, stride,
            ht_min_i64(HT_DECODE_COLUMNS, in->n - c), in->cols);
}

static void add_bias(float *y, int64_t y_stride, const float *bias, int64_t rows, int64_t n)
{
    if (!bias) return;
    for (int64_t c = 0; c < n; c++)
        for (int64_t r = 0; r < rows; r++) y[c * y_stride + r] += bias[r];
}

/* Rows of a unit of work. Any number is right; a multiple of the kernel's tile is fast. Decode-class units are small,
 * so that threads end together, and taken many at a time, since a kernel prefetches the rows that come next. */
static int64_t unit_rows(const input *in, const ht_matrix *w)
{
    if (in->class_ == HT_CLASS_BLOCK) return HT_BLOCK_ROWS;
    if (!in_block(in, w->type)) return DECODE_TILE;
    return ht_max_i64(matmul_of(in->h, w->type)->row_tile, DECODE_TILE);
}

/* Units of so many rows that are multiplied in one call: as their results fit into a thread's scratch. */
static int64_t units_at_once(const input *in, int64_t unit)
{
    if (in->class_ == HT_CLASS_BLOCK) return 1;
    int64_t most = HT_DECODE_ROWS * HT_DECODE_COLUMNS / ht_max_i64(in->n, HT_DECODE_COLUMNS);
    return ht_max_i64(1, ht_max_i64(most, HT_BLOCK_ROWS) / unit);
}

static void for_units(const input *in, int64_t n, ht_range_fn *fn, void *job)
{
    if (in->class_ == HT_CLASS_BLOCK) ht_pool_for(in->h->pool, n, 1, fn, job);
    else ht_pool_for_shrinking(in->h->pool, n, fn, job);
}

typedef struct project_job {
    input in;
    const ht_project_args *a;
    int64_t rows[HT_MAX_OUT], units[HT_MAX_OUT]; /* rows of a unit, units of a matrix */
} project_job;

static void project_range(void *context, int64_t begin, int64_t end, int thread)
{
    const project_job *j = context;

    for (int64_t u = begin, some; u < end; u += some) {
        int64_t first = u;
        int i = 0;
        while (first >= j->units[i]) first -= j->units[i++];
        const ht_matrix *w = &j->a->w[i];
        some = ht_min_i64(ht_min_i64(end - u, j->units[i] - first), units_at_once(&j->in, j->rows[i]));
        int64_t row = first * j->rows[i], rows = ht_min_i64(some * j->rows[i], w->rows - row);
        product(&j->in, w, row, rows, j->a->y[i] + row, w->rows, thread);
        add_bias(j->a->y[i] + row, w->rows, j->a->bias[i] ? j->a->bias[i] + row : NULL, rows, j->in.n);
    }
}

void ht_host_project(ht_backend *b, const ht_project_args *a)
{
    ht_host *h = host_of(b);
    project_job j = {.a = a};
    const ht_matrix *w[HT_MAX_OUT];
    int64_t units = 0;

    for (int i = 0; i < a->n_out; i++) w[i] = &a->w[i];
    prepare(&j.in, h, a->x, &a->norm, w, a->n_out);
    for (int i = 0; i < a->n_out; i++) {
        j.rows[i] = unit_rows(&j.in, w[i]);
        j.units[i] = ht_ceil_div(w[i]->rows, j.rows[i]);
        units += j.units[i];
    }
    for_units(&j.in, units, project_range, &j);
}

typedef struct add_job { input in; const ht_add_project_args *a; int64_t rows; } add_job;

static void add_project_range(void *context, int64_t begin, int64_t end, int thread)
{
    const add_job *j = context;
    const ht_add_project_args *a = j->a;
    float *y = j->in.h->scratch[thread].rows;

    for (int64_t u = begin, some; u < end; u += some) {
        some = ht_min_i64(end - u, units_at_once(&j->in, j->rows));
        int64_t row = u * j->rows, rows = ht_min_i64(some * j->rows, a->w.rows - row);
        product(&j->in, &a->w, row, rows, y, rows, thread);
        add_bias(y, rows, a->bias ? a->bias + row : NULL, rows, j->in.n);
        for (int64_t c = 0; c < j->in.n; c++) {
            float *x = a->x + c * a->w.rows + row;
            for (int64_t r = 0; r < rows; r++) x[r] += y[c * rows + r];
        }
    }
}

void ht_host_add_project(ht_backend *b, const ht_add_project_args *a)
{
    ht_host *h = host_of(b);
    add_job j = {.a = a};
    const ht_matrix *w = &a->w;

    prepare(&j.in, h, a->y, NULL, &w, 1);
    j.rows = unit_rows(&j.in, w);
    for_units(&j.in, ht_ceil_div(w->rows, j.rows), add_project_range, &j);
}

typedef struct ffn_job {
    input in;
    const ht_ffn_args *a;
    int64_t rows;
    void (*activate)(float *h, const float *g, const float *u, int64_t n);
} ffn_job;

/* Gate rows and the up rows of the same neurons, while they are in cache: h never waits for a second dispatch. */
static void ffn_range(void *context, int64_t begin, int64_t end, int thread)
{
    const ffn_job *j = context;
    const ht_ffn_args *a = j->a;
    int64_t f = a->up.rows, n = j->in.n;
    float *up = j->in.h->scratch[thread].rows;

    for (int64_t u = begin, some; u < end; u += some) {
        some = ht_min_i64(end - u, units_at_once(&j->in, j->rows));
        int64_t row = u * j->rows, rows = ht_min_i64(some * j->rows, f - row);
        bool gated = a->gate.data;
        const float *gate_bias = gated ? a->gate_bias : a->up_bias;
        float *out = a->h + row;
        product(&j->in, gated ? &a->gate : &a->up, row, rows, out, f, thread);
        add_bias(out, f, gate_bias ? gate_bias + row : NULL, rows, n);
        if (gated) {
            product(&j->in, &a->up, row, rows, up, rows, thread);
            add_bias(up, rows, a->up_bias ? a->up_bias + row : NULL, rows, n);
        }
        for (int64_t c = 0; c < n; c++)
            j->activate(out + c * f, out + c * f, gated ? up + c * rows : NULL, rows);
    }
}

void ht_host_ffn(ht_backend *b, const ht_ffn_args *a)
{
    ht_host *h = host_of(b);
    ffn_job j = {.a = a};
    const ht_matrix *w[2] = {&a->up, &a->gate};
    int n_w = a->gate.data ? 2 : 1;

    switch (a->activation) {
    case HT_SILU: j.activate = h->kernels.glu_silu; break;
    case HT_RELU: j.activate = h->kernels.glu_relu; break;
    case HT_GELU: j.activate = h->kernels.glu_gelu; break;
    case HT_GELU_TANH: j.activate = h->kernels.glu_gelu_tanh; break;
    }
    prepare(&j.in, h, a->x, &a->norm, w, n_w);
    j.rows = unit_rows(&j.in, w[0]);
    for_units(&j.in, ht_ceil_div(a->up.rows, j.rows), ffn_range, &j);
}

/* ---- what it needs --------------------------------------------------------------------------------------- */

static bool grow(size_t *most, size_t n, size_t bytes)
{
    size_t total;

    if (!ht_add_size(bytes, 64, &bytes) || !ht_mul_size(n, bytes, &total)) return false;
    if (total > *most) *most = total;
    return true;
}

bool ht_host_matrix_needs(const ht_host *h, size_t *packed, size_t *scratch)
{
    const ht_ops_limits *l = &h->base.limits;
    int64_t q = (int64_t)l->shape.n_heads * l->shape.head_dim;
    struct { size_t forms; int64_t cols; } input_of[3] = {{HT_MAX_OUT, l->shape.n_embd}, {1, q}, {1, l->shape.n_ff}};
    bool fits = true;

    *packed = *scratch = 0;
    for (int t = 0; t < HT_TYPE_COUNT; t++) {
        const ht_type_info *info = ht_type_get((uint32_t)t);
        const ht_matmul *kernel = info ? matmul_of(h, (ht_type)t) : NULL;
        if (!kernel || !kernel->run) continue;
        for (int i = 0; i < 3; i++) {
            int64_t cols = input_of[i].cols;
            if (cols < 1 || cols % info->block_len) continue; /* no such matrix can exist */
            fits &= grow(packed, input_of[i].forms, kernel->packed_bytes(l->columns, cols));
            fits &= grow(scratch, 1, kernel->scratch_bytes(cols));
        }
    }
    return fits;
}
