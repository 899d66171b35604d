/* Products with rounded inputs, AVX2. 4-bit codes times 8-bit inputs are bytes (maddubs: pairs at
 * most 3840, eight of them still 16 bits); all else are 16-bit numbers (madd: pairs in 32 bits,
 * exact). Codes are unpacked in registers for up to four rows. */
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

enum {
    ROWS = SQ_WIDE_ROWS,
    STEP = 64,    /* bytes of a word of sixteen rows */
    AHEAD = 2048, /* fetched before they are come to */
};

static inline __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void store(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

static inline __m256i low_bytes(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
static inline __m256i high_bytes(__m256i v) { return low_bytes(_mm256_srli_epi16(v, 4)); }

/* Columns of eight rows as pairs of words, from four bytes a row: 0 and 2, or (odd) 1 and 3. */
static inline __m256i pair(__m256i v, int odd) {
    return odd ? _mm256_srli_epi16(v, 8) : _mm256_and_si256(v, _mm256_set1_epi16(255));
}

/* The same of the i-th of the four pairs in a word of 4-bit codes: 0 and 2, 1 and 3, 4 and 6, 5 and
 * 7. */
static inline __m256i pair_of_codes(__m256i v, int i) {
    static const int shift[] = {0, 8, 4, 12};
    v = i == 0 ? v : _mm256_srli_epi16(v, shift[i]);
    return i == 3 ? v : _mm256_and_si256(v, _mm256_set1_epi16(15));
}

/* What a piece of a panel's sums are multiplied by; zero points z as pairs (z, 128 z) of 16 bits.
 */
typedef struct factors {
    float scales[SQ_PANEL];
    int32_t zeros[SQ_PANEL];
    const float *offsets; /* [16]; NULL: none */
} factors;

static void take_factors(const sq_weight *w, int64_t at, factors *f) {
    f->offsets = w->offsets == NULL ? NULL : w->offsets + at;
    for (int i = 0; i < SQ_PANEL; i += VN, at += VN) {
        __m256i z = _mm256_set1_epi32(sq_weight_middle(w));
        if (w->zeros != NULL) {
            const __m128i *from = (const __m128i *)(const void *)(w->zeros + at);
            z = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from));
        }
        store(f->zeros + i, _mm256_or_si256(z, _mm256_slli_epi32(z, 23)));
        v_store(f->scales + i, w->half == NULL ? v_load(w->scales + at) : v_f16(w->half + at));
    }
}

/* What a piece of a panel, or a part of it, adds to a tile of rows. */
typedef struct product {
    const factors *f;
    const sq_rounded *x;
    int64_t p, columns;
    const uint8_t *codes;
    const int8_t *x_codes;
    int first, last; /* of the piece */
    int32_t (*sums)[SQ_PANEL];
    float (*y)[SQ_PANEL];
} product;

/* What eight rows' sums start from: what the zero points take, or what went before. Minus a sum of
 * inputs (below 2^22) as a pair is multiplied by (z, 128 z). */
static inline __attribute__((always_inline)) __m256i begin(product q, int row, int h, int first) {
    if (!first) {
        return load(q.sums[row] + h);
    }
    int32_t s = -q.x->sums[q.p * q.x->rows + row];
    s = (int32_t)((uint32_t)(s >> 7) << 16 | (uint32_t)(s & 127));
    return _mm256_madd_epi16(load(q.f->zeros + h), _mm256_set1_epi32(s));
}

/* Sums of eight rows of the matrix, of which the piece is complete or not. */
static inline __attribute__((always_inline)) void keep(product q, int row, int h, int last,
                                                       int planes, __m256i sum) {
    if (!last) {
        store(q.sums[row] + h, sum);
        return;
    }
    const sq_rounded *x = q.x;
    float *y = q.y[row] + h;
    V f = _mm256_cvtepi32_ps(sum);
    f = planes == 2 ? v_mul(v_set1(x->scales[q.p * x->rows + row]), f) : f;
    V acc = v_fma(v_load(q.f->scales + h), f, v_load(y));
    if (q.f->offsets != NULL) {
        acc = v_fma(v_load(q.f->offsets + h), v_set1(x->worth[q.p * x->rows + row]), acc);
    }
    v_store(y, acc);
}

/* In place: left to itself, gcc moves the additions behind all products and spills. */
#define GROW(add, s, v)                                                                            \
    {                                                                                              \
        __m256i more = v;                                                                          \
        __asm__(add " %1, %0, %0" : "+x"(s) : "x"(more));                                          \
    }
#define EACH_ROW(M) M(0) M(1) M(2) M(3)
#define BEGIN(i)                                                                                   \
    __m256i a##i = i < n ? begin(q, i, 0, first) : _mm256_setzero_si256();                         \
    __m256i b##i = i < n ? begin(q, i, 8, first) : a##i;
#define END(i)                                                                                     \
    if (i < n) {                                                                                   \
        keep(q, i, 0, last, planes, a##i);                                                         \
        keep(q, i, 8, last, planes, b##i);                                                         \
    }
#define ADD_WORDS(i)                                                                               \
    if (i < n) {                                                                                   \
        __m256i v = v_four(x + 4 * i);                                                             \
        GROW("vpaddd", a##i, _mm256_madd_epi16(c, v))                                              \
        GROW("vpaddd", b##i, _mm256_madd_epi16(e, v))                                              \
    }

/* n rows of 16-bit numbers: a word of a panel is eight columns or four. */
static inline __attribute__((always_inline)) void of_words(int n, product q, int bits, int planes) {
    const int first = q.first, last = q.last;
    const uint8_t *w = q.codes;
    const int8_t *x = q.x_codes, *end = x + 2 * n * q.columns;
    EACH_ROW(BEGIN)
    for (; x < end; w += STEP) {
        const __m256i packed[2] = {load(w), load(w + 32)};
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        for (int i = 0; i < 16 / bits; i++, x += 4 * n) {
            const __m256i c = bits == 4 ? pair_of_codes(packed[0], i) : pair(packed[0], i);
            const __m256i e = bits == 4 ? pair_of_codes(packed[1], i) : pair(packed[1], i);
            EACH_ROW(ADD_WORDS)
        }
    }
    EACH_ROW(END)
}

#define CLEAR(i) __m256i s##i = _mm256_setzero_si256(), t##i = s##i;
#define ADD_BYTES(i)                                                                               \
    if (i < n) {                                                                                   \
        __m256i v = v_four(x + 4 * i);                                                             \
        GROW("vpaddw", s##i, _mm256_maddubs_epi16(c, v))                                           \
        GROW("vpaddw", t##i, _mm256_maddubs_epi16(e, v))                                           \
    }
#define WIDEN(i)                                                                                   \
    {                                                                                              \
        BEGIN(i)                                                                                   \
        a##i = _mm256_add_epi32(a##i, _mm256_madd_epi16(s##i, one));                               \
        b##i = _mm256_add_epi32(b##i, _mm256_madd_epi16(t##i, one));                               \
        END(i)                                                                                     \
    }

/* n rows of bytes times up to four words of a panel, whose sums fit 16 bits; unpacked: both halves
 * of a word by themselves. */
static inline __attribute__((always_inline)) void four_words(int n, int unpacked, product q,
                                                             int64_t words, const uint8_t *w,
                                                             const int8_t *x, int first, int last) {
    enum { planes = 1 };
    const __m256i one = _mm256_set1_epi16(1);
    EACH_ROW(CLEAR)
    for (int64_t i = 0; i < words; i++) {
        __m256i c = load(w), e = load(w + 32), high[2];
        if (unpacked) {
            high[0] = load(w + STEP);
            high[1] = load(w + STEP + 32);
        } else {
            high[0] = high_bytes(c);
            high[1] = high_bytes(e);
            c = low_bytes(c);
            e = low_bytes(e);
            _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        }
        EACH_ROW(ADD_BYTES)
        x += 4 * n;
        c = high[0];
        e = high[1];
        EACH_ROW(ADD_BYTES)
        x += 4 * n;
        w += unpacked ? 2 * STEP : STEP;
    }
    EACH_ROW(WIDEN)
}

static inline __attribute__((always_inline)) void of_bytes(int n, int unpacked, product q) {
    const uint8_t *w = q.codes;
    const int8_t *x = q.x_codes;
    int64_t left = q.columns / 8;
    int first = q.first;
    for (; left > 4; left -= 4, w += (unpacked ? 8 : 4) * STEP, x += 32 * n, first = 0) {
        four_words(n, unpacked, q, 4, w, x, first, 0);
    }
    if (left == 4 && q.last) {
        four_words(n, unpacked, q, 4, w, x, first, 1);
    } else {
        four_words(n, unpacked, q, left, w, x, first, q.last);
    }
}

/* Adds what is common to a row's pieces, and writes the columns that are. */
static void give(const sq_weight *w, int64_t panel, const sq_rounded *x, int row, const float *sums,
                 const float *bias, float *y) {
    for (int64_t i = 0, c = panel * SQ_PANEL; i < SQ_PANEL; i += VN, c += VN) {
        int64_t left = w->n - c < VN ? w->n - c : VN;
        V v = v_load(sums + i);
        v = x->planes == 1 ? v_mul(v, v_set1(x->scales[row])) : v;
        v = x->zeros == NULL ? v : v_nfma(v_set1(x->zeros[row]), v_load(w->sums + c), v);
        if (left >= VN) { /* a store under a mask takes dozens of cycles on some CPUs */
            v_store(y + c, bias == NULL ? v : v_add(v, v_load(bias + c)));
        } else if (left > 0) {
            v = bias == NULL ? v : v_add(v, v_load_part(bias + c, left));
            v_store_part(y + c, v, left);
        }
    }
}

/* The forms of a product: codes of 4 bits times 8, of 4 times 16, of 8 times 8 and times 16; and
 * the first of unpacked codes. */
enum { BY_BYTES, BY_WORDS, WIDE_BY_BYTES, WIDE_BY_WORDS, FORMS, UNPACKED = FORMS };

/* n rows times a panel's codes. */
static inline __attribute__((always_inline)) void panel_rows(int n, int form, const sq_weight *w,
                                                             int64_t panel, const uint8_t *codes,
                                                             const sq_rounded *x, const float *bias,
                                                             float *y, int64_t ldy) {
    const int bits = form == BY_BYTES || form == BY_WORDS ? 4 : 8;
    const int input = form == BY_BYTES || form == UNPACKED ? 1 : 2;
    const int64_t stride = sq_weight_stride(w), pieces = sq_weight_pieces(w);
    const int64_t together = pieces / x->pieces, split = sq_weight_split(w);
    _Alignas(64) int32_t sums[ROWS][SQ_PANEL] = {{0}};
    _Alignas(64) float own[ROWS][SQ_PANEL] = {{0}};
    _Alignas(64) factors f;
    for (int64_t c = 0; c < pieces; c++) {
        product q = {.f = &f,
                     .x = x,
                     .p = c / together,
                     .columns = sq_piece_stored(x->stored, stride, c),
                     .codes = codes + c * stride * SQ_PANEL * bits / 8,
                     .x_codes = x->codes + c * stride * n * input,
                     .first = c % together == 0,
                     .last = c % together == together - 1,
                     .sums = sums,
                     .y = own};
        take_factors(w, (panel * sq_weight_groups(w) + c / split) * SQ_PANEL, &f);
        if (input == 1) {
            of_bytes(n, form == UNPACKED, q);
        } else {
            of_words(n, q, bits, form == WIDE_BY_BYTES ? 1 : 2);
        }
    }
    for (int i = 0; i < n; i++) {
        give(w, panel, x, i, own[i], bias, y + i * ldy);
    }
}

#define TILE(n, form)                                                                              \
    static void tile_##n##_##form(const sq_weight *w, int64_t panel, const uint8_t *codes,         \
                                  const sq_rounded *x, const float *bias, float *y, int64_t ldy) { \
        panel_rows(n, form, w, panel, codes, x, bias, y, ldy);                                     \
    }
#define TILES(n)                                                                                   \
    TILE(n, BY_BYTES)                                                                              \
    TILE(n, BY_WORDS) TILE(n, WIDE_BY_BYTES) TILE(n, WIDE_BY_WORDS)
TILES(1)
TILES(2)
TILES(4)
TILE(4, UNPACKED)

typedef void (*tile_fn)(const sq_weight *, int64_t, const uint8_t *, const sq_rounded *,
                        const float *, float *, int64_t);

static void int_tile(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
#define FORMS_OF(n)                                                                                \
    { tile_##n##_BY_BYTES, tile_##n##_BY_WORDS, tile_##n##_WIDE_BY_BYTES, tile_##n##_WIDE_BY_WORDS }
    static const tile_fn tiles[3][FORMS] = {FORMS_OF(1), FORMS_OF(2), FORMS_OF(4)};
    int form = (w->kind == SQ_W_Q4 ? BY_BYTES : WIDE_BY_BYTES) + x->planes - 1;
    for (int64_t j = panel0; j < panel0 + panels; j++) {
        tiles[x->rows / 2][form](w, j, sq_weight_panel(w, j), x, bias, y, ldy);
    }
}

static void unpack(const uint8_t *from, const uint8_t *end, uint8_t *to) {
    for (; from < end; from += STEP, to += 2 * STEP) {
        for (int h = 0; h < STEP; h += 32) {
            store(to + h, low_bytes(load(from + h)));
            store(to + STEP + h, high_bytes(load(from + h)));
        }
    }
}

/* Bytes are quicker to multiply than to unpack for four rows at a time. */
static void int_tiles(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                      int64_t tiles, const float *bias, float *y, int64_t ldy) {
    int64_t bytes = sq_panel_bytes(w), rows = x->rows;
    uint8_t *codes = NULL;
    if (w->kind == SQ_W_Q4 && x->planes == 1 && tiles > 2) {
        codes = (uint8_t *)sq_thread_scratch(1, (size_t)(2 * bytes * panels) / sizeof(float));
    }
    if (codes == NULL) {
        for (int64_t i = 0; i < tiles; i++) {
            int_tile(w, panel0, panels, &x[i], bias, y + i * rows * ldy, ldy);
        }
        return;
    }
    const uint8_t *from = sq_weight_panel(w, panel0);
    unpack(from, from + panels * bytes, codes);
    for (int64_t i = 0; i < tiles; i++) {
        for (int64_t j = 0; j < panels; j++) {
            tile_4_UNPACKED(w, panel0 + j, codes + 2 * j * bytes, &x[i], bias, y + i * rows * ldy,
                            ldy);
        }
    }
}

void sq_rounded_init_avx2_tiles(sq_kernels *k) {
    k->int_tile = int_tile;
    k->int_tiles = int_tiles;
    k->wide_inputs = 1;
}
