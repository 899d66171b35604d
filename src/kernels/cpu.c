/* The choice of the table; the flags and rows are those of cpu_ARCHITECTURE.c. */
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/internal.h"

static sq_kernels tables[SQ_MOST_ISAS]; /* table i holds every ISA up to i */
static const sq_kernels *available[SQ_MOST_ISAS];
static size_t n_available;
static _Atomic(const sq_kernels *) chosen;
static char flag_text[96];
static int default_threads;
static atomic_int wanted_threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void write_flags(unsigned have) {
    for (size_t i = 0; sq_cpu_flag_names[i] != NULL; i++) {
        if (have >> i & 1) {
            strcat(flag_text, flag_text[0] == '\0' ? "" : " ");
            strcat(flag_text, sq_cpu_flag_names[i]);
        }
    }
}

static sq_status choose(const char *mask, sq_error *err);

static void make_tables(void) {
    unsigned have = sq_cpu_detect();
    write_flags(have);
    default_threads = omp_get_max_threads();
    sq_kernels_init_c(&tables[0]);
    tables[0].name = "c";
    available[n_available++] = &tables[0];
    for (size_t i = 0; sq_isas[i].name != NULL; i++) {
        if ((sq_isas[i].needs & ~have) == 0) {
            sq_kernels *t = &tables[n_available];
            *t = t[-1]; /* all that the CPU has of the rows before */
            sq_isas[i].init(t);
            t->name = sq_isas[i].name;
            available[n_available++] = t;
        }
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

/* "c", "c or avx2", "c, avx2 or avx512", … */
static const char *names(char *out, size_t size) {
    size_t used = 0;
    for (size_t i = 0; i < n_available; i++) {
        const char *between = i == 0 ? "" : i + 1 < n_available ? ", " : " or ";
        used += (size_t)snprintf(out + used, size - used, "%s%s", between, available[i]->name);
    }
    return out;
}

static sq_status choose(const char *mask, sq_error *err) {
    const sq_kernels *best = NULL;
    for (const char *s = mask; *s != '\0';) {
        size_t n = strcspn(s, ",");
        const sq_kernels *t = find(s, n);
        if (t == NULL) {
            char all[128];
            return sq_fail(err, SQ_EARG, "no such kernels on this CPU; got '%.*s', wanted %s",
                           (int)n, s, names(all, sizeof all));
        }
        best = best == NULL || t > best ? t : best;
        s += n + (s[n] == ',');
    }
    atomic_store(&chosen, best != NULL ? best : available[n_available - 1]);
    return SQ_OK;
}

void sq_kernels_use(const sq_kernels *t) {
    pthread_once(&once, make_tables);
    atomic_store(&chosen, t);
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
