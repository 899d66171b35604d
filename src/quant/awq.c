#include "quant/awq.h"

#include <math.h>
#include <string.h>

#include "quant/inputs.h"
#include "quant/ranges.h"

enum { RATIOS = 20, SEARCH_ROWS = 128 };

typedef struct scale_search {
    const sq_tap_group *g;
    const sq_stat *stat;
    float *d, *tmp, *scaled; /* [SEARCH_ROWS][k] */
    float *e;                /* [SQ_STAT_SAMPLE][k] */
    float *best, *cand, *xm, *wm;
    float *left;  /* the factor's squared diagonal by column; NULL: the whole X'X counts */
    double least; /* loss of `best` */
    int found;
} scale_search;

/* d = RTN(w * s) / s - w of one row. */
static void row_error(const sq_grid *g, const float *w, const float *s, float *scaled, float *d) {
    for (int64_t c = 0; c < g->k; c++) {
        scaled[c] = w[c] * (s == NULL ? 1.0f : s[c]);
    }
    sq_ranges_round_row(g, scaled, NULL, d);
    for (int64_t c = 0; c < g->k; c++) {
        d[c] = d[c] / (s == NULL ? 1.0f : s[c]) - w[c];
    }
}

static double loss_of_rows(const scale_search *s, int64_t rows) {
    int64_t k = s->g->k;
    double loss = 0;
    if (s->left == NULL) {
        return sq_stat_loss(s->stat, s->d, rows, s->tmp);
    }
    for (int64_t i = 0; i < rows * k; i++) {
        loss += (double)s->left[i % k] * (double)s->d[i] * (double)s->d[i];
    }
    return loss;
}

static double candidate_loss(const scale_search *s, const float *scale) {
    double loss = 0;
    int64_t k = s->g->k;
    for (int l = 0; l < s->g->n; l++) {
        int64_t n = s->g->linears[l]->weight.n, step = (n + SEARCH_ROWS - 1) / SEARCH_ROWS,
                rows = sq_ceil_div(n, step);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            row_error(&s->g->grids[l], s->g->w[l] + i * step * k, scale, s->scaled + i * k,
                      s->d + i * k);
        }
        loss += (double)step * loss_of_rows(s, rows);
    }
    return loss;
}

/* Mean over rows of |w| over its group's largest. */
static void weight_mean(const scale_search *s) {
    const sq_tap_group *g = s->g;
    int64_t rows = 0;
    memset(s->wm, 0, (size_t)g->k * sizeof *s->wm);
    for (int l = 0; l < g->n; l++) {
        int64_t group = g->grids[l].group;
        for (int64_t r = 0; r < g->linears[l]->weight.n; r++, rows++) {
            const float *w = g->w[l] + r * g->k;
            for (int64_t at = 0; at < g->k; at += group) {
                int64_t end = at + group < g->k ? at + group : g->k;
                float top = 0;
                for (int64_t c = at; c < end; c++) {
                    top = fabsf(w[c]) > top ? fabsf(w[c]) : top;
                }
                for (int64_t c = at; c < end; c++) {
                    s->wm[c] += fabsf(w[c]) / (top + 1e-6f);
                }
            }
        }
    }
    for (int64_t c = 0; c < g->k; c++) {
        s->wm[c] /= (float)rows;
    }
}

/* Query heads that read one v channel get one scale: their means are averaged. Column c belongs to
 * query head c / head_dim. */
static void tie_heads(const sq_tap_group *g, float *v) {
    int64_t hd = g->head_dim;
    for (int64_t kv = 0; g->share > 1 && kv < g->k / (hd * g->share); kv++) {
        for (int64_t c = 0; c < hd; c++) {
            float sum = 0;
            for (int64_t h = 0; h < g->share; h++) {
                sum += v[(kv * g->share + h) * hd + c];
            }
            for (int64_t h = 0; h < g->share; h++) {
                v[(kv * g->share + h) * hd + c] = sum / (float)g->share;
            }
        }
    }
}

/* AutoAWQ's candidate: x^r / (w^(1-r) + 1e-4), or x^r alone, normalised by sqrt(max * min). */
static int make_scale(const scale_search *s, double ratio, int duo, float *out) {
    float lo = INFINITY, hi = 0;
    for (int64_t c = 0; c < s->g->k; c++) {
        double v = pow((double)s->xm[c], ratio);
        v = duo ? v / (pow((double)s->wm[c], 1 - ratio) + 1e-4) : v;
        out[c] = (float)fmax(v, 1e-4);
        lo = fminf(lo, out[c]);
        hi = fmaxf(hi, out[c]);
    }
    float norm = sqrtf(lo * hi);
    for (int64_t c = 0; c < s->g->k; c++) {
        out[c] /= norm;
        if (!isfinite(out[c]) || !(out[c] > 0)) {
            return 0;
        }
    }
    return 1;
}

/* Largest |w| of each column. */
static void weight_max(const scale_search *s) {
    const sq_tap_group *g = s->g;
    memset(s->wm, 0, (size_t)g->k * sizeof *s->wm);
    for (int l = 0; l < g->n; l++) {
        for (int64_t r = 0; r < g->linears[l]->weight.n; r++) {
            for (int64_t c = 0; c < g->k; c++) {
                s->wm[c] = fmaxf(s->wm[c], fabsf(g->w[l][r * g->k + c]));
            }
        }
    }
}

/* SmoothQuant's candidate (Xiao et al. 2022): max|x|^a / max|w|^(1-a). */
static int make_smooth(const scale_search *s, double alpha, float *out) {
    for (int64_t c = 0; c < s->g->k; c++) {
        double x = (double)s->xm[c], w = (double)s->wm[c];
        double v = w > 0 ? pow(x, alpha) / pow(w, 1 - alpha) : x;
        out[c] = (float)fmax(v, 1e-5);
        if (!isfinite(out[c])) {
            return 0;
        }
    }
    return 1;
}

/* What rounding the inputs to 8 bits adds to the loss. */
static double input_loss(const scale_search *s, const float *scale) {
    const sq_tap_group *g = s->g;
    double loss = 0;
    sq_inputs_error(s->stat, scale, g->grids[0].act_symmetric, s->e);
    for (int l = 0; l < g->n; l++) {
        int64_t n = g->linears[l]->weight.n, step = (n + SEARCH_ROWS - 1) / SEARCH_ROWS;
        loss += sq_inputs_loss(s->stat, s->e, g->w[l], n, step, s->tmp);
    }
    return (double)s->stat->rows * loss;
}

static void take(scale_search *s, double loss) {
    if (loss < s->least) {
        s->least = loss;
        s->found = 1;
        memcpy(s->best, s->cand, (size_t)s->g->k * sizeof *s->best);
    }
}

/* Loss of candidate i of RATIOS; infinity where it is none. kind: 0 and 1 AWQ's, 2 SmoothQuant's.
 */
static double try_ratio(scale_search *s, int i, int kind) {
    double ratio = (double)i / RATIOS;
    if (kind == 2 ? !make_smooth(s, ratio, s->cand) : !make_scale(s, ratio, kind, s->cand)) {
        return INFINITY;
    }
    double loss = candidate_loss(s, s->cand) + (kind == 2 ? input_loss(s, s->cand) : 0);
    take(s, loss);
    return loss;
}

/* The grid of ratios from coarse to fine: every fourth, then the neighbours of the best at two and
 * at one. */
static void search_ratios(scale_search *s, int kind) {
    int at = 0, now;
    double least = INFINITY;
    for (int i = 0; i < RATIOS; i += 4) {
        double loss = try_ratio(s, i, kind);
        if (loss < least) {
            least = loss;
            at = i;
        }
    }
    for (int step = 2; step > 0; step--) {
        now = at;
        for (int side = -step; side <= step; side += 2 * step) {
            double loss =
                now + side < 0 || now + side >= RATIOS ? INFINITY : try_ratio(s, now + side, kind);
            if (loss < least) {
                least = loss;
                at = now + side;
            }
        }
    }
}

static void search(scale_search *s) {
    const sq_tap_group *g = s->g;
    int smooth = g->grids[0].act_bits != 0;
    for (int64_t c = 0; c < g->k; c++) {
        s->xm[c] =
            smooth ? s->stat->max_abs[c] : (float)(s->stat->sum_abs[c] / (double)s->stat->rows);
    }
    if (smooth) {
        weight_max(s);
    } else {
        weight_mean(s);
    }
    tie_heads(g, s->xm);
    tie_heads(g, s->wm);
    s->least = candidate_loss(s, NULL) + (smooth ? input_loss(s, NULL) : 0);
    for (int kind = smooth ? 2 : 0; kind <= (smooth ? 2 : 1); kind++) {
        search_ratios(s, kind);
    }
}

sq_status sq_search_scale(const sq_tap_group *g, const sq_stat *stat, const sq_gptq *gptq,
                          float *scale, int *found, sq_error *err) {
    size_t k = (size_t)g->k, block = SEARCH_ROWS * k;
    scale_search s = {.g = g, .stat = stat, .best = scale};
    size_t e = SQ_STAT_SAMPLE * k, products = SQ_STAT_SAMPLE * SEARCH_ROWS,
           tmp = block > products ? block : products;
    float *all = sq_alloc_raw(2 * block + tmp + e + 4 * k, sizeof *all, "scale search", err);
    if (all == NULL) {
        return SQ_ENOMEM;
    }
    s.d = all;
    s.scaled = all + block;
    s.e = all + 2 * block;
    s.tmp = s.e + e;
    s.cand = s.tmp + tmp;
    s.xm = s.cand + k;
    s.wm = s.xm + k;
    if (gptq != NULL && gptq->factor != NULL) {
        s.left = s.wm + k;
        sq_gptq_left(gptq, s.left);
    }
    search(&s);
    *found = s.found;
    sq_free(all);
    return SQ_OK;
}
