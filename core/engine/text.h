/* Generated ids to text: streaming decode (whole characters) and then stop strings. */
#ifndef HEARTH_CORE_ENGINE_TEXT_H
#define HEARTH_CORE_ENGINE_TEXT_H

#include "core/engine/stop.h"
#include "core/model/tokenizer.h"

/* Why a generated text ended; the numbers are those of hearth_finish. */
typedef enum ht_finish {
    HT_FINISH_END = 1, HT_FINISH_STOP, HT_FINISH_LENGTH, HT_FINISH_CONTEXT, HT_FINISH_SINK, HT_FINISH_CANCELED,
} ht_finish;

typedef struct ht_text_options {
    const char *const *stop;       /* copied; none may be empty */
    int32_t n_stop;
    bool special;                  /* control tokens are spelled out */
    bool continues;                /* keep the blank in front of the first word */
} ht_text_options;

typedef struct ht_text {
    const ht_tokenizer *tokenizer; /* borrowed */
    bool special, continues;
    ht_utf8_stream stream;
    ht_stop stop;
    char *piece;                   /* [capacity], owned: characters of one token */
    int capacity;
} ht_text;

/* Bytes of the longest token spelled out; looks at each of them. */
int32_t ht_text_longest(const ht_tokenizer *tokenizer);
/* longest: of ht_text_longest, for who opens many. */
int ht_text_open(ht_text *t, const ht_tokenizer *tokenizer, int32_t longest, const ht_text_options *options,
                 ht_error *err);
void ht_text_close(ht_text *t);
void ht_text_reset(ht_text *t);
/* id < 0: the end. *out is valid until the next call. 1: a stop string is complete. */
int ht_text_feed(ht_text *t, int32_t id, const char **out, size_t *n);

#endif
