/* GGUF v2 and v3, single or split (`-00001-of-00003.gguf`): metadata and the tensor directory, parsed through the
 * bounds-checked cursor. Nothing in a file is trusted: counts, lengths, offsets, alignments and types are checked
 * before anything is allocated from them. */
#ifndef HEARTH_CORE_MODEL_GGUF_H
#define HEARTH_CORE_MODEL_GGUF_H

#include "core/model/tensors.h"

typedef enum ht_gguf_kind {
    HT_GGUF_U8, HT_GGUF_I8, HT_GGUF_U16, HT_GGUF_I16, HT_GGUF_U32, HT_GGUF_I32, HT_GGUF_F32, HT_GGUF_BOOL,
    HT_GGUF_STRING, HT_GGUF_ARRAY, HT_GGUF_U64, HT_GGUF_I64, HT_GGUF_F64,
} ht_gguf_kind;

typedef struct ht_gguf_string { const char *data; uint64_t len; } ht_gguf_string; /* not NUL-terminated */

typedef struct ht_gguf_value {
    const char *key;             /* NUL-terminated, owned by the ht_gguf */
    ht_gguf_kind kind;
    union { uint64_t u; int64_t i; double f; bool b; } as; /* scalars, widened */
    ht_gguf_string string;       /* kind STRING */
    ht_gguf_kind item;           /* kind ARRAY: element kind (never ARRAY) */
    uint64_t count;              /* kind ARRAY */
    const uint8_t *items;        /* kind ARRAY of scalars: packed little-endian, unaligned */
    ht_gguf_string *strings;     /* kind ARRAY of strings */
} ht_gguf_value;

typedef struct ht_gguf {
    uint32_t version;
    uint64_t alignment;
    ht_gguf_value *values;       /* [n_values], owned; strings and items borrow from `meta` */
    uint64_t n_values;
    uint8_t *meta;               /* private copy of the header bytes, so a file that shrinks cannot fault us */
    ht_tensor_dir dir;           /* of all parts of a split file */
} ht_gguf;

/* Opens the file (and its sister parts). On failure *out is zeroed and the error names file, key or tensor. */
int ht_gguf_open(ht_gguf *out, const char *path, ht_error *err);
void ht_gguf_close(ht_gguf *g);
/* Parse a header from memory; `file_size` bounds the tensors. Split parts are not followed. Used by fuzzing. */
int ht_gguf_parse(ht_gguf *out, const uint8_t *data, size_t size, uint64_t file_size, const char *name,
                  ht_error *err);

/* Look-ups. find gives NULL when absent. The typed getters return 1 when found, 0 when absent (and *out is left
 * as it was), negative when the key has another kind or is out of range (text names the key). */
const ht_gguf_value *ht_gguf_find(const ht_gguf *g, const char *key);
int ht_gguf_get_i64(const ht_gguf *g, const char *key, int64_t *out, ht_error *err);
int ht_gguf_get_f32(const ht_gguf *g, const char *key, float *out, ht_error *err);
int ht_gguf_get_bool(const ht_gguf *g, const char *key, bool *out, ht_error *err);
int ht_gguf_get_string(const ht_gguf *g, const char *key, ht_gguf_string *out, ht_error *err);
/* Element i of an array of numbers, widened. The caller has checked kind and bounds. */
double ht_gguf_item_f64(const ht_gguf_value *v, uint64_t i);
int64_t ht_gguf_item_i64(const ht_gguf_value *v, uint64_t i);

#endif
