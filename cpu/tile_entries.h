/* The entries of the table for quantised types, and the list of these: alike at every level above the reference, which says by
 * TILE(name) what its tile_type of a type is called. */
#ifndef HEARTH_CPU_TILE_ENTRIES_H
#define HEARTH_CPU_TILE_ENTRIES_H

#include "cpu/kernels.h"

/* EACH(name, type) for every quantised type. */
#define TILE_EACH_TYPE(EACH)                                                                                       \
    EACH(q4_0, HT_Q4_0) EACH(q4_1, HT_Q4_1) EACH(q5_0, HT_Q5_0) EACH(q5_1, HT_Q5_1) EACH(q8_0, HT_Q8_0)            \
    EACH(iq4_nl, HT_IQ4_NL) EACH(q2_k, HT_Q2_K) EACH(q3_k, HT_Q3_K) EACH(q4_k, HT_Q4_K) EACH(q5_k, HT_Q5_K)        \
    EACH(q6_k, HT_Q6_K) EACH(iq4_xs, HT_IQ4_XS)

/* The decode class and expand, of the file's dot_q8(), dot_f32() and expand(). */
#define TILE_DOT_ENTRIES(name, id)                                                                                 \
    static void dot_##name##_q8(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,         \
                                const void *x, size_t x_bytes, int64_t n, int64_t cols)                            \
    {                                                                                                              \
        dot_q8(&TILE(name), false, y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);                          \
    }                                                                                                              \
    static void woven_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,            \
                             const void *x, size_t x_bytes, int64_t n, int64_t cols)                               \
    {                                                                                                              \
        dot_q8(&TILE(name), true, y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);                           \
    }                                                                                                              \
    static void dot_##name##_f32(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,        \
                                 const void *x, size_t x_bytes, int64_t n, int64_t cols)                           \
    {                                                                                                              \
        dot_f32(&TILE(name), y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);                                \
    }                                                                                                              \
    static void expand_##name(const void *row, float *out, int64_t cols)                                           \
    {                                                                                                              \
        expand(&TILE(name), row, out, cols);                                                                       \
    }
/* Into the table k. */
#define TILE_DOT_FILL(name, id)                                                                                    \
    k->dot[id][0] = dot_##name##_q8;                                                                               \
    k->dot_woven[id] = woven_##name;                                                                               \
    k->dot[id][1] = dot_##name##_f32;                                                                              \
    k->expand[id] = expand_##name;

/* The block class with quantised columns, of the file's run(). */
#define TILE_MATMUL_ENTRIES(name, id)                                                                              \
    static void run_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,              \
                           const void *packed, int64_t n, int64_t cols, void *scratch)                             \
    {                                                                                                              \
        run(&TILE(name), false, y, y_stride, w, row_bytes, rows, packed, n, cols, scratch);                        \
    }                                                                                                              \
    static void woven_##name(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,            \
                             const void *packed, int64_t n, int64_t cols, void *scratch)                           \
    {                                                                                                              \
        run(&TILE(name), true, y, y_stride, w, row_bytes, rows, packed, n, cols, scratch);                         \
    }

#endif
