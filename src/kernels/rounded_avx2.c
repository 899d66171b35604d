/* Inputs rounded to integers, AVX2. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

static void range(const float *x, int64_t n, float *lo, float *hi) {
    __m256 a = _mm256_setzero_ps(), b = a, none = a;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        a = _mm256_min_ps(v, a); /* the second where one is NaN */
        b = _mm256_max_ps(v, b);
        none = _mm256_or_ps(none, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    float u[8], v[8], l = 0, h = 0;
    int bad = _mm256_movemask_ps(none) != 0;
    _mm256_storeu_ps(u, a);
    _mm256_storeu_ps(v, b);
    for (int j = 0; j < 8; j++) {
        l = u[j] < l ? u[j] : l;
        h = v[j] > h ? v[j] : h;
    }
    for (; i < n; i++) {
        l = x[i] < l ? x[i] : l;
        h = x[i] > h ? x[i] : h;
        bad |= x[i] != x[i];
    }
    *lo = bad ? NAN : l;
    *hi = bad ? NAN : h;
}

static inline __m256i round8(const float *x, __m256 scale, __m256 zero) {
    __m256 v = _mm256_add_ps(_mm256_div_ps(_mm256_loadu_ps(x), scale), zero);
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-128.0f)), _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(v);
}

static int32_t round_i8(int8_t *q, const float *x, float scale, float zero, int64_t n) {
    const __m256 s = _mm256_set1_ps(scale), z = _mm256_set1_ps(zero);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), one = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    uint32_t rest = 0;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_packs_epi32(round8(x + i, s, z), round8(x + i + 8, s, z));
        __m256i b = _mm256_packs_epi32(round8(x + i + 16, s, z), round8(x + i + 24, s, z));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(a, b), one));
        a = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
        _mm256_storeu_si256((__m256i *)(void *)(q + i), a);
    }
    for (; i < n; i++) {
        q[i] = (int8_t)rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f));
        rest += (uint32_t)q[i];
    }
    return (int32_t)((uint32_t)v_sum_words(sum) + rest);
}

static int32_t round_i16(int8_t *low, int8_t *high, const float *x, float inverse, int64_t n) {
    const __m256 s = _mm256_set1_ps(inverse);
    const __m256i half = _mm256_set1_epi32(128);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i sum = _mm256_setzero_si256();
    uint32_t rest = 0;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i l[4], h[4];
        for (int j = 0; j < 4; j++) {
            __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), s));
            h[j] = _mm256_srai_epi32(_mm256_add_epi32(q, half), 8);
            sum = _mm256_add_epi32(sum, q);
            l[j] = _mm256_sub_epi32(q, _mm256_slli_epi32(h[j], 8));
        }
        for (int j = 0; j < 2; j++) {
            __m256i *v = j == 0 ? l : h;
            __m256i b =
                _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
            _mm256_storeu_si256((__m256i *)(void *)((j == 0 ? low : high) + i),
                                _mm256_permutevar8x32_epi32(b, order));
        }
    }
    for (; i < n; i++) {
        int q = (int)rintf(x[i] * inverse), h = (q + 128) >> 8;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q - 256 * h);
        rest += (uint32_t)q;
    }
    return (int32_t)((uint32_t)v_sum_words(sum) + rest);
}

void sq_rounded_init_avx2(sq_kernels *k) {
    k->range = range;
    k->round_i8 = round_i8;
    k->round_i16 = round_i16;
}
