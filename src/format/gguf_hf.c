/* GGUF in Hugging Face's terms: config.json, tokenizer.json, generation_config.json and
 * tokenizer_config.json from the metadata, tensors under the published names. The reverse of
 * llama.cpp's conversion/llama.py and qwen.py. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "format/gguf_model.h"
#include "format/gguf_vocab.h"
#include "format/spm.h"

/* Architectures: llama's q and k rows lie in the order of interleaved rotary pairs. */
typedef struct family {
    const char *gguf, *model_type, *architecture;
    int interleaved;
    double theta;
} family;

static const family families[] = {
    {"llama", "llama", "LlamaForCausalLM", 1, 10000.0},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", 0, 10000.0},
    /* The language model of a Qwen-VL: positions of text alone are the same on all three axes. */
    {"qwen2vl", "qwen2", "Qwen2ForCausalLM", 0, 1000000.0},
};

int sq_gguf_text_is(sq_gguf_text t, const char *s) {
    return t.n == strlen(s) && memcmp(t.p, s, t.n) == 0;
}

static sq_status find_family(const sq_gguf *g, const char *path, const family **out,
                             sq_error *err) {
    sq_gguf_text name = sq_gguf_string(sq_gguf_find(g, "general.architecture"));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (sq_gguf_text_is(name, families[i].gguf)) {
            *out = &families[i];
            return SQ_OK;
        }
    }
    if (sq_gguf_text_is(name, "clip")) {
        sq_fail(err, SQ_EARG, "'%s' is a mmproj, a vision tower alone", path);
        sq_hint(err, "the language model's file, and --mmproj %s", path);
        return SQ_EARG;
    }
    return sq_fail(
        err, SQ_EUNSUPPORTED,
        "'%s': general.architecture '%.*s' is not supported; wanted llama, qwen2 or qwen2vl", path,
        (int)(name.n < 60 ? name.n : 60), name.p);
}

/* ---- the files ---- */

typedef struct opened {
    sq_arena arena;
    sq_gguf_paths paths;
    sq_gguf text;
    sq_mmproj vision; /* where paths.vision is */
    const family *family;
} opened;

static void close_files(opened *o) {
    sq_mmproj_close(&o->vision);
    sq_gguf_close(&o->text);
    sq_arena_free(&o->arena);
}

static sq_status open_files(opened *o, const char *path, sq_error *err) {
    *o = (opened){.family = NULL};
    sq_status st;
    SQ_TRY(sq_gguf_find_paths(&o->paths, &o->arena, path, err));
    SQ_TRY(sq_gguf_open(&o->text, o->paths.text, err));
    SQ_TRY(find_family(&o->text, o->paths.text, &o->family, err));
    if (o->paths.vision != NULL) {
        SQ_TRY(sq_mmproj_open(&o->vision, o->paths.vision, &o->text, o->paths.text, err));
    }
    return SQ_OK;
fail:
    close_files(o);
    return st;
}

/* ---- the metadata ---- */

/* The entry "ARCH.key". */
static const sq_gguf_entry *of(const sq_gguf *g, const family *f, const char *key) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", f->gguf, key);
    return sq_gguf_find(g, full);
}

const sq_gguf_tensor *sq_gguf_find_tensor(const sq_gguf *g, const char *name) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (sq_gguf_text_is(g->tensors[i].name, name)) {
            return &g->tensors[i];
        }
    }
    return NULL;
}

void sq_gguf_set_int(json_t *o, const char *key, const sq_gguf_entry *e) {
    double v = sq_gguf_number(e, 0, -1);
    if (v >= 0 && v <= 9e15) {
        json_object_set_new(o, key, json_integer((json_int_t)v));
    }
}

static json_t *rope_json(const sq_gguf *g, const family *f) {
    json_t *rope = json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta",
                             sq_gguf_number(of(g, f, "rope.freq_base"), 0, f->theta));
    double factor = sq_gguf_number(of(g, f, "rope.scaling.factor"), 0, 0);
    sq_gguf_text type = sq_gguf_string(of(g, f, "rope.scaling.type"));
    if (factor > 0 && type.n > 0 && !sq_gguf_text_is(type, "none")) {
        json_object_set_new(rope, "rope_type", json_stringn(type.p, type.n));
        json_object_set_new(rope, "factor", json_real(factor));
    }
    return rope;
}

static json_t *config_json(const sq_gguf *g, const family *f) {
    static const struct {
        const char *hf, *gguf;
    } ints[] = {{"hidden_size", "embedding_length"},
                {"intermediate_size", "feed_forward_length"},
                {"num_hidden_layers", "block_count"},
                {"num_attention_heads", "attention.head_count"},
                {"num_key_value_heads", "attention.head_count_kv"},
                {"head_dim", "attention.key_length"},
                {"max_position_embeddings", "context_length"}};
    json_t *c = json_pack("{s:s, s:[s], s:s}", "model_type", f->model_type, "architectures",
                          f->architecture, "hidden_act", "silu");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        sq_gguf_set_int(c, ints[i].hf, of(g, f, ints[i].gguf));
    }
    if (json_object_get(c, "head_dim") == NULL) {
        sq_gguf_set_int(c, "head_dim", of(g, f, "rope.dimension_count"));
    }
    const sq_gguf_tensor *embed = sq_gguf_find_tensor(g, "token_embd.weight");
    json_object_set_new(c, "vocab_size",
                        json_integer(embed != NULL && embed->rank == 2 ? embed->shape[0] : 0));
    json_object_set_new(
        c, "rms_norm_eps",
        json_real(sq_gguf_number(of(g, f, "attention.layer_norm_rms_epsilon"), 0, 1e-5)));
    json_object_set_new(c, "tie_word_embeddings",
                        json_boolean(sq_gguf_find_tensor(g, "output.weight") == NULL));
    json_object_set_new(c, "attention_bias",
                        json_boolean(sq_gguf_find_tensor(g, "blk.0.attn_q.bias") != NULL));
    json_object_set_new(c, "mlp_bias",
                        json_boolean(sq_gguf_find_tensor(g, "blk.0.ffn_gate.bias") != NULL));
    json_object_set_new(c, "rope_parameters", rope_json(g, f));
    sq_gguf_set_int(c, "bos_token_id", sq_gguf_find(g, "tokenizer.ggml.bos_token_id"));
    sq_gguf_set_int(c, "eos_token_id", sq_gguf_find(g, "tokenizer.ggml.eos_token_id"));
    return c;
}

static json_t *generation_json(const sq_gguf *g) {
    json_t *eos = json_array();
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        double v = sq_gguf_number(sq_gguf_find(g, ends[i]), 0, -1);
        if (v >= 0) {
            json_array_append_new(eos, json_integer((json_int_t)v));
        }
    }
    return json_pack("{s:o}", "eos_token_id", eos);
}

/* The text of a token of the vocabulary. */
static sq_gguf_text token_text(const sq_gguf *g, double id) {
    const sq_gguf_entry *e = sq_gguf_find(g, "tokenizer.ggml.tokens");
    sq_gguf_text t = {"", 0};
    size_t at = 0;
    if (id < 0) {
        return t;
    }
    for (double i = 0; sq_gguf_next_string(e, &at, &t); i++) {
        if (i == id) {
            return t;
        }
    }
    return (sq_gguf_text){"", 0};
}

static json_t *tokenizer_config_json(const sq_gguf *g) {
    static const struct {
        const char *hf, *gguf;
    } names[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                 {"eos_token", "tokenizer.ggml.eos_token_id"},
                 {"unk_token", "tokenizer.ggml.unknown_token_id"},
                 {"pad_token", "tokenizer.ggml.padding_token_id"}};
    json_t *c = json_object();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sq_gguf_text t = token_text(g, sq_gguf_number(sq_gguf_find(g, names[i].gguf), 0, -1));
        if (t.n > 0) {
            json_object_set_new(c, names[i].hf, json_stringn(t.p, t.n));
        }
    }
    sq_gguf_text template = sq_gguf_string(sq_gguf_find(g, "tokenizer.chat_template"));
    if (template.n > 0) {
        json_object_set_new(c, "chat_template", json_stringn(template.p, template.n));
    }
    return c;
}

/* ---- tokenizer.json ---- */

static json_t *pre_json(const sq_gguf_pre *p) {
    json_t *steps = json_array();
    if (p->digits) {
        json_array_append_new(steps,
                              json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    }
    if (p->regex != NULL) {
        json_array_append_new(steps,
                              json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                                        "Regex", p->regex, "behavior", "Isolated", "invert", 0));
    }
    json_array_append_new(steps,
                          json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                                    0, "trim_offsets", 0, "use_regex", p->regex == NULL));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

static sq_status bpe_vocab(const sq_gguf *g, json_t *vocab, json_t *merges, json_t *added,
                           const char *path, sq_error *err) {
    const sq_gguf_entry *types = sq_gguf_find(g, "tokenizer.ggml.token_type");
    const sq_gguf_entry *tokens = sq_gguf_find(g, "tokenizer.ggml.tokens");
    sq_gguf_text t;
    size_t at = 0;
    for (uint64_t i = 0; sq_gguf_next_string(tokens, &at, &t); i++) {
        int type = (int)sq_gguf_number(types, i, SQ_PIECE_NORMAL);
        int special = type == SQ_PIECE_CONTROL, own = special || type == SQ_PIECE_USER;
        int bad = own ? json_array_append_new(added, sq_added_token((int)i, t.p, t.n, special))
                      : json_object_setn_new(vocab, t.p, t.n, json_integer((json_int_t)i));
        if (bad != 0) {
            return sq_fail(err, SQ_EFORMAT, "'%s': token %llu is no valid UTF-8", path,
                           (unsigned long long)i);
        }
    }
    const sq_gguf_entry *list = sq_gguf_find(g, "tokenizer.ggml.merges");
    at = 0;
    while (sq_gguf_next_string(list, &at, &t)) {
        if (json_array_append_new(merges, json_stringn(t.p, t.n)) != 0) {
            return sq_fail(err, SQ_EFORMAT, "'%s': a merge is no valid UTF-8", path);
        }
    }
    return SQ_OK;
}

/* BOS first when the file says so, or when its kind of tokenizer does. */
static void add_bos(const sq_gguf *g, json_t *root, int dflt) {
    double id = sq_gguf_number(sq_gguf_find(g, "tokenizer.ggml.bos_token_id"), 0, -1);
    double want = sq_gguf_number(sq_gguf_find(g, "tokenizer.ggml.add_bos_token"), 0, dflt);
    sq_gguf_text t = token_text(g, id);
    if (want != 0 && t.n > 0) {
        json_object_set_new(root, "post_processor", sq_post_bos(t.p, t.n, (int)id));
    }
}

static sq_status bpe_tokenizer(const sq_gguf *g, const char *path, json_t **out, sq_error *err) {
    sq_gguf_text name = sq_gguf_string(sq_gguf_find(g, "tokenizer.ggml.pre"));
    const sq_gguf_pre *pre = name.n == 0 ? &sq_gguf_pres[0] : NULL;
    for (const sq_gguf_pre *p = sq_gguf_pres; pre == NULL && p->name != NULL; p++) {
        pre = sq_gguf_text_is(name, p->name) ? p : NULL;
    }
    if (pre == NULL) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': tokenizer.ggml.pre '%.*s' is not known; wanted gpt-2, smollm, "
                       "llama-bpe or qwen2",
                       path, (int)(name.n < 60 ? name.n : 60), name.p);
    }
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    sq_status st = bpe_vocab(g, vocab, merges, added, path, err);
    if (st == SQ_OK) {
        json_t *norm = pre->nfc ? json_pack("{s:s}", "type", "NFC") : NULL;
        *out = json_pack("{s:O, s:o?, s:o, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:b, s:O, s:O}}",
                         "added_tokens", added, "normalizer", norm, "pre_tokenizer", pre_json(pre),
                         "decoder", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0,
                         "use_regex", 0, "model", "type", "BPE", "ignore_merges",
                         pre->ignore_merges, "vocab", vocab, "merges", merges);
        st = *out == NULL ? sq_fail_nomem(err, "a tokenizer", 0) : SQ_OK;
    }
    if (st == SQ_OK) {
        add_bos(g, *out, pre->bos);
    }
    json_decref(vocab);
    json_decref(merges);
    json_decref(added);
    return st;
}

static sq_status spm_tokenizer(const sq_gguf *g, json_t **out, sq_error *err) {
    const sq_gguf_entry *tokens = sq_gguf_find(g, "tokenizer.ggml.tokens");
    const sq_gguf_entry *types = sq_gguf_find(g, "tokenizer.ggml.token_type");
    const sq_gguf_entry *scores = sq_gguf_find(g, "tokenizer.ggml.scores");
    size_t n = tokens == NULL ? 0 : (size_t)tokens->count, at = 0;
    sq_piece *pieces = sq_alloc(n + 1, sizeof *pieces, "a vocabulary", err);
    if (pieces == NULL) {
        return SQ_ENOMEM;
    }
    sq_gguf_text t;
    for (size_t i = 0; i < n && sq_gguf_next_string(tokens, &at, &t); i++) {
        pieces[i] = (sq_piece){t.p, t.n, (float)sq_gguf_number(scores, i, 0),
                               (int)sq_gguf_number(types, i, SQ_PIECE_NORMAL)};
    }
    double bos = sq_gguf_number(sq_gguf_find(g, "tokenizer.ggml.bos_token_id"), 0, 1);
    sq_spm_options o = {
        .prefix = sq_gguf_number(sq_gguf_find(g, "tokenizer.ggml.add_space_prefix"), 0, 1) != 0,
        .bos = sq_gguf_number(sq_gguf_find(g, "tokenizer.ggml.add_bos_token"), 0, 1) != 0 ? (int)bos
                                                                                          : -1};
    sq_status st = sq_spm_tokenizer(pieces, n, &o, out, err);
    sq_free(pieces);
    return st;
}

static sq_status tokenizer_json(const sq_gguf *g, const char *path, json_t **out, sq_error *err) {
    sq_gguf_text model = sq_gguf_string(sq_gguf_find(g, "tokenizer.ggml.model"));
    if (sq_gguf_text_is(model, "gpt2")) {
        return bpe_tokenizer(g, path, out, err);
    }
    if (sq_gguf_text_is(model, "llama")) {
        return spm_tokenizer(g, out, err);
    }
    return sq_fail(err, SQ_EUNSUPPORTED,
                   "'%s': tokenizer.ggml.model '%.*s' is not known; wanted gpt2 or llama", path,
                   (int)(model.n < 60 ? model.n : 60), model.p);
}

sq_status sq_gguf_json(const char *path, const char *name, json_t **out, sq_error *err) {
    opened o;
    *out = NULL;
    sq_status st = open_files(&o, path, err);
    if (st != SQ_OK) {
        return st;
    }
    int sees = o.paths.vision != NULL;
    if (strcmp(name, "config.json") == 0) {
        *out = config_json(&o.text, o.family);
        st = sees ? sq_mmproj_config(&o.vision, &o.text, *out, out, err) : SQ_OK;
    } else if (strcmp(name, "generation_config.json") == 0) {
        *out = generation_json(&o.text);
    } else if (strcmp(name, "tokenizer_config.json") == 0) {
        *out = tokenizer_config_json(&o.text);
    } else if (strcmp(name, "tokenizer.json") == 0) {
        st = tokenizer_json(&o.text, o.paths.text, out, err);
    } else if (strcmp(name, "preprocessor_config.json") == 0 && sees) {
        *out = sq_mmproj_preprocessor(&o.vision);
    }
    close_files(&o);
    return st;
}

/* ---- tensors ---- */

/* The published name of a tensor; 0 when it is none of the language model's. */
static int published_name(sq_gguf_text name, char *out, size_t cap) {
    static const struct {
        const char *gguf, *hf;
    } rows[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
                {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                {"ffn_down", "mlp.down_proj"}};
    static const struct {
        const char *gguf, *hf;
    } whole[] = {{"token_embd.weight", "model.embed_tokens.weight"},
                 {"output_norm.weight", "model.norm.weight"},
                 {"output.weight", "lm_head.weight"},
                 {"rope_freqs.weight", "model.rotary_emb.factors"}};
    char text[128], role[64], kind[16];
    unsigned layer;
    if (name.n >= sizeof text) {
        return 0;
    }
    memcpy(text, name.p, name.n);
    text[name.n] = '\0';
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (strcmp(text, whole[i].gguf) == 0) {
            return snprintf(out, cap, "%s", whole[i].hf) > 0;
        }
    }
    if (sscanf(text, "blk.%u.%63[a-z_].%15s", &layer, role, kind) != 3) {
        return 0;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(role, rows[i].gguf) == 0) {
            return snprintf(out, cap, "model.layers.%u.%s.%s", layer, rows[i].hf, kind) > 0;
        }
    }
    return 0;
}

static int64_t heads_of(const sq_gguf *g, const family *f, sq_gguf_text name) {
    double heads = sq_gguf_number(of(g, f, "attention.head_count"), 0, 0);
    int is_k = memmem(name.p, name.n, ".attn_k.", 8) != NULL;
    if (!is_k && memmem(name.p, name.n, ".attn_q.", 8) == NULL) {
        return 0;
    }
    return (int64_t)(is_k ? sq_gguf_number(of(g, f, "attention.head_count_kv"), 0, heads) : heads);
}

static sq_status add_tensor(sq_checkpoint *c, const sq_gguf *g, const family *f, const char *prefix,
                            const sq_gguf_tensor *t, sq_error *err) {
    char name[288];
    size_t n = (size_t)snprintf(name, sizeof name, "%s", prefix);
    if (!published_name(t->name, name + n, sizeof name - n)) {
        snprintf(name, sizeof name, "%.*s", (int)(t->name.n < 200 ? t->name.n : 200), t->name.p);
    }
    sq_tensor *to = &c->tensors[c->n];
    *to = (sq_tensor){.name = sq_arena_strdup(&c->arena, name, err),
                      .dtype = t->dtype,
                      .rank = t->rank,
                      .data = t->data,
                      .bytes = t->bytes};
    memcpy(to->shape, t->shape, sizeof t->shape);
    if (to->name == NULL) {
        return SQ_ENOMEM;
    }
    int64_t heads = f->interleaved ? heads_of(g, f, t->name) : 0;
    int64_t rows = t->rank > 0 ? t->shape[0] : 0;
    if (heads > 0 && rows > 0 && rows % (2 * heads) == 0) {
        void *copy = sq_arena_alloc(&c->arena, t->bytes, 1, err);
        if (copy == NULL) {
            return SQ_ENOMEM;
        }
        sq_rows_to_halves(copy, t->data, heads, rows / heads, t->bytes / (size_t)rows);
        sq_map_release(t->data, t->bytes);
        to->data = copy;
        to->owned = 1;
    }
    c->n++;
    return SQ_OK;
}

sq_status sq_gguf_read(sq_checkpoint *c, const char *path, sq_error *err) {
    opened o;
    sq_shard *s = NULL;
    sq_status st = open_files(&o, path, err);
    if (st != SQ_OK) {
        return st;
    }
    const char *slash = strrchr(o.paths.text, '/');
    const char *prefix = o.paths.vision == NULL ? "" : sq_mmproj_text_prefix(&o.vision);
    SQ_TRY(sq_checkpoint_reserve(c, o.text.n_tensors, err));
    s = sq_checkpoint_add_shard(c, slash == NULL ? o.paths.text : slash + 1, err);
    if (s == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    s->map = o.text.map; /* the checkpoint keeps the map */
    o.text.map = (sq_map){0};
    for (size_t i = 0; i < o.text.n_tensors; i++) {
        SQ_TRY(add_tensor(c, &o.text, o.family, prefix, &o.text.tensors[i], err));
    }
    st = o.paths.vision == NULL ? SQ_OK : sq_mmproj_read(c, &o.vision, err);
fail:
    close_files(&o);
    return st;
}
