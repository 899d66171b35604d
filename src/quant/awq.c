#include "quant/awq.h"

#include <math.h>
#include <string.h>

/* Blocks are large, so that a search opens few parallel regions: on a busy machine these cost more
 * than the arithmetic of a small layer. */
enum {
    RATIOS = 20,
    SEARCH_ROWS = 192,
    ERROR_ROWS = 2048,
    ROW_BLOCK = 192,
    CLIP_LEVELS = 10,
    CLIP_SWEEPS = 2
};

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* trace(D S D') over rows of d[m][k]; tmp [m][k]. */
static double quadratic(const float *d, int64_t m, int64_t k, const float *s, float *tmp) {
    sq_sgemm(0, m, k, k, 1.0f, d, k, s, k, 0.0f, tmp, k);
    return dot(d, tmp, m * k);
}

/* The rows that a search or an error looks at: at most `most`, evenly spaced. */
static int64_t stride_of(int64_t n, int64_t most) { return n <= most ? 1 : (n + most - 1) / most; }

/* d = RTN(w * s) / s - w of one row. */
static void row_error(const sq_grid *g, const float *w, const float *s, float *scaled, float *d) {
    for (int64_t c = 0; c < g->k; c++) {
        scaled[c] = w[c] * (s == NULL ? 1.0f : s[c]);
    }
    for (int64_t at = 0; at < g->k; at += g->group) {
        int64_t n = g->k - at < g->group ? g->k - at : g->group;
        sq_quantize_group(g, scaled + at, n, NULL, NULL, d + at, NULL, NULL);
    }
    for (int64_t c = 0; c < g->k; c++) {
        d[c] = d[c] / (s == NULL ? 1.0f : s[c]) - w[c];
    }
}

typedef struct search {
    const sq_tap_group *g;
    const sq_stat *stat;
    float *d, *tmp, *scaled; /* ROW_BLOCK rows each */
    float *best, *cand, *xm, *wm;
    sq_gptq gptq; /* of the scale at hand; factor NULL: none */
} search;

static double candidate_loss(const search *s, const float *scale) {
    double loss = 0;
    int64_t k = s->g->k;
    for (int l = 0; l < s->g->n; l++) {
        int64_t n = s->g->linears[l]->weight.n, step = stride_of(n, SEARCH_ROWS), rows = 0;
        for (int64_t r = 0; r < n; r += step * ROW_BLOCK) {
            rows = 0;
            int64_t left = (n - r + step - 1) / step;
            rows = left < ROW_BLOCK ? left : ROW_BLOCK;
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < rows; i++) {
                row_error(&s->g->grids[l], s->g->w[l] + (r + i * step) * k, scale,
                          s->scaled + i * k, s->d + i * k);
            }
            loss += (double)step * quadratic(s->d, rows, k, s->stat->xx, s->tmp);
        }
    }
    return loss;
}

/* Mean over rows of |w| over its group's largest. */
static void weight_mean(const search *s) {
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
static int make_scale(const search *s, double ratio, int duo, float *out) {
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
static void weight_max(const search *s) {
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
static int make_smooth(const search *s, double alpha, float *out) {
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

/* What rounding the inputs to 8 bits adds to the loss: noise of step^2 / 12 in every channel, the
 * step set by a row's largest value, taken as three deviations of the widest channel. */
static double input_loss(const search *s, const float *scale) {
    const sq_tap_group *g = s->g;
    const sq_stat *st = s->stat;
    double widest = 0, weight = 0;
    for (int64_t c = 0; c < g->k; c++) {
        double dev = sqrt((double)st->xx[c * g->k + c] / (double)st->rows),
               sc = scale == NULL ? 1 : (double)scale[c];
        widest = fmax(widest, fmin(3 * dev, (double)st->max_abs[c]) / sc);
    }
    for (int l = 0; l < g->n; l++) {
        for (int64_t r = 0; r < g->linears[l]->weight.n; r++) {
            const float *w = g->w[l] + r * g->k;
            for (int64_t c = 0; c < g->k; c++) {
                double v = (double)w[c] * (scale == NULL ? 1 : (double)scale[c]);
                weight += v * v;
            }
        }
    }
    double step = 2 * widest / 255;
    return (double)st->rows * step * step / 12 * weight;
}

/* Scales for linears whose inputs are rounded too. */
static int search_smooth(const search *s) {
    const sq_tap_group *g = s->g;
    for (int64_t c = 0; c < g->k; c++) {
        s->xm[c] = s->stat->max_abs[c];
    }
    weight_max(s);
    tie_heads(g, s->xm);
    tie_heads(g, s->wm);
    double best = candidate_loss(s, NULL) + input_loss(s, NULL);
    int found = 0;
    for (int i = 1; i < RATIOS; i++) {
        if (!make_smooth(s, (double)i / RATIOS, s->cand)) {
            continue;
        }
        double loss = candidate_loss(s, s->cand) + input_loss(s, s->cand);
        if (loss < best) {
            best = loss;
            found = 1;
            memcpy(s->best, s->cand, (size_t)g->k * sizeof *s->best);
        }
    }
    return found;
}

/* The best scale into s->best; returns 0 when none beats plain rounding. */
static int search_scale(const search *s) {
    const sq_tap_group *g = s->g;
    if (g->grids[0].act_bits != 0) {
        return search_smooth(s);
    }
    for (int64_t c = 0; c < g->k; c++) {
        s->xm[c] = (float)(s->stat->sum_abs[c] / (double)s->stat->rows);
    }
    weight_mean(s);
    tie_heads(g, s->xm);
    tie_heads(g, s->wm);
    double best = candidate_loss(s, NULL);
    int found = 0;
    for (int duo = 1; duo >= 0; duo--) {
        for (int i = duo ? 0 : 1; i < RATIOS; i++) {
            if (!make_scale(s, (double)i / RATIOS, duo, s->cand)) {
                continue;
            }
            double loss = candidate_loss(s, s->cand);
            if (loss < best) {
                best = loss;
                found = 1;
                memcpy(s->best, s->cand, (size_t)g->k * sizeof *s->best);
            }
        }
    }
    return found;
}

/* The clip search of a block of rows: the error d of each row, in the unscaled channels, and its
 * product with X'X are kept up to date while one group after the other gets the range with the
 * least d X'X d'. Errors of other groups count, so groups come to cancel each other's; no step is
 * uphill. */
typedef struct clip_search {
    const sq_grid *grid;
    const float *w, *scale, *xx; /* w [rows][k] scaled; scale [k] (nullable) */
    int64_t k, rows, groups;
    float *d, *product;   /* [rows][k] */
    float *e, *t, *cross; /* [rows][CLIP_LEVELS][m] twice, [rows][m] */
    sq_range *ranges;     /* [rows][groups] */
    double best[ROW_BLOCK];
} clip_search;

/* Which ends of a range a pass moves. */
enum { BOTH_ENDS, HIGH_END, LOW_END, CLIP_PASSES };

static sq_range clip_candidate(const float *w, int64_t m, sq_range now, int pass, int level) {
    sq_range full = sq_range_of(w, m);
    float keep = 1 - (float)level / (2 * CLIP_LEVELS), top = keep * fmaxf(full.hi, -full.lo);
    if (pass == BOTH_ENDS) {
        return (sq_range){fmaxf(full.lo, -top), fminf(full.hi, top)};
    }
    return pass == HIGH_END ? (sq_range){now.lo, full.hi * keep}
                            : (sq_range){full.lo * keep, now.hi};
}

/* Columns [at, at + m) of d for one row under a range. */
static void clip_error(const clip_search *b, int64_t row, int64_t at, int64_t m, sq_range range,
                       float *e) {
    const float *w = b->w + row * b->k + at;
    sq_quantize_group(b->grid, w, m, &range, NULL, e, NULL, NULL);
    for (int64_t c = 0; c < m; c++) {
        e[c] = (e[c] - w[c]) / (b->scale == NULL ? 1.0f : b->scale[at + c]);
    }
}

/* One pass over group j: all levels of all rows in one product. */
static void clip_pass(clip_search *b, int64_t j, int64_t at, int64_t m, int pass) {
    int64_t k = b->k, tall = b->rows * CLIP_LEVELS;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < tall; i++) {
        int64_t row = i / CLIP_LEVELS;
        sq_range now = b->ranges[row * b->groups + j];
        now = clip_candidate(b->w + row * k + at, m, now, pass, (int)(i % CLIP_LEVELS));
        clip_error(b, row, at, m, now, b->e + i * m);
    }
    sq_sgemm(0, tall, m, m, 1.0f, b->e, m, b->xx + at * k + at, k, 0.0f, b->t, m);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < b->rows; r++) {
        sq_range *range = &b->ranges[r * b->groups + j], now = *range;
        for (int level = 0; level < CLIP_LEVELS; level++) {
            int64_t i = (r * CLIP_LEVELS + level) * m;
            double loss = dot(b->e + i, b->t + i, m) + 2 * dot(b->e + i, b->cross + r * m, m);
            if (loss < b->best[r]) {
                b->best[r] = loss;
                *range = clip_candidate(b->w + r * k + at, m, now, pass, level);
            }
        }
    }
}

/* The part of d X'X d' that depends on group j is e S e' + 2 e c, S the group's own block and c the
 * product with the other groups' errors. */
static void clip_group(clip_search *b, int64_t j) {
    int64_t k = b->k, at = j * b->grid->group,
            m = k - at < b->grid->group ? k - at : b->grid->group;
    float *d = b->d + at, *product = b->product + at;
    sq_sgemm(0, b->rows, m, m, 1.0f, d, k, b->xx + at * k + at, k, 0.0f, b->cross, m);
    for (int64_t r = 0; r < b->rows; r++) {
        b->best[r] = 2 * dot(d + r * k, product + r * k, m) - dot(d + r * k, b->cross + r * m, m);
        for (int64_t c = 0; c < m; c++) {
            b->cross[r * m + c] = product[r * k + c] - b->cross[r * m + c];
        }
    }
    for (int pass = 0; pass < (b->grid->symmetric ? 1 : CLIP_PASSES); pass++) {
        clip_pass(b, j, at, m, pass);
    }
    for (int64_t r = 0; r < b->rows; r++) {
        float *e = b->e + r * m;
        clip_error(b, r, at, m, b->ranges[r * b->groups + j], e);
        for (int64_t c = 0; c < m; c++) {
            float old = d[r * k + c];
            d[r * k + c] = e[c];
            e[c] -= old;
        }
    }
    sq_sgemm(0, b->rows, k, m, 1.0f, b->e, m, b->xx + at * k, k, 1.0f, b->product, k);
}

static void clip_rows(clip_search *b) {
    int64_t k = b->k, group = b->grid->group;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < b->rows; r++) {
        for (int64_t j = 0; j * group < k; j++) {
            int64_t at = j * group, m = k - at < group ? k - at : group;
            sq_range full = sq_range_of(b->w + r * k + at, m);
            b->ranges[r * b->groups + j] = full;
            clip_error(b, r, at, m, full, b->d + r * k + at);
        }
    }
    sq_sgemm(0, b->rows, k, k, 1.0f, b->d, k, b->xx, k, 0.0f, b->product, k);
    for (int sweep = 0; sweep < CLIP_SWEEPS; sweep++) {
        for (int64_t j = 0; j * group < k; j++) {
            clip_group(b, j);
        }
    }
}

/* Ranges of the groups of every row of one linear. */
static sq_status search_clip(const search *s, int l, const float *ws, const float *scale,
                             sq_range *ranges, sq_error *err) {
    const sq_grid *g = &s->g->grids[l];
    int64_t n = s->g->linears[l]->weight.n, groups = g->k_padded / g->group, k = g->k,
            width = g->group < k ? g->group : k;
    size_t tall = (size_t)(ROW_BLOCK * CLIP_LEVELS * width), cross = (size_t)(ROW_BLOCK * width);
    float *e = sq_alloc_raw(2 * tall + cross, sizeof *e, "clip search", err);
    sq_status st = e == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t r = 0; st == SQ_OK && r < n; r += ROW_BLOCK) {
        clip_search b = {.grid = g,
                         .w = ws + r * k,
                         .scale = scale,
                         .xx = s->stat->xx,
                         .k = k,
                         .rows = n - r < ROW_BLOCK ? n - r : ROW_BLOCK,
                         .groups = groups,
                         .d = s->d,
                         .product = s->tmp,
                         .e = e,
                         .t = e + tall,
                         .cross = e + 2 * tall,
                         .ranges = ranges + r * groups};
        clip_rows(&b);
    }
    sq_free(e);
    return st;
}

/* Mean squared output error a row of what the codes stand for, over at most ERROR_ROWS output rows.
 */
static double stored_error(const search *s, int l, const sq_codes *c, const float *scale) {
    int64_t n = c->n, k = s->g->k, step = stride_of(n, ERROR_ROWS);
    double sum = 0;
    int64_t seen = 0;
    for (int64_t r = 0; r < n; r += step * ROW_BLOCK) {
        int64_t left = (n - r + step - 1) / step, rows = left < ROW_BLOCK ? left : ROW_BLOCK;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            float *d = s->d + i * k;
            const float *w = s->g->w[l] + (r + i * step) * k;
            sq_codes_row(c, r + i * step, d);
            for (int64_t j = 0; j < k; j++) {
                d[j] = d[j] / (scale == NULL ? 1.0f : scale[j]) - w[j];
            }
        }
        sum += s->stat == NULL ? 0 : quadratic(s->d, rows, k, s->stat->xx, s->tmp);
        for (int64_t i = 0; s->stat == NULL && i < rows * k; i++) {
            sum += (double)s->d[i] * (double)s->d[i]; /* without statistics: the weight error */
        }
        seen += rows;
    }
    double rows = s->stat == NULL || s->stat->rows == 0 ? 1 : (double)s->stat->rows;
    return sum / rows * (double)n / (double)seen;
}

/* Takes the candidate when its error is below; closes what is not kept. */
static int keep_better(sq_codes *best, double *error, sq_codes *cand, double e) {
    int better = e < *error;
    if (better) {
        *error = e;
        sq_codes swap = *best;
        *best = *cand;
        *cand = swap;
    }
    sq_codes_close(cand);
    return better;
}

/* The same scales and zero points, rounded by GPTQ, where that is better. */
static sq_status round_again(const search *s, int l, const float *scale, const float *ws,
                             sq_codes *out, double *error, int *used, sq_error *err) {
    sq_codes c = {0};
    sq_status st = sq_codes_open(&c, &out->grid, out->n, err);
    if (st != SQ_OK) {
        return st;
    }
    size_t cells = (size_t)(out->n * (out->grid.k_padded / out->grid.group));
    memcpy(c.codes, out->codes, (size_t)(out->n * out->grid.k_padded)); /* the padding's codes */
    memcpy(c.scales, out->scales, cells * sizeof *c.scales);
    memcpy(c.zeros, out->zeros, cells);
    st = sq_gptq_codes(&s->gptq, ws, &c, err);
    if (st != SQ_OK) {
        sq_codes_close(&c);
        return st;
    }
    *used |= keep_better(out, error, &c, stored_error(s, l, &c, scale));
    return SQ_OK;
}

/* Codes of linear l under a scale, with the clip if it helps and GPTQ's rounding if it is wanted.
 * ws: scratch [n][k]. */
static sq_status encode(const search *s, int l, const float *scale, int clip, float *ws,
                        sq_codes *out, double *error, int *gptq, sq_error *err) {
    const sq_grid *g = &s->g->grids[l];
    int64_t n = s->g->linears[l]->weight.n, k = g->k, groups = g->k_padded / g->group;
    sq_range *ranges = NULL;
    sq_codes clipped = {0};
    sq_status st;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < k; c++) {
            ws[r * k + c] = s->g->w[l][r * k + c] * (scale == NULL ? 1.0f : scale[c]);
        }
    }
    SQ_TRY(sq_codes_open(out, g, n, err));
    sq_quantize_rows(out, ws, NULL);
    *error = stored_error(s, l, out, scale);
    if (gptq != NULL && s->gptq.factor != NULL) {
        SQ_TRY(round_again(s, l, scale, ws, out, error, gptq, err));
    }
    if (clip && s->stat != NULL) {
        ranges = sq_alloc((size_t)(n * groups), sizeof *ranges, "clip search", err);
        st = ranges == NULL ? SQ_ENOMEM : sq_codes_open(&clipped, g, n, err);
        if (st == SQ_OK) {
            st = search_clip(s, l, ws, scale, ranges, err);
        }
        if (st == SQ_OK) {
            sq_quantize_rows(&clipped, ws, ranges);
            double e = stored_error(s, l, &clipped, scale);
            if (gptq != NULL && s->gptq.factor != NULL) {
                SQ_TRY(round_again(s, l, scale, ws, &clipped, &e, gptq, err));
            }
            keep_better(out, error, &clipped, e);
        }
    }
fail:
    sq_free(ranges);
    sq_codes_close(&clipped);
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

static sq_status encode_all(search *s, const float *scale, float *ws, sq_tap_result *out,
                            int *worse, sq_error *err) {
    const sq_tap_group *g = s->g;
    sq_status st = SQ_OK;
    *worse = 0;
    sq_gptq_close(&s->gptq);
    if (g->gptq && s->stat != NULL) {
        SQ_TRY(sq_gptq_open(&s->gptq, s->stat, scale, &g->gptq_options, err));
    }
    for (int l = 0; l < g->n; l++) {
        int gptq = 0, awq = scale != NULL || (g->scale && g->clip && s->stat != NULL);
        sq_codes_close(&out->codes[l]);
        SQ_TRY(encode(s, l, scale, g->clip, ws, &out->codes[l], &out->error[l], &gptq, err));
        out->method[l] = awq && gptq ? "awq+gptq" : awq ? "awq" : gptq ? "gptq" : "rtn";
        out->fallback[l] =
            g->gptq && !gptq && s->stat != NULL
                ? (s->gptq.factor == NULL ? "GPTQ: the second moments cannot be factored"
                                          : "GPTQ's rounding is not better here")
                : out->fallback[l];
        *worse |= !(out->error[l] <= out->rtn_error[l]);
    }
fail:
    sq_gptq_close(&s->gptq);
    return st;
}

static double total(const double *error, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += error[i];
    }
    return sum;
}

/* What round-to-nearest alone gives: no result is above it. */
static sq_status plain_errors(const search *s, float *ws, sq_tap_result *out, sq_error *err) {
    sq_status st = SQ_OK;
    for (int l = 0; st == SQ_OK && l < s->g->n; l++) {
        sq_codes plain;
        st = encode(s, l, NULL, 0, ws, &plain, &out->rtn_error[l], NULL, err);
        sq_codes_close(&plain);
    }
    return st;
}

/* With the scale and, where GPTQ follows, without it too: the scale was found for rounding to
 * nearest. */
static sq_status run(search *s, int may_scale, float *ws, sq_tap_result *out, sq_error *err) {
    const sq_tap_group *g = s->g;
    sq_tap_result scaled = {0};
    int worse = 0, tried = 0;
    sq_status st;
    SQ_TRY(plain_errors(s, ws, out, err));
    if (may_scale && g->scale && s->stat != NULL && search_scale(s)) {
        memcpy(scaled.rtn_error, out->rtn_error, sizeof scaled.rtn_error);
        SQ_TRY(encode_all(s, s->best, ws, &scaled, &worse, err));
        tried = 1;
    }
    if (tried && !worse && !g->gptq) {
        goto take;
    }
    SQ_TRY(encode_all(s, NULL, ws, out, &worse, err));
    for (int l = 0; tried && !g->gptq && l < g->n; l++) {
        out->fallback[l] = "a scale made one of the linears worse than round-to-nearest";
    }
    if (!tried || worse || !(total(scaled.error, g->n) < total(out->error, g->n))) {
        goto fail;
    }
take:
    for (int l = 0; l < g->n; l++) {
        if (!(scaled.error[l] <= scaled.rtn_error[l])) {
            goto fail; /* another linear of the tap pays for the gain */
        }
    }
    scaled.scale = s->best;
    s->best = NULL;
    sq_tap_result swap = *out;
    *out = scaled;
    scaled = swap;
fail:
    sq_tap_result_close(&scaled);
    return st;
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
    search s = {.g = g, .stat = why == NULL ? stat : NULL};
    sq_status st = SQ_OK;
    float *ws = sq_alloc_raw(rows, k * sizeof *ws, "scaled weights", err);
    s.d = sq_alloc(ROW_BLOCK, k * sizeof(float), "search", err);
    s.tmp = sq_alloc(ROW_BLOCK, k * sizeof(float), "search", err);
    s.scaled = sq_alloc(ROW_BLOCK, k * sizeof(float), "search", err);
    s.best = sq_alloc(k, sizeof(float), "search", err);
    s.cand = sq_alloc(k, sizeof(float), "search", err);
    s.xm = sq_alloc(k, sizeof(float), "search", err);
    s.wm = sq_alloc(k, sizeof(float), "search", err);
    if (ws == NULL || s.d == NULL || s.tmp == NULL || s.scaled == NULL || s.best == NULL ||
        s.cand == NULL || s.xm == NULL || s.wm == NULL) {
        st = SQ_ENOMEM;
    } else {
        st = run(&s, may_scale, ws, out, err);
    }
    for (int l = 0; why != NULL && l < g->n; l++) {
        out->fallback[l] = why;
    }
    float *const all[] = {ws, s.d, s.tmp, s.scaled, s.best, s.cand, s.xm, s.wm};
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
