/* A model: its shape, and typed references to its weights. It holds no weight bytes: those are acquired from the
 * store (core/ports/store.h), one unit at a time.
 */
#ifndef HEARTH_CORE_MODEL_MODEL_H
#define HEARTH_CORE_MODEL_MODEL_H

#include "core/model/gguf.h"
#include "core/model/tensors.h"
#include "core/model/tokenizer.h"

typedef enum ht_activation { HT_SILU, HT_RELU, HT_GELU, HT_GELU_TANH } ht_activation;
typedef enum ht_norm_kind { HT_NORM_RMS, HT_NORM_LAYER } ht_norm_kind;
/* Which elements of a head RoPE turns together: (2i, 2i+1), or (i, i + rot/2). A property of the architecture
 * *and* the container: GGUF stores llama's Q and K rows permuted for INTERLEAVED, safetensors do not. */
typedef enum ht_rope_pairing { HT_ROPE_INTERLEAVED, HT_ROPE_HALVES } ht_rope_pairing;
typedef enum ht_rope_scaling { HT_ROPE_NONE, HT_ROPE_LINEAR, HT_ROPE_YARN } ht_rope_scaling;

typedef struct ht_rope {
    ht_rope_pairing pairing;
    ht_rope_scaling scaling;
    int32_t dims;              /* rotated dimensions of a head, <= head_dim, even */
    float base;
    float factor;              /* context extension: 1 for NONE */
    int32_t original_context;  /* YaRN */
    float attn_factor;         /* multiplies cos and sin; 1 unless the file says otherwise */
    float beta_fast, beta_slow, ext_factor; /* YaRN */
    bool longrope;             /* a GGUF says that it has LongRoPE's divisors (it may have them without saying so) */
    int32_t freqs;             /* tensor index of rope_freqs (dims/2 divisors, llama 3.1), or -1 */
    const float *divisors;     /* [dims/2] the same where no tensor has them (safetensors); owned by the model, or NULL */
} ht_rope;

typedef struct ht_shape {
    int32_t n_layers;
    int32_t n_embd;            /* d */
    int32_t n_ff;              /* f: neurons of one expert */
    int32_t n_heads;           /* H */
    int32_t n_kv_heads;        /* G, divides H */
    int32_t head_dim;          /* e */
    int32_t n_vocab;           /* V */
    int32_t n_context;         /* tokens it was trained for */
    int32_t n_experts;         /* 1 for a dense FFN */
    int32_t window;            /* sliding attention window in tokens, 0: none */
    int32_t window_period;     /* every so manieth layer has no window (gemma-2: 2, gemma-3: 6); 0: all have it */
    ht_norm_kind norm;
    float norm_eps;
    ht_activation activation;
    bool gated;                /* FFN = down(act(gate x) * up x), else down(act(up x)) */
    bool post_norms;           /* what attention and FFN give is normed before it is added (gemma-2, -3) */
    float embd_scale;          /* 1, or sqrt(d) (gemma) */
    float attn_scale;          /* of q k; 0: 1 / sqrt(e) */
    float attn_softcap;        /* c tanh(s / c) of the scaled scores, 0: none (gemma-2) */
    float logit_softcap;       /* the same of the logits */
    ht_rope rope;
    float rope_local_base;     /* > 0: layers with a window turn by this base, unscaled (gemma-3) */
} ht_shape;

/* Has this layer the sliding window? */
static inline bool ht_layer_is_local(const ht_shape *s, int32_t layer)
{
    return s->window > 0 && (s->window_period == 0 || (layer + 1) % s->window_period != 0);
}

/* A range of rows of a stored tensor (of elements, when it is a vector); tensor < 0: absent. Fused tensors (phi-3's
 * QKV) are several ranges of one. */
typedef struct ht_tensor_ref { int32_t tensor; int64_t row; int64_t rows; } ht_tensor_ref;

/* Shapes are (rows, cols). E = n_experts. */
typedef struct ht_layer_refs {
    ht_tensor_ref attn_norm, attn_norm_bias;  /* (d) */
    ht_tensor_ref q, k, v;                    /* (H e, d), (G e, d), (G e, d) */
    ht_tensor_ref q_bias, k_bias, v_bias;
    ht_tensor_ref q_norm, k_norm;             /* (e) */
    ht_tensor_ref o, o_bias;                  /* (d, H e), (d) */
    ht_tensor_ref attn_post_norm, ffn_post_norm; /* (d) */
    ht_tensor_ref ffn_norm, ffn_norm_bias;    /* (d) */
    ht_tensor_ref router;                     /* (E, d), absent when dense */
    ht_tensor_ref gate, up;                   /* (E f, d); gate absent when not gated */
    ht_tensor_ref down;                       /* (d, f) per expert */
    ht_tensor_ref gate_bias, up_bias, down_bias;
} ht_layer_refs;

typedef struct ht_model {
    char *architecture;        /* "llama", owned */
    char *name;                /* general.name or file name, owned */
    ht_shape shape;
    ht_tensor_ref embd;        /* (V, d) */
    ht_tensor_ref output_norm, output_norm_bias; /* (d) */
    ht_tensor_ref output;      /* (V, d); the same reference as embd when tied */
    ht_layer_refs *layers;     /* [n_layers], owned */
    const ht_tensor_dir *dir;  /* borrowed from the container */
    ht_gguf gguf;              /* the container, owned; of a folder, it has a directory and no metadata */
    char *folder;              /* the Hugging Face folder it comes from, owned; NULL: a GGUF */
    float *divisors[2];        /* RoPE's, where no tensor has them, owned: [1] beyond the original context */
    int32_t long_freqs;        /* tensor index of the divisors beyond the original context, or -1 */
    uint64_t weight_bytes;     /* bytes of all referenced tensors */
    uint64_t n_parameters;
} ht_model;

/* Opens a GGUF file or a Hugging Face folder (config.json and safetensors). Unknown architectures, missing tensors and
 * wrong shapes are errors that name them, with the expected and the found shape; so are tensors that the architecture as
 * hearth knows it does not have. */
int ht_model_open(ht_model **out, const char *path, ht_error *err);
/* The model's vocabulary: -EINVAL when it has more tokens than the embedding has rows. `path` names it in errors. */
int ht_model_open_tokenizer(ht_tokenizer **out, const ht_model *m, const char *path, ht_error *err);
void ht_model_close(ht_model **model);
/* Weight bytes read for one generated token: of the embedding, one row. */
uint64_t ht_model_token_bytes(const ht_model *model);
/* Fits the model to a context of that many tokens, before anything is computed: LongRoPE (phi-3) has one set of
 * divisors for contexts up to the original one and another for longer ones, which changes all positions. */
void ht_model_fit_context(ht_model *model, int32_t context);

#endif
