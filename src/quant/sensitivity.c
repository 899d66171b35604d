#include "quant/sensitivity.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "quant/compare.h"

/* A block of the network, and the reference with this block of the model. */
typedef struct unit {
    char name[48];
    int64_t layer;
    sq_net net;
    sq_comparison sum;
} unit;

static int is_quantized(const sq_block *b) {
    for (int i = 0; i < SQ_V_COUNT; i++) {
        if (b->linears[i].weight.n > 0 && b->linears[i].quantized) {
            return 1;
        }
    }
    return 0;
}

/* *blocks[0..n) copied, with block `at` from `from`. */
static sq_status exchange(sq_arena *a, sq_block **blocks, int64_t n, int64_t at,
                          const sq_block *from, sq_error *err) {
    sq_block *copy = sq_arena_alloc(a, (size_t)n, sizeof *copy, err);
    if (copy == NULL) {
        return SQ_ENOMEM;
    }
    memcpy(copy, *blocks, (size_t)n * sizeof *copy);
    copy[at] = *from;
    *blocks = copy;
    return SQ_OK;
}

/* Units in order of execution: tower, merger, decoder. */
static sq_status list_units(sq_arena *a, const sq_net *model, const sq_net *reference, unit *units,
                            size_t *n, sq_error *err) {
    const sq_config *c = &reference->config;
    int64_t v = c->tower == NULL ? 0 : c->v_layers;
    for (int64_t i = 0; i < v + 1 + c->layers; i++) {
        unit *u = &units[*n];
        const sq_block *b = i < v    ? &model->v_layers[i]
                            : i == v ? &model->merger
                                     : &model->layers[i - v - 1];
        if ((i == v && c->tower == NULL) || !is_quantized(b)) {
            continue;
        }
        *u = (unit){.layer = i <= v ? i : i - v - 1, .net = *reference};
        sq_status st = SQ_OK;
        if (i == v) {
            u->net.merger = *b;
            snprintf(u->name, sizeof u->name, "merger");
        } else {
            st = i < v ? exchange(a, &u->net.v_layers, v, i, b, err)
                       : exchange(a, &u->net.layers, c->layers, i - v - 1, b, err);
            snprintf(u->name, sizeof u->name, "%s layer %lld", i < v ? "vision" : "language",
                     (long long)u->layer);
        }
        if (st != SQ_OK) {
            return st;
        }
        ++*n;
    }
    return SQ_OK;
}

static json_t *listed(const unit *units, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const sq_comparison *c = &units[i].sum;
        double positions = c->positions > 0 ? (double)c->positions : 1;
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:f, s:f}", "name", units[i].name, "layer",
                                        (json_int_t)units[i].layer, "kl", c->kl / positions,
                                        "top1_agreement", (double)c->agree / positions));
    }
    return list;
}

sq_status sq_sensitivity(const sq_net *model, const sq_net *reference, const sq_prompt *prompts,
                         size_t n, const sq_progress *progress, json_t **list, sq_error *err) {
    const sq_config *c = &reference->config;
    sq_arena a = {0};
    size_t n_units = 0;
    float *logits = NULL;
    sq_status st = SQ_OK;
    *list = NULL;
    if (memcmp(c->dims, model->config.dims, sizeof c->dims) != 0 ||
        c->layers != model->config.layers || c->v_layers != model->config.v_layers) {
        return SQ_OK;
    }
    unit *units = sq_arena_alloc(&a, (size_t)(c->layers + c->v_layers + 1), sizeof *units, err);
    if (units == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(list_units(&a, model, reference, units, &n_units, err));
    for (size_t i = 0; n_units > 0 && i < n; i++) {
        SQ_TRY(sq_compare_reference(&logits, reference, &prompts[i], err));
        for (size_t k = 0; k < n_units; k++) {
            SQ_TRY(sq_compare_to(&units[k].sum, &units[k].net, logits, &prompts[i], err));
            if (!sq_progress_tick(progress, "sensitivity", (int64_t)(i * n_units + k + 1),
                                  (int64_t)(n * n_units), units[k].name)) {
                st = sq_fail(err, SQ_ECANCELLED, "stopped");
                goto fail;
            }
        }
        sq_free(logits);
        logits = NULL;
    }
    *list = n_units > 0 ? listed(units, n_units) : NULL;
fail:
    sq_free(logits);
    sq_arena_free(&a);
    return st;
}
