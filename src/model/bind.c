/* Opens a checkpoint and binds every tensor of the architecture as a view: nothing dense is copied,
 * quantized linears are packed into the kernels' layout. All problems are reported in one error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/bind.h"
#include "model/rope.h"

enum { MAX_NAME = 512, MAX_LISTED = 8 };

void sq_bind_problem(sq_binder *b, const char *fmt, const char *what, const char *detail) {
    b->n_problems++;
    if (b->n_problems <= MAX_LISTED) {
        if (b->problems.len != 0) {
            sq_buf_puts(&b->problems, "; ");
        }
        sq_buf_printf(&b->problems,
                      fmt[0] == 'm'   ? "missing %s%s"
                      : fmt[0] == 't' ? "%s%s"
                                      : "%s: %s",
                      what, detail);
    }
}

static int by_canonical(const void *x, const void *y) {
    return strcmp(((const sq_named *)x)->canonical, ((const sq_named *)y)->canonical);
}

static sq_status index_names(sq_binder *b) {
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
        b->names[i] = (sq_named){sq_arena_strdup(&b->scratch, buf, b->err), t, 0, 0};
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

const sq_tensor *sq_bind_find(sq_binder *b, const char *stem, const char *suffix) {
    char buf[MAX_NAME];
    snprintf(buf, sizeof buf, "%s%s", stem, suffix);
    sq_named key = {.canonical = buf};
    sq_named *f =
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

int sq_bind_check(sq_binder *b, const sq_tensor *t, int rank, const int64_t *shape) {
    int same = t->rank == rank;
    for (int i = 0; same && i < rank; i++) {
        same = t->shape[i] == shape[i];
    }
    if (!same) {
        char got[128], want[128], line[320];
        snprintf(line, sizeof line, "shape got %s, wanted %s",
                 shape_text(got, sizeof got, t->rank, t->shape),
                 shape_text(want, sizeof want, rank, shape));
        sq_bind_problem(b, "shape", t->name, line);
        return 0;
    }
    int blocks = rank == 2 && sq_dtype_block(t->dtype) > 1;
    if (!blocks && t->dtype != SQ_F32 && t->dtype != SQ_F16 && t->dtype != SQ_BF16) {
        char line[64];
        snprintf(line, sizeof line, "type got %s, wanted F32, F16 or BF16",
                 sq_dtype_name(t->dtype));
        sq_bind_problem(b, "type", t->name, line);
        return 0;
    }
    return 1;
}

/* An f32 copy of a vector, in the net's arena. */
static sq_status vector(sq_binder *b, const char *stem, const char *suffix, int64_t n, float **out,
                        const sq_tensor **file) {
    const sq_tensor *t = sq_bind_find(b, stem, suffix);
    if (t == NULL) {
        sq_bind_problem(b, "missing", stem, suffix);
        return SQ_OK;
    }
    if (!sq_bind_check(b, t, 1, &n)) {
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

char *sq_bind_stem(sq_binder *b, const sq_tensor *t, const char *suffix) {
    return sq_arena_printf(&b->net->arena, b->err, "%.*s", (int)(strlen(t->name) - strlen(suffix)),
                           t->name);
}

/* A weight matrix as it lies in the file, or ggml's blocks packed. */
static sq_status weight_of(sq_binder *b, const char *name, sq_weight *w, const sq_tensor *t,
                           const int64_t shape[2]) {
    sq_block_form form;
    if (sq_dtype_block(t->dtype) == 1) {
        return sq_weight_dense(w, t->dtype, t->data, shape[0], shape[1], b->err);
    }
    if (sq_block_describe(t->dtype, &form) &&
        sq_packed_take(b->net->packed, name, form.bits, shape[0], shape[1], w)) {
        return SQ_OK;
    }
    sq_status st = sq_weight_blocks(w, t->dtype, t->data, shape[0], shape[1], b->err);
    sq_tensor_release(t);
    return st;
}

static sq_status bind_linear(sq_binder *b, sq_linear *l, const sq_linear_row *row,
                             const char *prefix, sq_part part, int layer, int tap0) {
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
    int found = 0;
    sq_status st = sq_bind_quantized(b, l, shape[0], shape[1], &found);
    const sq_tensor *t = st == SQ_OK && !found ? sq_bind_find(b, l->name, ".weight") : NULL;
    if (t != NULL) {
        l->file_name = sq_bind_stem(b, t, ".weight");
        st = l->file_name == NULL ? SQ_ENOMEM : SQ_OK;
        if (st == SQ_OK && sq_bind_check(b, t, 2, shape)) {
            l->quantized = sq_dtype_block(t->dtype) > 1;
            l->file = l->quantized ? NULL : t;
            st = weight_of(b, l->name, &l->weight, t, shape);
            l->scheme = (sq_ct_scheme){.bits = l->weight.kind == SQ_W_Q4 ? 4 : 8,
                                       .group_size = l->weight.group};
        }
    } else if (st == SQ_OK && !found) {
        sq_bind_problem(b, "missing", l->name, ".weight");
    }
    /* Some packages give every quantized linear a bias. */
    int bias =
        sq_config_bias(c, row, part) || (b->q != NULL && sq_qconfig_layout(b->q) != SQ_LAYOUT_CT &&
                                         l->quantized && sq_bind_find(b, l->name, ".bias") != NULL);
    if (st == SQ_OK && bias) {
        st = vector(b, l->name, ".bias", shape[0], &l->bias, NULL);
    }
    return st;
}

static sq_status bind_norm(sq_binder *b, sq_norm *n, const char *prefix, const char *stem,
                           int64_t dim, int with_bias) {
    n->name = sq_arena_printf(&b->net->arena, b->err, "%s%s", prefix, stem);
    if (n->name == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = vector(b, n->name, ".weight", dim, &n->weight, &n->file);
    if (st == SQ_OK && n->file != NULL) {
        n->file_name = sq_bind_stem(b, n->file, ".weight");
        st = n->file_name == NULL ? SQ_ENOMEM : SQ_OK;
    }
    if (st == SQ_OK && with_bias) {
        st = vector(b, n->name, ".bias", dim, &n->bias, NULL);
    }
    return st;
}

static sq_status bind_block(sq_binder *b, sq_block *blk, const sq_block_rows *rows,
                            const char *prefix, sq_part part, int layer, int tap0, int layernorm) {
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

static sq_status bind_stack(sq_binder *b, sq_block **out, int64_t count, const sq_block_rows *rows,
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
static sq_status table(sq_binder *b, const char *name, int64_t rows, int64_t n, float **out) {
    const sq_tensor *t = sq_bind_find(b, name, "");
    int64_t shape[2] = {rows, n};
    if (t == NULL) {
        sq_bind_problem(b, "missing", name, "");
        return SQ_OK;
    }
    if (!sq_bind_check(b, t, rows == 0 ? 1 : 2, rows == 0 ? &n : shape)) {
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

static sq_status bind_patch_embed(sq_binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_tower *a = c->tower;
    const sq_tensor *t = sq_bind_find(b, a->patch_embed, ".weight");
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
        sq_bind_problem(b, "missing", a->patch_embed, ".weight");
    } else if (sq_bind_check(b, t, flat ? 4 : 5, shape)) {
        n->patch_embed.file = t;
        st = sq_weight_dense(&n->patch_embed.weight, t->dtype, t->data, shape[0], k, b->err);
    }
    if (st == SQ_OK && a->patch_bias) {
        st = vector(b, a->patch_embed, ".bias", shape[0], &n->patch_embed.bias, NULL);
    }
    return st;
}

/* What only towers of fixed size have. */
static sq_status bind_vit(sq_binder *b) {
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

static sq_status bind_vision(sq_binder *b) {
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
static sq_status rope_factors(sq_binder *b) {
    sq_net *n = b->net;
    const sq_tensor *t = sq_bind_find(b, "model.rotary_emb", ".factors");
    int64_t half = n->config.head_dim / 2;
    if (t == NULL || !sq_bind_check(b, t, 1, &half)) {
        return SQ_OK;
    }
    for (int64_t i = 0; i < half; i++) {
        float f;
        sq_to_f32(&f, (const char *)t->data + (size_t)i * sq_dtype_size(t->dtype), t->dtype, 1);
        n->inv_freq[i] /= f;
    }
    return SQ_OK;
}

static sq_status bind_text(sq_binder *b) {
    sq_net *n = b->net;
    const sq_config *c = &n->config;
    const sq_arch *a = c->text;
    sq_status st;
    n->outside[0] = (sq_linear_row){0, a->embed, SQ_D_VOCAB, SQ_D_HIDDEN, 0, 0};
    n->outside[1] = (sq_linear_row){0, a->head, SQ_D_VOCAB, SQ_D_HIDDEN, 0, 0};
    SQ_TRY(bind_linear(b, &n->embed, &n->outside[0], "", SQ_PART_EMBED, 0, -1));
    SQ_TRY(bind_stack(b, &n->layers, c->layers, &a->text, a->layer_prefix, SQ_PART_TEXT,
                      sq_net_taps(n) - (int)c->layers * a->text.n_taps, 0));
    SQ_TRY(bind_norm(b, &n->final_norm, "", a->final_norm, c->dims[SQ_D_HIDDEN], 0));
    if (c->tied) {
        sq_bind_find(b, a->head, ".weight"); /* some checkpoints store it twice */
        n->head = n->embed;
    } else {
        SQ_TRY(bind_linear(b, &n->head, &n->outside[1], "", SQ_PART_HEAD, 0, -1));
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

static void report_extras(sq_binder *b) {
    for (size_t i = 0; i < b->n_names; i++) {
        const char *s = b->names[i].canonical;
        if (!b->names[i].used && strstr(s, "rotary_emb.inv_freq") == NULL &&
            !superfluous(b->net->config.arch, s)) {
            sq_bind_problem(b, "extra", b->names[i].tensor->name, "no place in this architecture");
        }
    }
}

static sq_status mark_blocks(sq_binder *b) {
    sq_net *n = b->net;
    n->in_block = sq_arena_alloc(&n->arena, b->n_names + 1, 1, b->err);
    n->bound = sq_arena_alloc(&n->arena, b->n_names + 1, 1, b->err);
    if (n->in_block == NULL || n->bound == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < b->n_names; i++) {
        const sq_named *x = &b->names[i];
        ptrdiff_t at = x->tensor - sq_checkpoint_at(n->ckpt, 0);
        n->in_block[at] = (unsigned char)x->in_block;
        n->bound[at] = (unsigned char)(x->used != 0);
    }
    return SQ_OK;
}

static sq_status bind_all(sq_binder *b, const char *dir) {
    sq_net *n = b->net;
    sq_status st;
    SQ_TRY(index_names(b));
    SQ_TRY(sq_bind_config(b, dir));
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

static sq_status open_net(sq_net **out, const char *dir, int packed, sq_error *err) {
    *out = NULL;
    sq_net *n = sq_alloc(1, sizeof *n, "a model", err);
    if (n == NULL) {
        return SQ_ENOMEM;
    }
    sq_binder b = {.net = n, .err = err};
    sq_status st = sq_config_load(&n->config, dir, err);
    if (st == SQ_OK) {
        st = sq_checkpoint_open(&n->ckpt, dir, err);
    }
    if (st == SQ_OK && packed) {
        st = sq_packed_open(&n->packed, dir, err);
    }
    if (st == SQ_OK) {
        st = bind_all(&b, dir);
        if (st != SQ_OK) {
            sq_error_prefix(err, "%s: ", dir);
        }
    }
    sq_qconfig_close(&b.q);
    sq_buf_free(&b.problems);
    sq_arena_free(&b.scratch);
    if (st != SQ_OK) {
        sq_net_close(&n);
    }
    *out = n;
    return st;
}

sq_status sq_net_open(sq_net **out, const char *dir, sq_error *err) {
    return open_net(out, dir, 0, err);
}

sq_status sq_net_open_packed(sq_net **out, const char *dir, sq_error *err) {
    return open_net(out, dir, 1, err);
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
    if (n->head.weight.owned != n->embed.weight.owned) {
        sq_weight_free(&n->head.weight);
    }
    sq_weight_free(&n->embed.weight);
    sq_packed_close(&n->packed);
    sq_checkpoint_close(&n->ckpt);
    sq_arena_free(&n->arena);
    sq_config_free(&n->config);
    sq_free(n);
    *net = NULL;
}

void sq_net_release(const sq_net *n) {
    for (size_t i = 0; i < sq_checkpoint_count(n->ckpt); i++) {
        sq_tensor_release(sq_checkpoint_at(n->ckpt, i));
    }
}

static sq_status use_bf16(void *user, sq_linear *l, sq_error *err) {
    (void)user;
    (void)err;
    l->bf16 = l->weight.kind == SQ_W_BF16;
    return SQ_OK;
}

void sq_net_use_bf16(sq_net *n) { sq_net_each_linear(n, use_bf16, NULL, NULL); }

/* What a rounded head is kept as. */
static const char *head_name(int bits) {
    return bits == 4 ? "the head in 4 bits" : "the head in 8 bits";
}

sq_status sq_net_round_head(sq_net *n, int bits, sq_error *err) {
    sq_weight w, *dense = &n->head.weight;
    sq_status st = SQ_OK;
    if (!sq_packed_take(n->packed, head_name(bits), bits, dense->n, dense->k, &w)) {
        st = sq_weight_round(&w, dense, bits, err);
    }
    if (st == SQ_OK) {
        n->head_bits = bits;
        if (n->head.file != NULL) {
            sq_tensor_release(n->head.file);
        }
        n->head.weight = w; /* a dense one owns nothing */
        n->head.quantized = 1;
        n->head.scheme = (sq_ct_scheme){.bits = bits, .group_size = w.group};
    }
    return st;
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

sq_status sq_net_every_linear(sq_net *n, sq_linear_fn f, void *user, sq_error *err) {
    sq_status st = sq_net_each_linear(n, f, user, err);
    st = st == SQ_OK ? f(user, &n->embed, err) : st;
    return st == SQ_OK && !n->config.tied ? f(user, &n->head, err) : st;
}

typedef struct packed_list {
    sq_packed_item *items; /* NULL: only counted */
    size_t n, bytes;
} packed_list;

static void list(packed_list *p, const char *name, const sq_weight *w) {
    if (p->items != NULL) {
        p->items[p->n] = (sq_packed_item){name, w};
        p->bytes += sq_weight_bytes(w);
    }
    p->n++;
}

static sq_status list_packed(void *user, sq_linear *l, sq_error *err) {
    (void)err;
    if (l->weight.kind == SQ_W_Q4 || l->weight.kind == SQ_W_Q8) {
        list(user, l->name, &l->weight);
    }
    return SQ_OK;
}

static void list_all(sq_net *n, packed_list *p) {
    sq_net_each_linear(n, list_packed, p, NULL);
    list_packed(p, &n->embed, NULL);
    if (n->head_bits > 0) {
        list(p, head_name(n->head_bits), &n->head.weight);
    } else if (!n->config.tied) {
        list_packed(p, &n->head, NULL);
    }
}

sq_status sq_net_keep_packed(const sq_net *n, size_t *bytes, sq_error *err) {
    *bytes = 0;
    if (n->packed == NULL || !n->packed->missed) {
        return SQ_OK;
    }
    packed_list p = {0};
    sq_net *net = (sq_net *)(uintptr_t)n; /* the visitor only reads */
    list_all(net, &p);
    p.items = sq_alloc(p.n + 1, sizeof *p.items, "a list of linears", err);
    if (p.items == NULL) {
        return SQ_ENOMEM;
    }
    p.n = 0;
    list_all(net, &p);
    sq_status st = sq_packed_write(n->packed, p.items, p.n, err);
    sq_free(p.items);
    *bytes = st == SQ_OK ? p.bytes : 0;
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
