/* Stop strings: whatever way the text is cut into pieces, the same text comes out and the same string is found. */
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/engine/stop.h"

#include <stdbool.h>
#include <string.h>

typedef struct outcome { char text[512]; size_t n; int32_t found; } outcome;

/* Feeds `text` in pieces of random sizes up to `most`. */
static outcome feed(ht_stop *s, const char *text, size_t most, uint64_t seed)
{
    outcome o = {.found = -1};
    const char *out;
    size_t n, at = 0, size = strlen(text);
    uint64_t draws = 0;

    ht_stop_reset(s);
    while (at < size && o.found < 0) {
        size_t piece = (size_t)(ht_random_uniform(seed, 0, draws++, 0) * (double)(most + 1)); /* 0 too */
        if (piece > size - at) piece = size - at;
        int r = ht_stop_feed(s, text + at, piece, &out, &n);
        cr_assert(r == 0 || r == 1);
        memcpy(o.text + o.n, out, n);
        o.n += n;
        at += piece;
        if (r) o.found = s->found;
    }
    if (o.found < 0) {
        ht_stop_finish(s, &out, &n);
        memcpy(o.text + o.n, out, n);
        o.n += n;
    } else {
        cr_assert_eq(ht_stop_feed(s, "more", 4, &out, &n), 1);
        cr_assert_eq(n, 0);
    }
    return o;
}

/* The rule, by brute force: the string that ends first, of several the longest. */
static outcome brute(const char *text, const char *const *stop, int32_t n)
{
    outcome o = {.found = -1};
    size_t size = strlen(text), best = 0;
    for (size_t end = 1; end <= size && o.found < 0; end++)
        for (int32_t i = 0; i < n; i++) {
            size_t k = strlen(stop[i]);
            if (k <= end && k > best && !memcmp(text + end - k, stop[i], k)) {
                o.found = i;
                best = k;
                o.n = end - k;
            }
        }
    if (o.found < 0) o.n = size;
    memcpy(o.text, text, o.n);
    return o;
}

static void check(const char *text, const char *const *stop, int32_t n)
{
    ht_error err = {0};
    ht_stop s;
    cr_assert(ht_stop_open(&s, stop, n, 64, &err) == 0, "%s", err.text);
    outcome want = brute(text, stop, n);
    for (uint64_t seed = 0; seed < 20; seed++) {
        outcome got = feed(&s, text, 1 + (size_t)seed % 9, seed);
        cr_assert_eq(got.found, want.found, "'%s' seed %d: found %d, not %d", text, (int)seed, got.found, want.found);
        cr_assert(got.n == want.n && !memcmp(got.text, want.text, want.n), "'%s' seed %d: '%.*s'", text, (int)seed,
                  (int)got.n, got.text);
    }
    ht_stop_close(&s);
}

Test(stop, known_cases)
{
    check("hello world", (const char *const[]){"\n"}, 1);
    check("hello\nworld", (const char *const[]){"\n"}, 1);
    check("aaab", (const char *const[]){"aab"}, 1);
    check("ababac", (const char *const[]){"abac"}, 1);
    check("xabcdy", (const char *const[]){"abcd", "bc"}, 2);
    check("xabcy", (const char *const[]){"bc", "abc"}, 2);
    check("ends with STO", (const char *const[]){"STOP"}, 1);
    check("STOP", (const char *const[]){"STOP"}, 1);
    check("no strings at all", NULL, 0);
    check("", (const char *const[]){"x"}, 1);
}

/* Two letters and short strings: matches, near matches and overlaps are the rule. */
Test(stop, random_texts)
{
    for (uint64_t seed = 0; seed < 400; seed++) {
        char text[41], strings[3][7];
        const char *stop[3];
        uint64_t draws = 0;
        int32_t n = (int32_t)(seed % 4);
        size_t size = (size_t)(ht_random_uniform(seed, 1, draws++, 0) * 40);
        for (size_t i = 0; i < size; i++) text[i] = "ab"[ht_random_uniform(seed, 1, draws++, 0) < 0.5];
        text[size] = 0;
        for (int32_t s = 0; s < n; s++) {
            size_t k = 1 + (size_t)(ht_random_uniform(seed, 1, draws++, 0) * 6);
            for (size_t i = 0; i < k; i++) strings[s][i] = "ab"[ht_random_uniform(seed, 1, draws++, 0) < 0.5];
            strings[s][k] = 0;
            stop[s] = strings[s];
        }
        check(text, stop, n);
    }
}

Test(stop, text_is_not_held_longer_than_needed)
{
    ht_error err = {0};
    ht_stop s;
    const char *out;
    size_t n;
    cr_assert(ht_stop_open(&s, (const char *const[]){"\n\nUser:"}, 1, 64, &err) == 0);
    cr_assert_eq(ht_stop_feed(&s, "fine", 4, &out, &n), 0);
    cr_assert_eq(n, 4);
    cr_assert_eq(ht_stop_feed(&s, "x\n", 2, &out, &n), 0);
    cr_assert(n == 1 && out[0] == 'x');
    cr_assert_eq(ht_stop_feed(&s, "y", 1, &out, &n), 0);
    cr_assert(n == 2 && !memcmp(out, "\ny", 2), "the line break turned out to be harmless");
    ht_stop_close(&s);
}

Test(stop, bad_input)
{
    ht_error err = {0};
    ht_stop s;
    const char *out;
    size_t n;
    char big[65] = {0};
    cr_assert_eq(ht_stop_open(&s, (const char *const[]){"a", ""}, 2, 64, &err), -EINVAL);
    cr_assert_eq(ht_stop_open(&s, NULL, -1, 64, &err), -EINVAL);
    cr_assert_eq(ht_stop_open(&s, (const char *const[]){"a"}, 1, 64, &err), 0);
    cr_assert_eq(ht_stop_feed(&s, big, 65, &out, &n), -EMSGSIZE);
    cr_assert_eq(n, 0);
    ht_stop_close(&s);

    uint64_t live = ht_memory_get_stats().live;
    int r = -ENOMEM, i = 0;
    for (; r < 0 && i < 50; i++) {
        ht_memory_fail_after(i);
        r = ht_stop_open(&s, (const char *const[]){"a", "b"}, 2, 64, &err);
        ht_memory_fail_after(-1);
        ht_stop_close(&s);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
    cr_assert(r == 0 && i == 6);
}
