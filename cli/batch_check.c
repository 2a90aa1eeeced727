/* hearth batch --check: which lines of a job would be in error. With a model, all that it would say, too: names, prompts
 * that are too long, chat without a template; its weights are not needed for that. */
#include "cli/batch.h"

#include <stdlib.h>
#include <string.h>

static void take_facts(void *user, const char *line)
{
    cJSON **j = user;
    if (!*j) *j = cJSON_Parse(line);
}

/* Tokens the model was trained for; 0: not known. A vocabulary alone has only what its metadata say. */
static double trained_context(const cJSON *facts)
{
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(facts, "model"),
                *metadata = cJSON_GetObjectItemCaseSensitive(facts, "metadata"),
                *context = cJSON_GetObjectItemCaseSensitive(model, "n_context");
    if (!context) {
        const char *architecture = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, "general.architecture"));
        char key[128];
        snprintf(key, sizeof key, "%.100s.context_length", architecture ? architecture : "");
        context = cJSON_GetObjectItemCaseSensitive(metadata, key);
    }
    return cJSON_IsNumber(context) && context->valuedouble >= 1 ? context->valuedouble : 0;
}

/* What the engine would know of the model. */
static int open_model(cli_batch *b, hearth_vocab **vocab, cJSON **facts, hearth_error *error)
{
    const char *path = b->o->engine.model;
    int rc = hearth_vocab_open(vocab, path, error);
    if (rc == 0) rc = hearth_inspect(path, true, take_facts, facts, error);
    if (rc < 0) return rc;
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(*facts, "metadata");
    double trained = trained_context(*facts);
    b->vocab = *vocab;
    b->info.name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata, "general.name"));
    b->info.n_context = b->o->engine.context ? b->o->engine.context : trained && trained < 4096 ? (int32_t)trained : 4096;
    b->rules.n_vocab = hearth_vocab_size(*vocab);
    cli_batch_names(b);
    return 0;
}

/* 1: the line is fine; 0: it is not. */
static int check_line(cli_batch *b, int64_t at, cli_refusal *why, hearth_error *error)
{
    cli_request r;
    int rc = cli_jobs_parse(&b->jobs, b->first + at, &b->rules, &b->line, &r, why, error);
    if (rc > 0 && b->vocab && cli_batch_encode(b, &r, why) < 0) rc = 0;
    cli_request_free(&r);
    return rc;
}

int cli_batch_check(cli_batch *b)
{
    hearth_error error = {0};
    hearth_vocab *vocab = NULL;
    cJSON *facts = NULL;
    int64_t bad = 0;
    int rc = b->o->engine.model ? open_model(b, &vocab, &facts, &error) : 0;
    for (int64_t i = 0; i < b->end && rc >= 0; i++) {
        cli_refusal why;
        rc = check_line(b, i, &why, &error);
        if (rc != 0) continue;
        bad++;
        cli_print("line %u: %s\n", b->jobs.line[b->first + i].number, why.text);
    }
    cJSON_Delete(facts);
    hearth_vocab_close(&vocab);
    b->vocab = NULL;
    if (rc < 0) return cli_fail("batch", "%s", error.text);
    cli_print("%lld of %lld lines are in error\n", (long long)bad, (long long)b->end);
    return bad ? CLI_FAILED : CLI_OK;
}
