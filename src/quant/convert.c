/* convert between the layouts of quantized folders, and from a GGUF file to one of them: codes and
 * zero points stay what they are, and scales are refused where another type could not hold them
 * exactly. Everything is read and checked before the first byte is written. */
#include <stdio.h>

#include "base/json.h"
#include "base/log.h"
#include "format/qconfig.h"
#include "quant/from_blocks.h"
#include "quant/output.h"
#include "quant/quant.h"
#include "quant/target.h"

typedef struct converting {
    sq_net *net;
    sq_qconfig *q;
    sq_plan plan;
    sq_output out;
    sq_arena arena;
    size_t n_codes;
    int symmetric; /* every zero point of every linear is the middle */
    const sq_progress *progress;
    sq_error *err;
} converting;

sq_status sq_output_read(const sq_net *net, const sq_qconfig *config, const sq_linear *l,
                         sq_qlinear *q, sq_error *err) {
    const char *s[4];
    const sq_tensor *t[4] = {NULL};
    sq_layout layout = sq_qconfig_layout(config);
    char name[600];
    snprintf(name, sizeof name, "%s.weight", l->file_name); /* int8, where it is there */
    sq_qparts_suffixes(layout, sq_checkpoint_find(net->ckpt, name) != NULL, s);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", l->file_name, s[i] == NULL ? "" : s[i]);
        t[i] = s[i] == NULL ? NULL : sq_checkpoint_find(net->ckpt, name);
    }
    sq_qparts p = {t[0], t[1], t[2], t[3]};
    sq_status st =
        sq_qlinear_read(q, &p, layout, &l->scheme, l->weight.n, l->weight.k, l->file_name, err);
    if (p.codes != NULL) {
        sq_tensor_release(p.codes);
    }
    return st;
}

/* A linear's tensor where that is of ggml's blocks, else NULL. */
static const sq_tensor *blocks_of(const converting *c, const sq_linear *l) {
    char name[600];
    snprintf(name, sizeof name, "%s.weight", l->file_name);
    const sq_tensor *t = sq_checkpoint_find(c->net->ckpt, name);
    return t != NULL && sq_dtype_block(t->dtype) > 1 ? t : NULL;
}

/* Embeddings and head in blocks are widened: the layouts' loaders keep them in floats. */
static int has_codes(const converting *c, const sq_linear *l) {
    int outside = l->part == SQ_PART_EMBED || l->part == SQ_PART_HEAD;
    return l->quantized && !(outside && blocks_of(c, l) != NULL);
}

static sq_status read_linear(const converting *c, const sq_linear *l, sq_qlinear *q) {
    const sq_tensor *t = blocks_of(c, l);
    return t != NULL ? sq_blocks_read(q, t, l->file_name, c->err)
                     : sq_output_read(c->net, c->q, l, q, c->err);
}

/* AutoAWQ and GPTQModel store float16; compressed-tensors takes what there is. */
static sq_status check_scales(const converting *c, const sq_qlinear *q, const char *name) {
    if (c->plan.layout == SQ_LAYOUT_CT || q->scale_type == SQ_F16) {
        return SQ_OK;
    }
    int64_t bad = 0, n = q->n * (q->k_padded / q->group);
    float worst = 0;
    for (int64_t i = 0; i < n; i++) {
        if (sq_f16_to_f32(sq_f32_to_f16(q->scales[i])) != q->scales[i]) {
            worst = q->scales[i];
            bad++;
        }
    }
    if (bad == 0) {
        return SQ_OK;
    }
    sq_fail(c->err, SQ_EUNSUPPORTED,
            "%s: %s stores scales in float16; got %lld of %lld in %s that it cannot hold exactly, "
            "such as %g",
            name, sq_layout_name(c->plan.layout), (long long)bad, (long long)n,
            sq_dtype_name(q->scale_type), (double)worst);
    sq_hint(c->err, "squint quantize ORIGINAL --format %s chooses codes for float16 scales",
            sq_layout_name(c->plan.layout));
    return SQ_EUNSUPPORTED;
}

static int middle_zeros(const sq_qlinear *q) {
    int half = 1 << (q->bits - 1);
    for (int64_t i = 0; i < q->n * (q->k_padded / q->group); i++) {
        if (q->zeros[i] != half) {
            return 0;
        }
    }
    return 1;
}

/* One row of the plan: what the linear is stored as, and whether the new layout holds it. */
static sq_status plan_row(void *user, sq_linear *l, sq_error *err) {
    converting *c = user;
    sq_plan_row *r = &c->plan.rows[c->plan.n++];
    sq_qlinear q;
    *r = (sq_plan_row){.linear = l, .quantize = has_codes(c, l)};
    if (!r->quantize) {
        return SQ_OK;
    }
    sq_status st = read_linear(c, l, &q);
    if (st != SQ_OK) {
        return st;
    }
    r->grid = (sq_grid){.bits = q.bits,
                        .act_bits = q.act_bits,
                        .act_symmetric = l->scheme.act_symmetric,
                        .group = q.group,
                        .k = q.k,
                        .k_padded = q.k_padded,
                        .scale_type = c->plan.layout == SQ_LAYOUT_CT ? q.scale_type : SQ_F16};
    c->symmetric &= middle_zeros(&q);
    st = sq_qlinear_check(&q, c->plan.layout, l->file_name, err);
    st = st == SQ_OK ? check_scales(c, &q, l->file_name) : st;
    sq_qlinear_free(&q);
    return st;
}

static sq_status count(void *user, sq_linear *l, sq_error *err) {
    (void)err;
    ((converting *)user)->n_codes += has_codes(user, l);
    return SQ_OK;
}

static sq_status make_plan(converting *c) {
    size_t n = 0;
    sq_status st;
    sq_net_every_linear(c->net, count, c, c->err);
    if (c->n_codes == 0) {
        sq_fail(c->err, SQ_EARG,
                "nothing is quantized there; wanted a quantized folder or a GGUF file of blocks");
        sq_hint(c->err, "squint quantize MODEL -o OUT --format %s", sq_layout_name(c->plan.layout));
        return SQ_EARG;
    }
    if (sq_checkpoint_find(c->net->ckpt, "model.rotary_emb.factors") != NULL) {
        return sq_fail(c->err, SQ_EUNSUPPORTED,
                       "the file scales its rotary frequencies by a tensor (rope_freqs); a "
                       "config.json for that is not written yet");
    }
    if (c->net->quantization != NULL) {
        SQ_TRY(sq_qconfig_open(&c->q, c->net->quantization, c->err));
    }
    if (c->q != NULL && sq_qconfig_layout(c->q) == c->plan.layout) {
        return sq_fail(c->err, SQ_EARG, "the folder is of the format %s already",
                       sq_layout_name(c->plan.layout));
    }
    sq_net_every_linear(c->net, sq_plan_count, &n, c->err);
    c->plan.rows = sq_alloc(n, sizeof *c->plan.rows, "a plan", c->err);
    st = c->plan.rows == NULL ? SQ_ENOMEM : sq_net_every_linear(c->net, plan_row, c, c->err);
    SQ_TRY(st);
    for (size_t i = 0; i < c->plan.n; i++) {
        c->plan.rows[i].grid.symmetric = c->symmetric;
    }
    st = sq_plan_one_group(&c->plan, c->err);
fail:
    return st;
}

static sq_status put_all(converting *c) {
    const sq_checkpoint *ckpt = c->net->ckpt;
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < sq_checkpoint_count(ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(ckpt, i);
        st = sq_output_replaces(&c->out, t) ? SQ_OK : sq_output_copy(&c->out, t, c->err);
    }
    for (size_t i = 0; st == SQ_OK && i < c->plan.n; i++) {
        const sq_plan_row *r = &c->plan.rows[i];
        sq_qlinear q = {0};
        st = r->quantize ? read_linear(c, r->linear, &q) : SQ_OK;
        if (st == SQ_OK && r->quantize) {
            q.symmetric = r->grid.symmetric;
            q.scale_type = r->grid.scale_type;
            st = sq_output_linear(&c->out, r->linear, &q, c->err);
        }
        sq_qlinear_free(&q);
        if (st == SQ_OK && !sq_progress_tick(c->progress, "convert", (int64_t)i + 1,
                                             (int64_t)c->plan.n, r->linear->file_name)) {
            st = sq_fail(c->err, SQ_ECANCELLED, "stopped");
        }
    }
    return st == SQ_OK ? sq_output_commit(&c->out, "all", json_array(), c->err) : st;
}

/* What the quantizer recorded of the layers; NULL for a folder of another program. */
static json_t *recorded_layers(converting *c, const char *model) {
    json_t *record = NULL, *layers = NULL;
    char *path = sq_path_join(&c->arena, model, "squint.json", NULL);
    if (path != NULL && sq_file_exists(path) && sq_json_load(path, &record, NULL) == SQ_OK) {
        layers = json_incref(json_object_get(record, "layers"));
    }
    json_decref(record);
    return layers;
}

sq_status sq_convert_run(const char *model, const char *out, sq_layout layout, const char *target,
                         const sq_progress *progress, sq_error *err) {
    converting c = {
        .plan = {.layout = layout, .damp = 0.01}, .symmetric = 1, .progress = progress, .err = err};
    json_t *layers = NULL;
    sq_engine engine;
    sq_status st;
    SQ_TRY(sq_target_parse(target, &engine, err));
    SQ_TRY(sq_net_open(&c.net, model, err));
    SQ_TRY(make_plan(&c));
    SQ_TRY(sq_target_plan(&c.plan, &c.net->config, engine, &c.plan.half, err));
    sq_target_note(engine, progress);
    SQ_TRY(sq_output_open(&c.out, c.net, &c.plan, model, out, "convert", 0, err));
    SQ_TRY(put_all(&c));
    layers = recorded_layers(&c, model);
    SQ_TRY(sq_output_finish(&c.out, layers, NULL, err));
fail:
    json_decref(layers);
    sq_output_close(&c.out);
    sq_plan_close(&c.plan);
    sq_qconfig_close(&c.q);
    sq_arena_free(&c.arena);
    sq_net_close(&c.net);
    return st;
}
