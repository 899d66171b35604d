/* Layouts of other packages: published words, and unpack(pack(x)) == x. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "format/ct.h"
#include "format/layouts.h"
#include "format/qlinear.h"
#include "kernels/kernels.h"

enum { N = 32, K = 64, GROUP = 32, GROUPS = K / GROUP };

static const sq_layout all[] = {SQ_LAYOUT_AWQ_GEMM, SQ_LAYOUT_AWQ_GEMV, SQ_LAYOUT_GPTQ,
                                SQ_LAYOUT_GPTQ_V2};
enum { N_LAYOUTS = sizeof all / sizeof *all };

/* ---- golden words, from AutoAWQ 0.2.9 (packing_utils, gemv) and GPTQModel (pack) ---- */

static void golden_input(uint8_t *codes, uint8_t *zeros, int least) {
    for (int r = 0; r < N; r++) {
        for (int c = 0; c < K; c++) {
            codes[r * K + c] = (uint8_t)((3 * c + 5 * r) % 16);
        }
        for (int g = 0; g < GROUPS; g++) {
            int z = (r + 7 * g) % 16;
            zeros[r * GROUPS + g] = (uint8_t)(z < least ? least : z);
        }
    }
}

static void expect(const uint32_t *got, const uint32_t *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(got[i], want[i]);
    }
}

static void golden_awq(void **state) {
    (void)state;
    static uint8_t codes[N * K], zeros[N * GROUPS];
    static uint32_t w[K * N / 8], z[N * 4];
    int64_t row, group;
    golden_input(codes, zeros, 0);
    sq_layout_form f = {SQ_LAYOUT_AWQ_GEMM, 4, N, K, GROUP};
    sq_layout_pack_codes(&f, w, codes);
    expect(w, (const uint32_t[]){0x39f5e4a0, 0xb17d6c28, 0x39f5e4a0, 0xb17d6c28, 0x6c2817d3}, 5);
    assert_int_equal(w[63 * 4 + 3], 0x8e4a39f5);
    assert_int_equal(sq_layout_pack_zeros(&f, z, zeros, &row, &group), 1);
    expect(z,
           (const uint32_t[]){0x75316420, 0xfdb9eca8, 0x75316420, 0xfdb9eca8, 0xeca8db97,
                              0x6420531f, 0xeca8db97, 0x6420531f},
           8);
    f.layout = SQ_LAYOUT_AWQ_GEMV;
    sq_layout_pack_codes(&f, w, codes);
    expect(w, (const uint32_t[]){0x52fc9630, 0xda741eb8}, 2);
    assert_int_equal(w[31 * 8 + 7], 0x852fc963);
    static uint32_t ct[N * K / 8];
    sq_ct_pack_rows(ct, codes, N, K, 4);
    assert_memory_equal(w, ct, sizeof ct);
    assert_int_equal(sq_layout_pack_zeros(&f, z, zeros, &row, &group), 1);
    expect(z + 1 * 4, (const uint32_t[]){0x81, 0, 0, 0}, 4);
    expect(z + 31 * 4, (const uint32_t[]){0x6f, 0, 0, 0}, 4);
}

static void golden_gptq(void **state) {
    (void)state;
    static uint8_t codes[N * K], zeros[N * GROUPS], back[N * GROUPS];
    static uint32_t w[K * N / 8], z[GROUPS * N / 8];
    int64_t row = -1, group = -1;
    golden_input(codes, zeros, 0);
    sq_layout_form f = {SQ_LAYOUT_GPTQ_V2, 4, N, K, GROUP};
    sq_layout_pack_codes(&f, w, codes);
    expect(w, (const uint32_t[]){0x52fc9630, 0xa741eb85, 0xfc9630da, 0x41eb852f}, 4);
    assert_int_equal(w[7 * 32 + 31], 0x852fc963);
    assert_int_equal(sq_layout_pack_zeros(&f, z, zeros, &row, &group), 1);
    expect(z,
           (const uint32_t[]){0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98, 0xedcba987,
                              0x6543210f, 0xedcba987, 0x6543210f},
           8);
    f.layout = SQ_LAYOUT_GPTQ;
    assert_int_equal(sq_layout_pack_zeros(&f, z, zeros, &row, &group), 0);
    assert_int_equal(row, 0);
    assert_int_equal(group, 0);
    golden_input(codes, zeros, 1);
    assert_int_equal(sq_layout_pack_zeros(&f, z, zeros, &row, &group), 1);
    expect(z,
           (const uint32_t[]){0x65432100, 0xedcba987, 0x65432100, 0xedcba987, 0xdcba9876,
                              0x5432100e, 0xdcba9876, 0x5432100e},
           8);
    /* What GPTQModel writes for zero points of 0: 0x76543210 - 0x11111111 as one number. */
    golden_input(codes, zeros, 0);
    for (int i = 0; i < 8; i++) {
        z[i] = (const uint32_t[]){0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98,
                                  0xedcba987, 0x6543210f, 0xedcba987, 0x6543210f}[i] -
               0x11111111u;
    }
    sq_layout_unpack_zeros(&f, back, z);
    assert_memory_equal(back, zeros, sizeof zeros);
}

/* ---- unpack(pack(x)) == x ---- */

static void *need(size_t n, size_t size) {
    void *p = sq_alloc(n, size, "test", NULL);
    assert_non_null(p);
    return p;
}

static void round_trip(const sq_layout_form *f, int zero) {
    sq_layout_shape s[SQ_LAYOUT_PARTS];
    sq_error err = {0};
    assert_int_equal(sq_layout_check(f, 1, &err), SQ_OK);
    sq_layout_shapes(f, s);
    size_t n = (size_t)(f->n * f->k), cells = (size_t)(f->n * (f->k / f->group));
    size_t stored = sq_layout_cells(&s[SQ_LAYOUT_SCALES]);
    uint8_t *codes = need(n, 1), *zeros = need(cells, 1), *codes2 = need(n, 1),
            *zeros2 = need(cells, 1);
    float *scales = need(cells, 4), *scales2 = need(cells, 4), *held = need(stored, 4);
    uint32_t *w = need(sq_layout_cells(&s[SQ_LAYOUT_QWEIGHT]), 4);
    uint32_t *z = need(sq_layout_cells(&s[SQ_LAYOUT_QZEROS]), 4);
    int top = (1 << f->bits) - 1;
    srand(7);
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)(rand() & top);
    }
    for (size_t i = 0; i < cells; i++) {
        zeros[i] = (uint8_t)(zero >= 0 ? zero : 1 + rand() % top);
        scales[i] = (float)(i + 1);
    }
    int64_t row, group;
    sq_layout_pack_codes(f, w, codes);
    sq_layout_unpack_codes(f, codes2, w);
    assert_memory_equal(codes, codes2, n);
    sq_layout_pack_scales(f, held, scales);
    sq_layout_unpack_scales(f, scales2, held);
    assert_memory_equal(scales, scales2, cells * 4);
    int held_zero = sq_layout_pack_zeros(f, z, zeros, &row, &group);
    assert_int_equal(held_zero, f->layout != SQ_LAYOUT_GPTQ || zero != 0);
    if (held_zero) {
        sq_layout_unpack_zeros(f, zeros2, z);
        assert_memory_equal(zeros, zeros2, cells);
    }
    void *const owned[] = {codes, zeros, codes2, zeros2, scales, scales2, held, w, z};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        sq_free(owned[i]);
    }
}

static void every_form_comes_back(void **state) {
    (void)state;
    static const int64_t groups[] = {-1, 32, 64, 128};
    static const int zeros[] = {-1, 0, 7, 8, 15}; /* -1: any, asymmetric */
    for (int l = 0; l < N_LAYOUTS; l++) {
        for (int g = 0; g < 4; g++) {
            for (int z = 0; z < 5; z++) {
                sq_layout_form f = {all[l], 4, 96, 384, groups[g] < 0 ? 384 : groups[g]};
                round_trip(&f, zeros[z]);
                f.bits = 8;
                if (sq_layout_is_gptq(f.layout)) {
                    round_trip(&f, zeros[z] == 15 ? 255 : zeros[z]);
                }
            }
        }
    }
}

static void refused(sq_layout_form f, int writing, const char *words) {
    sq_error err = {0};
    assert_int_equal(sq_layout_check(&f, writing, &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, words));
    assert_non_null(strstr(err.text, sq_layout_name(f.layout)));
}

static void what_a_layout_cannot_hold(void **state) {
    (void)state;
    sq_error err = {0};
    refused((sq_layout_form){SQ_LAYOUT_AWQ_GEMM, 8, 32, 64, 32}, 0, "got 8 bits");
    refused((sq_layout_form){SQ_LAYOUT_GPTQ, 3, 32, 64, 32}, 0, "got 3 bits");
    refused((sq_layout_form){SQ_LAYOUT_GPTQ, 4, 32, 288, 128}, 0, "groups of 128 in 288 columns");
    refused((sq_layout_form){SQ_LAYOUT_AWQ_GEMM, 4, 40, 64, 32}, 1, "40 outputs");
    refused((sq_layout_form){SQ_LAYOUT_AWQ_GEMM, 4, 36, 64, 32}, 0, "36 outputs");
    refused((sq_layout_form){SQ_LAYOUT_GPTQ_V2, 4, 32, 72, 24}, 1, "72 inputs");
    refused((sq_layout_form){SQ_LAYOUT_AWQ_GEMV, 4, 32, 96, 96}, 1, "groups of 96");
    sq_layout_form f = {SQ_LAYOUT_AWQ_GEMM, 4, 40, 64, 32};
    assert_int_equal(sq_layout_check(&f, 0, &err), SQ_OK);
    f = (sq_layout_form){SQ_LAYOUT_GPTQ_V2, 4, 40, 72, 24};
    assert_int_equal(sq_layout_check(&f, 0, &err), SQ_OK);
}

static void order_of_columns(void **state) {
    (void)state;
    sq_layout_form f = {SQ_LAYOUT_GPTQ, 4, 8, 8, 4};
    int32_t g[8], columns[8];
    sq_layout_plain_order(&f, g);
    assert_int_equal(sq_layout_order(&f, g, columns), 1);
    assert_int_equal(columns[7], 7);
    const int32_t mixed[8] = {1, 0, 1, 0, 0, 1, 0, 1}, want[8] = {1, 3, 4, 6, 0, 2, 5, 7};
    assert_int_equal(sq_layout_order(&f, mixed, columns), 0);
    assert_memory_equal(columns, want, sizeof want);
    const int32_t beyond[8] = {0, 0, 0, 0, 1, 1, 1, 2}, uneven[8] = {0, 0, 0, 0, 0, 1, 1, 1};
    assert_int_equal(sq_layout_order(&f, beyond, columns), -1);
    assert_int_equal(sq_layout_order(&f, uneven, columns), -1);
}

/* ---- the packages' own words (tests/oracle/gen_layouts.py, gen_ct.py) ---- */

static sq_checkpoint *golden_file(const char *name) {
    char path[600];
    sq_checkpoint *f = NULL;
    sq_error err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/quant/%s", getenv("SQ_TEST_ROOT"), name);
    assert_int_equal(sq_checkpoint_open(&f, path, &err), SQ_OK);
    return f;
}

static const sq_tensor *part(const sq_checkpoint *f, const char *name, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return sq_checkpoint_find(f, key);
}

/* Codes, zero points and scales as the package was given them. */
static void as_given(const sq_qlinear *q, const sq_checkpoint *f, const char *name) {
    const uint8_t *codes = part(f, name, "codes")->data;
    for (int64_t i = 0; i < q->n * q->k; i++) {
        int64_t r = i / q->k, j = i % q->k, c = q->columns == NULL ? j : q->columns[j];
        assert_int_equal(q->codes[i], codes[r * q->k + c]);
    }
    size_t cells = (size_t)(q->n * (q->k / q->group));
    assert_memory_equal(q->zeros, part(f, name, "zeros")->data, cells);
    assert_memory_equal(q->scales, part(f, name, "scale")->data, cells * 4);
}

/* Stored again as so many tensors, to the byte. */
static void as_packed(const sq_qlinear *q, sq_layout layout, const sq_checkpoint *f,
                      const char *name, int tensors) {
    sq_qtensor t[SQ_QTENSORS];
    sq_error err = {0};
    int n;
    assert_int_equal(sq_qlinear_store(q, layout, name, t, &n, &err), SQ_OK);
    assert_int_equal(n, tensors);
    for (int i = 0; i < n; i++) {
        const sq_tensor *want = part(f, name, t[i].suffix + 1);
        assert_non_null(want);
        assert_int_equal(t[i].dtype, want->dtype);
        assert_int_equal(t[i].bytes, want->bytes);
        assert_memory_equal(t[i].data, want->data, want->bytes);
    }
    sq_qtensors_free(t, n);
}

static void packed_by_the_packages(void **state) {
    (void)state;
    static const struct {
        const char *name;
        sq_layout layout;
        int bits, group, act_order;
    } cases[] = {
        {"gemm-32", SQ_LAYOUT_AWQ_GEMM, 4, 32, 0}, {"gemm-128", SQ_LAYOUT_AWQ_GEMM, 4, 128, 0},
        {"gemm-8s", SQ_LAYOUT_AWQ_GEMM, 4, 64, 0}, {"gemv-32", SQ_LAYOUT_AWQ_GEMV, 4, 32, 0},
        {"gemv-64", SQ_LAYOUT_AWQ_GEMV, 4, 64, 0}, {"gemv-128", SQ_LAYOUT_AWQ_GEMV, 4, 128, 0},
        {"v2-32", SQ_LAYOUT_GPTQ_V2, 4, 32, 0},    {"v2-row", SQ_LAYOUT_GPTQ_V2, 4, 0, 0},
        {"v2-8bit", SQ_LAYOUT_GPTQ_V2, 8, 64, 0},  {"v2-act", SQ_LAYOUT_GPTQ_V2, 4, 32, 1},
        {"v1-sym", SQ_LAYOUT_GPTQ, 4, 128, 0},     {"v1-8bit", SQ_LAYOUT_GPTQ, 8, 64, 0},
        {"v1-act", SQ_LAYOUT_GPTQ, 4, 32, 1},      {"v1-zero", SQ_LAYOUT_GPTQ, 4, 32, 0}};
    sq_checkpoint *f = golden_file("layouts.safetensors");
    sq_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].name;
        const sq_tensor *codes = part(f, name, "codes");
        sq_qparts p = {part(f, name, "qweight"), part(f, name, "scales"), part(f, name, "qzeros"),
                       part(f, name, "g_idx")};
        sq_ct_scheme s = {.bits = cases[i].bits, .group_size = cases[i].group};
        sq_qlinear q;
        assert_int_equal(sq_qlinear_read(&q, &p, cases[i].layout, &s, codes->shape[0],
                                         codes->shape[1], name, &err),
                         SQ_OK);
        assert_int_equal(q.columns != NULL, cases[i].act_order);
        as_given(&q, f, name);
        if (strcmp(name, "v1-zero") != 0) {
            as_packed(&q, cases[i].layout, f, name, sq_layout_is_gptq(cases[i].layout) ? 4 : 3);
        } else {
            assert_int_equal(sq_qlinear_check(&q, SQ_LAYOUT_GPTQ, name, &err), SQ_EUNSUPPORTED);
        }
        sq_qlinear_free(&q);
    }
    sq_checkpoint_close(&f);
}

/* Inputs rounded as compressed-tensors rounds them, row by row: the sums are of the same integers.
 */
static void as_computed(const sq_qlinear *q, int symmetric, const sq_checkpoint *f,
                        const char *name) {
    const sq_tensor *x = part(f, name, "x");
    const float *want = part(f, name, "y")->data;
    int64_t rows = x->shape[0];
    float *got = need((size_t)(rows * q->n), sizeof *got);
    sq_weight w;
    sq_error err = {0};
    assert_int_equal(sq_weight_codes(&w, q->bits, q->codes, q->scales, q->zeros, q->n, q->k,
                                     q->k_padded, q->group, &err),
                     SQ_OK);
    /* A zero point's part is taken from the whole sum, which is long where an input is. */
    float limit = symmetric ? 1e-6f : 1e-5f;
    sq_product product = {&w, NULL, got, q->n};
    sq_matmul_rounded(&product, 1, symmetric ? SQ_ROUND_8_SYMMETRIC : SQ_ROUND_8, x->data, q->k,
                      rows);
    for (int64_t r = 0; r < rows; r++) {
        float top = 0;
        for (int64_t i = r * q->n; i < (r + 1) * q->n; i++) {
            top = fmaxf(top, fabsf(want[i]));
        }
        for (int64_t i = r * q->n; i < (r + 1) * q->n; i++) {
            if (!(fabsf(got[i] - want[i]) <= limit * top)) {
                fail_msg("%s, row %d: %g, wanted %g", name, (int)r, (double)got[i],
                         (double)want[i]);
            }
        }
    }
    sq_weight_free(&w);
    sq_free(got);
}

static void stored_by_compressed_tensors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        sq_ct_scheme scheme; /* bits, group, symmetric; bits of the inputs, symmetric */
        int tensors;
    } cases[] = {{"packed-sym-32", {4, 32, 1, 0, 0}, 3},
                 {"packed-asym-32", {4, 32, 0, 0, 0}, 4},
                 {"packed-asym-128", {4, 128, 0, 0, 0}, 4},
                 {"packed-row", {4, 0, 0, 0, 0}, 4},
                 {"packed-8bit", {8, 32, 1, 0, 0}, 3},
                 {"packed-8bit-asym", {8, 64, 0, 0, 0}, 4},
                 {"w8a8", {8, 0, 1, 8, 1}, 2},
                 {"w8a8-asym-inputs", {8, 0, 1, 8, 0}, 2},
                 {"w8a8-asym", {8, 0, 0, 8, 1}, 3},
                 {"w4a8-32", {4, 32, 1, 8, 1}, 2},
                 {"w4a8-asym-32", {4, 32, 0, 8, 1}, 3},
                 {"w4a8-asym-128", {4, 128, 0, 8, 0}, 3}};
    sq_checkpoint *f = golden_file("ct.safetensors");
    sq_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].name;
        const sq_ct_scheme *s = &cases[i].scheme;
        const sq_tensor *codes = part(f, name, "codes");
        sq_qparts p = {part(f, name, s->act_bits ? "weight" : "weight_packed"),
                       part(f, name, "weight_scale"), part(f, name, "weight_zero_point"),
                       part(f, name, "weight_shape")};
        sq_qlinear q;
        if (sq_qlinear_read(&q, &p, SQ_LAYOUT_CT, s, codes->shape[0], codes->shape[1], name,
                            &err) != SQ_OK) {
            fail_msg("%s", err.text);
        }
        as_given(&q, f, name);
        as_packed(&q, SQ_LAYOUT_CT, f, name, cases[i].tensors);
        if (s->act_bits > 0) {
            as_computed(&q, s->act_symmetric, f, name);
        }
        sq_qlinear_free(&q);
    }
    sq_checkpoint_close(&f);
}

/* ---- compressed-tensors ---- */

/* int-quantized with zero points: both int8, not packed, signed (naive_quantized/base.py). */
static void int8_with_zero_points(void **state) {
    (void)state;
    static const int8_t w[2][4] = {{-8, 7, 0, -3}, {1, -1, 5, -6}},
                        zeros[2][2] = {{-8, 7}, {0, -3}};
    static const float scales[2][2] = {{0.5f, 0.25f}, {1, 2}};
    static const uint8_t codes[8] = {0, 15, 8, 5, 9, 7, 13, 2}, points[4] = {0, 15, 8, 5};
    sq_tensor t[3] = {
        {.name = "x.weight", .dtype = SQ_I8, .rank = 2, .shape = {2, 4}, .data = w, .bytes = 8},
        {.name = "x.weight_scale", .dtype = SQ_F32, .rank = 2, .shape = {2, 2}, .data = scales},
        {.name = "x.weight_zero_point", .dtype = SQ_I8, .rank = 2, .shape = {2, 2}, .data = zeros}};
    sq_qparts p = {&t[0], &t[1], &t[2], NULL};
    sq_ct_scheme s = {.bits = 4, .group_size = 2, .act_bits = 8, .act_symmetric = 1};
    sq_error err = {0};
    sq_qlinear q;
    sq_qtensor out[SQ_QTENSORS];
    int n;
    assert_int_equal(sq_qlinear_read(&q, &p, SQ_LAYOUT_CT, &s, 2, 4, "x", &err), SQ_OK);
    assert_memory_equal(q.codes, codes, 8);
    assert_memory_equal(q.zeros, points, 4);
    assert_int_equal(sq_qlinear_store(&q, SQ_LAYOUT_CT, "x", out, &n, &err), SQ_OK);
    assert_int_equal(n, 3);
    assert_string_equal(out[2].suffix, ".weight_zero_point");
    assert_memory_equal(out[0].data, w, 8);
    assert_memory_equal(out[2].data, zeros, 4);
    sq_qtensors_free(out, n);
    sq_qlinear_free(&q);
    p.zeros = NULL;
    assert_int_equal(sq_qlinear_read(&q, &p, SQ_LAYOUT_CT, &s, 2, 4, "x", &err), SQ_EFORMAT);
    assert_non_null(strstr(err.text, "missing x.weight_zero_point"));
}

/* What would change numbers if it were passed over. */
static void schemes_that_are_refused(void **state) {
    static const struct {
        const char *inputs, *more, *what;
    } rows[] = {
        {"{\"num_bits\": 8, \"strategy\": \"token\", \"dynamic\": true}", "", NULL},
        {"null", ", \"transform_config\": {}, \"sparsity_config\": {}, \"kv_cache_scheme\": null",
         NULL},
        {"{\"num_bits\": 8, \"strategy\": \"tensor\", \"dynamic\": false}", "",
         "strategy 'tensor', not dynamic"},
        {"{\"num_bits\": 8, \"strategy\": \"group\", \"dynamic\": true}", "", "strategy 'group'"},
        {"{\"num_bits\": 4, \"strategy\": \"token\", \"dynamic\": true}", "", "4-bit int"},
        {"null", ", \"transform_config\": {\"config_groups\": {}}", "transform_config"},
        {"null", ", \"kv_cache_scheme\": {\"num_bits\": 8}", "kv_cache_scheme"},
        {"null, \"output_activations\": {\"num_bits\": 8}", "", "rounds its outputs"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[700];
        sq_ct_reader *r = NULL;
        sq_error err = {0};
        snprintf(
            text, sizeof text,
            "{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", "
            "\"config_groups\": {\"g\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 8, "
            "\"strategy\": \"channel\"}, \"input_activations\": %s}}%s}",
            rows[i].inputs, rows[i].more);
        json_t *q = json_loads(text, 0, NULL);
        assert_non_null(q);
        sq_status st = sq_ct_reader_open(&r, q, &err);
        assert_int_equal(st, rows[i].what == NULL ? SQ_OK : SQ_EUNSUPPORTED);
        if (rows[i].what != NULL && strstr(err.text, rows[i].what) == NULL) {
            fail_msg("%s; wanted %s", err.text, rows[i].what);
        }
        sq_ct_reader_close(&r);
        json_decref(q);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_with_zero_points),
        cmocka_unit_test(schemes_that_are_refused),
        cmocka_unit_test(golden_awq),
        cmocka_unit_test(golden_gptq),
        cmocka_unit_test(packed_by_the_packages),
        cmocka_unit_test(stored_by_compressed_tensors),
        cmocka_unit_test(every_form_comes_back),
        cmocka_unit_test(what_a_layout_cannot_hold),
        cmocka_unit_test(order_of_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
