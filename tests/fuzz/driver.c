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

static void run(fuzzer *f, const uint8_t *data, size_t size)
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

/* A few edits: flips, interesting values, cuts, doubled and moved stretches. Every run i is a function of the seed. */
static size_t mutate(const fuzzer *f, uint64_t i, uint8_t *out)
{
    static const uint64_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                           INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 31, 1ull << 32, 1ull << 61};
    uint32_t draw = 0;
#define PICK(n) ((size_t)(ht_random_uniform(f->random_seed, 0, i, draw++) * (double)(n)))
    const seed *s = &f->seeds[PICK(f->n_seeds)];
    size_t size = s->size < f->max_len ? s->size : f->max_len;
    memcpy(out, s->data, size);
    /* Half of the edits fall into the first 512 bytes: headers are where lies do harm. */
#define PLACE() (PICK(2) && size > 512 ? PICK(512) : PICK(size))
    for (size_t edits = 1 + PICK(8); edits > 0; edits--) {
        size_t kind = size ? PICK(6) : 5;
        if (kind == 0) {
            out[PLACE()] ^= (uint8_t)(1u << PICK(8));
        } else if (kind == 1) {
            out[PLACE()] = (uint8_t)PICK(256);
        } else if (kind == 2) {
            size_t at = PLACE(), width = (size_t)1 << PICK(4);
            uint64_t v = interesting[PICK(sizeof interesting / sizeof *interesting)];
            memcpy(out + at, &v, width < size - at ? width : size - at);
        } else if (kind == 3) {
            size = PICK(size + 1);
        } else if (kind == 4) {
            size_t from = PLACE(), to = PLACE(), n = PICK(64);
            if (n > size - from) n = size - from;
            if (n > size - to) n = size - to;
            memmove(out + to, out + from, n);
        } else {
            for (size_t n = PICK(32); n > 0 && size < f->max_len; n--) out[size++] = (uint8_t)PICK(256);
        }
    }
#undef PICK
#undef PLACE
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

    for (size_t i = 0; i < f.n_seeds; i++) run(&f, f.seeds[i].data, f.seeds[i].size);
    uint8_t *scratch = malloc(f.max_len + 1);
    if (!scratch) return 1;
    double end = ht_now() + f.seconds;
    for (uint64_t i = 0; ht_now() < end; i++) {
        size_t size = mutate(&f, i, scratch);
        uint8_t *exact = malloc(size ? size : 1); /* of just this size, so that ASan sees a read past it */
        if (!exact) return 1;
        memcpy(exact, scratch, size);
        run(&f, exact, size);
        free(exact);
    }
    printf("%llu runs from %zu seeds, no fault\n", (unsigned long long)f.runs, f.n_seeds);
    for (size_t i = 0; i < f.n_seeds; i++) free(f.seeds[i].data);
    free(f.seeds);
    free(scratch);
    return 0;
}
