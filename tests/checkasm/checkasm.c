/* Every kernel of every ISA that this CPU runs, against the C reference: random and adversarial
 * data, all small sizes, unaligned pointers, canaries round the outputs. With --bench it times
 * them instead (bench.c); names of tables leave out the others. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkasm.h"
#include "kernels/internal.h"

enum { CANARY = 16, MAX_N = 1 << 12 };

static const sq_kernels *ref;
const sq_kernels *isa;
static int failed, passed;
static uint32_t seed = 1;

float uniform(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

/* kind 0: plain; 1: large and small together; 2: zeros and signs */
static void fill(float *x, int64_t n, int kind) {
    for (int64_t i = 0; i < n; i++) {
        float u = uniform();
        x[i] = kind == 0    ? u
               : kind == 1  ? u * expf(8 * uniform())
               : i % 3 == 0 ? 0.0f
               : u < 0      ? -0.0f
                            : 30 * u;
    }
}

void verdict(const char *name, int64_t n, int ok, double err, double tol) {
    if (ok) {
        passed++;
        return;
    }
    failed++;
    fprintf(stderr, "FAIL %s %s n=%lld: error %g, wanted at most %g\n", isa->name, name,
            (long long)n, err, tol);
}

/* Element by element: |a - b| <= tol * (|b| + floor); and the canary. */
static void same(const char *name, const float *a, const float *b, int64_t n, double tol,
                 double floor) {
    double worst = 0;
    int ok = 1;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - (double)b[i]) / (fabs((double)b[i]) + floor);
        ok &= e <= tol;
        worst = e > worst || !(e == e) ? e : worst;
    }
    for (int64_t i = 0; i < CANARY; i++) {
        ok &= a[n + i] == 12345.0f && a[i - CANARY] == 12345.0f;
    }
    verdict(name, n, ok, worst, tol);
}

static float bufs[8][MAX_N + 64];
static float *buf(int i, int64_t n, int offset) {
    float *p = bufs[i] + CANARY + offset;
    for (int64_t k = -CANARY; k < 0; k++) {
        p[k] = 12345.0f;
    }
    for (int64_t k = n; k < n + CANARY; k++) {
        p[k] = 12345.0f;
    }
    return p;
}

static void test_dots(int64_t n, int kind) {
    float *a = buf(0, n, 1), *b = buf(1, n, 3);
    uint16_t h[MAX_N + 1], *w = h + (n & 1);
    fill(a, n, kind);
    fill(b, n, kind);
    double size = 0;
    for (int64_t i = 0; i < n; i++) {
        size += fabs((double)a[i] * (double)b[i]);
    }
    double tol = (size + 1e-30) * 1.2e-7 * (8 + sqrt((double)n)), e;
    e = fabs((double)isa->dot_f32(a, b, n) - (double)ref->dot_f32(a, b, n));
    verdict("dot_f32", n, e <= tol, e, tol);
    for (int half = 0; half < 2; half++) {
        sq_from_f32(w, half ? SQ_F16 : SQ_BF16, a, (size_t)n);
        float *x = buf(2, n, 1), *y = buf(3, n, 0);
        if (half) {
            e = fabs((double)isa->dot_f16(w, b, n) - (double)ref->dot_f16(w, b, n));
            isa->widen_f16(x, w, n);
            ref->widen_f16(y, w, n);
        } else {
            e = fabs((double)isa->dot_bf16(w, b, n) - (double)ref->dot_bf16(w, b, n));
            isa->widen_bf16(x, w, n);
            ref->widen_bf16(y, w, n);
        }
        verdict(half ? "dot_f16" : "dot_bf16", n, e <= 1.02 * tol, e, tol);
        same(half ? "widen_f16" : "widen_bf16", x, y, n, 0, 1e-30);
    }
    int8_t *q = (int8_t *)(void *)w;
    float *x = buf(2, n, 1), *y = buf(3, n, 0);
    ref->round_i8(q, a, 0.01f, 0, n);
    isa->widen_i8(x, q, 0.37f, n);
    ref->widen_i8(y, q, 0.37f, n);
    same("widen_i8", x, y, n, 0, 1e-30);
}

/* Each code is the nearest to what its column wants after the errors behind it, each error its own:
 * a tie that falls otherwise changes what follows, so the reference's codes are not asked for. */
static void test_gptq_block(const sq_kernels *table, int64_t n) {
    enum { L = SQ_GPTQ_LANES };
    size_t all = (size_t)n * L;
    float *l = malloc((size_t)n * (size_t)n * 4), *a = calloc(6 * all, 4);
    float *w = a, *s = a + all, *z = a + 2 * all, *carry = a + 3 * all, *q = a + 4 * all,
          *e = a + 5 * all;
    double worst = 0;
    fill(l, n * n, 0);
    fill(w, n * L, 0);
    for (int64_t i = 0; i < n; i++) {
        l[i * n + i] = 2 + (float)(i % 3);
        for (int r = 0; r < L; r++) {
            s[i * L + r] = 0.05f + 0.01f * (float)(r % 5);
            z[i * L + r] = (float)((i + r) % 16);
        }
    }
    table->gptq_block(&(sq_gptq_block){n, n, l, w, s, z, carry, q, e, 15});
    for (int64_t x = 0; x < n * L; x++) {
        int64_t i = x / L;
        double want = 0;
        for (int64_t j = i + 1; j < n; j++) {
            want += (double)e[j * L + x % L] * (double)l[j * n + i];
        }
        want = ((double)w[x] + want / (double)l[i * n + i]) / (double)s[x] + (double)z[x];
        want = fmin(fmax(want, 0), 15);
        double off = fmax(fabs((double)q[x] - want) - 0.5, fabs((double)(q[x] - rintf(q[x]))));
        double error = (double)w[x] - ((double)q[x] - (double)z[x]) * (double)s[x];
        off = fmax(off, fabs(error - (double)e[x]));
        worst = off > worst || isnan(off) ? off : worst;
    }
    verdict("gptq_block", n, worst <= 1e-4, worst, 1e-4);
    free(l);
    free(a);
}

static void test_rows(int64_t n, int kind) {
    float *x = buf(0, n, 1), *w = buf(1, n, 2), *b = buf(2, n, 3), *y = buf(3, n, 1),
          *z = buf(4, n, 0);
    fill(x, n, kind);
    fill(w, n, 0);
    fill(b, n, 0);
    isa->rmsnorm(y, x, w, 1e-6f, n);
    ref->rmsnorm(z, x, w, 1e-6f, n);
    same("rmsnorm", y, z, n, 1e-5, 1e-6);
    isa->layernorm(y, x, w, b, 1e-6f, n);
    ref->layernorm(z, x, w, b, 1e-6f, n);
    same("layernorm", y, z, n, 2e-5, 1.0);
    isa->layernorm(y, x, w, NULL, 1e-6f, n);
    ref->layernorm(z, x, w, NULL, 1e-6f, n);
    same("layernorm without bias", y, z, n, 2e-5, 1.0);
    memcpy(y, x, (size_t)n * 4);
    memcpy(z, x, (size_t)n * 4);
    isa->softmax(y, n);
    ref->softmax(z, n);
    same("softmax", y, z, n, 1e-5, 1e-9);
    memcpy(y, x, (size_t)n * 4);
    memcpy(z, x, (size_t)n * 4);
    isa->silu_mul(y, w, n);
    ref->silu_mul(z, w, n);
    same("silu_mul", y, z, n, 1e-5, 1e-6);
    memcpy(y, x, (size_t)n * 4);
    memcpy(z, x, (size_t)n * 4);
    isa->axpy(y, 0.7f, w, n);
    ref->axpy(z, 0.7f, w, n);
    same("axpy", y, z, n, 2e-7, 64.0); /* fused or not: one rounding of the product */
    void (*const acts[2][3])(float *, int64_t) = {{isa->quick_gelu, isa->gelu_erf, isa->gelu_tanh},
                                                  {ref->quick_gelu, ref->gelu_erf, ref->gelu_tanh}};
    static const char *const names[] = {"quick_gelu", "gelu_erf", "gelu_tanh"};
    for (int i = 0; i < 3; i++) {
        memcpy(y, x, (size_t)n * 4);
        memcpy(z, x, (size_t)n * 4);
        acts[0][i](y, n);
        acts[1][i](z, n);
        same(names[i], y, z, n, 1e-5, 0.1);
    }
    const float scale = 0.0625f * 1.1f, zero = 5, top = 15;
    isa->round_back(x, n, scale, zero, top, y);
    ref->round_back(x, n, scale, zero, top, z);
    same("round_back", y, z, n, 0, 1e-30);
    for (int64_t i = 0; i < n; i++) {
        b[i] = fabsf(b[i]);
    }
    double want = (double)ref->round_loss(x, b, n, scale, zero, top);
    double off = fabs((double)isa->round_loss(x, b, n, scale, zero, top) - want);
    verdict("round_loss", n, off <= 1e-5 * want, off, 1e-5 * want);
    if (kind == 0 && n <= 256) {
        test_gptq_block(isa, n);
        test_gptq_block(ref, n);
    }
    if (n % 2 == 0) {
        memcpy(y, x, (size_t)n * 4);
        memcpy(z, x, (size_t)n * 4);
        isa->rope(y, w, b, n);
        ref->rope(z, w, b, n);
        same("rope", y, z, n, 0, 1e-30);
    }
}

/* Codes, scales and zeros at random; the packed matrix against numbers made from the codes by hand.
 */
static void test_quantized(int bits, int64_t n, int64_t k, int64_t group) {
    sq_error err = {0};
    sq_weight w;
    int64_t kp = (k + group - 1) / group * group, groups = kp / group;
    uint8_t *packed = calloc((size_t)(n * kp), 1);
    float *scales = calloc((size_t)(n * groups), 4), *want = calloc((size_t)(n * k), 4);
    uint8_t *zeros = calloc((size_t)(n * groups), 1);
    for (int64_t i = 0; i < n * groups; i++) {
        scales[i] = 0.01f + fabsf(uniform());
        zeros[i] = (uint8_t)(i * 7 % (1 << bits));
    }
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < kp; c++) {
            uint32_t q = (uint32_t)((r * 31 + c * 17 + c / 5) % (1 << bits));
            packed[r * kp + c] = (uint8_t)q;
            if (c < k) {
                int64_t g = r * groups + c / group;
                want[r * k + c] = ((float)q - (float)zeros[g]) * scales[g];
            }
        }
    }
    if (sq_weight_codes(&w, bits, packed, scales, zeros, n, k, kp, group, &err) != SQ_OK) {
        verdict("sq_weight_codes", k, 0, 0, 0);
    } else {
        float *got = calloc((size_t)(n * k + 2 * CANARY), 4), *x = calloc((size_t)(9 * k), 4),
              y[9 * 64];
        for (int i = 0; i < CANARY; i++) {
            got[i] = got[n * k + CANARY + i] = 12345.0f;
        }
        sq_weight_rows_f32(&w, 0, n, got + CANARY);
        same(bits == 4 ? "widened q4" : "widened q8", got + CANARY, want, n * k, 2e-7,
             256.0); /* code * scale + offset: the larger terms cancel */
        fill(x, 9 * k, 0);
        for (int64_t rows = 1; rows <= 9; rows += 4) { /* the dot path and the panel path */
            double worst = 0;
            sq_matmul(&w, x, k, rows, NULL, y, n);
            for (int64_t i = 0; i < rows * n; i++) {
                double sum = 0, size = 1e-6;
                for (int64_t c = 0; c < k; c++) {
                    double t = (double)x[i / n * k + c] * (double)want[i % n * k + c];
                    sum += t;
                    size += fabs(t);
                }
                double e = fabs(sum - (double)y[i]) / size;
                worst = e > worst || !(e == e) ? e : worst;
            }
            /* offsets and sums cancel: the magnitude is that of code * scale, not of the weight */
            verdict(bits == 4 ? "matmul q4" : "matmul q8", k, worst <= 2e-4, worst, 2e-4);
        }
        free(got);
        free(x);
        sq_weight_free(&w);
    }
    free(packed);
    free(scales);
    free(zeros);
    free(want);
}

/* The two ways to a packed number, for any group. */
static void test_packed(int bits, int64_t n, int64_t k, int64_t group) {
    sq_weight w;
    int64_t kp = (k + group - 1) / group * group, groups = kp / group;
    uint8_t *packed = calloc((size_t)(n * kp), 1);
    float *scales = calloc((size_t)(n * groups), 4), *y = calloc((size_t)(n * k), 4);
    uint8_t *zeros = calloc((size_t)(n * groups), 1);
    for (int64_t i = 0; i < n * kp; i++) {
        packed[i] = (uint8_t)((uint32_t)((uniform() + 1.0f) * 65535.0f) % (1u << bits));
    }
    for (int64_t i = 0; i < n * groups; i++) {
        scales[i] = uniform() * expf(8 * uniform()); /* of both signs */
        zeros[i] = (uint8_t)((uint32_t)i * 37u % (1u << bits));
    }
    if (sq_weight_codes(&w, bits, packed, scales, zeros, n, k, kp, group, NULL) != SQ_OK) {
        verdict("sq_weight_codes", k, 0, 0, 0);
    } else {
        sq_weight_rows_f32(&w, 0, n, y);
        for (int64_t i = 0; i < n * k; i++) {
            verdict("sq_weight_at", i, sq_weight_at(&w, i / k, i % k) == y[i], 0, 0);
        }
        sq_weight_free(&w);
    }
    free(packed);
    free(scales);
    free(zeros);
    free(y);
}

static int alike(float a, float b) { return isnan(a) ? isnan(b) : a == b; }

/* Numbers that are none, and the ends of the range. */
static void test_special(void) {
    void (*const acts[2][3])(float *, int64_t) = {{isa->quick_gelu, isa->gelu_erf, isa->gelu_tanh},
                                                  {ref->quick_gelu, ref->gelu_erf, ref->gelu_tanh}};
    static const float ends[] = {0.0f,   -0.0f,  1e-38f,  -1e-38f, 88.0f,
                                 -88.0f, 200.0f, -200.0f, 1e9f};
    enum { ENDS = sizeof ends / sizeof *ends, N = 37 };
    for (int at = 0; at < N; at++) {
        float *y = buf(0, N, 1), *z = buf(1, N, 0), *one = buf(2, N, 3);
        for (int i = 0; i < N; i++) {
            y[i] = z[i] = i == at ? NAN : ends[(at + i) % ENDS];
            one[i] = 1.0f;
        }
        for (int a = 0; a < 4; a++) {
            float *p = buf(3, N, 1), *q = buf(4, N, 2);
            memcpy(p, y, N * 4);
            memcpy(q, z, N * 4);
            if (a < 3) {
                acts[0][a](p, N);
                acts[1][a](q, N);
            } else {
                isa->silu_mul(p, one, N);
                ref->silu_mul(q, one, N);
            }
            for (int i = 0; i < N; i++) {
                double e = fabs((double)p[i] - (double)q[i]),
                       tol = 1e-6 * fabs((double)q[i]) + 1e-30;
                verdict("ends of the range", i, i == at ? isnan(p[i]) : e <= tol, e, tol);
            }
        }
        /* masked all but one; a NaN anywhere shows everywhere; masked entirely */
        for (int i = 0; i < N; i++) {
            y[i] = i == at ? -3.0f : -INFINITY;
        }
        isa->softmax(y, N);
        int ok = 1, nans = 1, zeros = 1;
        for (int i = 0; i < N; i++) {
            ok &= y[i] == (i == at ? 1.0f : 0.0f);
            y[i] = i == at ? NAN : 1.0f;
        }
        isa->softmax(y, N);
        for (int i = 0; i < N; i++) {
            nans &= isnan(y[i]) != 0;
            z[i] = -INFINITY;
        }
        isa->softmax(z, at + 1);
        for (int i = 0; i <= at; i++) {
            zeros &= z[i] == 0.0f;
        }
        verdict("softmax with one entry", at, ok, 0, 0);
        verdict("softmax with NaN", at, nans, 0, 0);
        verdict("softmax with none", at, zeros, 0, 0);
    }
}

/* All f16, also those that are no numbers. */
static void test_halves(void) {
    enum { ALL = 1 << 16 };
    uint16_t *h = malloc(ALL * 2);
    float *a = malloc(ALL * 4), *b = malloc(ALL * 4);
    for (int i = 0; i < ALL; i++) {
        h[i] = (uint16_t)i;
    }
    for (int half = 0; half < 2; half++) {
        (half ? isa->widen_f16 : isa->widen_bf16)(a, h, ALL);
        (half ? ref->widen_f16 : ref->widen_bf16)(b, h, ALL);
        for (int i = 0; i < ALL; i++) {
            verdict(half ? "every f16" : "every bf16", i, alike(a[i], b[i]), 0, 0);
        }
    }
    free(h);
    free(a);
    free(b);
}

/* exp through softmax of (x, 0): their quotient has three roundings more. */
static void test_exp(void) {
    for (double x = -87.3; x < 0; x += 0.0037) {
        float y[32] = {0};
        for (int i = 0; i < 32; i++) {
            y[i] = i == 5 ? 0.0f : (float)x;
        }
        isa->softmax(y, 32);
        double want = exp((double)(float)x), e = fabs((double)y[0] / (double)y[5] / want - 1.0);
        verdict("exp", 1, e <= 3.6e-7 || (double)y[0] < 1.2e-38, e, 3.6e-7);
    }
}

/* All of the chosen table. */
static void test_table(void) {
    static const int64_t more[] = {96, 127, 128, 129, 288, 340, 1000, 3420};
    for (int64_t n = 1; n <= 70 + 8; n++) {
        int64_t size = n <= 70 ? n : more[n - 71];
        for (int kind = 0; kind < 3; kind++) {
            test_dots(size, kind);
            test_rows(size, kind);
        }
    }
    static const int64_t shapes[][3] = {{64, 128, 128}, {3, 288, 128}, {17, 288, 32}, {5, 288, 288},
                                        {8, 340, 4},    {7, 340, 128}, {9, 96, 96},   {4, 640, 64},
                                        {2, 512, 256},  {6, 40, 16},   {5, 20, 20},   {33, 1000, 8},
                                        {64, 384, 48}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        test_quantized(4, shapes[i][0], shapes[i][1], shapes[i][2]);
        test_quantized(8, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
    for (int64_t k = 1; k <= 70 + 9; k++) {
        static const int64_t groups[] = {1, 4, 8, 12, 16, 24, 32, 64, 96, 128, 256};
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            int64_t size = k <= 70 ? k : 71 * (k - 70);
            test_packed(4, 3, size, groups[g]);
            test_packed(8, 3, size, groups[g]);
        }
        test_packed(4, 2, k, k);
        test_packed(8, 2, k, k);
    }
    test_rounded(ref);
    test_bf16();
    test_kv(ref);
    test_special();
    test_halves();
    test_exp();
}

/* Whether a table is named on the command line, or none is. */
static int wanted(const char *name, int argc, char **argv) {
    int none = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return 1;
        }
        none &= argv[i][0] == '-';
    }
    return none;
}

/* checkasm [--bench] [TABLE...] */
int main(int argc, char **argv) {
    const sq_kernels *tables[16];
    size_t n_tables = sq_kernels_available(tables, 16 - MOST_MORE), tested = 0;
    ref = tables[0];
    n_tables += more_tables(tables + n_tables);
    for (size_t t = 0; t < n_tables; t++) {
        isa = tables[t];
        if (!wanted(isa->name, argc, argv)) {
            continue;
        }
        sq_kernels_use(isa);
        tested++;
        if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
            bench();
        } else {
            test_table();
        }
    }
    fprintf(stderr, "checkasm: %d passed, %d failed, %zu tables\n", passed, failed, tested);
    return failed != 0 || tested == 0;
}
