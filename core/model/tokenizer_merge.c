/* One word to ids by merging neighbours, best pair first, the left one first among equals.
 *
 * Short words look at all pairs for each merge; long ones keep the pairs in a heap, so that a megabyte of one letter
 * costs n log n. Heap entries are never removed: one whose symbols have changed since has another length. */
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

enum { SHORT_WORD = 24 };

void ht_merger_close(ht_merger *m)
{
    ht_free(m->symbols);
    ht_free(m->heap);
    m->symbols = NULL;
    m->heap = NULL;
}

/* ---- pairs ---------------------------------------------------------------------------------------------- */

/* What merging symbol i with its right neighbour gives, into its pair_rank and pair_id. */
static void look_up_pair(const ht_tokenizer *t, const char *word, ht_symbol *symbols, int32_t i)
{
    ht_symbol *s = symbols + i;
    s->pair_rank = UINT32_MAX;
    if (s->next < 0) return;
    const ht_symbol *next = symbols + s->next;
    if (t->model == HT_MODEL_SCORES) {
        uint64_t len = (uint64_t)s->len + next->len;
        if (len > t->longest) return;
        int32_t id = ht_piece_map_find(&t->by_raw, &t->raw, word + s->at, len);
        if (id < 0) return;
        s->pair_rank = t->rank[id];
        s->pair_id = id;
    } else {
        uint64_t value;
        if (s->id < 0 || next->id < 0) return;
        if (!ht_u64_map_find(&t->merges, (uint64_t)(uint32_t)s->id << 32 | (uint32_t)next->id, &value)) return;
        s->pair_rank = (uint32_t)(value >> 32);
        s->pair_id = (int32_t)(uint32_t)value;
    }
}

static void merge(ht_symbol *symbols, int32_t i)
{
    ht_symbol *s = symbols + i, *next = symbols + s->next;
    s->len += next->len;
    s->id = s->pair_id;
    s->next = next->next;
    if (next->next >= 0) symbols[next->next].prev = i;
    next->len = 0;
}

static void merge_short(const ht_tokenizer *t, const char *word, ht_symbol *symbols, int32_t n)
{
    for (int32_t i = 0; i < n; i++) look_up_pair(t, word, symbols, i);
    for (;;) {
        int32_t best = -1;
        uint32_t rank = UINT32_MAX;
        for (int32_t i = 0; i >= 0; i = symbols[i].next) {
            if (symbols[i].pair_rank < rank) {
                rank = symbols[i].pair_rank;
                best = i;
            }
        }
        if (best < 0) return;
        merge(symbols, best);
        look_up_pair(t, word, symbols, best);
        if (symbols[best].prev >= 0) look_up_pair(t, word, symbols, symbols[best].prev);
    }
}

/* ---- heap ----------------------------------------------------------------------------------------------- */

static int heap_push(ht_merger *m, ht_merge_entry entry)
{
    if (m->heap_n == m->heap_cap) {
        size_t cap = m->heap_cap ? 2 * m->heap_cap : 256;
        ht_merge_entry *heap = ht_realloc(m->heap, cap, sizeof *heap);
        if (!heap) return -ENOMEM;
        m->heap = heap;
        m->heap_cap = cap;
    }
    size_t i = m->heap_n++;
    for (; i > 0 && m->heap[(i - 1) / 2].key > entry.key; i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = entry;
    return 0;
}

static ht_merge_entry heap_pop(ht_merger *m)
{
    ht_merge_entry top = m->heap[0], last = m->heap[--m->heap_n];
    size_t i = 0;
    for (size_t child = 1; child < m->heap_n; i = child, child = 2 * child + 1) {
        if (child + 1 < m->heap_n && m->heap[child + 1].key < m->heap[child].key) child++;
        if (m->heap[child].key >= last.key) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = last;
    return top;
}

static int push_pair(ht_merger *m, const char *word, int32_t i)
{
    if (i < 0) return 0;
    look_up_pair(m->t, word, m->symbols, i);
    ht_symbol *s = m->symbols + i;
    if (s->pair_rank == UINT32_MAX) return 0;
    return heap_push(m, (ht_merge_entry){.key = (uint64_t)s->pair_rank << 32 | (uint32_t)i,
                                         .len = s->len + m->symbols[s->next].len, .id = s->pair_id});
}

static int merge_long(ht_merger *m, const char *word, int32_t n)
{
    m->heap_n = 0;
    for (int32_t i = 0; i < n; i++) {
        if (push_pair(m, word, i) < 0) return -ENOMEM;
    }
    while (m->heap_n) {
        ht_merge_entry entry = heap_pop(m);
        int32_t i = (int32_t)(uint32_t)entry.key;
        ht_symbol *s = m->symbols + i;
        if (!s->len || s->next < 0 || s->len + m->symbols[s->next].len != entry.len) continue;
        s->pair_id = entry.id;
        merge(m->symbols, i);
        if (push_pair(m, word, i) < 0 || push_pair(m, word, s->prev) < 0) return -ENOMEM;
    }
    return 0;
}

/* ---- symbols -------------------------------------------------------------------------------------------- */

static void add_symbol(ht_merger *m, int32_t *n, size_t at, size_t len, int32_t id)
{
    m->symbols[*n] = (ht_symbol){.at = (uint32_t)at, .len = (uint32_t)len, .id = id, .prev = *n - 1, .next = *n + 1};
    ++*n;
}

/* Byte-level BPE: a symbol a byte. A byte without a token is left out, as the original tokenizers do; if it is no
 * text at all, it becomes U+FFFD when that can be said. */
static int32_t byte_symbols(ht_merger *m, const char *word, size_t len, bool valid)
{
    static const uint8_t replacement[3] = {0xef, 0xbf, 0xbd};
    const int32_t *byte_id = m->t->byte_id;
    int32_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = byte_id[(uint8_t)word[i]];
        if (id >= 0) {
            add_symbol(m, &n, i, 1, id);
        } else if (!valid) {
            for (int k = 0; k < 3; k++) {
                if (byte_id[replacement[k]] >= 0) add_symbol(m, &n, i, 1, byte_id[replacement[k]]);
            }
        }
    }
    return n;
}

/* The other two: a symbol a character; a character without a token has id -1 and ends as bytes (SCORES), or is bytes
 * from the start (CHARS, where byte tokens could be part of merges). */
static int32_t char_symbols(ht_merger *m, const char *word, size_t len)
{
    const ht_tokenizer *t = m->t;
    int32_t n = 0;
    for (size_t i = 0; i < len;) {
        int step = ht_utf8_step(word + i, len - i);
        size_t k = step > 0 ? (size_t)step : 1;
        int32_t id = step > 0 ? ht_piece_map_find(&t->by_raw, &t->raw, word + i, k) : -1;
        bool by_bytes = id < 0 && t->model == HT_MODEL_CHARS;
        for (size_t b = 0; by_bytes && b < k; b++) by_bytes = t->byte_id[(uint8_t)word[i + b]] >= 0;
        if (by_bytes) {
            for (size_t b = 0; b < k; b++) add_symbol(m, &n, i + b, 1, t->byte_id[(uint8_t)word[i + b]]);
        } else {
            add_symbol(m, &n, i, k, id);
        }
        i += k;
    }
    return n;
}

static void emit_symbol(ht_merger *m, const char *word, const ht_symbol *s)
{
    const ht_tokenizer *t = m->t;
    if (s->id >= 0) {
        ht_merger_emit(m, s->id);
        m->last_unknown = false;
        return;
    }
    bool bytes = true;
    for (uint32_t i = 0; i < s->len; i++) bytes = bytes && t->byte_id[(uint8_t)word[s->at + i]] >= 0;
    if (bytes) {
        for (uint32_t i = 0; i < s->len; i++) ht_merger_emit(m, t->byte_id[(uint8_t)word[s->at + i]]);
        m->last_unknown = false;
    } else if (t->unknown >= 0) {
        if (!m->last_unknown || !t->fuses_unknown) ht_merger_emit(m, t->unknown);
        m->last_unknown = true;
    }
}

int ht_merger_word(ht_merger *m, const char *word, size_t len, bool valid, ht_error *err)
{
    const ht_tokenizer *t = m->t;
    if (!len) return 0;
    if (len > INT32_MAX / 4) return ht_fail(err, -E2BIG, "a word of %zu bytes is too long to encode", len);
    if (t->ignore_merges && len <= t->longest) {
        int32_t id = ht_piece_map_find(&t->by_raw, &t->raw, word, len);
        if (id >= 0) {
            ht_merger_emit(m, id);
            m->last_unknown = false;
            return 0;
        }
    }
    size_t most = t->model == HT_MODEL_BYTES && !valid ? 3 * len : len;
    if (most > m->symbols_cap) {
        size_t cap = most < 256 ? 256 : most;
        ht_symbol *symbols = ht_realloc(m->symbols, cap, sizeof *symbols);
        if (!symbols) return ht_fail(err, -ENOMEM, "no memory to encode a word of %zu bytes", len);
        m->symbols = symbols;
        m->symbols_cap = cap;
    }
    int32_t n = t->model == HT_MODEL_BYTES ? byte_symbols(m, word, len, valid) : char_symbols(m, word, len);
    if (!n) return 0;
    m->symbols[n - 1].next = -1;
    if (n <= SHORT_WORD) {
        merge_short(t, word, m->symbols, n);
    } else if (merge_long(m, word, n) < 0) {
        return ht_fail(err, -ENOMEM, "no memory to encode a word of %zu bytes", len);
    }
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next) emit_symbol(m, word, m->symbols + i);
    return 0;
}
