/* Attention over the KV pages. K and V are read once for all the query rows that share them.
 *
 * Decode class: a sequence's tiles are cut into groups of HT_GROUP_TILES by absolute position; each group gives a
 * partial result (max, sum, acc), and the partials are merged in order by log-sum-exp. Block class: one pass over the
 * tiles in order, for a block of query columns. Neither cutting depends on threads or on the other columns.
 */
#include "core/base/arith.h"
#include "core/base/math.h"
#include "core/ports/kv_q16.h"
#include "cpu/host_internal.h"

#include <math.h>
#include <string.h>

static ht_host *host_of(ht_backend *b) { return (ht_host *)(void *)b; }

/* Positions [first, limit) that a column sees. */
static int32_t first_of(const ht_host *h, const ht_attention_args *a, int64_t column)
{
    int32_t p = h->step.position[column];
    return a->window > 0 && p >= a->window ? p - a->window + 1 : 0;
}

static int32_t limit_of(const ht_host *h, int64_t column) { return h->step.position[column] + 1; }

static int32_t clamp_to_tile(int32_t p)
{
    return p < 0 ? 0 : p > HT_KV_TILE ? HT_KV_TILE : p;
}

/* Query rows on their way through the tiles of one KV head: the heads that share it, of neighbouring columns. */
typedef struct rows {
    int64_t column;              /* the first of them */
    int32_t columns, m;          /* m = columns * H / G */
    const float *q;              /* (m, e) */
    float *acc, *max, *sum;      /* (m, e), (m), (m) */
} rows;

/* What the rows see of a tile, as positions in it. Returns false if that is nothing; *from, *to: of all rows. */
static bool see_tile(const ht_host *h, const ht_attention_args *a, const rows *r, int32_t tile, int32_t *first,
                     int32_t *limit, int32_t *from, int32_t *to)
{
    int32_t group = ht_host_group(h);

    *from = HT_KV_TILE, *to = 0;
    for (int32_t c = 0; c < r->columns; c++) {
        int32_t f = clamp_to_tile(first_of(h, a, r->column + c) - tile * HT_KV_TILE);
        int32_t l = clamp_to_tile(limit_of(h, r->column + c) - tile * HT_KV_TILE);
        for (int32_t i = c * group; i < (c + 1) * group; i++) first[i] = f, limit[i] = l;
        if (f >= l) continue;
        if (f < *from) *from = f;
        if (l > *to) *to = l;
    }
    return *from < *to;
}

/* Scores of a tile, scaled and capped: the softmax then gets a scale of 1. */
static void cap_scores(const ht_attention_args *a, const rows *r, int32_t from, int32_t to, float *s)
{
    for (int32_t i = 0; i < r->m; i++)
        for (int32_t t = from; t < to; t++) s[i * HT_KV_TILE + t] = ht_softcapf(a->scale * s[i * HT_KV_TILE + t], a->softcap);
}

/* Keys and values of a tile, of KV head g. */
typedef struct tile_data { const char *k, *v; } tile_data;

static tile_data tile_of(const ht_host *h, const ht_attention_args *a, const int32_t *pages, int32_t tile, int32_t g)
{
    const ht_kv_layout *kv = &h->base.limits.kv;
    const char *page = a->page[pages[tile]];
    return (tile_data){page + ht_kv_tile_at(kv, false, g), page + ht_kv_tile_at(kv, true, g)};
}

/* The query rows as the scores of this type of K take them. */
static const void *queries_of(const ht_host *h, const rows *r, ht_host_scratch *s, size_t *row_bytes)
{
    int32_t e = h->base.limits.shape.head_dim;
    ht_type type = h->base.limits.kv.k_type;

    *row_bytes = (size_t)e * sizeof(float);
    if (!h->kernels.attend_query[type]) return r->q;
    *row_bytes = ht_q16_row_bytes(e);
    for (int32_t i = 0; i < r->m; i++)
        h->kernels.attend_query[type](r->q + (int64_t)i * e, (char *)s->query + (size_t)i * *row_bytes, e);
    return s->query;
}

/* Tiles [begin, end) of a sequence, in order. `after`: what this thread will most likely read then; may be {NULL}. While a
 * tile is attended to, the same part of the next one is prefetched. */
static void attend_tiles(const ht_host *h, const ht_attention_args *a, const rows *r, int32_t g, const int32_t *pages,
                         int32_t begin, int32_t end, tile_data after, ht_host_scratch *s)
{
    const ht_kv_layout *kv = &h->base.limits.kv;
    const ht_kernels *k = &h->kernels;
    int32_t e = h->base.limits.shape.head_dim;
    ht_attend_next next = {.k_bytes = HT_KV_TILE * kv->k_row_bytes, .v_bytes = HT_KV_TILE * kv->v_row_bytes};
    size_t q_bytes;
    const void *q = queries_of(h, r, s, &q_bytes);

    for (int32_t tile = begin; tile < end; tile++) {
        int32_t from, to;
        if (!see_tile(h, a, r, tile, s->first, s->limit, &from, &to)) continue;
        tile_data now = tile_of(h, a, pages, tile, g), then = tile + 1 < end ? tile_of(h, a, pages, tile + 1, g) : after;
        next.k = then.k, next.v = then.v;
        k->attend_scores[kv->k_type](s->s, q, q_bytes, r->m, now.k, kv->k_row_bytes, e, from, to, &next);
        bool capped = a->softcap > 0.0f;
        if (capped) cap_scores(a, r, from, to, s->s);
        k->attend_softmax(s->s, r->m, capped ? 1.0f : a->scale, s->first, s->limit, r->max, r->sum, s->carry, &next);
        k->attend_mix[kv->v_type](r->acc, e, s->s, s->carry, r->m, now.v, kv->v_row_bytes, e, from, to, &next);
    }
}

static void reset_rows(rows *r, int32_t e)
{
    for (int32_t i = 0; i < r->m; i++) r->max[i] = -INFINITY;
    memset(r->sum, 0, (size_t)r->m * sizeof(float));
    memset(r->acc, 0, (size_t)r->m * (size_t)e * sizeof(float));
}

/* ---- decode class ---------------------------------------------------------------------------------------- */

typedef struct decode_job {
    ht_host *h;
    const ht_attention_args *a;
    int64_t column;                                 /* first of the batch */
    int32_t n;                                      /* columns, <= HT_DECODE_COLUMNS */
    int32_t group[HT_DECODE_COLUMNS];               /* first tile group of a column */
    int32_t begin[HT_DECODE_COLUMNS + 1];           /* first item of a column, over its groups and KV heads */
} decode_job;

/* (group of tiles, KV head) of a column: m maxima, m sums, (m, e) acc. */
static float *partial_of(const decode_job *j, int32_t column, int32_t group, int32_t g)
{
    const ht_shape *shape = &j->h->base.limits.shape;
    int64_t size = (int64_t)ht_host_group(j->h) * (shape->head_dim + 2);
    return j->h->partials + (((int64_t)column * j->h->max_groups + group) * shape->n_kv_heads + g) * size;
}

static int32_t groups_of(const decode_job *j, int32_t column)
{
    return (j->begin[column + 1] - j->begin[column]) / j->h->base.limits.shape.n_kv_heads;
}

static void decode_range(void *context, int64_t begin, int64_t end, int thread)
{
    const decode_job *j = context;
    const ht_host *h = j->h;
    const ht_shape *shape = &h->base.limits.shape;
    ht_host_scratch *s = &j->h->scratch[thread];
    int32_t m = ht_host_group(h), e = shape->head_dim;
    int32_t c = 0;

    for (int64_t item = begin; item < end; item++) {
        while (item >= j->begin[c + 1]) c++;
        int32_t index = (int32_t)item - j->begin[c];
        int32_t g = index % shape->n_kv_heads, group = index / shape->n_kv_heads;
        int64_t column = j->column + c;
        int32_t tile = (j->group[c] + group) * HT_GROUP_TILES;
        int32_t first = (int32_t)ht_max_i64(tile, first_of(h, j->a, column) / HT_KV_TILE);
        int32_t last = (int32_t)ht_min_i64(tile + HT_GROUP_TILES, ht_ceil_div(limit_of(h, column), HT_KV_TILE));
        float *out = partial_of(j, c, group, g);
        const int32_t *pages = h->step.pages[h->step.sequence[column]];
        int32_t then = g + 1 < shape->n_kv_heads ? first : tile + HT_GROUP_TILES; /* the next item, of this column */
        tile_data after = {NULL, NULL};
        if (then * HT_KV_TILE < limit_of(h, column)) after = tile_of(h, j->a, pages, then, (g + 1) % shape->n_kv_heads);
        rows r = {.column = column, .columns = 1, .m = m, .q = j->a->q + (column * shape->n_heads + g * m) * e,
                  .max = out, .sum = out + m, .acc = out + 2 * m};
        reset_rows(&r, e);
        attend_tiles(h, j->a, &r, g, pages, first, last, after, s);
    }
}

/* exp(partial maximum - max) of row r, for up to HT_KV_TILE partials from `begin` on: a softmax of its own. */
static void weigh_partials(const decode_job *j, int32_t c, int32_t begin, int32_t groups, int32_t g, int32_t r, float max,
                           float weight[HT_KV_TILE])
{
    const int32_t first = 0, limit = (int32_t)ht_min_i64(groups - begin, HT_KV_TILE);
    float sum = 0.0f, carry;

    for (int32_t p = 0; p < limit; p++) weight[p] = partial_of(j, c, begin + p, g)[r];
    j->h->kernels.attend_softmax(weight, 1, 1.0f, &first, &limit, &max, &sum, &carry, &(ht_attend_next){NULL, NULL, 0, 0});
}

/* Merges the partials of heads [begin, end) of the batch's (columns, H). */
static void merge_range(void *context, int64_t begin, int64_t end, int thread)
{
    const decode_job *j = context;
    const ht_shape *shape = &j->h->base.limits.shape;
    int32_t m = ht_host_group(j->h), e = shape->head_dim;

    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int32_t c = (int32_t)(i / shape->n_heads), head = (int32_t)(i % shape->n_heads), g = head / m, r = head % m;
        int32_t groups = groups_of(j, c);
        float *out = j->a->out + ((j->column + c) * shape->n_heads + head) * e;
        float max = -INFINITY, sum = 0.0f, weight[HT_KV_TILE];

        for (int32_t p = 0; p < groups; p++) {
            float top = partial_of(j, c, p, g)[r];
            if (top > max) max = top;
        }
        memset(out, 0, (size_t)e * sizeof(*out));
        for (int32_t p = 0; p < groups; p++) {
            const float *part = partial_of(j, c, p, g), *acc = part + 2 * m + r * e;
            if (p % HT_KV_TILE == 0) weigh_partials(j, c, p, groups, g, r, max, weight);
            float w = weight[p % HT_KV_TILE];
            sum += part[m + r] * w;
            for (int32_t x = 0; x < e; x++) out[x] += acc[x] * w;
        }
        float inverse = 1.0f / sum;
        for (int32_t x = 0; x < e; x++) out[x] *= inverse;
    }
}

static void decode_attention(ht_host *h, const ht_attention_args *a)
{
    const ht_shape *shape = &h->base.limits.shape;

    for (int64_t column = 0; column < h->step.n; column += HT_DECODE_COLUMNS) {
        decode_job j = {.h = h, .a = a, .column = column};
        j.n = (int32_t)ht_min_i64(HT_DECODE_COLUMNS, h->step.n - column);
        for (int32_t c = 0; c < j.n; c++) {
            int32_t tokens = HT_GROUP_TILES * HT_KV_TILE;
            j.group[c] = first_of(h, a, column + c) / tokens;
            int32_t groups = (int32_t)ht_ceil_div(limit_of(h, column + c), tokens) - j.group[c];
            j.begin[c + 1] = j.begin[c] + groups * shape->n_kv_heads;
        }
        ht_pool_for(h->pool, j.begin[j.n], 1, decode_range, &j);
        int64_t heads = (int64_t)j.n * shape->n_heads;
        ht_pool_for(h->pool, heads, j.begin[j.n] > 256 ? ht_ceil_div(heads, 4 * h->threads) : heads, merge_range, &j);
    }
}

/* ---- block class ----------------------------------------------------------------------------------------- */

typedef struct block_job {
    ht_host *h;
    const ht_attention_args *a;
    int32_t n;                    /* blocks of query columns; block i is [h->blocks[i], h->blocks[i + 1]) */
} block_job;

static void block_item(const block_job *j, int32_t block, int32_t g, ht_host_scratch *s)
{
    const ht_host *h = j->h;
    const ht_shape *shape = &h->base.limits.shape;
    int32_t group = ht_host_group(h), e = shape->head_dim;
    int32_t begin = h->blocks[block], end = h->blocks[block + 1];
    size_t bytes = (size_t)group * (size_t)e * sizeof(float);
    rows r = {.column = begin, .columns = end - begin, .m = (end - begin) * group, .q = s->q, .acc = s->acc,
              .max = s->max, .sum = s->sum};

    reset_rows(&r, e);
    for (int32_t c = begin; c < end; c++)
        memcpy(s->q + (int64_t)(c - begin) * group * e, j->a->q + ((int64_t)c * shape->n_heads + g * group) * e, bytes);
    attend_tiles(h, j->a, &r, g, h->step.pages[h->step.sequence[begin]], first_of(h, j->a, begin) / HT_KV_TILE,
                 (int32_t)ht_ceil_div(limit_of(h, end - 1), HT_KV_TILE), (tile_data){NULL, NULL}, s);
    for (int32_t i = 0; i < r.m; i++) {
        float *out = j->a->out + ((int64_t)(begin + i / group) * shape->n_heads + g * group + i % group) * e;
        float inverse = 1.0f / r.sum[i];
        for (int32_t x = 0; x < e; x++) out[x] = r.acc[(int64_t)i * e + x] * inverse;
    }
}

/* Items in order of blocks from the last, which sees the most: the long ones begin first. */
static void block_range(void *context, int64_t begin, int64_t end, int thread)
{
    const block_job *j = context;
    int32_t n_kv = j->h->base.limits.shape.n_kv_heads;

    for (int64_t item = begin; item < end; item++)
        block_item(j, j->n - 1 - (int32_t)(item / n_kv), (int32_t)(item % n_kv), &j->h->scratch[thread]);
}

/* Blocks of neighbouring columns of one sequence. */
static void block_attention(ht_host *h, const ht_attention_args *a)
{
    block_job j = {.h = h, .a = a};
    int32_t most = (int32_t)ht_max_i64(1, HT_QUERY_ROWS / ht_host_group(h));

    for (int32_t c = 0; c < h->step.n; c++) {
        bool joins = j.n > 0 && c - h->blocks[j.n - 1] < most && h->step.sequence[c] == h->step.sequence[c - 1];
        if (!joins) h->blocks[j.n++] = c;
    }
    h->blocks[j.n] = h->step.n;
    ht_pool_for(h->pool, (int64_t)j.n * h->base.limits.shape.n_kv_heads, 1, block_range, &j);
}

void ht_host_attention(ht_backend *b, const ht_attention_args *a)
{
    ht_host *h = host_of(b);

    if (h->step.class_ == HT_CLASS_BLOCK) block_attention(h, a);
    else decode_attention(h, a);
}
