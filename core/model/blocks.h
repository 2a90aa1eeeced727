/* The one quantized weight format: rows of GGUF blocks, the same bytes in the file, on NVMe, in RAM
 * and in VRAM. This header is plain data, included by C and CUDA alike: no includes but stdint.
 *
 * A row of a matrix is cols / HT_BLOCK_LEN(type) blocks, one after another. In the formulas q is a stored quant,
 * d and m are F16 scales, and w the weight it stands for. Layouts: the GGUF specification.
 */
#ifndef HEARTH_CORE_MODEL_BLOCKS_H
#define HEARTH_CORE_MODEL_BLOCKS_H

#include <stdint.h>

/* Ids as stored in GGUF tensor infos. An id that is not listed is an error, never a guess. */
typedef enum ht_type {
    HT_F32 = 0,
    HT_F16 = 1,
    HT_Q4_0 = 2,
    HT_Q4_1 = 3,
    HT_Q5_0 = 6,
    HT_Q5_1 = 7,
    HT_Q8_0 = 8,
    HT_Q2_K = 10,
    HT_Q3_K = 11,
    HT_Q4_K = 12,
    HT_Q5_K = 13,
    HT_Q6_K = 14,
    HT_IQ4_NL = 20,
    HT_IQ4_XS = 23,
    HT_BF16 = 30,
    HT_Q16 = 31,        /* of KV caches alone (core/ports/kv_q16.h): no file has it, and ht_type_get() does not know it */
    HT_TYPE_COUNT = 32, /* bound for tables indexed by type; ids between are holes */
} ht_type;

#define HT_QK 32   /* weights in a small block */
#define HT_QK_K 256 /* weights in a super-block of the K and IQ4_XS types */

typedef uint16_t ht_half;  /* IEEE binary16, as bits */
typedef uint16_t ht_bf16;  /* upper half of binary32, as bits */

/* w = d * (q - 8); element i < 16 is the low nibble of qs[i], element i + 16 its high nibble. */
typedef struct ht_block_q4_0 { ht_half d; uint8_t qs[16]; } ht_block_q4_0;
/* w = d * q + m; nibbles as in Q4_0. */
typedef struct ht_block_q4_1 { ht_half d, m; uint8_t qs[16]; } ht_block_q4_1;
/* w = d * (q - 16); bit i of qh (little-endian u32) is bit 4 of element i. */
typedef struct ht_block_q5_0 { ht_half d; uint8_t qh[4], qs[16]; } ht_block_q5_0;
/* w = d * q + m; bits as in Q5_0. */
typedef struct ht_block_q5_1 { ht_half d, m; uint8_t qh[4], qs[16]; } ht_block_q5_1;
/* w = d * q. */
typedef struct ht_block_q8_0 { ht_half d; int8_t qs[32]; } ht_block_q8_0;
/* w = d * (s & 15) * q - dmin * (s >> 4), q of 2 bits, s = scales[i / 16]. */
typedef struct ht_block_q2_k { uint8_t scales[16], qs[64]; ht_half d, dmin; } ht_block_q2_k;
/* w = d * (s - 32) * (q - 4 * !hbit), q of 2 bits, s of 6 bits packed in scales. */
typedef struct ht_block_q3_k { uint8_t hmask[32], qs[64], scales[12]; ht_half d; } ht_block_q3_k;
/* w = d * s * q - dmin * m; eight sub-blocks of 32, s and m of 6 bits packed in scales. */
typedef struct ht_block_q4_k { ht_half d, dmin; uint8_t scales[12], qs[128]; } ht_block_q4_k;
/* As Q4_K, with bit 4 of the quants in qh. */
typedef struct ht_block_q5_k { ht_half d, dmin; uint8_t scales[12], qh[32], qs[128]; } ht_block_q5_k;
/* w = d * s * (q - 32); sixteen sub-blocks of 16, q of 6 bits, s signed 8 bits. */
typedef struct ht_block_q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; ht_half d; } ht_block_q6_k;
/* w = d * table[q]; the table is ht_iq4_values in types.c; nibbles as in Q4_0. */
typedef struct ht_block_iq4_nl { ht_half d; uint8_t qs[16]; } ht_block_iq4_nl;
/* w = d * (s - 32) * table[q]; eight sub-blocks of 32, s of 6 bits (low nibbles in scales_l, high in scales_h). */
typedef struct ht_block_iq4_xs { ht_half d; uint16_t scales_h; uint8_t scales_l[4], qs[128]; } ht_block_iq4_xs;

#ifdef __cplusplus
#define HT_ASSERT_SIZE(t, n) static_assert(sizeof(t) == (n), "block size is part of the file format")
#else
#define HT_ASSERT_SIZE(t, n) _Static_assert(sizeof(t) == (n), "block size is part of the file format")
#endif
HT_ASSERT_SIZE(ht_block_q4_0, 18);
HT_ASSERT_SIZE(ht_block_q4_1, 20);
HT_ASSERT_SIZE(ht_block_q5_0, 22);
HT_ASSERT_SIZE(ht_block_q5_1, 24);
HT_ASSERT_SIZE(ht_block_q8_0, 34);
HT_ASSERT_SIZE(ht_block_q2_k, 84);
HT_ASSERT_SIZE(ht_block_q3_k, 110);
HT_ASSERT_SIZE(ht_block_q4_k, 144);
HT_ASSERT_SIZE(ht_block_q5_k, 176);
HT_ASSERT_SIZE(ht_block_q6_k, 210);
HT_ASSERT_SIZE(ht_block_iq4_nl, 18);
HT_ASSERT_SIZE(ht_block_iq4_xs, 136);

/* One row of activations, quantised once by the owner of x and then read by every kernel on every device.
 * Planar: `cols` int8 quants, then for each block of 32 its scale d = amax / 127 (F32) and the sum
 * d * sum(q) (F32; what the types with a minimum need). cols is padded to a multiple of 32 with zeros.
 *
 *   x[i] ~= d[i / 32] * q[i],   q = round-to-nearest-even(x * (127 / amax))
 *
 * A block with amax < HT_ACT_TINY counts as zero: d = 0 and q = 0 (127 / amax must not overflow).
 * A block with a NaN or an infinity: q = 0, d and the sum are NAN, so that what is computed of it is NaN. q is never -128.
 * Bytes of a row: cols + 8 * (cols / 32). The three parts are found by the helpers below. */
#define HT_ACT_TINY 1e-30f
#define HT_ACT_ROW_BYTES(cols) ((uint64_t)(cols) + 8u * ((uint64_t)(cols) / HT_QK))
static inline const int8_t *ht_act_quants(const void *row) { return (const int8_t *)row; }
static inline const float *ht_act_scales(const void *row, int64_t cols)
{
    return (const float *)(const void *)((const int8_t *)row + cols);
}
static inline const float *ht_act_sums(const void *row, int64_t cols)
{
    return ht_act_scales(row, cols) + cols / HT_QK;
}

#endif
