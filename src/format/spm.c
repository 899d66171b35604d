#include "format/spm.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */

enum { MAX_PIECES = 1 << 24, MAX_MODEL = 256 << 20 };

/* ---- pieces -> tokenizer.json ---- */

typedef struct merge {
    float score;
    uint32_t order;
    uint32_t piece;
    uint16_t left, left_chars, right_chars; /* bytes of the left part; characters of both */
} merge;

static int by_rank(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    if (x->left_chars != y->left_chars) {
        return (int)y->left_chars - (int)x->left_chars;
    }
    if (x->right_chars != y->right_chars) {
        return (int)y->right_chars - (int)x->right_chars;
    }
    return x->order < y->order ? -1 : 1;
}

typedef struct candidate {
    size_t left;
    int64_t a, b;
} candidate;

static int by_parts(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->a != y->a ? (x->a < y->a ? -1 : 1) : (x->b > y->b) - (x->b < y->b);
}

static int64_t id_of(const json_t *vocab, const char *s, size_t n) {
    const json_t *v = json_object_getn(vocab, s, n);
    return v == NULL ? -1 : (int64_t)json_integer_value(v);
}

static size_t characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    }
    return count;
}

/* Every way to cut piece i in two pieces, in the order of the parts' ids; returns how many. */
static size_t cuts(const sq_piece *pieces, size_t i, const json_t *vocab, candidate *c) {
    const sq_piece *p = &pieces[i];
    size_t n = 0;
    for (size_t k = 1; k < p->n; k++) {
        if (((unsigned char)p->text[k] & 0xc0) == 0x80) {
            continue;
        }
        int64_t a = id_of(vocab, p->text, k), b = id_of(vocab, p->text + k, p->n - k);
        if (a >= 0 && b >= 0) {
            c[n++] = (candidate){k, a, b};
        }
    }
    if (n > 1) {
        qsort(c, n, sizeof *c, by_parts);
    }
    return n;
}

static sq_status list_merges(const sq_piece *pieces, size_t n, const json_t *vocab, merge **out,
                             size_t *count, sq_error *err) {
    enum { MAX_PIECE = 4096 };
    candidate *c = sq_alloc_raw(MAX_PIECE, sizeof *c, "merges", err);
    void *list = NULL;
    size_t cap = 0, at = 0;
    sq_status st = c == NULL ? SQ_ENOMEM : SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        size_t k = pieces[i].n <= MAX_PIECE ? cuts(pieces, i, vocab, c) : 0;
        if (at + k > cap) {
            st = sq_grow(&list, at * sizeof(merge), 2 * (at + k), sizeof(merge), "merges", err);
            cap = 2 * (at + k);
        }
        for (size_t j = 0; st == SQ_OK && j < k; j++, at++) {
            const sq_piece *p = &pieces[i];
            ((merge *)list)[at] =
                (merge){p->score,
                        (uint32_t)at,
                        (uint32_t)i,
                        (uint16_t)c[j].left,
                        (uint16_t)characters(p->text, c[j].left),
                        (uint16_t)characters(p->text + c[j].left, p->n - c[j].left)};
        }
    }
    sq_free(c);
    if (st == SQ_OK && at > 1) {
        qsort(list, at, sizeof(merge), by_rank);
    }
    *out = list;
    *count = at;
    return st;
}

static sq_status merges_json(const sq_piece *pieces, size_t n, const json_t *vocab, json_t *out,
                             sq_error *err) {
    merge *list = NULL;
    size_t count = 0;
    sq_status st = list_merges(pieces, n, vocab, &list, &count, err);
    for (size_t i = 0; st == SQ_OK && i < count; i++) {
        const sq_piece *p = &pieces[list[i].piece];
        size_t left = list[i].left;
        json_t *pair = json_pack("[s%, s%]", p->text, left, p->text + left, p->n - left);
        if (pair == NULL || json_array_append_new(out, pair) != 0) {
            st = sq_fail_nomem(err, "merges", 0);
        }
    }
    sq_free(list);
    return st;
}

json_t *sq_post_bos(const char *token, size_t len, int id) {
    json_t *known = json_object();
    json_t *entry =
        json_pack("{s:s%, s:[i], s:[s%]}", "id", token, len, "ids", id, "tokens", token, len);
    if (known == NULL || json_object_setn_new(known, token, len, entry) != 0) {
        json_decref(known);
        return NULL;
    }
    return json_pack("{s:s, s:[{s:{s:s%, s:i}}, {s:{s:s, s:i}}], s:[], s:o}", "type",
                     "TemplateProcessing", "single", "SpecialToken", "id", token, len, "type_id", 0,
                     "Sequence", "id", "A", "type_id", 0, "pair", "special_tokens", known);
}

json_t *sq_added_token(int id, const char *text, size_t len, int special) {
    return json_pack("{s:i, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, len,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     special);
}

/* The steps around the model: normalizer, pre-tokenizer, decoder. */
static json_t *frame(const sq_spm_options *o) {
    json_t *norm = json_array(), *dec = json_array(), *pre = NULL;
    if (o->nfkc) {
        json_array_append_new(norm, json_pack("{s:s}", "type", "NFKC"));
    }
    if (o->metaspace) {
        pre = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", SPACE_MARK,
                        "prepend_scheme", o->prefix ? "first" : "never", "split", 0);
    } else {
        if (o->prefix) {
            json_array_append_new(
                norm, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", SPACE_MARK));
        }
        json_array_append_new(norm, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                              "String", " ", "content", SPACE_MARK));
    }
    json_array_append_new(dec, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                         "String", SPACE_MARK, "content", " "));
    json_array_append_new(dec, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(dec, json_pack("{s:s}", "type", "Fuse"));
    if (o->prefix) {
        json_array_append_new(dec, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                             " ", "start", 1, "stop", 0));
    }
    return json_pack("{s:{s:s, s:o}, s:o?, s:{s:s, s:o}}", "normalizer", "type", "Sequence",
                     "normalizers", norm, "pre_tokenizer", pre, "decoder", "type", "Sequence",
                     "decoders", dec);
}

static sq_status vocab_json(const sq_piece *pieces, size_t n, json_t *vocab, json_t *added,
                            const sq_piece **unk, int *bytes, sq_error *err) {
    for (size_t i = 0; i < n; i++) {
        const sq_piece *p = &pieces[i];
        if (p->n == 0 || json_object_getn(vocab, p->text, p->n) != NULL) {
            continue; /* the first one counts */
        }
        if (json_object_setn_new(vocab, p->text, p->n, json_integer((json_int_t)i)) != 0) {
            return sq_fail(err, SQ_EFORMAT, "token %zu is no valid UTF-8", i);
        }
        int special = p->type == SQ_PIECE_CONTROL || p->type == SQ_PIECE_UNKNOWN;
        if (special || p->type == SQ_PIECE_USER) {
            json_array_append_new(added, sq_added_token((int)i, p->text, p->n, special));
        }
        *unk = p->type == SQ_PIECE_UNKNOWN && *unk == NULL ? p : *unk;
        *bytes |= p->type == SQ_PIECE_BYTE;
    }
    return SQ_OK;
}

sq_status sq_spm_tokenizer(const sq_piece *pieces, size_t n, const sq_spm_options *o, json_t **out,
                           sq_error *err) {
    const sq_piece *unk = NULL;
    int bytes = 0;
    json_t *root = frame(o), *vocab = json_object(), *merges = json_array(), *added = json_array();
    sq_status st = root == NULL || vocab == NULL || merges == NULL || added == NULL
                       ? sq_fail_nomem(err, "a tokenizer", 0)
                       : vocab_json(pieces, n, vocab, added, &unk, &bytes, err);
    if (st == SQ_OK) {
        st = merges_json(pieces, n, vocab, merges, err);
    }
    if (st == SQ_OK) {
        json_t *model = json_pack("{s:s, s:b, s:b, s:O, s:O}", "type", "BPE", "fuse_unk", 1,
                                  "byte_fallback", bytes, "vocab", vocab, "merges", merges);
        if (unk != NULL) {
            json_object_set_new(model, "unk_token", json_stringn(unk->text, unk->n));
        }
        json_object_set_new(root, "model", model);
        json_object_set(root, "added_tokens", added);
        if (o->bos >= 0 && (size_t)o->bos < n) {
            json_object_set_new(root, "post_processor",
                                sq_post_bos(pieces[o->bos].text, pieces[o->bos].n, o->bos));
        }
    }
    json_decref(vocab);
    json_decref(merges);
    json_decref(added);
    if (st != SQ_OK) {
        json_decref(root);
        root = NULL;
    }
    *out = root;
    return st;
}

/* ---- sentencepiece_model.proto ---- */

typedef struct proto {
    const unsigned char *p;
    size_t n, at;
} proto;

static int varint(proto *c, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && c->at < c->n; shift += 7) {
        unsigned char b = c->p[c->at++];
        *out |= (uint64_t)(b & 127) << shift;
        if (b < 128) {
            return 1;
        }
    }
    return 0;
}

/* The next field: its number, and a number or the bytes of it. 0 at the end, -1 when damaged. */
static int field(proto *c, uint64_t *number, uint64_t *value, proto *bytes) {
    uint64_t key;
    if (c->at >= c->n) {
        return 0;
    }
    *value = 0;
    *bytes = (proto){0};
    if (!varint(c, &key)) {
        return -1;
    }
    *number = key >> 3;
    size_t fixed = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : 0;
    if ((key & 7) == 0) {
        return varint(c, value) ? 1 : -1;
    }
    if ((key & 7) == 2) {
        if (!varint(c, value) || *value > c->n - c->at) {
            return -1;
        }
        *bytes = (proto){c->p + c->at, (size_t)*value, 0};
        c->at += (size_t)*value;
        return 1;
    }
    if (fixed == 0 || fixed > c->n - c->at) {
        return -1;
    }
    memcpy(value, c->p + c->at, fixed);
    c->at += fixed;
    return 1;
}

typedef struct model {
    sq_piece *pieces;
    size_t n, cap;
    int kind; /* 1 unigram, 2 BPE */
    int bos, prefix, squeeze, nfkc, mapped;
} model;

static int read_piece(proto c, sq_piece *p) {
    uint64_t number, value;
    proto bytes;
    int more;
    *p = (sq_piece){.text = "", .type = SQ_PIECE_NORMAL};
    while ((more = field(&c, &number, &value, &bytes)) > 0) {
        if (number == 1 && bytes.p != NULL) {
            p->text = (const char *)bytes.p;
            p->n = bytes.n;
        } else if (number == 2) {
            uint32_t bits = (uint32_t)value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (number == 3) {
            p->type = (int)(value & 15);
        }
    }
    return more == 0;
}

static int read_specs(model *m, proto c, int trainer) {
    uint64_t number, value;
    proto bytes;
    int more;
    while ((more = field(&c, &number, &value, &bytes)) > 0) {
        if (trainer) {
            m->kind = number == 3 ? (int)(value & 15) : m->kind;
            m->bos = number == 41 ? (int)(int64_t)value : m->bos;
        } else if (number == 1) {
            m->nfkc = bytes.n >= 4 && memmem(bytes.p, bytes.n, "nfkc", 4) != NULL;
        } else if (number == 2) {
            m->mapped = bytes.n > 0;
        } else if (number == 3) {
            m->prefix = value != 0;
        } else if (number == 4) {
            m->squeeze = value != 0;
        }
    }
    return more == 0;
}

static sq_status read_model(model *m, proto c, const char *path, sq_error *err) {
    uint64_t number, value;
    proto bytes;
    int more, ok = 1;
    while (ok && (more = field(&c, &number, &value, &bytes)) > 0) {
        if (number == 1 && bytes.p != NULL) {
            if (m->n == m->cap) {
                void *p = m->pieces;
                size_t cap = m->cap == 0 ? 4096 : 2 * m->cap;
                sq_status st = sq_grow(&p, m->n * sizeof *m->pieces, cap, sizeof *m->pieces,
                                       "a vocabulary", err);
                if (st != SQ_OK) {
                    return st;
                }
                m->pieces = p;
                m->cap = cap;
            }
            ok = m->n < MAX_PIECES && read_piece(bytes, &m->pieces[m->n++]);
        } else if (number == 2 || number == 3) {
            ok = read_specs(m, bytes, number == 2);
        }
    }
    if (!ok || more < 0 || m->n == 0) {
        return sq_fail(err, SQ_EFORMAT, "'%s' is no SentencePiece model or is damaged", path);
    }
    if (m->kind != 2) {
        return sq_fail(err, SQ_EUNSUPPORTED, "'%s': SentencePiece kind %d; wanted 2 (BPE)", path,
                       m->kind);
    }
    if (m->squeeze || (m->mapped && !m->nfkc)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': its normalizer removes spaces or maps characters, which is not done "
                       "here; wanted identity or NFKC",
                       path);
    }
    return SQ_OK;
}

sq_status sq_spm_load(const char *dir, const json_t *config, json_t **out, sq_error *err) {
    sq_arena a = {0};
    model m = {.kind = 1, .bos = 1, .prefix = 1, .squeeze = 1};
    char *data = NULL, *path = sq_path_join(&a, dir, "tokenizer.model", err);
    size_t size = 0;
    sq_status st = path == NULL ? SQ_ENOMEM : sq_file_read(path, MAX_MODEL, &data, &size, err);
    if (st == SQ_OK) {
        st = read_model(&m, (proto){(const unsigned char *)data, size, 0}, path, err);
    }
    if (st == SQ_OK) {
        sq_spm_options o = {.prefix = m.prefix,
                            .metaspace = !sq_json_bool(config, "legacy", 1),
                            .bos = sq_json_bool(config, "add_bos_token", 1) ? m.bos : -1,
                            .nfkc = m.mapped};
        st = sq_spm_tokenizer(m.pieces, m.n, &o, out, err);
    }
    sq_free(m.pieces);
    sq_free(data);
    sq_arena_free(&a);
    return st;
}
