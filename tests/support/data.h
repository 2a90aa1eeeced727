/* Where tests find their data, and where they may write.
 *
 * Data has one layout in two places: first the folder named by HEARTH_TEST_DATA (optional, larger: README of
 * tests/data), then tests/data itself. A test whose data is in neither skips, saying so:
 *
 *     char path[TEST_PATH_MAX];
 *     if (!test_data(path, "tokenizers/falcon.gguf")) cr_skip_test("no tokenizers/falcon.gguf");
 */
#ifndef HEARTH_TESTS_SUPPORT_DATA_H
#define HEARTH_TESTS_SUPPORT_DATA_H

#include <stdbool.h>

enum { TEST_PATH_MAX = 4096 };

/* The path of a file or folder, if it is there. `relative` is never absolute. */
bool test_data(char path[TEST_PATH_MAX], const char *relative);

/* Makes an empty folder below $TMPDIR (or /tmp) and removes one with all it holds. */
void test_temp_dir(char path[TEST_PATH_MAX]);
void test_temp_remove(const char *path);

#endif
