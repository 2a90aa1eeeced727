/* Text to token ids and back, exactly as the model's authors' tokenizer does it. */
#ifndef HEARTH_CORE_MODEL_TOKENIZER_H
#define HEARTH_CORE_MODEL_TOKENIZER_H

#include "core/model/gguf.h"

typedef struct ht_tokenizer ht_tokenizer;

typedef enum ht_token_kind {
    HT_TOKEN_NORMAL = 1, HT_TOKEN_UNKNOWN = 2, HT_TOKEN_CONTROL = 3, HT_TOKEN_USER = 4, HT_TOKEN_UNUSED = 5,
    HT_TOKEN_BYTE = 6,
} ht_token_kind;

/* From the tokenizer.ggml.* keys. Errors name the key (-ENOTSUP: an unknown model or pre-tokenizer). The
 * tokenizer keeps nothing of the gguf. */
int ht_tokenizer_from_gguf(ht_tokenizer **out, const ht_gguf *gguf, ht_error *err);
/* From a Hugging Face folder: tokenizer.json (BPE, byte-level or with byte fallback), or else tokenizer.model
 * (SentencePiece, BPE), and where they are there tokenizer_config.json, config.json and chat_template.jinja. -ENOTSUP
 * names the part that is not supported. Added tokens without one of the embedding's `rows` (0: not known) are left out,
 * with a warning: no model can take or give them. */
int ht_tokenizer_from_hf(ht_tokenizer **out, const char *dir, int32_t rows, ht_error *err);
void ht_tokenizer_close(ht_tokenizer **t);

enum {
    HT_ENCODE_BOS = 1,     /* put BOS in front if the model wants one */
    HT_ENCODE_SPECIAL = 2, /* control tokens spelled out in the text become their ids */
    HT_ENCODE_BOS_ALWAYS = 4, /* put BOS in front if there is one, whatever the model wants */
};
/* Appends ids of text[0, bytes) to out, at most `capacity`; returns how many the text has (so a result above
 * capacity means "call again with room"), or a negative error. Invalid UTF-8 never fails: it is encoded by
 * bytes. Safe to call from several threads at once. */
int64_t ht_tokenizer_encode(const ht_tokenizer *t, const char *text, size_t bytes, unsigned flags, int32_t *out,
                            int64_t capacity, ht_error *err);

/* The same for a text of which parts are quoted (ascending, apart from each other): no control token that touches a
 * quote counts, nor an end of a turn, nor a token of any other kind that the text around the quotes has too. So a
 * prompt can quote anything without being torn by it. */
typedef struct ht_text_span { size_t begin, end; } ht_text_span;
int64_t ht_tokenizer_encode_quoted(const ht_tokenizer *t, const char *text, size_t bytes, unsigned flags,
                                   const ht_text_span *quotes, int32_t n_quotes, int32_t *out, int64_t capacity,
                                   ht_error *err);

/* The bytes a token stands for (not NUL-terminated, may be a part of a character); control tokens give their
 * spelling only with `special`. Returns the length; *bytes borrows from the tokenizer. -EINVAL: no such id. */
int ht_tokenizer_piece(const ht_tokenizer *t, int32_t id, bool special, const char **bytes);

/* Whole-text decoding, with the leading blank that encoding added taken away. Appends to `out` at most
 * `capacity` bytes; returns the length needed. */
int64_t ht_tokenizer_decode(const ht_tokenizer *t, const int32_t *ids, int64_t n, bool special, char *out,
                            int64_t capacity);

/* Streaming: feeds one token, gives the bytes that now form complete UTF-8; the rest is held until it is
 * completed, or turns out to be invalid and is given as U+FFFD. */
typedef struct ht_utf8_stream {
    uint8_t held[8];
    int n_held;
    bool begun;            /* the first piece has been seen (its added blank is dropped) */
} ht_utf8_stream;
/* Returns the length; id < 0 flushes. Room for 3 * (ht_tokenizer_longest() + 4) bytes is always enough; with too little
 * it is -ENOSPC and nothing has happened. A held-back byte never exceeds three. */
int ht_tokenizer_stream(const ht_tokenizer *t, ht_utf8_stream *s, int32_t id, char *out, int capacity);

int32_t ht_tokenizer_size(const ht_tokenizer *t);
int32_t ht_tokenizer_longest(const ht_tokenizer *t);       /* bytes of the longest piece */
ht_token_kind ht_tokenizer_kind(const ht_tokenizer *t, int32_t id);
/* Ends an answer: EOS, EOT and the end-of-turn tokens of the chat templates. */
bool ht_tokenizer_is_end(const ht_tokenizer *t, int32_t id);
/* Id of a token by its exact spelling, or -1. */
int32_t ht_tokenizer_find(const ht_tokenizer *t, const char *spelling);
/* The model's chat template source (Jinja), or NULL. */
const char *ht_tokenizer_chat_template(const ht_tokenizer *t);

#endif
