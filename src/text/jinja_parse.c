/* Parses statements (jinja2.parser.Parser.parse_statement and the extensions that transformers
 * loads: break, continue, generation). */
#include <stdio.h>
#include <string.h>

#include "text/jinja.h"

enum { MAX_BLOCKS = 60 };

static jnode *statements(jparser *p, const char *const *ends);

static int at_end(const jparser *p, const char *const *ends) {
    for (; *ends != NULL; ends++) {
        if (sq_jinja_is_name(p, *ends)) {
            return 1;
        }
    }
    return 0;
}

static void block_end(jparser *p) {
    if (p->st == SQ_OK && p->at->type != JT_BLOCK_END) {
        sq_jinja_fail(p, SQ_EFORMAT, "unexpected text in a tag, wanted its end '%%}'");
    }
    p->at += p->st == SQ_OK;
}

/* Statements up to one of `ends`, whose name stays current. */
static jnode *body(jparser *p, const char *const *ends) {
    block_end(p);
    return p->st == SQ_OK ? statements(p, ends) : NULL;
}

static jnode *body_to(jparser *p, const char *end) {
    const char *ends[] = {end, NULL};
    jnode *n = body(p, ends);
    p->at += p->st == SQ_OK;
    return n;
}

/* A name, a name with an attribute, or a tuple of targets. */
static jnode *target_item(jparser *p, int depth) {
    if (depth > 20) {
        sq_jinja_fail(p, SQ_EFORMAT, "targets are nested too deeply");
        return NULL;
    }
    if (sq_jinja_take_op(p, "(")) {
        jnode *n = sq_jinja_node(p, JN_LIST);
        do {
            if (sq_jinja_is_op(p, ")")) {
                break;
            }
            sq_jinja_push(p, n, target_item(p, depth + 1));
        } while (sq_jinja_take_op(p, ","));
        sq_jinja_need_op(p, ")");
        return n;
    }
    jnode *n = sq_jinja_node(p, JN_NAME);
    if (n != NULL) {
        n->name = sq_jinja_need_name(p);
    }
    if (n != NULL && sq_jinja_take_op(p, ".")) {
        jnode *m = sq_jinja_node(p, JN_GETATTR);
        if (m != NULL) {
            m->a = n;
            m->name = sq_jinja_need_name(p);
        }
        n = m;
    }
    return n;
}

static jnode *target(jparser *p) {
    jnode *a = target_item(p, 0), *n = NULL;
    while (sq_jinja_take_op(p, ",")) {
        if (n == NULL) {
            n = sq_jinja_node(p, JN_LIST);
            sq_jinja_push(p, n, a);
        }
        if (sq_jinja_is_name(p, "in") || sq_jinja_is_op(p, "=")) {
            break;
        }
        sq_jinja_push(p, n, target_item(p, 0));
    }
    return n != NULL ? n : a;
}

static jnode *if_statement(jparser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    jnode *first = sq_jinja_node(p, JN_IF), *n = first;
    while (p->st == SQ_OK) {
        n->a = sq_jinja_tuple(p, 1);
        if (p->st == SQ_OK && sq_jinja_is_name(p, "if")) {
            /* {% if a if b else c %} */
            sq_jinja_fail(p, SQ_EUNSUPPORTED, "inline if as a condition wants brackets");
        }
        n->b = body(p, ends);
        if (sq_jinja_take_name(p, "elif")) {
            n->c = sq_jinja_node(p, JN_IF);
            n = n->c;
            continue;
        }
        if (sq_jinja_take_name(p, "else")) {
            n->c = body_to(p, "endif");
        } else {
            p->at += p->st == SQ_OK;
        }
        break;
    }
    return first;
}

static jnode *for_statement(jparser *p) {
    static const char *const ends[] = {"endfor", "else", NULL};
    jnode *n = sq_jinja_node(p, JN_FOR);
    if (n == NULL) {
        return NULL;
    }
    n->a = target(p);
    if (p->st == SQ_OK && !sq_jinja_take_name(p, "in")) {
        sq_jinja_fail(p, SQ_EFORMAT, "for without 'in'");
    }
    n->b = sq_jinja_tuple(p, 1);
    if (sq_jinja_take_name(p, "if")) {
        n->c = sq_jinja_expr(p);
    }
    n->recursive = sq_jinja_take_name(p, "recursive");
    sq_jinja_push(p, n, body(p, ends));
    if (sq_jinja_take_name(p, "else")) {
        n->d = body_to(p, "endfor");
    } else {
        p->at += p->st == SQ_OK;
    }
    return n;
}

static jnode *set_statement(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_SET);
    if (n == NULL) {
        return NULL;
    }
    n->a = target(p);
    if (sq_jinja_take_op(p, "=")) {
        n->b = sq_jinja_tuple(p, 0);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    jnode *value = sq_jinja_node(p, JN_CONST); /* the captured text goes in here */
    n->c = value;
    n->b = sq_jinja_is_op(p, "|") ? sq_jinja_filters(p, value, 0) : value;
    n->d = body_to(p, "endset");
    return n;
}

/* (name, name=default, …): names in item as JN_NAME, defaults in their a. */
static void signature(jparser *p, jnode *n) {
    if (!sq_jinja_take_op(p, "(")) {
        return;
    }
    while (p->st == SQ_OK && !sq_jinja_is_op(p, ")")) {
        if (n->n > 0) {
            sq_jinja_need_op(p, ",");
        }
        jnode *arg = sq_jinja_node(p, JN_NAME);
        if (arg == NULL) {
            return;
        }
        arg->name = sq_jinja_need_name(p);
        if (sq_jinja_take_op(p, "=")) {
            arg->a = sq_jinja_expr(p);
        }
        sq_jinja_push(p, n, arg);
    }
    sq_jinja_need_op(p, ")");
}

static jnode *macro_statement(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_MACRO);
    if (n != NULL) {
        n->name = sq_jinja_need_name(p);
        signature(p, n);
        n->b = body_to(p, "endmacro");
    }
    return n;
}

/* {% call(args) f(…) %}: b is a macro named caller, a the call. */
static jnode *call_statement(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_CALL_BLOCK), *m = sq_jinja_node(p, JN_MACRO);
    if (n == NULL || m == NULL) {
        return NULL;
    }
    m->name = sq_jinja_intern(p, "caller", 6);
    signature(p, m);
    n->a = sq_jinja_expr(p);
    n->b = m;
    if (n->a != NULL && n->a->kind != JN_CALL) {
        sq_jinja_fail(p, SQ_EFORMAT, "call wants a call");
    }
    m->b = body_to(p, "endcall");
    return n;
}

static jnode *with_statement(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_WITH);
    while (p->st == SQ_OK && n != NULL && p->at->type != JT_BLOCK_END) {
        if (n->n > 0) {
            sq_jinja_need_op(p, ",");
        }
        jnode *set = sq_jinja_node(p, JN_SET);
        if (set != NULL) {
            set->a = target_item(p, 0);
            sq_jinja_need_op(p, "=");
            set->b = sq_jinja_expr(p);
        }
        sq_jinja_push(p, n, set);
    }
    if (n != NULL) {
        n->b = body_to(p, "endwith");
    }
    return n;
}

static jnode *filter_statement(jparser *p) {
    jnode *n = sq_jinja_node(p, JN_FILTER_BLOCK), *value = sq_jinja_node(p, JN_CONST);
    if (n == NULL || value == NULL) {
        return NULL;
    }
    n->c = value;
    n->a = sq_jinja_filters(p, value, 1);
    n->b = body_to(p, "endfilter");
    return n;
}

static jnode *scope_statement(jparser *p, const char *end) {
    jnode *n = sq_jinja_node(p, JN_SCOPE);
    if (n != NULL) {
        n->b = body_to(p, end);
    }
    return n;
}

static jnode *statement(jparser *p) {
    if (sq_jinja_take_name(p, "if")) {
        return if_statement(p);
    }
    if (sq_jinja_take_name(p, "for")) {
        return for_statement(p);
    }
    if (sq_jinja_take_name(p, "set")) {
        return set_statement(p);
    }
    if (sq_jinja_take_name(p, "macro")) {
        return macro_statement(p);
    }
    if (sq_jinja_take_name(p, "call")) {
        return call_statement(p);
    }
    if (sq_jinja_take_name(p, "with")) {
        return with_statement(p);
    }
    if (sq_jinja_take_name(p, "filter")) {
        return filter_statement(p);
    }
    if (sq_jinja_take_name(p, "generation")) {
        return scope_statement(p, "endgeneration");
    }
    if (sq_jinja_take_name(p, "break")) {
        return sq_jinja_node(p, JN_BREAK);
    }
    if (sq_jinja_take_name(p, "continue")) {
        return sq_jinja_node(p, JN_CONTINUE);
    }
    if (p->at->type == JT_NAME) {
        int known = 0;
        static const char *const jinja[] = {"include", "import", "from",       "extends",
                                            "block",   "do",     "autoescape", "trans"};
        for (size_t i = 0; i < sizeof jinja / sizeof *jinja; i++) {
            known |= sq_jinja_is_name(p, jinja[i]);
        }
        sq_jinja_fail(p, known ? SQ_EUNSUPPORTED : SQ_EFORMAT, "tag '%.*s' %s", (int)p->at->n,
                      p->at->s, known ? "is not supported" : "is unknown or out of place");
    } else {
        sq_jinja_fail(p, SQ_EFORMAT, "tag without a name");
    }
    return NULL;
}

static jnode *statements(jparser *p, const char *const *ends) {
    jnode *list = sq_jinja_node(p, JN_SEQ);
    if (list == NULL || ++p->depth > MAX_BLOCKS) {
        sq_jinja_fail(p, SQ_EFORMAT, "blocks are nested more than %d deep", MAX_BLOCKS);
        return NULL;
    }
    while (p->st == SQ_OK) {
        jnode *n = NULL;
        if (p->at->type == JT_DATA) {
            n = sq_jinja_node(p, JN_DATA);
            if (n != NULL) {
                n->value = jv_str(p->at->s, p->at->n);
                p->at++;
            }
        } else if (p->at->type == JT_VAR_BEGIN) {
            p->at++;
            n = sq_jinja_node(p, JN_PRINT);
            if (n != NULL) {
                n->a = sq_jinja_tuple(p, 0);
            }
            if (p->st == SQ_OK && p->at->type != JT_VAR_END) {
                sq_jinja_fail(p, SQ_EFORMAT, "unexpected text, wanted the end '}}'");
            }
            p->at += p->st == SQ_OK;
        } else if (p->at->type == JT_BLOCK_BEGIN) {
            p->at++;
            if (ends != NULL && at_end(p, ends)) {
                break;
            }
            n = statement(p);
            block_end(p);
        } else {
            if (ends != NULL) {
                sq_jinja_fail(p, SQ_EFORMAT, "the template ends before '%s'", ends[0]);
            }
            break;
        }
        sq_jinja_push(p, list, n);
    }
    p->depth--;
    return list;
}

sq_status sq_jinja_parse(sq_template *t, const jtokens *tokens, sq_error *err) {
    jparser p = {.t = t, .at = tokens->v, .err = err};
    t->root = statements(&p, NULL);
    return p.st;
}
