/* The stored blocks, as kernels read them: 32 neighbouring weights of a row at a time (a chunk, the length of an
 * activation block). Formulas and layouts: core/model/blocks.h. Quants come as eight words of four signed bytes in
 * order of the elements, ready for dp4a; w = scale[h] * q + offset[h], h = element / 16.
 *
 * A type's struct says: LEN and BYTES of a block, MOST (no |q| is above), HALVES (the two halves of a chunk have scales of
 * their own), MINIMUM (there are offsets, and no negative quants), and chunk(row, c, out). The float types have at(row, k)
 * instead, FLOAT = true, and HALF where that is F16. */
#ifndef HEARTH_GPU_KERNELS_UNPACK_CUH
#define HEARTH_GPU_KERNELS_UNPACK_CUH

#include "gpu/kernels/cuda.cuh"

namespace HT_BUILD {

struct Chunk {
    int q[8];
    float scale[2], offset[2];
};

/* ---- loads: as wide as the blocks of a type are aligned, since each costs a pass through the first-level cache. Rows
 * begin at multiples of 16 bytes or of their blocks, whichever is less; a tensor at a multiple of 256. ---- */

__device__ __forceinline__ int load2(const uint8_t *p) { return *reinterpret_cast<const uint16_t *>(p); }
__device__ __forceinline__ int load4(const uint8_t *p) { return *reinterpret_cast<const int *>(p); }

/* A half and the N words after it, at a multiple of 2: whole words of memory, whichever way they lie. */
template <int N> __device__ __forceinline__ void load_half_and_words(const uint8_t *p, int &half, int (&q)[N])
{
    const bool aligned = !(reinterpret_cast<uintptr_t>(p) & 2); /* the half and half a word, ..., the last half word */
    const uint8_t *words = aligned ? p : p + 2;
    const unsigned order = aligned ? 0x5432u : 0x3210u;
    int w[N + 1];
#pragma unroll
    for (int i = 0; i < N; i++) w[i] = load4(words + 4 * i);
    w[N] = load2(aligned ? p + 4 * N : p);
#pragma unroll
    for (int i = 0; i < N; i++)
        q[i] = static_cast<int>(__byte_perm(static_cast<unsigned>(w[i]), static_cast<unsigned>(w[i + 1]), order));
    half = aligned ? w[0] & 0xffff : w[N];
}

/* N words at a multiple of 2, inside a block of a row: up to 2 bytes before them and 4 behind them are read too. */
template <int N> __device__ __forceinline__ void load_words_by2(const uint8_t *p, int (&q)[N])
{
    const int odd = static_cast<int>(reinterpret_cast<uintptr_t>(p) & 2);
    const unsigned order = odd ? 0x5432u : 0x3210u;
    int w[N + 1];
#pragma unroll
    for (int i = 0; i <= N; i++) w[i] = load4(p - odd + 4 * i);
#pragma unroll
    for (int i = 0; i < N; i++)
        q[i] = static_cast<int>(__byte_perm(static_cast<unsigned>(w[i]), static_cast<unsigned>(w[i + 1]), order));
}

__device__ __forceinline__ float half_of(int bits) { return half_to_float(static_cast<uint16_t>(bits)); }
__device__ __forceinline__ float high_half_of(int bits) { return half_of(static_cast<int>(static_cast<unsigned>(bits) >> 16)); }
__device__ __forceinline__ float load_half(const uint8_t *p) { return half_of(load2(p)); }
/* Byte i of a word, unsigned. */
__device__ __forceinline__ int byte_at(int word, int i)
{
    return static_cast<int>(static_cast<unsigned>(word) >> 8 * i & 255u);
}

/* ---- arithmetic on four bytes in a word ---- */

/* x - n in every byte, signed; bytes of x are in [0, 127] and n in [0, 127]. */
__device__ __forceinline__ int minus4(int x, int n)
{
    return static_cast<int>(((static_cast<unsigned>(x) | 0x80808080u) - 0x01010101u * static_cast<unsigned>(n)) ^
                            0x80808080u);
}
/* Bits 0..3 of b, one to each byte. */
__device__ __forceinline__ int spread4(unsigned b) { return static_cast<int>(((b & 15u) * 0x00204081u) & 0x01010101u); }
__device__ __forceinline__ int low_nibbles(int x) { return x & 0x0f0f0f0f; }
__device__ __forceinline__ int high_nibbles(int x) { return (x >> 4) & 0x0f0f0f0f; }

/* Nibbles as in Q4_0: elements 0..15 in the low halves of 16 bytes, 16..31 in the high ones. */
__device__ __forceinline__ void nibbles(const int *packed, int (&q)[8])
{
    for (int i = 0; i < 4; i++) {
        q[i] = low_nibbles(packed[i]);
        q[i + 4] = high_nibbles(packed[i]);
    }
}

/* The levels of IQ4 by nibble: ht_iq4_values as four words. */
__device__ __forceinline__ int iq4_levels(int n)
{
    const unsigned t0 = 0xbfad9881u, t1 = 0xf6eaddcfu, t2 = 0x26190d01u, t3 = 0x71594535u;
    const unsigned x = static_cast<unsigned>(n) & 0x07070707u, high = (static_cast<unsigned>(n) >> 3) & 0x01010101u;
    unsigned s = (x | x >> 4) & 0x00ff00ffu;
    s = (s | s >> 8) & 0xffffu;
    const unsigned mask = high * 255u, low_part = __byte_perm(t0, t1, s), high_part = __byte_perm(t2, t3, s);
    return static_cast<int>((low_part & ~mask) | (high_part & mask));
}

/* ---- blocks of 32 ---- */

struct Q4_0 {
    static constexpr int LEN = 32, BYTES = 18, MOST = 8;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        int d, packed[4];
        load_half_and_words(row + c * BYTES, d, packed);
        o.scale[0] = half_of(d);
        nibbles(packed, o.q);
        for (int i = 0; i < 8; i++) o.q[i] = minus4(o.q[i], 8);
    }
};

struct Q4_1 {
    static constexpr int LEN = 32, BYTES = 20, MOST = 15;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = true;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c * BYTES;
        const int d = load4(b);
        int packed[4];
        for (int i = 0; i < 4; i++) packed[i] = load4(b + 4 + 4 * i);
        o.scale[0] = half_of(d);
        o.offset[0] = high_half_of(d);
        nibbles(packed, o.q);
    }
};

__device__ __forceinline__ void add_fifth_bits(int (&q)[8], unsigned bits)
{
    for (int i = 0; i < 8; i++) q[i] |= spread4(bits >> 4 * i) << 4;
}

struct Q5_0 {
    static constexpr int LEN = 32, BYTES = 22, MOST = 16;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        int d, words[5];
        load_half_and_words(row + c * BYTES, d, words);
        o.scale[0] = half_of(d);
        nibbles(words + 1, o.q);
        add_fifth_bits(o.q, static_cast<unsigned>(words[0]));
        for (int i = 0; i < 8; i++) o.q[i] = minus4(o.q[i], 16);
    }
};

struct Q5_1 {
    static constexpr int LEN = 32, BYTES = 24, MOST = 31;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = true;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c * BYTES;
        int words[6];
        for (int i = 0; i < 3; i++) load_aligned<2>(b + 8 * i, words + 2 * i);
        o.scale[0] = half_of(words[0]);
        o.offset[0] = high_half_of(words[0]);
        nibbles(words + 2, o.q);
        add_fifth_bits(o.q, static_cast<unsigned>(words[1]));
    }
};

struct Q8_0 {
    static constexpr int LEN = 32, BYTES = 34, MOST = 128;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        int d;
        load_half_and_words(row + c * BYTES, d, o.q);
        o.scale[0] = half_of(d);
    }
};

struct IQ4_NL {
    static constexpr int LEN = 32, BYTES = 18, MOST = 127;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        int d, packed[4];
        load_half_and_words(row + c * BYTES, d, packed);
        o.scale[0] = half_of(d);
        nibbles(packed, o.q);
        for (int i = 0; i < 8; i++) o.q[i] = iq4_levels(o.q[i]);
    }
};

/* ---- super-blocks of 256: chunk j = 0..7 of a block; half n = j / 4 holds 128 weights, plane p = j % 4 of it ---- */

struct Q2_K {
    static constexpr int LEN = 256, BYTES = 84, MOST = 3;
    static constexpr bool FLOAT = false, HALVES = true, MINIMUM = true;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8), dm = load4(b + 80), packed = load2(b + 2 * j);
        const float d = half_of(dm), m = high_half_of(dm);
        for (int h = 0; h < 2; h++) {
            const int s = byte_at(packed, h);
            o.scale[h] = d * static_cast<float>(s & 15);
            o.offset[h] = -m * static_cast<float>(s >> 4);
        }
        for (int i = 0; i < 8; i++) o.q[i] = (load4(b + 16 + j / 4 * 32 + 4 * i) >> 2 * (j % 4)) & 0x03030303;
    }
};

struct Q3_K {
    static constexpr int LEN = 256, BYTES = 110, MOST = 4;
    static constexpr bool FLOAT = false, HALVES = true, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8), lows = load2(b + 96 + 2 * (j % 4)), highs = load2(b + 104 + 2 * (j % 2));
        const float d = load_half(b + 108);
        for (int h = 0; h < 2; h++) {
            const int low = (byte_at(lows, h) >> (j < 4 ? 0 : 4)) & 15, high = (byte_at(highs, h) >> j / 2 * 2) & 3;
            o.scale[h] = d * static_cast<float>((low | high << 4) - 32);
        }
        int low[8], high[8];
        load_words_by2(b + 32 + j / 4 * 32, low);
        load_words_by2(b, high);
        for (int i = 0; i < 8; i++)
            o.q[i] = minus4(((low[i] >> 2 * (j % 4)) & 0x03030303) | ((high[i] >> j) & 0x01010101) << 2, 4);
    }
};

/* The head of a block of Q4_K or Q5_K: d, the minimum's d, and eight pairs of 6 bits. Pair j as scale and offset. */
__device__ __forceinline__ void k4_scales(const int (&head)[4], int j, Chunk &o)
{
    const int a = byte_at(head[1], j % 4), b = byte_at(head[2], j % 4), c = byte_at(head[3], j % 4);
    const int s = j < 4 ? a & 63 : (c & 15) | (a >> 6) << 4, m = j < 4 ? b & 63 : c >> 4 | (b >> 6) << 4;
    o.scale[0] = half_of(head[0]) * static_cast<float>(s);
    o.offset[0] = -high_half_of(head[0]) * static_cast<float>(m);
}

struct Q4_K {
    static constexpr int LEN = 256, BYTES = 144, MOST = 15;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = true;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8);
        int head[4];
        load_aligned<4>(b, head);
        k4_scales(head, j, o);
        for (int i = 0; i < 8; i += 4) load_aligned<4>(b + 16 + j / 2 * 32 + 4 * i, o.q + i);
        for (int i = 0; i < 8; i++) o.q[i] = (o.q[i] >> 4 * (j % 2)) & 0x0f0f0f0f;
    }
};

struct Q5_K {
    static constexpr int LEN = 256, BYTES = 176, MOST = 31;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = true;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8);
        int head[4], high[8];
        load_aligned<4>(b, head);
        k4_scales(head, j, o);
        for (int i = 0; i < 8; i += 4) {
            load_aligned<4>(b + 48 + j / 2 * 32 + 4 * i, o.q + i);
            load_aligned<4>(b + 16 + 4 * i, high + i);
        }
        for (int i = 0; i < 8; i++) o.q[i] = ((o.q[i] >> 4 * (j % 2)) & 0x0f0f0f0f) | ((high[i] >> j) & 0x01010101) << 4;
    }
};

struct Q6_K {
    static constexpr int LEN = 256, BYTES = 210, MOST = 32;
    static constexpr bool FLOAT = false, HALVES = true, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8), n = j / 4, p = j % 4, scales = load2(b + 192 + 2 * j);
        const float d = load_half(b + 208);
        for (int h = 0; h < 2; h++) o.scale[h] = d * static_cast<float>(static_cast<int8_t>(byte_at(scales, h)));
        int low[8], high[8];
        load_words_by2(b + 64 * n + 32 * (p & 1), low);
        load_words_by2(b + 128 + 32 * n, high);
        for (int i = 0; i < 8; i++)
            o.q[i] = minus4(((low[i] >> 4 * (p >> 1)) & 0x0f0f0f0f) | ((high[i] >> 2 * p) & 0x03030303) << 4, 32);
    }
};

struct IQ4_XS {
    static constexpr int LEN = 256, BYTES = 136, MOST = 127;
    static constexpr bool FLOAT = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ void chunk(const uint8_t *row, int64_t c, Chunk &o)
    {
        const uint8_t *b = row + c / 8 * BYTES;
        const int j = static_cast<int>(c % 8);
        int head[2], packed[4]; /* d, the high bits of the scales, their low bits */
        load_aligned<2>(b, head);
        for (int i = 0; i < 4; i += 2) load_aligned<2>(b + 8 + 16 * j + 4 * i, packed + i);
        const int low = (head[1] >> 4 * j) & 15, high = (head[0] >> (16 + 2 * j)) & 3;
        o.scale[0] = half_of(head[0]) * static_cast<float>((low | high << 4) - 32);
        nibbles(packed, o.q);
        for (int i = 0; i < 8; i++) o.q[i] = iq4_levels(o.q[i]);
    }
};

/* ---- floats ---- */

struct F32 {
    static constexpr int LEN = 1, BYTES = 4;
    static constexpr bool FLOAT = true, HALF = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ float at(const uint8_t *row, int64_t k)
    {
        return reinterpret_cast<const float *>(row)[k];
    }
    /* Element i of the words of a row. */
    static __device__ __forceinline__ float of(const int *words, int i)
    {
        return __uint_as_float(static_cast<unsigned>(words[i]));
    }
};
struct F16 {
    static constexpr int LEN = 1, BYTES = 2;
    static constexpr bool FLOAT = true, HALF = true, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ float at(const uint8_t *row, int64_t k) { return load_half(row + 2 * k); }
    static __device__ __forceinline__ float of(const int *words, int i) { return half_of(words[i / 2] >> 16 * (i % 2)); }
};
struct BF16 {
    static constexpr int LEN = 1, BYTES = 2;
    static constexpr bool FLOAT = true, HALF = false, HALVES = false, MINIMUM = false;
    static __device__ __forceinline__ float at(const uint8_t *row, int64_t k)
    {
        return __uint_as_float(static_cast<unsigned>(load2(row + 2 * k)) << 16);
    }
    static __device__ __forceinline__ float of(const int *words, int i)
    {
        const unsigned w = static_cast<unsigned>(words[i / 2]);
        return __uint_as_float(i % 2 ? w & 0xffff0000u : w << 16);
    }
};

/* ---- to floats ---- */

/* Weights [32 c, 32 c + 32) of a row; zeros beyond its end. */
template <class T> __device__ __forceinline__ void expand(const uint8_t *row, int64_t c, int64_t cols, float (&w)[32])
{
    if constexpr (T::FLOAT) {
        const uint8_t *from = row + 32 * c * T::BYTES;
        if (32 * c + 32 <= cols && !(reinterpret_cast<uintptr_t>(from) & 15)) {
            int words[8 * T::BYTES];
#pragma unroll
            for (int i = 0; i < 8 * T::BYTES; i += 4) load_aligned<4>(from + 4 * i, words + i);
#pragma unroll
            for (int i = 0; i < 32; i++) w[i] = T::of(words, i);
        } else {
            for (int i = 0; i < 32; i++) w[i] = 32 * c + i < cols ? T::at(row, 32 * c + i) : 0.0f;
        }
    } else {
        Chunk k;
        if (32 * c >= cols) {
            for (int i = 0; i < 32; i++) w[i] = 0.0f;
            return;
        }
        T::chunk(row, c, k);
        for (int i = 0; i < 32; i++) {
            const int h = T::HALVES ? i / 16 : 0;
            const float v = k.scale[h] * byte_of(k.q[i / 4], i % 4);
            w[i] = T::MINIMUM ? v + k.offset[h] : v;
        }
    }
}

/* Cases of a switch over types: USE(struct of the type); others fall through. With HT_ONE_TYPE only Q4_0 is built, for
 * quick looks at what nvcc makes of a kernel (tests/gpu/nvcc.sh). */
#ifdef HT_ONE_TYPE
#define HT_FOR_FLOAT_TYPE(USE)
#define HT_FOR_BLOCK_TYPE(USE) case HT_Q4_0: USE(Q4_0);
#else
#define HT_FOR_FLOAT_TYPE(USE)                                                                                       \
    case HT_F32: USE(F32);                                                                                            \
    case HT_F16: USE(F16);                                                                                            \
    case HT_BF16: USE(BF16);
#define HT_FOR_BLOCK_TYPE(USE)                                                                                       \
    case HT_Q4_0: USE(Q4_0);                                                                                          \
    case HT_Q4_1: USE(Q4_1);                                                                                          \
    case HT_Q5_0: USE(Q5_0);                                                                                          \
    case HT_Q5_1: USE(Q5_1);                                                                                          \
    case HT_Q8_0: USE(Q8_0);                                                                                          \
    case HT_Q2_K: USE(Q2_K);                                                                                          \
    case HT_Q3_K: USE(Q3_K);                                                                                          \
    case HT_Q4_K: USE(Q4_K);                                                                                          \
    case HT_Q5_K: USE(Q5_K);                                                                                          \
    case HT_Q6_K: USE(Q6_K);                                                                                          \
    case HT_IQ4_NL: USE(IQ4_NL);                                                                                      \
    case HT_IQ4_XS: USE(IQ4_XS);
#endif

/* What a starter answers to arguments that no kernel is for: cudaErrorInvalidValue, or its like. */
constexpr int BAD_ARGUMENT = 1;

} // namespace HT_BUILD
#endif
