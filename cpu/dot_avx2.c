/* Fills the table with the matrix kernels of the AVX2 level. */
#include "cpu/tile_avx2.h"

void ht_kernels_dot_avx2(ht_kernels *k)
{
    ht_kernels_dot_float_avx2(k);
    ht_kernels_dot_quant_avx2(k);
    ht_kernels_matmul_q8_avx2(k);
    ht_kernels_matmul_f32_avx2(k);
    ht_kernels_matmul_fixed_avx2(k);
}
