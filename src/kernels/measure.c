/* What this machine can do at most: read bandwidth and f32 products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/internal.h"

double sq_measure_bandwidth(void) {
    const size_t n = (size_t)32 << 20; /* 128 MiB: beyond the caches */
    float *p = sq_alloc_raw(n, sizeof *p, "the bandwidth test", NULL);
    if (p == NULL) {
        return 0;
    }
    const sq_kernels *tables[16]; /* the best one, whatever the mask: the memory is measured */
    const sq_kernels *kn = tables[sq_kernels_available(tables, 16) - 1];
#pragma omp parallel for schedule(static) num_threads(sq_threads())
    for (size_t i = 0; i < 1024; i++) { /* each thread touches first what it will read */
        memset(p + i * (n / 1024), 0, n / 1024 * sizeof *p);
    }
    double best = 0;
    float sink = 0;
    for (int run = 0; run < 5; run++) {
        double t = sq_now();
#pragma omp parallel for schedule(static) num_threads(sq_threads()) reduction(+ : sink)
        for (size_t i = 0; i < 1024; i++) {
            sink += kn->dot_f32(p + i * (n / 1024), p + i * (n / 1024), (int64_t)(n / 1024));
        }
        double rate = (double)(n * sizeof *p) / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    sq_free(p);
    return sink == 0 ? best : 0;
}

double sq_measure_sgemm(void) {
    const int64_t n = 1024;
    float *p = sq_alloc((size_t)(3 * n * n), sizeof *p, "the product test", NULL);
    if (p == NULL) {
        return 0;
    }
    double best = 0;
    for (int run = 0; run < 5; run++) {
        double t = sq_now();
        sq_sgemm(1, n, n, n, 1.0f, p, n, p + n * n, n, 0.0f, p + 2 * n * n, n);
        double rate = 2e-9 * (double)(n * n * n) / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    sq_free(p);
    return best;
}
