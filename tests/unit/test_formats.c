/* Folders in AutoAWQ's and GPTQ's layouts: written, verified, read, converted, refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "format/qlinear.h"
#include "model/model.h"
#include "quant/quant.h"
#include "workdir.h"

/* Round-to-nearest with groups of 32 unless the options say otherwise. */
static void quantize(const char *name, sq_quantize_options o) {
    json_t *report = NULL;
    sq_error err = {0};
    o.method = "rtn";
    o.group_size = o.group_size == 0 ? 32 : o.group_size;
    o.no_verify = 1;
    sq_status st = sq_quantize_run(model, in(name), &o, NULL, &report, &err);
    if (st != SQ_OK) {
        fail_msg("%s", err.text);
    }
    json_decref(report);
}

static void refuse(sq_quantize_options o, const char *words, const char *hint) {
    json_t *report = NULL;
    sq_error err = {0};
    o.method = "rtn";
    assert_int_equal(sq_quantize_run(model, in("refused"), &o, NULL, &report, &err), SQ_EARG);
    assert_non_null(strstr(err.text, words));
    assert_non_null(strstr(err.hint, hint));
    assert_false(sq_file_exists(in("refused")));
    assert_false(sq_file_exists(in("refused.partial")));
}

static void convert(const char *from, const char *to, sq_layout layout) {
    sq_error err = {0};
    sq_status st = sq_convert_run(in(from), in(to), layout, NULL, NULL, &err);
    if (st != SQ_OK) {
        fail_msg("%s -> %s: %s", from, to, err.text);
    }
}

static void refuse_convert(const char *from, sq_layout layout, const char *words) {
    sq_error err = {0};
    assert_int_not_equal(sq_convert_run(in(from), in("refused"), layout, NULL, NULL, &err), SQ_OK);
    assert_non_null(strstr(err.text, words));
    assert_false(sq_file_exists(in("refused")));
    assert_false(sq_file_exists(in("refused.partial")));
}

static sq_status verify(const char *name, sq_error *err) {
    json_t *report = NULL;
    sq_verify_options o = {.against = model, .level = "layers"};
    sq_status st = sq_verify_run(in(name), &o, NULL, &report, err);
    json_decref(report);
    return st;
}

static void same_file(const char *a, const char *b, const char *file) {
    char *x, *y;
    size_t n, m;
    char path[2][800];
    snprintf(path[0], sizeof path[0], "%s/%s/%s", dir, a, file);
    snprintf(path[1], sizeof path[1], "%s/%s/%s", dir, b, file);
    assert_int_equal(sq_file_read(path[0], 1u << 30, &x, &n, NULL), SQ_OK);
    assert_int_equal(sq_file_read(path[1], 1u << 30, &y, &m, NULL), SQ_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    sq_free(x);
    sq_free(y);
}

/* Overwrites bytes of a tensor in the folder's one file. */
static void patch(const char *name, const char *tensor, size_t offset, const void *bytes,
                  size_t n) {
    char path[800], *data;
    size_t size;
    snprintf(path, sizeof path, "%s/%s/model.safetensors", dir, name);
    assert_int_equal(sq_file_read(path, 1u << 30, &data, &size, NULL), SQ_OK);
    uint64_t header = 0;
    memcpy(&header, data, 8);
    json_t *h = json_loadb(data + 8, header, 0, NULL);
    json_t *off = json_object_get(json_object_get(h, tensor), "data_offsets");
    assert_non_null(off);
    size_t at = 8 + header + (size_t)json_integer_value(json_array_get(off, 0)) + offset;
    memcpy(data + at, bytes, n);
    assert_int_equal(sq_file_write(path, data, size, NULL), SQ_OK);
    json_decref(h);
    sq_free(data);
}

static json_t *config_of(const char *name) {
    char path[800];
    json_t *c;
    snprintf(path, sizeof path, "%s/%s/config.json", dir, name);
    assert_int_equal(sq_json_load(path, &c, NULL), SQ_OK);
    return c;
}

static void save_config(const char *name, json_t *c) {
    char path[800];
    snprintf(path, sizeof path, "%s/%s/config.json", dir, name);
    assert_int_equal(sq_json_save(path, c, NULL), SQ_OK);
    json_decref(c);
}

/* ---- written and verified ---- */

static void every_layout_verifies(void **state) {
    (void)state;
    sq_error err = {0};
    quantize("ct", (sq_quantize_options){0});
    quantize("ct-sym", (sq_quantize_options){.symmetric = 1});
    quantize("awq", (sq_quantize_options){.format = "awq"});
    quantize("gemv", (sq_quantize_options){.format = "awq-gemv"});
    quantize("gptq", (sq_quantize_options){.format = "gptq", .symmetric = 1});
    quantize("v2", (sq_quantize_options){.format = "gptq-v2"});
    quantize("v2-8", (sq_quantize_options){.format = "gptq-v2", .scheme = "w8a16"});
    quantize("awq-row", (sq_quantize_options){.format = "awq", .group_size = -1});
    static const char *const names[] = {"awq", "gemv", "gptq", "v2", "v2-8", "awq-row"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (verify(names[i], &err) != SQ_OK) {
            fail_msg("%s: %s", names[i], err.text);
        }
    }
    uint16_t zero = 0;
    patch("gemv", "model.layers.0.mlp.up_proj.scales", 16, &zero, 2);
    assert_int_equal(verify("gemv", &err), SQ_ECHECK);
}

static void configs_are_the_packages(void **state) {
    (void)state;
    json_t *c = config_of("awq"), *q = json_object_get(c, "quantization_config");
    json_t *want = json_pack("{s:s, s:b, s:i, s:i, s:s, s:[s, s, s]}", "quant_method", "awq",
                             "zero_point", 1, "group_size", 32, "bits", 4, "version", "gemm",
                             "modules_to_not_convert", "lm_head", "visual", "model.visual");
    assert_true(json_equal(q, want));
    assert_string_equal(sq_json_str(c, "dtype", ""), "float16");
    json_decref(want);
    json_decref(c);
    c = config_of("gptq");
    q = json_object_get(c, "quantization_config");
    assert_string_equal(sq_json_str(q, "checkpoint_format", ""), "gptq");
    assert_true(sq_json_bool(q, "sym", 0));
    assert_non_null(json_object_get(json_object_get(q, "dynamic"), "-:.*visual\\..*"));
    json_t *side;
    assert_int_equal(sq_json_load(in("gptq/quantize_config.json"), &side, NULL), SQ_OK);
    assert_true(json_equal(side, q));
    json_decref(side);
    json_decref(c);
}

/* Kept and differing linears: named in AutoAWQ's list, in rules of GPTQ's `dynamic`. */
static void mixed_plans_are_named(void **state) {
    (void)state;
    sq_error err = {0};
    quantize("kept",
             (sq_quantize_options){.format = "awq", .group_size = 96, .indivisible = SQ_KEEP});
    quantize("mixed", (sq_quantize_options){
                          .format = "gptq-v2", .group_size = 96, .indivisible = SQ_CHANNEL});
    assert_int_equal(verify("kept", &err), SQ_OK);
    assert_int_equal(verify("mixed", &err), SQ_OK);
    json_t *c = config_of("kept"), *v;
    size_t i, found = 0;
    json_t *list =
        json_object_get(json_object_get(c, "quantization_config"), "modules_to_not_convert");
    json_array_foreach(list, i, v) {
        found += strcmp(json_string_value(v), "model.layers.3.mlp.down_proj") == 0;
        found += strcmp(json_string_value(v), "model.language_model.layers.3.mlp.down_proj") == 0;
    }
    assert_int_equal(found, 2);
    json_decref(c);
    c = config_of("mixed");
    v = json_object_get(json_object_get(json_object_get(c, "quantization_config"), "dynamic"),
                        "+:.*layers\\.3\\.mlp\\.down_proj$");
    assert_int_equal(sq_json_int(v, "group_size", 0), 512);
    json_decref(c);
}

static void what_does_not_fit_is_refused_before_work(void **state) {
    (void)state;
    refuse((sq_quantize_options){.format = "awq"}, "q_proj: awq-gemm has no padding",
           "--group-size 32");
    refuse((sq_quantize_options){.format = "awq", .scheme = "w8a16", .group_size = 32},
           "4 bits alone; got 8 bits", "w4a16");
    refuse((sq_quantize_options){.format = "awq", .indivisible = SQ_SMALLER_GROUP},
           "down_proj: awq-gemm has one group size for all; got 128, and 32", "--group-size 32");
    refuse((sq_quantize_options){.format = "gptq-v2", .scheme = "w4a8", .group_size = 32},
           "no place for rounded inputs", "compressed-tensors");
    refuse((sq_quantize_options){.format = "gptq", .group_size = 32}, "holds no zero point 0",
           "--sym");
    refuse((sq_quantize_options){.format = "gptq-v2", .group_size = 32, .vision = "w4a16"},
           "visual.blocks.0.mlp.gate_proj: gptq-v2 packs whole words; got 340 outputs",
           "--vision keep");
    refuse((sq_quantize_options){.format = "exl2"}, "'exl2' is not there", "");
}

/* ---- converted ---- */

static void codes_stay_what_they_are(void **state) {
    (void)state;
    convert("awq", "a", SQ_LAYOUT_AWQ_GEMV);
    convert("a", "b", SQ_LAYOUT_GPTQ_V2);
    convert("b", "c", SQ_LAYOUT_CT);
    convert("c", "d", SQ_LAYOUT_AWQ_GEMM);
    same_file("awq", "d", "model.safetensors");
    same_file("awq", "d", "config.json");
    convert("gptq", "e", SQ_LAYOUT_AWQ_GEMM);
    convert("e", "f", SQ_LAYOUT_CT);
    convert("f", "g", SQ_LAYOUT_GPTQ);
    same_file("gptq", "g", "model.safetensors");
    same_file("gptq", "g", "quantize_config.json");
    json_t *c = config_of("f");
    json_t *w = json_object_get(
        json_object_get(json_object_get(json_object_get(c, "quantization_config"), "config_groups"),
                        "group_0"),
        "weights");
    assert_true(sq_json_bool(w, "symmetric", 0)); /* all zero points in the middle */
    json_decref(c);
    sq_error err = {0};
    assert_int_equal(verify("c", &err), SQ_OK);
    assert_int_equal(verify("e", &err), SQ_OK);
}

static void what_does_not_fit_is_not_converted(void **state) {
    (void)state;
    sq_error err = {0};
    assert_int_equal(sq_convert_run(model, in("refused"), SQ_LAYOUT_CT, NULL, NULL, &err), SQ_EARG);
    refuse_convert("gptq", SQ_LAYOUT_GPTQ, "already");
    refuse_convert("v2-8", SQ_LAYOUT_AWQ_GEMM, "got 8 bits");
    refuse_convert("mixed", SQ_LAYOUT_AWQ_GEMM, "one group size for all");
    convert("v2", "low", SQ_LAYOUT_CT);
    uint32_t zeros = 0;
    patch("low", "model.layers.1.mlp.up_proj.weight_zero_point", 4 * 9, &zeros, 4);
    refuse_convert("low", SQ_LAYOUT_GPTQ,
                   "model.layers.1.mlp.up_proj: gptq (v1) keeps zero points less one");
    convert("low", "low-v2", SQ_LAYOUT_GPTQ_V2);
    const uint16_t small = 0x3581; /* 9.6e-7 in BF16: more digits than float16 has there */
    patch("ct", "model.layers.2.mlp.up_proj.weight_scale", 2, &small, 2);
    refuse_convert("ct", SQ_LAYOUT_AWQ_GEMM,
                   "model.layers.2.mlp.up_proj: awq-gemm stores scales in float16; got 1 of");
}

/* ---- read ---- */

/* Other spellings of the configs, and the files that lay beside config.json once. */
static void older_configs(void **state) {
    (void)state;
    sq_error err = {0};
    json_t *q =
        json_pack("{s:s, s:b, s:i, s:i, s:s, s:n}", "quant_method", "awq", "zero_point", 1,
                  "q_group_size", 32, "w_bit", 4, "version", "GEMM", "modules_to_not_convert");
    json_t *c = config_of("d");
    json_object_set_new(c, "quantization_config", q);
    save_config("d", c);
    sq_net *n;
    assert_int_equal(sq_net_open(&n, in("d"), &err), SQ_OK);
    assert_int_equal(n->layers[0].linears[SQ_L_Q].scheme.group_size, 32);
    sq_net_close(&n);
    c = config_of("g");
    json_object_del(c, "quantization_config");
    save_config("g", c);
    assert_int_equal(sq_net_open(&n, in("g"), &err), SQ_OK);
    assert_int_equal(n->layers[0].linears[SQ_L_Q].quantized, 1);
    sq_net_close(&n);
    c = config_of("e");
    json_object_set_new(json_object_get(c, "quantization_config"), "group_size", json_integer(64));
    save_config("e", c);
    assert_int_not_equal(sq_net_open(&n, in("e"), &err), SQ_OK);
    assert_non_null(strstr(err.text, "groups of 64 in 288 columns"));
    c = config_of("e");
    json_object_set_new(json_object_get(c, "quantization_config"), "version",
                        json_string("marlin"));
    save_config("e", c);
    assert_int_not_equal(sq_net_open(&n, in("e"), &err), SQ_OK);
    assert_non_null(strstr(err.text, "awq version 'marlin' is not supported"));
}

enum { WIDTH = 288, GROUP = 32 };

/* Weight [r][c] of a GPTQ v2 linear by the definition: s[g_idx[c]] (q - z[g_idx[c]]). */
static float by_definition(const sq_checkpoint *f, const char *stem, int64_t n, int64_t r,
                           int64_t c) {
    char name[4][200];
    const sq_tensor *t[4];
    for (int i = 0; i < 4; i++) {
        snprintf(name[i], sizeof name[i], "%s%s", stem, sq_layout_suffix[i]);
        t[i] = sq_checkpoint_find(f, name[i]);
        assert_non_null(t[i]);
    }
    const char *const words = t[0]->data, *const zeros = t[1]->data, *const scales = t[2]->data,
                      *const order = t[3]->data;
    uint32_t w, z;
    int32_t g;
    float s;
    memcpy(&g, order + 4 * c, 4);
    memcpy(&w, words + 4 * (c / 8 * n + r), 4);
    memcpy(&z, zeros + 4 * (g * (n / 8) + r / 8), 4);
    sq_to_f32(&s, scales + 2 * (g * n + r), SQ_F16, 1);
    return s * ((float)(w >> (c % 8 * 4) & 15) - (float)(z >> (r % 8 * 4) & 15));
}

/* Products of few and of many rows. */
static void expect_products(const sq_weight *w, const float *dense) {
    enum { ROWS = 20 };
    int64_t n = w->n;
    float *x = sq_alloc(ROWS * WIDTH, sizeof *x, "x", NULL);
    float *y = sq_alloc((size_t)(ROWS * n), sizeof *y, "y", NULL);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        x[i] = (float)(i * 7919 % 201 - 100) / 100;
    }
    for (int rows = 1; rows <= ROWS; rows += ROWS - 1) {
        sq_matmul(w, x, WIDTH, rows, NULL, y, n);
        for (int64_t i = 0; i < rows * n; i++) {
            double want = 0;
            for (int c = 0; c < WIDTH; c++) {
                want += (double)dense[i % n * WIDTH + c] * (double)x[i / n * WIDTH + c];
            }
            assert_true(fabs((double)y[i] - want) <= 1e-4 * (1 + fabs(want)));
        }
    }
    sq_free(x);
    sq_free(y);
}

static void act_order(void **state) {
    (void)state;
    static const char stem[] = "model.layers.1.self_attn.q_proj";
    static int32_t g[WIDTH];
    sq_error err = {0};
    sq_checkpoint *f;
    sq_net *n;
    for (int c = 0; c < WIDTH; c++) {
        g[c] = c * 5 % WIDTH / GROUP; /* 5 and 288 have no common divisor */
    }
    convert("v2", "copy", SQ_LAYOUT_AWQ_GEMM);
    convert("copy", "order", SQ_LAYOUT_GPTQ_V2);
    patch("order", "model.layers.1.self_attn.q_proj.g_idx", 0, g, sizeof g);
    assert_int_equal(sq_checkpoint_open(&f, in("order"), &err), SQ_OK);
    assert_int_equal(sq_net_open(&n, in("order"), &err), SQ_OK);
    const sq_weight *w = &n->layers[1].linears[SQ_L_Q].weight;
    float *dense = sq_alloc((size_t)(w->n * WIDTH), sizeof *dense, "dense", NULL);
    sq_weight_rows_f32(w, 0, w->n, dense);
    for (int64_t i = 0; i < w->n * WIDTH; i++) {
        float want = by_definition(f, stem, w->n, i / WIDTH, i % WIDTH);
        assert_true(fabsf(dense[i] - want) <= 1e-6f * (1 + fabsf(want)));
    }
    expect_products(w, dense);
    sq_free(dense);
    sq_net_close(&n);
    sq_checkpoint_close(&f);
    convert("order", "order-v1", SQ_LAYOUT_GPTQ);
    convert("order-v1", "order-v2", SQ_LAYOUT_GPTQ_V2);
    same_file("order", "order-v2", "model.safetensors");
    refuse_convert("order", SQ_LAYOUT_AWQ_GEMM, "q_proj: awq-gemm has no g_idx");
    g[0] = 8;
    patch("order", "model.layers.1.self_attn.q_proj.g_idx", 0, g, sizeof g);
    assert_int_not_equal(sq_net_open(&n, in("order"), &err), SQ_OK);
    assert_non_null(strstr(err.text, "q_proj.g_idx does not give each of 9 groups 32 columns"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_verifies),
        cmocka_unit_test(configs_are_the_packages),
        cmocka_unit_test(mixed_plans_are_named),
        cmocka_unit_test(what_does_not_fit_is_refused_before_work),
        cmocka_unit_test(codes_stay_what_they_are),
        cmocka_unit_test(what_does_not_fit_is_not_converted),
        cmocka_unit_test(older_configs),
        cmocka_unit_test(act_order),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
