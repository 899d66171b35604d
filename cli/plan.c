/* plan: what it takes, before any work. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static double number(const json_t *o, const char *key) {
    return (double)json_integer_value(json_object_get(o, key));
}

/* Totals over the context as bars; the memory there is as a mark. */
static void show_table(const json_t *r) {
    enum { WIDE = 40 };
    const json_t *rows = json_object_get(r, "table");
    double memory = number(r, "memory_bytes"), top = memory;
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        top = number(row, "total_bytes") > top ? number(row, "total_bytes") : top;
    }
    printf("\n%9s %12s %12s\n", "context", "KV cache", "total");
    json_array_foreach(rows, i, row) {
        double total = number(row, "total_bytes");
        int bar = (int)(total / top * WIDE), mark = (int)(memory / top * WIDE);
        printf("%9.0f %12s %12s  ", number(row, "context"), cli_bytes(number(row, "kv_bytes")),
               cli_bytes(total));
        for (int c = 0; c <= WIDE; c++) {
            putchar(c == mark ? '|' : c < bar ? '#' : ' ');
        }
        puts(total <= memory ? "" : "  does not fit");
    }
}

static void show(const json_t *r) {
    const char *key;
    json_t *v;
    printf("%s, %s\n\n", json_string_value(json_object_get(r, "family")),
           json_string_value(json_object_get(r, "scheme")));
    json_object_foreach(json_object_get(r, "parts"), key, v) {
        if (json_integer_value(v) > 0) {
            printf("weights, %-9s %s\n", key, cli_bytes((double)json_integer_value(v)));
        }
    }
    printf("on disk            %s\n", cli_bytes(number(r, "disk_bytes")));
    printf("KV cache           %s (%s a token, %.0f tokens, %.0f at once)\n",
           cli_bytes(number(r, "kv_bytes")), cli_bytes(number(r, "kv_bytes_per_token")),
           number(r, "context"), number(r, "batch"));
    printf("activations        %s\n", cli_bytes(number(r, "activation_bytes")));
    if (number(r, "vision_peak_bytes") > 0) {
        printf("vision             %s (%.0f tokens)\n", cli_bytes(number(r, "vision_peak_bytes")),
               number(r, "vision_tokens"));
    }
    printf("in all             %s of %s\n", cli_bytes(number(r, "total_bytes")),
           cli_bytes(number(r, "memory_bytes")));
    printf("largest context    %.0f tokens\n", number(r, "max_context_tokens"));
    if (number(r, "max_image_side") > 0) {
        printf("largest picture    %.0f x %.0f\n", number(r, "max_image_side"),
               number(r, "max_image_side"));
    }
    if (json_object_get(r, "max_frames") != NULL) {
        printf("most frames        %.0f\n", number(r, "max_frames"));
    }
    show_table(r);
}

int verb_plan(int argc, char **argv) {
    cli_common common = {0};
    sq_plan_options o = {0};
    const char *pos[1], *image = NULL;
    const cli_option options[] = {
        {"--context", CLI_INT, &o.context, "N  tokens of a conversation (4096)"},
        {"--batch", CLI_INT, &o.batch, "B  conversations at once (1)"},
        {"--image", CLI_TEXT, &image, "WxH  size of a picture, or of a video's frames"},
        {"--frames", CLI_INT, &o.frames, "N  frames taken of a video"},
        {"--scheme", CLI_TEXT, &o.scheme, "w4a16|w8a16|w8a8|w4a8  (as stored)"},
        {"--group-size", CLI_INT, &o.group_size, "N|-1  columns a group (128)"},
        {"--memory", CLI_BYTES, &o.memory, "SIZE  what there is, such as 8GiB (what is available)"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("plan", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    long long w = 0, h = 0;
    char rest;
    if (image != NULL && (sscanf(image, "%lldx%lld%c", &w, &h, &rest) != 2 || w < 1 || h < 1)) {
        return cli_usage("plan: bad value for --image; got '%s', wanted WxH", image);
    }
    o.width = w;
    o.height = h;
    sq_error err = {0};
    char *report = NULL;
    sq_status st = sq_plan_memory(pos[0], &o, &report, &err);
    return cli_report(&common, report, st, &err, show);
}
