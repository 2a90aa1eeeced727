/* Opening GGUF files: reads as much of a file as its header takes, and joins the parts of a split file. */
#include "core/base/memory.h"
#include "core/model/gguf_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Headers are a few MB (vocabularies); the first read covers nearly all, and a lying file cannot make us read it
 * whole. */
#define FIRST_READ (8u << 20)
#define MAX_HEADER (256u << 20)
#define MAX_PARTS 1024

/* One file: its header in *g, the file itself as dir.files[0]. */
static int open_one(ht_gguf *g, const char *path, ht_error *err)
{
    memset(g, 0, sizeof *g);
    ht_file *file = ht_calloc(1, sizeof *file);
    if (!file) return ht_fail(err, -ENOMEM, "%s: out of memory", path);
    int rc = ht_file_open(file, path, err);
    if (rc < 0) {
        ht_free(file);
        return rc;
    }
    uint64_t size = file->size < FIRST_READ ? file->size : FIRST_READ;
    for (;;) {
        uint8_t *meta = ht_alloc((size_t)size, 1);
        if (!meta) {
            rc = ht_fail(err, -ENOMEM, "%s: out of memory for a header of %" PRIu64 " bytes", path, size);
            break;
        }
        rc = ht_file_read(file, 0, meta, (size_t)size, err);
        if (rc < 0) {
            ht_free(meta);
            break;
        }
        rc = ht_gguf_parse_header(g, meta, (size_t)size, file->size, path, err);
        if (rc != -ENODATA || size == file->size) break;
        if (size >= MAX_HEADER) {
            rc = ht_fail(err, -EFBIG, "%s: the header is larger than %u MiB", path, MAX_HEADER >> 20);
            break;
        }
        size = size * 4 < MAX_HEADER ? size * 4 : MAX_HEADER;
        if (size > file->size) size = file->size;
    }
    if (rc < 0) {
        ht_file_close(file);
        ht_free(file);
        return rc;
    }
    g->dir.files = file;
    g->dir.n_files = 1;
    return 0;
}

/* The split keys, with their defaults; -EINVAL when they make no sense. */
static int split_keys(const ht_gguf *g, const char *path, int64_t *no, int64_t *count, int64_t *tensors, ht_error *err)
{
    *no = 0;
    *count = 1;
    *tensors = -1;
    if (ht_gguf_get_i64(g, "split.no", no, err) < 0 || ht_gguf_get_i64(g, "split.count", count, err) < 0 ||
        ht_gguf_get_i64(g, "split.tensors.count", tensors, err) < 0)
        return ht_error_prefix(err, "%s", path);
    if (*count == 0) *count = 1; /* written by some tools for "not split" */
    if (*count < 1 || *count > MAX_PARTS || *no < 0 || *no >= *count)
        return ht_fail(err, -EINVAL, "%s: split.no %" PRId64 " of split.count %" PRId64, path, *no, *count);
    return 0;
}

/* Writes the path of part i (from 0) into out[n]: `path` ends in -00001-of-00003.gguf. */
static int part_path(const char *path, int64_t i, int64_t count, char *out, size_t n, ht_error *err)
{
    static const char tail[] = "-00001-of-00003.gguf";
    size_t len = strlen(path), base = len - (sizeof tail - 1);
    unsigned no = 0, of = 0;
    int end = 0;
    if (len < sizeof tail || sscanf(path + base, "-%5u-of-%5u.gguf%n", &no, &of, &end) != 2 || path[base + (size_t)end])
        return ht_fail(err, -EINVAL, "%s: part of a split file, but its name does not end in \"%s\"", path, tail);
    if (of != (uint64_t)count)
        return ht_fail(err, -EINVAL, "%s: split.count is %" PRId64 ", its name says %u", path, count, of);
    int wrote = snprintf(out, n, "%.*s-%05d-of-%05d.gguf", (int)base, path, (int)i + 1, (int)count);
    return wrote > 0 && (size_t)wrote < n ? 0 : ht_fail(err, -ENAMETOOLONG, "%s: the path is too long", path);
}

static int open_parts(ht_gguf *g, const char *path, int64_t count, int64_t tensors, ht_error *err)
{
    char other[4096];
    for (int64_t i = 1; i < count; i++) {
        ht_gguf part;
        int64_t part_no, part_count, part_tensors;
        int rc = part_path(path, i, count, other, sizeof other, err);
        if (rc < 0) return rc;
        if ((rc = open_one(&part, other, err)) < 0) return rc;
        rc = split_keys(&part, other, &part_no, &part_count, &part_tensors, err);
        if (rc == 0 && (part_no != i || part_count != count))
            rc = ht_fail(err, -EINVAL, "%s: is part %" PRId64 " of %" PRId64 ", should be %" PRId64 " of %" PRId64, other,
                         part_no, part_count, i, count);
        if (rc == 0) rc = ht_tensor_dir_join(&g->dir, &part.dir, &part.dir.files[0], err);
        if (rc == 0) part.dir.n_files = 0; /* it has moved */
        ht_gguf_close(&part);
        if (rc < 0) return rc;
    }
    if (tensors >= 0 && tensors != g->dir.n_tensors)
        return ht_fail(err, -EINVAL, "%s: the parts have %d tensors, split.tensors.count is %" PRId64, path,
                       g->dir.n_tensors, tensors);
    return ht_gguf_index(g, path, err);
}

int ht_gguf_open(ht_gguf *out, const char *path, ht_error *err)
{
    int64_t no, count, tensors;
    char first[4096];
    int rc = open_one(out, path, err);
    if (rc < 0) return rc;
    if ((rc = split_keys(out, path, &no, &count, &tensors, err)) < 0) goto fail;
    if (count > 1) {
        if ((rc = part_path(path, 0, count, first, sizeof first, err)) < 0) goto fail;
        if (no != 0) { /* the metadata is in the first part */
            ht_gguf_close(out);
            if ((rc = open_one(out, first, err)) < 0) goto fail;
            int64_t first_count;
            if ((rc = split_keys(out, first, &no, &first_count, &tensors, err)) < 0) goto fail;
            if (no != 0 || first_count != count) {
                rc = ht_fail(err, -EINVAL, "%s: is part %" PRId64 " of %" PRId64 ", should be 0 of %" PRId64, first, no,
                             first_count, count);
                goto fail;
            }
        }
        if ((rc = open_parts(out, first, count, tensors, err)) < 0) goto fail;
    }
    return 0;
fail:
    ht_gguf_close(out);
    return rc;
}
