/* A vocabulary from the tokenizer.ggml.* keys of a GGUF file. */
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

#define KEY "tokenizer.ggml."

/* An array by key with the wanted element kind and length (0: any); *out is NULL when it is absent. */
static int get_array(const ht_gguf *g, const char *key, bool strings, uint64_t count, const ht_gguf_value **out,
                     ht_error *err)
{
    const ht_gguf_value *v = ht_gguf_find(g, key);
    *out = v;
    if (!v) return 0;
    if (v->kind != HT_GGUF_ARRAY || (v->item == HT_GGUF_STRING) != strings || v->item == HT_GGUF_ARRAY) {
        return ht_fail(err, -EINVAL, "%s is not an array of %s", key, strings ? "strings" : "numbers");
    }
    if (count && v->count != count) {
        return ht_fail(err, -EINVAL, "%s has %llu items for %llu tokens", key, (unsigned long long)v->count,
                       (unsigned long long)count);
    }
    return 0;
}

/* An id by key: -1 when absent or "none" (all ones). */
static int get_id(const ht_tokenizer *t, const ht_gguf *g, const char *key, int32_t *out, ht_error *err)
{
    int64_t id = -1;
    int ret = ht_gguf_get_i64(g, key, &id, err);
    *out = -1;
    if (ret <= 0 || id == -1 || id == UINT32_MAX) return ret < 0 ? ret : 0;
    if (id < 0 || id >= t->n) return ht_fail(err, -EINVAL, "%s is %lld, of %d tokens", key, (long long)id, t->n);
    *out = (int32_t)id;
    return 0;
}

static int read_vocab(ht_tokenizer *t, const ht_gguf *g, ht_error *err)
{
    const ht_gguf_value *tokens, *kinds, *scores;
    uint8_t *kind = NULL;
    float *score = NULL;
    int ret = get_array(g, KEY "tokens", true, 0, &tokens, err);
    if (ret < 0) return ret;
    if (!tokens || !tokens->count) return ht_fail(err, -EINVAL, KEY "tokens is missing or empty");
    if (tokens->count > 1 << 24) {
        return ht_fail(err, -EINVAL, KEY "tokens has %llu items", (unsigned long long)tokens->count);
    }
    if ((ret = get_array(g, KEY "token_type", false, tokens->count, &kinds, err)) < 0) return ret;
    if ((ret = get_array(g, KEY "scores", false, tokens->count, &scores, err)) < 0) return ret;
    if (t->model == HT_MODEL_SCORES && !scores) return ht_fail(err, -EINVAL, KEY "scores is missing");

    kind = ht_alloc(tokens->count, 1);
    score = t->model == HT_MODEL_SCORES ? ht_alloc(tokens->count, sizeof *score) : NULL;
    if (!kind || (t->model == HT_MODEL_SCORES && !score)) {
        ret = ht_fail(err, -ENOMEM, KEY "tokens: no memory");
        goto out;
    }
    for (uint64_t i = 0; i < tokens->count; i++) {
        int64_t k = kinds ? ht_gguf_item_i64(kinds, i) : HT_TOKEN_NORMAL;
        if (k < HT_TOKEN_NORMAL || k > HT_TOKEN_BYTE) k = HT_TOKEN_UNUSED; /* 0 is "undefined" in some files */
        if (k == HT_TOKEN_NORMAL && ht_vocab_is_end(tokens->strings[i])) {
            /* As text it would never end an answer. */
            ht_log(HT_LOG_WARN, KEY "tokens[%llu], '%.*s', is no control token in the file: it is taken for one",
                   (unsigned long long)i, (int)tokens->strings[i].len, tokens->strings[i].data);
            k = HT_TOKEN_CONTROL;
        }
        kind[i] = (uint8_t)k;
        if (score) score[i] = (float)ht_gguf_item_f64(scores, i);
    }
    ht_vocab_source source = {.spelled = tokens->strings, .kinds = kind, .scores = score, .n = (int64_t)tokens->count,
                              .origin = KEY "tokens"};
    ret = ht_vocab_build(t, &source, err);
out:
    ht_free(kind);
    ht_free(score);
    return ret;
}

static int read_merges(ht_tokenizer *t, const ht_gguf *g, ht_error *err)
{
    const ht_gguf_value *merges;
    int ret = get_array(g, KEY "merges", true, 0, &merges, err);
    if (ret < 0) return ret;
    if (!merges) return ht_fail(err, -EINVAL, KEY "merges is missing");
    if ((ret = ht_vocab_merges_open(t, merges->count, err)) < 0) return ret;
    for (uint64_t i = 0; i < merges->count; i++) {
        ht_gguf_string s = merges->strings[i];
        const char *blank = s.len > 1 ? memchr(s.data + 1, ' ', s.len - 1) : NULL;
        if (!blank) return ht_fail(err, -EINVAL, KEY "merges[%llu] is no pair", (unsigned long long)i);
        ht_gguf_string left = {s.data, (uint64_t)(blank - s.data)};
        ht_gguf_string right = {blank + 1, s.len - left.len - 1};
        if ((ret = ht_vocab_add_merge(t, i, left, right, KEY "merges", err)) < 0) return ret;
    }
    return 0;
}

static int read_splitter(ht_tokenizer *t, const ht_gguf *g, ht_error *err)
{
    ht_gguf_string pre = {"default", 7};
    ht_pre_facts facts;
    int ret = ht_gguf_get_string(g, KEY "pre", &pre, err);
    if (ret < 0) return ret;
    if (!ret) ht_log(HT_LOG_WARN, KEY "pre is missing: words are cut by default rules, which may not be the model's");
    if ((ret = ht_splitter_open(&t->split, err)) < 0) return ret;
    if ((ret = ht_splitter_add_named(&t->split, pre.data, pre.len, &facts, err)) < 0) return ret;
    t->ignore_merges = facts.ignore_merges;
    t->form = facts.nfc ? HT_FORM_NFC : HT_FORM_NONE;
    t->adds_bos = facts.adds_bos;
    return 0;
}

static int read_special(ht_tokenizer *t, const ht_gguf *g, ht_error *err)
{
    static const char *const ends[] = {KEY "eos_token_id", KEY "eot_token_id", KEY "eom_token_id"};
    int ret;
    int32_t id;
    if ((ret = get_id(t, g, KEY "bos_token_id", &t->bos, err)) < 0) return ret;
    if ((ret = get_id(t, g, KEY "unknown_token_id", &t->unknown, err)) < 0) return ret;
    for (int i = 0; i < 3; i++) {
        if ((ret = get_id(t, g, ends[i], &id, err)) < 0) return ret;
        if (id >= 0) t->marks[id] |= HT_MARK_END;
    }
    ht_vocab_mark_ends(t);
    if ((ret = ht_gguf_get_bool(g, KEY "add_bos_token", &t->adds_bos, err)) < 0) return ret;
    if (t->model == HT_MODEL_SCORES) {
        if ((ret = ht_gguf_get_bool(g, KEY "add_space_prefix", &t->adds_blank, err)) < 0) return ret;
    }
    return 0;
}

/* Phi-3's special tokens take the blanks after them along; its GGUF files have no place to say so. */
static void mark_phi3(ht_tokenizer *t, const ht_gguf *g)
{
    static const char *const names[] = {
        "</s>", "<|assistant|>", "<|end|>", "<|system|>", "<|user|>", "<|placeholder1|>", "<|placeholder2|>",
        "<|placeholder3|>", "<|placeholder4|>", "<|placeholder5|>", "<|placeholder6|>",
    };
    ht_gguf_string architecture = {0};
    if (t->model != HT_MODEL_SCORES || ht_gguf_get_string(g, "general.architecture", &architecture, NULL) != 1 ||
        architecture.len != 4 || memcmp(architecture.data, "phi3", 4)) {
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = ht_tokenizer_find(t, names[i]);
        if (id >= 0) t->marks[id] |= HT_MARK_EAT_RIGHT;
    }
}

int ht_tokenizer_from_gguf(ht_tokenizer **out, const ht_gguf *g, ht_error *err)
{
    ht_gguf_string model = {0}, chat = {0};
    int ret = ht_gguf_get_string(g, KEY "model", &model, err);
    *out = NULL;
    if (ret < 0) return ret;
    if (!ret) return ht_fail(err, -EINVAL, KEY "model is missing: the file has no vocabulary");
    ht_tokenizer *t = ht_calloc(1, sizeof *t);
    if (!t) return ht_fail(err, -ENOMEM, "no memory for a tokenizer");
    t->bos = t->unknown = -1;
    if (model.len == 5 && !memcmp(model.data, "llama", 5)) {
        t->model = HT_MODEL_SCORES;
        t->adds_bos = t->adds_blank = t->fuses_unknown = true;
    } else if (model.len == 4 && !memcmp(model.data, "gpt2", 4)) {
        t->model = HT_MODEL_BYTES;
    } else {
        ret = ht_fail(err, -ENOTSUP, KEY "model: '%.*s' is not supported (llama and gpt2 are)",
                      (int)(model.len < 40 ? model.len : 40), model.data);
        goto fail;
    }
    if ((ret = read_vocab(t, g, err)) < 0) goto fail;
    if (t->model == HT_MODEL_BYTES) {
        if ((ret = read_merges(t, g, err)) < 0 || (ret = read_splitter(t, g, err)) < 0) goto fail;
    }
    if ((ret = read_special(t, g, err)) < 0) goto fail;
    mark_phi3(t, g);
    if ((ret = ht_gguf_get_string(g, "tokenizer.chat_template", &chat, err)) < 0) goto fail;
    if (ret == 1 && !(t->chat_template = ht_strndup(chat.data, chat.len))) {
        ret = ht_fail(err, -ENOMEM, "tokenizer.chat_template: no memory");
        goto fail;
    }
    *out = t;
    return 0;
fail:
    ht_tokenizer_close(&t);
    return ret;
}
