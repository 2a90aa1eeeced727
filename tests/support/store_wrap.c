/* With HEARTH_TEST_STORE=fake in the environment, every RAM store that is opened is put behind the fake store, also those
 * of hearth_engine_open: the engine's suite runs on it without knowing (tests/CMakeLists.txt; linked by --wrap). */
#include "tests/support/fake_store.h"
#include "tests/support/store_wrap.h"

#include "offload/ram_store.h"

#include <stdlib.h>
#include <string.h>

int __real_ht_ram_store_open(ht_store **out, const ht_ram_store_options *options, ht_load_stats *stats, ht_error *err);
int __wrap_ht_ram_store_open(ht_store **out, const ht_ram_store_options *options, ht_load_stats *stats, ht_error *err);

bool test_store_is_fake(void)
{
    const char *kind = getenv("HEARTH_TEST_STORE");
    return kind && strcmp(kind, "fake") == 0;
}

int __wrap_ht_ram_store_open(ht_store **out, const ht_ram_store_options *options, ht_load_stats *stats, ht_error *err)
{
    int r = __real_ht_ram_store_open(out, options, stats, err);
    if (r < 0 || !test_store_is_fake()) return r;
    const ht_fake_store_options fake = {.seed = 7, .max_delay_us = 50};
    return ht_fake_store_open(out, *out, options->model, &fake, err);
}
