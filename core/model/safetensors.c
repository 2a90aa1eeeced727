/* The safetensors reader: 8 bytes of header length (little-endian), the header as JSON, then the data:
 *
 *   {"__metadata__": {...}, NAME: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, ...}
 *
 * with offsets counted from the end of the header. */
#include "core/model/safetensors.h"

#include "core/base/arith.h"
#include "core/base/cursor.h"
#include "core/base/memory.h"
#include "core/model/json.h"
#include "core/model/names.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_HEADER (100u << 20)  /* the format's own limit */
#define MAX_INDEX (256u << 20)
#define MAX_TENSORS (1 << 18)
#define MAX_VALUES (8 * MAX_TENSORS) /* of JSON that lists tensors: six a tensor, one in an index */
#define MAX_NAME 512
#define MAX_SHARDS 1024

bool ht_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool ht_safetensors_are_in(const char *folder)
{
    DIR *dir = opendir(folder);
    bool found = false;
    for (const struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        found = dot && strcmp(dot, ".safetensors") == 0;
    }
    if (dir) closedir(dir);
    return found;
}

/* ---- one tensor ---- */

/* A whole number that a double holds exactly; -1: it is none. */
static int64_t whole(const cJSON *item)
{
    double v = cJSON_IsNumber(item) ? item->valuedouble : -1;
    return v >= 0 && v <= 0x1p53 && v == floor(v) ? (int64_t)v : -1;
}

static int take_type(ht_tensor_info *t, const cJSON *item, const char *file, ht_error *err)
{
    static const struct { const char *name; ht_type type; } types[] = {{"F32", HT_F32}, {"F16", HT_F16}, {"BF16", HT_BF16}};
    const char *name = cJSON_IsString(item) ? item->valuestring : "";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, types[i].name) != 0) continue;
        t->type = types[i].type;
        return 0;
    }
    return ht_fail(err, -ENOTSUP, "%s: tensor %s has dtype \"%.20s\"; supported are F32, F16 and BF16", file, t->name, name);
}

/* Outermost first in the file, fastest first here. */
static int take_shape(ht_tensor_info *t, const cJSON *list, uint64_t *bytes, const char *file, ht_error *err)
{
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    int64_t elements = 1;
    if (n < 0 || n > HT_MAX_DIMS)
        return ht_fail(err, -EINVAL, "%s: tensor %s has no shape of at most %d dimensions", file, t->name, HT_MAX_DIMS);
    for (int i = 0; i < HT_MAX_DIMS; i++) t->dim[i] = 1;
    t->n_dims = n ? n : 1;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        int64_t v = whole(item);
        t->dim[--n] = v;
        if (v < 1 || !ht_mul_i64(elements, v, &elements) || elements > INT64_MAX / 8)
            return ht_fail(err, -EINVAL, "%s: tensor %s has a dimension that cannot be", file, t->name);
    }
    *bytes = (uint64_t)elements * (uint64_t)ht_type_get((uint32_t)t->type)->block_bytes;
    return 0;
}

/* `data`, `data_size`: where the data lies in the file. */
static int take_tensor(ht_tensor_info *t, const cJSON *item, uint64_t data, uint64_t data_size, const char *file,
                       ht_error *err)
{
    const cJSON *range = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    uint64_t bytes = 0;
    int rc = take_type(t, cJSON_GetObjectItemCaseSensitive(item, "dtype"), file, err);
    if (rc == 0) rc = take_shape(t, cJSON_GetObjectItemCaseSensitive(item, "shape"), &bytes, file, err);
    if (rc < 0) return rc;
    int64_t begin = whole(cJSON_GetArrayItem(range, 0)), end = whole(cJSON_GetArrayItem(range, 1));
    if (cJSON_GetArraySize(range) != 2 || begin < 0 || end < begin)
        return ht_fail(err, -EINVAL, "%s: tensor %s has no sound data_offsets", file, t->name);
    if ((uint64_t)end > data_size)
        return ht_fail(err, -EINVAL, "%s: tensor %s ends at byte %" PRId64 " of data, the file has %" PRIu64
                       ": it was cut short, or its header is wrong", file, t->name, end, data_size);
    if ((uint64_t)(end - begin) != bytes)
        return ht_fail(err, -EINVAL, "%s: tensor %s takes %" PRId64 " bytes, its type and shape make %" PRIu64, file,
                       t->name, end - begin, bytes);
    t->offset = data + (uint64_t)begin;
    t->bytes = bytes;
    return 0;
}

/* ---- one header ---- */

static int by_offset(const void *a, const void *b)
{
    const ht_tensor_info *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int check_overlaps(const ht_tensor_dir *d, const char *file, ht_error *err)
{
    for (int32_t i = 1; i < d->n_tensors; i++) {
        const ht_tensor_info *a = &d->tensors[i - 1], *b = &d->tensors[i];
        if (b->offset < a->offset + a->bytes)
            return ht_fail(err, -EINVAL, "%s: tensors %s and %s overlap", file, a->name, b->name);
    }
    return 0;
}

static int build_index(ht_tensor_dir *d, const char *file, ht_error *err)
{
    uint32_t duplicate = 0;
    ht_free(d->hash);
    d->hash = NULL;
    int rc = ht_names_index(d->names, (uint32_t)d->n_tensors, &d->hash, &d->hash_mask, &duplicate);
    if (rc == -EEXIST) return ht_fail(err, rc, "%s: the tensor %s is there twice", file, d->names[duplicate]);
    return rc < 0 ? ht_fail(err, rc, "%s: out of memory", file) : 0;
}

static int take_tensors(ht_tensor_dir *d, const cJSON *root, uint64_t data, uint64_t data_size, const char *file,
                        ht_error *err)
{
    const cJSON *item;
    int n = cJSON_IsObject(root) ? cJSON_GetArraySize(root) : -1;
    if (n < 0) return ht_fail(err, -EINVAL, "%s: its header is no JSON object", file);
    if (n > MAX_TENSORS) return ht_fail(err, -EINVAL, "%s: claims %d tensors", file, n);
    d->tensors = ht_calloc((size_t)n, sizeof *d->tensors);
    d->names = ht_calloc((size_t)n, sizeof *d->names);
    if (!d->tensors || !d->names) return ht_fail(err, -ENOMEM, "%s: out of memory for %d tensors", file, n);
    cJSON_ArrayForEach(item, root)
    {
        if (strcmp(item->string, "__metadata__") == 0) continue;
        if (!*item->string || strlen(item->string) > MAX_NAME)
            return ht_fail(err, -EINVAL, "%s: a tensor's name has %zu bytes, should be 1 to %d", file,
                           strlen(item->string), MAX_NAME);
        ht_tensor_info *t = &d->tensors[d->n_tensors];
        t->name = item->string;
        int rc = take_tensor(t, item, data, data_size, file, err);
        if (rc < 0) return rc;
        d->n_tensors++;
    }
    qsort(d->tensors, (size_t)d->n_tensors, sizeof *d->tensors, by_offset);
    for (int32_t i = 0; i < d->n_tensors; i++) {
        d->names[i] = ht_strdup(d->tensors[i].name); /* the JSON goes, the names stay */
        if (!d->names[i]) return ht_fail(err, -ENOMEM, "%s: out of memory for names", file);
        d->tensors[i].name = d->names[i];
    }
    int rc = check_overlaps(d, file, err);
    return rc < 0 ? rc : build_index(d, file, err);
}

int ht_safetensors_parse(ht_tensor_dir *out, const uint8_t *data, size_t size, uint64_t file_size, const char *name,
                         ht_error *err)
{
    ht_cursor c = {.data = data, .size = size};
    uint64_t length = ht_cursor_u64(&c);
    *out = (ht_tensor_dir){0};
    if (c.failed || file_size < 8) return ht_fail(err, -EINVAL, "%s: too short for a safetensors file", name);
    if (length > MAX_HEADER || length > file_size - 8)
        return ht_fail(err, length > file_size - 8 ? -EINVAL : -EFBIG, "%s: claims a header of %" PRIu64
                       " bytes; the file has %" PRIu64 " and the format allows %u", name, length, file_size, MAX_HEADER);
    const char *text = (const char *)ht_cursor_take(&c, length);
    if (!text) return ht_fail(err, -ENODATA, "%s: the header goes on", name);
    cJSON *root = ht_json_parse(text, (size_t)length, MAX_VALUES);
    int rc = root ? take_tensors(out, root, 8 + length, file_size - 8 - length, name, err)
                  : ht_fail(err, -EINVAL, "%s: its header is not sound JSON, or has far too many values", name);
    cJSON_Delete(root);
    if (rc < 0) ht_tensor_dir_close(out);
    return rc;
}

/* ---- files ---- */

static int read_header(ht_tensor_dir *out, const ht_file *file, ht_error *err)
{
    uint8_t first[8];
    uint64_t length = 0;
    if (file->size < sizeof first) return ht_fail(err, -EINVAL, "%s: too short for a safetensors file", file->path);
    int rc = ht_file_read(file, 0, first, sizeof first, err);
    if (rc < 0) return rc;
    for (int i = 7; i >= 0; i--) length = length << 8 | first[i];
    if (length > MAX_HEADER || length > file->size - 8) length = 0; /* the parser says so */
    uint8_t *header = ht_alloc((size_t)length + 8, 1);
    if (!header) return ht_fail(err, -ENOMEM, "%s: out of memory for a header of %" PRIu64 " bytes", file->path, length);
    rc = ht_file_read(file, 0, header, (size_t)length + 8, err);
    if (rc == 0) rc = ht_safetensors_parse(out, header, (size_t)length + 8, file->size, file->path, err);
    ht_free(header);
    return rc;
}

/* Adds the file folder/name and its tensors to the end of *d. */
static int add_file(ht_tensor_dir *d, const char *folder, const char *name, ht_error *err)
{
    char path[4096];
    ht_file file;
    ht_tensor_dir part;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return ht_fail(err, -ENAMETOOLONG, "%s: the path is too long", folder);
    int rc = ht_file_open(&file, path, err);
    if (rc < 0) return rc;
    if ((rc = read_header(&part, &file, err)) < 0) {
        ht_file_close(&file);
        return rc;
    }
    rc = ht_tensor_dir_join(d, &part, &file, err);
    if (rc < 0) ht_file_close(&file);
    ht_tensor_dir_close(&part);
    return rc;
}

/* The file number of folder/name, opening it when it is new. */
static int shard_of(ht_tensor_dir *d, const char *folder, const char *name, ht_error *err)
{
    char path[4096];
    if (!*name || strchr(name, '/') || strcmp(name, "..") == 0)
        return ht_fail(err, -EINVAL, "model.safetensors.index.json: \"%.100s\" is no name of a file beside it", name);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return ht_fail(err, -ENAMETOOLONG, "%s: the path is too long", folder);
    for (int32_t i = d->n_files - 1; i >= 0; i--)
        if (strcmp(d->files[i].path, path) == 0) return i;
    if (d->n_files == MAX_SHARDS)
        return ht_fail(err, -EINVAL, "model.safetensors.index.json: names more than %d files", MAX_SHARDS);
    int rc = add_file(d, folder, name, err);
    return rc < 0 ? rc : d->n_files - 1;
}

static int open_shards(ht_tensor_dir *d, const char *folder, const cJSON *map, ht_error *err)
{
    const cJSON *item;
    if (!cJSON_IsObject(map) || !map->child)
        return ht_fail(err, -EINVAL, "model.safetensors.index.json: weight_map is missing or empty");
    cJSON_ArrayForEach(item, map)
    {
        int file = cJSON_IsString(item) ? shard_of(d, folder, item->valuestring, err)
                                        : ht_fail(err, -EINVAL, "model.safetensors.index.json: no file for %s", item->string);
        if (file < 0) return file;
    }
    int rc = build_index(d, folder, err);
    if (rc < 0) return rc;
    cJSON_ArrayForEach(item, map)
    {
        int32_t t = ht_tensor_find(d, item->string);
        if (t < 0 || shard_of(d, folder, item->valuestring, err) != d->tensors[t].file)
            return ht_fail(err, -EINVAL, "%s/%s lacks the tensor %s that model.safetensors.index.json says it has", folder,
                           item->valuestring, item->string);
    }
    return 0;
}

int ht_safetensors_open(ht_tensor_dir *out, const char *folder, ht_error *err)
{
    char path[4096], *text = NULL;
    size_t size = 0;
    ht_error first = {0};
    cJSON *root = NULL;
    *out = (ht_tensor_dir){0};
    int rc = add_file(out, folder, "model.safetensors", &first);
    if (rc == 0) {
        rc = build_index(out, folder, &first);
    } else if (rc == -ENOENT) {
        if (snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder) >= (int)sizeof path)
            rc = ht_fail(&first, -ENAMETOOLONG, "%s: the path is too long", folder);
        else if ((rc = ht_file_slurp(path, MAX_INDEX, &text, &size, &first)) == -ENOENT)
            ht_fail(&first, rc, "%s has neither model.safetensors nor model.safetensors.index.json", folder);
        if (rc == 0) {
            root = ht_json_parse(text, size, MAX_VALUES);
            rc = root ? open_shards(out, folder, cJSON_GetObjectItemCaseSensitive(root, "weight_map"), &first)
                      : ht_fail(&first, -EINVAL, "%s is not sound JSON, or has far too many values", path);
        }
    }
    cJSON_Delete(root);
    ht_free(text);
    if (rc < 0) {
        ht_tensor_dir_close(out);
        if (err) *err = first;
    }
    return rc;
}
