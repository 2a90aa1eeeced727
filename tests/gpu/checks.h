/* Every kernel against its scalar reference, on random inputs. A check returns false with the reason in rig->text. */
#ifndef HEARTH_TESTS_GPU_CHECKS_H
#define HEARTH_TESTS_GPU_CHECKS_H

#include "tests/gpu/rig.h"

typedef struct gpu_check {
    const char *name;
    bool (*run)(gpu_rig *rig);
} gpu_check;

extern const gpu_check gpu_checks[];
extern const int n_gpu_checks;

/* By family; checks_*.c. */
bool check_matvec(gpu_rig *rig);
bool check_matvec_columns(gpu_rig *rig);
bool check_fused(gpu_rig *rig);
bool check_planar(gpu_rig *rig);
bool check_glu(gpu_rig *rig);
bool check_matmat(gpu_rig *rig);
bool check_matmat_columns(gpu_rig *rig);
bool check_norm(gpu_rig *rig);
bool check_quantize(gpu_rig *rig);
bool check_embed(gpu_rig *rig);
bool check_simple(gpu_rig *rig);
bool check_rope_append(gpu_rig *rig);
bool check_attention(gpu_rig *rig);
bool check_attention_block(gpu_rig *rig);
bool check_sparse(gpu_rig *rig);

#endif
