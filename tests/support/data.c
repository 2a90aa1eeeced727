/* Test data and temporary folders. */
#include "tests/support/data.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static bool exists_below(char path[TEST_PATH_MAX], const char *folder, const char *relative)
{
    if (!folder || !*folder) return false;
    int n = snprintf(path, TEST_PATH_MAX, "%s/%s", folder, relative);
    return n > 0 && n < TEST_PATH_MAX && access(path, R_OK) == 0;
}

bool test_data(char path[TEST_PATH_MAX], const char *relative)
{
    return exists_below(path, getenv("HEARTH_TEST_DATA"), relative) || exists_below(path, HEARTH_TEST_DATA_DEFAULT, relative);
}

void test_temp_dir(char path[TEST_PATH_MAX])
{
    const char *parent = getenv("TMPDIR");
    int n = snprintf(path, TEST_PATH_MAX, "%s/hearth-test-XXXXXX", parent && *parent ? parent : "/tmp");
    if (n < 0 || n >= TEST_PATH_MAX || !mkdtemp(path)) {
        perror(path);
        abort(); /* no test can go on, and none of them is to blame */
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

void test_temp_remove(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
