/* The growing KV cache of one sequence: blocks of tokens appended to a table between steps, never
 * copied. No maximum but the model's positions and the memory's. */
#ifndef SQ_MODEL_KV_H
#define SQ_MODEL_KV_H

#include <stdint.h>

#include "base/error.h"

enum { SQ_KV_BLOCK = 64, SQ_KV_PANEL = 64 }; /* tokens a block; columns of a panel of values */

/* How keys and values are stored. INT8: each token's row of a head as -127..127 times a scale of
 * its own, the largest |x| / 127.
 *
 * A block holds for each layer and head two matrices, as attention's products take them (kernels.h,
 * sq_kv_product): keys [columns][SQ_KV_BLOCK tokens], so that a register is one column of many
 * tokens, and values, panels of SQ_KV_PANEL columns or what is left of them, one behind the other,
 * [SQ_KV_BLOCK tokens][columns]. Columns are the head's, rounded up to 16. The index before the
 * last runs in words: one number for F32 and F16, a pair for BF16, four for INT8, as bytes + 128,
 * with the tokens' scales [SQ_KV_BLOCK] behind the matrix. */
typedef enum sq_kv_type { SQ_KV_F32, SQ_KV_F16, SQ_KV_BF16, SQ_KV_INT8 } sq_kv_type;
/* "f32", "f16", "bf16", "int8"; NULL is f32. Anything else is SQ_EARG. */
sq_status sq_kv_parse(const char *name, sq_kv_type *out, sq_error *err);
const char *sq_kv_name(sq_kv_type t);
/* Columns of a head as stored. */
static inline int64_t sq_kv_width(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
/* Columns of the panel of values that begins at column c. */
static inline int64_t sq_kv_panel(int64_t head_dim, int64_t c) {
    int64_t left = sq_kv_width(head_dim) - c;
    return left < SQ_KV_PANEL ? left : SQ_KV_PANEL;
}
/* Bytes of one token's row of one head. */
size_t sq_kv_row_bytes(sq_kv_type t, int64_t head_dim);

typedef struct sq_kv {
    sq_kv_type type;
    int64_t layers, kv_heads, head_dim;
    int64_t tokens; /* stored */
    int64_t n_blocks, cap_blocks;
    unsigned char *first; /* [cap_blocks] 1: a block with which an allocation begins */
    /* blocks[b]: matrices [layers][2 (k, v)][kv_heads] */
    unsigned char **blocks;
} sq_kv;

void sq_kv_init(sq_kv *kv, sq_kv_type type, int64_t layers, int64_t kv_heads, int64_t head_dim);
void sq_kv_free(sq_kv *kv);
/* Makes room for `more` tokens beyond kv->tokens. On SQ_ENOMEM the cache is as before and usable.
 */
sq_status sq_kv_reserve(sq_kv *kv, int64_t more, sq_error *err);
/* Forgets tokens from position n on, keeping the blocks. */
void sq_kv_truncate(sq_kv *kv, int64_t n);
int64_t sq_kv_capacity(const sq_kv *kv);
size_t sq_kv_bytes(const sq_kv *kv); /* allocated */
/* Stores K (which = 0) or V (which = 1) of a head for a token that there is room for. */
void sq_kv_put(sq_kv *kv, int64_t token, int64_t layer, int which, int64_t head, const float *x);
/* A block's keys or values of a head, and their scales (INT8). */
const void *sq_kv_matrix(const sq_kv *kv, int64_t block, int64_t layer, int which, int64_t head);
const float *sq_kv_scales(const sq_kv *kv, int64_t block, int64_t layer, int which, int64_t head);

#endif
