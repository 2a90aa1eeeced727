/* The journal and its output: in any order, torn at any byte, changed by others, and the job file they are for. */
#include "cli/jobs.h"
#include "cli/journal.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINES = 12 };
static char folder[TEST_PATH_MAX], output[TEST_PATH_MAX + 16], path[TEST_PATH_MAX + 32];

static void make_folder(void)
{
    test_temp_dir(folder);
    snprintf(output, sizeof output, "%s/out", folder);
    snprintf(path, sizeof path, "%s.journal", output);
}

static void remove_folder(void) { test_temp_remove(folder); }

static const char *line_text(int64_t i)
{
    static char text[64];
    snprintf(text, sizeof text, "line %lld%.*s\n", (long long)i, (int)i, "................");
    return text;
}

static void expected(char out[1024])
{
    out[0] = '\0';
    for (int i = 0; i < LINES; i++) strcat(out, line_text(i));
}

static char *read_whole(const char *name, size_t *n)
{
    FILE *file = fopen(name, "rb");
    if (!file) return NULL;
    char *text = malloc(1 << 20);
    *n = fread(text, 1, (1 << 20) - 1, file);
    text[*n] = '\0';
    fclose(file);
    return text;
}

static void write_whole(const char *name, const char *bytes, size_t n)
{
    FILE *file = fopen(name, "wb");
    cr_assert(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

static cli_journal *open_journal(const char *binding, bool restart, int code)
{
    cli_journal *j;
    hearth_error error = {0};
    cr_assert_eq(cli_journal_open(&j, output, LINES, &error), 0, "%s", error.text);
    cli_journal_set_slack(j, 100); /* written anew often */
    int rc = cli_journal_begin(j, binding, restart, &error);
    cr_assert_eq(rc, code, "%d: %s", rc, error.text);
    return j;
}

/* Lines in an order that is not theirs; all of them, or those that are missing. */
static void add_lines(cli_journal *j, int n)
{
    hearth_error error = {0};
    for (int k = 0; k < LINES && n; k++) {
        int64_t i = k * 5 % LINES;
        if (cli_journal_has(j, i)) continue;
        const char *text = line_text(i);
        cr_assert_eq(cli_journal_add(j, i, text, strlen(text), i % 4 == 0, &error), 0, "%s", error.text);
        if (k % 3 == 0) cr_assert_eq(cli_journal_sync(j, true, &error), 0, "%s", error.text);
        n--;
    }
}

static void expect_count(const cli_journal *j, int64_t end, int64_t done, int64_t errors)
{
    int64_t n;
    cr_assert_eq(cli_journal_count(j, end, &n), done);
    cr_assert_eq(n, errors);
}

static void finish(cli_journal *j)
{
    hearth_error error = {0};
    char want[1024];
    size_t n;
    add_lines(j, LINES);
    cr_assert_eq(cli_journal_finish(j, &error), 0, "%s", error.text);
    expect_count(j, LINES, LINES, 3);
    cli_journal_close(&j);
    expected(want);
    char *text = read_whole(output, &n);
    cr_assert(text != NULL);
    cr_assert_str_eq(text, want);
    free(text);
}

Test(journal, any_order_in_file_order_out, .init = make_folder, .fini = remove_folder)
{
    char left[TEST_PATH_MAX + 64];
    snprintf(left, sizeof left, "%s.new", path);
    write_whole(left, "of a process that was killed", 28);
    finish(open_journal("a=1\n", false, 0));
    cr_assert_neq(access(left, F_OK), 0);
    cli_journal *j = open_journal("a=1\n", false, 0);
    expect_count(j, LINES, LINES, 3); /* known without a record left */
    cli_journal_close(&j);
    size_t n;
    free(read_whole(path, &n));
    cr_assert_lt(n, 200);
}

/* A run with a limit is done when the lines up to it are, whatever there is behind them. */
Test(journal, counts_up_to_an_end, .init = make_folder, .fini = remove_folder)
{
    static const int64_t lines[] = {0, 1, 4, 8, 9};
    cli_journal *j = open_journal("a=1\n", false, 0);
    hearth_error error = {0};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *text = line_text(lines[i]);
        cr_assert_eq(cli_journal_add(j, lines[i], text, strlen(text), lines[i] % 4 == 0, &error), 0, "%s", error.text);
    }
    cr_assert_eq(cli_journal_sync(j, true, &error), 0, "%s", error.text);
    for (int reopened = 0; reopened < 2; reopened++) {
        cr_assert_eq(cli_journal_released(j), 2);
        expect_count(j, 2, 2, 1);
        expect_count(j, 5, 3, 2);
        expect_count(j, 8, 3, 2);
        expect_count(j, LINES, 5, 3);
        cli_journal_close(&j);
        j = open_journal("a=1\n", false, 0);
    }
    cli_journal_close(&j);
}

/* What a power cut may leave that came before the first sync: sizes without contents. */
Test(journal, zeros_are_no_journal, .init = make_folder, .fini = remove_folder)
{
    static const size_t sizes[] = {1, 40, 6000};
    char zeros[6000] = {0};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        write_whole(path, zeros, sizes[i / 2]);
        write_whole(output, "", 0);
        finish(open_journal("a=1\n", i % 2, 0));
    }
    zeros[5999] = 1; /* somebody else's */
    write_whole(path, zeros, sizeof zeros);
    write_whole(output, "", 0);
    for (int restart = 0; restart < 2; restart++) {
        cli_journal *j = open_journal("a=1\n", restart, -EEXIST);
        cli_journal_close(&j);
    }
}

/* Cut at any byte, which is what a crash may leave: the rest is added again, and the output is the same. */
Test(journal, torn_at_any_byte, .init = make_folder, .fini = remove_folder)
{
    cli_journal *j = open_journal("a=1\nb=2\n", false, 0);
    cli_journal_set_slack(j, 0);
    add_lines(j, 7);
    cli_journal_close(&j);
    size_t n_journal, n_output;
    char *journal = read_whole(path, &n_journal), *out = read_whole(output, &n_output);
    cr_assert_gt(n_output, 0);
    for (size_t cut = 0; cut <= n_journal; cut += cut < 100 ? 1 : 3) { /* head and two records whole; each syncs a disk */
        write_whole(path, journal, cut);
        write_whole(output, out, 0); /* it never has what the journal has not */
        finish(open_journal("a=1\nb=2\n", false, 0));
    }
    for (size_t cut = 0; cut <= n_output; cut++) {
        write_whole(path, journal, n_journal);
        write_whole(output, out, cut);
        finish(open_journal("a=1\nb=2\n", false, 0));
    }
    /* Zeros at the end, as after a power cut. */
    memset(out + n_output / 2, 0, n_output - n_output / 2);
    write_whole(path, journal, n_journal);
    write_whole(output, out, n_output);
    finish(open_journal("a=1\nb=2\n", false, 0));
    free(journal);
    free(out);
}

Test(journal, a_flipped_bit_is_seen, .init = make_folder, .fini = remove_folder)
{
    cli_journal *j = open_journal("a=1\n", false, 0);
    cli_journal_set_slack(j, 0);
    add_lines(j, 7);
    cli_journal_close(&j);
    size_t n;
    char *journal = read_whole(path, &n);
    for (size_t at = 29; at < n; at += 3) { /* behind the binding */
        journal[at] ^= 4;
        write_whole(path, journal, n);
        write_whole(output, "", 0);
        finish(open_journal("a=1\n", false, 0));
        journal[at] ^= 4;
    }
    free(journal);
}

Test(journal, another_job_is_refused_and_nothing_touched, .init = make_folder, .fini = remove_folder)
{
    cli_journal *j = open_journal("seed=1\nmodel=x\n", false, 0);
    add_lines(j, 5);
    cli_journal_close(&j);
    size_t n, m;
    char *before = read_whole(path, &n), *out = read_whole(output, &m);
    hearth_error error = {0};
    cr_assert_eq(cli_journal_open(&j, output, LINES, &error), 0);
    cr_assert_eq(cli_journal_begin(j, "seed=2\nmodel=x\n", false, &error), -EEXIST);
    cr_assert(strstr(error.text, "seed was 1, is 2") && !strstr(error.text, "model was") && strstr(error.text, "--restart"), "%s",
              error.text);
    cli_journal_close(&j);
    size_t n2, m2;
    char *after = read_whole(path, &n2), *out2 = read_whole(output, &m2);
    cr_assert(n == n2 && m == m2 && memcmp(before, after, n) == 0 && memcmp(out, out2, m) == 0);
    free(before), free(after), free(out), free(out2);
    finish(open_journal("seed=2\nmodel=x\n", true, 0)); /* restart */
}

Test(journal, files_of_others_are_left_alone, .init = make_folder, .fini = remove_folder)
{
    write_whole(output, "precious\n", 9);
    cli_journal *j = open_journal("a=1\n", false, -EEXIST); /* an output without a journal */
    cli_journal_close(&j);
    cr_assert_neq(access(path, F_OK), 0, "an empty journal was left");
    write_whole(path, "this is no journal of ours", 26);
    j = open_journal("a=1\n", true, -EEXIST); /* not even by --restart */
    cli_journal_close(&j);
    size_t n;
    char *text = read_whole(output, &n);
    cr_assert_str_eq(text, "precious\n");
    free(text);
    static const char zeros[6000];
    write_whole(path, zeros, sizeof zeros);
    j = open_journal("a=1\n", false, -EEXIST); /* zeros are none, too */
    cli_journal_close(&j);
    finish(open_journal("a=1\n", true, 0));

    /* A changed output: complete, and half-way. */
    text = read_whole(output, &n);
    text[3] ^= 1;
    write_whole(output, text, n);
    j = open_journal("a=1\n", false, -EEXIST);
    cli_journal_close(&j);
    free(text);
    j = open_journal("a=1\n", true, 0);
    cli_journal_set_slack(j, 0);
    add_lines(j, 9);
    cli_journal_close(&j);
    FILE *file = fopen(output, "ab");
    fputs("a line of somebody else\n", file);
    fclose(file);
    j = open_journal("a=1\n", false, -EEXIST);
    cli_journal_close(&j);
}

Test(journal, nothing_is_left_of_a_job_that_never_began, .init = make_folder, .fini = remove_folder)
{
    cli_journal *j;
    hearth_error error = {0};
    cr_assert_eq(cli_journal_open(&j, output, LINES, &error), 0);
    cli_journal_close(&j);
    cr_assert(access(output, F_OK) != 0 && access(path, F_OK) != 0);
    write_whole(output, "", 0); /* one that was there stays */
    cr_assert_eq(cli_journal_open(&j, output, LINES, &error), 0);
    cli_journal_close(&j);
    cr_assert_eq(access(output, F_OK), 0);
}

Test(journal, one_process_at_a_time, .init = make_folder, .fini = remove_folder)
{
    cli_journal *j = open_journal("a=1\n", false, 0), *second;
    hearth_error error = {0};
    cr_assert_eq(cli_journal_open(&second, output, LINES, &error), -EBUSY);
    cr_assert(strstr(error.text, "another process"), "%s", error.text);
    add_lines(j, 8); /* written anew meanwhile: the lock goes with it */
    cr_assert_eq(cli_journal_open(&second, output, LINES, &error), -EBUSY);
    finish(j);
}

/* ---- killed at any system call -------------------------------------------------------------------------------- */

/* The calls by which the journal changes files come here instead of to the C library: the process dies in the n-th one. */
typedef enum moment { BEFORE, HALF_DONE, AFTER, MOMENTS } moment;
static struct { int n; moment at; bool is_on; } death;

static bool is_last(moment at)
{
    if (!death.is_on || (at == BEFORE && --death.n) || death.n) return false;
    return death.at == at;
}

static void die_if(bool now)
{
    if (now) kill(getpid(), SIGKILL);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    die_if(is_last(BEFORE));
    bool half = is_last(HALF_DONE);
    ssize_t wrote = syscall(SYS_pwrite64, fd, bytes, half ? n / 2 : n, at);
    die_if(half || is_last(AFTER));
    return wrote;
}

int ftruncate(int fd, off_t size)
{
    die_if(is_last(BEFORE));
    int rc = (int)syscall(SYS_ftruncate, fd, size);
    die_if(is_last(HALF_DONE) || is_last(AFTER));
    return rc;
}

int rename(const char *old, const char *new)
{
    die_if(is_last(BEFORE));
    int rc = renameat(AT_FDCWD, old, AT_FDCWD, new);
    die_if(is_last(HALF_DONE) || is_last(AFTER));
    return rc;
}

/* Whoever is only killed needs no disk. */
int fdatasync(int fd)
{
    die_if(is_last(BEFORE));
    int rc = death.is_on ? 0 : (int)syscall(SYS_fdatasync, fd);
    die_if(is_last(HALF_DONE) || is_last(AFTER));
    return rc;
}

int fsync(int fd) { return death.is_on ? 0 : (int)syscall(SYS_fsync, fd); }

static int do_whole_job(void)
{
    cli_journal *j;
    hearth_error error = {0};
    int rc = cli_journal_open(&j, output, LINES, &error);
    if (rc < 0) return rc;
    cli_journal_set_slack(j, 100);
    rc = cli_journal_begin(j, "a=1\n", false, &error);
    for (int k = 0; k < LINES && rc == 0; k++) {
        int64_t i = k * 5 % LINES;
        const char *text = line_text(i);
        if (!cli_journal_has(j, i)) rc = cli_journal_add(j, i, text, strlen(text), i % 4 == 0, &error);
        if (rc == 0 && k % 3 == 0) rc = cli_journal_sync(j, true, &error);
    }
    if (rc == 0) rc = cli_journal_finish(j, &error);
    cli_journal_close(&j);
    return rc;
}

/* Another process does the job, and dies in its n-th call, or is done before. */
static bool dies_in_call(int n, moment at)
{
    int status, pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        death.n = n;
        death.at = at;
        _exit(do_whole_job() == 0 ? 0 : 1);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "call %d, moment %d: it does not go on", n, (int)at);
    return WIFSIGNALED(status);
}

/* In every call of a job in which the journal is written anew several times, and in one of the run that goes on then. */
Test(journal, killed_in_any_call, .init = make_folder, .fini = remove_folder)
{
    death.is_on = true;
    for (moment at = BEFORE; at < MOMENTS; at++) {
        int n = 1;
        for (; dies_in_call(n, at); n++) {
            dies_in_call(1 + n * 7 % 11, at);
            cr_assert_eq(do_whole_job(), 0, "call %d, moment %d", n, (int)at);
            finish(open_journal("a=1\n", false, 0));
            cr_assert(unlink(output) == 0 && unlink(path) == 0);
        }
        cr_assert_gt(n, 40);
        cr_assert(unlink(output) == 0 && unlink(path) == 0);
    }
    death.is_on = false;
}

/* ---- job files ------------------------------------------------------------------------------------------------ */

static cli_jobs index_text(const char *text, size_t n, const char *format, uint32_t most)
{
    static const cli_request_rules none = {0};
    cli_jobs jobs;
    hearth_error error = {0};
    write_whole(output, text, n);
    cli_jobs_options options = {.path = output, .format = format, .most = most, .rules = &none};
    cr_assert_eq(cli_jobs_open(&jobs, &options, NULL, &error), 0, "%s", error.text);
    return jobs;
}

Test(jobs, lines_are_found, .init = make_folder, .fini = remove_folder)
{
    const char text[] = "\xef\xbb\xbf" "first\r\n\n  \t\nsecond line\nthird, far too long for us\nlast";
    cli_jobs jobs = index_text(text, sizeof text - 1, "auto", 12);
    cli_request r;
    cli_refusal why;
    cli_text buffer = {0};
    hearth_error error = {0};
    cli_request_rules rules = {.text = true};
    cr_assert(jobs.text);
    cr_assert_eq(jobs.n, 4);
    static const char *const want[] = {"first", "second line", NULL, "last"};
    static const uint32_t number[] = {1, 4, 5, 6};
    for (int i = 0; i < 4; i++) {
        int rc = cli_jobs_parse(&jobs, i, &rules, &buffer, &r, &why, &error);
        cr_assert_eq(rc, want[i] != NULL, "line %d: %d", i, rc);
        if (want[i]) cr_assert_str_eq(r.prompts[0].text, want[i]);
        else cr_assert_str_eq(why.code, "line_too_long");
        cr_assert_eq(jobs.line[i].number, number[i]);
        cli_request_free(&r);
    }
    cli_text_free(&buffer);
    cli_jobs_close(&jobs);
}

Test(jobs, shards_are_the_whole, .init = make_folder, .fini = remove_folder)
{
    cli_jobs jobs = {.n = 17};
    for (int64_t n = 1; n < 25; n++) {
        int64_t at = 0;
        for (int64_t i = 1; i <= n; i++) {
            int64_t begin, end;
            cli_jobs_shard(&jobs, i, n, &begin, &end);
            cr_assert(begin == at && end >= begin && end - begin <= 17 / n + 1);
            at = end;
        }
        cr_assert_eq(at, 17);
    }
}

Test(jobs, twins_among_many_lines, .init = make_folder, .fini = remove_folder)
{
    enum { N = 5000 };
    char *text = malloc(N * 100), *at = text;
    for (int i = 0; i < N; i++) {
        int id = i == 4000 ? 17 : i == 4999 ? 4001 : i;
        at += sprintf(at, "{\"custom_id\":\"id-%d\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"p\"}}\n", id);
    }
    cli_jobs jobs = index_text(text, (size_t)(at - text), "auto", 1000);
    free(text);
    cr_assert(!jobs.text);
    cr_assert_eq(jobs.n, N);
    cr_assert_eq(jobs.n_refused, 2);
    for (int i = 0; i < N; i++)
        cr_assert_eq(jobs.line[i].twin, i == 4000 ? 18u : i == 4999 ? 4002u : 0u, "line %d: %u", i, jobs.line[i].twin);
    cli_jobs_close(&jobs);
}

Test(jobs, a_file_that_is_written_to_meanwhile, .init = make_folder, .fini = remove_folder)
{
    cli_jobs jobs = index_text("one\ntwo\n", 8, "text", 100);
    cli_request_rules rules = {.text = true};
    cli_request r;
    cli_refusal why;
    cli_text buffer = {0};
    hearth_error error = {0};
    FILE *file = fopen(output, "ab");
    fputs("three\n", file);
    fclose(file);
    cr_assert_eq(cli_jobs_parse(&jobs, 0, &rules, &buffer, &r, &why, &error), -ESTALE);
    cr_assert(strstr(error.text, "written to"), "%s", error.text);
    cli_text_free(&buffer);
    cli_jobs_close(&jobs);
}
