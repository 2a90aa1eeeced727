/* What is known of each block type: name, geometry, scalar reference conversions. The references are the ground
 * truth that every kernel on every device is checked against. */
#ifndef HEARTH_CORE_MODEL_TYPES_H
#define HEARTH_CORE_MODEL_TYPES_H

#include "core/model/blocks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ht_type_info {
    const char *name;      /* "Q4_0"; NULL marks a hole in the id space */
    int32_t block_len;     /* weights in a block; 1 for the float types */
    int32_t block_bytes;
    /* n is a multiple of block_len. Buffers do not overlap. */
    void (*dequantize)(const void *blocks, float *out, int64_t n);
    /* NULL where hearth has no quantiser for the type. Never divides by zero on constant or zero blocks; not
     * defined for NaN or infinity (callers check). */
    void (*quantize)(const float *in, void *blocks, int64_t n);
} ht_type_info;

/* NULL for an unknown id. */
const ht_type_info *ht_type_get(uint32_t id);
/* Case-insensitive; false when there is no such type. */
bool ht_type_by_name(const char *name, ht_type *out);

/* Bytes of a row of `cols` weights. `cols` must be a multiple of block_len (checked when files are opened). */
static inline size_t ht_row_bytes(const ht_type_info *t, int64_t cols)
{
    return (size_t)(cols / t->block_len) * (size_t)t->block_bytes;
}

/* The 16 levels of IQ4_NL and IQ4_XS. */
extern const int8_t ht_iq4_values[16];

/* Quantise one row of activations into the layout of blocks.h; `row` has HT_ACT_ROW_BYTES(cols) bytes. The scalar
 * reference, and bit for bit what every device must produce. */
void ht_act_quantize(const float *x, void *row, int64_t cols);

/* binary16 and bfloat16, round to nearest even, NaN kept NaN, bit-exact on every CPU. */
float ht_half_to_float(ht_half h);
ht_half ht_half_from_float(float f);
static inline float ht_bf16_to_float(ht_bf16 b)
{
    union { uint32_t u; float f; } v = {(uint32_t)b << 16};
    return v.f;
}
ht_bf16 ht_bf16_from_float(float f);

#endif
