/* One conversation: what the cache shares with the next prompt stays, the rest is fed; then tokens
 * one by one. */
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"

enum { DEFAULT_NEW_TOKENS = 512 };

sq_status sq_conversation_open(sq_conversation **out, const sq_engine *e, sq_error *err) {
    sq_conversation *c = *out = sq_alloc(1, sizeof *c, "a conversation", err);
    if (c == NULL) {
        return SQ_ENOMEM;
    }
    c->engine = e;
    sq_status st = sq_seq_open(&c->seq, e->net, err);
    if (st != SQ_OK) {
        sq_conversation_close(out);
    }
    return st;
}

void sq_conversation_close(sq_conversation **pc) {
    sq_conversation *c = *pc;
    if (c == NULL) {
        return;
    }
    sq_seq_close(&c->seq);
    sq_free(c->slots);
    sq_free(c->answer.data);
    sq_buf_free(&c->text);
    sq_free(c->images);
    sq_free(c);
    *pc = NULL;
}

/* The same id at the same position: after a long video generated tokens stand elsewhere than in a
 * new prompt. */
static int same_token(const sq_seq *s, const sq_prompt *p, int64_t i) {
    const sq_positions *a = &s->positions, *b = &p->positions;
    return s->ids.data[i] == p->ids.data[i] && a->p[0][i] == b->p[0][i] &&
           a->p[1][i] == b->p[1][i] && a->p[2][i] == b->p[2][i];
}

/* Tokens that cache and prompt share: equal ids, equal pictures; never ends inside a picture, and
 * leaves at least one token to feed. */
static int64_t common_prefix(const sq_conversation *c, const sq_prompt *p) {
    int64_t have = c->seq.kv.tokens, n = (int64_t)p->ids.len, same = 0;
    while (same < have && same < n && same_token(&c->seq, p, same)) {
        same++;
    }
    if (same >= n) {
        same = n - 1;
    }
    size_t slots = c->n_slots > p->n_slots ? c->n_slots : p->n_slots;
    for (size_t i = 0; i < slots; i++) {
        int64_t a = i < c->n_slots ? c->slots[i].start : INT64_MAX;
        int64_t b = i < p->n_slots ? p->slots[i].start : INT64_MAX;
        int equal = a == b && c->slots[i].hash == p->slots[i].hash &&
                    c->slots[i].count == p->slots[i].count && a + c->slots[i].count <= same;
        int64_t first = a < b ? a : b;
        if (!equal) {
            return first < same ? first : same;
        }
    }
    return same < 0 ? 0 : same;
}

static sq_status remember_slots(sq_conversation *c, const sq_prompt *p, sq_error *err) {
    sq_cached_slot *s = sq_alloc(p->n_slots + 1, sizeof *s, "pictures", err);
    sq_image_info *info = sq_alloc(p->n_slots + 1, sizeof *info, "pictures", err);
    if (s == NULL || info == NULL) {
        sq_free(s);
        sq_free(info);
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < p->n_slots; i++) {
        const sq_pixels *x = &p->slots[i].pixels;
        s[i] = (sq_cached_slot){p->slots[i].start, p->slots[i].count, p->slots[i].hash};
        info[i] = (sq_image_info){.width = x->width,
                                  .height = x->height,
                                  .resized_width = x->resized_width,
                                  .resized_height = x->resized_height,
                                  .tokens = x->tokens,
                                  .is_video = x->is_video,
                                  .frames = x->frames,
                                  .second_per_grid = x->second_per_grid,
                                  .peak_bytes = sq_vision_peak(&c->engine->net->config, x)};
    }
    sq_free(c->slots);
    sq_free(c->images);
    c->slots = s;
    c->images = info;
    c->n_slots = p->n_slots;
    return SQ_OK;
}

/* Brings the cache to the prompt. *reused is what it kept. */
static sq_status prefill(sq_conversation *c, const sq_prompt *p, int reuse, int64_t *reused,
                         sq_error *err) {
    int64_t keep = reuse ? common_prefix(c, p) : 0;
    if (p->ids.len == 0) {
        return sq_fail(err, SQ_EARG, "the prompt is empty; wanted at least one token");
    }
    sq_seq_truncate(&c->seq, keep);
    /* A slot that is cut away must not be matched again if the feed fails. */
    size_t kept = 0;
    while (kept < c->n_slots && c->slots[kept].start + c->slots[kept].count <= keep) {
        kept++;
    }
    c->n_slots = kept;
    *reused = keep;
    sq_status st = sq_seq_feed(&c->seq, p, keep, 0, NULL, NULL, err);
    return st == SQ_OK ? remember_slots(c, p, err) : st;
}

typedef struct generation {
    sq_conversation *c;
    sq_prompt *prompt;
    sq_sampler sampler;
    sq_detok detok;
    int (*piece)(void *user, const char *text);
    void *user;
    size_t sent; /* bytes of the text that were handed out */
    const char *reason;
} generation;

/* Length of the longest end of text[from..) that could begin a stop string: held back until it is
 * decided. */
static size_t held_back(const sq_sampling *o, const char *text, size_t len) {
    size_t most = 0;
    for (size_t i = 0; i < o->n_stop; i++) {
        size_t n = strlen(o->stop[i]);
        for (size_t k = n < len ? n : len; k > most; k--) {
            if (k < n && memcmp(text + len - k, o->stop[i], k) == 0) {
                most = k;
            }
        }
    }
    return most;
}

/* Cuts the text at the first stop string; returns 1 when there is one. */
static int cut_at_stop(const sq_sampling *o, sq_buf *text) {
    char *first = NULL;
    for (size_t i = 0; i < o->n_stop && text->data != NULL; i++) {
        char *at = o->stop[i][0] == '\0' ? NULL : strstr(text->data, o->stop[i]);
        if (at != NULL && (first == NULL || at < first)) {
            first = at;
        }
    }
    if (first != NULL) {
        text->len = (size_t)(first - text->data);
        *first = '\0';
    }
    return first != NULL;
}

/* Hands out what is new; returns 0 when the generation is to stop. */
static int emit(generation *g, int last) {
    sq_buf *text = &g->c->text;
    const sq_sampling *o = &g->sampler.options;
    int stop = cut_at_stop(o, text);
    size_t end = text->len - (last || stop ? 0 : held_back(o, text->data, text->len));
    if (end > g->sent) {
        int quit = 0;
        if (g->piece != NULL) {
            char saved = text->data[end];
            text->data[end] = '\0';
            quit = g->piece(g->user, text->data + g->sent);
            text->data[end] = saved;
        }
        g->sent = end;
        if (quit) {
            g->reason = "stop";
            return 0;
        }
    }
    if (stop) {
        g->reason = "stop";
    }
    return !stop;
}

/* Feeds the token; without a cache the whole prompt grows by it and is computed anew. */
static sq_status advance(generation *g, int32_t id, sq_error *err) {
    sq_conversation *c = g->c;
    if (!g->sampler.options.no_cache) {
        return sq_seq_push(&c->seq, id, err);
    }
    int64_t reused;
    sq_status st;
    SQ_TRY(sq_prompt_append(g->prompt, id, err));
    SQ_TRY(prefill(c, g->prompt, 0, &reused, err));
fail:
    return st;
}

static sq_status generate(generation *g, int64_t max_new, sq_error *err) {
    sq_conversation *c = g->c;
    const sq_config *cfg = &c->engine->net->config;
    const sq_tokenizer *tok = c->engine->front.tokenizer;
    sq_status st = SQ_OK;
    g->reason = "length";
    for (int64_t i = 0; i < max_new; i++) {
        int32_t id = sq_sampler_next(&g->sampler, c->seq.logits, c->seq.ids.data, c->seq.ids.len);
        if (id < 0) {
            return sq_fail(err, SQ_EINTERNAL,
                           "the logits are not numbers after %lld tokens; the weights are damaged",
                           (long long)c->seq.kv.tokens);
        }
        SQ_TRY(sq_ids_push(&c->answer, id, err));
        if (sq_is_eos(cfg, id)) {
            g->reason = "stop";
            break;
        }
        SQ_TRY(sq_detok_push(tok, &g->detok, id, 1, &c->text, err));
        if (!emit(g, 0)) {
            break;
        }
        if (i + 1 < max_new) {
            st = advance(g, id, err);
            if (st == SQ_ELIMIT) {
                g->reason = "limit";
            }
            SQ_TRY(st);
        }
    }
fail:
    if (sq_detok_finish(tok, &g->detok, 1, &c->text, st == SQ_OK ? err : NULL) == SQ_OK) {
        emit(g, 1);
    }
    return st;
}

static void fill_result(const sq_conversation *c, const generation *g, int64_t prompt,
                        int64_t reused, sq_result *r) {
    r->text = c->text.data == NULL ? "" : c->text.data;
    r->tokens = c->answer.data;
    r->n_tokens = c->answer.len;
    r->prompt_tokens = prompt;
    r->reused_tokens = reused;
    r->finish_reason = g->reason;
    r->kv_tokens = c->seq.kv.tokens;
    r->kv_capacity_tokens = sq_kv_capacity(&c->seq.kv);
    r->kv_bytes = sq_kv_bytes(&c->seq.kv);
    r->images = c->images;
    r->n_images = c->n_slots;
}

sq_status sq_conversation_generate(sq_conversation *c, const sq_input *input,
                                   const sq_sampling *sampling,
                                   int (*piece)(void *user, const char *text), void *user,
                                   sq_result *result, sq_error *err) {
    *result = (sq_result){.finish_reason = "error", .text = ""};
    double start = sq_now();
    static const sq_sampling greedy;
    const sq_sampling *o = sampling == NULL ? &greedy : sampling;
    sq_prompt prompt = {0};
    generation g = {.c = c, .prompt = &prompt, .piece = piece, .user = user, .reason = "error"};
    sq_status st;
    int64_t reused = 0;
    c->answer.len = 0;
    c->text.len = 0;
    if (c->text.data != NULL) {
        c->text.data[0] = '\0';
    }
    const sq_config *cfg = &c->engine->net->config;
    SQ_TRY(sq_sampler_open(&g.sampler, o, cfg->generation, cfg->dims[SQ_D_VOCAB], err));
    SQ_TRY(sq_engine_prompt(c->engine, input, &prompt, err));
    int64_t prompt_tokens = (int64_t)prompt.ids.len;
    double t0 = sq_now();
    c->seq.vision_s = 0;
    SQ_TRY(prefill(c, &prompt, !o->no_cache, &reused, err));
    double t1 = sq_now();
    result->vision_s = c->seq.vision_s;
    result->prefill_s = t1 - t0 - result->vision_s;
    result->first_token_s = t1 - start;
    st = generate(&g, o->max_new_tokens > 0 ? o->max_new_tokens : DEFAULT_NEW_TOKENS, err);
    result->decode_s = sq_now() - t1;
    fill_result(c, &g, prompt_tokens, reused, result);
fail:
    sq_prompt_free(&prompt);
    sq_sampler_close(&g.sampler);
    sq_detok_free(&g.detok);
    return st;
}

sq_status sq_conversation_logits(sq_conversation *c, const sq_prompt *prompt, sq_logits_fn each,
                                 void *user, sq_error *err) {
    sq_seq_truncate(&c->seq, 0);
    c->n_slots = 0;
    return sq_seq_feed(&c->seq, prompt, 0, 0, each, user, err);
}
