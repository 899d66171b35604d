#include "quant/mixed.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "quant/compare.h"
#include "quant/ranges.h"

enum { SAMPLE_ROWS = 128 };

static const struct {
    int bits;
    int64_t group;
} options[SQ_MIXED_OPTIONS] = {{4, -1}, {4, 128}, {4, 64}, {4, 32}, {8, -1}};

static sq_grid grid_of(const sq_mixed *m, const sq_plan_row *row, int option) {
    sq_plan_row r = *row;
    r.grid.bits = options[option].bits;
    sq_plan_fit(&r, options[option].group, m->plan->policy.indivisible);
    return r.grid;
}

/* Bits a weight, with scales of 16 bits and zero points. */
static double bits_of(const sq_grid *g) {
    double groups = (double)(g->k_padded / g->group);
    return ((double)(g->bits * g->k_padded) + groups * (16 + (g->symmetric ? 0 : g->bits))) /
           (double)g->k;
}

static sq_mixed_tap *tap_of(sq_mixed *m, const sq_linear *l) {
    for (size_t i = 0; i < m->n; i++) {
        if (m->plan->rows[m->taps[i].rows[0]].linear->tap == l->tap) {
            return &m->taps[i];
        }
    }
    m->taps[m->n] = (sq_mixed_tap){.n = 0};
    return &m->taps[m->n++];
}

sq_status sq_mixed_open(sq_mixed *m, sq_plan *plan, const sq_net *net, double target,
                        sq_error *err) {
    *m = (sq_mixed){.plan = plan, .net = net, .target = target};
    double weights = 0, least = 0;
    m->taps = sq_alloc(plan->n, sizeof *m->taps, "a mixed plan", err);
    if (m->taps == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < plan->n; i++) {
        const sq_plan_row *r = &plan->rows[i];
        if (r->linear->part != SQ_PART_TEXT || !r->quantize) {
            continue;
        }
        if (r->grid.bits != 4 || r->grid.act_bits != 0) {
            sq_mixed_close(m);
            return sq_fail(err, SQ_EARG,
                           "--target-bits mixes w4a16 and w8a16; wanted --scheme w4a16");
        }
        sq_mixed_tap *t = tap_of(m, r->linear);
        double n = (double)r->linear->weight.n * (double)r->linear->weight.k;
        t->rows[t->n++] = i;
        t->weights += n;
        weights += n;
        for (int o = 0; o < SQ_MIXED_OPTIONS; o++) {
            sq_grid g = grid_of(m, r, o);
            t->bits[o] += n * bits_of(&g);
        }
    }
    for (size_t i = 0; i < m->n; i++) {
        sq_mixed_tap *t = &m->taps[i]; /* padding may make a wider group the dearer one */
        for (int o = 1; o < SQ_MIXED_OPTIONS; o++) {
            t->option = t->bits[o] < t->bits[t->option] ? o : t->option;
        }
        t->cheapest = t->option;
        least += t->bits[t->option] / weights;
    }
    if (!(target >= least && target <= 16)) {
        sq_mixed_close(m);
        return sq_fail(err, SQ_EARG, "no plan of %g bits a weight; wanted %.3f to 16", target,
                       least);
    }
    return SQ_OK;
}

/* Adds the squared error of each option's outputs, and the outputs' own size, over a sample of
 * rows. */
static sq_status measure(const sq_mixed *m, sq_mixed_tap *t, const sq_plan_row *r,
                         const sq_stat *stat, double *energy, sq_error *err) {
    int64_t n = r->linear->weight.n, k = r->linear->weight.k, step = sq_ceil_div(n, SAMPLE_ROWS),
            rows = sq_ceil_div(n, step);
    size_t block = (size_t)(rows * k);
    float *w = sq_alloc_raw(3 * block, sizeof *w, "a mixed plan", err);
    if (w == NULL) {
        return SQ_ENOMEM;
    }
    float *d = w + block, *tmp = w + 2 * block;
    for (int64_t i = 0; i < rows; i++) {
        sq_weight_rows_f32(&r->linear->weight, i * step, 1, w + i * k);
    }
    *energy += (double)step * sq_stat_loss(stat, w, rows, tmp);
    for (int o = 0; o < SQ_MIXED_OPTIONS; o++) {
        sq_grid g = grid_of(m, r, o);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            sq_ranges_round_row(&g, w + i * k, NULL, d + i * k);
            for (int64_t c = i * k; c < (i + 1) * k; c++) {
                d[c] -= w[c];
            }
        }
        t->noise[o] += (double)step * sq_stat_loss(stat, d, rows, tmp);
    }
    sq_free(w);
    return SQ_OK;
}

sq_status sq_mixed_measure(sq_mixed *m, int layer, const sq_stat *stats, sq_error *err) {
    const sq_linear *linears = m->net->layers[layer].linears;
    int first = linears[SQ_L_Q].tap;
    for (size_t i = 0; i < m->n; i++) {
        sq_mixed_tap *t = &m->taps[i];
        double energy = 0;
        if (m->plan->rows[t->rows[0]].linear->layer != layer) {
            continue;
        }
        for (int l = 0; l < t->n; l++) {
            const sq_plan_row *r = &m->plan->rows[t->rows[l]];
            sq_status st = measure(m, t, r, &stats[r->linear->tap - first], &energy, err);
            if (st != SQ_OK) {
                return st;
            }
        }
        for (int o = 0; o < SQ_MIXED_OPTIONS; o++) {
            t->noise[o] = energy > 0 && isfinite(t->noise[o]) ? t->noise[o] / energy : 0;
        }
    }
    return SQ_OK;
}

/* A linear as its cheapest option leaves it. */
static sq_status round_linear(const sq_mixed *m, const sq_plan_row *r, int option, sq_weight *to,
                              float **values, sq_error *err) {
    const sq_weight *from = &r->linear->weight;
    sq_grid g = grid_of(m, r, option);
    *values = sq_alloc_raw((size_t)from->n, (size_t)from->k * sizeof **values, "a mixed plan", err);
    float *w = *values;
    if (w == NULL) {
        return SQ_ENOMEM;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < from->n; i++) {
        sq_weight_rows_f32(from, i, 1, w + i * from->k);
        sq_ranges_round_row(&g, w + i * from->k, NULL, w + i * from->k);
    }
    return sq_weight_dense(to, SQ_F32, w, from->n, from->k, err);
}

/* KL of the model with one tap rounded, summed over the samples. */
static sq_status sense_tap(const sq_mixed *m, const sq_mixed_tap *t, const sq_samples *samples,
                           float *const *logits, double *kl, sq_error *err) {
    const sq_plan_row *first = &m->plan->rows[t->rows[0]];
    sq_net net = *m->net;
    float *values[4] = {NULL};
    sq_comparison c = {0};
    sq_status st = SQ_ENOMEM;
    size_t layers = (size_t)net.config.layers;
    sq_block *blocks = sq_alloc_raw(layers, sizeof *blocks, "a mixed plan", err);
    if (blocks == NULL) {
        return SQ_ENOMEM;
    }
    memcpy(blocks, net.layers, layers * sizeof *blocks);
    net.layers = blocks;
    sq_block *b = &blocks[first->linear->layer];
    for (int l = 0; l < t->n; l++) {
        const sq_plan_row *r = &m->plan->rows[t->rows[l]];
        SQ_TRY(round_linear(m, r, t->cheapest, &b->linears[r->linear->row->role].weight, &values[l],
                            err));
    }
    for (size_t i = 0; i < samples->n; i++) {
        SQ_TRY(sq_compare_to(&c, &net, logits[i], &samples->items[i].prompt, err));
    }
    *kl = c.positions > 0 && isfinite(c.kl) ? c.kl / (double)c.positions : 0;
fail:
    for (int l = 0; l < t->n; l++) {
        sq_free(values[l]);
    }
    sq_free(blocks);
    return st;
}

sq_status sq_mixed_sense(sq_mixed *m, const sq_samples *samples, const sq_progress *progress,
                         sq_error *err) {
    sq_status st = SQ_OK;
    float **logits = sq_alloc(samples->n, sizeof *logits, "reference logits", err);
    if (logits == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < samples->n; i++) {
        SQ_TRY(sq_compare_reference(&logits[i], m->net, &samples->items[i].prompt, err));
    }
    for (size_t i = 0; i < m->n; i++) {
        SQ_TRY(sense_tap(m, &m->taps[i], samples, logits, &m->taps[i].kl, err));
        if (!sq_progress_tick(progress, "sensitivity", (int64_t)i + 1, (int64_t)m->n, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    m->sensed = 1;
fail:
    for (size_t i = 0; i < samples->n; i++) {
        sq_free(logits[i]);
    }
    sq_free(logits);
    return st;
}

/* What an option costs: its relative error, as KL where that is known. */
static double cost_of(const sq_mixed *m, const sq_mixed_tap *t, int option) {
    double base = t->noise[t->cheapest];
    return !m->sensed ? t->noise[option] : base > 0 ? t->kl / base * t->noise[option] : 0;
}

/* The step with the most gain for its bits that `left` still allows; 0: none. */
static int best_step(const sq_mixed *m, double left, size_t *tap, int *option) {
    double best = 0;
    for (size_t i = 0; i < m->n; i++) {
        const sq_mixed_tap *t = &m->taps[i];
        for (int o = 0; o < SQ_MIXED_OPTIONS; o++) {
            double cost = t->bits[o] - t->bits[t->option],
                   gain = cost_of(m, t, t->option) - cost_of(m, t, o);
            if (cost > 0 && cost <= left && gain / cost > best) {
                best = gain / cost;
                *tap = i;
                *option = o;
            }
        }
    }
    return best > 0;
}

void sq_mixed_decide(sq_mixed *m) {
    double weights = 0, bits = 0;
    size_t tap;
    int option;
    for (size_t i = 0; i < m->n; i++) {
        weights += m->taps[i].weights;
        bits += m->taps[i].bits[m->taps[i].option];
    }
    while (best_step(m, m->target * weights - bits, &tap, &option)) {
        sq_mixed_tap *t = &m->taps[tap];
        bits += t->bits[option] - t->bits[t->option];
        t->option = option;
    }
    m->bits = bits / weights;
    for (size_t i = 0; i < m->n; i++) {
        sq_mixed_tap *t = &m->taps[i];
        int used = snprintf(t->note, sizeof t->note, "relative error %.3g, at %lld bits %.3g",
                            t->noise[t->option], (long long)options[t->cheapest].bits,
                            t->noise[t->cheapest]);
        if (m->sensed) {
            snprintf(t->note + used, sizeof t->note - (size_t)used, " and %.3g nats", t->kl);
        }
        for (int l = 0; l < t->n; l++) {
            sq_plan_row *r = &m->plan->rows[t->rows[l]];
            r->grid = grid_of(m, r, t->option);
            r->note = t->note;
        }
    }
}

void sq_mixed_close(sq_mixed *m) {
    sq_free(m->taps);
    *m = (sq_mixed){0};
}
