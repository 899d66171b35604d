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

static int64_t key_words(int64_t rows, int64_t hd) { return sq_round_up(rows, 16) * (hd / 2); }
static int64_t value_words(int64_t rows, int64_t hd) {
    return sq_ceil_div(rows, 2) * sq_round_up(hd, 16);
}

int64_t sq_attend_words(int64_t rows, int64_t hd) {
    return key_words(rows, hd) + value_words(rows, hd) +
           SQ_Q_TILE * (sq_ceil_div(rows, 2) + hd / 2);
}

/* Keys as panels of [pairs of columns][16 keys]. */
static void pack_keys(const sq_attn_bf16 *a, uint32_t *row, uint32_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = a->hd / 2;
    memset(to, 0, (size_t)key_words(a->rows, a->hd) * sizeof *to);
    for (int64_t i = 0; i < a->rows; i++) {
        uint32_t *panel = to + i / 16 * 16 * pairs + i % 16;
        kn->narrow_bf16((uint16_t *)row, a->k + i * a->ld, a->hd);
        for (int64_t p = 0; p < pairs; p++) {
            panel[16 * p] = row[p];
        }
    }
}

/* Values as panels of [pairs of rows][16 columns]. */
static void pack_values(const sq_attn_bf16 *a, uint32_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t c = 0; c < a->hd; c += 16) {
        int64_t n = a->hd - c < 16 ? a->hd - c : 16;
        for (int64_t i = 0; i < a->rows; i += 2, to += 16) {
            const float *even = a->v + i * a->ld + c;
            kn->pair_bf16(even, i + 1 < a->rows ? even + a->ld : NULL, n, to);
        }
    }
}

void sq_attend_bf16(const sq_attn_bf16 *a) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = a->hd / 2, key_pairs = sq_ceil_div(a->rows, 2);
    uint32_t *keys = a->words, *values = keys + key_words(a->rows, a->hd);
    uint32_t *q = values + value_words(a->rows, a->hd), *p = q + SQ_Q_TILE * pairs;
    pack_keys(a, q, keys);
    pack_values(a, values);
    for (int64_t i = 0; i < a->rows; i += SQ_Q_TILE) {
        int64_t m = a->rows - i < SQ_Q_TILE ? a->rows - i : SQ_Q_TILE;
        for (int64_t r = 0; r < m; r++) {
            kn->narrow_bf16((uint16_t *)(q + r * pairs), a->q + (i + r) * a->ld, a->hd);
            memset(a->out + (i + r) * a->ldo, 0, (size_t)a->hd * sizeof *a->out);
        }
        memset(a->scores, 0, (size_t)(m * a->rows) * sizeof *a->scores);
        kn->tile_bf16(m, a->rows, pairs, q, pairs, 1, keys, 16 * pairs, a->scores, a->rows);
        for (int64_t r = 0; r < m; r++) {
            float *row = a->scores + r * a->rows;
            for (int64_t c = 0; c < a->rows; c++) {
                row[c] *= a->scale;
            }
            kn->softmax(row, a->rows);
            p[(r + 1) * key_pairs - 1] = 0; /* an odd row's other half */
            kn->narrow_bf16((uint16_t *)(p + r * key_pairs), row, a->rows);
        }
        kn->tile_bf16(m, a->hd, key_pairs, p, key_pairs, 1, values, 16 * key_pairs,
                      a->out + i * a->ldo, a->ldo);
    }
}
