/* compressed-tensors: packing (compressors/pack_quantized), and quantization_config. */
#include "format/ct.h"

#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/json.h"
#include "base/mem.h"

int64_t sq_ct_row_words(int64_t k, int bits) { return sq_ceil_div(k * bits, 32); }

int64_t sq_ct_zero_rows(int64_t n, int bits) { return sq_ceil_div(n * bits, 32); }

void sq_ct_pack_rows(uint32_t *words, const uint8_t *codes, int64_t n, int64_t k, int bits) {
    int64_t per = 32 / bits, row = sq_ct_row_words(k, bits);
#pragma omp parallel for schedule(static) if (n * k > 65536)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t w = 0; w < row; w++) {
            uint32_t v = 0;
            for (int64_t i = 0; i < per && w * per + i < k; i++) {
                v |= (uint32_t)codes[r * k + w * per + i] << (i * bits);
            }
            words[r * row + w] = v;
        }
    }
}

void sq_ct_unpack_rows(uint8_t *codes, const uint32_t *words, int64_t n, int64_t k, int bits) {
    int64_t per = 32 / bits, row = sq_ct_row_words(k, bits);
    uint32_t mask = (1u << bits) - 1;
#pragma omp parallel for schedule(static) if (n * k > 65536)
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < k; c++) {
            codes[r * k + c] = (uint8_t)(words[r * row + c / per] >> (c % per * bits) & mask);
        }
    }
}

void sq_ct_pack_zeros(uint32_t *words, const uint8_t *zeros, int64_t n, int64_t groups, int bits) {
    int64_t per = 32 / bits, rows = sq_ct_zero_rows(n, bits);
    for (int64_t w = 0; w < rows; w++) {
        for (int64_t g = 0; g < groups; g++) {
            uint32_t v = 0;
            for (int64_t i = 0; i < per && w * per + i < n; i++) {
                v |= (uint32_t)zeros[(w * per + i) * groups + g] << (i * bits);
            }
            words[w * groups + g] = v;
        }
    }
}

void sq_ct_unpack_zeros(uint8_t *zeros, const uint32_t *words, int64_t n, int64_t groups,
                        int bits) {
    int64_t per = 32 / bits;
    uint32_t mask = (1u << bits) - 1;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t g = 0; g < groups; g++) {
            zeros[r * groups + g] =
                (uint8_t)(words[r / per * groups + g] >> (r % per * bits) & mask);
        }
    }
}

/* ---- writing the config ---- */

static json_t *weights_json(const sq_ct_scheme *s) {
    json_t *w =
        json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", s->bits, "type", "int", "symmetric",
                  s->symmetric, "strategy", s->group_size == 0 ? "channel" : "group", "dynamic", 0);
    if (w != NULL && s->group_size != 0) {
        json_object_set_new(w, "group_size", json_integer(s->group_size));
    }
    return w;
}

static json_t *strings(char *const *list, size_t n) {
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(a, json_string(list[i]));
    }
    return a;
}

json_t *sq_ct_config(const sq_ct_scheme *schemes, char *const *const *targets,
                     const size_t *n_targets, size_t n_schemes, char *const *ignore,
                     size_t n_ignore) {
    json_t *groups = json_object();
    int dynamic = 0;
    for (size_t i = 0; i < n_schemes; i++) {
        dynamic += schemes[i].act_bits != 0;
    }
    int mixed = dynamic > 0 && (size_t)dynamic < n_schemes;
    for (size_t i = 0; i < n_schemes; i++) {
        char name[32];
        snprintf(name, sizeof name, "group_%zu", i);
        json_t *act = json_null();
        if (schemes[i].act_bits != 0) {
            act = json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", schemes[i].act_bits, "type",
                            "int", "symmetric", schemes[i].act_symmetric, "strategy", "token",
                            "dynamic", 1);
        }
        json_object_set_new(groups, name,
                            json_pack("{s:o, s:o, s:o, s:n}", "targets",
                                      strings(targets[i], n_targets[i]), "weights",
                                      weights_json(&schemes[i]), "input_activations", act,
                                      "output_activations"));
        if (mixed) {
            json_object_set_new(
                json_object_get(groups, name), "format",
                json_string(schemes[i].act_bits != 0 ? "int-quantized" : "pack-quantized"));
        }
    }
    const char *format = mixed         ? "mixed-precision"
                         : dynamic > 0 ? "int-quantized"
                                       : "pack-quantized";
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "quant_method", "compressed-tensors", "format",
                     format, "quantization_status", "compressed", "ignore",
                     strings(ignore, n_ignore), "config_groups", groups);
}

/* ---- reading it ---- */

typedef struct pattern {
    const char *text; /* exact module name or class; NULL for a regex */
    pcre2_code *code;
} pattern;

typedef struct target {
    pattern pattern;
    int scheme; /* -1: ignored */
} target;

struct sq_ct_reader {
    sq_arena arena;
    sq_ct_scheme *schemes;
    size_t n_schemes;
    target *targets;
    size_t n_targets, cap;
};

static sq_status add_target(sq_ct_reader *r, const json_t *v, int scheme, sq_error *err) {
    if (!json_is_string(v)) {
        return sq_fail(err, SQ_EFORMAT,
                       "quantization_config: a target or ignore entry is no string");
    }
    if (r->n_targets == r->cap) {
        void *p = r->targets;
        size_t cap = r->cap == 0 ? 64 : 2 * r->cap;
        sq_status st = sq_grow(&p, r->n_targets * sizeof *r->targets, cap, sizeof *r->targets,
                               "quantization targets", err);
        if (st != SQ_OK) {
            return st;
        }
        r->targets = p;
        r->cap = cap;
    }
    target *t = &r->targets[r->n_targets];
    *t = (target){.scheme = scheme};
    const char *s = json_string_value(v);
    if (strncmp(s, "re:", 3) == 0) {
        int code;
        PCRE2_SIZE at;
        t->pattern.code = pcre2_compile((PCRE2_SPTR)(s + 3), PCRE2_ZERO_TERMINATED,
                                        PCRE2_ANCHORED | PCRE2_UTF, &code, &at, NULL);
        if (t->pattern.code == NULL) {
            return sq_fail(err, SQ_EFORMAT, "quantization_config: bad pattern '%s' at %zu", s,
                           (size_t)at);
        }
    } else {
        t->pattern.text = sq_arena_strdup(&r->arena, s, err);
        if (t->pattern.text == NULL) {
            return SQ_ENOMEM;
        }
    }
    r->n_targets++;
    return SQ_OK;
}

static int matches(const pattern *p, const char *module) {
    if (p->text != NULL) {
        return strcmp(p->text, module) == 0;
    }
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(p->code, NULL);
    int ok =
        m != NULL && pcre2_match(p->code, (PCRE2_SPTR)module, strlen(module), 0, 0, m, NULL) >= 0;
    pcre2_match_data_free(m);
    return ok;
}

static sq_status read_weights(const json_t *w, sq_ct_scheme *s, const char *group, sq_error *err) {
    const char *type = sq_json_str(w, "type", "int"), *strategy = sq_json_str(w, "strategy", "");
    const char *order = sq_json_str(w, "actorder", "");
    s->bits = (int)sq_json_int(w, "num_bits", 8);
    s->symmetric = sq_json_bool(w, "symmetric", 1);
    s->group_size = (int)sq_json_int(w, "group_size", 0);
    if (strcmp(type, "int") != 0 || (s->bits != 4 && s->bits != 8)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: %s has %d-bit %s weights; wanted 4 or 8-bit int",
                       group, s->bits, type);
    }
    if (strcmp(strategy, "channel") == 0) {
        s->group_size = 0;
    } else if (strcmp(strategy, "group") != 0 || s->group_size < 1 || s->group_size > (1 << 24)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: %s has the strategy '%s' with group_size %d; wanted "
                       "channel or group",
                       group, strategy, s->group_size);
    }
    if (strcmp(order, "group") == 0 || strcmp(order, "dynamic") == 0 ||
        json_is_true(json_object_get(w, "actorder"))) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: %s has actorder '%s', which has been removed", group,
                       order);
    }
    return SQ_OK;
}

/* Rounded per token, as it goes: what the kernels do. */
static sq_status read_inputs(const json_t *a, sq_ct_scheme *s, const char *group, sq_error *err) {
    const char *type = sq_json_str(a, "type", "int"), *strategy = sq_json_str(a, "strategy", "");
    const json_t *dynamic = json_object_get(a, "dynamic");
    s->act_bits = (int)sq_json_int(a, "num_bits", 8);
    s->act_symmetric = sq_json_bool(a, "symmetric", 1);
    if (strcmp(type, "int") != 0 || s->act_bits != 8 || strcmp(strategy, "token") != 0 ||
        !json_is_true(dynamic)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: %s rounds its inputs to %d-bit %s by the strategy "
                       "'%s', %s; wanted 8-bit int by token, dynamic",
                       group, s->act_bits, type, strategy,
                       json_is_true(dynamic) ? "dynamic" : "not dynamic");
    }
    return SQ_OK;
}

static sq_status read_group(sq_ct_reader *r, const char *name, const json_t *g, sq_error *err) {
    sq_ct_scheme *s = &r->schemes[r->n_schemes];
    const json_t *w = json_object_get(g, "weights"), *a = json_object_get(g, "input_activations");
    if (!json_is_object(w)) {
        return sq_fail(err, SQ_EFORMAT, "quantization_config: %s has no weights", name);
    }
    sq_status st;
    SQ_TRY(read_weights(w, s, name, err));
    if (json_is_object(a)) {
        SQ_TRY(read_inputs(a, s, name, err));
    }
    if (json_is_object(json_object_get(g, "output_activations"))) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: %s rounds its outputs, which is not supported", name);
    }
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(g, "targets"), i, v) {
        SQ_TRY(add_target(r, v, (int)r->n_schemes, err));
    }
    r->n_schemes++;
fail:
    return st;
}

static sq_status read_config(sq_ct_reader *r, const json_t *q, sq_error *err) {
    const char *method = sq_json_str(q, "quant_method", ""),
               *format = sq_json_str(q, "format", "pack-quantized");
    if (strcmp(method, "compressed-tensors") != 0) {
        return sq_fail(
            err, SQ_EUNSUPPORTED,
            "quantization_config: quant_method '%s' is not supported; wanted compressed-tensors",
            method);
    }
    if (strcmp(format, "pack-quantized") != 0 && strcmp(format, "int-quantized") != 0 &&
        strcmp(format, "mixed-precision") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "quantization_config: format '%s' is not supported; wanted pack-quantized, "
                       "int-quantized or mixed-precision",
                       format);
    }
    /* Read as if they were not there, these would change every number without a word. */
    static const char *const more[] = {"transform_config", "sparsity_config", "kv_cache_scheme"};
    for (int i = 0; i < 3; i++) {
        if (json_object_size(json_object_get(q, more[i])) > 0) {
            return sq_fail(err, SQ_EUNSUPPORTED,
                           "quantization_config: %s is not supported; wanted none", more[i]);
        }
    }
    json_t *groups = json_object_get(q, "config_groups"), *v;
    const char *name;
    size_t i;
    sq_status st = SQ_OK;
    r->schemes = sq_arena_alloc(&r->arena, json_object_size(groups) + 1, sizeof *r->schemes, err);
    if (r->schemes == NULL) {
        return SQ_ENOMEM;
    }
    json_array_foreach(json_object_get(q, "ignore"), i, v) { SQ_TRY(add_target(r, v, -1, err)); }
    json_object_foreach(groups, name, v) { SQ_TRY(read_group(r, name, v, err)); }
fail:
    return st;
}

sq_status sq_ct_reader_open(sq_ct_reader **out, const json_t *quantization_config, sq_error *err) {
    *out = NULL;
    sq_ct_reader *r = sq_alloc(1, sizeof *r, "a quantization config", err);
    if (r == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = read_config(r, quantization_config, err);
    if (st != SQ_OK) {
        sq_ct_reader_close(&r);
    }
    *out = r;
    return st;
}

void sq_ct_reader_close(sq_ct_reader **pr) {
    sq_ct_reader *r = *pr;
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < r->n_targets; i++) {
        if (r->targets[i].pattern.code != NULL) {
            pcre2_code_free(r->targets[i].pattern.code);
        }
    }
    sq_free(r->targets);
    sq_arena_free(&r->arena);
    sq_free(r);
    *pr = NULL;
}

/* ignore, then names and patterns, then the class, as compressed_tensors.utils.match does. */
int sq_ct_reader_scheme(const sq_ct_reader *r, const char *module, sq_ct_scheme *out) {
    int found = -1;
    for (size_t i = 0; i < r->n_targets; i++) {
        const target *t = &r->targets[i];
        if (t->scheme < 0 &&
            (matches(&t->pattern, module) ||
             (t->pattern.text != NULL && strcmp(t->pattern.text, "Linear") == 0))) {
            return 0;
        }
        if (t->scheme >= 0 && found < 0 && matches(&t->pattern, module)) {
            found = t->scheme;
        }
    }
    for (size_t i = 0; found < 0 && i < r->n_targets; i++) {
        const target *t = &r->targets[i];
        if (t->scheme >= 0 && t->pattern.text != NULL && strcmp(t->pattern.text, "Linear") == 0) {
            found = t->scheme;
        }
    }
    if (found >= 0) {
        *out = r->schemes[found];
    }
    return found >= 0;
}
