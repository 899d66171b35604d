#include "quant/policy.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

/* W8A8 is symmetric, one scale a row (compressed-tensors' preset); W4A8 is torchao's A8W4DQ:
 * symmetric groups, inputs with a zero point. */
static const struct {
    const char *name;
    int bits, act_bits, act_symmetric;
} schemes[] = {{"keep", 0, 0, 0},
               {"w4a16", 4, 0, 0},
               {"w8a16", 8, 0, 0},
               {"w8a8", 8, 8, 1},
               {"w4a8", 4, 8, 0}};

static sq_status set_scheme(sq_part_policy *p, const char *name, const char *where, sq_error *err) {
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strcmp(name, schemes[i].name) == 0) {
            p->bits = schemes[i].bits;
            p->act_bits = schemes[i].act_bits;
            p->act_symmetric = schemes[i].act_symmetric;
            p->symmetric |= p->act_bits != 0;
            p->group = p->act_bits != 0 && p->bits == 8 ? -1 : p->group;
            return SQ_OK;
        }
    }
    return sq_fail(err, SQ_EARG,
                   "%s: scheme '%s' is not there; wanted keep, w4a16, w8a16, w8a8 or w4a8", where,
                   name);
}

static sq_status set_group(sq_part_policy *p, int64_t group, const char *where, sq_error *err) {
    if (group != -1 && (group < 4 || group > 65536 || group % 4 != 0)) {
        return sq_fail(err, SQ_EARG,
                       "%s: group size out of range; got %lld, wanted -1 or a multiple of 4", where,
                       (long long)group);
    }
    p->group = group;
    return SQ_OK;
}

static sq_status set_method(sq_policy *p, const char *name, sq_error *err) {
    p->awq = strcmp(name, "awq") == 0 || strcmp(name, "awq+gptq") == 0;
    p->gptq = strcmp(name, "gptq") == 0 || strcmp(name, "awq+gptq") == 0;
    if (!p->awq && !p->gptq && strcmp(name, "rtn") != 0) {
        return sq_fail(err, SQ_EARG, "method '%s' is not there; wanted rtn, awq, gptq or awq+gptq",
                       name);
    }
    return SQ_OK;
}

/* ---- profile ---- */

static sq_status read_part(sq_part_policy *p, const json_t *v, const char *name, sq_error *err) {
    const char *key;
    json_t *e;
    sq_status st = SQ_OK;
    if (!json_is_object(v)) {
        return sq_fail(err, SQ_EARG, "profile: '%s' is no object", name);
    }
    SQ_TRY(set_scheme(p, sq_json_str(v, "scheme", "w4a16"), name, err));
    json_object_foreach((json_t *)(uintptr_t)v, key, e) {
        if (strcmp(key, "group_size") == 0 && json_is_integer(e)) {
            SQ_TRY(set_group(p, (int64_t)json_integer_value(e), name, err));
        } else if (strcmp(key, "symmetric") == 0 && json_is_boolean(e)) {
            p->symmetric = json_is_true(e) || p->act_bits != 0;
        } else if (strcmp(key, "scheme") != 0 || !json_is_string(e)) {
            return sq_fail(err, SQ_EARG,
                           "profile: '%s' has '%s'; wanted scheme, group_size or symmetric", name,
                           key);
        }
    }
fail:
    return st;
}

/* torchchat's quantizers of linears and of embeddings; group size 0 is one group a row. */
static sq_status read_torchchat(sq_part_policy *p, const char *key, const json_t *v,
                                sq_error *err) {
    static const struct {
        const char *key, *scheme;
        int symmetric;
        int64_t group;
    } rows[] = {{"linear:int4", "w4a16", 0, 256},
                {"linear:int8", "w8a16", 1, -1},
                {"linear:a8w4dq", "w4a8", 1, 256},
                {"embedding", "w8a16", 1, -1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(key, rows[i].key) == 0) {
            int64_t group = sq_json_int(v, "groupsize", rows[i].group);
            int64_t bits = sq_json_int(v, "bitwidth", rows[i].scheme[1] - '0');
            if (bits != 4 && bits != 8) {
                return sq_fail(err, SQ_EARG, "profile: '%s' has bitwidth %lld; wanted 4 or 8", key,
                               (long long)bits);
            }
            sq_status st = set_scheme(p, rows[i].scheme, key, err);
            p->bits = (int)bits;
            p->symmetric = rows[i].symmetric;
            return st == SQ_OK ? set_group(p, group == 0 ? -1 : group, key, err) : st;
        }
    }
    return sq_fail(err, SQ_EARG,
                   "profile: '%s' is not known; wanted language, vision, merger, embedding, "
                   "lm_head, method, on_indivisible, or torchchat's linear:int4, linear:int8, "
                   "linear:a8w4dq, embedding, precision, executor",
                   key);
}

static sq_status read_indivisible(sq_policy *p, const char *name, sq_error *err) {
    static const char *const names[] = {"pad", "smaller-group", "channel", "keep"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], name) == 0) {
            p->indivisible = (sq_indivisible)i;
            return SQ_OK;
        }
    }
    return sq_fail(err, SQ_EARG,
                   "profile: on_indivisible '%s'; wanted pad, smaller-group, channel or keep",
                   name);
}

static sq_status read_profile(sq_policy *p, const json_t *root, sq_error *err) {
    static const struct {
        const char *name;
        sq_part part;
    } parts[] = {{"language", SQ_PART_TEXT},
                 {"vision", SQ_PART_VISION},
                 {"merger", SQ_PART_MERGER},
                 {"lm_head", SQ_PART_HEAD}};
    const size_t n_parts = sizeof parts / sizeof *parts;
    const char *key;
    json_t *v;
    sq_status st = SQ_OK;
    if (!json_is_object(root)) {
        return sq_fail(err, SQ_EARG, "the profile is no JSON object");
    }
    json_object_foreach((json_t *)(uintptr_t)root, key, v) {
        size_t i = 0;
        while (i < n_parts && strcmp(key, parts[i].name) != 0) {
            i++;
        }
        if (i < n_parts) {
            SQ_TRY(read_part(&p->part[parts[i].part], v, key, err));
        } else if (strcmp(key, "method") == 0) {
            SQ_TRY(set_method(p, json_is_string(v) ? json_string_value(v) : "", err));
        } else if (strcmp(key, "on_indivisible") == 0) {
            SQ_TRY(read_indivisible(p, json_is_string(v) ? json_string_value(v) : "", err));
        } else if (strcmp(key, "embedding") == 0) {
            sq_part_policy *e = &p->part[SQ_PART_EMBED];
            int torchchat =
                json_object_get(v, "bitwidth") != NULL || json_object_get(v, "groupsize") != NULL;
            st = torchchat ? read_torchchat(e, key, v, err) : read_part(e, v, key, err);
            SQ_TRY(st);
        } else if (strcmp(key, "precision") != 0 && strcmp(key, "executor") != 0) {
            SQ_TRY(read_torchchat(&p->part[SQ_PART_TEXT], key, v, err));
        }
    }
fail:
    return st;
}

sq_status sq_policy_read(sq_policy *out, const sq_quantize_options *o, sq_error *err) {
    *out = (sq_policy){.indivisible = o->indivisible};
    sq_part_policy *text = &out->part[SQ_PART_TEXT];
    json_t *root = NULL;
    sq_status st;
    for (int i = 0; i < SQ_PARTS; i++) {
        out->part[i] = (sq_part_policy){.symmetric = o->symmetric, .group = 128};
    }
    SQ_TRY(set_method(out, o->method == NULL ? "awq" : o->method, err));
    SQ_TRY(set_scheme(text, o->scheme == NULL ? "w4a16" : o->scheme, "--scheme", err));
    for (int i = SQ_PART_VISION; i <= SQ_PART_MERGER; i++) {
        SQ_TRY(set_scheme(&out->part[i], o->vision == NULL ? "keep" : o->vision, "--vision", err));
    }
    SQ_TRY(set_scheme(&out->part[SQ_PART_EMBED], o->embedding == NULL ? "keep" : o->embedding,
                      "--embedding", err));
    SQ_TRY(set_scheme(&out->part[SQ_PART_HEAD], o->lm_head == NULL ? "keep" : o->lm_head,
                      "--lm-head", err));
    for (int i = 0; o->group_size != 0 && i < SQ_PARTS; i++) {
        SQ_TRY(set_group(&out->part[i], o->group_size, "--group-size", err));
    }
    if (o->profile != NULL) {
        SQ_TRY(sq_json_load(o->profile, &root, err));
        SQ_TRY(read_profile(out, root, err));
    }
    for (int i = SQ_PART_HEAD; i <= SQ_PART_EMBED; i++) {
        if (out->part[i].act_bits != 0) {
            st = sq_fail(err, SQ_EARG,
                         "%s: inputs are not rounded there; wanted keep, w8a16 or w4a16",
                         i == SQ_PART_HEAD ? "lm_head" : "embedding");
            goto fail;
        }
    }
    if (text->bits == 0) {
        st = sq_fail(err, SQ_EARG, "the language model is kept: nothing would be quantized");
    }
fail:
    json_decref(root);
    return st;
}

sq_status sq_policy_check_tied(const sq_policy *p, int tied, sq_error *err) {
    if (tied && p->part[SQ_PART_HEAD].bits != 0 && p->part[SQ_PART_EMBED].bits == 0) {
        sq_fail(err, SQ_EARG, "lm_head is the embeddings in this model");
        sq_hint(err, "use --embedding, or \"embedding\" in the profile, for both");
        return SQ_EARG;
    }
    return SQ_OK;
}

/* The largest usual group below the wanted one that divides; 0 when none does. */
static int64_t smaller_group(int64_t k, int64_t group) {
    for (int64_t g = group / 2; g >= 4; g /= 2) {
        if (k % g == 0) {
            return g;
        }
    }
    return 0;
}

sq_fit sq_policy_fit(int64_t k, int64_t group, sq_indivisible how) {
    int64_t smaller = smaller_group(k, group);
    if (group < 0 || k % group == 0) {
        return (sq_fit){0, group < 0 ? k : group, k, NULL};
    }
    if (how == SQ_KEEP) {
        return (sq_fit){1, 0, k, "kept: the group does not divide the columns"};
    }
    if (how == SQ_SMALLER_GROUP && smaller > 0) {
        return (sq_fit){0, smaller, k, "a smaller group that divides the columns"};
    }
    if (how == SQ_CHANNEL || how == SQ_SMALLER_GROUP) {
        return (sq_fit){0, k, k, "one group a row: the group does not divide the columns"};
    }
    return (sq_fit){0, group, sq_round_up(k, group), "padded with zero columns"};
}
