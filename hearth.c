/* The composition root: the one file that knows every module. It opens them, wires them, closes them, and turns the
 * public API into calls of theirs. No computing here.
 *
 * An engine is a stack, opened upwards and closed downwards: model and tokenizer, thread pool, device (if any), backend,
 * store, engine. Backend and store are of one place: CPU and RAM, or a device and its memory.
 */
#include "hearth.h"

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/engine/batch.h"
#include "core/engine/generate.h"
#include "core/model/chat.h"
#include "core/model/inspect.h"
#include "core/model/model.h"
#include "core/model/safetensors.h"
#include "core/model/synth.h"
#include "core/model/tokenizer.h"
#include "cpu/bench.h"
#include "cpu/host.h"
#include "gpu/backend.h"
#include "gpu/device_store.h"
#include "offload/ram_store.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_CHUNK = 512, MOST_CONTEXT = 1 << 24, MOST_SESSIONS = 1 << 16 };

struct hearth_vocab { ht_tokenizer *tokenizer; /* owned */ };

struct hearth_engine {
    ht_model *model;           /* owned, as all below */
    hearth_vocab vocab;
    ht_pool *pool;
    ht_isa isa;
    ht_gpu *gpu;               /* NULL: the CPU computes */
    ht_device_info device;     /* of gpu */
    ht_backend *backend;
    ht_store *store;
    ht_engine *engine;
    ht_load_stats load;
    ht_session **sessions;     /* [sessions]: arguments of the running call */
    ht_prompt *prompts;        /* [sessions] */
};

struct hearth_session { hearth_engine *engine; /* borrowed */ ht_session *session; /* owned */ };
struct hearth_sampler { ht_sampler *sampler; /* owned */ };
struct hearth_text { ht_text text; };
struct hearth_batch { ht_batch *batch; /* owned */ hearth_batch_events events; };

/* ---- errors --------------------------------------------------------------------------------------------- */

/* Hands an error out: to be called last, with the result. */
static int give_error(int r, const ht_error *from, hearth_error *to)
{
    if (r < 0 && to) {
        to->code = r;
        snprintf(to->text, sizeof(to->text), "%s", from->text);
    }
    return r;
}

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
    size_t vram;
    bool quiet;
} settings;

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

static int read_names(settings *s, const hearth_options *o, ht_error *err)
{
    static const char *const activations[] = {"q8", "f32", NULL}, *const kv[] = {"f16", "f32", "q8_0", "q4_0", NULL},
                             *const loads[] = {"auto", "mmap", "read", NULL},
                             *const devices[] = {"none", "cuda", "emu", NULL};
    static const ht_type kv_types[] = {HT_F16, HT_F32, HT_Q8_0, HT_Q4_0};
    static const ht_load_mode load_modes[] = {HT_LOAD_AUTO, HT_LOAD_MMAP, HT_LOAD_READ};
    int act, k, v, load, device;

    int r = choose("activations", o->activations, activations, &act, err);
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

static int check_range(const char *option, int64_t value, int64_t low, int64_t high, ht_error *err)
{
    if (value >= low && value <= high) return 0;
    return ht_fail(err, -EINVAL, "%s %lld is outside of %lld..%lld", option, (long long)value, (long long)low,
                   (long long)high);
}

static int read_numbers(settings *s, const hearth_options *o, const ht_shape *shape, ht_error *err)
{
    s->threads = o->threads;
    s->context = o->context ? o->context : shape->n_context < DEFAULT_CONTEXT ? shape->n_context : DEFAULT_CONTEXT;
    s->sessions = o->sessions ? o->sessions : 1;
    s->chunk = o->chunk ? o->chunk : DEFAULT_CHUNK;
    int r = check_range("threads", o->threads, 0, 1024, err);
    if (r >= 0) r = check_range("context", s->context, 1, MOST_CONTEXT, err);
    if (r >= 0) r = check_range("sessions", s->sessions, 1, MOST_SESSIONS, err);
    if (r >= 0) r = check_range("chunk", s->chunk, 1, 1 << 16, err);
    if (r >= 0) r = check_range("KV tokens", o->kv_tokens, 0, INT32_MAX, err);
    if (r < 0) return r;
    if (s->chunk > (int64_t)s->context * s->sessions) s->chunk = s->context * s->sessions; /* never more at once */
    if (s->chunk < s->sessions) s->chunk = s->sessions;
    int64_t pages = o->kv_tokens ? ht_kv_pages_of(o->kv_tokens) : (int64_t)s->sessions * ht_kv_pages_of(s->context);
    r = check_range("KV pages", pages, 1, INT32_MAX / 2, err);
    if (r < 0) return r;
    s->kv_pages = (int32_t)pages;
    if (s->context > shape->n_context)
        ht_log(HT_LOG_WARN, "a context of %d tokens is more than the %d that this model was trained for", s->context,
               shape->n_context);
    return 0;
}

static int open_on_host(hearth_engine *e, const settings *s, const ht_ops_limits *limits, ht_error *err)
{
    int r = ht_host_open(&e->backend, &(ht_host_options){.limits = *limits, .pool = e->pool, .isa = s->isa}, err);
    if (r < 0) return r;
    const ht_ram_store_options store = {
        .model = e->model, .kv = limits->kv, .kv_pages = s->kv_pages, .load = s->load, .quiet = s->quiet};
    return ht_ram_store_open(&e->store, &store, &e->load, err);
}

/* Wholly on a device. The store comes last and knows what the engine will still take. */
static int open_on_device(hearth_engine *e, const settings *s, const ht_ops_limits *limits, ht_error *err)
{
    ht_device_store_options store = {.model = e->model, .kv = limits->kv, .kv_pages = s->kv_pages, .quiet = s->quiet};
    double started = ht_now();

    int r = ht_forward_bytes(limits, HT_DEVICE_ALIGN, &store.reserve, err);
    if (r >= 0)
        r = s->device == DEVICE_CUDA ? ht_device_cuda_open(&e->gpu, 0, s->vram, err)
                                     : ht_device_emu_open(&e->gpu, &(ht_emu_options){.budget = s->vram}, err);
    if (r >= 0)
        r = ht_gpu_backend_open(&e->backend,
                                &(ht_gpu_backend_options){.limits = *limits, .gpu = e->gpu, .resident = true}, err);
    if (r >= 0) e->gpu->device.ops->info(&e->gpu->device, &e->device);
    store.gpu = e->gpu;
    if (r >= 0) r = ht_device_store_open(&e->store, &store, err);
    e->load = (ht_load_stats){e->model->weight_bytes, ht_now() - started, "uploaded"};
    return r;
}

static int open_compute(hearth_engine *e, const settings *s, ht_error *err)
{
    ht_ops_limits limits = {
        .columns = s->chunk,
        .sequences = s->sessions,
        .context = s->context,
        .shape = e->model->shape,
        .act = s->act,
    };

    int r = ht_kv_layout_init(&limits.kv, &e->model->shape, s->k_type, s->v_type, err);
    if (r >= 0) r = ht_pool_open(&e->pool, &(ht_pool_options){.threads = s->threads, .pin = false}, err);
    if (r >= 0) r = s->device ? open_on_device(e, s, &limits, err) : open_on_host(e, s, &limits, err);
    if (r >= 0)
        r = ht_engine_open(&e->engine,
                           &(ht_engine_options){.backend = e->backend, .store = e->store, .chunk = s->chunk}, err);
    return r;
}

static int open_tokenizer(hearth_engine *e, const char *path, ht_error *err)
{
    if (!e->model->folder) return ht_tokenizer_from_gguf(&e->vocab.tokenizer, &e->model->gguf, err);
    int r = ht_tokenizer_from_hf(&e->vocab.tokenizer, path, err);
    int32_t n = r < 0 ? 0 : ht_tokenizer_size(e->vocab.tokenizer), rows = e->model->shape.n_vocab;
    if (r >= 0 && n > rows) r = ht_fail(err, -EINVAL, "the tokenizer has %d tokens, the embedding %d rows", n, rows);
    return r < 0 ? ht_error_prefix(err, "%s", path) : r;
}

static int open_engine(hearth_engine *e, const hearth_options *options, ht_error *err)
{
    settings s = {0};

    if (!options->model) return ht_fail(err, -EINVAL, "no model was named");
    int r = read_names(&s, options, err);
    if (r >= 0) r = ht_model_open(&e->model, options->model, err);
    if (r >= 0) r = read_numbers(&s, options, &e->model->shape, err);
    if (r >= 0) ht_model_fit_context(e->model, s.context);
    if (r >= 0) r = open_tokenizer(e, options->model, err);
    if (r < 0) return r;
    e->isa = s.isa;
    e->sessions = ht_alloc((size_t)s.sessions, sizeof(*e->sessions));
    e->prompts = ht_alloc((size_t)s.sessions, sizeof(*e->prompts));
    if (!e->sessions || !e->prompts) return ht_fail(err, -ENOMEM, "out of memory for %d sessions", s.sessions);
    return open_compute(e, &s, err);
}

int hearth_engine_open(hearth_engine **out, const hearth_options *options, hearth_error *error)
{
    ht_error err = {0};
    hearth_engine *e = ht_calloc(1, sizeof(*e));

    *out = NULL;
    if (!e) return give_error(ht_fail(&err, -ENOMEM, "out of memory for the engine"), &err, error);
    int r = open_engine(e, options, &err);
    if (r < 0) hearth_engine_close(&e);
    else *out = e;
    return give_error(r < 0 ? r : 0, &err, error);
}

void hearth_engine_close(hearth_engine **engine)
{
    hearth_engine *e = *engine;

    if (!e) return;
    ht_engine_close(&e->engine);
    if (e->store) e->store->ops->close(e->store);
    if (e->backend) e->backend->ops->close(e->backend);
    if (e->gpu) e->gpu->device.ops->close(&e->gpu->device);
    ht_pool_close(&e->pool);
    ht_tokenizer_close(&e->vocab.tokenizer);
    ht_model_close(&e->model);
    ht_free(e->sessions);
    ht_free(e->prompts);
    ht_free(e);
    *engine = NULL;
}

void hearth_engine_info(const hearth_engine *e, hearth_model_info *out)
{
    const ht_model *m = e->model;
    const ht_shape *s = &m->shape;
    uint64_t token_bytes = m->weight_bytes;

    if (m->output.tensor != m->embd.tensor) { /* else the table is read as the output matrix */
        const ht_tensor_info *t = &m->dir->tensors[m->embd.tensor];
        token_bytes -= t->bytes - ht_row_bytes(ht_type_get(t->type), t->dim[0]);
    }
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
        .n_context = e->engine->limits->context,
        .n_parameters = m->n_parameters,
        .weight_bytes = m->weight_bytes,
        .token_bytes = token_bytes,
        .isa = ht_isa_name(e->isa),
        .threads = ht_pool_threads(e->pool),
        .device = e->gpu ? e->device.name : NULL,
    };
}

const hearth_vocab *hearth_engine_vocab(const hearth_engine *engine) { return &engine->vocab; }

void hearth_engine_cancel(hearth_engine *engine, bool cancel)
{
    atomic_store_explicit(&engine->engine->cancel, cancel, memory_order_relaxed);
}

void hearth_engine_on_prompt(hearth_engine *engine, hearth_progress *progress, void *user)
{
    engine->engine->progress = progress;
    engine->engine->progress_user = user;
}

void hearth_engine_stats(const hearth_engine *engine, hearth_stats *out)
{
    const ht_engine_stats *s = &engine->engine->stats;

    *out = (hearth_stats){
        .load_seconds = engine->load.seconds,
        .prompt_seconds = s->prompt_seconds,
        .decode_seconds = s->decode_seconds,
        .prompt_tokens = s->prompt_tokens,
        .reused_tokens = s->reused_tokens,
        .decode_tokens = s->decode_tokens,
        .drafted_tokens = s->drafted_tokens,
        .accepted_tokens = s->accepted_tokens,
        .load_bytes = engine->load.bytes,
        .logits_hash = s->logits_hash,
    };
}

/* ---- vocabulary ----------------------------------------------------------------------------------------- */

int hearth_vocab_open(hearth_vocab **out, const char *path, hearth_error *error)
{
    ht_error err = {0};
    ht_gguf gguf = {0};
    hearth_vocab *v = ht_calloc(1, sizeof(*v));

    *out = NULL;
    bool folder = ht_is_folder(path);
    int r = !v       ? ht_fail(&err, -ENOMEM, "out of memory for a vocabulary")
            : folder ? ht_tokenizer_from_hf(&v->tokenizer, path, &err)
                     : ht_gguf_open(&gguf, path, &err);
    if (folder && r < 0) ht_error_prefix(&err, "%s", path);
    if (r >= 0 && !folder) {
        r = ht_tokenizer_from_gguf(&v->tokenizer, &gguf, &err);
        ht_gguf_close(&gguf);
        if (r < 0) ht_error_prefix(&err, "%s", path);
    }
    if (r < 0) hearth_vocab_close(&v);
    else *out = v;
    return give_error(r < 0 ? r : 0, &err, error);
}

void hearth_vocab_close(hearth_vocab **vocab)
{
    if (!*vocab) return;
    ht_tokenizer_close(&(*vocab)->tokenizer);
    ht_free(*vocab);
    *vocab = NULL;
}

int64_t hearth_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags, int32_t *ids,
                      int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    unsigned f = (flags & HEARTH_BOS ? HT_ENCODE_BOS : 0) | (flags & HEARTH_SPECIAL ? HT_ENCODE_SPECIAL : 0);
    int64_t n = ht_tokenizer_encode(vocab->tokenizer, text, bytes, f, ids, capacity, &err);

    return n < 0 ? give_error((int)n, &err, error) : n;
}

int64_t hearth_decode(const hearth_vocab *vocab, const int32_t *ids, int64_t n, bool special, char *out,
                      int64_t capacity)
{
    return ht_tokenizer_decode(vocab->tokenizer, ids, n, special, out, capacity);
}

int32_t hearth_vocab_size(const hearth_vocab *vocab) { return ht_tokenizer_size(vocab->tokenizer); }

bool hearth_vocab_is_end(const hearth_vocab *vocab, int32_t id)
{
    return ht_tokenizer_is_end(vocab->tokenizer, id);
}

int hearth_stream_decode(const hearth_vocab *vocab, hearth_stream *stream, int32_t id, char *out, int capacity)
{
    ht_utf8_stream s;

    _Static_assert(sizeof(s) <= sizeof(stream->state), "the public stream holds the internal one");
    memcpy(&s, stream->state, sizeof(s));
    int n = ht_tokenizer_stream(vocab->tokenizer, &s, id, out, capacity);
    memcpy(stream->state, &s, sizeof(s));
    return n;
}

/* The format that was asked for, or the model's own. */
static int chat_format(const hearth_vocab *vocab, const char *name, ht_chat_format *out, ht_error *err)
{
    const char *source = ht_tokenizer_chat_template(vocab->tokenizer);

    if (name) return ht_chat_by_name(name, out, err);
    if (!source)
        return ht_fail(err, -ENOTSUP, "the model has no chat template: name a format (--chat-template NAME, e.g. chatml)");
    return ht_chat_detect(source, out, err);
}

static int64_t render_chat(const hearth_vocab *vocab, const char *format, const hearth_message *messages, int n,
                           bool open_answer, char *out, int64_t capacity, ht_chat_quotes *quotes, ht_error *err)
{
    enum { MOST_SYSTEM = 4096 };
    ht_chat_format f;
    char system[MOST_SYSTEM] = "";
    ht_chat_message *inner = NULL;

    int64_t r = chat_format(vocab, format, &f, err);
    if (r >= 0 && (n < 0 || !(inner = ht_alloc((size_t)n, sizeof(*inner)))))
        r = ht_fail(err, n < 0 ? -EINVAL : -ENOMEM, "no room for %d messages", n);
    if (r >= 0) {
        for (int i = 0; i < n; i++) inner[i] = (ht_chat_message){messages[i].role, messages[i].content};
        if (!format) ht_chat_default_system(ht_tokenizer_chat_template(vocab->tokenizer), system, sizeof(system));
        r = ht_chat_render_quoted(f, system[0] ? system : NULL, inner, n, open_answer, out, capacity, quotes, err);
    }
    ht_free(inner);
    return r;
}

int64_t hearth_chat_render(const hearth_vocab *vocab, const char *format, const hearth_message *messages, int n,
                           bool open_answer, char *out, int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    int64_t r = render_chat(vocab, format, messages, n, open_answer, out, capacity, NULL, &err);

    return r < 0 ? give_error((int)r, &err, error) : r;
}

/* The quotes of text[from, ...), counted from there. */
static void move_quotes(ht_chat_quotes *q, size_t from)
{
    int32_t kept = 0;

    for (int32_t i = 0; i < q->n; i++) {
        ht_text_span s = q->spans[i];
        if (s.end <= from) continue;
        q->spans[kept++] = (ht_text_span){s.begin > from ? s.begin - from : 0, s.end - from};
    }
    q->n = kept;
}

int64_t hearth_chat_encode(const hearth_vocab *vocab, const char *format, const hearth_message *messages, int n,
                           bool open_answer, int64_t from, int32_t *ids, int64_t capacity, hearth_error *error)
{
    ht_error err = {0};
    char none[1], *text = NULL;
    ht_chat_quotes quotes = {.spans = ht_alloc(2 * (size_t)(n > 0 ? n : 0) + 1, sizeof(*quotes.spans))};

    int64_t r = render_chat(vocab, format, messages, n, open_answer, none, 0, NULL, &err);
    if (r >= 0 && (from < 0 || from > r))
        r = ht_fail(&err, -EINVAL, "byte %lld of a prompt of %lld", (long long)from, (long long)r);
    if (r >= 0 && (!quotes.spans || !(text = ht_alloc((size_t)r, 1))))
        r = ht_fail(&err, -ENOMEM, "out of memory for a prompt");
    if (r >= 0) r = render_chat(vocab, format, messages, n, open_answer, text, r, &quotes, &err);
    if (r >= 0) {
        unsigned flags = HT_ENCODE_SPECIAL | (from ? 0 : HT_ENCODE_BOS);
        move_quotes(&quotes, (size_t)from);
        r = ht_tokenizer_encode_quoted(vocab->tokenizer, text + from, (size_t)(r - from), flags, quotes.spans, quotes.n, ids,
                                       capacity, &err);
    }
    ht_free(text);
    ht_free(quotes.spans);
    return r < 0 ? give_error((int)r, &err, error) : r;
}

/* ---- sessions ------------------------------------------------------------------------------------------- */

/* The public handle around an internal session, which is closed if there is no memory for it. */
static int wrap_session(hearth_session **out, hearth_engine *engine, ht_session *session, ht_error *err)
{
    hearth_session *s = ht_calloc(1, sizeof(*s));

    if (!s) {
        ht_session_close(&session);
        return ht_fail(err, -ENOMEM, "out of memory for a session");
    }
    *s = (hearth_session){engine, session};
    *out = s;
    return 0;
}

int hearth_session_open(hearth_session **out, hearth_engine *engine, const hearth_session_options *options,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_session *s;

    *out = NULL;
    int r = ht_session_open(&s, engine->engine, options->id, options->context, &err);
    if (r >= 0) r = wrap_session(out, engine, s, &err);
    return give_error(r, &err, error);
}

void hearth_session_close(hearth_session **session)
{
    if (!*session) return;
    ht_session_close(&(*session)->session);
    ht_free(*session);
    *session = NULL;
}

int hearth_session_sync(hearth_session *session, const int32_t *tokens, int64_t n, hearth_error *error)
{
    return hearth_sync_many(&(hearth_prompt){session, tokens, n}, 1, error);
}

static int check_sessions(const hearth_engine *e, int32_t n, ht_error *err)
{
    return check_range("the number of sessions in a call", n, 1, e->engine->limits->sequences, err);
}

int hearth_sync_many(const hearth_prompt *prompts, int32_t n, hearth_error *error)
{
    ht_error err = {0};

    if (n == 0) return 0;
    hearth_engine *e = prompts[0].session->engine;
    int r = check_sessions(e, n, &err);
    if (r >= 0) {
        for (int32_t i = 0; i < n; i++)
            e->prompts[i] = (ht_prompt){prompts[i].session->session, prompts[i].tokens, prompts[i].n};
        r = ht_session_sync(e->prompts, n, &err);
    }
    return give_error(r, &err, error);
}

int hearth_session_score(hearth_session *session, const int32_t *tokens, int64_t n, int64_t first,
                         hearth_logits_sink *sink, void *user, hearth_error *error)
{
    ht_error err = {0};
    int r = ht_session_score(session->session, tokens, n, first, sink, user, &err);

    return give_error(r, &err, error);
}

int hearth_decode_step(hearth_session *const *sessions, const int32_t *tokens, int32_t n, hearth_error *error)
{
    ht_error err = {0};

    if (n == 0) return 0;
    hearth_engine *e = sessions[0]->engine;
    int r = check_sessions(e, n, &err);
    if (r >= 0) {
        for (int32_t i = 0; i < n; i++) e->sessions[i] = sessions[i]->session;
        r = ht_session_decode(e->sessions, tokens, n, &err);
    }
    return give_error(r, &err, error);
}

int hearth_session_append(hearth_session *session, int32_t token, hearth_error *error)
{
    return hearth_decode_step(&session, &token, 1, error);
}

int hearth_session_fork(hearth_session **out, const hearth_session *session, const hearth_session_options *options,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_session *s;

    *out = NULL;
    int r = ht_session_fork(&s, session->session, options->id, options->context, &err);
    if (r >= 0) r = wrap_session(out, session->engine, s, &err);
    return give_error(r, &err, error);
}

int hearth_session_truncate(hearth_session *session, int64_t n, hearth_error *error)
{
    ht_error err = {0};

    return give_error(ht_session_truncate(session->session, n, &err), &err, error);
}

const float *hearth_session_logits(const hearth_session *session)
{
    return session->session->has_logits ? session->session->logits : NULL;
}

int64_t hearth_session_tokens(const hearth_session *session, const int32_t **tokens)
{
    if (tokens) *tokens = session->session->tokens;
    return session->session->n_tokens;
}

/* ---- sampling ------------------------------------------------------------------------------------------- */

/* The options, with a copy of the biases that the caller frees. */
static int sampler_options(ht_sampler_options *out, ht_logit_bias **copy, const hearth_sampler_options *o, ht_error *err)
{
    *copy = NULL;
    int r = check_range("the number of logit biases", o->n_logit_bias, 0, INT32_MAX, err);
    if (r < 0) return r;
    ht_logit_bias *bias = ht_alloc((size_t)o->n_logit_bias, sizeof(*bias));
    if (!bias) return ht_fail(err, -ENOMEM, "out of memory for %d logit biases", o->n_logit_bias);
    for (int32_t i = 0; i < o->n_logit_bias; i++) bias[i] = (ht_logit_bias){o->logit_bias[i].id, o->logit_bias[i].bias};
    *copy = bias;
    *out = (ht_sampler_options){
        .logit_bias = bias,
        .n_logit_bias = o->n_logit_bias,
        .repeat_penalty = o->repeat_penalty,
        .frequency_penalty = o->frequency_penalty,
        .presence_penalty = o->presence_penalty,
        .penalty_last_n = o->penalty_last_n,
        .top_k = o->top_k,
        .typical_p = o->typical_p,
        .top_p = o->top_p,
        .min_p = o->min_p,
        .temperature = o->temperature,
        .seed = o->seed,
        .logprobs = o->logprobs,
    };
    return 0;
}

static hearth_sampled public_sampled(const ht_sampled *d)
{
    hearth_sampled out = {.id = d->id, .logprob = d->logprob, .n_top = d->n_top};

    _Static_assert(sizeof(out.top) == sizeof(d->top), "as many alternatives outside as inside");
    for (int32_t i = 0; i < d->n_top; i++) out.top[i] = (hearth_token_logprob){d->top[i].id, d->top[i].logprob};
    return out;
}

int hearth_sampler_open(hearth_sampler **out, const hearth_engine *engine, const hearth_sampler_options *o,
                        hearth_error *error)
{
    ht_error err = {0};
    ht_sampler_options inner;
    ht_logit_bias *bias = NULL;
    hearth_sampler *s = ht_calloc(1, sizeof(*s));

    *out = NULL;
    int r = s ? sampler_options(&inner, &bias, o, &err) : ht_fail(&err, -ENOMEM, "out of memory for a sampler");
    if (r >= 0) r = ht_sampler_open(&s->sampler, engine->engine->limits->shape.n_vocab, &inner, &err);
    ht_free(bias);
    if (r < 0) hearth_sampler_close(&s);
    else *out = s;
    return give_error(r < 0 ? r : 0, &err, error);
}

void hearth_sampler_close(hearth_sampler **sampler)
{
    if (!*sampler) return;
    ht_sampler_close(&(*sampler)->sampler);
    ht_free(*sampler);
    *sampler = NULL;
}

void hearth_sampler_seed(hearth_sampler *sampler, uint64_t seed) { sampler->sampler->options.seed = seed; }

int32_t hearth_sample(hearth_sampler *sampler, const hearth_session *session, hearth_sampled *detail)
{
    const ht_session *s = session->session;
    ht_sampled d;

    if (!s->has_logits) return -ENODATA;
    int32_t id = ht_sampler_draw(sampler->sampler, s->logits, s->tokens, s->n_tokens, s->id, detail ? &d : NULL);
    if (id >= 0 && detail) *detail = public_sampled(&d);
    return id;
}

/* ---- generated text ------------------------------------------------------------------------------------- */

int hearth_text_open(hearth_text **out, const hearth_vocab *vocab, const hearth_text_options *o, hearth_error *error)
{
    ht_error err = {0};
    hearth_text *t = ht_calloc(1, sizeof(*t));

    *out = NULL;
    const ht_text_options inner = {o->stop, o->n_stop, o->special, o->continues};
    int r = t ? ht_text_open(&t->text, vocab->tokenizer, ht_text_longest(vocab->tokenizer), &inner, &err)
              : ht_fail(&err, -ENOMEM, "out of memory for generated text");
    if (r < 0) ht_free(t);
    else *out = t;
    return give_error(r < 0 ? r : 0, &err, error);
}

void hearth_text_close(hearth_text **text)
{
    if (!*text) return;
    ht_text_close(&(*text)->text);
    ht_free(*text);
    *text = NULL;
}

int hearth_text_feed(hearth_text *text, int32_t id, const char **out, size_t *bytes)
{
    return ht_text_feed(&text->text, id, out, bytes);
}

int32_t hearth_text_stop(const hearth_text *text) { return text->text.stop.found; }
void hearth_text_reset(hearth_text *text) { ht_text_reset(&text->text); }

typedef struct shown { hearth_generate_sink *sink; void *user; } shown;

static bool show_token(void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    const shown *s = user;
    hearth_sampled t = public_sampled(token);

    return s->sink(s->user, &t, text, bytes);
}

int hearth_generate(hearth_session *session, hearth_sampler *sampler, const hearth_generate_options *o,
                    hearth_generated *out, hearth_error *error)
{
    ht_error err = {0};
    ht_generated inner;
    shown show = {o->sink, o->user};
    const ht_generate_options options = {
        .text = {o->text.stop, o->text.n_stop, o->text.special, o->text.continues},
        .max_tokens = o->max_tokens,
        .ignore_end = o->ignore_end,
        .logprobs = o->logprobs,
        .speculation = (ht_speculation)o->speculation,
        .sink = o->sink ? show_token : NULL,
        .user = &show,
    };

    int r = ht_generate(session->session, sampler->sampler, session->engine->vocab.tokenizer, &options, &inner, &err);
    *out = (hearth_generated){(hearth_finish)inner.finish, inner.n_tokens, inner.stop};
    return give_error(r, &err, error);
}

/* ---- batches -------------------------------------------------------------------------------------------- */

static void batch_token(void *context, void *user, const ht_sampled *token, const char *text, size_t bytes)
{
    const hearth_batch *b = context;
    hearth_sampled t = public_sampled(token);

    if (b->events.token) b->events.token(user, &t, text, bytes);
}

static void batch_done(void *context, void *user, ht_finish finish, int32_t n_tokens, int32_t stop, const ht_error *from)
{
    const hearth_batch *b = context;
    hearth_error error;

    if (from) give_error(from->code, from, &error);
    if (b->events.done) b->events.done(user, (hearth_finish)finish, n_tokens, stop, from ? &error : NULL);
}

int hearth_batch_open(hearth_batch **out, hearth_engine *engine, const hearth_batch_options *o, hearth_error *error)
{
    ht_error err = {0};
    hearth_batch *b = ht_calloc(1, sizeof(*b));
    const ht_batch_options inner = {
        .engine = engine->engine,
        .tokenizer = engine->vocab.tokenizer,
        .slots = o->slots,
        .in_order = o->in_order,
        .speculation = (ht_speculation)o->speculation,
        .events = {.token = batch_token, .done = batch_done, .context = b},
    };

    *out = NULL;
    int r = b ? ht_batch_open(&b->batch, &inner, &err) : ht_fail(&err, -ENOMEM, "out of memory for a batch");
    if (r >= 0) b->events = o->events;
    if (r < 0) hearth_batch_close(&b);
    else *out = b;
    return give_error(r < 0 ? r : 0, &err, error);
}

void hearth_batch_close(hearth_batch **batch)
{
    if (!*batch) return;
    ht_batch_close(&(*batch)->batch);
    ht_free(*batch);
    *batch = NULL;
}

int hearth_batch_add(hearth_batch *batch, const hearth_request *q, hearth_error *error)
{
    ht_error err = {0};
    ht_logit_bias *bias;
    ht_request inner = {
        .id = q->id,
        .tokens = q->tokens,
        .n = q->n,
        .text = {q->text.stop, q->text.n_stop, q->text.special, q->text.continues},
        .max_tokens = q->max_tokens,
        .ignore_end = q->ignore_end,
        .logprobs = q->logprobs,
        .expected = q->expected,
        .user = q->user,
    };

    int r = sampler_options(&inner.sampler, &bias, &q->sampler, &err);
    if (r >= 0) r = ht_batch_add(batch->batch, &inner, &err);
    ht_free(bias);
    return give_error(r < 0 ? r : 0, &err, error);
}

int64_t hearth_batch_step(hearth_batch *batch, hearth_error *error)
{
    ht_error err = {0};
    int64_t r = ht_batch_step(batch->batch, &err);

    return r < 0 ? give_error((int)r, &err, error) : r;
}

void hearth_batch_stats(const hearth_batch *batch, hearth_batch_counts *out)
{
    const ht_batch *b = batch->batch;
    const ht_batch_stats *s = &b->stats;

    *out = (hearth_batch_counts){
        .queued = b->queue_end - b->queue_first,
        .running = b->n_running,
        .finished = s->finished,
        .failed = s->failed,
        .passes = s->passes,
        .columns = s->columns,
        .wasted_columns = s->wasted_columns,
        .slot_passes = s->slot_passes,
        .used_slot_passes = s->used_slot_passes,
        .prompt_tokens = s->prompt_tokens,
        .reused_tokens = s->reused_tokens,
        .generated_tokens = s->generated_tokens,
        .drafted_tokens = s->drafted_tokens,
        .accepted_tokens = s->accepted_tokens,
        .interrupted = s->interrupted,
        .seconds = s->seconds,
    };
}

/* ---- tools ---------------------------------------------------------------------------------------------- */

int hearth_inspect(const char *path, bool json, hearth_line_sink *line, void *user, hearth_error *error)
{
    ht_error err = {0};

    return give_error(ht_inspect(path, json, line, user, &err), &err, error);
}

int hearth_synth(const char *path, const hearth_synth_options *o, hearth_error *error)
{
    ht_error err = {0};
    const ht_synth_options inner = {
        .shape = o->shape,
        .n_layers = o->n_layers,
        .n_embd = o->n_embd,
        .n_ff = o->n_ff,
        .n_heads = o->n_heads,
        .n_kv_heads = o->n_kv_heads,
        .head_dim = o->head_dim,
        .n_vocab = o->n_vocab,
        .n_context = o->n_context,
        .type = o->type,
        .activation = o->activation,
        .vocab = o->vocab,
        .tied = o->tied,
        .seed = o->seed,
        .quiet = o->quiet,
    };

    return give_error(ht_synth(path, &inner, &err), &err, error);
}

const char *hearth_synth_shapes(void) { return ht_synth_shapes(); }

double hearth_measure_read_bandwidth(int32_t threads, int32_t repeats)
{
    double bytes = ht_measure_read_bandwidth(threads > 0 ? threads : ht_cpu_allowed(), repeats);

    return bytes > 0 ? bytes : 0;
}

int hearth_bench_kernel(hearth_kernel_bench *b, hearth_error *error)
{
    ht_error err = {0};
    ht_kernel_bench inner = {
        .f32 = b->activations && !strcmp(b->activations, "f32"),
        .threads = b->threads > 0 ? b->threads : ht_cpu_allowed(),
        .columns = b->columns,
        .rows = b->rows,
        .cols = b->cols,
        .repeats = b->repeats,
    };
    int r = 0;

    b->threads = inner.threads;
    if (!ht_type_by_name(b->type, &inner.type)) r = ht_fail(&err, -EINVAL, "type '%s' is not known", b->type);
    else if (!ht_isa_by_name(b->isa, &inner.isa)) r = ht_fail(&err, -EINVAL, "CPU level '%s' is not known", b->isa);
    if (r >= 0) r = ht_cpu_bench_kernel(&inner, &err);
    b->bytes_per_second = inner.bytes_per_second;
    b->macs_per_second = inner.macs_per_second;
    return give_error(r < 0 ? r : 0, &err, error);
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
