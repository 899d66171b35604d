/* Products of bf16 pairs, AVX-512 BF16: dpbf16ps adds both products of a pair to a 32-bit lane. */
#include <immintrin.h>

#include "kernels/internal.h"

static inline __m512i to_bf16(const float *x, __mmask16 m) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, x)));
}

static void pair_bf16(const float *even, const float *odd, int64_t n, uint32_t *out) {
    __mmask16 m = n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
    __m512i high = odd == NULL ? _mm512_setzero_si512() : to_bf16(odd, m);
    _mm512_storeu_si512(out, _mm512_or_si512(to_bf16(even, m), _mm512_slli_epi32(high, 16)));
}

/* Rows of a times `panels` panels of b: m * panels registers of sums. */
static inline __attribute__((always_inline)) void
tile(int m, int panels, int64_t pairs, const uint32_t *a, int64_t a_row, int64_t a_pair,
     const uint32_t *b, int64_t b_panel, int64_t columns, float *c, int64_t ldc) {
    __m512 sum[8][3];
    for (int i = 0; i < m * panels; i++) {
        sum[i / panels][i % panels] = _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < pairs; p++, a += a_pair, b += 16) {
        __m512bh w[3];
        for (int j = 0; j < panels; j++) {
            w[j] = (__m512bh)_mm512_loadu_si512(b + j * b_panel);
        }
        for (int i = 0; i < m; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i * a_row]);
            for (int j = 0; j < panels; j++) {
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, w[j]);
            }
        }
    }
    for (int j = 0; j < panels; j++) {
        int64_t left = columns - 16 * j;
        __mmask16 k = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
        for (int i = 0; i < m; i++) {
            float *to = c + i * ldc + 16 * j;
            _mm512_mask_storeu_ps(to, k, _mm512_add_ps(_mm512_maskz_loadu_ps(k, to), sum[i][j]));
        }
    }
}

static void tile_bf16(int64_t rows, int64_t columns, int64_t pairs, const uint32_t *a,
                      int64_t a_row, int64_t a_pair, const uint32_t *b, int64_t b_panel, float *c,
                      int64_t ldc) {
    for (int64_t j = 0; j < columns;) {
        int64_t left = columns - j, wide = left > 32 ? 3 : 1, i = 0;
        for (; wide == 3 && i + 8 <= rows; i += 8) {
            tile(8, 3, pairs, a + i * a_row, a_row, a_pair, b, b_panel, left, c + i * ldc + j, ldc);
        }
        for (; i + 8 <= rows; i += 8) {
            tile(8, 1, pairs, a + i * a_row, a_row, a_pair, b, b_panel, left, c + i * ldc + j, ldc);
        }
        for (; wide == 3 && i < rows; i++) {
            tile(1, 3, pairs, a + i * a_row, a_row, a_pair, b, b_panel, left, c + i * ldc + j, ldc);
        }
        for (; i < rows; i++) {
            tile(1, 1, pairs, a + i * a_row, a_row, a_pair, b, b_panel, left, c + i * ldc + j, ldc);
        }
        j += 16 * wide;
        b += wide * b_panel;
    }
}

void sq_kernels_init_avx512_bf16(sq_kernels *k) {
    k->pair_bf16 = pair_bf16;
    k->tile_bf16 = tile_bf16;
}
