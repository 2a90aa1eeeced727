/* Parses and checks the lines of job files: the envelope, and which fields there are. What the fields mean is in
 * request_fields.c. */
#include "cli/request_fields.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A JSON value takes 64 bytes, however short it was: this bounds what a line of "[0,0,0,..." can make of itself. */
enum { MAX_VALUES = 1 << 20 };

int cli_refuse(cli_refusal *why, int status, const char *code, const char *param, const char *format, ...)
{
    va_list args;
    *why = (cli_refusal){.status = status};
    snprintf(why->code, sizeof why->code, "%s", code ? code : "");
    snprintf(why->param, sizeof why->param, "%s", param ? param : "");
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    return -1;
}

/* ---- bytes ---------------------------------------------------------------------------------------------------- */

static int check_text(const char *line, size_t n, cli_refusal *why)
{
    for (size_t i = 0; i < n;) {
        size_t length = cli_character(line + i, n - i);
        if (length == 0) return cli_refuse(why, 0, "invalid_utf8", NULL, "byte %zu is not UTF-8", i + 1);
        if (line[i] == '\0') return cli_refuse(why, 0, "invalid_text", NULL, "byte %zu is zero", i + 1);
        i += length;
    }
    return 0;
}

/* What cJSON would not tell: \u0000 ends its strings early, and many short values take much memory. */
static int check_json(const char *line, size_t n, cli_refusal *why)
{
    bool in_string = false;
    size_t values = 0;
    for (size_t i = 0; i < n; i++) {
        char c = line[i];
        if (c == '"') in_string = !in_string;
        else if (!in_string) values += c == ',' || c == '[' || c == '{' || c == ':';
        else if (c == '\\') {
            if (n - i >= 6 && memcmp(line + i + 1, "u0000", 5) == 0)
                return cli_refuse(why, 0, "invalid_text", NULL, "byte %zu: a text may not hold a zero character", i + 1);
            i++;
        }
    }
    if (values > MAX_VALUES) return cli_refuse(why, 0, "line_too_long", NULL, "%zu values, at most %d", values, MAX_VALUES);
    return 0;
}

static int parse_json(cJSON **out, const char *line, size_t n, cli_refusal *why)
{
    const char *end = line;
    *out = cJSON_ParseWithLengthOpts(line, n, &end, false);
    size_t at = (size_t)(end - line);
    while (*out && at < n && strchr(" \t\r\n", line[at])) at++;
    if (!*out || at < n) return cli_refuse(why, 0, "invalid_json", NULL, "byte %zu: no valid JSON", at + 1);
    if (!cJSON_IsObject(*out)) return cli_refuse(why, 0, "invalid_json", NULL, "not an object");
    return 0;
}

/* ---- the envelope --------------------------------------------------------------------------------------------- */

static int parse_line(cli_request *r, const cli_request_rules *rules, const char *line, size_t n, cli_refusal *why)
{
    if (check_json(line, n, why) < 0 || parse_json(&r->json, line, n, why) < 0) return -1;
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(r->json, "custom_id"),
                *method = cJSON_GetObjectItemCaseSensitive(r->json, "method"),
                *url = cJSON_GetObjectItemCaseSensitive(r->json, "url"),
                *body = cJSON_GetObjectItemCaseSensitive(r->json, "body");
    if (!id) return cli_refuse(why, 0, "missing_custom_id", "custom_id", "there is no custom_id");
    if (!cJSON_IsString(id) || !id->valuestring[0])
        return cli_refuse(why, 0, "invalid_custom_id", "custom_id", "custom_id is no text, or an empty one");
    r->custom_id = id->valuestring;
    if (method && (!cJSON_IsString(method) || strcmp(method->valuestring, "POST") != 0))
        return cli_refuse(why, 0, "invalid_method", "method", "method is not POST");
    if (!cJSON_IsString(url)) return cli_refuse(why, 0, "invalid_url", "url", "there is no url");
    r->chat = strcmp(url->valuestring, "/v1/chat/completions") == 0;
    if (!r->chat && strcmp(url->valuestring, "/v1/completions") != 0)
        return cli_refuse(why, 0, "invalid_url", "url", "url '%.100s' is neither /v1/chat/completions nor /v1/completions",
                          url->valuestring);
    if (!cJSON_IsObject(body)) return cli_refuse(why, 0, "missing_body", "body", "there is no body, or it is no object");
    return cli_request_take_body(r, rules, body, why);
}

static int parse_text(cli_request *r, const cli_request_rules *rules, char *line, size_t n, cli_refusal *why)
{
    cli_text text = {.data = line, .size = n};
    line[n] = '\0';
    if (rules->escape) cli_unescape(&text);
    if (strlen(line) < text.size) return cli_refuse(why, 0, "invalid_text", NULL, "byte %zu is zero", strlen(line) + 1);
    r->json = cJSON_CreateString(line);
    if (!r->json) cli_realloc(NULL, SIZE_MAX, 1); /* says that memory is out */
    r->chat = rules->chat;
    if (!r->chat) {
        r->prompts = memset(cli_realloc(NULL, 1, sizeof *r->prompts), 0, sizeof *r->prompts);
        r->prompts[r->n_prompts++].text = r->json->valuestring;
        return 0;
    }
    r->messages = cli_realloc(NULL, 2, sizeof *r->messages);
    if (rules->system) r->messages[r->n_messages++] = (hearth_message){"system", rules->system};
    r->messages[r->n_messages++] = (hearth_message){"user", r->json->valuestring};
    return 0;
}

int cli_request_parse(cli_request *out, const cli_request_rules *rules, char *line, size_t n, cli_refusal *why)
{
    *out = (cli_request){.n = 1, .max_tokens = rules->max_tokens, .ignore_end = rules->ignore_end,
                         .logprobs = rules->logprobs, .sampler = rules->sampler, .n_stop = rules->n_stop};
    out->stop = cli_realloc(NULL, CLI_MAX_STOPS, sizeof *out->stop);
    if (out->n_stop > CLI_MAX_STOPS) out->n_stop = CLI_MAX_STOPS;
    for (int i = 0; i < out->n_stop; i++) out->stop[i] = rules->stop[i];
    if (check_text(line, n, why) < 0) return -1;
    int rc = rules->text ? parse_text(out, rules, line, n, why) : parse_line(out, rules, line, n, why);
    if (rules->no_penalties) out->sampler.repeat_penalty = out->sampler.frequency_penalty = out->sampler.presence_penalty = 0;
    return rc;
}

void cli_request_free(cli_request *r)
{
    for (int i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids);
    free(r->prompts);
    free(r->messages);
    free(r->stop);
    free(r->bias);
    cJSON_Delete(r->json);
    *r = (cli_request){0};
}
