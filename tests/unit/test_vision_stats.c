/* Vision towers calibrated block by block: the steps equal the whole pass, what is quantized from
 * their statistics is better than plain rounding, and the file of statistics gives the same. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "quant/hidden.h"
#include "quant/quant.h"

static char dir[] = "/tmp/squint-tower-XXXXXX";
static char calib[512], words[512];
static const char *const models[] = {"qwen25vl-nested-f32", "qwen2vl-flat-f16", "llava-clip-f16",
                                     "llava-siglip-bf16",   "nvila-s2",         "vila-3x3"};
enum { MODELS = sizeof models / sizeof *models };

static const char *model_path(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), name);
    return path;
}

static int setup(void **state) {
    (void)state;
    sq_buf b = {0}, t = {0};
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(calib, sizeof calib, "%s/calib.jsonl", dir);
    snprintf(words, sizeof words, "%s/words.jsonl", dir);
    for (int i = 0; i < 4; i++) {
        sq_buf_printf(&b,
                      "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", "
                      "\"image\": \"%s\"}, {\"type\": \"text\", \"text\": \"Number %d?\"}]}, "
                      "{\"role\": \"assistant\", \"content\": \"The answer %d.\"}]}\n",
                      model_path(i % 2 == 0 ? "media/even.png" : "media/odd-a.png"), i, i * 7);
        sq_buf_printf(&t, "{\"messages\": [{\"role\": \"user\", \"content\": \"Number %d?\"}]}\n",
                      i);
    }
    int ok = sq_file_write(calib, b.data, b.len, NULL) == SQ_OK &&
             sq_file_write(words, t.data, t.len, NULL) == SQ_OK;
    sq_buf_free(&b);
    sq_buf_free(&t);
    return ok ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) == SQ_OK ? 0 : -1;
}

/* Every picture at once, and stage by stage: the same tokens to the bit; a look changes nothing. */
static void check_steps(const char *name) {
    sq_net *net;
    sq_frontend front;
    sq_error err = {0};
    sq_hidden all[2];
    assert_int_equal(sq_net_open(&net, model_path(name), &err), SQ_OK);
    assert_int_equal(sq_frontend_open(&front, model_path(name), &net->config, &err), SQ_OK);
    for (int steps = 0; steps < 2; steps++) {
        sq_samples s;
        sq_hidden_options o = {.front = &front, .vision = steps, .dir = dir};
        assert_int_equal(sq_samples_read(&s, &front, calib, 4, 512, SQ_LOAD_SHAPES, &err), SQ_OK);
        assert_int_equal(sq_hidden_open(&all[steps], net, &s, &o, NULL, &err), SQ_OK);
        sq_samples_close(&s);
    }
    assert_int_equal(all[0].n_pictures, 0);
    assert_int_equal(all[1].n_pictures, 4);
    for (int64_t i = 0; i <= net->config.v_layers; i++) {
        sq_stage s = sq_stage_at(net, i);
        assert_int_equal(sq_hidden_stage(&all[1], &s, NULL, 1, &err), SQ_OK);
        assert_int_equal(sq_hidden_stage(&all[1], &s, NULL, 0, &err), SQ_OK);
    }
    for (size_t i = 0; i < all[0].n; i++) {
        size_t n = (size_t)(all[0].tokens[i] * net->config.dims[SQ_D_HIDDEN]);
        assert_memory_equal(all[0].rows[i], all[1].rows[i], n * sizeof(float));
    }
    sq_hidden_close(&all[0]);
    sq_hidden_close(&all[1]);
    sq_frontend_close(&front);
    sq_net_close(&net);
}

static void steps_equal_the_whole(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        check_steps(models[i]);
    }
}

static json_t *quantize(const char *model, const char *name, sq_quantize_options o) {
    char out[512];
    json_t *report = NULL;
    sq_error err = {0};
    snprintf(out, sizeof out, "%s/%s-%s", dir, model, name);
    o.group_size = 16;
    o.symmetric = 1;
    o.indivisible = SQ_CHANNEL;
    sq_status st = sq_quantize_run(model_path(model), out, &o, NULL, &report, &err);
    if (st != SQ_OK) {
        fail_msg("%s %s: %s", model, name, err.text);
    }
    return report;
}

static int of_text(const json_t *layer) {
    const char *name = sq_json_str(layer, "name", "");
    return strstr(name, "visual") == NULL && strstr(name, "vision") == NULL &&
           strstr(name, "mm_projector") == NULL && strstr(name, "multi_modal") == NULL;
}

/* Errors of the tower's linears against plain rounding's, and how many were really searched. */
static double tower_gain(const json_t *report, int *searched, const char *fallback) {
    double error = 0, rtn = 0;
    size_t i;
    json_t *l;
    *searched = 0;
    json_array_foreach(json_object_get(report, "layers"), i, l) {
        if (of_text(l)) {
            continue;
        }
        double e = sq_json_num(l, "error", NAN), n = sq_json_num(l, "rtn_error", NAN);
        assert_true(e <= n * (1 + 1e-9));
        error += e;
        rtn += n;
        *searched += strcmp(sq_json_str(l, "method", "rtn"), "rtn") != 0;
        if (fallback != NULL) {
            assert_non_null(strstr(sq_json_str(l, "fallback", ""), fallback));
        }
    }
    return error / rtn;
}

static void towers_are_searched(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        int searched;
        sq_quantize_options o = {
            .method = "awq+gptq", .vision = "w4a16", .calib = calib, .no_verify = 1};
        json_t *r = quantize(models[i], "searched", o);
        double gain = tower_gain(r, &searched, NULL);
        if (!(gain < 0.7) || searched < 4) {
            fail_msg("%s: %d searched, error %g of plain rounding's", models[i], searched, gain);
        }
        json_decref(r);
    }
}

static void same_weights(const char *a, const char *b) {
    char path[600], *x, *y;
    size_t n, m;
    snprintf(path, sizeof path, "%s/%s/model.safetensors", dir, a);
    assert_int_equal(sq_file_read(path, 1 << 26, &x, &n, NULL), SQ_OK);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", dir, b);
    assert_int_equal(sq_file_read(path, 1 << 26, &y, &m, NULL), SQ_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    sq_free(x);
    sq_free(y);
}

static void statistics_from_a_file(void **state) {
    (void)state;
    const char *m = "llava-clip-f16";
    char stats[512], only[512];
    json_t *r = NULL;
    int searched;
    sq_error err = {0};
    snprintf(stats, sizeof stats, "%s/vision.stats", dir);
    snprintf(only, sizeof only, "%s/text.stats", dir);
    sq_quantize_options o = {.method = "gptq", .vision = "w4a16", .calib = calib, .no_verify = 1};
    assert_int_equal(sq_calibrate_run(model_path(m), stats, &o, NULL, &r, &err), SQ_OK);
    json_decref(r);
    json_decref(quantize(m, "direct", o));
    o.calib = NULL;
    o.stats = stats;
    json_decref(quantize(m, "stats", o));
    same_weights("llava-clip-f16-direct", "llava-clip-f16-stats");
    /* Statistics of the language model alone, and data without a picture: plain rounding. */
    sq_quantize_options text = {.calib = calib};
    r = NULL;
    assert_int_equal(sq_calibrate_run(model_path(m), only, &text, NULL, &r, &err), SQ_OK);
    json_decref(r);
    o.stats = only;
    r = quantize(m, "only", o);
    assert_true(tower_gain(r, &searched, "no calibration data") == 1 && searched == 0);
    json_decref(r);
    o.stats = NULL;
    o.calib = words;
    r = quantize(m, "words", o);
    assert_true(tower_gain(r, &searched, "no calibration data") == 1 && searched == 0);
    json_decref(r);
}

/* --sequential: the first block's inputs are the original ones, later blocks' are not. */
static void sequential_towers(void **state) {
    (void)state;
    const char *m = "qwen2vl-flat-f16";
    sq_quantize_options o = {.method = "gptq", .vision = "w4a16", .calib = calib, .no_verify = 1};
    json_t *plain = quantize(m, "at-once", o), *a;
    o.sequential = 1;
    json_t *seq = quantize(m, "sequential", o);
    size_t i;
    int first = 0, later = 0;
    json_array_foreach(json_object_get(plain, "layers"), i, a) {
        const json_t *b = json_array_get(json_object_get(seq, "layers"), i);
        int same = sq_json_num(a, "error", NAN) == sq_json_num(b, "error", NAN);
        int of_first = strstr(sq_json_str(a, "name", ""), "blocks.0.") != NULL;
        first += of_first && !same;
        later += !of_first && !same && !of_text(a);
    }
    assert_true(first == 0 && later > 0);
    json_decref(plain);
    json_decref(seq);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_the_whole), cmocka_unit_test(towers_are_searched),
        cmocka_unit_test(statistics_from_a_file), cmocka_unit_test(sequential_towers)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
