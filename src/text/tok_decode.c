/* Decoders (HF tokenizers, decoders/): ids to text, at once or as they come. */
#include <stdlib.h>
#include <string.h>

#include "text/tok.h"
#include "text/utf8.h"

static const char replacement[] = "\xef\xbf\xbd";

/* Tokens on their way through the chain: texts back to back in one buffer. */
typedef struct parts {
    sq_buf text;
    size_t *end;
    size_t n, cap;
} parts;

static sq_status end_part(parts *p, sq_error *err) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        void *q = p->end;
        sq_status st = sq_grow(&q, p->n * sizeof *p->end, cap, sizeof *p->end, "tokens", err);
        if (st != SQ_OK) {
            return st;
        }
        p->end = q;
        p->cap = cap;
    }
    p->end[p->n++] = p->text.len;
    return SQ_OK;
}

static tok_str part(const parts *p, size_t i) {
    size_t a = i == 0 ? 0 : p->end[i - 1];
    return (tok_str){p->text.data == NULL ? "" : p->text.data + a, p->end[i] - a};
}

static void parts_free(parts *p) {
    sq_buf_free(&p->text);
    sq_free(p->end);
}

static int shown(const sq_tokenizer *t, int32_t id, int skip_special) {
    return id >= 0 && id < t->size && t->text[id].p != NULL && !(skip_special && t->special[id]);
}

/* The bytes of a byte-level token; a token with a character outside of the alphabet is taken as it
 * is. */
static void put_byte_level(sq_buf *out, tok_str s) {
    size_t start = out->len;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        i += sq_utf8_get(s.p + i, &cp);
        int b = sq_tok_char_byte(cp);
        if (b < 0) {
            out->len = start;
            sq_text_put(out, s.p, s.n);
            return;
        }
        char c = (char)b;
        sq_text_put(out, &c, 1);
    }
}

static int byte_token(tok_str s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') {
        return -1;
    }
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s.p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
        if (d < 0) {
            return -1;
        }
        v = v * 16 + d;
    }
    return v;
}

/* A run of byte tokens: its text when it is UTF-8, otherwise one U+FFFD a byte. */
static void put_byte_run(sq_buf *out, const char *s, size_t n) {
    if (sq_utf8_valid(s, n) == n) {
        sq_text_put(out, s, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        sq_text_put(out, replacement, 3);
    }
}

static sq_status put_replaced(const tok_step *st, tok_match *m, tok_str s, sq_buf *out,
                              sq_error *err) {
    size_t at = 0, from = 0, a, b;
    int rc;
    while ((rc = sq_tok_find(m, st, s.p, s.n, from, &a, &b, err)) > 0) {
        sq_text_put(out, s.p + at, a - at);
        sq_text_put(out, st->content.p, st->content.n);
        at = b;
        from = b > a ? b : b < s.n ? b + sq_utf8_len(s.p[b]) : b + 1;
    }
    sq_text_put(out, s.p + at, s.n - at);
    return rc < 0 ? rc : SQ_OK;
}

static void put_unspaced(const tok_step *st, tok_str s, int first, sq_buf *out) {
    tok_str r = st->pattern;
    for (size_t i = 0; i < s.n;) {
        if (s.n - i >= r.n && memcmp(s.p + i, r.p, r.n) == 0) {
            if (!first || st->prepend == TOK_NEVER) {
                sq_text_put(out, " ", 1);
            }
            i += r.n;
        } else {
            sq_text_put(out, s.p + i, 1);
            i++;
        }
    }
}

static void put_stripped(const tok_step *st, tok_str s, sq_buf *out) {
    tok_str c = st->content;
    for (int64_t k = 0; k < st->left && c.n > 0 && s.n >= c.n; k++) {
        if (memcmp(s.p, c.p, c.n) != 0) {
            break;
        }
        s.p += c.n;
        s.n -= c.n;
    }
    for (int64_t k = 0; k < st->right && c.n > 0 && s.n >= c.n; k++) {
        if (memcmp(s.p + s.n - c.n, c.p, c.n) != 0) {
            break;
        }
        s.n -= c.n;
    }
    sq_text_put(out, s.p, s.n);
}

/* Steps that look at one token only. */
static sq_status one_token(const tok_step *st, tok_match *m, tok_str s, int first, int last,
                           sq_buf *out, sq_error *err) {
    tok_step suffix;
    switch (st->kind) {
    case TOK_REPLACE:
        return put_replaced(st, m, s, out, err);
    case TOK_METASPACE:
        put_unspaced(st, s, first, out);
        return SQ_OK;
    case TOK_STRIP:
        put_stripped(st, s, out);
        return SQ_OK;
    case TOK_BPE_SUFFIX:
        suffix = *st;
        suffix.pattern = st->content;
        suffix.content = last ? (tok_str){"", 0} : (tok_str){" ", 1};
        return put_replaced(&suffix, m, s, out, err);
    default:
        return sq_fail(err, SQ_EINTERNAL, "step %d is no decoder of single tokens", (int)st->kind);
    }
}

static sq_status byte_fallback(const parts *in, parts *out, sq_error *err) {
    sq_buf run = {0};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i <= in->n; i++) {
        int b = i < in->n ? byte_token(part(in, i)) : -1;
        if (b >= 0) {
            char c = (char)b;
            sq_text_put(&run, &c, 1);
            continue;
        }
        if (run.len > 0) {
            put_byte_run(&out->text, run.data, run.len);
            run.len = 0;
            st = end_part(out, err);
        }
        if (st == SQ_OK && i < in->n) {
            tok_str s = part(in, i);
            sq_text_put(&out->text, s.p, s.n);
            st = end_part(out, err);
        }
    }
    if (st == SQ_OK && run.failed) {
        st = sq_fail_nomem(err, "byte tokens", run.len);
    }
    sq_buf_free(&run);
    return st;
}

static sq_status chain_step(const tok_step *step, tok_match *m, const parts *in, parts *out,
                            sq_error *err) {
    sq_status st = SQ_OK;
    sq_buf bytes = {0};
    switch (step->kind) {
    case TOK_BYTE_FALLBACK:
        return byte_fallback(in, out, err);
    case TOK_FUSE:
        sq_text_put(&out->text, in->text.data, in->text.len);
        return end_part(out, err);
    case TOK_BYTELEVEL:
        for (size_t i = 0; i < in->n; i++) {
            put_byte_level(&bytes, part(in, i));
        }
        if (bytes.len > 0) {
            sq_utf8_repair(&out->text, bytes.data, bytes.len);
        }
        st = bytes.failed ? sq_fail_nomem(err, "text", bytes.len) : end_part(out, err);
        sq_buf_free(&bytes);
        return st;
    default:
        for (size_t i = 0; st == SQ_OK && i < in->n; i++) {
            st = one_token(step, m, part(in, i), i == 0, i + 1 == in->n, &out->text, err);
            if (st == SQ_OK) {
                st = end_part(out, err);
            }
        }
        return st;
    }
}

sq_status sq_tokenizer_decode(const sq_tokenizer *t, const int32_t *ids, size_t n, int skip_special,
                              sq_buf *out, sq_error *err) {
    parts a = {0}, b = {0};
    tok_match m = {0};
    sq_status st = SQ_OK;
    for (size_t i = 0; i < n; i++) {
        if (!shown(t, ids[i], skip_special)) {
            continue;
        }
        if (!t->has_dec && a.n > 0) {
            sq_text_put(&a.text, " ", 1);
        }
        sq_text_put(&a.text, t->text[ids[i]].p, t->text[ids[i]].n);
        SQ_TRY(end_part(&a, err));
    }
    for (size_t i = 0; i < t->dec.n && a.n > 0; i++) {
        b.text.len = 0;
        b.n = 0;
        SQ_TRY(chain_step(&t->dec.step[i], &m, &a, &b, err));
        if (b.text.failed) {
            st = sq_fail_nomem(err, "text", b.text.len);
            goto fail;
        }
        parts swap = a;
        a = b;
        b = swap;
    }
    sq_text_put(out, a.text.data, a.text.len);
    if (a.text.failed || out->failed) {
        st = sq_fail_nomem(err, "text", a.text.len);
    }
fail:
    parts_free(&a);
    parts_free(&b);
    sq_tok_match_free(&m);
    return st;
}

/* ---- streaming ---- */

/* Which chains can give text before the end: ByteLevel alone, and steps on single tokens followed
 * by ByteFallback, Fuse and a Strip of the start, each optional. Others wait for the end. */
tok_stream sq_tok_stream_kind(const sq_tokenizer *t) {
    const tok_step *s = t->dec.step;
    size_t i = 0, n = t->dec.n;
    if (n == 1 && s[0].kind == TOK_BYTELEVEL) {
        return TOK_STREAM_BYTES;
    }
    while (i < n && (s[i].kind == TOK_REPLACE || s[i].kind == TOK_METASPACE)) {
        i++;
    }
    i += i < n && s[i].kind == TOK_BYTE_FALLBACK;
    if (i < n && s[i].kind == TOK_FUSE) {
        i++;
        i += i < n && s[i].kind == TOK_STRIP && s[i].right == 0;
    }
    return i == n ? TOK_STREAM_PIECES : TOK_STREAM_WHOLE;
}

/* Emits what is complete of the pending bytes; `all` at the end. */
static void flush_bytes(sq_detok *d, int all, sq_buf *out) {
    size_t i = 0, n = d->pending.len;
    const char *s = d->pending.data;
    while (i < n) {
        size_t ok = sq_utf8_valid(s + i, n - i);
        sq_text_put(out, s + i, ok);
        i += ok;
        if (i == n) {
            break;
        }
        uint32_t cp;
        int bad;
        size_t k = sq_utf8_next(s + i, n - i, &cp, &bad);
        if (bad == 2 && !all) {
            break;
        }
        sq_text_put(out, replacement, 3);
        i += k;
    }
    if (i > 0) {
        memmove(d->pending.data, d->pending.data + i, n - i);
        d->pending.len = n - i;
    }
}

/* Text that is decoded but for the Strip of the start. */
static void emit(const sq_tokenizer *t, sq_detok *d, tok_str s, sq_buf *out) {
    const tok_step *last = t->dec.n ? &t->dec.step[t->dec.n - 1] : NULL;
    if (last != NULL && last->kind == TOK_STRIP && last->content.n > 0) {
        tok_str c = last->content;
        while (!d->stripped && s.n > 0) {
            if ((int64_t)d->strip >= last->left || s.n < c.n || memcmp(s.p, c.p, c.n) != 0) {
                d->stripped = 1;
                break;
            }
            d->strip++;
            s.p += c.n;
            s.n -= c.n;
        }
    }
    sq_text_put(out, s.p, s.n);
}

static void flush_run(const sq_tokenizer *t, sq_detok *d, sq_buf *out) {
    sq_buf run = {0};
    if (d->pending.len > 0) {
        put_byte_run(&run, d->pending.data, d->pending.len);
        emit(t, d, (tok_str){run.data, run.len}, out);
        out->failed |= run.failed;
        d->pending.len = 0;
        sq_buf_free(&run);
    }
}

static sq_status push_piece(const sq_tokenizer *t, sq_detok *d, int32_t id, sq_buf *out,
                            sq_error *err) {
    sq_buf a = {0}, b = {0};
    tok_match m = {0};
    sq_status st = SQ_OK;
    int fallback = 0, first = d->seen++ == 0;
    if (!t->has_dec && !first) {
        sq_text_put(out, " ", 1);
    }
    sq_text_put(&a, t->text[id].p, t->text[id].n);
    for (size_t i = 0; st == SQ_OK && i < t->dec.n; i++) {
        const tok_step *step = &t->dec.step[i];
        fallback |= step->kind == TOK_BYTE_FALLBACK;
        if (step->kind != TOK_REPLACE && step->kind != TOK_METASPACE) {
            continue;
        }
        b.len = 0;
        st = one_token(step, &m, (tok_str){a.data ? a.data : "", a.len}, first, 0, &b, err);
        sq_buf swap = a;
        a = b;
        b = swap;
    }
    tok_str s = {a.data ? a.data : "", a.len};
    int byte = fallback ? byte_token(s) : -1;
    if (byte >= 0) {
        char c = (char)byte;
        sq_text_put(&d->pending, &c, 1);
    } else if (st == SQ_OK) {
        flush_run(t, d, out);
        emit(t, d, s, out);
    }
    if (st == SQ_OK && (a.failed || b.failed || d->pending.failed)) {
        st = sq_fail_nomem(err, "text", s.n);
    }
    sq_buf_free(&a);
    sq_buf_free(&b);
    sq_tok_match_free(&m);
    return st;
}

sq_status sq_detok_push(const sq_tokenizer *t, sq_detok *d, int32_t id, int skip_special,
                        sq_buf *out, sq_error *err) {
    sq_status st = SQ_OK;
    if (!shown(t, id, skip_special)) {
        return SQ_OK;
    }
    switch (t->stream) {
    case TOK_STREAM_WHOLE:
        return sq_ids_push(&d->ids, id, err);
    case TOK_STREAM_BYTES:
        put_byte_level(&d->pending, t->text[id]);
        flush_bytes(d, 0, out);
        break;
    case TOK_STREAM_PIECES:
        st = push_piece(t, d, id, out, err);
        break;
    }
    return st == SQ_OK && (out->failed || d->pending.failed) ? sq_fail_nomem(err, "text", out->len)
                                                             : st;
}

sq_status sq_detok_finish(const sq_tokenizer *t, sq_detok *d, int skip_special, sq_buf *out,
                          sq_error *err) {
    sq_status st = SQ_OK;
    switch (t->stream) {
    case TOK_STREAM_WHOLE:
        st = sq_tokenizer_decode(t, d->ids.data, d->ids.len, skip_special, out, err);
        break;
    case TOK_STREAM_BYTES:
        flush_bytes(d, 1, out);
        break;
    case TOK_STREAM_PIECES:
        flush_run(t, d, out);
        break;
    }
    sq_detok_free(d);
    return st == SQ_OK && out->failed ? sq_fail_nomem(err, "text", out->len) : st;
}

void sq_detok_free(sq_detok *d) {
    sq_free(d->ids.data);
    sq_buf_free(&d->pending);
    *d = (sq_detok){0};
}
