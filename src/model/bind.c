/* Opens a checkpoint and binds every tensor of the architecture as a view: nothing dense is copied,
 * quantized linears are packed into the kernels' layout. All problems are reported in one error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/model.h"
#include "model/rope.h"

typedef struct named {
    char *canonical;
    const sq_tensor *tensor;
    int used, in_block;
} named;

typedef struct binder {
    sq_net *net;
    named *names; /* sorted by canonical name */
    size_t n_names;
    sq_ct_reader *ct; /* NULL for a plain checkpoint */
    int in_block;     /* what is found now belongs to a block or the projector */
    sq_buf problems;
    int n_problems;
    sq_arena scratch;
    sq_error *err;
} binder;

enum { MAX_NAME = 512, MAX_LISTED = 8 };

static void problem(binder *b, const char *fmt, const char *what, const char *detail) {
    b->n_problems++;
    if (b->n_problems <= MAX_LISTED) {
        if (b->problems.len != 0) {
            sq_buf_puts(&b->problems, "; ");
        }
        sq_buf_printf(&b->problems, fmt[0] == 'm' ? "missing %s%s" : "%s: %s", what, detail);
    }
}

static int by_canonical(const void *x, const void *y) {
    return strcmp(((const named *)x)->canonical, ((const named *)y)->canonical);
}

static sq_status index_names(binder *b) {
    sq_net *n = b->net;
    b->n_names = sq_checkpoint_count(n->ckpt);
    b->names = sq_arena_alloc(&b->scratch, b->n_names, sizeof *b->names, b->err);
    if (b->names == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < b->n_names; i++) {
        char buf[MAX_NAME];
        const sq_tensor *t = sq_checkpoint_at(n->ckpt, i);
        if (!sq_arch_canonical(n->config.arch, t->name, buf, sizeof buf)) {
            return sq_fail(b->err, SQ_EFORMAT, "a tensor name is too long; got %zu bytes",
                           strlen(t->name));
        }
        b->names[i] = (named){sq_arena_strdup(&b->scratch, buf, b->err), t, 0, 0};
        if (b->names[i].canonical == NULL) {
            return SQ_ENOMEM;
        }
    }
    if (b->n_names > 1) {
        qsort(b->names, b->n_names, sizeof *b->names, by_canonical);
    }
    for (size_t i = 1; i < b->n_names; i++) {
        if (strcmp(b->names[i - 1].canonical, b->names[i].canonical) == 0) {
            return sq_fail(b->err, SQ_EFORMAT, "two tensors have one meaning; got '%s' and '%s'",
                           b->names[i - 1].tensor->name, b->names[i].tensor->name);
        }
    }
    return SQ_OK;
}

static const sq_tensor *find(binder *b, const char *stem, const char *suffix) {
    char buf[MAX_NAME];
    snprintf(buf, sizeof buf, "%s%s", stem, suffix);
    named key = {.canonical = buf};
    named *f =
        b->n_names == 0 ? NULL : bsearch(&key, b->names, b->n_names, sizeof key, by_canonical);
    if (f == NULL) {
        return NULL;
    }
    f->used = 1;
    f->in_block = b->in_block;
    return f->tensor;
}

static const char *shape_text(char *buf, size_t cap, int rank, const int64_t *shape) {
    size_t at = 0;
    buf[0] = '\0';
    for (int i = 0; i < rank && at < cap; i++) {
        int n = snprintf(buf + at, cap - at, "%s%lld", i == 0 ? "[" : ", ", (long long)shape[i]);
        at += n < 0 ? 0 : (size_t)n;
    }
    if (at < cap) {
        snprintf(buf + at, cap - at, "%s", rank == 0 ? "[]" : "]");
    }
    return buf;
}

/* Records a problem unless the tensor has this shape and one of the float types. */
static int check(binder *b, const sq_tensor *t, int rank, const int64_t *shape) {
    int same = t->rank == rank;
    for (int i = 0; same && i < rank; i++) {
        same = t->shape[i] == shape[i];
    }
    if (!same) {
        char got[128], want[128], line[320];
        snprintf(line, sizeof line, "shape got %s, wanted %s",
                 shape_text(got, sizeof got, t->rank, t->shape),
                 shape_text(want, sizeof want, rank, shape));
        problem(b, "shape", t->name, line);
        return 0;
    }
    int blocks = rank == 2 && sq_dtype_block(t->dtype) > 1;
    if (!blocks && t->dtype != SQ_F32 && t->dtype != SQ_F16 && t->dtype != SQ_BF16) {
        char line[64];
        snprintf(line, sizeof line, "type got %s, wanted F32, F16 or BF16",
                 sq_dtype_name(t->dtype));
        problem(b, "type", t->name, line);
        return 0;
    }
    return 1;
}

/* An f32 copy of a vector, in the net's arena. */
static sq_status vector(binder *b, const char *stem, const char *suffix, int64_t n, float **out,
                        const sq_tensor **file) {
    const sq_tensor *t = find(b, stem, suffix);
    if (t == NULL) {
        problem(b, "missing", stem, suffix);
        return SQ_OK;
    }
    if (!check(b, t, 1, &n)) {
        return SQ_OK;
    }
    *out = sq_arena_alloc(&b->net->arena, (size_t)n, sizeof **out, b->err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    sq_to_f32(*out, t->data, t->dtype, (size_t)n);
    if (file != NULL) {
        *file = t;
    }
    return SQ_OK;
}

static char *file_stem(binder *b, const sq_tensor *t, const char *suffix) {
    return sq_arena_printf(&b->net->arena, b->err, "%.*s", (int)(strlen(t->name) - strlen(suffix)),
                           t->name);
}

/* A weight matrix as it lies in the file, or ggml's blocks packed. */
static sq_status weight_of(binder *b, sq_weight *w, const sq_tensor *t, const int64_t shape[2]) {
    if (sq_dtype_block(t->dtype) == 1) {
        return sq_weight_dense(w, t->dtype, t->data, shape[0], shape[1], b->err);
    }
    sq_status st = sq_weight_blocks(w, t->dtype, t->data, shape[0], shape[1], b->err);
    sq_tensor_release(t);
    return st;
}

/* `.weight_packed`, `.weight_scale`, `.weight_shape` and, when asymmetric, `.weight_zero_point`. */
static sq_status packed(binder *b, sq_linear *l, const sq_tensor *words, int64_t n, int64_t k) {
    l->file_name = file_stem(b, words, ".weight_packed");
    if (l->file_name == NULL) {
        return SQ_ENOMEM;
    }
    const sq_tensor *scale = find(b, l->name, ".weight_scale");
    const sq_tensor *zero = find(b, l->name, ".weight_zero_point");
    const sq_tensor *shape = find(b, l->name, ".weight_shape");
    if (b->ct == NULL || !sq_ct_reader_scheme(b->ct, l->file_name, &l->scheme)) {
        problem(b, "scheme", l->file_name, "packed, but quantization_config does not name it");
        return SQ_OK;
    }
    if (scale == NULL || shape == NULL || (zero == NULL) != (l->scheme.symmetric != 0)) {
        problem(b, "missing", l->file_name,
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
        problem(b, "shape", shape->name, "does not hold the architecture's dimensions");
        return SQ_OK;
    }
    /* The columns stored: padded up to a whole group where the group does not divide. */
    int64_t group = l->scheme.group_size == 0 ? k : l->scheme.group_size;
    int64_t kp = sq_round_up(k, group), groups = kp / group;
    int64_t ws[2] = {n, sq_ct_row_words(kp, (int)bits)}, ss[2] = {n, groups},
            zs[2] = {sq_ct_zero_rows(n, (int)bits), groups};
    if (!check(b, scale, 2, ss)) {
        return SQ_OK;
    }
    if (words->dtype != SQ_I32 || words->rank != 2 || words->shape[0] != ws[0] ||
        words->shape[1] != ws[1] ||
        (zero != NULL && (zero->dtype != SQ_I32 || zero->rank != 2 || zero->shape[0] != zs[0] ||
                          zero->shape[1] != zs[1]))) {
        problem(b, "shape", words->name, "packed codes or zero points do not fit the scheme");
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

/* compressed-tensors' int-quantized: `.weight` I8 [n][k, or padded], `.weight_scale` [n][groups],
 * symmetric. */
static sq_status int_quantized(binder *b, sq_linear *l, const sq_tensor *t, int64_t n, int64_t k) {
    l->file_name = file_stem(b, t, ".weight");
    const sq_tensor *scale = find(b, l->name, ".weight_scale");
    if (l->file_name == NULL) {
        return SQ_ENOMEM;
    }
    if (b->ct == NULL || scale == NULL || !sq_ct_reader_scheme(b->ct, l->file_name, &l->scheme) ||
        !l->scheme.symmetric) {
        problem(b, "scheme", l->file_name,
                "int8, without a scale or without a symmetric scheme in quantization_config");
        return SQ_OK;
    }
    int64_t group = l->scheme.group_size == 0 ? k : l->scheme.group_size;
    int64_t kp = sq_round_up(k, group), ss[2] = {n, kp / group}, per = 32 / l->scheme.bits;
    if (!check(b, scale, 2, ss)) {
        return SQ_OK;
    }
    if (t->rank != 2 || t->shape[0] != n || t->shape[1] != kp) {
        problem(b, "shape", t->name, "the codes do not fit the scheme");
        return SQ_OK;
    }
    size_t cells = (size_t)(n * (kp / group)), words = (size_t)((kp + per - 1) / per);
    float *s = sq_alloc_raw(cells, sizeof *s, "scales", b->err);
    uint32_t *w = sq_alloc((size_t)n, words * sizeof *w, "packed codes", b->err);
    sq_status st = s == NULL || w == NULL ? SQ_ENOMEM : SQ_OK;
    const int8_t *codes = t->data;
    int half = 1 << (l->scheme.bits - 1);
    for (int64_t i = 0; st == SQ_OK && i < n * kp; i++) {
        int64_t c = i % kp;
        uint32_t u = (uint32_t)(codes[i] + half) & (uint32_t)(2 * half - 1);
        w[(size_t)(i / kp) * words + (size_t)(c / per)] |= u << (c % per * l->scheme.bits);
    }
    if (st == SQ_OK) {
        sq_to_f32(s, scale->data, scale->dtype, cells);
        st = sq_weight_quantized(&l->weight, l->scheme.bits, w, s, NULL, n, k, kp, group, b->err);
        l->quantized = 1;
        sq_tensor_release(t);
    }
    sq_free(s);
    sq_free(w);
    return st;
}

/* What products with rounded inputs need beside the codes. */
static sq_status prepare_rounded(binder *b, sq_linear *l) {
    int sums = l->quantized && l->scheme.act_bits != 0 && !l->scheme.act_symmetric;
    return sums && l->weight.n > 0 ? sq_weight_sum_rows(&l->weight, b->err) : SQ_OK;
}

static sq_status bind_linear(binder *b, sq_linear *l, const sq_linear_row *row, const char *prefix,
                             sq_part part, int layer, int tap0) {
    const sq_config *c = &b->net->config;
    int64_t shape[2] = {c->dims[row->out], c->dims[row->in]};
    l->row = row;
    l->part = part;
    l->layer = layer;
    l->tap = tap0 + row->tap;
    l->name = sq_arena_printf(&b->net->arena, b->err, "%s%s", prefix, row->stem);
    if (l->name == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = SQ_OK;
    const sq_tensor *t = find(b, l->name, ".weight");
    if (t != NULL && t->dtype == SQ_I8) {
        st = int_quantized(b, l, t, shape[0], shape[1]);
    } else if (t != NULL) {
        l->file_name = file_stem(b, t, ".weight");
        st = l->file_name == NULL ? SQ_ENOMEM : SQ_OK;
        if (st == SQ_OK && check(b, t, 2, shape)) {
            l->quantized = sq_dtype_block(t->dtype) > 1;
            l->file = l->quantized ? NULL : t;
            st = weight_of(b, &l->weight, t, shape);
            l->scheme = (sq_ct_scheme){.bits = l->weight.kind == SQ_W_Q4 ? 4 : 8,
                                       .group_size = l->weight.group};
        }
    } else if ((t = find(b, l->name, ".weight_packed")) != NULL) {
        st = packed(b, l, t, shape[0], shape[1]);
    } else {
        problem(b, "missing", l->name, ".weight");
    }
    if (st == SQ_OK) {
        st = prepare_rounded(b, l);
    }
    int bias = sq_config_bias(c, row, part);
    if (st == SQ_OK && bias) {
        st = vector(b, l->name, ".bias", shape[0], &l->bias, NULL);
    }
    return st;
}

static sq_status bind_norm(binder *b, sq_norm *n, const char *prefix, const char *stem, int64_t dim,
                           int with_bias) {
    n->name = sq_arena_printf(&b->net->arena, b->err, "%s%s", prefix, stem);
    if (n->name == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = vector(b, n->name, ".weight", dim, &n->weight, &n->file);
    if (st == SQ_OK && n->file != NULL) {
        n->file_name = file_stem(b, n->file, ".weight");
        st = n->file_name == NULL ? SQ_ENOMEM : SQ_OK;
    }
    if (st == SQ_OK && with_bias) {
        st = vector(b, n->name, ".bias", dim, &n->bias, NULL);
    }
    return st;
}

static sq_status bind_block(binder *b, sq_block *blk, const sq_block_rows *rows, const char *prefix,
                            sq_part part, int layer, int tap0, int layernorm) {
    const int64_t *dims = b->net->config.dims;
    sq_status st = SQ_OK;
    b->in_block = 1;
    for (size_t i = 0; st == SQ_OK && i < rows->n_norms; i++) {
        st = bind_norm(b, &blk->norms[i], prefix, rows->norms[i].stem, dims[rows->norms[i].dim],
                       layernorm);
    }
    for (size_t i = 0; st == SQ_OK && i < rows->n_linears; i++) {
        const sq_linear_row *row = &rows->linears[i];
        st = bind_linear(b, &blk->linears[row->role], row, prefix, part, layer, tap0);
    }
    b->in_block = 0;
    return st;
}

static sq_status bind_stack(binder *b, sq_block **out, int64_t count, const sq_block_rows *rows,
                            const char *pattern, sq_part part, int tap0, int layernorm) {
    *out = sq_arena_alloc(&b->net->arena, (size_t)count, sizeof **out, b->err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    for (int64_t i = 0; i < count; i++) {
        char prefix[SQ_LAYER_PREFIX];
        sq_layer_prefix(prefix, pattern, (int)i);
        sq_status st = bind_block(b, &(*out)[i], rows, prefix, part, (int)i,
                                  tap0 + (int)i * rows->n_taps, layernorm);
        if (st != SQ_OK) {
            return st;
        }
    }
    return SQ_OK;
}

/* A tensor of the tower as an f32 copy, [n] or [rows][n]. */
static sq_status table(binder *b, const char *name, int64_t rows, int64_t n, float **out) {
    const sq_tensor *t = find(b, name, "");
    int64_t shape[2] = {rows, n};
    if (t == NULL) {
        problem(b, "missing", name, "");
        return SQ_OK;
    }
    if (!check(b, t, rows == 0 ? 1 : 2, rows == 0 ? &n : shape)) {
        return SQ_OK;
    }
    size_t count = (size_t)(rows == 0 ? n : rows * n);
    *out = sq_arena_alloc(&b->net->arena, count, sizeof **out, b->err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    sq_to_f32(*out, t->data, t->dtype, count);
    return SQ_OK;
}

static sq_status bind_patch_embed(binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_tower *a = c->tower;
    const sq_tensor *t = find(b, a->patch_embed, ".weight");
    int flat = a->kind == SQ_TOWER_VIT; /* Conv2d, else Conv3d */
    int64_t shape[5] = {c->dims[SQ_D_V_WIDTH], c->channels, c->temporal_patch, c->patch, c->patch};
    int64_t k = shape[1] * shape[2] * shape[3] * shape[4];
    if (flat) {
        shape[2] = c->patch;
    }
    sq_status st = SQ_OK;
    n->patch_embed.name = a->patch_embed;
    n->patch_embed.tap = -1;
    if (t == NULL) {
        problem(b, "missing", a->patch_embed, ".weight");
    } else if (check(b, t, flat ? 4 : 5, shape)) {
        n->patch_embed.file = t;
        st = sq_weight_dense(&n->patch_embed.weight, t->dtype, t->data, shape[0], k, b->err);
    }
    if (st == SQ_OK && a->patch_bias) {
        st = vector(b, a->patch_embed, ".bias", shape[0], &n->patch_embed.bias, NULL);
    }
    return st;
}

/* What only towers of fixed size have. */
static sq_status bind_vit(binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_tower *a = c->tower;
    int64_t width = c->dims[SQ_D_V_WIDTH];
    char name[MAX_NAME];
    sq_status st;
    if (a->class_embed != NULL) {
        SQ_TRY(table(b, a->class_embed, 0, width, &n->class_embed));
    }
    if (a->pre_norm != NULL) {
        SQ_TRY(bind_norm(b, &n->pre_norm, "", a->pre_norm, width, 1));
    }
    if (c->arch->newline != NULL) {
        SQ_TRY(table(b, c->arch->newline, 0, c->dims[SQ_D_V_OUT], &n->newline));
    }
    snprintf(name, sizeof name, "%s.weight", a->positions);
    st = table(b, name, sq_config_tile_rows(c), width, &n->v_positions);
fail:
    return st;
}

static sq_status bind_vision(binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_tower *a = c->tower;
    const sq_projector *p = c->projector;
    int ln = a->norm == SQ_NORM_LAYER;
    sq_status st;
    SQ_TRY(bind_patch_embed(b));
    SQ_TRY(bind_stack(b, &n->v_layers, c->v_layers, &a->block, a->layer_prefix, SQ_PART_VISION, 0,
                      ln));
    SQ_TRY(bind_block(b, &n->merger, &p->rows, p->prefix, SQ_PART_MERGER, 0,
                      (int)c->v_layers * a->block.n_taps, ln));
    if (a->kind == SQ_TOWER_VIT) {
        return bind_vit(b);
    }
    n->v_inv_freq = sq_arena_alloc(&n->arena, (size_t)c->v_head_dim / 4, sizeof(float), b->err);
    if (n->v_inv_freq == NULL) {
        return SQ_ENOMEM;
    }
    sq_rope_inv_freq(n->v_inv_freq, c->v_head_dim / 2, 10000.0);
    return SQ_OK;
fail:
    return st;
}

/* GGUF holds Llama-3's rope scaling as a divisor for each frequency. */
static sq_status rope_factors(binder *b) {
    sq_net *n = b->net;
    const sq_tensor *t = find(b, "model.rotary_emb", ".factors");
    int64_t half = n->config.head_dim / 2;
    if (t == NULL || !check(b, t, 1, &half)) {
        return SQ_OK;
    }
    for (int64_t i = 0; i < half; i++) {
        float f;
        sq_to_f32(&f, (const char *)t->data + (size_t)i * sq_dtype_size(t->dtype), t->dtype, 1);
        n->inv_freq[i] /= f;
    }
    return SQ_OK;
}

static sq_status bind_text(binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_arch *a = c->text;
    int64_t shape[2] = {c->dims[SQ_D_VOCAB], c->dims[SQ_D_HIDDEN]};
    sq_status st = SQ_OK;
    n->embed_file = find(b, a->embed, ".weight");
    if (n->embed_file == NULL) {
        problem(b, "missing", a->embed, ".weight");
    } else if (check(b, n->embed_file, 2, shape)) {
        SQ_TRY(weight_of(b, &n->embed, n->embed_file, shape));
    }
    SQ_TRY(bind_stack(b, &n->layers, c->layers, &a->text, a->layer_prefix, SQ_PART_TEXT,
                      sq_net_taps(n) - (int)c->layers * a->text.n_taps, 0));
    SQ_TRY(bind_norm(b, &n->final_norm, "", a->final_norm, shape[1], 0));
    const sq_tensor *head = find(b, a->head, ".weight");
    n->head = n->embed;
    if (!c->tied && head == NULL) {
        problem(b, "missing", a->head, ".weight");
    } else if (!c->tied && check(b, head, 2, shape)) {
        SQ_TRY(weight_of(b, &n->head, head, shape));
    }
    n->inv_freq = sq_arena_alloc(&n->arena, (size_t)c->head_dim / 2, sizeof(float), b->err);
    if (n->inv_freq == NULL) {
        return SQ_ENOMEM;
    }
    sq_rope_text_freq(n->inv_freq, c);
    return rope_factors(b);
fail:
    return st;
}

static int superfluous(const sq_arch *a, const char *name) {
    for (const char *const *p = a->superfluous; p != NULL && *p != NULL; p++) {
        if (strncmp(name, *p, strlen(*p)) == 0) {
            return 1;
        }
    }
    return 0;
}

static void report_extras(binder *b) {
    for (size_t i = 0; i < b->n_names; i++) {
        const char *s = b->names[i].canonical;
        if (!b->names[i].used && strstr(s, "rotary_emb.inv_freq") == NULL &&
            !superfluous(b->net->config.arch, s)) {
            problem(b, "extra", b->names[i].tensor->name, "no place in this architecture");
        }
    }
}

static sq_status mark_blocks(binder *b) {
    sq_net *n = b->net;
    n->in_block = sq_arena_alloc(&n->arena, b->n_names + 1, 1, b->err);
    for (size_t i = 0; n->in_block != NULL && i < b->n_names; i++) {
        n->in_block[b->names[i].tensor - sq_checkpoint_at(n->ckpt, 0)] =
            (unsigned char)b->names[i].in_block;
    }
    return n->in_block == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status bind_all(binder *b) {
    sq_net *n = b->net;
    sq_status st;
    SQ_TRY(index_names(b));
    n->quantization = json_object_get(n->config.json, "quantization_config");
    if (json_is_object(n->quantization)) {
        SQ_TRY(sq_ct_reader_open(&b->ct, n->quantization, b->err));
    }
    if (n->config.tower != NULL) {
        SQ_TRY(bind_vision(b));
    }
    SQ_TRY(bind_text(b));
    report_extras(b);
    if (b->n_problems > 0) {
        return sq_fail(b->err, SQ_EFORMAT, "the tensors do not fit %s (%d problem%s): %s%s",
                       n->config.arch->title, b->n_problems, b->n_problems == 1 ? "" : "s",
                       b->problems.data, b->n_problems > MAX_LISTED ? "; …" : "");
    }
    return mark_blocks(b);
fail:
    return st;
}

sq_status sq_net_open(sq_net **out, const char *dir, sq_error *err) {
    *out = NULL;
    sq_net *n = sq_alloc(1, sizeof *n, "a model", err);
    if (n == NULL) {
        return SQ_ENOMEM;
    }
    binder b = {.net = n, .err = err};
    sq_status st = sq_config_load(&n->config, dir, err);
    if (st == SQ_OK) {
        st = sq_checkpoint_open(&n->ckpt, dir, err);
    }
    if (st == SQ_OK) {
        st = bind_all(&b);
        if (st != SQ_OK) {
            sq_error_prefix(err, "%s: ", dir);
        }
    }
    sq_ct_reader_close(&b.ct);
    sq_buf_free(&b.problems);
    sq_arena_free(&b.scratch);
    if (st != SQ_OK) {
        sq_net_close(&n);
    }
    *out = n;
    return st;
}

static sq_status free_linear(void *user, sq_linear *l, sq_error *err) {
    (void)user;
    (void)err;
    sq_weight_free(&l->weight);
    return SQ_OK;
}

void sq_net_close(sq_net **net) {
    sq_net *n = *net;
    if (n == NULL) {
        return;
    }
    sq_net_each_linear(n, free_linear, NULL, NULL);
    if (n->head.owned != n->embed.owned) {
        sq_weight_free(&n->head);
    }
    sq_weight_free(&n->embed);
    sq_checkpoint_close(&n->ckpt);
    sq_arena_free(&n->arena);
    sq_config_free(&n->config);
    sq_free(n);
    *net = NULL;
}

static sq_status each_of_block(sq_block *blk, const sq_block_rows *rows, sq_linear_fn f, void *user,
                               sq_error *err) {
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < rows->n_linears; i++) {
        st = f(user, &blk->linears[rows->linears[i].role], err);
    }
    return st;
}

sq_status sq_net_each_linear(sq_net *n, sq_linear_fn f, void *user, sq_error *err) {
    const sq_config *c = &n->config;
    sq_status st = SQ_OK;
    for (int64_t i = 0; st == SQ_OK && n->v_layers != NULL && i < c->v_layers; i++) {
        st = each_of_block(&n->v_layers[i], &c->tower->block, f, user, err);
    }
    if (st == SQ_OK && c->projector != NULL) {
        st = each_of_block(&n->merger, &c->projector->rows, f, user, err);
    }
    for (int64_t i = 0; st == SQ_OK && n->layers != NULL && i < c->layers; i++) {
        st = each_of_block(&n->layers[i], &c->text->text, f, user, err);
    }
    return st;
}

int sq_net_taps(const sq_net *n) {
    const sq_config *c = &n->config;
    int vision = c->tower == NULL
                     ? 0
                     : (int)c->v_layers * c->tower->block.n_taps + c->projector->rows.n_taps;
    return vision + (int)c->layers * c->text->text.n_taps;
}

typedef struct tap_search {
    int tap;
    const char *name;
} tap_search;

static sq_status match_tap(void *user, sq_linear *l, sq_error *err) {
    tap_search *s = user;
    (void)err;
    if (s->name == NULL && l->tap == s->tap) {
        s->name = l->name;
    }
    return SQ_OK;
}

const char *sq_net_tap_name(const sq_net *n, int tap) {
    tap_search s = {.tap = tap};
    /* The visitor only reads. */
    sq_net_each_linear((sq_net *)(uintptr_t)n, match_tap, &s, NULL);
    return s.name;
}
