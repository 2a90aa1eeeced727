/* The attention kernels: references against double precision, every level against the references bit for bit. What no
 * row sees is poisoned. */
#include "core/base/math.h"
#include "core/base/random.h"
#include "core/ports/kv_q16.h"
#include "cpu/kernels.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 70, DIM = 288, TILES = 3 };

enum { N_TYPES = 5, N_DIMS = 12 };
static const ht_type types[N_TYPES] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0, HT_Q16};
static const int32_t dims[N_DIMS] = {32, 64, 80, 96, 128, 256, 288, 16, 8, 40, 44, 63}; /* not all take those from 80 on */

static float noise(uint64_t seed, int64_t i) { return (float)(2.0 * ht_random_uniform(seed, 3, (uint64_t)i, 0) - 1.0); }

typedef struct state { float s[ROWS * HT_KV_TILE], acc[ROWS * (DIM + 3)], max[ROWS], sum[ROWS], carry[ROWS]; } state;

/* One tile per call; [first, limit) of a row in a tile, K and V tiles of the cache type. */
typedef struct problem {
    ht_type type;
    ht_kv_layout kv; /* of a page that is one tile, of K or of V */
    int32_t m, dim;
    size_t row_bytes;
    float q[ROWS * (DIM + 5)];
    uint8_t k[TILES][HT_KV_TILE * DIM * 4], v[TILES][HT_KV_TILE * DIM * 4];
    int32_t first[TILES][ROWS], limit[TILES][ROWS], begin[TILES], end[TILES];
    float scale;
} problem;

static void fill_tile(problem *p, uint8_t *tile, bool value, int32_t begin, int32_t end, uint64_t seed, float size)
{
    ht_kernels k;
    float row[DIM];

    ht_kernels_init(&k, HT_ISA_REF);
    memset(tile, 0xff, HT_KV_TILE * p->row_bytes);
    for (int32_t t = begin; t < end; t++) {
        for (int32_t i = 0; i < p->dim; i++) row[i] = size * noise(seed, t * DIM + i);
        k.kv_store[p->type][value](row, tile, t, p->dim);
    }
}

/* Shapes of masks: 0: all is seen; 1: causal; 2: a window; 3: some rows see nothing of the second tile. */
static void make_problem(problem *p, ht_type type, int32_t m, int32_t dim, int mask, uint64_t seed, float size)
{
    p->type = type;
    p->m = m;
    p->dim = dim;
    cr_assert_eq(ht_kv_layout_init(&p->kv, &(ht_shape){.n_kv_heads = 1, .head_dim = dim}, type, type, NULL), 0);
    p->kv.v_offset = 0;
    p->row_bytes = p->kv.k_row_bytes;
    p->scale = 1.0f / sqrtf((float)dim);
    for (int64_t i = 0; i < ROWS * (DIM + 5); i++) p->q[i] = size * noise(seed, i);
    for (int t = 0; t < TILES; t++) {
        p->begin[t] = HT_KV_TILE;
        p->end[t] = 0;
        for (int32_t i = 0; i < m; i++) {
            int32_t limit = mask == 0 ? HT_KV_TILE : t < TILES - 1 ? HT_KV_TILE : (i * 5 + (int32_t)seed) % HT_KV_TILE + 1;
            int32_t first = mask == 2 && t == 0 ? limit - 1 - (i * 3) % 20 : 0;
            if (mask == 3 && t == 1 && i % 2 == 0) first = limit = i % 3 ? HT_KV_TILE : 0;
            p->first[t][i] = first;
            p->limit[t][i] = limit;
            if (first >= limit) continue;
            if (first < p->begin[t]) p->begin[t] = first;
            if (limit > p->end[t]) p->end[t] = limit;
        }
        fill_tile(p, p->k[t], false, p->begin[t], p->end[t], seed + 1 + (uint64_t)t, size);
        fill_tile(p, p->v[t], true, p->begin[t], p->end[t], seed + 11 + (uint64_t)t, 1.0f);
    }
}

/* Rows of queries [from, from + m), as the scores take them, and the bytes of one. */
static const void *queries_of(const ht_kernels *k, const problem *p, int32_t from, int32_t m, uint8_t *rounded, size_t *bytes)
{
    const float *q = p->q + from * (p->dim + 5);

    *bytes = (size_t)(p->dim + 5) * sizeof(float);
    if (!k->attend_query[p->type]) return q;
    *bytes = ht_q16_row_bytes(p->dim) + 8;
    for (int32_t i = 0; i < m; i++) k->attend_query[p->type](q + i * (p->dim + 5), rounded + (size_t)i * *bytes, p->dim);
    return rounded;
}

static void run(const ht_kernels *k, const problem *p, state *s, int32_t from, int32_t m)
{
    static _Alignas(64) uint8_t rounded[ROWS * (DIM + 8) * 2];
    int64_t acc_stride = p->dim + 3;
    size_t q_bytes;
    const void *q = queries_of(k, p, from, m, rounded, &q_bytes);

    memset(s->s, 0x5a, sizeof(s->s)); /* no NaN behind the rows: what is made of poison would look the same */
    memset(s->s, 0xff, (size_t)m * HT_KV_TILE * sizeof(float));
    for (int64_t i = 0; i < ROWS * (DIM + 3); i++) s->acc[i] = 0.0f;
    for (int32_t i = 0; i < m; i++) s->max[i] = -INFINITY, s->sum[i] = 0.0f;
    for (int t = 0; t < TILES; t++) {
        ht_attend_next next = {NULL, NULL, HT_KV_TILE * p->row_bytes, HT_KV_TILE * p->row_bytes};
        if (p->begin[t] >= p->end[t]) continue;
        if (t + 1 < TILES) next.k = p->k[t + 1], next.v = p->v[t + 1];
        k->attend_scores[p->type](s->s, q, q_bytes, m, p->k[t], p->row_bytes, p->dim, p->begin[t], p->end[t], &next);
        k->attend_softmax(s->s, m, p->scale, p->first[t] + from, p->limit[t] + from, s->max, s->sum, s->carry, &next);
        k->attend_mix[p->type](s->acc, acc_stride, s->s, s->carry, m, p->v[t], p->row_bytes, p->dim, p->begin[t], p->end[t],
                               &next);
    }
}

static void check_double(const problem *p, const state *s)
{
    /* Q16 rounds queries too, the more the longer they are (by half of sum|q| / 261600), and weights */
    const double error = p->type == HT_Q16 ? 5e-6 * p->dim + 1e-4 : 2e-5;
    double score[TILES * HT_KV_TILE], want[DIM];
    float row[DIM];

    for (int32_t i = 0; i < p->m; i++) {
        double top = -INFINITY, sum = 0.0;
        for (int t = 0; t < TILES; t++)
            for (int32_t j = p->first[t][i]; j < p->limit[t][i]; j++) {
                ht_kv_read_row(&p->kv, p->k[t], false, 0, j, row);
                double dot = 0.0;
                for (int32_t e = 0; e < p->dim; e++) dot += (double)p->q[i * (p->dim + 5) + e] * row[e];
                score[t * HT_KV_TILE + j] = dot * p->scale;
                top = fmax(top, dot * p->scale);
            }
        memset(want, 0, sizeof(want));
        for (int t = 0; t < TILES; t++)
            for (int32_t j = p->first[t][i]; j < p->limit[t][i]; j++) {
                double w = exp(score[t * HT_KV_TILE + j] - top);
                ht_kv_read_row(&p->kv, p->v[t], true, 0, j, row);
                sum += w;
                for (int32_t e = 0; e < p->dim; e++) want[e] += w * row[e];
            }
        cr_assert_float_eq(s->max[i], top, error / 2 + 1e-6 * fabs(top));
        for (int32_t e = 0; e < p->dim; e++)
            cr_assert_float_eq(s->acc[i * (p->dim + 3) + e] / s->sum[i], want[e] / sum, error, "%s row %d element %d: %g, not %g",
                               ht_kv_type_name(p->type), i, e, s->acc[i * (p->dim + 3) + e] / s->sum[i], want[e] / sum);
    }
}

Test(attend, references_match_double_precision)
{
    problem *p = malloc(sizeof(*p));
    state *s = malloc(sizeof(*s));
    ht_kernels k;

    ht_kernels_init(&k, HT_ISA_REF);
    for (int t = 0; t < N_TYPES; t++)
        for (int d = 0; d < N_DIMS; d++)
            for (int mask = 0; mask < 4; mask++) {
                if (!ht_kv_type_fits(types[t], dims[d])) continue;
                make_problem(p, types[t], 5, dims[d], mask, (uint64_t)(d * 4 + mask), 1.5f);
                run(&k, p, s, 0, 5);
                check_double(p, s);
            }
    free(p), free(s);
}

/* The bits of the state, and the memory between and behind the rows of acc, and behind those of s, which nobody may touch. */
static void compare(const state *a, const state *b, int32_t m, const char *what, ht_isa isa, const problem *p, int mask)
{
    size_t rows = (size_t)m * sizeof(float), behind = sizeof(a->s) - HT_KV_TILE * rows;
    cr_assert(memcmp(a->acc, b->acc, sizeof(a->acc)) == 0 && memcmp(a->sum, b->sum, rows) == 0 &&
              memcmp(a->max, b->max, rows) == 0 && memcmp(a->s + m * HT_KV_TILE, b->s + m * HT_KV_TILE, behind) == 0,
              "%s: level %s, type %s, %d rows, dim %d, mask %d", what, ht_isa_name(isa), ht_kv_type_name(p->type), m,
              p->dim, mask);
}

static void check_levels(float size)
{
    static const int32_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 70};
    problem *p = malloc(sizeof(*p));
    state *want = malloc(sizeof(*want)), *got = malloc(sizeof(*got));
    ht_kernels ref, k;

    ht_kernels_init(&ref, HT_ISA_REF);
    for (int t = 0; t < N_TYPES; t++)
        for (int d = 0; d < N_DIMS; d++)
            for (int i = 0; i < 12; i++) {
                int mask = (t + d + i) % 4;
                if (!ht_kv_type_fits(types[t], dims[d]) || (ms[i] > 16 && dims[d] > 80)) continue;
                make_problem(p, types[t], ms[i], dims[d], mask, (uint64_t)(t * 100 + d * 10 + i), size);
                run(&ref, p, want, 0, ms[i]);
                for (ht_isa isa = HT_ISA_AVX2; isa <= ht_isa_detect(); isa++) {
                    ht_kernels_init(&k, isa);
                    run(&k, p, got, 0, ms[i]);
                    compare(want, got, ms[i], "against the reference", isa, p, mask);
                }
            }
    free(p), free(want), free(got);
}

Test(attend, every_level_has_the_bits_of_the_reference, .timeout = 120) { check_levels(1.0f); }
/* Scores of thousands: one key takes all, the rest underflow. */
Test(attend, every_level_has_the_bits_of_the_reference_on_extremes, .timeout = 120) { check_levels(150.0f); }

Test(attend, a_row_does_not_depend_on_the_others)
{
    problem *p = malloc(sizeof(*p));
    state *all = malloc(sizeof(*all)), *one = malloc(sizeof(*one));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++) {
        ht_kernels_init(&k, isa);
        for (int t = 0; t < N_TYPES; t++)
            for (int mask = 0; mask < 4; mask++) {
                make_problem(p, types[t], 13, 96, mask, 5, 1.0f);
                run(&k, p, all, 0, 13);
                for (int32_t i = 0; i < 13; i++) {
                    run(&k, p, one, i, 1);
                    cr_assert(memcmp(all->acc + i * 99, one->acc, 96 * sizeof(float)) == 0 && all->sum[i] == one->sum[0] &&
                              all->max[i] == one->max[0], "level %s, type %s, mask %d, row %d", ht_isa_name(isa),
                              ht_kv_type_name(types[t]), mask, i);
                }
            }
    }
    free(p), free(all), free(one);
}

Test(attend, a_row_that_sees_nothing_keeps_its_state)
{
    ht_kernels k;
    float s[2 * HT_KV_TILE], max[2] = {3.0f, -INFINITY}, sum[2] = {2.0f, 0.0f}, carry[2] = {9.0f, 9.0f};
    const int32_t first[2] = {0, 64}, limit[2] = {0, 64};

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++) {
        ht_kernels_init(&k, isa);
        memset(s, 0xff, sizeof(s));
        k.attend_softmax(s, 2, 1.0f, first, limit, max, sum, carry, &(ht_attend_next){NULL, NULL, 0, 0});
        cr_assert(max[0] == 3.0f && sum[0] == 2.0f && max[1] == -INFINITY && sum[1] == 0.0f);
        cr_assert(carry[0] == 1.0f && carry[1] == 1.0f);
        for (int i = 0; i < 2 * HT_KV_TILE; i++) cr_assert_eq(s[i], 0.0f);
    }
}

/* Where exp becomes 0, to the last bit. */
Test(attend, weights_end_where_exp_does)
{
    const ht_attend_next none = {NULL, NULL, 0, 0};
    const float low = HT_EXP_LOW, above = nextafterf(low, 0.0f), below = nextafterf(low, -INFINITY);
    const float odd[] = {0.0f, low, above, below, -INFINITY, -1e30f, -1e-40f};
    const int32_t first = 0, limit = 7;
    float s[HT_KV_TILE], max, sum, carry;
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int begin = 0; begin < 2; begin++) { /* 1: the largest was in a tile before */
            ht_kernels_init(&k, isa);
            memset(s, 0xff, sizeof(s));
            memcpy(s, odd, sizeof(odd));
            if (begin) s[0] = low;
            max = begin ? 0.0f : -INFINITY, sum = 0.0f;
            k.attend_softmax(s, 1, 1.0f, &first, &limit, &max, &sum, &carry, &none);
            for (int i = begin; i < 7; i++)
                cr_assert_eq(s[i], ht_expf(odd[i]), "level %s %a: %a", ht_isa_name(isa), odd[i], s[i]);
            cr_assert(s[1] > 0.0f && s[3] == 0.0f && carry == (begin ? 1.0f : 0.0f));
        }
}

/* ---- Q16 -------------------------------------------------------------------------------------------------- */

enum { LONGEST = HT_Q16_MOST_DIM };

/* A tile, and rows of queries or weights, that as large as they may be. */
typedef struct q16 {
    _Alignas(64) uint8_t tile[HT_KV_TILE * (LONGEST * 2 + 4)], query[LONGEST * 2 + 4];
    float row[LONGEST], back[LONGEST], s[HT_KV_TILE], acc[LONGEST];
    ht_kv_layout kv;
} q16;

static void q16_open(q16 *x, int32_t dim)
{
    memset(x, 0, sizeof(*x));
    cr_assert_eq(ht_kv_layout_init(&x->kv, &(ht_shape){.n_kv_heads = 1, .head_dim = dim}, HT_Q16, HT_Q16, NULL), 0);
    x->kv.v_offset = 0;
}

/* Rows that are stored come back to half a step of 8191, the largest to a rounding; the neighbours stay as they are. */
Test(attend, q16_rows_keep_fourteen_bits)
{
    static const int32_t dim[] = {16, 64, 80, LONGEST};
    q16 *x = malloc(sizeof(*x));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int d = 0; d < 4; d++)
            for (int value = 0; value < 2; value++) {
                int32_t e = dim[d];
                ht_kernels_init(&k, isa);
                q16_open(x, e);
                for (int32_t t = HT_KV_TILE - 1; t >= 0; t--) { /* a row comes to neighbours that are there */
                    for (int32_t i = 0; i < e; i++) x->row[i] = 3.0f * noise(9, t * e + i);
                    x->row[t % e] = t % 2 ? -7.0f : 7.0f;
                    k.kv_store[HT_Q16][value](x->row, x->tile, t, e);
                }
                for (int32_t t = 0; t < HT_KV_TILE; t++) {
                    double largest_error = 0.0;
                    ht_kv_read_row(&x->kv, x->tile, value, 0, t, x->back);
                    for (int32_t i = 0; i < e; i++) {
                        float want = i == t % e ? (t % 2 ? -7.0f : 7.0f) : 3.0f * noise(9, t * e + i);
                        cr_assert_float_eq(x->back[i], want, i == t % e ? 2e-6 : 7.0 / 16382 * 1.001, "level %s e %d token %d",
                                           ht_isa_name(isa), e, t);
                        largest_error = fmax(largest_error, fabs(x->back[i] - want));
                    }
                    if (e >= 64) cr_assert_gt(largest_error, 7.0 / 16382 * 0.5); /* and the step is this one */
                }
            }
    free(x);
}

/* Sums of the largest products there can be: one too many bits anywhere, and they wrap. */
Test(attend, q16_sums_do_not_overflow)
{
    static const int32_t dim[] = {16, 64, 128, 256, LONGEST};
    const ht_attend_next none = {NULL, NULL, 0, 0};
    const float one = 1.0f;
    q16 *x = malloc(sizeof(*x));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int d = 0; d < 5; d++)
            for (int32_t used = 1; used <= dim[d]; used *= 2) { /* elements of the query, the others are 0 */
                int32_t e = dim[d];
                ht_kernels_init(&k, isa);
                q16_open(x, e);
                for (int32_t i = 0; i < e; i++) x->row[i] = 0.7f;
                for (int32_t t = 0; t < HT_KV_TILE; t++) k.kv_store[HT_Q16][0](x->row, x->tile, t, e);
                for (int32_t i = used; i < e; i++) x->row[i] = 0.0f;
                k.attend_query[HT_Q16](x->row, x->query, e);
                k.attend_scores[HT_Q16](x->s, x->query, sizeof(x->query), 1, x->tile, ht_q16_row_bytes(e), e, 0, HT_KV_TILE,
                                        &none);
                double want = 0.49 * used, error = fmax(2e-6, used / 261600.0) * 1.01; /* one half of a step, all to one side */
                for (int32_t t = 0; t < HT_KV_TILE; t++)
                    cr_assert_float_eq(x->s[t], want, want * error, "level %s e %d used %d: %g, not %g", ht_isa_name(isa), e,
                                       used, x->s[t], want);
            }
    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int32_t used = 1; used <= HT_KV_TILE; used *= 2) { /* tokens that are looked at */
            ht_kernels_init(&k, isa);
            q16_open(x, 32);
            for (int32_t i = 0; i < 32; i++) x->row[i] = i % 2 ? 0.7f : -0.7f;
            for (int32_t t = 0; t < HT_KV_TILE; t++) k.kv_store[HT_Q16][1](x->row, x->tile, t, 32);
            for (int32_t t = 0; t < HT_KV_TILE; t++) x->s[t] = t < used ? 0.9f : 0.0f;
            k.attend_mix[HT_Q16](x->acc, 32, x->s, &one, 1, x->tile, ht_q16_row_bytes(32), 32, 0, HT_KV_TILE, &none);
            for (int32_t i = 0; i < 32; i++)
                cr_assert_float_eq(x->acc[i], (i % 2 ? 0.63 : -0.63) * used, 0.63 * used * 2e-4, "level %s %d tokens: %g",
                                   ht_isa_name(isa), used, x->acc[i]);
        }
    free(x);
}

/* d of a query is what attend_q16.h says, and every element is within half of it. */
Test(attend, q16_queries_keep_what_the_sum_allows)
{
    q16 *x = malloc(sizeof(*x));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int kind = 0; kind < 2; kind++) { /* 1: one element says how large the others are rounded */
            double sum = 0.0, max = 0.0;
            float d;
            ht_kernels_init(&k, isa);
            q16_open(x, 128);
            for (int32_t i = 0; i < 128; i++) x->row[i] = noise(5, i) * (kind && i == 77 ? 1000.0f : 1.0f);
            for (int32_t i = 0; i < 128; i++) sum += fabs(x->row[i]), max = fmax(max, fabs(x->row[i]));
            k.attend_query[HT_Q16](x->row, x->query, 128);
            memcpy(&d, x->query + 256, sizeof(d));
            cr_assert_float_eq(d, kind ? max / 32767 : sum / 261600, 1e-5 * d, "level %s kind %d", ht_isa_name(isa), kind);
            for (int32_t i = 0; i < 128; i++) {
                int16_t q;
                memcpy(&q, x->query + 2 * i, sizeof(q));
                cr_assert_float_eq(q * d, x->row[i], 0.5001 * d);
            }
        }
    free(x);
}

/* Where the inverse of a scale overflows there are zeros, with 0 for a scale; just above, there are numbers. */
Test(attend, q16_rows_too_small_for_a_scale_are_zeros)
{
    static const struct { float size; bool stored, asked; } rows[] = {
        {0.0f, false, false}, {1e-40f, false, false}, {2.3e-35f, false, false}, {2.5e-35f, true, false},
        {9.5e-35f, true, false}, {9.7e-35f, true, true},
    };
    q16 *x = malloc(sizeof(*x));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int i = 0; i < 6; i++) {
            float d;
            ht_kernels_init(&k, isa);
            q16_open(x, 32);
            x->row[3] = -rows[i].size;
            for (int value = 0; value < 2; value++) {
                k.kv_store[HT_Q16][value](x->row, x->tile, 7, 32);
                cr_assert_eq(((float *)(void *)x->tile)[7] > 0.0f, rows[i].stored, "level %s %g", ht_isa_name(isa), rows[i].size);
                ht_kv_read_row(&x->kv, x->tile, value, 0, 7, x->back);
                cr_assert_float_eq(x->back[3], rows[i].stored ? -rows[i].size : 0.0f, rows[i].size * 1e-4);
            }
            k.attend_query[HT_Q16](x->row, x->query, 32);
            memcpy(&d, x->query + 64, sizeof(d));
            cr_assert_eq(d > 0.0f, rows[i].asked, "level %s %g", ht_isa_name(isa), rows[i].size);
        }
    free(x);
}

/* Infinities and NaN reach the results; a zero row is zeros; what no one may see stays out. */
Test(attend, q16_passes_on_what_is_not_finite)
{
    const ht_attend_next none = {NULL, NULL, 0, 0};
    const float one = 1.0f, odd[] = {INFINITY, -INFINITY, NAN};
    q16 *x = malloc(sizeof(*x));
    ht_kernels k;

    for (ht_isa isa = HT_ISA_REF; isa <= ht_isa_detect(); isa++)
        for (int o = 0; o < 3; o++) {
            ht_kernels_init(&k, isa);
            q16_open(x, 32);
            for (int32_t i = 0; i < 32; i++) x->row[i] = 1.0f;
            k.attend_query[HT_Q16](x->row, x->query, 32);
            memset(x->tile, 0xff, sizeof(x->tile));
            for (int value = 0; value < 2; value++) {
                for (int32_t t = 8; t < 12; t++) {
                    for (int32_t i = 0; i < 32; i++) x->row[i] = t == 11 ? 0.0f : 1.0f;
                    if (t == 10) x->row[17] = odd[o];
                    k.kv_store[HT_Q16][value](x->row, x->tile, t, 32);
                }
                if (!value) {
                    k.attend_scores[HT_Q16](x->s, x->query, sizeof(x->query), 1, x->tile, ht_q16_row_bytes(32), 32, 8, 12,
                                            &none);
                    cr_assert_float_eq(x->s[9], 32.0f, 1e-2);
                    cr_assert(isnan(x->s[10]) && x->s[11] == 0.0f);
                    continue;
                }
                for (int32_t t = 0; t < HT_KV_TILE; t++) x->s[t] = t >= 8 && t < 10 ? 0.5f : 0.0f;
                k.attend_mix[HT_Q16](x->acc, 32, x->s, &one, 1, x->tile, ht_q16_row_bytes(32), 32, 8, 10, &none);
                cr_assert_float_eq(x->acc[0], 1.0f, 1e-3); /* poison on either side */
                x->s[10] = 0.1f;
                k.attend_mix[HT_Q16](x->acc, 32, x->s, &one, 1, x->tile, ht_q16_row_bytes(32), 32, 8, 12, &none);
                for (int32_t i = 0; i < 32; i++) cr_assert(isnan(x->acc[i]));
                memset(x->acc, 0, sizeof(x->acc));
            }
        }
    free(x);
}
