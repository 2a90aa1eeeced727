/* What the command says when it is used wrongly, and about itself. No model is needed. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/spawn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const commands[] = {"run", "batch", "bench", "eval", "inspect", "synth", "tokenize"};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

Test(usage, overview_lists_every_command)
{
    spawned s = test_hearth(NULL, "--help");
    cr_assert_eq(s.code, 0);
    cr_assert_str_eq(s.err, "");
    for (int i = 0; i < N_COMMANDS; i++) cr_assert(strstr(s.out, commands[i]), "no %s in the overview", commands[i]);
    spawned_free(&s);
}

Test(usage, version_names_itself)
{
    spawned s = test_hearth(NULL, "--version");
    cr_assert_eq(s.code, 0);
    cr_assert(strncmp(s.out, "hearth ", 7) == 0, "%s", s.out);
    spawned_free(&s);
}

Test(usage, help_of_each_command_in_three_ways)
{
    for (int i = 0; i < N_COMMANDS; i++) {
        spawned a = test_hearth(NULL, commands[i], "--help"), b = test_hearth(NULL, "help", commands[i]),
                c = test_hearth(NULL, commands[i], "-h");
        cr_assert_eq(a.code, 0);
        cr_assert(strncmp(a.out, "usage: hearth ", 14) == 0, "%s", a.out);
        cr_assert(strstr(a.out, commands[i]));
        cr_assert_str_eq(a.out, b.out);
        cr_assert_str_eq(a.out, c.out);
        spawned_free(&a);
        spawned_free(&b);
        spawned_free(&c);
    }
}

Test(usage, no_command_and_unknown_command)
{
    spawned s = test_hearth(NULL, NULL);
    cr_assert_eq(s.code, 2);
    spawned_free(&s);
    s = test_hearth(NULL, "bake");
    cr_assert_eq(s.code, 2);
    cr_assert(strstr(s.err, "'bake'"), "%s", s.err);
    for (int i = 0; i < N_COMMANDS; i++) cr_assert(strstr(s.err, commands[i]), "%s is not offered", commands[i]);
    cr_assert_str_eq(s.out, "");
    spawned_free(&s);
}

/* Every wrong argument: exit code 2, nothing on stdout, a text that names the flag and, if there is one, the value. */
Test(usage, wrong_arguments_are_named)
{
    static const struct { const char *argument[12], *names[2]; } wrong[] = {
        {{"run", "--nope"}, {"--nope"}},
        {{"run", "-Z"}, {"-Z"}},
        {{"run", "-m"}, {"--model", "needs a value"}},
        {{"run", "-p", "x"}, {"--model"}},
        {{"run", "-m", "m", "-p", "x", "--temp=abc"}, {"--temp", "'abc'"}},
        {{"run", "--temp", "-1"}, {"--temp", "-1"}},
        {{"run", "--temp", "nan"}, {"--temp", "nan"}},
        {{"run", "--top-p", "1.5"}, {"--top-p", "1.5"}},
        {{"run", "--min-p", "2"}, {"--min-p", "2"}},
        {{"run", "--top-k", "-3"}, {"--top-k", "-3"}},
        {{"run", "--top-k", "3.5"}, {"--top-k", "3.5"}},
        {{"run", "-t", "many"}, {"--threads", "'many'"}},
        {{"run", "-t", "5000"}, {"--threads", "5000"}},
        {{"run", "-t", "-1"}, {"--threads", "-1"}},
        {{"run", "-c", "99999999999999999999"}, {"--ctx-size", "99999999999999999999"}},
        {{"run", "-n", "-2"}, {"--n-predict", "-2"}},
        {{"run", "-n", ""}, {"--n-predict", "''"}},
        {{"run", "-b", "x"}, {"--batch-size", "'x'"}},
        {{"run", "-ub", "x"}, {"--ubatch-size", "'x'"}},
        {{"run", "-s", "-5"}, {"--seed", "'-5'"}},
        {{"run", "-ctk", "q9"}, {"--cache-type-k", "'q9'"}},
        {{"run", "-ctv", "q9"}, {"--cache-type-v", "'q9'"}},
        {{"run", "--act", "int3"}, {"--act", "'int3'"}},
        {{"run", "--isa", "neon"}, {"--isa", "'neon'"}},
        {{"run", "--load", "magic"}, {"--load", "'magic'"}},
        {{"run", "--device", "tpu"}, {"--device", "'tpu'"}},
        {{"run", "--logprobs", "21"}, {"--logprobs", "21"}},
        {{"run", "--ignore-eos=1"}, {"--ignore-eos", "no value"}},
        {{"run", "--repeat-last-n", "-2"}, {"--repeat-last-n", "-2"}},
        {{"run", "-m", "m", "-p", "x", "extra"}, {"'extra'"}},
        {{"run", "-m", "m", "-p", "x", "-fy"}, {"--prompt", "--file"}},
        {{"batch", "-o", "x", "-m", "m"}, {"--input"}},
        {{"batch", "-i", "x", "-m", "m"}, {"--output"}},
        {{"batch", "-i", "x", "-o", "y"}, {"--model"}},
        {{"batch", "-i", "x", "-o", "y", "-m", "m", "--shard=0/4"}, {"--shard", "'0/4'"}},
        {{"batch", "-i", "x", "-o", "y", "-m", "m", "--shard=5/4"}, {"--shard", "'5/4'"}},
        {{"batch", "-i", "x", "-o", "y", "-m", "m", "-np", "0"}, {"--parallel", "0"}},
        {{"batch", "-i", "x", "-o", "y", "-m", "m", "-n", "0"}, {"--n-predict", "0"}},
        {{"batch", "--format", "xml"}, {"--format", "'xml'"}},
        {{"bench"}, {"--model"}},
        {{"bench", "-r", "0"}, {"--repetitions", "0"}},
        {{"bench", "-m", "m", "-p0", "-n0"}, {"-p 0"}},
        {{"bench", "-m", "m", "-c", "100"}, {"--ctx-size", "100"}},
        {{"bench", "--kernels", "--columns", "0"}, {"--columns", "0"}},
        {{"bench", "-m", "m", "-np", "1,257"}, {"--parallel", "257"}},
        {{"bench", "--kernels", "--thread-counts", "1,x"}, {"--thread-counts", "'x'"}},
        {{"bench", "--kernels", "--levels", "avx2,avx512", "--isa", "ref"}, {"--levels", "--isa ref"}},
        {{"bench", "--kernels", "-p", "512", "--columns", "0"}, {"--prompt", "not with --kernels"}},
        {{"bench", "--kernels", "-n", "0", "--columns", "0"}, {"--gen", "not with --kernels"}},
        {{"bench", "--kernels", "-d", "1", "--columns", "0"}, {"--depth", "not with --kernels"}},
        {{"bench", "--kernels", "-np", "1", "--columns", "0"}, {"--parallel", "not with --kernels"}},
        {{"bench", "--kernels", "-m", "m", "--columns", "0"}, {"--model", "not with --kernels"}},
        {{"bench", "--kernels", "-c", "0", "--columns", "0"}, {"--ctx-size", "not with --kernels"}},
        {{"bench", "--kernels", "-b", "1", "--columns", "0"}, {"--batch-size", "not with --kernels"}},
        {{"bench", "--kernels", "-ub", "1", "--columns", "0"}, {"--ubatch-size", "not with --kernels"}},
        {{"bench", "--kernels", "-ctk", "auto", "--columns", "0"}, {"--cache-type-k", "not with --kernels"}},
        {{"bench", "--kernels", "-ctv", "f16", "--columns", "0"}, {"--cache-type-v", "not with --kernels"}},
        {{"bench", "--kernels", "--load", "auto", "--columns", "0"}, {"--load", "not with --kernels"}},
        {{"bench", "--kernels", "--device", "none", "--columns", "0"}, {"--device", "not with --kernels"}},
        {{"bench", "--kernels", "-ngl", "1", "--columns", "0"}, {"--gpu-layers", "not with --kernels"}},
        {{"bench", "--kernels", "--vram", "0", "--columns", "0"}, {"--vram", "not with --kernels"}},
        {{"bench", "--kernels", "-t", "1", "--thread-counts", "1", "--columns", "0"}, {"--threads", "--thread-counts exclude"}},
        {{"bench", "-m", "m", "--types", "q4_0"}, {"--types", "--kernels"}},
        {{"bench", "-m", "m", "--plain"}, {"--plain", "--kernels"}},
        {{"bench", "-m", "m", "--cols", "4096"}, {"--cols", "--kernels"}},
        {{"eval", "-f", "x"}, {"--model"}},
        {{"eval", "-m", "m", "--windows", "doors"}, {"--windows", "'doors'"}},
        {{"eval", "--window", "1"}, {"--window", "1"}},
        {{"eval", "-m", "m", "-p", "x", "-c", "2"}, {"--ctx-size", "2"}},
        {{"eval", "-m", "m", "-p", "x", "-c", "64", "--window", "64"}, {"--ctx-size", "windows of 64"}},
        {{"eval", "--against-act", "q3"}, {"--against-act", "'q3'"}},
        {{"inspect"}, {"FILE"}},
        {{"inspect", "a", "b"}, {"'b'"}},
        {{"inspect", "-m", "a", "b"}, {"'b'"}},
        {{"synth", "--shape", "7b"}, {"--output"}},
        {{"synth", "-o", "x", "--layers", "0"}, {"--layers", "0"}},
        {{"synth", "-o", "x", "--activation", "tanh"}, {"--activation", "'tanh'"}},
        {{"tokenize", "-p", "x"}, {"--model"}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        spawned s = test_hearth_full(wrong[i].argument, NULL, NULL);
        const char *last = wrong[i].argument[1] ? wrong[i].argument[1] : "";
        cr_expect_eq(s.code, 2, "%s %s: exit code %d", wrong[i].argument[0], last, s.code);
        cr_expect_str_eq(s.out, "", "%s %s: %s", wrong[i].argument[0], last, s.out);
        for (int k = 0; k < 2 && wrong[i].names[k]; k++)
            cr_expect(strstr(s.err, wrong[i].names[k]), "no '%s' in: %s", wrong[i].names[k], s.err);
        spawned_free(&s);
    }
}

/* Help says which options the environment does not set: those that have no effect there, and only those. */
Test(usage, help_names_what_the_environment_leaves)
{
    static const char *const stop[] = {"HEARTH_STOP=x", "HEARTH_CHAT_TEMPLATE=klingon", NULL};
    spawned s = test_hearth(NULL, "help", "run"), none = test_hearth(NULL, "help", "inspect");
    char *except = strstr(s.out, "Options (not ");
    cr_assert(except && strstr(except, "--stop") && strstr(except, "--prompt"), "%s", s.out);
    cr_assert(!strstr(except, "--chat-template"), "%s", except);
    cr_assert(strstr(none.out, "Options may also be set"), "%s", none.out);
    spawned_free(&s);
    spawned_free(&none);
    s = test_hearth_full((const char *const[]){"run", "-m", "m", "-p", "x", NULL}, NULL, stop);
    cr_assert_eq(s.code, 2);
    cr_assert(strstr(s.err, "HEARTH_CHAT_TEMPLATE: 'klingon'"), "%s", s.err);
    spawned_free(&s);
}

Test(usage, environment_is_read_and_named)
{
    static const char *const bad[] = {"HEARTH_THREADS=lots", NULL};
    spawned s = test_hearth_full((const char *const[]){"run", "-p", "x", NULL}, NULL, bad);
    cr_assert_eq(s.code, 2);
    cr_assert(strstr(s.err, "HEARTH_THREADS") && strstr(s.err, "'lots'"), "%s", s.err);
    spawned_free(&s);

    /* The model comes from the environment; the command line wins over it. */
    static const char *const model[] = {"HEARTH_MODEL=/nowhere/from-environment.gguf", NULL};
    s = test_hearth_full((const char *const[]){"run", "-p", "x", NULL}, NULL, model);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "from-environment.gguf"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth_full((const char *const[]){"run", "-p", "x", "-m", "/nowhere/given.gguf", NULL}, NULL, model);
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "given.gguf") && !strstr(s.err, "from-environment"), "%s", s.err);
    spawned_free(&s);
}

/* --isa is the highest level that is measured; what the environment says of models does not apply. */
Test(usage, kernels_are_measured_up_to_a_level)
{
    static const char *const models[] = {
        "HEARTH_MODEL=/nowhere/a.gguf", "HEARTH_THREADS=2", "HEARTH_CTX_SIZE=100", "HEARTH_BATCH_SIZE=1",
        "HEARTH_UBATCH_SIZE=1", "HEARTH_CACHE_TYPE_K=f32", "HEARTH_CACHE_TYPE_V=f32", "HEARTH_LOAD=read",
        "HEARTH_DEVICE=none", "HEARTH_GPU_LAYERS=1", "HEARTH_VRAM=1", NULL};
    static const char *const arguments[] = {"bench", "--kernels", "--isa", "ref", "--types", "q4_0", "--columns", "1",
                                            "--thread-counts", "1", "--rows", "16", "--cols", "256", "-r", "1", NULL};
    spawned s = test_hearth_full(arguments, NULL, models);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.err, "");
    cr_assert(strstr(s.out, " ref ") && !strstr(s.out, "avx"), "%s", s.out);
    spawned_free(&s);
}

Test(usage, levels_that_are_named_outdo_the_environment)
{
    static const char *const cap[] = {"HEARTH_ISA=ref", NULL};
    static const char *const arguments[] = {"bench", "--kernels", "--levels", "avx2,avx512", "--types", "q4_0",
                                            "--columns", "1", "--thread-counts", "1", "--rows", "16", "--cols", "256", "-r", "1", NULL};
    spawned s = test_hearth_full(arguments, NULL, cap);
    cr_assert(s.code == 0 && !strstr(s.out, " ref "), "%s", s.err);
    spawned_free(&s);
}

/* Without stderr, the file to be written is not what messages go to. */
Test(usage, closed_streams_are_not_reused)
{
    char path[] = "/tmp/hearth-closed-XXXXXX", command[512], head[8] = "";
    close(mkstemp(path));
    const char *hearth = getenv("HEARTH_CLI");
    if (!hearth) cr_skip_test("HEARTH_CLI is not set");
    snprintf(command, sizeof command, "'%s' help >&- 2>%s", hearth, path);
    cr_assert_eq(system(command), 1 << 8, "what could not be written is a failure");
    snprintf(command, sizeof command, "'%s' inspect '%s' <&- >&- 2>&-", hearth, path);
    cr_assert_eq(system(command), 1 << 8);
    snprintf(command, sizeof command, "'%s' synth -o '%s' --layers 1 <&- >&- 2>&-", hearth, path);
    cr_assert_eq(system(command), 0);
    FILE *f = fopen(path, "r");
    cr_assert_eq(fread(head, 1, 4, f), 4);
    fclose(f);
    cr_assert_str_eq(head, "GGUF");
    remove(path);
}

Test(usage, missing_files_are_named)
{
    static const char *const arguments[][8] = {
        {"run", "-m", "/nowhere/a.gguf", "-p", "x"},   {"bench", "-m", "/nowhere/a.gguf"},
        {"eval", "-m", "/nowhere/a.gguf", "-p", "x"},  {"inspect", "/nowhere/a.gguf"},
        {"tokenize", "-m", "/nowhere/a.gguf", "-p", "x"}, {"synth", "-o", "/nowhere/a.gguf", "--shape", "tiny"},
        {"run", "-m", "m", "-f", "/nowhere/a.gguf"},
    };
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        spawned s = test_hearth_full(arguments[i], NULL, NULL);
        cr_expect_eq(s.code, 1, "%s: exit code %d, %s", arguments[i][0], s.code, s.err);
        cr_expect(strstr(s.err, "/nowhere/a.gguf"), "%s: %s", arguments[i][0], s.err);
        spawned_free(&s);
    }
}

/* The manual page of the repository is what the option tables say. */
Test(usage, manual_page_is_current)
{
    char path[TEST_PATH_MAX];
    snprintf(path, sizeof path, "%s/docs/hearth.1", HEARTH_TEST_SOURCE);
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "%s cannot be opened", path);
    static char kept[1 << 18];
    size_t n = fread(kept, 1, sizeof kept - 1, file);
    fclose(file);
    kept[n] = '\0';
    spawned s = test_hearth(NULL, "help", "--man");
    cr_assert_eq(s.code, 0);
    cr_assert(strcmp(kept, s.out) == 0, "make it anew: hearth help --man > docs/hearth.1");
    spawned_free(&s);
}
