/* The emulated GPU itself: the rules of the execution model, streams and events, virtual time, memory, failures. */
#include "tests/gpu/bugs.h"
#include "tests/gpu/rig.h"
#include "tests/support/data.h"
#include "tests/support/harness.h"

#include "core/base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
#define RACES_END_TESTS true
#else
#define RACES_END_TESTS false
#endif

static ht_gpu *open_emu(const ht_emu_options *options)
{
    ht_error err = {0};
    ht_gpu *gpu;

    cr_assert(ht_device_emu_open(&gpu, options, &err) == 0, "%s", err.text);
    return gpu;
}

static void close_emu(ht_gpu *gpu) { gpu->device.ops->close(&gpu->device); }

/* ---- the execution model --------------------------------------------------------------------------------- */

/* Runs a planted bug; y: what it left; returns whether the device noticed, with its text in rig->text. */
static bool noticed(gpu_rig *rig, gpu_bug bug, float *y_out)
{
    float *x = gpu_floats(rig, 64, 1, 2), *y = gpu_array(rig, 65 * sizeof *y);

    cr_assert_eq(gpu_bug_start(bug, gpu_twin(rig, x), gpu_twin(rig, y), rig->stream), 0);
    if (!gpu_synced(rig)) return true;
    gpu_pull(rig, y);
    memcpy(y_out, y, 64 * sizeof *y);
    return false;
}

static const struct { gpu_bug bug; const char *text; } rules[] = {
    {BUG_TWO_BARRIERS, "different __syncthreads"}, {BUG_EXITED, "after some threads have returned"},
    {BUG_HALF_WARP, "deadlock"},                   {BUG_GONE_LANE, "has returned"},
    {BUG_OUTSIDE_MASK, "outside the mask"},        {BUG_IN_FLIGHT, "cp.async in flight"},
    {BUG_MISALIGNED, "16-byte aligned"},      {BUG_WIDE_LOAD, "multiple of its width"},
};

Test(emu, broken_rules_are_errors)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int order = 0; order < 3; order++) {
            ht_gpu *gpu = open_emu(&(ht_emu_options){.order = (ht_emu_order)order, .seed = 11});
            gpu_rig rig;
            float y[64];
            cr_assert(gpu_rig_open(&rig, gpu, 1));
            cr_expect(noticed(&rig, rules[i].bug, y), "bug %d went unnoticed in order %d", rules[i].bug, order);
            cr_expect(strstr(rig.text, rules[i].text) != NULL, "bug %d: %s", rules[i].bug, rig.text);
            cr_expect(strstr(rig.text, "kernel ") != NULL, "%s", rig.text);
            gpu_rig_close(&rig);
            close_emu(gpu);
        }
}

/* What was never written is NaN; what cp.async has not brought is not there. */
Test(emu, missing_writes_show)
{
    static const gpu_bug bugs[] = {BUG_UNSET_SHARED, BUG_NO_WAIT};
    for (size_t i = 0; i < (RACES_END_TESTS ? 1 : 2); i++) { /* the second is a race too */
        ht_gpu *gpu = open_emu(NULL);
        gpu_rig rig;
        float y[64] = {0};
        cr_assert(gpu_rig_open(&rig, gpu, 1));
        cr_expect_not(noticed(&rig, bugs[i], y), "%s", rig.text);
        cr_expect(isnan(y[0]));
        gpu_rig_close(&rig);
        close_emu(gpu);
    }
}

/* A missing barrier gives another result in another order. */
Test(emu, orders_differ_without_a_barrier)
{
    float y[3][64], good[3][64];
    if (RACES_END_TESTS) cr_skip_test("ThreadSanitizer reports the race: tests/gpu/bugs.sh");
    for (int order = 0; order < 3; order++) {
        ht_gpu *gpu = open_emu(&(ht_emu_options){.order = (ht_emu_order)order, .seed = 3});
        gpu_rig rig;
        cr_assert(gpu_rig_open(&rig, gpu, 1));
        cr_assert_not(noticed(&rig, BUG_NONE, good[order]), "%s", rig.text);
        rig.draws = 0;
        cr_assert_not(noticed(&rig, BUG_NO_BARRIER, y[order]), "%s", rig.text);
        gpu_rig_close(&rig);
        close_emu(gpu);
    }
    cr_expect(!memcmp(good[0], good[1], sizeof good[0]) && !memcmp(good[0], good[2], sizeof good[0]));
    cr_expect(memcmp(y[0], y[1], sizeof y[0]) && memcmp(y[0], y[2], sizeof y[0]));
}

Test(emu, reductions_are_the_shuffles)
{
    ht_gpu *gpu = open_emu(NULL);
    gpu_rig rig;

    cr_assert(gpu_rig_open(&rig, gpu, 9));
    for (int i = 0; i < 20; i++) {
        float *in = gpu_floats(&rig, 32, -100, 100), *out = gpu_array(&rig, 256);
        cr_assert_eq(gpu_reduce_start(gpu_twin(&rig, in), gpu_twin(&rig, out), rig.stream), 0);
        gpu_pull(&rig, out);
        cr_expect(!memcmp(out, out + 32, 128));
        gpu_rig_reset(&rig);
    }
    gpu_rig_close(&rig);
    close_emu(gpu);
}

Test(emu, impossible_launches_are_refused)
{
    ht_gpu *gpu = open_emu(NULL);
    gpu_rig rig;
    ht_error err = {0};

    cr_assert(gpu_rig_open(&rig, gpu, 1));
    int code = gpu_too_large_start(rig.stream);
    cr_expect(code > 0);
    cr_expect(gpu->device.ops->launched(&gpu->device, code, "add_one", &err) < 0);
    cr_expect(strstr(err.text, "add_one") != NULL, "%s", err.text);
    cr_expect(gpu_synced(&rig), "a refused launch harms nothing");
    gpu_rig_close(&rig);
    close_emu(gpu);
}

/* ---- streams and events ---------------------------------------------------------------------------------- */

Test(emu, streams_run_beside_the_host)
{
    ht_gpu *gpu = open_emu(NULL);
    const ht_device_ops *ops = gpu->device.ops;
    gpu_rig rig;
    ht_device_event *e;
    ht_error err = {0};

    cr_assert(gpu_rig_open(&rig, gpu, 1));
    float *y = gpu_floats(&rig, 64, 0, 0);
    cr_assert(gpu_synced(&rig));
    cr_assert(ops->event_open(&gpu->device, &e, &err) == 0);
    cr_expect_eq(ops->event_poll(&gpu->device, e), 1, "never recorded: it has happened");
    gpu_add_one_start(gpu_twin(&rig, y), 64, 3000000, rig.stream);
    cr_assert(ops->event_record(&gpu->device, e, rig.stream, &err) == 0);
    cr_expect_eq(ops->event_poll(&gpu->device, e), 0, "the kernel takes much longer than this call");
    ht_event port = ops->event_export(&gpu->device, e);
    cr_expect_eq(ht_event_poll(port), 0);
    cr_expect_eq(ht_event_wait(port, &err), 0);
    cr_expect_eq(ht_event_poll(port), 1);
    cr_expect(ops->event_import(&gpu->device, port) == e);
    cr_expect(ops->event_import(&gpu->device, (ht_event){0}) == NULL);
    gpu_pull(&rig, y);
    cr_expect_eq(y[63], 1);
    ops->event_close(&gpu->device, e);
    gpu_rig_close(&rig);
    close_emu(gpu);
}

/* Copies of two streams with events between them, more work than the ring holds. */
Test(emu, events_order_streams)
{
    enum { ROUNDS = 400 };
    ht_gpu *gpu = open_emu(NULL);
    const ht_device_ops *ops = gpu->device.ops;
    gpu_rig rig;
    ht_stream *other;
    ht_device_event *there, *back;

    cr_assert(gpu_rig_open(&rig, gpu, 1));
    cr_assert(ops->stream_open(&gpu->device, "other", &other, NULL) == 0);
    cr_assert(ops->event_open(&gpu->device, &there, NULL) == 0 && ops->event_open(&gpu->device, &back, NULL) == 0);
    float *y = gpu_floats(&rig, 64, 0, 0);
    for (int i = 0; i < ROUNDS; i++) {
        gpu_add_one_start(gpu_twin(&rig, y), 64, 0, rig.stream);
        ops->event_record(&gpu->device, there, rig.stream, NULL);
        ops->stream_wait(&gpu->device, other, there, NULL);
        gpu_add_one_start(gpu_twin(&rig, y), 64, 0, other);
        ops->event_record(&gpu->device, back, other, NULL);
        ops->stream_wait(&gpu->device, rig.stream, back, NULL);
    }
    gpu_pull(&rig, y);
    cr_expect_eq(y[0], 2 * ROUNDS);
    cr_expect_eq(y[63], 2 * ROUNDS);
    ops->stream_close(&gpu->device, other);
    ops->event_close(&gpu->device, there);
    ops->event_close(&gpu->device, back);
    gpu_rig_close(&rig);
    close_emu(gpu);
}

Test(emu, two_devices_at_once)
{
    ht_gpu *gpu[2] = {open_emu(&(ht_emu_options){.name = "first"}), open_emu(&(ht_emu_options){.name = "second", .order = HT_EMU_REVERSE})};
    gpu_rig rig[2];
    float *x[2], *y[2];

    for (int i = 0; i < 2; i++) {
        cr_assert(gpu_rig_open(&rig[i], gpu[i], 4 + (unsigned)i));
        x[i] = gpu_floats(&rig[i], 64, -1, 1);
        y[i] = gpu_array(&rig[i], 256);
    }
    for (int round = 0; round < 200; round++)
        for (int i = 0; i < 2; i++)
            cr_assert_eq(gpu_bug_start(BUG_NONE, gpu_twin(&rig[i], x[i]), gpu_twin(&rig[i], y[i]), rig[i].stream), 0);
    for (int i = 0; i < 2; i++) {
        gpu_pull(&rig[i], y[i]);
        for (int j = 0; j < 64; j++) cr_expect_eq(y[i][j], x[i][63 - j]);
    }
    /* One device may wait for the other's events; neither takes the other's memory. */
    ht_error err = {0};
    cr_expect_eq(gpu[0]->device.ops->copy(&gpu[0]->device, rig[0].stream, gpu_twin(&rig[1], y[1]), x[0], 256,
                                          HT_COPY_TO_DEVICE, &err), -EINVAL);
    cr_expect(strstr(err.text, "destination") != NULL, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        gpu_rig_close(&rig[i]);
        close_emu(gpu[i]);
    }
}

/* ---- virtual time ---------------------------------------------------------------------------------------- */

static const ht_emu_options clockwork = {.memory_bandwidth = 1e9, .link_bandwidth = 1e8, .link_latency = 1e-6,
                                         .launch_latency = 1e-6, .trace = 64};

static void expect_span(ht_gpu *gpu, int64_t i, const char *lane, double start, double end)
{
    int64_t n;
    const ht_emu_span *s = ht_device_emu_trace(gpu, &n);

    cr_assert(i < n, "there are %lld spans", (long long)n);
    cr_expect_str_eq(s[i].lane, lane, "span %lld", (long long)i);
    cr_expect(fabs(s[i].start - start) < 1e-9 && fabs(s[i].end - end) < 1e-9, "span %lld (%s): %.3f to %.3f us, expected %.3f to %.3f",
              (long long)i, s[i].name, s[i].start * 1e6, s[i].end * 1e6, start * 1e6, end * 1e6);
}

/* A copy and a kernel overlap; a kernel that needs the copy waits for it; copies share the link. */
Test(emu, virtual_time_overlaps_what_may)
{
    ht_gpu *gpu = open_emu(&clockwork);
    const ht_device_ops *ops = gpu->device.ops;
    gpu_rig rig;
    ht_stream *copies, *more;
    ht_device_event *e;

    cr_assert(gpu_rig_open(&rig, gpu, 1));
    /* Nobody shares memory: only time is looked at. */
    float *a = gpu_array(&rig, 1000), *b = gpu_array(&rig, 500), *y = gpu_array(&rig, 2000), *z = gpu_array(&rig, 500),
          *w = gpu_array(&rig, 500);
    cr_assert(ops->stream_open(&gpu->device, "copies", &copies, NULL) == 0);
    cr_assert(ops->stream_open(&gpu->device, "more", &more, NULL) == 0);
    cr_assert(ops->event_open(&gpu->device, &e, NULL) == 0);
    const double us = 1e-6;

    ops->copy(&gpu->device, copies, gpu_twin(&rig, a), a, 1000, HT_COPY_TO_DEVICE, NULL);     /* 0: 10 + 1 us */
    ops->event_record(&gpu->device, e, copies, NULL);
    gpu_add_one_start(gpu_twin(&rig, y), 500, 0, rig.stream);                                 /* 1: 4 + 1 us, beside it */
    ops->copy(&gpu->device, more, gpu_twin(&rig, b), b, 500, HT_COPY_TO_DEVICE, NULL);        /* 2: 5 + 1 us, one link */
    ops->copy(&gpu->device, more, b, gpu_twin(&rig, b), 500, HT_COPY_TO_HOST, NULL);          /* 3: after 2 in its stream */
    ops->stream_wait(&gpu->device, rig.stream, e, NULL);
    gpu_add_one_start(gpu_twin(&rig, y), 500, 0, rig.stream);                                 /* 4: after the copy 0 */
    gpu_add_one_start(gpu_twin(&rig, z), 125, 0, more);                                       /* 5: after 3 */
    expect_span(gpu, 0, "copies", 0, 11 * us);
    expect_span(gpu, 1, "checks", 0, 5 * us);
    expect_span(gpu, 2, "more", 11 * us, 17 * us);
    expect_span(gpu, 3, "more", 17 * us, 23 * us);
    expect_span(gpu, 4, "checks", 11 * us, 16 * us);
    expect_span(gpu, 5, "more", 23 * us, 25 * us);
    cr_expect(fabs(ht_device_emu_now(gpu) - 25 * us) < 1e-9);

    /* The host waits for stream checks (16 us): what it submits afterwards starts no earlier. A host task of 3 us and
     * a read in a lane of its own take part too. */
    cr_assert(gpu_synced(&rig));
    ht_device_event *read;
    cr_assert(ops->event_open(&gpu->device, &read, NULL) == 0);
    cr_assert(ops->span(&gpu->device, &(ht_device_span){.lane = "disk", .name = "read", .seconds = 30 * us, .done = read}, NULL) == 0);
    cr_assert(ops->span(&gpu->device, &(ht_device_span){.lane = "host", .name = "task", .seconds = 3 * us, .after = &read, .n_after = 1, .done = e}, NULL) == 0);
    ops->stream_wait(&gpu->device, rig.stream, e, NULL);
    gpu_add_one_start(gpu_twin(&rig, y), 500, 0, rig.stream);
    gpu_add_one_start(gpu_twin(&rig, w), 125, 0, copies); /* slips into the gap at 16 */
    expect_span(gpu, 6, "disk", 16 * us, 46 * us);
    expect_span(gpu, 7, "host", 46 * us, 49 * us);
    expect_span(gpu, 8, "checks", 49 * us, 54 * us);
    expect_span(gpu, 9, "copies", 16 * us, 18 * us);
    cr_assert(gpu_synced(&rig)); /* before its events are closed */
    ops->stream_close(&gpu->device, copies);
    ops->stream_close(&gpu->device, more);
    ops->event_close(&gpu->device, e);
    ops->event_close(&gpu->device, read);
    gpu_rig_close(&rig);
    close_emu(gpu);
}

Test(emu, the_trace_is_json)
{
    char dir[TEST_PATH_MAX], path[TEST_PATH_MAX + 16], text[4096] = "";
    ht_gpu *gpu = open_emu(&clockwork);
    gpu_rig rig;
    ht_error err = {0};

    test_temp_dir(dir);
    snprintf(path, sizeof path, "%s/trace.json", dir);
    cr_assert(gpu_rig_open(&rig, gpu, 1));
    float *y = gpu_array(&rig, 256);
    for (int i = 0; i < 100; i++) gpu_add_one_start(gpu_twin(&rig, y), 64, 0, rig.stream); /* more than it keeps */
    cr_assert(ht_device_emu_trace_write(gpu, path, &err) == 0, "%s", err.text);
    FILE *f = fopen(path, "r");
    cr_assert(f && fread(text, 1, sizeof text - 1, f) > 100);
    fclose(f);
    cr_expect(strstr(text, "\"traceEvents\":[") && strstr(text, "\"name\":\"add_one\"") && strstr(text, "\"tid\":\"checks\""));
    cr_expect(ht_device_emu_trace_write(gpu, "/no/such/folder/trace.json", &err) < 0);
    test_temp_remove(dir);
    gpu_rig_close(&rig);
    close_emu(gpu);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

Test(emu, the_budget_is_exact)
{
    ht_gpu *gpu = open_emu(&(ht_emu_options){.budget = 1024});
    const ht_device_ops *ops = gpu->device.ops;
    ht_device_memory m;
    ht_error err = {0};
    void *a, *b, *c, *pinned;

    cr_assert(ops->alloc(&gpu->device, 1, "a", &a, &err) == 0);
    cr_assert(ops->alloc(&gpu->device, 768, "b", &b, &err) == 0);
    cr_expect_eq(ops->alloc(&gpu->device, 1, "the rest", &c, &err), -ENOMEM);
    cr_expect(c == NULL && strstr(err.text, "the rest") && strstr(err.text, "1024"), "%s", err.text);
    cr_expect_eq(ops->alloc(&gpu->device, (size_t)-1, "all", &c, &err), -ENOMEM);
    cr_assert(ops->alloc_pinned(&gpu->device, 5000, "pinned", &pinned, &err) == 0);
    ops->memory(&gpu->device, &m);
    cr_expect(m.budget == 1024 && m.used == 1024 && m.peak == 1024 && m.pinned == 5120);
    ops->free(&gpu->device, b);
    ops->free_pinned(&gpu->device, pinned);
    ops->free(&gpu->device, NULL);
    ops->memory(&gpu->device, &m);
    cr_expect(m.used == 256 && m.peak == 1024 && m.pinned == 0 && m.pinned_peak == 5120);
    ops->free(&gpu->device, a);
    close_emu(gpu);
}

Test(emu, copies_stay_inside_allocations)
{
    ht_gpu *gpu = open_emu(NULL);
    const ht_device_ops *ops = gpu->device.ops;
    gpu_rig rig;
    ht_error err = {0};
    char mine[256];

    cr_assert(gpu_rig_open(&rig, gpu, 1));
    char *a = gpu_array(&rig, 256), *d = gpu_twin(&rig, a);
    cr_expect_eq(ops->copy(&gpu->device, rig.stream, d, a, 257, HT_COPY_TO_DEVICE, &err), -EINVAL);
    cr_expect_eq(ops->copy(&gpu->device, rig.stream, d + 1, a, 256, HT_COPY_TO_DEVICE, &err), -EINVAL);
    cr_expect_eq(ops->copy(&gpu->device, rig.stream, d, mine, 256, HT_COPY_TO_DEVICE, &err), -EINVAL, "not pinned");
    cr_expect_eq(ops->copy(&gpu->device, rig.stream, a, d, 256, HT_COPY_TO_DEVICE, &err), -EINVAL, "the wrong way");
    cr_expect_eq(ops->fill(&gpu->device, rig.stream, d, 7, 300, &err), -EINVAL);
    cr_expect_eq(ops->fill(&gpu->device, rig.stream, d, 7, 255, &err), 0);
    gpu_pull(&rig, a);
    cr_expect(a[0] == 7 && a[254] == 7 && a[255] == -1, "memory nobody wrote is 0xff");
    gpu_rig_close(&rig);
    close_emu(gpu);
}

/* ---- failures -------------------------------------------------------------------------------------------- */

/* After a failure the device does nothing more, waits return, and another device is not harmed. */
Test(emu, failures_are_sticky_and_contained)
{
    static const struct { ht_emu_faults faults; int code; const char *text; } cases[] = {
        {{.launch = 2}, -EIO, "kernel add_one"},
        {{.copy = 1}, -EIO, "copy of 256"},
        {{.lost = 2}, -ENODEV, "lost"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_gpu *gpu = open_emu(NULL), *other = open_emu(NULL);
        const ht_device_ops *ops = gpu->device.ops;
        gpu_rig rig, fine;
        ht_error err = {0};
        ht_device_event *e;
        cr_assert(gpu_rig_open(&rig, gpu, 1) && gpu_rig_open(&fine, other, 1));
        float *y = gpu_floats(&rig, 64, 0, 0), *z = gpu_floats(&fine, 64, 0, 0);
        cr_assert(gpu_synced(&rig) && ops->event_open(&gpu->device, &e, NULL) == 0);
        ht_device_emu_set_faults(gpu, &cases[i].faults);
        for (int k = 0; k < 3; k++) gpu_add_one_start(gpu_twin(&rig, y), 64, 0, rig.stream);
        gpu_push(&rig, y);
        cr_assert(ops->event_record(&gpu->device, e, rig.stream, NULL) == 0);
        cr_expect_eq(ops->event_sync(&gpu->device, e, &err), cases[i].code, "%s", err.text);
        cr_expect(strstr(err.text, cases[i].text) != NULL, "%s", err.text);
        cr_expect_eq(ops->event_poll(&gpu->device, e), cases[i].code);
        cr_expect_eq(ops->stream_sync(&gpu->device, rig.stream, &err), cases[i].code);
        gpu_add_one_start(gpu_twin(&fine, z), 64, 0, fine.stream);
        gpu_pull(&fine, z);
        cr_expect_eq(z[0], 1);
        ops->event_close(&gpu->device, e);
        gpu_rig_close(&rig), gpu_rig_close(&fine);
        close_emu(gpu), close_emu(other);
    }
}

Test(emu, an_allocation_fails_on_demand)
{
    ht_gpu *gpu = open_emu(&(ht_emu_options){.faults.alloc = 2});
    ht_error err = {0};
    void *a, *b;

    cr_assert(gpu->device.ops->alloc(&gpu->device, 10, "first", &a, &err) == 0);
    cr_expect_eq(gpu->device.ops->alloc(&gpu->device, 10, "second", &b, &err), -ENOMEM);
    cr_expect(strstr(err.text, "second") != NULL);
    cr_assert(gpu->device.ops->alloc(&gpu->device, 10, "third", &b, &err) == 0);
    close_emu(gpu); /* frees what was left */
}

/* On a machine without a driver, or in a build without CUDA, there is no GPU and nothing else is wrong. */
Test(emu, no_gpu_is_not_a_crash)
{
    ht_gpu *gpu;
    ht_error err = {0};

    if (ht_device_cuda_count() > 0) cr_skip_test("there is a GPU");
    cr_expect_eq(ht_device_cuda_open(&gpu, 0, 0, &err), -ENODEV);
    cr_expect(gpu == NULL && err.text[0]);
}
