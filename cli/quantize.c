/* quantize, calibrate, verify, eval, and the reports for people. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s == NULL ? "-" : s;
}

/* A line for each linear whose columns the group does not divide. */
static void show_padding(const json_t *r) {
    const json_t *lists[] = {json_object_get(r, "layers"), json_object_get(r, "kept")};
    int mixed = json_object_get(r, "bits") != NULL; /* its notes are shown already */
    size_t i, k, n = 0;
    json_t *l;
    for (k = 0; k < 2; k++) {
        json_array_foreach(lists[k], i, l) {
            int64_t pad = json_integer_value(json_object_get(l, "padded_columns"));
            const char *note = json_string_value(json_object_get(l, "note"));
            if (pad == 0 && (note == NULL || mixed)) {
                continue;
            }
            if (n++ == 0) {
                puts("\nlinears whose columns the group does not divide (padding is of zeros, "
                     "stripped at load):");
            }
            if (pad > 0) {
                printf("  %-52s +%lld columns\n", str(l, "name"), (long long)pad);
            } else {
                printf("  %-52s %s\n", str(l, "name"), note);
            }
        }
    }
}

static long long whole(const json_t *o, const char *key) {
    return (long long)json_integer_value(json_object_get(o, key));
}

/* What was calibrated on, and how much of it came to the linears. */
static void show_data(const json_t *r, const json_t *layers) {
    if (json_object_get(r, "samples") == NULL) {
        return;
    }
    printf(
        "calibration: %lld tokens, %lld of them of pictures, in %lld samples; %lld dropped, %lld "
        "beyond --samples\n",
        whole(r, "tokens"), whole(r, "picture_tokens"), whole(r, "samples"), whole(r, "dropped"),
        whole(r, "unused"));
    long long least = 0, most = 0;
    size_t i, n = 0, none = 0;
    json_t *l;
    json_array_foreach(layers, i, l) {
        long long seen = whole(l, "tokens");
        none += json_object_get(l, "tokens") != NULL && seen == 0;
        if (seen > 0) {
            least = n++ == 0 || seen < least ? seen : least;
            most = seen > most ? seen : most;
        }
    }
    if (n > 0) {
        printf("a linear saw %lld to %lld rows of it\n", least, most);
    }
    if (none > 0) {
        printf("%zu linears saw nothing of it: rounded to nearest\n", none);
    }
}

static void show_quantized(const json_t *r) {
    const json_t *s = json_object_get(r, "seconds"), *layers = json_object_get(r, "layers");
    double error = 0, rtn = 0;
    size_t i;
    json_t *l;
    json_array_foreach(layers, i, l) {
        error += cli_real(l, "error");
        rtn += cli_real(l, "rtn_error");
    }
    printf("%zu linears quantized; %s -> %s (%.1f %%)\n", json_array_size(layers),
           cli_bytes(cli_real(r, "bytes_before")), cli_bytes(cli_real(r, "bytes_after")),
           100 * cli_real(r, "bytes_after") / cli_real(r, "bytes_before"));
    if (rtn > 0) {
        printf("sum of layer errors: %.4g of round-to-nearest's\n", error / rtn);
    }
    printf("%.1f s (calibrate %.1f: embedding %.1f, statistics %.1f; quantize %.1f, write %.1f, "
           "verify "
           "%.1f); peak memory %s\n",
           cli_real(s, "total"), cli_real(s, "calibrate"), cli_real(s, "embed"),
           cli_real(s, "statistics"), cli_real(s, "quantize"), cli_real(s, "write"),
           cli_real(s, "verify"), cli_bytes(cli_real(r, "peak_rss_bytes")));
    if (cli_real(s, "calibrate") > 0) {
        printf("calibrated on the outputs of the %s layers\n",
               json_is_true(json_object_get(r, "sequential")) ? "quantized" : "original");
    }
    show_data(r, layers);
    if (json_object_get(r, "bits") != NULL) {
        printf("mixed plan: %.3f bits a weight of the language model\n", cli_real(r, "bits"));
        json_array_foreach(layers, i, l) {
            printf("  %-52s %lld bits, group %-4lld %s\n", str(l, "name"),
                   (long long)json_integer_value(json_object_get(l, "bits")),
                   (long long)json_integer_value(json_object_get(l, "group_size")), str(l, "note"));
        }
    }
    show_padding(r);
}

static void show_calibrated(const json_t *r) {
    show_data(r, NULL);
    printf("%.1f s; peak memory %s\n", cli_real(r, "seconds"),
           cli_bytes(cli_real(r, "peak_rss_bytes")));
}

#define CALIB_OPTIONS(o)                                                                           \
    {"--calib", CLI_TEXT, &(o).calib, "FILE.jsonl  conversations or texts"},                       \
        {"--samples", CLI_INT, &(o).samples, "N  samples at most (128)"},                          \
        {"--seq", CLI_INT, &(o).seq, "N  tokens of a piece of plain text (512)"}, {                \
        "--vision", CLI_TEXT, &(o).vision, "keep|w8a16|w4a16|w8a8|w4a8  tower and merger (keep)"   \
    }

int verb_quantize(int argc, char **argv) {
    cli_common common = {0};
    sq_quantize_options o = {0};
    const char *pos[1], *out = NULL, *indivisible = "pad";
    int sym = 0, asym = 0;
    int64_t tp = 0;
    const cli_option options[] = {
        {"-o", CLI_TEXT, &out, "OUT  folder (or .gguf file) to write; appears only when complete"},
        {"--method", CLI_TEXT, &o.method, "rtn|awq|gptq|awq+gptq  (awq)"},
        PART_OPTIONS(o, indivisible),
        {"--damp", CLI_REAL, &o.damp, "F  GPTQ: share of the mean diagonal added to it (0.01)"},
        {"--no-act-order", CLI_FLAG, &o.no_act_order, "GPTQ: columns as they lie"},
        {"--scheme", CLI_TEXT, &o.scheme, "w4a16|w8a16|w8a8|w4a8  (w4a16)"},
        {"--group-size", CLI_INT, &o.group_size, "N|-1  columns a group, -1 one a row (128)"},
        {"--target-bits", CLI_REAL, &o.target_bits,
         "B  4 or 8 bits and the group chosen by layer, B bits a weight on average"},
        {"--sym", CLI_FLAG, &sym, "symmetric, without zero points"},
        {"--asym", CLI_FLAG, &asym, "asymmetric (default)"},
        CALIB_OPTIONS(o),
        {"--stats", CLI_TEXT, &o.stats, "FILE  statistics of 'squint calibrate'"},
        {"--sequential", CLI_FLAG, &o.sequential,
         "each layer is calibrated on the output of the quantized layers before it; without it, on "
         "the original's"},
        {"--tp", CLI_INT, &tp,
         "N  ranks of a tensor-parallel engine: the MLP is widened with zeros until each gets "
         "whole "
         "groups"},
        {"--format", CLI_TEXT, &o.format,
         "compressed-tensors|awq-gemm|awq-gemv|gptq|gptq-v2|gguf  (compressed-tensors); gguf: OUT "
         "is "
         "a FILE.gguf, groups of 32 unless --group-size says otherwise"},
        {"--target", CLI_TEXT, &o.target,
         "vllm|sglang|transformers|llama.cpp|squint[@VERSION]  the engine that has to load it: "
         "what "
         "it has no kernel for is refused before any work"},
        {"--mse-range", CLI_FLAG, &o.mse_range,
         "what is rounded without data: each group's range by its least squared error"},
        {"--no-clip", CLI_FLAG, &o.no_clip, "without the clip search"},
        {"--no-resume", CLI_FLAG, &o.no_resume, "start anew even when OUT.partial fits"},
        {"--no-verify", CLI_FLAG, &o.no_verify, "without the check at the end"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("quantize", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (out == NULL) {
        return cli_usage("quantize: wanted -o OUT");
    }
    if (sym && asym) {
        return cli_usage("quantize: got both --sym and --asym; wanted one");
    }
    if (!cli_indivisible("quantize", indivisible, &o.indivisible)) {
        return EXIT_USAGE;
    }
    o.symmetric = sym;
    o.tp = (int)(tp < 0 || tp > INT_MAX ? -1 : tp);
    o.max_ram = common.runtime.max_ram;
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_quantize(pos[0], out, &o, cli_progress(&common), &report, &err);
    return cli_report(&common, report, st, &err, show_quantized);
}

int verb_calibrate(int argc, char **argv) {
    cli_common common = {0};
    sq_quantize_options o = {0};
    const char *pos[1], *out = NULL;
    const cli_option options[] = {
        {"-o", CLI_TEXT, &out, "STATS  file to write (safetensors)"},
        CALIB_OPTIONS(o),
        {"--no-resume", CLI_FLAG, &o.no_resume, "start anew even when STATS.partial fits"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("calibrate", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (out == NULL || o.calib == NULL) {
        return cli_usage("calibrate: wanted -o STATS and --calib FILE.jsonl");
    }
    o.max_ram = common.runtime.max_ram;
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_calibrate(pos[0], out, &o, cli_progress(&common), &report, &err);
    return cli_report(&common, report, st, &err, show_calibrated);
}

static void show_verified(const json_t *r) {
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(r, "checks"), i, c) {
        const json_t *value = json_object_get(c, "value"), *limit = json_object_get(c, "limit");
        printf("%-4s  %-24s", json_is_true(json_object_get(c, "ok")) ? "ok" : "FAIL",
               str(c, "name"));
        if (json_is_number(value)) {
            printf("  %.4g", json_number_value(value));
        }
        if (json_is_number(limit)) {
            printf(" (limit %.4g)", json_number_value(limit));
        }
        printf("  %s\n", str(c, "detail"));
    }
    puts(json_is_true(json_object_get(r, "ok")) ? "verified" : "NOT verified");
}

int verb_verify(int argc, char **argv) {
    cli_common common = {0};
    sq_verify_options o = {0};
    const char *pos[1];
    const cli_option options[] = {
        {"--against", CLI_TEXT, &o.against, "MODEL  the original"},
        {"--level", CLI_TEXT, &o.level,
         "structure|codes|layers|cache|logits  up to this one (all)"},
        {"--target", CLI_TEXT, &o.target,
         "vllm|sglang|transformers|llama.cpp|squint[@VERSION]  whether that engine would load it "
         "and read it right; without --level this alone"},
        KV_OPTION(o.kv_type),
        {"--data", CLI_TEXT, &o.data, "FILE.jsonl  what to compare the logits on"},
        {"--samples", CLI_INT, &o.samples, "N  samples of it at most (16)"},
        {"--max-kl", CLI_REAL, &o.max_kl, "X  limit on the mean KL, nats a token"},
        {"--min-top1", CLI_REAL, &o.min_top1, "X  limit on the share of equal first choices"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("verify", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_verify(pos[0], &o, cli_progress(&common), &report, &err);
    return cli_report(&common, report, st, &err, show_verified);
}

static void show_eval(const json_t *r) {
    static const struct {
        const char *key, *label;
    } rows[] = {{"perplexity", "perplexity"},
                {"kl", "mean KL (nats a token)"},
                {"top1_agreement", "equal first choices"},
                {"accuracy", "accuracy of questions"},
                {"mean_iou", "mean IoU of boxes"},
                {"n", "samples"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const json_t *v = json_object_get(r, rows[i].key);
        if (json_is_number(v)) {
            printf("%-26s %.5g\n", rows[i].label, json_number_value(v));
        }
    }
    const char *kind;
    json_t *v, *kinds = json_object_get(r, "kinds");
    json_object_foreach(kinds, kind, v) {
        printf("  %-24s %.4f of %lld\n", kind, cli_real(v, "score"),
               (long long)json_integer_value(json_object_get(v, "n")));
    }
}

int verb_eval(int argc, char **argv) {
    cli_common common = {0};
    sq_eval_options o = {0};
    const char *pos[1];
    const cli_option options[] = {
        {"--against", CLI_TEXT, &o.against, "MODEL  for KL and equal first choices"},
        KV_OPTION(o.kv_type),
        {"--text", CLI_TEXT, &o.text, "FILE  plain text: perplexity"},
        {"--task", CLI_TEXT, &o.task, "FILE.jsonl  questions with an answer or a bbox"},
        {"--window", CLI_INT, &o.window, "N  tokens a window (512)"},
        {"--windows", CLI_INT, &o.windows, "K  windows at most"},
        {"--samples", CLI_INT, &o.samples, "N  lines of the task at most"},
        {"--min-accuracy", CLI_REAL, &o.min_accuracy, "X  limit; exit 1 below it"},
        {"--min-iou", CLI_REAL, &o.min_iou, "X  limit; exit 1 below it"},
        {"--max-kl", CLI_REAL, &o.max_kl, "X  limit; exit 1 above it"},
        {"--max-perplexity", CLI_REAL, &o.max_perplexity, "X  limit; exit 1 above it"},
        {"--report", CLI_TEXT, &o.report,
         "FILE.html  one page of all of it, with pictures, layers and commands"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("eval", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if ((o.text == NULL) == (o.task == NULL)) {
        return cli_usage("eval: wanted one of --text FILE and --task FILE.jsonl");
    }
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_eval(pos[0], &o, cli_progress(&common), &report, &err);
    return cli_report(&common, report, st, &err, show_eval);
}
