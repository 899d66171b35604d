/* The files beside the tensors, as an engine's loader wants them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "quant/target_load.h"

void sq_loading_say(const sq_loading *l, const char *what, const char *fmt, ...) {
    char why[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    l->finding(l->user, what, why);
}

/* ---- the folder ---- */

static int there(sq_loading *l, const char *name) {
    char *path = sq_path_join(&l->arena, l->path, name, NULL);
    return path != NULL && sq_file_exists(path);
}

/* The object of a file; NULL when it is missing or broken. */
static json_t *object_of(sq_loading *l, const char *name) {
    json_t *v = NULL;
    char *path = sq_path_join(&l->arena, l->path, name, NULL);
    if (path == NULL || !sq_file_exists(path) || sq_json_load(path, &v, NULL) != SQ_OK) {
        return NULL;
    }
    return v;
}

sq_status sq_loading_json(sq_loading *l, sq_error *err) {
    char **names;
    size_t n;
    sq_status st = sq_list_dir(&l->arena, l->path, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        size_t len = strlen(names[i]);
        json_t *v = NULL;
        sq_error why = {0};
        char *path = len > 5 && strcmp(names[i] + len - 5, ".json") == 0
                         ? sq_path_join(&l->arena, l->path, names[i], NULL)
                         : NULL;
        if (path != NULL && sq_json_load(path, &v, &why) != SQ_OK) {
            sq_loading_say(l, names[i], "is not whole JSON: %.300s", why.text);
        }
        json_decref(v);
    }
    return st;
}

/* The largest id of the vocabulary and what is added to it; *image: 1 when `image_id` is one. */
static int64_t largest_id(const json_t *tokenizer, int64_t image_id, int *image) {
    const json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"),
                 *added = json_object_get(tokenizer, "added_tokens"), *v;
    int64_t most = (int64_t)json_array_size(vocab) - 1;
    size_t i;
    const char *key;
    *image = image_id <= most;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        int64_t id = json_integer_value(v);
        most = id > most ? id : most;
        *image |= id == image_id;
    }
    json_array_foreach((json_t *)(uintptr_t)added, i, v) {
        int64_t id = sq_json_int(v, "id", -1);
        most = id > most ? id : most;
        *image |= id == image_id;
    }
    return most;
}

static void check_tokenizer(sq_loading *l) {
    json_t *t = object_of(l, "tokenizer.json");
    int image = 0;
    int64_t vocab = l->config.dims[SQ_D_VOCAB];
    if (t == NULL) {
        if (!there(l, "tokenizer.json") && !there(l, "tokenizer.model")) {
            sq_loading_say(l, "tokenizer.json", "is missing");
        }
        return;
    }
    int64_t most = largest_id(t, l->config.image_token, &image);
    if (most < 0) {
        sq_loading_say(l, "tokenizer.json", "has no vocabulary");
    } else if (most >= vocab) {
        sq_loading_say(l, "tokenizer.json", "has the token %lld, and the embeddings %lld rows",
                       (long long)most, (long long)vocab);
    } else if (l->config.tower != NULL && l->config.image_token >= 0 && !image) {
        sq_loading_say(l, "tokenizer.json", "lacks the token %d of pictures (image_token_id)",
                       (int)l->config.image_token);
    }
    json_decref(t);
}

static void check_front(sq_loading *l) {
    if (!there(l, "tokenizer_config.json")) {
        sq_loading_say(l, "tokenizer_config.json", "is missing");
    }
    if (l->config.tower != NULL && !there(l, "preprocessor_config.json") &&
        !there(l, "processor_config.json")) {
        sq_loading_say(l, "preprocessor_config.json",
                       "is missing, and so is processor_config.json: pictures are refused");
    }
}

/* What the original has and Squint copied: without its chat template an engine refuses chats, or
 * takes another one. */
static void check_copied(sq_loading *l) {
    json_t *record = object_of(l, "squint.json"), *hash;
    const char *name;
    json_object_foreach(json_object_get(record, "files"), name, hash) {
        if (!there(l, name)) {
            sq_loading_say(l, name, "is missing, which the original has");
        }
    }
    json_decref(record);
}

/* The index names every tensor of the shards, and every shard is there. */
static void check_index(sq_loading *l) {
    static const char name[] = "model.safetensors.index.json";
    json_t *index = object_of(l, name), *map = json_object_get(index, "weight_map"), *v;
    const char *key;
    if (there(l, name) && !json_is_object(map)) {
        sq_loading_say(l, name, "has no weight_map");
    }
    json_object_foreach(map, key, v) {
        const char *file = json_is_string(v) ? json_string_value(v) : "?";
        if (!there(l, file)) {
            sq_loading_say(l, file, "is missing; %s says that '%.120s' lies there", name, key);
            break;
        }
    }
    json_decref(index);
}

void sq_loading_files(sq_loading *l) {
    check_tokenizer(l);
    check_front(l);
    check_copied(l);
    check_index(l);
}

/* ---- quantization_config ---- */

static int has(const json_t *q, const char *a, const char *b) {
    const json_t *v = json_object_get(q, a);
    v = v == NULL && b != NULL ? json_object_get(q, b) : v;
    return v != NULL && !json_is_null(v);
}

static void want(sq_loading *l, const char *a, const char *b) {
    if (!has(l->quantization, a, b)) {
        sq_loading_say(l, a, "is missing from config.json's quantization_config");
    }
}

static void check_awq(sq_loading *l) {
    const json_t *q = l->quantization;
    const char *version = sq_json_str(q, "version", "gemm");
    want(l, "bits", "w_bit");
    want(l, "group_size", "q_group_size");
    want(l, "zero_point", NULL);
    if (sq_target_fuses(l->target) && strcasecmp(version, "gemm") != 0) {
        sq_loading_say(l, "version", "'%s' is not heeded: %s reads every folder of AWQ as gemm",
                       version, sq_target_name(l->target));
    }
}

static void check_gptq(sq_loading *l) {
    static const char *const keys[] = {"bits", "group_size", "desc_act", "sym",
                                       "checkpoint_format"};
    json_t *side = object_of(l, "quantize_config.json");
    for (int i = 0; i < 5; i++) {
        const json_t *a = json_object_get(l->quantization, keys[i]),
                     *b = json_object_get(side, keys[i]);
        if (i < 4) {
            want(l, keys[i], NULL);
        }
        if (side != NULL && a != NULL && b != NULL && !json_equal(a, b)) {
            sq_loading_say(l, "quantize_config.json",
                           "and config.json's quantization_config differ in %s", keys[i]);
        }
    }
    json_decref(side);
}

static void check_ct(sq_loading *l) {
    const json_t *q = l->quantization, *g;
    const char *format = sq_json_str(q, "format", ""), *key;
    want(l, "format", NULL);
    json_object_foreach(json_object_get(q, "config_groups"), key, g) {
        const json_t *w = json_object_get(g, "weights"), *order = json_object_get(w, "actorder");
        int rounded = has(g, "input_activations", NULL);
        const char *wanted = rounded ? "int-quantized" : "pack-quantized";
        if (strcmp(format, wanted) != 0) {
            sq_loading_say(l, "format", "is '%s', and %s of config_groups wants '%s'", format, key,
                           wanted);
        }
        if (json_is_true(order) ||
            (json_is_string(order) && strcmp(json_string_value(order), "group") == 0)) {
            sq_loading_say(l, "actorder", "of %s: compressed-tensors has removed it", key);
        }
    }
    if (l->target == SQ_TARGET_TRANSFORMERS &&
        strcmp(sq_json_str(q, "quantization_status", ""), "compressed") != 0) {
        sq_loading_say(l, "quantization_status",
                       "is '%s', wanted 'compressed': packed tensors would not be looked for",
                       sq_json_str(q, "quantization_status", ""));
    }
}

void sq_loading_keys(sq_loading *l) {
    static const char *const nested[] = {"text_config", "llm_config", "language_config"};
    const json_t *config = l->config.json;
    l->quantization = json_object_get(config, "quantization_config");
    for (int i = 0; i < 3 && !json_is_object(l->quantization); i++) {
        const json_t *inner = json_object_get(config, nested[i]);
        if (i == 0 && l->target == SQ_TARGET_VLLM) { /* model_loader/weight_utils.py looks there */
            l->quantization = json_object_get(inner, "quantization_config");
        } else if (has(inner, "quantization_config", NULL)) {
            sq_loading_say(l, "quantization_config",
                           "stands in %s of config.json alone; %s looks at the top level",
                           nested[i], sq_target_name(l->target));
        }
    }
    if (!json_is_object(l->quantization)) {
        l->quantization = NULL;
        return;
    }
    const char *method = sq_json_str(l->quantization, "quant_method", "");
    if (strcmp(method, "awq") == 0) {
        check_awq(l);
    } else if (strcmp(method, "gptq") == 0) {
        check_gptq(l);
    } else if (strcmp(method, "compressed-tensors") == 0) {
        check_ct(l);
    } else {
        sq_loading_say(l, "quant_method",
                       "of config.json's quantization_config is '%s'; wanted compressed-tensors, "
                       "awq or gptq",
                       method);
        l->quantization = NULL;
    }
}

/* ---- llama.cpp ---- */

static const sq_gguf_tensor *gguf_tensor(const sq_gguf *g, const char *name) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (g->tensors[i].name.n == strlen(name) &&
            memcmp(g->tensors[i].name.p, name, g->tensors[i].name.n) == 0) {
            return &g->tensors[i];
        }
    }
    return NULL;
}

/* Keys and tensors without which llama.cpp's loader stops (src/llama-model.cpp). */
static void check_gguf(sq_loading *l, const sq_gguf *g) {
    static const char *const keys[] = {"context_length", "embedding_length", "block_count",
                                       "attention.head_count"};
    static const char *const tensors[] = {"attn_norm", "attn_output", "ffn_norm", "ffn_down",
                                          "ffn_up"};
    const sq_gguf_entry *tokens = sq_gguf_find(g, "tokenizer.ggml.tokens");
    const sq_gguf_tensor *embed = gguf_tensor(g, "token_embd.weight");
    sq_gguf_text arch = sq_gguf_string(sq_gguf_find(g, "general.architecture"));
    int64_t blocks = 0;
    char name[160];
    if (arch.n == 0 || sq_gguf_find(g, "tokenizer.ggml.model") == NULL) {
        sq_loading_say(l, arch.n == 0 ? "general.architecture" : "tokenizer.ggml.model",
                       "is missing");
        return;
    }
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%.*s.%s", (int)(arch.n > 64 ? 64 : arch.n), arch.p, keys[i]);
        const sq_gguf_entry *e = sq_gguf_find(g, name);
        if (e == NULL) {
            sq_loading_say(l, name, "is missing");
        } else if (i == 2) {
            blocks = (int64_t)sq_gguf_number(e, 0, 0);
        }
    }
    if (embed == NULL || tokens == NULL) {
        sq_loading_say(l, embed == NULL ? "token_embd.weight" : "tokenizer.ggml.tokens",
                       "is missing");
    } else if ((int64_t)tokens->count != embed->shape[0]) {
        sq_loading_say(l, "tokenizer.ggml.tokens", "has %lld tokens, token_embd.weight %lld rows",
                       (long long)tokens->count, (long long)embed->shape[0]);
    }
    for (int64_t b = 0; b < blocks && b < 1000; b++) {
        for (int i = 0; i < 5; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", (int)b, tensors[i]);
            if (gguf_tensor(g, name) == NULL) {
                sq_loading_say(l, name, "is missing");
            }
        }
    }
}

void sq_loading_gguf(sq_loading *l) {
    sq_gguf g = {0};
    sq_error why = {0};
    if (sq_is_dir(l->path)) {
        sq_loading_say(l, l->path, "is a folder; llama.cpp runs GGUF files");
    } else if (sq_gguf_open(&g, l->path, &why) != SQ_OK) {
        sq_loading_say(l, l->path, "%.300s", why.text);
    } else {
        check_gguf(l, &g);
    }
    sq_gguf_close(&g);
}
