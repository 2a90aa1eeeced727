/* UTF-8 steps, blanks, and Unicode normalisation of texts. */
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

#include <utf8proc.h>

/* Unicode 15, table 3-7: the well-formed byte sequences. The second byte's range depends on the first. */
static int sequence(const uint8_t *p, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (*p < 0x80) return 1;
    if (*p < 0xc2 || *p > 0xf4) return 0;
    if (*p < 0xe0) return 2;
    if (*p == 0xe0) *low = 0xa0;
    if (*p == 0xed) *high = 0x9f;
    if (*p < 0xf0) return 3;
    if (*p == 0xf0) *low = 0x90;
    if (*p == 0xf4) *high = 0x8f;
    return 4;
}

int ht_utf8_step(const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low, high;
    int len = sequence(p, &low, &high);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return -1;
        if (p[i] < (i == 1 ? low : 0x80) || p[i] > (i == 1 ? high : 0xbf)) return 0;
    }
    return len;
}

size_t ht_utf8_bad_part(const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low, high;
    int len = sequence(p, &low, &high);
    size_t i = 1;
    for (; (int)i < len && i < n; i++) {
        if (p[i] < (i == 1 ? low : 0x80) || p[i] > (i == 1 ? high : 0xbf)) break;
    }
    return i;
}

bool ht_utf8_is_blank(const char *p, size_t n, size_t *len)
{
    int step = n ? ht_utf8_step(p, n) : 0;
    if (step <= 0) return false;
    utf8proc_int32_t c;
    utf8proc_iterate((const utf8proc_uint8_t *)p, step, &c);
    *len = (size_t)step;
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ---- normalisation -------------------------------------------------------------------------------------- */

/* utf8proc orders combining marks by exchanging neighbours, which is quadratic in their number: longer runs are
 * normalised in parts (UAX #15 suggests 30 marks as more than any script needs). */
enum { MARKS_TOGETHER = 1024 };

/* The length of a part that can be normalised alone: it ends before a starter that composes with nothing before it. */
static size_t part_length(const char *text, size_t n)
{
    size_t at = 0;
    int marks = 0;
    while (at < n) {
        utf8proc_int32_t c;
        at += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &c);
        marks = utf8proc_get_property(c)->combining_class ? marks + 1 : 0;
        if (marks >= MARKS_TOGETHER) return at;
        /* ASCII begins anew, so a large text needs no array of its whole length. */
        if (at > 4096 && at < n && (uint8_t)text[at] < 0x80) return at;
    }
    return n;
}

static bool already(ht_normal_form form, const char *text, size_t n)
{
    /* No character below U+0300 changes or combines in NFC; none below U+0080 in any form. */
    uint8_t limit = form == HT_FORM_NFC ? 0xcc : 0x80;
    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)text[i] >= limit) return false;
    }
    return true;
}

int ht_utf8_normalize(ht_normal_form form, const char *text, size_t n, char **out, size_t *out_n, ht_error *err)
{
    static const int options[] = {
        [HT_FORM_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE, [HT_FORM_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [HT_FORM_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [HT_FORM_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    int ret = -ENOMEM;
    utf8proc_int32_t *points = NULL;
    size_t points_cap = 0, cap = 0, used = 0;
    char *s = NULL;
    *out = NULL;
    if (form == HT_FORM_NONE || already(form, text, n)) return 0;
    for (size_t at = 0, len; at < n; at += len) {
        len = part_length(text + at, n - at);
        const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text + at;
        /* As many code points as bytes are enough for canonical forms; compatibility can need 18 for 3 bytes. */
        utf8proc_ssize_t count = utf8proc_decompose(p, (utf8proc_ssize_t)len, points,
                                                    (utf8proc_ssize_t)points_cap, options[form]);
        if (count > (utf8proc_ssize_t)points_cap) {
            utf8proc_int32_t *more = ht_realloc(points, (size_t)count, sizeof *points);
            if (!more) goto fail;
            points = more;
            points_cap = (size_t)count;
            count = utf8proc_decompose(p, (utf8proc_ssize_t)len, points, count, options[form]);
        }
        if (count < 0) goto fail;
        count = utf8proc_normalize_utf32(points, count, options[form]);
        if (used + 4 * (size_t)count > cap) {
            cap = 2 * cap + 4 * (size_t)count + n;
            char *more = ht_realloc(s, cap, 1);
            if (!more) goto fail;
            s = more;
        }
        for (utf8proc_ssize_t i = 0; i < count; i++) {
            used += (size_t)utf8proc_encode_char(points[i], (utf8proc_uint8_t *)s + used);
        }
    }
    *out = s;
    *out_n = used;
    s = NULL;
    ret = 0;
fail:
    ht_free(points);
    ht_free(s);
    return ret < 0 ? ht_fail(err, ret, "no memory to normalise a text of %zu bytes", n) : 0;
}
