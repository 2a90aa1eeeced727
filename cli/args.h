/* Options of a command as tables: parsing, environment, help, manual page and shell completion all read the same
 * entries, so they cannot disagree.
 *
 * An option's value goes into a field of the command's options struct, found by offset; the struct holds the defaults
 * before parsing. Every option with a value, and every flag, may also be set by the environment: HEARTH_ and the
 * long name in capitals ("--top-k": HEARTH_TOP_K), unless CLI_NO_ENV; the command line wins. The environment's values
 * are defaults of all that is done: one that does not apply is ignored, where the command line's would be refused.
 */
#ifndef HEARTH_CLI_ARGS_H
#define HEARTH_CLI_ARGS_H

#include "cli/cli.h"

typedef enum cli_kind {
    CLI_FLAG,    /* bool; environment: 0, 1, false, true, no, yes */
    CLI_TEXT,    /* const char * */
    CLI_CHOICE,  /* const char *, one of `choices` */
    CLI_INT,     /* int32_t in [min, max] */
    CLI_NUMBER,  /* float in [min, max] */
    CLI_U64,     /* uint64_t, decimal or 0x */
    CLI_SEED,    /* cli_seed: the same, and whether it was given */
    CLI_LIST,    /* cli_list: may be given several times */
} cli_kind;

typedef struct cli_list { const char **item; /* array owned, strings borrowed */ int n; } cli_list;

typedef struct cli_seed { uint64_t value; bool given; } cli_seed;

enum { CLI_NO_ENV = 1, CLI_FILE_VALUE = 2 /* completion: a path */ };

typedef struct cli_option {
    const char *name;     /* long, without dashes */
    const char *aliases;  /* "t" or "ub,microbatch": one letter is a short option; all work after one dash; NULL */
    cli_kind kind;
    const char *value;    /* what help calls the value; NULL for flags */
    size_t at;            /* offset of the field in the group's struct */
    size_t given_at;      /* of a bool that becomes true when the command line has the option; 0: nobody asks */
    double min, max;      /* INT and NUMBER */
    const char *choices;  /* CHOICE: "a|b" */
    unsigned flags;
    const char *help;     /* one sentence or more, without a full stop at the end */
} cli_option;

typedef struct cli_group {
    const char *title;
    const cli_option *options; /* ended by a NULL name */
    size_t at;                 /* offset of the group's struct in the command's */
} cli_group;

typedef struct cli_command {
    const char *name;
    const char *usage;         /* what follows the name: "-m MODEL [options]" */
    const char *summary;       /* one line */
    const char *description;   /* paragraphs, separated by an empty line; NULL */
    const cli_group *groups;   /* ended by a NULL title */
    const char *operand;       /* name of the one argument without a flag; NULL: none is allowed */
    size_t operand_at;         /* const char * */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} cli_command;

/* Negative: parsed, go on. Otherwise the exit code to return: help was asked for, or the usage was wrong (and has
 * been reported, naming the flag and its value). */
int cli_parse(const cli_command *command, int argc, char **argv, void *options);

/* "-t, --threads", into a static-sized buffer of the caller. */
void cli_option_title(const cli_option *option, char out[96]);
/* "HEARTH_THREADS", or "" when the environment has no say. */
void cli_option_env(const cli_option *option, char out[96]);

/* ---- help.c ------------------------------------------------------------------------------------------------- */

void cli_help_command(const cli_command *command);
void cli_help_overview(const cli_command *const *commands);
void cli_help_manual(const cli_command *const *commands);      /* docs/hearth.1 */
void cli_help_completion(const cli_command *const *commands);  /* bash */

/* ---- the commands ------------------------------------------------------------------------------------------- */

extern const cli_command cli_command_run, cli_command_batch, cli_command_bench, cli_command_eval, cli_command_inspect,
    cli_command_synth, cli_command_tokenize;
/* All of them, ended by NULL. */
extern const cli_command *const cli_commands[];

#endif
