/* Pictures against Pillow (tests/oracle/gen_vision.py): decoding, both resizes; hostile files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "vision/image.h"
#include "vision_golden.h"

static uint32_t crc32_of(const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) {
            c = (c >> 1) ^ (0xedb88320u & (0u - (c & 1u)));
        }
    }
    return ~c;
}

static uint32_t image_crc(const sq_image *im) {
    return crc32_of(im->rgb, (size_t)(im->width * im->height) * 3);
}

static uint32_t resized_crc(const sq_image *im, const json_t *grid, sq_resize_kind kind) {
    sq_image out;
    sq_error err = {0};
    int64_t h = json_integer_value(json_array_get(grid, 1)) * 14;
    int64_t w = json_integer_value(json_array_get(grid, 2)) * 14;
    if (sq_image_resize_as(&out, im, w, h, kind, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    uint32_t crc = image_crc(&out);
    sq_image_free(&out);
    return crc;
}

static void pillow(void **state) {
    (void)state;
    json_t *v = expected();
    const json_t *list = json_object_get(v, "images"), *e;
    size_t i, bad = 0;
    json_array_foreach(list, i, e) {
        const char *name = sq_json_str(e, "file", "");
        const json_t *grid = json_object_get(e, "grid");
        sq_image im;
        sq_error err = {0};
        int64_t w = 0, h = 0;
        if (sq_image_load(&im, golden(name), &err) != SQ_OK ||
            sq_image_probe(golden(name), &w, &h, &err) != SQ_OK) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(im.width, sq_json_int(e, "width", -1));
        assert_int_equal(im.height, sq_json_int(e, "height", -1));
        assert_int_equal(w, im.width);
        assert_int_equal(h, im.height);
        if (image_crc(&im) != sq_json_int(e, "crc", -1) ||
            resized_crc(&im, grid, SQ_RESIZE_PILLOW) != sq_json_int(e, "resized_pillow", -1) ||
            resized_crc(&im, grid, SQ_RESIZE_TORCH8) != sq_json_int(e, "resized_torch8", -1)) {
            fprintf(stderr, "%s: pixels differ\n", name);
            bad++;
        }
        sq_image_free(&im);
    }
    assert_true(i > 30);
    assert_int_equal(bad, 0);
    json_decref(v);
}

/* Pillow 12 differs from 13 only where the height shrinks and the width grows. */
static void pass_order(void **state) {
    (void)state;
    static const int64_t size[][4] = {{50, 70, 56, 56}, {37, 300, 28, 308}, {333, 512, 336, 504}};
    static const uint32_t want12[] = {0x93f3ff75, 0x286e23ca, 0xfd9c0a54};
    static const uint32_t want13[] = {0x93f3ff75, 0xfee17fa5, 0xfd9c0a54};
    for (size_t k = 0; k < 3; k++) {
        sq_image im, a, b;
        int64_t h = size[k][0], w = size[k][1];
        assert_int_equal(sq_image_alloc(&im, w, h, NULL), SQ_OK);
        for (int64_t y = 0; y < h; y++) {
            for (int64_t x = 0; x < w; x++) {
                for (int64_t c = 0; c < 3; c++) {
                    im.rgb[(y * w + x) * 3 + c] =
                        (uint8_t)(7 * y + 13 * x + 29 * c + 5 * ((x * y) >> 3) +
                                  3 * ((x ^ y) & 31));
                }
            }
        }
        assert_int_equal(
            sq_image_resize_as(&a, &im, size[k][3], size[k][2], SQ_RESIZE_PILLOW12, NULL), SQ_OK);
        assert_int_equal(sq_image_resize(&b, &im, size[k][3], size[k][2], NULL), SQ_OK);
        assert_int_equal(image_crc(&a), want12[k]);
        assert_int_equal(image_crc(&b), want13[k]);
        sq_image_free(&a);
        sq_image_free(&b);
        sq_image_free(&im);
    }
}

static int try_bytes(const char *data, size_t n) {
    sq_image im;
    sq_error err = {0};
    if (sq_image_decode(&im, data, n, "x", &err) != SQ_OK) {
        assert_null(im.rgb);
        assert_true(err.text[0] != '\0');
        return 0;
    }
    sq_image_free(&im);
    return 1;
}

static void hostile(void **state) {
    (void)state;
    static const char *const names[] = {"rgb.png",         "palette-trns.png", "adam7.png",
                                        "rgba16.png",      "soft.jpg",         "exif6.jpg",
                                        "progressive.jpg", "cmyk.jpg",         "lossy.webp",
                                        "lossless.webp",   "alpha.webp",       "exif6.webp"};
    size_t used = sq_memory_used();
    uint32_t seed = 3;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char *data;
        size_t n;
        assert_int_equal(sq_file_read(golden(names[k]), 1 << 20, &data, &n, NULL), SQ_OK);
        assert_true(try_bytes(data, n));
        /* WebP's lossy data may lack its last padding */
        for (size_t cut = 0; cut + 4 < n; cut += 1 + n / 97) {
            char *part = sq_alloc(cut + 1, 1, "part", NULL); /* its own block: ASan sees the end */
            memcpy(part, data, cut);
            if (try_bytes(part, cut) && cut < n / 2) {
                fail_msg("%s of %zu bytes: %zu were taken", names[k], n, cut);
            }
            sq_free(part);
        }
        for (int round = 0; round < 150; round++) {
            char *copy = sq_alloc(n, 1, "copy", NULL);
            memcpy(copy, data, n);
            for (int i = 0; i < 1 + round % 5; i++) {
                seed = seed * 1664525u + 1013904223u;
                copy[(seed >> 8) % (round % 2 ? n : 128)] = (char)(seed >> 4);
            }
            try_bytes(copy, n);
            sq_free(copy);
        }
        sq_free(data);
    }
    assert_int_equal(sq_memory_used(), used);
}

static void truncated_is_error(void **state) {
    (void)state;
    static const char *const names[] = {"rgb.png", "soft.jpg", "progressive.jpg", "lossless.webp",
                                        "lossy.webp"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char *data;
        size_t n;
        sq_image im;
        assert_int_equal(sq_file_read(golden(names[k]), 1 << 20, &data, &n, NULL), SQ_OK);
        assert_int_equal(sq_image_decode(&im, data, n * 9 / 10, "x", NULL), SQ_EFORMAT);
        sq_free(data);
    }
}

/* Dimensions are refused before anything is allocated. */
static void huge(void **state) {
    (void)state;
    char *data;
    size_t n;
    sq_error err = {0};
    sq_image im;
    assert_int_equal(sq_file_read(golden("soft.jpg"), 1 << 20, &data, &n, NULL), SQ_OK);
    char *sof = NULL;
    for (size_t i = 0; i + 9 < n && sof == NULL; i++) {
        sof = data[i] == '\xff' && data[i + 1] == '\xc0' ? data + i : NULL;
    }
    assert_non_null(sof);
    memset(sof + 5, 0x7f, 4); /* 32639 x 32639 */
    sq_memory_limit(sq_memory_used() + 1000);
    assert_int_equal(sq_image_decode(&im, data, n, "x", &err), SQ_EFORMAT);
    assert_non_null(strstr(err.text, "32639x32639"));
    memcpy(sof + 5, "\x3f\xff\x3f\xff", 4); /* within the limits, beyond the memory */
    assert_int_equal(sq_image_decode(&im, data, n, "x", &err), SQ_ENOMEM);
    sq_memory_limit(0);
    sq_free(data);
    assert_int_equal(sq_image_alloc(&im, 1 << 20, 4, &err), SQ_EFORMAT);
    assert_int_equal(sq_image_decode(&im, "GIF89a..........", 16, "x", &err), SQ_EUNSUPPORTED);
    assert_int_equal(sq_image_decode(&im, "", 0, "x", &err), SQ_EUNSUPPORTED);
}

static void out_of_memory(void **state) {
    (void)state;
    static const char *const names[] = {"rgba.png", "cmyk.jpg", "exif5.jpg", "alpha.webp"};
    size_t used = sq_memory_used();
    for (size_t k = 0; k < 4; k++) {
        for (long fail = 1; fail < 20; fail++) {
            sq_image im, small = {0};
            sq_memory_fail_after(fail);
            sq_status st = sq_image_load(&im, golden(names[k]), NULL);
            if (st == SQ_OK) {
                st = sq_image_resize(&small, &im, 28, 56, NULL);
            }
            sq_memory_fail_after(0);
            sq_image_free(&im);
            sq_image_free(&small);
            assert_int_equal(sq_memory_used(), used);
            assert_true(st == SQ_OK || st == SQ_ENOMEM);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pillow),  cmocka_unit_test(pass_order),
        cmocka_unit_test(hostile), cmocka_unit_test(truncated_is_error),
        cmocka_unit_test(huge),    cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
