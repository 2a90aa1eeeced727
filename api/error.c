/* Errors of the public API. */
#include "api/handles.h"

#include <stdio.h>

int ht_give_error(int r, const ht_error *from, hearth_error *to)
{
    if (r < 0 && to) {
        to->code = r;
        snprintf(to->text, sizeof(to->text), "%s", from->text);
    }
    return r;
}

int ht_check_range(const char *option, int64_t value, int64_t low, int64_t high, ht_error *err)
{
    if (value >= low && value <= high) return 0;
    return ht_fail(err, -EINVAL, "%s %lld is outside of %lld..%lld", option, (long long)value, (long long)low,
                   (long long)high);
}
