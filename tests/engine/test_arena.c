/* The arena planner: nothing that lives together overlaps, and the whole is hardly larger than what lives at once. */
#include "tests/support/harness.h"
#include "tests/support/tiny_model.h"

#include "core/base/random.h"
#include "core/engine/arena.h"
#include "core/engine/forward.h"

#include <stdio.h>

static void check_plan(ht_arena_item *items, int32_t n, size_t align, const char *what)
{
    size_t total = ht_arena_plan(items, n, align), bound = ht_arena_bound(items, n, align);

    for (int32_t i = 0; i < n; i++) {
        const ht_arena_item *a = &items[i];
        cr_assert(a->offset % align == 0 && a->offset + a->bytes <= total);
        for (int32_t k = 0; k < i; k++) {
            const ht_arena_item *b = &items[k];
            if (a->first > b->last || b->first > a->last) continue;
            cr_assert(a->offset >= b->offset + b->bytes || b->offset >= a->offset + a->bytes, "%s: %d and %d overlap",
                      what, k, i);
        }
    }
    cr_assert(total >= bound && (double)total <= 1.1 * (double)bound, "%s: %zu bytes, at least %zu are needed", what, total,
              bound);
}

Test(arena, random_lifetimes)
{
    uint64_t draws = 0;

    for (int round = 0; round < 400; round++) {
        ht_arena_item items[40];
        char what[32];
        int32_t n = 1 + round % 40, steps = 2 + (int32_t)(40 * ht_random_uniform(1, 0, draws++, 0));
        for (int32_t i = 0; i < n; i++) {
            int32_t a = (int32_t)(steps * ht_random_uniform(1, 0, draws++, 0));
            int32_t length = (int32_t)(6 * ht_random_uniform(1, 0, draws++, 0));
            double scale = ht_random_uniform(1, 0, draws++, 0);
            items[i] = (ht_arena_item){.bytes = (size_t)(1 + 100000 * scale * scale), .first = a, .last = a + length};
        }
        snprintf(what, sizeof what, "round %d", round);
        check_plan(items, n, 64, what);
    }
}

Test(arena, none_one_and_empty_ones)
{
    ht_arena_item one = {.bytes = 100, .first = 3, .last = 3}, empty[3] = {{.bytes = 0}, {.bytes = 10}, {.bytes = 0}};

    cr_assert_eq(ht_arena_plan(NULL, 0, 64), 0);
    cr_assert(ht_arena_plan(&one, 1, 64) == 128 && one.offset == 0);
    cr_assert_eq(ht_arena_plan(empty, 3, 64), 64);
}

/* The forward pass of real shapes. */
Test(arena, forward_pass)
{
    static const struct { int32_t d, heads, kv, e, f, vocab, columns; } shapes[] = {
        {64, 4, 2, 16, 160, 97, 1},           {2048, 32, 4, 64, 5632, 32000, 512},   {4096, 32, 32, 128, 11008, 32000, 512},
        {8192, 64, 8, 128, 28672, 128256, 512}, {576, 9, 3, 64, 1536, 49152, 2048}, {5120, 40, 8, 128, 25600, 151936, 64},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        ht_arena_item items[HT_FORWARD_BUFFERS];
        ht_model model;
        ht_error err = {0};
        size_t bytes, planned;
        ht_tiny_model_init(&model);
        ht_ops_limits l = {.columns = shapes[i].columns, .sequences = 1, .context = 128, .shape = model.shape};
        l.shape.n_embd = shapes[i].d;
        l.shape.n_heads = shapes[i].heads;
        l.shape.n_kv_heads = shapes[i].kv;
        l.shape.head_dim = shapes[i].e;
        l.shape.n_ff = shapes[i].f;
        l.shape.n_vocab = shapes[i].vocab;
        cr_assert(ht_forward_buffers(&l, true, items, &planned, &err) == 0, "%s", err.text);
        check_plan(items, HT_FORWARD_BUFFERS, HT_FORWARD_ALIGN, "a real shape");
        cr_assert(ht_forward_bytes(&l, true, 4096, &bytes, &err) == 0 && bytes >= planned && bytes < planned + 4096);
        size_t sum = 0;
        for (int k = 0; k < HT_FORWARD_BUFFERS; k++) sum += items[k].bytes;
        cr_assert_lt(planned, sum);
    }
}
