/* Pre-tokenizers (HF tokenizers, pre_tokenizers/ and NormalizedString::split): a list of spans over
 * one text; steps that change the text write a new one. */
#include <string.h>

#include "text/tok.h"
#include "text/utf8.h"

static sq_status push_span(tok_spans *v, size_t a, size_t b, sq_error *err) {
    if (a == b) {
        return SQ_OK; /* empty pieces vanish */
    }
    if (v->len == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 256;
        void *p = v->data;
        if (sq_grow(&p, v->len * sizeof *v->data, cap, sizeof *v->data, "pre-tokens", err) !=
            SQ_OK) {
            return SQ_ENOMEM;
        }
        v->data = p;
        v->cap = cap;
    }
    v->data[v->len++] = (tok_span){a, b};
    return SQ_OK;
}

/* What has been cut so far of one piece: the open span, which a neighbour may still join. */
typedef struct cut {
    tok_spans *out;
    size_t start, end;
    int open, last_match;
} cut;

static sq_status flush(cut *c, sq_error *err) {
    c->open = 0;
    return push_span(c->out, c->start, c->end, err);
}

/* Adds a span that did or did not match, and joins it as the behaviour wants. */
static sq_status add_cut(cut *c, tok_behavior how, size_t a, size_t b, int match, sq_error *err) {
    sq_status st = SQ_OK;
    int join = 0;
    switch (how) {
    case TOK_REMOVED:
        return match ? SQ_OK : push_span(c->out, a, b, err);
    case TOK_ISOLATED:
        return push_span(c->out, a, b, err);
    case TOK_CONTIGUOUS:
        join = c->open && match == c->last_match;
        break;
    case TOK_MERGED_PREVIOUS:
        join = c->open && match && !c->last_match;
        break;
    case TOK_MERGED_NEXT:
        join = c->open && !match && c->last_match;
        break;
    }
    if (join) {
        c->end = b;
    } else {
        st = c->open ? flush(c, err) : SQ_OK;
        c->start = a;
        c->end = b;
        c->open = 1;
    }
    c->last_match = match;
    return st;
}

static sq_status split_piece(tok_pre *p, const tok_step *step, tok_span piece, sq_error *err) {
    const char *s = p->base + piece.start;
    size_t n = piece.end - piece.start, at = 0, from = 0, a, b, off = piece.start;
    cut c = {.out = &p->next};
    sq_status st = SQ_OK;
    while (st == SQ_OK) {
        int rc = sq_tok_find(&p->match, step, s, n, from, &a, &b, err);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            break;
        }
        if (a > at) {
            st = add_cut(&c, step->behavior, off + at, off + a, step->invert, err);
        }
        if (st == SQ_OK) {
            st = add_cut(&c, step->behavior, off + a, off + b, !step->invert, err);
        }
        at = b;
        from = b > a ? b : b < n ? b + sq_utf8_len(s[b]) : b + 1;
    }
    if (st == SQ_OK && at < n) {
        st = add_cut(&c, step->behavior, off + at, off + n, step->invert, err);
    }
    return st == SQ_OK && c.open ? flush(&c, err) : st;
}

static sq_status split_all(tok_pre *p, const tok_step *step, sq_error *err) {
    p->next.len = 0;
    for (size_t i = 0; i < p->span.len; i++) {
        sq_status st = split_piece(p, step, p->span.data[i], err);
        if (st != SQ_OK) {
            return st;
        }
    }
    tok_spans swap = p->span;
    p->span = p->next;
    p->next = swap;
    return SQ_OK;
}

/* Writes one piece of a new text. */
typedef void (*rewrite_fn)(const tok_step *step, const char *s, size_t n, int first, sq_buf *out);

static sq_status rewrite(tok_pre *p, const tok_step *step, rewrite_fn fn, int first,
                         sq_error *err) {
    p->spare.len = 0;
    for (size_t i = 0; i < p->span.len; i++) {
        tok_span *sp = &p->span.data[i];
        size_t start = p->spare.len;
        fn(step, p->base + sp->start, sp->end - sp->start, first && i == 0, &p->spare);
        *sp = (tok_span){start, p->spare.len};
    }
    if (p->spare.failed) {
        return sq_fail_nomem(err, "pre-tokens", p->spare.len);
    }
    sq_buf swap = p->text;
    p->text = p->spare;
    p->spare = swap;
    p->base = p->text.data;
    return SQ_OK;
}

static void put_metaspace(const tok_step *step, const char *s, size_t n, int first, sq_buf *out) {
    const tok_str *r = &step->pattern;
    int starts = n > 0 && (s[0] == ' ' || (n >= r->n && memcmp(s, r->p, r->n) == 0));
    if (!starts && (step->prepend == TOK_ALWAYS || (step->prepend == TOK_FIRST && first))) {
        sq_text_put(out, r->p, r->n);
    }
    while (n > 0) {
        const char *sp = memchr(s, ' ', n);
        size_t k = sp == NULL ? n : (size_t)(sp - s);
        sq_text_put(out, s, k);
        s += k;
        n -= k;
        if (n > 0) {
            sq_text_put(out, r->p, r->n);
            s++;
            n--;
        }
    }
}

static void put_prefix_space(const tok_step *step, const char *s, size_t n, int first,
                             sq_buf *out) {
    (void)step;
    (void)first;
    if (n > 0 && s[0] != ' ') {
        sq_text_put(out, " ", 1);
    }
    sq_text_put(out, s, n);
}

static void put_bytes(const tok_step *step, const char *s, size_t n, int first, sq_buf *out) {
    (void)step;
    (void)first;
    char b[4];
    for (size_t i = 0; i < n; i++) {
        sq_text_put(out, b, sq_tok_byte_char((unsigned char)s[i], b));
    }
}

static sq_status byte_level(tok_pre *p, const tok_step *step, int map, int first, sq_error *err) {
    sq_status st = SQ_OK;
    if (step->add_prefix_space) {
        st = rewrite(p, step, put_prefix_space, first, err);
    }
    if (st == SQ_OK && step->use_regex) {
        st = split_all(p, step, err);
    }
    return st == SQ_OK && map ? rewrite(p, step, put_bytes, first, err) : st;
}

static sq_status bert(tok_pre *p, const tok_step *step, sq_error *err) {
    tok_step part = *step;
    part.is_match = sq_uc_space;
    part.behavior = TOK_REMOVED;
    sq_status st = split_all(p, &part, err);
    part.is_match = sq_uc_punct;
    part.behavior = TOK_ISOLATED;
    return st == SQ_OK ? split_all(p, &part, err) : st;
}

sq_status sq_tok_pretokenize(const sq_tokenizer *t, tok_pre *p, const char *s, size_t n, int first,
                             sq_error *err) {
    p->base = s;
    p->span.len = 0;
    sq_status st = push_span(&p->span, 0, n, err);
    for (size_t i = 0; st == SQ_OK && i < t->pre.n; i++) {
        const tok_step *step = &t->pre.step[i];
        int last = i + 1 == t->pre.n;
        switch (step->kind) {
        case TOK_BYTELEVEL:
            st = byte_level(p, step, !(last && t->bytes), first, err);
            break;
        case TOK_METASPACE:
            st = rewrite(p, step, put_metaspace, first, err);
            if (st == SQ_OK && step->split) {
                st = split_all(p, step, err);
            }
            break;
        case TOK_BERT:
            st = bert(p, step, err);
            break;
        default:
            st = split_all(p, step, err);
        }
    }
    return st;
}

void sq_tok_pre_free(tok_pre *p) {
    sq_tok_match_free(&p->match);
    sq_free(p->span.data);
    sq_free(p->next.data);
    sq_buf_free(&p->text);
    sq_buf_free(&p->spare);
}
