/* How a kernel's starter hands its launch to an emulated stream (used by gpu/emu/cuda_on_host.cuh). */
#ifndef HEARTH_GPU_EMU_LAUNCH_H
#define HEARTH_GPU_EMU_LAUNCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Queues call(closure) for every thread of the grid; the closure's bytes are copied. `bytes` is the memory traffic that
 * virtual time charges. 0, or a positive errno: the launch is not one that a GPU would take. */
int ht_emu_submit(void *stream, const char *name, const unsigned grid[3], const unsigned block[3], size_t shared,
                  double bytes, void (*call)(void *), const void *closure, size_t closure_bytes);

#ifdef __cplusplus
}
#endif
#endif
