/* Available memory: a few small files of /proc and /sys. A file that is not there sets no limit. */
#include "core/base/available.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MOST_PATH = 1024 };

/* The number behind `name` at the beginning of a line, or of the file for ""; `otherwise` if there is none. */
static uint64_t number_in(const char *path, const char *name, uint64_t otherwise)
{
    FILE *f = fopen(path, "re");
    if (!f) return otherwise;
    char line[256];
    size_t n = strlen(name);
    while (fgets(line, sizeof line, f)) {
        uint64_t value;
        if (strncmp(line, name, n) != 0 || sscanf(line + n, "%" SCNu64, &value) != 1) continue;
        otherwise = value;
        break;
    }
    fclose(f);
    return otherwise;
}

/* What a group's limit leaves. The page cache counts as used, but gives way. */
static uint64_t left_in_group(const char *root, const char *group)
{
    char path[MOST_PATH + 64];
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.max", root, group);
    uint64_t limit = number_in(path, "", UINT64_MAX); /* "max": none */
    if (limit == UINT64_MAX) return limit;
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.current", root, group);
    uint64_t used = number_in(path, "", 0);
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.stat", root, group);
    uint64_t cache = number_in(path, "inactive_file ", 0);
    used -= cache < used ? cache : used;
    return limit > used ? limit - used : 1; /* 0 would mean: not known */
}

/* The least that the process's group and those around it leave. */
static uint64_t left_in_groups(const char *root)
{
    char path[MOST_PATH + 64], line[MOST_PATH] = "";
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return least;
    while (fgets(line, sizeof line, f) && strncmp(line, "0::/", 4) != 0) line[0] = '\0';
    fclose(f);
    if (!line[0]) return least;
    char *group = line + 3;
    group[strcspn(group, "\n")] = '\0';
    for (char *slash = group + strlen(group); slash; slash = strrchr(group, '/')) {
        *slash = '\0';
        uint64_t left = left_in_group(root, group);
        if (left < least) least = left;
    }
    return least;
}

uint64_t ht_memory_available(const char *root)
{
    char path[MOST_PATH + 64];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    uint64_t system = number_in(path, "MemAvailable:", 0) << 10, groups = left_in_groups(root);
    if (groups == UINT64_MAX) return system;
    return system && system < groups ? system : groups;
}
