/* The loop that makes text: sample, show, append; until an end token, a stop string, a limit or Ctrl-C. */
#ifndef HEARTH_CLI_GENERATE_H
#define HEARTH_CLI_GENERATE_H

#include "cli/args.h"

/* ---- sampling options ------------------------------------------------------------------------------------------- */

typedef struct cli_sampling_options {
    float temperature, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, repeat_last_n, logprobs, n_predict;
    cli_seed seed;
    cli_list logit_bias, stop;
    bool ignore_eos;
    bool logprobs_given; /* on the command line */
    const char *speculate;
} cli_sampling_options;

#define CLI_SAMPLING_DEFAULTS                                                                                      \
    {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f, .typical = 1, .repeat_penalty = 1, .top_k = 40,           \
     .repeat_last_n = 64, .n_predict = -1, .speculate = "auto"}

extern const cli_option cli_sampling_table[];

hearth_speculation cli_speculation(const cli_sampling_options *options);
/* The options as hearth.h has them; out->logit_bias is the caller's to free. -1: done; otherwise the exit code, and the
 * reason has been said. */
int cli_sampler_options(const char *command, const cli_sampling_options *options, const hearth_vocab *vocab,
                        hearth_sampler_options *out);
/* A share of the probability (--top-p, --typical, a line's) as hearth.h has it: off is 0 there, but who asks for 0 wants
 * the smallest share, one token. */
static inline float cli_share(float p) { return p > 0 ? p : 1e-9f; }
/* A sampler by the options. A random seed is drawn if none was given, and *seed says which. -1: open; otherwise the
 * exit code, and the reason has been said. */
int cli_sampler_open(const char *command, const cli_sampling_options *options, const hearth_engine *engine,
                     hearth_sampler **out, uint64_t *seed);

/* ---- the loop --------------------------------------------------------------------------------------------------- */

typedef struct cli_generation {
    hearth_session *session;         /* borrowed, all; the prompt is in it */
    hearth_sampler *sampler;
    uint64_t seed;                   /* the sampler's */
    const hearth_vocab *vocab;
    const cli_list *stop;
    int32_t context;                 /* most tokens of the session, for messages */
    int32_t limit;                   /* most tokens to make; negative: none */
    bool continues;                  /* the text goes on from a prompt: a blank in front is kept */
    bool ignore_eos;
    bool detail;                     /* keep `sampled` */
    hearth_speculation speculation;
    /* Text as it becomes certain, whole characters only; negative ends the loop with that error. */
    int (*show)(void *user, const char *bytes, size_t n);
    void *user;
    /* Out; freed by cli_generation_free. `ids` does not hold the token that ended the answer. */
    hearth_finish finish;
    int32_t *ids;
    hearth_sampled *sampled;         /* [n] if `detail` */
    int64_t n, room;
    cli_text text;                   /* all that was shown */
    int show_error;                  /* private */
} cli_generation;

/* 0, or a negative errno with its text in `error`. */
int cli_generate(cli_generation *g, hearth_error *error);
void cli_generation_free(cli_generation *g);
const char *cli_finish_name(hearth_finish finish); /* as the OpenAI API calls it */

#endif
