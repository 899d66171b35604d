/* sq_matmul for every kind of weight against a naive double product: odd shapes, groups that divide
 * nothing, strides, bias, no memory, any number of threads; and what surrounds it. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/kernels.h"

static uint32_t seed = 7;

static float uniform(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

/* A weight, the numbers it stands for, and the size of what is summed to make each of them (offset
 * and code * scale cancel). */
typedef struct fixture {
    sq_weight w;
    double *value, *size;
    char *bytes; /* a dense matrix's memory, from an odd address */
} fixture;

static void make_dense(fixture *f, sq_dtype t, int64_t n, int64_t k) {
    size_t count = (size_t)(n * k);
    float *v = malloc(count * 4), *back = malloc(count * 4);
    char *exact = malloc(count * sq_dtype_size(t));
    f->value = malloc(count * sizeof(double));
    f->size = malloc(count * sizeof(double));
    f->bytes = malloc(count * sq_dtype_size(t) + 1);
    for (size_t i = 0; i < count; i++) {
        v[i] = uniform();
    }
    assert_true(sq_from_f32(exact, t, v, count));
    assert_true(sq_to_f32(back, exact, t, count));
    memcpy(f->bytes + 1, exact, count * sq_dtype_size(t));
    for (size_t i = 0; i < count; i++) {
        f->value[i] = (double)back[i];
        f->size[i] = fabs(f->value[i]);
    }
    assert_int_equal(sq_weight_dense(&f->w, t, f->bytes + 1, n, k, NULL), SQ_OK);
    free(v);
    free(back);
    free(exact);
}

static void make_codes(fixture *f, int bits, int64_t n, int64_t k, int64_t group, int symmetric) {
    int64_t kp = (k + group - 1) / group * group, groups = kp / group;
    uint8_t *packed = calloc((size_t)(n * kp), 1);
    float *scales = calloc((size_t)(n * groups), 4);
    uint8_t *zeros = calloc((size_t)(n * groups), 1);
    f->value = malloc((size_t)(n * k) * sizeof(double));
    f->size = malloc((size_t)(n * k) * sizeof(double));
    f->bytes = NULL;
    for (int64_t i = 0; i < n * groups; i++) {
        scales[i] = 0.01f + fabsf(uniform());
        zeros[i] = (uint8_t)(symmetric ? 1 << (bits - 1) : (int)(i * 7 % (1 << bits)));
    }
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < kp; c++) {
            /* codes beyond k are not zero: x must be */
            uint32_t q = (uint32_t)((uniform() + 1.0f) * 4096.0f) % (1u << bits);
            int64_t g = r * groups + c / group;
            packed[r * kp + c] = (uint8_t)q;
            if (c < k) {
                f->value[r * k + c] = ((double)q - zeros[g]) * (double)scales[g];
                f->size[r * k + c] = ((double)q + zeros[g]) * (double)scales[g];
            }
        }
    }
    assert_int_equal(sq_weight_codes(&f->w, bits, packed, scales, symmetric ? NULL : zeros, n, k,
                                     kp, group, NULL),
                     SQ_OK);
    free(packed);
    free(scales);
    free(zeros);
}

static void drop(fixture *f) {
    sq_weight_free(&f->w);
    free(f->value);
    free(f->size);
    free(f->bytes);
}

/* x has NaN between its rows, and ends with its last column; y has a canary between its rows.
 * Returns the number of wrong results: it also runs on threads where cmocka cannot assert. */
static int wrong_products(const fixture *f, int64_t rows, int with_bias) {
    int64_t n = f->w.n, k = f->w.k, ldx = k + 3, ldy = n + 2;
    float *x = malloc((size_t)((rows - 1) * ldx + k) * 4), *y = malloc((size_t)(rows * ldy) * 4);
    float *bias = malloc((size_t)n * 4);
    for (int64_t i = 0; i < (rows - 1) * ldx + k; i++) {
        x[i] = i % ldx < k ? uniform() : NAN;
    }
    for (int64_t i = 0; i < rows * ldy; i++) {
        y[i] = 12345.0f;
    }
    for (int64_t i = 0; i < n; i++) {
        bias[i] = uniform();
    }
    sq_matmul(&f->w, x, ldx, rows, with_bias ? bias : NULL, y, ldy);
    int wrong = 0;
    for (int64_t i = 0; i < rows * ldy; i++) {
        int64_t row = i / ldy, col = i % ldy;
        if (col >= n) {
            wrong += y[i] != 12345.0f;
            continue;
        }
        double sum = with_bias ? (double)bias[col] : 0.0, size = fabs(sum);
        for (int64_t c = 0; c < k; c++) {
            sum += (double)x[row * ldx + c] * f->value[col * k + c];
            size += fabs((double)x[row * ldx + c]) * f->size[col * k + c];
        }
        double tol = 1.2e-7 * (4.0 + 2.0 * sqrt((double)k)) * size;
        wrong += !(fabs((double)y[i] - sum) <= tol);
    }
    free(x);
    free(y);
    free(bias);
    return wrong;
}

static void check_rows(const fixture *f) {
    static const int64_t counts[] = {1, 2, 3, 8, 9, 17};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int wrong = wrong_products(f, counts[i], (int)(i & 1));
        if (wrong != 0) {
            fail_msg("kernels %s, kind %d, %lld x %lld, group %lld, %lld rows: %d are wrong",
                     sq_kernels_get()->name, (int)f->w.kind, (long long)f->w.n, (long long)f->w.k,
                     (long long)f->w.group, (long long)counts[i], wrong);
        }
    }
}

/* Runs a check once with every table of this CPU. */
static void each_table(void (*check)(void)) {
    const sq_kernels *tables[16];
    size_t count = sq_kernels_available(tables, 16);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(sq_kernels_select(tables[i]->name, NULL), SQ_OK);
        check();
    }
    assert_int_equal(sq_kernels_select(NULL, NULL), SQ_OK);
}

static void dense_all(void) {
    static const int64_t shapes[][2] = {{1, 1},   {1, 7},     {5, 3},    {16, 16}, {17, 31},
                                        {33, 70}, {129, 129}, {70, 288}, {3, 1000}};
    static const sq_dtype types[] = {SQ_F32, SQ_F16, SQ_BF16};
    for (size_t i = 0; i < 3 * (sizeof shapes / sizeof *shapes); i++) {
        fixture f;
        make_dense(&f, types[i % 3], shapes[i / 3][0], shapes[i / 3][1]);
        check_rows(&f);
        drop(&f);
    }
}

static void quantized_all(void) {
    static const int64_t shapes[][3] = {
        {1, 1, 1},    {1, 8, 8},     {3, 5, 4},     {2, 100, 32},  {65, 128, 128}, {7, 129, 128},
        {4, 288, 32}, {5, 288, 288}, {3, 288, 96},  {6, 288, 128}, {9, 320, 64},   {2, 340, 4},
        {3, 340, 20}, {5, 512, 256}, {3, 600, 16},  {2, 70, 24},   {4, 1000, 40},  {2, 700, 384},
        {3, 96, 48},  {2, 33, 32},   {70, 257, 32}, {3, 161, 8},   {2, 77, 12}};
    for (size_t i = 0; i < 2 * (sizeof shapes / sizeof *shapes); i++) {
        const int64_t *s = shapes[i / 2];
        fixture f;
        make_codes(&f, i % 2 ? 8 : 4, s[0], s[1], s[2], (int)(i / 2 % 2));
        check_rows(&f);
        drop(&f);
    }
}

static void dense(void **state) {
    (void)state;
    each_table(dense_all);
}

static void quantized(void **state) {
    (void)state;
    each_table(quantized_all);
}

/* Columns that fill up the last group take no memory: a kernel that skipped them would break the
 * run of addresses that a CPU fetches ahead. */
static void padding(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {
        {17, 576, 128}, {5, 288, 256}, {3, 33, 32}, {16, 129, 128}, {2, 700, 384}};
    for (size_t i = 0; i < 2 * (sizeof shapes / sizeof *shapes); i++) {
        const int64_t *s = shapes[i / 2], bits = i % 2 ? 8 : 4, rows = (s[0] + 15) / 16 * 16;
        fixture f;
        make_codes(&f, (int)bits, s[0], s[1], s[2], 1);
        int64_t codes = (s[1] + 7) / 8 * bits, scales = (s[1] + s[2] - 1) / s[2] * 4;
        assert_int_equal(sq_weight_bytes(&f.w), rows * (codes + scales + 4));
        drop(&f);
    }
}

/* Results are the same bits with any number of threads. */
static void threads(void **state) {
    (void)state;
    enum { N = 700, K = 1000, ROWS = 12 };
    float *x = malloc(ROWS * K * 4), *y = malloc(2 * ROWS * N * 4);
    for (int i = 0; i < ROWS * K; i++) {
        x[i] = uniform();
    }
    for (int kind = 0; kind < 3; kind++) {
        fixture f;
        if (kind == 0) {
            make_dense(&f, SQ_BF16, N, K);
        } else {
            make_codes(&f, kind == 1 ? 4 : 8, N, K, 40, 0);
        }
        for (int rows = 2; rows <= ROWS; rows += 10) {
            sq_set_threads(1);
            assert_int_equal(sq_threads(), 1);
            sq_matmul(&f.w, x, K, rows, NULL, y, N);
            for (int t = 2; t <= 5; t++) {
                sq_set_threads(t);
                sq_matmul(&f.w, x, K, rows, NULL, y + ROWS * N, N);
                assert_memory_equal(y, y + ROWS * N, (size_t)rows * N * 4);
            }
        }
        drop(&f);
    }
    sq_set_threads(0);
    free(x);
    free(y);
}

/* A new thread has no scratch yet, and gets none. Returns its argument if a result is wrong. */
static void *product_without_memory(void *p) {
    return wrong_products(p, 2, 1) + wrong_products(p, 9, 0) != 0 ? p : NULL;
}

static void no_memory(void **state) {
    (void)state;
    for (int bits = 4; bits <= 8; bits += 4) {
        fixture f;
        pthread_t t;
        void *bad = &f;
        make_codes(&f, bits, 9, 100, 20, 0);
        sq_memory_limit(1);
        assert_int_equal(pthread_create(&t, NULL, product_without_memory, &f), 0);
        pthread_join(t, &bad);
        sq_memory_limit(0);
        assert_null(bad);
        drop(&f);
    }
}

static void *products(void *p) {
    const fixture *f = p;
    for (int i = 0; i < 20; i++) {
        float x[9 * 300], y[9 * 50];
        for (int c = 0; c < 9 * 300; c++) {
            x[c] = (float)(c % 300 % 7) - 3.0f;
        }
        for (int64_t rows = 1; rows <= 9; rows += 8) {
            sq_matmul(&f->w, x, 300, rows, NULL, y, 50); /* every row is the same */
            for (int64_t r = 0; r < f->w.n; r++) {
                double sum = 0, size = 0;
                for (int c = 0; c < 300; c++) {
                    sum += (double)x[c] * f->value[r * 300 + c];
                    size += fabs((double)x[c]) * f->size[r * 300 + c];
                }
                if (!(fabs(sum - (double)y[r]) <= 5e-6 * size)) {
                    return p;
                }
            }
        }
    }
    return NULL;
}

static void concurrent(void **state) {
    (void)state;
    fixture f;
    pthread_t t[3];
    make_codes(&f, 4, 50, 300, 32, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&t[i], NULL, products, &f), 0);
    }
    int wrong = 0;
    for (int i = 0; i < 3; i++) {
        void *bad = &f;
        pthread_join(t[i], &bad);
        wrong += bad != NULL;
    }
    assert_int_equal(wrong, 0);
    drop(&f);
}

static void sgemm(void **state) {
    (void)state;
    enum { M = 131, N = 140, K = 150 };
    float *a = malloc(M * K * 4), *b = malloc(N * K * 4), *c = malloc(M * N * 4);
    for (int i = 0; i < M * K; i++) {
        a[i] = uniform();
    }
    for (int i = 0; i < N * K; i++) {
        b[i] = uniform();
    }
    for (int trans = 0; trans < 2; trans++) {
        for (int i = 0; i < M * N; i++) {
            c[i] = 1.0f;
        }
        sq_sgemm(trans, M, N, K, 0.5f, a, K, b, trans ? K : N, 2.0f, c, N);
        for (int i = 0; i < M * N; i++) {
            double s = 0, size = 2;
            for (int k = 0; k < K; k++) {
                float v = trans ? b[i % N * K + k] : b[k * N + i % N];
                s += (double)a[i / N * K + k] * (double)v;
                size += fabs((double)a[i / N * K + k] * (double)v);
            }
            assert_true(fabs(0.5 * s + 2.0 - (double)c[i]) <= 1e-6 * size);
        }
    }
    free(a);
    free(b);
    free(c);
}

/* In f32 the sums' order is the library's; bf16 rounds each factor by at most 2^-9 of it. */
static void syrk_of(const char *isa, double bound) {
    enum { M = 131, K = 249 };
    float *a = malloc(M * K * 4), *xx = calloc(K * K, 4);
    for (int i = 0; i < M * K; i++) {
        a[i] = uniform();
    }
    assert_int_equal(sq_kernels_select(isa, NULL), SQ_OK);
    for (int time = 0; time < 2; time++) { /* it accumulates */
        sq_syrk_accumulate(a, K, M, K, xx);
    }
    sq_syrk_mirror(K, xx);
    sq_kernels_select("", NULL);
    for (int i = 0; i < K * K; i++) {
        double s = 0, size = 0;
        for (int m = 0; m < M; m++) {
            double v = 2.0 * (double)a[m * K + i / K] * (double)a[m * K + i % K];
            s += v;
            size += fabs(v);
        }
        assert_true(fabs(s - (double)xx[i]) <= bound * size);
        assert_true(xx[i] == xx[i % K * K + i / K]);
    }
    free(a);
    free(xx);
}

/* Parts of a matrix at whole and at odd places, beside sums in doubles. */
static void operand(void **state) {
    (void)state;
    enum { K = 2677, N = 61, M = 5 };
    static const int parts[][4] = {{0, K, 0, 61}, {K - 45, 45, 16, 45}, {0, 32, 48, 13},
                                   {3, 7, 5, 9},  {2, 5, 16, 16},       {K - 1, 1, 0, 61},
                                   {0, 0, 0, 16}, {K - 13, 13, 32, 29}};
    double bound = sq_kernels_get()->tile_bf16 == NULL ? 1e-6 : 8e-3; /* bf16 rounds by 2^-9 */
    float b[K * N], a[M * K], c[M * N];
    sq_operand o;
    for (int i = 0; i < K * N; i++) {
        b[i] = uniform();
    }
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
        int row = parts[p][0], rows = parts[p][1], column = parts[p][2], columns = parts[p][3];
        for (int i = 0; i < M * K; i++) {
            a[i] = uniform();
        }
        for (int i = 0; i < M * N; i++) {
            c[i] = 0.25f;
        }
        assert_int_equal(sq_operand_open(&o, b, N, K, N, row >= column + columns, NULL), SQ_OK);
        sq_operand_add(&o, row, rows, column, columns, a, K, M, c, N);
        for (int i = 0; i < M * N; i++) {
            double want = 0.25, size = 0.25;
            for (int r = 0; r < rows && i % N < columns; r++) {
                double v = (double)a[i / N * K + r] * (double)b[(row + r) * N + column + i % N];
                want += v;
                size += fabs(v);
            }
            assert_true(fabs(want - (double)c[i]) <= (size > 0.25 ? bound * size : 0));
        }
        sq_operand_close(&o);
    }
}

static void quadratic(void **state) {
    (void)state;
    enum { M = 150, K = 531 };
    float *d = malloc(M * K * 4), *c = malloc(K * K * 4), *tmp = malloc(M * K * 4);
    double want = 0, size = 0;
    for (int i = 0; i < M * K; i++) {
        d[i] = uniform();
    }
    for (int i = 0; i < K; i++) {
        for (int j = 0; j <= i; j++) {
            c[i * K + j] = c[j * K + i] = uniform();
        }
    }
    for (int m = 0; m < M; m++) {
        for (int i = 0; i < K * K; i++) {
            double v = (double)d[m * K + i / K] * (double)c[i] * (double)d[m * K + i % K];
            want += v;
            size += fabs(v);
        }
    }
    double two = sq_quadratic(d, M, c, K, tmp);
    sq_set_threads(1);
    double one = sq_quadratic(d, M, c, K, tmp);
    sq_set_threads(0);
    assert_true(fabs(two - want) <= 1e-6 * size && one == two);
    free(d);
    free(c);
    free(tmp);
}

static void syrk(void **state) {
    (void)state;
    const sq_kernels *tables[16];
    size_t n = sq_kernels_available(tables, 16);
    for (size_t i = 0; i < n; i++) {
        syrk_of(tables[i]->name, tables[i]->tile_bf16 == NULL ? 1e-6 : 4.1e-3);
    }
}

/* Inputs rounded to bf16, weights as they are: odd shapes, a bias, what lies beside the rows stays.
 */
static void bf16_of(int64_t n, int64_t k, int64_t rows) {
    fixture f;
    int64_t ldx = k + 3, ldy = n + 2;
    make_dense(&f, SQ_BF16, n, k);
    float *x = malloc((size_t)(rows * ldx) * 4), *y = malloc((size_t)(rows * ldy) * 4), *bias = x;
    for (int64_t i = 0; i < rows * ldx; i++) {
        x[i] = i % ldx < k ? uniform() : NAN;
    }
    for (int64_t i = 0; i < rows * ldy; i++) {
        y[i] = 12345.0f;
    }
    bias = malloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) {
        bias[i] = uniform();
    }
    sq_matmul_bf16(&f.w, x, ldx, rows, bias, y, ldy);
    for (int64_t i = 0; i < rows * ldy; i++) {
        int64_t r = i / ldy, c = i % ldy;
        if (c >= n) {
            assert_true(y[i] == 12345.0f);
            continue;
        }
        double sum = (double)bias[c], size = fabs(sum);
        for (int64_t j = 0; j < k; j++) {
            double t = (double)x[r * ldx + j] * f.value[c * k + j];
            sum += t;
            size += fabs(t);
        }
        assert_true(fabs(sum - (double)y[i]) <= 4e-3 * size);
    }
    free(x);
    free(y);
    free(bias);
    drop(&f);
}

static void bf16_all(void) {
    static const int64_t shapes[][3] = {{1, 1, 9},     {17, 31, 9},    {48, 64, 16},
                                        {49, 129, 17}, {33, 70, 40},   {100, 3, 1027},
                                        {5, 6, 3},     {200, 2563, 70}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bf16_of(shapes[i][0], shapes[i][1], shapes[i][2]);
    }
}

static void bf16(void **state) {
    (void)state;
    each_table(bf16_all);
}

static void refused(void **state) {
    (void)state;
    sq_weight w;
    sq_error err = {0};
    uint8_t words[64] = {0};
    float scales[64] = {0};
    uint8_t zeros[64] = {0};
    static const int64_t bad[][5] = {/* bits, n, k, k_padded, group */
                                     {3, 1, 8, 8, 8},
                                     {4, 0, 8, 8, 8},
                                     {4, 1, 0, 8, 8},
                                     {4, 1, 9, 8, 8},
                                     {4, 1, 8, 8, 0},
                                     {4, 1, 8, 8, 3},
                                     {8, 1, 8, 8, -8},
                                     {8, INT64_MAX / 4, 8, 64, 8},
                                     {4, 8, 8, INT64_MAX / 8 * 8, 8}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int64_t *b = bad[i];
        assert_true(sq_weight_codes(&w, (int)b[0], words, scales, NULL, b[1], b[2], b[3], b[4],
                                    &err) != SQ_OK);
        assert_null(w.owned);
    }
    assert_int_equal(sq_weight_dense(&w, SQ_I32, words, 1, 1, &err), SQ_EARG);
    assert_int_equal(sq_weight_dense(&w, SQ_F32, NULL, 1, 1, &err), SQ_EARG);
    assert_int_equal(sq_weight_dense(&w, SQ_F32, words, INT64_MAX / 2, 3, &err), SQ_EARG);
    size_t used = sq_memory_used();
    for (long nth = 1; nth <= 4; nth++) {
        sq_memory_fail_after(nth);
        assert_int_equal(sq_weight_codes(&w, 4, words, scales, zeros, 2, 8, 8, 8, &err), SQ_ENOMEM);
    }
    sq_memory_fail_after(0);
    assert_int_equal(sq_memory_used(), used);
}

static void selection(void **state) {
    (void)state;
    sq_error err = {0};
    const sq_kernels *tables[16];
    size_t count = sq_kernels_available(tables, 16);
    assert_true(count >= 1);
    assert_string_equal(tables[0]->name, "c");
    unsetenv("SQUINT_CPU");
    assert_int_equal(sq_kernels_select("c", &err), SQ_OK);
    assert_ptr_equal(sq_kernels_get(), tables[0]);
    assert_int_equal(sq_kernels_select("", &err), SQ_OK);
    assert_ptr_equal(sq_kernels_get(), tables[count - 1]);
    assert_int_equal(sq_kernels_select("c,pdp11", &err), SQ_EARG);
    assert_ptr_equal(sq_kernels_get(), tables[count - 1]);
    setenv("SQUINT_CPU", "c", 1);
    assert_int_equal(sq_kernels_select(NULL, &err), SQ_OK);
    assert_ptr_equal(sq_kernels_get(), tables[0]);
    setenv("SQUINT_CPU", "none such", 1);
    assert_int_equal(sq_kernels_select(NULL, &err), SQ_EARG);
    unsetenv("SQUINT_CPU");
    assert_int_equal(sq_kernels_select(NULL, &err), SQ_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense),     cmocka_unit_test(quantized), cmocka_unit_test(padding),
        cmocka_unit_test(threads),   cmocka_unit_test(no_memory), cmocka_unit_test(concurrent),
        cmocka_unit_test(sgemm),     cmocka_unit_test(syrk),      cmocka_unit_test(quadratic),
        cmocka_unit_test(operand),   cmocka_unit_test(bf16),      cmocka_unit_test(refused),
        cmocka_unit_test(selection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
