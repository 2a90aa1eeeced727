/* Tile kernels, AVX-512, of the types with super-blocks of 256. */
#include "cpu/tile_types_avx512.h"

TILE_TYPE_SCALED(q2_k, HT_Q2_K)
TILE_TYPE_SCALED(q3_k, HT_Q3_K)
TILE_TYPE(q4_k, HT_Q4_K)
TILE_TYPE(q5_k, HT_Q5_K)
TILE_TYPE(q6_k, HT_Q6_K)
TILE_TYPE(iq4_xs, HT_IQ4_XS)
