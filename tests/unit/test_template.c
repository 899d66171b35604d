/* Chat templates against Jinja2 as transformers sets it up (tests/oracle/gen_templates.py), errors,
 * limits and hostile texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "text/template.h"

static json_t *load(void) {
    char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/text/templates.json", root ? root : ".");
    json_t *v = NULL;
    sq_error err = {0};
    if (sq_json_load(path, &v, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return v;
}

/* Renders; the text is owned by the caller. */
static sq_status render(const char *text, const json_t *vars, sq_buf *out, sq_error *err) {
    sq_template *t = NULL;
    sq_status st = sq_template_parse(&t, text, "test", err);
    if (st == SQ_OK) {
        st = sq_template_render(t, vars, out, err);
    }
    sq_template_close(&t);
    return st;
}

/* One row: the expected text, or an error where Jinja2 has one. */
static size_t check(const char *name, const char *text, const json_t *vars, const json_t *row) {
    const json_t *want = json_object_get(row, "expected");
    sq_buf out = {0};
    sq_error err = {0};
    sq_status st = render(text, vars, &out, &err);
    size_t bad = 0;
    if (want == NULL) {
        if (st == SQ_OK) {
            fprintf(stderr, "%s: wanted the error '%s' got '%s'\n", name,
                    sq_json_str(row, "error", ""), out.len ? out.data : "");
            bad = 1;
        } else if (sq_json_bool(row, "raised", 0) != (st == SQ_EARG)) {
            fprintf(stderr, "%s: status %d for '%s': %s\n", name, (int)st,
                    sq_json_str(row, "error", ""), err.text);
            bad = 1;
        } else if (strstr(err.text, "line ") == NULL) {
            fprintf(stderr, "%s: no line in '%s'\n", name, err.text);
            bad = 1;
        }
    } else if (st != SQ_OK) {
        fprintf(stderr, "%s: %s\n  wanted '%s'\n", name, err.text, json_string_value(want));
        bad = 1;
    } else if (out.len != json_string_length(want) ||
               (out.len && memcmp(out.data, json_string_value(want), out.len) != 0)) {
        fprintf(stderr, "%s:\n  wanted '%s'\n  got    '%s'\n", name, json_string_value(want),
                out.len ? out.data : "");
        bad = 1;
    }
    sq_buf_free(&out);
    return bad;
}

static json_t *with_now(json_t *vars, const json_t *fixture) {
    json_object_set(vars, "strftime_now", json_object_get(fixture, "now"));
    return vars;
}

static void published_shapes(void **state) {
    (void)state;
    json_t *v = load();
    const json_t *list = json_object_get(v, "templates");
    const json_t *talks = json_object_get(v, "conversations");
    size_t bad = 0, rows = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i), *r = json_object_get(t, "rows");
        for (size_t k = 0; k < json_array_size(r); k++, rows++) {
            char name[100];
            snprintf(name, sizeof name, "%s/%zu", sq_json_str(t, "name", "?"), k);
            bad += check(name, sq_json_str(t, "template", ""),
                         with_now(json_array_get(talks, k), v), json_array_get(r, k));
        }
    }
    json_decref(v);
    assert_true(rows >= 250);
    assert_int_equal(bad, 0);
}

static void expressions(void **state) {
    (void)state;
    static const char *const parts[] = {"expressions", "snippets", "errors"};
    json_t *v = load(), *vars = with_now(json_object_get(v, "vars"), v);
    size_t bad = 0, rows = 0;
    for (size_t p = 0; p < 3; p++) {
        const json_t *list = json_object_get(v, parts[p]);
        for (size_t i = 0; i < json_array_size(list); i++, rows++) {
            const json_t *row = json_array_get(list, i);
            const char *text = sq_json_str(row, "template", "");
            bad += check(text, text, vars, row);
        }
    }
    json_decref(v);
    assert_true(rows > 100);
    assert_int_equal(bad, 0);
}

static void error_texts(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
        sq_status st;
    } rows[] = {
        {"a\nb\n{{ x | nosuch }}", "line 3: filter 'nosuch'", SQ_EUNSUPPORTED},
        {"a\n{% include 'x' %}", "line 2: tag 'include'", SQ_EUNSUPPORTED},
        {"\n\n{{ x is nosuch }}", "line 3: test 'nosuch'", SQ_EUNSUPPORTED},
        {"{{ nosuch(1) }}", "line 1: 'nosuch'", SQ_EUNSUPPORTED},
        {"\n{{ raise_exception('no system role') }}", "line 2: no system role", SQ_EARG},
        {"{% for i in range(3) %}\n{{ i.a.b }}{% endfor %}", "line 2: 'a' is undefined",
         SQ_EFORMAT},
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "more than", SQ_EFORMAT},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deep", SQ_EFORMAT},
        {"{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
         "{% set ns.s = ns.s + ns.s %}{% endfor %}",
         "more than", SQ_EFORMAT},
        {"{{ 'a' * 99999999999 }}", "more than", SQ_EFORMAT},
        {"{{ [0] * 999999999 }}", "", SQ_EFORMAT},
        {"{{ 9223372036854775 * 99999999 }}", "too large", SQ_EFORMAT},
        {"\xff", "UTF-8", SQ_EFORMAT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sq_buf out = {0};
        sq_error err = {0};
        sq_status st = render(rows[i].text, NULL, &out, &err);
        if (st != rows[i].st || strstr(err.text, rows[i].part) == NULL) {
            fail_msg("case %zu: status %d, '%s'", i, (int)st, err.text);
        }
        assert_int_equal(out.len, 0);
        sq_buf_free(&out);
    }
}

/* A text of one construct nested or repeated n times. */
static void deep(void **state) {
    (void)state;
    static const char *const units[] = {"{{ (",
                                        "{{ [",
                                        "{{ {1:",
                                        "{{ not ",
                                        "{{ -",
                                        "{% if 1 %}",
                                        "{{ a.",
                                        "{{ a[",
                                        "{{ a|e",
                                        "{% for i in ",
                                        "{{ 1+",
                                        "{{ a if ",
                                        "{{ 'a'",
                                        "{#",
                                        "{% raw %}",
                                        "{% set a.",
                                        "{{ f(",
                                        "{% macro m() %}",
                                        "{% for x in [1] %}"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        const char *head = units[i];
        const char *again = strncmp(head, "{{ ", 3) == 0 ? head + 3 : head;
        sq_buf text = {0}, out = {0};
        sq_buf_puts(&text, head);
        for (int k = 0; k < 5000; k++) {
            sq_buf_puts(&text, again);
        }
        sq_error err = {0};
        sq_status st = render(text.data, NULL, &out, &err);
        assert_true(st != SQ_OK && st != SQ_EINTERNAL);
        sq_buf_free(&text);
        sq_buf_free(&out);
    }
}

/* Truncated and changed templates: any status but a crash or a leak. */
static void hostile(void **state) {
    (void)state;
    json_t *v = load();
    const json_t *list = json_object_get(v, "templates");
    const json_t *talks = json_object_get(v, "conversations");
    size_t used = sq_memory_used(), fine = 0;
    unsigned seed = 3;
    for (int round = 0; round < 1500; round++) {
        const json_t *t = json_array_get(list, (size_t)round % json_array_size(list));
        char *text = sq_strdup(sq_json_str(t, "template", ""), NULL);
        size_t n = strlen(text);
        for (int k = 0; k < 1 + round % 4; k++) {
            seed = seed * 1664525u + 1013904223u;
            text[(seed >> 8) % n] = "{}%-'\"()[]|.,:=+~ a0\n\\#"[(seed >> 3) % 23];
        }
        if (round % 5 == 0) {
            text[(seed >> 9) % n] = '\0';
        }
        sq_buf out = {0};
        sq_error err = {0};
        const json_t *vars = json_array_get(talks, seed % json_array_size(talks));
        sq_status st = render(text, vars, &out, &err);
        assert_int_not_equal(st, SQ_EINTERNAL);
        assert_true(st == SQ_OK || err.text[0] != '\0');
        fine += st == SQ_OK;
        sq_buf_free(&out);
        sq_free(text);
    }
    assert_true(fine > 20);
    assert_int_equal(sq_memory_used(), used);
    json_decref(v);
}

static void out_of_memory(void **state) {
    (void)state;
    json_t *v = load();
    const json_t *t = json_array_get(json_object_get(v, "templates"), 3);
    const json_t *vars = json_array_get(json_object_get(v, "conversations"), 3);
    size_t used = sq_memory_used();
    long k = 1;
    for (;; k++) {
        sq_buf out = {0};
        sq_error err = {0};
        sq_memory_fail_after(k);
        sq_status st = render(sq_json_str(t, "template", ""), vars, &out, &err);
        sq_memory_fail_after(0);
        sq_buf_free(&out);
        assert_int_equal(sq_memory_used(), used);
        if (st == SQ_OK) {
            break;
        }
        assert_int_equal(st, SQ_ENOMEM);
    }
    assert_true(k > 5);
    json_decref(v);
}

static void expect_open(const char *dir, const json_t *vars, const char *want) {
    sq_template *t = NULL;
    sq_error err = {0};
    sq_buf out = {0};
    assert_int_equal(sq_template_open(&t, dir, &err), SQ_OK);
    if (want == NULL) {
        assert_null(t);
        return;
    }
    assert_non_null(t);
    assert_int_equal(sq_template_render(t, vars, &out, &err), SQ_OK);
    assert_string_equal(out.data, want);
    sq_buf_free(&out);
    sq_template_close(&t);
}

static void put(const char *dir, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(sq_file_write(path, text, strlen(text), NULL), SQ_OK);
}

/* Where the template is found: the newest form wins. */
static void folders(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-template-XXXXXX";
    assert_non_null(mkdtemp(dir));
    json_t *vars = json_pack("{s:[i]}", "tools", 1), *none = json_object();
    sq_template *t = NULL;
    sq_error err = {0};
    expect_open(dir, none, NULL);
    put(dir, "tokenizer_config.json", "{\"bos_token\":\"x\"}");
    expect_open(dir, none, NULL);
    put(dir, "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"default\",\"template\":\"A\"},"
        "{\"name\":\"tool_use\",\"template\":\"T{{ tools[0] }}\"}]}");
    expect_open(dir, none, "A");
    expect_open(dir, vars, "T1");
    put(dir, "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"A\"}]}");
    assert_int_equal(sq_template_open(&t, dir, &err), SQ_EFORMAT);
    put(dir, "tokenizer_config.json", "{\"chat_template\":5}");
    assert_int_equal(sq_template_open(&t, dir, &err), SQ_EFORMAT);
    put(dir, "chat_template.json", "{\"chat_template\":\"B\"}");
    expect_open(dir, none, "B");
    put(dir, "chat_template.jinja", "C\n");
    expect_open(dir, none, "C");
    put(dir, "chat_template.jinja", "{{");
    assert_int_equal(sq_template_open(&t, dir, &err), SQ_EFORMAT);
    assert_null(t);
    assert_int_equal(sq_remove_tree(dir, &err), SQ_OK);
    json_decref(vars);
    json_decref(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_shapes), cmocka_unit_test(expressions),
        cmocka_unit_test(error_texts),      cmocka_unit_test(deep),
        cmocka_unit_test(hostile),          cmocka_unit_test(out_of_memory),
        cmocka_unit_test(folders),
    };
    return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
