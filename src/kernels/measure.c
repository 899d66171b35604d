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

double sq_measure_bf16(void) {
    enum { ROWS = 8, COLUMNS = 48, PAIRS = 128, TIMES = 4000 };
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
                kn->tile_bf16(ROWS, COLUMNS, PAIRS, a, PAIRS, 1, a + ROWS * PAIRS, 16 * PAIRS, c,
                              COLUMNS);
            }
            sq_free(a);
        }
        double rate = 4e-9 * ROWS * COLUMNS * PAIRS * TIMES * sq_threads() / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    return failed > 0 ? 0 : best;
}

double sq_measure_int8(void) {
    enum { N = 384, K = 512, ROWS = 512, TIMES = 4 };
    double best = 0;
    sq_weight w;
    uint8_t *codes = sq_alloc((size_t)N * K, 1, "the product test", NULL);
    float *x = sq_alloc((size_t)ROWS * (N + K) + N, sizeof *x, "the product test", NULL);
    if (codes == NULL || x == NULL ||
        sq_weight_codes(&w, 8, codes, x, NULL, N, K, K, K, NULL) != SQ_OK) {
        sq_free(codes);
        sq_free(x);
        return 0;
    }
    const sq_product p = {&w, NULL, x + ROWS * K, N};
    for (int run = 0; run < 5; run++) {
        double t = sq_now();
        for (int i = 0; i < TIMES; i++) {
            sq_matmul_rounded(&p, 1, SQ_ROUND_8_SYMMETRIC, x, K, ROWS);
        }
        double rate = 2e-9 * N * K * ROWS * TIMES / (sq_now() - t);
        best = rate > best ? rate : best;
    }
    sq_weight_free(&w);
    sq_free(codes);
    sq_free(x);
    return best;
}
