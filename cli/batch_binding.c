/* What a job's results depend on: its file, the model, and every option that changes an answer. Threads, slots and how
 * the weights are loaded do not: the engine's numbers are the same. */
#include "cli/batch.h"
#include "cli/model_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void bind(cli_batch *b, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void bind(cli_batch *b, const char *name, const char *format, ...)
{
    char value[256];
    va_list args;
    va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    va_end(args);
    cli_text_add(&b->binding, name, strlen(name));
    cli_text_add(&b->binding, "=", 1);
    cli_text_add(&b->binding, value, strlen(value));
    cli_text_add(&b->binding, "\n", 1);
}

/* Texts of any length and content: quoted. */
static void bind_texts(cli_batch *b, const char *name, const char *const *text, int n)
{
    cli_text_add(&b->binding, name, strlen(name));
    cli_text_add(&b->binding, "=", 1);
    for (int i = 0; i < n; i++) {
        if (i) cli_text_add(&b->binding, " ", 1);
        if (text[i]) cli_json_text(&b->binding, text[i], strlen(text[i]));
        else cli_text_add(&b->binding, "none", 4);
    }
    cli_text_add(&b->binding, "\n", 1);
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

/* A file's size, its beginning and end, and samples in between: reading all of it would take as long as loading it. */
static int hash_file(const char *path, cli_hash *hash, uint64_t *bytes, hearth_error *error)
{
    enum { HEAD = 1 << 20, SAMPLE = 4096, SAMPLES = 256 };
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int rc = cli_file_error(error, path, errno);
        if (fd >= 0) close(fd);
        return rc;
    }
    uint64_t size = (uint64_t)st.st_size;
    char *buffer = cli_realloc(NULL, HEAD, 1);
    int64_t got = cli_read_file_at(fd, buffer, HEAD, 0);
    *hash = cli_hash_more(*hash, &size, sizeof size);
    for (int i = 0; got >= 0; i++) {
        *hash = cli_hash_more(*hash, buffer, (size_t)got);
        if (i > SAMPLES || size <= HEAD) break;
        got = cli_read_file_at(fd, buffer, SAMPLE, HEAD + (uint64_t)((double)(size - HEAD) * i / (SAMPLES + 1)));
        if (i == SAMPLES && got >= 0) got = cli_read_file_at(fd, buffer, SAMPLE, size - SAMPLE);
    }
    free(buffer);
    close(fd);
    *bytes += size;
    return got < 0 ? cli_file_error(error, path, (int)-got) : 0;
}

static int bind_model(cli_batch *b, hearth_error *error)
{
    cli_model_files files;
    uint64_t bytes = 0;
    cli_hash hash = CLI_HASH_START;
    char text[CLI_HASH_TEXT];
    int rc = cli_model_files_find(&files, b->o->engine.model, error);
    for (int i = 0; i < files.n && rc == 0; i++) {
        const char *name = strrchr(files.path[i], '/');
        if (files.folder) hash = cli_hash_more(hash, name + 1, strlen(name + 1) + 1);
        rc = hash_file(files.path[i], &hash, &bytes, error);
    }
    cli_model_files_free(&files);
    bind(b, "model", "%" PRIu64 " bytes %s", bytes, cli_hash_text(hash, text));
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static void bind_answers(cli_batch *b)
{
    const cli_batch_options *o = b->o;
    const cli_sampling_options *s = &o->sampling;
    bind(b, "--n-predict", "%d", s->n_predict);
    bind(b, "--temp", "%.9g", (double)s->temperature);
    bind(b, "--top-k", "%d", s->top_k);
    bind(b, "--top-p", "%.9g", (double)s->top_p);
    bind(b, "--min-p", "%.9g", (double)s->min_p);
    bind(b, "--typical", "%.9g", (double)s->typical);
    bind(b, "--repeat-penalty", "%.9g", (double)s->repeat_penalty);
    bind(b, "--presence-penalty", "%.9g", (double)s->presence_penalty);
    bind(b, "--frequency-penalty", "%.9g", (double)s->frequency_penalty);
    bind(b, "--repeat-last-n", "%d", s->repeat_last_n);
    bind(b, "--seed", "%" PRIu64, s->seed.value);
    bind(b, "--logprobs", "%d", s->logprobs);
    bind(b, "--ignore-eos", "%d", s->ignore_eos);
    bind_texts(b, "--logit-bias", s->logit_bias.item, s->logit_bias.n);
    bind_texts(b, "--stop", s->stop.item, s->stop.n);
}

int cli_batch_bind(cli_batch *b, hearth_error *error)
{
    const cli_batch_options *o = b->o;
    char text[CLI_HASH_TEXT];
    b->binding.size = 0;
    bind(b, "hearth", HEARTH_VERSION);
    int rc = bind_model(b, error);
    bind_texts(b, "model's names", b->names, b->n_names);
    bind(b, "--any-model", "%d", o->any_model);
    bind(b, "--ctx-size", "%d", b->info.n_context);
    bind(b, "--cache-type-k", "%s", o->engine.k_type);
    bind(b, "--cache-type-v", "%s", o->engine.v_type);
    bind(b, "--act", "%s", o->engine.act);
    bind(b, "--device", "%s", cli_engine_to_hearth(&o->engine).device);
    bind(b, "--gpu-layers", "%d", b->info.gpu_layers);
    bind(b, "--isa", "%s", b->info.isa ? b->info.isa : "none");
    bind_answers(b);
    bind_texts(b, "--chat-template", &o->chat_template, 1);
    /* Up to here it is the same for every job; the results say it by this. */
    cli_hash all = cli_hash_more(CLI_HASH_START, b->binding.data, b->binding.size);
    snprintf(b->fingerprint, sizeof b->fingerprint, "fp_%016" PRIx64, all.high ^ all.low);
    bind(b, "job file", "%" PRIu64 " bytes %s", b->jobs.size, cli_hash_text(b->jobs.hash, text));
    bind(b, "--format", b->jobs.text ? "text" : "jsonl");
    bind(b, "--shard", "%" PRId64 "/%" PRId64, b->shard, b->shards);
    bind(b, "--max-line", "%d", o->max_line);
    bind(b, "--chat", "%d", b->rules.chat && b->jobs.text);
    bind(b, "--escape", "%d", o->escape);
    bind_texts(b, "--system-prompt", &o->system, 1);
    return rc;
}
