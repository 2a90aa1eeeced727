/* The architectures as data: what a name in general.architecture implies. Adding one that is made of known parts is
 * adding a line to the table. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_MODEL_ARCH_H
#define HEARTH_CORE_MODEL_MODEL_ARCH_H

#include "core/model/model.h"

/* Whether a tensor belongs to an architecture. */
typedef enum ht_presence { HT_ABSENT, HT_OPTIONAL, HT_REQUIRED } ht_presence;

typedef struct ht_architecture {
    const char *name;           /* also the prefix of its metadata keys */
    const char *hf_name;        /* model_type in config.json */
    ht_rope_pairing pairing;    /* in GGUF; in safetensors all are HALVES */
    ht_norm_kind norm;          /* LAYER norms have biases */
    ht_activation activation;
    bool gated;
    bool fused_qkv;             /* attn_qkv holds the rows of Q, K and V */
    bool fused_gate_up;         /* ffn_up holds the rows of gate and up */
    bool partial_rope;          /* config.json may say that RoPE turns a part of a head */
    bool scaled_embedding;      /* embeddings are multiplied by sqrt(d) */
    bool post_norms;            /* what attention and FFN give is normed before it is added */
    int window_period;          /* every so manieth layer has no window, if files do not say otherwise; 0: all have it */
    ht_presence qkv_bias, o_bias, ffn_bias, qk_norm;
    /* What config.json may leave out, as transformers fills it in. */
    bool tied;
    float eps;                  /* 0: 1e-6 */
    int head_dim;               /* 0: width / heads */
} ht_architecture;

/* NULL: unknown. `name` is not NUL-terminated. */
const ht_architecture *ht_architecture_find(const char *name, uint64_t len);
const ht_architecture *ht_architecture_find_hf(const char *name);
/* The names, for texts: "llama, mistral, ..."; in GGUF, and in config.json. */
const char *ht_architecture_names(void);
const char *ht_architecture_hf_names(void);

/* Reads the hyperparameters into *out; all but n_vocab and rope.freqs, which the tensors tell (n_vocab 0: the file does not
 * say). */
int ht_shape_read(ht_shape *out, const ht_architecture *arch, const ht_gguf *g, ht_error *err);
/* The same from config.json (model_config.c). */
typedef struct ht_config {
    const ht_architecture *arch;
    ht_shape shape;
    bool tied;                  /* the output matrix is the embedding */
    float *divisors[2];         /* [dims/2] of RoPE, owned; [1]: beyond the original context; NULL: none */
} ht_config;
int ht_config_read(ht_config *out, const char *folder, ht_error *err);
/* From text; `name` for errors. */
int ht_config_parse(ht_config *out, const char *text, size_t size, const char *name, ht_error *err);
void ht_config_close(ht_config *c);

/* The name in safetensors of a tensor that GGUF calls `name` ("blk.3.attn_q.weight"). */
void ht_hf_tensor_name(const ht_architecture *arch, const char *name, char *out, size_t room);

#endif
