/* Puts the kernel table of a level together: references first, then whatever each level up to it overrides. */
#include "cpu/kernels.h"

#include <string.h>

void ht_kernels_init(ht_kernels *k, ht_isa isa)
{
    ht_isa highest = ht_isa_detect();
    if (isa > highest)
        isa = highest;
    memset(k, 0, sizeof(*k));
    k->isa = isa;
    ht_kernels_dot_ref(k);
    ht_kernels_matmul_fixed_ref(k);
    ht_kernels_row_ref(k);
    ht_kernels_attend_ref(k);
    ht_kernels_attend_q16_ref(k);
#if defined(__x86_64__)
    if (isa >= HT_ISA_AVX2) {
        ht_kernels_dot_avx2(k);
        ht_kernels_row_avx2(k);
        ht_kernels_kv_store_avx2(k);
        ht_kernels_attend_avx2(k);
        ht_kernels_attend_q16_avx2(k);
    }
    if (isa >= HT_ISA_AVX512) {
        ht_kernels_dot_avx512(k);
        ht_kernels_row_avx512(k);
        ht_kernels_attend_avx512(k);
        ht_kernels_attend_q16_avx512(k);
    }
#endif
}
