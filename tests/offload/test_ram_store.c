/* The RAM store: every way of loading gives the file's bytes, views are cut where units say, and what is wrong with a
 * file is said with its name. */
#include "core/base/memory.h"
#include "core/model/tiles.h"
#include "offload/ram_store.h"
#include "tests/support/data.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const model_file = "models/kjv-relu-7m/kjv-relu-7m-q4.gguf";

typedef struct fixture {
    char path[TEST_PATH_MAX];
    ht_load_mode load;
    bool weave;          /* all types that can be */
    ht_share share;      /* without layers: all */
    ht_model *model;
    ht_store *store;
    ht_load_stats stats;
} fixture;

static int open_store(void *context, ht_error *err)
{
    fixture *f = context;
    ht_ram_store_options o = {.kv_pages = 3, .load = f->load, .quiet = true};
    ht_pool *pool = NULL;
    bool all[HT_TYPE_COUNT];
    int r = ht_model_open(&f->model, f->path, err);
    if (r < 0) return r;
    o.model = f->model;
    if (f->share.layer_end) o.share = &f->share;
    r = ht_kv_layout_init(&o.kv, &f->model->shape, HT_F16, HT_F16, err);
    if (r >= 0 && f->weave) {
        memset(all, true, sizeof all);
        o.woven = all;
        r = ht_pool_open(&pool, &(ht_pool_options){.threads = 3}, err);
        o.pool = pool;
    }
    if (r >= 0) r = ht_ram_store_open(&f->store, &o, &f->stats, err);
    ht_pool_close(&pool);
    if (r < 0) ht_model_close(&f->model);
    return r;
}

static void close_store(void *context)
{
    fixture *f = context;
    f->store->ops->close(f->store);
    f->store = NULL;
    ht_model_close(&f->model);
}

static void open_file_or_skip(fixture *f, const char *file, ht_load_mode load)
{
    ht_error err = {0};
    f->load = load;
    if (!test_data(f->path, file)) cr_skip_test("no %s", file);
    cr_assert_eq(open_store(f, &err), 0, "%s", err.text);
}

static void open_or_skip(fixture *f, ht_load_mode load) { open_file_or_skip(f, model_file, load); }

/* The matrix holds exactly the bytes that the file has for rows [ref.row, ref.row + rows). */
static void check_matrix(const fixture *f, ht_tensor_ref ref, ht_matrix m)
{
    const ht_tensor_info *t = &f->model->dir->tensors[ref.tensor];
    const uint8_t *in_file = f->model->dir->files[t->file].data + t->offset + (size_t)ref.row * m.row_bytes;
    cr_assert_eq(m.rows, ref.rows);
    cr_assert_eq(m.cols, t->dim[0]);
    cr_assert_eq(m.type, t->type);
    uint8_t *rows = malloc((size_t)m.rows * m.row_bytes);
    memcpy(rows, m.data, (size_t)m.rows * m.row_bytes);
    for (int64_t r = 0; m.woven && r < m.rows; r += HT_TILE_ROWS) {
        size_t at = (size_t)r * m.row_bytes;
        ht_tile_unweave(m.type, (const uint8_t *)m.data + at, rows + at, m.cols);
    }
    cr_assert(memcmp(rows, in_file, (size_t)m.rows * m.row_bytes) == 0, "%s", t->name);
    free(rows);
}

static ht_unit whole_ffn(const fixture *f, int32_t layer)
{
    return (ht_unit){.kind = HT_UNIT_FFN, .layer = layer, .expert_end = 1, .neuron_end = f->model->shape.n_ff};
}

static void check_units(const fixture *f)
{
    ht_store *s = f->store;
    ht_lease lease;
    cr_assert_eq(s->ops->acquire(s, &(ht_unit){.kind = HT_UNIT_EMBEDDING}, &lease, NULL), 0);
    check_matrix(f, f->model->embd, lease.u.embedding.table);
    s->ops->release(s, &lease);
    for (int32_t l = 0; l < f->model->shape.n_layers; l++) {
        const ht_layer_refs *refs = &f->model->layers[l];
        cr_assert_eq(s->ops->acquire(s, &(ht_unit){.kind = HT_UNIT_ATTENTION, .layer = l}, &lease, NULL), 0);
        cr_assert_eq(ht_event_poll(lease.ready), 1);
        check_matrix(f, refs->q, lease.u.attention.q);
        check_matrix(f, refs->o, lease.u.attention.o);
        cr_assert(lease.u.attention.norm != NULL && lease.u.attention.q_bias == NULL);
        s->ops->release(s, &lease);
        ht_unit unit = whole_ffn(f, l);
        cr_assert_eq(s->ops->acquire(s, &unit, &lease, NULL), 0);
        check_matrix(f, refs->gate, lease.u.ffn.gate);
        check_matrix(f, refs->up, lease.u.ffn.up);
        check_matrix(f, refs->down, lease.u.ffn.down);
        s->ops->release(s, &lease);
    }
    cr_assert_eq(s->ops->acquire(s, &(ht_unit){.kind = HT_UNIT_OUTPUT}, &lease, NULL), 0);
    check_matrix(f, f->model->output, lease.u.output.head);
    s->ops->release(s, &lease);
}

Test(ram_store, every_way_of_loading_gives_the_bytes_of_the_file)
{
    static const ht_load_mode modes[] = {HT_LOAD_AUTO, HT_LOAD_MMAP, HT_LOAD_READ};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        fixture f = {0};
        open_or_skip(&f, modes[i]);
        check_units(&f);
        close_store(&f);
    }
}

/* Matrices with whole tiles are woven, and nothing is lost by it; mapped files stay as they are. */
Test(ram_store, matrices_are_woven_where_memory_is_the_store_s_own)
{
    static const ht_load_mode modes[] = {HT_LOAD_MMAP, HT_LOAD_READ};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        fixture f = {.weave = true};
        ht_lease lease;
        open_or_skip(&f, modes[i]);
        check_units(&f);
        ht_unit unit = whole_ffn(&f, 0);
        cr_assert_eq(f.store->ops->acquire(f.store, &unit, &lease, NULL), 0);
        cr_assert_eq(lease.u.ffn.up.woven, modes[i] == HT_LOAD_READ);
        cr_assert_eq(lease.u.ffn.down.woven, modes[i] == HT_LOAD_READ);
        cr_assert_eq(f.store->ops->acquire(f.store, &(ht_unit){.kind = HT_UNIT_OUTPUT}, &lease, NULL), 0);
        cr_assert_eq(lease.u.output.head.woven, modes[i] == HT_LOAD_READ);
        close_store(&f);
    }
}

/* A part of the neurons of woven matrices: whole tiles of gate and up, whole groups of columns of down. */
static void cut_tiles(const char *file, int32_t begin, int32_t end, int32_t half_a_group)
{
    fixture plain = {0}, woven = {.weave = true};
    open_file_or_skip(&plain, file, HT_LOAD_READ);
    open_file_or_skip(&woven, file, HT_LOAD_READ);
    ht_unit unit = whole_ffn(&plain, 1);
    ht_lease a, b;
    ht_error err = {0};
    unit.neuron_begin = begin;
    unit.neuron_end = end;
    cr_assert_eq(plain.store->ops->acquire(plain.store, &unit, &a, &err), 0, "%s", err.text);
    cr_assert_eq(woven.store->ops->acquire(woven.store, &unit, &b, &err), 0, "%s", err.text);
    const ht_matrix *rows = &a.u.ffn.down, *tiles = &b.u.ffn.down;
    cr_assert(tiles->woven && tiles->cols == rows->cols && tiles->row_bytes == rows->row_bytes);
    size_t bytes = ht_row_bytes(ht_type_get(rows->type), rows->cols);
    uint8_t *cut = malloc(HT_TILE_ROWS * bytes), *tile = malloc(HT_TILE_ROWS * bytes);
    for (int64_t r = 0; r < rows->rows; r += HT_TILE_ROWS) {
        for (int64_t i = 0; i < HT_TILE_ROWS; i++)
            memcpy(cut + (size_t)i * bytes, (const uint8_t *)rows->data + (size_t)(r + i) * rows->row_bytes, bytes);
        ht_tile_weave(rows->type, cut, tile, rows->cols);
        cr_assert(memcmp(tile, (const uint8_t *)tiles->data + (size_t)r * tiles->row_bytes, HT_TILE_ROWS * bytes) == 0);
    }
    free(cut);
    free(tile);
    unit.neuron_begin = begin + half_a_group; /* whole blocks */
    cr_assert_eq(woven.store->ops->acquire(woven.store, &unit, &b, &err), -EINVAL);
    cr_assert(strstr(err.text, "layer 1") != NULL, "%s", err.text);
    close_store(&plain);
    close_store(&woven);
}

Test(ram_store, neurons_are_cut_out_of_tiles) { cut_tiles(model_file, 256, 512, 32); }
Test(ram_store, neurons_are_cut_out_of_tiles_of_floats) { cut_tiles("models/kjv-relu-7m/kjv-relu-7m-f16.gguf", 96, 160, 16); }

/* A share of the model is all that is loaded and all that is lent. */
Test(ram_store, a_share_is_loaded_alone)
{
    fixture whole = {0}, part = {.share = {.layer_begin = 1, .layer_end = 3, .output = true}};
    ht_lease a, b;
    ht_kv_lease kv;
    ht_error err = {0};
    const int32_t id = 0;
    open_or_skip(&whole, HT_LOAD_READ);
    open_or_skip(&part, HT_LOAD_READ);
    cr_assert_lt(part.stats.bytes, whole.stats.bytes);
    for (int32_t l = 0; l < whole.model->shape.n_layers; l++) {
        ht_unit unit = whole_ffn(&whole, l);
        bool has = l == 1 || l == 2;
        cr_assert_eq(whole.store->ops->acquire(whole.store, &unit, &a, &err), 0);
        cr_assert_eq(part.store->ops->acquire(part.store, &unit, &b, &err), has ? 0 : -EINVAL);
        if (has) check_matrix(&part, part.model->layers[l].down, b.u.ffn.down);
        cr_assert_eq(part.store->ops->kv_acquire(part.store, l, &id, 1, 0, &kv, &err), has ? 0 : -EINVAL);
        if (has) memset(kv.page[0], l, part.store->kv.page_bytes);
    }
    cr_assert_eq(part.store->ops->acquire(part.store, &(ht_unit){.kind = HT_UNIT_OUTPUT}, &b, &err), 0);
    check_matrix(&part, part.model->output, b.u.output.head);
    cr_assert_eq(part.store->ops->acquire(part.store, &(ht_unit){.kind = HT_UNIT_EMBEDDING}, &b, &err), -EINVAL);
    cr_assert_eq(part.store->ops->kv_copy(part.store, 0, 2, &err), 0);
    cr_assert_eq(part.store->ops->kv_acquire(part.store, 2, &id, 1, 0, &kv, &err), 0);
    cr_assert_eq(*(uint8_t *)kv.page[2], 2);
    close_store(&whole);
    close_store(&part);
}

/* A part of the neurons: rows of gate and up, columns of down. */
Test(ram_store, neurons_are_cut_out_of_rows_and_columns)
{
    fixture f = {0};
    open_or_skip(&f, HT_LOAD_READ);
    ht_unit unit = whole_ffn(&f, 1);
    ht_lease whole, part;
    ht_error err = {0};
    cr_assert_eq(f.store->ops->acquire(f.store, &unit, &whole, &err), 0);
    unit.neuron_begin = 256;
    unit.neuron_end = 512;
    cr_assert_eq(f.store->ops->acquire(f.store, &unit, &part, &err), 0, "%s", err.text);
    cr_assert_eq(part.u.ffn.gate.rows, 256);
    cr_assert(part.u.ffn.gate.data == (const uint8_t *)whole.u.ffn.gate.data + 256 * whole.u.ffn.gate.row_bytes);
    cr_assert_eq(part.u.ffn.down.cols, 256);
    cr_assert_eq(part.u.ffn.down.row_bytes, whole.u.ffn.down.row_bytes);
    const ht_type_info *down = ht_type_get(whole.u.ffn.down.type);
    cr_assert(part.u.ffn.down.data == (const uint8_t *)whole.u.ffn.down.data + ht_row_bytes(down, 256));
    unit.neuron_begin = 250; /* cuts a block */
    cr_assert_eq(f.store->ops->acquire(f.store, &unit, &part, &err), -EINVAL);
    cr_assert(strstr(err.text, "layer 1") != NULL, "%s", err.text);
    unit.neuron_begin = 0;
    unit.neuron_end = f.model->shape.n_ff + 32;
    cr_assert_eq(f.store->ops->acquire(f.store, &unit, &part, &err), -EINVAL);
    unit = (ht_unit){.kind = HT_UNIT_ATTENTION, .layer = f.model->shape.n_layers};
    cr_assert_eq(f.store->ops->acquire(f.store, &unit, &part, &err), -EINVAL);
    close_store(&f);
}

/* However the neurons are divided, what is added to their sum, and the norm of it, is lent once. */
Test(ram_store, bias_and_norm_of_an_ffn_s_result_come_with_its_first_neurons_alone)
{
    static const char *const files[] = {"models/arch/starcoder2/starcoder2.gguf", "models/arch/gemma2/gemma2.gguf"};
    for (size_t i = 0; i < 2; i++) {
        fixture f = {0};
        open_file_or_skip(&f, files[i], HT_LOAD_READ);
        const ht_unit all = whole_ffn(&f, 1);
        ht_unit first = all, rest = all;
        ht_lease whole, a, b;
        first.neuron_end = rest.neuron_begin = f.model->shape.n_ff / 2;
        cr_assert_eq(f.store->ops->acquire(f.store, &all, &whole, NULL), 0);
        cr_assert_eq(f.store->ops->acquire(f.store, &first, &a, NULL), 0);
        cr_assert_eq(f.store->ops->acquire(f.store, &rest, &b, NULL), 0);
        cr_assert((i ? whole.u.ffn.post_norm : whole.u.ffn.down_bias) != NULL, "%s", files[i]);
        cr_assert(a.u.ffn.down_bias == whole.u.ffn.down_bias && a.u.ffn.post_norm == whole.u.ffn.post_norm, "%s", files[i]);
        cr_assert(!b.u.ffn.down_bias && !b.u.ffn.post_norm, "%s", files[i]);
        cr_assert(b.u.ffn.up.data != NULL && b.u.ffn.norm == whole.u.ffn.norm, "%s", files[i]);
        close_store(&f);
    }
}

Test(ram_store, pages_of_layers_are_apart_and_are_copied_in_all_of_them)
{
    fixture f = {0};
    open_or_skip(&f, HT_LOAD_MMAP);
    ht_kv_lease lease;
    const int32_t ids[] = {0, 2};
    size_t bytes = f.store->kv.page_bytes;
    for (int32_t l = 0; l < f.model->shape.n_layers; l++) {
        cr_assert_eq(f.store->ops->kv_acquire(f.store, l, ids, 2, 0, &lease, NULL), 0);
        memset(lease.page[0], 10 + l, bytes);
        memset(lease.page[2], 100 + l, bytes);
        f.store->ops->kv_release(f.store, &lease);
    }
    cr_assert_eq(f.store->ops->kv_copy(f.store, 2, 1, NULL), 0);
    for (int32_t l = 0; l < f.model->shape.n_layers; l++) {
        cr_assert_eq(f.store->ops->kv_acquire(f.store, l, ids, 2, 2, &lease, NULL), 0);
        const uint8_t *p[3] = {lease.page[0], lease.page[1], lease.page[2]};
        cr_assert_eq(p[0][0], 10 + l);
        cr_assert_eq(p[0][bytes - 1], 10 + l);
        cr_assert(memcmp(p[1], p[2], bytes) == 0);
        cr_assert_eq(p[1][bytes - 1], 100 + l);
        f.store->ops->kv_release(f.store, &lease);
    }
    close_store(&f);
}

/* The model in a file of its own, in a directory of its own; false: there is none. */
static bool copy_model(char dir[TEST_PATH_MAX], char path[TEST_PATH_MAX + 16])
{
    char source[TEST_PATH_MAX], command[3 * TEST_PATH_MAX];
    if (!test_data(source, model_file)) return false;
    test_temp_dir(dir);
    snprintf(path, TEST_PATH_MAX + 16, "%s/model.gguf", dir);
    snprintf(command, sizeof command, "cp '%s' '%s'", source, path);
    cr_assert_eq(system(command), 0);
    return true;
}

/* Tensors lie where they were read, and are changed there: no byte can be of two of them. */
Test(ram_store, tensors_that_overlap_are_an_error_that_names_them)
{
    static const char *const name[] = {"blk.1.attn_k.weight", "blk.1.attn_v.weight"};
    fixture f = {.load = HT_LOAD_READ, .weave = true};
    ht_error err = {0};
    char dir[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    uint8_t *offset[2];
    if (!copy_model(dir, path)) cr_skip_test("no %s", model_file);
    static uint8_t head[1 << 20];
    FILE *file = fopen(path, "r+");
    cr_assert(file && fread(head, 1, sizeof head, file) == sizeof head);
    for (int i = 0; i < 2; i++) {
        uint8_t *at = memmem(head, sizeof head, name[i], strlen(name[i]));
        cr_assert(at != NULL, "%s", name[i]);
        offset[i] = at + strlen(name[i]) + 4 + 2 * 8 + 4; /* behind dimensions and type */
    }
    cr_assert_eq(fseek(file, offset[0] - head, SEEK_SET), 0);
    cr_assert(fwrite(offset[1], 1, 8, file) == 8 && fclose(file) == 0);
    snprintf(f.path, sizeof f.path, "%.*s", TEST_PATH_MAX - 1, path);
    cr_assert_eq(open_store(&f, &err), -EINVAL);
    cr_assert(strstr(err.text, name[0]) && strstr(err.text, name[1]) && strstr(err.text, "overlap"), "%s", err.text);
    test_temp_remove(dir);
}

/* Weights that vanish between opening the model and loading it. */
Test(ram_store, a_file_that_shrinks_is_an_error_that_names_it)
{
    fixture f = {0};
    ht_error err = {0};
    char dir[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    if (!copy_model(dir, path)) cr_skip_test("no %s", model_file);
    snprintf(f.path, sizeof f.path, "%.*s", TEST_PATH_MAX - 1, path);
    ht_kv_layout kv;
    cr_assert_eq(ht_model_open(&f.model, f.path, &err), 0, "%s", err.text);
    cr_assert_eq(ht_kv_layout_init(&kv, &f.model->shape, HT_F16, HT_F16, &err), 0);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(truncate(path, st.st_size / 2), 0);
    ht_ram_store_options options = {.model = f.model, .kv = kv, .kv_pages = 1, .load = HT_LOAD_READ, .quiet = true};
    cr_assert_eq(ht_ram_store_open(&f.store, &options, NULL, &err), -EIO);
    cr_assert(strstr(err.text, "model.gguf") != NULL, "%s", err.text);
    cr_assert(strstr(err.text, "ended") != NULL, "%s", err.text);
    cr_assert(f.store == NULL);
    ht_model_close(&f.model);
    test_temp_remove(dir);
}

Test(ram_store, lack_of_memory_anywhere_leaves_nothing_behind)
{
    fixture f = {.load = HT_LOAD_READ, .weave = true};
    if (!test_data(f.path, model_file)) cr_skip_test("no %s", model_file);
    cr_assert_gt(test_fail_each_allocation(open_store, close_store, &f), 10);
}

Test(kv_layout, rows_must_fit_the_blocks_of_the_type)
{
    ht_shape shape = {.n_kv_heads = 4, .head_dim = 80};
    ht_kv_layout kv;
    ht_error err = {0};
    cr_assert_eq(ht_kv_layout_init(&kv, &shape, HT_F16, HT_F16, &err), 0);
    cr_assert_eq(kv.page_bytes, (size_t)2 * 4 * HT_KV_TILE * 80 * 2);
    cr_assert_eq(ht_kv_layout_init(&kv, &shape, HT_Q8_0, HT_F16, &err), -EINVAL);
    cr_assert(strstr(err.text, "Q8_0") != NULL && strstr(err.text, "80") != NULL, "%s", err.text);
    shape.head_dim = 96;
    cr_assert_eq(ht_kv_layout_init(&kv, &shape, HT_Q8_0, HT_Q4_0, &err), 0);
    cr_assert_eq(kv.k_row_bytes, 3 * 34);
    cr_assert_eq(kv.v_row_bytes, 3 * 18);
    cr_assert_eq(kv.v_offset, (size_t)4 * HT_KV_TILE * 3 * 34);
    static const struct { int32_t dim; int r; } q16[] = {{16, 0}, {24, -EINVAL}, {1024, 0}, {1040, -EINVAL}};
    for (int i = 0; i < 8; i++) { /* of K, and of V */
        shape.head_dim = q16[i / 2].dim;
        err.text[0] = '\0';
        int r = ht_kv_layout_init(&kv, &shape, i % 2 ? HT_F16 : HT_Q16, i % 2 ? HT_Q16 : HT_F16, &err);
        cr_assert_eq(r, q16[i / 2].r, "heads of %d", shape.head_dim);
        if (r) cr_assert(strstr(err.text, "Q16") != NULL, "%s", err.text);
        else cr_assert_eq(i % 2 ? kv.v_row_bytes : kv.k_row_bytes, 2 * (size_t)shape.head_dim + 4);
    }
}
