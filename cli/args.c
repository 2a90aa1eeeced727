/* Parses a command's options from its table, over getopt_long_only: clusters, "--name=value" and "-ub" all work as
 * people expect. Knows the tables, not what the options mean. */
#include "cli/args.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_BASE = 1000, MAX_NAMES = 192 };

/* One entry of getopt's table and what it stands for. */
typedef struct parser {
    const cli_command *command;
    char *options;                              /* the command's struct */
    struct option longs[MAX_NAMES + 1];
    char names[MAX_NAMES][32];
    char shorts[2 * 64 + 2];
    int n_longs, n_shorts;
    struct { const cli_option *option; size_t at; } entry[MAX_NAMES]; /* by val - LONG_BASE */
    int by_letter[128];                         /* index into entry, -1: none */
    int n_entries;
    bool has_operand;                           /* by the option that stands for it */
} parser;

void cli_option_title(const cli_option *option, char out[96])
{
    size_t used = 0;
    const char *alias = option->aliases;
    while (alias && *alias) {
        size_t n = strcspn(alias, ",");
        used += (size_t)snprintf(out + used, 96 - used, "-%.*s, ", (int)n, alias);
        alias += n + (alias[n] == ',');
    }
    snprintf(out + used, 96 - used, "--%s", option->name);
}

void cli_option_env(const cli_option *option, char out[96])
{
    out[0] = '\0';
    if (option->flags & CLI_NO_ENV) return;
    snprintf(out, 96, "HEARTH_%s", option->name);
    for (char *c = out; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

/* ---- values --------------------------------------------------------------------------------------------------- */

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    while (*choices) {
        size_t length = strcspn(choices, "|");
        if (length == n && memcmp(choices, text, n) == 0) return true;
        choices += length + (choices[length] == '|');
    }
    return false;
}

static int range_error(const parser *p, const cli_option *o, const char *who, const char *text)
{
    return cli_usage(p->command->name, "%s: %s is out of range (%.15g to %.15g)", who, text, o->min, o->max);
}

static int parse_flag(const parser *p, const char *who, const char *text, bool *out)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"0", "false", "no", "off"};
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0) return *out = true, -1;
        if (strcasecmp(text, no[i]) == 0) return *out = false, -1;
    }
    return cli_usage(p->command->name, "%s: '%s' is neither 1 nor 0", who, text);
}

/* Stores one value; `who` names it in errors: the flag or the environment variable. -1: done, else the exit code. */
static int store(const parser *p, const cli_option *o, size_t at, const char *who, const char *text)
{
    void *field = p->options + at;
    const char *name = p->command->name;
    char *end = NULL;
    errno = 0;
    switch (o->kind) {
    case CLI_FLAG:
        return parse_flag(p, who, text, field);
    case CLI_TEXT:
        *(const char **)field = text;
        return -1;
    case CLI_CHOICE:
        if (!is_choice(o->choices, text))
            return cli_usage(name, "%s: '%s' is not one of %s", who, text, o->choices);
        *(const char **)field = text;
        return -1;
    case CLI_INT: {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end) return cli_usage(name, "%s: '%s' is not a whole number", who, text);
        if (errno || (double)v < o->min || (double)v > o->max) return range_error(p, o, who, text);
        *(int32_t *)field = (int32_t)v;
        return -1;
    }
    case CLI_NUMBER: {
        double v = strtod(text, &end);
        if (end == text || *end || isnan(v)) return cli_usage(name, "%s: '%s' is not a number", who, text);
        if (v < o->min || v > o->max) return range_error(p, o, who, text);
        *(float *)field = (float)v;
        return -1;
    }
    case CLI_SEED:
    case CLI_U64: {
        bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        unsigned long long v = strtoull(text, &end, hex ? 16 : 10); /* 010 is ten */
        if (end == text || *end || strchr(text, '-'))
            return cli_usage(name, "%s: '%s' is not a whole number from 0 on", who, text);
        if (errno) return cli_usage(name, "%s: %s is out of range (0 to 2^64 - 1)", who, text);
        if (o->kind == CLI_SEED) *(cli_seed *)field = (cli_seed){v, true};
        else *(uint64_t *)field = v;
        return -1;
    }
    case CLI_LIST: {
        cli_list *list = field;
        list->item = cli_realloc(list->item, (size_t)list->n + 1, sizeof *list->item);
        list->item[list->n++] = text;
        return -1;
    }
    }
    return -1;
}

/* ---- tables --------------------------------------------------------------------------------------------------- */

static void add_name(parser *p, const char *name, size_t n, int entry, bool has_value)
{
    if (n == 1) {
        p->by_letter[name[0] & 127] = entry;
        p->shorts[p->n_shorts++] = name[0];
        if (has_value) p->shorts[p->n_shorts++] = ':';
        return;
    }
    if (p->n_longs == MAX_NAMES) return;
    char *copy = p->names[p->n_longs];
    snprintf(copy, sizeof p->names[0], "%.*s", (int)n, name);
    p->longs[p->n_longs++] = (struct option){
        copy, has_value ? required_argument : no_argument, NULL, LONG_BASE + entry};
}

static void build(parser *p)
{
    static const cli_option help = {.name = "help", .aliases = "h", .kind = CLI_FLAG, .flags = CLI_NO_ENV};
    memset(p->by_letter, -1, sizeof p->by_letter);
    p->shorts[p->n_shorts++] = ':'; /* a missing value is told from an unknown option */
    p->entry[p->n_entries++].option = &help;
    add_name(p, "help", 4, 0, false);
    add_name(p, "h", 1, 0, false);
    for (const cli_group *g = p->command->groups; g->title; g++)
        for (const cli_option *o = g->options; o->name && p->n_entries < MAX_NAMES; o++) {
            int entry = p->n_entries++;
            p->entry[entry].option = o;
            p->entry[entry].at = g->at + o->at;
            add_name(p, o->name, strlen(o->name), entry, o->kind != CLI_FLAG);
            for (const char *a = o->aliases; a && *a;) {
                size_t n = strcspn(a, ",");
                add_name(p, a, n, entry, o->kind != CLI_FLAG);
                a += n + (a[n] == ',');
            }
        }
}

static int read_environment(const parser *p)
{
    for (int i = 1; i < p->n_entries; i++) {
        char name[96];
        cli_option_env(p->entry[i].option, name);
        const char *text = name[0] ? getenv(name) : NULL;
        if (!text || !*text) continue;
        int code = store(p, p->entry[i].option, p->entry[i].at, name, text);
        if (code >= 0) return code;
    }
    return -1;
}

static int unknown_option(const parser *p, char **argv)
{
    const char *name = p->command->name;
    char title[96];
    if (optopt >= LONG_BASE) {
        cli_option_title(p->entry[optopt - LONG_BASE].option, title);
        return cli_usage(name, "%s takes no value", title);
    }
    const char *given = argv[optind - 1];
    size_t n = strcspn(given, "="), dashes = strspn(given, "-");
    if (optopt && !(dashes == 2 || (given[1] == (char)optopt && n > 2)))
        return cli_usage(name, "unknown option -%c", optopt);
    int matches = 0;
    for (int i = 0; i < p->n_longs && n > dashes; i++)
        matches += strncmp(p->longs[i].name, given + dashes, n - dashes) == 0;
    return cli_usage(name, matches > 1 ? "option %.*s could mean several" : "unknown option %.*s", (int)n, given);
}

static int take_operand(const parser *p, int argc, char **argv)
{
    if (optind < argc && p->command->operand && !p->has_operand) {
        *(const char **)(p->options + p->command->operand_at) = argv[optind++];
    }
    if (optind < argc) return cli_usage(p->command->name, "'%s' is one argument too many", argv[optind]);
    return -1;
}

int cli_parse(const cli_command *command, int argc, char **argv, void *options)
{
    parser *p = memset(cli_realloc(NULL, 1, sizeof *p), 0, sizeof *p);
    p->command = command;
    p->options = options;
    build(p);
    int code = read_environment(p);
    if (code >= 0) goto done;
    bool fresh_list[MAX_NAMES] = {false}; /* a list on the command line replaces the environment's */
    opterr = 0;
    optind = 0; /* glibc: start over */
    int c;
    while ((c = getopt_long_only(argc, argv, p->shorts, p->longs, NULL)) != -1) {
        int entry = c >= LONG_BASE ? c - LONG_BASE : c != '?' && c != ':' ? p->by_letter[c & 127] : -1;
        if (c == ':') entry = optopt >= LONG_BASE ? optopt - LONG_BASE : p->by_letter[optopt & 127];
        char title[96] = "";
        if (entry >= 0) cli_option_title(p->entry[entry].option, title);
        if (c == '?' || entry < 0) code = unknown_option(p, argv);
        else if (c == ':') code = cli_usage(command->name, "%s needs a value", title);
        else if (entry == 0) cli_help_command(command), code = CLI_OK;
        else {
            const cli_option *o = p->entry[entry].option;
            if (o->kind == CLI_LIST && !fresh_list[entry]) {
                ((cli_list *)(p->options + p->entry[entry].at))->n = 0;
                fresh_list[entry] = true;
            }
            p->has_operand |= command->operand && p->entry[entry].at == command->operand_at;
            code = store(p, o, p->entry[entry].at, title, o->kind == CLI_FLAG ? "1" : optarg);
            if (o->given_at) *(bool *)(p->options + p->entry[entry].at - o->at + o->given_at) = true;
        }
        if (code >= 0) goto done;
    }
    code = take_operand(p, argc, argv);
done:
    free(p);
    return code;
}
