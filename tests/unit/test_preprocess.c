/* Patches of pictures and videos against transformers (tests/oracle/gen_vision.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "vision/preprocess.h"
#include "vision_golden.h"

static int64_t int_at(const json_t *list, size_t i) {
    return json_integer_value(json_array_get(list, i));
}

static sq_preproc published(void) {
    sq_preproc p;
    sq_preproc_default(&p);
    p.min_pixels = p.video_min_pixels = 3136;
    p.max_pixels = p.video_max_pixels = 12845056;
    return p;
}

/* Largest difference to the sampled values, and of the mean of all. */
static void compare(const sq_pixels *px, const json_t *e, double tol) {
    const json_t *grid = json_object_get(e, "grid"), *want = json_object_get(e, "patches");
    const json_t *at = json_object_get(want, "at"), *values = json_object_get(want, "values");
    assert_int_equal(px->grid_t, int_at(grid, 0));
    assert_int_equal(px->grid_h, int_at(grid, 1));
    assert_int_equal(px->grid_w, int_at(grid, 2));
    assert_int_equal(px->patch_dim, sq_json_int(want, "dim", -1));
    int64_t rows = px->grid_t * px->grid_h * px->grid_w, n = rows * px->patch_dim;
    assert_int_equal(rows, sq_json_int(want, "rows", -1));
    assert_int_equal(px->tokens, rows / 4);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)px->patches[i];
    }
    if (!(fabs(sum - sq_json_num(want, "sum", NAN)) / (double)n <= tol)) {
        fail_msg("%s: mean differs by %g", sq_json_str(e, "file", ""),
                 fabs(sum - sq_json_num(want, "sum", NAN)) / (double)n);
    }
    for (size_t i = 0; i < json_array_size(at); i++) {
        double got = (double)px->patches[int_at(at, i)];
        double w = json_number_value(json_array_get(values, i));
        if (!(fabs(got - w) <= tol)) {
            fail_msg("%s: value %lld is %.9g, wanted %.9g", sq_json_str(e, "file", ""),
                     (long long)int_at(at, i), got, w);
        }
    }
}

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

/* Pictures are equal bit for bit. */
static void images(void **state) {
    (void)state;
    json_t *v = expected();
    const json_t *list = json_object_get(v, "images"), *e;
    sq_preproc p = published();
    size_t i;
    json_array_foreach(list, i, e) {
        sq_pixels px, plan;
        sq_error err = {0};
        char *path = golden(sq_json_str(e, "file", ""));
        if (sq_pixels_image_file(&px, &p, path, &err) != SQ_OK ||
            sq_pixels_plan_image(&plan, &p, path, &err) != SQ_OK) {
            fail_msg("%s", err.text);
        }
        compare(&px, e, 1e-6);
        size_t n = (size_t)(px.grid_t * px.grid_h * px.grid_w * px.patch_dim) * sizeof(float);
        assert_int_equal(crc32_of(px.patches, n),
                         sq_json_int(json_object_get(e, "patches"), "crc", -1));
        assert_int_equal(plan.tokens, px.tokens);
        assert_int_equal(plan.grid_w, px.grid_w);
        assert_null(plan.patches);
        sq_pixels_free(&px);
    }
    json_decref(v);
}

/* Colour conversion is FFmpeg's, equal in the versions tried (5.1 and 8), but not promised: 1 of
 * 255 steps.
 */
static void videos(void **state) {
    (void)state;
    json_t *v = expected();
    const json_t *list = json_object_get(v, "videos"), *e;
    size_t i;
    json_array_foreach(list, i, e) {
        sq_preproc p = published();
        sq_pixels px;
        sq_error err = {0};
        p.fps = sq_json_num(e, "fps", -1);
        if (sq_pixels_video_file(&px, &p, golden(sq_json_str(e, "file", "")), &err) != SQ_OK) {
            fail_msg("%s", err.text);
        }
        compare(&px, e, 1.01 / 255 / 0.26);
        assert_int_equal(px.frames, json_array_size(json_object_get(e, "indices")));
        assert_true(fabs(px.second_per_grid - sq_json_num(e, "second_per_grid", NAN)) < 1e-12);
        sq_pixels_free(&px);
    }
    assert_true(i >= 4);
    json_decref(v);
}

static void sizes(void **state) {
    (void)state;
    json_t *v = expected();
    const json_t *list = json_object_get(v, "smart_resize"), *e;
    size_t i;
    json_array_foreach(list, i, e) {
        int64_t h = 0, w = 0;
        sq_error err = {0};
        sq_status st = sq_smart_resize(int_at(e, 0), int_at(e, 1), int_at(e, 2), int_at(e, 3),
                                       int_at(e, 4), &h, &w, &err);
        assert_int_equal(h, int_at(e, 5));
        assert_int_equal(w, int_at(e, 6));
        assert_int_equal(st, int_at(e, 5) == 0 ? SQ_EARG : SQ_OK);
    }
    assert_true(i >= 200);
    int64_t h, w;
    assert_int_equal(sq_smart_resize(0, 5, 28, 3136, 9999, &h, &w, NULL), SQ_EARG);
    assert_int_equal(sq_smart_resize(5, -1, 28, 3136, 9999, &h, &w, NULL), SQ_EARG);
    assert_int_equal(sq_smart_resize(INT64_MAX, INT64_MAX, 28, 1, 9999, &h, &w, NULL), SQ_EARG);
    json_decref(v);
}

static void sampling(void **state) {
    (void)state;
    json_t *v = expected();
    const json_t *list = json_object_get(v, "sampling"), *e;
    sq_preproc p = published();
    int64_t *got, n;
    size_t i;
    json_array_foreach(list, i, e) {
        const json_t *want = json_array_get(e, 3);
        p.fps = json_number_value(json_array_get(e, 2));
        assert_int_equal(sq_sample_frames(&p, int_at(e, 0), json_number_value(json_array_get(e, 1)),
                                          &got, &n, NULL),
                         SQ_OK);
        assert_int_equal(n, json_array_size(want));
        for (int64_t k = 0; k < n; k++) {
            assert_int_equal(got[k], int_at(want, (size_t)k));
        }
        sq_free(got);
    }
    assert_true(i >= 12);
    p.fps = 2;
    assert_int_equal(sq_sample_frames(&p, 1, 30, &got, &n, NULL), SQ_EARG);
    assert_int_equal(sq_sample_frames(&p, 10, 0, &got, &n, NULL), SQ_EFORMAT);
    assert_int_equal(sq_sample_frames(&p, 0, 30, &got, &n, NULL), SQ_EFORMAT);
    for (int64_t t = 2; t < 3000; t++) { /* every index is a frame, none twice */
        assert_int_equal(sq_sample_frames(&p, t, 7.3, &got, &n, NULL), SQ_OK);
        for (int64_t k = 0; k < n; k++) {
            assert_true(got[k] < t && (k == 0 || got[k] > got[k - 1]));
        }
        sq_free(got);
    }
    json_decref(v);
}

static void put(const char *dir, const char *name, const char *text) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(sq_file_write(path, text, strlen(text), NULL), SQ_OK);
}

static void configs(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-preproc-XXXXXX";
    assert_non_null(mkdtemp(dir));
    sq_preproc p;
    sq_error err = {0};
    assert_int_equal(sq_preproc_load(&p, dir, &err), SQ_OK);
    assert_int_equal(p.max_pixels, 1003520);
    assert_int_equal(p.video_min_pixels, 100352);
    put(dir, "preprocessor_config.json",
        "{\"min_pixels\":3136,\"max_pixels\":12845056,\"size\":{\"shortest_edge\":1},"
        "\"image_mean\":[0.5,0.5,0.5],\"patch_size\":14,\"resample\":3}");
    assert_int_equal(sq_preproc_load(&p, dir, &err), SQ_OK);
    assert_int_equal(p.min_pixels, 3136);
    assert_int_equal(p.video_max_pixels, 12845056);
    assert_true(p.mean[1] == 0.5f && p.video_mean[2] == 0.5f);
    put(dir, "video_preprocessor_config.json",
        "{\"size\":{\"shortest_edge\":6272,\"longest_edge\":200704},\"fps\":4,\"max_frames\":16}");
    assert_int_equal(sq_preproc_load(&p, dir, &err), SQ_OK);
    assert_int_equal(p.video_min_pixels, 6272);
    assert_int_equal(p.max_frames, 16);
    assert_true(p.fps == 4);
    put(dir, "processor_config.json", "{\"image_processor\":{\"size\":{\"longest_edge\":50176}}}");
    assert_int_equal(sq_preproc_load(&p, dir, &err), SQ_OK);
    assert_int_equal(p.max_pixels, 50176);
    assert_int_equal(p.video_max_pixels, 200704);
    static const char *const bad[] = {
        "{\"image_processor\":{\"patch_size\":0}}",
        "{\"image_processor\":{\"patch_size\":\"14\"}}",
        "{\"image_processor\":{\"merge_size\":1e30}}",
        "{\"image_processor\":{\"min_pixels\":-5}}",
        "{\"image_processor\":{\"min_pixels\":500,\"max_pixels\":400}}",
        "{\"image_processor\":{\"image_std\":[1,0,1]}}",
        "{\"image_processor\":{\"image_mean\":[1,1]}}",
        "{\"image_processor\":{\"resample\":2}}",
        "{\"image_processor\":{\"do_resize\":false}}",
        "{\"video_processor\":{\"fps\":-1}}",
        "{\"video_processor\":{\"patch_size\":16}}",
        "[]",
        "{",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(dir, "processor_config.json", bad[i]);
        sq_status st = sq_preproc_load(&p, dir, &err);
        if (st != SQ_EFORMAT && st != SQ_EUNSUPPORTED) {
            fail_msg("%s gave %d", bad[i], (int)st);
        }
    }
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

static void frame_folder(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-frames-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    sq_preproc p = published();
    sq_pixels px;
    sq_error err = {0};
    assert_int_equal(sq_pixels_video_file(&px, &p, dir, &err), SQ_EARG);
    static const char *const names[3] = {"rgb.png", "palette.png", "adam7.png"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%02d.png", dir, i);
        assert_int_equal(sq_file_copy(golden(names[i]), path, &err), SQ_OK);
    }
    assert_int_equal(sq_pixels_video_file(&px, &p, dir, &err), SQ_OK);
    assert_int_equal(px.frames, 3);
    assert_int_equal(px.grid_t, 2);
    assert_true(fabs(px.second_per_grid - 2.0 / 24) < 1e-12);
    /* the last frame twice: both temporal places of the second step are equal */
    const float *row = px.patches + px.grid_h * px.grid_w * px.patch_dim;
    assert_memory_equal(row, row + 196, 196 * sizeof(float));
    sq_pixels_free(&px);
    snprintf(path, sizeof path, "%s/zz.jpg", dir);
    assert_int_equal(sq_file_copy(golden("soft.jpg"), path, &err), SQ_OK);
    assert_int_equal(sq_pixels_video_file(&px, &p, dir, &err), SQ_EFORMAT); /* another size */
    assert_null(px.patches);
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

static void hostile_video(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-clip-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/c.mp4", dir);
    sq_preproc p = published();
    size_t used = sq_memory_used(), n;
    char *data;
    sq_pixels px;
    sq_error err = {0};
    uint32_t seed = 11;
    assert_int_equal(sq_file_read(golden("h264.mp4"), 1 << 20, &data, &n, &err), SQ_OK);
    for (int round = 0; round < 60; round++) {
        char *copy = sq_alloc(n, 1, "copy", NULL);
        memcpy(copy, data, n);
        size_t len = round < 20 ? n * (size_t)round / 20 : n;
        for (int i = 0; round >= 20 && i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            copy[(seed >> 8) % n] = (char)(seed >> 4);
        }
        assert_int_equal(sq_file_write(path, copy, len, &err), SQ_OK);
        sq_free(copy);
        sq_status st = sq_pixels_video_file(&px, &p, path, &err);
        if (round < 20 && st == SQ_OK) {
            fail_msg("a clip of %zu of %zu bytes was taken", len, n);
        }
        assert_true(st != SQ_OK || px.frames > 0);
        sq_pixels_free(&px);
    }
    sq_free(data);
    assert_int_equal(sq_pixels_video_file(&px, &p, "/nonexistent.mp4", &err), SQ_EIO);
    assert_int_equal(sq_pixels_video_file(&px, &p, golden("expected.json"), &err), SQ_EFORMAT);
    for (long k = 1; k < 40; k++) {
        sq_memory_fail_after(k);
        sq_status st = sq_pixels_video_file(&px, &p, golden("mpeg4.mp4"), &err);
        sq_memory_fail_after(0);
        assert_true(st == SQ_OK || st == SQ_ENOMEM);
        sq_pixels_free(&px);
    }
    assert_int_equal(sq_memory_used(), used);
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images),        cmocka_unit_test(videos),  cmocka_unit_test(sizes),
        cmocka_unit_test(sampling),      cmocka_unit_test(configs), cmocka_unit_test(frame_folder),
        cmocka_unit_test(hostile_video),
    };
    return cmocka_run_group_tests_name("preprocess", tests, NULL, NULL);
}
