/* plan: what it takes, before any work. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static double number(const json_t *o, const char *key) {
    return (double)json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s == NULL ? "-" : s;
}

static double total_of(const json_t *scheme, size_t i) {
    return number(json_array_get(json_object_get(scheme, "table"), i), "total_bytes");
}

/* Totals over the context under each scheme; the plan's own as bars, the memory as a mark. */
static void show_table(const json_t *r) {
    enum { WIDE = 30 };
    const json_t *rows = json_object_get(r, "table"), *schemes = json_object_get(r, "schemes");
    double memory = number(r, "memory_bytes"), top = 0;
    size_t i, k;
    json_t *row, *s;
    json_array_foreach(rows, i, row) {
        top = number(row, "total_bytes") > top ? number(row, "total_bytes") : top;
    }
    top = memory > top && memory < 2 * top ? memory : top;
    printf("\n%9s %11s", "context", "KV cache");
    json_array_foreach(schemes, k, s) { printf(" %11s", text(s, "scheme")); }
    putchar('\n');
    json_array_foreach(rows, i, row) {
        double total = number(row, "total_bytes");
        int bar = (int)(total / top * WIDE), mark = (int)(memory / top * WIDE);
        printf("%9.0f %11s", number(row, "context"), cli_bytes(number(row, "kv_bytes")));
        json_array_foreach(schemes, k, s) {
            printf(" %10s%c", cli_bytes(total_of(s, i)), total_of(s, i) <= memory ? ' ' : '!');
        }
        putchar(' ');
        for (int c = 0; c <= WIDE; c++) {
            putchar(c == mark ? '|' : c < bar ? '#' : ' ');
        }
        putchar('\n');
    }
    printf("%9s %11s", "largest", "");
    json_array_foreach(schemes, k, s) { printf(" %11.0f", number(s, "max_context_tokens")); }
    puts("\n          (!: more than the memory; bars: the plan's own; |: the memory)");
}

static void show_times(const json_t *t, int data) {
    printf("\nat %s/s and %.0f GFLOP/s of this machine, at best:\n",
           cli_bytes(cli_real(t, "read_bytes_per_s")), cli_real(t, "prefill_flop_per_s") * 1e-9);
    printf("  prefill           %.1f s for the whole context (%.0f tokens a second)\n",
           cli_real(t, "prefill_s"), cli_real(t, "prefill_tokens_per_s"));
    printf("  decode            %.1f tokens a second\n", cli_real(t, "decode_tokens_per_s"));
    if (cli_real(t, "vision_s") > 0) {
        printf("  vision            %.2f s\n", cli_real(t, "vision_s"));
    }
    if (data) {
        printf("  calibrate         %.0f s\n", cli_real(t, "calibrate_s"));
    }
}

static void show_work(const json_t *r) {
    const json_t *c = json_object_get(r, "calibration"), *q = json_object_get(r, "quantize"),
                 *t = json_object_get(r, "times");
    if (q != NULL) {
        printf("\nquantize, %-8s  %s at its peak (%s to verify); %s on disk\n", text(q, "method"),
               cli_bytes(number(q, "total_bytes")), cli_bytes(number(q, "verify_bytes")),
               cli_bytes(number(q, "disk_bytes")));
    }
    if (c != NULL) {
        printf("  calibration       %s: %s activations of %.0f tokens, %s statistics of a stage\n",
               cli_bytes(number(c, "total_bytes")), cli_bytes(number(c, "activation_bytes")),
               number(c, "tokens"), cli_bytes(number(c, "statistics_bytes")));
        printf("  statistics file   %s (calibrate)\n",
               cli_bytes(number(c, "statistics_file_bytes")));
    }
    if (t != NULL) {
        show_times(t, c != NULL);
    }
}

/* Pictures, the sum, and the largest of everything. */
static void show_pictures(const json_t *r) {
    const json_t *f = json_object_get(r, "frame");
    double frames = number(f, "frames"), side = number(r, "max_image_side");
    if (number(r, "vision_peak_bytes") > 0) {
        printf("vision              %s (%.0f tokens of %.0f x %.0f",
               cli_bytes(number(r, "vision_peak_bytes")), number(r, "vision_tokens"),
               number(f, "width"), number(f, "height"));
        printf(frames > 0 ? ", %.0f frames)\n" : ")\n", frames);
    }
    printf("in all              %s of %s\n", cli_bytes(number(r, "total_bytes")),
           cli_bytes(number(r, "memory_bytes")));
    printf("largest context     %.0f tokens\n", number(r, "max_context_tokens"));
    if (f != NULL) {
        printf("largest picture     %.0f x %.0f%s\n", side, side,
               side > 8000 ? " and above, made smaller" : "");
        printf("most frames         %.0f of %.0f x %.0f\n", number(r, "max_frames"),
               number(f, "width"), number(f, "height"));
    }
}

static void show(const json_t *r) {
    const char *key;
    json_t *v;
    printf("%s, %s\n\n", text(r, "family"), text(r, "scheme"));
    json_object_foreach(json_object_get(r, "parts"), key, v) {
        if (json_integer_value(v) > 0) {
            printf("weights, %-10s %s\n", key, cli_bytes((double)json_integer_value(v)));
        }
    }
    if (number(r, "rounded_head_bytes") > 0) {
        printf("head, 8 bits        %s (--lm-head of run)\n",
               cli_bytes(number(r, "rounded_head_bytes")));
    }
    printf("weights in memory   %s once they are read\n",
           cli_bytes(number(r, "resident_weights_bytes")));
    printf("on disk             %s\n", cli_bytes(number(r, "disk_bytes")));
    printf("the program itself  %s\n", cli_bytes(number(r, "program_bytes")));
    printf("KV cache            %s (%s a token, %.0f tokens, %.0f at once)\n",
           cli_bytes(number(r, "kv_bytes")), cli_bytes(number(r, "kv_bytes_per_token")),
           number(r, "context"), number(r, "batch"));
    printf("activations         %s\n", cli_bytes(number(r, "activation_bytes")));
    show_pictures(r);
    show_table(r);
    show_work(r);
}

int verb_plan(int argc, char **argv) {
    cli_common common = {0};
    sq_plan_options o = {0};
    const char *pos[1], *svg = NULL, *indivisible = "pad";
    int64_t image[2] = {0};
    int no_times = 0;
    const cli_option options[] = {
        {"--context", CLI_INT, &o.context, "N  tokens of a conversation (4096)"},
        {"--batch", CLI_INT, &o.batch, "B  conversations at once (1)"},
        {"--image", CLI_SIZE, image, "WxH  size of a picture, or of a video's frames"},
        {"--frames", CLI_INT, &o.frames, "N  frames taken of a video (of 640x480 without --image)"},
        {"--scheme", CLI_TEXT, &o.scheme, "w4a16|w8a16|w8a8|w4a8  (as stored)"},
        {"--group-size", CLI_INT, &o.group_size, "N|-1  columns a group (128)"},
        {"--sym", CLI_FLAG, &o.symmetric, "without zero points"},
        {"--vision", CLI_TEXT, &o.vision, "keep|w8a16|w8a8|w4a16  the tower's scheme (keep)"},
        PART_OPTIONS(o, indivisible),
        KV_OPTION(o.kv_type),
        {"--memory", CLI_BYTES, &o.memory, "SIZE  what there is, such as 8GiB (what is available)"},
        {"--method", CLI_TEXT, &o.method, "rtn|awq|gptq|awq+gptq  what quantizing takes (awq)"},
        {"--samples", CLI_INT, &o.samples, "N  samples of the calibration (128)"},
        {"--seq", CLI_INT, &o.seq, "N  tokens of each (512)"},
        {"--no-times", CLI_FLAG, &no_times, "without measuring this machine"},
        {"--svg", CLI_TEXT, &svg, "FILE.svg  totals over the context, a line a scheme"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("plan", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (!cli_indivisible("plan", indivisible, &o.indivisible)) {
        return EXIT_USAGE;
    }
    o.width = image[0];
    o.height = image[1];
    o.rates = !no_times;
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_plan_memory(pos[0], &o, &report, &err);
    if (report != NULL && svg != NULL && !cli_plan_svg(report, svg)) {
        sq_text_free(report);
        fprintf(stderr, "squint: plan: cannot write '%s'\n", svg);
        return EXIT_INPUT;
    }
    return cli_report(&common, report, st, &err, show);
}
