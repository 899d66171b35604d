/* Products with rounded inputs, AVX2. A 4-bit code (0..15) times an input (-128..127) fits maddubs
 * with room to spare: pairs are at most 3840, eight of them still 16 bits. 8-bit codes would
 * saturate there: both sides are widened to 16 bits. */
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

/* ---- one row of inputs ---- */

/* 4-bit codes of a chunk times mixed inputs: 16-bit sums, pairs of lanes belong to 32-column block
 * 0 1 2 3 0 1 2 3. */
static inline __m256i chunk_sums(const uint8_t *codes, const int8_t *x) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i turn = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0,
                                          4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i z0 = _mm256_shuffle_epi8(load(codes), turn);
    __m256i z1 = _mm256_shuffle_epi8(load(codes + 32), turn);
    __m256i a = _mm256_maddubs_epi16(_mm256_and_si256(z0, low), load(x));
    __m256i b = _mm256_maddubs_epi16(_mm256_and_si256(z1, low), load(x + 32));
    __m256i c = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(z0, 4), low), load(x + 64));
    __m256i d = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(z1, 4), low), load(x + 96));
    return _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
}

/* The scales of a chunk's four blocks; 0 beyond the last. */
static inline __m128 block_scales(const sq_weight *w, const float *scales, int64_t chunk) {
    int64_t groups = sq_weight_groups(w), at = 4 * chunk, per = w->group / 32;
    if (per == 1 && at + 4 <= groups) {
        return _mm_loadu_ps(scales + at);
    }
    if (per == 2 && at + 4 <= 2 * groups) {
        double pair;
        memcpy(&pair, scales + at / 2, sizeof pair);
        __m128 two = _mm_castpd_ps(_mm_set_sd(pair));
        return _mm_unpacklo_ps(two, two);
    }
    float s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = at + i < groups * per ? scales[(at + i) / per] : 0.0f;
    }
    return _mm_loadu_ps(s);
}

/* (0 + 1) + (2 + 3) of four lanes. */
static inline float sum_chains(__m128 v) {
    __m128 pairs = _mm_add_ps(v, _mm_movehdup_ps(v));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
}

/* Pieces of 32 columns, two rows at once: the lanes are the chains. */
static void two_rows_blocks(const sq_weight *w, int64_t r, int64_t s, const sq_rounded *x, float *a,
                            float *b) {
    const uint8_t *u = sq_weight_row(w, r), *v = sq_weight_row(w, s);
    const float *us = w->scales + r * sq_weight_groups(w),
                *vs = w->scales + s * sq_weight_groups(w);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc = _mm256_setzero_ps();
    int64_t chunks = sq_weight_chunks(w);
    for (int64_t c = 0; c < chunks; c++) {
        const int8_t *q = x->mixed + c * SQ_CHUNK_COLUMNS;
        __m256i p = _mm256_madd_epi16(chunk_sums(u + 64 * c, q), ones);
        __m256i o = _mm256_madd_epi16(chunk_sums(v + 64 * c, q), ones);
        __m256i d = _mm256_add_epi32(_mm256_permute2x128_si256(p, o, 0x20),
                                     _mm256_permute2x128_si256(p, o, 0x31));
        __m128i sums = _mm_loadu_si128((const __m128i *)(const void *)(x->sums + 4 * c));
        d = _mm256_sub_epi32(d, _mm256_slli_epi32(_mm256_broadcastsi128_si256(sums), 3));
        __m256 scale = _mm256_set_m128(block_scales(w, vs, c), block_scales(w, us, c));
        acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(d), acc);
    }
    *a = sum_chains(_mm256_castps256_ps128(acc));
    *b = sum_chains(_mm256_extractf128_ps(acc, 1));
}

/* Sums of four registers of 32-bit lanes. */
static inline __m128i sum_four(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

/* Pieces of whole chunks, or one of all columns; four rows, one a lane. */
static __m128 four_rows_long(const sq_weight *w, const int64_t r[4], const sq_rounded *x) {
    int64_t groups = sq_weight_groups(w), chunks = sq_weight_chunks(w), per = chunks / groups;
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *p[4];
    const float *s[4];
    __m128 acc[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
    for (int i = 0; i < 4; i++) {
        p[i] = sq_weight_row(w, r[i]);
        s[i] = w->scales + r[i] * groups;
    }
    for (int64_t g = 0; g < groups; g++) {
        __m256i d[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                        _mm256_setzero_si256()};
        for (int64_t c = g * per; c < (g + 1) * per; c++) {
            for (int i = 0; i < 4; i++) {
                __m256i t = chunk_sums(p[i] + 64 * c, x->mixed + c * SQ_CHUNK_COLUMNS);
                d[i] = _mm256_add_epi32(d[i], _mm256_madd_epi16(t, ones));
            }
        }
        __m128i sum = sum_four(d[0], d[1], d[2], d[3]);
        sum = _mm_sub_epi32(sum, _mm_set1_epi32(8 * x->sums[g]));
        __m128 scale = _mm_setr_ps(s[0][g], s[1][g], s[2][g], s[3][g]);
        acc[g % 4] = _mm_fmadd_ps(scale, _mm_cvtepi32_ps(sum), acc[g % 4]);
    }
    return _mm_add_ps(_mm_add_ps(acc[0], acc[1]), _mm_add_ps(acc[2], acc[3]));
}

static void gemv_i4(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    int64_t piece = sq_weight_piece(w), last = row0 + rows - 1;
    if (piece == w->k_padded || piece % SQ_CHUNK_COLUMNS == 0) {
        for (int64_t i = 0; i < rows; i += 4) {
            float t[4];
            int64_t r[4];
            for (int64_t j = 0; j < 4; j++) {
                r[j] = row0 + i + j < last ? row0 + i + j : last;
            }
            _mm_storeu_ps(t, four_rows_long(w, r, x));
            for (int64_t j = 0; j < 4 && i + j < rows; j++) {
                y[i + j] = t[j];
            }
        }
    } else if (piece == 32) {
        for (int64_t i = 0; i < rows; i += 2) {
            float t;
            int64_t r = row0 + i, s = r < last ? r + 1 : r;
            two_rows_blocks(w, r, s, x, y + i, s > r ? y + i + 1 : &t);
        }
    } else {
        sq_kernels plain;
        sq_kernels_init_c(&plain);
        plain.gemv_i4(w, row0, rows, x, y);
    }
}

/* Sum of n 8-bit codes (0..255) times inputs. */
static inline int32_t dot_i8(const uint8_t *codes, const int8_t *x, int64_t n) {
    __m256i a = _mm256_setzero_si256(), b = a;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i q = load(codes + i), v = load(x + i);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(q)),
                                                  _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v))));
        b = _mm256_add_epi32(
            b, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(q, 1)),
                                 _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1))));
    }
    a = _mm256_add_epi32(a, b);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    int32_t sum = _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
    for (; i < n; i++) {
        sum += codes[i] * x[i];
    }
    return sum;
}

static void gemv_i8(const sq_weight *w, int64_t row0, int64_t rows, const sq_rounded *x, float *y) {
    sq_gemv_i8(dot_i8, w, row0, rows, x, y);
}

/* ---- many rows: panels and tiles ---- */

/* Four rows of 8 quads of columns: quad j of 16-byte lane i goes to `out + j * step + i * lane`,
 * the four rows side by side. */
static inline void put_quads(const __m256i q[4], uint8_t *out, int64_t step, int64_t lane) {
    __m256i a = _mm256_unpacklo_epi32(q[0], q[1]), b = _mm256_unpackhi_epi32(q[0], q[1]);
    __m256i c = _mm256_unpacklo_epi32(q[2], q[3]), d = _mm256_unpackhi_epi32(q[2], q[3]);
    __m256i t[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                    _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
    for (int j = 0; j < 4; j++) {
        _mm_storeu_si128((__m128i *)(void *)(out + j * step), _mm256_castsi256_si128(t[j]));
        _mm_storeu_si128((__m128i *)(void *)(out + j * step + lane),
                         _mm256_extracti128_si256(t[j], 1));
    }
}

enum { QUAD = 4 * SQ_PANEL, PLANE = 8 * QUAD }; /* bytes of four columns, of 32 */

/* A chunk of 4-bit codes of four rows: see mix_columns for where columns lie. `blocks`: 32-column
 * blocks of the chunk that exist. */
static void quads_q4(const uint8_t *const rows[4], int64_t chunk, int64_t blocks, uint8_t *out) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i turn = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0,
                                          4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    uint8_t whole[4 * PLANE], *to = blocks == 4 ? out : whole;
    for (int half = 0; half < 2; half++) {
        __m256i a[4], b[4];
        for (int i = 0; i < 4; i++) {
            a[i] = _mm256_shuffle_epi8(load(rows[i] + 64 * chunk + 32 * half), turn);
            b[i] = _mm256_and_si256(_mm256_srli_epi16(a[i], 4), low);
            a[i] = _mm256_and_si256(a[i], low);
        }
        put_quads(a, to + 2 * half * QUAD, PLANE, QUAD);
        put_quads(b, to + (4 + 2 * half) * QUAD, PLANE, QUAD);
    }
    for (int64_t i = 0; blocks < 4 && i < blocks * 8; i++) {
        memcpy(out + i * QUAD, whole + i * QUAD, 16);
    }
}

/* 32 columns of 8-bit codes of four rows, as bytes or widened to 16 bits. */
static void quads_q8(const uint8_t *const rows[4], int64_t block, int wide, uint8_t *out) {
    __m256i a[4];
    for (int half = 0; wide && half < 2; half++) {
        for (int i = 0; i < 4; i++) {
            const uint8_t *p = rows[i] + 32 * block + 16 * half;
            a[i] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
        }
        put_quads(a, out + 8 * half * QUAD, QUAD, 4 * QUAD);
    }
    for (int i = 0; !wide && i < 4; i++) {
        a[i] = load(rows[i] + 32 * block);
    }
    if (!wide) {
        put_quads(a, out, QUAD, 4 * QUAD);
    }
}

/* Pieces that are no multiple of 32 columns: code by code. */
static void quads_plain(const sq_weight *w, const uint8_t *const rows[4], int wide, uint8_t *out) {
    int64_t piece = sq_weight_piece(w), stride = sq_weight_stride(w), pieces = sq_weight_pieces(w);
    for (int64_t i = 0; i < 4 * pieces * stride; i++) {
        int64_t to = i / 4, col = to % stride, c = to / stride * piece + col, in = c % 128;
        int q = 0;
        if (col < piece) {
            q = w->kind == SQ_W_Q8
                    ? rows[i % 4][c]
                    : rows[i % 4][c / 128 * 64 + in % 16 * 4 + in / 32] >> (in / 16 % 2 * 4) & 15;
        }
        if (wide) {
            int16_t q16 = (int16_t)q;
            memcpy(out + to / 2 * QUAD + i % 4 * 4 + to % 2 * 2, &q16, 2);
        } else {
            out[to / 4 * QUAD + i % 4 * 4 + to % 4] = (uint8_t)q;
        }
    }
}

void sq_panel_quads(const sq_weight *w, int64_t row0, int64_t n, int wide, uint8_t *panel) {
    int64_t piece = sq_weight_piece(w),
            blocks = sq_weight_pieces(w) * sq_weight_stride(w) / 32; /* of 32 columns */
    for (int64_t r = 0; r < SQ_PANEL; r += 4) {
        const uint8_t *rows[4];
        uint8_t *out = panel + 4 * r;
        for (int64_t i = 0; i < 4; i++) { /* the last row again where there is none */
            rows[i] = sq_weight_row(w, row0 + (r + i < n ? r + i : n - 1));
        }
        if (piece % 32 != 0 && piece != w->k_padded) {
            quads_plain(w, rows, wide, out);
            continue;
        }
        for (int64_t b = 0; w->kind == SQ_W_Q4 && b < blocks; b += 4) {
            quads_q4(rows, b / 4, blocks - b < 4 ? blocks - b : 4, out + b * PLANE);
        }
        for (int64_t b = 0; w->kind == SQ_W_Q8 && b < blocks; b++) {
            quads_q8(rows, b, wide, out + b * (1 + wide) * PLANE);
        }
    }
    sq_panel_scales(w, row0, n, panel);
}

static void int_panel(const sq_weight *w, int64_t row0, int64_t n, uint8_t *panel) {
    sq_panel_quads(w, row0, n, w->kind == SQ_W_Q8, panel);
}

enum { TILE = 6 }; /* rows of inputs: twelve accumulators */

typedef __m256i sums[TILE][2];

/* Adds in place: left to itself, gcc moves the additions behind all products and spills. */
static inline void add16(__m256i *s, __m256i t) {
    __asm__("vpaddw %1, %0, %0" : "+x"(*s) : "x"(t));
}
static inline void add32(__m256i *s, __m256i t) {
    __asm__("vpaddd %1, %0, %0" : "+x"(*s) : "x"(t));
}

static inline __m256i four_bytes(const void *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

/* 32 columns of m rows of inputs times 16 rows of 4-bit codes: 16-bit sums, then widened. */
static inline __attribute__((always_inline)) void
block_q4(int m, const uint8_t *panel, const sq_rounded *x, int64_t at, sums d) {
    const __m256i one = _mm256_set1_epi16(1);
    sums s;
    for (int i = 0; i < m; i++) {
        s[i][0] = s[i][1] = _mm256_setzero_si256();
    }
    for (int q = 0; q < 8; q++) {
        __m256i a = load(panel + q * QUAD), b = load(panel + q * QUAD + 32);
        for (int i = 0; i < m; i++) {
            __m256i v = four_bytes(x[i].codes + at + 4 * q);
            add16(&s[i][0], _mm256_maddubs_epi16(a, v));
            add16(&s[i][1], _mm256_maddubs_epi16(b, v));
        }
    }
    for (int i = 0; i < m; i++) {
        d[i][0] = _mm256_add_epi32(d[i][0], _mm256_madd_epi16(s[i][0], one));
        d[i][1] = _mm256_add_epi32(d[i][1], _mm256_madd_epi16(s[i][1], one));
    }
}

/* A piece of 8-bit codes, both sides in 16 bits. */
static inline __attribute__((always_inline)) void
piece_q8(int m, const uint8_t *panel, const sq_rounded *x, int64_t at, int64_t columns, sums d) {
    for (int64_t c = 0; c < columns; c += 2, panel += QUAD) {
        __m256i a = load(panel), b = load(panel + 32);
        for (int i = 0; i < m; i++) {
            __m256i v = four_bytes(x[i].wide + at + c);
            add32(&d[i][0], _mm256_madd_epi16(a, v));
            add32(&d[i][1], _mm256_madd_epi16(b, v));
        }
    }
}

static inline __attribute__((always_inline)) void tile(int m, const sq_weight *w,
                                                       const uint8_t *panel, const sq_rounded *x,
                                                       float y[TILE][SQ_PANEL]) {
    int64_t pieces = sq_weight_pieces(w), stride = sq_weight_stride(w);
    const float *scales = (const float *)(const void *)(panel + sq_panel_codes(w));
    int middle = sq_weight_middle(w), four_bits = w->kind == SQ_W_Q4;
    __m256 acc[4][TILE][2];
    for (int i = 0; i < 4 * m; i++) {
        acc[i / m][i % m][0] = acc[i / m][i % m][1] = _mm256_setzero_ps();
    }
    for (int64_t p = 0; p < pieces; p++) {
        sums d;
        for (int i = 0; i < m; i++) {
            d[i][0] = d[i][1] = _mm256_set1_epi32(-middle * x[i].sums[p]);
        }
        for (int64_t c = 0; four_bits && c < stride; c += 32, panel += PLANE) {
            block_q4(m, panel, x, p * stride + c, d);
        }
        if (!four_bits) {
            piece_q8(m, panel, x, p * stride, stride, d);
            panel += stride / 32 * 2 * PLANE;
        }
        __m256 s = _mm256_loadu_ps(scales + p * SQ_PANEL),
               t = _mm256_loadu_ps(scales + p * SQ_PANEL + 8);
        for (int i = 0; i < m; i++) {
            __m256 *to = acc[p % 4][i];
            to[0] = _mm256_fmadd_ps(s, _mm256_cvtepi32_ps(d[i][0]), to[0]);
            to[1] = _mm256_fmadd_ps(t, _mm256_cvtepi32_ps(d[i][1]), to[1]);
        }
    }
    for (int i = 0; i < 2 * m; i++) {
        int r = i / 2, h = i % 2;
        _mm256_storeu_ps(y[r] + 8 * h, _mm256_add_ps(_mm256_add_ps(acc[0][r][h], acc[1][r][h]),
                                                     _mm256_add_ps(acc[2][r][h], acc[3][r][h])));
    }
}

static void int_tile(const sq_weight *w, int64_t n, const uint8_t *panel, const sq_rounded *x,
                     int64_t rows, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i += TILE) {
        float t[TILE][SQ_PANEL];
        int64_t m = rows - i < TILE ? rows - i : TILE;
        switch (m) {
        case 6:
            tile(6, w, panel, x + i, t);
            break;
        case 5:
            tile(5, w, panel, x + i, t);
            break;
        case 4:
            tile(4, w, panel, x + i, t);
            break;
        case 3:
            tile(3, w, panel, x + i, t);
            break;
        case 2:
            tile(2, w, panel, x + i, t);
            break;
        default:
            tile(1, w, panel, x + i, t);
            break;
        }
        for (int64_t r = 0; r < m; r++) {
            memcpy(y + (i + r) * ldy, t[r], (size_t)n * sizeof **t);
        }
    }
}

void sq_rounded_init_avx2(sq_kernels *k) {
    k->range = range;
    k->round_i8 = round_i8;
    k->gemv_i4 = gemv_i4;
    k->gemv_i8 = gemv_i8;
    k->int_panel = int_panel;
    k->int_tile = int_tile;
}
