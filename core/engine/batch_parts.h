/* What the files of the batch share; nobody else includes this. */
#ifndef HEARTH_CORE_ENGINE_BATCH_PARTS_H
#define HEARTH_CORE_ENGINE_BATCH_PARTS_H

#include "core/engine/batch.h"

/* batch_queue.c */
void ht_job_close(ht_job **job);
static inline int64_t ht_batch_waiting(const ht_batch *b) { return b->queue_end - b->queue_first; }
/* The request that begins next; NULL: none waits. */
ht_job *ht_batch_front(ht_batch *b);
/* Puts what was added into order. */
void ht_batch_sort(ht_batch *b);
/* How many rows to run side by side, by what passes have cost till now. */
void ht_batch_schedule(ht_batch *b);
void ht_batch_queue_close(ht_batch *b);

/* batch_prefix.c: prefixes that are computed once. */
int ht_prefix_open(ht_prefix *p, int32_t context, ht_error *err);
void ht_prefix_close(ht_kv *kv, ht_prefix *p);
void ht_prefix_drop(ht_kv *kv, ht_prefix *p);
/* Most tokens that a request with this prompt could take over, from rows as they are or will be. */
int32_t ht_prefix_expected(const ht_batch *b, const ht_job *j);
/* A row that has computed nothing takes over what others have. True: it should wait, an older row is about to compute
 * more of what it needs. */
bool ht_prefix_take(ht_batch *b, ht_row *row);
/* The row is about to give its pages back: those that somebody waits for are kept. */
void ht_prefix_keep(ht_batch *b, const ht_row *row);
/* Lets go of what nobody waits for any more. */
void ht_prefix_trim(ht_batch *b);

#endif
