/* hearth bench --kernels: type x level x threads x columns. */
#include "cli/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALL_TYPES "f32,f16,bf16,q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k,q4_k,q5_k,q6_k,iq4_nl,iq4_xs"

enum { MAX_WORDS = CLI_BENCH_LIST, DEFAULT_SIDE = 4096 };
typedef struct words { char text[1024]; char *word[MAX_WORDS]; int n; } words;

static int split(const char *flag, const char *list, words *out)
{
    out->n = 0;
    if (strlen(list) >= sizeof out->text) return cli_usage("bench", "%s: the list is too long", flag);
    strcpy(out->text, list);
    char *save = NULL;
    for (char *w = strtok_r(out->text, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        if (out->n == MAX_WORDS) return cli_usage("bench", "%s: more than %d entries", flag, MAX_WORDS);
        out->word[out->n++] = w;
    }
    return out->n ? -1 : cli_usage("bench", "%s: '%s' is an empty list", flag, list);
}

int cli_bench_numbers(const char *flag, const char *list, int32_t most, int32_t out[MAX_WORDS], int *n)
{
    words from;
    int code = split(flag, list, &from);
    for (int i = 0; i < from.n && code < 0; i++) {
        char *end;
        errno = 0;
        long v = strtol(from.word[i], &end, 10);
        if (end == from.word[i] || *end) return cli_usage("bench", "%s: '%s' is not a number", flag, from.word[i]);
        if (errno || v < 1 || v > most)
            return cli_usage("bench", "%s: %s is out of range (1 to %d)", flag, from.word[i], most);
        out[i] = (int32_t)v;
    }
    *n = from.n;
    return code;
}

typedef struct plan {
    words types, levels;
    int32_t threads[MAX_WORDS], columns[MAX_WORDS];
    int n_threads, n_columns;
} plan;

/* Leaves out the levels above --isa's; others that are none stay, to be named by who looks for them. */
static int leave_levels_out(const char *isa, words *levels)
{
    static const char *const all[] = {"avx512", "avx2", "ref"}; /* from the highest */
    int n = 0;
    for (int i = 0; i < levels->n; i++) {
        bool above = false;
        for (int k = 0; k < 3 && strcmp(all[k], isa) != 0; k++) above |= strcmp(levels->word[i], all[k]) == 0;
        if (!above) levels->word[n++] = levels->word[i];
    }
    levels->n = n;
    return n ? -1 : cli_usage("bench", "--levels: all are above --isa %s", isa);
}

static int make_plan(const cli_bench_options *o, plan *p)
{
    int code = split("--types", o->types ? o->types : ALL_TYPES, &p->types);
    if (code < 0) code = split("--levels", o->levels ? o->levels : "ref,avx2,avx512", &p->levels);
    bool capped = o->engine.isa && (o->engine.given.isa || !o->levels); /* levels that were named outdo the environment */
    if (code < 0 && capped) code = leave_levels_out(o->engine.isa, &p->levels);
    if (code < 0)
        code = cli_bench_numbers("--columns", o->columns ? o->columns : "1,4,64", 4096, p->columns, &p->n_columns);
    if (code >= 0) return code;
    p->n_threads = 2;
    p->threads[0] = 1;
    p->threads[1] = o->engine.threads; /* 0: all */
    if (!o->thread_counts) return -1;
    return cli_bench_numbers("--thread-counts", o->thread_counts, 1024, p->threads, &p->n_threads);
}

static void print_row(const hearth_kernel_bench *k, double read, cJSON *rows)
{
    bool weights = k->columns <= 8;
    if (rows) {
        cJSON *j = cJSON_CreateObject();
        cJSON_AddStringToObject(j, "type", k->type);
        cJSON_AddStringToObject(j, "isa", k->isa);
        cJSON_AddNumberToObject(j, "threads", k->threads);
        cJSON_AddNumberToObject(j, "columns", k->columns);
        cJSON_AddBoolToObject(j, "woven", k->woven);
        cJSON_AddNumberToObject(j, weights ? "bytes_per_second" : "macs_per_second",
                                weights ? k->bytes_per_second : k->macs_per_second);
        if (weights && read > 0) cJSON_AddNumberToObject(j, "share_of_read", k->bytes_per_second / read);
        cJSON_AddItemToArray(rows, j);
        return;
    }
    cli_print("%-8s %-8s %-6s %8d %8d", k->type, k->isa, k->woven ? "woven" : "plain", k->threads, k->columns);
    if (weights) cli_print(" %10.2f GB/s", k->bytes_per_second / 1e9);
    else cli_print(" %10.1f Gmac/s", k->macs_per_second / 1e9);
    if (weights && read > 0) cli_print(" %7.1f%%", 100 * k->bytes_per_second / read);
    cli_print("\n");
    cli_flush();
}

/* All of one number of threads. */
static int measure(const cli_bench_options *o, const plan *p, int32_t threads, cJSON *rows)
{
    double read = hearth_measure_read_bandwidth(threads, 3);
    char text[40];
    if (!o->json) {
        if (threads) cli_print("%d thread%s", threads, threads > 1 ? "s" : "");
        else cli_print("all cores");
        cli_print(": streaming read %s\n", cli_read_text(read, text));
        cli_print("%-8s %-8s %-6s %8s %8s %15s %8s\n", "type", "level", "rows", "threads", "columns", "", "of read");
    }
    for (int t = 0; t < p->types.n; t++)
        for (int l = 0; l < p->levels.n; l++)
            for (int c = 0; c < p->n_columns; c++) {
                hearth_error error = {0};
                hearth_kernel_bench k = {.type = p->types.word[t], .isa = p->levels.word[l], .threads = threads,
                                         .columns = p->columns[c], .rows = o->rows ? o->rows : DEFAULT_SIDE,
                                         .cols = o->cols ? o->cols : DEFAULT_SIDE,
                                         .repeats = o->repeats, .activations = o->engine.act,
                                         .woven = !o->plain};
                int rc = hearth_bench_kernel(&k, &error);
                if (rc == -ENOTSUP) continue; /* not on this machine, or no such kernel */
                if (rc == -EINVAL) return cli_usage("bench", "--types, --levels: %s", error.text);
                if (rc < 0) return cli_fail("bench", "%s at %s: %s", k.type, k.isa, error.text);
                print_row(&k, read, rows);
            }
    return CLI_OK;
}

int cli_bench_kernels(const cli_bench_options *o)
{
    plan p;
    int code = make_plan(o, &p);
    if (code >= 0) return code;
    cJSON *j = o->json ? cJSON_CreateObject() : NULL, *rows = j ? cJSON_AddArrayToObject(j, "kernels") : NULL;
    if (j) cJSON_AddStringToObject(j, "build", hearth_build_info());
    for (int i = 0; i < p.n_threads && code < CLI_FAILED; i++) {
        if (i && !o->json) cli_print("\n");
        code = measure(o, &p, p.threads[i], rows);
    }
    if (j && code == CLI_OK) cli_print_json(j, true);
    else cJSON_Delete(j);
    return code;
}
