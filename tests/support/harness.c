/* The in-process test runner behind harness.h. Nothing of it exists in builds that have Criterion. */
#include "tests/support/harness.h"

#ifdef HEARTH_HARNESS

#include <fnmatch.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a test may take in an ordinary build, a sanitized one may take ten times over. */
enum { SLOWNESS = 10 };

static harness_case *first, **last = &first;
static pthread_t runner;
static jmp_buf leave;
static int failures;      /* of the running test */
static bool skipped;
static char running[256]; /* "suite/name", for the alarm handler */

void harness_add(harness_case *test)
{
    *last = test;
    last = &test->next;
}

void harness_fail(bool fatal, const char *file, int line, const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    flockfile(stderr);
    fprintf(stderr, "%s:%d: not so: %s:", file, line, what);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(args);
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
    if (!fatal) return;
    if (pthread_equal(pthread_self(), runner)) longjmp(leave, 1);
    fprintf(stderr, "failed outside the thread of the test %s: cannot go on\n", running);
    _exit(1);
}

void harness_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "skipped:");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    skipped = true;
    longjmp(leave, 1);
}

static void on_alarm(int number)
{
    (void)number;
    static const char text[] = "out of time: ";
    /* Nothing to do if these fail; the exit status tells. */
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0 || write(STDERR_FILENO, running, strlen(running)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0) {
        _exit(3);
    }
    _exit(2);
}

static void set_alarm(double seconds)
{
    struct itimerval t = {.it_value = {.tv_sec = (time_t)seconds, .tv_usec = (suseconds_t)(1e6 * (seconds - floor(seconds)))}};
    setitimer(ITIMER_REAL, &t, NULL);
}

/* In order: init, the test, fini; a jump out of either of the first two goes on with fini. */
static void run_here(const harness_case *test)
{
    set_alarm(test->timeout * SLOWNESS);
    if (setjmp(leave) == 0) {
        if (test->init) test->init();
        test->run();
    }
    if (test->fini && setjmp(leave) == 0) test->fini();
    set_alarm(0);
}

/* A test that is to die of a signal, or to exit. */
static void run_in_child(const harness_case *test)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        run_here(test);
        _exit(failures ? 1 : 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        failures++;
    } else if (test->signal) {
        failures += !(WIFSIGNALED(status) && WTERMSIG(status) == test->signal);
    } else {
        failures += !(WIFEXITED(status) && WEXITSTATUS(status) == test->exit_code);
    }
}

/* Usage: PROGRAM [--filter PATTERN | PATTERN]: a shell pattern for suite/name. No match is a failure. */
int main(int argc, char **argv)
{
    const char *pattern = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--filter") == 0) continue;
        if (strncmp(argv[i], "--filter=", 9) == 0) {
            pattern = argv[i] + 9;
        } else if (argv[i][0] != '-') { /* Criterion's other flags mean nothing here */
            pattern = argv[i];
        }
    }
    int passed = 0, failed = 0, left_out = 0;
    runner = pthread_self();
    signal(SIGALRM, on_alarm);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (const harness_case *test = first; test; test = test->next) {
        snprintf(running, sizeof running, "%s/%s", test->suite, test->name);
        if (pattern && fnmatch(pattern, running, 0) != 0) continue;
        failures = 0;
        skipped = test->disabled;
        if (!test->disabled && (test->signal || test->exit_code)) {
            run_in_child(test);
        } else if (!test->disabled) {
            run_here(test);
        }
        bool bad = __atomic_load_n(&failures, __ATOMIC_RELAXED) > 0;
        printf("[%s] %s\n", bad ? "FAIL" : skipped ? "SKIP" : "PASS", running);
        *(bad ? &failed : skipped ? &left_out : &passed) += 1;
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, left_out);
    return failed > 0 || passed + left_out == 0;
}

#endif
