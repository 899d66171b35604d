/* Internal to src/format: a model of GGUF files, the language model alone or with its mmproj. */
#ifndef SQ_FORMAT_GGUF_MODEL_H
#define SQ_FORMAT_GGUF_MODEL_H

#include "format/checkpoint.h"
#include "format/gguf.h"

/* ---- which files: gguf_files.c ---- */

typedef struct sq_gguf_paths {
    char *text, *vision; /* of the arena; vision NULL: none */
} sq_gguf_paths;

/* Whether a path stands for GGUF files: one, LANGUAGE.gguf+MMPROJ.gguf, or a folder without
 * config.json that holds some. */
int sq_gguf_is(const char *path);
/* One language model, and at most one mmproj; a folder with more is SQ_EARG and lists them. */
sq_status sq_gguf_find_paths(sq_gguf_paths *out, sq_arena *a, const char *path, sq_error *err);

/* ---- the mmproj: gguf_vision.c ---- */

/* The tower and projector that llama.cpp keeps in a file of their own (tools/mtmd/clip.cpp). */
typedef struct sq_mmproj {
    sq_gguf file;
    const char *path; /* borrowed */
    int windows;      /* Qwen2.5-VL's */
    int qwen;         /* else a tower of fixed size: LLaVA's */
} sq_mmproj;

/* Opens it beside the language model `text` of `text_path`; SQ_EFORMAT when it is another model's.
 */
sq_status sq_mmproj_open(sq_mmproj *m, const char *path, const sq_gguf *text, const char *text_path,
                         sq_error *err);
void sq_mmproj_close(sq_mmproj *m);
/* config.json of both. `text_config`, that of the language model, is used up. */
sq_status sq_mmproj_config(const sq_mmproj *m, const sq_gguf *text, json_t *text_config,
                           json_t **out, sq_error *err);
/* preprocessor_config.json. */
json_t *sq_mmproj_preprocessor(const sq_mmproj *m);
/* What comes before the names of the language model's tensors. */
const char *sq_mmproj_text_prefix(const sq_mmproj *m);
/* Its tensors under their published names; the checkpoint takes the map. */
sq_status sq_mmproj_read(sq_checkpoint *c, sq_mmproj *m, sq_error *err);

/* ---- shared ---- */

int sq_gguf_text_is(sq_gguf_text t, const char *s);
const sq_gguf_tensor *sq_gguf_find_tensor(const sq_gguf *g, const char *name);
/* o[key] = a whole number of the metadata; nothing when it is not there. */
void sq_gguf_set_int(json_t *o, const char *key, const sq_gguf_entry *e);

#endif
