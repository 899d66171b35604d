/* quantization_config of what is written, by layout. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "format/qconfig.h"
#include "quant/output.h"

static void put_escaped(sq_buf *b, const char *s) {
    for (; *s != '\0'; s++) {
        sq_buf_printf(b, *s == '.' ? "\\%c" : "%c", *s);
    }
}

/* A pattern that finds the module under every prefix that a loader may give it: transformers calls
 * "model.layers.0…" of a vision-language checkpoint "model.language_model.layers.0…", and the tower
 * with or without "vision_model.". A tower of layers must not be taken for the language model. */
static char *pattern_of(sq_output *o, const sq_linear *l, sq_error *err) {
    static const char tower[] = "vision_tower.";
    const sq_config *c = &o->net->config;
    const char *name = strncmp(l->name, "model.", 6) == 0 ? l->name + 6 : l->name;
    sq_buf b = {0};
    if (strncmp(name, tower, sizeof tower - 1) == 0) {
        sq_buf_puts(&b, "re:.*vision_tower\\.(.*\\.)?");
        name += sizeof tower - 1;
    } else {
        int alike = l->part == SQ_PART_TEXT && c->tower != NULL && c->tower->kind == SQ_TOWER_VIT;
        sq_buf_puts(&b, alike ? "re:^(?!.*vision_tower).*" : "re:.*");
    }
    put_escaped(&b, name);
    sq_buf_puts(&b, "$");
    char *p = b.failed ? NULL : sq_arena_strdup(&o->arena, b.data, err);
    sq_buf_free(&b);
    return p;
}

/* Whether a list must name the linear as one that stays. The family's patterns do for a tower that
 * stays as a whole, and for the head; embeddings are no Linear. */
static int stays(const sq_plan_row *r, int whole_vision) {
    return !r->quantize &&
           (sq_linear_vision(r->linear) ? !whole_vision : r->linear->part == SQ_PART_TEXT);
}

static int quantizes(const sq_plan *p, sq_part part) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].quantize && p->rows[i].linear->part == part) {
            return 1;
        }
    }
    return 0;
}

/* Whether one of the family's names of what is kept is the head's, and no part of the tower. */
static int is_head(const char *keep) { return strstr(keep, "lm_head") != NULL; }

/* Groups of modules with the same scheme; all of one scheme are the class "Linear". */
static json_t *ct_config(sq_output *o, sq_error *err) {
    const sq_plan *p = o->plan;
    sq_ct_scheme *schemes = sq_arena_alloc(&o->arena, p->n + 1, sizeof *schemes, err);
    char ***targets = sq_arena_alloc(&o->arena, p->n + 1, sizeof *targets, err);
    size_t *counts = sq_arena_alloc(&o->arena, p->n + 1, sizeof *counts, err), n = 0, n_ignore = 0;
    char **ignore = sq_arena_alloc(&o->arena, p->n + 8, sizeof *ignore, err);
    if (schemes == NULL || targets == NULL || counts == NULL || ignore == NULL) {
        return NULL;
    }
    int whole_vision = 1;
    for (size_t i = 0; i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        whole_vision &= !sq_linear_vision(r->linear) || !r->quantize;
        if (!r->quantize) {
            continue;
        }
        int channel = r->grid.group == r->grid.k;
        sq_ct_scheme s = {.bits = r->grid.bits,
                          .group_size = channel ? 0 : (int)r->grid.group,
                          .symmetric = r->grid.symmetric,
                          .act_bits = r->grid.act_bits,
                          .act_symmetric = r->grid.act_symmetric};
        size_t k = 0;
        while (k < n && memcmp(&schemes[k], &s, sizeof s) != 0) {
            k++;
        }
        if (k == n) {
            schemes[n] = s;
            targets[n] = sq_arena_alloc(&o->arena, p->n, sizeof **targets, err);
            if (targets[n++] == NULL) {
                return NULL;
            }
        }
        targets[k][counts[k]] = pattern_of(o, r->linear, err);
        if (targets[k][counts[k]++] == NULL) {
            return NULL;
        }
    }
    static char linear[] = "Linear";
    if (n == 1 && !quantizes(p, SQ_PART_EMBED)) {
        targets[0][0] = linear;
        counts[0] = 1;
    }
    /* transformers and vLLM name the tower differently: the family's patterns, then what else is
     * not quantized. */
    for (const char *const *k = o->net->config.arch->keep; *k != NULL; k++) {
        if (is_head(*k) ? !quantizes(p, SQ_PART_HEAD) : whole_vision) {
            ignore[n_ignore++] = (char *)(uintptr_t)*k;
        }
    }
    for (size_t i = 0; i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        if (stays(r, whole_vision)) {
            ignore[n_ignore] = pattern_of(o, r->linear, err);
            if (ignore[n_ignore++] == NULL) {
                return NULL;
            }
        }
    }
    return sq_ct_config(schemes, (char *const *const *)targets, counts, n, ignore, n_ignore);
}

/* ---- AutoAWQ ---- */

typedef struct name_list {
    char **items;
    size_t n, cap;
} name_list;

static sq_status add_name(sq_output *o, name_list *l, const char *prefix, const char *name,
                          sq_error *err) {
    char *s = sq_arena_printf(&o->arena, err, "%s%s", prefix, name);
    for (size_t i = 0; s != NULL && i < l->n; i++) {
        if (strcmp(l->items[i], s) == 0) {
            return SQ_OK;
        }
    }
    if (s != NULL && l->n < l->cap) {
        l->items[l->n++] = s;
    }
    return s == NULL ? SQ_ENOMEM : SQ_OK;
}

/* The name within one of the family's patterns, "re:.*visual\\..*": a name or its beginning. */
static char *plain_name(sq_output *o, const char *pattern, sq_error *err) {
    size_t skip = strncmp(pattern, "re:.*", 5) == 0 ? 5 : 0;
    return sq_arena_printf(&o->arena, err, "%.*s", (int)strcspn(pattern + skip, ".\\"),
                           pattern + skip);
}

/* One linear that stays: AutoAWQ, vLLM and SGLang look for an entry within the name, transformers
 * (quantizers_utils.should_convert_module) at its beginning or end, under its own names. */
static sq_status add_linear(sq_output *o, name_list *l, const sq_linear *x, sq_error *err) {
    int nested = o->net->config.tower != NULL && x->part == SQ_PART_TEXT;
    sq_status st = add_name(o, l, "", x->name, err);
    if (st == SQ_OK && x->part != SQ_PART_TEXT) {
        st = add_name(o, l, "", x->file_name, err);
    }
    if (st == SQ_OK && x->part != SQ_PART_TEXT) {
        st = add_name(o, l, "model.", x->file_name, err);
    }
    if (st == SQ_OK && nested) {
        st = add_name(o, l, "model.language_model.", x->name + strlen("model."), err);
    }
    return st;
}

static int whole_vision(const sq_plan *p) {
    int whole = 1;
    for (size_t i = 0; i < p->n; i++) {
        whole &= !sq_linear_vision(p->rows[i].linear) || !p->rows[i].quantize;
    }
    return whole;
}

static json_t *awq_config(sq_output *o, sq_error *err) {
    const sq_plan *p = o->plan;
    const char *const *keep = o->net->config.arch->keep;
    int whole = whole_vision(p), group = 0;
    name_list l = {sq_arena_alloc(&o->arena, 4 * p->n + 32, sizeof(char *), err), 0, 4 * p->n + 32};
    sq_status st = l.items == NULL ? SQ_ENOMEM : SQ_OK;
    for (; st == SQ_OK && *keep != NULL; keep++) {
        int pattern = !is_head(*keep);
        char *name = whole || !pattern ? plain_name(o, *keep, err) : NULL;
        if (name != NULL) {
            st = add_name(o, &l, "", name, err);
        }
        if (name != NULL && pattern && st == SQ_OK) {
            st = add_name(o, &l, "model.", name, err);
        }
    }
    for (size_t i = 0; st == SQ_OK && i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        if (stays(r, whole)) {
            st = add_linear(o, &l, r->linear, err);
        }
        group = r->quantize ? sq_plan_group(p, r) : group;
    }
    return st == SQ_OK ? sq_awq_config(p->layout, group, l.items, l.n) : NULL;
}

void sq_output_set_half(json_t *config) {
    static const char *const keys[] = {"torch_dtype", "dtype"};
    const char *key;
    json_t *v;
    for (int i = 0; i < 2; i++) {
        if (json_object_get(config, keys[i]) != NULL) {
            json_object_set_new(config, keys[i], json_string("float16"));
        }
    }
    json_object_foreach(config, key, v) {
        if (json_is_object(v) && strcmp(key, "quantization_config") != 0) {
            sq_output_set_half(v);
        }
    }
}

/* ---- GPTQ ---- */

static sq_ct_scheme gptq_scheme(const sq_plan *p, const sq_plan_row *r) {
    return (sq_ct_scheme){
        .bits = r->grid.bits, .group_size = sq_plan_group(p, r), .symmetric = r->grid.symmetric};
}

/* The scheme that most linears have. */
static sq_ct_scheme usual_scheme(const sq_plan *p) {
    sq_ct_scheme best = {0};
    size_t most = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (!p->rows[i].quantize) {
            continue;
        }
        sq_ct_scheme s = gptq_scheme(p, &p->rows[i]);
        size_t same = 0;
        for (size_t k = 0; k < p->n; k++) {
            sq_ct_scheme t = gptq_scheme(p, &p->rows[k]);
            same += p->rows[k].quantize && memcmp(&s, &t, sizeof s) == 0;
        }
        if (same > most) {
            best = s;
            most = same;
        }
    }
    return best;
}

static json_t *gptq_config(sq_output *o, sq_error *err) {
    const sq_plan *p = o->plan;
    sq_ct_scheme base = usual_scheme(p);
    size_t n = 0;
    int whole = whole_vision(p);
    sq_gptq_rule *rules = sq_arena_alloc(&o->arena, p->n + 8, sizeof *rules, err);
    if (rules == NULL) {
        return NULL;
    }
    for (const char *const *k = o->net->config.arch->keep; whole && *k != NULL; k++) {
        if (strncmp(*k, "re:", 3) == 0) {
            rules[n++] = (sq_gptq_rule){.pattern = (char *)(uintptr_t)*k + 3, .skip = 1};
        }
    }
    for (size_t i = 0; i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        sq_ct_scheme s = gptq_scheme(p, r);
        if (r->quantize ? memcmp(&s, &base, sizeof s) == 0 : !stays(r, whole)) {
            continue;
        }
        char *pattern = pattern_of(o, r->linear, err);
        if (pattern == NULL) {
            return NULL;
        }
        rules[n++] = (sq_gptq_rule){pattern + strlen("re:"), !r->quantize, s};
    }
    return sq_gptq_config(p->layout, &base, rules, n, p->damp, "squint:" SQ_VERSION);
}

json_t *sq_output_config(sq_output *o, sq_error *err) {
    sq_layout l = o->plan->layout;
    return sq_layout_is_awq(l)    ? awq_config(o, err)
           : sq_layout_is_gptq(l) ? gptq_config(o, err)
                                  : ct_config(o, err);
}
