/* Products with rounded inputs, AVX2. A 4-bit code (0..15) times an input (-128..127) fits maddubs
 * with room to spare: pairs are at most 3840, eight of them still 16 bits. An 8-bit code is two of
 * 4 bits there. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

static inline __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

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

static void round_i8(int8_t *q, const float *x, float scale, float zero, int64_t n) {
    const __m256 s = _mm256_set1_ps(scale), z = _mm256_set1_ps(zero);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_packs_epi32(round8(x + i, s, z), round8(x + i + 8, s, z));
        __m256i b = _mm256_packs_epi32(round8(x + i + 16, s, z), round8(x + i + 24, s, z));
        a = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
        _mm256_storeu_si256((__m256i *)(void *)(q + i), a);
    }
    for (; i < n; i++) {
        q[i] = (int8_t)rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f));
    }
}

static void round_i16(int8_t *low, int8_t *high, const float *x, float inverse, int64_t n) {
    const __m256 s = _mm256_set1_ps(inverse);
    const __m256i half = _mm256_set1_epi32(128);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i l[4], h[4];
        for (int j = 0; j < 4; j++) {
            __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), s));
            h[j] = _mm256_srai_epi32(_mm256_add_epi32(q, half), 8);
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
    }
}

/* Adds in place: left to itself, gcc moves the additions behind all products and spills. */
static inline void add16(__m256i *s, __m256i t) {
    __asm__("vpaddw %1, %0, %0" : "+x"(*s) : "x"(t));
}

enum { WORDS = 64 }; /* bytes of a word of sixteen rows */

/* Up to four words of 4-bit codes (32 columns) times n <= 4 lanes of inputs, which lie `step` bytes
 * apart from one four columns to the next: 16-bit sums, then widened onto d[lane][16]. */
static inline __attribute__((always_inline)) void
block_q4(int n, int words, const uint8_t *w, const int8_t *x, int64_t step, int32_t d[][16]) {
    const __m256i one = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
    __m256i s[4][2];
    for (int i = 0; i < n; i++) {
        s[i][0] = s[i][1] = _mm256_setzero_si256();
    }
    for (int q = 0; q < words; q++, w += WORDS, x += 2 * step) {
        __m256i a = load(w), b = load(w + 32);
        __m256i al = _mm256_and_si256(a, low), bl = _mm256_and_si256(b, low);
        for (int i = 0; i < n; i++) {
            __m256i v = v_four(x + 4 * i);
            add16(&s[i][0], _mm256_maddubs_epi16(al, v));
            add16(&s[i][1], _mm256_maddubs_epi16(bl, v));
        }
        a = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
        b = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);
        for (int i = 0; i < n; i++) {
            __m256i v = v_four(x + step + 4 * i);
            add16(&s[i][0], _mm256_maddubs_epi16(a, v));
            add16(&s[i][1], _mm256_maddubs_epi16(b, v));
        }
    }
    for (int i = 0; i < 2 * n; i++) {
        __m256i *to = (__m256i *)(void *)(d[i / 2] + 8 * (i % 2));
        __m256i t = _mm256_madd_epi16(s[i / 2][i % 2], one);
        _mm256_storeu_si256(to, _mm256_add_epi32(load(to), t));
    }
}

/* Up to eight words of 8-bit codes times n <= 2 lanes: each code as two of 4 bits. */
static inline __attribute__((always_inline)) void
block_q8(int n, int words, const uint8_t *w, const int8_t *x, int64_t step, int32_t d[][16]) {
    const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    const __m256i low = _mm256_set1_epi8(15);
    __m256i s[2][2], t[2][2];
    for (int i = 0; i < n; i++) {
        s[i][0] = s[i][1] = t[i][0] = t[i][1] = _mm256_setzero_si256();
    }
    for (int q = 0; q < words; q++, w += WORDS, x += step) {
        for (int h = 0; h < 2; h++) {
            __m256i a = load(w + 32 * h), b = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
            a = _mm256_and_si256(a, low);
            for (int i = 0; i < n; i++) {
                __m256i v = v_four(x + 4 * i);
                add16(&s[i][h], _mm256_maddubs_epi16(a, v));
                add16(&t[i][h], _mm256_maddubs_epi16(b, v));
            }
        }
    }
    for (int i = 0; i < 2 * n; i++) {
        __m256i *to = (__m256i *)(void *)(d[i / 2] + 8 * (i % 2));
        __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(s[i / 2][i % 2], one),
                                       _mm256_madd_epi16(t[i / 2][i % 2], sixteen));
        _mm256_storeu_si256(to, _mm256_add_epi32(load(to), sum));
    }
}

/* Whole blocks have constants for bounds. */
static inline __attribute__((always_inline)) void piece_sums(int lanes, int bits, int64_t columns,
                                                             const uint8_t *w, const int8_t *x,
                                                             const int32_t *start,
                                                             int32_t d[][SQ_PANEL]) {
    const int once = bits == 4 ? 4 : 2; /* lanes whose sums fit the registers */
    for (int i = 0; i < 2 * lanes; i++) {
        _mm256_storeu_si256((__m256i *)(void *)(d[i / 2] + 8 * (i % 2)),
                            _mm256_set1_epi32(start[i / 2]));
    }
    for (int64_t c = 0; c < columns; c += 32) {
        const uint8_t *from = w + c * SQ_PANEL * bits / 8;
        int words = (int)(columns - c < 32 ? columns - c : 32) / (bits == 4 ? 8 : 4);
        for (int i = 0; i < lanes; i += once) {
            int n = lanes - i < once ? lanes - i : once;
            const int8_t *in = x + c * lanes + 4 * i;
            if (bits == 4 && words == 4) {
                block_q4(n, 4, from, in, 4 * lanes, d + i);
            } else if (bits == 4) {
                block_q4(n, words, from, in, 4 * lanes, d + i);
            } else if (words == 8) {
                block_q8(n, 8, from, in, 4 * lanes, d + i);
            } else {
                block_q8(n, words, from, in, 4 * lanes, d + i);
            }
        }
    }
}

#include "kernels/rounded_body.h"

void sq_rounded_init_avx2(sq_kernels *k) {
    k->range = range;
    k->round_i8 = round_i8;
    k->round_i16 = round_i16;
    k->int_tile = int_tile;
}
