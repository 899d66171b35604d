/* Attention of a tower: all rows of a segment see each other. transformers'
 * eager_attention_forward: softmax(q k^T * scale) v for one head, by tiles of query rows. */
#include <math.h>
#include <string.h>

#include "model/work.h"

void sq_attend(const sq_attn_tile *t) {
    const sq_kernels *kn = sq_kernels_get();
    sq_sgemm(1, t->rows, t->total, t->hd, t->scale, t->q, t->ld, t->k, t->ld, 0.0f, t->scores,
             t->total);
    for (int64_t i = 0; i < t->rows; i++) {
        kn->softmax(t->scores + i * t->total, t->total);
    }
    sq_sgemm(0, t->rows, t->hd, t->total, 1.0f, t->scores, t->total, t->v, t->ld, 0.0f, t->out,
             t->ldo);
}

/* ---- in bf16 ---- */

/* Query rows at once: their scores stay in the second level of the cache beside the head's keys and
 * values. */
enum { BF16_ROWS = 48, KEYS = SQ_KV_TOKENS, PANEL = 16 };

static int64_t all_keys(int64_t rows) { return sq_round_up(rows, KEYS); }
static int64_t key_words(int64_t rows, int64_t hd) { return all_keys(rows) * (hd / 2); }
static int64_t value_words(int64_t rows, int64_t hd) {
    return all_keys(rows) / 2 * sq_round_up(hd, PANEL);
}
/* Words from a row to the next, an odd number of lines of the cache: a column's rows do not share
 * a set of it. */
static int64_t stride(int64_t words) { return (sq_ceil_div(words, 16) | 1) * 16; }
static int64_t tile_words(int64_t rows, int64_t hd) {
    return BF16_ROWS * (stride(hd / 2) + stride(all_keys(rows)) + stride(all_keys(rows) / 2) +
                        sq_round_up(hd, PANEL));
}

int64_t sq_attend_words(int64_t rows, int64_t hd) {
    return PANEL * hd + key_words(rows, hd) + value_words(rows, hd) + tile_words(rows, hd);
}

/* Keys as [blocks of 64 keys][pairs of columns][64], zeros behind the last; tmp: 16 hd words. */
static void pack_keys(const sq_attn_bf16 *a, uint32_t *tmp, uint32_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = a->hd / 2;
    uint32_t *panel = tmp + PANEL * pairs;
    for (int64_t i = 0; i < all_keys(a->rows); i += PANEL) {
        int64_t n = a->rows - i < 0 ? 0 : a->rows - i < PANEL ? a->rows - i : PANEL;
        uint32_t *block = to + i / KEYS * KEYS * pairs + i % KEYS;
        for (int64_t r = 0; r < n; r++) {
            kn->narrow_bf16((uint16_t *)(tmp + r * pairs), a->k + (i + r) * a->ld, a->hd);
        }
        kn->panel_bf16((const uint16_t *)tmp, a->hd, n, a->hd, panel);
        for (int64_t p = 0; p < pairs; p++) {
            memcpy(block + p * KEYS, panel + p * PANEL, PANEL * sizeof *block);
        }
    }
}

/* Values as [pairs of rows][columns, rounded up to panels]. */
static void pack_values(const sq_attn_bf16 *a, uint32_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t i = 0; i < a->rows; i += 2, to += sq_round_up(a->hd, PANEL)) {
        const float *even = a->v + i * a->ld;
        kn->pair_bf16(even, i + 1 < a->rows ? even + a->ld : NULL, a->hd, to);
    }
}

/* Query rows [at, at + m) times the scale; tmp: a row. */
static void take_queries(const sq_attn_bf16 *a, int64_t at, int64_t m, uint32_t *q, int64_t ldq,
                         float *tmp) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t r = 0; r < m; r++) {
        const float *from = a->q + (at + r) * a->ld;
        for (int64_t i = 0; i < a->hd; i++) {
            tmp[i] = from[i] * a->scale;
        }
        kn->narrow_bf16((uint16_t *)(q + r * ldq), tmp, a->hd);
    }
}

/* tile: tile_words. */
static void attend_rows(const sq_attn_bf16 *a, int64_t at, int64_t m, const uint32_t *keys,
                        const uint32_t *values, uint32_t *tile) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = a->hd / 2, all = all_keys(a->rows), wide = sq_round_up(a->hd, PANEL);
    int64_t ldq = stride(pairs), lds = stride(all), ldp = stride(all / 2);
    float *scores = (float *)(void *)tile, *out = scores + BF16_ROWS * lds;
    uint32_t *q = tile + BF16_ROWS * (lds + wide), *p = q + BF16_ROWS * ldq;
    float inverse[BF16_ROWS];
    take_queries(a, at, m, q, ldq, out);
    for (int64_t i = 0; i < all; i += KEYS) {
        kn->kv_bf16(&(sq_kv_product){.rows = m,
                                     .n = KEYS,
                                     .k = pairs,
                                     .a = q,
                                     .lda = ldq,
                                     .b = keys + i * pairs,
                                     .ldb = KEYS,
                                     .c = scores + i,
                                     .ldc = lds});
    }
    for (int64_t r = 0; r < m; r++) {
        float top;
        uint16_t *to = (uint16_t *)(p + r * ldp);
        inverse[r] = 1.0f / kn->softmax_bf16(scores + r * lds, to, a->rows, all, &top);
    }
    kn->kv_bf16(&(sq_kv_product){.rows = m,
                                 .n = wide,
                                 .k = sq_ceil_div(a->rows, 2),
                                 .a = p,
                                 .lda = ldp,
                                 .b = values,
                                 .ldb = wide,
                                 .scale = inverse,
                                 .c = out,
                                 .ldc = wide});
    for (int64_t r = 0; r < m; r++) {
        memcpy(a->out + (at + r) * a->ldo, out + r * wide, (size_t)a->hd * sizeof *out);
    }
}

void sq_attend_bf16(const sq_attn_bf16 *a) {
    uint32_t *keys = a->words, *values = keys + key_words(a->rows, a->hd);
    uint32_t *tile = values + value_words(a->rows, a->hd);
    pack_keys(a, tile + tile_words(a->rows, a->hd), keys);
    pack_values(a, values);
    for (int64_t i = 0; i < a->rows; i += BF16_ROWS) {
        attend_rows(a, i, a->rows - i < BF16_ROWS ? a->rows - i : BF16_ROWS, keys, values, tile);
    }
}
