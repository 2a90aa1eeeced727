/* The worth of guesses.
 *
 * Of a guess of k tokens the first i are right with probability q^i, q being known for each length of match. The k with
 * the highest expected gain is taken, and none if there is no gain. Where q is too low for any, one is tried now and
 * then, each time after twice as many chances. Whatever q says, guesses stop while they have lost more than a hundredth
 * of all time: that is the most they can cost.
 */
#include "core/engine/speculate.h"

enum { FIRST_PATIENCE = 8, MOST_PATIENCE = 1024, TRIAL = 2 };
static const double most_loss = 0.01, fade = 0.9, prior_weight = 2;

static int kind_of(int32_t match) { return match < 4 ? 0 : match < 6 ? 1 : match < 10 ? 2 : match < 20 ? 3 : 4; }

static double chance(const ht_speculator *s, int kind)
{
    static const double prior[HT_MATCH_KINDS] = {0.4, 0.5, 0.7, 0.8, 0.9};
    const struct ht_guess_odds *o = &s->odds[kind];

    return (o->right + prior_weight * prior[kind]) / (o->tried + prior_weight);
}

int32_t ht_speculate(ht_speculator *s, const ht_cost *cost, int32_t columns, double worth, int32_t match, int32_t most)
{
    int kind = kind_of(match);
    struct ht_guess_odds *o = &s->odds[kind];
    double alone = ht_cost_of(cost, columns), q = chance(s, kind), expected = 0, p = 1, best_gain = 0;
    int32_t best = 0;

    if (s->mode == HT_SPECULATE_ALWAYS) return most;
    if (s->mode == HT_SPECULATE_NEVER || alone <= 0 || s->balance < -most_loss * s->seconds) return 0;
    for (int32_t k = 1; k <= most; k++) {
        p *= q;
        expected += p;
        double gain = expected * worth - (ht_cost_of(cost, columns + k) - alone);
        if (gain > best_gain) {
            best_gain = gain;
            best = k;
        }
    }
    if (best) return best;
    if (!o->patience) o->patience = FIRST_PATIENCE;
    if (++o->passed < o->patience) return 0;
    return most < TRIAL ? most : TRIAL;
}

void ht_speculate_learn(ht_speculator *s, const ht_cost *cost, int32_t columns, double worth, int32_t match,
                        int32_t guesses, int32_t right)
{
    struct ht_guess_odds *o = &s->odds[kind_of(match)];

    s->balance += right * worth - (ht_cost_of(cost, columns + guesses) - ht_cost_of(cost, columns));
    o->tried = fade * o->tried + right + (right < guesses); /* those behind the first wrong one say nothing */
    o->right = fade * o->right + right;
    o->passed = 0;
    if (right) o->patience = FIRST_PATIENCE;
    else if (o->patience < MOST_PATIENCE) o->patience = o->patience ? 2 * o->patience : FIRST_PATIENCE;
}
