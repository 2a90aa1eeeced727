/* Loading weights: see load.h.
 *
 * Reading into anonymous huge pages beats a mapping three ways: streaming reads of the weights run faster on 2 MiB
 * pages, the kernel may not evict them when they are idle, and O_DIRECT reaches the drive's own speed, which page
 * faults never do.
 */
#include "offload/load.h"

#include "core/base/arith.h"
#include "core/base/available.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "offload/prefault.h"
#include "offload/reader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    REQUEST_BYTES = 4 << 20, /* one request of this size saturates most drives; more cover the gaps between them */
    QUEUE_DEPTH = 8,
    DIRECT_ALIGN = 4096,
    GAP_BYTES = 1 << 20,
};

/* ---- what is loaded --------------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const ht_tensor_info *x = *(const ht_tensor_info *const *)a, *y = *(const ht_tensor_info *const *)b;

    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Tensors in order of place; what lies between two of them is read with them if it is little. */
static int list_spans(ht_loaded *out, const ht_tensor_dir *dir, const uint8_t *use, ht_error *err)
{
    size_t n = 0;
    const ht_tensor_info **list = ht_alloc((size_t)dir->n_tensors + 1, sizeof *list);

    for (int32_t i = 0; list && i < dir->n_tensors; i++)
        if (use[i]) list[n++] = &dir->tensors[i];
    out->spans = ht_calloc(n + 1, sizeof *out->spans);
    if (!list || !out->spans) {
        ht_free(list);
        return ht_fail(err, -ENOMEM, "out of memory loading %s", dir->files[0].path);
    }
    qsort(list, n, sizeof *list, by_place);
    for (size_t i = 1; i < n; i++) {
        const ht_tensor_info *a = list[i - 1], *b = list[i];
        if (a->file != b->file || b->offset >= a->offset + a->bytes) continue;
        ht_free(list);
        return ht_fail(err, -EINVAL, "%s: tensors %s and %s overlap", dir->files[a->file].path, a->name, b->name);
    }
    for (size_t i = 0; i < n; i++) {
        const ht_tensor_info *t = list[i];
        ht_span *last = out->n_spans ? &out->spans[out->n_spans - 1] : NULL;
        if (!last || last->file != t->file || t->offset > last->begin + last->bytes + GAP_BYTES)
            *(last = &out->spans[out->n_spans++]) = (ht_span){.file = t->file,
                                                             .begin = t->offset & ~(uint64_t)(DIRECT_ALIGN - 1)};
        if (t->offset + t->bytes > last->begin + last->bytes) last->bytes = t->offset + t->bytes - last->begin;
    }
    ht_free(list);
    return 0;
}

const void *ht_loaded_tensor(const ht_loaded *l, const ht_tensor_info *t)
{
    const ht_span *s = l->spans;

    while (s->file != t->file || t->offset < s->begin || t->offset + t->bytes > s->begin + s->bytes) s++;
    return s->data + (t->offset - s->begin);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

/* The tensor that holds byte `at` of a file, to name it in an error. */
static const char *tensor_at(const ht_tensor_dir *dir, int32_t file, uint64_t at)
{
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        const ht_tensor_info *t = &dir->tensors[i];
        if (t->file == file && at < t->offset + t->bytes && at + REQUEST_BYTES > t->offset) return t->name;
    }
    return "padding";
}

/* Whether most of a span lies in the page cache: by sampling, a cached file is copied faster than it is read. */
static bool is_cached(const ht_file *file, uint64_t begin, uint64_t end)
{
    enum { SAMPLES = 64 };
    long page = sysconf(_SC_PAGESIZE);
    int hits = 0;
    for (int i = 0; i < SAMPLES; i++) {
        unsigned char resident = 0;
        uint64_t at = begin + (end - begin) / SAMPLES * (uint64_t)i;
        at &= ~((uint64_t)page - 1);
        if (mincore((void *)(file->data + at), 1, &resident) == 0) hits += resident & 1;
    }
    return hits > SAMPLES * 3 / 4;
}

typedef struct job {
    const ht_tensor_dir *dir;
    int32_t file;
    uint64_t begin, end;      /* of the file */
    uint8_t *dst;             /* byte `begin` */
    ht_prefault *prefault;    /* of dst; NULL: the reads touch it first */
    ht_progress *progress;
    uint64_t done_before;     /* bytes of earlier spans */
} job;

static int check_read(const job *j, const ht_read *read, ht_error *err)
{
    uint64_t need = ht_min_i64((int64_t)(read->offset + read->bytes), (int64_t)j->end) - read->offset;
    if (read->result >= 0 && (uint64_t)read->result >= need) return 0;
    const char *path = j->dir->files[j->file].path, *tensor = tensor_at(j->dir, j->file, read->offset);
    if (read->result < 0)
        return ht_fail(err, (int)read->result, "%s: reading %s at byte %llu: %s", path, tensor,
                       (unsigned long long)read->offset, strerror((int)-read->result));
    return ht_fail(err, -EIO, "%s: the file ended at byte %llu while reading %s", path,
                   (unsigned long long)(read->offset + (uint64_t)read->result), tensor);
}

/* Queues the piece at *at and moves on. Pieces end at the span's end, rounded up for O_DIRECT: the buffer has room. */
static int queue_piece(const job *j, ht_reader *reader, ht_read *read, int fd, uint64_t *at, ht_error *err)
{
    size_t bytes = ht_align_up((size_t)ht_min_i64(REQUEST_BYTES, (int64_t)(j->end - *at)), DIRECT_ALIGN);
    *read = (ht_read){.fd = fd, .offset = *at, .bytes = bytes, .dst = j->dst + (*at - j->begin)};
    ht_prefault_wait(j->prefault, *at - j->begin + bytes);
    int code = ht_reader_submit(reader, read);
    if (code < 0)
        return ht_fail(err, code, "%s: cannot queue a read: %s", j->dir->files[j->file].path, strerror(-code));
    *at += bytes;
    return 0;
}

/* Keeps QUEUE_DEPTH requests in flight over [begin, end). After a failure nothing new is queued, and what is in
 * flight is waited for. */
static int read_span(const job *j, int fd, ht_error *err)
{
    ht_reader *reader = NULL;
    int result = ht_reader_open(&reader, QUEUE_DEPTH, true, err);
    if (result < 0) return result;
    ht_read reads[QUEUE_DEPTH], *idle[QUEUE_DEPTH];
    int n_idle = 0;
    while (n_idle < QUEUE_DEPTH) idle[n_idle] = &reads[n_idle], n_idle++;
    uint64_t at = j->begin, done = j->done_before;
    for (;;) {
        while (result >= 0 && n_idle > 0 && at < j->end) result = queue_piece(j, reader, idle[--n_idle], fd, &at, err);
        ht_read *read = ht_reader_wait(reader);
        if (!read) break;
        if (result >= 0) result = check_read(j, read, err);
        done += read->bytes;
        ht_progress_update(j->progress, done);
        idle[n_idle++] = read;
    }
    if (result >= 0 && n_idle < QUEUE_DEPTH) /* nothing came back for what is in flight: the ring is broken */
        result = ht_fail(err, -EIO, "%s: reads were lost", j->dir->files[j->file].path);
    ht_reader_close(&reader);
    return result;
}

/* The file's bytes through O_DIRECT, or through the page cache when they are there already, or when the file system
 * has no O_DIRECT (tmpfs), or when a direct read is refused halfway. */
static int read_file(const job *j, const char **how, ht_error *err)
{
    const ht_file *file = &j->dir->files[j->file];
    if (!is_cached(file, j->begin, j->end)) {
        int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
        if (fd >= 0) {
            ht_error refused = {0};
            int result = read_span(j, fd, &refused);
            close(fd);
            *how = "direct reads";
            if (result >= 0) return result;
            if (refused.code != -EINVAL) {
                if (err) *err = refused;
                return result;
            }
        }
    }
    *how = "buffered reads";
    return read_span(j, file->fd, err);
}

static int load_span(ht_span *span, job *j, ht_load_mode mode, const char **how, ht_error *err)
{
    const ht_file *file = &j->dir->files[j->file];
    if (mode == HT_LOAD_MMAP) {
        span->data = file->data + j->begin;
        madvise((void *)span->data, span->bytes, MADV_WILLNEED); /* j->begin is a multiple of the page size */
        *how = "mapped";
        return 0;
    }
    span->page_bytes = ht_align_up(span->bytes, DIRECT_ALIGN);
    span->pages = ht_alloc_pages(span->page_bytes);
    if (!span->pages)
        return ht_fail(err, -ENOMEM, "%s: no memory for %.2f GiB of weights", file->path,
                       (double)span->bytes / (1 << 30));
    span->data = span->pages;
    j->dst = span->pages;
    j->prefault = ht_prefault_begin(span->pages, span->page_bytes);
    int result = read_file(j, how, err);
    ht_prefault_end(j->prefault);
    return result;
}

int ht_load(ht_loaded *out, const ht_tensor_dir *dir, const uint8_t *use, ht_load_mode mode, bool quiet,
            ht_load_stats *stats, ht_error *err)
{
    double started = ht_now();
    *out = (ht_loaded){0};
    *stats = (ht_load_stats){.how = "nothing"};
    int result = list_spans(out, dir, use, err);

    for (int32_t i = 0; i < out->n_spans; i++) stats->bytes += out->spans[i].bytes;
    uint64_t available = ht_memory_available("");
    if (mode == HT_LOAD_AUTO && available && stats->bytes > available - available / 16) {
        ht_log(HT_LOG_WARN, "%.1f GiB of weights, but %.1f GiB of memory are free: mapping the file instead of reading it",
               (double)stats->bytes / (1 << 30), (double)available / (1 << 30));
        mode = HT_LOAD_MMAP;
    }

    ht_progress progress = {0};
    if (!quiet) ht_progress_begin(&progress, "loading", stats->bytes);
    uint64_t done = 0;
    for (int32_t i = 0; i < out->n_spans && result >= 0; i++) {
        ht_span *span = &out->spans[i];
        job j = {.dir = dir, .file = span->file, .begin = span->begin, .end = span->begin + span->bytes,
                 .progress = &progress, .done_before = done};
        result = load_span(span, &j, mode, &stats->how, err);
        done += span->bytes;
    }
    if (!quiet) ht_progress_end(&progress);
    stats->seconds = ht_now() - started;
    if (result < 0) ht_unload(out);
    return result;
}

void ht_unload(ht_loaded *loaded)
{
    for (int32_t i = 0; i < loaded->n_spans; i++) ht_free_pages(loaded->spans[i].pages, loaded->spans[i].page_bytes);
    ht_free(loaded->spans);
    *loaded = (ht_loaded){0};
}
