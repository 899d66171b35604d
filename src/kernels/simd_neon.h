/* The words of simd_body.h and rounded_body.h over 4 floats: NEON of 64-bit ARM. */
#ifndef SQ_KERNELS_SIMD_NEON_H
#define SQ_KERNELS_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define V float32x4_t
#define VN 4
/* By bytes, because a file's numbers may lie anywhere. */
#define v_load(p) vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(const void *)(p)))
#define v_store(p, x) vst1q_f32(p, x)
#define v_set1 vdupq_n_f32
#define v_add vaddq_f32
#define v_sub vsubq_f32
#define v_mul vmulq_f32
#define v_div vdivq_f32
#define v_fma(a, b, c) vfmaq_f32(c, a, b)
#define v_nfma(a, b, c) vfmsq_f32(c, a, b)
#define v_round vrndnq_f32
#define v_sum vaddvq_f32
#define v_top vmaxvq_f32

/* The second where one is NaN: NEON's own maximum is NaN then. */
static inline float32x4_t v_max(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float32x4_t v_min(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

/* NaN is not below and passes through. */
static inline float32x4_t v_zero_below(float32x4_t x, float32x4_t lo, float32x4_t y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, lo)));
}

static inline uint16x4_t v_halves(const uint16_t *p) {
    return vreinterpret_u16_u8(vld1_u8((const uint8_t *)p));
}

static inline float32x4_t v_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(v_halves(p)));
}

static inline float32x4_t v_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(v_halves(p), 16));
}

static inline float32x4_t v_load_part(const float *p, int64_t n) {
    float some[VN] = {0};
    memcpy(some, p, (size_t)n * sizeof *some);
    return vld1q_f32(some);
}

static inline void v_store_part(float *p, float32x4_t x, int64_t n) {
    float some[VN];
    vst1q_f32(some, x);
    memcpy(p, some, (size_t)n * sizeof *some);
}

static inline float32x4_t v_scale2(float32x4_t x, float32x4_t n) {
    /* In two halves, so that the exponents at both ends stay representable. */
    int32x4_t e = vcvtq_s32_f32(n), h = vshrq_n_s32(e, 1), bias = vdupq_n_s32(127);
    int32x4_t a = vshlq_n_s32(vaddq_s32(h, bias), 23);
    int32x4_t b = vshlq_n_s32(vaddq_s32(vsubq_s32(e, h), bias), 23);
    return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}

/* Four bytes, in the low half of a register. */
static inline uint8x8_t v_word(const void *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vreinterpret_u8_u32(vdup_n_u32(word));
}

static inline float32x4_t v_i8(const int8_t *p) {
    int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(v_word(p)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

/* Of the bf16 pairs at p. */
static inline uint32x4_t v_pairs(const char *p) {
    return vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)p));
}

static inline float32x4_t v_even(const char *p) {
    return vreinterpretq_f32_u32(vshlq_n_u32(v_pairs(p), 16));
}

static inline float32x4_t v_odd(const char *p) {
    return vreinterpretq_f32_u32(vandq_u32(v_pairs(p), vdupq_n_u32(0xffff0000u)));
}

static inline float32x4_t v_planes(const int32_t *low, const int32_t *high) {
    int32x4_t sum = vld1q_s32(low);
    return vcvtq_f32_s32(high == NULL ? sum : vaddq_s32(sum, vshlq_n_s32(vld1q_s32(high), 8)));
}

#endif
