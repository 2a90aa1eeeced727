/* Log lines for people, on stderr, one line each. Results never pass here: they go to stdout by the commands. */
#ifndef HEARTH_CORE_BASE_LOG_H
#define HEARTH_CORE_BASE_LOG_H

typedef enum ht_log_level { HT_LOG_ERROR, HT_LOG_WARN, HT_LOG_INFO } ht_log_level;

/* A sink gets complete lines without a newline; `user` is passed through. NULL restores stderr. Set before
 * threads start: not synchronised. */
typedef void ht_log_sink(void *user, ht_log_level level, const char *line);
void ht_log_set_sink(ht_log_sink *sink, void *user);

void ht_log(ht_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says a thing once per process: fallbacks that would otherwise repeat. `once` is a static flag of the caller. */
#define ht_log_once(level, ...)                                                                                \
    do {                                                                                                       \
        static int once_;                                                                                      \
        if (!__atomic_exchange_n(&once_, 1, __ATOMIC_RELAXED)) ht_log((level), __VA_ARGS__);                   \
    } while (0)

#endif
