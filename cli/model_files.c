/* Files of a model: of a folder by their names, of a split GGUF by the numbers in them. */
#include "cli/model_files.h"

#include "cli/files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is read of a Hugging Face folder. */
static int is_read(const struct dirent *entry)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                                        "added_tokens.json", "chat_template.jinja", "model.safetensors.index.json"};
    size_t n = strlen(entry->d_name), tail = strlen(".safetensors");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(entry->d_name, names[i]) == 0) return 1;
    return n > tail && strcmp(entry->d_name + n - tail, ".safetensors") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* The path is the first `n` bytes of `head`, and `tail`. */
static void add(cli_model_files *out, const char *head, size_t n, const char *tail)
{
    cli_text path = {0};
    cli_text_add(&path, head, n);
    cli_text_add(&path, tail, strlen(tail));
    out->path = cli_realloc(out->path, (size_t)out->n + 1, sizeof *out->path);
    out->path[out->n++] = path.data;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int find_in_folder(cli_model_files *out, const char *model, hearth_error *error)
{
    struct dirent **entry;
    int n = scandir(model, &entry, is_read, by_name);
    if (n < 0) return cli_file_error(error, model, errno);
    for (int i = 0; i < n; i++) {
        char name[sizeof entry[i]->d_name + 1];
        snprintf(name, sizeof name, "/%s", entry[i]->d_name);
        add(out, model, strlen(model), name);
        if (is_folder(out->path[out->n - 1])) free(out->path[--out->n]);
        free(entry[i]);
    }
    free(entry);
    return 0;
}

int cli_model_files_find(cli_model_files *out, const char *model, hearth_error *error)
{
    size_t n = strlen(model), tail = strlen("-00001-of-00003.gguf");
    int part = 0, parts = 0, read = 0;
    *out = (cli_model_files){.folder = is_folder(model)};
    if (out->folder) return find_in_folder(out, model, error);
    bool split = n > tail && sscanf(model + n - tail, "-%5d-of-%5d.gguf%n", &part, &parts, &read) == 2 && read == (int)tail;
    if (!split || part < 1 || part > parts) {
        add(out, model, n, "");
        return 0;
    }
    for (int i = 1; i <= parts; i++) { /* a name alone makes no split model: parts that are not there are none */
        char end[64];
        snprintf(end, sizeof end, "-%05d-of-%05d.gguf", i, parts);
        add(out, model, n - tail, end);
        if (i != part && access(out->path[out->n - 1], F_OK) != 0) free(out->path[--out->n]);
    }
    return 0;
}

void cli_model_files_free(cli_model_files *files)
{
    for (int i = 0; i < files->n; i++) free(files->path[i]);
    free(files->path);
    *files = (cli_model_files){0};
}

bool cli_is_model_file(const char *model, const char *written)
{
    cli_model_files files = {0};
    hearth_error error;
    bool is = false;
    if (model && written) cli_model_files_find(&files, model, &error); /* what cannot be read is not opened, either */
    for (int i = 0; i < files.n && !is; i++) is = cli_is_same_file(files.path[i], written);
    cli_model_files_free(&files);
    return is;
}
