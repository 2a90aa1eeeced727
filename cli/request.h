/* One line of a job file as a request: what is in it, checked. Knows no file and no engine.
 *
 * A field that would change the answer and that we cannot honour is refused, never passed over: what a line asks for is
 * what its result is.
 */
#ifndef HEARTH_CLI_REQUEST_H
#define HEARTH_CLI_REQUEST_H

#include "cli/cli.h"

#include <cjson/cJSON.h>

enum { CLI_MAX_CHOICES = 128, CLI_MAX_STOPS = 64 };

/* Why a line has no answer. */
typedef struct cli_refusal {
    int status;      /* 0: the line is no request; otherwise the HTTP status that a server would give */
    char code[32];   /* "invalid_json", ...; "": none */
    char param[64];  /* the field it is about; "": none */
    char text[384];
} cli_refusal;

/* What the command says about all lines. All borrowed. */
typedef struct cli_request_rules {
    bool text, chat;            /* lines are plain prompts; and each is a message of a chat */
    bool escape;                /* in plain prompts \n is a line end, and so on */
    const char *system;         /* system message of such a chat; NULL: none */
    const char *const *models;  /* names that `model` may have; NULL: any */
    int n_models;
    int32_t n_vocab;            /* 0: not known */
    /* What lines may override. */
    hearth_sampler_options sampler;
    int32_t max_tokens;         /* 0: till the context is full */
    bool ignore_end, logprobs;
    bool no_penalties;          /* they look back at no token, a line's own as well */
    const char *const *stop;
    int n_stop;
} cli_request_rules;

/* Text, or token ids if `ids`. */
typedef struct cli_prompt {
    const char *text;           /* borrowed from the request, NUL-terminated */
    int32_t *ids;               /* [n], owned */
    int64_t n;
} cli_prompt;

typedef struct cli_request {
    const char *custom_id;      /* NULL: not known, or a plain prompt */
    bool chat;
    hearth_message *messages;   /* chat */
    int n_messages;
    cli_prompt *prompts;        /* otherwise */
    int n_prompts;
    int32_t n;                  /* answers for each prompt */
    int32_t max_tokens;
    bool ignore_end, logprobs;
    bool seeded;                /* the line has a seed: sampler.seed */
    hearth_sampler_options sampler;
    const char **stop;
    int n_stop;
    struct hearth_logit_bias *bias;  /* owned; sampler.logit_bias may point here */
    cJSON *json;                /* owned; all borrowed strings are in it */
} cli_request;

/* 0, or -1: refused, and *why says so; custom_id is then set if it could be read. Either way it is freed by
 * cli_request_free. `line` has no line end and is changed. */
int cli_request_parse(cli_request *out, const cli_request_rules *rules, char *line, size_t n, cli_refusal *why);
void cli_request_free(cli_request *request);

/* Fills in a refusal; -1. */
int cli_refuse(cli_refusal *why, int status, const char *code, const char *param, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
