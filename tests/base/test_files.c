/* Errors, the cursor, files, logs. */
#include "core/base/cursor.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "tests/support/data.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];

static void make_folder(void)
{
    test_temp_dir(folder);
    snprintf(path, sizeof path, "%s/file", folder);
}

static void remove_folder(void)
{
    test_temp_remove(folder);
}

static void write_file(const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

Test(error, text_code_and_prefix)
{
    ht_error err = {0};
    cr_assert_eq(ht_fail(&err, -EINVAL, "tensor '%s' has %d rows", "a\nb\033", 3), -EINVAL);
    cr_assert_eq(err.code, -EINVAL);
    cr_assert_str_eq(err.text, "tensor 'a?b?' has 3 rows");
    cr_assert_not_null(strstr(err.file, "test_files.c"));
    cr_assert_eq(ht_error_prefix(&err, "file %d", 1), -EINVAL);
    cr_assert_str_eq(err.text, "file 1: tensor 'a?b?' has 3 rows");
    cr_assert_eq(ht_fail(NULL, -EIO, "nobody listens"), -EIO);
    cr_assert_lt(ht_fail(&err, 0, "a failure never reads as success"), 0);
}

Test(error, long_texts_are_cut)
{
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ht_error err = {0};
    ht_fail(&err, -EIO, "%s", longer);
    cr_assert_eq(strlen(err.text), sizeof err.text - 1);
    ht_error_prefix(&err, "%s", "p");
    cr_assert_eq(strlen(err.text), sizeof err.text - 1);
    cr_assert_eq(strncmp(err.text, "p: xxx", 6), 0);
    ht_error_prefix(&err, "%s", longer);
    cr_assert_eq(strlen(err.text), sizeof err.text - 1);
}

Test(cursor, integers_are_little_endian)
{
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ht_cursor c = {.data = bytes, .size = sizeof bytes};
    cr_assert_eq(ht_cursor_u8(&c), 1);
    cr_assert_eq(ht_cursor_u16(&c), 0x0302);
    cr_assert_eq(ht_cursor_u32(&c), 0x07060504u);
    cr_assert_eq(ht_cursor_u64(&c), 0x0f0e0d0c0b0a0908u);
    cr_assert_eq(ht_cursor_left(&c), 0);
    cr_assert_not(c.failed);
    cr_assert_eq(ht_cursor_u8(&c), 0);
    cr_assert(c.failed);
}

Test(cursor, failure_is_sticky_and_huge_counts_are_refused)
{
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const uint64_t counts[] = {9, UINT64_MAX, UINT64_MAX - 3, INT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        ht_cursor c = {.data = bytes, .size = sizeof bytes};
        ht_cursor_u32(&c);
        cr_assert_null(ht_cursor_take(&c, counts[i]));
        cr_assert(c.failed);
        cr_assert_eq(ht_cursor_left(&c), 0);
        cr_assert_null(ht_cursor_take(&c, 1));
        cr_assert_eq(ht_cursor_u32(&c), 0);
    }
}

Test(cursor, alignment_and_emptiness)
{
    const uint8_t bytes[40] = {0};
    ht_cursor c = {.data = bytes, .size = sizeof bytes};
    ht_cursor_align(&c, 32);
    cr_assert_eq(c.at, 0);
    ht_cursor_u8(&c);
    ht_cursor_align(&c, 32);
    cr_assert_eq(c.at, 32);
    ht_cursor_u8(&c);
    ht_cursor_align(&c, 32);
    cr_assert(c.failed);
    ht_cursor empty = {0};
    cr_assert_not_null(ht_cursor_take(&empty, 0));
    cr_assert_not(empty.failed);
}

Test(file, maps_and_reads, .init = make_folder, .fini = remove_folder)
{
    uint8_t data[10000], got[5000];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
    write_file(data, sizeof data);
    ht_file file;
    ht_error err = {0};
    cr_assert_eq(ht_file_open(&file, path, &err), 0, "%s", err.text);
    cr_assert_eq(file.size, sizeof data);
    cr_assert_arr_eq(file.data, data, sizeof data);
    cr_assert_eq(ht_file_read(&file, 3000, got, sizeof got, &err), 0);
    cr_assert_arr_eq(got, data + 3000, sizeof got);
    cr_assert_eq(ht_file_read(&file, 6000, got, sizeof got, &err), -EIO);
    cr_assert(strstr(err.text, path) && strstr(err.text, "1000 bytes early"), "%s", err.text);
    cr_assert_eq(ht_file_read(&file, UINT64_MAX, got, sizeof got, &err), -EIO);
    ht_file_close(&file);
    ht_file_close(&file); /* closing twice is harmless */
    cr_assert_eq(ht_memory_get_stats().live, 0);
}

Test(file, refuses_what_is_no_file, .init = make_folder, .fini = remove_folder, .timeout = 20)
{
    ht_file file;
    ht_error err = {0};
    cr_assert_eq(ht_file_open(&file, path, &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, path));
    cr_assert_eq(ht_file_open(&file, folder, &err), -EISDIR);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(ht_file_open(&file, path, &err), -EINVAL, "a FIFO without a writer must not hang");
    cr_assert_eq(ht_file_open(&file, "/dev/zero", &err), -EINVAL);
    ht_file_close(&file);
}

Test(file, empty, .init = make_folder, .fini = remove_folder)
{
    write_file("", 0);
    ht_file file;
    cr_assert_eq(ht_file_open(&file, path, NULL), 0);
    cr_assert_null(file.data);
    cr_assert_eq(file.size, 0);
    cr_assert_eq(ht_file_read(&file, 0, NULL, 0, NULL), 0);
    ht_file_close(&file);
    char *text;
    size_t size;
    cr_assert_eq(ht_file_slurp(path, 0, &text, &size, NULL), 0);
    cr_assert_str_eq(text, "");
    ht_free(text);
}

Test(file, slurp_keeps_its_limit, .init = make_folder, .fini = remove_folder, .timeout = 20)
{
    static char data[100000];
    memset(data, 'a', sizeof data);
    write_file(data, sizeof data);
    char *text = NULL;
    size_t size = 0;
    ht_error err = {0};
    cr_assert_eq(ht_file_slurp(path, sizeof data, &text, &size, &err), 0, "%s", err.text);
    cr_assert_eq(size, sizeof data);
    cr_assert_arr_eq(text, data, sizeof data);
    cr_assert_eq(text[size], '\0');
    ht_free(text);
    cr_assert_eq(ht_file_slurp(path, SIZE_MAX, &text, &size, &err), 0, "%s", err.text);
    ht_free(text);
    cr_assert_eq(ht_file_slurp(path, sizeof data - 1, &text, &size, &err), -EFBIG);
    cr_assert_null(text);
    cr_assert_eq(ht_file_slurp("/dev/zero", 1 << 20, &text, &size, &err), -EINVAL);
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(ht_file_slurp(path, 100, &text, &size, &err), -EINVAL, "a FIFO without a writer must not hang");
    cr_assert_eq(ht_file_slurp(folder, 100, &text, &size, &err), -EISDIR);
    cr_assert_eq(ht_memory_get_stats().live, 0);
}

static int slurp(void *context, ht_error *err)
{
    return ht_file_slurp(path, 1 << 20, context, NULL, err);
}

static void free_text(void *context)
{
    ht_free(*(char **)context);
}

static int open_file(void *context, ht_error *err)
{
    return ht_file_open(context, path, err);
}

static void close_file(void *context)
{
    ht_file_close(context);
}

Test(file, every_allocation_may_fail, .init = make_folder, .fini = remove_folder)
{
    static char data[100000];
    memset(data, 'a', sizeof data);
    write_file(data, sizeof data);
    char *text;
    ht_file file;
    cr_assert_geq(test_fail_each_allocation(slurp, free_text, &text), 3);
    cr_assert_eq(test_fail_each_allocation(open_file, close_file, &file), 1);
}

static int lines;
static char last_line[200];
static ht_log_level last_level;

static void keep(void *user, ht_log_level level, const char *line)
{
    cr_assert_eq(user, &lines);
    last_level = level;
    lines++;
    snprintf(last_line, sizeof last_line, "%s", line);
}

Test(log, sink_and_once)
{
    ht_log_set_sink(keep, &lines);
    ht_log(HT_LOG_WARN, "%d models", 3);
    cr_assert_str_eq(last_line, "3 models");
    cr_assert_eq(last_level, HT_LOG_WARN);
    cr_assert_eq(lines, 1);
    for (int i = 0; i < 5; i++) ht_log_once(HT_LOG_INFO, "no O_DIRECT here");
    cr_assert_eq(lines, 2);
    ht_log_set_sink(NULL, NULL);
}
