/* The GGUF parser: one header, from memory, checked. Opening files and following split parts is gguf_open.c. */
#include "core/model/gguf.h"

#include "core/base/arith.h"
#include "core/base/cursor.h"
#include "core/base/memory.h"
#include "core/model/gguf_parse.h"
#include "core/model/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_KEYS (1u << 16)
#define MAX_TENSORS (1u << 18)
#define MAX_KEY_LENGTH 65535u  /* the specification's */
#define MAX_NAME_LENGTH 255u   /* the specification says 64 */
#define MIN_ALIGNMENT 8u
#define MAX_ALIGNMENT (1u << 20)
#define DEFAULT_ALIGNMENT 32u
#define MIN_KEY_BYTES 13u      /* length, kind, one byte of value */
#define MIN_TENSOR_BYTES 33u   /* name of one byte, one dimension */

typedef struct parser {
    ht_cursor c;
    ht_gguf *g;
    uint64_t file_size;
    const char *name;  /* of the file, for texts */
    ht_error *err;
} parser;

static int ends_early(parser *p, const char *where)
{
    return ht_fail(p->err, -ENODATA, "%s: the file ends within %s", p->name, where);
}

/* A length-prefixed string in place. */
static ht_gguf_string take_string(ht_cursor *c)
{
    ht_gguf_string s = {0};
    uint64_t len = ht_cursor_u64(c);
    const uint8_t *data = ht_cursor_take(c, len);
    if (!data) return s;
    s.data = (const char *)data;
    s.len = len;
    return s;
}

/* A name: not empty, bounded, without NUL. *out is owned by the caller. */
static int take_name(parser *p, const char *what, uint64_t number, uint64_t most, char **out)
{
    uint64_t at = p->c.at;
    ht_gguf_string s = take_string(&p->c);
    if (p->c.failed) return ends_early(p, what);
    if (s.len == 0 || s.len > most)
        return ht_fail(p->err, -EINVAL, "%s: name of %s %" PRIu64 " at byte %" PRIu64 " has %" PRIu64
                       " bytes, should be 1 to %" PRIu64, p->name, what, number, at, s.len, most);
    if (memchr(s.data, 0, s.len))
        return ht_fail(p->err, -EINVAL, "%s: name of %s %" PRIu64 " at byte %" PRIu64 " contains a NUL", p->name, what,
                       number, at);
    *out = ht_strndup(s.data, s.len);
    return *out ? 0 : ht_fail(p->err, -ENOMEM, "%s: out of memory for names", p->name);
}

uint32_t ht_gguf_kind_bytes(ht_gguf_kind kind)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[kind];
}

/* One little-endian scalar at `at`, widened. */
static void widen(ht_gguf_kind kind, const uint8_t *at, ht_gguf_value *v)
{
    uint64_t u = 0;
    for (uint32_t i = 0; i < ht_gguf_kind_bytes(kind); i++) u |= (uint64_t)at[i] << (8 * i);
    float f;
    uint32_t low = (uint32_t)u;
    switch (kind) {
    case HT_GGUF_I8: v->as.i = (int8_t)u; break;
    case HT_GGUF_I16: v->as.i = (int16_t)u; break;
    case HT_GGUF_I32: v->as.i = (int32_t)u; break;
    case HT_GGUF_I64: v->as.i = (int64_t)u; break;
    case HT_GGUF_BOOL: v->as.b = u != 0; break;
    case HT_GGUF_F32:
        memcpy(&f, &low, sizeof f);
        v->as.f = f;
        break;
    case HT_GGUF_F64: memcpy(&v->as.f, &u, sizeof u); break;
    default: v->as.u = u; break;
    }
}

static int parse_string_array(parser *p, ht_gguf_value *v)
{
    /* Walk first: nothing is allocated for strings that are not there. */
    ht_cursor walk = p->c;
    for (uint64_t i = 0; i < v->count && !walk.failed; i++) take_string(&walk);
    if (walk.failed) return ends_early(p, v->key);
    v->strings = ht_alloc(v->count, sizeof *v->strings);
    if (!v->strings) return ht_fail(p->err, -ENOMEM, "%s: out of memory for %s", p->name, v->key);
    for (uint64_t i = 0; i < v->count; i++) v->strings[i] = take_string(&p->c);
    return 0;
}

static int parse_array(parser *p, ht_gguf_value *v)
{
    uint32_t item = ht_cursor_u32(&p->c);
    v->count = ht_cursor_u64(&p->c);
    if (p->c.failed) return ends_early(p, v->key);
    if (item == HT_GGUF_ARRAY) return ht_fail(p->err, -EINVAL, "%s: %s is an array of arrays", p->name, v->key);
    if (item > HT_GGUF_F64)
        return ht_fail(p->err, -EINVAL, "%s: %s is an array of an unknown kind %" PRIu32, p->name, v->key, item);
    v->item = (ht_gguf_kind)item;
    if (v->item == HT_GGUF_STRING) return parse_string_array(p, v);
    if (v->count > p->c.size / ht_gguf_kind_bytes(v->item)) return ends_early(p, v->key);
    v->items = ht_cursor_take(&p->c, v->count * ht_gguf_kind_bytes(v->item));
    return v->items ? 0 : ends_early(p, v->key);
}

static int parse_value(parser *p, ht_gguf_value *v, uint64_t number)
{
    char *key = NULL;
    int rc = take_name(p, "metadata key", number, MAX_KEY_LENGTH, &key);
    if (rc < 0) return rc;
    v->key = key;
    uint32_t kind = ht_cursor_u32(&p->c);
    if (p->c.failed) return ends_early(p, v->key);
    if (kind > HT_GGUF_F64)
        return ht_fail(p->err, -EINVAL, "%s: %s has the unknown kind %" PRIu32, p->name, v->key, kind);
    v->kind = (ht_gguf_kind)kind;
    if (v->kind == HT_GGUF_ARRAY) return parse_array(p, v);
    if (v->kind == HT_GGUF_STRING) {
        v->string = take_string(&p->c);
        return p->c.failed ? ends_early(p, v->key) : 0;
    }
    const uint8_t *at = ht_cursor_take(&p->c, ht_gguf_kind_bytes(v->kind));
    if (!at) return ends_early(p, v->key);
    widen(v->kind, at, v);
    return 0;
}

static int parse_values(parser *p, uint64_t n)
{
    ht_gguf *g = p->g;
    if (n > MAX_KEYS) return ht_fail(p->err, -EINVAL, "%s: claims %" PRIu64 " metadata keys", p->name, n);
    if (n > ht_cursor_left(&p->c) / MIN_KEY_BYTES) return ends_early(p, "its metadata");
    g->values = ht_calloc(n, sizeof *g->values);
    char **keys = ht_alloc(n, sizeof *keys);
    int rc = 0;
    if (!g->values || !keys) {
        rc = ht_fail(p->err, -ENOMEM, "%s: out of memory for %" PRIu64 " keys", p->name, n);
        goto done;
    }
    for (uint64_t i = 0; i < n; i++) {
        g->n_values = i + 1;
        if ((rc = parse_value(p, &g->values[i], i)) < 0) goto done;
        memcpy(&keys[i], &g->values[i].key, sizeof keys[i]);
    }
    uint32_t *index = NULL, mask, duplicate;
    rc = ht_names_index(keys, (uint32_t)n, &index, &mask, &duplicate);
    ht_free(index);
    if (rc == -EEXIST) ht_fail(p->err, rc, "%s: the key %s is there twice", p->name, keys[duplicate]);
    else if (rc < 0) ht_fail(p->err, rc, "%s: out of memory for keys", p->name);
done:
    ht_free(keys);
    return rc;
}

static int parse_alignment(parser *p)
{
    int64_t alignment = DEFAULT_ALIGNMENT;
    int rc = ht_gguf_get_i64(p->g, "general.alignment", &alignment, p->err);
    if (rc < 0) return ht_error_prefix(p->err, "%s", p->name);
    if (alignment < MIN_ALIGNMENT || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return ht_fail(p->err, -EINVAL, "%s: general.alignment is %" PRId64 ", should be a power of two from %u to %u",
                       p->name, alignment, MIN_ALIGNMENT, MAX_ALIGNMENT);
    p->g->alignment = (uint64_t)alignment;
    return 0;
}

/* Shape and type of a tensor: fills bytes. */
static int parse_geometry(parser *p, ht_tensor_info *t)
{
    uint32_t n_dims = ht_cursor_u32(&p->c);
    if (p->c.failed) return ends_early(p, t->name);
    if (n_dims < 1 || n_dims > HT_MAX_DIMS)
        return ht_fail(p->err, -EINVAL, "%s: tensor %s has %" PRIu32 " dimensions, should be 1 to %d", p->name, t->name,
                       n_dims, HT_MAX_DIMS);
    t->n_dims = (int32_t)n_dims;
    int64_t rows = 1;
    for (uint32_t i = 0; i < HT_MAX_DIMS; i++) {
        uint64_t dim = i < n_dims ? ht_cursor_u64(&p->c) : 1;
        if (p->c.failed) return ends_early(p, t->name);
        if (dim == 0 || dim > INT64_MAX || (i > 0 && !ht_mul_i64(rows, (int64_t)dim, &rows)))
            return ht_fail(p->err, -EINVAL, "%s: tensor %s: dimension %" PRIu32 " is %" PRIu64, p->name, t->name, i, dim);
        t->dim[i] = (int64_t)dim;
    }
    uint32_t id = ht_cursor_u32(&p->c);
    if (p->c.failed) return ends_early(p, t->name);
    const ht_type_info *type = ht_type_get(id);
    if (!type)
        return ht_fail(p->err, -ENOTSUP, "%s: tensor %s has the type %" PRIu32 ", which hearth does not know", p->name,
                       t->name, id);
    t->type = (ht_type)id;
    if (t->dim[0] % type->block_len != 0)
        return ht_fail(p->err, -EINVAL, "%s: tensor %s: rows of %" PRId64 " weights do not divide into blocks of %d (%s)",
                       p->name, t->name, t->dim[0], type->block_len, type->name);
    int64_t bytes, n_elements;
    if (!ht_mul_i64(t->dim[0] / type->block_len, type->block_bytes, &bytes) || !ht_mul_i64(bytes, rows, &bytes) ||
        !ht_mul_i64(t->dim[0], rows, &n_elements))
        return ht_fail(p->err, -EOVERFLOW, "%s: the size of tensor %s overflows", p->name, t->name);
    t->bytes = (uint64_t)bytes;
    return 0;
}

static int parse_tensors(parser *p, uint64_t n)
{
    ht_tensor_dir *dir = &p->g->dir;
    if (n > MAX_TENSORS) return ht_fail(p->err, -EINVAL, "%s: claims %" PRIu64 " tensors", p->name, n);
    if (n > ht_cursor_left(&p->c) / MIN_TENSOR_BYTES) return ends_early(p, "its tensor list");
    dir->tensors = ht_calloc(n, sizeof *dir->tensors);
    dir->names = ht_calloc(n, sizeof *dir->names);
    if (!dir->tensors || !dir->names)
        return ht_fail(p->err, -ENOMEM, "%s: out of memory for %" PRIu64 " tensors", p->name, n);
    dir->n_tensors = (int32_t)n;
    for (uint64_t i = 0; i < n; i++) {
        ht_tensor_info *t = &dir->tensors[i];
        int rc = take_name(p, "tensor", i, MAX_NAME_LENGTH, &dir->names[i]);
        if (rc < 0) return rc;
        t->name = dir->names[i];
        if ((rc = parse_geometry(p, t)) < 0) return rc;
        t->offset = ht_cursor_u64(&p->c); /* within the data section, for now */
        if (p->c.failed) return ends_early(p, t->name);
        if (t->offset % p->g->alignment != 0)
            return ht_fail(p->err, -EINVAL, "%s: tensor %s: offset %" PRIu64 " is not aligned to %" PRIu64, p->name,
                           t->name, t->offset, p->g->alignment);
    }
    return 0;
}

/* Offsets become absolute, and are checked to lie in the file. */
static int place_tensors(parser *p)
{
    ht_tensor_dir *dir = &p->g->dir;
    uint64_t data = ht_align_up(p->c.at, p->g->alignment);
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        ht_tensor_info *t = &dir->tensors[i];
        uint64_t begin, end;
        if (!ht_add_size(data, t->offset, &begin) || !ht_add_size(begin, t->bytes, &end) || end > p->file_size)
            return ht_fail(p->err, -EINVAL, "%s: tensor %s: %" PRIu64 " bytes at %" PRIu64 " + %" PRIu64
                           " end beyond the file of %" PRIu64 " bytes (an incomplete download?)",
                           p->name, t->name, t->bytes, data, t->offset, p->file_size);
        t->offset = begin;
    }
    return 0;
}

int ht_gguf_index(ht_gguf *g, const char *name, ht_error *err)
{
    uint32_t duplicate;
    ht_free(g->dir.hash);
    g->dir.hash = NULL;
    int rc = ht_names_index(g->dir.names, (uint32_t)g->dir.n_tensors, &g->dir.hash, &g->dir.hash_mask, &duplicate);
    if (rc == -EEXIST) return ht_fail(err, -EEXIST, "%s: tensor %s is there twice", name, g->dir.names[duplicate]);
    return rc < 0 ? ht_fail(err, rc, "%s: out of memory for tensor names", name) : 0;
}

int ht_gguf_parse_header(ht_gguf *g, uint8_t *meta, size_t size, uint64_t file_size, const char *name, ht_error *err)
{
    memset(g, 0, sizeof *g);
    g->meta = meta;
    parser p = {.c = {.data = meta, .size = size}, .g = g, .file_size = file_size, .name = name, .err = err};
    const uint8_t *magic = ht_cursor_take(&p.c, 4);
    int rc;
    if (!magic || memcmp(magic, "GGUF", 4) != 0) {
        rc = ht_fail(err, -EINVAL, "%s: not a GGUF file", name);
        goto fail;
    }
    g->version = ht_cursor_u32(&p.c);
    uint64_t n_tensors = ht_cursor_u64(&p.c), n_values = ht_cursor_u64(&p.c);
    if (p.c.failed) {
        rc = ends_early(&p, "its header");
        goto fail;
    }
    if (g->version != 2 && g->version != 3) {
        bool swapped = g->version == 2u << 24 || g->version == 3u << 24;
        rc = swapped ? ht_fail(err, -ENOTSUP, "%s: a big-endian GGUF file", name)
                     : ht_fail(err, -ENOTSUP, "%s: GGUF version %" PRIu32 ", hearth reads 2 and 3", name, g->version);
        goto fail;
    }
    if ((rc = parse_values(&p, n_values)) < 0) goto fail;
    if ((rc = parse_alignment(&p)) < 0) goto fail;
    if ((rc = parse_tensors(&p, n_tensors)) < 0) goto fail;
    if ((rc = place_tensors(&p)) < 0) goto fail;
    if ((rc = ht_gguf_index(g, name, err)) < 0) goto fail;
    return 0;
fail:
    ht_gguf_close(g);
    return rc;
}

int ht_gguf_parse(ht_gguf *out, const uint8_t *data, size_t size, uint64_t file_size, const char *name, ht_error *err)
{
    memset(out, 0, sizeof *out);
    uint8_t *meta = ht_alloc(size, 1);
    if (!meta) return ht_fail(err, -ENOMEM, "%s: out of memory for a header of %zu bytes", name, size);
    if (size) memcpy(meta, data, size);
    return ht_gguf_parse_header(out, meta, size, file_size, name, err);
}

void ht_gguf_close(ht_gguf *g)
{
    for (uint64_t i = 0; g->values && i < g->n_values; i++) {
        char *key;
        memcpy(&key, &g->values[i].key, sizeof key);
        ht_free(key);
        ht_free(g->values[i].strings);
    }
    ht_free(g->values);
    ht_free(g->meta);
    ht_tensor_dir_close(&g->dir);
    memset(g, 0, sizeof *g);
}

/* ---- look-ups ---- */

const ht_gguf_value *ht_gguf_find(const ht_gguf *g, const char *key)
{
    for (uint64_t i = 0; i < g->n_values; i++)
        if (strcmp(g->values[i].key, key) == 0) return &g->values[i];
    return NULL;
}

static bool is_signed(ht_gguf_kind k)
{
    return k == HT_GGUF_I8 || k == HT_GGUF_I16 || k == HT_GGUF_I32 || k == HT_GGUF_I64;
}

static bool is_unsigned(ht_gguf_kind k)
{
    return k == HT_GGUF_U8 || k == HT_GGUF_U16 || k == HT_GGUF_U32 || k == HT_GGUF_U64;
}

int ht_gguf_get_i64(const ht_gguf *g, const char *key, int64_t *out, ht_error *err)
{
    const ht_gguf_value *v = ht_gguf_find(g, key);
    if (!v) return 0;
    if (is_signed(v->kind)) {
        *out = v->as.i;
        return 1;
    }
    if (!is_unsigned(v->kind)) return ht_fail(err, -EINVAL, "%s is not an integer", key);
    if (v->as.u > INT64_MAX) return ht_fail(err, -ERANGE, "%s is out of range: %" PRIu64, key, v->as.u);
    *out = (int64_t)v->as.u;
    return 1;
}

int ht_gguf_get_f32(const ht_gguf *g, const char *key, float *out, ht_error *err)
{
    const ht_gguf_value *v = ht_gguf_find(g, key);
    if (!v) return 0;
    if (v->kind != HT_GGUF_F32 && v->kind != HT_GGUF_F64) return ht_fail(err, -EINVAL, "%s is not a float", key);
    *out = (float)v->as.f;
    return 1;
}

int ht_gguf_get_bool(const ht_gguf *g, const char *key, bool *out, ht_error *err)
{
    const ht_gguf_value *v = ht_gguf_find(g, key);
    if (!v) return 0;
    if (v->kind != HT_GGUF_BOOL) return ht_fail(err, -EINVAL, "%s is not a bool", key);
    *out = v->as.b;
    return 1;
}

int ht_gguf_get_string(const ht_gguf *g, const char *key, ht_gguf_string *out, ht_error *err)
{
    const ht_gguf_value *v = ht_gguf_find(g, key);
    if (!v) return 0;
    if (v->kind != HT_GGUF_STRING) return ht_fail(err, -EINVAL, "%s is not a string", key);
    *out = v->string;
    return 1;
}

double ht_gguf_item_f64(const ht_gguf_value *v, uint64_t i)
{
    ht_gguf_value item;
    widen(v->item, v->items + i * ht_gguf_kind_bytes(v->item), &item);
    if (v->item == HT_GGUF_F32 || v->item == HT_GGUF_F64) return item.as.f;
    if (v->item == HT_GGUF_BOOL) return item.as.b ? 1.0 : 0.0;
    return is_signed(v->item) ? (double)item.as.i : (double)item.as.u;
}

int64_t ht_gguf_item_i64(const ht_gguf_value *v, uint64_t i)
{
    ht_gguf_value item;
    widen(v->item, v->items + i * ht_gguf_kind_bytes(v->item), &item);
    if (v->item == HT_GGUF_F32 || v->item == HT_GGUF_F64) {
        double f = item.as.f;
        return f >= 0x1p63 ? INT64_MAX : f > -0x1p63 ? (int64_t)f : INT64_MIN; /* NaN gives the last */
    }
    if (v->item == HT_GGUF_BOOL) return item.as.b;
    return is_signed(v->item) ? item.as.i : (int64_t)item.as.u;
}
