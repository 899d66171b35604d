/* Products with rounded inputs, AVX-512 VNNI: dpbusd adds four codes (unsigned) times inputs
 * (signed) to a 32-bit lane, exactly. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

/* 4-bit codes of a chunk times mixed inputs, added to lanes of 32-column block 0 1 2 3 0 1 2 3 … */
static inline __m512i add_chunk(__m512i sum, const uint8_t *codes, const int8_t *x) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i turn =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i z = _mm512_shuffle_epi8(_mm512_loadu_si512(codes), turn);
    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(z, low), _mm512_loadu_si512(x));
    return _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(z, 4), low),
                               _mm512_loadu_si512(x + 64));
}

/* The scales of a chunk's four blocks; 0 beyond the last. */
static inline __m128 block_scales(const sq_weight *w, const float *scales, int64_t chunk) {
    int64_t groups = sq_weight_groups(w), at = 4 * chunk, per = w->group / 32;
    if (per == 1 && at + 4 <= groups) {
        return _mm_loadu_ps(scales + at);
    }
    float s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = at + i < groups * per ? scales[(at + i) / per] : 0.0f;
    }
    return _mm_loadu_ps(s);
}

/* Pieces of 32 columns: the lanes are the chains, added as (0 + 1) + (2 + 3). */
static float row_blocks(const sq_weight *w, int64_t r, const sq_rounded *x) {
    const uint8_t *codes = sq_weight_row(w, r);
    const float *scales = w->scales + r * sq_weight_groups(w);
    __m128 acc = _mm_setzero_ps();
    int64_t chunks = sq_weight_chunks(w);
    for (int64_t c = 0; c < chunks; c++) {
        __m512i z =
            add_chunk(_mm512_setzero_si512(), codes + 64 * c, x->mixed + c * SQ_CHUNK_COLUMNS);
        __m256i y = _mm256_add_epi32(_mm512_castsi512_si256(z), _mm512_extracti64x4_epi64(z, 1));
        __m128i d = _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        __m128i sums = _mm_loadu_si128((const __m128i *)(const void *)(x->sums + 4 * c));
        d = _mm_sub_epi32(d, _mm_slli_epi32(sums, 3));
        acc = _mm_fmadd_ps(block_scales(w, scales, c), _mm_cvtepi32_ps(d), acc);
    }
    __m128 pairs = _mm_add_ps(acc, _mm_movehdup_ps(acc));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
}

/* Pieces of whole chunks, or one of all columns. */
static float row_long(const sq_weight *w, int64_t r, const sq_rounded *x) {
    int64_t groups = sq_weight_groups(w), per = sq_weight_chunks(w) / groups;
    const uint8_t *codes = sq_weight_row(w, r);
    const float *scales = w->scales + r * groups;
    float acc[4] = {0};
    for (int64_t g = 0; g < groups; g++) {
        __m512i d = _mm512_setzero_si512();
        for (int64_t c = g * per; c < (g + 1) * per; c++) {
            d = add_chunk(d, codes + 64 * c, x->mixed + c * SQ_CHUNK_COLUMNS);
        }
        int32_t sum = _mm512_reduce_add_epi32(d) - 8 * x->sums[g];
        acc[g % 4] = fmaf(scales[g], (float)sum, acc[g % 4]);
    }
    return (acc[0] + acc[1]) + (acc[2] + acc[3]);
}

static void gemv_i4(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    int64_t piece = sq_weight_piece(w);
    int whole = piece == w->k_padded || piece % SQ_CHUNK_COLUMNS == 0;
    if (!whole && piece != 32) {
        sq_kernels plain;
        sq_kernels_init_c(&plain);
        plain.gemv_i4(w, row0, rows, x, y);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        y[r] = whole ? row_long(w, row0 + r, x) : row_blocks(w, row0 + r, x);
    }
}

/* Sum of n 8-bit codes (0..255) times inputs. */
static inline int32_t dot_i8(const uint8_t *codes, const int8_t *x, int64_t n) {
    __m512i a = _mm512_setzero_si512(), b = a;
    int64_t i = 0;
    for (; i + 128 <= n; i += 128) {
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(codes + i), _mm512_loadu_si512(x + i));
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(codes + i + 64),
                                _mm512_loadu_si512(x + i + 64));
    }
    for (; i < n; i += 64) {
        __mmask64 m = n - i < 64 ? (1ull << (n - i)) - 1 : ~0ull;
        a = _mm512_dpbusd_epi32(a, _mm512_maskz_loadu_epi8(m, codes + i),
                                _mm512_maskz_loadu_epi8(m, x + i));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

static void gemv_i8(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    sq_gemv_i8(dot_i8, w, row0, rows, x, y);
}

static void int_panel(const sq_weight *w, int64_t row0, int64_t n, uint8_t *panel) {
    sq_panel_quads(w, row0, n, 0, panel);
}

enum { TILE = 12 }; /* rows of inputs */

/* m rows times a panel: [columns / 4][16 rows][4]; one register a row of inputs. */
static inline __attribute__((always_inline)) void tile(int m, const sq_weight *w,
                                                       const uint8_t *panel, const sq_rounded *x,
                                                       float y[TILE][SQ_PANEL]) {
    int64_t pieces = sq_weight_pieces(w), stride = sq_weight_stride(w), at = 0;
    const float *scales = (const float *)(const void *)(panel + sq_panel_codes(w));
    int middle = sq_weight_middle(w);
    __m512 acc[4][TILE];
    for (int i = 0; i < 4 * m; i++) {
        acc[i / m][i % m] = _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < pieces; p++) {
        __m512i d[TILE];
        for (int i = 0; i < m; i++) {
            d[i] = _mm512_set1_epi32(-middle * x[i].sums[p]);
        }
        for (int64_t c = 0; c < stride; c += 4, at += 4, panel += 4 * SQ_PANEL) {
            __m512i q = _mm512_loadu_si512(panel);
            for (int i = 0; i < m; i++) {
                int32_t four;
                memcpy(&four, x[i].codes + at, 4);
                d[i] = _mm512_dpbusd_epi32(d[i], q, _mm512_set1_epi32(four));
            }
        }
        __m512 s = _mm512_loadu_ps(scales + p * SQ_PANEL);
        for (int i = 0; i < m; i++) {
            acc[p % 4][i] = _mm512_fmadd_ps(s, _mm512_cvtepi32_ps(d[i]), acc[p % 4][i]);
        }
    }
    for (int i = 0; i < m; i++) {
        _mm512_storeu_ps(y[i], _mm512_add_ps(_mm512_add_ps(acc[0][i], acc[1][i]),
                                             _mm512_add_ps(acc[2][i], acc[3][i])));
    }
}

static void int_tile(const sq_weight *w, int64_t n, const uint8_t *panel, const sq_rounded *x,
                     int64_t rows, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows;) {
        float t[TILE][SQ_PANEL];
        int64_t left = rows - i, m = left >= TILE ? TILE : left >= 4 ? 4 : 1;
        if (m == TILE) {
            tile(TILE, w, panel, x + i, t);
        } else if (m == 4) {
            tile(4, w, panel, x + i, t);
        } else {
            tile(1, w, panel, x + i, t);
        }
        for (int64_t r = 0; r < m; r++) {
            memcpy(y + (i + r) * ldy, t[r], (size_t)n * sizeof **t);
        }
        i += m;
    }
}

void sq_kernels_init_avx512_vnni(sq_kernels *k) {
    k->gemv_i4 = gemv_i4;
    k->gemv_i8 = gemv_i8;
    k->int_panel = int_panel;
    k->int_tile = int_tile;
}
