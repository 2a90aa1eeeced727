/* hearth batch on the small ReLU model: what results say, and that they are the same whatever happens on the way. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/spawn.h"

#include <cjson/cJSON.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { KILLS = 4, LINES = 10 };
#else
enum { KILLS = 30, LINES = 24 };
#endif

static char model[TEST_PATH_MAX], folder[TEST_PATH_MAX], jobs[TEST_PATH_MAX + 32], out[TEST_PATH_MAX + 32],
    whole[TEST_PATH_MAX + 32];

static void set_up(void)
{
    if (!test_data(model, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) model[0] = '\0';
    test_temp_dir(folder);
    snprintf(jobs, sizeof jobs, "%s/jobs.jsonl", folder);
    snprintf(out, sizeof out, "%s/results.jsonl", folder);
    snprintf(whole, sizeof whole, "%s/whole.jsonl", folder);
}

static void tear_down(void) { test_temp_remove(folder); }

#define BATCH_TEST(name) Test(batch, name, .init = set_up, .fini = tear_down)
#define NEED_MODEL()                                                                                               \
    do                                                                                                             \
        if (!model[0]) cr_skip_test("no models/kjv-relu-7m/kjv-relu-7m-q4.gguf");                                  \
    while (0)

#define SMALL "-c", "128", "-np", "4", "-t", "2", "-q"

static char *read_whole(const char *name, size_t *n)
{
    FILE *file = fopen(name, "rb");
    cr_assert(file != NULL, "%s", name);
    struct stat st;
    fstat(fileno(file), &st);
    char *text = malloc((size_t)st.st_size + 1);
    size_t got = fread(text, 1, (size_t)st.st_size, file);
    text[got] = '\0';
    if (n) *n = got;
    fclose(file);
    return text;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(name, "wb");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void expect_same(const char *a, const char *b)
{
    char *x = read_whole(a, NULL), *y = read_whole(b, NULL);
    cr_assert_str_eq(x, y, "%s and %s", a, b);
    free(x);
    free(y);
}

/* Lines of all kinds: lengths, seeds, several answers, log-probabilities, stop strings, and some in error. */
static void make_jobs(int n)
{
    static const char *const prompts[] = {"In the beginning God", "And Moses said", "The LORD is", "And it came to pass, that",
                                          "Blessed are the", "Thou shalt not", "And he said unto them, Go"};
    FILE *file = fopen(jobs, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < n; i++) {
        const char *more = i % 7 == 1 ? ",\"n\":2" : i % 7 == 2 ? ",\"seed\":5" : i % 7 == 3 ? ",\"logprobs\":2"
                           : i % 7 == 4 ? ",\"stop\":[\",\"]" : i % 7 == 5 ? ",\"temperature\":0" : "";
        if (i % 10 == 8) fprintf(file, "{\"custom_id\":\"line %d\" this is not JSON\n", i);
        else
            fprintf(file, "{\"custom_id\":\"line %d\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"%s\","
                    "\"max_tokens\":%d%s}}\n", i % 10 == 6 ? i - 1 : i, prompts[i % 7], 1 + i * 11 % 30, more);
    }
    fclose(file);
}

/* The undisturbed run. */
static void make_whole(int n)
{
    make_jobs(n);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", whole, SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.out, "");
    cr_assert_str_eq(s.err, "");
    spawned_free(&s);
}

static const cJSON *at(const cJSON *j, const char *path)
{
    char part[64];
    while (j && *path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        j = cJSON_IsArray(j) ? cJSON_GetArrayItem(j, atoi(part)) : cJSON_GetObjectItemCaseSensitive(j, part);
        path += n + (path[n] == '.');
    }
    return j;
}

static const char *text_at(const cJSON *j, const char *path)
{
    const char *text = cJSON_GetStringValue(at(j, path));
    return text ? text : "(none)";
}

/* Line i of a text of lines, parsed. */
static cJSON *result(const char *text, int i)
{
    for (; i > 0 && text; i--) text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
    cJSON *j = text ? cJSON_ParseWithOpts(text, NULL, false) : NULL;
    cr_assert(j != NULL);
    return j;
}

static int count_lines(const char *text)
{
    int n = 0;
    for (; (text = strchr(text, '\n')); text++) n++;
    return n;
}

/* ---- what results say ----------------------------------------------------------------------------------------- */

BATCH_TEST(answers_and_errors_in_order)
{
    NEED_MODEL();
    write_text(jobs,
               "{\"custom_id\":\"greedy\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"kjv-relu-7m-q4\","
               "\"prompt\":\"In the beginning God\",\"max_tokens\":8,\"temperature\":0,\"logprobs\":2}}\n"
               "{\"custom_id\":\"model\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"gpt-9\",\"prompt\":\"x\"}}\n"
               "{\"custom_id\":\"greedy\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}\n"
               "{\"custom_id\":\"cut\n"
               "{\"custom_id\":\"stop\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"In the beginning God\",\"temperature\":0,"
               "\"stop\":\"rld, and\"}}\n"
               "{\"custom_id\":\"ids\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[1,2,3],\"max_tokens\":4,\"n\":3}}\n"
               "{\"custom_id\":\"long\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"God God God God God God God God God God "
               "God God God God God God God God God God God God God God God God God God God God God God God God God God God "
               "God God God God God God God God God God God God God God God God God God God God God God God God God God God\"}}\n"
               "{\"custom_id\":\"chat\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[{\"role\":\"user\","
               "\"content\":\"Who?\"}],\"max_tokens\":4,\"logprobs\":true,\"top_logprobs\":1}}\n");
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "-", "-c", "64", "-np", "3", "-q", "--act", "f32",
                            "--chat-template", "chatml");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_eq(count_lines(s.out), 8, "%s", s.out);

    cJSON *j = result(s.out, 0);
    cr_assert_str_eq(text_at(j, "custom_id"), "greedy");
    cr_assert(cJSON_IsNull(at(j, "error")));
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.status_code")), 200);
    cr_assert_str_eq(text_at(j, "response.body.object"), "text_completion");
    cr_assert_str_eq(text_at(j, "response.body.choices.0.text"), " of the world, and in the world");
    cr_assert_str_eq(text_at(j, "response.body.choices.0.finish_reason"), "length");
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.body.usage.prompt_tokens")), 5);
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.body.usage.completion_tokens")), 8);
    cr_assert_eq(cJSON_GetArraySize(at(j, "response.body.choices.0.logprobs.tokens")), 8);
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.body.choices.0.logprobs.text_offset.2")), 7);
    cr_assert_float_eq(cJSON_GetNumberValue(at(j, "response.body.choices.0.logprobs.top_logprobs.0. of")),
                       cJSON_GetNumberValue(at(j, "response.body.choices.0.logprobs.token_logprobs.0")), 1e-9);
    cJSON_Delete(j);

    spawned check = test_hearth(NULL, "batch", "--check", "-m", model, "-i", jobs, "-c", "64", "--chat-template", "chatml");
    cr_assert_eq(check.code, 1);
    cr_assert(strstr(check.out, "line 2: the model 'gpt-9'") && strstr(check.out, "line 3: line 1 has") &&
              strstr(check.out, "line 4: ") && strstr(check.out, "line 7: the prompt has") && strstr(check.out, "4 of 8 lines"), "%s",
              check.out);
    spawned_free(&check);

    static const struct { int line, status; const char *code, *id; } errors[] = {
        {1, 404, "model_not_found", "model"}, {2, 0, "duplicate_custom_id", "greedy"}, {3, 0, "invalid_json", "(none)"},
        {6, 400, "context_length_exceeded", "long"}};
    for (int i = 0; i < 4; i++) {
        j = result(s.out, errors[i].line);
        cr_expect_str_eq(text_at(j, "custom_id"), errors[i].id);
        cr_expect_str_eq(text_at(j, errors[i].status ? "response.body.error.code" : "error.code"), errors[i].code);
        if (errors[i].status) cr_expect_eq(cJSON_GetNumberValue(at(j, "response.status_code")), errors[i].status);
        else cr_expect(cJSON_IsNull(at(j, "response")) && cJSON_GetNumberValue(at(j, "error.line")) == errors[i].line + 1);
        cJSON_Delete(j);
    }
    j = result(s.out, 4);
    cr_assert_str_eq(text_at(j, "response.body.choices.0.text"), " of the wo");
    cr_assert_str_eq(text_at(j, "response.body.choices.0.finish_reason"), "stop");
    cJSON_Delete(j);
    j = result(s.out, 5);
    cr_assert_eq(cJSON_GetArraySize(at(j, "response.body.choices")), 3);
    cr_assert_str_neq(text_at(j, "response.body.choices.0.text"), text_at(j, "response.body.choices.1.text"));
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.body.usage.prompt_tokens")), 3);
    cJSON_Delete(j);
    j = result(s.out, 7);
    cr_assert_str_eq(text_at(j, "response.body.object"), "chat.completion");
    cr_assert_str_eq(text_at(j, "response.body.choices.0.message.role"), "assistant");
    cr_assert(at(j, "response.body.choices.0.logprobs.content.0.top_logprobs.0.bytes") != NULL);
    cJSON_Delete(j);
    spawned_free(&s);
}

/* A text that does not continue a prompt has no blank in front; its last token before a stop string is there all the same. */
BATCH_TEST(log_probabilities_up_to_a_stop_string)
{
    NEED_MODEL();
    spawned s = test_hearth("{\"custom_id\":\"x\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"\",\"temperature\":0,"
                            "\"logprobs\":0,\"max_tokens\":24,\"stop\":\" Go, and\"}}\n",
                            "batch", "-m", model, "-i", "-", "-o", "-", "--act", "f32", "-c", "64", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = result(s.out, 0);
    cr_assert_str_eq(text_at(j, "response.body.choices.0.text"), "And the LORD said unto Moses,");
    cr_assert_eq(cJSON_GetArraySize(at(j, "response.body.choices.0.logprobs.tokens")), 7);
    cr_assert_str_eq(text_at(j, "response.body.choices.0.logprobs.tokens.6"), ",");
    cr_assert_eq(cJSON_GetNumberValue(at(j, "response.body.choices.0.logprobs.text_offset.1")), strlen("And"));
    cJSON_Delete(j);
    spawned_free(&s);
}

/* A name makes no split model: what the engine opens is bound, under any name. */
BATCH_TEST(binds_a_model_that_is_named_like_a_part)
{
    NEED_MODEL();
    static const char *const names[] = {"a-00001-of-00002.gguf", "a-00001-of-00000.gguf"};
    struct stat st;
    cr_assert_eq(stat(model, &st), 0);
    write_text(jobs, "In the beginning\n");
    for (int i = 0; i < 2; i++) {
        char part[TEST_PATH_MAX + 64], journal[TEST_PATH_MAX + 64];
        snprintf(part, sizeof part, "%s/%s", folder, names[i]);
        snprintf(journal, sizeof journal, "%s.journal", out);
        cr_assert_eq(symlink(model, part), 0);
        spawned s = test_hearth(NULL, "batch", "-m", part, "-i", jobs, "-n", "1", "--restart", "-o", out);
        cr_expect_eq(s.code, 0, "%s: %s", names[i], s.err);
        size_t n;
        char *text = read_whole(journal, &n), bound[64];
        snprintf(bound, sizeof bound, "model=%lld bytes", (long long)st.st_size);
        cr_expect(memmem(text, n, bound, strlen(bound)), "%s: the journal has no '%s'", names[i], bound);
        free(text);
        spawned_free(&s);
    }
}

BATCH_TEST(overwrites_nothing_that_it_needs)
{
    NEED_MODEL();
    char summary[TEST_PATH_MAX + 64], journal[TEST_PATH_MAX + 64], fresh[TEST_PATH_MAX + 64], other[TEST_PATH_MAX + 64],
        config[TEST_PATH_MAX + 64], missing[TEST_PATH_MAX + 64];
    snprintf(summary, sizeof summary, "%s/./results.jsonl", folder);
    snprintf(journal, sizeof journal, "%s.journal", out);
    snprintf(fresh, sizeof fresh, "%s/./whole.jsonl.journal.new", folder);
    snprintf(other, sizeof other, "%s/./whole.jsonl", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(missing, sizeof missing, "%s/missing.gguf", folder);
    write_text(jobs, "In the beginning\n");
    write_text(journal, "In the beginning\n");
    write_text(config, "{}");
    write_text(out, "");
    const struct { const char *model, *jobs, *out, *summary, *flag, *what; } wrong[] = {
        {model, jobs, jobs, NULL, "--output", "the job file"},
        {model, journal, out, NULL, "--output", "the job file"},
        {model, jobs, out, jobs, "--summary", "the job file"},
        {model, jobs, model, NULL, "--output", "a file of the model"},
        {folder, jobs, config, NULL, "--output", "a file of the model"},
        {folder, jobs, out, config, "--summary", "a file of the model"},
        {journal, jobs, out, NULL, "--output", "a file of the model"},
        {missing, jobs, missing, NULL, "--output", "a file of the model"},
        {model, jobs, out, summary, "--summary", "the results"},
        {model, jobs, out, journal, "--summary", "the journal"},
        {model, jobs, whole, fresh, "--summary", "the journal"},
        {model, jobs, whole, other, "--summary", "the results"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        spawned s = test_hearth(NULL, "batch", "-m", wrong[i].model, "-i", wrong[i].jobs, "-n", "1", "--restart", "-o",
                                wrong[i].out, wrong[i].summary ? "--summary" : NULL, wrong[i].summary);
        cr_expect_eq(s.code, 2, "%zu: %s", i, s.err);
        cr_expect(strstr(s.err, wrong[i].flag) && strstr(s.err, wrong[i].what), "%zu: %s", i, s.err);
        spawned_free(&s);
    }
    char *text = read_whole(jobs, NULL);
    cr_assert_str_eq(text, "In the beginning\n");
    free(text);
}

BATCH_TEST(a_folder_is_a_model)
{
    char hf[TEST_PATH_MAX], copy[2 * TEST_PATH_MAX], command[4 * TEST_PATH_MAX];
    if (!test_data(hf, "models/arch/llama/config.json")) cr_skip_test("no models/arch/llama");
    *strrchr(hf, '/') = '\0';
    snprintf(copy, sizeof copy, "%s/llama", folder);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", hf, copy);
    cr_assert_eq(system(command), 0);
    write_text(jobs, "a b\n");
    spawned s = test_hearth(NULL, "batch", "-m", copy, "-i", jobs, "-o", out, "-n", "2", "-c", "32", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    snprintf(command, sizeof command, "%s//", copy);
    s = test_hearth(NULL, "batch", "-m", command, "-i", jobs, "-o", out, "-n", "2", "-c", "32", "-q");
    cr_assert_eq(s.code, 0, "slashes at the end make it another model: %s", s.err);
    spawned_free(&s);
    static const char *const changed[] = {"tokenizer.model", "added_tokens.json", "config.json"};
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        snprintf(command, sizeof command, "echo ' ' >> '%s/%s'", copy, changed[i]);
        cr_assert_eq(system(command), 0);
        s = test_hearth(NULL, "batch", "-m", copy, "-i", jobs, "-o", out, "-n", "2", "-c", "32", "-q");
        cr_assert(s.code == 1 && strstr(s.err, "model was"), "%s is of another model, which goes on: %s", changed[i], s.err);
        spawned_free(&s);
        s = test_hearth(NULL, "batch", "-m", copy, "-i", jobs, "-o", out, "-n", "2", "-c", "32", "-q", "--restart");
        cr_assert_eq(s.code, 0, "%s", s.err);
        spawned_free(&s);
    }
}

/* All of them, and what is too long for the context that a folder's config.json gives. */
BATCH_TEST(check_lists_all_lines_in_error)
{
    char hf[TEST_PATH_MAX], ids[512] = "1";
    if (!test_data(hf, "models/arch/llama/config.json")) cr_skip_test("no models/arch/llama");
    *strrchr(hf, '/') = '\0';
    for (int i = 0; i < 64; i++) strcat(ids, ",1");
    FILE *file = fopen(jobs, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < 30; i++) /* the first three of 64 tokens, the others of 65 */
        fprintf(file, "{\"custom_id\":\"%d\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[%s]}}\n", i,
                ids + (i < 3 ? 2 : 0));
    fclose(file);
    spawned s = test_hearth(NULL, "batch", "--check", "-m", hf, "-i", jobs);
    cr_assert_eq(s.code, 1);
    cr_assert_eq(count_lines(s.out), 27 + 1, "%s", s.out);
    cr_assert(strstr(s.out, "line 30: the prompt has 65 tokens, and the context 64") &&
              strstr(s.out, "27 of 30 lines are in error"), "%s", s.out);
    spawned_free(&s);
    s = test_hearth(NULL, "batch", "--check", "-m", hf, "-i", jobs, "-c", "65");
    cr_assert_eq(s.code, 0, "%s", s.out);
    spawned_free(&s);
}

/* Runs the command by a shell; more options and redirections. */
static int shell(const char *redirections)
{
    char command[6 * TEST_PATH_MAX];
    snprintf(command, sizeof command, "'%s' batch -m '%s' -i '%s' -c 128 -np 4 %s", getenv("HEARTH_CLI"), model, jobs,
             redirections);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* A file must not take the number of a closed stderr: the summary would be written into it. */
BATCH_TEST(closed_standard_files)
{
    NEED_MODEL();
    char redirections[3 * TEST_PATH_MAX];
    make_whole(4);
    snprintf(redirections, sizeof redirections, "-o '%s' <&- >&- 2>&-", out);
    cr_assert_eq(shell(redirections), 0);
    expect_same(whole, out);
    cr_assert_eq(shell(redirections), 0, "its journal was written into");
    cr_assert_eq(shell("-o - >&- 2>/dev/null"), 1, "nowhere to write results to");
}

/* Stdout by its other names has no journal, and is not overwritten by a summary. */
BATCH_TEST(stdout_by_another_name)
{
    NEED_MODEL();
    char redirections[3 * TEST_PATH_MAX];
    make_whole(4);
    snprintf(redirections, sizeof redirections, "-q -o /dev/stdout >'%s'", out);
    for (int twice = 0; twice < 2; twice++) {
        cr_assert_eq(shell(redirections), 0);
        expect_same(whole, out);
    }
    cr_assert_neq(access("/dev/stdout.journal", F_OK), 0);
    cr_assert_eq(shell("-q -o - --summary /dev/stdout >/dev/null 2>&1"), 2);
}

BATCH_TEST(plain_prompts_from_stdin)
{
    NEED_MODEL();
    spawned s = test_hearth("In the beginning God\n\nAnd Moses said", "batch", "-m", model, "-i", "-", "-o", "-", "-n", "8",
                            "--temp", "0", "--act", "f32", "-c", "64", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_eq(count_lines(s.out), 2);
    cJSON *j = result(s.out, 0);
    cr_assert_str_eq(text_at(j, "custom_id"), "line-1");
    cr_assert_str_eq(text_at(j, "response.body.choices.0.text"), " of the world, and in the world");
    cJSON_Delete(j);
    j = result(s.out, 1);
    cr_assert_str_eq(text_at(j, "custom_id"), "line-3");
    cJSON_Delete(j);
    spawned_free(&s);
}

/* What would have no effect is refused; --chat-template is for both, and makes plain prompts chats. */
BATCH_TEST(options_of_plain_prompts)
{
    NEED_MODEL();
    static const char line[] = "{\"custom_id\":\"x\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"God\","
                               "\"max_tokens\":2}}\n";
    static const char *const wrong[][2] = {{"--chat", "-q"}, {"--system-prompt", "Be brief."}, {"-e", "-q"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        spawned s = test_hearth(line, "batch", "-m", model, "-i", "-", "-o", "-", "-c", "64", wrong[i][0], wrong[i][1]);
        cr_assert(s.code == 2 && strstr(s.err, "only for plain prompts"), "%s: %d: %s", wrong[i][0], s.code, s.err);
        spawned_free(&s);
    }
    static const struct { const char *prompts, *object; } jobs_of[] = {{line, "text_completion"}, {"God\n", "chat.completion"}};
    for (int i = 0; i < 2; i++) {
        spawned s = test_hearth(jobs_of[i].prompts, "batch", "-m", model, "-i", "-", "-o", "-", "-n", "2", "-c", "64", "-q",
                                "--chat-template", "chatml");
        cr_assert_eq(s.code, 0, "%s", s.err);
        cJSON *j = result(s.out, 0);
        cr_assert_str_eq(text_at(j, "response.body.object"), jobs_of[i].object);
        cJSON_Delete(j);
        spawned_free(&s);
    }
}

/* The job goes on behind a line of 10 MB, and one of 10 MB that is allowed; neither takes memory by the multiple. */
BATCH_TEST(a_line_of_ten_megabytes)
{
    NEED_MODEL();
    FILE *file = fopen(jobs, "wb");
    char block[1 << 16];
    memset(block, 'a', sizeof block);
    for (int i = 0; i < 3; i++) {
        fprintf(file, "{\"custom_id\":\"%d\",\"url\":\"/v1/completions\",\"body\":{\"max_tokens\":2,\"prompt\":\"And", i);
        for (int k = 0; i == 1 && k < 160; k++) fwrite(block, 1, sizeof block, file);
        fputs("\"}}\n", file);
    }
    fclose(file);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "-", SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_eq(count_lines(s.out), 3);
    cJSON *j = result(s.out, 1);
    cr_assert_str_eq(text_at(j, "error.code"), "line_too_long");
    cJSON_Delete(j);
    j = result(s.out, 2);
    cr_assert_str_eq(text_at(j, "custom_id"), "2");
    cr_assert(cJSON_IsNull(at(j, "error")));
    cJSON_Delete(j);
    spawned_free(&s);
    s = test_hearth(NULL, "batch", "--check", "-i", jobs);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.out, "line 2: more than 8388608 bytes"), "%s", s.out);
    spawned_free(&s);
}

BATCH_TEST(summary_counts)
{
    NEED_MODEL();
    char summary[TEST_PATH_MAX + 32];
    snprintf(summary, sizeof summary, "%s/summary.json", folder);
    make_jobs(10);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "--summary", summary, "-c", "128", "-np", "4");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(strstr(s.err, "note: 2 of 10 lines are in error") && strstr(s.err, "10 of 10; 2 are errors"), "%s", s.err);
    char *text = read_whole(summary, NULL);
    cJSON *j = cJSON_Parse(text);
    cr_assert(cJSON_IsTrue(at(j, "complete")));
    cr_assert_eq(cJSON_GetNumberValue(at(j, "lines")), 10);
    cr_assert_eq(cJSON_GetNumberValue(at(j, "errors")), 2);
    cr_assert_gt(cJSON_GetNumberValue(at(j, "generated_tokens")), 50);
    cr_assert_gt(cJSON_GetNumberValue(at(j, "useful_token_share")), 0.5);
    cr_assert_gt(cJSON_GetNumberValue(at(j, "tokens_per_second")), 0);
    cJSON_Delete(j);
    free(text);
    spawned_free(&s);
}

/* On a terminal of 80 columns, too, one sees how long it will take. */
BATCH_TEST(progress_on_a_terminal)
{
    NEED_MODEL();
    if (!terminal_is_there()) cr_skip_test("no pseudo-terminals here (/dev/pts)");
    FILE *file = fopen(jobs, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < 20000; i++) fputs("And Moses said\n", file);
    fclose(file);
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"batch", "-m", model, "-i", jobs, "-o", out, "-n", "8", "-c", "64", NULL}));
    cr_assert(terminal_expect(&t, " of 20000 lines", 60) && terminal_expect(&t, " left, ", 60) &&
              terminal_expect(&t, " tok/s", 60), "%s", t.seen);
    terminal_type(&t, "\x03");
    cr_assert(terminal_expect(&t, "the same command goes on from here", 60), "%s", t.seen);
    cr_assert_eq(terminal_close(&t), 130);
}

/* ---- the same results, however they come about ---------------------------------------------------------------- */

BATCH_TEST(slots_threads_chunks_and_shards_do_not_matter)
{
    NEED_MODEL();
    make_whole(LINES);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "-c", "128", "-np", "1", "-t", "1", "-ub", "8", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    expect_same(whole, out);
    spawned_free(&s);
    char *want = read_whole(whole, NULL), *got = calloc(1, strlen(want) + 1);
    for (int i = 1; i <= 3; i++) {
        char shard[16];
        snprintf(shard, sizeof shard, "%d/3", i);
        s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "-", "--shard", shard, "-c", "128", "-np", "7", "-q");
        cr_assert_eq(s.code, 0, "%s", s.err);
        cr_assert(strlen(got) + s.out_size <= strlen(want));
        strcat(got, s.out);
        spawned_free(&s);
    }
    cr_assert_str_eq(got, want);
    free(want);
    free(got);
}

/* On a device, too, and whatever is guessed. */
BATCH_TEST(slots_chunks_and_guesses_do_not_matter_on_an_emulated_gpu)
{
    char hf[TEST_PATH_MAX];
    if (!test_data(hf, "models/arch/llama/config.json")) cr_skip_test("no models/arch/llama");
    *strrchr(hf, '/') = '\0';
    FILE *file = fopen(jobs, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < 8; i++) {
        fprintf(file, "{\"custom_id\":\"%d\",\"url\":\"/v1/completions\",\"body\":{\"max_tokens\":%d,\"n\":%d,\"logprobs\":1,"
                "\"ignore_eos\":true,\"prompt\":[7", i, 1 + 5 * i % 8, 1 + i % 2);
        for (int k = 0; k < 5 * i; k++) fprintf(file, ",%d", 8 + k % 3); /* much to guess from */
        fputs("]}}\n", file);
    }
    fclose(file);
    static const char *const settings[][6] = {{"-np", "1", "-ub", "16", "--speculate", "never"},
                                              {"-np", "5", "-ub", "7", "--speculate", "never"},
                                              {"-np", "8", "-ub", "64", "--speculate", "always"}};
    char *want = NULL;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const char *const *o = settings[i];
        spawned s = test_hearth(NULL, "batch", "-m", hf, "-i", jobs, "-o", "-", "--device", "emu", "-c", "64", "-q", o[0], o[1],
                                o[2], o[3], o[4], o[5]);
        cr_assert_eq(s.code, 0, "%s", s.err);
        cr_assert_eq(count_lines(s.out), 8);
        cr_assert(!strstr(s.out, "\"status_code\":4"), "%s", s.out);
        if (!want) want = strdup(s.out);
        cr_assert_str_eq(s.out, want, "setting %zu", i);
        spawned_free(&s);
    }
    free(want);
}

BATCH_TEST(a_seed_of_its_own_goes_with_the_line)
{
    NEED_MODEL();
    static const char line[] = "{\"custom_id\":\"%d\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"And God said\","
                               "\"max_tokens\":12%s}}\n";
    static const char *const seeds[] = {"", "", ",\"seed\":3", ",\"seed\":3"};
    FILE *file = fopen(jobs, "wb");
    for (int i = 0; i < 4; i++) fprintf(file, line, i, seeds[i]);
    fclose(file);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "-", SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j[4];
    for (int i = 0; i < 4; i++) j[i] = result(s.out, i);
    cr_assert_str_neq(text_at(j[0], "response.body.choices.0.text"), text_at(j[1], "response.body.choices.0.text"));
    cr_assert_str_eq(text_at(j[2], "response.body.choices.0.text"), text_at(j[3], "response.body.choices.0.text"));
    for (int i = 0; i < 4; i++) cJSON_Delete(j[i]);
    spawned_free(&s);
}

BATCH_TEST(a_limit_is_raised_later)
{
    NEED_MODEL();
    make_whole(LINES);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "--limit", "5", SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    char *text = read_whole(out, NULL);
    cr_assert_eq(count_lines(text), 5);
    free(text);
    static const char *const limits[] = {"0", "5"}; /* all; and fewer than there are already */
    for (int i = 0; i < 2; i++) {
        s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "--limit", limits[i], "--summary", "-", SMALL);
        cr_assert_eq(s.code, 0, "%s", s.err);
        expect_same(whole, out);
        cJSON *j = cJSON_Parse(s.out);
        cr_assert(cJSON_IsTrue(at(j, "complete")), "%s", s.out);
        cr_assert_eq(cJSON_GetNumberValue(at(j, "lines")), LINES);
        cr_assert_eq(cJSON_GetNumberValue(at(j, "done")), LINES);
        cr_assert_eq(cJSON_GetNumberValue(at(j, "done_before")), i ? LINES : 5);
        cJSON_Delete(j);
        spawned_free(&s);
    }
}

static void remove_results(void)
{
    char journal[TEST_PATH_MAX + 64];
    snprintf(journal, sizeof journal, "%s.journal", out);
    unlink(journal);
    unlink(out);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(double seconds)
{
    nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}, NULL);
}

/* kill -9 at random moments, again and again, till the job is done; the output is the undisturbed one's each time. */
BATCH_TEST(killed_at_random)
{
    NEED_MODEL();
    make_whole(LINES);
    const char *const arguments[] = {"batch", "-m", model, "-i", jobs, "-o", out, SMALL, NULL};
    unsigned seed = (unsigned)time(NULL);
    srand(seed);
    double begin = now();
    cr_assert_eq(hearth_wait(hearth_start(arguments, NULL)), 0);
    double whole_run = now() - begin;
    expect_same(whole, out);
    remove_results();
    int kills = 0, completed = 0;
    for (int runs = 0; kills < KILLS && runs < 20 * KILLS; runs++) {
        int pid = hearth_start(arguments, NULL);
        cr_assert_gt(pid, 0);
        rest(whole_run * rand() / RAND_MAX);
        kill(pid, SIGKILL);
        int code = hearth_wait(pid);
        cr_assert(code == 0 || code == 128 + SIGKILL, "exit code %d (seed %u)", code, seed);
        kills += code != 0;
        if (code != 0) continue;
        expect_same(whole, out);
        remove_results();
        completed++;
    }
    cr_assert_eq(hearth_wait(hearth_start(arguments, NULL)), 0);
    expect_same(whole, out);
    cr_log_info("%d kills, %d times completed meanwhile, a run takes %.2f s, seed %u", kills, completed, whole_run, seed);
    cr_assert_eq(kills, KILLS, "only %d kills struck (seed %u)", kills, seed);
}

BATCH_TEST(interrupted_it_stops_in_order_and_goes_on)
{
    NEED_MODEL();
    make_whole(LINES);
    char err[TEST_PATH_MAX + 32];
    snprintf(err, sizeof err, "%s/err", folder);
    static const int signals[] = {SIGINT, SIGTERM};
    const char *const arguments[] = {"batch", "-m", model, "-i", jobs, "-o", out, "-c", "128", "-np", "1", "-t", "1", NULL};
    char journal[TEST_PATH_MAX + 64];
    snprintf(journal, sizeof journal, "%s.journal", out);
    int stopped = 0;
    for (int i = 0; i < 20 && stopped < 2; i++) {
        remove_results();
        int pid = hearth_start(arguments, err);
        struct stat st = {0};
        for (double end = now() + 60; st.st_size == 0 && now() < end; rest(0.002))
            if (stat(journal, &st) < 0) st.st_size = 0;
        rest(0.02 * (i % 4)); /* it has begun to work, or is about to */
        kill(pid, signals[stopped]);
        int code = hearth_wait(pid);
        char *text = read_whole(err, NULL);
        /* Before the loop a signal just ends it: 128 + signal, as the shell counts. */
        cr_assert(code == 130 || code == 128 + signals[stopped] || code == 0, "exit code %d: %s", code, text);
        if (strstr(text, "stopped after")) {
            cr_assert_eq(code, 130);
            stopped++;
        }
        free(text);
        spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, SMALL);
        cr_assert_eq(s.code, 0, "%s", s.err);
        expect_same(whole, out);
        spawned_free(&s);
    }
    cr_assert_eq(stopped, 2, "no signal came while it was at work");
}

/* ---- clear stops ---------------------------------------------------------------------------------------------- */

/* Files that may not grow beyond some size: writes are cut short, then fail. */
BATCH_TEST(a_full_disk_stops_it_and_nothing_is_lost)
{
    NEED_MODEL();
    make_whole(LINES);
    char command[6 * TEST_PATH_MAX];
    int stopped = 0;
    for (int blocks = 1; blocks < 60; blocks += 3) { /* of 512 bytes, or of 1024 */
        snprintf(command, sizeof command,
                 "ulimit -f %d; exec '%s' batch -m '%s' -i '%s' -o '%s' -c 128 -np 4 -q 2>'%s/err'", blocks, getenv("HEARTH_CLI"), model,
                 jobs, out, folder);
        int status = system(command);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %x", status);
        stopped++;
    }
    cr_assert_gt(stopped, 1);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    expect_same(whole, out);
    spawned_free(&s);
    s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "/dev/full", SMALL);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "/dev/full: No space left on device"), "%s", s.err);
    spawned_free(&s);
}

BATCH_TEST(a_changed_job_is_refused)
{
    NEED_MODEL();
    make_jobs(LINES);
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "--limit", "3", SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
    char *before = read_whole(out, NULL);
    static const char *const changed[][3] = {{"--temp", "0.7", "--temp was 0.8"}, {"--seed", "1", "--seed was 0, is 1"},
                                             {"-c", "64", "--ctx-size was 128, is 64"}, {"--act", "f32", "--act was q8"},
                                             {"--shard", "1/2", "--shard was 1/1"}, {"--alias", "x", "model's names was"}};
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, SMALL, changed[i][0], changed[i][1]);
        cr_expect_eq(s.code, 1, "%s: exit code %d", changed[i][0], s.code);
        cr_expect(strstr(s.err, changed[i][2]) && strstr(s.err, "--restart"), "%s", s.err);
        spawned_free(&s);
    }
    FILE *file = fopen(jobs, "r+b");
    fseek(file, 30, SEEK_SET);
    putc('X', file);
    fclose(file);
    s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, SMALL);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "job file was"), "%s", s.err);
    spawned_free(&s);
    char *after = read_whole(out, NULL);
    cr_assert_str_eq(before, after);
    free(before);
    free(after);
    s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out, "--restart", "--limit", "2", SMALL);
    cr_assert_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
}

BATCH_TEST(what_it_cannot_open_it_names)
{
    NEED_MODEL();
    write_text(jobs, "God\n");
    spawned s = test_hearth(NULL, "batch", "-m", model, "-i", "/nowhere/jobs", "-o", out);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "/nowhere/jobs"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", "/nowhere/out");
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "/nowhere/out"), "%s", s.err);
    spawned_free(&s);
    write_text(out, "precious\n");
    s = test_hearth(NULL, "batch", "-m", model, "-i", jobs, "-o", out);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "is there already"), "%s", s.err);
    spawned_free(&s);
}
