/* The layout of KV pages: pure arithmetic on a model's shape. */
#include "core/ports/store.h"

int ht_kv_layout_init(ht_kv_layout *out, const ht_shape *shape, ht_type k_type, ht_type v_type, ht_error *err)
{
    const ht_type_info *k = ht_type_get(k_type), *v = ht_type_get(v_type);

    *out = (ht_kv_layout){0};
    if (!k || !v) return ht_fail(err, -EINVAL, "unknown KV cache type %d", !k ? (int)k_type : (int)v_type);
    if (shape->head_dim % k->block_len || shape->head_dim % v->block_len)
        return ht_fail(err, -EINVAL, "KV cache type %s needs heads of a multiple of %d elements, this model's have %d",
                       shape->head_dim % k->block_len ? k->name : v->name,
                       shape->head_dim % k->block_len ? k->block_len : v->block_len, shape->head_dim);
    size_t rows = (size_t)shape->n_kv_heads * HT_KV_TILE;
    *out = (ht_kv_layout){
        .k_type = k_type,
        .v_type = v_type,
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .k_row_bytes = ht_row_bytes(k, shape->head_dim),
        .v_row_bytes = ht_row_bytes(v, shape->head_dim),
    };
    out->v_offset = rows * out->k_row_bytes;
    out->page_bytes = out->v_offset + rows * out->v_row_bytes;
    return 0;
}
