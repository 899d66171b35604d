/* What this machine can do at most: read bandwidth, and products of each kind on data that stays in
 * the caches. */
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

/* Numbers for x[n][n], weights [n][n] and y[n][n], all written: pages that are not are one. */
static float *squares(int64_t n) {
    float *p = sq_alloc_raw((size_t)(3 * n * n), sizeof *p, "the product test", NULL);
    for (int64_t i = 0; p != NULL && i < 3 * n * n; i++) {
        p[i] = (float)(i * 2654435761 % 2001 - 1000) * 1e-3f;
    }
    return p;
}

double sq_measure_sgemm(void) {
    const int64_t n = 1024;
    float *p = squares(n);
    double best = 0;
    for (int run = 0; p != NULL && run < 5; run++) {
        double t = sq_now();
        sq_sgemm(1, n, n, n, 1.0f, p, n, p + n * n, n, 0.0f, p + 2 * n * n, n);
        double rate = 2e-9 * (double)(n * n * n) / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    sq_free(p);
    return best;
}

double sq_measure_bf16(void) {
    enum { ROWS = 64, COLUMNS = 96, PAIRS = 512, TIMES = 100 };
    const sq_kernels *kn = sq_kernels_get();
    double best = 0;
    int failed = 0;
    for (int run = 0; kn->tile_bf16 != NULL && run < 5; run++) {
        double t = sq_now();
#pragma omp parallel num_threads(sq_threads()) reduction(+ : failed)
        {
            uint32_t *a = sq_alloc((ROWS + COLUMNS) * PAIRS, sizeof *a, "the product test", NULL);
            float c[ROWS * COLUMNS] = {0};
            failed += a == NULL;
            for (int i = 0; a != NULL && i < TIMES; i++) {
                kn->tile_bf16(ROWS, COLUMNS, PAIRS, a, PAIRS, a + ROWS * PAIRS, 16 * PAIRS, c,
                              COLUMNS);
            }
            sq_free(a);
        }
        double rate = 4e-9 * ROWS * COLUMNS * PAIRS * TIMES * sq_threads() / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    return failed > 0 ? 0 : best;
}

/* 256 rows, as a prompt's chunk; 0 without memory. */
double sq_measure_rounded(int bits, sq_rounding how) {
    const int64_t n = 1024, rows = 256;
    float *p = squares(n);
    sq_weight dense, w = {0};
    double best = 0;
    if (p == NULL || sq_weight_dense(&dense, SQ_F32, p + n * n, n, n, NULL) != SQ_OK ||
        sq_weight_round(&w, &dense, bits, NULL) != SQ_OK) {
        sq_free(p);
        return 0;
    }
    for (int run = 0; run < 5; run++) {
        double t = sq_now();
        sq_matmul_rounded(&(sq_product){&w, NULL, p + 2 * n * n, n}, 1, how, p, n, rows);
        double rate = 2e-9 * (double)(rows * n * n) / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    sq_weight_free(&w);
    sq_free(p);
    return best;
}
