/* Stands in for libFuzzer where clang is missing: runs the seeds, then seeded random mutations of them for a while.
 * Blind (no coverage), but under the sanitizers it finds the shallow faults. It takes libFuzzer's command line as far
 * as our tests use it: -max_total_time= -seed= -max_len= -timeout= -artifact_prefix=, files and folders of seeds. */
#include "tests/fuzz/fuzz.h"

#include "core/base/random.h"
#include "core/base/threads.h"

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct seed {
    uint8_t *data; /* owned */
    size_t size;
} seed;

typedef struct fuzzer {
    seed *seeds; /* owned */
    size_t n_seeds;
    double seconds;
    uint64_t random_seed, runs;
    size_t max_len;
    unsigned timeout;
} fuzzer;

/* The input in progress, for the handler that saves it when the program dies. */
static const uint8_t *current;
static size_t current_size;
static char artifact[4096] = "crash-input";

static void save_current(void)
{
    FILE *f = fopen(artifact, "wb");
    if (!f) return;
    fwrite(current, 1, current_size, f);
    fclose(f);
    fprintf(stderr, "the input is in %s (%zu bytes)\n", artifact, current_size);
}

static void on_death(int number)
{
    if (number == SIGALRM) fprintf(stderr, "an input takes too long\n");
    save_current(); /* not async-signal-safe, but the program is dead anyway */
    _exit(77);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void run_one(fuzzer *f, const uint8_t *data, size_t size)
{
    current = data;
    current_size = size;
    alarm(f->timeout);
    LLVMFuzzerTestOneInput(data, size);
    alarm(0);
    f->runs++;
}

static void add_path(fuzzer *f, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) return;
    if (S_ISDIR(st.st_mode)) {
        DIR *folder = opendir(path);
        for (struct dirent *e; folder && (e = readdir(folder));) {
            char inner[4096];
            snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
            if (e->d_name[0] != '.') add_path(f, inner);
        }
        if (folder) closedir(folder);
        return;
    }
    FILE *file = fopen(path, "rb");
    seed s = {.data = malloc((size_t)st.st_size + 1)};
    if (file && s.data) s.size = fread(s.data, 1, (size_t)st.st_size, file);
    if (file) fclose(file);
    seed *more = realloc(f->seeds, (f->n_seeds + 1) * sizeof *more);
    if (!s.data || !more) abort();
    f->seeds = more;
    f->seeds[f->n_seeds++] = s;
}

/* Random choices of one run: every run i is a function of the seed. */
typedef struct chance {
    uint64_t seed, run;
    uint32_t draw;
} chance;

static size_t pick(chance *c, size_t n)
{
    return (size_t)(ht_random_uniform(c->seed, 0, c->run, c->draw++) * (double)n);
}

/* Half of the edits fall into the first 512 bytes: headers are where lies do harm. */
static size_t place(chance *c, size_t size)
{
    return pick(c, size > 512 && pick(c, 2) ? 512 : size);
}

/* One edit: a flipped bit, a byte, an interesting value, a cut, a moved stretch, or more bytes. Returns the size. */
static size_t edit(chance *c, uint8_t *out, size_t size, size_t max_len)
{
    static const uint64_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                           INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 31, 1ull << 32, 1ull << 61};
    size_t kind = size ? pick(c, 6) : 5;
    if (kind == 3) return pick(c, size + 1);
    if (kind == 5) {
        for (size_t n = pick(c, 32); n > 0 && size < max_len; n--) out[size++] = (uint8_t)pick(c, 256);
        return size;
    }
    size_t at = place(c, size);
    if (kind == 0) {
        out[at] ^= (uint8_t)(1u << pick(c, 8));
    } else if (kind == 1) {
        out[at] = (uint8_t)pick(c, 256);
    } else if (kind == 2) {
        size_t width = (size_t)1 << pick(c, 4);
        uint64_t v = interesting[pick(c, sizeof interesting / sizeof *interesting)];
        memcpy(out + at, &v, width < size - at ? width : size - at);
    } else {
        size_t to = place(c, size), n = pick(c, 64);
        if (n > size - at) n = size - at;
        if (n > size - to) n = size - to;
        memmove(out + to, out + at, n);
    }
    return size;
}

static size_t mutate(const fuzzer *f, uint64_t run, uint8_t *out)
{
    chance c = {.seed = f->random_seed, .run = run};
    const seed *s = &f->seeds[pick(&c, f->n_seeds)];
    size_t size = s->size < f->max_len ? s->size : f->max_len;
    memcpy(out, s->data, size);
    for (size_t edits = 1 + pick(&c, 8); edits > 0; edits--) size = edit(&c, out, size, f->max_len);
    return size;
}

int main(int argc, char **argv)
{
    fuzzer f = {.seconds = 10, .random_seed = 1, .max_len = 65536, .timeout = 10};
    for (int i = 1; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        if (argv[i][0] != '-') {
            add_path(&f, argv[i]);
        } else if (!value) {
            fprintf(stderr, "unknown flag %s\n", argv[i]);
            return 2;
        } else if (strncmp(argv[i], "-max_total_time=", 16) == 0) {
            f.seconds = atof(value + 1);
        } else if (strncmp(argv[i], "-seed=", 6) == 0) {
            f.random_seed = strtoull(value + 1, NULL, 10);
        } else if (strncmp(argv[i], "-max_len=", 9) == 0) {
            f.max_len = strtoull(value + 1, NULL, 10);
        } else if (strncmp(argv[i], "-timeout=", 9) == 0) {
            f.timeout = (unsigned)atoi(value + 1);
        } else if (strncmp(argv[i], "-artifact_prefix=", 17) == 0) {
            snprintf(artifact, sizeof artifact, "%scrash-input", value + 1);
        }
    }
    if (f.n_seeds == 0) add_path(&f, "/dev/null"); /* one empty seed */
    static const int deaths[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) signal(deaths[i], on_death);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(save_current);

    for (size_t i = 0; i < f.n_seeds; i++) run_one(&f, f.seeds[i].data, f.seeds[i].size);
    uint8_t *scratch = malloc(f.max_len + 1);
    if (!scratch) return 1;
    double end = ht_now() + f.seconds;
    for (uint64_t i = 0; ht_now() < end; i++) {
        size_t size = mutate(&f, i, scratch);
        uint8_t *exact = malloc(size ? size : 1); /* of just this size, so that ASan sees a read past it */
        if (!exact) return 1;
        memcpy(exact, scratch, size);
        run_one(&f, exact, size);
        free(exact);
    }
    printf("%llu runs from %zu seeds, no fault\n", (unsigned long long)f.runs, f.n_seeds);
    for (size_t i = 0; i < f.n_seeds; i++) free(f.seeds[i].data);
    free(f.seeds);
    free(scratch);
    return 0;
}
