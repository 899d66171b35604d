#include "model/sequence.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "model/work.h"

enum { DEFAULT_CHUNK = 512, LOGIT_ROWS = 64 };

sq_status sq_seq_open(sq_seq *out, const sq_net *net, sq_error *err) {
    *out = (sq_seq){.net = net};
    const sq_config *c = &net->config;
    sq_kv_init(&out->kv, c->kv_type, c->layers, c->kv_heads, c->head_dim);
    sq_status st;
    SQ_TRY(sq_work_open(&out->work, net, err));
    out->logits = sq_alloc((size_t)c->dims[SQ_D_VOCAB], sizeof *out->logits, "logits", err);
    st = out->logits == NULL ? SQ_ENOMEM : SQ_OK;
fail:
    if (st != SQ_OK) {
        sq_seq_close(out);
    }
    return st;
}

void sq_seq_close(sq_seq *s) {
    sq_work_close(&s->work);
    sq_kv_free(&s->kv);
    sq_free(s->ids.data);
    sq_positions_free(&s->positions);
    sq_free(s->logits);
    sq_free(s->h);
    *s = (sq_seq){0};
}

static sq_status check_room(sq_seq *s, int64_t more, sq_error *err) {
    const sq_config *c = &s->net->config;
    if (s->kv.tokens + more > c->max_positions) {
        sq_fail(
            err, SQ_ELIMIT,
            "the conversation reaches the model's position limit; got %lld tokens, wanted at most "
            "%lld",
            (long long)(s->kv.tokens + more), (long long)c->max_positions);
        sq_hint(err, "start a new conversation, or shorten this one");
        return SQ_ELIMIT;
    }
    return sq_kv_reserve(&s->kv, more, err);
}

static sq_status need_rows(sq_seq *s, int64_t rows, sq_error *err) {
    if (rows <= s->h_cap) {
        return SQ_OK;
    }
    float *h = sq_alloc((size_t)rows, (size_t)s->net->config.dims[SQ_D_HIDDEN] * sizeof *h,
                        "activations", err);
    if (h == NULL) {
        return SQ_ENOMEM;
    }
    sq_free(s->h);
    s->h = h;
    s->h_cap = rows;
    return SQ_OK;
}

/* The tower's output for the slot that covers token ranges of a feed; one slot is held at a time.
 */
typedef struct features {
    int64_t slot; /* -1: none */
    float *rows;
} features;

static sq_status splice(sq_seq *s, const sq_prompt *p, features *f, int64_t at, int64_t count,
                        sq_error *err) {
    int64_t width = s->net->config.dims[SQ_D_HIDDEN];
    for (size_t i = 0; i < p->n_slots; i++) {
        const sq_slot *slot = &p->slots[i];
        int64_t lo = slot->start > at ? slot->start : at, end = slot->start + slot->count;
        int64_t hi = end < at + count ? end : at + count;
        if (lo >= hi) {
            continue;
        }
        if (f->slot != (int64_t)i) {
            sq_free(f->rows);
            f->slot = -1;
            f->rows =
                sq_alloc_raw((size_t)(slot->count * width), sizeof *f->rows, "image features", err);
            if (f->rows == NULL) {
                return SQ_ENOMEM;
            }
            const sq_pixels *px = &slot->pixels;
            double t0 = sq_now();
            sq_status st = sq_vision_forward(s->net, s->work, px, f->rows, NULL, err);
            s->vision_s += sq_now() - t0;
            if (st != SQ_OK) {
                return st;
            }
            f->slot = (int64_t)i;
        }
        memcpy(s->h + (lo - at) * width, f->rows + (lo - slot->start) * width,
               (size_t)((hi - lo) * width) * sizeof *s->h);
    }
    return SQ_OK;
}

static sq_status give_logits(sq_seq *s, int64_t first, int64_t rows, sq_logits_fn each, void *user,
                             sq_error *err) {
    int64_t width = s->net->config.dims[SQ_D_HIDDEN], vocab = s->net->config.dims[SQ_D_VOCAB];
    float *buf = sq_alloc_raw((size_t)LOGIT_ROWS, (size_t)vocab * sizeof *buf, "logits", err);
    sq_status st = buf == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t i = 0; st == SQ_OK && i < rows; i += LOGIT_ROWS) {
        int64_t n = rows - i < LOGIT_ROWS ? rows - i : LOGIT_ROWS;
        st = sq_logits(s->net, s->work, s->h + i * width, n, buf, err);
        if (st == SQ_OK) {
            st = each(user, first + i, n, buf, err);
        }
    }
    sq_free(buf);
    return st;
}

static sq_status remember(sq_seq *s, const int32_t *ids, int64_t n, sq_error *err) {
    if (s->ids.len + (size_t)n > s->ids.cap) {
        size_t cap = 2 * (s->ids.len + (size_t)n) + 256;
        void *p = s->ids.data;
        sq_status st = sq_grow(&p, s->ids.len * sizeof *ids, cap, sizeof *ids, "tokens", err);
        if (st != SQ_OK) {
            return st;
        }
        s->ids.data = p;
        s->ids.cap = cap;
    }
    memcpy(s->ids.data + s->ids.len, ids, (size_t)n * sizeof *ids);
    s->ids.len += (size_t)n;
    return SQ_OK;
}

/* Rows are scattered over a matrix that is nothing else's: their pages, and those that the system
 * maps around each, would add up to all of it in a long conversation. */
static void release_embeddings(const sq_net *n) {
    if (n->embed.file != NULL && n->head.weight.data != n->embed.weight.data) {
        sq_tensor_release(n->embed.file);
    }
}

static sq_status feed_chunk(sq_seq *s, const sq_prompt *p, features *f, int64_t at, int64_t n,
                            sq_logits_fn each, void *user, sq_error *err) {
    int64_t width = s->net->config.dims[SQ_D_HIDDEN];
    const int32_t *pos[3] = {p->positions.p[0] + at, p->positions.p[1] + at,
                             p->positions.p[2] + at};
    sq_embed(s->net, p->ids.data + at, n, s->h);
    sq_status st;
    SQ_TRY(splice(s, p, f, at, n, err));
    int last = at + n == (int64_t)p->ids.len;
    SQ_TRY(sq_text_forward(s->net, s->work, &s->kv, pos, s->h, n, each != NULL ? n : last, err));
    if (each != NULL) {
        SQ_TRY(give_logits(s, at, n, each, user, err));
    }
    release_embeddings(s->net);
    if (last) {
        SQ_TRY(sq_logits(s->net, s->work, s->h + (n - 1) * width, 1, s->logits, err));
    }
    return SQ_OK;
fail:
    return st;
}

sq_status sq_seq_feed(sq_seq *s, const sq_prompt *p, int64_t from, int64_t chunk, sq_logits_fn each,
                      void *user, sq_error *err) {
    int64_t n = (int64_t)p->ids.len, before = s->kv.tokens;
    if (from != before || from >= n) {
        return sq_fail(err, SQ_EARG,
                       "nothing to feed; got a prompt of %lld tokens with %lld of %lld in "
                       "the cache",
                       (long long)n, (long long)from, (long long)before);
    }
    chunk = chunk > 0 ? chunk : DEFAULT_CHUNK;
    features f = {.slot = -1};
    sq_status st;
    SQ_TRY(check_room(s, n - from, err));
    SQ_TRY(need_rows(s, n - from < chunk ? n - from : chunk, err));
    for (int64_t at = from; at < n; at += chunk) {
        SQ_TRY(feed_chunk(s, p, &f, at, n - at < chunk ? n - at : chunk, each, user, err));
    }
    SQ_TRY(sq_positions_copy(&s->positions, &p->positions, from, n - from, err));
    SQ_TRY(remember(s, p->ids.data + from, n - from, err));
fail:
    sq_free(f.rows);
    if (st != SQ_OK) {
        sq_seq_truncate(s, before);
    }
    return st;
}

/* Logits of the rows of s[0]->h, each to its own sequence. */
static sq_status step_logits(sq_seq *const *s, int64_t n, sq_error *err) {
    const sq_net *net = s[0]->net;
    sq_scratch *all = &s[0]->work->logits;
    size_t vocab = (size_t)net->config.dims[SQ_D_VOCAB];
    if (n == 1) {
        return sq_logits(net, s[0]->work, s[0]->h, 1, s[0]->logits, err);
    }
    sq_status st = sq_scratch_need(all, (size_t)n * vocab, "logits", err);
    st = st == SQ_OK ? sq_logits(net, s[0]->work, s[0]->h, n, all->data, err) : st;
    for (int64_t i = 0; st == SQ_OK && i < n; i++) {
        memcpy(s[i]->logits, all->data + (size_t)i * vocab, vocab * sizeof(float));
    }
    return st;
}

/* At most SQ_CHUNK sequences; what lies behind `before` is the caller's to forget on an error. */
static sq_status step(sq_seq *const *s, const int32_t *ids, int64_t n, sq_error *err) {
    int32_t p[3][SQ_CHUNK];
    const int32_t *const pos[3] = {p[0], p[1], p[2]};
    sq_kv *kv[SQ_CHUNK];
    sq_status st;
    SQ_TRY(need_rows(s[0], n, err));
    for (int64_t i = 0; i < n; i++) {
        int64_t at = s[i]->kv.tokens;
        SQ_TRY(check_room(s[i], 1, err));
        SQ_TRY(sq_positions_text(&s[i]->positions, 1, err));
        for (int axis = 0; axis < 3; axis++) {
            p[axis][i] = s[i]->positions.p[axis][at];
        }
        kv[i] = &s[i]->kv;
    }
    sq_embed(s[0]->net, ids, n, s[0]->h);
    SQ_TRY(sq_text_step(s[0]->net, s[0]->work, kv, n, pos, s[0]->h, err));
    SQ_TRY(step_logits(s, n, err));
    for (int64_t i = 0; i < n; i++) {
        SQ_TRY(remember(s[i], ids + i, 1, err));
        if (s[i]->kv.tokens % DEFAULT_CHUNK == 0) {
            release_embeddings(s[i]->net);
        }
    }
fail:
    return st;
}

sq_status sq_seq_push_each(sq_seq *const *s, const int32_t *ids, int64_t n, sq_error *err) {
    sq_status st = SQ_OK;
    int64_t *before = sq_alloc((size_t)n, sizeof *before, "sequences", err);
    for (int64_t i = 0; before != NULL && i < n; i++) {
        before[i] = s[i]->kv.tokens;
        if (s[i]->net != s[0]->net) {
            st = sq_fail(err, SQ_EARG, "sequences of different models in one step");
        }
    }
    st = before == NULL ? SQ_ENOMEM : st;
    for (int64_t i = 0; st == SQ_OK && i < n; i += SQ_CHUNK) {
        st = step(s + i, ids + i, n - i < SQ_CHUNK ? n - i : SQ_CHUNK, err);
    }
    for (int64_t i = 0; before != NULL && st != SQ_OK && i < n; i++) {
        sq_seq_truncate(s[i], before[i]);
    }
    sq_free(before);
    return st;
}

sq_status sq_seq_push(sq_seq *s, int32_t id, sq_error *err) {
    int64_t before = s->kv.tokens;
    sq_status st = step(&s, &id, 1, err);
    if (st != SQ_OK) {
        sq_seq_truncate(s, before);
    }
    return st;
}

void sq_seq_truncate(sq_seq *s, int64_t n) {
    sq_kv_truncate(&s->kv, n);
    sq_positions_truncate(&s->positions, n);
    if ((size_t)n < s->ids.len) {
        s->ids.len = (size_t)n;
    }
}

int32_t sq_argmax(const float *x, int64_t n) {
    int32_t best = -1;
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > top || (best < 0 && x[i] == top)) {
            top = x[i];
            best = (int32_t)i;
        }
    }
    return best;
}

int sq_is_eos(const sq_config *c, int32_t id) {
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos[i] == id) {
            return 1;
        }
    }
    return 0;
}

sq_status sq_seq_greedy(sq_seq *s, int64_t max_new, sq_ids *out, sq_error *err) {
    for (int64_t i = 0; i < max_new; i++) {
        int32_t id = sq_argmax(s->logits, s->net->config.dims[SQ_D_VOCAB]);
        if (id < 0) {
            return sq_fail(err, SQ_EINTERNAL, "the logits are not numbers after %lld tokens",
                           (long long)s->kv.tokens);
        }
        if (sq_is_eos(&s->net->config, id)) {
            break;
        }
        sq_status st = sq_ids_push(out, id, err);
        if (st != SQ_OK) {
            return st;
        }
        if (i + 1 < max_new) {
            st = sq_seq_push(s, id, err);
            if (st != SQ_OK) {
                return st;
            }
        }
    }
    return SQ_OK;
}
