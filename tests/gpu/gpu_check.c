/* The checks of a machine with a GPU: every kernel against its scalar reference on fresh random inputs, the timing of
 * the kernels that matter, and one table last. Needs no test framework.
 *
 *     gpu_check [--device cuda|emu] [--ordinal N] [--seed N] [--checks] [--speed] [--models] [--only NAME] [--json FILE]
 *
 * Rates count the bytes that must be moved (weights once, activations once), and are given as a share of a plain copy
 * on the device, which counts what it reads and what it writes; products of many columns as a share of what the tensor
 * cores do on registers. */
#include "tests/gpu/checks.h"
#include "tests/gpu/gpu_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool chosen(const session *s, const char *name) { return !s->o.only || strstr(name, s->o.only); }

result *add_result(session *s, const char *name)
{
    if (s->n == MAX_RESULTS) s->n--;
    result *r = &s->results[s->n++];
    *r = (result){.ok = true};
    snprintf(r->name, sizeof r->name, "%s", name);
    fprintf(stderr, "%s\n", name);
    return r;
}

/* ---- checks ---------------------------------------------------------------------------------------------- */

static bool run_checks(session *s)
{
    bool all = true;

    for (int i = 0; i < n_gpu_checks; i++) {
        if (!chosen(s, gpu_checks[i].name)) continue;
        result *r = add_result(s, gpu_checks[i].name);
        r->ok = gpu_checks[i].run(&s->rig);
        if (!r->ok) fprintf(stderr, "  FAILED: %s\n", s->rig.text);
        all &= r->ok;
        gpu_rig_reset(&s->rig);
    }
    return all;
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

void *blank(session *s, size_t bytes)
{
    void *p = NULL;
    ht_error err = {0};

    if (s->gpu->device.ops->alloc(&s->gpu->device, bytes, "a benchmark", &p, &err) < 0 ||
        s->gpu->device.ops->fill(&s->gpu->device, s->rig.stream, p, 0, bytes, &err) < 0) {
        fprintf(stderr, "gpu_check: %s\n", err.text);
        exit(1);
    }
    return p;
}
void unblank(session *s, void *p)
{
    gpu_synced(&s->rig);
    s->gpu->device.ops->free(&s->gpu->device, p);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

/* What planar rows gain over blocks as they are stored: an open question, which 10 % would settle. */
static void print_planar(const session *s)
{
    for (int i = 0; i < s->n; i++) {
        char stored[64];
        const result *p = &s->results[i];
        if (strncmp(p->name, "matvec planar ", 14) || p->seconds <= 0) continue;
        snprintf(stored, sizeof stored, "matvec %s", p->name + 14);
        for (int j = 0; j < s->n; j++)
            if (!strcmp(s->results[j].name, stored))
                printf("planar rows: %s: %+.1f %%\n", stored, 100 * (s->results[j].seconds / p->seconds - 1));
    }
}

static void print_table(const session *s)
{
    const ht_device_info info = s->info;

    printf("\n%s, compute capability %d.%d, %d multiprocessors, seed %llu%s\n", info.name, info.capability / 10,
           info.capability % 10, info.multiprocessors, (unsigned long long)s->o.seed,
           info.emulated ? ", emulated: no rates" : "");
    printf("%-44s %8s %10s %9s %9s %9s %9s\n", "", "result", "us", "GB/s", "TFLOP/s", "tokens/s", "% bound");
    for (int i = 0; i < s->n; i++) {
        const result *r = &s->results[i];
        if (r->seconds <= 0) {
            printf("%-44s %8s\n", r->name, r->ok ? "ok" : "FAILED");
            continue;
        }
        if (info.emulated) { /* an emulation has no speed to quote */
            printf("%-44s %8s\n", r->name, "ran");
            continue;
        }
        double rate = r->bytes / r->seconds;
        double bound = r->tensor ? s->tensor_rate : s->copy_rate, share = r->tensor ? r->flops / r->seconds : rate;
        printf("%-44s %8s %10.1f %9.1f %9.2f %9.1f %8.1f%c\n", r->name, "", r->seconds * 1e6, rate / 1e9,
               r->flops / r->seconds / 1e12, r->tokens / r->seconds, bound > 0 ? 100 * share / bound : 0, r->tensor ? 't' : 'c');
    }
    if (!info.emulated)
        printf("bound: c: %.1f GB/s, a copy on the device, read + write; t: %.1f TFLOP/s, tensor cores on registers\n",
               s->copy_rate / 1e9, s->tensor_rate / 1e12);
    if (!info.emulated) print_planar(s);
}

static bool write_json(const session *s)
{
    const ht_device_info info = s->info;
    FILE *f = fopen(s->o.json, "w");

    if (!f) {
        fprintf(stderr, "gpu_check: cannot write %s\n", s->o.json);
        return false;
    }
    fprintf(f, "{\"device\":\"%s\",\"capability\":%d,\"emulated\":%s,\"time\":%lld,\"copy_bytes_per_s\":%.6g,"
               "\"tensor_flops_per_s\":%.6g,\"results\":[", info.name, info.capability, info.emulated ? "true" : "false",
            (long long)time(NULL), info.emulated ? 0 : s->copy_rate, info.emulated ? 0 : s->tensor_rate);
    for (int i = 0; i < s->n; i++) {
        const result *r = &s->results[i];
        fprintf(f, "%s\n{\"name\":\"%s\",\"ok\":%s,\"seconds\":%.9g,\"bytes\":%.9g,\"flops\":%.9g,\"tokens\":%g}",
                i ? "," : "", r->name, r->ok ? "true" : "false", info.emulated ? 0 : r->seconds, r->bytes, r->flops, r->tokens);
    }
    fprintf(f, "\n]}\n");
    return fclose(f) == 0;
}

/* Some failures end the program on the spot: what is known by then is printed all the same. */
static const session *unfinished;
static void print_unfinished(void)
{
    if (!unfinished) return;
    print_table(unfinished);
    printf("FAILED: ended early\n");
}

/* ---- options --------------------------------------------------------------------------------------------- */

static int usage(const char *what)
{
    fprintf(stderr, "gpu_check: %s\nusage: gpu_check [--device cuda|emu] [--ordinal N] [--seed N] [--checks] [--speed] "
                    "[--models] [--only NAME] [--json FILE]\n", what);
    return 2;
}

static int parse(options *o, int argc, char **argv)
{
    *o = (options){.device = "cuda", .seed = (uint64_t)time(NULL)};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--checks")) { o->checks = true; continue; }
        if (!strcmp(a, "--speed")) { o->speed = true; continue; }
        if (!strcmp(a, "--models")) { o->models = true; continue; }
        if (!value) return usage(a);
        i++;
        if (!strcmp(a, "--device")) o->device = value;
        else if (!strcmp(a, "--ordinal")) o->ordinal = atoi(value);
        else if (!strcmp(a, "--seed")) o->seed = strtoull(value, NULL, 10);
        else if (!strcmp(a, "--only")) o->only = value;
        else if (!strcmp(a, "--json")) o->json = value;
        else return usage(a);
    }
    if (!o->checks && !o->speed && !o->models) o->checks = o->speed = o->models = true;
    if (strcmp(o->device, "cuda") && strcmp(o->device, "emu")) return usage("--device");
    return 0;
}

int main(int argc, char **argv)
{
    static session s; /* print_unfinished may come after main */
    ht_error err = {0};

    int r = parse(&s.o, argc, argv);
    if (r) return r;
    r = !strcmp(s.o.device, "emu") ? ht_device_emu_open(&s.gpu, NULL, &err) : ht_device_cuda_open(&s.gpu, s.o.ordinal, 0, &err);
    if (r < 0) {
        fprintf(stderr, "gpu_check: %s\n", err.text);
        return 1;
    }
    s.gpu->device.ops->info(&s.gpu->device, &s.info);
    if (!gpu_rig_open(&s.rig, s.gpu, s.o.seed)) return 1;
    unfinished = &s;
    atexit(print_unfinished);
    bool ok = !s.o.checks || run_checks(&s);
    if (s.o.speed || s.o.models) run_speed(&s);
    if (s.o.models) run_models(&s);
    unfinished = NULL;
    print_table(&s);
    for (int i = 0; i < s.n; i++) ok &= s.results[i].ok;
    if (s.o.json) ok &= write_json(&s);
    printf("%s\n", ok ? "all ok" : "FAILED");
    gpu_rig_close(&s.rig);
    s.gpu->device.ops->close(&s.gpu->device);
    return ok ? 0 : 1;
}
