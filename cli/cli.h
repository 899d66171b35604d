/* The command line: one row a verb, a small option parser, output for people or as one JSON object.
 * It uses the public API only. */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>

#include "squint/squint.h"

/* Exit status of cli.md. */
enum { EXIT_OK, EXIT_CHECK, EXIT_USAGE, EXIT_INPUT, EXIT_ROOM, EXIT_OTHER };

/* Options that every verb has. */
typedef struct cli_common {
    int json, quiet, help;
    sq_runtime_options runtime;
} cli_common;

/* How an option's value is stored at `to`. */
typedef enum cli_kind {
    CLI_FLAG,  /* int: 1 */
    CLI_TEXT,  /* const char * */
    CLI_LIST,  /* cli_list: may be given again */
    CLI_INT,   /* int64_t */
    CLI_REAL,  /* double */
    CLI_BYTES, /* size_t: 8GiB, 512MiB, 1000 */
    CLI_SIZE,  /* int64_t[2]: width and height of 640x480 */
} cli_kind;

typedef struct cli_list {
    const char *items[64];
    size_t n;
} cli_list;

/* How the KV cache is stored. */
#define KV_OPTION(to)                                                                              \
    { "--kv-type", CLI_TEXT, &(to), "f32|f16|bf16|int8  how keys and values are kept (f32)" }

#define PACKED_OPTION(to)                                                                          \
    {                                                                                              \
        "--packed-cache", CLI_FLAG, &(to),                                                         \
            "keep packed weights in a file beside the model, and map it at the next start"         \
    }

/* How the output head is held. */
#define HEAD_OPTION(to)                                                                            \
    {                                                                                              \
        "--lm-head", CLI_TEXT, &(to),                                                              \
            "keep|w8a16|w4a16  the output head in memory (w8a16 where a quantized model's is not)" \
    }

/* Products with dense BF16 weights. */
#define COMPUTE_OPTION(to)                                                                         \
    { "--compute", CLI_TEXT, &(to), "f32|bf16  how dense BF16 weights are multiplied (f32)" }

typedef struct cli_option {
    const char *name; /* "--group-size", or "-o" */
    cli_kind kind;
    void *to;
    const char *help; /* "N|-1  columns a group" */
} cli_option;

typedef struct cli_verb {
    const char *name, *args, *summary, *example;
    int (*run)(int argc, char **argv);
} cli_verb;

/* Parses argv (without the verb): common options, `options` (ended by a NULL name), and up to
 * max_pos positional arguments (at least min_pos). Applies the runtime options. Returns -1 to go
 * on, else the exit status (help shown, or an error printed). */
int cli_parse(const char *verb, int argc, char **argv, const cli_option *options, const char **pos,
              int min_pos, int max_pos, cli_common *common);

/* --on-indivisible's word; 0 after an error printed. */
int cli_indivisible(const char *verb, const char *text, sq_indivisible *out);

/* What each part of the model gets, of quantize and plan. */
#define PART_OPTIONS(o, indivisible)                                                               \
    {"--profile", CLI_TEXT, &(o).profile,                                                          \
     "FILE.json  scheme and group by part, laid over the flags; torchchat's keys are read"},       \
        {"--embedding", CLI_TEXT, &(o).embedding, "keep|w8a16|w4a16  with a tied head (keep)"},    \
        {"--lm-head", CLI_TEXT, &(o).lm_head, "keep|w8a16|w4a16  a head of its own (keep)"}, {     \
        "--on-indivisible", CLI_TEXT, &(indivisible), "pad|smaller-group|channel|keep  (pad)"      \
    }

/* Calls f for every option of every verb, with the verb's name, and for the options that all verbs
 * have, with NULL. The names and helps are static. */
typedef void (*cli_option_fn)(void *user, const char *verb, const cli_option *option);
void cli_each_option(cli_option_fn f, void *user);

/* Prints "squint: text" and the hint; returns the exit status. */
int cli_fail(const sq_error *err);
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Progress on standard error: a bar with rate and ETA on a terminal, a line a stage otherwise. */
const sq_progress *cli_progress(const cli_common *common);
void cli_progress_done(void);

/* With --json prints the report's text; else calls show. Frees the report. Returns the exit status
 * of st. */
int cli_report(const cli_common *common, char *report, sq_status st, const sq_error *err,
               void (*show)(const json_t *report));

/* A number of a report; 0 when it is none. */
double cli_real(const json_t *o, const char *key);

/* "1.23 GB", "45.6 MB" into a small rotating buffer. */
const char *cli_bytes(double n);

extern const cli_verb cli_verbs[];
const cli_verb *cli_find(const char *name);

int verb_demo(int argc, char **argv);
int verb_inspect(int argc, char **argv);
int verb_quantize(int argc, char **argv);
int verb_calibrate(int argc, char **argv);
int verb_verify(int argc, char **argv);
int verb_run(int argc, char **argv);
int verb_chat(int argc, char **argv);
int verb_logits(int argc, char **argv);
int verb_tokenize(int argc, char **argv);
int verb_eval(int argc, char **argv);
int verb_synth(int argc, char **argv);
int verb_plan(int argc, char **argv);
/* The report of sq_plan_memory as a drawing; 0 when it cannot be written. */
int cli_plan_svg(const char *report, const char *path);
int verb_convert(int argc, char **argv);
int verb_bench(int argc, char **argv);
int verb_devices(int argc, char **argv);
int verb_explain(int argc, char **argv);

#endif
