/* Pre-tokenizers: a text cut into words by patterns, one stage after another.
 *
 * The patterns are those of the models' own tokenizer files (Oniguruma's dialect), run by PCRE2 with these differences
 * removed: \s is Unicode's White_Space alone (PCRE2 adds U+180E), \h is left to nobody. Compiled code is shared by
 * threads, match data belongs to one call. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/base/memory.h"
#include "core/model/tokenizer_internal.h"

#include <pcre2.h>

static void *general_alloc(size_t n, void *user)
{
    (void)user;
    return ht_alloc(n, 1);
}

static void general_free(void *p, void *user)
{
    (void)user;
    ht_free(p);
}

int ht_splitter_open(ht_splitter *s, ht_error *err)
{
    memset(s, 0, sizeof *s);
    s->general = pcre2_general_context_create(general_alloc, general_free, NULL);
    s->match = s->general ? pcre2_match_context_create(s->general) : NULL;
    if (!s->match) {
        ht_splitter_close(s);
        return ht_fail(err, -ENOMEM, "no memory for the pre-tokenizer");
    }
    /* Steps and memory of one match: far above what a pattern that makes sense needs for a megabyte. */
    pcre2_set_match_limit(s->match, 50u * 1000 * 1000);
    pcre2_set_heap_limit(s->match, 512 * 1024);
    return 0;
}

void ht_splitter_close(ht_splitter *s)
{
    for (int i = 0; i < s->n; i++) pcre2_code_free(s->stages[i].code);
    pcre2_match_context_free(s->match);
    pcre2_general_context_free(s->general);
    memset(s, 0, sizeof *s);
}

/* ---- patterns ------------------------------------------------------------------------------------------- */

#define WHITE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Writes `pattern` with \s and \S spelled out; to == NULL only counts. */
static size_t spell_out_white(char *to, const char *pattern, size_t len)
{
    size_t n = 0;
    bool in_class = false;
    for (size_t i = 0; i < len; i++) {
        const char *put = pattern + i;
        size_t put_len = 1;
        if (pattern[i] == '\\' && i + 1 < len) {
            put_len = 2;
            if (pattern[i + 1] == 's') put = in_class ? WHITE : "[" WHITE "]";
            else if (pattern[i + 1] == 'S' && !in_class) put = "[^" WHITE "]";
            if (put != pattern + i) put_len = strlen(put);
            i++;
        } else if (pattern[i] == '[' && !in_class) {
            in_class = true;
        } else if (pattern[i] == ']') {
            in_class = false;
        }
        if (to) memcpy(to + n, put, put_len);
        n += put_len;
    }
    return n;
}

int ht_splitter_add(ht_splitter *s, const char *pattern, size_t len, bool literal, ht_split_rule rule, bool invert,
                    const char *origin, ht_error *err)
{
    int ret = 0, code = 0;
    PCRE2_SIZE at = 0;
    char *spelled = NULL;
    if (s->n == HT_SPLIT_STAGES) return ht_fail(err, -ENOTSUP, "%s: more than %d stages", origin, HT_SPLIT_STAGES);
    if (len > 1 << 16) return ht_fail(err, -EINVAL, "%s: a pattern of %zu bytes", origin, len);
    pcre2_compile_context *compile = pcre2_compile_context_create(s->general);
    size_t n = literal ? len : spell_out_white(NULL, pattern, len);
    spelled = ht_alloc(n + 1, 1);
    if (!compile || !spelled) {
        ret = ht_fail(err, -ENOMEM, "%s: no memory", origin);
        goto out;
    }
    if (literal) memcpy(spelled, pattern, len);
    else spell_out_white(spelled, pattern, len);
    spelled[n] = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | (literal ? PCRE2_LITERAL : 0);
    if (literal) options &= ~(uint32_t)(PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)spelled, n, options, &code, &at, compile);
    if (!compiled) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(code, text, sizeof text);
        ret = code == PCRE2_ERROR_HEAP_FAILED
                  ? ht_fail(err, -ENOMEM, "%s: no memory for the pattern", origin)
                  : ht_fail(err, -EINVAL, "%s: the pattern '%.120s' does not compile: %s", origin, spelled,
                            (char *)text);
        goto out;
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); /* without a JIT the same code is interpreted */
    s->stages[s->n++] = (struct ht_split_stage){.code = compiled, .rule = rule, .invert = invert};
out:
    pcre2_compile_context_free(compile);
    ht_free(spelled);
    return ret;
}

/* ---- named ones ----------------------------------------------------------------------------------------- */

#define CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"
#define GPT2 CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* cl100k and its children, which differ in how many digits go together. */
#define CL100K(digits)                                                                                         \
    "(?i:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN35                                                                                                 \
    "(?i:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"  \
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define O200K(contraction, digits)                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" contraction "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER \
    "]*" contraction "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PUNCTUATION "[\\p{P}\\$\\+<=>\\^~\\|`]+"
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* The letters of bicameral scripts, as the model's tokenizer file lists them. */
#define DEEPSEEK_LETTERS \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}" \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}" \
    "\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}" \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}" \
    "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}" \
    "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}" \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}" \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}" \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}" \
    "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}" \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}" \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}" \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}" \
    "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_MARKS "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"
#define DEEPSEEK3                                                                                              \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"       \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

enum { NAMES = 24, PATTERNS = 6 };

static const struct named {
    const char *names[NAMES];
    const char *patterns[PATTERNS];
    ht_pre_facts facts;
} named[] = {
    {{"gpt-2", "phi-2", "jina-en", "jina-es", "jina-de", "jina-v1-en", "jina-v2-code", "jina-v2-es", "jina-v2-de",
      "roberta-bpe", "gigachat", "mellum", "exaone4", "a.x-4.0", "modern-bert", "mpt", "olmo", "jais", "trillion"},
     {GPT2}, {0}},
    {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}, {"\\p{N}", GPT2}, {0}},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     {CL100K("\\p{N}{1,3}")}, {.ignore_merges = true, .adds_bos = true}},
    {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {CL100K("\\p{N}{1,3}")}, {0}},
    {{"qwen2", "deepseek-r1-qwen", "megrez", "kormo"}, {CL100K("\\p{N}")}, {.nfc = true}},
    {{"stablelm2", "hunyuan", "solar-open"}, {CL100K("\\p{N}")}, {0}},
    {{"qwen35"}, {QWEN35}, {.nfc = true}},
    {{"gpt-4o", "llama4", "kanana2"}, {O200K("(?i:" CONTRACTION ")?", "\\p{N}{1,3}")}, {.ignore_merges = true}},
    {{"tekken"}, {O200K("", "\\p{N}")}, {.ignore_merges = true, .adds_bos = true}},
    {{"falcon"}, {PUNCTUATION, GPT2, "[0-9][0-9][0-9]"}, {0}},
    {{"deepseek-llm"},
     {"[\r\n]", "\\s?[" DEEPSEEK_LETTERS "]+", "\\s?[" DEEPSEEK_MARKS "]+", "(?<!\\s)\\s+\\z", CJK, "\\p{N}+"}, {0}},
    {{"deepseek-coder"}, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}, {0}},
    {{"deepseek-v3", "deepseek-r1", "hunyuan-dense"},
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", DEEPSEEK3}, {0}},
    {{"default"}, {PUNCTUATION, GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, {0}},
};

int ht_splitter_add_named(ht_splitter *s, const char *name, size_t len, ht_pre_facts *facts, ht_error *err)
{
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        const struct named *row = named + i;
        bool found = false;
        for (int k = 0; k < NAMES && row->names[k]; k++) {
            found = found || (strlen(row->names[k]) == len && !memcmp(row->names[k], name, len));
        }
        if (!found) continue;
        for (int k = 0; k < PATTERNS && row->patterns[k]; k++) {
            int ret = ht_splitter_add(s, row->patterns[k], strlen(row->patterns[k]), false, HT_SPLIT_ISOLATED, false,
                                      row->names[0], err);
            if (ret < 0) return ret;
        }
        *facts = row->facts;
        return 0;
    }
    return ht_fail(err, -ENOTSUP, "tokenizer.ggml.pre: unknown pre-tokenizer '%.*s'", (int)(len < 64 ? len : 64), name);
}

/* ---- running -------------------------------------------------------------------------------------------- */

int ht_split_call_open(ht_split_call *c, const ht_splitter *s, ht_error *err)
{
    c->data = pcre2_match_data_create(1, s->general);
    return c->data ? 0 : ht_fail(err, -ENOMEM, "no memory to split a text");
}

void ht_split_call_close(ht_split_call *c)
{
    pcre2_match_data_free(c->data);
    c->data = NULL;
}

/* The next match at or after `from`: 1 and its bounds, 0, or an error. */
static int next_match(const ht_splitter *s, ht_split_call *c, int stage, const char *text, size_t n, size_t from,
                      size_t bounds[2], ht_error *err)
{
    const pcre2_code *code = s->stages[stage].code;
    while (from < n) {
        PCRE2_SPTR subject = (PCRE2_SPTR)text;
        int ret = pcre2_match(code, subject, n, from, PCRE2_NO_UTF_CHECK, c->data, s->match);
        if (ret == PCRE2_ERROR_JIT_STACKLIMIT) {
            ret = pcre2_match(code, subject, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, c->data, s->match);
        }
        if (ret == PCRE2_ERROR_NOMATCH) return 0;
        if (ret == PCRE2_ERROR_NOMEMORY) return ht_fail(err, -ENOMEM, "no memory to split a text of %zu bytes", n);
        if (ret < 0) {
            return ht_fail(err, -E2BIG, "the pre-tokenizer's pattern %d gives up on a text of %zu bytes (PCRE2 error "
                           "%d)", stage, n, ret);
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(c->data);
        if (v[1] > v[0] && v[0] >= from) {
            bounds[0] = v[0];
            bounds[1] = v[1];
            return 1;
        }
        from = v[1] > from ? v[1] : from;
        from += from < n ? (size_t)ht_utf8_step(text + from, n - from) : 1; /* an empty match: look further */
    }
    return 0;
}

typedef struct run {
    const ht_splitter *s;
    ht_split_call *c;
    ht_word_fn *fn;
    void *user;
    ht_error *err;
} run;

static int run_stage(const run *r, int stage, const char *text, size_t n);

static int pass_on(const run *r, int stage, const char *text, size_t begin, size_t end)
{
    return end > begin ? run_stage(r, stage + 1, text + begin, end - begin) : 0;
}

/* Pieces are gaps and matches in turn. What is passed on begins at `begin` and is held back until it is known
 * whether the next piece joins it. */
static int run_stage(const run *r, int stage, const char *text, size_t n)
{
    if (stage == r->s->n) return r->fn(r->user, text, n);
    const struct ht_split_stage *at = r->s->stages + stage;
    size_t begin = 0, done = 0, bounds[2];
    bool held_match = false, any = false;
    for (;;) {
        int ret = next_match(r->s, r->c, stage, text, n, done, bounds, r->err);
        if (ret < 0) return ret;
        if (!ret) bounds[0] = bounds[1] = n;
        for (int part = 0; part < 2; part++) {
            bool match = (part == 1) != at->invert;
            size_t from = part ? bounds[0] : done, to = bounds[part];
            if (from == to) continue;
            bool join = false;
            switch (at->rule) {
            case HT_SPLIT_CONTIGUOUS: join = any && match && held_match; break;
            case HT_SPLIT_WITH_PREVIOUS: join = any && match && !held_match; break;
            case HT_SPLIT_WITH_NEXT: join = any && held_match && !match; break;
            case HT_SPLIT_ISOLATED: case HT_SPLIT_REMOVED: break;
            }
            if (!join) {
                bool drop = at->rule == HT_SPLIT_REMOVED && held_match;
                if (!drop && (ret = pass_on(r, stage, text, begin, from)) < 0) return ret;
                begin = from;
            }
            held_match = match;
            any = true;
        }
        done = bounds[1];
        if (done == n) break;
    }
    if (at->rule == HT_SPLIT_REMOVED && held_match) return 0;
    return pass_on(r, stage, text, begin, n);
}

int ht_splitter_run(const ht_splitter *s, ht_split_call *c, const char *text, size_t n, ht_word_fn *fn, void *user,
                    ht_error *err)
{
    run r = {s, c, fn, user, err};
    return n ? run_stage(&r, 0, text, n) : 0;
}
