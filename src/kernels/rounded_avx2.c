/* Products with rounded inputs, AVX2. A 4-bit code (0..15) times an input (-128..127) fits maddubs
 * with room to spare: pairs are at most 3840, eight of them still 16 bits. An 8-bit code is two of
 * 4 bits there. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

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

static inline __m256i four(const int8_t *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
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
            __m256i v = four(x + 4 * i);
            add16(&s[i][0], _mm256_maddubs_epi16(al, v));
            add16(&s[i][1], _mm256_maddubs_epi16(bl, v));
        }
        a = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
        b = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);
        for (int i = 0; i < n; i++) {
            __m256i v = four(x + step + 4 * i);
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
                __m256i v = four(x + 4 * i);
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

/* All lanes of x times a piece of a panel. Whole blocks have constants for bounds. */
static inline __attribute__((always_inline)) void add_piece(int lanes, int bits, int64_t columns,
                                                            const uint8_t *w, const int8_t *x,
                                                            int32_t d[][16]) {
    const int once = bits == 4 ? 4 : 2; /* lanes whose sums fit the registers */
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

static inline __attribute__((always_inline)) void tile(int rows, int planes, int bits,
                                                       const sq_weight *w, int64_t panel,
                                                       const sq_rounded *x, const float *bias,
                                                       float *y, int64_t ldy) {
    int64_t pieces = sq_weight_pieces(w), stride = sq_weight_stride(w), split = sq_weight_split(w);
    const uint8_t *codes = sq_weight_panel(w, panel);
    const int8_t *in = x->codes;
    float out[8][SQ_PANEL];
    __m256 acc[8][2];
    for (int i = 0; i < 2 * rows; i++) {
        acc[i / 2][i % 2] = _mm256_setzero_ps();
    }
    for (int64_t p = 0; p < pieces; p++) {
        int32_t d[8][SQ_PANEL];
        memset(d, 0, sizeof d);
        add_piece(rows * planes, bits, stride, codes, in, d);
        codes += stride * SQ_PANEL * bits / 8;
        in += stride * rows * planes;
        int64_t at = (panel * sq_weight_groups(w) + p / split) * SQ_PANEL;
        for (int h = 0; h < 2; h++, at += 8) {
            __m256 scale = w->half == NULL ? _mm256_loadu_ps(w->scales + at)
                                           : _mm256_cvtph_ps(_mm_loadu_si128(
                                                 (const __m128i *)(const void *)(w->half + at)));
            __m256 zero = _mm256_setzero_ps();
            if (w->zeros != NULL) {
                __m256i z = _mm256_cvtepu8_epi32(
                    _mm_loadl_epi64((const __m128i *)(const void *)(w->zeros + at)));
                zero = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_set1_epi32(1 << (bits - 1)), z));
            }
            for (int r = 0; r < rows; r++) {
                __m256i sum = load(d[r] + 8 * h);
                if (planes == 2) {
                    sum = _mm256_add_epi32(sum, _mm256_slli_epi32(load(d[rows + r] + 8 * h), 8));
                }
                __m256 scaled = _mm256_set1_ps(x->scaled_sums[p * rows + r]);
                sum = _mm256_sub_epi32(
                    sum, _mm256_set1_epi32(x->sums[p * rows + r] * (1 << (bits - 1))));
                __m256 f =
                    _mm256_mul_ps(_mm256_set1_ps(x->scales[p * rows + r]), _mm256_cvtepi32_ps(sum));
                f = w->zeros == NULL ? f : _mm256_fmadd_ps(zero, scaled, f);
                acc[r][h] = _mm256_fmadd_ps(scale, f, acc[r][h]);
                if (w->offsets != NULL) {
                    acc[r][h] =
                        _mm256_fmadd_ps(_mm256_loadu_ps(w->offsets + at), scaled, acc[r][h]);
                }
            }
        }
    }
    int64_t c = panel * SQ_PANEL, n = w->n - c < SQ_PANEL ? w->n - c : SQ_PANEL;
    for (int i = 0; i < rows; i++) {
        for (int h = 0; h < 2; h++) {
            __m256 v = acc[i][h];
            if (x->zeros != NULL) {
                v = _mm256_fnmadd_ps(_mm256_set1_ps(x->zeros[i]),
                                     _mm256_loadu_ps(w->sums + c + 8 * h), v);
            }
            _mm256_storeu_ps(out[i] + 8 * h, v);
        }
        for (int64_t k = 0; k < n; k++) {
            y[i * ldy + c + k] = bias == NULL ? out[i][k] : out[i][k] + bias[c + k];
        }
    }
}

#define TILE(rows, planes)                                                                         \
    static void tile_##rows##_##planes(const sq_weight *w, int64_t panel0, int64_t panels,         \
                                       const sq_rounded *x, const float *bias, float *y,           \
                                       int64_t ldy) {                                              \
        for (int64_t j = panel0; j < panel0 + panels; j++) {                                       \
            if (w->kind == SQ_W_Q4) {                                                              \
                tile(rows, planes, 4, w, j, x, bias, y, ldy);                                      \
            } else {                                                                               \
                tile(rows, planes, 8, w, j, x, bias, y, ldy);                                      \
            }                                                                                      \
        }                                                                                          \
    }
TILE(1, 1)
TILE(2, 1)
TILE(4, 1)
TILE(8, 1)
TILE(1, 2)
TILE(2, 2)
TILE(4, 2)

static void int_tile(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
    static void (*const tiles[2][4])(const sq_weight *, int64_t, int64_t, const sq_rounded *,
                                     const float *, float *, int64_t) = {
        {tile_1_1, tile_2_1, tile_4_1, tile_8_1}, {tile_1_2, tile_2_2, tile_4_2, NULL}};
    int rows = x->rows == 1 ? 0 : x->rows == 2 ? 1 : x->rows == 4 ? 2 : 3;
    tiles[x->planes - 1][rows](w, panel0, panels, x, bias, y, ldy);
}

void sq_rounded_init_avx2(sq_kernels *k) {
    k->range = range;
    k->round_i8 = round_i8;
    k->round_i16 = round_i16;
    k->int_tile = int_tile;
}
