/* inspect, devices and synth. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "squint/synth.h"

static long long whole(const json_t *o, const char *key) {
    return (long long)json_integer_value(json_object_get(o, key));
}

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s == NULL ? "-" : s;
}

static void show_tensors(const json_t *list) {
    size_t i, k;
    json_t *t, *d;
    json_array_foreach(list, i, t) {
        printf("%-64s %-5s [", str(t, "name"), str(t, "type"));
        json_array_foreach(json_object_get(t, "shape"), k, d) {
            printf("%s%lld", k == 0 ? "" : ", ", (long long)json_integer_value(d));
        }
        printf("]  %s\n", cli_bytes((double)whole(t, "bytes")));
    }
}

static void show_inspect(const json_t *r) {
    const json_t *t = json_object_get(r, "text"), *v = json_object_get(r, "vision");
    printf("%s (%s), %s in %lld tensors of %lld file(s)\n", str(r, "family"), str(r, "dtype"),
           cli_bytes((double)whole(r, "bytes")), whole(r, "tensor_count"), whole(r, "shards"));
    printf("text:   %lld layers, width %lld, MLP %lld, %lld heads (%lld KV) of %lld, vocabulary "
           "%lld, %lld "
           "positions%s\n",
           whole(t, "layers"), whole(t, "hidden"), whole(t, "intermediate"), whole(t, "heads"),
           whole(t, "kv_heads"), whole(t, "head_dim"), whole(t, "vocab"), whole(t, "max_positions"),
           json_is_true(json_object_get(t, "tied")) ? ", tied" : "");
    if (v != NULL) {
        printf("vision: %lld layers, width %lld, MLP %lld, %lld heads, patch %lld, window %lld\n",
               whole(v, "layers"), whole(v, "width"), whole(v, "intermediate"), whole(v, "heads"),
               whole(v, "patch"), whole(v, "window"));
    }
    printf("\n%-52s %-7s %-14s %-7s %s\n", "linear", "part", "shape", "stored",
           "largest group (padding at 128)");
    size_t i;
    json_t *l;
    json_array_foreach(json_object_get(r, "linears"), i, l) {
        const json_t *s = json_object_get(l, "shape");
        char shape[48], stored[32];
        snprintf(shape, sizeof shape, "%lld x %lld",
                 (long long)json_integer_value(json_array_get(s, 0)),
                 (long long)json_integer_value(json_array_get(s, 1)));
        if (json_is_true(json_object_get(l, "quantized"))) {
            snprintf(stored, sizeof stored, "W%lld g%lld", whole(l, "bits"),
                     whole(l, "group_size"));
        } else {
            snprintf(stored, sizeof stored, "%s", str(l, "type"));
        }
        printf("%-52s %-7s %-14s %-7s %lld (+%lld)\n", str(l, "name"), str(l, "part"), shape,
               stored, whole(l, "largest_group"), whole(l, "padding_at_128"));
    }
    if (json_object_get(r, "tensors") != NULL) {
        putchar('\n');
        show_tensors(json_object_get(r, "tensors"));
    }
}

int verb_inspect(int argc, char **argv) {
    cli_common common = {0};
    const char *pos[1];
    int tensors = 0;
    const cli_option options[] = {
        {"--tensors", CLI_FLAG, &tensors, "every tensor of the files"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("inspect", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_inspect(pos[0], tensors, &report, &err);
    return cli_report(&common, report, st, &err, show_inspect);
}

static void show_devices(const json_t *r) {
    printf("CPU flags:  %s\nthreads:    %lld\nkernels:    ", str(r, "cpu_flags"),
           whole(r, "threads"));
    size_t i;
    json_t *k;
    json_array_foreach(json_object_get(r, "kernels"), i, k) {
        printf("%s%s", i == 0 ? "" : ", ", json_string_value(k));
    }
    printf(
        " (chosen: %s)\nmemory:     %s/s read\narithmetic: products of f32 %.0f, bf16 %.0f, int8 "
        "%.0f G(FL)OP/s\nothers:     %s\n",
        str(r, "chosen"), cli_bytes(cli_real(r, "memory_bandwidth_bytes_per_s")),
        cli_real(r, "f32_flop_per_s") / 1e9, cli_real(r, "bf16_flop_per_s") / 1e9,
        cli_real(r, "int8_op_per_s") / 1e9, str(r, "other_backends"));
}

int verb_devices(int argc, char **argv) {
    cli_common common = {0};
    const cli_option options[] = {{NULL, CLI_FLAG, NULL, NULL}};
    int status = cli_parse("devices", argc, argv, options, NULL, 0, 0, &common);
    if (status >= 0) {
        return status;
    }
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_devices(&report, &err);
    return cli_report(&common, report, st, &err, show_devices);
}

int verb_convert(int argc, char **argv) {
    cli_common common = {0};
    const char *pos[1], *out = NULL, *dtype = NULL, *format = "hf", *target = NULL;
    int lossy = 0, text_only = 0;
    const cli_option options[] = {
        {"-o", CLI_TEXT, &out,
         "OUT  a new folder; gguf: FILE.gguf, and FILE-mmproj.gguf for a vision tower"},
        {"--format", CLI_TEXT, &format,
         "hf|compressed-tensors|awq-gemm|awq-gemv|gptq|gptq-v2|gguf  (hf: a GGUF or llama2.c file "
         "as "
         "a dense folder); gguf: a folder, plain or quantized; the others: a quantized folder or a "
         "GGUF file of blocks. Codes are untouched"},
        {"--dtype", CLI_TEXT, &dtype,
         "BF16|F16|F32  of what was in blocks (BF16); gguf: of what is not quantized, also Q8_0 "
         "(as stored)"},
        {"--target", CLI_TEXT, &target,
         "vllm|sglang|transformers|llama.cpp|squint[@VERSION]  the engine that has to load it"},
        {"--lossy", CLI_FLAG, &lossy, "gguf: rounds scales that float16 does not hold exactly"},
        {"--text-only", CLI_FLAG, &text_only, "gguf: the language model alone"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("convert", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (out == NULL) {
        return cli_usage("convert: wanted -o OUT");
    }
    int is_gguf = strcmp(format, "gguf") == 0;
    if (target != NULL &&
        (is_gguf ? strncmp(target, "llama.cpp", 9) != 0 : strcmp(format, "hf") == 0)) {
        return cli_usage("convert: --target %s does not go with --format %s; wanted %s", target,
                         format, is_gguf ? "llama.cpp" : "a quantized format");
    }
    sq_error err = {0};
    sq_gguf_options gguf = {dtype, lossy, text_only};
    sq_status st =
        is_gguf ? sq_convert_gguf(pos[0], out, &gguf, cli_progress(&common), &err)
        : strcmp(format, "hf") == 0
            ? sq_convert(pos[0], out, dtype, cli_progress(&common), &err)
            : sq_convert_layout(pos[0], out, format, target, cli_progress(&common), &err);
    cli_progress_done();
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}

int verb_synth(int argc, char **argv) {
    cli_common common = {0};
    const char *pos[1], *out = NULL;
    int64_t layers = 0, seed = 0;
    const cli_option options[] = {
        {"-o", CLI_TEXT, &out, "DIR  folder to write"},
        {"--layers", CLI_INT, &layers, "N  layers at most (as published)"},
        {"--seed", CLI_INT, &seed, "N  of the weights (0)"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("synth", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (out == NULL || layers < 0 || layers > 1000) {
        return cli_usage("synth: wanted -o DIR, and --layers in 0..1000");
    }
    sq_error err = {0};
    sq_status st = sq_synth(pos[0], out, (int)layers, (uint64_t)seed, cli_progress(&common), &err);
    cli_progress_done();
    if (st == SQ_OK && common.json) {
        json_t *o = json_pack("{s:s, s:s}", "shape", pos[0], "path", out);
        char *text = json_dumps(o, JSON_COMPACT);
        puts(text == NULL ? "{}" : text);
        sq_text_free(text);
        json_decref(o);
    }
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}
