/* Tile kernels, AVX2, of the types with blocks of 32. */
#include "cpu/tile_types_avx2.h"

TILE_TYPE(q4_0, HT_Q4_0)
TILE_TYPE(q4_1, HT_Q4_1)
TILE_TYPE(q5_0, HT_Q5_0)
TILE_TYPE(q5_1, HT_Q5_1)
TILE_TYPE(q8_0, HT_Q8_0)
TILE_TYPE(iq4_nl, HT_IQ4_NL)
