/* Shared by the files that read a folder as an engine's loader would. */
#ifndef SQ_QUANT_TARGET_LOAD_H
#define SQ_QUANT_TARGET_LOAD_H

#include "format/qconfig.h"
#include "model/config.h"
#include "quant/target.h"

typedef struct sq_loading {
    const char *path;
    sq_engine engine;
    sq_target target; /* its kind */
    sq_target_finding finding;
    void *user;
    sq_arena arena;
    sq_config config;
    const json_t *quantization; /* quantization_config, borrowed; NULL when plain */
} sq_loading;

/* One finding; fmt is why. */
void sq_loading_say(const sq_loading *l, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Every .json of the folder is whole. */
sq_status sq_loading_json(sq_loading *l, sq_error *err);
/* Tokenizer, template, picture settings and all shards are there. */
void sq_loading_files(sq_loading *l);
/* quantization_config: where it stands, and the keys that the engine asks for. */
void sq_loading_keys(sq_loading *l);
/* A GGUF file by llama.cpp's loader. */
void sq_loading_gguf(sq_loading *l);

#endif
