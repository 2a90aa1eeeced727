/* The GGUF writer, see gguf_write.h. Integers are stored little-endian by hand; arrays of scalars come packed. */
#include "core/model/gguf_write.h"

#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/model/gguf_parse.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_FILE "/proc/self/fd/%d"
enum { OPEN_FILE_PATH = 40 };

typedef struct bytes {
    uint8_t *data; /* owned */
    size_t size, capacity;
    bool failed;   /* out of memory: later appends do nothing */
} bytes;

typedef struct out_tensor { uint64_t offset, bytes; } out_tensor; /* in the data section */

struct ht_gguf_writer {
    char *path, *temporary; /* owned */
    int fd;
    uint64_t alignment, data_offset, data_bytes;
    bytes values, infos;
    uint64_t n_values;
    out_tensor *tensors; /* [n_tensors], owned */
    int32_t n_tensors, tensors_capacity;
    bool begun, finished;
    bool nameless;       /* the file has no name yet, so that nothing is left of it when the process is ended */
    uint64_t written;    /* atomic: bytes written by any thread, relaxed: read after they have been joined */
};

static void append(bytes *b, const void *data, size_t n)
{
    size_t need;
    if (b->failed) return;
    if (!ht_add_size(b->size, n, &need)) {
        b->failed = true;
        return;
    }
    if (need > b->capacity) {
        size_t capacity = need < SIZE_MAX / 2 ? 2 * need + 4096 : need;
        uint8_t *more = ht_realloc(b->data, capacity, 1);
        if (!more) {
            b->failed = true;
            return;
        }
        b->data = more;
        b->capacity = capacity;
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size = need;
}

static void append_integer(bytes *b, uint64_t v, int n)
{
    uint8_t le[8];
    for (int i = 0; i < n; i++) le[i] = (uint8_t)(v >> (8 * i));
    append(b, le, (size_t)n);
}

static void append_string(bytes *b, const char *s, uint64_t len)
{
    append_integer(b, len, 8);
    append(b, s, len);
}

static void begin_value(ht_gguf_writer *w, const char *key, ht_gguf_kind kind)
{
    w->n_values++;
    append_string(&w->values, key, strlen(key));
    append_integer(&w->values, kind, 4);
}

void ht_gguf_put_u32(ht_gguf_writer *w, const char *key, uint32_t v)
{
    begin_value(w, key, HT_GGUF_U32);
    append_integer(&w->values, v, 4);
}

void ht_gguf_put_f32(ht_gguf_writer *w, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    begin_value(w, key, HT_GGUF_F32);
    append_integer(&w->values, u, 4);
}

void ht_gguf_put_bool(ht_gguf_writer *w, const char *key, bool v)
{
    begin_value(w, key, HT_GGUF_BOOL);
    append_integer(&w->values, v, 1);
}

void ht_gguf_put_string(ht_gguf_writer *w, const char *key, const char *v)
{
    begin_value(w, key, HT_GGUF_STRING);
    append_string(&w->values, v, strlen(v));
}

void ht_gguf_put_array(ht_gguf_writer *w, const char *key, ht_gguf_kind item, const void *items, uint64_t count)
{
    begin_value(w, key, HT_GGUF_ARRAY);
    append_integer(&w->values, item, 4);
    append_integer(&w->values, count, 8);
    append(&w->values, items, count * ht_gguf_kind_bytes(item));
}

void ht_gguf_put_strings(ht_gguf_writer *w, const char *key, const ht_gguf_string *strings, uint64_t count)
{
    begin_value(w, key, HT_GGUF_ARRAY);
    append_integer(&w->values, HT_GGUF_STRING, 4);
    append_integer(&w->values, count, 8);
    for (uint64_t i = 0; i < count; i++) append_string(&w->values, strings[i].data, strings[i].len);
}

void ht_gguf_put_value(ht_gguf_writer *w, const ht_gguf_value *v)
{
    if (v->kind == HT_GGUF_ARRAY && v->item == HT_GGUF_STRING) {
        ht_gguf_put_strings(w, v->key, v->strings, v->count);
        return;
    }
    if (v->kind == HT_GGUF_ARRAY) {
        ht_gguf_put_array(w, v->key, v->item, v->items, v->count);
        return;
    }
    if (v->kind == HT_GGUF_F32) {
        ht_gguf_put_f32(w, v->key, (float)v->as.f);
        return;
    }
    begin_value(w, v->key, v->kind);
    if (v->kind == HT_GGUF_STRING) {
        append_string(&w->values, v->string.data, v->string.len);
        return;
    }
    uint64_t bits = v->kind == HT_GGUF_BOOL ? v->as.b : v->as.u; /* a double's bits are those of the union */
    append_integer(&w->values, bits, (int)ht_gguf_kind_bytes(v->kind));
}

int32_t ht_gguf_add_tensor(ht_gguf_writer *w, const char *name, ht_type type, int32_t n_dims, const int64_t *dim,
                           ht_error *err)
{
    const ht_type_info *info = ht_type_get((uint32_t)type);
    int64_t size = 0;
    bool good = info && n_dims >= 1 && n_dims <= HT_MAX_DIMS && dim[0] > 0 && dim[0] % info->block_len == 0 && !w->begun;
    if (good) size = dim[0] / info->block_len;
    good = good && ht_mul_i64(size, info->block_bytes, &size);
    for (int32_t i = 1; good && i < n_dims; i++) good = dim[i] > 0 && ht_mul_i64(size, dim[i], &size);
    if (!good)
        return ht_fail(err, -EINVAL, "%s: tensor %s: %d dimensions, rows of %" PRId64 ", type %s", w->path, name, n_dims,
                       n_dims > 0 ? dim[0] : 0, info ? info->name : "unknown");
    if (w->n_tensors == w->tensors_capacity) {
        int32_t capacity = 2 * w->tensors_capacity + 64;
        out_tensor *more = ht_realloc(w->tensors, (size_t)capacity, sizeof *more);
        if (!more) return ht_fail(err, -ENOMEM, "%s: out of memory for tensor %s", w->path, name);
        w->tensors = more;
        w->tensors_capacity = capacity;
    }
    out_tensor *t = &w->tensors[w->n_tensors];
    t->offset = w->data_bytes;
    t->bytes = (uint64_t)size;
    w->data_bytes += ht_align_up((size_t)size, w->alignment);
    append_string(&w->infos, name, strlen(name));
    append_integer(&w->infos, (uint64_t)n_dims, 4);
    for (int32_t i = 0; i < n_dims; i++) append_integer(&w->infos, (uint64_t)dim[i], 8);
    append_integer(&w->infos, type, 4);
    append_integer(&w->infos, t->offset, 8);
    return w->n_tensors++;
}

static int write_all(ht_gguf_writer *w, uint64_t offset, const uint8_t *data, size_t n, ht_error *err)
{
    while (n > 0) {
        ssize_t wrote = pwrite(w->fd, data, n, (off_t)offset);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0)
            return ht_fail(err, wrote < 0 ? -errno : -EIO, "cannot write '%s' at %" PRIu64 ": %s", w->temporary, offset,
                           wrote < 0 ? strerror(errno) : "nothing was taken");
        data += wrote;
        offset += (uint64_t)wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

int ht_gguf_writer_begin(ht_gguf_writer *w, ht_error *err)
{
    bytes head = {0};
    append(&head, "GGUF", 4);
    append_integer(&head, 3, 4);
    append_integer(&head, (uint64_t)w->n_tensors, 8);
    append_integer(&head, w->n_values, 8);
    append(&head, w->values.data, w->values.size);
    append(&head, w->infos.data, w->infos.size);
    head.failed = head.failed || w->values.failed || w->infos.failed;
    int rc;
    if (head.failed) {
        rc = ht_fail(err, -ENOMEM, "%s: out of memory for the header", w->path);
        goto done;
    }
    w->data_offset = ht_align_up(head.size, w->alignment);
    w->begun = true;
    uint64_t size = w->data_offset + w->data_bytes;
    /* Reserve where the file system can; elsewhere the size is set and a full disk shows while writing. */
    int refused = posix_fallocate(w->fd, 0, (off_t)size);
    if (refused == EOPNOTSUPP || refused == EINVAL) refused = ftruncate(w->fd, (off_t)size) < 0 ? errno : 0;
    if (refused) {
        rc = ht_fail(err, -refused, "cannot make '%s' %" PRIu64 " bytes long: %s", w->temporary, size, strerror(refused));
        goto done;
    }
    rc = write_all(w, 0, head.data, head.size, err);
done:
    ht_free(head.data);
    return rc;
}

uint64_t ht_gguf_tensor_bytes(const ht_gguf_writer *w, int32_t tensor)
{
    return w->tensors[tensor].bytes;
}

uint64_t ht_gguf_writer_size(const ht_gguf_writer *w)
{
    return w->data_offset + w->data_bytes;
}

int ht_gguf_write_at(ht_gguf_writer *w, int32_t tensor, uint64_t offset, const void *data, size_t n, ht_error *err)
{
    const out_tensor *t = tensor >= 0 && tensor < w->n_tensors ? &w->tensors[tensor] : NULL;
    if (!w->begun || !t || offset > t->bytes || n > t->bytes - offset)
        return ht_fail(err, -EINVAL, "%s: %zu bytes at %" PRIu64 " are not in tensor %d", w->path, n, offset, tensor);
    int rc = write_all(w, w->data_offset + t->offset + offset, data, n, err);
    if (rc == 0) __atomic_fetch_add(&w->written, n, __ATOMIC_RELAXED);
    return rc;
}

/* 0 or an errno. */
static int give_name(ht_gguf_writer *w)
{
    char link[OPEN_FILE_PATH];
    snprintf(link, sizeof link, OPEN_FILE, w->fd);
    unlink(w->temporary); /* of a process that had our number */
    if (linkat(AT_FDCWD, link, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) < 0) return errno;
    w->nameless = false;
    return 0;
}

int ht_gguf_writer_finish(ht_gguf_writer *w, ht_error *err)
{
    uint64_t expected = 0;
    for (int32_t i = 0; i < w->n_tensors; i++) expected += w->tensors[i].bytes;
    if (!w->begun || w->written != expected)
        return ht_fail(err, -EINVAL, "%s: %" PRIu64 " bytes of tensors were written, should be %" PRIu64, w->path,
                       w->written, expected);
    int failed = w->nameless ? give_name(w) : 0;
    if (close(w->fd) < 0 && !failed) failed = errno; /* quotas and network file systems complain here */
    w->fd = -1;
    if (!failed && rename(w->temporary, w->path) < 0) failed = errno;
    if (failed) return ht_fail(err, -failed, "cannot finish '%s': %s", w->path, strerror(failed));
    w->finished = true;
    return 0;
}

/* A file without a name in the folder of w->path, if the file system has such and it can get a name later. */
static bool create_nameless(ht_gguf_writer *w)
{
    char link[OPEN_FILE_PATH], *slash = strrchr(w->path, '/');
    char *folder = slash ? ht_strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path)) : ht_strdup(".");
    if (folder) w->fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    ht_free(folder);
    if (w->fd < 0) return false;
    snprintf(link, sizeof link, OPEN_FILE, w->fd);
    w->nameless = access(link, F_OK) == 0;
    if (w->nameless) return true;
    close(w->fd);
    w->fd = -1;
    return false;
}

int ht_gguf_writer_open(ht_gguf_writer **out, const char *path, uint64_t alignment, ht_error *err)
{
    *out = NULL;
    if (alignment == 0) alignment = 32;
    if (alignment < 8 || alignment > 1u << 20 || (alignment & (alignment - 1)) != 0)
        return ht_fail(err, -EINVAL, "%s: alignment %" PRIu64 " is not a power of two from 8 to 1048576", path, alignment);
    ht_gguf_writer *w = ht_calloc(1, sizeof *w);
    if (!w) return ht_fail(err, -ENOMEM, "%s: out of memory", path);
    int rc;
    struct stat st;
    size_t room = strlen(path) + 32;
    w->fd = -1;
    w->alignment = alignment;
    w->path = ht_strdup(path);
    w->temporary = ht_alloc(room, 1);
    if (!w->path || !w->temporary) {
        rc = ht_fail(err, -ENOMEM, "%s: out of memory", path);
        goto fail;
    }
    /* Finishing renames the file into place: that must not take the place of a device, nor fail in the end. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        rc = ht_fail(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "'%s' is %s", path,
                     S_ISDIR(st.st_mode) ? "a directory, not a file" : "not a regular file");
        goto fail;
    }
    snprintf(w->temporary, room, "%s.%ld.tmp", path, (long)getpid());
    if (!create_nameless(w)) w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        rc = ht_fail(err, -errno, "cannot create '%s': %s", w->temporary, strerror(errno));
        goto fail;
    }
    if (alignment != 32) ht_gguf_put_u32(w, "general.alignment", (uint32_t)alignment);
    *out = w;
    return 0;
fail:
    ht_gguf_writer_close(&w);
    return rc;
}

void ht_gguf_writer_close(ht_gguf_writer **writer)
{
    ht_gguf_writer *w = *writer;
    if (!w) return;
    bool created = w->fd >= 0 || w->begun;
    if (w->fd >= 0) close(w->fd);
    if (created && !w->finished && !w->nameless) unlink(w->temporary);
    ht_free(w->values.data);
    ht_free(w->infos.data);
    ht_free(w->tensors);
    ht_free(w->path);
    ht_free(w->temporary);
    ht_free(w);
    *writer = NULL;
}
