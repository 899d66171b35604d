/* verify --target: folders of every layout pass; each of many mistakes, made in a copy by editing
 * its JSON or its safetensors file, gives a finding that names it. And quantize --target refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "quant/quant.h"
#include "quant/target.h"
#include "workdir.h"

/* ---- the good folders ---- */

enum { AWQ, GEMV, GPTQ, V2, CT, CT_SYM, W8A8, GGUF, N_BASES };

static const struct base {
    const char *name, *format, *scheme, *target;
    int64_t group;
    int symmetric;
} bases[N_BASES] = {
    {"awq", "awq-gemm", "w4a16", "vllm@0.11", 32, 0},
    {"gemv", "awq-gemv", "w4a16", "transformers", 32, 0},
    {"gptq", "gptq", "w4a16", "vllm@0.11", 32, 1},
    {"v2", "gptq-v2", "w4a16", "transformers", 32, 0},
    {"ct", "compressed-tensors", "w4a16", "squint", 32, 0},
    {"ct-sym", "compressed-tensors", "w4a16", "vllm@0.11", 32, 1},
    {"w8a8", "compressed-tensors", "w8a8", "sglang", -1, 1},
    {"a.gguf", "gguf", "w4a16", "llama.cpp", 32, 0},
};

static sq_status quantize(const struct base *b, const char *out, sq_error *err) {
    json_t *report = NULL;
    sq_quantize_options o = {.method = "rtn",
                             .format = b->format,
                             .scheme = b->scheme,
                             .group_size = b->group,
                             .symmetric = b->symmetric,
                             .target = b->target,
                             .no_verify = 1};
    sq_status st = sq_quantize_run(model, out, &o, NULL, &report, err);
    json_decref(report);
    return st;
}

static int make_bases(void **state) {
    if (setup(state) != 0) {
        return -1;
    }
    for (int i = 0; i < N_BASES; i++) {
        sq_error err = {0};
        if (quantize(&bases[i], in(bases[i].name), &err) != SQ_OK) {
            print_error("%s: %s\n", bases[i].name, err.text);
            return -1;
        }
    }
    return 0;
}

/* Findings with `expect` in them; *all: how many there are. */
static int findings(const char *path, const char *target, const char *expect, int *all) {
    json_t *report = NULL, *line;
    sq_verify_options o = {.target = target};
    sq_error err = {0};
    sq_status st = sq_verify_run(path, &o, NULL, &report, &err);
    int n = 0;
    size_t i;
    *all = 0;
    json_array_foreach(json_object_get(report, "checks"), i, line) {
        int bad = json_is_false(json_object_get(line, "ok"));
        *all += bad;
        n += bad && strstr(sq_json_str(line, "detail", ""), expect) != NULL;
    }
    assert_int_equal(st, *all > 0 ? SQ_ECHECK : SQ_OK);
    json_decref(report);
    return n;
}

/* ---- edits; files of a copy are links, so that they are written anew ---- */

static void copy_base(int base, const char *to) {
    sq_arena a = {0};
    char **names;
    size_t n;
    const char *from = in(bases[base].name);
    assert_int_equal(sq_remove_tree(to, NULL), SQ_OK);
    if (base == GGUF) {
        assert_int_equal(sq_file_copy(from, to, NULL), SQ_OK);
        return;
    }
    assert_int_equal(sq_make_dirs(to, NULL), SQ_OK);
    assert_int_equal(sq_list_dir(&a, from, &names, &n, NULL), SQ_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(
            link(sq_path_join(&a, from, names[i], NULL), sq_path_join(&a, to, names[i], NULL)), 0);
    }
    sq_arena_free(&a);
}

static const char *file_of(const char *folder, const char *name) {
    static char path[900];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_anew(const char *path, const void *a, size_t na, const void *b, size_t nb) {
    unlink(path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(a, 1, na, f) + fwrite(b, 1, nb, f), na + nb);
    fclose(f);
}

/* file: name; a: path of keys with '/'; b: JSON value, or NULL to remove the key. */
static void edit(const char *folder, const char *file, const char *a, const char *b) {
    const char *path = file_of(folder, file);
    char keys[200], *key = keys, *slash;
    json_t *root = NULL;
    snprintf(keys, sizeof keys, "%s", a);
    assert_int_equal(sq_json_load(path, &root, NULL), SQ_OK);
    json_t *at = root;
    for (; (slash = strchr(key, '/')) != NULL; key = slash + 1) {
        *slash = '\0';
        at = json_object_get(at, key);
        assert_non_null(at);
    }
    if (b == NULL) {
        assert_int_equal(json_object_del(at, key), 0);
    } else {
        json_t *v = json_loads(b, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        json_object_set_new(at, key, v);
    }
    char *text = json_dumps(root, JSON_INDENT(2));
    write_anew(path, text, strlen(text), "\n", 1);
    free(text);
    json_decref(root);
}

static void config(const char *folder, const char *a, const char *b, const char *c) {
    (void)c;
    edit(folder, "config.json", a, b);
}

static void side(const char *folder, const char *a, const char *b, const char *c) {
    edit(folder, c, a, b);
}

/* quantization_config into text_config. */
static void nest(const char *folder, const char *a, const char *b, const char *c) {
    json_t *root = NULL;
    (void)a;
    (void)b;
    (void)c;
    assert_int_equal(sq_json_load(file_of(folder, "config.json"), &root, NULL), SQ_OK);
    char *q = json_dumps(json_object_get(root, "quantization_config"), 0);
    json_decref(root);
    edit(folder, "config.json", "text_config/quantization_config", q);
    edit(folder, "config.json", "quantization_config", NULL);
    free(q);
}

/* Two more things at once: a wrong group for one module of q/k/v (b: its scheme). */
static void also(const char *folder, const char *a, const char *b, const char *c) {
    edit(folder, "config.json", a, b);
    edit(folder, "config.json", "quantization_config/config_groups/group_0/targets", c);
}

static void drop_file(const char *folder, const char *a, const char *b, const char *c) {
    (void)b;
    (void)c;
    assert_int_equal(unlink(file_of(folder, a)), 0);
}

/* The first half of a file (a; NULL: the path itself). */
static void cut(const char *folder, const char *a, const char *b, const char *c) {
    char *data;
    size_t n;
    const char *path = a == NULL ? folder : file_of(folder, a);
    (void)b;
    (void)c;
    assert_int_equal(sq_file_read(path, 1u << 28, &data, &n, NULL), SQ_OK);
    write_anew(path, data, n / 2, "", 0);
    sq_free(data);
}

/* An index (a: its weight_map) with a shard that is not there. */
static void shard(const char *folder, const char *a, const char *b, const char *c) {
    (void)b;
    (void)c;
    assert_int_equal(unlink(file_of(folder, "model.safetensors")), 0);
    write_anew(file_of(folder, "model.safetensors.index.json"), a, strlen(a), "", 0);
}

/* A tensor of the file: renamed, removed, or with another type, shape and words. */
static void tensor(const char *folder, const char *name, const char *to, const json_t *entry,
                   const void *words, size_t bytes) {
    const char *path = file_of(folder, "model.safetensors"), *key;
    char *file;
    size_t size, at = 0;
    uint64_t header_n;
    json_t *in_h, *out_h = json_object(), *t;
    assert_int_equal(sq_file_read(path, 1u << 28, &file, &size, NULL), SQ_OK);
    memcpy(&header_n, file, 8);
    in_h = json_loadb(file + 8, header_n, 0, NULL);
    const char *from = file + 8 + header_n;
    char *data = malloc(size + bytes);
    int found = json_object_get(in_h, name) != NULL;
    if (!found) { /* a new one */
        json_object_set_new(
            in_h, name,
            json_pack("{s:s, s:[], s:[i, i]}", "dtype", "I32", "shape", "data_offsets", 0, 0));
    }
    json_object_foreach(in_h, key, t) {
        const json_t *o = json_object_get(t, "data_offsets");
        int this_one = strcmp(key, name) == 0;
        if (strcmp(key, "__metadata__") == 0 || (this_one && to == NULL)) {
            continue;
        }
        size_t a = (size_t)json_integer_value(json_array_get(o, 0)),
               n = (size_t)json_integer_value(json_array_get(o, 1)) - a;
        json_t *copy = json_deep_copy(this_one && entry != NULL ? entry : t);
        int new_words = this_one && words != NULL;
        n = new_words ? bytes : n;
        memcpy(data + at, new_words ? words : from + a, n);
        json_object_set_new(copy, "data_offsets",
                            json_pack("[I, I]", (json_int_t)at, (json_int_t)(at + n)));
        json_object_set_new(out_h, this_one ? to : key, copy);
        at += n;
    }
    char *text = json_dumps(out_h, JSON_COMPACT);
    header_n = strlen(text);
    char *head = malloc(8 + header_n);
    memcpy(head, &header_n, 8);
    memcpy(head + 8, text, header_n);
    write_anew(path, head, 8 + header_n, data, at);
    json_decref(in_h);
    json_decref(out_h);
    free(text);
    free(head);
    free(data);
    sq_free(file);
}

static void drop(const char *folder, const char *a, const char *b, const char *c) {
    (void)b;
    (void)c;
    tensor(folder, a, NULL, NULL, NULL, 0);
}

static void rename_to(const char *folder, const char *a, const char *b, const char *c) {
    (void)c;
    tensor(folder, a, b, NULL, NULL, 0);
}

/* b: JSON with dtype and shape; c: "" keeps the bytes, else the 32-bit word that fills it. */
static void as(const char *folder, const char *a, const char *b, const char *c) {
    json_t *entry = json_loads(b, 0, NULL), *d;
    size_t n = 1, i;
    static const struct {
        const char *name;
        size_t bytes;
    } types[] = {{"I8", 1}, {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"F32", 4}, {"I64", 8}};
    assert_non_null(entry);
    json_array_foreach(json_object_get(entry, "shape"), i, d) {
        n *= (size_t)json_integer_value(d);
    }
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        n *= strcmp(types[i].name, sq_json_str(entry, "dtype", "")) == 0 ? types[i].bytes : 1;
    }
    char *words = c[0] == '\0' ? NULL : malloc(n + 4);
    uint32_t word = (uint32_t)strtoul(c, NULL, 0);
    for (i = 0; words != NULL && i < n; i += 4) {
        memcpy(words + i, &word, 4);
    }
    tensor(folder, a, a, entry, words, n);
    free(words);
    json_decref(entry);
}

/* g_idx (a) of groups of 32 in the reverse order: each group whole, none in its place. */
static void reversed(const char *folder, const char *a, const char *b, const char *c) {
    int32_t g[288];
    (void)b;
    (void)c;
    for (int i = 0; i < 288; i++) {
        g[i] = (287 - i) / 32;
    }
    tensor(folder, a, a, NULL, g, sizeof g);
}

/* Zero points (a) of 15 as they are (v2), in a folder that says v1. */
static void says_v1(const char *folder, const char *a, const char *b, const char *c) {
    edit(folder, "config.json", "quantization_config/checkpoint_format", "\"gptq\"");
    edit(folder, "quantize_config.json", "checkpoint_format", "\"gptq\"");
    as(folder, a, b, c);
}

/* ---- the mistakes ---- */

#define Q "quantization_config/"
#define W Q "config_groups/group_0/weights/"
#define L0 "model.layers.0."
#define L1 "model.layers.1."

static const struct mistake {
    int base;
    const char *target, *what; /* what a finding has to say */
    void (*make)(const char *folder, const char *a, const char *b, const char *c);
    const char *a, *b, *c;
    const char *newest; /* the engines whose newest release finds it as well */
} mistakes[] = {
    /* AutoAWQ */
    {AWQ, "vllm@0.11", L0 "self_attn.q_proj.qzeros", config, Q "group_size", "16", NULL, "vst"},
    {AWQ, "vllm@0.11", "groups of 64 in 288 columns", config, Q "group_size", "64", NULL, "vst"},
    {AWQ, "vllm@0.11", "4 bits alone; got 8", config, Q "bits", "8", NULL, "vst"},
    {AWQ, "vllm@0.11", "'version' 'gemv'", config, Q "version", "\"gemv\"", NULL, "vs"},
    {AWQ, "transformers", L0 "mlp.down_proj.qweight", config, Q "version", "\"gemv\"", NULL, "vst"},
    {AWQ, "vllm@0.11", "'dtype'", config, "dtype", "\"bfloat16\"", NULL, "st"},
    {AWQ, "sglang", "'dtype'", config, "dtype", "\"bfloat16\"", NULL, "st"},
    {AWQ, "transformers", "stands in text_config", nest, NULL, NULL, NULL, "st"},
    {AWQ, "sglang", "stands in text_config", nest, NULL, NULL, NULL, "st"},
    {AWQ, "sglang", "'visual.blocks.0.attn.qkv.weight'", config, Q "modules_to_not_convert",
     "[\"lm_head\"]", NULL, "vst"},
    {AWQ, "transformers", "'model.visual.merger.mlp.0'", config, Q "modules_to_not_convert",
     "[\"lm_head\", \"visual\"]", NULL, "t"},
    {AWQ, "vllm@0.11", "'" L0 "mlp.up_proj' is stored quantized", config,
     Q "modules_to_not_convert", "[\"visual\", \"layers.0.mlp\"]", NULL, "vs"},
    {AWQ, "vllm@0.11", "'zero_point'", config, Q "zero_point", NULL, NULL, "vst"},
    {AWQ, "vllm@0.11", "zero_point false", config, Q "zero_point", "false", NULL, "vst"},
    {AWQ, "vllm@0.11", "'quant_method'", config, Q "quant_method", "\"awq2\"", NULL, "vst"},
    {AWQ, "vllm@0.11", L0 "mlp.up_proj.qzeros' is missing", drop, L0 "mlp.up_proj.qzeros", NULL,
     NULL, "vst"},
    {AWQ, "vllm@0.11", "of the type BF16", as, L0 "self_attn.q_proj.scales",
     "{\"dtype\": \"BF16\", \"shape\": [9, 288]}", "", "vst"},
    {AWQ, "transformers", "of the type F32", as, L0 "self_attn.q_proj.scales",
     "{\"dtype\": \"F32\", \"shape\": [9, 288]}", "0x3c003c00", "vst"},
    {AWQ, "sglang", L0 "self_attn.q_proj.qweight' is [36, 288]", as, L0 "self_attn.q_proj.qweight",
     "{\"dtype\": \"I32\", \"shape\": [36, 288]}", "", "vst"},
    {AWQ, "vllm@0.11", "is no name that", rename_to, L1 "mlp.up_proj.qweight",
     "module." L1 "mlp.up_proj.qweight", NULL, "vst"},
    {AWQ, "vllm@0.11", "'" L1 "mlp.up' has no place", rename_to, L1 "mlp.up_proj.qweight",
     L1 "mlp.up", NULL, "vst"},
    {AWQ, "vllm@0.11", L0 "mlp.up_proj.g_idx' has no place", as, L0 "mlp.up_proj.g_idx",
     "{\"dtype\": \"I32\", \"shape\": [288]}", "0", "vst"},
    {AWQ, "vllm@0.11", "'lm_head' is quantized", as, "lm_head.qweight",
     "{\"dtype\": \"I32\", \"shape\": [288, 81]}", "0", "vst"},
    {AWQ, "vllm@0.11", "'model.norm.weight' is missing", drop, "model.norm.weight", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "'model.norm.weight' is of the type I32", as, "model.norm.weight",
     "{\"dtype\": \"I32\", \"shape\": [288]}", "0", "vst"},
    /* files */
    {AWQ, "vllm@0.11", "'tokenizer.json' is not whole", cut, "tokenizer.json", NULL, NULL, "vst"},
    {AWQ, "transformers", "'tokenizer.json' is missing", drop_file, "tokenizer.json", NULL, NULL,
     "vst"},
    {AWQ, "sglang", "'tokenizer_config.json'", drop_file, "tokenizer_config.json", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "'preprocessor_config.json'", drop_file, "processor_config.json", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "'chat_template.jinja'", drop_file, "chat_template.jinja", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "'generation_config.json'", cut, "generation_config.json", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "lacks the token 999", config, "image_token_id", "999", NULL, "vst"},
    {AWQ, "vllm@0.11", "the embeddings 640 rows", config, "text_config/vocab_size", "640", NULL,
     "vst"},
    {AWQ, "vllm@0.11", "'model.safetensors'", cut, "model.safetensors", NULL, NULL, "vst"},
    {AWQ, "vllm@0.11", "'model-00001-of-00002.safetensors' is missing", shard,
     "{\"weight_map\": {\"model.norm.weight\": \"model-00001-of-00002.safetensors\"}}", NULL, NULL,
     "vst"},
    {AWQ, "vllm@0.11", "has no weight_map", shard, "{\"metadata\": {}}", NULL, NULL, "vst"},
    {GEMV, "transformers", L0 "self_attn.k_proj.qweight", config, Q "version", "\"gemm\"", NULL,
     "vst"},
    /* GPTQ */
    {GPTQ, "vllm@0.11", L0 "self_attn.q_proj.g_idx' is missing", drop, L0 "self_attn.q_proj.g_idx",
     NULL, NULL, "vst"},
    {GPTQ, "vllm@0.11", "does not name each group", as, L0 "self_attn.q_proj.g_idx",
     "{\"dtype\": \"I32\", \"shape\": [288]}", "3", "vst"},
    {GPTQ, "vllm@0.11", "and desc_act is false", reversed, L1 "self_attn.q_proj.g_idx", NULL, NULL,
     "vst"},
    {V2, "transformers", "the zero point 16 less one", says_v1, L0 "self_attn.k_proj.qzeros",
     "{\"dtype\": \"I32\", \"shape\": [9, 12]}", "0xffffffff", "vst"},
    {GPTQ, "vllm@0.11", "of the other version", config, Q "checkpoint_format", "\"gptq_v2\"", NULL,
     "vst"},
    {GPTQ, "vllm@0.11", "zero points of the other version", as, L1 "mlp.up_proj.qzeros",
     "{\"dtype\": \"I32\", \"shape\": [9, 64]}", "0x88888888", "vst"},
    {GPTQ, "vllm@0.11", "'desc_act'", config, Q "desc_act", NULL, NULL, "vst"},
    {GPTQ, "transformers", "differ in group_size", side, "group_size", "128",
     "quantize_config.json", "vst"},
    {GPTQ, "sglang", "'visual.blocks.0.mlp.up_proj.weight'", config, Q "dynamic", "{}", NULL,
     "vst"},
    {GPTQ, "vllm@0.11", "become one matrix", config, Q "dynamic",
     "{\"-:.*visual.*\": {}, \"+:.*layers.1.self_attn.k_proj\": {\"bits\": 8}}", NULL, "vs"},
    {GPTQ, "vllm@0.11", L0 "mlp.gate_proj.qweight", config, Q "bits", "8", NULL, "vst"},
    {GPTQ, "vllm@0.11", "'lm_head' of quantization_config", config, Q "lm_head", "true", NULL,
     "vst"},
    {V2, "transformers", "asymmetric codes of 4 bits in gptq", config, Q "checkpoint_format",
     "\"gptq\"", NULL, "t"},
    {V2, "transformers", "not symmetric as `sym` says", config, Q "sym", "true", NULL, "vst"},
    {GPTQ, "vllm@0.11", "'dtype'", config, "dtype", "\"bfloat16\"", NULL, ""},
    /* compressed-tensors */
    {CT_SYM, "transformers", "'visual.blocks.0.attn.qkv.weight'", config, Q "ignore",
     "[\"lm_head\"]", NULL, "vst"},
    {CT_SYM, "transformers", "'model.visual.blocks.3.attn.proj'", config, Q "ignore",
     "[\"lm_head\", \"re:visual.*\"]", NULL, "t"},
    {CT_SYM, "transformers", "'lm_head' is not in ignore", config, Q "ignore",
     "[\"re:.*visual.*\"]", NULL, "t"},
    {CT_SYM, "transformers", L0 "mlp.down_proj.weight_packed", config, W "num_bits", "8", NULL,
     "vst"},
    {CT, "vllm@0.11", "weight_zero_point' has no place", config, W "symmetric", "true", NULL,
     "vst"},
    {CT, "vllm@0.11", "k_proj.weight_zero_point' is missing", drop,
     L0 "self_attn.k_proj.weight_zero_point", NULL, NULL, "vst"},
    {CT, "vllm@0.11", "k_proj.weight_zero_point' is [96, 9]", as,
     L0 "self_attn.k_proj.weight_zero_point", "{\"dtype\": \"I8\", \"shape\": [96, 9]}", "0",
     "vst"},
    {CT_SYM, "transformers", "k_proj.weight_shape' says", as, L0 "self_attn.k_proj.weight_shape",
     "{\"dtype\": \"I64\", \"shape\": [2]}", "7", "vst"},
    {CT_SYM, "transformers", "q_proj.weight_scale' is of the type F32", as,
     L0 "self_attn.q_proj.weight_scale", "{\"dtype\": \"F32\", \"shape\": [288, 9]}", "0x3c003c00",
     "vst"},
    {CT_SYM, "transformers", "'format' is 'int-quantized'", config, Q "format", "\"int-quantized\"",
     NULL, "vst"},
    {CT_SYM, "transformers", "'quantization_status'", config, Q "quantization_status", "\"frozen\"",
     NULL, "t"},
    {CT_SYM, "transformers", "'actorder'", config, W "actorder", "\"group\"", NULL, "vst"},
    {CT_SYM, "transformers", "no padding; got 288 columns in groups of 128", config, W "group_size",
     "128", NULL, "vst"},
    {CT_SYM, "vllm@0.11", "become one matrix", also, Q "config_groups/group_1",
     "{\"targets\": [\"re:.*layers.1.self_attn.k_proj\"], \"weights\": {\"num_bits\": 4, \"type\": "
     "\"int\", \"symmetric\": true, \"strategy\": \"group\", \"group_size\": 16}}",
     "[\"re:.*layers\\\\.(?!1.self_attn.k_proj).*\"]", "vs"},
    {CT_SYM, "vllm@0.11", "'dtype'", config, "dtype", "\"bfloat16\"", NULL, ""},
    {CT_SYM, "vllm@0.11", "is missing: neither", rename_to, L0 "mlp.up_proj.weight_packed",
     L0 "mlp.up_proj.weight_pack", NULL, "vst"},
    {W8A8, "vllm@0.11", "asymmetric codes of 8 bits", config, W "symmetric", "false", NULL, "vst"},
    {W8A8, "sglang", "v_proj.weight_scale' is [96]", as, L0 "self_attn.v_proj.weight_scale",
     "{\"dtype\": \"BF16\", \"shape\": [96]}", "", "vst"},
    {W8A8, "vllm@0.11", "wants 'int-quantized'", config, Q "format", "\"pack-quantized\"", NULL,
     "vst"},
    {W8A8, "squint", "mlp.up_proj", drop, L0 "mlp.up_proj.weight", NULL, NULL, "vst"},
    /* GGUF */
    {GGUF, "llama.cpp", "does not fit the file", cut, NULL, NULL, NULL, ""},
};
enum { N_MISTAKES = sizeof mistakes / sizeof *mistakes };

/* Whether the mistake is the first of its kind in the table. */
static int is_new(const struct mistake *m) {
    for (const struct mistake *o = mistakes; o < m; o++) {
        if (o->base == m->base && o->make == m->make && o->a == m->a && o->b == m->b &&
            o->c == m->c) {
            return 0;
        }
    }
    return 1;
}

/* Whether the copy has the finding, which the folder without the mistake has not. */
static int finds(const struct mistake *m, const char *copy, const char *target, int *all) {
    int ignored;
    return findings(in(bases[m->base].name), target, m->what, &ignored) == 0 &&
           findings(copy, target, m->what, all) > 0;
}

/* The newest release of each engine finds what the table says of it, and nothing else of it. */
static int same_in_newest(const struct mistake *m, const char *copy) {
    static const char *const engines[] = {"vllm", "sglang", "transformers"};
    int good = 1, all = 0;
    for (int k = 0; k < 3; k++) {
        int wanted = strchr(m->newest, engines[k][0]) != NULL;
        if (finds(m, copy, engines[k], &all) != wanted) {
            print_error("%s: \"%s\" is %s among %d findings of the newest %s\n",
                        bases[m->base].name, m->what, wanted ? "not" : "still", all, engines[k]);
            good = 0;
        }
    }
    return good;
}

static void test_mistakes(void **state) {
    int bad = 0, distinct = 0;
    (void)state;
    for (int i = 0; i < N_MISTAKES; i++) {
        const struct mistake *m = &mistakes[i];
        char copy[700];
        int all = 0;
        snprintf(copy, sizeof copy, "%s", in(m->base == GGUF ? "copy.gguf" : "copy"));
        unlink(in("copy.gguf"));
        copy_base(m->base, copy);
        m->make(copy, m->a, m->b, m->c);
        if (!finds(m, copy, m->target, &all)) {
            print_error("%d (%s for %s, %s): none of %d findings says \"%s\"\n", i,
                        bases[m->base].name, m->target, m->a == NULL ? "-" : m->a, all, m->what);
            bad++;
        }
        bad += !same_in_newest(m, copy);
        distinct += is_new(m);
    }
    assert_int_equal(bad, 0);
    assert_true(distinct >= 40);
}

static void test_good(void **state) {
    int n;
    (void)state;
    assert_int_equal(findings(in("ct"), "llama.cpp", "is a folder", &n), 1);
    assert_int_equal(findings(in("a.gguf"), "vllm@0.11", "is no folder", &n), 1);
    for (int i = 0; i < N_BASES; i++) {
        static const char *const also_by[] = {"transformers", "squint"};
        int all = 0;
        findings(in(bases[i].name), bases[i].target, "", &all);
        assert_int_equal(all, 0);
        for (int k = 0; k < 2 && i != GGUF; k++) {
            if (i == CT && k == 0) {
                continue; /* transformers refuses packed zero points */
            }
            findings(in(bases[i].name), also_by[k], "", &all);
            assert_int_equal(all, 0);
        }
    }
}

/* ---- before any work ---- */

static void refused(const struct base *b, const char *what) {
    sq_error err = {0};
    int gguf = strcmp(b->format, "gguf") == 0;
    assert_int_equal(quantize(b, in(gguf ? "refused.gguf" : "refused"), &err), SQ_EARG);
    if (strstr(err.text, what) == NULL) {
        fail_msg("got '%s', wanted '%s'", err.text, what);
    }
    assert_true(err.hint[0] != '\0' || strstr(what, "target") != NULL);
    assert_false(sq_file_exists(in("refused")));
    assert_false(sq_file_exists(in("refused.partial")));
    assert_false(sq_file_exists(in("refused.gguf")));
}

static void test_refused(void **state) {
    (void)state;
    refused(&(struct base){"", "awq-gemv", "w4a16", "vllm@0.11", 32, 0}, "the layout awq-gemv");
    refused(&(struct base){"", "gptq", "w4a16", "sglang", 32, 1}, "multiples of 64");
    refused(&(struct base){"", "compressed-tensors", "w4a16", "sglang@0.5.5", 32, 0}, "asymmetric");
    refused(&(struct base){"", "compressed-tensors", "w4a16", "vllm@0.11", 32, 0},
            "multiples of 64");
    refused(&(struct base){"", "compressed-tensors", "w8a8", "sglang", 32, 1}, "groups of 32");
    refused(&(struct base){"", "compressed-tensors", "w4a8", "sglang", 32, 1}, "w4a8");
    refused(&(struct base){"", "compressed-tensors", "w4a16", "transformers", 128, 1}, "padding");
    refused(&(struct base){"", "compressed-tensors", "w4a16", "transformers", 32, 0}, "asymmetric");
    refused(&(struct base){"", "compressed-tensors", "w4a16", "llama.cpp", 32, 0}, "GGUF");
    refused(&(struct base){"", "gguf", "w4a16", "vllm@0.11", 32, 0}, "folder");
    refused(&(struct base){"", "gguf", "w4a16", "tensorrt", 32, 0}, "target 'tensorrt'");
    sq_error err = {0};
    assert_int_equal(
        sq_convert_run(in("awq"), in("refused"), SQ_LAYOUT_CT, "vllm@0.11", NULL, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "multiples of 64"));
}

/* A plan whose rows are changed by hand: one scheme for what is fused, whole shares for ranks. */
static void test_plans(void **state) {
    sq_net *net = NULL;
    sq_plan p;
    sq_error err = {0};
    int half = 0;
    sq_quantize_options o = {.method = "rtn", .format = "awq-gemm", .group_size = 32};
    sq_engine vllm, sglang, transformers;
    (void)state;
    assert_int_equal(sq_target_parse("vllm@0.11", &vllm, &err), SQ_OK);
    assert_int_equal(sq_target_parse("sglang", &sglang, &err), SQ_OK);
    assert_int_equal(sq_target_parse("transformers", &transformers, &err), SQ_OK);
    assert_int_equal(sq_net_open(&net, model, &err), SQ_OK);
    assert_int_equal(sq_plan_make(&p, net, &o, &err), SQ_OK);
    assert_int_equal(sq_target_plan(&p, &net->config, vllm, &half, &err), SQ_OK);
    assert_int_equal(half, 1);
    p.ranks = 5;
    assert_int_equal(sq_target_plan(&p, &net->config, vllm, &half, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "do not split over 5 ranks"));
    p.ranks = 6; /* two KV heads: every rank has one; o_proj's 48 inputs are no whole groups */
    assert_int_equal(sq_target_plan(&p, &net->config, vllm, &half, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "o_proj"));
    assert_non_null(strstr(err.text, "48 columns"));
    p.ranks = 0;
    for (size_t i = 0; i < p.n; i++) {
        if (strcmp(p.rows[i].linear->name, "model.layers.2.self_attn.v_proj") == 0) {
            p.rows[i].grid.group = 16;
        }
    }
    assert_int_equal(sq_target_plan(&p, &net->config, sglang, &half, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "become one matrix"));
    assert_int_equal(sq_target_plan(&p, &net->config, transformers, &half, &err), SQ_OK);
    sq_plan_close(&p);
    sq_net_close(&net);
}

/* Every rule names a file of a repository; what changed between releases goes by the version. */
static void test_rules(void **state) {
    static const struct {
        const char *engine;
        sq_layout layout;
        int64_t group, n, k;
        int symmetric, fits, half;
    } rows[] = {
        {"vllm", SQ_LAYOUT_CT, 128, 4096, 4096, 0, 1, 0},
        {"vllm", SQ_LAYOUT_CT, 256, 4096, 4096, 1, 1, 1},
        {"vllm", SQ_LAYOUT_CT, 256, 4096, 4096, 0, 0, 0},
        {"vllm", SQ_LAYOUT_CT, 32, 96, 288, 0, 1, 0}, /* padded there */
        {"vllm@0.11", SQ_LAYOUT_CT, 32, 96, 288, 0, 0, 0},
        {"vllm@0.32.1", SQ_LAYOUT_CT, 32, 96, 288, 0, 0, 0},
        {"vllm@0.40", SQ_LAYOUT_CT, 32, 96, 288, 0, 1, 0},
        {"vllm", SQ_LAYOUT_AWQ_GEMM, 128, 4096, 4096, 0, 1, 0},
        {"vllm", SQ_LAYOUT_AWQ_GEMM, 32, 4096, 4128, 0, 1, 0},
        {"vllm@0.11.0", SQ_LAYOUT_AWQ_GEMM, 32, 4096, 4128, 0, 1, 1},
        {"vllm@v0.11", SQ_LAYOUT_AWQ_GEMM, 0, 4096, 4128, 0, 0, 0},
        {"vllm", SQ_LAYOUT_GPTQ, 128, 4096, 4096, 0, 0, 0},
        {"vllm@0.11", SQ_LAYOUT_GPTQ, 128, 4096, 4096, 0, 1, 1},
        {"vllm@0.11", SQ_LAYOUT_GPTQ_V2, 128, 4096, 4096, 0, 0, 0},
        {"sglang", SQ_LAYOUT_GPTQ_V2, 128, 4096, 4096, 1, 1, 0},
        {"sglang", SQ_LAYOUT_GPTQ_V2, 128, 4096, 4096, 0, 0, 0},
        {"sglang", SQ_LAYOUT_GPTQ, 128, 4096, 4096, 0, 0, 0},
        {"sglang@0.5.5", SQ_LAYOUT_GPTQ, 128, 4096, 4096, 0, 1, 1},
        {"sglang", SQ_LAYOUT_CT, 128, 4096, 4096, 0, 1, 0},
        {"sglang@0.5.5", SQ_LAYOUT_CT, 128, 4096, 4096, 0, 0, 0},
        {"transformers", SQ_LAYOUT_GPTQ, 128, 4096, 4096, 0, 0, 0},
        {"transformers", SQ_LAYOUT_GPTQ_V2, 1024, 4096, 4096, 0, 1, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sq_target_linear l = {.layout = rows[i].layout,
                              .scheme = {4, (int)rows[i].group, rows[i].symmetric, 0, 0},
                              .n = rows[i].n,
                              .k = rows[i].k,
                              .n_rank = rows[i].n,
                              .k_rank = rows[i].k};
        sq_error err = {0};
        sq_engine e;
        assert_int_equal(sq_target_parse(rows[i].engine, &e, &err), SQ_OK);
        const sq_target_rule *r = sq_target_find(e, &l, &err);
        assert_int_equal(r != NULL, rows[i].fits);
        if (r != NULL) {
            assert_int_equal(sq_target_half(r), rows[i].half);
            assert_non_null(strchr(sq_target_source(r), '/'));
        } else {
            assert_true(err.hint[0] != '\0');
        }
    }
}

/* A name, or a name and a version that is not older than all that was read. */
static void test_versions(void **state) {
    static const struct {
        const char *name, *what; /* of the error; NULL: taken */
        int version;
    } rows[] = {
        {"vllm", NULL, 33000},
        {"vllm@0.11.2", NULL, 11002},
        {"vllm@1", NULL, 1000000},
        {"llama.cpp@0.3.36", NULL, 3036},
        {"vllm@0.10.9", "read from 0.11.0 and 0.33.0", 0},
        {"transformers@4.57", "read from 5.17.0 and 5.23.0", 0},
        {"vllm@", "no version", 0},
        {"vllm@0.11rc1", "no version", 0},
        {"vllm@0.0.0", "no version", 0},
        {"vll@0.11", "wanted vllm", 0},
        {"none@1", "wanted vllm", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sq_error err = {0};
        sq_engine e;
        sq_status want = rows[i].what == NULL ? SQ_OK : SQ_EARG;
        assert_int_equal(sq_target_parse(rows[i].name, &e, &err), want);
        if (want == SQ_OK) {
            assert_int_equal(e.version, rows[i].version);
        } else {
            assert_non_null(strstr(err.text, rows[i].what));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions), cmocka_unit_test(test_good),
        cmocka_unit_test(test_mistakes), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_plans),    cmocka_unit_test(test_rules),
    };
    return cmocka_run_group_tests(tests, make_bases, teardown);
}
