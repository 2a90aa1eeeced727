/* row kernels at the level AVX512: none yet, the references stay. */
#include "cpu/kernels.h"

void ht_kernels_row_avx512(ht_kernels *k) { (void)k; }
