/* Quantization on a small checkpoint: codes, folding, the folder, its verification and what breaks
 * it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "conversations.h"
#include "quant/inputs.h"
#include "quant/policy.h"
#include "quant/quant.h"
#include "quant/ranges.h"
#include "quant/refine.h"
#include "quant/tap.h"

static int setup(void **state) {
    (void)state;
    return setup_conversations(8);
}

static void path_of(char *out, size_t cap, const char *name) {
    snprintf(out, cap, "%s/%s", dir, name);
}

/* ---- statistics ---- */

/* X'X counts a row by 1 / rms, the sample is every stride-th row whatever the pieces that came, and
 * the cost of rounded inputs is that of the rows themselves. */
static void statistics_weigh_rows(void **state) {
    (void)state;
    enum { K = 12, ROWS = 700, N = 5 };
    static float x[ROWS * K], w[N * K], e[SQ_STAT_SAMPLE * K], tmp[SQ_STAT_SAMPLE * N];
    static double xx[K * K], size[K * K];
    /* bf16 rounds each factor by at most 2^-9 of it */
    double bound = sq_kernels_get()->tile_bf16 == NULL ? 2e-6 : 4.1e-3;
    uint32_t seed = 7;
    sq_stat s;
    for (int i = 0; i < ROWS * K + N * K; i++) {
        seed = seed * 1664525u + 1013904223u;
        float v = (float)(seed >> 8) / 8388608.0f - 1.0f;
        *(i < ROWS * K ? &x[i] : &w[i - ROWS * K]) = i < K ? 300.0f * v : v; /* a sink */
    }
    memset(x + 3 * K, 0, K * sizeof *x);
    assert_int_equal(sq_stat_open(&s, K, NULL), SQ_OK);
    for (int64_t at = 0, n = 1; at < ROWS; at += n, n = n * 3 % 301) {
        assert_int_equal(sq_stat_add(&s, x + at * K, K, at + n < ROWS ? n : ROWS - at, NULL),
                         SQ_OK);
        if (at > ROWS / 2) {
            sq_stat_finish(&s); /* and more after it */
        }
    }
    sq_stat_finish(&s);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int c = 0; c < K; c++) {
            sum += (double)x[r * K + c] * (double)x[r * K + c];
        }
        for (int i = 0; sum > 0 && i < K * K; i++) {
            double v = (double)x[r * K + i / K] * (double)x[r * K + i % K] / sqrt(sum / K);
            xx[i] += v;
            size[i] += fabs(v);
        }
    }
    for (int i = 0; i < K * K; i++) {
        assert_true(fabs((double)s.xx[i] - xx[i]) <= bound * size[i]);
    }
    assert_int_equal(s.rows, ROWS);
    assert_int_equal(s.sample_rows, 88); /* every eighth */
    for (int r = 0; r < 88; r++) {
        assert_memory_equal(s.sample + r * K, x + 8 * r * K, K * sizeof *x);
    }
    double want = 0;
    for (int r = 0; r < 88; r++) {
        float row[K];
        memcpy(row, x + 8 * r * K, sizeof row);
        sq_fake_quantize_rows(row, K, 1, K, 1);
        for (int n = 0; n < N; n++) {
            double d = 0;
            for (int c = 0; c < K; c++) {
                d += (double)(row[c] - x[8 * r * K + c]) * (double)w[n * K + c];
            }
            want += d * d * (double)sq_stat_row_weight(x + 8 * r * K, K) / 88;
        }
    }
    sq_inputs_error(&s, NULL, 1, e);
    assert_true(fabs(sq_inputs_loss(&s, e, w, N, 1, tmp) / want - 1) <= 1e-3);
    sq_stat_close(&s);
}

/* ---- GPTQ against the published algorithm in float64 (tests/oracle/gen_gptq.py) ---- */

static const sq_tensor *gptq_tensor(const sq_checkpoint *f, const char *name, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, what);
    const sq_tensor *t = sq_checkpoint_find(f, key);
    assert_non_null(t);
    return t;
}

static double weighted_error(const float *w, const float *xx, const sq_codes *c) {
    int64_t k = c->grid.k;
    double sum = 0, *d = malloc((size_t)k * sizeof *d);
    float *back = malloc((size_t)k * sizeof *back);
    for (int64_t r = 0; r < c->n; r++) {
        sq_codes_row(c, r, back);
        for (int64_t i = 0; i < k; i++) {
            d[i] = (double)(back[i] - w[r * k + i]);
        }
        for (int64_t i = 0; i < k; i++) {
            for (int64_t j = 0; j < k; j++) {
                sum += d[i] * d[j] * (double)xx[i * k + j];
            }
        }
    }
    free(d);
    free(back);
    return sum;
}

static void gptq_case(const sq_checkpoint *f, const char *name) {
    int32_t m[6];
    memcpy(m, gptq_tensor(f, name, "meta")->data, sizeof m);
    int64_t n = m[0], k = m[1], group = m[2], padded = sq_round_up(k, group),
            groups = padded / group;
    sq_grid grid = {.bits = m[3], .symmetric = m[4], .group = group, .k = k, .k_padded = padded};
    float *w = malloc((size_t)(n * k) * 4), *xx = malloc((size_t)(k * k) * 4);
    memcpy(w, gptq_tensor(f, name, "w")->data, (size_t)(n * k) * 4);
    memcpy(xx, gptq_tensor(f, name, "xx")->data, (size_t)(k * k) * 4);
    const uint8_t *want = gptq_tensor(f, name, "codes")->data;
    sq_stat stat = {.k = k, .rows = 400, .xx = xx};
    sq_gptq_options o = {.natural_order = !m[5]};
    sq_gptq g;
    sq_codes c, plain;
    sq_error err = {0};
    assert_int_equal(sq_codes_open(&c, &grid, n, &err), SQ_OK);
    assert_int_equal(sq_codes_open(&plain, &grid, n, &err), SQ_OK);
    sq_quantize_rows(&plain, w, NULL);
    memcpy(c.scales, gptq_tensor(f, name, "scales")->data, (size_t)(n * groups) * 4);
    memcpy(c.zeros, gptq_tensor(f, name, "zeros")->data, (size_t)(n * groups));
    assert_int_equal(sq_gptq_open(&g, &stat, NULL, &o, &err), SQ_OK);
    assert_non_null(g.factor);
    assert_int_equal(sq_gptq_codes(&g, w, &c, &err), SQ_OK);
    size_t off = 0;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < k; i++) {
            off += c.codes[r * padded + i] != want[r * k + i];
        }
    }
    /* A value half way between two codes may fall to either side in f32, and carries its row along.
     */
    if (off * 50 > (size_t)(n * k)) {
        fail_msg("%s: %zu of %d codes differ", name, off, (int)(n * k));
    }
    double e = weighted_error(w, xx, &c), rtn = weighted_error(w, xx, &plain);
    if (!(e < 0.9 * rtn)) {
        fail_msg("%s: error %g of round-to-nearest", name, e / rtn);
    }
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < k; i++) {
            c.codes[r * padded + i] = want[r * k + i];
        }
    }
    assert_true(fabs(e - weighted_error(w, xx, &c)) <= 0.01 * e);
    sq_gptq_close(&g);
    sq_codes_close(&c);
    sq_codes_close(&plain);
    free(w);
    free(xx);
}

static void gptq_as_published(void **state) {
    static const char *const names[] = {"asym", "sym", "natural", "dead", "eight", "ragged"};
    (void)state;
    char path[600];
    sq_checkpoint *f = NULL;
    sq_error err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/quant/gptq.safetensors", getenv("SQ_TEST_ROOT"));
    assert_int_equal(sq_checkpoint_open(&f, path, &err), SQ_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        gptq_case(f, names[i]);
    }
    sq_checkpoint_close(&f);
}

/* Second moments that cannot be factored: more damping in f64, and at last no factor, never an
 * abort. */
static void gptq_without_a_factor(void **state) {
    (void)state;
    enum { K = 40 };
    static float xx[K * K];
    sq_stat stat = {.k = K, .rows = 1, .xx = xx};
    sq_gptq_options o = {0};
    sq_gptq g;
    sq_error err = {0};
    for (int i = 0; i < K * K; i++) {
        xx[i] =
            i % (K + 1) == 0 ? 1.0f : 1.2f; /* not a product X'X: every 2 x 2 minor is negative */
    }
    assert_int_equal(sq_gptq_open(&g, &stat, NULL, &o, &err), SQ_OK);
    assert_true(g.factor == NULL || g.damp > 0.1);
    sq_gptq_close(&g);
    memset(xx, 0, sizeof xx);
    assert_int_equal(sq_gptq_open(&g, &stat, NULL, &o, &err), SQ_OK);
    assert_null(g.factor);
    sq_gptq_close(&g);
}

/* ---- what follows plain rounding: each step by d X'X d', never uphill ---- */

enum { STEP_K = 48, STEP_N = 70, STEP_ROWS = 200 };

typedef struct steps {
    sq_stat stat;
    sq_grid grid;
    float w[STEP_N * STEP_K], scale[STEP_K];
} steps;

/* Correlated inputs of unlike size. */
static void make_steps(steps *s, int symmetric) {
    static float x[STEP_ROWS * STEP_K];
    sq_error err = {0};
    uint32_t seed = 7;
    for (int i = 0; i < STEP_ROWS * STEP_K; i++) {
        seed = seed * 1664525u + 1013904223u;
        float u = (float)(seed >> 8) / 8388608.0f - 1.0f;
        x[i] = u * (float)(1 + i % 5) + (i % STEP_K > 0 ? 0.7f * x[i - 1] : 0);
    }
    for (int i = 0; i < STEP_N * STEP_K; i++) {
        seed = seed * 1664525u + 1013904223u;
        s->w[i] = (float)(seed >> 8) / 8388608.0f - 0.8f;
    }
    for (int i = 0; i < STEP_K; i++) {
        s->scale[i] = 0.5f + 0.05f * (float)i;
    }
    s->grid = (sq_grid){.bits = 4,
                        .symmetric = symmetric,
                        .group = 20, /* the last group is partly padding */
                        .k = STEP_K,
                        .k_padded = 60,
                        .scale_type = SQ_BF16};
    assert_int_equal(sq_stat_open(&s->stat, STEP_K, &err), SQ_OK);
    assert_int_equal(sq_stat_add(&s->stat, x, STEP_K, STEP_ROWS, NULL), SQ_OK);
    sq_stat_finish(&s->stat);
}

static double loss_of(const steps *s, const sq_codes *c) {
    static float d[STEP_N * STEP_K], tmp[STEP_N * STEP_K];
    for (int r = 0; r < STEP_N; r++) {
        sq_codes_row(c, r, d + r * STEP_K);
        for (int k = 0; k < STEP_K; k++) {
            d[r * STEP_K + k] = (d[r * STEP_K + k] - s->w[r * STEP_K + k]) / s->scale[k];
        }
    }
    return sq_stat_loss(&s->stat, d, STEP_N, tmp);
}

static void steps_go_downhill(void **state) {
    (void)state;
    for (int symmetric = 0; symmetric < 2; symmetric++) {
        static steps s;
        static sq_range ranges[STEP_N * 3];
        float h[STEP_K];
        sq_codes c;
        sq_error err = {0};
        make_steps(&s, symmetric);
        assert_int_equal(sq_codes_open(&c, &s.grid, STEP_N, &err), SQ_OK);
        sq_quantize_rows(&c, s.w, NULL);
        double plain = loss_of(&s, &c);
        for (int k = 0; k < STEP_K; k++) {
            h[k] = s.stat.xx[k * STEP_K + k] / (s.scale[k] * s.scale[k]);
        }
        sq_ranges_weighted(&s.grid, s.w, STEP_N, h, ranges);
        sq_quantize_rows(&c, s.w, ranges);
        double own = loss_of(&s, &c);
        assert_int_equal(sq_ranges_joint(&s.grid, s.w, STEP_N, s.scale, &s.stat, ranges, &err),
                         SQ_OK);
        sq_quantize_rows(&c, s.w, ranges);
        double joint = loss_of(&s, &c);
        assert_int_equal(sq_refine_codes(&c, s.w, s.scale, &s.stat, 0, &err), SQ_OK);
        double moved = loss_of(&s, &c);
        assert_true(own < plain && joint < 0.9 * own && moved < 0.9 * joint);
        assert_int_equal(c.codes[STEP_K + 1], c.zeros[2]); /* padding stands for 0 */
        sq_codes_close(&c);
        sq_stat_close(&s.stat);
    }
}

/* Golden rows of formats.md 1.6.1, measured with torchao and compressed-tensors. */
static void inputs_are_rounded_per_row(void **state) {
    (void)state;
    float x[8] = {-1.0f, 0.25f, 0.5f, 3.0f, -0.6f, 0.9f, 0.0f, 0.1f};
    const float s0 = 4.0f / 255, s1 = 0.9f / 127.5f;
    sq_fake_quantize_rows(x, 4, 1, 4, 0); /* zero point -64 */
    assert_true(fabsf(x[0] + 64 * s0) <= 1e-6f && fabsf(x[1] - 16 * s0) <= 1e-6f);
    assert_true(fabsf(x[2] - 32 * s0) <= 1e-6f && fabsf(x[3] - 191 * s0) <= 1e-6f);
    sq_fake_quantize_rows(x + 4, 4, 1, 4, 1);
    assert_true(fabsf(x[4] + 85 * s1) <= 1e-6f && fabsf(x[5] - 127 * s1) <= 1e-6f && x[6] == 0);
    float zeros[3] = {0};
    sq_fake_quantize_rows(zeros, 3, 1, 3, 0);
    assert_true(zeros[0] == 0 && zeros[2] == 0);
}

/* Every scheme and method: written, verified, read back. */
static void schemes_and_methods(void **state) {
    static const struct {
        const char *scheme, *method;
        int64_t group;
    } rows[] = {{"w8a8", "rtn", 0},  {"w8a8", "awq", 0},        {"w4a8", "gptq", 32},
                {"w4a8", "rtn", 12}, {"w4a16", "awq+gptq", 16}, {"w8a16", "gptq", -1}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[512];
        json_t *report = NULL, *verified = NULL;
        sq_error err = {0};
        snprintf(out, sizeof out, "%s/scheme-%zu", dir, i);
        sq_quantize_options o = {.scheme = rows[i].scheme,
                                 .method = rows[i].method,
                                 .group_size = rows[i].group,
                                 .calib = calib,
                                 .vision = "w8a16"};
        if (sq_quantize_run(model, out, &o, NULL, &report, &err) != SQ_OK) {
            fail_msg("%s %s: %s", rows[i].scheme, rows[i].method, err.text);
        }
        json_decref(report);
        sq_verify_options v = {.against = model, .level = "cache"};
        if (sq_verify_run(out, &v, NULL, &verified, &err) != SQ_OK) {
            fail_msg("%s %s: %s", rows[i].scheme, rows[i].method, err.text);
        }
        json_decref(verified);
    }
}

static sq_status policy_of(const char *text, sq_policy *out, sq_error *err) {
    char path[512];
    snprintf(path, sizeof path, "%s/profile.json", dir);
    assert_int_equal(sq_file_write(path, text, strlen(text), err), SQ_OK);
    sq_quantize_options o = {.profile = path};
    return sq_policy_read(out, &o, err);
}

/* The shipped profiles, torchchat's own, and what is refused by name. */
static void profiles(void **state) {
    static const char *const shipped[] = {"mobile", "desktop", "server"};
    static const char *const bad[] = {"[]",
                                      "{\"languge\": {}}",
                                      "{\"language\": {\"scheme\": \"w3a16\"}}",
                                      "{\"language\": {\"bits\": 4}}",
                                      "{\"method\": 5}",
                                      "{\"language\": {\"group_size\": 5}}",
                                      "{\"linear:int4\": {\"bitwidth\": 3}}",
                                      "{\"language\": {\"scheme\": \"keep\"}}",
                                      "{\"on_indivisible\": \"stop\"}",
                                      "{\"embedding\": {\"bitwidth\": 2}}",
                                      "{\"lm_head\": {\"scheme\": \"w8a8\"}}"};
    (void)state;
    sq_policy p;
    char path[600];
    sq_error err = {0};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/profiles/%s.json", getenv("SQ_TEST_ROOT"), shipped[i]);
        sq_quantize_options o = {.profile = path};
        assert_int_equal(sq_policy_read(&p, &o, &err), SQ_OK);
    }
    assert_int_equal(
        policy_of("{\"embedding\": {\"bitwidth\": 4, \"groupsize\": 32}, \"linear:a8w4dq\": "
                  "{\"groupsize\": 256}, \"precision\": {\"dtype\": \"fp16\"}}",
                  &p, &err),
        SQ_OK);
    const sq_part_policy *e = &p.part[SQ_PART_EMBED];
    assert_true(e->bits == 4 && e->symmetric && e->group == 32 && e->act_bits == 0);
    const sq_part_policy *t = &p.part[SQ_PART_TEXT];
    assert_true(t->bits == 4 && t->act_bits == 8 && t->act_symmetric == 0 && t->symmetric &&
                t->group == 256);
    assert_int_equal(p.part[SQ_PART_VISION].bits, 0);
    assert_int_equal(
        policy_of("{\"linear:int8\": {\"bitwidth\": 8, \"groupsize\": 0}, \"vision\": {\"scheme\": "
                  "\"w8a8\"}, \"method\": \"gptq\"}",
                  &p, &err),
        SQ_OK);
    assert_true(t->bits == 8 && t->group == -1 && p.gptq && !p.awq);
    assert_true(p.part[SQ_PART_VISION].act_bits == 8 && p.part[SQ_PART_VISION].group == -1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (sq_error){0};
        assert_int_equal(policy_of(bad[i], &p, &err), SQ_EARG);
        assert_true(err.text[0] != '\0');
    }
}

static void rounding_is_half_to_even(void **state) {
    (void)state;
    sq_grid g = {.bits = 4, .group = 4, .k = 4, .k_padded = 4, .scale_type = SQ_F32};
    float scale, w[4] = {0.0f, 0.5f, 1.5f, 15.0f}, back[4];
    uint8_t zero, codes[4];
    sq_quantize_group(&g, w, 4, NULL, codes, back, &scale, &zero);
    assert_true(scale == 1.0f && zero == 0);
    assert_true(codes[1] == 0 && codes[2] == 2 && codes[3] == 15);
    float zeros[4] = {0};
    sq_quantize_group(&g, zeros, 4, NULL, codes, back, &scale, &zero);
    assert_true(scale > 0 && back[0] == 0.0f);
    float bad[4] = {NAN, INFINITY, -INFINITY, 1};
    sq_quantize_group(&g, bad, 4, NULL, codes, back, &scale, &zero); /* must not trap */
    assert_true(scale > 0);
}

static json_t *quantize(const char *name, const sq_quantize_options *o, sq_status want) {
    char out[600];
    sq_error err = {0};
    json_t *report = NULL;
    path_of(out, sizeof out, name);
    sq_status st = sq_quantize_run(model, out, o, NULL, &report, &err);
    if (st != want) {
        print_error("%s: %s\n", name, err.text);
    }
    assert_int_equal(st, want);
    return report;
}

static void never_worse_than_rtn(void **state) {
    (void)state;
    sq_quantize_options o = {.method = "awq", .group_size = 16, .calib = calib};
    json_t *r = quantize("awq", &o, SQ_OK), *l;
    size_t i;
    double error = 0, rtn = 0;
    json_array_foreach(json_object_get(r, "layers"), i, l) {
        double e = sq_json_num(l, "error", NAN), n = sq_json_num(l, "rtn_error", NAN);
        assert_true(e <= n * (1 + 1e-9));
        error += e;
        rtn += n;
    }
    assert_true(i > 0 && error < 0.95 * rtn);
    json_decref(r);
}

/* --mse-range: without data, every linear's weight error is below plain rounding's or the same. */
static void ranges_without_data(void **state) {
    (void)state;
    sq_quantize_options o = {.method = "rtn", .group_size = 16, .mse_range = 1};
    json_t *r = quantize("mse", &o, SQ_OK), *l;
    size_t i;
    double error = 0, rtn = 0;
    json_array_foreach(json_object_get(r, "layers"), i, l) {
        double e = sq_json_num(l, "error", NAN), n = sq_json_num(l, "rtn_error", NAN);
        assert_true(e <= n);
        error += e;
        rtn += n;
    }
    assert_true(i > 0 && error < 0.97 * rtn);
    json_decref(r);
}

/* --target-bits: the average is met, linears that engines fuse are alike, more than one scheme is
 * used, and what was written verifies. */
static void bits_meet_a_target(void **state) {
    (void)state;
    sq_quantize_options o = {.method = "gptq", .target_bits = 5.2, .calib = calib};
    json_t *r = quantize("mixed", &o, SQ_OK), *l;
    const json_t *layers = json_object_get(r, "layers");
    size_t i, k;
    int kinds = 0;
    double bits = sq_json_num(r, "bits", NAN);
    assert_true(bits <= 5.2 && bits > 4.4);
    json_array_foreach(layers, i, l) {
        const char *name = sq_json_str(l, "name", ""), *role = strstr(name, "k_proj");
        json_t *q;
        assert_non_null(json_object_get(l, "note"));
        kinds += sq_json_int(l, "group_size", 0) !=
                 sq_json_int(json_array_get(layers, 0), "group_size", 0);
        json_array_foreach(layers, k, q) {
            const char *other = sq_json_str(q, "name", "");
            if (role != NULL && strncmp(name, other, (size_t)(role - name)) == 0 &&
                strstr(other, "q_proj") != NULL) {
                assert_int_equal(sq_json_int(l, "bits", 0), sq_json_int(q, "bits", 1));
                assert_int_equal(sq_json_int(l, "group_size", 0), sq_json_int(q, "group_size", 1));
            }
        }
    }
    assert_true(kinds > 0);
    json_decref(r);
    sq_quantize_options few = {.method = "gptq", .target_bits = 3, .calib = calib};
    quantize("refused", &few, SQ_EARG);
    few.target_bits = 4.5;
    few.method = "rtn";
    quantize("refused", &few, SQ_EARG);
}

/* --sequential: the first layer is calibrated on the same rows as without, the second on other
 * ones; resuming it gives the same; without data it is refused. */
static void sequential_sees_quantized_layers(void **state) {
    (void)state;
    sq_quantize_options o = {.method = "gptq", .group_size = 16, .calib = calib};
    json_t *plain = quantize("one-pass", &o, SQ_OK);
    o.sequential = 1;
    json_t *seq = quantize("sequential", &o, SQ_OK), *a, *b;
    size_t i;
    int first = 0, later = 0;
    json_array_foreach(json_object_get(plain, "layers"), i, a) {
        b = json_array_get(json_object_get(seq, "layers"), i);
        int same = sq_json_num(a, "error", NAN) == sq_json_num(b, "error", NAN);
        int of_first = strstr(sq_json_str(a, "name", ""), "layers.0.") != NULL;
        first += of_first && !same;
        later += !of_first && !same;
    }
    assert_true(first == 0 && later > 0);
    json_decref(plain);
    json_decref(seq);
    sq_quantize_options bad = {.method = "rtn", .sequential = 1};
    quantize("refused", &bad, SQ_EARG);
}

/* Embeddings and head by schemes of their own: written, verified with the rest, near the original;
 * a head that is the embeddings has no scheme of its own. */
static void embeddings_and_head(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int tied;
    } cases[] = {{"qwen25-untied-bf16", 0}, {"smollm2-like-bf16", 1}, {"qwen2vl-flat-f16", -1}};
    for (size_t i = 0; i < 3; i++) {
        char from[512], to[512];
        json_t *r = NULL, *l;
        sq_error err = {0};
        size_t k;
        int seen = 0;
        snprintf(from, sizeof from, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"),
                 cases[i].model);
        snprintf(to, sizeof to, "%s/outside-%zu", dir, i);
        sq_quantize_options o = {.method = "rtn",
                                 .scheme = "w8a16",
                                 .embedding = "w8a16",
                                 .lm_head = cases[i].tied == 0 ? "w4a16" : NULL,
                                 .group_size = 16};
        sq_status st = sq_quantize_run(from, to, &o, NULL, &r, &err);
        if (st != SQ_OK) {
            fail_msg("%s: %s", cases[i].model, err.text);
        }
        json_array_foreach(json_object_get(r, "layers"), k, l) {
            const char *name = sq_json_str(l, "name", "");
            int head = strcmp(name, "lm_head") == 0;
            if (head || strstr(name, "embed_tokens") != NULL) {
                assert_int_equal(sq_json_int(l, "bits", 0), head ? 4 : 8);
                assert_true(sq_json_num(l, "error", NAN) <= sq_json_num(l, "rtn_error", NAN));
                seen++;
            }
        }
        assert_int_equal(seen, cases[i].tied == 0 ? 2 : 1);
        json_decref(r);
        sq_verify_options v = {.against = from, .data = calib, .min_top1 = 0.01, .max_kl = 5};
        r = NULL;
        v.data = cases[i].tied < 0 ? calib : NULL;
        st = sq_verify_run(to, &v, NULL, &r, &err);
        if (st != SQ_OK) {
            fail_msg("%s: %s %s", cases[i].model, err.text, json_dumps(r, 0));
        }
        json_decref(r);
    }
    sq_quantize_options o = {.method = "rtn", .lm_head = "w8a16"};
    json_t *r = NULL;
    sq_error err = {0};
    char from[512], to[512];
    snprintf(from, sizeof from, "%s/tests/golden/models/smollm2-like-bf16", getenv("SQ_TEST_ROOT"));
    snprintf(to, sizeof to, "%s/outside-no", dir);
    assert_int_equal(sq_quantize_run(from, to, &o, NULL, &r, &err), SQ_EARG);
}

/* One scheme for all linears, named by their class: what stays is left out by name, whatever the
 * family calls its head on disk. */
static void every_family_names_what_stays(void **state) {
    static const char *const models[] = {
        "llama-stories-bf16", "qwen25-untied-bf16", "llava-clip-f16",     "llavanext-mistral-bf16",
        "vila15-llama",       "nvila-s2",           "qwen2vl-nested-f32", "qwen25vl-flat-bf16"};
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char from[512], to[512];
        json_t *r = NULL, *check;
        sq_error err = {0};
        size_t k;
        int seen = 0;
        snprintf(from, sizeof from, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), models[i]);
        snprintf(to, sizeof to, "%s/stays-%s", dir, models[i]);
        sq_quantize_options o = {.method = "rtn", .group_size = -1, .no_verify = 1};
        assert_int_equal(sq_quantize_run(from, to, &o, NULL, &r, &err), SQ_OK);
        json_decref(r);
        r = NULL;
        sq_verify_options v = {.against = from, .level = "layers"};
        sq_verify_run(to, &v, NULL, &r, &err); /* random weights: answers may differ */
        json_array_foreach(json_object_get(r, "checks"), k, check) {
            if (strcmp(sq_json_str(check, "name", ""), "config") == 0) {
                seen = 1;
                if (!sq_json_bool(check, "ok", 0)) {
                    fail_msg("%s: %s", models[i], sq_json_str(check, "detail", ""));
                }
            }
        }
        assert_true(seen);
        json_decref(r);
    }
}

/* 40 columns and groups of 16: padded, listed, and the same result as one that needs no padding
 * would give at load. */
static void padding_is_listed(void **state) {
    (void)state;
    sq_quantize_options o = {.method = "rtn", .group_size = 32};
    json_t *r = quantize("padded", &o, SQ_OK), *l;
    size_t i;
    int padded = 0;
    json_array_foreach(json_object_get(r, "layers"), i, l) {
        padded += sq_json_int(l, "padded_columns", 0) > 0;
    }
    assert_true(padded > 0);
    json_decref(r);
    static const sq_indivisible others[] = {SQ_SMALLER_GROUP, SQ_CHANNEL};
    for (int k = 0; k < 2; k++) {
        char name[32];
        snprintf(name, sizeof name, "other-%d", k);
        o.indivisible = others[k];
        r = quantize(name, &o, SQ_OK);
        json_array_foreach(json_object_get(r, "layers"), i, l) {
            assert_int_equal(sq_json_int(l, "padded_columns", -1), 0);
        }
        assert_int_equal(json_array_size(json_object_get(r, "kept")), 0);
        json_decref(r);
    }
    o.indivisible = SQ_KEEP; /* what is kept is said, and nothing else was padded */
    o.group_size = 40;
    r = quantize("other-keep", &o, SQ_OK);
    assert_true(json_array_size(json_object_get(r, "kept")) > 0);
    json_array_foreach(json_object_get(r, "kept"), i, l) {
        assert_true(sq_json_int(l, "columns", 40) % 40 != 0);
        assert_non_null(strstr(sq_json_str(l, "note", ""), "kept"));
    }
    json_decref(r);
}

static void bad_options_are_refused(void **state) {
    (void)state;
    json_decref(quantize("x", &(sq_quantize_options){.method = "magic"}, SQ_EARG));
    json_decref(quantize("x", &(sq_quantize_options){.method = "awq"}, SQ_EARG));
    json_decref(quantize("x", &(sq_quantize_options){.method = "rtn", .group_size = 7}, SQ_EARG));
    json_decref(quantize("x", &(sq_quantize_options){.method = "rtn", .scheme = "w3"}, SQ_EARG));
    sq_quantize_options none = {.method = "rtn", .group_size = 256, .indivisible = SQ_KEEP};
    json_decref(quantize("x", &none, SQ_EARG)); /* all would be kept */
    json_decref(quantize("awq", &(sq_quantize_options){.method = "rtn"}, SQ_EARG)); /* exists */
    char path[600];
    path_of(path, sizeof path, "x");
    assert_false(sq_file_exists(path));
}

static sq_status verify(const char *name, sq_error *err) {
    char out[600];
    json_t *report = NULL;
    path_of(out, sizeof out, name);
    sq_verify_options o = {
        .against = model, .data = calib, .samples = 2, .max_kl = 5, .min_top1 = 0.01};
    sq_status st = sq_verify_run(out, &o, NULL, &report, err);
    json_decref(report);
    return st;
}

/* Changes one byte of a tensor's data, or of a file, and expects that the line names it. */
static void damage(const char *tensor, const char *file) {
    char path[700], out[600];
    sq_error err = {0};
    path_of(out, sizeof out, "awq");
    snprintf(path, sizeof path, "%s/%s", out, file);
    char *data;
    size_t size, at = 20;
    assert_int_equal(sq_file_read(path, (size_t)1 << 30, &data, &size, &err), SQ_OK);
    if (tensor != NULL) {
        sq_checkpoint *c;
        assert_int_equal(sq_checkpoint_open(&c, out, &err), SQ_OK);
        const sq_tensor *t = NULL;
        for (size_t i = 0; t == NULL && i < sq_checkpoint_count(c); i++) {
            t = strstr(sq_checkpoint_at(c, i)->name, tensor) != NULL ? sq_checkpoint_at(c, i)
                                                                     : NULL;
        }
        assert_non_null(t);
        uint64_t header = 0;
        memcpy(&header, data, 8);
        json_t *h = json_loadb(data + 8, header, 0, NULL),
               *off = json_object_get(json_object_get(h, t->name), "data_offsets");
        at = 8 + header + (size_t)json_integer_value(json_array_get(off, 0));
        json_decref(h);
        sq_checkpoint_close(&c);
    }
    char old = data[at];
    data[at] ^= 1;
    assert_int_equal(sq_file_write(path, data, size, &err), SQ_OK);
    assert_int_equal(verify("awq", &err), SQ_ECHECK);
    assert_non_null(strstr(err.text, tensor != NULL ? tensor : file));
    data[at] = old;
    assert_int_equal(sq_file_write(path, data, size, &err), SQ_OK);
    sq_free(data);
}

/* Changes the header's entry of the first packed weight: another shape of the same size, or gone.
 */
static void damage_header(int removed) {
    char path[700], out[600], *data, *text, *copy;
    sq_error err = {0};
    size_t size;
    uint64_t header;
    path_of(out, sizeof out, "awq");
    snprintf(path, sizeof path, "%s/model.safetensors", out);
    assert_int_equal(sq_file_read(path, (size_t)1 << 30, &data, &size, &err), SQ_OK);
    copy = malloc(size);
    assert_non_null(copy);
    memcpy(copy, data, size);
    memcpy(&header, data, 8);
    json_t *h = json_loadb(data + 8, header, 0, NULL), *entry;
    const char *key;
    void *next;
    json_object_foreach_safe(h, next, key, entry) {
        if (strstr(key, ".weight_packed") != NULL) {
            json_t *shape = json_object_get(entry, "shape");
            json_int_t rows = json_integer_value(json_array_get(shape, 0)),
                       words = json_integer_value(json_array_get(shape, 1));
            json_array_set_new(shape, 0, json_integer(rows / 2));
            json_array_set_new(shape, 1, json_integer(words * 2));
            if (removed) {
                json_object_del(h, key);
            }
            break;
        }
    }
    text = json_dumps(h, JSON_COMPACT);
    assert_true(strlen(text) <= header);
    memset(data + 8, ' ', header);
    memcpy(data + 8, text, strlen(text));
    assert_int_equal(sq_file_write(path, data, size, &err), SQ_OK);
    assert_int_equal(verify("awq", &err), SQ_ECHECK);
    assert_non_null(strstr(err.text, removed ? "hole" : ".weight_packed"));
    assert_int_equal(sq_file_write(path, copy, size, &err), SQ_OK);
    json_decref(h);
    free(text);
    free(copy);
    sq_free(data);
}

static void verification_finds_damage(void **state) {
    (void)state;
    sq_error err = {0};
    sq_status st = verify("awq", &err);
    if (st != SQ_OK) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(st, SQ_OK);
    damage(".weight_packed", "model.safetensors");
    damage(".weight_scale", "model.safetensors");
    damage(NULL, "tokenizer.json");
    damage_header(0);
    damage_header(1);
    assert_int_equal(verify("awq", &err), SQ_OK);
}

/* A run that stops half way leaves nothing under the name, and the next one goes on. */
static int stop_at;
static int stop(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)user, (void)total, (void)detail;
    return strcmp(stage, "quantize") == 0 && done == stop_at;
}

static void resumes(void **state) {
    (void)state;
    char out[600];
    sq_error err = {0};
    json_t *report = NULL;
    sq_quantize_options o = {.method = "awq", .group_size = 16, .calib = calib, .no_verify = 1};
    sq_progress p = {.tick = stop};
    path_of(out, sizeof out, "again");
    stop_at = 1;
    assert_int_equal(sq_quantize_run(model, out, &o, &p, &report, &err), SQ_ECANCELLED);
    assert_false(sq_file_exists(out));
    assert_int_equal(sq_quantize_run(model, out, &o, NULL, &report, &err), SQ_OK);
    assert_true(sq_json_bool(report, "resumed", 0));
    json_decref(report);
    char a[700], b[700], *x, *y;
    size_t n, m;
    snprintf(a, sizeof a, "%s/model.safetensors", out);
    path_of(out, sizeof out, "awq");
    snprintf(b, sizeof b, "%s/model.safetensors", out);
    assert_int_equal(sq_file_read(a, (size_t)1 << 30, &x, &n, &err), SQ_OK);
    assert_int_equal(sq_file_read(b, (size_t)1 << 30, &y, &m, &err), SQ_OK);
    assert_true(n == m && memcmp(x, y, n) == 0);
    sq_free(x);
    sq_free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profiles),
        cmocka_unit_test(inputs_are_rounded_per_row),
        cmocka_unit_test(schemes_and_methods),
        cmocka_unit_test(statistics_weigh_rows),
        cmocka_unit_test(gptq_as_published),
        cmocka_unit_test(gptq_without_a_factor),
        cmocka_unit_test(steps_go_downhill),
        cmocka_unit_test(rounding_is_half_to_even),
        cmocka_unit_test(never_worse_than_rtn),
        cmocka_unit_test(ranges_without_data),
        cmocka_unit_test(bits_meet_a_target),
        cmocka_unit_test(sequential_sees_quantized_layers),
        cmocka_unit_test(embeddings_and_head),
        cmocka_unit_test(padding_is_listed),
        cmocka_unit_test(every_family_names_what_stays),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(verification_finds_damage),
        cmocka_unit_test(resumes),
    };
    return cmocka_run_group_tests_name("quant", tests, setup, teardown);
}
