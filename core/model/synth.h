/* Synthetic models: any llama shape, block types and seed, with random weights, streamed to disk. They compute
 * nonsense at the right speed: weights are scaled so that every layer matters, and so that greedy text neither
 * repeats itself nor ends. */
#ifndef HEARTH_CORE_MODEL_SYNTH_H
#define HEARTH_CORE_MODEL_SYNTH_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ht_synth_options {
    const char *shape;      /* a name of ht_synth_shapes(); NULL: "tiny". Fields below override it where not 0 */
    int32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    const char *type;       /* of the matrices: a block type or a mix of ht_synth_types(); NULL: "q4_0" */
    const char *activation; /* "silu" (NULL) or "relu" */
    const char *vocab;      /* GGUF to take the vocabulary from; NULL: bytes and made-up words */
    bool tied;              /* no output matrix of its own (some shapes are tied anyway) */
    uint64_t seed;
    bool quiet;             /* no progress bar */
    int32_t threads;        /* 0: all cores; the file does not depend on it */
} ht_synth_options;

/* -EINVAL names the option. The file appears only when it is complete. */
int ht_synth(const char *path, const ht_synth_options *options, ht_error *err);
/* "tiny, 135m, ..." */
const char *ht_synth_shapes(void);
/* The mixes beside the plain types: "q2_k, q3_k_m, ..." */
const char *ht_synth_types(void);

#endif
