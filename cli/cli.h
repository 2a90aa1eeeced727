/* What the commands share: exit codes, messages, text in and out. The commands know hearth.h and the headers of this
 * folder, nothing else of the engine. Helpers here may print; only main returns to the system.
 */
#ifndef HEARTH_CLI_CLI_H
#define HEARTH_CLI_CLI_H

#include "hearth.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* ---- messages on stderr: "hearth COMMAND: text" ---------------------------------------------------------- */

/* Both return the exit code that belongs to them: CLI_FAILED, or CLI_USAGE (which also says where help is). */
int cli_fail(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line for people ("note: ..."). */
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- text in ------------------------------------------------------------------------------------------------ */

typedef struct cli_text {
    char *data;      /* owned, NUL-terminated beyond `size` */
    size_t size, room;
} cli_text;

/* Out of memory ends the process with exit code 1: a command has nothing better to do. */
void *cli_realloc(void *p, size_t n, size_t size);
void cli_text_add(cli_text *text, const char *bytes, size_t n);
void cli_text_free(cli_text *text);
/* A whole file, "-" being stdin. Negative errno with a message in `error`. */
int cli_text_read(cli_text *out, const char *path, hearth_error *error);
/* \n \t \r \\ \" \' \0 and \xHH become what they stand for, in place; anything else stays as it is. */
void cli_unescape(cli_text *text);

/* Token ids of a text; the array is the caller's to free. */
int cli_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags, int32_t **ids, int64_t *n,
               hearth_error *error);

/* A token's own bytes, those that it adds behind another one: n of them, in the buffer. */
enum { CLI_TOKEN_BYTES = 4096 };
const char *cli_token_bytes(const hearth_vocab *vocab, int32_t id, char buffer[CLI_TOKEN_BYTES], size_t *n);
/* Adds a token's own bytes in quotes, fit for a line: control characters and halves of characters are spelled out. */
void cli_piece(const hearth_vocab *vocab, int32_t id, cli_text *out);
/* The length of the well-formed UTF-8 character at s[0, n), n >= 1; 0: it is none. */
size_t cli_character(const char *s, size_t n);

/* ---- text out (stdout) -------------------------------------------------------------------------------------- */

/* 0 or a negative errno. The first failure is remembered and reported by cli_close_output. */
int cli_write(const char *bytes, size_t n);
int cli_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
int cli_flush(void);
/* At the end of main: the exit code, made CLI_FAILED when something could not be written. A reader that went away
 * (EPIPE) is no news; a full disk is. */
int cli_close_output(int code);

/* ---- terminal ----------------------------------------------------------------------------------------------- */

bool cli_is_terminal(int fd);
int cli_width(int fd);                   /* columns, 80 when it is no terminal */
/* An escape sequence, or "" when fd is no terminal, NO_COLOR is set or TERM is dumb. */
typedef enum cli_style { CLI_PLAIN, CLI_BOLD, CLI_DIM, CLI_GREEN } cli_style;
const char *cli_style_code(int fd, cli_style style);

/* ---- Ctrl-C --------------------------------------------------------------------------------------------------- */

/* From now on the first Ctrl-C cancels what the engine does and is remembered; one more before cli_interrupt_clear
 * ends the process with 130. Call cli_interrupt_end before the engine is closed. */
void cli_interrupt_begin(hearth_engine *engine);
/* SIGTERM is taken the same way: for commands that can go on another time. */
void cli_interrupt_on_terminate(void);
bool cli_interrupted(void);
/* While the terminal is waited for there is nothing to cancel: Ctrl-C ends the process with 130 at once. (A flag would
 * be seen too late if the signal came just before the read.) */
void cli_interrupt_while_idle(bool idle);
void cli_interrupt_clear(void);
void cli_interrupt_end(void);

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

double cli_now(void);                    /* monotonic seconds */
double cli_median(double *values, int n); /* sorts them; 0 for none */
/* The q-th quantile (0..1) of sorted values, by linear interpolation. */
double cli_quantile(const double *sorted, int64_t n, double q);
int cli_compare_doubles(const void *a, const void *b);

#endif
