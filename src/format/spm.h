/* SentencePiece vocabularies (tokenizer.model, llama2.c's tokenizer.bin, GGUF's "llama" model) as
 * the tokenizer.json that transformers' converter makes of them (convert_slow_tokenizer.py). */
#ifndef SQ_FORMAT_SPM_H
#define SQ_FORMAT_SPM_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

/* The numbers are those of sentencepiece_model.proto and of GGUF's token types. */
typedef enum sq_piece_type {
    SQ_PIECE_NORMAL = 1,
    SQ_PIECE_UNKNOWN,
    SQ_PIECE_CONTROL,
    SQ_PIECE_USER,
    SQ_PIECE_UNUSED,
    SQ_PIECE_BYTE
} sq_piece_type;

typedef struct sq_piece {
    const char *text; /* not terminated; id is the index */
    size_t n;
    float score;
    int type;
} sq_piece;

typedef struct sq_spm_options {
    int prefix;    /* a space goes before the text: Prepend */
    int metaspace; /* newer form: only before the first segment (tokenizer_config "legacy": false)
                    */
    int bos;       /* id that goes first, -1: none */
    int nfkc;      /* the normalizer is one of the NFKC kind */
} sq_spm_options;

sq_status sq_spm_tokenizer(const sq_piece *pieces, size_t n, const sq_spm_options *o, json_t **out,
                           sq_error *err);
/* dir/tokenizer.model; config is tokenizer_config.json or NULL. */
sq_status sq_spm_load(const char *dir, const json_t *config, json_t **out, sq_error *err);

/* {"type": "TemplateProcessing"} that puts one token first; NULL without memory. */
json_t *sq_post_bos(const char *token, size_t len, int id);
/* An entry of added_tokens. */
json_t *sq_added_token(int id, const char *text, size_t len, int special);

#endif
