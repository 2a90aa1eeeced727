/* Log lines: formatting and the one sink. The sink is the only mutable state of the process that this folder has
 * beside the counters of memory.c: logs belong to the process, not to an engine. */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static ht_log_sink *sink;
static void *sink_user;

void ht_log_set_sink(ht_log_sink *new_sink, void *user)
{
    sink = new_sink;
    sink_user = user;
}

/* One fprintf a line, so that lines of two threads do not mix. */
static void to_stderr(ht_log_level level, const char *line)
{
    static const char *const plain[] = {"error: ", "warning: ", ""};
    static const char *const colour[] = {"\033[31merror:\033[0m ", "\033[33mwarning:\033[0m ", ""};
    const char *const *prefix = isatty(STDERR_FILENO) ? colour : plain;
    fprintf(stderr, "%s%s\n", prefix[level], line);
}

void ht_log(ht_log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (sink) {
        sink(sink_user, level, line);
    } else {
        to_stderr(level, line);
    }
}
