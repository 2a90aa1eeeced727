/* Checks of positions, KV pages and attention. */
#include "tests/gpu/checks.h"

#include "core/base/memory.h"
#include "core/model/types.h"
#include "core/ports/store.h"

#include <math.h>
#include <string.h>

static const ht_type kv_types[] = {HT_F32, HT_F16, HT_Q8_0, HT_Q4_0};

static bool launched(gpu_rig *rig, int code, const char *kernel)
{
    ht_error err = {0};

    if (rig->gpu->device.ops->launched(&rig->gpu->device, code, kernel, &err) < 0) return gpu_failed(rig, "%s", err.text);
    return gpu_synced(rig);
}

/* Sequences of given lengths whose pages lie in a scrambled order, and the columns of a step. */
typedef struct scene {
    int32_t heads, kv_heads, head_dim, n, n_sequences, pages;
    ht_kv_layout kv;
    uint8_t *memory;           /* all pages */
    void **page;               /* device addresses */
    int32_t *table, *sequence, *position;
    int32_t stride;
} scene;

static bool scene_make(gpu_rig *rig, scene *s, ht_type k, ht_type v, const int32_t *lengths, int32_t per_sequence)
{
    ht_shape shape = {.n_kv_heads = s->kv_heads, .head_dim = s->head_dim};
    ht_error err = {0};

    if (ht_kv_layout_init(&s->kv, &shape, k, v, &err) < 0) return gpu_failed(rig, "%s", err.text);
    s->stride = 0;
    s->pages = 0;
    for (int32_t q = 0; q < s->n_sequences; q++) {
        int32_t pages = ht_kv_pages_of(lengths[q]);
        s->stride = pages > s->stride ? pages : s->stride;
        s->pages += pages;
    }
    s->n = s->n_sequences * per_sequence;
    s->memory = gpu_array(rig, (size_t)s->pages * s->kv.page_bytes);
    s->page = gpu_array(rig, (size_t)s->pages * sizeof(void *));
    s->table = gpu_array(rig, (size_t)(s->n_sequences * s->stride) * 4);
    s->sequence = gpu_array(rig, (size_t)s->n * 4);
    s->position = gpu_array(rig, (size_t)s->n * 4);
    memset(s->memory, 0xff, (size_t)s->pages * s->kv.page_bytes); /* tokens nobody wrote are NaN */
    gpu_push(rig, s->memory);
    for (int32_t i = 0; i < s->pages; i++)
        s->page[i] = (uint8_t *)gpu_twin(rig, s->memory) + (size_t)(s->pages - 1 - i) * s->kv.page_bytes;
    int32_t id = 0;
    for (int32_t q = 0; q < s->n_sequences; q++) {
        for (int32_t i = 0; i < ht_kv_pages_of(lengths[q]); i++) s->table[q * s->stride + i] = id++;
        for (int32_t i = 0; i < per_sequence; i++) {
            s->sequence[q * per_sequence + i] = q;
            s->position[q * per_sequence + i] = lengths[q] - per_sequence + i;
        }
    }
    gpu_push(rig, s->page), gpu_push(rig, s->table), gpu_push(rig, s->sequence), gpu_push(rig, s->position);
    return true;
}

static ht_k_pages pages_of(gpu_rig *rig, const scene *s)
{
    return (ht_k_pages){
        .page = (void *const *)gpu_twin(rig, s->page), .table = gpu_twin(rig, s->table), .stride = s->stride,
        .sequence = gpu_twin(rig, s->sequence), .position = gpu_twin(rig, s->position),
        .k_type = s->kv.k_type, .v_type = s->kv.v_type,
        .k_row_bytes = (int64_t)s->kv.k_row_bytes, .v_row_bytes = (int64_t)s->kv.v_row_bytes,
        .v_offset = (int64_t)s->kv.v_offset,
    };
}

/* The row of a token in the host's copy of the pages. */
static uint8_t *kv_row(const scene *s, int32_t sequence, int32_t position, int32_t head, bool v)
{
    int32_t id = s->table[sequence * s->stride + position / HT_KV_TILE];
    uint8_t *page = s->memory + (size_t)(s->pages - 1 - id) * s->kv.page_bytes;
    size_t row = (size_t)(head * HT_KV_TILE + position % HT_KV_TILE);

    return v ? page + s->kv.v_offset + row * s->kv.v_row_bytes : page + row * s->kv.k_row_bytes;
}

/* ---- RoPE and append ------------------------------------------------------------------------------------- */

static void turn(float *head, int32_t e, const float *gain, double eps, const double *frequency, int32_t pairs,
                 bool halves, int32_t position)
{
    double x[HT_K_MAX_HEAD], sum = 0;

    for (int32_t i = 0; i < e; i++) sum += (double)head[i] * head[i];
    for (int32_t i = 0; i < e; i++) x[i] = gain ? head[i] / sqrt(sum / e + eps) * gain[i] : head[i];
    for (int32_t p = 0; p < pairs; p++) {
        int32_t i = halves ? p : 2 * p, j = halves ? p + pairs : 2 * p + 1;
        double t = position * frequency[p], a = x[i], b = x[j];
        x[i] = a * cos(t) - b * sin(t);
        x[j] = a * sin(t) + b * cos(t);
    }
    for (int32_t i = 0; i < e; i++) head[i] = (float)x[i];
}

/* What was stored is what the reference quantiser makes of nearly the same values: equal bytes are too much to ask
 * after a turn in floats, so the values are compared within one step of the type. */
static bool same_row(gpu_rig *rig, const char *what, ht_type type, const uint8_t *row, const float *want, int32_t e,
                     bool exact)
{
    const ht_type_info *t = ht_type_get(type);
    uint8_t reference[HT_K_MAX_HEAD * 4];
    float got[HT_K_MAX_HEAD], amax = 0;

    t->quantize(want, reference, e);
    if (exact && memcmp(row, reference, ht_row_bytes(t, e))) return gpu_failed(rig, "%s %s: other bytes", what, t->name);
    t->dequantize(row, got, e);
    for (int32_t i = 0; i < e; i++) amax = fmaxf(amax, fabsf(want[i]));
    float step = type == HT_F32 ? 1e-6f : type == HT_F16 ? 1e-3f : type == HT_Q8_0 ? 1.01f / 127 : 1.01f / 7;
    for (int32_t i = 0; i < e; i++)
        if (!(fabsf(got[i] - want[i]) <= step * amax + 1e-6f))
            return gpu_failed(rig, "%s %s: element %d is %g, expected %g", what, t->name, i, (double)got[i],
                              (double)want[i]);
    return true;
}

static bool one_append(gpu_rig *rig, ht_type type, int32_t e, bool halves, bool normed, bool divided)
{
    scene s = {.heads = 4, .kv_heads = 2, .head_dim = e, .n_sequences = 2};
    const int32_t lengths[] = {3000, 65}, pairs = e / 2 - (halves ? 0 : e / 8); /* partial rotation too */
    if (!scene_make(rig, &s, type, type, lengths, 2)) return false;
    size_t nq = (size_t)s.n * 4 * (size_t)e, nk = (size_t)s.n * 2 * (size_t)e;
    float *q = gpu_floats(rig, nq, -2, 2), *k = gpu_floats(rig, nk, -2, 2), *v = gpu_floats(rig, nk, -2, 2),
          *gq = gpu_floats(rig, (size_t)e, 0.5f, 1.5f), *gk = gpu_floats(rig, (size_t)e, 0.5f, 1.5f),
          *angles = gpu_array(rig, (size_t)(s.n * pairs) * 8), *divisor = gpu_floats(rig, (size_t)pairs, 1, 8);
    double *frequency = gpu_array(rig, (size_t)pairs * 8);
    for (int32_t p = 0; p < pairs; p++) frequency[p] = pow(10000, -2.0 * p / (2 * pairs));
    gpu_push(rig, frequency);
    ht_k_angles ka = {.position = gpu_twin(rig, s.position), .frequency = gpu_twin(rig, frequency),
                      .divisor = divided ? gpu_twin(rig, divisor) : NULL, .magnitude = 1, .n = s.n, .pairs = pairs,
                      .angles = gpu_twin(rig, angles)};
    ht_k_rope_append kr = {.q = gpu_twin(rig, q), .k = gpu_twin(rig, k), .v = gpu_twin(rig, v),
                           .q_norm = normed ? gpu_twin(rig, gq) : NULL, .k_norm = normed ? gpu_twin(rig, gk) : NULL,
                           .eps = 1e-6f, .angles = ka.angles, .n = s.n, .heads = 4, .kv_heads = 2, .head_dim = e,
                           .pairs = pairs, .halves = halves, .pages = pages_of(rig, &s)};
    bool ok = launched(rig, rig->gpu->kernels.angles(&ka, rig->stream), "angles") &&
              launched(rig, rig->gpu->kernels.rope_append(&kr, rig->stream), "rope_append");
    float *turned = ht_alloc(nq, 4);
    memcpy(turned, q, nq * 4);
    gpu_pull(rig, q), gpu_pull(rig, s.memory);
    for (int32_t p = 0; p < pairs && divided; p++) frequency[p] /= divisor[p];
    for (int32_t c = 0; c < s.n && ok; c++) {
        for (int32_t h = 0; h < 4 && ok; h++) {
            float *want = turned + (size_t)(c * 4 + h) * (size_t)e;
            double w[HT_K_MAX_HEAD];
            turn(want, e, normed ? gq : NULL, 1e-6, frequency, pairs, halves, s.position[c]);
            for (int32_t i = 0; i < e; i++) w[i] = want[i];
            ok = gpu_close(rig, "turned q", q + (size_t)(c * 4 + h) * (size_t)e, w, (size_t)e, 2e-6, 2e-6);
        }
        for (int32_t g = 0; g < 2 && ok; g++) {
            float *kh = k + (size_t)(c * 2 + g) * (size_t)e;
            turn(kh, e, normed ? gk : NULL, 1e-6, frequency, pairs, halves, s.position[c]);
            ok = same_row(rig, "stored k", type, kv_row(&s, s.sequence[c], s.position[c], g, false), kh, e, false) &&
                 same_row(rig, "stored v", type, kv_row(&s, s.sequence[c], s.position[c], g, true),
                          v + (size_t)(c * 2 + g) * (size_t)e, e, true);
        }
    }
    ht_free(turned);
    gpu_rig_reset(rig);
    return ok;
}

bool check_rope_append(gpu_rig *rig)
{
    for (size_t t = 0; t < sizeof kv_types / sizeof *kv_types; t++)
        if (!one_append(rig, kv_types[t], 64, t % 2 == 0, t % 3 == 0, t % 2 == 1) ||
            !one_append(rig, kv_types[t], 128, t % 2 == 1, true, false))
            return false;
    return one_append(rig, HT_F16, 48, true, false, false) && one_append(rig, HT_F32, 256, false, true, true);
}

/* ---- attention ------------------------------------------------------------------------------------------- */

/* Fills the pages with random rows up to each sequence's length. */
static void fill_pages(gpu_rig *rig, scene *s, const int32_t *lengths)
{
    float row[HT_K_MAX_HEAD];

    for (int32_t q = 0; q < s->n_sequences; q++)
        for (int32_t p = 0; p < lengths[q]; p++)
            for (int32_t g = 0; g < s->kv_heads; g++)
                for (int v = 0; v < 2; v++) {
                    for (int32_t i = 0; i < s->head_dim; i++) row[i] = gpu_uniform(rig, -1, 1);
                    ht_type_get(v ? s->kv.v_type : s->kv.k_type)->quantize(row, kv_row(s, q, p, g, v), s->head_dim);
                }
    gpu_push(rig, s->memory);
}

static void attend_in_double(const scene *s, const float *q, int32_t column, int32_t head, int32_t window, double cap, double *out)
{
    int32_t e = s->head_dim, g = head / (s->heads / s->kv_heads), limit = s->position[column] + 1,
            first = window && limit > window ? limit - window : 0;
    const ht_type_info *kt = ht_type_get(s->kv.k_type), *vt = ht_type_get(s->kv.v_type);
    double *w = ht_alloc((size_t)limit, sizeof *w), max = -1e300, sum = 0;
    float row[HT_K_MAX_HEAD];

    for (int32_t p = first; p < limit; p++) {
        kt->dequantize(kv_row(s, s->sequence[column], p, g, false), row, e);
        w[p] = 0;
        for (int32_t i = 0; i < e; i++) w[p] += (double)q[i] * row[i];
        w[p] /= sqrt(e);
        if (cap > 0) w[p] = cap * tanh(w[p] / cap);
        max = fmax(max, w[p]);
    }
    for (int32_t i = 0; i < e; i++) out[i] = 0;
    for (int32_t p = first; p < limit; p++) {
        vt->dequantize(kv_row(s, s->sequence[column], p, g, true), row, e);
        w[p] = exp(w[p] - max);
        sum += w[p];
        for (int32_t i = 0; i < e; i++) out[i] += w[p] * row[i];
    }
    for (int32_t i = 0; i < e; i++) out[i] /= sum;
    ht_free(w);
}

/* splits 0: the block class, `per_group` columns a group; else the decode class, one. */
static bool attend(gpu_rig *rig, const scene *s, const float *q, float *out, uint8_t *q8, int32_t n, int32_t per_group,
                   int32_t splits, int32_t split_tiles, int32_t window, float cap)
{
    int32_t e = s->head_dim, rows = rig->gpu->kernels.attend_rows(e), used = 0;
    size_t states = (size_t)(n * s->heads * (splits ? splits : 1));
    ht_k_group *groups = gpu_array(rig, (size_t)n * sizeof *groups);
    float *max = gpu_array(rig, states * 4), *sum = gpu_array(rig, states * 4),
          *acc = gpu_array(rig, states * (size_t)e * 4);
    int32_t *arrived = gpu_array(rig, (size_t)(n * s->heads) * 4);

    (void)rows;
    gpu_push(rig, arrived);
    for (int32_t c = 0; c < n; used++) {
        groups[used] = (ht_k_group){c, 0};
        while (c < n && groups[used].n < per_group && s->sequence[c] == s->sequence[groups[used].column])
            c++, groups[used].n++;
    }
    gpu_push(rig, groups);
    ht_k_attend k = {.q = gpu_twin(rig, q), .groups = gpu_twin(rig, groups), .n_groups = used,
                     .columns_per_group = per_group, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = e,
                     .window = window, .scale = 1 / sqrtf((float)e), .softcap = cap, .pages = pages_of(rig, s),
                     .splits = splits ? splits : 1, .split_tiles = split_tiles, .out = gpu_twin(rig, out),
                     .q8 = q8 ? gpu_twin(rig, q8) : NULL, .max = gpu_twin(rig, max), .sum = gpu_twin(rig, sum),
                     .acc = gpu_twin(rig, acc), .arrived = gpu_twin(rig, arrived)};
    for (int turn = 0; turn < 2; turn++) /* twice: the counters are zero again */
        if (!launched(rig, rig->gpu->kernels.attend(&k, rig->stream), "attend")) return false;
    gpu_pull(rig, out);
    if (q8) gpu_pull(rig, q8);
    return true;
}

static bool right(gpu_rig *rig, const scene *s, const float *q, const float *out, int32_t window, double cap)
{
    for (int32_t c = 0; c < s->n; c++)
        for (int32_t h = 0; h < s->heads; h++) {
            size_t at = (size_t)(c * s->heads + h) * (size_t)s->head_dim;
            double want[HT_K_MAX_HEAD];
            attend_in_double(s, q + at, c, h, window, cap, want);
            if (!gpu_close(rig, ht_type_get(s->kv.k_type)->name, out + at, want, (size_t)s->head_dim, 3e-6, 3e-6))
                return false;
        }
    return true;
}

/* One column of each of three sequences, in the decode class. */
typedef struct decode_case { int32_t heads, kv_heads, e, window, splits; float cap; } decode_case;

static bool one_decode(gpu_rig *rig, const decode_case *o, ht_type k, ht_type v, const int32_t lengths[3])
{
    scene s = {.heads = o->heads, .kv_heads = o->kv_heads, .head_dim = o->e, .n_sequences = 3};
    int32_t width = s.heads * s.head_dim, tiles = (lengths[0] + HT_K_TILE - 1) / HT_K_TILE;

    if (!scene_make(rig, &s, k, v, lengths, 1)) return false;
    fill_pages(rig, &s, lengths);
    size_t total = (size_t)(s.n * width);
    float *q = gpu_floats(rig, total, -3, 3), *out = gpu_array(rig, total * 4);
    uint8_t *q8 = s.head_dim % 32 ? NULL : gpu_array(rig, (size_t)s.n * HT_K_ACT_STRIDE(width));
    bool ok = attend(rig, &s, q, out, q8, s.n, 1, o->splits, (tiles + o->splits - 1) / o->splits, o->window, o->cap) &&
              right(rig, &s, q, out, o->window, o->cap);
    for (int32_t c = 0; c < s.n && ok && q8; c++) {
        uint8_t *want = ht_alloc(1, HT_ACT_ROW_BYTES(width));
        ht_act_quantize(out + (size_t)c * (size_t)width, want, width);
        if (memcmp(want, q8 + (size_t)c * HT_K_ACT_STRIDE(width), HT_ACT_ROW_BYTES(width)))
            ok = gpu_failed(rig, "attend: quantised column %d differs", c);
        ht_free(want);
    }
    gpu_rig_reset(rig);
    return ok;
}

bool check_attention(gpu_rig *rig)
{
    static const decode_case cases[] = {
        {4, 2, 64, 0, 3, 0},  {3, 3, 48, 100, 3, 1.5f}, {20, 1, 32, 0, 5, 0}, {2, 2, 128, 0, 2, 50},
        {2, 1, 256, 0, 2, 0}, {4, 1, 30, 70, 2, 0},     {3, 1, 160, 0, 5, 0},
    };
    const int32_t lengths[] = {300, 1, 65}, long_lengths[] = {2300, 1, 640};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t t = 0; t < sizeof kv_types / sizeof *kv_types; t++) {
            ht_type v = kv_types[(t + (i == 0)) % 4]; /* k and v of different types once */
            if (cases[i].e % 32 && kv_types[t] >= HT_Q4_0) continue;
            if (!one_decode(rig, &cases[i], kv_types[t], v, lengths)) return false;
        }
    return one_decode(rig, &(decode_case){2, 1, 32, 0, 36, 0}, HT_Q8_0, HT_F16, long_lengths); /* more splits than lanes */
}

/* Many columns a sequence: right, and each column's bits those that it has in groups of its own. */
bool check_attention_block(gpu_rig *rig)
{
    const int32_t lengths[] = {150, 70};

    for (size_t t = 0; t < sizeof kv_types / sizeof *kv_types; t++)
        for (int32_t window = 0; window <= 40; window += 40) {
            scene s = {.heads = 6, .kv_heads = 2, .head_dim = 64, .n_sequences = 2};
            if (!scene_make(rig, &s, kv_types[t], kv_types[t], lengths, 70)) return false;
            fill_pages(rig, &s, lengths);
            size_t total = (size_t)(s.n * s.heads * s.head_dim);
            float *q = gpu_floats(rig, total, -3, 3), *out = gpu_array(rig, total * 4), *alone = gpu_array(rig, total * 4);
            bool ok = attend(rig, &s, q, out, NULL, s.n, 5, 0, 0, window, 0) && right(rig, &s, q, out, window, 0) &&
                      attend(rig, &s, q, alone, NULL, s.n, 1, 0, 0, window, 0);
            if (ok && memcmp(out, alone, total * 4)) ok = gpu_failed(rig, "attention: bits depend on the grouping");
            gpu_rig_reset(rig);
            if (!ok) return false;
        }
    return true;
}
