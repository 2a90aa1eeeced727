/* Resident weights: see resident.h. */
#include "core/ports/resident.h"

#include "core/base/memory.h"
#include "core/model/tiles.h"

#include <string.h>

/* ---- what a layer is made of ---------------------------------------------------------------------------- */

enum { LAYER_VECTORS = 16 };
typedef struct layer_vector { ht_tensor_ref ref; const float **view; } layer_vector;
typedef struct layer_matrix { ht_tensor_ref ref; ht_matrix *view; } layer_matrix;

static void list_layer(const ht_model *m, int32_t layer, ht_attention_weights *a, ht_ffn_weights *f,
                       layer_vector vectors[LAYER_VECTORS], layer_matrix matrices[HT_LAYER_MATRICES])
{
    const ht_layer_refs *r = &m->layers[layer];
    const layer_vector v[LAYER_VECTORS] = {
        {r->attn_norm, &a->norm},      {r->attn_norm_bias, &a->norm_bias},
        {r->q_bias, &a->q_bias},       {r->k_bias, &a->k_bias},
        {r->v_bias, &a->v_bias},       {r->q_norm, &a->q_norm},
        {r->k_norm, &a->k_norm},       {r->o_bias, &a->o_bias},
        {r->ffn_norm, &f->norm},       {r->ffn_norm_bias, &f->norm_bias},
        {r->gate_bias, &f->gate_bias}, {r->up_bias, &f->up_bias},
        {r->down_bias, &f->down_bias}, {{.tensor = m->shape.rope.freqs}, &a->rope_freqs},
        {r->attn_post_norm, &a->post_norm}, {r->ffn_post_norm, &f->post_norm},
    };
    const layer_matrix w[HT_LAYER_MATRICES] = {
        {r->q, &a->q},           {r->k, &a->k},       {r->v, &a->v},   {r->o, &a->o},
        {r->router, &f->router}, {r->gate, &f->gate}, {r->up, &f->up}, {r->down, &f->down},
    };
    memcpy(vectors, v, sizeof v);
    memcpy(matrices, w, sizeof w);
}

static void mark(uint8_t *use, ht_tensor_ref ref, uint8_t how)
{
    if (ref.tensor >= 0) use[ref.tensor] |= how;
}

static void mark_layer(const ht_model *model, int32_t layer, uint8_t *use)
{
    ht_attention_weights a;
    ht_ffn_weights f;
    layer_vector vectors[LAYER_VECTORS];
    layer_matrix matrices[HT_LAYER_MATRICES];

    list_layer(model, layer, &a, &f, vectors, matrices);
    for (int i = 0; i < LAYER_VECTORS; i++) mark(use, vectors[i].ref, HT_USED_AS_VECTOR);
    for (int i = 0; i < HT_LAYER_MATRICES; i++) mark(use, matrices[i].ref, HT_USED_AS_MATRIX);
}

void ht_resident_mark(const ht_model *model, const ht_share *share, uint8_t *use)
{
    for (int32_t i = share->layer_begin; i < share->layer_end; i++) mark_layer(model, i, use);
    if (share->embedding) mark(use, model->embd, HT_USED_AS_MATRIX);
    if (!share->output) return;
    mark(use, model->output, HT_USED_AS_MATRIX);
    mark(use, model->output_norm, HT_USED_AS_VECTOR);
    mark(use, model->output_norm_bias, HT_USED_AS_VECTOR);
}

/* ---- views ---------------------------------------------------------------------------------------------- */

static ht_matrix matrix_of(const ht_model *m, const ht_resident_bytes *bytes, ht_tensor_ref ref)
{
    if (ref.tensor < 0) return (ht_matrix){0};
    const ht_tensor_info *t = &m->dir->tensors[ref.tensor];
    size_t row_bytes = ht_row_bytes(ht_type_get(t->type), t->dim[0]);
    return (ht_matrix){
        .data = (const uint8_t *)bytes->matrix[ref.tensor] + (size_t)ref.row * row_bytes,
        .type = t->type,
        .rows = ref.rows,
        .cols = t->dim[0],
        .row_bytes = row_bytes,
    };
}

static const float *vector_of(const ht_resident_bytes *bytes, ht_tensor_ref ref)
{
    return ref.tensor < 0 ? NULL : bytes->vector[ref.tensor] + ref.row;
}

int ht_resident_open(ht_resident *out, const ht_model *model, const ht_share *share, const ht_resident_bytes *bytes,
                     ht_error *err)
{
    size_t layers = (size_t)model->shape.n_layers;

    *out = (ht_resident){
        .model = model,
        .share = *share,
        .attention = ht_calloc(layers, sizeof *out->attention),
        .ffn = ht_calloc(layers, sizeof *out->ffn),
    };
    if (!out->attention || !out->ffn) {
        ht_resident_close(out);
        return ht_fail(err, -ENOMEM, "out of memory for the views of %s", model->name);
    }
    if (share->embedding) out->embedding.table = matrix_of(model, bytes, model->embd);
    if (share->output)
        out->output = (ht_output_weights){.norm = vector_of(bytes, model->output_norm),
                                          .norm_bias = vector_of(bytes, model->output_norm_bias),
                                          .head = matrix_of(model, bytes, model->output)};
    for (int32_t l = share->layer_begin; l < share->layer_end; l++) {
        layer_vector vectors[LAYER_VECTORS];
        layer_matrix matrices[HT_LAYER_MATRICES];
        list_layer(model, l, &out->attention[l], &out->ffn[l], vectors, matrices);
        for (int i = 0; i < LAYER_VECTORS; i++) *vectors[i].view = vector_of(bytes, vectors[i].ref);
        for (int i = 0; i < HT_LAYER_MATRICES; i++) *matrices[i].view = matrix_of(model, bytes, matrices[i].ref);
    }
    return 0;
}

void ht_resident_close(ht_resident *r)
{
    ht_free(r->attention);
    ht_free(r->ffn);
    *r = (ht_resident){0};
}

void ht_resident_matrices(ht_resident *r, int32_t layer, ht_matrix *out[HT_LAYER_MATRICES])
{
    layer_vector vectors[LAYER_VECTORS];
    layer_matrix matrices[HT_LAYER_MATRICES];

    list_layer(r->model, layer, &r->attention[layer], &r->ffn[layer], vectors, matrices);
    for (int i = 0; i < HT_LAYER_MATRICES; i++) out[i] = matrices[i].view;
}

/* ---- lending -------------------------------------------------------------------------------------------- */

static void take_rows(ht_matrix *w, int64_t row, int64_t rows)
{
    if (!w->data) return;
    w->data = (const uint8_t *)w->data + (size_t)row * w->row_bytes;
    w->rows = rows;
}

static void take_columns(ht_matrix *w, int64_t column, int64_t cols)
{
    w->data = (const uint8_t *)w->data + ht_row_bytes(ht_type_get(w->type), column) * (w->woven ? HT_TILE_ROWS : 1);
    w->cols = cols;
}

/* Whether rows [row, row + rows) can be lent. */
static bool rows_fit(const ht_matrix *w, int64_t row, int64_t rows)
{
    return !w->woven || (row % HT_TILE_ROWS == 0 && rows % HT_TILE_ROWS == 0);
}

/* Neurons [nb, ne) of experts: rows of gate and up, columns of down. */
static int lend_ffn(const ht_resident *r, const ht_unit *u, ht_ffn_weights *out, ht_error *err)
{
    const ht_shape *shape = &r->model->shape;
    int32_t f = shape->n_ff, experts = u->expert_end - u->expert_begin, neurons = u->neuron_end - u->neuron_begin;

    if (u->expert_begin < 0 || u->expert_end > shape->n_experts || experts < 1 || u->neuron_begin < 0 ||
        u->neuron_end > f || neurons < 0 || (neurons != f && experts != 1))
        return ht_fail(err, -EINVAL, "layer %d: no such FFN range: experts [%d, %d), neurons [%d, %d)", u->layer,
                       u->expert_begin, u->expert_end, u->neuron_begin, u->neuron_end);
    const ht_ffn_weights *all = &r->ffn[u->layer];
    const ht_type_info *down = ht_type_get(all->down.type);
    int64_t unit = all->down.woven ? ht_tile_columns(all->down.type) : down->block_len;
    if (u->neuron_begin % unit || neurons % unit)
        return ht_fail(err, -EINVAL, "layer %d: neurons [%d, %d) cut blocks of %s in ffn_down", u->layer, u->neuron_begin,
                       u->neuron_end, down->name);
    int64_t row = (int64_t)u->expert_begin * f + u->neuron_begin, down_row = (int64_t)u->expert_begin * shape->n_embd;
    if (!rows_fit(&all->gate, row, neurons) || !rows_fit(&all->up, row, neurons) || !rows_fit(&all->down, down_row, shape->n_embd))
        return ht_fail(err, -EINVAL, "layer %d: neurons [%d, %d) cut tiles of rows", u->layer, u->neuron_begin, u->neuron_end);
    *out = *all;
    take_rows(&out->gate, row, (int64_t)experts * neurons);
    take_rows(&out->up, row, (int64_t)experts * neurons);
    take_rows(&out->down, down_row, (int64_t)experts * shape->n_embd);
    take_columns(&out->down, u->neuron_begin, neurons);
    if (out->gate_bias) out->gate_bias += row;
    if (out->up_bias) out->up_bias += row;
    if (out->down_bias) out->down_bias += down_row;
    if (u->neuron_begin) out->down_bias = out->post_norm = NULL; /* of the sum over all neurons */
    return 0;
}

int ht_resident_lend(const ht_resident *r, const ht_unit *unit, ht_lease *out, ht_error *err)
{
    bool of_layer = unit->kind == HT_UNIT_ATTENTION || unit->kind == HT_UNIT_FFN;

    *out = (ht_lease){0};
    if (of_layer && !ht_share_has_layer(&r->share, unit->layer))
        return ht_fail(err, -EINVAL, "no layer %d among [%d, %d)", unit->layer, r->share.layer_begin, r->share.layer_end);
    if ((unit->kind == HT_UNIT_EMBEDDING && !r->share.embedding) || (unit->kind == HT_UNIT_OUTPUT && !r->share.output))
        return ht_fail(err, -EINVAL, "no %s here", unit->kind == HT_UNIT_OUTPUT ? "output" : "embedding");
    switch (unit->kind) {
    case HT_UNIT_EMBEDDING: out->u.embedding = r->embedding; return 0;
    case HT_UNIT_ATTENTION: out->u.attention = r->attention[unit->layer]; return 0;
    case HT_UNIT_FFN: return lend_ffn(r, unit, &out->u.ffn, err);
    case HT_UNIT_OUTPUT: out->u.output = r->output; return 0;
    }
    return ht_fail(err, -EINVAL, "no unit kind %d", (int)unit->kind);
}
