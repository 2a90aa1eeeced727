/* What is said of a batch job: progress while it goes, a summary at its end. */
#include "cli/batch.h"
#include "cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static double rate(int64_t amount, double seconds) { return seconds > 0 ? (double)amount / seconds : 0; }

/* ---- progress ------------------------------------------------------------------------------------------------- */

static const char *time_text(double seconds, char out[32])
{
    long long s = (long long)(seconds + 0.5);
    if (seconds < 10) snprintf(out, 32, "%.1f s", seconds);
    else if (s < 60) snprintf(out, 32, "%lld s", s);
    else if (s < 3600) snprintf(out, 32, "%lld min %02lld s", s / 60, s % 60);
    else snprintf(out, 32, "%lld h %02lld min", s / 3600, s / 60 % 60);
    return out;
}

/* "123 of 1000 lines, 12 s left, 90.1 tok/s (123.4 with prompts), 678 tokens generated": a narrow terminal cuts the end. */
static void progress_text(cli_batch *b, double now, char *out, size_t size)
{
    hearth_batch_counts c;
    char left[32] = "";
    hearth_batch_stats(b->batch, &c);
    double spent = now - b->started;
    int64_t here = b->done - b->done_before;
    if (here > 0) time_text(spent * (double)(b->end - b->done) / (double)here, left);
    snprintf(out, size, "%" PRId64 " of %" PRId64 " lines%s%s%s, %.1f tok/s (%.1f with prompts), %" PRId64 " tokens generated",
             b->done, b->end, left[0] ? ", " : "", left, left[0] ? " left" : "", rate(c.generated_tokens, spent),
             rate(c.generated_tokens + c.prompt_tokens - c.reused_tokens, spent), c.generated_tokens);
}

/* On a terminal a line that is drawn over itself; in a log a line a minute. */
void cli_batch_progress(cli_batch *b, bool last)
{
    enum { BAR = 20 };
    char text[256], bar[BAR + 1];
    double now = cli_now();
    if (b->o->engine.quiet) return;
    if (!cli_is_terminal(2)) {
        if (last || now - b->shown < 60) return;
        progress_text(b, now, text, sizeof text);
        fprintf(stderr, "%s\n", text);
        b->shown = now;
        return;
    }
    if (last) {
        if (b->drawn) fputs("\r\033[K", stderr);
        b->drawn = false;
        return;
    }
    if (now - b->shown < 0.2) return;
    int filled = b->end ? (int)(BAR * b->done / b->end) : BAR;
    for (int i = 0; i < BAR; i++) bar[i] = i < filled ? '#' : ' ';
    bar[BAR] = '\0';
    progress_text(b, now, text, sizeof text);
    int room = cli_width(2) - BAR - 4;
    fprintf(stderr, "\r[%s] %.*s\033[K", bar, room > 0 ? room : 0, text);
    b->shown = now;
    b->drawn = true;
}

/* ---- summary -------------------------------------------------------------------------------------------------- */

static double useful(const hearth_batch_counts *c)
{
    return c->columns ? 1 - (double)c->wasted_columns / (double)c->columns : 1;
}

static void say_summary(const cli_batch *b)
{
    const hearth_batch_counts *c = &b->counts;
    int64_t here = b->done - b->done_before;
    const char *dim = cli_style_code(2, CLI_DIM), *plain = cli_style_code(2, CLI_PLAIN);
    char spent[32];
    fflush(stdout);
    fprintf(stderr, "%slines   %9" PRId64 " of %" PRId64, dim, b->done, b->end);
    if (b->done_before) fprintf(stderr, ", %" PRId64 " of them before", b->done_before);
    fprintf(stderr, "; %" PRId64 " are errors\n", b->errors);
    if (here > 0) {
        fprintf(stderr, "tokens  %9" PRId64 " generated, %" PRId64 " of prompts (%" PRId64 " more reused)\n", c->generated_tokens,
                c->prompt_tokens - c->reused_tokens, c->reused_tokens);
        fprintf(stderr, "speed   %9.1f tok/s generated, %.1f with prompts; %s\n", rate(c->generated_tokens, b->seconds),
                rate(c->generated_tokens + c->prompt_tokens - c->reused_tokens, b->seconds), time_text(b->seconds, spent));
        fprintf(stderr, "passes  %9" PRId64 ", %.1f tokens each; %.1f%% of the work was of use, %.1f%% of %d slots were taken\n",
                c->passes, c->passes ? (double)c->columns / (double)c->passes : 0, 100 * useful(c),
                c->slot_passes ? 100 * (double)c->used_slot_passes / (double)c->slot_passes : 0, b->slots);
    }
    fputs(plain, stderr);
}

static cJSON *summary_json(const cli_batch *b)
{
    const hearth_batch_counts *c = &b->counts;
    const struct { const char *name; double value; } numbers[] = {
        {"lines", (double)b->end}, {"done", (double)b->done}, {"done_before", (double)b->done_before},
        {"errors", (double)b->errors}, {"errors_before", (double)b->errors_before}, {"seconds", b->seconds},
        {"slots", b->slots}, {"passes", (double)c->passes}, {"prompt_tokens", (double)c->prompt_tokens},
        {"reused_tokens", (double)c->reused_tokens}, {"generated_tokens", (double)c->generated_tokens},
        {"computed_tokens", (double)c->columns}, {"wasted_tokens", (double)c->wasted_columns},
        {"drafted_tokens", (double)c->drafted_tokens}, {"accepted_tokens", (double)c->accepted_tokens},
        {"interrupted_requests", (double)c->interrupted}, {"useful_token_share", useful(c)},
        {"used_slot_share", c->slot_passes ? (double)c->used_slot_passes / (double)c->slot_passes : 1},
        {"prefix_reuse_share", c->prompt_tokens ? (double)c->reused_tokens / (double)c->prompt_tokens : 0},
        {"generated_tokens_per_second", rate(c->generated_tokens, b->seconds)},
        {"tokens_per_second", rate(c->generated_tokens + c->prompt_tokens, b->seconds)},
    };
    hearth_stats stats;
    hearth_engine_stats(b->engine, &stats);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddItemToObject(j, "model", cli_model_json(b->o->engine.model, &b->info));
    cJSON_AddBoolToObject(j, "complete", b->done == b->end);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) cJSON_AddNumberToObject(j, numbers[i].name, numbers[i].value);
    cJSON_AddNumberToObject(j, "load_seconds", stats.load_seconds);
    return j;
}

int cli_batch_summary(cli_batch *b, int code)
{
    const char *path = b->o->summary;
    if (!b->o->engine.quiet) say_summary(b);
    if (!path) return code;
    cJSON *j = summary_json(b);
    if (strcmp(path, "-") == 0) {
        cli_print_json(j, true);
        return code;
    }
    char *text = cJSON_Print(j);
    cJSON_Delete(j);
    FILE *file = fopen(path, "we");
    bool failed = !file || !text || fprintf(file, "%s\n", text) < 0;
    int why = errno;
    if (file && fclose(file) != 0) failed = true, why = errno;
    cJSON_free(text);
    if (!failed) return code;
    cli_fail("batch", "--summary: %s: %s", path, strerror(why));
    return code == CLI_OK ? CLI_FAILED : code;
}
