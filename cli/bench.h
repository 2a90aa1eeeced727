/* The two halves of hearth bench: whole models (cmd_bench.c) and single kernels (bench_kernels.c). */
#ifndef HEARTH_CLI_BENCH_H
#define HEARTH_CLI_BENCH_H

#include "cli/options.h"
#include "cli/report.h"

typedef struct cli_bench_options {
    cli_engine_options engine;
    int32_t prompt, generate, depth; /* -1: not given */
    int32_t repeats;
    int32_t rows, cols; /* 0: default */
    bool json, kernels, plain;
    const char *types, *levels, *thread_counts, *columns, *parallel; /* lists with commas; NULL: default */
} cli_bench_options;

enum { CLI_BENCH_LIST = 64 };
/* The numbers of a list, each in [1, most]. -1: read; otherwise the exit code, and the reason has been said. */
int cli_bench_numbers(const char *flag, const char *list, int32_t most, int32_t out[CLI_BENCH_LIST], int *n);

int cli_bench_kernels(const cli_bench_options *options); /* the exit code */

#endif
