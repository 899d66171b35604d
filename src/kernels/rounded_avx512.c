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

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: eight lanes of up
 * to three sums by name. */
#define EACH_LANE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define START(i) __m512i a##i = _mm512_set1_epi32(start[i]), b##i = a##i, c##i = a##i;
#define ADD(i)                                                                                     \
    if (i < lanes) {                                                                               \
        __m512i v = four(x + 4 * i);                                                               \
        a##i = _mm512_dpbusd_epi32(a##i, q[0], v);                                                 \
        b##i = panels == 3 ? _mm512_dpbusd_epi32(b##i, q[1], v) : b##i;                            \
        c##i = panels == 3 ? _mm512_dpbusd_epi32(c##i, q[2], v) : c##i;                            \
    }
#define KEEP(i)                                                                                    \
    if (i < lanes) {                                                                               \
        d[i][0] = a##i;                                                                            \
        d[i][1] = panels == 3 ? b##i : a##i;                                                       \
        d[i][2] = panels == 3 ? c##i : a##i;                                                       \
    }

/* d[lane][panel] = start[lane] + the sums of code * x over `columns` of a piece; 1 or 3 panels. */
static inline __attribute__((always_inline)) void
piece_sums(int lanes, int panels, int bits, int64_t columns, const uint8_t *const w[MOST_PANELS],
           const int8_t *x, const int32_t *start, __m512i d[MOST_LANES][MOST_PANELS]) {
    const __m512i low = _mm512_set1_epi8(15);
    const int64_t bytes = columns * SQ_PANEL * bits / 8;
    EACH_LANE(START)
    for (int64_t at = 0; at < bytes; at += 64) {
        __m512i q[MOST_PANELS] = {low, low, low};
        for (int j = 0; j < panels; j++) {
            q[j] = _mm512_loadu_si512(w[j] + at);
            if (lanes <= 2) {
                _mm_prefetch((const char *)w[j] + at + AHEAD, _MM_HINT_T0);
            }
            q[j] = bits == 4 ? _mm512_and_si512(q[j], low) : q[j];
        }
        EACH_LANE(ADD)
        x += 4 * lanes;
        if (bits == 4) {
            for (int j = 0; j < panels; j++) {
                q[j] = _mm512_srli_epi16(_mm512_loadu_si512(w[j] + at), 4);
                q[j] = _mm512_and_si512(q[j], low);
            }
            EACH_LANE(ADD)
            x += 4 * lanes;
        }
    }
    EACH_LANE(KEEP)
}

/* `rows` rows in `planes` times `panels` panels. */
static inline __attribute__((always_inline)) void tile(int rows, int planes, int panels, int bits,
                                                       const sq_weight *w, int64_t panel0,
                                                       const sq_rounded *x, const float *bias,
                                                       float *y, int64_t ldy) {
    int64_t pieces = sq_weight_pieces(w), stride = sq_weight_stride(w), split = sq_weight_split(w);
    int64_t groups = sq_weight_groups(w), piece_bytes = stride * SQ_PANEL * bits / 8;
    const uint8_t *codes[MOST_PANELS];
    const int8_t *in = x->codes;
    __m512 acc[MOST_LANES][MOST_PANELS];
    for (int j = 0; j < panels; j++) {
        codes[j] = sq_weight_panel(w, panel0 + j);
        for (int i = 0; i < rows; i++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }
    for (int64_t p = 0; p < pieces; p++, in += stride * rows * planes) {
        __m512i d[MOST_LANES][MOST_PANELS];
        int32_t start[MOST_LANES] = {0};
        for (int i = 0; i < rows; i++) {
            start[i] = -(1 << (bits - 1)) * x->sums[p * rows + i];
        }
        piece_sums(rows * planes, panels, bits, stride, codes, in, start, d);
        for (int j = 0; j < panels; j++) {
            int64_t at = ((panel0 + j) * groups + p / split) * SQ_PANEL;
            __m512 scale = w->half == NULL ? _mm512_loadu_ps(w->scales + at)
                                           : _mm512_cvtph_ps(_mm256_loadu_si256(
                                                 (const __m256i *)(const void *)(w->half + at)));
            __m512 zero = _mm512_setzero_ps();
            if (w->zeros != NULL) {
                __m512i z = _mm512_cvtepu8_epi32(
                    _mm_loadu_si128((const __m128i *)(const void *)(w->zeros + at)));
                zero = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_set1_epi32(1 << (bits - 1)), z));
            }
            for (int i = 0; i < rows; i++) {
                __m512i sum = d[i][j];
                if (planes == 2) {
                    sum = _mm512_add_epi32(sum, _mm512_slli_epi32(d[rows + i][j], 8));
                }
                __m512 f =
                    _mm512_mul_ps(_mm512_set1_ps(x->scales[p * rows + i]), _mm512_cvtepi32_ps(sum));
                if (w->zeros != NULL) {
                    f = _mm512_fmadd_ps(zero, _mm512_set1_ps(x->scaled_sums[p * rows + i]), f);
                }
                acc[i][j] = _mm512_fmadd_ps(scale, f, acc[i][j]);
            }
            if (w->offsets != NULL) {
                __m512 offset = _mm512_loadu_ps(w->offsets + at);
                for (int i = 0; i < rows; i++) {
                    acc[i][j] = _mm512_fmadd_ps(
                        offset, _mm512_set1_ps(x->scaled_sums[p * rows + i]), acc[i][j]);
                }
            }
            codes[j] += piece_bytes;
        }
    }
    for (int j = 0; j < panels; j++) {
        int64_t c = (panel0 + j) * SQ_PANEL, left = w->n - c;
        __mmask16 k = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
        __m512 add = bias == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(k, bias + c);
        for (int i = 0; i < rows; i++) {
            __m512 v = acc[i][j];
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
    sq_kv_init_avx512_vnni(k);
}
