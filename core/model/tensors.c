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
