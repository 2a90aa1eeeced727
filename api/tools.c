/* Tools of the public API that need no engine. */
#include "api/handles.h"
#include "core/model/inspect.h"
#include "core/model/synth.h"

int hearth_inspect(const char *path, bool json, hearth_line_sink *line, void *user, hearth_error *error)
{
    ht_error err = {0};

    return ht_give_error(ht_inspect(path, json, line, user, &err), &err, error);
}

int hearth_synth(const char *path, const hearth_synth_options *o, hearth_error *error)
{
    ht_error err = {0};
    const ht_synth_options inner = {
        .shape = o->shape,
        .n_layers = o->n_layers,
        .n_embd = o->n_embd,
        .n_ff = o->n_ff,
        .n_heads = o->n_heads,
        .n_kv_heads = o->n_kv_heads,
        .head_dim = o->head_dim,
        .n_vocab = o->n_vocab,
        .n_context = o->n_context,
        .type = o->type,
        .activation = o->activation,
        .vocab = o->vocab,
        .tied = o->tied,
        .seed = o->seed,
        .quiet = o->quiet,
    };

    return ht_give_error(ht_synth(path, &inner, &err), &err, error);
}

const char *hearth_synth_shapes(void) { return ht_synth_shapes(); }
