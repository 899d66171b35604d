/* CPU flags, and the choice of the table. */
#include <cpuid.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/internal.h"

static uint64_t xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

unsigned sq_cpu_detect(void) {
    unsigned a, b, c, d, f = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) {
        return 0;
    }
    uint64_t saved = xcr0();
    int ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
    f |= ymm && (c & bit_FMA) ? SQ_CPU_FMA : 0;
    f |= ymm && (c & bit_F16C) ? SQ_CPU_F16C : 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return f;
    }
    f |= ymm && (b & bit_AVX2) ? SQ_CPU_AVX2 : 0;
    unsigned all = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    f |= zmm && (b & all) == all ? SQ_CPU_AVX512 : 0;
    f |= (f & SQ_CPU_AVX512) && (c & bit_AVX512VNNI) ? SQ_CPU_AVX512_VNNI : 0;
    unsigned leaf1;
    if (__get_cpuid_count(7, 1, &leaf1, &b, &c, &d)) {
        f |= (f & SQ_CPU_AVX512) && (leaf1 & (1u << 5)) ? SQ_CPU_AVX512_BF16 : 0;
        f |= ymm && (leaf1 & (1u << 4)) ? SQ_CPU_AVX_VNNI : 0;
    }
    return f;
}

/* One row an ISA, from the plainest to the best: the flags it needs, and what it overrides. */
static const struct {
    const char *name;
    unsigned needs;
    void (*init)(sq_kernels *k);
} isas[] = {
    {"c", 0, sq_kernels_init_c},
    {"avx2", SQ_CPU_AVX2 | SQ_CPU_FMA | SQ_CPU_F16C, sq_kernels_init_avx2},
    {"avx512", SQ_CPU_AVX512 | SQ_CPU_AVX2 | SQ_CPU_FMA | SQ_CPU_F16C, sq_kernels_init_avx512},
    {"avx512_vnni", SQ_CPU_AVX512 | SQ_CPU_AVX512_VNNI | SQ_CPU_AVX2 | SQ_CPU_FMA | SQ_CPU_F16C,
     sq_kernels_init_avx512_vnni},
    {"avx512_bf16",
     SQ_CPU_AVX512 | SQ_CPU_AVX512_VNNI | SQ_CPU_AVX512_BF16 | SQ_CPU_AVX2 | SQ_CPU_FMA |
         SQ_CPU_F16C,
     sq_kernels_init_avx512_bf16},
};
enum { N_ISAS = sizeof isas / sizeof *isas };

static sq_kernels tables[N_ISAS]; /* table i holds every ISA up to i */
static const sq_kernels *available[N_ISAS];
static size_t n_available;
static _Atomic(const sq_kernels *) chosen;
static char flag_text[96];
static int default_threads;
static atomic_int wanted_threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void write_flags(unsigned have) {
    static const char *const names[] = {"avx2",        "fma",         "f16c",    "avx512",
                                        "avx512_vnni", "avx512_bf16", "avx_vnni"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (have >> i & 1) {
            strcat(flag_text, flag_text[0] == '\0' ? "" : " ");
            strcat(flag_text, names[i]);
        }
    }
}

static sq_status choose(const char *mask, sq_error *err);

static void make_tables(void) {
    unsigned have = sq_cpu_detect();
    write_flags(have);
    default_threads = omp_get_max_threads();
    for (int i = 0; i < N_ISAS; i++) {
        if ((isas[i].needs & ~have) != 0) {
            continue;
        }
        for (int j = 0; j <= i; j++) {
            if ((isas[j].needs & ~have) == 0) {
                isas[j].init(&tables[i]);
            }
        }
        tables[i].name = isas[i].name;
        available[n_available++] = &tables[i];
    }
    atomic_store(&chosen, available[n_available - 1]);
    const char *mask = getenv("SQUINT_CPU");
    if (mask != NULL) {
        choose(mask, NULL);
    }
}

static const sq_kernels *find(const char *name, size_t len) {
    for (size_t i = 0; i < n_available; i++) {
        if (strlen(available[i]->name) == len && memcmp(available[i]->name, name, len) == 0) {
            return available[i];
        }
    }
    return NULL;
}

static sq_status choose(const char *mask, sq_error *err) {
    const sq_kernels *best = NULL;
    for (const char *s = mask; *s != '\0';) {
        size_t n = strcspn(s, ",");
        const sq_kernels *t = find(s, n);
        if (t == NULL) {
            return sq_fail(err, SQ_EARG,
                           "no such kernels on this CPU; got '%.*s', wanted c, avx2, avx512, "
                           "avx512_vnni or avx512_bf16",
                           (int)n, s);
        }
        best = best == NULL || t > best ? t : best;
        s += n + (s[n] == ',');
    }
    atomic_store(&chosen, best != NULL ? best : available[n_available - 1]);
    return SQ_OK;
}

const sq_kernels *sq_kernels_get(void) {
    pthread_once(&once, make_tables);
    return atomic_load_explicit(&chosen, memory_order_relaxed);
}

sq_status sq_kernels_select(const char *mask, sq_error *err) {
    pthread_once(&once, make_tables);
    if (mask == NULL || mask[0] == '\0') {
        mask = getenv("SQUINT_CPU");
    }
    return choose(mask == NULL ? "" : mask, err);
}

size_t sq_kernels_available(const sq_kernels **out, size_t max) {
    sq_kernels_get();
    for (size_t i = 0; i < n_available && i < max; i++) {
        out[i] = available[i];
    }
    return n_available < max ? n_available : max;
}

const char *sq_cpu_flags(void) {
    pthread_once(&once, make_tables);
    return flag_text;
}

/* OpenMP keeps its own setting for each calling thread, so the folder's loops are told ours; the
 * calling thread's is set for the loops of other folders. */
void sq_set_threads(int n) {
    pthread_once(&once, make_tables);
    atomic_store(&wanted_threads, n > 0 ? n : 0);
    omp_set_num_threads(n > 0 ? n : default_threads);
}

int sq_threads(void) {
    int n = atomic_load_explicit(&wanted_threads, memory_order_relaxed);
    return n > 0 ? n : omp_get_max_threads();
}
