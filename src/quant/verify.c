/* Verification: reopens what was written and proves it, level by level. Every check is a line with
 * its value and limit; one that cannot be made is said, not passed. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "format/qconfig.h"
#include "format/qlinear.h"
#include "quant/compare.h"
#include "quant/output.h"
#include "quant/quant.h"
#include "quant/split.h"
#include "quant/target.h"
#include "quant/verify.h"

static const char *const levels[] = {"structure", "codes", "layers", "cache", "logits"};
enum { N_LEVELS = sizeof levels / sizeof *levels };

void sq_verify_line(sq_verify_state *v, const char *name, int ok, double value, double limit,
                    const char *fmt, ...) {
    char detail[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    json_t *line = json_pack("{s:s, s:b, s:o, s:o, s:s}", "name", name, "ok", ok, "value",
                             isfinite(value) ? json_real(value) : json_null(), "limit",
                             isfinite(limit) ? json_real(limit) : json_null(), "detail", detail);
    json_array_append_new(v->checks, line);
    if (!ok && v->failed++ == 0) {
        snprintf(v->first, sizeof v->first, "%s: %.400s", name, detail);
    }
}

/* ---- structure ---- */

/* Every tensor of the original is there: with the same dimensions (or those of --tp, and zeros), or
 * packed with the architecture's. */
static void check_tensors(sq_verify_state *v) {
    if (v->source == NULL) {
        sq_verify_line(v, "tensors", 1, NAN, NAN, "no original to compare with");
        return;
    }
    int64_t bad = 0, packed = 0;
    const json_t *tp = json_object_get(v->record, "tp");
    char worst[300] = "";
    for (size_t i = 0; i < sq_checkpoint_count(v->source->ckpt); i++) {
        const sq_tensor *a = sq_checkpoint_at(v->source->ckpt, i);
        const sq_tensor *b = sq_checkpoint_find(v->files, a->name);
        char ct[512], laid_out[512];
        size_t n = strlen(a->name);
        snprintf(ct, sizeof ct, "%s_packed", a->name);
        snprintf(laid_out, sizeof laid_out, "%.*s.qweight", n > 7 ? (int)n - 7 : 0, a->name);
        /* int-quantized codes keep the name; they may be wider by their padding */
        int bytes = b != NULL && b->dtype == SQ_I8 && b->rank == 2 && a->rank == 2 &&
                    b->shape[0] == a->shape[0] && b->shape[1] >= a->shape[1];
        if (bytes || (b == NULL && n > 7 &&
                      (sq_checkpoint_find(v->files, ct) != NULL ||
                       sq_checkpoint_find(v->files, laid_out) != NULL))) {
            packed++;
            continue;
        }
        if (b != NULL && tp != NULL && sq_split_widened(tp, a, b)) {
            packed += b->dtype == SQ_I8;
            continue;
        }
        if (b == NULL || b->dtype != a->dtype || b->rank != a->rank ||
            memcmp(a->shape, b->shape, sizeof a->shape[0] * (size_t)a->rank) != 0) {
            bad++;
            snprintf(worst, sizeof worst, "'%.250s' is %s", a->name,
                     b == NULL ? "missing" : "of another shape or type");
        }
    }
    sq_verify_line(v, "tensors", bad == 0, (double)bad, 0,
                   bad == 0 ? "%lld packed, all others as before%s" : "%lld packed; %s",
                   (long long)packed, worst);
}

/* Files that were copied are what they were when written, and what the original has. */
static void check_files(sq_verify_state *v) {
    int64_t bad = 0, n = 0;
    char worst[300] = "";
    const char *name;
    json_t *want;
    json_object_foreach(json_object_get(v->record, "files"), name, want) {
        char hash[17] = "";
        sq_map m;
        char *path = sq_path_join(&v->arena, v->out, name, NULL);
        if (path != NULL && sq_map_open(&m, path, NULL) == SQ_OK) {
            sq_hash_text(m.data, m.size, hash);
            sq_map_close(&m);
        }
        n++;
        if (strcmp(hash, json_string_value(want)) != 0) {
            bad++;
            snprintf(worst, sizeof worst, "'%.200s' was %s", name,
                     hash[0] == '\0' ? "removed" : "altered");
        }
    }
    sq_verify_line(v, "files", bad == 0, (double)bad, 0,
                   bad == 0 ? "%lld files equal byte for byte%s" : "%lld files; %s", (long long)n,
                   worst);
}

typedef struct config_check {
    sq_verify_state *v;
    sq_qconfig *reader;
    int64_t bad, quantized;
    char worst[300];
} config_check;

/* ignore list <=> stored unquantized. */
static sq_status check_module(void *user, sq_linear *l, sq_error *err) {
    config_check *c = user;
    sq_ct_scheme s;
    int named = c->reader != NULL && sq_qconfig_scheme(c->reader, l->file_name, &s);
    (void)err;
    c->quantized += l->quantized;
    if (l->part == SQ_PART_EMBED && !l->quantized) {
        return SQ_OK; /* no Linear: a class of modules does not name it */
    }
    if (named != l->quantized) {
        c->bad++;
        snprintf(c->worst, sizeof c->worst, "'%.200s' is stored %s but named otherwise",
                 l->file_name, l->quantized ? "quantized" : "in high precision");
    }
    return SQ_OK;
}

static void check_config(sq_verify_state *v) {
    config_check c = {.v = v};
    if (v->net->quantization == NULL) {
        sq_verify_line(v, "config", 0, NAN, NAN, "config.json has no quantization_config");
        return;
    }
    if (sq_qconfig_open(&c.reader, v->net->quantization, NULL) == SQ_OK) {
        sq_net_every_linear(v->net, check_module, &c, NULL);
    }
    sq_verify_line(v, "config", c.reader != NULL && c.bad == 0 && c.quantized > 0, (double)c.bad, 0,
                   "%lld linears quantized%s%s", (long long)c.quantized,
                   c.bad == 0 ? ", config and tensors agree" : "; ", c.worst);
    sq_qconfig_close(&c.reader);
}

/* ---- codes ---- */

/* Stored tensors equal what the quantizer gave out. */
static void check_hashes(sq_verify_state *v) {
    int64_t bad = 0, n = 0;
    char worst[300] = "";
    const char *name;
    json_t *want;
    json_object_foreach(json_object_get(v->record, "tensors"), name, want) {
        char hash[17] = "";
        const sq_tensor *t = sq_checkpoint_find(v->files, name);
        if (t != NULL) {
            sq_hash_tensor(t, hash);
        }
        n++;
        if (strcmp(hash, json_string_value(want)) != 0) {
            bad++;
            snprintf(worst, sizeof worst, "'%.200s' %s", name,
                     t == NULL ? "is missing" : "is not what the quantizer wrote");
        }
    }
    sq_verify_line(v, "codes", n > 0 && bad == 0, (double)bad, 0,
                   bad == 0 ? "%lld tensors equal the quantizer's%s" : "%lld tensors; %s",
                   (long long)n, worst);
}

/* Scales that a row of `.scales` really has: gemv's rows are padded with zeros. */
static size_t live_scales(const sq_verify_state *v, const sq_tensor *t) {
    size_t columns = (size_t)t->shape[t->rank - 1];
    sq_qconfig *q = NULL;
    sq_ct_scheme s = {0};
    char stem[512];
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(t->name) - strlen(".scales")), t->name);
    if (v->net != NULL && v->net->quantization != NULL &&
        sq_qconfig_open(&q, v->net->quantization, NULL) == SQ_OK &&
        sq_qconfig_layout(q) == SQ_LAYOUT_AWQ_GEMV && sq_qconfig_scheme(q, stem, &s)) {
        char name[520];
        snprintf(name, sizeof name, "%s.qweight", stem);
        const sq_tensor *w = sq_checkpoint_find(v->files, name);
        columns = w == NULL || s.group_size == 0 ? 1 : (size_t)(w->shape[1] * 8 / s.group_size);
    }
    sq_qconfig_close(&q);
    return columns;
}

/* Scales that are zero, negative or no numbers. */
static int64_t bad_scales(const sq_verify_state *v, const sq_tensor *t, char *worst, size_t cap) {
    size_t es = sq_dtype_size(t->dtype), columns = (size_t)t->shape[t->rank - 1];
    size_t live = sq_ends_with(t->name, ".scales") ? live_scales(v, t) : columns;
    int64_t bad = 0;
    for (size_t k = 0; k < t->bytes / es; k++) {
        float s = 0;
        sq_to_f32(&s, (const char *)t->data + k * es, t->dtype, 1);
        if (k % columns < live && (!(s > 0) || !isfinite(s))) {
            bad++;
            snprintf(worst, cap, "'%.200s' has the scale %g at %zu", t->name, (double)s, k);
        }
    }
    return bad;
}

/* Whether the original of such codes has nothing but rows of one number each. */
static int constant_rows(const sq_verify_state *v, const sq_tensor *codes) {
    char name[512];
    size_t n =
        strlen(codes->name) -
        (sq_ends_with(codes->name, ".qweight") ? strlen(".qweight") : strlen(".weight_packed"));
    snprintf(name, sizeof name, "%.*s.weight", (int)n, codes->name);
    const sq_tensor *t = v->source == NULL ? NULL : sq_checkpoint_find(v->source->ckpt, name);
    if (t == NULL || t->rank != 2 || t->shape[0] < 1) {
        return 0;
    }
    size_t es = sq_dtype_size(t->dtype), row = t->bytes / (size_t)t->shape[0];
    for (int64_t r = 0; r < t->shape[0]; r++) {
        const char *p = (const char *)t->data + (size_t)r * row;
        if (row > es && memcmp(p, p + es, row - es) != 0) {
            return 0;
        }
    }
    return 1;
}

/* Packed words that are all the same, and broken scales. */
static void check_values(sq_verify_state *v) {
    int64_t constant = 0, scales = 0;
    char worst_c[300] = "", worst_s[300] = "";
    for (size_t i = 0; i < sq_checkpoint_count(v->files); i++) {
        const sq_tensor *t = sq_checkpoint_at(v->files, i);
        if ((sq_ends_with(t->name, ".weight_packed") || sq_ends_with(t->name, ".qweight")) &&
            t->bytes > 8 && memcmp(t->data, (const char *)t->data + 4, t->bytes - 4) == 0 &&
            !constant_rows(v, t)) {
            constant++;
            snprintf(worst_c, sizeof worst_c, "'%.200s' holds one word all over", t->name);
        }
        if ((sq_ends_with(t->name, ".weight_scale") || sq_ends_with(t->name, ".scales")) &&
            t->rank > 0 && t->shape[t->rank - 1] > 0) {
            scales += bad_scales(v, t, worst_s, sizeof worst_s);
        }
        sq_tensor_release(t);
    }
    sq_verify_line(v, "constant codes", constant == 0, (double)constant, 0, "%s",
                   constant == 0 ? "none" : worst_c);
    sq_verify_line(v, "scales", scales == 0, (double)scales, 0, "%s",
                   scales == 0 ? "all positive numbers" : worst_s);
}

/* ---- layers ---- */

static void check_layers(sq_verify_state *v) {
    size_t i;
    json_t *l;
    int64_t bad = 0, n = 0;
    double error = 0, rtn = 0;
    char worst[300] = "";
    if (json_object_get(v->record, "layers") == NULL) {
        sq_verify_line(v, "layer errors", 1, NAN, NAN,
                       "not known: converted from a checkpoint of another program");
        return;
    }
    json_array_foreach(json_object_get(v->record, "layers"), i, l) {
        double e = sq_json_num(l, "error", NAN), r = sq_json_num(l, "rtn_error", NAN);
        n++;
        if (isnan(e) && json_is_string(json_object_get(l, "fallback"))) {
            continue; /* the original holds NaN or infinity: there is no error to compare */
        }
        error += e;
        rtn += r;
        if (!(e <= r * (1 + 1e-9))) {
            bad++;
            snprintf(worst, sizeof worst, "'%.200s': %g against %g", sq_json_str(l, "name", "?"), e,
                     r);
        }
    }
    sq_verify_line(v, "layer errors", n > 0 && bad == 0, (double)bad, 0,
                   bad == 0 ? "%lld linears, none above round-to-nearest; %s" : "%lld linears; %s",
                   (long long)n, bad == 0 ? (rtn > 0 ? "" : "no error at all") : worst);
    sq_verify_line(v, "layer error ratio", n > 0 && error <= rtn * (1 + 1e-9),
                   rtn > 0 ? error / rtn : 0, 1, "sum of errors over round-to-nearest's");
}

/* ---- logits ---- */

static sq_status compare_all(sq_verify_state *v, sq_samples *s, int generation, sq_error *err) {
    sq_comparison c = {0};
    int64_t degenerate = 0, n = 0;
    for (size_t i = 0; i < s->n; i++) {
        sq_sample *x = &s->items[i];
        sq_status st =
            x->line == NULL ? SQ_OK : sq_sample_load(x, &v->front, s->dir, generation, err);
        if (st == SQ_OK && v->source != NULL) {
            st = sq_compare(&c, v->net, v->source, &x->prompt, err);
        }
        if (st == SQ_OK && n < 4) {
            int same = 0;
            st = sq_verify_degenerate(v, &x->prompt, &same, err);
            degenerate += same;
            n++;
        }
        sq_prompt_free(&x->prompt);
        if (st != SQ_OK) {
            return st;
        }
        sq_progress_tick(v->progress, "verify", (int64_t)i + 1, (int64_t)s->n, "logits");
    }
    sq_verify_line(v, "degenerate output", degenerate == 0, (double)degenerate, 0,
                   degenerate == 0 ? "%lld answers, none repeats one token"
                                   : "of %lld answers repeat one token that the original does not",
                   (long long)n);
    if (v->source == NULL) {
        sq_verify_line(v, "logits", 1, NAN, NAN, "no original to compare with: give --against");
        return SQ_OK;
    }
    double kl = c.positions == 0 ? NAN : c.kl / (double)c.positions;
    double all = c.positions == 0 ? NAN : (double)c.positions, top1 = (double)c.near / all;
    double max_kl = v->o->max_kl > 0 ? v->o->max_kl : 0.5,
           min_top1 = v->o->min_top1 > 0 ? v->o->min_top1 : 0.8;
    sq_verify_line(v, "numbers", c.bad == 0, (double)c.bad, 0,
                   "positions with logits that are not numbers");
    sq_verify_line(v, "kl", kl <= max_kl, kl, max_kl, "nats a token over %lld positions",
                   (long long)c.positions);
    sq_verify_line(v, "top1 agreement", top1 >= min_top1, top1, min_top1,
                   "equal first choices, near ties of the original left out; %.4f strictly",
                   (double)c.agree / all);
    return SQ_OK;
}

static sq_status check_logits(sq_verify_state *v, sq_error *err) {
    sq_samples s = {0};
    int64_t max = v->o->samples > 0 ? v->o->samples : 16;
    sq_status st = v->o->data != NULL
                       ? sq_samples_read(&s, &v->front, v->o->data, max, 512, SQ_LOAD_LINES, err)
                       : sq_samples_builtin(&s, &v->front, err);
    if (st == SQ_OK) {
        st = compare_all(v, &s, 0, err);
    }
    sq_samples_close(&s);
    return st;
}

/* ---- the whole ---- */

static sq_status open_all(sq_verify_state *v, sq_error *err) {
    char *record = sq_path_join(&v->arena, v->out, "squint.json", err);
    if (record == NULL) {
        return SQ_ENOMEM;
    }
    if (!sq_file_exists(record)) {
        sq_fail(err, SQ_EFORMAT,
                "'%s' has no squint.json; wanted a folder that squint quantize wrote", v->out);
        if (!sq_is_dir(v->out)) {
            sq_hint(err, "a GGUF file has no record: squint verify FILE.gguf --target llama.cpp, "
                         "squint eval FILE.gguf --against MODEL");
        }
        return SQ_EFORMAT;
    }
    sq_status st;
    SQ_TRY(sq_json_load(record, &v->record, err));
    if (v->o->against != NULL) {
        SQ_TRY(sq_net_open(&v->source, v->o->against, err));
    }
fail:
    return st;
}

/* A folder that does not even open is a failed check, with the loader's own words. */
static int check_opens(sq_verify_state *v) {
    sq_error e = {0};
    sq_status st = sq_checkpoint_open(&v->files, v->out, &e);
    if (st == SQ_OK) {
        check_files(v);
        check_tensors(v);
        st = sq_net_open(&v->net, v->out, &e);
    }
    if (st == SQ_OK) {
        v->net->config.kv_type = v->kv_type;
        st = sq_frontend_open(&v->front, v->out, &v->net->config, &e);
    }
    sq_verify_line(v, "opens", st == SQ_OK, NAN, NAN, "%s",
                   st == SQ_OK ? "every tensor bound" : e.text);
    return st == SQ_OK;
}

/* ---- another engine ---- */

typedef struct target_lines {
    sq_verify_state *v;
    char name[64];
    int64_t n;
} target_lines;

static void target_line(void *user, const char *what, const char *why) {
    target_lines *t = user;
    t->n++;
    sq_verify_line(t->v, t->name, 0, NAN, NAN, "'%.200s' %.280s", what, why);
}

/* A line for each finding; one that holds when there is none. */
static sq_status check_target(sq_verify_state *v, sq_engine engine, sq_error *err) {
    target_lines t = {.v = v};
    char text[SQ_ENGINE_TEXT];
    snprintf(t.name, sizeof t.name, "target %s", sq_engine_text(engine, text));
    sq_status st = sq_target_check(v->out, engine, target_line, &t, err);
    if (st == SQ_OK && t.n == 0) {
        sq_verify_line(v, t.name, 1, 0, 0,
                       "nothing that it would reject or misread (rules read from %s)",
                       sq_engine_known(engine, text));
    }
    return st;
}

static sq_status run_levels(sq_verify_state *v, int top, sq_error *err) {
    sq_status st = SQ_OK;
    int opens = check_opens(v);
    if (opens) {
        check_config(v);
    }
    if (top >= 1 && v->files != NULL) {
        check_hashes(v);
        check_values(v);
    }
    if (top >= 2) {
        check_layers(v);
    }
    if (top >= 3 && opens) {
        st = sq_verify_cache(v, err);
    }
    if (top >= 4 && opens && st == SQ_OK) {
        st = check_logits(v, err);
    }
    return st;
}

sq_status sq_verify_run(const char *out, const sq_verify_options *o, const sq_progress *progress,
                        json_t **report, sq_error *err) {
    sq_verify_state v = {.out = out, .o = o, .progress = progress, .checks = json_array()};
    int top = N_LEVELS - 1;
    if (o->level != NULL) {
        for (top = 0; top < N_LEVELS && strcmp(levels[top], o->level) != 0; top++) {
        }
        if (top == N_LEVELS) {
            json_decref(v.checks);
            return sq_fail(
                err, SQ_EARG,
                "level '%s' is not there; wanted structure, codes, layers, cache or logits",
                o->level);
        }
    }
    sq_engine engine;
    sq_status st = sq_kv_parse(o->kv_type, &v.kv_type, err);
    st = st == SQ_OK ? sq_target_parse(o->target, &engine, err) : st;
    if (st == SQ_OK && (o->target == NULL || o->level != NULL)) {
        st = open_all(&v, err);
        st = st == SQ_OK ? run_levels(&v, top, err) : st;
    }
    if (st == SQ_OK && o->target != NULL) {
        st = check_target(&v, engine, err);
    }
    if (st == SQ_OK) {
        *report = json_pack("{s:b, s:O}", "ok", v.failed == 0, "checks", v.checks);
        if (v.failed > 0) {
            st = sq_fail(err, SQ_ECHECK, "'%s' does not verify (%d check%s): %s", out, v.failed,
                         v.failed == 1 ? "" : "s", v.first);
        }
    }
    json_decref(v.checks);
    json_decref(v.record);
    sq_frontend_close(&v.front);
    sq_net_close(&v.net);
    sq_net_close(&v.source);
    sq_checkpoint_close(&v.files);
    sq_arena_free(&v.arena);
    return st;
}
