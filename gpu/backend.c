/* The device backend: open, close, memory, steps. What a step computes is in backend_ops.c. Nothing is allocated, on
 * host or device, between open and close but what alloc hands out. */
#include "core/base/arith.h"
#include "core/base/memory.h"
#include "core/model/rope.h"
#include "gpu/backend_internal.h"

#include <string.h>

/* What kernels.h says anew, because CUDA includes it, is what the core says. */
_Static_assert((int)HT_K_NORM_RMS == (int)HT_NORM_RMS && (int)HT_K_NORM_LAYER == (int)HT_NORM_LAYER, "kinds of norms");
_Static_assert((int)HT_K_SILU == (int)HT_SILU && (int)HT_K_RELU == (int)HT_RELU && (int)HT_K_GELU == (int)HT_GELU &&
                   (int)HT_K_GELU_TANH == (int)HT_GELU_TANH, "activations");
_Static_assert(HT_K_TILE == HT_KV_TILE, "tokens in a KV tile");
_Static_assert(HT_K_COLUMNS == HT_DECODE_CLASS_COLUMNS, "columns of the decode class");

/* ---- scratch --------------------------------------------------------------------------------------------- */

static int32_t widest(const ht_shape *s)
{
    int32_t w = s->n_embd > s->n_ff ? s->n_embd : s->n_ff, he = s->n_heads * s->head_dim;

    return w > he ? w : he;
}

/* Splits are tiles of absolute position, so the bits do not depend on how many of them a step needs. One tile each, so that
 * a few KV heads and a short context are work for many multiprocessors; at most 64 splits: more is all scratch. */
static int32_t tiles_of_split(const ht_ops_limits *l)
{
    return (ht_kv_pages_of(l->context) + 63) / 64;
}

static int32_t most_splits(const ht_ops_limits *l)
{
    int32_t tiles = tiles_of_split(l);

    return (ht_kv_pages_of(l->context) + tiles - 1) / tiles;
}

/* The step's arrays: token, position, sequence, groups, page table (whole splits of tiles). */
static size_t step_ints(const ht_ops_limits *l)
{
    return 5 * (size_t)l->columns + (size_t)l->sequences * (size_t)(most_splits(l) * tiles_of_split(l));
}

size_t gpu_backend_mail_bytes(const ht_ops_limits *l) { return step_ints(l) * sizeof(int32_t); }

typedef struct gpu_piece { void *where; size_t bytes; const char *what; } gpu_piece;
enum { MAX_PIECES = 16 };

/* All device scratch: the one list that open allocates and the plan adds up. */
static int list_scratch(const ht_ops_limits *l, gpu_scratch *s, gpu_piece *out)
{
    const ht_shape *p = &l->shape;
    size_t columns = (size_t)l->columns, w = (size_t)widest(p), pairs = (size_t)p->rope.dims / 2,
           states = (size_t)HT_K_COLUMNS * (size_t)p->n_heads * (size_t)most_splits(l);
    const gpu_piece pieces[] = {
        {&s->step, step_ints(l) * sizeof(int32_t), "the step's arrays"},
        {&s->chosen, columns * sizeof(int32_t), "the chosen columns"},
        {&s->frequency, 2 * pairs * sizeof(double), "the RoPE frequencies"},
        {&s->angles, 2 * columns * pairs * 2 * sizeof(float), "the RoPE angles"},
        {&s->normed, columns * (size_t)p->n_embd * sizeof(float), "normed columns"},
        {&s->q8, columns * HT_K_ACT_STRIDE(w), "quantised columns"},
        {&s->twin, columns * HT_K_ACT_STRIDE(w), "quantised columns"},
        {&s->f16, columns * HT_K_HALF_STRIDE(w), "F16 columns"},
        {&s->f16_scale, columns * sizeof(float), "scales of F16 columns"},
        {&s->second, columns * (size_t)p->n_ff * sizeof(float), "FFN scratch"},
        {&s->split_max, states * sizeof(float), "attention scratch"},
        {&s->split_sum, states * sizeof(float), "attention scratch"},
        {&s->split_acc, states * (size_t)p->head_dim * sizeof(float), "attention scratch"},
        {&s->arrived, HT_K_ARRIVALS(HT_K_COLUMNS, p->n_heads) * sizeof(int32_t), "attention scratch"},
        {&s->partial, (size_t)HT_K_GROUPS(HT_K_NEURONS - 1, p->n_ff) * (size_t)p->n_embd * sizeof(float), "FFN scratch"},
    };

    memcpy(out, pieces, sizeof pieces);
    return (int)(sizeof pieces / sizeof *pieces);
}

size_t ht_gpu_backend_bytes(const ht_ops_limits *limits)
{
    gpu_scratch none = {0};
    gpu_piece pieces[MAX_PIECES];
    int n = list_scratch(limits, &none, pieces);
    size_t total = 0;

    for (int i = 0; i < n; i++) total += ht_align_up(pieces[i].bytes ? pieces[i].bytes : 1, HT_DEVICE_ALIGN);
    return total;
}

static int open_scratch(gpu_backend *b, ht_error *err)
{
    const ht_ops_limits *l = &b->base.limits;
    gpu_piece pieces[MAX_PIECES];
    int n = list_scratch(l, &b->scratch, pieces), r = 0;

    for (int i = 0; i < n && r >= 0; i++) {
        void *p = NULL;
        r = b->device->alloc(&b->gpu->device, pieces[i].bytes, pieces[i].what, &p, err);
        memcpy(pieces[i].where, &p, sizeof p);
    }
    for (int i = 0; i < MAILBOXES && r >= 0; i++) {
        r = b->device->alloc_pinned(&b->gpu->device, gpu_backend_mail_bytes(l), "the step's arrays", &b->mail[i].pinned, err);
        if (r >= 0) r = b->device->event_open(&b->gpu->device, &b->mail[i].sent, err);
    }
    if (r >= 0)
        r = b->device->fill(&b->gpu->device, b->stream, b->scratch.arrived, 0,
                            HT_K_ARRIVALS(HT_K_COLUMNS, l->shape.n_heads) * sizeof(int32_t), err);
    void *staging = NULL;
    if (r >= 0) r = b->device->alloc_pinned(&b->gpu->device, STAGING_BYTES, "staging", &staging, err);
    b->staging = staging;
    return r;
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int backend_alloc(ht_backend *base, size_t bytes, void **out, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);

    return b->device->alloc(&b->gpu->device, bytes, "a buffer of the forward pass", out, err);
}

static void backend_free(ht_backend *base, void *p)
{
    gpu_backend *b = gpu_backend_of(base);

    if (b->twin_of == p) b->twin_of = NULL;
    gpu_backend_flush(b);
    (void)b->device->stream_sync(&b->gpu->device, b->stream, NULL);
    b->device->free(&b->gpu->device, p);
}

static int transfer(gpu_backend *b, void *dst, const void *src, size_t bytes, bool up, ht_error *err)
{
    int r = 0;

    for (size_t at = 0; at < bytes && r >= 0; at += STAGING_BYTES) {
        size_t n = bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES;
        if (up) memcpy(b->staging, (const char *)src + at, n);
        r = up ? b->device->copy(&b->gpu->device, b->stream, (char *)dst + at, b->staging, n, HT_COPY_TO_DEVICE, err)
               : b->device->copy(&b->gpu->device, b->stream, b->staging, (const char *)src + at, n, HT_COPY_TO_HOST, err);
        if (r >= 0) r = b->device->stream_sync(&b->gpu->device, b->stream, err);
        if (r >= 0 && !up) memcpy((char *)dst + at, b->staging, n);
    }
    return r;
}

static int backend_upload(ht_backend *base, void *dst, const void *src, size_t bytes, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);

    b->twin_of = NULL;
    gpu_backend_flush(b);
    return transfer(b, dst, src, bytes, true, err);
}

static int backend_download(ht_backend *base, void *dst, const void *src, size_t bytes, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);

    gpu_backend_flush(b);
    return transfer(b, dst, src, bytes, false, err);
}

int gpu_backend_post(gpu_backend *b, void *device, const void *host, size_t bytes, ht_error *err)
{
    gpu_mailbox *m = &b->mail[b->next_mail++ % MAILBOXES];

    int r = b->device->event_sync(&b->gpu->device, m->sent, err);
    if (r < 0) return r;
    memcpy(m->pinned, host, bytes);
    r = b->device->copy(&b->gpu->device, b->stream, device, m->pinned, bytes, HT_COPY_TO_DEVICE, err);
    return r < 0 ? r : b->device->event_record(&b->gpu->device, m->sent, b->stream, err);
}

static int backend_await(ht_backend *base, ht_event event, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);

    if (!event.wait) return 0;
    gpu_backend_flush(b);
    ht_device_event *e = b->device->event_import(&b->gpu->device, event);
    return e ? b->device->stream_wait(&b->gpu->device, b->stream, e, err) : ht_event_wait(event, err);
}

static int backend_sync(ht_backend *base, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);

    gpu_backend_flush(b);
    ht_error failure = b->failure;
    b->failure.code = 0;
    int r = b->device->stream_sync(&b->gpu->device, b->stream, err);
    if (r < 0 || !failure.code) return r;
    return ht_fail(err, failure.code, "%s", failure.text);
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

/* Neighbouring columns of a sequence share a block of attention. In the decode class the arithmetic is that of one
 * column alone, and groups are of one. */
static int32_t group_columns(const gpu_backend *b, const ht_step *step, ht_k_group *groups)
{
    int32_t n = 0;

    for (int32_t c = 0; c < step->n; n++) {
        groups[n] = (ht_k_group){c, 0};
        while (c < step->n && groups[n].n < b->columns_per_group && step->sequence[c] == step->sequence[groups[n].column])
            c++, groups[n].n++;
    }
    return n;
}

static int backend_begin(ht_backend *base, const ht_step *step, ht_error *err)
{
    gpu_backend *b = gpu_backend_of(base);
    const ht_shape *s = &base->limits.shape;
    int32_t longest = 1, per_kv = s->n_heads / s->n_kv_heads, rows = b->gpu->kernels.attend_rows(s->head_dim);

    int r = ht_step_check(&base->limits, step, err);
    if (r >= 0) r = b->device->use(&b->gpu->device, err);
    if (r < 0) return r;
    for (int32_t i = 0; i < step->n_sequences; i++) longest = step->length[i] > longest ? step->length[i] : longest;
    gpu_backend_flush(b);
    b->class_ = step->class_;
    b->n = step->n;
    b->queue.collecting = b->queue.graphs && step->class_ == HT_CLASS_DECODE && step->n <= HT_K_COLUMNS;
    b->columns_per_group = step->class_ == HT_CLASS_DECODE || rows < per_kv ? 1 : rows / per_kv;
    b->table_stride = ht_kv_pages_of(longest);
    b->step_splits = (b->table_stride + b->split_tiles - 1) / b->split_tiles;
    if (step->class_ == HT_CLASS_DECODE) { /* a power of two: few kinds of steps. Splits without tokens cost little. */
        int32_t splits = 1;
        while (splits < b->step_splits) splits *= 2;
        b->step_splits = splits < b->splits ? splits : b->splits;
        b->table_stride = b->step_splits * b->split_tiles;
    }
    b->angles_known[0] = b->angles_known[1] = false;
    b->twin_of = NULL;

    /* One copy brings all arrays. They are put together in the mailbox itself. */
    gpu_mailbox *m = &b->mail[b->next_mail++ % MAILBOXES];
    r = b->device->event_sync(&b->gpu->device, m->sent, err);
    if (r < 0) return r;
    int32_t *at = m->pinned, *device = b->scratch.step;
    const struct { const int32_t *from; int32_t **to; } columns[] = {
        {step->token, &b->token}, {step->position, &b->position}, {step->sequence, &b->sequence}};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++, at += step->n) {
        memcpy(at, columns[i].from, (size_t)step->n * sizeof *at);
        *columns[i].to = device + (at - (int32_t *)m->pinned);
    }
    b->groups = (ht_k_group *)(void *)(device + (at - (int32_t *)m->pinned));
    b->n_groups = group_columns(b, step, (ht_k_group *)(void *)at);
    at += 2 * step->n;
    b->table = device + (at - (int32_t *)m->pinned);
    for (int32_t i = 0; i < step->n_sequences; i++, at += b->table_stride)
        memcpy(at, step->pages[i], (size_t)ht_kv_pages_of(step->length[i]) * sizeof *at);
    size_t bytes = (size_t)(at - (int32_t *)m->pinned) * sizeof *at;
    if (!bytes) return 0;
    r = b->device->copy(&b->gpu->device, b->stream, device, m->pinned, bytes, HT_COPY_TO_DEVICE, err);
    return r < 0 ? r : b->device->event_record(&b->gpu->device, m->sent, b->stream, err);
}

/* ---- open and close -------------------------------------------------------------------------------------- */

static void backend_close(ht_backend *base)
{
    gpu_backend *b = gpu_backend_of(base);
    ht_device *d = &b->gpu->device;
    gpu_piece pieces[MAX_PIECES];
    int n = list_scratch(&base->limits, &b->scratch, pieces);

    b->device->stream_close(d, b->stream);
    gpu_queue_close(b);
    for (int i = 0; i < n; i++) {
        void *p;
        memcpy(&p, pieces[i].where, sizeof p);
        b->device->free(d, p);
    }
    for (int i = 0; i < MAILBOXES; i++) {
        b->device->free_pinned(d, b->mail[i].pinned);
        b->device->event_close(d, b->mail[i].sent);
    }
    b->device->free_pinned(d, b->staging);
    ht_free(b);
}

static const ht_ops gpu_ops = {
    .name = "gpu",
    .alloc = backend_alloc,
    .free = backend_free,
    .upload = backend_upload,
    .download = backend_download,
    .await = backend_await,
    .sync = backend_sync,
    .begin = backend_begin,
    .embed = gpu_backend_embed,
    .project = gpu_backend_project,
    .rope_append = gpu_backend_rope_append,
    .attention = gpu_backend_attention,
    .add_project = gpu_backend_add_project,
    .add_norm = gpu_backend_add_norm,
    .ffn = gpu_backend_ffn,
    .select = gpu_backend_select,
    .active = gpu_backend_active,
    .payload = gpu_backend_payload,
    .close = backend_close,
};

static bool cache_type_known(ht_type t) { return t == HT_F32 || t == HT_F16 || t == HT_Q8_0 || t == HT_Q4_0; }

static int check_limits(const ht_ops_limits *l, ht_error *err)
{
    const ht_shape *s = &l->shape;

    if (s->head_dim > HT_K_MAX_HEAD)
        return ht_fail(err, -ENOTSUP, "heads of %d elements; the GPU kernels hold %d", s->head_dim, HT_K_MAX_HEAD);
    if (s->n_kv_heads < 1 || s->n_heads % s->n_kv_heads)
        return ht_fail(err, -EINVAL, "%d heads cannot share %d KV heads", s->n_heads, s->n_kv_heads);
    if (!cache_type_known(l->kv.k_type) || !cache_type_known(l->kv.v_type))
        return ht_fail(err, -ENOTSUP, "the KV cache of a GPU cannot be of type %s; F32, F16, Q8_0 and Q4_0 are possible",
                       ht_kv_type_name(cache_type_known(l->kv.k_type) ? l->kv.v_type : l->kv.k_type));
    if (l->columns < 1 || l->sequences < 1 || l->context < 1)
        return ht_fail(err, -EINVAL, "a backend for %d columns, %d sequences, %d tokens", l->columns, l->sequences,
                       l->context);
    return 0;
}

static int send_frequencies(gpu_backend *b, ht_error *err)
{
    const ht_shape *s = &b->base.limits.shape;
    double *frequency = ht_calloc(2 * (size_t)b->pairs + 1, sizeof *frequency);

    if (!frequency) return ht_fail(err, -ENOMEM, "out of memory for the RoPE frequencies");
    b->magnitude = (float)ht_rope_frequencies(&s->rope, NULL, frequency); /* their divisors come with the weights */
    if (s->rope_local_base > 0.0f) ht_rope_local_frequencies(&s->rope, s->rope_local_base, frequency + b->pairs);
    int r = transfer(b, b->scratch.frequency, frequency, 2 * (size_t)b->pairs * sizeof *frequency, true, err);
    ht_free(frequency);
    return r;
}

int ht_gpu_backend_open(ht_backend **out, const ht_gpu_backend_options *options, ht_error *err)
{
    ht_device_info info;

    *out = NULL;
    int r = check_limits(&options->limits, err);
    if (r < 0) return r;
    gpu_backend *b = ht_calloc(1, sizeof *b);
    if (!b) return ht_fail(err, -ENOMEM, "out of memory for the GPU backend");
    b->base.ops = &gpu_ops;
    b->base.limits = options->limits;
    b->gpu = options->gpu;
    b->device = options->gpu->device.ops;
    b->device->info(&b->gpu->device, &info);
    b->tensor_cores = info.tensor_cores && !options->no_tensor_cores;
    b->resident_blocks = info.resident_blocks;
    b->multiprocessors = info.multiprocessors;
    b->split_tiles = tiles_of_split(&options->limits);
    b->splits = most_splits(&options->limits);
    b->pairs = options->limits.shape.rope.dims / 2;
    r = b->device->stream_open(&b->gpu->device, "compute", &b->stream, err);
    if (r >= 0) r = gpu_queue_open(b, options->resident, err);
    if (r >= 0) r = open_scratch(b, err);
    if (r >= 0) r = send_frequencies(b, err);
    if (r < 0) {
        backend_close(&b->base);
        return r;
    }
    *out = &b->base;
    return 0;
}
