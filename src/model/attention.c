/* Attention over keys in blocks: scores, softmax and the weighted sum for one tile of query rows
 * and one head. transformers' eager_attention_forward in f32: softmax(q k^T * scale) v. */
#include <math.h>
#include <string.h>

#include "model/work.h"

/* Rows that see the same keys, such as the query heads of one key head: each key is read once. */
static void attend_few(const sq_attn_tile *t, sq_kv_block_fn blocks, const void *ctx) {
    const sq_kernels *kn = sq_kernels_get();
    const float *p;
    int64_t ld, n, at = 0, seen = t->seen0 < t->total ? t->seen0 : t->total;
    for (int64_t b = 0; at < seen && (p = blocks(ctx, b, 0, &n, &ld)) != NULL; b++) {
        for (int64_t i = 0; i < n && at < seen; i++, at++) {
            for (int64_t r = 0; r < t->rows; r++) {
                t->scores[r * t->total + at] =
                    kn->dot_f32(t->q + r * t->ldq, p + i * ld, t->hd) * t->scale;
            }
        }
    }
    for (int64_t r = 0; r < t->rows; r++) {
        kn->softmax(t->scores + r * t->total, seen);
        memset(t->out + r * t->ldo, 0, (size_t)t->hd * sizeof *t->out);
    }
    at = 0;
    for (int64_t b = 0; at < seen && (p = blocks(ctx, b, 1, &n, &ld)) != NULL; b++) {
        for (int64_t i = 0; i < n && at < seen; i++, at++) {
            for (int64_t r = 0; r < t->rows; r++) {
                kn->axpy(t->out + r * t->ldo, t->scores[r * t->total + at], p + i * ld, t->hd);
            }
        }
    }
}

void sq_attend(const sq_attn_tile *t, sq_kv_block_fn blocks, const void *ctx) {
    const sq_kernels *kn = sq_kernels_get();
    if (t->rows == 1 || t->by_key) {
        attend_few(t, blocks, ctx);
        return;
    }
    const float *p;
    int64_t ld, n, at = 0;
    for (int64_t b = 0; at < t->total && (p = blocks(ctx, b, 0, &n, &ld)) != NULL; b++, at += n) {
        sq_sgemm(1, t->rows, n, t->hd, t->scale, t->q, t->ldq, p, ld, 0.0f, t->scores + at,
                 t->total);
    }
    for (int64_t i = 0; i < t->rows; i++) {
        int64_t seen = t->seen0 + i * t->seen_step;
        float *row = t->scores + i * t->total;
        if (seen < t->total) {
            memset(row + seen, 0, (size_t)(t->total - seen) * sizeof *row);
        } else {
            seen = t->total;
        }
        kn->softmax(row, seen);
    }
    at = 0;
    for (int64_t b = 0; at < t->total && (p = blocks(ctx, b, 1, &n, &ld)) != NULL; b++, at += n) {
        sq_sgemm(0, t->rows, t->hd, n, 1.0f, t->scores + at, t->total, p, ld, at == 0 ? 0.0f : 1.0f,
                 t->out, t->ldo);
    }
}
