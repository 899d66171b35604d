/* One block: the linears of each tap are quantized from its statistics, scales fold into the ops
 * before them, and everything is written. */
#include <math.h>
#include <stdio.h>

#include "base/log.h"
#include "quant/job.h"

/* null for what is no number: the weights themselves may hold NaN. */
static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *sq_job_entry(const sq_plan_row *row, const char *method, const double errors[3],
                     const char *fallback, int64_t tokens) {
    const sq_grid *g = &row->grid;
    json_t *e = json_pack("{s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:o, s:s?, s:s?}", "name",
                          row->linear->file_name, "method", method, "bits", g->bits, "group_size",
                          (json_int_t)g->group, "padded_columns", (json_int_t)(g->k_padded - g->k),
                          "error", number(errors[0]), "rtn_error", number(errors[1]), "signal",
                          number(errors[2]), "fallback", fallback, "note", row->note);
    if (tokens >= 0) {
        json_object_set_new(e, "tokens", json_integer((json_int_t)tokens));
    }
    return e;
}

/* f32 weights of the linears of one tap, with the scales that other taps folded into their rows. */
static sq_status load_group(sq_job *j, sq_tap_group *g, const sq_stage *stage, int tap,
                            float *const *row_scale) {
    for (size_t i = 0; i < stage->rows->n_linears; i++) {
        const sq_linear_row *row = &stage->rows->linears[i];
        const sq_linear *l = &stage->block->linears[row->role];
        const sq_plan_row *p = sq_plan_find(&j->plan, l);
        if (row->tap != tap || p == NULL || !p->quantize || g->n == SQ_TAP_LINEARS) {
            continue;
        }
        float *w =
            sq_alloc_raw((size_t)l->weight.n, (size_t)l->weight.k * sizeof *w, l->name, j->err);
        if (w == NULL) {
            return SQ_ENOMEM;
        }
        sq_weight_rows_f32(&l->weight, 0, l->weight.n, w);
        const float *s = row_scale[row->role];
        for (int64_t r = 0; s != NULL && r < l->weight.n; r++) {
            for (int64_t c = 0; c < l->weight.k; c++) {
                w[r * l->weight.k + c] /= s[r];
            }
        }
        g->k = l->weight.k;
        g->linears[g->n] = l;
        g->grids[g->n] = p->grid;
        g->scale = p->awq;
        g->clip = !j->o->no_clip;
        g->mse = j->o->mse_range;
        g->gptq = p->gptq;
        g->gptq_options = (sq_gptq_options){j->o->damp, j->o->no_act_order};
        g->w[g->n++] = w;
        sq_tensor_release(l->file);
    }
    return SQ_OK;
}

static const sq_fold_row *fold_of(const sq_block_rows *rows, int tap) {
    for (size_t i = 0; i < rows->n_folds; i++) {
        if (rows->folds[i].tap == tap) {
            return &rows->folds[i];
        }
    }
    return NULL;
}

/* Divisors for the rows of the op that a tap's scale folds into; only a v_proj is narrower than the
 * scale. */
static float *row_divisors(const sq_job *j, const sq_fold_row *f, const float *scale, int64_t n) {
    const sq_config *c = &j->net->config;
    float *d = sq_alloc((size_t)n, sizeof *d, "folded scales", j->err);
    int64_t share = f->per_kv ? c->heads / c->kv_heads : 1, hd = c->head_dim;
    for (int64_t r = 0; d != NULL && r < n; r++) {
        d[r] = share == 1 ? scale[r] : scale[r / hd * share * hd + r % hd];
    }
    return d;
}

typedef struct layer_state {
    const sq_stage *stage;
    float *row_scale[SQ_V_COUNT]; /* divisors of a linear's rows and bias, by role */
    float *norm_scale[2];         /* divisors of a norm */
    float *after[SQ_V_COUNT];     /* [n][k], --sequential: what the codes stand for, in the
                                          layer's own channels */
    json_t *entries;
} layer_state;

static sq_status write_group(sq_job *j, const layer_state *s, const sq_tap_group *g,
                             const sq_tap_result *r, int64_t tokens) {
    double t = sq_now();
    for (int i = 0; i < g->n; i++) {
        sq_status st = sq_output_codes(&j->out, g->linears[i], &r->codes[i], j->err);
        if (st != SQ_OK) {
            return st;
        }
        const double errors[3] = {r->error[i], r->rtn_error[i], r->signal[i]};
        const char *method = r->method[i] == NULL ? "rtn" : r->method[i];
        json_array_append_new(s->entries, sq_job_entry(sq_plan_find(&j->plan, g->linears[i]),
                                                       method, errors, r->fallback[i], tokens));
    }
    j->write_s += sq_now() - t;
    return SQ_OK;
}

/* Keeps what the codes of a tap stand for: the matrices that they were made from are overwritten.
 */
static void keep_after(layer_state *s, sq_tap_group *g, const sq_tap_result *r) {
    for (int i = 0; i < g->n; i++) {
        int role = (int)(g->linears[i] - s->stage->block->linears);
        const float *rows = s->row_scale[role];
        int64_t n = g->linears[i]->weight.n;
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < n; row++) {
            float *w = g->w[i] + row * g->k;
            sq_codes_row(&r->codes[i], row, w);
            for (int64_t c = 0; c < g->k; c++) {
                w[c] *= (rows == NULL ? 1.0f : rows[row]) / (r->scale == NULL ? 1.0f : r->scale[c]);
            }
        }
        s->after[role] = g->w[i];
        g->w[i] = NULL;
    }
}

static sq_status quantize_group(sq_job *j, layer_state *s, int tap, const sq_stat *stat,
                                int folds) {
    const sq_config *c = &j->net->config;
    const sq_fold_row *f = fold_of(s->stage->rows, tap);
    sq_tap_group g = {.share = 1, .head_dim = c->head_dim};
    sq_tap_result r = {0};
    sq_status st;
    SQ_TRY(load_group(j, &g, s->stage, tap, s->row_scale));
    if (g.n == 0) {
        return SQ_OK;
    }
    g.share = f != NULL && f->per_kv ? c->heads / c->kv_heads : 1;
    SQ_TRY(sq_quantize_tap(&g, stat, folds, &r, j->err));
    for (int i = 0; stat == NULL && (g.scale || g.gptq) && i < g.n; i++) {
        r.fallback[i] = "no calibration data came through here";
    }
    int64_t seen = stat != NULL ? stat->rows : j->head.version != 0 ? 0 : -1;
    SQ_TRY(write_group(j, s, &g, &r, seen));
    if (j->o->sequential) {
        keep_after(s, &g, &r);
    }
    if (r.scale != NULL && f->linear >= 0) {
        s->row_scale[f->linear] =
            row_divisors(j, f, r.scale, s->stage->block->linears[f->linear].weight.n);
        st = s->row_scale[f->linear] == NULL ? SQ_ENOMEM : SQ_OK;
    } else if (r.scale != NULL) {
        s->norm_scale[f->norm] = r.scale;
        r.scale = NULL;
    }
fail:
    for (int i = 0; i < g.n; i++) {
        sq_free(g.w[i]);
    }
    sq_tap_result_close(&r);
    return st;
}

/* Writes a vector of the layer, divided by a scale when there is one. */
static sq_status write_vector(sq_job *j, const char *stem, const char *suffix, const float *values,
                              const float *divisor, int64_t n) {
    char name[512];
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    const sq_tensor *t = sq_checkpoint_find(j->net->ckpt, name);
    if (t == NULL) {
        return SQ_OK;
    }
    if (divisor == NULL) {
        return sq_output_copy(&j->out, t, j->err);
    }
    float *v = sq_alloc((size_t)n, sizeof *v, name, j->err);
    if (v == NULL) {
        return SQ_ENOMEM;
    }
    for (int64_t i = 0; i < n; i++) {
        v[i] = values[i] / divisor[i];
    }
    sq_status st = sq_output_floats(&j->out, t, v, j->err);
    sq_free(v);
    return st;
}

static sq_status write_rest(sq_job *j, const layer_state *s) {
    const int64_t *dims = j->net->config.dims;
    sq_status st;
    for (size_t i = 0; i < s->stage->rows->n_norms; i++) {
        const sq_norm *n = &s->stage->block->norms[i];
        int64_t width = dims[s->stage->rows->norms[i].dim];
        SQ_TRY(write_vector(j, n->file_name, ".weight", n->weight, s->norm_scale[i], width));
        SQ_TRY(write_vector(j, n->file_name, ".bias", n->bias, s->norm_scale[i], width));
    }
    for (size_t i = 0; i < s->stage->rows->n_linears; i++) {
        int role = s->stage->rows->linears[i].role;
        const sq_linear *l = &s->stage->block->linears[role];
        SQ_TRY(write_vector(j, l->file_name, ".bias", l->bias, s->row_scale[role], l->weight.n));
        const sq_plan_row *p = sq_plan_find(&j->plan, l);
        if (!p->quantize && s->row_scale[role] == NULL) {
            SQ_TRY(sq_output_copy(&j->out, l->file, j->err));
        } else if (!p->quantize) {
            st = sq_fail(j->err, SQ_EINTERNAL, "'%s' was folded into but not written", l->name);
            goto fail;
        }
    }
fail:
    return st;
}

/* A linear that stays in high precision takes no scale in its rows: its tap's fold is left out. */
static int may_fold(const sq_job *j, const layer_state *s, int tap) {
    const sq_fold_row *f = fold_of(s->stage->rows, tap);
    if (f == NULL || f->linear < 0) {
        for (size_t i = 0; f != NULL && i < s->stage->rows->n_linears;
             i++) { /* a norm feeds all linears of its tap */
            const sq_plan_row *p =
                sq_plan_find(&j->plan, &s->stage->block->linears[s->stage->rows->linears[i].role]);
            if (s->stage->rows->linears[i].tap == tap && !p->quantize) {
                return 0;
            }
        }
        return f != NULL;
    }
    return sq_plan_find(&j->plan, &s->stage->block->linears[f->linear])->quantize;
}

/* --sequential: the samples go on through the block as it was quantized. */
static sq_status advance(sq_job *j, const layer_state *s) {
    sq_block *b = s->stage->block;
    sq_weight was[SQ_V_COUNT];
    sq_status st = SQ_OK;
    double t = sq_now();
    for (int i = 0; i < SQ_V_COUNT; i++) {
        was[i] = b->linears[i].weight;
    }
    for (int i = 0; i < SQ_V_COUNT; i++) {
        if (s->after[i] != NULL) {
            SQ_TRY(sq_weight_dense(&b->linears[i].weight, SQ_F32, s->after[i], was[i].n, was[i].k,
                                   j->err));
        }
    }
    SQ_TRY(sq_hidden_stage(&j->hidden, s->stage, NULL, 0, j->err));
fail:
    for (int i = 0; i < SQ_V_COUNT; i++) {
        b->linears[i].weight = was[i];
    }
    j->calibrate_s += sq_now() - t;
    return st;
}

sq_status sq_job_block(sq_job *j, const sq_stage *stage, const sq_stat *stats) {
    layer_state s = {stage, .entries = json_array()};
    sq_status st = s.entries == NULL ? SQ_ENOMEM : SQ_OK;
    double t = sq_now(), w = j->write_s;
    for (int tap = stage->rows->n_taps - 1; st == SQ_OK && tap >= 0; tap--) {
        /* Folding into a linear must happen before that linear is quantized: from the last tap to
         * the first. */
        const sq_stat *stat = stats == NULL || stats[tap].k == 0 ? NULL : &stats[tap];
        st = quantize_group(j, &s, tap, stat, stat != NULL && may_fold(j, &s, tap));
    }
    if (st == SQ_OK) {
        st = write_rest(j, &s);
    }
    j->quantize_s += sq_now() - t - (j->write_s - w);
    if (st == SQ_OK) {
        st = sq_output_commit(&j->out, stage->unit, s.entries, j->err);
    } else {
        json_decref(s.entries);
    }
    if (st == SQ_OK && stats != NULL && j->o->sequential) {
        st = advance(j, &s);
    }
    for (int i = 0; i < SQ_V_COUNT; i++) {
        sq_free(s.row_scale[i]);
        sq_free(s.after[i]);
    }
    sq_free(s.norm_scale[0]);
    sq_free(s.norm_scale[1]);
    return st;
}
