/* The forward pass: one step through all layers, site by site.
 *
 * A *site* is a backend with the store that lends to it: what lies together and is computed together. Each computes the
 * layers that its store has, on its own KV pages; between two sites the residual stream is carried over by the host.
 *
 * The pass knows no session, no page counts and no sampling: it gets columns and page tables, and gives logits. It holds a
 * weight's or a page's address only between acquire and release.
 */
#ifndef HEARTH_CORE_ENGINE_FORWARD_H
#define HEARTH_CORE_ENGINE_FORWARD_H

#include "core/engine/arena.h"
#include "core/ports/ops.h"

#include <stdatomic.h>

/* Most logits of a pass that exist at once; more are computed in slices of this many columns. */
#define HT_LOGIT_COLUMNS 64

#define HT_MOST_SITES 8

typedef struct ht_site {
    ht_backend *backend;     /* borrowed */
    ht_store *store;         /* borrowed */
} ht_site;

/* A site's part of the pass. Its buffers lie on the backend, in one piece; n = limits.columns, m = logit_columns. Those that
 * don't live at the same time share their place. */
typedef struct ht_forward_site {
    ht_backend *backend;
    ht_store *store;
    int32_t first, n_units;  /* its units: units[first, first + n_units) */
    int32_t expected;        /* how many of them the store was told to expect */
    char *arena;             /* owned */
    float *x;                /* (n, d): the residual stream */
    float *q;                /* (n, H e); (n, max(H e, d)) with post norms, where it also holds what is to be normed */
    float *k, *v;            /* (n, G e) */
    float *mixed;            /* (n, H e): attention's result */
    float *hidden;           /* (n, f) */
    float *chosen;           /* (m, d): columns whose logits are wanted; where the output is */
    float *logits;           /* (m, V); there too */
    float *divisors;         /* (dims/2): of RoPE, or NULL: they come with the weights, or there are none */
} ht_forward_site;

/* Owner: the engine's thread. */
typedef struct ht_forward {
    ht_forward_site site[HT_MOST_SITES];
    int32_t n_sites;
    ht_unit *units;          /* [n_units], owned: in the order of a pass; the last one is OUTPUT */
    int32_t n_units;
    int32_t logit_columns;
    float *carried;          /* (n, d), owned, on the host: x on its way between two sites; NULL: there is one */
    float *host_logits;      /* (m, V), owned, on the host */
    int32_t *page_ids;       /* [kv_pages], owned: the pages of a pass, each once, those written last */
    uint8_t *page_use;       /* [kv_pages], owned: scratch, zero between passes */
} ht_forward;

/* Logits (V) of column `column` of the step; in ascending order of columns. */
typedef void ht_forward_sink(void *user, int32_t column, const float *logits);

typedef struct ht_pass {
    const ht_step *step;
    const int32_t *out;          /* [n_out]: columns whose logits are wanted, ascending */
    int32_t n_out;
    ht_forward_sink *sink;
    void *user;
    const atomic_bool *cancel;   /* looked at before every layer; NULL: never */
} ht_pass;

#define HT_FORWARD_BUFFERS 9
#define HT_FORWARD_ALIGN 256 /* of each of them */

/* The buffers of a site with their lifetimes, planned into an arena of *bytes; `output`: it gives the logits. -ENOMEM: too
 * large. */
int ht_forward_buffers(const ht_ops_limits *limits, bool output, ht_arena_item out[HT_FORWARD_BUFFERS], size_t *bytes,
                       ht_error *err);
/* Bytes of backend memory that a pass takes on a site, rounded up to `align`: for the plan. */
int ht_forward_bytes(const ht_ops_limits *limits, bool output, size_t align, size_t *out, ht_error *err);

/* The stores' shares of the model follow each other: the first has the embedding, the last one the output. -EINVAL: they
 * don't. -ENOTSUP: a model that the pass cannot compute yet. On failure *f holds nothing. */
int ht_forward_open(ht_forward *f, const ht_site *sites, int32_t n_sites, ht_error *err);
void ht_forward_close(ht_forward *f);

/* -ECANCELED, or what store or backend reported. After a failure nothing is held and the next pass may run; the KV
 * entries of the step's columns are undefined. */
int ht_forward_run(ht_forward *f, const ht_pass *pass, ht_error *err);

#endif
