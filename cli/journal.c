/* Journal and output of a batch job. Every function leaves the files in a state that can be resumed, wherever it is
 * interrupted. */
#include "cli/journal.h"

#include "cli/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FORMAT = 1,
    SLACK = 64 << 20,
    COPY_BYTES = 1 << 16,
};
/* The disk is waited for at most every second, and a fiftieth of the time. */
static const double sync_seconds = 1, sync_share = 0.02;
#define MAGIC 0x314c4e524a485248u /* "HRHJRNL1": another byte order is another magic */

typedef struct head {
    uint64_t magic, checksum; /* of what follows, up to the end of the binding */
    uint32_t format, binding; /* bytes of text behind this */
} head;

enum { RECORD_LINE = 1, RECORD_ERROR = 2, RECORD_BASE = 3 };

/* Followed by `bytes` of a line. */
typedef struct record {
    uint64_t checksum; /* of what follows, the line included */
    uint64_t line;
    uint32_t kind, bytes;
} record;

/* Behind the record of RECORD_BASE: the output's first lines, which have no records any more. */
typedef struct base {
    uint64_t lines, bytes, errors;
    cli_hash hash;
} base;

struct cli_journal {
    char *output, *path, *next;  /* names of the output, the journal, and of one that is being written; owned */
    bool kept;                   /* the output is a file, the journal has a name */
    bool begun, made;            /* something may be in them; the output was not there before */
    int out, fd;                 /* owned, but out when it is stdout */
    char *binding;               /* owned */
    int64_t lines;
    uint64_t *place;             /* [lines], owned: where a line's record is in the journal; 0: nowhere */
    bool *is_error;              /* [lines], owned: what a line with a place is */
    int64_t released;            /* lines [0, released) are in the output */
    int64_t released_errors;
    uint64_t out_bytes;
    cli_hash out_hash;
    uint64_t tail, synced;       /* bytes of the journal, and those of them that the disk has for sure */
    bool unsure;                 /* a sync failed: a later one may succeed without what this one was about */
    uint64_t waiting;            /* bytes of records not released */
    uint64_t dropped, slack;
    double synced_at, sync_took;
    cli_text line;               /* scratch: a record */
};

static char *join(const char *a, const char *b)
{
    size_t n = strlen(a) + strlen(b) + 1;
    char *s = cli_realloc(NULL, n, 1);
    snprintf(s, n, "%s%s", a, b);
    return s;
}

bool cli_journal_is_kept(const cli_journal *j) { return j->kept; }
bool cli_journal_has(const cli_journal *j, int64_t line) { return line < j->released || j->place[line]; }
int64_t cli_journal_released(const cli_journal *j) { return j->released; }
uint64_t cli_journal_dropped(const cli_journal *j) { return j->dropped; }
void cli_journal_set_slack(cli_journal *j, uint64_t bytes) { j->slack = bytes ? bytes : SLACK; }

int64_t cli_journal_count(const cli_journal *j, int64_t end, int64_t *errors)
{
    int64_t done = j->released;
    *errors = j->released_errors;
    for (int64_t i = j->released; i < end; i++) {
        done += j->place[i] != 0;
        *errors += j->place[i] && j->is_error[i];
    }
    return done;
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

/* Locks what is open, and sees that it still is what the name means: a journal written anew takes its place. Returns 1
 * when it has to be opened again. */
static int lock(const cli_journal *j, int fd, hearth_error *error)
{
    struct stat mine, named;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK) return cli_error(error, EBUSY, "%s: another process is writing it", j->output);
        if (errno != ENOLCK && errno != ENOSYS && errno != EOPNOTSUPP) return cli_file_error(error, j->path, errno);
        cli_note("%s: this file system has no locks: see to it that only one process writes it", j->path);
    }
    if (fstat(fd, &mine) < 0) return cli_file_error(error, j->path, errno);
    if (stat(j->path, &named) < 0) return 1;
    return mine.st_ino != named.st_ino || mine.st_dev != named.st_dev;
}

static int open_kept(cli_journal *j, hearth_error *error)
{
    int rc = 1;
    while (rc == 1) {
        if (j->fd >= 0) close(j->fd);
        j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (j->fd < 0) return cli_file_error(error, j->path, errno);
        rc = lock(j, j->fd, error);
    }
    if (rc < 0) return rc;
    j->made = access(j->output, F_OK) < 0;
    j->out = open(j->output, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return j->out < 0 ? cli_file_error(error, j->output, errno) : 0;
}

int cli_journal_open(cli_journal **out, const char *output, int64_t lines, hearth_error *error)
{
    struct stat st;
    bool is_stdout = strcmp(output, "-") == 0;
    cli_journal *j = memset(cli_realloc(NULL, 1, sizeof *j), 0, sizeof *j);
    j->fd = j->out = -1;
    j->lines = lines;
    j->slack = SLACK;
    j->out_hash = CLI_HASH_START;
    j->place = memset(cli_realloc(NULL, (size_t)lines, sizeof *j->place), 0, (size_t)lines * sizeof *j->place);
    j->is_error = memset(cli_realloc(NULL, (size_t)lines, sizeof *j->is_error), 0, (size_t)lines * sizeof *j->is_error);
    j->output = join(is_stdout ? "stdout" : output, "");
    j->path = join(output, ".journal");
    j->next = join(output, ".journal.new");
    j->kept = !is_stdout && (stat(output, &st) < 0 || S_ISREG(st.st_mode));
    int rc;
    if (j->kept) {
        rc = open_kept(j, error);
    } else {
        j->out = is_stdout ? STDOUT_FILENO : open(output, O_WRONLY | O_CLOEXEC);
        rc = j->out < 0 ? cli_file_error(error, output, errno) : (j->fd = cli_nameless_file(error));
    }
    if (rc < 0) cli_journal_close(&j);
    *out = j;
    return rc < 0 ? rc : 0;
}

void cli_journal_close(cli_journal **journal)
{
    cli_journal *j = *journal;
    if (!j) return;
    struct stat st;
    if (j->kept && j->made && !j->begun && j->out >= 0 && fstat(j->fd, &st) == 0 && st.st_size == 0) {
        unlink(j->output); /* nothing came of it, e.g. the model could not be opened */
        unlink(j->path);
    }
    if (j->fd >= 0) close(j->fd);
    if (j->out >= 0 && j->out != STDOUT_FILENO) close(j->out);
    free(j->output);
    free(j->path);
    free(j->next);
    free(j->binding);
    free(j->place);
    free(j->is_error);
    cli_text_free(&j->line);
    free(j);
    *journal = NULL;
}

/* ---- records -------------------------------------------------------------------------------------------------- */

static uint64_t checksum(const void *all, size_t n)
{
    return cli_hash64((const char *)all + sizeof(uint64_t), n - sizeof(uint64_t), CLI_HASH64_START);
}

/* A record in j->line. */
static void make_record(cli_journal *j, uint32_t kind, uint64_t line, const void *bytes, size_t n)
{
    record r = {.line = line, .kind = kind, .bytes = (uint32_t)n};
    j->line.size = 0;
    cli_text_add(&j->line, (const char *)&r, sizeof r);
    cli_text_add(&j->line, bytes, n);
    uint64_t sum = checksum(j->line.data, j->line.size);
    memcpy(j->line.data, &sum, sizeof sum);
}

/* Reads the record at `at` into j->line, a journal of `size` bytes. 1; 0: there is no whole and sound one. */
static int read_record(cli_journal *j, uint64_t at, uint64_t size, record *out, hearth_error *error)
{
    if (size - at < sizeof *out) return 0;
    int64_t got = cli_read_file_at(j->fd, out, sizeof *out, at);
    if (got < 0) return cli_file_error(error, j->path, (int)-got);
    if (got < (int64_t)sizeof *out || out->bytes > size - at - sizeof *out) return 0;
    j->line.size = 0;
    cli_text_add(&j->line, (const char *)out, sizeof *out);
    if (j->line.room <= sizeof *out + out->bytes) {
        j->line.room = sizeof *out + out->bytes + 1;
        j->line.data = cli_realloc(j->line.data, j->line.room, 1);
    }
    got = cli_read_file_at(j->fd, j->line.data + sizeof *out, out->bytes, at + sizeof *out);
    if (got < 0) return cli_file_error(error, j->path, (int)-got);
    j->line.size = sizeof *out + out->bytes;
    return got == (int64_t)out->bytes && checksum(j->line.data, j->line.size) == out->checksum;
}

static int append(cli_journal *j, hearth_error *error)
{
    int rc = cli_write_file_at(j->fd, j->line.data, j->line.size, j->tail);
    if (rc == 0) {
        j->tail += j->line.size;
        return 0;
    }
    int failed = ftruncate(j->fd, (off_t)j->tail); /* the room may be wanted */
    (void)failed;                                  /* and if not, the torn end is seen later */
    return cli_file_error(error, j->path, -rc);
}

static int sync_file(int fd, const char *name, hearth_error *error)
{
    /* Not all that is a file can be synced. */
    return fdatasync(fd) == 0 || errno == EINVAL || errno == EROFS ? 0 : cli_file_error(error, name, errno);
}

/* The kernel says once that it could not write, and forgets what it was: after that no sync proves anything. */
static int sync_records(cli_journal *j, hearth_error *error)
{
    int rc = j->unsure ? cli_file_error(error, j->path, EIO) : sync_file(j->fd, j->path, error);
    j->unsure = rc < 0;
    return rc;
}

static int sync_folder(const cli_journal *j, hearth_error *error)
{
    char *folder = join(j->path, "");
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL) rc = cli_file_error(error, folder, errno);
    if (fd >= 0) close(fd);
    free(folder);
    return rc;
}

/* ---- beginning ------------------------------------------------------------------------------------------------ */

static int write_head(cli_journal *j, hearth_error *error)
{
    head h = {.magic = MAGIC, .format = FORMAT, .binding = (uint32_t)strlen(j->binding)};
    cli_text all = {0};
    cli_text_add(&all, (const char *)&h, sizeof h);
    cli_text_add(&all, j->binding, h.binding);
    h.checksum = cli_hash64(all.data + offsetof(head, format), all.size - offsetof(head, format), CLI_HASH64_START);
    memcpy(all.data, &h, sizeof h);
    int rc = cli_write_file_at(j->fd, all.data, all.size, 0);
    j->tail = all.size;
    cli_text_free(&all);
    return rc < 0 ? cli_file_error(error, j->path, -rc) : 0;
}

static int begin_anew(cli_journal *j, hearth_error *error)
{
    if (j->kept && (ftruncate(j->fd, 0) < 0 || ftruncate(j->out, 0) < 0)) return cli_file_error(error, j->output, errno);
    int rc = write_head(j, error);
    if (rc == 0 && j->kept) rc = sync_file(j->fd, j->path, error);
    if (rc == 0 && j->kept) rc = sync_folder(j, error);
    j->synced = j->tail;
    return rc;
}

/* The value of line `name=` (its length `n`) in a binding, or NULL. */
static const char *find_value(const char *binding, const char *name, size_t n, size_t *length)
{
    for (const char *line = binding; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strncmp(line, name, n) == 0 && line[n] == '=') {
            *length = strcspn(line + n + 1, "\n");
            return line + n + 1;
        }
    return NULL;
}

/* What differs: "seed was 1, is 2; ...". */
static int other_binding(const cli_journal *j, const char *old, hearth_error *error)
{
    char what[320] = "";
    size_t used = 0;
    for (const char *line = j->binding; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t n = strcspn(line, "="), is_n = strcspn(line + n + 1, "\n"), was_n = 0;
        const char *is = line + n + 1, *was = find_value(old, line, n, &was_n);
        if (was && was_n == is_n && memcmp(was, is, is_n) == 0) continue;
        if (used < sizeof what)
            used += (size_t)snprintf(what + used, sizeof what - used, "%s%.*s was %.*s, is %.*s", used ? "; " : "", (int)n, line,
                                     was ? (int)was_n : 6, was ? was : "not so", (int)is_n, is);
    }
    return cli_error(error, EEXIST, "%.100s was begun by another job: %s. --restart gives up what is done", j->output,
                     used ? what : "its settings differ");
}

/* 0: what is there begins as a journal, or holds zeros alone: what a power cut may leave of one that was never synced. */
static int is_foreign(cli_journal *j, hearth_error *error)
{
    static const char zero[4096];
    char buffer[sizeof zero];
    uint64_t magic = MAGIC, at = 0;
    int64_t got = cli_read_file_at(j->fd, buffer, sizeof buffer, 0);
    if (got > 0 && memcmp(buffer, &magic, got < 8 ? (size_t)got : 8) == 0) return 0;
    while (got > 0 && memcmp(buffer, zero, (size_t)got) == 0)
        got = cli_read_file_at(j->fd, buffer, sizeof buffer, at += (uint64_t)got);
    if (got < 0) return cli_file_error(error, j->path, (int)-got);
    return got == 0 ? 0 : cli_error(error, EEXIST, "%s is there, and is no journal of a batch job", j->path);
}

/* Compares the head. 1: it is ours; 0: there was not even a whole one. */
static int check_head(cli_journal *j, uint64_t size, hearth_error *error)
{
    head h = {0};
    int rc = is_foreign(j, error);
    if (rc < 0) return rc;
    int64_t got = cli_read_file_at(j->fd, &h, sizeof h, 0);
    if (got < 0) return cli_file_error(error, j->path, (int)-got);
    if (size < sizeof h || h.magic == 0 || h.binding > size - sizeof h) return 0;
    if (h.format != FORMAT) return cli_error(error, EEXIST, "%.200s is of another version of hearth: --restart gives up what is done", j->path);
    char *old = memset(cli_realloc(NULL, (size_t)h.binding + 1, 1), 0, (size_t)h.binding + 1);
    got = cli_read_file_at(j->fd, old, h.binding, sizeof h);
    uint64_t sum = cli_hash64(&h.format, sizeof h - offsetof(head, format), CLI_HASH64_START);
    rc = 1;
    if (got < 0) rc = cli_file_error(error, j->path, (int)-got);
    else if (cli_hash64(old, h.binding, sum) != h.checksum) rc = 0;
    else if (strcmp(old, j->binding) != 0) rc = other_binding(j, old, error);
    j->tail = sizeof h + h.binding;
    free(old);
    return rc;
}

/* The output's first bytes must be what they were. */
static int check_base(cli_journal *j, const base *b, hearth_error *error)
{
    char *buffer = cli_realloc(NULL, COPY_BYTES, 1);
    cli_hash hash = CLI_HASH_START;
    int64_t got = 1;
    uint64_t at = 0;
    while (at < b->bytes && got > 0) {
        got = cli_read_file_at(j->out, buffer, b->bytes - at < COPY_BYTES ? (size_t)(b->bytes - at) : COPY_BYTES, at);
        if (got > 0) hash = cli_hash_more(hash, buffer, (size_t)got);
        if (got > 0) at += (uint64_t)got;
    }
    free(buffer);
    if (got < 0) return cli_file_error(error, j->output, (int)-got);
    if (at < b->bytes || !cli_hash_equal(hash, b->hash) || b->lines > (uint64_t)j->lines)
        return cli_error(error, EEXIST, "%.200s is not what it was: its first %llu bytes have been changed or are gone. --restart gives "
                         "up what is done", j->output, (unsigned long long)b->bytes);
    j->released = (int64_t)b->lines;
    j->released_errors = (int64_t)b->errors;
    j->out_bytes = b->bytes;
    j->out_hash = hash;
    return 0;
}

static int read_records(cli_journal *j, uint64_t size, hearth_error *error)
{
    record r;
    int rc;
    for (bool first = true; (rc = read_record(j, j->tail, size, &r, error)) > 0; first = false) {
        if (r.kind == RECORD_BASE && first && r.bytes == sizeof(base)) {
            base b;
            memcpy(&b, j->line.data + sizeof r, sizeof b);
            if ((rc = check_base(j, &b, error)) < 0) return rc;
        } else if ((r.kind != RECORD_LINE && r.kind != RECORD_ERROR) || r.line >= (uint64_t)j->lines) {
            break;
        } else if (!cli_journal_has(j, (int64_t)r.line)) {
            j->place[r.line] = j->tail;
            j->waiting += sizeof r + r.bytes;
            j->is_error[r.line] = r.kind == RECORD_ERROR;
        }
        j->tail += sizeof r + r.bytes;
    }
    if (rc < 0) return rc;
    j->dropped = size - j->tail;
    return ftruncate(j->fd, (off_t)j->tail) < 0 ? cli_file_error(error, j->path, errno) : 0;
}

/* Marks line `released` as being in the output, its record in j->line. */
static void count_released(cli_journal *j, const record *r)
{
    j->out_hash = cli_hash_more(j->out_hash, j->line.data + sizeof *r, r->bytes);
    j->out_bytes += r->bytes;
    j->waiting -= sizeof *r + r->bytes;
    j->released_errors += r->kind == RECORD_ERROR;
    j->released++;
}

/* How many bytes of the output from `at` on are the same; *zero: those behind them are all zero, as a disk leaves them
 * that lost its power. */
static int64_t compare_output(cli_journal *j, const char *bytes, size_t n, uint64_t at, bool *zero, hearth_error *error)
{
    char buffer[4096];
    size_t same = 0;
    *zero = true;
    for (bool differs = false;;) {
        int64_t got = cli_read_file_at(j->out, buffer, sizeof buffer, at);
        if (got < 0) return cli_file_error(error, j->output, (int)-got);
        for (int64_t i = 0; i < got; i++) {
            if (!differs && same < n && buffer[i] == bytes[same]) {
                same++;
            } else {
                if (same == n) return (int64_t)same;
                differs = true;
                *zero &= buffer[i] == 0;
            }
        }
        if (got < (int64_t)sizeof buffer || !*zero) return (int64_t)same;
        at += (uint64_t)got;
    }
}

/* Finds how far the output has got, and cuts off a line that was not written to its end. */
static int check_output(cli_journal *j, hearth_error *error)
{
    struct stat st;
    record r = {0};
    bool zero = true;
    if (fstat(j->out, &st) < 0) return cli_file_error(error, j->output, errno);
    while (j->released < j->lines && j->out_bytes < (uint64_t)st.st_size) {
        bool known = j->place[j->released] != 0;
        int rc = known ? read_record(j, j->place[j->released], j->tail, &r, error) : 0;
        if (rc < 0) return rc;
        int64_t same = compare_output(j, rc ? j->line.data + sizeof r : "", rc ? r.bytes : 0, j->out_bytes, &zero, error);
        if (same < 0) return (int)same;
        if (!rc || same < (int64_t)r.bytes) {
            if (!rc) zero = false;
            break;
        }
        count_released(j, &r);
    }
    if (j->out_bytes < (uint64_t)st.st_size && (!zero || j->released == j->lines))
        return cli_error(error, EEXIST, "%.200s has been changed: what follows byte %llu is not known to its journal. Cut it off "
                         "there, or give up what is done by --restart", j->output, (unsigned long long)j->out_bytes);
    return ftruncate(j->out, (off_t)j->out_bytes) < 0 ? cli_file_error(error, j->output, errno) : 0;
}

int cli_journal_begin(cli_journal *j, const char *binding, bool restart, hearth_error *error)
{
    struct stat st, out;
    j->binding = join(binding, "");
    j->synced_at = cli_now();
    j->begun = true;
    if (j->kept) unlink(j->next); /* of a process that was ended while it wrote it */
    if (!j->kept) return begin_anew(j, error);
    if (fstat(j->fd, &st) < 0 || fstat(j->out, &out) < 0) return cli_file_error(error, j->output, errno);
    if (restart) return is_foreign(j, error) < 0 ? error->code : begin_anew(j, error);
    int rc = st.st_size ? check_head(j, (uint64_t)st.st_size, error) : 0;
    if (rc < 0) return rc;
    if (rc == 0 && out.st_size > 0) {
        if (st.st_size == 0) unlink(j->path);
        return cli_error(error, EEXIST, "%.200s is there already, without a journal to go on by: --restart overwrites it", j->output);
    }
    if (rc == 0) return begin_anew(j, error);
    rc = read_records(j, (uint64_t)st.st_size, error);
    if (rc == 0) rc = check_output(j, error);
    if (rc == 0) rc = cli_journal_sync(j, true, error);
    return rc;
}

/* ---- going on ------------------------------------------------------------------------------------------------- */

int cli_journal_add(cli_journal *j, int64_t line, const char *bytes, size_t n, bool is_error, hearth_error *error)
{
    if (n > UINT32_MAX - sizeof(record)) return cli_error(error, EFBIG, "a result of %zu bytes", n);
    make_record(j, is_error ? RECORD_ERROR : RECORD_LINE, (uint64_t)line, bytes, n);
    uint64_t at = j->tail;
    int rc = append(j, error);
    if (rc < 0) return rc;
    j->place[line] = at;
    j->waiting += j->line.size;
    j->is_error[line] = is_error;
    return 0;
}

/* Writes to the output what the disk has records of, as far as no line is missing. */
static int release(cli_journal *j, hearth_error *error)
{
    while (j->released < j->lines) {
        uint64_t at = j->place[j->released];
        record r;
        if (!at || at >= j->synced) break;
        int rc = read_record(j, at, j->tail, &r, error);
        if (rc == 0) rc = cli_error(error, EIO, "%s: the record at byte %llu has been changed", j->path, (unsigned long long)at);
        if (rc < 0) return rc;
        rc = j->kept ? cli_write_file_at(j->out, j->line.data + sizeof r, r.bytes, j->out_bytes)
                     : cli_write_file(j->out, j->line.data + sizeof r, r.bytes);
        if (rc < 0) {
            int failed = j->kept ? ftruncate(j->out, (off_t)j->out_bytes) : 0;
            (void)failed; /* a line in parts is cut off when the job goes on */
            return cli_file_error(error, j->output, -rc);
        }
        count_released(j, &r);
    }
    return 0;
}

/* The journal's new contents: base, and the records that wait. `j` becomes that of the new file. */
static int copy_waiting(cli_journal *j, int from, hearth_error *error)
{
    base b = {(uint64_t)j->released, j->out_bytes, (uint64_t)j->released_errors, j->out_hash};
    int to = j->fd;
    int rc = write_head(j, error);
    make_record(j, RECORD_BASE, 0, &b, sizeof b);
    if (rc == 0) rc = append(j, error);
    for (int64_t i = j->released; i < j->lines && rc == 0; i++) {
        record r;
        if (!j->place[i]) continue;
        j->fd = from;
        rc = read_record(j, j->place[i], UINT64_MAX, &r, error);
        j->fd = to;
        if (rc == 0) rc = cli_error(error, EIO, "%s: the record at byte %llu has been changed", j->path, (unsigned long long)j->place[i]);
        if (rc < 0) break;
        j->place[i] = j->tail;
        rc = append(j, error);
    }
    return rc;
}

/* Writes the journal anew. A failure leaves the old one, and is 0: there is time for it later. */
static int compact(cli_journal *j, hearth_error *error)
{
    int rc = j->kept ? sync_file(j->out, j->output, error) : 0;
    if (rc < 0) return rc;
    cli_journal old = *j;
    size_t bytes = (size_t)j->lines * sizeof *j->place;
    j->place = memcpy(cli_realloc(NULL, (size_t)j->lines, sizeof *j->place), old.place, bytes);
    j->fd = j->kept ? open(j->next, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : cli_nameless_file(error);
    rc = j->fd < 0 ? -EIO : copy_waiting(j, old.fd, error);
    if (rc == 0 && j->kept) {
        rc = sync_file(j->fd, j->next, error);
        if (rc == 0) rc = flock(j->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK ? -EBUSY : 0;
        if (rc == 0) rc = rename(j->next, j->path) < 0 ? -errno : 0;
        hearth_error other = {0};
        if (rc == 0) sync_folder(j, &other); /* until then the old one may come back, which is whole, too */
    }
    if (rc == 0) {
        j->synced = j->tail;
        close(old.fd);
        free(old.place);
        return 0;
    }
    if (j->fd >= 0) close(j->fd);
    if (j->kept) unlink(j->next);
    free(j->place);
    j->place = old.place;
    j->fd = old.fd;
    j->tail = old.tail;
    j->slack *= 2;
    return 0;
}

int cli_journal_sync(cli_journal *j, bool now, hearth_error *error)
{
    double time = cli_now();
    double since = time - j->synced_at;
    if (j->kept && !now && (since < sync_seconds || since * sync_share < j->sync_took)) return 0;
    if (j->synced < j->tail && j->kept) {
        int rc = sync_records(j, error);
        if (rc < 0) return rc;
        j->sync_took = cli_now() - time;
    }
    j->synced_at = time;
    j->synced = j->tail;
    int rc = release(j, error);
    if (rc == 0 && j->tail - j->waiting > j->slack && j->tail > 2 * j->waiting) rc = compact(j, error);
    return rc;
}

int cli_journal_finish(cli_journal *j, hearth_error *error)
{
    int rc = cli_journal_sync(j, true, error);
    if (rc == 0 && j->kept) rc = sync_file(j->out, j->output, error);
    if (rc == 0 && j->kept && j->waiting == 0) rc = compact(j, error);
    return rc;
}
