/* Damaged and hostile input: every case ends with a status and a text, never with a crash, a hang
 * or a leak (CI runs this under ASan and UBSan). Truncations must fail; a flipped bit may leave a
 * valid file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "model/sequence.h"

static char folder[256];
static int cases;
static uint64_t seed = 42;

static uint32_t draw(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static char *at(const char *name) {
    static char path[2][600];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static char *golden(const char *name) {
    static char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/%s", root ? root : ".", name);
    return path;
}

typedef struct bytes {
    char *data;
    size_t n;
} bytes;

static bytes read_golden(const char *name) {
    bytes b = {0};
    sq_error err = {0};
    if (sq_file_read(golden(name), 64 << 20, &b.data, &b.n, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return b;
}

static void write_file(const char *name, const void *data, size_t n) {
    FILE *f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void copy_in(const char *from, const char *name) {
    bytes b = read_golden(from);
    write_file(name, b.data, b.n);
    sq_free(b.data);
}

/* Books a case. */
static void outcome(sq_status st, const sq_error *err, int must_fail, const char *what) {
    cases++;
    if (st != SQ_OK && err->text[0] == '\0') {
        fail_msg("%s: status %d without a text", what, (int)st);
    }
    if (st == SQ_EINTERNAL || (must_fail && st == SQ_OK)) {
        fail_msg("%s: status %d", what, (int)st);
    }
}

typedef void (*try_fn)(const char *file, int must_fail);

/* The file cut at `cuts` places and with `flips` bits turned, each given to `try` under its name.
 */
static void mutate(const char *from, const char *name, int cuts, int flips, try_fn try) {
    bytes b = read_golden(from);
    for (int i = 0; i < cuts; i++) {
        size_t n = b.n * (size_t)i / (size_t)cuts;
        write_file(name, b.data, n);
        try(name, 1);
    }
    for (int i = 0; i < flips; i++) {
        size_t where = draw((uint32_t)b.n);
        char mask = (char)(1 << draw(8));
        b.data[where] ^= mask;
        write_file(name, b.data, b.n);
        try(name, 0);
        b.data[where] ^= mask;
    }
    write_file(name, b.data, b.n);
    sq_free(b.data);
}

/* ---- configs ---- */

static void try_config(const char *file, int must_fail) {
    sq_config c;
    sq_error err = {0};
    sq_status st = sq_config_load(&c, folder, &err);
    outcome(st, &err, must_fail, file);
    if (st == SQ_OK) {
        sq_config_free(&c);
    }
}

static const char *const bad_values[] = {
    "\"hidden_size\": -1",
    "\"hidden_size\": 0",
    "\"hidden_size\": 1e30",
    "\"hidden_size\": \"40\"",
    "\"num_hidden_layers\": 99999999999",
    "\"num_attention_heads\": 7.5",
    "\"num_key_value_heads\": 3",
    "\"rms_norm_eps\": 0",
    "\"rms_norm_eps\": -1",
    "\"vocab_size\": null",
    "\"max_position_embeddings\": -5",
    "\"head_dim\": 3",
    "\"hidden_act\": \"gelu\"",
    "\"model_type\": 5",
    "\"model_type\": \"bert\"",
    "\"rope_scaling\": {\"rope_type\": \"yarn\"}",
    "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0}",
    "\"rope_theta\": -1",
    "\"use_sliding_window\": true",
    "\"intermediate_size\": []"};

static void configs(void **state) {
    (void)state;
    const char *body =
        "{\"model_type\": \"qwen2\", \"hidden_size\": 42, \"intermediate_size\": 30, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
        "\"head_dim\": 14, \"vocab_size\": 296, \"rms_norm_eps\": 1e-6, ";
    char text[1024];
    snprintf(text, sizeof text, "%s\"x\": 1}", body);
    write_file("config.json", text, strlen(text));
    try_config("good", 0);
    for (size_t i = 0; i < sizeof bad_values / sizeof *bad_values; i++) {
        snprintf(text, sizeof text, "%s%s}", body,
                 bad_values[i]); /* of two equal keys the last wins */
        write_file("config.json", text, strlen(text));
        try_config(bad_values[i], 1);
    }
    mutate("models/qwen25vl-nested-f32/config.json", "config.json", 8, 12, try_config);
    mutate("models/llavanext-clip-f32/config.json", "config.json", 8, 12, try_config);
    char *deep = malloc(200001);
    memset(deep, '[', 200000);
    write_file("config.json", deep, 200000);
    try_config("deep nesting", 1);
    free(deep);
    unlink(at("config.json"));
    try_config("no config", 1);
}

/* ---- tokenizers ---- */

static void try_tokenizer(const char *file, int must_fail) {
    sq_tokenizer *t = NULL;
    sq_error err = {0};
    sq_status st =
        sq_tokenizer_open(&t, strcmp(file, "tokenizer.model") == 0 ? folder : at(file), &err);
    outcome(st, &err, must_fail, file);
    if (st == SQ_OK) {
        sq_ids ids = {0};
        outcome(sq_tokenizer_encode(t, "Hello \xff world 12", 16, 0, 1, &ids, &err), &err, 0, file);
        sq_free(ids.data);
        cases--; /* one case */
        sq_tokenizer_close(&t);
    }
}

static void tokenizers(void **state) {
    (void)state;
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"model\": {}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [5]}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, "
        "\"pre_tokenizer\": {\"type\": "
        "\"Split\", \"pattern\": {\"Regex\": \"(((\"}, \"behavior\": \"Isolated\"}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"normalizer\": "
        "{\"type\": \"X\"}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"added_tokens\": "
        "[{\"id\": -4, "
        "\"content\": \"x\"}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file("tokenizer.json", bad[i], strlen(bad[i]));
        try_tokenizer("tokenizer.json", 1);
    }
    mutate("models/qwen2-text-f32/tokenizer.json", "tokenizer.json", 8, 20, try_tokenizer);
    unlink(at("tokenizer.json"));
    mutate("text/spm/tokenizer.model", "tokenizer.model", 6, 20, try_tokenizer);
    unlink(at("tokenizer.model"));
}

/* ---- templates ---- */

static void try_template(const char *text, int must_fail) {
    sq_template *t = NULL;
    sq_error err = {0};
    sq_buf out = {0};
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    sq_status st = sq_template_parse(&t, text, "hostile", &err);
    if (st == SQ_OK) {
        json_t *vars = json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content",
                                 "hi", "add_generation_prompt", 1);
        st = sq_template_render(t, vars, &out, &err);
        json_decref(vars);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    sq_template_close(&t);
    sq_buf_free(&out);
    outcome(st, &err, must_fail, text);
    assert_true(b.tv_sec - a.tv_sec < 60); /* a hang, not a slow machine */
}

static void templates(void **state) {
    (void)state;
    static const char *const bad[] = {
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{% set a = 'xxxxxxxxxx' * 100000 %}{{ a * 100000 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages | nosuchfilter }}",
        "{% unknown %}",
        "{% for m in messages %}",
        "{{ 'unterminated",
        "{% if %}{% endif %}",
        "{{ (((((1 }}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].__class__ }}{{ messages[0].nosuch.thing.deep }}",
        "{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ [1,2,3][10].x }}",
        "{% set ns = namespace() %}{% for i in range(99999999) %}{% set ns.x = i %}{% endfor %}",
        "{{ ''.join(range(10)) }}{{ none.x }}",
        "{# never closed"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        try_template(bad[i], 1);
    }
    static const char *const open_close[][2] = {
        {"(", ")"}, {"[", "]"}, {"{'a': ", "}"}, {"not ", ""}, {"-", ""}};
    for (size_t k = 0; k < sizeof open_close / sizeof *open_close; k++) {
        sq_buf b = {0};
        sq_buf_puts(&b, "{{ ");
        for (int i = 0; i < 50000; i++) {
            sq_buf_puts(&b, open_close[k][0]);
        }
        sq_buf_puts(&b, "1");
        for (int i = 0; i < 50000; i++) {
            sq_buf_puts(&b, open_close[k][1]);
        }
        sq_buf_puts(&b, " }}");
        try_template(b.data, k < 3); /* prefix operators are no depth */
        sq_buf_free(&b);
    }
    json_t *good = NULL;
    sq_error err = {0};
    assert_int_equal(
        sq_json_load(golden("models/qwen2-text-f32/tokenizer_config.json"), &good, &err), SQ_OK);
    char *text = strdup(sq_json_str(good, "chat_template", ""));
    for (int i = 0; i < 20; i++) { /* ASCII stays ASCII: only the low six bits turn */
        size_t where = draw((uint32_t)strlen(text));
        char keep = text[where], mask = (char)(1 << draw(6));
        text[where] = (char)((keep ^ mask) == 0 ? 'x' : keep ^ mask);
        try_template(text, 0);
        text[where] = keep;
    }
    free(text);
    json_decref(good);
}

/* ---- tensors ---- */

static void try_checkpoint(const char *file, int must_fail) {
    sq_checkpoint *c = NULL;
    sq_error err = {0};
    sq_status st = sq_checkpoint_open(&c, at(file), &err);
    outcome(st, &err, must_fail, file);
    sq_checkpoint_close(&c);
}

static void write_header(const char *header, size_t data) {
    bytes b = {calloc(1, 8 + strlen(header) + data), 8 + strlen(header) + data};
    uint64_t n = strlen(header);
    memcpy(b.data, &n, 8);
    memcpy(b.data + 8, header, n);
    write_file("model.safetensors", b.data, b.n);
    free(b.data);
}

static void safetensors(void **state) {
    (void)state;
    static const char *const bad[] = {
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 20]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [16, 0]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [-4], \"data_offsets\": [0, 16]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [4611686018427387904, 4], \"data_offsets\": [0, "
        "16]}}",
        "{\"a\": {\"dtype\": \"Q4_0\", \"shape\": [32], \"data_offsets\": [0, 16]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, \"b\": "
        "{\"dtype\": \"F32\", \"shape\": "
        "[4], \"data_offsets\": [0, 16]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}",
        "{\"a\": 5}",
        "[]",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1,4], \"data_offsets\": [0, "
        "16]}}",
        "{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]}, \"a\": "
        "{\"dtype\": \"F32\", "
        "\"shape\": [0], \"data_offsets\": [16, 16]}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_header(bad[i], 16);
        try_checkpoint("model.safetensors", 1);
    }
    mutate("models/qwen2-text-f32/model.safetensors", "model.safetensors", 10, 10, try_checkpoint);
    unlink(at("model.safetensors"));
    static const char *const indexes[] = {"{}",
                                          "{\"weight_map\": {}}",
                                          "{\"weight_map\": {\"a\": 5}}",
                                          "{\"weight_map\": {\"a\": \"../a.safetensors\"}}",
                                          "{\"weight_map\": {\"a\": \"/etc/passwd\"}}",
                                          "{\"weight_map\": {\"a\": \"missing.safetensors\"}}"};
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        write_file("model.safetensors.index.json", indexes[i], strlen(indexes[i]));
        try_checkpoint(".", 1);
    }
    unlink(at("model.safetensors.index.json"));
}

static void try_net(const char *file, int must_fail) {
    sq_net *n = NULL;
    sq_error err = {0};
    sq_status st = sq_net_open(&n, at(file), &err);
    outcome(st, &err, must_fail, file);
    sq_net_close(&n);
}

static void other_files(void **state) {
    (void)state;
    mutate("models/gguf-llama/model.gguf", "model.gguf", 8, 6, try_net);
    /* The metadata is where a flipped bit matters. */
    bytes b = read_golden("models/gguf-llama/model.gguf");
    for (int i = 0; i < 24; i++) {
        size_t where = draw(9000);
        b.data[where] ^= (char)(1 << draw(8));
        write_file("model.gguf", b.data, b.n);
        try_net("model.gguf", 0);
        try_tokenizer("model.gguf", 0);
    }
    sq_free(b.data);
    copy_in("models/llama2c-v2/tokenizer.bin", "tokenizer.bin");
    mutate("models/llama2c-v2/model.bin", "model.bin", 6, 8, try_net);
    copy_in("models/llama2c-v2/model.bin", "model.bin");
    bytes t = read_golden("models/llama2c-v2/tokenizer.bin");
    for (int i = 1; i < 6; i++) {
        write_file("tokenizer.bin", t.data, t.n * (size_t)i / 6);
        try_tokenizer("model.bin", 1);
    }
    sq_free(t.data);
}

/* ---- pictures and clips ---- */

static void try_image(const char *file, int must_fail) {
    sq_image im = {0};
    sq_error err = {0};
    sq_status st = sq_image_load(&im, at(file), &err);
    outcome(st, &err, must_fail, file);
    sq_image_free(&im);
}

static void try_video(const char *file, int must_fail) {
    sq_pixels px = {0};
    sq_preproc p;
    sq_error err = {0};
    sq_preproc_default(&p);
    sq_status st = sq_pixels_video_file(&px, &p, at(file), &err);
    outcome(st, &err, must_fail, file);
    sq_pixels_free(&px);
}

static void pictures(void **state) {
    (void)state;
    static const char *const names[] = {"rgb.png",         "palette.png", "soft.jpg",
                                        "progressive.jpg", "lossy.webp",  "alpha.webp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char from[64];
        snprintf(from, sizeof from, "vision/%s", names[i]);
        mutate(from, "picture", 4, 6, try_image);
    }
    /* A header that promises 4 billion pixels. */
    bytes b = read_golden("vision/rgb.png");
    memcpy(b.data + 16, "\x00\x00\xff\xff\x00\x00\xff\xff", 8);
    write_file("picture", b.data, b.n);
    try_image("picture", 1);
    sq_free(b.data);
    mutate("vision/h264.mp4", "clip", 5, 8, try_video);
    mutate("vision/mpeg4.mp4", "clip", 5, 8, try_video);
}

static void try_preproc(const char *text, int must_fail) {
    sq_preproc p;
    sq_error err = {0};
    write_file("preprocessor_config.json", text, strlen(text));
    outcome(sq_preproc_load(&p, folder, &err), &err, must_fail, text);
}

static void processors(void **state) {
    (void)state;
    static const char *const bad[] = {"{\"min_pixels\": -1}",
                                      "{\"min_pixels\": 100, \"max_pixels\": 10}",
                                      "{\"patch_size\": 0}",
                                      "{\"merge_size\": 1e9}",
                                      "{\"temporal_patch_size\": \"two\"}",
                                      "{\"image_mean\": [1, 2]}",
                                      "{\"image_std\": [0, 0, 0]}",
                                      "{\"rescale_factor\": 0}",
                                      "{\"resample\": 2}",
                                      "{\"do_resize\": false}",
                                      "{\"fps\": -2}",
                                      "5",
                                      "{",
                                      "{\"size\": {\"shortest_edge\": 1e300}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        try_preproc(bad[i], 1);
    }
    unlink(at("preprocessor_config.json"));
}

static int make_folder(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/squint-hostile-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    sq_remove_tree(folder, NULL);
    printf("# %d cases\n", cases);
    return cases < 200;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs),     cmocka_unit_test(tokenizers),  cmocka_unit_test(templates),
        cmocka_unit_test(safetensors), cmocka_unit_test(other_files), cmocka_unit_test(pictures),
        cmocka_unit_test(processors),
    };
    return cmocka_run_group_tests_name("hostile", tests, make_folder, remove_folder);
}
