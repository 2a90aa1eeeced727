/* The parts of synth.c: which type a tensor gets (synth_mix.c), and its bytes (synth_fill.c). Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_SYNTH_PARTS_H
#define HEARTH_CORE_MODEL_SYNTH_PARTS_H

#include "core/base/threads.h"
#include "core/model/gguf_write.h"

/* ---- types ---- */

typedef enum ht_synth_role {
    HT_SYNTH_EMBEDDING, HT_SYNTH_Q, HT_SYNTH_K, HT_SYNTH_V, HT_SYNTH_O, HT_SYNTH_GATE, HT_SYNTH_UP, HT_SYNTH_DOWN,
    HT_SYNTH_OUTPUT,
} ht_synth_role;

/* How a whole file is quantised: a base type and which tensors get better ones. */
typedef struct ht_synth_mix {
    const char *name;
    ht_type base;
    char size;         /* 'S', 'M' or 0: plain */
    int32_t file_type; /* general.file_type */
} ht_synth_mix;

/* NULL: no such type or mix. */
const ht_synth_mix *ht_synth_mix_find(const char *name);
/* The type of a matrix of `cols` columns in layer `layer` of `n_layers`. A type whose blocks do not divide the
 * columns gives way to the next better small one. `group` = heads / KV heads. */
ht_type ht_synth_type_of(const ht_synth_mix *mix, ht_synth_role role, int32_t layer, int32_t n_layers, int32_t group,
                         int64_t cols);

/* ---- bytes ---- */

typedef struct ht_synth_filler ht_synth_filler;

int ht_synth_filler_open(ht_synth_filler **out, uint64_t seed, int32_t threads, ht_error *err);
void ht_synth_filler_close(ht_synth_filler **f);
/* Fills tensor `tensor` of the writer, (rows, cols), with normal weights of deviation `sigma`. With
 * `distinct` no two rows are equal, but those with silent[row], which are zero (NULL: none). */
int ht_synth_fill(ht_synth_filler *f, ht_gguf_writer *w, int32_t tensor, ht_type type, int64_t rows, int64_t cols,
                  float sigma, bool distinct, const bool *silent, ht_error *err);

#endif
