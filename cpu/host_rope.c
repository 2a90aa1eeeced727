/* Rotary positions, and the append to the KV pages. Angles are computed in double precision, once a step, and shared by
 * all layers: theta(p, i) = p * frequency[i] of core/model/rope.h.
 */
#include "core/model/rope.h"
#include "cpu/host_internal.h"

#include <math.h>
#include <string.h>

#define SERIAL_COLUMNS 8 /* fewer are turned by the caller alone: a dispatch costs more */

static ht_host *host_of(ht_backend *b) { return (ht_host *)(void *)b; }

static void find_frequencies(ht_host *h)
{
    const ht_rope *r = &h->base.limits.shape.rope;

    h->rope_magnitude = 1.0;
    if (h->rope_local_base > 0.0f) ht_rope_local_frequencies(r, h->rope_local_base, h->rope_frequencies);
    else h->rope_magnitude = ht_rope_frequencies(r, h->rope_divided ? h->rope_divisors : NULL, h->rope_frequencies);
}

static void angles_range(void *context, int64_t begin, int64_t end, int thread)
{
    ht_host *h = context;

    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        float *out = h->rope_angles + c * 2 * h->rope_pairs;
        for (int32_t i = 0; i < h->rope_pairs; i++) {
            double theta = h->step.position[c] * h->rope_frequencies[i];
            out[2 * i] = (float)(cos(theta) * h->rope_magnitude);
            out[2 * i + 1] = (float)(sin(theta) * h->rope_magnitude);
        }
    }
}

/* The divisors belong to a lease, so they are compared by content. All layers share them and the angles, but for
 * models whose layers with a window turn by another base: there they are found anew at each change. */
static void find_angles(ht_host *h, const float *divisors, float local_base)
{
    size_t bytes = (size_t)h->rope_pairs * sizeof(float);

    if (local_base > 0.0f) divisors = NULL;
    if (!h->rope_frequencies_known || h->rope_local_base != local_base || h->rope_divided != (divisors != NULL) ||
        (divisors && memcmp(divisors, h->rope_divisors, bytes) != 0)) {
        h->rope_divided = divisors != NULL;
        if (divisors) memcpy(h->rope_divisors, divisors, bytes);
        h->rope_local_base = local_base;
        find_frequencies(h);
        h->rope_frequencies_known = true;
        h->rope_angles_known = false;
    }
    if (h->rope_angles_known) return;
    ht_pool_for(h->pool, h->step.n, SERIAL_COLUMNS, angles_range, h);
    h->rope_angles_known = true;
}

typedef struct append_job { const ht_host *h; const ht_rope_append_args *a; } append_job;

static void turn_heads(const append_job *j, float *heads, int32_t n, const float *gain, const float *angles)
{
    const ht_shape *shape = &j->h->base.limits.shape;
    const ht_kernels *k = &j->h->kernels;
    int64_t e = shape->head_dim;

    for (int32_t i = 0; i < n; i++, heads += e) {
        if (gain) k->rms_norm(heads, heads, gain, j->a->norm_eps, e);
        if (shape->rope.pairing == HT_ROPE_HALVES) k->rope_halves(heads, angles, shape->rope.dims);
        else k->rope_interleaved(heads, angles, shape->rope.dims);
    }
}

static void append_range(void *context, int64_t begin, int64_t end, int thread)
{
    const append_job *j = context;
    const ht_host *h = j->h;
    const ht_shape *shape = &h->base.limits.shape;
    const ht_kv_layout *kv = &h->base.limits.kv;
    int64_t e = shape->head_dim, n_kv = shape->n_kv_heads;

    (void)thread;
    for (int64_t c = begin; c < end; c++) {
        const float *angles = h->rope_angles + c * 2 * h->rope_pairs;
        int32_t p = h->step.position[c], t = p % HT_KV_TILE;
        char *page = j->a->page[h->step.pages[h->step.sequence[c]][p / HT_KV_TILE]];
        float *k = j->a->k + c * n_kv * e;
        const float *v = j->a->v + c * n_kv * e;
        turn_heads(j, j->a->q + c * shape->n_heads * e, shape->n_heads, j->a->q_norm, angles);
        turn_heads(j, k, shape->n_kv_heads, j->a->k_norm, angles);
        for (int32_t g = 0; g < n_kv; g++) {
            h->kernels.kv_store[kv->k_type][0](k + g * e, page + ht_kv_tile_at(kv, false, g), t, e);
            h->kernels.kv_store[kv->v_type][1](v + g * e, page + ht_kv_tile_at(kv, true, g), t, e);
        }
    }
}

void ht_host_rope_append(ht_backend *b, const ht_rope_append_args *a)
{
    ht_host *h = host_of(b);
    append_job j = {h, a};

    find_angles(h, a->freqs, a->local_base);
    ht_pool_for(h->pool, h->step.n, SERIAL_COLUMNS, append_range, &j);
}
