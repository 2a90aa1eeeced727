/* What the parts of the tokenizer share: the vocabulary's tables, and the steps of encoding.
 *
 *   tokenizer.c        accessors, decoding, streaming
 *   tokenizer_gguf.c   the tokenizer.ggml.* keys
 *   tokenizer_hf.c     tokenizer.json
 *   tokenizer_spm.c    tokenizer.model, SentencePiece's own file
 *   tokenizer_vocab.c  building the tables from spellings, kinds, scores and merges
 *   tokenizer_map.c    hash tables and the trie of special tokens
 *   tokenizer_split.c  pre-tokenizers: a text cut into words by patterns
 *   tokenizer_merge.c  one word to ids by merging
 *   tokenizer_encode.c the whole way from text to ids
 *   tokenizer_utf8.c   UTF-8 steps and normalisation
 */
#ifndef HEARTH_CORE_MODEL_TOKENIZER_INTERNAL_H
#define HEARTH_CORE_MODEL_TOKENIZER_INTERNAL_H

#include "core/model/tokenizer.h"

#include <string.h>

/* ---- UTF-8 ---------------------------------------------------------------------------------------------- */

/* Length (1..4) of the well-formed character at p, 0 if p does not begin one, or -1 if the n bytes are a proper
 * beginning of one. n > 0. */
int ht_utf8_step(const char *p, size_t n);
/* Length of the longest ill-formed part at p by the Unicode standard's rule (maximal subpart), at least 1. */
size_t ht_utf8_bad_part(const char *p, size_t n);
bool ht_utf8_is_blank(const char *p, size_t n, size_t *len); /* White_Space of a well-formed character */

typedef enum ht_normal_form { HT_FORM_NONE, HT_FORM_NFC, HT_FORM_NFD, HT_FORM_NFKC, HT_FORM_NFKD } ht_normal_form;
/* Well-formed text in, a new string out (*out: ht_free); *out is NULL when the text is already in the form, as
 * far as a quick look can tell. */
int ht_utf8_normalize(ht_normal_form form, const char *text, size_t n, char **out, size_t *out_n, ht_error *err);

/* ---- tables --------------------------------------------------------------------------------------------- */

/* Strings of tokens, end to end. */
typedef struct ht_pieces {
    char *bytes;  /* owned */
    uint32_t *at; /* [n + 1] offsets into bytes, owned */
} ht_pieces;

static inline const char *ht_pieces_get(const ht_pieces *p, int32_t id, size_t *len)
{
    *len = p->at[id + 1] - p->at[id];
    return p->bytes + p->at[id];
}

/* String to id over an ht_pieces. Open addressing, filled once. */
typedef struct ht_piece_map {
    uint32_t *slots; /* id + 1, 0: empty; owned */
    uint32_t mask;
} ht_piece_map;

int ht_piece_map_open(ht_piece_map *m, int64_t n); /* 0 or -ENOMEM */
void ht_piece_map_close(ht_piece_map *m);
/* False when the string is there already: the first one stays. */
bool ht_piece_map_add(ht_piece_map *m, const ht_pieces *pieces, int32_t id);
int32_t ht_piece_map_find(const ht_piece_map *m, const ht_pieces *pieces, const char *s, size_t len); /* or -1 */

/* 64-bit keys (never UINT64_MAX) to 64-bit values; grows. */
typedef struct ht_u64_map {
    uint64_t *slots; /* [mask + 1][2] key, value; owned */
    uint64_t mask, n;
} ht_u64_map;

int ht_u64_map_open(ht_u64_map *m, uint64_t n);
void ht_u64_map_close(ht_u64_map *m);
int ht_u64_map_add(ht_u64_map *m, uint64_t key, uint64_t value); /* 1 added, 0 was there, -ENOMEM */
bool ht_u64_map_find(const ht_u64_map *m, uint64_t key, uint64_t *value);

/* Special tokens by their spelling, longest match. */
typedef struct ht_trie {
    ht_u64_map next;  /* node << 8 | byte -> node; node 0 is the root */
    int32_t *ids;     /* [n_nodes] token that ends here, or -1; owned */
    uint32_t n_nodes, capacity;
    bool begins[256]; /* some token begins with this byte */
} ht_trie;

int ht_trie_open(ht_trie *trie);
void ht_trie_close(ht_trie *trie);
int ht_trie_add(ht_trie *trie, const char *s, size_t len, int32_t id);

/* ---- pre-tokenizers ------------------------------------------------------------------------------------- */

struct pcre2_real_code_8;
struct pcre2_real_general_context_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

/* What becomes of a match. The text between matches is a piece of its own in all of them. */
typedef enum ht_split_rule {
    HT_SPLIT_ISOLATED, HT_SPLIT_REMOVED, HT_SPLIT_WITH_PREVIOUS, HT_SPLIT_WITH_NEXT, HT_SPLIT_CONTIGUOUS,
} ht_split_rule;

enum { HT_SPLIT_STAGES = 16 };

/* Stages applied in turn, each to every piece that the one before left. */
typedef struct ht_splitter {
    struct pcre2_real_general_context_8 *general;
    struct pcre2_real_match_context_8 *match;
    struct ht_split_stage {
        struct pcre2_real_code_8 *code; /* owned */
        ht_split_rule rule;
        bool invert; /* what does not match is the match */
    } stages[HT_SPLIT_STAGES];
    int n;
} ht_splitter;

int ht_splitter_open(ht_splitter *s, ht_error *err);
void ht_splitter_close(ht_splitter *s);
/* `origin` names the pattern in errors. -EINVAL: the pattern does not compile. */
int ht_splitter_add(ht_splitter *s, const char *pattern, size_t len, bool literal, ht_split_rule rule, bool invert,
                    const char *origin, ht_error *err);
/* The built-in stages by the name in tokenizer.ggml.pre. -ENOTSUP names it. */
typedef struct ht_pre_facts {
    bool ignore_merges; /* a word that is a token is that token, whatever the merges would make of it */
    bool nfc;           /* the text is put into NFC first */
    bool adds_bos;      /* unless tokenizer.ggml.add_bos_token says otherwise */
} ht_pre_facts;
int ht_splitter_add_named(ht_splitter *s, const char *name, size_t len, ht_pre_facts *facts, ht_error *err);

/* Calls fn with every word of a well-formed text, in order; stops at its first negative result. */
typedef int ht_word_fn(void *user, const char *word, size_t len);
typedef struct ht_split_call {
    struct pcre2_real_match_data_8 *data; /* owned */
} ht_split_call;
int ht_split_call_open(ht_split_call *c, const ht_splitter *s, ht_error *err);
void ht_split_call_close(ht_split_call *c);
int ht_splitter_run(const ht_splitter *s, ht_split_call *c, const char *text, size_t n, ht_word_fn *fn, void *user,
                    ht_error *err);

/* ---- the vocabulary ------------------------------------------------------------------------------------- */

typedef enum ht_token_model {
    HT_MODEL_SCORES, /* SentencePiece: the pair whose union scores best is merged first; blanks are part of pieces */
    HT_MODEL_BYTES,  /* byte-level BPE: merges in order over bytes */
    HT_MODEL_CHARS,  /* BPE over characters, blanks as in SentencePiece, unknown characters by bytes */
} ht_token_model;

enum { /* ht_tokenizer.marks */
    HT_MARK_END = 1,
    HT_MARK_EAT_LEFT = 2,  /* blanks before the token belong to it when it is spelled in a text */
    HT_MARK_EAT_RIGHT = 4, /* likewise after it */
    HT_MARK_WORD = 8,      /* counts only between characters that are no word characters */
};

struct ht_tokenizer {
    ht_token_model model;
    int32_t n;
    ht_pieces spelled;      /* as in the file */
    ht_pieces raw;          /* the bytes that a token stands for */
    uint8_t *kind;          /* [n] ht_token_kind, owned */
    uint8_t *marks;         /* [n] owned */
    uint32_t *rank;         /* [n] place in the order of scores, best first (SCORES only); owned */
    ht_piece_map by_spelling;
    ht_piece_map by_raw;    /* tokens that text can become without being spelled as special */
    ht_u64_map merges;      /* left id << 32 | right id -> rank << 32 | id of the union (BYTES, CHARS) */
    int32_t byte_id[256];   /* the token of each byte alone, or -1 */
    ht_trie special;        /* control and user-defined tokens */
    ht_splitter split;      /* BYTES and CHARS */
    ht_normal_form form;
    int32_t bos, unknown;   /* -1: none */
    uint32_t longest;       /* bytes of the longest raw piece */
    bool adds_bos, ignore_merges;
    bool adds_blank;        /* a blank is put in front of text */
    bool blank_once;        /* only of the text's beginning, not after special tokens too */
    bool blank_if_none;     /* only if the text does not begin with one */
    uint8_t cuts_number_bytes; /* bytes that are numerals of Latin-1 are words of their own: runs (1) or each (2) */
    bool after_bytes;       /* while loading: the pre-tokenizer step comes behind ByteLevel */
    bool blanks_replaced;   /* while loading: the normalizer leaves no blank */
    bool cuts_blanks;       /* every blank begins a word */
    bool fuses_unknown;
    bool blank_inside;      /* some piece has a blank after a non-blank: words cannot be cut there */
    char *chat_template;    /* owned, or NULL */
};

/* Vocabulary under construction: spellings must stay valid until ht_vocab_build returns. */
typedef struct ht_vocab_source {
    const ht_gguf_string *spelled; /* [n] */
    const uint8_t *kinds;          /* [n] ht_token_kind */
    const float *scores;           /* [n] or NULL */
    int64_t n;
    const char *origin;            /* names the token list in errors */
} ht_vocab_source;

/* Ids may have gaps, but a small file must not ask for a large table: -EINVAL when ids go up to n - 1 and only `count`
 * tokens are there. */
int ht_vocab_check_gaps(int64_t n, int64_t count, const char *origin, ht_error *err);
/* Everything but merges, splitter and settings; t->model is set. */
int ht_vocab_build(ht_tokenizer *t, const ht_vocab_source *source, ht_error *err);
int ht_vocab_merges_open(ht_tokenizer *t, uint64_t n, ht_error *err);
/* Merge number `rank` of left and right; `origin` names the list in errors. */
int ht_vocab_add_merge(ht_tokenizer *t, uint64_t rank, ht_gguf_string left, ht_gguf_string right, const char *origin,
                       ht_error *err);
/* A token that another file adds to tokenizer.model's. */
typedef struct ht_added_token {
    ht_gguf_string spelled; /* borrowed */
    int64_t id;
    uint8_t kind, marks;
} ht_added_token;
/* A whole vocabulary from tokenizer.model, and what is added to it. */
int ht_vocab_from_sentencepiece(ht_tokenizer *t, const char *path, const ht_added_token *added, int n_added, ht_error *err);
/* Is that a well-known spelling of a token that ends an answer? */
bool ht_vocab_is_end(ht_gguf_string spelled);
/* Marks the tokens that end an answer by their well-known spellings. */
void ht_vocab_mark_ends(ht_tokenizer *t);
/* The byte that a character of the byte alphabet stands for, or -1. */
int ht_byte_of_char(uint32_t c);

/* ---- words to ids --------------------------------------------------------------------------------------- */

typedef struct ht_symbol {
    uint32_t at, len;   /* bytes of the word */
    int32_t id;         /* -1: no token */
    int32_t prev, next; /* neighbours, -1: none */
    uint32_t pair_rank; /* of merging with `next`; UINT32_MAX: cannot */
    int32_t pair_id;
} ht_symbol;

typedef struct ht_merge_entry {
    uint64_t key; /* rank << 32 | left symbol: the order of merging */
    uint32_t len; /* of both: tells an entry whose symbols have changed since */
    int32_t id;
} ht_merge_entry;

/* Scratch of one encoding. */
typedef struct ht_merger {
    const ht_tokenizer *t;
    ht_symbol *symbols;
    ht_merge_entry *heap;
    size_t symbols_cap, heap_cap, heap_n;
    int32_t *out; /* borrowed from the caller */
    int64_t capacity, n;
    bool last_unknown;
} ht_merger;

void ht_merger_close(ht_merger *m);
static inline void ht_merger_emit(ht_merger *m, int32_t id)
{
    if (m->n < m->capacity) m->out[m->n] = id;
    m->n++;
}
/* Appends the ids of one word. `valid`: it is well-formed UTF-8. */
int ht_merger_word(ht_merger *m, const char *word, size_t len, bool valid, ht_error *err);

#endif
