/* The hearth command as a child process. */
#include "tests/support/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MAX_ARGUMENTS = 64, MAX_ENVIRONMENT = 512 };

/* The environment without HEARTH_* of the person who tests, and with what the test adds. */
static void make_environment(char **out, const char *const *more)
{
    int n = 0;
    for (char **e = environ; *e && n < MAX_ENVIRONMENT - 64; e++)
        if (strncmp(*e, "HEARTH_", 7) != 0) out[n++] = *e;
    for (; more && *more && n < MAX_ENVIRONMENT - 1; more++) out[n++] = (char *)*more;
    out[n] = NULL;
}

static const char *program(void)
{
    const char *path = getenv("HEARTH_CLI");
    if (!path) fputs("HEARTH_CLI is not set: run the tests by ctest\n", stderr);
    return path;
}

static void make_arguments(char **out, const char *const *arguments)
{
    int n = 0;
    out[n++] = (char *)"hearth";
    for (; *arguments && n < MAX_ARGUMENTS - 1; arguments++) out[n++] = (char *)*arguments;
    out[n] = NULL;
}

static int exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Appends what can be read to a growing string; false at the end. */
static bool drain(int fd, char **text, size_t *n)
{
    char buffer[65536];
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) return true;
    if (got <= 0) return false;
    *text = realloc(*text, *n + (size_t)got + 1);
    memcpy(*text + *n, buffer, (size_t)got);
    *n += (size_t)got;
    (*text)[*n] = '\0';
    return true;
}

static void exchange(int in, int out, int err, const char *input, spawned *s)
{
    size_t left = input ? strlen(input) : 0, err_size = 0;
    signal(SIGPIPE, SIG_IGN);
    while (out >= 0 || err >= 0) {
        struct pollfd p[3] = {{out, POLLIN, 0}, {err, POLLIN, 0}, {in, POLLOUT, 0}};
        if (left == 0 && in >= 0) {
            close(in);
            in = p[2].fd = -1;
        }
        if (poll(p, 3, -1) < 0 && errno != EINTR) break;
        if (p[0].revents && !drain(out, &s->out, &s->out_size)) close(out), out = -1;
        if (p[1].revents && !drain(err, &s->err, &err_size)) close(err), err = -1;
        if (in >= 0 && p[2].revents) {
            ssize_t wrote = write(in, input, left);
            if (wrote < 0) left = 0; /* it does not want the rest */
            else input += wrote, left -= (size_t)wrote;
        }
    }
    if (in >= 0) close(in);
}

spawned test_hearth_full(const char *const *arguments, const char *input, const char *const *environment)
{
    spawned s = {.code = -1, .out = calloc(1, 1), .err = calloc(1, 1)};
    char *argv[MAX_ARGUMENTS], *envp[MAX_ENVIRONMENT];
    int in[2], out[2], err[2];
    const char *path = program();
    if (!path || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) return s;
    make_arguments(argv, arguments);
    make_environment(envp, environment);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    pid_t pid;
    int failed = posix_spawn(&pid, path, &actions, NULL, argv, envp);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    exchange(in[1], out[0], err[0], input, &s);
    int status;
    if (!failed && waitpid(pid, &status, 0) == pid) s.code = exit_code(status);
    return s;
}

void spawned_free(spawned *s)
{
    free(s->out);
    free(s->err);
    *s = (spawned){0};
}

int hearth_start(const char *const *arguments, const char *err)
{
    char *argv[MAX_ARGUMENTS], *envp[MAX_ENVIRONMENT];
    const char *path = program();
    if (!path) return -1;
    make_arguments(argv, arguments);
    make_environment(envp, NULL);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, err ? err : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid;
    int failed = posix_spawn(&pid, path, &actions, NULL, argv, envp);
    posix_spawn_file_actions_destroy(&actions);
    return failed ? -1 : pid;
}

int hearth_wait(int pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid ? exit_code(status) : -1;
}

/* ---- terminal ------------------------------------------------------------------------------------------------- */

bool terminal_is_there(void)
{
    char name[128];
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    bool there = fd >= 0 && !grantpt(fd) && !unlockpt(fd) && !ptsname_r(fd, name, sizeof name) && !access(name, R_OK | W_OK);
    if (fd >= 0) close(fd);
    return there;
}

bool terminal_open_full(terminal *t, const char *const *arguments, const char *const *environment)
{
    *t = (terminal){.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), .pid = -1, .seen = calloc(1, 1)};
    const char *path = program();
    if (!path || t->fd < 0 || grantpt(t->fd) || unlockpt(t->fd)) return false;
    char name[128], *argv[MAX_ARGUMENTS], *envp[MAX_ENVIRONMENT];
    if (ptsname_r(t->fd, name, sizeof name)) return false;
    make_arguments(argv, arguments);
    make_environment(envp, environment);
    t->pid = fork(); /* posix_spawn cannot give the child a controlling terminal, which Ctrl-C needs */
    if (t->pid != 0) return t->pid > 0;
    setsid();
    int fd = open(name, O_RDWR);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) < 0) _exit(127);
    for (int i = 0; i < 3; i++) dup2(fd, i);
    execve(path, argv, envp);
    _exit(127);
}

void terminal_type(terminal *t, const char *text)
{
    size_t n = strlen(text);
    while (n) {
        ssize_t wrote = write(t->fd, text, n);
        if (wrote <= 0) return;
        text += wrote;
        n -= (size_t)wrote;
    }
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

bool terminal_expect(terminal *t, const char *text, double seconds)
{
    double end = now() + seconds;
    for (;;) {
        char *found = strstr(t->seen, text);
        if (found) {
            size_t after = (size_t)(found - t->seen) + strlen(text);
            memmove(t->seen, t->seen + after, t->n - after + 1);
            t->n -= after;
            return true;
        }
        double left = end - now();
        if (left <= 0) return false;
        struct pollfd p = {t->fd, POLLIN, 0};
        if (poll(&p, 1, (int)(left * 1000) + 1) > 0 && !drain(t->fd, &t->seen, &t->n)) return false;
    }
}

int terminal_close(terminal *t)
{
    int status = 0, code = -1;
    /* What it still says has to be read, or it waits for us; it is given a minute. */
    for (double end = now() + 60; t->pid > 0 && code < 0;) {
        if (waitpid(t->pid, &status, WNOHANG) == t->pid) code = exit_code(status);
        else if (now() > end) kill(t->pid, SIGKILL);
        else {
            struct pollfd p = {t->fd, POLLIN, 0};
            if (poll(&p, 1, 20) > 0 && !drain(t->fd, &t->seen, &t->n)) poll(NULL, 0, 20);
        }
    }
    close(t->fd);
    free(t->seen);
    *t = (terminal){.fd = -1};
    return code;
}
