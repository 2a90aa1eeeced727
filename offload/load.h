/* Bringing the weights of a model into RAM: mapped in place, or read by large requests into huge pages. */
#ifndef HEARTH_OFFLOAD_LOAD_H
#define HEARTH_OFFLOAD_LOAD_H

#include "core/model/tensors.h"
#include "offload/ram_store.h"

/* Neighbouring tensors of one file. */
typedef struct ht_span {
    int32_t file;
    const uint8_t *data;  /* byte `begin` of the file */
    uint64_t begin, bytes;
    void *pages;          /* owned memory (ht_alloc_pages), or NULL when `data` points into the file's mapping */
    size_t page_bytes;
} ht_span;

typedef struct ht_loaded {
    ht_span *spans;       /* [n_spans], owned */
    int32_t n_spans;
} ht_loaded;

/* The tensors for which use[n_tensors] is not 0, and little else. Mapped files must outlive the result. AUTO reads, unless
 * the weights would not fit into the memory that is available now. Files that are in the page cache are copied from it,
 * others bypass it (O_DIRECT). -EINVAL: tensors overlap, which no writer of a file means, and which would be woven twice. */
int ht_load(ht_loaded *out, const ht_tensor_dir *dir, const uint8_t *use, ht_load_mode mode, bool quiet,
            ht_load_stats *stats, ht_error *err);
void ht_unload(ht_loaded *loaded);

/* Where a loaded tensor's bytes are now. */
const void *ht_loaded_tensor(const ht_loaded *l, const ht_tensor_info *t);

#endif
