#include "quant/tap.h"

#include <math.h>
#include <string.h>

#include "quant/awq.h"
#include "quant/inputs.h"
#include "quant/ranges.h"
#include "quant/refine.h"

enum { ERROR_ROWS = 256, ROW_BLOCK = 256 };

typedef struct tap {
    const sq_tap_group *g;
    const sq_stat *stat; /* NULL: none, or none that can be used */
    int mse;             /* without statistics: search ranges by the weights' own error */
    float *d, *tmp;      /* [ROW_BLOCK][k] */
    float *e;            /* [SQ_STAT_SAMPLE][k + ERROR_ROWS]: rounding of the inputs */
    float *ws;           /* one linear's weights times the scale */
    float *scale, *h;    /* [k]: the best scale; what a column's error weighs in the range search */
    sq_gptq gptq;        /* of the scale at hand; factor NULL: none */
} tap;

/* Mean squared output error a row of what the codes stand for, over at most ERROR_ROWS output rows,
 * evenly spaced, and of the inputs' rounding where they are rounded. Without codes: the mean
 * squared output itself. */
static double stored_error(const tap *t, int l, const sq_codes *c, const float *scale) {
    int64_t n = t->g->linears[l]->weight.n, k = t->g->k, step = sq_ceil_div(n, ERROR_ROWS),
            seen = 0;
    double sum = 0;
    for (int64_t r = 0; r < n; r += step * ROW_BLOCK) {
        int64_t left = sq_ceil_div(n - r, step), rows = left < ROW_BLOCK ? left : ROW_BLOCK;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            float *d = t->d + i * k;
            const float *w = t->g->w[l] + (r + i * step) * k;
            if (c == NULL) {
                memcpy(d, w, (size_t)k * sizeof *d);
                continue;
            }
            sq_codes_row(c, r + i * step, d);
            for (int64_t j = 0; j < k; j++) {
                d[j] = d[j] / (scale == NULL ? 1.0f : scale[j]) - w[j];
            }
        }
        sum += t->stat == NULL ? 0 : sq_stat_loss(t->stat, t->d, rows, t->tmp);
        for (int64_t i = 0; t->stat == NULL && i < rows * k; i++) {
            sum += (double)t->d[i] * (double)t->d[i]; /* without statistics: the weight error */
        }
        seen += rows;
    }
    double rows = t->stat == NULL || t->stat->rows == 0 ? 1 : (double)t->stat->rows, inputs = 0;
    if (t->stat != NULL && c != NULL && c->grid.act_bits != 0) {
        sq_inputs_error(t->stat, scale, c->grid.act_symmetric, t->e);
        inputs = sq_inputs_loss(t->stat, t->e, t->g->w[l], n, step, t->e + SQ_STAT_SAMPLE * k);
    }
    return sum / rows * (double)n / (double)seen + inputs;
}

/* ---- one linear ---- */

/* Ranges of all groups of t->ws: GPTQ's by what its rounding leaves of each column's error, plain
 * rounding's by the output error of all columns together. That costs rows x columns^2 for each
 * move where a group is a whole row, as it is at 8 bits, and lowers the KL by 3 % there: left out.
 */
static sq_status find_ranges(const tap *t, int l, const float *scale, sq_range *ranges,
                             sq_error *err) {
    const sq_grid *g = &t->g->grids[l];
    int64_t n = t->g->linears[l]->weight.n, k = g->k;
    int gptq = t->gptq.factor != NULL;
    for (int64_t c = 0; !gptq && c < k; c++) {
        float f = scale == NULL ? 1.0f : scale[c];
        t->h[c] = t->stat == NULL ? 1.0f : t->stat->xx[c * k + c] / (f * f);
    }
    if (gptq) {
        sq_gptq_left(&t->gptq, t->h);
    }
    sq_ranges_weighted(g, t->ws, n, t->h, ranges);
    return gptq || t->stat == NULL || g->bits >= 8
               ? SQ_OK
               : sq_ranges_joint(g, t->ws, n, scale, t->stat, ranges, err);
}

/* Codes of linear l under a scale (nullable) by the group's method; `plain`: to nearest over each
 * group's whole range. */
static sq_status encode(const tap *t, int l, const float *scale, int plain, sq_codes *out,
                        double *error, sq_error *err) {
    const sq_grid *g = &t->g->grids[l];
    int64_t n = t->g->linears[l]->weight.n, k = g->k;
    sq_range *ranges = NULL;
    sq_status st;
    sq_codes_close(out);
    SQ_TRY(sq_codes_open(out, g, n, err));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < k; c++) {
            t->ws[r * k + c] = t->g->w[l][r * k + c] * (scale == NULL ? 1.0f : scale[c]);
        }
    }
    if (!plain && (t->stat != NULL ? t->g->clip : t->mse)) {
        ranges = sq_alloc_raw((size_t)(n * (g->k_padded / g->group)), sizeof *ranges, "clip search",
                              err);
        st = ranges == NULL ? SQ_ENOMEM : find_ranges(t, l, scale, ranges, err);
        SQ_TRY(st);
    }
    sq_quantize_rows(out, t->ws, ranges);
    if (!plain && t->gptq.factor != NULL) {
        SQ_TRY(sq_gptq_codes(&t->gptq, t->ws, out, err));
        if (g->bits < 8) { /* at 8 nothing is left to gain */
            SQ_TRY(sq_refine_codes(out, t->ws, scale, t->stat, t->gptq.damp, err));
        }
    }
    *error = stored_error(t, l, out, scale);
fail:
    sq_free(ranges);
    return st;
}

/* A linear without a scale that came out above round-to-nearest gets round-to-nearest. */
static sq_status encode_unscaled(const tap *t, int l, sq_tap_result *out, sq_error *err) {
    const sq_tap_group *g = t->g;
    int data = t->stat != NULL, gptq = t->gptq.factor != NULL;
    sq_status st = encode(t, l, NULL, !data && !t->mse, &out->codes[l], &out->error[l], err);
    out->method[l] = gptq ? "gptq" : data && g->scale && g->clip ? "awq" : "rtn";
    if (data && g->gptq && !gptq) {
        out->fallback[l] = "GPTQ: the second moments cannot be factored";
    }
    if (st == SQ_OK && !(out->error[l] <= out->rtn_error[l])) {
        st = encode(t, l, NULL, 1, &out->codes[l], &out->error[l], err);
        out->method[l] = "rtn";
        out->fallback[l] = "the search is not better than round-to-nearest here";
    }
    return st;
}

/* ---- the tap ---- */

static sq_status refactor(tap *t, const float *scale, sq_error *err) {
    sq_gptq_close(&t->gptq);
    return t->g->gptq && t->stat != NULL
               ? sq_gptq_open(&t->gptq, t->stat, scale, &t->g->gptq_options, err)
               : SQ_OK;
}

/* Takes a scale when it makes no linear worse than round-to-nearest and, against `out` when that is
 * there, their sum smaller. */
static sq_status try_scale(tap *t, int have, sq_tap_result *out, int *taken, sq_error *err) {
    const sq_tap_group *g = t->g;
    sq_tap_result r = {0};
    double before = 0, after = 0;
    sq_status st;
    SQ_TRY(refactor(t, t->scale, err));
    *taken = 1;
    for (int l = 0; l < g->n; l++) {
        SQ_TRY(encode(t, l, t->scale, 0, &r.codes[l], &r.error[l], err));
        r.rtn_error[l] = out->rtn_error[l];
        r.signal[l] = out->signal[l];
        r.method[l] = t->gptq.factor != NULL ? "awq+gptq" : "awq";
        *taken &= r.error[l] <= r.rtn_error[l];
        before += out->error[l];
        after += r.error[l];
    }
    *taken &= !have || after < before;
    if (*taken) {
        sq_tap_result swap = *out;
        *out = r;
        r = swap;
        out->scale = t->scale;
        t->scale = NULL;
    }
fail:
    sq_tap_result_close(&r);
    return st;
}

static sq_status run(tap *t, int may_scale, sq_tap_result *out, sq_error *err) {
    const sq_tap_group *g = t->g;
    int found = 0, taken = 0;
    sq_status st;
    for (int l = 0; l < g->n; l++) { /* no result is above this one */
        SQ_TRY(encode(t, l, NULL, 1, &out->codes[l], &out->rtn_error[l], err));
        out->signal[l] = stored_error(t, l, NULL, NULL);
    }
    SQ_TRY(refactor(t, NULL, err));
    if (may_scale && g->scale && t->stat != NULL) {
        SQ_TRY(sq_search_scale(g, t->stat, &t->gptq, t->scale, &found, err));
    }
    /* Rounded inputs decide over the scale (quant/inputs), and the search has counted them. */
    int first = found && (!g->gptq || g->grids[0].act_bits != 0);
    if (first) {
        SQ_TRY(try_scale(t, 0, out, &taken, err));
    }
    if (first && !taken) {
        SQ_TRY(refactor(t, NULL, err));
    }
    for (int l = 0; !taken && l < g->n; l++) {
        SQ_TRY(encode_unscaled(t, l, out, err));
        if (first && out->fallback[l] == NULL) {
            out->fallback[l] = "a scale made one of the linears worse than round-to-nearest";
        }
    }
    if (found && !first) {
        SQ_TRY(try_scale(t, 1, out, &taken, err));
    }
fail:
    sq_gptq_close(&t->gptq);
    return st;
}

static int weights_finite(const sq_tap_group *g, int l) {
    int64_t n = g->linears[l]->weight.n * g->k;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(g->w[l][i])) {
            return 0;
        }
    }
    return 1;
}

static int stat_usable(const sq_stat *s) {
    if (s == NULL || s->rows == 0) {
        return 0;
    }
    for (int64_t c = 0; c < s->k; c++) {
        if (!isfinite(s->sum_abs[c]) || !isfinite(s->xx[c * s->k + c])) {
            return 0;
        }
    }
    return 1;
}

sq_status sq_quantize_tap(const sq_tap_group *g, const sq_stat *stat, int may_scale,
                          sq_tap_result *out, sq_error *err) {
    *out = (sq_tap_result){0};
    size_t k = (size_t)g->k, rows = 0;
    const char *why =
        stat != NULL && !stat_usable(stat) ? "the statistics are not finite numbers" : NULL;
    for (int l = 0; l < g->n; l++) {
        rows = (size_t)g->linears[l]->weight.n > rows ? (size_t)g->linears[l]->weight.n : rows;
        if (!weights_finite(g, l)) {
            why = "the weights hold NaN or infinity";
        }
    }
    tap t = {.g = g, .stat = why == NULL ? stat : NULL, .mse = g->mse && why == NULL};
    t.ws = sq_alloc_raw(rows, k * sizeof(float), "scaled weights", err);
    t.d = sq_alloc_raw(ROW_BLOCK, k * sizeof(float), "errors of rows", err);
    t.tmp = sq_alloc_raw(ROW_BLOCK, k * sizeof(float), "errors of rows", err);
    t.e = sq_alloc_raw(SQ_STAT_SAMPLE, (k + ERROR_ROWS) * sizeof(float), "errors of inputs", err);
    t.scale = sq_alloc_raw(k, sizeof(float), "a scale", err);
    t.h = sq_alloc_raw(k, sizeof(float), "a scale", err);
    sq_status st = t.ws == NULL || t.d == NULL || t.tmp == NULL || t.e == NULL || t.scale == NULL ||
                           t.h == NULL
                       ? SQ_ENOMEM
                       : run(&t, may_scale, out, err);
    for (int l = 0; why != NULL && l < g->n; l++) {
        out->fallback[l] = why;
    }
    float *const all[] = {t.ws, t.d, t.tmp, t.e, t.scale, t.h};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        sq_free(all[i]);
    }
    if (st != SQ_OK) {
        sq_tap_result_close(out);
    }
    return st;
}

void sq_tap_result_close(sq_tap_result *r) {
    sq_free(r->scale);
    for (int l = 0; l < SQ_TAP_LINEARS; l++) {
        sq_codes_close(&r->codes[l]);
    }
    *r = (sq_tap_result){0};
}
