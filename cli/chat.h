/* A conversation: messages, the model's template, and token prefixes that are reused from turn to turn. */
#ifndef HEARTH_CLI_CHAT_H
#define HEARTH_CLI_CHAT_H

#include "cli/generate.h"
#include "cli/report.h"

typedef struct cli_chat {
    const hearth_vocab *vocab;     /* borrowed */
    const char *format;            /* template name; NULL: the model's own */
    struct { char *role, *content; } *message; /* owned */
    int n, room;
    /* What the session's context was made of at the end of the last answer: its text and its token ids. */
    cli_text told;
    int32_t *ids;
    int64_t n_ids;
} cli_chat;

void cli_chat_add(cli_chat *chat, const char *role, const char *content);
void cli_chat_drop(cli_chat *chat, int n);  /* keep the first n messages */
void cli_chat_free(cli_chat *chat);

/* Token ids of the conversation with the opening of an answer; the caller's to free. What was said before keeps the
 * ids it had, even where encoding its text afresh would give others, so that the engine can reuse it. */
int cli_chat_prompt(cli_chat *chat, int32_t **ids, int64_t *n, hearth_error *error);
/* The answer to that prompt: becomes a message, and its ids are remembered. */
void cli_chat_answer(cli_chat *chat, const int32_t *prompt, int64_t n_prompt, const cli_generation *answer);

/* Reads lines from the terminal and answers them until it is told to stop; the exit code. `g` is set up but for its
 * text; `first` is answered before the terminal is asked (NULL: none). */
int cli_chat_loop(cli_chat *chat, cli_generation *g, hearth_engine *engine, cli_prefill *prefill, const char *first,
                  bool quiet);

#endif
