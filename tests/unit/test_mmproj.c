/* A language model beside its mmproj, as llama.cpp's users have them: folder, GGUF, folder to the
 * bit; the same answers; which files belong together; what older converters wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arch/arch.h"
#include "base/json.h"
#include "format/gguf.h"
#include "format/source.h"
#include "model/model.h"
#include "quant/quant.h"
#include "squint/squint.h"
#include "squint/synth.h"
#include "workdir.h"

static const char *golden(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), name);
    return path;
}

/* "DIR/NAME.gguf+DIR/NAME-mmproj.gguf"; two live at once. */
static const char *pair(const char *text, const char *vision) {
    static char paths[2][1600];
    static int next;
    char *p = paths[next++ % 2];
    snprintf(p, sizeof paths[0], "%s/%s.gguf+%s/%s-mmproj.gguf", dir, text, dir, vision);
    return p;
}

static void to_gguf(const char *from, const char *name) {
    char file[800];
    sq_error err = {0};
    sq_gguf_options o = {0};
    snprintf(file, sizeof file, "%s/%s.gguf", dir, name);
    if (!sq_file_exists(file) && sq_gguf_run(from, file, &o, NULL, &err) != SQ_OK) {
        fail_msg("%s: %s", from, err.text);
    }
}

static sq_net *open_net(const char *path) {
    sq_net *n;
    sq_error err = {0};
    if (sq_net_open(&n, path, &err) != SQ_OK) {
        fail_msg("%s: %s", path, err.text);
    }
    return n;
}

static const sq_tensor *canonical(const sq_net *n, const char *name) {
    char other[300];
    for (size_t i = 0; i < sq_checkpoint_count(n->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(n->ckpt, i);
        sq_arch_canonical(n->config.arch, t->name, other, sizeof other);
        if (strcmp(name, other) == 0) {
            return t;
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

/* Every tensor that the model reads: its type, shape and bytes. */
static void same_tensors(const char *a, const char *b) {
    sq_net *x = open_net(a), *y = open_net(b);
    size_t count = 0;
    for (size_t i = 0; i < sq_checkpoint_count(x->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(x->ckpt, i);
        char name[300];
        if (!x->bound[i]) {
            continue;
        }
        sq_arch_canonical(x->config.arch, t->name, name, sizeof name);
        const sq_tensor *u = canonical(y, name);
        if (t->dtype != u->dtype || t->rank != u->rank || t->bytes != u->bytes ||
            memcmp(t->shape, u->shape, sizeof t->shape) != 0 ||
            memcmp(t->data, u->data, t->bytes) != 0) {
            fail_msg("%s, %s: '%s' (%s, %zu bytes) is another; got %s, %zu bytes", a, b, name,
                     sq_dtype_name(t->dtype), t->bytes, sq_dtype_name(u->dtype), u->bytes);
        }
        count++;
    }
    assert_true(count > 40);
    sq_net_close(&x);
    sq_net_close(&y);
}

/* ---- the same answers ---- */

typedef struct rows {
    float *logits;
    int32_t *ids;
    int64_t n, vocab;
} rows;

static sq_status keep(void *user, int64_t first, int64_t count, int64_t vocab, const float *logits,
                      const int32_t *ids, int64_t n_ids) {
    rows *r = user;
    if (r->logits == NULL) {
        r->logits = calloc((size_t)(n_ids * vocab), sizeof(float));
        r->ids = calloc((size_t)n_ids, sizeof *ids);
        memcpy(r->ids, ids, (size_t)n_ids * sizeof *ids);
        r->n = n_ids;
        r->vocab = vocab;
    }
    memcpy(r->logits + first * vocab, logits, (size_t)(count * vocab) * sizeof(float));
    return SQ_OK;
}

static rows ask(const char *path) {
    static const char question[] =
        "[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"image\": \"odd-a.png\"}, "
        "{\"type\": \"text\", \"text\": \"What is there?\"}]}]";
    rows r = {0};
    char base[700];
    sq_error err = {0};
    sq_model *m = NULL;
    sq_session *s = NULL;
    snprintf(base, sizeof base, "%s", golden("media"));
    sq_input in = {.messages = question, .base_dir = base};
    if (sq_model_open(&m, path, NULL, &err) != SQ_OK || sq_session_open(&s, m, &err) != SQ_OK ||
        sq_session_logits(s, &in, keep, &r, &err) != SQ_OK) {
        fail_msg("%s: %s", path, err.text);
    }
    sq_session_close(&s);
    sq_model_close(&m);
    return r;
}

/* Equal ids, and logits within tol of the largest. */
static void same_answers(const char *a, const char *b, float tol) {
    rows x = ask(a), y = ask(b);
    float most = 0, far = 0;
    assert_int_equal(x.n, y.n);
    assert_int_equal(x.vocab, y.vocab);
    assert_memory_equal(x.ids, y.ids, (size_t)x.n * sizeof *x.ids);
    for (int64_t i = 0; i < x.n * x.vocab; i++) {
        float v = x.logits[i] < 0 ? -x.logits[i] : x.logits[i], d = x.logits[i] - y.logits[i];
        d = d < 0 ? -d : d;
        most = v > most ? v : most;
        far = d > far ? d : far;
    }
    if (!(most > 0 && far <= tol * most)) {
        fail_msg("%s, %s: %g apart of %g", a, b, (double)far, (double)most);
    }
    free(x.logits);
    free(x.ids);
    free(y.logits);
    free(y.ids);
}

static void back_to_folder(const char *from, const char *folder) {
    sq_error err = {0};
    if (sq_convert(from, in(folder), NULL, NULL, &err) != SQ_OK) {
        fail_msg("%s: %s", from, err.text);
    }
}

static void test_round_trips(void **state) {
    static const char *const names[] = {
        "qwen2vl-flat-f16", "qwen2vl-nested-f32", "qwen25vl-nested-f32",   "vlmr1-bf16",
        "llava-clip-f16",   "llavanext-clip-f32", "llavanext-mistral-bf16"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[600], folder[64];
        snprintf(from, sizeof from, "%s", golden(names[i]));
        snprintf(folder, sizeof folder, "%s-back", names[i]);
        to_gguf(from, names[i]);
        same_answers(from, pair(names[i], names[i]), 1e-4f);
        back_to_folder(pair(names[i], names[i]), folder);
        same_tensors(from, in(folder));
        same_answers(from, in(folder), 1e-6f);
    }
    same_tensors(model, model);
    to_gguf(model, "embedded");
    back_to_folder(pair("embedded", "embedded"), "embedded-back");
    same_tensors(model, in("embedded-back"));
}

/* The published names, and a type that says what is stored. */
static void test_names(void **state) {
    sq_checkpoint *c;
    json_t *config;
    (void)state;
    to_gguf(golden("llava-clip-f16"), "llava-clip-f16");
    back_to_folder(pair("llava-clip-f16", "llava-clip-f16"), "names");
    assert_int_equal(sq_checkpoint_open(&c, in("names"), NULL), SQ_OK);
    assert_non_null(sq_checkpoint_find(c, "language_model.model.layers.1.mlp.up_proj.weight"));
    assert_non_null(sq_checkpoint_find(c, "vision_tower.vision_model.pre_layrnorm.bias"));
    assert_non_null(sq_checkpoint_find(c, "multi_modal_projector.linear_2.weight"));
    sq_checkpoint_close(&c);
    assert_int_equal(sq_source_json(in("names"), "config.json", &config, NULL), SQ_OK);
    assert_string_equal(sq_json_str(config, "torch_dtype", ""), "float16");
    assert_string_equal(sq_json_str(config, "model_type", ""), "llava");
    json_decref(config);
}

/* SigLIP without a class token, from random weights. */
static void test_siglip(void **state) {
    static const char config[] =
        "{\"model_type\": \"llava\", \"vision_feature_layer\": -2, "
        "\"vision_feature_select_strategy\": \"full\", \"image_token_index\": 296, "
        "\"text_config\": {\"model_type\": \"qwen2\", \"hidden_size\": 64, \"vocab_size\": 297, "
        "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4}, "
        "\"vision_config\": {\"model_type\": \"siglip_vision_model\", \"hidden_size\": 48, "
        "\"intermediate_size\": 80, \"num_hidden_layers\": 3, \"num_attention_heads\": 4, "
        "\"image_size\": 42, \"patch_size\": 14}}";
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
    static const char processor[] = "{\"size\": {\"height\": 42, \"width\": 42}, \"image_mean\": "
                                    "[0.5, 0.5, 0.5], \"image_std\": [0.5, 0.5, 0.5]}";
    char path[800], from[800];
    sq_error err = {0};
    (void)state;
    assert_int_equal(sq_make_dirs(in("shape"), NULL), SQ_OK);
    snprintf(path, sizeof path, "%s/shape/config.json", dir);
    assert_int_equal(sq_file_write(path, config, strlen(config), NULL), SQ_OK);
    snprintf(path, sizeof path, "%s/shape/preprocessor_config.json", dir);
    assert_int_equal(sq_file_write(path, processor, strlen(processor), NULL), SQ_OK);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/shape/%s", dir, files[i]);
        snprintf(from, sizeof from, "%s/%s", golden("llava-siglip-bf16"), files[i]);
        assert_int_equal(sq_file_copy(from, path, NULL), SQ_OK);
    }
    if (sq_synth(in("shape"), in("siglip"), 0, 1, NULL, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    to_gguf(in("siglip"), "siglip");
    same_answers(in("siglip"), pair("siglip", "siglip"), 1e-4f);
    back_to_folder(pair("siglip", "siglip"), "siglip-back");
    same_tensors(in("siglip"), in("siglip-back"));
}

/* ---- quantized ---- */

/* Blocks beside a tower of floats: what reads a folder reads the pair. */
static void test_quantized(void **state) {
    sq_error err = {0};
    char *report = NULL;
    char folder[700];
    sq_quantize_options o = {
        .method = "rtn", .scheme = "w4a16", .format = "gguf", .symmetric = 1, .no_verify = 1};
    (void)state;
    snprintf(folder, sizeof folder, "%s/q4.gguf", dir);
    if (sq_quantize(model, folder, &o, NULL, &report, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    sq_text_free(report);
    snprintf(folder, sizeof folder, "%s", in("q4-folder"));
    if (sq_convert_layout(pair("q4", "q4"), folder, "gptq", NULL, NULL, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    same_answers(pair("q4", "q4"), folder, 1e-6f);
    o = (sq_quantize_options){.method = "rtn", .scheme = "w8a16", .no_verify = 1};
    to_gguf(model, "embedded");
    if (sq_quantize(pair("embedded", "embedded"), in("q8"), &o, NULL, &report, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    sq_text_free(report);
    if (sq_quantize(model, in("q8-direct"), &o, NULL, &report, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    sq_text_free(report);
    same_answers(in("q8"), in("q8-direct"), 1e-6f);
}

/* ---- which files ---- */

static void refuse(const char *path, const char *words) {
    sq_net *n = NULL;
    sq_error err = {0};
    assert_int_not_equal(sq_net_open(&n, path, &err), SQ_OK);
    if (strstr(err.text, words) == NULL) {
        fail_msg("%s: %s; wanted %s", path, err.text, words);
    }
}

static void copy_to(const char *folder, const char *name) {
    char from[800], to[800];
    snprintf(from, sizeof from, "%s/%s", dir, name);
    snprintf(to, sizeof to, "%s/%s/%s", dir, folder, name);
    assert_int_equal(sq_make_dirs(in(folder), NULL), SQ_OK);
    assert_int_equal(sq_file_copy(from, to, NULL), SQ_OK);
}

static void test_files(void **state) {
    char path[1600], from[600];
    (void)state;
    to_gguf(golden("qwen2vl-flat-f16"), "qwen2vl-flat-f16");
    to_gguf(golden("qwen25vl-nested-f32"), "qwen25vl-nested-f32");
    to_gguf(golden("llava-clip-f16"), "llava-clip-f16");
    copy_to("both", "qwen2vl-flat-f16.gguf");
    sq_net *n = open_net(in("both"));
    assert_null(n->config.tower);
    sq_net_close(&n);
    copy_to("both", "qwen2vl-flat-f16-mmproj.gguf");
    snprintf(from, sizeof from, "%s", golden("qwen2vl-flat-f16"));
    same_answers(from, in("both"), 1e-4f);
    copy_to("both", "qwen25vl-nested-f32.gguf");
    refuse(in("both"), "2 language models and 1 mmprojs (qwen25vl-nested-f32.gguf, ");
    copy_to("alone", "qwen2vl-flat-f16-mmproj.gguf");
    refuse(in("alone"), "0 language models");

    /* another model's, of another family or another width */
    refuse(pair("qwen2vl-flat-f16", "llava-clip-f16"), "it is the tower of a LLaVA");
    refuse(pair("llava-clip-f16", "qwen2vl-flat-f16"), "that is a 'llama'");
    refuse(pair("qwen2vl-flat-f16", "qwen25vl-nested-f32"),
           "projector gives 40 numbers a token; got a language model that takes 32");
    snprintf(path, sizeof path, "%s/qwen2vl-flat-f16-mmproj.gguf", dir);
    refuse(path, "is a mmproj, a vision tower alone");
    snprintf(path, sizeof path, "%s/qwen2vl-flat-f16.gguf+%s/qwen2vl-flat-f16.gguf", dir, dir);
    refuse(path, "is no mmproj: general.architecture; got 'qwen2vl', wanted clip");
    snprintf(path, sizeof path, "%s/qwen2vl-flat-f16.gguf+%s/none.gguf", dir, dir);
    refuse(path, "none.gguf");
    snprintf(path, sizeof path, "%s+%s/qwen2vl-flat-f16-mmproj.gguf", model, dir);
    refuse(path, "a mmproj goes with a language model in GGUF");
}

/* ---- what older converters wrote ---- */

static void put(sq_buf *b, const void *p, size_t n) { sq_buf_put(b, p, n); }

static void put_name(sq_buf *b, const char *name) {
    uint64_t n = strlen(name);
    put(b, &n, sizeof n);
    put(b, name, strlen(name));
}

/* A copy of a mmproj whose tensors have other names (a row NULL: left out), metadata as it is but
 * for one key, whose last letter changes. */
static void rewrite(const char *from, const char *to, const char *const names[][2],
                    const char *lost_key) {
    sq_gguf g;
    sq_buf b = {0};
    assert_int_equal(sq_gguf_open(&g, in(from), NULL), SQ_OK);
    const char *first = g.entries[0].key.p - 8, *after = g.tensors[0].name.p - 8;
    put(&b, g.map.data, 24);
    put(&b, first, (size_t)(after - first));
    for (size_t i = 0; i < g.n_entries && lost_key != NULL; i++) {
        if (g.entries[i].key.n == strlen(lost_key) &&
            memcmp(g.entries[i].key.p, lost_key, g.entries[i].key.n) == 0) {
            b.data[24 + (g.entries[i].key.p - first) + (ptrdiff_t)g.entries[i].key.n - 1] = '_';
        }
    }
    const unsigned char *data = g.tensors[0].data;
    uint64_t count = 0;
    for (size_t i = 0; i < g.n_tensors; i++) {
        const sq_gguf_tensor *t = &g.tensors[i];
        char name[128], other[128];
        data = t->data < data ? t->data : data;
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
        snprintf(other, sizeof other, "%s", name);
        int left_out = 0;
        for (size_t k = 0; names[k][0] != NULL; k++) {
            const char *at = strstr(name, names[k][0]);
            if (at != NULL && names[k][1] == NULL) {
                left_out = 1;
            } else if (at != NULL) {
                snprintf(other, sizeof other, "%.*s%s%s", (int)(at - name), name, names[k][1],
                         at + strlen(names[k][0]));
            }
        }
        if (!left_out) {
            put_name(&b, other);
            put(&b, t->name.p + t->name.n, 4 + (size_t)t->rank * 8 + 4 + 8);
            count++;
        }
    }
    memcpy(b.data + 8, &count, sizeof count);
    while (b.len % 32 != 0) {
        put(&b, "", 1);
    }
    put(&b, data, g.map.size - (size_t)(data - g.map.data));
    sq_gguf_close(&g);
    assert_int_equal(sq_file_write(in(to), b.data, b.len, NULL), SQ_OK);
    sq_buf_free(&b);
}

static void test_old_files(void **state) {
    static const char *const swapped[][2] = {
        {"ffn_up", "ffn_down"}, {"ffn_down", "ffn_up"}, {NULL, NULL}};
    static const char *const none[][2] = {{NULL, NULL}};
    static const char *const no_bias[][2] = {{"v.blk.1.attn_k.bias", NULL}, {NULL, NULL}};
    static const char *const no_frame[][2] = {{"v.patch_embd.weight.1", NULL}, {NULL, NULL}};
    static const char *const more[][2] = {{"v.pre_ln", "v.post_ln"}, {NULL, NULL}};
    static const char *const norms[][2] = {{"mm.2", "mm.3"}, {NULL, NULL}};
    static const char *const unknown[][2] = {{"v.blk.0.ln1.bias", "v.blk.0.ls1.bias"},
                                             {NULL, NULL}};
    json_t *config;
    char from[600];
    (void)state;
    to_gguf(golden("llava-clip-f16"), "llava-clip-f16");
    to_gguf(golden("qwen2vl-flat-f16"), "qwen2vl-flat-f16");
    rewrite("llava-clip-f16-mmproj.gguf", "swapped-mmproj.gguf", swapped, NULL);
    snprintf(from, sizeof from, "%s", golden("llava-clip-f16"));
    same_answers(from, pair("llava-clip-f16", "swapped"), 1e-4f);
    /* What is read is the state before the last layer where the file does not say it. */
    rewrite("llava-clip-f16-mmproj.gguf", "nolayer-mmproj.gguf", none, "clip.vision.feature_layer");
    assert_int_equal(
        sq_source_json(pair("llava-clip-f16", "nolayer"), "config.json", &config, NULL), SQ_OK);
    assert_int_equal(sq_json_int(config, "vision_feature_layer", 0), -2);
    json_decref(config);

    rewrite("qwen2vl-flat-f16-mmproj.gguf", "nobias-mmproj.gguf", no_bias, NULL);
    refuse(pair("qwen2vl-flat-f16", "nobias"), "'v.blk.1.attn_k.bias' does not fit");
    rewrite("qwen2vl-flat-f16-mmproj.gguf", "noframe-mmproj.gguf", no_frame, NULL);
    refuse(pair("qwen2vl-flat-f16", "noframe"), "v.patch_embd.weight.1; wanted two alike");
    rewrite("llava-clip-f16-mmproj.gguf", "post-mmproj.gguf", more, NULL);
    refuse(pair("llava-clip-f16", "post"), "v.post_ln");
    rewrite("llava-clip-f16-mmproj.gguf", "yi-mmproj.gguf", norms, NULL);
    refuse(pair("llava-clip-f16", "yi"), "a projector with norms");
    rewrite("llava-clip-f16-mmproj.gguf", "odd-mmproj.gguf", unknown, NULL);
    refuse(pair("llava-clip-f16", "odd"), "v.blk.0.ls1.bias");
}

/* Bytes of the metadata and of the list of tensors that are other ones: opened or refused. */
static void test_damaged(void **state) {
    char *data;
    size_t n;
    uint32_t seed = 1;
    int opened = 0, tries = 400;
    (void)state;
    to_gguf(golden("qwen25vl-nested-f32"), "qwen25vl-nested-f32");
    assert_int_equal(sq_file_read(in("qwen25vl-nested-f32-mmproj.gguf"), 1 << 24, &data, &n, NULL),
                     SQ_OK);
    for (int i = 0; i < tries; i++) {
        char bytes[4];
        size_t at[4];
        sq_net *net = NULL;
        for (int k = 0; k < 4; k++) {
            seed = seed * 1664525u + 1013904223u;
            at[k] = 24 + seed / 16 % 5000;
            bytes[k] = data[at[k]];
            data[at[k]] = (char)(seed >> 24);
        }
        assert_int_equal(sq_file_write(in("odd-mmproj.gguf"), data, n, NULL), SQ_OK);
        opened += sq_net_open(&net, pair("qwen25vl-nested-f32", "odd"), NULL) == SQ_OK;
        sq_net_close(&net);
        for (int k = 3; k >= 0; k--) {
            data[at[k]] = bytes[k];
        }
    }
    assert_true(opened < tries);
    sq_free(data);
}

/* What llama.cpp would compute otherwise is not written. */
static void test_not_written(void **state) {
    sq_error err = {0};
    sq_gguf_options o = {0};
    (void)state;
    assert_int_equal(sq_gguf_run(golden("vila15-llama"), in("vila.gguf"), &o, NULL, &err),
                     SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "joins 2 x 2 cells"));
    assert_int_equal(sq_gguf_run(golden("llava-siglip-bf16"), in("two.gguf"), &o, NULL, &err),
                     SQ_EUNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_names),
        cmocka_unit_test(test_siglip),      cmocka_unit_test(test_quantized),
        cmocka_unit_test(test_files),       cmocka_unit_test(test_old_files),
        cmocka_unit_test(test_not_written), cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
