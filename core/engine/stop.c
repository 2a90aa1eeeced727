/* Stop strings: plain comparison; there are few strings and few bytes a call. */
#include "core/engine/stop.h"

#include "core/base/memory.h"

#include <string.h>

int ht_stop_open(ht_stop *s, const char *const *strings, int32_t n, size_t piece, ht_error *err)
{
    size_t longest = 0;

    *s = (ht_stop){.n = 0, .piece = piece, .found = -1};
    if (n < 0) return ht_fail(err, -EINVAL, "%d stop strings", n);
    s->strings = ht_calloc((size_t)n, sizeof(*s->strings));
    s->lengths = ht_alloc((size_t)n, sizeof(*s->lengths));
    if (!s->strings || !s->lengths) goto no_memory;
    for (int32_t i = 0; i < n; i++) {
        if (!strings[i] || !strings[i][0]) {
            ht_stop_close(s);
            return ht_fail(err, -EINVAL, "stop string %d is empty", i);
        }
        s->strings[i] = ht_strdup(strings[i]);
        s->n = i + 1;
        if (!s->strings[i]) goto no_memory;
        s->lengths[i] = strlen(strings[i]);
        if (s->lengths[i] > longest) longest = s->lengths[i];
    }
    s->capacity = longest + piece;
    s->text = ht_alloc(s->capacity, 1);
    if (s->text) return 0;

no_memory:
    ht_stop_close(s);
    return ht_fail(err, -ENOMEM, "out of memory for %d stop strings", n);
}

void ht_stop_close(ht_stop *s)
{
    for (int32_t i = 0; i < s->n; i++) ht_free(s->strings[i]);
    ht_free(s->strings);
    ht_free(s->lengths);
    ht_free(s->text);
    *s = (ht_stop){.found = -1};
}

void ht_stop_reset(ht_stop *s)
{
    s->held = s->given = 0;
    s->found = -1;
}

/* The string that is complete after `end` bytes of the text, the longest of several, or -1. */
static int32_t complete_at(const ht_stop *s, size_t end)
{
    int32_t best = -1;

    for (int32_t i = 0; i < s->n; i++)
        if (s->lengths[i] <= end && !memcmp(s->text + end - s->lengths[i], s->strings[i], s->lengths[i]) &&
            (best < 0 || s->lengths[i] > s->lengths[best]))
            best = i;
    return best;
}

/* How many bytes at the end of the text may be the beginning of a stop string. */
static size_t undecided(const ht_stop *s, size_t n)
{
    size_t most = 0;

    for (int32_t i = 0; i < s->n; i++) {
        size_t k = s->lengths[i] - 1 < n ? s->lengths[i] - 1 : n;
        while (k > most && memcmp(s->text + n - k, s->strings[i], k)) k--;
        if (k > most) most = k;
    }
    return most;
}

int ht_stop_feed(ht_stop *s, const char *bytes, size_t n, const char **out, size_t *out_n)
{
    *out = s->text;
    *out_n = 0;
    if (s->found >= 0) return 1;
    if (n > s->piece) return -EMSGSIZE;
    memmove(s->text, s->text + s->given, s->held);
    if (n) memcpy(s->text + s->held, bytes, n);
    size_t size = s->held + n;
    for (size_t end = s->held + 1; end <= size; end++) {
        s->found = complete_at(s, end);
        if (s->found < 0) continue;
        *out_n = end - s->lengths[s->found];
        s->held = s->given = 0;
        return 1;
    }
    s->held = undecided(s, size);
    s->given = *out_n = size - s->held;
    return 0;
}

void ht_stop_finish(ht_stop *s, const char **out, size_t *out_n)
{
    *out = s->text + s->given;
    *out_n = s->held;
    s->given += s->held; /* the bytes stay in place until the next call */
    s->held = 0;
}
