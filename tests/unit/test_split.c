/* Zeros that change nothing. Columns padded to a whole group give what the same codes give without
 * padding; --tp: an MLP widened for a tensor-parallel engine stands for the same weights and gives
 * the same logits, for every scheme; what cannot be shared is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "format/qconfig.h"
#include "quant/compare.h"
#include "quant/output.h"
#include "quant/quant.h"

static char dir[] = "/tmp/squint-split-XXXXXX";
static char model[512];

static int setup(void **state) {
    (void)state;
    snprintf(model, sizeof model, "%s/tests/golden/models/qwen25vl-flat-bf16",
             getenv("SQ_TEST_ROOT"));
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) == SQ_OK ? 0 : -1;
}

static sq_net *quantized(const char *name, sq_quantize_options o, int ranks) {
    char out[600];
    sq_error err = {0};
    json_t *report = NULL;
    sq_net *net = NULL;
    snprintf(out, sizeof out, "%s/%s-%d", dir, name, ranks);
    o.tp = ranks;
    o.method = "rtn";
    sq_status st = sq_quantize_run(model, out, &o, NULL, &report, &err); /* verifies, too */
    if (st != SQ_OK) {
        print_error("%s: %s\n", out, err.text);
    }
    assert_int_equal(st, SQ_OK);
    assert_int_equal(json_object_get(report, "tp") != NULL, ranks > 1);
    json_decref(report);
    assert_int_equal(sq_net_open(&net, out, &err), SQ_OK);
    return net;
}

/* b holds a's weights, and zeros around them. */
static void same_weights(const sq_linear *a, const sq_linear *b) {
    int64_t n = b->weight.n, k = b->weight.k;
    float *x = calloc((size_t)(n * k), sizeof *x), *y = calloc((size_t)(n * k), sizeof *y);
    assert_true(a->weight.n <= n && a->weight.k <= k);
    sq_weight_rows_f32(&a->weight, 0, a->weight.n, x);
    sq_weight_rows_f32(&b->weight, 0, n, y);
    for (int64_t i = 0; i < n * k; i++) {
        int64_t r = i / k, c = i % k;
        float want = r < a->weight.n && c < a->weight.k ? x[r * a->weight.k + c] : 0.0f;
        assert_true(y[i] == want);
    }
    free(x);
    free(y);
}

static void widened_models_are_equal(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int ranks, to; /* the MLP's width: lcm(128, group) * ranks */
        sq_quantize_options o;
    } cases[] = {
        {"w4", 6, 768, {.scheme = "w4a16", .group_size = 8}},
        {"w4-group", 2, 768, {.scheme = "w4a16", .group_size = 24, .symmetric = 1}},
        {"w4-channel", 6, 768, {.scheme = "w4a16", .group_size = -1}},
        {"w8a8", 6, 768, {.scheme = "w8a8"}},
        {"w4a8", 6, 768, {.scheme = "w4a8", .group_size = 8}},
        {"kept", 2, 256, {.scheme = "w8a16", .group_size = 12, .indivisible = SQ_KEEP}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sq_net *a = quantized(cases[i].name, cases[i].o, 0),
               *b = quantized(cases[i].name, cases[i].o, cases[i].ranks);
        assert_int_equal(a->config.dims[SQ_D_INTER], 44);
        assert_int_equal(b->config.dims[SQ_D_INTER], cases[i].to);
        for (int l = 0; l < a->config.layers; l++) {
            for (int r = 0; r < SQ_L_TEXT_COUNT; r++) {
                same_weights(&a->layers[l].linears[r], &b->layers[l].linears[r]);
            }
        }
        int32_t ids[] = {5, 9, 20, 33, 12, 7, 41, 3};
        sq_prompt p = {0};
        sq_comparison c = {0};
        sq_error err = {0};
        for (size_t k = 0; k < sizeof ids / sizeof *ids; k++) {
            assert_int_equal(sq_prompt_append(&p, ids[k], &err), SQ_OK);
        }
        assert_int_equal(sq_compare(&c, b, a, &p, &err), SQ_OK);
        assert_true(c.positions == 8 && c.agree == 8 && c.bad == 0);
        assert_true(fabs(c.kl) <= 1e-6);
        sq_prompt_free(&p);
        sq_net_close(&a);
        sq_net_close(&b);
    }
}

/* ---- padding ---- */

typedef struct narrowing {
    const sq_net *net;
    sq_qconfig *config;
    int padded;
} narrowing;

/* Packs a padded linear's codes again, of its true columns alone: groups of 4 with the scales of
 * the groups that they lie in. */
static sq_status narrow(void *user, sq_linear *l, sq_error *err) {
    enum { FOUR = 4 };
    narrowing *x = user;
    sq_qlinear q = {0};
    if (!l->quantized) {
        return SQ_OK;
    }
    assert_int_equal(sq_output_read(x->net, x->config, l, &q, err), SQ_OK);
    if (q.k_padded != q.k) {
        int64_t groups = q.k_padded / q.group, small = q.k / FOUR;
        uint8_t *codes = calloc((size_t)q.n, (size_t)q.k),
                *zeros = calloc((size_t)q.n, (size_t)small);
        float *scales = calloc((size_t)(q.n * small), sizeof *scales),
              *before = calloc((size_t)(q.n * q.k), sizeof *before),
              *after = calloc((size_t)(q.n * q.k), sizeof *after);
        assert_int_equal(q.k % FOUR, 0);
        for (int64_t r = 0; r < q.n; r++) {
            memcpy(codes + r * q.k, q.codes + r * q.k_padded, (size_t)q.k);
            for (int64_t g = 0; g < small; g++) {
                int64_t from = r * groups + g * FOUR / q.group;
                scales[r * small + g] = q.scales[from];
                zeros[r * small + g] = q.zeros[from];
            }
        }
        sq_weight_rows_f32(&l->weight, 0, q.n, before);
        sq_weight_free(&l->weight);
        assert_int_equal(
            sq_weight_codes(&l->weight, q.bits, codes, scales, zeros, q.n, q.k, q.k, FOUR, err),
            SQ_OK);
        sq_weight_rows_f32(&l->weight, 0, q.n, after);
        for (int64_t i = 0; i < q.n * q.k; i++) {
            assert_true(fabsf(after[i] - before[i]) <= 1e-6f * fabsf(before[i]));
        }
        free(codes);
        free(zeros);
        free(scales);
        free(before);
        free(after);
        x->padded++;
    }
    sq_qlinear_free(&q);
    return SQ_OK;
}

static void padding_changes_nothing(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int least; /* linears that are padded */
    } models[] = {{"qwen25vl-flat-bf16", 5}, {"llava-siglip-bf16", 20}};
    static const sq_quantize_options schemes[] = {
        {.scheme = "w4a16", .vision = "w4a16"},
        {.scheme = "w4a16", .vision = "w4a16", .symmetric = 1},
        {.scheme = "w8a16", .vision = "w8a16"},
        {.scheme = "w4a8", .vision = "w4a8"}};
    char data[600], from[600], out[600];
    sq_buf b = {0};
    snprintf(data, sizeof data, "%s/data.jsonl", dir);
    sq_buf_printf(&b,
                  "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", "
                  "\"image\": \"%s/../media/even.png\"}, {\"type\": \"text\", \"text\": \"What is "
                  "it?\"}]}]}\n",
                  model);
    assert_int_equal(sq_file_write(data, b.data, b.len, NULL), SQ_OK);
    sq_buf_free(&b);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
            sq_quantize_options o = schemes[k];
            sq_error err = {0};
            json_t *report = NULL;
            sq_net *nets[2];
            sq_frontend f;
            sq_samples s;
            sq_comparison c = {0};
            narrowing x = {0};
            o.method = "rtn";
            o.group_size = 16;
            snprintf(from, sizeof from, "%s/../%s", model, models[i].model);
            snprintf(out, sizeof out, "%s/padded-%zu-%zu", dir, i, k);
            assert_int_equal(sq_quantize_run(from, out, &o, NULL, &report, &err), SQ_OK);
            json_decref(report);
            for (int n = 0; n < 2; n++) {
                assert_int_equal(sq_net_open(&nets[n], out, &err), SQ_OK);
            }
            x.net = nets[1];
            assert_int_equal(sq_qconfig_open(&x.config, nets[1]->quantization, &err), SQ_OK);
            assert_int_equal(sq_net_every_linear(nets[1], narrow, &x, &err), SQ_OK);
            assert_true(x.padded >= models[i].least);
            assert_int_equal(sq_frontend_open(&f, out, &nets[0]->config, &err), SQ_OK);
            assert_int_equal(sq_samples_read(&s, &f, data, 1, 512, SQ_LOAD_PROMPTS, &err), SQ_OK);
            assert_int_equal(s.items[0].prompt.n_slots, 1);
            assert_int_equal(sq_compare(&c, nets[0], nets[1], &s.items[0].prompt, &err), SQ_OK);
            if (!(c.positions > 8 && c.bad == 0 && fabs(c.kl) <= 1e-6 * (double)c.positions)) {
                fail_msg("%s %s: KL %g over %lld positions", models[i].model, o.scheme, c.kl,
                         (long long)c.positions);
            }
            sq_samples_close(&s);
            sq_frontend_close(&f);
            sq_qconfig_close(&x.config);
            sq_net_close(&nets[0]);
            sq_net_close(&nets[1]);
        }
    }
}

static void what_cannot_be_shared_is_refused(void **state) {
    (void)state;
    char out[600];
    snprintf(out, sizeof out, "%s/none", dir);
    const int ranks[] = {-1, 4, 5, 3, 100000};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        sq_quantize_options o = {.method = "rtn", .tp = ranks[i]};
        sq_error err = {0};
        json_t *report = NULL;
        assert_int_equal(sq_quantize_run(model, out, &o, NULL, &report, &err), SQ_EARG);
        assert_non_null(strstr(err.text, "--tp"));
        assert_false(sq_file_exists(out));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(padding_changes_nothing),
        cmocka_unit_test(widened_models_are_equal),
        cmocka_unit_test(what_cannot_be_shared_is_refused),
    };
    return cmocka_run_group_tests_name("split", tests, setup, teardown);
}
