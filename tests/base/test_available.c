/* Available memory, from files as the kernel writes them. */
#include "core/base/available.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static char root[TEST_PATH_MAX];

static void put(const char *path, const char *text)
{
    char full[TEST_PATH_MAX + 128];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    cr_assert(f != NULL, "%s", full);
    fputs(text, f);
    fclose(f);
}

Test(available, least_of_system_and_groups)
{
    test_temp_dir(root);
    cr_assert_eq(ht_memory_available(root), 0, "nothing is known");
    put("/proc/meminfo", "MemTotal:       32768 kB\nMemFree:        100 kB\nMemAvailable:   20480 kB\n");
    cr_assert_eq(ht_memory_available(root), 20480 << 10);

    put("/proc/self/cgroup", "4:memory:/elsewhere\n0::/outer/inner\n");
    put("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
    cr_assert_eq(ht_memory_available(root), 20480 << 10, "no limit");

    put("/sys/fs/cgroup/outer/memory.max", "9000000\n");
    cr_assert_eq(ht_memory_available(root), 9000000, "a limit of a group around ours");
    put("/sys/fs/cgroup/outer/memory.current", "5000000\n");
    put("/sys/fs/cgroup/outer/memory.stat", "anon 1000000\ninactive_file 3000000\nactive_file 1000000\n");
    cr_assert_eq(ht_memory_available(root), 7000000, "the page cache gives way");

    put("/sys/fs/cgroup/outer/inner/memory.max", "600000\n");
    cr_assert_eq(ht_memory_available(root), 600000);
    put("/sys/fs/cgroup/outer/inner/memory.current", "700000\n");
    cr_assert_eq(ht_memory_available(root), 1, "used up is not the same as unknown");

    put("/proc/self/cgroup", "0::/\n"); /* as a container sees it */
    put("/sys/fs/cgroup/memory.max", "800000\n");
    cr_assert_eq(ht_memory_available(root), 800000);
    test_temp_remove(root);
}
