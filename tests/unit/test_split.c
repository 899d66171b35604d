/* --tp: an MLP widened with zeros for a tensor-parallel engine stands for the same weights and
 * gives the same logits, for every scheme; what cannot be shared is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "quant/compare.h"
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
        cmocka_unit_test(widened_models_are_equal),
        cmocka_unit_test(what_cannot_be_shared_is_refused),
    };
    return cmocka_run_group_tests_name("split", tests, setup, teardown);
}
