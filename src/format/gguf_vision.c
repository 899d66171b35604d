/* A mmproj file in Hugging Face's terms: the reverse of llama.cpp's conversion/qwenvl.py and
 * legacy-models/convert_image_encoder_to_gguf.py, read as its tools/mtmd/clip.cpp does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf_model.h"

enum { MAX_LAYERS = 4096, MAX_LIST = 64 };

#define TOWER "vision_tower.vision_model."

static const sq_gguf_entry *of(const sq_mmproj *m, const char *key) {
    char full[96];
    snprintf(full, sizeof full, "clip.vision.%s", key);
    return sq_gguf_find(&m->file, full);
}

static double number(const sq_mmproj *m, const char *key, double dflt) {
    return sq_gguf_number(of(m, key), 0, dflt);
}

static const sq_gguf_tensor *find(const sq_mmproj *m, const char *name) {
    return sq_gguf_find_tensor(&m->file, name);
}

/* A float32 with the digits that it takes: 1e-6, not 9.99999997e-7. */
static json_t *real(double v) {
    char text[40];
    double back = v;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        back = strtod(text, NULL);
        if ((float)back == (float)v) {
            break;
        }
    }
    return json_real(back);
}

/* As a whole number; -1 where it is none of a sensible size. */
static json_int_t whole(double v) { return v >= 0 && v <= 1e15 ? (json_int_t)v : -1; }

/* ---- opening ---- */

/* The linear that gives the pictures' tokens. */
static const sq_gguf_tensor *last_linear(const sq_mmproj *m) {
    const sq_gguf_tensor *t = find(m, "mm.2.weight");
    return t != NULL ? t : find(m, "mm.0.weight");
}

static sq_status find_projector(sq_mmproj *m, sq_error *err) {
    sq_gguf_text type = sq_gguf_string(sq_gguf_find(&m->file, "clip.projector_type"));
    type = type.n > 0 ? type : sq_gguf_string(of(m, "projector_type"));
    m->windows = sq_gguf_text_is(type, "qwen2.5vl_merger");
    m->qwen = m->windows || sq_gguf_text_is(type, "qwen2vl_merger");
    if (!m->qwen && type.n > 0 && !sq_gguf_text_is(type, "mlp")) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': projector '%.*s' is not supported; wanted mlp, qwen2vl_merger or "
                       "qwen2.5vl_merger",
                       m->path, (int)(type.n < 60 ? type.n : 60), type.p);
    }
    if (!m->qwen && find(m, "mm.3.weight") != NULL) {
        return sq_fail(err, SQ_EUNSUPPORTED, "'%s': a projector with norms is not supported",
                       m->path);
    }
    if (!m->qwen && find(m, "v.post_ln.weight") != NULL) { /* LLaVA reads before it */
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': a norm after the tower (v.post_ln) is not supported", m->path);
    }
    return SQ_OK;
}

/* Whether it was made for this language model. */
static sq_status check_pair(const sq_mmproj *m, const sq_gguf *text, const char *text_path,
                            sq_error *err) {
    sq_gguf_text arch = sq_gguf_string(sq_gguf_find(text, "general.architecture"));
    const sq_gguf_tensor *last = last_linear(m);
    char key[96];
    if (m->qwen != sq_gguf_text_is(arch, "qwen2vl")) {
        sq_fail(err, SQ_EFORMAT,
                "'%s' does not belong to '%s': it is the tower of a %s, that is a '%.*s'", m->path,
                text_path, m->qwen ? "Qwen-VL (qwen2vl)" : "LLaVA (llama, qwen2)",
                (int)(arch.n < 40 ? arch.n : 40), arch.p);
        sq_hint(err, "the mmproj that was published with the language model");
        return SQ_EFORMAT;
    }
    if (last == NULL || last->rank != 2) {
        return sq_fail(err, SQ_EFORMAT, "'%s' has no projector (mm.0.weight, mm.2.weight)",
                       m->path);
    }
    snprintf(key, sizeof key, "%.*s.embedding_length", (int)(arch.n < 40 ? arch.n : 40), arch.p);
    int64_t hidden = whole(sq_gguf_number(sq_gguf_find(text, key), 0, 0));
    if (last->shape[0] != hidden) {
        sq_fail(err, SQ_EFORMAT,
                "'%s' does not belong to '%s': its projector gives %lld numbers a token; got a "
                "language model that takes %lld",
                m->path, text_path, (long long)last->shape[0], (long long)hidden);
        sq_hint(err, "the mmproj that was published with the language model");
        return SQ_EFORMAT;
    }
    return SQ_OK;
}

sq_status sq_mmproj_open(sq_mmproj *m, const char *path, const sq_gguf *text, const char *text_path,
                         sq_error *err) {
    *m = (sq_mmproj){.path = path};
    sq_status st = sq_gguf_open(&m->file, path, err);
    if (st != SQ_OK) {
        return st;
    }
    sq_gguf_text arch = sq_gguf_string(sq_gguf_find(&m->file, "general.architecture"));
    if (!sq_gguf_text_is(arch, "clip")) {
        st = sq_fail(err, SQ_EFORMAT,
                     "'%s' is no mmproj: general.architecture; got '%.*s', wanted clip", path,
                     (int)(arch.n < 40 ? arch.n : 40), arch.p);
        goto fail;
    }
    SQ_TRY(find_projector(m, err));
    SQ_TRY(check_pair(m, text, text_path, err));
    return SQ_OK;
fail:
    sq_mmproj_close(m);
    return st;
}

void sq_mmproj_close(sq_mmproj *m) { sq_gguf_close(&m->file); }

const char *sq_mmproj_text_prefix(const sq_mmproj *m) { return m->qwen ? "" : "language_model."; }

/* ---- config.json ---- */

/* Old converters took up for down: theirs has the tower's width as rows. */
static int is_swapped(const sq_mmproj *m) {
    const sq_gguf_tensor *up = find(m, "v.blk.0.ffn_up.weight");
    int64_t width = whole(number(m, "embedding_length", 0));
    return up != NULL && up->rank == 2 && up->shape[0] == width && up->shape[1] != width;
}

/* Of the MLP. What the metadata says is the language model's width in llama.cpp's files of
 * Qwen2-VL. */
static int64_t inter_of(const sq_mmproj *m) {
    const sq_gguf_tensor *up =
        find(m, is_swapped(m) ? "v.blk.0.ffn_down.weight" : "v.blk.0.ffn_up.weight");
    return up == NULL || up->rank != 2 ? 0 : up->shape[0];
}

/* The id of a token by its text; -1 when there is none. */
static json_int_t token_id(const sq_gguf *text, const char *token) {
    const sq_gguf_entry *e = sq_gguf_find(text, "tokenizer.ggml.tokens");
    sq_gguf_text t;
    size_t at = 0;
    for (json_int_t i = 0; sq_gguf_next_string(e, &at, &t); i++) {
        if (sq_gguf_text_is(t, token)) {
            return i;
        }
    }
    return -1;
}

static void set_token(json_t *o, const char *key, const sq_gguf *text, const char *token) {
    json_int_t id = token_id(text, token);
    if (id >= 0) {
        json_object_set_new(o, key, json_integer(id));
    }
}

static void set_common(const sq_mmproj *m, json_t *v, const char *depth, const char *width,
                       const char *heads) {
    sq_gguf_set_int(v, depth, of(m, "block_count"));
    sq_gguf_set_int(v, width, of(m, "embedding_length"));
    sq_gguf_set_int(v, heads, of(m, "attention.head_count"));
    sq_gguf_set_int(v, "patch_size", of(m, "patch_size"));
}

/* Every n-th layer sees all. */
static sq_status full_blocks(const sq_mmproj *m, json_t *v, sq_error *err) {
    double depth = number(m, "block_count", 0), n = number(m, "n_wa_pattern", 0);
    json_t *full = json_array();
    if (!(depth >= 1 && depth <= MAX_LAYERS && n >= 1 && n <= MAX_LAYERS)) {
        json_decref(full);
        return sq_fail(err, SQ_EFORMAT,
                       "'%s': block_count %g and n_wa_pattern %g; wanted 1 to %d both", m->path,
                       depth, n, MAX_LAYERS);
    }
    for (int i = (int)n - 1; i < (int)depth; i += (int)n) {
        json_array_append_new(full, json_integer(i));
    }
    json_object_set_new(v, "fullatt_block_indexes", full);
    return SQ_OK;
}

static sq_status qwen_vision(const sq_mmproj *m, json_t *v, int64_t hidden, sq_error *err) {
    double width = number(m, "embedding_length", 0), inter = (double)inter_of(m);
    double eps = number(m, "attention.layer_norm_epsilon", 1e-6);
    set_common(m, v, "depth", m->windows ? "hidden_size" : "embed_dim", "num_heads");
    json_object_update_new(v, json_pack("{s:i, s:i, s:i, s:i, s:s}", "in_channels", 3, "in_chans",
                                        3, "spatial_merge_size", 2, "temporal_patch_size", 2,
                                        "hidden_act", m->windows ? "silu" : "quick_gelu"));
    sq_gguf_set_int(v, "spatial_merge_size", of(m, "spatial_merge_size"));
    if ((float)eps != 1e-6f) { /* transformers' towers have no other */
        json_object_set_new(v, "layer_norm_eps", real(eps));
    }
    if (!m->windows) {
        double ratio = inter / (width >= 1 ? width : 1);
        json_object_set_new(v, "mlp_ratio",
                            (double)whole(ratio) == ratio
                                ? json_integer(whole(ratio))
                                : json_real((inter + 0.5) / (width >= 1 ? width : 1)));
        json_object_set_new(v, "hidden_size", json_integer(hidden));
        return SQ_OK;
    }
    json_object_set_new(v, "intermediate_size", json_integer((json_int_t)inter));
    json_object_set_new(v, "out_hidden_size", json_integer(hidden));
    json_object_set_new(v, "window_size", json_integer(112));
    sq_gguf_set_int(v, "window_size", of(m, "window_size"));
    double rate = number(m, "tokens_per_second", 2); /* as published; squint writes it */
    json_object_set_new(v, "tokens_per_second",
                        rate > -1e6 && rate < 1e6 && rate == (double)(int)rate
                            ? json_integer((json_int_t)rate)
                            : real(rate));
    return full_blocks(m, v, err);
}

/* The flat form of the published folders, which every release of transformers reads. */
static sq_status qwen_config(const sq_mmproj *m, const sq_gguf *text, json_t *c, sq_error *err) {
    static const char *const gone[] = {"attention_bias", "mlp_bias", "head_dim", "rope_parameters"};
    const char *type = m->windows ? "qwen2_5_vl" : "qwen2_vl";
    const sq_gguf_entry *sections = sq_gguf_find(text, "qwen2vl.rope.dimension_sections");
    json_t *rope = json_pack("{s:s, s:[]}", "type", "mrope", "mrope_section");
    json_t *v = json_pack("{s:s}", "model_type", type);
    json_object_set(c, "rope_theta",
                    json_object_get(json_object_get(c, "rope_parameters"), "rope_theta"));
    for (uint64_t i = 0; i < 3; i++) {
        static const double published[3] = {16, 24, 24};
        double n = sq_gguf_number(sections, i, published[i]);
        json_array_append_new(json_object_get(rope, "mrope_section"),
                              json_integer(n >= 0 && n < 65536 ? (json_int_t)n : -1));
    }
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        json_object_del(c, gone[i]);
    }
    json_object_set_new(c, "model_type", json_string(type));
    json_object_set_new(c, "architectures",
                        json_pack("[s]", m->windows ? "Qwen2_5_VLForConditionalGeneration"
                                                    : "Qwen2VLForConditionalGeneration"));
    json_object_set_new(c, "rope_scaling", rope);
    json_object_set_new(c, "vision_config", v);
    set_token(c, "image_token_id", text, "<|image_pad|>");
    set_token(c, "video_token_id", text, "<|video_pad|>");
    set_token(c, "vision_start_token_id", text, "<|vision_start|>");
    set_token(c, "vision_end_token_id", text, "<|vision_end|>");
    return qwen_vision(m, v, (int64_t)json_integer_value(json_object_get(c, "hidden_size")), err);
}

/* Which hidden state is read: of a file that does not say it, the one before the last layer. */
static json_t *feature_layer(const sq_mmproj *m) {
    const sq_gguf_entry *e = of(m, "feature_layer");
    json_t *list = json_array();
    for (uint64_t i = 0; e != NULL && i < e->count && i < MAX_LIST; i++) {
        json_array_append_new(list, json_integer(whole(sq_gguf_number(e, i, -1))));
    }
    if (json_array_size(list) > 1) {
        return list;
    }
    json_t *one =
        json_array_size(list) == 1 ? json_incref(json_array_get(list, 0)) : json_integer(-2);
    json_decref(list);
    return one;
}

/* Grids as [height, width]; clip.cpp has the width first. NULL without any. */
static json_t *grids(const sq_mmproj *m) {
    const sq_gguf_entry *e = of(m, "image_grid_pinpoints");
    json_t *list = json_array();
    for (uint64_t i = 0; e != NULL && i + 1 < e->count && i < 2 * MAX_LIST; i += 2) {
        json_array_append_new(list, json_pack("[I, I]", whole(sq_gguf_number(e, i + 1, 0)),
                                              whole(sq_gguf_number(e, i, 0))));
    }
    if (json_array_size(list) == 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

static int is_clip(const sq_mmproj *m) { return find(m, "v.class_embd") != NULL; }

static json_t *vit_vision(const sq_mmproj *m) {
    int clip = is_clip(m);
    int gelu = sq_gguf_number(sq_gguf_find(&m->file, "clip.use_gelu"), 0, 0) != 0;
    int silu = sq_gguf_number(sq_gguf_find(&m->file, "clip.use_silu"), 0, 0) != 0;
    json_t *v = json_pack("{s:s, s:s, s:i}", "model_type",
                          clip ? "clip_vision_model" : "siglip_vision_model", "hidden_act",
                          silu    ? "silu"
                          : !gelu ? "quick_gelu"
                          : clip  ? "gelu"
                                  : "gelu_pytorch_tanh",
                          "num_channels", 3);
    set_common(m, v, "num_hidden_layers", "hidden_size", "num_attention_heads");
    json_object_set_new(v, "intermediate_size", json_integer(inter_of(m)));
    sq_gguf_set_int(v, "image_size", of(m, "image_size"));
    json_object_set_new(v, "layer_norm_eps",
                        real(number(m, "attention.layer_norm_epsilon", clip ? 1e-5 : 1e-6)));
    return v;
}

static json_t *llava_config(const sq_mmproj *m, const sq_gguf *text, json_t *c) {
    json_t *points = grids(m);
    json_t *r = json_pack(
        "{s:s, s:[s], s:O, s:o, s:o, s:s, s:s, s:b, s:o*, s:O*}", "model_type",
        points != NULL ? "llava_next" : "llava", "architectures",
        points != NULL ? "LlavaNextForConditionalGeneration" : "LlavaForConditionalGeneration",
        "text_config", c, "vision_config", vit_vision(m), "vision_feature_layer", feature_layer(m),
        "vision_feature_select_strategy", is_clip(m) ? "default" : "full", "projector_hidden_act",
        "gelu", "multimodal_projector_bias", find(m, "mm.0.bias") != NULL, "image_grid_pinpoints",
        points, "tie_word_embeddings", json_object_get(c, "tie_word_embeddings"));
    set_token(r, "image_token_index", text, "<image>");
    return r;
}

sq_status sq_mmproj_config(const sq_mmproj *m, const sq_gguf *text, json_t *text_config,
                           json_t **out, sq_error *err) {
    sq_status st = SQ_OK;
    *out = NULL;
    if (m->qwen) {
        st = qwen_config(m, text, text_config, err);
        *out = st == SQ_OK ? json_incref(text_config) : NULL;
    } else {
        *out = llava_config(m, text, text_config);
        st = *out == NULL ? sq_fail_nomem(err, "a config", 0) : SQ_OK;
    }
    json_decref(text_config);
    return st;
}

/* ---- preprocessor_config.json ---- */

static json_t *colours(const sq_mmproj *m, const char *key, const double dflt[3]) {
    json_t *list = json_array();
    for (uint64_t i = 0; i < 3; i++) {
        json_array_append_new(list, real(sq_gguf_number(of(m, key), i, dflt[i])));
    }
    return list;
}

json_t *sq_mmproj_preprocessor(const sq_mmproj *m) {
    static const double mean[3] = {0.48145466, 0.4578275, 0.40821073};
    static const double std[3] = {0.26862954, 0.26130258, 0.27577711};
    json_int_t side = whole(number(m, "image_size", 0));
    json_t *points = grids(m);
    json_t *p =
        json_pack("{s:b, s:b, s:b, s:b, s:i, s:o, s:o}", "do_resize", 1, "do_rescale", 1,
                  "do_normalize", 1, "do_convert_rgb", 1, "resample", 3, "image_mean",
                  colours(m, "image_mean", mean), "image_std", colours(m, "image_std", std));
    if (m->qwen) {
        /* Limits as published: llama.cpp has limits of its own and leaves them out. */
        json_object_update_new(p,
                               json_pack("{s:s, s:i, s:i, s:i, s:i}", "image_processor_type",
                                         "Qwen2VLImageProcessor", "min_pixels", 3136, "max_pixels",
                                         12845056, "temporal_patch_size", 2, "merge_size", 2));
        sq_gguf_set_int(p, "min_pixels", of(m, "image_min_pixels"));
        sq_gguf_set_int(p, "max_pixels", of(m, "image_max_pixels"));
        sq_gguf_set_int(p, "merge_size", of(m, "spatial_merge_size"));
        sq_gguf_set_int(p, "patch_size", of(m, "patch_size"));
    } else if (is_clip(m)) {
        json_object_update_new(
            p, json_pack("{s:s, s:b, s:{s:I}, s:{s:I, s:I}, s:O*}", "image_processor_type",
                         points != NULL ? "LlavaNextImageProcessor" : "CLIPImageProcessor",
                         "do_center_crop", 1, "size", "shortest_edge", side, "crop_size", "height",
                         side, "width", side, "image_grid_pinpoints", points));
    } else {
        json_object_update_new(
            p, json_pack("{s:s, s:{s:I, s:I}, s:O*}", "image_processor_type",
                         points != NULL ? "LlavaNextImageProcessor" : "SiglipImageProcessor",
                         "size", "height", side, "width", side, "image_grid_pinpoints", points));
    }
    json_decref(points);
    return p;
}

/* ---- tensors ---- */

typedef struct name_row {
    const char *gguf, *hf;
} name_row;

static const name_row vit_blocks[] = {{"attn_q", "self_attn.q_proj"},
                                      {"attn_k", "self_attn.k_proj"},
                                      {"attn_v", "self_attn.v_proj"},
                                      {"attn_out", "self_attn.out_proj"},
                                      {"ffn_up", "mlp.fc1"},
                                      {"ffn_down", "mlp.fc2"},
                                      {"ln1", "layer_norm1"},
                                      {"ln2", "layer_norm2"},
                                      {NULL, NULL}};
static const name_row vit_whole[] = {
    {"v.patch_embd.weight", TOWER "embeddings.patch_embedding.weight"},
    {"v.patch_embd.bias", TOWER "embeddings.patch_embedding.bias"},
    {"v.class_embd", TOWER "embeddings.class_embedding"},
    {"v.position_embd.weight", TOWER "embeddings.position_embedding.weight"},
    {"v.pre_ln.weight", TOWER "pre_layrnorm.weight"},
    {"v.pre_ln.bias", TOWER "pre_layrnorm.bias"},
    {"mm.0.weight", "multi_modal_projector.linear_1.weight"},
    {"mm.0.bias", "multi_modal_projector.linear_1.bias"},
    {"mm.2.weight", "multi_modal_projector.linear_2.weight"},
    {"mm.2.bias", "multi_modal_projector.linear_2.bias"},
    {"v.image_newline", "image_newline"},
    {"model.image_newline", "image_newline"},
    {NULL, NULL}};
static const name_row qwen2_blocks[] = {
    {"attn_qkv", "attn.qkv"},  {"attn_q", "attn.qkv"}, /* with its neighbours */
    {"attn_out", "attn.proj"}, {"ffn_up", "mlp.fc1"},  {"ffn_down", "mlp.fc2"},
    {"ln1", "norm1"},          {"ln2", "norm2"},       {NULL, NULL}};
static const name_row qwen25_blocks[] = {{"attn_qkv", "attn.qkv"},
                                         {"attn_q", "attn.qkv"},
                                         {"attn_out", "attn.proj"},
                                         {"ffn_gate", "mlp.gate_proj"},
                                         {"ffn_up", "mlp.up_proj"},
                                         {"ffn_down", "mlp.down_proj"},
                                         {"ln1", "norm1"},
                                         {"ln2", "norm2"},
                                         {NULL, NULL}};
static const name_row qwen_whole[] = {{"v.patch_embd.weight", "visual.patch_embed.proj.weight"},
                                      {"v.post_ln.weight", "visual.merger.ln_q.weight"},
                                      {"v.post_ln.bias", "visual.merger.ln_q.bias"},
                                      {"mm.0.weight", "visual.merger.mlp.0.weight"},
                                      {"mm.0.bias", "visual.merger.mlp.0.bias"},
                                      {"mm.2.weight", "visual.merger.mlp.2.weight"},
                                      {"mm.2.bias", "visual.merger.mlp.2.bias"},
                                      {NULL, NULL}};

static const char *look_up(const name_row *rows, const char *name) {
    while (rows->gguf != NULL && strcmp(rows->gguf, name) != 0) {
        rows++;
    }
    return rows->hf;
}

/* The published name; that of the file where there is none, which opening the model then names. */
static void published(const sq_mmproj *m, const char *name, char *out, size_t cap) {
    const name_row *blocks = !m->qwen ? vit_blocks : m->windows ? qwen25_blocks : qwen2_blocks;
    const char *hf = look_up(m->qwen ? qwen_whole : vit_whole, name);
    char role[64], kind[16];
    unsigned layer;
    snprintf(out, cap, "%s", hf != NULL ? hf : name);
    if (hf == NULL && sscanf(name, "v.blk.%u.%63[a-z_0-9].%15s", &layer, role, kind) == 3) {
        int swapped = is_swapped(m);
        hf = look_up(blocks, swapped && strcmp(role, "ffn_up") == 0     ? "ffn_down"
                             : swapped && strcmp(role, "ffn_down") == 0 ? "ffn_up"
                                                                        : role);
        if (hf != NULL) {
            snprintf(out, cap, "%s%u.%s.%s", m->qwen ? "visual.blocks." : TOWER "encoder.layers.",
                     layer, hf, kind);
        }
    }
}

/* The rows of q, k and v one after the other. */
static sq_status join_qkv(sq_checkpoint *c, const sq_mmproj *m, sq_tensor *to, const char *name,
                          sq_error *err) {
    const sq_gguf_tensor *part[3];
    const char *at = strstr(name, "attn_q.");
    size_t bytes = 0, done = 0;
    for (int i = 0; i < 3; i++) {
        char other[128];
        snprintf(other, sizeof other, "%.*sattn_%c.%s", (int)(at - name), name, "qkv"[i], at + 7);
        part[i] = find(m, other);
        if (part[i] == NULL || part[i]->dtype != part[0]->dtype || part[i]->rank != to->rank ||
            (to->rank == 2 && part[i]->shape[1] != to->shape[1])) {
            return sq_fail(err, SQ_EFORMAT, "'%s': '%s' does not fit '%s'; wanted its like",
                           m->path, other, name);
        }
        bytes += part[i]->bytes;
    }
    char *all = sq_arena_alloc(&c->arena, bytes, 1, err);
    if (all == NULL) {
        return SQ_ENOMEM;
    }
    to->shape[0] = 0;
    for (int i = 0; i < 3; i++) {
        memcpy(all + done, part[i]->data, part[i]->bytes);
        done += part[i]->bytes;
        to->shape[0] += part[i]->shape[0];
        sq_map_release(part[i]->data, part[i]->bytes);
    }
    to->data = all;
    to->bytes = bytes;
    to->owned = 1;
    return SQ_OK;
}

/* Two frames of [n][channels][cells] as [n][channels][2][cells]. */
static sq_status join_frames(sq_checkpoint *c, const sq_mmproj *m, sq_tensor *to, sq_error *err) {
    const sq_gguf_tensor *a = find(m, "v.patch_embd.weight"), *b = find(m, "v.patch_embd.weight.1");
    if (b == NULL || a->rank != 4 || b->rank != 4 || a->dtype != b->dtype ||
        sq_dtype_block(a->dtype) > 1 || memcmp(a->shape, b->shape, sizeof a->shape) != 0) {
        return sq_fail(err, SQ_EFORMAT,
                       "'%s': v.patch_embd.weight and v.patch_embd.weight.1; wanted two alike, "
                       "[width, channels, patch, patch]",
                       m->path);
    }
    size_t cells = (size_t)(a->shape[2] * a->shape[3]) * sq_dtype_size(a->dtype);
    char *all = sq_arena_alloc(&c->arena, a->bytes, 2, err);
    if (all == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < (size_t)(a->shape[0] * a->shape[1]); i++) {
        memcpy(all + 2 * i * cells, a->data + i * cells, cells);
        memcpy(all + (2 * i + 1) * cells, b->data + i * cells, cells);
    }
    *to = (sq_tensor){.name = to->name,
                      .dtype = a->dtype,
                      .rank = 5,
                      .shape = {a->shape[0], a->shape[1], 2, a->shape[2], a->shape[3]},
                      .data = all,
                      .bytes = 2 * a->bytes,
                      .owned = 1};
    return SQ_OK;
}

/* Those that another tensor takes in, or that nothing reads. */
static int left_out(const sq_mmproj *m, const char *name) {
    return m->qwen ? strcmp(name, "v.patch_embd.weight.1") == 0 ||
                         strstr(name, ".attn_k.") != NULL || strstr(name, ".attn_v.") != NULL
                   : strstr(name, "image_newline") != NULL && of(m, "image_grid_pinpoints") == NULL;
}

static sq_status add(sq_checkpoint *c, const sq_mmproj *m, const sq_gguf_tensor *t, sq_error *err) {
    char name[200], hf[256];
    snprintf(name, sizeof name, "%.*s", (int)(t->name.n < 190 ? t->name.n : 190), t->name.p);
    if (left_out(m, name)) {
        return SQ_OK;
    }
    published(m, name, hf, sizeof hf);
    sq_tensor to = {.name = sq_arena_strdup(&c->arena, hf, err),
                    .dtype = t->dtype,
                    .rank = t->rank,
                    .data = t->data,
                    .bytes = t->bytes};
    memcpy(to.shape, t->shape, sizeof t->shape);
    sq_status st = to.name == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK && m->qwen && strstr(name, ".attn_q.") != NULL) {
        st = join_qkv(c, m, &to, name, err);
    } else if (st == SQ_OK && m->qwen && strcmp(name, "v.patch_embd.weight") == 0) {
        st = join_frames(c, m, &to, err);
    }
    if (st == SQ_OK) {
        c->tensors[c->n++] = to;
    }
    return st;
}

sq_status sq_mmproj_read(sq_checkpoint *c, sq_mmproj *m, sq_error *err) {
    const char *slash = strrchr(m->path, '/');
    sq_shard *s = NULL;
    sq_status st = sq_checkpoint_reserve(c, m->file.n_tensors, err);
    if (st == SQ_OK) {
        s = sq_checkpoint_add_shard(c, slash == NULL ? m->path : slash + 1, err);
        st = s == NULL ? SQ_ENOMEM : SQ_OK;
    }
    for (size_t i = 0; st == SQ_OK && i < m->file.n_tensors; i++) {
        st = add(c, m, &m->file.tensors[i], err);
    }
    if (s != NULL) {
        s->map = m->file.map; /* the checkpoint keeps the map */
        m->file.map = (sq_map){0};
    }
    return st;
}
