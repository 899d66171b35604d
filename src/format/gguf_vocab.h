/* A tokenizer as GGUF's tokenizer.ggml.* entries, and what both directions know of them. */
#ifndef SQ_FORMAT_GGUF_VOCAB_H
#define SQ_FORMAT_GGUF_VOCAB_H

#include "format/gguf_write.h"

/* tokenizer.ggml.pre: what comes before BPE (llama.cpp's llama-vocab.cpp names the regexes). */
typedef struct sq_gguf_pre {
    const char *name, *regex; /* NULL: GPT-2's own */
    int digits, nfc, ignore_merges, bos;
} sq_gguf_pre;
extern const sq_gguf_pre sq_gguf_pres[]; /* a NULL name at the end */

/* Writes the tokenizer of a model's folder: tokens up to `vocab` (rows without a token get
 * "[PADn]"), types, scores or merges, special ids, whether BOS and EOS are added, the chat
 * template. config and generation: config.json and generation_config.json (either may be NULL). No
 * tokenizer is SQ_EFORMAT, one that llama.cpp has no like of SQ_EUNSUPPORTED. */
sq_status sq_gguf_put_vocab(sq_gguf_writer *w, const char *model, int64_t vocab,
                            const json_t *config, const json_t *generation, sq_error *err);

#endif
