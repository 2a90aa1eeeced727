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

typedef struct kernel_job {
    const ht_kernel_bench *b;
    ht_dot_fn *dot;
    ht_matmul_fn *run;
    const ht_matmul *matmul;
    size_t row_bytes, matrix_bytes, x_bytes;
    int64_t unit; /* rows of a task */
    const char *w, *x;
    char *packed, *scratch;
    size_t scratch_bytes; /* of a thread */
    float *y;     /* (rows, columns) of each thread */
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

static int weave(char *w, size_t bytes, size_t row_bytes, const ht_kernel_bench *b)
{
    const size_t tile = HT_TILE_ROWS * row_bytes;
    char *aside = ht_alloc(tile, 1);
    if (!aside)
        return -ENOMEM;
    for (size_t at = 0; at < bytes; at += tile)
        ht_tile_weave_in_place(b->type, w + at, aside, b->cols);
    ht_free(aside);
    return 0;
}

static double timed(ht_pool *pool, kernel_job *j, int64_t matrices)
{
    const ht_kernel_bench *b = j->b;
    double start = ht_now();
    if (b->columns <= HT_DECODE_COLUMNS) {
        ht_pool_for(pool, matrices * ht_ceil_div(b->rows, j->unit), 1, dot_range, j);
    } else {
        ht_pool_for(pool, b->columns, 8 * j->matmul->column_tile, pack_range, j);
        ht_pool_for(pool, ht_ceil_div(b->rows, BLOCK_ROWS), 1, matmul_range, j);
    }
    return ht_now() - start;
}

int ht_cpu_bench_kernel(ht_kernel_bench *b, ht_error *err)
{
    const ht_type_info *info = ht_type_get((uint32_t)b->type);
    if (!info || b->rows < 1 || b->cols < 1 || b->columns < 1 || b->cols % info->block_len)
        return ht_fail(err, -EINVAL, "kernel bench: no such type, or a shape of %lld x %lld x %lld that it cannot have",
                       (long long)b->rows, (long long)b->cols, (long long)b->columns);
    if (b->isa > ht_isa_detect())
        return ht_fail(err, -ENOTSUP, "kernel bench: this CPU lacks %s", ht_isa_name(b->isa));
    ht_kernels *k = ht_calloc(1, sizeof(*k));
    ht_pool *pool = NULL;
    double *seconds = ht_calloc((size_t)ht_max_i64(b->repeats, 1), sizeof(double));
    int rc = ht_pool_open(&pool, &(ht_pool_options){.threads = b->threads, .pin = true}, err);
    const bool decode = b->columns <= HT_DECODE_COLUMNS;
    kernel_job j = {.b = b, .row_bytes = ht_row_bytes(info, b->cols)};
    size_t w_bytes = 0, x_bytes = 0, packed = 0;
    char *w = NULL;
    float *x = NULL;
    char *rows = NULL;
    if (rc < 0)
        goto done;
    rc = -ENOMEM;
    if (!k || !seconds)
        goto done;
    ht_kernels_init(k, b->isa);
    const bool quantised = !b->f32 && info->block_len > 1;
    b->woven = b->woven && k->dot_woven[b->type] && (quantised || info->block_len == 1) &&
               ht_tiles_fit(b->type, b->rows, b->cols);
    j.matmul = &k->matmul[b->type][b->f32];
    j.dot = b->woven ? k->dot_woven[b->type] : k->dot[b->type][b->f32];
    j.run = b->woven ? k->matmul_woven[b->type] : j.matmul->run;
    j.matrix_bytes = j.row_bytes * (size_t)b->rows;
    int64_t matrices = decode ? ht_max_i64((int64_t)(WORKING_SET / j.matrix_bytes), 1) : 1;
    w_bytes = j.matrix_bytes * (size_t)matrices;
    j.unit = ht_max_i64(DECODE_UNIT / (int64_t)j.row_bytes / 16 * 16, 16);
    j.x_bytes = quantised ? HT_ACT_ROW_BYTES(b->cols) : (size_t)b->cols * sizeof(float);
    x_bytes = j.x_bytes * (size_t)b->columns;
    w = ht_alloc_pages(w_bytes);
    x = ht_alloc((size_t)b->cols, sizeof(float));
    rows = ht_alloc_pages(x_bytes);
    j.y = ht_alloc((size_t)(b->rows * b->columns * ht_pool_threads(pool)), sizeof(float));
    if (!decode) {
        packed = j.matmul->packed_bytes(b->columns, b->cols);
        j.scratch_bytes = ht_align_up(j.matmul->scratch_bytes(b->cols), 4096);
        j.packed = ht_alloc_pages(packed);
        j.scratch = ht_alloc_aligned(j.scratch_bytes * (size_t)ht_pool_threads(pool) + 64, 4096);
        if (!j.packed || !j.scratch)
            goto done;
    }
    if (!w || !x || !rows || !j.y)
        goto done;
    fill_weights(w, w_bytes, b->type);
    if (b->woven && weave(w, w_bytes, j.row_bytes, b) < 0)
        goto done;
    for (int64_t c = 0; c < b->columns; c++) {
        for (int64_t i = 0; i < b->cols; i++)
            x[i] = (float)ht_random_uniform(1, (uint64_t)c, (uint64_t)i, 0) - 0.5f;
        if (quantised)
            k->act_quantize(x, rows + (size_t)c * j.x_bytes, b->cols);
        else
            memcpy(rows + (size_t)c * j.x_bytes, x, j.x_bytes);
    }
    j.w = w;
    j.x = rows;
    timed(pool, &j, matrices);
    for (int i = 0; i < b->repeats || i == 0; i++)
        seconds[i] = timed(pool, &j, matrices);
    double time = ht_median(seconds, (int)ht_max_i64(b->repeats, 1));
    b->bytes_per_second = (double)w_bytes / time;
    b->macs_per_second = (double)b->rows * (double)b->cols * (double)matrices * (double)b->columns / time;
    rc = 0;
done:
    if (rc == -ENOMEM)
        ht_fail(err, rc, "kernel bench: out of memory");
    ht_pool_close(&pool);
    ht_free(seconds);
    ht_free(j.y);
    ht_free(j.scratch);
    if (j.packed)
        ht_free_pages(j.packed, packed);
    if (rows)
        ht_free_pages(rows, x_bytes);
    ht_free(x);
    if (w)
        ht_free_pages(w, w_bytes);
    ht_free(k);
    return rc;
}
