/* Error objects: filling them, and putting context in front as they travel up. */
#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Texts quote names out of files: a control character in one must not reach a terminal or split the line. */
static void keep_one_line(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
    }
}

int ht_error_set(ht_error *err, int code, const char *file, int line, const char *format, ...)
{
    if (code >= 0) code = -EIO; /* e.g. -errno with errno 0: a failure must never read as success */
    if (!err) return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    keep_one_line(err->text);
    err->code = code;
    err->file = file;
    err->line = line;
    return code;
}

int ht_error_prefix(ht_error *err, const char *format, ...)
{
    if (!err) return -EIO; /* nobody records: callers that need the code kept it */
    char was[sizeof err->text];
    size_t room = sizeof err->text - 1, n, rest;
    memcpy(was, err->text, sizeof was);
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text - 2, format, args); /* leaves room for the colon and the blank */
    va_end(args);
    n = strlen(err->text);
    err->text[n++] = ':';
    err->text[n++] = ' ';
    rest = strlen(was) < room - n ? strlen(was) : room - n;
    memcpy(err->text + n, was, rest);
    err->text[n + rest] = '\0';
    keep_one_line(err->text);
    return err->code;
}
