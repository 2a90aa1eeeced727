/* The device port: a GPU's memory, queues, events and copies, in plain C. Kernels are not part of it: they belong to
 * the module that implements the port (gpu/kernels.h), since only that module's backend launches them.
 *
 * Implementations: "cuda" (a real GPU) and "emu" (the same kernels on the CPU; gpu/emu). No device at all is a NULL
 * pointer. Absent hardware is -ENODEV at open, which callers may treat as ordinary.
 *
 * Threads: a device may be used from several threads; a stream belongs to one thread at a time.
 * Failures of queued work are sticky: the first one is kept, later work of the device is skipped, and every wait
 * returns it. Nothing outside the device is harmed; the device has to be closed.
 */
#ifndef HEARTH_CORE_PORTS_DEVICE_H
#define HEARTH_CORE_PORTS_DEVICE_H

#include "core/ports/event.h"

#include <stdbool.h>

typedef struct ht_device ht_device;
typedef struct ht_stream ht_stream;             /* an in-order queue of work; streams run beside each other */
typedef struct ht_device_event ht_device_event; /* a point in a stream, recorded again and again */
typedef struct ht_device_graph ht_device_graph; /* work recorded once, queued again with one call */

typedef struct ht_device_info {
    char name[96];
    int32_t ordinal;
    int32_t capability;       /* compute capability times ten: 75, 80, 90 ... */
    int32_t multiprocessors;
    int32_t resident_blocks;  /* blocks of 256 threads that can run at once */
    bool emulated;            /* never quote its speed */
    bool tensor_cores;        /* has the f16 matrix product that the block-class kernels use */
    size_t memory_bytes;      /* all that is on the card */
    double memory_bandwidth;  /* bytes/s by the data sheet or the model; 0: unknown */
    double link_bandwidth;    /* host to device, bytes/s; 0: unknown, measure it */
} ht_device_info;

/* Exact accounting: bytes as the port counts them, every request rounded up to HT_DEVICE_ALIGN. */
#define HT_DEVICE_ALIGN 256
typedef struct ht_device_memory {
    size_t budget;            /* most bytes of device memory this device may hold */
    size_t used, peak;        /* device memory now, and at most so far */
    size_t pinned, pinned_peak;
} ht_device_memory;

typedef enum ht_copy_kind { HT_COPY_TO_DEVICE, HT_COPY_TO_HOST, HT_COPY_ON_DEVICE } ht_copy_kind;

/* Something that happens outside the device (host computation, a read from disk), for devices with virtual time. */
typedef struct ht_device_span {
    const char *lane, *name;               /* static storage */
    double seconds;                        /* modelled duration */
    ht_device_event *const *after;         /* recorded events that it waits for */
    int32_t n_after;
    ht_device_event *done;                 /* recorded at its end, or NULL */
} ht_device_span;

typedef struct ht_device_ops {
    const char *kind;
    void (*info)(ht_device *d, ht_device_info *out);
    void (*memory)(ht_device *d, ht_device_memory *out);

    /* Device memory, aligned to HT_DEVICE_ALIGN, not initialised. `what` names its purpose in the error. -ENOMEM over
     * budget or when the card has no more; the text says how much is asked for, used and allowed. free waits for
     * nothing: the caller knows that no queued work uses the memory. NULL is accepted. */
    int (*alloc)(ht_device *d, size_t bytes, const char *what, void **out, ht_error *err);
    void (*free)(ht_device *d, void *p);
    /* Host memory that asynchronous copies may use. */
    int (*alloc_pinned)(ht_device *d, size_t bytes, const char *what, void **out, ht_error *err);
    void (*free_pinned)(ht_device *d, void *p);

    /* `name` (static storage) shows in traces. close waits for the stream's work. */
    int (*stream_open)(ht_device *d, const char *name, ht_stream **out, ht_error *err);
    void (*stream_close)(ht_device *d, ht_stream *s);
    /* Blocks until all queued work of the stream is done; returns the device's failure if there is one. */
    int (*stream_sync)(ht_device *d, ht_stream *s, ht_error *err);

    /* An event that was never recorded has happened. A wait means the last record before the call of the wait. An event
     * is closed when no queued work waits for it any more. */
    int (*event_open)(ht_device *d, ht_device_event **out, ht_error *err);
    void (*event_close)(ht_device *d, ht_device_event *e);
    int (*event_record)(ht_device *d, ht_device_event *e, ht_stream *s, ht_error *err);
    int (*stream_wait)(ht_device *d, ht_stream *s, ht_device_event *e, ht_error *err);
    int (*event_sync)(ht_device *d, ht_device_event *e, ht_error *err);
    /* 1: happened, 0: not yet, negative: the device failed. */
    int (*event_poll)(ht_device *d, ht_device_event *e);
    /* The last record of e as an event of the ports; valid until e is closed or recorded again. */
    ht_event (*event_export)(ht_device *d, ht_device_event *e);
    /* The device's event behind an exported event if this device can wait for it in a queue, or NULL. */
    ht_device_event *(*event_import)(ht_device *d, ht_event e);

    /* Queued. Host memory is pinned memory of this device. Memory is not used by others until the copy is done.
     * -EINVAL: the range is not inside an allocation (as far as the device can tell). */
    int (*copy)(ht_device *d, ht_stream *s, void *dst, const void *src, size_t bytes, ht_copy_kind kind, ht_error *err);
    int (*fill)(ht_device *d, ht_stream *s, void *dst, int byte, size_t bytes, ht_error *err);

    /* Makes the device the calling thread's own before kernels are launched on its streams. */
    int (*use)(ht_device *d, ht_error *err);
    /* Turns the result of a launch (0 or the device's own code) into an error that names the kernel. */
    int (*launched)(ht_device *d, int code, const char *kernel, ht_error *err);
    /* Graphs; NULL where the device has none. open reserves room for `pieces` of work. Between begin and end, kernels
     * that are queued on the stream are recorded instead (replacing what the graph held), with their arguments; nothing
     * else is done with the stream. After a failure the graph is empty. launch queues the whole. */
    int (*graph_open)(ht_device *d, int32_t pieces, ht_device_graph **out, ht_error *err);
    void (*graph_close)(ht_device *d, ht_device_graph *g);
    int (*graph_begin)(ht_device *d, ht_device_graph *g, ht_stream *s, ht_error *err);
    int (*graph_end)(ht_device *d, ht_device_graph *g, ht_stream *s, ht_error *err);
    int (*graph_launch)(ht_device *d, ht_device_graph *g, ht_stream *s, ht_error *err);

    /* Accounts a span in virtual time; NULL where time is real. */
    int (*span)(ht_device *d, const ht_device_span *span, ht_error *err);

    void (*close)(ht_device *d);
} ht_device_ops;

/* Embedded first in every device. */
struct ht_device { const ht_device_ops *ops; };

#endif
