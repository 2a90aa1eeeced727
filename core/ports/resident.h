/* Views of weights that lie in one memory for good: what every resident store (RAM, device) lends. A store brings the
 * bytes there and says where each tensor is; which rows of which tensor make a unit is known here alone. */
#ifndef HEARTH_CORE_PORTS_RESIDENT_H
#define HEARTH_CORE_PORTS_RESIDENT_H

#include "core/ports/store.h"

/* How a model uses a tensor; both is possible. */
enum { HT_USED_AS_MATRIX = 1, HT_USED_AS_VECTOR = 2 };

/* Adds the uses by a share of the model to use[n_tensors]. */
void ht_resident_mark(const ht_model *model, const ht_share *share, uint8_t *use);

/* Where the tensors are, by tensor index; borrowed, read at open only. An entry is looked at if the tensor is used so. */
typedef struct ht_resident_bytes {
    const void *const *matrix;   /* [n_tensors]: the bytes as stored */
    const float *const *vector;  /* [n_tensors]: all elements in F32 */
} ht_resident_bytes;

typedef struct ht_resident {
    const ht_model *model;             /* borrowed */
    ht_share share;                    /* what follows is filled in for it alone */
    ht_embedding_weights embedding;
    ht_output_weights output;
    ht_attention_weights *attention;   /* [n_layers], owned */
    ht_ffn_weights *ffn;               /* [n_layers], owned; all neurons of all experts */
} ht_resident;

int ht_resident_open(ht_resident *out, const ht_model *model, const ht_share *share, const ht_resident_bytes *bytes,
                     ht_error *err);
void ht_resident_close(ht_resident *r);

/* The matrices of a layer of the share; absent ones have no data. */
#define HT_LAYER_MATRICES 8
void ht_resident_matrices(ht_resident *r, int32_t layer, ht_matrix *out[HT_LAYER_MATRICES]);

/* The acquire of a resident store. A part of the neurons is lent of one expert at a time, because the experts' parts do
 * not follow each other in memory, and in whole blocks of ffn_down. Errors: -EINVAL (also for a unit that is not in the share),
 * and nothing is lent. */
int ht_resident_lend(const ht_resident *r, const ht_unit *unit, ht_lease *out, ht_error *err);

#endif
