/* Generated ids to text. */
#include "core/engine/text.h"

#include "core/base/memory.h"

#include <string.h>

int32_t ht_text_longest(const ht_tokenizer *tokenizer)
{
    int longest = 0;

    for (int32_t i = 0; i < ht_tokenizer_size(tokenizer); i++) {
        const char *bytes;
        int n = ht_tokenizer_piece(tokenizer, i, true, &bytes);
        if (n > longest) longest = n;
    }
    return longest;
}

int ht_text_open(ht_text *t, const ht_tokenizer *tokenizer, int32_t longest, const ht_text_options *o, ht_error *err)
{
    *t = (ht_text){.tokenizer = tokenizer, .special = o->special, .continues = o->continues};
    /* What ht_tokenizer_stream asks for: bytes held of earlier tokens, each of which may become a U+FFFD. */
    t->capacity = 3 * (longest + 16);
    int r = ht_stop_open(&t->stop, o->stop, o->n_stop, (size_t)t->capacity, err);
    if (r < 0) return r;
    t->piece = ht_alloc((size_t)t->capacity, 1);
    if (!t->piece) {
        ht_stop_close(&t->stop);
        return ht_fail(err, -ENOMEM, "out of memory for generated text");
    }
    ht_text_reset(t);
    return 0;
}

void ht_text_close(ht_text *t)
{
    ht_stop_close(&t->stop);
    ht_free(t->piece);
    *t = (ht_text){.stop.found = -1};
}

void ht_text_reset(ht_text *t)
{
    t->stream = (ht_utf8_stream){.begun = t->continues};
    ht_stop_reset(&t->stop);
}

/* The characters that a token completes, in t->piece; id < 0: what is held. Control tokens, which streaming leaves out,
 * are spelled out if wanted, behind whatever was held. */
static size_t complete_characters(ht_text *t, int32_t id)
{
    const char *spelling = "";
    bool control = id >= 0 && ht_tokenizer_piece(t->tokenizer, id, false, &spelling) <= 0;

    if (control && !t->special) return 0;
    int n = ht_tokenizer_stream(t->tokenizer, &t->stream, control ? -1 : id, t->piece, t->capacity);
    if (n < 0) n = 0;
    if (!control) return (size_t)n;
    int length = ht_tokenizer_piece(t->tokenizer, id, true, &spelling);
    if (length < 0 || length > t->capacity - n) length = 0;
    memcpy(t->piece + n, spelling, (size_t)length);
    t->stream.begun = true;
    return (size_t)n + (size_t)length;
}

int ht_text_feed(ht_text *t, int32_t id, const char **out, size_t *n)
{
    *out = t->piece;
    *n = 0;
    if (t->stop.found >= 0) return 1;
    size_t bytes = complete_characters(t, id);
    int found = ht_stop_feed(&t->stop, t->piece, bytes, out, n);
    if (found > 0 || id >= 0) return found > 0;
    /* The end: what was just given and what was held, one behind the other in the same buffer. */
    const char *rest;
    size_t rest_n;
    ht_stop_finish(&t->stop, &rest, &rest_n);
    *n += rest_n;
    return 0;
}
