/* Text in and out of the commands: messages, files, stdout with every failed write seen, the terminal. */
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- messages ------------------------------------------------------------------------------------------------- */

static void message(const char *command, const char *format, va_list args)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    fflush(stdout); /* what was written before it comes before it on a terminal */
    fprintf(stderr, "hearth%s%s: %s\n", command ? " " : "", command ? command : "", text);
}

int cli_fail(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message(command, format, args);
    va_end(args);
    return CLI_FAILED;
}

int cli_usage(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message(command, format, args);
    va_end(args);
    fprintf(stderr, "try 'hearth%s%s --help'\n", command ? " " : "", command ? command : "");
    return CLI_USAGE;
}

void cli_note(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fputs("note: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* ---- text in -------------------------------------------------------------------------------------------------- */

void *cli_realloc(void *p, size_t n, size_t size)
{
    size_t bytes = n * size;
    void *q = n && size > SIZE_MAX / n ? NULL : realloc(p, bytes > 0 ? bytes : 1);
    if (!q) {
        fputs("hearth: out of memory\n", stderr);
        exit(CLI_FAILED);
    }
    return q;
}

static void text_reserve(cli_text *text, size_t more)
{
    if (more >= SIZE_MAX / 2 - text->size) more = SIZE_MAX / 2; /* cli_realloc refuses it */
    size_t need = text->size + more + 1;
    if (need <= text->room) return;
    text->room = need > 2 * text->room ? need : 2 * text->room;
    text->data = cli_realloc(text->data, text->room, 1);
}

void cli_text_add(cli_text *text, const char *bytes, size_t n)
{
    text_reserve(text, n);
    if (n) memcpy(text->data + text->size, bytes, n);
    text->size += n;
    text->data[text->size] = '\0';
}

void cli_text_free(cli_text *text)
{
    free(text->data);
    *text = (cli_text){0};
}

static int read_error(hearth_error *error, const char *path, int code)
{
    error->code = -code;
    snprintf(error->text, sizeof error->text, "%s: %s", path, strerror(code));
    return -code;
}

int cli_text_read(cli_text *out, const char *path, hearth_error *error)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "stdin" : path;
    FILE *file = is_stdin ? stdin : fopen(path, "rbe");
    if (!file) return read_error(error, name, errno);
    const size_t limit = (size_t)1 << 30; /* a text of a gigabyte is a mistake */
    int rc = 0;
    size_t n;
    cli_text_add(out, "", 0);
    do {
        char buffer[65536];
        errno = 0;
        n = fread(buffer, 1, sizeof buffer, file);
        cli_text_add(out, buffer, n);
        if (out->size > limit) rc = read_error(error, name, EFBIG);
        else if (ferror(file)) rc = read_error(error, name, errno ? errno : EIO);
    } while (n && rc == 0);
    if (!is_stdin) fclose(file);
    return rc;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void cli_unescape(cli_text *text)
{
    static const char from[] = "ntr\\\"'0", to[] = "\n\t\r\\\"'\0";
    size_t out = 0;
    for (size_t i = 0; i < text->size; i++) {
        char c = text->data[i];
        const char *known = c == '\\' && i + 1 < text->size ? strchr(from, text->data[i + 1]) : NULL;
        if (known && *known) {
            c = to[known - from];
            i++;
        } else if (c == '\\' && i + 3 < text->size && text->data[i + 1] == 'x' && hex_digit(text->data[i + 2]) >= 0 &&
                   hex_digit(text->data[i + 3]) >= 0) {
            c = (char)(hex_digit(text->data[i + 2]) * 16 + hex_digit(text->data[i + 3]));
            i += 3;
        }
        text->data[out++] = c;
    }
    text->size = out;
    if (text->data) text->data[out] = '\0';
}

int cli_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags, int32_t **ids, int64_t *n,
               hearth_error *error)
{
    /* A token is at least a byte, but for BOS and an added blank; exceptions are met by asking again. */
    int64_t room = (int64_t)bytes + 8;
    *ids = NULL;
    for (;;) {
        *ids = cli_realloc(*ids, (size_t)room, sizeof **ids);
        *n = hearth_encode(vocab, text, bytes, flags, *ids, room, error);
        if (*n < 0) {
            free(*ids);
            *ids = NULL;
            return (int)*n;
        }
        if (*n <= room) return 0;
        room = *n;
    }
}

size_t cli_character(const char *bytes, size_t n)
{
    const unsigned char *s = (const unsigned char *)bytes;
    size_t length = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
                    : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    if (length == 0 || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return length;
}

const char *cli_token_bytes(const hearth_vocab *vocab, int32_t id, char buffer[CLI_TOKEN_BYTES], size_t *n)
{
    /* Decoding drops a blank that encoding added in front of a text, so a token's own bytes are those that it adds
     * behind another one. */
    int64_t once = hearth_decode(vocab, &id, 1, true, buffer, CLI_TOKEN_BYTES);
    int64_t twice = hearth_decode(vocab, (int32_t[]){id, id}, 2, true, buffer, CLI_TOKEN_BYTES);
    if (once < 0 || twice < once || twice > CLI_TOKEN_BYTES) once = twice = 0;
    *n = (size_t)(twice - once);
    return buffer + once;
}

void cli_piece(const hearth_vocab *vocab, int32_t id, cli_text *out)
{
    char buffer[CLI_TOKEN_BYTES];
    size_t n;
    const char *piece = cli_token_bytes(vocab, id, buffer, &n);
    cli_text_add(out, "'", 1);
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)piece[i];
        size_t length = cli_character(piece + i, n - i);
        char escape[8] = "";
        if (c == '\n') strcpy(escape, "\\n");
        else if (c == '\t') strcpy(escape, "\\t");
        else if (c == '\'' || c == '\\') snprintf(escape, sizeof escape, "\\%c", c);
        else if (length == 0 || c < 0x20 || c == 0x7f) snprintf(escape, sizeof escape, "\\x%02x", c);
        cli_text_add(out, escape[0] ? escape : piece + i, escape[0] ? strlen(escape) : length);
        i += length ? length : 1;
    }
    cli_text_add(out, "'", 1);
}

/* ---- text out ------------------------------------------------------------------------------------------------- */

static int output_error; /* the first failed write on stdout; the process has only one stdout */

static int output_failed(void)
{
    if (!output_error) output_error = errno ? errno : EIO;
    return -output_error;
}

int cli_write(const char *bytes, size_t n)
{
    if (output_error) return -output_error;
    return fwrite(bytes, 1, n, stdout) == n ? 0 : output_failed();
}

int cli_print(const char *format, ...)
{
    if (output_error) return -output_error;
    va_list args;
    va_start(args, format);
    int n = vprintf(format, args);
    va_end(args);
    return n < 0 ? output_failed() : 0;
}

int cli_flush(void)
{
    if (output_error) return -output_error;
    return fflush(stdout) == 0 ? 0 : output_failed();
}

int cli_close_output(int code)
{
    cli_flush();
    if (!output_error) return code;
    if (output_error != EPIPE) fprintf(stderr, "hearth: cannot write the output: %s\n", strerror(output_error));
    return code == CLI_OK ? CLI_FAILED : code;
}

/* ---- terminal ------------------------------------------------------------------------------------------------- */

bool cli_is_terminal(int fd) { return isatty(fd) == 1; }

int cli_width(int fd)
{
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

const char *cli_style_code(int fd, cli_style style)
{
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[2m", "\033[32m"};
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    if (!cli_is_terminal(fd) || (no_color && *no_color) || !term || strcmp(term, "dumb") == 0) return "";
    return codes[style];
}

/* ---- numbers -------------------------------------------------------------------------------------------------- */

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int cli_compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cli_quantile(const double *sorted, int64_t n, double q)
{
    if (n <= 0) return 0;
    double at = q * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

double cli_median(double *values, int n)
{
    if (n > 0) qsort(values, (size_t)n, sizeof *values, cli_compare_doubles);
    return cli_quantile(values, n, 0.5);
}
