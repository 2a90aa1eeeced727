/* JSON of files that nobody vouches for. Inside of core/model. */
#ifndef HEARTH_CORE_MODEL_JSON_H
#define HEARTH_CORE_MODEL_JSON_H

#include <cjson/cJSON.h>
#include <stddef.h>

/* A value of cJSON takes some 80 bytes, however short it was written: `most` values bound what "[0,0,0,..." makes of
 * itself (commas in strings count, too). NULL: not sound, too many values, or out of memory; the texts are the caller's. */
cJSON *ht_json_parse(const char *text, size_t n, size_t most);

#endif
