/* Making memory real before a drive writes into it.
 *
 * The first touch of a page costs the kernel a zeroed page (and a virtual machine one of its host's). When a direct read
 * is the first to touch its buffer, that work is done while the read is submitted, between one request and the next: the
 * drive waits for it. Here threads do it a little ahead of the reads.
 */
#ifndef HEARTH_OFFLOAD_PREFAULT_H
#define HEARTH_OFFLOAD_PREFAULT_H

#include <stddef.h>

typedef struct ht_prefault ht_prefault;

/* Begins to touch base[0, bytes) from its beginning; the contents stay zero. NULL when there is nothing to gain or no
 * way to do it (small memory, an old kernel, no thread or memory to be had): then the reads touch the pages themselves. */
ht_prefault *ht_prefault_begin(void *base, size_t bytes);
/* Blocks until base[0, upto) is there (or has been given up, which changes nothing but speed). `p` may be NULL. */
void ht_prefault_wait(ht_prefault *p, size_t upto);
/* Stops early if it must, joins the threads, frees; accepts NULL. To be called before the memory is freed. */
void ht_prefault_end(ht_prefault *p);

#endif
