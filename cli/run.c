/* run, chat and logits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"

static int print_piece(void *user, const char *text) {
    (void)user;
    fputs(text, stdout);
    fflush(stdout);
    return ferror(stdout);
}

static json_t *image_list(const sq_result *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_images; i++) {
        const sq_image_info *m = &r->images[i];
        json_t *o =
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "width", (json_int_t)m->width, "height",
                      (json_int_t)m->height, "resized_width", (json_int_t)m->resized_width,
                      "resized_height", (json_int_t)m->resized_height, "tokens",
                      (json_int_t)m->tokens, "vision_peak_bytes", (json_int_t)m->peak_bytes);
        if (m->is_video) {
            json_object_set_new(o, "frames", json_integer((json_int_t)m->frames));
            json_object_set_new(o, "second_per_grid", json_real(m->second_per_grid));
        }
        json_array_append_new(list, o);
    }
    return list;
}

static void print_json(const sq_result *r, const sq_model *model) {
    double load_s = sq_model_load_seconds(model);
    const char *head = sq_model_head(model);
    json_t *tokens = json_array();
    for (size_t i = 0; i < r->n_tokens; i++) {
        json_array_append_new(tokens, json_integer(r->tokens[i]));
    }
    int64_t fed = r->prompt_tokens - r->reused_tokens;
    double prefill = r->prefill_s > 0 ? (double)fed / r->prefill_s : 0;
    /* The first token comes from the prefill. */
    double decode =
        r->decode_s > 0 && r->n_tokens > 1 ? (double)(r->n_tokens - 1) / r->decode_s : 0;
    json_t *o = json_pack(
        "{s:s, s:o, s:I, s:s, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}, s:{s:I, s:I, s:I}, s:o, s:s}",
        "text", r->text, "tokens", tokens, "prompt_tokens", (json_int_t)r->prompt_tokens,
        "finish_reason", r->finish_reason, "timings", "load_s", load_s, "vision_s", r->vision_s,
        "prefill_s", r->prefill_s, "decode_s", r->decode_s, "prefill_tokens_per_s", prefill,
        "decode_tokens_per_s", decode, "first_token_s", load_s + r->first_token_s, "kv", "tokens",
        (json_int_t)r->kv_tokens, "capacity_tokens", (json_int_t)r->kv_capacity_tokens, "bytes",
        (json_int_t)r->kv_bytes, "images", image_list(r), "lm_head",
        head == NULL ? "as stored" : head);
    char *text = json_dumps(o, JSON_COMPACT);
    if (text != NULL) {
        puts(text);
    }
    free(text);
    json_decref(o);
}

#define SAMPLING_OPTIONS(s, stop)                                                                  \
    {"--max-new-tokens", CLI_INT, &(s).max_new_tokens, "N  tokens of the answer at most (512)"},   \
        {"--temperature", CLI_REAL, &(s).temperature, "T  0 is greedy (0)"},                       \
        {"--top-p", CLI_REAL, &(s).top_p,                                                          \
         "P  smallest set of tokens with this probability; 1 is off (generation_config.json's)"},  \
        {"--top-k", CLI_INT, &(s).top_k,                                                           \
         "K  the K likeliest tokens; -1 is off (generation_config.json's)"},                       \
        {"--min-p", CLI_REAL, &(s).min_p,                                                          \
         "P  at least this share of the likeliest's probability"},                                 \
        {"--repetition-penalty", CLI_REAL, &(s).repetition_penalty,                                \
         "R  1 is none (generation_config.json's)"},                                               \
        {"--seed", CLI_INT, &(s).seed, "N  of the sampling"}, {                                    \
        "--stop", CLI_LIST, &(stop), "TEXT  ends the answer; may be given again"                   \
    }

static sq_status open_model(sq_model **model, const char *path, const sq_media_options *media,
                            const char *kv_type, sq_error *err) {
    sq_status st = sq_model_open(model, path, media, err);
    return st == SQ_OK ? sq_model_set_kv_type(*model, kv_type, err) : st;
}

/* How a model is opened to answer. */
typedef struct opening {
    const char *kv_type, *head, *compute;
    int packed;
} opening;
#define OPENING_OPTIONS(o)                                                                         \
    HEAD_OPTION((o).head), COMPUTE_OPTION((o).compute), PACKED_OPTION((o).packed)

/* Rounds the head where that pays, and says so. */
static sq_status set_head(sq_model *model, const char *head, const cli_common *common,
                          sq_error *err) {
    sq_status st = sq_model_set_head(model, head, err);
    if (st == SQ_OK && head == NULL && sq_model_head(model) != NULL && !common->quiet &&
        !common->json) {
        fprintf(stderr, "the output head is %s in memory; --lm-head keep leaves it as stored\n",
                sq_model_head(model));
    }
    return st;
}

static sq_status open_to_answer(sq_model **model, const char *path, const opening *how,
                                const sq_media_options *media, const cli_common *common,
                                sq_error *err) {
    const sq_progress *progress = cli_progress(common);
    sq_status st = how->packed ? sq_model_open_packed(model, path, media, progress, err)
                               : sq_model_open(model, path, media, err);
    st = st == SQ_OK ? sq_model_set_kv_type(*model, how->kv_type, err) : st;
    st = st == SQ_OK ? set_head(*model, how->head, common, err) : st;
    st = st == SQ_OK ? sq_model_set_compute(*model, how->compute, err) : st;
    st = st == SQ_OK ? sq_model_keep_packed(*model, progress, err) : st;
    cli_progress_done();
    return st;
}

int verb_run(int argc, char **argv) {
    cli_common common = {0};
    cli_ask ask = {0};
    sq_sampling sampling = {0};
    cli_list stop = {0};
    const char *pos[1];
    opening how = {0};
    const cli_option options[] = {
        CLI_ASK_OPTIONS(ask),
        SAMPLING_OPTIONS(sampling, stop),
        OPENING_OPTIONS(how),
        {"--no-cache", CLI_FLAG, &sampling.no_cache,
         "compute the whole prompt anew for every token"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("run", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    char *base, *text = NULL, *tmpl;
    sq_input input = {0};
    if (!cli_chat_template("run", &ask, &input.chat_template, &tmpl)) {
        return EXIT_INPUT;
    }
    json_t *messages = cli_messages("run", &ask, &base, &status);
    if (messages == NULL) {
        free(tmpl);
        return status;
    }
    sampling.stop = stop.items;
    sampling.n_stop = stop.n;
    sq_error err = {0};
    sq_model *model = NULL;
    sq_session *session = NULL;
    sq_result result = {.text = ""};
    how.kv_type = ask.kv_type;
    sq_status st = open_to_answer(&model, pos[0], &how, &ask.media, &common, &err);
    if (st == SQ_OK) {
        st = sq_session_open(&session, model, &err);
    }
    if (st == SQ_OK) {
        text = json_dumps(messages, JSON_COMPACT);
        input.messages = text;
        input.base_dir = base;
        st = sq_session_generate(session, &input, &sampling, common.json ? NULL : print_piece, NULL,
                                 &result, &err);
        if (common.json && (st == SQ_OK || result.n_tokens > 0)) {
            print_json(&result, model);
        } else if (!common.json && result.n_tokens > 0) {
            putchar('\n');
        }
    }
    free(text);
    free(base);
    free(tmpl);
    json_decref(messages);
    sq_session_close(&session);
    sq_model_close(&model);
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}

/* Whole numbers separated by commas; NULL and *n = 0 when malformed. */
static int32_t *parse_tokens(const char *s, size_t *n) {
    size_t cap = strlen(s) / 2 + 1;
    int32_t *ids = calloc(cap, sizeof *ids);
    *n = 0;
    while (ids != NULL && *s != '\0') {
        char *end;
        long v = strtol(s, &end, 10);
        if (end == s || v < 0 || v > INT32_MAX || (*end != ',' && *end != '\0') || *n == cap) {
            free(ids);
            *n = 0;
            return NULL;
        }
        ids[(*n)++] = (int32_t)v;
        s = *end == ',' ? end + 1 : end;
    }
    return ids;
}

static void show_logits(const json_t *r) {
    printf("%lld tokens x %lld logits\n",
           (long long)json_integer_value(json_object_get(r, "prompt_tokens")),
           (long long)json_integer_value(json_object_get(r, "vocab")));
}

int verb_logits(int argc, char **argv) {
    cli_common common = {0};
    cli_ask ask = {0};
    const char *pos[1], *out = NULL;
    int bare = 0;
    const cli_option options[] = {
        {"-o", CLI_TEXT, &out, "FILE.safetensors  input_ids (I32 [n]) and logits (F32 [n, vocab])"},
        CLI_ASK_OPTIONS(ask),
        {"--text", CLI_TEXT, &ask.text, "TEXT  without a template"},
        {"--tokens", CLI_TEXT, &ask.tokens, "1,2,3  ids as they are"},
        {"--no-generation-prompt", CLI_FLAG, &bare, "leave out the assistant's header at the end"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("logits", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    if (out == NULL) {
        return cli_usage("logits: wanted -o FILE.safetensors");
    }
    sq_input input = {.text = ask.text, .no_generation_prompt = bare};
    char *base = NULL, *text = NULL, *report = NULL, *tmpl = NULL;
    int32_t *ids = NULL;
    json_t *messages = NULL;
    if (!cli_chat_template("logits", &ask, &input.chat_template, &tmpl)) {
        return EXIT_INPUT;
    }
    if (ask.tokens != NULL) {
        ids = parse_tokens(ask.tokens, &input.n_tokens);
        if (input.n_tokens == 0) {
            return cli_usage("logits: bad value for --tokens; got '%s', wanted 1,2,3", ask.tokens);
        }
        input.tokens = ids;
    } else if (ask.text == NULL) {
        messages = cli_messages("logits", &ask, &base, &status);
        if (messages == NULL) {
            return status;
        }
        input.messages = text = json_dumps(messages, JSON_COMPACT);
        input.base_dir = base;
    }
    sq_error err = {0};
    sq_model *model = NULL;
    sq_session *session = NULL;
    sq_status st = open_model(&model, pos[0], &ask.media, ask.kv_type, &err);
    if (st == SQ_OK) {
        st = sq_session_open(&session, model, &err);
    }
    if (st == SQ_OK) {
        st = sq_logits_save(session, &input, out, &report, &err);
    }
    status = cli_report(&common, report, st, &err, show_logits);
    free(ids);
    free(tmpl);
    free(text);
    free(base);
    json_decref(messages);
    sq_session_close(&session);
    sq_model_close(&model);
    return status;
}

/* ---- chat ---- */

typedef struct talk {
    json_t *messages;
    cli_list images, videos; /* waiting for the next line; strings owned */
    sq_session *session;
    sq_sampling sampling;
} talk;

static void drop_media(talk *t) {
    for (size_t i = 0; i < t->images.n; i++) {
        free((void *)(uintptr_t)t->images.items[i]);
    }
    for (size_t i = 0; i < t->videos.n; i++) {
        free((void *)(uintptr_t)t->videos.items[i]);
    }
    t->images.n = t->videos.n = 0;
}

static void keep_media(cli_list *l, const char *path, const char *what) {
    char *copy = l->n < sizeof l->items / sizeof *l->items ? strdup(path) : NULL;
    if (copy == NULL) {
        fprintf(stderr, "squint: too many pictures wait\n");
        return;
    }
    l->items[l->n++] = copy;
    printf("(%s %s goes with your next line)\n", what, path);
}

/* One turn. A turn that failed is taken back, so that the conversation stays usable. */
static void say(talk *t, const char *line) {
    size_t before = json_array_size(t->messages);
    json_array_append_new(t->messages, cli_user_message(&t->images, &t->videos, line));
    drop_media(t);
    char *text = json_dumps(t->messages, JSON_COMPACT);
    sq_input input = {.messages = text};
    sq_result r = {.text = ""};
    sq_error err = {0};
    sq_status st = text == NULL ? SQ_EARG
                                : sq_session_generate(t->session, &input, &t->sampling, print_piece,
                                                      NULL, &r, &err);
    putchar('\n');
    if (st == SQ_OK) {
        json_array_append_new(t->messages,
                              json_pack("{s:s, s:s}", "role", "assistant", "content", r.text));
    } else {
        cli_fail(&err);
        while (json_array_size(t->messages) > before) {
            json_array_remove(t->messages, json_array_size(t->messages) - 1);
        }
    }
    free(text);
}

/* Returns 0 when the conversation ends. */
static int obey(talk *t, const char *line) {
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
        return 0;
    }
    if (strncmp(line, "/image ", 7) == 0) {
        keep_media(&t->images, line + 7, "picture");
    } else if (strncmp(line, "/video ", 7) == 0) {
        keep_media(&t->videos, line + 7, "video");
    } else if (strcmp(line, "/clear") == 0) {
        json_array_clear(t->messages);
        drop_media(t);
    } else if (line[0] == '/') {
        puts("/image FILE, /video FILE, /clear, /quit");
    } else if (line[0] != '\0') {
        say(t, line);
    }
    return 1;
}

int verb_chat(int argc, char **argv) {
    cli_common common = {0};
    talk t = {0};
    cli_list stop = {0};
    sq_media_options media = {0};
    opening how = {0};
    const char *pos[1], *system = NULL;
    const cli_option options[] = {
        {"--system", CLI_TEXT, &system, "TEXT  system message"},
        {"--image-max-tokens", CLI_INT, &media.image_max_tokens, "N  tokens of a picture at most"},
        KV_OPTION(how.kv_type),
        OPENING_OPTIONS(how),
        SAMPLING_OPTIONS(t.sampling, stop),
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("chat", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    t.sampling.stop = stop.items;
    t.sampling.n_stop = stop.n;
    t.messages = json_array();
    if (system != NULL) {
        json_array_append_new(t.messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", system));
    }
    sq_error err = {0};
    sq_model *model = NULL;
    sq_status st = open_to_answer(&model, pos[0], &how, &media, &common, &err);
    if (st == SQ_OK) {
        st = sq_session_open(&t.session, model, &err);
    }
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while (st == SQ_OK &&
           (fputs("> ", stdout), fflush(stdout), n = getline(&line, &cap, stdin)) >= 0) {
        line[strcspn(line, "\r\n")] = '\0';
        if (!obey(&t, line)) {
            break;
        }
    }
    free(line);
    drop_media(&t);
    json_decref(t.messages);
    sq_session_close(&t.session);
    sq_model_close(&model);
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}
