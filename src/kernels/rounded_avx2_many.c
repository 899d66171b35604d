/* Products of many rounded rows, AVX2: a piece's codes are unpacked once for up to 128 rows. 4-bit
 * codes times 8-bit inputs are bytes (maddubs: pairs at most 3840, eight of them still 16 bits);
 * all else are 16-bit numbers (madd: pairs in 32 bits, exact). */
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

enum {
    ROWS = SQ_MANY_ROWS,
    TILES = 32, /* whose sums stay in the cache */
    WIDE = SQ_MANY_PANELS * SQ_PANEL,
    STEP = 64, /* bytes of codes of a step: four columns in bytes or two in words, sixteen rows */
};

/* What grows over the pieces: sums of codes of a piece, and of pieces. */
typedef struct space {
    int32_t sums[TILES * ROWS][WIDE];
    float y[TILES * ROWS][WIDE];
    uint8_t codes[SQ_MANY_PANELS][SQ_PIECE / 2 * STEP];
} space;

/* Of one call: panels [panel0, panel0 + panels) of w, tiles of rows. */
typedef struct task {
    const sq_weight *w;
    int64_t panel0, panels, tiles;
    const sq_rounded *x;
    int words; /* inputs and codes as 16-bit numbers */
} task;

static inline __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void store(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

/* Four columns of eight rows as bytes: two columns each as words, or as they are. */
static inline uint8_t *put_four(uint8_t *to, __m256i low, __m256i high, int words) {
    const __m256i first =
        _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4,
                         -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m256i second =
        _mm256_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, 2, -1, 3, -1,
                         6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    if (words) {
        store(to, _mm256_shuffle_epi8(low, first));
        store(to + 32, _mm256_shuffle_epi8(high, first));
        to += STEP;
        low = _mm256_shuffle_epi8(low, second);
        high = _mm256_shuffle_epi8(high, second);
    }
    store(to, low);
    store(to + 32, high);
    return to + STEP;
}

static void unpack(const sq_weight *w, const uint8_t *from, int64_t columns, int words,
                   uint8_t *to) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int64_t c = 0; c < columns; c += 4, from += STEP) {
        __m256i a = load(from), b = load(from + 32);
        if (w->kind == SQ_W_Q4) { /* eight columns */
            to = put_four(to, _mm256_and_si256(a, low), _mm256_and_si256(b, low), words);
            a = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
            b = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);
            c += 4;
        }
        to = put_four(to, a, b, words);
    }
}

/* In place: left to itself, gcc moves the additions behind all products and spills. */
#define GROW(add, s, v)                                                                            \
    {                                                                                              \
        __m256i more = v;                                                                          \
        __asm__(add " %1, %0, %0" : "+x"(s) : "x"(more));                                          \
    }
#define EACH_ROW(M) M(0) M(1) M(2) M(3)

#define START(i)                                                                                   \
    __m256i a##i = first ? _mm256_setzero_si256() : load(d[i]);                                    \
    __m256i b##i = first ? a##i : load(d[i] + 8);
#define ADD_WORDS(i)                                                                               \
    {                                                                                              \
        __m256i v = v_four(x + 4 * i);                                                             \
        GROW("vpaddd", a##i, _mm256_madd_epi16(p, v))                                              \
        GROW("vpaddd", b##i, _mm256_madd_epi16(q, v))                                              \
    }
#define KEEP(i)                                                                                    \
    store(d[i], a##i);                                                                             \
    store(d[i] + 8, b##i);

/* d[row][16] = (first: 0, else what it was) + sums of codes times x[steps][row][2 words]. */
static void tile_words(int64_t steps, const uint8_t *w, const int8_t *x, int first,
                       int32_t d[][WIDE]) {
    EACH_ROW(START)
    for (int64_t k = 0; k < steps; k++, w += STEP, x += 4 * ROWS) {
        const __m256i p = load(w), q = load(w + 32);
        EACH_ROW(ADD_WORDS)
    }
    EACH_ROW(KEEP)
}

#define FIRST_BYTES(i)                                                                             \
    __m256i s##i, t##i;                                                                            \
    {                                                                                              \
        __m256i v = v_four(x + 4 * i);                                                             \
        s##i = _mm256_maddubs_epi16(p, v);                                                         \
        t##i = _mm256_maddubs_epi16(q, v);                                                         \
    }
#define ADD_BYTES(i)                                                                               \
    {                                                                                              \
        __m256i v = v_four(x + 4 * i);                                                             \
        GROW("vpaddw", s##i, _mm256_maddubs_epi16(p, v))                                           \
        GROW("vpaddw", t##i, _mm256_maddubs_epi16(q, v))                                           \
    }
#define WIDEN(i)                                                                                   \
    s##i = _mm256_madd_epi16(s##i, one);                                                           \
    t##i = _mm256_madd_epi16(t##i, one);                                                           \
    store(d[i], first ? s##i : _mm256_add_epi32(s##i, load(d[i])));                                \
    store(d[i] + 8, first ? t##i : _mm256_add_epi32(t##i, load(d[i] + 8)));

/* The same of up to eight steps, of x[steps][row][4 bytes]. */
static inline __attribute__((always_inline)) void
eight_steps(int64_t steps, const uint8_t *w, const int8_t *x, int first, int32_t d[][WIDE]) {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i p = load(w), q = load(w + 32);
    EACH_ROW(FIRST_BYTES)
    for (int64_t k = 1; k < steps; k++) {
        w += STEP;
        x += 4 * ROWS;
        p = load(w);
        q = load(w + 32);
        EACH_ROW(ADD_BYTES)
    }
    EACH_ROW(WIDEN)
}

static void tile_bytes(int64_t steps, const uint8_t *w, const int8_t *x, int first,
                       int32_t d[][WIDE]) {
    for (; steps >= 8; steps -= 8, w += 8 * STEP, x += 32 * ROWS, first = 0) {
        eight_steps(8, w, x, first, d);
    }
    if (steps > 0) {
        eight_steps(steps, w, x, first, d);
    }
}

/* Piece p of x is over: its sums, less what the zero points take, times the scales. */
static inline __attribute__((always_inline)) void finish(const sq_weight *w, int64_t at,
                                                         const sq_rounded *x, int64_t p,
                                                         const int32_t d[][WIDE], float y[][WIDE],
                                                         int planes) {
    const int32_t *sums = x->sums + p * ROWS;
    for (int h = 0; h < SQ_PANEL; h += VN) {
        __m256i zero = _mm256_set1_epi32(sq_weight_middle(w));
        V scale = w->half == NULL ? v_load(w->scales + at + h) : v_f16(w->half + at + h);
        if (w->zeros != NULL) {
            const __m128i *from = (const __m128i *)(const void *)(w->zeros + at + h);
            zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from));
        }
        for (int r = 0; r < ROWS; r++) {
            __m256i less = _mm256_mullo_epi32(zero, _mm256_set1_epi32(sums[r]));
            V f = _mm256_cvtepi32_ps(_mm256_sub_epi32(load(d[r] + h), less));
            f = planes == 2 ? v_mul(v_set1(x->scales[p * ROWS + r]), f) : f;
            V acc = v_fma(scale, f, p == 0 ? v_set1(0.0f) : v_load(y[r] + h));
            if (w->offsets != NULL) {
                acc = v_fma(v_load(w->offsets + at + h), v_set1(x->worth[p * ROWS + r]), acc);
            }
            v_store(y[r] + h, acc);
        }
    }
}

/* Adds what is common to a row's pieces, and writes rows that are, and columns. */
static void give(const task *t, int64_t rows, const float *bias, float *y, int64_t ldy, space *s) {
    const sq_weight *w = t->w;
    int64_t first = t->panel0 * SQ_PANEL, n = w->n - first, all = t->panels * SQ_PANEL;
    n = n < all ? n : all;
    for (int64_t i = 0; i < rows; i++) {
        const sq_rounded *x = &t->x[i / ROWS];
        int64_t r = i % ROWS;
        for (int64_t c = 0; c < all; c += VN) {
            V v = v_load(s->y[i] + c);
            v = x->planes == 1 ? v_mul(v, v_set1(x->scales[r])) : v;
            v = x->zeros == NULL ? v : v_nfma(v_set1(x->zeros[r]), v_load(w->sums + first + c), v);
            int64_t left = n - c < VN ? n - c : VN;
            if (left > 0) {
                v = bias == NULL ? v : v_add(v, v_load_part(bias + first + c, left));
                v_store_part(y + i * ldy + first + c, v, left);
            }
        }
    }
}

/* Chunk c of the columns, of a piece of x, times all tiles. */
static inline __attribute__((always_inline)) void chunk(const task *t, int64_t c, space *s,
                                                        int planes) {
    const sq_weight *w = t->w;
    int64_t columns = sq_weight_stride(w), together = sq_weight_pieces(w) / t->x->pieces;
    int64_t p = c / together, g = c / sq_weight_split(w), steps = columns / (t->words ? 2 : 4);
    int64_t bytes = columns * SQ_PANEL / (w->kind == SQ_W_Q4 ? 2 : 1);
    int first = c % together == 0, last = c % together == together - 1;
    for (int64_t j = 0; j < t->panels; j++) {
        const uint8_t *from = sq_weight_panel(w, t->panel0 + j) + c * bytes;
        unpack(w, from, columns, t->words, s->codes[j]);
    }
    for (int64_t i = 0; i < t->tiles; i++) {
        const int8_t *x = t->x[i].codes + c * steps * 4 * ROWS;
        for (int64_t j = 0; j < t->panels; j++) {
            int32_t(*d)[WIDE] = (int32_t(*)[WIDE])(s->sums[i * ROWS] + j * SQ_PANEL);
            float(*y)[WIDE] = (float(*)[WIDE])(s->y[i * ROWS] + j * SQ_PANEL);
            (t->words ? tile_words : tile_bytes)(steps, s->codes[j], x, first, d);
            if (last) {
                int64_t at = ((t->panel0 + j) * sq_weight_groups(w) + g) * SQ_PANEL;
                finish(w, at, &t->x[i], p, (const int32_t(*)[WIDE])d, y, planes);
            }
        }
    }
}

static void int_tiles(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                      int64_t rows, const float *bias, float *y, int64_t ldy) {
    space s;
    for (int64_t i = 0; i < rows; i += TILES * ROWS, x += TILES) {
        int64_t m = rows - i < TILES * ROWS ? rows - i : TILES * ROWS;
        task t = {w, panel0, panels, sq_ceil_div(m, ROWS), x, sq_many_words(w, x->planes)};
        for (int64_t c = 0; c < sq_weight_pieces(w); c++) {
            if (x->planes == 2) {
                chunk(&t, c, &s, 2);
            } else {
                chunk(&t, c, &s, 1);
            }
        }
        give(&t, m, bias, y + i * ldy, ldy, &s);
    }
}

void sq_rounded_init_avx2_many(sq_kernels *k) { k->int_tiles = int_tiles; }
