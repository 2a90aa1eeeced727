/* hearth: runs language models. It is being built for models that are larger than the GPU, and than RAM; today it computes
 * on the CPU with all weights in RAM, or wholly on a GPU.
 *
 * The public C API. Everything that a front end needs is here and nothing else is exported.
 *
 *     hearth_engine *engine;
 *     hearth_error error = {0};
 *     if (hearth_engine_open(&engine, &(hearth_options){.model = "model.gguf"}, &error) < 0) die(error.text);
 *     hearth_session *session;
 *     hearth_session_open(&session, engine, &(hearth_session_options){0}, &error);
 *     int64_t n = hearth_encode(hearth_engine_vocab(engine), text, strlen(text), HEARTH_BOS, ids, capacity, &error);
 *     hearth_session_sync(session, ids, n, &error);            // prefill; reuses what it already has
 *     while (...) {
 *         int32_t id = hearth_sample(sampler, session, NULL);
 *         hearth_session_append(session, id, &error);           // one decode step
 *     }
 *
 * Results: 0 or a positive count on success, a negative errno value on failure; the text in hearth_error names what
 * was wrong. Handles are opened by x_open(&x, ...) and closed by x_close(&x), which sets them to NULL and accepts
 * NULL. An engine and its sessions belong to one thread at a time. Option structs are zero-initialised by the caller;
 * zero means the default everywhere.
 */
#ifndef HEARTH_H
#define HEARTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HEARTH_API __attribute__((visibility("default")))
#else
#define HEARTH_API
#endif

#define HEARTH_VERSION "0.1.0"

typedef struct hearth_engine hearth_engine;
typedef struct hearth_session hearth_session;
typedef struct hearth_sampler hearth_sampler;
typedef struct hearth_vocab hearth_vocab;

typedef struct hearth_error {
    int code;       /* negative errno, 0: none */
    char text[512]; /* one line */
} hearth_error;

/* ---- engine --------------------------------------------------------------------------------------------- */

typedef struct hearth_options {
    const char *model;       /* path of a GGUF file (any part of a split one), or of a Hugging Face folder */
    int32_t threads;         /* 0: all cores this process may use */
    int32_t context;         /* most tokens of a session; 0: the model's own, at most 4096 */
    int32_t sessions;        /* sessions that exist at once; 0: 1 */
    int32_t kv_tokens;       /* KV capacity over all sessions; 0: sessions * context */
    int32_t chunk;           /* most prompt tokens a pass (-ub); 0: 512 */
    const char *activations; /* "q8" (default) or "f32" */
    const char *k_type, *v_type; /* KV cache types: "f16", "f32", "q8_0", "q4_0", "q16" (the CPU's alone: 16-bit integers, as
                                precise as f16, and attention is up to twice as fast where many heads share a KV head), or
                                "auto" (default): q16 in layers on the CPU from three heads a KV head on, else f16 */
    const char *isa;         /* highest CPU level to use: "ref", "avx2", "avx512"; NULL: the best there is */
    const char *load;        /* "mmap", "read" (into memory of its own, where matrices are woven into the tiles that the CPU
                                reads fastest: the same results), or "auto" (default): read, unless it does not fit */
    const char *device;      /* where it computes: "none" (default: the CPU), "cuda", "emu" (an emulated GPU: for tests).
                                What it computes must fit into its memory, with its KV */
    int32_t gpu_layers;      /* how many layers, the last ones, and the output are computed on the device; the CPU computes what
                                comes before. 0, or more than there are: everything on the device. Without one: an error */
    uint64_t vram;           /* most bytes of device memory to use; 0: what is free ("emu": 1 GiB). Without a device:
                                an error */
    bool quiet;              /* no progress bar */
} hearth_options;

HEARTH_API int hearth_engine_open(hearth_engine **out, const hearth_options *options, hearth_error *error);
HEARTH_API void hearth_engine_close(hearth_engine **engine);

typedef struct hearth_model_info {
    const char *name, *architecture;  /* borrowed from the engine */
    int32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_context_train, n_context;
    uint64_t n_parameters;
    uint64_t weight_bytes;            /* all weights in the file's types */
    uint64_t token_bytes;             /* weight bytes read for one generated token (embedding: one row) */
    uint64_t kv_token_bytes;          /* and KV bytes for each token before it (in layers without a sliding window) */
    const char *k_type, *v_type;      /* KV cache types in use, "Q16"; of the CPU's layers where it has some */
    const char *isa;                  /* CPU level in use */
    int32_t threads;
    const char *device;               /* name of the device that computes; NULL: the CPU does */
    int32_t gpu_layers;               /* how many of n_layers it computes */
} hearth_model_info;
HEARTH_API void hearth_engine_info(const hearth_engine *engine, hearth_model_info *out);
HEARTH_API const hearth_vocab *hearth_engine_vocab(const hearth_engine *engine);

/* ---- vocabulary ----------------------------------------------------------------------------------------- */

enum { HEARTH_BOS = 1 /* add BOS if the model wants one */, HEARTH_SPECIAL = 2 /* control tokens in the text count */ };

/* A vocabulary alone: a GGUF without weights is enough, or a folder with tokenizer.json or tokenizer.model. Of a folder
 * with a whole model it is the engine's; weights that are no model's are warned of on stderr. */
HEARTH_API int hearth_vocab_open(hearth_vocab **out, const char *path, hearth_error *error);
HEARTH_API void hearth_vocab_close(hearth_vocab **vocab);
/* Appends at most `capacity` ids, returns how many there are, or a negative error. */
HEARTH_API int64_t hearth_encode(const hearth_vocab *vocab, const char *text, size_t bytes, unsigned flags,
                                 int32_t *ids, int64_t capacity, hearth_error *error);
/* Appends at most `capacity` bytes, returns how many there are. */
HEARTH_API int64_t hearth_decode(const hearth_vocab *vocab, const int32_t *ids, int64_t n, bool special, char *out,
                                 int64_t capacity);
HEARTH_API int32_t hearth_vocab_size(const hearth_vocab *vocab);
HEARTH_API bool hearth_vocab_is_end(const hearth_vocab *vocab, int32_t id);

/* Chat: messages to prompt text. `format` NULL: by the model's own template. Returns the length needed. The text alone
 * does not tell what the template says from what a message quotes: hearth_chat_encode gives the ids to compute. */
typedef struct hearth_message { const char *role, *content; } hearth_message;
HEARTH_API int64_t hearth_chat_render(const hearth_vocab *vocab, const char *format, const hearth_message *messages,
                                      int n, bool open_answer, char *out, int64_t capacity, hearth_error *error);
/* The ids of that text from byte `from` on (0: all of it, with BOS if the model wants one). Only what the template itself
 * says can become control tokens; spelled in a message, they are text. Returns how many there are. */
HEARTH_API int64_t hearth_chat_encode(const hearth_vocab *vocab, const char *format, const hearth_message *messages,
                                      int n, bool open_answer, int64_t from, int32_t *ids, int64_t capacity,
                                      hearth_error *error);

/* ---- sessions ------------------------------------------------------------------------------------------- */

typedef struct hearth_session_options {
    uint64_t id;        /* the sequence number that random draws use (seed, id, position); 0 is fine */
    int32_t context;    /* most tokens; 0: the engine's, or in a fork the forked session's */
} hearth_session_options;

HEARTH_API int hearth_session_open(hearth_session **out, hearth_engine *engine, const hearth_session_options *options,
                                   hearth_error *error);
HEARTH_API void hearth_session_close(hearth_session **session);

/* Make the session's context equal to tokens[0, n), n >= 1: the longest common prefix of what it has is kept as it
 * was computed (and so are pages that other sessions share, see fork), the rest is computed as prompt. Logits of the
 * last token are then available. -ENOSPC when n is above the context (the text says both), -ENOMEM when the KV pages
 * of the engine are used up, -EINVAL for a token that is none: the session keeps its old context then. After another
 * failure (a read error, -ECANCELED) it keeps the common prefix and what complete passes have computed. */
HEARTH_API int hearth_session_sync(hearth_session *session, const int32_t *tokens, int64_t n, hearth_error *error);
/* The same for several sessions at once (each at most once), their prompts packed into common passes. Bits are the
 * same as one after the other. */
typedef struct hearth_prompt { hearth_session *session; const int32_t *tokens; int64_t n; } hearth_prompt;
HEARTH_API int hearth_sync_many(const hearth_prompt *prompts, int32_t n, hearth_error *error);
/* The same, giving the logits of every token from `first` on, as they are computed: sink(user, position, logits[V]).
 * Tokens before `first` may be reused. For evaluation. */
typedef void hearth_logits_sink(void *user, int64_t position, const float *logits);
HEARTH_API int hearth_session_score(hearth_session *session, const int32_t *tokens, int64_t n, int64_t first,
                                    hearth_logits_sink *sink, void *user, hearth_error *error);
/* One generated token a session: a decode step over several sessions at once. Each sessions[i] is appended tokens[i].
 * -ENOSPC: a session's context is full: nothing was changed in any. */
HEARTH_API int hearth_decode_step(hearth_session *const *sessions, const int32_t *tokens, int32_t n,
                                  hearth_error *error);
HEARTH_API int hearth_session_append(hearth_session *session, int32_t token, hearth_error *error);
/* A new session with the same context; KV pages are shared until one of them writes (copy on write). */
HEARTH_API int hearth_session_fork(hearth_session **out, const hearth_session *session,
                                   const hearth_session_options *options, hearth_error *error);
/* Forget tokens from position n on. */
HEARTH_API int hearth_session_truncate(hearth_session *session, int64_t n, hearth_error *error);
/* Logits after the last token, [n_vocab]; valid until the session is next changed. NULL when it is empty or just
 * truncated. */
HEARTH_API const float *hearth_session_logits(const hearth_session *session);
HEARTH_API int64_t hearth_session_tokens(const hearth_session *session, const int32_t **tokens);
/* Any thread or a signal handler: a running sync, score or decode step stops before its next layer with -ECANCELED;
 * what complete passes have computed is kept. The flag stays until cleared by the next call with `false`. */
HEARTH_API void hearth_engine_cancel(hearth_engine *engine, bool cancel);

/* From now on prompts tell how far they are: after each pass but the last, `done` of the `total` tokens that a call has to
 * compute. It must not call the engine, but to cancel it. NULL: no more. */
typedef void hearth_progress(void *user, int64_t done, int64_t total);
HEARTH_API void hearth_engine_on_prompt(hearth_engine *engine, hearth_progress *progress, void *user);

typedef struct hearth_stats {
    double load_seconds, prompt_seconds, decode_seconds;
    int64_t prompt_tokens, reused_tokens, decode_tokens;  /* computed as prompt, taken over, generated */
    int64_t drafted_tokens, accepted_tokens; /* of hearth_generate: guesses, and those of them that were right */
    uint64_t load_bytes;
    uint64_t logits_hash;     /* FNV-1a over the bits of all logits handed out: equal runs have equal hashes */
} hearth_stats;
HEARTH_API void hearth_engine_stats(const hearth_engine *engine, hearth_stats *out);

/* ---- sampling ------------------------------------------------------------------------------------------- */

typedef struct hearth_sampler_options {
    /* Zero-initialised: greedy. Applied in this order; 0 switches a step off unless said. */
    const struct hearth_logit_bias { int32_t id; float bias; } *logit_bias;
    int32_t n_logit_bias;
    float repeat_penalty;      /* 0 or 1: off */
    float frequency_penalty, presence_penalty;
    int32_t penalty_last_n;    /* tokens looked back; 0: 64; -1: all */
    int32_t top_k;
    float typical_p;           /* 0 or 1: off */
    float top_p;               /* 0 or 1: off */
    float min_p;
    float temperature;         /* 0: greedy, the highest logit after bias and penalties */
    uint64_t seed;
    int32_t logprobs;          /* top alternatives to report, at most 20 */
} hearth_sampler_options;

typedef struct hearth_token_logprob { int32_t id; float logprob; } hearth_token_logprob;
typedef struct hearth_sampled {
    int32_t id;
    float logprob;             /* of the model's own distribution, before penalties and temperature */
    int32_t n_top;
    hearth_token_logprob top[20];
} hearth_sampled;

HEARTH_API int hearth_sampler_open(hearth_sampler **out, const hearth_engine *engine,
                                   const hearth_sampler_options *options, hearth_error *error);
HEARTH_API void hearth_sampler_close(hearth_sampler **sampler);
/* Draws from now on by this seed: another answer to the same prompt. */
HEARTH_API void hearth_sampler_seed(hearth_sampler *sampler, uint64_t seed);
/* Chooses the next token of a session; `detail` may be NULL. -ENODATA: the session has no logits;
 * -ERANGE: none of them is a number. */
HEARTH_API int32_t hearth_sample(hearth_sampler *sampler, const hearth_session *session, hearth_sampled *detail);

/* ---- generated text ------------------------------------------------------------------------------------- */

/* Token ids to text: whole characters only, and ending before the first stop string, which may lie across tokens.
 * What may yet turn out to be the beginning of a stop string is held back until that is decided. */
typedef struct hearth_text hearth_text;
typedef struct hearth_text_options {
    const char *const *stop;   /* copied; none may be empty */
    int32_t n_stop;
    bool special;              /* control tokens are spelled out */
    bool continues;            /* the text goes on from a prompt: a blank in front of the first word is kept */
} hearth_text_options;
HEARTH_API int hearth_text_open(hearth_text **out, const hearth_vocab *vocab, const hearth_text_options *options,
                                hearth_error *error);
HEARTH_API void hearth_text_close(hearth_text **text);
/* Feeds one token, or the end (id < 0: held text is given). text[0, *bytes) is what is now certain, valid until the
 * next call, not NUL-terminated. Returns 1 when a stop string is complete (and for every call after that, with no
 * bytes), else 0. */
HEARTH_API int hearth_text_feed(hearth_text *text, int32_t id, const char **out, size_t *bytes);
HEARTH_API int32_t hearth_text_stop(const hearth_text *text); /* index of the stop string found, or -1 */
HEARTH_API void hearth_text_reset(hearth_text *text);

/* Generates from where the session is (it must have logits: sync it first) until something ends it. The session then
 * holds all generated tokens but the last one, which needs no computing; a later sync takes what it can use. */
typedef enum hearth_finish {
    HEARTH_FINISH_END = 1,     /* the model ended its answer */
    HEARTH_FINISH_STOP,        /* a stop string */
    HEARTH_FINISH_LENGTH,      /* max_tokens */
    HEARTH_FINISH_CONTEXT,     /* the session's context is full */
    HEARTH_FINISH_SINK,        /* the sink said so */
    HEARTH_FINISH_CANCELED,    /* hearth_engine_cancel */
} hearth_finish;

/* When text repeats itself, the next tokens are guessed from it and computed together; a guess is kept only
 * where it is exactly what would have been sampled, so the output is the same. */
typedef enum hearth_speculation {
    HEARTH_SPECULATE_AUTO = 0, /* where measurement says that it pays */
    HEARTH_SPECULATE_NEVER,
    HEARTH_SPECULATE_ALWAYS,   /* whenever there is something to guess: for tests */
} hearth_speculation;

/* Called once a generated token, and once more at the end (token.id = -1) if held text is left. Text lags behind ids:
 * bytes may be 0. Return false to end. */
typedef bool hearth_generate_sink(void *user, const hearth_sampled *token, const char *text, size_t bytes);

typedef struct hearth_generate_options {
    hearth_text_options text;
    int32_t max_tokens;        /* 0: until the context is full */
    bool ignore_end;           /* go on after an end token */
    bool logprobs;             /* fill in logprob and top of the sampled tokens; else only id */
    hearth_speculation speculation;
    hearth_generate_sink *sink; /* may be NULL */
    void *user;
} hearth_generate_options;

typedef struct hearth_generated {
    hearth_finish finish;
    int32_t n_tokens;          /* generated ones, an end token included */
    int32_t stop;              /* index of the stop string, or -1 */
} hearth_generated;

/* 0, or a negative error: then *out counts what was generated till then, finish is 0, and the held text is lost. */
HEARTH_API int hearth_generate(hearth_session *session, hearth_sampler *sampler,
                               const hearth_generate_options *options, hearth_generated *out, hearth_error *error);

/* ---- batches -------------------------------------------------------------------------------------------- */

/* Many requests at the highest throughput. A step is one pass over the weights: a column for every request that is
 * generating, filled up with prompt tokens of those that are not yet; a finished request's slot is taken at once by the
 * next one. Tokens that prompts begin with together are computed once.
 *
 * All tokens are computed in the block class, so a request's output depends on the request alone: not on the others,
 * on slots, chunk, order or threads, and not on whether it was interrupted and computed anew. (hearth_generate computes
 * generated tokens in the other class; its bits differ a little.) */
typedef struct hearth_batch hearth_batch;

typedef struct hearth_request {
    uint64_t id;                /* the sequence number that random draws use (seed, id, position) */
    const int32_t *tokens;      /* the prompt, at least one token; copied */
    int64_t n;
    hearth_sampler_options sampler; /* copied */
    hearth_text_options text;   /* copied */
    int32_t max_tokens;         /* 0: until the context is full */
    bool ignore_end;            /* go on after an end token */
    bool logprobs;              /* fill in logprob and top of the sampled tokens; else only id */
    int32_t expected;           /* how many tokens it will likely generate: orders the queue; 0: guessed */
    void *user;
} hearth_request;

/* Called from within hearth_batch_step, on the caller's thread. They may add requests and cancel the engine, and
 * must not call anything else of the engine or the batch. */
typedef struct hearth_batch_events {
    /* Once a generated token, and once more at the end (token->id = -1) if held text is left. Text lags behind ids:
     * bytes may be 0. NULL allowed. */
    void (*token)(void *user, const hearth_sampled *token, const char *text, size_t bytes);
    /* The request is over: n_tokens generated, an end token included; stop: index of the stop string, or -1. error is
     * NULL when all went well; else this request alone failed, and finish is 0. */
    void (*done)(void *user, hearth_finish finish, int32_t n_tokens, int32_t stop, const hearth_error *error);
} hearth_batch_events;

typedef struct hearth_batch_options {
    int32_t slots;              /* most requests side by side; 0: the engine's `sessions`, which is also the most */
    bool in_order;              /* begin requests in the order they were added; else in the order that is fastest */
    hearth_speculation speculation;
    hearth_batch_events events;
} hearth_batch_options;

/* The KV cache is shared with open sessions: what they hold, requests cannot have. */
HEARTH_API int hearth_batch_open(hearth_batch **out, hearth_engine *engine, const hearth_batch_options *options,
                                 hearth_error *error);
/* Queued and running requests are dropped, without events. */
HEARTH_API void hearth_batch_close(hearth_batch **batch);
/* Queues a request. On failure nothing was added: -ENOSPC (the prompt is longer than the context), -EINVAL (a token,
 * an option), -ENOMEM (also: it could never fit into the KV cache). */
HEARTH_API int hearth_batch_add(hearth_batch *batch, const hearth_request *request, hearth_error *error);
/* One pass. Returns how many requests are not finished yet (0: all done), or a negative error (a failed read,
 * -ECANCELED): then every request is where it was before, and the next call tries again. */
HEARTH_API int64_t hearth_batch_step(hearth_batch *batch, hearth_error *error);

typedef struct hearth_batch_counts {
    int64_t queued, running, finished, failed;   /* requests */
    int64_t passes;
    int64_t columns;            /* tokens computed in them */
    int64_t wasted_columns;     /* of these: guesses that were wrong, and tokens that had to be computed again */
    int64_t slot_passes;        /* passes * slots */
    int64_t used_slot_passes;   /* of these: slots that had a token in the pass */
    int64_t prompt_tokens;      /* of begun requests */
    int64_t reused_tokens;      /* of these: taken over from another request */
    int64_t generated_tokens;
    int64_t drafted_tokens, accepted_tokens;     /* guesses, and those of them that were right */
    int64_t interrupted;        /* times that a request lost its KV pages to an older one */
    double seconds;             /* in hearth_batch_step */
} hearth_batch_counts;
HEARTH_API void hearth_batch_stats(const hearth_batch *batch, hearth_batch_counts *out);

/* ---- tools ---------------------------------------------------------------------------------------------- */

/* What is in a file, as text lines (or one JSON object) handed to `line`. Works on any well-formed GGUF, and
 * on folders of safetensors. */
typedef void hearth_line_sink(void *user, const char *line);
HEARTH_API int hearth_inspect(const char *path, bool json, hearth_line_sink *line, void *user, hearth_error *error);

/* Writes a model of any shape with random weights, streamed to disk. */
typedef struct hearth_synth_options {
    const char *shape;         /* "7b", "1.1b", "135m", "70b", "tiny", ... (hearth_synth_shapes()); fields below override */
    int32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    const char *type;          /* of the matrices: "q4_0", ..., or a mix "q4_k_m" */
    const char *activation;    /* "silu", "relu" */
    const char *vocab;         /* GGUF file to take the vocabulary from; NULL: a byte-level one */
    bool tied;
    uint64_t seed;
    bool quiet;
} hearth_synth_options;
HEARTH_API int hearth_synth(const char *path, const hearth_synth_options *options, hearth_error *error);
HEARTH_API const char *hearth_synth_shapes(void);

/* The machine's streaming read in bytes/s with `threads` threads over buffers far larger than the caches: what
 * decode is measured against. The median of `repeats`. 0: not measured, for want of memory or threads. */
HEARTH_API double hearth_measure_read_bandwidth(int32_t threads, int32_t repeats);

/* The same in short samples beside something else that is measured, for memory whose speed changes within seconds. An
 * open probe holds up to 1 GiB and sleeping threads (0: all cores this process may use). Samples read the next `bytes`
 * of it and say how fast, in bytes/s. */
typedef struct hearth_read_probe hearth_read_probe;
HEARTH_API int hearth_read_probe_open(hearth_read_probe **out, int32_t threads, hearth_error *error);
HEARTH_API double hearth_read_probe_sample(hearth_read_probe *probe, uint64_t bytes);
HEARTH_API void hearth_read_probe_close(hearth_read_probe **probe);

/* One CPU kernel, timed on a working set larger than the caches: bytes/s of weights (columns = 1..8), or
 * multiply-adds/s (columns > 8). -ENOTSUP: this machine lacks the level. */
typedef struct hearth_kernel_bench {
    const char *type, *isa;    /* NULL: "q4_0" and the CPU's best level, which are then filled in */
    int32_t threads, columns;  /* threads 0: all cores this process may use, filled in too */
    int64_t rows, cols;
    int32_t repeats;
    const char *activations;   /* "q8" (default) or "f32" */
    bool woven;                /* rows woven into tiles, as an engine has them in RAM; false: plain rows, as in a mapped file.
                                  out: false where the level, type or shape has no tiles */
    double bytes_per_second, macs_per_second; /* out */
} hearth_kernel_bench;
HEARTH_API int hearth_bench_kernel(hearth_kernel_bench *bench, hearth_error *error);

HEARTH_API const char *hearth_build_info(void); /* version, compiler, what was left out */

#ifdef __cplusplus
}
#endif
#endif
