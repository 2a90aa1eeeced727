/* Test support: a small sound byte-level vocabulary, made in memory. */
#ifndef HEARTH_TESTS_MODEL_VOCAB_MADE_H
#define HEARTH_TESTS_MODEL_VOCAB_MADE_H

#include "core/model/tokenizer.h"

#include <string.h>

/* A GGUF vocabulary by hand: byte-level, all 256 bytes, a few merges, two special tokens. Nothing is copied: the
 * values point into `made`, so spoiling them is spoiling the file. */
enum { MADE_TOKENS = 256 + 6, MADE_MERGES = 4 };
typedef struct made_vocab {
    char bytes[256][3];
    ht_gguf_string tokens[MADE_TOKENS], merges[MADE_MERGES];
    uint8_t kinds[4 * MADE_TOKENS], scores[4 * MADE_TOKENS];
    ht_gguf_value values[8];
    ht_gguf gguf;
} made_vocab;

static inline ht_gguf_string made_text(const char *s) { return (ht_gguf_string){s, strlen(s)}; }

static inline void made_int(uint8_t *array, int i, uint32_t v) { memcpy(array + 4 * i, &v, 4); }

static inline void make_vocab(made_vocab *m)
{
    memset(m, 0, sizeof *m);
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int c = itself ? b : next++;
        if (c < 128) {
            m->bytes[b][0] = (char)c;
        } else {
            m->bytes[b][0] = (char)(0xc0 | c >> 6);
            m->bytes[b][1] = (char)(0x80 | (c & 63));
        }
        m->tokens[b] = made_text(m->bytes[b]);
    }
    static const char *const more[] = {"ab", "abc", "Ġa", "aa", "<|end|>", "<user>"};
    static const char *const merges[MADE_MERGES] = {"a b", "ab c", "\xc4\xa0 a", "a a"};
    for (int i = 0; i < 6; i++) m->tokens[256 + i] = made_text(more[i]);
    for (int i = 0; i < MADE_MERGES; i++) m->merges[i] = made_text(merges[i]);
    for (int i = 0; i < MADE_TOKENS; i++) made_int(m->kinds, i, i == 260 ? HT_TOKEN_CONTROL : i == 261 ? HT_TOKEN_USER : 1);
    m->values[0] = (ht_gguf_value){.key = "tokenizer.ggml.model", .kind = HT_GGUF_STRING, .string = made_text("gpt2")};
    m->values[1] = (ht_gguf_value){.key = "tokenizer.ggml.pre", .kind = HT_GGUF_STRING, .string = made_text("gpt-2")};
    m->values[2] = (ht_gguf_value){.key = "tokenizer.ggml.tokens", .kind = HT_GGUF_ARRAY, .item = HT_GGUF_STRING,
                                   .count = MADE_TOKENS, .strings = m->tokens};
    m->values[3] = (ht_gguf_value){.key = "tokenizer.ggml.token_type", .kind = HT_GGUF_ARRAY, .item = HT_GGUF_I32,
                                   .count = MADE_TOKENS, .items = m->kinds};
    m->values[4] = (ht_gguf_value){.key = "tokenizer.ggml.merges", .kind = HT_GGUF_ARRAY, .item = HT_GGUF_STRING,
                                   .count = MADE_MERGES, .strings = m->merges};
    m->values[5] = (ht_gguf_value){.key = "tokenizer.ggml.eos_token_id", .kind = HT_GGUF_U32, .as.u = 260};
    m->values[6] = (ht_gguf_value){.key = "tokenizer.ggml.bos_token_id", .kind = HT_GGUF_U32, .as.u = 260};
    m->values[7] = (ht_gguf_value){.key = "tokenizer.chat_template", .kind = HT_GGUF_STRING,
                                   .string = made_text("<|im_start|>")};
    m->gguf = (ht_gguf){.version = 3, .alignment = 32, .values = m->values, .n_values = 8};
}

#endif
