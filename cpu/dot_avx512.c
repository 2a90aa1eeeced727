/* Fills the table with the matrix kernels of the AVX-512 level. */
#include "cpu/tile_avx512.h"

void ht_kernels_dot_avx512(ht_kernels *k)
{
    ht_kernels_dot_float_avx512(k);
    ht_kernels_dot_quant_avx512(k);
    ht_kernels_matmul_q8_avx512(k);
    ht_kernels_matmul_f32_avx512(k);
    ht_kernels_matmul_fixed_avx512(k);
}
