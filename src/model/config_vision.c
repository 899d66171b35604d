/* vision_config by the tower's tables: the Qwen towers, CLIP and SigLIP, and their projectors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/config.h"

enum { MAX_DIM = 1 << 24, MAX_LAYERS = 4096 };

typedef struct reader {
    const json_t *vision, *root;
    const char *path;
    sq_config *c;
} reader;

static sq_status read_full_blocks(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    c->v_full = sq_alloc((size_t)c->v_layers, 1, "vision block kinds", err);
    if (c->v_full == NULL) {
        return SQ_ENOMEM;
    }
    if (!c->tower->windows) {
        memset(c->v_full, 1, (size_t)c->v_layers);
        return SQ_OK;
    }
    static const int64_t dflt[] = {7, 15, 23, 31};
    const json_t *list = json_object_get(r->vision, "fullatt_block_indexes");
    size_t n = json_is_array(list) ? json_array_size(list) : sizeof dflt / sizeof *dflt;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        int64_t at =
            json_is_array(list) ? (json_is_integer(v) ? json_integer_value(v) : -1) : dflt[i];
        if (at < 0) {
            return sq_fail(err, SQ_EFORMAT, "%s: fullatt_block_indexes[%zu] is no block number",
                           r->path, i);
        }
        if (at < c->v_layers) {
            c->v_full[at] = 1;
        }
    }
    return SQ_OK;
}

static sq_status need(const reader *r, const char *key, int64_t hi, int64_t *out, sq_error *err) {
    return sq_json_need_int(r->vision, key, 1, hi, out, r->path, err);
}

/* Depth, width, heads and MLP width, by the tower's keys. */
static sq_status read_blocks(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const sq_tower *t = c->tower;
    int64_t *d = c->dims;
    const char *heads =
        json_object_get(r->vision, t->heads_key) != NULL ? t->heads_key : "num_attention_heads";
    sq_status st;
    SQ_TRY(need(r, t->depth_key, MAX_LAYERS, &c->v_layers, err));
    SQ_TRY(need(r, t->width_key, MAX_DIM, &d[SQ_D_V_WIDTH], err));
    SQ_TRY(need(r, heads, 65536, &c->v_heads, err));
    if (t->inter_key != NULL) {
        SQ_TRY(need(r, t->inter_key, MAX_DIM, &d[SQ_D_V_INTER], err));
    } else {
        double m = sq_json_num(r->vision, "mlp_ratio", 4.0) * (double)d[SQ_D_V_WIDTH];
        if (!(m >= 1 && m <= MAX_DIM)) {
            return sq_fail(err, SQ_EFORMAT, "%s: mlp_ratio out of range", r->path);
        }
        d[SQ_D_V_INTER] = (int64_t)m;
    }
    c->v_head_dim = d[SQ_D_V_WIDTH] / c->v_heads;
    int unit = t->kind == SQ_TOWER_QWEN ? 4 : 1; /* rotary pairs of two axes */
    if (d[SQ_D_V_WIDTH] % c->v_heads != 0 || c->v_head_dim % unit != 0) {
        return sq_fail(
            err, SQ_EFORMAT,
            "%s: vision heads do not fit; got width %lld and %lld heads, wanted a head width "
            "that %d divides",
            r->path, (long long)d[SQ_D_V_WIDTH], (long long)c->v_heads, unit);
    }
    d[SQ_D_V_QKV] = 3 * d[SQ_D_V_WIDTH];
    d[SQ_D_V_OUT] = d[SQ_D_HIDDEN];
fail:
    return st;
}

/* What follows from patch, merge and widths that are read. */
static void derive(sq_config *c) {
    int64_t *d = c->dims, cells = c->merge * c->merge;
    int64_t features =
        d[SQ_D_V_WIDTH] * (c->n_select > 0 ? c->n_select : 1) * (c->n_scales > 0 ? c->n_scales : 1);
    d[SQ_D_V_MERGED] = features * cells;
    d[SQ_D_V_MID] = features * c->projector->mid_per_cell;
    d[SQ_D_V_CHANNELS] = c->channels;
    d[SQ_D_V_TEMPORAL] = c->temporal_patch;
    d[SQ_D_V_PATCH] = c->patch;
}

static sq_status read_qwen(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const json_t *v = r->vision;
    c->patch = sq_json_int(v, "patch_size", 14);
    c->v_act = c->tower->act;
    c->temporal_patch = sq_json_int(v, "temporal_patch_size", 2);
    c->merge = sq_json_int(v, "spatial_merge_size", 2);
    c->channels = sq_json_int(v, "in_channels", sq_json_int(v, "in_chans", 3));
    c->window = sq_json_int(v, "window_size", 112);
    c->tokens_per_second = sq_json_num(v, "tokens_per_second", c->tower->default_tokens_per_second);
    if (c->patch < 1 || c->patch > 1024 || c->temporal_patch < 1 || c->temporal_patch > 64 ||
        c->merge < 1 || c->merge > 16 || c->channels != 3 || c->window < c->patch * c->merge ||
        c->window > 65536) {
        return sq_fail(
            err, SQ_EFORMAT,
            "%s: vision_config out of range; got patch_size %lld, temporal_patch_size %lld, "
            "spatial_merge_size %lld, in_channels %lld, window_size %lld",
            r->path, (long long)c->patch, (long long)c->temporal_patch, (long long)c->merge,
            (long long)c->channels, (long long)c->window);
    }
    int64_t hidden = c->dims[SQ_D_HIDDEN];
    int64_t out = sq_json_int(v, c->tower->windows ? "out_hidden_size" : "hidden_size", hidden);
    if (out != hidden) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: the tower's output does not fit; got %lld, wanted %lld", r->path,
                       (long long)out, (long long)hidden);
    }
    derive(c);
    return read_full_blocks(r, err);
}

/* ---- CLIP and SigLIP ---- */

static sq_status activation(const reader *r, const json_t *from, const char *key, sq_act_kind dflt,
                            sq_act_kind *out, sq_error *err) {
    static const struct {
        const char *name;
        sq_act_kind act;
    } known[] = {{"quick_gelu", SQ_ACT_QUICK_GELU},
                 {"gelu", SQ_ACT_GELU},
                 {"gelu_pytorch_tanh", SQ_ACT_GELU_TANH},
                 {"gelu_new", SQ_ACT_GELU_TANH},
                 {"silu", SQ_ACT_SILU}};
    const char *name = sq_json_str(from, key, NULL);
    *out = dflt;
    if (name == NULL) {
        return SQ_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].act;
            return SQ_OK;
        }
    }
    return sq_fail(err, SQ_EUNSUPPORTED, "%s: %s '%s' is not known", r->path, key, name);
}

/* vision_feature_layer counts hidden states from 0, the embeddings, or from the end; a list of them
 * lies side by side in the order of the list. */
static sq_status read_select(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const json_t *v = json_object_get(r->root, "vision_feature_layer");
    int64_t mm = sq_json_int(r->root, "mm_vision_select_layer", -2);
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    int64_t last = 0;
    if (n < 1 || n > SQ_MAX_SELECT) {
        return sq_fail(err, SQ_EFORMAT, "%s: vision_feature_layer; got %zu layers, wanted 1 to %d",
                       r->path, n, SQ_MAX_SELECT);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        int64_t at = json_is_integer(e) ? json_integer_value(e) : mm;
        at = at < 0 ? at + c->v_layers + 1 : at;
        if (at < 0 || at > c->v_layers) {
            return sq_fail(err, SQ_EFORMAT,
                           "%s: vision_feature_layer out of range; got %lld, wanted up to %lld",
                           r->path, (long long)at, (long long)c->v_layers);
        }
        c->select[c->n_select++] = at;
        last = at > last ? at : last;
    }
    c->v_layers = last; /* what lies behind is not needed */
    return SQ_OK;
}

/* NVILA's dynamic_s2: "448,896,1344" are levels of 1, 2 and 3 tiles a side, the last one stretched.
 */
static sq_status read_scales(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const char *ratio = sq_json_str(r->root, "image_aspect_ratio", "resize");
    const char *s = sq_json_str(r->root, "s2_scales", "448,896,1344");
    c->n_scales = 1;
    c->scales[0] = 1;
    if (strcmp(ratio, "resize") == 0 || strcmp(ratio, "pad") == 0) {
        return SQ_OK;
    }
    if (strcmp(ratio, "dynamic_s2") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s: image_aspect_ratio '%s' is not supported; wanted resize, pad or "
                       "dynamic_s2",
                       r->path, ratio);
    }
    int64_t first = 0;
    for (c->n_scales = 0; *s != '\0' && c->n_scales < SQ_MAX_SCALES; c->n_scales++) {
        char *end;
        int64_t v = strtoll(s, &end, 10);
        first = first == 0 ? v : first;
        c->scales[c->n_scales] = first > 0 ? v / first : 0;
        if (end == s || v < 1 || v > (1 << 20) || v % first != 0 ||
            (c->n_scales > 0 && c->scales[c->n_scales] <= c->scales[c->n_scales - 1])) {
            return sq_fail(err, SQ_EFORMAT, "%s: s2_scales; got '%s', wanted growing multiples",
                           r->path, sq_json_str(r->root, "s2_scales", ""));
        }
        s = *end == ',' ? end + 1 : end;
    }
    return SQ_OK;
}

static sq_status read_vit(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const json_t *v = r->vision;
    int vila = c->projector->name != NULL;
    const char *strategy = vila ? sq_json_str(r->root, "mm_vision_select_feature", "cls_patch")
                                : sq_json_str(r->root, "vision_feature_select_strategy", "default");
    sq_status st;
    SQ_TRY(read_select(r, err));
    c->n_scales = 1;
    if (vila) {
        SQ_TRY(read_scales(r, err));
        c->media_newline = strcmp(c->text->model_type, "llama") != 0;
    }
    SQ_TRY(need(r, "patch_size", 1024, &c->patch, err));
    SQ_TRY(need(r, "image_size", 1 << 15, &c->tile, err));
    SQ_TRY(activation(r, v, "hidden_act", c->tower->act, &c->v_act, err));
    SQ_TRY(activation(r, r->root, "projector_hidden_act", SQ_ACT_GELU, &c->projector_act, err));
    c->temporal_patch = 1;
    c->channels = 3;
    c->merge = c->projector->side;
    c->drop_first = strcmp(strategy, vila ? "patch" : "default") == 0;
    c->projector_bias = sq_json_bool(r->root, "multimodal_projector_bias", 1);
    /* VILA-1.5's projector left its tokens column after column, later releases row after row. */
    c->column_major = vila && strcmp(c->projector->name, "mlp_downsample") == 0 &&
                      strcmp(c->text->model_type, "llama") == 0;
    if (c->tile < c->patch || sq_json_int(v, "num_channels", 3) != 3 ||
        (c->arch->view == SQ_VIEW_ANYRES || c->merge > 1
             ? sq_config_tile_rows(c) - c->drop_first !=
                   sq_config_tile_side(c) * sq_config_tile_side(c)
             : 0)) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: %s out of range; got image_size %lld, patch_size %lld, %s", r->path,
                       c->arch->vision_key, (long long)c->tile, (long long)c->patch, strategy);
    }
    derive(c);
    c->v_full = sq_alloc((size_t)c->v_layers + 1, 1, "vision block kinds", err);
    if (c->v_full == NULL) {
        return SQ_ENOMEM;
    }
    memset(c->v_full, 1, (size_t)c->v_layers);
fail:
    return st;
}

static sq_status choose(const reader *r, const json_t *projector, sq_error *err) {
    sq_config *c = r->c;
    const char *type = sq_json_str(r->vision, "model_type", "");
    const char *name =
        sq_json_str(projector, "mm_projector_type", sq_json_str(r->root, "mm_projector_type", ""));
    for (const sq_tower *const *t = c->arch->towers; c->tower == NULL && *t != NULL; t++) {
        c->tower = (*t)->model_type == NULL || strcmp((*t)->model_type, type) == 0 ? *t : NULL;
    }
    for (const sq_projector *const *p = c->arch->projectors; c->projector == NULL && *p != NULL;
         p++) {
        c->projector = (*p)->name == NULL || strcmp((*p)->name, name) == 0 ? *p : NULL;
    }
    if (c->tower == NULL || c->projector == NULL) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: %s '%s' is not supported", r->path,
                       c->tower == NULL ? "vision tower of type" : "mm_projector_type",
                       c->tower == NULL ? type : name);
    }
    return SQ_OK;
}

sq_status sq_config_vision(sq_config *c, const json_t *vision, const json_t *projector,
                           const char *path, sq_error *err) {
    reader r = {.vision = vision, .root = c->json, .path = path, .c = c};
    if (!json_is_object(vision)) {
        return sq_fail(err, SQ_EFORMAT, "%s: key '%s' is missing", path, c->arch->vision_key);
    }
    sq_status st = choose(&r, projector, err);
    if (st == SQ_OK) {
        c->v_eps = (float)sq_json_num(vision, "layer_norm_eps", c->tower->eps);
        st = read_blocks(&r, err);
    }
    if (st != SQ_OK) {
        return st;
    }
    return c->tower->kind == SQ_TOWER_QWEN ? read_qwen(&r, err) : read_vit(&r, err);
}
