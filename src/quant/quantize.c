/* quantize and calibrate: samples go through the original layers one by one; each layer is
 * quantized from its statistics, written and freed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "quant/hidden.h"
#include "quant/mixed.h"
#include "quant/output.h"
#include "quant/quant.h"
#include "quant/split.h"

typedef struct job {
    sq_net *net;
    sq_frontend front;
    sq_plan plan;
    sq_output out;
    sq_samples samples;
    sq_hidden hidden;
    sq_mixed mixed; /* --target-bits */
    sq_checkpoint *stats_file;
    const sq_quantize_options *o;
    const sq_progress *progress;
    json_t *layers;
    double calibrate_s, quantize_s, write_s;
    sq_error *err;
} job;

static sq_status tick(const job *j, const char *stage, int64_t done, int64_t total,
                      const char *detail) {
    return sq_progress_tick(j->progress, stage, done, total, detail)
               ? SQ_OK
               : sq_fail(j->err, SQ_ECANCELLED, "stopped; what is done is kept in '%s'",
                         j->out.partial);
}

/* null for what is no number: the weights themselves may hold NaN. */
static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *entry(const job *j, const sq_linear *l, const sq_codes *c, const sq_tap_result *r,
                     int i) {
    const sq_plan_row *row = sq_plan_find(&j->plan, l);
    const sq_grid *g = &c->grid;
    json_t *e = json_pack("{s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:o, s:s?, s:s?}", "name",
                          l->file_name, "method", r->method[i] == NULL ? "rtn" : r->method[i],
                          "bits", g->bits, "group_size", (json_int_t)g->group, "padded_columns",
                          (json_int_t)(g->k_padded - g->k), "error", number(r->error[i]),
                          "rtn_error", number(r->rtn_error[i]), "signal", number(r->signal[i]),
                          "fallback", r->fallback[i], "note", row->note);
    return e;
}

/* ---- one layer ---- */

/* f32 weights of the linears of one tap, with the scales that other taps folded into their rows. */
static sq_status load_group(job *j, sq_tap_group *g, const sq_block *b, const sq_block_rows *rows,
                            int tap, float *const *row_scale) {
    for (size_t i = 0; i < rows->n_linears; i++) {
        const sq_linear_row *row = &rows->linears[i];
        const sq_linear *l = &b->linears[row->role];
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
static float *row_divisors(const job *j, const sq_fold_row *f, const float *scale, int64_t n) {
    const sq_config *c = &j->net->config;
    float *d = sq_alloc((size_t)n, sizeof *d, "folded scales", j->err);
    int64_t share = f->per_kv ? c->heads / c->kv_heads : 1, hd = c->head_dim;
    for (int64_t r = 0; d != NULL && r < n; r++) {
        d[r] = share == 1 ? scale[r] : scale[r / hd * share * hd + r % hd];
    }
    return d;
}

typedef struct layer_state {
    const sq_block *b;
    const sq_block_rows *rows;
    float *row_scale[SQ_L_TEXT_COUNT]; /* divisors of a linear's rows and bias, by role */
    float *norm_scale[2];              /* divisors of a norm */
    float *after[SQ_L_TEXT_COUNT];     /* [n][k], --sequential: what the codes stand for, in the
                                          layer's own channels */
    json_t *entries;
} layer_state;

static sq_status write_group(job *j, const layer_state *s, const sq_tap_group *g,
                             const sq_tap_result *r) {
    double t = sq_now();
    for (int i = 0; i < g->n; i++) {
        sq_status st = sq_output_codes(&j->out, g->linears[i], &r->codes[i], j->err);
        if (st != SQ_OK) {
            return st;
        }
        json_array_append_new(s->entries, entry(j, g->linears[i], &r->codes[i], r, i));
    }
    j->write_s += sq_now() - t;
    return SQ_OK;
}

/* Keeps what the codes of a tap stand for: the matrices that they were made from are overwritten.
 */
static void keep_after(layer_state *s, sq_tap_group *g, const sq_tap_result *r) {
    for (int i = 0; i < g->n; i++) {
        int role = (int)(g->linears[i] - s->b->linears);
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

static sq_status quantize_group(job *j, layer_state *s, int tap, const sq_stat *stat, int folds) {
    const sq_config *c = &j->net->config;
    const sq_fold_row *f = fold_of(s->rows, tap);
    sq_tap_group g = {.share = 1, .head_dim = c->head_dim};
    sq_tap_result r = {0};
    sq_status st;
    SQ_TRY(load_group(j, &g, s->b, s->rows, tap, s->row_scale));
    if (g.n == 0) {
        return SQ_OK;
    }
    g.share = f != NULL && f->per_kv ? c->heads / c->kv_heads : 1;
    SQ_TRY(sq_quantize_tap(&g, stat, folds, &r, j->err));
    SQ_TRY(write_group(j, s, &g, &r));
    if (j->o->sequential) {
        keep_after(s, &g, &r);
    }
    if (r.scale != NULL && f->linear >= 0) {
        s->row_scale[f->linear] = row_divisors(j, f, r.scale, s->b->linears[f->linear].weight.n);
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
static sq_status write_vector(job *j, const char *stem, const char *suffix, const float *values,
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

static sq_status write_rest(job *j, const layer_state *s) {
    const int64_t *dims = j->net->config.dims;
    sq_status st;
    for (size_t i = 0; i < s->rows->n_norms; i++) {
        const sq_norm *n = &s->b->norms[i];
        int64_t width = dims[s->rows->norms[i].dim];
        SQ_TRY(write_vector(j, n->file_name, ".weight", n->weight, s->norm_scale[i], width));
        SQ_TRY(write_vector(j, n->file_name, ".bias", n->bias, s->norm_scale[i], width));
    }
    for (size_t i = 0; i < s->rows->n_linears; i++) {
        int role = s->rows->linears[i].role;
        const sq_linear *l = &s->b->linears[role];
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
static int may_fold(const job *j, const layer_state *s, int tap) {
    const sq_fold_row *f = fold_of(s->rows, tap);
    if (f == NULL || f->linear < 0) {
        for (size_t i = 0; f != NULL && i < s->rows->n_linears;
             i++) { /* a norm feeds all linears of its tap */
            const sq_plan_row *p = sq_plan_find(&j->plan, &s->b->linears[s->rows->linears[i].role]);
            if (s->rows->linears[i].tap == tap && !p->quantize) {
                return 0;
            }
        }
        return f != NULL;
    }
    return sq_plan_find(&j->plan, &s->b->linears[f->linear])->quantize;
}

/* --sequential: the samples go on through the layer as it was quantized. */
static sq_status advance(job *j, int layer, const layer_state *s) {
    sq_block *b = &j->net->layers[layer];
    sq_weight was[SQ_L_TEXT_COUNT];
    sq_status st = SQ_OK;
    double t = sq_now();
    for (int i = 0; i < SQ_L_TEXT_COUNT; i++) {
        was[i] = b->linears[i].weight;
    }
    for (int i = 0; i < SQ_L_TEXT_COUNT; i++) {
        if (s->after[i] != NULL) {
            SQ_TRY(sq_weight_dense(&b->linears[i].weight, SQ_F32, s->after[i], was[i].n, was[i].k,
                                   j->err));
        }
    }
    SQ_TRY(sq_hidden_layer(&j->hidden, layer, NULL, 0, j->err));
fail:
    for (int i = 0; i < SQ_L_TEXT_COUNT; i++) {
        b->linears[i].weight = was[i];
    }
    j->calibrate_s += sq_now() - t;
    return st;
}

static sq_status quantize_block(job *j, const sq_block *b, const sq_block_rows *rows,
                                const sq_stat *stats, const char *unit) {
    layer_state s = {.b = b, .rows = rows, .entries = json_array()};
    sq_status st = s.entries == NULL ? SQ_ENOMEM : SQ_OK;
    double t = sq_now(), w = j->write_s;
    for (int tap = rows->n_taps - 1; st == SQ_OK && tap >= 0; tap--) {
        /* Folding into a linear must happen before that linear is quantized: from the last tap to
         * the first. */
        const sq_stat *stat = stats == NULL ? NULL : &stats[tap];
        st = quantize_group(j, &s, tap, stat, stat != NULL && may_fold(j, &s, tap));
    }
    if (st == SQ_OK) {
        st = write_rest(j, &s);
    }
    j->quantize_s += sq_now() - t - (j->write_s - w);
    if (st == SQ_OK) {
        st = sq_output_commit(&j->out, unit, s.entries, j->err);
    } else {
        json_decref(s.entries);
    }
    if (st == SQ_OK && stats != NULL && j->o->sequential) {
        st = advance(j, (int)(b - j->net->layers), &s);
    }
    for (int i = 0; i < SQ_L_TEXT_COUNT; i++) {
        sq_free(s.row_scale[i]);
        sq_free(s.after[i]);
    }
    sq_free(s.norm_scale[0]);
    sq_free(s.norm_scale[1]);
    return st;
}

/* ---- the whole ---- */

static void close_stats(sq_stat *stats, int n) {
    for (int i = 0; i < n; i++) {
        sq_stat_close(&stats[i]);
    }
}

/* Statistics of layer l: from the file, or by running the samples through it (look: and leaving
 * them where they are). */
static sq_status layer_stats(job *j, int l, sq_stat *stats, int collect, int look) {
    const sq_block_rows *rows = &j->net->config.text->text;
    sq_stat_set set = {j->net->layers[l].linears[SQ_L_Q].tap, rows->n_taps, stats};
    sq_tap_sink sink = {sq_stat_set_sink, &set};
    if (j->stats_file == NULL) {
        double t = sq_now();
        sq_status st = sq_hidden_layer(&j->hidden, l, collect ? &sink : NULL, look, j->err);
        j->calibrate_s += sq_now() - t;
        return st;
    }
    sq_status st = SQ_OK;
    for (int i = 0; collect && st == SQ_OK && i < rows->n_taps; i++) {
        int64_t k = 0;
        for (size_t r = 0; r < rows->n_linears; r++) {
            k = rows->linears[r].tap == i ? j->net->config.dims[rows->linears[r].in] : k;
        }
        st = sq_stat_load(&stats[i], j->stats_file, sq_net_tap_name(j->net, set.first + i), k,
                          j->err);
    }
    return st;
}

static sq_status quantize_text(job *j) {
    const sq_config *c = &j->net->config;
    const sq_block_rows *rows = &c->text->text;
    int awq = j->stats_file != NULL || j->samples.n > 0;
    for (int l = 0; l < c->layers; l++) {
        char unit[32];
        snprintf(unit, sizeof unit, "text.%d", l);
        sq_stat stats[8] = {{0}};
        /* What a layer became is not kept, so --sequential quantizes all of them again. */
        int done = sq_output_done(&j->out, unit) != NULL && !j->o->sequential;
        sq_status st = awq ? layer_stats(j, l, stats, !done, j->o->sequential) : SQ_OK;
        if (st == SQ_OK && !done) {
            st = quantize_block(j, &j->net->layers[l], rows, awq ? stats : NULL, unit);
        }
        close_stats(stats, 8);
        if (st == SQ_OK) {
            st = tick(j, "quantize", l + 1, c->layers, unit);
        }
        if (st != SQ_OK) {
            return st;
        }
    }
    return SQ_OK;
}

/* Tower and merger have no statistics: round to nearest. */
static sq_status quantize_vision(job *j) {
    const sq_config *c = &j->net->config;
    if (c->tower == NULL) {
        return SQ_OK;
    }
    for (int l = 0; l <= c->v_layers; l++) {
        char unit[32];
        snprintf(unit, sizeof unit, "vision.%d", l);
        const sq_block *b = l < c->v_layers ? &j->net->v_layers[l] : &j->net->merger;
        sq_status st =
            sq_output_done(&j->out, unit) != NULL
                ? SQ_OK
                : quantize_block(j, b, l < c->v_layers ? &c->tower->block : &c->projector->rows,
                                 NULL, unit);
        if (st != SQ_OK) {
            return st;
        }
    }
    return SQ_OK;
}

/* Tensors outside the blocks: embeddings, final norm, head, patch embedding, and harmless extras.
 */
static sq_status copy_outside(job *j) {
    const sq_checkpoint *c = j->net->ckpt;
    if (sq_output_done(&j->out, "rest") != NULL) {
        return SQ_OK;
    }
    double t = sq_now();
    for (size_t i = 0; i < sq_checkpoint_count(c); i++) {
        sq_status st =
            j->net->in_block[i] ? SQ_OK : sq_output_copy(&j->out, sq_checkpoint_at(c, i), j->err);
        if (st != SQ_OK) {
            return st;
        }
    }
    j->write_s += sq_now() - t;
    return sq_output_commit(&j->out, "rest", json_array(), j->err);
}

/* What a resumed run must have in common with the one before. */
static sq_status fingerprint(const char *model, const sq_quantize_options *o, const sq_net *net,
                             char out[17], sq_error *err) {
    sq_buf b = {0};
    char *config = json_dumps(net->config.json, JSON_COMPACT | JSON_SORT_KEYS);
    sq_buf_printf(&b, "%s|%d|%d|%g|%g|%d|%d|", o->format == NULL ? "" : o->format, o->tp,
                  o->mse_range, o->target_bits, o->damp, o->no_act_order, o->sequential);
    sq_buf_printf(&b, "%s|%s|%s|%lld|%d|%s|%lld|%lld|%d|%d|%llu|%zu|", config == NULL ? "" : config,
                  o->method == NULL ? "awq" : o->method, o->scheme == NULL ? "w4a16" : o->scheme,
                  (long long)o->group_size, o->symmetric, o->vision == NULL ? "keep" : o->vision,
                  (long long)o->samples, (long long)o->seq, (int)o->indivisible, o->no_clip,
                  (unsigned long long)sq_checkpoint_bytes(net->ckpt),
                  sq_checkpoint_count(net->ckpt));
    free(config);
    /* A taste of every tensor: equal shapes with other numbers are another model. */
    for (size_t i = 0; i < sq_checkpoint_count(net->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(net->ckpt, i);
        sq_buf_put(&b, t->data, t->bytes < 64 ? t->bytes : 64);
    }
    const char *const files[] = {o->calib, o->stats, o->profile};
    for (int i = 0; i < 3; i++) {
        sq_map m = {0};
        char hash[17] = "";
        if (files[i] != NULL) {
            sq_status st = sq_map_open(&m, files[i], err);
            if (st != SQ_OK) {
                sq_buf_free(&b);
                return st;
            }
            sq_hash_text(m.data, m.size, hash);
            sq_map_close(&m);
        }
        sq_buf_puts(&b, hash);
    }
    (void)model;
    sq_status st = b.failed ? sq_fail_nomem(err, "a fingerprint", b.len) : SQ_OK;
    if (st == SQ_OK) {
        sq_hash_text(b.data, b.len, out);
    }
    sq_buf_free(&b);
    return st;
}

static sq_status read_data(job *j, const char *dir) {
    double t = sq_now();
    int64_t max = j->o->samples > 0 ? j->o->samples : 128;
    sq_status st = sq_samples_read(&j->samples, &j->front, j->o->calib, max, j->o->seq, 1, j->err);
    if (st == SQ_OK && j->samples.tokens == 0) {
        st = sq_fail(j->err, SQ_EFORMAT, "'%s' gives no tokens to calibrate on", j->o->calib);
    }
    if (st == SQ_OK) {
        sq_progress_note(j->progress, "calibration: %zu samples, %lld tokens", j->samples.n,
                         (long long)j->samples.tokens);
        st = sq_hidden_open(&j->hidden, j->net, &j->front, &j->samples, j->o->max_ram, dir,
                            j->progress, j->err);
    }
    j->calibrate_s += sq_now() - t;
    return st;
}

static void gather(job *j) {
    const sq_config *c = &j->net->config;
    j->layers = json_array();
    for (int64_t l = 0; l <= c->v_layers + c->layers; l++) {
        char unit[32];
        int64_t text = l - c->v_layers - 1;
        snprintf(unit, sizeof unit, text < 0 ? "vision.%lld" : "text.%lld",
                 (long long)(text < 0 ? l : text));
        json_array_extend(j->layers, (json_t *)(uintptr_t)sq_output_done(&j->out, unit));
    }
}

static uint64_t folder_bytes(const char *dir) {
    sq_checkpoint *c;
    uint64_t n = 0;
    if (sq_checkpoint_open(&c, dir, NULL) == SQ_OK) {
        n = sq_checkpoint_bytes(c);
        sq_checkpoint_close(&c);
    }
    return n;
}

static void job_close(job *j) {
    sq_hidden_close(&j->hidden);
    sq_samples_close(&j->samples);
    sq_output_close(&j->out);
    sq_plan_close(&j->plan);
    sq_mixed_close(&j->mixed);
    sq_checkpoint_close(&j->stats_file);
    sq_frontend_close(&j->front);
    sq_net_close(&j->net);
    json_decref(j->layers);
}

static void note_padding(const job *j) {
    if (j->plan.note[0] != '\0') {
        sq_progress_note(j->progress, "%s", j->plan.note);
    }
    for (size_t i = 0; i < j->plan.n; i++) {
        const sq_plan_row *r = &j->plan.rows[i];
        if (r->note != NULL) {
            sq_progress_note(j->progress, "%s: %lld columns, group %lld: %s", r->linear->file_name,
                             (long long)r->linear->weight.k, (long long)r->grid.group, r->note);
        }
    }
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void put_word(json_t *words, const char *flag, const char *value) {
    if (value != NULL) {
        json_array_append_new(words, json_string(flag));
        json_array_append_new(words, json_string(value));
    }
}

static void put_number(json_t *words, const char *flag, double value) {
    char text[32];
    snprintf(text, sizeof text, "%.10g", value);
    put_word(words, flag, value == 0 ? NULL : text);
}

static void put_flag(json_t *words, const char *flag, int on) {
    if (on) {
        json_array_append_new(words, json_string(flag));
    }
}

/* The words of the command line that gives the same folder; files by their names alone. */
static json_t *options_of(const sq_quantize_options *o) {
    static const char *const indivisible[] = {NULL, "smaller-group", "channel", "keep"};
    json_t *w = json_array();
    put_word(w, "--method", o->method == NULL ? "awq" : o->method);
    put_word(w, "--profile", o->profile == NULL ? NULL : base_name(o->profile));
    put_word(w, "--scheme", o->scheme);
    put_number(w, "--group-size", (double)o->group_size);
    put_number(w, "--target-bits", o->target_bits);
    put_flag(w, "--sym", o->symmetric);
    put_word(w, "--vision", o->vision);
    put_word(w, "--calib", o->calib == NULL ? NULL : base_name(o->calib));
    put_word(w, "--stats", o->stats == NULL ? NULL : base_name(o->stats));
    put_number(w, "--samples", (double)o->samples);
    put_number(w, "--seq", (double)o->seq);
    put_number(w, "--damp", o->damp);
    put_word(w, "--on-indivisible", indivisible[o->indivisible]);
    put_flag(w, "--no-act-order", o->no_act_order);
    put_flag(w, "--sequential", o->sequential);
    put_flag(w, "--mse-range", o->mse_range);
    put_flag(w, "--no-clip", o->no_clip);
    return w;
}

/* Lays the options into the folder's record, so that a report can name the command. */
static sq_status record_options(const job *j, const char *out) {
    sq_arena a = {0};
    json_t *record = NULL;
    char *path = sq_path_join(&a, out, "squint.json", j->err);
    sq_status st = path == NULL ? SQ_ENOMEM : sq_json_load(path, &record, j->err);
    if (st == SQ_OK) {
        json_object_set_new(record, "options", options_of(j->o));
        st = sq_json_save(path, record, j->err);
    }
    json_decref(record);
    sq_arena_free(&a);
    return st;
}

/* --target-bits: a pass over the data that measures, before anything is written. */
static sq_status mix_plan(job *j) {
    const sq_config *c = &j->net->config;
    sq_status st;
    SQ_TRY(sq_mixed_open(&j->mixed, &j->plan, j->net, j->o->target_bits, j->err));
    for (int l = 0; l < c->layers; l++) {
        sq_stat stats[8] = {{0}};
        st = layer_stats(j, l, stats, 1, 0);
        st = st == SQ_OK ? sq_mixed_measure(&j->mixed, l, stats, j->err) : st;
        close_stats(stats, 8);
        SQ_TRY(st);
        if (!sq_progress_tick(j->progress, "measure", l + 1, c->layers, NULL)) {
            st = sq_fail(j->err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    sq_mixed_decide(&j->mixed);
fail:
    return st;
}

static sq_status make_folder(job *j, const char *model, const char *out) {
    char mark[17];
    const sq_quantize_options *o = j->o;
    sq_status st;
    SQ_TRY(sq_net_open(&j->net, model, j->err));
    SQ_TRY(sq_plan_make(&j->plan, j->net, o, j->err));
    int data = sq_policy_needs_data(&j->plan.policy);
    SQ_TRY(fingerprint(model, o, j->net, mark, j->err));
    if (data && o->stats != NULL) {
        SQ_TRY(sq_checkpoint_open(&j->stats_file, o->stats, j->err));
    }
    if (data && j->stats_file == NULL) {
        SQ_TRY(sq_frontend_open(&j->front, model, &j->net->config, j->err));
    }
    if (o->target_bits != 0) {
        const char *slash = strrchr(out, '/');
        char dir[1024] = ".";
        if (slash != NULL) {
            snprintf(dir, sizeof dir, "%.*s", (int)(slash - out + 1), out);
        }
        st = j->stats_file == NULL ? read_data(j, dir) : SQ_OK;
        SQ_TRY(st);
        SQ_TRY(mix_plan(j));
        SQ_TRY(sq_plan_check_layout(&j->plan, j->err));
        sq_hidden_close(&j->hidden);
        sq_samples_close(&j->samples);
    }
    if (j->plan.ranks > 1) {
        SQ_TRY(sq_split_plan(&j->plan, j->net, j->err));
    }
    SQ_TRY(sq_output_open(&j->out, j->net, &j->plan, model, out, mark, !o->no_resume, j->err));
    note_padding(j);
    if (j->out.resumed) {
        sq_progress_note(j->progress, "resuming '%s'", j->out.partial);
    }
    if (data && j->stats_file == NULL) {
        SQ_TRY(read_data(j, j->out.partial));
    }
    SQ_TRY(quantize_vision(j));
    SQ_TRY(quantize_text(j));
    SQ_TRY(copy_outside(j));
    gather(j);
    double t = sq_now();
    SQ_TRY(sq_output_finish(&j->out, j->layers, j->err));
    SQ_TRY(record_options(j, out));
    j->write_s += sq_now() - t;
fail:
    return st;
}

sq_status sq_quantize_run(const char *model, const char *out, const sq_quantize_options *o,
                          const sq_progress *progress, json_t **report, sq_error *err) {
    job j = {.o = o, .progress = progress, .err = err};
    double start = sq_now(), verify_s = 0;
    sq_status st = make_folder(&j, model, out);
    json_t *verified = NULL;
    if (st == SQ_OK && !o->no_verify) {
        double t = sq_now();
        sq_verify_options v = {.against = model, .level = "layers"};
        st = sq_verify_run(out, &v, progress, &verified, err);
        verify_s = sq_now() - t;
    }
    if (st == SQ_OK || st == SQ_ECHECK) {
        *report =
            json_pack("{s:s, s:{s:f, s:f, s:f, s:f, s:f}, s:I, s:O, s:I, s:I, s:b, s:b, s:o?}",
                      "output", out, "seconds", "calibrate", j.calibrate_s, "quantize",
                      j.quantize_s, "write", j.write_s, "verify", verify_s, "total",
                      sq_now() - start, "peak_rss_bytes", (json_int_t)sq_peak_rss(), "layers",
                      j.layers, "bytes_before", (json_int_t)sq_checkpoint_bytes(j.net->ckpt),
                      "bytes_after", (json_int_t)folder_bytes(out), "resumed", j.out.resumed,
                      "sequential", o->sequential, "verify", verified);
    } else {
        json_decref(verified);
    }
    if (*report != NULL && o->target_bits != 0) {
        json_object_set_new(*report, "bits", json_real(j.mixed.bits));
    }
    if (*report != NULL && o->tp > 1) {
        json_object_set_new(*report, "tp", sq_split_record(&j.plan));
    }
    job_close(&j);
    return st;
}

/* ---- statistics alone ---- */

/* The layout of the whole file before any work: one layer's statistics are in memory at a time. */
static sq_status stat_specs(const job *j, sq_arena *a, sq_tensor_spec **specs, size_t *n) {
    const sq_config *c = &j->net->config;
    const sq_block_rows *rows = &c->text->text;
    int first = j->net->layers[0].linears[SQ_L_Q].tap, taps = (int)c->layers * rows->n_taps;
    *n = 0;
    *specs = sq_arena_alloc(a, (size_t)taps * SQ_STAT_PARTS, sizeof **specs, j->err);
    for (int t = 0; *specs != NULL && t < taps; t++) {
        int64_t k = 0;
        for (size_t r = 0; r < rows->n_linears; r++) {
            k = rows->linears[r].tap == t % rows->n_taps ? c->dims[rows->linears[r].in] : k;
        }
        sq_stat_part parts[SQ_STAT_PARTS];
        sq_stat_parts(&(sq_stat){0}, k, parts);
        for (int p = 0; p < SQ_STAT_PARTS; p++) {
            char *name = sq_arena_printf(a, j->err, "%s.%s", sq_net_tap_name(j->net, first + t),
                                         parts[p].suffix);
            if (name == NULL) {
                return SQ_ENOMEM;
            }
            (*specs)[(*n)++] = (sq_tensor_spec){
                name, parts[p].type, parts[p].rank, {parts[p].shape[0], parts[p].shape[1]}};
        }
    }
    return *specs == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status put_stat(const job *j, sq_st_writer *w, const sq_tensor_spec *specs, sq_stat *s) {
    sq_stat_part parts[SQ_STAT_PARTS];
    sq_status st =
        s->k == 0 ? sq_fail(j->err, SQ_EINTERNAL, "'%s' saw no rows", specs[0].name) : SQ_OK;
    sq_stat_parts(s, s->k, parts);
    for (int p = 0; st == SQ_OK && p < SQ_STAT_PARTS; p++) {
        st = sq_st_writer_put(w, specs[p].name, parts[p].data, parts[p].bytes, j->err);
    }
    return st;
}

/* Runs the samples layer by layer into dir/model.safetensors. */
static sq_status write_stats(job *j, const char *dir) {
    const sq_config *c = &j->net->config;
    int taps = c->text->text.n_taps;
    sq_arena a = {0};
    sq_tensor_spec *specs;
    sq_st_writer *w = NULL;
    size_t n;
    sq_status st;
    SQ_TRY(stat_specs(j, &a, &specs, &n));
    SQ_TRY(sq_st_writer_open(&w, dir, specs, n, 0, 0, j->err));
    for (int l = 0; l < c->layers; l++) {
        sq_stat stats[8] = {{0}};
        st = layer_stats(j, l, stats, 1, 0);
        for (int t = 0; st == SQ_OK && t < taps; t++) {
            st = put_stat(j, w, specs + (l * taps + t) * SQ_STAT_PARTS, &stats[t]);
        }
        close_stats(stats, 8);
        SQ_TRY(st);
        if (!sq_progress_tick(j->progress, "calibrate", l + 1, c->layers, NULL)) {
            st = sq_fail(j->err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    st = sq_st_writer_finish(&w, j->err);
fail:
    sq_st_writer_close(&w);
    sq_arena_free(&a);
    return st;
}

sq_status sq_calibrate_run(const char *model, const char *stats, const sq_quantize_options *o,
                           const sq_progress *progress, json_t **report, sq_error *err) {
    job j = {.o = o, .progress = progress, .err = err};
    sq_arena a = {0};
    double start = sq_now();
    sq_status st;
    if (o->calib == NULL) {
        return sq_fail(err, SQ_EARG, "calibration needs data; wanted --calib FILE.jsonl");
    }
    char *dir = sq_arena_printf(&a, err, "%s.partial", stats);
    char *file = sq_arena_printf(&a, err, "%s.partial/model.safetensors", stats);
    if (dir == NULL || file == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    SQ_TRY(sq_net_open(&j.net, model, err));
    SQ_TRY(sq_frontend_open(&j.front, model, &j.net->config, err));
    SQ_TRY(sq_make_dirs(dir, err));
    SQ_TRY(read_data(&j, dir));
    SQ_TRY(write_stats(&j, dir));
    if (rename(file, stats) != 0) {
        st = sq_fail_errno(err, "cannot rename to", stats);
        goto fail;
    }
    *report = json_pack("{s:s, s:I, s:I, s:f, s:I}", "output", stats, "tokens",
                        (json_int_t)j.samples.tokens, "samples", (json_int_t)j.samples.n, "seconds",
                        sq_now() - start, "peak_rss_bytes", (json_int_t)sq_peak_rss());
fail:
    job_close(&j);
    if (dir != NULL) {
        sq_remove_tree(dir, NULL);
    }
    sq_arena_free(&a);
    return st;
}
