/* Products of bf16 pairs, AVX-512 BF16: dpbf16ps adds both products of a pair to a 32-bit lane. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kv_tiles.h"

/* The first n of sixteen lanes, or all. */
static inline __mmask16 first(int64_t n) {
    return n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
}

static void pair_bf16(const float *even, const float *odd, int64_t n, uint32_t *out) {
    static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i by_turns = _mm512_loadu_si512(order);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = first(n - i);
        __m512 high = odd == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(m, odd + i);
        __m512bh v = _mm512_cvtne2ps_pbh(high, _mm512_maskz_loadu_ps(m, even + i));
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi16(by_turns, (__m512i)v));
    }
}

static void narrow_bf16(uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i + 16), _mm512_loadu_ps(src + i));
        _mm512_storeu_si512(dst + i, (__m512i)v);
    }
    for (; i < n; i += 16) {
        __mmask16 m = first(n - i);
        __m256i v = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, src + i));
        _mm256_mask_storeu_epi16(dst + i, m, v);
    }
}

/* Sixteen rows of sixteen words become sixteen columns of them. */
static inline __attribute__((always_inline)) void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

static void panel_bf16(const uint16_t *w, int64_t ldw, int64_t n, int64_t k, uint32_t *out) {
    int64_t p = 0, pairs = k / 2;
    for (; p < pairs; p += 16) { /* sixteen pairs of columns of all rows */
        __mmask16 m = first(pairs - p);
        __m512i r[16];
        for (int64_t i = 0; i < 16; i++) {
            r[i] =
                i < n ? _mm512_maskz_loadu_epi32(m, w + i * ldw + 2 * p) : _mm512_setzero_si512();
        }
        transpose(r);
        for (int64_t i = 0; i < 16 && p + i < pairs; i++) {
            _mm512_storeu_si512(out + 16 * (p + i), r[i]);
        }
    }
    for (int64_t i = 0; k % 2 == 1 && i < 16; i++) { /* a last column by itself */
        uint16_t v = 0;
        if (i < n) {
            memcpy(&v, (const char *)w + 2 * (i * ldw + k - 1), sizeof v);
        }
        out[16 * pairs + i] = v;
    }
}

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: eight rows of up
 * to three sums by name. */
#define EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define START(i) __m512 x##i = _mm512_setzero_ps(), y##i = x##i, z##i = x##i;
#define ADD(i)                                                                                     \
    if (i < m) {                                                                                   \
        __m512bh v = (__m512bh)_mm512_set1_epi32((int)a[i * a_row]);                               \
        x##i = _mm512_dpbf16_ps(x##i, v, w[0]);                                                    \
        y##i = panels > 1 ? _mm512_dpbf16_ps(y##i, v, w[1]) : y##i;                                \
        z##i = panels > 2 ? _mm512_dpbf16_ps(z##i, v, w[2]) : z##i;                                \
    }
#define STORE(i)                                                                                   \
    if (i < m) {                                                                                   \
        store(c + i * ldc, columns, x##i);                                                         \
        if (panels > 1) {                                                                          \
            store(c + i * ldc + 16, columns - 16, y##i);                                           \
        }                                                                                          \
        if (panels > 2) {                                                                          \
            store(c + i * ldc + 32, columns - 32, z##i);                                           \
        }                                                                                          \
    }

static inline void store(float *to, int64_t left, __m512 sum) {
    __mmask16 k = first(left);
    _mm512_mask_storeu_ps(to, k, _mm512_add_ps(_mm512_maskz_loadu_ps(k, to), sum));
}

/* m rows of a times 1 to 3 panels of b: m * panels registers of sums. */
static inline __attribute__((always_inline)) void tile(int m, int panels, int64_t pairs,
                                                       const uint32_t *a, int64_t a_row,
                                                       const uint32_t *b, int64_t b_panel,
                                                       int64_t columns, float *c, int64_t ldc) {
    EACH_ROW(START)
    for (int64_t p = 0; p < pairs; p++, a++, b += 16) {
        __m512bh w[3];
        for (int j = 0; j < 3; j++) {
            w[j] = (__m512bh)_mm512_loadu_si512(b + (j < panels ? j : 0) * b_panel);
        }
        EACH_ROW(ADD)
    }
    EACH_ROW(STORE)
}

/* All rows times 1 to 3 panels. */
static inline __attribute__((always_inline)) void tiles(int panels, int64_t rows, int64_t pairs,
                                                        const uint32_t *a, int64_t a_row,
                                                        const uint32_t *b, int64_t b_panel,
                                                        int64_t columns, float *c, int64_t ldc) {
    int64_t i = 0;
    for (; i + 8 <= rows; i += 8) {
        tile(8, panels, pairs, a + i * a_row, a_row, b, b_panel, columns, c + i * ldc, ldc);
    }
    for (; i < rows; i++) {
        tile(1, panels, pairs, a + i * a_row, a_row, b, b_panel, columns, c + i * ldc, ldc);
    }
}

static void tile_bf16(int64_t rows, int64_t columns, int64_t pairs, const uint32_t *a,
                      int64_t a_row, const uint32_t *b, int64_t b_panel, float *c, int64_t ldc) {
    int64_t j = 0;
    for (; columns - j > 32; j += 48, b += 3 * b_panel) {
        tiles(3, rows, pairs, a, a_row, b, b_panel, columns - j, c + j, ldc);
    }
    if (columns - j > 16) {
        tiles(2, rows, pairs, a, a_row, b, b_panel, columns - j, c + j, ldc);
    } else if (columns > j) {
        tiles(1, rows, pairs, a, a_row, b, b_panel, columns - j, c + j, ldc);
    }
}

/* Attention over the KV cache: up to four panels of 16 columns. */
static inline __attribute__((always_inline)) void kv_put(const sq_kv_product *p, int64_t row,
                                                         int64_t column, __m512 sum) {
    float *c = p->c + row * p->ldc + column;
    __m512 f = p->scale == NULL ? sum : _mm512_mul_ps(sum, _mm512_set1_ps(p->scale[row]));
    _mm512_storeu_ps(c, p->add ? _mm512_add_ps(_mm512_loadu_ps(c), f) : f);
}

#define KV_START(r) __m512 s##r = _mm512_setzero_ps(), t##r = s##r, u##r = s##r, w##r = s##r;
#define KV_ADD(r)                                                                                  \
    if (r < m) {                                                                                   \
        __m512bh v = (__m512bh)_mm512_set1_epi32((int)a[r * p->lda]);                              \
        s##r = _mm512_dpbf16_ps(s##r, v, b0);                                                      \
        t##r = wide > 1 ? _mm512_dpbf16_ps(t##r, v, b1) : t##r;                                    \
        u##r = wide > 1 ? _mm512_dpbf16_ps(u##r, v, b2) : u##r;                                    \
        w##r = wide > 1 ? _mm512_dpbf16_ps(w##r, v, b3) : w##r;                                    \
    }
#define KV_PUT(r)                                                                                  \
    if (r < m) {                                                                                   \
        kv_put(p, row + r, column, s##r);                                                          \
        if (wide > 1) {                                                                            \
            kv_put(p, row + r, column + 16, t##r);                                                 \
            kv_put(p, row + r, column + 32, u##r);                                                 \
            kv_put(p, row + r, column + 48, w##r);                                                 \
        }                                                                                          \
    }

static inline __attribute__((always_inline)) void kv_tile(int m, int wide, const sq_kv_product *p,
                                                          int64_t row, int64_t column) {
    const uint32_t *a = (const uint32_t *)p->a + row * p->lda;
    const uint32_t *b = (const uint32_t *)p->b + column;
    SQ_EACH_KV_ROW(KV_START)
    for (int64_t k = 0; k < p->k; k++, a++, b += p->ldb) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b);
        __m512bh b1 = wide > 1 ? (__m512bh)_mm512_loadu_si512(b + 16) : b0,
                 b2 = wide > 1 ? (__m512bh)_mm512_loadu_si512(b + 32) : b0,
                 b3 = wide > 1 ? (__m512bh)_mm512_loadu_si512(b + 48) : b0;
        sq_kv_fetch(p, k, 4 * p->ldb, 4 * column, 64 * wide);
        SQ_EACH_KV_ROW(KV_ADD)
    }
    SQ_EACH_KV_ROW(KV_PUT)
}
SQ_KV_KERNEL(kv_bf16, kv_tile, 4)

/* 2^y of y <= 0, to 3e-6 of it: a number of bf16 has 2^-8. 0 for less than -200, as for -inf. */
static inline __m512 power(__m512 y) {
    __m512 c = _mm512_max_ps(_mm512_set1_ps(-200.0f), y); /* in this order NaN passes through */
    __m512 f = _mm512_reduce_ps(c, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p;
    p = _mm512_set1_ps(1.34266843e-2f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.22424742e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.41280205e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93044845e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, c); /* by what c is rounded down to */
}

static inline __m512 weight(__m512 x, __m512 top) {
    return power(_mm512_mul_ps(_mm512_sub_ps(x, top), _mm512_set1_ps(1.44269504f)));
}

static float softmax_bf16(const float *x, uint16_t *out, int64_t n, int64_t all, float *top) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 most = none, more = none, sum = _mm512_setzero_ps(), next = sum;
    int64_t whole = n / 32 * 32, i = 0;
    __mmask16 left = first(n - whole), right = first(n - whole < 16 ? 0 : n - whole - 16);
    __m512 last = _mm512_mask_loadu_ps(none, left, x + whole);
    __m512 very_last = _mm512_mask_loadu_ps(none, right, x + whole + (right ? 16 : 0));
    for (; i < whole; i += 32) {
        most = _mm512_max_ps(most, _mm512_loadu_ps(x + i));
        more = _mm512_max_ps(more, _mm512_loadu_ps(x + i + 16));
    }
    most = _mm512_max_ps(_mm512_max_ps(most, last), _mm512_max_ps(more, very_last));
    *top = _mm512_reduce_max_ps(most);
    __m512 base = _mm512_set1_ps(*top == -INFINITY ? 0.0f : *top);
    for (i = 0; i < all; i += 32) {
        __m512 e = none, f = none;
        if (i <= whole) {
            e = weight(i < whole ? _mm512_loadu_ps(x + i) : last, base);
            f = weight(i < whole ? _mm512_loadu_ps(x + i + 16) : very_last, base);
            sum = _mm512_add_ps(sum, e);
            next = _mm512_add_ps(next, f);
        } else {
            e = f = _mm512_setzero_ps();
        }
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(f, e));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, next));
}

void sq_kernels_init_avx512_bf16(sq_kernels *k) {
    k->kv_bf16 = kv_bf16;
    k->narrow_bf16 = narrow_bf16;
    k->panel_bf16 = panel_bf16;
    k->pair_bf16 = pair_bf16;
    k->tile_bf16 = tile_bf16;
    k->softmax_bf16 = softmax_bf16;
}
