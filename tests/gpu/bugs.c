/* Runs one planted bug in a process of its own: sanitizers end the process that they find a bug in.
 *
 *     bugs NUMBER ORDER        a kernel of bugs.h
 *     bugs streams|ordered     two streams write the same memory, without and with an event between them
 *     bugs host|synced         the host reads what a kernel writes, without and with waiting for it
 *
 * Prints "ok" and exits 0 when nothing was noticed. */
#include "tests/gpu/bugs.h"

#include "tests/gpu/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int run_kernel(gpu_rig *rig, int number)
{
    float *x = gpu_floats(rig, 64, -1, 1), *y = gpu_array(rig, 64 * sizeof *y);
    int code = gpu_bug_start((gpu_bug)number, gpu_twin(rig, x), gpu_twin(rig, y), rig->stream);

    if (code || !gpu_synced(rig)) return 1;
    gpu_pull(rig, y);
    return 0;
}

static int run_streams(gpu_rig *rig, bool ordered)
{
    const ht_device_ops *ops = rig->gpu->device.ops;
    ht_device *d = &rig->gpu->device;
    float *y = gpu_floats(rig, 64, 0, 1);
    ht_stream *other;
    ht_device_event *e;

    if (!gpu_synced(rig) || ops->stream_open(d, "other", &other, NULL) < 0 || ops->event_open(d, &e, NULL) < 0) return 1;
    gpu_add_one_start(gpu_twin(rig, y), 64, 1000, rig->stream);
    ops->event_record(d, e, rig->stream, NULL);
    if (ordered) ops->stream_wait(d, other, e, NULL);
    gpu_add_one_start(gpu_twin(rig, y), 64, 1000, other);
    ops->stream_close(d, other);
    bool ok = gpu_synced(rig);
    ops->event_close(d, e);
    return ok ? 0 : 1;
}

static int run_host(gpu_rig *rig, bool synced)
{
    float *y = gpu_floats(rig, 64, 0, 1);

    gpu_add_one_start(gpu_twin(rig, y), 64, 100000, rig->stream);
    rig->gpu->device.ops->copy(&rig->gpu->device, rig->stream, y, gpu_twin(rig, y), 256, HT_COPY_TO_HOST, NULL);
    if (synced && !gpu_synced(rig)) return 1;
    volatile float seen = y[0];
    (void)seen;
    return gpu_synced(rig) ? 0 : 1;
}

int main(int argc, char **argv)
{
    ht_gpu *gpu;
    ht_error err = {0};
    gpu_rig rig;
    int r;

    if (argc < 2) return 2;
    ht_emu_options options = {.order = (ht_emu_order)(argc > 2 ? atoi(argv[2]) : 0), .seed = 5};
    if (ht_device_emu_open(&gpu, &options, &err) < 0 || !gpu_rig_open(&rig, gpu, 1)) return 2;
    if (!strcmp(argv[1], "streams") || !strcmp(argv[1], "ordered")) r = run_streams(&rig, argv[1][0] == 'o');
    else if (!strcmp(argv[1], "host") || !strcmp(argv[1], "synced")) r = run_host(&rig, argv[1][0] == 's' && argv[1][1] == 'y');
    else r = run_kernel(&rig, atoi(argv[1]));
    if (r) printf("%s\n", rig.text);
    gpu_rig_close(&rig);
    gpu->device.ops->close(&gpu->device);
    if (!r) printf("ok\n");
    return r;
}
