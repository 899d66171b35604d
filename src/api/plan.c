/* Memory and disk before any work: from the configuration alone, by the sums that the passes
 * allocate. */
#include <string.h>

#include "api/api.h"
#include "base/json.h"
#include "format/safetensors.h"
#include "format/source.h"
#include "kernels/kernels.h"
#include "model/kv.h"
#include "model/prompt.h"
#include "quant/policy.h"

typedef struct planning {
    sq_config config;
    sq_preproc preproc;
    sq_policy policy;
    int schemed; /* a scheme was given: linears are counted as it stores them */
    int dense;   /* bytes of an element that is not quantized */
    uint64_t part[SQ_PARTS], disk;
    sq_pixels picture;
    size_t vision;
} planning;

static const char *const part_names[SQ_PARTS] = {"language", "vision", "merger", "head"};

/* A tensor in memory as the kernels hold it, and on disk. */
static sq_status count_tensor(void *user, const char *name, sq_part part, int rank,
                              const int64_t *shape, sq_error *err) {
    planning *p = user;
    int64_t n = shape[0], k = 1;
    (void)err;
    for (int i = 1; i < rank; i++) {
        k *= shape[i];
    }
    const sq_part_policy *q = &p->policy.part[part];
    int linear = rank == 2 && part != SQ_PART_HEAD && strstr(name, "embed") == NULL;
    if (!p->schemed || !linear || q->bits == 0) {
        p->part[part] += (uint64_t)(n * k * p->dense);
        p->disk += (uint64_t)(n * k * p->dense);
        return SQ_OK;
    }
    int64_t group = q->group < 0 ? k : q->group, kp = sq_round_up(k, group), groups = kp / group;
    int64_t stored = q->act_bits != 0 ? kp : sq_round_up(kp * q->bits, 32) / 8;
    p->part[part] += (uint64_t)(n * (sq_ceil_div(kp, 128) * 16 * q->bits + groups * 8));
    p->disk +=
        (uint64_t)(n * (stored + groups * 2) + (q->symmetric ? 0 : n * groups * q->bits / 8));
    return SQ_OK;
}

static int dense_bytes(const sq_config *c) { return strcmp(c->dtype, "float32") == 0 ? 4 : 2; }

/* Tensors that are there count as they are. */
static sq_status count_file(planning *p, const char *model, sq_error *err) {
    sq_checkpoint *c = NULL;
    sq_status st = sq_checkpoint_open(&c, model, err);
    if (st == SQ_OK) {
        p->disk = sq_checkpoint_bytes(c);
        p->part[SQ_PART_TEXT] = p->disk;
        for (size_t i = 0; p->config.tower != NULL && i < sq_checkpoint_count(c); i++) {
            const sq_tensor *t = sq_checkpoint_at(c, i);
            char name[512];
            sq_arch_canonical(p->config.arch, t->name, name, sizeof name);
            sq_part part =
                strncmp(name, "visual.merger.", 14) == 0 || strstr(name, "projector.") != NULL
                    ? SQ_PART_MERGER
                : strncmp(name, "vis", 3) == 0 ? SQ_PART_VISION
                                               : SQ_PART_TEXT;
            if (part != SQ_PART_TEXT) {
                p->part[part] += t->bytes;
                p->part[SQ_PART_TEXT] -= t->bytes;
            }
        }
    }
    sq_checkpoint_close(&c);
    return st;
}

static int holds_tensors(const char *model) {
    sq_checkpoint *c = NULL;
    int yes = sq_checkpoint_open(&c, model, NULL) == SQ_OK;
    sq_checkpoint_close(&c);
    return yes;
}

static sq_status open_plan(planning *p, const char *model, const sq_plan_options *o,
                           sq_error *err) {
    json_t *shape = sq_file_exists(model) ? NULL : sq_synth_config(model);
    int named = shape != NULL;
    char note[256];
    sq_quantize_options q = {.method = "rtn", .scheme = o->scheme, .group_size = o->group_size};
    sq_status st;
    SQ_TRY(named ? sq_config_parse(&p->config, shape, model, err)
                 : sq_config_load(&p->config, model, err));
    SQ_TRY(sq_policy_read(&p->policy, &q, note, err));
    p->schemed = o->scheme != NULL;
    p->dense = dense_bytes(&p->config);
    if (!p->schemed && !named && holds_tensors(model)) {
        SQ_TRY(count_file(p, model, err));
    } else {
        SQ_TRY(sq_config_tensors(&p->config, count_tensor, p, err));
    }
    if (p->config.tower != NULL) {
        SQ_TRY(sq_config_preproc(&p->preproc, &p->config, model, err));
        if (named) {
            p->preproc.max_pixels = 12845056; /* as published */
            p->preproc.video_max_pixels = 12845056;
            p->preproc.min_pixels = p->preproc.video_min_pixels = 3136;
        }
    }
    if (o->width > 0 || o->height > 0) {
        if (p->config.tower == NULL) {
            return sq_fail(err, SQ_EARG, "'%s' is a text model; it takes no pictures", model);
        }
        SQ_TRY(sq_pixels_plan_size(&p->picture, &p->preproc, o->width, o->height, o->frames, err));
        p->vision = sq_vision_peak(&p->config, &p->picture);
    }
fail:
    return st;
}

static uint64_t kv_token(const sq_config *c) {
    return (uint64_t)(2 * c->layers * c->kv_heads * c->head_dim) * sizeof(float);
}

static uint64_t kv_bytes(const sq_config *c, int64_t context) {
    return kv_token(c) * (uint64_t)sq_round_up(context, SQ_KV_BLOCK);
}

static uint64_t total_at(const planning *p, int64_t context, int64_t batch) {
    uint64_t sum =
        (uint64_t)batch * (kv_bytes(&p->config, context) + sq_text_peak(&p->config, context));
    for (int i = 0; i < SQ_PARTS; i++) {
        sum += p->part[i];
    }
    return sum + p->vision;
}

/* The largest context that fits: totals grow with it. */
static int64_t largest_context(const planning *p, int64_t batch, uint64_t memory) {
    int64_t lo = 0, hi = p->config.max_positions;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (total_at(p, mid, batch) <= memory) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    return lo;
}

/* The most frames, or the largest square picture, that fit beside this context; 0: not asked or
 * none. */
static int64_t most_frames(const planning *p, const sq_plan_options *o, uint64_t rest) {
    int64_t best = 0;
    for (int64_t f = 2; o->width > 0 && o->frames > 0 && f <= 768; f += 2) {
        sq_pixels px;
        if (sq_pixels_plan_size(&px, &p->preproc, o->width, o->height, f, NULL) != SQ_OK ||
            sq_vision_peak(&p->config, &px) > rest || px.tokens > p->config.max_positions) {
            break;
        }
        best = f;
    }
    return best;
}

static int64_t largest_side(const planning *p, uint64_t rest) {
    int64_t best = 0;
    for (int64_t side = 56; p->config.tower != NULL && side <= 8192; side += 56) {
        sq_pixels px;
        if (sq_pixels_plan_size(&px, &p->preproc, side, side, 0, NULL) == SQ_OK &&
            sq_vision_peak(&p->config, &px) <= rest && px.tokens <= p->config.max_positions) {
            best = side;
        }
    }
    return best;
}

static json_t *table(const planning *p, int64_t batch) {
    json_t *rows = json_array();
    for (int64_t n = 512; n <= p->config.max_positions && n <= (1 << 20); n *= 2) {
        json_array_append_new(rows,
                              json_pack("{s:I, s:I, s:I}", "context", (json_int_t)n, "kv_bytes",
                                        (json_int_t)((uint64_t)batch * kv_bytes(&p->config, n)),
                                        "total_bytes", (json_int_t)total_at(p, n, batch)));
    }
    return rows;
}

static json_t *report_of(const planning *p, const sq_plan_options *o, int64_t context,
                         uint64_t memory) {
    int64_t batch = o->batch > 0 ? o->batch : 1;
    uint64_t weights = 0, all = total_at(p, context, batch), rest;
    json_t *parts = json_object();
    for (int i = 0; i < SQ_PARTS; i++) {
        weights += p->part[i];
        json_object_set_new(parts, part_names[i], json_integer((json_int_t)p->part[i]));
    }
    rest = memory > all - p->vision ? memory - (all - p->vision) : 0;
    json_t *r = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, "
        "s:o}",
        "family", p->config.arch->title, "scheme", o->scheme == NULL ? "as stored" : o->scheme,
        "context", (json_int_t)context, "batch", (json_int_t)batch, "weights_bytes",
        (json_int_t)weights, "parts", parts, "disk_bytes", (json_int_t)p->disk,
        "kv_bytes_per_token", (json_int_t)kv_token(&p->config), "kv_bytes",
        (json_int_t)((uint64_t)batch * kv_bytes(&p->config, context)), "activation_bytes",
        (json_int_t)((uint64_t)batch * sq_text_peak(&p->config, context)), "vision_peak_bytes",
        (json_int_t)p->vision, "vision_tokens", (json_int_t)p->picture.tokens, "total_bytes",
        (json_int_t)all, "memory_bytes", (json_int_t)memory, "fits", all <= memory,
        "max_context_tokens", (json_int_t)largest_context(p, batch, memory), "max_image_side",
        (json_int_t)largest_side(p, rest), "table", table(p, batch));
    if (o->frames > 0) {
        json_object_set_new(r, "max_frames", json_integer((json_int_t)most_frames(p, o, rest)));
    }
    return r;
}

sq_status sq_plan_memory(const char *model, const sq_plan_options *options, char **report,
                         sq_error *err) {
    static const sq_plan_options none;
    const sq_plan_options *o = options == NULL ? &none : options;
    planning p = {0};
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    if (o->context < 0 || o->batch < 0 || o->width < 0 || o->height < 0 || o->frames < 0 ||
        (o->width > 0) != (o->height > 0) || o->batch > 1 << 20) {
        st =
            sq_fail(err, SQ_EARG, "plan: context, batch, image and frames; wanted numbers above 0");
        goto fail;
    }
    SQ_TRY(open_plan(&p, model, o, err));
    int64_t most = p.config.max_positions, context = o->context > 0 ? o->context : 4096;
    if (o->context > most) {
        st = sq_fail(err, SQ_ELIMIT,
                     "the model's positions end before; got %lld tokens, wanted at most %lld",
                     (long long)o->context, (long long)most);
        goto fail;
    }
    context = context < most ? context : most;
    uint64_t memory = o->memory > 0 ? o->memory : sq_memory_room();
    r = report_of(&p, o, context, memory);
    if (r == NULL) {
        st = sq_fail_nomem(err, "a plan", 0);
    } else if (total_at(&p, context, o->batch > 0 ? o->batch : 1) > memory) {
        st = sq_fail(err, SQ_ENOMEM, "it does not fit; got %.2f GB, wanted at most %.2f GB",
                     (double)total_at(&p, context, o->batch > 0 ? o->batch : 1) * 1e-9,
                     (double)memory * 1e-9);
        sq_hint(err, "a shorter --context, --scheme w4a16, or a smaller --image");
    }
fail:
    sq_config_free(&p.config);
    return sq_report_text(r, report, st, err);
}
