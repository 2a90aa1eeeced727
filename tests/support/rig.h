/* An engine over the reference backend and the tiny model, with or without the fake store in between, on one site or on
 * several. */
#ifndef HEARTH_TESTS_SUPPORT_RIG_H
#define HEARTH_TESTS_SUPPORT_RIG_H

#include "core/engine/session.h"
#include "tests/support/fake_store.h"
#include "tests/support/ref_backend.h"

typedef struct ht_rig_options {
    bool fake;                          /* the fake store, with delays; also by HEARTH_TEST_STORE=fake */
    int32_t sites;                      /* 0: HEARTH_TEST_SITES, or 1 */
    int32_t columns, chunk, sequences;  /* 0: 64, columns, 4 */
    int32_t context, kv_pages;          /* 0: 512, enough for all sessions */
} ht_rig_options;

typedef struct ht_rig {
    ht_model model;
    ht_site site[3];                    /* [n_sites] */
    int32_t n_sites;
    ht_backend *backend;                /* of the first site */
    ht_store *store;
    ht_engine *engine;
    bool fake;
} ht_rig;

/* Fails the running test when it cannot be built. */
void ht_rig_open(ht_rig *rig, const ht_rig_options *options);
/* Also checks that no lease is out and no page is held, and that nothing was allocated in a pass. */
void ht_rig_close(ht_rig *rig);

ht_session *ht_rig_session(ht_rig *rig);
/* n tokens of a seeded random text. */
void ht_rig_tokens(int32_t *out, int64_t n, uint64_t seed);
/* The session becomes tokens[0, n); fails the test otherwise. */
void ht_rig_sync(ht_session *s, const int32_t *tokens, int64_t n);

#endif
