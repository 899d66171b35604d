#include "quant/gptq.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { BLOCK = 128, ROWS = 64 };

/* ---- factoring ---- */

/* The diagonal block at `at` of a[k][k]; 0 when it is not positive. */
static int factor_diagonal(float *a, int64_t k, int64_t at, int64_t n) {
    for (int64_t j = 0; j < n; j++) {
        float *row = a + (at + j) * k + at;
        for (int64_t i = 0; i <= j; i++) {
            const float *other = a + (at + i) * k + at;
            double sum = (double)row[i];
            for (int64_t c = 0; c < i; c++) {
                sum -= (double)row[c] * (double)other[c];
            }
            if (i < j) {
                row[i] = (float)(sum / (double)other[i]);
            } else if (!(sum > 0) || !isfinite(sum)) {
                return 0;
            } else {
                row[j] = (float)sqrt(sum);
            }
        }
    }
    return 1;
}

/* inverse[n][n] of the lower triangle at `at`. */
static void invert_diagonal(const float *a, int64_t k, int64_t at, int64_t n, float *inverse) {
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t i = 0; i < n; i++) {
        const float *l = a + (at + i) * k + at;
        double sum[BLOCK] = {0};
        for (int64_t c = 0; c < i; c++) {
            for (int64_t j = 0; j <= c; j++) {
                sum[j] -= (double)l[c] * (double)inverse[c * n + j];
            }
        }
        sum[i] = 1;
        for (int64_t j = 0; j <= i; j++) {
            inverse[i * n + j] = (float)(sum[j] / (double)l[i]);
        }
    }
}

/* Rows [r, r + m) of the block's columns, less what the columns before it give: turned[at][n] is
 * the block's own rows of these. */
static void subtract(float *a, int64_t k, int64_t at, int64_t n, int64_t r, int64_t m,
                     const float *turned) {
    if (at > 0) {
        sq_sgemm(0, m, n, at, -1.0f, a + r * k, k, turned, n, 1.0f, a + r * k + at, k);
    }
}

/* Rows of the block: X L' = A. */
static void solve(float *a, int64_t k, int64_t at, int64_t n, int64_t r, int64_t m,
                  const float *inverse) {
    float rows[ROWS * BLOCK];
    for (int64_t i = 0; i < m; i++) {
        memcpy(rows + i * n, a + (r + i) * k + at, (size_t)n * sizeof *rows);
    }
    sq_sgemm(1, m, n, n, 1.0f, rows, n, inverse, n, 0.0f, a + r * k + at, k);
}

/* Blocked Cholesky of the lower triangle, in place; a block of columns is read and written once.
 * turned: [k][BLOCK]. */
static int factor_f32(float *a, int64_t k, float *turned) {
    float inverse[BLOCK * BLOCK];
    for (int64_t at = 0; at < k; at += BLOCK) {
        int64_t n = k - at < BLOCK ? k - at : BLOCK;
#pragma omp parallel for schedule(static) if (at > BLOCK)
        for (int64_t c = 0; c < at; c++) {
            for (int64_t i = 0; i < n; i++) {
                turned[c * n + i] = a[(at + i) * k + c];
            }
        }
        subtract(a, k, at, n, at, n, turned);
        if (!factor_diagonal(a, k, at, n)) {
            return 0;
        }
        invert_diagonal(a, k, at, n, inverse);
#pragma omp parallel for schedule(dynamic, 1) if (k - at > 2 * BLOCK)
        for (int64_t r = at + n; r < k; r += ROWS) {
            int64_t m = k - r < ROWS ? k - r : ROWS;
            subtract(a, k, at, n, r, m, turned);
            solve(a, k, at, n, r, m, inverse);
        }
    }
    return 1;
}

/* The same in doubles, row by row; for what f32 cannot do. */
static int factor_f64(double *a, int64_t k) {
    for (int64_t j = 0; j < k; j++) {
        double *row = a + j * k, pivot = row[j];
        for (int64_t c = 0; c < j; c++) {
            pivot -= row[c] * row[c];
        }
        if (!(pivot > 0) || !isfinite(pivot)) {
            return 0;
        }
        row[j] = sqrt(pivot);
#pragma omp parallel for schedule(static)
        for (int64_t r = j + 1; r < k; r++) {
            double *x = a + r * k, sum = x[j];
            for (int64_t c = 0; c < j; c++) {
                sum -= x[c] * row[c];
            }
            x[j] = sum / row[j];
        }
    }
    return 1;
}

/* ---- the matrix ---- */

typedef struct ranked {
    double value;
    int32_t column;
} ranked;

static int smaller_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value ? -1 : 1) : y->column - x->column;
}

static double diagonal(const sq_stat *s, const float *scale, int64_t c) {
    double v = (double)s->xx[c * s->k + c];
    return scale == NULL ? v : v / ((double)scale[c] * (double)scale[c]);
}

/* The order of the indices: rounding goes from the last to the first. Returns the mean diagonal. */
static double set_order(sq_gptq *g, const sq_stat *s, const float *scale, int natural, ranked *p) {
    double mean = 0;
    for (int64_t c = 0; c < g->k; c++) {
        p[c] = (ranked){diagonal(s, scale, c), (int32_t)c};
        mean += p[c].value / (double)g->k;
    }
    if (natural) {
        for (int64_t i = 0; i < g->k; i++) {
            g->order[i] = (int32_t)(g->k - 1 - i);
        }
    } else {
        qsort(p, (size_t)g->k, sizeof *p, smaller_first);
        for (int64_t i = 0; i < g->k; i++) {
            g->order[i] = p[i].column;
        }
    }
    for (int64_t i = 0; i < g->k; i++) {
        g->dead[i] = !(s->xx[g->order[i] * s->k + g->order[i]] > 0);
    }
    return mean;
}

/* Entry (i, j) of H in the factor's order. */
static double entry(const sq_gptq *g, const sq_stat *s, const float *scale, int64_t i, int64_t j,
                    double add) {
    int64_t a = g->order[i], b = g->order[j];
    if (g->dead[i] || g->dead[j]) {
        return i == j ? (add > 0 ? add : 1) : 0;
    }
    double v = (double)s->xx[a * s->k + b];
    v = scale == NULL ? v : v / ((double)scale[a] * (double)scale[b]);
    return i == j ? v + add : v;
}

static int try_f32(sq_gptq *g, const sq_stat *s, const float *scale, double add, float *turned) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < g->k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            g->factor[i * g->k + j] = (float)entry(g, s, scale, i, j, add);
        }
    }
    return factor_f32(g->factor, g->k, turned);
}

/* NULL err: without memory for doubles the layer is rounded to nearest. */
static int try_f64(sq_gptq *g, const sq_stat *s, const float *scale, double add) {
    double *a = sq_alloc_raw((size_t)g->k, (size_t)g->k * sizeof *a, "a factor in f64", NULL);
    int ok = a != NULL;
    for (int64_t i = 0; ok && i < g->k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            a[i * g->k + j] = entry(g, s, scale, i, j, add);
        }
    }
    ok = ok && factor_f64(a, g->k);
    for (int64_t i = 0; ok && i < g->k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            g->factor[i * g->k + j] = (float)a[i * g->k + j];
        }
    }
    sq_free(a);
    return ok;
}

sq_status sq_gptq_open(sq_gptq *g, const sq_stat *stat, const float *scale,
                       const sq_gptq_options *o, sq_error *err) {
    *g = (sq_gptq){.k = stat->k, .damp = o->damp > 0 ? o->damp : 0.01};
    size_t k = (size_t)g->k;
    ranked *p = sq_alloc_raw(k, sizeof *p, "an order of columns", err);
    float *turned = sq_alloc_raw(k, BLOCK * sizeof *turned, "a Cholesky factor", err);
    g->factor = sq_alloc_raw(k, k * sizeof *g->factor, "a Cholesky factor", err);
    g->order = sq_alloc_raw(k, sizeof *g->order, "an order of columns", err);
    g->dead = sq_alloc_raw(k, 1, "an order of columns", err);
    if (p == NULL || turned == NULL || g->factor == NULL || g->order == NULL || g->dead == NULL) {
        sq_free(p);
        sq_free(turned);
        sq_gptq_close(g);
        return SQ_ENOMEM;
    }
    double mean = set_order(g, stat, scale, o->natural_order, p);
    sq_free(p);
    int done = mean > 0 && isfinite(mean) && try_f32(g, stat, scale, g->damp * mean, turned);
    sq_free(turned);
    for (; !done && mean > 0 && isfinite(mean) && g->damp <= 1; g->damp *= 10) {
        done = try_f64(g, stat, scale, g->damp * mean);
        if (done) {
            break;
        }
    }
    if (!done) {
        sq_free(g->factor);
        g->factor = NULL;
    }
    return SQ_OK;
}

void sq_gptq_close(sq_gptq *g) {
    sq_free(g->factor);
    sq_free(g->order);
    sq_free(g->dead);
    *g = (sq_gptq){0};
}

void sq_gptq_left(const sq_gptq *g, float *left) {
    for (int64_t i = 0; i < g->k; i++) {
        float pivot = g->factor[i * g->k + i];
        left[g->order[i]] = pivot * pivot;
    }
}

/* ---- rounding ---- */

/* d = w - q of the rows; `carry` is what the errors so far ask of a block's columns. */
typedef struct rounding {
    const sq_gptq *g;
    const sq_operand *factor;
    sq_codes *c;
    const float *ws;
    float *d, *carry; /* [ROWS][k], [ROWS][BLOCK] */
    float *lanes;     /* [6][BLOCK][SQ_GPTQ_LANES] */
    int64_t first;    /* row of ws */
} rounding;

enum { LANES = SQ_GPTQ_LANES, LANE_BLOCK = BLOCK * LANES, LANE_ARRAYS = 6 };

/* Columns [at, at + n) of rows [r, r + rows): each, from the last to the first, wants w plus the
 * errors behind it, weighted by its column of the factor. */
static void round_lanes(const rounding *b, int64_t r, int64_t rows, int64_t at, int64_t n) {
    const sq_gptq *g = b->g;
    const sq_grid *grid = &b->c->grid;
    int64_t k = g->k, groups = grid->k_padded / grid->group;
    float *w = b->lanes, *s = w + LANE_BLOCK, *z = s + LANE_BLOCK, *carry = z + LANE_BLOCK,
          *codes = carry + LANE_BLOCK, *errors = codes + LANE_BLOCK;
    for (int64_t i = 0; i < n; i++) {
        int64_t col = g->order[at + i], j = col / grid->group;
        for (int64_t l = 0; l < LANES; l++) { /* lanes without a row repeat the last one */
            int64_t own = r + (l < rows ? l : rows - 1), row = b->first + own;
            w[i * LANES + l] = g->dead[at + i] ? 0.0f : b->ws[row * k + col];
            s[i * LANES + l] = b->c->scales[row * groups + j];
            z[i * LANES + l] = (float)b->c->zeros[row * groups + j];
            carry[i * LANES + l] = b->carry[own * BLOCK + i];
        }
    }
    sq_kernels_get()->gptq_block(&(sq_gptq_block){n, k, g->factor + at * k + at, w, s, z, carry,
                                                  codes, errors, (float)((1 << grid->bits) - 1)});
    for (int64_t i = 0; i < n; i++) {
        int64_t col = g->order[at + i];
        for (int64_t l = 0; l < rows; l++) {
            b->c->codes[(b->first + r + l) * grid->k_padded + col] = (uint8_t)codes[i * LANES + l];
            b->d[(r + l) * k + at + i] = errors[i * LANES + l];
        }
    }
}

static void round_rows(const rounding *b, int64_t rows) {
    int64_t k = b->g->k, blocks = (k + BLOCK - 1) / BLOCK;
    for (int64_t j = blocks - 1; j >= 0; j--) {
        int64_t at = j * BLOCK, n = k - at < BLOCK ? k - at : BLOCK, behind = at + n;
        memset(b->carry, 0, (size_t)(rows * BLOCK) * sizeof *b->carry);
        sq_operand_add(b->factor, behind, k - behind, at, n, b->d + behind, k, rows, b->carry,
                       BLOCK);
        for (int64_t r = 0; r < rows; r += LANES) {
            round_lanes(b, r, rows - r < LANES ? rows - r : LANES, at, n);
        }
    }
}

sq_status sq_gptq_codes(const sq_gptq *g, const float *ws, sq_codes *c, sq_error *err) {
    size_t wide = ROWS * (size_t)g->k, each = wide + ROWS * BLOCK + LANE_ARRAYS * LANE_BLOCK;
    float *all = sq_alloc_raw((size_t)sq_threads() * each, sizeof *all, "errors of rows", err);
    sq_operand factor = {0};
    if (all == NULL || sq_operand_open(&factor, g->factor, g->k, g->k, g->k, 1, err) != SQ_OK) {
        sq_free(all);
        return SQ_ENOMEM;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
    for (int64_t first = 0; first < c->n; first += ROWS) {
        float *own = all + (size_t)omp_get_thread_num() * each;
        rounding b = {g, &factor, c, ws, own, own + wide, own + wide + ROWS * BLOCK, first};
        round_rows(&b, c->n - first < ROWS ? c->n - first : ROWS);
    }
    sq_operand_close(&factor);
    sq_free(all);
    return SQ_OK;
}
