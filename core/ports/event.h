/* A point in somebody's work that others wait for: a page has arrived, a copy is done, a kernel has run. */
#ifndef HEARTH_CORE_PORTS_EVENT_H
#define HEARTH_CORE_PORTS_EVENT_H

#include "core/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* A value, copied freely; the object behind it belongs to who made it and outlives the lease it came with.
 * The zero event has happened already: that is all that a store in RAM ever gives. */
typedef struct ht_event {
    /* Blocks the calling thread until the event, and returns 0 or the failure of the work it stands for. */
    int (*wait)(void *owner, uint64_t stamp, ht_error *err);
    /* 1: happened, 0: not yet, negative: failed. Never blocks. */
    int (*poll)(void *owner, uint64_t stamp);
    void *owner;
    uint64_t stamp;   /* which of the owner's works */
    void *device;     /* a device's own event that its queues can wait for without the host, or NULL */
} ht_event;

static inline int ht_event_wait(ht_event e, ht_error *err) { return e.wait ? e.wait(e.owner, e.stamp, err) : 0; }
static inline int ht_event_poll(ht_event e) { return e.poll ? e.poll(e.owner, e.stamp) : 1; }

#endif
