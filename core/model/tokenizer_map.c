/* Hash tables of the tokenizer, and the trie of its special tokens. They know nothing of tokens but ids. */
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

static inline uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

static inline uint64_t hash_bytes(const char *s, size_t len)
{
    uint64_t h = len * 0x9e3779b97f4a7c15u, word;
    for (; len >= 8; s += 8, len -= 8) {
        memcpy(&word, s, 8);
        h = mix(h ^ word);
    }
    word = 0;
    memcpy(&word, s, len);
    return mix(h ^ word);
}

/* ---- strings to ids ------------------------------------------------------------------------------------- */

int ht_piece_map_open(ht_piece_map *m, int64_t n)
{
    uint32_t size = 16;
    while (size < 2 * (uint64_t)n) size *= 2;
    m->slots = ht_calloc(size, sizeof *m->slots);
    m->mask = size - 1;
    return m->slots ? 0 : -ENOMEM;
}

void ht_piece_map_close(ht_piece_map *m)
{
    ht_free(m->slots);
    m->slots = NULL;
}

bool ht_piece_map_add(ht_piece_map *m, const ht_pieces *pieces, int32_t id)
{
    size_t len, other_len;
    const char *s = ht_pieces_get(pieces, id, &len);
    uint32_t i = (uint32_t)hash_bytes(s, len) & m->mask;
    for (; m->slots[i]; i = (i + 1) & m->mask) {
        const char *other = ht_pieces_get(pieces, (int32_t)(m->slots[i] - 1), &other_len);
        if (other_len == len && !memcmp(other, s, len)) return false;
    }
    m->slots[i] = (uint32_t)id + 1;
    return true;
}

int32_t ht_piece_map_find(const ht_piece_map *m, const ht_pieces *pieces, const char *s, size_t len)
{
    if (!m->slots) return -1;
    for (uint32_t i = (uint32_t)hash_bytes(s, len) & m->mask; m->slots[i]; i = (i + 1) & m->mask) {
        size_t other_len;
        const char *other = ht_pieces_get(pieces, (int32_t)(m->slots[i] - 1), &other_len);
        if (other_len == len && !memcmp(other, s, len)) return (int32_t)(m->slots[i] - 1);
    }
    return -1;
}

/* ---- numbers to numbers --------------------------------------------------------------------------------- */

int ht_u64_map_open(ht_u64_map *m, uint64_t n)
{
    uint64_t size = 64;
    while (size < 2 * n) size *= 2;
    m->slots = ht_alloc(size, 2 * sizeof *m->slots);
    if (!m->slots) return -ENOMEM;
    memset(m->slots, 0xff, size * 2 * sizeof *m->slots);
    m->mask = size - 1;
    m->n = 0;
    return 0;
}

void ht_u64_map_close(ht_u64_map *m)
{
    ht_free(m->slots);
    m->slots = NULL;
}

static int u64_map_grow(ht_u64_map *m)
{
    ht_u64_map bigger;
    if (ht_u64_map_open(&bigger, m->mask + 1) < 0) return -ENOMEM;
    for (uint64_t i = 0; i <= m->mask; i++) {
        if (m->slots[2 * i] != UINT64_MAX) ht_u64_map_add(&bigger, m->slots[2 * i], m->slots[2 * i + 1]);
    }
    ht_free(m->slots);
    *m = bigger;
    return 0;
}

int ht_u64_map_add(ht_u64_map *m, uint64_t key, uint64_t value)
{
    if (4 * (m->n + 1) > 3 * (m->mask + 1) && u64_map_grow(m) < 0) return -ENOMEM;
    uint64_t i = mix(key) & m->mask;
    for (; m->slots[2 * i] != UINT64_MAX; i = (i + 1) & m->mask) {
        if (m->slots[2 * i] == key) return 0;
    }
    m->slots[2 * i] = key;
    m->slots[2 * i + 1] = value;
    m->n++;
    return 1;
}

bool ht_u64_map_find(const ht_u64_map *m, uint64_t key, uint64_t *value)
{
    if (!m->slots) return false;
    for (uint64_t i = mix(key) & m->mask; m->slots[2 * i] != UINT64_MAX; i = (i + 1) & m->mask) {
        if (m->slots[2 * i] == key) {
            *value = m->slots[2 * i + 1];
            return true;
        }
    }
    return false;
}

/* ---- trie ----------------------------------------------------------------------------------------------- */

static int trie_node(ht_trie *trie)
{
    if (trie->n_nodes == trie->capacity) {
        uint32_t capacity = trie->capacity ? 2 * trie->capacity : 64;
        int32_t *ids = ht_realloc(trie->ids, capacity, sizeof *ids);
        if (!ids) return -ENOMEM;
        trie->ids = ids;
        trie->capacity = capacity;
    }
    trie->ids[trie->n_nodes++] = -1;
    return 0;
}

int ht_trie_open(ht_trie *trie)
{
    memset(trie, 0, sizeof *trie);
    if (ht_u64_map_open(&trie->next, 64) < 0 || trie_node(trie) < 0) {
        ht_trie_close(trie);
        return -ENOMEM;
    }
    return 0;
}

void ht_trie_close(ht_trie *trie)
{
    ht_u64_map_close(&trie->next);
    ht_free(trie->ids);
    trie->ids = NULL;
}

int ht_trie_add(ht_trie *trie, const char *s, size_t len, int32_t id)
{
    uint64_t node = 0, next;
    if (!len) return 0;
    trie->begins[(uint8_t)s[0]] = true;
    for (size_t i = 0; i < len; i++, node = next) {
        uint64_t key = node << 8 | (uint8_t)s[i];
        if (ht_u64_map_find(&trie->next, key, &next)) continue;
        next = trie->n_nodes;
        if (trie_node(trie) < 0 || ht_u64_map_add(&trie->next, key, next) < 0) return -ENOMEM;
    }
    if (trie->ids[node] < 0) trie->ids[node] = id;
    return 0;
}
