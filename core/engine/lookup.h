/* Guessing by looking back: where the last tokens stood before, what followed there may follow again (prompt lookup;
 * Saxena 2023, Yang et al. 2023 "LLMA"). An index of n-grams over one sequence's own tokens; it knows no model.
 */
#ifndef HEARTH_CORE_ENGINE_LOOKUP_H
#define HEARTH_CORE_ENGINE_LOOKUP_H

#include "core/base/error.h"

#include <stdint.h>

#define HT_LOOKUP_GRAM 3   /* tokens that must have stood there too */

/* A place is a position with HT_LOOKUP_GRAM tokens before it and one at it. */
typedef struct ht_lookup {
    int32_t *head;         /* [mask + 1], owned: the last place by hash of the tokens before it; 0: none */
    int32_t *before;       /* [capacity], owned: the place before a place with the same hash; 0: none */
    uint32_t mask;
    int32_t capacity;      /* most tokens */
    int32_t n;             /* places before this one are known */
} ht_lookup;

int ht_lookup_open(ht_lookup *l, int32_t capacity, ht_error *err);
void ht_lookup_close(ht_lookup *l);
void ht_lookup_reset(ht_lookup *l);

/* Guesses what follows tokens[0, n): at most `most` tokens into out; returns how many. The sequence may only have grown
 * since the last reset. *match: how many of the last tokens stood alike at the place that was chosen, the longest such
 * of the latest places. */
int32_t ht_lookup_guess(ht_lookup *l, const int32_t *tokens, int32_t n, int32_t most, int32_t *out, int32_t *match);

#endif
