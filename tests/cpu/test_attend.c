/* The attention kernels: references against double precision, every level against the references bit for bit. What no
 * row sees is poisoned. */
#include "core/base/random.h"
#include "core/ports/store.h"
#include "cpu/kernels.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 70, DIM = 288, TILES = 3 };

static const ht_type types[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0};
static const int32_t dims[] = {32, 64, 80, 96, 128, 256, 288, 8, 40, 44, 63}; /* float types alone take those from 8 on */

static float noise(uint64_t seed, int64_t i) { return (float)(2.0 * ht_random_uniform(seed, 3, (uint64_t)i, 0) - 1.0); }

typedef struct state { float s[ROWS * HT_KV_TILE], acc[ROWS * (DIM + 3)], max[ROWS], sum[ROWS], carry[ROWS]; } state;

/* One tile per call; [first, limit) of a row in a tile, K and V rows of the cache type. */
typedef struct problem {
    ht_type type;
    int32_t m, dim;
    size_t row_bytes;
    float q[ROWS * (DIM + 5)];
    uint8_t k[TILES][HT_KV_TILE * DIM * 4], v[TILES][HT_KV_TILE * DIM * 4];
    int32_t first[TILES][ROWS], limit[TILES][ROWS], begin[TILES], end[TILES];
    float scale;
} problem;

static void fill_tile(problem *p, uint8_t *rows, int32_t begin, int32_t end, uint64_t seed, float size)
{
    const ht_type_info *info = ht_type_get(p->type);
    float row[DIM];

    memset(rows, 0xff, HT_KV_TILE * p->row_bytes);
    for (int32_t t = begin; t < end; t++) {
        for (int32_t i = 0; i < p->dim; i++) row[i] = size * noise(seed, t * DIM + i);
        info->quantize(row, rows + (size_t)t * p->row_bytes, p->dim);
    }
}

/* Shapes of masks: 0: all is seen; 1: causal; 2: a window; 3: some rows see nothing of the second tile. */
static void make_problem(problem *p, ht_type type, int32_t m, int32_t dim, int mask, uint64_t seed, float size)
{
    p->type = type;
    p->m = m;
    p->dim = dim;
    p->row_bytes = ht_row_bytes(ht_type_get(type), dim);
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
        fill_tile(p, p->k[t], p->begin[t], p->end[t], seed + 1 + (uint64_t)t, size);
        fill_tile(p, p->v[t], p->begin[t], p->end[t], seed + 11 + (uint64_t)t, 1.0f);
    }
}

static void run(const ht_kernels *k, const problem *p, state *s, int32_t from, int32_t m)
{
    int64_t q_stride = p->dim + 5, acc_stride = p->dim + 3;

    memset(s->s, 0xff, sizeof(s->s));
    for (int64_t i = 0; i < ROWS * (DIM + 3); i++) s->acc[i] = 0.0f;
    for (int32_t i = 0; i < m; i++) s->max[i] = -INFINITY, s->sum[i] = 0.0f;
    for (int t = 0; t < TILES; t++) {
        if (p->begin[t] >= p->end[t]) continue;
        k->attend_scores[p->type](s->s, p->q + from * q_stride, q_stride, m, p->k[t], p->row_bytes, p->dim, p->begin[t],
                                  p->end[t], p->v[t], HT_KV_TILE * p->row_bytes);
        k->attend_softmax(s->s, m, p->scale, p->first[t] + from, p->limit[t] + from, s->max, s->sum, s->carry);
        k->attend_mix[p->type](s->acc, acc_stride, s->s, s->carry, m, p->v[t], p->row_bytes, p->dim, p->begin[t],
                               p->end[t], NULL, 0);
    }
}

static void check_double(const problem *p, const state *s)
{
    const ht_type_info *info = ht_type_get(p->type);
    double score[TILES * HT_KV_TILE], want[DIM];
    float row[DIM];

    for (int32_t i = 0; i < p->m; i++) {
        double top = -INFINITY, sum = 0.0;
        for (int t = 0; t < TILES; t++)
            for (int32_t j = p->first[t][i]; j < p->limit[t][i]; j++) {
                info->dequantize(p->k[t] + (size_t)j * p->row_bytes, row, p->dim);
                double dot = 0.0;
                for (int32_t e = 0; e < p->dim; e++) dot += (double)p->q[i * (p->dim + 5) + e] * row[e];
                score[t * HT_KV_TILE + j] = dot * p->scale;
                top = fmax(top, dot * p->scale);
            }
        memset(want, 0, sizeof(want));
        for (int t = 0; t < TILES; t++)
            for (int32_t j = p->first[t][i]; j < p->limit[t][i]; j++) {
                double w = exp(score[t * HT_KV_TILE + j] - top);
                info->dequantize(p->v[t] + (size_t)j * p->row_bytes, row, p->dim);
                sum += w;
                for (int32_t e = 0; e < p->dim; e++) want[e] += w * row[e];
            }
        cr_assert_float_eq(s->max[i], top, 1e-5 + 1e-6 * fabs(top));
        for (int32_t e = 0; e < p->dim; e++)
            cr_assert_float_eq(s->acc[i * (p->dim + 3) + e] / s->sum[i], want[e] / sum, 2e-5, "%s row %d element %d: %g, not %g",
                               info->name, i, e, s->acc[i * (p->dim + 3) + e] / s->sum[i], want[e] / sum);
    }
}

static bool takes(ht_type type, int32_t dim) { return dim % ht_type_get(type)->block_len == 0; }

Test(attend, references_match_double_precision)
{
    problem *p = malloc(sizeof(*p));
    state *s = malloc(sizeof(*s));
    ht_kernels k;

    ht_kernels_init(&k, HT_ISA_REF);
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 11; d++)
            for (int mask = 0; mask < 4; mask++) {
                if (!takes(types[t], dims[d])) continue;
                make_problem(p, types[t], 5, dims[d], mask, (uint64_t)(d * 4 + mask), 1.5f);
                run(&k, p, s, 0, 5);
                check_double(p, s);
            }
    free(p), free(s);
}

/* The bits of the state, and the memory between and behind the rows of acc, which nobody may touch. */
static void compare(const state *a, const state *b, int32_t m, const char *what, ht_isa isa, const problem *p, int mask)
{
    size_t rows = (size_t)m * sizeof(float);
    cr_assert(memcmp(a->acc, b->acc, sizeof(a->acc)) == 0 && memcmp(a->sum, b->sum, rows) == 0 &&
              memcmp(a->max, b->max, rows) == 0,
              "%s: level %s, type %s, %d rows, dim %d, mask %d", what, ht_isa_name(isa), ht_type_get(p->type)->name, m,
              p->dim, mask);
}

static void check_levels(float size)
{
    static const int32_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 70};
    problem *p = malloc(sizeof(*p));
    state *want = malloc(sizeof(*want)), *got = malloc(sizeof(*got));
    ht_kernels ref, k;

    ht_kernels_init(&ref, HT_ISA_REF);
    for (int t = 0; t < 4; t++)
        for (int d = 0; d < 11; d++)
            for (int i = 0; i < 12; i++) {
                int mask = (t + d + i) % 4;
                if (!takes(types[t], dims[d]) || (ms[i] > 16 && dims[d] > 80)) continue;
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
        for (int t = 0; t < 4; t++)
            for (int mask = 0; mask < 4; mask++) {
                make_problem(p, types[t], 13, 96, mask, 5, 1.0f);
                run(&k, p, all, 0, 13);
                for (int32_t i = 0; i < 13; i++) {
                    run(&k, p, one, i, 1);
                    cr_assert(memcmp(all->acc + i * 99, one->acc, 96 * sizeof(float)) == 0 && all->sum[i] == one->sum[0] &&
                              all->max[i] == one->max[0], "level %s, type %s, mask %d, row %d", ht_isa_name(isa),
                              ht_type_get(types[t])->name, mask, i);
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
        k.attend_softmax(s, 2, 1.0f, first, limit, max, sum, carry);
        cr_assert(max[0] == 3.0f && sum[0] == 2.0f && max[1] == -INFINITY && sum[1] == 0.0f);
        cr_assert(carry[0] == 1.0f && carry[1] == 1.0f);
        for (int i = 0; i < 2 * HT_KV_TILE; i++) cr_assert_eq(s[i], 0.0f);
    }
}
