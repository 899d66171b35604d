/* calibrate: samples go through the original blocks one by one, and what each linear's inputs are
 * like is kept. quantize works from the same, in memory or from the file. */
#include <stdio.h>

#include "base/log.h"
#include "quant/fingerprint.h"
#include "quant/finite.h"
#include "quant/job.h"
#include "quant/journal.h"
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
    sq_status st =
        sq_samples_read(&j->samples, &j->front, j->o->calib, max, j->o->seq, SQ_LOAD_SIZES, j->err);
    if (st == SQ_OK && j->samples.tokens == 0) {
        st = sq_fail(j->err, SQ_EFORMAT, "'%s' gives no tokens to calibrate on", j->o->calib);
    }
    if (st == SQ_OK) {
        j->head = sq_stats_head_of(j->model, &j->samples);
        sq_progress_note(j->progress,
                         "calibration: %zu samples, %lld tokens, %lld of them of pictures; %lld "
                         "samples dropped, %lld beyond --samples",
                         j->samples.n, (long long)j->samples.tokens,
                         (long long)j->samples.picture_tokens, (long long)j->samples.dropped,
                         (long long)j->samples.unused);
        sq_hidden_options h = {sq_policy_vision(&j->plan.policy), j->o->max_ram, dir};
        st = sq_hidden_open(&j->hidden, j->net, &j->samples, &h, j->progress, j->err);
    }
    j->embed_s += sq_now() - t;
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
        sq_stat_set set = {s->tap, s->rows->n_taps, stats, 0};
        int last = s->part == SQ_PART_TEXT && s->index == j->net->config.layers - 1;
        sq_tap_sink sink = {sq_stat_set_sink, &set, look || last};
        double t = sq_now();
        st = sq_hidden_stage(&j->hidden, s, stats == NULL ? NULL : &sink, look, j->err);
        for (int i = 0; stats != NULL && i < s->rows->n_taps; i++) {
            sq_stat_finish(&stats[i]);
        }
        j->statistics_s += set.seconds;
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

typedef struct calibrating {
    sq_job job;
    char *dir; /* STATS.partial */
    json_t *journal;
    sq_st_writer *writer;
    int resumed;
} calibrating;

/* The partial file of an earlier run, or a new one. */
static sq_status open_file(calibrating *c, int64_t first, const char *mark, sq_error *err) {
    sq_status st = sq_stats_file_create(&c->writer, c->dir, c->job.net, first, c->resumed, err);
    if (st == SQ_OK && c->resumed && !sq_st_writer_kept(c->writer)) { /* what is done is gone */
        sq_st_writer_close(&c->writer);
        json_decref(c->journal);
        SQ_TRY(sq_journal_open(&c->journal, c->dir, mark, 0, &c->resumed, err));
        SQ_TRY(sq_stats_file_create(&c->writer, c->dir, c->job.net, first, 0, err));
    }
fail:
    return st;
}

/* Runs the samples stage by stage into dir/model.safetensors. */
static sq_status write_stats(calibrating *c, const char *mark, sq_error *err) {
    sq_job *j = &c->job;
    int64_t stages = sq_stage_count(j->net), first = j->hidden.n_pictures > 0 ? 0 : first_text(j);
    sq_status st;
    SQ_TRY(open_file(c, first, mark, err));
    SQ_TRY(sq_stats_file_head(c->writer, &j->head, err));
    for (int64_t i = first; i < stages; i++) {
        sq_stat stats[SQ_STAGE_TAPS] = {{0}};
        sq_stage s = sq_stage_at(j->net, i);
        int done = sq_journal_done(c->journal, s.unit) != NULL;
        st = sq_job_stats(j, &s, done ? NULL : stats, 0);
        for (int t = 0; st == SQ_OK && !done && t < s.rows->n_taps; t++) {
            st = sq_stats_file_put(c->writer, sq_net_tap_name(j->net, s.tap + t), &stats[t], err);
        }
        sq_stats_close(stats);
        SQ_TRY(st);
        if (!done) {
            SQ_TRY(sq_st_writer_sync(c->writer, err));
            SQ_TRY(sq_journal_commit(c->journal, c->dir, s.unit, json_true(), err));
        }
        if (!sq_progress_tick(j->progress, "calibrate", i + 1 - first, stages - first, s.unit)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped; what is done is kept in '%s'", c->dir);
            goto fail;
        }
    }
    st = sq_st_writer_finish(&c->writer, err);
fail:
    sq_st_writer_close(&c->writer);
    return st;
}

static sq_status calibrate(calibrating *c, const char *model, const char *stats, sq_error *err) {
    sq_job *j = &c->job;
    char mark[17];
    sq_arena a = {0};
    sq_status st;
    SQ_TRY(sq_net_open(&j->net, model, err));
    sq_net_use_bf16(j->net);
    SQ_TRY(sq_policy_read(&j->plan.policy, j->o, err));
    SQ_TRY(sq_check_finite(j->net, err));
    SQ_TRY(sq_model_mark(j->net, &j->model, err));
    SQ_TRY(sq_fingerprint("calibrate", j->net, j->o, 0, mark, err));
    SQ_TRY(sq_frontend_open(&j->front, model, &j->net->config, err));
    SQ_TRY(sq_journal_open(&c->journal, c->dir, mark, !j->o->no_resume, &c->resumed, err));
    if (c->resumed) {
        sq_progress_note(j->progress, "resuming '%s'", c->dir);
    }
    SQ_TRY(sq_job_read_data(j, c->dir));
    SQ_TRY(write_stats(c, mark, err));
    char *file = sq_path_join(&a, c->dir, "model.safetensors", err);
    if (file == NULL) {
        st = SQ_ENOMEM;
    } else if (rename(file, stats) != 0) {
        st = sq_fail_errno(err, "cannot rename to", stats);
    } else {
        sq_remove_tree(c->dir, NULL);
    }
fail:
    if (st != SQ_OK) {
        sq_journal_abandon(c->journal, c->dir);
    }
    json_decref(c->journal);
    sq_arena_free(&a);
    return st;
}

void sq_job_report_data(const sq_job *j, json_t *report) {
    const sq_stats_head *h = &j->head;
    if (h->version != 0) {
        json_object_update_new(report,
                               json_pack("{s:I, s:I, s:I, s:I, s:I}", "tokens", h->tokens,
                                         "picture_tokens", h->picture_tokens, "samples", h->samples,
                                         "dropped", h->dropped, "unused", h->unused));
    }
}

sq_status sq_calibrate_run(const char *model, const char *stats, const sq_quantize_options *o,
                           const sq_progress *progress, json_t **report, sq_error *err) {
    calibrating c = {.job = {.o = o, .progress = progress, .err = err}};
    sq_arena a = {0};
    double start = sq_now();
    if (o->calib == NULL) {
        return sq_fail(err, SQ_EARG, "calibration needs data; wanted --calib FILE.jsonl");
    }
    c.dir = sq_arena_printf(&a, err, "%s.partial", stats);
    sq_memory_reuse(1);
    sq_status st = c.dir == NULL ? SQ_ENOMEM : calibrate(&c, model, stats, err);
    sq_memory_reuse(0);
    if (st == SQ_OK) {
        *report = json_pack("{s:s, s:f, s:I, s:b}", "output", stats, "seconds", sq_now() - start,
                            "peak_rss_bytes", (json_int_t)sq_peak_rss(), "resumed", c.resumed);
        sq_job_report_data(&c.job, *report);
    }
    sq_job_close(&c.job);
    sq_arena_free(&a);
    return st;
}
