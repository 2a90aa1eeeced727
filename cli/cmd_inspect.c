/* hearth inspect: what is in a file. */
#include "cli/args.h"

#include <string.h>

typedef struct inspect_options {
    const char *file;
    bool json;
} inspect_options;

static const cli_option table[] = {
    {.name = "model", .aliases = "m", .kind = CLI_TEXT, .value = "FILE", .at = offsetof(inspect_options, file),
     .flags = CLI_FILE_VALUE, .help = "the file, if it is not given as an argument"},
    {.name = "json", .kind = CLI_FLAG, .at = offsetof(inspect_options, json), .help = "one JSON object"},
    {0}};

static const cli_group groups[] = {{"Options", table, 0}, {0}};

static void print_line(void *user, const char *line)
{
    (void)user;
    cli_write(line, strlen(line));
    cli_write("\n", 1);
}

static int run(int argc, char **argv)
{
    inspect_options o = {0};
    int code = cli_parse(&cli_command_inspect, argc, argv, &o);
    if (code >= 0) return code;
    if (!o.file) return cli_usage("inspect", "no FILE given");
    hearth_error error = {0};
    if (hearth_inspect(o.file, o.json, print_line, NULL, &error) < 0) return cli_fail("inspect", "%s", error.text);
    return CLI_OK;
}

const cli_command cli_command_inspect = {
    .name = "inspect", .usage = "FILE [--json]",
    .summary = "what is in a GGUF file or a Hugging Face folder: keys, tensors, sizes",
    .groups = groups, .operand = "FILE", .operand_at = offsetof(inspect_options, file), .run = run,
};
