/* quantize: samples go through the original blocks one by one; each block is quantized from its
 * statistics, written and freed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "quant/fingerprint.h"
#include "quant/finite.h"
#include "quant/job.h"
#include "quant/quant.h"
#include "quant/split.h"
#include "quant/target.h"

static sq_status tick(const sq_job *j, const char *stage, int64_t done, int64_t total,
                      const char *detail) {
    return sq_progress_tick(j->progress, stage, done, total, detail)
               ? SQ_OK
               : sq_fail(j->err, SQ_ECANCELLED, "stopped; what is done is kept in '%s'",
                         j->out.partial);
}

/* Tower, merger, decoder. Where a tower is not measured it is rounded to nearest, or kept. */
static sq_status quantize_stages(sq_job *j) {
    int data = j->stats_file != NULL || j->samples.n > 0;
    int64_t n = sq_stage_count(j->net);
    for (int64_t i = 0; i < n; i++) {
        sq_stage s = sq_stage_at(j->net, i);
        sq_stat stats[SQ_STAGE_TAPS] = {{0}};
        /* What a block became is not kept, so --sequential quantizes all of them again. */
        int done = sq_output_done(&j->out, s.unit) != NULL && !j->o->sequential;
        int measured = data && (s.part == SQ_PART_TEXT || sq_policy_vision(&j->plan.policy));
        sq_status st =
            measured ? sq_job_stats(j, &s, done ? NULL : stats, j->o->sequential) : SQ_OK;
        if (st == SQ_OK && !done) {
            st = sq_job_block(j, &s, measured ? stats : NULL);
        }
        sq_stats_close(stats);
        st = st == SQ_OK ? tick(j, "quantize", i + 1, n, s.unit) : st;
        if (st != SQ_OK) {
            return st;
        }
    }
    return SQ_OK;
}

static void gather(sq_job *j) {
    j->layers = json_array();
    for (int64_t i = 0; i < sq_stage_count(j->net); i++) {
        sq_stage s = sq_stage_at(j->net, i);
        json_array_extend(j->layers, (json_t *)(uintptr_t)sq_output_done(&j->out, s.unit));
    }
    json_array_extend(j->layers, (json_t *)(uintptr_t)sq_output_done(&j->out, "rest"));
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

static void note_padding(const sq_job *j) {
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

/* Linears that stay as they are because the group does not divide their columns. */
static json_t *kept(const sq_job *j) {
    json_t *list = json_array();
    for (size_t i = 0; i < j->plan.n; i++) {
        const sq_plan_row *r = &j->plan.rows[i];
        if (r->note != NULL && !r->quantize) {
            json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", r->linear->file_name,
                                                  "columns", (json_int_t)r->linear->weight.k,
                                                  "note", r->note));
        }
    }
    return list;
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
    put_word(w, "--embedding", o->embedding);
    put_word(w, "--lm-head", o->lm_head);
    put_word(w, "--calib", o->calib == NULL ? NULL : base_name(o->calib));
    put_word(w, "--stats", o->stats == NULL ? NULL : base_name(o->stats));
    put_number(w, "--samples", (double)o->samples);
    put_number(w, "--seq", (double)o->seq);
    put_number(w, "--damp", o->damp);
    put_word(w, "--on-indivisible", indivisible[o->indivisible]);
    put_word(w, "--target", o->target);
    put_flag(w, "--no-act-order", o->no_act_order);
    put_flag(w, "--sequential", o->sequential);
    put_flag(w, "--mse-range", o->mse_range);
    put_flag(w, "--no-clip", o->no_clip);
    return w;
}

/* --target-bits: a pass over the data that measures, before anything is written. */
static sq_status mix_plan(sq_job *j) {
    enum { SENSE_SAMPLES = 4, SENSE_TOKENS = 256 };
    sq_samples s = {0};
    sq_status st;
    SQ_TRY(sq_mixed_open(&j->mixed, &j->plan, j->net, j->o->target_bits, j->err));
    for (int64_t i = 0; i < sq_stage_count(j->net); i++) {
        sq_stage stage = sq_stage_at(j->net, i);
        sq_stat stats[SQ_STAGE_TAPS] = {{0}};
        int text = stage.part == SQ_PART_TEXT;
        st = text || j->hidden.n_pictures > 0 ? sq_job_stats(j, &stage, text ? stats : NULL, 0)
                                              : SQ_OK;
        st =
            st == SQ_OK && text ? sq_mixed_measure(&j->mixed, (int)stage.index, stats, j->err) : st;
        sq_stats_close(stats);
        SQ_TRY(st);
        if (!sq_progress_tick(j->progress, "measure", i + 1, sq_stage_count(j->net), stage.unit)) {
            st = sq_fail(j->err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    if (j->o->calib != NULL) {
        int64_t seq = j->o->seq > 0 && j->o->seq < SENSE_TOKENS ? j->o->seq : SENSE_TOKENS;
        SQ_TRY(sq_samples_read(&s, &j->front, j->o->calib, SENSE_SAMPLES, seq, SQ_LOAD_PROMPTS,
                               j->err));
        SQ_TRY(sq_mixed_sense(&j->mixed, &s, j->progress, j->err));
    } else {
        sq_progress_note(j->progress,
                         "mixed plan: by relative errors alone; with --calib each layer's own KL "
                         "counts too");
    }
    sq_mixed_decide(&j->mixed);
fail:
    sq_samples_close(&s);
    return st;
}

static sq_status make_folder(sq_job *j, const char *model, const char *out) {
    char mark[17];
    sq_engine engine;
    const sq_quantize_options *o = j->o;
    uint64_t stats = 0;
    json_t *options = options_of(o);
    sq_status st;
    SQ_TRY(sq_net_open(&j->net, model, j->err));
    sq_net_use_bf16(j->net);
    SQ_TRY(sq_plan_make(&j->plan, j->net, o, j->err));
    int data = sq_policy_needs_data(&j->plan.policy);
    SQ_TRY(sq_check_finite(j->net, j->err));
    SQ_TRY(sq_model_mark(j->net, &j->model, j->err));
    if (data && o->stats != NULL) {
        SQ_TRY(sq_stats_file_open(&j->stats_file, o->stats, j->model, &j->head, &stats, j->err));
    }
    SQ_TRY(sq_fingerprint("quantize", j->net, o, stats, mark, j->err));
    if (data && o->calib != NULL) {
        SQ_TRY(sq_frontend_open(&j->front, model, &j->net->config, j->err));
    }
    if (o->target_bits != 0) {
        const char *slash = strrchr(out, '/');
        char dir[1024] = ".";
        if (slash != NULL) {
            snprintf(dir, sizeof dir, "%.*s", (int)(slash - out + 1), out);
        }
        st = j->stats_file == NULL ? sq_job_read_data(j, dir) : SQ_OK;
        SQ_TRY(st);
        SQ_TRY(mix_plan(j));
        SQ_TRY(sq_plan_check_layout(&j->plan, j->err));
        sq_hidden_close(&j->hidden);
        sq_samples_close(&j->samples);
    }
    if (j->plan.ranks > 1) {
        SQ_TRY(sq_split_plan(&j->plan, j->net, j->err));
    }
    SQ_TRY(sq_target_parse(o->target, &engine, j->err));
    SQ_TRY(sq_target_plan(&j->plan, &j->net->config, engine, &j->plan.half, j->err));
    sq_target_note(engine, j->progress);
    SQ_TRY(sq_output_open(&j->out, j->net, &j->plan, model, out, mark, !o->no_resume, j->err));
    note_padding(j);
    if (j->out.resumed) {
        sq_progress_note(j->progress, "resuming '%s'", j->out.partial);
    }
    if (data && j->stats_file == NULL) {
        SQ_TRY(sq_job_read_data(j, j->out.partial));
    }
    SQ_TRY(quantize_stages(j));
    SQ_TRY(sq_job_outside(j));
    gather(j);
    double t = sq_now();
    SQ_TRY(sq_output_finish(&j->out, j->layers, options, j->err));
    j->write_s += sq_now() - t;
    sq_hidden_close(&j->hidden); /* verifying opens the result, and needs none of it */
    sq_samples_close(&j->samples);
fail:
    json_decref(options);
    return st;
}

static sq_status quantize_folder(const char *model, const char *out, const sq_quantize_options *o,
                                 const sq_progress *progress, json_t **report, sq_error *err) {
    sq_job j = {.o = o, .progress = progress, .err = err};
    double start = sq_now(), verify_s = 0;
    sq_memory_reuse(1);
    sq_status st = make_folder(&j, model, out);
    sq_memory_reuse(0);
    json_t *verified = NULL;
    if (st == SQ_OK && !o->no_verify) {
        double t = sq_now();
        sq_memory_trim(); /* verifying holds other things: not on top of what is left */
        const char *target = o->format != NULL && strcmp(o->format, "gguf") == 0 ? NULL : o->target;
        sq_verify_options v = {.against = model, .level = "layers", .target = target};
        st = sq_verify_run(out, &v, progress, &verified, err);
        verify_s = sq_now() - t;
    }
    if (st == SQ_OK || st == SQ_ECHECK) {
        *report = json_pack(
            "{s:s, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}, s:I, s:O, s:I, s:I, s:b, s:b, s:o?}",
            "output", out, "seconds", "calibrate", j.calibrate_s, "embed", j.embed_s, "statistics",
            j.statistics_s, "quantize", j.quantize_s, "write", j.write_s, "verify", verify_s,
            "total", sq_now() - start, "peak_rss_bytes", (json_int_t)sq_peak_rss(), "layers",
            j.layers, "bytes_before", (json_int_t)sq_checkpoint_bytes(j.net->ckpt), "bytes_after",
            (json_int_t)folder_bytes(out), "resumed", j.out.resumed, "sequential", o->sequential,
            "verify", verified);
    } else {
        json_decref(verified);
    }
    if (*report != NULL && o->target_bits != 0) {
        json_object_set_new(*report, "bits", json_real(j.mixed.bits));
    }
    if (*report != NULL && o->tp > 1) {
        json_object_set_new(*report, "tp", sq_split_record(&j.plan));
    }
    if (*report != NULL) {
        json_object_set_new(*report, "kept", kept(&j));
        sq_job_report_data(&j, *report);
    }
    sq_job_close(&j);
    return st;
}

/* --format gguf: a folder of compressed-tensors beside OUT.gguf first, which resumes and is
 * verified as any other; its codes become blocks, and it goes. */
static sq_status quantize_gguf(const char *model, const char *out, const sq_quantize_options *o,
                               const sq_progress *progress, json_t **report, sq_error *err) {
    sq_quantize_options options = *o;
    sq_gguf_options plain = {0};
    sq_arena a = {0};
    char *work = sq_arena_printf(&a, err, "%s.work", out);
    sq_map m = {0};
    sq_status st = work == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    SQ_TRY(sq_gguf_check_output(out, err));
    if (options.group_size == 0 && options.profile == NULL) {
        options.group_size = 32; /* blocks hold one scale for 32 columns in any case */
    }
    SQ_TRY(sq_remove_tree(work, err)); /* complete, but its run was killed before the end */
    SQ_TRY(quantize_folder(model, work, &options, progress, report, err));
    SQ_TRY(sq_gguf_run(work, out, &plain, progress, err));
    SQ_TRY(sq_remove_tree(work, err));
    SQ_TRY(sq_map_open(&m, out, err));
    json_object_set_new(*report, "output", json_string(out));
    json_object_set_new(*report, "bytes_after", json_integer((json_int_t)m.size));
    sq_map_close(&m);
fail:
    sq_arena_free(&a);
    return st;
}

sq_status sq_quantize_run(const char *model, const char *out, const sq_quantize_options *o,
                          const sq_progress *progress, json_t **report, sq_error *err) {
    int gguf = o->format != NULL && strcmp(o->format, "gguf") == 0;
    return (gguf ? quantize_gguf : quantize_folder)(model, out, o, progress, report, err);
}
