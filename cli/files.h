/* Files by their descriptors, for what has to survive: every short and failed write is seen. */
#ifndef HEARTH_CLI_FILES_H
#define HEARTH_CLI_FILES_H

#include "cli/cli.h"

/* Fill in an error and return its negative code: "NAME: what strerror says", or a text. */
int cli_file_error(hearth_error *error, const char *name, int code);
int cli_error(hearth_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Would writing `written` overwrite what is read? "-" is stdin, or stdout, which overwrites nothing. NULL: no file. */
bool cli_is_same_file(const char *read, const char *written);

/* A file without a name below $TMPDIR or /tmp; its descriptor, or a negative errno. */
int cli_nameless_file(hearth_error *error);
/* All bytes, or a negative errno. At the descriptor's place, or at `at`. */
int cli_write_file(int fd, const void *bytes, size_t n);
int cli_write_file_at(int fd, const void *bytes, size_t n, uint64_t at);
/* The bytes that could be read, fewer than n at the end of the file; or a negative errno. */
int64_t cli_read_file_at(int fd, void *out, size_t n, uint64_t at);

#endif
