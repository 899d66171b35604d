#include "format/source.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/gguf_model.h"
#include "format/llama2c.h"
#include "format/spm.h"

const char *const sq_source_parts[] = {"llm", "vision_tower", "mm_projector", NULL};

static int has(const char *dir, const char *name) {
    sq_arena a = {0};
    char *path = sq_path_join(&a, dir, name, NULL);
    int yes = path != NULL && sq_file_exists(path);
    sq_arena_free(&a);
    return yes;
}

sq_source_kind sq_source_kind_of(const char *path) {
    size_t n = strlen(path);
    if (sq_gguf_is(path)) {
        return SQ_SOURCE_GGUF;
    }
    if (sq_is_dir(path)) {
        return has(path, "llm/config.json") && has(path, "vision_tower") &&
                       !has(path, "model.safetensors") && !has(path, "model.safetensors.index.json")
                   ? SQ_SOURCE_PARTS
                   : SQ_SOURCE_HF;
    }
    return n > 4 && strcmp(path + n - 4, ".bin") == 0 ? SQ_SOURCE_LLAMA2C : SQ_SOURCE_HF;
}

/* dir/name when it is there. */
static sq_status load(const char *dir, const char *name, json_t **out, sq_error *err) {
    sq_arena a = {0};
    char *path = sq_path_join(&a, dir, name, err);
    sq_status st = path == NULL           ? SQ_ENOMEM
                   : sq_file_exists(path) ? sq_json_load(path, out, err)
                                          : SQ_OK;
    sq_arena_free(&a);
    return st;
}

/* tokenizer.json, or SentencePiece's tokenizer.model in its place. */
static sq_status load_tokenizer(const char *dir, json_t **out, sq_error *err) {
    json_t *config = NULL;
    sq_status st = load(dir, "tokenizer.json", out, err);
    if (st != SQ_OK || *out != NULL || !has(dir, "tokenizer.model")) {
        return st;
    }
    st = load(dir, "tokenizer_config.json", &config, err);
    if (st == SQ_OK) {
        st = sq_spm_load(dir, config, out, err);
    }
    json_decref(config);
    return st;
}

static sq_status from_folder(const char *dir, const char *name, json_t **out, sq_error *err) {
    return strcmp(name, "tokenizer.json") == 0 ? load_tokenizer(dir, out, err)
                                               : load(dir, name, out, err);
}

/* The root's own files first, then those of a language model in a folder of its own. */
static sq_status from_parts(const char *dir, const char *name, json_t **out, sq_error *err) {
    sq_arena a = {0};
    sq_status st = from_folder(dir, name, out, err);
    if (st == SQ_OK && *out == NULL && has(dir, sq_source_parts[0])) {
        char *llm = sq_path_join(&a, dir, "llm", err);
        st = llm == NULL ? SQ_ENOMEM : from_folder(llm, name, out, err);
    }
    sq_arena_free(&a);
    return st;
}

sq_status sq_source_json(const char *model, const char *name, json_t **out, sq_error *err) {
    *out = NULL;
    switch (sq_source_kind_of(model)) {
    case SQ_SOURCE_GGUF:
        return sq_gguf_json(model, name, out, err);
    case SQ_SOURCE_LLAMA2C:
        return sq_llama2c_json(model, name, out, err);
    case SQ_SOURCE_PARTS:
    case SQ_SOURCE_HF:
        break;
    }
    return from_parts(model, name, out, err);
}
