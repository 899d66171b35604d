/* The tokenizer: opening, added tokens, and the way from text to ids. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/source.h"
#include "text/tok.h"
#include "text/utf8.h"

enum { MAX_ADDED_ID = 1 << 24, NONE = -1 };

/* Bytes 33..126, 161..172 and 174..255 stand for themselves, the other 68 follow from U+0100. */
static int keeps(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b != 173); }

size_t sq_tok_byte_char(unsigned char b, char out[4]) {
    if (keeps(b)) {
        return sq_utf8_put(out, b);
    }
    /* 0..32 -> 0, 127..160 -> 33, 173 -> 67 */
    return sq_utf8_put(out, b <= 32 ? 0x100u + b : b == 173 ? 0x143u : 0x121u + b - 127u);
}

int sq_tok_char_byte(uint32_t cp) {
    if (cp < 0x100) {
        return keeps((int)cp) ? (int)cp : -1;
    }
    return cp <= 0x120   ? (int)cp - 0x100
           : cp <= 0x142 ? (int)cp - 0x121 + 127
           : cp == 0x143 ? 173
                         : -1;
}

sq_status sq_ids_push(sq_ids *v, int32_t id, sq_error *err) {
    if (v->len == v->cap) {
        size_t cap = v->cap < 64 ? 64 : v->cap * 2;
        void *p = v->data;
        sq_status st =
            sq_grow(&p, v->len * sizeof *v->data, cap, sizeof *v->data, "token ids", err);
        if (st != SQ_OK) {
            return st;
        }
        v->data = p;
        v->cap = cap;
    }
    v->data[v->len++] = id;
    return SQ_OK;
}

/* ---- added tokens ---- */

static uint32_t trie_child(const tok_trie *tr, uint32_t node, unsigned char c) {
    if (node == 0) {
        return tr->first[c];
    }
    uint32_t k = tr->node[node].child;
    while (k != 0 && tr->node[k].byte != c) {
        k = tr->node[k].next;
    }
    return k;
}

static sq_status trie_add(tok_trie *tr, tok_str s, int32_t token, sq_error *err) {
    uint32_t node = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        uint32_t k = trie_child(tr, node, c);
        if (k == 0) {
            if (tr->n >= tr->cap) {
                size_t cap = tr->cap ? tr->cap * 2 : 256;
                void *p = tr->node;
                sq_status st = sq_grow(&p, tr->n * sizeof *tr->node, cap, sizeof *tr->node,
                                       "added tokens", err);
                if (st != SQ_OK) {
                    return st;
                }
                tr->node = p;
                tr->cap = cap;
            }
            tr->n += tr->n == 0; /* node 0 is the root */
            k = (uint32_t)tr->n++;
            tr->node[k] = (tok_trie_node){0, node ? tr->node[node].child : 0, NONE, c};
            *(node ? &tr->node[node].child : &tr->first[c]) = k;
        }
        node = k;
    }
    if (node != 0) {
        tr->node[node].token = token;
    }
    return SQ_OK;
}

/* Longest added token at s[0..n): its index, or -1. */
static int32_t trie_match(const tok_trie *tr, const char *s, size_t n, size_t *len) {
    int32_t best = NONE;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = trie_child(tr, node, (unsigned char)s[i]);
        if (node == 0) {
            break;
        }
        if (tr->node[node].token >= 0) {
            best = tr->node[node].token;
            *len = i + 1;
        }
    }
    return best;
}

/* ---- encoding ---- */

typedef struct sq_encoder {
    const sq_tokenizer *t;
    int plain;
    tok_pre pre;
    tok_bpe bpe;
    sq_buf norm, spare, fixed;
    sq_ids *out;
    sq_error *err;
} enc;

typedef sq_status (*segment_fn)(enc *e, const char *s, size_t n, int first);

/* Text without added tokens. */
static sq_status plain_segment(enc *e, const char *s, size_t n, int first) {
    sq_status st = sq_tok_pretokenize(e->t, &e->pre, s, n, first, e->err);
    for (size_t i = 0; st == SQ_OK && i < e->pre.span.len; i++) {
        tok_span sp = e->pre.span.data[i];
        st = sq_tok_bpe(e->t, &e->bpe, e->pre.base + sp.start, sp.end - sp.start, e->out, e->err);
    }
    return st;
}

static int word_before(const char *s, size_t at) {
    uint32_t cp;
    if (at == 0) {
        return 0;
    }
    sq_utf8_get(s + sq_utf8_back(s, at), &cp);
    return sq_uc_word(cp);
}

static int word_after(const char *s, size_t n, size_t at) {
    uint32_t cp;
    if (at >= n) {
        return 0;
    }
    sq_utf8_get(s + at, &cp);
    return sq_uc_word(cp);
}

static size_t spaces_before(const char *s, size_t at) {
    uint32_t cp;
    while (at > 0) {
        size_t k = sq_utf8_back(s, at);
        sq_utf8_get(s + k, &cp);
        if (!sq_uc_space(cp)) {
            break;
        }
        at = k;
    }
    return at;
}

static size_t spaces_after(const char *s, size_t n, size_t at) {
    uint32_t cp;
    while (at < n) {
        size_t k = sq_utf8_get(s + at, &cp);
        if (!sq_uc_space(cp)) {
            break;
        }
        at += k;
    }
    return at;
}

/* Finds the added tokens of one trie and hands the text between them on
 * (AddedVocabulary::find_matches). */
static sq_status scan(enc *e, const tok_trie *tr, const char *s, size_t n, int first,
                      segment_fn text) {
    size_t done = 0, i = 0, len = 0;
    sq_status st = SQ_OK;
    while (st == SQ_OK && i < n) {
        int32_t k = tr->first[(unsigned char)s[i]] ? trie_match(tr, s + i, n - i, &len) : NONE;
        if (k < 0) {
            i++;
            continue;
        }
        size_t a = i, b = i + len;
        i = b;
        const tok_added *add = &e->t->added[k];
        if ((e->plain && add->special) ||
            (add->single_word && (word_before(s, a) || word_after(s, n, b))) || a < done) {
            continue;
        }
        if (add->lstrip) {
            size_t left = spaces_before(s, a);
            a = left > done ? left : done;
        }
        if (add->rstrip) {
            b = spaces_after(s, n, b);
        }
        if (a > done) {
            st = text(e, s + done, a - done, first && done == 0);
        }
        if (st == SQ_OK) {
            st = sq_ids_push(e->out, add->id, e->err);
        }
        done = b;
    }
    return st == SQ_OK && done < n ? text(e, s + done, n - done, first && done == 0) : st;
}

/* Text without the tokens that are found in raw text: normalize it, then look for the others. */
static sq_status raw_segment(enc *e, const char *s, size_t n, int first) {
    if (e->t->norm.n > 0) {
        e->norm.len = 0;
        sq_text_put(&e->norm, s, n);
        if (e->norm.failed) {
            return sq_fail_nomem(e->err, "text", n);
        }
        sq_status st = sq_tok_normalize(&e->t->norm, &e->pre.match, &e->norm, &e->spare, e->err);
        if (st != SQ_OK || e->norm.len == 0) {
            return st;
        }
        s = e->norm.data;
        n = e->norm.len;
    }
    return e->t->normalized.n == 0 ? plain_segment(e, s, n, first)
                                   : scan(e, &e->t->normalized, s, n, first, plain_segment);
}

static sq_status push_all(sq_ids *out, const sq_ids *more, sq_error *err) {
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < more->len; i++) {
        st = sq_ids_push(out, more->data[i], err);
    }
    return st;
}

sq_status sq_encoder_encode(sq_encoder *e, const char *text, size_t len, int plain, int post,
                            sq_ids *out, sq_error *err) {
    sq_status st = SQ_OK;
    e->plain = plain;
    e->out = out;
    e->err = err;
    if (sq_utf8_valid(text, len) != len) {
        e->fixed.len = 0;
        sq_utf8_repair(&e->fixed, text, len);
        if (e->fixed.failed) {
            e->fixed.failed = 0;
            return sq_fail_nomem(err, "text", len);
        }
        text = e->fixed.data;
        len = e->fixed.len;
    }
    if (post) {
        st = push_all(out, &e->t->post_prefix, err);
    }
    if (st == SQ_OK && len > 0) {
        st = scan(e, &e->t->raw, text, len, 1, raw_segment);
    }
    return st == SQ_OK && post ? push_all(out, &e->t->post_suffix, err) : st;
}

static void free_encoder(enc *e) {
    sq_tok_pre_free(&e->pre);
    sq_tok_bpe_free(&e->bpe);
    sq_buf_free(&e->norm);
    sq_buf_free(&e->spare);
    sq_buf_free(&e->fixed);
}

sq_status sq_encoder_open(sq_encoder **out, const sq_tokenizer *t, sq_error *err) {
    *out = sq_alloc(1, sizeof **out, "an encoder", err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    (*out)->t = t;
    sq_tok_bpe_cache(&(*out)->bpe, SIZE_MAX);
    return SQ_OK;
}

void sq_encoder_close(sq_encoder **e) {
    if (*e != NULL) {
        free_encoder(*e);
        sq_free(*e);
        *e = NULL;
    }
}

sq_status sq_tokenizer_encode(const sq_tokenizer *t, const char *text, size_t len, int plain,
                              int post, sq_ids *out, sq_error *err) {
    enc e = {.t = t};
    sq_tok_bpe_cache(&e.bpe, len);
    sq_status st = sq_encoder_encode(&e, text, len, plain, post, out, err);
    free_encoder(&e);
    return st;
}

/* ---- looking up ---- */

int32_t sq_tokenizer_id(const sq_tokenizer *t, const char *token) {
    size_t n = strlen(token);
    for (size_t i = 0; i < t->n_added; i++) {
        if (t->added[i].text.n == n && memcmp(t->added[i].text.p, token, n) == 0) {
            return t->added[i].id;
        }
    }
    return sq_tok_vocab(t, token, n);
}

const char *sq_tokenizer_token(const sq_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size ? t->text[id].p : NULL;
}

int32_t sq_tokenizer_size(const sq_tokenizer *t) { return t->size; }

int sq_tokenizer_is_special(const sq_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && t->special[id];
}

const char *sq_tokenizer_special(const sq_tokenizer *t, const char *name) {
    for (size_t i = 0; i < t->n_names; i++) {
        if (strcmp(t->name[i].key.p, name) == 0) {
            return t->name[i].text.p;
        }
    }
    return NULL;
}

/* ---- opening ---- */

static sq_status load_added_token(sq_tokenizer *t, const json_t *v, int64_t id, sq_error *err) {
    const json_t *text = json_object_get(v, "content");
    if (!json_is_string(text) || id < 0 || id >= MAX_ADDED_ID) {
        return sq_fail(err, SQ_EFORMAT,
                       "added_tokens: entry %zu; wanted content and an id in 0..%d", t->n_added,
                       MAX_ADDED_ID - 1);
    }
    if (json_string_length(text) == 0) {
        return SQ_OK;
    }
    tok_added *a = &t->added[t->n_added++];
    a->id = (int32_t)id;
    a->special = sq_json_bool(v, "special", 0);
    a->normalized = sq_json_bool(v, "normalized", !a->special);
    a->lstrip = sq_json_bool(v, "lstrip", 0);
    a->rstrip = sq_json_bool(v, "rstrip", 0);
    a->single_word = sq_json_bool(v, "single_word", 0);
    return sq_tok_copy(t, text, &a->text, err);
}

static int has_added_id(const sq_tokenizer *t, const json_t *list, int64_t id) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (sq_json_int(json_array_get(list, i), "id", NONE) == id) {
            return 1;
        }
    }
    return id < t->vocab_max && t->text[id].p != NULL;
}

/* added_tokens of tokenizer.json, then those that only tokenizer_config.json has. */
static sq_status load_added(sq_tokenizer *t, const json_t *list, const json_t *config,
                            sq_error *err) {
    const json_t *more = json_object_get(config, "added_tokens_decoder");
    size_t n = json_array_size(list);
    sq_status st = SQ_OK;
    t->added = sq_arena_alloc(&t->arena, n + json_object_size(more) + 1, sizeof *t->added, err);
    if (t->added == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        const json_t *v = json_array_get(list, i);
        st = load_added_token(t, v, sq_json_int(v, "id", NONE), err);
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)more, key, v) {
        int64_t id = 0;
        const char *c = key;
        for (; *c >= '0' && *c <= '9' && id < MAX_ADDED_ID; c++) {
            id = id * 10 + (*c - '0');
        }
        if (st == SQ_OK && *c == '\0' && c != key && !has_added_id(t, list, id)) {
            st = load_added_token(t, v, id, err);
        }
    }
    return st;
}

/* Grows the table of texts over the added tokens and marks the special ones. */
static sq_status index_added(sq_tokenizer *t, sq_error *err) {
    t->size = t->vocab_max;
    for (size_t i = 0; i < t->n_added; i++) {
        t->size = t->added[i].id >= t->size ? t->added[i].id + 1 : t->size;
    }
    tok_str *text = sq_arena_alloc(&t->arena, (size_t)t->size + 1, sizeof *text, err);
    t->special = sq_arena_alloc(&t->arena, (size_t)t->size + 1, 1, err);
    if (text == NULL || t->special == NULL) {
        return SQ_ENOMEM;
    }
    memcpy(text, t->text, (size_t)t->vocab_max * sizeof *text);
    for (size_t i = 0; i < t->n_added; i++) {
        const tok_added *a = &t->added[i];
        text[a->id] = a->text;
        t->special[a->id] = (unsigned char)a->special;
    }
    t->text = text;
    return SQ_OK;
}

/* A normalized token is found, and shown when decoding, in its normalized form. */
static sq_status keep_normalized(sq_tokenizer *t, tok_added *a, const sq_buf *text, sq_error *err) {
    char *p = sq_arena_alloc(&t->arena, text->len + 1, 1, err);
    if (p == NULL) {
        return SQ_ENOMEM;
    }
    if (text->len > 0) {
        memcpy(p, text->data, text->len);
    }
    a->pattern = (tok_str){p, text->len};
    t->text[a->id] = a->pattern;
    return SQ_OK;
}

static sq_status build_tries(sq_tokenizer *t, sq_error *err) {
    sq_buf text = {0}, spare = {0};
    tok_match m = {0};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < t->n_added; i++) {
        tok_added *a = &t->added[i];
        if (!a->normalized) {
            st = trie_add(&t->raw, a->text, (int32_t)i, err);
            continue;
        }
        text.len = 0;
        sq_text_put(&text, a->text.p, a->text.n);
        st = text.failed ? sq_fail_nomem(err, "an added token", a->text.n)
                         : sq_tok_normalize(&t->norm, &m, &text, &spare, err);
        if (st == SQ_OK) {
            st = keep_normalized(t, a, &text, err);
        }
        if (st == SQ_OK) {
            st = trie_add(&t->normalized, a->pattern, (int32_t)i, err);
        }
    }
    sq_buf_free(&text);
    sq_buf_free(&spare);
    sq_tok_match_free(&m);
    return st;
}

static sq_status post_template(sq_ids *before, sq_ids *after, const json_t *v, sq_error *err) {
    const json_t *single = json_object_get(v, "single");
    const json_t *special = json_object_get(v, "special_tokens");
    sq_ids *to = before;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence") != NULL) {
            to = after;
            continue;
        }
        const char *name = sq_json_str(json_object_get(item, "SpecialToken"), "id", "");
        const json_t *ids = json_object_get(json_object_get(special, name), "ids");
        if (!json_is_array(ids)) {
            return sq_fail(err, SQ_EFORMAT, "post_processor: token '%.60s' has no ids", name);
        }
        for (size_t k = 0; k < json_array_size(ids); k++) {
            const json_t *id = json_array_get(ids, k);
            if (!json_is_integer(id) || json_integer_value(id) < 0 ||
                json_integer_value(id) >= MAX_ADDED_ID) {
                return sq_fail(err, SQ_EFORMAT, "post_processor: token '%.60s' has a bad id", name);
            }
            sq_status st = sq_ids_push(to, (int32_t)json_integer_value(id), err);
            if (st != SQ_OK) {
                return st;
            }
        }
    }
    return to == after ? SQ_OK
                       : sq_fail(err, SQ_EFORMAT, "post_processor: 'single' has no Sequence");
}

/* RobertaProcessing and BertProcessing: cls, text, sep, each ["text", id]. */
static sq_status post_pair(sq_ids *to, const json_t *v, const char *key, sq_error *err) {
    const json_t *id = json_array_get(json_object_get(v, key), 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= MAX_ADDED_ID) {
        return sq_fail(err, SQ_EFORMAT, "post_processor: '%s' is no [text, id]", key);
    }
    return sq_ids_push(to, (int32_t)json_integer_value(id), err);
}

static sq_status load_post(sq_tokenizer *t, const json_t *v, int depth, sq_error *err) {
    if (v == NULL || json_is_null(v)) {
        return SQ_OK;
    }
    const char *type = sq_json_str(v, "type", "");
    const json_t *list = json_object_get(v, "processors");
    sq_status st = SQ_OK;
    if (strcmp(type, "ByteLevel") == 0) {
        return SQ_OK; /* it only moves offsets */
    }
    if (strcmp(type, "Sequence") == 0 && depth < 16) {
        for (size_t i = 0; st == SQ_OK && i < json_array_size(list); i++) {
            st = load_post(t, json_array_get(list, i), depth + 1, err);
        }
        return st;
    }
    /* A later processor wraps what the earlier ones gave. */
    sq_ids before = {0}, after = {0};
    if (strcmp(type, "TemplateProcessing") == 0) {
        SQ_TRY(post_template(&before, &after, v, err));
    } else if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        SQ_TRY(post_pair(&before, v, "cls", err));
        SQ_TRY(post_pair(&after, v, "sep", err));
    } else {
        st = sq_fail(err, SQ_EUNSUPPORTED, "post_processor type '%.60s' is not supported", type);
        goto fail;
    }
    SQ_TRY(push_all(&before, &t->post_prefix, err));
    SQ_TRY(push_all(&t->post_suffix, &after, err));
    sq_ids swap = t->post_prefix;
    t->post_prefix = before;
    before = swap;
fail:
    sq_free(before.data);
    sq_free(after.data);
    return st;
}

/* bos_token and the like: a text, or an object with `content`. */
static sq_status load_names(sq_tokenizer *t, const json_t *config, sq_error *err) {
    const char *key;
    json_t *v;
    t->name = sq_arena_alloc(&t->arena, json_object_size(config) + 1, sizeof *t->name, err);
    if (t->name == NULL) {
        return SQ_ENOMEM;
    }
    json_object_foreach((json_t *)(uintptr_t)config, key, v) {
        const json_t *s = json_is_object(v) ? json_object_get(v, "content") : v;
        size_t n = strlen(key);
        if (n < 6 || strcmp(key + n - 6, "_token") != 0 || !json_is_string(s)) {
            continue;
        }
        tok_name *nm = &t->name[t->n_names];
        nm->key.p = sq_arena_strdup(&t->arena, key, err);
        if (nm->key.p == NULL || sq_tok_copy(t, s, &nm->text, err) != SQ_OK) {
            return SQ_ENOMEM;
        }
        t->n_names++;
    }
    return SQ_OK;
}

/* Byte-level text stays bytes until the model looks it up, when nothing comes in between. */
static int keeps_bytes(const sq_tokenizer *t) {
    return t->pre.n > 0 && t->pre.step[t->pre.n - 1].kind == TOK_BYTELEVEL && t->prefix.n == 0 &&
           t->suffix.n == 0 && !t->byte_fallback;
}

sq_status sq_tokenizer_from_json(sq_tokenizer **out, const json_t *root, const json_t *config,
                                 sq_error *err) {
    *out = NULL;
    if (!json_is_object(root)) {
        return sq_fail(err, SQ_EFORMAT, "the tokenizer is no JSON object");
    }
    sq_tokenizer *t = sq_alloc(1, sizeof *t, "a tokenizer", err);
    if (t == NULL) {
        return SQ_ENOMEM;
    }
    const json_t *dec = json_object_get(root, "decoder");
    sq_status st;
    SQ_TRY(sq_tok_load_model(t, root, err));
    SQ_TRY(
        sq_tok_load_chain(t, TOK_NORMALIZER, json_object_get(root, "normalizer"), &t->norm, err));
    SQ_TRY(sq_tok_load_chain(t, TOK_PRETOKENIZER, json_object_get(root, "pre_tokenizer"), &t->pre,
                             err));
    SQ_TRY(sq_tok_load_chain(t, TOK_DECODER, dec, &t->dec, err));
    t->has_dec = json_is_object(dec);
    t->bytes = keeps_bytes(t);
    t->stream = sq_tok_stream_kind(t);
    SQ_TRY(load_added(t, json_object_get(root, "added_tokens"), config, err));
    SQ_TRY(index_added(t, err));
    SQ_TRY(build_tries(t, err));
    SQ_TRY(load_post(t, json_object_get(root, "post_processor"), 0, err));
    SQ_TRY(load_names(t, config, err));
    *out = t;
    return SQ_OK;
fail:
    sq_tokenizer_close(&t);
    return st;
}

sq_status sq_tokenizer_open(sq_tokenizer **out, const char *path, sq_error *err) {
    size_t n = strlen(path);
    int file = n > 5 && strcmp(path + n - 5, ".json") == 0 && !sq_is_dir(path);
    json_t *root = NULL, *config = NULL;
    *out = NULL;
    sq_status st;
    if (file) {
        SQ_TRY(sq_json_load(path, &root, err));
    } else {
        SQ_TRY(sq_source_json(path, "tokenizer.json", &root, err));
        SQ_TRY(sq_source_json(path, "tokenizer_config.json", &config, err));
    }
    if (root == NULL) {
        st = sq_fail(err, SQ_EFORMAT,
                     "'%s' has no tokenizer; wanted tokenizer.json or "
                     "tokenizer.model",
                     path);
        goto fail;
    }
    st = sq_tokenizer_from_json(out, root, config, err);
    if (st != SQ_OK) {
        sq_error_prefix(err, "%s%s: ", path, file ? "" : "/tokenizer.json");
    }
fail:
    json_decref(root);
    json_decref(config);
    return st;
}

void sq_tokenizer_close(sq_tokenizer **pt) {
    sq_tokenizer *t = *pt;
    if (t == NULL) {
        return;
    }
    sq_tok_free_chain(&t->norm);
    sq_tok_free_chain(&t->pre);
    sq_tok_free_chain(&t->dec);
    sq_free(t->raw.node);
    sq_free(t->normalized.node);
    sq_free(t->post_prefix.data);
    sq_free(t->post_suffix.data);
    sq_arena_free(&t->arena);
    sq_free(t);
    *pt = NULL;
}
