/* What products with rounded inputs share in AVX-512 and AMX: a register is a number of each of the
 * sixteen rows of a panel. */
#ifndef SQ_KERNELS_ROUNDED_AVX512_H
#define SQ_KERNELS_ROUNDED_AVX512_H

#include <immintrin.h>

#include "kernels/internal.h"

static inline __m512 scales_at(const sq_weight *w, int64_t at) {
    if (w->half == NULL) {
        return _mm512_loadu_ps(w->scales + at);
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(w->half + at)));
}

static inline __m512i zeros_at(const sq_weight *w, int bits, int64_t at) {
    if (w->zeros == NULL) {
        return _mm512_set1_epi32(1 << (bits - 1));
    }
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w->zeros + at)));
}

static inline __attribute__((always_inline)) __m512 finish(int planes, __m512 scale, __m512i sum,
                                                           float x_scale, __m512 acc) {
    __m512 f = _mm512_cvtepi32_ps(sum);
    f = planes == 2 ? _mm512_mul_ps(_mm512_set1_ps(x_scale), f) : f;
    return _mm512_fmadd_ps(scale, f, acc);
}

/* Row `row`'s columns of a panel. */
static inline __attribute__((always_inline)) void put(int planes, const sq_weight *w, int64_t panel,
                                                      const sq_rounded *x, int row,
                                                      const float *bias, float *y, int64_t ldy,
                                                      __m512 v) {
    int64_t c = panel * SQ_PANEL, left = w->n - c;
    __mmask16 k = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
    v = planes == 1 ? _mm512_mul_ps(v, _mm512_set1_ps(x->scales[row])) : v;
    if (x->zeros != NULL) {
        v = _mm512_fnmadd_ps(_mm512_set1_ps(x->zeros[row]), _mm512_loadu_ps(w->sums + c), v);
    }
    v = bias == NULL ? v : _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, bias + c));
    _mm512_mask_storeu_ps(y + row * ldy + c, k, v);
}

#endif
