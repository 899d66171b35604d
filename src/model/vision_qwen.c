/* The Qwen towers: patch embedding, window order, rotary positions of two axes, merger.
 * transformers models/qwen2_vl (Qwen2VisionTransformerPretrainedModel) and qwen2_5_vl. */
#include <math.h>
#include <string.h>

#include "model/tower.h"

/* Window by window order of the merged units and the window bounds
 * (vision_utils.get_vision_window_index). */
static void window_order(sq_tower_run *t, int64_t grid_t, int64_t gh, int64_t gw) {
    const sq_config *c = &t->net->config;
    int64_t side = c->window / c->merge / c->patch, unit = c->merge * c->merge, at = 0;
    t->windows[0] = 0;
    for (int64_t s = 0; s < grid_t; s++) {
        for (int64_t wy = 0; wy < gh; wy += side) {
            for (int64_t wx = 0; wx < gw; wx += side) {
                for (int64_t y = wy; y < wy + side && y < gh; y++) {
                    for (int64_t x = wx; x < wx + side && x < gw; x++) {
                        t->order[at++] = (s * gh + y) * gw + x;
                    }
                }
                t->windows[++t->n_windows] = at * unit;
            }
        }
    }
}

static sq_status bounds(sq_tower_run *t, sq_arena *a, int64_t grid_t, int64_t grid_h,
                        int64_t grid_w, sq_error *err) {
    const sq_config *c = &t->net->config;
    int64_t gh = grid_h / c->merge, gw = grid_w / c->merge, units = grid_t * gh * gw;
    t->order = sq_arena_alloc(a, (size_t)units, sizeof *t->order, err);
    t->windows = sq_arena_alloc(a, (size_t)units + 1, sizeof *t->windows, err);
    t->slots = sq_arena_alloc(a, (size_t)grid_t + 1, sizeof *t->slots, err);
    if (t->order == NULL || t->windows == NULL || t->slots == NULL) {
        return SQ_ENOMEM;
    }
    if (c->tower->windows) {
        window_order(t, grid_t, gh, gw);
    } else {
        for (int64_t i = 0; i < units; i++) {
            t->order[i] = i;
        }
    }
    t->n_slots = grid_t;
    for (int64_t s = 0; s <= grid_t; s++) {
        t->slots[s] = s * grid_h * grid_w;
    }
    return SQ_OK;
}

/* cos and sin [rows][head_dim / 2] of the patches in tower order: first half of the pairs by y,
 * second by x. */
static void rotary(const sq_tower_run *t, int64_t grid_h, int64_t grid_w) {
    const sq_config *c = &t->net->config;
    int64_t half = c->v_head_dim / 2, quarter = half / 2, m = c->merge, unit = m * m;
    int64_t gw = grid_w / m, per_slot = grid_h * grid_w / unit;
#pragma omp parallel for schedule(static) if (t->rows > 512)
    for (int64_t u = 0; u < t->rows / unit; u++) {
        int64_t cell = t->order[u] % per_slot;
        for (int64_t i = 0; i < unit; i++) {
            int64_t y = cell / gw * m + i / m, x = cell % gw * m + i % m;
            float *co = t->w->vcos.data + (u * unit + i) * half;
            float *si = t->w->vsin.data + (u * unit + i) * half;
            for (int64_t j = 0; j < half; j++) {
                float angle = (float)(j < quarter ? y : x) * t->net->v_inv_freq[j % quarter];
                co[j] = cosf(angle);
                si[j] = sinf(angle);
            }
        }
    }
}

/* ln_q, groups of merge^2 rows side by side, Linear, GELU, Linear; rows go back to natural order.
 */
sq_status sq_qwen_merge(const sq_tower_run *t, float *out, sq_error *err) {
    const sq_config *c = &t->net->config;
    const sq_linear *fc1 = &t->net->merger.linears[SQ_M_FC1],
                    *fc2 = &t->net->merger.linears[SQ_M_FC2];
    int64_t unit = c->merge * c->merge, wide = c->dims[SQ_D_V_MERGED], hid = c->dims[SQ_D_V_OUT];
    const int64_t chunk = SQ_V_CHUNK / 4;
    float *h = t->x, *mid = t->w->vqkv.data,
          *res = t->w->vatt.data; /* done with: large enough, see reserve */
    sq_status st;
    sq_tower_norm(t, h, h, t->rows, t->width, &t->net->merger.norms[0], c->v_eps);
    for (int64_t i = 0; i < t->rows / unit; i += chunk) {
        int64_t rows = t->rows / unit - i < chunk ? t->rows / unit - i : chunk;
        float *x = h + i * wide;
        SQ_TRY(sq_tower_tap(t, fc1, x, rows, wide, err));
        sq_linear_rows(fc1, x, wide, rows, mid, wide);
#pragma omp parallel for schedule(static) if (rows > 64)
        for (int64_t r = 0; r < rows; r++) {
            sq_activate(SQ_ACT_GELU, mid + r * wide, wide);
        }
        SQ_TRY(sq_tower_tap(t, fc2, mid, rows, wide, err));
        sq_linear_rows(fc2, mid, wide, rows, res, hid);
        for (int64_t r = 0; r < rows; r++) {
            memcpy(out + t->order[i + r] * hid, res + r * hid, (size_t)hid * sizeof *out);
        }
    }
    return SQ_OK;
fail:
    return st;
}

/* What the merger and the rotary tables need beyond the blocks' scratch. */
static sq_status reserve(const sq_tower_run *t, sq_error *err) {
    const sq_config *c = &t->net->config;
    sq_work *w = t->w;
    size_t rows = (size_t)t->rows, half = (size_t)c->v_head_dim / 2;
    sq_status st;
    SQ_TRY(sq_tower_reserve(t, err));
    SQ_TRY(sq_scratch_need(&w->vqkv, (size_t)c->dims[SQ_D_V_MERGED] * (SQ_V_CHUNK / 4),
                           "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vatt, (size_t)c->dims[SQ_D_V_OUT] * (SQ_V_CHUNK / 4),
                           "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vcos, rows * half, "rotary tables", err));
    SQ_TRY(sq_scratch_need(&w->vsin, rows * half, "rotary tables", err));
    return SQ_OK;
fail:
    return st;
}

/* Patch rows through the embedding, in tower order. */
void sq_qwen_embed(const sq_tower_run *t, const sq_pixels *px) {
    const sq_config *c = &t->net->config;
    int64_t unit = c->merge * c->merge, dim = t->net->patch_embed.weight.k;
    const sq_weight *w = &t->net->patch_embed.weight;
    float *tmp = t->w->vatt.data; /* [rows][width], natural order */
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        sq_matmul(w, px->patches + i * dim, dim, rows, NULL, tmp + i * t->width, t->width);
    }
    for (int64_t u = 0; u < t->rows / unit; u++) {
        memcpy(t->x + u * unit * t->width, tmp + t->order[u] * unit * t->width,
               (size_t)(unit * t->width) * sizeof *tmp);
    }
}

sq_status sq_qwen_lay_out(sq_tower_run *t, sq_arena *a, const sq_pixels *px, sq_error *err) {
    const sq_config *c = &t->net->config;
    if (px->grid_t < 1 || px->grid_h < c->merge || px->grid_w < c->merge ||
        px->grid_h % c->merge != 0 || px->grid_w % c->merge != 0) {
        return sq_fail(err, SQ_EARG, "no such patch grid for this model; got %lld x %lld x %lld",
                       (long long)px->grid_t, (long long)px->grid_h, (long long)px->grid_w);
    }
    sq_status st;
    t->rotary = 1;
    SQ_TRY(bounds(t, a, px->grid_t, px->grid_h, px->grid_w, err));
    SQ_TRY(reserve(t, err));
    rotary(t, px->grid_h, px->grid_w);
fail:
    return st;
}
