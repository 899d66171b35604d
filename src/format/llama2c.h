/* The .bin files of karpathy/llama2.c (export.py): version 0 without a magic, 1 (f32) and 2 (int8
 * groups), and tokenizer.bin beside them. */
#ifndef SQ_FORMAT_LLAMA2C_H
#define SQ_FORMAT_LLAMA2C_H

#include <jansson.h>

#include "base/error.h"

/* A file of sq_source_json: config.json from the header, tokenizer.json from tokenizer.bin,
 * tokenizer.model or tokenizer.json in the same folder. */
sq_status sq_llama2c_json(const char *path, const char *name, json_t **out, sq_error *err);

#endif
