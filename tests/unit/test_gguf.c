/* GGUF written: blocks bit for bit, models and tokenizers there and back, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "format/gguf_blocks.h"
#include "format/gguf_write.h"
#include "format/source.h"
#include "model/model.h"
#include "quant/from_blocks.h"
#include "quant/output.h"
#include "quant/quant.h"
#include "workdir.h"

/* ---- blocks ---- */

enum { N = 3, K = 512 };

typedef struct linear {
    sq_qlinear q;
    uint8_t codes[N * K], zeros[N * K / 32];
    float scales[N * K / 32];
} linear;

/* Codes of all values; zero < 0: zero points that differ. */
static void make(linear *l, int bits, int64_t group, int zero, float scale) {
    int top = (1 << bits) - 1;
    int64_t cells = N * K / group;
    l->q = (sq_qlinear){.bits = bits,
                        .n = N,
                        .k = K,
                        .k_padded = K,
                        .group = group,
                        .scale_type = SQ_F16,
                        .codes = l->codes,
                        .zeros = l->zeros,
                        .scales = l->scales};
    for (int i = 0; i < N * K; i++) {
        l->codes[i] = (uint8_t)((i * 7 + i / 13) & top);
    }
    for (int64_t i = 0; i < cells; i++) {
        l->zeros[i] = (uint8_t)(zero >= 0 ? zero : (5 * i + 3) & top);
        l->scales[i] = sq_f16_to_f32(sq_f32_to_f16(scale * (float)(1 + i % 7)));
    }
}

/* Read as codes again: the same ones, in the same groups. */
static void expect_codes(const linear *l, sq_dtype type, const uint8_t *blocks) {
    sq_error err = {0};
    sq_qlinear q;
    sq_tensor t = {.name = "x", .dtype = type, .rank = 2, .shape = {N, K}, .data = blocks};
    assert_int_equal(sq_blocks_read(&q, &t, "x", &err), SQ_OK);
    assert_int_equal(q.bits, l->q.bits);
    assert_int_equal(q.group, l->q.group);
    assert_int_equal(q.scale_type, SQ_F16);
    assert_memory_equal(q.codes, l->codes, N * K);
    assert_memory_equal(q.zeros, l->zeros, (size_t)(N * K / q.group));
    assert_memory_equal(q.scales, l->scales, (size_t)(N * K / q.group) * sizeof(float));
    sq_qlinear_free(&q);
}

/* The type that is chosen, and that its blocks stand for exactly what the codes do. */
static void expect(linear *l, sq_dtype want) {
    sq_error err = {0};
    sq_dtype type;
    int64_t rounded = -1;
    assert_int_equal(sq_gguf_block_type(&l->q, 0, "x", &type, &rounded, &err), SQ_OK);
    assert_int_equal(type, want);
    assert_int_equal(rounded, 0);
    size_t row = K / sq_dtype_block(type) * sq_dtype_size(type);
    uint8_t *blocks = calloc(N, row);
    float *back = calloc(N * K, sizeof *back);
    for (int r = 0; r < N; r++) {
        sq_gguf_block_row(&l->q, type, r, blocks + (size_t)r * row);
    }
    sq_weight w;
    assert_int_equal(sq_weight_blocks(&w, type, blocks, N, K, &err), SQ_OK);
    sq_weight_rows_f32(&w, 0, N, back);
    for (int i = 0; i < N * K; i++) {
        int64_t cell = i / K * (K / l->q.group) + i % K / l->q.group;
        float v = (float)(l->codes[i] - l->zeros[cell]) * l->scales[cell];
        if (!(back[i] == v)) {
            fail_msg("%s: number %d is %g, wanted %g", sq_dtype_name(type), i, (double)back[i],
                     (double)v);
        }
    }
    expect_codes(l, type, blocks);
    sq_weight_free(&w);
    free(blocks);
    free(back);
}

/* Blocks that others write: 32 values want 8 bits, and an offset that is half a scale nothing. */
static void test_other_blocks(void **state) {
    uint8_t q5[22] = {0, 0x3c}, q4[20] = {0, 0x3c, 0, 0xb8}; /* 1; 1 and -0.5 */
    sq_tensor t = {.name = "x", .dtype = SQ_Q5_0, .rank = 2, .shape = {1, 32}, .data = q5};
    sq_error err = {0};
    sq_qlinear q;
    (void)state;
    q5[4] = q5[5] = 0xff;
    for (int i = 0; i < 16; i++) {
        q5[6 + i] = (uint8_t)(i | i << 4);
    }
    assert_int_equal(sq_blocks_read(&q, &t, "x", &err), SQ_OK);
    assert_int_equal(q.bits, 8);
    assert_int_equal(q.zeros[0], 128);
    for (int i = 0; i < 32; i++) {
        assert_int_equal(q.codes[i], 128 - 16 + i);
    }
    sq_qlinear_free(&q);
    t.dtype = SQ_Q4_1;
    t.data = q4;
    assert_int_equal(sq_blocks_read(&q, &t, "model.x", &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "model.x: its Q4_1 blocks"));
    assert_true(err.hint[0] != '\0');
}

static void test_blocks(void **state) {
    linear *l = calloc(1, sizeof *l);
    (void)state;
    make(l, 4, 32, 8, 0.0123f);
    expect(l, SQ_Q4_0);
    make(l, 4, 64, -1, 0.25f); /* few bits: scale times zero is a float16 */
    expect(l, SQ_Q4_1);
    make(l, 4, 32, -1, 0.0123f); /* eleven bits: it is not */
    expect(l, SQ_Q5_0);
    make(l, 4, 256, -1, 0.0123f);
    expect(l, SQ_Q4_K);
    make(l, 8, 128, 128, 0.0123f);
    expect(l, SQ_Q8_0);
    free(l);
}

/* A row of blocks of codes is ggml's own, where Squint writes the type. */
static void blocks_as_written(const sq_checkpoint *f, sq_dtype type, const sq_tensor *blocks,
                              const char *const part[3]) {
    const sq_tensor *codes = sq_checkpoint_find(f, part[0]);
    uint8_t row[K / 32 * 34];
    sq_error err = {0};
    sq_dtype chosen;
    sq_qlinear q = {.bits = type == SQ_Q8_0 ? 8 : 4,
                    .n = codes->shape[0],
                    .k = codes->shape[1],
                    .k_padded = codes->shape[1],
                    .group = 32,
                    .scale_type = SQ_F16};
    size_t n = (size_t)(q.n * q.k), cells = n / 32;
    q.codes = calloc(n, 1);
    q.zeros = calloc(cells, 1);
    q.scales = calloc(cells, sizeof(float));
    memcpy(q.codes, codes->data, n);
    memcpy(q.zeros, sq_checkpoint_find(f, part[1])->data, cells);
    memcpy(q.scales, sq_checkpoint_find(f, part[2])->data, cells * sizeof(float));
    assert_int_equal(sq_gguf_block_type(&q, 0, "x", &chosen, NULL, &err), SQ_OK);
    assert_int_equal(chosen, type);
    size_t bytes = (size_t)blocks->shape[1];
    for (int64_t r = 0; r < q.n; r++) {
        sq_gguf_block_row(&q, type, r, row);
        assert_memory_equal(row, (const uint8_t *)blocks->data + (size_t)r * bytes, bytes);
    }
    free(q.codes);
    free(q.zeros);
    free(q.scales);
}

/* Blocks by ggml, values by gguf-py (tests/oracle/gen_blocks.py). */
static void test_blocks_by_ggml(void **state) {
    static const struct {
        const char *name;
        sq_dtype type;
        int written;
    } rows[] = {{"Q4_0", SQ_Q4_0, 1}, {"Q4_1", SQ_Q4_1, 1}, {"Q8_0", SQ_Q8_0, 1},
                {"Q5_0", SQ_Q5_0, 0}, {"Q5_1", SQ_Q5_1, 0}, {"Q4_K", SQ_Q4_K, 0},
                {"Q5_K", SQ_Q5_K, 0}, {"Q6_K", SQ_Q6_K, 0}};
    static const char *const parts[] = {"blocks", "values", "codes", "zeros", "scale"};
    char path[600], key[5][32];
    sq_checkpoint *f;
    sq_error err = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/tests/golden/quant/blocks.safetensors", getenv("SQ_TEST_ROOT"));
    assert_int_equal(sq_checkpoint_open(&f, path, &err), SQ_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int k = 0; k < 5; k++) {
            snprintf(key[k], sizeof key[k], "%s.%s", rows[i].name, parts[k]);
        }
        const sq_tensor *blocks = sq_checkpoint_find(f, key[0]),
                        *values = sq_checkpoint_find(f, key[1]);
        int64_t n = values->shape[0], k = values->shape[1];
        float *got = calloc((size_t)(n * k), sizeof *got);
        sq_weight w;
        assert_int_equal(sq_weight_blocks(&w, rows[i].type, blocks->data, n, k, &err), SQ_OK);
        sq_weight_rows_f32(&w, 0, n, got);
        for (int64_t j = 0; j < n * k; j++) {
            float want = ((const float *)values->data)[j];
            if (!(got[j] == want)) {
                fail_msg("%s: number %d is %.9g, wanted %.9g", rows[i].name, (int)j, (double)got[j],
                         (double)want);
            }
        }
        if (rows[i].written) {
            blocks_as_written(f, rows[i].type, blocks,
                              (const char *const[]){key[2], key[3], key[4]});
        }
        sq_weight_free(&w);
        free(got);
    }
    sq_checkpoint_close(&f);
}

static void refuse_blocks(linear *l, const char *words, const char *hint) {
    sq_error err = {0};
    sq_dtype type;
    assert_int_equal(sq_gguf_block_type(&l->q, 0, "model.x", &type, NULL, &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "model.x"));
    assert_non_null(strstr(err.text, words));
    assert_non_null(strstr(err.hint, hint));
}

static void test_refused_blocks(void **state) {
    linear *l = calloc(1, sizeof *l);
    int32_t columns[K] = {0};
    (void)state;
    make(l, 8, 32, -1, 0.25f);
    refuse_blocks(l, "no zero points", "--sym");
    make(l, 4, 32, 8, 0.25f);
    l->q.columns = columns;
    refuse_blocks(l, "act-order", "--no-act-order");
    l->q.columns = NULL;
    l->q.group = 16;
    refuse_blocks(l, "groups of 16", "--group-size 32");
    make(l, 4, 32, 8, 0.25f);
    l->scales[5] = 0.1f;
    refuse_blocks(l, "1 of 48", "--lossy");
    sq_dtype type;
    int64_t rounded = 0;
    assert_int_equal(sq_gguf_block_type(&l->q, 1, "x", &type, &rounded, NULL), SQ_OK);
    assert_int_equal(type, SQ_Q4_0);
    assert_int_equal(rounded, 1);
    free(l);
}

/* ---- the writer ---- */

static sq_gguf_writer *open_writer(const char *name) {
    sq_gguf_writer *w;
    assert_int_equal(sq_gguf_writer_open(&w, in(name), NULL), SQ_OK);
    return w;
}

static void test_writer(void **state) {
    int64_t shape[2] = {2, 32}, odd[2] = {2, 33};
    float f[64] = {1, 2, 3};
    sq_error err = {0};
    (void)state;
    sq_gguf_writer *w = open_writer("w.gguf");
    sq_gguf_put_string(w, "general.architecture", "llama");
    assert_int_equal(sq_gguf_add_tensor(w, "a", SQ_F32, 2, shape, &err), SQ_OK);
    assert_int_equal(sq_gguf_add_tensor(w, "b", SQ_Q8_0, 2, odd, &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "blocks of 32"));
    assert_int_equal(sq_gguf_add_tensor(w, "b", SQ_BOOL, 2, shape, &err), SQ_EUNSUPPORTED);
    assert_int_equal(sq_gguf_writer_begin(w, &err), SQ_OK);
    assert_int_equal(sq_gguf_write(w, f, sizeof f + 4, &err), SQ_EINTERNAL);
    assert_int_equal(sq_gguf_write(w, f, 100, &err), SQ_OK);
    assert_false(sq_file_exists(in("w.gguf")));
    assert_int_equal(sq_gguf_writer_finish(&w, &err), SQ_EINTERNAL); /* not all of it came */
    assert_false(sq_file_exists(in("w.gguf")));
    assert_false(sq_file_exists(in("w.gguf.partial")));

    w = open_writer("w.gguf");
    sq_gguf_put_u32(w, "k", 1);
    sq_gguf_put_u32(w, "k", 2);
    assert_int_equal(sq_gguf_writer_begin(w, &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "'k'"));
    sq_gguf_writer_close(&w);
    w = open_writer("w.gguf");
    assert_int_equal(sq_gguf_add_tensor(w, "same", SQ_F32, 2, shape, &err), SQ_OK);
    assert_int_equal(sq_gguf_add_tensor(w, "same", SQ_F16, 2, shape, &err), SQ_OK);
    assert_int_equal(sq_gguf_writer_begin(w, &err), SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "'same'"));
    sq_gguf_writer_close(&w);
}

/* ---- models ---- */

static void same_weight(const sq_weight *a, const sq_weight *b) {
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    size_t n = (size_t)(a->n * a->k);
    float *x = calloc(n, sizeof *x), *y = calloc(n, sizeof *y);
    sq_weight_rows_f32(a, 0, a->n, x);
    sq_weight_rows_f32(b, 0, b->n, y);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

static void same_text(const char *a, const char *b) {
    sq_net *x = NULL, *y = NULL;
    sq_error err = {0};
    if (sq_net_open(&x, a, &err) != SQ_OK || sq_net_open(&y, b, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    const sq_config *c = &x->config;
    assert_int_equal(c->layers, y->config.layers);
    assert_int_equal(c->head_dim, y->config.head_dim);
    assert_true(c->rope_theta == y->config.rope_theta);
    same_weight(&x->embed.weight, &y->embed.weight);
    same_weight(&x->head.weight, &y->head.weight);
    for (int64_t i = 0; i < c->layers; i++) {
        for (int r = 0; r < SQ_L_TEXT_COUNT; r++) {
            const sq_linear *p = &x->layers[i].linears[r], *q = &y->layers[i].linears[r];
            same_weight(&p->weight, &q->weight);
            assert_int_equal(p->bias == NULL, q->bias == NULL);
            if (p->bias != NULL) {
                assert_memory_equal(p->bias, q->bias, (size_t)p->weight.n * sizeof(float));
            }
        }
        for (int k = 0; k < 2; k++) {
            assert_memory_equal(x->layers[i].norms[k].weight, y->layers[i].norms[k].weight,
                                (size_t)c->dims[SQ_D_HIDDEN] * sizeof(float));
        }
    }
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        float d = x->inv_freq[i] - y->inv_freq[i];
        assert_true(d < 1e-6f * x->inv_freq[i] && -d < 1e-6f * x->inv_freq[i]);
    }
    sq_net_close(&x);
    sq_net_close(&y);
}

static void convert(const char *from, const char *to, sq_gguf_options o) {
    sq_error err = {0};
    if (sq_gguf_run(from, in(to), &o, NULL, &err) != SQ_OK) {
        fail_msg("%s: %s", from, err.text);
    }
}

static const char small_tokenizer[] =
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": "
    "{\"type\": "
    "\"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", \"b\"]]}}";

/* Every kind of language model there is a fixture of, tokenizers borrowed where there is none. */
static void test_models(void **state) {
    static const char *const names[] = {"llama-llama3-f32", "llama-linear-f16", "smollm2-like-bf16",
                                        "qwen2-text-f32", "qwen25-untied-bf16"};
    char path[600], file[600], from[800];
    (void)state;
    convert(model, "vl.gguf", (sq_gguf_options){0});
    same_text(model, in("vl.gguf"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/tests/golden/models/%s", getenv("SQ_TEST_ROOT"), names[i]);
        sq_make_dirs(in(names[i]), NULL);
        sq_arena a = {0};
        char **files;
        size_t n;
        assert_int_equal(sq_list_dir(&a, path, &files, &n, NULL), SQ_OK);
        for (size_t f = 0; f < n; f++) {
            snprintf(from, sizeof from, "%s/%s", path, files[f]);
            snprintf(file, sizeof file, "%s/%s/%s", dir, names[i], files[f]);
            assert_int_equal(sq_file_copy(from, file, NULL), SQ_OK);
        }
        sq_arena_free(&a);
        snprintf(file, sizeof file, "%s/%s/tokenizer.json", dir, names[i]);
        assert_int_equal(sq_file_write(file, small_tokenizer, strlen(small_tokenizer), NULL),
                         SQ_OK);
        snprintf(file, sizeof file, "%s.gguf", names[i]);
        snprintf(from, sizeof from, "%s/%s", dir, names[i]);
        convert(from, file, (sq_gguf_options){0});
        same_text(path, in(file));
    }
}

static void test_tokenizer(void **state) {
    json_t *a, *b;
    (void)state;
    if (!sq_file_exists(in("vl.gguf"))) {
        convert(model, "vl.gguf", (sq_gguf_options){0});
    }
    assert_int_equal(sq_source_json(model, "tokenizer.json", &a, NULL), SQ_OK);
    assert_int_equal(sq_source_json(in("vl.gguf"), "tokenizer.json", &b, NULL), SQ_OK);
    assert_true(json_equal(json_object_get(json_object_get(a, "model"), "vocab"),
                           json_object_get(json_object_get(b, "model"), "vocab")));
    assert_int_equal(json_array_size(json_object_get(json_object_get(a, "model"), "merges")),
                     json_array_size(json_object_get(json_object_get(b, "model"), "merges")));
    assert_int_equal(json_array_size(json_object_get(a, "added_tokens")),
                     json_array_size(json_object_get(b, "added_tokens")));
    json_decref(a);
    json_decref(b);
}

/* ---- quantized ---- */

static const sq_gguf_tensor *tensor(const sq_gguf *g, const char *name) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (g->tensors[i].name.n == strlen(name) &&
            memcmp(g->tensors[i].name.p, name, g->tensors[i].name.n) == 0) {
            return &g->tensors[i];
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static void quantize(const char *out, sq_quantize_options o) {
    json_t *report = NULL;
    sq_error err = {0};
    o.method = "rtn";
    o.no_verify = 1;
    if (sq_quantize_run(model, in(out), &o, NULL, &report, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    json_decref(report);
}

static void test_quantize(void **state) {
    static const struct {
        const char *name, *scheme;
        int symmetric;
        sq_dtype type;
    } rows[] = {{"a4.gguf", NULL, 0, SQ_Q4_1},
                {"s4.gguf", NULL, 1, SQ_Q4_0},
                {"s8.gguf", "w8a16", 1, SQ_Q8_0}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        sq_gguf g;
        quantize(rows[i].name, (sq_quantize_options){.format = "gguf",
                                                     .scheme = rows[i].scheme,
                                                     .symmetric = rows[i].symmetric});
        assert_int_equal(sq_gguf_open(&g, in(rows[i].name), NULL), SQ_OK);
        assert_int_equal(tensor(&g, "blk.3.ffn_down.weight")->dtype, rows[i].type);
        assert_int_equal(tensor(&g, "blk.0.attn_norm.weight")->dtype, SQ_F32);
        sq_gguf_close(&g);
        char work[800];
        snprintf(work, sizeof work, "%s.work", in(rows[i].name));
        assert_false(sq_file_exists(work));
    }
}

/* A folder's codes and the file's are the same numbers, and the same kernels run them. */
static void test_codes(void **state) {
    (void)state;
    quantize("folder", (sq_quantize_options){.symmetric = 1, .group_size = 32});
    convert(in("folder"), "folder.gguf", (sq_gguf_options){0});
    same_text(in("folder"), in("folder.gguf"));
    sq_net *n;
    assert_int_equal(sq_net_open(&n, in("folder.gguf"), NULL), SQ_OK);
    assert_int_equal(n->layers[0].linears[SQ_L_DOWN].weight.kind, SQ_W_Q4);
    sq_net_close(&n);
    /* 288 columns in groups of 128, padded: the blocks need no padding */
    quantize("padded", (sq_quantize_options){.symmetric = 1, .group_size = 128});
    convert(in("padded"), "padded.gguf", (sq_gguf_options){0});
    same_text(in("padded"), in("padded.gguf"));
}

static void to_layout(const char *from, const char *to, sq_layout layout) {
    sq_error err = {0};
    char a[800], b[800];
    snprintf(a, sizeof a, "%s", in(from));
    snprintf(b, sizeof b, "%s", in(to));
    if (sq_convert_run(a, b, layout, NULL, NULL, &err) != SQ_OK) {
        fail_msg("%s to %s: %s", from, to, err.text);
    }
}

/* The linears of two folders: the same codes, zero points and scales. */
static void same_codes(const char *a, const char *b) {
    sq_net *x, *y;
    sq_qconfig *qx, *qy;
    assert_int_equal(sq_net_open(&x, in(a), NULL), SQ_OK);
    assert_int_equal(sq_net_open(&y, in(b), NULL), SQ_OK);
    assert_int_equal(sq_qconfig_open(&qx, x->quantization, NULL), SQ_OK);
    assert_int_equal(sq_qconfig_open(&qy, y->quantization, NULL), SQ_OK);
    for (int64_t i = 0; i < x->config.layers; i++) {
        for (int r = 0; r < SQ_L_TEXT_COUNT; r++) {
            sq_qlinear p, q;
            assert_int_equal(sq_output_read(x, qx, &x->layers[i].linears[r], &p, NULL), SQ_OK);
            assert_int_equal(sq_output_read(y, qy, &y->layers[i].linears[r], &q, NULL), SQ_OK);
            size_t cells = (size_t)(p.n * (p.k / p.group));
            assert_int_equal(p.group, q.group);
            assert_memory_equal(p.codes, q.codes, (size_t)(p.n * p.k));
            assert_memory_equal(p.zeros, q.zeros, cells);
            assert_memory_equal(p.scales, q.scales, cells * sizeof(float));
            sq_qlinear_free(&p);
            sq_qlinear_free(&q);
        }
    }
    sq_qconfig_close(&qx);
    sq_qconfig_close(&qy);
    sq_net_close(&x);
    sq_net_close(&y);
}

/* Every matrix of two files: the same bytes. */
static void same_blocks(const char *a, const char *b) {
    sq_gguf x, y;
    size_t blocks = 0;
    assert_int_equal(sq_gguf_open(&x, in(a), NULL), SQ_OK);
    assert_int_equal(sq_gguf_open(&y, in(b), NULL), SQ_OK);
    for (size_t i = 0; i < x.n_tensors; i++) {
        const sq_gguf_tensor *s = &x.tensors[i];
        char name[200];
        snprintf(name, sizeof name, "%.*s", (int)s->name.n, s->name.p);
        const sq_gguf_tensor *t = tensor(&y, name);
        if (sq_dtype_block(s->dtype) > 1) {
            assert_int_equal(s->dtype, t->dtype);
            assert_memory_equal(s->data, t->data,
                                (size_t)(s->shape[0] * s->shape[1]) / sq_dtype_block(s->dtype) *
                                    sq_dtype_size(s->dtype));
            blocks++;
        }
    }
    assert_int_equal(blocks, 28);
    sq_gguf_close(&x);
    sq_gguf_close(&y);
}

/* Folder, GGUF, folder; and GGUF, folder, GGUF: no code changes on the way. */
static void test_round_trips(void **state) {
    static const struct {
        const char *first, *scheme;
        int symmetric;
        sq_layout layout;
    } rows[] = {{"r4.gguf", NULL, 0, SQ_LAYOUT_AWQ_GEMM},
                {"r4v2.gguf", NULL, 0, SQ_LAYOUT_GPTQ_V2},
                {"r4ct.gguf", NULL, 0, SQ_LAYOUT_CT},
                {"r8.gguf", "w8a16", 1, SQ_LAYOUT_GPTQ}};
    sq_error err = {0};
    (void)state;
    quantize("start", (sq_quantize_options){.symmetric = 1, .group_size = 32});
    convert(in("start"), "start.gguf", (sq_gguf_options){0});
    to_layout("start.gguf", "start-ct", SQ_LAYOUT_CT);
    same_codes("start", "start-ct");
    to_layout("start.gguf", "start-gptq", SQ_LAYOUT_GPTQ);
    same_codes("start", "start-gptq");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char folder[64], again[64];
        snprintf(folder, sizeof folder, "%s-folder", rows[i].first);
        snprintf(again, sizeof again, "again-%s", rows[i].first);
        quantize(rows[i].first, (sq_quantize_options){.format = "gguf",
                                                      .scheme = rows[i].scheme,
                                                      .symmetric = rows[i].symmetric});
        to_layout(rows[i].first, folder, rows[i].layout);
        convert(in(folder), again, (sq_gguf_options){0});
        same_blocks(rows[i].first, again);
    }
    assert_int_equal(sq_convert_run(in("r8.gguf"), in("x"), SQ_LAYOUT_AWQ_GEMM, NULL, NULL, &err),
                     SQ_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "4 bits alone; got 8 bits"));
}

static void refuse(const char *from, const char *to, const char *words) {
    sq_error err = {0};
    sq_gguf_options o = {0};
    assert_int_not_equal(sq_gguf_run(from, to, &o, NULL, &err), SQ_OK);
    if (strstr(err.text, words) == NULL) {
        fail_msg("%s; wanted %s", err.text, words);
    }
}

static void test_refused(void **state) {
    char file[800];
    (void)state;
    refuse(model, in("no-ending"), "ends in .gguf");
    sq_make_dirs(in("bare"), NULL);
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int f = 0; f < 2; f++) {
        char from[800];
        snprintf(from, sizeof from, "%s/%s", model, files[f]);
        snprintf(file, sizeof file, "%s/bare/%s", dir, files[f]);
        assert_int_equal(sq_file_copy(from, file, NULL), SQ_OK);
    }
    refuse(in("bare"), in("bare.gguf"), "no tokenizer");
    assert_false(sq_file_exists(in("bare.gguf")));
    assert_false(sq_file_exists(in("bare.gguf.partial")));
    assert_false(sq_file_exists(in("bare-mmproj.gguf")));
    convert(model, "there.gguf", (sq_gguf_options){.text_only = 1});
    assert_false(sq_file_exists(in("there-mmproj.gguf")));
    refuse(model, in("there.gguf"), "exists");
    refuse(in("there.gguf"), in("again.gguf"), "GGUF file already");
    json_t *report = NULL;
    sq_error err = {0};
    sq_quantize_options o = {.method = "rtn", .format = "gguf", .scheme = "w8a16"};
    assert_int_equal(sq_quantize_run(model, in("x.gguf"), &o, NULL, &report, &err), SQ_EARG);
    assert_non_null(strstr(err.hint, "--sym"));
    o = (sq_quantize_options){.method = "rtn", .format = "gguf", .symmetric = 1, .vision = "w8a16"};
    assert_int_equal(sq_quantize_run(model, in("x.gguf"), &o, NULL, &report, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "340 columns"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),         cmocka_unit_test(test_refused_blocks),
        cmocka_unit_test(test_blocks_by_ggml), cmocka_unit_test(test_writer),
        cmocka_unit_test(test_models),         cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_quantize),       cmocka_unit_test(test_codes),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_other_blocks),
        cmocka_unit_test(test_round_trips),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
