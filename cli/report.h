/* What a run achieved, for people and as JSON. */
#ifndef HEARTH_CLI_REPORT_H
#define HEARTH_CLI_REPORT_H

#include "cli/cli.h"

#include <cjson/cJSON.h>

typedef struct cli_timings {
    hearth_stats stats;
    hearth_model_info info;
    double read_bandwidth;   /* measured bytes/s; 0: not measured */
    uint64_t seed;
} cli_timings;

/* Lines on stderr. */
void cli_report_timings(const cli_timings *t);
/* An object; the caller's to delete. */
cJSON *cli_timings_json(const cli_timings *t);

/* On a terminal, how far a long prompt is, till its answer begins. Zero-initialise; it lives as long as the engine. */
typedef struct cli_prefill {
    double started, shown;
    int64_t first, last;     /* tokens done when it was first and last called */
    bool drawn;
} cli_prefill;
void cli_prefill_begin(cli_prefill *p, hearth_engine *engine, bool quiet);
/* Wipes it away; to be called before an answer. */
void cli_prefill_end(cli_prefill *p);

/* What computes: "2 threads, avx512", or the device's name. */
enum { CLI_COMPUTER = 128 };
const char *cli_computer_text(const hearth_model_info *info, char out[CLI_COMPUTER]);
/* "3.75 GB", by powers of ten. */
const char *cli_bytes_text(double bytes, char out[32]);
/* "3.75 GB/s" of a streaming read, or that it was not measured (0). */
const char *cli_read_text(double bytes_per_second, char out[40]);
/* Prints the object on one line of stdout, or indented, and deletes it. */
void cli_print_json(cJSON *object, bool indented);
/* JSON text must be UTF-8: broken bytes become U+FFFD. */
cJSON *cli_json_string(const char *bytes, size_t n);
/* The model, the machine level and the settings, as every JSON result begins. */
cJSON *cli_model_json(const char *path, const hearth_model_info *info);

#endif
