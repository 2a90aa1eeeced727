/* Decode attention of the CPU by itself, over a KV cache far larger than the caches of the CPU, beside the memory's speed:
 * each cache type in turns, a sample of streaming read before every pass.
 *
 *   hearth-attention [-H heads] [-G kv_heads] [-e head_dim] [-d tokens] [-t threads] [-r rounds] [-i isa] [-k type,type...]
 *
 * One pass is one generated token of a model with as many layers as 512 MiB of KV take. */
#include "core/base/median.h"
#include "core/base/memory.h"
#include "core/base/random.h"
#include "cpu/host.h"
#include "cpu/read_probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MOST_TYPES = 8, MOST_ROUNDS = 99 };
static const size_t WORKING_SET = (size_t)512 << 20, SAMPLE = (size_t)64 << 20;

typedef struct cache {
    ht_type type;
    ht_backend *backend;
    ht_kv_layout kv;
    int32_t pages, layers;
    char *memory;
    size_t bytes;
    void **page;            /* (layers, pages) */
    double rate[MOST_ROUNDS], share[MOST_ROUNDS];
} cache;

typedef struct world { ht_shape shape; int32_t tokens; ht_isa isa; ht_pool *pool; float *q, *out; } world;

static void die(const char *what)
{
    fprintf(stderr, "hearth-attention: %s\n", what);
    exit(1);
}

static ht_type type_of(const char *name)
{
    static const ht_type types[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0, HT_Q16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcasecmp(name, ht_kv_type_name(types[i]))) return types[i];
    fprintf(stderr, "hearth-attention: no cache type '%s'\n", name);
    exit(2);
}

/* One row of noise for all: no kernel's speed depends on values. */
static void fill(const world *w, cache *c)
{
    ht_kernels k;
    int32_t e = w->shape.head_dim;
    float *row = ht_alloc((size_t)e, sizeof *row);

    if (!row) die("out of memory");
    ht_kernels_init(&k, w->isa);
    for (int32_t i = 0; i < e; i++) row[i] = (float)ht_random_normal(1, 0, (uint64_t)i, 0);
    for (int32_t p = 0; p < c->layers * c->pages; p++)
        for (int32_t g = 0; g < c->kv.n_kv_heads; g++)
            for (int32_t t = 0; t < HT_KV_TILE; t++) {
                char *page = c->page[p];
                k.kv_store[c->type][0](row, page + ht_kv_tile_at(&c->kv, false, g), t, e);
                k.kv_store[c->type][1](row, page + ht_kv_tile_at(&c->kv, true, g), t, e);
            }
    ht_free(row);
}

static void open_cache(const world *w, cache *c, const char *name)
{
    ht_error err = {0};
    ht_ops_limits limits = {.columns = 1, .sequences = 1, .context = w->tokens, .shape = w->shape, .act = HT_ACT_F32};

    *c = (cache){.type = type_of(name), .pages = ht_kv_pages_of(w->tokens)};
    if (ht_kv_layout_init(&limits.kv, &w->shape, c->type, c->type, &err) < 0 ||
        ht_host_open(&c->backend, &(ht_host_options){limits, w->pool, w->isa}, &err) < 0)
        die(err.text);
    c->kv = limits.kv;
    size_t layer = c->kv.page_bytes * (size_t)c->pages;
    c->layers = layer < WORKING_SET ? (int32_t)(WORKING_SET / layer) : 1;
    c->bytes = layer * (size_t)c->layers;
    c->memory = ht_alloc_pages(c->bytes);
    c->page = ht_alloc((size_t)c->layers * (size_t)c->pages, sizeof *c->page);
    if (!c->memory || !c->page) die("out of memory");
    for (int32_t i = 0; i < c->layers * c->pages; i++) c->page[i] = c->memory + c->kv.page_bytes * (size_t)i;
    fill(w, c);
}

static double seconds_of_token(const world *w, cache *c)
{
    int32_t token = 0, position = w->tokens - 1, sequence = 0, ids[4096];
    const int32_t *pages = ids;
    const ht_step step = {HT_CLASS_DECODE, 1, &token, &position, &sequence, 1, &pages, &w->tokens};
    const float scale = 1.0f / sqrtf((float)w->shape.head_dim);
    ht_error err = {0};

    for (int32_t i = 0; i < c->pages; i++) ids[i] = i;
    if (c->backend->ops->begin(c->backend, &step, &err) < 0) die(err.text);
    double start = ht_now();
    for (int32_t l = 0; l < c->layers; l++)
        c->backend->ops->attention(c->backend, &(ht_attention_args){.q = w->q, .page = c->page + l * c->pages, .scale = scale,
                                                                    .out = w->out});
    return ht_now() - start;
}

int main(int argc, char **argv)
{
    world w = {.shape = {.n_embd = 1, .n_vocab = 1, .n_heads = 32, .n_kv_heads = 4, .head_dim = 64}, .tokens = 8000,
               .isa = ht_isa_detect()};
    char names[256] = "f16,q16,q8_0,q4_0";
    static cache caches[MOST_TYPES];
    int threads = 0, rounds = 9, n = 0, option;
    ht_read_probe *probe;
    ht_error err = {0};

    while ((option = getopt(argc, argv, "H:G:e:d:t:r:i:k:")) != -1)
        switch (option) {
        case 'H': w.shape.n_heads = atoi(optarg); break;
        case 'G': w.shape.n_kv_heads = atoi(optarg); break;
        case 'e': w.shape.head_dim = atoi(optarg); break;
        case 'd': w.tokens = atoi(optarg); break;
        case 't': threads = atoi(optarg); break;
        case 'r': rounds = atoi(optarg); break;
        case 'i': if (!ht_isa_by_name(optarg, &w.isa)) die("no such level"); break;
        case 'k': snprintf(names, sizeof names, "%s", optarg); break;
        default: return 2;
        }
    if (w.tokens < 1 || w.tokens > 4096 * HT_KV_TILE || rounds < 1 || rounds > MOST_ROUNDS || w.shape.n_kv_heads < 1 ||
        w.shape.n_heads % w.shape.n_kv_heads)
        die("a number is out of range");
    if (ht_pool_open(&w.pool, &(ht_pool_options){.threads = threads, .pin = true}, &err) < 0) die(err.text);
    if (ht_read_probe_open(&probe, ht_pool_threads(w.pool), &err) < 0) die(err.text);
    size_t values = (size_t)w.shape.n_heads * (size_t)w.shape.head_dim;
    w.q = ht_alloc(values, sizeof *w.q), w.out = ht_alloc(values, sizeof *w.out);
    if (!w.q || !w.out) die("out of memory");
    for (size_t i = 0; i < values; i++) w.q[i] = (float)ht_random_normal(2, 0, (uint64_t)i, 0);
    for (char *save, *name = strtok_r(names, ",", &save); name && n < MOST_TYPES; name = strtok_r(NULL, ",", &save))
        open_cache(&w, &caches[n++], name);

    double read[MOST_ROUNDS * MOST_TYPES];
    for (int r = -1; r < rounds; r++) /* the first warms up */
        for (int i = 0; i < n; i++) {
            double before = ht_read_probe_sample(probe, SAMPLE), seconds = seconds_of_token(&w, &caches[i]);
            double beside = (before + ht_read_probe_sample(probe, SAMPLE)) / 2;
            if (r < 0) continue;
            caches[i].rate[r] = (double)caches[i].bytes / seconds;
            caches[i].share[r] = caches[i].rate[r] / beside;
            read[r * n + i] = beside;
        }
    printf("%d heads of %d, %d KV heads, %d tokens; %d threads, %s; streaming read %.1f GB/s\n", w.shape.n_heads,
           w.shape.head_dim, w.shape.n_kv_heads, w.tokens, ht_pool_threads(w.pool), ht_isa_name(w.isa),
           ht_median(read, rounds * n) / 1e9);
    printf("%-6s %14s %10s %9s\n", "type", "tokens/us", "GB/s", "of read");
    for (int i = 0; i < n; i++) {
        cache *c = &caches[i];
        double rate = ht_median(c->rate, rounds);
        printf("%-6s %14.2f %10.2f %8.1f%%\n", ht_kv_type_name(c->type), rate / ((double)c->bytes / c->layers / w.tokens) / 1e6,
               rate / 1e9, 100 * ht_median(c->share, rounds));
    }
    return 0;
}
