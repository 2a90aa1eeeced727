/* Files: mapping, exact reads, slurping. */
#include "core/base/file.h"

#include "core/base/memory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A single read() moves at most 2 GiB - 4 KiB on Linux; whole mebibytes keep offsets aligned. */
enum { READ_LIMIT = 1 << 30 };

/* Opens what may be read to its end without waiting for anybody: a FIFO or a device has no end that must come. */
static int open_regular(const char *path, int *out, struct stat *st, ht_error *err)
{
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a FIFO must not hang us */
    if (fd < 0) return ht_fail(err, -errno, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, st) < 0) rc = ht_fail(err, -errno, "cannot stat '%s': %s", path, strerror(errno));
    else if (S_ISDIR(st->st_mode)) rc = ht_fail(err, -EISDIR, "'%s' is a directory, not a file", path);
    else if (!S_ISREG(st->st_mode)) rc = ht_fail(err, -EINVAL, "'%s' is not a regular file", path);
    if (rc < 0) close(fd);
    else *out = fd;
    return rc;
}

int ht_file_open(ht_file *out, const char *path, ht_error *err)
{
    *out = (ht_file){.fd = -1};
    int rc;
    void *map = MAP_FAILED;
    struct stat st;
    int fd;
    if ((rc = open_regular(path, &fd, &st, err)) < 0) return rc;
    if (st.st_size > 0) {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            rc = ht_fail(err, -errno, "cannot map '%s' (%lld bytes): %s", path, (long long)st.st_size, strerror(errno));
            goto fail;
        }
    }
    out->path = ht_strdup(path);
    if (!out->path) {
        rc = ht_fail(err, -ENOMEM, "out of memory while opening '%s'", path);
        goto fail;
    }
    out->data = map == MAP_FAILED ? NULL : map;
    out->size = (uint64_t)st.st_size;
    out->fd = fd;
    return 0;
fail:
    if (map != MAP_FAILED) munmap(map, (size_t)st.st_size);
    close(fd);
    return rc;
}

void ht_file_close(ht_file *file)
{
    if (!file || !file->path) return; /* never opened, or closed already */
    if (file->data) munmap((void *)file->data, (size_t)file->size);
    close(file->fd);
    ht_free(file->path);
    *file = (ht_file){.fd = -1};
}

int ht_file_read(const ht_file *file, uint64_t offset, void *dst, size_t bytes, ht_error *err)
{
    if (offset > INT64_MAX || bytes > INT64_MAX - offset) {
        return ht_fail(err, -EIO, "'%s': cannot read %zu bytes at offset %llu", file->path, bytes, (unsigned long long)offset);
    }
    uint8_t *to = dst;
    while (bytes > 0) {
        ssize_t got = pread(file->fd, to, bytes < READ_LIMIT ? bytes : READ_LIMIT, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            return ht_fail(err, -errno, "'%s': reading at offset %llu: %s", file->path, (unsigned long long)offset, strerror(errno));
        }
        if (got == 0) {
            return ht_fail(err, -EIO, "'%s' ends at offset %llu, %zu bytes early", file->path, (unsigned long long)offset, bytes);
        }
        to += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

/* A file may grow or shrink meanwhile, so the size is only known at the end. */
int ht_file_slurp(const char *path, size_t limit, char **out, size_t *out_size, ht_error *err)
{
    *out = NULL;
    int rc;
    char *text = NULL;
    size_t size = 0, room = 0;
    int fd;
    struct stat st;
    if ((rc = open_regular(path, &fd, &st, err)) < 0) return rc;
    for (;;) {
        if (room - size < 2) { /* one byte to read, one for the NUL */
            size_t larger = room ? room * 2 : 16384; /* room <= 2 * limit + 16384, which never overflows below */
            if (limit < SIZE_MAX / 4 && larger > limit + 2) larger = limit + 2;
            char *p = ht_realloc(text, larger, 1);
            if (!p) {
                rc = ht_fail(err, -ENOMEM, "out of memory while reading '%s' (%zu bytes so far)", path, size);
                goto done;
            }
            text = p;
            room = larger;
        }
        ssize_t got = read(fd, text + size, room - size - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            rc = ht_fail(err, -errno, "cannot read '%s': %s", path, strerror(errno));
            goto done;
        }
        if (got == 0) break;
        size += (size_t)got;
        if (size > limit) {
            rc = ht_fail(err, -EFBIG, "'%s' has more than %zu bytes", path, limit);
            goto done;
        }
    }
    text[size] = '\0';
    *out = text;
    if (out_size) *out_size = size;
    text = NULL;
    rc = 0;
done:
    ht_free(text);
    close(fd);
    return rc;
}
