/* convert to GGUF: names, metadata and the order of rows follow llama.cpp's conversion/base.py,
 * llama.py and qwenvl.py. Codes stay what they are. All is checked before the first byte is
 * written.
 */
#include "quant/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "format/gguf_blocks.h"
#include "format/gguf_vocab.h"
#include "format/source.h"
#include "model/rope.h"
#include "quant/output.h"
#include "quant/quant.h"

/* ---- what is written ---- */

static sq_gguf_item *new_item(sq_gguf_job *j, const char *name) {
    if (j->n == j->cap) {
        void *p = j->items;
        size_t cap = 2 * j->cap + 64;
        if (sq_grow(&p, j->n * sizeof *j->items, cap, sizeof *j->items, "tensors", j->err) !=
            SQ_OK) {
            return NULL;
        }
        j->items = p;
        j->cap = cap;
    }
    sq_gguf_item *t = &j->items[j->n++];
    *t = (sq_gguf_item){.rank = 2};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

sq_status sq_gguf_item_rows(sq_gguf_job *j, const char *name, const float *v, int64_t rows,
                            int64_t k) {
    sq_gguf_item *t = v == NULL ? NULL : new_item(j, name);
    if (t == NULL) {
        return v == NULL ? SQ_OK : SQ_ENOMEM;
    }
    t->type = SQ_F32;
    t->vector = v;
    t->shape[0] = rows;
    t->shape[1] = k;
    return SQ_OK;
}

sq_status sq_gguf_item_vector(sq_gguf_job *j, const char *name, const float *v, int64_t n) {
    sq_status st = sq_gguf_item_rows(j, name, v, n, 1);
    if (st == SQ_OK && v != NULL) {
        j->items[j->n - 1].rank = 1;
    }
    return st;
}

static sq_dtype type_of(const sq_weight *w) {
    return w->kind == SQ_W_F32 ? SQ_F32 : w->kind == SQ_W_F16 ? SQ_F16 : SQ_BF16;
}

/* The type of floats in the file. */
static sq_dtype dense_type(const sq_gguf_job *j, const sq_weight *w) {
    sq_dtype t = j->has_dtype ? j->dtype : type_of(w);
    /* As ggml's own quantizer: what blocks do not divide stays. */
    return w->k % (int64_t)sq_dtype_block(t) == 0 ? t : type_of(w);
}

/* The block type that holds a linear's codes. */
static sq_status codes_type(sq_gguf_job *j, const sq_linear *l, sq_dtype *type) {
    sq_qlinear q = {0};
    int64_t rounded = 0;
    sq_status st = sq_output_read(j->net, j->q, l, &q, j->err);
    st = st == SQ_OK ? sq_gguf_block_type(&q, j->o->lossy, l->file_name, type, &rounded, j->err)
                     : st;
    sq_qlinear_free(&q);
    j->rounded += rounded;
    return st;
}

sq_status sq_gguf_item_linear(sq_gguf_job *j, const char *name, const sq_linear *l, int64_t row0,
                              int64_t rows, int64_t heads) {
    sq_dtype type = l->quantized ? SQ_F32 : dense_type(j, &l->weight);
    sq_status st = l->quantized ? codes_type(j, l, &type) : SQ_OK;
    sq_gguf_item *t = st == SQ_OK ? new_item(j, name) : NULL;
    if (t == NULL) {
        return st == SQ_OK ? SQ_ENOMEM : st;
    }
    t->linear = l->quantized ? l : NULL;
    t->dense = l->quantized ? NULL : &l->weight;
    t->row0 = row0;
    t->shape[0] = t->rows = rows;
    t->shape[1] = t->k = l->weight.k;
    t->heads = heads;
    t->type = type;
    return SQ_OK;
}

sq_status sq_gguf_item_patch(sq_gguf_job *j, const char *name, const sq_weight *w, int64_t frame) {
    const sq_config *c = &j->net->config;
    sq_gguf_item *t = new_item(j, name);
    if (t == NULL) {
        return SQ_ENOMEM;
    }
    t->rank = 4;
    t->dense = w;
    t->rows = w->n;
    t->k = w->k;
    t->frame = frame;
    t->channels = c->channels;
    t->frames = w->k / (c->channels * c->patch * c->patch);
    t->type = type_of(w) == SQ_F16 && !j->has_dtype ? SQ_F16 : SQ_F32; /* ggml's im2col has these */
    t->shape[0] = w->n;
    t->shape[1] = c->channels;
    t->shape[2] = t->shape[3] = c->patch;
    return SQ_OK;
}

/* ---- writing ---- */

/* Row r of the file, as a row of the source. */
static int64_t source_row(const sq_gguf_item *t, int64_t r) {
    if (t->heads > 0) {
        int64_t d = t->rows / t->heads, i = r % d;
        r = r - i + i % 2 * (d / 2) + i / 2;
    }
    return t->row0 + r;
}

static sq_status write_codes(sq_gguf_job *j, const sq_gguf_item *t) {
    size_t row = (size_t)t->k / sq_dtype_block(t->type) * sq_dtype_size(t->type);
    sq_qlinear q = {0};
    sq_status st = sq_output_read(j->net, j->q, t->linear, &q, j->err);
    uint8_t *out = st == SQ_OK ? sq_alloc_raw((size_t)t->rows, row, t->name, j->err) : NULL;
    if (out != NULL) {
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < t->rows; r++) {
            sq_gguf_block_row(&q, t->type, source_row(t, r), out + (size_t)r * row);
        }
        st = sq_gguf_write(j->w, out, (size_t)t->rows * row, j->err);
    }
    sq_free(out);
    sq_qlinear_free(&q);
    return st == SQ_OK && out == NULL ? SQ_ENOMEM : st;
}

/* Rows in slices of some megabytes. */
static sq_status write_dense(sq_gguf_job *j, const sq_gguf_item *t) {
    enum { NUMBERS = 1 << 20 };
    sq_dtype from = type_of(t->dense);
    size_t in = (size_t)t->k * sq_dtype_size(from),
           row = (size_t)t->k / sq_dtype_block(t->type) * sq_dtype_size(t->type);
    int64_t slice = t->k < NUMBERS ? NUMBERS / t->k : 1;
    const char *data = t->dense->data;
    float *f = sq_alloc_raw((size_t)t->k, sizeof *f, t->name, j->err);
    uint8_t *out = sq_alloc_raw((size_t)slice, row, t->name, j->err);
    sq_status st = f == NULL || out == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t at = 0; st == SQ_OK && at < t->rows; at += slice) {
        int64_t n = t->rows - at < slice ? t->rows - at : slice;
        for (int64_t r = 0; r < n; r++) {
            const char *src = data + (size_t)source_row(t, at + r) * in;
            uint8_t *to = out + (size_t)r * row;
            if (t->type == from) {
                memcpy(to, src, row);
                continue;
            }
            sq_to_f32(f, src, from, (size_t)t->k);
            if (t->type == SQ_Q8_0) {
                sq_gguf_round_q8_0(f, t->k, to);
            } else {
                sq_from_f32(to, t->type, f, (size_t)t->k);
            }
        }
        st = sq_gguf_write(j->w, out, (size_t)n * row, j->err);
        if (t->heads == 0 && sq_is_dir(j->model)) { /* pages of a file, which come back */
            sq_map_release(data + (size_t)(t->row0 + at) * in, (size_t)n * in);
        }
    }
    sq_free(f);
    sq_free(out);
    return st;
}

/* One frame of [n][channels][frames][cells]. */
static sq_status write_patch(sq_gguf_job *j, const sq_gguf_item *t) {
    int64_t cells = t->k / (t->channels * t->frames), kept = t->channels * cells;
    size_t n = (size_t)(t->rows * kept);
    float *row = sq_alloc_raw((size_t)t->k, sizeof *row, t->name, j->err);
    float *f = sq_alloc_raw(n, sizeof *f, t->name, j->err);
    void *out = sq_alloc_raw(n, sq_dtype_size(t->type), t->name, j->err);
    sq_status st = row == NULL || f == NULL || out == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t r = 0; st == SQ_OK && r < t->rows; r++) {
        sq_weight_rows_f32(t->dense, r, 1, row);
        for (int64_t c = 0; c < t->channels; c++) {
            memcpy(f + r * kept + c * cells, row + (c * t->frames + t->frame) * cells,
                   (size_t)cells * sizeof *f);
        }
    }
    if (st == SQ_OK) {
        sq_from_f32(out, t->type, f, n);
        st = sq_gguf_write(j->w, out, n * sq_dtype_size(t->type), j->err);
    }
    sq_free(row);
    sq_free(f);
    sq_free(out);
    return st;
}

static sq_status write_items(sq_gguf_job *j, const char *stage) {
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < j->n; i++) {
        const sq_gguf_item *t = &j->items[i];
        st = sq_gguf_add_tensor(j->w, t->name, t->type, t->rank, t->shape, j->err);
    }
    st = st == SQ_OK ? sq_gguf_writer_begin(j->w, j->err) : st;
    for (size_t i = 0; st == SQ_OK && i < j->n; i++) {
        const sq_gguf_item *t = &j->items[i];
        st = t->vector != NULL
                 ? sq_gguf_write(j->w, t->vector,
                                 (size_t)(t->shape[0] * t->shape[1]) * sizeof(float), j->err)
             : t->linear != NULL ? write_codes(j, t)
             : t->frames > 0     ? write_patch(j, t)
                                 : write_dense(j, t);
        if (st == SQ_OK &&
            !sq_progress_tick(j->progress, stage, (int64_t)i + 1, (int64_t)j->n, t->name)) {
            st = sq_fail(j->err, SQ_ECANCELLED, "stopped");
        }
    }
    return st;
}

void sq_gguf_put_file_type(sq_gguf_job *j) {
    static const struct {
        sq_dtype type;
        uint32_t number;
    } types[] = {{SQ_F32, 0},  {SQ_F16, 1},  {SQ_Q4_0, 2},  {SQ_Q4_1, 3},
                 {SQ_Q8_0, 7}, {SQ_Q5_0, 8}, {SQ_Q4_K, 14}, {SQ_BF16, 32}};
    int64_t most = -1;
    uint32_t number = 0;
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        int64_t sum = 0;
        for (size_t i = 0; i < j->n; i++) {
            const sq_gguf_item *t = &j->items[i];
            int inner =
                strncmp(t->name, "token_embd.", 11) != 0 && strcmp(t->name, "output.weight");
            sum += t->rank == 2 && inner && t->type == types[k].type ? t->rows * t->k : 0;
        }
        number = sum > most ? types[k].number : number;
        most = sum > most ? sum : most;
    }
    sq_gguf_put_u32(j->w, "general.file_type", number);
    sq_gguf_put_u32(j->w, "general.quantization_version", 2);
}

/* ---- the language model ---- */

typedef struct family {
    const char *model_type, *gguf;
    int interleaved; /* q and k rows in the order of interleaved rotary pairs */
    int biases;      /* o and the MLP may have biases */
} family;

static const family *find_family(const sq_config *c) {
    static const family families[] = {{"llama", "llama", 1, 1},
                                      {"mistral", "llama", 1, 1},
                                      {"qwen2", "qwen2", 0, 0},
                                      {"qwen2_vl", "qwen2vl", 0, 0},
                                      {"qwen2_5_vl", "qwen2vl", 0, 0}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strcmp(c->text->model_type, families[i].model_type) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

static int all_zero(const float *v, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (v[i] != 0) {
            return 0;
        }
    }
    return 1;
}

/* A bias, its rows in the order of the weight's; zeros that some package added are left out. */
static sq_status add_bias(sq_gguf_job *j, const family *f, const sq_linear *l, const char *name,
                          int64_t heads) {
    const sq_config *c = &j->net->config;
    int64_t n = l->weight.n;
    int own = sq_config_bias(c, l->row, l->part) != 0;
    if (l->bias == NULL || (!own && all_zero(l->bias, n))) {
        return SQ_OK;
    }
    if (!own && !f->biases) {
        return sq_fail(j->err, SQ_EUNSUPPORTED, "%s: llama.cpp's %s has no bias there",
                       l->file_name, f->gguf);
    }
    float *v = sq_arena_alloc(&j->arena, (size_t)n, sizeof *v, j->err);
    if (v == NULL) {
        return SQ_ENOMEM;
    }
    sq_gguf_item order = {.rows = n, .heads = heads};
    for (int64_t r = 0; r < n; r++) {
        v[r] = l->bias[source_row(&order, r)];
    }
    return sq_gguf_item_vector(j, name, v, n);
}

static sq_status plan_layer(sq_gguf_job *j, const family *f, int64_t i) {
    static const char *const linears[SQ_L_TEXT_COUNT] = {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    static const char *const norms[] = {"attn_norm", "ffn_norm"};
    const sq_config *c = &j->net->config;
    const sq_block *b = &j->net->layers[i];
    char name[96];
    sq_status st;
    for (int n = 0; n < 2; n++) {
        snprintf(name, sizeof name, "blk.%lld.%s.weight", (long long)i, norms[n]);
        SQ_TRY(sq_gguf_item_vector(j, name, b->norms[n].weight, c->dims[SQ_D_HIDDEN]));
    }
    for (int r = 0; r < SQ_L_TEXT_COUNT; r++) {
        const sq_linear *l = &b->linears[r];
        int64_t heads = !f->interleaved ? 0
                        : r == SQ_L_Q   ? c->heads
                        : r == SQ_L_K   ? c->kv_heads
                                        : 0;
        snprintf(name, sizeof name, "blk.%lld.%s.weight", (long long)i, linears[r]);
        SQ_TRY(sq_gguf_item_linear(j, name, l, 0, l->weight.n, heads));
        snprintf(name, sizeof name, "blk.%lld.%s.bias", (long long)i, linears[r]);
        SQ_TRY(add_bias(j, f, l, name, heads));
    }
fail:
    return st;
}

/* Llama-3's scaling is a divisor for each frequency. */
static sq_status plan_rope(sq_gguf_job *j) {
    const sq_config *c = &j->net->config;
    int64_t half = c->head_dim / 2;
    if (c->rope_scaling != SQ_ROPE_LLAMA3) {
        return SQ_OK;
    }
    float *v = sq_arena_alloc(&j->arena, (size_t)half, sizeof *v, j->err);
    if (v == NULL) {
        return SQ_ENOMEM;
    }
    sq_rope_inv_freq(v, c->head_dim, c->rope_theta);
    for (int64_t i = 0; i < half; i++) {
        v[i] /= j->net->inv_freq[i];
    }
    return sq_gguf_item_vector(j, "rope_freqs.weight", v, half);
}

static sq_status plan_text(sq_gguf_job *j, const family *f) {
    const sq_net *n = j->net;
    const sq_config *c = &n->config;
    sq_status st;
    SQ_TRY(sq_gguf_item_linear(j, "token_embd.weight", &n->embed, 0, n->embed.weight.n, 0));
    SQ_TRY(
        sq_gguf_item_vector(j, "output_norm.weight", n->final_norm.weight, c->dims[SQ_D_HIDDEN]));
    if (!c->tied) {
        SQ_TRY(sq_gguf_item_linear(j, "output.weight", &n->head, 0, n->head.weight.n, 0));
    }
    SQ_TRY(plan_rope(j));
    for (int64_t i = 0; i < c->layers; i++) {
        SQ_TRY(plan_layer(j, f, i));
    }
fail:
    return st;
}

static void put_number(sq_gguf_job *j, const family *f, const char *key, int64_t v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", f->gguf, key);
    sq_gguf_put_u32(j->w, full, (uint32_t)v);
}

static void put_real(sq_gguf_job *j, const family *f, const char *key, double v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", f->gguf, key);
    sq_gguf_put_f32(j->w, full, (float)v);
}

static void put_name(sq_gguf_job *j) {
    size_t n = strlen(j->model), from;
    while (n > 1 && j->model[n - 1] == '/') {
        n--;
    }
    n -= n > 10 && strncmp(j->model + n - 10, ".gguf.work", 10) == 0 ? 10 : 0; /* quantize's */
    for (from = n; from > 0 && j->model[from - 1] != '/'; from--) {
    }
    sq_gguf_put_text(j->w, "general.name", j->model + from, n - from);
}

static void put_text_numbers(sq_gguf_job *j, const family *f) {
    const sq_config *c = &j->net->config;
    char key[96];
    sq_gguf_put_string(j->w, "general.architecture", f->gguf);
    sq_gguf_put_string(j->w, "general.type", "model");
    put_name(j);
    sq_gguf_put_file_type(j);
    put_number(j, f, "block_count", c->layers);
    put_number(j, f, "context_length", c->max_positions);
    put_number(j, f, "embedding_length", c->dims[SQ_D_HIDDEN]);
    put_number(j, f, "feed_forward_length", c->dims[SQ_D_INTER]);
    put_number(j, f, "attention.head_count", c->heads);
    put_number(j, f, "attention.head_count_kv", c->kv_heads);
    put_number(j, f, "attention.key_length", c->head_dim);
    put_number(j, f, "attention.value_length", c->head_dim);
    put_number(j, f, "rope.dimension_count", c->head_dim);
    put_number(j, f, "vocab_size", c->dims[SQ_D_VOCAB]);
    put_real(j, f, "attention.layer_norm_rms_epsilon", (double)c->rms_eps);
    put_real(j, f, "rope.freq_base", c->rope_theta);
    if (c->rope_scaling == SQ_ROPE_LINEAR) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", f->gguf);
        sq_gguf_put_string(j->w, key, "linear");
        put_real(j, f, "rope.scaling.factor", c->rope_factor);
    }
    if (c->text->rope == SQ_ROPE_MROPE) {
        int32_t sections[4] = {(int32_t)c->mrope[0], (int32_t)c->mrope[1], (int32_t)c->mrope[2], 0};
        snprintf(key, sizeof key, "%s.rope.dimension_sections", f->gguf);
        sq_gguf_put_i32s(j->w, key, sections, 4);
    }
}

/* ---- the whole ---- */

/* "FILE.gguf" -> "FILE-mmproj.gguf". */
static char *vision_path(sq_gguf_job *j, const char *out) {
    return sq_arena_printf(&j->arena, j->err, "%.*s-mmproj.gguf", (int)(strlen(out) - 5), out);
}

sq_status sq_gguf_check_output(const char *out, sq_error *err) {
    size_t n = strlen(out);
    if (n < 6 || strcmp(out + n - 5, ".gguf") != 0) {
        return sq_fail(err, SQ_EARG, "output '%s'; wanted a name that ends in .gguf", out);
    }
    return sq_file_exists(out)
               ? sq_fail(err, SQ_EARG, "'%s' exists already; wanted a new file", out)
               : SQ_OK;
}

static sq_status check_arguments(sq_gguf_job *j, const family **f) {
    const char *type = j->o->dtype;
    if (type != NULL && strcmp(type, "Q8_0") == 0) {
        j->dtype = SQ_Q8_0;
    } else if (type != NULL && (!sq_dtype_parse(type, &j->dtype) || j->dtype > SQ_BF16)) {
        return sq_fail(j->err, SQ_EARG, "type '%s' is not there; wanted F32, F16, BF16 or Q8_0",
                       type);
    }
    j->has_dtype = type != NULL;
    if (sq_source_kind_of(j->model) == SQ_SOURCE_GGUF) {
        return sq_fail(j->err, SQ_EARG, "'%s' is a GGUF file already; wanted a folder", j->model);
    }
    sq_status st = sq_net_open(&j->net, j->model, j->err);
    if (st == SQ_OK && j->net->quantization != NULL) {
        st = sq_qconfig_open(&j->q, j->net->quantization, j->err);
    }
    *f = st == SQ_OK ? find_family(&j->net->config) : NULL;
    if (st == SQ_OK && *f == NULL) {
        st = sq_fail(j->err, SQ_EUNSUPPORTED, "no GGUF architecture for '%s'",
                     j->net->config.text->model_type);
    }
    return st;
}

/* The tower and its projector, beside the language model. */
static sq_status write_vision(sq_gguf_job *j, const char *path) {
    sq_status st;
    j->n = 0;
    SQ_TRY(sq_gguf_writer_open(&j->w, path, j->err));
    SQ_TRY(sq_gguf_vision(j));
    put_name(j);
    SQ_TRY(write_items(j, "convert vision"));
    st = sq_gguf_writer_finish(&j->w, j->err);
fail:
    return st;
}

static sq_status write_text(sq_gguf_job *j, const family *f, const char *path) {
    const sq_config *c = &j->net->config;
    sq_status st;
    j->n = 0;
    SQ_TRY(sq_gguf_writer_open(&j->w, path, j->err));
    SQ_TRY(plan_text(j, f));
    put_text_numbers(j, f);
    SQ_TRY(sq_gguf_put_vocab(j->w, j->model, c->dims[SQ_D_VOCAB], c->json, c->generation, j->err));
    SQ_TRY(write_items(j, "convert"));
    st = sq_gguf_writer_finish(&j->w, j->err);
fail:
    return st;
}

sq_status sq_gguf_run(const char *model, const char *out, const sq_gguf_options *o,
                      const sq_progress *progress, sq_error *err) {
    sq_gguf_job j = {.model = model, .o = o, .progress = progress, .err = err};
    const family *f = NULL;
    char *vision = NULL;
    int written = 0;
    sq_status st;
    SQ_TRY(sq_gguf_check_output(out, err));
    SQ_TRY(check_arguments(&j, &f));
    if (j.net->config.tower != NULL && !o->text_only) {
        vision = vision_path(&j, out);
        st = vision == NULL ? SQ_ENOMEM : write_vision(&j, vision);
        SQ_TRY(st);
        written = 1;
    }
    SQ_TRY(write_text(&j, f, out));
    if (j.rounded > 0) {
        sq_progress_note(progress, "%lld scales and minima rounded to float16",
                         (long long)j.rounded);
    }
fail:
    if (st != SQ_OK && written) {
        unlink(vision); /* half of a model is none */
    }
    sq_gguf_writer_close(&j.w);
    sq_free(j.items);
    sq_qconfig_close(&j.q);
    sq_arena_free(&j.arena);
    sq_net_close(&j.net);
    return st;
}
