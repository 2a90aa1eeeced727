/* Generated ids to text, with a real vocabulary: nothing is lost, nothing is broken, stop strings end it. */
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/engine/text.h"

#include <stdio.h>
#include <string.h>

/* Text with what generated text has: blanks, line breaks, characters of several tokens. */
static const char sample[] = "In the beginning — “God” created\n\n日本語 and 🙂 the heaven.\nUser: stop here.";

static ht_tokenizer *open_tokenizer(void)
{
    char path[TEST_PATH_MAX];
    ht_error err = {0};
    ht_gguf g;
    ht_tokenizer *t;
    if (!test_data(path, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) cr_skip_test("no models/kjv-relu-7m");
    cr_assert(ht_gguf_open(&g, path, &err) == 0, "%s", err.text);
    cr_assert(ht_tokenizer_from_gguf(&t, &g, &err) == 0, "%s", err.text);
    ht_gguf_close(&g);
    return t;
}

static int open_text(ht_text *t, const ht_tokenizer *tokenizer, const char *const *stop, int32_t n_stop, bool special,
                     bool continues, ht_error *err)
{
    const ht_text_options o = {.stop = stop, .n_stop = n_stop, .special = special, .continues = continues};

    return ht_text_open(t, tokenizer, ht_text_longest(tokenizer), &o, err);
}

/* All that comes out for the sample's tokens, up to a stop string. */
static size_t collect(ht_text *t, const ht_tokenizer *tokenizer, char *out, int32_t extra)
{
    int32_t ids[256];
    const char *bytes;
    size_t n, total = 0;
    int64_t count = ht_tokenizer_encode(tokenizer, sample, strlen(sample), 0, ids, 255, NULL);
    cr_assert(count > 20 && count < 255);
    if (extra >= 0) ids[count++] = extra;
    ids[count] = -1;
    for (int64_t i = 0; i <= count; i++) {
        int found = ht_text_feed(t, ids[i], &bytes, &n);
        memcpy(out + total, bytes, n);
        total += n;
        if (found) break;
    }
    out[total] = 0;
    return total;
}

static void check(const ht_tokenizer *tokenizer, const char *stop, bool special, bool continues, int32_t extra,
                  const char *want)
{
    ht_error err = {0};
    ht_text t;
    char out[1024];
    cr_assert(open_text(&t, tokenizer, &stop, stop != NULL, special, continues, &err) == 0, "%s", err.text);
    for (int round = 0; round < 2; round++, ht_text_reset(&t)) {
        collect(&t, tokenizer, out, extra);
        cr_assert(!strcmp(out, want), "'%s' instead of '%s'", out, want);
        cr_assert_eq(t.stop.found, stop && strlen(want) < strlen(sample) ? 0 : -1);
    }
    ht_text_close(&t);
}

Test(text, comes_out_as_it_was)
{
    ht_tokenizer *t = open_tokenizer();
    char with[256];
    int32_t end = ht_tokenizer_find(t, "</s>");
    cr_assert(end >= 0);
    check(t, NULL, false, false, -1, sample);
    check(t, NULL, false, false, end, sample);
    snprintf(with, sizeof with, " %s", sample);
    check(t, NULL, false, true, -1, with);
    snprintf(with, sizeof with, "%s</s>", sample);
    check(t, NULL, true, false, end, with);
    ht_tokenizer_close(&t);
}

Test(text, ends_at_stop_strings)
{
    static const char *const stops[] = {"\nUser:", "—", "語", "🙂", "heaven", "God” cr", "stop here.", "I"};
    ht_tokenizer *t = open_tokenizer();
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        char want[256];
        size_t n = (size_t)(strstr(sample, stops[i]) - sample);
        memcpy(want, sample, n);
        want[n] = 0;
        check(t, stops[i], false, false, -1, want);
    }
    check(t, "never said", false, false, -1, sample);
    ht_tokenizer_close(&t);
}

/* A stream that ends inside a character says so, and does not hold it back for ever. */
Test(text, unfinished_character)
{
    ht_tokenizer *tokenizer = open_tokenizer();
    ht_error err = {0};
    ht_text t;
    const char *bytes;
    size_t n;
    cr_assert(open_text(&t, tokenizer, NULL, 0, false, true, &err) == 0);
    int32_t first = ht_tokenizer_find(tokenizer, "<0xE6>");
    cr_assert(first >= 0);
    cr_assert_eq(ht_text_feed(&t, first, &bytes, &n), 0);
    cr_assert_eq(n, 0);
    cr_assert_eq(ht_text_feed(&t, -1, &bytes, &n), 0);
    cr_assert(n == 3 && !memcmp(bytes, "\xEF\xBF\xBD", 3));
    ht_text_close(&t);
    uint64_t live = ht_memory_get_stats().live;
    int r = -ENOMEM, i = 0;
    for (; r < 0 && i < 20; i++) {
        ht_memory_fail_after(i);
        r = open_text(&t, tokenizer, (const char *const[]){"x"}, 1, false, false, &err);
        ht_memory_fail_after(-1);
        if (r == 0) ht_text_close(&t);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
    cr_assert(r == 0 && i > 2);
    ht_tokenizer_close(&tokenizer);
}
