/* Chat templates: the built-in formats as tables and small writers, and their recognition from a Jinja source. */
#include "core/model/chat.h"

#include <string.h>

static const struct { const char *name; ht_chat_format format; } names[] = {
    {"none", HT_CHAT_NONE}, {"chatml", HT_CHAT_CHATML}, {"llama-2", HT_CHAT_LLAMA2}, {"llama-3", HT_CHAT_LLAMA3},
    {"mistral", HT_CHAT_MISTRAL}, {"qwen", HT_CHAT_QWEN}, {"qwen-3", HT_CHAT_QWEN3}, {"phi-3", HT_CHAT_PHI3},
    {"gemma", HT_CHAT_GEMMA}, {"mistral-v3", HT_CHAT_MISTRAL_V3}, {"mistral-tekken", HT_CHAT_MISTRAL_TEKKEN},
    {"mistral-v7", HT_CHAT_MISTRAL_V7}, {"phi-4", HT_CHAT_PHI4}, {"phi-4-mini", HT_CHAT_PHI4_MINI},
    {"llama-3.1", HT_CHAT_LLAMA31}, {"qwen-3-thinking", HT_CHAT_QWEN3_THINKING},
    {"deepseek-coder", HT_CHAT_DEEPSEEK_CODER}, {"starcoder2", HT_CHAT_STARCODER2},
    {"mistral-v0.1", HT_CHAT_MISTRAL_V01}, {"mistral-v0.2", HT_CHAT_MISTRAL_V02}, {"mistral-v1", HT_CHAT_MISTRAL_V1},
};
#define NAME_LIST "none, chatml, llama-2, llama-3, llama-3.1, mistral, mistral-v0.1, mistral-v0.2, mistral-v1, " \
    "mistral-v3, mistral-tekken, mistral-v7, qwen, qwen-3, qwen-3-thinking, phi-3, phi-4, phi-4-mini, gemma, " \
    "deepseek-coder, starcoder2"

int ht_chat_by_name(const char *name, ht_chat_format *out, ht_error *err)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i].name, name)) continue;
        *out = names[i].format;
        return 0;
    }
    return ht_fail(err, -EINVAL, "unknown chat format '%.80s'; there are: " NAME_LIST, name);
}

const char *ht_chat_name(ht_chat_format format)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].format == format) return names[i].name;
    }
    return "?";
}

static bool has(const char *s, const char *mark) { return strstr(s, mark) != NULL; }

/* A mark with a line end in it, which a source may spell as such or as \\n; '@' stands for it. */
static bool has_line(const char *s, const char *mark)
{
    char spelled[64];
    for (int way = 0; way < 2; way++) {
        size_t n = 0;
        for (const char *m = mark; *m && n + 3 < sizeof spelled; m++) {
            if (*m == '@' && way) spelled[n++] = '\\';
            spelled[n++] = *m != '@' ? *m : way ? 'n' : '\n';
        }
        spelled[n] = 0;
        if (has(s, spelled)) return true;
    }
    return false;
}

/* Formats with the roles of ChatML. Answers of some models open with a thought, which few templates say alike. */
static bool detect_chatml(const char *s, ht_chat_format *out)
{
    if (has(s, "<|im_sep|>")) {
        *out = HT_CHAT_PHI4;
        return !has(s, "You are Phi"); /* phi-4-reasoning: a system message that is always there */
    }
    if (has(s, "## Metadata")) return false; /* smollm-3 writes a system message of its own */
    if (has_line(s, "'<think>@'") || has(s, "function calling AI model")) return false; /* other models' */
    if (has_line(s, "assistant@<think>@'")) *out = HT_CHAT_QWEN3_THINKING;
    else if (has(s, "</think>")) *out = HT_CHAT_QWEN3;
    else *out = has(s, "Qwen") || has(s, "<tool_call>") ? HT_CHAT_QWEN : HT_CHAT_CHATML;
    return true;
}

static bool detect_phi(const char *s, ht_chat_format *out)
{
    if (!has(s, "<|end|>") || !has(s, "<|assistant|>") || has(s, "Your name is Phi") || has(s, "You are a")) return false;
    if (has(s, "'<|' + message['role'] + '|>'"))
        *out = has_line(s, "'|>' + '@'") ? HT_CHAT_PHI3 : HT_CHAT_PHI4_MINI;
    else if (has(s, "<|user|>")) *out = HT_CHAT_PHI3;
    else return false;
    return true;
}

/* The first templates of Mistral, which differ in their blanks alone. */
static ht_chat_format mistral_blanks(const char *s)
{
    if (has(s, "' [INST] '") || has(s, "\" [INST] \"")) return HT_CHAT_MISTRAL_V1;
    if (has(s, "eos_token + ' '") || has(s, "eos_token + \" \"")) return HT_CHAT_MISTRAL_V01;
    return has(s, "' ' + message") || has(s, "\" \" + message") ? HT_CHAT_MISTRAL : HT_CHAT_MISTRAL_V02;
}

static bool detect_inst(const char *s, ht_chat_format *out)
{
    bool spaced = has(s, "[INST] "), glued = has(s, "\"[INST]\"") || has(s, "'[INST]'");
    if (!has(s, "[/INST]")) return false;
    *out = has(s, "<<SYS>>")             ? HT_CHAT_LLAMA2
           : has(s, "[SYSTEM_PROMPT]")   ? HT_CHAT_MISTRAL_V7
           : glued                       ? HT_CHAT_MISTRAL_TEKKEN
           : has(s, " [/INST]")          ? mistral_blanks(s)
                                         : HT_CHAT_MISTRAL_V3;
    return *out != HT_CHAT_MISTRAL_V7 || !spaced; /* mistral-large's v7 has blanks */
}

/* Headings instead of control tokens. */
static bool detect_headings(const char *s, ht_chat_format *out)
{
    bool deepseek = has_line(s, "refuse to answer@'") && has_line(s, "'### Instruction:@'");
    *out = deepseek ? HT_CHAT_DEEPSEEK_CODER : HT_CHAT_STARCODER2;
    return deepseek || (has(s, "You are an exceptionally intelligent coding assistant") && has_line(s, "'### Instruction@'"));
}

int ht_chat_detect(const char *s, ht_chat_format *out, ht_error *err)
{
    bool known = false;
    if (has(s, "<|im_start|>")) {
        known = detect_chatml(s, out);
    } else if (has(s, "<|start_header_id|>")) {
        *out = has(s, "Cutting Knowledge Date") ? HT_CHAT_LLAMA31 : HT_CHAT_LLAMA3;
        known = *out == HT_CHAT_LLAMA3 || has(s, "Today Date: ");
    } else if (has(s, "<start_of_turn>")) {
        known = true;
        *out = HT_CHAT_GEMMA;
    } else {
        known = detect_phi(s, out) || detect_inst(s, out) || detect_headings(s, out);
    }
    return known ? 0 : ht_fail(err, -ENOTSUP, "the model's chat template is not one that is known; name a chat format "
                               "(--chat-template NAME): " NAME_LIST);
}

bool ht_chat_hides_system(const char *s)
{
    static const char mark[] = "set system_message = ";
    if (has(s, "false == true") || has(s, "USE_DEFAULT_PROMPT")) return false; /* Llama-2's, switched off */
    for (const char *at = s; (at = strstr(at, mark));) {
        at += sizeof mark - 1;
        if ((*at == '\'' || *at == '"') && at[1] != *at) return true;
    }
    return has(s, "default_system_message");
}

/* The literal between "<|im_start|>system\n" and "<|im_end|>", if it is one: no variable spliced in. */
size_t ht_chat_default_system(const char *source, char *out, size_t capacity)
{
    static const char opening[] = "<|im_start|>system", closing[] = "<|im_end|>";
    for (const char *at = source; (at = strstr(at, opening));) {
        at += sizeof opening - 1;
        const char *s = at;
        if (*s == '\n') s++;
        else if (s[0] == '\\' && s[1] == 'n') s += 2;
        else continue;
        const char *end = strstr(s, closing);
        if (!end) break;
        size_t used = 0;
        bool literal = end > s;
        for (; s < end && literal; s++) {
            char c = *s;
            literal = c != '{' && c != '}' && c != '"' && (c != '\'' || s[-1] == '\\');
            if (c == '\\' && s + 1 < end && (s[1] == 'n' || s[1] == '\'' || s[1] == '"' || s[1] == '\\')) {
                c = s[1] == 'n' ? '\n' : s[1];
                s++;
            }
            if (used + 1 < capacity) out[used] = c;
            used++;
        }
        if (!literal) continue;
        if (capacity) out[used < capacity ? used : capacity - 1] = 0;
        return used;
    }
    if (capacity) out[0] = 0;
    return 0;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

typedef struct writer {
    char *out;
    int64_t capacity, used;
    ht_chat_quotes *quotes; /* or NULL */
} writer;

static void put_n(writer *w, const char *s, size_t n)
{
    int64_t room = w->capacity - w->used;
    if (room > 0) memcpy(w->out + w->used, s, (int64_t)n < room ? n : (size_t)room);
    w->used += (int64_t)n;
}

static void put(writer *w, const char *s) { put_n(w, s, strlen(s)); }

/* What a message says, as opposed to what the template says. */
static void quote_n(writer *w, const char *s, size_t n)
{
    if (w->quotes && n) {
        size_t at = (size_t)w->used;
        w->quotes->spans[w->quotes->n++] = (ht_text_span){at, at + n};
    }
    put_n(w, s, n);
}

static void quote(writer *w, const char *s) { quote_n(w, s, strlen(s)); }

static bool is_white(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static void quote_trimmed(writer *w, const char *s)
{
    size_t n = strlen(s);
    while (n && is_white(s[n - 1])) n--;
    while (n && is_white(*s)) {
        s++;
        n--;
    }
    quote_n(w, s, n);
}

typedef struct dialogue {
    const char *system; /* NULL: none */
    const ht_chat_message *messages; /* without the system message */
    int n;
    bool open_answer;
} dialogue;

static bool is(const ht_chat_message *m, const char *role) { return !strcmp(m->role, role); }

/* role line, content, end mark: all formats that treat roles alike. */
typedef struct turns {
    const char *before_role, *after_role, *after_content;
    const char *assistant; /* what the assistant's role is called */
    bool trim;
} turns;

static void put_turn(writer *w, const turns *f, const char *role, const char *content)
{
    put(w, f->before_role);
    put(w, !strcmp(role, "assistant") ? f->assistant : role);
    put(w, f->after_role);
    if (f->trim) quote_trimmed(w, content);
    else quote(w, content);
    put(w, f->after_content);
}

static void open_turn(writer *w, const turns *f)
{
    put(w, f->before_role);
    put(w, f->assistant);
    put(w, f->after_role);
}

static void write_turns(writer *w, const turns *f, const dialogue *d)
{
    if (d->system) put_turn(w, f, "system", d->system);
    for (int i = 0; i < d->n; i++) put_turn(w, f, d->messages[i].role, d->messages[i].content);
    if (d->open_answer) open_turn(w, f);
}

static const turns chatml = {"<|im_start|>", "\n", "<|im_end|>\n", "assistant", false};
static const turns llama3 = {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "assistant", true};
static const turns phi3 = {"<|", "|>\n", "<|end|>\n", "assistant", false};
static const turns phi4 = {"<|im_start|>", "<|im_sep|>", "<|im_end|>", "assistant", false};
static const turns phi4_mini = {"<|", "|>", "<|end|>", "assistant", false};
static const turns gemma = {"<start_of_turn>", "\n", "<end_of_turn>\n", "model", true};

/* Llama 3.1 to 3.3 always have a system message. Its date is the one that the templates fall back to where there is no
 * clock: a prompt is the same on every day. */
static void write_llama31(writer *w, const dialogue *d)
{
    dialogue rest = *d;
    rest.system = NULL;
    put(w, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
    if (d->system) quote_trimmed(w, d->system);
    put(w, llama3.after_content);
    write_turns(w, &llama3, &rest);
}

/* Gemma has no system role: its text goes in front of the first turn's. */
static void write_gemma(writer *w, const dialogue *d)
{
    for (int i = 0; i < d->n; i++) {
        const ht_chat_message *m = d->messages + i;
        put(w, gemma.before_role);
        put(w, is(m, "assistant") ? gemma.assistant : m->role);
        put(w, gemma.after_role);
        if (i == 0 && d->system) {
            quote(w, d->system);
            put(w, "\n\n");
        }
        quote_trimmed(w, m->content);
        put(w, gemma.after_content);
    }
    if (d->open_answer) open_turn(w, &gemma);
}

static const char *skip_newlines(const char *s)
{
    while (*s == '\n') s++;
    return s;
}

/* Qwen3: thoughts of answers before the last question are left out, an answer after it opens with its thoughts. */
static void write_qwen3(writer *w, const dialogue *d)
{
    int last_query = d->n - 1;
    while (last_query > 0 && !is(d->messages + last_query, "user")) last_query--;
    if (d->system) put_turn(w, &chatml, "system", d->system);
    for (int i = 0; i < d->n; i++) {
        const ht_chat_message *m = d->messages + i;
        if (!is(m, "assistant")) {
            put_turn(w, &chatml, m->role, m->content);
            continue;
        }
        const char *content = m->content, *thought = NULL, *close = NULL;
        size_t thought_n = 0;
        for (const char *p = content; (p = strstr(p, "</think>")); p += 8) {
            if (!close) close = p;
            content = p + 8;
        }
        if (close) {
            thought = m->content;
            for (const char *p = thought; (p = strstr(p, "<think>")) && p < close; p += 7) thought = p + 7;
            while (thought < close && *thought == '\n') thought++;
            thought_n = (size_t)(close - thought);
            while (thought_n && thought[thought_n - 1] == '\n') thought_n--;
            content = skip_newlines(content);
        }
        put(w, "<|im_start|>assistant\n");
        if (i > last_query && (i == d->n - 1 || thought_n)) {
            put(w, "<think>\n");
            quote_n(w, thought ? thought : "", thought_n);
            put(w, "\n</think>\n\n");
            content = skip_newlines(content);
        }
        quote(w, content);
        put(w, chatml.after_content);
    }
    if (d->open_answer) open_turn(w, &chatml);
}

static void write_llama2(writer *w, const dialogue *d)
{
    for (int i = 0; i < d->n; i++) {
        const ht_chat_message *m = d->messages + i;
        if (is(m, "assistant")) {
            put(w, " ");
            quote_trimmed(w, m->content);
            put(w, " </s>");
            continue;
        }
        put(w, i ? "<s>[INST] " : "[INST] ");
        if (i == 0 && d->system) { /* stripped as one text, of which the question is the end */
            put(w, "<<SYS>>\n");
            quote(w, d->system);
            put(w, "\n<</SYS>>\n\n");
            const char *s = m->content;
            size_t n = strlen(s);
            while (n && is_white(s[n - 1])) n--;
            quote_n(w, s, n);
        } else {
            quote_trimmed(w, m->content);
        }
        put(w, " [/INST]");
    }
}

/* Mistral's formats differ in their blanks and in where the system message goes. The first is that of Mistral's own encoder,
 * before which a tokenizer puts a blank; v0.1 to v1 are what the models' templates made of it. */
typedef struct mistral {
    const char *open, *close, *before_answer, *after_answer;
    bool trim_answer;
    enum { SYSTEM_FIRST, SYSTEM_LAST, SYSTEM_APART } system;
} mistral;

static const mistral mistral_own = {"[INST] ", " [/INST]", " ", "</s>", false, SYSTEM_FIRST};
static const mistral mistral_v01 = {"[INST] ", " [/INST]", "", "</s> ", false, SYSTEM_FIRST};
static const mistral mistral_v02 = {"[INST] ", " [/INST]", "", "</s>", false, SYSTEM_FIRST};
static const mistral mistral_v1 = {" [INST] ", " [/INST]", " ", "</s>", false, SYSTEM_FIRST};
static const mistral mistral_v3 = {"[INST] ", "[/INST]", " ", "</s>", true, SYSTEM_LAST};
static const mistral mistral_tekken = {"[INST]", "[/INST]", "", "</s>", false, SYSTEM_LAST};
static const mistral mistral_v7 = {"[INST]", "[/INST]", "", "</s>", false, SYSTEM_APART};

static void write_mistral(writer *w, const mistral *f, const dialogue *d)
{
    if (f->system == SYSTEM_APART && d->system) {
        put(w, "[SYSTEM_PROMPT]");
        quote(w, d->system);
        put(w, "[/SYSTEM_PROMPT]");
    }
    for (int i = 0; i < d->n; i++) {
        const ht_chat_message *m = d->messages + i;
        if (is(m, "assistant")) {
            put(w, f->before_answer);
            if (f->trim_answer) quote_trimmed(w, m->content);
            else quote(w, m->content);
            put(w, f->after_answer);
            continue;
        }
        put(w, f->open);
        if (d->system && ((f->system == SYSTEM_FIRST && i == 0) || (f->system == SYSTEM_LAST && i == d->n - 1))) {
            quote(w, d->system);
            put(w, "\n\n");
        }
        quote(w, m->content);
        put(w, f->close);
    }
}

/* Headings before questions and answers, and a text before it all that a system message takes the place of. */
typedef struct headings { const char *opening, *question, *after_question, *answer, *after_answer; } headings;

static const headings deepseek_coder = {
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you only "
    "answer questions related to computer science. For politically sensitive questions, security and privacy issues, and "
    "other non-computer science questions, you will refuse to answer\n",
    "### Instruction:\n", "\n", "### Response:\n", "\n<|EOT|>\n"};
static const headings starcoder2 = {
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate and reliable responses to user "
    "instructions.\n\n",
    "### Instruction\n", "\n\n", "### Response\n", "<|endoftext|>\n\n"};

static void write_headings(writer *w, const headings *f, const dialogue *d)
{
    if (d->system) quote(w, d->system);
    else put(w, f->opening);
    for (int i = 0; i < d->n; i++) {
        bool answer = is(d->messages + i, "assistant");
        put(w, answer ? f->answer : f->question);
        quote(w, d->messages[i].content);
        put(w, answer ? f->after_answer : f->after_question);
    }
    if (d->open_answer) put(w, f->answer);
}

static void write_plain(writer *w, const dialogue *d)
{
    if (d->system) quote(w, d->system);
    for (int i = 0; i < d->n; i++) {
        if (i || d->system) put(w, "\n");
        quote(w, d->messages[i].content);
    }
}

/* ---- the dialogue --------------------------------------------------------------------------------------- */

static bool is_mistral(ht_chat_format format)
{
    return format == HT_CHAT_MISTRAL || format == HT_CHAT_MISTRAL_V01 || format == HT_CHAT_MISTRAL_V02 ||
           format == HT_CHAT_MISTRAL_V1 || format == HT_CHAT_MISTRAL_V3 || format == HT_CHAT_MISTRAL_TEKKEN ||
           format == HT_CHAT_MISTRAL_V7;
}

static bool must_alternate(ht_chat_format format)
{
    return format == HT_CHAT_LLAMA2 || format == HT_CHAT_GEMMA || is_mistral(format);
}

bool ht_chat_begins_with_bos(const char *source, ht_chat_format format)
{
    if (source) return has(source, "bos_token");
    return must_alternate(format) || format == HT_CHAT_LLAMA3 || format == HT_CHAT_LLAMA31;
}

static int check(ht_chat_format format, const dialogue *d, int first, ht_error *err)
{
    const char *name = ht_chat_name(format);
    bool headed = format == HT_CHAT_DEEPSEEK_CODER || format == HT_CHAT_STARCODER2;
    if (d->system && format == HT_CHAT_STARCODER2)
        return ht_fail(err, -EINVAL, "message 1: chat format %s has no place for the role 'system'", name);
    if (d->system && d->n == 0 && must_alternate(format)) {
        return ht_fail(err, -EINVAL, "message %d: chat format %s has no place for a 'system' message without a 'user' "
                       "message after it", first, name);
    }
    for (int i = 0; i < d->n; i++) {
        const char *role = d->messages[i].role;
        bool user = !strcmp(role, "user"), assistant = !strcmp(role, "assistant");
        if (!user && !assistant && (strcmp(role, "system") || must_alternate(format) || headed)) {
            return ht_fail(err, -EINVAL, "message %d: chat format %s has no place for the role '%.40s'", first + i + 1,
                           name, role);
        }
        if (must_alternate(format) && user != (i % 2 == 0)) {
            return ht_fail(err, -EINVAL, "message %d: in chat format %s 'user' and 'assistant' take turns, and this is "
                           "'%s' again", first + i + 1, name, role);
        }
    }
    return 0;
}

int64_t ht_chat_render(ht_chat_format format, const char *default_system, const ht_chat_message *messages, int n,
                       bool open_answer, char *out, int64_t capacity, ht_error *err)
{
    return ht_chat_render_quoted(format, default_system, messages, n, open_answer, out, capacity, NULL, err);
}

int64_t ht_chat_render_quoted(ht_chat_format format, const char *default_system, const ht_chat_message *messages, int n,
                              bool open_answer, char *out, int64_t capacity, ht_chat_quotes *quotes, ht_error *err)
{
    writer w = {out, capacity, 0, quotes};
    if (quotes) quotes->n = 0;
    dialogue d = {.system = default_system && *default_system ? default_system : NULL, .messages = messages, .n = n,
                  .open_answer = open_answer};
    int first = 0;
    if (n && is(messages, "system")) {
        d.system = messages->content;
        d.messages++;
        d.n--;
        first = 1;
    }
    int ret = check(format, &d, first, err);
    if (ret < 0) return ret;
    switch (format) {
    case HT_CHAT_NONE: write_plain(&w, &d); break;
    case HT_CHAT_CHATML: case HT_CHAT_QWEN: write_turns(&w, &chatml, &d); break;
    case HT_CHAT_QWEN3: write_qwen3(&w, &d); break;
    case HT_CHAT_QWEN3_THINKING:
        write_qwen3(&w, &d);
        if (open_answer) put(&w, "<think>\n");
        break;
    case HT_CHAT_LLAMA2: write_llama2(&w, &d); break;
    case HT_CHAT_LLAMA3: write_turns(&w, &llama3, &d); break;
    case HT_CHAT_LLAMA31: write_llama31(&w, &d); break;
    case HT_CHAT_MISTRAL: write_mistral(&w, &mistral_own, &d); break;
    case HT_CHAT_MISTRAL_V01: write_mistral(&w, &mistral_v01, &d); break;
    case HT_CHAT_MISTRAL_V02: write_mistral(&w, &mistral_v02, &d); break;
    case HT_CHAT_MISTRAL_V1: write_mistral(&w, &mistral_v1, &d); break;
    case HT_CHAT_MISTRAL_V3: write_mistral(&w, &mistral_v3, &d); break;
    case HT_CHAT_MISTRAL_TEKKEN: write_mistral(&w, &mistral_tekken, &d); break;
    case HT_CHAT_MISTRAL_V7: write_mistral(&w, &mistral_v7, &d); break;
    case HT_CHAT_PHI4: write_turns(&w, &phi4, &d); break;
    case HT_CHAT_PHI4_MINI: write_turns(&w, &phi4_mini, &d); break;
    case HT_CHAT_PHI3: write_turns(&w, &phi3, &d); break;
    case HT_CHAT_GEMMA: write_gemma(&w, &d); break;
    case HT_CHAT_DEEPSEEK_CODER: write_headings(&w, &deepseek_coder, &d); break;
    case HT_CHAT_STARCODER2: write_headings(&w, &starcoder2, &d); break;
    default: return ht_fail(err, -EINVAL, "chat format %d does not exist", (int)format);
    }
    return w.used;
}
