/* Models and sessions. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/file.h"
#include "engine/engine.h"
#include "format/safetensors.h"

struct sq_model {
    sq_engine *engine;
};

struct sq_session {
    sq_conversation *conversation;
    sq_model *model;
};

static sq_status open_model(sq_model **out, const char *path, const sq_media_options *media,
                            int packed, const sq_progress *progress, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(out, "out", err));
    *out = NULL;
    SQ_TRY(sq_need_arg(path, "path", err));
    *out = sq_alloc(1, sizeof **out, "a model", err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    st = packed ? sq_engine_open_packed(&(*out)->engine, path, media, progress, err)
                : sq_engine_open(&(*out)->engine, path, media, err);
    if (st != SQ_OK) {
        sq_model_close(out);
    }
fail:
    return st;
}

sq_status sq_model_open(sq_model **out, const char *path, const sq_media_options *media,
                        sq_error *err) {
    return open_model(out, path, media, 0, NULL, err);
}

sq_status sq_model_open_packed(sq_model **out, const char *path, const sq_media_options *media,
                               const sq_progress *progress, sq_error *err) {
    return open_model(out, path, media, 1, progress, err);
}

sq_status sq_model_keep_packed(sq_model *model, const sq_progress *progress, sq_error *err) {
    sq_status st = sq_need_arg(model, "model", err);
    if (st == SQ_OK) {
        sq_engine_keep_packed(model->engine, progress);
    }
    return st;
}

sq_status sq_model_set_kv_type(sq_model *model, const char *type, sq_error *err) {
    sq_kv_type t;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_kv_parse(type, &t, err));
    if (type != NULL) {
        model->engine->net->config.kv_type = t;
    }
fail:
    return st;
}

sq_status sq_model_set_compute(sq_model *model, const char *type, sq_error *err) {
    sq_status st = sq_need_arg(model, "model", err);
    return st == SQ_OK ? sq_engine_set_compute(model->engine, type, err) : st;
}

sq_status sq_model_set_head(sq_model *model, const char *scheme, sq_error *err) {
    sq_status st = sq_need_arg(model, "model", err);
    return st == SQ_OK ? sq_engine_set_head(model->engine, scheme, err) : st;
}

const char *sq_model_head(const sq_model *model) { return model->engine->head; }

void sq_model_close(sq_model **model) {
    if (model != NULL && *model != NULL) {
        sq_engine_close(&(*model)->engine);
        sq_free(*model);
        *model = NULL;
    }
}

int64_t sq_model_vocab(const sq_model *m) { return m->engine->net->config.dims[SQ_D_VOCAB]; }
int64_t sq_model_max_positions(const sq_model *m) { return m->engine->net->config.max_positions; }
double sq_model_load_seconds(const sq_model *m) { return m->engine->load_s; }

sq_status sq_session_open(sq_session **out, sq_model *model, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(out, "out", err));
    *out = NULL;
    SQ_TRY(sq_need_arg(model, "model", err));
    *out = sq_alloc(1, sizeof **out, "a session", err);
    if (*out == NULL) {
        return SQ_ENOMEM;
    }
    (*out)->model = model;
    st = sq_conversation_open(&(*out)->conversation, model->engine, err);
    if (st != SQ_OK) {
        sq_session_close(out);
    }
fail:
    return st;
}

void sq_session_close(sq_session **session) {
    if (session != NULL && *session != NULL) {
        sq_conversation_close(&(*session)->conversation);
        sq_free(*session);
        *session = NULL;
    }
}

sq_status sq_session_generate(sq_session *s, const sq_input *input, const sq_sampling *sampling,
                              int (*piece)(void *user, const char *text), void *user,
                              sq_result *result, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_need_arg(s, "session", err));
    SQ_TRY(sq_need_arg(input, "input", err));
    SQ_TRY(sq_need_arg(result, "result", err));
    return sq_conversation_generate(s->conversation, input, sampling, piece, user, result, err);
fail:
    return st;
}

typedef struct row_call {
    sq_status (*rows)(void *user, int64_t first, int64_t count, int64_t vocab, const float *logits,
                      const int32_t *ids, int64_t n_ids);
    void *user;
    const sq_prompt *prompt;
    int64_t vocab;
} row_call;

static sq_status pass_rows(void *user, int64_t first, int64_t rows, const float *logits,
                           sq_error *err) {
    const row_call *c = user;
    sq_status st = c->rows(c->user, first, rows, c->vocab, logits, c->prompt->ids.data,
                           (int64_t)c->prompt->ids.len);
    return st == SQ_OK ? st : sq_fail(err, st, "the caller stopped at row %lld", (long long)first);
}

sq_status sq_session_logits(sq_session *s, const sq_input *input,
                            sq_status (*rows)(void *user, int64_t first, int64_t count,
                                              int64_t vocab, const float *logits,
                                              const int32_t *ids, int64_t n_ids),
                            void *user, sq_error *err) {
    sq_prompt prompt = {0};
    sq_status st;
    SQ_TRY(sq_need_arg(s, "session", err));
    SQ_TRY(sq_need_arg(input, "input", err));
    SQ_TRY(sq_engine_prompt(s->model->engine, input, &prompt, err));
    row_call call = {rows, user, &prompt, sq_model_vocab(s->model)};
    st = sq_conversation_logits(s->conversation, &prompt, pass_rows, &call, err);
fail:
    sq_prompt_free(&prompt);
    return st;
}

typedef struct logits_file {
    sq_st_writer *writer;
    float *all;
    int64_t vocab;
} logits_file;

static sq_status keep_rows(void *user, int64_t first, int64_t rows, const float *logits,
                           sq_error *err) {
    logits_file *f = user;
    (void)err;
    memcpy(f->all + first * f->vocab, logits, (size_t)(rows * f->vocab) * sizeof *logits);
    return SQ_OK;
}

static json_t *logits_report(const sq_prompt *p, int64_t vocab) {
    json_t *r = json_pack("{s:I, s:I, s:[]}", "prompt_tokens", (json_int_t)p->ids.len, "vocab",
                          (json_int_t)vocab, "images");
    for (size_t i = 0; r != NULL && i < p->n_slots; i++) {
        const sq_pixels *x = &p->slots[i].pixels;
        json_array_append_new(json_object_get(r, "images"),
                              json_pack("{s:I, s:I, s:I, s:I, s:I}", "width", (json_int_t)x->width,
                                        "height", (json_int_t)x->height, "resized_width",
                                        (json_int_t)x->resized_width, "resized_height",
                                        (json_int_t)x->resized_height, "tokens",
                                        (json_int_t)x->tokens));
    }
    return r;
}

sq_status sq_logits_save(sq_session *s, const sq_input *input, const char *path, char **report,
                         sq_error *err) {
    sq_prompt prompt = {0};
    logits_file f = {0};
    sq_status st;
    SQ_TRY(sq_need_arg(s, "session", err));
    SQ_TRY(sq_need_arg(input, "input", err));
    SQ_TRY(sq_need_arg(path, "path", err));
    f.vocab = sq_model_vocab(s->model);
    SQ_TRY(sq_engine_prompt(s->model->engine, input, &prompt, err));
    f.all = sq_alloc_raw(prompt.ids.len, (size_t)f.vocab * sizeof *f.all, "logits", err);
    if (f.all == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    SQ_TRY(sq_conversation_logits(s->conversation, &prompt, keep_rows, &f, err));
    int64_t n = (int64_t)prompt.ids.len;
    const sq_tensor_spec specs[] = {{"input_ids", SQ_I32, 1, {n}},
                                    {"logits", SQ_F32, 2, {n, f.vocab}}};
    const void *data[] = {prompt.ids.data, f.all};
    SQ_TRY(sq_st_save(path, specs, data, 2, err));
    st = sq_report_text(logits_report(&prompt, f.vocab), report, SQ_OK, err);
fail:
    sq_free(f.all);
    sq_prompt_free(&prompt);
    return st;
}
