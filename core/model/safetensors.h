/* Safetensors: the directory of tensors of a file, or of a Hugging Face folder (one file, or shards joined by
 * model.safetensors.index.json). Nothing in a file is trusted: the header's length, types, shapes and offsets are
 * checked, tensors may not overlap, and nothing is allocated beyond a small multiple of what the file really has. */
#ifndef HEARTH_CORE_MODEL_SAFETENSORS_H
#define HEARTH_CORE_MODEL_SAFETENSORS_H

#include "core/model/tensors.h"

#include <stdbool.h>

/* On failure *out is zeroed and the error names file and tensor. */
int ht_safetensors_open(ht_tensor_dir *out, const char *folder, ht_error *err);
/* One file's header from memory, `data` being its first `size` bytes. -ENODATA: it goes on beyond them. The result has
 * no files, and its tensors are in the order of their offsets. */
int ht_safetensors_parse(ht_tensor_dir *out, const uint8_t *data, size_t size, uint64_t file_size, const char *name,
                         ht_error *err);

bool ht_is_folder(const char *path);
/* Are weights meant to be there? Any file of this kind says so, also one that nothing names. */
bool ht_safetensors_are_in(const char *folder);

#endif
