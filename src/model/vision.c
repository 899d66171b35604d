/* The Qwen vision towers: patch embedding, blocks with window or full attention, merger.
 * transformers models/qwen2_vl (Qwen2VisionTransformerPretrainedModel) and qwen2_5_vl, in f32.
 * Memory is linear in the patches: attention works on tiles of query rows, linears on chunks. */
#include <math.h>
#include <string.h>

#include "model/work.h"

typedef struct tower {
    const sq_net *net;
    sq_work *w;
    const sq_tap_sink *sink;
    int64_t rows, width;
    int64_t *order;              /* [rows / merge^2] natural unit of each position */
    int64_t *windows, n_windows; /* bounds in patch rows: n_windows + 1 */
    int64_t *slots, n_slots;     /* bounds of the temporal slots */
} tower;

static void norm_row(const tower *t, float *y, const float *x, const sq_norm *n) {
    const sq_kernels *kn = sq_kernels_get();
    if (t->net->config.arch->vision_norm == SQ_NORM_RMS) {
        kn->rmsnorm(y, x, n->weight, t->net->config.v_eps, t->width);
    } else {
        kn->layernorm(y, x, n->weight, n->bias, t->net->config.v_eps, t->width);
    }
}

static void norm_rows(const tower *t, float *y, const float *x, int64_t rows, const sq_norm *n) {
#pragma omp parallel for schedule(static) if (rows * t->width > 65536)
    for (int64_t i = 0; i < rows; i++) {
        norm_row(t, y + i * t->width, x + i * t->width, n);
    }
}

/* Window by window order of the merged units and the window bounds
 * (vision_utils.get_vision_window_index). */
static void window_order(tower *t, int64_t grid_t, int64_t gh, int64_t gw) {
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

static sq_status lay_out(tower *t, sq_arena *a, int64_t grid_t, int64_t grid_h, int64_t grid_w,
                         sq_error *err) {
    const sq_config *c = &t->net->config;
    int64_t gh = grid_h / c->merge, gw = grid_w / c->merge, units = grid_t * gh * gw;
    t->order = sq_arena_alloc(a, (size_t)units, sizeof *t->order, err);
    t->windows = sq_arena_alloc(a, (size_t)units + 1, sizeof *t->windows, err);
    t->slots = sq_arena_alloc(a, (size_t)grid_t + 1, sizeof *t->slots, err);
    if (t->order == NULL || t->windows == NULL || t->slots == NULL) {
        return SQ_ENOMEM;
    }
    if (c->arch->vision_windows) {
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
static void rotary(const tower *t, int64_t grid_h, int64_t grid_w) {
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

typedef struct segment {
    const float *k, *v;
    int64_t n, ld;
} segment;

static int64_t segment_block(const void *ctx, int64_t b, const float **k, const float **v,
                             int64_t *ld) {
    const segment *s = ctx;
    *k = s->k;
    *v = s->v;
    *ld = s->ld;
    return b == 0 ? s->n : 0;
}

/* One (segment, head): rotate, then tiles of query rows. */
static void attend_segment(const tower *t, int64_t lo, int64_t hi, int64_t head, float *scores) {
    const sq_config *c = &t->net->config;
    const sq_kernels *kn = sq_kernels_get();
    int64_t ld = 3 * t->width, hd = c->v_head_dim, half = hd / 2;
    float *qkv = t->w->vqkv.data;
    segment s = {qkv + lo * ld + t->width + head * hd, qkv + lo * ld + 2 * t->width + head * hd,
                 hi - lo, ld};
    for (int64_t i = lo; i < hi; i++) {
        float *q = qkv + i * ld + head * hd;
        kn->rope(q, t->w->vcos.data + i * half, t->w->vsin.data + i * half, hd);
        kn->rope(q + t->width, t->w->vcos.data + i * half, t->w->vsin.data + i * half, hd);
    }
    for (int64_t i = lo; i < hi; i += SQ_Q_TILE) {
        int64_t m = hi - i < SQ_Q_TILE ? hi - i : SQ_Q_TILE;
        sq_attn_tile tile = {.q = qkv + i * ld + head * hd,
                             .ldq = ld,
                             .rows = m,
                             .hd = hd,
                             .total = hi - lo,
                             .seen0 = hi - lo,
                             .seen_step = 0,
                             .out = t->w->vatt.data + i * t->width + head * hd,
                             .ldo = t->width,
                             .scores = scores,
                             .scale = 1.0f / sqrtf((float)hd)};
        sq_attend(&tile, segment_block, &s);
    }
}

static sq_status tap(const tower *t, const sq_linear *l, const float *x, int64_t rows, int64_t k,
                     sq_error *err) {
    return t->sink == NULL ? SQ_OK : t->sink->rows(t->sink->user, l->tap, x, k, rows, k, err);
}

static void add(float *h, const float *x, int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        h[i] += x[i];
    }
}

static sq_status attention(const tower *t, const sq_block *b, int full, float *h, sq_error *err) {
    const sq_config *c = &t->net->config;
    sq_work *w = t->w;
    const sq_linear *qkv = &b->linears[SQ_V_QKV], *proj = &b->linears[SQ_V_PROJ];
    sq_status st;
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        norm_rows(t, w->vy.data, h + i * t->width, rows, &b->norms[0]);
        SQ_TRY(tap(t, qkv, w->vy.data, rows, t->width, err));
        sq_matmul(&qkv->weight, w->vy.data, t->width, rows, qkv->bias,
                  w->vqkv.data + i * 3 * t->width, 3 * t->width);
    }
    const int64_t *bounds = full ? t->slots : t->windows;
    int64_t n_seg = full ? t->n_slots : t->n_windows, longest = 0;
    for (int64_t s = 0; s < n_seg; s++) {
        longest = bounds[s + 1] - bounds[s] > longest ? bounds[s + 1] - bounds[s] : longest;
    }
    SQ_TRY(sq_scratch_need(&w->scores, (size_t)sq_threads() * SQ_Q_TILE * (size_t)longest,
                           "vision attention scores", err));
#pragma omp parallel for schedule(dynamic, 1) if (t->rows > 128)
    for (int64_t task = 0; task < n_seg * c->v_heads; task++) {
        int64_t s = task / c->v_heads;
        attend_segment(t, bounds[s], bounds[s + 1], task % c->v_heads,
                       w->scores.data + sq_thread() * SQ_Q_TILE * longest);
    }
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        const float *x = w->vatt.data + i * t->width;
        SQ_TRY(tap(t, proj, x, rows, t->width, err));
        sq_matmul(&proj->weight, x, t->width, rows, proj->bias, w->vy.data, t->width);
        add(h + i * t->width, w->vy.data, rows * t->width);
    }
    return SQ_OK;
fail:
    return st;
}

static void activate(sq_act_kind act, float *x, int64_t n) {
    const sq_kernels *kn = sq_kernels_get();
    if (act == SQ_ACT_QUICK_GELU) {
        kn->quick_gelu(x, n);
    } else if (act == SQ_ACT_GELU) {
        kn->gelu_erf(x, n);
    } else {
        kn->gelu_tanh(x, n);
    }
}

static sq_status mlp(const tower *t, const sq_block *b, float *h, sq_error *err) {
    const sq_arch *a = t->net->config.arch;
    const sq_kernels *kn = sq_kernels_get();
    int64_t inter = t->net->config.dims[SQ_D_V_INTER];
    const sq_linear *up = &b->linears[SQ_V_UP], *gate = &b->linears[SQ_V_GATE],
                    *down = &b->linears[SQ_V_DOWN];
    float *x = t->w->vy.data, *g = t->w->gate.data, *u = t->w->up.data;
    sq_status st;
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        norm_rows(t, x, h + i * t->width, rows, &b->norms[1]);
        SQ_TRY(tap(t, up, x, rows, t->width, err));
        float *mid = a->vision_gated ? g : u;
        sq_matmul(&up->weight, x, t->width, rows, up->bias, u, inter);
        if (a->vision_gated) {
            sq_matmul(&gate->weight, x, t->width, rows, gate->bias, g, inter);
        }
#pragma omp parallel for schedule(static) if (rows > 64)
        for (int64_t r = 0; r < rows; r++) {
            if (a->vision_gated) {
                kn->silu_mul(g + r * inter, u + r * inter, inter);
            } else {
                activate(a->vision_act, u + r * inter, inter);
            }
        }
        SQ_TRY(tap(t, down, mid, rows, inter, err));
        sq_matmul(&down->weight, mid, inter, rows, down->bias, x, t->width);
        add(h + i * t->width, x, rows * t->width);
    }
    return SQ_OK;
fail:
    return st;
}

/* ln_q, groups of merge^2 rows side by side, Linear, GELU, Linear; rows go back to natural order.
 */
static sq_status merge(const tower *t, float *h, float *out, sq_error *err) {
    const sq_config *c = &t->net->config;
    const sq_linear *fc1 = &t->net->merger.linears[SQ_M_FC1],
                    *fc2 = &t->net->merger.linears[SQ_M_FC2];
    int64_t unit = c->merge * c->merge, wide = c->dims[SQ_D_V_MERGED], hid = c->dims[SQ_D_V_OUT];
    const int64_t chunk = SQ_V_CHUNK / 4;
    float *mid = t->w->vqkv.data, *res = t->w->vatt.data; /* done with: large enough, see reserve */
    sq_status st;
    norm_rows(t, h, h, t->rows, &t->net->merger.norms[0]);
    for (int64_t i = 0; i < t->rows / unit; i += chunk) {
        int64_t rows = t->rows / unit - i < chunk ? t->rows / unit - i : chunk;
        const float *x = h + i * wide;
        SQ_TRY(tap(t, fc1, x, rows, wide, err));
        sq_matmul(&fc1->weight, x, wide, rows, fc1->bias, mid, wide);
#pragma omp parallel for schedule(static) if (rows > 64)
        for (int64_t r = 0; r < rows; r++) {
            activate(SQ_ACT_GELU, mid + r * wide, wide);
        }
        SQ_TRY(tap(t, fc2, mid, rows, wide, err));
        sq_matmul(&fc2->weight, mid, wide, rows, fc2->bias, res, hid);
        for (int64_t r = 0; r < rows; r++) {
            memcpy(out + t->order[i + r] * hid, res + r * hid, (size_t)hid * sizeof *out);
        }
    }
    return SQ_OK;
fail:
    return st;
}

static sq_status reserve(const tower *t, sq_error *err) {
    const sq_config *c = &t->net->config;
    sq_work *w = t->w;
    size_t rows = (size_t)t->rows, width = (size_t)t->width, half = (size_t)c->v_head_dim / 2;
    size_t chunk = rows < SQ_V_CHUNK ? rows : SQ_V_CHUNK, inter = (size_t)c->dims[SQ_D_V_INTER];
    size_t merged = (size_t)c->dims[SQ_D_V_MERGED] * (SQ_V_CHUNK / 4);
    size_t res = (size_t)c->dims[SQ_D_V_OUT] * (SQ_V_CHUNK / 4);
    sq_status st;
    SQ_TRY(sq_scratch_need(&w->vx, rows * width, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vy, chunk * width, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vqkv, rows * width * 3 > merged ? rows * width * 3 : merged,
                           "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vatt, rows * width > res ? rows * width : res, "vision activations",
                           err));
    SQ_TRY(sq_scratch_need(&w->vcos, rows * half, "rotary tables", err));
    SQ_TRY(sq_scratch_need(&w->vsin, rows * half, "rotary tables", err));
    SQ_TRY(sq_scratch_need(&w->gate, chunk * inter, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->up, chunk * inter, "vision activations", err));
    return SQ_OK;
fail:
    return st;
}

/* Patch rows through the embedding, in tower order. */
static void embed_patches(const tower *t, const float *patches) {
    const sq_config *c = &t->net->config;
    int64_t unit = c->merge * c->merge, dim = t->net->patch_embed.weight.k;
    const sq_weight *w = &t->net->patch_embed.weight;
    float *tmp = t->w->vatt.data; /* [rows][width], natural order */
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        sq_matmul(w, patches + i * dim, dim, rows, NULL, tmp + i * t->width, t->width);
    }
    for (int64_t u = 0; u < t->rows / unit; u++) {
        memcpy(t->w->vx.data + u * unit * t->width, tmp + t->order[u] * unit * t->width,
               (size_t)(unit * t->width) * sizeof *tmp);
    }
}

sq_status sq_vision_forward(const sq_net *n, sq_work *w, const float *patches, int64_t grid_t,
                            int64_t grid_h, int64_t grid_w, float *out, const sq_tap_sink *sink,
                            sq_error *err) {
    const sq_config *c = &n->config;
    if (c->arch->vision == SQ_VISION_NONE || grid_t < 1 || grid_h < c->merge || grid_w < c->merge ||
        grid_h % c->merge != 0 || grid_w % c->merge != 0) {
        return sq_fail(err, SQ_EARG, "no such patch grid for this model; got %lld x %lld x %lld",
                       (long long)grid_t, (long long)grid_h, (long long)grid_w);
    }
    tower t = {.net = n,
               .w = w,
               .sink = sink,
               .rows = grid_t * grid_h * grid_w,
               .width = c->dims[SQ_D_V_WIDTH]};
    sq_arena a = {0};
    sq_status st;
    SQ_TRY(lay_out(&t, &a, grid_t, grid_h, grid_w, err));
    SQ_TRY(reserve(&t, err));
    rotary(&t, grid_h, grid_w);
    embed_patches(&t, patches);
    for (int64_t l = 0; l < c->v_layers; l++) {
        SQ_TRY(attention(&t, &n->v_layers[l], c->v_full[l], w->vx.data, err));
        SQ_TRY(mlp(&t, &n->v_layers[l], w->vx.data, err));
    }
    st = merge(&t, w->vx.data, out, err);
fail:
    sq_arena_free(&a);
    return st;
}
