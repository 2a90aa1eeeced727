/* hearth run on the small ReLU model: text, seeds, stop strings, ends, bad files. */
#include "tests/support/data.h"
#include "tests/support/harness.h"
#include "tests/support/spawn.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char model[TEST_PATH_MAX];

static void find_model(void)
{
    if (!test_data(model, "models/kjv-relu-7m/kjv-relu-7m-q4.gguf")) model[0] = '\0';
}

#define NEED_MODEL()                                                                                               \
    do                                                                                                             \
        if (!model[0]) cr_skip_test("no models/kjv-relu-7m/kjv-relu-7m-q4.gguf");                                  \
    while (0)

#define GREEDY "--temp", "0", "--act", "f32"

/* The continuation that reference-q4.json gives. */
static const char prompt[] = "In the beginning God";
static const char greedy[] = " of the world, and in the world, and in the world, and in the world, and in the world, and "
                             "in the world, and in the";

Test(run, greedy_text_is_the_reference, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "32", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(strncmp(s.out, greedy, sizeof greedy - 1) == 0 && s.out_size == sizeof greedy, "%s", s.out);
    cr_assert(strstr(s.err, "prefill") && strstr(s.err, "decode") && strstr(s.err, "load"), "no timings: %s", s.err);
    spawned_free(&s);
}

Test(run, an_emulated_gpu_gives_the_text_of_the_cpu, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "6", "-c", "64", "-ub", "16", "-q", "--device", "emu",
                            "--vram", "8", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(s.out_size > 10 && strncmp(s.out, greedy, s.out_size - 1) == 0, "%s", s.out);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "6", "-c", "64", "--device", "emu", "--vram", "3");
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "does not fit") && strstr(s.err, "3.0 MiB"), "%s", s.err);
    spawned_free(&s);
}

/* Q16 is the CPU's alone: said for K and for V, whatever part the GPU computes; what is chosen by itself it can read. */
Test(run, a_gpu_says_which_kv_type_it_cannot_read, .init = find_model)
{
    NEED_MODEL();
    static const char *const options[][2] = {{"-ctk", "q16"}, {"-ctv", "q16"}};
    for (int i = 0; i < 4; i++) {
        spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "--device", "emu", "-ngl",
                                i / 2 ? "1" : "100", options[i % 2][0], options[i % 2][1]);
        cr_expect_eq(s.code, 1);
        cr_expect(strstr(s.err, "the KV cache of a GPU cannot be of type Q16"), "%s", s.err);
        spawned_free(&s);
    }
}

Test(run, layers_are_shared_by_the_cpu_and_a_gpu, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "6", "-c", "64", "--device", "emu", "-ngl", "2",
                            "--vram", "4", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(s.out_size > 10 && strncmp(s.out, greedy, s.out_size - 1) == 0, "%s", s.out);
    cr_assert(strstr(s.err, "2 of 6 layers on emulated GPU"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "--device", "emu", "--n-gpu-layers", "1",
                    "--vram", "4", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(strstr(s.err, "1 of 6 layers on emulated GPU"), "%s", s.err);
    spawned_free(&s);
}

/* -ngl alone means a real GPU: never quietly the CPU. */
Test(run, layers_for_a_gpu_ask_for_one, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "-ngl", "2", GREEDY);
    if (s.code == 0) cr_expect(strstr(s.err, "2 of 6 layers on "), "%s", s.err);
    else cr_expect(s.code == 1 && strstr(s.err, "CUDA"), "exit code %d, %s", s.code, s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "-ngl", "2", "--device", "none", GREEDY);
    cr_expect_eq(s.code, 1);
    cr_expect(strstr(s.err, "2 layers are to be computed on a GPU, but the device is none"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "--vram", "64", GREEDY);
    cr_expect_eq(s.code, 1);
    cr_expect(strstr(s.err, "64 MiB of device memory (vram) may be used, but the device is none"), "%s", s.err);
    spawned_free(&s);
    /* When it is the environment that wants none, the error says so, and the command line can want another. */
    static const char *const none[] = {"HEARTH_DEVICE=none", NULL};
    const char *const layers[] = {"run", "-m", model, "-p", prompt, "-ngl", "2", NULL},
               *const vram[] = {"run", "-m", model, "-p", prompt, "--vram", "64", NULL},
               *const emu[] = {"run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "-ngl", "2", "--device", "emu", NULL};
    s = test_hearth_full(layers, NULL, none);
    cr_expect_eq(s.code, 1);
    cr_expect(strstr(s.err, "-ngl") && strstr(s.err, "HEARTH_DEVICE is none"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth_full(vram, NULL, none);
    cr_expect_eq(s.code, 1);
    cr_expect(strstr(s.err, "--vram") && strstr(s.err, "HEARTH_DEVICE is none"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth_full(emu, NULL, none);
    cr_expect_eq(s.code, 0, "%s", s.err);
    cr_expect(strstr(s.err, "2 of 6 layers on emulated GPU"), "%s", s.err);
    spawned_free(&s);
    /* The environment says it to those who compute on a device. */
    static const char *const environment[] = {"HEARTH_VRAM=64", "HEARTH_GPU_LAYERS=2", NULL};
    const char *const arguments[] = {"run", "-m", model, "-p", prompt, "-n", "2", "-c", "64", "--device", "none", GREEDY, NULL};
    s = test_hearth_full(arguments, NULL, environment);
    cr_expect_eq(s.code, 0, "%s", s.err);
    spawned_free(&s);
}

Test(run, quantised_kv_still_speaks, .init = find_model)
{
    NEED_MODEL();
    static const char *const types[] = {"q16", "q8_0", "q4_0"};
    for (int i = 0; i < 3; i++) {
        spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "4", "-q", "-ctk", types[i], "-ctv", types[i], GREEDY);
        cr_assert_eq(s.code, 0, "%s", s.err);
        cr_assert(strncmp(s.out, " of the ", 8) == 0, "%s: %s", types[i], s.out);
        spawned_free(&s);
    }
}

/* The fingerprint of all logits after a prompt of three tiles. */
static void logits_of(char out[32], const char *const types[2], const char *threads, const char *chunk, const char *guess)
{
    char text[700] = "";
    while (strlen(text) < 600) strcat(text, "In the beginning God created the heaven and the earth. ");
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", text, "-n", "12", "--temp", "0", "-ctk", types[0], "-ctv", types[1],
                            "-t", threads, "-ub", chunk, "--speculate", guess);
    cr_assert_eq(s.code, 0, "%s", s.err);
    const char *at = strstr(s.err, "logits ");
    cr_assert(at != NULL && strlen(at) > 23, "%s", s.err);
    snprintf(out, 32, "%.23s", at);
    spawned_free(&s);
}

Test(run, q16_has_the_same_bits_for_all_chunks_threads_and_guesses, .init = find_model, .timeout = 120)
{
    NEED_MODEL();
    static const char *const types[][2] = {{"q16", "q16"}, {"q16", "q8_0"}, {"f16", "q16"}};
    for (int i = 0; i < 3; i++) {
        char want[32], got[32];
        logits_of(want, types[i], "1", "512", "never");
        logits_of(got, types[i], "2", "37", "never");
        cr_expect_str_eq(got, want, "%s and %s, in chunks", types[i][0], types[i][1]);
        logits_of(got, types[i], "2", "64", "always");
        cr_expect_str_eq(got, want, "%s and %s, with guesses", types[i][0], types[i][1]);
    }
}

Test(run, prompt_by_file_and_stdin_is_the_same, .init = find_model)
{
    NEED_MODEL();
    char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    test_temp_dir(folder);
    snprintf(path, sizeof path, "%s/prompt.txt", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fprintf(file, "%s\n", prompt);
    fclose(file);
    spawned a = test_hearth("In the beginning God\n", "run", "-m", model, "-n", "32", "-q", GREEDY);
    spawned b = test_hearth(NULL, "run", "-m", model, "-f", path, "-n", "32", "-q", GREEDY);
    spawned c = test_hearth(prompt, "run", "-m", model, "-f", "-", "-n", "32", "-q", GREEDY);
    cr_assert_eq(a.code, 0, "%s", a.err);
    cr_assert(strncmp(a.out, greedy, sizeof greedy - 1) == 0, "%s", a.out);
    cr_assert_str_eq(a.out, b.out);
    cr_assert_str_eq(a.out, c.out);
    cr_assert_str_eq(a.err, "");
    spawned_free(&a);
    spawned_free(&b);
    spawned_free(&c);
    test_temp_remove(folder);
}

Test(run, same_seed_same_text, .init = find_model)
{
    NEED_MODEL();
    spawned a = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "40", "-s", "7", "-t", "1", "-q");
    spawned b = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "40", "-s", "7", "-t", "3", "-q", "-ub", "2");
    spawned c = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "40", "-s", "8", "-q");
    cr_assert_eq(a.code, 0, "%s", a.err);
    cr_assert(a.out_size > 20);
    cr_assert_str_eq(a.out, b.out);
    cr_assert_str_neq(a.out, c.out);
    spawned_free(&a);
    spawned_free(&b);
    spawned_free(&c);
}

/* Nothing of the probability: one token is left, the seed draws nothing. */
Test(run, no_share_of_the_probability_is_one_token, .init = find_model)
{
    NEED_MODEL();
    static const char *const flags[] = {"--top-p", "--typical"};
    for (int i = 0; i < 2; i++) {
        spawned a = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "24", "-s", "1", "-q", flags[i], "0");
        spawned b = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "24", "-s", "2", "-q", flags[i], "0");
        cr_assert_eq(a.code, 0, "%s", a.err);
        cr_assert(a.out_size > 20);
        cr_expect_str_eq(a.out, b.out, "%s", flags[i]);
        spawned_free(&a);
        spawned_free(&b);
    }
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "32", "-q", "--act", "f32", "--top-p", "0",
                            "--repeat-penalty", "1");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_expect(strncmp(s.out, greedy, sizeof greedy - 1) == 0, "%s", s.out);
    spawned_free(&s);
}

Test(run, the_highest_seed_is_a_seed, .init = find_model)
{
    NEED_MODEL();
    for (int i = 0; i < 2; i++) {
        spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "1", "-s", "18446744073709551615");
        cr_assert_eq(s.code, 0, "%s", s.err);
        cr_assert(strstr(s.err, "seed 18446744073709551615,"), "%s", s.err);
        spawned_free(&s);
    }
}

/* Decimal, whatever it begins with, or hexadecimal. */
Test(run, a_zero_in_front_makes_no_octal_number, .init = find_model)
{
    NEED_MODEL();
    static const char *const seeds[][2] = {{"08", "seed 8,"}, {"010", "seed 10,"}, {"0x1F", "seed 31,"}, {"0", "seed 0,"}};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "1", "-s", seeds[i][0]);
        cr_assert_eq(s.code, 0, "%s", s.err);
        cr_expect(strstr(s.err, seeds[i][1]), "%s: %s", seeds[i][0], s.err);
        spawned_free(&s);
    }
}

Test(run, stops_before_a_stop_string, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "32", "-q", GREEDY, "--stop", "nowhere", "-r",
                            "rld, and in");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.out, " of the wo\n");
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-q", "-r", "");
    cr_assert_eq(s.code, 2);
    cr_assert(strstr(s.err, "--stop"), "%s", s.err);
    spawned_free(&s);
}

Test(run, full_context_ends_with_a_note, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-c", "20", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(strncmp(s.out, greedy, s.out_size - 1) == 0, "%s", s.out);
    cr_assert(strstr(s.err, "context of 20 tokens is full"), "%s", s.err);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-c", "3");
    cr_assert_eq(s.code, 1);
    cr_assert(strstr(s.err, "3"), "%s", s.err);
    cr_assert_str_eq(s.out, "");
    spawned_free(&s);
}

Test(run, an_empty_prompt_has_no_blank_behind_it, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", "", "-n", "4", "-q", GREEDY);
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert(s.out_size > 4 && s.out[0] != ' ', "'%s'", s.out);
    spawned_free(&s);
}

Test(run, no_tokens_wanted_no_text, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "0");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cr_assert_str_eq(s.out, "");
    spawned_free(&s);
}

Test(run, json_has_text_tokens_and_logprobs, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "32", GREEDY, "--json", "--logprobs", "3");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out);
    cr_assert(j != NULL, "%s", s.out);
    cr_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(j, "text")), greedy);
    cr_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(j, "finish_reason")), "length");
    cr_assert_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(j, "prompt_tokens")), 5); /* BOS and four */
    cJSON *tokens = cJSON_GetObjectItem(j, "tokens"), *token;
    cr_assert_eq(cJSON_GetArraySize(tokens), 32);
    cr_assert_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetArrayItem(tokens, 0), "id")), 271);
    char whole[sizeof greedy] = "";
    cJSON_ArrayForEach(token, tokens)
    {
        strncat(whole, cJSON_GetStringValue(cJSON_GetObjectItem(token, "text")), sizeof whole - strlen(whole) - 1);
        cJSON *top = cJSON_GetObjectItem(token, "top"), *first = cJSON_GetArrayItem(top, 0);
        cr_assert_eq(cJSON_GetArraySize(top), 3);
        /* Greedy: the chosen one is the likeliest. */
        cr_assert_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(first, "id")),
                     cJSON_GetNumberValue(cJSON_GetObjectItem(token, "id")));
        cr_assert_float_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(first, "logprob")),
                           cJSON_GetNumberValue(cJSON_GetObjectItem(token, "logprob")), 1e-6);
    }
    cr_expect_str_eq(whole, greedy, "the tokens' texts are not the text");
    cJSON_Delete(j);
    spawned_free(&s);
}

Test(run, logit_bias_forbids_and_forces, .init = find_model)
{
    NEED_MODEL();
    spawned s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "4", "--json", GREEDY, "--logit-bias", "271=-inf");
    cr_assert_eq(s.code, 0, "%s", s.err);
    cJSON *j = cJSON_Parse(s.out), *tokens = cJSON_GetObjectItem(j, "tokens");
    cr_assert_neq(cJSON_GetNumberValue(cJSON_GetArrayItem(tokens, 0)), 271);
    cJSON_Delete(j);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "-n", "4", "--json", GREEDY, "--logit-bias", "300=1000");
    j = cJSON_Parse(s.out);
    tokens = cJSON_GetObjectItem(j, "tokens");
    for (int i = 0; i < 4; i++) cr_assert_eq(cJSON_GetNumberValue(cJSON_GetArrayItem(tokens, i)), 300);
    cJSON_Delete(j);
    spawned_free(&s);
    s = test_hearth(NULL, "run", "-m", model, "-p", prompt, "--logit-bias", "999999=1");
    cr_assert_eq(s.code, 2);
    cr_assert(strstr(s.err, "--logit-bias") && strstr(s.err, "999999=1"), "%s", s.err);
    spawned_free(&s);
}

/* A copy of the model, cut or spoiled. */
static char *spoil(const char *folder, size_t keep, size_t at, int value)
{
    static char path[TEST_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/bad.gguf", folder);
    FILE *in = fopen(model, "rb"), *out = fopen(path, "wb");
    cr_assert(in && out);
    size_t n = 0;
    for (int c; n < keep && (c = getc(in)) != EOF; n++) putc(n == at ? value : c, out);
    fclose(in);
    fclose(out);
    return path;
}

Test(run, cut_and_lying_files_are_refused, .init = find_model)
{
    NEED_MODEL();
    char folder[TEST_PATH_MAX];
    test_temp_dir(folder);
    static const struct { size_t keep, at; int value; } bad[] = {
        {0, 0, 0}, {3, 0, 'G'}, {24, 0, 'G'}, {1000, 0, 'G'}, {100000, 0, 'G'}, {3000000, 0, 'G'},
        {(size_t)-1, 0, 'X'},  /* magic */
        {(size_t)-1, 4, 99},   /* version */
        {(size_t)-1, 15, 255}, /* tensor count: 2^63 */
        {(size_t)-1, 22, 1},   /* key count */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = spoil(folder, bad[i].keep, bad[i].at, bad[i].value);
        spawned s = test_hearth(NULL, "run", "-m", path, "-p", prompt, "-n", "2");
        cr_expect_eq(s.code, 1, "file %zu: exit code %d", i, s.code);
        cr_expect(strstr(s.err, "bad.gguf"), "file %zu: %s", i, s.err);
        cr_expect_str_eq(s.out, "");
        spawned_free(&s);
    }
    test_temp_remove(folder);
}

Test(run, full_disk_is_an_error, .init = find_model)
{
    NEED_MODEL();
    /* The shell gives it /dev/full; a reader that goes away is another matter and quiet. */
    char command[2 * TEST_PATH_MAX + 200];
    snprintf(command, sizeof command, "'%s' run -m '%s' -p God -n 8 -s 1 >/dev/full 2>/dev/null", getenv("HEARTH_CLI"),
             model);
    int status = system(command);
    cr_assert_eq(WEXITSTATUS(status), 1);
    snprintf(command, sizeof command, "'%s' run -m '%s' -p God -n 200 -s 1 -q 2>&1 >/dev/null | grep -c . >/dev/null",
             getenv("HEARTH_CLI"), model);
    cr_assert_neq(WEXITSTATUS(system(command)), 0, "quiet runs say nothing on stderr");
}
