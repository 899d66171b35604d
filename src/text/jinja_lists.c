/* Filters over sequences: map, select, join, sort and their kin. */
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

static int list_of(jctx *c, jval v, jval *out) {
    *out = sq_jinja_iterate(c, v);
    return c->st == SQ_OK;
}

/* An attribute path such as "a.b.0", or a whole number. */
static jval attribute(jctx *c, jval v, jval path) {
    if (path.type != J_STR) {
        return sq_jinja_getitem(c, v, path);
    }
    size_t i = 0;
    while (c->st == SQ_OK && i <= path.n) {
        const char *dot = memchr(path.u.s + i, '.', path.n - i);
        size_t n = (dot ? (size_t)(dot - path.u.s) : path.n) - i;
        jval key = sq_jinja_copy_str(c, path.u.s + i, n);
        int64_t num = 0;
        size_t k = 0;
        for (; c->st == SQ_OK && k < n && n < 10 && key.u.s[k] >= '0' && key.u.s[k] <= '9'; k++) {
            num = num * 10 + (key.u.s[k] - '0');
        }
        if (c->st == SQ_OK) {
            v = sq_jinja_getitem(c, v, k == n && n > 0 ? jv_int(num) : key);
        }
        i += n + 1;
    }
    return v;
}

static jval f_join(jctx *c, jval v, const jargs *a) {
    const jval *sep = sq_jinja_arg(a, 0, "d"), *attr = sq_jinja_arg(a, 1, "attribute");
    jval items, s = sep ? sq_jinja_to_str(c, *sep) : jv_str("", 0);
    sq_buf b = {0};
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        jval x = attr ? attribute(c, items.u.l->v[i], *attr) : items.u.l->v[i];
        sq_text_put(&b, s.u.s, i ? s.n : 0);
        if (c->st == SQ_OK) {
            sq_jinja_print(c, &b, x, 0, 0);
        }
    }
    return sq_jinja_buf_str(c, &b);
}

static jval f_first(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval l;
    return list_of(c, v, &l) && l.u.l->n ? l.u.l->v[0] : jv_undefined("the first item of nothing");
}

static jval f_last(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval l;
    return list_of(c, v, &l) && l.u.l->n ? l.u.l->v[l.u.l->n - 1]
                                         : jv_undefined("the last item of nothing");
}

static jval f_list(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval items, out = sq_jinja_new_list(c, 0);
    if (list_of(c, v, &items)) {
        for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
            sq_jinja_append(c, out, items.u.l->v[i]);
        }
    }
    return out;
}

static jval f_length(jctx *c, jval v, const jargs *a) {
    (void)a;
    switch (v.type) {
    case J_STR:
        return jv_int((int64_t)sq_jinja_chars(v));
    case J_LIST:
        return jv_int((int64_t)v.u.l->n);
    case J_DICT:
        return jv_int((int64_t)v.u.d->n);
    case J_UNDEFINED:
        return jv_int(0);
    default:
        return sq_jinja_fault(c, SQ_EFORMAT, "%s has no length", sq_jinja_type(v));
    }
}

static jval f_reverse(jctx *c, jval v, const jargs *a) {
    (void)a;
    jval items, out = sq_jinja_new_list(c, 0);
    sq_buf b = {0};
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = items.u.l->n; c->st == SQ_OK && i-- > 0;) {
        jval x = items.u.l->v[i];
        if (v.type == J_STR) {
            sq_text_put(&b, x.u.s, x.n);
        } else {
            sq_jinja_append(c, out, x);
        }
    }
    jval s = sq_jinja_buf_str(c, &b);
    return v.type == J_STR ? s : out;
}

/* The arguments after the first k. */
static jargs after(const jargs *a, size_t k) {
    jargs b = *a;
    b.pos += k;
    b.n -= k;
    return b;
}

static jval f_map(jctx *c, jval v, const jargs *a) {
    const jval *attr = a->n == 0 ? sq_jinja_arg(a, 1, "attribute") : NULL;
    const jval *dflt = sq_jinja_arg(a, 99, "default");
    jval items, out = sq_jinja_new_list(c, 0);
    jmethod fn = NULL;
    if (attr == NULL) {
        jval name = a->n > 0 ? sq_jinja_to_str(c, a->pos[0]) : jv_str("", 0);
        name = sq_jinja_copy_str(c, name.u.s, name.n);
        fn = c->st == SQ_OK ? sq_jinja_filter(name.u.s) : NULL;
        if (fn == NULL) {
            return sq_jinja_fault(c, SQ_EUNSUPPORTED, "map: filter '%s' is not supported",
                                  c->st == SQ_OK ? name.u.s : "");
        }
    }
    jargs rest = a->n > 0 ? after(a, 1) : (jargs){0};
    for (size_t i = 0; list_of(c, v, &items) && i < items.u.l->n && sq_jinja_step(c, 1); i++) {
        jval x = items.u.l->v[i];
        x = attr ? attribute(c, x, *attr) : fn(c, x, &rest);
        sq_jinja_append(c, out, x.type == J_UNDEFINED && attr && dflt ? *dflt : x);
        if (i == 0) {
            v = items;
        }
    }
    return out;
}

/* select, reject, selectattr and rejectattr. */
static jval choose(jctx *c, jval v, const jargs *a, int by_attr, int keep) {
    size_t k = by_attr ? 1 : 0;
    jval items, out = sq_jinja_new_list(c, 0);
    jmethod fn = NULL;
    jargs rest = {0};
    if (a->n < k) {
        return sq_jinja_fault(c, SQ_EFORMAT, "selectattr and rejectattr want an attribute");
    }
    if (a->n > k) {
        jval name = sq_jinja_to_str(c, a->pos[k]);
        name = sq_jinja_copy_str(c, name.u.s, name.n);
        fn = c->st == SQ_OK ? sq_jinja_test(name.u.s) : NULL;
        if (fn == NULL) {
            return sq_jinja_fault(c, SQ_EUNSUPPORTED, "select: test '%s' is not supported",
                                  c->st == SQ_OK ? name.u.s : "");
        }
        rest = after(a, k + 1);
    }
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = 0; i < items.u.l->n && sq_jinja_step(c, 1); i++) {
        jval item = items.u.l->v[i], x = by_attr ? attribute(c, item, a->pos[0]) : item;
        if (c->st == SQ_OK && sq_jinja_truth(fn ? fn(c, x, &rest) : x) == keep) {
            sq_jinja_append(c, out, item);
        }
    }
    return out;
}
static jval f_select(jctx *c, jval v, const jargs *a) { return choose(c, v, a, 0, 1); }
static jval f_reject(jctx *c, jval v, const jargs *a) { return choose(c, v, a, 0, 0); }
static jval f_selectattr(jctx *c, jval v, const jargs *a) { return choose(c, v, a, 1, 1); }
static jval f_rejectattr(jctx *c, jval v, const jargs *a) { return choose(c, v, a, 1, 0); }

static jval sort_key(jctx *c, jval v, const jval *attr, int cased) {
    jval k = attr ? attribute(c, v, *attr) : v;
    return k.type == J_STR && !cased && c->st == SQ_OK ? sq_jinja_case(c, k, 'l') : k;
}

/* Stable merge sort of items by keys. */
static void merge_sort(jctx *c, jval *key, jval *item, jval *tk, jval *ti, size_t n, int down) {
    if (n < 2 || c->st != SQ_OK) {
        return;
    }
    size_t h = n / 2, i = 0, j = h, k = 0;
    merge_sort(c, key, item, tk, ti, h, down);
    merge_sort(c, key + h, item + h, tk, ti, n - h, down);
    while (c->st == SQ_OK && (i < h || j < n) && sq_jinja_step(c, 1)) {
        int left = j == n;
        if (i < h && j < n) {
            int o = sq_jinja_order(c, key[i], key[j]);
            left = down ? o >= 0 : o <= 0;
        }
        size_t from = left ? i++ : j++;
        tk[k] = key[from];
        ti[k++] = item[from];
    }
    if (k == n) {
        memcpy(key, tk, n * sizeof *key);
        memcpy(item, ti, n * sizeof *item);
    }
}

static jval sorted(jctx *c, jval items, const jval *attr, int cased, int down) {
    size_t n = items.u.l->n;
    jval out = sq_jinja_new_list(c, n);
    jval *w = sq_jinja_alloc(c, 3 * n + 1, sizeof *w);
    for (size_t i = 0; w != NULL && c->st == SQ_OK && i < n; i++) {
        w[i] = sort_key(c, items.u.l->v[i], attr, cased);
        sq_jinja_append(c, out, items.u.l->v[i]);
    }
    if (w != NULL && c->st == SQ_OK) {
        merge_sort(c, w, out.u.l->v, w + n, w + 2 * n, n, down);
    }
    return out;
}

static jval f_sort(jctx *c, jval v, const jargs *a) {
    jval items;
    return list_of(c, v, &items) ? sorted(c, items, sq_jinja_arg(a, 2, "attribute"),
                                          sq_jinja_bool_arg(a, 1, "case_sensitive", 0),
                                          sq_jinja_bool_arg(a, 0, "reverse", 0))
                                 : items;
}

static jval f_items(jctx *c, jval v, const jargs *a) {
    if (v.type == J_UNDEFINED) {
        return sq_jinja_new_list(c, 0);
    }
    if (v.type != J_DICT || v.space) {
        return sq_jinja_fault(c, SQ_EFORMAT, "items wants a dict; got %s", sq_jinja_type(v));
    }
    return sq_jinja_dict_method("items")(c, v, a);
}

static jval f_dictsort(jctx *c, jval v, const jargs *a) {
    const jval *by = sq_jinja_arg(a, 1, "by");
    jval at = jv_int(by != NULL && sq_jinja_is_str(*by, "value")), items = f_items(c, v, a);
    return c->st == SQ_OK ? sorted(c, items, &at, sq_jinja_bool_arg(a, 0, "case_sensitive", 0),
                                   sq_jinja_bool_arg(a, 2, "reverse", 0))
                          : items;
}

static jval f_unique(jctx *c, jval v, const jargs *a) {
    const jval *attr = sq_jinja_arg(a, 1, "attribute");
    int cased = sq_jinja_bool_arg(a, 0, "case_sensitive", 0);
    jval items, seen = sq_jinja_new_list(c, 0), out = sq_jinja_new_list(c, 0);
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        jval k = sort_key(c, items.u.l->v[i], attr, cased);
        if (c->st == SQ_OK && !sq_jinja_contains(c, seen, k)) {
            sq_jinja_append(c, seen, k);
            sq_jinja_append(c, out, items.u.l->v[i]);
        }
    }
    return out;
}

static jval extreme(jctx *c, jval v, const jargs *a, int sign) {
    const jval *attr = sq_jinja_arg(a, 1, "attribute");
    int cased = sq_jinja_bool_arg(a, 0, "case_sensitive", 0);
    jval items, best = jv_undefined("the extreme of nothing"), key = best;
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        jval k = sort_key(c, items.u.l->v[i], attr, cased);
        if (c->st == SQ_OK && (i == 0 || sq_jinja_order(c, k, key) * sign > 0)) {
            best = items.u.l->v[i];
            key = k;
        }
    }
    return best;
}
static jval f_min(jctx *c, jval v, const jargs *a) { return extreme(c, v, a, -1); }
static jval f_max(jctx *c, jval v, const jargs *a) { return extreme(c, v, a, 1); }

static jval f_sum(jctx *c, jval v, const jargs *a) {
    const jval *attr = sq_jinja_arg(a, 0, "attribute"), *start = sq_jinja_arg(a, 1, "start");
    jval items, out = start ? *start : jv_int(0);
    if (!list_of(c, v, &items)) {
        return items;
    }
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        jval x = attr ? attribute(c, items.u.l->v[i], *attr) : items.u.l->v[i];
        out = c->st == SQ_OK ? sq_jinja_binary(c, JO_ADD, out, x) : out;
    }
    return out;
}

/* batch(n, fill): rows of n. */
static jval f_batch(jctx *c, jval v, const jargs *a) {
    int64_t n = sq_jinja_int_arg(c, a, 0, "linecount", 0);
    const jval *fill = sq_jinja_arg(a, 1, "fill_with");
    jval items, row = jv_none(), out = sq_jinja_new_list(c, 0);
    if (n < 1 || n > 1000000 || !list_of(c, v, &items)) {
        return sq_jinja_fault(c, SQ_EFORMAT, "batch wants a count above 0");
    }
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        if (i % (size_t)n == 0) {
            row = sq_jinja_new_list(c, 0);
            sq_jinja_append(c, out, row);
        }
        sq_jinja_append(c, row, items.u.l->v[i]);
    }
    while (fill != NULL && c->st == SQ_OK && row.type == J_LIST && row.u.l->n < (size_t)n) {
        sq_jinja_append(c, row, *fill);
    }
    return out;
}

jmethod sq_jinja_list_filter(const char *name) {
    static const struct {
        const char *name;
        jmethod fn;
    } rows[] = {{"join", f_join},
                {"first", f_first},
                {"last", f_last},
                {"list", f_list},
                {"length", f_length},
                {"count", f_length},
                {"reverse", f_reverse},
                {"map", f_map},
                {"select", f_select},
                {"reject", f_reject},
                {"selectattr", f_selectattr},
                {"rejectattr", f_rejectattr},
                {"sort", f_sort},
                {"items", f_items},
                {"dictsort", f_dictsort},
                {"unique", f_unique},
                {"min", f_min},
                {"max", f_max},
                {"sum", f_sum},
                {"batch", f_batch}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].fn;
        }
    }
    return NULL;
}
