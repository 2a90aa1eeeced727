/* Runs the hearth command as its users do: a process with arguments and stdin, of which everything is kept. */
#ifndef HEARTH_TESTS_SUPPORT_SPAWN_H
#define HEARTH_TESTS_SUPPORT_SPAWN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct spawned {
    int code;        /* exit code; 128 + signal when it died of one; -1: it could not be started */
    char *out, *err; /* NUL-terminated, owned */
    size_t out_size;
} spawned;

/* `arguments` follow the program's name, ended by NULL. The program is $HEARTH_CLI (ctest sets it). `environment`:
 * further "NAME=value" entries ended by NULL, or NULL. */
spawned test_hearth_full(const char *const *arguments, const char *input, const char *const *environment);
void spawned_free(spawned *s);

/* test_hearth(input, "run", "-m", path): input NULL is an empty stdin. */
#define test_hearth(input, ...) test_hearth_full((const char *const[]){__VA_ARGS__, NULL}, (input), NULL)

/* Starts it without waiting: no stdin, stdout goes nowhere, stderr into the file `err` (NULL: nowhere). The process id,
 * or -1. */
int hearth_start(const char *const *arguments, const char *err);
/* Waits for its end: the exit code, as in spawned. */
int hearth_wait(int pid);

/* Whether this system gives out pseudo-terminals: a bare chroot without /dev/pts does not. */
bool terminal_is_there(void);
/* A hearth with a pseudo-terminal as its stdin and stderr; stdout too. */
typedef struct terminal { int fd, pid; char *seen; size_t n; } terminal;
bool terminal_open_full(terminal *t, const char *const *arguments, const char *const *environment);
#define terminal_open(t, ...) terminal_open_full((t), __VA_ARGS__, NULL)
void terminal_type(terminal *t, const char *text);
/* Reads until `text` has been seen since the last match (which it consumes); false after `seconds`. */
bool terminal_expect(terminal *t, const char *text, double seconds);
/* The exit code, as in spawned. */
int terminal_close(terminal *t);

#endif
