#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/file.h"
#include "base/json.h"

/* Every f16 survives a round trip, and rounding is to nearest even at every midpoint. */
static void f16_round_trip(void **state) {
    (void)state;
    for (uint32_t v = 0; v < 0x10000; v++) {
        float f = sq_f16_to_f32((uint16_t)v);
        if (isnan(f)) {
            assert_true(isnan(sq_f16_to_f32(sq_f32_to_f16(f))));
            continue;
        }
        assert_int_equal(sq_f32_to_f16(f), v);
        if ((v & 0x7fffu) < 0x7bffu) {
            float next = sq_f16_to_f32((uint16_t)(v + 1)), mid = (f + next) / 2;
            uint32_t even = (v & 1) ? v + 1 : v;
            assert_int_equal(sq_f32_to_f16(mid), even);
        }
    }
    assert_int_equal(sq_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(sq_f32_to_f16(65519.0f), 0x7bff);
}

static void bf16_rounding(void **state) {
    (void)state;
    assert_int_equal(sq_f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(sq_f32_to_bf16(1.00390625f), 0x3f80); /* tie, even below */
    assert_int_equal(sq_f32_to_bf16(1.01171875f), 0x3f82); /* tie, even above */
    assert_true(isnan(sq_bf16_to_f32(sq_f32_to_bf16(NAN))));
}

static void memory_limits(void **state) {
    (void)state;
    sq_error err = {0};
    assert_null(sq_alloc(SIZE_MAX / 2, 4, "x", &err));
    assert_int_equal(err.status, SQ_ENOMEM);
    size_t used = sq_memory_used();
    sq_memory_limit(used + 1000);
    void *p = sq_alloc(900, 1, "x", &err);
    assert_non_null(p);
    assert_null(sq_alloc(200, 1, "x", &err));
    sq_free(p);
    sq_memory_limit(0);
    assert_int_equal(sq_memory_used(), used);
    sq_memory_fail_after(2);
    p = sq_alloc(1, 1, "x", &err);
    assert_non_null(p);
    assert_null(sq_alloc(1, 1, "x", &err));
    sq_free(p);
    sq_arena a = {0};
    char *s = sq_arena_printf(&a, &err, "%d-%s", 5, "five");
    assert_string_equal(s, "5-five");
    assert_non_null(sq_arena_alloc(&a, 1 << 20, 1, &err));
    assert_string_equal(s, "5-five");
    sq_arena_free(&a);
}

static size_t resident(void) {
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f != NULL && fscanf(f, "%*s %ld", &pages) != 1) {
        pages = 0;
    }
    if (f != NULL) {
        fclose(f);
    }
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Large blocks that are freed go back to the system, whatever is still used beside them; they are
 * zeros when that was asked for, and take nothing before they are written. */
static void large_blocks_go_back(void **state) {
    enum { N = 64, BYTES = 900 << 10 };
    (void)state;
    unsigned char *large[N];
    void *small[N];
    sq_error err = {0};
    size_t before = resident(), used = sq_memory_used();
    if (before == 0) {
        skip();
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            large[i] = sq_alloc(BYTES, 1, "x", &err);
            small[i] = sq_alloc(1000, 1, "x", &err);
            assert_non_null(large[i]);
            assert_int_equal((uintptr_t)large[i] % 64, 0);
            for (size_t k = 0; k < BYTES; k += 977) {
                assert_int_equal(large[i][k], 0);
            }
            memset(large[i], 1, BYTES);
        }
        for (int i = 0; i < N; i++) {
            sq_free(large[i]);
        }
#if !defined(__SANITIZE_ADDRESS__)
        assert_true(resident() < before + (8 << 20));
#endif
        for (int i = 0; i < N; i++) {
            sq_free(small[i]);
        }
    }
    sq_memory_peak_reset();
    char *huge = sq_alloc_raw((size_t)9 << 20, 1, "x", &err);
    assert_non_null(huge);
    assert_int_equal(sq_memory_peak(), used + ((size_t)9 << 20));
    memset(huge, 1, (size_t)9 << 20);
    void *p = huge;
    assert_int_equal(sq_grow(&p, 100, (size_t)11 << 20, 1, "x", &err), SQ_OK);
    assert_int_equal(((char *)p)[99], 1);
    sq_free(p);
    assert_int_equal(sq_memory_used(), used);
}

/* While blocks are kept one of about the size of a freed one takes no new memory, is zeros when
 * that was asked for, and what is kept never adds to the most that was used at once. */
static void large_blocks_are_kept(void **state) {
    enum { MB = 1 << 20 };
    (void)state;
    sq_error err = {0};
    size_t before = resident(), used = sq_memory_used();
    if (before == 0) {
        skip();
    }
    sq_memory_peak_reset();
    sq_free(sq_alloc_raw(1, 40 * MB, "x", &err)); /* so much was used at once */
    sq_memory_reuse(1);
    for (int round = 0; round < 3; round++) {
        unsigned char *a = sq_alloc(1, (size_t)(32 - round) * MB, "x", &err);
        assert_non_null(a);
        for (size_t k = 0; k < 29 * MB; k += 977) {
            assert_int_equal(a[k], 0);
        }
        memset(a, 1, (size_t)(32 - round) * MB);
        sq_free(a);
        assert_int_equal(sq_memory_used(), used);
#if !defined(__SANITIZE_ADDRESS__)
        assert_true(resident() > before + 24 * MB);
        assert_true(resident() < before + 40 * MB);
#endif
    }
    unsigned char *b =
        sq_alloc_raw(1, (size_t)20 * MB, "x", &err); /* the kept one must go for it */
    assert_non_null(b);
    memset(b, 1, (size_t)20 * MB);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(resident() < before + 28 * MB);
#endif
    sq_memory_limit(used + (size_t)21 * MB); /* counts what is used, not what is kept */
    sq_free(b);
    b = sq_alloc_raw(1, (size_t)21 * MB, "x", &err);
    assert_non_null(b);
    sq_memory_limit(0);
    sq_free(b);
    sq_memory_reuse(0);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(resident() < before + 8 * MB);
#endif
}

static void files(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    sq_error err = {0};
    sq_arena a = {0};
    char *sub = sq_path_join(&a, dir, "one/two", &err), *f = sq_path_join(&a, sub, "f", &err);
    assert_int_equal(sq_make_dirs(sub, &err), SQ_OK);
    assert_int_equal(sq_file_write(f, "abc", 3, &err), SQ_OK);
    char *data;
    size_t n;
    assert_int_equal(sq_file_read(f, 2, &data, &n, &err), SQ_EFORMAT);
    assert_int_equal(sq_file_read(f, 3, &data, &n, &err), SQ_OK);
    assert_string_equal(data, "abc");
    sq_free(data);
    char **names;
    assert_int_equal(sq_list_dir(&a, sub, &names, &n, &err), SQ_OK);
    assert_int_equal(n, 1); /* no temporary file is left */
    json_t *v;
    assert_int_equal(sq_json_load(f, &v, &err), SQ_EFORMAT);
    assert_int_equal(sq_remove_tree(dir, &err), SQ_OK);
    assert_false(sq_file_exists(dir));
    sq_map m;
    assert_int_equal(sq_map_open(&m, f, &err), SQ_EIO);
    sq_arena_free(&a);
}

static void numbers_of_any_length(void **state) {
    (void)state;
    static const char *const good[] = {"{\"a\": 1000000000000000019884624838656, \"b\": 7}",
                                       "[-99999999999999999999, 99999999999999999999]",
                                       "99999999999999999999"};
    static const char *const bad[] = {"[1e999]", "[99999999999999999999", "[1.5e99999]"};
    sq_error err = {0};
    json_t *v;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sq_json_parse(good[i], strlen(good[i]), "x", &v, &err), SQ_OK);
        assert_true(i > 0 || sq_json_int(v, "b", 0) == 7);
        assert_true(i > 0 || sq_json_num(v, "a", 0) > 9e29);
        json_decref(v);
        assert_int_equal(sq_json_parse(bad[i], strlen(bad[i]), "x", &v, &err), SQ_EFORMAT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_round_trip),        cmocka_unit_test(bf16_rounding),
        cmocka_unit_test(memory_limits),         cmocka_unit_test(large_blocks_go_back),
        cmocka_unit_test(large_blocks_are_kept), cmocka_unit_test(files),
        cmocka_unit_test(numbers_of_any_length),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
