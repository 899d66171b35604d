/* Methods of strings, dicts and lists, and the global functions. Methods that change their object
 * are missing on purpose, as in the immutable sandbox. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "text/jinja.h"
#include "text/utf8.h"

const jval *sq_jinja_arg(const jargs *a, size_t at, const char *name) {
    for (size_t i = 0; i < a->n_kw; i++) {
        if (strcmp(a->key[i], name) == 0) {
            return &a->kw[i];
        }
    }
    return at < a->n ? &a->pos[at] : NULL;
}

int64_t sq_jinja_int_arg(jctx *c, const jargs *a, size_t at, const char *name, int64_t dflt) {
    const jval *v = sq_jinja_arg(a, at, name);
    if (v == NULL || v->type == J_NONE) {
        return dflt;
    }
    if (v->type != J_INT && v->type != J_BOOL) {
        sq_jinja_fault(c, SQ_EFORMAT, "argument '%s' is %s; wanted a whole number", name,
                       sq_jinja_type(*v));
        return dflt;
    }
    return v->u.i;
}

int sq_jinja_bool_arg(const jargs *a, size_t at, const char *name, int dflt) {
    const jval *v = sq_jinja_arg(a, at, name);
    return v == NULL ? dflt : sq_jinja_truth(*v);
}

/* A string argument; sets the error when it is missing or of another type. */
static jval need_str(jctx *c, const jargs *a, size_t at, const char *name) {
    const jval *v = sq_jinja_arg(a, at, name);
    if (v != NULL && v->type == J_STR) {
        return *v;
    }
    sq_jinja_fault(c, SQ_EFORMAT, "argument '%s' is %s; wanted a string", name,
                   v ? sq_jinja_type(*v) : "missing");
    return jv_str("", 0);
}

static const char *find(jval s, jval what) {
    if (what.n == 0) {
        return s.u.s;
    }
    return s.n == 0 ? NULL : memmem(s.u.s, s.n, what.u.s, what.n);
}

static jval tail(jval s, size_t from) { return jv_str(s.u.s + from, s.n - from); }

/* ---- strings ---- */

static int in_set(uint32_t cp, const jval *chars) {
    if (chars == NULL || chars->type != J_STR) {
        return sq_jinja_pyspace(cp);
    }
    for (size_t i = 0; i < chars->n;) {
        uint32_t x;
        i += sq_utf8_get(chars->u.s + i, &x);
        if (x == cp) {
            return 1;
        }
    }
    return 0;
}

jval sq_jinja_strip(jval s, const jval *chars, int left, int right) {
    size_t a = 0, b = s.n;
    uint32_t cp;
    while (left && a < b) {
        size_t k = sq_utf8_get(s.u.s + a, &cp);
        if (!in_set(cp, chars)) {
            break;
        }
        a += k;
    }
    while (right && b > a) {
        size_t k = sq_utf8_back(s.u.s, b);
        sq_utf8_get(s.u.s + k, &cp);
        if (!in_set(cp, chars)) {
            break;
        }
        b = k;
    }
    return jv_str(s.u.s + a, b - a);
}

static jval m_strip(jctx *c, jval s, const jargs *a) {
    (void)c;
    return sq_jinja_strip(s, sq_jinja_arg(a, 0, "chars"), 1, 1);
}
static jval m_lstrip(jctx *c, jval s, const jargs *a) {
    (void)c;
    return sq_jinja_strip(s, sq_jinja_arg(a, 0, "chars"), 1, 0);
}
static jval m_rstrip(jctx *c, jval s, const jargs *a) {
    (void)c;
    return sq_jinja_strip(s, sq_jinja_arg(a, 0, "chars"), 0, 1);
}

static jval split_spaces(jctx *c, jval s, int64_t max) {
    jval out = sq_jinja_new_list(c, 0);
    while (c->st == SQ_OK) {
        s = sq_jinja_strip(s, NULL, 1, 0);
        if (s.n == 0) {
            break;
        }
        size_t k = 0;
        while (k < s.n && max != 0) {
            uint32_t cp;
            size_t w = sq_utf8_get(s.u.s + k, &cp);
            if (sq_jinja_pyspace(cp)) {
                break;
            }
            k += w;
        }
        if (max == 0) {
            sq_jinja_append(c, out, sq_jinja_strip(s, NULL, 0, 1));
            break;
        }
        max -= max > 0;
        sq_jinja_append(c, out, jv_str(s.u.s, k));
        s = tail(s, k);
    }
    return out;
}

static jval m_split(jctx *c, jval s, const jargs *a) {
    const jval *sep = sq_jinja_arg(a, 0, "sep");
    int64_t max = sq_jinja_int_arg(c, a, 1, "maxsplit", -1);
    if (sep == NULL || sep->type == J_NONE) {
        return split_spaces(c, s, max);
    }
    if (sep->type != J_STR || sep->n == 0) {
        return sq_jinja_fault(c, SQ_EFORMAT, "split wants a separator that is not empty");
    }
    jval out = sq_jinja_new_list(c, 0);
    const char *hit;
    while (c->st == SQ_OK && max != 0 && (hit = find(s, *sep)) != NULL) {
        size_t k = (size_t)(hit - s.u.s);
        sq_jinja_append(c, out, jv_str(s.u.s, k));
        s = tail(s, k + sep->n);
        max -= max > 0;
    }
    sq_jinja_append(c, out, s);
    return out;
}

/* The last place of `what`, or n+1 bytes. */
static size_t rfind(jval s, jval what) {
    for (size_t k = s.n < what.n ? 0 : s.n - what.n + 1; k-- > 0;) {
        if (what.n == 0 || memcmp(s.u.s + k, what.u.s, what.n) == 0) {
            return k;
        }
    }
    return s.n + 1;
}

static jval m_rsplit(jctx *c, jval s, const jargs *a) {
    const jval *sep = sq_jinja_arg(a, 0, "sep");
    int64_t max = sq_jinja_int_arg(c, a, 1, "maxsplit", -1);
    if (sep == NULL || sep->type != J_STR || sep->n == 0 || max < 0) {
        if (max >= 0) {
            return sq_jinja_fault(c, SQ_EUNSUPPORTED, "rsplit at spaces with a limit");
        }
        return m_split(c, s, a);
    }
    jval back = sq_jinja_new_list(c, 0), out = sq_jinja_new_list(c, 0);
    for (; c->st == SQ_OK && max > 0; max--) {
        size_t k = rfind(s, *sep);
        if (k > s.n) {
            break;
        }
        sq_jinja_append(c, back, tail(s, k + sep->n));
        s.n = k;
    }
    sq_jinja_append(c, out, s);
    for (size_t i = c->st == SQ_OK ? back.u.l->n : 0; i-- > 0;) {
        sq_jinja_append(c, out, back.u.l->v[i]);
    }
    return out;
}

static jval m_splitlines(jctx *c, jval s, const jargs *a) {
    int keep = sq_jinja_bool_arg(a, 0, "keepends", 0);
    jval out = sq_jinja_new_list(c, 0);
    size_t start = 0;
    for (size_t i = 0; c->st == SQ_OK && i < s.n;) {
        uint32_t cp;
        size_t k = sq_utf8_get(s.u.s + i, &cp);
        int nl = (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                 cp == 0x2028 || cp == 0x2029;
        size_t end = i;
        i += k;
        if (nl) {
            i += cp == '\r' && i < s.n && s.u.s[i] == '\n';
            sq_jinja_append(c, out, jv_str(s.u.s + start, (keep ? i : end) - start));
            start = i;
        }
    }
    if (start < s.n) {
        sq_jinja_append(c, out, tail(s, start));
    }
    return out;
}

static int has_affix(jval s, jval x, int end) {
    return x.type == J_STR && x.n <= s.n &&
           (x.n == 0 || memcmp(s.u.s + (end ? s.n - x.n : 0), x.u.s, x.n) == 0);
}

static jval affix(jctx *c, jval s, const jargs *a, int end) {
    const jval *x = sq_jinja_arg(a, 0, "prefix");
    int hit = 0;
    if (x == NULL || a->n > 1 || (x->type != J_STR && x->type != J_LIST)) {
        return sq_jinja_fault(c, SQ_EFORMAT, "startswith and endswith want one string or a tuple");
    }
    for (size_t i = 0; x->type == J_LIST && i < x->u.l->n; i++) {
        hit |= has_affix(s, x->u.l->v[i], end);
    }
    return jv_bool(hit || has_affix(s, *x, end));
}
static jval m_startswith(jctx *c, jval s, const jargs *a) { return affix(c, s, a, 0); }
static jval m_endswith(jctx *c, jval s, const jargs *a) { return affix(c, s, a, 1); }

static jval m_removeprefix(jctx *c, jval s, const jargs *a) {
    jval x = need_str(c, a, 0, "prefix");
    return has_affix(s, x, 0) ? tail(s, x.n) : s;
}
static jval m_removesuffix(jctx *c, jval s, const jargs *a) {
    jval x = need_str(c, a, 0, "suffix");
    return has_affix(s, x, 1) ? jv_str(s.u.s, s.n - x.n) : s;
}

jval sq_jinja_replace(jctx *c, jval s, const jargs *a) {
    jval from = need_str(c, a, 0, "old"), to = need_str(c, a, 1, "new");
    int64_t max = sq_jinja_int_arg(c, a, 2, "count", -1);
    sq_buf b = {0};
    size_t i = 0;
    while (c->st == SQ_OK && max != 0 && i <= s.n && sq_jinja_step(c, 1)) {
        const char *hit = find(tail(s, i), from);
        if (hit == NULL) {
            break;
        }
        size_t k = (size_t)(hit - s.u.s);
        sq_text_put(&b, s.u.s + i, k - i);
        sq_text_put(&b, to.u.s, to.n);
        i = k + from.n;
        if (from.n == 0) { /* between all characters */
            if (i >= s.n) {
                i = s.n + 1;
                break;
            }
            size_t w = sq_utf8_len(s.u.s[i]);
            sq_text_put(&b, s.u.s + i, w);
            i += w;
        }
        max -= max > 0;
    }
    if (i < s.n) {
        sq_text_put(&b, s.u.s + i, s.n - i);
    }
    return sq_jinja_buf_str(c, &b);
}

static void put_upper(sq_buf *b, uint32_t cp) {
    char u[4];
    if (cp == 0xdf) {
        sq_buf_puts(b, "SS");
        return;
    }
    sq_text_put(b, u, sq_utf8_put(u, (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp)));
}

static int cased(uint32_t cp) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

jval sq_jinja_case(jctx *c, jval s, int how) {
    sq_buf b = {0};
    int before = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        i += sq_utf8_get(s.u.s + i, &cp);
        int first = i == sq_utf8_len(s.u.s[0]);
        int up = how == 'u' || (how == 'c' && first) || (how == 't' && !before) ||
                 (how == 's' && utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LL);
        if (up) {
            put_upper(&b, cp);
        } else {
            sq_uc_lower(&b, cp);
        }
        before = cased(cp);
    }
    return sq_jinja_buf_str(c, &b);
}

static jval m_upper(jctx *c, jval s, const jargs *a) {
    (void)a;
    return sq_jinja_case(c, s, 'u');
}
static jval m_lower(jctx *c, jval s, const jargs *a) {
    (void)a;
    return sq_jinja_case(c, s, 'l');
}
static jval m_title(jctx *c, jval s, const jargs *a) {
    (void)a;
    return sq_jinja_case(c, s, 't');
}
static jval m_capitalize(jctx *c, jval s, const jargs *a) {
    (void)a;
    return sq_jinja_case(c, s, 'c');
}
static jval m_swapcase(jctx *c, jval s, const jargs *a) {
    (void)a;
    return sq_jinja_case(c, s, 's');
}

static jval m_find(jctx *c, jval s, const jargs *a) {
    const char *hit = find(s, need_str(c, a, 0, "sub"));
    return jv_int(hit ? (int64_t)sq_jinja_chars(jv_str(s.u.s, (size_t)(hit - s.u.s))) : -1);
}
static jval m_rfind(jctx *c, jval s, const jargs *a) {
    size_t k = rfind(s, need_str(c, a, 0, "sub"));
    return jv_int(k <= s.n ? (int64_t)sq_jinja_chars(jv_str(s.u.s, k)) : -1);
}
static jval m_index(jctx *c, jval s, const jargs *a) {
    jval v = m_find(c, s, a);
    return v.u.i >= 0 ? v : sq_jinja_fault(c, SQ_EFORMAT, "index: substring not found");
}
static jval m_count(jctx *c, jval s, const jargs *a) {
    jval x = need_str(c, a, 0, "sub");
    int64_t n = 0;
    if (x.n == 0) {
        return jv_int((int64_t)sq_jinja_chars(s) + 1);
    }
    for (const char *hit; (hit = find(s, x)) != NULL; n++) {
        s = tail(s, (size_t)(hit - s.u.s) + x.n);
    }
    return jv_int(n);
}

static jval m_join(jctx *c, jval s, const jargs *a) {
    const jval *x = sq_jinja_arg(a, 0, "iterable");
    jval items = sq_jinja_iterate(c, x ? *x : jv_none());
    sq_buf b = {0};
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        jval v = items.u.l->v[i];
        if (v.type != J_STR) {
            sq_jinja_fault(c, SQ_EFORMAT, "join: item %zu is %s; wanted a string", i,
                           sq_jinja_type(v));
        } else {
            sq_text_put(&b, s.u.s, i ? s.n : 0);
            sq_text_put(&b, v.u.s, v.n);
        }
    }
    return sq_jinja_buf_str(c, &b);
}

typedef int (*char_test)(uint32_t cp);
static int is_alpha(uint32_t cp) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
static int is_digit(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}
static int is_alnum(uint32_t cp) { return is_alpha(cp) || sq_uc_number(cp); }

static jval all_chars(jval s, char_test fn) {
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        i += sq_utf8_get(s.u.s + i, &cp);
        if (!fn(cp)) {
            return jv_bool(0);
        }
    }
    return jv_bool(s.n > 0);
}
static jval m_isalpha(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return all_chars(s, is_alpha);
}
static jval m_isdigit(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return all_chars(s, is_digit);
}
static jval m_isnumeric(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return all_chars(s, sq_uc_number);
}
static jval m_isalnum(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return all_chars(s, is_alnum);
}
static jval m_isspace(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return all_chars(s, sq_jinja_pyspace);
}

static jval one_case(jval s, utf8proc_category_t want) {
    int any = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        i += sq_utf8_get(s.u.s + i, &cp);
        if (cased(cp) && utf8proc_category((utf8proc_int32_t)cp) != want) {
            return jv_bool(0);
        }
        any |= cased(cp);
    }
    return jv_bool(any);
}
static jval m_isupper(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return one_case(s, UTF8PROC_CATEGORY_LU);
}
static jval m_islower(jctx *c, jval s, const jargs *a) {
    (void)c, (void)a;
    return one_case(s, UTF8PROC_CATEGORY_LL);
}

/* ljust 0, rjust 1, center 2 */
static jval pad(jctx *c, jval s, const jargs *a, int how) {
    int64_t width = sq_jinja_int_arg(c, a, 0, "width", 0), n = (int64_t)sq_jinja_chars(s);
    const jval *fill = sq_jinja_arg(a, 1, "fillchar");
    jval f = fill && fill->type == J_STR && fill->n ? *fill : jv_str(" ", 1);
    if (width <= n) {
        return s;
    }
    int64_t more = width - n;
    int64_t left = how == 0 ? 0 : how == 1 ? more : more / 2 + (more & width & 1);
    jval x = sq_jinja_binary(c, JO_MUL, f, jv_int(left));
    jval y = sq_jinja_binary(c, JO_MUL, f, jv_int(more - left));
    x = c->st == SQ_OK ? sq_jinja_binary(c, JO_ADD, x, s) : s;
    return c->st == SQ_OK ? sq_jinja_binary(c, JO_ADD, x, y) : s;
}
static jval m_ljust(jctx *c, jval s, const jargs *a) { return pad(c, s, a, 0); }
static jval m_rjust(jctx *c, jval s, const jargs *a) { return pad(c, s, a, 1); }
static jval m_center(jctx *c, jval s, const jargs *a) { return pad(c, s, a, 2); }

static jval m_partition(jctx *c, jval s, const jargs *a) {
    jval sep = need_str(c, a, 0, "sep"), out = sq_jinja_new_list(c, 3);
    const char *hit = find(s, sep);
    size_t k = hit ? (size_t)(hit - s.u.s) : s.n;
    if (c->st == SQ_OK) {
        out.tuple = 1;
        sq_jinja_append(c, out, jv_str(s.u.s, k));
        sq_jinja_append(c, out, hit ? sep : jv_str("", 0));
        sq_jinja_append(c, out, hit ? tail(s, k + sep.n) : jv_str("", 0));
    }
    return out;
}

/* "{}" and "{0}" and "{name}" without format specifications. */
static jval m_format(jctx *c, jval s, const jargs *a) {
    sq_buf b = {0};
    size_t next = 0;
    for (size_t i = 0; c->st == SQ_OK && i < s.n; i++) {
        char ch = s.u.s[i], nx = i + 1 < s.n ? s.u.s[i + 1] : 0;
        if ((ch == '{' || ch == '}') && nx == ch) {
            sq_text_put(&b, &ch, 1);
            i++;
            continue;
        }
        if (ch != '{') {
            sq_text_put(&b, &ch, 1);
            continue;
        }
        const char *end = memchr(s.u.s + i, '}', s.n - i);
        size_t n = end ? (size_t)(end - s.u.s) - i - 1 : 0;
        char key[64] = "";
        if (end == NULL || n >= sizeof key || memchr(s.u.s + i + 1, ':', n)) {
            sq_jinja_fault(c, SQ_EUNSUPPORTED, "format: this specification is not supported");
            break;
        }
        memcpy(key, s.u.s + i + 1, n);
        key[n] = '\0';
        char *stop;
        size_t at = n == 0 ? next++ : strtoul(key, &stop, 10);
        const jval *v = n == 0 || *stop == '\0' ? (at < a->n ? &a->pos[at] : NULL)
                                                : sq_jinja_arg(a, SIZE_MAX, key);
        if (v == NULL) {
            sq_jinja_fault(c, SQ_EFORMAT, "format: no argument '%s'", key);
        } else {
            sq_jinja_print(c, &b, *v, 0, 0);
        }
        i += n + 1;
    }
    return sq_jinja_buf_str(c, &b);
}

/* ---- dicts and lists ---- */

static jval m_get(jctx *c, jval d, const jargs *a) {
    const jval *k = sq_jinja_arg(a, 0, "key"), *dflt = sq_jinja_arg(a, 1, "default");
    const jval *v = k ? sq_jinja_dict_get(d.u.d, *k) : NULL;
    if (k == NULL) {
        return sq_jinja_fault(c, SQ_EFORMAT, "get wants a key");
    }
    return v ? *v : dflt ? *dflt : jv_none();
}
static jval m_keys(jctx *c, jval d, const jargs *a) {
    (void)a;
    return sq_jinja_iterate(c, d);
}
static jval m_values(jctx *c, jval d, const jargs *a) {
    (void)a;
    jval out = sq_jinja_new_list(c, d.u.d->n);
    for (size_t i = 0; c->st == SQ_OK && i < d.u.d->n; i++) {
        sq_jinja_append(c, out, d.u.d->v[i]);
    }
    return out;
}
static jval m_items(jctx *c, jval d, const jargs *a) {
    (void)a;
    jval out = sq_jinja_new_list(c, d.u.d->n);
    for (size_t i = 0; c->st == SQ_OK && i < d.u.d->n; i++) {
        jval two = sq_jinja_new_list(c, 2);
        two.tuple = 1;
        sq_jinja_append(c, two, d.u.d->k[i]);
        sq_jinja_append(c, two, d.u.d->v[i]);
        sq_jinja_append(c, out, two);
    }
    return out;
}
static jval m_copy(jctx *c, jval d, const jargs *a) {
    (void)a;
    jval out = d.type == J_DICT ? sq_jinja_new_dict(c) : sq_jinja_new_list(c, d.u.l->n);
    for (size_t i = 0; d.type == J_DICT && c->st == SQ_OK && i < d.u.d->n; i++) {
        sq_jinja_dict_set(c, out, d.u.d->k[i], d.u.d->v[i]);
    }
    for (size_t i = 0; d.type == J_LIST && c->st == SQ_OK && i < d.u.l->n; i++) {
        sq_jinja_append(c, out, d.u.l->v[i]);
    }
    return out;
}
static jval refuse(jctx *c, jval v, const jargs *a) {
    (void)a;
    return sq_jinja_fault(c, SQ_EFORMAT, "methods that change a %s are not allowed",
                          sq_jinja_type(v));
}
static jval m_list_index(jctx *c, jval l, const jargs *a) {
    const jval *x = sq_jinja_arg(a, 0, "value");
    for (size_t i = 0; x != NULL && i < l.u.l->n; i++) {
        if (sq_jinja_equal(l.u.l->v[i], *x, 0)) {
            return jv_int((int64_t)i);
        }
    }
    return sq_jinja_fault(c, SQ_EFORMAT, "index: the value is not in the list");
}
static jval m_list_count(jctx *c, jval l, const jargs *a) {
    const jval *x = sq_jinja_arg(a, 0, "value");
    int64_t n = 0;
    (void)c;
    for (size_t i = 0; x != NULL && i < l.u.l->n; i++) {
        n += sq_jinja_equal(l.u.l->v[i], *x, 0);
    }
    return jv_int(n);
}

/* ---- globals ---- */

static jval g_range(jctx *c, jval self, const jargs *a) {
    (void)self;
    int64_t from = a->n > 1 ? sq_jinja_int_arg(c, a, 0, "start", 0) : 0;
    int64_t to = sq_jinja_int_arg(c, a, a->n > 1 ? 1 : 0, "stop", 0);
    int64_t by = sq_jinja_int_arg(c, a, 2, "step", 1);
    jval out = sq_jinja_new_list(c, 0);
    if (by == 0 || a->n == 0) {
        return sq_jinja_fault(c, SQ_EFORMAT, "range wants a bound, and a step that is not zero");
    }
    for (int64_t n = 0; c->st == SQ_OK && (by > 0 ? from < to : from > to); n++) {
        if (n >= 100000) { /* as the sandbox's MAX_RANGE */
            return sq_jinja_fault(c, SQ_EFORMAT, "range is too large; wanted at most 100000");
        }
        sq_jinja_append(c, out, jv_int(from));
        if (__builtin_add_overflow(from, by, &from)) {
            break;
        }
    }
    return out;
}

static jval g_dict(jctx *c, jval self, const jargs *a) {
    (void)self;
    jval out = sq_jinja_new_dict(c);
    if (a->n > 0 && a->pos[0].type == J_DICT) {
        out = m_copy(c, a->pos[0], a);
    } else if (a->n > 0) {
        jval items = sq_jinja_iterate(c, a->pos[0]);
        for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
            jval two = sq_jinja_iterate(c, items.u.l->v[i]);
            if (c->st == SQ_OK && two.u.l->n == 2) {
                sq_jinja_dict_set(c, out, two.u.l->v[0], two.u.l->v[1]);
            } else {
                sq_jinja_fault(c, SQ_EFORMAT, "dict wants pairs");
            }
        }
    }
    for (size_t i = 0; c->st == SQ_OK && i < a->n_kw; i++) {
        sq_jinja_dict_set(c, out, jv_str(a->key[i], strlen(a->key[i])), a->kw[i]);
    }
    return out;
}

static jval g_namespace(jctx *c, jval self, const jargs *a) {
    jval out = g_dict(c, self, a);
    out.space = 1;
    return out;
}

static jval g_raise(jctx *c, jval self, const jargs *a) {
    (void)self;
    jval s = sq_jinja_to_str(c, a->n ? a->pos[0] : jv_str("", 0));
    return c->st != SQ_OK ? s
                          : sq_jinja_fault(c, SQ_EARG, "%.*s", (int)(s.n < 300 ? s.n : 300), s.u.s);
}

static jval g_strftime(jctx *c, jval self, const jargs *a) {
    (void)self;
    jval f = need_str(c, a, 0, "format");
    time_t now = c->fixed_now ? (time_t)c->now : time(NULL);
    struct tm tm;
    char out[1024];
    if (c->st != SQ_OK || f.n > 200 || strlen(f.u.s) < f.n) {
        return sq_jinja_fault(c, SQ_EFORMAT, "strftime_now: the format is too long");
    }
    char fmt[256];
    memcpy(fmt, f.u.s, f.n);
    fmt[f.n] = '\0';
    if ((c->fixed_now ? gmtime_r(&now, &tm) : localtime_r(&now, &tm)) == NULL) {
        return sq_jinja_fault(c, SQ_EFORMAT, "strftime_now: the time is out of range");
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(out, sizeof out, fmt, &tm);
#pragma GCC diagnostic pop
    return sq_jinja_copy_str(c, out, n);
}

typedef struct row {
    const char *name;
    jmethod fn;
} row;

static jmethod look_up(const row *rows, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].fn;
        }
    }
    return NULL;
}

jmethod sq_jinja_str_method(const char *name) {
    static const row rows[] = {{"strip", m_strip},
                               {"lstrip", m_lstrip},
                               {"rstrip", m_rstrip},
                               {"split", m_split},
                               {"rsplit", m_rsplit},
                               {"splitlines", m_splitlines},
                               {"startswith", m_startswith},
                               {"endswith", m_endswith},
                               {"removeprefix", m_removeprefix},
                               {"removesuffix", m_removesuffix},
                               {"replace", sq_jinja_replace},
                               {"upper", m_upper},
                               {"lower", m_lower},
                               {"casefold", m_lower},
                               {"title", m_title},
                               {"capitalize", m_capitalize},
                               {"swapcase", m_swapcase},
                               {"find", m_find},
                               {"rfind", m_rfind},
                               {"index", m_index},
                               {"count", m_count},
                               {"join", m_join},
                               {"isalpha", m_isalpha},
                               {"isdigit", m_isdigit},
                               {"isdecimal", m_isdigit},
                               {"isnumeric", m_isnumeric},
                               {"isalnum", m_isalnum},
                               {"isspace", m_isspace},
                               {"isupper", m_isupper},
                               {"islower", m_islower},
                               {"ljust", m_ljust},
                               {"rjust", m_rjust},
                               {"center", m_center},
                               {"partition", m_partition},
                               {"format", m_format}};
    return look_up(rows, sizeof rows / sizeof *rows, name);
}

jmethod sq_jinja_dict_method(const char *name) {
    static const row rows[] = {{"get", m_get},     {"keys", m_keys},       {"values", m_values},
                               {"items", m_items}, {"copy", m_copy},       {"pop", refuse},
                               {"update", refuse}, {"setdefault", refuse}, {"clear", refuse},
                               {"popitem", refuse}};
    return look_up(rows, sizeof rows / sizeof *rows, name);
}

jmethod sq_jinja_list_method(const char *name) {
    static const row rows[] = {{"index", m_list_index}, {"count", m_list_count}, {"copy", m_copy},
                               {"append", refuse},      {"extend", refuse},      {"insert", refuse},
                               {"pop", refuse},         {"remove", refuse},      {"sort", refuse},
                               {"reverse", refuse},     {"clear", refuse}};
    return look_up(rows, sizeof rows / sizeof *rows, name);
}

jmethod sq_jinja_global(const char *name) {
    static const row rows[] = {{"range", g_range},
                               {"dict", g_dict},
                               {"namespace", g_namespace},
                               {"raise_exception", g_raise},
                               {"strftime_now", g_strftime}};
    return look_up(rows, sizeof rows / sizeof *rows, name);
}
