/* Normalizers (HF tokenizers, normalizers/): each takes the whole text of a segment and gives a new
 * one. */
#include <string.h>
#include <utf8proc.h>

#include "text/tok.h"
#include "text/utf8.h"

/* Characters on which NFC does nothing, and that never join what stands before them. Not all of
 * them: the others are only slower. */
static int inert_nfc(uint32_t cp) {
    static const struct {
        uint32_t lo, hi;
    } range[] = {{0x400, 0x482},     {0x48a, 0x52f},    {0x5d0, 0x5ea},   {0x620, 0x64a},
                 {0x904, 0x93b},     {0xe01, 0xe37},    {0x10a0, 0x10ff}, {0x1200, 0x135a},
                 {0x1e00, 0x1eff},   {0x2010, 0x2027},  {0x2030, 0x205e}, {0x2190, 0x2328},
                 {0x2500, 0x2adb},   {0x3001, 0x3029},  {0x3041, 0x3096}, {0x30a1, 0x30fa},
                 {0x3400, 0x4dbf},   {0x4e00, 0x9fff},  {0xac00, 0xd7a3}, {0xff01, 0xffef},
                 {0x1f000, 0x1faff}, {0x20000, 0x2a6df}};
    if (cp < 0x300) {
        return 1;
    }
    size_t i = 0;
    while (i + 1 < sizeof range / sizeof *range && cp > range[i].hi) {
        i++;
    }
    return cp >= range[i].lo && cp <= range[i].hi;
}

/* Characters that came after Unicode 9, whose tables HF tokenizers uses: it knows neither their
 * class nor their decomposition, so that they are to it what unassigned characters are. */
static int later_than_9(uint32_t cp) {
    static const struct {
        uint32_t lo, hi;
    } range[] = {{0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
                 {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
                 {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
                 {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
                 {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
                 {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
                 {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
                 {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
                 {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
                 {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f},
                 {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
                 {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};
    size_t a = 0, b = sizeof range / sizeof *range;
    while (a < b) {
        size_t k = (a + b) / 2;
        if (cp > range[k].hi) {
            a = k + 1;
        } else {
            b = k;
        }
    }
    return a < sizeof range / sizeof *range && cp >= range[a].lo;
}

/* Decomposed characters of a piece of text. */
typedef struct run {
    int32_t *cp;
    size_t n, cap;
} run;

static sq_status run_room(run *r, size_t more, sq_error *err) {
    if (r->cap - r->n >= more) {
        return SQ_OK;
    }
    size_t cap = r->cap * 2 > r->n + more ? r->cap * 2 : r->n + more + 64;
    void *p = r->cp;
    sq_status st = sq_grow(&p, r->n * sizeof *r->cp, cap, sizeof *r->cp, "text", err);
    if (st == SQ_OK) {
        r->cp = p;
        r->cap = cap;
    }
    return st;
}

static unsigned mark_class(int32_t cp) {
    return (unsigned)utf8proc_get_property(cp)->combining_class & 255u;
}

/* Sorts marks by class, equal ones in their order; `spare` has room for as many. */
static void sort_marks(int32_t *cp, size_t n, int32_t *spare) {
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) {
        at[mark_class(cp[i]) + 1]++;
    }
    for (size_t c = 0; c < 256; c++) {
        at[c + 1] += at[c];
    }
    for (size_t i = 0; i < n; i++) {
        spare[at[mark_class(cp[i])]++] = cp[i];
    }
    memcpy(cp, spare, n * sizeof *cp);
}

/* Unicode's canonical order, in time linear in the text however many marks there are. */
static sq_status order_marks(run *r, sq_error *err) {
    sq_status st = run_room(r, r->n + 1, err); /* sort_marks' spare, and what reencode wants */
    for (size_t i = 0; st == SQ_OK && i < r->n;) {
        size_t from = i, sorted = 1;
        for (unsigned c, last = 0; i < r->n && (c = mark_class(r->cp[i])) != 0; i++) {
            sorted &= c >= last;
            last = c;
        }
        if (!sorted) {
            sort_marks(r->cp + from, i - from, r->cp + r->n);
        }
        i += i == from;
    }
    return st;
}

static sq_status put_form(run *r, const char *s, size_t n, int opt, sq_buf *out, sq_error *err) {
    int last = 0;
    r->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += sq_utf8_get(s + i, &cp);
        sq_status st = run_room(r, 32, err); /* the longest decomposition has 18 */
        if (st != SQ_OK) {
            return st;
        }
        utf8proc_ssize_t k =
            utf8proc_decompose_char((int32_t)cp, r->cp + r->n, (utf8proc_ssize_t)(r->cap - r->n),
                                    (utf8proc_option_t)opt, &last);
        if (k < 0) {
            return sq_fail(err, SQ_EFORMAT, "cannot normalize the text; %s", utf8proc_errmsg(k));
        }
        r->n += (size_t)k;
    }
    sq_status st = order_marks(r, err);
    if (st == SQ_OK) {
        utf8proc_ssize_t k =
            utf8proc_reencode(r->cp, (utf8proc_ssize_t)r->n, (utf8proc_option_t)opt);
        if (k < 0) {
            return sq_fail(err, SQ_EFORMAT, "cannot normalize the text; %s", utf8proc_errmsg(k));
        }
        sq_text_put(out, r->cp, (size_t)k);
    }
    return st;
}

/* Copies what the form leaves alone; the rest goes through it piece by piece, each from before a
 * character that never joins what stands before it. */
static sq_status unicode_form(tok_kind kind, const sq_buf *in, sq_buf *out, sq_error *err) {
    int opt = UTF8PROC_STABLE;
    opt |= kind == TOK_NFC || kind == TOK_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    opt |= kind == TOK_NFKC || kind == TOK_NFKD ? UTF8PROC_COMPAT : 0;
    const char *s = in->data;
    size_t n = in->len, done = 0, start = 0, i = 0;
    int piece = 0; /* s[start..i) holds a character that is not inert */
    run r = {0};
    sq_status st = SQ_OK;
    while (st == SQ_OK && i < n) {
        uint32_t cp;
        size_t k = sq_utf8_get(s + i, &cp);
        int inert = cp < 0x80 || (kind == TOK_NFC && inert_nfc(cp));
        int later = !inert && later_than_9(cp);
        if (!inert && !later) {
            piece = 1;
        } else {
            if (piece) {
                sq_text_put(out, s + done, start - done);
                st = put_form(&r, s + start, i - start, opt, out, err);
                done = i;
                piece = 0;
            }
            start = later ? i + k : i; /* its own class must not move what follows */
        }
        i += k;
    }
    if (st == SQ_OK) {
        size_t plain = piece ? start : n;
        sq_text_put(out, s + done, plain - done);
        st = piece ? put_form(&r, s + start, n - start, opt, out, err) : SQ_OK;
    }
    sq_free(r.cp);
    return st;
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
