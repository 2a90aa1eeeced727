/* What every backend checks before it believes a step. */
#include "core/ports/ops.h"

int ht_step_check(const ht_ops_limits *l, const ht_step *step, ht_error *err)
{
    if (step->n < 0 || step->n > l->columns)
        return ht_fail(err, -EINVAL, "a step of %d columns; this backend was opened for %d", step->n, l->columns);
    if (step->n_sequences < 0 || step->n_sequences > l->sequences)
        return ht_fail(err, -EINVAL, "a step of %d sequences; this backend was opened for %d", step->n_sequences,
                       l->sequences);
    for (int32_t i = 0; i < step->n_sequences; i++)
        if (step->length[i] < 0 || step->length[i] > l->context)
            return ht_fail(err, -EINVAL, "a sequence of %d tokens; this backend was opened for %d", step->length[i],
                           l->context);
    for (int32_t c = 0; c < step->n; c++) {
        int32_t s = step->sequence[c];
        if (s < 0 || s >= step->n_sequences) return ht_fail(err, -EINVAL, "column %d is of no sequence (%d)", c, s);
        if (step->position[c] < 0 || step->position[c] >= step->length[s])
            return ht_fail(err, -EINVAL, "column %d is at position %d of a sequence of %d tokens", c, step->position[c],
                           step->length[s]);
        if (step->token[c] < 0 || step->token[c] >= l->shape.n_vocab)
            return ht_fail(err, -EINVAL, "token %d in column %d; the vocabulary has %d", step->token[c], c,
                           l->shape.n_vocab);
    }
    return 0;
}
