/* Timings of one table: a decode row against the memory's bandwidth, a prefill against the rate of
 * the plain f32 product, and each small kernel over one row. Medians, because other programs
 * disturb single runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "checkasm.h"

enum { N = 4096, K = 4096, RUNS = 21, MANY = 128 };

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { BF16 = 0 };

/* y = x W^T, of x rounded to so many bits, to bf16, or as it is (32). */
static void product(const sq_weight *w, int bits, const float *x, int64_t rows, float *y) {
    const sq_product p = {w, NULL, y, N};
    if (bits == BF16) {
        sq_matmul_bf16(w, x, K, rows, NULL, y, N);
    } else if (bits < 32) {
        sq_matmul_rounded(&p, 1, bits == 8 ? SQ_ROUND_8_SYMMETRIC : SQ_ROUND_16, x, K, rows);
    } else {
        sq_matmul(w, x, K, rows, NULL, y, N);
    }
}

static double median_seconds(const sq_weight *w, int bits, const float *x, int64_t rows, float *y) {
    double t[RUNS];
    int runs = rows > 1 ? 5 : RUNS;
    product(w, bits, x, rows, y);
    for (int i = 0; i < runs; i++) {
        t[i] = sq_now();
        product(w, bits, x, rows, y);
        t[i] = sq_now() - t[i];
    }
    qsort(t, (size_t)runs, sizeof *t, by_size);
    return t[runs / 2];
}

static void report(const char *kind, const sq_weight *w, int bits, const float *x, float *y) {
    double one = median_seconds(w, bits, x, 1, y), four = median_seconds(w, bits, x, 4, y),
           many = median_seconds(w, bits, x, MANY, y);
    printf("%-14s %-16s 1 row %8.3f ms %7.2f GB/s   4 rows %8.3f ms   %d rows %7.1f GFLOP/s\n",
           isa->name, kind, 1e3 * one, 1e-9 * (double)sq_weight_bytes(w) / one, 1e3 * four, MANY,
           2e-9 * N * K * MANY / many);
}

static void quantized(int bits, int64_t group, const float *x, float *y) {
    sq_weight w;
    char kind[32];
    uint8_t *codes = calloc((size_t)N * K, 1);
    float *scales = calloc((size_t)(N * K / group), 4);
    if (codes != NULL && scales != NULL &&
        sq_weight_codes(&w, bits, codes, scales, NULL, N, K, K, group, NULL) == SQ_OK) {
        for (int x_bits = 8; x_bits <= 16; x_bits += 8) {
            snprintf(kind, sizeof kind, "q%d of %lld int%d", bits, (long long)group, x_bits);
            report(kind, &w, x_bits, x, y);
        }
        sq_weight_free(&w);
    }
    free(codes);
    free(scales);
}

/* Medians of a call over a row, twenty at a time. */
#define TIME(what, call)                                                                           \
    for (int i = 0; i < RUNS; i++) {                                                               \
        memcpy(y, x, K * sizeof *y);                                                               \
        t[i] = sq_now();                                                                           \
        for (int again = 0; again < 20; again++) {                                                 \
            call;                                                                                  \
        }                                                                                          \
        t[i] = sq_now() - t[i];                                                                    \
    }                                                                                              \
    qsort(t, RUNS, sizeof *t, by_size);                                                            \
    printf("%-14s %-16s %8.3f us a row of %d\n", isa->name, what, 5e4 * t[RUNS / 2], K)

/* Each small kernel; x and y have room for two rows. */
static void small(float *x, float *y) {
    static uint16_t w[K];
    static int8_t low[K], high[K];
    float lo, hi, *two = x + K;
    double t[RUNS];
    for (int i = 0; i < K; i++) {
        x[i] = (float)(i % 201 - 100) * 0.01f;
        two[i] = 2.0f; /* products stay normal numbers */
        w[i] = 0x3c00;
    }
    TIME("range", isa->range(x, K, &lo, &hi));
    TIME("round_i8", isa->round_i8(low, x, 0.01f, 3.0f, K));
    TIME("round_i16", isa->round_i16(low, high, x, 500.0f, K));
    TIME("dot_f32", y[0] += isa->dot_f32(x, two, K));
    TIME("axpy", isa->axpy(y, 1e-3f, x, K));
    TIME("rmsnorm", isa->rmsnorm(y, x, two, 1e-6f, K));
    TIME("layernorm", isa->layernorm(y, x, two, two, 1e-6f, K));
    TIME("softmax", isa->softmax(y, K));
    TIME("silu_mul", isa->silu_mul(y, two, K));
    TIME("quick_gelu", isa->quick_gelu(y, K));
    TIME("gelu_erf", isa->gelu_erf(y, K));
    TIME("gelu_tanh", isa->gelu_tanh(y, K));
    TIME("rope", isa->rope(y, x, x + K / 2, K));
    TIME("round_back", isa->round_back(x, K, 0.1f, 7.0f, 15.0f, y));
    TIME("round_loss", y[0] += isa->round_loss(x, two, K, 0.1f, 7.0f, 15.0f));
    TIME("widen_f16", isa->widen_f16(y, w, K));
    TIME("widen_bf16", isa->widen_bf16(y, w, K));
    TIME("widen_i8", isa->widen_i8(y, low, 0.5f, K));
}

/* The calibration's second moment: the half that it computes, against the tile's own rate. */
static void second_moment(const float *x) {
    enum { ROWS = 128, SIZE = K, BLOCKS = 4 };
    float *rows = malloc((size_t)ROWS * BLOCKS * SIZE * 4), *xx = calloc((size_t)SIZE * SIZE, 4);
    double t[5], limit = isa->tile_bf16 == NULL ? sq_measure_sgemm() : sq_measure_bf16();
    for (int i = 0; rows != NULL && i < BLOCKS; i++) {
        memcpy(rows + i * ROWS * SIZE, x, (size_t)ROWS * SIZE * 4);
    }
    for (int i = 0; rows != NULL && xx != NULL && i < 5; i++) {
        t[i] = sq_now();
        sq_syrk_accumulate(rows, SIZE, ROWS * BLOCKS, SIZE, xx);
        t[i] = sq_now() - t[i];
    }
    qsort(t, 5, sizeof *t, by_size);
    double rate = 1e-9 * SIZE * (SIZE + 1) * ROWS * BLOCKS / t[2];
    printf("%-14s X'X of %d columns, %d rows: %.1f GFLOP/s, %.2f of %.1f (%s)\n", isa->name, SIZE,
           ROWS * BLOCKS, rate, rate / limit, limit,
           isa->tile_bf16 == NULL ? "f32 product" : "bf16 tile");
    free(rows);
    free(xx);
}

void bench(void) {
    static const char *const names[] = {"f32", "f16", "bf16"};
    static const sq_dtype types[] = {SQ_F32, SQ_F16, SQ_BF16};
    float *x = calloc((size_t)MANY * K, 4), *y = calloc((size_t)MANY * N, 4);
    char *dense = malloc((size_t)N * K * 4);
    if (dense != NULL) {
        memset(dense, 0x3c,
               (size_t)N * K * 4); /* pages of its own, and plain numbers in each type */
    }
    printf("%-14s memory %.1f GB/s, f32 product %.1f GFLOP/s, %d threads\n", isa->name,
           1e-9 * sq_measure_bandwidth(), sq_measure_sgemm(), sq_threads());
    for (int i = 0; x != NULL && y != NULL && dense != NULL && i < 3; i++) {
        sq_weight w;
        if (sq_weight_dense(&w, types[i], dense, N, K, NULL) == SQ_OK) {
            report(names[i], &w, 32, x, y);
            if (types[i] == SQ_BF16 && isa->tile_bf16 != NULL) {
                report("bf16 times bf16", &w, BF16, x, y);
            }
        }
    }
    if (x != NULL && y != NULL) {
        second_moment(x);
        quantized(4, 32, x, y);
        quantized(4, 128, x, y);
        quantized(8, 32, x, y);
        quantized(8, 128, x, y);
        quantized(8, K, x, y);
    }
    if (x != NULL && y != NULL) {
        small(x, y);
    }
    free(x);
    free(y);
    free(dense);
}
