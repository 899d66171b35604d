/* The blocks of a vision tower: norm, attention over segments of rows, MLP, in f32. The towers
 * around them are in vision_qwen.c and vision_vit.c. Memory is linear in the patches: attention
 * works on tiles of query rows, linears on chunks. */
#include <math.h>
#include <string.h>

#include "model/tower.h"

void sq_tower_norm(const sq_tower_run *t, float *y, const float *x, int64_t rows, int64_t n,
                   const sq_norm *norm, float eps) {
    const sq_kernels *kn = sq_kernels_get();
    int rms = t->net->config.tower->norm == SQ_NORM_RMS;
#pragma omp parallel for schedule(static) if (rows * n > 65536)
    for (int64_t i = 0; i < rows; i++) {
        if (rms) {
            kn->rmsnorm(y + i * n, x + i * n, norm->weight, eps, n);
        } else {
            kn->layernorm(y + i * n, x + i * n, norm->weight, norm->bias, eps, n);
        }
    }
}

/* One (segment, head): rotate, then tiles of query rows; in bf16 with `words` for it. */
static void attend_segment(const sq_tower_run *t, int64_t lo, int64_t hi, int64_t head,
                           float *scores, uint32_t *words) {
    const sq_config *c = &t->net->config;
    const sq_kernels *kn = sq_kernels_get();
    int64_t ld = 3 * t->width, hd = c->v_head_dim, half = hd / 2;
    float *qkv = t->w->vqkv.data;
    const float *k = qkv + lo * ld + t->width + head * hd, *v = k + t->width;
    for (int64_t i = lo; t->rotary && i < hi; i++) {
        float *q = qkv + i * ld + head * hd;
        kn->rope(q, t->w->vcos.data + i * half, t->w->vsin.data + i * half, hd);
        kn->rope(q + t->width, t->w->vcos.data + i * half, t->w->vsin.data + i * half, hd);
    }
    if (words != NULL) {
        const float *q = qkv + lo * ld + head * hd;
        sq_attend_bf16(&(sq_attn_bf16){.q = q,
                                       .k = k,
                                       .v = v,
                                       .ld = ld,
                                       .rows = hi - lo,
                                       .hd = hd,
                                       .out = t->w->vatt.data + lo * t->width + head * hd,
                                       .ldo = t->width,
                                       .scale = 1.0f / sqrtf((float)hd),
                                       .words = words});
        return;
    }
    for (int64_t i = lo; i < hi; i += SQ_Q_TILE) {
        int64_t m = hi - i < SQ_Q_TILE ? hi - i : SQ_Q_TILE;
        sq_attend(&(sq_attn_tile){.q = qkv + i * ld + head * hd,
                                  .k = k,
                                  .v = v,
                                  .ld = ld,
                                  .rows = m,
                                  .hd = hd,
                                  .total = hi - lo,
                                  .out = t->w->vatt.data + i * t->width + head * hd,
                                  .ldo = t->width,
                                  .scores = scores,
                                  .scale = 1.0f / sqrtf((float)hd)});
    }
}

sq_status sq_tower_tap(const sq_tower_run *t, const sq_linear *l, float *x, int64_t rows, int64_t k,
                       sq_error *err) {
    return sq_enter_linears(l, t->sink, x, k, rows, k, err);
}

static void add(float *h, const float *x, int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        h[i] += x[i];
    }
}

/* q, k and v of normed rows side by side: one linear, or three. */
static sq_status project(const sq_tower_run *t, const sq_block *b, float *x, int64_t rows,
                         float *to, sq_error *err) {
    static const int one[] = {SQ_V_QKV}, three[] = {SQ_V_Q, SQ_V_K, SQ_V_V};
    int fused = b->linears[SQ_V_QKV].weight.n > 0;
    const int *roles = fused ? one : three;
    sq_status st = sq_tower_tap(t, &b->linears[roles[0]], x, rows, t->width, err);
    int count = fused ? 1 : 3;
    const sq_linear *l[3];
    float *y[3];
    int64_t ldy[3];
    for (int i = 0; i < count; i++) {
        l[i] = &b->linears[roles[i]];
        y[i] = to + i * t->width;
        ldy[i] = 3 * t->width;
    }
    if (st == SQ_OK) {
        sq_linears_rows(l, count, x, t->width, rows, y, ldy);
    }
    return st;
}

/* Where the projections round their inputs to 8 bits or to bf16, attention does to bf16. */
static int in_bf16(const sq_block *b, const sq_config *c) {
    const sq_linear *l = &b->linears[SQ_V_PROJ];
    int rounds = l->bf16 || (l->quantized && l->scheme.act_bits == 8);
    return rounds && c->v_head_dim % 2 == 0 && sq_kernels_get()->tile_bf16 != NULL;
}

static sq_status attention(const sq_tower_run *t, const sq_block *b, int full, float *h,
                           sq_error *err) {
    const sq_config *c = &t->net->config;
    sq_work *w = t->w;
    const sq_linear *proj = &b->linears[SQ_V_PROJ];
    sq_status st;
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        sq_tower_norm(t, w->vy.data, h + i * t->width, rows, t->width, &b->norms[0], c->v_eps);
        SQ_TRY(project(t, b, w->vy.data, rows, w->vqkv.data + i * 3 * t->width, err));
    }
    const int64_t *bounds = full ? t->slots : t->windows;
    int64_t n_seg = full ? t->n_slots : t->n_windows, longest = 0;
    for (int64_t s = 0; s < n_seg; s++) {
        longest = bounds[s + 1] - bounds[s] > longest ? bounds[s + 1] - bounds[s] : longest;
    }
    int64_t words = in_bf16(b, c) ? sq_attend_words(longest, c->v_head_dim) : 0;
    int64_t scores = words > 0 ? 0 : SQ_Q_TILE * longest;
    SQ_TRY(sq_scratch_need(&w->scores, (size_t)(sq_threads() * scores), "vision attention scores",
                           err));
    SQ_TRY(sq_scratch_need(&w->vwords, (size_t)(sq_threads() * words), "vision attention", err));
#pragma omp parallel for schedule(dynamic, 1) if (t->rows > 128)
    for (int64_t task = 0; task < n_seg * c->v_heads; task++) {
        int64_t s = task / c->v_heads;
        uint32_t *own = (uint32_t *)(void *)w->vwords.data + sq_thread() * words;
        attend_segment(t, bounds[s], bounds[s + 1], task % c->v_heads,
                       w->scores.data + sq_thread() * scores, words > 0 ? own : NULL);
    }
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        float *x = w->vatt.data + i * t->width;
        SQ_TRY(sq_tower_tap(t, proj, x, rows, t->width, err));
        sq_linear_rows(proj, x, t->width, rows, w->vy.data, t->width);
        add(h + i * t->width, w->vy.data, rows * t->width);
    }
    return SQ_OK;
fail:
    return st;
}

void sq_activate(sq_act_kind act, float *x, int64_t n) {
    const sq_kernels *kn = sq_kernels_get();
    switch (act) {
    case SQ_ACT_QUICK_GELU:
        kn->quick_gelu(x, n);
        break;
    case SQ_ACT_GELU:
        kn->gelu_erf(x, n);
        break;
    case SQ_ACT_GELU_TANH:
        kn->gelu_tanh(x, n);
        break;
    case SQ_ACT_SILU:
        for (int64_t i = 0; i < n; i++) {
            x[i] = x[i] / (1.0f + expf(-x[i]));
        }
        break;
    }
}

static sq_status mlp(const sq_tower_run *t, const sq_block *b, float *h, sq_error *err) {
    const sq_config *c = &t->net->config;
    int gated = c->tower->gated;
    const sq_kernels *kn = sq_kernels_get();
    int64_t inter = c->dims[SQ_D_V_INTER];
    const sq_linear *up = &b->linears[SQ_V_UP], *gate = &b->linears[SQ_V_GATE],
                    *down = &b->linears[SQ_V_DOWN];
    float *x = t->w->vy.data, *g = t->w->gate.data, *u = t->w->up.data;
    sq_status st;
    for (int64_t i = 0; i < t->rows; i += SQ_V_CHUNK) {
        int64_t rows = t->rows - i < SQ_V_CHUNK ? t->rows - i : SQ_V_CHUNK;
        sq_tower_norm(t, x, h + i * t->width, rows, t->width, &b->norms[1], c->v_eps);
        SQ_TRY(sq_tower_tap(t, up, x, rows, t->width, err));
        float *mid = gated ? g : u;
        sq_linears_rows((const sq_linear *[]){up, gate}, gated ? 2 : 1, x, t->width, rows,
                        (float *[]){u, g}, (int64_t[]){inter, inter});
#pragma omp parallel for schedule(static) if (rows > 64)
        for (int64_t r = 0; r < rows; r++) {
            if (gated) {
                kn->silu_mul(g + r * inter, u + r * inter, inter);
            } else {
                sq_activate(c->v_act, u + r * inter, inter);
            }
        }
        SQ_TRY(sq_tower_tap(t, down, mid, rows, inter, err));
        sq_linear_rows(down, mid, inter, rows, x, t->width);
        add(h + i * t->width, x, rows * t->width);
    }
    return SQ_OK;
fail:
    return st;
}

/* Keeps x as it is after `layers` blocks wherever the selection wants it. */
static void take(const sq_tower_run *t, int64_t layers) {
    const sq_config *c = &t->net->config;
    int64_t wide = c->n_select * t->width;
    for (int s = 0; t->feats != NULL && s < c->n_select; s++) {
        for (int64_t i = 0; c->select[s] == layers && i < t->rows; i++) {
            memcpy(t->feats + i * wide + s * t->width, t->x + i * t->width,
                   (size_t)t->width * sizeof *t->x);
        }
    }
}

static sq_status block(const sq_tower_run *t, int64_t layer, sq_error *err) {
    const sq_block *b = &t->net->v_layers[layer];
    take(t, layer);
    sq_status st = attention(t, b, t->net->config.v_full[layer], t->x, err);
    return st == SQ_OK ? mlp(t, b, t->x, err) : st;
}

sq_status sq_tower_reserve(const sq_tower_run *t, sq_error *err) {
    const sq_config *c = &t->net->config;
    sq_work *w = t->w;
    size_t rows = (size_t)t->rows, width = (size_t)t->width;
    size_t chunk = rows < SQ_V_CHUNK ? rows : SQ_V_CHUNK, inter = (size_t)c->dims[SQ_D_V_INTER];
    sq_status st;
    SQ_TRY(sq_scratch_need(&w->vy, chunk * width, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vqkv, rows * width * 3, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->vatt, rows * width, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->gate, chunk * inter, "vision activations", err));
    SQ_TRY(sq_scratch_need(&w->up, chunk * inter, "vision activations", err));
    return SQ_OK;
fail:
    return st;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static int64_t tower_rows(const sq_config *c, const sq_pixels *px) {
    return c->tower->kind == SQ_TOWER_QWEN ? px->grid_t * px->grid_h * px->grid_w
                                           : px->grid_t * sq_config_tile_rows(c);
}

size_t sq_vision_peak(const sq_config *c, const sq_pixels *px) {
    const int64_t *d = c->dims;
    int qwen = c->tower->kind == SQ_TOWER_QWEN;
    size_t patches = (size_t)(px->grid_t * px->grid_h * px->grid_w),
           width = (size_t)d[SQ_D_V_WIDTH];
    size_t rows = (size_t)tower_rows(c, px);
    size_t longest = rows / (size_t)px->grid_t, hid = (size_t)d[SQ_D_V_OUT];
    size_t chunk = rows < SQ_V_CHUNK ? rows : SQ_V_CHUNK, merged = (size_t)d[SQ_D_V_MERGED];
    size_t floats = patches * (size_t)px->patch_dim + (size_t)px->tokens * hid;
    floats += rows * width + chunk * (width + 2 * (size_t)d[SQ_D_V_INTER]);
    size_t words = (size_t)sq_attend_words((int64_t)longest, c->v_head_dim);
    floats += (size_t)sq_threads() * larger(SQ_Q_TILE * longest, words); /* in f32, or in bf16 */
    size_t widest = larger(merged, (size_t)d[SQ_D_V_INTER]); /* sq_matmul's own scratch */
    floats += (size_t)sq_threads() * larger(128 << 10, 16 * widest);
    floats += (size_t)sq_rounded_floats((int64_t)chunk, (int64_t)widest);
    if (qwen) { /* the merger works in what attention is done with; rotary tables, order, bounds */
        size_t units = SQ_V_CHUNK / 4;
        floats += larger(rows * width * 3, merged * units) + larger(rows * width, hid * units);
        floats += rows * (size_t)c->v_head_dim + 2 * rows;
        return floats * sizeof(float);
    }
    size_t tiles = (size_t)px->grid_t, tokens = (size_t)sq_config_tile_tokens(c);
    floats += rows * width * 4 + rows * width * (size_t)c->n_select + 2 * tiles;
    floats += 2 * tokens * larger(merged, larger((size_t)d[SQ_D_V_MID], hid));
    floats += px->tile_cols > 0 ? tiles * tokens * hid : 0;
    floats += c->n_scales > 1 ? tiles * longest * width * (size_t)(c->n_select * c->n_scales) : 0;
    return floats * sizeof(float);
}

/* ---- a picture, at once or block by block ---- */

size_t sq_vision_state_floats(const sq_config *c, const sq_pixels *px) {
    size_t copies = c->tower->kind == SQ_TOWER_QWEN ? 1 : 1 + (size_t)c->n_select;
    return (size_t)tower_rows(c, px) * (size_t)c->dims[SQ_D_V_WIDTH] * copies;
}

static sq_status lay_out(sq_tower_run *t, sq_arena *a, const sq_net *n, sq_work *w,
                         const sq_pixels *px, const sq_tap_sink *sink, sq_error *err) {
    const sq_config *c = &n->config;
    *t = (sq_tower_run){
        .net = n, .w = w, .sink = sink, .rows = tower_rows(c, px), .width = c->dims[SQ_D_V_WIDTH]};
    return c->tower->kind == SQ_TOWER_QWEN ? sq_qwen_lay_out(t, a, px, err)
                                           : sq_vit_lay_out(t, a, px, err);
}

static void use(sq_tower_run *t, float *state) {
    int qwen = t->net->config.tower->kind == SQ_TOWER_QWEN;
    t->x = state;
    t->feats = qwen ? NULL : state + t->rows * t->width;
}

static void embed(const sq_tower_run *t, const sq_pixels *px) {
    if (t->feats == NULL) {
        sq_qwen_embed(t, px);
    } else {
        sq_vit_embed(t, px);
    }
}

static sq_status project_rows(const sq_tower_run *t, const sq_pixels *px, float *out,
                              sq_error *err) {
    take(t, t->net->config.v_layers);
    return t->feats == NULL ? sq_qwen_merge(t, out, err) : sq_vit_project(t, px, out, err);
}

sq_status sq_vision_forward(const sq_net *n, sq_work *w, const sq_pixels *px, float *out,
                            const sq_tap_sink *sink, sq_error *err) {
    sq_tower_run t;
    sq_arena a = {0};
    sq_status st;
    if (n->config.tower == NULL) {
        return sq_fail(err, SQ_EARG, "a text model takes no pictures");
    }
    SQ_TRY(lay_out(&t, &a, n, w, px, sink, err));
    SQ_TRY(
        sq_scratch_need(&w->vx, sq_vision_state_floats(&n->config, px), "vision activations", err));
    use(&t, w->vx.data);
    embed(&t, px);
    for (int64_t l = 0; l < n->config.v_layers; l++) {
        SQ_TRY(block(&t, l, err));
    }
    st = project_rows(&t, px, out, err);
fail:
    sq_arena_free(&a);
    return st;
}

sq_status sq_vision_embed(const sq_net *n, sq_work *w, const sq_pixels *px, float *state,
                          sq_error *err) {
    sq_tower_run t;
    sq_arena a = {0};
    sq_status st = lay_out(&t, &a, n, w, px, NULL, err);
    use(&t, state);
    if (st == SQ_OK) {
        embed(&t, px);
    }
    sq_arena_free(&a);
    return st;
}

sq_status sq_vision_layer(const sq_net *n, sq_work *w, const sq_pixels *px, int64_t layer,
                          float *state, const sq_tap_sink *sink, sq_error *err) {
    sq_tower_run t;
    sq_arena a = {0};
    sq_status st = lay_out(&t, &a, n, w, px, sink, err);
    use(&t, state);
    st = st == SQ_OK ? block(&t, layer, err) : st;
    sq_arena_free(&a);
    return st;
}

sq_status sq_vision_project(const sq_net *n, sq_work *w, const sq_pixels *px, float *state,
                            float *out, const sq_tap_sink *sink, sq_error *err) {
    sq_tower_run t;
    sq_arena a = {0};
    sq_status st = lay_out(&t, &a, n, w, px, sink, err);
    use(&t, state);
    st = st == SQ_OK ? project_rows(&t, px, out, err) : st;
    sq_arena_free(&a);
    return st;
}
