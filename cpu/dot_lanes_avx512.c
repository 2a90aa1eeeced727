/* The decode class of Q2_K and Q3_K with quantised columns, AVX-512. With 2 or 3 bits a weight, unpacking and scaling are
 * most of the work; here is less of both than in the tiles of tile_avx512.h, for more work on each column beforehand.
 *
 * Four rows at a time (a group), a super-block of each. A row's 64 bytes of quants are one vector, whose four lanes of 128
 * bits hold 16 columns of each of four blocks; four rows are turned within the lanes only: dword m of lane l is row m,
 * chunk l. A lane therefore needs other columns than its neighbours, and a column is laid out for that once a call.
 *
 * Two bits from 2s on (field s) of chunk 2H + h are half h of block 4H + s. Sums of 16 columns fit into 16 bits (HT_Q2_K
 * 16 * 127 * 3, and four times that where s is odd, since fields stay where they are; HT_Q3_K 16 * 127 * 4), so both halves
 * of a block go side by side into a dword and are scaled and added at once, as integers. They are then in pairs: lanes
 * l = 0..3 of pair p hold the blocks 2l + p.
 *
 * The order of F32 sums of a row: in each lane, blocks 2l and 2l + 1 of a super-block, then times d and added to those of
 * the lane so far; at last the lanes, by a tree. It is another one than that of the block class.
 */
#include "cpu/tile_avx512.h"

enum {
    LANE_ROWS = 4,
    LANE_GROUPS = 2,   /* groups of rows whose sums are scaled together, at most */
    LANE_COLUMNS = 4,  /* columns that share what is unpacked */
    LANE_SEGMENT = 64, /* super-blocks that a product takes at a time */
    LANE_BLOCKS = HT_QK_K / HT_QK,
};
#define EACH_GROUP TILE_UNROLL for (int g = 0; g < groups; g++) /* `groups`: a constant */
#define EACH_PAIR TILE_UNROLL for (int p = 0; p < 2; p++)

/* What a super-block of a column is multiplied as. */
typedef struct lane_column {
    __m512i x[4][4]; /* [s][j]: dword j of each half block, four times in the lane of its chunk */
    __m512 d[2];     /* [p]: scales of the blocks, divided by what the integer sums are too large by */
    __m512 dmin[2];  /* HT_Q2_K: the same for the minimums, negated */
    __m512i sum[4];  /* HT_Q2_K: [p]: sums of the quants of both halves, 16 bits each
                      * HT_Q3_K: [s]: -4 times the sums, where those of products begin */
} lane_column;

/* Rows of quants, by group. */
typedef struct lane_rows { const uint8_t *row[LANE_GROUPS][LANE_ROWS]; } lane_rows;

/* What is known of a super-block of a few groups but its quants. */
typedef struct lane_scales {
    __m512i s[2][LANE_GROUPS], m[2][LANE_GROUPS]; /* [p][group]: of both halves of a block, 16 bits each */
    __m512 d[LANE_GROUPS], dmin[LANE_GROUPS];
} lane_scales;

/* Of two vectors of sums by chunk, the lower words of s = p and the upper ones of s = p + 2: a dword of lane l holds both
 * halves of block 2l + p. */
TILE_INLINE __m512i join_halves(__m512i low, __m512i high)
{
    const __m512i index = _mm512_set_epi32(
        0x003f0037, 0x003d0035, 0x003b0033, 0x00390031, 0x001e0016, 0x001c0014, 0x001a0012, 0x00180010,
        0x002f0027, 0x002d0025, 0x002b0023, 0x00290021, 0x000e0006, 0x000c0004, 0x000a0002, 0x00080000);
    return _mm512_permutex2var_epi16(low, index, high);
}

static void lane_column_make(ht_type type, lane_column *out, const int8_t *q, const float *d, int64_t supers)
{
    for (int64_t i = 0; i < supers; i++, q += HT_QK_K, d += LANE_BLOCKS, out++) {
        __m512i sum[4];
        for (int s = 0; s < 4; s++) {
            __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(q + HT_QK * s));
            __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(q + HT_QK * (s + 4)));
            __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            out->x[s][0] = _mm512_shuffle_epi32(v, 0x00);
            out->x[s][1] = _mm512_shuffle_epi32(v, 0x55);
            out->x[s][2] = _mm512_shuffle_epi32(v, 0xaa);
            out->x[s][3] = _mm512_shuffle_epi32(v, 0xff);
            v = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), v);
            v = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, 0xb1));
            sum[s] = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, 0x4e));
        }
        const __m512i even = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0), zero = _mm512_setzero_si512();
        for (int p = 0; p < 2; p++) {
            __m512 scale = _mm512_permutexvar_ps(_mm512_add_epi32(even, _mm512_set1_epi32(p)),
                                                 _mm512_castps256_ps512(_mm256_loadu_ps(d)));
            if (type == HT_Q2_K) { /* p = 1: 4 times by the field, 256 times by the scales; minimums: 16 times */
                out->d[p] = _mm512_mul_ps(scale, _mm512_set1_ps(p ? 1.0f / 1024 : 1.0f));
                out->dmin[p] = _mm512_mul_ps(scale, _mm512_set1_ps(-1.0f / 16));
                out->sum[p] = join_halves(sum[p], _mm512_slli_epi32(sum[p + 2], 16));
            } else {
                out->d[p] = _mm512_mul_ps(scale, _mm512_set1_ps(1.0f / 1024));
                out->sum[p] = _mm512_slli_epi32(_mm512_sub_epi32(zero, sum[p]), 2);
                out->sum[p + 2] = _mm512_slli_epi32(_mm512_sub_epi32(zero, sum[p + 2]), 6);
            }
        }
    }
}

/* ---- scales ---------------------------------------------------------------------------------------------------- */

TILE_INLINE __m128i load_16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }

/* Of 16 bytes at `at` of each of four rows: byte k of dword m of lane l = byte lane[l] + 2 (k % 2) + k / 2 of row m. */
TILE_INLINE __m512i pick_scales(const __m256i rows[2], int l0, int l1, int l2, int l3)
{
    const __m256i lanes01 = _mm256_inserti128_si256(_mm256_set1_epi8((char)l0), _mm_set1_epi8((char)l1), 1);
    const __m256i lanes23 = _mm256_inserti128_si256(_mm256_set1_epi8((char)l2), _mm_set1_epi8((char)l3), 1);
    const __m512i lanes = _mm512_inserti64x4(_mm512_castsi256_si512(lanes01), lanes23, 1);
    const __m512i row = _mm512_broadcast_i32x4(_mm_setr_epi32(0x03010200, 0x13111210, 0x43414240, 0x53515250));
    return _mm512_permutex2var_epi8(_mm512_castsi256_si512(rows[0]), _mm512_add_epi8(lanes, row),
                                    _mm512_castsi256_si512(rows[1]));
}

TILE_INLINE void lane_scales_q2_k(int groups, const lane_rows *r, const __m256i rows[][2], lane_scales *o, float f16[][8])
{
    const __m512i upper = _mm512_set1_epi32(0x00f000f0);
    __m512i v[LANE_GROUPS];
    EACH_GROUP v[g] = pick_scales(rows[g], 0, 4, 8, 12);
    EACH_GROUP o->s[0][g] = _mm512_and_si512(v[g], _mm512_set1_epi32(0x000f000f));
    EACH_GROUP o->s[1][g] = _mm512_and_si512(v[g], _mm512_set1_epi32(0x0f000f00));
    EACH_GROUP o->m[0][g] = _mm512_and_si512(v[g], upper);
    EACH_GROUP o->m[1][g] = _mm512_and_si512(_mm512_srli_epi32(v[g], 8), upper);
    EACH_GROUP { /* d and dmin: the last dword of each row's last 16 bytes */
        const size_t at = sizeof(ht_block_q2_k) - 16;
        __m128i low = _mm_unpackhi_epi32(load_16(r->row[g][0] + at), load_16(r->row[g][1] + at));
        __m128i high = _mm_unpackhi_epi32(load_16(r->row[g][2] + at), load_16(r->row[g][3] + at));
        __m128i apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        _mm256_store_ps(f16[g], _mm256_cvtph_ps(_mm_shuffle_epi8(_mm_unpackhi_epi64(low, high), apart)));
    }
}

/* Scale i = 4l + 2p + h has its lower 4 bits in byte i % 8, nibble i / 8, and two more in byte 8 + i % 4, from bit 2l on.
 * It becomes 4 (s - 32) in the upper half of 16 bits. rows: the last 16 bytes, two of the quants before. */
TILE_INLINE void lane_scales_q3_k(int groups, const __m256i rows[][2], lane_scales *o, float f16[][8])
{
    const __m512i mask = _mm512_set1_epi16((short)0xff00), bias = _mm512_set1_epi16((short)0x8000);
    const __m512i turn_low = _mm512_set_epi32(30, 30, 30, 30, 30, 30, 30, 30, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m512i turn_high = _mm512_set_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    __m512i low[LANE_GROUPS], high[LANE_GROUPS];
    EACH_GROUP low[g] = _mm512_rolv_epi32(pick_scales(rows[g], 2, 6, 2, 6), turn_low);
    EACH_GROUP high[g] = _mm512_rolv_epi32(pick_scales(rows[g], 10, 10, 10, 10), turn_high);
    EACH_GROUP high[g] = _mm512_and_si512(high[g], _mm512_set1_epi8((char)0xc0));
    EACH_GROUP high[g] = _mm512_ternarylogic_epi32(high[g], low[g], _mm512_set1_epi8(0x3c), 0xf8); /* a | b & c */
    EACH_GROUP o->s[0][g] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(high[g], 8), mask, bias, 0x6a); /* a & b ^ c */
    EACH_GROUP o->s[1][g] = _mm512_ternarylogic_epi32(high[g], mask, bias, 0x6a);
    EACH_GROUP {
        __m256i d = _mm256_permutex2var_epi16(rows[g][0], _mm256_set1_epi64x(0x001f0017000f0007), rows[g][1]);
        _mm_store_ps(f16[g], _mm_cvtph_ps(_mm256_castsi256_si128(d)));
    }
}

TILE_INLINE void lane_scales_of(ht_type type, int groups, const lane_rows *r, lane_scales *o)
{
    __attribute__((aligned(32))) float f16[LANE_GROUPS][8]; /* d of four rows, dmin of four rows */
    const size_t at = type == HT_Q2_K ? 0 : sizeof(ht_block_q3_k) - 16;
    __m256i rows[LANE_GROUPS][2];
    EACH_GROUP {
        TILE_UNROLL for (int i = 0; i < 2; i++)
            rows[g][i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load_16(r->row[g][2 * i] + at)),
                                                 load_16(r->row[g][2 * i + 1] + at), 1);
    }
    if (type == HT_Q2_K)
        lane_scales_q2_k(groups, r, (const __m256i(*)[2])rows, o, f16);
    else
        lane_scales_q3_k(groups, (const __m256i(*)[2])rows, o, f16);
    __asm__("" : "+m"(f16)); /* through memory, since loads broadcast for nothing */
    EACH_GROUP o->d[g] = _mm512_broadcast_f32x4(_mm_load_ps(f16[g]));
    if (type == HT_Q2_K)
        EACH_GROUP o->dmin[g] = _mm512_broadcast_f32x4(_mm_load_ps(f16[g] + 4));
}

/* ---- products -------------------------------------------------------------------------------------------------- */

/* These are computed before what follows. Instructions that alternate between two kinds wait for one another on Zen 4
 * (measured: a mask and a product in turns 1.3 cycles, in fours 1.0), and compilers would also read vectors twice. */
#define TOGETHER(v) __asm__ volatile("" : "+v"((v)[0]), "+v"((v)[1]), "+v"((v)[2]), "+v"((v)[3]))

/* The quants of a super-block of a group, turned: t[p][j] holds dword j of each chunk, with field p from bit 2p (HT_Q2_K) or 0
 * (HT_Q3_K) on, and field p + 2 four bits higher. */
TILE_INLINE void lane_quants(ht_type type, const uint8_t *const row[LANE_ROWS], __m512i t[2][4])
{
    const size_t qs = type == HT_Q2_K ? offsetof(ht_block_q2_k, qs) : offsetof(ht_block_q3_k, qs);
    __m512i v[4], high[4];
    TILE_UNROLL for (int m = 0; m < 4; m++)
        v[m] = _mm512_loadu_si512(row[m] + qs);
    TOGETHER(v);
    turn4(v, t[0]);
    if (type == HT_Q2_K) {
        TILE_UNROLL for (int j = 0; j < 4; j++)
            t[1][j] = t[0][j];
        return;
    }
    TILE_UNROLL for (int m = 0; m < 4; m++)
        v[m] = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)row[m]));
    TOGETHER(v);
    turn4(v, high);
    /* Third bits: of field p, bit 4H + p becomes bit 2; of field p + 2, bit 4H + p + 2 becomes bit 6. */
#define THIRD(H, p) (1ll << (4 * (H) + (p) + 40) | 1ll << (4 * (H) + (p) + 2 + 8))
#define THIRDS(p) _mm512_inserti64x4(_mm512_set1_epi64(THIRD(0, p)), _mm256_set1_epi64x(THIRD(1, p)), 1)
    const __m512i mask = _mm512_set1_epi8(0x33);
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        __m512i odd = _mm512_srli_epi32(t[0][j], 2);
        t[0][j] = _mm512_ternarylogic_epi32(t[0][j], mask, _mm512_gf2p8affine_epi64_epi8(high[j], THIRDS(0), 0), 0xea);
        t[1][j] = _mm512_ternarylogic_epi32(odd, mask, _mm512_gf2p8affine_epi64_epi8(high[j], THIRDS(1), 0), 0xea);
    }
#undef THIRDS
#undef THIRD
}

/* sum[c][s] = field s of a super-block of a group . column c: four sums at a time, since each waits for its last product. */
TILE_INLINE void lane_products(ht_type type, int nc, const __m512i t[2][4], const lane_column *const *k, __m512i sum[][4])
{
    TILE_UNROLL for (int j = 0; j < 4; j++) {
        __m512i w[4];
        TILE_UNROLL for (int s = 0; s < 4; s++) {
            const int field = type == HT_Q2_K ? 3 << 2 * s : 7 << s / 2 * 4;
            w[s] = _mm512_and_si512(t[s % 2][j], _mm512_set1_epi8((char)field));
        }
        TOGETHER(w);
        TILE_UNROLL for (int c = 0; c < nc; c++) {
            TILE_UNROLL for (int s = 0; s < 4; s++) {
                __m512i start = j > 0 ? sum[c][s] : type == HT_Q2_K ? _mm512_setzero_si512() : k[c]->sum[s];
                sum[c][s] = _mm512_dpbusd_epi32(start, w[s], k[c]->x[s][j]);
            }
        }
    }
}

/* acc += the sums, scaled, and the minimums. */
TILE_INLINE void lane_add(ht_type type, int groups, const lane_scales *o, const lane_column *k, int c,
                          __m512i sum[][LANE_COLUMNS][4], __m512 *acc)
{
    __m512i v[2][LANE_GROUPS];
    __m512 f[2][LANE_GROUPS], whole[LANE_GROUPS];
    EACH_PAIR EACH_GROUP v[p][g] = _mm512_slli_epi32(sum[g][c][p + 2], 12); /* four bits too high already */
    EACH_PAIR EACH_GROUP v[p][g] = join_halves(sum[g][c][p], v[p][g]);
    EACH_PAIR EACH_GROUP v[p][g] = _mm512_madd_epi16(v[p][g], o->s[p][g]);
    EACH_PAIR EACH_GROUP f[p][g] = _mm512_cvtepi32_ps(v[p][g]);
    EACH_GROUP whole[g] = _mm512_mul_ps(f[0][g], k->d[0]);
    EACH_GROUP whole[g] = _mm512_fmadd_ps(f[1][g], k->d[1], whole[g]);
    EACH_GROUP acc[g] = _mm512_fmadd_ps(whole[g], o->d[g], acc[g]);
    if (type != HT_Q2_K)
        return;
    EACH_PAIR EACH_GROUP v[p][g] = _mm512_madd_epi16(o->m[p][g], k->sum[p]);
    EACH_PAIR EACH_GROUP f[p][g] = _mm512_cvtepi32_ps(v[p][g]);
    EACH_GROUP whole[g] = _mm512_mul_ps(f[0][g], k->dmin[0]);
    EACH_GROUP whole[g] = _mm512_fmadd_ps(f[1][g], k->dmin[1], whole[g]);
    EACH_GROUP acc[g] = _mm512_fmadd_ps(whole[g], o->dmin[g], acc[g]);
}

/* ---- tiles ----------------------------------------------------------------------------------------------------- */

/* acc[c] += super-block i of 16 rows . column c. at, ahead: as in tile_prefetch_part; `lines` lines of it. */
TILE_INLINE void lane_super(ht_type type, int nc, const tile_rows *here, uintptr_t at, size_t ahead, size_t lines,
                            const lane_column *const *x, int64_t i, __m512 acc[][TILE_ROWS / LANE_ROWS])
{
    const int all = TILE_ROWS / LANE_ROWS, groups = nc <= 2 ? LANE_GROUPS : 1; /* as far as registers go */
    const lane_column *k[LANE_COLUMNS];
    TILE_UNROLL for (int c = 0; c < nc; c++)
        k[c] = x[c] + i;
    TILE_UNROLL for (int first = 0; first < all; first += groups) {
        lane_rows r;
        lane_scales o;
        __m512i t[2][4], sum[LANE_GROUPS][LANE_COLUMNS][4];
        EACH_GROUP {
            TILE_UNROLL for (int m = 0; m < LANE_ROWS; m++)
                r.row[g][m] = tile_row(here, LANE_ROWS * (first + g) + m);
            lane_quants(type, r.row[g], t);
            TILE_UNROLL for (int c = 0; c < nc; c++) /* hidden, or loads would be kept for the next group, and spilled */
                __asm__ volatile("" : "+r"(k[c]));
            lane_products(type, nc, (const __m512i(*)[4])t, k, sum[g]);
            const size_t from = lines * (size_t)(first + g) / all, to = lines * (size_t)(first + g + 1) / all;
            TILE_UNROLL for (size_t line = from; line < to; line++)
                tile_prefetch_line(at, ahead, line);
        }
        lane_scales_of(type, groups, &r, &o);
        TILE_UNROLL for (int c = 0; c < nc; c++)
            lane_add(type, groups, &o, k[c], c, sum, acc[c] + first);
    }
}

/* Sums by lanes of four groups -> rows. */
TILE_INLINE __m512 lane_sum(const __m512 acc[4])
{
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(acc[0], acc[1], 0x88), _mm512_shuffle_f32x4(acc[0], acc[1], 0xdd));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(acc[2], acc[3], 0x88), _mm512_shuffle_f32x4(acc[2], acc[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* out[c] lane r += row r . column c */
TILE_INLINE void lane_tile(ht_type type, int nc, const tile_source *source, size_t ahead, const lane_column *const *x,
                           int64_t supers, __m512 *out)
{
    const size_t bytes = unpack_group_bytes(type), lines = (bytes * TILE_ROWS + 63) / 64;
    __m512 acc[LANE_COLUMNS][TILE_ROWS / LANE_ROWS];
    tile_aside aside;
    tile_rows here;
    TILE_UNROLL for (int c = 0; c < nc; c++) {
        TILE_UNROLL for (int g = 0; g < TILE_ROWS / LANE_ROWS; g++)
            acc[c][g] = _mm512_setzero_ps();
    }
    size_t at = 0;
    for (int64_t i = 0; i < supers;) {
        int64_t left = tile_take(type, source, at, (supers - i) * LANE_BLOCKS, &aside, &here);
        for (; left > 0; left--, at += bytes, i++) {
            lane_super(type, nc, &here, (uintptr_t)source->w + TILE_ROWS * at, ahead, lines, x, i, acc);
            tile_advance(type, &here);
        }
    }
    TILE_UNROLL for (int c = 0; c < nc; c++)
        out[c] = _mm512_add_ps(out[c], lane_sum(acc[c]));
}

/* Super-blocks [first, first + supers) of all rows against n <= LANE_COLUMNS columns; the sums so far are in y. */
TILE_INLINE void lane_segment(ht_type type, float *y, int64_t y_stride, const char *w, size_t row_bytes, int64_t rows,
                              const void *x, size_t x_bytes, int64_t n, int64_t cols, int64_t first, int64_t supers)
{
    lane_column made[LANE_COLUMNS][LANE_SEGMENT];
    const lane_column *set[LANE_COLUMNS];
    for (int64_t c = 0; c < n; c++) {
        const char *column = (const char *)x + (size_t)c * x_bytes;
        lane_column_make(type, made[c], ht_act_quants(column) + HT_QK_K * first,
                         ht_act_scales(column, cols) + LANE_BLOCKS * first, supers);
        set[c] = made[c];
    }
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const tile_source tile = tile_from(w + (size_t)r * row_bytes, row_bytes, rows - r);
        __mmask16 mask = lanes_mask(rows - r);
        __m512 acc[LANE_COLUMNS];
        for (int64_t c = 0; c < n; c++)
            acc[c] = first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y + c * y_stride + r);
        const size_t ahead = tile_ahead(row_bytes);
        switch (n) {
        case 1: lane_tile(type, 1, &tile, ahead, set, supers, acc); break;
        case 2: lane_tile(type, 2, &tile, ahead, set, supers, acc); break;
        case 3: lane_tile(type, 3, &tile, ahead, set, supers, acc); break;
        default: lane_tile(type, 4, &tile, ahead, set, supers, acc); break;
        }
        for (int64_t c = 0; c < n; c++)
            _mm512_mask_storeu_ps(y + c * y_stride + r, mask, acc[c]);
    }
}

TILE_INLINE void lane_dot(ht_type type, float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows,
                          const void *x, size_t x_bytes, int64_t n, int64_t cols)
{
    const int64_t supers = cols / HT_QK_K;
    for (int64_t i = 0; i < supers; i += LANE_SEGMENT) {
        const char *from = (const char *)w + (size_t)i * unpack_group_bytes(type);
        for (int64_t c = 0; c < n; c += LANE_COLUMNS)
            lane_segment(type, y + c * y_stride, y_stride, from, row_bytes, rows, (const char *)x + (size_t)c * x_bytes,
                         x_bytes, n - c < LANE_COLUMNS ? n - c : LANE_COLUMNS, cols, i,
                         supers - i < LANE_SEGMENT ? supers - i : LANE_SEGMENT);
    }
}

static void dot_q2_k(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows, const void *x,
                     size_t x_bytes, int64_t n, int64_t cols)
{
    lane_dot(HT_Q2_K, y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);
}

static void dot_q3_k(float *y, int64_t y_stride, const void *w, size_t row_bytes, int64_t rows, const void *x,
                     size_t x_bytes, int64_t n, int64_t cols)
{
    lane_dot(HT_Q3_K, y, y_stride, w, row_bytes, rows, x, x_bytes, n, cols);
}

void ht_kernels_dot_lanes_avx512(ht_kernels *k)
{
    k->dot[HT_Q2_K][0] = dot_q2_k;
    k->dot[HT_Q3_K][0] = dot_q3_k;
}
