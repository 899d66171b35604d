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

/* Sixteen codes of columns c..c+15 (c a multiple of 16) as floats. */
static inline __m512 v_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
#define v_even(p) /* of the bf16 pairs at p */                                                     \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))
#define v_odd(p)                                                                                   \
    _mm512_castsi512_ps(                                                                           \
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000u)))
#include "kernels/simd_body.h"
/* After it: it uses v_exp. */
#include "kernels/kv_body.h"

void sq_kernels_init_avx512(sq_kernels *k) {
    fill_table(k);
    fill_kv(k);
}
