/* A vocabulary from SentencePiece's own file, tokenizer.model: a protobuf message of which few fields matter.
 *
 *   ModelProto       1: repeated SentencePiece, 2: TrainerSpec, 3: NormalizerSpec
 *   SentencePiece    1: string piece, 2: float score, 3: kind (numbered as in GGUF; absent: normal)
 *   TrainerSpec      3: model type (1 unigram, 2 BPE), 24: blanks end words (absent: no), 40: unknown id, 41: BOS id,
 *                    42: EOS id
 *   NormalizerSpec   1: name, 3: whether a blank is put in front, 4: whether superfluous blanks go, 5: whether blanks become
 *                    U+2581 (each absent: yes) */
#include "core/base/cursor.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

typedef struct field {
    uint32_t number;
    uint64_t value;      /* varint and fixed kinds */
    ht_cursor message;   /* length-delimited kind */
} field;

static uint64_t varint(ht_cursor *c)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t byte = ht_cursor_u8(c);
        value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128)) return value;
    }
    c->failed = true;
    return 0;
}

/* The next field; false at the end, or when the message is broken (then c->failed). */
static bool next_field(ht_cursor *c, field *f)
{
    if (!ht_cursor_left(c)) return false;
    uint64_t key = varint(c);
    *f = (field){.number = key >> 3 > UINT32_MAX ? 0 : (uint32_t)(key >> 3)};
    switch (key & 7) {
    case 0: f->value = varint(c); break;
    case 1: f->value = ht_cursor_u64(c); break;
    case 2:
        f->message.size = varint(c);
        f->message.data = ht_cursor_take(c, f->message.size);
        break;
    case 5: f->value = ht_cursor_u32(c); break;
    default: c->failed = true;
    }
    return !c->failed;
}

typedef struct model_file {
    ht_gguf_string *spelled; /* owned, like the next two */
    uint8_t *kinds;
    float *scores;
    int64_t n;
    int64_t type, unknown, bos, eos;
    bool adds_blank, identity, drops_blanks, marks_blanks, blank_is_suffix;
} model_file;

static bool read_piece(model_file *m, ht_cursor c)
{
    field f;
    uint32_t bits;
    m->kinds[m->n] = HT_TOKEN_NORMAL;
    while (next_field(&c, &f)) {
        if (f.number == 1) m->spelled[m->n] = (ht_gguf_string){(const char *)f.message.data, f.message.size};
        if (f.number == 2) memcpy(&m->scores[m->n], (bits = (uint32_t)f.value, &bits), 4);
        if (f.number == 3) m->kinds[m->n] = f.value < 1 || f.value > 6 ? HT_TOKEN_UNUSED : (uint8_t)f.value;
    }
    m->n++;
    return !c.failed;
}

static bool read_spec(model_file *m, ht_cursor c, bool trainer)
{
    field f;
    while (next_field(&c, &f)) {
        if (trainer && f.number == 3) m->type = (int64_t)f.value;
        if (trainer && f.number == 24) m->blank_is_suffix = f.value != 0;
        if (trainer && f.number == 40) m->unknown = (int32_t)f.value;
        if (trainer && f.number == 41) m->bos = (int32_t)f.value;
        if (trainer && f.number == 42) m->eos = (int32_t)f.value;
        if (!trainer && f.number == 1) m->identity = f.message.size == 8 && !memcmp(f.message.data, "identity", 8);
        if (!trainer && f.number == 3) m->adds_blank = f.value != 0;
        if (!trainer && f.number == 4) m->drops_blanks = f.value != 0;
        if (!trainer && f.number == 5) m->marks_blanks = f.value != 0;
    }
    return !c.failed;
}

static int read_file(model_file *m, const uint8_t *data, size_t size, const char *path, ht_error *err)
{
    field f;
    ht_cursor c = {.data = data, .size = size};
    int64_t n = 0;
    while (next_field(&c, &f)) n += f.number == 1;
    if (c.failed || !n) return ht_fail(err, -EINVAL, "%s is no SentencePiece model", path);
    if (n > 1 << 24) return ht_fail(err, -EINVAL, "%s has %lld pieces", path, (long long)n);
    m->spelled = ht_calloc((size_t)n, sizeof *m->spelled);
    m->kinds = ht_calloc((size_t)n, 1);
    m->scores = ht_calloc((size_t)n, sizeof *m->scores);
    if (!m->spelled || !m->kinds || !m->scores) return ht_fail(err, -ENOMEM, "%s: no memory", path);
    bool sound = true;
    c = (ht_cursor){.data = data, .size = size};
    while (sound && next_field(&c, &f)) {
        if (f.number == 1) sound = read_piece(m, f.message);
        if (f.number == 2 || f.number == 3) sound = read_spec(m, f.message, f.number == 2);
    }
    if (!sound) return ht_fail(err, -EINVAL, "%s: piece %lld or a setting is broken", path, (long long)m->n);
    if (m->type != 2) return ht_fail(err, -ENOTSUP, "%s: model type %lld is not supported (2, BPE, is)", path,
                                     (long long)m->type);
    if (!m->identity) return ht_fail(err, -ENOTSUP, "%s: its normalisation is not supported (identity is)", path);
    const char *setting = m->drops_blanks      ? "remove_extra_whitespaces = true"
                          : !m->marks_blanks   ? "escape_whitespaces = false"
                          : m->blank_is_suffix ? "treat_whitespace_as_suffix = true"
                                               : NULL;
    return setting ? ht_fail(err, -ENOTSUP, "%s: %s is not supported", path, setting) : 0;
}

/* Grows the pieces to *n, the new ones without spelling. */
static int grow(model_file *m, int64_t n)
{
    ht_gguf_string *spelled = ht_realloc(m->spelled, (size_t)n, sizeof *spelled);
    if (spelled) m->spelled = spelled;
    uint8_t *kinds = ht_realloc(m->kinds, (size_t)n, 1);
    if (kinds) m->kinds = kinds;
    float *scores = ht_realloc(m->scores, (size_t)n, sizeof *scores);
    if (scores) m->scores = scores;
    if (!spelled || !kinds || !scores) return -ENOMEM;
    for (; m->n < n; m->n++) {
        m->spelled[m->n] = (ht_gguf_string){0};
        m->kinds[m->n] = HT_TOKEN_UNUSED;
        m->scores[m->n] = -INFINITY; /* no merging makes them */
    }
    return 0;
}

/* Has its id this token's spelling? Otherwise the id is another piece's, which stays as it is. */
static bool is_added(const model_file *m, const ht_added_token *a)
{
    ht_gguf_string own = m->spelled[a->id];
    return own.len == a->spelled.len && (own.len == 0 || memcmp(own.data, a->spelled.data, own.len) == 0);
}

static int add_tokens(model_file *m, const ht_added_token *added, int n_added, const char *path, ht_error *err)
{
    int64_t pieces = m->n, n = pieces;
    for (int i = 0; i < n_added; i++)
        if (added[i].id >= n) n = added[i].id + 1;
    int ret = ht_vocab_check_gaps(n, pieces + n_added, path, err);
    if (ret < 0) return ret;
    if (n > pieces && grow(m, n) < 0) return ht_fail(err, -ENOMEM, "%s: no memory", path);
    for (int i = 0; i < n_added; i++) {
        const ht_added_token *a = &added[i];
        uint8_t *kind = &m->kinds[a->id];
        if (a->id >= pieces) {
            m->spelled[a->id] = a->spelled;
            *kind = a->kind;
        } else if (!is_added(m, a)) {
            ht_log(HT_LOG_WARN, "%s: piece %lld stays, another file adds '%.60s' in its place", path, (long long)a->id,
                   a->spelled.data);
        } else if (*kind == HT_TOKEN_NORMAL || *kind == HT_TOKEN_USER || *kind == HT_TOKEN_UNUSED) {
            *kind = a->kind;
        }
    }
    return 0;
}

static int checked_id(const ht_tokenizer *t, int64_t id, const char *what, const char *path, int32_t *out, ht_error *err)
{
    if (id >= t->n) return ht_fail(err, -EINVAL, "%s: %s id %lld of %d pieces", path, what, (long long)id, t->n);
    *out = id < 0 ? -1 : (int32_t)id;
    return 0;
}

int ht_vocab_from_sentencepiece(ht_tokenizer *t, const char *path, const ht_added_token *added, int n_added, ht_error *err)
{
    ht_file file;
    int32_t eos = -1;
    model_file m = {.type = 1, .unknown = 0, .bos = 1, .eos = 2, .adds_blank = true, .identity = true, .drops_blanks = true,
                    .marks_blanks = true};
    int ret = ht_file_open(&file, path, err);
    if (ret < 0) return ret;
    if ((ret = read_file(&m, file.data, file.size, path, err)) < 0) goto out;
    if ((ret = add_tokens(&m, added, n_added, path, err)) < 0) goto out;
    t->model = HT_MODEL_SCORES;
    t->adds_blank = m.adds_blank;
    t->fuses_unknown = true;
    ret = ht_vocab_build(t, &(ht_vocab_source){.spelled = m.spelled, .kinds = m.kinds, .scores = m.scores, .n = m.n,
                                               .origin = path}, err);
    if (ret == 0) ret = checked_id(t, m.unknown, "unknown", path, &t->unknown, err);
    if (ret == 0) ret = checked_id(t, m.bos, "BOS", path, &t->bos, err);
    if (ret == 0) ret = checked_id(t, m.eos, "EOS", path, &eos, err);
    if (ret == 0 && eos >= 0) t->marks[eos] |= HT_MARK_END;
    for (int i = 0; ret == 0 && i < n_added; i++)
        if (is_added(&m, &added[i])) t->marks[added[i].id] |= added[i].marks;
    t->adds_bos = t->bos >= 0; /* as the Llama family wants it; tokenizer_config.json may say otherwise */
out:
    ht_free(m.spelled);
    ht_free(m.kinds);
    ht_free(m.scores);
    ht_file_close(&file);
    return ret;
}
