/* A vocabulary from a Hugging Face folder: tokenizer.json (or tokenizer.model, elsewhere), and from
 * tokenizer_config.json what it leaves out.
 *
 * Of the pipeline that the file describes (normalizer, pre_tokenizer, model), what cannot be done exactly is refused
 * by name. The JSON tree lives in cJSON's own memory and only while loading. */
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/model/json.h"
#include "core/model/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define MARK "\xe2\x96\x81" /* U+2581 */
enum {
    PATH_MAX_HERE = 4096,
    MAX_VALUES = 8 << 20, /* a vocabulary of 262144 tokens with 515000 merges has 1.4 million */
};

static const char *text_of(const cJSON *object, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return s ? s : "";
}

static bool truth_of(const cJSON *object, const char *key, bool otherwise)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : otherwise;
}

static bool is_type(const cJSON *object, const char *type) { return !strcmp(text_of(object, "type"), type); }

/* *text: the file, or NULL when it is absent and need not be there. */
static int read_text(const char *path, size_t limit, bool needed, char **text, size_t *size, ht_error *err)
{
    ht_error own = {0};
    int ret = ht_file_slurp(path, limit, text, size, &own);
    if (ret == 0) return 0;
    *text = NULL;
    return ret == -ENOENT && !needed ? 0 : ht_fail(err, ret, "%s", own.text);
}

/* *out: the parsed file, or NULL when it is absent and need not be there. */
static int read_json(const char *dir, const char *name, bool needed, cJSON **out, ht_error *err)
{
    char path[PATH_MAX_HERE];
    char *text = NULL;
    size_t size;
    *out = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        return ht_fail(err, -ENAMETOOLONG, "%s: the path is too long", dir);
    }
    int ret = read_text(path, 256u << 20, needed, &text, &size, err);
    if (ret < 0 || !text) return ret;
    *out = ht_json_parse(text, size, MAX_VALUES);
    ht_free(text);
    return *out ? 0 : ht_fail(err, -EINVAL, "%s is not sound JSON, or has far too many values", path);
}

/* ---- model.vocab and added_tokens ----------------------------------------------------------------------- */

typedef struct table {
    ht_gguf_string *spelled; /* [n] owned; the strings belong to the JSON tree */
    uint8_t *kinds, *marks;  /* [n] owned */
    int64_t n;
} table;

static int id_of(const cJSON *item, int64_t *id)
{
    *id = 0;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= 1 << 24) return -EINVAL;
    *id = (int64_t)item->valuedouble;
    return 0;
}

/* Gemma 3's text models still list the token that stands for an image in the larger ones. */
static bool is_beyond(int64_t id, int32_t rows) { return rows > 0 && id >= rows; }

static void warn_left_out(const char *file, int32_t rows, int n, const char *first)
{
    if (n) ht_log(HT_LOG_WARN, "%s: added tokens without one of the embedding's %d rows are left out: %d, the first '%.60s'",
                  file, rows, n, first);
}

static uint8_t marks_of(const cJSON *added)
{
    return (uint8_t)((truth_of(added, "lstrip", false) ? HT_MARK_EAT_LEFT : 0) |
                     (truth_of(added, "rstrip", false) ? HT_MARK_EAT_RIGHT : 0) |
                     (truth_of(added, "single_word", false) ? HT_MARK_WORD : 0));
}

static int count_ids(const cJSON *vocab, const cJSON *added, int32_t rows, int64_t *n, ht_error *err)
{
    const cJSON *item;
    const char *left_out = NULL;
    int64_t id, count = 0;
    int n_left_out = 0;
    *n = 0;
    cJSON_ArrayForEach(item, vocab)
    {
        if (id_of(item, &id) < 0) return ht_fail(err, -EINVAL, "tokenizer.json: model.vocab['%.60s'] is no id",
                                                 item->string);
        if (id >= *n) *n = id + 1;
        count++;
    }
    cJSON_ArrayForEach(item, added)
    {
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(item, "content");
        if (id_of(cJSON_GetObjectItemCaseSensitive(item, "id"), &id) < 0 || !cJSON_IsString(content)) {
            return ht_fail(err, -EINVAL, "tokenizer.json: added_tokens[%lld] lacks an id or its content",
                           (long long)count);
        }
        if (is_beyond(id, rows)) {
            if (!n_left_out++) left_out = content->valuestring;
            continue;
        }
        if (id >= *n) *n = id + 1;
        count++;
    }
    warn_left_out("tokenizer.json", rows, n_left_out, left_out);
    if (!count) return ht_fail(err, -EINVAL, "tokenizer.json: model.vocab is empty");
    return ht_vocab_check_gaps(*n, count, "tokenizer.json", err);
}

static int fill_table(table *b, const cJSON *vocab, const cJSON *added, int32_t rows, bool bytes_too, ht_error *err)
{
    const cJSON *item;
    int64_t id;
    int ret = count_ids(vocab, added, rows, &b->n, err);
    if (ret < 0) return ret;
    b->spelled = ht_calloc((size_t)b->n, sizeof *b->spelled);
    b->kinds = ht_alloc((size_t)b->n, 1);
    b->marks = ht_calloc((size_t)b->n, 1);
    if (!b->spelled || !b->kinds || !b->marks) return ht_fail(err, -ENOMEM, "tokenizer.json: no memory");
    memset(b->kinds, HT_TOKEN_UNUSED, (size_t)b->n); /* gaps */
    cJSON_ArrayForEach(item, vocab)
    {
        id_of(item, &id);
        size_t n = strlen(item->string);
        bool byte = bytes_too && n == 6 && !strncmp(item->string, "<0x", 3) && item->string[5] == '>';
        b->spelled[id] = (ht_gguf_string){item->string, n};
        b->kinds[id] = byte ? HT_TOKEN_BYTE : HT_TOKEN_NORMAL;
    }
    cJSON_ArrayForEach(item, added)
    {
        id_of(cJSON_GetObjectItemCaseSensitive(item, "id"), &id);
        if (is_beyond(id, rows)) continue;
        const char *content = text_of(item, "content");
        b->spelled[id] = (ht_gguf_string){content, strlen(content)};
        b->kinds[id] = truth_of(item, "special", false) ? HT_TOKEN_CONTROL : HT_TOKEN_USER;
        b->marks[id] = marks_of(item);
    }
    return 0;
}

static int read_merges(ht_tokenizer *t, const cJSON *merges, ht_error *err)
{
    const cJSON *item;
    uint64_t i = 0;
    int ret = ht_vocab_merges_open(t, (uint64_t)cJSON_GetArraySize(merges), err);
    if (ret < 0) return ret;
    cJSON_ArrayForEach(item, merges)
    {
        const char *a = NULL, *b = NULL;
        size_t a_n = 0;
        if (cJSON_IsString(item)) { /* "a b"; newer files have ["a", "b"] */
            const char *blank = *item->valuestring ? strchr(item->valuestring + 1, ' ') : NULL;
            a = item->valuestring;
            a_n = blank ? (size_t)(blank - a) : 0;
            b = blank ? blank + 1 : NULL;
        } else if (cJSON_GetArraySize(item) == 2) {
            a = cJSON_GetStringValue(item->child);
            a_n = a ? strlen(a) : 0;
            b = cJSON_GetStringValue(item->child->next);
        }
        if (!a || !b) return ht_fail(err, -EINVAL, "tokenizer.json: model.merges[%llu] is no pair",
                                     (unsigned long long)i);
        ret = ht_vocab_add_merge(t, i++, (ht_gguf_string){a, a_n}, (ht_gguf_string){b, strlen(b)},
                                 "tokenizer.json: model.merges", err);
        if (ret < 0) return ret;
    }
    return 0;
}

static int read_model(ht_tokenizer *t, const cJSON *root, int32_t rows, ht_error *err)
{
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab");
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges");
    table b = {0};
    if (!is_type(model, "BPE") && *text_of(model, "type")) {
        return ht_fail(err, -ENOTSUP, "tokenizer.json: model.type '%.40s' is not supported (BPE is)",
                       text_of(model, "type"));
    }
    if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges)) {
        return ht_fail(err, -EINVAL, "tokenizer.json: model.vocab or model.merges is missing");
    }
    if (*text_of(model, "continuing_subword_prefix") || *text_of(model, "end_of_word_suffix")) {
        return ht_fail(err, -ENOTSUP, "tokenizer.json: model.continuing_subword_prefix and end_of_word_suffix are "
                       "not supported");
    }
    int ret = fill_table(&b, vocab, cJSON_GetObjectItemCaseSensitive(root, "added_tokens"), rows,
                         truth_of(model, "byte_fallback", false), err);
    if (ret == 0) {
        ret = ht_vocab_build(t, &(ht_vocab_source){.spelled = b.spelled, .kinds = b.kinds, .n = b.n,
                                                   .origin = "tokenizer.json: model.vocab"}, err);
    }
    if (ret == 0) {
        memcpy(t->marks, b.marks, (size_t)b.n);
        t->ignore_merges = truth_of(model, "ignore_merges", false);
        t->fuses_unknown = truth_of(model, "fuse_unk", false);
        if (*text_of(model, "unk_token")) t->unknown = ht_tokenizer_find(t, text_of(model, "unk_token"));
        ret = read_merges(t, merges, err);
    }
    ht_free(b.spelled);
    ht_free(b.kinds);
    ht_free(b.marks);
    return ret;
}

/* ---- normalizer ----------------------------------------------------------------------------------------- */

static int read_normalizer(ht_tokenizer *t, const cJSON *node, ht_error *err)
{
    static const struct { const char *type; ht_normal_form form; } forms[] = {
        {"NFC", HT_FORM_NFC}, {"NFD", HT_FORM_NFD}, {"NFKC", HT_FORM_NFKC}, {"NFKD", HT_FORM_NFKD},
    };
    const char *type = text_of(node, "type");
    if (!node || cJSON_IsNull(node)) return 0;
    if (!strcmp(type, "Sequence")) {
        const cJSON *item;
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(node, "normalizers"))
        {
            int ret = read_normalizer(t, item, err);
            if (ret < 0) return ret;
        }
        return 0;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(type, forms[i].type) || t->model != HT_MODEL_BYTES || t->form != HT_FORM_NONE) continue;
        t->form = forms[i].form;
        return 0;
    }
    if (t->model == HT_MODEL_CHARS && !strcmp(type, "Prepend") && !strcmp(text_of(node, "prepend"), MARK)) {
        t->adds_blank = true;
        return 0;
    }
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(node, "pattern");
    if (t->model == HT_MODEL_CHARS && !strcmp(type, "Replace") && !strcmp(text_of(pattern, "String"), " ") &&
        !strcmp(text_of(node, "content"), MARK)) {
        t->blanks_replaced = true; /* blanks and U+2581 are the same to us */
        return 0;
    }
    return ht_fail(err, -ENOTSUP, "tokenizer.json: normalizer '%.40s' is not supported in this place", type);
}

/* ---- pre_tokenizer -------------------------------------------------------------------------------------- */

static bool has_byte_level(const cJSON *node)
{
    const cJSON *item;
    if (is_type(node, "ByteLevel")) return true;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(node, "pretokenizers"))
    {
        if (has_byte_level(item)) return true;
    }
    return false;
}

static int read_behavior(const cJSON *node, ht_split_rule *rule, ht_error *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = text_of(node, "behavior");
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i])) continue;
        *rule = (ht_split_rule)i;
        return 0;
    }
    return ht_fail(err, -EINVAL, "tokenizer.json: pre_tokenizer behavior '%.40s'", name);
}

static int add_pattern(ht_tokenizer *t, const char *pattern, bool literal, ht_split_rule rule, bool invert,
                       ht_error *err)
{
    return ht_splitter_add(&t->split, pattern, strlen(pattern), literal, rule, invert, "tokenizer.json: pre_tokenizer",
                           err);
}

static int read_split(ht_tokenizer *t, const cJSON *node, ht_error *err)
{
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(node, "pattern");
    const cJSON *regex = cJSON_GetObjectItemCaseSensitive(pattern, "Regex");
    const cJSON *string = cJSON_GetObjectItemCaseSensitive(pattern, "String");
    ht_split_rule rule;
    int ret = read_behavior(node, &rule, err);
    if (ret < 0) return ret;
    if (!cJSON_IsString(regex) && !cJSON_IsString(string)) {
        return ht_fail(err, -EINVAL, "tokenizer.json: a Split pre_tokenizer without a pattern");
    }
    return add_pattern(t, cJSON_IsString(regex) ? regex->valuestring : string->valuestring, !cJSON_IsString(regex),
                       rule, truth_of(node, "invert", false), err);
}

static int read_metaspace(ht_tokenizer *t, const cJSON *node, ht_error *err)
{
    const char *scheme = text_of(node, "prepend_scheme");
    if (t->model != HT_MODEL_CHARS || strcmp(text_of(node, "replacement"), MARK)) {
        return ht_fail(err, -ENOTSUP, "tokenizer.json: this Metaspace pre_tokenizer is not supported");
    }
    if (!*scheme) scheme = truth_of(node, "add_prefix_space", true) ? "always" : "never";
    t->adds_blank = strcmp(scheme, "never") != 0;
    t->blank_once = !strcmp(scheme, "first");
    t->blank_if_none = true;
    t->cuts_blanks = truth_of(node, "split", true);
    return 0;
}

static int read_pre_tokenizer(ht_tokenizer *t, const cJSON *node, ht_error *err)
{
    const char *type = text_of(node, "type");
    ht_split_rule rule = HT_SPLIT_ISOLATED;
    ht_pre_facts facts;
    int ret;
    if (!node || cJSON_IsNull(node)) return 0;
    if (!strcmp(type, "Sequence")) {
        const cJSON *item;
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(node, "pretokenizers"))
        {
            if ((ret = read_pre_tokenizer(t, item, err)) < 0) return ret;
        }
        return 0;
    }
    if (!strcmp(type, "Metaspace")) return read_metaspace(t, node, err);
    /* Gemma cuts at blanks after it has replaced them all: that does nothing. */
    if (t->model == HT_MODEL_CHARS && t->blanks_replaced && !strcmp(type, "Split") && !truth_of(node, "invert", false) &&
        !strcmp(text_of(cJSON_GetObjectItemCaseSensitive(node, "pattern"), "String"), " "))
        return 0;
    if (t->model == HT_MODEL_BYTES) {
        if (!strcmp(type, "Split")) return read_split(t, node, err);
        if (!strcmp(type, "Digits")) {
            bool each = truth_of(node, "individual_digits", false);
            if (t->after_bytes) t->cuts_number_bytes = each ? 2 : 1;
            return add_pattern(t, t->after_bytes ? (each ? "[0-9]" : "[0-9]+") : each ? "\\p{N}" : "\\p{N}+", false, rule,
                               false, err);
        }
        if (!strcmp(type, "Punctuation") && !t->after_bytes) {
            if (*text_of(node, "behavior") && (ret = read_behavior(node, &rule, err)) < 0) return ret;
            return add_pattern(t, "[\\p{P}\\$\\+<=>\\^~\\|`]", false, rule, false, err);
        }
        if (!strcmp(type, "ByteLevel") && !truth_of(node, "add_prefix_space", true)) {
            t->after_bytes = true;
            return truth_of(node, "use_regex", true) ? ht_splitter_add_named(&t->split, "gpt-2", 5, &facts, err) : 0;
        }
    }
    return ht_fail(err, -ENOTSUP, "tokenizer.json: pre_tokenizer '%.40s' is not supported in this place", type);
}

/* ---- what is around ------------------------------------------------------------------------------------- */

/* A token named by a string or by {"content": ...}; -1 when there is none. */
static int32_t named_token(const ht_tokenizer *t, const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    const char *s = cJSON_IsObject(item) ? text_of(item, "content") : cJSON_GetStringValue(item);
    return s && *s ? ht_tokenizer_find(t, s) : -1;
}

/* The first thing that a TemplateProcessing puts before a text. */
static const char *template_opening(const cJSON *node)
{
    const cJSON *item;
    if (is_type(node, "TemplateProcessing")) {
        const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(node, "single"), 0);
        return text_of(cJSON_GetObjectItemCaseSensitive(first, "SpecialToken"), "id");
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(node, "processors"))
    {
        const char *s = template_opening(item);
        if (*s) return s;
    }
    return "";
}

static void mark_end(ht_tokenizer *t, const cJSON *item)
{
    int64_t id;
    if (id_of(item, &id) == 0 && id < t->n) t->marks[id] |= HT_MARK_END;
}

/* Its own file goes before tokenizer_config.json, which older folders have it in. */
static int read_chat_template(ht_tokenizer *t, const char *dir, const cJSON *config, ht_error *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, "chat_template"), *entry;
    const char *s = cJSON_GetStringValue(item);
    char path[PATH_MAX_HERE];
    size_t size;
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    int ret = read_text(path, 1 << 20, false, &t->chat_template, &size, err);
    if (ret < 0 || t->chat_template) return ret;
    if (cJSON_IsArray(item)) {
        cJSON_ArrayForEach(entry, item)
        {
            if (!s || !strcmp(text_of(entry, "name"), "default")) s = text_of(entry, "template");
        }
    }
    if (!s) return 0;
    t->chat_template = ht_strdup(s);
    return t->chat_template ? 0 : ht_fail(err, -ENOMEM, "tokenizer_config.json: no memory");
}

static int read_surroundings(ht_tokenizer *t, const char *dir, const cJSON *root, ht_error *err)
{
    cJSON *config = NULL, *model = NULL;
    int ret = read_json(dir, "tokenizer_config.json", false, &config, err);
    if (ret == 0) ret = read_json(dir, "config.json", false, &model, err);
    if (ret < 0) goto out;

    const char *opening = template_opening(cJSON_GetObjectItemCaseSensitive(root, "post_processor"));
    int32_t end = named_token(t, config, "eos_token");
    int64_t id;
    if (*opening) t->bos = ht_tokenizer_find(t, opening);
    if (t->bos < 0) t->bos = named_token(t, config, "bos_token");
    if (t->bos < 0 && id_of(cJSON_GetObjectItemCaseSensitive(model, "bos_token_id"), &id) == 0 && id < t->n) {
        t->bos = (int32_t)id;
    }
    t->adds_bos = truth_of(config, "add_bos_token", root ? *opening != 0 : t->adds_bos) && t->bos >= 0;
    if (end >= 0) t->marks[end] |= HT_MARK_END;
    const cJSON *ends = cJSON_GetObjectItemCaseSensitive(model, "eos_token_id"), *item;
    if (cJSON_IsArray(ends)) {
        cJSON_ArrayForEach(item, ends) mark_end(t, item);
    } else {
        mark_end(t, ends);
    }
    ht_vocab_mark_ends(t);
    ret = read_chat_template(t, dir, config, err);
out:
    cJSON_Delete(config);
    cJSON_Delete(model);
    return ret;
}

static int read_pipeline(ht_tokenizer *t, const cJSON *root, int32_t rows, ht_error *err)
{
    const cJSON *pre = cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer");
    int ret = ht_splitter_open(&t->split, err);
    t->model = has_byte_level(pre) ? HT_MODEL_BYTES : HT_MODEL_CHARS;
    if (ret == 0) ret = read_normalizer(t, cJSON_GetObjectItemCaseSensitive(root, "normalizer"), err);
    if (ret == 0) ret = read_pre_tokenizer(t, pre, err);
    if (ret == 0) ret = read_model(t, root, rows, err);
    return ret;
}

/* "content": id of added_tokens.json, or "id": {"content": ...} of added_tokens_decoder. */
static int read_added(const cJSON *item, const char *file, ht_added_token *out, ht_error *err)
{
    const char *content = item->string;
    char *end = NULL;
    if (cJSON_IsObject(item)) {
        content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
        out->id = *item->string >= '0' && *item->string <= '9' ? strtoll(item->string, &end, 10) : -1;
        if (!end || *end || out->id >= 1 << 24) out->id = -1;
    } else if (id_of(item, &out->id) < 0) {
        out->id = -1;
    }
    if (out->id < 0 || !content) return ht_fail(err, -EINVAL, "%s: added token '%.60s' lacks an id or its content", file,
                                                item->string);
    out->spelled = (ht_gguf_string){content, strlen(content)};
    /* The older file does not say which are special. */
    bool special = truth_of(item, "special", false) || (!cJSON_IsObject(item) && ht_vocab_is_end(out->spelled));
    out->kind = special ? HT_TOKEN_CONTROL : HT_TOKEN_USER;
    out->marks = marks_of(item);
    return 0;
}

/* tokenizer.model knows its pieces only: what is added to them is in tokenizer_config.json, or an older file. */
static int read_sentencepiece(ht_tokenizer *t, const char *dir, const char *path, int32_t rows, ht_error *err)
{
    cJSON *config = NULL, *older = NULL;
    ht_added_token *added = NULL;
    const char *file = "tokenizer_config.json", *left_out = NULL;
    int n = 0, n_left_out = 0;
    int ret = read_json(dir, file, false, &config, err);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "added_tokens_decoder"), *item;
    if (ret == 0 && !list) {
        file = "added_tokens.json";
        ret = read_json(dir, file, false, &older, err);
        list = older;
    }
    if (ret == 0 && list && !cJSON_IsObject(list)) ret = ht_fail(err, -EINVAL, "%s: the added tokens are no object", file);
    if (ret < 0) goto out;
    added = ht_calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *added);
    if (!added) {
        ret = ht_fail(err, -ENOMEM, "%s: no memory", file);
        goto out;
    }
    cJSON_ArrayForEach(item, list)
    {
        if ((ret = read_added(item, file, &added[n], err)) < 0) goto out;
        if (!is_beyond(added[n].id, rows)) n++;
        else if (!n_left_out++) left_out = added[n].spelled.data;
    }
    warn_left_out(file, rows, n_left_out, left_out);
    ret = ht_vocab_from_sentencepiece(t, path, added, n, err);
out:
    ht_free(added);
    cJSON_Delete(config);
    cJSON_Delete(older);
    return ret;
}

/* Which of the two files is there; neither: an error that names the first. */
static int read_either(ht_tokenizer *t, const char *dir, int32_t rows, cJSON **root, ht_error *err)
{
    char path[PATH_MAX_HERE];
    ht_error first = {0};
    int ret = read_json(dir, "tokenizer.json", true, root, &first);
    if (ret == 0) return read_pipeline(t, *root, rows, err);
    if (ret == -ENOENT && snprintf(path, sizeof path, "%s/tokenizer.model", dir) < (int)sizeof path) {
        ret = read_sentencepiece(t, dir, path, rows, err);
        if (ret != -ENOENT) return ret;
    }
    if (err) *err = first;
    return ret;
}

int ht_tokenizer_from_hf(ht_tokenizer **out, const char *dir, int32_t rows, ht_error *err)
{
    cJSON *root = NULL;
    ht_tokenizer *t = ht_calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return ht_fail(err, -ENOMEM, "no memory for a tokenizer");
    t->bos = t->unknown = -1;
    int ret = read_either(t, dir, rows, &root, err);
    if (ret == 0) ret = read_surroundings(t, dir, root, err);
    cJSON_Delete(root);
    if (ret < 0) ht_tokenizer_close(&t);
    else *out = t;
    return ret;
}
