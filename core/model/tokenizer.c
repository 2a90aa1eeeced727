/* A vocabulary in use: what tokens are, ids back to text, and text as it streams. */
#include "core/model/tokenizer.h"

#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

void ht_tokenizer_close(ht_tokenizer **tokenizer)
{
    ht_tokenizer *t = *tokenizer;
    if (!t) return;
    ht_free(t->spelled.bytes);
    ht_free(t->spelled.at);
    ht_free(t->raw.bytes);
    ht_free(t->raw.at);
    ht_free(t->kind);
    ht_free(t->marks);
    ht_free(t->rank);
    ht_piece_map_close(&t->by_spelling);
    ht_piece_map_close(&t->by_raw);
    ht_u64_map_close(&t->merges);
    ht_trie_close(&t->special);
    ht_splitter_close(&t->split);
    ht_free(t->chat_template);
    ht_free(t);
    *tokenizer = NULL;
}

/* ---- what tokens are ------------------------------------------------------------------------------------ */

static bool known(const ht_tokenizer *t, int32_t id) { return id >= 0 && id < t->n; }
static bool hidden(const ht_tokenizer *t, int32_t id)
{
    return t->kind[id] == HT_TOKEN_CONTROL || t->kind[id] == HT_TOKEN_UNKNOWN;
}

int32_t ht_tokenizer_size(const ht_tokenizer *t) { return t->n; }
int32_t ht_tokenizer_longest(const ht_tokenizer *t) { return (int32_t)t->longest; }
const char *ht_tokenizer_chat_template(const ht_tokenizer *t) { return t->chat_template; }

ht_token_kind ht_tokenizer_kind(const ht_tokenizer *t, int32_t id)
{
    return known(t, id) ? (ht_token_kind)t->kind[id] : HT_TOKEN_UNUSED;
}

bool ht_tokenizer_is_end(const ht_tokenizer *t, int32_t id) { return known(t, id) && t->marks[id] & HT_MARK_END; }

int32_t ht_tokenizer_find(const ht_tokenizer *t, const char *spelling)
{
    return ht_piece_map_find(&t->by_spelling, &t->spelled, spelling, strlen(spelling));
}

int ht_tokenizer_piece(const ht_tokenizer *t, int32_t id, bool special, const char **bytes)
{
    size_t len;
    if (!known(t, id)) return -EINVAL;
    *bytes = ht_pieces_get(&t->raw, id, &len);
    return hidden(t, id) && !special ? 0 : (int)len;
}

/* ---- ids to text ---------------------------------------------------------------------------------------- */

/* The piece of one token where blanks matter: `begun` is false while a blank that encoding would have added here is
 * to be taken away, that is at the beginning and after a token that was shown as special. */
static int shown_piece(const ht_tokenizer *t, int32_t id, bool special, bool *begun, const char **bytes)
{
    int len = ht_tokenizer_piece(t, id, special, bytes);
    if (len <= 0) return len;
    bool drop = t->adds_blank && !*begun && !hidden(t, id) && t->kind[id] != HT_TOKEN_USER && **bytes == ' ';
    *begun = t->blank_once || !(hidden(t, id) || t->kind[id] == HT_TOKEN_USER);
    *bytes += drop;
    return len - drop;
}

int64_t ht_tokenizer_decode(const ht_tokenizer *t, const int32_t *ids, int64_t n, bool special, char *out,
                            int64_t capacity)
{
    int64_t used = 0;
    bool begun = false;
    for (int64_t i = 0; i < n; i++) {
        const char *bytes = NULL;
        int64_t len = shown_piece(t, ids[i], special, &begun, &bytes);
        if (len <= 0) continue;
        int64_t room = capacity - used;
        if (room > 0) memcpy(out + used, bytes, (size_t)(len < room ? len : room));
        used += len;
    }
    return used;
}

/* Writes what is whole of bytes[0, n) to out (NULL: counts only), U+FFFD for what is no text, and gives the length
 * of the incomplete rest at the end. */
static int whole_characters(const char *bytes, size_t n, bool flush, char *out, size_t *rest)
{
    int used = 0;
    size_t at = 0;
    while (at < n) {
        int step = ht_utf8_step(bytes + at, n - at);
        if (step < 0 && !flush) break;
        if (step > 0) {
            if (out) memcpy(out + used, bytes + at, (size_t)step);
            used += step;
            at += (size_t)step;
        } else {
            if (out) memcpy(out + used, "\xef\xbf\xbd", 3);
            used += 3;
            at += ht_utf8_bad_part(bytes + at, n - at);
        }
    }
    *rest = n - at;
    return used;
}

int ht_tokenizer_stream(const ht_tokenizer *t, ht_utf8_stream *s, int32_t id, char *out, int capacity)
{
    const char *bytes = "";
    bool begun = s->begun;
    int len = 0;
    size_t rest;
    if (id >= 0 && (len = shown_piece(t, id, false, &begun, &bytes)) < 0) return len;
    if (s->n_held < 0 || s->n_held > 3) return -EINVAL;

    /* A held character is completed byte by byte; the rest of the piece is looked at in place. */
    char head[8];
    size_t n_head = (size_t)s->n_held, taken = 0;
    memcpy(head, s->held, n_head);
    while (n_head && taken < (size_t)len && ht_utf8_step(head, n_head) < 0) head[n_head++] = bytes[taken++];
    int step = n_head ? ht_utf8_step(head, n_head) : 0;
    if (n_head && step == 0) { /* the last byte broke it: that byte begins anew */
        n_head--;
        taken--;
    }
    bool still_held = n_head && step < 0 && id >= 0;
    int from_head = !n_head || still_held ? 0 : whole_characters(head, n_head, true, NULL, &rest);
    int from_piece = still_held ? 0 : whole_characters(bytes + taken, (size_t)len - taken, id < 0, NULL, &rest);
    if (from_head + from_piece > capacity) return -ENOSPC;
    s->begun = begun;
    if (still_held) {
        memcpy(s->held, head, n_head);
        s->n_held = (int)n_head;
        return 0;
    }
    if (n_head) whole_characters(head, n_head, true, out, &rest);
    whole_characters(bytes + taken, (size_t)len - taken, id < 0, out + from_head, &rest);
    memcpy(s->held, bytes + (size_t)len - rest, rest);
    s->n_held = (int)rest;
    return from_head + from_piece;
}
