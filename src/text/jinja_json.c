/* The tojson filter: json.dumps with ensure_ascii off, as transformers sets it up. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

typedef struct dumper {
    jctx *c;
    sq_buf *b;
    int ascii, sort;
    jval indent, item, key; /* indent: a string, or none for one line */
} dumper;

static void put_string(dumper *d, jval s) {
    sq_text_put(d->b, "\"", 1);
    for (size_t i = 0; i < s.n;) {
        static const char plain[] = "\"\\\n\r\t\f\b", after[] = "\"\\nrtfb";
        uint32_t cp;
        size_t k = sq_utf8_get(s.u.s + i, &cp);
        const char *e = cp && cp < 0x80 ? strchr(plain, (char)cp) : NULL;
        if (e != NULL) {
            sq_buf_printf(d->b, "\\%c", after[e - plain]);
        } else if (cp < 0x20 || (d->ascii && cp > 0x7e && cp < 0x10000 && cp != 0x7f)) {
            sq_buf_printf(d->b, "\\u%04x", cp);
        } else if (d->ascii && cp >= 0x10000) {
            sq_buf_printf(d->b, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                          0xdc00 + (cp & 0x3ff));
        } else {
            sq_text_put(d->b, s.u.s + i, k);
        }
        i += k;
    }
    sq_text_put(d->b, "\"", 1);
}

static void newline(dumper *d, int depth) {
    if (d->indent.type == J_STR) {
        sq_text_put(d->b, "\n", 1);
        for (int i = 0; i < depth; i++) {
            sq_text_put(d->b, d->indent.u.s, d->indent.n);
        }
    }
}

static void put_number(dumper *d, jval v) {
    if (v.type == J_FLOAT && (isnan(v.u.f) || isinf(v.u.f))) {
        sq_buf_puts(d->b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity");
    } else if (v.type == J_BOOL) {
        sq_buf_puts(d->b, v.u.i ? "true" : "false");
    } else {
        sq_jinja_print(d->c, d->b, v, 0, 0);
    }
}

static void dump(dumper *d, jval v, int depth);

static void put_key(dumper *d, jval k) {
    if (k.type == J_STR) {
        put_string(d, k);
    } else if (sq_jinja_is_num(k) || k.type == J_NONE) {
        sq_text_put(d->b, "\"", 1);
        dump(d, k, 0);
        sq_text_put(d->b, "\"", 1);
    } else {
        sq_jinja_fault(d->c, SQ_EFORMAT, "tojson: %s cannot be a key", sq_jinja_type(k));
    }
}

/* Order of the keys: as they are, or sorted. */
static size_t *key_order(dumper *d, const jdict *m) {
    size_t *at = sq_jinja_alloc(d->c, m->n + 1, sizeof *at);
    for (size_t i = 0; at != NULL && i < m->n; i++) {
        size_t k = i;
        while (d->sort && k > 0 && sq_jinja_step(d->c, 1) &&
               sq_jinja_order(d->c, m->k[at[k - 1]], m->k[i]) > 0) {
            at[k] = at[k - 1];
            k--;
        }
        at[k] = i;
    }
    return at;
}

static void dump_dict(dumper *d, const jdict *m, int depth) {
    size_t *at = key_order(d, m);
    if (at == NULL || m->n == 0) {
        sq_buf_puts(d->b, "{}");
        return;
    }
    sq_text_put(d->b, "{", 1);
    for (size_t i = 0; i < m->n && d->c->st == SQ_OK; i++) {
        if (i > 0) {
            sq_text_put(d->b, d->item.u.s, d->item.n);
        }
        newline(d, depth + 1);
        put_key(d, m->k[at[i]]);
        sq_text_put(d->b, d->key.u.s, d->key.n);
        dump(d, m->v[at[i]], depth + 1);
    }
    newline(d, depth);
    sq_text_put(d->b, "}", 1);
}

static void dump_list(dumper *d, const jlist *l, int depth) {
    if (l->n == 0) {
        sq_buf_puts(d->b, "[]");
        return;
    }
    sq_text_put(d->b, "[", 1);
    for (size_t i = 0; i < l->n && d->c->st == SQ_OK; i++) {
        if (i > 0) {
            sq_text_put(d->b, d->item.u.s, d->item.n);
        }
        newline(d, depth + 1);
        dump(d, l->v[i], depth + 1);
    }
    newline(d, depth);
    sq_text_put(d->b, "]", 1);
}

static void dump(dumper *d, jval v, int depth) {
    if (depth > 100 || !sq_jinja_step(d->c, 1)) {
        sq_jinja_fault(d->c, SQ_EFORMAT, "tojson: a value is nested too deeply");
        return;
    }
    if (sq_jinja_is_num(v)) {
        put_number(d, v);
    } else if (v.type == J_NONE) {
        sq_buf_puts(d->b, "null");
    } else if (v.type == J_STR) {
        put_string(d, v);
    } else if (v.type == J_LIST) {
        dump_list(d, v.u.l, depth);
    } else if (v.type == J_DICT && !v.space) {
        dump_dict(d, v.u.d, depth);
    } else {
        sq_jinja_fault(d->c, SQ_EFORMAT, "tojson does not take %s%s%s", sq_jinja_type(v),
                       v.type == J_UNDEFINED && v.u.s ? " " : "",
                       v.type == J_UNDEFINED && v.u.s ? v.u.s : "");
    }
}

jval sq_jinja_tojson(jctx *c, jval self, const jargs *a) {
    sq_buf b = {0};
    dumper d = {.c = c, .b = &b};
    const jval *indent = sq_jinja_arg(a, 1, "indent"), *sep = sq_jinja_arg(a, 2, "separators");
    d.ascii = sq_jinja_bool_arg(a, 0, "ensure_ascii", 0);
    d.sort = sq_jinja_bool_arg(a, 3, "sort_keys", 0);
    d.indent = jv_none();
    if (indent != NULL && indent->type == J_STR) {
        d.indent = *indent;
    } else if (indent != NULL && (indent->type == J_INT || indent->type == J_BOOL)) {
        d.indent = sq_jinja_binary(c, JO_MUL, jv_str(" ", 1), *indent);
    }
    d.item = d.indent.type == J_STR ? jv_str(",", 1) : jv_str(", ", 2);
    d.key = jv_str(": ", 2);
    if (sep != NULL && sep->type == J_LIST && sep->u.l->n == 2 && sep->u.l->v[0].type == J_STR &&
        sep->u.l->v[1].type == J_STR) {
        d.item = sep->u.l->v[0];
        d.key = sep->u.l->v[1];
    }
    if (c->st == SQ_OK) {
        dump(&d, self, 0);
    }
    return sq_jinja_buf_str(c, &b);
}
