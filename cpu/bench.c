/* Measuring kernels: see bench.h. */
#include "cpu/bench.h"

#include "core/base/arith.h"
#include "core/base/median.h"
#include "core/base/memory.h"
#include "core/base/random.h"
#include "core/base/threads.h"
#include "core/model/tiles.h"

#include <stdlib.h>
#include <string.h>

#define WORKING_SET ((size_t)512 << 20)
#define DECODE_UNIT ((int64_t)512 << 10) /* bytes of weights of a task: several tiles, since each prefetches the next */
#define BLOCK_ROWS 64                    /* rows of a task, block class */

/* ---- kernels ------------------------------------------------------------------------------------------------- */

/* Everything is owned. */
typedef struct kernel_job {
    const ht_kernel_bench *b;
    ht_kernels kernels;
    ht_pool *pool;
    ht_dot_fn *dot;
    ht_matmul_fn *run;
    const ht_matmul *matmul;
    bool decode, quantised; /* the class; activations in 8 bits */
    int64_t matrices;
    int64_t unit;           /* rows of a task */
    size_t row_bytes, matrix_bytes, w_bytes;
    size_t x_bytes;         /* of a column */
    size_t packed_bytes;
    size_t scratch_bytes;   /* of a thread */
    char *w, *x;            /* (matrices, rows), (columns) */
    char *packed, *scratch; /* block class */
    float *y;               /* (rows, columns) of each thread */
} kernel_job;

static void dot_range(void *context, int64_t begin, int64_t end, int thread)
{
    const kernel_job *j = context;
    const ht_kernel_bench *b = j->b;
    const int64_t units = ht_ceil_div(b->rows, j->unit); /* of a matrix */
    float *y = j->y + thread * b->rows * b->columns; /* all matrices have the same rows */
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i % units * j->unit, rows = ht_min_i64(j->unit, b->rows - row);
        const char *w = j->w + (size_t)(i / units) * j->matrix_bytes + (size_t)row * j->row_bytes;
        j->dot(y + row, b->rows, w, j->row_bytes, rows, j->x, j->x_bytes, b->columns, b->cols);
    }
}

static void pack_range(void *context, int64_t begin, int64_t end, int thread)
{
    const kernel_job *j = context;
    const ht_kernel_bench *b = j->b;
    (void)thread;
    j->matmul->pack(j->packed, j->x, j->x_bytes, begin, end, b->columns, b->cols);
}

static void matmul_range(void *context, int64_t begin, int64_t end, int thread)
{
    const kernel_job *j = context;
    const ht_kernel_bench *b = j->b;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i * BLOCK_ROWS, rows = ht_min_i64(BLOCK_ROWS, b->rows - row);
        j->run(j->y + row, b->rows, j->w + (size_t)row * j->row_bytes, j->row_bytes, rows, j->packed, b->columns, b->cols,
               j->scratch + (size_t)thread * j->scratch_bytes);
    }
}

/* Random bytes with small scales: no kernel's speed depends on values, but infinities and NaNs might. */
static void fill_weights(char *w, size_t bytes, ht_type type)
{
    const ht_type_info *info = ht_type_get((uint32_t)type);
    size_t block = (size_t)info->block_bytes;
    for (size_t i = 0; i < bytes; i++)
        w[i] = (char)(i * 2654435761u >> 13);
    if (info->block_len == 1) {
        for (size_t i = block - 1; i < bytes; i += block)
            w[i] = 0x3c;
        return;
    }
    for (size_t i = 0; i + block <= bytes; i += block) {
        w[i + 1] = w[i + 3] = 0x20; /* where d and m lie in most types */
        w[i + block - 1] = w[i + block - 3] = 0x20;
    }
}

static int weave(const kernel_job *j)
{
    const size_t tile = HT_TILE_ROWS * j->row_bytes;
    char *aside = ht_alloc(tile, 1);
    if (!aside)
        return -ENOMEM;
    for (size_t at = 0; at < j->w_bytes; at += tile)
        ht_tile_weave_in_place(j->b->type, j->w + at, aside, j->b->cols);
    ht_free(aside);
    return 0;
}

static int fill_columns(const kernel_job *j)
{
    const ht_kernel_bench *b = j->b;
    float *x = ht_alloc((size_t)b->cols, sizeof(float));
    if (!x)
        return -ENOMEM;
    for (int64_t c = 0; c < b->columns; c++) {
        for (int64_t i = 0; i < b->cols; i++)
            x[i] = (float)ht_random_uniform(1, (uint64_t)c, (uint64_t)i, 0) - 0.5f;
        if (j->quantised)
            j->kernels.act_quantize(x, j->x + (size_t)c * j->x_bytes, b->cols);
        else
            memcpy(j->x + (size_t)c * j->x_bytes, x, j->x_bytes);
    }
    ht_free(x);
    return 0;
}

static double timed(kernel_job *j)
{
    const ht_kernel_bench *b = j->b;
    double start = ht_now();
    if (j->decode) {
        ht_pool_for(j->pool, j->matrices * ht_ceil_div(b->rows, j->unit), 1, dot_range, j);
    } else {
        ht_pool_for(j->pool, b->columns, 8 * j->matmul->column_tile, pack_range, j);
        ht_pool_for(j->pool, ht_ceil_div(b->rows, BLOCK_ROWS), 1, matmul_range, j);
    }
    return ht_now() - start;
}

/* What is measured, and how much of it. */
static void plan(kernel_job *j, ht_kernel_bench *b)
{
    const ht_type_info *info = ht_type_get((uint32_t)b->type);
    const ht_kernels *k = &j->kernels;
    ht_kernels_init(&j->kernels, b->isa);
    j->b = b;
    j->decode = b->columns <= HT_DECODE_COLUMNS;
    j->quantised = !b->f32 && info->block_len > 1;
    b->woven = b->woven && k->dot_woven[b->type] && (j->quantised || info->block_len == 1) &&
               ht_tiles_fit(b->type, b->rows, b->cols);
    j->matmul = &k->matmul[b->type][b->f32];
    j->dot = b->woven ? k->dot_woven[b->type] : k->dot[b->type][b->f32];
    j->run = b->woven ? j->matmul->run_woven : j->matmul->run;
    j->row_bytes = ht_row_bytes(info, b->cols);
    j->matrix_bytes = j->row_bytes * (size_t)b->rows;
    j->matrices = j->decode ? ht_max_i64((int64_t)(WORKING_SET / j->matrix_bytes), 1) : 1;
    j->w_bytes = j->matrix_bytes * (size_t)j->matrices;
    j->unit = ht_max_i64(DECODE_UNIT / (int64_t)j->row_bytes / 16 * 16, 16);
    j->x_bytes = j->quantised ? HT_ACT_ROW_BYTES(b->cols) : (size_t)b->cols * sizeof(float);
}

static int prepare(kernel_job *j)
{
    const ht_kernel_bench *b = j->b;
    const size_t threads = (size_t)ht_pool_threads(j->pool);
    j->w = ht_alloc_pages(j->w_bytes);
    j->x = ht_alloc_pages(j->x_bytes * (size_t)b->columns);
    j->y = ht_alloc((size_t)(b->rows * b->columns) * threads, sizeof(float));
    if (!j->w || !j->x || !j->y)
        return -ENOMEM;
    if (!j->decode) {
        j->packed_bytes = j->matmul->packed_bytes(b->columns, b->cols);
        j->scratch_bytes = ht_align_up(j->matmul->scratch_bytes(b->cols), 4096);
        j->packed = ht_alloc_pages(j->packed_bytes);
        j->scratch = ht_alloc_aligned(j->scratch_bytes * threads + 64, 4096);
        if (!j->packed || !j->scratch)
            return -ENOMEM;
    }
    fill_weights(j->w, j->w_bytes, b->type);
    if (b->woven && weave(j) < 0)
        return -ENOMEM;
    return fill_columns(j);
}

static int measure(kernel_job *j, ht_kernel_bench *b)
{
    const int repeats = (int)ht_max_i64(b->repeats, 1);
    double *seconds = ht_calloc((size_t)repeats, sizeof(double));
    if (!seconds)
        return -ENOMEM;
    timed(j);
    for (int i = 0; i < repeats; i++)
        seconds[i] = timed(j);
    const double time = ht_median(seconds, repeats);
    b->bytes_per_second = (double)j->w_bytes / time;
    b->macs_per_second = (double)b->rows * (double)b->cols * (double)j->matrices * (double)b->columns / time;
    ht_free(seconds);
    return 0;
}

static void close_job(kernel_job *j)
{
    ht_pool_close(&j->pool);
    if (j->w)
        ht_free_pages(j->w, j->w_bytes);
    if (j->x)
        ht_free_pages(j->x, j->x_bytes * (size_t)j->b->columns);
    if (j->packed)
        ht_free_pages(j->packed, j->packed_bytes);
    ht_free(j->scratch);
    ht_free(j->y);
    ht_free(j);
}

int ht_cpu_bench_kernel(ht_kernel_bench *b, ht_error *err)
{
    const ht_type_info *info = ht_type_get((uint32_t)b->type);
    if (!info || b->rows < 1 || b->cols < 1 || b->columns < 1 || b->cols % info->block_len)
        return ht_fail(err, -EINVAL, "kernel bench: no such type, or a shape of %lld x %lld x %lld that it cannot have",
                       (long long)b->rows, (long long)b->cols, (long long)b->columns);
    if (b->isa > ht_isa_detect())
        return ht_fail(err, -ENOTSUP, "kernel bench: this CPU lacks %s", ht_isa_name(b->isa));
    kernel_job *j = ht_calloc(1, sizeof(*j));
    if (!j)
        return ht_fail(err, -ENOMEM, "kernel bench: out of memory");
    plan(j, b);
    int rc = ht_pool_open(&j->pool, &(ht_pool_options){.threads = b->threads, .pin = true}, err);
    if (rc >= 0 && ((rc = prepare(j)) < 0 || (rc = measure(j, b)) < 0))
        ht_fail(err, rc, "kernel bench: out of memory");
    close_job(j);
    return rc;
}
