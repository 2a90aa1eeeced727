/* A store that makes life hard for the engine: it lends copies of another store's bytes, at other addresses each
 * time, filled in late, by another thread and out of order, and spoils them when they are given back. An engine that
 * keeps an address beyond its lease, reads before the event, or reads pages it did not ask for, computes garbage. */
#ifndef HEARTH_TESTS_SUPPORT_FAKE_STORE_H
#define HEARTH_TESTS_SUPPORT_FAKE_STORE_H

#include "core/ports/store.h"

typedef struct ht_fake_store_options {
    uint32_t seed;          /* of delays and order */
    int max_delay_us;       /* of each arrival; 0: as fast as the thread can */
    bool direct;            /* lend the inner store's own views, at once: only failures are faked */
    int64_t fail_acquire;   /* the N-th acquire or kv_acquire (from 1) fails at once; 0: never */
    int64_t fail_arrival;   /* the N-th arrival fails, after the acquire succeeded; 0: never */
} ht_fake_store_options;

/* Takes over `inner` (closed with it), also when it fails. */
int ht_fake_store_open(ht_store **out, ht_store *inner, const ht_model *model, const ht_fake_store_options *options,
                       ht_error *err);
/* Change the faults while it runs; counts begin again. */
void ht_fake_store_set_faults(ht_store *store, int64_t fail_acquire, int64_t fail_arrival);
/* Leases that are out now, and how many acquires there ever were. */
int64_t ht_fake_store_held(const ht_store *store);
int64_t ht_fake_store_acquires(const ht_store *store);

#endif
