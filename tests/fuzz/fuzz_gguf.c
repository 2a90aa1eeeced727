/* Fuzz target: the GGUF parser and its look-ups, on any bytes. */
#include "core/model/gguf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ht_gguf g;
    ht_error err = {0};
    /* Twice the size: the file goes on beyond the header that we have. */
    if (ht_gguf_parse(&g, data, size, (uint64_t)size * 2, "fuzz", &err) < 0) {
        if (!err.text[0]) abort();
        return 0;
    }
    for (int32_t i = 0; i < g.dir.n_tensors; i++) {
        const ht_tensor_info *t = &g.dir.tensors[i];
        if (ht_tensor_find(&g.dir, t->name) != i || t->offset + t->bytes > 2 * (uint64_t)size) abort();
    }
    for (uint64_t i = 0; i < g.n_values; i++) {
        const ht_gguf_value *v = &g.values[i];
        int64_t n;
        float f;
        bool b;
        ht_gguf_string s;
        ht_gguf_get_i64(&g, v->key, &n, &err);
        ht_gguf_get_f32(&g, v->key, &f, &err);
        ht_gguf_get_bool(&g, v->key, &b, &err);
        ht_gguf_get_string(&g, v->key, &s, &err);
        if (v->kind != HT_GGUF_ARRAY || v->item == HT_GGUF_STRING) continue;
        for (uint64_t k = 0; k < v->count; k++) (void)ht_gguf_item_i64(v, k), (void)ht_gguf_item_f64(v, k);
    }
    ht_gguf_close(&g);
    return 0;
}
