/* Engines for end-to-end tests: see stack.h. */
#include "tests/gpu/stack.h"

#include "tests/support/harness.h"

#include "offload/ram_store.h"

#include <string.h>

int stack_open(stack *s, const char *path, const setup *o, const ht_emu_options *emu, ht_error *err)
{
    int32_t context = o->context ? o->context : STACK_CONTEXT;

    *s = (stack){0};
    int r = ht_model_open(&s->model, path, err);
    if (r < 0) return r;
    s->limits = (ht_ops_limits){.columns = STACK_COLUMNS, .sequences = STACK_SESSIONS, .context = context, .act = o->act,
                                .shape = s->model->shape};
    int32_t pages = STACK_SESSIONS * (int32_t)ht_kv_pages_of(context);
    r = ht_kv_layout_init(&s->limits.kv, &s->limits.shape, o->k_type, o->v_type, err);
    if (r >= 0 && emu) {
        r = ht_device_emu_open(&s->gpu, emu, err);
        if (r >= 0)
            r = ht_gpu_backend_open(&s->backend, &(ht_gpu_backend_options){.limits = s->limits, .gpu = s->gpu,
                                                                           .resident = !o->no_graphs,
                                                                           .no_tensor_cores = o->plain}, err);
        if (r >= 0)
            r = ht_device_store_open(&s->store, &(ht_device_store_options){.model = s->model, .gpu = s->gpu,
                                                                           .kv = s->limits.kv, .kv_pages = pages,
                                                                           .quiet = true}, err);
    } else if (r >= 0) {
        r = ht_pool_open(&s->pool, &(ht_pool_options){.threads = 2}, err);
        if (r >= 0)
            r = ht_host_open(&s->backend, &(ht_host_options){.limits = s->limits, .pool = s->pool,
                                                             .isa = ht_isa_detect()}, err);
        if (r >= 0)
            r = ht_ram_store_open(&s->store, &(ht_ram_store_options){.model = s->model, .kv = s->limits.kv,
                                                                     .kv_pages = pages, .quiet = true}, NULL, err);
    }
    if (r >= 0)
        r = ht_engine_open(&s->engine, &(ht_engine_options){&(ht_site){s->backend, s->store}, 1, o->chunk ? o->chunk : STACK_COLUMNS}, err);
    return r;
}

void stack_close(stack *s)
{
    ht_engine_close(&s->engine);
    if (s->store) s->store->ops->close(s->store);
    if (s->backend) s->backend->ops->close(s->backend);
    if (s->gpu) {
        ht_device_memory memory;
        s->gpu->device.ops->memory(&s->gpu->device, &memory);
        cr_expect_eq(memory.used, 0, "%zu bytes of the device are still held", memory.used);
        cr_expect_eq(memory.pinned, 0);
        s->gpu->device.ops->close(&s->gpu->device);
    }
    ht_pool_close(&s->pool);
    ht_model_close(&s->model);
}

void must(int r, const ht_error *err) { cr_assert(r >= 0, "%s", err->text); }

void make_tokens(int32_t *out, int32_t n, int32_t n_vocab)
{
    for (int32_t i = 0; i < n; i++) out[i] = 3 + (i * 7919 + i * i * 31) % (n_vocab - 3);
    out[0] = 1;
}

ht_session *new_session(stack *s)
{
    ht_error err = {0};
    ht_session *session;

    must(ht_session_open(&session, s->engine, 0, 0, &err), &err);
    return session;
}

int64_t count_spans(ht_gpu *gpu, const char *part)
{
    int64_t n, found = 0;
    const ht_emu_span *spans = ht_device_emu_trace(gpu, &n);

    for (int64_t i = 0; i < n; i++) found += strstr(spans[i].name, part) != NULL;
    return found;
}
