/* Fuzz target: safetensors headers and config.json, on any bytes. */
#include "core/model/model_arch.h"
#include "core/model/safetensors.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_config(const uint8_t *data, size_t size)
{
    ht_config c;
    ht_error err = {0};
    if (ht_config_parse(&c, (const char *)data, size, "fuzz", &err) < 0) {
        if (!err.text[0] || c.divisors[0] || c.divisors[1]) abort();
        return;
    }
    const ht_shape *s = &c.shape;
    if (s->n_layers < 1 || s->head_dim < 1 || s->head_dim % 2 || s->n_heads % s->n_kv_heads || s->rope.dims > s->head_dim ||
        s->rope.dims % 2 || !(s->rope.base >= 1) || !isfinite(s->attn_scale) || s->n_context < 1 || s->window < 0)
        abort();
    for (int i = 0; i < 2; i++)
        for (int32_t k = 0; c.divisors[i] && k < s->rope.dims / 2; k++)
            if (!(c.divisors[i][k] > 0)) abort();
    ht_config_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ht_tensor_dir d;
    ht_error err = {0};
    uint64_t file_size = (uint64_t)size * 2; /* the file goes on beyond what we have */
    if (size && data[0] == '{') {
        try_config(data, size);
        return 0;
    }
    if (ht_safetensors_parse(&d, data, size, file_size, "fuzz", &err) < 0) {
        if (!err.text[0] || d.tensors) abort();
        return 0;
    }
    for (int32_t i = 0; i < d.n_tensors; i++) {
        const ht_tensor_info *t = &d.tensors[i];
        if (ht_tensor_find(&d, t->name) != i || t->offset + t->bytes > file_size) abort();
        if (i && t[-1].offset + t[-1].bytes > t->offset) abort();
        if (ht_row_bytes(ht_type_get((uint32_t)t->type), ht_tensor_elements(t)) != t->bytes) abort();
    }
    ht_tensor_dir_close(&d);
    return 0;
}
