/* Attention over the KV cache, the C reference: what the others must compute. */
#include <math.h>

#include "kernels/internal.h"

static void put(const sq_kv_product *p, int64_t row, int64_t column, float sum) {
    float *c = p->c + row * p->ldc + column;
    float f = p->scale == NULL ? sum : sum * p->scale[row];
    f = p->columns == NULL ? f : f * p->columns[column];
    *c = p->add ? *c + f : f;
}

static void kv_f32(const sq_kv_product *p) {
    const float *a = p->a, *b = p->b;
    for (int64_t i = 0; i < p->rows * p->n; i++) {
        float sum = 0;
        for (int64_t k = 0; k < p->k; k++) {
            sum += a[i / p->n * p->lda + k] * b[k * p->ldb + i % p->n];
        }
        put(p, i / p->n, i % p->n, sum);
    }
}

static void kv_f16(const sq_kv_product *p) {
    const float *a = p->a;
    const uint16_t *b = p->b;
    for (int64_t i = 0; i < p->rows * p->n; i++) {
        float sum = 0;
        for (int64_t k = 0; k < p->k; k++) {
            sum += a[i / p->n * p->lda + k] * sq_f16_to_f32(b[k * p->ldb + i % p->n]);
        }
        put(p, i / p->n, i % p->n, sum);
    }
}

static void kv_bf16(const sq_kv_product *p) {
    const uint32_t *a = p->a, *b = p->b;
    for (int64_t i = 0; i < p->rows * p->n; i++) {
        float sum = 0;
        for (int64_t k = 0; k < p->k; k++) {
            uint32_t x = a[i / p->n * p->lda + k], y = b[k * p->ldb + i % p->n];
            sum += sq_bf16_to_f32((uint16_t)x) * sq_bf16_to_f32((uint16_t)y) +
                   sq_bf16_to_f32((uint16_t)(x >> 16)) * sq_bf16_to_f32((uint16_t)(y >> 16));
        }
        put(p, i / p->n, i % p->n, sum);
    }
}

static void kv_i8(const sq_kv_product *p) {
    for (int64_t i = 0; i < p->rows * p->n; i++) {
        const int8_t *low = (const int8_t *)p->a + i / p->n * p->lda * 4, *high = low + 4 * p->k;
        int32_t sum = 0;
        for (int64_t k = 0; k < p->k; k++) {
            const uint8_t *b = (const uint8_t *)p->b + (k * p->ldb + i % p->n) * 4;
            for (int j = 0; j < 4; j++) {
                sum += (b[j] - 128) * (low[4 * k + j] + 256 * high[4 * k + j]);
            }
        }
        put(p, i / p->n, i % p->n, (float)sum);
    }
}

static float softmax_step(float *x, int64_t n, int64_t all, float *top) {
    float most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    *top = most;
    most = most == -INFINITY ? 0 : most; /* nothing but -inf: zeros */
    for (int64_t i = 0; i < all; i++) {
        x[i] = i < n ? expf(x[i] - most) : 0.0f;
        sum += x[i];
    }
    return sum;
}

static int32_t round_weights(int8_t *low, int8_t *high, const float *x, const float *factor,
                             float *worth) {
    int32_t sum = 0;
    float top = 0;
    for (int64_t i = 0; i < SQ_KV_TOKENS; i++) {
        float f = x[i] * factor[i];
        top = f > top || f != f ? f : top; /* NaN stays */
    }
    float inverse = sq_weights_scale(top, worth);
    for (int64_t i = 0; i < SQ_KV_TOKENS; i++) {
        float f = x[i] * factor[i] * inverse;
        int q = f == f ? (int)rintf(f) : 0, h = (q + 128) >> 8;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q - 256 * h);
        sum += q;
    }
    return sum;
}

void sq_kv_init_c(sq_kernels *k) {
    k->kv_f32 = kv_f32;
    k->kv_f16 = kv_f16;
    k->kv_bf16 = kv_bf16;
    k->kv_i8 = kv_i8;
    k->softmax_step = softmax_step;
    k->round_weights = round_weights;
}
