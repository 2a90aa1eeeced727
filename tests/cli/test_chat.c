/* The chat on a pseudo-terminal: commands, several turns, Ctrl-C, leaving. The small model has no chat template and
 * talks King James, which is enough to see what the terminal does. */
#include "cli/chat.h"
#include "core/model/chat.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/spawn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char model[TEST_PATH_MAX];

static void find_model(void)
{
    if (!test_data(model, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) model[0] = '\0';
}

#define NEED_MODEL()                                                                                               \
    do {                                                                                                           \
        if (!model[0]) cr_skip_test("no models/kjv-relu-7m/kjv-relu-7m-q4.gguf");                                  \
        if (!terminal_is_there()) cr_skip_test("no pseudo-terminals here (/dev/pts)");                             \
    } while (0)

enum { SECONDS = 60 };
#define EXPECT(t, what) cr_assert(terminal_expect((t), (what), SECONDS), "no '%s' in: %s", (what), (t)->seen)

Test(chat, commands_turns_and_leaving, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-n", "4",
                                                      "--temp", "0", "--ignore-eos", NULL}));
    EXPECT(&t, "> ");
    terminal_type(&t, "/help\n");
    EXPECT(&t, "/clear");
    terminal_type(&t, "/stats\n");
    EXPECT(&t, "0 of 256 tokens of context in use");
    terminal_type(&t, "In the beginning\n");
    EXPECT(&t, "stopped after 4 tokens");
    terminal_type(&t, "Who \\\n");
    EXPECT(&t, ". ");
    terminal_type(&t, "art thou?\n");
    EXPECT(&t, "stopped after 4 tokens");
    terminal_type(&t, "/retry\n");
    EXPECT(&t, "stopped after 4 tokens");
    terminal_type(&t, "/nonsense\n");
    EXPECT(&t, "unknown command /nonsense");
    terminal_type(&t, "/clear\n/retry\n");
    EXPECT(&t, "nothing to answer again");
    terminal_type(&t, "/exit\n");
    EXPECT(&t, "more reused"); /* the second turn began with the first */
    cr_assert_eq(terminal_close(&t), 0);
}

/* /retry draws as the next seed does. */
Test(chat, retry_gives_another_answer, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    spawned with[2];
    for (int i = 0; i < 2; i++) {
        with[i] = test_hearth("x", "run", "-m", model, "--chat-template", "chatml", "-n", "8", "--temp", "1", "--ignore-eos",
                              "-q", "-s", i ? "2" : "1");
        cr_assert_eq(with[i].code, 0, "%s", with[i].err);
        with[i].out[strcspn(with[i].out, "\n")] = '\0';
    }
    cr_assert(with[0].out[0] && strcmp(with[0].out, with[1].out) != 0);
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-n", "8", "--temp", "1",
                                                      "--ignore-eos", "-s", "1", NULL}));
    EXPECT(&t, "> ");
    terminal_type(&t, "x\n");
    EXPECT(&t, with[0].out);
    EXPECT(&t, "> ");
    terminal_type(&t, "/retry\n");
    EXPECT(&t, with[1].out);
    EXPECT(&t, "> ");
    terminal_type(&t, "/exit\n");
    cr_assert_eq(terminal_close(&t), 0);
    for (int i = 0; i < 2; i++) spawned_free(&with[i]);
}

Test(chat, ctrl_c_stops_the_answer_then_leaves, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-c", "65536",
                                                      "--ignore-eos", "-t", "1", NULL}));
    EXPECT(&t, "> ");
    terminal_type(&t, "In the beginning\n");
    EXPECT(&t, "beginning\r\n");
    EXPECT(&t, " "); /* the answer has begun */
    terminal_type(&t, "\x03");
    EXPECT(&t, "> ");
    terminal_type(&t, "\x03");
    cr_assert_eq(terminal_close(&t), 130);
}

Test(chat, end_of_input_leaves, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-q", NULL}));
    EXPECT(&t, "> ");
    terminal_type(&t, "\x04");
    cr_assert_eq(terminal_close(&t), 0);
}

Test(chat, one_turn_and_unknown_template, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "--chat", "--chat-template", "chatml", "-p", "Who art thou?", "-n",
                            "8", "-s", "1", "-q", "--ignore-eos");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(s.out_size > 8, "%s", s.out);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "--chat-template", "klingon", "-p", "nuqneH");
    cr_assert_eq(s.code, 2);
    ht_chat_format format;
    ht_error err = {0};
    cr_assert_eq(ht_chat_by_name("klingon", &format, &err), -EINVAL);
    char *const all = strstr(err.text, "none, "), *const names = strstr(s.err, "none|");
    cr_assert(strstr(s.err, "'klingon'") && all && names, "%s", s.err);
    for (char *at = all; (at = strstr(at, ", "));) *at = '|', memmove(at + 1, at + 2, strlen(at + 1));
    names[strcspn(names, "\n")] = 0;
    cr_assert_str_eq(names, all, "the command knows %s, the library %s", names, all);
    spawned_free(&s);
    char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(path, sizeof path, "%s/message", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fwrite("Who\0art thou?", 1, 13, file);
    fclose(file);
    s = test_hearth(NULL, "run", "-m", model, "--chat-template", "chatml", "-q", "-f", path);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "byte 3"), "%s", s.err);
    spawned_free(&s);
    test_temp_remove(folder);
    s = test_hearth(NULL, "run", "-m", model, "--chat", "-p", "hello");
    cr_assert_eq(s.code, 1, "a model without a template: %s", s.out);
    spawned_free(&s);
}

/* What was cut off with a stop string, be it one byte, is not what the model said: its ids are not gone on from. */
Test(chat, a_stop_string_leaves_the_context, .init = find_model)
{
    if (!model[0]) cr_skip_test("no models/kjv-relu-7m/kjv-relu-7m-q4.gguf");
    hearth_vocab *vocab;
    hearth_error error = {0};
    cr_assert_eq(hearth_vocab_open(&vocab, model, &error), 0, "%s", error.text);
    static const hearth_finish finish[] = {HEARTH_FINISH_LENGTH, HEARTH_FINISH_STOP};
    for (int i = 0; i < 2; i++) {
        cli_chat c = {.vocab = vocab, .format = "chatml"};
        cli_generation g = {.finish = finish[i]};
        int32_t *prompt;
        int64_t n;
        cli_chat_add(&c, "user", "Who art thou?");
        cr_assert_eq(cli_chat_prompt(&c, &prompt, &n, &error), 0, "%s", error.text);
        cr_assert_eq(cli_encode(vocab, "I am he.", 8, 0, &g.ids, &g.n, &error), 0, "%s", error.text);
        cli_text_add(&g.text, "I am he.", i ? 7 : 8);
        cli_chat_answer(&c, prompt, n, &g);
        cr_expect_eq(c.n_ids, i ? 0 : n + g.n, "%lld ids", (long long)c.n_ids);
        cr_expect_str_eq(c.message[1].content, i ? "I am he" : "I am he.");
        free(prompt);
        cli_chat_free(&c);
        cli_generation_free(&g);
    }
    hearth_vocab_close(&vocab);
}

/* One object is one answer, on a terminal too; what a conversation cannot show is refused there. */
Test(chat, json_on_a_terminal_is_one_answer, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-p", "Who art thou?",
                                                      "-n", "4", "--temp", "0", "--ignore-eos", "--json", "-q", NULL}));
    EXPECT(&t, "\"finish_reason\":");
    EXPECT(&t, "}\r\n");
    cr_assert_eq(terminal_close(&t), 0);
    static const char *const once[][2] = {{"--echo", NULL}, {"--logprobs", "2"}};
    for (int i = 0; i < 2; i++) {
        cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "--chat-template", "chatml", "-p", "x",
                                                          once[i][0], once[i][1], NULL}));
        EXPECT(&t, once[i][0]);
        EXPECT(&t, "-st");
        cr_assert_eq(terminal_close(&t), 2);
    }
}

/* The environment's defaults are for all commands: what a conversation cannot have is left out there, with a prompt and
 * without one. */
Test(chat, the_environment_refuses_no_conversation, .init = find_model)
{
    NEED_MODEL();
    static const char *const environment[][5] = {
        {"HEARTH_LOGPROBS=2", "HEARTH_ECHO=1", NULL},
        {"HEARTH_LOGPROBS=2", "HEARTH_ECHO=1", "HEARTH_JSON=1", "HEARTH_SINGLE_TURN=1", NULL}};
    spawned s = test_hearth("In the beginning", "run", "-m", model, "--chat-template", "chatml", "-n", "4", "--temp", "0",
                            "--ignore-eos", "-q");
    cr_assert_eq(s.code, 0, "%s", s.err);
    s.out[strcspn(s.out, "\n")] = '\0';
    cr_assert(s.out[0]);
    for (int i = 0; i < 2; i++) {
        const char *const arguments[] = {"run", "-m", model, "--chat-template", "chatml", "-n", "4", "--temp", "0", "--ignore-eos",
                                         i ? NULL : "-p", "In the beginning", NULL};
        terminal t;
        cr_assert(terminal_open_full(&t, arguments, environment[i]));
        if (i) {
            EXPECT(&t, "> ");
            terminal_type(&t, "In the beginning\n");
            EXPECT(&t, "beginning\r\n");
        }
        EXPECT(&t, s.out);
        EXPECT(&t, "> ");
        terminal_type(&t, "/exit\n");
        cr_assert_eq(terminal_close(&t), 0);
    }
    spawned_free(&s);
}

/* Progress is for terminals: of a prompt in several passes, and of a batch job. */
Test(chat, progress_on_a_terminal, .init = find_model)
{
    NEED_MODEL();
    terminal t;
    cr_assert(terminal_open(&t, (const char *const[]){"run", "-m", model, "-p", "In the beginning God created the heaven", "-ub", "1",
                                                      "-n", "2", "-c", "64", NULL}));
    EXPECT(&t, "prompt: 1 of 8 tokens");
    EXPECT(&t, "\r\033[K");
    EXPECT(&t, "prefill");
    cr_assert_eq(terminal_close(&t), 0);
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", "In the beginning God", "-ub", "1", "-n", "2", "-c", "64");
    cr_assert(s.code == 0 && !strstr(s.err, "prompt: "), "%s", s.err);
    spawned_free(&s);

    char folder[TEST_PATH_MAX], jobs[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(jobs, sizeof jobs, "%s/jobs", folder);
    FILE *file = fopen(jobs, "w");
    for (int i = 0; i < 12; i++) fputs("And it came to pass\n", file);
    fclose(file);
    cr_assert(terminal_open(&t, (const char *const[]){"batch", "-m", model, "-i", jobs, "-o", "/dev/null", "-np", "1", "-t", "1", "-n",
                                                      "60", "-c", "128", "--ignore-eos", NULL}));
    EXPECT(&t, "\r[");
    EXPECT(&t, " of 12 lines, ");
    EXPECT(&t, "\r\033[K");
    EXPECT(&t, "12 of 12; 0 are errors");
    cr_assert_eq(terminal_close(&t), 0);
    test_temp_remove(folder);
}
