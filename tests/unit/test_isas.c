/* A whole small model with every table of this CPU: the linears of integers are the C reference's
 * to the bit (conventions 6 and 7), and the answer is the same. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "kernels/kernels.h"
#include "model/sequence.h"
#include "model/work.h"
#include "quant/quant.h"
#include "workdir.h"

static sq_error err;

static void must(sq_status st) {
    if (st != SQ_OK) {
        fail_msg("%s: %s", sq_kernels_get()->name, err.text);
    }
}

enum { FEW = 1, MANY = 11, MOST_COLUMNS = 4096 };

/* Outputs of every quantized linear, one behind the other. */
typedef struct outputs {
    sq_buf y;
    int count;
} outputs;

static sq_status run_linear(void *user, sq_linear *l, sq_error *e) {
    outputs *o = user;
    static float x[MANY * MOST_COLUMNS], y[MANY * MOST_COLUMNS];
    int64_t n = l->weight.n, k = l->weight.k;
    (void)e;
    if (!l->quantized) {
        return SQ_OK;
    }
    assert_true(n <= MOST_COLUMNS && k <= MOST_COLUMNS);
    for (int64_t i = 0; i < MANY * k; i++) {
        x[i] = sinf((float)(i * 37 % 1009)) * (i % 53 == 0 ? 20.0f : 1.0f);
    }
    for (int64_t rows = FEW; rows <= MANY; rows += MANY - FEW) {
        sq_linear_rows(l, x, k, rows, y, n);
        sq_buf_put(&o->y, y, (size_t)(rows * n) * sizeof *y);
    }
    o->count++;
    return SQ_OK;
}

/* Logits of a prompt with a picture. */
static void answer(const sq_net *net, const sq_prompt *p, float *logits, sq_ids *text) {
    sq_seq s;
    must(sq_seq_open(&s, net, &err));
    must(sq_seq_feed(&s, p, 0, 0, NULL, NULL, &err));
    memcpy(logits, s.logits, (size_t)net->config.dims[SQ_D_VOCAB] * sizeof *logits);
    must(sq_seq_greedy(&s, 12, text, &err));
    sq_seq_close(&s);
}

/* Greatest difference over the greatest number. */
static double apart(const float *got, const float *want, int64_t n) {
    double diff = 0, top = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        diff = d > diff || !(d == d) ? d : diff;
        top = fmax(top, fabs((double)want[i]));
    }
    return diff / top;
}

/* `bound` is for the logits, whose float kernels differ by rounding: with inputs of 8 bits a number
 * between two steps goes either way by it, and towers of W8A8 attend in bf16 where the CPU does. */
static void same_with_each(const char *scheme, const char *vision, double bound) {
    const sq_kernels *tables[16];
    size_t count = sq_kernels_available(tables, 16);
    char out[700];
    json_t *report = NULL;
    sq_net *net;
    sq_frontend front;
    sq_prompt p;
    snprintf(out, sizeof out, "%s", in(scheme));
    sq_quantize_options o = {.scheme = scheme, .method = "rtn", .vision = vision};
    must(sq_quantize_run(model, out, &o, NULL, &report, &err));
    json_decref(report);
    must(sq_net_open(&net, out, &err));
    must(sq_frontend_open(&front, out, &net->config, &err));
    char text[900];
    snprintf(text, sizeof text,
             "[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"image\": "
             "\"%s/tests/data/vl/test-000.png\"}, {\"type\": \"text\", \"text\": \"How many "
             "circles are there?\"}]}]",
             getenv("SQ_TEST_ROOT"));
    json_t *messages = json_loads(text, 0, NULL);
    must(sq_prompt_messages(&p, &front, messages, "/", 1, &err));
    int64_t vocab = net->config.dims[SQ_D_VOCAB];
    float *want = malloc((size_t)vocab * 4), *got = malloc((size_t)vocab * 4);
    outputs first = {0};
    sq_ids words = {0};
    for (size_t i = 0; i < count; i++) {
        outputs own = {0};
        sq_ids said = {0};
        must(sq_kernels_select(tables[i]->name, &err));
        must(sq_net_each_linear(net, run_linear, i == 0 ? &first : &own, &err));
        answer(net, &p, i == 0 ? want : got, i == 0 ? &words : &said);
        if (i > 0) {
            assert_true(first.count > 0 && own.count == first.count && own.y.len == first.y.len);
            if (memcmp(own.y.data, first.y.data, own.y.len) != 0) {
                fail_msg("%s: linears with %s are not those of c", scheme, tables[i]->name);
            }
            double e = apart(got, want, vocab);
            if (!(e <= bound)) {
                fail_msg("%s with %s: logits are %g apart", scheme, tables[i]->name, e);
            }
            assert_int_equal(said.len, words.len);
            assert_memory_equal(said.data, words.data, words.len * sizeof *words.data);
        }
        sq_buf_free(&own.y);
        sq_free(said.data);
    }
    must(sq_kernels_select("", &err));
    sq_buf_free(&first.y);
    sq_free(words.data);
    free(want);
    free(got);
    json_decref(messages);
    sq_prompt_free(&p);
    sq_frontend_close(&front);
    sq_net_close(&net);
}

static void w4a16(void **state) {
    (void)state;
    same_with_each("w4a16", "w8a16", 2e-4);
}

static void w8a8(void **state) {
    (void)state;
    same_with_each("w8a8", "w8a8", 3e-2);
}

static void w4a8(void **state) {
    (void)state;
    same_with_each("w4a8", "w8a8", 3e-2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(w4a16),
        cmocka_unit_test(w8a8),
        cmocka_unit_test(w4a8),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
