/* Filters on single values, and the tests behind `is`. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

static jval f_default(jctx *c, jval v, const jargs *a) {
    (void)c;
    const jval *d = sq_jinja_arg(a, 0, "default_value");
    int use =
        v.type == J_UNDEFINED || (sq_jinja_bool_arg(a, 1, "boolean", 0) && !sq_jinja_truth(v));
    return use ? (d ? *d : jv_str("", 0)) : v;
}

static jval f_string(jctx *c, jval v, const jargs *a) {
    (void)a;
    return sq_jinja_to_str(c, v);
}

static jval f_trim(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_strip(s, sq_jinja_arg(a, 0, "chars"), 1, 1) : s;
}

static jval to_case(jctx *c, jval v, int how) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_case(c, s, how) : s;
}
static jval f_upper(jctx *c, jval v, const jargs *a) {
    (void)a;
    return to_case(c, v, 'u');
}
static jval f_lower(jctx *c, jval v, const jargs *a) {
    (void)a;
    return to_case(c, v, 'l');
}
static jval f_capitalize(jctx *c, jval v, const jargs *a) {
    (void)a;
    return to_case(c, v, 'c');
}

/* Words begin after spaces, hyphens and opening brackets; apostrophes stay inside. */
static jval f_title(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval s = sq_jinja_to_str(c, v);
    sq_buf b = {0};
    size_t start = 0;
    for (size_t i = 0; c->st == SQ_OK && i <= s.n;) {
        uint32_t cp = 0;
        size_t k = i < s.n ? sq_utf8_get(s.u.s + i, &cp) : 1;
        if (i == s.n || sq_jinja_pyspace(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp))) {
            jval w = sq_jinja_case(c, jv_str(s.u.s + start, i - start), 'c');
            if (c->st == SQ_OK) {
                sq_text_put(&b, w.u.s, w.n);
                sq_text_put(&b, s.u.s + i, i < s.n ? k : 0);
            }
            start = i + k;
        }
        i += k;
    }
    return sq_jinja_buf_str(c, &b);
}

static jval f_replace(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_replace(c, s, a) : s;
}

static jval f_center(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v), width = jv_int(sq_jinja_int_arg(c, a, 0, "width", 80));
    jargs b = {.pos = &width, .n = 1};
    return c->st == SQ_OK ? sq_jinja_str_method("center")(c, s, &b) : s;
}

static jval f_indent(jctx *c, jval v, const jargs *a) {
    const jval *width = sq_jinja_arg(a, 0, "width");
    int first = sq_jinja_bool_arg(a, 1, "first", 0), blank = sq_jinja_bool_arg(a, 2, "blank", 0);
    jval s = v, pad = jv_str("    ", 4);
    if (v.type != J_STR) {
        return sq_jinja_fault(c, SQ_EFORMAT, "indent wants a string; got %s", sq_jinja_type(v));
    }
    if (width != NULL) {
        pad = width->type == J_STR ? *width : sq_jinja_binary(c, JO_MUL, jv_str(" ", 1), *width);
    }
    s = c->st == SQ_OK ? sq_jinja_binary(c, JO_ADD, s, jv_str("\n", 1)) : s;
    jval lines = c->st == SQ_OK ? sq_jinja_str_method("splitlines")(c, s, &(jargs){0}) : s;
    sq_buf b = {0};
    for (size_t i = 0; c->st == SQ_OK && i < lines.u.l->n; i++) {
        jval x = lines.u.l->v[i];
        if (i > 0) {
            sq_text_put(&b, "\n", 1);
        }
        if (i == 0 ? first : (blank || x.n > 0)) {
            sq_text_put(&b, pad.u.s, pad.n);
        }
        sq_text_put(&b, x.u.s, x.n);
    }
    return sq_jinja_buf_str(c, &b);
}

static jval f_truncate(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    int64_t length = sq_jinja_int_arg(c, a, 0, "length", 255);
    int64_t leeway = sq_jinja_int_arg(c, a, 3, "leeway", 5);
    const jval *e = sq_jinja_arg(a, 2, "end");
    jval end = e && e->type == J_STR ? *e : jv_str("...", 3);
    if (c->st != SQ_OK || length < 0 || length > INT32_MAX || leeway < 0 || leeway > INT32_MAX) {
        return sq_jinja_fault(c, SQ_EFORMAT, "truncate: length and leeway are out of range");
    }
    int64_t keep = length - (int64_t)sq_jinja_chars(end);
    if ((int64_t)sq_jinja_chars(s) <= length + leeway || keep < 0) {
        return s;
    }
    s = sq_jinja_substr(s, 0, (size_t)keep);
    if (!sq_jinja_bool_arg(a, 1, "killwords", 0)) {
        for (size_t k = s.n; k-- > 0;) {
            if (s.u.s[k] == ' ') {
                s.n = k;
                break;
            }
        }
    }
    return sq_jinja_binary(c, JO_ADD, s, end);
}

static jval f_escape(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval s = sq_jinja_to_str(c, v);
    sq_buf b = {0};
    for (size_t i = 0; c->st == SQ_OK && i < s.n; i++) {
        static const char from[] = "&<>'\"";
        static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
        const char *k = s.u.s[i] ? strchr(from, s.u.s[i]) : NULL;
        sq_text_put(&b, k ? to[k - from] : s.u.s + i, k ? strlen(to[k - from]) : 1);
    }
    return sq_jinja_buf_str(c, &b);
}

static jval f_wordcount(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval s = sq_jinja_to_str(c, v);
    int64_t n = 0;
    for (size_t i = 0, word = 0; c->st == SQ_OK && i < s.n;) {
        uint32_t cp;
        i += sq_utf8_get(s.u.s + i, &cp);
        n += sq_uc_word(cp) && !word;
        word = (size_t)sq_uc_word(cp);
    }
    return jv_int(n);
}

static jval f_same(jctx *c, jval v, const jargs *a) {
    (void)c, (void)a;
    return v;
}

/* A number's text: 1 whole, 2 real, 0 none. */
static int parse_number(jval s, int base, int64_t *i, double *f) {
    char b[64], *end;
    s = sq_jinja_strip(s, NULL, 1, 1);
    if (s.n == 0 || s.n >= sizeof b) {
        return 0;
    }
    memcpy(b, s.u.s, s.n);
    b[s.n] = '\0';
    errno = 0;
    *i = strtoll(b, &end, base);
    if (*end == '\0' && errno == 0) {
        *f = (double)*i;
        return 1;
    }
    *f = strtod(b, &end);
    return *end == '\0' && strchr(b, 'x') == NULL && strchr(b, 'X') == NULL ? 2 : 0;
}

static jval f_int(jctx *c, jval v, const jargs *a) {
    const jval *d = sq_jinja_arg(a, 0, "default");
    int64_t i = 0, base = sq_jinja_int_arg(c, a, 1, "base", 10);
    double f = 0;
    int kind = 0;
    if (v.type == J_STR && base >= 2 && base <= 36) {
        kind = parse_number(v, (int)base, &i, &f);
    } else if (v.type == J_INT || v.type == J_BOOL) {
        return jv_int(v.u.i);
    } else if (v.type == J_FLOAT) {
        f = v.u.f;
        kind = 2;
    }
    if (kind == 2 && f > -9.2e18 && f < 9.2e18) {
        return jv_int((int64_t)f);
    }
    return kind == 1 ? jv_int(i) : d ? *d : jv_int(0);
}

static jval f_float(jctx *c, jval v, const jargs *a) {
    (void)c;
    const jval *d = sq_jinja_arg(a, 0, "default");
    int64_t i;
    double f;
    if (sq_jinja_is_num(v)) {
        return jv_float(sq_jinja_num(v));
    }
    return v.type == J_STR && parse_number(v, 10, &i, &f) ? jv_float(f) : d ? *d : jv_float(0);
}

static jval f_abs(jctx *c, jval v, const jargs *a) {
    (void)a;
    if (!sq_jinja_is_num(v)) {
        return sq_jinja_fault(c, SQ_EFORMAT, "abs wants a number; got %s", sq_jinja_type(v));
    }
    if (v.type == J_FLOAT) {
        return jv_float(fabs(v.u.f));
    }
    return v.u.i < 0 ? sq_jinja_binary(c, JO_SUB, jv_int(0), v) : jv_int(v.u.i);
}

static jval f_round(jctx *c, jval v, const jargs *a) {
    int64_t p = sq_jinja_int_arg(c, a, 0, "precision", 0);
    const jval *m = sq_jinja_arg(a, 1, "method");
    if (!sq_jinja_is_num(v) || p < -15 || p > 15) {
        return sq_jinja_fault(c, SQ_EFORMAT, "round wants a number and a precision");
    }
    double f = sq_jinja_num(v), k = pow(10, (double)p);
    if (m != NULL && sq_jinja_is_str(*m, "ceil")) {
        return jv_float(ceil(f * k) / k);
    }
    if (m != NULL && sq_jinja_is_str(*m, "floor")) {
        return jv_float(floor(f * k) / k);
    }
    if (v.type != J_FLOAT && p >= 0) {
        return jv_int(v.u.i);
    }
    if (p > 0 && fabs(f) < 1e15) { /* correctly rounded through its decimal form */
        sq_buf b = {0};
        sq_buf_printf(&b, "%.*f", (int)p, f);
        f = b.failed ? f : strtod(b.data, NULL);
        sq_buf_free(&b);
        return jv_float(f);
    }
    return jv_float(nearbyint(f * k) / k);
}

static jval f_attr(jctx *c, jval v, const jargs *a) {
    const jval *n = sq_jinja_arg(a, 0, "name");
    if (n == NULL || n->type != J_STR) {
        return sq_jinja_fault(c, SQ_EFORMAT, "attr wants a name");
    }
    jval key = sq_jinja_copy_str(c, n->u.s, n->n);
    /* attributes only, never items: dicts and namespaces differ here */
    return c->st != SQ_OK || (v.type == J_DICT && !v.space && !sq_jinja_dict_method(key.u.s))
               ? jv_undefined("an attribute")
               : sq_jinja_getattr(c, v, key.u.s);
}

static jval f_urlencode(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval s = sq_jinja_to_str(c, v);
    sq_buf b = {0};
    for (size_t i = 0; c->st == SQ_OK && i < s.n; i++) {
        unsigned char ch = (unsigned char)s.u.s[i];
        int keep = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
                   (ch >= 'A' && ch <= 'Z') || (ch && strchr("_.-~/", ch));
        sq_buf_printf(&b, keep ? "%c" : "%%%02X", ch);
    }
    return sq_jinja_buf_str(c, &b);
}

/* %s, %d, %f, %r and %% with a width and a precision for numbers. */
jval sq_jinja_format(jctx *c, jval fmt, const jargs *a) {
    sq_buf b = {0};
    size_t next = 0;
    for (size_t i = 0; c->st == SQ_OK && i < fmt.n; i++) {
        if (fmt.u.s[i] != '%') {
            sq_text_put(&b, fmt.u.s + i, 1);
            continue;
        }
        int precision = -1;
        if (++i < fmt.n && fmt.u.s[i] == '.') {
            for (precision = 0, i++; i < fmt.n && fmt.u.s[i] >= '0' && fmt.u.s[i] <= '9'; i++) {
                precision = precision > 90 ? 99 : precision * 10 + (fmt.u.s[i] - '0');
            }
        }
        char k = i < fmt.n ? fmt.u.s[i] : 0;
        if (k == '%') {
            sq_text_put(&b, "%", 1);
            continue;
        }
        const jval *v = next < a->n ? &a->pos[next++] : NULL;
        int num = v != NULL && sq_jinja_is_num(*v);
        if (v != NULL && (k == 's' || k == 'r') && precision < 0) {
            sq_jinja_print(c, &b, *v, k == 'r', 0);
        } else if (num && k == 'd' && precision < 0 && fabs(sq_jinja_num(*v)) < 9e18) {
            sq_buf_printf(&b, "%lld", (long long)(v->type == J_FLOAT ? (int64_t)v->u.f : v->u.i));
        } else if (num && k == 'f' && precision < 99) {
            sq_buf_printf(&b, "%.*f", precision < 0 ? 6 : precision, sq_jinja_num(*v));
        } else {
            sq_jinja_fault(c, SQ_EUNSUPPORTED, "formatting with %%%c is not supported here",
                           k ? k : ' ');
        }
    }
    return sq_jinja_buf_str(c, &b);
}

static jval f_format(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_format(c, s, a) : s;
}

jmethod sq_jinja_filter(const char *name) {
    static const struct {
        const char *name;
        jmethod fn;
    } rows[] = {{"default", f_default},       {"d", f_default},
                {"string", f_string},         {"trim", f_trim},
                {"upper", f_upper},           {"lower", f_lower},
                {"capitalize", f_capitalize}, {"title", f_title},
                {"replace", f_replace},       {"center", f_center},
                {"indent", f_indent},         {"truncate", f_truncate},
                {"escape", f_escape},         {"e", f_escape},
                {"forceescape", f_escape},    {"safe", f_same},
                {"wordcount", f_wordcount},   {"int", f_int},
                {"float", f_float},           {"abs", f_abs},
                {"round", f_round},           {"attr", f_attr},
                {"urlencode", f_urlencode},   {"format", f_format},
                {"tojson", sq_jinja_tojson}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].fn;
        }
    }
    return sq_jinja_list_filter(name);
}

/* ---- tests ---- */

static jval arg0(const jargs *a) { return a->n > 0 ? a->pos[0] : jv_none(); }

#define TYPE_TEST(fn, expr)                                                                        \
    static jval fn(jctx *c, jval v, const jargs *a) {                                              \
        (void)c, (void)v, (void)a;                                                                 \
        return jv_bool(expr);                                                                      \
    }
TYPE_TEST(t_defined, v.type != J_UNDEFINED)
TYPE_TEST(t_undefined, v.type == J_UNDEFINED)
TYPE_TEST(t_none, v.type == J_NONE)
TYPE_TEST(t_boolean, v.type == J_BOOL)
TYPE_TEST(t_true, v.type == J_BOOL && v.u.i)
TYPE_TEST(t_false, v.type == J_BOOL && !v.u.i)
TYPE_TEST(t_integer, v.type == J_INT)
TYPE_TEST(t_float, v.type == J_FLOAT)
TYPE_TEST(t_number, sq_jinja_is_num(v))
TYPE_TEST(t_string, v.type == J_STR)
TYPE_TEST(t_mapping, v.type == J_DICT && !v.space)
TYPE_TEST(t_sequence, v.type == J_STR || v.type == J_LIST || v.type == J_UNDEFINED ||
                          (v.type == J_DICT && !v.space))
TYPE_TEST(t_iterable, v.type == J_STR || v.type == J_LIST || v.type == J_LOOP ||
                          v.type == J_UNDEFINED || (v.type == J_DICT && !v.space))
TYPE_TEST(t_callable,
          v.type == J_FUNC || (v.type == J_LOOP && v.u.loop->node) || v.type == J_UNDEFINED)
TYPE_TEST(t_escaped, 0)
TYPE_TEST(t_sameas, sq_jinja_same(v, arg0(a)))
TYPE_TEST(t_eq, sq_jinja_equal(v, arg0(a), 0))
TYPE_TEST(t_ne, !sq_jinja_equal(v, arg0(a), 0))
TYPE_TEST(t_in, sq_jinja_contains(c, arg0(a), v))
TYPE_TEST(t_filter, v.type == J_STR && sq_jinja_filter(v.u.s) != NULL)
TYPE_TEST(t_test, v.type == J_STR && sq_jinja_test(v.u.s) != NULL)
TYPE_TEST(t_gt, sq_jinja_order(c, v, arg0(a)) > 0)
TYPE_TEST(t_ge, sq_jinja_order(c, v, arg0(a)) >= 0)
TYPE_TEST(t_lt, sq_jinja_order(c, v, arg0(a)) < 0)
TYPE_TEST(t_le, sq_jinja_order(c, v, arg0(a)) <= 0)

/* v % by == want, by default 2. */
static jval divides(jctx *c, jval v, jval by, int64_t want) {
    jval r = sq_jinja_binary(c, JO_MOD, v, by);
    return jv_bool(c->st == SQ_OK && sq_jinja_equal(r, jv_int(want), 0));
}
static jval t_odd(jctx *c, jval v, const jargs *a) {
    (void)a;
    return divides(c, v, jv_int(2), 1);
}
static jval t_even(jctx *c, jval v, const jargs *a) {
    (void)a;
    return divides(c, v, jv_int(2), 0);
}
static jval t_divisible(jctx *c, jval v, const jargs *a) { return divides(c, v, arg0(a), 0); }

static jval t_lower(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_str_method("islower")(c, s, a) : s;
}
static jval t_upper(jctx *c, jval v, const jargs *a) {
    jval s = sq_jinja_to_str(c, v);
    return c->st == SQ_OK ? sq_jinja_str_method("isupper")(c, s, a) : s;
}

jmethod sq_jinja_test(const char *name) {
    static const struct {
        const char *name;
        jmethod fn;
    } rows[] = {{"defined", t_defined},
                {"undefined", t_undefined},
                {"none", t_none},
                {"boolean", t_boolean},
                {"true", t_true},
                {"false", t_false},
                {"integer", t_integer},
                {"float", t_float},
                {"number", t_number},
                {"string", t_string},
                {"mapping", t_mapping},
                {"sequence", t_sequence},
                {"iterable", t_iterable},
                {"callable", t_callable},
                {"escaped", t_escaped},
                {"sameas", t_sameas},
                {"eq", t_eq},
                {"equalto", t_eq},
                {"ne", t_ne},
                {"in", t_in},
                {"filter", t_filter},
                {"test", t_test},
                {"gt", t_gt},
                {"greaterthan", t_gt},
                {"ge", t_ge},
                {"lt", t_lt},
                {"lessthan", t_lt},
                {"le", t_le},
                {"odd", t_odd},
                {"even", t_even},
                {"divisibleby", t_divisible},
                {"lower", t_lower},
                {"upper", t_upper}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].fn;
        }
    }
    return NULL;
}
