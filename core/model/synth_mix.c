/* Which type each tensor of a synthetic model gets, in the spirit of llama.cpp's llama-quantize, so that sizes and
 * speeds are comparable: the output matrix in Q6_K, and in the _M mixes half of attn_v and ffn_down better than the
 * rest. */
#include "core/model/synth.h"
#include "core/model/synth_parts.h"

#include <strings.h>

static const ht_synth_mix mixes[] = {
    {"f32", HT_F32, 0, 0},       {"f16", HT_F16, 0, 1},        {"bf16", HT_BF16, 0, 32},    {"q8_0", HT_Q8_0, 0, 7},
    {"q4_0", HT_Q4_0, 0, 2},     {"q4_1", HT_Q4_1, 0, 3},      {"q5_0", HT_Q5_0, 0, 8},     {"q5_1", HT_Q5_1, 0, 9},
    {"q2_k", HT_Q2_K, 'M', 10},  {"q3_k", HT_Q3_K, 0, 11},     {"q3_k_s", HT_Q3_K, 0, 11},  {"q3_k_m", HT_Q3_K, 'M', 12},
    {"q4_k", HT_Q4_K, 0, 14},    {"q4_k_s", HT_Q4_K, 'S', 14}, {"q4_k_m", HT_Q4_K, 'M', 15},
    {"q5_k", HT_Q5_K, 0, 16},    {"q5_k_s", HT_Q5_K, 0, 16},   {"q5_k_m", HT_Q5_K, 'M', 17},
    {"q6_k", HT_Q6_K, 0, 18},    {"iq4_nl", HT_IQ4_NL, 0, 25}, {"iq4_xs", HT_IQ4_XS, 0, 30},
};

const char *ht_synth_types(void)
{
    return "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q3_k_s, q3_k_m, q4_k, q4_k_s, q4_k_m, q5_k, "
           "q5_k_s, q5_k_m, q6_k, iq4_nl, iq4_xs";
}

const ht_synth_mix *ht_synth_mix_find(const char *name)
{
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++)
        if (strcasecmp(mixes[i].name, name) == 0) return &mixes[i];
    return NULL;
}

/* The first and last eighth of the layers, and every third between. */
static bool deserves_more(int32_t layer, int32_t n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static ht_type type_of_v(const ht_synth_mix *mix, int32_t layer, int32_t n, int32_t group)
{
    if (mix->base == HT_Q2_K) return group >= 4 ? HT_Q4_K : HT_Q3_K;
    if (mix->base == HT_Q3_K) return layer < 2 ? HT_Q5_K : HT_Q4_K;
    if (mix->size == 'S') return layer < 4 ? HT_Q5_K : mix->base;
    return deserves_more(layer, n) ? HT_Q6_K : mix->base;
}

static ht_type type_of_down(const ht_synth_mix *mix, int32_t layer, int32_t n)
{
    if (mix->base == HT_Q2_K) return HT_Q3_K;
    if (mix->base == HT_Q3_K) return layer < n / 16 ? HT_Q5_K : HT_Q4_K;
    if (mix->size == 'S') return layer < n / 8 ? HT_Q5_K : mix->base;
    return deserves_more(layer, n) ? HT_Q6_K : mix->base;
}

static ht_type wanted(const ht_synth_mix *mix, ht_synth_role role, int32_t layer, int32_t n, int32_t group)
{
    bool is_float = mix->base == HT_F32 || mix->base == HT_F16 || mix->base == HT_BF16;
    if (role == HT_SYNTH_OUTPUT) return is_float || mix->base == HT_Q8_0 ? mix->base : HT_Q6_K;
    if (!mix->size) return mix->base;
    if (role == HT_SYNTH_V) return type_of_v(mix, layer, n, group);
    if (role == HT_SYNTH_DOWN) return type_of_down(mix, layer, n);
    if (role == HT_SYNTH_O && mix->base == HT_Q2_K) return HT_Q3_K;
    if (role == HT_SYNTH_O && mix->base == HT_Q3_K) return HT_Q4_K;
    return mix->base;
}

ht_type ht_synth_type_of(const ht_synth_mix *mix, ht_synth_role role, int32_t layer, int32_t n_layers, int32_t group,
                         int64_t cols)
{
    ht_type type = wanted(mix, role, layer, n_layers, group);
    if (cols % ht_type_get(type)->block_len == 0) return type;
    switch (type) {
    case HT_Q4_K: return HT_Q5_0;
    case HT_Q5_K: return HT_Q5_1;
    case HT_Q6_K: return HT_Q8_0;
    default: return HT_IQ4_NL; /* Q2_K, Q3_K, IQ4_XS */
    }
}
