/* Parses expressions (jinja2.parser.Parser.parse_expression and below). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja.h"

enum { MAX_NESTING = 100 };

void sq_jinja_fail(jparser *p, sq_status st, const char *fmt, ...) {
    if (p->st != SQ_OK) {
        return; /* the first error tells */
    }
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    p->st = sq_fail(p->err, st, "template '%s', line %d: %s", p->t->where, p->at->line, text);
}

jnode *sq_jinja_node(jparser *p, jkind kind) {
    jnode *n = sq_arena_alloc(&p->t->arena, 1, sizeof *n, p->err);
    if (n == NULL) {
        p->st = SQ_ENOMEM;
        return NULL;
    }
    n->kind = kind;
    n->line = p->at->line;
    return n;
}

const char *sq_jinja_intern(jparser *p, const char *s, size_t n) {
    sq_template *t = p->t;
    for (size_t i = 0; i < t->n_names; i++) {
        if (strncmp(t->name[i], s, n) == 0 && t->name[i][n] == '\0') {
            return t->name[i];
        }
    }
    if (t->n_names == t->cap_names) {
        size_t cap = t->cap_names ? t->cap_names * 2 : 64;
        const char **v = sq_arena_alloc(&t->arena, cap, sizeof *v, p->err);
        if (v == NULL) {
            p->st = SQ_ENOMEM;
            return NULL;
        }
        if (t->n_names > 0) {
            memcpy(v, t->name, t->n_names * sizeof *v);
        }
        t->name = v;
        t->cap_names = cap;
    }
    char *copy = sq_arena_alloc(&t->arena, n + 1, 1, p->err);
    if (copy == NULL) {
        p->st = SQ_ENOMEM;
        return NULL;
    }
    memcpy(copy, s, n);
    t->name[t->n_names++] = copy;
    return copy;
}

sq_status sq_jinja_push(jparser *p, jnode *list, jnode *item) {
    if (list == NULL || item == NULL || p->st != SQ_OK) {
        return p->st;
    }
    size_t n = list->n;
    if ((n & (n - 1)) == 0) { /* full at 0 and at each power of two */
        size_t cap = n == 0 ? 1 : 2 * n;
        jnode **v = sq_arena_alloc(&p->t->arena, cap, sizeof *v, p->err);
        if (v == NULL) {
            return p->st = SQ_ENOMEM;
        }
        if (n > 0) {
            memcpy(v, list->item, n * sizeof *v);
        }
        list->item = v;
    }
    list->item[list->n++] = item;
    return SQ_OK;
}

int sq_jinja_is_op(const jparser *p, const char *op) {
    int code = op[0] | (op[1] ? op[1] << 8 : 0);
    return p->at->type == JT_OP && p->at->op == code;
}

int sq_jinja_is_name(const jparser *p, const char *name) {
    return p->at->type == JT_NAME && p->at->n == strlen(name) &&
           memcmp(p->at->s, name, p->at->n) == 0;
}

int sq_jinja_take_op(jparser *p, const char *op) {
    int hit = p->st == SQ_OK && sq_jinja_is_op(p, op);
    p->at += hit;
    return hit;
}

int sq_jinja_take_name(jparser *p, const char *name) {
    int hit = p->st == SQ_OK && sq_jinja_is_name(p, name);
    p->at += hit;
    return hit;
}

/* What stands at the current token, for errors. */
static const char *shown(const jparser *p, char *b, size_t n) {
    const jtoken *t = p->at;
    if (t->type == JT_NAME || t->type == JT_STR) {
        snprintf(b, n, "'%.*s'", (int)(t->n < 40 ? t->n : 40), t->s);
    } else if (t->type == JT_OP) {
        snprintf(b, n, "'%c%c'", t->op & 0xff, t->op >> 8 ? t->op >> 8 : ' ');
    } else {
        snprintf(b, n, "%s",
                 t->type == JT_EOF                                  ? "the end of the template"
                 : t->type == JT_BLOCK_END || t->type == JT_VAR_END ? "the end of the tag"
                 : t->type == JT_INT || t->type == JT_FLOAT         ? "a number"
                                                                    : "text");
    }
    return b;
}

void sq_jinja_need_op(jparser *p, const char *op) {
    char b[64];
    if (p->st == SQ_OK && !sq_jinja_take_op(p, op)) {
        sq_jinja_fail(p, SQ_EFORMAT, "got %s, wanted '%s'", shown(p, b, sizeof b), op);
    }
}

const char *sq_jinja_need_name(jparser *p) {
    char b[64];
    if (p->st != SQ_OK || p->at->type != JT_NAME) {
        sq_jinja_fail(p, SQ_EFORMAT, "got %s, wanted a name", shown(p, b, sizeof b));
        return NULL;
    }
    const char *s = sq_jinja_intern(p, p->at->s, p->at->n);
    p->at++;
    return s;
}

static jnode *constant(jparser *p, jval v) {
    jnode *n = sq_jinja_node(p, JN_CONST);
    if (n != NULL) {
        n->value = v;
    }
    return n;
}

static jnode *pair(jparser *p, jkind kind, int op, jnode *a, jnode *b) {
    jnode *n = p->st == SQ_OK ? sq_jinja_node(p, kind) : NULL;
    if (n != NULL) {
        n->op = op;
        n->a = a;
        n->b = b;
    }
    return n;
}

static jnode *name_or_const(jparser *p) {
    static const struct {
        const char *name;
        jval v;
    } consts[] = {{"true", {.type = J_BOOL, .u.i = 1}},
                  {"True", {.type = J_BOOL, .u.i = 1}},
                  {"false", {.type = J_BOOL, .u.i = 0}},
                  {"False", {.type = J_BOOL, .u.i = 0}},
                  {"none", {.type = J_NONE}},
                  {"None", {.type = J_NONE}}};
    for (size_t i = 0; i < sizeof consts / sizeof *consts; i++) {
        if (sq_jinja_take_name(p, consts[i].name)) {
            return constant(p, consts[i].v);
        }
    }
    jnode *n = sq_jinja_node(p, JN_NAME);
    if (n != NULL) {
        n->name = sq_jinja_need_name(p);
    }
    return n;
}

/* Adjacent strings are one. */
static jnode *strings(jparser *p) {
    size_t n = 0;
    const jtoken *t = p->at;
    for (; t->type == JT_STR; t++) {
        n += t->n;
    }
    char *s = sq_arena_alloc(&p->t->arena, n + 1, 1, p->err);
    if (s == NULL) {
        p->st = SQ_ENOMEM;
        return NULL;
    }
    size_t k = 0;
    for (; p->at->type == JT_STR; p->at++) {
        memcpy(s + k, p->at->s, p->at->n);
        k += p->at->n;
    }
    return constant(p, jv_str(s, n));
}

static jnode *list_literal(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_LIST);
    sq_jinja_need_op(p, "[");
    while (p->st == SQ_OK && !sq_jinja_is_op(p, "]")) {
        if (n->n > 0) {
            sq_jinja_need_op(p, ",");
            if (sq_jinja_is_op(p, "]")) {
                break;
            }
        }
        sq_jinja_push(p, n, sq_jinja_expr(p));
    }
    sq_jinja_need_op(p, "]");
    return n;
}

static jnode *dict_literal(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_DICT);
    sq_jinja_need_op(p, "{");
    while (p->st == SQ_OK && !sq_jinja_is_op(p, "}")) {
        if (n->n > 0) {
            sq_jinja_need_op(p, ",");
            if (sq_jinja_is_op(p, "}")) {
                break;
            }
        }
        sq_jinja_push(p, n, sq_jinja_expr(p));
        sq_jinja_need_op(p, ":");
        sq_jinja_push(p, n, p->st == SQ_OK ? sq_jinja_expr(p) : NULL);
    }
    sq_jinja_need_op(p, "}");
    return n;
}

jnode *sq_jinja_primary(jparser *p) {
    char b[64];
    jnode *n;
    if (p->st != SQ_OK) {
        return NULL;
    }
    switch (p->at->type) {
    case JT_NAME:
        return name_or_const(p);
    case JT_STR:
        return strings(p);
    case JT_INT:
        n = constant(p, jv_int(p->at->i));
        p->at++;
        return n;
    case JT_FLOAT:
        n = constant(p, jv_float(p->at->f));
        p->at++;
        return n;
    default:
        break;
    }
    if (sq_jinja_take_op(p, "(")) {
        n = sq_jinja_is_op(p, ")") ? sq_jinja_node(p, JN_LIST) : sq_jinja_tuple(p, 0);
        if (n != NULL && n->kind == JN_LIST && n->n == 0) {
            n->tuple = 1;
        }
        sq_jinja_need_op(p, ")");
        return n;
    }
    if (sq_jinja_is_op(p, "[")) {
        return list_literal(p);
    }
    if (sq_jinja_is_op(p, "{")) {
        return dict_literal(p);
    }
    sq_jinja_fail(p, SQ_EFORMAT, "got %s, wanted an expression", shown(p, b, sizeof b));
    return NULL;
}

jnode *sq_jinja_call_args(jparser *p, jnode *call) {
    const char *key[64];
    sq_jinja_need_op(p, "(");
    for (int any = 0; p->st == SQ_OK && !sq_jinja_is_op(p, ")"); any = 1) {
        if (any) {
            sq_jinja_need_op(p, ",");
            if (sq_jinja_is_op(p, ")")) {
                break;
            }
        }
        if (sq_jinja_is_op(p, "*") || sq_jinja_is_op(p, "**")) {
            sq_jinja_fail(p, SQ_EUNSUPPORTED, "arguments with * or ** are not supported");
        } else if (p->at->type == JT_NAME && p->at[1].type == JT_OP && p->at[1].op == '=') {
            if (call->n_kw == sizeof key / sizeof *key) {
                sq_jinja_fail(p, SQ_EUNSUPPORTED, "more than 64 named arguments");
                break;
            }
            key[call->n_kw++] = sq_jinja_need_name(p);
            p->at++;
            sq_jinja_push(p, call, sq_jinja_expr(p));
        } else if (call->n_kw > 0) {
            sq_jinja_fail(p, SQ_EFORMAT, "a positional argument follows a named one");
        } else {
            sq_jinja_push(p, call, sq_jinja_expr(p));
        }
    }
    sq_jinja_need_op(p, ")");
    if (p->st == SQ_OK && call->n_kw > 0) {
        call->key = sq_arena_alloc(&p->t->arena, call->n_kw, sizeof *call->key, p->err);
        if (call->key == NULL) {
            p->st = SQ_ENOMEM;
            return NULL;
        }
        memcpy(call->key, key, call->n_kw * sizeof *key);
    }
    return p->st == SQ_OK ? call : NULL;
}

/* [index] or [from:to:step] */
static jnode *subscript(jparser *p, jnode *of) {
    jnode *n = sq_jinja_node(p, JN_GETITEM), *part[3] = {0};
    sq_jinja_need_op(p, "[");
    int k = 0, slice = 0;
    if (n == NULL) {
        return NULL;
    }
    while (p->st == SQ_OK && !sq_jinja_is_op(p, "]")) {
        if (sq_jinja_take_op(p, ":")) {
            slice = 1;
            if (++k == 3) {
                sq_jinja_fail(p, SQ_EFORMAT, "a slice has more than three parts");
            }
        } else if (part[k] != NULL) {
            sq_jinja_fail(p, SQ_EUNSUPPORTED, "only one subscript is supported");
        } else {
            part[k] = sq_jinja_expr(p);
        }
    }
    sq_jinja_need_op(p, "]");
    n->kind = slice ? JN_SLICE : JN_GETITEM;
    n->a = of;
    n->b = part[0];
    n->c = part[1];
    n->d = part[2];
    if (!slice && part[0] == NULL) {
        sq_jinja_fail(p, SQ_EFORMAT, "empty subscript");
    }
    return n;
}

jnode *sq_jinja_postfix(jparser *p, jnode *n) {
    for (int k = 0; p->st == SQ_OK && n != NULL; k++) {
        if (k > 1000) {
            sq_jinja_fail(p, SQ_EFORMAT, "an expression is nested too deeply");
        } else if (sq_jinja_take_op(p, ".")) {
            jnode *m = sq_jinja_node(p, JN_GETATTR);
            if (m != NULL && p->at->type == JT_INT) {
                m->kind = JN_GETITEM;
                m->b = constant(p, jv_int(p->at->i));
                p->at++;
            } else if (m != NULL) {
                m->name = sq_jinja_need_name(p);
            }
            if (m != NULL) {
                m->a = n;
            }
            n = m;
        } else if (sq_jinja_is_op(p, "[")) {
            n = subscript(p, n);
        } else if (sq_jinja_is_op(p, "(")) {
            jnode *m = sq_jinja_node(p, JN_CALL);
            if (m != NULL) {
                m->a = n;
                m = sq_jinja_call_args(p, m);
            }
            n = m;
        } else {
            return n;
        }
    }
    return p->st == SQ_OK ? n : NULL;
}

static const char *dotted_name(jparser *p) {
    const char *s = sq_jinja_need_name(p);
    while (s != NULL && sq_jinja_take_op(p, ".")) {
        const char *more = sq_jinja_need_name(p);
        char b[200];
        int n = more == NULL ? -1 : snprintf(b, sizeof b, "%s.%s", s, more);
        s = n < 0 || n >= (int)sizeof b ? NULL : sq_jinja_intern(p, b, (size_t)n);
    }
    return s;
}

static jnode *test(jparser *p, jnode *of) {
    int negate = sq_jinja_take_name(p, "not");
    jnode *n = sq_jinja_node(p, JN_TEST);
    if (n == NULL) {
        return NULL;
    }
    n->a = of;
    n->name = dotted_name(p);
    if (n->name != NULL && sq_jinja_test(n->name) == NULL) {
        sq_jinja_fail(p, SQ_EUNSUPPORTED, "test '%s' is not supported", n->name);
    }
    jtok type = p->at->type;
    int starts = type == JT_STR || type == JT_INT || type == JT_FLOAT || type == JT_NAME ||
                 sq_jinja_is_op(p, "[") || sq_jinja_is_op(p, "{");
    if (sq_jinja_is_op(p, "(")) {
        n = sq_jinja_call_args(p, n);
    } else if (p->st == SQ_OK && starts && !sq_jinja_is_name(p, "else") &&
               !sq_jinja_is_name(p, "or") && !sq_jinja_is_name(p, "and")) {
        if (sq_jinja_is_name(p, "is")) {
            sq_jinja_fail(p, SQ_EFORMAT, "tests cannot be chained with is");
        }
        sq_jinja_push(p, n, sq_jinja_postfix(p, sq_jinja_primary(p)));
    }
    return negate ? pair(p, JN_NOT, 0, n, NULL) : n;
}

jnode *sq_jinja_filters(jparser *p, jnode *n, int bare) {
    for (int k = 0; p->st == SQ_OK; k++) {
        if (k > 1000) {
            sq_jinja_fail(p, SQ_EFORMAT, "an expression is nested too deeply");
        } else if ((bare && k == 0) || sq_jinja_take_op(p, "|")) {
            jnode *m = sq_jinja_node(p, JN_FILTER);
            if (m == NULL) {
                return NULL;
            }
            m->a = n;
            m->name = dotted_name(p);
            if (m->name != NULL && sq_jinja_filter(m->name) == NULL) {
                sq_jinja_fail(p, SQ_EUNSUPPORTED, "filter '%s' is not supported", m->name);
            }
            n = sq_jinja_is_op(p, "(") ? sq_jinja_call_args(p, m) : m;
        } else if (n != NULL && n->kind != JN_FILTER && !bare && sq_jinja_is_op(p, "(")) {
            n = sq_jinja_postfix(p, n);
        } else if (!bare && sq_jinja_take_name(p, "is")) {
            n = test(p, n);
        } else {
            break;
        }
    }
    return n;
}

static jnode *unary(jparser *p, int with_filter) {
    jnode *n;
    if (p->st != SQ_OK || ++p->depth > MAX_NESTING) {
        sq_jinja_fail(p, SQ_EFORMAT, "expressions are nested more than %d deep", MAX_NESTING);
        return NULL;
    }
    if (sq_jinja_take_op(p, "-")) {
        n = pair(p, JN_NEG, 0, unary(p, 0), NULL);
    } else if (sq_jinja_take_op(p, "+")) {
        n = pair(p, JN_POS, 0, unary(p, 0), NULL);
    } else {
        n = sq_jinja_primary(p);
    }
    n = sq_jinja_postfix(p, n);
    p->depth--;
    return with_filter ? sq_jinja_filters(p, n, 0) : n;
}

typedef jnode *(*level_fn)(jparser *p);

/* Left-associative operators of one level. */
static jnode *level(jparser *p, level_fn next, const char *const *ops, const int *codes, size_t n) {
    jnode *a = next(p);
    for (int count = 0; p->st == SQ_OK; count++) {
        size_t k = 0;
        while (k < n && !sq_jinja_take_op(p, ops[k])) {
            k++;
        }
        if (k == n) {
            break;
        }
        if (count > 200) {
            sq_jinja_fail(p, SQ_EFORMAT, "more than 200 operators in a row");
        }
        a = pair(p, JN_BINARY, codes[k], a, next(p));
    }
    return a;
}

static jnode *plain_unary(jparser *p) { return unary(p, 1); }

static jnode *power(jparser *p) {
    static const char *const ops[] = {"**"};
    static const int codes[] = {JO_POW};
    return level(p, plain_unary, ops, codes, 1);
}

static jnode *product(jparser *p) {
    static const char *const ops[] = {"*", "/", "//", "%"};
    static const int codes[] = {JO_MUL, JO_DIV, JO_FLOORDIV, JO_MOD};
    return level(p, power, ops, codes, 4);
}

static jnode *concat(jparser *p) {
    jnode *a = product(p);
    if (p->st != SQ_OK || !sq_jinja_is_op(p, "~")) {
        return a;
    }
    jnode *n = sq_jinja_node(p, JN_CONCAT);
    sq_jinja_push(p, n, a);
    while (sq_jinja_take_op(p, "~")) {
        sq_jinja_push(p, n, product(p));
    }
    return n;
}

static jnode *sum(jparser *p) {
    static const char *const ops[] = {"+", "-"};
    static const int codes[] = {JO_ADD, JO_SUB};
    return level(p, concat, ops, codes, 2);
}

static int compare_op(jparser *p) {
    static const char *const ops[] = {"==", "!=", "<=", "<", ">=", ">"};
    static const int codes[] = {JO_EQ, JO_NE, JO_LE, JO_LT, JO_GE, JO_GT};
    for (size_t k = 0; k < sizeof ops / sizeof *ops; k++) {
        if (sq_jinja_take_op(p, ops[k])) {
            return codes[k];
        }
    }
    if (sq_jinja_take_name(p, "in")) {
        return JO_IN;
    }
    if (sq_jinja_is_name(p, "not") && p->at[1].type == JT_NAME && p->at[1].n == 2 &&
        memcmp(p->at[1].s, "in", 2) == 0) {
        p->at += 2;
        return JO_NOT_IN;
    }
    return -1;
}

/* a < b < c: operands in items, operators in ops. */
static jnode *compare(jparser *p) {
    jnode *a = sum(p), *n = NULL;
    int ops[16], k = 0;
    while (p->st == SQ_OK) {
        int op = compare_op(p);
        if (op < 0) {
            break;
        }
        if (n == NULL) {
            n = sq_jinja_node(p, JN_COMPARE);
            sq_jinja_push(p, n, a);
        }
        if (k == 16) {
            sq_jinja_fail(p, SQ_EFORMAT, "more than 16 comparisons in a row");
            break;
        }
        ops[k++] = op;
        sq_jinja_push(p, n, sum(p));
    }
    if (n == NULL || p->st != SQ_OK) {
        return a;
    }
    n->ops = sq_arena_alloc(&p->t->arena, (size_t)k, sizeof *n->ops, p->err);
    if (n->ops == NULL) {
        p->st = SQ_ENOMEM;
        return NULL;
    }
    memcpy(n->ops, ops, (size_t)k * sizeof *ops);
    return n;
}

static jnode *negation(jparser *p) {
    int count = 0;
    while (sq_jinja_take_name(p, "not")) {
        count++;
    }
    jnode *n = compare(p);
    for (int k = 0; k < 2 - count % 2 && count > 0; k++) {
        n = pair(p, JN_NOT, 0, n, NULL);
    }
    return n;
}

static jnode *all_of(jparser *p) {
    jnode *a = negation(p);
    while (sq_jinja_take_name(p, "and")) {
        a = pair(p, JN_AND, 0, a, negation(p));
    }
    return a;
}

static jnode *any_of(jparser *p) {
    jnode *a = all_of(p);
    while (sq_jinja_take_name(p, "or")) {
        a = pair(p, JN_OR, 0, a, all_of(p));
    }
    return a;
}

jnode *sq_jinja_expr(jparser *p) {
    if (p->st != SQ_OK || ++p->depth > MAX_NESTING) {
        sq_jinja_fail(p, SQ_EFORMAT, "expressions are nested more than %d deep", MAX_NESTING);
        return NULL;
    }
    jnode *a = any_of(p);
    while (sq_jinja_take_name(p, "if")) {
        jnode *n = pair(p, JN_COND, 0, any_of(p), a);
        if (n != NULL && sq_jinja_take_name(p, "else")) {
            n->c = sq_jinja_expr(p);
        }
        a = n;
    }
    p->depth--;
    return a;
}

/* One expression, or several with commas: a tuple. */
jnode *sq_jinja_tuple(jparser *p, int no_cond) {
    jnode *a = no_cond ? any_of(p) : sq_jinja_expr(p);
    if (p->st != SQ_OK || !sq_jinja_is_op(p, ",")) {
        return a;
    }
    jnode *n = sq_jinja_node(p, JN_LIST);
    if (n != NULL) {
        n->tuple = 1;
    }
    sq_jinja_push(p, n, a);
    while (sq_jinja_take_op(p, ",")) {
        int ends = p->at->type == JT_BLOCK_END || p->at->type == JT_VAR_END ||
                   sq_jinja_is_op(p, ")") || sq_jinja_is_op(p, "=") || sq_jinja_is_name(p, "in");
        if (ends) {
            break;
        }
        sq_jinja_push(p, n, no_cond ? any_of(p) : sq_jinja_expr(p));
    }
    return n;
}
