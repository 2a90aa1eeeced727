/* Sampling options and the generation loop. */
#include "cli/generate.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- options -------------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(cli_sampling_options, field)
#define NUMBER(long_name, alias, field, least, most, text)                                                         \
    {.name = long_name, .aliases = alias, .kind = CLI_NUMBER, .value = "X", .at = AT(field), .min = least,         \
     .max = most, .help = text}
#define WHOLE(long_name, alias, field, least, most, text)                                                          \
    {.name = long_name, .aliases = alias, .kind = CLI_INT, .value = "N", .at = AT(field), .min = least,            \
     .max = most, .help = text}
const cli_option cli_sampling_table[] = {
    WHOLE("n-predict", "n", n_predict, -1, INT32_MAX,
          "most tokens to generate; -1: till the model ends or the context is full (default)"),
    NUMBER("temp", NULL, temperature, 0, 1000,
           "temperature, default 0.8; 0: always the likeliest token"),
    WHOLE("top-k", NULL, top_k, 0, 1 << 24, "only the N likeliest tokens, default 40; 0: all"),
    NUMBER("top-p", NULL, top_p, 0, 1, "only the likeliest tokens that have X of the probability together, default "
           "0.95; 1: all"),
    NUMBER("min-p", NULL, min_p, 0, 1, "only tokens at least X times as likely as the likeliest, default 0.05"),
    NUMBER("typical", NULL, typical, 0, 1, "locally typical sampling, default 1: off"),
    NUMBER("repeat-penalty", NULL, repeat_penalty, 0, 1000, "penalty for tokens that were there lately, default 1: "
           "off"),
    NUMBER("presence-penalty", NULL, presence_penalty, -1000, 1000, "taken from the logit of tokens that were there"),
    NUMBER("frequency-penalty", NULL, frequency_penalty, -1000, 1000, "the same, for each time they were there"),
    WHOLE("repeat-last-n", NULL, repeat_last_n, -1, INT32_MAX, "tokens the penalties look back, default 64; -1: all"),
    {.name = "logit-bias", .kind = CLI_LIST, .value = "ID=B", .at = AT(logit_bias), .flags = CLI_NO_ENV,
     .help = "add B to the logit of token ID (-inf forbids it); may be given several times"},
    {.name = "seed", .aliases = "s", .kind = CLI_SEED, .value = "N", .at = AT(seed),
     .help = "of the random numbers; the same seed gives the same text. Default: a new one each time, which the "
     "timings show"},
    {.name = "stop", .aliases = "r", .kind = CLI_LIST, .value = "TEXT", .at = AT(stop),
     .flags = CLI_NO_ENV, .help = "end the answer before this text; may be given several times"},
    {.name = "ignore-eos", .kind = CLI_FLAG, .at = AT(ignore_eos), .help = "forbid the tokens that end an answer"},
    {.name = "speculate", .kind = CLI_CHOICE, .value = "WHEN", .at = AT(speculate), .choices = "auto|never|always",
     .help = "guess the next tokens where the text repeats itself, and compute them together; what comes out is the same. "
     "auto: where it makes this run faster (default)"},
    {.name = "logprobs", .kind = CLI_INT, .value = "N", .at = AT(logprobs), .given_at = AT(logprobs_given), .min = 0, .max = 20,
     .help = "log-probability of each token and of the N likeliest at its place"},
    {0}};
#undef AT

/* "ID=B" or "ID:B" into *out; false when it is something else. */
static bool parse_bias(const char *text, int32_t vocab_size, struct hearth_logit_bias *out)
{
    char *end;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    if (end == text || (*end != '=' && *end != ':') || errno || id < 0 || id >= vocab_size) return false;
    const char *number = end + 1;
    double bias = strtod(number, &end);
    if (end == number || *end || isnan(bias)) return false;
    *out = (struct hearth_logit_bias){(int32_t)id, (float)bias};
    return true;
}

int cli_sampler_options(const char *command, const cli_sampling_options *o, const hearth_vocab *vocab,
                        hearth_sampler_options *out)
{
    int32_t size = hearth_vocab_size(vocab), n = 0, n_ends = 0;
    for (int i = 0; i < o->stop.n; i++)
        if (!o->stop.item[i][0]) return cli_usage(command, "-r, --stop: '' is an empty text");
    if (o->ignore_eos)
        for (int32_t id = 0; id < size; id++) n_ends += hearth_vocab_is_end(vocab, id);
    struct hearth_logit_bias *bias = cli_realloc(NULL, (size_t)(o->logit_bias.n + n_ends), sizeof *bias);
    for (int i = 0; i < o->logit_bias.n; i++)
        if (!parse_bias(o->logit_bias.item[i], size, &bias[n++])) {
            free(bias);
            return cli_usage(command, "--logit-bias: '%s' is not ID=B with an id from 0 to %d and a number",
                             o->logit_bias.item[i], size - 1);
        }
    for (int32_t id = 0; id < size && o->ignore_eos; id++)
        if (hearth_vocab_is_end(vocab, id)) bias[n++] = (struct hearth_logit_bias){id, -INFINITY};
    *out = (hearth_sampler_options){
        .logit_bias = bias, .n_logit_bias = n, .repeat_penalty = o->repeat_penalty,
        .frequency_penalty = o->frequency_penalty, .presence_penalty = o->presence_penalty,
        .penalty_last_n = o->repeat_last_n, .top_k = o->top_k, .typical_p = cli_share(o->typical),
        .top_p = cli_share(o->top_p),
        .min_p = o->min_p, .temperature = o->temperature, .seed = o->seed.value, .logprobs = o->logprobs,
    };
    if (o->repeat_last_n == 0) /* hearth.h: 0 is the default there; here it means looking back at nothing */
        out->repeat_penalty = out->frequency_penalty = out->presence_penalty = 0;
    return -1;
}

int cli_sampler_open(const char *command, const cli_sampling_options *o, const hearth_engine *engine,
                     hearth_sampler **out, uint64_t *seed)
{
    hearth_sampler_options options;
    int code = cli_sampler_options(command, o, hearth_engine_vocab(engine), &options);
    if (code >= 0) return code;
    if (!o->seed.given) {
        uint32_t drawn = 1; /* 32 bits: short enough to type again */
        if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) drawn = (uint32_t)(cli_now() * 1e6);
        options.seed = drawn;
    }
    *seed = options.seed;
    hearth_error error = {0};
    if (hearth_sampler_open(out, engine, &options, &error) < 0) code = cli_fail(command, "%s", error.text);
    free((void *)options.logit_bias);
    return code;
}

hearth_speculation cli_speculation(const cli_sampling_options *o)
{
    if (!strcmp(o->speculate, "never")) return HEARTH_SPECULATE_NEVER;
    return !strcmp(o->speculate, "always") ? HEARTH_SPECULATE_ALWAYS : HEARTH_SPECULATE_AUTO;
}

/* ---- the loop ------------------------------------------------------------------------------------------------- */

const char *cli_finish_name(hearth_finish finish)
{
    switch (finish) {
    case HEARTH_FINISH_LENGTH:
    case HEARTH_FINISH_CONTEXT: return "length";
    case HEARTH_FINISH_CANCELED: return "cancelled";
    default: return "stop";
    }
}

/* Takes note of a token and its text. */
static bool take(void *user, const hearth_sampled *token, const char *bytes, size_t n)
{
    cli_generation *g = user;
    if (token->id >= 0) {
        if (g->n == g->room) {
            g->room = 2 * g->room + 256;
            g->ids = cli_realloc(g->ids, (size_t)g->room, sizeof *g->ids);
            if (g->detail) g->sampled = cli_realloc(g->sampled, (size_t)g->room, sizeof *g->sampled);
        }
        if (g->detail) g->sampled[g->n] = *token;
        g->ids[g->n++] = token->id;
    }
    if (n == 0) return true;
    cli_text_add(&g->text, bytes, n);
    g->show_error = g->show(g->user, bytes, n);
    return g->show_error == 0;
}

int cli_generate(cli_generation *g, hearth_error *error)
{
    g->n = 0;
    g->text.size = 0;
    g->show_error = 0;
    cli_text_add(&g->text, "", 0);
    g->finish = HEARTH_FINISH_LENGTH;
    if (g->limit == 0) return 0; /* hearth.h has no such limit: there 0 is none */
    hearth_generate_options options = {
        .text = {.stop = g->stop->item, .n_stop = g->stop->n, .continues = g->continues},
        .max_tokens = g->limit > 0 ? g->limit : 0, .ignore_end = g->ignore_eos, .logprobs = g->detail,
        .speculation = g->speculation, .sink = take,
        .user = g,
    };
    hearth_generated out;
    int rc = hearth_generate(g->session, g->sampler, &options, &out, error);
    g->finish = out.finish;
    if (rc == 0 && out.finish == HEARTH_FINISH_END && g->n) g->n--; /* the end token is no part of the answer */
    return rc < 0 ? rc : g->show_error;
}

void cli_generation_free(cli_generation *g)
{
    free(g->ids);
    free(g->sampled);
    cli_text_free(&g->text);
    g->ids = NULL;
    g->sampled = NULL;
    g->n = g->room = 0;
}
