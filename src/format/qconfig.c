#include "format/qconfig.h"

#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/json.h"
#include "base/mem.h"

typedef struct rule {
    const char *part; /* awq: part of a name; NULL for a pattern */
    pcre2_code *code; /* gptq */
    int skip;
    sq_ct_scheme scheme;
} rule;

struct sq_qconfig {
    sq_layout layout;
    sq_ct_reader *ct; /* compressed-tensors */
    sq_ct_scheme base;
    rule *rules; /* in order; the first that matches counts */
    size_t n_rules;
    sq_arena arena;
};

/* The first of two keys that is there. */
static const json_t *either(const json_t *q, const char *a, const char *b) {
    const json_t *v = json_object_get(q, a);
    return v != NULL && !json_is_null(v) ? v : json_object_get(q, b);
}

/* bits and group_size, of the config or of an override: what is absent stays. */
static sq_status read_scheme(const json_t *q, const char *where, sq_ct_scheme *s, sq_error *err) {
    const json_t *bits = either(q, "bits", "w_bit"),
                 *group = either(q, "group_size", "q_group_size");
    if (json_is_integer(bits)) {
        json_int_t v = json_integer_value(bits);
        if (v != 4 && v != 8) {
            return sq_fail(err, SQ_EUNSUPPORTED,
                           "quantization_config: %s has %lld bits; wanted 4 or 8", where,
                           (long long)v);
        }
        s->bits = (int)v;
    }
    if (json_is_integer(group)) {
        json_int_t v = json_integer_value(group);
        if (v != -1 && (v < 1 || v > 1 << 24)) {
            return sq_fail(err, SQ_EFORMAT,
                           "quantization_config: %s has group_size %lld; wanted -1 or 1..2^24",
                           where, (long long)v);
        }
        s->group_size = v == -1 ? 0 : (int)v;
    }
    s->symmetric = sq_json_bool(q, "sym", s->symmetric);
    return SQ_OK;
}

static sq_status make_rules(sq_qconfig *c, size_t n, sq_error *err) {
    c->rules = sq_arena_alloc(&c->arena, n + 1, sizeof *c->rules, err);
    return c->rules == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status read_awq(sq_qconfig *c, const json_t *q, sq_error *err) {
    const json_t *version = either(q, "version", "format"), *v,
                 *skip = json_object_get(q, "modules_to_not_convert");
    const char *name = json_is_string(version) ? json_string_value(version) : "gemm";
    size_t i;
    sq_status st;
    if (strcmp(name, "gemm") == 0 || strcmp(name, "GEMM") == 0) {
        c->layout = SQ_LAYOUT_AWQ_GEMM;
    } else if (strcmp(name, "gemv") == 0 || strcmp(name, "GEMV") == 0) {
        c->layout = SQ_LAYOUT_AWQ_GEMV;
    } else {
        return sq_fail(
            err, SQ_EUNSUPPORTED,
            "quantization_config: awq version '%s' is not supported; wanted gemm or gemv", name);
    }
    if (!sq_json_bool(q, "zero_point", 1)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: awq without zero points (zero_point false) is not a "
                       "layout of %s; wanted zero_point true",
                       name);
    }
    SQ_TRY(read_scheme(q, "awq", &c->base, err));
    SQ_TRY(make_rules(c, json_array_size(skip), err));
    json_array_foreach((json_t *)(uintptr_t)skip, i, v) {
        if (!json_is_string(v)) {
            return sq_fail(err, SQ_EFORMAT,
                           "quantization_config: modules_to_not_convert holds what is no string");
        }
        rule *r = &c->rules[c->n_rules++];
        r->skip = 1;
        r->part = sq_arena_strdup(&c->arena, json_string_value(v), err);
        if (r->part == NULL) {
            return SQ_ENOMEM;
        }
    }
fail:
    return st;
}

static sq_status read_dynamic(sq_qconfig *c, const char *key, const json_t *v, sq_error *err) {
    rule *r = &c->rules[c->n_rules];
    int code;
    PCRE2_SIZE at;
    *r = (rule){.scheme = c->base, .skip = strncmp(key, "-:", 2) == 0};
    const char *text = r->skip || strncmp(key, "+:", 2) == 0 ? key + 2 : key;
    r->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_UTF,
                            &code, &at, NULL);
    if (r->code == NULL) {
        return sq_fail(err, SQ_EFORMAT, "quantization_config: bad pattern '%s' of dynamic at %zu",
                       key, (size_t)at);
    }
    c->n_rules++;
    return r->skip ? SQ_OK : read_scheme(v, key, &r->scheme, err);
}

static sq_status read_gptq(sq_qconfig *c, const json_t *q, sq_error *err) {
    const json_t *format = either(q, "checkpoint_format", "format"),
                 *dynamic = json_object_get(q, "dynamic");
    const char *name = json_is_string(format) ? json_string_value(format) : "gptq", *key;
    json_t *v;
    sq_status st;
    if (strcmp(name, "gptq") != 0 && strcmp(name, "gptq_v2") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: the checkpoint_format '%s' is not supported; wanted "
                       "gptq or gptq_v2",
                       name);
    }
    c->layout = name[4] == '\0' ? SQ_LAYOUT_GPTQ : SQ_LAYOUT_GPTQ_V2;
    c->base.symmetric = 1;
    SQ_TRY(read_scheme(q, "gptq", &c->base, err));
    SQ_TRY(make_rules(c, json_object_size(dynamic), err));
    json_object_foreach((json_t *)(uintptr_t)dynamic, key, v) {
        SQ_TRY(read_dynamic(c, key, v, err));
    }
fail:
    return st;
}

static sq_status read_config(sq_qconfig *c, const json_t *q, sq_error *err) {
    const char *method = sq_json_str(q, "quant_method", "");
    c->base = (sq_ct_scheme){.bits = 4, .group_size = 128};
    if (strcmp(method, "awq") == 0) {
        return read_awq(c, q, err);
    }
    if (strcmp(method, "gptq") == 0) {
        return read_gptq(c, q, err);
    }
    c->layout = SQ_LAYOUT_CT;
    if (strcmp(method, "compressed-tensors") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: quant_method '%s' is not supported; wanted "
                       "compressed-tensors, awq or gptq",
                       method);
    }
    return sq_ct_reader_open(&c->ct, q, err);
}

sq_status sq_qconfig_open(sq_qconfig **out, const json_t *quantization_config, sq_error *err) {
    *out = NULL;
    sq_qconfig *c = sq_alloc(1, sizeof *c, "a quantization config", err);
    if (c == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = read_config(c, quantization_config, err);
    if (st != SQ_OK) {
        sq_qconfig_close(&c);
    }
    *out = c;
    return st;
}

void sq_qconfig_close(sq_qconfig **pc) {
    sq_qconfig *c = *pc;
    if (c == NULL) {
        return;
    }
    for (size_t i = 0; i < c->n_rules; i++) {
        pcre2_code_free(c->rules[i].code);
    }
    sq_ct_reader_close(&c->ct);
    sq_arena_free(&c->arena);
    sq_free(c);
    *pc = NULL;
}

sq_layout sq_qconfig_layout(const sq_qconfig *q) { return q->layout; }

static int matches(const rule *r, const char *module) {
    if (r->part != NULL) {
        return strstr(module, r->part) != NULL;
    }
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(r->code, NULL);
    int ok =
        m != NULL && pcre2_match(r->code, (PCRE2_SPTR)module, strlen(module), 0, 0, m, NULL) >= 0;
    pcre2_match_data_free(m);
    return ok;
}

int sq_qconfig_scheme(const sq_qconfig *q, const char *module, sq_ct_scheme *out) {
    if (q->layout == SQ_LAYOUT_CT) {
        return sq_ct_reader_scheme(q->ct, module, out);
    }
    *out = q->base;
    for (size_t i = 0; i < q->n_rules; i++) {
        if (matches(&q->rules[i], module)) {
            *out = q->rules[i].scheme;
            return !q->rules[i].skip;
        }
    }
    return 1;
}

/* ---- writing ---- */

json_t *sq_awq_config(sq_layout layout, int group_size, char *const *skip, size_t n_skip) {
    json_t *list = json_array();
    for (size_t i = 0; i < n_skip; i++) {
        json_array_append_new(list, json_string(skip[i]));
    }
    return json_pack("{s:s, s:b, s:i, s:i, s:s, s:o}", "quant_method", "awq", "zero_point", 1,
                     "group_size", group_size == 0 ? -1 : group_size, "bits", 4, "version",
                     layout == SQ_LAYOUT_AWQ_GEMV ? "gemv" : "gemm", "modules_to_not_convert",
                     list);
}

json_t *sq_gptq_config(sq_layout layout, const sq_ct_scheme *base, const sq_gptq_rule *rules,
                       size_t n_rules, double damp, const char *quantizer) {
    json_t *dynamic = n_rules == 0 ? json_null() : json_object();
    const char *format = layout == SQ_LAYOUT_GPTQ ? "gptq" : "gptq_v2";
    for (size_t i = 0; i < n_rules; i++) {
        const sq_gptq_rule *r = &rules[i];
        char key[600];
        snprintf(key, sizeof key, "%s%s", r->skip ? "-:" : "+:", r->pattern);
        json_object_set_new(dynamic, key,
                            r->skip
                                ? json_object()
                                : json_pack("{s:i, s:i, s:b}", "bits", r->scheme.bits, "group_size",
                                            r->scheme.group_size == 0 ? -1 : r->scheme.group_size,
                                            "sym", r->scheme.symmetric));
    }
    return json_pack("{s:i, s:o, s:i, s:b, s:b, s:b, s:s, s:s, s:s, s:{s:[s], s:f, s:b, s:b, s:f}}",
                     "bits", base->bits, "dynamic", dynamic, "group_size",
                     base->group_size == 0 ? -1 : base->group_size, "desc_act", 0, "sym",
                     base->symmetric, "lm_head", 0, "quant_method", "gptq", "checkpoint_format",
                     format, "pack_dtype", "int32", "meta", "quantizer", quantizer, "damp_percent",
                     damp, "static_groups", 0, "true_sequential", 0, "mse", 0.0);
}
