#include "quant/ranges.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/kernels.h"

enum { LEVELS = 11, MOVES = 8, SWEEPS = 2, ROWS = 64 };

/* Columns of group j; 0 where only padding is left. */
static int64_t width_of(const sq_grid *g, int64_t j) {
    int64_t left = g->k - j * g->group;
    return left < 0 ? 0 : left < g->group ? left : g->group;
}

static void round_group(const sq_grid *g, const float *w, int64_t m, sq_range r, float *back) {
    float s;
    uint8_t z;
    sq_grid_range(g, r.lo, r.hi, &s, &z);
    sq_kernels_get()->round_back(w, m, s, (float)z, (float)((1 << g->bits) - 1), back);
}

void sq_ranges_round_row(const sq_grid *g, const float *w, const sq_range *ranges, float *back) {
    for (int64_t j = 0; j * g->group < g->k; j++) {
        int64_t at = j * g->group, m = width_of(g, j);
        round_group(g, w + at, m, ranges == NULL ? sq_range_of(w + at, m) : ranges[j], back + at);
    }
}

/* ---- each group by itself ---- */

/* Which ends of a range a pass moves. */
enum { BOTH_ENDS, HIGH_END, LOW_END, PASSES };

static sq_range best_range(const sq_grid *g, const float *w, const float *h, int64_t m) {
    const sq_kernels *kn = sq_kernels_get();
    sq_range full = sq_range_of(w, m), best = full;
    float least = INFINITY, wide = fmaxf(full.hi, -full.lo), top = (float)((1 << g->bits) - 1);
    for (int pass = 0; pass < (g->symmetric ? 1 : PASSES); pass++) {
        sq_range base = best;
        for (int level = pass == BOTH_ENDS ? 0 : 1; level < LEVELS; level++) {
            float keep = 1 - 0.05f * (float)level, s;
            uint8_t z;
            sq_range r = {pass == HIGH_END  ? base.lo
                          : pass == LOW_END ? full.lo * keep
                                            : fmaxf(full.lo, -keep * wide),
                          pass == HIGH_END  ? full.hi * keep
                          : pass == LOW_END ? base.hi
                                            : fminf(full.hi, keep * wide)};
            sq_grid_range(g, r.lo, r.hi, &s, &z);
            float loss = kn->round_loss(w, h, m, s, (float)z, top);
            if (loss < least) {
                least = loss;
                best = r;
            }
        }
    }
    return best;
}

void sq_ranges_weighted(const sq_grid *g, const float *w, int64_t n, const float *h,
                        sq_range *ranges) {
    int64_t groups = g->k_padded / g->group;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t j = 0; j < groups; j++) {
            int64_t at = j * g->group, m = width_of(g, j);
            ranges[r * groups + j] =
                m > 0 ? best_range(g, w + r * g->k + at, h + at, m) : (sq_range){0, 0};
        }
    }
}

/* ---- all groups of a row together ---- */

/* A block of rows and the error d of each, in the unscaled channels; one group after the other
 * moves. */
typedef struct joint {
    const sq_grid *grid;
    const float *w, *scale, *xx;
    const sq_operand *operand; /* X'X */
    int64_t k, rows, groups;
    int moves;
    float *d;                   /* [ROWS][k] */
    float *e, *t, *cross, *own; /* [ROWS][MOVES][group] twice, [ROWS][group] twice */
    sq_range *ranges;           /* [rows][groups] */
} joint;

static double dot(const float *a, const float *b, int64_t n) {
    return (double)sq_kernels_get()->dot_f32(a, b, n);
}

/* Move i of a range inside the group's full one; symmetric grids move both ends at once. */
static sq_range moved(sq_range now, sq_range full, int i) {
    static const float by[4] = {0.9f, 0.95f, 1.05f, 1.1f};
    if (i < 4) {
        now.hi = fminf(now.hi * by[i], full.hi);
    } else {
        now.lo = fmaxf(now.lo * by[i - 4], full.lo);
    }
    return now;
}

static sq_range candidate(const joint *b, int64_t row, int64_t j, int64_t m, int i) {
    sq_range now = b->ranges[row * b->groups + j];
    sq_range full = sq_range_of(b->w + row * b->k + j * b->grid->group, m);
    now = moved(now, full, i);
    return b->grid->symmetric ? moved(now, full, i + 4) : now;
}

/* Columns [at, at + m) of d for one row under a range. */
static void error_of(const joint *b, int64_t row, int64_t at, int64_t m, sq_range range, float *e) {
    const float *w = b->w + row * b->k + at;
    round_group(b->grid, w, m, range, e);
    for (int64_t c = 0; c < m; c++) {
        e[c] = (e[c] - w[c]) / (b->scale == NULL ? 1.0f : b->scale[at + c]);
    }
}

/* The part of d X'X d' that depends on group j is e S e' + 2 e c, S the group's own block and c the
 * product with the other groups' errors. All moves of all rows go through one product. */
static void pick(joint *b, int64_t j, int64_t at, int64_t m) {
    int64_t k = b->k, tall = b->rows * b->moves;
    for (int64_t i = 0; i < tall; i++) {
        int64_t row = i / b->moves;
        error_of(b, row, at, m, candidate(b, row, j, m, (int)(i % b->moves)), b->e + i * m);
    }
    sq_sgemm(0, tall, m, m, 1.0f, b->e, m, b->xx + at * k + at, k, 0.0f, b->t, m);
    for (int64_t r = 0; r < b->rows; r++) {
        const float *d = b->d + r * k + at, *cross = b->cross + r * m;
        double best = dot(d, b->own + r * m, m) + 2 * dot(d, cross, m);
        int which = -1;
        for (int i = 0; i < b->moves; i++) {
            const float *e = b->e + (r * b->moves + i) * m;
            double loss = dot(e, b->t + (r * b->moves + i) * m, m) + 2 * dot(e, cross, m);
            if (loss < best) {
                best = loss;
                which = i;
            }
        }
        if (which >= 0) {
            b->ranges[r * b->groups + j] = candidate(b, r, j, m, which);
        }
    }
}

static void move_group(joint *b, int64_t j) {
    int64_t k = b->k, at = j * b->grid->group, m = width_of(b->grid, j);
    memset(b->cross, 0, (size_t)(b->rows * m) * sizeof *b->cross);
    sq_operand_add(b->operand, 0, at, at, m, b->d, k, b->rows, b->cross, m);
    sq_operand_add(b->operand, at + m, k - at - m, at, m, b->d + at + m, k, b->rows, b->cross, m);
    sq_sgemm(0, b->rows, m, m, 1.0f, b->d + at, k, b->xx + at * k + at, k, 0.0f, b->own, m);
    pick(b, j, at, m);
    for (int64_t r = 0; r < b->rows; r++) {
        error_of(b, r, at, m, b->ranges[r * b->groups + j], b->d + r * k + at);
    }
}

static void move_rows(joint *b) {
    int64_t k = b->k, group = b->grid->group;
    for (int64_t r = 0; r < b->rows; r++) {
        for (int64_t j = 0; j * group < k; j++) {
            error_of(b, r, j * group, width_of(b->grid, j), b->ranges[r * b->groups + j],
                     b->d + r * k + j * group);
        }
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        for (int64_t j = 0; j * group < k; j++) {
            move_group(b, j);
        }
    }
}

sq_status sq_ranges_joint(const sq_grid *g, const float *w, int64_t n, const float *scale,
                          const sq_stat *stat, sq_range *ranges, sq_error *err) {
    int64_t k = g->k, width = g->group < k ? g->group : k, groups = g->k_padded / g->group;
    size_t wide = (size_t)(ROWS * k), tall = (size_t)(ROWS * MOVES * width);
    int64_t blocks = (n + ROWS - 1) / ROWS;
    size_t narrow = (size_t)(ROWS * width);
    size_t threads = (size_t)sq_threads(), each = wide + 2 * tall + 2 * narrow;
    sq_operand operand = {0};
    float *all = sq_alloc_raw(threads * each, sizeof *all, "clip search", err);
    if (all == NULL || sq_operand_open(&operand, stat->xx, k, k, k, 0, err) != SQ_OK) {
        sq_free(all);
        return SQ_ENOMEM;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
    for (int64_t i = 0; i < blocks; i++) {
        float *own = all + (size_t)omp_get_thread_num() * each;
        joint b = {.grid = g,
                   .w = w + i * ROWS * k,
                   .scale = scale,
                   .xx = stat->xx,
                   .operand = &operand,
                   .k = k,
                   .rows = n - i * ROWS < ROWS ? n - i * ROWS : ROWS,
                   .groups = groups,
                   .moves = g->symmetric ? MOVES / 2 : MOVES,
                   .d = own,
                   .e = own + wide,
                   .t = own + wide + tall,
                   .cross = own + wide + 2 * tall,
                   .own = own + wide + 2 * tall + narrow,
                   .ranges = ranges + i * ROWS * groups};
        move_rows(&b);
    }
    sq_operand_close(&operand);
    sq_free(all);
    return SQ_OK;
}
