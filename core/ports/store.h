/* The store port: where weights and KV pages are. The engine asks for a unit of weights just before it uses it and
 * gives it back just after; it never holds an address longer. So a unit may lie in RAM for good, arrive in pages
 * from NVMe, or take turns in a staging ring, and the engine does not know.
 *
 * Threads: a store is called by its engine's one thread. What it starts inside is its own affair.
 */
#ifndef HEARTH_CORE_PORTS_STORE_H
#define HEARTH_CORE_PORTS_STORE_H

#include "core/model/model.h"
#include "core/ports/event.h"

/* ---- weights -------------------------------------------------------------------------------------------- */

/* Rows of a stored matrix: row i is at data + i * row_bytes, in the memory of the backend that the store serves. */
typedef struct ht_matrix {
    const void *data;    /* NULL: absent */
    ht_type type;
    int64_t rows, cols;  /* cols: the reduction */
    size_t row_bytes;
    bool woven;          /* rows are woven into tiles (core/model/tiles.h): only for a backend that reads them */
} ht_matrix;

typedef enum ht_unit_kind { HT_UNIT_EMBEDDING, HT_UNIT_ATTENTION, HT_UNIT_FFN, HT_UNIT_OUTPUT } ht_unit_kind;

/* What is acquired at once. Neurons and experts are half-open ranges in the order of the file: a dense layer is
 * experts [0, 1); the whole FFN is neurons [0, n_ff). Where a unit lies is decided for its
 * whole range. */
typedef struct ht_unit {
    ht_unit_kind kind;
    int32_t layer;                        /* ATTENTION and FFN */
    int32_t expert_begin, expert_end;     /* FFN */
    int32_t neuron_begin, neuron_end;     /* FFN */
} ht_unit;

/* Vectors (norm gains, biases) are F32 whatever the file holds; NULL: absent. Letters: docs/notation.md. */
typedef struct ht_embedding_weights { ht_matrix table; /* (V, d) */ } ht_embedding_weights;

typedef struct ht_attention_weights {
    const float *norm, *norm_bias;            /* (d) */
    ht_matrix q, k, v;                        /* (H e, d), (G e, d), (G e, d) */
    const float *q_bias, *k_bias, *v_bias;
    const float *q_norm, *k_norm;             /* (e): per-head RMS norm before RoPE (qwen3) */
    ht_matrix o;                              /* (d, H e) */
    const float *o_bias;                      /* (d) */
    const float *post_norm;                   /* (d): of o's result, before it is added (gemma-2) */
    const float *rope_freqs;                  /* (dims / 2): divisors of the RoPE frequencies (llama 3.1) */
} ht_attention_weights;

/* For neurons [nb, ne) of experts [eb, ee); n = ne - nb. Experts follow each other: expert x of a matrix begins at
 * row (x - eb) * n of gate and up, and at row (x - eb) * d of down. What belongs to the sum over all neurons (down_bias,
 * post_norm) is lent with the range that begins at neuron 0 alone, so that it comes once. */
typedef struct ht_ffn_weights {
    const float *norm, *norm_bias;            /* (d) */
    ht_matrix router;                         /* (E, d) */
    ht_matrix gate, up;                       /* (n, d) per expert; gate absent when the FFN is not gated */
    ht_matrix down;                           /* (d, n) per expert */
    const float *gate_bias, *up_bias;         /* (n) per expert */
    const float *down_bias;                   /* (d) per expert */
    const float *post_norm;                   /* (d): of down's result, before it is added */
} ht_ffn_weights;

typedef struct ht_output_weights {
    const float *norm, *norm_bias;            /* (d) */
    ht_matrix head;                           /* (V, d) */
} ht_output_weights;

typedef struct ht_lease {
    ht_event ready;   /* the bytes may be read after it, not before; its failure is a failed read */
    union {
        ht_embedding_weights embedding;
        ht_attention_weights attention;
        ht_ffn_weights ffn;
        ht_output_weights output;
    } u;
    uint64_t private_[2]; /* the store's own */
} ht_lease;

/* ---- KV ------------------------------------------------------------------------------------------------- */

#define HT_KV_TILE 64 /* tokens in a page, and the fixed tile of attention */

/* Pages, or tiles, of a sequence's first `tokens`. */
static inline int32_t ht_kv_pages_of(int64_t tokens)
{
    return (int32_t)((tokens + HT_KV_TILE - 1) / HT_KV_TILE);
}

/* The layout of one page of one layer, the same on every tier: K tiles, then V tiles, one for each of G heads. A tile is
 * HT_KV_TILE rows of e elements in the cache type, one after another but for Q16 (core/ports/kv_q16.h). */
typedef struct ht_kv_layout {
    ht_type k_type, v_type;    /* F16, F32, Q8_0, Q4_0 or Q16 */
    int32_t n_kv_heads, head_dim;
    size_t k_row_bytes, v_row_bytes;
    size_t v_offset;           /* where V begins in a page */
    size_t page_bytes;
} ht_kv_layout;

/* Where the tile of K, or of V, of head g begins in a page. */
static inline size_t ht_kv_tile_at(const ht_kv_layout *kv, bool value, int32_t g)
{
    size_t rows = (size_t)g * HT_KV_TILE;
    return value ? kv->v_offset + rows * kv->v_row_bytes : rows * kv->k_row_bytes;
}

/* The page layout for a model's shape and cache types. -EINVAL when head_dim does not fit a type (ht_kv_type_fits). */
int ht_kv_layout_init(ht_kv_layout *out, const ht_shape *shape, ht_type k_type, ht_type v_type, ht_error *err);
bool ht_kv_type_fits(ht_type type, int32_t head_dim);
const char *ht_kv_type_name(ht_type type); /* of a known one */
/* Row t of K, or of V, of head g in a page, as F32 (e). */
void ht_kv_read_row(const ht_kv_layout *kv, const void *page, bool value, int32_t g, int32_t t, float *out);

/* A layer's pages, by page id. Only the pages that were asked for may be read. */
typedef struct ht_kv_lease {
    ht_event ready;
    void *const *page;         /* [page id]: address of that page for this layer. The array is in the backend's memory, as
                                  the pages are: it is passed on, not read by who is not that backend */
    uint64_t private_[2];
} ht_kv_lease;

/* ---- the table ------------------------------------------------------------------------------------------ */

/* What of a model a store lends: layers, with their KV pages, and what comes before and after all layers. */
typedef struct ht_share {
    int32_t layer_begin, layer_end;
    bool embedding, output;
} ht_share;

static inline ht_share ht_share_all(const ht_shape *shape)
{
    return (ht_share){.layer_end = shape->n_layers, .embedding = true, .output = true};
}
static inline int32_t ht_share_layers(const ht_share *s) { return s->layer_end - s->layer_begin; }
static inline bool ht_share_has_layer(const ht_share *s, int32_t layer)
{
    return layer >= s->layer_begin && layer < s->layer_end;
}

typedef struct ht_store ht_store;

typedef struct ht_store_ops {
    const char *name;
    /* The order in which units will be acquired from now on, repeated every pass: a store that streams uses it to
     * run ahead, others ignore it. NULL allowed. */
    void (*expect)(ht_store *s, const ht_unit *units, int32_t n);
    /* 0: *out is filled, and read after `ready`. Negative: nothing is held. At most HT_STORE_LEASES leases are held at once, of
     * units and of KV pages; a store must be able to hold that many. */
    int (*acquire)(ht_store *s, const ht_unit *unit, ht_lease *out, ht_error *err);
    /* The engine has queued all its use of the lease, but a device may not have done it yet: a store that reuses the
     * memory first waits, in the device's queue, for what was queued till now. */
    void (*release)(ht_store *s, ht_lease *lease);
    /* Pages `ids` of `layer`, for reading and (those in [first_written, n)) writing. Results as acquire. */
    int (*kv_acquire)(ht_store *s, int32_t layer, const int32_t *ids, int32_t n, int32_t first_written,
                      ht_kv_lease *out, ht_error *err);
    void (*kv_release)(ht_store *s, ht_kv_lease *lease);
    /* Copy page `from` to page `to` in every layer of the store (copy on write). Pages nobody holds. */
    int (*kv_copy)(ht_store *s, int32_t from, int32_t to, ht_error *err);
    void (*close)(ht_store *s);
} ht_store_ops;

#define HT_STORE_LEASES 4

/* Embedded first in every store. */
struct ht_store {
    const ht_store_ops *ops;
    ht_kv_layout kv;
    int32_t kv_pages;        /* page ids are [0, kv_pages) */
    ht_share share;          /* other units cannot be acquired */
};

#endif
