/* hearth tokenize: text to token ids and back. A file with a vocabulary alone is enough. */
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tokenize_options {
    const char *model;
    cli_input_options input;
    bool ids, decode, special, bos;
} tokenize_options;

#define AT(field) offsetof(tokenize_options, field)
static const cli_option table[] = {
    {.name = "model", .aliases = "m", .kind = CLI_TEXT, .value = "FILE", .at = AT(model), .flags = CLI_FILE_VALUE,
     .help = "GGUF file with the vocabulary, or folder with tokenizer.json or tokenizer.model"},
    {.name = "ids", .kind = CLI_FLAG, .at = AT(ids), .flags = CLI_NO_ENV,
     .help = "print the ids on one line, instead of a line for each token"},
    {.name = "decode", .kind = CLI_FLAG, .at = AT(decode), .flags = CLI_NO_ENV,
     .help = "the input is ids (separated by blanks, commas, brackets or lines), the output is text"},
    {.name = "special", .kind = CLI_FLAG, .at = AT(special), .flags = CLI_NO_ENV,
     .help = "control tokens spelled out in the text become their ids; with --decode they are spelled out"},
    {.name = "bos", .kind = CLI_FLAG, .at = AT(bos), .flags = CLI_NO_ENV,
     .help = "put BOS in front if the model wants one"},
    {0}};
#undef AT

static const cli_group groups[] = {
    {"Options", table, 0}, {"Text", cli_input_table, offsetof(tokenize_options, input)}, {0}};

/* Ids from text into a grown array; the count, or -EINVAL with what was wrong in `bad`. */
static int64_t parse_ids(const hearth_vocab *vocab, const cli_text *text, int32_t **ids, char bad[64])
{
    int64_t n = 0, room = 0;
    const char *at = text->data ? text->data : "", *end_of_text = at + text->size;
    for (;;) {
        at += strspn(at, " \t\r\n,[]");
        if (at == end_of_text) return n;
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        size_t length = strcspn(at, " \t\r\n,[]");
        if (length == 0 || end != at + length || errno || id < 0 || id >= hearth_vocab_size(vocab)) {
            snprintf(bad, 64, "'%.*s'", length > 40 ? 40 : (int)length, at);
            return -EINVAL;
        }
        if (n == room) *ids = cli_realloc(*ids, (size_t)(room = 2 * room + 1024), sizeof **ids);
        (*ids)[n++] = (int32_t)id;
        at = end;
    }
}

static int decode(const tokenize_options *o, const hearth_vocab *vocab, const cli_text *text)
{
    int32_t *ids = NULL;
    char *out = NULL, bad[64], none[1];
    int code = CLI_OK;
    int64_t n = parse_ids(vocab, text, &ids, bad);
    if (n < 0) {
        code = cli_fail("tokenize", "%s is no token id of this vocabulary (0 to %d)", bad,
                        hearth_vocab_size(vocab) - 1);
        goto done;
    }
    int64_t bytes = hearth_decode(vocab, ids, n, o->special, none, 0);
    if (bytes < 0) {
        code = cli_fail("tokenize", "cannot decode: %s", strerror((int)-bytes));
        goto done;
    }
    out = cli_realloc(NULL, (size_t)bytes, 1);
    hearth_decode(vocab, ids, n, o->special, out, bytes);
    cli_write(out, (size_t)bytes);
done:
    free(out);
    free(ids);
    return code;
}

static int encode(const tokenize_options *o, const hearth_vocab *vocab, const cli_text *text)
{
    unsigned flags = (o->bos ? HEARTH_BOS : 0) | (o->special ? HEARTH_SPECIAL : 0);
    int32_t *ids;
    int64_t n;
    hearth_error error = {0};
    if (cli_encode(vocab, text->data ? text->data : "", text->size, flags, &ids, &n, &error) < 0)
        return cli_fail("tokenize", "%s", error.text);
    for (int64_t i = 0; i < n; i++) {
        if (o->ids) cli_print("%s%d", i ? " " : "", ids[i]);
        else {
            cli_text piece = {0};
            cli_piece(vocab, ids[i], &piece);
            cli_print("%8d  %s\n", ids[i], piece.data);
            cli_text_free(&piece);
        }
    }
    if (o->ids) cli_print("\n");
    free(ids);
    return CLI_OK;
}

static int run(int argc, char **argv)
{
    tokenize_options o = {0};
    int code = cli_parse(&cli_command_tokenize, argc, argv, &o);
    if (code >= 0) return code;
    if (!o.model) return cli_usage("tokenize", "-m, --model: no file given");
    cli_text text = {0};
    hearth_vocab *vocab = NULL;
    hearth_error error = {0};
    code = cli_input_read("tokenize", &o.input, false, &text);
    if (code == CLI_NO_INPUT) code = cli_usage("tokenize", "no text: give -p TEXT, -f FILE or stdin");
    if (code >= 0) goto done;
    if (hearth_vocab_open(&vocab, o.model, &error) < 0) code = cli_fail("tokenize", "%s", error.text);
    else code = o.decode ? decode(&o, vocab, &text) : encode(&o, vocab, &text);
done:
    hearth_vocab_close(&vocab);
    cli_text_free(&text);
    return code;
}

const cli_command cli_command_tokenize = {
    .name = "tokenize", .usage = "-m FILE [-p TEXT | -f FILE] [--ids] [--decode]",
    .summary = "text to token ids and back", .groups = groups, .run = run,
};
