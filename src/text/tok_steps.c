/* Reads the chains of tokenizer.json: normalizer, pre_tokenizer and decoder, each one step or a
 * Sequence of steps. */
#include <string.h>

#include "base/json.h"
#include "text/tok.h"
#include "text/utf8.h"

typedef struct kind_row {
    const char *name;
    tok_kind kind;
    unsigned families; /* bit a tok_family */
} kind_row;

enum { N = 1u << TOK_NORMALIZER, P = 1u << TOK_PRETOKENIZER, D = 1u << TOK_DECODER };

static const kind_row kinds[] = {
    {"NFC", TOK_NFC, N},
    {"NFD", TOK_NFD, N},
    {"NFKC", TOK_NFKC, N},
    {"NFKD", TOK_NFKD, N},
    {"Lowercase", TOK_LOWERCASE, N},
    {"Strip", TOK_STRIP, N | D},
    {"StripAccents", TOK_STRIP_ACCENTS, N},
    {"Prepend", TOK_PREPEND, N},
    {"Replace", TOK_REPLACE, N | D},
    {"ByteLevel", TOK_BYTELEVEL, N | P | D},
    {"Split", TOK_SPLIT, P},
    {"Digits", TOK_DIGITS, P},
    {"Metaspace", TOK_METASPACE, P | D},
    {"Whitespace", TOK_WHITESPACE, P},
    {"WhitespaceSplit", TOK_WHITESPACE_SPLIT, P},
    {"Punctuation", TOK_PUNCTUATION, P},
    {"BertPreTokenizer", TOK_BERT, P},
    {"CharDelimiterSplit", TOK_CHAR_DELIMITER, P},
    {"ByteFallback", TOK_BYTE_FALLBACK, D},
    {"Fuse", TOK_FUSE, D},
    {"BPEDecoder", TOK_BPE_SUFFIX, D},
};

static const struct {
    const char *part, *list;
} family_names[] = {
    {"normalizer", "normalizers"}, {"pre_tokenizer", "pretokenizers"}, {"decoder", "decoders"}};

/* GPT-2's word pattern, which ByteLevel carries within. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

sq_status sq_tok_copy(sq_tokenizer *t, const json_t *str, tok_str *out, sq_error *err) {
    size_t n = json_is_string(str) ? json_string_length(str) : 0;
    char *p = sq_arena_alloc(&t->arena, n + 1, 1, err);
    if (p == NULL) {
        return SQ_ENOMEM;
    }
    if (n > 0) {
        memcpy(p, json_string_value(str), n);
    }
    *out = (tok_str){p, n};
    return SQ_OK;
}

/* pattern: {"String": …} or {"Regex": …}. */
static sq_status load_pattern(sq_tokenizer *t, const json_t *v, tok_step *st, const char *where,
                              sq_error *err) {
    const json_t *lit = json_object_get(v, "String"), *re = json_object_get(v, "Regex");
    if (json_is_string(lit)) {
        return sq_tok_copy(t, lit, &st->pattern, err);
    }
    if (!json_is_string(re)) {
        return sq_fail(err, SQ_EFORMAT, "%s: pattern is missing; wanted String or Regex", where);
    }
    return sq_tok_regex(&st->re, json_string_value(re), json_string_length(re), where, err);
}

static sq_status load_behavior(const json_t *v, tok_step *st, const char *where, sq_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *s = sq_json_str(v, "behavior", "");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(s, names[i]) == 0) {
            st->behavior = (tok_behavior)i;
            return SQ_OK;
        }
    }
    return sq_fail(err, SQ_EFORMAT, "%s: behavior is '%.40s'; wanted Removed, Isolated, …", where,
                   s);
}

static sq_status load_metaspace(sq_tokenizer *t, const json_t *v, tok_step *st, sq_error *err) {
    const char *scheme = sq_json_str(v, "prepend_scheme", "always");
    st->prepend = strcmp(scheme, "never") == 0   ? TOK_NEVER
                  : strcmp(scheme, "first") == 0 ? TOK_FIRST
                                                 : TOK_ALWAYS;
    if (!sq_json_bool(v, "add_prefix_space", 1)) {
        st->prepend = TOK_NEVER; /* the older spelling */
    }
    st->split = sq_json_bool(v, "split", 1);
    st->behavior = TOK_MERGED_NEXT;
    const json_t *rep = json_object_get(v, "replacement");
    if (!json_is_string(rep) || json_string_length(rep) == 0) {
        return sq_fail(err, SQ_EFORMAT, "Metaspace: replacement is missing; wanted a character");
    }
    return sq_tok_copy(t, rep, &st->pattern, err);
}

static sq_status load_split(sq_tokenizer *t, const json_t *v, tok_step *st, sq_error *err) {
    st->invert = sq_json_bool(v, "invert", 0);
    sq_status rc = load_behavior(v, st, "Split", err);
    return rc == SQ_OK ? load_pattern(t, json_object_get(v, "pattern"), st, "Split", err) : rc;
}

static sq_status load_strip(sq_tokenizer *t, const json_t *v, tok_step *st, tok_family f,
                            sq_error *err) {
    if (f == TOK_NORMALIZER) {
        st->left = sq_json_bool(v, "strip_left", 1);
        st->right = sq_json_bool(v, "strip_right", 1);
        return SQ_OK;
    }
    st->left = sq_json_int(v, "start", 0);
    st->right = sq_json_int(v, "stop", 0);
    return sq_tok_copy(t, json_object_get(v, "content"), &st->content, err);
}

static sq_status load_pre_step(sq_tokenizer *t, const json_t *v, tok_step *st, sq_error *err) {
    static const char words[] = "\\w+|[^\\w\\s]+";
    switch (st->kind) {
    case TOK_BYTELEVEL:
        st->add_prefix_space = sq_json_bool(v, "add_prefix_space", 1);
        st->use_regex = sq_json_bool(v, "use_regex", 1);
        st->behavior = TOK_ISOLATED;
        return st->use_regex
                   ? sq_tok_regex(&st->re, gpt2_pattern, sizeof gpt2_pattern - 1, "ByteLevel", err)
                   : SQ_OK;
    case TOK_SPLIT:
        return load_split(t, v, st, err);
    case TOK_DIGITS:
        st->is_match = sq_uc_number;
        st->behavior = sq_json_bool(v, "individual_digits", 0) ? TOK_ISOLATED : TOK_CONTIGUOUS;
        return SQ_OK;
    case TOK_WHITESPACE:
        st->behavior = TOK_REMOVED;
        st->invert = 1;
        /* \w of the regex crate also has the two joiners, which \p{Alphabetic} lacks. */
        return sq_tok_regex(&st->re, "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+",
                            strlen("[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+"), words,
                            err);
    case TOK_WHITESPACE_SPLIT:
        st->is_match = sq_uc_space;
        st->behavior = TOK_REMOVED;
        return SQ_OK;
    case TOK_PUNCTUATION:
        st->is_match = sq_uc_punct;
        st->behavior = TOK_ISOLATED;
        return json_object_get(v, "behavior") ? load_behavior(v, st, "Punctuation", err) : SQ_OK;
    case TOK_CHAR_DELIMITER:
        st->behavior = TOK_REMOVED;
        return sq_tok_copy(t, json_object_get(v, "delimiter"), &st->pattern, err);
    default:
        return SQ_OK;
    }
}

static sq_status load_step(sq_tokenizer *t, tok_family f, const json_t *v, tok_step *st,
                           sq_error *err) {
    sq_status rc;
    switch (st->kind) {
    case TOK_STRIP:
        return load_strip(t, v, st, f, err);
    case TOK_PREPEND:
        return sq_tok_copy(t, json_object_get(v, "prepend"), &st->content, err);
    case TOK_REPLACE:
        rc = sq_tok_copy(t, json_object_get(v, "content"), &st->content, err);
        return rc == SQ_OK ? load_pattern(t, json_object_get(v, "pattern"), st, "Replace", err)
                           : rc;
    case TOK_METASPACE:
        return load_metaspace(t, v, st, err);
    case TOK_BPE_SUFFIX:
        return sq_tok_copy(t, json_object_get(v, "suffix"), &st->content, err);
    default:
        return f == TOK_PRETOKENIZER ? load_pre_step(t, v, st, err) : SQ_OK;
    }
}

static sq_status new_step(tok_chain *c, tok_step **out, sq_error *err) {
    if (c->n % 8 == 0) {
        void *p = c->step;
        sq_status st =
            sq_grow(&p, c->n * sizeof *c->step, c->n + 8, sizeof *c->step, "tokenizer steps", err);
        if (st != SQ_OK) {
            return st;
        }
        c->step = p;
    }
    *out = &c->step[c->n++];
    memset(*out, 0, sizeof **out);
    return SQ_OK;
}

static sq_status load_any(sq_tokenizer *t, tok_family f, const json_t *v, tok_chain *out, int depth,
                          sq_error *err) {
    const char *part = family_names[f].part, *type = sq_json_str(v, "type", NULL);
    if (type == NULL || depth > 16) {
        return sq_fail(err, SQ_EFORMAT, "%s: %s; wanted an object with a type", part,
                       type ? "nested too deeply" : "type is missing");
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(v, family_names[f].list);
        if (!json_is_array(list) || json_array_size(list) > 256) {
            return sq_fail(err, SQ_EFORMAT, "%s: Sequence without its list '%s'", part,
                           family_names[f].list);
        }
        sq_status st = SQ_OK;
        for (size_t i = 0; st == SQ_OK && i < json_array_size(list); i++) {
            st = load_any(t, f, json_array_get(list, i), out, depth + 1, err);
        }
        return st;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].name) == 0 && (kinds[i].families >> f & 1)) {
            tok_step *step;
            sq_status st = new_step(out, &step, err);
            if (st == SQ_OK) {
                step->kind = kinds[i].kind;
                st = load_step(t, f, v, step, err);
            }
            return st;
        }
    }
    return sq_fail(err, SQ_EUNSUPPORTED, "%s type '%.60s' is not supported", part, type);
}

sq_status sq_tok_load_chain(sq_tokenizer *t, tok_family f, const json_t *v, tok_chain *out,
                            sq_error *err) {
    return v == NULL || json_is_null(v) ? SQ_OK : load_any(t, f, v, out, 0, err);
}

void sq_tok_free_chain(tok_chain *c) {
    for (size_t i = 0; i < c->n; i++) {
        pcre2_code_free(c->step[i].re);
    }
    sq_free(c->step);
    *c = (tok_chain){0};
}
