/* Fuzz target: vocabularies from any GGUF header, and any text through a sound vocabulary.
 *
 * Inputs that begin with "GGUF" are headers; what loads must encode and decode without harm. All others are texts,
 * which must come back byte for byte, whole and streamed as far as they are UTF-8. */
#include "core/model/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/model/vocab_made.h"

#include <stdio.h>
#include <stdlib.h>

static void exercise(const ht_tokenizer *t, const char *text, size_t n, bool exact)
{
    size_t capacity = 3 * n + 16;
    int32_t *ids = malloc(capacity * sizeof *ids);
    ht_error err = {0};
    int64_t n_ids = ht_tokenizer_encode(t, text, n, HT_ENCODE_SPECIAL | HT_ENCODE_BOS, ids, (int64_t)capacity, &err);
    if (n_ids < 0 && !err.text[0]) abort();
    if (n_ids < 0) n_ids = 0; /* a pattern may give up */
    else if (n_ids > (int64_t)capacity) abort();
    int64_t bytes = ht_tokenizer_decode(t, ids, n_ids, true, NULL, 0);
    char *back = malloc((size_t)bytes + 1);
    if (ht_tokenizer_decode(t, ids, n_ids, true, back, bytes) != bytes) abort();
    if (exact && ((size_t)bytes != n || memcmp(back, text, n))) abort();
    free(back);

    /* wholly quoted there is no control token; with a quote in the middle nothing is lost either */
    ht_text_span quotes[2] = {{0, n}, {n / 3, n - n / 3}};
    for (int i = 0; n >= 2 && n <= 2048 && i < 2; i++) {
        int64_t m = ht_tokenizer_encode_quoted(t, text, n, HT_ENCODE_SPECIAL, &quotes[i], 1, ids, (int64_t)capacity, &err);
        for (int64_t k = 0; i == 0 && k < m; k++)
            if (ht_tokenizer_kind(t, ids[k]) == HT_TOKEN_CONTROL) abort();
        if (m > (int64_t)capacity) abort();
        if (exact && m >= 0 && (size_t)ht_tokenizer_decode(t, ids, m, true, NULL, 0) != n) abort();
    }
    n_ids = ht_tokenizer_encode(t, text, n, HT_ENCODE_SPECIAL | HT_ENCODE_BOS, ids, (int64_t)capacity, &err);
    if (n_ids < 0) n_ids = 0;

    int room = 3 * (ht_tokenizer_longest(t) + 4);
    char *out = malloc((size_t)room);
    ht_utf8_stream stream = {0};
    for (int64_t i = 0; i <= n_ids; i++) {
        if (ht_tokenizer_stream(t, &stream, i < n_ids ? ids[i] : -1, out, room) < 0) abort();
    }
    if (stream.n_held) abort();
    free(out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ht_tokenizer *sound; /* kept from input to input */
    static made_vocab made;
    ht_error err = {0};
    if (!sound) {
        make_vocab(&made);
        made.values[6].key = "no.bos";
        if (ht_tokenizer_from_gguf(&sound, &made.gguf, &err) < 0) abort();
    }
    if (size >= 4 && !memcmp(data, "GGUF", 4)) {
        ht_gguf g;
        ht_tokenizer *t = NULL;
        if (ht_gguf_parse(&g, data, size, size, "fuzz", &err) < 0) return 0;
        if (ht_tokenizer_from_gguf(&t, &g, &err) == 0) exercise(t, (const char *)data, size < 512 ? size : 512, false);
        else if (!err.text[0] || t) abort();
        ht_tokenizer_close(&t);
        ht_gguf_close(&g);
        return 0;
    }
    exercise(sound, (const char *)data, size, true);
    return 0;
}
