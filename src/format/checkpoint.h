/* Internal to src/format: what an open checkpoint is, and the readers that fill it. */
#ifndef SQ_FORMAT_CHECKPOINT_H
#define SQ_FORMAT_CHECKPOINT_H

#include "format/safetensors.h"

typedef struct sq_shard {
    const char *name;
    sq_map map;
} sq_shard;

struct sq_checkpoint {
    sq_arena arena;
    sq_shard *shards;
    int n_shards;
    sq_tensor *tensors; /* sorted by name once open */
    size_t n, cap;
};

/* Room for more tensors behind the last one. */
sq_status sq_checkpoint_reserve(sq_checkpoint *c, size_t more, sq_error *err);
/* A new shard (its map is empty) with a name of the arena's; NULL without memory. */
sq_shard *sq_checkpoint_add_shard(sq_checkpoint *c, const char *name, sq_error *err);

/* A safetensors folder or file; names get the prefix. */
sq_status sq_safetensors_read(sq_checkpoint *c, const char *path, const char *prefix,
                              sq_error *err);
/* Under Hugging Face's names, q and k rows back in its order. */
sq_status sq_gguf_read(sq_checkpoint *c, const char *path, sq_error *err);
sq_status sq_llama2c_read(sq_checkpoint *c, const char *path, sq_error *err);

/* Rows of q or k from the order of interleaved rotary pairs (Meta's, ggml's) to the order of halves
 * (Hugging Face's): dst row h * d + p * d/2 + j = src row h * d + 2 j + p. */
void sq_rows_to_halves(void *dst, const void *src, int64_t heads, int64_t head_dim,
                       size_t row_bytes);

#endif
