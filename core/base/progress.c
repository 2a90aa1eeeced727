/* The progress bar. */
#include "core/base/progress.h"

#include "core/base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 30 };

static void draw(ht_progress *p, uint64_t done, double now)
{
    char bar[BAR_WIDTH + 1];
    double share = p->total ? (double)done / (double)p->total : 1.0;
    if (share > 1.0) share = 1.0;
    int filled = (int)(share * BAR_WIDTH);
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    double spent = now - p->started;
    if (share > 0.0 && share < 1.0 && spent > 1.0) {
        fprintf(stderr, "\r%s [%s] %3.0f%%  %.0f s left\033[K", p->label, bar, 100.0 * share, spent / share - spent);
    } else {
        fprintf(stderr, "\r%s [%s] %3.0f%%\033[K", p->label, bar, 100.0 * share);
    }
    fflush(stderr);
    p->drawn = now;
}

void ht_progress_begin(ht_progress *p, const char *label, uint64_t total)
{
    const char *term = getenv("TERM");
    int terminal = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
    double now = ht_now();
    /* The first drawing waits a moment: what is over at once needs no bar. */
    *p = (ht_progress){.label = label, .total = total, .started = now, .drawn = now, .enabled = terminal};
}

void ht_progress_update(ht_progress *p, uint64_t done)
{
    if (!p->enabled) return;
    double now = ht_now();
    if (now - p->drawn >= 0.1) draw(p, done, now);
}

void ht_progress_end(ht_progress *p)
{
    if (p->enabled && p->drawn > p->started) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->enabled = 0;
}
