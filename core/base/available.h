/* How much memory this process may still take. */
#ifndef HEARTH_CORE_BASE_AVAILABLE_H
#define HEARTH_CORE_BASE_AVAILABLE_H

#include <stdint.h>

/* Bytes that could be taken without pushing others out: what the system has (/proc/meminfo), or what the control
 * groups of this process (version 2: containers, systemd) leave of their limits, whichever is less. 0: not known.
 * `root` is put in front of all paths; "" but in tests. */
uint64_t ht_memory_available(const char *root);

#endif
