/* The hearth command: finds the sub-command and runs it. */
#include "cli/args.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const cli_command *const cli_commands[] = {
    &cli_command_run, &cli_command_batch, &cli_command_bench, &cli_command_eval, &cli_command_inspect, &cli_command_synth,
    &cli_command_tokenize, NULL,
};

static const cli_command *find(const char *name)
{
    for (const cli_command *const *c = cli_commands; *c; c++)
        if (strcmp((*c)->name, name) == 0) return *c;
    return NULL;
}

static int unknown_command(const char *name)
{
    char names[256] = "";
    for (const cli_command *const *c = cli_commands; *c; c++) {
        strcat(names, c == cli_commands ? "" : ", ");
        strcat(names, (*c)->name);
    }
    return cli_usage(NULL, "unknown command '%s'; there are %s", name, names);
}

static int help(int argc, char **argv)
{
    if (argc < 2) return cli_help_overview(cli_commands), CLI_OK;
    if (strcmp(argv[1], "--man") == 0) return cli_help_manual(cli_commands), CLI_OK;
    if (strcmp(argv[1], "--completion") == 0) return cli_help_completion(cli_commands), CLI_OK;
    const cli_command *command = find(argv[1]);
    if (!command) return unknown_command(argv[1]);
    return cli_help_command(command), CLI_OK;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        cli_usage(NULL, "no command given");
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return help(1, argv);
    if (strcmp(name, "help") == 0) return help(argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        return cli_print("%s\n", hearth_build_info()), CLI_OK;
    const cli_command *command = find(name);
    return command ? command->run(argc - 1, argv + 1) : unknown_command(name);
}

/* Where stdin, stdout or stderr is closed, the next file that is opened would become it, and messages would be written
 * into results. What takes its place fails when it is used, as a closed one does. */
static void fill_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
}

int main(int argc, char **argv)
{
    fill_standard_files();
    return cli_close_output(dispatch(argc, argv));
}
