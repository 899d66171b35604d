/* Flags and rows of x86-64: CPUID, and what the system saves of the registers (XCR0). */
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/internal.h"

enum {
    AVX2 = 1 << 0,
    FMA = 1 << 1,
    F16C = 1 << 2,
    AVX512 = 1 << 3, /* F, BW, DQ, VL */
    AVX512_VNNI = 1 << 4,
    AVX512_BF16 = 1 << 5,
    AVX_VNNI = 1 << 6,
    AMX = 1 << 7, /* tiles, of 8-bit integers and of bf16 */
    BASE = AVX2 | FMA | F16C,
};
const char *const sq_cpu_flag_names[] = {"avx2",        "fma",      "f16c", "avx512", "avx512_vnni",
                                         "avx512_bf16", "avx_vnni", "amx",  NULL};

static uint64_t xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* A process gets the tile registers when it asks for them (Linux,
 * Documentation/arch/x86/xstate.rst); its threads inherit that. */
static int may_use_tiles(void) {
#if defined __linux__ && defined SYS_arch_prctl
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return 0;
#endif
}

unsigned sq_cpu_detect(void) {
    unsigned a, b, c, d, f = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) {
        return 0;
    }
    uint64_t saved = xcr0();
    int ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
    f |= ymm && (c & bit_FMA) ? FMA : 0;
    f |= ymm && (c & bit_F16C) ? F16C : 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return f;
    }
    f |= ymm && (b & bit_AVX2) ? AVX2 : 0;
    unsigned tiles = 1u << 24 | 1u << 25 | 1u << 22; /* AMX-TILE, -INT8, -BF16 */
    int saves_tiles = (saved & 0x60000) == 0x60000;
    f |= zmm && saves_tiles && (d & tiles) == tiles && may_use_tiles() ? AMX : 0;
    unsigned all = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    f |= zmm && (b & all) == all ? AVX512 : 0;
    f |= (f & AVX512) && (c & bit_AVX512VNNI) ? AVX512_VNNI : 0;
    unsigned leaf1;
    if (__get_cpuid_count(7, 1, &leaf1, &b, &c, &d)) {
        f |= (f & AVX512) && (leaf1 & (1u << 5)) ? AVX512_BF16 : 0;
        f |= ymm && (leaf1 & (1u << 4)) ? AVX_VNNI : 0;
    }
    return f;
}

const sq_isa sq_isas[] = {
    {"avx2", BASE, sq_kernels_init_avx2},
    {"avx2_vnni", BASE | AVX_VNNI, sq_kernels_init_avx2_vnni},
    {"avx512", BASE | AVX512, sq_kernels_init_avx512},
    {"avx512_vnni", BASE | AVX512 | AVX512_VNNI, sq_kernels_init_avx512_vnni},
    {"avx512_bf16", BASE | AVX512 | AVX512_VNNI | AVX512_BF16, sq_kernels_init_avx512_bf16},
    {"amx", BASE | AVX512 | AVX512_VNNI | AVX512_BF16 | AMX, sq_kernels_init_amx},
    {NULL, 0, NULL},
};
