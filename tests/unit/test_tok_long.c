/* Long texts and many texts: merging in chunks, normal forms in pieces, an encoder that lives on,
 * the public codec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <utf8proc.h>

#include "squint/squint.h"
#include "text/tok.h"
#include "text/utf8.h"

static uint32_t seed = 1;

static uint32_t below(uint32_t n) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * n >> 32);
}

static char *golden(const char *name) {
    static char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/text/%s.tokenizer.json", root ? root : ".", name);
    return path;
}

/* A vocabulary of a few letters and random merges, in any order: a token may have several, and one
 * that is made late may be merged early. */
static sq_tokenizer *random_merges(uint32_t letters, uint32_t n) {
    char text[128][32];
    uint32_t tokens = 0;
    json_t *vocab = json_object(), *merges = json_array();
    for (; tokens < letters; tokens++) {
        snprintf(text[tokens], sizeof text[0], "%c", 'a' + (int)tokens);
        json_object_set_new(vocab, text[tokens], json_integer(tokens));
    }
    for (uint32_t i = 0; i < n && tokens < 128; i++) {
        char a[32], b[32];
        memcpy(a, text[below(tokens)], sizeof a);
        memcpy(b, text[below(tokens)], sizeof b);
        if (strlen(a) + strlen(b) > 12) {
            continue;
        }
        snprintf(text[tokens], sizeof text[0], "%.15s%.15s", a, b);
        json_array_insert_new(merges, below((uint32_t)json_array_size(merges) + 1),
                              json_pack("[s, s]", a, b));
        if (json_object_get(vocab, text[tokens]) == NULL) {
            json_object_set_new(vocab, text[tokens], json_integer(tokens));
            tokens++;
        }
    }
    json_t *root =
        json_pack("{s:{s:s, s:o, s:o}}", "model", "type", "BPE", "vocab", vocab, "merges", merges);
    sq_tokenizer *t = NULL;
    sq_error err = {0};
    if (sq_tokenizer_from_json(&t, root, NULL, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    json_decref(root);
    return t;
}

static size_t merge(const sq_tokenizer *t, const int32_t *s, size_t n, size_t chunk, int32_t *out) {
    tok_merger w = {.chunk = chunk};
    size_t left = 0;
    sq_error err = {0};
    memcpy(out, s, n * sizeof *s);
    assert_int_equal(sq_tok_merge(t, &w, out, n, &left, &err), SQ_OK);
    sq_tok_merge_free(&w);
    return left;
}

static void chunks(void **state) {
    (void)state;
    enum { MOST = 600 };
    static const size_t sizes[] = {1, 2, 3, 5, 16, 40};
    int32_t s[MOST], want[MOST], got[MOST];
    for (int round = 0; round < 300; round++) {
        uint32_t letters = 1 + below(4);
        sq_tokenizer *t = random_merges(letters, 4 + below(60));
        for (int k = 0; k < 12; k++) {
            size_t n = 1 + below(MOST);
            uint32_t period = 1 + below(k < 6 ? 5 : MOST);
            for (size_t i = 0; i < n; i++) {
                s[i] = i < period ? (int32_t)below(letters) : s[i - period];
            }
            size_t m = merge(t, s, n, MOST, want);
            size_t chunk = sizes[below(sizeof sizes / sizeof *sizes)];
            assert_int_equal(merge(t, s, n, chunk, got), m);
            assert_memory_equal(got, want, m * sizeof *want);
        }
        sq_tokenizer_close(&t);
    }
}

static void normalize(tok_kind kind, const char *s, size_t n, sq_buf *out) {
    tok_step step = {.kind = kind};
    const tok_chain chain = {&step, 1};
    sq_buf spare = {0};
    sq_error err = {0};
    out->len = 0;
    sq_text_put(out, s, n);
    assert_int_equal(sq_tok_normalize(&chain, NULL, out, &spare, &err), SQ_OK);
    sq_buf_free(&spare);
}

/* Pieces give what utf8proc gives of the whole text. */
static void forms(void **state) {
    (void)state;
    static const tok_kind kinds[] = {TOK_NFC, TOK_NFD, TOK_NFKC, TOK_NFKD};
    static const int options[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE,
                                  UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    static const uint32_t range[][2] = {
        {0x20, 0x7f},     {0xa0, 0x250},    {0x300, 0x370},   {0x300, 0x370},
        {0x370, 0x590},   {0x591, 0x700},   {0x900, 0x980},   {0x1100, 0x1200},
        {0x1e00, 0x2100}, {0x2126, 0x2330}, {0x3001, 0x3100}, {0x4e00, 0x4f00},
        {0xac00, 0xae00}, {0xf900, 0xfb50}, {0xff00, 0xffef}, {0x1d15e, 0x1d166}};
    sq_buf text = {0}, got = {0};
    for (int round = 0; round < 20000; round++) {
        text.len = 0;
        for (uint32_t i = 1 + below(40); i > 0; i--) {
            const uint32_t *r = range[below(sizeof range / sizeof *range)];
            char c[4];
            sq_text_put(&text, c, sq_utf8_put(c, r[0] + below(r[1] - r[0])));
        }
        utf8proc_uint8_t *want = NULL;
        utf8proc_ssize_t n =
            utf8proc_map((const utf8proc_uint8_t *)text.data, (utf8proc_ssize_t)text.len, &want,
                         (utf8proc_option_t)(UTF8PROC_STABLE | options[round % 4]));
        assert_true(n > 0);
        normalize(kinds[round % 4], text.data, text.len, &got);
        assert_int_equal(got.len, n);
        assert_memory_equal(got.data, want, got.len);
        free(want);
    }
    sq_buf_free(&text);
    sq_buf_free(&got);
}

/* HF tokenizers' tables are those of Unicode 9: a later mark has no class, and stops others. */
static void later_marks(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"\xe0\xb1\x8d\xe0\xb0\xbc", "\xe0\xb1\x8d\xe0\xb0\xbc"}, /* U+0C4D (9) U+0C3C (7) */
        {"a\xe0\xb0\xbc\xcc\x81", "a\xe0\xb0\xbc\xcc\x81"},       /* no \u00e1 across it */
        {"\xe0\xa2\x98\xcc\x81\xcc\x96", "\xe0\xa2\x98\xcc\x96\xcc\x81"},
        {"\xe0\xa2\x98"
         "a\xcc\x81",
         "\xe0\xa2\x98\xc3\xa1"}};
    sq_buf got = {0};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        normalize(TOK_NFC, pairs[i][0], strlen(pairs[i][0]), &got);
        assert_string_equal(got.data, pairs[i][1]);
    }
    sq_buf_free(&got);
}

/* Numbers and letters of Unicode 15 are what Oniguruma takes them for. */
static void later_letters(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        int found;
    } rows[] = {{"\\p{N}", "\xf0\x9d\x8b\x81", 1},
                {"[^\\s\\p{N}]", "\xf0\x9d\x8b\x81", 0},
                {"\\p{L}{1,2}", "\xf0\x91\xbc\x84", 1},
                {"[^\\p{L}]", "\xf0\x91\xbc\x84", 0},
                {"\\p{L}", "1", 0},
                {"\\p{Lu}\\p{N}", "A1", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tok_step step = {0};
        tok_match m = {0};
        size_t a, b;
        sq_error err = {0};
        assert_int_equal(
            sq_tok_regex(&step.re, rows[i].pattern, strlen(rows[i].pattern), "test", &err), SQ_OK);
        assert_int_equal(
            sq_tok_find(&m, &step, rows[i].text, strlen(rows[i].text), 0, &a, &b, &err),
            rows[i].found);
        pcre2_code_free(step.re);
        sq_tok_match_free(&m);
    }
}

/* A million marks in the wrong order: hours, were they sorted by neighbours. */
static void marks(void **state) {
    (void)state;
    enum { N = 1000000 };
    sq_buf text = {0}, got = {0};
    sq_text_put(&text, "x", 1);
    for (int i = 0; i < N; i++) {
        sq_text_put(&text, i % 2 ? "\xcc\xa3" : "\xcc\x81", 2); /* U+0323, U+0301 */
    }
    normalize(TOK_NFD, text.data, text.len, &got);
    assert_int_equal(got.len, text.len);
    for (int i = 0; i < N; i++) {
        assert_memory_equal(got.data + 1 + 2 * i, i < N / 2 ? "\xcc\xa3" : "\xcc\x81", 2);
    }
    sq_buf_free(&text);
    sq_buf_free(&got);
}

/* What an encoder has met before does not change what it gives. */
static void encoder(void **state) {
    (void)state;
    static const char *const texts[] = {
        "the cat sits",     "the cat's mat\n", "",
        "\xff broken \xc3", "  12 345",        "a\xcc\x81 \xe4\xbd\xa0",
        "<|im_start|>user", "the cat sits"};
    sq_tokenizer *t = NULL;
    sq_encoder *e = NULL;
    sq_error err = {0};
    assert_int_equal(sq_tokenizer_open(&t, golden("qwen2"), &err), SQ_OK);
    assert_int_equal(sq_encoder_open(&e, t, &err), SQ_OK);
    for (size_t i = 0; i < 4 * sizeof texts / sizeof *texts; i++) {
        const char *s = texts[i % (sizeof texts / sizeof *texts)];
        sq_ids want = {0}, got = {0};
        assert_int_equal(sq_tokenizer_encode(t, s, strlen(s), 0, 1, &want, &err), SQ_OK);
        assert_int_equal(sq_encoder_encode(e, s, strlen(s), 0, 1, &got, &err), SQ_OK);
        assert_int_equal(got.len, want.len);
        for (size_t k = 0; k < got.len; k++) {
            assert_int_equal(got.data[k], want.data[k]);
        }
        sq_free(want.data);
        sq_free(got.data);
    }
    sq_encoder_close(&e);
    sq_tokenizer_close(&t);
}

static void codec(void **state) {
    (void)state;
    static const char s[] = "the cat <|im_start|> sits\0on";
    sq_text_codec *c = NULL;
    sq_error err = {0};
    const int32_t *ids;
    const char *text;
    size_t n, len;
    assert_int_equal(sq_text_codec_open(&c, "/nowhere", &err), SQ_EFORMAT);
    assert_null(c);
    assert_int_equal(sq_text_codec_open(&c, golden("qwen2"), &err), SQ_OK);
    assert_int_equal(sq_text_codec_encode(c, s, sizeof s - 1, &ids, &n, &err), SQ_OK);
    assert_int_equal(sq_text_codec_decode(c, ids, n, &text, &len, &err), SQ_OK);
    assert_int_equal(len, sizeof s - 1);
    assert_memory_equal(text, s, len);
    assert_int_equal(sq_text_codec_encode(c, "", 0, &ids, &n, &err), SQ_OK);
    assert_int_equal(n, 0);
    assert_int_equal(sq_text_codec_decode(c, NULL, 0, &text, &len, &err), SQ_OK);
    assert_string_equal(text, "");
    assert_int_equal(sq_text_codec_decode(c, (const int32_t[]){-1, 1 << 30}, 2, &text, &len, &err),
                     SQ_OK);
    assert_int_equal(len, 0);
    assert_int_equal(sq_text_codec_encode(c, NULL, 0, &ids, &n, &err), SQ_EARG);
    sq_text_codec_close(&c);
    sq_text_codec_close(&c);
    assert_int_equal(sq_memory_used(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks),      cmocka_unit_test(forms),         cmocka_unit_test(marks),
        cmocka_unit_test(later_marks), cmocka_unit_test(later_letters), cmocka_unit_test(encoder),
        cmocka_unit_test(codec),
    };
    return cmocka_run_group_tests_name("tok_long", tests, NULL, NULL);
}
