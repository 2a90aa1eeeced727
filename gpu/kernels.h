/* The kernels, in plain C: one entry an operation, each queues its launches on a stream of the device whose table it
 * is. The table of a device is filled by its build of the .cu files of gpu/kernels (nvcc's, or the emulation's).
 *
 * Every entry returns 0 or the device's own error code of the launch (ht_device_ops.launched explains it). All
 * pointers are device memory. Results keep the numeric contract (docs/architecture.md): fixed order of sums, no
 * atomics, a column's bits do not depend on the other columns. Letters: docs/notation.md.
 */
#ifndef HEARTH_GPU_KERNELS_H
#define HEARTH_GPU_KERNELS_H

#include "core/model/blocks.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HT_K_COLUMNS 8      /* most columns of a decode-class launch; more are several launches */
#define HT_K_MAX_HEAD 256   /* largest head_dim */

/* Bytes between quantised columns: HT_ACT_ROW_BYTES, rounded so that every column can be read in 16-byte pieces. */
#define HT_K_ACT_STRIDE(cols) ((HT_ACT_ROW_BYTES(cols) + 31u) & ~(uint64_t)31u)
/* F16 columns of the tensor-core product are padded with zeros to a whole number of its steps along k. */
#define HT_K_STEP 32
#define HT_K_HALF_STRIDE(cols) (((uint64_t)(cols) + HT_K_STEP - 1) / HT_K_STEP * HT_K_STEP * sizeof(ht_half))

/* As ht_norm_kind and ht_activation of core/model/model.h, which this header does not need. */
enum { HT_K_NORM_RMS = 0, HT_K_NORM_LAYER = 1, HT_K_NORM_NONE = 2 };
enum { HT_K_SILU = 0, HT_K_RELU = 1, HT_K_GELU = 2, HT_K_GELU_TANH = 3 };

/* A norm, or none: y = (x - mean) * factor * gain + bias. */
typedef struct ht_k_affine {
    const float *gain, *bias;       /* (cols) or NULL */
    int32_t kind;
    float eps;
} ht_k_affine;

/* n columns normed, written in the forms that the next product wants. */
typedef struct ht_k_norm {
    const float *x;                 /* (n, cols) */
    int32_t n, cols;
    ht_k_affine norm;
    int32_t add;                    /* f32 += instead */
    float *f32;                     /* (n, cols), or NULL */
    void *q8;                       /* n activation rows HT_K_ACT_STRIDE apart, or NULL; cols a multiple of 32 */
    ht_half *f16;                   /* n rows HT_K_HALF_STRIDE apart, or NULL: x * 2^k, |x| * 2^k < 2^14 */
    float *f16_scale;               /* (n): 2^-k */
} ht_k_norm;

/* The columns of a decode-class product. With `fused` they are F32 and every block of the launch norms (and quantises)
 * them for itself in shared memory, which costs less than a launch of its own where ht_k_can_fuse; the bits are those
 * of ht_k_norm. */
typedef struct ht_k_columns {
    const void *x;                  /* n columns: activation rows (q8, not fused), else F32 */
    int64_t bytes;                  /* between columns */
    int32_t cols, n;
    int32_t q8;                     /* multiply 8-bit blocks; 0: F32 */
    int32_t fused;
    ht_k_affine norm;               /* with fused */
    int64_t blocks;                 /* with fused: most blocks of the launch, for each norms anew; 0: no limit */
} ht_k_columns;

#define HT_K_FUSED_BYTES ((uint64_t)46 << 10) /* of shared memory: any GPU gives it without being asked twice */
static inline int ht_k_can_fuse(int64_t cols, int32_t n, int q8)
{
    uint64_t held = (uint64_t)(n < HT_K_COLUMNS ? n : HT_K_COLUMNS);
    return held * (q8 ? HT_K_ACT_STRIDE(cols) : (uint64_t)cols * sizeof(float)) <= HT_K_FUSED_BYTES;
}

/* Rows of one matrix, and where their products go. */
typedef struct ht_k_rows {
    const void *w;                  /* row i at w + i * row_bytes */
    int64_t row_bytes, rows;
    const float *bias;              /* (rows) or NULL */
    float *y;                       /* (n, rows) */
} ht_k_rows;

/* Decode class: y = W x + bias, or y += with `add`, for up to three matrices of one type that share x. */
typedef struct ht_k_matvec {
    ht_type type;
    int32_t n_out, add;
    ht_k_rows out[3];
    ht_k_columns x;
} ht_k_matvec;

/* Decode class: h = act(gate x + gate_bias) * (up x + up_bias), gate and up of one type. Without a gate (w NULL):
 * h = act(up x + up_bias). */
typedef struct ht_k_glu {
    ht_type type;
    int32_t f, activation;
    int64_t row_bytes;
    const void *gate, *up;          /* (f, cols) */
    const float *gate_bias, *up_bias;
    ht_k_columns x;
    float *h;                       /* (n, f) */
    void *h_q8;                     /* h as activation rows HT_K_ACT_STRIDE(f) apart, or NULL; f a multiple of 32 */
} ht_k_glu;

/* Block class: y = W x + bias, or y +=. */
typedef struct ht_k_matmat {
    ht_type type;
    ht_k_rows out;
    int32_t cols, n, add;
    const float *x;                 /* (n, cols) F32: the plain product; NULL: */
    const ht_half *x_f16;           /* F16 columns as ht_k_norm writes them: tensor cores (sm_75) */
    const float *x_scale;           /* (n) */
    int32_t multiprocessors;        /* of the device, by which tiles are as wide as pays (no bits change); 0: widest */
} ht_k_matmat;

/* h = act(g) * u, or act(g) without u, element by element; h may be g. */
typedef struct ht_k_activate { const float *g, *u; float *h; int64_t n; int32_t activation; } ht_k_activate;

/* x (n, cols) = scale * table[token]. */
typedef struct ht_k_embed {
    ht_type type;
    const void *table;
    int64_t row_bytes;
    const int32_t *token;           /* [n] */
    int32_t n, cols;
    float scale;
    float *x;
} ht_k_embed;

/* (cos, sin) of every column and pair: theta = position * frequency[i] / divisor[i], in double precision. */
typedef struct ht_k_angles {
    const int32_t *position;        /* [n] */
    const double *frequency;        /* [pairs] */
    const float *divisor;           /* [pairs] or NULL */
    float magnitude;
    int32_t n, pairs;
    float *angles;                  /* (n, pairs, 2) */
} ht_k_angles;

/* Where the tokens of the step's sequences are. */
typedef struct ht_k_pages {
    void *const *page;              /* [page id]: this layer's address */
    const int32_t *table;           /* [sequence][stride]: page ids in order of position */
    int32_t stride;
    const int32_t *sequence, *position; /* [n] */
    ht_type k_type, v_type;
    int64_t k_row_bytes, v_row_bytes, v_offset; /* ht_kv_layout */
} ht_k_pages;

/* Per-head norm (gains may be NULL) and RoPE of q and k; k and v go to their pages. q in place. */
typedef struct ht_k_rope_append {
    float *q;                       /* (n, H, e) */
    const float *k, *v;             /* (n, G, e) */
    const float *q_norm, *k_norm;   /* (e) or NULL */
    float eps;
    const float *angles;            /* (n, pairs, 2) */
    int32_t n, heads, kv_heads, head_dim, pairs, halves; /* halves: pair (i, i + pairs), else (2i, 2i + 1) */
    ht_k_pages pages;
} ht_k_rope_append;

/* Attention of groups of neighbouring columns of one sequence. A KV tile is HT_K_TILE tokens; split s covers tiles
 * [s * split_tiles, (s + 1) * split_tiles). With several splits the last block of a group to finish merges them, in
 * their order. */
#define HT_K_TILE 64
typedef struct ht_k_group { int32_t column, n; } ht_k_group;
typedef struct ht_k_attend {
    const float *q;                 /* (n, H, e) */
    const ht_k_group *groups;       /* [n_groups], each of at most columns_per_group columns */
    int32_t n_groups, columns_per_group;
    int32_t heads, kv_heads, head_dim, window;
    int32_t splits, split_tiles;    /* at most HT_K_TILE splits */
    float scale, softcap;           /* softcap c > 0: a score s becomes c tanh(s / c), after the scale */
    ht_k_pages pages;
    float *out;                     /* (n, H, e) */
    void *q8;                       /* out as activation rows, or NULL; head_dim a multiple of 32 */
    /* With more splits than one: */
    float *max, *sum;               /* (n, H, splits) */
    float *acc;                     /* (n, H, splits, e) */
    int32_t *arrived;               /* (n_groups, G, row tiles): zero before and after; HT_K_ARRIVALS bounds it */
} ht_k_attend;
#define HT_K_ARRIVALS(columns, heads) ((uint64_t)(columns) * (uint64_t)(heads))

/* dst (m, cols) = rows columns[i] of src. */
typedef struct ht_k_gather { float *dst; const float *src; const int32_t *columns; int32_t m, cols; } ht_k_gather;
/* The k largest of every column of x (n, cols), largest first, of equals the first; NaN never. k <= cols. */
#define HT_K_TOP 256
typedef struct ht_k_top { const float *x; int32_t n, cols, k; int32_t *index; /* (n, k) */ float *value; /* (n, k) or NULL */ } ht_k_top;

/* ---- sparse FFN: one column, neurons [first, first + f) of the layer ---- */

/* The active neurons in order of index (from 0 in the range): those with |h| > threshold. n_active is written. */
typedef struct ht_k_active { const float *h; int32_t f; float threshold; int32_t *list, *n_active; } ht_k_active;
/* h[i] *= up row i . x + bias[i] for the neurons of the list; the payload of a gated FFN. */
typedef struct ht_k_up {
    ht_type type;
    int32_t f;
    int64_t row_bytes;
    const void *up;                 /* (f, cols) */
    const float *bias;              /* (f) or NULL */
    ht_k_columns x;                 /* one column */
    const int32_t *list, *n_active;
    float *h;                       /* (f) */
} ht_k_up;
/* x (cols) += sum over active neurons i of h[i] * row i of a neuron-major down matrix (f, cols). Sums run over fixed
 * groups of HT_K_NEURONS neurons of absolute index, then over the groups in order. */
#define HT_K_NEURONS 256
#define HT_K_GROUPS(first, f) (((first) % HT_K_NEURONS + (f) + HT_K_NEURONS - 1) / HT_K_NEURONS)
typedef struct ht_k_axpy {
    ht_type type;
    int32_t f, cols, first;
    int64_t row_bytes;
    const void *down;               /* (f, cols) */
    const float *h;                 /* (f) */
    const int32_t *list, *n_active;
    float *partial;                 /* (HT_K_GROUPS(first, f), cols) scratch */
    float *x;
} ht_k_axpy;

/* Tensor-core products on registers, to measure their rate: each of `blocks` does turns * HT_K_PROBE_FLOPS; every element
 * of out (blocks, 256) becomes turns * 512. Only where the device has tensor cores. */
#define HT_K_PROBE_FLOPS (8.0 * 8 * 2 * 16 * 8 * 16)
typedef struct ht_k_probe { int32_t blocks, turns; float *out; } ht_k_probe;

typedef struct ht_gpu_kernels {
    const char *build; /* "cuda" or "emu" */
    int (*norm)(const ht_k_norm *a, void *stream);
    int (*matvec)(const ht_k_matvec *a, void *stream);
    /* matvec of one Q4_0 or Q8_0 matrix with planar rows: an experiment, see kernels/planar.cu. */
    int (*matvec_planar)(const ht_k_matvec *a, void *stream);
    int (*probe)(const ht_k_probe *a, void *stream);
    int (*glu)(const ht_k_glu *a, void *stream);
    int (*matmat)(const ht_k_matmat *a, void *stream);
    int (*activate)(const ht_k_activate *a, void *stream);
    int (*embed)(const ht_k_embed *a, void *stream);
    int (*angles)(const ht_k_angles *a, void *stream);
    int (*rope_append)(const ht_k_rope_append *a, void *stream);
    int (*attend)(const ht_k_attend *a, void *stream);
    int (*gather)(const ht_k_gather *a, void *stream);
    int (*top)(const ht_k_top *a, void *stream);
    int (*active)(const ht_k_active *a, void *stream);
    int (*up)(const ht_k_up *a, void *stream);
    int (*axpy)(const ht_k_axpy *a, void *stream);
    /* Query rows (columns times heads of a KV head) that a block of `attend` holds: bounds columns_per_group. */
    int32_t (*attend_rows)(int32_t head_dim);
} ht_gpu_kernels;

void ht_gpu_kernels_fill_emu(ht_gpu_kernels *k);
void ht_gpu_kernels_fill_cuda(ht_gpu_kernels *k); /* only in builds with CUDA */

#ifdef __cplusplus
}
#endif
#endif
