/* The text decoder: embeddings, layers over a growing KV cache, logits.
 * transformers models/llama, qwen2, qwen2_vl (LlamaDecoderLayer.forward and its kin), in f32. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "model/work.h"

int sq_thread(void) { return omp_get_thread_num(); }

sq_status sq_scratch_need(sq_scratch *s, size_t n, const char *what, sq_error *err) {
    if (n <= s->cap) {
        return SQ_OK;
    }
    float *p = sq_alloc(n, sizeof *p, what, err);
    if (p == NULL) {
        return SQ_ENOMEM;
    }
    sq_free(s->data);
    *s = (sq_scratch){p, n};
    return SQ_OK;
}

sq_status sq_work_open(sq_work **out, const sq_net *n, sq_error *err) {
    *out = sq_alloc(1, sizeof **out, "a scratch space", err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    (*out)->net = n;
    return SQ_OK;
}

void sq_work_close(sq_work **w) {
    if (*w == NULL) {
        return;
    }
    sq_scratch *const all[] = {&(*w)->x,      &(*w)->qkv,  &(*w)->att,  &(*w)->gate,   &(*w)->up,
                               &(*w)->scores, &(*w)->cos,  &(*w)->sin,  &(*w)->logits, &(*w)->vx,
                               &(*w)->vy,     &(*w)->vqkv, &(*w)->vatt, &(*w)->vcos,   &(*w)->vsin,
                               &(*w)->vwords, &(*w)->team};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        sq_free(all[i]->data);
    }
    sq_free(*w);
    *w = NULL;
}

void sq_embed(const sq_net *n, const int32_t *ids, int64_t count, float *h) {
    int64_t width = n->config.dims[SQ_D_HIDDEN], vocab = n->config.dims[SQ_D_VOCAB];
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] >= 0 && ids[i] < vocab) {
            sq_weight_rows_f32(&n->embed.weight, ids[i], 1, h + i * width);
        } else {
            memset(h + i * width, 0, (size_t)width * sizeof *h);
        }
    }
}

void sq_store_head(const sq_net *n, sq_kv *kv, int64_t layer, int which, int64_t head, float *qkv,
                   const float *cos, const float *sin, int64_t at) {
    const sq_config *c = &n->config;
    float *x = qkv + c->dims[SQ_D_Q] + which * c->dims[SQ_D_KV] + head * c->head_dim;
    if (which == 0) {
        sq_kernels_get()->rope(x, cos, sin, c->head_dim);
    }
    sq_kv_put(kv, at, layer, which, head, x);
}

/* Rotates the chunk's keys in place and stores them and the values at token `at` on. qkv row:
 * [q | k | v]. A task is what one block of the cache takes of a head's keys or values. */
static void store_kv(const sq_net *n, sq_kv *kv, int64_t layer, float *qkv, int64_t ld,
                     const float *cos_rows, const float *sin_rows, int64_t at, int64_t rows) {
    const sq_config *c = &n->config;
    int64_t half = c->head_dim / 2, block0 = at / SQ_KV_BLOCK;
    int64_t blocks = (at + rows - 1) / SQ_KV_BLOCK - block0 + 1;
#pragma omp parallel for schedule(static) if (rows > 32)
    for (int64_t task = 0; task < 2 * c->kv_heads * blocks; task++) {
        int64_t head = task / blocks / 2, first = (block0 + task % blocks) * SQ_KV_BLOCK - at;
        int64_t end = first + SQ_KV_BLOCK < rows ? first + SQ_KV_BLOCK : rows;
        int which = task / blocks % 2 == 1;
        for (int64_t t = first < 0 ? 0 : first; t < end; t++) {
            sq_store_head(n, kv, layer, which, head, qkv + t * ld, cos_rows + t * half,
                          sin_rows + t * half, at + t);
        }
    }
}

static sq_status reserve_scratch(sq_work *w, int64_t keys, int64_t rows, sq_error *err) {
    const sq_config *c = &w->net->config;
    const int64_t *d = c->dims;
    size_t r = (size_t)rows;
    sq_status st;
    SQ_TRY(sq_scratch_need(&w->x, r * (size_t)d[SQ_D_HIDDEN], "activations", err));
    SQ_TRY(sq_scratch_need(&w->qkv, r * (size_t)(d[SQ_D_Q] + 2 * d[SQ_D_KV]), "activations", err));
    SQ_TRY(sq_scratch_need(&w->att, r * (size_t)d[SQ_D_Q], "activations", err));
    SQ_TRY(sq_scratch_need(&w->gate, r * (size_t)d[SQ_D_INTER], "activations", err));
    SQ_TRY(sq_scratch_need(&w->up, r * (size_t)d[SQ_D_INTER], "activations", err));
    size_t space = (size_t)sq_cached_floats(c->heads, c->kv_heads, c->head_dim, rows, keys);
    /* Grows by half at least, so that a long decode does not allocate at every block. */
    if (space > w->scores.cap) {
        SQ_TRY(sq_scratch_need(&w->scores, space + space / 2, "attention scores", err));
    }
    return SQ_OK;
fail:
    return st;
}

sq_status sq_enter_linears(const sq_linear *l, const sq_tap_sink *sink, const float *x, int64_t ldx,
                           int64_t rows, int64_t k, sq_error *err) {
    return sink == NULL ? SQ_OK : sink->rows(sink->user, l->tap, x, ldx, rows, k, err);
}

sq_rounding sq_rounding_of(const sq_linear *l) {
    return !l->quantized || l->scheme.act_bits != 8 ? SQ_ROUND_16
           : l->scheme.act_symmetric                ? SQ_ROUND_8_SYMMETRIC
                                                    : SQ_ROUND_8;
}

int sq_alike_linears(const sq_linear *const *l, int count, float *const *y, const int64_t *ldy,
                     sq_product *p) {
    int n = 0;
    for (; n < count && l[n]->bf16 == l[0]->bf16 && sq_rounding_of(l[n]) == sq_rounding_of(l[0]);
         n++) {
        p[n] = (sq_product){&l[n]->weight, l[n]->bias, y[n], ldy[n]};
    }
    return n;
}

void sq_linears_rows(const sq_linear *const *l, int count, const float *x, int64_t ldx,
                     int64_t rows, float *const *y, const int64_t *ldy) {
    for (int i = 0, n; i < count; i += n) {
        sq_product p[SQ_PRODUCTS];
        n = sq_alike_linears(l + i, count - i, y + i, ldy + i, p);
        if (!l[i]->bf16) {
            sq_matmul_rounded(p, n, sq_rounding_of(l[i]), x, ldx, rows);
        }
        for (int j = 0; l[i]->bf16 && j < n; j++) {
            sq_matmul_bf16(p[j].w, x, ldx, rows, p[j].bias, p[j].y, p[j].ldy);
        }
    }
}

void sq_linear_rows(const sq_linear *l, const float *x, int64_t ldx, int64_t rows, float *y,
                    int64_t ldy) {
    sq_linears_rows(&l, 1, x, ldx, rows, &y, &ldy);
}

static void norm_rows(float *y, const float *x, const float *w, float eps, int64_t rows,
                      int64_t n) {
    const sq_kernels *kn = sq_kernels_get();
#pragma omp parallel for schedule(static) if (rows > 32)
    for (int64_t i = 0; i < rows; i++) {
        kn->rmsnorm(y + i * n, x + i * n, w, eps, n);
    }
}

static void add_rows(float *h, const float *x, int64_t n) {
#pragma omp parallel for simd schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        h[i] += x[i];
    }
}

static sq_status mlp_chunk(const sq_net *n, sq_work *w, const sq_block *b, float *h, int64_t rows,
                           const sq_tap_sink *sink, sq_error *err) {
    const int64_t *d = n->config.dims;
    int64_t hid = d[SQ_D_HIDDEN], inter = d[SQ_D_INTER];
    const sq_linear *gate = &b->linears[SQ_L_GATE], *down = &b->linears[SQ_L_DOWN];
    const sq_kernels *kn = sq_kernels_get();
    sq_status st;
    norm_rows(w->x.data, h, b->norms[1].weight, n->config.rms_eps, rows, hid);
    SQ_TRY(sq_enter_linears(gate, sink, w->x.data, hid, rows, hid, err));
    sq_linears_rows((const sq_linear *[]){gate, &b->linears[SQ_L_UP]}, 2, w->x.data, hid, rows,
                    (float *[]){w->gate.data, w->up.data}, (int64_t[]){inter, inter});
#pragma omp parallel for schedule(static) if (rows > 32)
    for (int64_t i = 0; i < rows; i++) {
        kn->silu_mul(w->gate.data + i * inter, w->up.data + i * inter, inter);
    }
    SQ_TRY(sq_enter_linears(down, sink, w->gate.data, inter, rows, inter, err));
    if (sink != NULL && sink->taps_only) {
        return SQ_OK;
    }
    sq_linear_rows(down, w->gate.data, inter, rows, w->x.data, hid);
    add_rows(h, w->x.data, rows * hid);
    return SQ_OK;
fail:
    return st;
}

/* Keys and values go into each timeline's cache; each sees its own. */
static void attend_lines(const sq_net *n, sq_work *w, const sq_lines *t, int bf16) {
    const int64_t *d = n->config.dims;
    int64_t ld = d[SQ_D_Q] + 2 * d[SQ_D_KV], half = n->config.head_dim / 2;
    for (int64_t i = 0; i < t->n; i++) {
        int64_t first = i * t->rows, at = t->kv[i]->tokens + t->after;
        float *qkv = w->qkv.data + first * ld;
        const float *cos = t->cos + first * half, *sin = t->sin + first * half;
        store_kv(n, t->kv[i], t->layer, qkv, ld, cos, sin, at, t->rows);
        if (t->skip == t->rows) {
            return;
        }
        sq_attend_cached(&(sq_cached){.kv = t->kv[i],
                                      .layer = t->layer,
                                      .heads = n->config.heads,
                                      .at = at + t->skip,
                                      .rows = t->rows - t->skip,
                                      .qkv = qkv + t->skip * ld,
                                      .ld = ld,
                                      .cos = cos + t->skip * half,
                                      .sin = sin + t->skip * half,
                                      .bf16 = bf16,
                                      .out = w->att.data + (first + t->skip) * d[SQ_D_Q]},
                         w->scores.data);
    }
}

/* Queries, keys and values of w->x's rows; queries of those alone that are not skipped. */
static void project(const sq_net *n, sq_work *w, const sq_block *b, int64_t rows, int64_t skip) {
    const int64_t *d = n->config.dims;
    int64_t hid = d[SQ_D_HIDDEN], ld = d[SQ_D_Q] + 2 * d[SQ_D_KV];
    float *q = w->qkv.data, *k = q + d[SQ_D_Q], *v = k + d[SQ_D_KV];
    const sq_linear *const l[] = {&b->linears[SQ_L_Q], &b->linears[SQ_L_K], &b->linears[SQ_L_V]};
    int apart = skip > 0;
    sq_linears_rows(l + apart, 3 - apart, w->x.data, hid, rows, (float *[]){q, k, v} + apart,
                    (int64_t[]){ld, ld, ld});
    if (apart && skip < rows) {
        sq_linear_rows(l[0], w->x.data + skip * hid, hid, rows - skip, q + skip * ld, ld);
    }
}

static sq_status layer_chunk(const sq_net *n, sq_work *w, const sq_block *b, const sq_lines *t,
                             float *h, const sq_tap_sink *sink, sq_error *err) {
    const int64_t *d = n->config.dims;
    int64_t hid = d[SQ_D_HIDDEN], rows = t->n * t->rows, left = rows - t->skip;
    const sq_linear *o = &b->linears[SQ_L_O];
    sq_status st;
    norm_rows(w->x.data, h, b->norms[0].weight, n->config.rms_eps, rows, hid);
    SQ_TRY(sq_enter_linears(&b->linears[SQ_L_Q], sink, w->x.data, hid, rows, hid, err));
    project(n, w, b, rows, t->skip);
    attend_lines(n, w, t, o->bf16);
    if (left == 0) {
        return SQ_OK;
    }
    const float *att = w->att.data + t->skip * d[SQ_D_Q];
    h += t->skip * hid;
    SQ_TRY(sq_enter_linears(o, sink, att, d[SQ_D_Q], left, d[SQ_D_Q], err));
    sq_linear_rows(o, att, d[SQ_D_Q], left, w->x.data, hid);
    add_rows(h, w->x.data, left * hid);
    return mlp_chunk(n, w, b, h, left, sink, err);
fail:
    return st;
}

/* The last `wanted` rows of h become the layer's; others need not. */
static sq_status layer_rows(const sq_net *n, sq_work *w, int layer, sq_kv *kv, int64_t kv_layer,
                            const float *cos_rows, const float *sin_rows, float *h, int64_t count,
                            int64_t wanted, const sq_tap_sink *sink, sq_error *err) {
    int64_t half = n->config.head_dim / 2, hid = n->config.dims[SQ_D_HIDDEN];
    sq_status st = reserve_scratch(w, kv->tokens + count, count < SQ_CHUNK ? count : SQ_CHUNK, err);
    for (int64_t i = 0; st == SQ_OK && i < count; i += SQ_CHUNK) {
        sq_lines t = {.kv = &kv,
                      .n = 1,
                      .rows = count - i < SQ_CHUNK ? count - i : SQ_CHUNK,
                      .after = i,
                      .layer = kv_layer,
                      .cos = cos_rows + i * half,
                      .sin = sin_rows + i * half};
        int64_t skip = count - wanted - i;
        t.skip = skip < 0 ? 0 : skip < t.rows ? skip : t.rows;
        st = layer_chunk(n, w, &n->layers[layer], &t, h + i * hid, sink, err);
    }
    return st;
}

sq_status sq_text_layer(const sq_net *n, sq_work *w, int layer, sq_kv *kv, int64_t kv_layer,
                        const float *cos_rows, const float *sin_rows, float *h, int64_t count,
                        const sq_tap_sink *sink, sq_error *err) {
    return layer_rows(n, w, layer, kv, kv_layer, cos_rows, sin_rows, h, count, count, sink, err);
}

static sq_status rotary_rows(const sq_net *n, sq_work *w, const int32_t *const p[3], int64_t count,
                             sq_error *err) {
    size_t half = (size_t)n->config.head_dim / 2;
    sq_status st;
    SQ_TRY(sq_scratch_need(&w->cos, (size_t)count * half, "rotary tables", err));
    SQ_TRY(sq_scratch_need(&w->sin, (size_t)count * half, "rotary tables", err));
    sq_rope_rows(n, p, count, w->cos.data, w->sin.data);
fail:
    return st;
}

sq_status sq_text_forward(const sq_net *n, sq_work *w, sq_kv *kv, const int32_t *const p[3],
                          float *h, int64_t count, int64_t wanted, sq_error *err) {
    sq_status st;
    SQ_TRY(rotary_rows(n, w, p, count, err));
    for (int l = 0; l < n->config.layers; l++) {
        SQ_TRY(layer_rows(n, w, l, kv, l, w->cos.data, w->sin.data, h, count,
                          l + 1 < n->config.layers ? count : wanted, NULL, err));
    }
    kv->tokens += count;
    return SQ_OK;
fail:
    return st;
}

sq_status sq_text_step(const sq_net *n, sq_work *w, sq_kv *const *kv, int64_t count,
                       const int32_t *const p[3], float *h, sq_error *err) {
    int64_t keys = 0;
    sq_status st;
    for (int64_t i = 0; i < count; i++) {
        keys = kv[i]->tokens + 1 > keys ? kv[i]->tokens + 1 : keys;
    }
    SQ_TRY(rotary_rows(n, w, p, count, err));
    SQ_TRY(reserve_scratch(w, keys, count, err));
    sq_lines t = {.kv = kv, .n = count, .rows = 1, .cos = w->cos.data, .sin = w->sin.data};
    if (count <= SQ_SHARE_ROWS) {
        SQ_TRY(sq_team_layers(n, w, &t, keys, h, err));
    }
    for (; count > SQ_SHARE_ROWS && t.layer < n->config.layers; t.layer++) {
        SQ_TRY(layer_chunk(n, w, &n->layers[t.layer], &t, h, NULL, err));
    }
    for (int64_t i = 0; i < count; i++) {
        kv[i]->tokens++;
    }
    return SQ_OK;
fail:
    return st;
}

sq_status sq_logits(const sq_net *n, sq_work *w, const float *h, int64_t count, float *logits,
                    sq_error *err) {
    int64_t hid = n->config.dims[SQ_D_HIDDEN], vocab = n->config.dims[SQ_D_VOCAB];
    for (int64_t i = 0; i < count; i += SQ_CHUNK) {
        int64_t rows = count - i < SQ_CHUNK ? count - i : SQ_CHUNK;
        sq_status st = sq_scratch_need(&w->x, (size_t)(rows * hid), "activations", err);
        if (st != SQ_OK) {
            return st;
        }
        norm_rows(w->x.data, h + i * hid, n->final_norm.weight, n->config.rms_eps, rows, hid);
        sq_linear_rows(&n->head, w->x.data, hid, rows, logits + i * vocab, vocab);
    }
    return SQ_OK;
}

enum { FEED = 512 }; /* of sq_seq_feed */

size_t sq_text_work(const sq_config *c, int64_t context) {
    const int64_t *d = c->dims;
    int64_t rows = context < SQ_CHUNK ? context : SQ_CHUNK;
    int64_t floats = rows * (d[SQ_D_HIDDEN] + 2 * d[SQ_D_Q] + 2 * d[SQ_D_KV] + 2 * d[SQ_D_INTER]);
    int64_t space = sq_cached_floats(c->heads, c->kv_heads, c->head_dim, rows, context);
    int64_t one = sq_cached_floats(c->heads, c->kv_heads, c->head_dim, 1, context);
    int64_t widest = d[SQ_D_INTER] > d[SQ_D_HIDDEN] ? d[SQ_D_INTER] : d[SQ_D_HIDDEN];
    int64_t panel = 16 * widest > (128 << 10) ? 16 * widest : 128 << 10;
    floats += space > one ? space : one; /* what it may grow by is not touched before */
    floats += sq_threads() * panel + sq_rounded_floats(rows, widest); /* the products' own */
    floats += sq_threads() * (2 * d[SQ_D_HIDDEN] + d[SQ_D_INTER] + sq_rounded_floats(1, widest));
    return (size_t)floats * sizeof(float);
}

size_t sq_text_peak(const sq_config *c, int64_t context) {
    const int64_t *d = c->dims;
    int64_t feed = context < FEED ? context : FEED;
    int64_t floats = feed * (d[SQ_D_HIDDEN] + c->head_dim) + d[SQ_D_VOCAB];
    floats += 4 * context; /* positions, ids */
    return sq_text_work(c, context) + (size_t)floats * sizeof(float);
}

size_t sq_embed_window(const sq_config *c, int64_t context, size_t bytes) {
    const size_t around = 64 << 10; /* Linux maps 16 pages where one is missing */
    size_t rows = (size_t)(context < FEED ? context : FEED);
    size_t window = rows * (around + bytes / (size_t)c->dims[SQ_D_VOCAB]);
    return window < bytes ? window : bytes;
}
