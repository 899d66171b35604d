#include "model/media.h"

#include <string.h>

#include "base/json.h"

void sq_media_free(sq_media_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        sq_image_free(&l->items[i].frame);
    }
    sq_free(l->items);
    json_decref(l->messages);
    *l = (sq_media_list){0};
}

static sq_status push(sq_media_list *l, sq_media m, sq_error *err) {
    if (l->n == l->cap) {
        void *p = l->items;
        size_t cap = l->cap == 0 ? 8 : 2 * l->cap;
        sq_status st = sq_grow(&p, l->n * sizeof *l->items, cap, sizeof *l->items, "pictures", err);
        if (st != SQ_OK) {
            return st;
        }
        l->items = p;
        l->cap = cap;
    }
    l->items[l->n++] = m;
    return SQ_OK;
}

const char *sq_media_path(const json_t *part, const char *kind) {
    const json_t *v = json_object_get(part, kind);
    if (v == NULL) {
        v = json_object_get(part, "path");
    }
    if (v == NULL) {
        v = json_object_get(part, "url");
    }
    const char *s = json_is_string(v) ? json_string_value(v) : NULL;
    return s != NULL && strncmp(s, "file://", 7) == 0 ? s + 7 : s;
}

static sq_status add_part(sq_media_list *l, const json_t *part, size_t turn, sq_error *err) {
    const char *type = sq_json_str(part, "type", "");
    int video = strcmp(type, "video") == 0;
    if (!video && strcmp(type, "image") != 0) {
        if (strcmp(type, "text") == 0 && json_is_string(json_object_get(part, "text"))) {
            return SQ_OK;
        }
        return sq_fail(
            err, SQ_EARG,
            "message %zu: content part of type '%s'; wanted text (with a string), image or "
            "video",
            turn + 1, type);
    }
    const char *path = sq_media_path(part, type);
    if (path == NULL) {
        return sq_fail(err, SQ_EARG,
                       "message %zu: the %s part has no path; wanted \"%s\": \"FILE\"", turn + 1,
                       type, type);
    }
    return push(l, (sq_media){.path = path, .is_video = video}, err);
}

static sq_status list_all(sq_media_list *l, const json_t *messages, sq_error *err) {
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return sq_fail(err, SQ_EARG, "messages: wanted a non-empty JSON array");
    }
    size_t i, k;
    json_t *m, *part;
    json_array_foreach(messages, i, m) {
        const json_t *content = json_object_get(m, "content");
        if (!json_is_string(json_object_get(m, "role")) ||
            (!json_is_string(content) && !json_is_array(content))) {
            return sq_fail(
                err, SQ_EARG,
                "message %zu: wanted {\"role\": …, \"content\": a string or an array of parts}",
                i + 1);
        }
        json_array_foreach(content, k, part) {
            sq_status st = add_part(l, part, i, err);
            if (st != SQ_OK) {
                return st;
            }
        }
    }
    return SQ_OK;
}

/* ---- videos as frames ---- */

/* Decodes the video of `from` and lists its frames in l. */
static sq_status add_frames(sq_media_list *l, const sq_media *from, const sq_frontend *f,
                            const char *base, int64_t *count, sq_error *err) {
    sq_arena a = {0};
    sq_image *frames = NULL;
    char *path = sq_path_join(&a, base, from->path, err);
    sq_status st =
        path == NULL ? SQ_ENOMEM : sq_video_frames(&frames, count, &f->preproc, path, err);
    for (int64_t i = 0; st == SQ_OK && i < *count; i++) {
        st = push(l, (sq_media){.path = from->path, .frame = frames[i]}, err);
        if (st == SQ_OK) {
            frames[i] = (sq_image){0};
        }
    }
    for (int64_t i = 0; frames != NULL && i < *count; i++) {
        sq_image_free(&frames[i]);
    }
    sq_free(frames);
    sq_arena_free(&a);
    return st;
}

/* One message's content with every video part replaced by as many image parts as it has frames. */
static sq_status widen(json_t *message, sq_media_list *to, const sq_media_list *from, size_t *next,
                       const sq_frontend *f, const char *base, sq_error *err) {
    json_t *parts = json_array(), *part;
    sq_status st = parts == NULL ? sq_fail_nomem(err, "messages", 0) : SQ_OK;
    size_t i;
    json_array_foreach(json_object_get(message, "content"), i, part) {
        const char *type = sq_json_str(part, "type", "");
        int64_t frames = 0;
        if (st == SQ_OK && strcmp(type, "video") == 0) {
            st = add_frames(to, &from->items[(*next)++], f, base, &frames, err);
            for (int64_t k = 0; k < frames; k++) {
                json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
            }
            continue;
        }
        if (st == SQ_OK && strcmp(type, "image") == 0) {
            st = push(to, from->items[(*next)++], err);
        }
        json_array_append(parts, part);
    }
    if (json_is_array(json_object_get(message, "content"))) {
        json_object_set(message, "content", parts);
    }
    json_decref(parts);
    return st;
}

static sq_status videos_to_frames(sq_media_list *l, const sq_frontend *f, const json_t *messages,
                                  const char *base, sq_error *err) {
    sq_media_list out = {.messages = json_deep_copy(messages)};
    size_t i, next = 0;
    json_t *m;
    sq_status st = out.messages == NULL ? sq_fail_nomem(err, "messages", 0) : SQ_OK;
    json_array_foreach(out.messages, i, m) {
        st = st == SQ_OK ? widen(m, &out, l, &next, f, base, err) : st;
    }
    sq_free(l->items); /* the paths stay with the caller's messages */
    *l = out;
    return st;
}

sq_status sq_media_collect(sq_media_list *l, const sq_frontend *f, const json_t *messages,
                           const char *base, sq_error *err) {
    sq_status st = list_all(l, messages, err);
    int videos = 0;
    for (size_t i = 0; i < l->n; i++) {
        videos |= l->items[i].is_video;
    }
    const sq_config *c = f->config;
    return st == SQ_OK && videos && c->tower != NULL && c->arch->video_token == NULL
               ? videos_to_frames(l, f, messages, base, err)
               : st;
}

/* ---- sizes and pixels ---- */

/* The tower's peak against what memory is left, before a pixel is decoded. */
static sq_status check_memory(const sq_config *c, const sq_pixels *px, const char *path,
                              sq_error *err) {
    size_t need = sq_vision_peak(c, px), room = sq_memory_room();
    if (need <= room) {
        return SQ_OK;
    }
    sq_fail(err, SQ_ENOMEM,
            "'%s' does not fit the memory; got %.1f MB for its %lld tokens, wanted at most %.1f MB",
            path, (double)need * 1e-6, (long long)px->tokens, (double)room * 1e-6);
    sq_hint(err, "--image-max-tokens N makes the picture smaller, --max-ram SIZE allows more");
    return SQ_ENOMEM;
}

sq_status sq_media_check(const sq_media_list *l, const sq_frontend *f, const char *base,
                         int64_t words, sq_error *err) {
    int64_t total = words;
    sq_arena a = {0};
    sq_preproc p = sq_preproc_for(&f->preproc, l->n);
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < l->n; i++) {
        const sq_media *m = &l->items[i];
        sq_pixels px = {0};
        char *path = sq_path_join(&a, base, m->path, err);
        if (path == NULL) {
            st = SQ_ENOMEM;
        } else if (m->frame.rgb != NULL) {
            total += f->preproc.tile_tokens - 1;
        } else if (!m->is_video) {
            st = sq_pixels_plan_image(&px, &p, path, err);
            total += px.tokens - 1;
            if (st == SQ_OK) {
                st = check_memory(f->config, &px, path, err);
            }
            sq_pixels_free(&px);
        }
    }
    if (st == SQ_OK && total > f->config->max_positions) {
        st = sq_prompt_too_long(f, total, err);
    }
    sq_arena_free(&a);
    return st;
}

static uint64_t hash_bytes(const void *p, size_t n) {
    const unsigned char *s = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ s[i]) * 0x100000001b3u;
    }
    return h;
}

static sq_status load_file(const sq_media *m, const sq_preproc *p, const char *base, sq_pixels *px,
                           sq_error *err) {
    sq_arena a = {0};
    char *path = sq_path_join(&a, base, m->path, err);
    sq_status st = path == NULL  ? SQ_ENOMEM
                   : m->is_video ? sq_pixels_video_file(px, p, path, err)
                                 : sq_pixels_image_file(px, p, path, err);
    sq_arena_free(&a);
    return st;
}

sq_status sq_media_load(const sq_media_list *l, size_t i, const sq_frontend *f, const char *base,
                        sq_slot *slot, sq_error *err) {
    const sq_media *m = &l->items[i];
    sq_preproc how = sq_preproc_for(&f->preproc, l->n);
    sq_pixels *p = &slot->pixels;
    sq_status st = m->frame.rgb != NULL ? sq_pixels_image(p, &how, &m->frame, err)
                                        : load_file(m, &how, base, p, err);
    if (st == SQ_OK) {
        slot->count = p->tokens;
        slot->hash =
            hash_bytes(p->patches, (size_t)(p->grid_t * p->grid_h * p->grid_w * p->patch_dim) *
                                       sizeof *p->patches);
    }
    return st;
}
