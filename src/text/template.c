/* Chat templates: finding a checkpoint's template, parsing it, rendering it. */
#include "text/template.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/source.h"
#include "text/jinja.h"
#include "text/utf8.h"

enum { MAX_TEMPLATE = 4 << 20 };

static sq_status parse_n(sq_template **out, const char *text, size_t n, const char *where,
                         sq_error *err) {
    *out = NULL;
    if (n > MAX_TEMPLATE || sq_utf8_valid(text, n) != n) {
        return sq_fail(err, SQ_EFORMAT,
                       "template '%s': got %zu bytes; wanted at most %d of valid UTF-8", where, n,
                       (int)MAX_TEMPLATE);
    }
    sq_template *t = sq_alloc(1, sizeof *t, "a template", err);
    if (t == NULL) {
        return SQ_ENOMEM;
    }
    jtokens tokens = {0};
    sq_status st = SQ_OK;
    t->where = sq_arena_strdup(&t->arena, where, err);
    if (t->where == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    SQ_TRY(sq_jinja_lex(t, text, n, &tokens, err));
    SQ_TRY(sq_jinja_parse(t, &tokens, err));
    *out = t;
    return SQ_OK;
fail:
    sq_template_close(&t);
    return st;
}

sq_status sq_template_parse(sq_template **out, const char *text, const char *where, sq_error *err) {
    return parse_n(out, text, strlen(text), where, err);
}

void sq_template_close(sq_template **pt) {
    sq_template *t = *pt;
    if (t != NULL) {
        sq_template_close(&t->tools);
        sq_arena_free(&t->arena);
        sq_free(t);
        *pt = NULL;
    }
}

static sq_status parse_json(sq_template **out, const json_t *s, const char *where, sq_error *err) {
    return parse_n(out, json_string_value(s), json_string_length(s), where, err);
}

/* chat_template: a text, or a list of {name, template} (older) or an object name -> text, of which
 * "default" is taken, and "tool_use" for calls with tools. */
static sq_status from_value(sq_template **out, const json_t *v, const char *where, sq_error *err) {
    if (json_is_string(v)) {
        return parse_json(out, v, where, err);
    }
    const json_t *dflt = json_object_get(v, "default"), *tools = json_object_get(v, "tool_use");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i), *text = json_object_get(item, "template");
        const char *name = sq_json_str(item, "name", "");
        dflt = strcmp(name, "default") == 0 ? text : dflt;
        tools = strcmp(name, "tool_use") == 0 ? text : tools;
    }
    if (!json_is_string(dflt)) {
        return v == NULL || json_is_null(v)
                   ? SQ_OK
                   : sq_fail(err, SQ_EFORMAT, "'%s': chat_template has no text named 'default'",
                             where);
    }
    sq_status st = parse_json(out, dflt, where, err);
    if (st == SQ_OK && json_is_string(tools)) {
        st = parse_json(&(*out)->tools, tools, where, err);
        if (st != SQ_OK) {
            sq_template_close(out);
        }
    }
    return st;
}

static sq_status open_jinja(sq_template **out, const char *path, sq_error *err) {
    char *text = NULL;
    size_t n = 0;
    sq_status st = sq_file_read(path, MAX_TEMPLATE, &text, &n, err);
    if (st == SQ_OK) {
        st = parse_n(out, text, n, path, err);
        sq_free(text);
    }
    return st;
}

static sq_status open_json(sq_template **out, const char *dir, const char *name, sq_error *err) {
    json_t *v = NULL;
    sq_status st = sq_source_json(dir, name, &v, err);
    if (st == SQ_OK) {
        st = from_value(out, json_object_get(v, "chat_template"), name, err);
    }
    json_decref(v);
    return st;
}

sq_status sq_template_open(sq_template **out, const char *dir, sq_error *err) {
    static const char *const names[] = {"chat_template.json", "tokenizer_config.json"};
    sq_arena a = {0};
    sq_status st = SQ_OK;
    *out = NULL;
    char *path = sq_path_join(&a, dir, "chat_template.jinja", err);
    if (path == NULL) {
        st = SQ_ENOMEM;
    } else if (sq_file_exists(path)) {
        st = open_jinja(out, path, err);
    }
    for (size_t i = 0; st == SQ_OK && *out == NULL && i < 2; i++) {
        st = open_json(out, dir, names[i], err);
    }
    sq_arena_free(&a);
    return st;
}

/* Binds the inputs that the template mentions. */
static void bind(jctx *c, const json_t *variables) {
    for (size_t i = 0; c->st == SQ_OK && i < c->t->n_names; i++) {
        const char *name = c->t->name[i];
        const json_t *v = json_object_get(variables, name);
        if (v == NULL) {
            continue;
        }
        if (strcmp(name, "strftime_now") == 0 && json_is_integer(v)) {
            c->now = json_integer_value(v);
            c->fixed_now = 1;
            continue;
        }
        sq_jinja_set(c, name, sq_jinja_from_json(c, v, 0));
    }
}

sq_status sq_template_render(const sq_template *t, const json_t *variables, sq_buf *out,
                             sq_error *err) {
    const json_t *tools = json_object_get(variables, "tools");
    if (t->tools != NULL && tools != NULL && !json_is_null(tools)) {
        t = t->tools;
    }
    jframe root = {0};
    sq_buf text = {0};
    jctx c = {.t = t, .frame = &root, .out = &text, .err = err, .line = 1};
    bind(&c, variables);
    sq_jinja_exec(&c, t->root);
    if (c.st == SQ_OK && text.len > 0) {
        sq_text_put(out, text.data, text.len);
        c.st = out->failed ? sq_fail_nomem(err, "a prompt", text.len) : SQ_OK;
    }
    sq_buf_free(&text);
    sq_arena_free(&c.arena);
    return c.st;
}
