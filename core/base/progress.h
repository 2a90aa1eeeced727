/* A progress bar on stderr when it is a terminal, silent otherwise. One at a time, from one thread. */
#ifndef HEARTH_CORE_BASE_PROGRESS_H
#define HEARTH_CORE_BASE_PROGRESS_H

#include <stdint.h>

typedef struct ht_progress {
    const char *label;      /* borrowed, static */
    uint64_t total;
    double started, drawn;  /* ht_now() */
    int enabled;
} ht_progress;

void ht_progress_begin(ht_progress *p, const char *label, uint64_t total);
void ht_progress_update(ht_progress *p, uint64_t done); /* redraws at most ten times a second */
void ht_progress_end(ht_progress *p);

#endif
