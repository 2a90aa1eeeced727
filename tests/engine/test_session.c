/* Sessions on the reference backend: reuse, chunks, batches, forks, and everything that can go wrong. Each test runs
 * twice: on a store where everything is there, and on the fake store, whose bytes come late, move, and rot. */
#include "tests/support/harness.h"
#include "tests/support/rig.h"

#include "core/base/memory.h"

#include <string.h>

#define BOTH(name)                                                                                             \
    static void name(bool fake);                                                                               \
    Test(session, name, .timeout = 60) { name(false); }                                                        \
    Test(session_fake, name, .timeout = 60) { name(true); }                                                    \
    static void name(bool fake)

enum { V = 97, MOST = 512 };

/* The bits of a session's logits. */
typedef struct bits { float v[V]; } bits;

static bits bits_of(const ht_session *s)
{
    bits b;
    cr_assert(s->has_logits);
    memcpy(b.v, s->logits, sizeof b.v);
    return b;
}

static bool same(bits a, bits b) { return !memcmp(a.v, b.v, sizeof a.v); }

static void append(ht_session *s, int32_t token)
{
    ht_error err = {0};
    cr_assert(ht_session_decode(&s, &token, 1, &err) == 0, "%s", err.text);
}

/* What a session of its own gives for a prompt and then generated tokens. */
static bits fresh(ht_rig *rig, const int32_t *tokens, int64_t n_prompt, int64_t n_generated)
{
    ht_session *s = ht_rig_session(rig);
    ht_rig_sync(s, tokens, n_prompt);
    for (int64_t i = 0; i < n_generated; i++) append(s, tokens[n_prompt + i]);
    bits b = bits_of(s);
    ht_session_close(&s);
    return b;
}

/* The pages of a closed session hold its old bytes; others must not care. */
static void dirty_pages(ht_rig *rig)
{
    int32_t junk[MOST];
    ht_rig_tokens(junk, MOST, 99);
    ht_session *s = ht_rig_session(rig);
    ht_rig_sync(s, junk, 300);
    ht_session_close(&s);
}

BOTH(classes_differ_and_are_kept_apart)
{
    ht_rig rig;
    int32_t t[16];
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake});
    ht_rig_tokens(t, 16, 1);
    bits prompt = fresh(&rig, t, 10, 0), generated = fresh(&rig, t, 9, 1);
    cr_assert(!same(prompt, generated), "the reference backend's classes must differ for these tests to see anything");
    for (int i = 0; i < V; i++) cr_assert_float_eq(prompt.v[i], generated.v[i], 1e-3);

    /* a prompt that grows by one token at a time is still a prompt */
    ht_session *s = ht_rig_session(&rig);
    for (int64_t n = 1; n <= 10; n++) ht_rig_sync(s, t, n);
    cr_assert(same(bits_of(s), prompt));
    ht_session_close(&s);
    ht_rig_close(&rig);
}

BOTH(chunks_make_no_difference)
{
    int32_t t[200];
    bits first;
    ht_rig_tokens(t, 200, 2);
    static const int32_t chunks[] = {256, 1, 7, 64, 65, 199};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        ht_rig rig;
        ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .columns = 256, .chunk = chunks[i]});
        dirty_pages(&rig);
        int64_t steps = ht_ref_backend_counts(rig.backend).steps;
        bits b = fresh(&rig, t, 200, 0);
        steps = ht_ref_backend_counts(rig.backend).steps - steps;
        cr_assert_eq(steps, (200 + chunks[i] - 1) / chunks[i], "chunk %d: %ld passes", chunks[i], (long)steps);
        if (i == 0) first = b;
        cr_assert(same(first, b), "chunk %d", chunks[i]);
        ht_rig_close(&rig);
    }
}

BOTH(prefix_is_reused_as_it_was_computed)
{
    ht_rig rig;
    int32_t t[150], u[150];
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake});
    ht_rig_tokens(t, 150, 3);
    memcpy(u, t, sizeof u);
    u[100] = (u[100] + 1) % V;
    bits want = fresh(&rig, u, 150, 0);

    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, t, 150);
    bits old = bits_of(s);
    int64_t computed = ht_ref_backend_counts(rig.backend).columns;
    ht_rig_sync(s, t, 150); /* nothing to do */
    cr_assert_eq(ht_ref_backend_counts(rig.backend).columns, computed);
    cr_assert(same(bits_of(s), old));
    ht_rig_sync(s, u, 150); /* the first 100 tokens are there */
    cr_assert_eq(ht_ref_backend_counts(rig.backend).columns - computed, 50);
    cr_assert(same(bits_of(s), want));
    ht_rig_sync(s, u, 80); /* shorter: the last token again, for its logits */
    cr_assert_eq(ht_ref_backend_counts(rig.backend).columns - computed, 51);
    cr_assert(same(bits_of(s), fresh(&rig, u, 80, 0)));
    cr_assert_eq(rig.engine->stats.reused_tokens, 150 + 100 + 79);

    /* generated tokens that come back in a prompt keep the bits of their class */
    append(s, t[1]), append(s, t[2]), append(s, t[3]);
    memcpy(u + 80, t + 1, 3 * sizeof *u);
    u[83] = 5;
    ht_rig_sync(s, u, 84);
    ht_session *r = ht_rig_session(&rig);
    ht_rig_sync(r, u, 80);
    for (int i = 80; i < 83; i++) append(r, u[i]);
    ht_rig_sync(r, u, 84);
    cr_assert(same(bits_of(s), bits_of(r)));
    cr_assert(!same(bits_of(s), fresh(&rig, u, 84, 0)));
    ht_session_close(&s);
    ht_session_close(&r);
    ht_rig_close(&rig);
}

BOTH(batches_make_no_difference)
{
    ht_rig rig;
    int32_t t[4][200];
    static const int64_t n[4] = {70, 1, 130, 64};
    ht_session *s[4];
    ht_prompt p[4];
    bits want[4], want_generated[4];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .columns = 48, .sequences = 5});
    for (int i = 0; i < 4; i++) {
        ht_rig_tokens(t[i], 200, 10 + (uint64_t)i);
        want[i] = fresh(&rig, t[i], n[i], 0);
        want_generated[i] = fresh(&rig, t[i], n[i], 66);
    }
    for (int i = 0; i < 4; i++) p[i] = (ht_prompt){s[i] = ht_rig_session(&rig), t[i], n[i]};
    int64_t steps = ht_ref_backend_counts(rig.backend).steps;
    cr_assert(ht_session_sync(p, 4, &err) == 0, "%s", err.text);
    cr_assert_eq(ht_ref_backend_counts(rig.backend).steps - steps, (70 + 1 + 130 + 64 + 47) / 48);
    for (int i = 0; i < 4; i++) cr_assert(same(bits_of(s[i]), want[i]), "prompt %d", i);
    for (int64_t k = 0; k < 66; k++) { /* across page borders */
        int32_t token[4];
        for (int i = 0; i < 4; i++) token[i] = t[i][n[i] + k];
        cr_assert(ht_session_decode(s, token, 4, &err) == 0, "%s", err.text);
    }
    for (int i = 0; i < 4; i++) cr_assert(same(bits_of(s[i]), want_generated[i]), "session %d", i);
    cr_assert_eq(ht_ref_backend_counts(rig.backend).widest, 48);
    for (int i = 0; i < 4; i++) ht_session_close(&s[i]);
    ht_rig_close(&rig);
}

BOTH(forks_share_until_they_write)
{
    ht_rig rig;
    int32_t t[200];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake});
    ht_rig_tokens(t, 200, 4);
    ht_session *a = ht_rig_session(&rig), *b, *c;
    ht_rig_sync(a, t, 100);
    int32_t free_pages = rig.engine->kv.n_free;
    cr_assert(ht_session_fork(&b, a, 1, 0, &err) == 0, "%s", err.text);
    cr_assert(ht_session_fork(&c, b, 2, 100, &err) == 0, "%s", err.text);
    cr_assert_eq(rig.engine->kv.n_free, free_pages, "a fork takes no pages");
    cr_assert(same(bits_of(a), bits_of(b)) && same(bits_of(a), bits_of(c)));

    append(b, 7);
    cr_assert_eq(rig.engine->kv.n_free, free_pages - 1, "the half-full page is copied");
    append(a, 8);
    cr_assert_eq(rig.engine->kv.n_free, free_pages - 2);
    int32_t u[101];
    memcpy(u, t, sizeof u);
    u[100] = 7;
    cr_assert(same(bits_of(b), fresh(&rig, u, 100, 1)));
    u[100] = 8;
    cr_assert(same(bits_of(a), fresh(&rig, u, 100, 1)));
    int32_t one = 1;
    cr_assert_eq(ht_session_decode(&c, &one, 1, &err), -ENOSPC, "c was opened for 100 tokens");
    ht_session_close(&a);
    cr_assert_eq(rig.engine->kv.n_free, free_pages - 1, "a's copy is free, the rest is still shared");
    cr_assert(ht_session_fork(&a, c, 3, 0, &err) == 0, "%s", err.text);
    cr_assert_eq(ht_session_decode(&a, &one, 1, &err), -ENOSPC, "a fork has the context of what it is made from");
    ht_session_close(&a);

    /* diverging inside of a shared full page: computed anew, without a copy of what is not kept */
    u[64] = (t[64] + 1) % V;
    ht_rig_sync(c, u, 100);
    cr_assert(same(bits_of(c), fresh(&rig, u, 100, 0)));
    u[64] = t[64], u[100] = 7;
    append(b, 9);
    cr_assert_eq(b->n_tokens, 102);
    ht_session_close(&b);
    ht_session_close(&c);
    ht_rig_close(&rig);
}

BOTH(two_forks_write_the_shared_page_in_one_step)
{
    ht_rig rig;
    int32_t t[40];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .kv_pages = 2});
    ht_rig_tokens(t, 40, 5);
    ht_session *s[2];
    s[0] = ht_rig_session(&rig);
    ht_rig_sync(s[0], t, 38);
    cr_assert(ht_session_fork(&s[1], s[0], 1, 0, &err) == 0, "%s", err.text);
    int32_t token[2] = {t[38], 50};
    cr_assert(ht_session_decode(s, token, 2, &err) == 0, "%s", err.text);
    ht_session_close(&s[1]);
    cr_assert(same(bits_of(s[0]), fresh(&rig, t, 38, 1)));
    ht_session_close(&s[0]);
    ht_rig_close(&rig);
}

BOTH(truncate_forgets)
{
    ht_rig rig;
    int32_t t[200];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake});
    ht_rig_tokens(t, 200, 6);
    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, t, 150);
    cr_assert_eq(ht_session_truncate(s, 151, &err), -EINVAL);
    cr_assert_eq(ht_session_truncate(s, -1, &err), -EINVAL);
    cr_assert_eq(ht_session_truncate(s, 150, &err), 0);
    cr_assert(s->has_logits, "nothing was truncated");
    cr_assert_eq(ht_session_truncate(s, 64, &err), 0);
    cr_assert(!s->has_logits);
    cr_assert_eq(s->table.n, 1);
    append(s, t[64]);
    cr_assert(same(bits_of(s), fresh(&rig, t, 64, 1)));
    cr_assert_eq(ht_session_truncate(s, 0, &err), 0);
    ht_rig_sync(s, t, 150);
    cr_assert(same(bits_of(s), fresh(&rig, t, 150, 0)));
    ht_session_close(&s);
    ht_rig_close(&rig);
}

typedef struct scored { int64_t next; int64_t count; bits at[MOST]; } scored;

static void take_score(void *user, int64_t position, const float *logits)
{
    scored *s = user;
    cr_assert_eq(position, s->next++);
    memcpy(s->at[position].v, logits, sizeof s->at[position].v);
    s->count++;
    ht_free(ht_alloc(1, 1)); /* the caller's code may allocate */
}

BOTH(score_gives_the_logits_of_every_token)
{
    static scored got;
    ht_rig rig;
    int32_t t[150];
    ht_error err = {0};
    memset(&got, 0, sizeof got);
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .columns = 80}); /* more than one slice of logits a pass */
    ht_rig_tokens(t, 150, 7);
    ht_session *s = ht_rig_session(&rig);
    cr_assert(ht_session_score(s, t, 150, 0, take_score, &got, &err) == 0, "%s", err.text);
    cr_assert_eq(got.count, 150);
    ht_session *r = ht_rig_session(&rig);
    for (int64_t n = 1; n <= 150; n++) {
        ht_rig_sync(r, t, n);
        cr_assert(same(bits_of(r), got.at[n - 1]), "token %ld", (long)n - 1);
    }
    cr_assert(same(bits_of(s), got.at[149]));
    /* from the middle: what is before is reused */
    int64_t columns = ht_ref_backend_counts(rig.backend).columns;
    got.next = 120, got.count = 0;
    bits last = got.at[149];
    cr_assert(ht_session_score(s, t, 150, 120, take_score, &got, &err) == 0, "%s", err.text);
    cr_assert_eq(got.count, 30);
    cr_assert_eq(ht_ref_backend_counts(rig.backend).columns - columns, 30);
    cr_assert(same(got.at[149], last));
    cr_assert_eq(ht_session_score(s, t, 150, 150, take_score, &got, &err), -EINVAL);
    ht_session_close(&s);
    ht_session_close(&r);
    ht_rig_close(&rig);
}

BOTH(bad_calls_change_nothing)
{
    ht_rig rig;
    int32_t t[MOST + 1];
    ht_error err = {0};
    ht_session *extra;
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .context = 100, .sequences = 2});
    ht_rig_tokens(t, MOST + 1, 8);
    ht_session *s = ht_rig_session(&rig), *other = ht_rig_session(&rig);
    ht_rig_sync(s, t, 100);
    ht_rig_sync(other, t + 1, 20);
    bits before = bits_of(s), before_other = bits_of(other);
    int64_t passes = ht_ref_backend_counts(rig.backend).steps;

    cr_assert_eq(ht_session_open(&extra, rig.engine, 0, 0, &err), -EBUSY);
    cr_assert(extra == NULL);
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 101}, 1, &err), -ENOSPC);
    cr_assert(strstr(err.text, "101") && strstr(err.text, "100"), "%s", err.text);
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 0}, 1, &err), -EINVAL);
    t[3] = V;
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 50}, 1, &err), -EINVAL);
    cr_assert(strstr(err.text, "97"), "%s", err.text);
    t[3] = -1;
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 50}, 1, &err), -EINVAL);
    t[3] = 3;
    cr_assert_eq(ht_session_sync((ht_prompt[]){{s, t, 50}, {s, t, 50}}, 2, &err), -EINVAL);
    cr_assert_eq(ht_session_sync((ht_prompt[]){{s, t, 50}, {other, t, 101}}, 2, &err), -ENOSPC);
    int32_t token[3] = {1, 2, 3};
    cr_assert_eq(ht_session_decode((ht_session *[]){other, s}, token, 2, &err), -ENOSPC);
    cr_assert(strstr(err.text, "100"), "%s", err.text);
    cr_assert_eq(ht_session_decode((ht_session *[]){other, other}, token, 2, &err), -EINVAL);
    cr_assert_eq(ht_session_decode((ht_session *[]){other, s, other}, token, 3, &err), -EINVAL);
    token[0] = V;
    cr_assert_eq(ht_session_decode(&other, token, 1, &err), -EINVAL);

    cr_assert(s->n_tokens == 100 && other->n_tokens == 20);
    cr_assert(same(bits_of(s), before) && same(bits_of(other), before_other));
    cr_assert_eq(ht_ref_backend_counts(rig.backend).steps, passes);
    append(other, 1);
    ht_session_close(&s);
    ht_session_close(&other);
    ht_rig_close(&rig);
}

BOTH(running_out_of_pages_changes_nothing)
{
    ht_rig rig;
    int32_t t[MOST];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake, .kv_pages = 5});
    ht_rig_tokens(t, MOST, 9);
    ht_session *a = ht_rig_session(&rig), *b = ht_rig_session(&rig), *f;
    ht_rig_sync(a, t, 128);     /* 2 pages */
    ht_rig_sync(b, t + 1, 128); /* 2 pages, 1 is left */
    bits before_a = bits_of(a), before_b = bits_of(b);
    cr_assert_eq(ht_session_sync(&(ht_prompt){a, t, 257}, 1, &err), -ENOMEM);
    cr_assert(strstr(err.text, "KV"), "%s", err.text);
    int32_t token[2] = {1, 2};
    cr_assert_eq(ht_session_decode((ht_session *[]){a, b}, token, 2, &err), -ENOMEM, "two want a page, one is left");
    cr_assert(a->n_tokens == 128 && b->n_tokens == 128 && rig.engine->kv.n_free == 1);
    cr_assert(same(bits_of(a), before_a) && same(bits_of(b), before_b));
    append(a, 1);
    cr_assert_eq(ht_session_decode(&b, token, 1, &err), -ENOMEM);

    /* A fork holds on to the pages that a different prompt would let go of: then they are not enough. */
    cr_assert(ht_session_fork(&f, a, 1, 0, &err) == 0, "%s", err.text);
    cr_assert_eq(ht_session_decode(&a, token, 1, &err), -ENOMEM, "no page for the copy");
    cr_assert_eq(ht_session_sync(&(ht_prompt){a, t + 5, 100}, 1, &err), -ENOMEM);
    cr_assert_eq(a->n_tokens, 129);
    /* Both together let go of them. */
    cr_assert(ht_session_sync((ht_prompt[]){{a, t + 5, 100}, {f, t + 5, 60}}, 2, &err) == 0, "%s", err.text);
    ht_session_close(&b);
    cr_assert(same(bits_of(a), fresh(&rig, t + 5, 100, 0)));
    cr_assert(same(bits_of(f), fresh(&rig, t + 5, 60, 0)));
    ht_session_close(&a);
    ht_session_close(&f);
    ht_rig_close(&rig);
}

/* Fails the N-th acquire, or the N-th arrival, of a call, for every N until the call succeeds. */
static void fail_everywhere(bool arrival)
{
    ht_rig rig;
    int32_t t[200];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = true, .sites = 1});
    ht_rig_tokens(t, 200, 12);
    bits want_prompt = fresh(&rig, t, 130, 0), want_generated = fresh(&rig, t, 130, 1);

    ht_session *s = ht_rig_session(&rig);
    int r = -1;
    int64_t n = 1;
    for (; r < 0; n++) {
        int32_t old = s->n_tokens;
        ht_fake_store_set_faults(rig.store, arrival ? 0 : n, arrival ? n : 0);
        r = ht_session_sync(&(ht_prompt){s, t, 130}, 1, &err);
        cr_assert(r == 0 || r == -EIO);
        cr_assert_eq(ht_fake_store_held(rig.store), 0);
        if (r < 0) cr_assert(s->n_tokens >= old && s->n_tokens % 64 == 0 && s->n_tokens < 130 && !s->has_logits);
        cr_assert_eq(s->table.n, ht_kv_pages_of(s->n_tokens));
        if (n > 100) break;
    }
    cr_assert(n > 4 && n < 100);
    cr_assert(same(bits_of(s), want_prompt), "what the failed calls left is right");
    for (r = -1, n = 1; r < 0; n++) {
        ht_fake_store_set_faults(rig.store, arrival ? 0 : n, arrival ? n : 0);
        r = ht_session_decode(&s, &t[130], 1, &err);
        cr_assert(r == 0 || r == -EIO);
        cr_assert_eq(s->n_tokens, r < 0 ? 130 : 131);
        cr_assert(same(bits_of(s), r < 0 ? want_prompt : want_generated));
        if (n > 100) break;
    }
    cr_assert_eq(n - 1, 1 + 2 * 3 + 1 + 1, "embedding, two layers of attention, KV and FFN, output; then success");
    ht_session_close(&s);
    ht_rig_close(&rig);
}

Test(session_fake, failing_acquires, .timeout = 60) { fail_everywhere(false); }
Test(session_fake, failing_arrivals, .timeout = 60) { fail_everywhere(true); }

Test(session, failing_backend)
{
    ht_rig rig;
    int32_t t[50];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){0});
    ht_rig_tokens(t, 50, 13);
    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, t, 40);
    bits want = fresh(&rig, t, 40, 1);
    for (int64_t n = 1; n <= 2; n++) { /* at the logits, and at the end */
        ht_rig_sync(s, t, 40);
        ht_ref_backend_fail_sync(rig.backend, n);
        cr_assert_eq(ht_session_decode(&s, &t[40], 1, &err), -EIO);
        cr_assert_eq(s->n_tokens, 40);
        cr_assert_eq(s->has_logits, n == 1, "logits of a token that is not there are not given");
    }
    append(s, t[40]);
    cr_assert(same(bits_of(s), want));
    ht_session_close(&s);
    ht_rig_close(&rig);
}

static void set_cancel(void *user) { atomic_store((atomic_bool *)user, true); }

BOTH(cancel_keeps_complete_passes)
{
    ht_rig rig;
    int32_t t[200];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.fake = fake});
    ht_rig_tokens(t, 200, 14);
    bits want = fresh(&rig, t, 130, 0), want_generated = fresh(&rig, t, 130, 1);
    ht_session *s = ht_rig_session(&rig);
    ht_rig_sync(s, t, 64);
    ht_ref_backend_on_pass(rig.backend, set_cancel, &rig.engine->cancel);
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 130}, 1, &err), -ECANCELED);
    cr_assert_eq(s->n_tokens, 64);
    cr_assert_eq(ht_session_sync(&(ht_prompt){s, t, 130}, 1, &err), -ECANCELED, "the flag stays");
    ht_ref_backend_on_pass(rig.backend, NULL, NULL);
    atomic_store(&rig.engine->cancel, false);
    ht_rig_sync(s, t, 130);
    cr_assert(same(bits_of(s), want));
    atomic_store(&rig.engine->cancel, true);
    cr_assert_eq(ht_session_decode(&s, &t[130], 1, &err), -ECANCELED);
    cr_assert_eq(s->n_tokens, 130);
    cr_assert(same(bits_of(s), want));
    atomic_store(&rig.engine->cancel, false);
    append(s, t[130]);
    cr_assert(same(bits_of(s), want_generated));
    ht_session_close(&s);
    ht_rig_close(&rig);
}

Test(session, hash_tells_runs_apart)
{
    uint64_t hash[3];
    int32_t t[3][30];
    ht_rig_tokens(t[0], 30, 15);
    memcpy(t[1], t[0], sizeof t[0]);
    memcpy(t[2], t[0], sizeof t[0]);
    t[2][29] ^= 1;
    for (int i = 0; i < 3; i++) {
        ht_rig rig;
        ht_rig_open(&rig, &(ht_rig_options){.chunk = 1 + 9 * i});
        fresh(&rig, t[i], 20, 10);
        hash[i] = rig.engine->stats.logits_hash;
        cr_assert(rig.engine->stats.prompt_tokens == 20 && rig.engine->stats.decode_tokens == 10);
        ht_rig_close(&rig);
    }
    cr_assert_eq(hash[0], hash[1]);
    cr_assert_neq(hash[0], hash[2]);
}

/* Every allocation of opening an engine, a session and a fork fails once, and everything is given back. */
Test(session, failing_allocations)
{
    ht_rig rig;
    int32_t t[10];
    ht_error err = {0};
    ht_rig_open(&rig, &(ht_rig_options){.sites = 1});
    ht_rig_tokens(t, 10, 16);
    uint64_t live = ht_memory_get_stats().live;
    ht_engine_options options = {&(ht_site){rig.backend, rig.store}, 1, 64};
    int r = -ENOMEM;
    int64_t n = 0;
    for (; r < 0 && n < 1000; n++) {
        ht_engine *e = NULL;
        ht_session *s = NULL, *f = NULL;
        ht_memory_fail_after(n);
        r = ht_engine_open(&e, &options, &err);
        if (r >= 0) r = ht_session_open(&s, e, 0, 0, &err);
        if (r >= 0) r = ht_session_sync(&(ht_prompt){s, t, 10}, 1, &err); /* allocates nothing */
        if (r >= 0) r = ht_session_fork(&f, s, 1, 0, &err);
        ht_memory_fail_after(-1);
        cr_assert(r == 0 || r == -ENOMEM, "%d %s", r, err.text);
        cr_assert(r == 0 || err.text[0]);
        ht_session_close(&f);
        ht_session_close(&s);
        ht_engine_close(&e);
        cr_assert_eq(ht_memory_get_stats().live, live, "allocation %ld leaks", (long)n);
    }
    cr_assert(r == 0 && n > 20);
    ht_rig_close(&rig);
}

Test(session, engines_that_cannot_be)
{
    ht_rig rig;
    ht_error err = {0};
    ht_engine *e;
    ht_rig_open(&rig, &(ht_rig_options){.sites = 1});
    const ht_site site = {rig.backend, rig.store};
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){&site, 1, 0}, &err), -EINVAL);
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){&site, 1, 65}, &err), -EINVAL);
    rig.backend->limits.shape.n_experts = 8;
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){&site, 1, 8}, &err), -ENOTSUP);
    cr_assert(e == NULL && strstr(err.text, "8 experts"), "%s", err.text);
    ht_rig_close(&rig);
}

/* The bits do not depend on how many sites share the layers. */
Test(session, sites_carry_on_what_one_would_compute)
{
    uint64_t hash[3];
    int32_t tokens[80];
    ht_error err = {0};
    ht_rig_tokens(tokens, 80, 3);
    for (int32_t n = 1; n <= 3; n++) {
        ht_rig rig;
        ht_rig_open(&rig, &(ht_rig_options){.sites = n, .chunk = 50});
        ht_session *s = ht_rig_session(&rig);
        ht_rig_sync(s, tokens, 70);
        for (int i = 70; i < 80; i++) cr_assert(ht_session_decode(&s, &tokens[i], 1, &err) == 0, "%s", err.text);
        hash[n - 1] = rig.engine->stats.logits_hash;
        ht_session_close(&s);
        ht_rig_close(&rig);
    }
    cr_assert(hash[1] == hash[0] && hash[2] == hash[0]);
}

/* A failure on any site ends the pass with its text, and the next pass is right. */
Test(session, any_site_may_fail)
{
    int32_t tokens[30];
    ht_rig_tokens(tokens, 30, 4);
    for (int32_t site = 0; site < 3; site++) {
        ht_rig rig;
        ht_error err = {0};
        ht_rig_open(&rig, &(ht_rig_options){.sites = 3, .fake = true});
        ht_session *s = ht_rig_session(&rig);
        ht_fake_store_set_faults(rig.site[site].store, 0, 1);
        cr_assert(ht_session_sync(&(ht_prompt){s, tokens, 30}, 1, &err) < 0 && err.text[0], "site %d", site);
        ht_fake_store_set_faults(rig.site[site].store, 0, 0);
        ht_rig_sync(s, tokens, 30);
        ht_session_close(&s);
        ht_rig_close(&rig);
    }
}

Test(session, sites_follow_each_other)
{
    ht_rig rig;
    ht_error err = {0};
    ht_engine *e;
    ht_rig_open(&rig, &(ht_rig_options){.sites = 2});
    const ht_site turned[] = {rig.site[1], rig.site[0]}, alone = rig.site[0];
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){turned, 2, 8}, &err), -EINVAL);
    cr_assert(strstr(err.text, "site 0 has layers [1, 2), the output where layer 0 comes next"), "%s", err.text);
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){&alone, 1, 8}, &err), -EINVAL);
    rig.site[1].store->kv_pages--;
    cr_assert_eq(ht_engine_open(&e, &(ht_engine_options){rig.site, 2, 8}, &err), -EINVAL);
    cr_assert(strstr(err.text, "KV pages"), "%s", err.text);
    rig.site[1].store->kv_pages++;
    ht_rig_close(&rig);
}
