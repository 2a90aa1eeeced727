/* Text to ids: special tokens cut the text into stretches, stretches are normalised and cut into words, and words are
 * merged. Everything that changes while encoding lives in one call's scratch. */
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

enum { MOST_MARKS = 32 };

typedef struct encoding {
    const ht_tokenizer *t;
    ht_merger merger;
    ht_split_call split;
    char *buffer;      /* a stretch with its blanks as they are in pieces; owned */
    size_t buffer_cap;
    bool after_special; /* at the text's beginning or just after a special token */
    bool at_start;      /* nothing encoded yet */
    const ht_text_span *quotes; /* those not yet passed; borrowed */
    int32_t n_quotes;
    int32_t marks[MOST_MARKS];  /* tokens of the text around the quotes that would count in them too */
    int32_t n_marks;
    ht_error *err;
} encoding;

/* Numerals of Latin-1: a Digits step behind ByteLevel takes the bytes for these characters. */
static bool number_byte(uint8_t c) { return c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0xbc && c <= 0xbe); }

static int emit_cut(encoding *e, const char *word, size_t len)
{
    size_t begin = 0;
    for (size_t i = 1; i <= len; i++) {
        bool number = number_byte((uint8_t)word[i - 1]);
        if (i < len && number_byte((uint8_t)word[i]) == number && !(number && e->t->cuts_number_bytes > 1)) continue;
        int ret = ht_merger_word(&e->merger, word + begin, i - begin, true, e->err);
        if (ret < 0) return ret;
        begin = i;
    }
    return 0;
}

static int emit_word(void *user, const char *word, size_t len)
{
    encoding *e = user;
    if (e->t->cuts_number_bytes)
        for (size_t i = 0; i < len; i++)
            if (number_byte((uint8_t)word[i])) return emit_cut(e, word, len);
    return ht_merger_word(&e->merger, word, len, true, e->err);
}

/* ---- SentencePiece -------------------------------------------------------------------------------------- */

/* Without pieces that span them, words can be merged one by one: cut before a blank that follows a non-blank. */
static int encode_cut(encoding *e, const char *text, size_t n)
{
    size_t begin = 0;
    for (size_t i = 1; i < n && (e->t->cuts_blanks || !e->t->blank_inside); i++) {
        if (text[i] != ' ' || (text[i - 1] == ' ' && !e->t->cuts_blanks)) continue;
        int ret = ht_merger_word(&e->merger, text + begin, i - begin, true, e->err);
        if (ret < 0) return ret;
        begin = i;
    }
    return ht_merger_word(&e->merger, text + begin, n - begin, true, e->err);
}

static int encode_blanks(encoding *e, const char *text, size_t n)
{
    bool add = e->t->adds_blank && e->after_special && (e->at_start || !e->t->blank_once);
    if (e->t->blank_if_none && (text[0] == ' ' || (n >= 3 && !memcmp(text, "\xe2\x96\x81", 3)))) add = false;
    size_t used = 0;
    if (n + 1 > e->buffer_cap) {
        char *buffer = ht_realloc(e->buffer, n + 1, 1);
        if (!buffer) return ht_fail(e->err, -ENOMEM, "no memory to encode %zu bytes", n);
        e->buffer = buffer;
        e->buffer_cap = n + 1;
    }
    if (add) e->buffer[used++] = ' ';
    for (size_t i = 0; i < n;) { /* U+2581 in a text cannot be told from a blank */
        bool mark = n - i >= 3 && (uint8_t)text[i] == 0xe2 && !memcmp(text + i, "\xe2\x96\x81", 3);
        e->buffer[used++] = mark ? ' ' : text[i];
        i += mark ? 3 : 1;
    }
    return encode_cut(e, e->buffer, used);
}

/* ---- byte-level ----------------------------------------------------------------------------------------- */

static int encode_valid(encoding *e, const char *text, size_t n)
{
    char *normal = NULL;
    size_t normal_n = 0;
    int ret = ht_utf8_normalize(e->t->form, text, n, &normal, &normal_n, e->err);
    if (ret < 0) return ret;
    ret = ht_splitter_run(&e->t->split, &e->split, normal ? normal : text, normal ? normal_n : n, emit_word, e, e->err);
    ht_free(normal);
    return ret;
}

/* Patterns and normalisation are for text; a run of bytes that is none is a word of its own. */
static int encode_bytes(encoding *e, const char *text, size_t n)
{
    size_t begin = 0, i = 0;
    while (i < n) {
        int step = ht_utf8_step(text + i, n - i);
        if (step > 0) {
            i += (size_t)step;
            continue;
        }
        size_t end = i;
        while (end < n && ht_utf8_step(text + end, n - end) <= 0) end++;
        int ret = encode_valid(e, text + begin, i - begin);
        if (ret == 0) ret = ht_merger_word(&e->merger, text + i, end - i, false, e->err);
        if (ret < 0) return ret;
        begin = i = end;
    }
    return encode_valid(e, text + begin, n - begin);
}

static int encode_stretch(encoding *e, const char *text, size_t n)
{
    if (!n) return 0;
    int ret = e->t->model == HT_MODEL_BYTES ? encode_bytes(e, text, n) : encode_blanks(e, text, n);
    e->after_special = e->at_start = false;
    return ret;
}

/* ---- special tokens ------------------------------------------------------------------------------------- */

static bool word_char(const char *text, size_t n, size_t at)
{
    uint8_t c = at < n ? (uint8_t)text[at] : ' ';
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c >= 0x80;
}

/* Does the token, spelled at text[at, end), count although it touches the next quote? */
static bool counts_in_quote(const encoding *e, int32_t id)
{
    for (int32_t i = 0; i < e->n_marks; i++)
        if (e->marks[i] == id) return false;
    return e->t->kind[id] != HT_TOKEN_CONTROL && !(e->t->marks[id] & HT_MARK_END);
}

/* The longest special token spelled at text[at], or -1. */
static int32_t special_at(const encoding *e, const char *text, size_t n, size_t at, bool control, size_t *len)
{
    const ht_tokenizer *t = e->t;
    int32_t best = -1;
    uint64_t node = 0;
    if (!t->special.begins[(uint8_t)text[at]]) return -1;
    for (size_t i = at; i < n && ht_u64_map_find(&t->special.next, node << 8 | (uint8_t)text[i], &node); i++) {
        int32_t id = t->special.ids[node];
        if (id < 0 || !(control || t->kind[id] == HT_TOKEN_USER)) continue;
        if (e->n_quotes && i >= e->quotes->begin && !counts_in_quote(e, id)) continue;
        if (t->marks[id] & HT_MARK_WORD && ((at && word_char(text, n, at - 1)) || word_char(text, n, i + 1))) continue;
        best = id;
        *len = i + 1 - at;
    }
    return best;
}

static size_t skip_blanks(const char *text, size_t n, size_t at)
{
    size_t step;
    while (at < n && ht_utf8_is_blank(text + at, n - at, &step)) at += step;
    return at;
}

static size_t trim_blanks(const char *text, size_t begin, size_t end)
{
    while (end > begin) {
        size_t at = end - 1, step;
        while (at > begin && ((uint8_t)text[at] & 0xc0) == 0x80) at--;
        if (!ht_utf8_is_blank(text + at, end - at, &step) || at + step != end) break;
        end = at;
    }
    return end;
}

/* Is text[at] beyond the first of the remaining quotes? Then that is passed. */
static void pass_quotes(encoding *e, size_t at)
{
    while (e->n_quotes && at >= e->quotes->end) {
        e->quotes++;
        e->n_quotes--;
    }
}

/* What the text around the quotes spells. Tokens of kind control need no list: they never count in a quote. */
static void find_marks(encoding *e, const char *text, size_t n, bool control)
{
    encoding walk = *e;
    size_t at = 0, len = 0;
    walk.n_quotes = 0; /* each piece is looked at by itself, without quotes */
    for (int32_t q = 0; q <= e->n_quotes; q++) {
        size_t end = q < e->n_quotes ? e->quotes[q].begin : n;
        while (at < end) {
            int32_t id = special_at(&walk, text, end, at, control, &len);
            at += id < 0 ? 1 : len;
            if (id >= 0 && e->t->kind[id] != HT_TOKEN_CONTROL && e->n_marks < MOST_MARKS) e->marks[e->n_marks++] = id;
        }
        if (q < e->n_quotes) at = e->quotes[q].end;
    }
}

static int encode_text(encoding *e, const char *text, size_t n, bool control)
{
    const ht_tokenizer *t = e->t;
    size_t begin = 0, at = 0, len = 0;
    while (at < n) {
        pass_quotes(e, at);
        int32_t id = special_at(e, text, n, at, control, &len);
        if (id < 0) {
            at++;
            continue;
        }
        size_t end = t->marks[id] & HT_MARK_EAT_LEFT ? trim_blanks(text, begin, at) : at;
        int ret = encode_stretch(e, text + begin, end - begin);
        if (ret < 0) return ret;
        ht_merger_emit(&e->merger, id);
        e->after_special = true;
        e->at_start = false;
        e->merger.last_unknown = false;
        at += len;
        if (t->marks[id] & HT_MARK_EAT_RIGHT) at = skip_blanks(text, n, at);
        begin = at;
    }
    return encode_stretch(e, text + begin, n - begin);
}

int64_t ht_tokenizer_encode(const ht_tokenizer *t, const char *text, size_t bytes, unsigned flags, int32_t *out,
                            int64_t capacity, ht_error *err)
{
    return ht_tokenizer_encode_quoted(t, text, bytes, flags, NULL, 0, out, capacity, err);
}

int64_t ht_tokenizer_encode_quoted(const ht_tokenizer *t, const char *text, size_t bytes, unsigned flags,
                                   const ht_text_span *quotes, int32_t n_quotes, int32_t *out, int64_t capacity,
                                   ht_error *err)
{
    encoding e = {.t = t, .merger = {.t = t, .out = out, .capacity = capacity}, .after_special = true,
                  .at_start = true, .quotes = quotes, .n_quotes = n_quotes, .err = err};
    int ret = 0;
    if (n_quotes) find_marks(&e, text, bytes, flags & HT_ENCODE_SPECIAL);
    if (bytes > INT32_MAX) return ht_fail(err, -E2BIG, "a text of %zu bytes is too long to encode at once", bytes);
    bool bos = (flags & HT_ENCODE_BOS && t->adds_bos) || flags & HT_ENCODE_BOS_ALWAYS;
    if (bos && t->bos >= 0) ht_merger_emit(&e.merger, t->bos);
    if (t->model == HT_MODEL_BYTES) ret = ht_split_call_open(&e.split, &t->split, err);
    if (ret == 0) ret = encode_text(&e, text, bytes, flags & HT_ENCODE_SPECIAL);
    if (t->model == HT_MODEL_BYTES) ht_split_call_close(&e.split);
    ht_merger_close(&e.merger);
    ht_free(e.buffer);
    return ret < 0 ? ret : e.merger.n;
}
