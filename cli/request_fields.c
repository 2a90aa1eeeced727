/* What the fields of a request's body mean: a table of names, each with the function that takes its value.
 *
 * Names and meanings are OpenAI's (chat completions and completions), with the samplers that llama.cpp and vLLM add.
 * A field that is not in the table is refused: it may be a slip of the pen for one that is. */
#include "cli/request_fields.h"

#include "cli/generate.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct taker {
    cli_request *r;
    const cli_request_rules *rules;
    cli_refusal *why;
    int32_t best_of, top_logprobs; /* -1: not given */
    const cJSON *limit, *repeat;   /* what was given of fields that have two names */
} taker;

#define INVALID(t, field, ...) cli_refuse((t)->why, 400, NULL, field, __VA_ARGS__)
#define UNSUPPORTED(t, field, ...) cli_refuse((t)->why, 400, "unsupported_parameter", field, __VA_ARGS__)

/* ---- values --------------------------------------------------------------------------------------------------- */

static int take_number(taker *t, const cJSON *v, double least, double most, float *out)
{
    if (!cJSON_IsNumber(v)) return INVALID(t, v->string, "%s is not a number", v->string);
    if (!(v->valuedouble >= least && v->valuedouble <= most))
        return INVALID(t, v->string, "%s is %.9g, outside of %g to %g", v->string, v->valuedouble, least, most);
    *out = (float)v->valuedouble;
    return 0;
}

static int take_whole(taker *t, const cJSON *v, double least, double most, int32_t *out)
{
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
        return INVALID(t, v->string, "%s is not a whole number", v->string);
    if (!(v->valuedouble >= least && v->valuedouble <= most))
        return INVALID(t, v->string, "%s is %.15g, outside of %.0f to %.0f", v->string, v->valuedouble, least, most);
    *out = (int32_t)v->valuedouble;
    return 0;
}

static int take_bool(taker *t, const cJSON *v, bool *out)
{
    if (!cJSON_IsBool(v)) return INVALID(t, v->string, "%s is neither true nor false", v->string);
    *out = cJSON_IsTrue(v);
    return 0;
}

static bool is_text(const cJSON *v, const char *text) { return cJSON_IsString(v) && strcmp(v->valuestring, text) == 0; }

/* ---- the prompt ----------------------------------------------------------------------------------------------- */

static int take_ids(taker *t, const cJSON *v, cli_prompt *out)
{
    out->ids = cli_realloc(NULL, (size_t)cJSON_GetArraySize(v), sizeof *out->ids);
    const cJSON *item;
    double most = t->rules->n_vocab ? t->rules->n_vocab - 1 : INT32_MAX;
    cJSON_ArrayForEach(item, v)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most) ||
            item->valuedouble != floor(item->valuedouble))
            return INVALID(t, "prompt", "item %lld of the prompt is not a token id from 0 to %.0f", (long long)out->n, most);
        out->ids[out->n++] = (int32_t)item->valuedouble;
    }
    return 0;
}

static int take_prompt(taker *t, const cJSON *v)
{
    cli_request *r = t->r;
    const cJSON *first = cJSON_IsArray(v) ? v->child : NULL;
    bool one = cJSON_IsString(v) || cJSON_IsNumber(first);
    int n = one ? 1 : cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 0;
    if (n < 1 || n > CLI_MAX_CHOICES || r->prompts)
        return INVALID(t, "prompt", "prompt is not a text, token ids, or a list of 1 to %d of these", CLI_MAX_CHOICES);
    r->prompts = memset(cli_realloc(NULL, (size_t)n, sizeof *r->prompts), 0, (size_t)n * sizeof *r->prompts);
    for (const cJSON *item = one ? v : first; r->n_prompts < n; item = item->next) {
        cli_prompt *p = &r->prompts[r->n_prompts++];
        if (cJSON_IsString(item)) p->text = item->valuestring;
        else if (!cJSON_IsArray(item) || !item->child) return INVALID(t, "prompt", "prompt %d is neither text nor token ids", r->n_prompts);
        else if (take_ids(t, item, p) < 0) return -1;
    }
    return 0;
}

/* Content in parts becomes one text, in the tree itself. */
static int join_parts(taker *t, cJSON *message, const cJSON *parts, int at)
{
    cli_text text = {0};
    const cJSON *part;
    int rc = 0;
    cli_text_add(&text, "", 0);
    cJSON_ArrayForEach(part, parts)
    {
        const cJSON *bytes = cJSON_GetObjectItemCaseSensitive(part, "text");
        if (!is_text(cJSON_GetObjectItemCaseSensitive(part, "type"), "text") || !cJSON_IsString(bytes)) {
            rc = UNSUPPORTED(t, "messages", "messages[%d]: only parts of type text are understood", at);
            break;
        }
        cli_text_add(&text, bytes->valuestring, strlen(bytes->valuestring));
    }
    if (rc == 0 && !cJSON_ReplaceItemInObjectCaseSensitive(message, "content", cJSON_CreateString(text.data)))
        rc = cli_refuse(t->why, 500, NULL, "messages", "out of memory");
    cli_text_free(&text);
    return rc;
}

static int take_message(taker *t, cJSON *message, int at)
{
    static const char *const silent[] = {"role", "content", "name", "refusal", "annotations"};
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role"), *field,
                *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    if (!cJSON_IsString(role)) return INVALID(t, "messages", "messages[%d] has no role", at);
    const char *name = is_text(role, "developer") ? "system" : role->valuestring;
    if (strcmp(name, "system") && strcmp(name, "user") && strcmp(name, "assistant"))
        return UNSUPPORTED(t, "messages", "messages[%d]: the role '%.40s' is not supported", at, name);
    cJSON_ArrayForEach(field, message)
    {
        bool known = cJSON_IsNull(field);
        for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) known |= strcmp(field->string, silent[i]) == 0;
        if (!known) return UNSUPPORTED(t, "messages", "messages[%d]: '%.40s' is not supported", at, field->string);
    }
    if (cJSON_IsArray(content)) {
        if (join_parts(t, message, content, at) < 0) return -1;
        content = cJSON_GetObjectItemCaseSensitive(message, "content");
    }
    if (!cJSON_IsString(content)) return INVALID(t, "messages", "messages[%d] has no content", at);
    t->r->messages[t->r->n_messages++] = (hearth_message){name, content->valuestring};
    return 0;
}

static int take_messages(taker *t, const cJSON *v)
{
    int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 0;
    if (n < 1 || t->r->messages) return INVALID(t, "messages", "messages is not a list of messages");
    t->r->messages = cli_realloc(NULL, (size_t)n, sizeof *t->r->messages);
    int at = 0;
    for (cJSON *message = v->child; message; message = message->next, at++) {
        if (!cJSON_IsObject(message)) return INVALID(t, "messages", "messages[%d] is not an object", at);
        if (take_message(t, message, at) < 0) return -1;
    }
    return 0;
}

/* ---- what is taken over --------------------------------------------------------------------------------------- */

static int take_model(taker *t, const cJSON *v)
{
    const cli_request_rules *rules = t->rules;
    if (!cJSON_IsString(v)) return INVALID(t, "model", "model is not a text");
    if (!rules->models) return 0;
    for (int i = 0; i < rules->n_models; i++)
        if (strcmp(rules->models[i], v->valuestring) == 0) return 0;
    return cli_refuse(t->why, 404, "model_not_found", "model",
                      "the model '%.100s' is not here: this one is '%.100s' (--alias gives it another name, --any-model takes any)",
                      v->valuestring, rules->n_models ? rules->models[0] : "");
}

/* Of a number that goes by two names: the other one must not say something else. */
static int agree(taker *t, const cJSON **before, const cJSON *v)
{
    const cJSON *other = *before;
    *before = v;
    if (!other || other->valuedouble == v->valuedouble) return 0;
    return INVALID(t, v->string, "%s is %.9g, and %s, which means the same, %.9g", v->string, v->valuedouble, other->string,
                   other->valuedouble);
}

static int take_max_tokens(taker *t, const cJSON *v)
{
    int rc = take_whole(t, v, 1, INT32_MAX, &t->r->max_tokens);
    return rc < 0 ? rc : agree(t, &t->limit, v);
}

static int take_repeat(taker *t, const cJSON *v)
{
    int rc = take_number(t, v, 0, 1000, &t->r->sampler.repeat_penalty);
    return rc < 0 ? rc : agree(t, &t->repeat, v);
}

static int take_temperature(taker *t, const cJSON *v) { return take_number(t, v, 0, 1000, &t->r->sampler.temperature); }
static int take_top_k(taker *t, const cJSON *v) { return take_whole(t, v, 0, 1 << 24, &t->r->sampler.top_k); }
static int take_min_p(taker *t, const cJSON *v) { return take_number(t, v, 0, 1, &t->r->sampler.min_p); }
static int take_frequency(taker *t, const cJSON *v) { return take_number(t, v, -1000, 1000, &t->r->sampler.frequency_penalty); }
static int take_presence(taker *t, const cJSON *v) { return take_number(t, v, -1000, 1000, &t->r->sampler.presence_penalty); }
static int take_n(taker *t, const cJSON *v) { return take_whole(t, v, 1, CLI_MAX_CHOICES, &t->r->n); }
static int take_best_of(taker *t, const cJSON *v) { return take_whole(t, v, 1, CLI_MAX_CHOICES, &t->best_of); }
static int take_ignore_eos(taker *t, const cJSON *v) { return take_bool(t, v, &t->r->ignore_end); }
static int take_top_logprobs(taker *t, const cJSON *v) { return take_whole(t, v, 0, 20, &t->top_logprobs); }

static int take_share(taker *t, const cJSON *v, float *out)
{
    int rc = take_number(t, v, 0, 1, out);
    if (rc == 0) *out = cli_share(*out);
    return rc;
}

static int take_top_p(taker *t, const cJSON *v) { return take_share(t, v, &t->r->sampler.top_p); }
static int take_typical(taker *t, const cJSON *v) { return take_share(t, v, &t->r->sampler.typical_p); }

static int take_seed(taker *t, const cJSON *v)
{
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble) || fabs(v->valuedouble) >= 0x1p63)
        return INVALID(t, "seed", "seed is not a whole number of 64 bits");
    t->r->sampler.seed = (uint64_t)(int64_t)v->valuedouble;
    t->r->seeded = true;
    return 0;
}

static int take_logprobs(taker *t, const cJSON *v)
{
    if (t->r->chat) return take_bool(t, v, &t->r->logprobs);
    t->r->logprobs = true;
    return take_whole(t, v, 0, 20, &t->top_logprobs);
}

static int take_stop(taker *t, const cJSON *v)
{
    int n = cJSON_IsString(v) ? 1 : cJSON_IsArray(v) ? cJSON_GetArraySize(v) : -1;
    if (n < 0 || n > CLI_MAX_STOPS) return INVALID(t, "stop", "stop is not a text or a list of at most %d", CLI_MAX_STOPS);
    t->r->n_stop = 0;
    for (const cJSON *item = cJSON_IsString(v) ? v : v->child; t->r->n_stop < n; item = item->next) {
        if (!cJSON_IsString(item) || !item->valuestring[0]) return INVALID(t, "stop", "stop holds an empty text, or none");
        t->r->stop[t->r->n_stop++] = item->valuestring;
    }
    return 0;
}

static int take_logit_bias(taker *t, const cJSON *v)
{
    cli_request *r = t->r;
    if (!cJSON_IsObject(v)) return INVALID(t, "logit_bias", "logit_bias is not an object");
    r->bias = cli_realloc(r->bias, (size_t)cJSON_GetArraySize(v), sizeof *r->bias);
    r->sampler.logit_bias = r->bias;
    r->sampler.n_logit_bias = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, v)
    {
        char *end;
        errno = 0;
        long id = strtol(item->string, &end, 10);
        if (end == item->string || *end || errno || id < 0 || id >= (t->rules->n_vocab ? t->rules->n_vocab : INT32_MAX))
            return INVALID(t, "logit_bias", "logit_bias: '%.40s' is not a token id of this model", item->string);
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
            return INVALID(t, "logit_bias", "logit_bias: that of %ld is not a number", id);
        r->bias[r->sampler.n_logit_bias++] = (struct hearth_logit_bias){(int32_t)id, (float)item->valuedouble};
    }
    return 0;
}

/* ---- what is there to be refused ------------------------------------------------------------------------------ */

static int pass_over(taker *t, const cJSON *v)
{
    (void)t, (void)v;
    return 0;
}

static int only_false(taker *t, const cJSON *v)
{
    return cJSON_IsFalse(v) ? 0 : UNSUPPORTED(t, v->string, "%s is not supported in batch jobs", v->string);
}

/* An empty list or text, or a word that changes nothing. */
static int only_nothing(taker *t, const cJSON *v)
{
    if ((cJSON_IsArray(v) && !v->child) || is_text(v, "") || is_text(v, "none") || is_text(v, "auto")) return 0;
    return UNSUPPORTED(t, v->string, "%s is not supported", v->string);
}

static int only_text_format(taker *t, const cJSON *v)
{
    if (is_text(cJSON_GetObjectItemCaseSensitive(v, "type"), "text")) return 0;
    return UNSUPPORTED(t, "response_format", "response_format: only {\"type\": \"text\"} is supported");
}

static int only_text_modality(taker *t, const cJSON *v)
{
    if (cJSON_IsArray(v) && cJSON_GetArraySize(v) == 1 && is_text(v->child, "text")) return 0;
    return UNSUPPORTED(t, "modalities", "modalities: only [\"text\"] is supported");
}

/* ---- the table ------------------------------------------------------------------------------------------------ */

enum { CHAT = 1, PLAIN = 2, BOTH = 3 };

static const struct field {
    const char *name;
    int (*take)(taker *t, const cJSON *v);
    int where;
} fields[] = {
    {"model", take_model, BOTH}, {"messages", take_messages, CHAT}, {"prompt", take_prompt, PLAIN},
    {"max_tokens", take_max_tokens, BOTH}, {"max_completion_tokens", take_max_tokens, BOTH},
    {"temperature", take_temperature, BOTH}, {"top_p", take_top_p, BOTH}, {"top_k", take_top_k, BOTH},
    {"min_p", take_min_p, BOTH}, {"typical_p", take_typical, BOTH}, {"repeat_penalty", take_repeat, BOTH},
    {"repetition_penalty", take_repeat, BOTH}, {"frequency_penalty", take_frequency, BOTH},
    {"presence_penalty", take_presence, BOTH}, {"seed", take_seed, BOTH}, {"n", take_n, BOTH},
    {"best_of", take_best_of, PLAIN}, {"stop", take_stop, BOTH}, {"logprobs", take_logprobs, BOTH},
    {"top_logprobs", take_top_logprobs, CHAT}, {"logit_bias", take_logit_bias, BOTH}, {"ignore_eos", take_ignore_eos, BOTH},
    {"stream", only_false, BOTH}, {"echo", only_false, PLAIN}, {"suffix", only_nothing, PLAIN},
    {"tools", only_nothing, CHAT}, {"functions", only_nothing, CHAT}, {"tool_choice", only_nothing, CHAT},
    {"function_call", only_nothing, CHAT}, {"response_format", only_text_format, BOTH},
    {"modalities", only_text_modality, CHAT},
    /* These do not touch the answer. */
    {"user", pass_over, BOTH}, {"metadata", pass_over, BOTH}, {"store", pass_over, BOTH},
    {"service_tier", pass_over, BOTH}, {"stream_options", pass_over, BOTH}, {"parallel_tool_calls", pass_over, CHAT},
    {"prediction", pass_over, CHAT}, {"safety_identifier", pass_over, BOTH}, {"prompt_cache_key", pass_over, BOTH},
    {"prompt_cache_retention", pass_over, BOTH},
};

static const struct field *find(const char *name, bool chat)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if ((fields[i].where & (chat ? CHAT : PLAIN)) && strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

int cli_request_take_body(cli_request *r, const cli_request_rules *rules, const cJSON *body, cli_refusal *why)
{
    taker t = {.r = r, .rules = rules, .why = why, .best_of = -1, .top_logprobs = -1};
    const cJSON *v;
    cJSON_ArrayForEach(v, body)
    {
        const struct field *f = find(v->string, r->chat);
        if (cJSON_IsNull(v)) continue;
        if (!f) return UNSUPPORTED(&t, v->string, "there is no field '%.60s'", v->string);
        if (f->take(&t, v) < 0) return -1;
    }
    if (r->chat && !r->messages) return INVALID(&t, "messages", "there are no messages");
    if (!r->chat && !r->prompts) return INVALID(&t, "prompt", "there is no prompt");
    if (!r->chat && r->n_prompts * r->n > CLI_MAX_CHOICES)
        return INVALID(&t, "n", "%d prompts with %d answers each are more than %d", r->n_prompts, r->n, CLI_MAX_CHOICES);
    if (t.best_of > r->n) return UNSUPPORTED(&t, "best_of", "best_of is not supported");
    if (t.top_logprobs > 0 && !r->logprobs) return INVALID(&t, "top_logprobs", "top_logprobs needs logprobs");
    if (t.top_logprobs >= 0) r->sampler.logprobs = t.top_logprobs;
    return 0;
}
