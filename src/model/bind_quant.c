/* Linears that some package quantized: read in its layout, packed into the kernels' own. */
#include <string.h>

#include "base/json.h"
#include "format/qlinear.h"
#include "format/source.h"
#include "model/bind.h"

/* Any layout, by way of plain codes. */
static sq_status laid_out(sq_binder *b, sq_linear *l, const sq_qparts *p, int64_t n, int64_t k) {
    sq_error e = {0};
    sq_qlinear q = {0};
    if (sq_packed_take(b->net->packed, l->name, l->scheme.bits, n, k, &l->weight)) {
        l->quantized = 1;
        return SQ_OK;
    }
    sq_status st =
        sq_qlinear_read(&q, p, sq_qconfig_layout(b->q), &l->scheme, n, k, l->file_name, &e);
    if (st == SQ_EFORMAT || st == SQ_EUNSUPPORTED) {
        sq_bind_problem(b, "text", e.text, "");
        return SQ_OK;
    }
    if (st != SQ_OK) {
        *b->err = e;
        return st;
    }
    st = sq_weight_codes(&l->weight, q.bits, q.codes, q.scales, q.zeros, n, k, q.k_padded, q.group,
                         b->err);
    if (st == SQ_OK && q.columns != NULL) {
        st = sq_weight_order(&l->weight, q.columns, b->err);
    }
    l->quantized = 1;
    sq_tensor_release(p->codes);
    sq_qlinear_free(&q);
    return st;
}

/* Codes that lie there under one of the layouts' names; their suffix. */
static const sq_tensor *find_codes(sq_binder *b, const sq_linear *l, const char **suffix) {
    static const char *const suffixes[] = {".weight", ".weight_packed", ".qweight"};
    for (int i = 0; i < 3; i++) {
        const sq_tensor *t = sq_bind_find(b, l->name, suffixes[i]);
        *suffix = suffixes[i];
        if (t != NULL) {
            return i > 0 || t->dtype == SQ_I8 ? t : NULL;
        }
    }
    return NULL;
}

sq_status sq_bind_quantized(sq_binder *b, sq_linear *l, int64_t n, int64_t k, int *found) {
    const char *suffix;
    const sq_tensor *t = find_codes(b, l, &suffix);
    *found = t != NULL;
    if (t == NULL) {
        return SQ_OK;
    }
    l->file_name = sq_bind_stem(b, t, suffix);
    if (l->file_name == NULL) {
        return SQ_ENOMEM;
    }
    int ct = strcmp(suffix, ".qweight") != 0;
    if (b->q == NULL) {
        sq_bind_problem(b, "scheme", l->file_name, "packed, but there is no quantization_config");
        return SQ_OK;
    }
    if (ct != (sq_qconfig_layout(b->q) == SQ_LAYOUT_CT)) {
        sq_bind_problem(b, "scheme", t->name,
                        "this is not how the quant_method of quantization_config stores codes");
        return SQ_OK;
    }
    int bytes = strcmp(suffix, ".weight") == 0;
    if (!sq_qconfig_scheme(b->q, l->file_name, &l->scheme)) {
        sq_bind_problem(b, "scheme", l->file_name,
                        "packed, but quantization_config does not name it");
        return SQ_OK;
    }
    const char *s[4];
    const sq_tensor *parts[4] = {NULL};
    sq_qparts_suffixes(sq_qconfig_layout(b->q), bytes, s);
    for (int i = 0; i < 4; i++) {
        parts[i] = s[i] == NULL ? NULL : sq_bind_find(b, l->name, s[i]);
    }
    sq_qparts p = {parts[0], parts[1], parts[2], parts[3]};
    return laid_out(b, l, &p, n, k);
}

static int has_codes(const sq_checkpoint *c) {
    for (size_t i = 0; i < sq_checkpoint_count(c); i++) {
        const char *name = sq_checkpoint_at(c, i)->name;
        size_t n = strlen(name);
        if (n > 8 && strcmp(name + n - 8, ".qweight") == 0) {
            return 1;
        }
    }
    return 0;
}

sq_status sq_bind_config(sq_binder *b, const char *dir) {
    static const struct {
        const char *file, *method;
    } side[] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}};
    sq_net *n = b->net;
    n->quantization = json_object_get(n->config.json, "quantization_config");
    for (size_t i = 0; i < 2 && !json_is_object(n->quantization) && has_codes(n->ckpt); i++) {
        json_t *v = NULL;
        sq_status st = sq_source_json(dir, side[i].file, &v, b->err);
        if (st != SQ_OK) {
            return st;
        }
        if (json_is_object(v) && sq_json_str(v, "quant_method", NULL) == NULL) {
            json_object_set_new(v, "quant_method", json_string(side[i].method));
        }
        if (v != NULL) {
            json_object_set_new(n->config.json, "quantization_config", v);
            n->quantization = v;
        }
    }
    return json_is_object(n->quantization) ? sq_qconfig_open(&b->q, n->quantization, b->err)
                                           : SQ_OK;
}
