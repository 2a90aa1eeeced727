/* hearth batch: answers the lines of a job file. Options, and everything that is opened; the loop is in batch_run.c. */
#include "cli/batch.h"
#include "cli/model_files.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define AT(field) offsetof(cli_batch_options, field)
static const cli_option job_table[] = {
    {.name = "input", .aliases = "i", .kind = CLI_TEXT, .value = "FILE", .at = AT(input), .flags = CLI_NO_ENV | CLI_FILE_VALUE,
     .help = "the job file: a request a line in OpenAI's batch format, or a prompt a line; - is stdin"},
    {.name = "output", .aliases = "o", .kind = CLI_TEXT, .value = "FILE", .at = AT(output), .flags = CLI_NO_ENV | CLI_FILE_VALUE,
     .help = "the results, a line for each of the job's and in its order; - is stdout. Beside a file there will be a "
     "FILE.journal, by which the same command goes on after whatever ended it"},
    {.name = "restart", .kind = CLI_FLAG, .at = AT(restart), .flags = CLI_NO_ENV,
     .help = "begin anew, and give up what the output and its journal hold"},
    {.name = "limit", .kind = CLI_U64, .value = "N", .at = AT(limit), .flags = CLI_NO_ENV,
     .help = "only the first N lines; without it the same command answers the rest later; 0: all (default)"},
    {.name = "shard", .kind = CLI_TEXT, .value = "I/N", .at = AT(shard), .flags = CLI_NO_ENV,
     .help = "only part I, from 1 on, of N parts of consecutive lines; the outputs of all parts, one behind the other, are "
     "that of the whole"},
    {.name = "check", .kind = CLI_FLAG, .at = AT(check), .flags = CLI_NO_ENV,
     .help = "only say which lines are in error; without a model, what can be said without one"},
    {.name = "summary", .kind = CLI_TEXT, .value = "FILE", .at = AT(summary), .flags = CLI_NO_ENV | CLI_FILE_VALUE,
     .help = "write what was done, and how fast, as a JSON object; - is stdout"},
    {.name = "format", .kind = CLI_CHOICE, .value = "KIND", .at = AT(format), .choices = "auto|jsonl|text",
     .help = "what the job file holds; auto: jsonl if its first line begins with a brace, else text (default)"},
    {.name = "max-line", .kind = CLI_INT, .value = "BYTES", .at = AT(max_line), .min = 1, .max = 1 << 30,
     .help = "longest line that is taken, default 8388608 (8 MiB); a longer one is an error of that line"},
    {.name = "alias", .aliases = "a", .kind = CLI_LIST, .value = "NAME", .at = AT(aliases), .flags = CLI_NO_ENV,
     .help = "a name that the model goes by in the job file, beside its own and its file's; may be given several times. The "
     "first one is the name in the results"},
    {.name = "any-model", .kind = CLI_FLAG, .at = AT(any_model), .help = "whatever model a line names, this one answers"},
    {0}};

static const cli_option text_table[] = {
    {.name = "chat", .aliases = "cnv", .kind = CLI_FLAG, .at = AT(chat), .flags = CLI_NO_ENV,
     .help = "plain prompts are messages of a chat, each put into the model's template"},
    {.name = "system-prompt", .aliases = "sys", .kind = CLI_TEXT, .value = "TEXT", .at = AT(system), .flags = CLI_NO_ENV,
     .help = "system message of these chats"},
    {.name = "chat-template", .kind = CLI_CHOICE, .value = "NAME", .at = AT(chat_template), .choices = CLI_CHAT_FORMATS,
     .help = "the format of chats, instead of the model's own; for chat requests of all kinds. Plain prompts become "
     "chats"},
    {.name = "escape", .aliases = "e", .kind = CLI_FLAG, .at = AT(escape), .flags = CLI_NO_ENV,
     .help = "in plain prompts, turn \\n, \\t, \\\" and the like into the characters they stand for"},
    {0}};

static const cli_option batch_table[] = {
    {.name = "parallel", .aliases = "np", .kind = CLI_INT, .value = "N", .at = AT(parallel), .min = 1, .max = 4096,
     .help = "requests that are answered side by side, default 16"},
    {.name = "kv-tokens", .kind = CLI_INT, .value = "N", .at = AT(kv_tokens), .min = 0, .max = INT32_MAX,
     .help = "room of the KV cache in tokens, for all requests together; 0: -np times -c (default)"},
    {0}};
#undef AT

static const cli_group groups[] = {
    {"Job", job_table, 0},
    {"Plain prompts", text_table, 0},
    {"Batch", batch_table, 0},
    {"Sampling (what a line does not say itself; the default seed is 0)", cli_sampling_table, offsetof(cli_batch_options, sampling)},
    {"Engine", cli_engine_table, offsetof(cli_batch_options, engine)},
    {0}};

/* ---- the job -------------------------------------------------------------------------------------------------- */

/* "I/N"; false: it is none. */
static bool parse_shard(const char *text, int64_t *shard, int64_t *shards)
{
    char *end;
    errno = 0;
    *shard = strtoll(text, &end, 10);
    if (end == text || *end != '/') return false;
    const char *second = end + 1;
    *shards = strtoll(second, &end, 10);
    return end != second && !*end && !errno && *shard >= 1 && *shard <= *shards && *shards <= INT32_MAX;
}

/* What is behind the last slash of a path, but for slashes at its end: a folder is the same with them. Freed by the
 * caller. */
static char *base_name(const char *path)
{
    size_t end = strlen(path), begin;
    while (end && path[end - 1] == '/') end--;
    for (begin = end; begin && path[begin - 1] != '/';) begin--;
    char *name = memcpy(cli_realloc(NULL, end - begin + 1, 1), path + begin, end - begin);
    name[end - begin] = '\0';
    return name;
}

/* Those given, the one in the file, the file's with and without ".gguf". */
void cli_batch_names(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    b->base = base_name(o->engine.model ? o->engine.model : "");
    size_t n = strlen(b->base), stem = n > 5 && strcmp(b->base + n - 5, ".gguf") == 0 ? n - 5 : n;
    b->names = cli_realloc(NULL, (size_t)o->aliases.n + 3, sizeof *b->names);
    b->stem = memcpy(cli_realloc(NULL, n + 1, 1), b->base, n + 1);
    b->stem[stem] = '\0';
    for (int i = 0; i < o->aliases.n; i++) b->names[b->n_names++] = o->aliases.item[i];
    if (*b->base) b->names[b->n_names++] = b->stem;
    if (b->info.name && b->info.name[0]) b->names[b->n_names++] = b->info.name;
    if (*b->base) b->names[b->n_names++] = b->base;
    b->rules.models = o->any_model ? NULL : b->names;
    b->rules.n_models = b->n_names;
}

static void make_rules(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    b->rules.chat = o->chat || o->system || o->chat_template;
    b->rules.escape = o->escape;
    b->rules.system = o->system;
    b->rules.max_tokens = o->sampling.n_predict > 0 ? o->sampling.n_predict : 0;
    b->rules.ignore_end = o->sampling.ignore_eos;
    b->rules.logprobs = o->sampling.logprobs > 0;
    b->rules.no_penalties = o->sampling.repeat_last_n == 0;
    b->rules.stop = o->sampling.stop.item;
    b->rules.n_stop = o->sampling.stop.n;
}

/* Requests say themselves what these say of plain prompts. */
static int check_plain_options(const cli_batch *b)
{
    const cli_batch_options *o = b->o;
    const char *flag = o->chat ? "-cnv, --chat" : o->system ? "-sys, --system-prompt" : o->escape ? "-e, --escape" : NULL;
    if (!flag || b->jobs.text || b->jobs.n == 0) return -1;
    return cli_usage("batch", "%s: only for plain prompts, and %s holds requests in JSON (--format text takes its lines for "
                     "prompts)", flag, b->jobs.name);
}

static void show_reading(uint64_t done, uint64_t size)
{
    if (cli_is_terminal(2) && size > 64 << 20)
        fprintf(stderr, done < size ? "\rreading the job file: %.0f%%\033[K" : "\r\033[K", 100.0 * (double)done / (double)size);
}

/* The lines of the job, and which of them are ours. */
static int open_jobs(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    hearth_error error = {0};
    cli_jobs_options options = {.path = o->input, .format = o->format, .most = (uint32_t)o->max_line, .rules = &b->rules};
    if (cli_jobs_open(&b->jobs, &options, o->engine.quiet ? NULL : show_reading, &error) < 0)
        return cli_fail("batch", "%s", error.text);
    b->rules.text = b->jobs.text;
    int code = check_plain_options(b);
    if (code >= 0) return code;
    int64_t end;
    cli_jobs_shard(&b->jobs, b->shard, b->shards, &b->first, &end);
    b->lines = b->end = end - b->first;
    if (o->limit && o->limit < (uint64_t)b->end) b->end = (int64_t)o->limit;
    if (b->jobs.n == 0) cli_note("%s has no lines", b->jobs.name);
    if (b->jobs.n_refused && !o->check && !o->engine.quiet)
        cli_note("%lld of %lld lines are in error, and will not be answered: --check lists them", (long long)b->jobs.n_refused,
                 (long long)b->jobs.n);
    return -1;
}

/* ---- the engine ----------------------------------------------------------------------------------------------- */

static int open_engine(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    int code = cli_engine_open_many("batch", &o->engine, o->parallel, o->kv_tokens, &b->engine, &b->info);
    if (code >= 0) return code;
    if (o->kv_tokens && o->kv_tokens < b->info.n_context)
        return cli_usage("batch", "--kv-tokens: %d is less than one context of %d tokens (-c)", o->kv_tokens, b->info.n_context);
    b->vocab = hearth_engine_vocab(b->engine);
    b->slots = o->parallel;
    b->speculation = cli_speculation(&o->sampling);
    b->rules.n_vocab = b->info.n_vocab;
    for (int pass = 0; pass < 2; pass++) {
        b->n_ends = 0;
        for (int32_t id = 0; id < b->info.n_vocab; id++)
            if (hearth_vocab_is_end(b->vocab, id) && pass) b->ends[b->n_ends++] = id;
            else b->n_ends += hearth_vocab_is_end(b->vocab, id);
        if (!pass) b->ends = cli_realloc(NULL, (size_t)b->n_ends, sizeof *b->ends);
    }
    cli_sampling_options sampling = o->sampling;
    sampling.ignore_eos = false; /* it is each line's */
    return cli_sampler_options("batch", &sampling, b->vocab, &b->rules.sampler);
}

static int go(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    hearth_error error = {0};
    int code = open_engine(b);
    if (code >= 0) return code;
    cli_batch_names(b);
    int rc = cli_batch_bind(b, &error);
    if (rc == 0) rc = cli_journal_begin(b->journal, b->binding.data, o->restart, &error);
    if (rc < 0) return cli_fail("batch", "%s", error.text);
    b->results = (cli_result_names){.vocab = b->vocab, .model = b->names[0], .fingerprint = b->fingerprint, .job = b->jobs.hash};
    int64_t there = cli_journal_released(b->journal); /* of a run with a higher --limit */
    if (b->end < there) b->end = there;
    b->done = b->done_before = cli_journal_count(b->journal, b->end, &b->errors);
    b->errors_before = b->errors;
    if (cli_journal_dropped(b->journal))
        cli_note("the journal's last %llu bytes were torn; the lines they were about are answered again",
                 (unsigned long long)cli_journal_dropped(b->journal));
    if (b->done_before && !o->engine.quiet)
        cli_note("going on: %lld of %lld lines are done", (long long)b->done_before, (long long)b->end);
    code = cli_batch_run(b);
    return cli_batch_summary(b, code < 0 ? CLI_OK : code);
}

/* ---- the command ---------------------------------------------------------------------------------------------- */

/* The name at a path's end, and the folder that it is in. */
static const char *split_path(const char *path, struct stat *folder, bool *found)
{
    const char *slash = strrchr(path, '/');
    cli_text text = {0};
    cli_text_add(&text, slash ? path : ".", slash ? (size_t)(slash - path) + 1 : 1);
    *found = stat(text.data, folder) == 0;
    cli_text_free(&text);
    return slash ? slash + 1 : path;
}

/* Of files that need not be there yet: one name in one folder. */
static bool is_same_place(const char *one, const char *other)
{
    struct stat a, b;
    bool a_found, b_found;
    const char *name = split_path(one, &a, &a_found), *other_name = split_path(other, &b, &b_found);
    return a_found && b_found && a.st_ino == b.st_ino && a.st_dev == b.st_dev && strcmp(name, other_name) == 0;
}

/* Other names of stdout. By such a name it would have a journal in /dev, and be written from its beginning by each who
 * opens it. */
static const char *name_of_output(const char *path)
{
    static const char *const others[] = {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"};
    for (size_t i = 0; path && i < sizeof others / sizeof *others; i++)
        if (strcmp(path, others[i]) == 0) return "-";
    return path;
}

/* -1: writing this file overwrites nothing that the job needs. */
static int check_written(const cli_batch_options *o, const char *flag, const char *path)
{
    const char *model = o->engine.model;
    const char *what = cli_is_same_file(o->input, path)                                                     ? "the job file"
                       : cli_is_model_file(model, path) || (model && path && is_same_place(model, path)) ? "a file of the model"
                                                                                                            : NULL;
    return what ? cli_usage("batch", "%s: %s is %s", flag, path, what) : -1;
}

/* The summary, the output and the files beside it, of cli/journal.h: none of them may be read, or written as something
 * else. */
static int check_files(const cli_batch_options *o)
{
    static const char *const ends[] = {"", ".journal", ".journal.new"};
    int code = check_written(o, "--summary", o->summary);
    if (!o->output || strcmp(o->output, "-") == 0) return code;
    for (size_t i = 0; i < sizeof ends / sizeof *ends && code < 0; i++) {
        cli_text name = {0};
        cli_text_add(&name, o->output, strlen(o->output));
        cli_text_add(&name, ends[i], strlen(ends[i]));
        code = check_written(o, "-o, --output", name.data);
        if (code < 0 && o->summary && strcmp(o->summary, "-") != 0 &&
            (cli_is_same_file(o->summary, name.data) || is_same_place(o->summary, name.data)))
            code = cli_usage("batch", "--summary: %s is the file for %s", o->summary, i ? "the journal" : "the results");
        cli_text_free(&name);
    }
    return code;
}

static int check_usage(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    if (!o->input) return cli_usage("batch", "-i, --input: no job file given");
    if (!o->check && !o->output) return cli_usage("batch", "-o, --output: no file for the results given");
    if (!o->check && !o->engine.model) return cli_usage("batch", "-m, --model: no model given");
    if (o->shard && !parse_shard(o->shard, &b->shard, &b->shards))
        return cli_usage("batch", "--shard: '%s' is not I/N with 1 <= I <= N", o->shard);
    if (o->sampling.n_predict == 0) return cli_usage("batch", "-n, --n-predict: 0 is no answer");
    if (o->summary && o->output && strcmp(o->summary, "-") == 0 && strcmp(o->output, "-") == 0)
        return cli_usage("batch", "--summary: stdout has the results already");
    for (int i = 0; i < o->sampling.stop.n; i++)
        if (!o->sampling.stop.item[i][0]) return cli_usage("batch", "-r, --stop: '' is an empty text");
    if (o->sampling.stop.n > CLI_MAX_STOPS) return cli_usage("batch", "-r, --stop: more than %d", CLI_MAX_STOPS);
    return check_files(o);
}

static int run_job(cli_batch *b)
{
    hearth_error error = {0};
    int code = check_usage(b);
    if (code >= 0) return code;
    make_rules(b);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write, not our end */
    code = open_jobs(b);
    if (code >= 0) return code;
    if (b->o->check) return cli_batch_check(b);
    if (cli_journal_open(&b->journal, b->o->output, b->lines, &error) < 0) return cli_fail("batch", "%s", error.text);
    return go(b);
}

static int run(int argc, char **argv)
{
    cli_batch_options o = {.engine = CLI_ENGINE_DEFAULTS, .sampling = CLI_SAMPLING_DEFAULTS, .format = "auto",
                           .max_line = 8 << 20, .parallel = 16};
    int code = cli_parse(&cli_command_batch, argc, argv, &o);
    cli_batch b = {.o = &o, .shard = 1, .shards = 1, .jobs = {.fd = -1}};
    o.output = name_of_output(o.output);
    o.summary = name_of_output(o.summary);
    if (code < 0) code = run_job(&b);
    cli_journal_close(&b.journal);
    hearth_engine_close(&b.engine);
    cli_jobs_close(&b.jobs);
    cli_text_free(&b.binding);
    cli_text_free(&b.line);
    cli_text_free(&b.result);
    free((void *)b.rules.sampler.logit_bias);
    free(b.ends);
    free(b.names);
    free(b.base);
    free(b.stem);
    free(o.aliases.item);
    free(o.sampling.logit_bias.item);
    free(o.sampling.stop.item);
    return code;
}

const cli_command cli_command_batch = {
    .name = "batch", .usage = "-m MODEL -i JOBS -o RESULTS [options]", .summary = "answer the requests of a job file",
    .description =
        "A job file has a request a line in OpenAI's batch format ({\"custom_id\": ..., \"url\": \"/v1/chat/completions\" or "
        "\"/v1/completions\", \"body\": {...}}), or a prompt a line. Each gets a line of results, in the same order. A line "
        "that cannot be answered gets its error there, and the job goes on.\n\n"
        "Whatever ends it (Ctrl-C, SIGTERM, a full disk, kill -9, a power cut): the same command goes on where it was, and the "
        "results are byte for byte what they would have been. A job that has changed since is refused before anything is "
        "lost.\n\n"
        "docs/batch.md has the fields that lines may have, and examples for Slurm and GNU parallel.",
    .groups = groups, .run = run,
};
