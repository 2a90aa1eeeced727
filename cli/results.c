/* Writes result lines, member by member: the order of members, and every digit, are part of the format. */
#include "cli/results.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(cli_text *out, const char *text) { cli_text_add(out, text, strlen(text)); }

static void add_format(cli_text *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_format(cli_text *out, const char *format, ...)
{
    char text[256]; /* numbers and names of ours */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cli_text_add(out, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

void cli_json_text(cli_text *out, const char *bytes, size_t n)
{
    add(out, "\"");
    for (size_t i = 0; i < n;) {
        size_t length = cli_character(bytes + i, n - i);
        unsigned char c = (unsigned char)bytes[i];
        if (length == 0) add(out, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\') cli_text_add(out, (char[]){'\\', (char)c}, 2);
        else if (c == '\n') add(out, "\\n");
        else if (c == '\t') add(out, "\\t");
        else if (c == '\r') add(out, "\\r");
        else if (c < 0x20 || c == 0x7f) add_format(out, "\\u%04x", c);
        else cli_text_add(out, bytes + i, length);
        i += length ? length : 1;
    }
    add(out, "\"");
}

static void add_string(cli_text *out, const char *text)
{
    if (text) cli_json_text(out, text, strlen(text));
    else add(out, "null");
}

/* ---- log-probabilities ---------------------------------------------------------------------------------------- */

static void add_logprob(cli_text *out, float logprob)
{
    if (isfinite(logprob)) add_format(out, "%.9g", (double)logprob);
    else add(out, "-9999.0"); /* OpenAI's for minus infinity */
}

static void add_token(cli_text *out, const hearth_vocab *vocab, int32_t id, float logprob)
{
    char buffer[CLI_TOKEN_BYTES];
    size_t n;
    const char *piece = cli_token_bytes(vocab, id, buffer, &n);
    add(out, "{\"token\":");
    cli_json_text(out, piece, n);
    add(out, ",\"logprob\":");
    add_logprob(out, logprob);
    add(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) add_format(out, i ? ",%d" : "%d", (unsigned char)piece[i]);
    add(out, "]");
}

/* What token i adds to an answer's text: one that does not continue its prompt begins without the blank of its first
 * token. */
static const char *text_of(const cli_answer *a, int32_t i, const hearth_vocab *vocab, char buffer[CLI_TOKEN_BYTES], size_t *n)
{
    int32_t id = a->sampled[i].id;
    const char *piece = cli_token_bytes(vocab, id, buffer, n);
    size_t shown = i == 0 && !a->continues ? (size_t)hearth_decode(vocab, &id, 1, true, NULL, 0) : *n;
    if (shown >= *n) return piece;
    piece += *n - shown;
    *n = shown;
    return piece;
}

/* How many of an answer's tokens are in its text: neither the one that ended it, nor those of a stop string. */
static int32_t shown_tokens(const cli_answer *a, const hearth_vocab *vocab)
{
    if (a->finish == HEARTH_FINISH_END) return a->n ? a->n - 1 : 0;
    if (a->finish != HEARTH_FINISH_STOP) return a->n;
    size_t at = 0;
    for (int32_t i = 0; i < a->n; i++) {
        char buffer[CLI_TOKEN_BYTES];
        size_t n;
        if (at >= a->text.size) return i;
        text_of(a, i, vocab, buffer, &n);
        at += n;
    }
    return a->n;
}

static void add_chat_logprobs(cli_text *out, const cli_answer *a, const hearth_vocab *vocab)
{
    int32_t n = shown_tokens(a, vocab);
    add(out, "{\"content\":[");
    for (int32_t i = 0; i < n; i++) {
        const hearth_sampled *s = &a->sampled[i];
        if (i) add(out, ",");
        add_token(out, vocab, s->id, s->logprob);
        add(out, ",\"top_logprobs\":[");
        for (int k = 0; k < s->n_top; k++) {
            if (k) add(out, ",");
            add_token(out, vocab, s->top[k].id, s->top[k].logprob);
            add(out, "}");
        }
        add(out, "]}");
    }
    add(out, "],\"refusal\":null}");
}

static void add_pieces(cli_text *out, const cli_answer *a, int32_t n, const hearth_vocab *vocab)
{
    for (int32_t i = 0; i < n; i++) {
        char buffer[CLI_TOKEN_BYTES];
        size_t bytes;
        const char *piece = cli_token_bytes(vocab, a->sampled[i].id, buffer, &bytes);
        if (i) add(out, ",");
        cli_json_text(out, piece, bytes);
    }
}

/* Tokens that look alike (halves of characters) share a name; the likelier one has it. */
static void add_top_map(cli_text *out, const hearth_sampled *s, const hearth_vocab *vocab)
{
    cli_text names[20] = {0};
    add(out, "{");
    for (int k = 0; k < s->n_top && k < 20; k++) {
        char buffer[CLI_TOKEN_BYTES];
        size_t bytes;
        const char *piece = cli_token_bytes(vocab, s->top[k].id, buffer, &bytes);
        cli_json_text(&names[k], piece, bytes);
        bool twice = false;
        for (int i = 0; i < k; i++) twice |= strcmp(names[i].data, names[k].data) == 0;
        if (twice) continue;
        if (k) add(out, ",");
        add(out, names[k].data);
        add(out, ":");
        add_logprob(out, s->top[k].logprob);
    }
    for (int k = 0; k < 20; k++) cli_text_free(&names[k]);
    add(out, "}");
}

static void add_plain_logprobs(cli_text *out, const cli_answer *a, const hearth_vocab *vocab)
{
    int32_t n = shown_tokens(a, vocab);
    add(out, "{\"tokens\":[");
    add_pieces(out, a, n, vocab);
    add(out, "],\"token_logprobs\":[");
    for (int32_t i = 0; i < n; i++) {
        if (i) add(out, ",");
        add_logprob(out, a->sampled[i].logprob);
    }
    add(out, "],\"top_logprobs\":[");
    for (int32_t i = 0; i < n; i++) {
        if (i) add(out, ",");
        add_top_map(out, &a->sampled[i], vocab);
    }
    add(out, "],\"text_offset\":[");
    size_t characters = 0;
    for (int32_t i = 0; i < n; i++) {
        char buffer[CLI_TOKEN_BYTES];
        size_t bytes;
        const char *piece = text_of(a, i, vocab, buffer, &bytes);
        add_format(out, i ? ",%zu" : "%zu", characters);
        for (size_t b = 0; b < bytes; b++) characters += ((unsigned char)piece[b] & 0xc0) != 0x80;
    }
    add(out, "]}");
}

/* ---- lines ---------------------------------------------------------------------------------------------------- */

static const char *line_id(const cli_result_names *names, int64_t index, char out[CLI_HASH_TEXT])
{
    uint64_t number = (uint64_t)index;
    return cli_hash_text(cli_hash_more(names->job, &number, sizeof number), out);
}

static void begin_line(cli_text *out, const cli_result *r, const char *id)
{
    add_format(out, "{\"id\":\"batch_req_%s\",\"custom_id\":", id);
    add_string(out, r->custom_id);
    add(out, ",\"response\":");
}

static void add_choice(cli_text *out, const cli_result *r, int index, const hearth_vocab *vocab)
{
    const cli_answer *a = &r->answers[index];
    if (r->chat) {
        add_format(out, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", index);
        cli_json_text(out, a->text.data, a->text.size);
        add(out, ",\"refusal\":null},\"logprobs\":");
    } else {
        add_format(out, "{\"index\":%d,\"text\":", index);
        cli_json_text(out, a->text.data, a->text.size);
        add(out, ",\"logprobs\":");
    }
    if (!r->logprobs) add(out, "null");
    else if (r->chat) add_chat_logprobs(out, a, vocab);
    else add_plain_logprobs(out, a, vocab);
    bool cut = a->finish == HEARTH_FINISH_LENGTH || a->finish == HEARTH_FINISH_CONTEXT;
    add_format(out, ",\"finish_reason\":\"%s\"}", cut ? "length" : "stop");
}

void cli_result_answered(cli_text *out, const cli_result_names *names, const cli_result *r)
{
    char buffer[CLI_HASH_TEXT];
    const char *id = line_id(names, r->index, buffer);
    int64_t completion = 0;
    begin_line(out, r, id);
    add_format(out, "{\"status_code\":200,\"request_id\":\"req_%s\",\"body\":{\"id\":\"%s-%s\",\"object\":\"%s\",", id,
               r->chat ? "chatcmpl" : "cmpl", id, r->chat ? "chat.completion" : "text_completion");
    add(out, "\"created\":0,\"model\":"); /* the time would differ from run to run */
    add_string(out, names->model);
    add(out, ",\"choices\":[");
    for (int i = 0; i < r->n; i++) {
        if (i) add(out, ",");
        add_choice(out, r, i, names->vocab);
        completion += r->answers[i].n_tokens - (r->answers[i].finish == HEARTH_FINISH_END);
    }
    add_format(out, "],\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64 "},",
               r->prompt_tokens, completion, r->prompt_tokens + completion);
    add(out, "\"system_fingerprint\":");
    add_string(out, names->fingerprint);
    add(out, "}},\"error\":null}\n");
}

void cli_result_refused(cli_text *out, const cli_result_names *names, const cli_result *r, const cli_refusal *why)
{
    char buffer[CLI_HASH_TEXT];
    const char *id = line_id(names, r->index, buffer), *param = why->param[0] ? why->param : NULL,
               *code = why->code[0] ? why->code : NULL;
    begin_line(out, r, id);
    if (why->status == 0) {
        add(out, "null,\"error\":{\"code\":");
        add_string(out, code);
        add_format(out, ",\"line\":%u,\"message\":", r->number);
        add_string(out, why->text);
        add(out, "}}\n");
        return;
    }
    add_format(out, "{\"status_code\":%d,\"request_id\":\"req_%s\",\"body\":{\"error\":{\"message\":", why->status, id);
    add_string(out, why->text);
    add_format(out, ",\"type\":\"%s\",\"param\":", why->status >= 500 ? "server_error" : "invalid_request_error");
    add_string(out, param);
    add(out, ",\"code\":");
    add_string(out, code);
    add(out, "}}},\"error\":null}\n");
}
