/* config.json by the family's tables; models.md section 1 and transformers' configuration_*.py. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/source.h"

enum { MAX_DIM = 1 << 24, MAX_LAYERS = 4096 };

typedef struct reader {
    const json_t *text, *vision, *root;
    const char *path;
    sq_config *c;
} reader;

static sq_status need(const reader *r, const json_t *obj, const char *key, int64_t hi, int64_t *out,
                      sq_error *err) {
    return sq_json_need_int(obj, key, 1, hi, out, r->path, err);
}

static sq_status positive(const reader *r, const char *what, double v, sq_error *err) {
    if (!(v > 0) || !isfinite(v)) {
        return sq_fail(err, SQ_EFORMAT, "%s: '%s' out of range; got %g, wanted a positive number",
                       r->path, what, v);
    }
    return SQ_OK;
}

/* rope_parameters (new) or rope_scaling (old) win over the top-level rope_theta (models.md 1.1,
 * rule 3). */
static sq_status read_rope(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const json_t *rope = json_object_get(r->text, "rope_parameters");
    if (!json_is_object(rope)) {
        rope = json_object_get(r->text, "rope_scaling");
    }
    c->rope_theta = sq_json_num(r->text, "rope_theta", c->arch->default_rope_theta);
    c->rope_theta = sq_json_num(rope, "rope_theta", c->rope_theta);
    sq_status st;
    SQ_TRY(positive(r, "rope_theta", c->rope_theta, err));
    const char *type = sq_json_str(rope, "rope_type", sq_json_str(rope, "type", "default"));
    if (strcmp(type, "default") == 0 || strcmp(type, "mrope") == 0) {
        c->rope_scaling = SQ_ROPE_PLAIN;
    } else if (strcmp(type, "linear") == 0 || strcmp(type, "llama3") == 0) {
        c->rope_scaling = type[1] == 'i' ? SQ_ROPE_LINEAR : SQ_ROPE_LLAMA3;
        c->rope_factor = sq_json_num(rope, "factor", 1.0);
        c->rope_low = sq_json_num(rope, "low_freq_factor", 1.0);
        c->rope_high = sq_json_num(rope, "high_freq_factor", 4.0);
        c->rope_original = sq_json_num(rope, "original_max_position_embeddings", 8192.0);
        SQ_TRY(positive(r, "rope factor", c->rope_factor, err));
        SQ_TRY(positive(r, "high_freq_factor - low_freq_factor", c->rope_high - c->rope_low, err));
        SQ_TRY(positive(r, "original_max_position_embeddings", c->rope_original, err));
    } else {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s: rope type '%s' is not known; wanted default, mrope, linear or llama3",
                       r->path, type);
    }
    if (c->arch->rope == SQ_ROPE_MROPE) {
        static const int64_t dflt[3] = {16, 24, 24};
        const json_t *s = json_object_get(rope, "mrope_section");
        int64_t sum = 0;
        for (size_t i = 0; i < 3; i++) {
            const json_t *v = json_array_get(s, i);
            c->mrope[i] = json_is_integer(v) ? json_integer_value(v) : dflt[i];
            if (c->mrope[i] < 0 || c->mrope[i] > MAX_DIM) {
                return sq_fail(err, SQ_EFORMAT, "%s: mrope_section[%zu] out of range; got %lld",
                               r->path, i, (long long)c->mrope[i]);
            }
            sum += c->mrope[i];
        }
        if (sum != c->head_dim / 2) {
            return sq_fail(
                err, SQ_EFORMAT,
                "%s: mrope_section does not fit; got a sum of %lld, wanted head_dim / 2 = "
                "%lld",
                r->path, (long long)sum, (long long)(c->head_dim / 2));
        }
    }
    return SQ_OK;
fail:
    return st;
}

static sq_status read_text(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const json_t *t = r->text;
    sq_status st;
    SQ_TRY(need(r, t, "hidden_size", MAX_DIM, &c->dims[SQ_D_HIDDEN], err));
    SQ_TRY(need(r, t, "intermediate_size", MAX_DIM, &c->dims[SQ_D_INTER], err));
    SQ_TRY(need(r, t, "vocab_size", MAX_DIM, &c->dims[SQ_D_VOCAB], err));
    SQ_TRY(need(r, t, "num_hidden_layers", MAX_LAYERS, &c->layers, err));
    SQ_TRY(need(r, t, "num_attention_heads", 65536, &c->heads, err));
    c->kv_heads = sq_json_int(t, "num_key_value_heads", c->heads);
    c->head_dim = sq_json_int(t, "head_dim", c->dims[SQ_D_HIDDEN] / c->heads);
    if (c->kv_heads < 1 || c->kv_heads > c->heads || c->heads % c->kv_heads != 0) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: num_key_value_heads does not divide the heads; got %lld of %lld",
                       r->path, (long long)c->kv_heads, (long long)c->heads);
    }
    if (c->head_dim < 2 || c->head_dim > 65536 || c->head_dim % 2 != 0) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: head_dim out of range; got %lld, wanted an even number", r->path,
                       (long long)c->head_dim);
    }
    c->dims[SQ_D_Q] = c->heads * c->head_dim;
    c->dims[SQ_D_KV] = c->kv_heads * c->head_dim;
    c->max_positions = sq_json_int(t, "max_position_embeddings", 2048);
    if (c->max_positions < 1 || c->max_positions > INT32_MAX / 2) {
        return sq_fail(err, SQ_EFORMAT, "%s: max_position_embeddings out of range; got %lld",
                       r->path, (long long)c->max_positions);
    }
    c->rms_eps = (float)sq_json_num(t, "rms_norm_eps", 1e-6);
    SQ_TRY(positive(r, "rms_norm_eps", c->rms_eps, err));
    c->tied = sq_json_bool(t, "tie_word_embeddings", 0) ||
              sq_json_bool(r->root, "tie_word_embeddings", 0);
    c->attention_bias = sq_json_bool(t, "attention_bias", 0);
    c->mlp_bias = sq_json_bool(t, "mlp_bias", 0);
    const char *act = sq_json_str(t, "hidden_act", "silu");
    if (strcmp(act, "silu") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: hidden_act '%s' is not known; wanted silu",
                       r->path, act);
    }
    if (sq_json_bool(t, "use_sliding_window", 0)) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: sliding-window attention is not supported",
                       r->path);
    }
    return read_rope(r, err);
fail:
    return st;
}

static sq_status read_full_blocks(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    c->v_full = sq_alloc((size_t)c->v_layers, 1, "vision block kinds", err);
    if (c->v_full == NULL) {
        return SQ_ENOMEM;
    }
    if (!c->arch->vision_windows) {
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

static sq_status read_vision(const reader *r, sq_error *err) {
    sq_config *c = r->c;
    const sq_arch *a = c->arch;
    const json_t *v = r->vision;
    sq_status st;
    if (!json_is_object(v)) {
        return sq_fail(err, SQ_EFORMAT, "%s: key 'vision_config' is missing", r->path);
    }
    int64_t *d = c->dims;
    SQ_TRY(need(r, v, "depth", MAX_LAYERS, &c->v_layers, err));
    SQ_TRY(need(r, v, a->v_width_key, MAX_DIM, &d[SQ_D_V_WIDTH], err));
    SQ_TRY(need(r, v, json_object_get(v, "num_heads") ? "num_heads" : "num_attention_heads", 65536,
                &c->v_heads, err));
    if (a->v_inter_key != NULL) {
        SQ_TRY(need(r, v, a->v_inter_key, MAX_DIM, &d[SQ_D_V_INTER], err));
    } else {
        double m = sq_json_num(v, "mlp_ratio", 4.0) * (double)d[SQ_D_V_WIDTH];
        if (!(m >= 1 && m <= MAX_DIM)) {
            return sq_fail(err, SQ_EFORMAT, "%s: mlp_ratio out of range", r->path);
        }
        d[SQ_D_V_INTER] = (int64_t)m;
    }
    c->patch = sq_json_int(v, "patch_size", 14);
    c->temporal_patch = sq_json_int(v, "temporal_patch_size", 2);
    c->merge = sq_json_int(v, "spatial_merge_size", 2);
    c->channels = sq_json_int(v, "in_channels", sq_json_int(v, "in_chans", 3));
    c->window = sq_json_int(v, "window_size", 112);
    c->tokens_per_second = sq_json_num(v, "tokens_per_second", a->default_tokens_per_second);
    c->v_eps = 1e-6f;
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
    c->v_head_dim = d[SQ_D_V_WIDTH] / c->v_heads;
    if (d[SQ_D_V_WIDTH] % c->v_heads != 0 || c->v_head_dim % 4 != 0) {
        return sq_fail(
            err, SQ_EFORMAT,
            "%s: vision heads do not fit; got width %lld and %lld heads, wanted a head width "
            "that 4 divides",
            r->path, (long long)d[SQ_D_V_WIDTH], (long long)c->v_heads);
    }
    d[SQ_D_V_QKV] = 3 * d[SQ_D_V_WIDTH];
    d[SQ_D_V_MERGED] = d[SQ_D_V_WIDTH] * c->merge * c->merge;
    d[SQ_D_V_OUT] = d[SQ_D_HIDDEN];
    d[SQ_D_V_CHANNELS] = c->channels;
    d[SQ_D_V_TEMPORAL] = c->temporal_patch;
    d[SQ_D_V_PATCH] = c->patch;
    int64_t out = a->vision_windows ? sq_json_int(v, "out_hidden_size", d[SQ_D_HIDDEN])
                                    : sq_json_int(v, "hidden_size", d[SQ_D_HIDDEN]);
    if (out != d[SQ_D_HIDDEN]) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: the tower's output does not fit; got %lld, wanted %lld", r->path,
                       (long long)out, (long long)d[SQ_D_HIDDEN]);
    }
    return read_full_blocks(r, err);
fail:
    return st;
}

static void add_eos(sq_config *c, const json_t *v) {
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        int seen = !json_is_integer(e) || c->n_eos == SQ_MAX_EOS;
        for (int k = 0; !seen && k < c->n_eos; k++) {
            seen = c->eos[k] == json_integer_value(e);
        }
        if (!seen) {
            c->eos[c->n_eos++] = (int32_t)json_integer_value(e);
        }
    }
}

static int32_t token_id(const reader *r, const char *key) {
    return (int32_t)sq_json_int(r->root, key, sq_json_int(r->text, key, -1));
}

static sq_status read_generation(sq_config *c, const char *dir, sq_error *err) {
    sq_status st = sq_source_json(dir, "generation_config.json", &c->generation, err);
    if (st == SQ_OK) {
        add_eos(c, json_object_get(c->generation, "eos_token_id"));
    }
    return st;
}

static sq_status read_all(sq_config *c, const char *path, sq_error *err) {
    reader r = {.root = c->json, .path = path, .c = c};
    if (!json_is_object(c->json)) {
        return sq_fail(err, SQ_EFORMAT, "%s: wanted a JSON object", path);
    }
    const char *type = sq_json_str(c->json, "model_type", "");
    c->arch = sq_arch_find(type);
    if (c->arch == NULL) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s: model_type '%s' is not supported; wanted llama, qwen2, qwen2_vl or "
                       "qwen2_5_vl",
                       path, type);
    }
    const json_t *nested = json_object_get(c->json, "text_config");
    r.text = json_is_object(nested) ? nested : c->json;
    r.vision = json_object_get(c->json, "vision_config");
    sq_status st = read_text(&r, err);
    if (st == SQ_OK && c->arch->vision != SQ_VISION_NONE) {
        st = read_vision(&r, err);
    }
    if (st != SQ_OK) {
        return st;
    }
    c->image_token = token_id(&r, "image_token_id");
    c->video_token = token_id(&r, "video_token_id");
    c->vision_start = token_id(&r, "vision_start_token_id");
    c->vision_end = token_id(&r, "vision_end_token_id");
    c->bos = token_id(&r, "bos_token_id");
    c->pad = token_id(&r, "pad_token_id");
    add_eos(c, json_object_get(r.text, "eos_token_id"));
    add_eos(c, json_object_get(r.root, "eos_token_id"));
    c->dtype = sq_json_str(r.root, "dtype", sq_json_str(r.root, "torch_dtype", ""));
    return SQ_OK;
}

sq_status sq_config_load(sq_config *out, const char *dir, sq_error *err) {
    *out = (sq_config){.image_token = -1, .video_token = -1};
    sq_arena a = {0};
    char *path = sq_path_join(&a, dir, "config.json", err);
    sq_status st = path == NULL ? SQ_ENOMEM : sq_source_json(dir, "config.json", &out->json, err);
    if (st == SQ_OK && out->json == NULL) {
        st = sq_fail(err, SQ_EFORMAT,
                     "'%s' is no model; wanted a folder with config.json, a .gguf "
                     "or a llama2.c .bin file",
                     dir);
    }
    if (st == SQ_OK) {
        st = read_all(out, path, err);
    }
    if (st == SQ_OK) {
        st = read_generation(out, dir, err);
    }
    sq_arena_free(&a);
    if (st != SQ_OK) {
        sq_config_free(out);
    }
    return st;
}

void sq_config_free(sq_config *c) {
    sq_free(c->v_full);
    json_decref(c->json);
    json_decref(c->generation);
    *c = (sq_config){0};
}
