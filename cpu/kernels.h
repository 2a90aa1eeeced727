/* The CPU kernels: one table, filled with scalar references and then overridden by what the CPU has. The table is
 * also the registry of the kernel checker (tests/cpu) and of the kernel bench: both walk it level by level.
 *
 * Kernels are pure functions of one thread: they know no pool, allocate nothing, and compute a given output in one
 * fixed order of sums, whatever rows or columns surround it. Who calls them for which rows is the host backend's
 * affair (cpu/host.c). Pointers need the alignment of their element type only, unless said. rows, n may be 0; cols
 * is a multiple of the type's block length, and not 0.
 */
#ifndef HEARTH_CPU_KERNELS_H
#define HEARTH_CPU_KERNELS_H

#include "core/model/types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ht_isa { HT_ISA_REF, HT_ISA_AVX2, HT_ISA_AVX512, HT_ISA_COUNT } ht_isa;

#define HT_DECODE_COLUMNS 8 /* most columns of a decode-class call */

/* Rows of weights against columns of activations.
 *   y[c * y_stride + r] = sum_k W[r][k] x[c][k]      r < rows, c < n
 * w: rows of `row_bytes` bytes. x: column c at (char *)x + c * x_bytes; F32 values, or quantised activation rows
 * (HT_ACT_ROW_BYTES, blocks.h). */
typedef void ht_dot_fn(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows, const void *x,
                       size_t x_bytes, int64_t n, int64_t cols);

/* y of n columns that ht_matmul packed. */
typedef void ht_matmul_fn(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows, const void *packed,
                          int64_t n, int64_t cols, void *scratch);

/* The block-class product works on activations packed once per pass, and expands weights a few rows at a time into
 * thread-local scratch. Same y as above. */
typedef struct ht_matmul {
    /* Bytes of `n` packed columns, and of one thread's scratch. */
    size_t (*packed_bytes)(int64_t n, int64_t cols);
    size_t (*scratch_bytes)(int64_t cols);
    /* Packs columns [begin, end) of n; x as in ht_dot_fn. Threads pack disjoint ranges, which are best multiples of
     * column_tile. */
    void (*pack)(void *packed, const void *x, size_t x_bytes, int64_t begin, int64_t end, int64_t n, int64_t cols);
    ht_matmul_fn *run;
    ht_matmul_fn *run_woven; /* as run, for rows woven into tiles: see dot_woven of ht_kernels */
    int32_t row_tile, column_tile; /* the sizes it likes its ranges to be multiples of */
    bool decode_bits;              /* its results are those of dot, bit for bit: it can serve both classes */
} ht_matmul;

/* The tiles of K and V that will most likely be read after the ones at hand, k_bytes and v_bytes long. NULL: none. */
typedef struct ht_attend_next { const void *k, *v; size_t k_bytes, v_bytes; } ht_attend_next;

typedef struct ht_kernels {
    ht_isa isa;

    /* By weight type; NULL for holes. [0]: x quantised to 8 bits; [1]: x in F32. Float weights (F32, F16, BF16) always take
     * x in F32, and both entries are the same, but for matmul[.][0] of F16 and BF16, which rounds to 16 bits (fixed.h). */
    ht_dot_fn *dot[HT_TYPE_COUNT][2];       /* decode class, n <= HT_DECODE_COLUMNS */
    ht_matmul matmul[HT_TYPE_COUNT][2];     /* block class */
    /* dot[.][0] for rows woven into tiles (core/model/tiles.h), which are taken in multiples of HT_TILE_ROWS: the same
     * bits as for plain rows. NULL, and run_woven too: this level reads no tiles of the type, or none with x in F32. */
    ht_dot_fn *dot_woven[HT_TYPE_COUNT];

    /* Dequantise a row (embedding look-up). */
    void (*expand[HT_TYPE_COUNT])(const void *row, float *out, int64_t cols);

    /* Quantise a row of activations; bit-identical on every level. */
    void (*act_quantize)(const float *x, void *row, int64_t cols);

    /* Norms, activations and RoPE give the same bits on every level: sums in 16 lanes (index mod 16), then a tree. */
    /* y = x * gain / sqrt(mean(x^2) + eps). y may be x. gain NULL: 1. */
    void (*rms_norm)(float *y, const float *x, const float *gain, float eps, int64_t n);
    /* y = (x - mean) / sqrt(var + eps) * gain + bias; y may be x; gain and bias may be NULL. */
    void (*layer_norm)(float *y, const float *x, const float *gain, const float *bias, float eps, int64_t n);

    /* h = act(g) * u, or act(g) when u is NULL; h may be g. One exp for all of hearth: ht_expf (core/base). */
    void (*glu_silu)(float *h, const float *g, const float *u, int64_t n);
    void (*glu_relu)(float *h, const float *g, const float *u, int64_t n);
    void (*glu_gelu)(float *h, const float *g, const float *u, int64_t n);      /* erf form */
    void (*glu_gelu_tanh)(float *h, const float *g, const float *u, int64_t n);

    /* Turn one head in place. cos_sin: pairs (cos, sin) for each of dims/2 frequencies. */
    void (*rope_interleaved)(float *head, const float *cos_sin, int64_t dims);
    void (*rope_halves)(float *head, const float *cos_sin, int64_t dims);

    /* Attention over one KV tile (HT_KV_TILE tokens) for `m` query rows (heads that share a KV head, of one or several
     * columns), in three steps, by the cache types of K and V (F32, F16, Q8_0, Q4_0, Q16). A row's result does not depend on
     * the other rows while V is finite (0 times infinity is NaN). Tokens [begin, end) of the tile are visible to some row;
     * others may hold anything.
     *
     *   scores   s[i][t] = q[i] . K[t]                 t in [begin, end); s: [m][HT_KV_TILE], the rest is left undefined
     *   softmax  s[i][t] = exp(scale s[i][t] - max')   and 0 outside of [first[i], limit[i]); max' = the running maximum,
     *            carry[i] = exp(max - max'), sum[i] = sum[i] carry[i] + sum_t s[i][t]
     *   mix      acc[i] = acc[i] carry[i] + sum_t s[i][t] V[t]
     *
     * State is carried over tiles by the caller, beginning with max = -INFINITY, sum = 0, acc = 0; the result is
     * acc / sum. A row that sees no token of the tile keeps its state. All levels give the same bits: sums over e and
     * over t in 16 lanes (index mod 16) of fused multiply-adds, then a tree; mix in order of t. Q16 sums integers
     * (attend_q16.h).
     *
     * q: row i at (char *)q + i * q_bytes; F32, or what attend_query made of it where a type has one. k, v: the
     * tile, whose rows have row_bytes. next: what is read after this tile, prefetched along the way. */
    void (*attend_query[HT_TYPE_COUNT])(const float *q, void *row, int32_t head_dim); /* Q16 alone, into ht_q16_row_bytes() */
    void (*attend_scores[HT_TYPE_COUNT])(float *s, const void *q, size_t q_bytes, int32_t m, const void *k,
                                         size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end,
                                         const ht_attend_next *next);
    void (*attend_softmax)(float *s, int32_t m, float scale, const int32_t *first, const int32_t *limit, float *max,
                           float *sum, float *carry, const ht_attend_next *next);
    void (*attend_mix[HT_TYPE_COUNT])(float *acc, int64_t acc_stride, const float *s, const float *carry, int32_t m,
                                      const void *v, size_t row_bytes, int32_t head_dim, int32_t begin, int32_t end,
                                      const ht_attend_next *next);
    /* Stores row t of a tile of K ([0]) or V ([1]) in the cache type. n: a head's elements. */
    void (*kv_store[HT_TYPE_COUNT][2])(const float *in, void *tile, int32_t t, int64_t n);
} ht_kernels;

/* The highest level that this CPU and its operating system support. */
ht_isa ht_isa_detect(void);
const char *ht_isa_name(ht_isa isa);
/* false: no such name. */
bool ht_isa_by_name(const char *name, ht_isa *out);

/* The table at a level: references first, then each level up to `isa` overrides. Never above ht_isa_detect(). */
void ht_kernels_init(ht_kernels *k, ht_isa isa);

/* Fillers, called in order of levels. Each file of a level is compiled with that level's flags, and only called
 * after the CPU was asked. By family: dot_* (matrix kernels, expand, act_quantize), row_* (norms, activations, RoPE,
 * KV rows), attend_* (attention; attend_q16_*: over Q16, with its KV rows). */
void ht_kernels_dot_ref(ht_kernels *k);
void ht_kernels_matmul_fixed_ref(ht_kernels *k); /* in the place of some entries of dot_ref */
void ht_kernels_dot_avx2(ht_kernels *k);
void ht_kernels_dot_avx512(ht_kernels *k);
void ht_kernels_row_ref(ht_kernels *k);
void ht_kernels_row_avx2(ht_kernels *k);
void ht_kernels_kv_store_avx2(ht_kernels *k); /* quantised KV rows, at AVX-512 too */
void ht_kernels_row_avx512(ht_kernels *k);
void ht_kernels_attend_ref(ht_kernels *k);
void ht_kernels_attend_avx2(ht_kernels *k);
void ht_kernels_attend_avx512(ht_kernels *k);
void ht_kernels_attend_q16_ref(ht_kernels *k);
void ht_kernels_attend_q16_avx2(ht_kernels *k);
void ht_kernels_attend_q16_avx512(ht_kernels *k);

#endif
