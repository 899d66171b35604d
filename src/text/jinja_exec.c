/* Executes statements: output, conditions, loops, assignments, macros, scopes. */
#include <string.h>

#include "text/jinja.h"
#include "text/utf8.h"

const jval *sq_jinja_find(const jctx *c, const char *name) {
    for (const jframe *f = c->frame; f != NULL; f = f->parent) {
        for (size_t i = 0; i < f->n; i++) {
            if (f->name[i] == name) { /* names are interned */
                return &f->v[i];
            }
        }
    }
    return NULL;
}

void sq_jinja_set(jctx *c, const char *name, jval v) {
    jframe *f = c->frame;
    if (c->st != SQ_OK) {
        return;
    }
    for (size_t i = 0; i < f->n; i++) {
        if (f->name[i] == name) {
            f->v[i] = v;
            return;
        }
    }
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 4;
        const char **names = sq_jinja_alloc(c, cap, sizeof *names);
        jval *vals = sq_jinja_alloc(c, cap, sizeof *vals);
        if (names == NULL || vals == NULL) {
            return;
        }
        if (f->n > 0) {
            memcpy(names, f->name, f->n * sizeof *names);
            memcpy(vals, f->v, f->n * sizeof *vals);
        }
        f->name = names;
        f->v = vals;
        f->cap = cap;
    }
    f->name[f->n] = name;
    f->v[f->n++] = v;
}

static jframe *enter(jctx *c, jframe *parent) {
    jframe *f = sq_jinja_alloc(c, 1, sizeof *f);
    if (f != NULL) {
        *f = (jframe){.parent = parent};
        c->frame = f;
    }
    return f;
}

static void assign(jctx *c, const jnode *to, jval v) {
    if (c->st != SQ_OK) {
        return;
    }
    if (to->kind == JN_NAME) {
        sq_jinja_set(c, to->name, v);
        return;
    }
    if (to->kind == JN_GETATTR) {
        jval space = sq_jinja_eval(c, to->a);
        if (c->st == SQ_OK && (space.type != J_DICT || !space.space)) {
            sq_jinja_fault(c, SQ_EFORMAT, "cannot assign an attribute of %s; wanted a namespace",
                           sq_jinja_type(space));
        } else if (c->st == SQ_OK && to->name[0] == '_') {
            sq_jinja_fault(c, SQ_EFORMAT, "cannot assign the attribute '%s'", to->name);
        } else if (c->st == SQ_OK) {
            sq_jinja_dict_set(c, space, jv_str(to->name, strlen(to->name)), v);
        }
        return;
    }
    jval items = sq_jinja_iterate(c, v);
    if (c->st == SQ_OK && items.u.l->n != to->n) {
        sq_jinja_fault(c, SQ_EFORMAT, "cannot unpack %zu values into %zu names", items.u.l->n,
                       to->n);
    }
    for (size_t i = 0; c->st == SQ_OK && i < to->n; i++) {
        assign(c, to->item[i], items.u.l->v[i]);
    }
}

/* Runs statements with their output captured. */
static jval capture(jctx *c, const jnode *body) {
    sq_buf text = {0}, *out = c->out;
    c->out = &text;
    sq_jinja_exec(c, body);
    c->out = out;
    return sq_jinja_buf_str(c, &text);
}

static jval filtered(jctx *c, const jnode *n, jval items) {
    jval out = sq_jinja_new_list(c, 0);
    jframe *outer = c->frame;
    for (size_t i = 0; c->st == SQ_OK && i < items.u.l->n; i++) {
        if (enter(c, outer) == NULL) {
            break;
        }
        assign(c, n->a, items.u.l->v[i]);
        if (sq_jinja_truth(sq_jinja_eval(c, n->c))) {
            sq_jinja_append(c, out, items.u.l->v[i]);
        }
    }
    c->frame = outer;
    return out;
}

static void loop_over(jctx *c, const jnode *n, jval v, jframe *outer, int64_t depth) {
    jframe *saved = c->frame;
    c->frame = outer;
    jval items = sq_jinja_iterate(c, v);
    if (c->st == SQ_OK && n->c != NULL) {
        items = filtered(c, n, items);
    }
    jloop *l = sq_jinja_alloc(c, 1, sizeof *l);
    if (c->st != SQ_OK || l == NULL) {
        c->frame = saved;
        return;
    }
    *l = (jloop){.items = items.u.l, .depth = depth, .frame = outer};
    l->node = n->recursive ? n : NULL;
    jval loop = {.type = J_LOOP, .u.loop = l};
    /* `loop` is interned by the parser whenever the template mentions it */
    const char *name = NULL;
    for (size_t i = 0; i < c->t->n_names; i++) {
        name = strcmp(c->t->name[i], "loop") == 0 ? c->t->name[i] : name;
    }
    for (; c->st == SQ_OK && l->at < l->items->n; l->at++) {
        if (enter(c, outer) == NULL) {
            break;
        }
        if (name != NULL) {
            sq_jinja_set(c, name, loop);
        }
        assign(c, n->a, l->items->v[l->at]);
        if (sq_jinja_exec(c, n->item[0]) == JF_BREAK) {
            break;
        }
    }
    if (c->st == SQ_OK && items.u.l->n == 0 && n->d != NULL) {
        enter(c, outer);
        sq_jinja_exec(c, n->d);
    }
    c->frame = saved;
}

jval sq_jinja_recurse(jctx *c, jval self, const jargs *a) {
    const jloop *l = self.u.loop;
    sq_buf text = {0}, *out = c->out;
    if (a->n != 1) {
        return sq_jinja_fault(c, SQ_EFORMAT, "loop() wants one argument");
    }
    c->out = &text;
    loop_over(c, l->node, a->pos[0], l->frame, l->depth + 1);
    c->out = out;
    return sq_jinja_buf_str(c, &text);
}

static const char *interned(const jctx *c, const char *name) {
    for (size_t i = 0; i < c->t->n_names; i++) {
        if (strcmp(c->t->name[i], name) == 0) {
            return c->t->name[i];
        }
    }
    return NULL;
}

/* Values that a macro gets beyond its parameters: caller, varargs and kwargs. */
static void extra_args(jctx *c, const jnode *m, const jargs *a, const unsigned char *used) {
    const char *varargs = interned(c, "varargs"), *kwargs = interned(c, "kwargs");
    const char *caller = interned(c, "caller");
    if (a->n > m->n && varargs == NULL) {
        sq_jinja_fault(c, SQ_EFORMAT, "macro '%s' takes at most %zu arguments; got %zu", m->name,
                       m->n, a->n);
        return;
    }
    if (varargs != NULL) {
        jval rest = sq_jinja_new_list(c, 0);
        for (size_t i = m->n; c->st == SQ_OK && i < a->n; i++) {
            sq_jinja_append(c, rest, a->pos[i]);
        }
        rest.tuple = 1;
        sq_jinja_set(c, varargs, rest);
    }
    jval named = sq_jinja_new_dict(c);
    for (size_t k = 0; c->st == SQ_OK && k < a->n_kw; k++) {
        if (used[k]) {
            continue;
        }
        if (a->key[k] == caller && caller != NULL) {
            sq_jinja_set(c, caller, a->kw[k]);
        } else if (kwargs == NULL) {
            sq_jinja_fault(c, SQ_EFORMAT, "macro '%s' has no argument '%s'", m->name, a->key[k]);
        } else {
            sq_jinja_dict_set(c, named, jv_str(a->key[k], strlen(a->key[k])), a->kw[k]);
        }
    }
    if (kwargs != NULL) {
        sq_jinja_set(c, kwargs, named);
    }
}

jval sq_jinja_call_macro(jctx *c, const jfunc *fn, const jargs *a) {
    const jnode *m = fn->macro;
    jframe *saved = c->frame;
    unsigned char used[128] = {0};
    if (a->n_kw > sizeof used || enter(c, fn->frame) == NULL) {
        return sq_jinja_fault(c, SQ_EFORMAT, "too many arguments for macro '%s'", m->name);
    }
    for (size_t i = 0; c->st == SQ_OK && i < m->n; i++) {
        const jnode *arg = m->item[i];
        jval v = jv_undefined(arg->name);
        int given = i < a->n;
        if (given) {
            v = a->pos[i];
        }
        for (size_t k = 0; k < a->n_kw; k++) {
            if (strcmp(a->key[k], arg->name) == 0) {
                if (given) {
                    sq_jinja_fault(c, SQ_EFORMAT, "macro '%s' got '%s' twice", m->name, arg->name);
                }
                v = a->kw[k];
                used[k] = 1;
                given = 1;
            }
        }
        if (!given && arg->a != NULL) {
            v = sq_jinja_eval(c, arg->a);
        }
        sq_jinja_set(c, arg->name, v);
    }
    if (c->st == SQ_OK) {
        extra_args(c, m, a, used);
    }
    jval out = c->st == SQ_OK ? capture(c, m->b) : jv_undefined(NULL);
    c->frame = saved;
    return out;
}

static jval make_macro(jctx *c, const jnode *n) {
    jfunc *f = sq_jinja_alloc(c, 1, sizeof *f);
    if (f == NULL) {
        return jv_undefined(NULL);
    }
    *f = (jfunc){.name = n->name, .macro = n, .frame = c->frame};
    return (jval){.type = J_FUNC, .u.fn = f};
}

/* Calls n->a with the block as the named argument `caller`. */
static void call_block(jctx *c, const jnode *n) {
    jval fn = sq_jinja_eval(c, n->a->a), block = make_macro(c, n->b);
    size_t pos = n->a->n - n->a->n_kw, kw = n->a->n_kw + 1;
    jval *v = sq_jinja_alloc(c, pos + kw, sizeof *v);
    const char **key = sq_jinja_alloc(c, kw, sizeof *key);
    if (c->st != SQ_OK || v == NULL || key == NULL) {
        return;
    }
    for (size_t i = 0; i < n->a->n; i++) {
        v[i] = sq_jinja_eval(c, n->a->item[i]);
    }
    for (size_t i = 0; i + 1 < kw; i++) {
        key[i] = n->a->key[i];
    }
    key[kw - 1] = n->b->name;
    v[pos + kw - 1] = block;
    jargs a = {.pos = v, .n = pos, .key = key, .kw = v + pos, .n_kw = kw};
    jval out = sq_jinja_call(c, fn, &a);
    if (c->st == SQ_OK) {
        sq_jinja_print(c, c->out, out, 0, 0);
    }
}

/* The filters of a block, applied to its text: the innermost operand is the constant `slot`. */
static jval filter_text(jctx *c, const jnode *n, const jnode *slot, jval text) {
    if (n == slot) {
        return text;
    }
    jval v = filter_text(c, n->a, slot, text);
    jnode with = *n, value = {.kind = JN_CONST, .line = n->line, .value = v};
    with.a = &value;
    return sq_jinja_eval(c, &with);
}

static void scoped(jctx *c, const jnode *n) {
    jframe *outer = c->frame;
    if (n->kind == JN_WITH) {
        /* Values see the outer scope only. */
        jval *v = sq_jinja_alloc(c, n->n + 1, sizeof *v);
        for (size_t i = 0; v != NULL && i < n->n; i++) {
            v[i] = sq_jinja_eval(c, n->item[i]->b);
        }
        if (enter(c, outer) != NULL) {
            for (size_t i = 0; v != NULL && i < n->n; i++) {
                assign(c, n->item[i]->a, v[i]);
            }
        }
    } else {
        enter(c, outer);
    }
    if (c->st == SQ_OK && n->kind == JN_FILTER_BLOCK) {
        jval text = capture(c, n->b);
        if (c->st == SQ_OK) {
            text = filter_text(c, n->a, n->c, text);
        }
        if (c->st == SQ_OK) {
            sq_jinja_print(c, c->out, text, 0, 0);
        }
    } else if (c->st == SQ_OK) {
        sq_jinja_exec(c, n->b);
    }
    c->frame = outer;
}

static void set_block(jctx *c, const jnode *n) {
    jframe *outer = c->frame;
    enter(c, outer);
    jval text = c->st == SQ_OK ? capture(c, n->d) : jv_none();
    c->frame = outer;
    if (c->st == SQ_OK) {
        text = filter_text(c, n->b, n->c, text);
    }
    assign(c, n->a, text);
}

static jflow exec_node(jctx *c, const jnode *n) {
    jflow flow = JF_NEXT;
    jval v;
    switch (n->kind) {
    case JN_DATA:
        sq_text_put(c->out, n->value.u.s, n->value.n);
        break;
    case JN_PRINT:
        v = sq_jinja_eval(c, n->a);
        if (c->st == SQ_OK) {
            sq_jinja_print(c, c->out, v, 0, 0);
        }
        break;
    case JN_SEQ:
        for (size_t i = 0; c->st == SQ_OK && flow == JF_NEXT && i < n->n; i++) {
            flow = sq_jinja_exec(c, n->item[i]);
        }
        break;
    case JN_IF:
        for (; n != NULL && n->kind == JN_IF; n = n->c) {
            v = sq_jinja_eval(c, n->a);
            if (c->st != SQ_OK || sq_jinja_truth(v)) {
                return sq_jinja_exec(c, n->b);
            }
        }
        return n == NULL ? JF_NEXT : sq_jinja_exec(c, n);
    case JN_FOR:
        v = sq_jinja_eval(c, n->b);
        if (c->st == SQ_OK) {
            loop_over(c, n, v, c->frame, 1);
        }
        break;
    case JN_SET:
        assign(c, n->a, sq_jinja_eval(c, n->b));
        break;
    case JN_SET_BLOCK:
        set_block(c, n);
        break;
    case JN_MACRO:
        sq_jinja_set(c, n->name, make_macro(c, n));
        break;
    case JN_CALL_BLOCK:
        call_block(c, n);
        break;
    case JN_FILTER_BLOCK:
    case JN_SCOPE:
    case JN_WITH:
        scoped(c, n);
        break;
    case JN_BREAK:
        return JF_BREAK;
    case JN_CONTINUE:
        return JF_CONTINUE;
    default:
        sq_jinja_fault(c, SQ_EINTERNAL, "node %d is no statement", (int)n->kind);
    }
    return flow;
}

jflow sq_jinja_exec(jctx *c, const jnode *n) {
    if (c->st != SQ_OK || n == NULL || !sq_jinja_step(c, 1)) {
        return JF_NEXT;
    }
    if (++c->depth > JINJA_MAX_DEPTH) {
        sq_jinja_fault(c, SQ_EFORMAT, "statements are nested more than %d deep", JINJA_MAX_DEPTH);
        return JF_NEXT;
    }
    c->line = n->line;
    jflow flow = exec_node(c, n);
    c->depth--;
    enum { MAX_OUT = 256 << 20 };
    if (c->out->failed && c->st == SQ_OK) {
        c->st = sq_fail_nomem(c->err, "a template's output", c->out->len);
    } else if (c->out->len > MAX_OUT) {
        sq_jinja_fault(c, SQ_EFORMAT, "output exceeds %d MiB", MAX_OUT >> 20);
    }
    return flow;
}
