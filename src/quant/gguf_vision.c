/* The mmproj file: a tower and its projector under the names of llama.cpp's tools/mtmd/clip-impl.h
 * (conversion/base.py, qwenvl.py; for CLIP and SigLIP
 * legacy-models/convert_image_encoder_to_gguf.py).
 */
#include <stdio.h>
#include <string.h>

#include "model/prompt.h"
#include "quant/gguf.h"

typedef struct part {
    int role;
    const char *name;
} part;

static const part qwen_linears[] = {
    {SQ_V_PROJ, "attn_out"}, {SQ_V_GATE, "ffn_gate"}, {SQ_V_UP, "ffn_up"}, {SQ_V_DOWN, "ffn_down"}};
static const part vit_linears[] = {{SQ_V_Q, "attn_q"},  {SQ_V_K, "attn_k"},
                                   {SQ_V_V, "attn_v"},  {SQ_V_PROJ, "attn_out"},
                                   {SQ_V_UP, "ffn_up"}, {SQ_V_DOWN, "ffn_down"}};

/* Rows [row0, row0 + rows) of a linear and of its bias; `stem` without ".weight". */
static sq_status add_rows(sq_gguf_job *j, const char *stem, const sq_linear *l, int64_t row0,
                          int64_t rows) {
    char name[96];
    snprintf(name, sizeof name, "%s.weight", stem);
    sq_status st = sq_gguf_item_linear(j, name, l, row0, rows, 0);
    snprintf(name, sizeof name, "%s.bias", stem);
    return st == SQ_OK && l->bias != NULL ? sq_gguf_item_vector(j, name, l->bias + row0, rows) : st;
}

static sq_status add_norm(sq_gguf_job *j, const char *stem, const sq_norm *n, int64_t width) {
    char name[96];
    snprintf(name, sizeof name, "%s.weight", stem);
    sq_status st = sq_gguf_item_vector(j, name, n->weight, width);
    snprintf(name, sizeof name, "%s.bias", stem);
    return st == SQ_OK ? sq_gguf_item_vector(j, name, n->bias, width) : st;
}

static sq_status add_layer(sq_gguf_job *j, int i, const part *parts, size_t n) {
    static const char *const qkv[] = {"attn_q", "attn_k", "attn_v"};
    const sq_block *b = &j->net->v_layers[i];
    int64_t width = j->net->config.dims[SQ_D_V_WIDTH];
    char stem[80];
    sq_status st;
    for (int k = 0; k < 2; k++) {
        snprintf(stem, sizeof stem, "v.blk.%d.ln%d", i, k + 1);
        SQ_TRY(add_norm(j, stem, &b->norms[k], width));
    }
    for (int k = 0; k < 3 && b->linears[SQ_V_QKV].weight.n > 0 && parts == qwen_linears; k++) {
        snprintf(stem, sizeof stem, "v.blk.%d.%s", i, qkv[k]);
        SQ_TRY(add_rows(j, stem, &b->linears[SQ_V_QKV], k * width, width));
    }
    for (size_t k = 0; k < n; k++) {
        const sq_linear *l = &b->linears[parts[k].role];
        snprintf(stem, sizeof stem, "v.blk.%d.%s", i, parts[k].name);
        st = l->weight.n > 0 ? add_rows(j, stem, l, 0, l->weight.n) : SQ_OK;
        SQ_TRY(st);
    }
fail:
    return st;
}

static sq_status add_layers(sq_gguf_job *j, const part *parts, size_t n) {
    sq_status st = SQ_OK;
    for (int64_t i = 0; st == SQ_OK && i < j->net->config.v_layers; i++) {
        st = add_layer(j, (int)i, parts, n);
    }
    return st;
}

/* What all towers say. */
static sq_status put_common(sq_gguf_job *j, const char *projector) {
    const sq_config *c = &j->net->config;
    sq_preproc preproc;
    sq_status st = sq_config_preproc(&preproc, c, j->model, j->err);
    if (st != SQ_OK) {
        return st;
    }
    sq_gguf_put_string(j->w, "general.architecture", "clip");
    sq_gguf_put_string(j->w, "general.type", "mmproj");
    sq_gguf_put_file_type(j);
    sq_gguf_put_bool(j->w, "clip.has_vision_encoder", 1);
    sq_gguf_put_string(j->w, "clip.projector_type", projector);
    sq_gguf_put_u32(j->w, "clip.vision.projection_dim", (uint32_t)c->dims[SQ_D_HIDDEN]);
    sq_gguf_put_u32(j->w, "clip.vision.image_size",
                    (uint32_t)(c->tile > 0 ? c->tile : 560)); /* 560: the converter's default */
    sq_gguf_put_u32(j->w, "clip.vision.patch_size", (uint32_t)c->patch);
    sq_gguf_put_u32(j->w, "clip.vision.embedding_length", (uint32_t)c->dims[SQ_D_V_WIDTH]);
    sq_gguf_put_u32(j->w, "clip.vision.feed_forward_length", (uint32_t)c->dims[SQ_D_V_INTER]);
    sq_gguf_put_u32(j->w, "clip.vision.block_count", (uint32_t)c->v_layers);
    sq_gguf_put_u32(j->w, "clip.vision.attention.head_count", (uint32_t)c->v_heads);
    sq_gguf_put_f32(j->w, "clip.vision.attention.layer_norm_epsilon", c->v_eps);
    sq_gguf_put_f32s(j->w, "clip.vision.image_mean", preproc.mean, 3);
    sq_gguf_put_f32s(j->w, "clip.vision.image_std", preproc.std, 3);
    if (preproc.kind == SQ_PREPROC_QWEN) {
        sq_gguf_put_u32(j->w, "clip.vision.image_min_pixels", (uint32_t)preproc.min_pixels);
        sq_gguf_put_u32(
            j->w, "clip.vision.image_max_pixels",
            (uint32_t)(preproc.max_pixels < INT32_MAX ? preproc.max_pixels : INT32_MAX));
    }
    return SQ_OK;
}

/* n_wa_pattern: every n-th layer sees all. */
static sq_status window_pattern(sq_gguf_job *j, uint32_t *out) {
    const sq_config *c = &j->net->config;
    int64_t n = 0;
    while (n < c->v_layers && !c->v_full[n]) {
        n++;
    }
    *out = (uint32_t)(n + 1);
    for (int64_t i = 0; i < c->v_layers; i++) {
        if ((c->v_full[i] != 0) != ((i + 1) % (n + 1) == 0)) {
            return sq_fail(j->err, SQ_EUNSUPPORTED,
                           "llama.cpp wants every %lld-th layer of the tower to see all; layer "
                           "%lld does not fit (fullatt_block_indexes)",
                           (long long)n + 1, (long long)i);
        }
    }
    return SQ_OK;
}

static sq_status plan_qwen(sq_gguf_job *j) {
    const sq_net *n = j->net;
    const sq_config *c = &n->config;
    int windows = c->tower->windows;
    uint32_t pattern = 0;
    sq_status st;
    if (c->temporal_patch != 2 || c->merge != 2) {
        return sq_fail(j->err, SQ_EUNSUPPORTED,
                       "llama.cpp wants 2 frames a patch and cells of 2 x 2; got %lld and %lld",
                       (long long)c->temporal_patch, (long long)c->merge);
    }
    st = windows ? window_pattern(j, &pattern) : SQ_OK;
    SQ_TRY(st);
    SQ_TRY(sq_gguf_item_patch(j, "v.patch_embd.weight", &n->patch_embed.weight, 0));
    SQ_TRY(sq_gguf_item_patch(j, "v.patch_embd.weight.1", &n->patch_embed.weight, 1));
    SQ_TRY(add_layers(j, qwen_linears, sizeof qwen_linears / sizeof *qwen_linears));
    SQ_TRY(add_norm(j, "v.post_ln", &n->merger.norms[0], c->dims[SQ_D_V_WIDTH]));
    SQ_TRY(add_rows(j, "mm.0", &n->merger.linears[SQ_M_FC1], 0, c->dims[SQ_D_V_MERGED]));
    SQ_TRY(add_rows(j, "mm.2", &n->merger.linears[SQ_M_FC2], 0, c->dims[SQ_D_V_OUT]));
    SQ_TRY(put_common(j, windows ? "qwen2.5vl_merger" : "qwen2vl_merger"));
    sq_gguf_put_u32(j->w, "clip.vision.spatial_merge_size", (uint32_t)c->merge);
    if (windows) {
        /* clip.cpp has no video; for the way back */
        sq_gguf_put_f32(j->w, "clip.vision.tokens_per_second", c->tokens_per_second);
        sq_gguf_put_bool(j->w, "clip.use_silu", 1);
        sq_gguf_put_u32(j->w, "clip.vision.n_wa_pattern", pattern);
        sq_gguf_put_u32(j->w, "clip.vision.window_size", (uint32_t)c->window);
    }
fail:
    return st;
}

/* Grids of LLaVA-NeXT: config.json has height before width, clip.cpp width before height. */
static void put_grids(sq_gguf_job *j) {
    const json_t *list = json_object_get(j->net->config.json, "image_grid_pinpoints");
    int32_t v[2 * SQ_MAX_PINPOINTS];
    size_t n = json_array_size(list), i;
    for (i = 0; i < n && i < SQ_MAX_PINPOINTS; i++) {
        const json_t *p = json_array_get(list, i);
        v[2 * i] = (int32_t)json_integer_value(json_array_get(p, 1));
        v[2 * i + 1] = (int32_t)json_integer_value(json_array_get(p, 0));
    }
    if (i > 0) {
        sq_gguf_put_i32s(j->w, "clip.vision.image_grid_pinpoints", v, 2 * i);
        sq_gguf_put_string(j->w, "clip.vision.mm_patch_merge_type", "spatial_unpad");
    }
}

static sq_status plan_vit(sq_gguf_job *j) {
    const sq_net *n = j->net;
    const sq_config *c = &n->config;
    int64_t width = c->dims[SQ_D_V_WIDTH], out = c->dims[SQ_D_V_OUT];
    const sq_linear *second = &n->merger.linears[SQ_M_FC2];
    sq_status st;
    if (c->merge != 1 || c->n_select != 1 || c->n_scales > 1 ||
        n->merger.linears[SQ_M_FC3].weight.n > 0) {
        sq_fail(j->err, SQ_EUNSUPPORTED,
                "llama.cpp has no projector that joins %lld x %lld cells of %d levels for a tower "
                "of fixed size",
                (long long)c->merge, (long long)c->merge, c->n_scales);
        sq_hint(j->err, "--text-only writes the language model alone");
        return SQ_EUNSUPPORTED;
    }
    if (second->weight.n == 0) {
        return sq_fail(j->err, SQ_EUNSUPPORTED,
                       "llama.cpp puts a GELU behind the first linear of a projector; this one has "
                       "no second");
    }
    if (c->drop_first != (n->class_embed != NULL)) {
        return sq_fail(j->err, SQ_EUNSUPPORTED,
                       "llama.cpp leaves out a class token where there is one; this model %s",
                       c->drop_first ? "leaves out the first of the patches" : "keeps it");
    }
    SQ_TRY(sq_gguf_item_vector(j, "v.class_embd", n->class_embed, width));
    SQ_TRY(sq_gguf_item_patch(j, "v.patch_embd.weight", &n->patch_embed.weight, 0));
    SQ_TRY(sq_gguf_item_vector(j, "v.patch_embd.bias", n->patch_embed.bias, width));
    SQ_TRY(sq_gguf_item_rows(j, "v.position_embd.weight", n->v_positions, sq_config_tile_rows(c),
                             width));
    SQ_TRY(add_norm(j, "v.pre_ln", &n->pre_norm, width));
    SQ_TRY(add_layers(j, vit_linears, sizeof vit_linears / sizeof *vit_linears));
    SQ_TRY(add_rows(j, "mm.0", &n->merger.linears[SQ_M_FC1], 0, out));
    SQ_TRY(add_rows(j, "mm.2", second, 0, out));
    SQ_TRY(sq_gguf_item_vector(j, "v.image_newline", n->newline, out));
    SQ_TRY(put_common(j, "mlp"));
    sq_gguf_put_bool(j->w, "clip.use_gelu", c->v_act != SQ_ACT_QUICK_GELU);
    int32_t last = (int32_t)c->v_layers; /* else clip.cpp leaves the last layer out */
    sq_gguf_put_i32s(j->w, "clip.vision.feature_layer", &last, 1);
    put_grids(j);
fail:
    return st;
}

sq_status sq_gguf_vision(sq_gguf_job *j) {
    return j->net->config.tower->kind == SQ_TOWER_QWEN ? plan_qwen(j) : plan_vit(j);
}
