/* From chat messages to what a sequence is fed: token ids with image and video slots, pixels,
 * positions. One code path for run, chat, logits, eval, verify and calibration. */
#ifndef SQ_MODEL_PROMPT_H
#define SQ_MODEL_PROMPT_H

#include "model/model.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "vision/preprocess.h"

/* Everything that turns words and pictures into a prompt; immutable, opened once a checkpoint. */
typedef struct sq_frontend {
    sq_tokenizer *tokenizer;
    sq_template *tmpl;   /* the checkpoint's or the family's built-in one; NULL for a base model */
    sq_error tmpl_error; /* why the checkpoint's could not be read; told when it is wanted */
    sq_preproc preproc;
    const sq_config *config; /* borrowed */
    char *dir;
    const char *bos_text, *eos_text; /* for templates; "" when absent */
    sq_arena arena;
} sq_frontend;
sq_status sq_frontend_open(sq_frontend *out, const char *dir, const sq_config *config,
                           sq_error *err);
void sq_frontend_close(sq_frontend *f);

/* How the model's pictures are prepared: the folder's files, or the defaults of its classes. */
sq_status sq_config_preproc(sq_preproc *p, const sq_config *c, const char *dir, sq_error *err);

/* An image or video inside a prompt. */
typedef struct sq_slot {
    int64_t start, count; /* token range [start, start + count) */
    sq_pixels pixels;
    uint64_t hash; /* of the patches: equal pictures may share work */
} sq_slot;

typedef struct sq_prompt {
    sq_ids ids; /* with placeholders expanded */
    sq_slot *slots;
    size_t n_slots;
    sq_positions positions; /* [3][ids.len] */
    int64_t
        *segments; /* assistant spans [start, end) pairs, for calibration weights; may be NULL */
    size_t n_segments;
    char *text; /* the rendered template, before expansion */
} sq_prompt;    /* zeroed is valid */

/* Renders `messages` (the array of cli.md: content is a string, or parts
 * {"type":"text"|"image"|"video", …}) with the chat template, loads and pre-processes the pictures
 * (paths relative to base_dir), expands the placeholders, computes positions. The token count is
 * checked against config->max_positions before any pixel is decoded (SQ_ELIMIT with the numbers).
 */
sq_status sq_prompt_messages(sq_prompt *out, const sq_frontend *f, const json_t *messages,
                             const char *base_dir, int add_generation_prompt, sq_error *err);
/* How messages become text, where it is not the checkpoint's way. */
typedef struct sq_rendering {
    const sq_template *tmpl;   /* NULL: the checkpoint's */
    const json_t *variables;   /* an object of more template variables, such as tools; or NULL */
    int add_generation_prompt; /* the assistant's header at the end */
    int post;                  /* BOS as the tokenizer's post-processor says */
} sq_rendering;
sq_status sq_prompt_render(sq_prompt *out, const sq_frontend *f, const json_t *messages,
                           const char *base_dir, const sq_rendering *how, sq_error *err);
/* A template by name (sq_arch_template; "raw" as the family marks pictures; "builtin") or as Jinja
 * text. */
sq_status sq_prompt_template(sq_template **out, const sq_frontend *f, const char *name_or_text,
                             sq_error *err);
/* Plain text without template (BOS as the post-processor says). */
sq_status sq_prompt_text(sq_prompt *out, const sq_frontend *f, const char *text, size_t len,
                         sq_error *err);
sq_status sq_prompt_tokens(sq_prompt *out, const sq_frontend *f, const int32_t *ids, size_t n,
                           sq_error *err);
/* One generated token at the end. */
sq_status sq_prompt_append(sq_prompt *p, int32_t id, sq_error *err);
void sq_prompt_free(sq_prompt *p);

#endif
