/* Every kernel on the emulated GPU, in three orders of threads: a kernel that lacks a barrier gives another result. */
#include "tests/gpu/checks.h"
#include "tests/support/harness.h"

static void run_all(ht_emu_order order)
{
    ht_gpu *gpu = NULL;
    ht_error err = {0};
    gpu_rig rig;

    cr_assert_eq(ht_device_emu_open(&gpu, &(ht_emu_options){.order = order, .seed = 7}, &err), 0, "%s", err.text);
    cr_assert(gpu_rig_open(&rig, gpu, 20u + (unsigned)order));
    for (int i = 0; i < n_gpu_checks; i++) {
        bool ok = gpu_checks[i].run(&rig);
        cr_expect(ok, "%s: %s", gpu_checks[i].name, rig.text);
    }
    gpu_rig_close(&rig);
    ht_device_memory memory;
    gpu->device.ops->memory(&gpu->device, &memory);
    cr_expect_eq(memory.used, 0);
    cr_expect_eq(memory.pinned, 0);
    gpu->device.ops->close(&gpu->device);
}

Test(gpu_kernels, forward) { run_all(HT_EMU_FORWARD); }
Test(gpu_kernels, reverse) { run_all(HT_EMU_REVERSE); }
Test(gpu_kernels, shuffled) { run_all(HT_EMU_SHUFFLED); }
