/* Attention over the KV cache: every table's products and softmax against the C reference, a row
 * alone against the row among others, what lies beside the result; and the C reference against
 * sums in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkasm.h"

enum { ROWS = 100, K = 72, N = 144, PAD = 16, F32 = 0, F16, BF16, I8 };
static const char *const names[] = {"kv_f32", "kv_f16", "kv_bf16", "kv_i8"};

static void (*kernel(const sq_kernels *kn, int type))(const sq_kv_product *) {
    return type == F32    ? kn->kv_f32
           : type == F16  ? kn->kv_f16
           : type == BF16 ? kn->kv_bf16
                          : kn->kv_i8;
}

/* Operands of words at random, and the numbers that they stand for. */
typedef struct operands {
    uint32_t a[ROWS * (2 * K + 3)], b[K * (N + PAD)];
    float scale[ROWS], columns[N];
    int32_t sums[ROWS];
    double x[ROWS][4 * K], y[4 * K][N];
} operands;

static void set16(uint32_t *word, int half, uint16_t v) { memcpy((char *)word + 2 * half, &v, 2); }

static void number_a(operands *o, int type, int64_t k, int64_t lda, int64_t r, int64_t c) {
    uint32_t *row = o->a + r * lda;
    float u = uniform();
    if (type == BF16) {
        uint16_t h;
        sq_from_f32(&h, SQ_BF16, &u, 1);
        set16(&row[c / 2], (int)(c % 2), h);
        o->x[r][c] = (double)sq_bf16_to_f32(h);
    } else if (type == I8) {
        int q = u < -0.9f ? -32512 : u > 0.9f ? 32512 : (int)(u * 32512.0f), high = (q + 128) >> 8;
        ((int8_t *)row)[c] = (int8_t)(q - 256 * high);
        ((int8_t *)(row + k))[c] = (int8_t)high;
        o->sums[r] += q;
        o->x[r][c] = q;
    } else {
        memcpy(&row[c], &u, 4);
        o->x[r][c] = (double)u;
    }
}

static void number_b(operands *o, int type, int64_t ldb, int64_t c, int64_t j) {
    float u = 3 * uniform();
    if (type == F16) {
        uint16_t h;
        sq_from_f32(&h, SQ_F16, &u, 1);
        ((uint16_t *)o->b)[c * ldb + j] = h;
        o->y[c][j] = (double)sq_f16_to_f32(h);
    } else if (type == BF16) {
        uint16_t h;
        sq_from_f32(&h, SQ_BF16, &u, 1);
        set16(&o->b[c / 2 * ldb + j], (int)(c % 2), h);
        o->y[c][j] = (double)sq_bf16_to_f32(h);
    } else if (type == I8) {
        int q = u < -2.8f ? 0 : u > 2.8f ? 255 : 128 + (int)(u * 42.0f);
        ((uint8_t *)&o->b[c / 4 * ldb + j])[c % 4] = (uint8_t)q;
        o->y[c][j] = q - 128;
    } else {
        memcpy(&o->b[c * ldb + j], &u, 4);
        o->y[c][j] = (double)u;
    }
}

static void fill(operands *o, int type, int64_t n, int64_t k, int64_t lda, int64_t ldb) {
    int64_t numbers = k * (type == BF16 ? 2 : type == I8 ? 4 : 1);
    memset(o->sums, 0, sizeof o->sums);
    for (int64_t r = 0; r < ROWS; r++) {
        o->scale[r] = r % 4 == 1 ? 0.0f : fabsf(uniform());
        for (int64_t c = 0; c < numbers; c++) {
            number_a(o, type, k, lda, r, c);
        }
    }
    for (int64_t j = 0; j < n; j++) {
        o->columns[j] = uniform();
        for (int64_t c = 0; c < numbers; c++) {
            number_b(o, type, ldb, c, j);
        }
    }
}

/* What must come out, and how far it may be off. */
static void expected(const operands *o, const sq_kv_product *p, int64_t numbers, int64_t r,
                     int64_t j, double before, double *want, double *tol) {
    double sum = 0, size = 0;
    for (int64_t c = 0; c < numbers; c++) {
        sum += o->x[r][c] * o->y[c][j];
        size += fabs(o->x[r][c] * o->y[c][j]);
    }
    double f = (p->scale == NULL ? 1.0 : (double)p->scale[r]) *
               (p->columns == NULL ? 1.0 : (double)p->columns[j]);
    *want = f * sum + (p->add ? before : 0.0);
    *tol = 1.2e-7 * (fabs(f) * size * (3 + sqrt((double)numbers)) + 3 * fabs(before)) + 1e-30;
}

static void product(const sq_kernels *ref, operands *o, int type, int64_t rows, int64_t n,
                    int64_t k, int how) {
    float c[2][ROWS * (N + PAD)], one[N];
    const int64_t numbers = k * (type == BF16 ? 2 : type == I8 ? 4 : 1);
    const int64_t lda = (type == I8 ? 2 * k : k) + 3, ldb = n + PAD, ldc = n + PAD;
    fill(o, type, n, k, lda, ldb);
    for (int64_t i = 0; i < ROWS * ldc; i++) {
        c[0][i] = c[1][i] = how & 1 ? 5 * uniform() : NAN; /* not read without `add` */
    }
    sq_kv_product p = {.rows = rows, .n = n, .k = k, .a = o->a, .b = o->b, .lda = lda, .ldb = ldb};
    p.add = how & 1;
    p.scale = how & 2 ? o->scale : NULL;
    p.columns = type == I8 && how & 4 ? o->columns : NULL;
    p.sums = o->sums;
    p.next = how & 4 ? o->b : NULL;
    p.ldc = ldc;
    float before[ROWS * (N + PAD)];
    memcpy(before, c[0], sizeof before);
    p.c = c[0];
    kernel(isa, type)(&p);
    p.c = c[1];
    kernel(ref, type)(&p);
    for (int64_t i = 0; i < ROWS * ldc; i++) {
        int64_t r = i / ldc, j = i % ldc;
        double got = (double)c[0][i], want = (double)before[i], tol = 0, e;
        if (r >= rows || j >= n) { /* beside it */
            verdict(names[type], k, memcmp(&c[0][i], &before[i], 4) == 0, got, want);
            continue;
        }
        expected(o, &p, numbers, r, j, how & 1 ? want : 0, &want, &tol);
        e = fabs(got - want);
        verdict(names[type], k, e <= tol, e, tol);
        e = fabs(got - (double)c[1][i]);
        verdict(names[type], k, e <= (type == I8 ? 0 : tol), e, type == I8 ? 0 : tol);
    }
    for (int64_t r = 0; r < rows; r++) { /* alone */
        memcpy(one, before + r * ldc, (size_t)n * 4);
        sq_kv_product q = p;
        q.rows = 1;
        q.a = o->a + r * lda;
        q.scale = p.scale == NULL ? NULL : p.scale + r;
        q.sums = o->sums + r;
        q.c = one;
        kernel(isa, type)(&q);
        verdict("a row alone", r, memcmp(one, c[0] + r * ldc, (size_t)n * 4) == 0, 0, 0);
    }
}

/* Three B at once, beside one after the other; words of A and B are any numbers. */
static void rest(operands *o, int64_t rows, int64_t n, int64_t k, int add) {
    float c[2][ROWS * (N + PAD)];
    const int64_t ldb = n + PAD, ldc = n + PAD;
    fill(o, BF16, n, 3 * k, 3 * k, ldb);
    const void *more[2] = {o->b + k * ldb, o->b + 2 * k * ldb};
    for (int64_t i = 0; i < rows * ldc; i++) {
        c[0][i] = c[1][i] = add ? uniform() : NAN;
    }
    sq_kv_product p = {.rows = rows,
                       .n = n,
                       .k = k,
                       .a = o->a,
                       .b = o->b,
                       .lda = 3 * k,
                       .ldb = ldb,
                       .add = add,
                       .c = c[0],
                       .ldc = ldc,
                       .next = n % 32 ? o->b : NULL,
                       .rest = more,
                       .n_rest = 2};
    isa->kv_bf16(&p);
    p.c = c[1];
    p.n_rest = 0;
    for (int64_t i = 0; i < 3; i++, p.add = 1) {
        p.a = o->a + i * k;
        p.b = o->b + i * k * ldb;
        isa->kv_bf16(&p);
    }
    verdict("kv_bf16's rest", rows, memcmp(c[0], c[1], (size_t)(rows * ldc) * 4) == 0, 0, 0);
}

static void softmax(const sq_kernels *ref, int64_t n, int64_t all, int kind) {
    float x[3 * SQ_KV_TOKENS + 2], y[3 * SQ_KV_TOKENS], top[2], sum[2];
    for (int64_t i = 0; i < all; i++) {
        x[i] = y[i] = i >= n ? NAN : kind == 1 ? -INFINITY : (kind == 2 ? 60 : 3) * uniform();
    }
    if (kind == 3 && n > 0) {
        x[n / 2] = y[n / 2] = NAN;
    }
    x[all] = x[all + 1] = 12345.0f;
    sum[0] = isa->softmax_step(x, n, all, &top[0]);
    sum[1] = ref->softmax_step(y, n, all, &top[1]);
    verdict("softmax_step beside", n, x[all] == 12345.0f, 0, 0);
    if (kind == 3 && n > 0) {
        verdict("softmax_step of NaN", n, isnan(sum[0]) && isnan(sum[1]), 0, 0);
        return;
    }
    verdict("softmax_step top", n, top[0] == top[1], 0, 0);
    double e = fabs((double)sum[0] - (double)sum[1]);
    verdict("softmax_step sum", n, e <= 1e-5 * (double)sum[1], e, 1e-5 * (double)sum[1]);
    for (int64_t i = 0; i < all; i++) {
        e = fabs((double)x[i] - (double)y[i]);
        verdict("softmax_step", n, e <= (i < n ? 1e-6 * (double)y[i] + 1e-37 : 0), e, 0);
    }
}

static void softmax_to_bf16(const sq_kernels *ref, int64_t n, int64_t all, int kind) {
    float x[3 * SQ_KV_TOKENS], y[3 * SQ_KV_TOKENS], top[2], sum[2];
    uint16_t got[3 * SQ_KV_TOKENS + 1];
    for (int64_t i = 0; i < all; i++) {
        x[i] = y[i] = i >= n ? NAN : kind == 1 ? -INFINITY : (kind == 2 ? 60 : 3) * uniform();
    }
    if (kind == 3 && n > 0) {
        x[n / 2] = y[n / 2] = NAN;
    }
    got[all] = 12345;
    sum[0] = isa->softmax_bf16(x, got, n, all, &top[0]);
    sum[1] = ref->softmax_step(y, n, all, &top[1]);
    verdict("softmax_bf16 beside", n, got[all] == 12345, 0, 0);
    if (kind == 3 && n > 0) {
        verdict("softmax_bf16 of NaN", n, isnan(sum[0]) && isnan(sum[1]), 0, 0);
        return;
    }
    verdict("softmax_bf16 top", n, top[0] == top[1], 0, 0);
    double e = fabs((double)sum[0] - (double)sum[1]);
    verdict("softmax_bf16 sum", n, e <= 1e-5 * (double)sum[1], e, 1e-5 * (double)sum[1]);
    for (int64_t i = 0; i < all; i++) {
        double tol = i < n ? (0x1p-8 + 2e-5) * (double)y[i] + 1.2e-38 : 0;
        e = fabs((double)sq_bf16_to_f32(got[i]) - (double)y[i]);
        verdict("softmax_bf16", n, e <= tol, e, tol);
    }
}

/* kind 1: none is above 0; 2: one is none; 3: one is too large. */
static void weights(const sq_kernels *ref, int kind) {
    float x[SQ_KV_TOKENS], f[SQ_KV_TOKENS], worth[2], top = 0;
    int8_t low[2][SQ_KV_TOKENS], high[2][SQ_KV_TOKENS];
    int32_t all = 0;
    for (int64_t i = 0; i < SQ_KV_TOKENS; i++) {
        x[i] = i % 7 == 0 ? 1.0f : fabsf(uniform());
        f[i] = kind == 1 || i % 11 == 0 ? 0.0f : 0.01f * fabsf(uniform());
        f[i] = kind == 2 && i == 37 ? NAN : kind == 3 && i == 37 ? INFINITY : f[i];
        top = fmaxf(top, x[i] * f[i]);
    }
    int32_t got = isa->round_weights(low[0], high[0], x, f, &worth[0]),
            want = ref->round_weights(low[1], high[1], x, f, &worth[1]);
    if (kind > 1) {
        verdict("round_weights of NaN", kind, isnan(worth[0]) && isnan(worth[1]), 0, 0);
        return;
    }
    verdict("round_weights", got,
            got == want && memcmp(low[0], low[1], sizeof low[0]) == 0 &&
                memcmp(high[0], high[1], sizeof high[0]) == 0,
            got, want);
    verdict("round_weights' worth", got, worth[0] == worth[1] && worth[0] == top / 32512.0f,
            (double)worth[0], (double)worth[1]);
    for (int64_t i = 0; i < SQ_KV_TOKENS; i++) {
        int32_t q = low[0][i] + 256 * high[0][i];
        double e = fabs((double)q * (double)worth[0] - (double)(x[i] * f[i]));
        /* half a step, and what f32 rounds a product and a quotient of up to 32512 steps by */
        verdict("round_weights", i, e <= 0.504 * (double)worth[0], e, 0.504 * (double)worth[0]);
        all += q;
    }
    verdict("round_weights' sum", got, got == all, got, all);
}

void test_kv(const sq_kernels *ref) {
    static const int64_t columns[] = {16, 32, 48, 64, 80, 96, 128, 144},
                         some[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                   12, 13, 15, 16, 17, 24, 31, 32, 33, 48, ROWS};
    operands *o = calloc(1, sizeof *o);
    for (int type = 0; o != NULL && type < 4; type++) {
        for (size_t r = 0; r < sizeof some / sizeof *some; r++) {
            for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
                int64_t rows = some[r], k = 1 + (rows * 11 + (int64_t)i * 17) % K;
                product(ref, o, type, rows, columns[i], i % 4 == 3 ? K / 16 * 16 : k,
                        (int)(r + i) % 8);
            }
        }
    }
    for (int64_t i = 0; o != NULL && isa->kv_rest && i < 80; i++) {
        rest(o, 1 + i % 40, 16 * (1 + i % 9), 16, (int)(i / 40));
    }
    free(o);
    for (int64_t n = 0; n <= 3 * SQ_KV_TOKENS; n++) {
        for (int kind = 0; kind < 4; kind++) {
            int64_t all = n <= SQ_KV_TOKENS && n % 2 == 0 ? SQ_KV_TOKENS : 3 * SQ_KV_TOKENS;
            softmax(ref, n, all, kind);
            if (isa->softmax_bf16 != NULL) {
                softmax_to_bf16(ref, n, all, kind);
            }
        }
        weights(ref, (int)n % 4);
    }
}
