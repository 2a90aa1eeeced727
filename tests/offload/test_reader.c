/* The reader: the same bytes with and without io_uring, at any depth; ends of files and errors are told. */
#include "offload/reader.h"
#include "tests/support/harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES = 300000 };

static uint8_t content[FILE_BYTES];

/* A file of known bytes that is gone when its descriptor is closed. */
static int make_file(void)
{
    char path[] = "/tmp/hearth-reader-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    unlink(path);
    for (int i = 0; i < FILE_BYTES; i++) content[i] = (uint8_t)(i * 2654435761u >> 13);
    cr_assert_eq(write(fd, content, FILE_BYTES), FILE_BYTES);
    return fd;
}

static void read_in_pieces(bool uring, int depth, size_t piece)
{
    int fd = make_file();
    ht_error err = {0};
    ht_reader *reader;
    cr_assert_eq(ht_reader_open(&reader, depth, uring, &err), 0, "%s", err.text);
    uint8_t *copy = calloc(1, FILE_BYTES + piece);
    int n = (int)((FILE_BYTES + piece - 1) / piece), submitted = 0, finished = 0;
    ht_read *reads = calloc((size_t)n, sizeof *reads);
    while (finished < n) {
        while (submitted < n) {
            ht_read *r = &reads[submitted];
            *r = (ht_read){.fd = fd, .offset = (uint64_t)submitted * piece, .bytes = piece,
                           .dst = copy + (size_t)submitted * piece, .user = &reads[submitted]};
            int code = ht_reader_submit(reader, r);
            if (code == -EBUSY) break;
            cr_assert_eq(code, 0);
            submitted++;
        }
        cr_assert(submitted - finished <= depth);
        ht_read *r = ht_reader_wait(reader);
        cr_assert(r != NULL);
        cr_assert(r->user == r);
        size_t expected = r->offset + piece <= FILE_BYTES ? piece : FILE_BYTES - r->offset;
        cr_assert_eq((size_t)r->result, expected);
        finished++;
    }
    cr_assert(ht_reader_wait(reader) == NULL);
    cr_assert_eq(memcmp(copy, content, FILE_BYTES), 0);
    ht_reader_close(&reader);
    cr_assert(reader == NULL);
    free(reads);
    free(copy);
    close(fd);
}

Test(reader, pieces_of_any_size_at_any_depth)
{
    static const int depths[] = {1, 3, 64};
    static const size_t pieces[] = {1000, 4096, 65536, FILE_BYTES, FILE_BYTES + 17};
    for (int uring = 0; uring < 2; uring++)
        for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
            for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) read_in_pieces(uring, depths[d], pieces[p]);
}

Test(reader, errors_come_back_with_the_request)
{
    for (int uring = 0; uring < 2; uring++) {
        ht_reader *reader;
        cr_assert_eq(ht_reader_open(&reader, 2, uring, NULL), 0);
        uint8_t buffer[16];
        ht_read bad = {.fd = -1, .bytes = sizeof buffer, .dst = buffer};
        cr_assert_eq(ht_reader_submit(reader, &bad), 0);
        cr_assert(ht_reader_wait(reader) == &bad);
        cr_assert_eq(bad.result, -EBADF);
        ht_reader_close(&reader);
    }
}

Test(reader, close_waits_for_what_is_in_flight)
{
    int fd = make_file();
    ht_reader *reader;
    cr_assert_eq(ht_reader_open(&reader, 4, true, NULL), 0);
    uint8_t *buffer = malloc(FILE_BYTES);
    ht_read r = {.fd = fd, .bytes = FILE_BYTES, .dst = buffer};
    cr_assert_eq(ht_reader_submit(reader, &r), 0);
    ht_reader_close(&reader);
    cr_assert_eq(r.result, FILE_BYTES);
    free(buffer);
    close(fd);
}

Test(reader, refuses_a_senseless_depth)
{
    ht_error err = {0};
    ht_reader *reader;
    cr_assert_eq(ht_reader_open(&reader, 0, true, &err), -EINVAL);
    cr_assert(strstr(err.text, "depth 0") != NULL);
    cr_assert(reader == NULL);
}
