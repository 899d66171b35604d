/* Products with rounded inputs, AMX: tiles of 16 rows of inputs times steps of 64 columns of a
 * panel, unpacked once for all rows as signed bytes. Sums of whole pieces leave the tiles through
 * memory and are added up in f32 as everywhere. All rows and panels visit a part of the columns
 * before the next one, so that inputs come from the third level of the cache once a call and codes
 * stay in the first two (docs/PERFORMANCE.md). */
#include <string.h>

#include "kernels/rounded_avx512.h"
#include "kernels/tiles_amx.h"

enum {
    PAIR = 2,        /* panels at once */
    SHORT_STEPS = 4, /* of a part whose pieces have one or two steps */
    LONG_STEPS = 12, /* of a part of a longer piece */
    CELLS = 16 * 16, /* of a tile of sums */
    BLOCK = 2 * PAIR /* tiles of sums of a visit */
};

/* A call, and the part of the columns that is visited: some pieces (of those that have one scale of
 * the inputs), or some steps of one. */
typedef struct call {
    const sq_weight *w;
    const sq_rounded *x;
    const float *bias;
    float *y;
    int64_t ldy, rows, tiles;
    int64_t panel0, panels, pairs, strips; /* strips: of two tiles, or of one of two planes */
    int64_t stride, stored;   /* of the weights' own pieces, and of all: sq_weight_columns */
    int64_t groups, split;    /* of them; own pieces of one */
    int64_t together;         /* pieces of a group that have a scale of the inputs */
    int64_t steps;            /* of a piece */
    int64_t piece, pieces;    /* the part's */
    int64_t step, step_count; /* of each of its pieces */
    int8_t *codes;            /* [pairs][pieces][step_count][PAIR][SQ_TILE_BYTES] */
    float *acc;               /* [strips][pairs][BLOCK][CELLS] */
    int32_t *sums;            /* long pieces: as acc; else [SHORT_STEPS][BLOCK][CELLS] */
} call;

/* One strip of rows, one pair of panels, and the part. */
typedef struct visit {
    int64_t strip, pair;
    float *acc;
    int32_t *sums; /* [pieces][BLOCK][CELLS] */
} visit;

/* ---- codes ---- */

/* 64 columns of a panel from q on, of which `columns` are stored, less `zero` (bytes). */
static inline __attribute__((always_inline)) void
unpack(int bits, const uint8_t *q, int64_t columns, __m512i zero, int8_t *to) {
    const __m512i low = _mm512_set1_epi8(15);
    int64_t c = 0;
    for (; bits == 8 && c < columns; c += 4, q += 64, to += 64) {
        _mm512_store_si512(to, _mm512_sub_epi8(_mm512_loadu_si512(q), zero));
    }
    for (; c < columns; c += 8, q += 64, to += 128) {
        __m512i v = _mm512_loadu_si512(q), high = _mm512_srli_epi16(v, 4);
        _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(v, low), zero));
        _mm512_store_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(high, low), zero));
    }
    for (; c < SQ_STEP; c += 4, to += 64) {
        _mm512_store_si512(to, _mm512_setzero_si512());
    }
}

static int64_t second_panel(const call *a, int64_t pair) {
    int64_t j = pair * PAIR + 1;
    return a->panel0 + (j < a->panels ? j : j - 1);
}

/* The part's steps of a panel: less its zero points where a byte holds that, else less 128. */
static inline __attribute__((always_inline)) void unpack_steps(int bits, const call *a,
                                                               int64_t panel, int8_t *to) {
    const sq_weight *w = a->w;
    const int64_t first = a->piece * a->steps + a->step, count = a->pieces * a->step_count;
    const int64_t at = panel * a->groups * SQ_PANEL, steps = sq_weight_steps(w);
    const uint8_t *q = sq_weight_panel(w, panel);
    int64_t p = first / steps, s = first % steps, g = p / a->split, in = p % a->split;
    for (int64_t i = 0; i < count; i++, to += PAIR * SQ_TILE_BYTES) {
        const __m512i zero = zeros_at(w, bits, at + g * SQ_PANEL);
        const int64_t begin = p * a->stride + s * SQ_STEP,
                      end = s + 1 == steps ? a->stride : (s + 1) * SQ_STEP;
        const int64_t left = a->stored - begin, own = end - s * SQ_STEP;
        unpack(bits, q + begin * 2 * bits, left < own ? left : own,
               bits == 8 ? _mm512_set1_epi8((char)128)
                         : _mm512_mullo_epi32(zero, _mm512_set1_epi32(0x01010101)),
               to);
        if (++s == steps) {
            s = 0;
            p++;
            in = in + 1 == a->split ? 0 : in + 1;
            g += in == 0;
        }
    }
}

static void unpack_part(const call *a) {
    int8_t *to = a->codes;
    for (int64_t j = 0; j < a->pairs; j++) {
        const int64_t one = a->panel0 + j * PAIR, two = second_panel(a, j);
        if (a->w->kind == SQ_W_Q4) {
            unpack_steps(4, a, one, to);
            unpack_steps(4, a, two, to + SQ_TILE_BYTES);
        } else {
            unpack_steps(8, a, one, to);
            unpack_steps(8, a, two, to + SQ_TILE_BYTES);
        }
        to += a->pieces * a->step_count * PAIR * SQ_TILE_BYTES;
    }
}

/* ---- sums ---- */

#define EACH_OF_EIGHT(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define START(i) __m512 f##i = first ? _mm512_setzero_ps() : _mm512_load_ps(acc + (i)*16);
#define ADD(i)                                                                                     \
    {                                                                                              \
        __m512i v = _mm512_load_si512(from + (i)*16);                                              \
        if (planes == 2) {                                                                         \
            const __m512i high = _mm512_load_si512(from + PAIR * CELLS + (i)*16);                  \
            v = _mm512_add_epi32(v, _mm512_slli_epi32(high, 8));                                   \
        }                                                                                          \
        if (more && zeros) {                                                                       \
            const __m512i sum = _mm512_set1_epi32(x->sums[at + (i)]);                              \
            v = _mm512_sub_epi32(v, _mm512_mullo_epi32(zero, sum));                                \
        }                                                                                          \
        f##i = finish(planes, scale, v, x->scales[planes == 2 ? at + (i) : 0], f##i);              \
        if (more && w->offsets != NULL) {                                                          \
            f##i = _mm512_fmadd_ps(offset, _mm512_set1_ps(x->worth[at + (i)]), f##i);              \
        }                                                                                          \
    }
#define KEEP(i) _mm512_store_ps(acc + (i)*16, f##i);
#define PUT(i)                                                                                     \
    if (i < left) {                                                                                \
        put(planes, w, panel, x, row + i, a->bias, y, a->ldy, f##i);                               \
    }

/* Adds the part's pieces up: panel j of the pair. more: weights have offsets, or zero points that
 * codes were not freed of. */
static inline __attribute__((always_inline)) void add_panel(int planes, int more, const call *a,
                                                            const visit *d, int j) {
    const sq_weight *w = a->w;
    const int64_t panel = j == 0 ? a->panel0 + d->pair * PAIR : second_panel(a, d->pair);
    const int64_t first_group = a->together == 1 ? a->piece : a->piece / a->together;
    const int64_t in_group = a->together == 1 ? 0 : a->piece % a->together;
    const int first = a->piece == 0, last = a->piece + a->pieces == a->x->pieces;
    const int nobodys = j == 1 && d->pair * PAIR + 1 == a->panels;
    const int zeros = w->kind == SQ_W_Q8 && w->zeros != NULL;
    for (int t = 0; t < (planes == 1 ? 2 : 1); t++) {
        const int64_t tile = planes == 1 ? d->strip * 2 + t : d->strip;
        const sq_rounded *x = a->x + (tile < a->tiles ? tile : 0);
        const int32_t *sums = d->sums + (t * PAIR + j) * CELLS;
        float *acc = d->acc + (t * PAIR + j) * CELLS, *y = a->y + tile * SQ_MANY_ROWS * a->ldy;
        for (int row = 0; row < SQ_MANY_ROWS; row += 8, acc += 8 * 16) {
            int64_t group = (panel * a->groups + first_group) * SQ_PANEL, in = in_group;
            EACH_OF_EIGHT(START)
            for (int64_t p = 0; p < a->pieces; p++) {
                const int64_t at = (a->piece + p) * SQ_MANY_ROWS + row;
                const int32_t *from = sums + p * BLOCK * CELLS + row * 16;
                const __m512 scale = scales_at(w, group);
                const __m512 offset =
                    more && w->offsets != NULL ? _mm512_loadu_ps(w->offsets + group) : scale;
                const __m512i zero =
                    _mm512_sub_epi32(zeros_at(w, 8, group), _mm512_set1_epi32(128));
                EACH_OF_EIGHT(ADD)
                if (++in == a->together) {
                    in = 0;
                    group += SQ_PANEL;
                }
            }
            if (!last) {
                EACH_OF_EIGHT(KEEP)
                continue;
            }
            const int64_t left = nobodys ? 0 : a->rows - tile * SQ_MANY_ROWS - row;
            EACH_OF_EIGHT(PUT)
        }
    }
}

/* ---- products ---- */

/* The part's first step for a strip: of two tiles of inputs, or of both planes of one. */
static void inputs_of(const call *a, int64_t strip, const int8_t *v[2]) {
    const int64_t at = a->piece * a->steps + a->step, planes = a->x->planes;
    if (planes == 2) {
        v[0] = a->x[strip].codes + 2 * at * SQ_TILE_BYTES;
        v[1] = v[0] + a->steps * SQ_TILE_BYTES;
        return;
    }
    int64_t second = 2 * strip + 1 < a->tiles ? 2 * strip + 1 : 2 * strip;
    v[0] = a->x[2 * strip].codes + at * SQ_TILE_BYTES;
    v[1] = a->x[second].codes + at * SQ_TILE_BYTES;
}

/* Pieces of one or two steps. While two tiles of sums are added to, the two before are stored. */
static void short_visit(const call *a, const visit *d, const int8_t *q) {
    enum { NEXT = SQ_TILE_BYTES, STEP = PAIR * SQ_TILE_BYTES };
    const int two = a->steps == 2;
    const int64_t skip = a->x->planes * a->steps * SQ_TILE_BYTES;
    int32_t *to = d->sums, *last = to;
    const int8_t *v[2];
    inputs_of(a, d->strip, v);
    for (int64_t p = 0; p < a->pieces; p++, q += a->steps * STEP, to += BLOCK * CELLS) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_loadd(4, v[0], 64);
        _tile_loadd(6, q, 64);
        _tile_loadd(7, q + NEXT, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_stored(2, last + 2 * CELLS, 64); /* the first time nothing: overwritten */
        if (two) {
            _tile_loadd(5, v[0] + NEXT, 64);
            _tile_loadd(6, q + STEP, 64);
            _tile_loadd(7, q + STEP + NEXT, 64);
            _tile_dpbssd(0, 5, 6);
            _tile_dpbssd(1, 5, 7);
        }
        _tile_stored(3, last + 3 * CELLS, 64);
        _tile_zero(2);
        _tile_zero(3);
        if (two) {
            _tile_loadd(5, v[1] + NEXT, 64);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
            _tile_loadd(6, q, 64);
            _tile_loadd(7, q + NEXT, 64);
        }
        _tile_stored(0, to, 64);
        _tile_loadd(4, v[1], 64);
        _tile_dpbssd(2, 4, 6);
        _tile_dpbssd(3, 4, 7);
        _tile_stored(1, to + CELLS, 64);
        last = to;
        v[0] += skip;
        v[1] += skip;
    }
    _tile_stored(2, last + 2 * CELLS, 64);
    _tile_stored(3, last + 3 * CELLS, 64);
}

/* Some steps of a piece. */
static void long_visit(const call *a, const visit *d, const int8_t *q) {
    int32_t *to = d->sums;
    const int8_t *v[2];
    inputs_of(a, d->strip, v);
    if (a->step == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, to, 64);
        _tile_loadd(1, to + CELLS, 64);
        _tile_loadd(2, to + 2 * CELLS, 64);
        _tile_loadd(3, to + 3 * CELLS, 64);
    }
    for (int64_t s = 0; s < a->step_count; s++, q += PAIR * SQ_TILE_BYTES) {
        _tile_loadd(4, v[0] + s * SQ_TILE_BYTES, 64);
        _tile_loadd(6, q, 64);
        _tile_loadd(7, q + SQ_TILE_BYTES, 64);
        _tile_loadd(5, v[1] + s * SQ_TILE_BYTES, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, to, 64);
    _tile_stored(1, to + CELLS, 64);
    _tile_stored(2, to + 2 * CELLS, 64);
    _tile_stored(3, to + 3 * CELLS, 64);
}

/* All rows and panels times the part. */
static inline __attribute__((always_inline)) void visit_part(int planes, int more, const call *a) {
    const int64_t size = a->pieces * a->step_count * PAIR * SQ_TILE_BYTES;
    for (int64_t n = 0, strip = 0, pair = 0; strip < a->strips; n++) {
        const int8_t *q = a->codes + pair * size;
        const visit d = {strip, pair, a->acc + n * BLOCK * CELLS,
                         a->sums + (a->steps <= 2 ? 0 : n * BLOCK * CELLS)};
        if (a->steps <= 2) {
            short_visit(a, &d, q);
        } else {
            long_visit(a, &d, q);
        }
        if (a->step + a->step_count == a->steps) {
            add_panel(planes, more, a, &d, 0);
            add_panel(planes, more, a, &d, 1);
        }
        pair = pair + 1 == a->pairs ? 0 : pair + 1;
        strip += pair == 0;
    }
}

#define PART(planes, more)                                                                         \
    static void part_##planes##_##more(const call *a) { visit_part(planes, more, a); }
PART(1, 0)
PART(1, 1)
PART(2, 0)
PART(2, 1)

/* Part after part of the columns. */
static void visit_all(call *a) {
    static void (*const parts[2][2])(const call *) = {{part_1_0, part_1_1}, {part_2_0, part_2_1}};
    const int more = a->w->offsets != NULL || (a->w->kind == SQ_W_Q8 && a->w->zeros != NULL);
    const int64_t pieces = a->x->pieces;
    const int64_t most = a->steps <= 2 ? SHORT_STEPS / a->steps : 1;
    for (a->piece = 0; a->piece < pieces; a->piece += a->pieces) {
        a->pieces = pieces - a->piece < most ? pieces - a->piece : most;
        for (a->step = 0; a->step < a->steps; a->step += a->step_count) {
            const int64_t left = a->steps - a->step;
            a->step_count = a->steps <= 2 || left < LONG_STEPS ? left : LONG_STEPS;
            unpack_part(a);
            sq_tiles_settle();
            parts[a->x->planes - 1][more](a);
        }
    }
}

static int int_many(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                    int64_t rows, const float *bias, float *y, int64_t ldy) {
    enum { FLOATS = SQ_TILE_BYTES / 4 };
    call a = {
        .w = w,
        .x = x,
        .bias = bias,
        .y = y,
        .ldy = ldy,
        .rows = rows,
        .panel0 = panel0,
        .panels = panels,
        .tiles = sq_ceil_div(rows, SQ_MANY_ROWS),
        .pairs = sq_ceil_div(panels, PAIR),
        .stride = sq_weight_stride(w),
        .stored = sq_weight_columns(w),
        .groups = sq_weight_groups(w),
        .split = sq_weight_split(w),
        .together = x->pieces / sq_weight_groups(w),
        .steps = sq_weight_pieces(w) / x->pieces * sq_weight_steps(w),
    };
    a.strips = x->planes == 1 ? sq_ceil_div(a.tiles, 2) : a.tiles;
    const int64_t cells = a.strips * a.pairs * BLOCK * CELLS;
    const int64_t codes =
        a.pairs * PAIR * (SHORT_STEPS > LONG_STEPS ? SHORT_STEPS : LONG_STEPS) * FLOATS;
    const int64_t sums = a.steps <= 2 ? SHORT_STEPS * BLOCK * CELLS : cells;
    float *space = sq_thread_scratch(1, (size_t)(codes + sums + cells));
    if (space == NULL) {
        return 0;
    }
    a.codes = (int8_t *)space;
    a.sums = (int32_t *)(void *)(space + codes);
    a.acc = space + codes + sums;
    sq_tiles_begin(SQ_TILE_ROWS, SQ_TILE_ROWS);
    visit_all(&a);
    sq_tiles_end();
    return 1;
}

void sq_rounded_init_amx(sq_kernels *k) { k->int_many = int_many; }

void sq_kernels_init_amx(sq_kernels *k) {
    sq_rounded_init_amx(k);
    sq_bf16_init_amx(k);
    sq_kv_init_amx(k);
}
