/* The families of kernels: each file of gpu/kernels fills its entries of the table (b_ is emu or cuda). */
#ifndef HEARTH_GPU_KERNELS_TABLE_H
#define HEARTH_GPU_KERNELS_TABLE_H

#include "gpu/kernels.h"

#define HT_DEFINE_FILL(b_)                                                                                        \
    void ht_gpu_fill_norm_##b_(ht_gpu_kernels *k);                                                                 \
    void ht_gpu_fill_matvec_##b_(ht_gpu_kernels *k);                                                               \
    void ht_gpu_fill_glu_##b_(ht_gpu_kernels *k);                                                                  \
    void ht_gpu_fill_matmat_##b_(ht_gpu_kernels *k);                                                               \
    void ht_gpu_fill_simple_##b_(ht_gpu_kernels *k);                                                               \
    void ht_gpu_fill_rope_##b_(ht_gpu_kernels *k);                                                                 \
    void ht_gpu_fill_attend_##b_(ht_gpu_kernels *k);                                                               \
    void ht_gpu_fill_planar_##b_(ht_gpu_kernels *k);                                                                  \
    void ht_gpu_fill_sparse_##b_(ht_gpu_kernels *k);                                                               \
    void ht_gpu_fill_probe_##b_(ht_gpu_kernels *k);                                                                   \
    void ht_gpu_kernels_fill_##b_(ht_gpu_kernels *k)                                                               \
    {                                                                                                                 \
        *k = (ht_gpu_kernels){.build = #b_};                                                                       \
        ht_gpu_fill_norm_##b_(k);                                                                                  \
        ht_gpu_fill_matvec_##b_(k);                                                                                \
        ht_gpu_fill_glu_##b_(k);                                                                                   \
        ht_gpu_fill_matmat_##b_(k);                                                                                \
        ht_gpu_fill_simple_##b_(k);                                                                                \
        ht_gpu_fill_rope_##b_(k);                                                                                  \
        ht_gpu_fill_attend_##b_(k);                                                                                \
        ht_gpu_fill_planar_##b_(k);                                                                                   \
        ht_gpu_fill_sparse_##b_(k);                                                                                \
        ht_gpu_fill_probe_##b_(k);                                                                                    \
    }

#endif
