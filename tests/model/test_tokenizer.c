/* Tokenizers against the ids of the models' own, both ways; streaming; hostile texts; broken vocabularies. */
#include "core/base/random.h"
#include "core/base/threads.h"
#include "tests/model/vocab_files.h"
#include "tests/support/fail.h"

enum { CAPACITY = 4096 };

/* ---- files with expected ids ---------------------------------------------------------------------------- */

static void check_decoded(const ht_tokenizer *t, const int32_t *ids, int64_t n, const char *text, size_t bytes)
{
    char out[CAPACITY];
    int64_t used = ht_tokenizer_decode(t, ids, n, false, out, sizeof out);
    cr_assert(used == (int64_t)bytes && !memcmp(out, text, bytes), "decoding gives '%.*s' for '%.*s'", (int)used, out,
              (int)bytes, text);
    ht_utf8_stream stream = {0};
    int64_t streamed = 0;
    for (int64_t i = 0; i <= n; i++) {
        int len = ht_tokenizer_stream(t, &stream, i < n ? ids[i] : -1, out + streamed, (int)(CAPACITY - streamed));
        cr_assert(len >= 0);
        streamed += len;
    }
    cr_assert(streamed == (int64_t)bytes && !memcmp(out, text, bytes), "streaming differs for '%.*s'", (int)bytes, text);
}

static void check_line(const ht_tokenizer *t, const char *text, size_t bytes, char *line, int number)
{
    int32_t want[CAPACITY], got[CAPACITY];
    int64_t n_want = 0;
    ht_error err = {0};
    for (char *p = line; ; n_want++) {
        char *end;
        want[n_want] = (int32_t)strtol(p, &end, 10);
        if (end == p) break;
        p = end;
    }
    int64_t n = ht_tokenizer_encode(t, text, bytes, 0, got, CAPACITY, &err);
    cr_assert_eq(n, n_want, "text %d: %lld ids, not %lld %s", number, (long long)n, (long long)n_want, err.text);
    for (int64_t i = 0; i < n; i++) cr_assert_eq(got[i], want[i], "text %d, id %lld", number, (long long)i);
    check_decoded(t, got, n, text, bytes);
}

static void check_files(const char *name)
{
    static const char border[] = "\n__ggml_vocab_test__\n";
    char relative[256], path[TEST_PATH_MAX];
    char *texts = NULL, *lines = NULL;
    size_t size;
    ht_error err = {0};
    int checked = 0;
    snprintf(relative, sizeof relative, "tokenizers/%s.gguf", name);
    ht_tokenizer *t = vocab_from(relative);
    if (!t) cr_skip_test("no tokenizers/%s.gguf", name);
    snprintf(relative, sizeof relative, "tokenizers/%s.gguf.inp", name);
    cr_assert(test_data(path, relative));
    cr_assert_eq(ht_file_slurp(path, 1 << 20, &texts, &size, &err), 0, "%s", err.text);
    snprintf(relative, sizeof relative, "tokenizers/%s.gguf.out", name);
    cr_assert(test_data(path, relative));
    cr_assert_eq(ht_file_slurp(path, 1 << 20, &lines, &size, &err), 0, "%s", err.text);
    for (char *text = texts, *line = lines; text; checked++) {
        char *end = strstr(text, border), *newline = strchr(line, '\n');
        if (newline) *newline = 0;
        check_line(t, text, end ? (size_t)(end - text) : strlen(text), line, checked);
        text = end ? end + sizeof border - 1 : NULL;
        line = newline ? newline + 1 : line + strlen(line);
    }
    cr_assert_eq(checked, 47);
    ht_free(texts);
    ht_free(lines);
    ht_tokenizer_close(&t);
}

Test(tokenizer, llama_spm) { check_files("llama-spm"); }
Test(tokenizer, gpt2) { check_files("gpt-2"); }
Test(tokenizer, falcon) { check_files("falcon"); }
Test(tokenizer, deepseek_llm) { check_files("deepseek-llm"); }
Test(tokenizer, starcoder) { check_files("starcoder"); }
Test(tokenizer, refact) { check_files("refact"); }
Test(tokenizer, deepseek_coder) { check_files("deepseek-coder"); }
Test(tokenizer, phi3) { check_files("phi-3"); }

/* ---- a vocabulary by hand ------------------------------------------------------------------------------- */

static ht_tokenizer *open_made(made_vocab *m)
{
    ht_error err = {0};
    ht_tokenizer *t = NULL;
    cr_assert_eq(ht_tokenizer_from_gguf(&t, &m->gguf, &err), 0, "%s", err.text);
    return t;
}

static void expect_ids(const ht_tokenizer *t, const char *text, unsigned flags, const int32_t *want, int64_t n)
{
    int32_t got[64];
    cr_assert_eq(ht_tokenizer_encode(t, text, strlen(text), flags, got, 64, NULL), n, "'%s'", text);
    cr_assert(!memcmp(got, want, (size_t)n * sizeof *want), "'%s'", text);
}
#define EXPECT_IDS(t, text, flags, ...)                                                                        \
    expect_ids(t, text, flags, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)

Test(tokenizer, special_tokens_count_only_when_asked)
{
    made_vocab m;
    make_vocab(&m);
    ht_tokenizer *t = open_made(&m);
    EXPECT_IDS(t, "abc ab", 0, 257, ' ', 256);
    EXPECT_IDS(t, "a<|end|>", HT_ENCODE_SPECIAL, 'a', 260);
    EXPECT_IDS(t, "<|end|>", 0, '<', '|', 'e', 'n', 'd', '|', '>');
    EXPECT_IDS(t, "a<user> a", 0, 'a', 261, 258);
    EXPECT_IDS(t, "<user<user><|end|", HT_ENCODE_SPECIAL, '<', 'u', 's', 'e', 'r', 261, '<', '|', 'e', 'n', 'd', '|');
    EXPECT_IDS(t, "aaaa", 0, 259, 259);
    cr_assert(ht_tokenizer_is_end(t, 260) && !ht_tokenizer_is_end(t, 261) && !ht_tokenizer_is_end(t, -1));
    cr_assert_eq(ht_tokenizer_find(t, "abc"), 257);
    cr_assert_eq(ht_tokenizer_find(t, "abcd"), -1);
    cr_assert_str_eq(ht_tokenizer_chat_template(t), "<|im_start|>");
    const char *bytes;
    cr_assert_eq(ht_tokenizer_piece(t, 260, false, &bytes), 0);
    cr_assert_eq(ht_tokenizer_piece(t, 260, true, &bytes), 7);
    cr_assert_eq(ht_tokenizer_piece(t, MADE_TOKENS, true, &bytes), -EINVAL);
    cr_assert_eq(ht_tokenizer_piece(t, -1, true, &bytes), -EINVAL);
    ht_tokenizer_close(&t);
    cr_assert_null(t);
}

/* Some converters list the end of a turn among the words. */
Test(tokenizer, an_end_of_turn_is_never_text)
{
    made_vocab m;
    make_vocab(&m);
    m.tokens[258] = made_text("<end_of_turn>");
    m.merges[2] = made_text("a a");
    made_int(m.kinds, 260, HT_TOKEN_NORMAL);
    m.values[5].as.u = 'z'; /* EOS is another */
    ht_tokenizer *t = open_made(&m);
    for (int32_t id = 258; id <= 260; id += 2) {
        cr_assert_eq(ht_tokenizer_kind(t, id), HT_TOKEN_CONTROL);
        cr_assert(ht_tokenizer_is_end(t, id));
    }
    cr_assert_eq(ht_tokenizer_kind(t, 259), HT_TOKEN_NORMAL);
    EXPECT_IDS(t, "a<end_of_turn><|end|>", HT_ENCODE_SPECIAL, 'a', 258, 260);
    EXPECT_IDS(t, "<|end|>", 0, '<', '|', 'e', 'n', 'd', '|', '>');
    ht_tokenizer_close(&t);
}

/* As in Gemma's files by older converters: runs of blanks are user-defined tokens, spelled with U+2581. */
Test(tokenizer, runs_of_blanks_as_tokens)
{
    static const char *const texts[] = {"<unk>", "a", "\xe2\x96\x81", "\342\226\201a", "\xe2\x96\x81\xe2\x96\x81",
                                        "\xe2\x96\x81\xe2\x96\x81\xe2\x96\x81"};
    static const int kinds[] = {HT_TOKEN_UNKNOWN, HT_TOKEN_NORMAL, HT_TOKEN_NORMAL, HT_TOKEN_NORMAL, HT_TOKEN_USER,
                                HT_TOKEN_USER};
    enum { N = sizeof texts / sizeof *texts };
    made_vocab m;
    char out[16];
    make_vocab(&m);
    for (int i = 0; i < N; i++) {
        m.tokens[i] = made_text(texts[i]);
        made_int(m.kinds, i, (uint32_t)kinds[i]);
    }
    memset(m.scores, 0, sizeof m.scores);
    m.values[0].string = made_text("llama");
    m.values[2].count = m.values[3].count = N;
    m.values[4] = (ht_gguf_value){.key = "tokenizer.ggml.scores", .kind = HT_GGUF_ARRAY, .item = HT_GGUF_F32, .count = N,
                                  .items = m.scores};
    m.values[5] = (ht_gguf_value){.key = "tokenizer.ggml.add_space_prefix", .kind = HT_GGUF_BOOL, .as.b = false};
    m.values[6].as.u = 0;
    ht_tokenizer *t = open_made(&m);
    EXPECT_IDS(t, "a a", 0, 1, 3);
    EXPECT_IDS(t, "a   a", 0, 1, 5, 1);
    EXPECT_IDS(t, "     a", 0, 5, 4, 1);
    EXPECT_IDS(t, "    a", 0, 5, 3);
    EXPECT_IDS(t, "a\xe2\x96\x81\xe2\x96\x81" "a", 0, 1, 4, 1);
    int64_t n = ht_tokenizer_decode(t, (const int32_t[]){1, 5, 4, 1}, 4, false, out, sizeof out);
    cr_assert(n == 7 && !memcmp(out, "a     a", 7));
    ht_tokenizer_close(&t);
}

static void expect_quoted(const ht_tokenizer *t, const char *text, const ht_text_span *quotes, int32_t n_quotes,
                          const int32_t *want, int64_t n)
{
    int32_t got[64];
    int64_t found = ht_tokenizer_encode_quoted(t, text, strlen(text), HT_ENCODE_SPECIAL, quotes, n_quotes, got, 64, NULL);
    cr_assert_eq(found, n, "'%s': %lld", text, (long long)found);
    cr_assert(!memcmp(got, want, (size_t)n * sizeof *want), "'%s'", text);
}
#define EXPECT_QUOTED(t, text, quotes, ...)                                                                        \
    expect_quoted(t, text, quotes, sizeof(quotes) / sizeof *(quotes), (const int32_t[]){__VA_ARGS__},              \
                  sizeof((const int32_t[]){__VA_ARGS__}) / 4)

Test(tokenizer, quotes_are_text)
{
    made_vocab m;
    make_vocab(&m);
    ht_tokenizer *t = open_made(&m);
    static const ht_text_span whole[] = {{0, 7}}, middle[] = {{8, 16}}, two[] = {{1, 2}, {9, 16}}, touching[] = {{3, 5}};
    EXPECT_QUOTED(t, "<|end|><|end|>", whole, '<', '|', 'e', 'n', 'd', '|', '>', 260);
    /* a user-defined token counts in a quote as in any text, unless the text around it has it too */
    EXPECT_QUOTED(t, "<|end|>!<user>ab<|end|>", middle, 260, '!', 261, 256, 260);
    EXPECT_QUOTED(t, "<user>!!<user>ab<|end|>", middle, 261, '!', '!', '<', 'u', 's', 'e', 'r', '>', 256, 260);
    EXPECT_QUOTED(t, "aa<|end|><|end|>a", two, 259, 260, '<', '|', 'e', 'n', 'd', '|', '>', 'a');
    EXPECT_QUOTED(t, "<|end|>", touching, '<', '|', 'e', 'n', 'd', '|', '>');
    /* words are cut as if there were no quotes */
    static const ht_text_span inside[] = {{1, 2}};
    EXPECT_QUOTED(t, "abc ab", inside, 257, ' ', 256);
    ht_tokenizer_close(&t);
}

Test(tokenizer, capacity_bounds_what_is_written_not_what_is_counted)
{
    made_vocab m;
    make_vocab(&m);
    ht_tokenizer *t = open_made(&m);
    int32_t ids[4] = {-7, -7, -7, -7};
    cr_assert_eq(ht_tokenizer_encode(t, "xyz", 3, 0, ids, 2, NULL), 3);
    cr_assert(ids[0] == 'x' && ids[1] == 'y' && ids[2] == -7);
    cr_assert_eq(ht_tokenizer_encode(t, "xyz", 3, 0, NULL, 0, NULL), 3);
    cr_assert_eq(ht_tokenizer_encode(t, "", 0, 0, NULL, 0, NULL), 0);
    char out[4] = "????";
    cr_assert_eq(ht_tokenizer_decode(t, (const int32_t[]){257, 256}, 2, false, out, 4), 5);
    cr_assert(!memcmp(out, "abca", 4));
    ht_tokenizer_close(&t);
}

/* Any bytes come back: with all 256 byte tokens nothing is lost, text or not. */
Test(tokenizer, random_bytes_round_trip)
{
    made_vocab m;
    make_vocab(&m);
    ht_tokenizer *t = open_made(&m);
    for (uint64_t round = 0; round < 3000; round++) {
        uint8_t text[96], back[96];
        int32_t ids[200];
        size_t n = (size_t)(ht_random_uniform(1, 0, round, 0) * 96);
        for (size_t i = 0; i < n; i++) {
            double u = ht_random_uniform(1, 1, round * 96 + i, 0), v = ht_random_uniform(1, 2, round * 96 + i, 0);
            text[i] = (uint8_t)(round % 3 == 0 ? u * 256 : round % 3 == 1 ? "abc <|\n"[(int)(u * 7)] : v < .5 ? 0xe3 : 0x80 + u * 4);
        }
        int64_t n_ids = ht_tokenizer_encode(t, (char *)text, n, HT_ENCODE_SPECIAL, ids, 200, NULL);
        cr_assert(n_ids >= 0 && n_ids <= (int64_t)n);
        cr_assert_eq(ht_tokenizer_decode(t, ids, n_ids, true, (char *)back, 96), (int64_t)n, "round %d", (int)round);
        cr_assert(!memcmp(text, back, n), "round %d", (int)round);
    }
    ht_tokenizer_close(&t);
}

/* ---- streaming ------------------------------------------------------------------------------------------ */

static void expect_stream(const ht_tokenizer *t, const char *bytes, const char *want)
{
    char out[256];
    int used = 0;
    ht_utf8_stream s = {0};
    for (const char *p = bytes; *p; p++) {
        int len = ht_tokenizer_stream(t, &s, (uint8_t)*p, out + used, 200 - used);
        cr_assert(len >= 0);
        used += len;
    }
    used += ht_tokenizer_stream(t, &s, -1, out + used, 200 - used);
    out[used] = 0;
    cr_assert_str_eq(out, want);
    cr_assert_eq(s.n_held, 0);
}

Test(tokenizer, streams_whole_characters)
{
    made_vocab m;
    make_vocab(&m);
    ht_tokenizer *t = open_made(&m);
    char out[16];
    ht_utf8_stream s = {0};
    const char *smile = "\xf0\x9f\x99\x82";
    for (int i = 0; i < 3; i++) cr_assert_eq(ht_tokenizer_stream(t, &s, (uint8_t)smile[i], out, 16), 0);
    cr_assert_eq(ht_tokenizer_stream(t, &s, (uint8_t)smile[3], out, 3), -ENOSPC);
    cr_assert_eq(ht_tokenizer_stream(t, &s, (uint8_t)smile[3], out, 16), 4);
    cr_assert(!memcmp(out, smile, 4));

    /* Maximal subparts, Unicode 15 table 3-8 and around it. */
    expect_stream(t, "a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d",
                  "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "b\xef\xbf\xbd" "c\xef\xbf\xbd\xef\xbf\xbd" "d");
    expect_stream(t, "\xe0\x80\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    expect_stream(t, "\xff\xc3\xa9\xc3", "\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd");
    expect_stream(t, "\xf0\x9f\x99", "\xef\xbf\xbd");
    cr_assert_eq(ht_tokenizer_stream(t, &s, MADE_TOKENS, out, 16), -EINVAL);
    ht_tokenizer_close(&t);
}

/* ---- size ----------------------------------------------------------------------------------------------- */

/* Runs that are quadratic or worse for careless merging or matching. The limit is 20 times what they take. */
Test(tokenizer, a_megabyte_of_one_thing, .timeout = 240)
{
    static const char *const units[] = {"a", " ", "\n", "=", "1", "\xe6\x97\xa5", "\x80", "a\xcc\x81\xcc\xa3", " \r", "<|", " a"};
    static const char *const files[] = {"tokenizers/llama-spm.gguf", "tokenizers/gpt-2.gguf", "tokenizers/deepseek-llm.gguf"};
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES + 8), *back = malloc(BYTES + 8);
    int32_t *ids = malloc(3 * (BYTES + 8) * sizeof *ids);
    int tried = 0;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        ht_tokenizer *t = vocab_from(files[f]);
        if (!t) continue;
        for (size_t u = 0; u < sizeof units / sizeof *units; u++, tried++) {
            size_t n = 0, len = strlen(units[u]);
            for (; n + len <= BYTES; n += len) memcpy(text + n, units[u], len);
            text[n++] = 'x';
            double start = ht_now();
            int64_t n_ids = ht_tokenizer_encode(t, text, n, HT_ENCODE_SPECIAL, ids, 3 * (BYTES + 8), NULL);
            double seconds = ht_now() - start;
            cr_assert(n_ids > 0);
            cr_assert(seconds < 20, "%s: '%s' took %.1f s", files[f], units[u], seconds);
            cr_assert_eq(ht_tokenizer_decode(t, ids, n_ids, true, back, BYTES + 8), (int64_t)n);
            cr_assert(!memcmp(text, back, n), "%s: '%s'", files[f], units[u]);
        }
        ht_tokenizer_close(&t);
    }
    free(text);
    free(back);
    free(ids);
    if (!tried) cr_skip_test("no tokenizers/");
}

/* ---- broken vocabularies -------------------------------------------------------------------------------- */

static void expect_refusal(made_vocab *m, int code, const char *names)
{
    ht_error err = {0};
    ht_tokenizer *t = NULL;
    uint64_t live = ht_memory_get_stats().live;
    cr_assert_eq(ht_tokenizer_from_gguf(&t, &m->gguf, &err), code, "%s: %s", names, err.text);
    cr_assert(strstr(err.text, names), "'%s' does not name '%s'", err.text, names);
    cr_assert_null(t);
    cr_assert_eq(ht_memory_get_stats().live, live, "%s leaks", names);
}

Test(tokenizer, broken_vocabularies_are_refused_by_name)
{
    made_vocab m;
#define BROKEN(code, names, ...)                                                                               \
    make_vocab(&m);                                                                                            \
    __VA_ARGS__;                                                                                               \
    expect_refusal(&m, code, names)
    BROKEN(-ENOTSUP, "tokenizer.ggml.model: 'bert'", m.values[0].string = made_text("bert"));
    BROKEN(-EINVAL, "tokenizer.ggml.model", m.values[0].key = "x");
    BROKEN(-EINVAL, "tokenizer.ggml.model", m.values[0].kind = HT_GGUF_U32);
    BROKEN(-ENOTSUP, "tokenizer.ggml.pre", m.values[1].string = made_text("martian"));
    BROKEN(-EINVAL, "tokenizer.ggml.tokens", m.values[2].key = "x");
    BROKEN(-EINVAL, "tokenizer.ggml.tokens", m.values[2].item = HT_GGUF_I32);
    BROKEN(-EINVAL, "tokenizer.ggml.tokens", m.values[2].count = 0);
    BROKEN(-EINVAL, "tokenizer.ggml.token_type", m.values[3].count--);
    BROKEN(-EINVAL, "tokenizer.ggml.token_type", m.values[3].item = HT_GGUF_STRING);
    BROKEN(-EINVAL, "tokenizer.ggml.merges is missing", m.values[4].key = "x");
    BROKEN(-EINVAL, "tokenizer.ggml.merges[2]", m.merges[2] = made_text("nopair"));
    BROKEN(-EINVAL, "tokenizer.ggml.merges[1]: 'zz'", m.merges[1] = made_text("zz a"));
    BROKEN(-EINVAL, "tokenizer.ggml.merges[3]: 'ba'", m.merges[3] = made_text("b a"));
    BROKEN(-EINVAL, "tokenizer.ggml.eos_token_id", m.values[5].as.u = MADE_TOKENS);
    BROKEN(-EINVAL, "tokenizer.ggml.bos_token_id", m.values[6].kind = HT_GGUF_STRING);
    BROKEN(-EINVAL, "tokenizer.ggml.scores is missing", m.values[0].string = made_text("llama"));
    BROKEN(-EINVAL, "tokenizer.ggml.tokens[7]", made_int(m.kinds, 7, HT_TOKEN_BYTE));
    ht_gguf_value scores = {.key = "tokenizer.ggml.scores", .kind = HT_GGUF_ARRAY, .item = HT_GGUF_F32,
                            .count = MADE_TOKENS, .items = m.scores};
    BROKEN(-EINVAL, "tokenizer.ggml.scores[9]", m.values[0].string = made_text("llama"), m.values[7] = scores,
           made_int(m.scores, 9, 0x7fc00000));
    BROKEN(-EINVAL, "tokenizer.ggml.scores has", m.values[0].string = made_text("llama"), m.values[7] = scores,
           m.values[7].count--);
}

/* Bytes without tokens: those of text are left out, as the original tokenizers do; others become U+FFFD. */
Test(tokenizer, missing_byte_tokens)
{
    made_vocab m;
    make_vocab(&m);
    m.tokens[0xff] = made_text("spare1");
    m.tokens['z'] = made_text("spare2");
    ht_tokenizer *t = open_made(&m);
    EXPECT_IDS(t, "xzy\xff", 0, 'x', 'y', 0xef, 0xbf, 0xbd);
    ht_tokenizer_close(&t);
}

typedef struct opening { made_vocab m; ht_tokenizer *t; } opening;
static int open_it(void *context, ht_error *err)
{
    opening *o = context;
    int32_t ids[400];
    char text[200];
    int ret = ht_tokenizer_from_gguf(&o->t, &o->m.gguf, err);
    if (ret < 0) return ret;
    memset(text, 'a', sizeof text); /* long enough for the heap */
    int64_t n = ht_tokenizer_encode(o->t, text, sizeof text, 0, ids, 400, err);
    if (n < 0) ht_tokenizer_close(&o->t);
    return n < 0 ? (int)n : 0;
}
static void close_it(void *context) { ht_tokenizer_close(&((opening *)context)->t); }

Test(tokenizer, any_allocation_may_fail)
{
    opening o = {0};
    make_vocab(&o.m);
    o.m.values[1].string = made_text("qwen2");
    cr_assert_gt(test_fail_each_allocation(open_it, close_it, &o), 20);
}
