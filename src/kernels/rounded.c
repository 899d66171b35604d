/* Products with rounded inputs: exact sums of integers over pieces of the columns, then f32. Rows
 * of inputs are held in tiles of up to eight, interleaved, so that a kernel reads them and the
 * packed codes from front to end; the codes are unpacked in registers. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/internal.h"

enum {
    BLOCK_ROWS = 256,   /* rows of inputs held as integers at once, */
    MANY_ROWS = 512,    /* and int_many's, which unpacks the codes for them */
    TASK_PANELS = 4,    /* panels of one task at most, */
    MANY_PANELS = 16,   /* and of int_many's */
    RUNS = 4,           /* of a thread's share of a few rows */
    FEW_WORK = 1 << 18, /* products below this are not worth waking threads */
};

static int64_t block_rows(void) {
    return sq_kernels_get()->int_many != NULL ? MANY_ROWS : BLOCK_ROWS;
}

/* compressed_tensors quantization/utils/helpers.py calculate_qparams and lifecycle/forward.py, 8
 * bits, per token. Scale 0: a row of zeros; NaN: a number is none. */
static void choose_scale(const sq_kernels *kn, const float *x, int64_t k, int symmetric,
                         float *scale, float *zero) {
    float lo, hi;
    kn->range(x, k, &lo, &hi);
    float s = symmetric ? fmaxf(-lo, hi) / 127.5f : (hi - lo) / 255.0f;
    s = lo != lo || !isfinite(s) ? NAN : s;
    *scale = s;
    *zero = symmetric || !(s > 0) ? 0.0f : rintf(fminf(fmaxf(-128.0f - lo / s, -128.0f), 127.0f));
}

static float rounded_at(float x, float s, float z) {
    return !(s > 0) ? x : (rintf(fminf(fmaxf(x / s + z, -128.0f), 127.0f)) - z) * s;
}

void sq_fake_quantize_rows(float *x, int64_t ldx, int64_t rows, int64_t k, int symmetric) {
    const sq_kernels *kn = sq_kernels_get();
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (rows * k > 65536)
    for (int64_t r = 0; r < rows; r++) {
        float s, z, *row = x + r * ldx;
        choose_scale(kn, row, k, symmetric, &s, &z);
        for (int64_t i = 0; i < k; i++) {
            row[i] = rounded_at(row[i], s, z);
        }
    }
}

/* Where there is no memory for scratch: slow, and right. */
static void plain(const sq_product *q, sq_rounding how, const float *x, int64_t ldx, int64_t rows) {
    const sq_kernels *kn = sq_kernels_get();
    const sq_weight *w = q->w;
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (w->n * w->k > FEW_WORK)
    for (int64_t r = 0; r < w->n; r++) {
        for (int64_t i = 0; i < rows; i++) {
            float s = 0, z = 0, sum = 0;
            if (how != SQ_ROUND_16) {
                choose_scale(kn, x + i * ldx, w->k, how == SQ_ROUND_8_SYMMETRIC, &s, &z);
            }
            for (int64_t c = 0; c < w->k; c++) {
                sum += sq_weight_at(w, r, c) * rounded_at(x[i * ldx + c], s, z);
            }
            q->y[i * q->ldy + r] = sum + (q->bias == NULL ? 0.0f : q->bias[r]);
        }
    }
}

/* The same product from row `row` on. */
static sq_product from_row(const sq_product *q, int64_t row) {
    return (sq_product){q->w, q->bias, q->y + row * q->ldy, q->ldy};
}

/* Copies of rows of x, rounded to 8 bits; copy[rows][k]. */
static void copy_rounded(float *copy, const float *x, int64_t ldx, int64_t rows, int64_t k,
                         sq_rounding how) {
    for (int64_t r = 0; r < rows; r++) {
        memcpy(copy + r * k, x + r * ldx, (size_t)k * sizeof *copy);
    }
    sq_fake_quantize_rows(copy, k, rows, k, how == SQ_ROUND_8_SYMMETRIC);
}

/* In f32, over copies rounded to 8 bits where that is how. */
static void widened(const sq_product *q, sq_rounding how, const float *x, int64_t ldx,
                    int64_t rows) {
    const sq_weight *w = q->w;
    if (how == SQ_ROUND_16) {
        sq_matmul(w, x, ldx, rows, q->bias, q->y, q->ldy);
        return;
    }
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS) {
        int64_t m = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        float *copy = sq_thread_scratch(0, (size_t)(m * w->k));
        const sq_product part = from_row(q, i);
        if (copy == NULL) {
            plain(&part, how, x + i * ldx, ldx, m);
            continue;
        }
        copy_rounded(copy, x + i * ldx, ldx, m, w->k, how);
        sq_matmul(w, copy, w->k, m, q->bias, part.y, q->ldy);
    }
}

/* A block of rows as integers: tiles of `lanes` rows, one behind the other. */
typedef struct block {
    sq_rounded *tiles;
    float *zeros; /* [rows] scale * zero point, of rows rounded to 8 bits */
    int64_t rows;
    int words; /* inputs are 16-bit numbers */
    int many;  /* tiles are int_many's */
} block;

/* Columns of a tile's rows. */
static int64_t laid_columns(const block *b, const sq_weight *w) {
    return b->many ? sq_weight_pieces(w) * sq_weight_steps(w) * SQ_STEP : sq_weight_columns(w);
}

/* Lays a block out at `space` (64-byte aligned); returns the floats that it takes there, all that
 * it does where that is NULL. */
static size_t lay_out(block *b, const sq_weight *w, sq_rounding how, int64_t rows, float *space) {
    const sq_kernels *kn = sq_kernels_get();
    int planes = how == SQ_ROUND_16 ? 2 : 1, zeros = how == SQ_ROUND_8;
    int many = kn->int_many != NULL && rows >= SQ_MANY_FROM, wide = kn->wide_inputs;
    int words = !many && wide && sq_wide_inputs(w, planes);
    int bytes = words ? 2 : planes, most = wide ? SQ_WIDE_ROWS : 8 / planes;
    int lanes = many ? SQ_MANY_ROWS : rows >= most ? most : rows > 2 ? 4 : (int)rows;
    int64_t tiles = sq_ceil_div(rows, lanes), all = tiles * lanes;
    *b = (block){.rows = rows, .words = words, .many = many};
    int64_t columns = laid_columns(b, w), pieces = sq_scale_pieces(w, planes);
    int64_t together = sq_weight_pieces(w) / pieces;
    size_t codes = (size_t)(all * bytes * columns), numbers = (size_t)(all * pieces);
    size_t head = (size_t)sq_round_up(tiles * (int64_t)sizeof(sq_rounded), 64);
    size_t floats = (head + codes) / sizeof(float) + 3 * numbers + (size_t)all + 1;
    if (space == NULL) {
        return floats;
    }
    b->tiles = (sq_rounded *)(void *)space;
    int8_t *q = (int8_t *)space + head;
    float *f = (float *)(void *)(q + codes); /* columns are whole words */
    b->zeros = f + 3 * numbers;
    for (int64_t t = 0; t < tiles; t++, q += lanes * bytes * columns) {
        float *own = f + 3 * t * lanes * pieces;
        b->tiles[t] = (sq_rounded){.rows = lanes,
                                   .planes = planes,
                                   .pieces = pieces,
                                   .columns = together * sq_weight_stride(w),
                                   .stored = sq_weight_columns(w),
                                   .few = tiles <= 2,
                                   .codes = q,
                                   .zeros = zeros ? b->zeros + t * lanes : NULL,
                                   .scales = own,
                                   .worth = own + lanes * pieces,
                                   .sums = (int32_t *)(void *)(own + 2 * lanes * pieces)};
    }
    return floats;
}

/* One piece of one row: n numbers x as `planes` rows of codes[stride], their sum in *sum; its
 * scale. */
static float round_piece(const sq_kernels *kn, sq_rounding how, const float *x, int64_t n,
                         int64_t stride, float scale, float zero, int8_t *codes, int32_t *sum) {
    float lo = 0, hi = 0;
    if (how == SQ_ROUND_16) {
        kn->range(x, n, &lo, &hi);
    }
    float top = -lo > hi ? -lo : hi;
    int fine = lo == lo && isfinite(top), some = how == SQ_ROUND_16 ? top >= 1e-30f : scale > 0;
    *sum = 0;
    if (n < stride || !fine || !some) { /* below that the inverse may not be a number */
        memset(codes, 0, (size_t)(how == SQ_ROUND_16 ? 2 * stride : stride));
    }
    if (fine && some && n > 0) {
        *sum = how == SQ_ROUND_16 ? kn->round_i16(codes, codes + stride, x, 32512.0f / top, n)
                                  : kn->round_i8(codes, x, scale, zero, n);
    }
    return how != SQ_ROUND_16 ? scale : !fine ? NAN : some ? top / 32512.0f : 0.0f;
}

/* A piece's codes into row `row` of a tile, which interleaves its rows: four columns at a time, or
 * two of them as 16-bit numbers. */
static void lay_row(const sq_rounded *t, int words, int row, int64_t p, int64_t stride,
                    const int8_t *codes) {
    int lanes = t->rows * t->planes;
    int64_t end = sq_piece_stored(t->stored, stride, p);
    if (words) {
        int8_t *to = t->codes + (p * stride * t->rows + (int64_t)row * 2) * 2;
        int16_t both[SQ_PIECE];
        for (int64_t c = 0; c < end; c++) {
            both[c] = (int16_t)(codes[c] + (t->planes == 2 ? 256 * codes[stride + c] : 0));
        }
        for (int64_t c = 0; c < end; c += 4, to += 8 * t->rows) {
            memcpy(to, (int16_t[]){both[c], both[c + 2]}, 4);
            memcpy(to + 4 * t->rows, (int16_t[]){both[c + 1], both[c + 3]}, 4);
        }
        return;
    }
    for (int plane = 0; plane < t->planes; plane++) {
        const int8_t *q = codes + plane * stride;
        int8_t *to = t->codes + (p * stride * lanes + (int64_t)(plane * t->rows + row) * 4);
        for (int64_t c = 0; c < end; c += 8) {
            int32_t two[2];
            memcpy(two, q + c, 8);
            memcpy(to + c * lanes, &two[0], 4);
            memcpy(to + (c + 4) * lanes, &two[1], 4);
        }
    }
}

/* The same into a tile of int_many. */
static void lay_many(const sq_rounded *t, int row, int64_t p, int64_t stride, const int8_t *codes) {
    for (int64_t plane = 0; plane < t->planes; plane++) {
        for (int64_t c = 0; c < stride; c += SQ_STEP) {
            int8_t *to = t->codes +
                         ((p * t->planes + plane) * sq_ceil_div(stride, SQ_STEP) * SQ_STEP + c) *
                             SQ_MANY_ROWS +
                         row * SQ_STEP;
            int64_t n = stride - c < SQ_STEP ? stride - c : SQ_STEP;
            memcpy(to, codes + plane * stride + c, (size_t)n);
            memset(to + n, 0, (size_t)(SQ_STEP - n));
        }
    }
}

/* Row `at` of the block. */
static void round_row(const block *b, const sq_weight *w, sq_rounding how, const float *x,
                      int64_t at) {
    const sq_kernels *kn = sq_kernels_get();
    const sq_rounded *t = &b->tiles[at / b->tiles->rows];
    int row = (int)(at % t->rows);
    int64_t stride = sq_weight_stride(w);
    float scale = 0, zero = 0;
    if (how != SQ_ROUND_16) {
        choose_scale(kn, x, w->k, how == SQ_ROUND_8_SYMMETRIC, &scale, &zero);
    }
    b->zeros[at] = scale * zero;
    /* Of a piece: its first column, of which its group ends at `end`; those summed with it. */
    int64_t first = 0, end = w->group, together = t->columns / stride, left = together;
    int64_t i = row;
    t->sums[i] = 0;
    for (int64_t p = 0; first < w->k_padded; p++) {
        int8_t codes[2 * SQ_PIECE];
        float ordered[SQ_PIECE];
        int64_t n = end - first < stride ? end - first : stride;
        const float *from = x + first;
        n = first + n > w->k ? w->k - first : n;
        if (w->order != NULL) {
            for (int64_t c = 0; c < n; c++) {
                ordered[c] = x[w->order[first + c]];
            }
            from = ordered;
        }
        int32_t sum;
        float own = round_piece(kn, how, from, n, stride, scale, zero, codes, &sum);
        t->sums[i] += sum;
        t->worth[i] = (t->planes == 1 ? 1.0f : own) * (float)t->sums[i];
        t->scales[t->planes == 1 ? row : i] = own;
        if (b->many) {
            lay_many(t, row, p, stride, codes);
        } else {
            lay_row(t, b->words, row, p, stride, codes);
        }
        first += stride;
        if (first >= end) {
            first = end;
            end += w->group;
        }
        if (--left == 0 && first < w->k_padded) {
            left = together;
            i += t->rows;
            t->sums[i] = 0;
        }
    }
}

/* Rows of the last tile that are none: zeros. */
static void clear_rest(const block *b, const sq_weight *w) {
    int64_t tiles = sq_ceil_div(b->rows, b->tiles->rows);
    const sq_rounded *t = &b->tiles[tiles - 1];
    if (b->rows % t->rows != 0) {
        size_t numbers = (size_t)(t->rows * t->pieces);
        memset(t->codes, 0, (size_t)(t->rows * (b->words ? 2 : t->planes) * laid_columns(b, w)));
        memset(t->scales, 0, 3 * numbers * sizeof(float));
        memset(b->zeros + (tiles - 1) * t->rows, 0, (size_t)t->rows * sizeof *b->zeros);
    }
}

/* Panels of a task: a multiple of what kernels take at once. int_many reads all inputs for each
 * task, more than the second level of the cache holds: as many panels as leave work to balance. */
static int64_t task_panels(const block *b, int64_t all) {
    if (!b->many) {
        return b->tiles->planes == 2 ? TASK_PANELS : 3;
    }
    int64_t share = sq_round_up(all / (4 * sq_threads()), 2);
    return share < TASK_PANELS ? TASK_PANELS : share > MANY_PANELS ? MANY_PANELS : share;
}

/* Columns of panels [panel0, panel0 + panels) of every row of the block; 0 without memory. */
static int panel_products(const sq_product *q, const block *b, int64_t panel0, int64_t panels) {
    const sq_kernels *kn = sq_kernels_get();
    const sq_weight *w = q->w;
    float *y = q->y;
    int lanes = b->tiles->rows;
    int64_t lo = panel0 * SQ_PANEL,
            hi = lo + panels * SQ_PANEL < w->n ? lo + panels * SQ_PANEL : w->n;
    int64_t r = 0;
    if (b->many) {
        return kn->int_many(w, panel0, panels, b->tiles, b->rows, q->bias, y, q->ldy);
    }
    if (kn->int_tiles != NULL) {
        kn->int_tiles(w, panel0, panels, b->tiles, b->rows / lanes, q->bias, y, q->ldy);
        r = b->rows / lanes * lanes;
    }
    for (; r < b->rows; r += lanes) {
        const sq_rounded *t = &b->tiles[r / lanes];
        if (r + lanes <= b->rows) {
            kn->int_tile(w, panel0, panels, t, q->bias, y + r * q->ldy, q->ldy);
            continue;
        }
        float some[8][TASK_PANELS * SQ_PANEL];
        kn->int_tile(w, panel0, panels, t, q->bias, some[0] - lo, TASK_PANELS * SQ_PANEL);
        for (int64_t i = 0; r + i < b->rows; i++) {
            memcpy(y + (r + i) * q->ldy + lo, some[i], (size_t)(hi - lo) * sizeof *y);
        }
    }
    return 1;
}

int64_t sq_rounded_floats(int64_t rows, int64_t k) {
    int64_t held = rows < block_rows() ? rows : block_rows(), pieces = sq_ceil_div(k, SQ_PIECE);
    return held * (pieces * SQ_PIECE * 2 / (int64_t)sizeof(float) + 3 * pieces + 4);
}

static int of_integers(const sq_weight *w) { return w->kind == SQ_W_Q4 || w->kind == SQ_W_Q8; }

/* Whether inputs rounded for one serve the other. */
static int same_order(const sq_weight *a, const sq_weight *b) {
    return a->kind == b->kind && a->k == b->k && a->k_padded == b->k_padded &&
           a->group == b->group && a->order == b->order;
}

/* The next run of `all` units, [lo, hi); 0: none is left. A thread's share is RUNS of them. */
static int take_run(atomic_int *taken, int64_t all, int parts, int64_t *lo, int64_t *hi) {
    int64_t run = sq_ceil_div(all, (int64_t)parts * (parts > 1 ? RUNS : 1));
    *lo = run * atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
    *hi = *lo + run < all ? *lo + run : all;
    return *lo < all;
}

/* A share of products whose inputs are rounded alike. */
static void share_integers(const sq_product *q, int count, sq_rounding how, const float *x,
                           int64_t ldx, int64_t rows, int parts, atomic_int *taken, float *space) {
    block b;
    lay_out(&b, q->w, how, rows, space);
    clear_rest(&b, q->w);
    for (int64_t r = 0; r < rows; r++) {
        round_row(&b, q->w, how, x + r * ldx, r);
    }
    int64_t all = 0, most = rows % b.tiles->rows == 0 ? INT64_MAX : TASK_PANELS, lo, hi;
    for (int i = 0; i < count; i++) {
        all += sq_weight_panels(q[i].w);
    }
    while (take_run(taken, all, parts, &lo, &hi)) {
        int64_t begin = 0;
        for (int i = 0; i < count; begin += sq_weight_panels(q[i++].w)) {
            int64_t end = begin + sq_weight_panels(q[i].w);
            for (int64_t p = lo > begin ? lo : begin, n; p < end && p < hi; p += n) {
                n = (end < hi ? end : hi) - p;
                n = n < most ? n : most;
                panel_products(&q[i], &b, p - begin, n);
            }
        }
    }
}

/* The same of a dense matrix. */
static void share_dense(const sq_product *q, sq_rounding how, const float *x, int64_t ldx,
                        int64_t rows, int parts, atomic_int *taken, float *space) {
    const sq_weight *w = q->w;
    if (how != SQ_ROUND_16) {
        copy_rounded(space, x, ldx, rows, w->k, how);
        x = space;
        ldx = w->k;
    }
    for (int64_t lo, hi; take_run(taken, w->n, parts, &lo, &hi);) {
        sq_matmul_dots(w, x, ldx, rows, q->bias, q->y, q->ldy, lo, hi);
    }
}

int64_t sq_share_floats(const sq_weight *w, sq_rounding how, int64_t rows) {
    block b;
    return of_integers(w) ? (int64_t)lay_out(&b, w, how, rows, NULL) : rows * w->k;
}

/* How many products from the first on are of integers and take the same inputs; 0: it is dense. */
static int alike(const sq_product *q, int count) {
    int n = 0;
    while (n < count && of_integers(q[n].w) && same_order(q->w, q[n].w)) {
        n++;
    }
    return n;
}

void sq_matmul_share(const sq_product *q, int count, sq_rounding how, const float *x, int64_t ldx,
                     int64_t rows, int parts, atomic_int *taken, float *space) {
    for (int i = 0, n; i < count; i += n) {
        n = alike(q + i, count - i);
        if (n > 0) {
            share_integers(q + i, n, how, x, ldx, rows, parts, &taken[i], space);
        } else {
            share_dense(q + i, how, x, ldx, rows, parts, &taken[i], space);
            n = 1;
        }
    }
}

static int64_t work_of(const sq_product *q, int count, int64_t rows) {
    int64_t work = 0;
    for (int i = 0; i < count; i++) {
        work += q[i].w->n * q[i].w->k * rows;
    }
    return work;
}

/* One or two rows: sooner rounded by each thread than waited for. 0 without memory. */
static int few_products(const sq_product *q, int count, sq_rounding how, const float *x,
                        int64_t ldx, int64_t rows) {
    size_t floats = (size_t)sq_share_floats(q->w, how, rows);
    atomic_int taken = 0;
    int done = 1;
#pragma omp parallel num_threads(sq_threads()) reduction(&& : done) if (work_of(q, count, rows) > FEW_WORK)
    {
        float *space = sq_thread_scratch(2, floats);
        done = space != NULL;
        if (done) {
            share_integers(q, count, how, x, ldx, rows, omp_get_num_threads(), &taken, space);
        }
    }
    return done;
}

/* A block of rows of products whose inputs are rounded alike; 0 without memory. */
static int block_products(const sq_product *q, int count, sq_rounding how, const float *x,
                          int64_t ldx, int64_t rows) {
    block b;
    float *space = sq_thread_scratch(2, lay_out(&b, q->w, how, rows, NULL));
    if (space == NULL) {
        return 0;
    }
    lay_out(&b, q->w, how, rows, space);
    clear_rest(&b, q->w);
    int64_t tasks[SQ_PRODUCTS + 1] = {0}, all = 0;
    for (int i = 0; i < count; i++) {
        all += sq_weight_panels(q[i].w);
    }
    int64_t panels = task_panels(&b, all);
    for (int i = 0; i < count; i++) {
        tasks[i + 1] = tasks[i] + sq_ceil_div(sq_weight_panels(q[i].w), panels);
    }
    /* A few rows wait for memory: each thread reads one long run. Many rows are work to balance. */
    int64_t chunk = rows > 8 ? 1 : sq_ceil_div(tasks[count], sq_threads());
    int done = 1;
#pragma omp parallel num_threads(sq_threads()) reduction(&& : done) if (work_of(q, count, rows) > FEW_WORK)
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            round_row(&b, q->w, how, x + r * ldx, r);
        }
#pragma omp for schedule(dynamic, chunk) nowait
        for (int64_t t = 0; t < tasks[count]; t++) {
            int i = 0;
            while (t >= tasks[i + 1]) {
                i++;
            }
            int64_t panel0 = (t - tasks[i]) * panels, left = sq_weight_panels(q[i].w) - panel0;
            done = panel_products(&q[i], &b, panel0, left < panels ? left : panels) && done;
        }
    }
    return done;
}

void sq_matmul_rounded(const sq_product *products, int count, sq_rounding how, const float *x,
                       int64_t ldx, int64_t rows) {
    for (int i = 0, n; i < count; i += n) {
        const sq_product *q = products + i;
        n = alike(q, count - i);
        if (n == 0) {
            widened(q, how, x, ldx, rows);
            n = 1;
            continue;
        }
        for (int64_t r = 0, m; r < rows; r += m) {
            sq_product part[SQ_PRODUCTS];
            for (int j = 0; j < n; j++) {
                part[j] = from_row(&q[j], r);
            }
            m = rows - r < block_rows() ? rows - r : block_rows();
            const float *from = x + r * ldx;
            int done = (m <= 2 ? few_products : block_products)(part, n, how, from, ldx, m);
            for (int j = 0; !done && j < n; j++) {
                plain(&part[j], how, from, ldx, m);
            }
        }
    }
}
