/* Writes a GGUF v3 file: metadata, then the list of tensors, then their bytes in any order and from any thread, so
 * that a model larger than RAM can be written. The file appears under its name only when it is complete. */
#ifndef HEARTH_CORE_MODEL_GGUF_WRITE_H
#define HEARTH_CORE_MODEL_GGUF_WRITE_H

#include "core/model/gguf.h"

typedef struct ht_gguf_writer ht_gguf_writer;

/* `alignment`: of tensors, a power of two from 8 to 1 MiB; 0: 32, the format's default. The bytes go to a file
 * without a name in the folder of `path`, or to a temporary one beside it where the file system has no such. */
int ht_gguf_writer_open(ht_gguf_writer **out, const char *path, uint64_t alignment, ht_error *err);
/* Without ht_gguf_writer_finish before, the temporary file is removed. */
void ht_gguf_writer_close(ht_gguf_writer **w);

/* Metadata. A failure (out of memory) is kept and reported by ht_gguf_writer_begin. Keys are not checked for
 * duplicates. */
void ht_gguf_put_u32(ht_gguf_writer *w, const char *key, uint32_t v);
void ht_gguf_put_f32(ht_gguf_writer *w, const char *key, float v);
void ht_gguf_put_bool(ht_gguf_writer *w, const char *key, bool v);
void ht_gguf_put_string(ht_gguf_writer *w, const char *key, const char *v);
/* `items`: packed, little-endian. */
void ht_gguf_put_array(ht_gguf_writer *w, const char *key, ht_gguf_kind item, const void *items, uint64_t count);
void ht_gguf_put_strings(ht_gguf_writer *w, const char *key, const ht_gguf_string *strings, uint64_t count);
/* Any value, as read from another file. */
void ht_gguf_put_value(ht_gguf_writer *w, const ht_gguf_value *v);

/* Announces a tensor (dimensions fastest first). Returns its index, or an error that names it. */
int32_t ht_gguf_add_tensor(ht_gguf_writer *w, const char *name, ht_type type, int32_t n_dims, const int64_t *dim,
                           ht_error *err);

/* Writes the header and reserves the room for all tensors (-ENOSPC here, not hours later). */
int ht_gguf_writer_begin(ht_gguf_writer *w, ht_error *err);
uint64_t ht_gguf_tensor_bytes(const ht_gguf_writer *w, int32_t tensor);
/* Bytes of the whole file; after begin. */
uint64_t ht_gguf_writer_size(const ht_gguf_writer *w);
/* `bytes` at `offset` within a tensor. Safe from several threads at once. Every byte is written exactly once. */
int ht_gguf_write_at(ht_gguf_writer *w, int32_t tensor, uint64_t offset, const void *data, size_t bytes, ht_error *err);
/* Gives the file its name. -EINVAL when bytes are missing. */
int ht_gguf_writer_finish(ht_gguf_writer *w, ht_error *err);

#endif
