/* The reader: see reader.h. Short reads and interrupted calls are ordinary and continued here. */
#include "offload/reader.h"

#include "core/base/log.h"
#include "core/base/memory.h"

#include <liburing.h>
#include <string.h>
#include <unistd.h>

struct ht_reader {
    struct io_uring ring;
    bool uring;
    int depth, in_flight;
    ht_read **finished;   /* [depth] without io_uring: done at submit, waiting to be fetched; a ring buffer */
    int first, n_finished;
};

/* Kernels before 5.6 have rings, but no plain read in them (nor a way to ask). */
static int open_ring(struct io_uring *ring, int depth)
{
    int code = io_uring_queue_init((unsigned)depth, ring, 0);
    if (code < 0) return code;
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool reads = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
    if (probe) io_uring_free_probe(probe);
    if (!reads) io_uring_queue_exit(ring);
    return reads ? 0 : -EOPNOTSUPP;
}

int ht_reader_open(ht_reader **out, int depth, bool use_uring, ht_error *err)
{
    *out = NULL;
    if (depth < 1 || depth > 4096) return ht_fail(err, -EINVAL, "read queue depth %d is not in 1..4096", depth);
    ht_reader *r = ht_calloc(1, sizeof *r);
    if (!r) return ht_fail(err, -ENOMEM, "out of memory opening a reader");
    r->depth = depth;
    r->finished = ht_calloc((size_t)depth, sizeof *r->finished);
    if (!r->finished) {
        ht_free(r);
        return ht_fail(err, -ENOMEM, "out of memory opening a reader of depth %d", depth);
    }
    if (use_uring) {
        int code = open_ring(&r->ring, depth);
        r->uring = code == 0;
        if (code < 0) ht_log_once(HT_LOG_INFO, "io_uring is not available (%s), reading with pread", strerror(-code));
    }
    *out = r;
    return 0;
}

void ht_reader_close(ht_reader **reader)
{
    ht_reader *r = *reader;
    if (!r) return;
    while (ht_reader_wait(r)) {}
    if (r->uring) io_uring_queue_exit(&r->ring);
    ht_free(r->finished);
    ht_free(r);
    *reader = NULL;
}

bool ht_reader_is_uring(const ht_reader *reader) { return reader->uring; }

/* Queues the rest of a request. The ring has as many entries as requests may be in flight, so there is always a
 * free one, and a failed submission leaves the request to be finished with an error by the caller. */
static int uring_start(ht_reader *r, ht_read *read)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    if (!sqe) return -EAGAIN;
    io_uring_prep_read(sqe, read->fd, (char *)read->dst + read->done_, (unsigned)(read->bytes - read->done_),
                       read->offset + read->done_);
    io_uring_sqe_set_data(sqe, read);
    int code;
    do code = io_uring_submit(&r->ring);
    while (code == -EINTR || code == -EAGAIN || code == -EBUSY);
    return code < 0 ? code : 0;
}

/* O_DIRECT at the end of a file whose size is no multiple of the block: the last piece comes short, and some file
 * systems refuse to be asked for what lies behind it. */
static bool is_unaligned_end(const ht_read *read, int code) { return code == -EINVAL && read->done_ > 0; }

static void pread_all(ht_read *read)
{
    while (read->done_ < read->bytes) {
        ssize_t n = pread(read->fd, (char *)read->dst + read->done_, read->bytes - read->done_,
                          (off_t)(read->offset + read->done_));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && is_unaligned_end(read, -errno)) break;
        if (n < 0) {
            read->result = -errno;
            return;
        }
        if (n == 0) break;
        read->done_ += (size_t)n;
    }
    read->result = (ssize_t)read->done_;
}

int ht_reader_submit(ht_reader *r, ht_read *read)
{
    if (r->in_flight == r->depth) return -EBUSY;
    read->done_ = 0;
    read->result = 0;
    if (r->uring) {
        int code = uring_start(r, read);
        if (code < 0) return code;
    } else {
        pread_all(read);
        r->finished[(r->first + r->n_finished++) % r->depth] = read;
    }
    r->in_flight++;
    return 0;
}

/* True when the request is finished; false when its rest was queued again. */
static bool uring_finish(ht_reader *r, ht_read *read, int code)
{
    if (code == -EINTR || code == -EAGAIN) code = 0; /* nothing was read: ask again */
    else if (code == 0 || is_unaligned_end(read, code)) { /* end of file */
        read->result = (ssize_t)read->done_;
        return true;
    }
    if (code < 0) {
        read->result = code;
        return true;
    }
    read->done_ += (size_t)code;
    if (read->done_ == read->bytes) {
        read->result = (ssize_t)read->done_;
        return true;
    }
    code = uring_start(r, read);
    if (code == 0) return false;
    read->result = code;
    return true;
}

ht_read *ht_reader_wait(ht_reader *r)
{
    if (!r->in_flight) return NULL;
    if (!r->uring) {
        ht_read *read = r->finished[r->first];
        r->first = (r->first + 1) % r->depth;
        r->n_finished--;
        r->in_flight--;
        return read;
    }
    for (;;) {
        struct io_uring_cqe *cqe;
        int code = io_uring_wait_cqe(&r->ring, &cqe);
        if (code == -EINTR || code == -EAGAIN) continue;
        if (code < 0) return NULL; /* the ring itself is broken: nothing can be known of what is in flight */
        ht_read *read = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&r->ring, cqe);
        if (uring_finish(r, read, result)) {
            r->in_flight--;
            return read;
        }
    }
}
