/* Result lines: what an answer looks like in OpenAI's batch format. All of a line follows from the job and the answer:
 * there is no time and no chance in it. */
#ifndef HEARTH_CLI_RESULTS_H
#define HEARTH_CLI_RESULTS_H

#include "cli/hash.h"
#include "cli/request.h"

/* One answer to one prompt. */
typedef struct cli_answer {
    cli_text text;             /* owned */
    hearth_sampled *sampled;   /* [n], owned: with log-probabilities only */
    int32_t n, room;
    int32_t n_tokens;          /* generated, an end token included */
    hearth_finish finish;
    bool continues;            /* the text goes on from its prompt: a blank in front is part of it */
} cli_answer;

/* What all lines of a job have in common. Borrowed. */
typedef struct cli_result_names {
    const hearth_vocab *vocab;
    const char *model;         /* the name it goes by */
    const char *fingerprint;   /* "fp_...": model and settings */
    cli_hash job;              /* of the job file */
} cli_result_names;

typedef struct cli_result {
    const char *custom_id;     /* NULL: not known */
    int64_t index;             /* of the line among the job's lines; its ids are made of it */
    uint32_t number;           /* of the line in the file */
    bool chat, logprobs;
    int64_t prompt_tokens;
    const cli_answer *answers; /* [n] */
    int n;
} cli_result;

/* Both append a line with its end. */
void cli_result_answered(cli_text *out, const cli_result_names *names, const cli_result *result);
void cli_result_refused(cli_text *out, const cli_result_names *names, const cli_result *result, const cli_refusal *why);

/* A JSON string in its quotes; what is not UTF-8 becomes U+FFFD. */
void cli_json_text(cli_text *out, const char *bytes, size_t n);

#endif
