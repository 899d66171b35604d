/* Every tensor that a configuration calls for, from the family's tables: for what is made or
 * planned without a file. */
#include <stdio.h>

#include "model/config.h"

typedef struct walk {
    const sq_config *c;
    sq_tensor_fn each;
    void *user;
    sq_part part;
    sq_error *err;
} walk;

/* a x b under the name; b 0: a vector. */
static sq_status give(const walk *w, const char *prefix, const char *stem, const char *suffix,
                      int64_t a, int64_t b) {
    char name[256];
    int64_t shape[2] = {a, b};
    snprintf(name, sizeof name, "%s%s%s", prefix, stem, suffix);
    return w->each(w->user, name, w->part, b == 0 ? 1 : 2, shape, w->err);
}

static sq_status give_norm(const walk *w, const char *prefix, const char *stem, int64_t n,
                           int bias) {
    sq_status st = give(w, prefix, stem, ".weight", n, 0);
    return st == SQ_OK && bias ? give(w, prefix, stem, ".bias", n, 0) : st;
}

int sq_config_bias(const sq_config *c, const sq_linear_row *row, sq_part part) {
    return row->bias >= 0           ? row->bias
           : part == SQ_PART_MERGER ? c->projector_bias
           : row->tap < 2           ? c->attention_bias
                                    : c->mlp_bias;
}

static sq_status give_block(const walk *w, const sq_block_rows *rows, const char *prefix,
                            int layernorm) {
    const int64_t *d = w->c->dims;
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < rows->n_norms; i++) {
        st = give_norm(w, prefix, rows->norms[i].stem, d[rows->norms[i].dim], layernorm);
    }
    for (size_t i = 0; st == SQ_OK && i < rows->n_linears; i++) {
        const sq_linear_row *l = &rows->linears[i];
        st = give(w, prefix, l->stem, ".weight", d[l->out], d[l->in]);
        if (st == SQ_OK && sq_config_bias(w->c, l, w->part)) {
            st = give(w, prefix, l->stem, ".bias", d[l->out], 0);
        }
    }
    return st;
}

static sq_status give_stack(const walk *w, const sq_block_rows *rows, const char *pattern,
                            int64_t count, int layernorm) {
    sq_status st = SQ_OK;
    for (int64_t i = 0; st == SQ_OK && i < count; i++) {
        char prefix[SQ_LAYER_PREFIX];
        sq_layer_prefix(prefix, pattern, (int)i);
        st = give_block(w, rows, prefix, layernorm);
    }
    return st;
}

static sq_status give_patch_embed(const walk *w) {
    const sq_config *c = w->c;
    const sq_tower *t = c->tower;
    int flat = t->kind == SQ_TOWER_VIT;
    char name[256];
    int64_t shape[5] = {c->dims[SQ_D_V_WIDTH], c->channels, flat ? c->patch : c->temporal_patch,
                        c->patch, c->patch};
    snprintf(name, sizeof name, "%s.weight", t->patch_embed);
    sq_status st = w->each(w->user, name, w->part, flat ? 4 : 5, shape, w->err);
    return st == SQ_OK && t->patch_bias ? give(w, t->patch_embed, "", ".bias", shape[0], 0) : st;
}

static sq_status give_vision(walk *w) {
    const sq_config *c = w->c;
    const sq_tower *t = c->tower;
    int64_t width = c->dims[SQ_D_V_WIDTH];
    int ln = t->norm == SQ_NORM_LAYER;
    sq_status st;
    w->part = SQ_PART_VISION;
    SQ_TRY(give_patch_embed(w));
    if (t->class_embed != NULL) {
        SQ_TRY(give(w, t->class_embed, "", "", width, 0));
    }
    if (t->positions != NULL) {
        SQ_TRY(give(w, t->positions, ".weight", "", sq_config_tile_rows(c), width));
    }
    if (t->pre_norm != NULL) {
        SQ_TRY(give_norm(w, "", t->pre_norm, width, 1));
    }
    SQ_TRY(give_stack(w, &t->block, t->layer_prefix, c->v_layers, ln));
    w->part = SQ_PART_MERGER;
    SQ_TRY(give_block(w, &c->projector->rows, c->projector->prefix, ln));
    if (c->arch->newline != NULL) {
        SQ_TRY(give(w, c->arch->newline, "", "", c->dims[SQ_D_V_OUT], 0));
    }
fail:
    return st;
}

sq_status sq_config_tensors(const sq_config *c, sq_tensor_fn each, void *user, sq_error *err) {
    walk w = {.c = c, .each = each, .user = user, .err = err};
    const sq_arch *a = c->text;
    int64_t vocab = c->dims[SQ_D_VOCAB], hidden = c->dims[SQ_D_HIDDEN];
    sq_status st;
    if (c->tower != NULL) {
        SQ_TRY(give_vision(&w));
    }
    w.part = SQ_PART_TEXT;
    SQ_TRY(give(&w, a->embed, ".weight", "", vocab, hidden));
    SQ_TRY(give_stack(&w, &a->text, a->layer_prefix, c->layers, 0));
    SQ_TRY(give_norm(&w, "", a->final_norm, hidden, 0));
    if (!c->tied) {
        w.part = SQ_PART_HEAD;
        SQ_TRY(give(&w, a->head, ".weight", "", vocab, hidden));
    }
fail:
    return st;
}

void sq_layer_prefix(char out[SQ_LAYER_PREFIX], const char *pattern, int layer) {
    size_t at = 0;
    for (; pattern[at] != '%'; at++) {
    }
    snprintf(out, SQ_LAYER_PREFIX, "%.*s%d%s", (int)at, pattern, layer, pattern + at + 2);
}
