/* The tensor directory: look-up by name, and its end. It is filled by the containers' parsers. */
#include "core/model/tensors.h"

#include "core/base/memory.h"
#include "core/model/names.h"

#include <string.h>

static uint32_t hash_of(const char *s)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h ^ h >> 15;
}

int ht_names_index(char *const *names, uint32_t n, uint32_t **out, uint32_t *out_mask, uint32_t *duplicate)
{
    uint32_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    uint32_t *hash = ht_calloc(slots, sizeof *hash), mask = slots - 1;
    if (!hash) return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = hash_of(names[i]) & mask;
        for (; hash[at]; at = (at + 1) & mask) {
            if (strcmp(names[hash[at] - 1], names[i]) != 0) continue;
            *duplicate = i;
            ht_free(hash);
            return -EEXIST;
        }
        hash[at] = i + 1;
    }
    *out = hash;
    *out_mask = mask;
    return 0;
}

int32_t ht_tensor_find(const ht_tensor_dir *dir, const char *name)
{
    if (!dir->hash) return -1;
    for (uint32_t at = hash_of(name) & dir->hash_mask; dir->hash[at]; at = (at + 1) & dir->hash_mask)
        if (strcmp(dir->names[dir->hash[at] - 1], name) == 0) return (int32_t)(dir->hash[at] - 1);
    return -1;
}

void ht_tensor_expand(const ht_tensor_info *t, const void *bytes, float *out)
{
    int64_t n = ht_tensor_elements(t);
    const ht_type_info *type = ht_type_get((uint32_t)t->type);

    if ((uintptr_t)bytes % sizeof(float) == 0) {
        type->dequantize(bytes, out, n);
    } else { /* a piece at a time, through memory that is aligned */
        union { float align; uint8_t bytes[1024]; } piece;
        int64_t most = (int64_t)(sizeof piece / (size_t)type->block_bytes) * type->block_len;
        for (int64_t at = 0; at < n; at += most) {
            int64_t k = n - at < most ? n - at : most;
            memcpy(piece.bytes, (const uint8_t *)bytes + ht_row_bytes(type, at), ht_row_bytes(type, k));
            type->dequantize(piece.bytes, out + at, k);
        }
    }
    for (int64_t i = 0; t->added != 0.0f && i < n; i++) out[i] += t->added;
}

int ht_tensor_dir_join(ht_tensor_dir *d, ht_tensor_dir *part, const ht_file *file, ht_error *err)
{
    int32_t n = d->n_tensors + part->n_tensors;
    ht_tensor_info *tensors = ht_realloc(d->tensors, (size_t)n, sizeof *tensors);
    if (tensors) d->tensors = tensors;
    char **names = ht_realloc(d->names, (size_t)n, sizeof *names);
    if (names) d->names = names;
    ht_file *files = ht_realloc(d->files, (size_t)d->n_files + 1, sizeof *files);
    if (files) d->files = files;
    if (!tensors || !names || !files) return ht_fail(err, -ENOMEM, "%s: out of memory", file->path);
    for (int32_t i = 0; i < part->n_tensors; i++) {
        part->tensors[i].file = d->n_files;
        d->tensors[d->n_tensors] = part->tensors[i];
        d->names[d->n_tensors++] = part->names[i];
    }
    d->files[d->n_files++] = *file;
    part->n_tensors = 0;
    return 0;
}

void ht_tensor_dir_close(ht_tensor_dir *dir)
{
    for (int32_t i = 0; dir->files && i < dir->n_files; i++) ht_file_close(&dir->files[i]);
    for (int32_t i = 0; dir->names && i < dir->n_tensors; i++) ht_free(dir->names[i]);
    ht_free(dir->files);
    ht_free(dir->names);
    ht_free(dir->tensors);
    ht_free(dir->hash);
    memset(dir, 0, sizeof *dir);
}
