/* AVX2 with FMA and F16C. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

#define V __m256
#define VN 8
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, x) _mm256_storeu_ps(p, x)
#define v_set1 _mm256_set1_ps
#define v_add _mm256_add_ps
#define v_sub _mm256_sub_ps
#define v_mul _mm256_mul_ps
#define v_div _mm256_div_ps
#define v_max _mm256_max_ps
#define v_min _mm256_min_ps
#define v_fma _mm256_fmadd_ps
#define v_round(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define v_bf16(p)                                                                                  \
    _mm256_castsi256_ps(_mm256_slli_epi32(                                                         \
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
/* NaN is not below and passes through. */
#define v_zero_below(x, lo, y) _mm256_and_ps(_mm256_cmp_ps(x, lo, _CMP_NLT_UQ), y)

static inline __m256i part(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#define v_load_part(p, n) _mm256_maskload_ps(p, part(n))
#define v_store_part(p, x, n) _mm256_maskstore_ps(p, part(n), x)

static inline __m256 v_scale2(__m256 x, __m256 n) {
    /* In two halves, so that the exponents at both ends stay representable. */
    __m256i e = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(e, 1), bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, h), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

static inline float v_sum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float v_top(__m256 v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* Eight codes of columns c..c+7 (c a multiple of 8) as floats. */
static inline __m256 v_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline __m256 v_q4(const uint8_t *codes, int64_t c) {
    const uint8_t *p = codes + c / SQ_CHUNK_COLUMNS * 64 + c % 16 * 4;
    __m256i z = _mm256_loadu_si256((const __m256i *)(const void *)p);
    z = _mm256_srl_epi32(z, _mm_cvtsi64_si128(c % SQ_CHUNK_COLUMNS / 16 * 4));
    return _mm256_cvtepi32_ps(_mm256_and_si256(z, _mm256_set1_epi32(15)));
}

static inline __m256 v_q8(const uint8_t *codes, int64_t c) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(codes + c))));
}
#include "kernels/simd_body.h"

/* Sums of codes times x of one group, in two halves. */
typedef struct halves {
    __m256 a, b;
} halves;

/* Runs [j0, j1) of 16 columns of one chunk. Always called with constants: the loop unrolls into
 * shifts by immediates. */
static inline __attribute__((always_inline)) halves add_runs(halves s, const uint8_t *chunk, int j0,
                                                             int j1, const float *x) {
    const __m256i low = _mm256_set1_epi32(15);
    __m256i z0 = _mm256_loadu_si256((const __m256i *)(const void *)chunk);
    __m256i z1 = _mm256_loadu_si256((const __m256i *)(const void *)(chunk + 32));
    for (int j = j0; j < j1; j++) {
        __m256i q0 = _mm256_and_si256(_mm256_srli_epi32(z0, 4 * j), low);
        __m256i q1 = _mm256_and_si256(_mm256_srli_epi32(z1, 4 * j), low);
        s.a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(q0), _mm256_loadu_ps(x + 16 * j), s.a);
        s.b = _mm256_fmadd_ps(_mm256_cvtepi32_ps(q1), _mm256_loadu_ps(x + 16 * j + 8), s.b);
    }
    return s;
}

/* Groups of `per` chunks. */
static float row_q4_chunks(const uint8_t *codes, int64_t per, int64_t groups, const float *scales,
                           const float *x) {
    __m256 total = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        halves even = {_mm256_setzero_ps(), _mm256_setzero_ps()}, odd = even;
        for (int64_t i = 0; i < per; i++, codes += 64, x += SQ_CHUNK_COLUMNS) {
            even = add_runs(even, codes, 0, 4, x);
            odd = add_runs(odd, codes, 4, 8, x);
        }
        __m256 sum = _mm256_add_ps(_mm256_add_ps(even.a, even.b), _mm256_add_ps(odd.a, odd.b));
        total = _mm256_fmadd_ps(sum, _mm256_set1_ps(scales[g]), total);
    }
    return v_sum(total);
}

/* Groups of 32 columns, four a chunk; the last chunk may hold fewer. */
static float row_q4_32(const uint8_t *codes, int64_t groups, const float *scales, const float *x) {
    const halves zero = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    __m256 total = zero.a, other = zero.b;
    int64_t g = 0;
    for (; g + 4 <= groups; g += 4, codes += 64, x += SQ_CHUNK_COLUMNS) {
        halves s0 = add_runs(zero, codes, 0, 2, x), s1 = add_runs(zero, codes, 2, 4, x);
        halves s2 = add_runs(zero, codes, 4, 6, x), s3 = add_runs(zero, codes, 6, 8, x);
        __m256 f0 = _mm256_set1_ps(scales[g]), f1 = _mm256_set1_ps(scales[g + 1]);
        __m256 f2 = _mm256_set1_ps(scales[g + 2]), f3 = _mm256_set1_ps(scales[g + 3]);
        total = _mm256_fmadd_ps(_mm256_add_ps(s0.a, s0.b), f0, total);
        other = _mm256_fmadd_ps(_mm256_add_ps(s1.a, s1.b), f1, other);
        total = _mm256_fmadd_ps(_mm256_add_ps(s2.a, s2.b), f2, total);
        other = _mm256_fmadd_ps(_mm256_add_ps(s3.a, s3.b), f3, other);
    }
    for (int64_t c = 0; g < groups; g++, c += 32) {
        __m256 f = _mm256_set1_ps(scales[g]), s = _mm256_setzero_ps();
        for (int64_t i = c; i < c + 32; i += 8) {
            s = _mm256_fmadd_ps(v_q4(codes, i), _mm256_loadu_ps(x + i), s);
        }
        total = _mm256_fmadd_ps(s, f, total);
    }
    return v_sum(_mm256_add_ps(total, other));
}

/* Any other group that 8 divides. */
static float row_q4_eights(const uint8_t *codes, int64_t group, int64_t groups, const float *scales,
                           const float *x) {
    __m256 total = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m256 s = _mm256_setzero_ps();
        for (int64_t c = g * group; c < (g + 1) * group; c += 8) {
            s = _mm256_fmadd_ps(v_q4(codes, c), _mm256_loadu_ps(x + c), s);
        }
        total = _mm256_fmadd_ps(s, _mm256_set1_ps(scales[g]), total);
    }
    return v_sum(total);
}

static void gemv_q4(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w), group = w->group;
    if (group % 8 != 0) {
        sq_kernels plain;
        sq_kernels_init_c(&plain);
        plain.gemv_q4(w, row0, rows, x, xsum, y);
        return;
    }
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        const float *s = w->scales + r * groups;
        float v = group % SQ_CHUNK_COLUMNS == 0
                      ? row_q4_chunks(codes, group / SQ_CHUNK_COLUMNS, groups, s, x)
                  : group == 32 ? row_q4_32(codes, groups, s, x)
                                : row_q4_eights(codes, group, groups, s, x);
        y[r - row0] = v + k_dot_f32(w->offsets + r * groups, xsum, groups);
    }
}

static void gemv_q8(const sq_weight *w, int64_t row0, int64_t rows, const float *x,
                    const float *xsum, float *y) {
    int64_t groups = sq_weight_groups(w), group = w->group;
    for (int64_t r = row0; r < row0 + rows; r++) {
        const uint8_t *codes = sq_weight_row(w, r);
        const float *scales = w->scales + r * groups;
        __m256 total = _mm256_setzero_ps();
        float rest = 0;
        for (int64_t g = 0; g < groups; g++) {
            __m256 a = _mm256_setzero_ps(), b = a;
            int64_t c = g * group, end = c + group;
            for (; c + 16 <= end; c += 16) {
                a = _mm256_fmadd_ps(v_q8(codes, c), _mm256_loadu_ps(x + c), a);
                b = _mm256_fmadd_ps(v_q8(codes, c + 8), _mm256_loadu_ps(x + c + 8), b);
            }
            if (c + 8 <= end) {
                a = _mm256_fmadd_ps(v_q8(codes, c), _mm256_loadu_ps(x + c), a);
                c += 8;
            }
            float few = 0;
            for (; c < end; c++) {
                few += (float)codes[c] * x[c];
            }
            rest += scales[g] * few;
            total = _mm256_fmadd_ps(_mm256_add_ps(a, b), _mm256_set1_ps(scales[g]), total);
        }
        y[r - row0] = v_sum(total) + rest + k_dot_f32(w->offsets + r * groups, xsum, groups);
    }
}

void sq_kernels_init_avx2(sq_kernels *k) {
    fill_table(k);
    k->gemv_q4 = gemv_q4;
    k->gemv_q8 = gemv_q8;
    sq_rounded_init_avx2(k);
}
