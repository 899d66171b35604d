/* Products with inputs rounded to 8 or 16 bits: every table to the bit against the C reference, few
 * rows against many, any number of threads; and the C reference against sums made from the codes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "checkasm.h"
#include "kernels/internal.h"

enum { ROWS = 40 };

typedef struct matrix {
    sq_weight w;
    double *value, *size; /* [n][k]: what it stands for, and the terms that make it */
} matrix;

/* kind 0: codes at random; 1: all 0; 2: all at the top; 3: rows of either */
static uint32_t code_of(int kind, int bits, int64_t r, int64_t c) {
    uint32_t top = (1u << bits) - 1, any = (uint32_t)((uniform() + 1.0f) * 32767.0f) & top;
    return kind == 0 ? any : kind == 1 ? 0 : kind == 2 ? top : (r + c / 3) % 2 == 0 ? 0 : top;
}

static int make(matrix *m, int bits, int kind, int centred, int64_t n, int64_t k, int64_t group) {
    int64_t kp = (k + group - 1) / group * group, groups = kp / group;
    uint8_t *packed = calloc((size_t)(n * kp), 1);
    float *scales = calloc((size_t)(n * groups), 4);
    uint8_t *zeros = calloc((size_t)(n * groups), 1);
    m->value = calloc((size_t)(n * k), sizeof(double));
    m->size = calloc((size_t)(n * k), sizeof(double));
    for (int64_t i = 0; i < n * groups; i++) {
        scales[i] = (0.01f + fabsf(uniform())) * (i % 5 == 0 ? -1.0f : 1.0f);
        if (kind % 2 == 0) { /* held in two bytes */
            scales[i] = sq_f16_to_f32(sq_f32_to_f16(scales[i]));
        }
        zeros[i] = (uint8_t)(centred ? 1 << (bits - 1) : (int)(i * 7 % (1 << bits)));
    }
    for (int64_t i = 0; i < n * kp; i++) { /* codes beyond k are not zero: x is */
        int64_t r = i / kp, c = i % kp, g = r * groups + c / group;
        uint32_t q = code_of(kind, bits, r, c);
        packed[r * kp + c] = (uint8_t)q;
        if (c < k) {
            m->value[r * k + c] = ((double)q - zeros[g]) * (double)scales[g];
            m->size[r * k + c] = (double)((1 << bits) + zeros[g]) * fabs((double)scales[g]);
        }
    }
    int ok = sq_weight_codes(&m->w, bits, packed, scales, centred ? NULL : zeros, n, k, kp, group,
                             NULL) == SQ_OK;
    free(packed);
    free(scales);
    free(zeros);
    verdict("a matrix", k,
            ok && (kind % 2 != 0 || m->w.half != NULL) &&
                (m->w.offsets == NULL && m->w.zeros == NULL) == centred,
            0, 0);
    return ok;
}

/* kind 0: at random, 1: the ends of the range, 2: one sign, 3: zeros but for one */
static void inputs(float *x, int64_t k, int64_t rows) {
    for (int64_t i = 0; i < rows * k; i++) {
        int kind = (int)(i / k % 4);
        float u = uniform();
        x[i] = kind == 0    ? u * expf(4 * uniform())
               : kind == 1  ? (u < 0 ? -3.0f : 3.0f)
               : kind == 2  ? 5.0f + u
               : i % k == 2 ? u
                            : 0.0f;
    }
}

/* One product. */
static void product(const sq_weight *w, sq_rounding how, const float *x, int64_t rows, float *y) {
    const sq_product p = {w, NULL, y, w->n};
    sq_matmul_rounded(&p, 1, how, x, w->k, rows);
}

/* The rounded numbers, by the definition; returns the largest. */
static double rounded_8(double *v, const float *x, int64_t k, int symmetric) {
    float lo = 0, hi = 0;
    double top = 0;
    for (int64_t i = 0; i < k; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    float s = symmetric ? fmaxf(-lo, hi) / 127.5f : (hi - lo) / 255.0f;
    float z = symmetric ? 0.0f : rintf(fminf(fmaxf(-128.0f - lo / s, -128.0f), 127.0f));
    for (int64_t c = 0; s > 0 && c < k; c++) {
        float q = rintf(fminf(fmaxf(x[c] / s + z, -128.0f), 127.0f));
        v[c] = (double)(q - z) * (double)s;
        top = fabs(v[c]) > top ? fabs(v[c]) : top; /* of fmax here Debian's gcc 12 for ARM dies */
    }
    return top;
}

/* To 16 bits, by pieces; what is lost is half of 1/32512 of a piece's largest. */
static void rounded_16(double *v, const sq_weight *w, const float *x) {
    for (int64_t p = 0; p < sq_weight_pieces(w); p++) {
        int64_t lo = sq_piece_start(w, p), hi = lo + sq_piece_columns(w, p);
        float top = 0;
        hi = hi < w->k ? hi : w->k;
        for (int64_t c = lo; c < hi; c++) {
            top = fmaxf(top, fabsf(x[c]));
        }
        for (int64_t c = lo; top > 0 && c < hi; c++) {
            v[c] = (double)rintf(x[c] * (32512.0f / top)) * (double)(top / 32512.0f);
            double e = fabs(v[c] - (double)x[c]);
            verdict("16 bits", c, e <= 1.6e-5 * (double)top, e, 1.6e-5 * (double)top);
        }
    }
}

static void against_doubles(const matrix *m, const float *x, sq_rounding how, const float *y) {
    int64_t n = m->w.n, k = m->w.k;
    double worst = 0;
    for (int64_t i = 0; i < 5; i++) { /* each kind of inputs */
        double *v = calloc((size_t)k, sizeof *v), top = 0;
        if (how == SQ_ROUND_16) {
            rounded_16(v, &m->w, x + i * k);
        } else {
            top = rounded_8(v, x + i * k, k, how == SQ_ROUND_8_SYMMETRIC);
        }
        for (int64_t r = 0; r < n; r++) {
            double sum = 0, size = 1e-30;
            for (int64_t c = 0; c < k; c++) {
                sum += v[c] * m->value[r * k + c];
                size += (fabs(v[c]) + (how == SQ_ROUND_8 ? top : 0.0)) * m->size[r * k + c];
            }
            double e = fabs(sum - (double)y[i * n + r]) / size;
            worst = e > worst || !(e == e) ? e : worst;
        }
        free(v);
    }
    verdict("rounded product", k, worst <= 1e-6, worst, 1e-6);
}

/* The bias is added to what comes without it. */
static void with_bias(const matrix *m, const float *x, sq_rounding how, const float *want) {
    int64_t n = m->w.n, rows = 11;
    float *y = calloc((size_t)((rows + 1) * n), 4), *bias = y + rows * n;
    int ok = 1;
    for (int64_t c = 0; c < n; c++) {
        bias[c] = 100 * uniform();
    }
    const sq_product p = {&m->w, bias, y, n};
    sq_matmul_rounded(&p, 1, how, x, m->w.k, rows);
    for (int64_t i = 0; i < rows * n; i++) {
        ok &= y[i] == want[i] + bias[i % n];
    }
    verdict("rounded product with a bias", n, ok, 0, 0);
    free(y);
}

/* Three products in one pass, the second of other groups: as each by itself. */
static void together(const matrix *m, const float *x, sq_rounding how, const float *want) {
    int64_t n = m->w.n, k = m->w.k;
    matrix other;
    if (!make(&other, 8, 0, 0, 19, k, k)) {
        return;
    }
    float *y = calloc((size_t)(9 * (2 * n + 2 * 19)), 4), *z = y + 9 * n, *u = z + 9 * 19;
    const sq_product p[] = {{&m->w, NULL, y, n}, {&other.w, NULL, z, 19}, {&m->w, NULL, u, n}};
    float *alone = u + 9 * n;
    sq_matmul_rounded(p, 3, how, x, k, 9);
    product(&other.w, how, x, 9, alone);
    verdict("products in one pass", k,
            memcmp(y, want, (size_t)(9 * n) * 4) == 0 &&
                memcmp(u, want, (size_t)(9 * n) * 4) == 0 && memcmp(z, alone, 9 * 19 * 4) == 0,
            0, 0);
    free(y);
    sq_weight_free(&other.w);
    free(other.value);
    free(other.size);
}

static void one(const sq_kernels *ref, int bits, int kind, int centred, int64_t n, int64_t k,
                int64_t group) {
    matrix m;
    float *x = calloc((size_t)(ROWS * k), 4), *y = calloc((size_t)(3 * ROWS * n), 4);
    float *z = y + ROWS * n, *few = z + ROWS * n;
    inputs(x, k, ROWS);
    if (make(&m, bits, kind, centred, n, k, group)) {
        for (int i = 0; i < 3; i++) {
            sq_rounding how = (sq_rounding)i;
            sq_kernels_use(ref);
            product(&m.w, how, x, ROWS, y);
            sq_kernels_use(isa);
            against_doubles(&m, x, how, y);
            together(&m, x, how, y);
            with_bias(&m, x, how, y);
            for (int64_t rows = 9; rows <= ROWS; rows++) { /* every height of a tile */
                memset(z, 0x55, (size_t)(ROWS * n) * 4);
                product(&m.w, how, x, rows, z);
                verdict("many rounded rows to the bit", k,
                        memcmp(y, z, (size_t)(rows * n) * 4) == 0, 0, 0);
                rows += rows > 21 ? 17 : 0;
            }
            for (int64_t r = 0; r < ROWS; r += 1 + r % 8) {
                int64_t rows = r + 1 + r % 8 <= ROWS ? 1 + r % 8 : 1;
                product(&m.w, how, x + r * k, rows, few);
                verdict("few rounded rows to the bit", k,
                        memcmp(y + r * n, few, (size_t)(rows * n) * 4) == 0, 0, 0);
            }
        }
    }
    sq_weight_free(&m.w);
    free(m.value);
    free(m.size);
    free(x);
    free(y);
}

/* Ranges and rounding, with and without numbers that are none. */
static void rows_of_inputs(const sq_kernels *ref) {
    float x[203];
    int8_t a[203], b[203], c[203] = {0}, d[203] = {0};
    for (int64_t n = 1; n <= 203; n++) {
        float lo, hi, want_lo, want_hi;
        inputs(x, n, 1);
        isa->range(x, n, &lo, &hi);
        ref->range(x, n, &want_lo, &want_hi);
        verdict("range", n, lo == want_lo && hi == want_hi, 0, 0);
        memset(a, 77, sizeof a);
        memcpy(b, a, sizeof b);
        int32_t sum = isa->round_i8(a, x, 0.013f, -7.0f, n);
        int32_t want = ref->round_i8(b, x, 0.013f, -7.0f, n);
        verdict("round_i8", n, memcmp(a, b, sizeof a) == 0 && sum == want, 0, 0);
        sum = isa->round_i16(a, c, x, 500.0f, n);
        want = ref->round_i16(b, d, x, 500.0f, n);
        verdict("round_i16", n,
                memcmp(a, b, sizeof a) == 0 && memcmp(c, d, sizeof c) == 0 && sum == want, 0, 0);
        x[n * 5 / 7] = NAN;
        isa->range(x, n, &lo, &hi);
        verdict("range of NaN", n, isnan(lo) && isnan(hi), 0, 0);
        for (int64_t i = 0; i < n; i++) {
            x[i] = 0.5f * (float)(i % 9 - 4); /* ties */
        }
        isa->round_i8(a, x, 1.0f, 0.0f, n);
        ref->round_i8(b, x, 1.0f, 0.0f, n);
        verdict("round_i8 of ties", n, memcmp(a, b, (size_t)n) == 0 && a[0] == -2, 0, 0);
    }
}

/* A number that is none shows in its row alone; so does infinity. */
static void broken(void) {
    enum { N = 20, K = 300 };
    matrix m;
    float x[10 * K], y[10 * N];
    if (!make(&m, 4, 0, 1, N, K, 32)) {
        return;
    }
    for (int many = 0; many < 2; many++) {
        int rows = many ? 10 : 2;
        inputs(x, K, 10);
        x[K + 7] = many ? NAN : INFINITY;
        product(&m.w, many ? SQ_ROUND_8_SYMMETRIC : SQ_ROUND_8, x, rows, y);
        for (int i = 0; i < rows * N; i++) {
            verdict("broken inputs", i, isnan(y[i]) == (i / N == 1), 0, 0);
        }
        product(&m.w, SQ_ROUND_16, x, rows, y);
        for (int i = 0; i < rows * N; i++) {
            verdict("broken inputs, 16 bits", i, isnan(y[i]) == (i / N == 1), 0, 0);
        }
    }
    sq_weight_free(&m.w);
    free(m.value);
    free(m.size);
}

static void threads(void) {
    enum { N = 333, K = 640 };
    matrix m;
    float *x = calloc(ROWS * K, 4), *y = calloc(2 * ROWS * N, 4);
    inputs(x, K, ROWS);
    if (make(&m, 4, 0, 1, N, K, 32)) {
        for (int rows = 1; rows <= ROWS; rows += ROWS - 1) {
            sq_set_threads(1);
            product(&m.w, SQ_ROUND_16, x, rows, y);
            for (int t = 2; t <= 5; t++) {
                sq_set_threads(t);
                product(&m.w, SQ_ROUND_16, x, rows, y + ROWS * N);
                verdict("rounded, threads", t, memcmp(y, y + ROWS * N, (size_t)(rows * N) * 4) == 0,
                        0, 0);
            }
        }
        sq_set_threads(0);
    }
    sq_weight_free(&m.w);
    free(m.value);
    free(m.size);
    free(x);
    free(y);
}

void test_rounded(const sq_kernels *ref) {
    static const int64_t shapes[][3] = {
        /* n, k, group */
        {5, 128, 32},  {17, 288, 32},   {3, 288, 96},    {33, 300, 64},  {16, 512, 128},
        {7, 640, 128}, {18, 1024, 256}, {4, 288, 288},   {5, 340, 340},  {6, 100, 100},
        {3, 4, 4},     {5, 77, 8},      {4, 130, 12},    {9, 340, 20},   {2, 200, 24},
        {3, 96, 16},   {4, 240, 48},    {1, 1, 1},       {2, 33, 32},    {1, 129, 128},
        {6, 340, 128}, {4, 320, 160},   {15, 1536, 512}, {2, 4304, 4304}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t *s = shapes[i];
        for (int how = 0; how < 16; how++) {
            one(ref, how & 1 ? 8 : 4, how / 4, how / 2 % 2, s[0], s[1], s[2]);
        }
    }
    rows_of_inputs(ref);
    broken();
    threads();
}
