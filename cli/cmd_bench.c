/* hearth bench: how fast a model runs here, against what the memory can deliver; or how fast each kernel is. */
#include "cli/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(cli_bench_options, field)
#define WHOLE(long_name, alias, field, least, most, text)                                                          \
    {.name = long_name, .aliases = alias, .kind = CLI_INT, .value = "N", .at = AT(field), .min = least,            \
     .max = most, .flags = CLI_NO_ENV, .help = text}
static const cli_option bench_table[] = {
    WHOLE("prompt", "p", prompt, 0, 1 << 24, "tokens of the prompt, default 512; 0: no prefill"),
    WHOLE("gen", "n", generate, 0, 1 << 24, "tokens to generate, default 128; 0: no decode"),
    WHOLE("depth", "d", depth, 0, 1 << 24, "tokens in the context before generating, default 1"),
    WHOLE("repetitions", "r", repeats, 1, 1000, "times each is done, default 5"),
    {.name = "parallel", .aliases = "np", .kind = CLI_TEXT, .value = "LIST", .at = AT(parallel), .flags = CLI_NO_ENV,
     .help = "numbers of sequences to decode side by side, separated by commas; default 1"},
    {.name = "json", .kind = CLI_FLAG, .at = AT(json), .help = "one JSON object on stdout"},
    {0}};

static const cli_option kernel_table[] = {
    {.name = "kernels", .kind = CLI_FLAG, .at = AT(kernels), .flags = CLI_NO_ENV,
     .help = "measure the CPU kernels alone: each type at each level and number of threads (needs no model)"},
    {.name = "types", .kind = CLI_TEXT, .value = "LIST", .at = AT(types), .flags = CLI_NO_ENV,
     .help = "types to measure, separated by commas; default: all"},
    {.name = "levels", .kind = CLI_TEXT, .value = "LIST", .at = AT(levels), .flags = CLI_NO_ENV,
     .help = "levels to measure, default ref,avx2,avx512; those the machine lacks are left out"},
    {.name = "thread-counts", .kind = CLI_TEXT, .value = "LIST", .at = AT(thread_counts), .flags = CLI_NO_ENV,
     .help = "numbers of threads to measure, default 1 and all cores"},
    {.name = "columns", .kind = CLI_TEXT, .value = "LIST", .at = AT(columns), .flags = CLI_NO_ENV,
     .help = "numbers of columns to measure, default 1,4,64: up to 8 gives GB/s of weights, more gives multiply-adds"},
    {.name = "plain", .kind = CLI_FLAG, .at = AT(plain), .flags = CLI_NO_ENV,
     .help = "plain rows, as in a mapped file; default: woven into tiles where a level reads such, as they lie in RAM"},
    WHOLE("rows", NULL, rows, 1, 1 << 24, "rows of the matrix, default 4096"),
    WHOLE("cols", NULL, cols, 1, 1 << 24, "columns of the matrix, default 4096"),
    {0}};
#undef AT

static const cli_group groups[] = {
    {"Measurement", bench_table, 0},
    {"Kernels", kernel_table, 0},
    {"Engine", cli_engine_table, offsetof(cli_bench_options, engine)},
    {0}};

/* One measured thing: seconds of each repetition. */
typedef struct series {
    char name[32];
    int32_t tokens, sequences, n;   /* tokens of all sequences */
    double *seconds;        /* [n], sorted once measured */
    uint64_t token_bytes;   /* weights and KV read a token; 0: not what limits it */
    double *shares;         /* of the streaming read beside it, a value a stretch; sorted once measured */
    int n_shares;
} series;

/* The memory of some machines changes its speed within seconds. So decoding is cut into stretches of so many seconds, with
 * a sample of the streaming read between them, and each stretch is compared with the samples before and after it. */
#define STRETCH_SECONDS 0.1
#define SAMPLE_SECONDS 0.03

enum { MAX_SEQUENCES = 256 };
typedef struct bench {
    const cli_bench_options *o;
    hearth_engine *engine;
    hearth_session *sessions[MAX_SEQUENCES];
    int32_t sequences;      /* decoded side by side in what is measured now */
    hearth_model_info info;
    double before, after;   /* streaming read, bytes/s */
    hearth_read_probe *probe;   /* NULL: a device decodes, or there is no memory for it */
    double sampled;         /* by its last sample, bytes/s */
    int32_t *ids;           /* [context]: any tokens will do */
    series series[1 + CLI_BENCH_LIST];
    series *measured;       /* now */
    int n_series;
} bench;

/* ---- measuring ------------------------------------------------------------------------------------------------ */

/* Any ids of the vocabulary, the same each time: x' = x * 1664525 + 1013904223 (Numerical Recipes). */
static void fill_ids(int32_t *ids, int32_t n, int32_t vocab_size)
{
    uint32_t x = 1;
    for (int32_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)(((uint64_t)x * (uint64_t)vocab_size) >> 32);
    }
}

static int prefill_once(bench *b, double *seconds, hearth_error *error)
{
    int rc = hearth_session_truncate(b->sessions[0], 0, error);
    double start = cli_now();
    if (rc >= 0) rc = hearth_session_sync(b->sessions[0], b->ids, b->o->prompt, error);
    *seconds = cli_now() - start;
    return rc;
}

typedef struct stretch { double seconds; int32_t tokens; } stretch;

/* The streaming read by itself, bytes/s; 0: there is no probe. */
static double read_speed(bench *b)
{
    double rates[5];
    int n = sizeof rates / sizeof *rates;
    if (!b->probe) return 0;
    for (int i = 0; i < n; i++) rates[i] = hearth_read_probe_sample(b->probe, UINT64_MAX);
    return cli_median(rates, n);
}

static void sample(bench *b)
{
    double guess = b->sampled > 0 ? b->sampled : 10e9;
    b->sampled = hearth_read_probe_sample(b->probe, (uint64_t)(guess * SAMPLE_SECONDS));
}

/* Adds the share that a stretch had of the streaming read around it. */
static void compare(bench *b, const stretch *part)
{
    series *s = b->measured;
    double before = b->sampled;
    sample(b);
    s->shares = cli_realloc(s->shares, (size_t)s->n_shares + 1, sizeof *s->shares);
    s->shares[s->n_shares++] = (double)s->token_bytes * part->tokens / part->seconds / ((before + b->sampled) / 2);
}

static int decode_once(bench *b, double *seconds, hearth_error *error)
{
    int32_t depth = b->o->depth, tokens[MAX_SEQUENCES];
    int rc = 0;
    for (int32_t s = 0; s < b->sequences && rc >= 0; s++) /* what of it is there from the last time stays */
        rc = hearth_session_sync(b->sessions[s], b->ids, depth, error);
    stretch part = {0};
    bool compared = b->probe && b->measured->token_bytes;
    *seconds = 0;
    if (compared) sample(b);
    for (int32_t i = 0; i < b->o->generate && rc >= 0; i++) {
        for (int32_t s = 0; s < b->sequences; s++) tokens[s] = b->ids[depth + i];
        double start = cli_now();
        rc = hearth_decode_step(b->sessions, tokens, b->sequences, error);
        part.seconds += cli_now() - start;
        part.tokens++;
        if (part.seconds < STRETCH_SECONDS && i + 1 < b->o->generate) continue;
        if (compared) compare(b, &part);
        *seconds += part.seconds;
        part = (stretch){0};
    }
    return rc;
}

static int measure(bench *b, const char *what, int32_t tokens, int32_t sequences, uint64_t token_bytes,
                   int (*once)(bench *, double *, hearth_error *), hearth_error *error)
{
    series *s = &b->series[b->n_series++];
    double warm_up;
    *s = (series){.tokens = tokens * sequences, .sequences = sequences, .token_bytes = token_bytes, .n = b->o->repeats};
    b->sequences = sequences;
    b->measured = s;
    if (sequences > 1) snprintf(s->name, sizeof s->name, "%s%" PRId32 " x %" PRId32, what, tokens, sequences);
    else snprintf(s->name, sizeof s->name, "%s%" PRId32, what, tokens);
    s->seconds = cli_realloc(NULL, (size_t)s->n, sizeof *s->seconds);
    bool bar = !b->o->engine.quiet && cli_is_terminal(2);
    int rc = once(b, &warm_up, error);
    s->n_shares = 0;
    for (int i = 0; i < s->n && rc >= 0; i++) {
        if (bar) fprintf(stderr, "\r%s %d/%d ", s->name, i + 1, s->n);
        rc = once(b, &s->seconds[i], error);
    }
    if (bar) fputs("\r\033[K", stderr);
    qsort(s->seconds, (size_t)s->n, sizeof *s->seconds, cli_compare_doubles);
    if (s->n_shares) qsort(s->shares, (size_t)s->n_shares, sizeof *s->shares, cli_compare_doubles);
    return rc;
}

static int measure_all(bench *b, const int32_t *sequences, int n, hearth_error *error)
{
    const cli_bench_options *o = b->o;
    /* A device reads its own memory: this machine's says nothing about it. */
    if (!b->info.device) hearth_read_probe_open(&b->probe, b->info.threads, NULL);
    b->before = read_speed(b);
    int rc = 0;
    if (o->prompt) rc = measure(b, "prefill ", o->prompt, 1, 0, prefill_once, error);
    /* Only one sequence alone is limited by the memory. Its context is on average half of what it generates longer. */
    uint64_t read = b->info.token_bytes + b->info.kv_token_bytes * (uint64_t)(o->depth + o->generate / 2);
    for (int i = 0; i < n && o->generate && rc >= 0; i++)
        rc = measure(b, "decode ", o->generate, sequences[i], sequences[i] == 1 ? read : 0, decode_once, error);
    b->after = read_speed(b);
    hearth_read_probe_close(&b->probe);
    return rc;
}

/* ---- results -------------------------------------------------------------------------------------------------- */

static double tokens_per_second(const series *s, double quantile)
{
    double seconds = cli_quantile(s->seconds, s->n, quantile);
    return seconds > 0 ? s->tokens / seconds : 0;
}

static void print_table(const bench *b)
{
    char weights[32], token[32], before[40], after[40], who[CLI_COMPUTER];
    cli_print("%s, %.3g billion parameters, %s of weights, %s a token\n", b->info.name ? b->info.name : b->o->engine.model,
              (double)b->info.n_parameters / 1e9, cli_bytes_text((double)b->info.weight_bytes, weights),
              cli_bytes_text((double)b->info.token_bytes, token));
    cli_print("%s, activations %s", cli_computer_text(&b->info, who), b->o->engine.act);
    if (!b->info.device)
        cli_print("; streaming read %s before, %s after", cli_read_text(b->before, before),
                  cli_read_text(b->after, after));
    cli_print("\n\n");
    cli_print("%-16s %10s %10s %10s %10s %8s\n", "", "tok/s", "slowest", "fastest", "GB/s", "of read");
    for (int i = 0; i < b->n_series; i++) {
        const series *s = &b->series[i];
        cli_print("%-16s %10.2f %10.2f %10.2f", s->name, tokens_per_second(s, 0.5), tokens_per_second(s, 1),
                  tokens_per_second(s, 0));
        double bytes = tokens_per_second(s, 0.5) * (double)s->token_bytes;
        if (s->token_bytes) cli_print(" %10.2f", bytes / 1e9);
        if (s->n_shares) cli_print(" %7.1f%%", 100 * cli_quantile(s->shares, s->n_shares, 0.5));
        cli_print("\n");
    }
    cli_print("\nMedian of %d; GB/s and share count weights and KV; the share is of reads in between.\n", b->o->repeats);
}

static void print_json(const bench *b)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "build", hearth_build_info());
    cJSON_AddItemToObject(j, "model", cli_model_json(b->o->engine.model, &b->info));
    cJSON_AddStringToObject(j, "activations", b->o->engine.act);
    if (b->before > 0) cJSON_AddNumberToObject(j, "read_bytes_per_second_before", b->before);
    if (b->after > 0) cJSON_AddNumberToObject(j, "read_bytes_per_second_after", b->after);
    cJSON *results = cJSON_AddArrayToObject(j, "results");
    for (int i = 0; i < b->n_series; i++) {
        const series *s = &b->series[i];
        cJSON *r = cJSON_CreateObject();
        cJSON_AddItemToArray(results, r);
        cJSON_AddStringToObject(r, "name", s->name);
        cJSON_AddNumberToObject(r, "tokens", s->tokens);
        cJSON_AddNumberToObject(r, "sequences", s->sequences);
        if (s->name[0] == 'd') cJSON_AddNumberToObject(r, "depth", b->o->depth);
        cJSON_AddNumberToObject(r, "tokens_per_second", tokens_per_second(s, 0.5));
        cJSON_AddNumberToObject(r, "slowest", tokens_per_second(s, 1));
        cJSON_AddNumberToObject(r, "fastest", tokens_per_second(s, 0));
        if (s->token_bytes) {
            double bytes = tokens_per_second(s, 0.5) * (double)s->token_bytes;
            cJSON_AddNumberToObject(r, "bytes_per_second", bytes);
            if (s->n_shares) cJSON_AddNumberToObject(r, "share_of_read", cli_quantile(s->shares, s->n_shares, 0.5));
        }
        cJSON_AddItemToObject(r, "seconds", cJSON_CreateDoubleArray(s->seconds, s->n));
    }
    cli_print_json(j, true);
}

/* ---- the command ---------------------------------------------------------------------------------------------- */

static int bench_model(const cli_bench_options *options)
{
    cli_bench_options o = *options;
    int32_t sequences[CLI_BENCH_LIST], most = 1;
    int n_sequences;
    int64_t need = (int64_t)o.depth + o.generate > o.prompt ? (int64_t)o.depth + o.generate : o.prompt;
    if (o.prompt == 0 && o.generate == 0) return cli_usage("bench", "-p 0 and -n 0 leave nothing to measure");
    if (o.engine.context && o.engine.context < need)
        return cli_usage("bench", "-c, --ctx-size: %d is too small for %" PRId64 " tokens", o.engine.context, need);
    if (need > 1 << 24) return cli_usage("bench", "%" PRId64 " tokens are too many", need);
    if (!o.engine.context) o.engine.context = (int32_t)need;
    bench b = {.o = &o};
    hearth_error error = {0};
    int code = cli_bench_numbers("--parallel", o.parallel ? o.parallel : "1", MAX_SEQUENCES, sequences, &n_sequences);
    if (code >= 0) return code;
    for (int i = 0; i < n_sequences; i++)
        if (sequences[i] > most) most = sequences[i];
    code = cli_engine_open_many("bench", &o.engine, most, 0, &b.engine, &b.info);
    if (code >= 0) return code;
    b.ids = cli_realloc(NULL, (size_t)need, sizeof *b.ids);
    fill_ids(b.ids, (int32_t)need, b.info.n_vocab);
    int rc = 0;
    for (int32_t i = 0; i < most && rc >= 0; i++)
        rc = hearth_session_open(&b.sessions[i], b.engine, &(hearth_session_options){.id = (uint64_t)i}, &error);
    if (rc >= 0) rc = measure_all(&b, sequences, n_sequences, &error);
    if (rc < 0) code = cli_fail("bench", "%s", error.text);
    else if (o.json) print_json(&b), code = CLI_OK;
    else print_table(&b), code = CLI_OK;
    for (int i = 0; i < b.n_series; i++) free(b.series[i].seconds), free(b.series[i].shares);
    free(b.ids);
    for (int32_t i = 0; i < most; i++) hearth_session_close(&b.sessions[i]);
    hearth_engine_close(&b.engine);
    return code;
}

/* What says how kernels are measured says nothing about a model, nor the other way round. */
static int check_usage(const cli_bench_options *o)
{
    const cli_engine_given *e = &o->engine.given;
    const struct { bool given, of_kernels; const char *flag; } only[] = {
        {o->prompt >= 0, false, "-p, --prompt"}, {o->generate >= 0, false, "-n, --gen"}, {o->depth >= 0, false, "-d, --depth"},
        {o->parallel, false, "-np, --parallel"}, {e->model, false, "-m, --model"}, {e->context, false, "-c, --ctx-size"},
        {e->batch, false, "-b, --batch-size"}, {e->microbatch, false, "-ub, --ubatch-size"},
        {e->k_type, false, "-ctk, --cache-type-k"}, {e->v_type, false, "-ctv, --cache-type-v"}, {e->load, false, "--load"},
        {e->device, false, "--device"}, {e->gpu_layers, false, "-ngl, --gpu-layers"}, {e->vram, false, "--vram"},
        {o->types, true, "--types"}, {o->levels, true, "--levels"},
        {o->thread_counts, true, "--thread-counts"}, {o->columns, true, "--columns"}, {o->plain, true, "--plain"},
        {o->rows, true, "--rows"}, {o->cols, true, "--cols"}};
    for (size_t i = 0; i < sizeof only / sizeof *only; i++)
        if (only[i].given && only[i].of_kernels != o->kernels)
            return cli_usage("bench", only[i].of_kernels ? "%s: only with --kernels" : "%s: not with --kernels", only[i].flag);
    if (e->threads && o->thread_counts) return cli_usage("bench", "-t, --threads and --thread-counts exclude each other");
    return -1;
}

static int run(int argc, char **argv)
{
    cli_bench_options o = {.engine = CLI_ENGINE_DEFAULTS, .prompt = -1, .generate = -1, .depth = -1, .repeats = 5};
    int code = cli_parse(&cli_command_bench, argc, argv, &o);
    if (code < 0) code = check_usage(&o);
    if (code >= 0) return code;
    if (o.kernels) return cli_bench_kernels(&o);
    if (o.prompt < 0) o.prompt = 512;
    if (o.generate < 0) o.generate = 128;
    if (o.depth < 1) o.depth = 1; /* something has to be there to go on from */
    return bench_model(&o);
}

const cli_command cli_command_bench = {
    .name = "bench", .usage = "-m MODEL [-p N] [-n N] [options] | --kernels [options]",
    .summary = "measure prefill and decode, or single kernels",
    .description = "Decoding reads every weight once a token, so its limit is the memory: the plain streaming read of "
                   "this machine, which is measured before, after and in between, with the same threads. Each measurement is "
                   "repeated after a warm-up; the median and the slowest and fastest repetition are shown.",
    .groups = groups, .run = run,
};
