/* How fast a model runs: vision, prefill and decode apart, beside what this machine can read. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/plan.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/engine.h"

enum { MAX_REPEAT = 1000, MAX_SESSIONS = 256 };

typedef struct bench {
    sq_engine *engine;
    sq_bench_options o;
    uint64_t random;
    sq_pixels px;
    float *features;         /* [px.tokens][hidden] */
    sq_work *work;           /* the tower's, kept from picture to picture as a conversation does */
    double *pre, *dec, *vis; /* seconds of each round */
    int64_t linear_bytes;    /* of the decoder's layers and the head */
    int64_t weight_bytes;    /* all linears and the head */
    uint64_t kv_bytes;       /* of a cache of the mean length while decoding */
    double first_token_s;    /* load, picture and prompt, none of them warm */
    const sq_progress *progress;
} bench;

static uint32_t next_random(bench *b) {
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(b->random >> 33);
}

/* Ids of the middle of the vocabulary: words, and no special tokens. */
static sq_status random_prompt(bench *b, int64_t n, sq_prompt *p, sq_error *err) {
    int64_t vocab = b->engine->net->config.dims[SQ_D_VOCAB];
    int32_t *ids = sq_alloc((size_t)n, sizeof *ids, "tokens", err);
    if (ids == NULL) {
        return SQ_ENOMEM;
    }
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(vocab / 4 + next_random(b) % (vocab / 2 + 1));
    }
    sq_status st = sq_prompt_tokens(p, &b->engine->front, ids, (size_t)n, err);
    sq_free(ids);
    return st;
}

/* The first n tokens' keys and values as noise: time does not depend on what they are, and
 * computing them would take most of a measurement at a long context. */
static sq_status fill_cache(sq_seq *seq, int64_t n, sq_error *err) {
    enum { PLACES = 4093 };
    sq_kv *kv = &seq->kv;
    bench b = {.random = 1};
    float *x = sq_alloc((size_t)(PLACES + kv->head_dim), sizeof *x, "noise", err);
    sq_status st = x == NULL ? SQ_ENOMEM : sq_kv_reserve(kv, n, err);
    st = st == SQ_OK ? sq_positions_text(&seq->positions, n, err) : st;
    if (st == SQ_OK) {
        for (int64_t i = 0; i < PLACES + kv->head_dim; i++) {
            x[i] = (float)next_random(&b) * 0x1p-30f - 1.0f;
        }
#pragma omp parallel for schedule(static) num_threads(sq_threads())
        for (int64_t layer = 0; layer < kv->layers; layer++) {
            for (int64_t i = 0; i < 2 * kv->kv_heads * n; i++) {
                sq_kv_put(kv, i % n, layer, i / n % 2 == 1, i / n / 2, x + i * 31 % PLACES);
            }
        }
        kv->tokens = n;
    }
    sq_free(x);
    return st;
}

/* Sequences that decode together; each a prompt of its own behind it. */
typedef struct together {
    sq_seq seq[MAX_SESSIONS], *of[MAX_SESSIONS];
    int32_t ids[MAX_SESSIONS];
} together;

static void close_all(together *t) {
    for (int64_t i = 0; t != NULL && i < MAX_SESSIONS; i++) {
        sq_seq_close(&t->seq[i]);
    }
    sq_free(t);
}

/* A prompt of `prompt` tokens after `depth` others is computed for the first, and is noise for the
 * other sessions; then `decode` tokens of each. */
static sq_status text_round(bench *b, int64_t prompt, int64_t decode, double *pre_s, double *dec_s,
                            sq_error *err) {
    const sq_config *c = &b->engine->net->config;
    int64_t n = b->o.sessions;
    together *s = sq_alloc(1, sizeof *s, "sessions", err);
    sq_prompt all = {0};
    sq_status st = s == NULL ? SQ_ENOMEM : random_prompt(b, b->o.depth + prompt, &all, err);
    for (int64_t i = 0; st == SQ_OK && i < n; i++) {
        s->of[i] = &s->seq[i];
        SQ_TRY(sq_seq_open(s->of[i], b->engine->net, err));
        SQ_TRY(fill_cache(s->of[i], b->o.depth + (i == 0 ? 0 : prompt), err));
    }
    if (st != SQ_OK) {
        goto fail;
    }
    double t = sq_now();
    SQ_TRY(sq_seq_feed(s->of[0], &all, b->o.depth, 0, NULL, NULL, err));
    *pre_s = sq_now() - t;
    t = sq_now();
    for (int64_t i = 0; i < decode; i++) {
        for (int64_t k = 0; k < n; k++) {
            int32_t id = sq_argmax(s->of[k]->logits, c->dims[SQ_D_VOCAB]);
            s->ids[k] = id < 0 ? 0 : id;
        }
        if (i == decode / 2) {
            b->kv_bytes = (uint64_t)s->of[0]->kv.tokens * sq_plan_kv_token(c);
        }
        SQ_TRY(sq_seq_push_each(s->of, s->ids, n, err));
    }
    *dec_s = sq_now() - t;
fail:
    sq_prompt_free(&all);
    close_all(s);
    return st;
}

/* A picture of noise, ready for the tower. */
static sq_status make_picture(bench *b, sq_error *err) {
    const sq_config *c = &b->engine->net->config;
    if (c->tower == NULL) {
        return sq_fail(err, SQ_EARG, "this is a text model; it takes no pictures");
    }
    sq_image im = {b->o.width, b->o.height, NULL};
    size_t n = (size_t)(3 * im.width * im.height);
    sq_status st;
    im.rgb = sq_alloc_raw(n, 1, "a picture", err);
    if (im.rgb == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        im.rgb[i] = (uint8_t)(next_random(b) >> 8);
    }
    sq_preproc how = sq_preproc_for(&b->engine->front.preproc, 1);
    SQ_TRY(sq_pixels_image(&b->px, &how, &im, err));
    b->features = sq_alloc_raw((size_t)(b->px.tokens * c->dims[SQ_D_HIDDEN]), sizeof(float),
                               "image features", err);
    st = b->features == NULL ? SQ_ENOMEM : SQ_OK;
fail:
    sq_image_free(&im);
    return st;
}

static sq_status vision_round(bench *b, double *seconds, sq_error *err) {
    double t = sq_now();
    sq_status st = sq_vision_forward(b->engine->net, b->work, &b->px, b->features, NULL, err);
    *seconds = sq_now() - t;
    return st;
}

static sq_status count_bytes(void *user, sq_linear *l, sq_error *err) {
    bench *b = user;
    int64_t bytes = (int64_t)sq_weight_bytes(&l->weight);
    (void)err;
    b->weight_bytes += bytes;
    b->linear_bytes += sq_linear_vision(l) ? 0 : bytes;
    return SQ_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* {median, min, max} of a rate (per > 0: per / seconds) or of the seconds themselves. */
static json_t *spread(const double *seconds, int64_t n, double per, double *median) {
    double v[MAX_REPEAT];
    for (int64_t i = 0; i < n; i++) {
        v[i] = per > 0 ? per / seconds[i] : seconds[i];
    }
    qsort(v, (size_t)n, sizeof *v, ascending);
    *median = n % 2 == 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    return json_pack("{s:f, s:f, s:f}", "median", *median, "min", v[0], "max", v[n - 1]);
}

static json_t *describe(const bench *b) {
    const sq_bench_options *o = &b->o;
    size_t peak = sq_peak_rss(); /* before the read rate's own buffer */
    double prefill = 0, decode = 0, vision = 0, band = sq_measure_bandwidth();
    double token_bytes = (double)b->linear_bytes / (double)o->sessions + (double)b->kv_bytes;
    json_t *s = json_object();
    if (o->prompt > 0) {
        json_object_set_new(s, "prefill_tokens_per_s",
                            spread(b->pre, o->repeat, (double)o->prompt, &prefill));
    }
    if (o->decode > 0) {
        json_object_set_new(s, "decode_tokens_per_s",
                            spread(b->dec, o->repeat, (double)(o->decode * o->sessions), &decode));
    }
    if (o->width > 0) {
        json_object_set_new(s, "vision_s", spread(b->vis, o->repeat, 0, &vision));
    }
    json_t *r =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, "
                  "s:i, s:s, s:s, "
                  "s:s, "
                  "s:o}",
                  "prefill_tokens_per_s", prefill, "decode_tokens_per_s", decode, "vision_s",
                  vision, "load_s", b->engine->load_s, "first_token_s", b->first_token_s,
                  "weight_bytes", (json_int_t)b->weight_bytes, "bytes_per_decoded_token",
                  (json_int_t)token_bytes, "memory_bandwidth_bytes_per_s", band, "bandwidth_share",
                  band > 0 ? decode * token_bytes / band : 0.0, "peak_rss_bytes", (json_int_t)peak,
                  "prompt", (json_int_t)o->prompt, "decode", (json_int_t)o->decode, "depth",
                  (json_int_t)o->depth, "sessions", (json_int_t)o->sessions, "repeat",
                  (json_int_t)o->repeat, "threads", sq_threads(), "kernels", sq_kernels_get()->name,
                  "kv_type", sq_kv_name(b->engine->net->config.kv_type), "lm_head",
                  b->engine->head != NULL ? b->engine->head : "as stored", "spread", s);
    if (r != NULL && o->width > 0) {
        json_object_set_new(r, "image",
                            json_pack("{s:I, s:I, s:I, s:I, s:I}", "width", (json_int_t)o->width,
                                      "height", (json_int_t)o->height, "resized_width",
                                      (json_int_t)b->px.resized_width, "resized_height",
                                      (json_int_t)b->px.resized_height, "tokens",
                                      (json_int_t)b->px.tokens));
    }
    return r;
}

static sq_status measure(bench *b, sq_error *err) {
    const sq_bench_options *o = &b->o;
    double warm[2] = {0}, seen = 0;
    sq_status st = SQ_OK;
    for (int64_t i = -1; i < o->repeat; i++) { /* the first round warms up */
        if (!sq_progress_tick(b->progress, "measure", i + 1, o->repeat + 1, NULL)) {
            return sq_fail(err, SQ_EARG, "stopped");
        }
        if (o->width > 0) {
            SQ_TRY(vision_round(b, i < 0 ? &seen : &b->vis[i], err));
        }
        if (o->prompt > 0 || o->decode > 0) {
            int64_t prompt = o->prompt > 0 ? o->prompt : 1;
            SQ_TRY(text_round(b, prompt, i < 0 && o->decode > 4 ? 4 : o->decode,
                              i < 0 ? warm : &b->pre[i], i < 0 ? warm + 1 : &b->dec[i], err));
        }
        b->first_token_s = i < 0 ? b->engine->load_s + seen + warm[0] : b->first_token_s;
    }
fail:
    return st;
}

static sq_status check_options(const bench *b, sq_error *err) {
    const sq_bench_options *o = &b->o;
    int64_t most = b->engine->net->config.max_positions;
    if (o->repeat < 1 || o->repeat > MAX_REPEAT) {
        return sq_fail(err, SQ_EARG, "repeat is out of range; got %lld, wanted 1 to %d",
                       (long long)o->repeat, MAX_REPEAT);
    }
    if (o->sessions < 1 || o->sessions > MAX_SESSIONS) {
        return sq_fail(err, SQ_EARG, "sessions is out of range; got %lld, wanted 1 to %d",
                       (long long)o->sessions, MAX_SESSIONS);
    }
    if (o->prompt < 0 || o->decode < 0 || o->depth < 0 || o->width < 0 || o->height < 0 ||
        o->prompt + o->decode + o->width <= 0) {
        return sq_fail(err, SQ_EARG,
                       "nothing to measure; wanted a prompt, tokens to decode or a "
                       "picture");
    }
    if (o->depth + o->prompt + o->decode > most) {
        return sq_fail(err, SQ_ELIMIT,
                       "more tokens than the model's position limit; got %lld, wanted at most %lld",
                       (long long)(o->depth + o->prompt + o->decode), (long long)most);
    }
    return SQ_OK;
}

/* Asks the system to forget the pages of a model's files; those that somebody maps stay. */
static sq_status forget_files(const char *model, sq_error *err) {
    sq_arena a = {0};
    char *own = (char *)(uintptr_t) "", **names = &own;
    size_t n = 1;
    sq_status st = sq_is_dir(model) ? sq_list_dir(&a, model, &names, &n, err) : SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        const char *path = names == &own ? model : sq_path_join(&a, model, names[i], err);
        int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        st = path == NULL ? SQ_ENOMEM : SQ_OK;
        if (fd >= 0) {
            fdatasync(fd); /* what is not on the disk yet stays */
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            close(fd);
        }
    }
    sq_arena_free(&a);
    return st;
}

sq_status sq_bench(const char *model, const sq_bench_options *options, const sq_progress *progress,
                   char **report, sq_error *err) {
    bench b = {.random = 1, .progress = progress};
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(options, "options", err));
    b.o = *options;
    b.o.sessions = b.o.sessions == 0 ? 1 : b.o.sessions;
    if (b.o.cold) {
        SQ_TRY(forget_files(model, err));
    }
    SQ_TRY(b.o.packed ? sq_engine_open_packed(&b.engine, model, NULL, progress, err)
                      : sq_engine_open(&b.engine, model, NULL, err));
    if (b.o.kv_type != NULL) {
        SQ_TRY(sq_kv_parse(b.o.kv_type, &b.engine->net->config.kv_type, err));
    }
    SQ_TRY(sq_engine_set_head(b.engine, b.o.head, err));
    SQ_TRY(sq_engine_set_compute(b.engine, b.o.compute, err));
    sq_engine_keep_packed(b.engine, progress);
    SQ_TRY(check_options(&b, err));
    b.pre = sq_alloc((size_t)(3 * b.o.repeat), sizeof *b.pre, "measurements", err);
    if (b.pre == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    b.dec = b.pre + b.o.repeat;
    b.vis = b.dec + b.o.repeat;
    SQ_TRY(sq_net_each_linear(b.engine->net, count_bytes, &b, err));
    SQ_TRY(count_bytes(&b, &b.engine->net->head, err));
    if (b.o.width > 0) {
        SQ_TRY(sq_work_open(&b.work, b.engine->net, err));
        SQ_TRY(make_picture(&b, err));
    }
    SQ_TRY(measure(&b, err));
    st = sq_report_text(describe(&b), report, SQ_OK, err);
fail:
    sq_work_close(&b.work);
    sq_pixels_free(&b.px);
    sq_free(b.features);
    sq_free(b.pre);
    sq_engine_close(&b.engine);
    return st;
}
