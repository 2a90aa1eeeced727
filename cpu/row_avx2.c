/* row kernels at the level AVX2: none yet, the references stay. */
#include "cpu/kernels.h"

void ht_kernels_row_avx2(ht_kernels *k) { (void)k; }
