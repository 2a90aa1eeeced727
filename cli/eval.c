/* Windows and sums of hearth eval. */
#include "cli/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- windows -------------------------------------------------------------------------------------------------- */

static void allocate(cli_windows *out, int64_t windows, int64_t tokens)
{
    *out = (cli_windows){0};
    out->window = cli_realloc(NULL, (size_t)windows, sizeof *out->window);
    out->storage = cli_realloc(NULL, (size_t)tokens, sizeof *out->storage);
}

static void push(cli_windows *w, cli_window window)
{
    w->window[w->n++] = window;
    w->scored += window.n - 1 - window.first;
    if (window.n > w->longest) w->longest = window.n;
}

void cli_windows_reference(cli_windows *out, const int32_t *ids, int64_t n, int32_t length, int32_t bos)
{
    int64_t windows = (n + length - 1) / length;
    allocate(out, windows, n + windows);
    int32_t *at = out->storage;
    for (int64_t begin = 0; begin < n; begin += length) {
        int32_t take = n - begin < length ? (int32_t)(n - begin) : length, extra = bos >= 0;
        if (take + extra < 2) break; /* a single token with nothing before it */
        if (extra) at[0] = bos;
        memcpy(at + extra, ids + begin, (size_t)take * sizeof *ids);
        push(out, (cli_window){.tokens = at, .n = take + extra, .first = 0, .text_at = begin + 1 - extra});
        at += take + extra;
    }
}

void cli_windows_llama(cli_windows *out, const int32_t *ids, int64_t n, int32_t length, int32_t bos)
{
    int64_t windows = n / length;
    allocate(out, windows, n);
    if (n) memcpy(out->storage, ids, (size_t)n * sizeof *ids);
    for (int64_t i = 0; i < windows; i++) {
        int32_t *tokens = out->storage + i * length;
        if (bos >= 0) tokens[0] = bos;
        push(out, (cli_window){.tokens = tokens, .n = length, .first = length / 2,
                               .text_at = i * length + 1 - (bos >= 0)});
    }
}

void cli_windows_free(cli_windows *w)
{
    free(w->window);
    free(w->storage);
    *w = (cli_windows){0};
}

/* ---- sums ----------------------------------------------------------------------------------------------------- */

cli_distribution cli_distribution_of(const float *logits, int32_t n)
{
    cli_distribution d = {.top = 0};
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[d.top]) d.top = i;
    double sum = 0, most = logits[d.top];
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - most);
    d.log_sum = most + log(sum);
    return d;
}

double cli_kl(const float *p_logits, const cli_distribution *p, const float *q_logits, const cli_distribution *q,
              int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        double log_p = (double)p_logits[i] - p->log_sum, log_q = (double)q_logits[i] - q->log_sum;
        double prob = exp(log_p);
        if (prob > 0) sum += prob * (log_p - log_q);
    }
    return sum;
}

void cli_mean_add(cli_mean *m, double v)
{
    m->sum += v;
    m->sum2 += v * v;
    m->n++;
}

double cli_mean_value(const cli_mean *m) { return m->n ? m->sum / (double)m->n : 0; }

double cli_mean_error(const cli_mean *m)
{
    if (m->n < 2) return 0;
    double mean = cli_mean_value(m), variance = m->sum2 / (double)m->n - mean * mean;
    return variance > 0 ? sqrt(variance / (double)(m->n - 1)) : 0;
}
