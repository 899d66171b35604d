/* Attention over keys in blocks: scores, softmax and the weighted sum for one tile of query rows
 * and one head. transformers' eager_attention_forward in f32: softmax(q k^T * scale) v. */
#include <math.h>
#include <string.h>

#include "model/work.h"

static void attend_row(const sq_attn_tile *t, const sq_kernels *kn, sq_kv_block_fn blocks,
                       const void *ctx) {
    const float *k, *v;
    int64_t ld, n, at = 0, seen = t->seen0 < t->total ? t->seen0 : t->total;
    for (int64_t b = 0; at < seen && (n = blocks(ctx, b, &k, &v, &ld)) > 0; b++) {
        for (int64_t i = 0; i < n && at < seen; i++) {
            t->scores[at++] = kn->dot_f32(t->q, k + i * ld, t->hd) * t->scale;
        }
    }
    kn->softmax(t->scores, seen);
    memset(t->out, 0, (size_t)t->hd * sizeof *t->out);
    at = 0;
    for (int64_t b = 0; at < seen && (n = blocks(ctx, b, &k, &v, &ld)) > 0; b++) {
        for (int64_t i = 0; i < n && at < seen; i++) {
            kn->axpy(t->out, t->scores[at++], v + i * ld, t->hd);
        }
    }
}

void sq_attend(const sq_attn_tile *t, sq_kv_block_fn blocks, const void *ctx) {
    const sq_kernels *kn = sq_kernels_get();
    if (t->rows == 1) {
        attend_row(t, kn, blocks, ctx);
        return;
    }
    const float *k, *v;
    int64_t ld, n, at = 0;
    for (int64_t b = 0; at < t->total && (n = blocks(ctx, b, &k, &v, &ld)) > 0; b++, at += n) {
        sq_sgemm(1, t->rows, n, t->hd, t->scale, t->q, t->ldq, k, ld, 0.0f, t->scores + at,
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
    for (int64_t b = 0; at < t->total && (n = blocks(ctx, b, &k, &v, &ld)) > 0; b++, at += n) {
        sq_sgemm(0, t->rows, t->hd, n, 1.0f, t->scores + at, t->total, v, ld, at == 0 ? 0.0f : 1.0f,
                 t->out, t->ldo);
    }
}
