/* Files: mapped read-only, or read by large direct requests into memory of ours. */
#ifndef HEARTH_CORE_BASE_FILE_H
#define HEARTH_CORE_BASE_FILE_H

#include "core/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ht_file {
    const uint8_t *data; /* the mapping, [size]; valid until ht_file_close. Touching it after the file was
                            truncated by someone else raises SIGBUS: headers are copied, weights are read() */
    uint64_t size;
    int fd;
    char *path;          /* owned */
} ht_file;

/* Errors: -ENOENT, -EACCES, -EISDIR, -EIO ...; the text names the path. An empty file maps to data == NULL. */
int ht_file_open(ht_file *out, const char *path, ht_error *err);
void ht_file_close(ht_file *file);

/* Read exactly [offset, offset + bytes) into dst, retrying short reads and EINTR. -EIO names path and offset
 * when the file ends early. */
int ht_file_read(const ht_file *file, uint64_t offset, void *dst, size_t bytes, ht_error *err);

/* A whole small regular file as a NUL-terminated string, freed by ht_free; refuses more than `limit` bytes (-EFBIG). */
int ht_file_slurp(const char *path, size_t limit, char **out, size_t *out_size, ht_error *err);

#endif
