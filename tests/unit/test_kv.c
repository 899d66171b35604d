/* The KV cache in each of its types: what is stored, attention over it, how far logits move,
 * growth, going back. */
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
#include "model/work.h"

static const sq_kv_type types[] = {SQ_KV_F32, SQ_KV_F16, SQ_KV_BF16, SQ_KV_INT8};
/* Of a row's largest value; of the largest logit. */
static const double row_error[] = {0, 5e-4, 4e-3, 0.5 / 127 + 1e-6},
                    logit_error[] = {0, 2e-3, 2e-2, 2e-2};
enum { HD = 76, HEADS = 3, LAYERS = 2, TOKENS = 300 };

static float value(int64_t t, int64_t layer, int which, int64_t head, int64_t i) {
    return sinf((float)(t * 7 + layer * 31 + which * 17 + head * 5 + i * 3)) * (float)(1 + t % 9);
}

/* A stored number, by the layout of kv.h. */
static float at(const sq_kv *kv, int64_t token, int64_t layer, int which, int64_t head, int64_t c) {
    static const int64_t words[] = {1, 1, 2, 4};
    int64_t w = words[kv->type], t = token % SQ_KV_BLOCK, block = token / SQ_KV_BLOCK;
    int64_t wide = (kv->head_dim + 15) / 16 * 16 - c / 64 * 64; /* of its panel */
    wide = wide < 64 ? wide : 64;
    int64_t i = which == 0 ? (c / w * SQ_KV_BLOCK + t) * w + c % w
                           : c / 64 * 64 * 64 + (t / w * wide + c % 64) * w + t % w;
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

/* ---- attention over it, against sums in double of what is stored ---- */

typedef struct problem {
    sq_kv kv;
    int64_t heads, rows, ld;
    float *qkv, *cos, *sin, *out;
} problem;

static float noise(uint32_t *s) {
    *s = *s * 1664525u + 1013904223u;
    return (float)(*s >> 8) / 8388608.0f - 1.0f;
}

static void make(problem *p, sq_kv_type type, int64_t heads, int64_t kv_heads, int64_t hd,
                 int64_t tokens, int64_t rows) {
    uint32_t seed = (uint32_t)(tokens * 31 + hd + heads);
    float x[160];
    *p = (problem){.heads = heads, .rows = rows, .ld = (heads + 2 * kv_heads) * hd};
    sq_kv_init(&p->kv, type, 2, kv_heads, hd);
    assert_int_equal(sq_kv_reserve(&p->kv, tokens, NULL), SQ_OK);
    for (int64_t i = 0; i < tokens * 2 * kv_heads; i++) {
        for (int64_t c = 0; c < hd; c++) {
            x[c] = noise(&seed) * (c % 5 == 0 ? 4.0f : 1.0f);
        }
        sq_kv_put(&p->kv, i / 2 / kv_heads, 1, (int)(i / kv_heads % 2), i % kv_heads, x);
    }
    p->kv.tokens = tokens;
    p->qkv = malloc((size_t)(rows * p->ld) * 4);
    p->out = malloc((size_t)(rows * heads * hd) * 4);
    p->cos = malloc((size_t)(rows * hd) * 2);
    p->sin = malloc((size_t)(rows * hd) * 2);
    for (int64_t i = 0; i < rows * p->ld; i++) {
        p->qkv[i] = 3 * noise(&seed);
    }
    for (int64_t i = 0; i < rows * hd / 2; i++) {
        p->cos[i] = cosf((float)i);
        p->sin[i] = sinf((float)i);
    }
}

static void unmake(problem *p) {
    sq_kv_free(&p->kv);
    free(p->qkv);
    free(p->out);
    free(p->cos);
    free(p->sin);
}

/* Rows [first, first + rows) of the problem, into out. */
static void attend(const problem *p, int64_t first, int64_t rows, int bf16, float *out) {
    int64_t hd = p->kv.head_dim, tokens = p->kv.tokens;
    int64_t floats = sq_cached_floats(p->heads, p->kv.kv_heads, hd, rows, tokens);
    float *space = malloc((size_t)floats * 4);
    memset(space, 0xff, (size_t)floats * 4); /* NaN */
    sq_attend_cached(&(sq_cached){.kv = &p->kv,
                                  .layer = 1,
                                  .heads = p->heads,
                                  .at = tokens - p->rows + first,
                                  .rows = rows,
                                  .qkv = p->qkv + first * p->ld,
                                  .ld = p->ld,
                                  .cos = p->cos + first * hd / 2,
                                  .sin = p->sin + first * hd / 2,
                                  .bf16 = bf16,
                                  .out = out},
                     space);
    free(space);
}

/* The largest error of a row's head, of the largest value. */
static double error_of(const problem *p, int64_t row, int64_t head) {
    int64_t hd = p->kv.head_dim, seen = p->kv.tokens - p->rows + row + 1;
    int64_t from = head / (p->heads / p->kv.kv_heads);
    double *s = malloc((size_t)seen * sizeof *s), top = -1e300, sum = 0, worst = 0;
    float q[160];
    memcpy(q, p->qkv + row * p->ld + head * hd, (size_t)hd * 4);
    sq_kernels_get()->rope(q, p->cos + row * hd / 2, p->sin + row * hd / 2, hd);
    for (int64_t t = 0; t < seen; t++) {
        s[t] = 0;
        for (int64_t c = 0; c < hd; c++) {
            s[t] += (double)q[c] * (double)at(&p->kv, t, 1, 0, from, c) / sqrt((double)hd);
        }
        top = fmax(top, s[t]);
    }
    for (int64_t t = 0; t < seen; t++) {
        sum += s[t] = exp(s[t] - top);
    }
    for (int64_t c = 0; c < hd; c++) {
        double want = 0;
        for (int64_t t = 0; t < seen; t++) {
            want += s[t] / sum * (double)at(&p->kv, t, 1, 1, from, c);
        }
        double e = fabs(want - (double)p->out[(row * p->heads + head) * hd + c]) / 4;
        worst = e <= worst ? worst : e == e ? e : INFINITY;
    }
    free(s);
    return worst;
}

/* Heads and key heads; columns of a head, of a panel or more, whole and not. */
static const int64_t shapes[][3] = {{2, 2, 64}, {3, 1, 22}, {6, 1, 128}, {12, 2, 16}, {7, 1, 80}};

static void attention(void **state) {
    (void)state;
    static const double tol[] = {2e-6, 2e-6, 1e-2, 1.5e-4};
    static const int64_t lengths[] = {1, 2, 63, 64, 65, 130, 511, 512, 513, 1100};
    for (int64_t i = 0; i < 5 * 10 * 4 * 2; i++) {
        int64_t tokens = lengths[i / 8 % 10], rows = i % 2 == 0 ? 1 : 40;
        const int64_t *h = shapes[i / 80];
        sq_kv_type type = types[i / 2 % 4];
        problem p;
        rows = rows < tokens ? rows : tokens;
        make(&p, type, h[0], h[1], h[2], tokens, rows);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            attend(&p, 0, rows, bf16, p.out);
            double limit = bf16 ? fmax(1e-2, tol[type]) : tol[type];
            for (int64_t r = 0; r < rows; r += 13) {
                double e = error_of(&p, r, (r + tokens) % h[0]);
                if (!(e <= limit)) {
                    fail_msg("%s, %lld heads of %lld, row %lld of %lld, %lld tokens: %g, wanted %g",
                             sq_kv_name(type), (long long)h[0], (long long)h[2], (long long)r,
                             (long long)rows, (long long)tokens, e, limit);
                }
            }
        }
        unmake(&p);
    }
}

/* A row gives the same bits alone and among others, with one thread and with several. */
static void same_bits(void **state) {
    (void)state;
    for (int64_t i = 0; i < 5 * 4; i++) {
        const int64_t *h = shapes[i / 4];
        int64_t rows = 75, wide = h[0] * h[2];
        problem p;
        make(&p, types[i % 4], h[0], h[1], h[2], 1300, rows);
        float *alone = malloc((size_t)wide * 4);
        sq_set_threads(1);
        attend(&p, 0, rows, 0, p.out);
        for (int64_t r = 0; r < rows; r += 37) {
            for (int threads = 1; threads <= 5; threads += 2) {
                sq_set_threads(threads);
                memset(alone, 0, (size_t)wide * 4);
                attend(&p, r, 1, 0, alone);
                assert_memory_equal(alone, p.out + r * wide, (size_t)wide * 4);
            }
        }
        float *again = malloc((size_t)(rows * wide) * 4);
        sq_set_threads(3);
        attend(&p, 0, rows, 0, again);
        assert_memory_equal(again, p.out, (size_t)(rows * wide) * 4);
        sq_set_threads(0);
        free(alone);
        free(again);
        unmake(&p);
    }
}

/* A number that is none shows in the rows that see it, and stays in no later ones that do not. */
static void not_a_number(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        for (int which = 0; which < 2; which++) {
            problem p;
            float x[32];
            make(&p, types[k], 2, 1, 32, 130, 1);
            for (int i = 0; i < 32; i++) {
                x[i] = i == 7 ? NAN : 1.0f;
            }
            sq_kv_put(&p.kv, 129, 1, which, 0, x);
            attend(&p, 0, 1, 0, p.out);
            assert_true(isnan(p.out[7]) && isnan(p.out[32 + 7]));
            sq_kv_truncate(&p.kv, 128); /* 129 is the other half of 128's pair */
            x[7] = 1.0f;
            sq_kv_put(&p.kv, 128, 1, which, 0, x);
            p.kv.tokens = 129;
            attend(&p, 0, 1, 0, p.out);
            for (int i = 0; i < 64; i++) {
                assert_true(isfinite(p.out[i]));
            }
            unmake(&p);
        }
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_stored),   cmocka_unit_test(attention),
        cmocka_unit_test(same_bits),        cmocka_unit_test(not_a_number),
        cmocka_unit_test(logits_stay_near), cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
