/* Prompts in a model's own format: the format is found, the messages are written, and what they quote stays text. */
#include "core/base/memory.h"
#include "core/model/chat.h"

#include <string.h>

static bool has_system(const ht_chat_prompt *p) { return p->n && strcmp(p->messages[0].role, "system") == 0; }

/* The format that was asked for, or the model's own. */
static int find_format(const ht_tokenizer *t, const char *name, ht_chat_format *out, ht_error *err)
{
    const char *source = ht_tokenizer_chat_template(t);

    if (name) return ht_chat_by_name(name, out, err);
    if (!source)
        return ht_fail(err, -ENOTSUP, "the model has no chat template: name a format (--chat-template NAME, e.g. chatml)");
    return ht_chat_detect(source, out, err);
}

static bool begins_with_bos(const ht_tokenizer *t, const ht_chat_prompt *p)
{
    ht_chat_format format;
    return find_format(t, p->format, &format, NULL) == 0 &&
           ht_chat_begins_with_bos(p->format ? NULL : ht_tokenizer_chat_template(t), format);
}

static int64_t render(const ht_tokenizer *t, const ht_chat_prompt *p, char *out, int64_t capacity, ht_chat_quotes *quotes,
                      ht_error *err)
{
    enum { MOST_SYSTEM = 4096 };
    ht_chat_format format;
    char system[MOST_SYSTEM] = "";

    int r = find_format(t, p->format, &format, err);
    if (r < 0) return r;
    if (!p->format && !has_system(p)) {
        const char *source = ht_tokenizer_chat_template(t);
        size_t n = ht_chat_default_system(source, system, sizeof(system));
        if (n >= sizeof(system) || (n == 0 && ht_chat_hides_system(source)))
            return ht_fail(err, -ENOTSUP, "the model's chat template has a default system message that cannot be told from "
                           "the rest of it: give a system message (-sys TEXT), or name a chat format (--chat-template %s)",
                           ht_chat_name(format));
    }
    return ht_chat_render_quoted(format, system[0] ? system : NULL, p->messages, p->n, p->open_answer, out, capacity, quotes,
                                 err);
}

int64_t ht_chat_prompt_render(const ht_tokenizer *t, const ht_chat_prompt *p, char *out, int64_t capacity, ht_error *err)
{
    return render(t, p, out, capacity, NULL, err);
}

/* The quotes of text[from, ...), counted from there. */
static void move_quotes(ht_chat_quotes *q, size_t from)
{
    int32_t kept = 0;

    for (int32_t i = 0; i < q->n; i++) {
        ht_text_span s = q->spans[i];
        if (s.end <= from) continue;
        q->spans[kept++] = (ht_text_span){s.begin > from ? s.begin - from : 0, s.end - from};
    }
    q->n = kept;
}

int64_t ht_chat_prompt_encode(const ht_tokenizer *t, const ht_chat_prompt *p, int64_t from, int32_t *ids, int64_t capacity,
                              ht_error *err)
{
    char none[1], *text = NULL;
    ht_chat_quotes quotes = {0};

    int64_t r = render(t, p, none, 0, NULL, err);
    if (r < 0) return r;
    if (from < 0 || from > r)
        return ht_fail(err, -EINVAL, "byte %lld of a prompt of %lld", (long long)from, (long long)r);
    quotes.spans = ht_alloc(2 * (size_t)p->n + 1, sizeof(*quotes.spans));
    text = ht_alloc((size_t)r, 1);
    r = quotes.spans && text ? render(t, p, text, r, &quotes, err) : ht_fail(err, -ENOMEM, "out of memory for a prompt");
    if (r >= 0) {
        unsigned flags = HT_ENCODE_SPECIAL | (from ? 0 : begins_with_bos(t, p) ? HT_ENCODE_BOS_ALWAYS : HT_ENCODE_BOS);
        move_quotes(&quotes, (size_t)from);
        r = ht_tokenizer_encode_quoted(t, text + from, (size_t)(r - from), flags, quotes.spans, quotes.n, ids, capacity, err);
    }
    ht_free(text);
    ht_free(quotes.spans);
    return r;
}
