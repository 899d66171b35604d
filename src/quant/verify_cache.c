/* Verification by running: cached equals uncached, and output that is not degenerate. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "quant/verify.h"

enum { CONTINUE = 24 };

/* A generated picture or clip, so that the check needs no data: smooth colours with a bright square
 * that moves. */
static void paint(sq_image *im, int frame) {
    for (int64_t y = 0; y < im->height; y++) {
        for (int64_t x = 0; x < im->width; x++) {
            uint8_t *p = im->rgb + (y * im->width + x) * 3;
            int inside = x > 20 + 8 * frame && x < 60 + 8 * frame && y > 30 && y < 70;
            p[0] = inside ? 220 : (uint8_t)(60 + x);
            p[1] = inside ? 40 : (uint8_t)(80 + y / 2);
            p[2] = inside ? 50 : (uint8_t)(120 - y / 3);
        }
    }
}

/* Puts a picture (frames = 1) or clip into an empty slot of a prompt under construction. */
static sq_status add_media(sq_prompt *p, const sq_verify_state *v, int frames, sq_error *err) {
    const sq_config *c = &v->net->config;
    sq_image im = {.width = 112, .height = 84};
    sq_pixels px = {0}, *all = &p->slots[p->n_slots].pixels;
    sq_status st = SQ_OK;
    im.rgb = sq_alloc((size_t)(im.width * im.height), 3, "a picture", err);
    if (im.rgb == NULL) {
        return SQ_ENOMEM;
    }
    int slots = frames > 1 ? frames / 2 : 1;
    for (int i = 0; st == SQ_OK && i < slots; i++) {
        paint(&im, i);
        st = sq_pixels_image(&px, &v->front.preproc, &im, err);
        size_t n = (size_t)(px.grid_t * px.grid_h * px.grid_w * px.patch_dim);
        if (st == SQ_OK && i == 0) {
            *all = px;
            all->patches = sq_alloc(n * (size_t)slots, sizeof(float), "patches", err);
            st = all->patches == NULL ? SQ_ENOMEM : SQ_OK;
        }
        if (st == SQ_OK) {
            memcpy(all->patches + (size_t)i * n, px.patches, n * sizeof(float));
        }
        sq_pixels_free(&px);
    }
    sq_image_free(&im);
    if (st != SQ_OK) {
        return st;
    }
    all->grid_t *= slots; /* temporal slots; tiles come with one alone */
    all->is_video = frames > 1;
    all->second_per_grid = frames > 1 ? 1.0 : 0;
    sq_slot *slot = &p->slots[p->n_slots++];
    slot->start = (int64_t)p->ids.len;
    slot->count = slots * all->tokens;
    all->tokens = slot->count;
    int32_t id = frames > 1 ? c->video_token : c->image_token;
    for (int64_t i = 0; st == SQ_OK && i < slot->count; i++) {
        st = sq_ids_push(&p->ids, id < 0 ? 0 : id, err);
    }
    return st == SQ_OK ? sq_positions_vision(&p->positions, c, all, err) : st;
}

static sq_status add_text(sq_prompt *p, const sq_verify_state *v, const char *text, sq_error *err) {
    size_t before = p->ids.len;
    sq_status st = sq_tokenizer_encode(v->front.tokenizer, text, strlen(text), 0, 0, &p->ids, err);
    return st == SQ_OK ? sq_positions_text(&p->positions, (int64_t)(p->ids.len - before), err) : st;
}

typedef struct trace {
    float *rows;
    int64_t vocab;
} trace;

static sq_status keep(void *user, int64_t first, int64_t rows, const float *logits, sq_error *err) {
    const trace *t = user;
    (void)err;
    memcpy(t->rows + first * t->vocab, logits, (size_t)(rows * t->vocab) * sizeof *logits);
    return SQ_OK;
}

/* Largest |difference| over the largest |logit|; INFINITY for NaN. *agree counts equal first
 * choices. */
static double distance(const trace *a, const trace *b, int64_t n, double tie, int64_t *differ) {
    double worst = 0, top = 1e-30;
    for (int64_t r = 0; r < n; r++) {
        const float *x = a->rows + r * a->vocab, *y = b->rows + r * a->vocab;
        int64_t i = sq_argmax(x, a->vocab), k = sq_argmax(y, a->vocab);
        for (int64_t c = 0; c < a->vocab; c++) {
            double d = fabs((double)x[c] - (double)y[c]);
            worst = d <= worst ? worst : d == d ? d : INFINITY;
            top = fmax(top, fabs((double)x[c]));
        }
        /* A tie within the rounding error is no disagreement. */
        *differ += i < 0 || k < 0 ||
                   (i != k && fabs((double)x[i] - (double)x[k]) > tie * fabs((double)x[i]));
    }
    return worst / top;
}

static uint32_t next_random(uint32_t *s) { return *s = *s * 1664525u + 1013904223u; }

/* Feeds p in pieces: `chunk` tokens at once, or random ones (0). Each piece is a feed of its own,
 * as turns are. */
static sq_status feed_pieces(const sq_verify_state *v, const sq_prompt *p, int64_t chunk, trace *t,
                             sq_error *err) {
    sq_seq s;
    uint32_t seed = 7;
    int64_t n = (int64_t)p->ids.len;
    sq_prompt part = *p; /* a view: only its length changes */
    sq_status st = sq_seq_open(&s, v->net, err);
    for (int64_t at = 0; st == SQ_OK && at < n;) {
        int64_t step = chunk > 0 ? chunk : 1 + (int64_t)(next_random(&seed) >> 16) % 37;
        int64_t end = at + step < n ? at + step : n;
        part.ids.len = (size_t)end;
        part.positions.n = end;
        part.positions.next = end < n ? p->positions.p[0][end] : p->positions.next;
        st = sq_seq_feed(&s, &part, at, 0, keep, t, err);
        at = end;
    }
    sq_seq_close(&s);
    return st;
}

/* What the decoder's linears are: how many are dense, and the fewest bits that inputs are rounded
 * to (32: none are). */
typedef struct decoder_kinds {
    int dense, bits;
} decoder_kinds;

static decoder_kinds kinds_of(const sq_net *net) {
    const sq_block_rows *rows = &net->config.text->text;
    decoder_kinds k = {0, 32};
    for (int64_t i = 0; i < net->config.layers; i++) {
        for (size_t n = 0; n < rows->n_linears; n++) {
            const sq_linear *l = &net->layers[i].linears[rows->linears[n].role];
            int bits = !l->quantized ? 32 : l->scheme.act_bits == 8 ? 8 : 16;
            k.dense += !l->quantized;
            k.bits = bits < k.bits ? bits : k.bits;
        }
    }
    return k;
}

/* Quantized products and attention give a row the same bits however many rows there are; dense
 * products differ in the last bits of f32, and where inputs or the cache are rounded such a bit may
 * move a value by a whole step, and what follows with it. The head's products end there. */
static double cache_limit(const sq_verify_state *v) {
    static const double stored[] = {
        [SQ_KV_F32] = 1e-4, [SQ_KV_F16] = 4e-3, [SQ_KV_BF16] = 3e-2, [SQ_KV_INT8] = 3e-2};
    decoder_kinds k = kinds_of(v->net);
    double inputs = k.bits == 8 ? 3e-2 : k.bits == 16 ? 1e-3 : 1e-4;
    return k.dense == 0 ? 1e-4 : fmax(inputs, stored[v->kv_type]);
}

static sq_status check_one(sq_verify_state *v, const char *name, const sq_prompt *p,
                           sq_error *err) {
    static const struct {
        const char *how;
        int64_t chunk;
    } ways[] = {{"token by token", 1}, {"random chunks", 0}, {"two turns", -1}};
    int64_t n = (int64_t)p->ids.len, vocab = v->net->config.dims[SQ_D_VOCAB];
    size_t floats = (size_t)n * (size_t)vocab;
    trace whole = {sq_alloc_raw(floats, sizeof(float), "logits", err), vocab};
    trace other = {sq_alloc_raw(floats, sizeof(float), "logits", err), vocab};
    sq_status st =
        whole.rows == NULL || other.rows == NULL ? SQ_ENOMEM : feed_pieces(v, p, n, &whole, err);
    for (size_t i = 0; st == SQ_OK && i < sizeof ways / sizeof *ways; i++) {
        st = feed_pieces(v, p, ways[i].chunk < 0 ? n / 2 : ways[i].chunk, &other, err);
        if (st == SQ_OK) {
            int64_t differ = 0;
            double limit = cache_limit(v);
            double d = distance(&whole, &other, n, limit > 1e-3 ? limit : 1e-3, &differ);
            char label[64];
            snprintf(label, sizeof label, "cache, %s", name);
            sq_verify_line(v, label, d <= limit && differ == 0, d, limit,
                           "%s against the whole prompt of %lld tokens, KV in %s; %lld other first "
                           "choices",
                           ways[i].how, (long long)n, sq_kv_name(v->kv_type), (long long)differ);
        }
    }
    sq_free(whole.rows);
    sq_free(other.rows);
    return st;
}

static sq_status check_case(sq_verify_state *v, const char *name, int pictures, int frames,
                            sq_error *err) {
    sq_prompt p = {0};
    sq_status st;
    p.slots = sq_alloc(3, sizeof *p.slots, "pictures", err);
    if (p.slots == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(add_text(&p, v, "A conversation begins here, with some words of its own. ", err));
    for (int i = 0; i < pictures; i++) {
        SQ_TRY(add_media(&p, v, frames, err));
        SQ_TRY(
            add_text(&p, v, " What is in it? There is one thing in it, I think. And here?", err));
    }
    st = check_one(v, name, &p, err);
fail:
    sq_prompt_free(&p);
    return st;
}

sq_status sq_verify_cache(sq_verify_state *v, sq_error *err) {
    sq_status st = check_case(v, "text", 0, 1, err);
    if (st == SQ_OK && v->net->config.tower != NULL) {
        st = check_case(v, "two images", 2, 1, err);
        if (st == SQ_OK && v->net->config.arch->video_token != NULL) {
            st = check_case(v, "video", 1, 4, err);
        }
    }
    return st;
}

/* ---- degenerate output ---- */

static sq_status continues(const sq_net *net, const sq_prompt *p, int *constant, sq_error *err) {
    sq_seq s;
    sq_ids out = {0};
    sq_status st = sq_seq_open(&s, net, err);
    if (st != SQ_OK) {
        return st;
    }
    SQ_TRY(sq_seq_feed(&s, p, 0, 0, NULL, NULL, err));
    SQ_TRY(sq_seq_greedy(&s, CONTINUE, &out, err));
    *constant = out.len == CONTINUE;
    for (size_t i = 1; i < out.len; i++) {
        *constant &= out.data[i] == out.data[0];
    }
fail:
    sq_free(out.data);
    sq_seq_close(&s);
    return st;
}

sq_status sq_verify_degenerate(sq_verify_state *v, const sq_prompt *p, int *same, sq_error *err) {
    int original = 0;
    *same = 0;
    sq_status st = continues(v->net, p, same, err);
    if (st == SQ_EINTERNAL) { /* logits that are not numbers */
        *same = 1;
        return SQ_OK;
    }
    if (st == SQ_OK && *same && v->source != NULL) {
        st = continues(v->source, p, &original, err);
        *same = !original;
    }
    return st;
}
