/* Errors: a code to branch on, and a text to show.
 *
 * Every function that can fail returns int: 0 or a positive count on success, a negative errno value on
 * failure, and never anything else. The text goes into an ht_error that the caller owns; it names the thing
 * that was wrong (file, tensor, key, flag, offset). Passing NULL for the error object is always allowed.
 */
#ifndef HEARTH_CORE_BASE_ERROR_H
#define HEARTH_CORE_BASE_ERROR_H

#include <errno.h>

typedef struct ht_error {
    int code;         /* negative errno of the failure, 0 while there is none */
    char text[512];   /* one line, no trailing newline; empty while there is none */
    const char *file; /* where in the source it was raised; static storage */
    int line;
} ht_error;

/* Record a failure and return `code` (which must be negative), so that `return ht_fail(err, -EIO, ...)` reads
 * as one statement. A text longer than the buffer is cut. */
#define ht_fail(err, code, ...) ht_error_set((err), (code), __FILE__, __LINE__, __VA_ARGS__)

int ht_error_set(ht_error *err, int code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Put "prefix: " in front of the recorded text, as an error passes up to a place that knows more. Returns the
 * recorded code, so it can be returned on. */
int ht_error_prefix(ht_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
