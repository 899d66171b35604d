#include "format/llama2c.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "format/checkpoint.h"
#include "format/source.h"
#include "format/spm.h"

enum { MAGIC = 0x616b3432, MAX_FIELD = 1 << 24, V1_HEADER = 256 };

typedef struct header {
    int version; /* 0, 1, 2 */
    int64_t dim, hidden, layers, heads, kv_heads, vocab, context, group;
    int shared;
    size_t start; /* of the weights */
} header;

static int32_t int_at(const unsigned char *p, size_t i) {
    int32_t v;
    memcpy(&v, p + 4 * i, 4);
    return v;
}

static sq_status read_header(header *h, const sq_map *m, const char *path, sq_error *err) {
    const unsigned char *p = m->data;
    *h = (header){0};
    if (m->size < V1_HEADER) {
        return sq_fail(err, SQ_EFORMAT, "'%s' is no llama2.c file; got %zu bytes", path, m->size);
    }
    if ((uint32_t)int_at(p, 0) == MAGIC) {
        h->version = int_at(p, 1);
        if (h->version != 1 && h->version != 2) {
            return sq_fail(err, SQ_EUNSUPPORTED, "'%s': llama2.c version; got %d, wanted 1 or 2",
                           path, h->version);
        }
        p += 8;
        h->shared = p[28];
        h->group = h->version == 2 ? int_at(p + 29, 0) : 0;
        h->start = V1_HEADER;
    } else {
        h->shared = int_at(p, 5) > 0;
        h->start = 28;
    }
    int64_t *const to[] = {&h->dim,      &h->hidden, &h->layers, &h->heads,
                           &h->kv_heads, &h->vocab,  &h->context};
    for (size_t i = 0; i < 7; i++) {
        int64_t v = int_at(p, i);
        *to[i] = i == 5 && v < 0 ? -v : v;
        if (*to[i] < 1 || *to[i] > MAX_FIELD) {
            return sq_fail(err, SQ_EFORMAT,
                           "'%s' is no llama2.c file: header field %zu out of range; got %lld",
                           path, i, (long long)v);
        }
    }
    if (h->dim % h->heads != 0 || h->dim / h->heads % 2 != 0 || h->heads % h->kv_heads != 0 ||
        (h->version == 2 && (h->group < 1 || h->dim % h->group != 0))) {
        return sq_fail(err, SQ_EFORMAT, "'%s': heads or groups do not divide the width", path);
    }
    return SQ_OK;
}

/* ---- tensors in the file's order ---- */

typedef struct walk {
    sq_checkpoint *c;
    const header *h;
    const char *path;
    const unsigned char *p;
    size_t n, at;
    sq_error *err;
} walk;

static sq_status too_short(const walk *w) {
    return sq_fail(w->err, SQ_EFORMAT, "'%s' is cut short; got %zu bytes, wanted more", w->path,
                   w->n);
}

/* `count` bytes of the file from here. */
static const unsigned char *next(walk *w, size_t count) {
    if (count > w->n - w->at) {
        return NULL;
    }
    w->at += count;
    return w->p + w->at - count;
}

/* Version 2 stores int8 codes, then a scale for each group: widened to f32 here. */
static sq_status widen(walk *w, int64_t n, const unsigned char **out) {
    const unsigned char *codes = next(w, (size_t)n);
    const unsigned char *scales =
        codes == NULL ? NULL : next(w, (size_t)(n / w->h->group) * sizeof(float));
    if (scales == NULL) {
        return too_short(w);
    }
    float *f = sq_arena_alloc(&w->c->arena, (size_t)n, sizeof *f, w->err);
    if (f == NULL) {
        return SQ_ENOMEM;
    }
    for (int64_t i = 0; i < n; i++) {
        float s;
        memcpy(&s, scales + (size_t)(i / w->h->group) * sizeof s, sizeof s);
        f[i] = (float)(codes[i] < 128 ? codes[i] : codes[i] - 256) * s;
    }
    *out = (const unsigned char *)f;
    return SQ_OK;
}

/* One tensor a x b (b 0: a vector) under the name; heads > 0: rows of q or k to be reordered. */
static sq_status tensor(walk *w, const char *name, int64_t a, int64_t b, int64_t heads) {
    int64_t n = a * (b == 0 ? 1 : b);
    const unsigned char *data = NULL;
    int owned = heads > 0 || (w->h->version == 2 && b != 0);
    sq_status st = SQ_OK;
    if (w->h->version == 2 && b != 0) {
        st = widen(w, n, &data);
    } else {
        data = next(w, (size_t)n * sizeof(float));
        st = data == NULL ? too_short(w) : SQ_OK;
    }
    if (st == SQ_OK && heads > 0) {
        float *copy = sq_arena_alloc(&w->c->arena, (size_t)n, sizeof *copy, w->err);
        if (copy == NULL) {
            return SQ_ENOMEM;
        }
        sq_rows_to_halves(copy, data, heads, a / heads, (size_t)b * sizeof *copy);
        data = (const unsigned char *)copy;
    }
    if (st == SQ_OK) {
        st = sq_checkpoint_reserve(w->c, 1, w->err);
    }
    if (st == SQ_OK) {
        sq_tensor *t = &w->c->tensors[w->c->n++];
        *t = (sq_tensor){.name = sq_arena_strdup(&w->c->arena, name, w->err),
                         .dtype = SQ_F32,
                         .rank = b == 0 ? 1 : 2,
                         .shape = {a, b},
                         .data = data,
                         .owned = owned,
                         .bytes = (size_t)n * sizeof(float)};
        st = t->name == NULL ? SQ_ENOMEM : SQ_OK;
    }
    return st;
}

/* The same tensor of every layer. */
static sq_status stack(walk *w, const char *role, int64_t a, int64_t b, int64_t heads) {
    sq_status st = SQ_OK;
    for (int64_t l = 0; st == SQ_OK && l < w->h->layers; l++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)l, role);
        st = tensor(w, name, a, b, heads);
    }
    return st;
}

static sq_status read_weights(walk *w) {
    const header *h = w->h;
    int64_t d = h->dim, kv = d / h->heads * h->kv_heads;
    sq_status st;
    if (h->version > 0) {
        SQ_TRY(stack(w, "input_layernorm", d, 0, 0));
        SQ_TRY(stack(w, "post_attention_layernorm", d, 0, 0));
        SQ_TRY(tensor(w, "model.norm.weight", d, 0, 0));
    }
    SQ_TRY(tensor(w, "model.embed_tokens.weight", h->vocab, d, 0));
    if (h->version == 0) {
        SQ_TRY(stack(w, "input_layernorm", d, 0, 0));
    }
    SQ_TRY(stack(w, "self_attn.q_proj", d, d, h->heads));
    SQ_TRY(stack(w, "self_attn.k_proj", kv, d, h->kv_heads));
    SQ_TRY(stack(w, "self_attn.v_proj", kv, d, 0));
    SQ_TRY(stack(w, "self_attn.o_proj", d, d, 0));
    if (h->version == 0) {
        SQ_TRY(stack(w, "post_attention_layernorm", d, 0, 0));
    }
    SQ_TRY(stack(w, "mlp.gate_proj", h->hidden, d, 0));
    SQ_TRY(stack(w, "mlp.down_proj", d, h->hidden, 0));
    SQ_TRY(stack(w, "mlp.up_proj", h->hidden, d, 0));
    if (h->version == 0) {
        SQ_TRY(tensor(w, "model.norm.weight", d, 0, 0));
        if (next(w, (size_t)(h->context * (d / h->heads)) * sizeof(float)) == NULL) {
            return too_short(w); /* tables of cosines and sines, computed here */
        }
    }
    if (!h->shared) {
        SQ_TRY(tensor(w, "lm_head.weight", h->vocab, d, 0));
    }
    return w->at == w->n ? SQ_OK
                         : sq_fail(w->err, SQ_EFORMAT, "'%s': got %zu bytes, wanted %zu", w->path,
                                   w->n, w->at);
fail:
    return st;
}

sq_status sq_llama2c_read(sq_checkpoint *c, const char *path, sq_error *err) {
    const char *slash = strrchr(path, '/');
    header h;
    sq_status st;
    sq_shard *s = sq_checkpoint_add_shard(c, slash == NULL ? path : slash + 1, err);
    if (s == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(sq_map_open(&s->map, path, err));
    SQ_TRY(read_header(&h, &s->map, path, err));
    walk w = {c, &h, path, s->map.data, s->map.size, h.start, err};
    st = read_weights(&w);
fail:
    return st;
}

/* ---- files ---- */

static json_t *config_json(const header *h) {
    return json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:s, s:i, s:i}",
                     "model_type", "llama", "architectures", "LlamaForCausalLM", "hidden_size",
                     (json_int_t)h->dim, "intermediate_size", (json_int_t)h->hidden,
                     "num_hidden_layers", (json_int_t)h->layers, "num_attention_heads",
                     (json_int_t)h->heads, "num_key_value_heads", (json_int_t)h->kv_heads,
                     "vocab_size", (json_int_t)h->vocab, "max_position_embeddings",
                     (json_int_t)h->context, "rms_norm_eps", 1e-5, "tie_word_embeddings", h->shared,
                     "hidden_act", "silu", "bos_token_id", 1, "eos_token_id", 2);
}

/* tokenizer.bin: the longest piece, then score, length and bytes of each; spaces stand for U+2581.
 */
static sq_status bin_pieces(const char *data, size_t size, int64_t vocab, const char *path,
                            sq_arena *a, sq_piece *pieces, sq_error *err) {
    size_t at = 4;
    for (int64_t i = 0; i < vocab; i++) {
        int32_t n = -1;
        if (size >= 8 && at <= size - 8) {
            memcpy(&pieces[i].score, data + at, 4);
            memcpy(&n, data + at + 4, 4);
            at += 8;
        }
        if (n < 0 || (size_t)n > size - at) {
            return sq_fail(
                err, SQ_EFORMAT,
                "'%s' is cut short or has another vocabulary; got %lld tokens, wanted %lld", path,
                (long long)i, (long long)vocab);
        }
        char *text = sq_arena_alloc(a, 3 * (size_t)n + 1, 1, err);
        if (text == NULL) {
            return SQ_ENOMEM;
        }
        size_t len = 0;
        for (int32_t k = 0; k < n; k++) {
            size_t put = data[at + (size_t)k] == ' ' ? 3 : 1;
            memcpy(text + len, put == 3 ? "\xe2\x96\x81" : data + at + k, put);
            len += put;
        }
        at += (size_t)n;
        int byte = len == 6 && memcmp(text, "<0x", 3) == 0;
        int type = byte     ? SQ_PIECE_BYTE
                   : i == 0 ? SQ_PIECE_UNKNOWN
                   : i < 3  ? SQ_PIECE_CONTROL
                            : SQ_PIECE_NORMAL;
        pieces[i] = (sq_piece){text, len, pieces[i].score, type};
    }
    if (vocab > 2) { /* export writes them with line breaks around */
        pieces[1].text = "<s>";
        pieces[2].text = "</s>";
        pieces[1].n = 3;
        pieces[2].n = 4;
    }
    return SQ_OK;
}

static sq_status bin_tokenizer(const char *path, int64_t vocab, json_t **out, sq_error *err) {
    sq_arena a = {0};
    char *data = NULL;
    size_t size = 0;
    sq_piece *pieces = sq_alloc((size_t)vocab, sizeof *pieces, "a vocabulary", err);
    sq_status st = pieces == NULL ? SQ_ENOMEM : sq_file_read(path, 256 << 20, &data, &size, err);
    if (st == SQ_OK) {
        st = bin_pieces(data, size, vocab, path, &a, pieces, err);
    }
    if (st == SQ_OK) {
        sq_spm_options o = {.prefix = 1, .bos = 1};
        st = sq_spm_tokenizer(pieces, (size_t)vocab, &o, out, err);
    }
    sq_free(pieces);
    sq_free(data);
    sq_arena_free(&a);
    return st;
}

static sq_status tokenizer_json(const char *path, int64_t vocab, json_t **out, sq_error *err) {
    sq_arena a = {0};
    char *dir = sq_path_dir(&a, path, err);
    char *bin = dir == NULL ? NULL : sq_path_join(&a, dir, "tokenizer.bin", err);
    sq_status st = bin == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK && sq_file_exists(bin)) {
        st = bin_tokenizer(bin, vocab, out, err);
    } else if (st == SQ_OK) {
        st = sq_source_json(dir, "tokenizer.json", out, err);
        if (st == SQ_OK && *out == NULL) {
            st =
                sq_fail(err, SQ_EFORMAT,
                        "'%s' has no tokenizer beside it; wanted tokenizer.bin, tokenizer.model or "
                        "tokenizer.json",
                        path);
        }
    }
    sq_arena_free(&a);
    return st;
}

sq_status sq_llama2c_json(const char *path, const char *name, json_t **out, sq_error *err) {
    sq_map m = {0};
    header h;
    *out = NULL;
    sq_status st;
    SQ_TRY(sq_map_open(&m, path, err));
    SQ_TRY(read_header(&h, &m, path, err));
    if (strcmp(name, "config.json") == 0) {
        *out = config_json(&h);
    } else if (strcmp(name, "tokenizer.json") == 0) {
        st = tokenizer_json(path, h.vocab, out, err);
    } else if (strcmp(name, "tokenizer_config.json") == 0) {
        *out = json_pack("{s:s, s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>", "unk_token",
                         "<unk>");
    }
fail:
    sq_map_close(&m);
    return st;
}
