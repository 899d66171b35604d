/* AVX-512 (F, BW, DQ, VL). */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

#define V __m512
#define VN 16
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, x) _mm512_storeu_ps(p, x)
#define v_set1 _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_sub _mm512_sub_ps
#define v_mul _mm512_mul_ps
#define v_div _mm512_div_ps
#define v_max _mm512_max_ps
#define v_min _mm512_min_ps
#define v_fma _mm512_fmadd_ps
#define v_sum _mm512_reduce_add_ps
#define v_top _mm512_reduce_max_ps
#define v_round(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_scale2 _mm512_scalef_ps
#define v_part(n) ((__mmask16)((1u << (n)) - 1))
#define v_load_part(p, n) _mm512_maskz_loadu_ps(v_part(n), p)
#define v_store_part(p, x, n) _mm512_mask_storeu_ps(p, v_part(n), x)
#define v_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define v_bf16(p)                                                                                  \
    _mm512_castsi512_ps(_mm512_slli_epi32(                                                         \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
/* NaN is not below and passes through. */
#define v_zero_below(x, lo, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lo, _CMP_NLT_UQ), y)

static inline __m512 codes16(void) {
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* Sixteen codes of columns c..c+15 (c a multiple of 16) as floats. */
static inline __m512 v_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline __m512 v_q4(const uint8_t *codes, int64_t c) {
    __m512i z = _mm512_loadu_si512(codes + c / SQ_CHUNK_COLUMNS * 64);
    z = _mm512_srl_epi32(z, _mm_cvtsi64_si128(c % SQ_CHUNK_COLUMNS / 16 * 4));
    return _mm512_permutexvar_ps(z, codes16());
}

static inline __m512 v_q8(const uint8_t *codes, int64_t c) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(codes + c))));
}
#include "kernels/simd_body.h"

/* Groups of whole chunks: the low four bits of each lane index a table of 0..15; one shift,
 * permutation and multiply-add for 16 weights. */
static float row_q4_chunks(const uint8_t *codes, int64_t per_group, int64_t groups,
                           const float *scales, const float *offsets, const float *x,
                           const float *xsum) {
    const __m512 lut = codes16();
    __m512 total = _mm512_setzero_ps();
    float offset = 0;
    for (int64_t g = 0; g < groups; g++) {
        __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
        for (int64_t i = 0; i < per_group; i++, codes += 64, x += SQ_CHUNK_COLUMNS) {
            __m512i z = _mm512_loadu_si512(codes);
            a = _mm512_fmadd_ps(_mm512_permutexvar_ps(z, lut), _mm512_loadu_ps(x), a);
            b = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 4), lut),
                                _mm512_loadu_ps(x + 16), b);
            c = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 8), lut),
                                _mm512_loadu_ps(x + 32), c);
            d = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 12), lut),
                                _mm512_loadu_ps(x + 48), d);
            a = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 16), lut),
                                _mm512_loadu_ps(x + 64), a);
            b = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 20), lut),
                                _mm512_loadu_ps(x + 80), b);
            c = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 24), lut),
                                _mm512_loadu_ps(x + 96), c);
            d = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(z, 28), lut),
                                _mm512_loadu_ps(x + 112), d);
        }
        __m512 sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
        total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scales[g]), total);
        offset += offsets[g] * xsum[g];
    }
    return _mm512_reduce_add_ps(total) + offset;
}

/* Groups that 16 divides: each run of 16 columns has one scale. */
static float row_q4_sixteens(const uint8_t *codes, int64_t group, int64_t groups,
                             const float *scales, const float *offsets, const float *x,
                             const float *xsum) {
    __m512 total = _mm512_setzero_ps();
    float offset = 0;
    for (int64_t g = 0; g < groups; g++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t c = g * group; c < (g + 1) * group; c += 16) {
            sum = _mm512_fmadd_ps(v_q4(codes, c), _mm512_loadu_ps(x + c), sum);
        }
        total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scales[g]), total);
        offset += offsets[g] * xsum[g];
    }
    return _mm512_reduce_add_ps(total) + offset;
}

static void gemv_q4(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w), g = w->group;
    if (g % 16 != 0) {
        sq_kernels plain;
        sq_kernels_init_c(&plain);
        plain.gemv_q4(w, row0, rows, x, xsum, y);
        return;
    }
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        const float *s = w->scales + r * groups, *o = w->offsets + r * groups;
        y[r - row0] = g % SQ_CHUNK_COLUMNS == 0
                          ? row_q4_chunks(codes, g / SQ_CHUNK_COLUMNS, groups, s, o, x, xsum)
                          : row_q4_sixteens(codes, g, groups, s, o, x, xsum);
    }
}

static void gemv_q8(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w), group = w->group;
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        __m512 total = _mm512_setzero_ps();
        float offset = 0;
        for (int64_t g = 0; g < groups; g++) {
            __m512 sum = _mm512_setzero_ps();
            int64_t c = g * group, end = c + group;
            for (; c + 16 <= end; c += 16) {
                sum = _mm512_fmadd_ps(v_q8(codes, c), _mm512_loadu_ps(x + c), sum);
            }
            if (c < end) {
                __m512i q = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(v_part(end - c), codes + c));
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), v_load_part(x + c, end - c), sum);
            }
            total = _mm512_fmadd_ps(sum, _mm512_set1_ps(w->scales[r * groups + g]), total);
            offset += w->offsets[r * groups + g] * xsum[g];
        }
        y[r - row0] = _mm512_reduce_add_ps(total) + offset;
    }
}

void sq_kernels_init_avx512(sq_kernels *k) {
    fill_table(k);
    k->gemv_q4 = gemv_q4;
    k->gemv_q8 = gemv_q8;
}
