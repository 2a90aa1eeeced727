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

/* What computes: "2 threads, avx512", or the device's name. */
enum { CLI_COMPUTER = 128 };
const char *cli_computer_text(const hearth_model_info *info, char out[CLI_COMPUTER]);
/* "3.75 GB", by powers of ten. */
const char *cli_bytes_text(double bytes, char out[32]);
/* Prints the object on one line of stdout, or indented, and deletes it. */
void cli_print_json(cJSON *object, bool indented);
/* JSON text must be UTF-8: broken bytes become U+FFFD. */
cJSON *cli_json_string(const char *bytes, size_t n);
/* The model, the machine level and the settings, as every JSON result begins. */
cJSON *cli_model_json(const char *path, const hearth_model_info *info);

#endif
