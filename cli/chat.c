/* The conversation, and the terminal loop around it. */
#include "cli/chat.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- messages ------------------------------------------------------------------------------------------------- */

static char *copy(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(cli_realloc(NULL, n, 1), s, n);
}

void cli_chat_add(cli_chat *c, const char *role, const char *content)
{
    if (c->n == c->room) {
        c->room = 2 * c->room + 8;
        c->message = cli_realloc(c->message, (size_t)c->room, sizeof *c->message);
    }
    c->message[c->n].role = copy(role);
    c->message[c->n++].content = copy(content);
}

void cli_chat_drop(cli_chat *c, int n)
{
    while (c->n > n) {
        c->n--;
        free(c->message[c->n].role);
        free(c->message[c->n].content);
    }
}

void cli_chat_free(cli_chat *c)
{
    cli_chat_drop(c, 0);
    free(c->message);
    free(c->ids);
    cli_text_free(&c->told);
    *c = (cli_chat){0};
}

/* ---- prompts -------------------------------------------------------------------------------------------------- */

static int render(const cli_chat *c, cli_text *out, hearth_error *error)
{
    hearth_message *messages = cli_realloc(NULL, (size_t)c->n, sizeof *messages);
    for (int i = 0; i < c->n; i++) messages[i] = (hearth_message){c->message[i].role, c->message[i].content};
    char none[1];
    int64_t need = hearth_chat_render(c->vocab, c->format, messages, c->n, true, none, 0, error);
    if (need >= 0) {
        out->data = cli_realloc(out->data, (size_t)need + 1, 1);
        out->room = (size_t)need + 1;
        need = hearth_chat_render(c->vocab, c->format, messages, c->n, true, out->data, need, error);
    }
    if (need >= 0) {
        out->size = (size_t)need;
        out->data[need] = '\0';
    }
    free(messages);
    return need < 0 ? (int)need : 0;
}

/* The ids of the prompt from byte `from` of its text on. */
static int encode_from(const cli_chat *c, int64_t from, int32_t **ids, int64_t *n, hearth_error *error)
{
    hearth_message *messages = cli_realloc(NULL, (size_t)c->n, sizeof *messages);
    for (int i = 0; i < c->n; i++) messages[i] = (hearth_message){c->message[i].role, c->message[i].content};
    *ids = NULL;
    *n = hearth_chat_encode(c->vocab, c->format, messages, c->n, true, from, NULL, 0, error);
    if (*n >= 0) {
        *ids = cli_realloc(NULL, (size_t)*n, sizeof **ids);
        *n = hearth_chat_encode(c->vocab, c->format, messages, c->n, true, from, *ids, *n, error);
    }
    free(messages);
    return *n < 0 ? (int)*n : 0;
}

/* Does the text begin with a control token? Only there may it be encoded apart from what comes before it. */
static bool begins_with_control(const hearth_vocab *vocab, const int32_t *ids, int64_t n)
{
    char none[1];
    return n > 0 && hearth_decode(vocab, ids, 1, false, none, 0) == 0 && hearth_decode(vocab, ids, 1, true, none, 0) > 0;
}

int cli_chat_prompt(cli_chat *c, int32_t **ids, int64_t *n, hearth_error *error)
{
    cli_text text = {0};
    int rc = render(c, &text, error);
    if (rc == 0 && c->n_ids && text.size > c->told.size && memcmp(text.data, c->told.data, c->told.size) == 0) {
        int32_t *rest;
        int64_t n_rest;
        rc = encode_from(c, (int64_t)c->told.size, &rest, &n_rest, error);
        if (rc == 0 && begins_with_control(c->vocab, rest, n_rest)) {
            *n = c->n_ids + n_rest;
            *ids = cli_realloc(NULL, (size_t)*n, sizeof **ids);
            memcpy(*ids, c->ids, (size_t)c->n_ids * sizeof **ids);
            memcpy(*ids + c->n_ids, rest, (size_t)n_rest * sizeof **ids);
            free(rest);
            cli_text_free(&text);
            return 0;
        }
        if (rc == 0) free(rest);
    }
    if (rc == 0) rc = encode_from(c, 0, ids, n, error);
    cli_text_free(&text);
    return rc;
}

void cli_chat_answer(cli_chat *c, const int32_t *prompt, int64_t n_prompt, const cli_generation *answer)
{
    hearth_error error = {0};
    cli_text_free(&c->told);
    c->n_ids = 0;
    /* Not with a stop string, which leaves tokens that were never shown: the ids are not the text then. */
    if (answer->finish != HEARTH_FINISH_STOP && render(c, &c->told, &error) == 0) {
        cli_text_add(&c->told, answer->text.data, answer->text.size);
        c->n_ids = n_prompt + answer->n;
        c->ids = cli_realloc(c->ids, (size_t)c->n_ids, sizeof *c->ids);
        memcpy(c->ids, prompt, (size_t)n_prompt * sizeof *c->ids);
        if (answer->n) memcpy(c->ids + n_prompt, answer->ids, (size_t)answer->n * sizeof *c->ids);
    }
    cli_chat_add(c, "assistant", answer->text.data);
}

/* ---- the terminal --------------------------------------------------------------------------------------------- */

typedef struct terminal {
    cli_chat *chat;
    cli_generation *g;
    hearth_engine *engine;
    cli_prefill *prefill;
    int first_message;        /* messages that /clear keeps: the system message */
    bool quiet;
} terminal;

/* Adds a line without its end; false at the end of input. Byte by byte, as people type: a terminal's lines stay where they
 * are until they are wanted. The wait is poll's, which any signal ends: a read would go on by itself, and where handlers
 * are run late (ThreadSanitizer does it, after the call that was interrupted) Ctrl-C would wait for the next key. */
static bool read_line(cli_text *out)
{
    size_t begin = out->size;
    char c = 0;
    cli_text_add(out, "", 0);
    for (;;) {
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        if (poll(&input, 1, -1) < 0 && errno == EINTR) continue;
        ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return out->size > begin; /* a line without an end counts */
        if (c == '\n') break;
        cli_text_add(out, &c, 1);
    }
    while (out->size > begin && out->data[out->size - 1] == '\r') out->data[--out->size] = '\0';
    return true;
}

/* One input, lines ending in a backslash being continued. 0: read; otherwise the exit code. */
enum { READ_ON = -1 };
static int read_input(cli_text *out)
{
    const char *green = cli_style_code(STDERR_FILENO, CLI_GREEN), *plain = cli_style_code(STDERR_FILENO, CLI_PLAIN);
    int code = READ_ON;
    out->size = 0;
    for (const char *sign = "> ";; sign = ". ") {
        cli_interrupt_while_idle(true);
        fprintf(stderr, "%s%s%s", green, sign, plain); /* the typed text is plain: leaving needs no repair */
        size_t begin = out->size;
        bool is_there = read_line(out);
        cli_interrupt_while_idle(false);
        if (!is_there) {
            fputc('\n', stderr);
            code = CLI_OK;
            break;
        }
        bool more = out->size > begin && out->data[out->size - 1] == '\\';
        if (!more) break;
        out->data[out->size - 1] = '\n';
    }
    return code;
}

static void say_stats(const terminal *t)
{
    const int32_t *tokens;
    hearth_stats s;
    hearth_engine_stats(t->engine, &s);
    fprintf(stderr, "%" PRId64 " of %d tokens of context in use; prefill %.1f tok/s, decode %.1f tok/s, "
            "%" PRId64 " prompt tokens computed, %" PRId64 " reused\n",
            hearth_session_tokens(t->g->session, &tokens), t->g->context,
            s.prompt_seconds > 0 ? (double)s.prompt_tokens / s.prompt_seconds : 0,
            s.decode_seconds > 0 ? (double)s.decode_tokens / s.decode_seconds : 0, s.prompt_tokens, s.reused_tokens);
}

/* Answers the conversation as it stands. 0, or a negative errno (reported); on failure the last message is dropped. */
static int answer(terminal *t)
{
    hearth_error error = {0};
    int32_t *ids = NULL;
    int64_t n = 0;
    cli_interrupt_clear();
    int rc = cli_chat_prompt(t->chat, &ids, &n, &error);
    if (rc == 0) rc = hearth_session_sync(t->g->session, ids, n, &error);
    cli_prefill_end(t->prefill);
    if (rc == 0) {
        rc = cli_generate(t->g, &error);
        cli_write("\n", 1);
        if (cli_flush() < 0) rc = -EPIPE;
    }
    if (rc == 0) {
        cli_chat_answer(t->chat, ids, n, t->g);
        if (t->g->finish == HEARTH_FINISH_CONTEXT)
            cli_note("the context of %d tokens is full: /clear starts anew (-c gives more)", t->g->context);
        else if (t->g->finish == HEARTH_FINISH_LENGTH)
            cli_note("stopped after %d tokens (-n)", t->g->limit);
    } else {
        if (rc == -ENOSPC) cli_note("%s: /clear starts anew (-c gives more)", error.text);
        else if (rc != -ECANCELED && rc != -EPIPE) cli_fail("run", "%s", error.text);
        cli_chat_drop(t->chat, t->chat->n - 1);
    }
    free(ids);
    cli_interrupt_clear();
    return rc;
}

static void help(void)
{
    fputs("  /help           this\n"
          "  /clear          forget the conversation, keep the system message\n"
          "  /system TEXT    forget the conversation, with TEXT as the system message\n"
          "  /retry          another answer to the last message\n"
          "  /stats          speed, and how full the context is\n"
          "  /exit           leave (also Ctrl-D)\n"
          "A line that ends in \\ goes on in the next. Ctrl-C stops an answer; while none is given, it leaves.\n",
          stderr);
}

static void set_system(terminal *t, const char *text)
{
    cli_chat_drop(t->chat, 0);
    if (*text) cli_chat_add(t->chat, "system", text);
    t->first_message = t->chat->n;
    t->chat->n_ids = 0;
}

/* Drops the last answer and everything after its question; false when there is none. Draws depend on seed and place
 * alone, so another answer needs another seed. */
static bool retry(terminal *t)
{
    int n = t->chat->n;
    if (n <= t->first_message + 1) return false;
    cli_chat_drop(t->chat, n - 1);
    t->chat->n_ids = 0; /* told ends with the dropped answer */
    hearth_sampler_seed(t->g->sampler, ++t->g->seed);
    return true;
}

/* A line that begins with a slash. False: leave. */
static bool command(terminal *t, const char *line)
{
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
    if (strcmp(line, "/help") == 0) help();
    else if (strcmp(line, "/stats") == 0) say_stats(t);
    else if (strcmp(line, "/clear") == 0) {
        cli_chat_drop(t->chat, t->first_message);
        t->chat->n_ids = 0;
    } else if (strncmp(line, "/system", 7) == 0 && (line[7] == ' ' || line[7] == '\0')) {
        set_system(t, line + 7 + strspn(line + 7, " "));
    } else if (strcmp(line, "/retry") == 0) {
        if (retry(t)) answer(t);
        else fputs("there is nothing to answer again\n", stderr);
    } else {
        fprintf(stderr, "unknown command %s: /help lists them\n", line);
    }
    return true;
}

int cli_chat_loop(cli_chat *chat, cli_generation *g, hearth_engine *engine, cli_prefill *prefill, const char *first,
                  bool quiet)
{
    terminal t = {.chat = chat, .g = g, .engine = engine, .prefill = prefill, .first_message = chat->n, .quiet = quiet};
    cli_text input = {0};
    int code = READ_ON;
    if (!quiet) fputs("/help lists commands; Ctrl-D leaves\n", stderr);
    if (first) {
        cli_chat_add(chat, "user", first);
        answer(&t);
    }
    while ((code = read_input(&input)) == READ_ON) {
        if (input.size == 0) continue;
        if (input.data[0] == '/') {
            if (!command(&t, input.data)) {
                code = CLI_OK;
                break;
            }
            continue;
        }
        cli_chat_add(chat, "user", input.data);
        if (answer(&t) == -EPIPE) { /* nobody reads any more */
            code = CLI_FAILED;
            break;
        }
    }
    cli_text_free(&input);
    return code;
}
