/* One token of one or a few timelines: one team of threads goes through all layers together, each
 * with its share of every product and a copy of the rows between them. What a thread does for
 * itself (norms, activations, rounding) is done sooner than another is waited for, so that a layer
 * has as many barriers as it has results that all need. */
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "model/work.h"

/* What each thread has of the team. */
typedef struct member {
    const sq_net *net;
    sq_work *w; /* shared */
    sq_lines t;
    int part, parts;
    float *h, *x;      /* [n][hidden], its own copies */
    float *act;        /* [n][intermediate] */
    float *space;      /* of products */
    atomic_int *taken; /* [layers][PRODUCTS][SQ_PRODUCTS], shared */
    int64_t one;       /* floats of attention of one timeline, shared */
} member;

/* Of a layer: the linears that share an input. */
enum { QKV, O, UP, DOWN, PRODUCTS };

static void product(const member *m, int which, const sq_linear *const *l, int count,
                    const float *x, float *const *y, int64_t ldy) {
    const int64_t strides[SQ_PRODUCTS] = {ldy, ldy, ldy};
    for (int i = 0, n; i < count; i += n) {
        sq_product p[SQ_PRODUCTS];
        n = sq_alike_linears(l + i, count - i, y + i, strides, p);
        atomic_int *taken = m->taken + (m->t.layer * PRODUCTS + which) * SQ_PRODUCTS + i;
        sq_matmul_share(p, n, sq_rounding_of(l[i]), x, l[i]->weight.k, m->t.n, m->parts, taken,
                        m->space);
    }
}

static void norm(const member *m, const float *weight) {
    int64_t hid = m->net->config.dims[SQ_D_HIDDEN];
    for (int64_t i = 0; i < m->t.n; i++) {
        sq_kernels_get()->rmsnorm(m->x + i * hid, m->h + i * hid, weight, m->net->config.rms_eps,
                                  hid);
    }
}

/* What all of the team have written to w->x. */
static void add(const member *m) {
    int64_t n = m->t.n * m->net->config.dims[SQ_D_HIDDEN];
    const float *x = m->w->x.data;
    for (int64_t i = 0; i < n; i++) {
        m->h[i] += x[i];
    }
}

static sq_cached timeline(const member *m, int64_t i) {
    const sq_config *c = &m->net->config;
    int64_t ld = c->dims[SQ_D_Q] + 2 * c->dims[SQ_D_KV], half = c->head_dim / 2;
    return (sq_cached){.kv = m->t.kv[i],
                       .layer = m->t.layer,
                       .heads = c->heads,
                       .at = m->t.kv[i]->tokens,
                       .rows = 1,
                       .qkv = m->w->qkv.data + i * ld,
                       .ld = ld,
                       .cos = m->t.cos + i * half,
                       .sin = m->t.sin + i * half,
                       .out = m->w->att.data + i * c->dims[SQ_D_Q]};
}

static void store(const member *m) {
    const sq_config *c = &m->net->config;
    int64_t ld = c->dims[SQ_D_Q] + 2 * c->dims[SQ_D_KV], half = c->head_dim / 2;
    for (int64_t task = m->part; task < m->t.n * 2 * c->kv_heads; task += m->parts) {
        int64_t i = task / (2 * c->kv_heads), head = task / 2 % c->kv_heads;
        sq_store_head(m->net, m->t.kv[i], m->t.layer, (int)(task % 2), head,
                      m->w->qkv.data + i * ld, m->t.cos + i * half, m->t.sin + i * half,
                      m->t.kv[i]->tokens);
    }
}

static void attend(const member *m) {
    for (int64_t i = 0; i < m->t.n; i++) {
        const sq_cached a = timeline(m, i);
        sq_attend_share(&a, m->w->scores.data + i * m->one, m->part, m->parts);
    }
#pragma omp barrier
    for (int64_t i = 0; i < m->t.n; i++) {
        const sq_cached a = timeline(m, i);
        sq_attend_join(&a, m->w->scores.data + i * m->one, m->part, m->parts);
    }
}

static void layer(const member *m) {
    const sq_block *b = &m->net->layers[m->t.layer];
    const sq_linear *const qkv[] = {&b->linears[SQ_L_Q], &b->linears[SQ_L_K], &b->linears[SQ_L_V]};
    const sq_linear *const up[] = {&b->linears[SQ_L_GATE], &b->linears[SQ_L_UP]};
    const sq_linear *const o = &b->linears[SQ_L_O], *const down = &b->linears[SQ_L_DOWN];
    const int64_t *d = m->net->config.dims, inter = d[SQ_D_INTER];
    float *q = m->w->qkv.data, *k = q + d[SQ_D_Q], *x = m->w->x.data;
    norm(m, b->norms[0].weight);
    product(m, QKV, qkv, 3, m->x, (float *[]){q, k, k + d[SQ_D_KV]}, d[SQ_D_Q] + 2 * d[SQ_D_KV]);
#pragma omp barrier
    store(m);
#pragma omp barrier
    attend(m);
#pragma omp barrier
    product(m, O, &o, 1, m->w->att.data, &x, d[SQ_D_HIDDEN]);
#pragma omp barrier
    add(m);
    norm(m, b->norms[1].weight);
    product(m, UP, up, 2, m->x, (float *[]){m->w->gate.data, m->w->up.data}, inter);
#pragma omp barrier
    memcpy(m->act, m->w->gate.data, (size_t)(m->t.n * inter) * sizeof *m->act);
    sq_kernels_get()->silu_mul(m->act, m->w->up.data, m->t.n * inter);
    product(m, DOWN, &down, 1, m->act, &x, d[SQ_D_HIDDEN]);
#pragma omp barrier
    add(m);
}

/* Whether a layer's products are worth waking threads. */
static int worth(const sq_net *n) {
    const int64_t *d = n->config.dims;
    return d[SQ_D_HIDDEN] * (2 * d[SQ_D_Q] + 2 * d[SQ_D_KV] + 3 * d[SQ_D_INTER]) > 1 << 19;
}

/* The most that a share of a linear's product takes. */
static int64_t share_floats(const sq_net *n, sq_work *w, int64_t rows) {
    static const int all[] = {SQ_L_Q, SQ_L_K, SQ_L_V, SQ_L_O, SQ_L_GATE, SQ_L_UP, SQ_L_DOWN};
    for (int l = 0; w->share[0] != rows && l < n->config.layers; l++) {
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            const sq_linear *linear = &n->layers[l].linears[all[i]];
            int64_t f = sq_share_floats(&linear->weight, sq_rounding_of(linear), rows);
            w->share[1] = f > w->share[1] ? f : w->share[1];
        }
    }
    w->share[0] = rows;
    return w->share[1];
}

sq_status sq_team_layers(const sq_net *n, sq_work *w, const sq_lines *t, int64_t keys, float *h,
                         sq_error *err) {
    const int64_t *d = n->config.dims;
    const int64_t line = 16; /* floats of a line of the cache */
    int64_t rows = sq_round_up(t->n * d[SQ_D_HIDDEN], line), space = share_floats(n, w, t->n);
    int64_t act = sq_round_up(t->n * d[SQ_D_INTER], line);
    int64_t own = 2 * rows + act + sq_round_up(space, line);
    int64_t one =
        sq_cached_floats(n->config.heads, n->config.kv_heads, n->config.head_dim, 1, keys);
    sq_status st;
    int64_t counts = n->config.layers * PRODUCTS * SQ_PRODUCTS; /* as large as floats */
    SQ_TRY(sq_scratch_need(&w->team, (size_t)(own * sq_threads() + counts), "a step", err));
    atomic_int *taken = (atomic_int *)(void *)(w->team.data + own * sq_threads());
    for (int64_t i = 0; i < counts; i++) {
        atomic_init(&taken[i], 0);
    }
    if (t->n * one > (int64_t)w->scores.cap) {
        size_t more = (size_t)(t->n * one + t->n * one / 2);
        SQ_TRY(sq_scratch_need(&w->scores, more, "attention scores", err));
    }
#pragma omp parallel num_threads(sq_threads()) if (worth(n))
    {
        float *mine = w->team.data + own * omp_get_thread_num();
        member m = {.net = n,
                    .w = w,
                    .t = *t,
                    .part = omp_get_thread_num(),
                    .parts = omp_get_num_threads(),
                    .h = mine,
                    .x = mine + rows,
                    .act = mine + 2 * rows,
                    .space = mine + 2 * rows + act,
                    .taken = taken,
                    .one = one};
        memcpy(m.h, h, (size_t)(t->n * d[SQ_D_HIDDEN]) * sizeof *h);
#pragma omp barrier
        for (; m.t.layer < n->config.layers; m.t.layer++) {
            layer(&m);
        }
        if (m.part == 0) {
            memcpy(h, m.h, (size_t)(t->n * d[SQ_D_HIDDEN]) * sizeof *h);
        }
    }
    return SQ_OK;
fail:
    return st;
}
