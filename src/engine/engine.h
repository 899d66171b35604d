/* A model that is ready to answer, and its conversations: re-use of the common prefix, sampling,
 * streaming. */
#ifndef SQ_ENGINE_ENGINE_H
#define SQ_ENGINE_ENGINE_H

#include "engine/sampling.h"
#include "model/sequence.h"
#include "squint/progress.h"

typedef struct sq_engine {
    sq_net *net;
    sq_frontend front;
    double load_s;
    const char *head; /* "w8a16" and such, where it was rounded at load; else NULL */
} sq_engine;
sq_status sq_engine_open(sq_engine **out, const char *path, const sq_media_options *media,
                         sq_error *err);
/* The same with what is kept packed beside the model. That a file there is not taken is said to the
 * log, and no error. */
sq_status sq_engine_open_packed(sq_engine **out, const char *path, const sq_media_options *media,
                                const sq_progress *progress, sq_error *err);
/* Keeps what is packed now beside a model opened so, after its head was set, unless all of it lies
 * there. What it wrote, or why it could not, is said to the log. */
void sq_engine_keep_packed(const sq_engine *e, const sq_progress *progress);
/* "f32" (also NULL) or "bf16": see sq_net_use_bf16. */
sq_status sq_engine_set_compute(sq_engine *e, const char *type, sq_error *err);
/* How the head is held: "keep" (as stored), "w8a16", "w4a16"; NULL: w8a16 where other linears are
 * quantized and the head is not. */
sq_status sq_engine_set_head(sq_engine *e, const char *scheme, sq_error *err);
void sq_engine_close(sq_engine **e);

/* Builds the prompt that an input means. */
sq_status sq_engine_prompt(const sq_engine *e, const sq_input *input, sq_prompt *out,
                           sq_error *err);

/* A slot that is in the cache. */
typedef struct sq_cached_slot {
    int64_t start, count;
    uint64_t hash;
} sq_cached_slot;

typedef struct sq_conversation {
    const sq_engine *engine;
    sq_seq seq;
    sq_cached_slot *slots;
    size_t n_slots;
    /* of the last answer; what sq_result points to */
    sq_ids answer;
    sq_buf text;
    sq_image_info *images;
} sq_conversation;
sq_status sq_conversation_open(sq_conversation **out, const sq_engine *e, sq_error *err);
void sq_conversation_close(sq_conversation **c);

sq_status sq_conversation_generate(sq_conversation *c, const sq_input *input,
                                   const sq_sampling *sampling,
                                   int (*piece)(void *user, const char *text), void *user,
                                   sq_result *result, sq_error *err);
/* Every position's logits; the cache is rebuilt from the start. */
sq_status sq_conversation_logits(sq_conversation *c, const sq_prompt *prompt, sq_logits_fn each,
                                 void *user, sq_error *err);

#endif
