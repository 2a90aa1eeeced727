/* Full residence on the emulated GPU, end to end: the engine over the device backend and the device store, against the
 * same engine over the host's. Also what it takes of the device, and what happens when there is too little of it.
 */
#include "tests/gpu/stack.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/memory.h"
#include "core/engine/forward.h"
#include "offload/ram_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HEARTH_HARNESS
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define MODEL "models/kjv-relu-7m/kjv-relu-7m-q4.gguf"

enum { CONTEXT = STACK_CONTEXT, SESSIONS = STACK_SESSIONS };

/* ||a - b|| / ||b|| */
static double distance(const float *a, const float *b, int32_t n)
{
    double d = 0, l = 0;

    for (int32_t i = 0; i < n; i++) d += pow((double)a[i] - (double)b[i], 2), l += pow((double)b[i], 2);
    return sqrt(d / l);
}

/* A prompt in the block class and some decode steps, teacher-forced; the worst distance of the logits. */
static double compare(const char *path, const setup *o, const ht_emu_options *emu, int32_t prompt, int32_t steps)
{
    stack host, gpu;
    ht_error err = {0};
    int32_t tokens[CONTEXT];
    double worst = 0;

    must(stack_open(&host, path, o, NULL, &err), &err);
    must(stack_open(&gpu, path, o, emu, &err), &err);
    make_tokens(tokens, prompt + steps, host.limits.shape.n_vocab);
    ht_session *a = new_session(&host), *b = new_session(&gpu);
    must(ht_session_sync(&(ht_prompt){a, tokens, prompt}, 1, &err), &err);
    must(ht_session_sync(&(ht_prompt){b, tokens, prompt}, 1, &err), &err);
    for (int i = 0; i <= steps; i++) {
        worst = fmax(worst, distance(b->logits, a->logits, host.limits.shape.n_vocab));
        if (i == steps) break;
        must(ht_session_decode(&a, &tokens[prompt + i], 1, &err), &err);
        must(ht_session_decode(&b, &tokens[prompt + i], 1, &err), &err);
    }
    cr_expect_eq(ht_guard_violations(), 0, "something was allocated in a pass");
    ht_session_close(&a);
    ht_session_close(&b);
    stack_close(&host);
    stack_close(&gpu);
    return worst;
}

static void expect_close(const setup *o, const ht_emu_options *emu, double limit)
{
    char path[TEST_PATH_MAX];

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    double worst = compare(path, o, emu, 66, 3);
    if (getenv("HEARTH_TEST_VERBOSE")) fprintf(stderr, "act %d, KV types %d %d: logits differ by %.2e\n", o->act, o->k_type, o->v_type, worst);
    cr_assert(worst <= limit, "logits differ by %.2e", worst);
}

Test(resident, f32, .timeout = 120)
{
    expect_close(&(setup){HT_ACT_F32, HT_F32, HT_F32, false, 0, false, 0}, &(ht_emu_options){0}, 1e-5);
}
Test(resident, f32_f16_cache, .timeout = 120)
{
    expect_close(&(setup){HT_ACT_F32, HT_F16, HT_F16, false, 0, false, 0}, &(ht_emu_options){.order = HT_EMU_REVERSE}, 1e-3);
}
/* 8-bit activations flip where a value lies between two quants: two good paths differ by what such flips do. */
Test(resident, q8, .timeout = 120)
{
    expect_close(&(setup){HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0}, &(ht_emu_options){.order = HT_EMU_SHUFFLED, .seed = 3}, 0.03);
}
Test(resident, q8_without_tensor_cores, .timeout = 120)
{
    expect_close(&(setup){HT_ACT_Q8, HT_Q8_0, HT_Q4_0, false, 0, false, 0}, &(ht_emu_options){.capability = 70}, 0.06);
}

/* A few tokens of a model that people use, where quickstart has put it. */
Test(resident, default_model, .timeout = 280)
{
    char path[TEST_PATH_MAX];
    const char *given = getenv("HEARTH_DEFAULT_MODEL"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    snprintf(path, sizeof path, "%s%s/hearth/SmolLM2-135M-Instruct.Q4_1.gguf", cache ? cache : home ? home : "", cache ? "" : "/.cache");
    if (given) snprintf(path, sizeof path, "%s", given);
    if (SANITIZED) cr_skip_test("a sanitizer makes the default model take minutes on the emulated GPU");
    if (access(path, R_OK)) cr_skip_test("no default model (quickstart gets it)");
    double f32 = compare(path, &(setup){HT_ACT_F32, HT_F32, HT_F32, false, 0, false, 0}, &(ht_emu_options){0}, 3, 2);
    double q8 = compare(path, &(setup){HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0}, &(ht_emu_options){0}, 3, 2);
    if (getenv("HEARTH_TEST_VERBOSE")) fprintf(stderr, "default model: %.2e with F32 activations, %.2e with 8 bits\n", f32, q8);
    cr_expect(f32 <= 1e-5, "logits differ by %.2e", f32);
    cr_expect(q8 <= 0.15, "with 8-bit activations logits differ by %.2e", q8);
}

/* ---- the numeric contract -------------------------------------------------------------------------------- */

/* Logits after a prompt and three decode steps, alone or beside two other sequences, in chunks of any size. */
static void run_alone_or_not(const char *path, const setup *o, bool company, float *out)
{
    enum { PROMPT = 34, STEPS = 2 };
    stack s;
    ht_error err = {0};
    int32_t tokens[CONTEXT], others[CONTEXT];
    ht_session *sessions[SESSIONS];

    must(stack_open(&s, path, o, &(ht_emu_options){0}, &err), &err);
    int32_t n_vocab = s.limits.shape.n_vocab, n = company ? SESSIONS : 1;
    make_tokens(tokens, CONTEXT, n_vocab);
    for (int32_t i = 0; i < CONTEXT; i++) others[i] = tokens[CONTEXT - 1 - i];
    ht_prompt prompts[SESSIONS];
    for (int32_t i = 0; i < n; i++) {
        sessions[i] = new_session(&s);
        prompts[i] = i == n - 1 ? (ht_prompt){sessions[i], tokens, PROMPT} : (ht_prompt){sessions[i], others, 5 + 60 * i};
    }
    must(ht_session_sync(prompts, n, &err), &err);
    for (int32_t step = 0; step < STEPS; step++) {
        int32_t next[SESSIONS];
        for (int32_t i = 0; i < n; i++) next[i] = i == n - 1 ? tokens[PROMPT + step] : others[100 + step];
        must(ht_session_decode(sessions, next, n, &err), &err);
    }
    memcpy(out, sessions[n - 1]->logits, (size_t)n_vocab * sizeof *out);
    for (int32_t i = 0; i < n; i++) ht_session_close(&sessions[i]);
    stack_close(&s);
}

static void expect_same_bits(ht_act_mode act)
{
    char path[TEST_PATH_MAX];
    static float alone[1 << 16], beside[1 << 16];

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    run_alone_or_not(path, &(setup){act, HT_F16, HT_F16, false, 0, false, 0}, false, alone);
    run_alone_or_not(path, &(setup){act, HT_F16, HT_F16, false, 21, false, 0}, true, beside);
    cr_assert(distance(beside, alone, 1000) == 0, "bits depend on the company or the chunks");
    cr_assert(memcmp(alone, beside, 1000 * sizeof(float)) == 0);
}

Test(resident, same_bits_q8, .timeout = 120) { expect_same_bits(HT_ACT_Q8); }
Test(resident, same_bits_f32, .timeout = 120) { expect_same_bits(HT_ACT_F32); }

/* ---- accounting ------------------------------------------------------------------------------------------ */

/* The peak, after prompts and tokens of all sessions, is the sum of what store, backend and engine say beforehand. */
Test(resident, takes_what_was_planned, .timeout = 60)
{
    char path[TEST_PATH_MAX];
    stack s;
    ht_error err = {0};
    ht_device_store_plan plan;
    ht_device_memory memory;
    ht_session *sessions[SESSIONS];
    size_t pass;
    const int32_t tokens[SESSIONS] = {5, 6, 7};
    const setup o = {HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0};

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    must(stack_open(&s, path, &o, &(ht_emu_options){0}, &err), &err);
    ht_device_store_options options = {.model = s.model, .gpu = s.gpu, .kv = s.limits.kv, .kv_pages = s.store->kv_pages};
    must(ht_device_store_plan_make(&plan, &options, &err), &err);
    must(ht_forward_bytes(&s.limits, true, HT_DEVICE_ALIGN, &pass, &err), &err);
    for (int i = 0; i < SESSIONS; i++) {
        sessions[i] = new_session(&s);
        must(ht_session_sync(&(ht_prompt){sessions[i], tokens, SESSIONS}, 1, &err), &err);
    }
    must(ht_session_decode(sessions, tokens, SESSIONS, &err), &err);
    s.gpu->device.ops->memory(&s.gpu->device, &memory);
    size_t sum = plan.weights + plan.kv + ht_gpu_backend_bytes(&s.limits) + pass;
    cr_expect_eq(memory.used, sum, "used %zu, planned %zu", memory.used, sum);
    cr_expect_eq(memory.peak, sum, "peak %zu, planned %zu", memory.peak, sum);
    for (int i = 0; i < SESSIONS; i++) ht_session_close(&sessions[i]);
    stack_close(&s);
}

Test(resident, too_little_memory_says_what_would_fit, .timeout = 60)
{
    char path[TEST_PATH_MAX];
    ht_error err = {0};
    stack s;
    const setup o = {HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0};

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    must(stack_open(&s, path, &o, &(ht_emu_options){0}, &err), &err);
    ht_device_store_plan plan;
    ht_device_store_options options = {.model = s.model, .gpu = s.gpu, .kv = s.limits.kv, .kv_pages = s.store->kv_pages};
    must(ht_device_store_plan_make(&plan, &options, &err), &err);
    size_t scratch = ht_gpu_backend_bytes(&s.limits);
    stack_close(&s);

    const struct { size_t budget; const char *hint; } cases[] = {
        {scratch + plan.weights + plan.kv / 2, "tokens would fit"},
        {scratch + plan.weights + plan.kv - 2 * plan.layer - plan.kv / 2, "layers would fit"},
        {scratch + plan.kv, "not even one layer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int r = stack_open(&s, path, &o, &(ht_emu_options){.budget = cases[i].budget}, &err);
        cr_expect_eq(r, -ENOMEM);
        cr_expect(strstr(err.text, cases[i].hint) != NULL, "case %zu: %s", i, err.text);
        stack_close(&s);
    }
}

/* As many layers as the text says do fit, and take what was planned for them. The embedding, which is a matrix of its own
 * here, does not come with some of the layers. */
Test(resident, the_layers_that_would_fit_do_fit, .timeout = 60)
{
    char path[TEST_PATH_MAX];
    ht_error err = {0};
    ht_model *model;
    ht_gpu *gpu;
    ht_store *store;
    ht_device_store_plan whole, last;
    ht_device_memory memory;
    ht_device_store_options o = {.kv_pages = 2, .quiet = true};

    if (!test_data(path, "models/arch/mistral/mistral.gguf")) cr_skip_test("no mistral.gguf");
    must(ht_model_open(&model, path, &err), &err);
    const int32_t layers = model->shape.n_layers;
    const ht_share share = {.layer_begin = layers - 1, .layer_end = layers, .output = true};
    cr_assert(model->output.tensor != model->embd.tensor);
    o.model = model;
    must(ht_kv_layout_init(&o.kv, &model->shape, HT_F16, HT_F16, &err), &err);
    must(ht_device_store_plan_make(&whole, &o, &err), &err);
    o.share = &share;
    must(ht_device_store_plan_make(&last, &o, &err), &err);
    cr_expect_eq(last.rest + last.layer, last.weights);
    size_t budget = last.rest + whole.layer + whole.kv / (size_t)layers + HT_DEVICE_ALIGN;
    must(ht_device_emu_open(&gpu, &(ht_emu_options){.budget = budget}, &err), &err);
    o.gpu = gpu;
    o.share = NULL;
    cr_expect_eq(ht_device_store_open(&store, &o, &err), -ENOMEM);
    cr_expect(strstr(err.text, "1 of the 2 layers would fit") != NULL, "%s", err.text);
    o.share = &share;
    must(ht_device_store_open(&store, &o, &err), &err);
    gpu->device.ops->memory(&gpu->device, &memory);
    cr_expect_eq(memory.used, last.weights + last.kv);
    store->ops->close(store);
    gpu->device.ops->close(&gpu->device);
    ht_model_close(&model);
}

/* ---- layers on two sites ---------------------------------------------------------------------------------- */

/* The last n layers on the device, the others on the host: the logits of the host alone, and the memory that was planned. */
static void split(int32_t n)
{
    char path[TEST_PATH_MAX];
    const setup o = {HT_ACT_F32, HT_F32, HT_F32, false, 0, false, 0};
    stack host, device = {0};
    ht_error err = {0};
    ht_site sites[2] = {0};
    ht_engine *engine;
    ht_session *a, *b;
    ht_device_store_plan plan;
    ht_device_memory memory;
    int32_t tokens[70];
    size_t pass;

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    must(stack_open(&host, path, &o, NULL, &err), &err);
    const int32_t layers = host.model->shape.n_layers;
    const ht_share first = {.layer_end = layers - n, .embedding = true}, last = {layers - n, layers, .output = true};
    const ht_ram_store_options ram = {.model = host.model, .share = &first, .kv = host.limits.kv,
                                      .kv_pages = host.store->kv_pages, .quiet = true};
    must(ht_device_emu_open(&device.gpu, &(ht_emu_options){0}, &err), &err);
    const ht_device_store_options store = {.model = host.model, .gpu = device.gpu, .share = &last, .kv = host.limits.kv,
                                           .kv_pages = host.store->kv_pages, .quiet = true};
    must(ht_host_open(&sites[0].backend, &(ht_host_options){.limits = host.limits, .pool = host.pool, .isa = ht_isa_detect()},
                      &err), &err);
    must(ht_ram_store_open(&sites[0].store, &ram, NULL, &err), &err);
    must(ht_gpu_backend_open(&device.backend, &(ht_gpu_backend_options){.limits = host.limits, .gpu = device.gpu,
                                                                        .resident = true}, &err), &err);
    must(ht_device_store_open(&device.store, &store, &err), &err);
    sites[1] = (ht_site){device.backend, device.store};
    must(ht_engine_open(&engine, &(ht_engine_options){sites, 2, STACK_COLUMNS}, &err), &err);
    device.engine = engine;

    make_tokens(tokens, 70, host.limits.shape.n_vocab);
    a = new_session(&host), b = new_session(&device);
    must(ht_session_sync(&(ht_prompt){a, tokens, 66}, 1, &err), &err);
    must(ht_session_sync(&(ht_prompt){b, tokens, 66}, 1, &err), &err);
    for (int i = 66; i < 70; i++) {
        must(ht_session_decode(&a, &tokens[i], 1, &err), &err);
        must(ht_session_decode(&b, &tokens[i], 1, &err), &err);
    }
    double d = distance(b->logits, a->logits, host.limits.shape.n_vocab);
    cr_expect(d <= 1e-5, "%d layers on the device: logits differ by %.2e", n, d);

    must(ht_device_store_plan_make(&plan, &store, &err), &err);
    must(ht_forward_bytes(&host.limits, true, HT_DEVICE_ALIGN, &pass, &err), &err);
    device.gpu->device.ops->memory(&device.gpu->device, &memory);
    cr_expect_eq(memory.peak, plan.weights + plan.kv + ht_gpu_backend_bytes(&host.limits) + pass);
    cr_expect_eq(memory.used, memory.peak);
    ht_session_close(&a);
    ht_session_close(&b);
    stack_close(&device);
    sites[0].store->ops->close(sites[0].store);
    sites[0].backend->ops->close(sites[0].backend);
    stack_close(&host);
}

Test(resident, one_layer_on_the_device, .timeout = 120) { split(1); }
Test(resident, most_layers_on_the_device, .timeout = 120) { split(5); }

/* ---- what fails ------------------------------------------------------------------------------------------- */

/* Whichever allocation of the device fails, opening fails cleanly with a text. */
Test(resident, every_device_allocation_may_fail, .timeout = 120)
{
    char path[TEST_PATH_MAX];
    const setup o = {HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0};
    int64_t n = 0;

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    for (int64_t at = 1;; at += at < 40 ? 1 : 7) {
        stack s;
        ht_error err = {0};
        int r = stack_open(&s, path, &o, &(ht_emu_options){.faults.alloc = at}, &err);
        if (r < 0) cr_expect(strstr(err.text, "fault injected") != NULL, "%s", err.text);
        stack_close(&s);
        if (r >= 0) break;
        n++;
    }
    cr_assert(n > 40);
}

/* A launch, a copy, the device fail in the middle of a pass: the pass says so, and the engine can be closed. */
static void fail_midway(const ht_emu_faults *faults, const char *expected)
{
    char path[TEST_PATH_MAX];
    const setup o = {HT_ACT_Q8, HT_F16, HT_F16, false, 0, false, 0};
    stack s;
    ht_error err = {0};
    int32_t tokens[30];

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    must(stack_open(&s, path, &o, &(ht_emu_options){0}, &err), &err);
    make_tokens(tokens, 30, s.limits.shape.n_vocab);
    ht_session *session = new_session(&s);
    ht_device_emu_set_faults(s.gpu, faults);
    int r = ht_session_sync(&(ht_prompt){session, tokens, 30}, 1, &err);
    cr_expect(r < 0);
    cr_expect(strstr(err.text, expected) != NULL, "%s", err.text);
    r = ht_session_sync(&(ht_prompt){session, tokens, 30}, 1, &err); /* still failed: a device does not heal */
    cr_expect(r < 0);
    ht_session_close(&session);
    stack_close(&s);
}

Test(resident, a_failed_launch_is_told, .timeout = 60) { fail_midway(&(ht_emu_faults){.launch = 20}, "kernel"); }
Test(resident, a_failed_copy_is_told, .timeout = 60) { fail_midway(&(ht_emu_faults){.copy = 1}, "copy"); }
Test(resident, a_lost_device_is_told, .timeout = 60) { fail_midway(&(ht_emu_faults){.lost = 30}, "lost"); }

/* ---- dispatch -------------------------------------------------------------------------------------------- */

/* Prompts go to the tensor cores where there are any, and to the plain product where not. */
static void expect_products(int32_t capability, ht_act_mode act, bool tensor)
{
    char path[TEST_PATH_MAX];
    const setup o = {act, HT_F16, HT_F16, false, 0, false, 0};
    stack s;
    ht_error err = {0};
    int32_t tokens[8];

    if (!test_data(path, MODEL)) cr_skip_test("no " MODEL);
    must(stack_open(&s, path, &o, &(ht_emu_options){.capability = capability, .trace = 2000}, &err), &err);
    make_tokens(tokens, 8, s.limits.shape.n_vocab);
    ht_session *session = new_session(&s);
    ht_device_emu_trace_clear(s.gpu);
    must(ht_session_sync(&(ht_prompt){session, tokens, 8}, 1, &err), &err);
    cr_expect_eq(count_spans(s.gpu, "matmat_mma") > 0, tensor);
    cr_expect_eq(count_spans(s.gpu, "matmat_plain") > 0, !tensor);
    cr_expect_eq(count_spans(s.gpu, "matvec"), 0, "a prompt is of the block class");
    ht_device_emu_trace_clear(s.gpu);
    must(ht_session_decode(&session, tokens, 1, &err), &err);
    cr_expect_eq(count_spans(s.gpu, "matmat"), 0, "a generated token is of the decode class");
    ht_session_close(&session);
    stack_close(&s);
}

Test(resident, prompts_use_tensor_cores, .timeout = 60) { expect_products(75, HT_ACT_Q8, true); }
Test(resident, old_gpus_use_the_plain_product, .timeout = 60) { expect_products(70, HT_ACT_Q8, false); }
Test(resident, f32_uses_the_plain_product, .timeout = 60) { expect_products(90, HT_ACT_F32, false); }
