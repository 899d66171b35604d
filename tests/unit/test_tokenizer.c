/* Tokenizers of every published style against the ids and texts of HF tokenizers
 * (tests/oracle/gen_text.py), streaming, and hostile files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

static char *golden(const char *name, const char *suffix) {
    static char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/text/%s%s", root ? root : ".", name, suffix);
    return path;
}

static json_t *load(const char *name, const char *suffix) {
    json_t *v = NULL;
    sq_error err = {0};
    if (sq_json_load(golden(name, suffix), &v, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return v;
}

static sq_tokenizer *open_golden(const char *name) {
    sq_tokenizer *t = NULL;
    sq_error err = {0};
    if (sq_tokenizer_open(&t, golden(name, ".tokenizer.json"), &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return t;
}

static int same_ids(const json_t *want, const sq_ids *got) {
    if (json_array_size(want) != got->len) {
        return 0;
    }
    for (size_t i = 0; i < got->len; i++) {
        if (json_integer_value(json_array_get(want, i)) != got->data[i]) {
            return 0;
        }
    }
    return 1;
}

static void show(const char *name, const char *what, size_t i, const json_t *want,
                 const sq_ids *got) {
    char *w = json_dumps(want, JSON_COMPACT | JSON_ENCODE_ANY);
    fprintf(stderr, "%s %s, case %zu: wanted %.400s got", name, what, i, w);
    for (size_t k = 0; got != NULL && k < got->len && k < 60; k++) {
        fprintf(stderr, " %d", (int)got->data[k]);
    }
    fprintf(stderr, "\n");
    free(w);
}

static size_t check_ids(const sq_tokenizer *t, const char *name, size_t i, const char *s, size_t n,
                        int plain, int post, const json_t *want) {
    sq_ids ids = {0};
    sq_error err = {0};
    if (sq_tokenizer_encode(t, s, n, plain, post, &ids, &err) != SQ_OK) {
        fail_msg("%s case %zu: %s", name, i, err.text);
    }
    size_t bad = !same_ids(want, &ids);
    if (bad) {
        show(name, plain ? "plain" : post ? "post" : "ids", i, want, &ids);
    }
    sq_free(ids.data);
    return bad;
}

static sq_ids ids_of(const json_t *v) {
    sq_ids ids = {0};
    ids.len = json_array_size(v);
    ids.data = sq_alloc(ids.len + 1, sizeof *ids.data, "ids", NULL);
    for (size_t i = 0; i < ids.len; i++) {
        ids.data[i] = (int32_t)json_integer_value(json_array_get(v, i));
    }
    return ids;
}

/* At once and streamed; what is streamed is valid UTF-8 at every step. */
static size_t check_text(const sq_tokenizer *t, const char *name, size_t i, const json_t *id_list,
                         int skip, const char *want, size_t want_n) {
    sq_ids ids = ids_of(id_list);
    sq_buf at_once = {0}, stream = {0};
    sq_error err = {0};
    sq_detok d = {0};
    assert_int_equal(sq_tokenizer_decode(t, ids.data, ids.len, skip, &at_once, &err), SQ_OK);
    for (size_t k = 0; k < ids.len; k++) {
        assert_int_equal(sq_detok_push(t, &d, ids.data[k], skip, &stream, &err), SQ_OK);
        assert_int_equal(sq_utf8_valid(stream.data ? stream.data : "", stream.len), stream.len);
    }
    assert_int_equal(sq_detok_finish(t, &d, skip, &stream, &err), SQ_OK);
    size_t bad = 0;
    if (at_once.len != want_n || (want_n && memcmp(at_once.data, want, want_n) != 0)) {
        fprintf(stderr, "%s case %zu skip %d: wanted text '%s' got '%s'\n", name, i, skip, want,
                at_once.len ? at_once.data : "");
        bad = 1;
    }
    if (stream.len != want_n || (want_n && memcmp(stream.data, want, want_n) != 0)) {
        fprintf(stderr, "%s case %zu skip %d: wanted stream '%s' got '%s'\n", name, i, skip, want,
                stream.len ? stream.data : "");
        bad = 1;
    }
    sq_free(ids.data);
    sq_buf_free(&at_once);
    sq_buf_free(&stream);
    return bad;
}

static size_t check_case(const sq_tokenizer *t, const char *name, size_t i, const json_t *c) {
    const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids");
    const json_t *post = json_object_get(c, "post"), *plain = json_object_get(c, "plain");
    const json_t *decoded = json_object_get(c, "decoded"), *shown = json_object_get(c, "shown");
    size_t bad = 0;
    if (text != NULL) {
        const char *s = json_string_value(text);
        size_t n = json_string_length(text);
        bad += check_ids(t, name, i, s, n, 0, 0, ids);
        bad += check_ids(t, name, i, s, n, 0, 1, post ? post : ids);
        bad += check_ids(t, name, i, s, n, 1, 0, plain ? plain : ids);
    }
    decoded = decoded ? decoded : text;
    shown = shown ? shown : decoded;
    bad += check_text(t, name, i, ids, 0, json_string_value(decoded), json_string_length(decoded));
    bad += check_text(t, name, i, ids, 1, json_string_value(shown), json_string_length(shown));
    return bad;
}

static size_t check_broken(const sq_tokenizer *t, const char *name, size_t i, const json_t *c) {
    const char *hex = json_string_value(json_object_get(c, "hex"));
    char bytes[64];
    size_t n = strlen(hex) / 2;
    for (size_t k = 0; k < n; k++) {
        unsigned v;
        assert_int_equal(sscanf(hex + 2 * k, "%2x", &v), 1);
        bytes[k] = (char)v;
    }
    return check_ids(t, name, i, bytes, n, 0, 0, json_object_get(c, "ids"));
}

static void every_style(void **state) {
    (void)state;
    json_t *names = load("tokenizers", ".json");
    size_t bad = 0, lines = 0;
    for (size_t k = 0; k < json_array_size(names); k++) {
        const char *name = json_string_value(json_array_get(names, k));
        json_t *v = load(name, ".cases.json");
        sq_tokenizer *t = open_golden(name);
        const json_t *list = json_object_get(v, "cases"), *odd = json_object_get(v, "odd");
        const json_t *broken = json_object_get(v, "broken");
        for (size_t i = 0; i < json_array_size(list); i++, lines++) {
            bad += check_case(t, name, i, json_array_get(list, i));
        }
        for (size_t i = 0; i < json_array_size(odd); i++) {
            bad += check_case(t, name, 10000 + i, json_array_get(odd, i));
        }
        for (size_t i = 0; i < json_array_size(broken); i++) {
            bad += check_broken(t, name, 20000 + i, json_array_get(broken, i));
        }
        sq_tokenizer_close(&t);
        json_decref(v);
    }
    json_decref(names);
    assert_true(lines > 2000);
    assert_int_equal(bad, 0);
}

static void lookups(void **state) {
    (void)state;
    sq_tokenizer *t = open_golden("qwen2");
    int32_t id = sq_tokenizer_id(t, "<|im_start|>");
    assert_true(id > 0);
    assert_string_equal(sq_tokenizer_token(t, id), "<|im_start|>");
    assert_true(sq_tokenizer_is_special(t, id));
    assert_int_equal(sq_tokenizer_id(t, "no such token"), -1);
    assert_null(sq_tokenizer_token(t, sq_tokenizer_size(t)));
    assert_null(sq_tokenizer_token(t, -1));
    assert_null(sq_tokenizer_special(t, "bos_token"));
    sq_buf out = {0};
    int32_t ids[] = {-5, 1 << 30, id};
    assert_int_equal(sq_tokenizer_decode(t, ids, 3, 1, &out, NULL), SQ_OK);
    assert_int_equal(out.len, 0);
    sq_buf_free(&out);
    sq_tokenizer_close(&t);
    assert_null(t);
}

/* The configuration next to tokenizer.json: names of tokens, and tokens that only it has. */
static void config_names(void **state) {
    (void)state;
    json_t *root = load("gpt2", ".tokenizer.json"), *config = NULL;
    const char *text = "{\"eos_token\":{\"content\":\"<|im_end|>\"},\"bos_token\":null,"
                       "\"pad_token\":\"<pad>\",\"added_tokens_decoder\":{\"5000\":{\"content\":"
                       "\"<pad>\",\"special\":true},\"0\":{\"content\":\"!\"}}}";
    assert_int_equal(sq_json_parse(text, strlen(text), "x", &config, NULL), SQ_OK);
    sq_tokenizer *t;
    assert_int_equal(sq_tokenizer_from_json(&t, root, config, NULL), SQ_OK);
    assert_string_equal(sq_tokenizer_special(t, "eos_token"), "<|im_end|>");
    assert_string_equal(sq_tokenizer_special(t, "pad_token"), "<pad>");
    assert_null(sq_tokenizer_special(t, "bos_token"));
    sq_ids ids = {0};
    assert_int_equal(sq_tokenizer_encode(t, "<pad>", 5, 0, 0, &ids, NULL), SQ_OK);
    assert_int_equal(ids.len, 1);
    assert_int_equal(ids.data[0], 5000);
    sq_free(ids.data);
    sq_tokenizer_close(&t);
    json_decref(root);
    json_decref(config);
}

/* Half an emoji never comes out, and a megabyte of one word takes no quadratic time. */
static void stream_and_size(void **state) {
    (void)state;
    sq_tokenizer *t = open_golden("whole");
    sq_ids ids = {0};
    sq_error err = {0};
    assert_int_equal(sq_tokenizer_encode(t, "\xf0\x9f\xa6\x84", 4, 0, 0, &ids, &err), SQ_OK);
    assert_true(ids.len > 1);
    sq_detok d = {0};
    sq_buf out = {0};
    for (size_t i = 0; i < ids.len; i++) {
        assert_int_equal(sq_detok_push(t, &d, ids.data[i], 0, &out, &err), SQ_OK);
        assert_int_equal(out.len, i + 1 < ids.len ? 0 : 4);
    }
    sq_detok_free(&d);
    sq_buf_free(&out);
    size_t n = (size_t)1 << 20;
    char *big = sq_alloc(n, 1, "text", NULL);
    for (size_t i = 0; i < n; i++) {
        big[i] = "abcab the cat \n"[i * 7 % 15];
    }
    ids.len = 0;
    assert_int_equal(sq_tokenizer_encode(t, big, n, 0, 0, &ids, &err), SQ_OK);
    assert_int_equal(sq_tokenizer_decode(t, ids.data, ids.len, 0, &out, &err), SQ_OK);
    assert_int_equal(out.len, n);
    assert_memory_equal(out.data, big, n);
    sq_buf_free(&out);
    sq_free(big);
    sq_free(ids.data);
    sq_tokenizer_close(&t);
}

/* Opens a changed file; what opens must encode without harm. */
static int try_text(const char *text, size_t n) {
    json_t *root = NULL;
    sq_tokenizer *t = NULL;
    sq_error err = {0};
    if (sq_json_parse(text, n, "x", &root, &err) != SQ_OK) {
        return 0;
    }
    sq_status st = sq_tokenizer_from_json(&t, root, NULL, &err);
    json_decref(root);
    if (st != SQ_OK) {
        assert_null(t);
        assert_true(err.text[0] != '\0');
        return 0;
    }
    sq_ids ids = {0};
    sq_buf out = {0};
    const char *s = "a <x>y \xff the cat's 123 \xf0\x9f\x98\x80 <|im_start|>\n\n  zz";
    if (sq_tokenizer_encode(t, s, strlen(s), 0, 1, &ids, &err) == SQ_OK) {
        assert_int_equal(sq_tokenizer_decode(t, ids.data, ids.len, 1, &out, &err), SQ_OK);
    }
    sq_buf_free(&out);
    sq_free(ids.data);
    sq_tokenizer_close(&t);
    return 1;
}

static void hostile(void **state) {
    (void)state;
    static const char *const names[] = {"qwen2", "sp_classic", "llama3", "prefix", "behaviors"};
    size_t used = sq_memory_used();
    unsigned seed = 7, opened = 0;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char *text;
        size_t n;
        assert_int_equal(
            sq_file_read(golden(names[k], ".tokenizer.json"), 1 << 20, &text, &n, NULL), SQ_OK);
        char *copy = sq_alloc(n + 1, 1, "text", NULL);
        for (int round = 0; round < 120; round++) {
            memcpy(copy, text, n);
            size_t len = n;
            /* the configuration stands in the first 3 kB, where a change hurts most */
            size_t span = round % 3 == 0 ? n : n < 3000 ? n : 3000;
            for (int i = 0; i < 1 + round % 4; i++) {
                seed = seed * 1664525u + 1013904223u;
                copy[(seed >> 8) % span] = (char)("0{}[]\",:aT9\\"[(seed >> 4) % 12]);
            }
            if (round % 10 == 9) {
                len = (seed >> 8) % n;
            }
            opened += (unsigned)try_text(copy, len);
        }
        sq_free(copy);
        sq_free(text);
    }
    assert_true(opened > 20);
    assert_int_equal(sq_memory_used(), used);
}

static void hostile_files(void **state) {
    (void)state;
    static const char *const bad[] = {
        "[]",
        "{}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[5]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Nmt\"}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":-4,\"content\":"
        "\"x\"}]}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":"
        "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}}]}}",
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"CTC\"}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *root = NULL;
        sq_tokenizer *t = NULL;
        sq_error err = {0};
        assert_int_equal(sq_json_parse(bad[i], strlen(bad[i]), "x", &root, &err), SQ_OK);
        sq_status st = sq_tokenizer_from_json(&t, root, NULL, &err);
        if (st != SQ_EFORMAT && st != SQ_EUNSUPPORTED) {
            fail_msg("case %zu gave %d", i, (int)st);
        }
        assert_null(t);
        json_decref(root);
    }
}

/* Every allocation may fail: an error, no leak. */
static void out_of_memory(void **state) {
    (void)state;
    json_t *root = load("sp_classic", ".tokenizer.json");
    size_t used = sq_memory_used();
    long k = 1;
    for (;; k++) {
        sq_tokenizer *t = NULL;
        sq_error err = {0};
        sq_memory_fail_after(k);
        sq_status st = sq_tokenizer_from_json(&t, root, NULL, &err);
        sq_ids ids = {0};
        if (st == SQ_OK) {
            st = sq_tokenizer_encode(t, "the cat", 7, 0, 1, &ids, &err);
        }
        sq_memory_fail_after(0);
        sq_free(ids.data);
        sq_tokenizer_close(&t);
        assert_int_equal(sq_memory_used(), used);
        if (st == SQ_OK) {
            break;
        }
        assert_int_equal(st, SQ_ENOMEM);
    }
    assert_true(k > 10);
    json_decref(root);
}

/* SentencePiece's own file: ids as its library gives them. */
static void sentencepiece_model(void **state) {
    (void)state;
    json_t *cases = load("spm/cases", ".json");
    sq_tokenizer *t = NULL;
    sq_error err = {0};
    size_t i, bad = 0;
    json_t *c;
    if (sq_tokenizer_open(&t, golden("spm", ""), &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    json_array_foreach(cases, i, c) {
        const json_t *text = json_object_get(c, "text");
        bad += check_ids(t, "spm", i, json_string_value(text), json_string_length(text), 0, 0,
                         json_object_get(c, "ids"));
    }
    assert_int_equal(bad, 0);
    assert_true(i > 70);
    sq_tokenizer_close(&t);
    json_decref(cases);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentencepiece_model),
        cmocka_unit_test(every_style),
        cmocka_unit_test(lookups),
        cmocka_unit_test(config_names),
        cmocka_unit_test(stream_and_size),
        cmocka_unit_test(hostile),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
