/* Flags and rows of 64-bit ARM, as the kernel tells them. */
#include <sys/auxv.h>

#include "kernels/internal.h"

enum { NEON = 1 << 0, DOTPROD = 1 << 1 };
const char *const sq_cpu_flag_names[] = {"neon", "dotprod", NULL};

unsigned sq_cpu_detect(void) {
    unsigned long have = getauxval(AT_HWCAP);
    return (have & HWCAP_ASIMD ? NEON : 0u) | (have & HWCAP_ASIMDDP ? DOTPROD : 0u);
}

const sq_isa sq_isas[] = {
    {"neon", NEON, sq_kernels_init_neon},
    {"neon_dotprod", NEON | DOTPROD, sq_kernels_init_neon_dotprod},
    {NULL, 0, NULL},
};
