/* Help in three dresses, all from the option tables: on the terminal, as a manual page, as bash completion. */
#include "cli/args.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- terminal ------------------------------------------------------------------------------------------------- */

/* Prints text wrapped at `width`, every line but the first behind `indent` blanks; `at` is where the first begins. */
static void wrap(const char *text, int at, int indent, int width)
{
    while (*text) {
        int n = (int)strcspn(text, " \n");
        if (at > indent && at + 1 + n > width) {
            cli_print("\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            cli_print(" ");
            at++;
        }
        cli_print("%.*s", n, text);
        at += n;
        text += n;
        if (*text == '\n') {
            cli_print("\n");
            if (text[1] == '\n') cli_print("\n");
            cli_print("%*s", indent, "");
            at = indent;
        }
        text += strspn(text, " \n");
    }
    cli_print("\n");
}

static int help_width(void)
{
    int width = cli_width(STDOUT_FILENO);
    return width < 60 ? 60 : width > 110 ? 110 : width;
}

/* The option's help with what the table knows besides: choices, in a form that lines can break when they are many. */
static void option_text(const cli_option *o, char *out, size_t size)
{
    enum { MANY = 60 };
    bool many = o->choices && strlen(o->choices) > MANY;
    size_t used = (size_t)snprintf(out, size, "%s%s", o->help, o->choices ? " (" : "");
    for (const char *at = o->choices; at && *at && used + 3 < size; at++)
        used += (size_t)snprintf(out + used, size - used, many && *at == '|' ? ", " : "%c", *at);
    if (o->choices && used + 1 < size) snprintf(out + used, size - used, ")");
}

/* " (not --prompt, --file)": the options of a command that the environment does not set; nothing if it sets all. */
static void not_in_environment(const cli_command *c, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (const cli_group *g = c->groups; g->title; g++)
        for (const cli_option *o = g->options; o->name && used < size; o++)
            if (o->flags & CLI_NO_ENV)
                used += (size_t)snprintf(out + used, size - used, "%s --%s", used ? "," : " (not", o->name);
    if (used && used < size) snprintf(out + used, size - used, ")");
}

static void help_option(const cli_option *o, int width)
{
    enum { COLUMN = 30 };
    char title[96], text[1024];
    cli_option_title(o, title);
    option_text(o, text, sizeof text);
    cli_print("  %s%s%s", title, o->value ? " " : "", o->value ? o->value : "");
    int at = 2 + (int)strlen(title) + (o->value ? 1 + (int)strlen(o->value) : 0);
    if (at + 2 > COLUMN) {
        cli_print("\n");
        at = 0;
    }
    cli_print("%*s", COLUMN - at, "");
    wrap(text, COLUMN, COLUMN, width);
}

void cli_help_command(const cli_command *c)
{
    const char *bold = cli_style_code(STDOUT_FILENO, CLI_BOLD), *plain = cli_style_code(STDOUT_FILENO, CLI_PLAIN);
    int width = help_width();
    cli_print("%susage: hearth %s %s%s\n\n", bold, c->name, c->usage, plain);
    wrap(c->summary, 0, 0, width);
    if (c->description) {
        cli_print("\n");
        wrap(c->description, 0, 0, width);
    }
    for (const cli_group *g = c->groups; g->title; g++) {
        cli_print("\n%s%s%s\n", bold, g->title, plain);
        for (const cli_option *o = g->options; o->name; o++) help_option(o, width);
    }
    cli_print("\n");
    char except[512], text[1024];
    not_in_environment(c, except, sizeof except);
    snprintf(text, sizeof text, "Options%s may also be set in the environment: HEARTH_ and the long name in capitals "
             "(HEARTH_TOP_K=20 for --top-k 20); the command line wins.", except);
    wrap(text, 0, 0, width);
}

void cli_help_overview(const cli_command *const *commands)
{
    const char *bold = cli_style_code(STDOUT_FILENO, CLI_BOLD), *plain = cli_style_code(STDOUT_FILENO, CLI_PLAIN);
    cli_print("%susage: hearth COMMAND [options]%s\n\nRuns language models from GGUF files and Hugging Face folders.\n\n"
              "%sCommands%s\n", bold, plain, bold, plain);
    for (; *commands; commands++) cli_print("  %-10s %s\n", (*commands)->name, (*commands)->summary);
    cli_print("\n'hearth COMMAND --help' (or 'hearth help COMMAND') lists a command's options; 'hearth --version' "
              "says what this is.\n");
}

/* ---- manual page ---------------------------------------------------------------------------------------------- */

/* Text in roff: a dash is a minus, a backslash is spelled, a dot or quote at a line's start is no request. */
static void roff(const char *text)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\'')) cli_print("\\&");
        line_start = *text == '\n';
        if (*text == '\\') cli_print("\\e");
        else if (*text == '-') cli_print("\\-");
        else if (*text == '\n' && text[1] == '\n') cli_print("\n.PP"), text++, cli_print("\n");
        else cli_print("%c", *text);
    }
}

static void manual_option(const cli_option *o)
{
    char title[96], text[1024];
    cli_option_title(o, title);
    option_text(o, text, sizeof text);
    cli_print(".TP\n\\fB");
    roff(title);
    cli_print("\\fR");
    if (o->value) {
        cli_print(" \\fI");
        roff(o->value);
        cli_print("\\fR");
    }
    cli_print("\n");
    roff(text);
    cli_print(".\n");
}

void cli_help_manual(const cli_command *const *commands)
{
    cli_print(".\\\" Made by 'hearth help --man' from the option tables in cli/; not edited by hand.\n"
              ".TH HEARTH 1 \"\" \"hearth %s\" \"User Commands\"\n"
              ".SH NAME\nhearth \\- run language models from GGUF files and Hugging Face folders\n"
              ".SH SYNOPSIS\n", HEARTH_VERSION);
    for (const cli_command *const *c = commands; *c; c++) {
        cli_print(".B hearth %s\n", (*c)->name);
        roff((*c)->usage);
        cli_print("\n.br\n");
    }
    cli_print(".SH DESCRIPTION\n");
    roff("hearth runs language models from GGUF files and Hugging Face folders. Text goes to stdout; logs, progress and "
         "timings go to stderr; bars and colour appear only on a terminal.\n");
    for (const cli_command *const *c = commands; *c; c++) {
        cli_print(".SH HEARTH %s\n", (*c)->name);
        roff((*c)->summary);
        cli_print(".\n");
        if ((*c)->description) {
            cli_print(".PP\n");
            roff((*c)->description);
            cli_print("\n");
        }
        for (const cli_group *g = (*c)->groups; g->title; g++) {
            cli_print(".SS %s\n", g->title);
            for (const cli_option *o = g->options; o->name; o++) manual_option(o);
        }
    }
    cli_print(".SH ENVIRONMENT\n");
    roff("Options may be set in the environment: HEARTH_ and the long name in capitals, with underscores for dashes "
         "(HEARTH_TOP_K=20 for --top-k 20); the command line wins. A default that does not apply (HEARTH_ECHO to a conversation) is "
         "ignored. NO_COLOR switches colour off. Left to the command line:\n");
    for (const cli_command *const *c = commands; *c; c++) {
        char except[512];
        not_in_environment(*c, except, sizeof except);
        if (!*except) continue;
        cli_print(".TP\nhearth %s\n", (*c)->name);
        except[strlen(except) - 1] = '\0';
        roff(except + strlen(" (not "));
        cli_print(".\n");
    }
    cli_print(".SH EXIT STATUS\n");
    cli_print(".TP\n0\nsuccess\n.TP\n1\na failure while running; stderr says what\n"
              ".TP\n2\nwrong usage\n.TP\n130\nended by Ctrl\\-C\n");
}

/* ---- bash completion ------------------------------------------------------------------------------------------ */

static void completion_words(const cli_command *c)
{
    for (const cli_group *g = c->groups; g->title; g++)
        for (const cli_option *o = g->options; o->name; o++) {
            char title[96];
            cli_option_title(o, title);
            for (char *at = title; *at; at++)
                if (*at == ',') *at = ' ';
            cli_print("%s ", title);
        }
    cli_print("--help");
}

/* A case arm for every option that takes one of a few words, or a file. */
static void completion_values(const cli_command *c)
{
    for (const cli_group *g = c->groups; g->title; g++)
        for (const cli_option *o = g->options; o->name; o++) {
            if (o->kind == CLI_FLAG) continue;
            char title[96];
            cli_option_title(o, title);
            cli_print("            %s:", c->name);
            for (const char *at = title; *at; at++) {
                if (*at == ',') cli_print("|%s:", c->name), at++;
                else cli_print("%c", *at);
            }
            cli_print(") ");
            if (o->choices) {
                cli_print("words=\"");
                for (const char *at = o->choices; *at; at++) cli_print("%c", *at == '|' ? ' ' : *at);
                cli_print("\" ;;\n");
            } else if (o->flags & CLI_FILE_VALUE) {
                cli_print("COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n");
            } else {
                cli_print("return ;;\n");
            }
        }
}

void cli_help_completion(const cli_command *const *commands)
{
    cli_print("# Made by 'hearth help --completion' from the option tables in cli/. Source it, or install it as\n"
              "# /usr/share/bash-completion/completions/hearth.\n"
              "_hearth()\n{\n"
              "    local word=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\" words=\"\"\n"
              "    COMPREPLY=()\n"
              "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words=\"");
    for (const cli_command *const *c = commands; *c; c++) cli_print("%s ", (*c)->name);
    cli_print("help --help --version\"\n    else\n        case \"${COMP_WORDS[1]}:$previous\" in\n");
    for (const cli_command *const *c = commands; *c; c++) completion_values(*c);
    cli_print("        esac\n        [ -n \"$words\" ] || case \"${COMP_WORDS[1]}\" in\n");
    for (const cli_command *const *c = commands; *c; c++) {
        cli_print("            %s) words=\"", (*c)->name);
        completion_words(*c);
        cli_print("\" ;;\n");
    }
    cli_print("            help) words=\"");
    for (const cli_command *const *c = commands; *c; c++) cli_print("%s ", (*c)->name);
    cli_print("\" ;;\n        esac\n");
    cli_print("        if [[ $word != -* && -z ${words##*--help*} ]]; then\n"
              "            COMPREPLY=($(compgen -f -- \"$word\"))\n            return\n        fi\n    fi\n"
              "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n"
              "complete -o filenames -F _hearth hearth\n");
}
