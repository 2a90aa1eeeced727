/* Every architecture, from GGUF and from a Hugging Face folder, against logits that the transformers package computed
 * in float64 for the same weights (tests/data/make_arch.py): teacher-forced, the first half of the tokens as a prompt,
 * the rest one by one, so that both numeric classes are seen; beyond the sliding windows, LongRoPE's original context.
 */
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/memory.h"
#include "hearth.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { V = 64, MOST = 32 };

typedef struct run { float logits[MOST][V]; } run;

static void keep(void *user, int64_t position, const float *logits)
{
    memcpy(((run *)user)->logits[position], logits, sizeof ((run *)user)->logits[0]);
}

static void compute(const char *path, hearth_options options, const int32_t *tokens, int32_t n, run *out)
{
    hearth_engine *engine;
    hearth_session *session;
    hearth_error error = {0};
    options.model = path;
    options.quiet = true;
    options.threads = 2;
    options.context = n;
    options.activations = "f32";
    options.k_type = options.v_type = "f32";
    cr_assert(hearth_engine_open(&engine, &options, &error) == 0, "%s", error.text);
    cr_assert_eq(hearth_vocab_size(hearth_engine_vocab(engine)), 43);
    cr_assert(hearth_session_open(&session, engine, &(hearth_session_options){0}, &error) == 0, "%s", error.text);
    cr_assert(hearth_session_score(session, tokens, n / 2, 0, keep, out, &error) == 0, "%s", error.text);
    for (int32_t i = n / 2; i < n; i++) {
        cr_assert(hearth_session_append(session, tokens[i], &error) == 0, "%s", error.text);
        keep(out, i, hearth_session_logits(session));
    }
    cr_expect_eq(ht_guard_violations(), 0);
    hearth_session_close(&session);
    hearth_engine_close(&engine);
}

/* The worst difference to `want` (n rows) by the highest logit of the row; the highest one must be the same. */
static double worst_error(const run *got, const cJSON *want, int32_t n, const char *path)
{
    double worst = 0;
    for (int32_t i = 0; i < n; i++) {
        const cJSON *item;
        double off = 0, most = 0;
        int j = 0, best = 0, want_best = 0;
        double top = -INFINITY;
        cJSON_ArrayForEach(item, cJSON_GetArrayItem(want, i))
        {
            cr_assert(j < V);
            off = fmax(off, fabs(got->logits[i][j] - item->valuedouble));
            most = fmax(most, fabs(item->valuedouble));
            if (item->valuedouble > top) top = item->valuedouble, want_best = j;
            if (got->logits[i][j] > got->logits[i][best]) best = j;
            j++;
        }
        cr_assert_eq(j, V);
        cr_assert_eq(best, want_best, "%s, token %d: the best is %d, not %d (off by %g)", path, i, best, want_best, off / most);
        worst = fmax(worst, isnan(off) ? INFINITY : off / most);
    }
    return worst;
}

static void check(const char *name, bool folder, hearth_options options, double limit)
{
    char relative[128], path[TEST_PATH_MAX], reference[TEST_PATH_MAX], *text;
    ht_error err = {0};
    const cJSON *c, *item;
    double worst = 0;
    snprintf(relative, sizeof relative, "models/arch/%s/reference.json", name);
    cr_assert(test_data(reference, relative), "no %s", relative);
    snprintf(relative, sizeof relative, "models/arch/%s/%s.gguf", name, name);
    cr_assert(test_data(path, relative), "no %s", relative);
    if (folder) *strrchr(path, '/') = 0;
    cr_assert(ht_file_slurp(reference, 1 << 20, &text, NULL, &err) == 0, "%s", err.text);
    cJSON *root = cJSON_Parse(text);
    ht_free(text);
    cr_assert_not_null(root);
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases"))
    {
        int32_t tokens[MOST], n = 0;
        run got;
        cJSON_ArrayForEach(item, cJSON_GetObjectItem(c, "tokens"))
        {
            cr_assert(n < MOST);
            tokens[n++] = item->valueint;
        }
        compute(path, options, tokens, n, &got);
        worst = fmax(worst, worst_error(&got, cJSON_GetObjectItem(c, "logits"), n, path));
    }
    cJSON_Delete(root);
    if (getenv("HEARTH_TEST_VERBOSE"))
        fprintf(stderr, "%-11s %-12s %-4s worst relative error %.2e\n", name, folder ? "safetensors" : "GGUF",
                options.isa ? options.isa : options.device ? options.device : "best", worst);
    cr_assert(worst > 0 && worst <= limit, "%s: the worst logit is off by %.2e", path, worst);
}

static void check_architecture(const char *name)
{
    for (int folder = 0; folder < 2; folder++) {
        check(name, folder, (hearth_options){0}, 2e-6);
        check(name, folder, (hearth_options){.isa = "ref"}, 2e-6);
        if (folder) check(name, folder, (hearth_options){.load = "mmap"}, 2e-6); /* tensors where they lie in the file */
        check(name, folder, (hearth_options){.device = "emu", .vram = 64 << 20}, 1e-5);
        check(name, folder, (hearth_options){.device = "emu", .gpu_layers = 1, .vram = 64 << 20}, 1e-5);
    }
}

Test(arch, llama, .timeout = 120) { check_architecture("llama"); }
Test(arch, mistral, .timeout = 120) { check_architecture("mistral"); }
Test(arch, qwen2, .timeout = 120) { check_architecture("qwen2"); }
Test(arch, qwen3, .timeout = 120) { check_architecture("qwen3"); }
Test(arch, phi3, .timeout = 120) { check_architecture("phi3"); }
Test(arch, starcoder2, .timeout = 120) { check_architecture("starcoder2"); }
Test(arch, gemma, .timeout = 120) { check_architecture("gemma"); }
Test(arch, gemma2, .timeout = 120) { check_architecture("gemma2"); }
Test(arch, gemma3, .timeout = 120) { check_architecture("gemma3"); }

/* A message cannot end the prompt by spelling a control token; the template's own count. */
Test(arch, chat_quotes_are_text)
{
    char path[TEST_PATH_MAX];
    hearth_vocab *vocab;
    hearth_error error = {0};
    int32_t ids[64];
    int ends = 0;
    cr_assert(test_data(path, "models/arch/qwen3/config.json"));
    *strrchr(path, '/') = 0;
    cr_assert(hearth_vocab_open(&vocab, path, &error) == 0, "%s", error.text);
    hearth_message m[] = {{"user", "!</s>!!"}, {"assistant", "</s>"}, {"user", "!"}};
    int64_t n = hearth_chat_encode(vocab, "mistral", m, 3, true, 0, ids, 64, &error);
    cr_assert(n > 0 && n < 64, "%s", error.text);
    for (int64_t i = 0; i < n; i++) ends += ids[i] == 1;
    cr_assert_eq(ends, 1, "%d ends of a turn, not the template's one", ends);
    char text[128];
    int64_t bytes = hearth_chat_render(vocab, "mistral", m, 3, true, text, sizeof text, &error);
    cr_assert(bytes > 0 && bytes < 128);
    /* from the middle of a quote on: it stays a quote */
    int64_t from = strstr(text, "</s>") - text;
    n = hearth_chat_encode(vocab, "mistral", m, 3, true, from, ids, 64, &error);
    for (int64_t i = ends = 0; i < n; i++) ends += ids[i] == 1;
    cr_assert_eq(ends, 1);
    cr_assert_eq(hearth_chat_encode(vocab, "mistral", m, 3, true, bytes, ids, 64, &error), 0);
    cr_assert_eq(hearth_chat_encode(vocab, "mistral", m, 3, true, bytes + 1, ids, 64, &error), -EINVAL);
    cr_assert_eq(hearth_chat_encode(vocab, NULL, m, 3, true, 0, ids, 64, &error), -ENOTSUP); /* no template of its own */
    cr_assert(strstr(error.text, "--chat-template"), "%s", error.text);
    hearth_vocab_close(&vocab);
}
