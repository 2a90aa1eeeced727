/* hearth run: completes a prompt, or answers in a chat. */
#include "cli/chat.h"
#include "cli/options.h"
#include "cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run_options {
    cli_engine_options engine;
    cli_input_options input;
    cli_sampling_options sampling;
    const char *system, *chat_template;
    bool chat, single_turn, echo, json, roofline;
    bool single_turn_given, echo_given, json_given; /* on the command line */
} run_options;

#define AT(field) offsetof(run_options, field)
static const cli_option chat_table[] = {
    {.name = "chat", .aliases = "cnv", .kind = CLI_FLAG, .at = AT(chat),
     .help = "the prompt is a message of a chat, put into the model's template; with a terminal it goes on from there. "
     "Without this (or -sys, --chat-template), a prompt is completed as plain text, also by an instruct model"},
    {.name = "single-turn", .aliases = "st", .kind = CLI_FLAG, .at = AT(single_turn), .given_at = AT(single_turn_given),
     .help = "with --chat: answer the prompt and end"},
    {.name = "system-prompt", .aliases = "sys", .kind = CLI_TEXT, .value = "TEXT", .at = AT(system),
     .help = "system message of the chat"},
    {.name = "chat-template", .kind = CLI_CHOICE, .value = "NAME", .at = AT(chat_template), .choices = CLI_CHAT_FORMATS,
     .help = "the format of the chat, instead of the model's own"},
    {0}};

static const cli_option output_table[] = {
    {.name = "echo", .kind = CLI_FLAG, .at = AT(echo), .given_at = AT(echo_given),
     .help = "print the prompt before its completion"},
    {.name = "json", .kind = CLI_FLAG, .at = AT(json), .given_at = AT(json_given),
     .help = "print one JSON object at the end: text, reason of the end, tokens with --logprobs, timings"},
    {.name = "roofline", .kind = CLI_FLAG, .at = AT(roofline),
     .help = "measure this machine's memory at the end (a second or two) and show the share of it that was used; not with "
     "--device"},
    {0}};
#undef AT

static const cli_group groups[] = {
    {"Prompt", cli_input_table, offsetof(run_options, input)},
    {"Chat", chat_table, 0},
    {"Sampling", cli_sampling_table, offsetof(run_options, sampling)},
    {"Output", output_table, 0},
    {"Engine", cli_engine_table, offsetof(run_options, engine)},
    {0}};

/* What a run holds while it goes. */
typedef struct runner {
    const run_options *o;
    hearth_engine *engine;
    hearth_session *session;
    hearth_sampler *sampler;
    hearth_model_info info;
    uint64_t seed;
    cli_text prompt;
    cli_prefill prefill;
} runner;

static int show(void *user, const char *bytes, size_t n)
{
    (void)user;
    int rc = cli_write(bytes, n);
    return rc < 0 ? rc : cli_flush();
}

static int show_nothing(void *user, const char *bytes, size_t n)
{
    (void)user, (void)bytes, (void)n;
    return 0;
}

/* ---- results -------------------------------------------------------------------------------------------------- */

static cJSON *token_json(const hearth_vocab *vocab, int32_t id, float logprob)
{
    char buffer[CLI_TOKEN_BYTES];
    size_t n;
    const char *piece = cli_token_bytes(vocab, id, buffer, &n);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "id", id);
    cJSON_AddItemToObject(j, "text", cli_json_string(piece, n));
    if (isfinite(logprob)) cJSON_AddNumberToObject(j, "logprob", logprob);
    else cJSON_AddNullToObject(j, "logprob");
    return j;
}

static void print_json(const runner *r, const cli_generation *g, const cli_timings *timings, int64_t n_prompt)
{
    const hearth_vocab *vocab = hearth_engine_vocab(r->engine);
    cJSON *j = cJSON_CreateObject();
    cJSON_AddItemToObject(j, "model", cli_model_json(r->o->engine.model, &r->info));
    cJSON_AddItemToObject(j, "text", cli_json_string(g->text.data, g->text.size));
    cJSON_AddStringToObject(j, "finish_reason", cli_finish_name(g->finish));
    cJSON_AddNumberToObject(j, "prompt_tokens", (double)n_prompt);
    cJSON_AddNumberToObject(j, "completion_tokens", (double)g->n);
    char seed[32];
    snprintf(seed, sizeof seed, "%" PRIu64, r->seed); /* a double holds 53 bits of it */
    cJSON_AddRawToObject(j, "seed", seed);
    cJSON *tokens = cJSON_AddArrayToObject(j, "tokens");
    for (int64_t i = 0; i < g->n; i++) {
        if (!g->sampled) {
            cJSON_AddItemToArray(tokens, cJSON_CreateNumber(g->ids[i]));
            continue;
        }
        const hearth_sampled *s = &g->sampled[i];
        cJSON *token = token_json(vocab, s->id, s->logprob);
        cJSON *top = cJSON_AddArrayToObject(token, "top");
        for (int k = 0; k < s->n_top; k++)
            cJSON_AddItemToArray(top, token_json(vocab, s->top[k].id, s->top[k].logprob));
        cJSON_AddItemToArray(tokens, token);
    }
    cJSON_AddItemToObject(j, "timings", cli_timings_json(timings));
    cli_print_json(j, true);
}

static void print_logprobs(const runner *r, const cli_generation *g)
{
    const hearth_vocab *vocab = hearth_engine_vocab(r->engine);
    for (int64_t i = 0; i < g->n; i++) {
        const hearth_sampled *s = &g->sampled[i];
        for (int k = -1; k < s->n_top; k++) {
            int32_t id = k < 0 ? s->id : s->top[k].id;
            cli_text piece = {0};
            cli_piece(vocab, id, &piece);
            fprintf(stderr, k < 0 ? "%6d %9.4f  %s\n" : "       %6d %9.4f  %s\n", id,
                    (double)(k < 0 ? s->logprob : s->top[k].logprob), piece.data);
            cli_text_free(&piece);
        }
    }
}

static void finish(runner *r, cli_timings *timings)
{
    *timings = (cli_timings){.info = r->info, .seed = r->seed};
    hearth_engine_stats(r->engine, &timings->stats);
    if (r->o->roofline && !r->info.device) timings->read_bandwidth = hearth_measure_read_bandwidth(r->info.threads, 3);
}

/* ---- the two ways --------------------------------------------------------------------------------------------- */

static cli_generation generation(const runner *r)
{
    return (cli_generation){
        .session = r->session, .sampler = r->sampler, .seed = r->seed, .vocab = hearth_engine_vocab(r->engine),
        .stop = &r->o->sampling.stop, .context = r->info.n_context, .limit = r->o->sampling.n_predict,
        .ignore_eos = r->o->sampling.ignore_eos, .detail = r->o->sampling.logprobs > 0,
        .speculation = cli_speculation(&r->o->sampling),
        .show = r->o->json ? show_nothing : show,
    };
}

/* The prompt as ids: plain text, or the first message of a chat. */
static int encode_prompt(const runner *r, bool chat, int32_t **ids, int64_t *n, hearth_error *error)
{
    const hearth_vocab *vocab = hearth_engine_vocab(r->engine);
    if (!chat) return cli_encode(vocab, r->prompt.data, r->prompt.size, HEARTH_BOS | HEARTH_SPECIAL, ids, n, error);
    cli_chat c = {.vocab = vocab, .format = r->o->chat_template};
    if (r->o->system) cli_chat_add(&c, "system", r->o->system);
    cli_chat_add(&c, "user", r->prompt.data);
    int rc = cli_chat_prompt(&c, ids, n, error);
    cli_chat_free(&c);
    return rc;
}

static int one_shot(runner *r, bool chat)
{
    hearth_error error = {0};
    int32_t *ids = NULL;
    int64_t n = 0;
    int code = CLI_OK;
    cli_timings timings;
    cli_generation g = generation(r);
    g.continues = !chat && r->prompt.size;
    if (chat && strlen(r->prompt.data) < r->prompt.size)
        return cli_fail("run", "byte %zu of the message is zero: a chat takes text", strlen(r->prompt.data));
    int rc = encode_prompt(r, chat, &ids, &n, &error);
    if (rc == 0 && n == 0) {
        code = cli_fail("run", "the prompt is empty, and this model has no token to begin with");
        goto done;
    }
    if (rc == 0) rc = hearth_session_sync(r->session, ids, n, &error);
    cli_prefill_end(&r->prefill);
    if (rc == 0 && r->o->echo && !r->o->json) rc = show(NULL, r->prompt.data, r->prompt.size);
    if (rc == 0) rc = cli_generate(&g, &error);
    if (rc < 0 && !cli_interrupted()) {
        if (cli_flush() == 0) code = cli_fail("run", "%s", error.text); /* else main reports the failed write */
        else code = CLI_FAILED;
        goto done;
    }
    if (cli_interrupted()) code = CLI_INTERRUPTED;
    if (rc < 0) g.finish = HEARTH_FINISH_CANCELED; /* before it could generate */
    finish(r, &timings);
    if (r->o->json) {
        print_json(r, &g, &timings, n);
    } else {
        cli_write("\n", g.text.size || r->o->echo ? 1 : 0);
        cli_flush();
    }
    if (g.finish == HEARTH_FINISH_CONTEXT) cli_note("stopped: the context of %d tokens is full (-c gives more)", g.context);
    if (g.detail && !r->o->json) print_logprobs(r, &g);
    if (!r->o->engine.quiet) cli_report_timings(&timings);
done:
    cli_generation_free(&g);
    free(ids);
    return code;
}

static int chat(runner *r)
{
    cli_timings timings;
    cli_generation g = generation(r);
    cli_chat c = {.vocab = g.vocab, .format = r->o->chat_template};
    if (r->o->system) cli_chat_add(&c, "system", r->o->system);
    int code = cli_chat_loop(&c, &g, r->engine, &r->prefill, r->prompt.size ? r->prompt.data : NULL, r->o->engine.quiet);
    cli_generation_free(&g);
    cli_chat_free(&c);
    finish(r, &timings);
    if (!r->o->engine.quiet) cli_report_timings(&timings);
    return code;
}

/* ---- the command ---------------------------------------------------------------------------------------------- */

/* Has the model a chat template that we know? */
static bool can_chat(const runner *r, hearth_error *error)
{
    char none[1];
    hearth_message hello[] = {{"system", r->o->system}, {"user", "hello"}}, *first = hello + !r->o->system;
    return hearth_chat_render(hearth_engine_vocab(r->engine), r->o->chat_template, first, r->o->system ? 2 : 1, true, none, 0,
                              error) >= 0;
}

static bool wants_chat(const run_options *o) { return o->chat || o->single_turn || o->system || o->chat_template; }

/* A conversation on the terminal; otherwise one answer. */
static bool converses(const run_options *o, bool have_prompt)
{
    return !have_prompt || (wants_chat(o) && !o->single_turn && !o->json && cli_is_terminal(STDIN_FILENO));
}

/* What only one answer can have: refused in a conversation, or left out if it is the environment's. -1: fine. */
static int check_usage(run_options *o, bool have_prompt)
{
    const struct { bool given; const char *flag; } once[] = {
        {o->json_given, "--json"}, {o->single_turn_given, "-st, --single-turn"}, {o->echo_given, "--echo"},
        {o->sampling.logprobs > 0 && o->sampling.logprobs_given, "--logprobs"}};
    if (!converses(o, have_prompt)) return -1;
    for (int i = 0; i < 4; i++) {
        if (!once[i].given) continue;
        if (have_prompt) return cli_usage("run", "%s: not in a conversation (-st: answer the prompt and end)", once[i].flag);
        return cli_usage("run", "%s: needs a prompt (-p, -f or stdin)", once[i].flag);
    }
    o->json = o->single_turn = o->echo = false;
    o->sampling.logprobs = 0;
    return -1;
}

static int open_and_run(runner *r, bool have_prompt)
{
    const run_options *o = r->o;
    hearth_error error = {0};
    int code = cli_engine_open("run", &o->engine, &r->engine, &r->info);
    if (code >= 0) return code;
    if ((wants_chat(o) || !have_prompt) && !can_chat(r, &error)) {
        if (wants_chat(o)) return cli_fail("run", "%s", error.text);
        return cli_usage("run", "no prompt: give -p TEXT, -f FILE or stdin (%s)", error.text);
    }
    code = cli_sampler_open("run", &o->sampling, r->engine, &r->sampler, &r->seed);
    if (code >= 0) return code;
    if (hearth_session_open(&r->session, r->engine, &(hearth_session_options){0}, &error) < 0)
        return cli_fail("run", "%s", error.text);
    cli_interrupt_begin(r->engine);
    cli_prefill_begin(&r->prefill, r->engine, o->engine.quiet);
    code = converses(o, have_prompt) ? chat(r) : one_shot(r, wants_chat(o));
    cli_interrupt_end();
    return code;
}

static int run(int argc, char **argv)
{
    run_options o = {.engine = CLI_ENGINE_DEFAULTS, .sampling = CLI_SAMPLING_DEFAULTS};
    int code = cli_parse(&cli_command_run, argc, argv, &o);
    if (code >= 0) goto done;
    runner r = {.o = &o};
    code = o.engine.model ? cli_input_read("run", &o.input, true, &r.prompt)
                          : cli_usage("run", "-m, --model: no model given");
    bool have_prompt = code != CLI_NO_INPUT;
    if (code < 0) code = check_usage(&o, have_prompt);
    if (code < 0) code = open_and_run(&r, have_prompt);
    hearth_sampler_close(&r.sampler);
    hearth_session_close(&r.session);
    hearth_engine_close(&r.engine);
    cli_text_free(&r.prompt);
done:
    free(o.sampling.logit_bias.item);
    free(o.sampling.stop.item);
    return code;
}

const cli_command cli_command_run = {
    .name = "run", .usage = "-m MODEL [-p TEXT | -f FILE] [options]", .summary = "complete a prompt, or chat",
    .description =
        "With -p, -f or stdin the text is completed: it goes to stdout as it is made, timings go to stderr at the end. "
        "One line end at the end of a file or of stdin is not part of the prompt.\n\n"
        "Without a prompt, on a terminal, it is a chat (for models with a chat template). Ctrl-C stops the answer; "
        "one more ends the program.\n\n"
        "When the context is full the text ends there, with a note; a prompt that does not fit is an error.",
    .groups = groups, .run = run,
};
