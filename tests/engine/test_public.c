/* hearth.h as a whole: every allocation of opening an engine and what belongs to it fails once, and everything that was
 * open by then is given back. */
#include "tests/support/data.h"
#include "tests/support/fail.h"
#include "tests/support/harness.h"

#include "core/model/synth.h"
#include "hearth.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef struct opened {
    char path[TEST_PATH_MAX];
    const char *device;
    int32_t gpu_layers;
    hearth_engine *engine;
    hearth_session *session, *fork;
    hearth_sampler *sampler;
    hearth_text *text;
    hearth_vocab *vocab;
} opened;

static void close_all(void *context)
{
    opened *o = context;
    hearth_vocab_close(&o->vocab);
    hearth_text_close(&o->text);
    hearth_sampler_close(&o->sampler);
    hearth_session_close(&o->fork);
    hearth_session_close(&o->session);
    hearth_engine_close(&o->engine);
}

static int open_all(void *context, ht_error *err)
{
    opened *o = context;
    hearth_error e = {0};
    const char *stop[] = {"x", "yz"};
    const struct hearth_logit_bias bias[] = {{1, -1.0f}};
    const int32_t tokens[] = {1, 2, 3};
    const hearth_options options = {
        .model = o->path, .device = o->device, .gpu_layers = o->gpu_layers, .vram = o->device ? 8 << 20 : 0, .threads = 2,
        .context = 32, .sessions = 2, .quiet = true};

    int r = hearth_engine_open(&o->engine, &options, &e);
    if (r >= 0) r = hearth_session_open(&o->session, o->engine, &(hearth_session_options){0}, &e);
    if (r >= 0) r = hearth_session_sync(o->session, tokens, 3, &e);
    if (r >= 0) r = hearth_session_fork(&o->fork, o->session, &(hearth_session_options){.id = 1}, &e);
    if (r >= 0)
        r = hearth_sampler_open(&o->sampler, o->engine, &(hearth_sampler_options){.logit_bias = bias, .n_logit_bias = 1}, &e);
    if (r >= 0)
        r = hearth_text_open(&o->text, hearth_engine_vocab(o->engine), &(hearth_text_options){.stop = stop, .n_stop = 2}, &e);
    if (r >= 0) r = hearth_vocab_open(&o->vocab, o->path, &e);
    if (r >= 0)
        r = (int)hearth_chat_encode(o->vocab, "chatml", &(hearth_message){"user", "hello"}, 1, true, 0, NULL, 0, &e);
    if (r >= 0) return 0;
    close_all(o);
    cr_assert(e.code == r, "the error has the code that is returned: %d, %d (%s)", e.code, r, e.text);
    return ht_fail(err, r, "%s", e.text);
}

static void fail_everywhere(const char *path, const char *device, int32_t gpu_layers)
{
    opened o = {.device = device, .gpu_layers = gpu_layers};
    cr_assert(test_data(o.path, path), "no %s", path);
    if (!strstr(path, ".gguf")) *strrchr(o.path, '/') = '\0';
    cr_assert_gt(test_fail_each_allocation(open_all, close_all, &o), 50);
}

Test(public, any_allocation_may_fail, .timeout = 120) { fail_everywhere("models/arch/llama/llama.gguf", NULL, 0); }
Test(public, any_allocation_of_a_folder_may_fail, .timeout = 120) { fail_everywhere("models/arch/phi3/config.json", NULL, 0); }
Test(public, any_allocation_on_a_device_may_fail, .timeout = 120) { fail_everywhere("models/arch/llama/llama.gguf", "emu", 0); }
Test(public, any_allocation_on_two_sites_may_fail, .timeout = 120) { fail_everywhere("models/arch/llama/llama.gguf", "emu", 1); }

/* ---- how weights lie in memory ----------------------------------------------------------------------------- */

/* The hash of all logits of a prompt and of a few tokens after it. */
static uint64_t hash_of(const char *path, const char *load)
{
    const int32_t tokens[24] = {1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 4, 8, 12, 16, 20, 30, 40, 50, 60, 63, 21, 31};
    hearth_engine *engine = NULL;
    hearth_session *session = NULL;
    hearth_error error = {0};
    hearth_stats stats;

    cr_assert_eq(hearth_engine_open(&engine, &(hearth_options){.model = path, .load = load, .context = 64, .quiet = true},
                                    &error), 0, "%s", error.text);
    cr_assert_eq(hearth_session_open(&session, engine, &(hearth_session_options){0}, &error), 0, "%s", error.text);
    cr_assert_eq(hearth_session_sync(session, tokens, 16, &error), 0, "%s", error.text);
    for (int i = 0; i < 8; i++) cr_assert_eq(hearth_session_append(session, tokens[16 + i], &error), 0, "%s", error.text);
    hearth_engine_stats(engine, &stats);
    hearth_session_close(&session);
    hearth_engine_close(&engine);
    return stats.logits_hash;
}

/* Files that are read are woven for the CPU's best level, mapped ones are not. */
Test(public, a_file_read_and_a_file_mapped_give_the_same_bits)
{
    static const char *const files[] = {"models/kjv-relu-7m/kjv-relu-7m-q4.gguf", "models/arch/llama/llama.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[TEST_PATH_MAX];
        if (!test_data(path, files[i])) cr_skip_test("no %s", files[i]);
        cr_assert_eq(hash_of(path, "read"), hash_of(path, "mmap"), "%s", files[i]);
    }
}

/* ---- the types of the KV cache ------------------------------------------------------------------------------ */

/* Opens a model of such heads and says what K and V are kept as, "Q16 F16"; or gives the error. */
static const char *kv_types(int32_t heads, int32_t kv_heads, int32_t head_dim, hearth_options options)
{
    const ht_synth_options shape = {.n_layers = 2, .n_embd = 64, .n_ff = 64, .n_heads = heads, .n_kv_heads = kv_heads,
                                    .head_dim = head_dim, .n_vocab = 300, .type = "f16", .quiet = true};
    static char out[sizeof(hearth_error)];
    char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16];
    hearth_engine *engine = NULL;
    hearth_error error = {0};
    hearth_model_info info;
    ht_error err = {0};

    test_temp_dir(folder);
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    cr_assert_eq(ht_synth(path, &shape, &err), 0, "%s", err.text);
    options.model = path, options.context = 32, options.quiet = true, options.vram = options.device ? 8 << 20 : 0;
    if (hearth_engine_open(&engine, &options, &error) < 0) {
        snprintf(out, sizeof out, "%s", error.text);
    } else {
        hearth_engine_info(engine, &info);
        snprintf(out, sizeof out, "%s %s", info.k_type, info.v_type);
        if (options.gpu_layers) snprintf(out + strlen(out), 32, ", %d", (int)info.kv_token_bytes);
        hearth_engine_close(&engine);
    }
    test_temp_remove(folder);
    return out;
}

Test(public, many_heads_to_a_kv_head_get_a_cache_of_integers)
{
    const hearth_options none = {0}, emu = {.device = "emu"}, one = {.device = "emu", .gpu_layers = 1},
                         two = {.device = "emu", .gpu_layers = 2};

    cr_expect_str_eq(kv_types(6, 2, 64, none), "Q16 Q16");
    cr_expect_str_eq(kv_types(6, 2, 64, (hearth_options){.k_type = "auto", .v_type = "auto"}), "Q16 Q16");
    cr_expect_str_eq(kv_types(6, 2, 64, (hearth_options){.v_type = "q8_0"}), "Q16 Q8_0");
    cr_expect_str_eq(kv_types(6, 2, 64, (hearth_options){.k_type = "f16"}), "F16 Q16");
    cr_expect_str_eq(kv_types(4, 2, 64, none), "F16 F16");
    cr_expect_str_eq(kv_types(4, 2, 64, (hearth_options){.k_type = "q16", .v_type = "q16"}), "Q16 Q16");
    cr_expect_str_eq(kv_types(8, 2, 40, none), "F16 F16");
    cr_expect_str_eq(kv_types(6, 2, 64, emu), "F16 F16");
    cr_expect_str_eq(kv_types(6, 2, 64, two), "F16 F16, 1024");
    cr_expect_str_eq(kv_types(6, 2, 64, one), "Q16 Q16, 1040"); /* a layer of either: 4 rows of 64 elements, in Q16 with 4 scales */
}

Test(public, a_cache_type_that_cannot_be_is_named)
{
    const char *text = kv_types(8, 2, 40, (hearth_options){.v_type = "q16"});
    cr_expect(strstr(text, "Q16") && strstr(text, "40"), "%s", text);
    text = kv_types(6, 2, 64, (hearth_options){.k_type = "q16", .device = "emu"});
    cr_expect(strstr(text, "Q16"), "%s", text);
    text = kv_types(6, 2, 64, (hearth_options){.k_type = "q9"});
    cr_expect(strstr(text, "q9") && strstr(text, "type of K"), "%s", text);
}

/* ---- single kernels --------------------------------------------------------------------------------------- */

Test(public, a_kernel_to_measure_has_defaults)
{
    hearth_kernel_bench bench = {.columns = 16, .rows = 16, .cols = 256, .repeats = 1};
    hearth_error error = {0};

    cr_assert_eq(hearth_bench_kernel(&bench, &error), 0, "%s", error.text);
    cr_assert_str_eq(bench.type, "q4_0");
    cr_assert(bench.isa && bench.threads > 0);
    cr_assert_gt(bench.macs_per_second, 0.0);
}

Test(public, a_kernel_says_whether_its_rows_were_woven)
{
    hearth_kernel_bench bench = {.columns = 16, .rows = 48, .cols = 256, .repeats = 1, .isa = "ref", .woven = true};
    hearth_error error = {0};

    cr_assert_eq(hearth_bench_kernel(&bench, &error), 0, "%s", error.text);
    cr_assert(!bench.woven, "the references read plain rows alone");
    bench = (hearth_kernel_bench){.columns = 16, .rows = 40, .cols = 256, .repeats = 1, .woven = true};
    cr_assert_eq(hearth_bench_kernel(&bench, &error), 0, "%s", error.text);
    cr_assert(!bench.woven, "40 rows are not whole tiles");
}

Test(public, an_unknown_choice_of_a_kernel_to_measure_is_named)
{
    static const hearth_kernel_bench wrong[] = {{.type = "q9"}, {.isa = "avx1024"}, {.activations = "q7"}};
    static const char *const named[] = {"q9", "avx1024", "q7"};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        hearth_kernel_bench bench = wrong[i];
        hearth_error error = {0};
        bench.columns = 16, bench.rows = 16, bench.cols = 256, bench.repeats = 1;
        cr_assert_eq(hearth_bench_kernel(&bench, &error), -EINVAL, "%s", named[i]);
        cr_assert(strstr(error.text, named[i]) != NULL, "%s", error.text);
    }
}
