/* A job file: where its lines are, which of them this run answers, and what is in a line. Of all lines only places are
 * kept, so that a file may have millions. */
#ifndef HEARTH_CLI_JOBS_H
#define HEARTH_CLI_JOBS_H

#include "cli/hash.h"
#include "cli/request.h"

typedef struct cli_job_line {
    uint64_t at;             /* byte in the file */
    uint32_t bytes;          /* without its line end */
    uint32_t number;         /* line of the file, from 1 on; blank lines count here, and nowhere else */
    uint32_t twin;           /* number of an earlier line with the same custom_id; 0: none */
} cli_job_line;

typedef struct cli_jobs {
    const char *name;        /* borrowed; "stdin" for "-" */
    int fd;                  /* owned; stdin and pipes are first copied into a file without a name */
    bool text;               /* plain prompts, not JSON */
    uint32_t most;           /* longest line that is read */
    uint64_t size;
    int64_t changed_s, changed_ns; /* time stamp of the file, to see when somebody writes to it meanwhile */
    cli_hash hash;           /* of all its bytes */
    cli_job_line *line;      /* [n], owned */
    int64_t n;
    int64_t n_refused;       /* lines that have an error on the face of them */
} cli_jobs;

typedef struct cli_jobs_options {
    const char *path;        /* "-": stdin */
    const char *format;      /* "auto", "jsonl", "text" */
    uint32_t most;           /* bytes of the longest line */
    const cli_request_rules *rules;
} cli_jobs_options;

/* Reads through the whole file. `progress` is called now and then with the bytes read (NULL: not). */
int cli_jobs_open(cli_jobs *out, const cli_jobs_options *options, void (*progress)(uint64_t done, uint64_t size),
                  hearth_error *error);
void cli_jobs_close(cli_jobs *jobs);

/* Lines [*begin, *end) are part `shard` (from 1 on) of `shards`: consecutive, so that the parts' results, one behind the
 * other, are those of the whole. */
void cli_jobs_shard(const cli_jobs *jobs, int64_t shard, int64_t shards, int64_t *begin, int64_t *end);

/* Line i as a request: 1; 0: refused (*why). Both are to be freed by cli_request_free. A negative errno: the file could
 * not be read, or has been changed. `buffer` is the line's and has to live as long as nothing; it is used again. */
int cli_jobs_parse(const cli_jobs *jobs, int64_t i, const cli_request_rules *rules, cli_text *buffer, cli_request *out,
                   cli_refusal *why, hearth_error *error);

#endif
