/* Chat templates: messages to prompt text. A file's Jinja template is recognised by its marks and one of the
 * built-in formats is used; an unrecognised one is an error that says how to name a format. */
#ifndef HEARTH_CORE_MODEL_CHAT_H
#define HEARTH_CORE_MODEL_CHAT_H

#include "core/model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ht_chat_format {
    HT_CHAT_NONE, HT_CHAT_CHATML, HT_CHAT_LLAMA2, HT_CHAT_LLAMA3, HT_CHAT_MISTRAL, HT_CHAT_QWEN,
    HT_CHAT_QWEN3, HT_CHAT_PHI3, HT_CHAT_GEMMA, HT_CHAT_MISTRAL_V3, HT_CHAT_MISTRAL_TEKKEN, HT_CHAT_MISTRAL_V7,
    HT_CHAT_PHI4, HT_CHAT_PHI4_MINI, HT_CHAT_LLAMA31, HT_CHAT_QWEN3_THINKING,
    HT_CHAT_DEEPSEEK_CODER, HT_CHAT_STARCODER2, HT_CHAT_MISTRAL_V01, HT_CHAT_MISTRAL_V02, HT_CHAT_MISTRAL_V1, HT_CHAT_FORMATS
} ht_chat_format;

typedef struct ht_chat_message { const char *role, *content; } ht_chat_message; /* system, user, assistant */

/* By name ("chatml", "llama-2", ...), -EINVAL lists the names; by template source, -ENOTSUP. */
int ht_chat_by_name(const char *name, ht_chat_format *out, ht_error *err);
int ht_chat_detect(const char *template_source, ht_chat_format *out, ht_error *err);
const char *ht_chat_name(ht_chat_format format);
/* The system message that a template puts in when the dialogue has none (SmolLM2's, Qwen2.5's), as far as it is a
 * literal in the source. NUL-terminated and cut to `capacity`; returns its length, 0: none. */
size_t ht_chat_default_system(const char *template_source, char *out, size_t capacity);
/* Has a template a default system message that is no such literal (Mistral Small's)? */
bool ht_chat_hides_system(const char *template_source);
/* Do prompts begin with BOS, though the tokenizer may not say so (Llama 3's)? By the source, or if NULL by the format. */
bool ht_chat_begins_with_bos(const char *template_source, ht_chat_format format);

/* Where the text is a message's own words: nothing spelled there may count as a control token. */
typedef struct ht_chat_quotes { ht_text_span *spans; int32_t n; } ht_chat_quotes; /* room for 2 a message, and 1 */

/* Writes the prompt (without BOS, which encoding adds) and, if `open_answer`, the opening of the assistant's turn, to
 * be encoded by ht_tokenizer_encode_quoted. Writes at most `capacity` bytes and no NUL, returns the length needed, or an error
 * that names the role it cannot place. A default system message that a model's template inserts (e.g. SmolLM2's) is
 * given by `default_system`, or NULL. */
int64_t ht_chat_render(ht_chat_format format, const char *default_system, const ht_chat_message *messages, int n,
                       bool open_answer, char *out, int64_t capacity, ht_error *err);
/* The same, with quotes->spans filled in; NULL: not wanted. */
int64_t ht_chat_render_quoted(ht_chat_format format, const char *default_system, const ht_chat_message *messages, int n,
                              bool open_answer, char *out, int64_t capacity, ht_chat_quotes *quotes, ht_error *err);

/* ---- in a model's own format (chat_prompt.c) ---- */

typedef struct ht_chat_prompt {
    const char *format;               /* by name; NULL: by the model's template, with its default system message */
    const ht_chat_message *messages;  /* [n] */
    int n;
    bool open_answer;
} ht_chat_prompt;

int64_t ht_chat_prompt_render(const ht_tokenizer *t, const ht_chat_prompt *p, char *out, int64_t capacity, ht_error *err);
/* The ids of the text from byte `from` on; contract: hearth_chat_encode. */
int64_t ht_chat_prompt_encode(const ht_tokenizer *t, const ht_chat_prompt *p, int64_t from, int32_t *ids, int64_t capacity,
                              ht_error *err);

#endif
