/* Linears that some package quantized: read in its layout, packed into the kernels' own. */
#include <string.h>

#include "base/json.h"
#include "format/qlinear.h"
#include "format/source.h"
#include "model/bind.h"

/* `.weight_packed`, `.weight_scale`, `.weight_shape` and, when asymmetric, `.weight_zero_point`. */
static sq_status packed(sq_binder *b, sq_linear *l, const sq_tensor *words, int64_t n, int64_t k) {
    const sq_tensor *scale = sq_bind_find(b, l->name, ".weight_scale");
    const sq_tensor *zero = sq_bind_find(b, l->name, ".weight_zero_point");
    const sq_tensor *shape = sq_bind_find(b, l->name, ".weight_shape");
    if (sq_qconfig_layout(b->q) != SQ_LAYOUT_CT ||
        !sq_qconfig_scheme(b->q, l->file_name, &l->scheme)) {
        sq_bind_problem(b, "scheme", l->file_name,
                        "packed, but quantization_config does not name it");
        return SQ_OK;
    }
    if (scale == NULL || shape == NULL || (zero == NULL) != (l->scheme.symmetric != 0)) {
        sq_bind_problem(b, "missing", l->file_name,
                        scale == NULL   ? ".weight_scale"
                        : shape == NULL ? ".weight_shape"
                                        : ".weight_zero_point (or it is extra)");
        return SQ_OK;
    }
    int64_t bits = l->scheme.bits, wanted[2] = {0, 0};
    if (shape->dtype == SQ_I64 && shape->bytes == sizeof wanted) {
        memcpy(wanted, shape->data, sizeof wanted);
    }
    if (wanted[0] != n || wanted[1] != k) {
        sq_bind_problem(b, "shape", shape->name, "does not hold the architecture's dimensions");
        return SQ_OK;
    }
    /* The columns stored: padded up to a whole group where the group does not divide. */
    int64_t group = l->scheme.group_size == 0 ? k : l->scheme.group_size;
    int64_t kp = sq_round_up(k, group), groups = kp / group;
    int64_t ws[2] = {n, sq_ct_row_words(kp, (int)bits)}, ss[2] = {n, groups},
            zs[2] = {sq_ct_zero_rows(n, (int)bits), groups};
    if (!sq_bind_check(b, scale, 2, ss)) {
        return SQ_OK;
    }
    if (words->dtype != SQ_I32 || words->rank != 2 || words->shape[0] != ws[0] ||
        words->shape[1] != ws[1] ||
        (zero != NULL && (zero->dtype != SQ_I32 || zero->rank != 2 || zero->shape[0] != zs[0] ||
                          zero->shape[1] != zs[1]))) {
        sq_bind_problem(b, "shape", words->name,
                        "packed codes or zero points do not fit the scheme");
        return SQ_OK;
    }
    sq_status st = SQ_OK;
    size_t cells = (size_t)n * (size_t)groups;
    float *s = sq_alloc_raw(cells, sizeof *s, "scales", b->err);
    uint8_t *z = zero == NULL ? NULL : sq_alloc_raw(cells, 1, "zero points", b->err);
    uint32_t *w = sq_alloc_raw(words->bytes, 1, "packed codes", b->err);
    uint32_t *zw = zero == NULL ? NULL : sq_alloc_raw(zero->bytes, 1, "zero points", b->err);
    if (s == NULL || w == NULL || (zero != NULL && (z == NULL || zw == NULL))) {
        st = SQ_ENOMEM;
    } else {
        sq_to_f32(s, scale->data, scale->dtype, cells);
        memcpy(w, words->data, words->bytes); /* file data may be unaligned */
        if (zero != NULL) {
            memcpy(zw, zero->data, zero->bytes);
            sq_ct_unpack_zeros(z, zw, n, groups, (int)bits);
        }
        st = sq_weight_quantized(&l->weight, (int)bits, w, s, z, n, k, kp, group, b->err);
        l->quantized = 1;
        sq_tensor_release(words);
    }
    sq_free(s);
    sq_free(z);
    sq_free(w);
    sq_free(zw);
    return st;
}

/* Any other layout, by way of plain codes: int-quantized, AutoAWQ, GPTQ. */
static sq_status laid_out(sq_binder *b, sq_linear *l, const sq_qparts *p, int64_t n, int64_t k) {
    sq_error e = {0};
    sq_qlinear q = {0};
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
    size_t words = (size_t)(n * sq_ct_row_words(q.k_padded, q.bits));
    uint32_t *w = sq_alloc_raw(words, sizeof *w, "packed codes", b->err);
    st = w == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK) {
        sq_ct_pack_rows(w, q.codes, n, q.k_padded, q.bits);
        st = sq_weight_quantized(&l->weight, q.bits, w, q.scales, q.zeros, n, k, q.k_padded,
                                 q.group, b->err);
    }
    if (st == SQ_OK && q.columns != NULL) {
        st = sq_weight_order(&l->weight, q.columns, b->err);
    }
    l->quantized = 1;
    sq_tensor_release(p->codes);
    sq_free(w);
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
    if (strcmp(suffix, ".weight_packed") == 0) {
        return packed(b, l, t, n, k);
    }
    if (!sq_qconfig_scheme(b->q, l->file_name, &l->scheme) || (ct && !l->scheme.symmetric)) {
        sq_bind_problem(b, "scheme", l->file_name,
                        ct ? "int8, without a symmetric scheme in quantization_config"
                           : "packed, but quantization_config leaves it out");
        return SQ_OK;
    }
    const char *s[4];
    const sq_tensor *parts[4] = {NULL};
    sq_qparts_suffixes(sq_qconfig_layout(b->q), ct, s);
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
