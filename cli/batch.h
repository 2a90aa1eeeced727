/* The parts of hearth batch: options and opening (cmd_batch.c), what a job is bound to (batch_binding.c), the loop
 * (batch_run.c), what is said of it (batch_report.c), and --check (batch_check.c). */
#ifndef HEARTH_CLI_BATCH_H
#define HEARTH_CLI_BATCH_H

#include "cli/generate.h"
#include "cli/jobs.h"
#include "cli/journal.h"
#include "cli/options.h"
#include "cli/results.h"

typedef struct cli_batch_options {
    cli_engine_options engine;
    cli_sampling_options sampling;
    const char *input, *output, *format, *shard, *summary, *system, *chat_template;
    int32_t parallel, kv_tokens, max_line;
    uint64_t limit;
    cli_list aliases;
    bool any_model, chat, escape, restart, check;
} cli_batch_options;

typedef struct cli_batch {
    const cli_batch_options *o;
    cli_jobs jobs;
    int64_t shard, shards;
    int64_t first, lines, end;   /* of the job's lines these are ours: [first, first + lines); this run goes to [.., first + end) */
    cli_journal *journal;
    hearth_engine *engine;
    hearth_model_info info;
    const hearth_vocab *vocab;   /* the engine's */
    hearth_batch *batch;
    int32_t slots;
    hearth_speculation speculation;
    const char **names;          /* [n_names], owned: those the model answers to, the first one in results */
    int n_names;
    char *base, *stem;           /* name of the model's file, and without .gguf; owned */
    cli_request_rules rules;
    int32_t *ends;               /* [n_ends], owned: tokens that end an answer */
    int n_ends;
    cli_text binding;
    char fingerprint[24];
    cli_result_names results;

    /* Of the run. */
    int64_t next;                /* line to look at next, from 0 to `end` */
    int64_t in_flight, in_flight_tokens; /* requests and their prompts' tokens in the engine */
    int64_t done, errors;        /* lines up to `end` that have a result, and those of them that are errors */
    int64_t done_before, errors_before;
    int64_t n_cut, n_ended, ended_tokens; /* answers that went to their limit, and that ended by themselves */
    struct cli_batch_work *works; /* lines in work; owned */
    cli_text line, result;       /* scratch */
    int failed;                  /* negative errno, from within an event */
    hearth_error error;
    double started, shown, seconds;
    hearth_batch_counts counts;  /* at the end */
    bool drawn;                  /* a bar is on the terminal */
} cli_batch;

/* Lines "name=value" of all that decides what results are. 0 or a negative errno. */
int cli_batch_bind(cli_batch *b, hearth_error *error);

/* The names that lines may use for the model, from its file and its info. */
void cli_batch_names(cli_batch *b);
/* Every prompt of the request as ids that fit into a context. 0, or -1: refused. */
int cli_batch_encode(cli_batch *b, cli_request *r, cli_refusal *why);
/* The exit code. */
int cli_batch_check(cli_batch *b);

/* Answers all lines that have no result yet. -1: done; otherwise the exit code, and the reason has been said. */
int cli_batch_run(cli_batch *b);

void cli_batch_progress(cli_batch *b, bool last);
/* Lines on stderr, and the JSON object of --summary; the exit code made CLI_FAILED if that cannot be written. */
int cli_batch_summary(cli_batch *b, int code);

#endif
