/* Synthetic models: shapes, types, scales, vocabularies; that the file is a function of the options alone; and that
 * nothing is left behind when it fails. */
#include "core/base/memory.h"
#include "core/model/model.h"
#include "core/model/synth.h"
#include "core/model/synth_parts.h"
#include "core/model/tokenizer.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[TEST_PATH_MAX], path[TEST_PATH_MAX + 16], other[TEST_PATH_MAX + 16];
static ht_error err;

static void make_folder(void)
{
    test_temp_dir(folder);
    err = (ht_error){0}; /* tests may run in one process */
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    snprintf(other, sizeof other, "%s/b.gguf", folder);
}

static void remove_folder(void)
{
    remove(path);
    remove(other);
    cr_expect_eq(rmdir(folder), 0, "something was left in %s", folder);
}

static ht_model *synth(ht_synth_options o)
{
    ht_model *m;
    o.quiet = true;
    if (!o.threads) o.threads = 2;
    cr_assert_eq(ht_synth(path, &o, &err), 0, "%s", err.text);
    cr_assert_eq(ht_model_open(&m, path, &err), 0, "%s", err.text);
    return m;
}

static ht_type type_of(const ht_model *m, const char *name)
{
    int32_t i = ht_tensor_find(m->dir, name);
    cr_assert(i >= 0, "%s", name);
    return m->dir->tensors[i].type;
}

/* All weights of a tensor; freed by the caller. */
static float *weights_of(const ht_model *m, int32_t tensor)
{
    const ht_tensor_info *t = &m->dir->tensors[tensor];
    uint8_t *raw = ht_alloc(t->bytes, 1);
    float *w = ht_alloc((size_t)(t->dim[0] * t->dim[1]), sizeof *w);
    cr_assert_eq(ht_file_read(&m->dir->files[t->file], t->offset, raw, t->bytes, &err), 0);
    ht_type_get((uint32_t)t->type)->dequantize(raw, w, t->dim[0] * t->dim[1]);
    ht_free(raw);
    return w;
}

static double rms_of(const ht_model *m, int32_t tensor)
{
    const ht_tensor_info *t = &m->dir->tensors[tensor];
    float *w = weights_of(m, tensor);
    double sum = 0.0;
    for (int64_t i = 0; i < t->dim[0] * t->dim[1]; i++) sum += (double)w[i] * w[i];
    ht_free(w);
    return sqrt(sum / (double)(t->dim[0] * t->dim[1]));
}

Test(synth, every_type, .init = make_folder, .fini = remove_folder)
{
    for (uint32_t id = 0; id < HT_TYPE_COUNT; id++) {
        const ht_type_info *info = ht_type_get(id);
        if (!info) continue;
        ht_model *m = synth((ht_synth_options){.type = info->name, .n_layers = 1, .n_ff = 512, .seed = 3});
        cr_expect(m->shape.n_layers == 1 && m->shape.n_ff == 512 && m->shape.n_vocab == 512);
        cr_expect_eq(type_of(m, "blk.0.attn_q.weight"), (ht_type)id, "%s", info->name);
        cr_expect_eq(type_of(m, "token_embd.weight"), (ht_type)id);
        bool plain = id == HT_F32 || id == HT_F16 || id == HT_BF16 || id == HT_Q8_0;
        cr_expect_eq(type_of(m, "output.weight"), plain ? (ht_type)id : HT_Q6_K);
        cr_expect_eq(type_of(m, "blk.0.attn_norm.weight"), HT_F32);
        cr_expect_float_eq(rms_of(m, m->embd.tensor), 1.0, 0.05, "%s", info->name);
        cr_expect_float_eq(rms_of(m, m->layers[0].up.tensor), 1.0 / 16, 0.05 / 16, "%s", info->name);
        ht_model_close(&m);
    }
}

Test(synth, mixes, .init = make_folder, .fini = remove_folder)
{
    const ht_synth_mix *m = ht_synth_mix_find("Q4_K_M");
    int more = 0;
    for (int l = 0; l < 32; l++) {
        ht_type v = ht_synth_type_of(m, HT_SYNTH_V, l, 32, 4, 4096), down = ht_synth_type_of(m, HT_SYNTH_DOWN, l, 32, 4, 4096);
        cr_assert(v == down && (v == HT_Q4_K || v == HT_Q6_K));
        more += v == HT_Q6_K;
    }
    cr_assert_eq(more, 16, "half of the layers");
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_Q, 0, 32, 1, 4096), HT_Q4_K);
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_OUTPUT, 0, 32, 1, 4096), HT_Q6_K);
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_GATE, 0, 32, 1, 576), HT_Q5_0, "576 is no multiple of 256");
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_OUTPUT, 0, 32, 1, 576), HT_Q8_0);
    m = ht_synth_mix_find("q2_k");
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_V, 5, 32, 8, 4096), HT_Q4_K);
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_V, 5, 32, 1, 4096), HT_Q3_K);
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_UP, 5, 32, 1, 4096), HT_Q2_K);
    cr_assert_eq(ht_synth_type_of(m, HT_SYNTH_UP, 5, 32, 1, 4096 + 32), HT_IQ4_NL);
    cr_assert(!ht_synth_mix_find("q4_k_l"));
    ht_model *model = synth((ht_synth_options){.type = "q5_k_m", .n_layers = 2});
    cr_assert_eq(type_of(model, "blk.1.ffn_down.weight"), HT_Q6_K);
    cr_assert_eq(type_of(model, "blk.1.ffn_up.weight"), HT_Q5_K);
    ht_model_close(&model);
    /* The names that are advertised are those that there are. */
    char names[512];
    strcpy(names, ht_synth_types());
    for (char *save, *name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save))
        cr_expect(ht_synth_mix_find(name), "%s", name);
}

Test(synth, the_file_depends_on_the_options_alone, .init = make_folder, .fini = remove_folder)
{
    char *a, *b;
    size_t n, k;
    ht_synth_options o = {.n_layers = 2, .n_embd = 128, .n_ff = 160, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32,
                          .type = "q5_1", .seed = 11, .quiet = true, .threads = 1};
    cr_assert_eq(ht_synth(path, &o, &err), 0, "%s", err.text);
    o.threads = 3;
    cr_assert_eq(ht_synth(other, &o, &err), 0, "%s", err.text);
    cr_assert(ht_file_slurp(path, 1 << 28, &a, &n, &err) >= 0 && ht_file_slurp(other, 1 << 28, &b, &k, &err) >= 0);
    cr_assert(n == k && memcmp(a, b, n) == 0);
    ht_free(b);
    o.seed = 12;
    cr_assert_eq(ht_synth(other, &o, &err), 0, "%s", err.text);
    cr_assert(ht_file_slurp(other, 1 << 28, &b, &k, &err) >= 0);
    cr_assert(n == k && memcmp(a, b, n) != 0);
    ht_free(a);
    ht_free(b);
}

Test(synth, rows_are_distinct_and_silent_ones_zero, .init = make_folder, .fini = remove_folder)
{
    ht_model *m = synth((ht_synth_options){.type = "q4_k", .n_layers = 1});
    float *w = weights_of(m, m->output.tensor);
    int64_t d = m->shape.n_embd;
    for (int32_t i = 0; i < m->shape.n_vocab; i++) {
        bool zero = true;
        for (int64_t c = 0; c < d; c++) zero = zero && w[i * d + c] == 0.0f;
        cr_assert_eq(zero, i < 259, "%d", i);
        for (int32_t k = 259; k < i; k++) cr_assert(memcmp(w + i * d, w + k * d, (size_t)d * sizeof *w) != 0, "%d %d", i, k);
    }
    ht_free(w);
    ht_model_close(&m);
}

Test(synth, shapes_and_activation, .init = make_folder, .fini = remove_folder)
{
    ht_model *m = synth((ht_synth_options){.shape = "135m", .n_layers = 1, .activation = "relu"});
    const ht_shape *s = &m->shape;
    cr_assert(s->n_embd == 576 && s->n_ff == 1536 && s->n_heads == 9 && s->n_kv_heads == 3 && s->n_vocab == 49152);
    cr_assert(m->output.tensor == m->embd.tensor && s->activation == HT_RELU && s->head_dim == 64);
    ht_model_close(&m);
    m = synth((ht_synth_options){.tied = true, .head_dim = 16, .n_layers = 1});
    cr_assert(m->output.tensor == m->embd.tensor && m->shape.head_dim == 16);
    ht_model_close(&m);
}

Test(synth, vocabulary, .init = make_folder, .fini = remove_folder)
{
    ht_tokenizer *t;
    ht_model *m = synth((ht_synth_options){.n_layers = 1, .n_vocab = 400});
    cr_assert_eq(ht_tokenizer_from_gguf(&t, &m->gguf, &err), 0, "%s", err.text);
    cr_assert_eq(ht_tokenizer_size(t), 400);
    int32_t ids[64];
    const char text[] = "Hello, w\xc3\xb6rld";
    int64_t n = ht_tokenizer_encode(t, text, strlen(text), HT_ENCODE_BOS, ids, 64, &err);
    cr_assert(n > 10 && n <= 64 && ids[0] == 1);
    char back[64];
    int64_t len = ht_tokenizer_decode(t, ids + 1, n - 1, false, back, sizeof back);
    cr_assert(len == (int64_t)strlen(text) && memcmp(back, text, (size_t)len) == 0);
    len = ht_tokenizer_decode(t, (int32_t[]){300, 301}, 2, false, back, sizeof back);
    cr_assert(len >= 13 && strncmp(back + len - 13, "w00300 w00301", 13) == 0, "%.*s", (int)len, back);
    ht_tokenizer_close(&t);
    ht_model_close(&m);
    /* The vocabulary of that file for another one. */
    cr_assert_eq(rename(path, other), 0);
    m = synth((ht_synth_options){.n_layers = 1, .vocab = other, .tied = true});
    cr_assert_eq(m->shape.n_vocab, 400);
    cr_assert_eq(ht_gguf_find(&m->gguf, "tokenizer.ggml.tokens")->count, 400);
    float *w = weights_of(m, m->embd.tensor);
    cr_assert(w[0] == 0.0f && w[256] != 0.0f && w[512] == 0.0f, "BOS has an embedding; <unk> and </s> are never said");
    ht_free(w);
    ht_model_close(&m);
    ht_synth_options o = {.vocab = other, .n_vocab = 500, .quiet = true};
    cr_assert_eq(ht_synth(path, &o, &err), -EINVAL);
    cr_assert(strstr(err.text, "500") && strstr(err.text, "400"), "%s", err.text);
    cr_assert(access(path, F_OK) == 0, "the old file was left alone");
}

Test(synth, refuses_wrong_options, .init = make_folder, .fini = remove_folder)
{
    static const struct { ht_synth_options o; const char *word; } bad[] = {
        {{.shape = "9000b"}, "9000b"},           {{.type = "q4_9"}, "q4_9"},        {{.activation = "tanh"}, "tanh"},
        {{.n_layers = -1}, "n_layers"},          {{.n_layers = 2000}, "n_layers"},  {{.n_embd = 100}, "n_embd"},
        {{.n_ff = 33}, "n_ff"},                  {{.n_heads = 3, .n_kv_heads = 2, .head_dim = 32}, "n_kv_heads"},
        {{.head_dim = 7}, "head_dim"},           {{.n_vocab = 100}, "n_vocab"},     {{.n_context = -5}, "n_context"},
        {{.vocab = "/nonexistent"}, "/nonexistent"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&err, 0, sizeof err);
        cr_expect_lt(ht_synth(path, &bad[i].o, &err), 0, "%zu", i);
        cr_expect(strstr(err.text, bad[i].word) != NULL, "'%s' lacks '%s'", err.text, bad[i].word);
    }
    ht_synth_options o = {.quiet = true};
    cr_assert_eq(ht_synth("/nonexistent/a.gguf", &o, &err), -ENOENT);
    cr_assert(strstr(err.text, "/nonexistent/a.gguf") != NULL);
}

Test(synth, survives_failing_allocations, .init = make_folder, .fini = remove_folder)
{
    ht_synth_options o = {.n_layers = 1, .n_embd = 32, .n_ff = 32, .n_heads = 1, .n_kv_heads = 1, .n_vocab = 300,
                          .type = "f16", .quiet = true, .threads = 2};
    uint64_t live = ht_memory_get_stats().live;
    int64_t n = 0;
    for (;; n++) {
        ht_memory_fail_after(n);
        int rc = ht_synth(path, &o, &err);
        ht_memory_fail_after(-1);
        if (rc == 0) break;
        cr_assert_eq(rc, -ENOMEM, "%s", err.text);
        cr_assert_eq(ht_memory_get_stats().live, live);
        cr_assert(access(path, F_OK) != 0);
    }
    cr_assert_gt(n, 20);
}
