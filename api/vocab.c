/* Vocabularies and chats of the public API. */
#include "api/handles.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/model/chat.h"
#include "core/model/model.h"
#include "core/model/safetensors.h"

#include <string.h>

const hearth_vocab *hearth_engine_vocab(const hearth_engine *engine) { return &engine->vocab; }

static int open_from_gguf(ht_tokenizer **out, const char *path, ht_error *err)
{
    ht_gguf gguf;
    int r = ht_gguf_open(&gguf, path, err);

    if (r < 0) return r;
    r = ht_tokenizer_from_gguf(out, &gguf, err);
    ht_gguf_close(&gguf);
    return r < 0 ? ht_error_prefix(err, "%s", path) : r;
}

/* As the engine has it where the folder is a model, for what has no row in the embedding is no token then; a folder may
 * also hold a tokenizer alone. With weights beside it, that is worth a warning: the engine may have other tokens, or none. */
static int open_from_folder(ht_tokenizer **out, const char *path, ht_error *err)
{
    ht_error why = {0};
    ht_model *m;
    int r = ht_model_open(&m, path, &why);

    if (r == -ENOMEM) return ht_fail(err, r, "%s", why.text);
    if (r < 0) {
        if ((r = ht_tokenizer_from_hf(out, path, 0, err)) < 0) return ht_error_prefix(err, "%s", path);
        if (ht_safetensors_are_in(path))
            ht_log(HT_LOG_WARN, "the tokenizer alone is used, the folder is no model: %s", why.text);
        return r;
    }
    r = ht_model_open_tokenizer(out, m, path, err);
    ht_model_close(&m);
    return r;
}

int hearth_vocab_open(hearth_vocab **out, const char *path, hearth_error *error)
{
    ht_error err = {0};
    hearth_vocab *v = ht_calloc(1, sizeof(*v));

    *out = NULL;
    int r = !v                   ? ht_fail(&err, -ENOMEM, "out of memory for a vocabulary")
            : ht_is_folder(path) ? open_from_folder(&v->tokenizer, path, &err)
                                 : open_from_gguf(&v->tokenizer, path, &err);
    if (r < 0) hearth_vocab_close(&v);
    else *out = v;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

void hearth_vocab_close(hearth_vocab **vocab)
{
    if (!*vocab) return;
    ht_tokenizer_close(&(*vocab)->tokenizer);
    ht_free(*vocab);
    *vocab = NULL;
}

int64_t hearth_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags, int32_t *ids,
                      int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    unsigned f = (flags & HEARTH_BOS ? HT_ENCODE_BOS : 0) | (flags & HEARTH_SPECIAL ? HT_ENCODE_SPECIAL : 0);
    int64_t n = ht_tokenizer_encode(vocab->tokenizer, text, bytes, f, ids, capacity, &err);

    return n < 0 ? ht_give_error((int)n, &err, error) : n;
}

int64_t hearth_decode(const hearth_vocab *vocab, const int32_t *ids, int64_t n, bool special, char *out,
                      int64_t capacity)
{
    return ht_tokenizer_decode(vocab->tokenizer, ids, n, special, out, capacity);
}

int32_t hearth_vocab_size(const hearth_vocab *vocab) { return ht_tokenizer_size(vocab->tokenizer); }

bool hearth_vocab_is_end(const hearth_vocab *vocab, int32_t id)
{
    return ht_tokenizer_is_end(vocab->tokenizer, id);
}

/* The prompt with messages of the inner type, which the caller frees. */
static int open_prompt(ht_chat_prompt *out, ht_chat_message **messages, const char *format, const hearth_message *from,
                       int n, bool open_answer, ht_error *err)
{
    *messages = n < 0 ? NULL : ht_alloc((size_t)n, sizeof(**messages));
    if (!*messages) return ht_fail(err, n < 0 ? -EINVAL : -ENOMEM, "no room for %d messages", n);
    for (int i = 0; i < n; i++) (*messages)[i] = (ht_chat_message){from[i].role, from[i].content};
    *out = (ht_chat_prompt){format, *messages, n, open_answer};
    return 0;
}

int64_t hearth_chat_render(const hearth_vocab *vocab, const char *format, const hearth_message *messages, int n,
                           bool open_answer, char *out, int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    ht_chat_prompt prompt;
    ht_chat_message *inner;

    int64_t r = open_prompt(&prompt, &inner, format, messages, n, open_answer, &err);
    if (r >= 0) r = ht_chat_prompt_render(vocab->tokenizer, &prompt, out, capacity, &err);
    ht_free(inner);
    return r < 0 ? ht_give_error((int)r, &err, error) : r;
}

int64_t hearth_chat_encode(const hearth_vocab *vocab, const char *format, const hearth_message *messages, int n,
                           bool open_answer, int64_t from, int32_t *ids, int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    ht_chat_prompt prompt;
    ht_chat_message *inner;

    int64_t r = open_prompt(&prompt, &inner, format, messages, n, open_answer, &err);
    if (r >= 0) r = ht_chat_prompt_encode(vocab->tokenizer, &prompt, from, ids, capacity, &err);
    ht_free(inner);
    return r < 0 ? ht_give_error((int)r, &err, error) : r;
}
