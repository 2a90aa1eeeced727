/* A tiny model with seeded random weights, and a store that holds it, with no file behind: for tests of the engine
 * that need a forward pass but no language. */
#ifndef HEARTH_TESTS_SUPPORT_TINY_MODEL_H
#define HEARTH_TESTS_SUPPORT_TINY_MODEL_H

#include "core/ports/store.h"

/* Two layers, four heads that share two KV heads, 97 tokens, context 512. The model has a shape and nothing else. */
void ht_tiny_model_init(ht_model *out);
/* Weights in F32, KV pages in RAM. */
int ht_tiny_store_open(ht_store **out, const ht_model *model, const ht_kv_layout *kv, int32_t kv_pages, ht_error *err);

#endif
