/* What the files of the public API share: its handles, and how errors leave. Nobody else includes this but hearth.c,
 * which opens engines. */
#ifndef HEARTH_API_HANDLES_H
#define HEARTH_API_HANDLES_H

#include "core/engine/session.h"
#include "core/model/tokenizer.h"
#include "hearth.h"

struct hearth_vocab { ht_tokenizer *tokenizer; /* owned */ };

/* What calls need of an engine; the stack below it is hearth.c's. */
struct hearth_engine {
    ht_engine *engine;         /* owned, as all below */
    hearth_vocab vocab;
    ht_session **sessions;     /* [limits.sequences]: arguments of the running call */
    ht_prompt *prompts;        /* [limits.sequences] */
};

struct hearth_session { hearth_engine *engine; /* borrowed */ ht_session *session; /* owned */ };

/* Hands an error out: to be called last, with the result. */
int ht_give_error(int r, const ht_error *from, hearth_error *to);
/* -EINVAL with a text that names the option, unless low <= value <= high. */
int ht_check_range(const char *option, int64_t value, int64_t low, int64_t high, ht_error *err);

#endif
