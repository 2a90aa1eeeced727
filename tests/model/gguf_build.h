/* Test support: GGUF images in memory, written field by field so that any of them can lie. */
#ifndef HEARTH_TESTS_MODEL_GGUF_BUILD_H
#define HEARTH_TESTS_MODEL_GGUF_BUILD_H

#include "core/model/gguf.h"

#include <stdlib.h>
#include <string.h>

typedef struct image { uint8_t data[1 << 16]; size_t size; } image;

static inline void put(image *m, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) m->data[m->size++] = (uint8_t)(v >> (8 * i));
}

static inline void put_text(image *m, const char *s)
{
    put(m, strlen(s), 8);
    memcpy(m->data + m->size, s, strlen(s));
    m->size += strlen(s);
}

static inline void put_head(image *m, uint32_t version, uint64_t tensors, uint64_t values)
{
    m->size = 0;
    memcpy(m->data, "GGUF", 4);
    m->size = 4;
    put(m, version, 4);
    put(m, tensors, 8);
    put(m, values, 8);
}

static inline void put_u32(image *m, const char *key, uint32_t v)
{
    put_text(m, key);
    put(m, HT_GGUF_U32, 4);
    put(m, v, 4);
}

static inline void put_key(image *m, const char *key, uint32_t kind)
{
    put_text(m, key);
    put(m, kind, 4);
}

static inline void put_tensor(image *m, const char *name, uint32_t type, uint64_t d0, uint64_t d1, uint64_t offset)
{
    put_text(m, name);
    put(m, 2, 4);
    put(m, d0, 8);
    put(m, d1, 8);
    put(m, type, 4);
    put(m, offset, 8);
}

static inline void put_padding(image *m, size_t align, size_t data)
{
    while (m->size % align) m->data[m->size++] = 0;
    memset(m->data + m->size, 1, data);
    m->size += data;
}

#endif
