/* The program itself, as it lies beside the tests: explain knows every option, scheme, method,
 * format and error that the tree has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"

static char program[900];

static int setup(void **state) {
    (void)state;
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 64);
    for (int up = 0; n > 0 && up < 3; up++) {
        program[n] = '\0';
        char *slash = strrchr(program, '/');
        n = slash == NULL ? 0 : slash - program;
    }
    if (n <= 0) {
        return -1;
    }
    snprintf(program + n, sizeof program - (size_t)n, "/cli/squint");
    return access(program, X_OK);
}

/* Runs "squint ARGS", output of both kinds into *out (sq_buf_free); returns the exit status. */
static int run(const char *args, sq_buf *out) {
    char command[2048], piece[4096];
    snprintf(command, sizeof command, "'%s' %s 2>&1", program, args);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    *out = (sq_buf){0};
    for (size_t n; (n = fread(piece, 1, sizeof piece, p)) > 0;) {
        sq_buf_put(out, piece, n);
    }
    int status = pclose(p);
    sq_buf_puts(out, "");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Explains the topic; fails unless it is of that kind (NULL: any) and says something. */
static void expect(const char *topic, const char *kind) {
    char args[256];
    sq_buf b;
    json_t *r = NULL;
    snprintf(args, sizeof args, "explain '%s' --json", topic);
    if (run(args, &b) != 0) {
        fail_msg("explain knows nothing of '%s': %s", topic, b.data);
    }
    assert_int_equal(sq_json_parse(b.data, b.len, topic, &r, NULL), SQ_OK);
    const json_t *t = json_array_get(json_object_get(r, "topics"), 0);
    if (kind != NULL && strcmp(sq_json_str(t, "kind", ""), kind) != 0) {
        fail_msg("'%s' is a %s, wanted a %s", topic, sq_json_str(t, "kind", ""), kind);
    }
    assert_true(strlen(sq_json_str(t, "text", "")) > 10 ||
                json_array_size(json_object_get(t, "verbs")) > 0);
    json_decref(r);
    sq_buf_free(&b);
}

/* Every word of "a|b|c  …" at the start of an option's help, as the option's own line has it. */
static size_t each_choice(const char *verb, const char *option, const char *kind) {
    char args[64];
    sq_buf b;
    size_t n = 0;
    snprintf(args, sizeof args, "%s --help", verb);
    assert_int_equal(run(args, &b), 0);
    char *line = strstr(b.data, option);
    assert_non_null(line);
    line += strlen(option);
    line += strspn(line, " ");
    line[strcspn(line, " \n")] = '\0';
    for (char *save, *word = strtok_r(line, "|", &save); word != NULL;
         word = strtok_r(NULL, "|", &save)) {
        expect(word, kind);
        n++;
    }
    sq_buf_free(&b);
    return n;
}

static void test_choices(void **state) {
    (void)state;
    assert_true(each_choice("quantize", "--scheme ", "scheme") >= 4);
    assert_true(each_choice("quantize", "--vision ", "scheme") >= 4);
    assert_true(each_choice("quantize", "--method ", "method") >= 4);
    assert_true(each_choice("quantize", "--format ", NULL) >= 5);
    assert_true(each_choice("convert", "--format ", NULL) >= 6);
    assert_true(each_choice("verify", "\n  --level ", NULL) == 5);
    assert_true(each_choice("quantize", "--on-indivisible ", NULL) == 4);
}

/* "--name" in the manual's text, where dashes are escaped and fonts change, not as a part of
 * another. */
static int in_manual(const char *man, const char *name) {
    size_t n = strlen(name);
    for (const char *s = man; (s = strstr(s, name)) != NULL; s += n) {
        char after = s[n];
        if ((s == man || s[-1] != '-') && after != '-' && (after < 'a' || after > 'z')) {
            return 1;
        }
    }
    return 0;
}

/* Every option is in the manual. */
static void test_manual(void **state) {
    char path[600], *man;
    size_t len, i, to = 0;
    sq_buf b;
    json_t *r = NULL, *t;
    (void)state;
    snprintf(path, sizeof path, "%s/docs/squint.1", getenv("SQ_TEST_ROOT"));
    assert_int_equal(sq_file_read(path, 1 << 20, &man, &len, NULL), SQ_OK);
    for (i = 0; i < len; i++) {
        if (man[i] == '\\' && man[i + 1] == 'f') {
            i += 2;
        } else if (man[i] != '\\') {
            man[to++] = man[i];
        }
    }
    man[to] = '\0';
    assert_int_equal(run("explain --json", &b), 0);
    assert_int_equal(sq_json_parse(b.data, b.len, "explain", &r, NULL), SQ_OK);
    json_array_foreach(json_object_get(r, "topics"), i, t) {
        const char *name = sq_json_str(t, "name", "");
        if (strcmp(sq_json_str(t, "kind", ""), "option") == 0 && !in_manual(man, name)) {
            fail_msg("docs/squint.1 has no %s", name);
        }
    }
    json_decref(r);
    sq_buf_free(&b);
    sq_free(man);
}

/* The names are read from the public header. */
static void test_errors(void **state) {
    (void)state;
    char path[600], *text;
    size_t len, n = 0;
    snprintf(path, sizeof path, "%s/include/squint/status.h", getenv("SQ_TEST_ROOT"));
    assert_int_equal(sq_file_read(path, 1 << 20, &text, &len, NULL), SQ_OK);
    for (char *s = text; (s = strstr(s, "\n    SQ_")) != NULL; s++) {
        char name[32], number[16];
        if (sscanf(s, " %31[A-Z_] = %15[-0-9]", name, number) == 2) {
            expect(name, "error");
            expect(number, "error");
            n++;
        }
    }
    assert_true(n >= 11);
    sq_free(text);
    for (int i = 0; i <= 5; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "exit %d", i);
        expect(topic, "exit status");
    }
}

static int listed(const json_t *list, const char *name) {
    size_t i;
    json_t *t;
    json_array_foreach(list, i, t) {
        if (strcmp(sq_json_str(t, "name", ""), name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Everything in the list says something, and "see also" leads to something in it. A text about an
 * option that no verb has would be missing here, and seen by those that point to it. */
static void test_list(void **state) {
    (void)state;
    sq_buf b;
    json_t *r = NULL, *t, *s;
    size_t i, k, options = 0;
    assert_int_equal(run("explain --json", &b), 0);
    assert_int_equal(sq_json_parse(b.data, b.len, "explain", &r, NULL), SQ_OK);
    const json_t *list = json_object_get(r, "topics");
    json_array_foreach(list, i, t) {
        int option = strcmp(sq_json_str(t, "kind", ""), "option") == 0;
        options += (size_t)option;
        assert_true(strlen(sq_json_str(t, "summary", "")) > 3);
        assert_true(option ? json_array_size(json_object_get(t, "verbs")) > 0
                           : strlen(sq_json_str(t, "text", "")) > 10);
        json_array_foreach(json_object_get(t, "see"), k, s) {
            if (!listed(list, json_string_value(s))) {
                fail_msg("'%s' points to '%s', which is not there", sq_json_str(t, "name", ""),
                         json_string_value(s));
            }
        }
    }
    assert_true(options > 50);
    expect("--group-size", "option");
    expect("group-size", "option");
    expect("--seed", "option");
    json_decref(r);
    sq_buf_free(&b);
}

static void test_unknown(void **state) {
    (void)state;
    sq_buf b;
    assert_int_equal(run("explain groupsize", &b), 2);
    assert_non_null(strstr(b.data, "got 'groupsize'"));
    assert_non_null(strstr(b.data, "nearest: --group-size"));
    sq_buf_free(&b);
    assert_int_equal(run("explain agw", &b), 2);
    assert_non_null(strstr(b.data, "nearest: awq"));
    sq_buf_free(&b);
    assert_int_equal(run("explain zzzzzzzzzzzzzzzzzzzzzz", &b), 2);
    assert_null(strstr(b.data, "nearest"));
    sq_buf_free(&b);
    assert_int_equal(run("explain ''", &b), 2);
    sq_buf_free(&b);
    /* longer than any name */
    assert_int_equal(run("explain $(printf 'x%.0s' $(seq 300))", &b), 2);
    sq_buf_free(&b);
}

/* Every figure that was asked for is a number above 0, and only those. */
static void test_bench(void **state) {
    (void)state;
    const char *root = getenv("SQ_TEST_ROOT");
    char args[1200];
    sq_buf b;
    json_t *r = NULL;
    static const char *const keys[] = {
        "prefill_tokens_per_s",    "decode_tokens_per_s",          "vision_s",      "weight_bytes",
        "bytes_per_decoded_token", "memory_bandwidth_bytes_per_s", "peak_rss_bytes"};
    const char *model = root == NULL ? "." : root;
    snprintf(args, sizeof args,
             "bench '%s/models/squint-vl-5m' -q --json -p 9 -n 2 --image 64x48 --repeat 2", model);
    assert_int_equal(run(args, &b), 0);
    assert_int_equal(sq_json_parse(b.data, b.len, "bench", &r, NULL), SQ_OK);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_true(json_number_value(json_object_get(r, keys[i])) > 0);
    }
    json_decref(r);
    sq_buf_free(&b);
    snprintf(args, sizeof args, "bench '%s/models/squint-vl-5m' -q --json -p 0 -n 1", model);
    assert_int_equal(run(args, &b), 0);
    assert_int_equal(sq_json_parse(b.data, b.len, "bench", &r, NULL), SQ_OK);
    assert_true(json_number_value(json_object_get(r, "prefill_tokens_per_s")) == 0);
    json_decref(r);
    sq_buf_free(&b);
    static const struct {
        const char *args;
        int status;
    } wrong[] = {{"-p 0 -n 0", 2}, {"--image 3", 2}, {"-p 100000", 4}, {"--repeat 0", 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(args, sizeof args, "bench '%s/models/squint-vl-5m' -q %s", model, wrong[i].args);
        assert_int_equal(run(args, &b), wrong[i].status);
        sq_buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices), cmocka_unit_test(test_manual),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_list),
        cmocka_unit_test(test_unknown), cmocka_unit_test(test_bench),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
