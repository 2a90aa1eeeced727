/* hearth eval: perplexity of a text, and how far one setting or model is from another, token by token. */
#include "cli/eval.h"
#include "cli/files.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_options {
    cli_engine_options engine;
    cli_input_options input;
    const char *windows, *pass, *dump;
    int32_t window, max_windows;
    uint64_t bytes;
    const char *against, *against_act, *against_isa, *against_k, *against_v, *against_pass;
    bool json;
} eval_options;

#define AT(field) offsetof(eval_options, field)
static const cli_option eval_table[] = {
    {.name = "windows", .kind = CLI_CHOICE, .value = "HOW", .at = AT(windows), .choices = "reference|llama",
     .help = "reference: consecutive windows with BOS in front, every token scored (default); llama: as llama.cpp's "
     "perplexity does, the first half of each window only being context"},
    {.name = "window", .kind = CLI_INT, .value = "N", .at = AT(window), .min = 2, .max = 1 << 20,
     .help = "tokens of a window; default: what fits into -c, or 255 (reference), 512 (llama)"},
    {.name = "max-windows", .kind = CLI_INT, .value = "N", .at = AT(max_windows), .min = 1,
     .max = INT32_MAX, .help = "stop after N windows"},
    {.name = "bytes", .kind = CLI_U64, .value = "N", .at = AT(bytes), .help = "only the first N bytes of the text"},
    {.name = "pass", .kind = CLI_CHOICE, .value = "CLASS", .at = AT(pass), .choices = "prompt|decode",
     .help = "compute the tokens as a prompt, many at once (default), or one by one as generated ones are"},
    {.name = "dump", .kind = CLI_TEXT, .value = "FILE", .at = AT(dump), .flags = CLI_NO_ENV | CLI_FILE_VALUE,
     .help = "write a JSON line for each scored token: its place in the text, id and log-probability, the likeliest "
     "id and its log-probability"},
    {.name = "json", .kind = CLI_FLAG, .at = AT(json), .help = "one JSON object on stdout"},
    {0}};

static const cli_option against_table[] = {
    {.name = "against", .kind = CLI_TEXT, .value = "FILE", .at = AT(against), .flags = CLI_NO_ENV | CLI_FILE_VALUE,
     .help = "compare with this model; default with the options below: the same model"},
    {.name = "against-act", .kind = CLI_CHOICE, .value = "TYPE", .at = AT(against_act), .choices = "q8|f32",
     .flags = CLI_NO_ENV, .help = "compare with these activations"},
    {.name = "against-isa", .kind = CLI_CHOICE, .value = "LEVEL", .at = AT(against_isa),
     .choices = "ref|avx2|avx512", .flags = CLI_NO_ENV, .help = "compare with this level"},
    {.name = "against-cache-type-k", .aliases = "against-ctk", .kind = CLI_CHOICE, .value = "TYPE",
     .at = AT(against_k), .choices = CLI_KV_TYPES, .flags = CLI_NO_ENV, .help = "compare with this type of keys"},
    {.name = "against-cache-type-v", .aliases = "against-ctv", .kind = CLI_CHOICE, .value = "TYPE",
     .at = AT(against_v), .choices = CLI_KV_TYPES, .flags = CLI_NO_ENV, .help = "compare with this type of values"},
    {.name = "against-pass", .kind = CLI_CHOICE, .value = "CLASS", .at = AT(against_pass),
     .choices = "prompt|decode", .flags = CLI_NO_ENV, .help = "compare with tokens computed this way"},
    {0}};
#undef AT

static const cli_group groups[] = {
    {"Text", cli_input_table, offsetof(eval_options, input)},
    {"Measurement", eval_table, 0},
    {"Comparison", against_table, 0},
    {"Engine", cli_engine_table, offsetof(eval_options, engine)},
    {0}};

/* One model under one setting. */
typedef struct side {
    const char *path;
    hearth_engine *engine;
    hearth_session *session;
    hearth_model_info info;
    bool decode;
    cli_mean nll;
} side;

typedef struct eval {
    const eval_options *o;
    side a, b;               /* measured; compared with */
    bool two;
    cli_windows windows;
    FILE *dump;
    /* Of the window in work. */
    const cli_window *window;
    int64_t window_index;
    float *kept;             /* a's logits of a segment, [segment][V] */
    int32_t segment, segment_from;
    /* Comparison: KL(b || a), |difference of logprob|, same top-1; [scored] values. */
    double *kl, *difference;
    int64_t n_compared, n_agree;
    double started;
} eval;

/* ---- scoring -------------------------------------------------------------------------------------------------- */

/* A number for JSON, which has none that are not finite. */
static const char *json_number(double v, char out[32])
{
    if (isfinite(v)) snprintf(out, 32, "%.9g", v);
    return isfinite(v) ? out : "null";
}

static void dump_line(eval *e, int32_t position, int32_t target, const float *logits, const cli_distribution *d)
{
    char a[32], b[32];
    fprintf(e->dump, "{\"window\":%" PRId64 ",\"at\":%" PRId64 ",\"id\":%d,\"logprob\":%s,\"top\":%d,\"top_logprob\":%s}\n",
            e->window_index, e->window->text_at + position, target, json_number((double)logits[target] - d->log_sum, a),
            d->top, json_number((double)logits[d->top] - d->log_sum, b)); /* failures stay in the FILE */
}

static void take_a(void *user, int64_t position, const float *logits)
{
    eval *e = user;
    int32_t vocab = e->a.info.n_vocab;
    if (e->two) memcpy(e->kept + (position - e->segment_from) * vocab, logits, (size_t)vocab * sizeof *logits);
    cli_distribution d = cli_distribution_of(logits, vocab);
    int32_t target = e->window->tokens[position + 1];
    cli_mean_add(&e->a.nll, d.log_sum - (double)logits[target]);
    if (e->dump) dump_line(e, (int32_t)position, target, logits, &d);
}

static void take_b(void *user, int64_t position, const float *logits)
{
    eval *e = user;
    int32_t vocab = e->a.info.n_vocab, target = e->window->tokens[position + 1];
    const float *a_logits = e->kept + (position - e->segment_from) * vocab;
    cli_distribution a = cli_distribution_of(a_logits, vocab), b = cli_distribution_of(logits, vocab);
    double log_a = (double)a_logits[target] - a.log_sum, log_b = (double)logits[target] - b.log_sum;
    cli_mean_add(&e->b.nll, -log_b);
    e->kl[e->n_compared] = cli_kl(logits, &b, a_logits, &a, vocab);
    e->difference[e->n_compared++] = fabs(log_a - log_b);
    e->n_agree += a.top == b.top;
}

/* Logits of positions [from, to) of the window, those before being computed already or now. */
static int score(side *s, const cli_window *w, int32_t from, int32_t to, hearth_logits_sink *sink, eval *e,
                 hearth_error *error)
{
    if (!s->decode) return hearth_session_score(s->session, w->tokens, to, from, sink, e, error);
    int rc = 0;
    for (int32_t p = from == w->first ? 0 : from; p < to && rc >= 0; p++) {
        if (p == 0) {
            rc = hearth_session_truncate(s->session, 0, error);
            if (rc >= 0) rc = hearth_session_sync(s->session, w->tokens, 1, error);
        } else {
            rc = hearth_session_append(s->session, w->tokens[p], error);
        }
        if (rc >= 0 && p >= from) sink(e, p, hearth_session_logits(s->session));
    }
    return rc;
}

/* A window goes through both sides in segments, so that the logits kept stay few. */
static int score_window(eval *e, hearth_error *error)
{
    const cli_window *w = e->window;
    int32_t end = w->n - 1; /* nothing follows the last token */
    int rc = 0;
    for (int32_t from = w->first; from < end && rc >= 0; from += e->segment) {
        int32_t to = end - from < e->segment ? end : from + e->segment;
        e->segment_from = from;
        rc = score(&e->a, w, from, to, take_a, e, error);
        if (rc >= 0 && e->two) rc = score(&e->b, w, from, to, take_b, e, error);
    }
    return rc;
}

static void show_progress(const eval *e, int64_t done)
{
    if (e->o->engine.quiet || !cli_is_terminal(2)) return;
    fprintf(stderr, "\r%" PRId64 "/%" PRId64 " windows, perplexity %.4f ", done, e->windows.n,
            exp(cli_mean_value(&e->a.nll)));
    if (done == e->windows.n) fputs("\r\033[K", stderr);
}

static int score_all(eval *e, hearth_error *error)
{
    enum { KEPT_BYTES = 128 << 20 };
    size_t row = (size_t)e->a.info.n_vocab * sizeof *e->kept;
    e->segment = e->windows.longest;
    if (e->two) {
        if (row * (size_t)e->segment > KEPT_BYTES) e->segment = row > KEPT_BYTES / 16 ? 16 : (int32_t)(KEPT_BYTES / row);
        e->kept = cli_realloc(NULL, (size_t)e->segment, row);
        e->kl = cli_realloc(NULL, (size_t)e->windows.scored, sizeof *e->kl);
        e->difference = cli_realloc(NULL, (size_t)e->windows.scored, sizeof *e->difference);
    }
    e->started = cli_now();
    int rc = 0;
    for (int64_t i = 0; i < e->windows.n && rc >= 0; i++) {
        e->window = &e->windows.window[i];
        e->window_index = i;
        rc = score_window(e, error);
        show_progress(e, i + 1);
    }
    return rc;
}

/* ---- setting up ----------------------------------------------------------------------------------------------- */

/* BOS, if the model begins texts with one: what encoding puts in front of nothing. */
static int32_t find_bos(const hearth_vocab *vocab)
{
    int32_t id[2];
    hearth_error error = {0};
    return hearth_encode(vocab, "", 0, HEARTH_BOS, id, 2, &error) == 1 ? id[0] : -1;
}

/* Token i must mean the same on both sides. -1: the text becomes these ids on the other side, too. */
static int check_other_side(const eval *e, const cli_text *text, size_t bytes, unsigned flags, const int32_t *ids, int64_t n)
{
    int32_t *other;
    int64_t n_other;
    hearth_error error = {0};
    if (cli_encode(hearth_engine_vocab(e->b.engine), text->data, bytes, flags, &other, &n_other, &error) < 0)
        return cli_fail("eval", "%s", error.text);
    bool same = n == n_other && memcmp(ids, other, (size_t)n * sizeof *ids) == 0;
    free(other);
    if (same) return -1;
    return cli_fail("eval", "%s and %s make other tokens of this text: they cannot be compared", e->a.path, e->b.path);
}

static int cut_windows(eval *e, const hearth_vocab *vocab, const cli_text *text, int32_t length, bool llama)
{
    size_t bytes = e->o->bytes && e->o->bytes < text->size ? (size_t)e->o->bytes : text->size;
    int32_t *ids, bos = find_bos(vocab);
    int64_t n;
    hearth_error error = {0};
    unsigned flags = llama ? HEARTH_BOS : 0;
    if (cli_encode(vocab, text->data, bytes, flags, &ids, &n, &error) < 0) return cli_fail("eval", "%s", error.text);
    int code = e->o->against ? check_other_side(e, text, bytes, flags, ids, n) : -1;
    if (code >= 0) {
        free(ids);
        return code;
    }
    if (llama) cli_windows_llama(&e->windows, ids, n, length, bos);
    else cli_windows_reference(&e->windows, ids, n, length, bos);
    free(ids);
    if (e->o->max_windows && e->windows.n > e->o->max_windows) {
        e->windows.n = e->o->max_windows;
        e->windows.scored = 0;
        for (int64_t i = 0; i < e->windows.n; i++)
            e->windows.scored += e->windows.window[i].n - 1 - e->windows.window[i].first;
    }
    if (e->windows.scored == 0)
        return cli_fail("eval", "a text of %" PRId64 " tokens is too short for windows of %d", n, length);
    return -1;
}

static int open_side(side *s, const cli_engine_options *options)
{
    hearth_error error = {0};
    s->path = options->model;
    int code = cli_engine_open("eval", options, &s->engine, &s->info);
    if (code >= 0) return code;
    if (hearth_session_open(&s->session, s->engine, &(hearth_session_options){0}, &error) < 0)
        return cli_fail("eval", "%s", error.text);
    return -1;
}

static void close_side(side *s)
{
    hearth_session_close(&s->session);
    hearth_engine_close(&s->engine);
}

static int open_sides(eval *e, int32_t context)
{
    const eval_options *o = e->o;
    cli_engine_options options = o->engine;
    options.context = context;
    e->a.decode = strcmp(o->pass, "decode") == 0;
    int code = open_side(&e->a, &options);
    e->two = o->against || o->against_act || o->against_isa || o->against_k || o->against_v || o->against_pass;
    if (code >= 0 || !e->two) return code;
    if (o->against) options.model = o->against;
    if (o->against_act) options.act = o->against_act;
    if (o->against_isa) options.isa = o->against_isa;
    if (o->against_k) options.k_type = o->against_k;
    if (o->against_v) options.v_type = o->against_v;
    e->b.decode = o->against_pass ? strcmp(o->against_pass, "decode") == 0 : e->a.decode;
    code = open_side(&e->b, &options);
    if (code < 0 && e->a.info.n_vocab != e->b.info.n_vocab)
        code = cli_fail("eval", "%s has %d tokens in its vocabulary, %s has %d: they cannot be compared", e->a.path,
                        e->a.info.n_vocab, e->b.path, e->b.info.n_vocab);
    return code;
}

/* ---- results -------------------------------------------------------------------------------------------------- */

static double perplexity(const side *s) { return exp(cli_mean_value(&s->nll)); }
static double perplexity_error(const side *s) { return perplexity(s) * cli_mean_error(&s->nll); }

static cJSON *side_json(const side *s)
{
    cJSON *j = cli_model_json(s->path, &s->info);
    cJSON_AddStringToObject(j, "pass", s->decode ? "decode" : "prompt");
    cJSON_AddNumberToObject(j, "perplexity", perplexity(s));
    cJSON_AddNumberToObject(j, "perplexity_error", perplexity_error(s));
    cJSON_AddNumberToObject(j, "mean_nll", cli_mean_value(&s->nll));
    cJSON_AddNumberToObject(j, "mean_nll_error", cli_mean_error(&s->nll));
    return j;
}

/* Sorted values and their mean. */
static cli_mean summarise(double *values, int64_t n)
{
    cli_mean m = {0};
    for (int64_t i = 0; i < n; i++) cli_mean_add(&m, values[i]);
    qsort(values, (size_t)n, sizeof *values, cli_compare_doubles);
    return m;
}

static void print_json(eval *e, int32_t length)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "windows", e->o->windows);
    cJSON_AddNumberToObject(j, "window", length);
    cJSON_AddNumberToObject(j, "n_windows", (double)e->windows.n);
    cJSON_AddNumberToObject(j, "scored_tokens", (double)e->a.nll.n);
    cJSON_AddItemToObject(j, "model", side_json(&e->a));
    if (e->two) {
        int64_t n = e->n_compared;
        cli_mean kl = summarise(e->kl, n), difference = summarise(e->difference, n);
        cJSON_AddItemToObject(j, "against", side_json(&e->b));
        cJSON *c = cJSON_AddObjectToObject(j, "comparison");
        cJSON_AddNumberToObject(c, "kl_mean", cli_mean_value(&kl));
        cJSON_AddNumberToObject(c, "kl_mean_error", cli_mean_error(&kl));
        cJSON_AddNumberToObject(c, "kl_median", cli_quantile(e->kl, n, 0.5));
        cJSON_AddNumberToObject(c, "kl_99", cli_quantile(e->kl, n, 0.99));
        cJSON_AddNumberToObject(c, "kl_max", cli_quantile(e->kl, n, 1));
        cJSON_AddNumberToObject(c, "top1_agreement", (double)e->n_agree / (double)n);
        cJSON_AddNumberToObject(c, "logprob_difference_mean", cli_mean_value(&difference));
        cJSON_AddNumberToObject(c, "logprob_difference_99", cli_quantile(e->difference, n, 0.99));
    }
    cJSON_AddNumberToObject(j, "seconds", cli_now() - e->started);
    cli_print_json(j, true);
}

static void print_text(eval *e, int32_t length)
{
    cli_print("perplexity %.4f +- %.4f   (mean NLL %.5f +- %.5f)\n", perplexity(&e->a), perplexity_error(&e->a),
              cli_mean_value(&e->a.nll), cli_mean_error(&e->a.nll));
    if (e->two) {
        int64_t n = e->n_compared;
        cli_mean kl = summarise(e->kl, n), difference = summarise(e->difference, n);
        cli_print("against    %.4f +- %.4f   (mean NLL %.5f +- %.5f)\n\n", perplexity(&e->b), perplexity_error(&e->b),
                  cli_mean_value(&e->b.nll), cli_mean_error(&e->b.nll));
        cli_print("KL(against || model)    mean %.3g +- %.2g, median %.3g, 99%% %.3g, max %.3g nats\n",
                  cli_mean_value(&kl), cli_mean_error(&kl), cli_quantile(e->kl, n, 0.5), cli_quantile(e->kl, n, 0.99),
                  cli_quantile(e->kl, n, 1));
        cli_print("top-1 agreement         %.2f%%  (%" PRId64 " of %" PRId64 ")\n", 100 * (double)e->n_agree / (double)n,
                  e->n_agree, n);
        cli_print("|logprob difference|    mean %.3g, 99%% %.3g nats\n", cli_mean_value(&difference),
                  cli_quantile(e->difference, n, 0.99));
    }
    cli_flush();
    double seconds = cli_now() - e->started;
    if (!e->o->engine.quiet)
        fprintf(stderr, "%" PRId64 " tokens scored in %" PRId64 " %s windows of %d, %.1f s, %.1f tok/s\n", e->a.nll.n,
                e->windows.n, e->o->windows, length, seconds, seconds > 0 ? (double)e->a.nll.n / seconds : 0);
}

/* ---- the command ---------------------------------------------------------------------------------------------- */

static int evaluate(eval *e, const cli_text *text)
{
    const eval_options *o = e->o;
    bool llama = strcmp(o->windows, "llama") == 0;
    int32_t context = o->engine.context, bos = !llama; /* BOS comes on top, or in place of a token */
    int32_t length = o->window ? o->window : context ? context - bos : llama ? 512 : 255;
    hearth_error error = {0};
    if (length < 2 || (context && context < length + bos))
        return cli_usage("eval", "-c, --ctx-size: %d is too small for windows of %d tokens", context, length < 2 ? 2 : length);
    int code = open_sides(e, length + bos);
    if (code < 0) code = cut_windows(e, hearth_engine_vocab(e->a.engine), text, length, llama);
    if (code >= 0) return code;
    if (o->dump && !(e->dump = fopen(o->dump, "we")))
        return cli_fail("eval", "--dump: %s: %s", o->dump, strerror(errno));
    if (score_all(e, &error) < 0) return cli_fail("eval", "%s", error.text);
    if (e->dump) {
        bool failed = ferror(e->dump);
        failed |= fclose(e->dump) != 0;
        e->dump = NULL;
        if (failed) return cli_fail("eval", "--dump: cannot write %s", o->dump);
    }
    if (o->json) print_json(e, length);
    else print_text(e, length);
    return CLI_OK;
}

/* --dump overwrites: never what is measured. */
static int check_dump(const eval_options *o)
{
    const char *text = o->input.prompt ? NULL : o->input.file ? o->input.file : "-";
    const char *what = cli_is_model_file(o->engine.model, o->dump) ? "a file of the model"
                       : cli_is_model_file(o->against, o->dump)    ? "a file of the model of --against"
                       : cli_is_same_file(text, o->dump)           ? "the text"
                                                                   : NULL;
    return what ? cli_usage("eval", "--dump: %s is %s", o->dump, what) : -1;
}

static int run(int argc, char **argv)
{
    eval_options o = {.engine = CLI_ENGINE_DEFAULTS, .windows = "reference", .pass = "prompt"};
    int code = cli_parse(&cli_command_eval, argc, argv, &o);
    if (code >= 0) return code;
    if (!o.engine.model) return cli_usage("eval", "-m, --model: no model given");
    code = check_dump(&o);
    if (code >= 0) return code;
    eval e = {.o = &o};
    cli_text text = {0};
    code = cli_input_read("eval", &o.input, false, &text);
    if (code == CLI_NO_INPUT) code = cli_usage("eval", "no text: give -f FILE, -p TEXT or stdin");
    if (code < 0) code = evaluate(&e, &text);
    if (e.dump) fclose(e.dump);
    free(e.kept);
    free(e.kl);
    free(e.difference);
    cli_windows_free(&e.windows);
    close_side(&e.a);
    close_side(&e.b);
    cli_text_free(&text);
    return code;
}

const cli_command cli_command_eval = {
    .name = "eval", .usage = "-m MODEL -f TEXT [options]",
    .summary = "perplexity of a text; KL and agreement of two models or settings",
    .description = "The text is fed as it is, and each token scored given those before it in its window. With "
                   "--against and its like both sides see the same tokens: the Kullback-Leibler divergence of the "
                   "model from the other, how often both hold the same token likeliest, and how far the "
                   "log-probabilities of the text's tokens are apart.",
    .groups = groups, .run = run,
};
