/* Measuring the kernels by themselves, beside what the machine's memory can give. Used by `hearth bench`. */
#ifndef HEARTH_CPU_BENCH_H
#define HEARTH_CPU_BENCH_H

#include "core/base/error.h"
#include "cpu/kernels.h"

typedef struct ht_kernel_bench {
    ht_type type;
    ht_isa isa;
    bool f32;               /* activations in F32 instead of 8 bits */
    bool woven;             /* rows woven into tiles; in: if this level reads such and the shape has them; out: whether */
    int threads;
    int64_t columns;        /* <= HT_DECODE_COLUMNS: the decode class; more: the block class */
    int64_t rows, cols;     /* of one matrix */
    int repeats;
    double bytes_per_second, macs_per_second; /* out: medians */
} ht_kernel_bench;

/* Times one matrix kernel. In the decode class as many matrices are laid out, and read in turn, as a working set of
 * 512 MiB takes; in the block class one. Errors: -ENOTSUP (the CPU lacks the level, no such kernel), -EINVAL,
 * -ENOMEM. */
int ht_cpu_bench_kernel(ht_kernel_bench *bench, ht_error *err);

#endif
