/* Timings and JSON helpers. */
#include "cli/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *cli_bytes_text(double bytes, char out[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : bytes < 9.995 ? "%.2f %s" : bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes,
             units[unit]);
    return out;
}

const char *cli_read_text(double bytes_per_second, char out[40])
{
    char bytes[32];
    if (bytes_per_second <= 0) return "not measured";
    snprintf(out, 40, "%s/s", cli_bytes_text(bytes_per_second, bytes));
    return out;
}

const char *cli_computer_text(const hearth_model_info *info, char out[CLI_COMPUTER])
{
    if (info->device && info->gpu_layers < info->n_layers)
        snprintf(out, CLI_COMPUTER, "%d of %d layers on %s, the others on %d threads, %s", info->gpu_layers, info->n_layers,
                 info->device, info->threads, info->isa);
    else if (info->device) snprintf(out, CLI_COMPUTER, "%s", info->device);
    else snprintf(out, CLI_COMPUTER, "%d threads, %s", info->threads, info->isa);
    return out;
}

static double rate(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

void cli_report_timings(const cli_timings *t)
{
    const hearth_stats *s = &t->stats;
    char a[32], b[32];
    const char *dim = cli_style_code(2, CLI_DIM), *plain = cli_style_code(2, CLI_PLAIN);
    fflush(stdout);
    fprintf(stderr, "%sload    %9.2f s   %s, %s/s\n", dim, s->load_seconds,
            cli_bytes_text((double)s->load_bytes, a), cli_bytes_text(rate((double)s->load_bytes, s->load_seconds), b));
    fprintf(stderr, "prefill %9.2f s   %" PRId64 " tokens, %.1f tok/s", s->prompt_seconds, s->prompt_tokens,
            rate((double)s->prompt_tokens, s->prompt_seconds));
    if (s->reused_tokens) fprintf(stderr, ", %" PRId64 " more reused", s->reused_tokens);
    /* A guess that was right needed no pass of its own. */
    double read = rate((double)(s->decode_tokens - s->accepted_tokens), s->decode_seconds) * (double)t->info.token_bytes;
    fprintf(stderr, "\ndecode  %9.2f s   %" PRId64 " tokens, %.1f tok/s, %s/s", s->decode_seconds, s->decode_tokens,
            rate((double)s->decode_tokens, s->decode_seconds), cli_bytes_text(read, a));
    if (t->read_bandwidth > 0)
        fprintf(stderr, ": %.0f%% of the %s/s this machine reads",
                100 * read / t->read_bandwidth,
                cli_bytes_text(t->read_bandwidth, b));
    if (s->drafted_tokens)
        fprintf(stderr, "\nguessed %9" PRId64 " tokens, %" PRId64 " of them right", s->drafted_tokens, s->accepted_tokens);
    char who[CLI_COMPUTER];
    fprintf(stderr, "\nwith    %s, seed %" PRIu64 ", logits %016" PRIx64 "%s\n", cli_computer_text(&t->info, who), t->seed,
            s->logits_hash, plain);
}

static void show_prefill(void *user, int64_t done, int64_t total)
{
    cli_prefill *p = user;
    double now = cli_now(), spent = now - p->started;
    if (done <= p->last || p->last == 0) { /* another prompt */
        p->started = now;
        p->first = done;
        spent = 0;
    }
    p->last = done;
    if (p->drawn && now - p->shown < 0.2) return;
    fprintf(stderr, "\rprompt: %" PRId64 " of %" PRId64 " tokens", done, total);
    if (spent > 1) fprintf(stderr, ", %.0f s left", spent * (double)(total - done) / (double)(done - p->first));
    fputs("\033[K", stderr);
    p->shown = now;
    p->drawn = true;
}

void cli_prefill_begin(cli_prefill *p, hearth_engine *engine, bool quiet)
{
    if (!quiet && cli_is_terminal(2)) hearth_engine_on_prompt(engine, show_prefill, p);
}

void cli_prefill_end(cli_prefill *p)
{
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
    p->last = 0;
}

cJSON *cli_timings_json(const cli_timings *t)
{
    const hearth_stats *s = &t->stats;
    char hash[32];
    snprintf(hash, sizeof hash, "%016" PRIx64, s->logits_hash);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "load_seconds", s->load_seconds);
    cJSON_AddNumberToObject(j, "load_bytes", (double)s->load_bytes);
    cJSON_AddNumberToObject(j, "prompt_tokens", (double)s->prompt_tokens);
    cJSON_AddNumberToObject(j, "reused_tokens", (double)s->reused_tokens);
    cJSON_AddNumberToObject(j, "prompt_seconds", s->prompt_seconds);
    cJSON_AddNumberToObject(j, "decode_tokens", (double)s->decode_tokens);
    cJSON_AddNumberToObject(j, "decode_seconds", s->decode_seconds);
    cJSON_AddNumberToObject(j, "decode_bytes_per_second",
                            rate((double)(s->decode_tokens - s->accepted_tokens), s->decode_seconds) *
                                (double)t->info.token_bytes);
    cJSON_AddNumberToObject(j, "drafted_tokens", (double)s->drafted_tokens);
    cJSON_AddNumberToObject(j, "accepted_tokens", (double)s->accepted_tokens);
    if (t->read_bandwidth > 0) cJSON_AddNumberToObject(j, "read_bytes_per_second", t->read_bandwidth);
    cJSON_AddStringToObject(j, "logits_hash", hash);
    return j;
}

void cli_print_json(cJSON *object, bool indented)
{
    char *text = indented ? cJSON_Print(object) : cJSON_PrintUnformatted(object);
    if (text) cli_print("%s\n", text);
    else cli_fail(NULL, "out of memory for the JSON text");
    cJSON_free(text);
    cJSON_Delete(object);
}

cJSON *cli_json_string(const char *bytes, size_t n)
{
    cli_text text = {0};
    cli_text_add(&text, "", 0);
    for (size_t i = 0; i < n;) {
        size_t length = cli_character(bytes + i, n - i);
        if (length && bytes[i]) cli_text_add(&text, bytes + i, length);
        else cli_text_add(&text, "\xef\xbf\xbd", 3); /* cJSON strings end at a NUL too */
        i += length ? length : 1;
    }
    cJSON *j = cJSON_CreateString(text.data);
    cli_text_free(&text);
    return j;
}

cJSON *cli_model_json(const char *path, const hearth_model_info *info)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddItemToObject(j, "file", cli_json_string(path, strlen(path)));
    if (info->name) cJSON_AddItemToObject(j, "name", cli_json_string(info->name, strlen(info->name)));
    if (info->architecture) cJSON_AddStringToObject(j, "architecture", info->architecture);
    cJSON_AddNumberToObject(j, "parameters", (double)info->n_parameters);
    cJSON_AddNumberToObject(j, "weight_bytes", (double)info->weight_bytes);
    cJSON_AddNumberToObject(j, "token_bytes", (double)info->token_bytes);
    cJSON_AddNumberToObject(j, "kv_token_bytes", (double)info->kv_token_bytes);
    cJSON_AddStringToObject(j, "k_type", info->k_type);
    cJSON_AddStringToObject(j, "v_type", info->v_type);
    cJSON_AddStringToObject(j, "isa", info->isa);
    cJSON_AddNumberToObject(j, "threads", info->threads);
    if (info->device) {
        cJSON_AddItemToObject(j, "device", cli_json_string(info->device, strlen(info->device)));
        cJSON_AddNumberToObject(j, "gpu_layers", info->gpu_layers);
    }
    return j;
}
