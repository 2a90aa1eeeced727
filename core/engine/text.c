/* Generated ids to text. */
#include "core/engine/text.h"

#include "core/base/memory.h"

int ht_text_open(ht_text *t, const ht_tokenizer *tokenizer, const char *const *stop, int32_t n_stop, bool special,
                 bool continues, ht_error *err)
{
    int longest = 0;

    *t = (ht_text){.tokenizer = tokenizer, .special = special, .continues = continues};
    for (int32_t i = 0; i < ht_tokenizer_size(tokenizer); i++) {
        const char *bytes;
        int n = ht_tokenizer_piece(tokenizer, i, true, &bytes);
        if (n > longest) longest = n;
    }
    /* What ht_tokenizer_stream asks for: bytes held of earlier tokens, each of which may become a U+FFFD. */
    t->capacity = 3 * (longest + 16);
    int r = ht_stop_open(&t->stop, stop, n_stop, (size_t)t->capacity, err);
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

int ht_text_feed(ht_text *t, int32_t id, const char **out, size_t *n)
{
    const char *piece;

    *out = t->piece;
    *n = 0;
    if (t->stop.found >= 0) return 1;
    /* Control tokens have no text unless they are to be spelled out. */
    if (id >= 0 && !t->special && ht_tokenizer_piece(t->tokenizer, id, false, &piece) <= 0) return 0;
    int bytes = ht_tokenizer_stream(t->tokenizer, &t->stream, id, t->piece, t->capacity);
    if (bytes < 0) bytes = 0;
    int found = ht_stop_feed(&t->stop, t->piece, (size_t)bytes, out, n);
    if (found > 0 || id >= 0) return found > 0;
    /* The end: what was just given and what was held, one behind the other in the same buffer. */
    const char *rest;
    size_t rest_n;
    ht_stop_finish(&t->stop, &rest, &rest_n);
    *n += rest_n;
    return 0;
}
