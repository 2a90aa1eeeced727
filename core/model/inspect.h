/* What is in a file: metadata, shape, tensors, sizes, and whether hearth can run it. */
#ifndef HEARTH_CORE_MODEL_INSPECT_H
#define HEARTH_CORE_MODEL_INSPECT_H

#include "core/base/error.h"

#include <stdbool.h>

typedef void ht_inspect_sink(void *user, const char *line);

/* Hands lines of text, or one line of JSON, to `line`. Works on every well-formed GGUF (any part of a split one) and
 * folder of safetensors;
 * that it is no model that hearth can run is a finding, not an error. */
int ht_inspect(const char *path, bool json, ht_inspect_sink *line, void *user, ht_error *err);

#endif
