/* Attention over a KV cache of 8-bit integers, AVX2: as 16-bit integers, whose products in pairs
 * are exact. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kv_tiles.h"
#include "kernels/simd_avx2.h"

enum { MOST_WORDS = 64 }; /* of a row, laid out at once */

static inline __m256i sixteen(const int8_t *p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Words [k, k + n) of m rows as 16-bit numbers, low + 256 high. Broadcast as doubles: as integers
 * they would take a place beside the products on Zen 4. */
static void lay(const sq_kv_product *p, int m, int64_t row, int64_t k, int64_t n,
                double words[SQ_KV_ROWS][MOST_WORDS]) {
    for (int r = 0; r < m; r++) {
        const int8_t *low = (const int8_t *)p->a + 4 * ((row + r) * p->lda + k),
                     *high = low + 4 * p->k;
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            __m256i v = _mm256_slli_epi16(sixteen(high + 4 * i), 8);
            v = _mm256_add_epi16(v, sixteen(low + 4 * i));
            _mm256_storeu_pd(&words[r][i], _mm256_castsi256_pd(v));
        }
        for (; i < n; i++) {
            int16_t v[4];
            for (int j = 0; j < 4; j++) {
                v[j] = (int16_t)(low[4 * i + j] + 256 * high[4 * i + j]);
            }
            memcpy(&words[r][i], v, sizeof v);
        }
    }
}

static inline __m256i codes(const char *p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Eight columns from sums of two halves of four columns each. */
static inline __attribute__((always_inline)) void put(const sq_kv_product *p, int64_t row,
                                                      int64_t column, __m256i x, __m256i y) {
    float *c = p->c + row * p->ldc + column;
    /* in whole numbers that may wrap, as the sum does not */
    __m256i excess = _mm256_set1_epi32((int)(128u * (uint32_t)p->sums[row]));
    __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(x, y), 0xd8);
    __m256 f = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, excess));
    f = p->scale == NULL ? f : _mm256_mul_ps(f, _mm256_set1_ps(p->scale[row]));
    f = p->columns == NULL ? f : _mm256_mul_ps(f, _mm256_loadu_ps(p->columns + column));
    _mm256_storeu_ps(c, p->add ? _mm256_add_ps(_mm256_loadu_ps(c), f) : f);
}

/* In place: left to itself, gcc keeps sums in memory. */
static inline void add(__m256i *sum, __m256i codes, __m256i numbers) {
    __m256i more = _mm256_madd_epi16(codes, numbers);
    __asm__("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(more));
}

#define START(r) __m256i s##r = _mm256_setzero_si256(), t##r = s##r;
#define ADD(r)                                                                                     \
    if (r < m) {                                                                                   \
        const __m256i v = _mm256_castpd_si256(_mm256_broadcast_sd(&words[r][k]));                  \
        add(&s##r, b0, v);                                                                         \
        add(&t##r, b1, v);                                                                         \
    }
#define PUT(r)                                                                                     \
    if (r < m) {                                                                                   \
        put(p, row + r, column, s##r, t##r);                                                       \
    }

/* Up to six rows by eight columns, half of a panel. */
static inline __attribute__((always_inline)) void tile(int m, const sq_kv_product *p, int64_t row,
                                                       int64_t column,
                                                       double words[SQ_KV_ROWS][MOST_WORDS]) {
    const int64_t ldb = 4 * p->ldb;
    const char *b = (const char *)p->b + 4 * column;
    SQ_EACH_KV_ROW(START)
    for (int64_t k0 = 0; k0 < p->k; k0 += MOST_WORDS) {
        int64_t n = p->k - k0 < MOST_WORDS ? p->k - k0 : MOST_WORDS;
        if (column == 0 || p->k > MOST_WORDS) { /* the other columns find them there */
            lay(p, m, row, k0, n, words);
        }
        for (int64_t k = 0; k < n; k++, b += ldb) {
            const __m256i b0 = codes(b), b1 = codes(b + 16);
            if (column % 16 == 0) {
                sq_kv_fetch(p, k0 + k, ldb, 4 * column, 64);
            }
            SQ_EACH_KV_ROW(ADD)
        }
    }
    SQ_EACH_KV_ROW(PUT)
}

static void kv_i8(const sq_kv_product *p) {
    double words[SQ_KV_ROWS][MOST_WORDS];
    for (int64_t i = 0; i < p->rows; i += SQ_KV_ROWS) {
        for (int64_t j = 0; j < p->n; j += 8) {
#define TILE(m, wide, p, i, j) tile(m, p, i, j, words)
            SQ_KV_CASES(1, TILE)
        }
    }
}

static int32_t round_weights(int8_t *low, int8_t *high, const float *x, const float *factor,
                             float *worth) {
    const __m256i half = _mm256_set1_epi32(128);
    /* the lowest byte of each word */
    const __m256i pick =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i join = _mm256_setr_epi32(0, 4, 0, 0, 0, 0, 0, 0);
    __m256i sum = _mm256_setzero_si256();
    __m256 tops = _mm256_setzero_ps(), bad = tops;
    for (int64_t i = 0; i < SQ_KV_TOKENS; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(factor + i));
        tops = _mm256_max_ps(tops, v);
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(tops), _mm256_extractf128_ps(tops, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    top = _mm_max_ss(top, _mm_movehdup_ps(top));
    const __m256 inverse =
        _mm256_set1_ps(sq_weights_scale(_mm256_movemask_ps(bad) ? NAN : _mm_cvtss_f32(top), worth));
    for (int64_t i = 0; i < SQ_KV_TOKENS; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(factor + i));
        __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse));
        __m256i h = _mm256_srai_epi32(_mm256_add_epi32(q, half), 8);
        sum = _mm256_add_epi32(sum, q);
        /* the low byte of q is that of q - 256 h */
        q = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(q, pick), join);
        h = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(h, pick), join);
        _mm_storel_epi64((__m128i *)(void *)(low + i), _mm256_castsi256_si128(q));
        _mm_storel_epi64((__m128i *)(void *)(high + i), _mm256_castsi256_si128(h));
    }
    return v_sum_words(sum);
}

void sq_kv_init_avx2(sq_kernels *k) {
    k->kv_i8 = kv_i8;
    k->round_weights = round_weights;
}
