/* The emulated GPU's streams: in-order queues, each with a thread that really runs its work beside the others.
 *
 * The submitting thread and the worker share a ring; both sides sleep on futexes rather than on a condition variable,
 * because a mutex would order memory between streams that no event orders, and hide their races from
 * ThreadSanitizer. */
#ifndef HEARTH_GPU_EMU_QUEUE_H
#define HEARTH_GPU_EMU_QUEUE_H

#include "gpu/emu/device_emu.h"

#include <pthread.h>

#define HT_QUEUE_SLOTS 256
#define HT_CLOSURE_BYTES 512

typedef enum ht_emu_work_kind { HT_WORK_KERNEL, HT_WORK_COPY, HT_WORK_FILL, HT_WORK_RECORD, HT_WORK_WAIT,
                            HT_WORK_QUIT } ht_emu_work_kind;

typedef struct ht_emu_work {
    ht_emu_work_kind kind;
    union {
        ht_emu_launch kernel;                                     /* closure points at `closure` below */
        struct { void *dst; const void *src; size_t bytes; int byte; } memory;
        struct { ht_device_event *event; uint32_t stamp; } mark;
    } u;
    _Alignas(16) char closure[HT_CLOSURE_BYTES];
} ht_emu_work;

/* What virtual time charges for a piece of work. */
typedef struct ht_emu_cost { ht_engine engine; const char *name; double seconds, bytes; } ht_emu_cost;

/* Recorded work, queued again at every launch. Owner: the thread of the streams it is used with. */
struct ht_device_graph {
    int32_t n, capacity;
    bool overflow;
    ht_emu_work *work;                /* [capacity], owned; the last one is scratch for what does not fit */
    ht_emu_cost *cost;                /* [capacity], owned */
};

struct ht_stream {
    ht_emu_device *device;            /* borrowed */
    ht_device_graph *recording;       /* borrowed; where work goes now, or NULL */
    const char *name;
    double ready;                     /* virtual time at which all that was submitted has ended; submitter */
    uint32_t submitted;               /* submitter's count; the slot of work i is i % HT_QUEUE_SLOTS */
    uint32_t known_finished;          /* submitter's last look at `finished` */
    uint32_t head;                    /* futex: published work */
    uint32_t finished;                /* futex: done work, by the worker */
    ht_emu_machine *machine;          /* worker */
    pthread_t thread;
    ht_emu_work slots[HT_QUEUE_SLOTS];
};

/* A point in a stream. `recorded` counts records (submitter), `done` those that the streams have passed. */
struct ht_device_event {
    ht_emu_device *device;
    uint32_t recorded;
    uint32_t done;                    /* futex */
    double time;                      /* virtual, of the last record; submitter */
};

int ht_queue_open(ht_stream **out, ht_emu_device *device, const char *name, ht_error *err);
void ht_queue_close(ht_stream *s);
/* The slot for the next piece of work: fill it, then submit. Blocks while the ring is full. While the stream is recorded
 * both mean the graph. */
ht_emu_work *ht_queue_slot(ht_stream *s);
void ht_queue_submit(ht_stream *s);
/* Blocks until everything submitted is done. */
void ht_queue_drain(ht_stream *s);

/* Blocks until the record `stamp` has been passed. */
void ht_mark_wait(ht_device_event *e, uint32_t stamp);
bool ht_mark_passed(const ht_device_event *e, uint32_t stamp);
void ht_mark_pass(ht_device_event *e, uint32_t stamp);

#endif
