/* What the parts of the GGUF reader share. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_GGUF_PARSE_H
#define HEARTH_CORE_MODEL_GGUF_PARSE_H

#include "core/model/gguf.h"

/* Parse one header; takes `meta` over, also on failure. -ENODATA: the header goes on beyond `size`. */
int ht_gguf_parse_header(ht_gguf *g, uint8_t *meta, size_t size, uint64_t file_size, const char *name, ht_error *err);
/* (Re)build the index over tensor names; -EEXIST names a duplicate. */
int ht_gguf_index(ht_gguf *g, const char *name, ht_error *err);

#endif
