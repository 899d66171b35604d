/* Normalizers (HF tokenizers, normalizers/): each takes the whole text of a segment and gives a new
 * one. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/tok.h"
#include "text/utf8.h"

static int is_ascii(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] >= 0x80) {
            return 0;
        }
    }
    return 1;
}

static sq_status unicode_form(tok_kind kind, const sq_buf *in, sq_buf *out, sq_error *err) {
    if (is_ascii(in->data, in->len)) {
        sq_text_put(out, in->data, in->len);
        return SQ_OK;
    }
    int opt = UTF8PROC_STABLE;
    opt |= kind == TOK_NFC || kind == TOK_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    opt |= kind == TOK_NFKC || kind == TOK_NFKD ? UTF8PROC_COMPAT : 0;
    utf8proc_uint8_t *p = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)in->data, (utf8proc_ssize_t)in->len,
                                      &p, (utf8proc_option_t)opt);
    if (n < 0) {
        return sq_fail(err, n == UTF8PROC_ERROR_NOMEM ? SQ_ENOMEM : SQ_EFORMAT,
                       "cannot normalize the text; %s", utf8proc_errmsg(n));
    }
    sq_text_put(out, p, (size_t)n);
    free(p);
    return SQ_OK;
}

static void strip(const tok_step *st, const sq_buf *in, sq_buf *out) {
    size_t a = 0, b = in->len;
    uint32_t cp;
    while (st->left && a < b) {
        size_t k = sq_utf8_get(in->data + a, &cp);
        if (!sq_uc_space(cp)) {
            break;
        }
        a += k;
    }
    while (st->right && b > a) {
        size_t k = sq_utf8_back(in->data, b);
        sq_utf8_get(in->data + k, &cp);
        if (!sq_uc_space(cp)) {
            break;
        }
        b = k;
    }
    sq_text_put(out, in->data + a, b - a);
}

/* Mn, Mc or Me: what StripAccents drops. */
static int is_mark(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

static void each_char(const tok_step *st, const sq_buf *in, sq_buf *out) {
    for (size_t i = 0; i < in->len;) {
        uint32_t cp;
        size_t k = sq_utf8_get(in->data + i, &cp);
        if (st->kind == TOK_LOWERCASE) {
            sq_uc_lower(out, cp);
        } else if (!is_mark(cp)) {
            sq_text_put(out, in->data + i, k);
        }
        i += k;
    }
}

static sq_status replace(const tok_step *st, tok_match *m, const sq_buf *in, sq_buf *out,
                         sq_error *err) {
    size_t at = 0, from = 0, a, b;
    for (;;) {
        int rc = sq_tok_find(m, st, in->data, in->len, from, &a, &b, err);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            break;
        }
        sq_text_put(out, in->data + at, a - at);
        sq_text_put(out, st->content.p, st->content.n);
        at = b;
        from = b > a ? b : b < in->len ? b + sq_utf8_len(in->data[b]) : b + 1;
    }
    sq_text_put(out, in->data + at, in->len - at);
    return SQ_OK;
}

static sq_status apply(const tok_step *st, tok_match *m, const sq_buf *in, sq_buf *out,
                       sq_error *err) {
    char b[4];
    switch (st->kind) {
    case TOK_NFC:
    case TOK_NFD:
    case TOK_NFKC:
    case TOK_NFKD:
        return unicode_form(st->kind, in, out, err);
    case TOK_STRIP:
        strip(st, in, out);
        return SQ_OK;
    case TOK_LOWERCASE:
    case TOK_STRIP_ACCENTS:
        each_char(st, in, out);
        return SQ_OK;
    case TOK_PREPEND:
        sq_text_put(out, st->content.p, st->content.n);
        sq_text_put(out, in->data, in->len);
        return SQ_OK;
    case TOK_REPLACE:
        return replace(st, m, in, out, err);
    case TOK_BYTELEVEL:
        for (size_t i = 0; i < in->len; i++) {
            sq_text_put(out, b, sq_tok_byte_char((unsigned char)in->data[i], b));
        }
        return SQ_OK;
    default:
        return sq_fail(err, SQ_EINTERNAL, "step %d is no normalizer", (int)st->kind);
    }
}

sq_status sq_tok_normalize(const tok_chain *c, tok_match *m, sq_buf *text, sq_buf *spare,
                           sq_error *err) {
    for (size_t i = 0; i < c->n && text->len > 0; i++) {
        spare->len = 0;
        sq_status st = apply(&c->step[i], m, text, spare, err);
        if (st != SQ_OK) {
            return st;
        }
        if (spare->failed) {
            return sq_fail_nomem(err, "normalized text", text->len);
        }
        sq_buf swap = *text;
        *text = *spare;
        *spare = swap;
    }
    return SQ_OK;
}
