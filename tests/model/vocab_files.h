/* Test support: vocabularies from files with their expected ids. */
#ifndef HEARTH_TESTS_MODEL_VOCAB_FILES_H
#define HEARTH_TESTS_MODEL_VOCAB_FILES_H

#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/model/tokenizer.h"
#include "tests/model/vocab_made.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tokenizer of tests/data/tokenizers/NAME.gguf, or NULL where it is absent. */
static inline ht_tokenizer *vocab_from(const char *relative)
{
    char path[TEST_PATH_MAX];
    ht_error err = {0};
    ht_gguf g;
    ht_tokenizer *t = NULL;
    if (!test_data(path, relative)) return NULL;
    cr_assert_eq(ht_gguf_open(&g, path, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_from_gguf(&t, &g, &err), 0, "%s: %s", relative, err.text);
    ht_gguf_close(&g);
    return t;
}

#endif
