/* Internal to src/text: the Jinja interpreter for chat templates. Values, the syntax tree, and the
 * state of one rendering. Follows Jinja2 3.1 as transformers configures it (sandboxed, immutable
 * inputs, trim_blocks, lstrip_blocks, loopcontrols, tojson without HTML escapes). */
#ifndef SQ_TEXT_JINJA_H
#define SQ_TEXT_JINJA_H

#include <jansson.h>

#include "text/template.h"

/* ---- values ---- */

typedef enum jtype {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_DICT,
    J_LOOP,
    J_FUNC
} jtype;

typedef struct jval {
    unsigned char type;
    unsigned char tuple, space; /* a list is a tuple; a dict is a namespace */
    size_t n;                   /* bytes of a string */
    union {
        int64_t i;
        double f;
        const char *s; /* a string, or the name of what is undefined */
        struct jlist *l;
        struct jdict *d;
        struct jloop *loop;
        struct jfunc *fn;
    } u;
} jval;

typedef struct jlist {
    jval *v;
    size_t n, cap;
} jlist;
typedef struct jdict {
    jval *k, *v;
    size_t n, cap;
} jdict;
typedef struct jloop {
    jlist *items;
    size_t at;
    int64_t depth;
    jval changed;
    int has_changed;
    const struct jnode *node; /* of a recursive loop */
    struct jframe *frame;
} jloop;

typedef struct jargs {
    jval *pos;
    size_t n;
    const char **key;
    jval *kw;
    size_t n_kw;
} jargs;

struct jctx;
typedef jval (*jmethod)(struct jctx *c, jval self, const jargs *a);
typedef struct jfunc {
    jmethod method; /* a method of self, or a global; NULL for a macro */
    jval self;
    const char *name;
    const struct jnode *macro;
    struct jframe *frame; /* where the macro was defined */
} jfunc;

static inline jval jv_none(void) { return (jval){.type = J_NONE}; }
static inline jval jv_bool(int b) { return (jval){.type = J_BOOL, .u.i = b != 0}; }
static inline jval jv_int(int64_t i) { return (jval){.type = J_INT, .u.i = i}; }
static inline jval jv_float(double f) { return (jval){.type = J_FLOAT, .u.f = f}; }
static inline jval jv_str(const char *s, size_t n) {
    return (jval){.type = J_STR, .n = n, .u.s = s};
}
static inline jval jv_undefined(const char *name) {
    return (jval){.type = J_UNDEFINED, .u.s = name};
}

/* ---- syntax tree ---- */

typedef enum jkind {
    /* expressions */
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_DICT,
    JN_GETATTR,
    JN_GETITEM,
    JN_SLICE,
    JN_CALL,
    JN_FILTER,
    JN_TEST,
    JN_NOT,
    JN_NEG,
    JN_POS,
    JN_AND,
    JN_OR,
    JN_COND,
    JN_COMPARE,
    JN_BINARY,
    JN_CONCAT,
    /* statements */
    JN_DATA,
    JN_PRINT,
    JN_SEQ,
    JN_IF,
    JN_FOR,
    JN_SET,
    JN_SET_BLOCK,
    JN_MACRO,
    JN_CALL_BLOCK,
    JN_FILTER_BLOCK,
    JN_SCOPE,
    JN_WITH,
    JN_BREAK,
    JN_CONTINUE
} jkind;

typedef enum jop {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_FLOORDIV,
    JO_MOD,
    JO_POW,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN
} jop;

/* One node. Lists: operands, arguments, elements, statements or parameters; `key` are keyword names
 * (interned) of the last n_kw items of a call, or NULL. */
typedef struct jnode {
    jkind kind;
    int op, line, tuple, recursive;
    const char *name; /* interned */
    jval value;
    struct jnode *a, *b, *c, *d;
    struct jnode **item;
    const char **key;
    int *ops;
    size_t n, n_kw;
} jnode;

struct sq_template {
    sq_arena arena;
    char *where;
    jnode *root;
    const char **name; /* interned names */
    size_t n_names, cap_names;
    sq_template *tools; /* the variant for calls with tools, or NULL */
};

/* ---- lexer (jinja_lex.c) ---- */

typedef enum jtok {
    JT_EOF,
    JT_DATA,
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STR,
    JT_INT,
    JT_FLOAT,
    JT_OP
} jtok;
typedef struct jtoken {
    jtok type;
    int line, op; /* op: the characters of an operator, first in the low byte */
    const char *s;
    size_t n;
    int64_t i;
    double f;
} jtoken;
typedef struct jtokens {
    jtoken *v;
    size_t n, cap;
} jtokens;
/* The tokens of a template, in the template's arena; ends with JT_EOF. */
sq_status sq_jinja_lex(sq_template *t, const char *text, size_t n, jtokens *out, sq_error *err);

/* ---- parser (jinja_parse.c, jinja_expr.c) ---- */

typedef struct jparser {
    sq_template *t;
    const jtoken *at;
    int depth;
    sq_status st;
    sq_error *err;
} jparser;
sq_status sq_jinja_parse(sq_template *t, const jtokens *tokens, sq_error *err);
jnode *sq_jinja_node(jparser *p, jkind kind);
jnode *sq_jinja_expr(jparser *p);
jnode *sq_jinja_tuple(jparser *p, int no_cond);
jnode *sq_jinja_primary(jparser *p);
jnode *sq_jinja_postfix(jparser *p, jnode *n);
/* The filters that follow; `bare`: the first stands without a bar (filter blocks). */
jnode *sq_jinja_filters(jparser *p, jnode *n, int bare);
jnode *sq_jinja_call_args(jparser *p, jnode *call);
sq_status sq_jinja_push(jparser *p, jnode *list, jnode *item);
const char *sq_jinja_intern(jparser *p, const char *s, size_t n);
void sq_jinja_fail(jparser *p, sq_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int sq_jinja_is_op(const jparser *p, const char *op);
int sq_jinja_is_name(const jparser *p, const char *name);
int sq_jinja_take_op(jparser *p, const char *op);
int sq_jinja_take_name(jparser *p, const char *name);
void sq_jinja_need_op(jparser *p, const char *op);
const char *sq_jinja_need_name(jparser *p);

/* ---- rendering ---- */

typedef struct jframe {
    struct jframe *parent;
    const char **name;
    jval *v;
    size_t n, cap;
} jframe;

typedef enum jflow { JF_NEXT, JF_BREAK, JF_CONTINUE } jflow;

typedef struct jctx {
    const sq_template *t;
    sq_arena arena;
    char *bump;
    size_t bump_left, used;
    int64_t steps;
    int depth, line;
    jframe *frame;
    sq_buf *out;
    sq_status st;
    sq_error *err;
    int64_t now; /* seconds for strftime_now */
    int fixed_now;
} jctx;

enum { JINJA_MAX_DEPTH = 300 };

void *sq_jinja_alloc(jctx *c, size_t count, size_t size); /* NULL after a failure */
jval sq_jinja_fault(jctx *c, sq_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Counts work; 0 when the limit is reached and the error is set. */
int sq_jinja_step(jctx *c, int64_t n);

/* values (jinja_value.c) */
jval sq_jinja_from_json(jctx *c, const json_t *v, int depth);
jval sq_jinja_copy_str(jctx *c, const char *s, size_t n);
jval sq_jinja_buf_str(jctx *c, sq_buf *b); /* takes the text and frees the buffer */
jval sq_jinja_new_list(jctx *c, size_t cap);
void sq_jinja_append(jctx *c, jval list, jval v);
jval sq_jinja_new_dict(jctx *c);
void sq_jinja_dict_set(jctx *c, jval dict, jval k, jval v);
const jval *sq_jinja_dict_get(const jdict *d, jval k);
const jval *sq_jinja_dict_str(const jdict *d, const char *k);
int sq_jinja_truth(jval v);
int sq_jinja_equal(jval a, jval b, int depth);
/* -1, 0, 1; sets the error for types that have no order. */
int sq_jinja_order(jctx *c, jval a, jval b);
int sq_jinja_same(jval a, jval b);
const char *sq_jinja_type(jval v);
/* Appends str(v) or, inside containers, repr(v). */
void sq_jinja_print(jctx *c, sq_buf *b, jval v, int repr, int depth);
jval sq_jinja_to_str(jctx *c, jval v);
/* A list of what iterating over v gives; an error for what cannot be iterated. */
jval sq_jinja_iterate(jctx *c, jval v);
int sq_jinja_contains(jctx *c, jval where, jval what);
int sq_jinja_is_num(jval v);
double sq_jinja_num(jval v);
size_t sq_jinja_chars(jval s);                        /* characters of a string */
jval sq_jinja_substr(jval s, size_t from, size_t to); /* by characters */
void sq_jinja_put_float(sq_buf *b, double f);         /* as Python's repr */
int sq_jinja_is_str(jval v, const char *s);
int sq_jinja_pyspace(uint32_t cp);

/* json.dumps (jinja_json.c) */
jval sq_jinja_tojson(jctx *c, jval self, const jargs *a);

/* evaluation (jinja_eval.c) */
jval sq_jinja_eval(jctx *c, const jnode *n);
jval sq_jinja_binary(jctx *c, int op, jval a, jval b);
jval sq_jinja_getattr(jctx *c, jval v, const char *name);
jval sq_jinja_getitem(jctx *c, jval v, jval key);
jval sq_jinja_call(jctx *c, jval fn, const jargs *a);
/* statements (jinja_exec.c) */
jflow sq_jinja_exec(jctx *c, const jnode *n);
jval sq_jinja_call_macro(jctx *c, const jfunc *fn, const jargs *a);
jval sq_jinja_recurse(jctx *c, jval self, const jargs *a);
void sq_jinja_set(jctx *c, const char *name, jval v);
const jval *sq_jinja_find(const jctx *c, const char *name);

/* filters and tests (jinja_filters.c, jinja_lists.c), methods (jinja_methods.c) */
jmethod sq_jinja_filter(const char *name);
jmethod sq_jinja_list_filter(const char *name);
jmethod sq_jinja_test(const char *name);
jmethod sq_jinja_str_method(const char *name);
jmethod sq_jinja_dict_method(const char *name);
jmethod sq_jinja_list_method(const char *name);
jmethod sq_jinja_global(const char *name);
/* The argument at a place or under a name, or NULL. */
const jval *sq_jinja_arg(const jargs *a, size_t at, const char *name);
int64_t sq_jinja_int_arg(jctx *c, const jargs *a, size_t at, const char *name, int64_t dflt);
int sq_jinja_bool_arg(const jargs *a, size_t at, const char *name, int dflt);
jval sq_jinja_strip(jval s, const jval *chars, int left, int right);
jval sq_jinja_replace(jctx *c, jval self, const jargs *a);
jval sq_jinja_case(jctx *c, jval self, int how); /* 'u', 'l', 'c' capitalize, 't' title, 's' swap */
jval sq_jinja_format(jctx *c, jval fmt, const jargs *a); /* % formatting */

#endif
