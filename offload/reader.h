/* Reads from files, many in flight: io_uring where the system allows it, plain pread otherwise. The one place of
 * hearth that knows how bytes leave a disk. It knows files, offsets and buffers; not tensors, tiers or plans.
 *
 * One owner thread a reader.
 */
#ifndef HEARTH_OFFLOAD_READER_H
#define HEARTH_OFFLOAD_READER_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One request; memory of the caller, which leaves it alone from submit until it comes back from wait. For an fd
 * opened with O_DIRECT, offset, bytes and dst are multiples of the device's alignment. */
typedef struct ht_read {
    int fd;
    uint64_t offset;
    size_t bytes;
    void *dst;
    ssize_t result;   /* out: bytes read (less than asked only at the end of the file), or a negative errno */
    void *user;
    size_t done_;     /* private: bytes so far; a short read is continued */
} ht_read;

typedef struct ht_reader ht_reader;

/* `depth`: most requests in flight, 1..4096. `use_uring` false: pread only (also the silent fallback when io_uring is
 * forbidden, as in many containers; that is logged once). */
int ht_reader_open(ht_reader **out, int depth, bool use_uring, ht_error *err);
/* Waits for what is in flight, then frees. */
void ht_reader_close(ht_reader **reader);
/* 0: under way; -EBUSY: `depth` requests are in flight already. */
int ht_reader_submit(ht_reader *reader, ht_read *read);
/* The next finished request, blocking; NULL when none is in flight. */
ht_read *ht_reader_wait(ht_reader *reader);
bool ht_reader_is_uring(const ht_reader *reader);

#endif
