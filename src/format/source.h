/* The JSON files of a checkpoint, whatever it lies in: a Hugging Face folder has them, GGUF files
 * or a llama2.c .bin get them built from their metadata, a SentencePiece tokenizer.model becomes a
 * tokenizer.json. Everything above this layer sees Hugging Face's form alone. */
#ifndef SQ_FORMAT_SOURCE_H
#define SQ_FORMAT_SOURCE_H

#include <jansson.h>

#include "base/error.h"

typedef enum sq_source_kind {
    SQ_SOURCE_HF,      /* a folder, or a .safetensors file */
    SQ_SOURCE_GGUF,    /* a file that begins with "GGUF", LANGUAGE.gguf+MMPROJ.gguf, or a folder of
                          these two without config.json */
    SQ_SOURCE_LLAMA2C, /* a .bin file */
    SQ_SOURCE_PARTS    /* VILA: a folder of llm/, vision_tower/ and mm_projector/ */
} sq_source_kind;

sq_source_kind sq_source_kind_of(const char *path);
extern const char *const sq_source_parts[]; /* the folders of SQ_SOURCE_PARTS, NULL at the end */

/* The file `name` ("config.json", "generation_config.json", "tokenizer.json",
 * "tokenizer_config.json", "preprocessor_config.json", …) of a model; *out is NULL with SQ_OK when
 * it has none. Owned by the caller (json_decref). */
sq_status sq_source_json(const char *model, const char *name, json_t **out, sq_error *err);

#endif
