/* Packed weights kept beside the model: the same bits with and without, and what is not taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "kernels/packed.h"
#include "squint/squint.h"

static char dir[] = "/tmp/squint-packed-XXXXXX";

static const char *in(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static int make(void **state) {
    static const char *const outs[] = {"w4", "w8a8", "q.gguf"};
    char model[600];
    (void)state;
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    int failed = mkdtemp(dir) == NULL;
    for (int i = 0; !failed && i < 3; i++) {
        sq_quantize_options q = {.method = "rtn", .no_verify = 1, .group_size = 32};
        q.scheme = i == 1 ? "w8a8" : NULL;
        q.format = i == 2 ? "gguf" : NULL;
        failed = sq_quantize(model, in(outs[i]), &q, NULL, NULL, NULL) != SQ_OK;
    }
    return failed;
}

static int clear(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) != SQ_OK;
}

/* The last line of the log. */
static char said[400];
static void note(void *user, const char *text) {
    (void)user;
    snprintf(said, sizeof said, "%s", text);
}
static const sq_progress log_of = {.note = note};

/* How many linears of the blocks are borrowed. */
static sq_status count_borrowed(void *user, sq_linear *l, sq_error *err) {
    (void)err;
    *(int *)user += l->quantized && l->weight.owned == NULL;
    return SQ_OK;
}

/* Opens the model, with `packed` through the file beside it; logits of a few tokens. Returns the
 * number of linears that were mapped; `before`: what is said when it is opened. */
static int answer(const char *model, int packed, const char *before, float **logits) {
    static const int32_t ids[] = {5, 100, 7, 300, 42};
    sq_error err = {0};
    sq_engine *e = NULL;
    sq_prompt p;
    sq_seq seq;
    int borrowed = 0;
    said[0] = '\0';
    sq_status st = packed ? sq_engine_open_packed(&e, model, NULL, &log_of, &err)
                          : sq_engine_open(&e, model, NULL, &err);
    if (st != SQ_OK) {
        fail_msg("%s", err.text);
    }
    if (strstr(said, before) == NULL || (before[0] == '\0' && said[0] != '\0')) {
        fail_msg("'%s', wanted '%s'", said, before);
    }
    assert_int_equal(sq_engine_set_head(e, NULL, &err), SQ_OK);
    said[0] = '\0';
    sq_engine_keep_packed(e, &log_of);
    sq_net_each_linear(e->net, count_borrowed, &borrowed, NULL);
    borrowed += e->net->head.weight.kind == SQ_W_Q8 && e->net->head.weight.owned == NULL;
    size_t vocab = (size_t)e->net->config.dims[SQ_D_VOCAB];
    assert_int_equal(sq_prompt_tokens(&p, &e->front, ids, 5, &err), SQ_OK);
    assert_int_equal(sq_seq_open(&seq, e->net, &err), SQ_OK);
    assert_int_equal(sq_seq_feed(&seq, &p, 0, 0, NULL, NULL, &err), SQ_OK);
    *logits = malloc(vocab * sizeof **logits + 8);
    memcpy(*logits, seq.logits, vocab * sizeof **logits);
    memcpy(*logits + vocab, "end", 4);
    sq_seq_close(&seq);
    sq_prompt_free(&p);
    sq_engine_close(&e);
    return borrowed;
}

static void same(const float *a, float *b) {
    size_t n = 0;
    while (memcmp(b + n, "end", 4) != 0) {
        n++;
    }
    assert_true(n > 100);
    assert_memory_equal(a, b, n * sizeof *a);
    free(b);
}

/* A run with the file: what is said of it first, whether it is mapped, whether it is written. */
static void run(const char *model, const float *want, const char *before, int mapped,
                const char *after) {
    float *got;
    int n = answer(model, 1, before, &got);
    same(want, got);
    assert_true(mapped ? n >= 29 : n == 0);
    if (strstr(said, after) == NULL || (after[0] == '\0' && said[0] != '\0')) {
        fail_msg("'%s', wanted '%s'", said, after);
    }
}

static void same_bits(void **state) {
    static const char *const models[] = {"w4", "w8a8", "q.gguf"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        float *plain;
        answer(in(models[i]), 0, "", &plain);
        run(in(models[i]), plain, "", 0, "kept in");
        run(in(models[i]), plain, "", 1, "");
        free(plain);
    }
    assert_true(sq_file_exists(in("w4/squint.packed")) && sq_file_exists(in("q.gguf.packed")));
    assert_false(sq_file_exists(in("w4/squint.packed.tmp")));
}

/* Writes the bytes at `at` of a file anew. */
static void spoil(const char *path, long at) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 64, f);
    fclose(f);
}

static long size_of(const char *path) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    fclose(f);
    return n;
}

static void what_is_not_taken(void **state) {
    (void)state;
    float *plain;
    answer(in("w4"), 0, "", &plain);
    const char *file = "w4/squint.packed";
    run(in("w4"), plain, "", sq_file_exists(in(file)), "");
    long size = size_of(in(file));
    const long cuts[] = {0, 30, 5000, size / 2, size - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        assert_int_equal(truncate(in(file), cuts[i]), 0);
        run(in("w4"), plain, "cut off", 0, "kept in");
        run(in("w4"), plain, "", 1, "");
    }
    const long places[] = {3, 17, 40, 100, size / 2, size - 10};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        spoil(in(file), places[i]);
        run(in("w4"), plain, "is not taken", 0, "kept in");
        run(in("w4"), plain, "", 1, "");
    }
    /* the model changes: one scale of a linear, at the end of the tensors, and its time */
    spoil(in("w4/model.safetensors"), size_of(in("w4/model.safetensors")) - 1);
    float *changed;
    answer(in("w4"), 0, "", &changed);
    run(in("w4"), changed, "other files", 0, "kept in");
    run(in("w4"), changed, "", 1, "");
    free(changed);
    free(plain);
}

/* No room, as far as a program can see: a limit on the size of files. */
static void full_disk(void **state) {
    (void)state;
    float *plain;
    answer(in("w8a8"), 0, "", &plain);
    unlink(in("w8a8/squint.packed"));
    struct rlimit before, little;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little = before;
    little.rlim_cur = 100000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    run(in("w8a8"), plain, "", 0, "not kept");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_false(sq_file_exists(in("w8a8/squint.packed")));
    assert_false(sq_file_exists(in("w8a8/squint.packed.tmp")));
    run(in("w8a8"), plain, "", 0, "kept in");
    free(plain);
}

/* Parts of a matrix with columns in another order; and parts that are none. */
static void parts(void **state) {
    (void)state;
    enum { N = 19, K = 64, GROUP = 32 };
    uint8_t codes[N * K], zeros[N * K / GROUP];
    float scales[N * K / GROUP];
    int32_t columns[K];
    for (int i = 0; i < N * K; i++) {
        codes[i] = (uint8_t)(i * 7 % 16);
        zeros[i / GROUP] = (uint8_t)(i / GROUP % 16);
        scales[i / GROUP] = 0.5f + (float)(i / GROUP) / 64.0f;
        columns[i % K] = (i % K * 5 + 3) % K;
    }
    sq_weight w, b = {0};
    sq_weight_part p[SQ_WEIGHT_PARTS], q[SQ_WEIGHT_PARTS];
    assert_int_equal(sq_weight_codes(&w, 4, codes, scales, zeros, N, K, K, GROUP, NULL), SQ_OK);
    assert_int_equal(sq_weight_order(&w, columns, NULL), SQ_OK);
    sq_weight_parts(&w, p);
    const sq_weight shape = {.kind = w.kind, .n = N, .k = K, .k_padded = K, .group = GROUP};
    b = shape;
    assert_true(sq_weight_borrow(&b, p));
    float x[N * K], y[N * K];
    sq_weight_rows_f32(&w, 0, N, x);
    sq_weight_rows_f32(&b, 0, N, y);
    assert_memory_equal(x, y, sizeof x);
    sq_weight_free(&b); /* frees nothing */
    for (int i = 0; i < SQ_WEIGHT_PARTS; i++) {
        memcpy(q, p, sizeof q);
        q[i].bytes -= q[i].bytes > 0 ? 4 : 0;
        b = shape;
        assert_true(sq_weight_borrow(&b, q) == (p[i].data == NULL));
    }
    int32_t bad[2 * K];
    memcpy(bad, p[SQ_WEIGHT_PARTS - 1].data, sizeof bad);
    bad[K + 1] = K;
    memcpy(q, p, sizeof q);
    q[SQ_WEIGHT_PARTS - 1].data = bad;
    b = shape;
    assert_false(sq_weight_borrow(&b, q));
    sq_weight_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits),
        cmocka_unit_test(what_is_not_taken),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(parts),
    };
    return cmocka_run_group_tests_name("packed", tests, make, clear);
}
