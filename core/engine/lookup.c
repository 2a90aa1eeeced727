/* The n-gram index: heads by hash, places chained from the latest back. */
#include "core/engine/lookup.h"

#include "core/base/memory.h"

#include <stdbool.h>
#include <string.h>

enum {
    LOOK_AT = 24,    /* places looked at for one guess */
    LONG_MATCH = 32, /* a match this long is as good as any */
};

int ht_lookup_open(ht_lookup *l, int32_t capacity, ht_error *err)
{
    uint32_t heads = 64;

    while (heads < (uint32_t)capacity) heads *= 2;
    *l = (ht_lookup){.mask = heads - 1, .capacity = capacity};
    l->head = ht_alloc(heads, sizeof(*l->head));
    l->before = ht_alloc((size_t)capacity, sizeof(*l->before));
    if (!l->head || !l->before) {
        ht_lookup_close(l);
        return ht_fail(err, -ENOMEM, "out of memory for the index of %d tokens", capacity);
    }
    ht_lookup_reset(l);
    return 0;
}

void ht_lookup_close(ht_lookup *l)
{
    ht_free(l->head);
    ht_free(l->before);
    *l = (ht_lookup){0};
}

void ht_lookup_reset(ht_lookup *l)
{
    memset(l->head, 0, ((size_t)l->mask + 1) * sizeof(*l->head));
    l->n = HT_LOOKUP_GRAM;
}

static uint32_t hash(const int32_t *gram)
{
    uint32_t h = 0;

    for (int i = 0; i < HT_LOOKUP_GRAM; i++) h = (h ^ (uint32_t)gram[i]) * 0x9e3779b1u;
    return h ^ h >> 15;
}

/* How many tokens before `place` are those before n. */
static int32_t match_at(const int32_t *tokens, int32_t place, int32_t n)
{
    int32_t most = place < LONG_MATCH ? place : LONG_MATCH, i = 0;

    while (i < most && tokens[place - 1 - i] == tokens[n - 1 - i]) i++;
    return i;
}

int32_t ht_lookup_guess(ht_lookup *l, const int32_t *tokens, int32_t n, int32_t most, int32_t *out, int32_t *match)
{
    int32_t best = 0, from = 0;

    *match = 0;
    for (; l->n < n && l->n < l->capacity; l->n++) { /* places with a token at them */
        int32_t *head = &l->head[hash(tokens + l->n - HT_LOOKUP_GRAM) & l->mask];
        l->before[l->n] = *head;
        *head = l->n;
    }
    if (n < HT_LOOKUP_GRAM || most < 1) return 0;
    int32_t place = l->head[hash(tokens + n - HT_LOOKUP_GRAM) & l->mask];
    for (int i = 0; place && i < LOOK_AT && best < LONG_MATCH; i++, place = l->before[place]) {
        int32_t m = match_at(tokens, place, n);
        if (m < HT_LOOKUP_GRAM || m <= best) continue; /* another gram of the same hash, or no better */
        best = m;
        from = place;
    }
    if (!best) return 0;
    *match = best;
    for (int32_t i = 0; i < most; i++) /* what was guessed follows what is there: a short period goes round and round */
        out[i] = from + i < n ? tokens[from + i] : out[from + i - n];
    return most;
}
