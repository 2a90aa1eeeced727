/* Stored weights as pairs of F16, for the tensor cores: load() reads a chunk, part(p) expands eight of its weights, so
 * that parts fit between products. What F16 cannot hold is cut; weights of that size do not occur in models that work. */
#ifndef HEARTH_GPU_KERNELS_HALVES_CUH
#define HEARTH_GPU_KERNELS_HALVES_CUH

#include "core/base/math.h"
#include "gpu/kernels/unpack.cuh"

namespace HT_BUILD {

constexpr float HALF_MAX = 65504.0f;
__device__ __forceinline__ float cut(float v, float most) { return fminf(fmaxf(v, -most), most); }

/* Of blocks of 32 the scales are F16 as stored, and weights are made from them in F16, two at a time, with one rounding.
 * The scales of super-blocks are products themselves: their weights are made in F32. */
template <class T, bool FLOAT = T::FLOAT> struct HalfChunk {
    static constexpr bool PAIRS = T::LEN == 32;
    static constexpr float MOST = HALF_MAX / (T::MINIMUM ? 2 : 1); /* of scale * q, and of an offset */
    unsigned q[8]; /* bytes 128 above the quants */
    float scale[2], offset[2];
    unsigned scales, offsets; /* PAIRS: as two F16 */

    __device__ __forceinline__ void load(const uint8_t *row, int c, int)
    {
        Chunk k;
        T::chunk(row, c, k);
#pragma unroll
        for (int i = 0; i < 8; i++) q[i] = static_cast<unsigned>(k.q[i]) ^ 0x80808080u;
#pragma unroll
        for (int h = 0; h < (T::HALVES ? 2 : 1); h++) {
            const float s = cut(k.scale[h], MOST / T::MOST), o = T::MINIMUM ? cut(k.offset[h], MOST) : 0.0f;
            if (PAIRS) {
                scales = pack_halves(s, s);
                offsets = pack_halves(o, o);
            } else {
                scale[h] = T::MINIMUM ? 128.0f * s : s; /* see weight() */
                offset[h] = o - scale[h];
            }
        }
    }
    __device__ __forceinline__ void part(int p, unsigned (&to)[4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned word = q[2 * p + i / 2];
            const int first = i % 2 * 2;
            if (PAIRS) {
                const unsigned v = biased_bytes_to_halves(word, first);
                to[i] = T::MINIMUM ? half2_fma(v, scales, offsets) : half2_mul(v, scales);
            } else {
                const int h = T::HALVES ? p / 2 : 0;
                to[i] = pack_halves(weight(word, first, h), weight(word, first + 1, h));
            }
        }
    }

private:
    __device__ __forceinline__ float weight(unsigned word, int i, int h) const
    {
        if (!T::MINIMUM) return scale[h] * biased_byte_of(word, i);
        /* With a minimum quants are from 0 to 127, and become the upper mantissa of 1 + q / 128: no subtraction. */
        const unsigned bits = __byte_perm(word, 0x3f000000u, 0x7044u | static_cast<unsigned>(i) << 8);
        return ht_fmaf(__uint_as_float(bits), scale[h], offset[h]);
    }
};

/* Floats: words of the row as they lie, zeros beyond its end. */
template <class T> struct HalfChunk<T, true> {
    static constexpr int WORDS = 8 * T::BYTES;
    int words[WORDS];

    __device__ __forceinline__ void load(const uint8_t *row, int c, int cols)
    {
        const uint8_t *from = row + 32 * c * T::BYTES;
        if (32 * c + 32 <= cols && !(reinterpret_cast<uintptr_t>(from) & 15)) {
#pragma unroll
            for (int i = 0; i < WORDS; i += 4) load_aligned<4>(from + 4 * i, words + i);
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i++) words[i] = 0;
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (32 * c + i < cols) {
                    if (T::BYTES == 4) words[i] = load4(from + 4 * i);
                    else words[i / 2] |= load2(from + 2 * i) << 16 * (i % 2);
                }
        }
    }
    __device__ __forceinline__ void part(int p, unsigned (&to)[4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = 8 * p + 2 * i;
            if (T::HALF) to[i] = static_cast<unsigned>(words[at / 2]);
            else to[i] = pack_halves(cut(T::of(words, at), HALF_MAX), cut(T::of(words, at + 1), HALF_MAX));
        }
    }
};

} // namespace HT_BUILD
#endif
