/* Reads job files: finds their lines, and those whose custom_id was there before. */
#include "cli/jobs.h"

#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the file ------------------------------------------------------------------------------------------------- */

/* What cannot be read twice is copied. */
static int spool(cli_jobs *jobs, hearth_error *error)
{
    char *buffer = cli_realloc(NULL, 1 << 20, 1);
    int copy = cli_nameless_file(error), rc = copy;
    while (rc >= 0) {
        ssize_t got = read(jobs->fd, buffer, 1 << 20);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) rc = cli_file_error(error, jobs->name, errno);
        if (got <= 0) break;
        rc = cli_write_file(copy, buffer, (size_t)got);
        if (rc < 0) snprintf(error->text, sizeof error->text, "%s: a copy in $TMPDIR or /tmp: %s", jobs->name, strerror(-rc));
    }
    free(buffer);
    close(jobs->fd);
    jobs->fd = copy;
    return rc < 0 ? rc : 0;
}

static int open_file(cli_jobs *jobs, const char *path, hearth_error *error)
{
    struct stat st;
    bool is_stdin = strcmp(path, "-") == 0;
    jobs->name = is_stdin ? "stdin" : path;
    jobs->fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (jobs->fd < 0 || fstat(jobs->fd, &st) < 0) return cli_file_error(error, jobs->name, errno);
    if (S_ISDIR(st.st_mode)) return cli_file_error(error, jobs->name, EISDIR);
    if (is_stdin || !S_ISREG(st.st_mode)) {
        int rc = spool(jobs, error);
        if (rc < 0) return rc;
        if (fstat(jobs->fd, &st) < 0) return cli_file_error(error, jobs->name, errno);
    }
    jobs->size = (uint64_t)st.st_size;
    jobs->changed_s = st.st_mtim.tv_sec;
    jobs->changed_ns = st.st_mtim.tv_nsec;
    return 0;
}

static int check_unchanged(const cli_jobs *jobs, hearth_error *error)
{
    struct stat st;
    if (fstat(jobs->fd, &st) < 0) return cli_file_error(error, jobs->name, errno);
    if ((uint64_t)st.st_size == jobs->size && st.st_mtim.tv_sec == jobs->changed_s && st.st_mtim.tv_nsec == jobs->changed_ns)
        return 0;
    return cli_error(error, ESTALE, "%s: it was written to while its lines were being answered", jobs->name);
}

/* ---- the index ------------------------------------------------------------------------------------------------ */

/* Which custom_ids have been seen: hashes of 128 bits stand for them. */
typedef struct seen {
    cli_hash *hash;      /* [room], by line; zero: the line has none */
    uint32_t *slot;      /* [slots]: index of a line + 1, 0: free */
    uint64_t slots, used;
    int64_t room;
} seen;

typedef struct indexer {
    cli_jobs *jobs;
    cli_request_rules rules;
    const char *format;
    seen seen;
    int64_t room;
    cli_text line;       /* of the line in work, its first `most` + 1 bytes */
    uint64_t at, bytes;
    uint64_t number;
} indexer;

static void seen_place(seen *s, uint32_t index)
{
    uint64_t i = s->hash[index].low & (s->slots - 1);
    while (s->slot[i]) i = (i + 1) & (s->slots - 1);
    s->slot[i] = index + 1;
}

/* The line that has this id already, or -1; it is line `index`'s then. */
static int64_t seen_add(seen *s, int64_t index, const char *id)
{
    if (2 * (s->used + 1) > s->slots) {
        uint64_t n = s->slots ? 2 * s->slots : 1024;
        uint32_t *old = s->slot;
        uint64_t n_old = s->slots;
        s->slot = memset(cli_realloc(NULL, n, sizeof *s->slot), 0, n * sizeof *s->slot);
        s->slots = n;
        for (uint64_t i = 0; i < n_old; i++)
            if (old[i]) seen_place(s, old[i] - 1);
        free(old);
    }
    cli_hash hash = cli_hash_more(CLI_HASH_START, id, strlen(id));
    uint64_t i = hash.low & (s->slots - 1);
    for (; s->slot[i]; i = (i + 1) & (s->slots - 1))
        if (cli_hash_equal(s->hash[s->slot[i] - 1], hash)) return s->slot[i] - 1;
    if (index >= s->room) {
        s->room = 2 * index + 1024;
        s->hash = cli_realloc(s->hash, (size_t)s->room, sizeof *s->hash);
    }
    s->hash[index] = hash;
    s->slot[i] = (uint32_t)index + 1;
    s->used++;
    return -1;
}

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

static int end_line(indexer *x, hearth_error *error)
{
    cli_jobs *jobs = x->jobs;
    cli_text *line = &x->line;
    x->number++;
    if (x->bytes <= jobs->most && line->size && line->data[line->size - 1] == '\r') line->size--, x->bytes--;
    if (x->number == 1 && line->size >= 3 && memcmp(line->data, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        memmove(line->data, line->data + 3, line->size -= 3);
        x->at += 3, x->bytes -= 3;
    }
    if (x->bytes <= jobs->most && is_blank(line->data, line->size)) return 0;
    if (jobs->n == 0) {
        jobs->text = strcmp(x->format, "text") == 0 ||
                     (strcmp(x->format, "auto") == 0 && line->data[strspn(line->data, " \t")] != '{');
        x->rules.text = jobs->text;
    }
    if (x->number >= UINT32_MAX) return cli_error(error, EFBIG, "%s: more than 4,294,967,294 lines", jobs->name);
    if (jobs->n == x->room) {
        x->room = 2 * x->room + 1024;
        jobs->line = cli_realloc(jobs->line, (size_t)x->room, sizeof *jobs->line);
    }
    cli_job_line *out = &jobs->line[jobs->n];
    *out = (cli_job_line){.at = x->at, .bytes = x->bytes > jobs->most ? UINT32_MAX : (uint32_t)x->bytes,
                          .number = (uint32_t)x->number};
    cli_request request = {0};
    cli_refusal why;
    bool refused = x->bytes > jobs->most;
    if (!refused) {
        refused = cli_request_parse(&request, &x->rules, line->data, line->size, &why) < 0;
        int64_t twin = request.custom_id ? seen_add(&x->seen, jobs->n, request.custom_id) : -1;
        if (twin >= 0) out->twin = jobs->line[twin].number;
        refused |= twin >= 0;
        cli_request_free(&request);
    }
    jobs->n_refused += refused;
    jobs->n++;
    return 0;
}

static void take_bytes(indexer *x, const char *bytes, size_t n)
{
    size_t room = (size_t)x->jobs->most + 1 - x->line.size;
    cli_text_add(&x->line, bytes, n < room ? n : room);
    x->bytes += n;
}

static int index_block(indexer *x, uint64_t at, const char *block, size_t n, hearth_error *error)
{
    while (n) {
        const char *end = memchr(block, '\n', n);
        size_t take = end ? (size_t)(end - block) : n;
        take_bytes(x, block, take);
        if (!end) return 0;
        int rc = end_line(x, error);
        if (rc < 0) return rc;
        block += take + 1;
        n -= take + 1;
        at += take + 1;
        x->at = at;
        x->bytes = 0;
        x->line.size = 0;
    }
    return 0;
}

static int index_file(indexer *x, void (*progress)(uint64_t done, uint64_t size), hearth_error *error)
{
    enum { BLOCK = 1 << 20 };
    cli_jobs *jobs = x->jobs;
    char *block = cli_realloc(NULL, BLOCK, 1);
    uint64_t at = 0;
    int rc = 0;
    jobs->hash = CLI_HASH_START;
    cli_text_add(&x->line, "", 0);
    while (rc == 0 && at < jobs->size) {
        ssize_t got = pread(jobs->fd, block, BLOCK, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) rc = cli_file_error(error, jobs->name, errno);
        if (got <= 0) break; /* shorter than it was: check_unchanged says so */
        jobs->hash = cli_hash_more(jobs->hash, block, (size_t)got);
        rc = index_block(x, at, block, (size_t)got, error);
        at += (uint64_t)got;
        if (progress) progress(at, jobs->size);
    }
    if (rc == 0 && x->bytes) rc = end_line(x, error);
    if (rc == 0) rc = check_unchanged(jobs, error);
    free(block);
    return rc;
}

int cli_jobs_open(cli_jobs *out, const cli_jobs_options *options, void (*progress)(uint64_t done, uint64_t size),
                  hearth_error *error)
{
    *out = (cli_jobs){.fd = -1, .most = options->most};
    indexer x = {.jobs = out, .rules = *options->rules, .format = options->format};
    int rc = open_file(out, options->path, error);
    if (rc == 0) rc = index_file(&x, progress, error);
    cli_text_free(&x.line);
    free(x.seen.hash);
    free(x.seen.slot);
    if (rc < 0) cli_jobs_close(out);
    return rc;
}

void cli_jobs_close(cli_jobs *jobs)
{
    if (jobs->fd >= 0 && jobs->name) close(jobs->fd);
    free(jobs->line);
    *jobs = (cli_jobs){.fd = -1};
}

void cli_jobs_shard(const cli_jobs *jobs, int64_t shard, int64_t shards, int64_t *begin, int64_t *end)
{
    *begin = (int64_t)((__int128)jobs->n * (shard - 1) / shards);
    *end = (int64_t)((__int128)jobs->n * shard / shards);
}

/* ---- lines ---------------------------------------------------------------------------------------------------- */

static int read_line(const cli_jobs *jobs, const cli_job_line *line, cli_text *out, hearth_error *error)
{
    if (out->room <= line->bytes) {
        out->room = (size_t)line->bytes + 1;
        out->data = cli_realloc(out->data, out->room, 1);
    }
    int64_t got = cli_read_file_at(jobs->fd, out->data, line->bytes, line->at);
    if (got < 0) return cli_file_error(error, jobs->name, (int)-got);
    if (got < (int64_t)line->bytes) return cli_error(error, ESTALE, "%s: it has become shorter", jobs->name);
    out->size = line->bytes;
    out->data[out->size] = '\0';
    return 0;
}

int cli_jobs_parse(const cli_jobs *jobs, int64_t i, const cli_request_rules *rules, cli_text *buffer, cli_request *out,
                   cli_refusal *why, hearth_error *error)
{
    const cli_job_line *line = &jobs->line[i];
    *out = (cli_request){0};
    int rc = check_unchanged(jobs, error);
    if (rc < 0) return rc;
    if (line->bytes == UINT32_MAX) {
        cli_refuse(why, 0, "line_too_long", NULL, "more than %u bytes (--max-line)", jobs->most);
        return 0;
    }
    rc = read_line(jobs, line, buffer, error);
    if (rc < 0) return rc;
    if (cli_request_parse(out, rules, buffer->data, buffer->size, why) < 0) return 0;
    if (line->twin) {
        cli_refuse(why, 0, "duplicate_custom_id", "custom_id", "line %u has the same custom_id", line->twin);
        return 0;
    }
    return 1;
}
