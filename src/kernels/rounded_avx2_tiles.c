/* Products with rounded inputs, AVX2. 4-bit codes times 8-bit inputs are bytes (maddubs: pairs at
 * most 3840, eight of them still 16 bits); all else are 16-bit numbers (madd: pairs in 32 bits,
 * exact). Of many rows a piece's codes are unpacked once; a few take them as they come. */
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

enum {
    ROWS = SQ_TILE_ROWS,
    TILES = 32, /* whose sums stay in the cache */
    WIDE = SQ_TILE_PANELS * SQ_PANEL,
    STEP = 64, /* bytes of codes of a step: four columns in bytes or two in words, sixteen rows */
    AHEAD = 2048, /* bytes that few rows fetch before they come to them */
};

/* A panel's piece: unpacked codes [steps][16 rows], what the codes are multiplied by, and the zero
 * points z as pairs (z, 128 z) of 16 bits. */
typedef struct panel {
    float scales[SQ_PANEL];
    int32_t zeros[SQ_PANEL];
    const float *offsets; /* [16]; NULL: none */
    uint8_t codes[SQ_PIECE / 2 * STEP];
} panel;

/* What grows over the pieces: sums of codes within one, where it is longer than what is unpacked at
 * once, and of pieces. */
typedef struct space {
    int32_t sums[TILES * ROWS][WIDE];
    float y[TILES * ROWS][WIDE];
    panel panels[SQ_TILE_PANELS];
} space;

/* Of one call: panels [panel0, panel0 + count) of w, tiles of rows. */
typedef struct task {
    const sq_weight *w;
    int64_t panel0, panels, tiles;
    const sq_rounded *x;
    int words, bits; /* whether inputs are 16-bit numbers; of a code */
} task;

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

static void unpack(int bits, int words, int64_t columns, const uint8_t *from, uint8_t *to) {
    for (const uint8_t *end = from + columns * SQ_PANEL * bits / 8; from < end; from += STEP) {
        for (int h = 0; h < STEP; h += 32) {
            __m256i v = load(from + h);
            for (int i = 0; words && i < 16 / bits; i++) {
                store(to + i * STEP + h, bits == 4 ? pair_of_codes(v, i) : pair(v, i));
            }
            if (!words) {
                store(to + h, low_bytes(v));
                store(to + STEP + h, high_bytes(v));
            }
        }
        to += (words ? 16 / bits : 2) * STEP;
    }
}

/* What a panel's piece adds to a tile of rows. */
typedef struct product {
    const panel *w;
    const sq_rounded *x;
    int64_t p, steps;
    const int8_t *codes; /* of x */
    int first, last;     /* of the piece */
    int32_t (*sums)[WIDE];
    float (*y)[WIDE];
} product;

/* What eight rows' sums start from: what the zero points take, or what went before. Minus a sum of
 * inputs (below 2^22) as a pair is multiplied by (z, 128 z). */
static inline __attribute__((always_inline)) __m256i begin(product q, int row, int h, int first) {
    if (!first) {
        return load(q.sums[row] + h);
    }
    int32_t s = -q.x->sums[q.p * q.x->rows + row];
    s = (int32_t)((uint32_t)(s >> 7) << 16 | (uint32_t)(s & 127));
    return _mm256_madd_epi16(load(q.w->zeros + h), _mm256_set1_epi32(s));
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
    V acc = v_fma(v_load(q.w->scales + h), f, v_load(y));
    if (q.w->offsets != NULL) {
        acc = v_fma(v_load(q.w->offsets + h), v_set1(x->worth[q.p * x->rows + row]), acc);
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
#define BEGIN(i) __m256i a##i = begin(q, i, 0, first), b##i = begin(q, i, 8, first);
#define ADD_WORDS(i)                                                                               \
    {                                                                                              \
        __m256i v = v_four(x + 4 * i);                                                             \
        GROW("vpaddd", a##i, _mm256_madd_epi16(c, v))                                              \
        GROW("vpaddd", b##i, _mm256_madd_epi16(e, v))                                              \
    }
#define END(i)                                                                                     \
    keep(q, i, 0, last, planes, a##i);                                                             \
    keep(q, i, 8, last, planes, b##i);

/* Of n rows. */
#define BEGIN_SOME(i)                                                                              \
    __m256i a##i = i < n ? begin(q, i, 0, first) : _mm256_setzero_si256();                         \
    __m256i b##i = i < n ? begin(q, i, 8, first) : a##i;
#define ADD_SOME_WORDS(i)                                                                          \
    if (i < n) {                                                                                   \
        ADD_WORDS(i)                                                                               \
    }
#define END_SOME(i)                                                                                \
    if (i < n) {                                                                                   \
        END(i)                                                                                     \
    }

/* Of x[steps][row][2 words]. */
static inline __attribute__((always_inline)) void words(product q, int first, int last,
                                                        int planes) {
    const uint8_t *w = q.w->codes;
    const int8_t *x = q.codes;
    EACH_ROW(BEGIN)
    for (int64_t k = q.steps; k > 0; k--, w += STEP, x += 4 * ROWS) {
        const __m256i c = load(w), e = load(w + 32);
        EACH_ROW(ADD_WORDS)
    }
    EACH_ROW(END)
}

#define FIRST_BYTES(i)                                                                             \
    __m256i s##i, t##i;                                                                            \
    {                                                                                              \
        __m256i v = v_four(x + 4 * i);                                                             \
        s##i = _mm256_maddubs_epi16(c, v);                                                         \
        t##i = _mm256_maddubs_epi16(e, v);                                                         \
    }
#define ADD_BYTES(i)                                                                               \
    {                                                                                              \
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

/* Of x[steps][row][4 bytes], up to eight steps. */
static inline __attribute__((always_inline)) void
eight_steps(product q, int64_t steps, const uint8_t *w, const int8_t *x, int first, int last) {
    enum { planes = 1 };
    const __m256i one = _mm256_set1_epi16(1);
    __m256i c = load(w), e = load(w + 32);
    EACH_ROW(FIRST_BYTES)
    for (int64_t k = 1; k < steps; k++) {
        w += STEP;
        x += 4 * ROWS;
        c = load(w);
        e = load(w + 32);
        EACH_ROW(ADD_BYTES)
    }
    EACH_ROW(WIDEN)
}

static void tile_bytes(const product *q) {
    const uint8_t *w = q->w->codes;
    const int8_t *x = q->codes;
    int64_t left = q->steps;
    int first = q->first;
    for (; left > 8; left -= 8, w += 8 * STEP, x += 32 * ROWS, first = 0) {
        eight_steps(*q, 8, w, x, first, 0);
    }
    if (left == 8 && q->last) {
        eight_steps(*q, 8, w, x, first, 1);
    } else {
        eight_steps(*q, left, w, x, first, q->last);
    }
}

static void tile_words(const product *q) {
    if (q->first && q->last && q->x->planes == 2) {
        words(*q, 1, 1, 2);
    } else {
        words(*q, q->first, q->last, q->x->planes);
    }
}

/* n rows of 16-bit numbers, from packed codes: a word of a panel is eight columns or four. */
static inline __attribute__((always_inline)) void few_words(int n, product q, int bits, int planes,
                                                            const uint8_t *w) {
    const int first = q.first, last = q.last;
    const int8_t *x = q.codes, *end = x + 4 * n * q.steps;
    EACH_ROW(BEGIN_SOME)
    for (; x < end; w += STEP) {
        const __m256i packed[2] = {load(w), load(w + 32)};
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        for (int i = 0; i < 16 / bits; i++, x += 4 * n) {
            const __m256i c = bits == 4 ? pair_of_codes(packed[0], i) : pair(packed[0], i);
            const __m256i e = bits == 4 ? pair_of_codes(packed[1], i) : pair(packed[1], i);
            EACH_ROW(ADD_SOME_WORDS)
        }
    }
    EACH_ROW(END_SOME)
}

/* One or two rows of bytes times 4-bit codes. */
static inline __attribute__((always_inline)) void few_bytes(int n, product q, const uint8_t *w) {
    enum { planes = 1, WORDS = 4 }; /* whose sums fit 16 bits */
    const __m256i one = _mm256_set1_epi16(1);
    const int first = q.first, last = q.last;
    const int8_t *x = q.codes;
    EACH_ROW(BEGIN_SOME)
    for (int64_t left = q.steps / 2; left > 0; left -= WORDS) {
        __m256i s0 = _mm256_setzero_si256(), t0 = s0, s1 = s0, t1 = s0;
        for (int64_t i = left < WORDS ? left : WORDS; i > 0; i--, w += STEP) {
            const __m256i packed[2] = {load(w), load(w + 32)};
            _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
            for (int high = 0; high < 2; high++, x += 4 * n) {
                const __m256i c = high ? high_bytes(packed[0]) : low_bytes(packed[0]);
                const __m256i e = high ? high_bytes(packed[1]) : low_bytes(packed[1]);
                ADD_BYTES(0)
                if (n > 1) {
                    ADD_BYTES(1)
                }
            }
        }
        a0 = _mm256_add_epi32(a0, _mm256_madd_epi16(s0, one));
        b0 = _mm256_add_epi32(b0, _mm256_madd_epi16(t0, one));
        a1 = _mm256_add_epi32(a1, _mm256_madd_epi16(s1, one));
        b1 = _mm256_add_epi32(b1, _mm256_madd_epi16(t1, one));
    }
    EACH_ROW(END_SOME)
}

/* n rows times chunk codes of a panel. */
static inline __attribute__((always_inline)) void few(int n, const task *t, product q,
                                                      const uint8_t *codes) {
    if (!t->words) {
        few_bytes(n, q, codes);
    } else if (t->bits == 4) {
        few_words(n, q, 4, 2, codes);
    } else if (t->x->planes == 2) {
        few_words(n, q, 8, 2, codes);
    } else {
        few_words(n, q, 8, 1, codes);
    }
}

/* Adds what is common to a row's pieces, and writes the columns that are. */
static void give(const task *t, const sq_rounded *x, int row, const float *sums, const float *bias,
                 float *y) {
    const sq_weight *w = t->w;
    for (int64_t i = 0, c = t->panel0 * SQ_PANEL; i < t->panels * SQ_PANEL; i += VN, c += VN) {
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

/* Chunk c of the columns, as far as all panels and tiles have it in common. */
static product chunk_of(const task *t, int64_t c) {
    int64_t together = sq_weight_pieces(t->w) / t->x->pieces;
    return (product){.p = c / together,
                     .steps = sq_weight_stride(t->w) / (t->words ? 2 : 4),
                     .first = c % together == 0,
                     .last = c % together == together - 1};
}

static const uint8_t *packed_codes(const task *t, int64_t j, int64_t c) {
    int64_t bytes = sq_weight_stride(t->w) * SQ_PANEL * t->bits / 8;
    return sq_weight_panel(t->w, t->panel0 + j) + c * bytes;
}

/* What chunk c of panel j is multiplied by. */
static void take_scales(const task *t, int64_t j, int64_t c, panel *to) {
    const sq_weight *w = t->w;
    int64_t at = ((t->panel0 + j) * sq_weight_groups(w) + c / sq_weight_split(w)) * SQ_PANEL;
    to->offsets = w->offsets == NULL ? NULL : w->offsets + at;
    for (int i = 0; i < SQ_PANEL; i += VN) {
        __m256i z = _mm256_set1_epi32(sq_weight_middle(w));
        if (w->zeros != NULL) {
            const __m128i *from = (const __m128i *)(const void *)(w->zeros + at + i);
            z = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from));
        }
        store(to->zeros + i, _mm256_or_si256(z, _mm256_slli_epi32(z, 23)));
        v_store(to->scales + i,
                w->half == NULL ? v_load(w->scales + at + i) : v_f16(w->half + at + i));
    }
}

/* One tile, whose codes are unpacked in registers. */
static void few_rows(const task *t, int64_t rows, const float *bias, float *y, int64_t ldy) {
    int32_t sums[ROWS][WIDE] = {{0}};
    float own[ROWS][WIDE] = {{0}};
    panel scales;
    for (int64_t j = 0; j < t->panels; j++) {
        for (int64_t c = 0; c < sq_weight_pieces(t->w); c++) {
            product q = chunk_of(t, c);
            const uint8_t *codes = packed_codes(t, j, c);
            take_scales(t, j, c, &scales);
            q.w = &scales;
            q.x = t->x;
            q.codes = t->x->codes + 4 * c * q.steps * t->x->rows;
            q.sums = sums;
            q.y = (float(*)[WIDE])(own[0] + j * SQ_PANEL);
            if (t->x->rows == 1) {
                few(1, t, q, codes);
            } else if (t->x->rows == 2) {
                few(2, t, q, codes);
            } else {
                few(4, t, q, codes);
            }
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        give(t, t->x, (int)i, own[i], bias, y + i * ldy);
    }
}

/* Chunk c of the columns times all tiles. */
static void chunk(const task *t, int64_t c, space *s) {
    product q = chunk_of(t, c);
    for (int64_t j = 0; j < t->panels; j++) {
        take_scales(t, j, c, &s->panels[j]);
        unpack(t->bits, t->words, sq_weight_stride(t->w), packed_codes(t, j, c),
               s->panels[j].codes);
    }
    for (int64_t i = 0; i < t->tiles; i++) {
        q.x = &t->x[i];
        q.codes = q.x->codes + c * q.steps * 4 * ROWS;
        for (int64_t j = 0; j < t->panels; j++) {
            q.w = &s->panels[j];
            q.sums = (int32_t(*)[WIDE])(s->sums[i * ROWS] + j * SQ_PANEL);
            q.y = (float(*)[WIDE])(s->y[i * ROWS] + j * SQ_PANEL);
            (t->words ? tile_words : tile_bytes)(&q);
        }
    }
}

static void many_rows(const task *t, int64_t rows, const float *bias, float *y, int64_t ldy) {
    space s;
    memset(s.y, 0, (size_t)(t->tiles * ROWS) * sizeof *s.y);
    for (int64_t c = 0; c < sq_weight_pieces(t->w); c++) {
        chunk(t, c, &s);
    }
    for (int64_t i = 0; i < rows; i++) {
        give(t, &t->x[i / ROWS], (int)(i % ROWS), s.y[i], bias, y + i * ldy);
    }
}

static void int_tiles(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                      int64_t rows, const float *bias, float *y, int64_t ldy) {
    int words = sq_tile_words(w, x->planes), bits = w->kind == SQ_W_Q4 ? 4 : 8;
    if (x->rows < ROWS || (rows <= ROWS && words)) {
        few_rows(&(task){w, panel0, panels, 1, x, words, bits}, rows, bias, y, ldy);
        return;
    }
    for (int64_t i = 0; i < rows; i += TILES * ROWS, x += TILES) {
        int64_t m = rows - i < TILES * ROWS ? rows - i : TILES * ROWS;
        task t = {w, panel0, panels, sq_ceil_div(m, ROWS), x, words, bits};
        many_rows(&t, m, bias, y + i * ldy, ldy);
    }
}

void sq_rounded_init_avx2_tiles(sq_kernels *k) { k->int_tiles = int_tiles; }
