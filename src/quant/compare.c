#include "quant/compare.h"

#include <math.h>
#include <string.h>

typedef struct pass {
    sq_comparison *c;
    const sq_prompt *prompt;
    int64_t vocab;
    float *reference; /* [n][vocab], logits; NULL without one */
} pass;

static double log_sum_exp(const float *x, int64_t n) {
    float top = x[sq_argmax(x, n) < 0 ? 0 : sq_argmax(x, n)];
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)(x[i] - top));
    }
    return (double)top + log(sum);
}

static sq_status keep(void *user, int64_t first, int64_t rows, const float *logits, sq_error *err) {
    const pass *p = user;
    (void)err;
    memcpy(p->reference + first * p->vocab, logits, (size_t)(rows * p->vocab) * sizeof *logits);
    return SQ_OK;
}

static void compare_row(pass *p, int64_t at, const float *q) {
    sq_comparison *c = p->c;
    double lq = log_sum_exp(q, p->vocab);
    if (!isfinite(lq)) {
        c->bad++;
        return;
    }
    if (at + 1 < (int64_t)p->prompt->ids.len) {
        c->nll += lq - (double)q[p->prompt->ids.data[at + 1]];
        c->predicted++;
    }
    c->positions++;
    if (p->reference == NULL) {
        return;
    }
    const float *r = p->reference + at * p->vocab;
    double lr = log_sum_exp(r, p->vocab), kl = 0;
    if (at + 1 < (int64_t)p->prompt->ids.len) {
        c->reference_nll += lr - (double)r[p->prompt->ids.data[at + 1]];
    }
    for (int64_t i = 0; i < p->vocab; i++) {
        double a = (double)r[i] - lr;
        kl += exp(a) * (a - ((double)q[i] - lq));
    }
    c->kl += kl > 0 ? kl : 0;
    int32_t mine = sq_argmax(q, p->vocab), its = sq_argmax(r, p->vocab);
    c->agree += mine == its;
    /* Where the reference itself hardly prefers its first choice, another one is no fault. */
    c->near += mine == its || exp((double)r[its] - lr) - exp((double)r[mine] - lr) <= SQ_NEAR_TIE;
}

static sq_status each(void *user, int64_t first, int64_t rows, const float *logits, sq_error *err) {
    pass *p = user;
    (void)err;
    for (int64_t i = 0; i < rows; i++) {
        compare_row(p, first + i, logits + i * p->vocab);
    }
    return SQ_OK;
}

static sq_status feed(const sq_net *net, const sq_prompt *prompt, sq_logits_fn f, pass *p,
                      sq_error *err) {
    sq_seq s;
    sq_status st = sq_seq_open(&s, net, err);
    if (st == SQ_OK) {
        st = sq_seq_feed(&s, prompt, 0, 0, f, p, err);
        sq_seq_close(&s);
    }
    return st;
}

sq_status sq_compare_reference(float **logits, const sq_net *reference, const sq_prompt *prompt,
                               sq_error *err) {
    pass p = {.prompt = prompt, .vocab = reference->config.dims[SQ_D_VOCAB]};
    p.reference =
        sq_alloc_raw(prompt->ids.len, (size_t)p.vocab * sizeof(float), "reference logits", err);
    sq_status st = p.reference == NULL ? SQ_ENOMEM : feed(reference, prompt, keep, &p, err);
    if (st != SQ_OK) {
        sq_free(p.reference);
        p.reference = NULL;
    }
    *logits = p.reference;
    return st;
}

sq_status sq_compare_to(sq_comparison *c, const sq_net *model, const float *logits,
                        const sq_prompt *prompt, sq_error *err) {
    pass p = {.c = c,
              .prompt = prompt,
              .vocab = model->config.dims[SQ_D_VOCAB],
              .reference = (float *)(uintptr_t)logits};
    return feed(model, prompt, each, &p, err);
}

sq_status sq_compare(sq_comparison *c, const sq_net *model, const sq_net *reference,
                     const sq_prompt *prompt, sq_error *err) {
    int64_t vocab = model->config.dims[SQ_D_VOCAB];
    float *logits = NULL;
    sq_status st;
    if (reference != NULL && reference->config.dims[SQ_D_VOCAB] != vocab) {
        return sq_fail(err, SQ_EARG,
                       "the models have different vocabularies; got %lld and %lld tokens",
                       (long long)vocab, (long long)reference->config.dims[SQ_D_VOCAB]);
    }
    if (reference != NULL) {
        SQ_TRY(sq_compare_reference(&logits, reference, prompt, err));
    }
    st = sq_compare_to(c, model, logits, prompt, err);
fail:
    sq_free(logits);
    return st;
}
