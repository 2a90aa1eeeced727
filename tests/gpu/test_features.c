/* Every feature of the architectures, and the sparse FFN, on the emulated GPU behind the engine's ports: against the
 * reference backend, on a model small enough that nothing hides. Its weights stay where the reference has them: the
 * emulated GPU reads any memory of the host. */
#include "tests/support/harness.h"
#include "tests/support/rig.h"
#include "tests/support/tiny_model.h"

#include "core/base/memory.h"
#include "core/base/random.h"
#include "gpu/backend.h"

#include <math.h>
#include <string.h>

enum { PROMPT = 80, GENERATED = 3, V = 97 };

static ht_gpu *open_emu(void)
{
    ht_error err = {0};
    ht_gpu *gpu;

    cr_assert(ht_device_emu_open(&gpu, &(ht_emu_options){.order = HT_EMU_SHUFFLED, .seed = 2}, &err) == 0, "%s", err.text);
    return gpu;
}

/* Logits after the prompt and after each generated token, (1 + GENERATED, V). */
static void run(ht_backend *backend, ht_store *store, float *out)
{
    ht_error err = {0};
    ht_engine *e;
    ht_session *s;
    int32_t t[PROMPT + GENERATED];

    ht_rig_tokens(t, PROMPT + GENERATED, 21);
    cr_assert(ht_engine_open(&e, &(ht_engine_options){&(ht_site){backend, store}, 1, 50}, &err) == 0, "%s", err.text);
    cr_assert(ht_session_open(&s, e, 0, 0, &err) == 0, "%s", err.text);
    ht_rig_sync(s, t, PROMPT);
    memcpy(out, s->logits, V * sizeof *out);
    for (int i = 0; i < GENERATED; i++) {
        cr_assert(ht_session_decode(&s, &t[PROMPT + i], 1, &err) == 0, "%s", err.text);
        memcpy(out + (i + 1) * V, s->logits, V * sizeof *out);
    }
    ht_session_close(&s);
    ht_engine_close(&e);
}

static void compare(const ht_shape *shape)
{
    static float want[(1 + GENERATED) * V], got[(1 + GENERATED) * V];
    ht_error err = {0};
    ht_model model = {.shape = *shape};
    ht_ops_limits limits = {.columns = 96, .sequences = 1, .context = 128, .shape = *shape, .act = HT_ACT_F32};
    ht_store *store;
    ht_backend *ref, *device;
    ht_gpu *gpu = open_emu();
    double worst = 0;

    cr_assert(ht_kv_layout_init(&limits.kv, shape, HT_F32, HT_F32, &err) == 0, "%s", err.text);
    cr_assert(ht_tiny_store_open(&store, &model, &limits.kv, 4, &err) == 0);
    cr_assert(ht_ref_backend_open(&ref, &limits, &err) == 0, "%s", err.text);
    cr_assert(ht_gpu_backend_open(&device, &(ht_gpu_backend_options){.limits = limits, .gpu = gpu, .resident = true}, &err) == 0,
              "%s", err.text);
    run(ref, store, want);
    run(device, store, got);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
    cr_assert(worst < 5e-5, "logits are apart by %g", worst); /* they are around 2 */
    device->ops->close(device);
    ref->ops->close(ref);
    store->ops->close(store);
    gpu->device.ops->close(&gpu->device);
}

static ht_shape tiny(void)
{
    ht_model m;

    ht_tiny_model_init(&m);
    return m.shape;
}

Test(features, llama) { ht_shape s = tiny(); compare(&s); }
Test(features, halves) { ht_shape s = tiny(); s.rope.pairing = HT_ROPE_HALVES; s.rope.dims = 4; compare(&s); }
Test(features, relu) { ht_shape s = tiny(); s.activation = HT_RELU; compare(&s); }
Test(features, gelu) { ht_shape s = tiny(); s.activation = HT_GELU; s.embd_scale = 0.5f; compare(&s); }
Test(features, gelu_tanh) { ht_shape s = tiny(); s.activation = HT_GELU_TANH; compare(&s); }
Test(features, layer_norm) { ht_shape s = tiny(); s.norm = HT_NORM_LAYER; compare(&s); }
Test(features, window) { ht_shape s = tiny(); s.window = 30; compare(&s); }
Test(features, one_head_each) { ht_shape s = tiny(); s.n_kv_heads = 4; compare(&s); }
Test(features, gemma)
{
    ht_shape s = tiny();
    s.window = 30, s.window_period = 2, s.post_norms = true, s.attn_softcap = 2, s.logit_softcap = 3, s.attn_scale = 0.2f;
    s.rope.scaling = HT_ROPE_LINEAR, s.rope.factor = 4, s.rope_local_base = 100;
    compare(&s);
}

/* ---- the sparse FFN through the port: selector, active list, payload of a range of neurons ---------------- */

enum { D = 64, F = 300, FIRST = 200, RANGE = F - FIRST };

typedef struct sparse {
    ht_backend *b;
    float *x, *h, *y, *gain, *up_bias;
    void *select, *pay; /* (F, D): selector rows; up and down rows side by side */
    int32_t *list, *count;
} sparse;

static void *device_array(ht_backend *b, const void *from, size_t bytes)
{
    ht_error err = {0};
    void *p;

    cr_assert(b->ops->alloc(b, bytes, &p, &err) == 0, "%s", err.text);
    cr_assert(!from || b->ops->upload(b, p, from, bytes, &err) == 0, "%s", err.text);
    return p;
}

static void begin(ht_backend *b, int32_t n)
{
    static const int32_t token[2] = {1, 1}, position[2] = {0, 0}, sequence[2] = {0, 1}, page[2] = {0, 1}, length[2] = {1, 1};
    const int32_t *const pages[2] = {page, page + 1};
    ht_error err = {0};

    cr_assert(b->ops->begin(b, &(ht_step){.class_ = HT_CLASS_DECODE, .n = n, .token = token, .position = position,
                                          .sequence = sequence, .n_sequences = n, .pages = pages, .length = length},
                            &err) == 0, "%s", err.text);
}

/* Neurons [first, first + n) of a gated or ungated ReLU FFN for two columns: y += payload. */
static void run_sparse(const sparse *s, bool gated, int32_t first, int32_t n)
{
    const ht_norm norm = {.kind = HT_NORM_RMS, .eps = 1e-5f, .gain = s->gain};
    const size_t row = D * sizeof(float);
    const ht_matrix selector = {(char *)s->select + (size_t)first * row, HT_F32, n, D, row, false},
                    up = {(char *)s->pay + 2 * (size_t)first * row, HT_F32, n, D, 2 * row, false},
                    down = {(char *)s->pay + (2 * (size_t)first + 1) * row, HT_F32, n, D, 2 * row, false};

    s->b->ops->ffn(s->b, &(ht_ffn_args){.x = s->x, .norm = norm, .up = selector, .activation = HT_RELU, .h = s->h});
    s->b->ops->active(s->b, &(ht_active_args){.h = s->h, .f = n, .list = s->list, .count = s->count});
    s->b->ops->payload(s->b, &(ht_payload_args){.x = s->x, .norm = norm, .up = gated ? up : (ht_matrix){0}, .down = down,
                                                .up_bias = gated ? s->up_bias + first : NULL, .first = first, .h = s->h,
                                                .list = s->list, .count = s->count, .y = s->y});
}

static void sparse_in_double(const float *x, const float *gain, const float *select, const float *pay, const float *up_bias,
                             bool gated, double *y)
{
    double sum = 0, n[D];

    for (int i = 0; i < D; i++) sum += (double)x[i] * x[i];
    for (int i = 0; i < D; i++) n[i] = x[i] / sqrt(sum / D + 1e-5) * gain[i], y[i] = 0;
    for (int r = 0; r < F; r++) {
        double g = 0, u = gated ? up_bias[r] : 1;
        for (int i = 0; i < D; i++) g += select[r * D + i] * n[i];
        for (int i = 0; i < D && gated; i++) u += pay[2 * r * D + i] * n[i];
        if (g > 0)
            for (int i = 0; i < D; i++) y[i] += g * u * pay[(2 * r + 1) * D + i];
    }
}

static void compare_sparse(bool gated)
{
    static float x[2 * D], gain[D], select[F * D], pay[2 * F * D], bias[F], whole[2 * D], parts[2 * D];
    struct { float *v; int n; } arrays[] = {{x, 2 * D}, {gain, D}, {select, F * D}, {pay, 2 * F * D}, {bias, F}};
    ht_error err = {0};
    ht_shape shape = tiny();
    ht_gpu *gpu = open_emu();
    sparse s;

    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        for (int i = 0; i < arrays[a].n; i++) arrays[a].v[i] = (float)ht_random_normal(3, a, (uint64_t)i, 0) / (a > 1 ? 8 : 1);
    shape.n_embd = D, shape.n_ff = F;
    ht_ops_limits limits = {.columns = 2, .sequences = 2, .context = 64, .shape = shape, .act = HT_ACT_F32};
    cr_assert(ht_kv_layout_init(&limits.kv, &shape, HT_F32, HT_F32, &err) == 0);
    cr_assert(ht_gpu_backend_open(&s.b, &(ht_gpu_backend_options){.limits = limits, .gpu = gpu, .resident = true}, &err) == 0);
    s.x = device_array(s.b, x, sizeof x), s.gain = device_array(s.b, gain, sizeof gain);
    s.select = device_array(s.b, select, sizeof select), s.pay = device_array(s.b, pay, sizeof pay);
    s.up_bias = device_array(s.b, bias, sizeof bias), s.h = device_array(s.b, NULL, 2 * F * 4);
    s.list = device_array(s.b, NULL, 2 * F * 4), s.count = device_array(s.b, NULL, 8);
    for (int cut = 0; cut < 2; cut++) { /* all neurons at once, and in two ranges */
        static const float zero[2 * D];
        s.y = device_array(s.b, zero, sizeof zero);
        begin(s.b, 2);
        run_sparse(&s, gated, 0, cut ? FIRST : F);
        if (cut) run_sparse(&s, gated, FIRST, RANGE);
        cr_assert(s.b->ops->download(s.b, cut ? parts : whole, s.y, sizeof whole, &err) == 0);
        cr_assert(s.b->ops->sync(s.b, &err) == 0, "%s", err.text);
        s.b->ops->free(s.b, s.y);
    }
    for (int c = 0; c < 2; c++) {
        double want[D];
        sparse_in_double(x + c * D, gain, select, pay, bias, gated, want);
        for (int i = 0; i < D; i++) {
            cr_assert(fabs(whole[c * D + i] - want[i]) < 1e-5, "column %d, element %d: %g, expected %g", c, i,
                      (double)whole[c * D + i], want[i]);
            cr_assert(fabs(parts[c * D + i] - want[i]) < 1e-5, "in two ranges: column %d, element %d", c, i);
        }
    }
    void *const all[] = {s.x, s.gain, s.select, s.pay, s.up_bias, s.h, s.list, s.count};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) s.b->ops->free(s.b, all[i]);
    s.b->ops->close(s.b);
    gpu->device.ops->close(&gpu->device);
}

Test(features, sparse_ffn) { compare_sparse(false); }
Test(features, sparse_gated_ffn) { compare_sparse(true); }
