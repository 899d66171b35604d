#include "model/kv.h"

#include <string.h>

#include "base/mem.h"

void sq_kv_init(sq_kv *kv, int64_t layers, int64_t kv_heads, int64_t head_dim) {
    *kv = (sq_kv){.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim};
}

void sq_kv_free(sq_kv *kv) {
    for (int64_t b = 0; b < kv->n_blocks; b++) {
        sq_free(kv->blocks[b]);
    }
    sq_free(kv->blocks);
    sq_kv_init(kv, kv->layers, kv->kv_heads, kv->head_dim);
}

static size_t block_floats(const sq_kv *kv) {
    return (size_t)kv->layers * 2 * (size_t)kv->kv_heads * SQ_KV_BLOCK * (size_t)kv->head_dim;
}

sq_status sq_kv_reserve(sq_kv *kv, int64_t more, sq_error *err) {
    int64_t want = sq_ceil_div(kv->tokens + more, SQ_KV_BLOCK);
    if (want > kv->cap_blocks) {
        int64_t cap = want > 2 * kv->cap_blocks ? want : 2 * kv->cap_blocks;
        void *p = kv->blocks;
        sq_status st = sq_grow(&p, (size_t)kv->n_blocks * sizeof *kv->blocks, (size_t)cap,
                               sizeof *kv->blocks, "the KV cache's table", err);
        if (st != SQ_OK) {
            return st;
        }
        kv->blocks = p;
        kv->cap_blocks = cap;
    }
    int64_t before = kv->n_blocks;
    while (kv->n_blocks < want) {
        /* Zeroed, so that rows of a block beyond the last token are finite wherever a product runs
         * over them. */
        float *b = sq_alloc(block_floats(kv), sizeof(float), "the KV cache", NULL);
        if (b == NULL) {
            while (kv->n_blocks > before) {
                sq_free(kv->blocks[--kv->n_blocks]);
            }
            sq_fail(
                err, SQ_ENOMEM,
                "not enough memory for the KV cache; got room for %lld tokens, wanted %lld (%zu "
                "bytes a token)",
                (long long)sq_kv_capacity(kv), (long long)(kv->tokens + more),
                block_floats(kv) * sizeof(float) / SQ_KV_BLOCK);
            return SQ_ENOMEM;
        }
        kv->blocks[kv->n_blocks++] = b;
    }
    return SQ_OK;
}

void sq_kv_truncate(sq_kv *kv, int64_t n) {
    if (n < kv->tokens) {
        kv->tokens = n;
    }
}

int64_t sq_kv_capacity(const sq_kv *kv) { return kv->n_blocks * SQ_KV_BLOCK; }

size_t sq_kv_bytes(const sq_kv *kv) {
    return (size_t)kv->n_blocks * block_floats(kv) * sizeof(float);
}
