/* The inside of the device backend, shared by backend.c (life, memory, steps) and backend_ops.c (computing). */
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
    double *frequency;      /* [pairs]: of RoPE, without divisors */
    float *angles;          /* (D, pairs, 2) */
    float *normed;          /* (D, d) */
    uint8_t *q8;            /* D activation rows of w */
    uint8_t *twin;          /* D activation rows of w: what `twin_of` holds, quantised by its maker */
    ht_half *f16;           /* (D, w) padded */
    float *f16_scale;       /* (D) */
    float *second;          /* (D, f): the up half of an FFN that is not computed in one launch */
    float *split_max, *split_sum; /* (HT_K_COLUMNS, H, splits) */
    float *split_acc;       /* (HT_K_COLUMNS, H, splits, e) */
} gpu_scratch;

typedef struct gpu_backend {
    ht_backend base;                 /* first. Owner of all: the engine's thread */
    ht_gpu *gpu;                     /* borrowed */
    const ht_device_ops *device;     /* of gpu */
    ht_stream *stream;
    bool tensor_cores;
    ht_error failure;                /* the first of compute entries since the last sync; code 0: none */
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
    bool angles_known;
    const float *angles_divisor;     /* that they were computed with */
    const float *twin_of;            /* the F32 columns whose quantised form is in scratch.twin, or NULL */
} gpu_backend;

#define STAGING_BYTES ((size_t)1 << 20)

static inline gpu_backend *gpu_backend_of(ht_backend *b) { return (gpu_backend *)(void *)b; }

/* Copies a small array to the device in the stream's order; `host` may change at once. Bytes: at most a mailbox. */
int gpu_backend_post(gpu_backend *b, void *device, const void *host, size_t bytes, ht_error *err);
size_t gpu_backend_mail_bytes(const ht_ops_limits *l);

void gpu_backend_embed(ht_backend *b, const ht_matrix *table, float scale, float *x);
void gpu_backend_project(ht_backend *b, const ht_project_args *a);
void gpu_backend_rope_append(ht_backend *b, const ht_rope_append_args *a);
void gpu_backend_attention(ht_backend *b, const ht_attention_args *a);
void gpu_backend_add_project(ht_backend *b, const ht_add_project_args *a);
void gpu_backend_ffn(ht_backend *b, const ht_ffn_args *a);
void gpu_backend_select(ht_backend *b, float *dst, const float *src, const int32_t *columns, int32_t m);

#endif
