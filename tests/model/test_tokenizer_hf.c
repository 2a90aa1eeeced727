/* Tokenizers from Hugging Face folders: published ones with their ids, and small ones written here. */
#include "core/model/model.h"
#include "tests/model/vocab_files.h"
#include "tests/support/fail.h"

#include <cjson/cJSON.h>
#include <unistd.h>

enum { CAPACITY = 1024 };

static void check_vectors(const char *name)
{
    char relative[256], path[TEST_PATH_MAX];
    char *text;
    size_t size;
    ht_error err = {0};
    ht_tokenizer *t = NULL;
    int checked = 0;
    snprintf(relative, sizeof relative, "tokenizers/%s/vectors.json", name);
    if (!test_data(path, relative)) cr_skip_test("no %s", relative);
    cr_assert_eq(ht_file_slurp(path, 1 << 20, &text, &size, &err), 0, "%s", err.text);
    path[strlen(path) - strlen("/vectors.json")] = 0;
    cr_assert_eq(ht_tokenizer_from_hf(&t, path, 0, &err), 0, "%s", err.text);
    for (char *nul = text; (nul = strstr(nul, "\\u0000"));) memcpy(nul, "\\ue000", 6); /* cJSON would end there */
    cJSON *root = cJSON_Parse(text);
    const cJSON *item;
    cJSON_ArrayForEach(item, root)
    {
        int32_t ids[CAPACITY];
        char *s = cJSON_GetStringValue(cJSON_GetObjectItem(item, "text"));
        const cJSON *want = cJSON_GetObjectItem(item, "ids");
        size_t bytes = strlen(s);
        for (char *nul = s; (nul = strstr(nul, "\xee\x80\x80")); bytes -= 2) {
            *nul = 0;
            memmove(nul + 1, nul + 3, bytes - (size_t)(nul - s) - 2);
            nul++;
        }
        int64_t n = ht_tokenizer_encode(t, s, bytes, HT_ENCODE_SPECIAL, ids, CAPACITY, &err);
        cr_assert_eq(n, cJSON_GetArraySize(want), "'%s'", s);
        for (int i = 0; i < n; i++) cr_assert_eq(ids[i], cJSON_GetArrayItem(want, i)->valueint, "'%s'", s);
        checked++;
    }
    cr_assert_eq(checked, 20);
    cr_assert_not_null(ht_tokenizer_chat_template(t));
    cr_assert(ht_tokenizer_is_end(t, ht_tokenizer_find(t, strcmp(name, "qwen3") ? "<|eot_id|>" : "<|im_end|>")));
    cJSON_Delete(root);
    ht_free(text);
    ht_tokenizer_close(&t);
}

Test(tokenizer_hf, llama3, .timeout = 60) { check_vectors("llama3"); }
Test(tokenizer_hf, qwen3, .timeout = 60) { check_vectors("qwen3"); }

/* ---- written here --------------------------------------------------------------------------------------- */

#define BYTES_HEAD "{\"added_tokens\": [{\"id\": 6, \"content\": \"<e>\", \"special\": true, \"rstrip\": true}], "
#define BYTES_MODEL                                                                                            \
    "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\\u0120\": 3, \"1\": 4, \"'\": 5}, "         \
    "\"merges\": [[\"a\", \"b\"]]}}"
#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}"

typedef struct folder { char path[TEST_PATH_MAX]; ht_tokenizer *t; int32_t rows; } folder;

static void write_file(const folder *f, const char *name, const char *text)
{
    char path[TEST_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text, 1, strlen(text), file), strlen(text));
    fclose(file);
}

static int open_folder(void *context, ht_error *err)
{
    folder *f = context;
    return ht_tokenizer_from_hf(&f->t, f->path, f->rows, err);
}
static void close_folder(void *context) { ht_tokenizer_close(&((folder *)context)->t); }

static void expect_ids(const ht_tokenizer *t, const char *text, unsigned flags, const int32_t *want, int64_t n)
{
    int32_t got[64];
    cr_assert_eq(ht_tokenizer_encode(t, text, strlen(text), flags, got, 64, NULL), n, "'%s'", text);
    cr_assert(!memcmp(got, want, (size_t)n * sizeof *want), "'%s'", text);
}
#define EXPECT_IDS(t, text, flags, ...)                                                                        \
    expect_ids(t, text, flags, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)

Test(tokenizer_hf, byte_level_with_its_surroundings)
{
    folder f = {.t = NULL};
    ht_error err = {0};
    test_temp_dir(f.path);
    write_file(&f, "tokenizer.json", BYTES_HEAD "\"pre_tokenizer\": " BYTE_LEVEL ", \"post_processor\": {\"type\": "
               "\"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<e>\"}}, {\"Sequence\": {}}]}, " BYTES_MODEL);
    write_file(&f, "tokenizer_config.json", "{\"eos_token\": {\"content\": \"<e>\"}, \"chat_template\": "
               "[{\"name\": \"tool\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": \"y\"}]}");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, "ab ab1", HT_ENCODE_BOS, 6, 2, 3, 2, 4);
    EXPECT_IDS(f.t, "a<e> \n ab", HT_ENCODE_SPECIAL, 0, 6, 2);
    cr_assert(ht_tokenizer_is_end(f.t, 6));
    cr_assert_str_eq(ht_tokenizer_chat_template(f.t), "y");
    close_folder(&f);
    write_file(&f, "chat_template.jinja", "z");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_str_eq(ht_tokenizer_chat_template(f.t), "z", "its own file goes first");
    close_folder(&f);
    cr_assert_gt(test_fail_each_allocation(open_folder, close_folder, &f), 20);
    test_temp_remove(f.path);
}

/* As in Gemma 3's text models: token 6, of 6 rows of the embedding. */
Test(tokenizer_hf, added_tokens_without_a_row_are_left_out)
{
    folder f = {.rows = 6};
    ht_error err = {0};
    test_temp_dir(f.path);
    write_file(&f, "tokenizer.json", "{\"added_tokens\": [{\"id\": 6, \"content\": \"ab1\", \"special\": true}, {\"id\": 4, "
               "\"content\": \"1\"}], \"pre_tokenizer\": " BYTE_LEVEL ", " BYTES_MODEL);
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_size(f.t), 6);
    cr_assert_eq(ht_tokenizer_find(f.t, "ab1"), -1);
    EXPECT_IDS(f.t, "ab1", HT_ENCODE_SPECIAL, 2, 4);
    close_folder(&f);
    f.rows = 7;
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, "ab1", HT_ENCODE_SPECIAL, 6);
    close_folder(&f);
    ht_model m = {.folder = f.path, .shape.n_vocab = 6};
    cr_assert_eq(ht_model_open_tokenizer(&f.t, &m, f.path, &err), 0, "%s", err.text);
    close_folder(&f);
    m.shape.n_vocab = 5; /* ids of model.vocab stay, and are refused */
    cr_assert_eq(ht_model_open_tokenizer(&f.t, &m, f.path, &err), -EINVAL);
    cr_assert_null(f.t);
    cr_assert(strstr(err.text, "6 tokens, the embedding 5 rows"), "%s", err.text);
    test_temp_remove(f.path);
}

/* Llama-2's kind: blanks as U+2581, what has no token by bytes, a blank in front of every stretch. */
Test(tokenizer_hf, byte_fallback)
{
    folder f = {.t = NULL};
    ht_error err = {0};
    char out[64];
    test_temp_dir(f.path);
    write_file(&f, "tokenizer.json",
               "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, "
               "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]}, \"pre_tokenizer\": null, "
               "\"added_tokens\": [{\"id\": 7, \"content\": \"<e>\", \"special\": true}], "
               "\"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"unk_token\": \"<unk>\", \"fuse_unk\": true, "
               "\"vocab\": {\"<unk>\": 0, \"a\": 1, \"\\u2581\": 2, \"\\u2581a\": 3, \"<0xC3>\": 4, \"<0xA9>\": 5, \"b\": 6}, "
               "\"merges\": [\"\\u2581 a\"]}}");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, "a a", 0, 3, 3);
    EXPECT_IDS(f.t, "\xc3\xa9zzb", 0, 2, 4, 5, 0, 6);
    EXPECT_IDS(f.t, "a<e>a", HT_ENCODE_SPECIAL, 3, 7, 3);
    int64_t n = ht_tokenizer_decode(f.t, (const int32_t[]){3, 3, 4, 5}, 4, false, out, sizeof out);
    cr_assert(n == 5 && !memcmp(out, "a a\xc3\xa9", 5));
    close_folder(&f);
    test_temp_remove(f.path);
}

/* Gemma's kind: blanks become U+2581, none is added, and the cut at blanks finds none. */
Test(tokenizer_hf, blanks_replaced_before_they_are_cut_at)
{
    folder f = {.t = NULL};
    ht_error err = {0};
    char out[16];
#define GEMMA_MODEL "\"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"unk_token\": \"<unk>\", \"fuse_unk\": true, "   \
    "\"vocab\": {\"<unk>\": 0, \"a\": 1, \"\\u2581\": 2, \"\\u2581a\": 3, \"\\u2581\\u2581\": 4, \"a\\u2581a\": 5}, "          \
    "\"merges\": [\"\\u2581 \\u2581\", \"\\u2581 a\", \"a \\u2581a\"]}}"
#define GEMMA_SPLIT "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \" \"}, "                           \
    "\"behavior\": \"MergedWithPrevious\", \"invert\": false}, "
    test_temp_dir(f.path);
    write_file(&f, "tokenizer.json", "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
               "\"\\u2581\"}, " GEMMA_SPLIT GEMMA_MODEL);
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, "a a", 0, 5);
    EXPECT_IDS(f.t, " a  a", 0, 3, 4, 1);
    close_folder(&f);
    /* runs of blanks are added tokens there, which changes no ids and shows none as U+2581 */
    write_file(&f, "tokenizer.json", "{\"added_tokens\": [{\"id\": 4, \"content\": \"\\u2581\\u2581\"}], "
               "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}, "
               GEMMA_SPLIT GEMMA_MODEL);
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, " a  a", 0, 3, 4, 1);
    int64_t n = ht_tokenizer_decode(f.t, (const int32_t[]){3, 4, 1}, 3, false, out, sizeof out);
    cr_assert(n == 5 && !memcmp(out, " a  a", 5));
    close_folder(&f);
    write_file(&f, "tokenizer.json", "{" GEMMA_SPLIT GEMMA_MODEL); /* with blanks left in the text it would cut */
    cr_assert_eq(open_folder(&f, &err), -ENOTSUP);
    cr_assert(strstr(err.text, "'Split'"), "%s", err.text);
    test_temp_remove(f.path);
}

/* "[0,0,0,...": every two bytes would become a value of some 80. */
Test(tokenizer_hf, far_too_many_values_are_refused, .timeout = 60)
{
    enum { VALUES = 9 << 20 };
    folder f = {.t = NULL};
    ht_error err = {0};
    char *text = malloc(2 * VALUES + 2);
    text[0] = '[';
    for (int i = 0; i < VALUES; i++) memcpy(text + 1 + 2 * i, i + 1 < VALUES ? "0," : "0]", 2);
    text[2 * VALUES + 1] = '\0';
    test_temp_dir(f.path);
    write_file(&f, "tokenizer.json", text);
    cr_assert_eq(open_folder(&f, &err), -EINVAL);
    cr_assert(strstr(err.text, "far too many values"), "%s", err.text);
    test_temp_remove(f.path);
    free(text);
}

Test(tokenizer_hf, what_is_not_supported_is_named)
{
    static const struct { const char *json, *names; int code; } cases[] = {
        {"{", "tokenizer.json is not sound JSON", -EINVAL},
        {"[]", "model.vocab", -EINVAL},
        {"{\"model\": {\"type\": \"Unigram\"}}", "'Unigram'", -ENOTSUP},
        {"{\"normalizer\": {\"type\": \"BertNormalizer\"}, " BYTES_MODEL, "'BertNormalizer'", -ENOTSUP},
        {"{\"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}, " BYTES_MODEL, "'UnicodeScripts'", -ENOTSUP},
        {"{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL ", {\"type\": \"Split\", \"pattern\": "
         "{\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}]}, " BYTES_MODEL, "does not compile", -EINVAL},
        {"{\"model\": {\"vocab\": {\"a\": 9000000}, \"merges\": []}}", "id 9000000 among 1 tokens", -EINVAL},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "model.vocab['a']", -EINVAL},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}}", "model.vocab is empty", -EINVAL},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", "model.merges[0]: 'b'", -EINVAL},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [7]}}", "model.merges[0] is no pair", -EINVAL},
        {"{\"added_tokens\": [{\"id\": 1}], \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}", "added_tokens[1]", -EINVAL},
    };
    folder f = {.t = NULL};
    test_temp_dir(f.path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_error err = {0};
        uint64_t live = ht_memory_get_stats().live;
        write_file(&f, "tokenizer.json", cases[i].json);
        cr_assert_eq(open_folder(&f, &err), cases[i].code, "%s: %s", cases[i].json, err.text);
        cr_assert(strstr(err.text, cases[i].names), "%s does not name %s", err.text, cases[i].names);
        cr_assert_null(f.t);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
    test_temp_remove(f.path);
    ht_error err = {0};
    cr_assert_eq(open_folder(&f, &err), -ENOENT);
    cr_assert(strstr(err.text, "tokenizer.json"));
}

/* ---- tokenizer.model ------------------------------------------------------------------------------------ */

/* Pieces as protobuf: tag 1 (bytes), of tag 1 (text), tag 2 (score), tag 3 (kind). */
static size_t put_piece(uint8_t *out, const char *text, float score, int kind)
{
    size_t n = strlen(text), at = 0;
    out[at++] = 0x0a;
    out[at++] = (uint8_t)(2 + n + 5 + 2);
    out[at++] = 0x0a;
    out[at++] = (uint8_t)n;
    memcpy(out + at, text, n);
    at += n;
    out[at++] = 0x15;
    memcpy(out + at, &score, 4);
    at += 4;
    out[at++] = 0x18;
    out[at++] = (uint8_t)kind;
    return at;
}

static void write_bytes(const folder *f, const char *name, const uint8_t *data, size_t n)
{
    char path[TEST_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(data, 1, n, file) == n);
    fclose(file);
}

/* Six pieces: ids 0 to 2 are special, 3 to 5 words. */
static size_t put_pieces(uint8_t *m)
{
    size_t n = 0;
    n += put_piece(m + n, "<unk>", 0, HT_TOKEN_UNKNOWN);
    n += put_piece(m + n, "<s>", 0, HT_TOKEN_CONTROL);
    n += put_piece(m + n, "</s>", 0, HT_TOKEN_CONTROL);
    n += put_piece(m + n, "\xe2\x96\x81", -3, HT_TOKEN_NORMAL);
    n += put_piece(m + n, "a", -2, HT_TOKEN_NORMAL);
    n += put_piece(m + n, "\xe2\x96\x81" "a", -1, HT_TOKEN_NORMAL);
    memcpy(m + n, "\x1a\x02\x20\x00", 4);     /* remove_extra_whitespaces = false */
    memcpy(m + n + 4, "\x12\x02\x18\x02", 4); /* model type BPE */
    return n + 8;
}

/* As the tokenizer.model of a new folder. */
static size_t write_pieces(folder *f, uint8_t *m)
{
    size_t n = put_pieces(m);
    test_temp_dir(f->path);
    write_bytes(f, "tokenizer.model", m, n);
    return n;
}

/* A setting that is not known changes ids. */
Test(tokenizer_hf, sentencepiece_settings_are_named)
{
    static const struct { uint8_t bytes[8]; size_t n; const char *names; } cases[] = {
        {{0x1a, 2, 0x20, 1}, 4, "remove_extra_whitespaces"}, {{0x1a, 2, 0x28, 0}, 4, "escape_whitespaces"},
        {{0x12, 3, 0xc0, 1, 1}, 5, "treat_whitespace_as_suffix"}, {{0x1a, 4, 0x0a, 2, 'n', 'f'}, 6, "normalisation"},
    };
    folder f = {.t = NULL};
    uint8_t m[256];
    size_t n = put_pieces(m);
    test_temp_dir(f.path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_error err = {0};
        memcpy(m + n, cases[i].bytes, cases[i].n);
        write_bytes(&f, "tokenizer.model", m, n + cases[i].n);
        cr_assert_eq(open_folder(&f, &err), -ENOTSUP, "%s", cases[i].names);
        cr_assert(strstr(err.text, cases[i].names), "%s does not name %s", err.text, cases[i].names);
    }
    ht_error err = {0};
    memcpy(m + n - 8, "\x1a\x02\x28\x01", 4); /* without a word on superfluous blanks, they go */
    write_bytes(&f, "tokenizer.model", m, n);
    cr_assert_eq(open_folder(&f, &err), -ENOTSUP);
    cr_assert(strstr(err.text, "remove_extra_whitespaces"), "%s", err.text);
    test_temp_remove(f.path);
}

/* A folder without tokenizer.json: added tokens are in tokenizer_config.json, or in a file of their own. */
Test(tokenizer_hf, tokens_added_to_a_sentencepiece_file)
{
    static const struct { const char *json, *names; } wrong[] = {
        {"{\"<u>\": -1}", "'<u>'"}, {"{\"7\": {\"special\": true}}", "'7'"}, {"{\"x\": {\"content\": \"<u>\"}}", "'x'"},
        {"[7]", "added_tokens.json"}, {"{\"<u>\": 900000}", "id 900000 among 7 tokens"},
    };
    folder f = {.t = NULL};
    ht_error err = {0};
    uint8_t m[256];
    write_pieces(&f, m);
    write_file(&f, "added_tokens.json", "{\"<|im_end|>\": 7, \"<u>\": 6, \"</s>\": 2}");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_size(f.t), 8);
    cr_assert(ht_tokenizer_is_end(f.t, 7) && ht_tokenizer_kind(f.t, 7) == HT_TOKEN_CONTROL);
    EXPECT_IDS(f.t, "aa<u><|im_end|>", HT_ENCODE_SPECIAL, 5, 4, 6, 7);
    close_folder(&f);
    cr_assert_gt(test_fail_each_allocation(open_folder, close_folder, &f), 10);
    write_file(&f, "tokenizer_config.json", "{\"added_tokens_decoder\": {\"2\": {\"content\": \"</s>\", \"special\": true}, "
               "\"9\": {\"content\": \"<v>\", \"special\": true, \"rstrip\": true}, \"4\": "
               "{\"content\": \"a\", \"special\": true}}}");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_size(f.t), 10);
    cr_assert_eq(ht_tokenizer_find(f.t, "<u>"), -1, "the older file does not count");
    cr_assert_eq(ht_tokenizer_kind(f.t, 8), HT_TOKEN_UNUSED);
    cr_assert_eq(ht_tokenizer_kind(f.t, 4), HT_TOKEN_CONTROL);
    EXPECT_IDS(f.t, "<v>  a</s>", HT_ENCODE_SPECIAL, 9, 4, 2);
    close_folder(&f);
    f.rows = 6;
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_size(f.t), 6);
    close_folder(&f);
    f.rows = 0;
    /* Refused, for id 2 is </s>: nor does </s> take the blanks behind it. */
    write_file(&f, "tokenizer_config.json", "{\"added_tokens_decoder\": {\"2\": {\"content\": \"<w>\", \"special\": true, "
               "\"rstrip\": true}}}");
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    EXPECT_IDS(f.t, "</s>  a", HT_ENCODE_SPECIAL, 2, 3, 3, 5);
    close_folder(&f);
    write_file(&f, "tokenizer_config.json", "{}");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_file(&f, "added_tokens.json", wrong[i].json);
        cr_assert_eq(open_folder(&f, &err), -EINVAL);
        cr_assert(strstr(err.text, wrong[i].names), "%s", err.text);
    }
    test_temp_remove(f.path);
}

Test(tokenizer_hf, sentencepiece_file)
{
    folder f = {.t = NULL};
    ht_error err = {0};
    uint8_t m[256];
    size_t n = write_pieces(&f, m);
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    cr_assert_eq(err.code, 0);
    EXPECT_IDS(f.t, "aa a?!", HT_ENCODE_BOS, 1, 5, 4, 5, 0);
    cr_assert(ht_tokenizer_is_end(f.t, 2));
    close_folder(&f);
    cr_assert_gt(test_fail_each_allocation(open_folder, close_folder, &f), 10);
    for (size_t cut = 0; cut < n; cut++) { /* a cut file is refused, or its setting is gone and it is no BPE */
        write_bytes(&f, "tokenizer.model", m, cut);
        cr_assert(open_folder(&f, &err) < 0);
        cr_assert(strstr(err.text, "tokenizer.model"), "%s", err.text);
    }
    test_temp_remove(f.path);
}

Test(tokenizer_hf, sentencepiece_file_of_a_model)
{
    static const struct { const char *text; int n; int32_t ids[8]; } cases[] = {
        {"LORD", 1, {344}}, {"And\nAnd", 4, {300, 13, 4059, 263}}, {" a", 2, {4034, 262}}, {"<s>", 4, {4034, 63, 4041, 65}},
        {"\xe6\x97\xa5", 4, {4034, 233, 154, 168}},
    };
    folder f = {.t = NULL};
    ht_error err = {0};
    if (!test_data(f.path, "models/kjv-relu-7m/hf/tokenizer.model")) cr_skip_test("no models/kjv-relu-7m/hf");
    *strrchr(f.path, '/') = 0;
    cr_assert_eq(open_folder(&f, &err), 0, "%s", err.text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ids(f.t, cases[i].text, 0, cases[i].ids, cases[i].n);
    }
    close_folder(&f);
}
