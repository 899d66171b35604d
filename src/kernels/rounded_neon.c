/* Products with rounded inputs, NEON: products of 8-bit integers are 16 bits wide. */
#include <math.h>

#include "kernels/internal.h"
#include "kernels/simd_neon.h"

static void range(const float *x, int64_t n, float *lo, float *hi) {
    float32x4_t a = vdupq_n_f32(0), b = a;
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        float32x4_t v = vld1q_f32(x + i);
        a = vminq_f32(a, v); /* NaN stays */
        b = vmaxq_f32(b, v);
    }
    float l = vminvq_f32(a), h = vmaxvq_f32(b);
    int bad = l != l || h != h;
    for (; i < n; i++) {
        l = x[i] < l ? x[i] : l;
        h = x[i] > h ? x[i] : h;
        bad |= x[i] != x[i];
    }
    *lo = bad ? NAN : l;
    *hi = bad ? NAN : h;
}

static inline int16x4_t round4(const float *x, float32x4_t scale, float32x4_t zero) {
    float32x4_t v = vaddq_f32(vdivq_f32(vld1q_f32(x), scale), zero);
    v = v_min(v_max(v, vdupq_n_f32(-128.0f)), vdupq_n_f32(127.0f));
    return vmovn_s32(vcvtnq_s32_f32(v));
}

static int32_t round_i8(int8_t *q, const float *x, float scale, float zero, int64_t n) {
    const float32x4_t s = vdupq_n_f32(scale), z = vdupq_n_f32(zero);
    int32x4_t sum = vdupq_n_s32(0);
    uint32_t rest = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        int16x8_t v = vcombine_s16(round4(x + i, s, z), round4(x + i + 4, s, z));
        sum = vpadalq_s16(sum, v);
        vst1_s8(q + i, vmovn_s16(v));
    }
    for (; i < n; i++) {
        q[i] = (int8_t)rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f));
        rest += (uint32_t)q[i];
    }
    return (int32_t)((uint32_t)vaddvq_s32(sum) + rest);
}

static int32_t round_i16(int8_t *low, int8_t *high, const float *x, float inverse, int64_t n) {
    int32x4_t sum = vdupq_n_s32(0);
    uint32_t rest = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
        int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));
        int16x8_t q = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        sum = vpadalq_s16(sum, q);
        vst1_s8(high + i, vrshrn_n_s16(q, 8)); /* (q + 128) >> 8 */
        vst1_s8(low + i, vmovn_s16(q));
    }
    for (; i < n; i++) {
        int q = (int)rintf(x[i] * inverse), h = (q + 128) >> 8;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q - 256 * h);
        rest += (uint32_t)q;
    }
    return (int32_t)((uint32_t)vaddvq_s32(sum) + rest);
}

/* Two products of a 4-bit code are 16 bits still; of codes -128 and inputs -128 they are not. */
static inline __attribute__((always_inline)) int32x4_t add_word(int32x4_t sums, int8x16_t codes,
                                                                int8x16_t x, int bits) {
    int16x8_t a = vmull_s8(vget_low_s8(codes), vget_low_s8(x)), b = vmull_high_s8(codes, x);
    return bits == 4 ? vpadalq_s16(sums, vpaddq_s16(a, b))
                     : vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)));
}

#define add_four(sums, codes, x, lane, bits)                                                       \
    add_word(sums, codes, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane)),    \
             bits)
#include "kernels/rounded_neon_body.h"
/* Four words at once. */
#define add_words(sums, codes, x) add_word(sums, codes, x, 8)
#include "kernels/kv_neon_body.h"

static int32_t round_weights(int8_t *low, int8_t *high, const float *x, const float *factor,
                             float *worth) {
    float32x4_t top = vdupq_n_f32(0);
    int32x4_t sum = vdupq_n_s32(0);
    for (int64_t i = 0; i < SQ_KV_TOKENS; i += VN) { /* NaN stays */
        top = vmaxq_f32(top, vmulq_f32(vld1q_f32(x + i), vld1q_f32(factor + i)));
    }
    float inverse = sq_weights_scale(vmaxvq_f32(top), worth);
    for (int64_t i = 0; i < SQ_KV_TOKENS; i += 8) {
        float32x4_t a = vmulq_f32(vld1q_f32(x + i), vld1q_f32(factor + i));
        float32x4_t b = vmulq_f32(vld1q_f32(x + i + 4), vld1q_f32(factor + i + 4));
        int32x4_t c = vcvtnq_s32_f32(vmulq_n_f32(a, inverse));
        int32x4_t d = vcvtnq_s32_f32(vmulq_n_f32(b, inverse));
        int16x8_t q = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
        vst1_s8(high + i, vrshrn_n_s16(q, 8)); /* (q + 128) >> 8 */
        vst1_s8(low + i, vmovn_s16(q));
        sum = vaddq_s32(sum, vaddq_s32(c, d));
    }
    return vaddvq_s32(sum);
}

void sq_rounded_init_neon(sq_kernels *k) {
    k->range = range;
    k->round_i8 = round_i8;
    k->round_i16 = round_i16;
    k->int_tile = int_tile;
    k->kv_i8 = kv_i8;
    k->round_weights = round_weights;
}
