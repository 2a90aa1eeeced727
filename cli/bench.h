/* The two halves of hearth bench: whole models (cmd_bench.c) and single kernels (bench_kernels.c). */
#ifndef HEARTH_CLI_BENCH_H
#define HEARTH_CLI_BENCH_H

#include "cli/options.h"
#include "cli/report.h"

typedef struct cli_bench_options {
    cli_engine_options engine;
    int32_t prompt, generate, depth, repeats, rows, cols;
    bool json, kernels;
    const char *types, *levels, *thread_counts, *columns; /* lists with commas; NULL: default */
} cli_bench_options;

int cli_bench_kernels(const cli_bench_options *options); /* the exit code */

#endif
