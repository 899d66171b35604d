/* The growing KV cache of one sequence: blocks of tokens appended to a table between steps, never
 * copied. No maximum but the model's positions and the memory's. */
#ifndef SQ_MODEL_KV_H
#define SQ_MODEL_KV_H

#include <stdint.h>

#include "base/error.h"

enum { SQ_KV_BLOCK = 64 }; /* tokens a block */

typedef struct sq_kv {
    int64_t layers, kv_heads, head_dim;
    int64_t tokens; /* stored */
    int64_t n_blocks, cap_blocks;
    /* blocks[b]: f32 [layers][2 (k, v)][kv_heads][SQ_KV_BLOCK][head_dim] */
    float **blocks;
} sq_kv;

void sq_kv_init(sq_kv *kv, int64_t layers, int64_t kv_heads, int64_t head_dim);
void sq_kv_free(sq_kv *kv);
/* Makes room for `more` tokens beyond kv->tokens. On SQ_ENOMEM the cache is as before and usable.
 */
sq_status sq_kv_reserve(sq_kv *kv, int64_t more, sq_error *err);
/* Forgets tokens from position n on, keeping the blocks. */
void sq_kv_truncate(sq_kv *kv, int64_t n);
int64_t sq_kv_capacity(const sq_kv *kv);
size_t sq_kv_bytes(const sq_kv *kv); /* allocated */
/* K (which = 0) or V (which = 1) of a head in a block: [SQ_KV_BLOCK][head_dim]. */
static inline float *sq_kv_head(const sq_kv *kv, int64_t block, int64_t layer, int which,
                                int64_t head) {
    return kv->blocks[block] +
           (((layer * 2 + which) * kv->kv_heads + head) * SQ_KV_BLOCK) * kv->head_dim;
}

#endif
