/* Chat messages -> token ids, pictures and positions, as transformers' processors do
 * (processing_qwen2_vl.py, processing_qwen2_5_vl.py): one placeholder in the template stands for a
 * picture and is repeated as often as the picture has merged tokens. */
#include "model/media.h"

#include <string.h>

#include "base/json.h"
#include "format/source.h"

/* Frames that a model of tiles takes from a video whose config does not say (VILA's default), and
 * what stands for a picture where the tokenizer has no token for it (VILA's IMAGE_TOKEN_INDEX). */
enum { DEFAULT_FRAMES = 8, MARK = -200 };

static const char *special_text(const json_t *cfg, const char *key) {
    const json_t *v = json_object_get(cfg, key);
    return json_is_object(v) ? sq_json_str(v, "content", "") : sq_json_str(cfg, key, "");
}

static sq_status read_special(sq_frontend *f, sq_error *err) {
    json_t *cfg = NULL;
    sq_status st = sq_source_json(f->dir, "tokenizer_config.json", &cfg, err);
    if (st == SQ_OK) {
        f->bos_text = sq_arena_strdup(&f->arena, special_text(cfg, "bos_token"), err);
        f->eos_text = sq_arena_strdup(&f->arena, special_text(cfg, "eos_token"), err);
        st = f->bos_text == NULL || f->eos_text == NULL ? SQ_ENOMEM : SQ_OK;
        json_decref(cfg);
    }
    return st;
}

sq_status sq_config_preproc(sq_preproc *p, const sq_config *c, const char *dir, sq_error *err) {
    if (c->tower->kind == SQ_TOWER_VIT) {
        static const sq_preproc_kind kinds[] = {[SQ_VIEW_CROP] = SQ_PREPROC_CROP,
                                                [SQ_VIEW_ANYRES] = SQ_PREPROC_ANYRES,
                                                [SQ_VIEW_SQUASH] = SQ_PREPROC_SQUASH};
        sq_tile_options o = {.kind = c->n_scales > 1 ? SQ_PREPROC_LEVELS : kinds[c->arch->view],
                             .levels = c->scales,
                             .n_levels = c->n_scales,
                             .num_frames = sq_json_int(c->json, "num_video_frames", DEFAULT_FRAMES),
                             .tile = c->tile,
                             .patch = c->patch,
                             .tile_tokens = sq_config_tile_tokens(c),
                             .pad =
                                 strcmp(sq_json_str(c->json, "image_aspect_ratio", ""), "pad") == 0,
                             .pinpoints = json_object_get(c->json, "image_grid_pinpoints")};
        return sq_preproc_load_tiles(p, dir, &o, err);
    }
    sq_status st = sq_preproc_load(p, dir, err);
    if (st == SQ_OK && (p->patch_size != c->patch || p->merge_size != c->merge ||
                        p->temporal_patch_size != c->temporal_patch)) {
        st = sq_fail(err, SQ_EFORMAT,
                     "%s: preprocessor_config.json does not fit config.json; got patch %lld, merge "
                     "%lld, temporal %lld, wanted %lld, %lld, %lld",
                     dir, (long long)p->patch_size, (long long)p->merge_size,
                     (long long)p->temporal_patch_size, (long long)c->patch, (long long)c->merge,
                     (long long)c->temporal_patch);
    }
    return st;
}

sq_status sq_frontend_open(sq_frontend *out, const char *dir, const sq_config *config,
                           sq_error *err) {
    *out = (sq_frontend){.config = config};
    sq_status st;
    out->dir = sq_arena_strdup(&out->arena, dir, err);
    if (out->dir == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(sq_tokenizer_open(&out->tokenizer, dir, err));
    /* A template that cannot be read stops only those who ask for it. */
    if (sq_template_open(&out->tmpl, dir, &out->tmpl_error) == SQ_ENOMEM) {
        st = sq_fail_nomem(err, "a template", 0);
        goto fail;
    }
    const char *builtin = sq_arch_template(config->arch->builtin_template);
    if (out->tmpl == NULL && out->tmpl_error.text[0] == '\0' && builtin != NULL) {
        SQ_TRY(sq_template_parse(&out->tmpl, builtin, "built-in template", err));
    }
    if (config->tower != NULL) {
        SQ_TRY(sq_config_preproc(&out->preproc, config, dir, err));
    }
    SQ_TRY(read_special(out, err));
    return SQ_OK;
fail:
    sq_frontend_close(out);
    return st;
}

void sq_frontend_close(sq_frontend *f) {
    sq_tokenizer_close(&f->tokenizer);
    sq_template_close(&f->tmpl);
    sq_arena_free(&f->arena);
    *f = (sq_frontend){0};
}

void sq_prompt_free(sq_prompt *p) {
    for (size_t i = 0; i < p->n_slots; i++) {
        sq_pixels_free(&p->slots[i].pixels);
    }
    sq_free(p->slots);
    sq_free(p->ids.data);
    sq_free(p->segments);
    sq_free(p->text);
    sq_positions_free(&p->positions);
    *p = (sq_prompt){0};
}

static sq_status no_template(const sq_frontend *f, sq_error *err) {
    if (f->tmpl_error.text[0] != '\0') {
        sq_fail(err, f->tmpl_error.status, "%s", f->tmpl_error.text);
    } else {
        sq_fail(err, SQ_EARG, "'%s' has no chat template and its family has none built in", f->dir);
    }
    sq_hint(err, "--raw gives the text as it is; --chat-template FILE or a name (chatml, llama-2, "
                 "llama-3, vicuna, llava, mistral, qwen-vl) another template");
    return err == NULL ? SQ_EARG : err->status;
}

sq_status sq_prompt_template(sq_template **out, const sq_frontend *f, const char *name_or_text,
                             sq_error *err) {
    const sq_arch *a = f->config->arch;
    const char *name = name_or_text, *text = name_or_text;
    if (strcmp(name, "builtin") == 0) {
        name = a->builtin_template;
    } else if (strcmp(name, "raw") == 0 && a->raw_template != NULL) {
        name = a->raw_template;
    }
    const char *known = sq_arch_template(name);
    if (known == NULL && strchr(text, '{') == NULL) {
        return sq_fail(err, SQ_EARG,
                       "no chat template is called '%s'; wanted builtin, raw, chatml, "
                       "llama-2, llama-3, vicuna, llava, mistral, qwen-vl or Jinja text",
                       text);
    }
    return sq_template_parse(out, known != NULL ? known : text, "chat template", err);
}

/* Template variables: texts of one part lists stay as they are; the template decides. */
static sq_status render(const sq_frontend *f, const json_t *messages, const sq_rendering *how,
                        sq_buf *out, sq_error *err) {
    const sq_template *tmpl = how->tmpl != NULL ? how->tmpl : f->tmpl;
    if (tmpl == NULL) {
        return no_template(f, err);
    }
    json_t *vars =
        json_pack("{s:O, s:b, s:s, s:s}", "messages", messages, "add_generation_prompt",
                  how->add_generation_prompt, "bos_token", f->bos_text, "eos_token", f->eos_text);
    if (vars == NULL || json_object_update_missing(vars, (json_t *)(uintptr_t)how->variables) > 0) {
        return sq_fail_nomem(err, "template variables", 0);
    }
    sq_status st = sq_template_render(tmpl, vars, out, err);
    json_decref(vars);
    return st == SQ_OK && out->failed ? sq_fail_nomem(err, "the prompt", out->len) : st;
}

/* ---- placeholders ---- */

static int32_t token_of(const sq_frontend *f, int is_video) {
    const sq_config *c = f->config;
    int32_t id = is_video ? c->video_token : c->image_token;
    const char *name = is_video ? c->arch->video_token : c->arch->image_token;
    if (id < 0 && name != NULL) {
        id = sq_tokenizer_id(f->tokenizer, name);
    }
    return id < 0 && !is_video ? MARK : id;
}

/* Ids of the rendered text. Where a picture's mark is no token, the text around it is encoded piece
 * by piece, as VILA's tokenizer_image_token does. */
static sq_status encode(const sq_frontend *f, const sq_buf *text, int marks, int post, sq_ids *out,
                        sq_error *err) {
    const char *s = text->data == NULL ? "" : text->data, *end = s + text->len;
    const char *mark = f->config->arch->image_token;
    sq_status st = SQ_OK;
    marks = marks && token_of(f, 0) == MARK;
    while (st == SQ_OK && s <= end) {
        const char *at = marks ? memmem(s, (size_t)(end - s), mark, strlen(mark)) : NULL;
        size_t n = (size_t)((at == NULL ? end : at) - s);
        st = sq_tokenizer_encode(f->tokenizer, s, n, 0, post, out, err);
        post = 0; /* BOS goes before the first piece alone */
        if (at == NULL) {
            break;
        }
        if (st == SQ_OK) {
            st = sq_ids_push(out, MARK, err);
        }
        s = at + strlen(mark);
    }
    return st;
}

sq_status sq_prompt_too_long(const sq_frontend *f, int64_t tokens, sq_error *err) {
    sq_fail(err, SQ_ELIMIT,
            "the prompt is longer than the model's positions; got %lld tokens, wanted at "
            "most %lld",
            (long long)tokens, (long long)f->config->max_positions);
    sq_hint(err, "shorten the text, use fewer or smaller pictures (--image-max-tokens)");
    return SQ_ELIMIT;
}

static sq_status append_ids(sq_ids *ids, int32_t id, int64_t count, sq_error *err) {
    if (ids->len + (size_t)count > ids->cap) {
        size_t cap =
            2 * ids->cap > ids->len + (size_t)count ? 2 * ids->cap : ids->len + (size_t)count + 64;
        void *p = ids->data;
        sq_status st =
            sq_grow(&p, ids->len * sizeof *ids->data, cap, sizeof *ids->data, "tokens", err);
        if (st != SQ_OK) {
            return st;
        }
        ids->data = p;
        ids->cap = cap;
    }
    for (int64_t i = 0; i < count; i++) {
        ids->data[ids->len++] = id;
    }
    return SQ_OK;
}

sq_status sq_prompt_append(sq_prompt *p, int32_t id, sq_error *err) {
    sq_status st = sq_ids_push(&p->ids, id, err);
    return st == SQ_OK ? sq_positions_text(&p->positions, 1, err) : st;
}

/* Index of the next picture of this kind at or after `from`; n when there is none. */
static size_t next_of(const sq_media_list *l, int is_video, size_t from) {
    while (from < l->n && l->items[from].is_video != is_video) {
        from++;
    }
    return from;
}

static sq_status expand(sq_prompt *out, const sq_frontend *f, const sq_ids *raw,
                        const sq_media_list *l, const char *base, sq_error *err) {
    size_t at[2] = {next_of(l, 0, 0), next_of(l, 1, 0)};
    int32_t pad[2] = {token_of(f, 0), token_of(f, 1)};
    sq_status st = SQ_OK;
    for (size_t i = 0; i < raw->len; i++) {
        int32_t id = raw->data[i];
        int kind = id == pad[1] ? 1 : 0;
        if (l->n == 0 || id != pad[kind] || at[kind] >= l->n) {
            SQ_TRY(append_ids(&out->ids, id, 1, err));
            SQ_TRY(sq_positions_text(&out->positions, 1, err));
            continue;
        }
        sq_slot *slot = &out->slots[out->n_slots++];
        SQ_TRY(sq_media_load(l, at[kind], f, base, slot, err));
        at[kind] = next_of(l, kind, at[kind] + 1);
        slot->start = (int64_t)out->ids.len;
        SQ_TRY(append_ids(&out->ids, id, slot->count, err));
        SQ_TRY(sq_positions_vision(&out->positions, f->config, &slot->pixels, err));
        if (f->config->media_newline) {
            size_t before = out->ids.len;
            SQ_TRY(sq_tokenizer_encode(f->tokenizer, "\n", 1, 0, 0, &out->ids, err));
            SQ_TRY(sq_positions_text(&out->positions, (int64_t)(out->ids.len - before), err));
        }
    }
    if (out->n_slots != l->n) {
        return sq_fail(
            err, SQ_EARG,
            "the chat template has no placeholder for every picture; got %zu, wanted %zu",
            out->n_slots, l->n);
    }
    if ((int64_t)out->ids.len > f->config->max_positions) {
        return sq_prompt_too_long(f, (int64_t)out->ids.len, err);
    }
    return SQ_OK;
fail:
    return st;
}

sq_status sq_prompt_messages(sq_prompt *out, const sq_frontend *f, const json_t *messages,
                             const char *base_dir, int add_generation_prompt, sq_error *err) {
    sq_rendering how = {.add_generation_prompt = add_generation_prompt};
    return sq_prompt_render(out, f, messages, base_dir, &how, err);
}

sq_status sq_prompt_render(sq_prompt *out, const sq_frontend *f, const json_t *messages,
                           const char *base_dir, const sq_rendering *how, sq_error *err) {
    *out = (sq_prompt){0};
    sq_media_list l = {0};
    sq_ids raw = {0};
    sq_buf text = {0};
    const char *base = base_dir == NULL ? "." : base_dir;
    sq_status st;
    SQ_TRY(sq_media_collect(&l, f, messages, base, err));
    if (l.n > 0 && f->config->tower == NULL) {
        st = sq_fail(err, SQ_EARG, "'%s' is a text model; it takes no images or videos", f->dir);
        goto fail;
    }
    SQ_TRY(render(f, l.messages == NULL ? messages : l.messages, how, &text, err));
    SQ_TRY(encode(f, &text, l.n > 0, how->post, &raw, err));
    SQ_TRY(sq_media_check(&l, f, base, (int64_t)raw.len, err));
    if (l.n > 0) {
        out->slots = sq_alloc(l.n, sizeof *out->slots, "pictures", err);
        if (out->slots == NULL) {
            st = SQ_ENOMEM;
            goto fail;
        }
    }
    SQ_TRY(expand(out, f, &raw, &l, base, err));
    out->text = text.data;
    text.data = NULL;
fail:
    sq_free(raw.data);
    sq_media_free(&l);
    sq_buf_free(&text);
    if (st != SQ_OK) {
        sq_prompt_free(out);
    }
    return st;
}

sq_status sq_prompt_text(sq_prompt *out, const sq_frontend *f, const char *text, size_t len,
                         sq_error *err) {
    *out = (sq_prompt){0};
    sq_status st;
    SQ_TRY(sq_tokenizer_encode(f->tokenizer, text, len, 0, 1, &out->ids, err));
    SQ_TRY(sq_positions_text(&out->positions, (int64_t)out->ids.len, err));
    if ((int64_t)out->ids.len > f->config->max_positions) {
        st = sq_prompt_too_long(f, (int64_t)out->ids.len, err);
        goto fail;
    }
    return SQ_OK;
fail:
    sq_prompt_free(out);
    return st;
}

sq_status sq_prompt_tokens(sq_prompt *out, const sq_frontend *f, const int32_t *ids, size_t n,
                           sq_error *err) {
    *out = (sq_prompt){0};
    sq_status st = SQ_OK;
    if ((int64_t)n > f->config->max_positions) {
        return sq_prompt_too_long(f, (int64_t)n, err);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= f->config->dims[SQ_D_VOCAB]) {
            st = sq_fail(err, SQ_EARG, "token %zu is out of range; got %d, wanted 0..%lld", i,
                         (int)ids[i], (long long)f->config->dims[SQ_D_VOCAB] - 1);
            goto fail;
        }
        SQ_TRY(append_ids(&out->ids, ids[i], 1, err));
    }
    SQ_TRY(sq_positions_text(&out->positions, (int64_t)n, err));
    return SQ_OK;
fail:
    sq_prompt_free(out);
    return st;
}
