/* Virtual time: when each piece of work would start and end on the modelled machine. A pure function of what was
 * submitted, in which order, and after what: real time never enters. Not thread-safe; the device locks it. */
#ifndef HEARTH_GPU_EMU_TIMELINE_H
#define HEARTH_GPU_EMU_TIMELINE_H

#include "gpu/device.h"

/* What a piece of work occupies: each engine does one thing at a time. */
typedef enum ht_engine { HT_ENGINE_COMPUTE, HT_ENGINE_TO_DEVICE, HT_ENGINE_TO_HOST, HT_ENGINE_COUNT,
                         HT_ENGINE_NONE } ht_engine;

#define HT_TIMELINE_GAPS 64

typedef struct ht_busy { double start, end; } ht_busy;

typedef struct ht_timeline {
    double host;             /* the submitting thread's clock: what it waited for has passed */
    double end;              /* of all work so far */
    ht_emu_span *spans;      /* [capacity], owned */
    int64_t n_spans, capacity;
    /* The last busy intervals of each engine in order of time: short work may slip into the gaps between. */
    ht_busy busy[HT_ENGINE_COUNT][HT_TIMELINE_GAPS];
    int32_t n_busy[HT_ENGINE_COUNT];
} ht_timeline;

int ht_timeline_init(ht_timeline *t, int32_t capacity);
void ht_timeline_free(ht_timeline *t);
/* Places work that is ready at `ready` on an engine, records it, and returns its end. */
double ht_timeline_add(ht_timeline *t, ht_engine engine, const char *lane, const char *name, double ready,
                       double seconds, double bytes);
int ht_timeline_write(const ht_timeline *t, const char *path, ht_error *err);

#endif
