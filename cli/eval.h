/* What hearth eval is made of: how a text is cut into windows, and what is summed over its tokens. No engine here. */
#ifndef HEARTH_CLI_EVAL_H
#define HEARTH_CLI_EVAL_H

#include "cli/cli.h"

/* ---- windows ---------------------------------------------------------------------------------------------------- */

/* Window i is tokens[0, n), computed from an empty context; logits of positions [first, n - 1) are scored, each
 * against the token that follows. `text_at` is the place of tokens[1] in the whole text. */
typedef struct cli_window {
    int32_t *tokens;     /* the windows' own */
    int32_t n, first;
    int64_t text_at;
} cli_window;

typedef struct cli_windows {
    cli_window *window;  /* [n], owned */
    int32_t *storage;
    int64_t n;
    int64_t scored;      /* tokens in all */
    int32_t longest;
} cli_windows;

/* reference: consecutive windows of `length` tokens, the last one shorter, each with BOS (if the vocabulary has one:
 * bos >= 0) in front; every token is scored that has one before it.
 * llama: consecutive windows of `length` tokens, a shorter rest is dropped; the first token is replaced by BOS; tokens
 * from length / 2 + 1 on are scored (llama.cpp's perplexity). `ids` begins with BOS then. */
void cli_windows_reference(cli_windows *out, const int32_t *ids, int64_t n, int32_t length, int32_t bos);
void cli_windows_llama(cli_windows *out, const int32_t *ids, int64_t n, int32_t length, int32_t bos);
void cli_windows_free(cli_windows *windows);

/* ---- sums ------------------------------------------------------------------------------------------------------- */

typedef struct cli_distribution {
    double log_sum;      /* log of the sum of exp(logit): logprob(i) = logit[i] - log_sum */
    int32_t top;         /* the likeliest id */
} cli_distribution;
cli_distribution cli_distribution_of(const float *logits, int32_t n);
/* Sum over i of p(i) (log p(i) - log q(i)), in nats. */
double cli_kl(const float *p_logits, const cli_distribution *p, const float *q_logits, const cli_distribution *q,
              int32_t n);

/* Mean and its standard error. */
typedef struct cli_mean { double sum, sum2; int64_t n; } cli_mean;
void cli_mean_add(cli_mean *m, double v);
double cli_mean_value(const cli_mean *m);
double cli_mean_error(const cli_mean *m);

#endif
