/* hearth synth: a model of any shape with random weights, for tests and measurements. */
#include "cli/args.h"

#include <stdio.h>

typedef struct synth_options {
    const char *output;
    bool shapes;
    hearth_synth_options model;
} synth_options;

#define AT(field) offsetof(synth_options, model.field)
static const cli_option file_table[] = {
    {.name = "output", .aliases = "o", .kind = CLI_TEXT, .value = "FILE", .at = offsetof(synth_options, output),
     .flags = CLI_NO_ENV | CLI_FILE_VALUE, .help = "the file to write"},
    {.name = "vocab", .kind = CLI_TEXT, .value = "FILE", .at = AT(vocab), .flags = CLI_FILE_VALUE,
     .help = "take the vocabulary from this GGUF file; default: one of bytes"},
    {.name = "quiet", .aliases = "q", .kind = CLI_FLAG, .at = AT(quiet), .help = "no progress"},
    {0}};

#define SHAPE(long_name, field, most, text)                                                                       \
    {.name = long_name, .kind = CLI_INT, .value = "N", .at = AT(field), .min = 1, .max = most, .help = text}
static const cli_option shape_table[] = {
    {.name = "shape", .kind = CLI_TEXT, .value = "NAME", .at = AT(shape),
     .help = "a known shape, which the numbers below change; see --shapes"},
    {.name = "shapes", .kind = CLI_FLAG, .at = offsetof(synth_options, shapes), .flags = CLI_NO_ENV, .help = "list the known shapes"},
    SHAPE("layers", n_layers, 4096, "layers"),
    SHAPE("embd", n_embd, 1 << 20, "width of the residual stream"),
    SHAPE("ff", n_ff, 1 << 22, "neurons of an FFN"),
    SHAPE("heads", n_heads, 65536, "attention heads"),
    SHAPE("kv-heads", n_kv_heads, 65536, "KV heads"),
    SHAPE("head-dim", head_dim, 65536, "elements of a head"),
    SHAPE("vocab-size", n_vocab, 1 << 24, "tokens of the vocabulary"),
    SHAPE("ctx", n_context, 1 << 24, "context length the file declares"),
    {.name = "type", .kind = CLI_TEXT, .value = "TYPE", .at = AT(type),
     .help = "type of the matrices (f16, q8_0, q4_0, ...) or a mix (q4_k_m)"},
    {.name = "activation", .kind = CLI_CHOICE, .value = "NAME", .at = AT(activation), .choices = "silu|relu",
     .help = "of the FFN's gate; default silu"},
    {.name = "tied", .kind = CLI_FLAG, .at = AT(tied), .help = "the output matrix is the embedding's"},
    {.name = "seed", .aliases = "s", .kind = CLI_U64, .value = "N", .at = AT(seed), .help = "of the random weights"},
    {0}};
#undef AT

static const cli_group groups[] = {{"File", file_table, 0}, {"Shape", shape_table, 0}, {0}};

static int run(int argc, char **argv)
{
    synth_options o = {.model = {.seed = 1}};
    int code = cli_parse(&cli_command_synth, argc, argv, &o);
    if (code >= 0) return code;
    if (o.shapes) return cli_print("%s\n", hearth_synth_shapes()), CLI_OK;
    if (!o.output) return cli_usage("synth", "-o, --output: no file given");
    hearth_error error = {0};
    if (hearth_synth(o.output, &o.model, &error) < 0) return cli_fail("synth", "%s", error.text);
    return CLI_OK;
}

const cli_command cli_command_synth = {
    .name = "synth", .usage = "-o FILE --shape NAME --type TYPE [options]",
    .summary = "write a model of any shape with random weights",
    .description = "The weights are random, so the text means nothing; the speed is that of a real model of the same "
                   "shape. The same seed gives the same file.",
    .groups = groups, .run = run,
};
