/* Products with rounded inputs, AVX-512 VNNI: dpbusd adds four codes (unsigned) times inputs
 * (signed) to a 32-bit lane, exactly; a register is one word of the sixteen rows of a panel. On
 * Zen 4 a dpbusd, a multiplication and an fma take the same pipes, one a cycle; shifts, additions,
 * conversions and permutations take others, and stores in a row hold both up (docs/PERFORMANCE.md).
 * gcc keeps an array of registers in memory when a loop over it is unrolled late: sums by name. */
#include <immintrin.h>
#include <string.h>

#include "kernels/rounded_avx512.h"

enum { AHEAD = 2048 };

static inline __m512i four(const int8_t *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* Four columns of each row of a panel, the first or the second half of eight. */
static inline __attribute__((always_inline)) __m512i words(int bits, const uint8_t *codes,
                                                           int half) {
    const __m512i low = _mm512_set1_epi8(15);
    if (bits == 8) {
        return _mm512_loadu_si512(codes + 64 * half);
    }
    __m512i v = _mm512_loadu_si512(codes);
    return _mm512_and_si512(half ? _mm512_srli_epi16(v, 4) : v, low);
}

/* Up to eight rows, or four of two planes, panel by panel: every other four columns have sums of
 * their own, so that no sum waits for the last. */
#define EACH_OF_EIGHT(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define NONE(i) __m512 f##i = _mm512_setzero_ps();
#define BEGIN(i)                                                                                   \
    __m512i a##i = _mm512_setzero_si512(), b##i = a##i, ha##i = a##i, hb##i = a##i;                \
    if (i < rows) {                                                                                \
        a##i = _mm512_mullo_epi32(_mm512_set1_epi32(-sums[i]), zero);                              \
    }
#define ADD(i, s, half)                                                                            \
    if (i < rows) {                                                                                \
        const int8_t *v = x + 4 * (i + (half)*lanes);                                              \
        s##i = _mm512_dpbusd_epi32(s##i, q, four(v));                                              \
        h##s##i = planes == 2 ? _mm512_dpbusd_epi32(h##s##i, q, four(v + 4 * rows)) : h##s##i;     \
    }
#define ADD_EVEN(i) ADD(i, a, 0)
#define ADD_ODD(i) ADD(i, b, 1)
/* Else gcc keeps some of them in memory within the loop, for registers that it wants behind it. */
#define HOLD(i)                                                                                    \
    if (i < rows) {                                                                                \
        __asm__("" : "+v"(a##i), "+v"(b##i), "+v"(f##i));                                          \
    }                                                                                              \
    if (i < rows && planes == 2) {                                                                 \
        __asm__("" : "+v"(ha##i), "+v"(hb##i));                                                    \
    }
#define WORTH(i)                                                                                   \
    if (i < rows) {                                                                                \
        a##i = _mm512_add_epi32(a##i, b##i);                                                       \
        ha##i = _mm512_slli_epi32(_mm512_add_epi32(ha##i, hb##i), 8);                              \
        a##i = planes == 2 ? _mm512_add_epi32(a##i, ha##i) : a##i;                                 \
        f##i = finish(planes, scale, a##i, x_scales[i], f##i);                                     \
    }
#define OFFSET(i)                                                                                  \
    if (i < rows) {                                                                                \
        const __m512 worth = _mm512_set1_ps(in->worth[p * rows + i]);                              \
        f##i = _mm512_fmadd_ps(_mm512_loadu_ps(w->offsets + at), worth, f##i);                     \
    }
#define END(i)                                                                                     \
    if (i < rows) {                                                                                \
        put(planes, w, panel, in, i, bias, y, ldy, f##i);                                          \
    }

static inline __attribute__((always_inline)) void
few_rows(int rows, int planes, int bits, const sq_weight *w, int64_t panel, int64_t end,
         const sq_rounded *in, const float *bias, float *y, int64_t ldy) {
    const int lanes = rows * planes;
    const int64_t groups = sq_weight_groups(w), split = in->pieces / groups, column = 2 * bits,
                  bytes = in->columns * column, all = in->stored * column;
    const uint8_t *first = (const uint8_t *)w->data + panel * all;
    int64_t at = panel * groups * SQ_PANEL;
    for (; panel < end; panel++, first += all) {
        const uint8_t *stop = first + all;
        EACH_OF_EIGHT(NONE)
        for (int64_t p = 0, left = split; p < in->pieces; p++) {
            const int32_t *sums = in->sums + p * rows;
            const float *x_scales = in->scales + (planes == 2 ? p * rows : 0);
            const __m512i zero = zeros_at(w, bits, at);
            EACH_OF_EIGHT(BEGIN)
            const int8_t *x = in->codes + p * in->columns * lanes;
            const uint8_t *codes = first + p * bytes;
            const uint8_t *until = codes + bytes < stop ? codes + bytes : stop;
            for (; codes < until; codes += 8 * column, x += 8 * lanes) {
                for (int line = 0; (lanes <= 4 || in->few) && line < 16 * bits; line += 64) {
                    _mm_prefetch((const char *)codes + line + AHEAD, _MM_HINT_T0);
                }
                __m512i q = words(bits, codes, 0); /* eight columns */
                EACH_OF_EIGHT(ADD_EVEN)
                q = words(bits, codes, 1);
                EACH_OF_EIGHT(ADD_ODD)
            }
            EACH_OF_EIGHT(HOLD)
            const __m512 scale = scales_at(w, at);
            EACH_OF_EIGHT(WORTH)
            if (w->offsets != NULL) {
                EACH_OF_EIGHT(OFFSET)
            }
            if (--left == 0) { /* the next group */
                left = split;
                at += SQ_PANEL;
            }
        }
        EACH_OF_EIGHT(END)
    }
}

/* Rows `row` .. `row` + 3, in three panels or, of two planes, in two: sums a and b of the first
 * two; c of the third, or c and d the high planes' of the first two. */
#define EACH_OF_FOUR(M) M(0) M(1) M(2) M(3)
#define NONE4(i)                                                                                   \
    __m512 fa##i = _mm512_setzero_ps(), fb##i = fa##i, fc##i = fa##i;                              \
    for (int j = 0; j < panels; j++) { /* what will be written */                                  \
        _mm_prefetch((const char *)(y + (row + i) * ldy + (panel + j) * SQ_PANEL), _MM_HINT_T0);   \
    }
#define BEGIN4(i)                                                                                  \
    const __m512i sum##i = _mm512_set1_epi32(-sums[i]), all##i = _mm512_mullo_epi32(sum##i, iota); \
    __m512i a##i = start(bits, zero[0], sum##i, all##i),                                           \
            b##i = start(bits, zero[1], sum##i, all##i), c##i = _mm512_setzero_si512(),            \
            d##i = c##i;                                                                           \
    c##i = planes == 1 ? start(bits, zero[2], sum##i, all##i) : c##i;
#define ADD4(i, half)                                                                              \
    {                                                                                              \
        const __m512i v = four(x + 4 * (i + (half)*lanes));                                        \
        a##i = _mm512_dpbusd_epi32(a##i, q[0], v);                                                 \
        b##i = _mm512_dpbusd_epi32(b##i, q[1], v);                                                 \
        const __m512i u = planes == 1 ? v : four(x + 4 * (rows + i + (half)*lanes));               \
        c##i = _mm512_dpbusd_epi32(c##i, q[planes == 1 ? 2 : 0], u);                               \
        d##i = planes == 1 ? d##i : _mm512_dpbusd_epi32(d##i, q[1], u);                            \
    }
#define ADD4_EVEN(i) ADD4(i, 0)
#define ADD4_ODD(i) ADD4(i, 1)
#define HOLD4(i)                                                                                   \
    __asm__("" : "+v"(a##i), "+v"(b##i), "+v"(c##i), "+v"(fa##i), "+v"(fb##i));                    \
    if (planes == 2) {                                                                             \
        __asm__("" : "+v"(d##i));                                                                  \
    } else {                                                                                       \
        __asm__("" : "+v"(fc##i));                                                                 \
    }
#define WORTH4(i)                                                                                  \
    if (planes == 2) {                                                                             \
        a##i = _mm512_add_epi32(a##i, _mm512_slli_epi32(c##i, 8));                                 \
        b##i = _mm512_add_epi32(b##i, _mm512_slli_epi32(d##i, 8));                                 \
    }                                                                                              \
    fa##i = finish(planes, scale[0], a##i, x_scales[i], fa##i);                                    \
    fb##i = finish(planes, scale[1], b##i, x_scales[i], fb##i);                                    \
    fc##i = planes == 1 ? finish(planes, scale[2], c##i, x_scales[i], fc##i) : fc##i;
#define OFFSET4(i)                                                                                 \
    {                                                                                              \
        const __m512 worth = _mm512_set1_ps(in->worth[p * rows + row + i]);                        \
        fa##i = _mm512_fmadd_ps(_mm512_loadu_ps(w->offsets + at), worth, fa##i);                   \
        fb##i = _mm512_fmadd_ps(_mm512_loadu_ps(w->offsets + at + step), worth, fb##i);            \
        fc##i =                                                                                    \
            _mm512_fmadd_ps(_mm512_loadu_ps(w->offsets + at + (panels - 1) * step), worth, fc##i); \
    }
#define END4(i)                                                                                    \
    put(planes, w, panel, in, row + i, bias, y, ldy, fa##i);                                       \
    put(planes, w, panel + 1, in, row + i, bias, y, ldy, fb##i);                                   \
    if (panels == 3) {                                                                             \
        put(planes, w, panel + 2, in, row + i, bias, y, ldy, fc##i);                               \
    }

/* Zero points times minus the sum of a row's codes; `all`: times 0 to 15. */
static inline __attribute__((always_inline)) __m512i start(int bits, __m512i zero, __m512i sum,
                                                           __m512i all) {
    return bits == 4 ? _mm512_permutexvar_epi32(zero, all) : _mm512_mullo_epi32(zero, sum);
}

static inline __attribute__((always_inline)) void
four_rows(int rows, int planes, int bits, const sq_weight *w, int64_t panel, const sq_rounded *in,
          int row, const float *bias, float *y, int64_t ldy) {
    enum { MOST = 3 };
    const int panels = planes == 1 ? 3 : 2, lanes = rows * planes;
    const int64_t groups = sq_weight_groups(w), split = in->pieces / groups, column = 2 * bits,
                  bytes = in->columns * column, all = in->stored * column, step = groups * SQ_PANEL;
    int64_t at = panel * step;
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint8_t *first = (const uint8_t *)w->data + panel * all, *stop = first + all;
    EACH_OF_FOUR(NONE4)
    for (int64_t p = 0, left = split; p < in->pieces; p++) {
        const int32_t *sums = in->sums + p * rows + row;
        const float *x_scales = in->scales + row + (planes == 2 ? p * rows : 0);
        __m512i zero[MOST], q[MOST];
        __m512 scale[MOST];
        for (int j = 0; j < panels; j++) {
            zero[j] = zeros_at(w, bits, at + j * step);
        }
        EACH_OF_FOUR(BEGIN4)
        const int8_t *x = in->codes + 4 * row + p * in->columns * lanes;
        const uint8_t *codes = first + p * bytes;
        const uint8_t *end = codes + bytes < stop ? codes + bytes : stop;
        for (; codes < end; codes += 8 * column, x += 8 * lanes) { /* eight columns */
            for (int j = 0; j < panels; j++) {
                q[j] = words(bits, codes + j * all, 0);
            }
            EACH_OF_FOUR(ADD4_EVEN)
            for (int j = 0; j < panels; j++) {
                q[j] = words(bits, codes + j * all, 1);
            }
            EACH_OF_FOUR(ADD4_ODD)
        }
        EACH_OF_FOUR(HOLD4)
        for (int j = 0; j < panels; j++) {
            scale[j] = scales_at(w, at + j * step);
        }
        EACH_OF_FOUR(WORTH4)
        if (w->offsets != NULL) {
            EACH_OF_FOUR(OFFSET4)
        }
        if (--left == 0) { /* the next group */
            left = split;
            at += SQ_PANEL;
        }
    }
    EACH_OF_FOUR(END4)
}

#define TILE(rows, planes, bits)                                                                   \
    static void tile_##rows##_##planes##_##bits(const sq_weight *w, int64_t panel, int64_t panels, \
                                                const sq_rounded *x, const float *bias, float *y,  \
                                                int64_t ldy) {                                     \
        const int64_t end = panel + panels, wide = planes == 1 ? 3 : 2;                            \
        for (; rows >= 4 && !x->few && panel + wide <= end; panel += wide) {                       \
            for (int row = 0; row < rows; row += 4) {                                              \
                four_rows(rows, planes, bits, w, panel, x, row, bias, y, ldy);                     \
            }                                                                                      \
        }                                                                                          \
        few_rows(rows, planes, bits, w, panel, end, x, bias, y, ldy);                              \
    }
#define TILES(bits)                                                                                \
    TILE(1, 1, bits)                                                                               \
    TILE(2, 1, bits)                                                                               \
    TILE(4, 1, bits) TILE(8, 1, bits) TILE(1, 2, bits) TILE(2, 2, bits) TILE(4, 2, bits)
TILES(4)
TILES(8)

typedef void (*tile_fn)(const sq_weight *, int64_t, int64_t, const sq_rounded *, const float *,
                        float *, int64_t);

static void int_tile(const sq_weight *w, int64_t panel, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
    static const tile_fn tiles[2][2][4] = {{{tile_1_1_4, tile_2_1_4, tile_4_1_4, tile_8_1_4},
                                            {tile_1_2_4, tile_2_2_4, tile_4_2_4, NULL}},
                                           {{tile_1_1_8, tile_2_1_8, tile_4_1_8, tile_8_1_8},
                                            {tile_1_2_8, tile_2_2_8, tile_4_2_8, NULL}}};
    int rows = x->rows == 1 ? 0 : x->rows == 2 ? 1 : x->rows == 4 ? 2 : 3;
    tiles[w->kind == SQ_W_Q8][x->planes - 1][rows](w, panel, panels, x, bias, y, ldy);
}

void sq_kernels_init_avx512_vnni(sq_kernels *k) {
    k->int_tile = int_tile;
    k->int_tiles = NULL;
    k->wide_inputs = 0;
    sq_kv_init_avx512_vnni(k);
}
