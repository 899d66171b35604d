#include "engine/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/sequence.h"

struct sq_candidate {
    float p;
    int32_t id;
};

/* What is not given comes from generation_config.json. */
static void fill_in(sq_sampling *o, const json_t *dflt) {
    o->top_p = o->top_p == 0 ? sq_json_num(dflt, "top_p", 0) : o->top_p;
    o->min_p = o->min_p == 0 ? sq_json_num(dflt, "min_p", 0) : o->min_p;
    o->top_k = o->top_k == 0 ? sq_json_int(dflt, "top_k", 0) : o->top_k;
    if (o->repetition_penalty == 0) {
        o->repetition_penalty = sq_json_num(dflt, "repetition_penalty", 1);
    }
    o->top_k = o->top_k < 0 ? 0 : o->top_k;
    o->min_p = o->min_p < 0 ? 0 : o->min_p;
}

sq_status sq_sampler_open(sq_sampler *s, const sq_sampling *options, const json_t *dflt,
                          int64_t vocab, sq_error *err) {
    *s = (sq_sampler){.options = *options, .state = options->seed, .vocab = vocab};
    sq_sampling *o = &s->options;
    fill_in(o, dflt);
    if (!(o->temperature >= 0 && o->temperature <= 100)) {
        return sq_fail(err, SQ_EARG, "temperature out of range; got %g, wanted 0..100",
                       o->temperature);
    }
    if (!(o->top_p >= 0 && o->top_p <= 1) || !(o->min_p >= 0 && o->min_p <= 1)) {
        return sq_fail(err, SQ_EARG, "top-p or min-p out of range; got %g and %g, wanted 0..1",
                       o->top_p, o->min_p);
    }
    if (o->top_k < 0 || !(o->repetition_penalty >= 0)) {
        return sq_fail(err, SQ_EARG, "top-k or repetition penalty out of range; got %lld and %g",
                       (long long)o->top_k, o->repetition_penalty);
    }
    s->candidates = sq_alloc((size_t)vocab, sizeof *s->candidates, "sampling", err);
    s->scores = sq_alloc((size_t)vocab, sizeof *s->scores, "sampling", err);
    if (s->candidates == NULL || s->scores == NULL) {
        sq_sampler_close(s);
        return SQ_ENOMEM;
    }
    return SQ_OK;
}

void sq_sampler_close(sq_sampler *s) {
    sq_free(s->candidates);
    sq_free(s->scores);
    *s = (sq_sampler){0};
}

/* splitmix64 (Steele, Lea, Flood 2014) to a double in [0, 1). */
static double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int by_p(const void *a, const void *b) {
    const struct sq_candidate *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}

/* Each token of the history once: positive scores are divided, negative multiplied (Keskar et al.
 * 2019). */
static void penalize(sq_sampler *s, const int32_t *history, size_t n) {
    float penalty = (float)s->options.repetition_penalty;
    if (penalty == 0.0f || penalty == 1.0f) {
        return;
    }
    unsigned char *seen = (unsigned char *)s->candidates; /* free until the candidates are filled */
    memset(seen, 0, (size_t)s->vocab);
    for (size_t i = 0; i < n; i++) {
        if (history[i] >= 0 && history[i] < s->vocab && !seen[history[i]]) {
            seen[history[i]] = 1;
            float *x = &s->scores[history[i]];
            *x = *x > 0 ? *x / penalty : *x * penalty;
        }
    }
}

int32_t sq_sampler_next(sq_sampler *s, const float *logits, const int32_t *history, size_t n) {
    const sq_sampling *o = &s->options;
    memcpy(s->scores, logits, (size_t)s->vocab * sizeof *logits);
    penalize(s, history, n);
    int32_t best = sq_argmax(s->scores, s->vocab);
    if (o->temperature == 0.0 || best < 0) {
        return best;
    }
    struct sq_candidate *c = s->candidates;
    float top = s->scores[best];
    for (int64_t i = 0; i < s->vocab; i++) {
        float p = expf((s->scores[i] - top) / (float)o->temperature);
        c[i] = (struct sq_candidate){p == p ? p : 0.0f, (int32_t)i};
    }
    qsort(c, (size_t)s->vocab, sizeof *c, by_p);
    int64_t keep = o->top_k > 0 && o->top_k < s->vocab ? o->top_k : s->vocab;
    double total = 0;
    for (int64_t i = 0; i < keep; i++) {
        total += (double)c[i].p;
    }
    if (o->top_p > 0 && o->top_p < 1) {
        double sum = 0;
        int64_t i = 0;
        while (i < keep && sum < o->top_p * total) {
            sum += (double)c[i++].p;
        }
        keep = i;
    }
    while (keep > 1 && (double)c[keep - 1].p < o->min_p) { /* c[0].p is 1 */
        keep--;
    }
    total = 0;
    for (int64_t i = 0; i < keep; i++) {
        total += (double)c[i].p;
    }
    double u = uniform(&s->state) * total;
    for (int64_t i = 0; i < keep; i++) {
        u -= (double)c[i].p;
        if (u < 0) {
            return c[i].id;
        }
    }
    return c[0].id;
}
