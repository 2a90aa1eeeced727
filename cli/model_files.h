/* Which files a model is read from. */
#ifndef HEARTH_CLI_MODEL_FILES_H
#define HEARTH_CLI_MODEL_FILES_H

#include "cli/cli.h"

typedef struct cli_model_files {
    char **path;         /* [n], owned, in a fixed order */
    int n;
    bool folder;         /* they are those of a Hugging Face folder; else GGUF: one, or all parts of a split one */
} cli_model_files;

/* The file that is named, whether it is there or not, and what else is there. 0, or a negative errno: the folder cannot be
 * read. */
int cli_model_files_find(cli_model_files *out, const char *model, hearth_error *error);
void cli_model_files_free(cli_model_files *files);

/* Would writing `written` overwrite one of them? NULL: no model, or no file. */
bool cli_is_model_file(const char *model, const char *written);

#endif
