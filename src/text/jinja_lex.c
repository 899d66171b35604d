/* Cuts a template into tokens: text, and what stands inside of {{ }}, {% %}; comments and raw
 * blocks are resolved here, and so is whitespace control (jinja2.lexer). */
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

typedef struct lexer {
    sq_template *t;
    const char *s;
    size_t n, i;
    int line, line_starting;
    jtokens *out;
    sq_error *err;
} lexer;

static sq_status lex_fail(const lexer *x, const char *what) {
    return sq_fail(x->err, SQ_EFORMAT, "template '%s', line %d: %s", x->t->where, x->line, what);
}

static sq_status push(lexer *x, jtoken tok) {
    jtokens *v = x->out;
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 256;
        jtoken *p = sq_arena_alloc(&x->t->arena, cap, sizeof *p, x->err);
        if (p == NULL) {
            return SQ_ENOMEM;
        }
        if (v->n > 0) {
            memcpy(p, v->v, v->n * sizeof *p);
        }
        v->v = p;
        v->cap = cap;
    }
    tok.line = x->line;
    v->v[v->n++] = tok;
    return SQ_OK;
}

static int at(const lexer *x, const char *s) {
    size_t k = strlen(s);
    return x->n - x->i >= k && memcmp(x->s + x->i, s, k) == 0;
}

static void advance(lexer *x, size_t k) {
    for (size_t e = x->i + k; x->i < e; x->i++) {
        x->line += x->s[x->i] == '\n';
    }
}

static void skip_spaces(lexer *x) {
    while (x->i < x->n) {
        uint32_t cp;
        size_t k = sq_utf8_get(x->s + x->i, &cp);
        if (!sq_jinja_pyspace(cp)) {
            break;
        }
        advance(x, k);
    }
}

/* Text before a tag, with the whitespace that the tag takes away. */
static size_t keep_before(const lexer *x, size_t a, size_t b, char sign, int lstrip) {
    uint32_t cp;
    size_t line = b;
    if (sign == '-') {
        while (b > a) {
            size_t k = sq_utf8_back(x->s + a, b - a);
            sq_utf8_get(x->s + a + k, &cp);
            if (!sq_jinja_pyspace(cp)) {
                break;
            }
            b = a + k;
        }
        return b;
    }
    if (sign == '+' || !lstrip) {
        return b;
    }
    while (line > a && x->s[line - 1] != '\n') {
        line--;
    }
    if (line == a && !x->line_starting) {
        return b;
    }
    for (size_t i = line; i < b;) {
        i += sq_utf8_get(x->s + i, &cp);
        if (!sq_jinja_pyspace(cp)) {
            return b;
        }
    }
    return line;
}

static sq_status push_data(lexer *x, size_t a, size_t b) {
    return a == b ? SQ_OK : push(x, (jtoken){.type = JT_DATA, .s = x->s + a, .n = b - a});
}

/* Behind a tag: "-" takes all whitespace, otherwise blocks take one newline. */
static void after_tag(lexer *x, char sign, int trim) {
    size_t start = x->i;
    if (sign == '-') {
        skip_spaces(x);
    } else if (sign != '+' && trim && x->i < x->n && x->s[x->i] == '\n') {
        advance(x, 1);
    }
    x->line_starting = x->i > start && x->s[x->i - 1] == '\n';
}

static sq_status comment(lexer *x) {
    const char *end = memmem(x->s + x->i, x->n - x->i, "#}", 2);
    if (end == NULL) {
        return lex_fail(x, "comment without its end '#}'");
    }
    size_t k = (size_t)(end - x->s);
    char sign = k > x->i && (x->s[k - 1] == '-' || x->s[k - 1] == '+') ? x->s[k - 1] : 0;
    advance(x, k + 2 - x->i);
    after_tag(x, sign, 1);
    return SQ_OK;
}

/* At "{%", tries `raw` or `endraw`; returns the length of the tag or 0, and its signs. */
static size_t raw_tag(const lexer *x, size_t from, const char *word, char *before, char *after) {
    lexer y = *x;
    y.i = from + 2;
    *before = *after = 0;
    if (y.i < y.n && (y.s[y.i] == '-' || y.s[y.i] == '+')) {
        *before = y.s[y.i++];
    }
    skip_spaces(&y);
    if (!at(&y, word)) {
        return 0;
    }
    y.i += strlen(word);
    skip_spaces(&y);
    if (y.i < y.n && (y.s[y.i] == '-' || y.s[y.i] == '+')) {
        *after = y.s[y.i++];
    }
    return at(&y, "%}") ? y.i + 2 - from : 0;
}

static sq_status raw_block(lexer *x, size_t tag, char after) {
    char b, e;
    advance(x, tag);
    if (after == '-') {
        skip_spaces(x);
    }
    x->line_starting = 0;
    size_t start = x->i;
    for (size_t k = start;; k++) {
        const char *hit = k < x->n ? memmem(x->s + k, x->n - k, "{%", 2) : NULL;
        if (hit == NULL) {
            return lex_fail(x, "raw without its endraw");
        }
        k = (size_t)(hit - x->s);
        size_t len = raw_tag(x, k, "endraw", &b, &e);
        if (len > 0) {
            size_t keep = keep_before(x, start, k, b, 1);
            sq_status st = push_data(x, start, keep);
            advance(x, k + len - x->i);
            after_tag(x, e, 1);
            return st;
        }
    }
}

static size_t put_escape(sq_buf *b, const char *s, size_t n) {
    static const char from[] = "ntrabfv\\'\"", to[] = "\n\t\r\a\b\f\v\\'\"";
    const char *k = n > 1 && s[1] != 0 ? strchr(from, s[1]) : NULL;
    if (k != NULL) {
        sq_text_put(b, to + (k - from), 1);
        return 2;
    }
    if (n > 1 && s[1] == '\n') {
        return 2;
    }
    size_t digits = n < 2 ? 0 : s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0;
    uint32_t cp = 0;
    size_t i = 2;
    for (; i < 2 + digits && i < n; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) {
            break;
        }
        cp = cp << 4 | (uint32_t)d;
    }
    if (digits > 0 && i == 2 + digits) {
        char u[4];
        sq_text_put(b, u, sq_utf8_put(u, cp));
        return i;
    }
    for (i = 1, cp = 0; i < 4 && i < n && s[i] >= '0' && s[i] <= '7'; i++) {
        cp = cp * 8 + (uint32_t)(s[i] - '0');
    }
    if (i > 1) {
        char u[4];
        sq_text_put(b, u, sq_utf8_put(u, cp));
        return i;
    }
    sq_text_put(b, s, 1);
    return 1;
}

static sq_status string(lexer *x) {
    char q = x->s[x->i];
    size_t k = x->i + 1;
    sq_buf b = {0};
    sq_status st = SQ_OK;
    while (k < x->n && x->s[k] != q) {
        if (x->s[k] == '\\') {
            k += put_escape(&b, x->s + k, x->n - k);
        } else {
            sq_text_put(&b, x->s + k, 1);
            k++;
        }
    }
    if (k >= x->n) {
        st = lex_fail(x, "string without its closing quote");
    } else {
        char *p = sq_arena_alloc(&x->t->arena, b.len + 1, 1, x->err);
        st = p == NULL || b.failed ? SQ_ENOMEM : SQ_OK;
        if (st == SQ_OK) {
            if (b.len > 0) {
                memcpy(p, b.data, b.len);
            }
            st = push(x, (jtoken){.type = JT_STR, .s = p, .n = b.len});
            advance(x, k + 1 - x->i);
        }
    }
    sq_buf_free(&b);
    return st;
}

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static sq_status number(lexer *x) {
    char text[64];
    size_t k = x->i, n = 0;
    int real = 0;
    while (k < x->n && n < sizeof text - 1) {
        char c = x->s[k];
        char nx = k + 1 < x->n ? x->s[k + 1] : 0;
        if (c == '_' && is_digit(nx)) {
            k++;
            continue;
        }
        int sign = (nx == '+' || nx == '-') && k + 2 < x->n && is_digit(x->s[k + 2]);
        if (c == '.' && !real && is_digit(nx)) {
            real = 1;
        } else if ((c == 'e' || c == 'E') && real < 2 && (is_digit(nx) || sign)) {
            real = 2;
            if (sign) {
                text[n++] = c;
                c = nx;
                k++;
            }
        } else if (!is_digit(c)) {
            break;
        }
        if (n >= sizeof text - 1) {
            break;
        }
        text[n++] = c;
        k++;
    }
    text[n] = '\0';
    if (n > 40 || (!real && n > 18)) {
        return lex_fail(x, "number is too long");
    }
    jtoken tok = {.type = real ? JT_FLOAT : JT_INT};
    if (real) {
        tok.f = strtod(text, NULL);
    } else {
        tok.i = strtoll(text, NULL, 10);
    }
    advance(x, k - x->i);
    return push(x, tok);
}

static int name_char(char c) {
    return c == '_' || is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (unsigned char)c >= 0x80;
}

/* An operator: its characters packed into an int. */
static sq_status operator_token(lexer *x, int *depth) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    for (size_t k = 0; k < sizeof two / sizeof *two; k++) {
        if (at(x, two[k])) {
            advance(x, 2);
            return push(x, (jtoken){.type = JT_OP, .op = two[k][0] | two[k][1] << 8});
        }
    }
    char c = x->s[x->i];
    if (strchr("+-/*%~[](){}<>=.:|,;", c) == NULL || c == '\0') {
        return lex_fail(x, "unexpected character");
    }
    *depth += c == '(' || c == '[' || c == '{';
    *depth -= c == ')' || c == ']' || c == '}';
    if (*depth < 0) {
        return lex_fail(x, "closing bracket without its opening one");
    }
    advance(x, 1);
    return push(x, (jtoken){.type = JT_OP, .op = c});
}

/* Inside of a tag, until its end. */
static sq_status inside(lexer *x, int block) {
    const char *end = block ? "%}" : "}}";
    int depth = 0;
    for (;;) {
        skip_spaces(x);
        if (x->i >= x->n) {
            return lex_fail(x, block ? "tag without its end '%}'" : "tag without its end '}}'");
        }
        char c = x->s[x->i], sign = 0;
        size_t k = x->i;
        if (c == '-' || (c == '+' && block)) {
            sign = c;
            k++;
        }
        if (depth == 0 && x->n - k >= 2 && memcmp(x->s + k, end, 2) == 0) {
            sq_status st = push(x, (jtoken){.type = block ? JT_BLOCK_END : JT_VAR_END});
            advance(x, k + 2 - x->i);
            after_tag(x, sign, block);
            return st;
        }
        sq_status st;
        if (is_digit(c)) {
            st = number(x);
        } else if (c == '"' || c == '\'') {
            st = string(x);
        } else if (name_char(c)) {
            for (k = x->i; k < x->n && name_char(x->s[k]); k++) {
            }
            st = push(x, (jtoken){.type = JT_NAME, .s = x->s + x->i, .n = k - x->i});
            x->i = k;
        } else {
            st = operator_token(x, &depth);
        }
        if (st != SQ_OK) {
            return st;
        }
    }
}

static sq_status tag(lexer *x, size_t start, size_t open) {
    char kind = x->s[open + 1], before, after;
    size_t raw = kind == '%' ? raw_tag(x, open, "raw", &before, &after) : 0;
    char sign = open + 2 < x->n ? x->s[open + 2] : 0;
    if (sign != '-' && sign != '+') {
        sign = 0;
    }
    sq_status st = push_data(x, start, keep_before(x, start, open, sign, kind != '{'));
    if (st != SQ_OK) {
        return st;
    }
    advance(x, open - x->i);
    if (raw > 0) {
        return raw_block(x, raw, after);
    }
    advance(x, sign ? 3 : 2);
    if (kind == '#') {
        return comment(x);
    }
    st = push(x, (jtoken){.type = kind == '%' ? JT_BLOCK_BEGIN : JT_VAR_BEGIN});
    return st == SQ_OK ? inside(x, kind == '%') : st;
}

/* One kind of newline, without the last one. */
static char *normal_source(sq_template *t, const char *text, size_t *n, sq_error *err) {
    char *p = sq_arena_alloc(&t->arena, *n + 1, 1, err);
    size_t k = 0;
    for (size_t i = 0; p != NULL && i < *n; i++) {
        if (text[i] == '\r') {
            p[k++] = '\n';
            i += i + 1 < *n && text[i + 1] == '\n';
        } else {
            p[k++] = text[i];
        }
    }
    k -= k > 0 && p[k - 1] == '\n';
    *n = k;
    return p;
}

sq_status sq_jinja_lex(sq_template *t, const char *text, size_t n, jtokens *out, sq_error *err) {
    char *src = normal_source(t, text, &n, err);
    if (src == NULL) {
        return SQ_ENOMEM;
    }
    src[n] = '\0';
    lexer x = {.t = t, .s = src, .n = n, .line = 1, .line_starting = 1, .out = out, .err = err};
    sq_status st = SQ_OK;
    while (st == SQ_OK && x.i < x.n) {
        size_t k = x.i;
        while (k + 1 < x.n && !(src[k] == '{' && strchr("{%#", src[k + 1]) && src[k + 1])) {
            k++;
        }
        if (k + 1 >= x.n) {
            st = push_data(&x, x.i, x.n);
            break;
        }
        st = tag(&x, x.i, k);
    }
    return st == SQ_OK ? push(&x, (jtoken){.type = JT_EOF}) : st;
}
