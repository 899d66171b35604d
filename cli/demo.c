/* The demonstration: the embedded model is quantized, verified, asked, and compared with the
 * original. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ask.h"

typedef struct paths {
    char root[900]; /* folder that holds models/ and tests/ */
    char model[1024], calib[1024], task[1024], out[1024], work[1024];
} paths;

static int is_dir(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* The tree: the current folder, or the one that the program was built in. */
static int find_root(paths *p) {
    char exe[800];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    snprintf(p->root, sizeof p->root, ".");
    for (int up = 0; up < 4; up++) {
        snprintf(p->model, sizeof p->model, "%s/models/squint-vl-5m", p->root);
        if (is_dir(p->model)) {
            return 1;
        }
        char *slash = strrchr(exe, '/');
        if (slash == NULL) {
            break;
        }
        *slash = '\0';
        snprintf(p->root, sizeof p->root, "%s", exe);
    }
    return 0;
}

static int make_paths(paths *p, const char *keep) {
    if (!find_root(p)) {
        fprintf(stderr, "squint: demo: cannot find models/squint-vl-5m; run it in the tree\n");
        return 0;
    }
    snprintf(p->calib, sizeof p->calib, "%s/tests/data/vl/calib.jsonl", p->root);
    snprintf(p->task, sizeof p->task, "%s/tests/data/vl/test.jsonl", p->root);
    const char *tmp = getenv("TMPDIR");
    snprintf(p->work, sizeof p->work, "%.900s/squint-demo-XXXXXX",
             tmp != NULL && tmp[0] != '\0' ? tmp : "/tmp");
    if (keep != NULL) {
        snprintf(p->out, sizeof p->out, "%s", keep);
        p->work[0] = '\0';
        return 1;
    }
    if (mkdtemp(p->work) == NULL) {
        fprintf(stderr, "squint: demo: cannot make a folder like '%s'\n", p->work);
        return 0;
    }
    snprintf(p->out, sizeof p->out, "%.1000s/awq-w4", p->work);
    return 1;
}

typedef struct side {
    double bytes, accuracy, iou, direction, eval_s, tokens_per_s;
} side;

static json_t *take(char *text) {
    json_t *r = text == NULL ? NULL : json_loads(text, JSON_DECODE_ANY, NULL);
    sq_text_free(text);
    return r;
}

static sq_status evaluate(const char *model, const paths *p, int64_t samples,
                          const cli_common *common, side *s, sq_error *err) {
    sq_eval_options o = {.task = p->task, .samples = samples};
    char *report = NULL;
    sq_status st = sq_eval(model, &o, cli_progress(common), &report, err);
    cli_progress_done();
    json_t *r = take(report);
    s->accuracy = cli_real(r, "accuracy");
    s->iou = cli_real(r, "mean_iou");
    s->direction = cli_real(json_object_get(json_object_get(r, "kinds"), "direction"), "score");
    json_decref(r);
    return st;
}

/* The first question of the task about a picture with a box, so that the demonstration shows one.
 */
static char *pick_image(const paths *p) {
    FILE *f = fopen(p->task, "r");
    char *line = NULL, *found = NULL;
    size_t cap = 0;
    while (f != NULL && found == NULL && getline(&line, &cap, f) >= 0) {
        json_t *v = json_loads(line, 0, NULL);
        size_t i, k;
        json_t *m, *part;
        json_array_foreach(json_object_get(v, "messages"), i, m) {
            json_array_foreach(json_object_get(m, "content"), k, part) {
                const char *image = json_string_value(json_object_get(part, "image"));
                if (image != NULL && json_object_get(v, "bbox") != NULL && found == NULL) {
                    size_t n = strlen(p->root) + strlen(image) + 32;
                    found = malloc(n);
                    if (found != NULL) {
                        snprintf(found, n, "%s/tests/data/vl/%s", p->root, image);
                    }
                }
            }
        }
        json_decref(v);
    }
    free(line);
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

/* The questions that the task has about this picture, three of different kinds at most. */
static size_t pick_questions(const paths *p, const char *image, char **out, size_t max) {
    FILE *f = fopen(p->task, "r");
    char *line = NULL, kinds[8][32] = {{0}};
    size_t cap = 0, n = 0;
    const char *name = strstr(image, "tests/data/vl/") + strlen("tests/data/vl/");
    while (f != NULL && n < max && getline(&line, &cap, f) >= 0) {
        json_t *v = json_loads(line, 0, NULL);
        const char *kind = json_string_value(json_object_get(v, "kind"));
        int fresh = kind != NULL && strstr(line, name) != NULL;
        for (size_t i = 0; fresh && i < n; i++) {
            fresh = strcmp(kinds[i], kind) != 0;
        }
        json_t *content =
            json_object_get(json_array_get(json_object_get(v, "messages"), 0), "content");
        const char *text = json_string_value(
            json_object_get(json_array_get(content, json_array_size(content) - 1), "text"));
        if (fresh && text != NULL && (out[n] = strdup(text)) != NULL) {
            snprintf(kinds[n++], sizeof kinds[0], "%s", kind);
        }
        json_decref(v);
    }
    free(line);
    if (f != NULL) {
        fclose(f);
    }
    return n;
}

static sq_status ask(const char *model_path, const char *image, char *const *questions, size_t n,
                     int show, side *s, sq_error *err) {
    sq_model *model = NULL;
    sq_session *session = NULL;
    sq_status st = sq_model_open(&model, model_path, NULL, err);
    if (st == SQ_OK) {
        st = sq_session_open(&session, model, err);
    }
    double tokens = 0, seconds = 0;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        cli_list images = {{image}, 1}, videos = {{NULL}, 0};
        json_t *m = json_pack("[o]", cli_user_message(&images, &videos, questions[i]));
        char *text = json_dumps(m, JSON_COMPACT);
        sq_input input = {.messages = text};
        sq_result r = {.text = ""};
        st = sq_session_generate(session, &input, NULL, NULL, NULL, &r, err);
        if (st == SQ_OK) {
            tokens += (double)r.n_tokens;
            seconds += r.decode_s;
            if (show) {
                printf("  Q: %s\n  A: %s\n", questions[i], r.text);
            }
        }
        free(text);
        json_decref(m);
    }
    s->tokens_per_s = seconds > 0 ? tokens / seconds : 0;
    sq_session_close(&session);
    sq_model_close(&model);
    return st;
}

static void table(const side *a, const side *b, double seconds) {
    printf("\n%-28s %12s %12s\n", "", "bf16", "4-bit AWQ");
    printf("%-28s %12s %12s\n", "weights", cli_bytes(a->bytes), cli_bytes(b->bytes));
    printf("%-28s %12s %11.1fs\n", "time to quantize", "-", seconds);
    printf("%-28s %12.0f %12.0f\n", "decoded tokens a second", a->tokens_per_s, b->tokens_per_s);
    printf("%-28s %11.1f%% %11.1f%%\n", "questions answered right", 100 * a->accuracy,
           100 * b->accuracy);
    printf("%-28s %12.3f %12.3f\n", "mean IoU of boxes", a->iou, b->iou);
    printf("%-28s %11.1f%% %11.1f%%\n", "direction of movement", 100 * a->direction,
           100 * b->direction);
}

static void remove_work(const paths *p) {
    if (p->work[0] != '\0') {
        char command[1100];
        snprintf(command, sizeof command, "rm -rf '%s'", p->work);
        if (system(command) != 0) {
            fprintf(stderr, "squint: demo: '%s' stays behind\n", p->work);
        }
    }
}

static sq_status run(const paths *p, int64_t samples, const cli_common *common, sq_error *err) {
    side before = {0}, after = {0};
    char *report = NULL, *questions[3] = {NULL};
    sq_quantize_options q = {.method = "awq", .calib = p->calib, .no_verify = 1};
    printf("1. quantize %s to 4 bits (AWQ, groups of 128)\n", p->model);
    fflush(stdout);
    sq_status st = sq_quantize(p->model, p->out, &q, cli_progress(common), &report, err);
    cli_progress_done();
    json_t *r = take(report);
    before.bytes = cli_real(r, "bytes_before");
    after.bytes = cli_real(r, "bytes_after");
    double seconds = cli_real(json_object_get(r, "seconds"), "total");
    json_decref(r);
    if (st != SQ_OK) {
        return st;
    }
    printf("2. verify it against the original\n");
    fflush(stdout);
    sq_verify_options v = {.against = p->model, .data = p->calib};
    report = NULL;
    st = sq_verify(p->out, &v, cli_progress(common), &report, err);
    cli_progress_done();
    r = take(report);
    size_t i, ok = 0;
    json_t *c;
    json_array_foreach(json_object_get(r, "checks"), i, c) {
        ok += json_is_true(json_object_get(c, "ok"));
    }
    printf("   %zu of %zu checks hold\n", ok, json_array_size(json_object_get(r, "checks")));
    json_decref(r);
    char *image = st == SQ_OK ? pick_image(p) : NULL;
    size_t n = image == NULL ? 0 : pick_questions(p, image, questions, 3);
    if (st == SQ_OK) {
        printf("3. ask the 4-bit model about %s\n", image == NULL ? "nothing" : image);
        st = ask(p->out, image, questions, n, 1, &after, err);
    }
    if (st == SQ_OK) {
        st = ask(p->model, image, questions, n, 0, &before, err);
    }
    if (st == SQ_OK) {
        printf("4. the test split, before and after\n");
        fflush(stdout);
        st = evaluate(p->model, p, samples, common, &before, err);
    }
    if (st == SQ_OK) {
        st = evaluate(p->out, p, samples, common, &after, err);
    }
    if (st == SQ_OK) {
        table(&before, &after, seconds);
    }
    for (i = 0; i < n; i++) {
        free(questions[i]);
    }
    free(image);
    return st;
}

int verb_demo(int argc, char **argv) {
    cli_common common = {0};
    const char *keep = NULL;
    int64_t samples = 0;
    const cli_option options[] = {
        {"--keep", CLI_TEXT, &keep, "DIR  write the quantized model there and keep it"},
        {"--samples", CLI_INT, &samples, "N  lines of the test split at most (all)"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("demo", argc, argv, options, NULL, 0, 0, &common);
    if (status >= 0) {
        return status;
    }
    paths p;
    if (!make_paths(&p, keep)) {
        return EXIT_INPUT;
    }
    sq_error err = {0};
    sq_status st = run(&p, samples, &common, &err);
    remove_work(&p);
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}
