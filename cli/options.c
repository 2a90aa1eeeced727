/* The shared option tables, and what they mean in hearth.h's terms. */
#include "cli/options.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(cli_engine_options, field)
#define GIVEN(field) .at = AT(field), .given_at = AT(given.field)
const cli_option cli_engine_table[] = {
    {.name = "model", .aliases = "m", .kind = CLI_TEXT, .value = "FILE", GIVEN(model), .flags = CLI_FILE_VALUE,
     .help = "the model: a GGUF file (any part of a split one), or a folder with config.json and safetensors"},
    {.name = "threads", .aliases = "t", .kind = CLI_INT, .value = "N", GIVEN(threads), .min = 0, .max = 1024,
     .help = "threads that compute; 0: every core this process may use (default)"},
    {.name = "ctx-size", .aliases = "c", .kind = CLI_INT, .value = "N", GIVEN(context), .min = 0, .max = 1 << 24,
     .help = "most tokens in a context, prompt and answer together; 0: the model's own, at most 4096 (default)"},
    {.name = "batch-size", .aliases = "b", .kind = CLI_INT, .value = "N", GIVEN(batch), .min = 0, .max = 65536,
     .help = "most prompt tokens in a pass; the smaller of -b and -ub counts"},
    {.name = "ubatch-size", .aliases = "ub", .kind = CLI_INT, .value = "N", GIVEN(microbatch), .min = 0,
     .max = 65536, .help = "the same; 0: 512 (default)"},
    {.name = "cache-type-k", .aliases = "ctk", .kind = CLI_CHOICE, .value = "TYPE", GIVEN(k_type),
     .choices = CLI_KV_TYPES,
     .help = "type of the keys in the KV cache; default auto: q16 where attention is faster with it, else f16"},
    {.name = "cache-type-v", .aliases = "ctv", .kind = CLI_CHOICE, .value = "TYPE", GIVEN(v_type),
     .choices = CLI_KV_TYPES, .help = "type of the values in the KV cache; default auto, as for the keys"},
    {.name = "act", .kind = CLI_CHOICE, .value = "TYPE", .at = AT(act), .choices = "q8|f32",
     .help = "how activations meet quantised weights: rounded to 8 bits, which is fast, or in full (f32); q8 also lets the CPU "
             "round prompts to 16 bits where weights are F16 or BF16; default q8"},
    {.name = "isa", .kind = CLI_CHOICE, .value = "LEVEL", GIVEN(isa), .choices = "ref|avx2|avx512",
     .help = "highest level of CPU instructions to use; default: the best there is"},
    {.name = "load", .kind = CLI_CHOICE, .value = "HOW", GIVEN(load), .choices = "auto|mmap|read",
     .help = "map the file, or read it into memory, where matrices are rearranged for the CPU's kernels; default auto: read, "
     "unless it does not fit"},
    {.name = "device", .kind = CLI_CHOICE, .value = "KIND", GIVEN(device), .choices = "none|cuda|emu",
     .help = "compute on a GPU, or on an emulated one (slow, for tests); default none: the CPU; with -ngl: cuda"},
    {.name = "gpu-layers", .aliases = "ngl,n-gpu-layers", .kind = CLI_INT, .value = "N", GIVEN(gpu_layers),
     .min = 1, .max = 1 << 20,
     .help = "layers, the last ones, that the GPU computes, with the output; the CPU computes those before; default: all"},
    {.name = "vram", .kind = CLI_INT, .value = "MIB", GIVEN(vram), .min = 0, .max = 1 << 24,
     .help = "most device memory to use, in MiB; 0: what is free (default)"},
    {.name = "quiet", .aliases = "q", .kind = CLI_FLAG, .at = AT(quiet), .help = "no progress, no timings"},
    {0}};
#undef GIVEN
#undef AT

#define AT(field) offsetof(cli_input_options, field)
const cli_option cli_input_table[] = {
    {.name = "prompt", .aliases = "p", .kind = CLI_TEXT, .value = "TEXT", .at = AT(prompt), .flags = CLI_NO_ENV,
     .help = "the text"},
    {.name = "file", .aliases = "f", .kind = CLI_TEXT, .value = "FILE", .at = AT(file),
     .flags = CLI_NO_ENV | CLI_FILE_VALUE, .help = "a file with the text; - is stdin, which is also read when neither "
     "-p nor -f is given and it is no terminal"},
    {.name = "escape", .aliases = "e", .kind = CLI_FLAG, .at = AT(escape),
     .help = "in -p, turn \\n, \\t, \\\" and the like into the characters they stand for"},
    {0}};
#undef AT

hearth_options cli_engine_to_hearth(const cli_engine_options *o)
{
    int32_t chunk = o->batch && (!o->microbatch || o->batch < o->microbatch) ? o->batch : o->microbatch;
    const char *device = o->device ? o->device : o->gpu_layers ? "cuda" : "none";
    bool none = strcmp(device, "none") == 0; /* then what the environment says of a device does not apply */
    return (hearth_options){
        .model = o->model, .threads = o->threads, .context = o->context, .chunk = chunk, .activations = o->act,
        .k_type = o->k_type, .v_type = o->v_type, .isa = o->isa, .load = o->load,
        .device = device, .gpu_layers = none && !o->given.gpu_layers ? 0 : o->gpu_layers,
        .vram = none && !o->given.vram ? 0 : (uint64_t)o->vram << 20, .quiet = o->quiet,
    };
}

int cli_engine_open(const char *command, const cli_engine_options *options, hearth_engine **out,
                    hearth_model_info *info)
{
    return cli_engine_open_many(command, options, 1, 0, out, info);
}

/* The engine refuses what needs a device when there is to be none; who wants it must know if the environment says so. */
static int check_device(const char *command, const cli_engine_options *o)
{
    bool none = o->device && !o->given.device && strcmp(o->device, "none") == 0;
    const char *flag = o->given.gpu_layers ? "-ngl, --gpu-layers" : o->given.vram && o->vram ? "--vram" : NULL;
    if (!none || !flag) return -1;
    return cli_fail(command, "%s asks for a GPU, but HEARTH_DEVICE is none (--device overrides it)", flag);
}

int cli_engine_open_many(const char *command, const cli_engine_options *options, int32_t sessions, int32_t kv_tokens,
                         hearth_engine **out, hearth_model_info *info)
{
    if (!options->model) return cli_usage(command, "-m, --model: no model given");
    int code = check_device(command, options);
    if (code >= 0) return code;
    hearth_options o = cli_engine_to_hearth(options);
    o.sessions = sessions;
    o.kv_tokens = kv_tokens;
    hearth_error error = {0};
    if (hearth_engine_open(out, &o, &error) < 0) return cli_fail(command, "%s", error.text);
    hearth_engine_info(*out, info);
    return -1;
}

int cli_input_read(const char *command, const cli_input_options *o, bool trim, cli_text *out)
{
    if (o->prompt && o->file) return cli_usage(command, "-p, --prompt and -f, --file exclude each other");
    if (o->prompt) {
        cli_text_add(out, o->prompt, strlen(o->prompt));
        if (o->escape) cli_unescape(out);
        return -1;
    }
    if (!o->file && cli_is_terminal(STDIN_FILENO)) return CLI_NO_INPUT;
    hearth_error error = {0};
    if (cli_text_read(out, o->file ? o->file : "-", &error) < 0) return cli_fail(command, "%s", error.text);
    if (trim && out->size && out->data[out->size - 1] == '\n') {
        out->data[--out->size] = '\0';
        if (out->size && out->data[out->size - 1] == '\r') out->data[--out->size] = '\0';
    }
    return -1;
}
