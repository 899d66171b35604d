/* Evaluates expressions. */
#include <math.h>
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

static jval undefined_use(jctx *c, jval v) {
    return sq_jinja_fault(c, SQ_EFORMAT, "'%s' is undefined", v.u.s ? v.u.s : "a value");
}

static jval overflow(jctx *c) { return sq_jinja_fault(c, SQ_EFORMAT, "a number is too large"); }

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static jval int_op(jctx *c, int op, int64_t a, int64_t b) {
    int64_t r = 0;
    switch (op) {
    case JO_ADD:
        return __builtin_add_overflow(a, b, &r) ? overflow(c) : jv_int(r);
    case JO_SUB:
        return __builtin_sub_overflow(a, b, &r) ? overflow(c) : jv_int(r);
    case JO_MUL:
        return __builtin_mul_overflow(a, b, &r) ? overflow(c) : jv_int(r);
    case JO_FLOORDIV:
    case JO_MOD:
        if (b == 0) {
            return sq_jinja_fault(c, SQ_EFORMAT, "division by zero");
        }
        if (b == -1) {
            return op == JO_MOD ? jv_int(0) : int_op(c, JO_SUB, 0, a);
        }
        r = floor_div(a, b);
        return jv_int(op == JO_FLOORDIV ? r : a - r * b);
    default: /* JO_POW with b >= 0 */
        r = 1;
        for (int64_t k = 0; k < b; k++) {
            if (__builtin_mul_overflow(r, a, &r) || k > 64 * 64) {
                return overflow(c);
            }
            if (r == 0 || (r == 1 && a == 1)) {
                break;
            }
        }
        return jv_int(r);
    }
}

static jval float_op(jctx *c, int op, double a, double b) {
    switch (op) {
    case JO_ADD:
        return jv_float(a + b);
    case JO_SUB:
        return jv_float(a - b);
    case JO_MUL:
        return jv_float(a * b);
    case JO_POW:
        return jv_float(pow(a, b));
    default:
        break;
    }
    if (!(b < 0 || b > 0)) {
        return sq_jinja_fault(c, SQ_EFORMAT, "division by zero");
    }
    double q = floor(a / b);
    return jv_float(op == JO_DIV ? a / b : op == JO_FLOORDIV ? q : a - q * b);
}

static jval repeat(jctx *c, jval s, int64_t k) {
    jval out = s.type == J_STR ? jv_str("", 0) : sq_jinja_new_list(c, 0);
    if (k <= 0) {
        return out;
    }
    if (s.type == J_STR) {
        size_t n;
        if (!sq_mul(s.n, (size_t)k, &n) || !sq_jinja_step(c, k)) {
            return overflow(c);
        }
        char *p = sq_jinja_alloc(c, n + 1, 1);
        for (int64_t i = 0; p != NULL && s.n > 0 && i < k; i++) {
            memcpy(p + (size_t)i * s.n, s.u.s, s.n);
        }
        return p == NULL ? out : jv_str(p, n);
    }
    for (int64_t i = 0; i < k && sq_jinja_step(c, 1 + (int64_t)s.u.l->n); i++) {
        for (size_t j = 0; j < s.u.l->n; j++) {
            sq_jinja_append(c, out, s.u.l->v[j]);
        }
    }
    out.tuple = s.tuple;
    return out;
}

static jval join_two(jctx *c, jval a, jval b) {
    if (a.type == J_STR) {
        char *p = sq_jinja_alloc(c, a.n + b.n + 1, 1);
        if (p == NULL) {
            return jv_undefined(NULL);
        }
        memcpy(p, a.n ? a.u.s : "", a.n);
        memcpy(p + a.n, b.n ? b.u.s : "", b.n);
        p[a.n + b.n] = '\0';
        return jv_str(p, a.n + b.n);
    }
    jval out = sq_jinja_new_list(c, a.u.l->n + b.u.l->n);
    for (size_t i = 0; c->st == SQ_OK && i < a.u.l->n; i++) {
        sq_jinja_append(c, out, a.u.l->v[i]);
    }
    for (size_t i = 0; c->st == SQ_OK && i < b.u.l->n; i++) {
        sq_jinja_append(c, out, b.u.l->v[i]);
    }
    out.tuple = a.tuple;
    return out;
}

jval sq_jinja_binary(jctx *c, int op, jval a, jval b) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED) {
        return undefined_use(c, a.type == J_UNDEFINED ? a : b);
    }
    if (sq_jinja_is_num(a) && sq_jinja_is_num(b)) {
        int whole =
            a.type != J_FLOAT && b.type != J_FLOAT && op != JO_DIV && !(op == JO_POW && b.u.i < 0);
        return whole ? int_op(c, op, a.u.i, b.u.i)
                     : float_op(c, op, sq_jinja_num(a), sq_jinja_num(b));
    }
    int same = a.type == b.type && (a.type == J_STR || (a.type == J_LIST && a.tuple == b.tuple));
    if (op == JO_ADD && same) {
        return join_two(c, a, b);
    }
    if (op == JO_MUL && (a.type == J_STR || a.type == J_LIST) &&
        (b.type == J_INT || b.type == J_BOOL)) {
        return repeat(c, a, b.u.i);
    }
    if (op == JO_MUL && (b.type == J_STR || b.type == J_LIST) &&
        (a.type == J_INT || a.type == J_BOOL)) {
        return repeat(c, b, a.u.i);
    }
    if (op == JO_MOD && a.type == J_STR) {
        jargs args = {.pos = &b, .n = 1};
        if (b.type == J_LIST && b.tuple) {
            args.pos = b.u.l->v;
            args.n = b.u.l->n;
        }
        return sq_jinja_format(c, a, &args);
    }
    return sq_jinja_fault(c, SQ_EFORMAT, "operator %s does not take %s and %s", names[op],
                          sq_jinja_type(a), sq_jinja_type(b));
}

static int compare(jctx *c, int op, jval a, jval b) {
    switch (op) {
    case JO_EQ:
        return sq_jinja_equal(a, b, 0);
    case JO_NE:
        return !sq_jinja_equal(a, b, 0);
    case JO_IN:
        return sq_jinja_contains(c, b, a);
    case JO_NOT_IN:
        return !sq_jinja_contains(c, b, a);
    default:
        break;
    }
    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED) {
        undefined_use(c, a.type == J_UNDEFINED ? a : b);
        return 0;
    }
    int k = sq_jinja_order(c, a, b);
    return op == JO_LT ? k < 0 : op == JO_LE ? k <= 0 : op == JO_GT ? k > 0 : k >= 0;
}

static jval compare_chain(jctx *c, const jnode *n) {
    jval a = sq_jinja_eval(c, n->item[0]);
    for (size_t i = 1; c->st == SQ_OK && i < n->n; i++) {
        jval b = sq_jinja_eval(c, n->item[i]);
        if (c->st == SQ_OK && !compare(c, n->ops[i - 1], a, b)) {
            return jv_bool(0);
        }
        a = b;
    }
    return jv_bool(1);
}

static jval method(jctx *c, jval self, jmethod fn, const char *name) {
    jfunc *f = sq_jinja_alloc(c, 1, sizeof *f);
    if (f == NULL) {
        return jv_undefined(NULL);
    }
    *f = (jfunc){.method = fn, .self = self, .name = name};
    return (jval){.type = J_FUNC, .u.fn = f};
}

static jval loop_attr(jctx *c, jval v, const char *name);

jval sq_jinja_getattr(jctx *c, jval v, const char *name) {
    const jval *item = NULL;
    jmethod fn = NULL;
    switch (v.type) {
    case J_UNDEFINED:
        return undefined_use(c, v);
    case J_DICT:
        fn = v.space ? NULL : sq_jinja_dict_method(name);
        item = fn ? NULL : sq_jinja_dict_str(v.u.d, name);
        break;
    case J_STR:
        fn = sq_jinja_str_method(name);
        break;
    case J_LIST:
        fn = sq_jinja_list_method(name);
        break;
    case J_LOOP:
        return loop_attr(c, v, name);
    default:
        break;
    }
    if (fn != NULL) {
        return method(c, v, fn, name);
    }
    return item ? *item : jv_undefined(name);
}

static jval loop_cycle(jctx *c, jval self, const jargs *a) {
    if (a->n == 0) {
        return sq_jinja_fault(c, SQ_EFORMAT, "loop.cycle wants items");
    }
    return a->pos[self.u.loop->at % a->n];
}

static jval loop_changed(jctx *c, jval self, const jargs *a) {
    jloop *l = self.u.loop;
    jval now = sq_jinja_new_list(c, a->n);
    for (size_t i = 0; c->st == SQ_OK && i < a->n; i++) {
        sq_jinja_append(c, now, a->pos[i]);
    }
    int differs = c->st == SQ_OK && !(l->has_changed && sq_jinja_equal(l->changed, now, 0));
    l->changed = now;
    l->has_changed = 1;
    return jv_bool(differs);
}

static jval loop_attr(jctx *c, jval v, const char *name) {
    const jloop *l = v.u.loop;
    int64_t i = (int64_t)l->at, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        jval v;
    } rows[] = {
        {"index", jv_int(i + 1)},
        {"index0", jv_int(i)},
        {"revindex", jv_int(n - i)},
        {"revindex0", jv_int(n - i - 1)},
        {"first", jv_bool(i == 0)},
        {"last", jv_bool(i + 1 == n)},
        {"length", jv_int(n)},
        {"depth", jv_int(l->depth)},
        {"depth0", jv_int(l->depth - 1)},
        {"previtem", i > 0 ? l->items->v[i - 1] : jv_undefined("there is no previous item")},
        {"nextitem", i + 1 < n ? l->items->v[i + 1] : jv_undefined("there is no next item")}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        if (strcmp(name, rows[k].name) == 0) {
            return rows[k].v;
        }
    }
    if (strcmp(name, "cycle") == 0) {
        return method(c, v, loop_cycle, name);
    }
    return strcmp(name, "changed") == 0 ? method(c, v, loop_changed, name) : jv_undefined(name);
}

jval sq_jinja_getitem(jctx *c, jval v, jval key) {
    if (v.type == J_UNDEFINED) {
        return undefined_use(c, v);
    }
    if (v.type == J_DICT && !v.space) {
        const jval *item = sq_jinja_dict_get(v.u.d, key);
        if (item != NULL) {
            return *item;
        }
    } else if ((v.type == J_LIST || v.type == J_STR) && (key.type == J_INT || key.type == J_BOOL)) {
        int64_t n = v.type == J_LIST ? (int64_t)v.u.l->n : (int64_t)sq_jinja_chars(v);
        int64_t i = key.u.i < 0 ? key.u.i + n : key.u.i;
        if (i < 0 || i >= n) {
            return jv_undefined("an item out of range");
        }
        return v.type == J_LIST ? v.u.l->v[i] : sq_jinja_substr(v, (size_t)i, (size_t)i + 1);
    }
    if (key.type == J_STR && strlen(key.u.s) != key.n) { /* a slice of another text */
        key = sq_jinja_copy_str(c, key.u.s, key.n);
    }
    return key.type == J_STR ? sq_jinja_getattr(c, v, key.u.s) : jv_undefined("an item");
}

/* Python's slice bounds. */
static int64_t bound(jctx *c, jval v, int64_t n, int64_t dflt, int64_t lo, int64_t hi) {
    if (v.type == J_NONE) {
        return dflt;
    }
    if (v.type != J_INT && v.type != J_BOOL) {
        sq_jinja_fault(c, SQ_EFORMAT, "a slice wants whole numbers; got %s", sq_jinja_type(v));
        return dflt;
    }
    int64_t i = v.u.i < 0 ? v.u.i + n : v.u.i;
    return i < lo ? lo : i > hi ? hi : i;
}

static jval slice(jctx *c, const jnode *node) {
    jval v = sq_jinja_eval(c, node->a), none = jv_none();
    jval from = node->b ? sq_jinja_eval(c, node->b) : none;
    jval to = node->c ? sq_jinja_eval(c, node->c) : none;
    jval by = node->d ? sq_jinja_eval(c, node->d) : none;
    if (c->st != SQ_OK) {
        return none;
    }
    if (v.type == J_UNDEFINED) {
        return undefined_use(c, v);
    }
    if (v.type != J_LIST && v.type != J_STR) {
        return sq_jinja_fault(c, SQ_EFORMAT, "%s cannot be sliced", sq_jinja_type(v));
    }
    int64_t step = by.type == J_NONE ? 1 : by.type == J_INT ? by.u.i : 0;
    if (step == 0 || step == INT64_MIN) {
        return sq_jinja_fault(c, SQ_EFORMAT, "a slice's step cannot be zero");
    }
    int64_t n = v.type == J_LIST ? (int64_t)v.u.l->n : (int64_t)sq_jinja_chars(v);
    int64_t a = step > 0 ? bound(c, from, n, 0, 0, n) : bound(c, from, n, n - 1, -1, n - 1);
    int64_t b = step > 0 ? bound(c, to, n, n, 0, n) : bound(c, to, n, -1, -1, n - 1);
    if (v.type == J_STR && step == 1) {
        return sq_jinja_substr(v, (size_t)a, (size_t)(b > a ? b : a));
    }
    int str = v.type == J_STR;
    jval items = str ? sq_jinja_iterate(c, v) : v, out = sq_jinja_new_list(c, 0);
    sq_buf text = {0};
    while (c->st == SQ_OK && (step > 0 ? a < b : a > b)) {
        jval x = items.u.l->v[a];
        if (str) {
            sq_text_put(&text, x.u.s, x.n);
        } else {
            sq_jinja_append(c, out, x);
        }
        if (__builtin_add_overflow(a, step, &a)) {
            break;
        }
    }
    out.tuple = v.tuple;
    jval s = sq_jinja_buf_str(c, &text);
    return str ? s : out;
}

/* Evaluates the arguments of a call, filter or test into the arena. */
static jargs arguments(jctx *c, const jnode *n) {
    jargs a = {.n = n->n - n->n_kw, .n_kw = n->n_kw, .key = n->key};
    if (n->n == 0) {
        return a;
    }
    jval *v = sq_jinja_alloc(c, n->n, sizeof *v);
    for (size_t i = 0; v != NULL && i < n->n; i++) {
        v[i] = sq_jinja_eval(c, n->item[i]);
    }
    if (v == NULL) {
        return (jargs){0};
    }
    a.pos = v;
    a.kw = v + a.n;
    return a;
}

jval sq_jinja_call(jctx *c, jval fn, const jargs *a) {
    if (c->st != SQ_OK) {
        return jv_undefined(NULL);
    }
    if (fn.type == J_UNDEFINED) {
        return undefined_use(c, fn);
    }
    if (fn.type == J_LOOP && fn.u.loop->node != NULL) {
        return sq_jinja_recurse(c, fn, a);
    }
    if (fn.type != J_FUNC) {
        return sq_jinja_fault(c, SQ_EFORMAT, "%s cannot be called", sq_jinja_type(fn));
    }
    return fn.u.fn->method ? fn.u.fn->method(c, fn.u.fn->self, a)
                           : sq_jinja_call_macro(c, fn.u.fn, a);
}

static jval call(jctx *c, const jnode *n) {
    jval fn = sq_jinja_eval(c, n->a);
    if (c->st == SQ_OK && fn.type == J_UNDEFINED) {
        return sq_jinja_fault(c, SQ_EUNSUPPORTED,
                              "'%s' is undefined or not supported as a function",
                              fn.u.s ? fn.u.s : "it");
    }
    jargs a = arguments(c, n);
    c->line = n->line;
    return sq_jinja_call(c, fn, &a);
}

static jval name(jctx *c, const jnode *n) {
    const jval *v = sq_jinja_find(c, n->name);
    if (v != NULL) {
        return *v;
    }
    jmethod fn = sq_jinja_global(n->name);
    return fn ? method(c, jv_none(), fn, n->name) : jv_undefined(n->name);
}

static jval container(jctx *c, const jnode *n) {
    jval out = n->kind == JN_DICT ? sq_jinja_new_dict(c) : sq_jinja_new_list(c, n->n);
    for (size_t i = 0; c->st == SQ_OK && i < n->n; i++) {
        jval v = sq_jinja_eval(c, n->item[i]);
        if (n->kind == JN_DICT) {
            sq_jinja_dict_set(c, out, v, sq_jinja_eval(c, n->item[++i]));
        } else {
            sq_jinja_append(c, out, v);
        }
    }
    out.tuple = (unsigned char)n->tuple;
    return out;
}

static jval concat(jctx *c, const jnode *n) {
    sq_buf b = {0};
    for (size_t i = 0; c->st == SQ_OK && i < n->n; i++) {
        jval v = sq_jinja_eval(c, n->item[i]);
        if (c->st == SQ_OK) {
            sq_jinja_print(c, &b, v, 0, 0);
        }
    }
    return sq_jinja_buf_str(c, &b);
}

static jval sign(jctx *c, const jnode *n) {
    jval v = sq_jinja_eval(c, n->a);
    if (c->st != SQ_OK) {
        return v;
    }
    if (!sq_jinja_is_num(v)) {
        return v.type == J_UNDEFINED
                   ? undefined_use(c, v)
                   : sq_jinja_fault(c, SQ_EFORMAT, "a sign wants a number; got %s",
                                    sq_jinja_type(v));
    }
    if (n->kind == JN_POS) {
        return v.type == J_BOOL ? jv_int(v.u.i) : v;
    }
    return v.type == J_FLOAT ? jv_float(-v.u.f) : int_op(c, JO_SUB, 0, v.u.i);
}

static jval filter_or_test(jctx *c, const jnode *n) {
    jval v = sq_jinja_eval(c, n->a);
    jargs a = arguments(c, n);
    c->line = n->line;
    if (c->st != SQ_OK) {
        return v;
    }
    return n->kind == JN_FILTER ? sq_jinja_filter(n->name)(c, v, &a)
                                : sq_jinja_test(n->name)(c, v, &a);
}

static jval choose(jctx *c, const jnode *n) {
    jval v = sq_jinja_eval(c, n->a);
    if (c->st != SQ_OK) {
        return v;
    }
    switch (n->kind) {
    case JN_AND:
        return sq_jinja_truth(v) ? sq_jinja_eval(c, n->b) : v;
    case JN_OR:
        return sq_jinja_truth(v) ? v : sq_jinja_eval(c, n->b);
    default:
        return sq_jinja_truth(v) ? sq_jinja_eval(c, n->b)
               : n->c            ? sq_jinja_eval(c, n->c)
                                 : jv_undefined("an inline if without else");
    }
}

static jval eval_node(jctx *c, const jnode *n) {
    jval a, b;
    switch (n->kind) {
    case JN_CONST:
        return n->value;
    case JN_NAME:
        return name(c, n);
    case JN_LIST:
    case JN_DICT:
        return container(c, n);
    case JN_GETATTR:
        a = sq_jinja_eval(c, n->a);
        return c->st == SQ_OK ? sq_jinja_getattr(c, a, n->name) : a;
    case JN_GETITEM:
        a = sq_jinja_eval(c, n->a);
        b = sq_jinja_eval(c, n->b);
        return c->st == SQ_OK ? sq_jinja_getitem(c, a, b) : a;
    case JN_SLICE:
        return slice(c, n);
    case JN_CALL:
        return call(c, n);
    case JN_FILTER:
    case JN_TEST:
        return filter_or_test(c, n);
    case JN_NOT:
        return jv_bool(!sq_jinja_truth(sq_jinja_eval(c, n->a)));
    case JN_NEG:
    case JN_POS:
        return sign(c, n);
    case JN_AND:
    case JN_OR:
    case JN_COND:
        return choose(c, n);
    case JN_COMPARE:
        return compare_chain(c, n);
    case JN_BINARY:
        a = sq_jinja_eval(c, n->a);
        b = sq_jinja_eval(c, n->b);
        return c->st == SQ_OK ? sq_jinja_binary(c, n->op, a, b) : a;
    case JN_CONCAT:
        return concat(c, n);
    default:
        return sq_jinja_fault(c, SQ_EINTERNAL, "node %d is no expression", (int)n->kind);
    }
}

jval sq_jinja_eval(jctx *c, const jnode *n) {
    if (c->st != SQ_OK || n == NULL || !sq_jinja_step(c, 1)) {
        return jv_undefined(NULL);
    }
    if (++c->depth > JINJA_MAX_DEPTH) {
        return sq_jinja_fault(c, SQ_EFORMAT, "evaluation is nested more than %d deep",
                              JINJA_MAX_DEPTH);
    }
    c->line = n->line;
    jval v = eval_node(c, n);
    c->depth--;
    return v;
}
