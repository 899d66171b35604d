/* Memory, disk and time before any work: from the configuration alone, by the sums that the passes
 * allocate. */
#include "api/plan.h"

#include <string.h>

#include "api/api.h"
#include "base/json.h"
#include "format/safetensors.h"
#include "format/source.h"
#include "model/work.h"

static const char *const part_names[SQ_PARTS] = {"language", "vision", "merger", "head",
                                                 "embeddings"};

/* ---- opening ---- */

static int dense_bytes(const sq_config *c) { return strcmp(c->dtype, "float32") == 0 ? 4 : 2; }

static int holds_tensors(const char *model) {
    sq_checkpoint *c = NULL;
    int yes = sq_checkpoint_open(&c, model, NULL) == SQ_OK;
    sq_checkpoint_close(&c);
    return yes;
}

/* What the model is: a file or folder, or a shape's name. */
typedef struct subject {
    const char *model;
    int files; /* it has tensors */
} subject;

/* Whether it is planned as quantize would write it. */
static int is_schemed(const sq_plan_options *o) {
    return o->scheme != NULL || o->profile != NULL || o->vision != NULL || o->embedding != NULL ||
           o->lm_head != NULL;
}

/* quantize's own reading of what is asked for; `other`, where it is given, is another scheme of the
 * language model beside it, without a profile. */
static sq_status read_policy(sq_planning *p, const sq_plan_options *o, const char *other,
                             sq_error *err) {
    sq_quantize_options q = {.method = o->method,
                             .profile = other == NULL ? o->profile : NULL,
                             .scheme = other == NULL ? o->scheme : other,
                             .group_size = o->group_size,
                             .symmetric = o->symmetric,
                             .vision = o->vision,
                             .embedding = o->embedding,
                             .lm_head = o->lm_head,
                             .indivisible = o->indivisible};
    p->schemed = other != NULL || is_schemed(o);
    sq_status st = sq_policy_read(&p->policy, &q, err);
    return st == SQ_OK ? sq_policy_check_tied(&p->policy, p->config.tied, err) : st;
}

/* The plan's name in the table: its scheme, or its profile's file. */
static const char *scheme_name(const sq_plan_options *o) {
    const char *slash = o->profile == NULL ? NULL : strrchr(o->profile, '/');
    return slash != NULL        ? slash + 1
           : o->profile != NULL ? o->profile
           : o->scheme != NULL  ? o->scheme
           : is_schemed(o)      ? "w4a16"
                                : "as stored";
}

/* What a picture of that size (with frames > 0 a video) takes: the tower, or, where that is more,
 * the decoded original and its resized copy before it. Where videos are pictures, frame by frame,
 * all of them wait while one goes through the tower. */
static sq_status size_picture(const sq_planning *p, int64_t width, int64_t height, int64_t frames,
                              sq_pixels *px, uint64_t *bytes, sq_error *err) {
    int apart = frames > 0 && p->preproc.kind != SQ_PREPROC_QWEN;
    sq_preproc how = sq_preproc_for(&p->preproc, apart ? (size_t)frames : 1);
    sq_status st = sq_pixels_plan_size(px, &how, width, height, apart ? 0 : frames, err);
    if (st == SQ_OK) {
        uint64_t tower = sq_vision_peak(&p->config, px);
        uint64_t shown = (uint64_t)(px->resized_width * px->resized_height);
        uint64_t patches =
            (uint64_t)(px->grid_t * px->grid_h * px->grid_w * px->patch_dim) * sizeof(float);
        uint64_t decode = patches + 3 * ((uint64_t)(width * height) + 2 * shown);
        *bytes = tower > decode ? tower : decode;
        if (apart) {
            *bytes += (uint64_t)(frames - 1) * (patches + 3 * (uint64_t)(width * height));
            px->grid_t *= frames;
            px->tokens *= frames;
        }
    }
    return st;
}

/* The program as it is now, its tokenizer when it is there to be opened, and what the first passes
 * leave behind: oneDNN's generated code, stacks of threads, the chat template. */
static uint64_t program_bytes(const char *model, int files) {
    enum { FIRST_PASSES = 6500000 }; /* measured on models of 9 MB to 1 GB */
    uint64_t program = sq_peak_rss() + FIRST_PASSES;
    size_t before = sq_memory_used();
    sq_tokenizer *t = NULL;
    if (files && sq_tokenizer_open(&t, model, NULL) == SQ_OK) {
        program += sq_memory_used() - before;
    }
    sq_tokenizer_close(&t);
    return program;
}

/* Of pictures and of a video's frames, unless they are given. */
static int64_t width_of(const sq_plan_options *o) { return o->width > 0 ? o->width : 640; }
static int64_t height_of(const sq_plan_options *o) { return o->height > 0 ? o->height : 480; }

static sq_status open_plan(sq_planning *p, subject *s, const char *model, const sq_plan_options *o,
                           sq_error *err) {
    json_t *shape = sq_file_exists(model) ? NULL : sq_synth_config(model);
    int named = shape != NULL;
    sq_status st;
    SQ_TRY(named ? sq_config_parse(&p->config, shape, model, err)
                 : sq_config_load(&p->config, model, err));
    *s = (subject){model, !named && holds_tensors(model)};
    p->program = program_bytes(model, s->files);
    SQ_TRY(read_policy(p, o, NULL, err));
    SQ_TRY(sq_kv_parse(o->kv_type, &p->config.kv_type, err));
    p->dense = dense_bytes(&p->config);
    SQ_TRY(sq_plan_weights(p, model, s->files, err));
    if (p->config.tower != NULL) {
        SQ_TRY(sq_config_preproc(&p->preproc, &p->config, model, err));
        if (named) {
            p->preproc.max_pixels = 12845056; /* as published */
            p->preproc.video_max_pixels = 12845056;
            p->preproc.min_pixels = p->preproc.video_min_pixels = 3136;
        }
    }
    if (o->width > 0 || o->frames > 0) {
        if (p->config.tower == NULL) {
            return sq_fail(err, SQ_EARG, "'%s' is a text model; it takes no pictures", model);
        }
        SQ_TRY(size_picture(p, width_of(o), height_of(o), o->frames, &p->picture, &p->vision, err));
    }
fail:
    return st;
}

/* ---- sums ---- */

uint64_t sq_plan_kv_token(const sq_config *c) {
    return (uint64_t)(2 * c->layers * c->kv_heads) * sq_kv_row_bytes(c->kv_type, c->head_dim);
}

static uint64_t kv_bytes(const sq_config *c, int64_t context) {
    return sq_plan_kv_token(c) * (uint64_t)sq_round_up(context, SQ_KV_BLOCK);
}

uint64_t sq_plan_total(const sq_planning *p, int64_t context, int64_t batch) {
    uint64_t opened = sq_plan_open_bytes(p);
    uint64_t run =
        sq_plan_read_bytes(p, context) + p->vision +
        (uint64_t)batch * (kv_bytes(&p->config, context) + sq_text_peak(&p->config, context));
    return p->program + (run > opened ? run : opened);
}

/* The largest context that fits: totals grow with it. */
static int64_t largest_context(const sq_planning *p, int64_t batch, uint64_t memory) {
    int64_t lo = 0, hi = p->config.max_positions;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (sq_plan_total(p, mid, batch) <= memory) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    return lo;
}

/* ---- the largest picture and video ---- */

/* A conversation of so many tokens at least: a larger picture makes it longer. */
typedef struct room {
    const sq_planning *plan;
    int64_t context, batch;
    uint64_t memory;
} room;

static int picture_fits(const room *r, int64_t width, int64_t height, int64_t frames) {
    sq_planning q = *r->plan;
    if (size_picture(&q, width, height, frames, &q.picture, &q.vision, NULL) != SQ_OK) {
        return 0;
    }
    int64_t tokens = q.picture.tokens, context = tokens > r->context ? tokens : r->context;
    return tokens <= q.config.max_positions && sq_plan_total(&q, context, r->batch) <= r->memory;
}

/* Frames of this size that fit, an even number. */
static int64_t most_frames(const room *r, int64_t width, int64_t height) {
    int64_t f = 2;
    while (f <= 768 && picture_fits(r, width, height, f)) {
        f += 2;
    }
    return f - 2;
}

static int64_t largest_side(const room *r) {
    int64_t best = 0;
    for (int64_t side = 56; side <= 8192; side += 56) {
        best = picture_fits(r, side, side, 0) ? side : best;
    }
    return best;
}

/* ---- tables ---- */

static json_t *table(const sq_planning *p, int64_t batch) {
    json_t *rows = json_array();
    for (int64_t n = 512; n <= p->config.max_positions && n <= (1 << 20); n *= 2) {
        json_array_append_new(rows,
                              json_pack("{s:I, s:I, s:I}", "context", (json_int_t)n, "kv_bytes",
                                        (json_int_t)((uint64_t)batch * kv_bytes(&p->config, n)),
                                        "total_bytes", (json_int_t)sq_plan_total(p, n, batch)));
    }
    return rows;
}

/* The same lengths under other schemes: what is asked for first. */
static sq_status scheme_table(const sq_planning *p, const subject *s, const sq_plan_options *o,
                              uint64_t memory, json_t *list, sq_error *err) {
    static const char *const others[] = {"w8a16", "w4a16"};
    int64_t batch = o->batch > 0 ? o->batch : 1;
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < 1 + sizeof others / sizeof *others; i++) {
        const char *other = i == 0 ? NULL : others[i - 1];
        if (i > 0 && strcmp(scheme_name(o), other) == 0) {
            continue;
        }
        sq_planning q = *p;
        st = read_policy(&q, o, other, err);
        if (st == SQ_OK) {
            st = sq_plan_weights(&q, s->model, s->files, err);
        }
        if (st == SQ_OK) {
            json_array_append_new(list,
                                  json_pack("{s:s, s:I, s:I, s:I, s:o}", "scheme",
                                            i == 0 ? scheme_name(o) : other, "weights_bytes",
                                            (json_int_t)sq_plan_weight_bytes(&q), "disk_bytes",
                                            (json_int_t)q.disk, "max_context_tokens",
                                            (json_int_t)largest_context(&q, batch, memory), "table",
                                            table(&q, batch)));
        }
    }
    return st;
}

static json_t *report_of(const sq_planning *p, const sq_plan_options *o, int64_t context,
                         uint64_t memory) {
    const sq_config *c = &p->config;
    int64_t batch = o->batch > 0 ? o->batch : 1;
    uint64_t all = sq_plan_total(p, context, batch);
    room in = {p, context, batch, memory};
    json_t *parts = json_object();
    for (int i = 0; i < SQ_PARTS; i++) {
        json_object_set_new(parts, part_names[i], json_integer((json_int_t)p->part[i]));
    }
    json_t *r = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:b, s:I, s:I, s:o}",
        "family", c->arch->title, "scheme", scheme_name(o), "context", (json_int_t)context, "batch",
        (json_int_t)batch, "weights_bytes", (json_int_t)sq_plan_weight_bytes(p), "parts", parts,
        "resident_weights_bytes", (json_int_t)sq_plan_read_bytes(p, context), "rounded_head_bytes",
        (json_int_t)p->head, "disk_bytes", (json_int_t)p->disk, "program_bytes",
        (json_int_t)p->program, "kv_bytes_per_token", (json_int_t)sq_plan_kv_token(c), "kv_bytes",
        (json_int_t)((uint64_t)batch * kv_bytes(c, context)), "activation_bytes",
        (json_int_t)((uint64_t)batch * sq_text_peak(c, context)), "vision_peak_bytes",
        (json_int_t)p->vision, "vision_tokens", (json_int_t)p->picture.tokens, "total_bytes",
        (json_int_t)all, "memory_bytes", (json_int_t)memory, "fits", all <= memory,
        "max_context_tokens", (json_int_t)largest_context(p, batch, memory), "max_image_side",
        (json_int_t)(c->tower == NULL ? 0 : largest_side(&in)), "table", table(p, batch));
    if (c->tower != NULL) {
        json_object_set_new(r, "max_frames",
                            json_integer((json_int_t)most_frames(&in, width_of(o), height_of(o))));
        json_object_set_new(r, "frame",
                            json_pack("{s:I, s:I, s:I}", "width", (json_int_t)width_of(o), "height",
                                      (json_int_t)height_of(o), "frames", (json_int_t)o->frames));
    }
    return r;
}

/* The other schemes, what quantizing takes (to 4 bits unless a scheme is given), and times. */
static sq_status put_work(const sq_planning *p, const subject *s, const sq_plan_options *o,
                          int64_t context, uint64_t memory, json_t *r, sq_error *err) {
    json_t *schemes = json_array();
    sq_planning q = *p;
    sq_status st;
    json_object_set_new(r, "schemes", schemes);
    SQ_TRY(scheme_table(p, s, o, memory, schemes, err));
    json_t *times = o->rates ? sq_plan_times(p, o, context) : NULL;
    if (times != NULL) {
        json_object_set_new(r, "times", times);
    }
    if (!p->schemed && p->packed[SQ_PART_TEXT] > 0) {
        return SQ_OK; /* quantized already */
    }
    if (!p->schemed) {
        SQ_TRY(read_policy(&q, o, "w4a16", err));
        SQ_TRY(sq_plan_weights(&q, s->model, 0, err));
    }
    json_t *calibration = sq_plan_calibration(&q, o);
    if (calibration != NULL) {
        json_object_set_new(r, "calibration", calibration);
    }
    json_object_set_new(r, "quantize", sq_plan_quantize(&q, o));
fail:
    return st;
}

/* What is asked for, or 4096 tokens, as far as the model's positions go; a picture must fit in. */
static sq_status choose_context(const sq_planning *p, int64_t asked, int64_t *out, sq_error *err) {
    int64_t most = p->config.max_positions, seen = p->picture.tokens;
    int64_t plain = seen > 4096 ? seen : 4096;
    *out = asked > 0 ? asked : plain < most ? plain : most;
    if (*out > most || seen > most) {
        return sq_fail(err, SQ_ELIMIT,
                       "the model's positions end before; got %lld tokens, wanted at most %lld",
                       (long long)(*out > most ? *out : seen), (long long)most);
    }
    return seen <= *out ? SQ_OK
                        : sq_fail(err, SQ_EARG,
                                  "--context: got %lld tokens, wanted the picture's %lld at least",
                                  (long long)*out, (long long)seen);
}

sq_status sq_plan_memory(const char *model, const sq_plan_options *options, char **report,
                         sq_error *err) {
    static const sq_plan_options none;
    const sq_plan_options *o = options == NULL ? &none : options;
    sq_planning p = {0};
    subject s = {0};
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    if (o->context < 0 || o->batch < 0 || o->width < 0 || o->height < 0 || o->frames < 0 ||
        (o->width > 0) != (o->height > 0) || o->batch > 1 << 20 || o->samples < 0 ||
        o->samples > 1 << 24 || o->seq < 0 || o->seq > 1 << 24) {
        st =
            sq_fail(err, SQ_EARG,
                    "plan: context, batch, image, frames, samples and seq; wanted numbers above 0");
        goto fail;
    }
    SQ_TRY(open_plan(&p, &s, model, o, err));
    int64_t context;
    SQ_TRY(choose_context(&p, o->context, &context, err));
    uint64_t memory = o->memory > 0 ? o->memory : sq_memory_room();
    uint64_t all = sq_plan_total(&p, context, o->batch > 0 ? o->batch : 1);
    r = report_of(&p, o, context, memory);
    if (r == NULL) {
        st = sq_fail_nomem(err, "a plan", 0);
        goto fail;
    }
    SQ_TRY(put_work(&p, &s, o, context, memory, r, err));
    if (all > memory) {
        st = sq_fail(err, SQ_ENOMEM, "it does not fit; got %.2f GB, wanted at most %.2f GB",
                     (double)all * 1e-9, (double)memory * 1e-9);
        sq_hint(err, "a shorter --context, --scheme w4a16, or a smaller --image");
    }
fail:
    sq_config_free(&p.config);
    return sq_report_text(r, report, st, err);
}
