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

static int code_q4(const uint8_t *row, int64_t col) {
    int64_t in = col % SQ_CHUNK_COLUMNS, lane = in % 16, nibble = in / 16;
    const uint8_t byte = row[col / SQ_CHUNK_COLUMNS * 64 + lane * 4 + nibble / 2];
    return nibble & 1 ? byte >> 4 : byte & 15;
}

static void gemv_q4(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w);
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        float total = 0;
        for (int64_t g = 0; g < groups; g++) {
            float s = 0;
            for (int64_t c = g * w->group; c < (g + 1) * w->group; c++) {
                s += (float)code_q4(codes, c) * x[c];
            }
            total += w->scales[r * groups + g] * s + w->offsets[r * groups + g] * xsum[g];
        }
        y[r - row0] = total;
    }
}

static void gemv_q8(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w);
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        float total = 0;
        for (int64_t g = 0; g < groups; g++) {
            float s = 0;
            for (int64_t c = g * w->group; c < (g + 1) * w->group; c++) {
                s += (float)codes[c] * x[c];
            }
            total += w->scales[r * groups + g] * s + w->offsets[r * groups + g] * xsum[g];
        }
        y[r - row0] = total;
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

static void round_i8(int8_t *q, const float *x, float scale, float zero, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        q[i] = (int8_t)rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f));
    }
}

/* The sum of pieces of one row of w; code(w's row, column) as the file has it, 0 upwards. */
static float sum_pieces(const sq_weight *w, int64_t row, const sq_rounded *x,
                        int (*code)(const uint8_t *, int64_t)) {
    int64_t piece = sq_weight_piece(w), stride = sq_weight_stride(w), pieces = sq_weight_pieces(w),
            per = w->group / piece;
    const uint8_t *codes = sq_weight_row(w, row);
    const float *scales = w->scales + row * sq_weight_groups(w);
    int middle = sq_weight_middle(w);
    float acc[4] = {0};
    for (int64_t p = 0; p < pieces; p++) {
        int32_t d = 0;
        for (int64_t c = 0; c < piece; c++) {
            d += (code(codes, p * piece + c) - middle) * x->codes[p * stride + c];
        }
        acc[p % 4] = fmaf(scales[p / per], (float)d, acc[p % 4]);
    }
    return (acc[0] + acc[1]) + (acc[2] + acc[3]);
}

static int code_q8(const uint8_t *row, int64_t col) { return row[col]; }

static void gemv_i4(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    for (int64_t r = 0; r < rows; r++) {
        y[r] = sum_pieces(w, row0 + r, x, code_q4);
    }
}

static void gemv_i8(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    for (int64_t r = 0; r < rows; r++) {
        y[r] = sum_pieces(w, row0 + r, x, code_q8);
    }
}

/* [n][pieces][stride] of centred codes. */
static void int_panel(const sq_weight *w, int64_t row0, int64_t n, uint8_t *panel) {
    int64_t piece = sq_weight_piece(w), stride = sq_weight_stride(w), pieces = sq_weight_pieces(w);
    int8_t *out = (int8_t *)panel;
    memset(panel, 0, sq_panel_codes(w));
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *codes = sq_weight_row(w, row0 + r);
        for (int64_t c = 0; c < pieces * piece; c++) {
            int q = w->kind == SQ_W_Q4 ? code_q4(codes, c) : codes[c];
            out[(r * pieces + c / piece) * stride + c % piece] = (int8_t)(q - sq_weight_middle(w));
        }
    }
    sq_panel_scales(w, row0, n, panel);
}

static void int_tile(const sq_weight *w, int64_t n, const uint8_t *panel, const sq_rounded *x,
                     int64_t rows, float *y, int64_t ldy) {
    int64_t stride = sq_weight_stride(w), pieces = sq_weight_pieces(w);
    const float *scales = (const float *)(const void *)(panel + sq_panel_codes(w));
    for (int64_t i = 0; i < rows * n; i++) {
        const int8_t *a = x[i / n].codes, *b = (const int8_t *)panel + i % n * pieces * stride;
        float acc[4] = {0};
        for (int64_t p = 0; p < pieces; p++, a += stride, b += stride) {
            int32_t d = 0;
            for (int64_t c = 0; c < stride; c++) {
                d += a[c] * b[c];
            }
            acc[p % 4] = fmaf(scales[p * SQ_PANEL + i % n], (float)d, acc[p % 4]);
        }
        y[i / n * ldy + i % n] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
    }
}

static void dequant_q4(const sq_weight *w, int64_t row, float *out) {
    const uint8_t *codes = sq_weight_row(w, row);
    int64_t at = row * sq_weight_groups(w);
    for (int64_t c = 0; c < w->k; c++) {
        int64_t g = at + c / w->group;
        out[c] = fmaf((float)code_q4(codes, c), w->scales[g], w->offsets[g]);
    }
}

static void dequant_q8(const sq_weight *w, int64_t row, float *out) {
    const uint8_t *codes = sq_weight_row(w, row);
    int64_t at = row * sq_weight_groups(w);
    for (int64_t c = 0; c < w->k; c++) {
        int64_t g = at + c / w->group;
        out[c] = fmaf((float)codes[c], w->scales[g], w->offsets[g]);
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
                      .gemv_q4 = gemv_q4,
                      .gemv_q8 = gemv_q8,
                      .range = range,
                      .round_i8 = round_i8,
                      .gemv_i4 = gemv_i4,
                      .gemv_i8 = gemv_i8,
                      .int_panel = int_panel,
                      .int_tile = int_tile,
                      .dequant_q4 = dequant_q4,
                      .dequant_q8 = dequant_q8,
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
                      .round_loss = round_loss};
}
