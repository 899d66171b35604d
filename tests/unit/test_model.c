/* The forward pass against transformers: tests/golden/models (made by tests/oracle/gen_models.py).
 * Every case goes the whole way: messages, template, pictures, positions, tower, logits, greedy
 * continuation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "model/sequence.h"

static const char *const models[] = {
    "qwen25vl-nested-f32",
    "qwen25vl-flat-bf16",
    "qwen2vl-flat-f16",
    "qwen2vl-nested-f32",
    "qwen2-text-f32",
    "llama-llama3-f32",
    "llava-clip-f16",
    "llava-siglip-bf16",
    "llavanext-clip-f32",
    "llavanext-mistral-bf16",
    "llama-linear-f16",
    "llama-stories-bf16",
    "smollm2-like-bf16",
    "qwen25-untied-bf16",
    "vlmr1-bf16",
    "vila15-llama",
    "vila-3x3",
    "nvila-s2",
    "gguf-llama",
    "llama2c-v0",
    "llama2c-v1",
    "llama2c-v2",
};

typedef struct fixture {
    char dir[512];
    sq_net *net;
    sq_frontend front;
    sq_checkpoint *expected;
    json_t *cases;
    sq_error err;
} fixture;

static void must(fixture *f, sq_status st) {
    if (st != SQ_OK) {
        print_error("%s: %s\n", f->dir, f->err.text);
    }
    assert_int_equal(st, SQ_OK);
}

static void open_fixture(fixture *f, const char *name) {
    char path[600];
    *f = (fixture){0};
    snprintf(f->dir, sizeof f->dir, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), name);
    static const char *const files[] = {"model.gguf", "model.bin", "."};
    for (size_t i = 0; f->net == NULL; i++) {
        snprintf(path, sizeof path, "%s/%s", f->dir, files[i]);
        if (sq_file_exists(path)) {
            must(f, sq_net_open(&f->net, path, &f->err));
            must(f, sq_frontend_open(&f->front, path, &f->net->config, &f->err));
        }
    }
    snprintf(path, sizeof path, "%s/expected.safetensors", f->dir);
    must(f, sq_checkpoint_open(&f->expected, path, &f->err));
    snprintf(path, sizeof path, "%s/expected.json", f->dir);
    must(f, sq_json_load(path, &f->cases, &f->err));
}

static void close_fixture(fixture *f) {
    json_decref(f->cases);
    sq_checkpoint_close(&f->expected);
    sq_frontend_close(&f->front);
    sq_net_close(&f->net);
}

static const sq_tensor *expected(const fixture *f, const char *name, const char *what) {
    char key[256];
    snprintf(key, sizeof key, "%s.%s", name, what);
    const sq_tensor *t = sq_checkpoint_find(f->expected, key);
    if (t == NULL) {
        fail_msg("%s has no %s", f->dir, key);
    }
    return t;
}

static void ints_equal(const int32_t *got, const sq_tensor *want, size_t n) {
    assert_int_equal(want->bytes, n * sizeof *got);
    assert_memory_equal(got, want->data, want->bytes);
}

/* Largest difference over the largest wanted value. */
static double worst(const float *got, const float *want, size_t n) {
    double diff = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        diff = d > diff || !(d == d) ? d : diff;
        top = fmax(top, fabs((double)want[i]));
    }
    return diff / top;
}

static float *floats(const sq_tensor *t) {
    float *p = malloc(t->bytes);
    assert_non_null(p);
    memcpy(p, t->data, t->bytes);
    return p;
}

static void check_prompt(fixture *f, const char *name, const sq_prompt *p) {
    const sq_tensor *ids = expected(f, name, "input_ids"), *pos = expected(f, name, "position_ids");
    size_t n = p->ids.len;
    ints_equal(p->ids.data, ids, n);
    assert_int_equal(pos->bytes, 3 * n * sizeof(int32_t));
    for (int r = 0; r < 3; r++) {
        assert_memory_equal(p->positions.p[r], (const char *)pos->data + (size_t)r * n * 4, n * 4);
    }
    int32_t top = 0, delta;
    for (size_t i = 0; i < 3 * n; i++) {
        int32_t at = p->positions.p[i / n][i % n];
        top = at > top ? at : top;
    }
    delta = top + 1 - (int32_t)n;
    ints_equal(&delta, expected(f, name, "rope_delta"), 1);
}

/* The processor's pixel_values [tiles][3][side][side] against the rows of patches (c, y, x). */
static void check_tiles(fixture *f, const char *name, size_t i, const sq_pixels *px) {
    char key[256];
    snprintf(key, sizeof key, "%s.tiles.%zu", name, i);
    const sq_tensor *t = sq_checkpoint_find(f->expected, key);
    if (t == NULL) {
        return; /* Qwen's patches: test_preprocess */
    }
    int64_t side = t->shape[3], p = f->net->config.patch, cells = px->grid_h * px->grid_w, off = 0;
    float *want = floats(t);
    assert_int_equal(t->shape[0], px->grid_t);
    for (int64_t r = 0; r < px->grid_t * cells; r++) {
        for (int64_t k = 0; k < px->patch_dim; k++) {
            int64_t c = k / (p * p), y = r % cells / px->grid_w * p + k / p % p,
                    x = r % px->grid_w * p + k % p;
            float w = want[((r / cells * 3 + c) * side + y) * side + x];
            off += !(fabsf(px->patches[r * px->patch_dim + k] - w) <= 1e-5f);
        }
    }
    free(want);
    assert_int_equal(off, 0);
}

static void check_tower(fixture *f, const char *name, const sq_prompt *p) {
    sq_work *w;
    must(f, sq_work_open(&w, f->net, &f->err));
    for (size_t i = 0; i < p->n_slots; i++) {
        char what[32];
        snprintf(what, sizeof what, "vision.%zu", i);
        const sq_tensor *t = expected(f, name, what);
        const sq_pixels *px = &p->slots[i].pixels;
        float *got = malloc(t->bytes), *want = floats(t);
        check_tiles(f, name, i, px);
        assert_int_equal(t->bytes, (size_t)(px->tokens * f->net->config.dims[SQ_D_HIDDEN]) * 4);
        must(f, sq_vision_forward(f->net, w, px, got, NULL, &f->err));
        double e = worst(got, want, t->bytes / 4);
        if (!(e <= 1e-3)) {
            fail_msg("%s %s vision %zu: error %g", f->dir, name, i, e);
        }
        free(got);
        free(want);
    }
    sq_work_close(&w);
}

typedef struct rows {
    float *all;
    int64_t vocab;
} rows;

static sq_status keep(void *user, int64_t first, int64_t n, const float *logits, sq_error *err) {
    rows *r = user;
    (void)err;
    memcpy(r->all + first * r->vocab, logits, (size_t)(n * r->vocab) * sizeof *logits);
    return SQ_OK;
}

static void check_logits(fixture *f, const char *name, const sq_prompt *p, int64_t chunk) {
    const sq_tensor *which = expected(f, name, "logit_rows"), *t = expected(f, name, "logits");
    int64_t vocab = f->net->config.dims[SQ_D_VOCAB];
    rows r = {malloc(p->ids.len * (size_t)vocab * 4), vocab};
    float *want = floats(t);
    sq_seq s;
    must(f, sq_seq_open(&s, f->net, &f->err));
    must(f, sq_seq_feed(&s, p, 0, chunk, keep, &r, &f->err));
    for (size_t i = 0; i < which->bytes / 4; i++) {
        int32_t row;
        memcpy(&row, (const char *)which->data + 4 * i, 4);
        double e = worst(r.all + row * vocab, want + (int64_t)i * vocab, (size_t)vocab);
        /* inputs of quantized linears keep 16 bits, and these random weights magnify it */
        if (!(e <= (strstr(f->dir, "gguf") == NULL ? 1e-3 : 4e-3))) {
            fail_msg("%s %s chunk %d row %d: error %g", f->dir, name, (int)chunk, (int)row, e);
        }
    }
    double last = worst(s.logits, r.all + (int64_t)(p->ids.len - 1) * vocab, (size_t)vocab);
    assert_true(last <= 1e-5);
    if (chunk == 0) {
        sq_ids out = {0};
        const sq_tensor *g = expected(f, name, "greedy");
        must(f, sq_seq_greedy(&s, (int64_t)(g->bytes / 4), &out, &f->err));
        if (memcmp(out.data, g->data, out.len * 4) != 0) {
            print_error("%s %s: greedy differs\n", f->dir, name);
        }
        ints_equal(out.data, g, out.len);
        sq_free(out.data);
    }
    sq_seq_close(&s);
    free(r.all);
    free(want);
}

static void against_transformers(void **state) {
    fixture f;
    open_fixture(&f, *state);
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(f.cases, "cases"), i, c) {
        const char *name = sq_json_str(c, "name", "");
        sq_prompt p;
        const json_t *messages = json_object_get(c, "messages");
        if (json_is_array(messages)) {
            must(&f, sq_prompt_messages(&p, &f.front, messages, f.dir, 1, &f.err));
        } else {
            const char *text = sq_json_str(c, "prompt", "");
            must(&f, sq_prompt_text(&p, &f.front, text, strlen(text), &f.err));
        }
        check_prompt(&f, name, &p);
        check_tower(&f, name, &p);
        check_logits(&f, name, &p, 0);
        check_logits(&f, name, &p, 1);
        check_logits(&f, name, &p, 7);
        sq_prompt_free(&p);
    }
    close_fixture(&f);
}

int main(void) {
    struct CMUnitTest tests[sizeof models / sizeof *models];
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        tests[i] = (struct CMUnitTest){models[i], against_transformers, NULL, NULL,
                                       (void *)(uintptr_t)models[i]};
    }
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
