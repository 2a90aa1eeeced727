/* The inside of the device backend, shared by backend.c (life, memory, steps), backend_ops.c (computing) and
 * backend_queue.c (commands and graphs). */
#ifndef HEARTH_GPU_BACKEND_INTERNAL_H
#define HEARTH_GPU_BACKEND_INTERNAL_H

#include "gpu/backend.h"

enum { MAILBOXES = 4 };

/* Pinned memory through which small arrays reach the device; free again when `sent` has happened. */
typedef struct gpu_mailbox { void *pinned; ht_device_event *sent; } gpu_mailbox;

/* Device scratch, all of it allocated at open. D = limits.columns, w = the widest of d, f and H e. */
typedef struct gpu_scratch {
    int32_t *step;          /* the step's arrays, one after another; see the pointers in gpu_backend */
    int32_t *chosen;        /* [D]: columns of select */
    double *frequency;      /* (2, pairs): of RoPE, without divisors; then of layers with a base of their own */
    float *angles;          /* (2, D, pairs, 2): the same two */
    float *normed;          /* (D, d) */
    uint8_t *q8;            /* D activation rows of w */
    uint8_t *twin;          /* D activation rows of w: what `twin_of` holds, quantised by its maker */
    ht_half *f16;           /* (D, w) padded */
    float *f16_scale;       /* (D) */
    float *second;          /* (D, f): the up half of an FFN that is not computed in one launch */
    float *split_max, *split_sum; /* (HT_K_COLUMNS, H, splits) */
    float *split_acc;       /* (HT_K_COLUMNS, H, splits, e) */
    int32_t *arrived;       /* (HT_K_COLUMNS, H): splits that are done; zero between launches */
    float *partial;         /* (groups of neurons, d): sums of a sparse FFN */
} gpu_scratch;

/* ---- commands (backend_queue.c) -------------------------------------------------------------------------- */

typedef enum gpu_kernel {
    GPU_NORM, GPU_MATVEC, GPU_GLU, GPU_MATMAT, GPU_ACTIVATE, GPU_EMBED, GPU_ANGLES, GPU_ROPE_APPEND, GPU_ATTEND,
    GPU_GATHER, GPU_ACTIVE, GPU_UP, GPU_AXPY
} gpu_kernel;

typedef struct gpu_command {
    gpu_kernel kernel;
    union {
        ht_k_norm norm;
        ht_k_matvec matvec;
        ht_k_glu glu;
        ht_k_matmat matmat;
        ht_k_activate activate;
        ht_k_embed embed;
        ht_k_angles angles;
        ht_k_rope_append rope_append;
        ht_k_attend attend;
        ht_k_gather gather;
        ht_k_active active;
        ht_k_up up;
        ht_k_axpy axpy;
    } u;
} gpu_command;

/* The commands of a kind of step; a graph of them once they have come twice. */
typedef struct gpu_recording {
    gpu_command *commands;  /* [n], room for the queue's capacity; owned */
    int32_t n;
    bool recorded;
    uint64_t used;          /* the turn of its last use */
    ht_device_graph *graph; /* owned */
} gpu_recording;

enum { GPU_GRAPHS = 8 };    /* kinds of steps that are kept: columns and lengths of context (in powers of two) */

typedef struct gpu_queue {
    gpu_command *pending;   /* [capacity], owned */
    int32_t n, capacity;
    bool graphs;            /* the device has them, and the addresses of weights last */
    bool collecting;        /* this step's commands wait for the flush */
    bool gathers;           /* one of them reads the columns of select */
    uint64_t turns;
    gpu_recording recordings[GPU_GRAPHS];
} gpu_queue;

typedef struct gpu_backend {
    ht_backend base;                 /* first. Owner of all: the engine's thread */
    ht_gpu *gpu;                     /* borrowed */
    const ht_device_ops *device;     /* of gpu */
    ht_stream *stream;
    bool tensor_cores;
    int32_t resident_blocks, multiprocessors; /* of the device */
    ht_error failure;                /* the first of compute entries since the last sync; code 0: none */
    gpu_queue queue;
    gpu_scratch scratch;
    gpu_mailbox mail[MAILBOXES];
    int32_t next_mail;
    uint8_t *staging;                /* pinned, STAGING_BYTES: upload and download */

    int32_t split_tiles, splits;     /* of decode attention: tiles in a split, most splits of a context */
    float magnitude;                 /* of RoPE's cos and sin */
    int32_t pairs;

    /* The step. Addresses of the arrays on the device. */
    ht_class class_;
    int32_t n;                       /* columns; select changes it */
    int32_t *token, *position, *sequence, *table;
    ht_k_group *groups;              /* block class: [n_groups] */
    int32_t n_groups, columns_per_group, table_stride, step_splits;
    bool angles_known[2];            /* of the two kinds of layers */
    const float *angles_divisor;     /* that the first were computed with */
    const float *twin_of;            /* the F32 columns whose quantised form is in scratch.twin, or NULL */
} gpu_backend;

#define STAGING_BYTES ((size_t)1 << 20)

static inline gpu_backend *gpu_backend_of(ht_backend *b) { return (gpu_backend *)(void *)b; }
static inline bool gpu_backend_failed(const gpu_backend *b) { return b->failure.code != 0; }

/* Copies a small array to the device in the stream's order; `host` may change at once. Bytes: at most a mailbox. */
int gpu_backend_post(gpu_backend *b, void *device, const void *host, size_t bytes, ht_error *err);
size_t gpu_backend_mail_bytes(const ht_ops_limits *l);

/* The next command, zeroed but for its kind: to be filled field by field, then submitted. */
gpu_command *gpu_backend_command(gpu_backend *b, gpu_kernel kernel);
void gpu_backend_submit(gpu_backend *b, const gpu_command *c);
/* Queues the commands of this step that wait. */
void gpu_backend_flush(gpu_backend *b);
int gpu_queue_open(gpu_backend *b, bool graphs, ht_error *err);
void gpu_queue_close(gpu_backend *b);

void gpu_backend_embed(ht_backend *b, const ht_matrix *table, float scale, float *x);
void gpu_backend_project(ht_backend *b, const ht_project_args *a);
void gpu_backend_rope_append(ht_backend *b, const ht_rope_append_args *a);
void gpu_backend_attention(ht_backend *b, const ht_attention_args *a);
void gpu_backend_add_project(ht_backend *b, const ht_add_project_args *a);
void gpu_backend_add_norm(ht_backend *b, const ht_add_norm_args *a);
void gpu_backend_ffn(ht_backend *b, const ht_ffn_args *a);
void gpu_backend_select(ht_backend *b, float *dst, const float *src, const int32_t *columns, int32_t m);
void gpu_backend_active(ht_backend *b, const ht_active_args *a);
void gpu_backend_payload(ht_backend *b, const ht_payload_args *a);

#endif
