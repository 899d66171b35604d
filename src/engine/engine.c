#include "engine/engine.h"

#include <string.h>

#include "base/json.h"
#include "base/log.h"

static void overlay(sq_preproc *p, const sq_media_options *m) {
    int64_t cell = p->patch_size * p->merge_size * p->patch_size * p->merge_size;
    if (m->image_min_tokens > 0) {
        p->min_pixels = m->image_min_tokens * cell;
    }
    if (m->image_max_tokens > 0) {
        p->max_pixels = m->image_max_tokens * cell;
    }
    if (p->min_pixels > p->max_pixels) {
        p->min_pixels = p->max_pixels;
    }
    if (m->fps > 0) {
        p->fps = m->fps;
    }
    if (m->min_frames > 0) {
        p->min_frames = m->min_frames;
    }
    if (m->max_frames > 0) {
        p->max_frames = m->max_frames;
    }
    if (m->max_frames > 0 && p->num_frames > m->max_frames) {
        p->num_frames = m->max_frames;
    }
    if (m->min_frames > 0 && p->kind != SQ_PREPROC_QWEN && p->num_frames < m->min_frames) {
        p->num_frames = m->min_frames;
    }
    p->video_total_pixels = m->video_total_pixels;
}

static sq_status open_engine(sq_engine **out, const char *path, const sq_media_options *media,
                             int packed, sq_error *err) {
    *out = NULL;
    double t0 = sq_now();
    sq_engine *e = sq_alloc(1, sizeof *e, "a model", err);
    if (e == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st;
    SQ_TRY((packed ? sq_net_open_packed : sq_net_open)(&e->net, path, err));
    SQ_TRY(sq_frontend_open(&e->front, path, &e->net->config, err));
    if (media != NULL && e->net->config.tower != NULL) {
        overlay(&e->front.preproc, media);
    }
    e->load_s = sq_now() - t0;
    *out = e;
    return SQ_OK;
fail:
    sq_engine_close(&e);
    return st;
}

sq_status sq_engine_open(sq_engine **out, const char *path, const sq_media_options *media,
                         sq_error *err) {
    return open_engine(out, path, media, 0, err);
}

sq_status sq_engine_open_packed(sq_engine **out, const char *path, const sq_media_options *media,
                                const sq_progress *progress, sq_error *err) {
    sq_status st = open_engine(out, path, media, 1, err);
    if (st == SQ_OK && (*out)->net->packed->reason != NULL) {
        sq_progress_note(progress, "%s is not taken: %s", (*out)->net->packed->path,
                         (*out)->net->packed->reason);
    }
    return st;
}

void sq_engine_keep_packed(const sq_engine *e, const sq_progress *progress) {
    sq_error why = {0};
    size_t bytes;
    if (sq_net_keep_packed(e->net, &bytes, &why) != SQ_OK) {
        sq_progress_note(progress, "packed weights are not kept: %s", why.text);
    } else if (bytes > 0) {
        sq_progress_note(progress, "%.2f MB of packed weights kept in %s for the next start",
                         1e-6 * (double)bytes, e->net->packed->path);
    }
}

sq_status sq_engine_set_compute(sq_engine *e, const char *type, sq_error *err) {
    if (type == NULL || strcmp(type, "f32") == 0) {
        return SQ_OK;
    }
    if (strcmp(type, "bf16") != 0) {
        return sq_fail(err, SQ_EARG, "cannot compute in '%s'; wanted f32 or bf16", type);
    }
    sq_net_use_bf16(e->net);
    return SQ_OK;
}

static sq_status count_quantized(void *user, sq_linear *l, sq_error *err) {
    (void)err;
    *(int *)user += l->quantized;
    return SQ_OK;
}

sq_status sq_engine_set_head(sq_engine *e, const char *scheme, sq_error *err) {
    static const struct {
        const char *name;
        int bits;
    } ways[] = {{"keep", 0}, {"w8a16", 8}, {"w4a16", 4}};
    int quantized = 0, dense = !e->net->head.quantized;
    sq_net_each_linear(e->net, count_quantized, &quantized, NULL);
    const char *name = scheme != NULL ? scheme : dense && quantized > 0 ? "w8a16" : "keep";
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(ways[i].name, name) != 0) {
            continue;
        }
        if (ways[i].bits == 0) {
            return SQ_OK;
        }
        if (!dense) {
            return sq_fail(err, SQ_EARG, "the head is quantized already, with %d bits",
                           e->net->head.scheme.bits);
        }
        double t0 = sq_now();
        sq_status st = sq_net_round_head(e->net, ways[i].bits, err);
        e->load_s += sq_now() - t0;
        e->head = st == SQ_OK ? ways[i].name : NULL;
        return st;
    }
    return sq_fail(err, SQ_EARG, "no such head; got '%s', wanted keep, w8a16 or w4a16", name);
}

void sq_engine_close(sq_engine **e) {
    if (*e == NULL) {
        return;
    }
    sq_frontend_close(&(*e)->front);
    sq_net_close(&(*e)->net);
    sq_free(*e);
    *e = NULL;
}

/* An array of messages, or an object that holds it beside more template variables (tools, …). */
static sq_status from_messages(const sq_engine *e, const sq_input *in, sq_prompt *out,
                               sq_error *err) {
    json_t *messages = NULL;
    sq_template *tmpl = NULL;
    sq_status st;
    SQ_TRY(sq_json_parse(in->messages, strlen(in->messages), "messages", &messages, err));
    if (in->chat_template != NULL) {
        SQ_TRY(sq_prompt_template(&tmpl, &e->front, in->chat_template, err));
    }
    int wrapped = json_is_object(messages);
    sq_rendering how = {.tmpl = tmpl,
                        .variables = wrapped ? messages : NULL,
                        .add_generation_prompt = !in->no_generation_prompt,
                        .post = in->chat_template != NULL && strcmp(in->chat_template, "raw") == 0};
    st =
        sq_prompt_render(out, &e->front, wrapped ? json_object_get(messages, "messages") : messages,
                         in->base_dir, &how, err);
fail:
    sq_template_close(&tmpl);
    json_decref(messages);
    return st;
}

sq_status sq_engine_prompt(const sq_engine *e, const sq_input *in, sq_prompt *out, sq_error *err) {
    *out = (sq_prompt){0};
    int given = (in->messages != NULL) + (in->text != NULL) + (in->tokens != NULL);
    if (given != 1) {
        return sq_fail(err, SQ_EARG, "wanted exactly one of messages, text and tokens; got %d",
                       given);
    }
    if (in->text != NULL) {
        return sq_prompt_text(out, &e->front, in->text, strlen(in->text), err);
    }
    if (in->tokens != NULL) {
        return sq_prompt_tokens(out, &e->front, in->tokens, in->n_tokens, err);
    }
    return from_messages(e, in, out, err);
}
