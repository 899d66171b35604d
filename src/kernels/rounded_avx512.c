/* Products with rounded inputs, AVX-512 VNNI: dpbusd adds four codes (unsigned) times inputs
 * (signed) to a 32-bit lane, exactly; a register is one word of the sixteen rows of a panel. */
#include <immintrin.h>
#include <string.h>

#include "kernels/internal.h"

enum { MOST_LANES = 8, MOST_PANELS = 3, AHEAD = 2048 };

static inline __m512i four(const int8_t *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: sums by name, of
 * up to eight rows in up to three panels; of the high plane of up to four. */
#define EACH_LOW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define EACH_HIGH(M) M(0) M(1) M(2) M(3)
#define START_LOW(i)                                                                               \
    __m512i la##i = start(i < rows, zero[0], sums + (i < rows ? i : 0));                           \
    __m512i lb##i = start(i < rows && panels == 3, zero[1], sums + (i < rows ? i : 0));            \
    __m512i lc##i = start(i < rows && panels == 3, zero[2], sums + (i < rows ? i : 0));
#define START_HIGH(i) __m512i ha##i = _mm512_setzero_si512(), hb##i = ha##i, hc##i = ha##i;
/* One panel: every other four columns have sums of their own, so that no sum waits for the last. */
#define ADD(has, s, i, lane, odd)                                                                  \
    if (has) {                                                                                     \
        __m512i v = four(x + 4 * (lane));                                                          \
        if (panels == 1 && odd) {                                                                  \
            s##b##i = _mm512_dpbusd_epi32(s##b##i, q[0], v);                                       \
        } else {                                                                                   \
            s##a##i = _mm512_dpbusd_epi32(s##a##i, q[0], v);                                       \
        }                                                                                          \
        s##b##i = panels == 3 ? _mm512_dpbusd_epi32(s##b##i, q[1], v) : s##b##i;                   \
        s##c##i = panels == 3 ? _mm512_dpbusd_epi32(s##c##i, q[2], v) : s##c##i;                   \
    }
#define ADD_LOW(i) ADD(i < rows, l, i, i, 0)
#define ADD_LOW_ODD(i) ADD(i < rows, l, i, i, 1)
#define ADD_HIGH(i) ADD(planes == 2 && i < rows, h, i, rows + i, 0)
#define ADD_HIGH_ODD(i) ADD(planes == 2 && i < rows, h, i, rows + i, 1)
/* Else gcc keeps some of them in memory within the loop, for registers that it wants behind it. */
#define HOLD(has, a, b, c)                                                                         \
    if (has) {                                                                                     \
        __asm__("" : "+v"(a), "+v"(b));                                                            \
        a = panels == 1 ? _mm512_add_epi32(a, b) : a;                                              \
    }                                                                                              \
    if ((has) && panels == 3) {                                                                    \
        __asm__("" : "+v"(c));                                                                     \
    }
#define HOLD_LOW(i) HOLD(i < rows, la##i, lb##i, lc##i)
#define HOLD_HIGH(i) HOLD(planes == 2 && i < rows, ha##i, hb##i, hc##i)
#define JOIN(i)                                                                                    \
    if (planes == 2) {                                                                             \
        la##i = _mm512_add_epi32(la##i, _mm512_slli_epi32(ha##i, 8));                              \
        lb##i = _mm512_add_epi32(lb##i, _mm512_slli_epi32(hb##i, 8));                              \
        lc##i = _mm512_add_epi32(lc##i, _mm512_slli_epi32(hc##i, 8));                              \
    }
#define FINISH(i)                                                                                  \
    if (i < rows) {                                                                                \
        acc[i][0] = finish(planes, scale[0], la##i, x_scales[i], acc[i][0]);                       \
        acc[i][1] = panels == 3 ? finish(planes, scale[1], lb##i, x_scales[i], acc[i][1]) : none;  \
        acc[i][2] = panels == 3 ? finish(planes, scale[2], lc##i, x_scales[i], acc[i][2]) : none;  \
    }

static inline __m512 scales_at(const sq_weight *w, int64_t at) {
    if (w->half == NULL) {
        return _mm512_loadu_ps(w->scales + at);
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(w->half + at)));
}

static inline __m512i minus_zeros_at(const sq_weight *w, int bits, int64_t at) {
    if (w->zeros == NULL) {
        return _mm512_set1_epi32(-(1 << (bits - 1)));
    }
    __m128i z = _mm_loadu_si128((const __m128i *)(const void *)(w->zeros + at));
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_cvtepu8_epi32(z));
}

/* What the zero points take from a row's sum of codes. */
static inline __attribute__((always_inline)) __m512i start(int has, __m512i minus_zero,
                                                           const int32_t *sum) {
    return has ? _mm512_mullo_epi32(minus_zero, _mm512_set1_epi32(*sum)) : _mm512_setzero_si512();
}

static inline __attribute__((always_inline)) __m512 finish(int planes, __m512 scale, __m512i sum,
                                                           float x_scale, __m512 acc) {
    __m512 f = _mm512_cvtepi32_ps(sum);
    f = planes == 2 ? _mm512_mul_ps(_mm512_set1_ps(x_scale), f) : f;
    return _mm512_fmadd_ps(scale, f, acc);
}

/* acc[row][panel] grows by what piece p, of group g, is: `columns` of x and of the codes; 1 or 3
 * panels. */
static inline __attribute__((always_inline)) void
piece(int rows, int planes, int panels, int bits, const sq_weight *w, int64_t panel0,
      const sq_rounded *in, int64_t g, int64_t p, int64_t columns,
      const uint8_t *const codes[MOST_PANELS], __m512 acc[MOST_LANES][MOST_PANELS]) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512 none = _mm512_setzero_ps();
    const int lanes = rows * planes;
    const int64_t bytes = columns * SQ_PANEL * bits / 8, groups = sq_weight_groups(w);
    const int8_t *x = in->codes + p * columns * lanes;
    const int32_t *sums = in->sums + p * rows;
    const float *x_scales = in->scales + (planes == 2 ? p * rows : 0);
    int64_t at[MOST_PANELS];
    __m512i zero[MOST_PANELS];
    __m512 scale[MOST_PANELS];
    for (int j = 0; j < MOST_PANELS; j++) {
        at[j] = ((panel0 + (j < panels ? j : 0)) * groups + g) * SQ_PANEL;
        zero[j] = minus_zeros_at(w, bits, at[j]);
    }
    EACH_LOW(START_LOW)
    EACH_HIGH(START_HIGH)
    for (int64_t b = 0; b < bytes; b += 16 * bits) { /* eight columns */
        __m512i q[MOST_PANELS] = {low, low, low};
        for (int j = 0; j < panels; j++) {
            q[j] = _mm512_loadu_si512(codes[j] + b);
            q[j] = bits == 4 ? _mm512_and_si512(q[j], low) : q[j];
            for (int line = 0; lanes <= 2 && line < 16 * bits; line += 64) {
                _mm_prefetch((const char *)codes[j] + b + line + AHEAD, _MM_HINT_T0);
            }
        }
        EACH_LOW(ADD_LOW)
        EACH_HIGH(ADD_HIGH)
        x += 4 * lanes;
        for (int j = 0; j < panels; j++) {
            const __m512i more = _mm512_loadu_si512(codes[j] + b + (bits == 4 ? 0 : 64));
            q[j] = bits == 4 ? _mm512_and_si512(_mm512_srli_epi16(more, 4), low) : more;
        }
        EACH_LOW(ADD_LOW_ODD)
        EACH_HIGH(ADD_HIGH_ODD)
        x += 4 * lanes;
    }
    EACH_LOW(HOLD_LOW)
    EACH_HIGH(HOLD_HIGH)
    EACH_HIGH(JOIN)
    for (int j = 0; j < MOST_PANELS; j++) {
        scale[j] = scales_at(w, at[j]);
    }
    EACH_LOW(FINISH)
    for (int j = 0; w->offsets != NULL && j < panels; j++) {
        __m512 offset = _mm512_loadu_ps(w->offsets + at[j]);
        for (int i = 0; i < rows; i++) {
            acc[i][j] = _mm512_fmadd_ps(offset, _mm512_set1_ps(in->worth[p * rows + i]), acc[i][j]);
        }
    }
}

/* `rows` rows in `planes` times `panels` panels. */
static inline __attribute__((always_inline)) void tile(int rows, int planes, int panels, int bits,
                                                       const sq_weight *w, int64_t panel0,
                                                       const sq_rounded *x, const float *bias,
                                                       float *y, int64_t ldy) {
    int64_t columns = sq_weight_columns(w) / x->pieces, bytes = columns * SQ_PANEL * bits / 8;
    const uint8_t *codes[MOST_PANELS];
    __m512 acc[MOST_LANES][MOST_PANELS];
    for (int j = 0; j < panels; j++) {
        codes[j] = sq_weight_panel(w, panel0 + j);
        for (int i = 0; i < rows; i++) {
            acc[i][j] = _mm512_setzero_ps();
            _mm_prefetch((const char *)(y + i * ldy + (panel0 + j) * SQ_PANEL), _MM_HINT_T0);
        }
    }
    int64_t groups = sq_weight_groups(w), split = x->pieces / groups;
    for (int64_t g = 0, p = 0; g < groups; g++) {
        for (int64_t end = p + split; p < end; p++) {
            piece(rows, planes, panels, bits, w, panel0, x, g, p, columns, codes, acc);
            for (int j = 0; j < panels; j++) {
                codes[j] += bytes;
            }
        }
    }
    for (int j = 0; j < panels; j++) {
        int64_t c = (panel0 + j) * SQ_PANEL, left = w->n - c;
        __mmask16 k = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
        __m512 add = bias == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(k, bias + c);
        for (int i = 0; i < rows; i++) {
            __m512 v = acc[i][j];
            v = planes == 1 ? _mm512_mul_ps(v, _mm512_set1_ps(x->scales[i])) : v;
            if (x->zeros != NULL) {
                v = _mm512_fnmadd_ps(_mm512_set1_ps(x->zeros[i]), _mm512_loadu_ps(w->sums + c), v);
            }
            _mm512_mask_storeu_ps(y + i * ldy + c, k, bias == NULL ? v : _mm512_add_ps(v, add));
        }
    }
}

#define TILE(rows, planes, bits)                                                                   \
    static void tile_##rows##_##planes##_##bits(const sq_weight *w, int64_t panel0,                \
                                                int64_t panels, const sq_rounded *x,               \
                                                const float *bias, float *y, int64_t ldy) {        \
        int64_t j = 0;                                                                             \
        for (; rows > 1 && j + 3 <= panels; j += 3) { /* one row: one stream */                    \
            tile(rows, planes, 3, bits, w, panel0 + j, x, bias, y, ldy);                           \
        }                                                                                          \
        for (; j < panels; j++) {                                                                  \
            tile(rows, planes, 1, bits, w, panel0 + j, x, bias, y, ldy);                           \
        }                                                                                          \
    }
#define TILES(bits)                                                                                \
    TILE(1, 1, bits)                                                                               \
    TILE(2, 1, bits)                                                                               \
    TILE(4, 1, bits) TILE(8, 1, bits) TILE(1, 2, bits) TILE(2, 2, bits) TILE(4, 2, bits)
TILES(4)
TILES(8)

typedef void (*tile_fn)(const sq_weight *, int64_t, int64_t, const sq_rounded *, const float *,
                        float *, int64_t);

static void int_tile(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
    static const tile_fn tiles[2][2][4] = {{{tile_1_1_4, tile_2_1_4, tile_4_1_4, tile_8_1_4},
                                            {tile_1_2_4, tile_2_2_4, tile_4_2_4, NULL}},
                                           {{tile_1_1_8, tile_2_1_8, tile_4_1_8, tile_8_1_8},
                                            {tile_1_2_8, tile_2_2_8, tile_4_2_8, NULL}}};
    int rows = x->rows == 1 ? 0 : x->rows == 2 ? 1 : x->rows == 4 ? 2 : 3;
    tiles[w->kind == SQ_W_Q8][x->planes - 1][rows](w, panel0, panels, x, bias, y, ldy);
}

void sq_kernels_init_avx512_vnni(sq_kernels *k) {
    k->int_tile = int_tile;
    k->int_tiles = NULL;
    k->wide_inputs = 0;
    sq_kv_init_avx512_vnni(k);
}
