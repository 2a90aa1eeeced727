/* Who may include whom (docs/architecture.md): read from the sources themselves.
 *
 * A source belongs to the part that its folder names. Inside core: base <- model <- ports <- engine. cpu, gpu, offload
 * and predictor know core up to its ports, and not each other. api knows core and hearth.h, cli knows hearth.h. hearth.c
 * knows everybody. Includes name files from the root, so that none can hide behind a relative path. CUDA stays in gpu,
 * io_uring in offload. */
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_REPORT = 8192 };

typedef struct part {
    const char *folder;
    const char *may[7]; /* prefixes of what it may include, beside itself */
} part;

static const part parts[] = {
    {"core/base/", {NULL}},
    {"core/model/", {"core/base/"}},
    {"core/ports/", {"core/base/", "core/model/"}},
    {"core/engine/", {"core/base/", "core/model/", "core/ports/"}},
    {"cpu/", {"core/base/", "core/model/", "core/ports/"}},
    {"gpu/", {"core/base/", "core/model/", "core/ports/"}},
    {"offload/", {"core/base/", "core/model/", "core/ports/"}},
    {"predictor/", {"core/base/", "core/model/", "core/ports/"}},
    {"api/", {"hearth.h", "core/"}},
    {"cli/", {"hearth.h"}},
    {"hearth.h", {NULL}},
    {"hearth.c", {"hearth.h", "api/", "core/", "cpu/", "gpu/", "offload/", "predictor/"}},
    {"tests/", {"hearth.h", "core/", "cpu/", "gpu/", "offload/", "predictor/", "cli/"}},
    {"bench/", {"hearth.h", "core/", "cpu/", "gpu/", "offload/", "predictor/"}},
};
static const size_t n_parts = sizeof parts / sizeof *parts;

/* Headers of libraries that one part keeps to itself. */
static const struct {
    const char *prefix, *folder;
} kept[] = {{"cuda", "gpu/"}, {"cublas", "gpu/"}, {"liburing", "offload/"}, {"numa", "core/base/"}};

static const char *root; /* of the walk in progress */
static int files, violations;
static char report[MAX_REPORT];

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static const part *part_of(const char *path)
{
    for (size_t i = 0; i < n_parts; i++) {
        if (starts_with(path, parts[i].folder)) return &parts[i];
    }
    return NULL;
}

static void complain(const char *path, int line, const char *included, const char *why)
{
    size_t n = strlen(report);
    snprintf(report + n, sizeof report - n, "%s:%d includes %s: %s\n", path, line, included, why);
    violations++;
}

static void check_include(const char *path, int line, const char *included, bool quoted)
{
    const part *who = part_of(path), *whom = part_of(included);
    if (!whom) {
        if (quoted) complain(path, line, included, "not a path from the root");
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
            if (starts_with(included, kept[i].prefix) && !starts_with(path, kept[i].folder) && !starts_with(path, "tests/") &&
                !starts_with(path, "bench/")) {
                complain(path, line, included, "this library belongs to another part");
            }
        }
        return;
    }
    if (!who) {
        complain(path, line, included, "a file outside all parts");
        return;
    }
    if (strstr(included, "..")) complain(path, line, included, "climbs");
    bool allowed = who == whom;
    for (size_t i = 0; i < sizeof who->may / sizeof *who->may && who->may[i]; i++) {
        allowed = allowed || starts_with(included, who->may[i]);
    }
    if (!allowed) complain(path, line, included, "not allowed from here");
}

static void check_file(const char *full, const char *path)
{
    char line[1024];
    FILE *f = fopen(full, "r");
    if (!f) return;
    files++;
    for (int number = 1; fgets(line, sizeof line, f); number++) {
        const char *p = line + strspn(line, " \t");
        if (*p++ != '#') continue;
        p += strspn(p, " \t");
        if (!starts_with(p, "include")) continue;
        p += strlen("include");
        p += strspn(p, " \t");
        if (*p != '"' && *p != '<') continue;
        bool quoted = *p++ == '"';
        char included[512];
        snprintf(included, sizeof included, "%.*s", (int)strcspn(p, quoted ? "\"\n" : ">\n"), p);
        check_include(path, number, included, quoted);
    }
    fclose(f);
}

static bool is_source(const char *path)
{
    static const char *const endings[] = {".c", ".h", ".cu", ".cuh", ".cc", ".cpp", ".hpp", ".inc"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++) {
        if (strcmp(dot, endings[i]) == 0) return true;
    }
    return false;
}

static int visit(const char *full, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    const char *path = full + strlen(root) + 1;
    if (kind == FTW_D && at->level == 1 && (path[0] == '.' || starts_with(path, "build"))) return FTW_SKIP_SUBTREE;
    if (kind == FTW_F && is_source(path)) check_file(full, path);
    return FTW_CONTINUE;
}

static int check_tree(const char *folder)
{
    root = folder;
    files = violations = 0;
    report[0] = '\0';
    nftw(folder, visit, 16, FTW_PHYS | FTW_ACTIONRETVAL);
    return violations;
}

Test(includes, the_tree_keeps_its_rules)
{
    cr_assert_eq(check_tree(HEARTH_TEST_SOURCE), 0, "%s", report);
    cr_assert_gt(files, 50, "only %d files were found below %s", files, HEARTH_TEST_SOURCE);
}

/* Writes one file into an empty tree and counts the violations. */
static int plant(const char *path, const char *text)
{
    char folder[TEST_PATH_MAX], full[TEST_PATH_MAX + 64];
    test_temp_dir(folder);
    snprintf(full, sizeof full, "%s/%s", folder, path);
    for (char *slash = full + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    cr_assert_not_null(f, "%s", full);
    fputs(text, f);
    fclose(f);
    int n = check_tree(folder);
    cr_expect_eq(files, 1);
    test_temp_remove(folder);
    return n;
}

Test(includes, planted_violations_are_caught)
{
    static const struct {
        const char *path, *text;
    } bad[] = {
        {"core/base/log.c", "#include \"core/model/model.h\"\n"},
        {"core/model/gguf.c", "#include \"core/ports/ops.h\"\n"},
        {"core/ports/ops.h", "#include \"core/engine/session.h\"\n"},
        {"core/engine/forward.c", "#include \"cpu/host.h\"\n"},
        {"core/engine/forward.c", "\n  #  include <offload/ram_store.h>\n"},
        {"core/engine/forward.c", "#include \"hearth.h\"\n"},
        {"cpu/kernels.c", "#include \"gpu/device.h\"\n"},
        {"cpu/kernels.c", "#include \"core/engine/forward.h\"\n"},
        {"gpu/emu/emu.c", "#include \"cpu/kernels.h\"\n"},
        {"gpu/kernels.cu", "#include \"offload/plan.h\"\n"},
        {"offload/plan.c", "#include \"predictor/hotness.h\"\n"},
        {"predictor/hotness.c", "#include \"offload/plan.h\"\n"},
        {"api/session.c", "#include \"cpu/host.h\"\n"},
        {"cli/run.c", "#include \"api/handles.h\"\n"},
        {"cli/run.c", "#include \"core/base/error.h\"\n"},
        {"cli/run.c", "#include \"cpu/host.h\"\n"},
        {"hearth.h", "#include \"core/base/error.h\"\n"},
        {"cpu/kernels.c", "#include \"kernels.h\"\n"},
        {"cpu/kernels.c", "#include \"../gpu/device.h\"\n"},
        {"cpu/kernels.c", "#include \"cpu/../gpu/device.h\"\n"},
        {"core/base/log.c", "#include \"tests/support/data.h\"\n"},
        {"core/engine/forward.c", "#include <cuda_runtime.h>\n"},
        {"cpu/kernels.c", "#include <liburing.h>\n"},
        {"other/x.c", "#include \"core/base/log.h\"\n"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(plant(bad[i].path, bad[i].text), 1, "%s: %s", bad[i].path, bad[i].text);
    }
}

Test(includes, what_is_allowed_passes)
{
    static const struct {
        const char *path, *text;
    } good[] = {
        {"core/engine/forward.c", "#include \"core/base/log.h\"\n#include \"core/ports/ops.h\"\n#include <string.h>\n"},
        {"cpu/kernels.c", "#include \"cpu/kernels.h\"\n// #include \"gpu/device.h\"\n"},
        {"gpu/device.c", "#include <cuda_runtime.h>\n#include \"core/ports/ops.h\"\n"},
        {"cli/run.c", "#include \"hearth.h\"\n#include \"cli/options.h\"\n#include <cjson/cJSON.h>\n"},
        {"api/session.c", "#include \"core/engine/session.h\"\n#include \"hearth.h\"\n"},
        {"hearth.c", "#include \"api/handles.h\"\n#include \"cpu/host.h\"\n#include \"offload/ram_store.h\"\n"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_expect_eq(plant(good[i].path, good[i].text), 0, "%s: %s", good[i].path, report);
    }
}
