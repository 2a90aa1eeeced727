/* The architectures as data: what a name in general.architecture implies. Adding one that is made of known parts is
 * adding a line to the table. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_MODEL_ARCH_H
#define HEARTH_CORE_MODEL_MODEL_ARCH_H

#include "core/model/model.h"

/* Whether a tensor belongs to an architecture. */
typedef enum ht_presence { HT_ABSENT, HT_OPTIONAL, HT_REQUIRED } ht_presence;

typedef struct ht_architecture {
    const char *name;           /* also the prefix of its metadata keys */
    ht_rope_pairing pairing;    /* in GGUF */
    ht_norm_kind norm;          /* LAYER norms have biases */
    ht_activation activation;
    bool gated;
    bool fused_qkv;             /* attn_qkv holds the rows of Q, K and V */
    bool fused_gate_up;         /* ffn_up holds the rows of gate and up */
    bool scaled_embedding;      /* embeddings are multiplied by sqrt(d) */
    ht_presence qkv_bias, o_bias, ffn_bias, qk_norm;
} ht_architecture;

/* NULL: unknown. `name` is not NUL-terminated. */
const ht_architecture *ht_architecture_find(const char *name, uint64_t len);
/* The names, for texts: "llama, mistral, ...". */
const char *ht_architecture_names(void);

/* Reads the hyperparameters into *out; all but n_vocab and rope.freqs, which the tensors tell. */
int ht_shape_read(ht_shape *out, const ht_architecture *arch, const ht_gguf *g, ht_error *err);

#endif
