/* Virtual time: placing work on engines, keeping the trace, writing it down. */
#include "gpu/emu/timeline.h"

#include "core/base/memory.h"

#include <stdio.h>
#include <string.h>

int ht_timeline_init(ht_timeline *t, int32_t capacity)
{
    *t = (ht_timeline){.capacity = capacity > 0 ? capacity : 0};
    t->spans = ht_calloc((size_t)t->capacity + 1, sizeof *t->spans);
    return t->spans ? 0 : -ENOMEM;
}

void ht_timeline_free(ht_timeline *t)
{
    ht_free(t->spans);
    *t = (ht_timeline){0};
}

/* The earliest start at or after `ready` where the engine is free for long enough; marks it busy. */
static double place(ht_timeline *t, ht_engine engine, double ready, double seconds)
{
    ht_busy *busy = t->busy[engine];
    int32_t n = t->n_busy[engine], at = n;
    double start = ready;

    for (int32_t i = 0; i < n; i++) {
        if (start + seconds <= busy[i].start) {
            at = i;
            break;
        }
        if (busy[i].end > start) start = busy[i].end;
    }
    if (n == HT_TIMELINE_GAPS) { /* forget the oldest: its time and the gap behind it are taken */
        busy[1].start = busy[0].start;
        memmove(busy, busy + 1, (size_t)(n - 1) * sizeof *busy);
        n--;
        if (at > 0) at--;
        if (at == 0 && start < busy[0].end) { /* it would have gone before what is left */
            start = busy[n - 1].end > ready ? busy[n - 1].end : ready;
            at = n;
        }
    }
    memmove(busy + at + 1, busy + at, (size_t)(n - at) * sizeof *busy);
    busy[at] = (ht_busy){start, start + seconds};
    t->n_busy[engine] = n + 1;
    return start;
}

double ht_timeline_add(ht_timeline *t, ht_engine engine, const char *lane, const char *name, double ready,
                       double seconds, double bytes)
{
    double start = engine == HT_ENGINE_NONE ? ready : place(t, engine, ready, seconds), end = start + seconds;

    if (t->n_spans < t->capacity) t->spans[t->n_spans] = (ht_emu_span){lane, name, start, end, bytes};
    t->n_spans++;
    if (end > t->end) t->end = end;
    return end;
}

int ht_timeline_write(const ht_timeline *t, const char *path, ht_error *err)
{
    FILE *f = fopen(path, "w");
    int64_t n = t->n_spans < t->capacity ? t->n_spans : t->capacity;

    if (!f) return ht_fail(err, -errno, "%s: cannot write the trace: %s", path, strerror(errno));
    fprintf(f, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    for (int64_t i = 0; i < n; i++) {
        const ht_emu_span *s = &t->spans[i];
        fprintf(f, "%s{\"ph\":\"X\",\"pid\":0,\"tid\":\"%s\",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
                   "\"args\":{\"bytes\":%.0f}}", i ? ",\n" : "", s->lane, s->name, s->start * 1e6,
                (s->end - s->start) * 1e6, s->bytes);
    }
    fprintf(f, "\n]}\n");
    int failed = ferror(f);
    if (fclose(f) || failed) return ht_fail(err, -EIO, "%s: cannot write the trace", path);
    return 0;
}
