#include "quant/refine.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/kernels.h"

enum { ROWS = 64 };

/* A block of rows. d = (back - ws) / scale. */
typedef struct block {
    sq_codes *c;
    const float *scale, *xx;
    int64_t first, rows, k, step;
    float add;             /* to the diagonal */
    float *d;              /* [ROWS][k] */
    float *before, *after; /* [ROWS][group] each: what the columns before a group and behind it add
                              to its part of d X'X */
    float *p;              /* [ROWS][group]: that part itself */
    double loss;           /* of every step-th row */
} block;

/* Codes of one group of one row, column after column. */
static void descend(const block *b, int64_t r, int64_t at, int64_t m, int64_t cell) {
    const sq_kernels *kn = sq_kernels_get();
    uint8_t *codes = b->c->codes + (b->first + r) * b->c->grid.k_padded + at;
    float s = b->c->scales[cell], z = (float)b->c->zeros[cell];
    float *p = b->p + r * m, *d = b->d + r * b->k + at, top = (float)((1 << b->c->grid.bits) - 1);
    for (int64_t i = 0; i < m; i++) {
        const float *row = b->xx + (at + i) * b->k + at;
        float h = row[i] + b->add, f = b->scale == NULL ? 1.0f : b->scale[at + i];
        if (!(h > 0)) {
            continue;
        }
        float old = (float)codes[i], want = (old - z) - (p[i] + b->add * d[i]) / h * f / s;
        float q = fminf(fmaxf(rintf(want) + z, 0), top);
        if (q != old) {
            float by = (q - old) * s / f;
            codes[i] = (uint8_t)q;
            d[i] += by;
            kn->axpy(p, by, row, m);
        }
    }
}

/* The columns before the group are as they will stay, those behind it as they were: in the end the
 * group adds D (2 before + own) to the loss, D its new error and own = D S, S its block of X'X. */
static void group_of(block *b, int64_t j) {
    const sq_grid *g = &b->c->grid;
    int64_t at = j * g->group, m = b->k - at < g->group ? b->k - at : g->group,
            groups = g->k_padded / g->group, k = b->k, behind = at + m;
    size_t bytes = (size_t)(b->rows * m) * sizeof *b->p;
    const float *columns = b->xx + at;
    memset(b->before, 0, bytes);
    memset(b->after, 0, bytes);
    if (at > 0) {
        sq_sgemm(0, b->rows, m, at, 1.0f, b->d, k, columns, k, 0.0f, b->before, m);
    }
    if (behind < k) {
        sq_sgemm(0, b->rows, m, k - behind, 1.0f, b->d + behind, k, columns + behind * k, k, 0.0f,
                 b->after, m);
    }
    sq_sgemm(0, b->rows, m, m, 1.0f, b->d + at, k, columns + at * k, k, 0.0f, b->p, m);
    for (int64_t i = 0; i < b->rows * m; i++) {
        b->p[i] += b->before[i] + b->after[i];
    }
    for (int64_t r = 0; r < b->rows; r++) {
        descend(b, r, at, m, (b->first + r) * groups + j);
        for (int64_t i = r * m; (b->first + r) % b->step == 0 && i < (r + 1) * m; i++) {
            double d = (double)b->d[r * k + at + i - r * m];
            b->loss += d * ((double)b->p[i] + (double)b->before[i] - (double)b->after[i]);
        }
    }
}

static void rows_of(block *b, const float *ws) {
    for (int64_t r = 0; r < b->rows; r++) {
        float *d = b->d + r * b->k;
        sq_codes_row(b->c, b->first + r, d);
        for (int64_t i = 0; i < b->k; i++) {
            d[i] = (d[i] - ws[(b->first + r) * b->k + i]) / (b->scale == NULL ? 1 : b->scale[i]);
        }
    }
    for (int64_t j = 0; j * b->c->grid.group < b->k; j++) {
        group_of(b, j);
    }
}

sq_status sq_refine_codes(sq_codes *c, const float *ws, const float *scale, const sq_stat *stat,
                          double damp, int64_t step, double *loss, sq_error *err) {
    int64_t k = stat->k, width = c->grid.group < k ? c->grid.group : k,
            blocks = sq_ceil_div(c->n, ROWS);
    double mean = 0;
    for (int64_t i = 0; i < k; i++) {
        mean += (double)stat->xx[i * k + i] / (double)k;
    }
    size_t wide = (size_t)k * ROWS, narrow = (size_t)width * ROWS;
    size_t threads = (size_t)sq_threads(), each = wide + 3 * narrow;
    float *all = sq_alloc_raw(threads * each, sizeof *all, "errors of rows", err);
    double *losses = sq_alloc_raw((size_t)blocks, sizeof *losses, "errors of rows", err);
    if (all == NULL || losses == NULL) {
        sq_free(all);
        sq_free(losses);
        return SQ_ENOMEM;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
    for (int64_t i = 0; i < blocks; i++) {
        float *own = all + (size_t)omp_get_thread_num() * each;
        block b = {.c = c,
                   .scale = scale,
                   .xx = stat->xx,
                   .first = i * ROWS,
                   .rows = c->n - i * ROWS < ROWS ? c->n - i * ROWS : ROWS,
                   .k = k,
                   .step = step,
                   .add = (float)(damp * mean),
                   .d = own,
                   .before = own + wide,
                   .after = own + wide + narrow,
                   .p = own + wide + 2 * narrow};
        rows_of(&b, ws);
        losses[i] = b.loss;
    }
    *loss = 0;
    for (int64_t i = 0; i < blocks; i++) {
        *loss += losses[i];
    }
    sq_free(all);
    sq_free(losses);
    return SQ_OK;
}
