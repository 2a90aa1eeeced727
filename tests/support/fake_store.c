/* The fake store: see fake_store.h. One worker thread picks a random pending lease, waits a random while, and fills
 * it in. The engine's thread and the worker share the list of pending leases under one lock. Memory is the C library's: the
 * allocation guard watches the engine, not its fakes. */
#include "tests/support/fake_store.h"

#include "core/base/random.h"
#include "core/model/tiles.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PIECES = 24, MAX_JOBS = 64 };

/* One buffer to be filled from the inner store, and perhaps to be written back. */
typedef struct piece {
    const void *source;
    void *copy;           /* owned by the job */
    size_t bytes;
} piece;

typedef enum job_state { IDLE, PENDING, ARRIVED, FAILED } job_state;

typedef struct job {
    job_state state;
    uint64_t stamp;
    bool fails;
    piece *pieces;        /* owned; [n_pieces] */
    int32_t n_pieces;
    int32_t first_written; /* KV: pieces from here on go back at release; n_pieces for weights */
    void **page;          /* KV: owned page table, NULL where nothing was asked for */
    ht_lease inner;
    ht_kv_lease inner_kv;
} job;

typedef struct fake_store {
    ht_store base;        /* first */
    ht_store *inner;      /* owned */
    const ht_model *model;
    ht_fake_store_options options;
    pthread_t worker;
    bool worker_runs, stop;
    pthread_mutex_t lock; /* over jobs, stop and counters below */
    pthread_cond_t changed;
    job jobs[MAX_JOBS];
    uint64_t stamps, draws;
    int64_t acquires, arrivals, held;
    int64_t total_acquires;
} fake_store;

static uint32_t draw(fake_store *s, uint32_t below)
{
    return (uint32_t)(ht_random_uniform(s->options.seed, 0xfa4e, s->draws++, 0) * below);
}

static void *worker_main(void *context)
{
    fake_store *s = context;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        job *pending[MAX_JOBS];
        uint32_t n = 0;
        for (int i = 0; i < MAX_JOBS; i++)
            if (s->jobs[i].state == PENDING) pending[n++] = &s->jobs[i];
        if (n == 0) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        job *j = pending[draw(s, n)];
        uint32_t delay = s->options.max_delay_us ? draw(s, (uint32_t)s->options.max_delay_us) : 0;
        pthread_mutex_unlock(&s->lock);
        if (delay) usleep(delay);
        if (!j->fails)
            for (int32_t i = 0; i < j->n_pieces; i++) memcpy(j->pieces[i].copy, j->pieces[i].source, j->pieces[i].bytes);
        pthread_mutex_lock(&s->lock);
        j->state = j->fails ? FAILED : ARRIVED;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int event_wait(void *owner, uint64_t stamp, ht_error *err)
{
    fake_store *s = owner;
    job *j = &s->jobs[stamp % MAX_JOBS];
    pthread_mutex_lock(&s->lock);
    while (j->state == PENDING) pthread_cond_wait(&s->changed, &s->lock);
    bool failed = j->state == FAILED;
    pthread_mutex_unlock(&s->lock);
    return failed ? ht_fail(err, -EIO, "fake store: arrival %llu failed on purpose", (unsigned long long)stamp) : 0;
}

static int event_poll(void *owner, uint64_t stamp)
{
    fake_store *s = owner;
    pthread_mutex_lock(&s->lock);
    job_state state = s->jobs[stamp % MAX_JOBS].state;
    pthread_mutex_unlock(&s->lock);
    return state == FAILED ? -EIO : state == ARRIVED;
}

static ht_event event_of(fake_store *s, const job *j)
{
    return (ht_event){.wait = event_wait, .poll = event_poll, .owner = s, .stamp = j->stamp};
}

/* Adds a buffer of its own for `source`, spoiled until it arrives; NULL on lack of memory. */
static void *add_piece(job *j, const void *source, size_t bytes)
{
    void *copy = malloc(bytes);
    if (!copy) return NULL;
    memset(copy, 0xff, bytes); /* NaN in every float type */
    j->pieces[j->n_pieces++] = (piece){source, copy, bytes};
    return copy;
}

static int fake_matrix(job *j, ht_matrix *m)
{
    if (!m->data) return 0;
    /* A view of some columns reaches from its first to its last byte, not to the end of the last row, or of the last tile. */
    size_t width = ht_row_bytes(ht_type_get(m->type), m->cols), last = m->woven ? HT_TILE_ROWS : 1;
    m->data = add_piece(j, m->data, ((size_t)m->rows - last) * m->row_bytes + last * width);
    return m->data ? 0 : -ENOMEM;
}

static int fake_vector(job *j, const float **v, int64_t n)
{
    if (!*v) return 0;
    *v = add_piece(j, *v, (size_t)n * sizeof **v);
    return *v ? 0 : -ENOMEM;
}

static int fake_unit(const fake_store *s, job *j, const ht_unit *u, ht_lease *l)
{
    const ht_shape *p = &s->model->shape;
    int64_t d = p->n_embd, e = p->head_dim, heads = p->n_heads * e, groups = p->n_kv_heads * e;
    int64_t experts = u->expert_end - u->expert_begin, neurons = experts * (u->neuron_end - u->neuron_begin);
    int bad = 0;

    switch (u->kind) {
    case HT_UNIT_EMBEDDING: return fake_matrix(j, &l->u.embedding.table);
    case HT_UNIT_OUTPUT: {
        ht_output_weights *o = &l->u.output;
        bad |= fake_vector(j, &o->norm, d) | fake_vector(j, &o->norm_bias, d) | fake_matrix(j, &o->head);
        return bad;
    }
    case HT_UNIT_ATTENTION: {
        ht_attention_weights *a = &l->u.attention;
        bad |= fake_vector(j, &a->norm, d) | fake_vector(j, &a->norm_bias, d);
        bad |= fake_vector(j, &a->q_bias, heads) | fake_vector(j, &a->k_bias, groups) | fake_vector(j, &a->v_bias, groups);
        bad |= fake_vector(j, &a->post_norm, d);
        bad |= fake_vector(j, &a->q_norm, e) | fake_vector(j, &a->k_norm, e) | fake_vector(j, &a->o_bias, d);
        bad |= fake_vector(j, &a->rope_freqs, p->rope.dims / 2);
        bad |= fake_matrix(j, &a->q) | fake_matrix(j, &a->k) | fake_matrix(j, &a->v) | fake_matrix(j, &a->o);
        return bad;
    }
    case HT_UNIT_FFN: {
        ht_ffn_weights *f = &l->u.ffn;
        bad |= fake_vector(j, &f->norm, d) | fake_vector(j, &f->norm_bias, d);
        bad |= fake_vector(j, &f->gate_bias, neurons) | fake_vector(j, &f->up_bias, neurons);
        bad |= fake_vector(j, &f->down_bias, experts * d) | fake_vector(j, &f->post_norm, d);
        bad |= fake_matrix(j, &f->router) | fake_matrix(j, &f->gate) | fake_matrix(j, &f->up) | fake_matrix(j, &f->down);
        return bad;
    }
    }
    return -EINVAL;
}

/* Counts the call; an idle job, or NULL with the error set. */
static job *begin_job(fake_store *s, int32_t pieces, ht_error *err)
{
    job *j = NULL;
    pthread_mutex_lock(&s->lock);
    s->total_acquires++;
    bool fails = ++s->acquires == s->options.fail_acquire;
    if (!fails)
        for (int i = 0; i < MAX_JOBS && !j; i++)
            if (s->jobs[i].state == IDLE) j = &s->jobs[i];
    if (j) {
        j->stamp = ++s->stamps * MAX_JOBS + (uint64_t)(j - s->jobs);
        j->n_pieces = 0;
    }
    pthread_mutex_unlock(&s->lock);
    if (fails) {
        ht_fail(err, -EIO, "fake store: acquire failed on purpose");
        return NULL;
    }
    if (!j) {
        ht_fail(err, -EBUSY, "fake store: more leases held than the port allows");
        return NULL;
    }
    j->pieces = calloc((size_t)pieces, sizeof *j->pieces);
    if (!j->pieces) ht_fail(err, -ENOMEM, "fake store: out of memory");
    return j->pieces ? j : NULL;
}

static void start_job(fake_store *s, job *j)
{
    pthread_mutex_lock(&s->lock);
    j->fails = ++s->arrivals == s->options.fail_arrival;
    j->state = PENDING;
    s->held++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void end_job(fake_store *s, job *j, bool was_started)
{
    pthread_mutex_lock(&s->lock);
    while (j->state == PENDING) pthread_cond_wait(&s->changed, &s->lock);
    job_state state = j->state;
    pthread_mutex_unlock(&s->lock);
    for (int32_t i = 0; i < j->n_pieces; i++) {
        piece *p = &j->pieces[i];
        if (state == ARRIVED && i >= j->first_written) memcpy((void *)p->source, p->copy, p->bytes);
        memset(p->copy, 0xff, p->bytes);
        free(p->copy);
    }
    free(j->pieces);
    free(j->page);
    j->pieces = NULL;
    j->page = NULL;
    pthread_mutex_lock(&s->lock);
    j->state = IDLE;
    if (was_started) s->held--;
    pthread_mutex_unlock(&s->lock);
}

static int fake_acquire(ht_store *store, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    fake_store *s = (fake_store *)store;
    *out = (ht_lease){0};
    job *j = begin_job(s, MAX_PIECES, err);
    if (!j) return err ? err->code : -EIO;
    int result = s->inner->ops->acquire(s->inner, unit, &j->inner, err);
    if (result < 0) {
        end_job(s, j, false);
        return result;
    }
    *out = j->inner;
    out->private_[0] = j->stamp;
    if (!s->options.direct && fake_unit(s, j, unit, out) < 0) {
        s->inner->ops->release(s->inner, &j->inner);
        end_job(s, j, false);
        return ht_fail(err, -ENOMEM, "fake store: out of memory");
    }
    j->first_written = j->n_pieces;
    start_job(s, j);
    out->ready = event_of(s, j);
    return 0;
}

static void fake_release(ht_store *store, ht_lease *lease)
{
    fake_store *s = (fake_store *)store;
    job *j = &s->jobs[lease->private_[0] % MAX_JOBS];
    end_job(s, j, true);
    s->inner->ops->release(s->inner, &j->inner);
    *lease = (ht_lease){0};
}

static int fake_kv_acquire(ht_store *store, int32_t layer, const int32_t *ids, int32_t n, int32_t first_written,
                           ht_kv_lease *out, ht_error *err)
{
    fake_store *s = (fake_store *)store;
    *out = (ht_kv_lease){0};
    job *j = begin_job(s, n + 1, err);
    if (!j) return err ? err->code : -EIO;
    int result = s->inner->ops->kv_acquire(s->inner, layer, ids, n, first_written, &j->inner_kv, err);
    if (result < 0) {
        end_job(s, j, false);
        return result;
    }
    *out = j->inner_kv;
    if (!s->options.direct) {
        j->page = calloc((size_t)store->kv_pages + 1, sizeof *j->page);
        for (int32_t i = 0; j->page && i < n; i++) {
            void *copy = add_piece(j, j->inner_kv.page[ids[i]], store->kv.page_bytes);
            if (!copy) break;
            j->page[ids[i]] = copy;
        }
        if (!j->page || j->n_pieces < n) {
            s->inner->ops->kv_release(s->inner, &j->inner_kv);
            j->first_written = j->n_pieces;
            end_job(s, j, false);
            return ht_fail(err, -ENOMEM, "fake store: out of memory");
        }
        out->page = j->page;
    }
    j->first_written = first_written;
    out->private_[0] = j->stamp;
    start_job(s, j);
    out->ready = event_of(s, j);
    return 0;
}

static void fake_kv_release(ht_store *store, ht_kv_lease *lease)
{
    fake_store *s = (fake_store *)store;
    job *j = &s->jobs[lease->private_[0] % MAX_JOBS];
    end_job(s, j, true);
    s->inner->ops->kv_release(s->inner, &j->inner_kv);
    *lease = (ht_kv_lease){0};
}

static int fake_kv_copy(ht_store *store, int32_t from, int32_t to, ht_error *err)
{
    fake_store *s = (fake_store *)store;
    return s->inner->ops->kv_copy(s->inner, from, to, err);
}

static void fake_close(ht_store *store)
{
    fake_store *s = (fake_store *)store;
    if (s->worker_runs) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->worker, NULL);
    }
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    s->inner->ops->close(s->inner);
    free(s);
}

static const ht_store_ops fake_ops = {
    .name = "fake",
    .acquire = fake_acquire,
    .release = fake_release,
    .kv_acquire = fake_kv_acquire,
    .kv_release = fake_kv_release,
    .kv_copy = fake_kv_copy,
    .close = fake_close,
};

int ht_fake_store_open(ht_store **out, ht_store *inner, const ht_model *model, const ht_fake_store_options *options,
                       ht_error *err)
{
    *out = NULL;
    fake_store *s = calloc(1, sizeof *s);
    if (!s) {
        inner->ops->close(inner);
        return ht_fail(err, -ENOMEM, "fake store: out of memory");
    }
    s->base = *inner;
    s->base.ops = &fake_ops;
    s->inner = inner;
    s->model = model;
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (pthread_create(&s->worker, NULL, worker_main, s)) {
        fake_close(&s->base);
        return ht_fail(err, -EAGAIN, "fake store: no thread");
    }
    s->worker_runs = true;
    *out = &s->base;
    return 0;
}

void ht_fake_store_set_faults(ht_store *store, int64_t fail_acquire, int64_t fail_arrival)
{
    fake_store *s = (fake_store *)store;
    pthread_mutex_lock(&s->lock);
    s->options.fail_acquire = fail_acquire;
    s->options.fail_arrival = fail_arrival;
    s->acquires = s->arrivals = 0;
    pthread_mutex_unlock(&s->lock);
}

int64_t ht_fake_store_held(const ht_store *store) { return ((const fake_store *)store)->held; }
int64_t ht_fake_store_acquires(const ht_store *store) { return ((const fake_store *)store)->total_acquires; }
