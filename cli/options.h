/* Options that several commands share: how a model is opened, and how text is given. */
#ifndef HEARTH_CLI_OPTIONS_H
#define HEARTH_CLI_OPTIONS_H

#include "cli/args.h"

/* ---- the engine ----------------------------------------------------------------------------------------------- */

/* Which of them the command line has: what does not apply is refused there, and ignored in the environment. */
typedef struct cli_engine_given {
    bool model, threads, context, batch, microbatch, k_type, v_type, isa, load, device, gpu_layers, vram;
} cli_engine_given;

typedef struct cli_engine_options {
    const char *model, *k_type, *v_type, *act, *isa, *load;
    const char *device; /* NULL: what gpu_layers says */
    int32_t threads, context, batch, microbatch, vram, gpu_layers;
    bool quiet;
    cli_engine_given given;
} cli_engine_options;

#define CLI_KV_TYPES "auto|f16|f32|q16|q8_0|q4_0"
#define CLI_ENGINE_DEFAULTS {.k_type = "auto", .v_type = "auto", .act = "q8", .load = "auto"}

extern const cli_option cli_engine_table[];

/* Opens the engine, its info in `info`. -1: open; otherwise the exit code, and the reason has been said. */
int cli_engine_open(const char *command, const cli_engine_options *options, hearth_engine **out,
                    hearth_model_info *info);
/* The same for `sessions` sessions at once; kv_tokens as in hearth's struct. */
int cli_engine_open_many(const char *command, const cli_engine_options *options, int32_t sessions, int32_t kv_tokens,
                         hearth_engine **out, hearth_model_info *info);
/* The same as hearth's struct. */
hearth_options cli_engine_to_hearth(const cli_engine_options *options);

/* Those of hearth_chat_render. */
#define CLI_CHAT_FORMATS "none|chatml|llama-2|llama-3|llama-3.1|mistral|mistral-v0.1|mistral-v0.2|mistral-v1|mistral-v3|" \
    "mistral-tekken|mistral-v7|qwen|qwen-3|qwen-3-thinking|phi-3|phi-4|phi-4-mini|gemma|deepseek-coder|starcoder2"

/* ---- text given by -p, -f or stdin ------------------------------------------------------------------------------ */

typedef struct cli_input_options {
    const char *prompt, *file;
    bool escape;
} cli_input_options;

extern const cli_option cli_input_table[];

/* The text: -p, or the file of -f, or stdin when it is no terminal. -1: read (CLI_NO_INPUT when none of them was
 * given), otherwise the exit code. `trim` takes one line end off the end of a file's text. */
enum { CLI_NO_INPUT = -2 };
int cli_input_read(const char *command, const cli_input_options *options, bool trim, cli_text *out);

#endif
