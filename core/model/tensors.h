/* A directory of tensors in one or several files, whatever the container (GGUF, split GGUF, safetensors): names,
 * shapes, types and where the bytes lie. It reads no weights; the store does. */
#ifndef HEARTH_CORE_MODEL_TENSORS_H
#define HEARTH_CORE_MODEL_TENSORS_H

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/model/types.h"

#define HT_MAX_DIMS 4

typedef struct ht_tensor_info {
    const char *name;          /* borrowed from the directory */
    ht_type type;
    int32_t n_dims;
    int64_t dim[HT_MAX_DIMS];  /* fastest first, as in GGUF: dim[0] = columns (the reduction), dim[1] = rows;
                                  1 beyond n_dims */
    int32_t file;              /* index into files */
    uint64_t offset, bytes;    /* in that file; checked to lie inside it. The offset may be odd (safetensors) */
    float added;               /* to every element of a vector: gemma's norms in safetensors are less by 1 */
} ht_tensor_info;

typedef struct ht_tensor_dir {
    ht_file *files;            /* [n_files], owned */
    int32_t n_files;
    ht_tensor_info *tensors;   /* [n_tensors], owned, in file order */
    int32_t n_tensors;
    char **names;              /* [n_tensors], owned */
    uint32_t *hash;            /* open addressing over names: index + 1, 0 empty */
    uint32_t hash_mask;
} ht_tensor_dir;

/* Index of a tensor, or -1. */
int32_t ht_tensor_find(const ht_tensor_dir *dir, const char *name);
/* All elements of a tensor as F32, from its stored bytes: what every store does for vectors. */
void ht_tensor_expand(const ht_tensor_info *t, const void *bytes, float *out);
static inline int64_t ht_tensor_elements(const ht_tensor_info *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}
/* Moves the tensors of `part`, which are those of `file`, and the file to the end of *dir; their names are to be indexed
 * anew. What is left of `part` is to be closed. -ENOMEM: nothing has moved. */
int ht_tensor_dir_join(ht_tensor_dir *dir, ht_tensor_dir *part, const ht_file *file, ht_error *err);
void ht_tensor_dir_close(ht_tensor_dir *dir);

#endif
