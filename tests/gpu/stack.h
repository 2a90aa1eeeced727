/* An engine on the host, or on a device with everything resident, over a model file: for end-to-end tests. */
#ifndef HEARTH_TESTS_GPU_STACK_H
#define HEARTH_TESTS_GPU_STACK_H

#include "core/engine/session.h"
#include "cpu/host.h"
#include "gpu/backend.h"
#include "gpu/device_store.h"

enum { STACK_CONTEXT = 128, STACK_SESSIONS = 3, STACK_COLUMNS = 40 };

typedef struct stack {
    ht_model *model;
    ht_pool *pool;
    ht_gpu *gpu; /* owned; NULL: on the host */
    ht_ops_limits limits;
    ht_backend *backend;
    ht_store *store;
    ht_engine *engine;
} stack;

typedef struct setup {
    ht_act_mode act;
    ht_type k_type, v_type;
    bool plain;         /* no tensor cores */
    int32_t chunk;      /* 0: all columns */
    bool no_graphs;
    int32_t context;    /* 0: STACK_CONTEXT */
} setup;

/* emu NULL: on the host. On failure what is open stays so, for stack_close. */
int stack_open(stack *s, const char *path, const setup *o, const ht_emu_options *emu, ht_error *err);
/* Also checks that the device holds nothing any more. */
void stack_close(stack *s);

void must(int r, const ht_error *err);
void make_tokens(int32_t *out, int32_t n, int32_t n_vocab);
ht_session *new_session(stack *s);
/* Spans of the virtual trace whose name has `part`. */
int64_t count_spans(ht_gpu *gpu, const char *part);

#endif
