/* JSON with a bound: see json.h. */
#include "core/model/json.h"

cJSON *ht_json_parse(const char *text, size_t n, size_t most)
{
    size_t commas = 0;
    for (size_t i = 0; i < n; i++) commas += text[i] == ',';
    return commas < most ? cJSON_ParseWithLength(text, n) : NULL;
}
