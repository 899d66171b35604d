/* A folder as an engine's loader reads it: the names that it would look up, what its config says of
 * each, the shapes and types that it would allocate, and what is left over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "format/qlinear.h"
#include "quant/samples.h"
#include "quant/target_load.h"

/* A tensor of the files under its canonical name. */
typedef struct named {
    char *canonical;
    const sq_tensor *tensor;
    int used;
} named;

/* A linear that the configuration calls for. */
typedef struct module {
    char *name; /* canonical, without ".weight" */
    sq_part part;
    int64_t n, k;
    int quantized; /* in the files */
    sq_ct_scheme scheme;
} module;

typedef struct reading {
    sq_loading l;
    sq_checkpoint *files;
    named *names; /* sorted */
    size_t n_names;
    module *modules;
    size_t n_modules, cap;
    sq_qconfig *q; /* NULL: plain */
    sq_layout layout;
    int half_said;
} reading;

/* ---- names ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const named *)a)->canonical, ((const named *)b)->canonical);
}

/* The tensor, marked as used; NULL when there is none. */
static const sq_tensor *take(reading *r, const char *stem, const char *suffix) {
    char name[600];
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    named key = {.canonical = name};
    named *f = bsearch(&key, r->names, r->n_names, sizeof *r->names, by_name);
    if (f == NULL) {
        return NULL;
    }
    f->used = 1;
    return f->tensor;
}

/* transformers' name of a module: everything of a model with a tower lies in "model.". */
static void transformers_name(const reading *r, const char *canonical, char out[600]) {
    int nested = r->l.config.tower != NULL;
    if (nested && strncmp(canonical, "model.", 6) == 0) {
        snprintf(out, 600, "model.language_model.%.570s", canonical + 6);
    } else if (nested && strncmp(canonical, "lm_head", 7) != 0) {
        snprintf(out, 600, "model.%.590s", canonical);
    } else {
        snprintf(out, 600, "%s", canonical);
    }
}

/* The name that the engine asks its quantization config about. */
static void engine_name(const reading *r, const char *canonical, char out[600]) {
    int nested = r->l.config.tower != NULL;
    if (r->l.target == SQ_TARGET_TRANSFORMERS) {
        transformers_name(r, canonical, out);
    } else if (r->l.target == SQ_TARGET_VLLM && nested &&
               (strncmp(canonical, "model.", 6) == 0 || strncmp(canonical, "lm_head", 7) == 0)) {
        snprintf(out, 600, "language_model.%.580s", canonical);
    } else {
        snprintf(out, 600, "%s", canonical);
    }
}

/* Published names and transformers' own load; what trainers put before them does not. */
static int known_name(const reading *r, const char *canonical, const char *file) {
    char other[600];
    sq_arch_published(r->l.config.arch, canonical, other, sizeof other);
    if (strcmp(file, canonical) == 0 || strcmp(file, other) == 0) {
        return 1;
    }
    transformers_name(r, canonical, other);
    return strcmp(file, other) == 0;
}

static sq_status read_names(reading *r, sq_error *err) {
    size_t n = sq_checkpoint_count(r->files);
    r->names = sq_arena_alloc(&r->l.arena, n + 1, sizeof *r->names, err);
    for (size_t i = 0; r->names != NULL && i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(r->files, i);
        char canonical[600];
        if (!sq_arch_canonical(r->l.config.arch, t->name, canonical, sizeof canonical)) {
            snprintf(canonical, sizeof canonical, "%.599s", t->name);
        }
        if (!known_name(r, canonical, t->name)) {
            sq_loading_say(&r->l, t->name, "is no name that %s knows; wanted '%.200s'",
                           sq_target_name(r->l.target), canonical);
        }
        named *f = &r->names[r->n_names++];
        f->tensor = t;
        f->canonical = sq_arena_strdup(&r->l.arena, canonical, err);
        if (f->canonical == NULL) {
            return SQ_ENOMEM;
        }
    }
    if (r->names == NULL) {
        return SQ_ENOMEM;
    }
    qsort(r->names, r->n_names, sizeof *r->names, by_name);
    return SQ_OK;
}

/* ---- what the config says ---- */

/* transformers' should_convert_module: an entry at the beginning or at the end of the name. */
static int kept_by_transformers(const reading *r, const char *name) {
    const json_t *list = json_object_get(r->l.quantization, "modules_to_not_convert");
    size_t i, n = strlen(name);
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) {
        const char *s = json_is_string(v) ? json_string_value(v) : "";
        size_t m = strlen(s);
        if (m > 0 && m <= n && (strncmp(name, s, m) == 0 || strcmp(name + n - m, s) == 0)) {
            return 1;
        }
    }
    return 0;
}

/* Whether the engine takes the module for quantized. vLLM maps the entries of lists as it maps the
 * names of tensors, so that other spellings of `m` count there too. */
static int says(const reading *r, const module *m, sq_ct_scheme *s) {
    char name[600], other[600];
    if (r->q == NULL) {
        return 0;
    }
    engine_name(r, m->name, name);
    if (r->l.target == SQ_TARGET_TRANSFORMERS && sq_layout_is_awq(r->layout)) {
        sq_qconfig_scheme(r->q, "", s);
        return !kept_by_transformers(r, name);
    }
    int yes = sq_qconfig_scheme(r->q, name, s);
    if (r->l.target == SQ_TARGET_VLLM && yes != m->quantized) {
        transformers_name(r, m->name, other);
        yes = sq_qconfig_scheme(r->q, other, s);
    }
    if (r->l.target == SQ_TARGET_VLLM && yes != m->quantized) {
        yes = sq_qconfig_scheme(r->q, m->name, s);
    }
    return yes;
}

/* ---- a linear's tensors ---- */

static void shape_text(char out[64], int rank, const int64_t *shape) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < rank && at < 48; i++) {
        at +=
            (size_t)snprintf(out + at, 64 - at, "%s%lld", i == 0 ? "[" : ", ", (long long)shape[i]);
    }
    snprintf(out + at, 64 - at, "]");
}

static int is_float(sq_dtype t) { return t == SQ_F16 || t == SQ_BF16 || t == SQ_F32; }

/* A tensor against what would be allocated for it; 1 when it fits. */
static int allocate(const reading *r, const sq_tensor *t, int rank, const int64_t *shape,
                    int type_fits, const char *types) {
    char got[64], wanted[64];
    if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        shape_text(got, t->rank, t->shape);
        shape_text(wanted, rank, shape);
        sq_loading_say(&r->l, t->name, "is %s; %s allocates %s", got, sq_target_name(r->l.target),
                       wanted);
        return 0;
    }
    if (!type_fits) {
        sq_loading_say(&r->l, t->name, "is of the type %s; %s allocates %s",
                       sq_dtype_name(t->dtype), sq_target_name(r->l.target), types);
    }
    return type_fits;
}

/* Words of zero points that cannot be those of the config's version. */
static void check_zeros(const reading *r, const module *m, const sq_tensor *t) {
    int v1 = r->layout == SQ_LAYOUT_GPTQ;
    uint32_t ones = m->scheme.bits == 4 ? 0x11111111u : 0x01010101u,
             middle = ones << (m->scheme.bits - 1), word;
    for (size_t i = 0; i < t->bytes / 4; i++) {
        memcpy(&word, (const char *)t->data + 4 * i, 4);
        if (m->scheme.symmetric && word != middle - (v1 ? ones : 0)) {
            sq_loading_say(&r->l, t->name,
                           word == middle - (v1 ? 0 : ones)
                               ? "holds 0x%08x, zero points of the other version; "
                                 "checkpoint_format says %s"
                               : "holds 0x%08x, which is not symmetric as `sym` says (%s)",
                           word, v1 ? "gptq (v1)" : "gptq_v2");
            return;
        }
        for (int b = 0; v1 && b < 32; b += m->scheme.bits) {
            uint32_t top = (1u << m->scheme.bits) - 1;
            if ((word >> b & top) == top) {
                sq_loading_say(&r->l, t->name,
                               "holds the zero point %u less one, which is no code; "
                               "checkpoint_format says gptq (v1), the words gptq_v2",
                               top + 1);
                return;
            }
        }
    }
}

static sq_status check_order(const reading *r, const sq_layout_form *f, const sq_tensor *t,
                             sq_error *err) {
    int32_t *g = sq_alloc((size_t)f->k, sizeof *g, t->name, err);
    if (g == NULL) {
        return SQ_ENOMEM;
    }
    memcpy(g, t->data, t->bytes);
    int order = sq_layout_order(f, g, NULL);
    if (order < 0) {
        sq_loading_say(&r->l, t->name, "does not name each group %lld times", (long long)f->group);
    } else if (order == 0 && !sq_json_bool(r->l.quantization, "desc_act", 0)) {
        sq_loading_say(&r->l, t->name,
                       "is not in the order of columns, and desc_act is false: it is not heeded");
    }
    sq_free(g);
    return SQ_OK;
}

static void check_dims(const reading *r, const module *m, const sq_tensor *t) {
    int64_t d[2];
    memcpy(d, t->data, sizeof d);
    if (d[0] != m->n || d[1] != m->k) {
        sq_loading_say(&r->l, t->name, "says [%lld, %lld]; the linear is [%lld, %lld]",
                       (long long)d[0], (long long)d[1], (long long)m->n, (long long)m->k);
    }
}

static sq_status check_values(const reading *r, const module *m, const sq_layout_form *f,
                              const char *suffix, const sq_tensor *t, sq_error *err) {
    if (sq_layout_is_gptq(r->layout) && strcmp(suffix, ".qzeros") == 0) {
        check_zeros(r, m, t);
    } else if (strcmp(suffix, ".g_idx") == 0) {
        return check_order(r, f, t, err);
    } else if (strcmp(suffix, ".weight_shape") == 0) {
        check_dims(r, m, t);
    }
    return SQ_OK;
}

/* Everything that the engine allocates for a quantized linear. */
static sq_status check_parts(reading *r, const module *m, sq_error *err) {
    const sq_ct_scheme *s = &m->scheme;
    int64_t group = s->group_size == 0 ? m->k : s->group_size;
    sq_layout_form f = {r->layout, s->bits, m->n, m->k, group};
    sq_qlinear q = {.bits = s->bits,
                    .symmetric = s->symmetric,
                    .act_bits = s->act_bits,
                    .n = m->n,
                    .k = m->k,
                    .k_padded = sq_round_up(m->k, group),
                    .group = group,
                    .scale_type = SQ_F16};
    sq_qtensor want[SQ_QTENSORS];
    sq_error why = {0};
    if (sq_layout_check(&f, 0, &why) != SQ_OK) {
        sq_loading_say(&r->l, m->name, "%.300s", why.text);
        return SQ_OK;
    }
    int n = sq_qlinear_specs(&q, r->layout, want);
    for (int i = 0; i < n; i++) {
        const sq_tensor *t = take(r, m->name, want[i].suffix);
        int scale = want[i].dtype == SQ_F16;
        char name[600];
        if (t == NULL) {
            snprintf(name, sizeof name, "%.500s%s", m->name, want[i].suffix);
            sq_loading_say(&r->l, name, "is missing");
            continue;
        }
        int half = t->dtype == SQ_F16 || (t->dtype == SQ_BF16 && r->layout == SQ_LAYOUT_CT);
        if (allocate(r, t, want[i].rank, want[i].shape, scale ? half : t->dtype == want[i].dtype,
                     scale ? "F16" : sq_dtype_name(want[i].dtype))) {
            sq_status st = check_values(r, m, &f, want[i].suffix, t, err);
            if (st != SQ_OK) {
                return st;
            }
        }
    }
    return SQ_OK;
}

/* 1 when the files hold codes of the linear, in any layout. */
static int holds_codes(const reading *r, const char *stem) {
    static const char *const suffixes[] = {".weight_packed", ".qweight"};
    char name[600];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%.500s%s", stem, i < 2 ? suffixes[i] : ".weight");
        named key = {.canonical = name};
        const named *f = bsearch(&key, r->names, r->n_names, sizeof *r->names, by_name);
        if (f != NULL && (i < 2 || f->tensor->dtype == SQ_I8)) {
            return 1;
        }
    }
    return 0;
}

static sq_status check_module(reading *r, module *m, sq_error *err) {
    const int64_t shape[2] = {m->n, m->k};
    m->quantized = holds_codes(r, m->name);
    int named_so = says(r, m, &m->scheme);
    char name[600];
    engine_name(r, m->name, name);
    if (named_so && m->quantized) {
        return check_parts(r, m, err);
    }
    const sq_tensor *t = take(r, m->name, ".weight");
    if (m->quantized) {
        sq_loading_say(&r->l, m->name,
                       "is stored quantized; the config leaves '%.200s' in high precision", name);
    } else if (t == NULL) {
        sq_loading_say(&r->l, m->name, "is missing: neither '.weight' nor codes");
    } else if (named_so) {
        sq_loading_say(&r->l, t->name,
                       "is stored in high precision; by the config '%.200s' is quantized", name);
    } else {
        allocate(r, t, 2, shape, is_float(t->dtype), "a float type");
    }
    return SQ_OK;
}

/* ---- all tensors ---- */

static int is_linear(const reading *r, const char *name, sq_part part, int rank) {
    const sq_config *c = &r->l.config;
    const char *others[] = {c->text->embed, c->tower != NULL ? c->tower->positions : NULL};
    size_t n = strlen(name);
    if (rank != 2 || part == SQ_PART_HEAD || n < 7 || strcmp(name + n - 7, ".weight") != 0) {
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        if (others[i] != NULL && strlen(others[i]) == n - 7 &&
            strncmp(name, others[i], n - 7) == 0) {
            return 0;
        }
    }
    return 1;
}

static sq_status each(void *user, const char *name, sq_part part, int rank, const int64_t *shape,
                      sq_error *err) {
    reading *r = user;
    if (is_linear(r, name, part, rank)) {
        if (r->n_modules == r->cap) {
            size_t cap = 2 * r->cap + 64;
            module *more = sq_arena_alloc(&r->l.arena, cap, sizeof *more, err);
            if (more == NULL) {
                return SQ_ENOMEM;
            }
            if (r->n_modules > 0) {
                memcpy(more, r->modules, r->n_modules * sizeof *more);
            }
            r->modules = more;
            r->cap = cap;
        }
        module *m = &r->modules[r->n_modules++];
        *m = (module){.part = part, .n = shape[0], .k = shape[1]};
        m->name = sq_arena_printf(&r->l.arena, err, "%.*s", (int)strlen(name) - 7, name);
        return m->name == NULL ? SQ_ENOMEM : check_module(r, m, err);
    }
    const sq_tensor *t = take(r, name, "");
    char stem[600];
    size_t n = strlen(name), end = n > 7 && strcmp(name + n - 7, ".weight") == 0 ? 7 : 0;
    snprintf(stem, sizeof stem, "%.*s", (int)(n - end), name);
    if (holds_codes(r, stem)) {
        sq_loading_say(&r->l, stem, "is quantized; %s keeps embeddings and head in 16 bits",
                       sq_target_name(r->l.target));
    } else if (t == NULL) {
        sq_loading_say(&r->l, name, "is missing");
    } else {
        allocate(r, t, rank, shape, is_float(t->dtype), "a float type");
    }
    return SQ_OK;
}

/* A head that is the embeddings: its own tensors are dense copies at most. */
static void check_head(reading *r) {
    const char *head = r->l.config.text->head;
    module m = {.name = (char *)(uintptr_t)head, .part = SQ_PART_HEAD};
    if (r->l.config.tied && holds_codes(r, head)) {
        sq_loading_say(&r->l, head,
                       "is quantized, and tie_word_embeddings makes it the embeddings");
    } else if (r->l.config.tied) {
        take(r, head, ".weight");
    }
    /* A Linear for transformers; the other engines do not count it among them. */
    if (r->l.target == SQ_TARGET_TRANSFORMERS && r->q != NULL && r->layout == SQ_LAYOUT_CT &&
        says(r, &m, &m.scheme)) {
        sq_loading_say(&r->l, head, "is not in ignore; transformers would look for its codes");
    }
    if (sq_json_bool(r->l.quantization, "lm_head", 0)) {
        sq_loading_say(&r->l, "lm_head", "of quantization_config is true; the head is in 16 bits");
    }
}

static void check_leftovers(const reading *r) {
    for (size_t i = 0; i < r->n_names; i++) {
        const char *const *s = r->l.config.arch->superfluous;
        const char *name = r->names[i].canonical;
        int spare = r->names[i].used || strstr(name, "rotary_emb.inv_freq") != NULL;
        for (; s != NULL && *s != NULL && !spare; s++) {
            spare = strncmp(name, *s, strlen(*s)) == 0;
        }
        if (!spare) {
            sq_loading_say(&r->l, r->names[i].tensor->name, "has no place in the model of %s",
                           sq_target_name(r->l.target));
        }
    }
}

/* ---- kernels ---- */

static int fused(const module *a, const module *b) {
    const char *dot = strrchr(a->name, '.');
    int f = sq_target_fusion(a->name);
    size_t n = dot == NULL ? 0 : (size_t)(dot - a->name) + 1;
    return f != 0 && f == sq_target_fusion(b->name) && strncmp(a->name, b->name, n) == 0 &&
           strchr(b->name + n, '.') == NULL;
}

static void check_kernel(reading *r, const module *m) {
    sq_error why = {0};
    sq_target_linear x = {
        .layout = r->layout, .scheme = m->scheme, .n = m->n, .k = m->k, .n_rank = m->n};
    x.k_rank = m->k;
    if (m->scheme.group_size > 0) {
        x.padding = sq_round_up(m->k, m->scheme.group_size) - m->k;
    }
    for (size_t i = 0; sq_target_fuses(r->l.target) && i < r->n_modules; i++) {
        const module *o = &r->modules[i];
        if (o == m || !fused(m, o)) {
            continue;
        }
        x.n_rank += o->n;
        if (o->quantized != m->quantized ||
            (m->quantized && memcmp(&o->scheme, &m->scheme, sizeof m->scheme) != 0)) {
            sq_loading_say(&r->l, m->name, "and '%.200s' become one matrix, which has one scheme",
                           o->name);
            return;
        }
    }
    if (!m->quantized || m->scheme.bits == 0 || r->q == NULL) {
        return;
    }
    const sq_target_rule *rule = sq_target_find(r->l.engine, &x, &why);
    if (rule == NULL) {
        sq_loading_say(&r->l, m->name, "%.300s", why.text);
    } else if (sq_target_half(rule) && strcmp(r->l.config.dtype, "float16") != 0 && !r->half_said) {
        r->half_said = 1;
        sq_loading_say(
            &r->l, "dtype", "of config.json is '%s'; %s's %s takes float16 alone ('%.120s')",
            r->l.config.dtype, sq_target_name(r->l.target), sq_target_kernel(rule), m->name);
    }
}

/* ---- the whole ---- */

static sq_status check_tensors(reading *r, sq_error *err) {
    sq_error why = {0};
    sq_status st;
    if (r->l.quantization != NULL) {
        if (sq_qconfig_open(&r->q, r->l.quantization, &why) != SQ_OK) {
            sq_loading_say(&r->l, "quantization_config", "%.300s", why.text);
            return SQ_OK;
        }
        r->layout = sq_qconfig_layout(r->q);
    }
    if (sq_checkpoint_open(&r->files, r->l.path, &why) != SQ_OK) {
        sq_loading_say(&r->l, "model.safetensors", "%.300s", why.text);
        return SQ_OK;
    }
    SQ_TRY(read_names(r, err));
    SQ_TRY(sq_config_tensors(&r->l.config, each, r, err));
    check_head(r);
    check_leftovers(r);
    for (size_t i = 0; i < r->n_modules; i++) {
        check_kernel(r, &r->modules[i]);
    }
fail:
    return st;
}

/* Squint's own loader says what it has to say. */
static void check_squint(reading *r) {
    sq_net *net = NULL;
    sq_frontend front = {0};
    sq_error why = {0};
    sq_status st = sq_net_open(&net, r->l.path, &why);
    if (st == SQ_OK) {
        st = sq_frontend_open(&front, r->l.path, &net->config, &why);
    }
    if (st != SQ_OK) {
        sq_loading_say(&r->l, r->l.path, "%.380s", why.text);
    }
    sq_frontend_close(&front);
    sq_net_close(&net);
}

static sq_status check_folder(reading *r, sq_error *err) {
    sq_error why = {0};
    sq_status st;
    SQ_TRY(sq_loading_json(&r->l, err));
    if (sq_config_load(&r->l.config, r->l.path, &why) != SQ_OK) {
        sq_loading_say(&r->l, "config.json", "%.300s", why.text);
        return SQ_OK;
    }
    sq_loading_files(&r->l);
    sq_loading_keys(&r->l);
    if (r->l.target == SQ_TARGET_SQUINT) {
        check_squint(r);
    } else {
        st = check_tensors(r, err);
    }
fail:
    return st;
}

sq_status sq_target_check(const char *path, sq_engine e, sq_target_finding finding, void *user,
                          sq_error *err) {
    sq_target t = e.kind;
    reading r = {.l = {.path = path, .engine = e, .target = t, .finding = finding, .user = user}};
    sq_status st = SQ_OK;
    if (t == SQ_TARGET_LLAMACPP) {
        sq_loading_gguf(&r.l);
    } else if (!sq_is_dir(path)) {
        sq_loading_say(&r.l, path, "is no folder; %s loads folders", sq_target_name(t));
    } else {
        st = check_folder(&r, err);
    }
    sq_qconfig_close(&r.q);
    sq_checkpoint_close(&r.files);
    sq_config_free(&r.l.config);
    sq_arena_free(&r.l.arena);
    return st;
}
