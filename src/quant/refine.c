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
    const sq_operand *operand; /* X'X */
    int64_t first, rows, k;
    float add; /* to the diagonal */
    float *d;  /* [ROWS][k] */
    float *p;  /* [ROWS][group]: a group's part of d X'X */
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
        float q = rintf(want) + z;
        q = q > 0 ? q : 0; /* NaN too */
        q = q < top ? q : top;
        if (q != old) {
            float by = (q - old) * s / f;
            codes[i] = (uint8_t)q;
            d[i] += by;
            kn->axpy(p, by, row, m);
        }
    }
}

static void group_of(block *b, int64_t j) {
    const sq_grid *g = &b->c->grid;
    int64_t at = j * g->group, m = b->k - at < g->group ? b->k - at : g->group,
            groups = g->k_padded / g->group, k = b->k, behind = at + m;
    sq_sgemm(0, b->rows, m, m, 1.0f, b->d + at, k, b->xx + at * k + at, k, 0.0f, b->p, m);
    sq_operand_add(b->operand, 0, at, at, m, b->d, k, b->rows, b->p, m);
    sq_operand_add(b->operand, behind, k - behind, at, m, b->d + behind, k, b->rows, b->p, m);
    for (int64_t r = 0; r < b->rows; r++) {
        descend(b, r, at, m, (b->first + r) * groups + j);
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
                          double damp, sq_error *err) {
    int64_t k = stat->k, width = c->grid.group < k ? c->grid.group : k;
    double mean = 0;
    for (int64_t i = 0; i < k; i++) {
        mean += (double)stat->xx[i * k + i] / (double)k;
    }
    size_t wide = (size_t)k * ROWS, each = wide + (size_t)width * ROWS;
    float *all = sq_alloc_raw((size_t)sq_threads() * each, sizeof *all, "errors of rows", err);
    sq_operand operand = {0};
    if (all == NULL || sq_operand_open(&operand, stat->xx, k, k, k, 0, err) != SQ_OK) {
        sq_free(all);
        return SQ_ENOMEM;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
    for (int64_t first = 0; first < c->n; first += ROWS) {
        float *own = all + (size_t)omp_get_thread_num() * each;
        block b = {.c = c,
                   .scale = scale,
                   .xx = stat->xx,
                   .operand = &operand,
                   .first = first,
                   .rows = c->n - first < ROWS ? c->n - first : ROWS,
                   .k = k,
                   .add = (float)(damp * mean),
                   .d = own,
                   .p = own + wide};
        rows_of(&b, ws);
    }
    sq_operand_close(&operand);
    sq_free(all);
    return SQ_OK;
}
