/* The pictures and videos that messages name, for prompts. */
#ifndef SQ_MODEL_MEDIA_H
#define SQ_MODEL_MEDIA_H

#include "model/prompt.h"

typedef struct sq_media {
    const char *path; /* borrowed from the messages */
    int is_video;
    sq_image frame; /* of a video that the model takes as pictures; else empty */
} sq_media;

typedef struct sq_media_list {
    sq_media *items;
    size_t n, cap;
    json_t *messages; /* with frames in the place of videos, when that differs; else NULL */
} sq_media_list;      /* zeroed is valid */

/* The file that a content part of type `kind` ("image", "video") names; NULL for none. Borrowed. */
const char *sq_media_path(const json_t *part, const char *kind);
/* Checks the messages' form and lists their pictures in order. Where the model has no videos, each
 * becomes its frames. Paths are relative to base. */
sq_status sq_media_collect(sq_media_list *l, const sq_frontend *f, const json_t *messages,
                           const char *base, sq_error *err);
/* Sizes every picture from its header, so that a prompt that cannot fit is refused before any
 * decoding; `words` is the number of other tokens, one for each picture among them. */
sq_status sq_media_check(const sq_media_list *l, const sq_frontend *f, const char *base,
                         int64_t words, sq_error *err);
/* Decodes and pre-processes item i into the slot: pixels, count, hash. */
sq_status sq_media_load(const sq_media_list *l, size_t i, const sq_frontend *f, const char *base,
                        sq_slot *slot, sq_error *err);
void sq_media_free(sq_media_list *l);

/* SQ_ELIMIT with both numbers. */
sq_status sq_prompt_too_long(const sq_frontend *f, int64_t tokens, sq_error *err);

#endif
