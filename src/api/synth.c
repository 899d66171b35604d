/* Random checkpoints of published shapes (models.md 1.2 and 1.3): config, tokenizer, template,
 * weights in bf16. */
#include "squint/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/json.h"
#include "base/log.h"
#include "format/safetensors.h"
#include "model/config.h"

typedef struct shape {
    const char *name, *type;
    int hidden, inter, layers, heads, kv, vocab, positions;
    double eps, theta;
    int tied;
    int v_depth, v_width, v_inter, v_heads; /* 0: no tower */
    int image;                              /* pixels a side of a tower of fixed size */
} shape;

static const shape shapes[] = {
    {"qwen2-vl-2b", "qwen2_vl", 1536, 8960, 28, 12, 2, 151936, 32768, 1e-6, 1e6, 1, 32, 1280, 5120,
     16, 0},
    {"qwen2-vl-7b", "qwen2_vl", 3584, 18944, 28, 28, 4, 152064, 32768, 1e-6, 1e6, 0, 32, 1280, 5120,
     16, 0},
    {"qwen2-vl-72b", "qwen2_vl", 8192, 29568, 80, 64, 8, 152064, 32768, 1e-6, 1e6, 0, 32, 1280,
     5120, 16, 0},
    {"qwen2.5-vl-3b", "qwen2_5_vl", 2048, 11008, 36, 16, 2, 151936, 128000, 1e-6, 1e6, 1, 32, 1280,
     3420, 16, 0},
    {"qwen2.5-vl-7b", "qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064, 128000, 1e-6, 1e6, 0, 32, 1280,
     3420, 16, 0},
    {"llava-1.5-7b", "llava", 4096, 11008, 32, 32, 32, 32064, 4096, 1e-5, 1e4, 0, 24, 1024, 4096,
     16, 336},
    {"vila-1.5-3b", "llava_llama", 2560, 6912, 32, 20, 20, 32000, 4096, 1e-5, 1e4, 0, 27, 1152,
     4304, 16, 384},
    {"llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 128256, 8192, 1e-5, 5e5, 0, 0, 0, 0, 0, 0},
    {"stories15m", "llama", 288, 768, 6, 6, 6, 32000, 256, 1e-5, 1e4, 1, 0, 0, 0, 0, 0},
    {"smollm2-135m", "llama", 576, 1536, 30, 9, 3, 49152, 8192, 1e-5, 1e5, 1, 0, 0, 0, 0, 0},
};

enum { MAX_SPECS = 4096 };

typedef struct making {
    const shape *s;
    int layers, v_layers;
    sq_arena arena;
    sq_config config;
    sq_tensor_spec *specs;
    size_t n;
    uint64_t seed;
    sq_error *err;
} making;

static sq_status add_spec(void *user, const char *name, sq_part part, int rank, const int64_t *dims,
                          sq_error *err) {
    making *m = user;
    char file[256];
    (void)part;
    sq_arch_published(m->config.arch, name, file, sizeof file);
    char *copy = m->n < MAX_SPECS ? sq_arena_strdup(&m->arena, file, err) : NULL;
    if (copy == NULL) {
        return sq_fail_nomem(err, "tensors", 0);
    }
    sq_tensor_spec *t = &m->specs[m->n++];
    *t = (sq_tensor_spec){.name = copy, .dtype = SQ_BF16, .rank = rank};
    memcpy(t->shape, dims, (size_t)rank * sizeof *dims);
    return SQ_OK;
}

/* ---- numbers ---- */

static uint64_t mix(uint64_t z) { /* splitmix64's output function */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Nearly normal, of variance 1: the sum of the sixteen nibbles of a hash (mean 7.5, variance 21.25
 * each). */
static float normal(uint64_t key) {
    uint64_t h = mix(key * 0x9e3779b97f4a7c15u);
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += (int)(h >> (4 * i) & 15);
    }
    return ((float)sum - 120.0f) * 0.05423261f;
}

/* One value depends on the tensor's name, the seed and its index alone. Norms lie near 1, with a
 * few channels well above (what AWQ looks for), biases near 0, linears have the variance 1 / in. */
static void fill(const sq_tensor_spec *s, uint64_t seed, uint16_t *out, int64_t n,
                 int64_t columns) {
    uint64_t base = seed;
    for (const char *c = s->name; *c != '\0'; c++) {
        base = mix(base ^ (uint64_t)(unsigned char)*c);
    }
    int norm = strstr(s->name, "norm") != NULL || strstr(s->name, "ln_q") != NULL ||
               strstr(s->name, "layrnorm") != NULL ||
               (s->rank == 1 && strstr(s->name, "mm_projector") != NULL);
    int bias = strstr(s->name, ".bias") != NULL;
    int embed = strstr(s->name, "embed_tokens") != NULL;
    float scale = embed ? 0.02f : s->rank == 1 ? 0.02f : 0.7f / sqrtf((float)columns);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float v = normal(base + (uint64_t)i) * scale;
        if (norm && !bias) {
            v += 1.0f + (mix(base + (uint64_t)i * 3) % 64 == 0 ? 4.0f : 0.0f);
        }
        out[i] = sq_f32_to_bf16(v);
    }
}

static sq_status write_weights(making *m, const char *dir, const sq_progress *progress) {
    sq_st_writer *w = NULL;
    sq_status st = sq_st_writer_open(&w, dir, m->specs, m->n, 5000000000u, 0, m->err);
    for (size_t i = 0; st == SQ_OK && i < m->n; i++) {
        const sq_tensor_spec *s = &m->specs[i];
        int64_t n = 1, columns = 1;
        for (int d = 0; d < s->rank; d++) {
            n *= s->shape[d];
            columns *= d > 0 ? s->shape[d] : 1;
        }
        uint16_t *data = sq_alloc_raw((size_t)n, 2, s->name, m->err);
        if (data == NULL) {
            st = SQ_ENOMEM;
            break;
        }
        fill(s, m->seed, data, n, columns);
        st = sq_st_writer_put(w, s->name, data, (size_t)n * 2, m->err);
        sq_free(data);
        if (st == SQ_OK &&
            !sq_progress_tick(progress, "synth", (int64_t)i + 1, (int64_t)m->n, s->name)) {
            st = sq_fail(m->err, SQ_ECANCELLED, "stopped");
        }
    }
    if (st == SQ_OK) {
        return sq_st_writer_finish(&w, m->err);
    }
    sq_st_writer_close(&w);
    return st;
}

/* ---- configuration ---- */

static json_t *qwen_vision_json(const making *m) {
    const shape *s = m->s;
    if (strcmp(s->type, "qwen2_vl") == 0) {
        return json_pack("{s:i, s:i, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "depth", m->v_layers,
                         "embed_dim", s->v_width, "hidden_act", "quick_gelu", "hidden_size",
                         s->hidden, "mlp_ratio", 4, "num_heads", s->v_heads, "in_chans", 3,
                         "patch_size", 14, "spatial_merge_size", 2, "temporal_patch_size", 2);
    }
    json_t *full = json_array();
    for (int i = 7; i < m->v_layers; i += 8) {
        json_array_append_new(full, json_integer(i));
    }
    if (json_array_size(full) == 0) {
        json_array_append_new(full, json_integer(m->v_layers - 1));
    }
    return json_pack("{s:i, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o}", "depth",
                     m->v_layers, "hidden_act", "silu", "hidden_size", s->v_width,
                     "intermediate_size", s->v_inter, "num_heads", s->v_heads, "in_chans", 3,
                     "out_hidden_size", s->hidden, "patch_size", 14, "spatial_merge_size", 2,
                     "temporal_patch_size", 2, "window_size", 112, "tokens_per_second", 2,
                     "fullatt_block_indexes", full);
}

static json_t *vit_json(const making *m) {
    const shape *s = m->s;
    int clip = strcmp(s->type, "llava") == 0;
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f}", "model_type",
                     clip ? "clip_vision_model" : "siglip_vision_model", "num_hidden_layers",
                     m->v_layers, "hidden_size", s->v_width, "intermediate_size", s->v_inter,
                     "num_attention_heads", s->v_heads, "image_size", s->image, "patch_size", 14,
                     "hidden_act", clip ? "quick_gelu" : "gelu_pytorch_tanh", "layer_norm_eps",
                     clip ? 1e-5 : 1e-6);
}

static json_t *text_json(const making *m, const char *type) {
    const shape *s = m->s;
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:b, s:s, s:b}",
                     "model_type", type, "hidden_size", s->hidden, "intermediate_size", s->inter,
                     "num_hidden_layers", m->layers, "num_attention_heads", s->heads,
                     "num_key_value_heads", s->kv, "vocab_size", s->vocab,
                     "max_position_embeddings", s->positions, "hidden_act", "silu", "rms_norm_eps",
                     s->eps, "rope_theta", s->theta, "tie_word_embeddings", s->tied, "torch_dtype",
                     "bfloat16", "use_sliding_window", 0);
}

static json_t *llava_json(const making *m) {
    return json_pack("{s:[s], s:s, s:o, s:o, s:i, s:i, s:s, s:s, s:b, s:s}", "architectures",
                     "LlavaForConditionalGeneration", "model_type", "llava", "text_config",
                     text_json(m, "llama"), "vision_config", vit_json(m), "image_token_index",
                     32000, "vision_feature_layer", -2, "vision_feature_select_strategy", "default",
                     "projector_hidden_act", "gelu", "tie_word_embeddings", m->s->tied,
                     "torch_dtype", "bfloat16");
}

static json_t *vila_json(const making *m) {
    return json_pack("{s:[s], s:s, s:o, s:o, s:{s:s}, s:i, s:s, s:i, s:s}", "architectures",
                     "LlavaLlamaModel", "model_type", "llava_llama", "llm_cfg",
                     text_json(m, "llama"), "vision_tower_cfg", vit_json(m), "mm_projector_cfg",
                     "mm_projector_type", "mlp_downsample", "mm_vision_select_layer", -2,
                     "mm_vision_select_feature", "cls_patch", "num_video_frames", 8,
                     "image_aspect_ratio", "resize");
}

static json_t *config_json(const making *m) {
    const shape *s = m->s;
    if (s->image > 0) {
        return strcmp(s->type, "llava") == 0 ? llava_json(m) : vila_json(m);
    }
    const char *arch = strcmp(s->type, "qwen2_vl") == 0     ? "Qwen2VLForConditionalGeneration"
                       : strcmp(s->type, "qwen2_5_vl") == 0 ? "Qwen2_5_VLForConditionalGeneration"
                                                            : "LlamaForCausalLM";
    json_t *c = text_json(m, s->type);
    json_object_set_new(c, "architectures", json_pack("[s]", arch));
    if (c != NULL && s->v_depth > 0) {
        json_object_set_new(c, "vision_config", qwen_vision_json(m));
        json_object_set_new(
            c, "rope_scaling",
            json_pack("{s:s, s:[i, i, i]}", "type", "mrope", "mrope_section", 16, 24, 24));
        json_object_update_new(c, json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "bos_token_id",
                                            151643, "eos_token_id", 151645, "vision_start_token_id",
                                            151652, "vision_end_token_id", 151653, "image_token_id",
                                            151655, "video_token_id", 151656));
    }
    return c;
}

/* A byte is a token: printable ones stand for themselves, the others from U+0100 on (GPT-2's byte
 * alphabet). */
static json_t *byte_vocab(void) {
    json_t *v = json_object();
    int next = 256;
    for (int b = 0; b < 256; b++) {
        int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int cp = plain ? b : next++;
        char text[4] = {0};
        if (cp < 128) {
            text[0] = (char)cp;
        } else {
            text[0] = (char)(0xc0 | cp >> 6);
            text[1] = (char)(0x80 | (cp & 63));
        }
        json_object_set_new(v, text, json_integer(b));
    }
    return v;
}

static json_t *tokenizer_json(const making *m) {
    static const char *const special[] = {"<|endoftext|>",    "<|im_start|>",   "<|im_end|>",
                                          "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
                                          "<|image_pad|>",    "<|video_pad|>"};
    static const int qwen[] = {151643, 151644, 151645, 151652, 151653, 151654, 151655, 151656};
    json_t *added = json_array();
    int big = m->s->vocab > 151000, llava = strcmp(m->s->type, "llava") == 0;
    for (int i = 0; i < 8; i++) {
        int id = big ? qwen[i] : 256 + i;
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id,
                                               "content", special[i], "single_word", 0, "lstrip", 0,
                                               "rstrip", 0, "normalized", 0, "special", 1));
    }
    if (llava) {
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", 32000, "content",
                                               "<image>", "normalized", 0, "special", 1));
    }
    json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 0, "use_regex", 1);
    return json_pack("{s:s, s:n, s:n, s:o, s:{s:s}, s:o, s:n, s:O, s:{s:s, s:n, s:n, s:n, s:n, "
                     "s:b, s:b, s:o, s:[]}}",
                     "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
                     "type", "NFC", "pre_tokenizer", level, "post_processor", "decoder", level,
                     "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "vocab", byte_vocab(),
                     "merges");
}

static json_t *processor_json(const shape *s) {
    if (strcmp(s->type, "llava") == 0) {
        return json_pack("{s:{s:i, s:i}, s:{s:i}, s:b, s:[f, f, f], s:[f, f, f], s:i, s:s}",
                         "crop_size", "height", s->image, "width", s->image, "size",
                         "shortest_edge", s->image, "do_center_crop", 1, "image_mean", 0.48145466,
                         0.4578275, 0.40821073, "image_std", 0.26862954, 0.26130258, 0.27577711,
                         "resample", 3, "image_processor_type", "CLIPImageProcessor");
    }
    if (s->image > 0) {
        return json_pack("{s:{s:i, s:i}, s:[f, f, f], s:[f, f, f], s:i, s:s}", "size", "height",
                         s->image, "width", s->image, "image_mean", 0.5, 0.5, 0.5, "image_std", 0.5,
                         0.5, 0.5, "resample", 3, "image_processor_type", "SiglipImageProcessor");
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:[f, f, f], s:[f, f, f], s:s, s:s}", "min_pixels",
                     3136, "max_pixels", 12845056, "patch_size", 14, "temporal_patch_size", 2,
                     "merge_size", 2, "image_mean", 0.48145466, 0.4578275, 0.40821073, "image_std",
                     0.26862954, 0.26130258, 0.27577711, "image_processor_type",
                     "Qwen2VLImageProcessor", "processor_class", "Qwen2VLProcessor");
}

static sq_status save(making *m, const char *dir, const char *name, json_t *value) {
    char *path = sq_path_join(&m->arena, dir, name, m->err);
    sq_status st = path == NULL || value == NULL ? SQ_ENOMEM : sq_json_save(path, value, m->err);
    json_decref(value);
    return st;
}

static sq_status write_json(making *m, const char *dir) {
    sq_status st;
    int eos = m->s->vocab > 151000 ? 151645 : 258;
    SQ_TRY(save(m, dir, "generation_config.json", json_pack("{s:i}", "eos_token_id", eos)));
    SQ_TRY(save(m, dir, "tokenizer.json", tokenizer_json(m)));
    SQ_TRY(save(m, dir, "tokenizer_config.json",
                json_pack("{s:s, s:s, s:s}", "tokenizer_class", "Qwen2Tokenizer", "eos_token",
                          "<|im_end|>", "pad_token", "<|endoftext|>")));
    if (m->s->v_depth > 0) {
        SQ_TRY(save(m, dir, "preprocessor_config.json", processor_json(m->s)));
    }
fail:
    return st;
}

/* Everything in the folder but its weights. */
static sq_status copy_files(making *m, const char *from, const char *to) {
    char **names;
    size_t n = 0;
    sq_status st = sq_list_dir(&m->arena, from, &names, &n, m->err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        char *a = sq_path_join(&m->arena, from, names[i], m->err);
        char *b = a == NULL ? NULL : sq_path_join(&m->arena, to, names[i], m->err);
        if (b == NULL) {
            return SQ_ENOMEM;
        }
        st = sq_is_dir(a) || strstr(names[i], ".safetensors") != NULL ? SQ_OK
                                                                      : sq_file_copy(a, b, m->err);
    }
    return st;
}

static int has_config(making *m, const char *folder) {
    char *path = sq_path_join(&m->arena, folder, "config.json", NULL);
    return path != NULL && sq_file_exists(path);
}

static sq_status unknown(const char *name, sq_error *err) {
    char list[400] = "";
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i == 0 ? "" : ", ", shapes[i].name);
    }
    return sq_fail(err, SQ_EARG, "shape '%s' is not known; wanted a folder with config.json, or %s",
                   name, list);
}

static const shape *find(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }
    return NULL;
}

json_t *sq_synth_config(const char *name) {
    making m = {.s = find(name)};
    if (m.s == NULL) {
        return NULL;
    }
    m.layers = m.s->layers;
    m.v_layers = m.s->v_depth;
    return config_json(&m);
}

sq_status sq_synth(const char *name, const char *out, int layers, uint64_t seed,
                   const sq_progress *progress, sq_error *err) {
    making m = {.seed = seed, .err = err};
    sq_status st;
    SQ_TRY(sq_need_arg(name, "shape", err));
    SQ_TRY(sq_need_arg(out, "out_dir", err));
    m.s = find(name);
    if (m.s == NULL && !has_config(&m, name)) {
        st = unknown(name, err);
        goto fail;
    }
    if (m.s == NULL && layers > 0) {
        st = sq_fail(err, SQ_EARG, "the folder's config.json says how many layers; got %d", layers);
        goto fail;
    }
    if (sq_file_exists(out)) {
        st = sq_fail(err, SQ_EARG, "'%s' exists already; wanted a new folder", out);
        goto fail;
    }
    if (m.s != NULL) {
        m.layers = layers > 0 && layers < m.s->layers ? layers : m.s->layers;
        m.v_layers = layers > 0 && layers < m.s->v_depth ? layers : m.s->v_depth;
    }
    m.specs = sq_arena_alloc(&m.arena, MAX_SPECS, sizeof *m.specs, err);
    char *partial = sq_arena_printf(&m.arena, err, "%s.partial", out);
    if (m.specs == NULL || partial == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    SQ_TRY(sq_remove_tree(partial, err));
    SQ_TRY(sq_make_dirs(partial, err));
    SQ_TRY(m.s == NULL ? copy_files(&m, name, partial)
                       : save(&m, partial, "config.json", config_json(&m)));
    SQ_TRY(sq_config_load(&m.config, partial, err));
    SQ_TRY(sq_config_tensors(&m.config, add_spec, &m, err));
    SQ_TRY(write_weights(&m, partial, progress));
    SQ_TRY(m.s == NULL ? SQ_OK : write_json(&m, partial));
    if (rename(partial, out) != 0) {
        st = sq_fail_errno(err, "cannot rename to", out);
    }
fail:
    sq_config_free(&m.config);
    sq_arena_free(&m.arena);
    return st;
}
