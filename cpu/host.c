/* The host backend: open, close, memory, steps, and the operations that only move data. Matrices, RoPE and attention
 * have files of their own. Nothing is allocated between open and close but what alloc hands out.
 */
#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/model/tiles.h"
#include "core/ports/kv_q16.h"
#include "cpu/host_internal.h"

#include <string.h>

#define ALIGN 64
#define PAGES_FROM (2u << 20) /* pieces this large get huge pages */

struct ht_host_piece {
    ht_host_piece *next, *prev;
    size_t bytes;
    bool pages;
};

static ht_host *host_of(ht_backend *b) { return (ht_host *)(void *)b; }

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int host_alloc(ht_backend *b, size_t bytes, void **out, ht_error *err)
{
    ht_host *h = host_of(b);
    size_t total;

    *out = NULL;
    if (!ht_add_size(bytes, ALIGN, &total)) return ht_fail(err, -ENOMEM, "host buffer of %zu bytes is too large", bytes);
    bool pages = total >= PAGES_FROM;
    ht_host_piece *piece = pages ? ht_alloc_pages(total) : ht_alloc_aligned(total, ALIGN);
    if (!piece) return ht_fail(err, -ENOMEM, "out of memory for a host buffer of %zu bytes", bytes);
    *piece = (ht_host_piece){.next = h->pieces, .bytes = total, .pages = pages};
    if (h->pieces) h->pieces->prev = piece;
    h->pieces = piece;
    *out = (char *)piece + ALIGN;
    return 0;
}

static void host_free(ht_backend *b, void *p)
{
    ht_host *h = host_of(b);

    if (!p) return;
    ht_host_piece *piece = (ht_host_piece *)(void *)((char *)p - ALIGN);
    if (piece->next) piece->next->prev = piece->prev;
    if (piece->prev) piece->prev->next = piece->next;
    else h->pieces = piece->next;
    if (piece->pages) ht_free_pages(piece, piece->bytes);
    else ht_free(piece);
}

static int host_copy(ht_backend *b, void *dst, const void *src, size_t bytes, ht_error *err)
{
    (void)b, (void)err;
    memcpy(dst, src, bytes);
    return 0;
}

static int host_await(ht_backend *b, ht_event event, ht_error *err)
{
    (void)b;
    return ht_event_wait(event, err);
}

/* Every entry is done when it returns, and none of them can fail. */
static int host_sync(ht_backend *b, ht_error *err)
{
    (void)b, (void)err;
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

static int host_begin(ht_backend *b, const ht_step *step, ht_error *err)
{
    ht_host *h = host_of(b);
    int r = ht_step_check(&b->limits, step, err);

    if (r < 0) return r;
    h->step = *step;
    h->rope_angles_known = false;
    return 0;
}

typedef struct embed_job { const ht_host *h; const ht_matrix *table; float scale; float *x; } embed_job;

static void embed_range(void *context, int64_t begin, int64_t end, int thread)
{
    const embed_job *j = context;
    const ht_matrix *table = j->table;
    int64_t d = table->cols;

    for (int64_t c = begin; c < end; c++) {
        float *x = j->x + c * d;
        int64_t token = j->h->step.token[c], lane = table->woven ? token % HT_TILE_ROWS : 0;
        const void *row = (const char *)table->data + (size_t)(token - lane) * table->row_bytes;
        if (table->woven) {
            ht_tile_row(table->type, row, lane, j->h->scratch[thread].row, d);
            row = j->h->scratch[thread].row;
        }
        j->h->kernels.expand[table->type](row, x, d);
        if (j->scale != 1.0f)
            for (int64_t i = 0; i < d; i++) x[i] *= j->scale;
    }
}

static void host_embed(ht_backend *b, const ht_matrix *table, float scale, float *x)
{
    ht_host *h = host_of(b);
    embed_job job = {h, table, scale, x};

    ht_pool_for(h->pool, h->step.n, 16, embed_range, &job);
}

typedef struct add_norm_job { ht_host *h; const ht_add_norm_args *a; } add_norm_job;

static void add_norm_range(void *context, int64_t begin, int64_t end, int thread)
{
    const add_norm_job *j = context;
    const ht_norm *norm = &j->a->norm;
    int64_t d = j->h->base.limits.shape.n_embd;

    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        float *x = j->a->x + c * d, *y = j->h->normed + c * d;
        j->h->kernels.rms_norm(y, j->a->y + c * d, norm->gain, norm->eps, d);
        for (int64_t i = 0; i < d; i++) x[i] += y[i];
    }
}

static void host_add_norm(ht_backend *b, const ht_add_norm_args *a)
{
    ht_host *h = host_of(b);

    ht_pool_for(h->pool, h->step.n, 16, add_norm_range, &(add_norm_job){h, a});
}

static void host_select(ht_backend *b, float *dst, const float *src, const int32_t *columns, int32_t m)
{
    ht_host *h = host_of(b);
    int64_t d = b->limits.shape.n_embd, n = b->limits.columns;
    int32_t *out[3] = {h->selected, h->selected + n, h->selected + 2 * n};
    const int32_t *in[3] = {h->step.token, h->step.position, h->step.sequence};
    int32_t *spare = h->selected + 3 * n; /* after a select, in and out are the same */

    for (int32_t i = 0; i < m; i++) memcpy(dst + i * d, src + columns[i] * d, (size_t)d * sizeof(float));
    for (int k = 0; k < 3; k++) {
        for (int32_t i = 0; i < m; i++) spare[i] = in[k][columns[i]];
        memcpy(out[k], spare, (size_t)m * sizeof(*spare));
    }
    h->step.token = out[0];
    h->step.position = out[1];
    h->step.sequence = out[2];
    h->step.n = m;
    h->rope_angles_known = false;
}

/* ---- open and close -------------------------------------------------------------------------------------- */

static void host_close(ht_backend *b)
{
    ht_host *h = host_of(b);

    if (!h) return;
    while (h->pieces) host_free(b, (char *)h->pieces + ALIGN);
    if (h->arena) ht_free_pages(h->arena, h->arena_bytes);
    ht_free(h->scratch);
    ht_free(h);
}

static const ht_ops host_ops = {
    .name = "cpu",
    .alloc = host_alloc,
    .free = host_free,
    .upload = host_copy,
    .download = host_copy,
    .await = host_await,
    .sync = host_sync,
    .begin = host_begin,
    .embed = host_embed,
    .project = ht_host_project,
    .rope_append = ht_host_rope_append,
    .attention = ht_host_attention,
    .add_project = ht_host_add_project,
    .add_norm = host_add_norm,
    .ffn = ht_host_ffn,
    .select = host_select,
    .close = host_close,
};

/* The arena is laid out twice by the same code: first to measure (base NULL), then to set the pointers. */
typedef struct layout { char *base; size_t used; bool overflow; } layout;

static void *take(layout *l, size_t n, size_t size)
{
    size_t bytes, end;

    if (!ht_mul_size(n, size, &bytes) || !ht_add_size(l->used, bytes, &end) || !ht_add_size(end, ALIGN, &end))
        l->overflow = true;
    if (l->overflow) return NULL;
    void *p = l->base ? l->base + l->used : NULL;
    l->used = end / ALIGN * ALIGN;
    return p;
}

static void lay_out_thread(ht_host *h, layout *l, ht_host_scratch *s, size_t matmul_bytes)
{
    size_t columns = (size_t)h->base.limits.columns, m = (size_t)h->query_rows;
    size_t e = (size_t)h->base.limits.shape.head_dim;
    size_t rows = columns * HT_BLOCK_ROWS;

    if (rows < HT_DECODE_COLUMNS * HT_DECODE_ROWS) rows = HT_DECODE_COLUMNS * HT_DECODE_ROWS;
    s->matmul = take(l, 1, matmul_bytes);
    s->rows = take(l, rows, sizeof(float));
    s->row = take(l, (size_t)h->base.limits.shape.n_embd, sizeof(float));
    s->q = take(l, m * e, sizeof(float));
    s->query = take(l, m, ht_q16_row_bytes((int32_t)e));
    s->acc = take(l, m * e, sizeof(float));
    s->s = take(l, m * HT_KV_TILE, sizeof(float));
    s->max = take(l, m, sizeof(float));
    s->sum = take(l, m, sizeof(float));
    s->carry = take(l, m, sizeof(float));
    s->first = take(l, m, sizeof(int32_t));
    s->limit = take(l, m, sizeof(int32_t));
}

static void lay_out(ht_host *h, layout *l, size_t matmul_bytes)
{
    const ht_shape *shape = &h->base.limits.shape;
    size_t columns = (size_t)h->base.limits.columns, pairs = (size_t)h->rope_pairs;
    size_t partial = (size_t)shape->n_heads * ((size_t)shape->head_dim + 2);

    h->selected = take(l, 4 * columns, sizeof(int32_t));
    h->blocks = take(l, columns + 1, sizeof(int32_t));
    h->normed = take(l, columns * (size_t)shape->n_embd, sizeof(float));
    h->act = take(l, columns, h->act_stride);
    h->packed = take(l, 1, h->packed_bytes);
    h->rope_divisors = take(l, pairs, sizeof(float));
    h->rope_frequencies = take(l, pairs, sizeof(double));
    h->rope_angles = take(l, columns * 2 * pairs, sizeof(float));
    h->partials = take(l, HT_DECODE_COLUMNS * (size_t)h->max_groups * partial, sizeof(float));
    for (int i = 0; i < h->threads; i++) lay_out_thread(h, l, &h->scratch[i], matmul_bytes);
}

static int check_limits(const ht_ops_limits *l, const ht_kernels *k, ht_error *err)
{
    const ht_shape *s = &l->shape;
    int32_t types[2] = {l->kv.k_type, l->kv.v_type};

    if (l->columns < 1 || l->sequences < 1 || l->context < 1)
        return ht_fail(err, -EINVAL, "host backend for %d columns, %d sequences of %d tokens", l->columns, l->sequences,
                       l->context);
    if (s->n_embd < 1 || s->n_ff < 0 || s->n_heads < 1 || s->head_dim < 1 || s->n_kv_heads < 1 ||
        s->n_heads % s->n_kv_heads)
        return ht_fail(err, -EINVAL, "host backend for %d heads of %d elements, %d KV heads, width %d", s->n_heads,
                       s->head_dim, s->n_kv_heads, s->n_embd);
    if (s->rope.dims < 0 || s->rope.dims > s->head_dim || s->rope.dims % 2)
        return ht_fail(err, -EINVAL, "RoPE over %d elements of heads of %d", s->rope.dims, s->head_dim);
    for (int i = 0; i < 2; i++)
        if (types[i] < 0 || types[i] >= HT_TYPE_COUNT || !k->attend_scores[types[i]] || !k->attend_mix[types[i]] ||
            !k->kv_store[types[i]][0]) {
            const ht_type_info *info = ht_type_get((uint32_t)types[i]);
            return ht_fail(err, -ENOTSUP, "the KV cache cannot be of type %s; F32, F16, Q16, Q8_0 and Q4_0 are possible",
                           info ? info->name : "unknown");
        }
    return 0;
}

static int64_t widest_input(const ht_shape *s)
{
    return ht_max_i64(ht_max_i64(s->n_embd, (int64_t)s->n_heads * s->head_dim), s->n_ff);
}

void ht_host_woven_types(ht_isa isa, ht_act_mode act, bool out[HT_TYPE_COUNT])
{
    ht_kernels kernels;

    ht_kernels_init(&kernels, isa);
    for (int t = 0; t < HT_TYPE_COUNT; t++) {
        const ht_type_info *info = ht_type_get((uint32_t)t);
        out[t] = kernels.dot_woven[t] && (act == HT_ACT_Q8 || info->block_len == 1); /* or columns in 8 bits */
    }
}

int ht_host_open(ht_backend **out, const ht_host_options *options, ht_error *err)
{
    ht_kernels kernels;
    size_t matmul_bytes = 0;
    layout l = {0};

    *out = NULL;
    ht_kernels_init(&kernels, options->isa);
    int rc = check_limits(&options->limits, &kernels, err);
    if (rc < 0) return rc;

    ht_host *h = ht_calloc(1, sizeof(*h));
    if (!h) return ht_fail(err, -ENOMEM, "out of memory for the host backend");
    h->base = (ht_backend){.ops = &host_ops, .limits = options->limits};
    h->kernels = kernels;
    h->pool = options->pool;
    h->threads = ht_pool_threads(h->pool);
    const ht_shape *shape = &options->limits.shape;
    int32_t tiles = (int32_t)ht_ceil_div(options->limits.context, HT_KV_TILE);
    h->max_groups = (int32_t)ht_ceil_div(tiles, HT_GROUP_TILES);
    h->query_rows = ht_host_group(h) > HT_QUERY_ROWS ? ht_host_group(h) : HT_QUERY_ROWS;
    h->rope_pairs = shape->rope.dims / 2;
    h->act_stride = ht_align_up((size_t)HT_ACT_ROW_BYTES(ht_align_up((size_t)widest_input(shape), HT_QK)), ALIGN);
    h->scratch = ht_calloc((size_t)h->threads, sizeof(*h->scratch));
    l.overflow = !ht_host_matrix_needs(h, &h->packed_bytes, &matmul_bytes);
    if (h->scratch) lay_out(h, &l, matmul_bytes);
    h->arena_bytes = l.used;
    h->arena = h->scratch && !l.overflow ? ht_alloc_pages(h->arena_bytes) : NULL;
    if (!h->arena) {
        rc = ht_fail(err, -ENOMEM, "out of memory for %zu MiB of scratch of the host backend", l.used >> 20);
        host_close(&h->base);
        return rc;
    }
    l = (layout){.base = h->arena};
    lay_out(h, &l, matmul_bytes);
    *out = &h->base;
    return 0;
}
