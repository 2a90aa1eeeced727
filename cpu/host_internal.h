/* What the files of the host backend share; nobody else includes this. */
#ifndef HEARTH_CPU_HOST_INTERNAL_H
#define HEARTH_CPU_HOST_INTERNAL_H

#include "cpu/host.h"

#define HT_BLOCK_ROWS 64        /* rows of weights a block-class unit of work has at most */
#define HT_DECODE_ROWS 512      /* and a decode-class one */
#define HT_GROUP_TILES 8        /* decode attention: KV tiles of one partial result; part of the numeric contract */
#define HT_QUERY_ROWS 64        /* block attention: query rows that share a pass over K and V, about */
#define HT_MAX_OUT 3            /* matrices of one projection */

typedef struct ht_host_piece ht_host_piece; /* memory handed out by alloc */

/* One thread's piece of scratch; every use of it begins and ends inside one task. */
typedef struct ht_host_scratch {
    void *matmul;               /* what the block-class kernels asked for */
    float *rows;                /* (columns, HT_BLOCK_ROWS), or (HT_DECODE_COLUMNS, HT_DECODE_ROWS) */
    void *row;                  /* of the embedding table: any type */
    float *q, *acc;             /* (M, e), M = query_rows */
    void *query;                /* (M) rows of what attend_query makes */
    float *s;                   /* (M, HT_KV_TILE) */
    float *max, *sum, *carry;   /* (M) */
    int32_t *first, *limit;     /* (M) */
} ht_host_scratch;

/* Owner: the engine's thread; pool threads see it inside tasks only. */
typedef struct ht_host {
    ht_backend base;            /* first */
    ht_kernels kernels;
    ht_pool *pool;              /* borrowed */
    int threads;
    ht_host_piece *pieces;      /* all that alloc handed out */

    ht_step step;               /* its arrays are borrowed, those after a select are the ones below */
    int32_t *selected;          /* (4, columns): token, position, sequence after a select, and room to move them */

    /* All below lies in one arena. */
    char *arena;
    size_t arena_bytes;
    ht_host_scratch *scratch;   /* [threads] */
    float *normed;              /* (columns, d) */
    char *act;                  /* (columns) quantised activation rows */
    size_t act_stride;          /* bytes kept for one, for the widest input */
    char *packed;
    size_t packed_bytes;

    /* RoPE: divisors as last seen, and angles of the step's columns, made when first needed. */
    int32_t rope_pairs;         /* dims / 2 */
    bool rope_frequencies_known, rope_divided, rope_angles_known;
    float rope_local_base;      /* > 0: the frequencies are those of a local layer */
    float *rope_divisors;       /* (pairs) */
    double *rope_frequencies;   /* (pairs): angle per position */
    float *rope_angles;         /* (columns, pairs, 2): cos, sin */
    double rope_magnitude;      /* multiplies cos and sin */

    /* Attention. */
    int32_t query_rows;         /* M */
    int32_t max_groups;         /* tile groups of the longest sequence */
    float *partials;            /* (HT_DECODE_COLUMNS, max_groups, G, H / G, e + 2): max, sum, acc */
    int32_t *blocks;            /* (columns + 1): first columns of the query blocks of a block-class step */
} ht_host;

static inline int32_t ht_host_group(const ht_host *h)
{
    return h->base.limits.shape.n_heads / h->base.limits.shape.n_kv_heads;
}

/* host_matrix.c */
void ht_host_project(ht_backend *b, const ht_project_args *a);
void ht_host_add_project(ht_backend *b, const ht_add_project_args *a);
void ht_host_ffn(ht_backend *b, const ht_ffn_args *a);
/* Bytes that the block-class kernels can need: for inputs packed at once, and for one thread's scratch. False on
 * overflow. */
bool ht_host_matrix_needs(const ht_host *h, size_t *packed, size_t *scratch);

/* host_rope.c */
void ht_host_rope_append(ht_backend *b, const ht_rope_append_args *a);

/* host_attention.c */
void ht_host_attention(ht_backend *b, const ht_attention_args *a);

#endif
