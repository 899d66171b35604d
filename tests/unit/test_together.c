/* Several sequences that go one token on in one pass: each as it does by itself. And a prompt whose
 * last row alone leaves the last layer: as one whose rows all do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/kernels.h"
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

/* Takes the logits of all rows, which are then computed. */
static sq_status each_row(void *user, int64_t first, int64_t rows, const float *logits,
                          sq_error *e) {
    (void)logits;
    (void)e;
    *(int64_t *)user = first + rows;
    return SQ_OK;
}

/* Sequence i has 7 i + 2 tokens, or `tokens`. */
static void open_with(sq_seq *s, int64_t i, int64_t tokens, sq_logits_fn each) {
    sq_prompt p = {0};
    int64_t n = tokens > 0 ? tokens : 7 * i + 2;
    must(sq_seq_open(s, net, &err));
    for (int64_t t = 0; t < n; t++) {
        must(sq_ids_push(&p.ids, token(i, t), &err));
    }
    must(sq_positions_text(&p.positions, n, &err));
    int64_t seen = n;
    must(sq_seq_feed(s, &p, 0, 0, each, &seen, &err));
    assert_int_equal(seen, n);
    sq_prompt_free(&p);
}

static void open_one(sq_seq *s, int64_t i, int64_t tokens) { open_with(s, i, tokens, NULL); }

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

/* Lengths about the borders of the blocks of rows. */
static void the_last_row_alone(void **state) {
    static const char *const models[] = {"qwen2-text-f32", "smollm2-like-bf16"};
    static const int64_t tokens[] = {1, 2, 9, 64, 255, 256, 257, 511, 512, 513, 700};
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        open_net(models[m]);
        net->config.max_positions = 1024;
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            sq_seq all, last;
            open_with(&all, 3, tokens[i], each_row);
            open_with(&last, 3, tokens[i], NULL);
            for (int step = 0; step < 2; step++) { /* the second reads what the prompt has left */
                double e = apart(&last, &all);
                if (!(e <= 1e-5)) { /* few and many rows: other products of f32 */
                    fail_msg("%s, %lld tokens, step %d: %g of the largest logit", models[m],
                             (long long)tokens[i], step, e);
                }
                must(sq_seq_push(&all, token(3, 900), &err));
                must(sq_seq_push(&last, token(3, 900), &err));
            }
            assert_int_equal(last.kv.tokens, all.kv.tokens);
            sq_seq_close(&all);
            sq_seq_close(&last);
        }
        sq_net_close(&net);
    }
}

/* A team of any size: one sequence, and three, over more than one range of the cache. The embedded
 * model, for smaller ones are not worth a second thread. */
static void any_number_of_threads(void **state) {
    enum { N = 3, TOKENS = 600 };
    const int32_t ids[N] = {5, 6, 7};
    char path[600];
    (void)state;
    snprintf(path, sizeof path, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    must(sq_net_open(&net, path, &err));
    size_t bytes = (size_t)net->config.dims[SQ_D_VOCAB] * sizeof(float);
    float *want = malloc((N + 1) * bytes);
    for (int threads = 1; threads <= 3; threads++) {
        sq_seq all[N], *of[N] = {&all[0], &all[1], &all[2]};
        sq_set_threads(threads);
        for (int64_t i = 0; i < N; i++) {
            open_one(&all[i], i, TOKENS + i);
        }
        must(sq_seq_push(of[0], ids[0], &err));
        for (int64_t i = 0; i <= N; i++) {
            if (i == 1) {
                must(sq_seq_push_each(of, ids, N, &err));
            }
            char *to = (char *)want + (size_t)i * bytes;
            const float *got = all[i == 0 ? 0 : i - 1].logits;
            if (threads == 1) {
                memcpy(to, got, bytes);
            }
            assert_memory_equal(to, got, bytes);
        }
        for (int64_t i = 0; i < N; i++) {
            sq_seq_close(&all[i]);
        }
    }
    sq_set_threads(0);
    free(want);
    sq_net_close(&net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_as_by_itself), cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(an_error_changes_none), cmocka_unit_test(the_last_row_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
