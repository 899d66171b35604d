/* tokenizer.json as tokenizer.ggml.*: follows gguf-py's vocab.py and llama.cpp's conversion/base.py
 * where they agree with what transformers makes of the file. */
#include "format/gguf_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "format/source.h"
#include "format/spm.h"

#define LETTERS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Of those that do the same, the first is written. */
const sq_gguf_pre sq_gguf_pres[] = {
    {"gpt-2", NULL, 0, 0, 0, 0},
    {"default", NULL, 0, 0, 0, 0},
    {"smollm", NULL, 1, 0, 0, 0},
    {"starcoder", NULL, 1, 0, 0, 0},
    {"llama-bpe", LETTERS "\\p{N}{1,3}" REST, 0, 0, 1, 1},
    {"llama3", LETTERS "\\p{N}{1,3}" REST, 0, 0, 1, 1},
    {"qwen2", LETTERS "\\p{N}" REST, 0, 1, 0, 0},
    {"deepseek-r1-qwen", LETTERS "\\p{N}" REST, 0, 1, 0, 0},
    {NULL, NULL, 0, 0, 0, 0},
};

typedef struct vocab {
    sq_gguf_writer *w;
    sq_arena arena;
    const json_t *root, *model, *config; /* tokenizer.json, its model, tokenizer_config.json */
    size_t n;
    sq_gguf_text *tokens;
    int32_t *types;
    float *scores;
    sq_error *err;
} vocab;

/* ---- which kind ---- */

typedef struct steps {
    int bytes, digits, others, use_regex, prefix;
    const char *regex;
} steps;

static void read_step(const json_t *step, steps *s) {
    const char *type = sq_json_str(step, "type", "");
    size_t i;
    json_t *v;
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(step, "pretokenizers"), i, v) { read_step(v, s); }
    } else if (strcmp(type, "ByteLevel") == 0) {
        s->bytes = 1;
        s->use_regex = sq_json_bool(step, "use_regex", 1);
        s->prefix = sq_json_bool(step, "add_prefix_space", 1);
    } else if (strcmp(type, "Digits") == 0 && sq_json_bool(step, "individual_digits", 0)) {
        s->digits = 1;
    } else if (strcmp(type, "Split") == 0 && s->regex == NULL) {
        s->regex = sq_json_str(json_object_get(step, "pattern"), "Regex", "");
    } else if (strcmp(type, "Metaspace") == 0) {
        s->prefix = strcmp(sq_json_str(step, "prepend_scheme", "always"), "never") != 0 &&
                    sq_json_bool(step, "add_prefix_space", 1);
    } else {
        s->others = 1;
    }
}

static sq_status find_pre(const vocab *v, const steps *s, const sq_gguf_pre **out) {
    int ignore = sq_json_bool(v->model, "ignore_merges", 0);
    for (const sq_gguf_pre *p = sq_gguf_pres; p->name != NULL && !s->others && !s->prefix; p++) {
        int same = p->regex == NULL
                       ? s->regex == NULL && s->use_regex
                       : s->regex != NULL && !s->use_regex && strcmp(p->regex, s->regex) == 0;
        if (same && p->digits == s->digits && p->ignore_merges == ignore) {
            *out = p;
            return SQ_OK;
        }
    }
    return sq_fail(v->err, SQ_EUNSUPPORTED,
                   "tokenizer.json cuts text as llama.cpp does by none of its names known here; "
                   "got %s%.120s%s, wanted that of GPT-2, SmolLM, Llama-3 or Qwen2",
                   s->regex == NULL ? "no regex" : "'", s->regex == NULL ? "" : s->regex,
                   s->regex == NULL ? "" : "'");
}

/* ---- tokens ---- */

static sq_status set_token(vocab *v, const char *text, const json_t *id, int type, int added) {
    json_int_t i = json_is_integer(id) ? json_integer_value(id) : -1;
    size_t n = strlen(text);
    if (i < 0 || (size_t)i >= v->n) {
        return sq_fail(v->err, SQ_EFORMAT,
                       "tokenizer.json: token '%.60s' has id %lld; wanted 0..%zu, the rows of the "
                       "embedding",
                       text, (long long)i, v->n - 1);
    }
    sq_gguf_text *t = &v->tokens[i];
    if (t->p != NULL && !added) {
        return sq_fail(v->err, SQ_EFORMAT, "tokenizer.json: two tokens have the id %lld",
                       (long long)i);
    }
    *t = (sq_gguf_text){text, n};
    v->types[i] = type;
    return SQ_OK;
}

/* "<0x0A>" */
static int is_byte(const char *s) {
    return strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static sq_status read_tokens(vocab *v, int pieces) {
    const char *text, *unk = sq_json_str(v->model, "unk_token", NULL);
    json_t *id, *t;
    size_t i;
    sq_status st = SQ_OK;
    json_object_foreach(json_object_get(v->model, "vocab"), text, id) {
        int type = pieces && is_byte(text)                           ? SQ_PIECE_BYTE
                   : pieces && unk != NULL && strcmp(unk, text) == 0 ? SQ_PIECE_UNKNOWN
                                                                     : SQ_PIECE_NORMAL;
        st = st == SQ_OK ? set_token(v, text, id, type, 0) : st;
    }
    json_array_foreach(json_object_get(v->root, "added_tokens"), i, t) {
        int special = sq_json_bool(t, "special", 0);
        text = sq_json_str(t, "content", "");
        int unknown = pieces && unk != NULL && strcmp(unk, text) == 0;
        st = st == SQ_OK ? set_token(v, text, json_object_get(t, "id"),
                                     unknown   ? SQ_PIECE_UNKNOWN
                                     : special ? SQ_PIECE_CONTROL
                                               : SQ_PIECE_USER,
                                     1)
                         : st;
    }
    for (i = 0; st == SQ_OK && i < v->n; i++) {
        if (v->tokens[i].p == NULL) {
            char *pad = sq_arena_printf(&v->arena, v->err, "[PAD%zu]", i);
            if (pad == NULL) {
                return SQ_ENOMEM;
            }
            v->tokens[i] = (sq_gguf_text){pad, strlen(pad)};
            v->types[i] = SQ_PIECE_UNUSED;
        }
    }
    return st;
}

/* The two halves of a merge, as a pair or as one text. */
static int halves(const json_t *m, sq_gguf_text out[2]) {
    const char *a = json_string_value(json_array_get(m, 0)),
               *b = json_string_value(json_array_get(m, 1)), *s = json_string_value(m);
    const char *space = s == NULL ? NULL : strchr(s, ' ');
    if (space != NULL) {
        out[0] = (sq_gguf_text){s, (size_t)(space - s)};
        out[1] = (sq_gguf_text){space + 1, strlen(space + 1)};
        return 1;
    }
    out[0] = (sq_gguf_text){a, a == NULL ? 0 : strlen(a)};
    out[1] = (sq_gguf_text){b, b == NULL ? 0 : strlen(b)};
    return a != NULL && b != NULL;
}

/* Merge i of the list, its halves with `between` between them. */
static sq_status merged(vocab *v, const json_t *list, size_t i, const char *between, char **out) {
    sq_gguf_text h[2];
    if (!halves(json_array_get(list, i), h)) {
        return sq_fail(v->err, SQ_EFORMAT, "tokenizer.json: merge %zu is no pair of texts", i);
    }
    *out = sq_arena_printf(&v->arena, v->err, "%.*s%s%.*s", (int)h[0].n, h[0].p, between,
                           (int)h[1].n, h[1].p);
    return *out == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status put_merges(vocab *v) {
    const json_t *list = json_object_get(v->model, "merges");
    size_t n = json_array_size(list);
    sq_gguf_text *texts = sq_arena_alloc(&v->arena, n + 1, sizeof *texts, v->err);
    if (texts == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        char *t;
        sq_status st = merged(v, list, i, " ", &t);
        if (st != SQ_OK) {
            return st;
        }
        texts[i] = (sq_gguf_text){t, strlen(t)};
    }
    sq_gguf_put_strings(v->w, "tokenizer.ggml.merges", texts, n);
    return SQ_OK;
}

/* SentencePiece takes the pair of the highest score: a piece's is the rank of the first merge that
 * makes it, negated. */
static sq_status put_scores(vocab *v) {
    const json_t *list = json_object_get(v->model, "merges"),
                 *ids = json_object_get(v->model, "vocab");
    for (size_t i = json_array_size(list); i-- > 0;) {
        char *t;
        sq_status st = merged(v, list, i, "", &t);
        if (st != SQ_OK) {
            return st;
        }
        const json_t *id = json_object_get(ids, t);
        if (json_is_integer(id)) {
            v->scores[json_integer_value(id)] = -(float)i;
        }
    }
    sq_gguf_put_f32s(v->w, "tokenizer.ggml.scores", v->scores, v->n);
    return SQ_OK;
}

/* ---- special tokens ---- */

static int64_t id_of(const vocab *v, const char *text) {
    for (size_t i = 0; text != NULL && i < v->n; i++) {
        if (v->tokens[i].n == strlen(text) && memcmp(v->tokens[i].p, text, v->tokens[i].n) == 0) {
            return (int64_t)i;
        }
    }
    return -1;
}

static const char *named(const json_t *config, const char *key) {
    const json_t *t = json_object_get(config, key);
    return json_is_object(t) ? sq_json_str(t, "content", NULL) : json_string_value(t);
}

/* The template of post-processing that says what goes around a text. */
static const json_t *around(const json_t *post) {
    size_t i;
    json_t *p;
    if (strcmp(sq_json_str(post, "type", ""), "TemplateProcessing") == 0) {
        return json_object_get(post, "single");
    }
    json_array_foreach(json_object_get(post, "processors"), i, p) {
        const json_t *found = around(p);
        if (found != NULL) {
            return found;
        }
    }
    return NULL;
}

static void put_id(const vocab *v, const char *key, int64_t id) {
    if (id >= 0 && (size_t)id < v->n) {
        sq_gguf_put_u32(v->w, key, (uint32_t)id);
    }
}

static int64_t config_id(const json_t *config, const char *key) {
    const json_t *text = json_object_get(config, "text_config");
    int64_t id = sq_json_int(config, key, -1);
    return id >= 0 ? id : sq_json_int(text, key, -1);
}

/* Other ends of an answer that generation_config.json names. */
static void put_other_ends(const vocab *v, const json_t *generation, int64_t eos) {
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    const json_t *list = json_object_get(generation, "eos_token_id");
    size_t used = 0, n = json_is_array(list) ? json_array_size(list) : 0;
    for (size_t i = 0; i < n && used < 2; i++) {
        int64_t id = json_integer_value(json_array_get(list, i));
        if (id != eos) {
            put_id(v, keys[used++], id);
        }
    }
}

static void put_special(const vocab *v, const json_t *config, const json_t *generation) {
    const json_t *single = around(json_object_get(v->root, "post_processor"));
    size_t n = json_array_size(single);
    const char *first =
        sq_json_str(json_object_get(json_array_get(single, 0), "SpecialToken"), "id", NULL);
    const char *last =
        n < 2 ? NULL
              : sq_json_str(json_object_get(json_array_get(single, n - 1), "SpecialToken"), "id",
                            NULL);
    int64_t bos = id_of(v, first != NULL ? first : named(v->config, "bos_token"));
    int64_t eos = id_of(v, last != NULL ? last : named(v->config, "eos_token"));
    bos = bos >= 0 ? bos : config_id(config, "bos_token_id");
    eos = eos >= 0 ? eos : config_id(config, "eos_token_id");
    put_id(v, "tokenizer.ggml.bos_token_id", bos);
    put_id(v, "tokenizer.ggml.eos_token_id", eos);
    put_id(v, "tokenizer.ggml.unknown_token_id", id_of(v, named(v->config, "unk_token")));
    put_id(v, "tokenizer.ggml.padding_token_id", id_of(v, named(v->config, "pad_token")));
    put_other_ends(v, generation, eos);
    sq_gguf_put_bool(v->w, "tokenizer.ggml.add_bos_token", first != NULL);
    sq_gguf_put_bool(v->w, "tokenizer.ggml.add_eos_token", last != NULL);
}

/* ---- the chat template ---- */

static const json_t *default_template(const json_t *t) {
    const json_t *found = json_object_get(t, "default"), *item;
    size_t i;
    json_array_foreach(t, i, item) {
        if (strcmp(sq_json_str(item, "name", ""), "default") == 0) {
            found = json_object_get(item, "template");
        }
    }
    return json_is_string(t) ? t : found;
}

static sq_status put_template(vocab *v, const char *model) {
    char *path = sq_path_join(&v->arena, model, "chat_template.jinja", v->err), *text = NULL;
    json_t *file = NULL;
    size_t n = 0;
    sq_status st = path == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK && sq_is_dir(model) && sq_file_exists(path)) {
        st = sq_file_read(path, 4u << 20, &text, &n, v->err);
        if (st == SQ_OK) {
            sq_gguf_put_text(v->w, "tokenizer.chat_template", text, n);
        }
        sq_free(text);
        return st;
    }
    st = st == SQ_OK ? sq_source_json(model, "chat_template.json", &file, v->err) : st;
    const json_t *t = default_template(json_object_get(file, "chat_template"));
    t = t == NULL ? default_template(json_object_get(v->config, "chat_template")) : t;
    if (st == SQ_OK && t != NULL) {
        sq_gguf_put_text(v->w, "tokenizer.chat_template", json_string_value(t),
                         json_string_length(t));
    }
    json_decref(file);
    return st;
}

/* ---- the whole ---- */

static sq_status put_all(vocab *v, const char *model, const json_t *config,
                         const json_t *generation) {
    const json_t *normalizer = json_object_get(v->root, "normalizer");
    const sq_gguf_pre *pre = NULL;
    steps s = {0};
    sq_status st;
    if (strcmp(sq_json_str(v->model, "type", "BPE"), "BPE") != 0) {
        return sq_fail(v->err, SQ_EUNSUPPORTED, "tokenizer.json: model '%.40s'; wanted BPE",
                       sq_json_str(v->model, "type", ""));
    }
    const json_t *first = json_object_get(v->root, "pre_tokenizer");
    if (json_is_object(first)) {
        read_step(first, &s);
    }
    int pieces = !s.bytes;
    if (pieces && !sq_json_bool(v->model, "byte_fallback", 0)) {
        return sq_fail(v->err, SQ_EUNSUPPORTED,
                       "tokenizer.json is neither of bytes (GPT-2's kind) nor SentencePiece's with "
                       "bytes for what it does not know");
    }
    SQ_TRY(read_tokens(v, pieces));
    st = pieces ? SQ_OK : find_pre(v, &s, &pre);
    SQ_TRY(st);
    sq_gguf_put_string(v->w, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
    sq_gguf_put_string(v->w, "tokenizer.ggml.pre", pieces ? "default" : pre->name);
    sq_gguf_put_strings(v->w, "tokenizer.ggml.tokens", v->tokens, v->n);
    sq_gguf_put_i32s(v->w, "tokenizer.ggml.token_type", v->types, v->n);
    if (pieces) {
        char *text = normalizer == NULL ? NULL : json_dumps(normalizer, JSON_COMPACT);
        int prefix = s.prefix || (text != NULL && strstr(text, "\"Prepend\"") != NULL);
        free(text);
        sq_gguf_put_bool(v->w, "tokenizer.ggml.add_space_prefix", prefix);
    }
    st = pieces ? put_scores(v) : put_merges(v);
    SQ_TRY(st);
    put_special(v, config, generation);
    st = put_template(v, model);
fail:
    return st;
}

sq_status sq_gguf_put_vocab(sq_gguf_writer *w, const char *model, int64_t n, const json_t *config,
                            const json_t *generation, sq_error *err) {
    vocab v = {.w = w, .n = (size_t)n, .err = err};
    json_t *root = NULL, *tokenizer_config = NULL;
    sq_status st;
    SQ_TRY(sq_source_json(model, "tokenizer.json", &root, err));
    SQ_TRY(sq_source_json(model, "tokenizer_config.json", &tokenizer_config, err));
    v.root = root;
    v.config = tokenizer_config;
    v.model = json_object_get(root, "model");
    if (v.model == NULL) {
        st = sq_fail(err, SQ_EFORMAT,
                     "'%s' has no tokenizer; wanted tokenizer.json or tokenizer.model", model);
        goto fail;
    }
    v.tokens = sq_arena_alloc(&v.arena, v.n, sizeof *v.tokens, err);
    v.types = sq_arena_alloc(&v.arena, v.n, sizeof *v.types, err);
    v.scores = sq_arena_alloc(&v.arena, v.n, sizeof *v.scores, err);
    st = v.tokens == NULL || v.types == NULL || v.scores == NULL
             ? SQ_ENOMEM
             : put_all(&v, model, config, generation);
fail:
    json_decref(root);
    json_decref(tokenizer_config);
    sq_arena_free(&v.arena);
    return st;
}
