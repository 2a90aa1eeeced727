/* The ops port on a device of this module: the forward pass wholly on the GPU, real or emulated. */
#ifndef HEARTH_GPU_BACKEND_H
#define HEARTH_GPU_BACKEND_H

#include "core/ports/ops.h"
#include "gpu/device.h"

typedef struct ht_gpu_backend_options {
    ht_ops_limits limits;
    ht_gpu *gpu;         /* borrowed; outlives the backend */
    bool resident;       /* all weights and KV pages stay at their addresses while the backend is open: decode steps are
                            queued as a whole when their results are wanted, as graphs where the device has them */
    bool no_tensor_cores; /* the plain products even where the device has better: tests */
} ht_gpu_backend_options;

/* Allocates all device scratch that a step within the limits can need. -ENOTSUP: a shape or cache type that the kernels
 * do not have. Closed by (*out)->ops->close. */
int ht_gpu_backend_open(ht_backend **out, const ht_gpu_backend_options *options, ht_error *err);
/* Device bytes that open takes, exactly; the plan's number. */
size_t ht_gpu_backend_bytes(const ht_ops_limits *limits);

#endif
