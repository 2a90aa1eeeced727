/* Lines of job files as requests: what is taken, what is refused, and why. */
#include "cli/request.h"
#include "cli/results.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"m", "other"};

static cli_request_rules rules(void)
{
    return (cli_request_rules){
        .models = names, .n_models = 2, .n_vocab = 1000, .max_tokens = 77,
        .sampler = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .penalty_last_n = 64, .seed = 9},
    };
}

/* A line of the plain or the chat kind with these fields in its body. */
static char *line_of(const char *kind, const char *fields)
{
    static char line[65536];
    bool chat = strcmp(kind, "chat") == 0;
    snprintf(line, sizeof line, "{\"custom_id\":\"x\",\"method\":\"POST\",\"url\":\"/v1/%s\",\"body\":{%s%s%s}}",
             chat ? "chat/completions" : "completions",
             chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" : "\"prompt\":\"hi\"", fields[0] ? "," : "", fields);
    return line;
}

static int parse(cli_request *r, char *line, cli_refusal *why)
{
    cli_request_rules all = rules();
    *why = (cli_refusal){0};
    return cli_request_parse(r, &all, line, strlen(line), why);
}

/* hearth.h's 0 is off: the smallest share is not. */
Test(request, no_share_is_one_token)
{
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, line_of("plain", "\"top_p\":0,\"typical_p\":0"), &why), 0, "%s", why.text);
    cr_assert(r.sampler.top_p > 0 && r.sampler.top_p < 1e-6f);
    cr_assert(r.sampler.typical_p > 0 && r.sampler.typical_p < 1e-6f);
    cli_request_free(&r);
}

Test(request, all_fields_of_a_completion)
{
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, line_of("plain", "\"model\":\"other\",\"max_tokens\":5,\"temperature\":1.5,\"top_p\":0.5,\"top_k\":3,"
                                            "\"min_p\":0.25,\"seed\":-2,\"n\":3,\"stop\":[\"a\",\"b\"],\"logprobs\":4,"
                                            "\"frequency_penalty\":0.5,\"presence_penalty\":-0.5,\"logit_bias\":{\"7\":-100,"
                                            "\"8\":1.5},\"user\":\"me\",\"echo\":false,\"best_of\":null,\"ignore_eos\":true"), &why),
                 0, "%s", why.text);
    cr_assert_str_eq(r.custom_id, "x");
    cr_assert(!r.chat && r.n_prompts == 1 && r.n == 3 && r.max_tokens == 5 && r.logprobs && r.ignore_end && r.seeded);
    cr_assert_str_eq(r.prompts[0].text, "hi");
    cr_assert_eq(r.sampler.seed, (uint64_t)-2);
    cr_assert_eq(r.sampler.logprobs, 4);
    cr_assert_eq(r.sampler.top_k, 3);
    cr_assert(r.sampler.temperature == 1.5f && r.sampler.top_p == 0.5f && r.sampler.min_p == 0.25f);
    cr_assert(r.sampler.frequency_penalty == 0.5f && r.sampler.presence_penalty == -0.5f);
    cr_assert_eq(r.n_stop, 2);
    cr_assert_str_eq(r.stop[1], "b");
    cr_assert_eq(r.sampler.n_logit_bias, 2);
    cr_assert(r.sampler.logit_bias[0].id == 7 && r.sampler.logit_bias[0].bias == -100);
    cli_request_free(&r);
}

Test(request, two_names_that_say_the_same)
{
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, line_of("plain", "\"max_tokens\":6,\"max_completion_tokens\":6,\"repeat_penalty\":1.5,"
                                            "\"repetition_penalty\":1.5"), &why), 0, "%s", why.text);
    cr_assert(r.max_tokens == 6 && r.sampler.repeat_penalty == 1.5f);
    cli_request_free(&r);
}

Test(request, what_a_line_leaves_out_is_the_commands)
{
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, line_of("chat", ""), &why), 0, "%s", why.text);
    cr_assert(r.chat && r.n_messages == 1 && r.n == 1 && r.max_tokens == 77 && !r.logprobs && !r.seeded && r.n_stop == 0);
    cr_assert(r.sampler.temperature == 0.8f && r.sampler.top_k == 40 && r.sampler.seed == 9);
    cli_request_free(&r);
}

/* --repeat-last-n 0, which no field of a line overrides. */
Test(request, penalties_that_look_back_at_nothing)
{
    cli_request_rules all = rules();
    cli_request r;
    cli_refusal why;
    for (int none = 0; none < 2; none++) {
        char *line = line_of("plain", "\"repeat_penalty\":1.5,\"frequency_penalty\":0.5,\"presence_penalty\":-0.5");
        all.no_penalties = none;
        cr_assert_eq(cli_request_parse(&r, &all, line, strlen(line), &why), 0, "%s", why.text);
        cr_assert_eq(r.sampler.repeat_penalty, none ? 0 : 1.5f);
        cr_assert_eq(r.sampler.frequency_penalty, none ? 0 : 0.5f);
        cr_assert_eq(r.sampler.presence_penalty, none ? 0 : -0.5f);
        cli_request_free(&r);
    }
}

Test(request, messages_in_parts_and_roles)
{
    cli_request r;
    cli_refusal why;
    char line[] = "{\"custom_id\":\"x\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":["
                  "{\"role\":\"developer\",\"content\":\"be brief\"},{\"role\":\"user\",\"name\":\"u\",\"content\":["
                  "{\"type\":\"text\",\"text\":\"one \"},{\"type\":\"text\",\"text\":\"two\"}]},"
                  "{\"role\":\"assistant\",\"content\":\"three\",\"tool_calls\":null}],\"logprobs\":true,\"top_logprobs\":2,"
                  "\"max_completion_tokens\":6,\"response_format\":{\"type\":\"text\"},\"tools\":[]}}";
    cr_assert_eq(parse(&r, line, &why), 0, "%s", why.text);
    cr_assert_eq(r.n_messages, 3);
    cr_assert_str_eq(r.messages[0].role, "system");
    cr_assert_str_eq(r.messages[1].content, "one two");
    cr_assert_str_eq(r.messages[2].role, "assistant");
    cr_assert(r.logprobs && r.sampler.logprobs == 2 && r.max_tokens == 6);
    cli_request_free(&r);
}

Test(request, prompts_of_all_forms)
{
    static const struct { const char *prompt; int n; int64_t n_ids; } forms[] = {
        {"\"text\"", 1, 0}, {"[\"a\",\"b\",\"c\"]", 3, 0}, {"[1,2,3,999]", 1, 4}, {"[[1,2],[3,4]]", 2, 2}, {"[\"a\",[5]]", 2, 0},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char line[256];
        cli_request r;
        cli_refusal why;
        snprintf(line, sizeof line, "{\"custom_id\":\"x\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":%s}}", forms[i].prompt);
        cr_assert_eq(parse(&r, line, &why), 0, "%s: %s", forms[i].prompt, why.text);
        cr_assert_eq(r.n_prompts, forms[i].n, "%s", forms[i].prompt);
        cr_assert_eq(r.prompts[0].n, forms[i].n_ids, "%s", forms[i].prompt);
        cli_request_free(&r);
    }
}

/* status 0: no request at all. The text names what it is about. */
Test(request, refusals)
{
    static const struct { const char *kind, *fields; int status; const char *code, *param; } bad[] = {
        {"chat", "\"model\":\"gpt-9\"", 404, "model_not_found", "model"},
        {"chat", "\"tools\":[{}]", 400, "unsupported_parameter", "tools"},
        {"chat", "\"response_format\":{\"type\":\"json_object\"}", 400, "unsupported_parameter", "response_format"},
        {"chat", "\"reasoning_effort\":\"low\"", 400, "unsupported_parameter", "reasoning_effort"},
        {"chat", "\"max_token\":5", 400, "unsupported_parameter", "max_token"},
        {"chat", "\"prompt\":\"x\"", 400, "unsupported_parameter", "prompt"},
        {"chat", "\"stream\":true", 400, "unsupported_parameter", "stream"},
        {"chat", "\"top_logprobs\":3", 400, "", "top_logprobs"},
        {"chat", "\"logprobs\":true,\"top_logprobs\":21", 400, "", "top_logprobs"},
        {"chat", "\"logprobs\":1", 400, "", "logprobs"},
        {"plain", "\"echo\":true", 400, "unsupported_parameter", "echo"},
        {"plain", "\"best_of\":2", 400, "unsupported_parameter", "best_of"},
        {"plain", "\"messages\":[]", 400, "unsupported_parameter", "messages"},
        {"plain", "\"max_tokens\":0", 400, "", "max_tokens"},
        {"plain", "\"max_tokens\":1.5", 400, "", "max_tokens"},
        {"plain", "\"max_tokens\":1e99", 400, "", "max_tokens"},
        {"plain", "\"max_tokens\":5,\"max_completion_tokens\":6", 400, "", "max_completion_tokens"},
        {"plain", "\"repetition_penalty\":1.2,\"repeat_penalty\":1.1", 400, "", "repeat_penalty"},
        {"plain", "\"temperature\":-1", 400, "", "temperature"},
        {"plain", "\"temperature\":1e999", 400, "", "temperature"},
        {"plain", "\"temperature\":\"hot\"", 400, "", "temperature"},
        {"plain", "\"top_p\":1.01", 400, "", "top_p"},
        {"plain", "\"n\":129", 400, "", "n"},
        {"plain", "\"seed\":1.5", 400, "", "seed"},
        {"plain", "\"seed\":1e30", 400, "", "seed"},
        {"plain", "\"stop\":\"\"", 400, "", "stop"},
        {"plain", "\"stop\":[\"a\",3]", 400, "", "stop"},
        {"plain", "\"stop\":{}", 400, "", "stop"},
        {"plain", "\"logit_bias\":{\"1000\":1}", 400, "", "logit_bias"},
        {"plain", "\"logit_bias\":{\"a\":1}", 400, "", "logit_bias"},
        {"plain", "\"logit_bias\":[[1,2]]", 400, "", "logit_bias"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cli_request r;
        cli_refusal why;
        cr_expect_eq(parse(&r, line_of(bad[i].kind, bad[i].fields), &why), -1, "%s was taken", bad[i].fields);
        cr_expect_eq(why.status, bad[i].status, "%s: %d", bad[i].fields, why.status);
        cr_expect_str_eq(why.code, bad[i].code, "%s: %s", bad[i].fields, why.code);
        cr_expect_str_eq(why.param, bad[i].param, "%s: %s", bad[i].fields, why.param);
        cr_expect(strstr(why.text, bad[i].param), "%s", why.text);
        cr_expect(r.custom_id && strcmp(r.custom_id, "x") == 0);
        cli_request_free(&r);
    }
}

Test(request, lines_that_are_no_requests)
{
    static const struct { const char *line, *code; } bad[] = {
        {"", "invalid_json"}, {"{", "invalid_json"}, {"{} {}", "invalid_json"}, {"[1]", "invalid_json"}, {"null", "invalid_json"},
        {"{\"custom_id\":\"\xff\"}", "invalid_utf8"}, {"{\"custom_id\":\"a\\u0000b\"}", "invalid_text"},
        {"{}", "missing_custom_id"}, {"{\"custom_id\":5}", "invalid_custom_id"}, {"{\"custom_id\":\"\"}", "invalid_custom_id"},
        {"{\"custom_id\":\"a\"}", "invalid_url"}, {"{\"custom_id\":\"a\",\"url\":\"/v1/embeddings\",\"body\":{}}", "invalid_url"},
        {"{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"/v1/completions\"}", "invalid_method"},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\"}", "missing_body"},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":[]}", "missing_body"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[256];
        cli_request r;
        cli_refusal why;
        strcpy(line, bad[i].line);
        cr_expect_eq(parse(&r, line, &why), -1, "%s was taken", bad[i].line);
        cr_expect_eq(why.status, 0, "%s", bad[i].line);
        cr_expect_str_eq(why.code, bad[i].code, "%s: %s", bad[i].line, why.code);
        cr_expect(why.text[0]);
        cli_request_free(&r);
    }
    /* A backslash before the u: no zero character. */
    char fine[] = "{\"custom_id\":\"a\\\\u0000\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"p\"}}";
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, fine, &why), 0, "%s", why.text);
    cr_assert_str_eq(r.custom_id, "a\\u0000");
    cli_request_free(&r);
}

Test(request, a_line_of_millions_of_values_is_refused)
{
    size_t n = 4 << 20;
    char *line = malloc(n + 1);
    memset(line, '[', 1);
    for (size_t i = 1; i + 1 < n; i += 2) memcpy(line + i, "0,", 2);
    line[n] = '\0';
    cli_request r;
    cli_refusal why;
    cr_assert_eq(parse(&r, line, &why), -1);
    cr_assert_str_eq(why.code, "line_too_long");
    cli_request_free(&r);
    free(line);
}

Test(request, plain_lines)
{
    cli_request_rules all = rules();
    cli_request r;
    cli_refusal why;
    char line[] = "say \\n \"this\"", copy[sizeof line];
    all.text = all.escape = true;
    strcpy(copy, line);
    cr_assert_eq(cli_request_parse(&r, &all, copy, strlen(copy), &why), 0);
    cr_assert_str_eq(r.prompts[0].text, "say \n \"this\"");
    cr_assert_null(r.custom_id);
    cli_request_free(&r);
    all.escape = false;
    all.chat = true;
    all.system = "be brief";
    strcpy(copy, line);
    cr_assert_eq(cli_request_parse(&r, &all, copy, strlen(copy), &why), 0);
    cr_assert(r.chat && r.n_messages == 2);
    cr_assert_str_eq(r.messages[1].content, line);
    cli_request_free(&r);
}

Test(request, json_texts)
{
    cli_text out = {0};
    cli_json_text(&out, "a\"\\\n\x01\xff\xc3\xa4", 8);
    cr_assert_str_eq(out.data, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa4\"");
    cli_text_free(&out);
}
