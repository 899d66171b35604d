/* calibrate: samples go through the original blocks one by one, and what each linear's inputs are
 * like is kept. quantize works from the same, in memory or from the file. */
#include <stdio.h>

#include "base/log.h"
#include "quant/job.h"
#include "quant/quant.h"

/* The first stage of the decoder. */
static int64_t first_text(const sq_job *j) {
    return sq_stage_count(j->net) - j->net->config.layers;
}

void sq_job_close(sq_job *j) {
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

sq_status sq_job_read_data(sq_job *j, const char *dir) {
    double t = sq_now();
    int64_t max = j->o->samples > 0 ? j->o->samples : 128;
    sq_status st = sq_samples_read(&j->samples, &j->front, j->o->calib, max, j->o->seq,
                                   SQ_LOAD_SHAPES, j->err);
    if (st == SQ_OK && j->samples.tokens == 0) {
        st = sq_fail(j->err, SQ_EFORMAT, "'%s' gives no tokens to calibrate on", j->o->calib);
    }
    if (st == SQ_OK) {
        sq_progress_note(j->progress, "calibration: %zu samples, %lld tokens", j->samples.n,
                         (long long)j->samples.tokens);
        sq_hidden_options h = {&j->front, sq_policy_vision(&j->plan.policy), j->o->max_ram, dir};
        st = sq_hidden_open(&j->hidden, j->net, &j->samples, &h, j->progress, j->err);
    }
    j->calibrate_s += sq_now() - t;
    return st;
}

void sq_stats_close(sq_stat stats[SQ_STAGE_TAPS]) {
    for (int i = 0; i < SQ_STAGE_TAPS; i++) {
        sq_stat_close(&stats[i]);
    }
}

/* Whether the file holds the stage: it may be of the language model alone. */
static int in_file(const sq_job *j, const sq_stage *s) {
    char key[600];
    snprintf(key, sizeof key, "%s.rows", sq_net_tap_name(j->net, s->tap));
    return s->part == SQ_PART_TEXT || sq_checkpoint_find(j->stats_file, key) != NULL;
}

sq_status sq_job_stats(sq_job *j, const sq_stage *s, sq_stat *stats, int look) {
    sq_status st = SQ_OK;
    if (j->stats_file == NULL) {
        sq_stat_set set = {s->tap, s->rows->n_taps, stats};
        sq_tap_sink sink = {sq_stat_set_sink, &set};
        double t = sq_now();
        st = sq_hidden_stage(&j->hidden, s, stats == NULL ? NULL : &sink, look, j->err);
        for (int i = 0; stats != NULL && i < s->rows->n_taps; i++) {
            sq_stat_complete(&stats[i]);
        }
        j->calibrate_s += sq_now() - t;
        return st;
    }
    int taps = stats != NULL && in_file(j, s) ? s->rows->n_taps : 0;
    for (int i = 0; st == SQ_OK && i < taps; i++) {
        st = sq_stat_load(&stats[i], j->stats_file, sq_net_tap_name(j->net, s->tap + i),
                          sq_stage_columns(j->net, s, i), j->err);
    }
    return st;
}

/* ---- the file ---- */

/* The layout of the whole file before any work: one block's statistics are in memory at a time. */
static sq_status stat_specs(const sq_job *j, int64_t first, sq_arena *a, sq_tensor_spec **specs,
                            size_t *n, sq_error *err) {
    int64_t stages = sq_stage_count(j->net) - first;
    *n = 0;
    *specs = sq_arena_alloc(a, (size_t)stages * SQ_STAGE_TAPS * SQ_STAT_PARTS, sizeof **specs, err);
    for (int64_t i = 0; *specs != NULL && i < stages; i++) {
        sq_stage s = sq_stage_at(j->net, first + i);
        for (int t = 0; t < s.rows->n_taps; t++) {
            const char *tap = sq_net_tap_name(j->net, s.tap + t);
            sq_stat_part parts[SQ_STAT_PARTS];
            sq_stat_parts(&(sq_stat){0}, sq_stage_columns(j->net, &s, t), parts);
            for (int p = 0; p < SQ_STAT_PARTS; p++) {
                char *name = sq_arena_printf(a, err, "%s.%s", tap, parts[p].suffix);
                if (name == NULL) {
                    return SQ_ENOMEM;
                }
                (*specs)[(*n)++] = (sq_tensor_spec){
                    name, parts[p].type, parts[p].rank, {parts[p].shape[0], parts[p].shape[1]}};
            }
        }
    }
    return *specs == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status put_stat(const sq_job *j, sq_st_writer *w, const sq_tensor_spec *specs,
                          sq_stat *s) {
    sq_stat_part parts[SQ_STAT_PARTS];
    sq_status st =
        s->k == 0 ? sq_fail(j->err, SQ_EINTERNAL, "'%s' saw no rows", specs[0].name) : SQ_OK;
    sq_stat_parts(s, s->k, parts);
    for (int p = 0; st == SQ_OK && p < SQ_STAT_PARTS; p++) {
        st = sq_st_writer_put(w, specs[p].name, parts[p].data, parts[p].bytes, j->err);
    }
    return st;
}

/* Runs the samples stage by stage into dir/model.safetensors. */
static sq_status write_stats(sq_job *j, const char *dir) {
    int64_t stages = sq_stage_count(j->net), first = j->hidden.n_pictures > 0 ? 0 : first_text(j);
    sq_arena a = {0};
    sq_tensor_spec *specs, *at;
    sq_st_writer *w = NULL;
    size_t n;
    sq_status st;
    SQ_TRY(stat_specs(j, first, &a, &specs, &n, j->err));
    SQ_TRY(sq_st_writer_open(&w, dir, specs, n, 0, 0, j->err));
    at = specs;
    for (int64_t i = first; i < stages; i++) {
        sq_stat stats[SQ_STAGE_TAPS] = {{0}};
        sq_stage s = sq_stage_at(j->net, i);
        st = sq_job_stats(j, &s, stats, 0);
        for (int t = 0; st == SQ_OK && t < s.rows->n_taps; t++, at += SQ_STAT_PARTS) {
            st = put_stat(j, w, at, &stats[t]);
        }
        sq_stats_close(stats);
        SQ_TRY(st);
        if (!sq_progress_tick(j->progress, "calibrate", i + 1 - first, stages - first, s.unit)) {
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
    sq_job j = {.o = o, .progress = progress, .err = err};
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
    sq_net_use_bf16(j.net);
    SQ_TRY(sq_policy_read(&j.plan.policy, o, err));
    SQ_TRY(sq_frontend_open(&j.front, model, &j.net->config, err));
    SQ_TRY(sq_make_dirs(dir, err));
    SQ_TRY(sq_job_read_data(&j, dir));
    SQ_TRY(write_stats(&j, dir));
    if (rename(file, stats) != 0) {
        st = sq_fail_errno(err, "cannot rename to", stats);
        goto fail;
    }
    *report = json_pack("{s:s, s:I, s:I, s:f, s:I}", "output", stats, "tokens",
                        (json_int_t)j.samples.tokens, "samples", (json_int_t)j.samples.n, "seconds",
                        sq_now() - start, "peak_rss_bytes", (json_int_t)sq_peak_rss());
fail:
    sq_job_close(&j);
    if (dir != NULL) {
        sq_remove_tree(dir, NULL);
    }
    sq_arena_free(&a);
    return st;
}
