/* Generated ids to text: streaming decode (whole characters) and then stop strings. */
#ifndef HEARTH_CORE_ENGINE_TEXT_H
#define HEARTH_CORE_ENGINE_TEXT_H

#include "core/engine/stop.h"
#include "core/model/tokenizer.h"

typedef struct ht_text {
    const ht_tokenizer *tokenizer; /* borrowed */
    bool special;                  /* control tokens are spelled out */
    bool continues;                /* keep the blank in front of the first word */
    ht_utf8_stream stream;
    ht_stop stop;
    char *piece;                   /* [capacity], owned: characters of one token */
    int capacity;
} ht_text;

int ht_text_open(ht_text *t, const ht_tokenizer *tokenizer, const char *const *stop, int32_t n_stop, bool special,
                 bool continues, ht_error *err);
void ht_text_close(ht_text *t);
void ht_text_reset(ht_text *t);
/* id < 0: the end. *out is valid until the next call. 1: a stop string is complete. */
int ht_text_feed(ht_text *t, int32_t id, const char **out, size_t *n);

#endif
