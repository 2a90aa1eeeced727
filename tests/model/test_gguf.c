/* The GGUF reader and writer: what is right is read right, what is wrong is an error that names it, and nothing that
 * a file can say makes the reader crash, hang or allocate much. */
#include "core/base/memory.h"
#include "core/model/gguf_write.h"
#include "tests/model/gguf_build.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static image m;
static ht_error err;

static int parse(ht_gguf *g)
{
    memset(&err, 0, sizeof err);
    return ht_gguf_parse(g, m.data, m.size, m.size, "test", &err);
}

/* The image must be refused with `code`, and with all of the words in the text. */
static void refused(int code, const char *word, const char *word2)
{
    ht_gguf g;
    uint64_t live = ht_memory_get_stats().live;
    int rc = parse(&g);
    cr_expect_eq(rc, code, "%d: %s", rc, err.text);
    cr_expect(strstr(err.text, word) && strstr(err.text, word2), "'%s' lacks '%s' or '%s'", err.text, word, word2);
    cr_expect(!g.values && !g.meta && !g.dir.tensors);
    cr_expect_eq(ht_memory_get_stats().live, live);
    if (rc >= 0) ht_gguf_close(&g);
}

/* One of everything. */
static void build(uint32_t version)
{
    put_head(&m, version, 2, 17);
    put_key(&m, "k.u8", HT_GGUF_U8), put(&m, 200, 1);
    put_key(&m, "k.i8", HT_GGUF_I8), put(&m, 0xfe, 1);
    put_key(&m, "k.u16", HT_GGUF_U16), put(&m, 60000, 2);
    put_key(&m, "k.i16", HT_GGUF_I16), put(&m, 0xfffd, 2);
    put_u32(&m, "k.u32", 4000000000u);
    put_key(&m, "k.i32", HT_GGUF_I32), put(&m, 0xfffffffc, 4);
    put_key(&m, "k.f32", HT_GGUF_F32), put(&m, 0x3fc00000, 4);
    put_key(&m, "k.bool", HT_GGUF_BOOL), put(&m, 1, 1);
    put_key(&m, "k.string", HT_GGUF_STRING), put_text(&m, "hello");
    put_key(&m, "k.u64", HT_GGUF_U64), put(&m, UINT64_MAX, 8);
    put_key(&m, "k.i64", HT_GGUF_I64), put(&m, (uint64_t)-5, 8);
    put_key(&m, "k.f64", HT_GGUF_F64), put(&m, 0x4004000000000000u, 8);
    put_key(&m, "k.ints", HT_GGUF_ARRAY), put(&m, HT_GGUF_I32, 4), put(&m, 3, 8), put(&m, 7, 4), put(&m, 8, 4),
        put(&m, 0xffffffff, 4);
    put_key(&m, "k.floats", HT_GGUF_ARRAY), put(&m, HT_GGUF_F32, 4), put(&m, 1, 8), put(&m, 0xbf800000, 4);
    put_key(&m, "k.none", HT_GGUF_ARRAY), put(&m, HT_GGUF_U16, 4), put(&m, 0, 8);
    put_key(&m, "k.texts", HT_GGUF_ARRAY), put(&m, HT_GGUF_STRING, 4), put(&m, 2, 8), put_text(&m, ""),
        put_text(&m, "b");
    put_u32(&m, "general.alignment", 64);
    put_tensor(&m, "a", HT_F32, 4, 2, 0);
    put_tensor(&m, "b", HT_Q4_0, 64, 3, 64);
    put_padding(&m, 64, 64 + 108);
}

Test(gguf, reads_every_kind)
{
    for (uint32_t version = 2; version <= 3; version++) {
        build(version);
        ht_gguf g;
        cr_assert_eq(parse(&g), 0, "%s", err.text);
        cr_assert_eq(g.version, version);
        cr_assert_eq(g.alignment, 64);
        int64_t i = 0;
        float f = 0;
        bool b = false;
        ht_gguf_string s;
        static const struct { const char *key; int64_t v; } ints[] = {
            {"k.u8", 200}, {"k.i8", -2}, {"k.u16", 60000}, {"k.i16", -3}, {"k.u32", 4000000000}, {"k.i32", -4}, {"k.i64", -5},
        };
        for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
            cr_assert_eq(ht_gguf_get_i64(&g, ints[k].key, &i, &err), 1);
            cr_assert_eq(i, ints[k].v, "%s", ints[k].key);
        }
        cr_assert_eq(ht_gguf_get_i64(&g, "k.u64", &i, &err), -ERANGE);
        cr_assert_eq(ht_gguf_get_i64(&g, "k.f32", &i, &err), -EINVAL);
        cr_assert(strstr(err.text, "k.f32") != NULL);
        i = 77;
        cr_assert_eq(ht_gguf_get_i64(&g, "absent", &i, &err), 0);
        cr_assert_eq(i, 77);
        cr_assert_eq(ht_gguf_get_f32(&g, "k.f32", &f, &err), 1);
        cr_assert_eq(f, 1.5f);
        cr_assert_eq(ht_gguf_get_f32(&g, "k.f64", &f, &err), 1);
        cr_assert_eq(f, 2.5f);
        cr_assert_eq(ht_gguf_get_f32(&g, "k.u8", &f, &err), -EINVAL);
        cr_assert_eq(ht_gguf_get_bool(&g, "k.bool", &b, &err), 1);
        cr_assert(b);
        cr_assert_eq(ht_gguf_get_bool(&g, "k.u8", &b, &err), -EINVAL);
        cr_assert_eq(ht_gguf_get_string(&g, "k.string", &s, &err), 1);
        cr_assert(s.len == 5 && memcmp(s.data, "hello", 5) == 0);
        cr_assert_eq(ht_gguf_get_string(&g, "k.u8", &s, &err), -EINVAL);
        const ht_gguf_value *v = ht_gguf_find(&g, "k.ints");
        cr_assert(v && v->count == 3 && ht_gguf_item_i64(v, 1) == 8 && ht_gguf_item_i64(v, 2) == -1);
        cr_assert_eq(ht_gguf_item_f64(v, 2), -1.0);
        cr_assert_eq(ht_gguf_item_f64(ht_gguf_find(&g, "k.floats"), 0), -1.0);
        cr_assert_eq(ht_gguf_find(&g, "k.none")->count, 0);
        v = ht_gguf_find(&g, "k.texts");
        cr_assert(v->count == 2 && v->strings[0].len == 0 && v->strings[1].data[0] == 'b');
        cr_assert_eq(g.dir.n_tensors, 2);
        cr_assert_eq(ht_tensor_find(&g.dir, "b"), 1);
        cr_assert_eq(ht_tensor_find(&g.dir, "c"), -1);
        const ht_tensor_info *t = &g.dir.tensors[1];
        cr_assert(t->type == HT_Q4_0 && t->dim[0] == 64 && t->dim[1] == 3 && t->dim[2] == 1 && t->bytes == 108);
        cr_assert_eq(t->offset + 108, m.size);
        ht_gguf_close(&g);
        ht_gguf_close(&g); /* twice does no harm */
    }
}

Test(gguf, refuses_every_truncation)
{
    build(3);
    size_t whole = m.size;
    for (size_t n = 0; n < whole; n++) {
        m.size = n;
        ht_gguf g;
        uint64_t live = ht_memory_get_stats().live;
        cr_assert_lt(parse(&g), 0, "%zu of %zu bytes were accepted", n, whole);
        cr_assert(err.text[0]);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
}

Test(gguf, survives_every_flipped_bit)
{
    build(3);
    image good = m;
    for (size_t bit = 0; bit < 8 * good.size; bit++) {
        m = good;
        m.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ht_gguf g;
        int rc = parse(&g);
        if (rc < 0) {
            cr_assert(err.text[0]);
            continue;
        }
        for (int32_t i = 0; i < g.dir.n_tensors; i++)
            cr_assert(g.dir.tensors[i].offset + g.dir.tensors[i].bytes <= m.size);
        ht_gguf_close(&g);
    }
}

Test(gguf, refuses_wrong_heads)
{
    build(3), m.data[0] = 'g', refused(-EINVAL, "test", "not a GGUF");
    put_head(&m, 1, 0, 0), refused(-ENOTSUP, "version 1", "");
    put_head(&m, 4, 0, 0), refused(-ENOTSUP, "version 4", "");
    put_head(&m, 3u << 24, 0, 0), refused(-ENOTSUP, "big-endian", "");
    put_head(&m, 3, 0, 1ull << 60), refused(-EINVAL, "keys", "1152921504606846976");
    put_head(&m, 3, 1ull << 63, 0), refused(-EINVAL, "tensors", "");
    put_head(&m, 3, 100000, 0), put_padding(&m, 32, 64), refused(-ENODATA, "tensor list", "");
    put_head(&m, 3, 0, 60000), put_padding(&m, 32, 64), refused(-ENODATA, "metadata", "");
}

Test(gguf, refuses_lying_metadata)
{
    put_head(&m, 3, 0, 1), put(&m, UINT64_MAX, 8), put_padding(&m, 32, 32), refused(-ENODATA, "metadata key", "");
    put_head(&m, 3, 0, 1), put_text(&m, ""), put(&m, 0, 8), refused(-EINVAL, "metadata key 0", "0 bytes");
    put_head(&m, 3, 0, 1), put_text(&m, "a"), put(&m, 13, 4), put(&m, 0, 8), refused(-EINVAL, "a", "kind 13");
    put_head(&m, 3, 0, 1), put_key(&m, "s", HT_GGUF_STRING), put(&m, 1ull << 40, 8), put(&m, 0, 8),
        refused(-ENODATA, "within s", "");
    put_head(&m, 3, 0, 1), put_key(&m, "nest", HT_GGUF_ARRAY), put(&m, HT_GGUF_ARRAY, 4), put(&m, 1, 8), put(&m, 0, 8),
        refused(-EINVAL, "nest", "array of arrays");
    put_head(&m, 3, 0, 1), put_key(&m, "arr", HT_GGUF_ARRAY), put(&m, 99, 4), put(&m, 1, 8), put(&m, 0, 8),
        refused(-EINVAL, "arr", "99");
    put_head(&m, 3, 0, 1), put_key(&m, "arr", HT_GGUF_ARRAY), put(&m, HT_GGUF_U64, 4), put(&m, 1ull << 61, 8),
        put(&m, 0, 8), refused(-ENODATA, "arr", "");
    put_head(&m, 3, 0, 1), put_key(&m, "arr", HT_GGUF_ARRAY), put(&m, HT_GGUF_STRING, 4), put(&m, 1ull << 61, 8),
        put(&m, 0, 8), refused(-ENODATA, "arr", "");
    put_head(&m, 3, 0, 2), put_u32(&m, "twice", 1), put_u32(&m, "twice", 2), refused(-EEXIST, "twice", "");
    put_head(&m, 3, 0, 1), put(&m, 3, 8), memcpy(m.data + m.size, "a\0b", 3), m.size += 3, put(&m, HT_GGUF_U8, 4),
        put(&m, 0, 8), refused(-EINVAL, "NUL", "");
    static const uint32_t alignments[] = {0, 1, 4, 33, 1u << 21, 0x80000000u};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        put_head(&m, 3, 0, 1), put_u32(&m, "general.alignment", alignments[i]),
            refused(-EINVAL, "general.alignment", "power of two");
    put_head(&m, 3, 0, 1), put_key(&m, "general.alignment", HT_GGUF_BOOL), put(&m, 1, 1),
        refused(-EINVAL, "general.alignment", "test");
}

static void one_tensor(uint32_t type, uint64_t d0, uint64_t d1, uint64_t offset)
{
    put_head(&m, 3, 1, 0);
    put_tensor(&m, "ten", type, d0, d1, offset);
    put_padding(&m, 32, 256);
}

Test(gguf, refuses_lying_tensors)
{
    ht_gguf g;
    one_tensor(HT_F32, 8, 8, 0);
    cr_assert_eq(parse(&g), 0, "%s", err.text);
    ht_gguf_close(&g);
    one_tensor(4, 32, 1, 0), refused(-ENOTSUP, "ten", "type 4");
    one_tensor(39, 32, 1, 0), refused(-ENOTSUP, "ten", "type 39");
    one_tensor(UINT32_MAX, 32, 1, 0), refused(-ENOTSUP, "ten", "4294967295");
    one_tensor(HT_F32, 0, 1, 0), refused(-EINVAL, "ten", "dimension 0");
    one_tensor(HT_F32, 1, 0, 0), refused(-EINVAL, "ten", "dimension 1");
    one_tensor(HT_F32, 1ull << 63, 1, 0), refused(-EINVAL, "ten", "dimension 0");
    one_tensor(HT_F32, 1ull << 61, 8, 0), refused(-EOVERFLOW, "ten", "overflow");
    one_tensor(HT_F32, 1ull << 62, 1ull << 62, 0), refused(-EOVERFLOW, "ten", "overflow");
    one_tensor(HT_Q4_0, 33, 1, 0), refused(-EINVAL, "ten", "33");
    one_tensor(HT_Q4_K, 128, 1, 0), refused(-EINVAL, "ten", "blocks of 256");
    one_tensor(HT_F32, 8, 9, 0), refused(-EINVAL, "ten", "beyond the file");
    one_tensor(HT_F32, 8, 8, 32), refused(-EINVAL, "ten", "beyond the file");
    one_tensor(HT_F32, 1, 1, UINT64_MAX - 31), refused(-EINVAL, "ten", "beyond the file");
    one_tensor(HT_F32, 1, 1, 8), refused(-EINVAL, "ten", "aligned");
    put_head(&m, 3, 2, 0), put_tensor(&m, "ten", 0, 1, 1, 0), put_tensor(&m, "ten", 0, 1, 1, 32), put_padding(&m, 32, 64),
        refused(-EEXIST, "ten", "twice");
    put_head(&m, 3, 1, 0), put_text(&m, "ten"), put(&m, 5, 4), put_padding(&m, 32, 256), refused(-EINVAL, "ten", "5 dim");
    put_head(&m, 3, 1, 0), put_text(&m, "ten"), put(&m, 0, 4), put_padding(&m, 32, 256), refused(-EINVAL, "ten", "0 dim");
}

Test(gguf, survives_failing_allocations)
{
    build(3);
    uint64_t live = ht_memory_get_stats().live;
    int failures = 0;
    for (int64_t n = 0;; n++) {
        ht_gguf g;
        ht_memory_fail_after(n);
        int rc = parse(&g);
        ht_memory_fail_after(-1);
        if (rc == 0) {
            ht_gguf_close(&g);
            break;
        }
        failures++;
        cr_assert_eq(rc, -ENOMEM, "%s", err.text);
        cr_assert(strstr(err.text, "memory") != NULL, "%s", err.text);
        cr_assert_eq(ht_memory_get_stats().live, live, "after allocation %d failed", (int)n);
    }
    cr_assert_gt(failures, 20);
    cr_assert_eq(ht_memory_get_stats().live, live);
}

/* ---- files ---- */

static char folder[TEST_PATH_MAX];
static char path[TEST_PATH_MAX + 64];

static void make_folder(void)
{
    test_temp_dir(folder);
}

static void remove_folder(void)
{
    test_temp_remove(folder);
}

static const char *in_folder(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Part `no` of `count`: one tensor of eight floats, each of them no. */
static int write_part(const char *name, uint32_t no, uint32_t count, uint32_t tensors, const char *tensor)
{
    ht_gguf_writer *w = NULL;
    int rc = ht_gguf_writer_open(&w, in_folder(name), 0, &err);
    if (rc < 0) return rc;
    ht_gguf_put_string(w, "general.name", no == 0 ? "first" : "other");
    ht_gguf_put_u32(w, "split.no", no);
    ht_gguf_put_u32(w, "split.count", count);
    ht_gguf_put_u32(w, "split.tensors.count", tensors);
    float data[8];
    for (int i = 0; i < 8; i++) data[i] = (float)no;
    int32_t t = ht_gguf_add_tensor(w, tensor, HT_F32, 1, (int64_t[]){8}, &err);
    rc = t < 0 ? t : ht_gguf_writer_begin(w, &err);
    if (rc == 0) rc = ht_gguf_write_at(w, t, 0, data, sizeof data, &err);
    if (rc == 0) rc = ht_gguf_writer_finish(w, &err);
    ht_gguf_writer_close(&w);
    return rc;
}

Test(gguf_files, joins_split_parts, .init = make_folder, .fini = remove_folder)
{
    cr_assert_eq(write_part("m-00001-of-00003.gguf", 0, 3, 3, "x"), 0, "%s", err.text);
    cr_assert_eq(write_part("m-00002-of-00003.gguf", 1, 3, 3, "y"), 0, "%s", err.text);
    cr_assert_eq(write_part("m-00003-of-00003.gguf", 2, 3, 3, "z"), 0, "%s", err.text);
    static const char *const any[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
    for (int open = 0; open < 3; open++) {
        ht_gguf g;
        ht_gguf_string name;
        cr_assert_eq(ht_gguf_open(&g, in_folder(any[open]), &err), 0, "%s", err.text);
        cr_assert_eq(ht_gguf_get_string(&g, "general.name", &name, &err), 1);
        cr_assert(name.len == 5 && memcmp(name.data, "first", 5) == 0, "metadata is that of the first part");
        cr_assert(g.dir.n_files == 3 && g.dir.n_tensors == 3);
        for (int i = 0; i < 3; i++) {
            const ht_tensor_info *t = &g.dir.tensors[ht_tensor_find(&g.dir, (const char *[]){"x", "y", "z"}[i])];
            float f = -1;
            cr_assert_eq(t->file, i);
            cr_assert_eq(ht_file_read(&g.dir.files[t->file], t->offset + 28, &f, 4, &err), 0);
            cr_assert_eq(f, (float)i);
        }
        ht_gguf_close(&g);
    }
    /* Every allocation of it may fail. */
    uint64_t live = ht_memory_get_stats().live;
    for (int64_t n = 0;; n++) {
        ht_gguf g;
        ht_memory_fail_after(n);
        int rc = ht_gguf_open(&g, in_folder(any[1]), &err);
        ht_memory_fail_after(-1);
        if (rc == 0) {
            ht_gguf_close(&g);
            break;
        }
        cr_assert_eq(rc, -ENOMEM, "%s", err.text);
        cr_assert_eq(ht_memory_get_stats().live, live);
    }
}

static void refused_file(const char *name, int code, const char *word)
{
    ht_gguf g;
    uint64_t live = ht_memory_get_stats().live;
    memset(&err, 0, sizeof err);
    int rc = ht_gguf_open(&g, in_folder(name), &err);
    cr_expect_eq(rc, code, "%s: %d %s", name, rc, err.text);
    cr_expect(strstr(err.text, word) != NULL, "'%s' lacks '%s'", err.text, word);
    cr_expect_eq(ht_memory_get_stats().live, live);
}

Test(gguf_files, refuses_wrong_parts, .init = make_folder, .fini = remove_folder)
{
    cr_assert_eq(write_part("m-00001-of-00002.gguf", 0, 2, 2, "x"), 0, "%s", err.text);
    refused_file("m-00001-of-00002.gguf", -ENOENT, "m-00002-of-00002.gguf");
    cr_assert_eq(write_part("m-00002-of-00002.gguf", 1, 2, 2, "x"), 0, "%s", err.text);
    refused_file("m-00001-of-00002.gguf", -EEXIST, "x is there twice");
    cr_assert_eq(write_part("m-00002-of-00002.gguf", 0, 2, 2, "y"), 0, "%s", err.text);
    refused_file("m-00001-of-00002.gguf", -EINVAL, "is part 0 of 2");
    cr_assert_eq(write_part("m-00001-of-00002.gguf", 0, 2, 5, "x"), 0, "%s", err.text);
    cr_assert_eq(write_part("m-00002-of-00002.gguf", 1, 2, 5, "y"), 0, "%s", err.text);
    refused_file("m-00002-of-00002.gguf", -EINVAL, "split.tensors.count");
    cr_assert_eq(write_part("other.gguf", 0, 2, 2, "x"), 0, "%s", err.text);
    refused_file("other.gguf", -EINVAL, "-00001-of-00003.gguf");
    cr_assert_eq(write_part("m-00001-of-00004.gguf", 0, 2, 2, "x"), 0, "%s", err.text);
    refused_file("m-00001-of-00004.gguf", -EINVAL, "its name says 4");
    cr_assert_eq(write_part("m.gguf", 3, 2, 2, "x"), 0, "%s", err.text);
    refused_file("m.gguf", -EINVAL, "split.no 3");
    refused_file("absent.gguf", -ENOENT, "absent.gguf");
    refused_file("", -EISDIR, folder);
    FILE *f = fopen(in_folder("empty.gguf"), "w");
    fclose(f);
    refused_file("empty.gguf", -EINVAL, "not a GGUF");
}

Test(gguf_files, lying_header_of_a_large_file, .init = make_folder, .fini = remove_folder)
{
    /* A sparse file of 8 GiB whose first key claims all of it: refused without reading it into memory. */
    put_head(&m, 3, 0, 1), put_key(&m, "s", HT_GGUF_STRING), put(&m, 7ull << 30, 8);
    FILE *f = fopen(in_folder("large.gguf"), "w");
    cr_assert_eq(fwrite(m.data, 1, m.size, f), m.size);
    fclose(f);
    if (truncate(path, 8ll << 30) < 0) cr_skip_test("no sparse files here");
    refused_file("large.gguf", -EFBIG, "header is larger");
}

Test(gguf_files, writer_round_trip, .init = make_folder, .fini = remove_folder)
{
    ht_gguf_writer *w;
    ht_gguf source, g;
    build(3);
    cr_assert_eq(parse(&source), 0);
    cr_assert_eq(ht_gguf_writer_open(&w, in_folder("w.gguf"), 4096, &err), 0, "%s", err.text);
    uint64_t copied = 0;
    for (uint64_t i = 0; i < source.n_values; i++) {
        if (strcmp(source.values[i].key, "general.alignment") == 0) continue;
        ht_gguf_put_value(w, &source.values[i]);
        copied++;
    }
    int32_t a = ht_gguf_add_tensor(w, "a", HT_Q8_0, 2, (int64_t[]){32, 2}, &err);
    int32_t b = ht_gguf_add_tensor(w, "b", HT_F32, 3, (int64_t[]){2, 2, 2}, &err);
    cr_assert(a == 0 && b == 1);
    cr_assert_eq(ht_gguf_add_tensor(w, "odd", HT_Q8_0, 1, (int64_t[]){33}, &err), -EINVAL);
    cr_assert(strstr(err.text, "odd") != NULL);
    cr_assert_eq(ht_gguf_add_tensor(w, "zero", HT_F32, 2, (int64_t[]){1, 0}, &err), -EINVAL);
    cr_assert_eq(ht_gguf_writer_begin(w, &err), 0, "%s", err.text);
    uint8_t data[68];
    for (int i = 0; i < 68; i++) data[i] = (uint8_t)i;
    cr_assert_eq(ht_gguf_write_at(w, b, 0, data, 32, &err), 0);
    cr_assert_eq(ht_gguf_write_at(w, a, 34, data + 34, 34, &err), 0);
    cr_assert_eq(ht_gguf_write_at(w, a, 60, data, 9, &err), -EINVAL);
    cr_assert_eq(ht_gguf_writer_finish(w, &err), -EINVAL, "bytes are missing");
    cr_assert(access(path, F_OK) != 0, "no half file under the name");
    cr_assert_eq(ht_gguf_write_at(w, a, 0, data, 34, &err), 0);
    cr_assert_eq(ht_gguf_writer_finish(w, &err), 0, "%s", err.text);
    ht_gguf_writer_close(&w);
    cr_assert_eq(ht_gguf_open(&g, path, &err), 0, "%s", err.text);
    cr_assert_eq(g.alignment, 4096);
    cr_assert_eq(g.n_values, copied + 1);
    for (uint64_t i = 0; i < source.n_values; i++) {
        const ht_gguf_value *x = &source.values[i], *y = ht_gguf_find(&g, x->key);
        if (strcmp(x->key, "general.alignment") == 0) continue;
        cr_assert(y && y->kind == x->kind && y->count == x->count, "%s", x->key);
        if (x->kind == HT_GGUF_STRING)
            cr_assert(x->string.len == y->string.len && memcmp(x->string.data, y->string.data, x->string.len) == 0);
        else if (x->kind == HT_GGUF_ARRAY && x->item == HT_GGUF_STRING)
            for (uint64_t k = 0; k < x->count; k++) cr_assert_eq(x->strings[k].len, y->strings[k].len);
        else if (x->kind == HT_GGUF_ARRAY)
            for (uint64_t k = 0; k < x->count; k++) cr_assert_eq(ht_gguf_item_f64(x, k), ht_gguf_item_f64(y, k));
        else
            cr_assert_eq(x->as.u, y->as.u, "%s", x->key);
    }
    uint8_t back[68];
    cr_assert_eq(g.dir.tensors[0].offset % 4096, 0);
    cr_assert_eq(g.dir.tensors[1].offset % 4096, 0);
    cr_assert_eq(ht_file_read(&g.dir.files[0], g.dir.tensors[0].offset, back, 68, &err), 0);
    cr_assert_eq(memcmp(back, data, 68), 0);
    cr_assert_eq(ht_file_read(&g.dir.files[0], g.dir.tensors[1].offset, back, 32, &err), 0);
    cr_assert_eq(memcmp(back, data, 32), 0);
    ht_gguf_close(&g);
    ht_gguf_close(&source);
    cr_assert_eq(ht_gguf_writer_open(&w, "/nonexistent/x.gguf", 0, &err), -ENOENT);
    cr_assert(strstr(err.text, "/nonexistent/x.gguf") != NULL);
    cr_assert_eq(ht_gguf_writer_open(&w, path, 48, &err), -EINVAL);
    cr_assert_eq(ht_gguf_writer_open(&w, folder, 0, &err), -EISDIR);
    cr_assert_eq(ht_gguf_writer_open(&w, "/dev/null", 0, &err), -EINVAL, "a device must not be replaced");
    cr_assert(strstr(err.text, "/dev/null") != NULL);
}
