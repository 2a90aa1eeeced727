/* The layout of KV pages: pure arithmetic on a model's shape. */
#include "core/ports/kv_q16.h"

const char *ht_kv_type_name(ht_type type) { return type == HT_Q16 ? "Q16" : ht_type_get(type)->name; }

static bool known(ht_type type) { return type == HT_Q16 || ht_type_get(type); }

bool ht_kv_type_fits(ht_type type, int32_t head_dim)
{
    if (type == HT_Q16) return head_dim % HT_Q16_MULTIPLE == 0 && head_dim <= HT_Q16_MOST_DIM;
    return head_dim % ht_type_get(type)->block_len == 0;
}

static size_t row_bytes(ht_type type, int32_t head_dim)
{
    return type == HT_Q16 ? ht_q16_row_bytes(head_dim) : ht_row_bytes(ht_type_get(type), head_dim);
}

static int refuse(ht_type type, int32_t head_dim, ht_error *err)
{
    if (type == HT_Q16)
        return ht_fail(err, -EINVAL,
                       "KV cache type Q16 needs heads of a multiple of %d elements, at most %d; this model's have %d",
                       HT_Q16_MULTIPLE, HT_Q16_MOST_DIM, head_dim);
    return ht_fail(err, -EINVAL, "KV cache type %s needs heads of a multiple of %d elements, this model's have %d",
                   ht_kv_type_name(type), ht_type_get(type)->block_len, head_dim);
}

int ht_kv_layout_init(ht_kv_layout *out, const ht_shape *shape, ht_type k_type, ht_type v_type, ht_error *err)
{
    *out = (ht_kv_layout){0};
    if (!known(k_type) || !known(v_type))
        return ht_fail(err, -EINVAL, "unknown KV cache type %d", !known(k_type) ? (int)k_type : (int)v_type);
    if (!ht_kv_type_fits(k_type, shape->head_dim)) return refuse(k_type, shape->head_dim, err);
    if (!ht_kv_type_fits(v_type, shape->head_dim)) return refuse(v_type, shape->head_dim, err);
    size_t rows = (size_t)shape->n_kv_heads * HT_KV_TILE;
    *out = (ht_kv_layout){
        .k_type = k_type,
        .v_type = v_type,
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .k_row_bytes = row_bytes(k_type, shape->head_dim),
        .v_row_bytes = row_bytes(v_type, shape->head_dim),
    };
    out->v_offset = rows * out->k_row_bytes;
    out->page_bytes = out->v_offset + rows * out->v_row_bytes;
    return 0;
}

static void read_q16(const void *tile, bool value, int32_t e, int32_t t, float *out)
{
    const float *d = tile;
    const int16_t *q = ht_q16_values(tile);
    for (int32_t i = 0; i < e; i++) out[i] = d[t] * (float)q[value ? ht_q16_v_at(e, t, i) : ht_q16_k_at(e, t, i)];
}

void ht_kv_read_row(const ht_kv_layout *kv, const void *page, bool value, int32_t g, int32_t t, float *out)
{
    ht_type type = value ? kv->v_type : kv->k_type;
    const char *tile = (const char *)page + ht_kv_tile_at(kv, value, g);

    if (type == HT_Q16) read_q16(tile, value, kv->head_dim, t, out);
    else ht_type_get(type)->dequantize(tile + (size_t)t * row_bytes(type, kv->head_dim), out, kv->head_dim);
}
