/* What goes wrong around a quantization: runs that stop and go on, statistics that are damaged or
 * of something else, weights that are no numbers, degenerate weights, samples that do not fit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "conversations.h"
#include "quant/fingerprint.h"
#include "quant/quant.h"
#include "quant/samples.h"
#include "quant/stats_file.h"

static const char *in_dir(const char *name) {
    static char paths[64][600]; /* more than one test holds at a time */
    static int at;
    char *p = paths[at++ % 64];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static int setup(void **state) {
    (void)state;
    return setup_conversations(4);
}

/* ---- files ---- */

typedef struct bytes {
    char *p;
    size_t n;
} bytes;

static bytes file_bytes(const char *path) {
    bytes b;
    assert_int_equal(sq_file_read(path, (size_t)1 << 30, &b.p, &b.n, NULL), SQ_OK);
    return b;
}

static void same_files(const char *a, const char *b) {
    bytes x = file_bytes(a), y = file_bytes(b);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.p, y.p, x.n);
    sq_free(x.p);
    sq_free(y.p);
}

/* Where a tensor's data lies in a safetensors file. */
static size_t place(const bytes *b, const char *name, size_t *n) {
    uint64_t header;
    memcpy(&header, b->p, sizeof header);
    json_t *h = json_loadb(b->p + 8, header, 0, NULL),
           *off = json_object_get(json_object_get(h, name), "data_offsets");
    assert_non_null(off);
    size_t at = (size_t)json_integer_value(json_array_get(off, 0)),
           end = (size_t)json_integer_value(json_array_get(off, 1));
    json_decref(h);
    *n = end - at;
    return 8 + header + at;
}

/* A copy of the model, to be changed. */
static const char *copy_model(const char *name) {
    sq_arena a = {0};
    char **names;
    size_t n;
    const char *to = in_dir(name);
    assert_int_equal(sq_make_dirs(to, NULL), SQ_OK);
    assert_int_equal(sq_list_dir(&a, model, &names, &n, NULL), SQ_OK);
    for (size_t i = 0; i < n; i++) {
        char *from = sq_path_join(&a, model, names[i], NULL),
             *path = sq_path_join(&a, to, names[i], NULL);
        assert_int_equal(sq_file_copy(from, path, NULL), SQ_OK);
    }
    sq_arena_free(&a);
    return to;
}

/* Numbers [first, first + count) of the model's f32 tensor become v. */
static void set(const char *folder, const char *tensor, size_t first, size_t count, float v) {
    char path[700];
    size_t n;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    bytes b = file_bytes(path);
    size_t at = place(&b, tensor, &n);
    count = count == 0 ? n / 4 - first : count;
    assert_true((first + count) * 4 <= n);
    for (size_t i = 0; i < count; i++) {
        memcpy(b.p + at + 4 * (first + i), &v, sizeof v);
    }
    assert_int_equal(sq_file_write(path, b.p, b.n, NULL), SQ_OK);
    sq_free(b.p);
}

/* ---- runs that stop ---- */

static const char *stop_stage;
static int64_t stop_at;
static int stop(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)user, (void)total, (void)detail;
    return strcmp(stage, stop_stage) == 0 && done == stop_at;
}

static int notes;
static void count_resuming(void *user, const char *text) {
    (void)user;
    notes += strncmp(text, "resuming", 8) == 0;
}

static const sq_quantize_options searched = {
    .method = "awq+gptq", .group_size = 16, .vision = "w8a8", .no_verify = 1};

/* Stopped behind each stage in turn, every time resumed: the same file. */
static void calibration_resumes(void **state) {
    (void)state;
    sq_quantize_options o = {.calib = calib, .vision = "w8a8"};
    json_t *r = NULL;
    sq_error err = {0};
    const char *whole = in_dir("whole.stats"), *parts = in_dir("parts.stats");
    assert_int_equal(sq_calibrate_run(model, whole, &o, NULL, &r, &err), SQ_OK);
    assert_int_equal(sq_json_int(r, "samples", 0), 4);
    assert_false(sq_json_bool(r, "resumed", 1));
    json_decref(r);
    notes = 0;
    stop_stage = "calibrate";
    sq_progress p = {.tick = stop, .note = count_resuming};
    for (stop_at = 1; stop_at <= 5; stop_at++) { /* 3 blocks, merger, 2 layers: the last is done */
        assert_int_equal(sq_calibrate_run(model, parts, &o, &p, &r, &err), SQ_ECANCELLED);
        assert_false(sq_file_exists(parts));
    }
    assert_int_equal(notes, 4);
    assert_int_equal(sq_calibrate_run(model, parts, &o, NULL, &r, &err), SQ_OK);
    assert_true(sq_json_bool(r, "resumed", 0));
    json_decref(r);
    same_files(whole, parts);
    assert_false(sq_file_exists(in_dir("parts.stats.partial")));
    /* Other data: the work of before is not used. */
    stop_at = 2;
    const char *other = in_dir("other.stats");
    assert_int_equal(sq_calibrate_run(model, other, &o, &p, &r, &err), SQ_ECANCELLED);
    o.samples = 3;
    assert_int_equal(sq_calibrate_run(model, other, &o, NULL, &r, &err), SQ_OK);
    assert_false(sq_json_bool(r, "resumed", 1));
    assert_int_equal(sq_json_int(r, "unused", 0), 1);
    json_decref(r);
}

static json_t *quantized(const char *from, const char *name, sq_quantize_options o) {
    json_t *r = NULL;
    sq_error err = {0};
    sq_status st = sq_quantize_run(from, in_dir(name), &o, NULL, &r, &err);
    if (st != SQ_OK) {
        fail_msg("%s: %s", name, err.text);
    }
    return r;
}

static void stopped(const char *name, sq_quantize_options o, int64_t at) {
    json_t *r = NULL;
    sq_error err = {0};
    sq_progress p = {.tick = stop};
    stop_stage = "quantize";
    stop_at = at;
    assert_int_equal(sq_quantize_run(model, in_dir(name), &o, &p, &r, &err), SQ_ECANCELLED);
    assert_false(sq_file_exists(in_dir(name)));
}

static void quantization_resumes(void **state) {
    (void)state;
    static const char *const files[] = {"model.safetensors", "squint.json", "config.json"};
    sq_quantize_options o = searched;
    char a[64], b[64];
    o.calib = calib;
    json_decref(quantized(model, "at-once", o));
    for (int64_t at = 1; at <= 6; at++) {
        stopped("in-parts", o, at);
    }
    json_t *r = quantized(model, "in-parts", o), *record = NULL;
    assert_true(sq_json_bool(r, "resumed", 0));
    json_decref(r);
    for (int i = 0; i < 3; i++) {
        snprintf(a, sizeof a, "at-once/%s", files[i]);
        snprintf(b, sizeof b, "in-parts/%s", files[i]);
        same_files(in_dir(a), in_dir(b));
    }
    assert_false(sq_file_exists(in_dir("in-parts/journal.json")));
    assert_int_equal(sq_json_load(in_dir("in-parts/squint.json"), &record, NULL), SQ_OK);
    assert_true(json_array_size(json_object_get(record, "options")) > 0);
    json_decref(record);
}

/* Another kind of arithmetic, another picture, lost tensors: a new start. */
static void what_differs_starts_anew(void **state) {
    (void)state;
    sq_quantize_options o = searched;
    const char *picture = in_dir("picture.png");
    char from[600];
    sq_buf b = {0};
    o.calib = in_dir("one.jsonl");
    snprintf(from, sizeof from, "%s/../media/even.png", model);
    assert_int_equal(sq_file_copy(from, picture, NULL), SQ_OK);
    sq_buf_puts(&b, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", "
                    "\"image\": \"picture.png\"}, {\"type\": \"text\", \"text\": \"What?\"}]}]}\n");
    assert_int_equal(sq_file_write(o.calib, b.data, b.len, NULL), SQ_OK);
    sq_buf_free(&b);
    for (int what = 0; what < 4; what++) {
        char name[16], path[64];
        snprintf(name, sizeof name, "anew-%d", what);
        stopped(name, o, 2);
        if (what == 0) {
            assert_int_equal(sq_kernels_select("c", NULL), SQ_OK);
        } else if (what == 1) {
            snprintf(from, sizeof from, "%s/../media/odd-a.png", model);
            assert_int_equal(sq_file_copy(from, picture, NULL), SQ_OK);
        } else if (what == 2) {
            snprintf(path, sizeof path, "%s.partial/model.safetensors", name);
            assert_int_equal(sq_remove_tree(in_dir(path), NULL), SQ_OK);
        }
        json_t *r = quantized(model, name, o);
        int same = sq_kernels_get()->name[0] == 'c' && what == 0;
        sq_kernels_select(NULL, NULL);
        same = same && strcmp(sq_kernels_get()->name, "c") == 0; /* a CPU that has no other */
        assert_int_equal(sq_json_bool(r, "resumed", -1), what == 3 || same);
        json_decref(r);
    }
}

/* ---- statistics ---- */

static sq_status use(const char *stats, sq_error *err) {
    sq_quantize_options o = {
        .method = "gptq", .group_size = 16, .vision = "w8a8", .stats = stats, .no_verify = 1};
    json_t *r = NULL;
    sq_status st = sq_quantize_run(model, in_dir("by-stats"), &o, NULL, &r, err);
    assert_false(sq_file_exists(in_dir("by-stats.partial")));
    json_decref(r);
    sq_remove_tree(in_dir("by-stats"), NULL);
    return st;
}

/* Every damage is refused before any work, with the file's name. */
static void refused(const char *p, size_t n, const char *word) {
    sq_error err = {0};
    const char *path = in_dir("bad.stats");
    assert_int_equal(sq_file_write(path, p, n, NULL), SQ_OK);
    sq_status st = use(path, &err);
    if (st != SQ_EFORMAT || strstr(err.text, "bad.stats") == NULL ||
        strstr(err.text, word) == NULL) {
        fail_msg("status %d, wanted '%s': %s", st, word, err.text);
    }
}

static void damaged_statistics(void **state) {
    (void)state;
    sq_error err = {0};
    bytes b = file_bytes(in_dir("whole.stats"));
    assert_int_equal(use(in_dir("whole.stats"), &err), SQ_OK);
    uint64_t header;
    memcpy(&header, b.p, sizeof header);
    size_t data = 8 + header, n, head = place(&b, "squint.statistics", &n);
    assert_int_equal(n, sizeof(sq_stats_head));
    for (int i = 0; i < 40; i++) { /* over the whole of the data, the first and last byte with it */
        size_t at = data + (b.n - 1 - data) * (size_t)i / 39;
        b.p[at] ^= (char)(1 << i % 8);
        if (at < head || at >= head + 8) {
            refused(b.p, b.n, at >= head && at < head + n ? "'" : "damaged");
        }
        b.p[at] ^= (char)(1 << i % 8);
    }
    for (size_t i = 0; i < n; i += 8) {
        b.p[head + i] ^= 1;
        refused(b.p, b.n, i == 0 ? "version" : "damaged");
        b.p[head + i] ^= 1;
    }
    refused(b.p, b.n - 1, "");
    refused(b.p, b.n / 2, "");
    refused(b.p, 7, "");
    refused(b.p, data, "");
    sq_stats_head h; /* whole, but of another model; of a version to come */
    memcpy(&h, b.p + head, sizeof h);
    const sq_stats_head was = h;
    h.model ^= 1;
    h.check = (int64_t)sq_hash_words(sq_hash_start, &h, sizeof h - sizeof h.check);
    memcpy(b.p + head, &h, sizeof h);
    refused(b.p, b.n, "another model");
    h = was;
    h.version = SQ_STATS_VERSION + 1;
    memcpy(b.p + head, &h, sizeof h);
    refused(b.p, b.n, "version");
    memcpy(b.p + head, &was, sizeof was);
    sq_free(b.p);
    assert_int_equal(use(in_dir("calib.jsonl"), &err), SQ_EFORMAT);
    assert_int_equal(use(model, &err), SQ_EFORMAT); /* a model is no statistics */
    assert_non_null(strstr(err.text, "version"));
}

/* Equal shapes, one other weight: another model. */
static void statistics_of_another_model(void **state) {
    (void)state;
    const char *other = copy_model("like-it");
    sq_quantize_options o = searched;
    json_t *r = NULL;
    sq_error err = {0};
    set(other, "model.language_model.norm.weight", 0, 1, 0.5f);
    o.stats = in_dir("whole.stats");
    assert_int_equal(sq_quantize_run(other, in_dir("other"), &o, NULL, &r, &err), SQ_EFORMAT);
    assert_non_null(strstr(err.text, "another model"));
}

/* ---- weights ---- */

static void weights_that_are_no_numbers(void **state) {
    (void)state;
    static const char *const tensors[] = {"model.language_model.layers.1.mlp.up_proj.weight",
                                          "model.language_model.embed_tokens.weight",
                                          "model.language_model.layers.0.input_layernorm.weight",
                                          "model.visual.blocks.1.attn.qkv.bias", "lm_head.weight"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const char *from = copy_model("broken");
        json_t *r = NULL;
        sq_error err = {0};
        sq_quantize_options o = searched;
        o.calib = calib;
        set(from, tensors[i], 7, 1, bad[i % 3]);
        assert_int_equal(sq_quantize_run(from, in_dir("out"), &o, NULL, &r, &err), SQ_EFORMAT);
        assert_non_null(strstr(err.text, tensors[i]));
        assert_non_null(strstr(err.text, "NaN"));
        assert_int_equal(sq_calibrate_run(from, in_dir("out.stats"), &o, NULL, &r, &err),
                         SQ_EFORMAT);
        assert_non_null(strstr(err.text, tensors[i]));
        assert_false(sq_file_exists(in_dir("out.partial")));
        assert_false(sq_file_exists(in_dir("out.stats.partial")));
        sq_remove_tree(from, NULL);
    }
}

/* Zero groups, a zero row, constant rows, a whole linear of zeros, inputs that are always zero
 * (their X'X has no factor without damping): every method and scheme gives a folder that verifies
 * and errors that are numbers. */
static void degenerate_weights(void **state) {
    (void)state;
    static const char *const methods[] = {"rtn", "awq", "gptq", "awq+gptq"};
    static const struct {
        const char *scheme;
        int symmetric;
    } schemes[] = {{"w4a16", 0}, {"w4a16", 1}, {"w8a16", 0}, {"w8a8", 1}, {"w4a8", 1}};
    const char *from = copy_model("degenerate");
    const char *const layer = "model.language_model.layers.0.";
    char name[128];
    snprintf(name, sizeof name, "%smlp.gate_proj.weight", layer); /* [52][40] */
    set(from, name, 0, 40, 0.0f);
    set(from, name, 40, 40, 0.25f);
    set(from, name, 80, 40, -0.25f);
    set(from, name, 136, 8, 0.0f);
    snprintf(name, sizeof name, "%sself_attn.v_proj.weight", layer);
    set(from, name, 0, 0, 0.0f);
    snprintf(name, sizeof name, "%sself_attn.v_proj.bias", layer);
    set(from, name, 0, 0, 0.0f); /* o_proj's inputs are zero, all of them */
    snprintf(name, sizeof name, "%spost_attention_layernorm.weight", layer);
    set(from, name, 3, 5, 0.0f); /* dead columns of gate and up */
    set(from, "model.visual.blocks.0.mlp.up_proj.weight", 0, 0, 0.0f);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        for (size_t k = 0; k < sizeof schemes / sizeof *schemes; k++) {
            sq_quantize_options o = {.method = methods[i],
                                     .scheme = schemes[k].scheme,
                                     .symmetric = schemes[k].symmetric,
                                     .vision = schemes[k].scheme,
                                     .group_size = 8,
                                     .calib = calib};
            sq_verify_options v = {.against = from, .max_kl = 5, .min_top1 = 0.01};
            json_t *r = quantized(from, "degenerate-out", o), *l;
            size_t n;
            json_array_foreach(json_object_get(r, "layers"), n, l) {
                double e = sq_json_num(l, "error", NAN), plain = sq_json_num(l, "rtn_error", NAN);
                if (!(e >= 0 && e <= plain * (1 + 1e-9))) {
                    fail_msg("%s %s %s: error %g, plain %g", methods[i], schemes[k].scheme,
                             sq_json_str(l, "name", ""), e, plain);
                }
            }
            json_decref(r);
            r = NULL;
            sq_error err = {0};
            if (sq_verify_run(in_dir("degenerate-out"), &v, NULL, &r, &err) != SQ_OK) {
                fail_msg("%s %s: %s", methods[i], schemes[k].scheme, err.text);
            }
            json_decref(r);
            sq_remove_tree(in_dir("degenerate-out"), NULL);
        }
    }
}

/* ---- samples ---- */

static void samples_are_counted(void **state) {
    (void)state;
    sq_net *net;
    sq_frontend f;
    sq_samples s;
    sq_error err = {0};
    sq_buf b = {0};
    const char *path = in_dir("samples.jsonl");
    assert_int_equal(sq_net_open(&net, model, &err), SQ_OK);
    assert_int_equal(sq_frontend_open(&f, model, &net->config, &err), SQ_OK);
    bytes line = file_bytes(calib);
    *strchr(line.p, '\n') = '\0';
    /* 512 positions: a conversation of more is dropped, one with a picture stays whole though --seq
     * is 4, text of more becomes pieces. */
    sq_buf_printf(&b, "%s\n{\"messages\": [{\"role\": \"user\", \"content\": \"", line.p);
    for (int i = 0; i < 1400; i++) {
        sq_buf_puts(&b, "ab ");
    }
    sq_buf_printf(&b, "\"}]}\n%s\n", line.p);
    assert_int_equal(sq_file_write(path, b.data, b.len, NULL), SQ_OK);
    assert_int_equal(sq_samples_read(&s, &f, path, 0, 4, SQ_LOAD_PROMPTS, &err), SQ_OK);
    assert_true(s.n == 2 && s.dropped == 1 && s.unused == 0);
    const sq_prompt *p = &s.items[0].prompt;
    assert_true(p->n_slots == 1 && p->slots[0].count > 4);
    assert_int_equal(s.picture_tokens, 2 * p->slots[0].count);
    assert_int_equal(s.tokens, 2 * p->ids.len);
    sq_samples_close(&s);
    assert_int_equal(sq_samples_read(&s, &f, path, 1, 4, SQ_LOAD_PROMPTS, &err), SQ_OK);
    assert_true(s.n == 1 && s.dropped == 0 && s.unused == 2);
    sq_samples_close(&s);
    /* Nothing but what is too long: an error that says so. */
    const char *from = strchr(b.data, '\n') + 1;
    assert_int_equal(sq_file_write(path, from, (size_t)(strchr(from, '\n') - from), NULL), SQ_OK);
    assert_int_equal(sq_samples_read(&s, &f, path, 0, 4, SQ_LOAD_PROMPTS, &err), SQ_ELIMIT);
    assert_non_null(strstr(err.text, "line 1"));
    assert_non_null(strstr(err.text, "positions"));
    /* Plain text, pieces longer than the model's positions wanted. */
    sq_buf t = {0};
    sq_buf_puts(&t, "{\"text\": \"");
    for (int i = 0; i < 1400; i++) {
        sq_buf_puts(&t, "ab ");
    }
    sq_buf_puts(&t, "\"}\n");
    assert_int_equal(sq_file_write(path, t.data, t.len, NULL), SQ_OK);
    assert_int_equal(sq_samples_read(&s, &f, path, 0, 4096, SQ_LOAD_PROMPTS, &err), SQ_OK);
    assert_true(s.n >= 2 && s.items[0].prompt.ids.len == 512);
    int64_t all = (int64_t)s.n;
    sq_samples_close(&s);
    assert_int_equal(sq_samples_read(&s, &f, path, 1, 512, SQ_LOAD_PROMPTS, &err), SQ_OK);
    assert_true(s.n == 1 && (int64_t)s.n + s.unused == all);
    sq_samples_close(&s);
    sq_buf_free(&t);
    sq_buf_free(&b);
    sq_free(line.p);
    sq_frontend_close(&f);
    sq_net_close(&net);
}

/* What came to each linear is in the report, in the statistics' as well. */
static void rows_are_reported(void **state) {
    (void)state;
    sq_quantize_options o = searched;
    o.calib = calib;
    json_t *a = quantized(model, "rows", o), *l;
    o.calib = NULL;
    o.stats = in_dir("whole.stats");
    json_t *b = quantized(model, "rows-by-stats", o);
    size_t i;
    static const char *const keys[] = {"tokens", "picture_tokens", "samples", "dropped", "unused"};
    for (i = 0; i < sizeof keys / sizeof *keys; i++) {
        assert_non_null(json_object_get(a, keys[i]));
        assert_int_equal(sq_json_int(a, keys[i], -1), sq_json_int(b, keys[i], -2));
    }
    json_array_foreach(json_object_get(a, "layers"), i, l) {
        const char *name = sq_json_str(l, "name", "");
        int64_t rows = sq_json_int(l, "tokens", -1);
        if (strstr(name, "language_model") != NULL) {
            assert_int_equal(rows, sq_json_int(a, "tokens", 0));
        } else { /* 4 patches a token; the merger takes them together */
            int merger = strstr(name, "merger") != NULL;
            assert_int_equal(rows, sq_json_int(a, "picture_tokens", 0) * (merger ? 1 : 4));
        }
        assert_int_equal(
            rows, sq_json_int(json_array_get(json_object_get(b, "layers"), i), "tokens", -2));
    }
    json_decref(a);
    json_decref(b);
    o = (sq_quantize_options){.method = "rtn", .no_verify = 1};
    a = quantized(model, "rows-none", o);
    assert_null(json_object_get(a, "samples"));
    assert_null(json_object_get(json_array_get(json_object_get(a, "layers"), 0), "tokens"));
    json_decref(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calibration_resumes),
        cmocka_unit_test(quantization_resumes),
        cmocka_unit_test(what_differs_starts_anew),
        cmocka_unit_test(damaged_statistics),
        cmocka_unit_test(statistics_of_another_model),
        cmocka_unit_test(weights_that_are_no_numbers),
        cmocka_unit_test(degenerate_weights),
        cmocka_unit_test(samples_are_counted),
        cmocka_unit_test(rows_are_reported),
    };
    return cmocka_run_group_tests_name("interrupted", tests, setup, teardown);
}
