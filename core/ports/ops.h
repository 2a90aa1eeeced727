/* The ops port: what a backend computes. One table for the host (cpu/) and for each device (gpu/); the forward
 * pass (core/engine/forward.c) is written against it alone.
 *
 * Operations are as coarse as the best fusion wants them: norm + quantise + matrices is one operation, because on
 * a GPU it is one launch. A backend runs them in the order of the calls, in one queue; the host's queue is empty
 * on return. Compute entries return nothing: a failed launch is remembered, later ones do nothing, and sync()
 * reports it.
 *
 * Numeric contract (docs/architecture.md): a column's result depends on that column, the weights, the numeric class and the
 * backend alone: not on the number of threads, the other columns or their number. All buffers are F32 unless said;
 * matrices of activations are [columns][features], densely packed. No argument aliases another unless said.
 */
#ifndef HEARTH_CORE_PORTS_OPS_H
#define HEARTH_CORE_PORTS_OPS_H

#include "core/ports/store.h"

/* Generated tokens are computed in the decode class, prompt tokens in the block class, whatever the number of
 * columns in a call. Each class has its own fixed order of sums. */
typedef enum ht_class { HT_CLASS_DECODE, HT_CLASS_BLOCK } ht_class;
#define HT_DECODE_CLASS_COLUMNS 8 /* columns that the decode class is made for; more are right, but no faster */

/* How activations meet quantised weights: rounded to 8 bits in blocks of 32 (fast), or kept in F32. A backend may round more
 * finely against F16 and BF16 weights too where they are not to be kept. */
typedef enum ht_act_mode { HT_ACT_Q8, HT_ACT_F32 } ht_act_mode;

/* The columns of one pass. Columns of a sequence are neighbours, in order of position. */
typedef struct ht_step {
    ht_class class_;
    int32_t n;                     /* columns, <= limits.columns */
    const int32_t *token;          /* [n] */
    const int32_t *position;       /* [n], from 0 */
    const int32_t *sequence;       /* [n], index into the arrays below */
    int32_t n_sequences;
    const int32_t *const *pages;   /* [n_sequences]: the sequence's page ids, token p is in pages[p / HT_KV_TILE] */
    const int32_t *length;         /* [n_sequences]: tokens in KV after this step */
} ht_step;

/* What a backend prepares for, once, at open. */
typedef struct ht_ops_limits {
    int32_t columns;               /* most columns of a step */
    int32_t sequences;             /* most sequences of a step */
    int32_t context;               /* most tokens of a sequence */
    ht_shape shape;
    ht_kv_layout kv;
    ht_act_mode act;
} ht_ops_limits;

typedef struct ht_norm { ht_norm_kind kind; float eps; const float *gain, *bias; } ht_norm; /* gain NULL: no norm, x as it is */

/* y[i] = W[i] norm(x) + bias[i] for up to three matrices that share x. */
typedef struct ht_project_args {
    const float *x;                /* (n, d) */
    ht_norm norm;
    int32_t n_out;                 /* 1..3 */
    ht_matrix w[3];                /* (rows_i, d) */
    const float *bias[3];          /* (rows_i) or NULL */
    float *y[3];                   /* (n, rows_i) */
} ht_project_args;

/* x += W y + bias. */
typedef struct ht_add_project_args {
    float *x;                      /* (n, rows), in and out */
    ht_matrix w;                   /* (rows, cols) */
    const float *bias;             /* (rows) or NULL */
    const float *y;                /* (n, cols) */
} ht_add_project_args;

/* x += norm(y). */
typedef struct ht_add_norm_args {
    float *x;                      /* (n, d), in and out */
    const float *y;                /* (n, d) */
    ht_norm norm;                  /* RMS */
} ht_add_norm_args;

/* q and k are normed per head if gains are given, turned by RoPE; k and v are then stored in the KV pages. */
typedef struct ht_rope_append_args {
    float *q;                      /* (n, H, e), in and out */
    float *k;                      /* (n, G, e), in; scratch after */
    const float *v;                /* (n, G, e) */
    const float *q_norm, *k_norm;  /* (e) or NULL */
    float norm_eps;
    const float *freqs;            /* (dims/2) divisors or NULL */
    float local_base;              /* > 0: by this base, unscaled and undivided, in place of the shape's RoPE */
    void *const *page;             /* this layer's pages by id */
} ht_rope_append_args;

/* out = softmax(scale q K^T, causal) V over the pages, head h reading KV head h / (H / G). */
typedef struct ht_attention_args {
    const float *q;                /* (n, H, e) */
    void *const *page;
    float scale;                   /* the model's attn_scale, else 1 / sqrt(e) */
    float softcap;                 /* c > 0: a score s becomes c tanh(s / c), after the scale */
    int32_t window;                /* 0: none; else only the last `window` positions, itself included */
    float *out;                    /* (n, H, e) */
} ht_attention_args;

/* h = act(gate norm(x) + gate_bias) * (up norm(x) + up_bias), or act(up norm(x) + up_bias) without a gate. */
typedef struct ht_ffn_args {
    const float *x;                /* (n, d) */
    ht_norm norm;
    ht_matrix gate, up;            /* (f, d) */
    const float *gate_bias, *up_bias;
    ht_activation activation;
    float *h;                      /* (n, f) */
} ht_ffn_args;

/* ---- sparse FFN, decode class: a selector's h comes from ffn() over the selector rows of a range of
 * neurons (gate absent); the active of them are listed, and only their payload is read. ---- */

/* The neurons of a column with |h| > threshold, in order of index from 0 in the range. */
typedef struct ht_active_args {
    const float *h;                /* (n, f) */
    int32_t f;
    float threshold;
    int32_t *list;                 /* (n, f) */
    int32_t *count;                /* (n) */
} ht_active_args;

/* y += sum over a column's listed neurons of h * down row; in a gated FFN h is first multiplied by
 * up row . norm(x) + up_bias. */
typedef struct ht_payload_args {
    const float *x;                /* (n, d): gated only, as the selector had it */
    ht_norm norm;
    ht_matrix up;                  /* (f, d); absent: not gated */
    ht_matrix down;                /* (f, d), neuron-major. Rows of up and down may lie side by side: row_bytes steps over both */
    const float *up_bias;          /* (f) or NULL */
    int32_t first;                 /* index in the layer of the range's first neuron: sums run over groups of it */
    float *h;                      /* (n, f), in; scratch after */
    const int32_t *list, *count;
    float *y;                      /* (n, d), in and out */
} ht_payload_args;

typedef struct ht_backend ht_backend;

typedef struct ht_ops {
    const char *name;
    /* Memory that compute entries can read and write; freed at close at the latest. Errors: -ENOMEM. */
    int (*alloc)(ht_backend *b, size_t bytes, void **out, ht_error *err);
    void (*free)(ht_backend *b, void *p);
    /* Host to backend and back. download waits for what was queued before it. */
    int (*upload)(ht_backend *b, void *dst, const void *src, size_t bytes, ht_error *err);
    int (*download)(ht_backend *b, void *dst, const void *src, size_t bytes, ht_error *err);
    /* What is queued later waits for the event. On the host this blocks. */
    int (*await)(ht_backend *b, ht_event event, ht_error *err);
    /* All queued work is done; returns the first remembered failure and forgets it. */
    int (*sync)(ht_backend *b, ht_error *err);

    /* The step that the following compute entries belong to. It is copied or uploaded as needed; its arrays stay
     * as they are until the next begin. */
    int (*begin)(ht_backend *b, const ht_step *step, ht_error *err);
    /* x (n, d) = scale * table[token]. */
    void (*embed)(ht_backend *b, const ht_matrix *table, float scale, float *x);
    void (*project)(ht_backend *b, const ht_project_args *a);
    void (*rope_append)(ht_backend *b, const ht_rope_append_args *a);
    void (*attention)(ht_backend *b, const ht_attention_args *a);
    void (*add_project)(ht_backend *b, const ht_add_project_args *a);
    void (*add_norm)(ht_backend *b, const ht_add_norm_args *a); /* NULL: cannot, and such models are refused at open */
    void (*ffn)(ht_backend *b, const ht_ffn_args *a);
    /* dst (m, d) = rows columns[i] of src (n, d); the step becomes m columns wide for what follows. */
    void (*select)(ht_backend *b, float *dst, const float *src, const int32_t *columns, int32_t m);
    /* NULL where a backend computes FFNs densely only. */
    void (*active)(ht_backend *b, const ht_active_args *a);
    void (*payload)(ht_backend *b, const ht_payload_args *a);
    void (*close)(ht_backend *b);
} ht_ops;

/* For begin: -EINVAL when the step does not keep to the limits or contradicts itself; the text says where. */
int ht_step_check(const ht_ops_limits *limits, const ht_step *step, ht_error *err);

/* Embedded first in every backend. Owner: the engine's thread. */
struct ht_backend { const ht_ops *ops; ht_ops_limits limits; };

#endif
