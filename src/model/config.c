/* config.json by the family's tables; models.md section 1 and transformers' configuration_*.py. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch/families.h"
#include "base/file.h"
#include "base/json.h"
#include "format/source.h"

enum { MAX_DIM = 1 << 24, MAX_LAYERS = 4096 };

typedef struct reader {
    const json_t *text, *root;
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
    c->rope_theta = sq_json_num(r->text, "rope_theta", c->text->default_rope_theta);
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
    if (c->text->rope == SQ_ROPE_MROPE) {
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
    /* Mistral's window has no switch: up to it, attention is the full one. */
    int64_t window = c->text == &sq_arch_mistral ? sq_json_int(t, "sliding_window", 0) : 0;
    if (window > 0 && window < c->max_positions) {
        c->max_positions = window;
    }
    return read_rope(r, err);
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

/* obj[key] as an object, or the config.json of the folder `part` beside (VILA); owned. */
static sq_status nested(const reader *r, const char *key, const char *part, json_t **out,
                        sq_error *err) {
    json_t *v = key == NULL ? NULL : json_object_get(r->root, key);
    if (json_is_object(v)) {
        *out = json_copy(v);
        return *out == NULL ? sq_fail_nomem(err, "a config", 0) : SQ_OK;
    }
    sq_arena a = {0};
    char *dir = sq_path_dir(&a, r->path, err);
    char *sub = dir == NULL ? NULL : sq_path_join(&a, dir, part, err);
    sq_status st = sub == NULL ? SQ_ENOMEM : sq_source_json(sub, "config.json", out, err);
    sq_arena_free(&a);
    return st;
}

/* The language model's own object, with its class's defaults below. */
static sq_status find_text(reader *r, json_t **owned, sq_error *err) {
    sq_config *c = r->c;
    const sq_arch *a = c->arch;
    sq_status st = SQ_OK;
    c->text = a;
    if (a->text_key == NULL) {
        return SQ_OK;
    }
    SQ_TRY(nested(r, a->text_key, "llm", owned, err));
    if (*owned != NULL) {
        r->text = *owned;
    }
    if (a->embed != NULL) {
        return SQ_OK;
    }
    const char *type = sq_json_str(r->text, "model_type", "llama");
    c->text = sq_arch_find(type);
    if (*owned == NULL || c->text == NULL || c->text->embed == NULL || c->text->towers != NULL) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s: %s of type '%s' is not supported; wanted llama, mistral or qwen2",
                       r->path, a->text_key, *owned == NULL ? "" : type);
    }
    if (c->text->text_defaults != NULL) {
        json_t *defaults = json_loads(c->text->text_defaults, 0, NULL);
        int bad = json_object_update_missing(*owned, defaults);
        json_decref(defaults);
        st = bad != 0 ? sq_fail_nomem(err, "a config", 0) : SQ_OK;
    }
fail:
    return st;
}

static sq_status read_parts(reader *r, sq_error *err) {
    sq_config *c = r->c;
    json_t *text = NULL, *vision = NULL, *projector = NULL;
    sq_status st;
    SQ_TRY(find_text(r, &text, err));
    SQ_TRY(read_text(r, err));
    if (c->arch->towers != NULL) {
        SQ_TRY(nested(r, c->arch->vision_key, "vision_tower", &vision, err));
        SQ_TRY(nested(r, "mm_projector_cfg", "mm_projector", &projector, err));
        SQ_TRY(sq_config_vision(c, vision, projector, r->path, err));
    }
    c->bos = token_id(r, "bos_token_id");
    c->pad = token_id(r, "pad_token_id");
    add_eos(c, json_object_get(r->text, "eos_token_id"));
fail:
    json_decref(text);
    json_decref(vision);
    json_decref(projector);
    return st;
}

static sq_status unknown_family(const char *path, const char *type, sq_error *err) {
    char known[256] = "";
    for (size_t i = 0; i < sq_arch_count(); i++) {
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : ", ",
                 sq_arch_at(i)->model_type);
    }
    return sq_fail(err, SQ_EUNSUPPORTED, "%s: model_type '%s' is not supported; wanted one of %s",
                   path, type, known);
}

static sq_status read_all(sq_config *c, const char *path, sq_error *err) {
    reader r = {.root = c->json, .text = c->json, .path = path, .c = c};
    if (!json_is_object(c->json)) {
        return sq_fail(err, SQ_EFORMAT, "%s: wanted a JSON object", path);
    }
    const char *type = sq_json_str(c->json, "model_type", "");
    c->arch = sq_arch_find(type);
    if (c->arch == NULL) {
        return unknown_family(path, type, err);
    }
    sq_status st = read_parts(&r, err);
    if (st != SQ_OK) {
        return st;
    }
    r.text = json_object_get(r.root, "text_config");
    c->image_token = token_id(&r, "image_token_id");
    if (c->image_token < 0) {
        c->image_token = token_id(&r, "image_token_index");
    }
    c->video_token = token_id(&r, "video_token_id");
    c->vision_start = token_id(&r, "vision_start_token_id");
    c->vision_end = token_id(&r, "vision_end_token_id");
    add_eos(c, json_object_get(r.root, "eos_token_id"));
    c->dtype = sq_json_str(r.root, "dtype", sq_json_str(r.root, "torch_dtype", ""));
    return SQ_OK;
}

sq_status sq_config_parse(sq_config *out, json_t *json, const char *where, sq_error *err) {
    *out = (sq_config){.image_token = -1, .video_token = -1, .json = json};
    sq_status st = read_all(out, where, err);
    if (st != SQ_OK) {
        sq_config_free(out);
    }
    return st;
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
