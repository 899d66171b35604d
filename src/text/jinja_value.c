/* Values of the interpreter: building, printing as Python does, comparing, iterating. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/jinja.h"
#include "text/utf8.h"

enum { MAX_VALUE_DEPTH = 100, CHUNK = 32 * 1024 };
static const size_t max_bytes = (size_t)256 << 20;
static const int64_t max_steps = 20000000;

jval sq_jinja_fault(jctx *c, sq_status st, const char *fmt, ...) {
    if (c->st == SQ_OK) {
        char text[400];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        c->st = sq_fail(c->err, st, "template '%s', line %d: %s", c->t->where, c->line, text);
    }
    return jv_undefined(NULL);
}

int sq_jinja_step(jctx *c, int64_t n) {
    c->steps += n;
    if (c->steps > max_steps) {
        sq_jinja_fault(c, SQ_EFORMAT, "rendering takes more than %lld steps", (long long)max_steps);
    }
    return c->st == SQ_OK;
}

void *sq_jinja_alloc(jctx *c, size_t count, size_t size) {
    size_t n, need;
    if (c->st != SQ_OK) {
        return NULL;
    }
    if (!sq_mul(count, size, &n) || !sq_add(n, 15, &need) || need > max_bytes ||
        (c->used += need) > max_bytes) {
        sq_jinja_fault(c, SQ_EFORMAT, "rendering takes more than %zu MiB", max_bytes >> 20);
        return NULL;
    }
    need &= ~(size_t)15;
    void *p;
    if (need > CHUNK / 4) {
        p = sq_arena_alloc(&c->arena, need, 1, c->err);
    } else {
        if (c->bump_left < need) {
            c->bump = sq_arena_alloc(&c->arena, CHUNK, 1, c->err);
            c->bump_left = c->bump == NULL ? 0 : CHUNK;
        }
        p = c->bump_left < need ? NULL : c->bump;
        if (p != NULL) {
            c->bump += need;
            c->bump_left -= need;
        }
    }
    if (p == NULL) {
        c->st = SQ_ENOMEM;
    }
    return p;
}

jval sq_jinja_copy_str(jctx *c, const char *s, size_t n) {
    char *p = sq_jinja_alloc(c, n + 1, 1);
    if (p == NULL) {
        return jv_undefined(NULL);
    }
    if (n > 0) {
        memcpy(p, s, n);
    }
    p[n] = '\0';
    return jv_str(p, n);
}

jval sq_jinja_buf_str(jctx *c, sq_buf *b) {
    jval v = jv_undefined(NULL);
    if (b->failed && c->st == SQ_OK) {
        c->st = sq_fail_nomem(c->err, "a template's text", b->len);
    }
    if (c->st == SQ_OK) {
        v = sq_jinja_copy_str(c, b->data, b->len);
    }
    sq_buf_free(b);
    return v;
}

jval sq_jinja_new_list(jctx *c, size_t cap) {
    jlist *l = sq_jinja_alloc(c, 1, sizeof *l);
    if (l == NULL) {
        return jv_undefined(NULL);
    }
    *l = (jlist){0};
    if (cap > 0) {
        l->v = sq_jinja_alloc(c, cap, sizeof *l->v);
        l->cap = l->v == NULL ? 0 : cap;
    }
    return (jval){.type = J_LIST, .u.l = l};
}

static int more_room(jctx *c, jval **v, size_t n, size_t cap) {
    jval *p = sq_jinja_alloc(c, cap, sizeof *p);
    if (p == NULL) {
        return 0;
    }
    if (n > 0) {
        memcpy(p, *v, n * sizeof *p);
    }
    *v = p;
    return 1;
}

void sq_jinja_append(jctx *c, jval list, jval v) {
    jlist *l = list.u.l;
    if (c->st != SQ_OK) {
        return;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 4;
        if (!more_room(c, &l->v, l->n, cap)) {
            return;
        }
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

jval sq_jinja_new_dict(jctx *c) {
    jdict *d = sq_jinja_alloc(c, 1, sizeof *d);
    if (d == NULL) {
        return jv_undefined(NULL);
    }
    *d = (jdict){0};
    return (jval){.type = J_DICT, .u.d = d};
}

const jval *sq_jinja_dict_get(const jdict *d, jval k) {
    for (size_t i = 0; i < d->n; i++) {
        if (sq_jinja_equal(d->k[i], k, 0)) {
            return &d->v[i];
        }
    }
    return NULL;
}

const jval *sq_jinja_dict_str(const jdict *d, const char *k) {
    return sq_jinja_dict_get(d, jv_str(k, strlen(k)));
}

/* Adds without looking for the key. */
static void dict_add(jctx *c, jdict *d, jval k, jval v) {
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4;
        if (!more_room(c, &d->k, d->n, cap) || !more_room(c, &d->v, d->n, cap)) {
            return;
        }
        d->cap = cap;
    }
    d->k[d->n] = k;
    d->v[d->n++] = v;
}

void sq_jinja_dict_set(jctx *c, jval dict, jval k, jval v) {
    jdict *d = dict.u.d;
    if (c->st != SQ_OK || !sq_jinja_step(c, (int64_t)(d->n / 8))) {
        return;
    }
    if (k.type == J_LIST && !k.tuple) {
        sq_jinja_fault(c, SQ_EFORMAT, "a list cannot be a key");
        return;
    }
    for (size_t i = 0; i < d->n; i++) {
        if (sq_jinja_equal(d->k[i], k, 0)) {
            d->v[i] = v;
            return;
        }
    }
    dict_add(c, d, k, v);
}

jval sq_jinja_from_json(jctx *c, const json_t *v, int depth) {
    if (depth > MAX_VALUE_DEPTH) {
        return sq_jinja_fault(c, SQ_EARG, "inputs are nested more than %d deep", MAX_VALUE_DEPTH);
    }
    jval out;
    const char *key;
    json_t *item;
    switch (json_typeof(v)) {
    case JSON_STRING:
        return jv_str(json_string_value(v), json_string_length(v));
    case JSON_INTEGER:
        return jv_int(json_integer_value(v));
    case JSON_REAL:
        return jv_float(json_real_value(v));
    case JSON_TRUE:
    case JSON_FALSE:
        return jv_bool(json_is_true(v));
    case JSON_ARRAY:
        out = sq_jinja_new_list(c, json_array_size(v));
        for (size_t i = 0; c->st == SQ_OK && i < json_array_size(v); i++) {
            sq_jinja_append(c, out, sq_jinja_from_json(c, json_array_get(v, i), depth + 1));
        }
        return out;
    case JSON_OBJECT:
        out = sq_jinja_new_dict(c);
        json_object_foreach((json_t *)(uintptr_t)v, key, item) {
            if (c->st == SQ_OK) {
                jval x = sq_jinja_from_json(c, item, depth + 1);
                dict_add(c, out.u.d, jv_str(key, strlen(key)), x);
            }
        }
        return out;
    default:
        return jv_none();
    }
}

int sq_jinja_is_num(jval v) { return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT; }

double sq_jinja_num(jval v) { return v.type == J_FLOAT ? v.u.f : (double)v.u.i; }

int sq_jinja_is_str(jval v, const char *s) {
    return v.type == J_STR && v.n == strlen(s) && memcmp(v.u.s, s, v.n) == 0;
}

int sq_jinja_truth(jval v) {
    switch (v.type) {
    case J_BOOL:
    case J_INT:
        return v.u.i != 0;
    case J_FLOAT:
        return v.u.f < 0 || v.u.f > 0 || isnan(v.u.f);
    case J_STR:
        return v.n > 0;
    case J_LIST:
        return v.u.l->n > 0;
    case J_DICT:
        return v.space || v.u.d->n > 0;
    case J_LOOP:
    case J_FUNC:
        return 1;
    default:
        return 0;
    }
}

static int equal_lists(const jlist *a, const jlist *b, int depth) {
    if (a->n != b->n) {
        return 0;
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!sq_jinja_equal(a->v[i], b->v[i], depth + 1)) {
            return 0;
        }
    }
    return 1;
}

static int equal_dicts(const jdict *a, const jdict *b, int depth) {
    if (a->n != b->n) {
        return 0;
    }
    for (size_t i = 0; i < a->n; i++) {
        const jval *v = sq_jinja_dict_get(b, a->k[i]);
        if (v == NULL || !sq_jinja_equal(a->v[i], *v, depth + 1)) {
            return 0;
        }
    }
    return 1;
}

int sq_jinja_equal(jval a, jval b, int depth) {
    if (depth > MAX_VALUE_DEPTH) {
        return 0;
    }
    if (sq_jinja_is_num(a) && sq_jinja_is_num(b)) {
        if (a.type != J_FLOAT && b.type != J_FLOAT) {
            return a.u.i == b.u.i;
        }
        double x = sq_jinja_num(a), y = sq_jinja_num(b);
        return x <= y && x >= y;
    }
    if (a.type != b.type) {
        return 0;
    }
    switch (a.type) {
    case J_UNDEFINED:
    case J_NONE:
        return 1;
    case J_STR:
        return a.n == b.n && (a.n == 0 || memcmp(a.u.s, b.u.s, a.n) == 0);
    case J_LIST:
        return a.tuple == b.tuple && equal_lists(a.u.l, b.u.l, depth);
    case J_DICT:
        return a.u.d == b.u.d || (!a.space && !b.space && equal_dicts(a.u.d, b.u.d, depth));
    default:
        return sq_jinja_same(a, b);
    }
}

/* Identity, as `sameas` and Python's `is` see it. */
int sq_jinja_same(jval a, jval b) {
    if (a.type != b.type) {
        return 0;
    }
    switch (a.type) {
    case J_LIST:
        return a.u.l == b.u.l;
    case J_DICT:
        return a.u.d == b.u.d;
    case J_LOOP:
        return a.u.loop == b.u.loop;
    case J_FUNC:
        return a.u.fn == b.u.fn;
    case J_UNDEFINED:
        return 0;
    default:
        return sq_jinja_equal(a, b, 0);
    }
}

const char *sq_jinja_type(jval v) {
    static const char *const names[] = {"undefined", "none", "bool", "int",  "float",
                                        "str",       "list", "dict", "loop", "function"};
    return v.type == J_LIST && v.tuple ? "tuple" : v.space ? "namespace" : names[v.type];
}

int sq_jinja_order(jctx *c, jval a, jval b) {
    if (sq_jinja_is_num(a) && sq_jinja_is_num(b)) {
        if (a.type != J_FLOAT && b.type != J_FLOAT) {
            return a.u.i < b.u.i ? -1 : a.u.i > b.u.i;
        }
        double x = sq_jinja_num(a), y = sq_jinja_num(b);
        return x < y ? -1 : x > y;
    }
    if (a.type == J_STR && b.type == J_STR) {
        size_t n = a.n < b.n ? a.n : b.n;
        int k = n ? memcmp(a.u.s, b.u.s, n) : 0;
        return k < 0 ? -1 : k > 0 ? 1 : a.n < b.n ? -1 : a.n > b.n;
    }
    if (a.type == J_LIST && b.type == J_LIST && a.tuple == b.tuple) {
        for (size_t i = 0; i < a.u.l->n && i < b.u.l->n; i++) {
            jval x = a.u.l->v[i], y = b.u.l->v[i];
            if (x.type == J_LIST) {
                break; /* nested lists are not ordered here */
            }
            int k = sq_jinja_order(c, x, y);
            if (k != 0 || c->st != SQ_OK) {
                return k;
            }
        }
        return a.u.l->n < b.u.l->n ? -1 : a.u.l->n > b.u.l->n;
    }
    sq_jinja_fault(c, SQ_EFORMAT, "cannot order %s and %s", sq_jinja_type(a), sq_jinja_type(b));
    return 0;
}

/* ---- printing ---- */

void sq_jinja_put_float(sq_buf *b, double f) {
    char s[64], digits[40];
    if (isnan(f) || isinf(f)) {
        sq_buf_puts(b, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    int p = 1;
    for (; p <= 17; p++) {
        snprintf(s, sizeof s, "%.*e", p - 1, f);
        double back = strtod(s, NULL);
        if (back <= f && back >= f) {
            break;
        }
    }
    int exp = (int)strtol(strchr(s, 'e') + 1, NULL, 10), n = 0;
    for (const char *c = s; *c != 'e'; c++) {
        if (*c >= '0' && *c <= '9') {
            digits[n++] = *c;
        }
    }
    digits[n] = '\0';
    if (exp >= -4 && exp < 16) {
        int after = n - 1 - exp;
        snprintf(s, sizeof s, "%.*f", after > 1 ? after : 1, f);
        sq_buf_puts(b, s);
        return;
    }
    sq_buf_printf(b, "%s%c%s%se%c%02d", signbit(f) ? "-" : "", digits[0], n > 1 ? "." : "",
                  digits + 1, exp < 0 ? '-' : '+', abs(exp));
}

static int printable(uint32_t cp) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return cp == ' ' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_SO);
}

static void put_repr(sq_buf *b, jval s) {
    int single = s.n > 0 && memchr(s.u.s, '\'', s.n) != NULL;
    int dbl = s.n > 0 && memchr(s.u.s, '"', s.n) != NULL;
    char q = single && !dbl ? '"' : '\'';
    sq_text_put(b, &q, 1);
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t k = sq_utf8_get(s.u.s + i, &cp);
        if (cp == (uint32_t)q || cp == '\\') {
            sq_buf_printf(b, "\\%c", (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            sq_buf_puts(b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        } else if (printable(cp)) {
            sq_text_put(b, s.u.s + i, k);
        } else {
            sq_buf_printf(b, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        }
        i += k;
    }
    sq_text_put(b, &q, 1);
}

static void put_list(jctx *c, sq_buf *b, jval v, int depth) {
    sq_buf_puts(b, v.tuple ? "(" : "[");
    for (size_t i = 0; i < v.u.l->n && c->st == SQ_OK; i++) {
        sq_buf_puts(b, i ? ", " : "");
        sq_jinja_print(c, b, v.u.l->v[i], 1, depth + 1);
    }
    sq_buf_puts(b, v.tuple && v.u.l->n == 1 ? ",)" : v.tuple ? ")" : "]");
}

static void put_dict(jctx *c, sq_buf *b, jval v, int depth) {
    sq_buf_puts(b, v.space ? "<Namespace {" : "{");
    for (size_t i = 0; i < v.u.d->n && c->st == SQ_OK; i++) {
        sq_buf_puts(b, i ? ", " : "");
        sq_jinja_print(c, b, v.u.d->k[i], 1, depth + 1);
        sq_buf_puts(b, ": ");
        sq_jinja_print(c, b, v.u.d->v[i], 1, depth + 1);
    }
    sq_buf_puts(b, v.space ? "}>" : "}");
}

void sq_jinja_print(jctx *c, sq_buf *b, jval v, int repr, int depth) {
    if (depth > MAX_VALUE_DEPTH) {
        sq_jinja_fault(c, SQ_EFORMAT, "a value is nested too deeply to print");
        return;
    }
    if (b->len > max_bytes || !sq_jinja_step(c, 1)) {
        sq_jinja_fault(c, SQ_EFORMAT, "output exceeds %zu MiB", max_bytes >> 20);
        return;
    }
    switch (v.type) {
    case J_UNDEFINED:
        sq_buf_puts(b, repr ? "Undefined" : "");
        break;
    case J_NONE:
        sq_buf_puts(b, "None");
        break;
    case J_BOOL:
        sq_buf_puts(b, v.u.i ? "True" : "False");
        break;
    case J_INT:
        sq_buf_printf(b, "%lld", (long long)v.u.i);
        break;
    case J_FLOAT:
        sq_jinja_put_float(b, v.u.f);
        break;
    case J_STR:
        if (repr) {
            put_repr(b, v);
        } else {
            sq_text_put(b, v.u.s, v.n);
        }
        break;
    case J_LIST:
        put_list(c, b, v, depth);
        break;
    case J_DICT:
        put_dict(c, b, v, depth);
        break;
    case J_LOOP:
        sq_buf_printf(b, "<LoopContext %zu/%zu>", v.u.loop->at + 1, v.u.loop->items->n);
        break;
    default:
        sq_buf_printf(b, "<function %s>", v.u.fn->name);
    }
}

jval sq_jinja_to_str(jctx *c, jval v) {
    if (v.type == J_STR) {
        return v;
    }
    sq_buf b = {0};
    sq_jinja_print(c, &b, v, 0, 0);
    return sq_jinja_buf_str(c, &b);
}

/* ---- strings and sequences ---- */

int sq_jinja_pyspace(uint32_t cp) { return sq_uc_space(cp) || (cp >= 0x1c && cp <= 0x1f); }

size_t sq_jinja_chars(jval s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        n += ((unsigned char)s.u.s[i] & 0xc0u) != 0x80u;
    }
    return n;
}

jval sq_jinja_substr(jval s, size_t from, size_t to) {
    size_t i = 0, k = 0, a;
    while (i < s.n && k < from) {
        i += sq_utf8_len(s.u.s[i]);
        k++;
    }
    a = i;
    while (i < s.n && k < to) {
        i += sq_utf8_len(s.u.s[i]);
        k++;
    }
    return jv_str(s.n ? s.u.s + a : "", i - a);
}

jval sq_jinja_iterate(jctx *c, jval v) {
    jval out;
    switch (v.type) {
    case J_LIST:
        return v;
    case J_UNDEFINED:
        return sq_jinja_new_list(c, 0);
    case J_DICT:
        if (v.space) {
            break;
        }
        out = sq_jinja_new_list(c, v.u.d->n);
        for (size_t i = 0; c->st == SQ_OK && i < v.u.d->n; i++) {
            sq_jinja_append(c, out, v.u.d->k[i]);
        }
        return out;
    case J_STR:
        out = sq_jinja_new_list(c, 0);
        for (size_t i = 0; c->st == SQ_OK && i < v.n;) {
            size_t k = sq_utf8_len(v.u.s[i]);
            sq_jinja_append(c, out, jv_str(v.u.s + i, k));
            i += k;
        }
        return out;
    default:
        break;
    }
    return sq_jinja_fault(c, SQ_EFORMAT, "%s cannot be iterated", sq_jinja_type(v));
}

int sq_jinja_contains(jctx *c, jval where, jval what) {
    if (where.type == J_STR) {
        if (what.type != J_STR) {
            sq_jinja_fault(c, SQ_EFORMAT, "'in' a string wants a string; got %s",
                           sq_jinja_type(what));
            return 0;
        }
        return what.n == 0 || (where.n && memmem(where.u.s, where.n, what.u.s, what.n) != NULL);
    }
    if (where.type == J_DICT && !where.space) {
        return sq_jinja_dict_get(where.u.d, what) != NULL;
    }
    if (where.type == J_UNDEFINED) {
        return 0;
    }
    if (where.type != J_LIST) {
        sq_jinja_fault(c, SQ_EFORMAT, "'in' wants a list, string or dict; got %s",
                       sq_jinja_type(where));
        return 0;
    }
    for (size_t i = 0; i < where.u.l->n && sq_jinja_step(c, 1); i++) {
        if (sq_jinja_equal(where.u.l->v[i], what, 0)) {
            return 1;
        }
    }
    return 0;
}
