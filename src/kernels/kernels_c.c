/* The C reference: fills every slot, and says what the others must compute. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

static float dot_f32(const float *a, const float *b, int64_t n) {
    float s = 0;
    for (int64_t i = 0; i < n; i++) {
        float v; /* a may be a file's memory */
        memcpy(&v, (const char *)a + 4 * i, 4);
        s += v * b[i];
    }
    return s;
}

static uint16_t half_at(const uint16_t *p, int64_t i) {
    uint16_t v;
    memcpy(&v, (const char *)p + 2 * i, 2);
    return v;
}

static float dot_f16(const uint16_t *w, const float *x, int64_t n) {
    float s = 0;
    for (int64_t i = 0; i < n; i++) {
        s += sq_f16_to_f32(half_at(w, i)) * x[i];
    }
    return s;
}

static float dot_bf16(const uint16_t *w, const float *x, int64_t n) {
    float s = 0;
    for (int64_t i = 0; i < n; i++) {
        s += sq_bf16_to_f32(half_at(w, i)) * x[i];
    }
    return s;
}

static void widen_f16(float *dst, const uint16_t *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = sq_f16_to_f32(half_at(src, i));
    }
}

static void widen_bf16(float *dst, const uint16_t *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = sq_bf16_to_f32(half_at(src, i));
    }
}

static void widen_i8(float *dst, const int8_t *src, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = scale * (float)src[i];
    }
}

static void range(const float *x, int64_t n, float *lo, float *hi) {
    float a = 0, b = 0;
    int none = 0;
    for (int64_t i = 0; i < n; i++) {
        a = x[i] < a ? x[i] : a;
        b = x[i] > b ? x[i] : b;
        none |= x[i] != x[i];
    }
    *lo = none ? NAN : a;
    *hi = none ? NAN : b;
}

static int32_t round_i8(int8_t *q, const float *x, float scale, float zero, int64_t n) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        q[i] = (int8_t)rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f));
        sum += (uint32_t)q[i];
    }
    return (int32_t)sum;
}

static int32_t round_i16(int8_t *low, int8_t *high, const float *x, float inverse, int64_t n) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int q = (int)rintf(x[i] * inverse), h = (q + 128) >> 8;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q - 256 * h);
        sum += (uint32_t)q;
    }
    return (int32_t)sum;
}

/* The exact sum of (code - zero) * x over a piece; word: the row's first of the piece. */
static int32_t piece_sum(const sq_weight *w, const uint8_t *word, const sq_rounded *x, int64_t at,
                         int64_t columns, int row, int zero) {
    int four = w->kind == SQ_W_Q4;
    int32_t d = 0;
    for (int64_t c = 0; c < columns; c++) {
        const uint8_t *b = word + c / (four ? 8 : 4) * 4 * SQ_PANEL + c % 4;
        int code = four ? *b >> (c % 8 / 4 * 4) & 15 : *b, v = 0;
        for (int p = x->planes - 1; p >= 0; p--) {
            v = 256 * v + x->codes[(((at + c) / 4 * x->planes + p) * x->rows + row) * 4 + c % 4];
        }
        d += (code - zero) * v;
    }
    return d;
}

static void int_tile(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
    int64_t pieces = x->pieces, split = pieces / sq_weight_groups(w);
    int64_t piece_bytes = x->columns * SQ_PANEL / (w->kind == SQ_W_Q4 ? 2 : 1);
    int64_t end = (panel0 + panels) * SQ_PANEL < w->n ? (panel0 + panels) * SQ_PANEL : w->n;
    for (int64_t c = panel0 * SQ_PANEL; c < end; c++) {
        for (int r = 0; r < x->rows; r++) {
            const uint8_t *word = sq_weight_panel(w, c / SQ_PANEL) + c % SQ_PANEL * 4;
            int64_t at = c / SQ_PANEL * sq_weight_groups(w) * SQ_PANEL + c % SQ_PANEL;
            float acc = 0;
            for (int64_t p = 0; p < pieces; p++, word += piece_bytes) {
                int64_t g = at + p / split * SQ_PANEL, i = p * x->rows + r;
                int zero = w->zeros == NULL ? sq_weight_middle(w) : w->zeros[g];
                int64_t columns = sq_piece_stored(x->stored, x->columns, p);
                float d = (float)piece_sum(w, word, x, p * x->columns, columns, r, zero);
                d = x->planes == 1 ? d : x->scales[i] * d;
                acc = fmaf(w->half != NULL ? sq_f16_to_f32(w->half[g]) : w->scales[g], d, acc);
                if (w->offsets != NULL) {
                    acc = fmaf(w->offsets[g], x->worth[i], acc);
                }
            }
            acc = x->planes == 1 ? acc * x->scales[r] : acc;
            if (x->zeros != NULL) {
                acc = fmaf(-x->zeros[r], w->sums[c], acc);
            }
            y[r * ldy + c] = bias == NULL ? acc : acc + bias[c];
        }
    }
}

static void axpy(float *y, float a, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static void rmsnorm(float *y, const float *x, const float *w, float eps, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        s += (double)x[i] * (double)x[i];
    }
    float r = 1.0f / sqrtf((float)(s / (double)n) + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
}

static void layernorm(float *y, const float *x, const float *w, const float *b, float eps,
                      int64_t n) {
    double s = 0, q = 0;
    for (int64_t i = 0; i < n; i++) {
        s += (double)x[i];
    }
    s /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        q += ((double)x[i] - s) * ((double)x[i] - s);
    }
    float mean = (float)s, r = 1.0f / sqrtf((float)(q / (double)n) + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] - mean) * r * w[i] + (b == NULL ? 0.0f : b[i]);
    }
}

static void softmax(float *x, int64_t n) {
    float top = -INFINITY, s = 0;
    for (int64_t i = 0; i < n; i++) {
        top = x[i] > top ? x[i] : top;
    }
    if (top == -INFINITY) {
        top = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - top);
        s += x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = s == 0 ? 0.0f : x[i] / s; /* nothing but -inf: zeros */
    }
}

static void silu_mul(float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void quick_gelu(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = x[i] / (1.0f + expf(-1.702f * x[i]));
    }
}

static void gelu_erf(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
    }
}

static void gelu_tanh(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i];
        x[i] = 0.5f * v * (1.0f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    }
}

static void rope(float *x, const float *cos_row, const float *sin_row, int64_t d) {
    int64_t half = d / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos_row[i] - b * sin_row[i];
        x[i + half] = b * cos_row[i] + a * sin_row[i];
    }
}

static void round_back(const float *w, int64_t n, float scale, float zero, float top, float *back) {
    for (int64_t i = 0; i < n; i++) {
        float q = fminf(fmaxf(rintf(w[i] / scale), -zero), top - zero);
        back[i] = q * scale;
    }
}

static void gptq_block(const sq_gptq_block *b) {
    enum { L = SQ_GPTQ_LANES };
    for (int64_t i = b->n - 1; i >= 0; i--) {
        const float *l = b->l + i * b->ldl;
        for (int64_t r = i * L; r < (i + 1) * L; r++) {
            float s = b->scales[r], z = b->zeros[r];
            float q = rintf((b->w[r] + b->carry[r] / l[i]) / s) + z;
            q = q > 0 ? q : 0; /* NaN too */
            q = q < b->top ? q : b->top;
            b->codes[r] = q;
            b->errors[r] = b->w[r] - (q - z) * s;
        }
        for (int64_t j = 0; j < i; j++) {
            for (int64_t r = 0; r < L; r++) {
                b->carry[j * L + r] += b->errors[i * L + r] * l[j];
            }
        }
    }
}

static float round_loss(const float *w, const float *h, int64_t n, float scale, float zero,
                        float top) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float q = fminf(fmaxf(rintf(w[i] / scale), -zero), top - zero), d = q * scale - w[i];
        sum += h[i] * d * d;
    }
    return sum;
}

void sq_kernels_init_c(sq_kernels *k) {
    *k = (sq_kernels){.dot_f32 = dot_f32,
                      .dot_f16 = dot_f16,
                      .dot_bf16 = dot_bf16,
                      .widen_f16 = widen_f16,
                      .widen_bf16 = widen_bf16,
                      .widen_i8 = widen_i8,
                      .range = range,
                      .round_i8 = round_i8,
                      .round_i16 = round_i16,
                      .int_tile = int_tile,
                      .axpy = axpy,
                      .rmsnorm = rmsnorm,
                      .layernorm = layernorm,
                      .softmax = softmax,
                      .silu_mul = silu_mul,
                      .quick_gelu = quick_gelu,
                      .gelu_erf = gelu_erf,
                      .gelu_tanh = gelu_tanh,
                      .rope = rope,
                      .round_back = round_back,
                      .round_loss = round_loss,
                      .gptq_block = gptq_block};
    sq_kv_init_c(k);
}
