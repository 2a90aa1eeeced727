/* Fuzz target: lines of job files. What is taken must be within its limits; what is refused must say why; and the line
 * of results about it must be one line of JSON either way. */
#include "cli/request.h"
#include "cli/results.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The command's parts refer to the engine, which is not fuzzed here. */
int64_t hearth_decode(const hearth_vocab *vocab, const int32_t *ids, int64_t n, bool special, char *out, int64_t capacity)
{
    (void)vocab, (void)ids, (void)n, (void)special, (void)out, (void)capacity;
    return 0;
}

int64_t hearth_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags, int32_t *ids,
                      int64_t capacity, hearth_error *error)
{
    (void)vocab, (void)text, (void)bytes, (void)flags, (void)ids, (void)capacity, (void)error;
    return 0;
}

static void require(bool holds)
{
    if (!holds) abort();
}

static void check_taken(const cli_request *r)
{
    require(r->n >= 1 && r->n <= CLI_MAX_CHOICES && r->n_stop >= 0 && r->n_stop <= CLI_MAX_STOPS && r->max_tokens >= 0);
    require(r->chat ? r->n_messages > 0 : r->n_prompts > 0);
    for (int i = 0; i < r->n_stop; i++) require(r->stop[i][0] != '\0');
    for (int i = 0; i < r->n_messages; i++) require(r->messages[i].role && r->messages[i].content);
    for (int i = 0; i < r->n_prompts; i++) {
        const cli_prompt *p = &r->prompts[i];
        require(p->ids ? p->n > 0 : p->text != NULL);
        for (int64_t k = 0; k < p->n; k++) require(p->ids[k] >= 0 && p->ids[k] < 32000);
    }
    for (int i = 0; i < r->sampler.n_logit_bias; i++)
        require(r->sampler.logit_bias[i].id >= 0 && r->sampler.logit_bias[i].id < 32000);
    require(isfinite(r->sampler.temperature) && isfinite(r->sampler.top_p) && r->sampler.logprobs >= 0 && r->sampler.logprobs <= 20);
}

static void check_result(const cli_request *r, const cli_refusal *why)
{
    cli_result_names names = {.model = "m", .fingerprint = "fp_0"};
    cli_answer answer = {.text = {.data = (char *)why->text, .size = strlen(why->text)}, .finish = HEARTH_FINISH_LENGTH};
    cli_result result = {.custom_id = r->custom_id, .number = 1, .chat = r->chat, .answers = &answer, .n = 1};
    cli_text line = {0};
    if (why->text[0]) cli_result_refused(&line, &names, &result, why);
    else cli_result_answered(&line, &names, &result);
    require(line.size && strchr(line.data, '\n') == line.data + line.size - 1);
    cJSON *j = cJSON_Parse(line.data);
    require(j != NULL);
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(j, "custom_id");
    require(r->custom_id ? cJSON_IsString(id) && strcmp(id->valuestring, r->custom_id) == 0 : cJSON_IsNull(id));
    cJSON_Delete(j);
    cli_text_free(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const models[] = {"m"};
    /* Not JSON at the first byte: plain prompts of some kind. */
    bool text = size && data[0] != '{';
    cli_request_rules rules = {.text = text, .escape = text && data[0] % 2, .chat = text && data[0] % 3 == 0,
                               .models = models, .n_models = 1, .n_vocab = 32000, .sampler = {.temperature = 0.8f, .top_p = 0.9f}};
    char *line = malloc(size + 1);
    if (size) memcpy(line, data, size);
    line[size] = '\0';
    cli_request r;
    cli_refusal why = {0};
    if (cli_request_parse(&r, &rules, line, size, &why) == 0) check_taken(&r);
    else require(why.text[0] && (why.code[0] || why.status));
    check_result(&r, &why);
    cli_request_free(&r);
    free(line);
    return 0;
}
