/* The bytes of synthetic matrices. Quantising billions of weights would take minutes, so a few thousand random
 * blocks are quantised once for each type and deviation, and a matrix is a random sequence of them: normal weights,
 * rows all different, at the speed of copying. Output matrices with so few blocks in a row that two rows could be
 * equal (two tokens with the same logit) are quantised themselves. The bytes are a function of (seed, tensor, position)
 * alone. */
#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/model/synth_parts.h"

#include <string.h>

#define POOL_WEIGHTS (1 << 17) /* 4096 blocks of 32 weights, */
#define MIN_BLOCKS 1024        /* or 1024 of 256 */
#define MAX_POOLS 32
#define FEW_BLOCKS 4           /* below it, 1024 blocks do not make rows different enough */
#define CHUNK_BYTES (1u << 20)
#define WEIGHT_STREAM 0x776c6f6fu /* marks these draws among those of the same seed */

/* Random blocks of one type and deviation. */
typedef struct pool {
    ht_type type;
    float sigma;
    int32_t unit;       /* weights in a block (32 for the float types) */
    size_t unit_bytes;
    uint32_t mask;      /* blocks - 1 */
    uint8_t *blocks;    /* owned */
    uint8_t *zero;      /* one block of zeros, owned */
} pool;

/* Owner: the thread that fills; tasks of the pool read it and use the buffer of their number. */
struct ht_synth_filler {
    ht_pool *threads;       /* owned */
    uint8_t **buffers;      /* [n_threads] of buffer_bytes, owned */
    ht_error *errors;       /* [n_threads], owned */
    size_t buffer_bytes;
    uint64_t seed;
    pool pools[MAX_POOLS];
    int32_t n_pools;
};

/* One matrix, as its tasks see it. */
typedef struct job {
    ht_synth_filler *f;
    const pool *p;
    ht_gguf_writer *w;
    int32_t tensor;
    int64_t rows, units; /* blocks in a row */
    int64_t step;        /* rows written at once */
    bool direct;         /* quantise every block */
    const bool *silent;  /* [rows] or NULL */
} job;

static int make_pool(ht_synth_filler *f, ht_type type, float sigma, const pool **out, ht_error *err)
{
    for (int32_t i = 0; i < f->n_pools; i++) {
        *out = &f->pools[i];
        if ((*out)->type == type && (*out)->sigma == sigma) return 0;
    }
    if (f->n_pools == MAX_POOLS) return ht_fail(err, -EINVAL, "too many kinds of matrices");
    const ht_type_info *info = ht_type_get((uint32_t)type);
    pool *p = &f->pools[f->n_pools];
    p->type = type;
    p->sigma = sigma;
    p->unit = info->block_len > HT_QK ? info->block_len : HT_QK;
    p->unit_bytes = ht_row_bytes(info, p->unit);
    int32_t n = POOL_WEIGHTS / p->unit > MIN_BLOCKS ? POOL_WEIGHTS / p->unit : MIN_BLOCKS;
    p->mask = (uint32_t)n - 1;
    p->blocks = ht_alloc((size_t)n, p->unit_bytes);
    p->zero = ht_alloc(1, p->unit_bytes);
    f->n_pools++; /* from here on it is freed with the others */
    if (!p->blocks || !p->zero) return ht_fail(err, -ENOMEM, "out of memory for random blocks");
    float x[HT_QK_K] = {0};
    info->quantize(x, p->zero, p->unit);
    for (int32_t b = 0; b < n; b++) {
        for (int32_t i = 0; i < p->unit; i++)
            x[i] = sigma * (float)ht_random_normal(f->seed, WEIGHT_STREAM, (uint64_t)b * HT_QK_K + (uint64_t)i, (uint32_t)type);
        info->quantize(x, p->blocks + (size_t)b * p->unit_bytes, p->unit);
    }
    *out = p;
    return 0;
}

static void quantize_rows(const job *j, int64_t begin, int64_t end, uint8_t *out)
{
    const pool *p = j->p;
    const ht_type_info *info = ht_type_get((uint32_t)p->type);
    float x[HT_QK_K];
    uint64_t sequence = (uint64_t)j->tensor << 32 | WEIGHT_STREAM;
    for (int64_t u = begin * j->units; u < end * j->units; u++, out += p->unit_bytes) {
        if (j->silent && j->silent[u / j->units]) {
            memcpy(out, p->zero, p->unit_bytes);
            continue;
        }
        for (int32_t i = 0; i < p->unit; i++)
            x[i] = p->sigma * (float)ht_random_normal(j->f->seed, sequence, (uint64_t)(u * p->unit + i), 0);
        info->quantize(x, out, p->unit);
    }
}

static void copy_rows(const job *j, int64_t begin, int64_t end, uint8_t *out)
{
    const pool *p = j->p;
    const uint32_t key[2] = {(uint32_t)j->f->seed, (uint32_t)(j->f->seed >> 32)};
    uint32_t words[4] = {0};
    uint64_t have = UINT64_MAX; /* the group of eight choices that is in `words` */
    for (int64_t row = begin; row < end; row++) {
        bool silent = j->silent && j->silent[row];
        for (int64_t u = 0; u < j->units; u++, out += p->unit_bytes) {
            uint64_t at = (uint64_t)row * (uint64_t)j->units + (uint64_t)u;
            if (at / 8 != have) {
                have = at / 8;
                const uint32_t counter[4] = {(uint32_t)have, (uint32_t)(have >> 32), (uint32_t)j->tensor, WEIGHT_STREAM};
                ht_philox(counter, key, words);
            }
            uint32_t choice = words[at % 8 / 2] >> (16 * (at % 2)) & p->mask;
            memcpy(out, silent ? p->zero : p->blocks + choice * p->unit_bytes, p->unit_bytes);
        }
    }
}

static void fill_range(void *context, int64_t begin, int64_t end, int thread)
{
    const job *j = context;
    ht_error *err = &j->f->errors[thread];
    size_t row_bytes = (size_t)j->units * j->p->unit_bytes;
    for (int64_t c = begin; c < end && err->code == 0; c++) {
        int64_t first = c * j->step, last = ht_min_i64(first + j->step, j->rows);
        if (j->direct) quantize_rows(j, first, last, j->f->buffers[thread]);
        else copy_rows(j, first, last, j->f->buffers[thread]);
        ht_gguf_write_at(j->w, j->tensor, (uint64_t)first * row_bytes, j->f->buffers[thread],
                         (size_t)(last - first) * row_bytes, err);
    }
}

int ht_synth_fill(ht_synth_filler *f, ht_gguf_writer *w, int32_t tensor, ht_type type, int64_t rows, int64_t cols,
                  float sigma, bool distinct, const bool *silent, ht_error *err)
{
    const pool *p;
    int rc = make_pool(f, type, sigma, &p, err);
    if (rc < 0) return rc;
    job j = {.f = f, .p = p, .w = w, .tensor = tensor, .rows = rows, .units = cols / p->unit, .silent = silent};
    j.direct = distinct && j.units < FEW_BLOCKS;
    size_t row_bytes = (size_t)j.units * p->unit_bytes;
    int threads = ht_pool_threads(f->threads);
    j.step = row_bytes < CHUNK_BYTES ? (int64_t)(CHUNK_BYTES / row_bytes) : 1;
    if (f->buffer_bytes < (size_t)j.step * row_bytes) {
        for (int i = 0; i < threads; i++) {
            ht_free(f->buffers[i]);
            f->buffers[i] = NULL;
        }
        f->buffer_bytes = 0;
        for (int i = 0; i < threads; i++)
            if (!(f->buffers[i] = ht_alloc((size_t)j.step, row_bytes))) return ht_fail(err, -ENOMEM, "out of memory");
        f->buffer_bytes = (size_t)j.step * row_bytes;
    }
    ht_pool_for(f->threads, ht_ceil_div(rows, j.step), 1, fill_range, &j);
    for (int i = 0; i < threads; i++)
        if (f->errors[i].code) return ht_fail(err, f->errors[i].code, "%s", f->errors[i].text);
    return 0;
}

int ht_synth_filler_open(ht_synth_filler **out, uint64_t seed, int32_t threads, ht_error *err)
{
    *out = NULL;
    ht_synth_filler *f = ht_calloc(1, sizeof *f);
    if (!f) return ht_fail(err, -ENOMEM, "out of memory");
    f->seed = seed;
    int rc = ht_pool_open(&f->threads, &(ht_pool_options){.threads = threads}, err);
    if (rc == 0) {
        f->buffers = ht_calloc((size_t)ht_pool_threads(f->threads), sizeof *f->buffers);
        f->errors = ht_calloc((size_t)ht_pool_threads(f->threads), sizeof *f->errors);
        if (!f->buffers || !f->errors) rc = ht_fail(err, -ENOMEM, "out of memory");
    }
    if (rc < 0) {
        ht_synth_filler_close(&f);
        return rc;
    }
    *out = f;
    return 0;
}

void ht_synth_filler_close(ht_synth_filler **filler)
{
    ht_synth_filler *f = *filler;
    if (!f) return;
    for (int i = 0; f->buffers && i < ht_pool_threads(f->threads); i++) ht_free(f->buffers[i]);
    for (int32_t i = 0; i < f->n_pools; i++) {
        ht_free(f->pools[i].blocks);
        ht_free(f->pools[i].zero);
    }
    ht_free(f->buffers);
    ht_free(f->errors);
    ht_pool_close(&f->threads);
    ht_free(f);
    *filler = NULL;
}
