/* How many guessed tokens are worth computing: from how often guesses were right, and what columns cost. It decides
 * about time alone; that a guess is kept only where the sampler draws the same is the business of who computes it.
 */
#ifndef HEARTH_CORE_ENGINE_SPECULATE_H
#define HEARTH_CORE_ENGINE_SPECULATE_H

#include "core/engine/cost.h"

#include <stdbool.h>
#include <stdint.h>

/* The numbers are those of hearth_speculation. */
typedef enum ht_speculation { HT_SPECULATE_AUTO, HT_SPECULATE_NEVER, HT_SPECULATE_ALWAYS } ht_speculation;

#define HT_MATCH_KINDS 5 /* lengths of matches that are told apart */

typedef struct ht_speculator {
    ht_speculation mode;
    struct ht_guess_odds {
        double tried, right;   /* guesses and right ones, older ones counting less; 0, 0: only what one would expect */
        int32_t passed, patience; /* chances passed by since the last try, and how many to pass by before the next */
    } odds[HT_MATCH_KINDS];
    double seconds;            /* spent in passes */
    double balance;            /* seconds won by guesses, less those lost */
} ht_speculator;

/* How many guesses (0..most) to add to a pass of `columns` columns, when `match` tokens speak for them. A token that need
 * not be computed later is worth `worth` seconds. */
int32_t ht_speculate(ht_speculator *s, const ht_cost *cost, int32_t columns, double worth, int32_t match, int32_t most);
/* What came of it: `right` of `guesses` were kept. */
void ht_speculate_learn(ht_speculator *s, const ht_cost *cost, int32_t columns, double worth, int32_t match,
                        int32_t guesses, int32_t right);

#endif
