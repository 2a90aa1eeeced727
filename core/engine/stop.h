/* Stop strings over a text that arrives in pieces: what may yet become one is held back. It knows bytes, no tokens.
 *
 * The first string to be complete ends the text, wherever the pieces are cut; of two that are complete at the same
 * byte, the longer one. The text ends before it.
 */
#ifndef HEARTH_CORE_ENGINE_STOP_H
#define HEARTH_CORE_ENGINE_STOP_H

#include "core/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ht_stop {
    char **strings;      /* [n], owned */
    size_t *lengths;     /* [n], owned */
    int32_t n;
    char *text;          /* [capacity], owned: held bytes, then the new piece */
    size_t held;         /* bytes of text that were not given out */
    size_t given;        /* bytes in front of them that the last call gave out */
    size_t capacity, piece;
    int32_t found;       /* index of the string that was found, or -1 */
} ht_stop;

/* `piece`: most bytes of one call. -EINVAL: an empty string. */
int ht_stop_open(ht_stop *s, const char *const *strings, int32_t n, size_t piece, ht_error *err);
void ht_stop_close(ht_stop *s);
void ht_stop_reset(ht_stop *s);

/* Adds bytes; *out (valid until the next call) is the text that is now certain. 1: a stop string is complete, now or
 * earlier; 0: go on. -EMSGSIZE: more bytes than `piece`. */
int ht_stop_feed(ht_stop *s, const char *bytes, size_t n, const char **out, size_t *out_n);
/* The text has ended: *out is what was held. */
void ht_stop_finish(ht_stop *s, const char **out, size_t *out_n);

#endif
