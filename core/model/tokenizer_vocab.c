/* Builds a vocabulary's tables: what each token stands for, the look-ups, the merges, the marks. */
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>

static const char blank_mark[] = "\xe2\x96\x81"; /* U+2581, a blank in the spelling of SentencePiece */

/* ---- the byte alphabet ---------------------------------------------------------------------------------- */

/* GPT-2's: printable bytes of Latin-1 are themselves, the others follow from U+0100 on in order. */
static bool byte_is_itself(uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); }

int ht_byte_of_char(uint32_t c)
{
    if (c < 256) return byte_is_itself(c) ? (int)c : -1;
    if (c < 256 + 33) return (int)(c - 256);            /* 0..32 */
    if (c < 256 + 33 + 34) return (int)(c - 256 - 33 + 127); /* 127..160 */
    return c == 256 + 67 ? 173 : -1;
}

/* Decodes a spelling in the byte alphabet; false if some character is not of it, and then it stands for itself. */
static bool decode_byte_alphabet(const char *s, size_t n, char *out, size_t *out_n)
{
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        int step = ht_utf8_step(s + i, n - i);
        uint32_t c = (uint8_t)s[i];
        if (step == 2) c = (c & 31) << 6 | ((uint8_t)s[i + 1] & 63);
        else if (step != 1) return false;
        int byte = ht_byte_of_char(c);
        if (byte < 0) return false;
        out[used++] = (char)byte;
        i += (size_t)step;
    }
    *out_n = used;
    return true;
}

/* "<0x0A>" -> 10, or -1. */
static int byte_of_spelling(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        int c = (uint8_t)s[i], digit = -1;
        if (c >= '0' && c <= '9') digit = c - '0';
        if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
        if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

static size_t with_blanks(const char *s, size_t n, char *out)
{
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        bool blank = n - i >= 3 && !memcmp(s + i, blank_mark, 3);
        out[used++] = blank ? ' ' : s[i];
        i += blank ? 3 : 1;
    }
    return used;
}

/* ---- pieces --------------------------------------------------------------------------------------------- */

/* Tokens that stand for their spelling. A user-defined one may be text like any other: Gemma's are runs of blanks, spelled
 * with U+2581. */
static bool is_literal(const ht_tokenizer *t, uint8_t kind)
{
    if (kind == HT_TOKEN_USER) return t->model == HT_MODEL_BYTES;
    return kind == HT_TOKEN_CONTROL || kind == HT_TOKEN_UNKNOWN;
}

/* Text can become the token without spelling it. */
static bool from_text(const ht_tokenizer *t, int32_t id)
{
    uint8_t kind = t->kind[id];
    if (t->model == HT_MODEL_SCORES) return kind == HT_TOKEN_NORMAL || kind == HT_TOKEN_USER || kind == HT_TOKEN_UNUSED;
    return kind == HT_TOKEN_NORMAL || kind == HT_TOKEN_UNUSED;
}

static int fill_pieces(ht_tokenizer *t, const ht_vocab_source *source, ht_error *err)
{
    uint64_t total = 0;
    for (int64_t i = 0; i < source->n; i++) total += source->spelled[i].len;
    if (total > UINT32_MAX - 16) return ht_fail(err, -EINVAL, "%s: %llu bytes of tokens", source->origin,
                                                (unsigned long long)total);
    t->spelled = (ht_pieces){ht_alloc(total + 1, 1), ht_alloc((size_t)source->n + 1, sizeof(uint32_t))};
    t->raw = (ht_pieces){ht_alloc(total + 1, 1), ht_alloc((size_t)source->n + 1, sizeof(uint32_t))};
    t->kind = ht_alloc((size_t)source->n, 1);
    t->marks = ht_calloc((size_t)source->n, 1);
    if (!t->spelled.bytes || !t->spelled.at || !t->raw.bytes || !t->raw.at || !t->kind || !t->marks) {
        return ht_fail(err, -ENOMEM, "%s: no memory for %lld tokens", source->origin, (long long)source->n);
    }
    uint32_t at = 0, raw_at = 0;
    for (int64_t i = 0; i < source->n; i++) {
        const char *s = source->spelled[i].data;
        size_t n = source->spelled[i].len, raw_n = n;
        uint8_t kind = source->kinds[i];
        char *raw = t->raw.bytes + raw_at;
        t->spelled.at[i] = at;
        t->raw.at[i] = raw_at;
        t->kind[i] = kind;
        if (n) memcpy(t->spelled.bytes + at, s, n);
        if (kind == HT_TOKEN_BYTE) {
            int byte = byte_of_spelling(s, n);
            if (byte < 0) return ht_fail(err, -EINVAL, "%s[%lld]: a byte token spelled '%.*s', not <0xXX>",
                                         source->origin, (long long)i, (int)(n < 40 ? n : 40), s);
            raw[0] = (char)byte;
            raw_n = 1;
        } else if (is_literal(t, kind) || (t->model == HT_MODEL_BYTES && !decode_byte_alphabet(s, n, raw, &raw_n))) {
            if (n) memcpy(raw, s, n);
        } else if (t->model != HT_MODEL_BYTES) {
            raw_n = with_blanks(s, n, raw);
        }
        if (raw_n > t->longest) t->longest = (uint32_t)raw_n;
        at += (uint32_t)n;
        raw_at += (uint32_t)raw_n;
    }
    t->spelled.at[source->n] = at;
    t->raw.at[source->n] = raw_at;
    return 0;
}

/* ---- order of scores ------------------------------------------------------------------------------------ */

typedef struct scored { float score; int32_t id; } scored;

static int better_first(const void *a, const void *b)
{
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return x > y ? -1 : x < y;
}

/* Ranks instead of scores: equal scores have equal ranks, so that the left pair goes first. */
static int rank_scores(ht_tokenizer *t, const ht_vocab_source *source, ht_error *err)
{
    int ret = 0;
    scored *order = ht_alloc((size_t)t->n, sizeof *order);
    t->rank = ht_alloc((size_t)t->n, sizeof *t->rank);
    if (!order || !t->rank) {
        ret = ht_fail(err, -ENOMEM, "%s: no memory for scores", source->origin);
        goto out;
    }
    for (int32_t i = 0; i < t->n; i++) {
        order[i] = (scored){source->scores[i], i};
        if (isnan(source->scores[i])) {
            ret = ht_fail(err, -EINVAL, "tokenizer.ggml.scores[%d] is not a number", i);
            goto out;
        }
    }
    qsort(order, (size_t)t->n, sizeof *order, better_first);
    uint32_t rank = 0;
    for (int32_t i = 0; i < t->n; i++) {
        if (i && order[i].score < order[i - 1].score) rank++;
        t->rank[order[i].id] = rank;
    }
out:
    ht_free(order);
    return ret;
}

/* ---- tables --------------------------------------------------------------------------------------------- */

static void note_blank_inside(ht_tokenizer *t, const char *raw, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (raw[i] == ' ' && raw[i - 1] != ' ') t->blank_inside = true;
    }
}

static int fill_maps(ht_tokenizer *t)
{
    if (ht_piece_map_open(&t->by_spelling, t->n) < 0 || ht_piece_map_open(&t->by_raw, t->n) < 0 ||
        ht_trie_open(&t->special) < 0) {
        return -ENOMEM;
    }
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    for (int pass = 0; pass < 2; pass++) { /* ordinary tokens first: a special one never hides their spelling */
        for (int32_t i = 0; i < t->n; i++) {
            size_t n, raw_n;
            const char *s = ht_pieces_get(&t->spelled, i, &n), *raw = ht_pieces_get(&t->raw, i, &raw_n);
            if ((t->kind[i] == HT_TOKEN_NORMAL) != (pass == 0) || !n) continue;
            ht_piece_map_add(&t->by_spelling, &t->spelled, i);
            if (from_text(t, i)) {
                ht_piece_map_add(&t->by_raw, &t->raw, i);
                note_blank_inside(t, raw, raw_n);
            }
            if (raw_n == 1 && (t->kind[i] == HT_TOKEN_BYTE || (t->model == HT_MODEL_BYTES && from_text(t, i))) &&
                t->byte_id[(uint8_t)raw[0]] < 0) {
                t->byte_id[(uint8_t)raw[0]] = i;
            }
            bool special = t->kind[i] == HT_TOKEN_CONTROL || t->kind[i] == HT_TOKEN_USER ||
                           t->kind[i] == HT_TOKEN_UNKNOWN;
            if (special && ht_trie_add(&t->special, s, n, i) < 0) return -ENOMEM;
            /* SentencePiece looks for user-defined tokens where blanks are U+2581 already; the other pipelines before. */
            if (t->model == HT_MODEL_SCORES && t->kind[i] == HT_TOKEN_USER &&
                ht_trie_add(&t->special, raw, raw_n, i) < 0)
                return -ENOMEM;
        }
    }
    return 0;
}

int ht_vocab_check_gaps(int64_t n, int64_t count, const char *origin, ht_error *err)
{
    if (n <= 4 * count + 65536) return 0;
    return ht_fail(err, -EINVAL, "%s: id %lld among %lld tokens", origin, (long long)n - 1, (long long)count);
}

int ht_vocab_build(ht_tokenizer *t, const ht_vocab_source *source, ht_error *err)
{
    if (source->n < 1 || source->n > 1 << 24) {
        return ht_fail(err, -EINVAL, "%s: %lld tokens", source->origin, (long long)source->n);
    }
    t->n = (int32_t)source->n;
    int ret = fill_pieces(t, source, err);
    if (ret == 0 && source->scores) ret = rank_scores(t, source, err);
    if (ret == 0 && fill_maps(t) < 0) ret = ht_fail(err, -ENOMEM, "%s: no memory", source->origin);
    return ret;
}

/* ---- merges --------------------------------------------------------------------------------------------- */

int ht_vocab_merges_open(ht_tokenizer *t, uint64_t n, ht_error *err)
{
    return ht_u64_map_open(&t->merges, n) < 0 ? ht_fail(err, -ENOMEM, "no memory for %llu merges",
                                                        (unsigned long long)n) : 0;
}

int ht_vocab_add_merge(ht_tokenizer *t, uint64_t rank, ht_gguf_string left, ht_gguf_string right, const char *origin,
                       ht_error *err)
{
    char buffer[256], *both = buffer;
    size_t n = left.len + right.len;
    int ret = 0;
    if (rank >= UINT32_MAX) return ht_fail(err, -EINVAL, "%s: too many merges", origin);
    if (n > sizeof buffer && !(both = ht_alloc(n, 1))) return ht_fail(err, -ENOMEM, "%s: no memory", origin);
    memcpy(both, left.data, left.len);
    memcpy(both + left.len, right.data, right.len);
    int32_t a = ht_piece_map_find(&t->by_spelling, &t->spelled, left.data, left.len);
    int32_t b = ht_piece_map_find(&t->by_spelling, &t->spelled, right.data, right.len);
    int32_t ab = ht_piece_map_find(&t->by_spelling, &t->spelled, both, n);
    if (a < 0 || b < 0 || ab < 0) {
        ht_gguf_string missing = a < 0 ? left : b < 0 ? right : (ht_gguf_string){both, n};
        ret = ht_fail(err, -EINVAL, "%s[%llu]: '%.*s' is no token", origin, (unsigned long long)rank,
                      (int)(missing.len < 80 ? missing.len : 80), missing.data);
    } else if (ht_u64_map_add(&t->merges, (uint64_t)(uint32_t)a << 32 | (uint32_t)b, rank << 32 | (uint32_t)ab) < 0) {
        ret = ht_fail(err, -ENOMEM, "%s: no memory", origin);
    }
    if (both != buffer) ht_free(both);
    return ret;
}

static const char *const ends[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "<|end_of_sentence|>", "<EOT>", "< EOT >", "_<EOT>", "[EOT]",
    "<|eot|>", "<end_of_utterance>", "<\xef\xbd\x9c" "end\xe2\x96\x81" "of\xe2\x96\x81sentence\xef\xbd\x9c>",
};

bool ht_vocab_is_end(ht_gguf_string spelled)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (spelled.len == strlen(ends[i]) && !memcmp(spelled.data, ends[i], spelled.len)) return true;
    return false;
}

void ht_vocab_mark_ends(ht_tokenizer *t)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int32_t id = ht_tokenizer_find(t, ends[i]);
        if (id >= 0 && (t->kind[id] == HT_TOKEN_CONTROL || t->kind[id] == HT_TOKEN_USER)) t->marks[id] |= HT_MARK_END;
    }
}
