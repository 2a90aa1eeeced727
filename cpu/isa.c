/* Which CPU level this machine supports, asked of the CPU (CPUID) and of the operating system (XGETBV) alone. */
#include "cpu/kernels.h"

#include <strings.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Bits of CPUID, Intel SDM vol. 2A, table 3-8. */
enum {
    LEAF1_ECX_FMA = 1u << 12,
    LEAF1_ECX_OSXSAVE = 1u << 27,
    LEAF1_ECX_AVX = 1u << 28,
    LEAF1_ECX_F16C = 1u << 29,
    LEAF7_EBX_AVX2 = 1u << 5,
    LEAF7_EBX_BMI2 = 1u << 8,
    LEAF7_EBX_AVX512F = 1u << 16,
    LEAF7_EBX_AVX512DQ = 1u << 17,
    LEAF7_EBX_AVX512BW = 1u << 30,
    LEAF7_ECX_AVX512VBMI = 1u << 1,
    LEAF7_ECX_AVX512VBMI2 = 1u << 6,
    LEAF7_ECX_GFNI = 1u << 8,
    LEAF7_ECX_AVX512VNNI = 1u << 11,
    LEAF7_1_EAX_AVX512BF16 = 1u << 5,
    XCR0_AVX = 0x06,    /* SSE and AVX state */
    XCR0_AVX512 = 0xe6, /* and opmask, upper halves of ZMM0-15, ZMM16-31 */
};
#define LEAF7_EBX_AVX512VL (1u << 31)

static unsigned xcr0_low(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has(unsigned value, unsigned bits)
{
    return (value & bits) == bits;
}

ht_isa ht_isa_detect(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d))
        return HT_ISA_REF;
    if (!has(c, LEAF1_ECX_FMA | LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_F16C))
        return HT_ISA_REF;
    unsigned xcr0 = xcr0_low();
    if (!has(xcr0, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return HT_ISA_REF;
    if (!has(b, LEAF7_EBX_AVX2 | LEAF7_EBX_BMI2))
        return HT_ISA_REF;
    if (!has(xcr0, XCR0_AVX512) ||
        !has(b, LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512VL) ||
        !has(c, LEAF7_ECX_AVX512VBMI | LEAF7_ECX_AVX512VBMI2 | LEAF7_ECX_AVX512VNNI | LEAF7_ECX_GFNI))
        return HT_ISA_AVX2;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has(a, LEAF7_1_EAX_AVX512BF16))
        return HT_ISA_AVX2;
    return HT_ISA_AVX512;
}
#else
ht_isa ht_isa_detect(void)
{
    return HT_ISA_REF;
}
#endif

static const char *const isa_names[HT_ISA_COUNT] = {"ref", "avx2", "avx512"};

const char *ht_isa_name(ht_isa isa)
{
    return (unsigned)isa < HT_ISA_COUNT ? isa_names[isa] : "?";
}

bool ht_isa_by_name(const char *name, ht_isa *out)
{
    for (int i = 0; i < HT_ISA_COUNT; i++) {
        if (strcasecmp(name, isa_names[i]) == 0) {
            *out = (ht_isa)i;
            return true;
        }
    }
    return false;
}
