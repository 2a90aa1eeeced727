/* Inspection of a file. One pass collects a report; it is printed as text or as JSON (cJSON). */
#include "core/model/inspect.h"

#include "core/base/memory.h"
#include "core/model/model.h"
#include "core/model/safetensors.h"
#include "core/model/tokenizer_internal.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_ITEMS 6     /* of an array */
#define SHOWN_TEXT 100    /* bytes of a string */

typedef struct out {
    ht_inspect_sink *line;
    void *user;
} out;

/* ---- text that is safe to show ---- */

/* Appends `s`, at most `most` bytes of it, as printable UTF-8: files may say anything, and terminals and JSON readers
 * must not be harmed. Control bytes are escaped, a character that is cut or invalid becomes '?'. */
static size_t put_text(char *to, size_t room, ht_gguf_string s, uint64_t most)
{
    size_t n = 0;
    uint64_t i = 0;
    while (i < s.len && i < most && n + 8 < room) {
        uint8_t c = (uint8_t)s.data[i];
        int step = ht_utf8_step(s.data + i, (size_t)(s.len - i));
        bool good = step > 0 && !(c == 0xc2 && (uint8_t)s.data[i + 1] < 0xa0); /* C1 control characters */
        if (c == '\n') n += (size_t)snprintf(to + n, room - n, "\\n");
        else if (c < 0x20 || c == 0x7f) n += (size_t)snprintf(to + n, room - n, "\\x%02x", c);
        else if (!good) to[n++] = '?';
        else for (int k = 0; k < step; k++) to[n++] = s.data[i + (uint64_t)k];
        i += good ? (uint64_t)step : 1;
    }
    if (i < s.len && n + 4 < room) n += (size_t)snprintf(to + n, room - n, "...");
    to[n] = 0;
    return n;
}

typedef struct clean { char text[1600]; } clean;

static clean clean_of(const char *s)
{
    clean c;
    put_text(c.text, sizeof c.text, (ht_gguf_string){s, strlen(s)}, UINT64_MAX);
    return c;
}

static void say(const out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(const out *o, const char *format, ...)
{
    char text[1600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    o->line(o->user, clean_of(text).text);
}

/* Bytes for people: three digits and a unit. */
static const char *size_text(uint64_t bytes, char buffer[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024.0 && u < 4; u++) v /= 1024.0;
    snprintf(buffer, 24, u ? "%.2f %s" : "%.0f %s", v, units[u]);
    return buffer;
}

/* ---- values ---- */

static bool is_float(ht_gguf_kind k)
{
    return k == HT_GGUF_F32 || k == HT_GGUF_F64;
}

static size_t put_scalar(char *to, size_t room, const ht_gguf_value *v)
{
    if (v->kind == HT_GGUF_BOOL) return (size_t)snprintf(to, room, "%s", v->as.b ? "true" : "false");
    if (is_float(v->kind)) return (size_t)snprintf(to, room, "%g", v->as.f);
    if (v->kind == HT_GGUF_I8 || v->kind == HT_GGUF_I16 || v->kind == HT_GGUF_I32 || v->kind == HT_GGUF_I64)
        return (size_t)snprintf(to, room, "%" PRId64, v->as.i);
    return (size_t)snprintf(to, room, "%" PRIu64, v->as.u);
}

static void value_text(const ht_gguf_value *v, char *to, size_t room)
{
    static const char *const kinds[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                        "i64", "f64"};
    if (v->kind == HT_GGUF_STRING) {
        put_text(to, room, v->string, SHOWN_TEXT);
        return;
    }
    if (v->kind != HT_GGUF_ARRAY) {
        put_scalar(to, room, v);
        return;
    }
    size_t n = (size_t)snprintf(to, room, "%" PRIu64 " x %s: ", v->count, kinds[v->item]);
    for (uint64_t i = 0; i < v->count && i < SHOWN_ITEMS; i++) {
        if (i) n += (size_t)snprintf(to + n, room - n, ", ");
        if (v->item == HT_GGUF_STRING) n += put_text(to + n, room - n, v->strings[i], SHOWN_TEXT);
        else if (is_float(v->item)) n += (size_t)snprintf(to + n, room - n, "%g", ht_gguf_item_f64(v, i));
        else n += (size_t)snprintf(to + n, room - n, "%" PRId64, ht_gguf_item_i64(v, i));
    }
    if (v->count > SHOWN_ITEMS) snprintf(to + n, room - n, ", ...");
}

/* ---- sums ---- */

typedef struct sums {
    struct { uint64_t tensors, weights, bytes; } type[HT_TYPE_COUNT];
    uint64_t weights, bytes;
    uint64_t layer_least, layer_most; /* bytes of a layer */
    int32_t n_layers;
    uint64_t *layer;                  /* [n_layers], owned */
} sums;

/* The layer of "blk.<n>.x" or "model.layers.<n>.x", or -1. */
static int32_t layer_of(const char *name)
{
    static const char *const forms[] = {"blk.%4d.%n", "model.layers.%4d.%n"};
    for (int i = 0; i < 2; i++) {
        int layer = -1, end = 0;
        if (sscanf(name, forms[i], &layer, &end) == 1 && end > 0 && layer >= 0) return layer;
    }
    return -1;
}

static int add_up(sums *s, const ht_tensor_dir *dir, ht_error *err)
{
    memset(s, 0, sizeof *s);
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        int32_t layer = layer_of(dir->tensors[i].name);
        if (layer >= s->n_layers) s->n_layers = layer + 1;
    }
    s->layer = ht_calloc((size_t)s->n_layers, sizeof *s->layer);
    if (!s->layer) return ht_fail(err, -ENOMEM, "out of memory");
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        const ht_tensor_info *t = &dir->tensors[i];
        uint64_t weights = (uint64_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]);
        int32_t layer = layer_of(t->name);
        s->type[t->type].tensors++;
        s->type[t->type].weights += weights;
        s->type[t->type].bytes += t->bytes;
        s->weights += weights;
        s->bytes += t->bytes;
        if (layer >= 0) s->layer[layer] += t->bytes;
    }
    for (int32_t l = 0; l < s->n_layers; l++) {
        if (l == 0 || s->layer[l] < s->layer_least) s->layer_least = s->layer[l];
        if (s->layer[l] > s->layer_most) s->layer_most = s->layer[l];
    }
    return 0;
}

/* Tensors whose bytes overlap, as a count: each file's tensors are expected in the order of their offsets. */
static int32_t count_overlaps(const ht_tensor_dir *dir)
{
    int32_t n = 0;
    for (int32_t i = 1; i < dir->n_tensors; i++) {
        const ht_tensor_info *a = &dir->tensors[i - 1], *b = &dir->tensors[i];
        if (a->file == b->file && b->offset >= a->offset && b->offset < a->offset + a->bytes) n++;
    }
    return n;
}

/* ---- text ---- */

static const char *const activations[] = {"silu", "relu", "gelu", "gelu_tanh"};
static const char *const scalings[] = {"none", "linear", "yarn"};

static void shape_text(const out *o, const ht_model *m)
{
    const ht_shape *s = &m->shape;
    say(o, "model");
    say(o, "  architecture       %s (%s FFN, %s, RoPE on %s)", m->architecture, s->gated ? "gated" : "plain",
        activations[s->activation], s->rope.pairing == HT_ROPE_INTERLEAVED ? "neighbours" : "halves");
    say(o, "  layers             %d", s->n_layers);
    say(o, "  width              %d", s->n_embd);
    say(o, "  FFN neurons        %d", s->n_ff);
    say(o, "  heads              %d of %d, %d for K and V", s->n_heads, s->head_dim, s->n_kv_heads);
    say(o, "  vocabulary         %d, output matrix %s", s->n_vocab,
        m->output.tensor == m->embd.tensor ? "tied to the embedding" : "of its own");
    say(o, "  context            %d tokens", s->n_context);
    say(o, "  RoPE               base %g, %d dimensions, scaling %s, factor %g%s", (double)s->rope.base, s->rope.dims,
        scalings[s->rope.scaling], (double)s->rope.factor,
        s->rope.freqs >= 0 || s->rope.divisors ? ", with frequency divisors" : "");
    if (s->window && s->window_period)
        say(o, "  attention window   %d tokens, all in every layer number %d", s->window, s->window_period);
    else if (s->window) say(o, "  attention window   %d tokens", s->window);
    if (s->attn_softcap > 0 || s->logit_softcap > 0)
        say(o, "  caps               %g on scores, %g on logits (0: none)", (double)s->attn_softcap, (double)s->logit_softcap);
    uint64_t kv = 2ull * 2 * (uint64_t)s->n_layers * (uint64_t)s->n_kv_heads * (uint64_t)s->head_dim;
    char text[24];
    say(o, "  KV cache (F16)     %s a token", size_text(kv, text));
}

static void tensors_text(const out *o, const ht_tensor_dir *dir, const sums *s)
{
    char a[24], b[24];
    say(o, "tensors");
    say(o, "  %-8s %8s %16s %12s %8s", "type", "tensors", "weights", "bytes", "bits");
    for (uint32_t t = 0; t < HT_TYPE_COUNT; t++) {
        if (!s->type[t].tensors) continue;
        say(o, "  %-8s %8" PRIu64 " %16" PRIu64 " %12s %8.2f", ht_type_get(t)->name, s->type[t].tensors, s->type[t].weights,
            size_text(s->type[t].bytes, a), 8.0 * (double)s->type[t].bytes / (double)s->type[t].weights);
    }
    say(o, "  %-8s %8d %16" PRIu64 " %12s %8.2f", "all", dir->n_tensors, s->weights, size_text(s->bytes, a),
        s->weights ? 8.0 * (double)s->bytes / (double)s->weights : 0.0);
    if (s->n_layers) say(o, "  a layer has %s to %s", size_text(s->layer_least, a), size_text(s->layer_most, b));
    say(o, "  %-32s %-8s %-24s %12s %14s", "name", "type", "shape (rows, columns)", "bytes", "offset");
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        const ht_tensor_info *t = &dir->tensors[i];
        char shape[112];
        int n = 0;
        for (int k = t->n_dims - 1; k >= 0; k--)
            n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%" PRId64, n ? ", " : "", t->dim[k]);
        say(o, "  %-32s %-8s %-24s %12s %14" PRIu64, t->name, ht_type_get((uint32_t)t->type)->name, shape,
            size_text(t->bytes, a), t->offset);
    }
}

static void report_text(const out *o, const ht_gguf *g, const ht_model *m, const ht_error *why, const sums *s)
{
    char text[1400], size[24];
    const char *files = g->dir.n_files == 1 ? "file" : "files";
    bool folder = g->version == 0; /* a folder has no metadata of GGUF's kind */
    if (folder) say(o, "Hugging Face folder, %d safetensors %s", g->dir.n_files, files);
    else say(o, "GGUF version %" PRIu32 ", alignment %" PRIu64 ", %d %s", g->version, g->alignment, g->dir.n_files, files);
    for (int32_t i = 0; i < g->dir.n_files; i++)
        say(o, "  %s (%s)", g->dir.files[i].path, size_text(g->dir.files[i].size, size));
    if (!folder) say(o, "metadata");
    for (uint64_t i = 0; i < g->n_values; i++) {
        value_text(&g->values[i], text, sizeof text);
        say(o, "  %-40s %s", g->values[i].key, text);
    }
    tensors_text(o, &g->dir, s);
    int32_t overlaps = count_overlaps(&g->dir);
    if (overlaps) say(o, "  %d tensors overlap their predecessor", overlaps);
    if (m) shape_text(o, m);
    say(o, "checks");
    say(o, "  container          well-formed, all tensors inside the file");
    if (why->text[0]) say(o, "  model              cannot be run: %s", why->text);
    else say(o, "  model              can be run: %" PRIu64 " weights in %s", m->n_parameters, size_text(m->weight_bytes, size));
}

/* ---- JSON ---- */

/* 64-bit integers beyond 2^53 do not fit JSON's numbers of most readers: they become strings. */
static cJSON *integer_json(uint64_t u)
{
    char text[24];
    if (u <= 1ull << 53) return cJSON_CreateNumber((double)u);
    snprintf(text, sizeof text, "%" PRIu64, u);
    return cJSON_CreateString(text);
}

static cJSON *value_json(const ht_gguf_value *v)
{
    char text[1400];
    if (v->kind == HT_GGUF_BOOL) return cJSON_CreateBool(v->as.b);
    if (is_float(v->kind)) return cJSON_CreateNumber(v->as.f);
    value_text(v, text, sizeof text);
    if (v->kind == HT_GGUF_STRING) return cJSON_CreateString(text);
    if (v->kind == HT_GGUF_ARRAY) {
        cJSON *array = cJSON_CreateObject();
        cJSON_AddItemToObject(array, "count", integer_json(v->count));
        cJSON_AddStringToObject(array, "shown", text);
        return array;
    }
    return text[0] == '-' ? cJSON_CreateNumber((double)v->as.i) : integer_json(v->as.u);
}

static cJSON *tensors_json(const ht_tensor_dir *dir)
{
    cJSON *list = cJSON_CreateArray();
    for (int32_t i = 0; i < dir->n_tensors; i++) {
        const ht_tensor_info *t = &dir->tensors[i];
        cJSON *item = cJSON_CreateObject(), *shape = cJSON_CreateArray();
        for (int k = t->n_dims - 1; k >= 0; k--) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->dim[k]));
        cJSON_AddStringToObject(item, "name", clean_of(t->name).text);
        cJSON_AddStringToObject(item, "type", ht_type_get((uint32_t)t->type)->name);
        cJSON_AddItemToObject(item, "shape", shape);
        cJSON_AddNumberToObject(item, "file", t->file);
        cJSON_AddItemToObject(item, "offset", integer_json(t->offset));
        cJSON_AddItemToObject(item, "bytes", integer_json(t->bytes));
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *model_json(const ht_model *m)
{
    const ht_shape *s = &m->shape;
    const struct { const char *name; double v; } numbers[] = {
        {"n_layers", s->n_layers}, {"n_embd", s->n_embd},         {"n_ff", s->n_ff},         {"n_heads", s->n_heads},
        {"n_kv_heads", s->n_kv_heads}, {"head_dim", s->head_dim}, {"n_vocab", s->n_vocab},   {"n_context", s->n_context},
        {"window", s->window},     {"rope_dims", s->rope.dims},   {"rope_base", s->rope.base}, {"rope_factor", s->rope.factor},
        {"n_parameters", (double)m->n_parameters},                {"weight_bytes", (double)m->weight_bytes},
    };
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "architecture", m->architecture);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cJSON_AddNumberToObject(o, numbers[i].name, numbers[i].v);
    cJSON_AddStringToObject(o, "activation", activations[s->activation]);
    cJSON_AddStringToObject(o, "rope_scaling", scalings[s->rope.scaling]);
    cJSON_AddBoolToObject(o, "gated", s->gated);
    cJSON_AddBoolToObject(o, "tied", m->output.tensor == m->embd.tensor);
    return o;
}

static cJSON *sums_json(const ht_gguf *g, const sums *s)
{
    cJSON *types = cJSON_CreateObject();
    for (uint32_t t = 0; t < HT_TYPE_COUNT; t++) {
        if (!s->type[t].tensors) continue;
        cJSON *item = cJSON_CreateObject();
        cJSON_AddItemToObject(item, "tensors", integer_json(s->type[t].tensors));
        cJSON_AddItemToObject(item, "weights", integer_json(s->type[t].weights));
        cJSON_AddItemToObject(item, "bytes", integer_json(s->type[t].bytes));
        cJSON_AddItemToObject(types, ht_type_get(t)->name, item);
    }
    cJSON *layers = cJSON_CreateArray();
    for (int32_t l = 0; l < s->n_layers; l++) cJSON_AddItemToArray(layers, integer_json(s->layer[l]));
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToObject(o, "types", types);
    cJSON_AddItemToObject(o, "layer_bytes", layers);
    cJSON_AddItemToObject(o, "weights", integer_json(s->weights));
    cJSON_AddItemToObject(o, "bytes", integer_json(s->bytes));
    cJSON_AddNumberToObject(o, "overlaps", count_overlaps(&g->dir));
    return o;
}

static int report_json(const out *o, const ht_gguf *g, const ht_model *m, const ht_error *why, const sums *s, ht_error *err)
{
    cJSON *root = cJSON_CreateObject(), *files = cJSON_AddArrayToObject(root, "files");
    cJSON_AddStringToObject(root, "container", g->version ? "gguf" : "safetensors");
    if (g->version) {
        cJSON_AddNumberToObject(root, "version", g->version);
        cJSON_AddItemToObject(root, "alignment", integer_json(g->alignment));
    }
    for (int32_t i = 0; i < g->dir.n_files; i++) {
        cJSON *file = cJSON_CreateObject();
        cJSON_AddStringToObject(file, "path", clean_of(g->dir.files[i].path).text);
        cJSON_AddItemToObject(file, "bytes", integer_json(g->dir.files[i].size));
        cJSON_AddItemToArray(files, file);
    }
    cJSON *metadata = cJSON_AddObjectToObject(root, "metadata");
    for (uint64_t i = 0; i < g->n_values; i++)
        cJSON_AddItemToObject(metadata, clean_of(g->values[i].key).text, value_json(&g->values[i]));
    cJSON_AddItemToObject(root, "sums", sums_json(g, s));
    cJSON_AddItemToObject(root, "tensors", tensors_json(&g->dir));
    cJSON_AddItemToObject(root, "model", m ? model_json(m) : cJSON_CreateNull());
    if (why->text[0]) cJSON_AddStringToObject(root, "why_not", clean_of(why->text).text);
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!text) return ht_fail(err, -ENOMEM, "out of memory for the JSON of the file");
    o->line(o->user, text);
    cJSON_free(text);
    return 0;
}

int ht_inspect(const char *path, bool json, ht_inspect_sink *line, void *user, ht_error *err)
{
    ht_gguf alone = {0};
    ht_model *m = NULL;
    ht_tokenizer *t = NULL;
    sums s = {0};
    ht_error why = {0};
    const out o = {.line = line, .user = user};
    int rc = ht_model_open(&m, path, &why);
    /* No model: still a container, or the error is that of the container. */
    if (rc < 0 && (rc = ht_is_folder(path) ? ht_safetensors_open(&alone.dir, path, err) : ht_gguf_open(&alone, path, err)) < 0)
        return rc;
    const ht_gguf *g = m ? &m->gguf : &alone;
    if (m) ht_model_open_tokenizer(&t, m, path, &why); /* a model runs with its vocabulary only */
    ht_tokenizer_close(&t);
    rc = add_up(&s, &g->dir, err);
    if (rc == 0 && json) rc = report_json(&o, g, m, &why, &s, err);
    else if (rc == 0) report_text(&o, g, m, &why, &s);
    ht_free(s.layer);
    ht_model_close(&m);
    ht_gguf_close(&alone);
    return rc;
}
