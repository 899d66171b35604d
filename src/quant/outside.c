/* What lies outside the blocks. The embeddings and the head are the largest matrices of a model: a
 * few rows at a time are numbers, the rest is codes. */
#include <math.h>

#include "base/log.h"
#include "quant/job.h"
#include "quant/ranges.h"

enum { ROWS = 512 };

/* Squared errors of the weights, and the squares of the weights themselves. */
typedef struct sums {
    double error, rtn, signal;
} sums;

static double apart(const sq_codes *c, const float *w, float *row) {
    int64_t k = c->grid.k;
    double sum = 0;
    for (int64_t r = 0; r < c->n; r++) {
        sq_codes_row(c, r, row);
        for (int64_t i = 0; i < k; i++) {
            double d = (double)row[i] - (double)w[r * k + i];
            sum += d * d;
        }
    }
    return sum;
}

/* Rows [at, at + n) of `all`: ranges of the least squared error. */
static void encode_rows(const sq_codes *all, int64_t at, int64_t n, const float *w, const float *h,
                        sq_range *ranges, float *row, sums *s) {
    const sq_grid *g = &all->grid;
    int64_t groups = g->k_padded / g->group;
    sq_codes c = {*g, n, all->codes + at * g->k_padded, all->scales + at * groups,
                  all->zeros + at * groups};
    sq_quantize_rows(&c, w, NULL);
    s->rtn += apart(&c, w, row);
    sq_ranges_weighted(g, w, n, h, ranges);
    sq_quantize_rows(&c, w, ranges);
    s->error += apart(&c, w, row);
    for (int64_t i = 0; i < n * g->k; i++) {
        s->signal += (double)w[i] * (double)w[i];
    }
}

static sq_status encode(sq_job *j, const sq_linear *l, const sq_plan_row *p, sq_codes *c, sums *s) {
    const sq_grid *g = &p->grid;
    size_t k = (size_t)g->k, groups = (size_t)(g->k_padded / g->group);
    float *w = sq_alloc_raw(ROWS, k * sizeof *w, l->name, j->err);
    float *h = sq_alloc_raw(2, k * sizeof *h, l->name, j->err); /* weights of columns, and a row */
    sq_range *ranges = sq_alloc_raw(ROWS, groups * sizeof *ranges, l->name, j->err);
    sq_status st = w == NULL || h == NULL || ranges == NULL
                       ? SQ_ENOMEM
                       : sq_codes_open(c, g, l->weight.n, j->err);
    for (size_t i = 0; st == SQ_OK && i < k; i++) {
        h[i] = 1.0f;
    }
    for (int64_t at = 0; st == SQ_OK && at < l->weight.n; at += ROWS) {
        int64_t n = l->weight.n - at < ROWS ? l->weight.n - at : ROWS;
        sq_weight_rows_f32(&l->weight, at, n, w);
        encode_rows(c, at, n, w, h, ranges, h + k, s);
        if (!isfinite(s->signal)) {
            st = sq_fail(j->err, SQ_EFORMAT, "'%s' holds NaN or infinity", l->file_name);
        }
    }
    sq_free(w);
    sq_free(h);
    sq_free(ranges);
    return st;
}

static sq_status quantize(sq_job *j, const sq_plan_row *p, json_t *entries) {
    const sq_linear *l = p->linear;
    sq_codes c = {0};
    sums s = {0};
    double t = sq_now();
    sq_status st = encode(j, l, p, &c, &s);
    j->quantize_s += sq_now() - t;
    t = sq_now();
    st = st == SQ_OK ? sq_output_codes(&j->out, l, &c, j->err) : st;
    j->write_s += sq_now() - t;
    sq_codes_close(&c);
    sq_tensor_release(l->file);
    const double errors[3] = {s.error, s.rtn, s.signal};
    json_array_append_new(entries, sq_job_entry(p, "rtn", errors, NULL, -1));
    return st;
}

sq_status sq_job_outside(sq_job *j) {
    const sq_checkpoint *c = j->net->ckpt;
    json_t *entries = json_array();
    sq_status st = entries == NULL ? SQ_ENOMEM : SQ_OK;
    if (sq_output_done(&j->out, "rest") != NULL) {
        json_decref(entries);
        return SQ_OK;
    }
    for (size_t i = 0; st == SQ_OK && i < j->plan.n; i++) {
        const sq_plan_row *p = &j->plan.rows[i];
        int outside = p->linear->part == SQ_PART_EMBED || p->linear->part == SQ_PART_HEAD;
        st = outside && p->quantize ? quantize(j, p, entries) : SQ_OK;
    }
    double t = sq_now();
    for (size_t i = 0; st == SQ_OK && i < sq_checkpoint_count(c); i++) {
        const sq_tensor *x = sq_checkpoint_at(c, i);
        int written = j->net->in_block[i] || sq_output_replaces(&j->out, x);
        st = written ? SQ_OK : sq_output_copy(&j->out, x, j->err);
    }
    j->write_s += sq_now() - t;
    if (st != SQ_OK) {
        json_decref(entries);
        return st;
    }
    return sq_output_commit(&j->out, "rest", entries, j->err);
}
