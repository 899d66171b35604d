#include "model/kv.h"

#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "kernels/kernels.h"

static const struct {
    const char *name;
    size_t value, scale; /* bytes of a value, and of a row beside them */
} types[] = {[SQ_KV_F32] = {"f32", 4, 0},
             [SQ_KV_F16] = {"f16", 2, 0},
             [SQ_KV_BF16] = {"bf16", 2, 0},
             [SQ_KV_INT8] = {"int8", 1, sizeof(float)}};

sq_status sq_kv_parse(const char *name, sq_kv_type *out, sq_error *err) {
    *out = SQ_KV_F32;
    for (size_t i = 0; name != NULL && i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, types[i].name) == 0) {
            *out = (sq_kv_type)i;
            return SQ_OK;
        }
    }
    return name == NULL ? SQ_OK
                        : sq_fail(err, SQ_EARG,
                                  "KV type '%s' is not there; wanted f32, f16, bf16 or int8", name);
}

const char *sq_kv_name(sq_kv_type t) { return types[t].name; }

size_t sq_kv_row_bytes(sq_kv_type t, int64_t head_dim) {
    return (size_t)head_dim * types[t].value + types[t].scale;
}

void sq_kv_init(sq_kv *kv, sq_kv_type type, int64_t layers, int64_t kv_heads, int64_t head_dim) {
    *kv = (sq_kv){.type = type, .layers = layers, .kv_heads = kv_heads, .head_dim = head_dim};
}

void sq_kv_free(sq_kv *kv) {
    for (int64_t b = 0; b < kv->n_blocks; b++) {
        sq_free(kv->blocks[b]);
    }
    sq_free(kv->blocks);
    sq_kv_init(kv, kv->type, kv->layers, kv->kv_heads, kv->head_dim);
}

static size_t block_bytes(const sq_kv *kv) {
    return (size_t)kv->layers * 2 * (size_t)kv->kv_heads * SQ_KV_BLOCK *
           sq_kv_row_bytes(kv->type, kv->head_dim);
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
        unsigned char *b = sq_alloc(block_bytes(kv), 1, "the KV cache", NULL);
        if (b == NULL) {
            while (kv->n_blocks > before) {
                sq_free(kv->blocks[--kv->n_blocks]);
            }
            sq_fail(
                err, SQ_ENOMEM,
                "not enough memory for the KV cache; got room for %lld tokens, wanted %lld (%zu "
                "bytes a token)",
                (long long)sq_kv_capacity(kv), (long long)(kv->tokens + more),
                block_bytes(kv) / SQ_KV_BLOCK);
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

size_t sq_kv_bytes(const sq_kv *kv) { return (size_t)kv->n_blocks * block_bytes(kv); }

static unsigned char *rows_of(const sq_kv *kv, int64_t block, int64_t layer, int which,
                              int64_t head) {
    size_t first = (size_t)(((layer * 2 + which) * kv->kv_heads + head) * SQ_KV_BLOCK);
    return kv->blocks[block] + first * sq_kv_row_bytes(kv->type, kv->head_dim);
}

static void put_int8(unsigned char *row, const float *x, int64_t n) {
    const sq_kernels *kn = sq_kernels_get();
    float lo, hi, top;
    kn->range(x, n, &lo, &hi); /* NaN where a number is none, and so is the scale */
    top = (-lo > hi ? -lo : hi) / 127.0f;
    top = lo != lo ? lo : top;
    if (top > 0) {
        kn->round_i8((int8_t *)row, x, top, 0, n);
    } else {
        memset(row, 0, (size_t)n);
    }
    memcpy(row + n, &top, sizeof top);
}

void sq_kv_put(sq_kv *kv, int64_t token, int64_t layer, int which, int64_t head, const float *x) {
    size_t row = sq_kv_row_bytes(kv->type, kv->head_dim);
    unsigned char *to =
        rows_of(kv, token / SQ_KV_BLOCK, layer, which, head) + (size_t)(token % SQ_KV_BLOCK) * row;
    switch (kv->type) {
    case SQ_KV_F32:
        memcpy(to, x, row);
        break;
    case SQ_KV_F16:
        sq_from_f32(to, SQ_F16, x, (size_t)kv->head_dim);
        break;
    case SQ_KV_BF16:
        sq_from_f32(to, SQ_BF16, x, (size_t)kv->head_dim);
        break;
    case SQ_KV_INT8:
        put_int8(to, x, kv->head_dim);
        break;
    }
}

const float *sq_kv_rows(const sq_kv *kv, int64_t block, int64_t layer, int which, int64_t head,
                        float *buffer) {
    const sq_kernels *kn = sq_kernels_get();
    const unsigned char *from = rows_of(kv, block, layer, which, head);
    int64_t n = kv->head_dim;
    switch (kv->type) {
    case SQ_KV_F32:
        return (const float *)(const void *)from;
    case SQ_KV_F16:
        kn->widen_f16(buffer, (const uint16_t *)(const void *)from, SQ_KV_BLOCK * n);
        break;
    case SQ_KV_BF16:
        kn->widen_bf16(buffer, (const uint16_t *)(const void *)from, SQ_KV_BLOCK * n);
        break;
    case SQ_KV_INT8:
        for (int64_t t = 0; t < SQ_KV_BLOCK; t++, from += n + (int64_t)sizeof(float)) {
            float scale;
            memcpy(&scale, from + n, sizeof scale);
            kn->widen_i8(buffer + t * n, (const int8_t *)from, scale, n);
        }
        break;
    }
    return buffer;
}
