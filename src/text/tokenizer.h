/* Tokenizer from tokenizer.json: normalizer, added tokens, pre-tokenizer, BPE, decoder; ids equal
 * to HF tokenizers. Immutable after opening, so many threads may use one. */
#ifndef SQ_TEXT_TOKENIZER_H
#define SQ_TEXT_TOKENIZER_H

#include <jansson.h>
#include <stdint.h>

#include "base/mem.h"

typedef struct sq_tokenizer sq_tokenizer;

/* From a folder with tokenizer.json (tokenizer_config.json is read for the special tokens' names
 * when it is there), or a path to a tokenizer.json. An unknown normalizer, pre-tokenizer, model or
 * decoder type is SQ_EUNSUPPORTED and is named. */
sq_status sq_tokenizer_open(sq_tokenizer **out, const char *path, sq_error *err);
/* From parsed JSON: tokenizer.json's object, and tokenizer_config.json's or NULL. Both are only
 * read. Other sources of a tokenizer (GGUF, tokenizer.model) build this object. */
sq_status sq_tokenizer_from_json(sq_tokenizer **out, const json_t *root, const json_t *config,
                                 sq_error *err);
void sq_tokenizer_close(sq_tokenizer **t);

typedef struct sq_ids {
    int32_t *data;
    size_t len, cap;
} sq_ids; /* zeroed is valid; sq_free(data) */
sq_status sq_ids_push(sq_ids *ids, int32_t id, sq_error *err);

/* Appends the ids of a text. Special tokens in the text are recognised unless `plain`. With `post`
 * the post-processor's template adds BOS and the like. Broken UTF-8 is read as U+FFFD, as Python's
 * errors="replace" gives it to HF. */
sq_status sq_tokenizer_encode(const sq_tokenizer *t, const char *text, size_t len, int plain,
                              int post, sq_ids *out, sq_error *err);

/* The same over many texts: keeps its buffers and the words it has met. One thread at a time; the
 * tokenizer must outlive it. */
typedef struct sq_encoder sq_encoder;
sq_status sq_encoder_open(sq_encoder **out, const sq_tokenizer *t, sq_error *err);
sq_status sq_encoder_encode(sq_encoder *e, const char *text, size_t len, int plain, int post,
                            sq_ids *out, sq_error *err);
void sq_encoder_close(sq_encoder **e);

/* Appends the text of ids; unknown ids give nothing. With skip_special, special added tokens are
 * left out. */
sq_status sq_tokenizer_decode(const sq_tokenizer *t, const int32_t *ids, size_t n, int skip_special,
                              sq_buf *out, sq_error *err);

/* Streaming: text comes out as soon as it is complete UTF-8, never half a character; the
 * concatenation equals sq_tokenizer_decode. A zeroed struct starts. */
typedef struct sq_detok {
    sq_ids ids;         /* of a decoder that needs them all at the end */
    sq_buf pending;     /* bytes that are no whole character yet */
    size_t seen, strip; /* tokens so far, and pieces stripped from the start */
    int stripped;
} sq_detok;
sq_status sq_detok_push(const sq_tokenizer *t, sq_detok *d, int32_t id, int skip_special,
                        sq_buf *out, sq_error *err);
sq_status sq_detok_finish(const sq_tokenizer *t, sq_detok *d, int skip_special, sq_buf *out,
                          sq_error *err); /* what is left, U+FFFD for broken bytes */
void sq_detok_free(sq_detok *d);

/* Id of a token by its exact text (added tokens first, then vocabulary); -1 when there is none. */
int32_t sq_tokenizer_id(const sq_tokenizer *t, const char *token);
const char *sq_tokenizer_token(const sq_tokenizer *t, int32_t id); /* NULL when there is none */
/* Whether the id is a special added token, which skip_special leaves out. */
int sq_tokenizer_is_special(const sq_tokenizer *t, int32_t id);
/* The text of tokenizer_config.json's bos_token, eos_token, pad_token, image_token, …; NULL when it
 * names none. */
const char *sq_tokenizer_special(const sq_tokenizer *t, const char *name);
int32_t sq_tokenizer_size(const sq_tokenizer *t); /* largest id + 1 */

#endif
