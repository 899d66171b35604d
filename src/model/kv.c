#include "model/kv.h"

#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "kernels/kernels.h"

_Static_assert((int)SQ_KV_BLOCK == (int)SQ_KV_TOKENS, "the kernels work on whole blocks");

static const struct {
    const char *name;
    size_t value, scale; /* bytes of a value, and of a row beside them */
    int shift;           /* a word holds 1 << shift values */
} types[] = {[SQ_KV_F32] = {"f32", 4, 0, 0},
             [SQ_KV_F16] = {"f16", 2, 0, 0},
             [SQ_KV_BF16] = {"bf16", 2, 0, 1},
             [SQ_KV_INT8] = {"int8", 1, sizeof(float), 2}};

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
    return (size_t)sq_kv_width(head_dim) * types[t].value + types[t].scale;
}

void sq_kv_init(sq_kv *kv, sq_kv_type type, int64_t layers, int64_t kv_heads, int64_t head_dim) {
    *kv = (sq_kv){.type = type, .layers = layers, .kv_heads = kv_heads, .head_dim = head_dim};
}

/* Gives back all but the first n blocks, which end where an allocation does. */
static void drop(sq_kv *kv, int64_t n) {
    while (kv->n_blocks > n) {
        int64_t b = --kv->n_blocks;
        if (kv->first[b]) {
            sq_free(kv->blocks[b]);
        }
    }
}

void sq_kv_free(sq_kv *kv) {
    drop(kv, 0);
    sq_free(kv->blocks);
    sq_free(kv->first);
    sq_kv_init(kv, kv->type, kv->layers, kv->kv_heads, kv->head_dim);
}

static size_t block_bytes(const sq_kv *kv) {
    return (size_t)kv->layers * 2 * (size_t)kv->kv_heads * SQ_KV_BLOCK *
           sq_kv_row_bytes(kv->type, kv->head_dim);
}

static sq_status grow_table(sq_kv *kv, int64_t want, sq_error *err) {
    int64_t cap = want > 2 * kv->cap_blocks ? want : 2 * kv->cap_blocks;
    size_t used = (size_t)kv->n_blocks;
    void *p = kv->blocks, *q = kv->first;
    sq_status st = sq_grow(&p, used * sizeof *kv->blocks, (size_t)cap, sizeof *kv->blocks,
                           "the KV cache's table", err);
    kv->blocks = p;
    if (st == SQ_OK) {
        st = sq_grow(&q, used, (size_t)cap, 1, "the KV cache's table", err);
        kv->first = q;
    }
    kv->cap_blocks = st == SQ_OK ? cap : kv->cap_blocks;
    return st;
}

sq_status sq_kv_reserve(sq_kv *kv, int64_t more, sq_error *err) {
    /* Of 4 MiB memory comes in huge pages: a step reads 32 KiB here and 32 KiB there. Small caches
     * grow by what there is. */
    const int64_t huge = sq_ceil_div(4 << 20, (int64_t)block_bytes(kv));
    const int64_t want = sq_ceil_div(kv->tokens + more, SQ_KV_BLOCK), before = kv->n_blocks;
    while (kv->n_blocks < want) {
        int64_t n = kv->n_blocks < huge ? kv->n_blocks : huge, left = want - kv->n_blocks;
        n = left < n ? n : left < 8 * huge ? left : 8 * huge;
        sq_status st =
            kv->n_blocks + n > kv->cap_blocks ? grow_table(kv, kv->n_blocks + n, err) : SQ_OK;
        if (st != SQ_OK) {
            drop(kv, before);
            return st;
        }
        /* Zeroed, so that rows of a block beyond the last token are finite wherever a product runs
         * over them. */
        unsigned char *b = sq_alloc((size_t)n, block_bytes(kv), "the KV cache", NULL);
        if (b == NULL) {
            sq_fail(
                err, SQ_ENOMEM,
                "not enough memory for the KV cache; got room for %lld tokens, wanted %lld (%zu "
                "bytes a token)",
                (long long)sq_kv_capacity(kv), (long long)(kv->tokens + more),
                block_bytes(kv) / SQ_KV_BLOCK);
            drop(kv, before);
            return SQ_ENOMEM;
        }
        for (int64_t i = 0; i < n; i++, b += block_bytes(kv)) {
            kv->first[kv->n_blocks] = i == 0;
            kv->blocks[kv->n_blocks++] = b;
        }
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

static unsigned char *matrix_of(const sq_kv *kv, int64_t block, int64_t layer, int which,
                                int64_t head) {
    size_t before = (size_t)(((layer * 2 + which) * kv->kv_heads + head) * SQ_KV_BLOCK);
    return kv->blocks[block] + before * sq_kv_row_bytes(kv->type, kv->head_dim);
}

static float *scales_of(const sq_kv *kv, unsigned char *matrix) {
    return (float *)(void *)(matrix + SQ_KV_BLOCK * sq_kv_width(kv->head_dim));
}

const void *sq_kv_matrix(const sq_kv *kv, int64_t block, int64_t layer, int which, int64_t head) {
    return matrix_of(kv, block, layer, which, head);
}

const float *sq_kv_scales(const sq_kv *kv, int64_t block, int64_t layer, int which, int64_t head) {
    return scales_of(kv, matrix_of(kv, block, layer, which, head));
}

/* n numbers as they are stored; the scale of a whole row. */
static void convert(sq_kv_type type, const float *x, float scale, int64_t n, void *to) {
    switch (type) {
    case SQ_KV_F32:
        memcpy(to, x, (size_t)n * sizeof *x);
        break;
    case SQ_KV_F16:
        sq_from_f32(to, SQ_F16, x, (size_t)n);
        break;
    case SQ_KV_BF16:
        sq_from_f32(to, SQ_BF16, x, (size_t)n);
        break;
    case SQ_KV_INT8:
        memset(to, 0, (size_t)n);
        if (scale > 0) {
            sq_kernels_get()->round_i8(to, x, scale, 0, n);
        }
        for (int64_t i = 0; i < n; i++) {
            ((uint8_t *)to)[i] ^= 128;
        }
        break;
    }
}

/* Value `from` of the one array to value `at` of the other. */
static inline void put(size_t size, unsigned char *to, int64_t at, const unsigned char *stored,
                       int64_t from) {
    if (size == 4) {
        memcpy(to + 4 * at, stored + 4 * from, 4);
    } else if (size == 2) {
        memcpy(to + 2 * at, stored + 2 * from, 2);
    } else {
        to[at] = stored[from];
    }
}

void sq_kv_put(sq_kv *kv, int64_t token, int64_t layer, int which, int64_t head, const float *x) {
    enum { PIECE = 256 };
    unsigned char *to = matrix_of(kv, token / SQ_KV_BLOCK, layer, which, head);
    unsigned char stored[PIECE * sizeof(float)];
    const int64_t t = token % SQ_KV_BLOCK;
    const int shift = types[kv->type].shift;
    const int64_t within = (1 << shift) - 1;
    const size_t size = types[kv->type].value;
    float scale = 0;
    if (kv->type == SQ_KV_INT8) {
        float lo, hi;
        sq_kernels_get()->range(x, kv->head_dim, &lo, &hi);
        scale = (-lo > hi ? -lo : hi) / 127.0f;
        scale = lo != lo ? lo : scale; /* NaN where a number is none */
        scales_of(kv, to)[t] = scale;
    }
    for (int64_t c = 0; c < kv->head_dim; c++) {
        if (c % PIECE == 0) {
            int64_t left = kv->head_dim - c;
            convert(kv->type, x + c, scale, left < PIECE ? left : PIECE, stored);
        }
        int64_t at;
        if (which == 0) {
            at = (((c >> shift) * SQ_KV_BLOCK + t) << shift) + (c & within);
        } else {
            int64_t first = c / SQ_KV_PANEL * SQ_KV_PANEL, n = sq_kv_panel(kv->head_dim, first);
            at = (((t >> shift) * n + c - first) << shift) + (t & within) + first * SQ_KV_BLOCK;
        }
        put(size, to, at, stored, c % PIECE);
        if (which == 1 && kv->type == SQ_KV_BF16 && t % 2 == 0) {
            /* The next token's is read with it, times 0: no NaN may have stayed there. */
            memset(to + 2 * (at + 1), 0, 2);
        }
    }
}
