/* bench: how fast it runs. */
#include <stdio.h>

#include "cli.h"

static void show_rate(const json_t *spread, const char *key, const char *what, const char *unit) {
    const json_t *s = json_object_get(spread, key);
    if (s != NULL) {
        printf("%-9s %10.2f %s   (%.2f to %.2f)\n", what, cli_real(s, "median"), unit,
               cli_real(s, "min"), cli_real(s, "max"));
    }
}

static void show(const json_t *r) {
    const json_t *s = json_object_get(r, "spread");
    int sessions = (int)json_integer_value(json_object_get(r, "sessions"));
    printf("%d threads, %s, KV cache in %s, head %s, median of %d\n",
           (int)json_integer_value(json_object_get(r, "threads")),
           json_string_value(json_object_get(r, "kernels")),
           json_string_value(json_object_get(r, "kv_type")),
           json_string_value(json_object_get(r, "lm_head")),
           (int)json_integer_value(json_object_get(r, "repeat")));
    printf("%-9s %10.2f s, first token after %.2f s\n", "load", cli_real(r, "load_s"),
           cli_real(r, "first_token_s"));
    show_rate(s, "vision_s", "vision", "s");
    show_rate(s, "prefill_tokens_per_s", "prefill", "tokens/s");
    show_rate(s, "decode_tokens_per_s", "decode", sessions > 1 ? "tokens/s in all" : "tokens/s");
    printf("weights %s; a decoded token reads %s, %.0f %% of the %s/s that this machine reads\n",
           cli_bytes(cli_real(r, "weight_bytes")),
           cli_bytes(cli_real(r, "bytes_per_decoded_token")), 100 * cli_real(r, "bandwidth_share"),
           cli_bytes(cli_real(r, "memory_bandwidth_bytes_per_s")));
    printf("peak of memory %s\n", cli_bytes(cli_real(r, "peak_rss_bytes")));
}

int verb_bench(int argc, char **argv) {
    cli_common common = {0};
    sq_bench_options o = {.prompt = 512, .decode = 128, .sessions = 1, .repeat = 3};
    const char *pos[1];
    int64_t image[2] = {0};
    const cli_option options[] = {
        {"-p", CLI_INT, &o.prompt, "N  tokens of the prompt (512); 0: no prefill"},
        {"-n", CLI_INT, &o.decode, "N  tokens decoded one by one (128); 0: none"},
        {"--depth", CLI_INT, &o.depth, "N  tokens in the cache before the prompt (0)"},
        {"--sessions", CLI_INT, &o.sessions, "N  that decode together, a token of each a pass (1)"},
        {"--image", CLI_SIZE, image, "WxH  a picture for the vision tower"},
        {"--repeat", CLI_INT, &o.repeat, "R  rounds, after one that warms up (3)"},
        KV_OPTION(o.kv_type),
        HEAD_OPTION(o.head),
        COMPUTE_OPTION(o.compute),
        PACKED_OPTION(o.packed),
        {"--cold", CLI_FLAG, &o.cold, "the model's files leave the page cache first"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("bench", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    o.width = image[0];
    o.height = image[1];
    char *report = NULL;
    sq_error err = {0};
    sq_status st = sq_bench(pos[0], &o, cli_progress(&common), &report, &err);
    cli_progress_done();
    return cli_report(&common, report, st, &err, show);
}
