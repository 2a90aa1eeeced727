/* What reading and writing GGUF share. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_GGUF_PARSE_H
#define HEARTH_CORE_MODEL_GGUF_PARSE_H

#include "core/model/gguf.h"

/* Parse one header; takes `meta` over, also on failure. -ENODATA: the header goes on beyond `size`. */
int ht_gguf_parse_header(ht_gguf *g, uint8_t *meta, size_t size, uint64_t file_size, const char *name, ht_error *err);
/* Bytes of a scalar; 0: a string or an array. */
uint32_t ht_gguf_kind_bytes(ht_gguf_kind kind);
/* (Re)build the index over tensor names; -EEXIST names a duplicate. */
int ht_gguf_index(ht_gguf *g, const char *name, ht_error *err);

#endif
