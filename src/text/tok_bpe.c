/* Byte-pair encoding (HF tokenizers, models/bpe): words to symbols, a cache of words, loading.
 * Merging is tok_merge.c's. */
#include <stdio.h>
#include <string.h>

#include "text/tok.h"
#include "text/utf8.h"

enum { KEY_MAX = 23, IDS_MAX = 6, NO_ID = -1 };

typedef struct tok_cached {
    unsigned char n, n_ids;
    char key[KEY_MAX + 3];
    int32_t id[IDS_MAX];
} tok_cached;

static uint64_t hash_bytes(const char *s, size_t n) {
    uint64_t h = 0x9e3779b97f4a7c15u ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    uint64_t w = 0;
    memcpy(&w, s, n);
    h = (h ^ w) * 0xff51afd7ed558ccdu;
    return h ^ h >> 29;
}

int32_t sq_tok_vocab(const sq_tokenizer *t, const char *s, size_t n) {
    if (t->slots == 0) {
        return NO_ID;
    }
    for (size_t i = hash_bytes(s, n) & (t->slots - 1);; i = (i + 1) & (t->slots - 1)) {
        if (t->slot[i] == 0) {
            return NO_ID;
        }
        int32_t id = (int32_t)(t->slot[i] - 1);
        if (t->text[id].n == n && memcmp(t->text[id].p, s, n) == 0) {
            return id;
        }
    }
}

/* Puts an id whose text is already stored into the table; a text that is there keeps its place. */
static void vocab_insert(sq_tokenizer *t, int32_t id) {
    const tok_str *s = &t->text[id];
    size_t i = hash_bytes(s->p, s->n) & (t->slots - 1);
    while (t->slot[i] != 0) {
        i = (i + 1) & (t->slots - 1);
    }
    t->slot[i] = (uint32_t)id + 1;
}

static sq_status reserve(tok_bpe *b, size_t n, sq_error *err) {
    if (n <= b->cap) {
        return SQ_OK;
    }
    if (n > 0x7fffffff) {
        return sq_fail(err, SQ_ELIMIT, "one piece of text has %zu bytes; wanted less than 2 GiB",
                       n);
    }
    size_t cap = n < 256 ? 256 : n + n / 2;
    sq_free(b->id);
    b->id = sq_alloc_raw(cap, sizeof *b->id, "BPE symbols", err);
    b->cap = b->id ? cap : 0;
    return b->cap ? SQ_OK : SQ_ENOMEM;
}

/* Symbols of a word whose characters stand for bytes. */
static size_t byte_symbols(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n) {
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(unsigned char)s[i]];
        if (id >= 0) {
            b->id[m++] = id;
        } else if (t->unk >= 0 &&
                   !(t->fuse_unk && i > 0 && t->byte_id[(unsigned char)s[i - 1]] < 0)) {
            b->id[m++] = t->unk;
        }
    }
    return m;
}

/* Id of one character with the prefix and suffix that its place in the word asks for. */
static int32_t char_id(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t k, int first,
                       int last) {
    if ((first || t->prefix.n == 0) && (!last || t->suffix.n == 0)) {
        return sq_tok_vocab(t, s, k);
    }
    b->word.len = 0;
    if (!first) {
        sq_text_put(&b->word, t->prefix.p, t->prefix.n);
    }
    sq_text_put(&b->word, s, k);
    if (last) {
        sq_text_put(&b->word, t->suffix.p, t->suffix.n);
    }
    return b->word.failed ? NO_ID : sq_tok_vocab(t, b->word.data, b->word.len);
}

/* Symbols of a word of characters. An unknown character becomes byte tokens or <unk>; a pending
 * <unk> comes out at the next known character, after byte tokens, as in BPE::merge_word. */
static size_t char_symbols(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n) {
    size_t m = 0;
    int pending = 0;
    for (size_t i = 0; i < n;) {
        size_t k = sq_utf8_len(s[i]), j;
        int32_t id = char_id(t, b, s + i, k, i == 0, i + k == n);
        if (id >= 0) {
            if (pending) {
                b->id[m++] = t->unk;
                pending = 0;
            }
            b->id[m++] = id;
            i += k;
            continue;
        }
        for (j = 0; t->byte_fallback && j < k; j++) {
            if (t->fallback[(unsigned char)s[i + j]] < 0) {
                break;
            }
        }
        if (t->byte_fallback && j == k) {
            for (j = 0; j < k; j++) {
                b->id[m++] = t->fallback[(unsigned char)s[i + j]];
            }
        } else if (t->unk >= 0) {
            if (pending && !t->fuse_unk) {
                b->id[m++] = t->unk;
            }
            pending = 1;
        }
        i += k;
    }
    if (pending) {
        b->id[m++] = t->unk;
    }
    return m;
}

static sq_status push_ids(sq_ids *out, const int32_t *id, size_t n, sq_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (sq_ids_push(out, id[i], err) != SQ_OK) {
            return SQ_ENOMEM;
        }
    }
    return SQ_OK;
}

/* The whole word as one entry of the vocabulary (ignore_merges), or -1. */
static int32_t whole_word(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n) {
    if (!t->bytes) {
        return sq_tok_vocab(t, s, n);
    }
    char c[4];
    b->word.len = 0;
    for (size_t i = 0; i < n; i++) {
        sq_text_put(&b->word, c, sq_tok_byte_char((unsigned char)s[i], c));
    }
    return b->word.failed ? NO_ID : sq_tok_vocab(t, b->word.data, b->word.len);
}

static sq_status encode_word(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n,
                             size_t *count, sq_error *err) {
    sq_status st = reserve(b, n, err);
    if (st != SQ_OK) {
        return st;
    }
    if (t->ignore_merges) {
        b->id[0] = whole_word(t, b, s, n);
        if (b->id[0] >= 0) {
            *count = 1;
            return SQ_OK;
        }
    }
    size_t m = t->bytes ? byte_symbols(t, b, s, n) : char_symbols(t, b, s, n);
    if (b->word.failed) {
        return sq_fail_nomem(err, "a word", n);
    }
    return sq_tok_merge(t, &b->merger, b->id, m, count, err);
}

sq_status sq_tok_bpe(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n, sq_ids *out,
                     sq_error *err) {
    tok_cached *c = NULL;
    if (n == 0) {
        return SQ_OK;
    }
    if (b->cache != NULL && n <= KEY_MAX) {
        c = &b->cache[hash_bytes(s, n) & (b->cache_slots - 1)];
        if (c->n == n && memcmp(c->key, s, n) == 0) {
            return push_ids(out, c->id, c->n_ids, err);
        }
    }
    size_t m = 0;
    sq_status st = encode_word(t, b, s, n, &m, err);
    if (st != SQ_OK) {
        return st;
    }
    if (c != NULL && m <= IDS_MAX) {
        c->n = (unsigned char)n;
        c->n_ids = (unsigned char)m;
        memcpy(c->key, s, n);
        memcpy(c->id, b->id, m * sizeof *b->id);
    }
    return push_ids(out, b->id, m, err);
}

void sq_tok_bpe_cache(tok_bpe *b, size_t n) {
    if (n < 2048 || b->cache != NULL) {
        return;
    }
    b->cache_slots = n < 65536 ? 2048 : 16384;
    b->cache = sq_alloc(b->cache_slots, sizeof *b->cache, "a word cache", NULL);
}

void sq_tok_bpe_free(tok_bpe *b) {
    sq_free(b->id);
    sq_free(b->cache);
    sq_tok_merge_free(&b->merger);
    sq_buf_free(&b->word);
}

/* ---- loading ---- */

static sq_status load_vocab(sq_tokenizer *t, const json_t *vocab, sq_error *err) {
    enum { MAX_ID = 1 << 24 };
    size_t n = json_object_size(vocab);
    const char *key;
    json_t *v;
    json_int_t top = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MAX_ID) {
            return sq_fail(err, SQ_EFORMAT,
                           "model.vocab: '%.60s' has no id in 0..%d; wanted a whole number", key,
                           MAX_ID - 1);
        }
        top = json_integer_value(v) > top ? json_integer_value(v) : top;
    }
    t->vocab_max = (int32_t)(top + 1);
    t->slots = 16;
    while (t->slots < 2 * n) {
        t->slots *= 2;
    }
    t->text = sq_arena_alloc(&t->arena, (size_t)t->vocab_max + 1, sizeof *t->text, err);
    t->slot = sq_arena_alloc(&t->arena, t->slots, sizeof *t->slot, err);
    if (t->text == NULL || t->slot == NULL) {
        return SQ_ENOMEM;
    }
    size_t bytes = 0;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) { bytes += strlen(key) + 1; }
    char *blob = sq_arena_alloc(&t->arena, bytes + 1, 1, err);
    if (blob == NULL) {
        return SQ_ENOMEM;
    }
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        size_t k = strlen(key);
        int32_t id = (int32_t)json_integer_value(v);
        if (t->text[id].p != NULL) {
            return sq_fail(err, SQ_EFORMAT, "model.vocab: id %d is given to '%.60s' and '%.60s'",
                           (int)id, t->text[id].p, key);
        }
        memcpy(blob, key, k + 1);
        t->text[id] = (tok_str){blob, k};
        blob += k + 1;
        vocab_insert(t, id);
    }
    return SQ_OK;
}

/* The two halves of a merge: "a b" or ["a", "b"]. */
static int merge_halves(const json_t *v, tok_str *a, tok_str *b) {
    if (json_is_string(v)) {
        a->p = json_string_value(v);
        size_t n = json_string_length(v);
        const char *sp = memchr(a->p, ' ', n);
        if (sp == NULL) {
            return 0;
        }
        a->n = (size_t)(sp - a->p);
        *b = (tok_str){sp + 1, n - a->n - 1};
        return memchr(b->p, ' ', b->n) == NULL;
    }
    const json_t *x = json_array_get(v, 0), *y = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_string(x) || !json_is_string(y)) {
        return 0;
    }
    *a = (tok_str){json_string_value(x), json_string_length(x)};
    *b = (tok_str){json_string_value(y), json_string_length(y)};
    return 1;
}

static void merge_insert(sq_tokenizer *t, int32_t a, int32_t b, uint32_t rank) {
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    size_t i = sq_tok_pair_hash(key) & (t->merge_slots - 1);
    while (t->merge[i].rank != TOK_NO_RANK && t->merge[i].key != key) {
        i = (i + 1) & (t->merge_slots - 1);
    }
    t->merge[i].key = key;
    t->merge[i].rank = rank;
}

static sq_status load_merge(sq_tokenizer *t, const json_t *v, size_t rank, sq_buf *tmp,
                            sq_error *err) {
    tok_str a, b;
    if (!merge_halves(v, &a, &b)) {
        return sq_fail(err, SQ_EFORMAT, "model.merges: entry %zu; wanted two strings", rank);
    }
    tmp->len = 0;
    size_t cut = t->prefix.n <= b.n ? t->prefix.n : 0;
    sq_text_put(tmp, a.p, a.n);
    sq_text_put(tmp, b.p + cut, b.n - cut);
    if (tmp->failed) {
        return sq_fail_nomem(err, "a merge", a.n + b.n);
    }
    int32_t ia = sq_tok_vocab(t, a.p, a.n), ib = sq_tok_vocab(t, b.p, b.n);
    int32_t ic = sq_tok_vocab(t, tmp->data, tmp->len);
    if (ia < 0 || ib < 0 || ic < 0) {
        return sq_fail(err, SQ_EFORMAT,
                       "model.merges: entry %zu, '%.40s' + '%.40s', is not in the vocabulary", rank,
                       a.p, b.p);
    }
    t->merge_new[rank] = ic;
    merge_insert(t, ia, ib, (uint32_t)rank);
    return SQ_OK;
}

static sq_status load_merges(sq_tokenizer *t, const json_t *merges, sq_error *err) {
    size_t n = json_array_size(merges);
    if (n >= (1u << 26)) {
        return sq_fail(err, SQ_EFORMAT, "model.merges: %zu entries; wanted fewer", n);
    }
    t->merge_slots = 16;
    while (t->merge_slots < 2 * n) {
        t->merge_slots *= 2;
    }
    t->merge = sq_arena_alloc(&t->arena, t->merge_slots, sizeof *t->merge, err);
    t->merge_new = sq_arena_alloc(&t->arena, n + 1, sizeof *t->merge_new, err);
    if (t->merge == NULL || t->merge_new == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < t->merge_slots; i++) {
        t->merge[i].rank = TOK_NO_RANK;
    }
    sq_buf tmp = {0};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        st = load_merge(t, json_array_get(merges, i), i, &tmp, err);
    }
    sq_buf_free(&tmp);
    t->n_merges = n;
    return st;
}

static void fill_bytes(sq_tokenizer *t) {
    for (int i = 0; i < 256; i++) {
        char c[8];
        size_t k = sq_tok_byte_char((unsigned char)i, c);
        t->byte_id[i] = sq_tok_vocab(t, c, k);
        snprintf(c, sizeof c, "<0x%02X>", (unsigned)i);
        t->fallback[i] = sq_tok_vocab(t, c, 6);
    }
}

static int is_number_above_0(const json_t *v) {
    return json_is_number(v) && json_number_value(v) > 0;
}

sq_status sq_tok_load_model(sq_tokenizer *t, const json_t *root, sq_error *err) {
    const json_t *m = json_object_get(root, "model");
    const json_t *vocab = json_object_get(m, "vocab"), *merges = json_object_get(m, "merges");
    const json_t *type = json_object_get(m, "type"), *unk = json_object_get(m, "unk_token");
    if (json_is_string(type) && strcmp(json_string_value(type), "BPE") != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED, "model type '%.40s' is not supported; wanted BPE",
                       json_string_value(type));
    }
    if (!json_is_object(vocab) || !json_is_array(merges)) {
        return sq_fail(err, SQ_EFORMAT,
                       "model.vocab and model.merges are missing or of the wrong type; wanted an "
                       "object and an array");
    }
    if (is_number_above_0(json_object_get(m, "dropout"))) {
        return sq_fail(err, SQ_EUNSUPPORTED, "model.dropout is set; wanted none, as it is random");
    }
    sq_status st;
    SQ_TRY(sq_tok_copy(t, json_object_get(m, "continuing_subword_prefix"), &t->prefix, err));
    SQ_TRY(sq_tok_copy(t, json_object_get(m, "end_of_word_suffix"), &t->suffix, err));
    SQ_TRY(load_vocab(t, vocab, err));
    SQ_TRY(load_merges(t, merges, err));
    fill_bytes(t);
    t->unk = NO_ID;
    if (json_is_string(unk)) {
        t->unk = sq_tok_vocab(t, json_string_value(unk), json_string_length(unk));
    }
    t->ignore_merges = json_is_true(json_object_get(m, "ignore_merges"));
    t->byte_fallback = json_is_true(json_object_get(m, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(m, "fuse_unk"));
fail:
    return st;
}
