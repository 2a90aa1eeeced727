/* Reads and writes of whole amounts. */
#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int cli_error(hearth_error *error, int code, const char *format, ...)
{
    va_list args;
    error->code = -code;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return -code;
}

int cli_file_error(hearth_error *error, const char *name, int code)
{
    return cli_error(error, code, "%s: %s", name, strerror(code));
}

bool cli_is_same_file(const char *read, const char *written)
{
    struct stat a, b;
    if (!read || !written || strcmp(written, "-") == 0) return false;
    if ((strcmp(read, "-") == 0 ? fstat(STDIN_FILENO, &a) : stat(read, &a)) < 0 || stat(written, &b) < 0) return false;
    return S_ISREG(b.st_mode) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

int cli_nameless_file(hearth_error *error)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    if (!folder || !*folder) folder = "/tmp";
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    if (snprintf(path, sizeof path, "%s/hearth-XXXXXX", folder) >= (int)sizeof path)
        return cli_file_error(error, folder, ENAMETOOLONG);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return cli_file_error(error, folder, errno);
    unlink(path);
    return fd;
}

int cli_write_file(int fd, const void *bytes, size_t n)
{
    const char *at = bytes;
    while (n) {
        ssize_t wrote = write(fd, at, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return -errno;
        at += wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

int cli_write_file_at(int fd, const void *bytes, size_t n, uint64_t at)
{
    const char *from = bytes;
    while (n) {
        ssize_t wrote = pwrite(fd, from, n, (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return -errno;
        from += wrote;
        at += (uint64_t)wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

int64_t cli_read_file_at(int fd, void *out, size_t n, uint64_t at)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(fd, (char *)out + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (int64_t)done;
}
