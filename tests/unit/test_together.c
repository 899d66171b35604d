/* Several sequences that go one token on in one pass: each as it does by itself. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/sequence.h"

enum { MOST = 11, STEPS = 5 };

static sq_net *net;
static sq_error err;

static void must(sq_status st) {
    if (st != SQ_OK) {
        fail_msg("%s", err.text);
    }
}

static int32_t token(int64_t seq, int64_t at) {
    return (int32_t)((seq * 31 + at * 17 + 3) % net->config.dims[SQ_D_VOCAB]);
}

/* Sequence i has 7 i + 2 tokens, or `tokens`. */
static void open_one(sq_seq *s, int64_t i, int64_t tokens) {
    sq_prompt p = {0};
    int64_t n = tokens > 0 ? tokens : 7 * i + 2;
    must(sq_seq_open(s, net, &err));
    for (int64_t t = 0; t < n; t++) {
        must(sq_ids_push(&p.ids, token(i, t), &err));
    }
    must(sq_positions_text(&p.positions, n, &err));
    must(sq_seq_feed(s, &p, 0, 0, NULL, NULL, &err));
    sq_prompt_free(&p);
}

static void open_net(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), name);
    must(sq_net_open(&net, path, &err));
}

/* The largest difference of the logits, of the largest of them. */
static double apart(const sq_seq *a, const sq_seq *b) {
    double worst = 0, top = 0;
    for (int64_t i = 0; i < net->config.dims[SQ_D_VOCAB]; i++) {
        double d = fabs((double)a->logits[i] - (double)b->logits[i]);
        worst = d <= worst ? worst : d == d ? d : INFINITY;
        top = fmax(top, fabs((double)b->logits[i]));
    }
    return worst / top;
}

static void as_by_itself(const char *name, int64_t n, double limit) {
    sq_seq all[MOST], alone, *of[MOST];
    int32_t ids[MOST];
    open_net(name);
    for (int64_t i = 0; i < n; i++) {
        open_one(&all[i], i, 0);
        of[i] = &all[n - 1 - i];
    }
    for (int64_t step = 0; step < STEPS; step++) {
        for (int64_t i = 0; i < n; i++) {
            ids[i] = token(n - 1 - i, 100 + step);
        }
        must(sq_seq_push_each(of, ids, n, &err));
    }
    for (int64_t i = 0; i < n; i++) {
        open_one(&alone, i, 0);
        for (int64_t step = 0; step < STEPS; step++) {
            must(sq_seq_push(&alone, token(i, 100 + step), &err));
        }
        double e = apart(&all[i], &alone);
        if (!(e <= limit)) {
            fail_msg("%s, sequence %lld of %lld: %g of the largest logit", name, (long long)i,
                     (long long)n, e);
        }
        assert_int_equal(all[i].kv.tokens, alone.kv.tokens);
        assert_int_equal(all[i].ids.len, alone.ids.len);
        assert_memory_equal(all[i].ids.data, alone.ids.data, alone.ids.len * sizeof(int32_t));
        sq_seq_close(&alone);
        sq_seq_close(&all[i]);
    }
    sq_net_close(&net);
}

static void each_as_by_itself(void **state) {
    static const char *const models[] = {"qwen2-text-f32", "qwen2vl-nested-f32",
                                         "smollm2-like-bf16"};
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        as_by_itself(models[m], 1, 0);
        as_by_itself(models[m], 5, 0);
        as_by_itself(models[m], MOST, 1e-5); /* more than eight rows: other products of f32 */
    }
}

/* Nothing of what was begun stays. */
static void unchanged(sq_seq *const *of, const int64_t *tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(of[i]->kv.tokens, tokens[i]);
        assert_int_equal((int64_t)of[i]->ids.len, tokens[i]);
        assert_int_equal(of[i]->positions.n, tokens[i]);
    }
}

static void an_error_changes_none(void **state) {
    enum { N = 3 };
    sq_seq all[N], *of[N] = {&all[0], &all[1], &all[2]};
    const int32_t ids[N] = {1, 2, 3};
    (void)state;
    open_net("qwen2-text-f32");
    net->config.max_positions = 70;
    const int64_t tokens[N] = {62, 70, 64};
    for (int64_t i = 0; i < N; i++) {
        open_one(&all[i], i, tokens[i]);
    }
    assert_int_equal(sq_seq_push_each(of, ids, N, &err), SQ_ELIMIT);
    unchanged(of, tokens, N);
    net->config.max_positions = 80;
    sq_status st = SQ_ENOMEM;
    for (long k = 1; st != SQ_OK; k++) {
        sq_memory_fail_after(k);
        st = sq_seq_push_each(of, ids, N, &err);
        sq_memory_fail_after(0);
        if (st != SQ_OK) {
            assert_int_equal(st, SQ_ENOMEM);
            unchanged(of, tokens, N);
        }
        assert_true(k < 100);
    }
    sq_net *own = net;
    open_net("smollm2-like-bf16");
    sq_seq other, *two[] = {of[0], &other};
    open_one(&other, 0, 0);
    assert_int_equal(sq_seq_push_each(two, ids, 2, &err), SQ_EARG);
    sq_seq_close(&other);
    sq_net_close(&net);
    for (int64_t i = 0; i < N; i++) {
        assert_int_equal(all[i].kv.tokens, tokens[i] + 1);
        sq_seq_close(&all[i]);
    }
    sq_net_close(&own);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_as_by_itself),
                                       cmocka_unit_test(an_error_changes_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
