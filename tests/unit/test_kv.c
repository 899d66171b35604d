/* The KV cache in each of its types: what is stored, how far logits move, growth, going back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "model/sequence.h"

static const sq_kv_type types[] = {SQ_KV_F32, SQ_KV_F16, SQ_KV_BF16, SQ_KV_INT8};
/* Of a row's largest value; of the largest logit. */
static const double row_error[] = {0, 5e-4, 4e-3, 0.5 / 127 + 1e-6},
                    logit_error[] = {0, 2e-3, 2e-2, 2e-2};
enum { HD = 24, HEADS = 3, LAYERS = 2, TOKENS = 300 };

static float value(int64_t t, int64_t layer, int which, int64_t head, int64_t i) {
    return sinf((float)(t * 7 + layer * 31 + which * 17 + head * 5 + i * 3)) * (float)(1 + t % 9);
}

/* A stored number, by the layout of kv.h. */
static float at(const sq_kv *kv, int64_t token, int64_t layer, int which, int64_t head, int64_t c) {
    static const int64_t words[] = {1, 1, 2, 4};
    int64_t w = words[kv->type], t = token % SQ_KV_BLOCK, block = token / SQ_KV_BLOCK;
    int64_t i = which == 0 ? (c / w * SQ_KV_BLOCK + t) * w + c % w
                           : (t / w * sq_kv_width(HD) + c) * w + t % w;
    const void *m = sq_kv_matrix(kv, block, layer, which, head);
    switch (kv->type) {
    case SQ_KV_F32:
        return ((const float *)m)[i];
    case SQ_KV_F16:
        return sq_f16_to_f32(((const uint16_t *)m)[i]);
    case SQ_KV_BF16:
        return sq_bf16_to_f32(((const uint16_t *)m)[i]);
    case SQ_KV_INT8:
        break;
    }
    float q = (float)((const uint8_t *)m)[i] - 128.0f;
    return q * sq_kv_scales(kv, block, layer, which, head)[t];
}

static void what_is_stored(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        sq_kv kv;
        float x[HD];
        sq_kv_init(&kv, types[k], LAYERS, HEADS, HD);
        for (int64_t t = 0; t < TOKENS; t++) {
            assert_int_equal(sq_kv_reserve(&kv, 1, NULL), SQ_OK);
            for (int64_t c = 0; c < LAYERS * 2 * HEADS; c++) {
                for (int64_t i = 0; i < HD; i++) {
                    x[i] = value(t, c / 6, (int)(c / 3 % 2), c % 3, i);
                }
                sq_kv_put(&kv, t, c / 6, (int)(c / 3 % 2), c % 3, x);
            }
            kv.tokens++;
        }
        size_t per_token = sq_kv_row_bytes(types[k], HD) * LAYERS * 2 * HEADS;
        assert_int_equal(sq_kv_bytes(&kv), per_token * (size_t)sq_kv_capacity(&kv));
        for (int64_t t = 0; t < TOKENS; t++) {
            for (int64_t i = 0; i < HD * LAYERS * 2 * HEADS; i++) {
                int64_t layer = i / HD / HEADS / 2, head = i / HD % HEADS;
                int which = (int)(i / HD / HEADS % 2);
                double e = fabs((double)at(&kv, t, layer, which, head, i % HD) -
                                (double)value(t, layer, which, head, i % HD));
                assert_true(e <= row_error[k] * (double)(1 + t % 9));
            }
        }
        memset(x, 0, sizeof x); /* a row of zeros stays one; one with NaN is not hidden */
        sq_kv_put(&kv, 3, 0, 0, 0, x);
        x[5] = NAN;
        sq_kv_put(&kv, 4, 0, 0, 0, x);
        assert_true(at(&kv, 3, 0, 0, 0, 7) == 0.0f && isnan(at(&kv, 4, 0, 0, 0, 5)));
        sq_kv_free(&kv);
    }
}

typedef struct logits {
    float *rows;
    int64_t vocab;
} logits;

static sq_status keep(void *user, int64_t first, int64_t rows, const float *x, sq_error *err) {
    const logits *l = user;
    (void)err;
    memcpy(l->rows + first * l->vocab, x, (size_t)(rows * l->vocab) * sizeof *x);
    return SQ_OK;
}

/* All logits of a prompt, fed in pieces; then again from the middle after going back there. */
static float *run(sq_net *net, sq_kv_type type, const sq_prompt *p, int64_t step) {
    sq_seq s;
    sq_error err = {0};
    int64_t n = (int64_t)p->ids.len, vocab = net->config.dims[SQ_D_VOCAB];
    logits l = {calloc((size_t)(n * vocab), sizeof(float)), vocab};
    sq_prompt part = *p;
    net->config.kv_type = type;
    assert_int_equal(sq_seq_open(&s, net, &err), SQ_OK);
    for (int round = 0; round < 2; round++) {
        for (int64_t at = round * (n / 2); at < n; at += step) {
            part.ids.len = (size_t)(at + step < n ? at + step : n);
            part.positions.n = (int64_t)part.ids.len;
            assert_int_equal(sq_seq_feed(&s, &part, at, 0, keep, &l, &err), SQ_OK);
        }
        sq_seq_truncate(&s, n / 2);
    }
    sq_seq_close(&s);
    return l.rows;
}

static void logits_stay_near(void **state) {
    (void)state;
    static const char *const models[] = {"qwen2-text-f32", "llama-llama3-f32", "smollm2-like-bf16"};
    for (size_t m = 0; m < 3; m++) {
        char path[600];
        sq_net *net;
        sq_error err = {0};
        sq_prompt p = {0};
        snprintf(path, sizeof path, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), models[m]);
        assert_int_equal(sq_net_open(&net, path, &err), SQ_OK);
        int64_t vocab = net->config.dims[SQ_D_VOCAB], n = 150;
        n = net->config.max_positions < n ? net->config.max_positions : n;
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(sq_ids_push(&p.ids, (int32_t)((i * 37 + 5) % vocab), &err), SQ_OK);
        }
        assert_int_equal(sq_positions_text(&p.positions, n, &err), SQ_OK);
        float *want = run(net, SQ_KV_F32, &p, 1);
        for (int k = 1; k < 4; k++) {
            for (int64_t step = 1; step < 200; step = step * 40) {
                float *got = run(net, types[k], &p, step);
                double top = 0, worst = 0;
                for (int64_t i = 0; i < n * vocab; i++) {
                    double e = fabs((double)got[i] - (double)want[i]);
                    worst = e <= worst ? worst : e == e ? e : INFINITY;
                    top = fmax(top, fabs((double)want[i]));
                }
                if (!(worst <= logit_error[k] * top) || worst == 0) {
                    fail_msg("%s in %s, %lld at once: %g of the largest logit", models[m],
                             sq_kv_name(types[k]), (long long)step, worst / top);
                }
                free(got);
            }
        }
        free(want);
        sq_prompt_free(&p);
        sq_net_close(&net);
    }
}

static void names(void **state) {
    (void)state;
    sq_kv_type t;
    sq_error err = {0};
    for (int k = 0; k < 4; k++) {
        assert_int_equal(sq_kv_parse(sq_kv_name(types[k]), &t, &err), SQ_OK);
        assert_int_equal(t, types[k]);
    }
    assert_int_equal(sq_kv_parse(NULL, &t, &err), SQ_OK);
    assert_int_equal(t, SQ_KV_F32);
    assert_int_equal(sq_kv_parse("int4", &t, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "int4"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_stored),
                                       cmocka_unit_test(logits_stay_near), cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
