/* The evaluation's page: what is in it, that nothing can break out of its data, and that it asks
 * for nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "squint/squint.h"
#include "squint/synth.h"

static char dir[] = "/tmp/squint-report-XXXXXX";
static char model[512], quantized[512], page[512], data[512];

static int setup(void **state) {
    (void)state;
    sq_error err = {0};
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    snprintf(quantized, sizeof quantized, "%s/w4", dir);
    snprintf(page, sizeof page, "%s/page.html", dir);
    snprintf(data, sizeof data, "%s/data", dir);
    sq_quantize_options q = {.method = "rtn", .scheme = "w4a16", .group_size = 32};
    return sq_quantize(model, quantized, &q, NULL, NULL, &err) == SQ_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) == SQ_OK ? 0 : -1;
}

static void near(double got, double want, double tol) {
    if (!(fabs(got - want) <= tol)) {
        fail_msg("got %.12g, wanted %.12g within %g", got, want, tol);
    }
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *s = text; (s = strstr(s, what)) != NULL; s += strlen(what)) {
        n++;
    }
    return n;
}

/* The page's text (free) and its data (json_decref). */
static char *read_page(json_t **out) {
    static const char start[] = "<script type=\"application/json\" id=\"data\">";
    char *text;
    size_t n;
    assert_int_equal(sq_file_read(page, 1 << 24, &text, &n, NULL), SQ_OK);
    const char *at = strstr(text, start);
    assert_non_null(at);
    at += strlen(start);
    const char *end = strstr(at, "</script>");
    assert_non_null(end);
    assert_int_equal(sq_json_parse(at, (size_t)(end - at), "the page", out, NULL), SQ_OK);
    return text;
}

static json_t *evaluate(const char *what, sq_eval_options *o) {
    sq_error err = {0};
    char *report = NULL;
    json_t *r = NULL;
    o->report = page;
    sq_status st = sq_eval(what, o, NULL, &report, &err);
    if (st != SQ_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(sq_json_parse(report, strlen(report), "report", &r, NULL), SQ_OK);
    sq_text_free(report);
    return r;
}

static void test_parts(void **state) {
    (void)state;
    char task[600];
    snprintf(task, sizeof task, "%s/tests/data/vl/test.jsonl", getenv("SQ_TEST_ROOT"));
    sq_eval_options o = {.against = model, .task = task, .samples = 14};
    json_t *r = evaluate(quantized, &o), *d = NULL;
    char *text = read_page(&d);
    const json_t *e = json_object_get(d, "eval");
    near(sq_json_num(e, "kl", -1), sq_json_num(r, "kl", -2), 1e-12);
    assert_true(sq_json_num(e, "accuracy", -1) >= 0);
    assert_true(sq_json_num(json_object_get(e, "against"), "accuracy", -1) >= 0);
    assert_int_equal(json_array_size(json_object_get(d, "layers")), 28);
    assert_true(sq_json_num(json_array_get(json_object_get(d, "layers"), 0), "signal", 0) > 0);
    assert_int_equal(json_array_size(json_object_get(e, "sensitivity")), 4);
    assert_true(json_array_size(json_object_get(d, "checks")) > 5);
    assert_true(sq_json_int(json_object_get(d, "before"), "bytes", 0) >
                sq_json_int(json_object_get(d, "after"), "bytes", 1 << 30));
    const json_t *x = json_array_get(json_object_get(e, "examples"), 0);
    assert_int_equal(json_array_size(json_object_get(x, "bbox")), 4);
    assert_int_equal(json_array_size(json_object_get(json_object_get(x, "before"), "box")), 4);
    assert_int_equal(json_array_size(json_object_get(json_object_get(x, "after"), "box")), 4);
    assert_memory_equal(sq_json_str(x, "picture", ""), "data:image/png;base64,iVBORw0KGgo", 33);
    assert_null(json_object_get(x, "path"));
    const json_t *commands = json_object_get(d, "commands");
    assert_int_equal(json_array_size(commands), 3);
    assert_non_null(strstr(json_string_value(json_array_get(commands, 0)),
                           "--method rtn --scheme w4a16 --group-size 32"));
    assert_non_null(strstr(json_string_value(json_array_get(commands, 2)), "--samples 14"));
    assert_int_equal(count(text, "http:") + count(text, "https:") + count(text, "src=\"/"), 0);
    assert_int_equal(count(text, "@DATA@"), 0);
    sq_free(text);
    json_decref(d);
    json_decref(r);
}

/* A question that would end the script element, and a word that a shell would take apart. */
static void test_escapes(void **state) {
    (void)state;
    static const char line[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"</script><!--<script>alert(1)\"}], "
        "\"answer\": \"it's <b>\"}\n";
    char odd[600];
    snprintf(odd, sizeof odd, "%s/it's a task.jsonl", dir);
    assert_int_equal(sq_file_write(odd, line, strlen(line), NULL), SQ_OK);
    sq_eval_options o = {.task = odd};
    json_t *r = evaluate(model, &o), *d = NULL;
    char *text = read_page(&d);
    assert_int_equal(count(text, "</script"), 2);
    assert_int_equal(count(text, "<script"), 2);
    const json_t *x = json_array_get(json_object_get(json_object_get(d, "eval"), "examples"), 0);
    assert_string_equal(sq_json_str(x, "question", ""), "</script><!--<script>alert(1)");
    assert_string_equal(sq_json_str(x, "answer", ""), "it's <b>");
    const char *command = json_string_value(json_array_get(json_object_get(d, "commands"), 0));
    assert_non_null(strstr(command, "/it'\\''s a task.jsonl'"));
    assert_null(json_object_get(d, "layers"));
    sq_free(text);
    json_decref(d);
    json_decref(r);
}

/* With one layer in all, that layer alone costs what the whole does; and the other model's
 * perplexity is its own. */
static void test_one_layer(void **state) {
    (void)state;
    static const char words[] = "The sea was calm that morning, and the old boat drifted.";
    char small[600], smaller[600];
    sq_error err = {0};
    snprintf(small, sizeof small, "%s/one", dir);
    snprintf(smaller, sizeof smaller, "%s/one-w4", dir);
    sq_quantize_options q = {.method = "rtn", .no_verify = 1};
    assert_int_equal(sq_synth("stories15m", small, 1, 7, NULL, &err), SQ_OK);
    assert_int_equal(sq_quantize(small, smaller, &q, NULL, NULL, &err), SQ_OK);
    assert_int_equal(sq_file_write(data, words, strlen(words), NULL), SQ_OK);
    sq_eval_options o = {.against = small, .text = data}, alone = {.text = data};
    json_t *r = evaluate(smaller, &o), *its = evaluate(small, &alone);
    const json_t *list = json_object_get(r, "sensitivity");
    assert_int_equal(json_array_size(list), 1);
    double kl = sq_json_num(r, "kl", 0);
    assert_true(kl > 0);
    near(sq_json_num(json_array_get(list, 0), "kl", 0), kl, 1e-9 * kl);
    double ppl = sq_json_num(its, "perplexity", 0);
    near(sq_json_num(json_object_get(r, "against"), "perplexity", 0), ppl, 1e-6 * ppl);
    json_decref(r);
    json_decref(its);
}

/* A limit that is not met leaves the page; a folder that is not there is an error. */
static void test_limits(void **state) {
    (void)state;
    sq_error err = {0};
    sq_eval_options o = {.text = data, .max_perplexity = 1.0001, .report = page};
    remove(page);
    assert_int_equal(sq_eval(model, &o, NULL, NULL, &err), SQ_ECHECK);
    assert_true(sq_file_exists(page));
    o.max_perplexity = 0;
    o.report = "/nowhere/at/all.html";
    assert_int_equal(sq_eval(model, &o, NULL, NULL, &err), SQ_EIO);
    assert_non_null(strstr(err.text, "/nowhere/at/all.html"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_one_layer),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
