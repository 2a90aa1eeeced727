/* The composition root: the one file that knows every module. It opens them, wires them, closes them. No computing here,
 * and no calls of the public API beyond that: those that need an open engine, or none, are in api/.
 *
 * An engine is a stack, opened upwards and closed downwards: model and tokenizer, thread pool, device (if any), sites,
 * engine. A site is a backend and its store: CPU and RAM, or a device and its memory.
 */
#include "api/handles.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/model/model.h"
#include "cpu/bench.h"
#include "cpu/host.h"
#include "cpu/read_probe.h"
#include "gpu/backend.h"
#include "gpu/device_store.h"
#include "offload/ram_store.h"

#include <string.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_CHUNK = 512, MOST_CONTEXT = 1 << 24, MOST_SESSIONS = 1 << 16 };

/* All that a public engine stands on. */
typedef struct stack {
    hearth_engine api;         /* first */
    ht_model *model;           /* owned, as all below */
    ht_pool *pool;
    ht_isa isa;
    ht_gpu *gpu;               /* NULL: the CPU computes */
    ht_device_info device;     /* of gpu */
    ht_site sites[2];          /* [n_sites], in the order of layers; those that are not open yet are NULL */
    int32_t n_sites, gpu_layers;
    ht_load_stats load;
} stack;

/* ---- engine --------------------------------------------------------------------------------------------- */

typedef enum device_kind { DEVICE_NONE, DEVICE_CUDA, DEVICE_EMU } device_kind;

/* The options with all defaults filled in. */
typedef struct settings {
    int32_t context, sessions, kv_pages, chunk, threads;
    ht_act_mode act;
    ht_type k_type, v_type;
    ht_load_mode load;
    ht_isa isa;
    device_kind device;
    int32_t gpu_layers; /* at most the model's */
    size_t vram;
    bool quiet;
} settings;

#define KV_AUTO HT_TYPE_COUNT

/* Index of `value` in a NULL-ended list; NULL: 0, the default. */
static int choose(const char *option, const char *value, const char *const *names, int *out, ht_error *err)
{
    *out = 0;
    if (!value) return 0;
    for (int i = 0; names[i]; i++)
        if (!strcmp(value, names[i])) {
            *out = i;
            return 0;
        }
    return ht_fail(err, -EINVAL, "%s: no such choice: '%s'", option, value);
}

/* 0: 8 bits, 1: F32. */
static int choose_activations(const char *value, int *out, ht_error *err)
{
    static const char *const names[] = {"q8", "f32", NULL};

    return choose("activations", value, names, out, err);
}

static int read_names(settings *s, const hearth_options *o, ht_error *err)
{
    static const char *const kv[] = {"auto", "f16", "f32", "q16", "q8_0", "q4_0", NULL},
                             *const loads[] = {"auto", "mmap", "read", NULL},
                             *const devices[] = {"none", "cuda", "emu", NULL};
    static const ht_type kv_types[] = {KV_AUTO, HT_F16, HT_F32, HT_Q16, HT_Q8_0, HT_Q4_0};
    static const ht_load_mode load_modes[] = {HT_LOAD_AUTO, HT_LOAD_MMAP, HT_LOAD_READ};
    int act, k, v, load, device;

    int r = choose_activations(o->activations, &act, err);
    if (r >= 0) r = choose("KV cache type of K", o->k_type, kv, &k, err);
    if (r >= 0) r = choose("KV cache type of V", o->v_type, kv, &v, err);
    if (r >= 0) r = choose("load", o->load, loads, &load, err);
    if (r >= 0) r = choose("device", o->device, devices, &device, err);
    if (r < 0) return r;
    s->device = (device_kind)device;
    s->vram = o->vram;
    s->quiet = o->quiet;
    s->act = act ? HT_ACT_F32 : HT_ACT_Q8;
    s->k_type = kv_types[k];
    s->v_type = kv_types[v];
    s->load = load_modes[load];
    s->isa = ht_isa_detect();
    if (!o->isa) return 0;
    ht_isa best = s->isa;
    if (!ht_isa_by_name(o->isa, &s->isa)) return ht_fail(err, -EINVAL, "CPU level '%s' is not known", o->isa);
    if (s->isa > best)
        return ht_fail(err, -ENOTSUP, "this CPU has no %s, its best level is %s", o->isa, ht_isa_name(best));
    return 0;
}

static int read_numbers(settings *s, const hearth_options *o, const ht_shape *shape, ht_error *err)
{
    s->threads = o->threads;
    s->context = o->context ? o->context : shape->n_context < DEFAULT_CONTEXT ? shape->n_context : DEFAULT_CONTEXT;
    s->sessions = o->sessions ? o->sessions : 1;
    s->chunk = o->chunk ? o->chunk : DEFAULT_CHUNK;
    s->gpu_layers = o->gpu_layers && o->gpu_layers < shape->n_layers ? o->gpu_layers : shape->n_layers;
    int r = ht_check_range("threads", o->threads, 0, 1024, err);
    if (r >= 0) r = ht_check_range("context", s->context, 1, MOST_CONTEXT, err);
    if (r >= 0) r = ht_check_range("sessions", s->sessions, 1, MOST_SESSIONS, err);
    if (r >= 0) r = ht_check_range("chunk", s->chunk, 1, 1 << 16, err);
    if (r >= 0) r = ht_check_range("GPU layers", o->gpu_layers, 0, INT32_MAX, err);
    if (r >= 0) r = ht_check_range("KV tokens", o->kv_tokens, 0, INT32_MAX, err);
    if (r >= 0 && o->gpu_layers && s->device == DEVICE_NONE)
        r = ht_fail(err, -EINVAL, "%d layers are to be computed on a GPU, but the device is none", o->gpu_layers);
    if (r >= 0 && s->vram && s->device == DEVICE_NONE)
        r = ht_fail(err, -EINVAL, "%zu MiB of device memory (vram) may be used, but the device is none",
                    (s->vram + (1 << 20) - 1) >> 20);
    if (r < 0) return r;
    if (s->chunk > (int64_t)s->context * s->sessions) s->chunk = s->context * s->sessions; /* never more at once */
    if (s->chunk < s->sessions) s->chunk = s->sessions;
    int64_t pages = o->kv_tokens ? ht_kv_pages_of(o->kv_tokens) : (int64_t)s->sessions * ht_kv_pages_of(s->context);
    r = ht_check_range("KV pages", pages, 1, INT32_MAX / 2, err);
    if (r < 0) return r;
    s->kv_pages = (int32_t)pages;
    if (s->context > shape->n_context)
        ht_log(HT_LOG_WARN, "a context of %d tokens is more than the %d that this model was trained for", s->context,
               shape->n_context);
    return 0;
}

/* From Q16_HEADS a KV head on, attention on the CPU is faster over Q16 (docs/decisions/0006); a GPU cannot read it. */
#define Q16_HEADS 3
static ht_type kv_type_of(ht_type asked, bool on_host, const ht_shape *shape)
{
    if (asked != KV_AUTO) return asked;
    bool q16 = on_host && shape->n_heads / shape->n_kv_heads >= Q16_HEADS && ht_kv_type_fits(HT_Q16, shape->head_dim);
    return q16 ? HT_Q16 : HT_F16;
}

/* Each site keeps the KV of its layers as suits it. */
static int choose_kv(ht_ops_limits *limits, const settings *s, bool on_host, ht_error *err)
{
    const ht_shape *shape = &limits->shape;
    return ht_kv_layout_init(&limits->kv, shape, kv_type_of(s->k_type, on_host, shape), kv_type_of(s->v_type, on_host, shape),
                             err);
}

static int open_on_host(stack *e, ht_site *site, const settings *s, ht_ops_limits limits, const ht_share *share,
                        ht_error *err)
{
    bool woven[HT_TYPE_COUNT];

    int r = choose_kv(&limits, s, true, err);
    if (r >= 0) r = ht_host_open(&site->backend, &(ht_host_options){.limits = limits, .pool = e->pool, .isa = s->isa}, err);
    if (r < 0) return r;
    ht_host_woven_types(s->isa, s->act, woven);
    const ht_ram_store_options store = {.model = e->model,
                                        .share = share,
                                        .kv = limits.kv,
                                        .kv_pages = s->kv_pages,
                                        .load = s->load,
                                        .quiet = s->quiet,
                                        .woven = woven,
                                        .pool = e->pool};
    return ht_ram_store_open(&site->store, &store, &e->load, err);
}

/* The store comes last and knows what the engine will still take. */
static int open_on_device(stack *e, ht_site *site, const settings *s, ht_ops_limits limits, const ht_share *share,
                          ht_error *err)
{
    ht_device_store_options store = {.model = e->model, .share = share, .kv_pages = s->kv_pages, .quiet = s->quiet};
    double started = ht_now();

    int r = choose_kv(&limits, s, false, err);
    store.kv = limits.kv;
    if (r >= 0) r = ht_forward_bytes(&limits, share->output, HT_DEVICE_ALIGN, &store.reserve, err);
    if (r >= 0)
        r = s->device == DEVICE_CUDA ? ht_device_cuda_open(&e->gpu, 0, s->vram, err)
                                     : ht_device_emu_open(&e->gpu, &(ht_emu_options){.budget = s->vram}, err);
    if (r >= 0)
        r = ht_gpu_backend_open(&site->backend,
                                &(ht_gpu_backend_options){.limits = limits, .gpu = e->gpu, .resident = true}, err);
    if (r >= 0) e->gpu->device.ops->info(&e->gpu->device, &e->device);
    store.gpu = e->gpu;
    if (r >= 0) r = ht_device_store_open(&site->store, &store, err);
    e->gpu_layers = ht_share_layers(share);
    e->load = (ht_load_stats){e->model->weight_bytes, ht_now() - started, "uploaded"};
    return r;
}

/* The CPU has the layers before those of the device, which is opened first: it says at once what does not fit. */
static int open_sites(stack *e, const settings *s, const ht_ops_limits *limits, ht_error *err)
{
    const ht_share all = ht_share_all(&e->model->shape);
    ht_share host = all, device = all;

    e->n_sites = s->device != DEVICE_NONE && s->gpu_layers < e->model->shape.n_layers ? 2 : 1;
    if (s->device == DEVICE_NONE) return open_on_host(e, &e->sites[0], s, *limits, &all, err);
    if (e->n_sites == 1) return open_on_device(e, &e->sites[0], s, *limits, &all, err);
    host.layer_end = device.layer_begin = all.layer_end - s->gpu_layers;
    host.output = device.embedding = false;
    int r = open_on_device(e, &e->sites[1], s, *limits, &device, err);
    if (r < 0) return r;
    const ht_load_stats uploaded = e->load;
    r = open_on_host(e, &e->sites[0], s, *limits, &host, err);
    e->load = (ht_load_stats){uploaded.bytes, uploaded.seconds + e->load.seconds, uploaded.how};
    return r;
}

static int open_compute(stack *e, const settings *s, ht_error *err)
{
    const ht_ops_limits limits = { /* but for the KV layout, which is the site's */
        .columns = s->chunk,
        .sequences = s->sessions,
        .context = s->context,
        .shape = e->model->shape,
        .act = s->act,
    };

    int r = ht_pool_open(&e->pool, &(ht_pool_options){.threads = s->threads, .pin = false}, err);
    if (r >= 0) r = open_sites(e, s, &limits, err);
    if (r >= 0)
        r = ht_engine_open(&e->api.engine,
                           &(ht_engine_options){.sites = e->sites, .n_sites = e->n_sites, .chunk = s->chunk}, err);
    return r;
}

static int open_engine(stack *e, const hearth_options *options, ht_error *err)
{
    settings s = {0};

    if (!options->model) return ht_fail(err, -EINVAL, "no model was named");
    int r = read_names(&s, options, err);
    if (r >= 0) r = ht_model_open(&e->model, options->model, err);
    if (r >= 0) r = read_numbers(&s, options, &e->model->shape, err);
    if (r >= 0) ht_model_fit_context(e->model, s.context);
    if (r >= 0) r = ht_model_open_tokenizer(&e->api.vocab.tokenizer, e->model, options->model, err);
    if (r < 0) return r;
    e->isa = s.isa;
    e->api.sessions = ht_alloc((size_t)s.sessions, sizeof(*e->api.sessions));
    e->api.prompts = ht_alloc((size_t)s.sessions, sizeof(*e->api.prompts));
    if (!e->api.sessions || !e->api.prompts) return ht_fail(err, -ENOMEM, "out of memory for %d sessions", s.sessions);
    return open_compute(e, &s, err);
}

int hearth_engine_open(hearth_engine **out, const hearth_options *options, hearth_error *error)
{
    ht_error err = {0};
    stack *e = ht_calloc(1, sizeof(*e));

    *out = NULL;
    if (!e) return ht_give_error(ht_fail(&err, -ENOMEM, "out of memory for the engine"), &err, error);
    hearth_engine *opened = &e->api;
    int r = open_engine(e, options, &err);
    if (r < 0) hearth_engine_close(&opened);
    *out = opened;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

void hearth_engine_close(hearth_engine **engine)
{
    stack *e = (stack *)*engine;

    if (!e) return;
    ht_engine_close(&e->api.engine);
    for (int32_t i = e->n_sites - 1; i >= 0; i--) {
        const ht_site *site = &e->sites[i];
        if (site->store) site->store->ops->close(site->store);
        if (site->backend) site->backend->ops->close(site->backend);
    }
    if (e->gpu) e->gpu->device.ops->close(&e->gpu->device);
    ht_pool_close(&e->pool);
    ht_tokenizer_close(&e->api.vocab.tokenizer);
    ht_model_close(&e->model);
    ht_free(e->api.sessions);
    ht_free(e->api.prompts);
    ht_free(e);
    *engine = NULL;
}

static uint64_t kv_token_bytes(const stack *e)
{
    const ht_shape *s = &e->model->shape;
    uint64_t bytes = 0;

    for (int32_t i = 0; i < e->n_sites; i++) {
        const ht_store *store = e->sites[i].store;
        for (int32_t l = store->share.layer_begin; l < store->share.layer_end; l++)
            if (!ht_layer_is_local(s, l))
                bytes += (uint64_t)store->kv.n_kv_heads * (store->kv.k_row_bytes + store->kv.v_row_bytes);
    }
    return bytes;
}

void hearth_engine_info(const hearth_engine *engine, hearth_model_info *out)
{
    const stack *e = (const stack *)engine;
    const ht_model *m = e->model;
    const ht_shape *s = &m->shape;

    *out = (hearth_model_info){
        .name = m->name,
        .architecture = m->architecture,
        .n_layers = s->n_layers,
        .n_embd = s->n_embd,
        .n_ff = s->n_ff,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .n_vocab = s->n_vocab,
        .n_context_train = s->n_context,
        .n_context = engine->engine->limits->context,
        .n_parameters = m->n_parameters,
        .weight_bytes = m->weight_bytes,
        .token_bytes = ht_model_token_bytes(m),
        .kv_token_bytes = kv_token_bytes(e),
        .k_type = ht_kv_type_name(e->sites[0].store->kv.k_type),
        .v_type = ht_kv_type_name(e->sites[0].store->kv.v_type),
        .isa = ht_isa_name(e->isa),
        .threads = ht_pool_threads(e->pool),
        .device = e->gpu ? e->device.name : NULL,
        .gpu_layers = e->gpu_layers,
    };
}

void hearth_engine_stats(const hearth_engine *engine, hearth_stats *out)
{
    const ht_load_stats *load = &((const stack *)engine)->load;
    const ht_engine_stats *s = &engine->engine->stats;

    *out = (hearth_stats){
        .load_seconds = load->seconds,
        .prompt_seconds = s->prompt_seconds,
        .decode_seconds = s->decode_seconds,
        .prompt_tokens = s->prompt_tokens,
        .reused_tokens = s->reused_tokens,
        .decode_tokens = s->decode_tokens,
        .drafted_tokens = s->drafted_tokens,
        .accepted_tokens = s->accepted_tokens,
        .load_bytes = load->bytes,
        .logits_hash = s->logits_hash,
    };
}

double hearth_measure_read_bandwidth(int32_t threads, int32_t repeats)
{
    double bytes = ht_measure_read_bandwidth(threads > 0 ? threads : ht_cpu_allowed(), repeats);

    return bytes > 0 ? bytes : 0;
}

/* The public probe is the port's own, under another name. */
int hearth_read_probe_open(hearth_read_probe **out, int32_t threads, hearth_error *error)
{
    ht_read_probe *p = NULL;
    ht_error err = {0};
    int r = ht_read_probe_open(&p, threads > 0 ? threads : ht_cpu_allowed(), &err);

    *out = (hearth_read_probe *)p;
    return ht_give_error(r, &err, error);
}

double hearth_read_probe_sample(hearth_read_probe *probe, uint64_t bytes)
{
    return ht_read_probe_sample((ht_read_probe *)probe, (size_t)bytes);
}

void hearth_read_probe_close(hearth_read_probe **probe)
{
    ht_read_probe *p = (ht_read_probe *)*probe;

    ht_read_probe_close(&p);
    *probe = NULL;
}

int hearth_bench_kernel(hearth_kernel_bench *b, hearth_error *error)
{
    ht_error err = {0};
    ht_kernel_bench inner = {
        .threads = b->threads > 0 ? b->threads : ht_cpu_allowed(),
        .columns = b->columns,
        .rows = b->rows,
        .cols = b->cols,
        .woven = b->woven,
        .repeats = b->repeats,
    };
    int act;

    b->threads = inner.threads;
    if (!b->type) b->type = "q4_0";
    if (!b->isa) b->isa = ht_isa_name(ht_isa_detect());
    int r = choose_activations(b->activations, &act, &err);
    inner.f32 = act;
    if (r >= 0 && !ht_type_by_name(b->type, &inner.type)) r = ht_fail(&err, -EINVAL, "type '%s' is not known", b->type);
    if (r >= 0 && !ht_isa_by_name(b->isa, &inner.isa)) r = ht_fail(&err, -EINVAL, "CPU level '%s' is not known", b->isa);
    if (r >= 0) r = ht_cpu_bench_kernel(&inner, &err);
    b->woven = inner.woven;
    b->bytes_per_second = inner.bytes_per_second;
    b->macs_per_second = inner.macs_per_second;
    return ht_give_error(r < 0 ? r : 0, &err, error);
}

const char *hearth_build_info(void)
{
#if defined(__clang__)
#define HEARTH_COMPILER "clang " __clang_version__
#else
#define HEARTH_COMPILER "gcc " __VERSION__
#endif
#if HEARTH_HAVE_CUDA
#define HEARTH_CUDA_TEXT ", with CUDA"
#else
#define HEARTH_CUDA_TEXT ", without CUDA (configured without nvcc)"
#endif
    return "hearth " HEARTH_VERSION ", " HEARTH_COMPILER HEARTH_CUDA_TEXT;
}
