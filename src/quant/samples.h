/* Data to calibrate or compare on: JSON lines of conversations or texts, as prompts. */
#ifndef SQ_QUANT_SAMPLES_H
#define SQ_QUANT_SAMPLES_H

#include "model/sequence.h"

typedef struct sq_sample {
    sq_prompt prompt;
    json_t *line; /* the whole line; NULL for a piece of plain text */
} sq_sample;

typedef struct sq_samples {
    sq_sample *items;
    size_t n;
    int64_t tokens, picture_tokens; /* of prompts that are loaded */
    /* Samples that are not here: longer than the model's positions, or a tail of the text too short
     * to be a piece; and those beyond `max`. */
    int64_t dropped, unused;
    char *dir; /* of the file */
    const sq_frontend *front;
} sq_samples;

/* What is read of each line: itself; its prompt, pictures decoded; or its prompt, whose pictures
 * are decoded for their size and let go (sq_sample_load gets them again): memory does not grow with
 * their number. */
typedef enum sq_samples_kind { SQ_LOAD_LINES, SQ_LOAD_PROMPTS, SQ_LOAD_SIZES } sq_samples_kind;

/* Reads at most max samples (0: all). Conversations stay whole, `{"text": …}` lines are joined by a
 * blank line and cut into pieces of `seq` tokens, or of as many as the model has positions. A bad
 * line is SQ_EFORMAT with its number; no sample at all is an error. Of loaded prompts what is
 * longer than the model's positions is dropped; SQ_ELIMIT when nothing is left. */
sq_status sq_samples_read(sq_samples *out, const sq_frontend *f, const char *path, int64_t max,
                          int64_t seq, sq_samples_kind load, sq_error *err);
/* Builds the prompt of a sample anew, with its pictures. */
sq_status sq_sample_load(sq_sample *s, const sq_frontend *f, const char *dir, int generation,
                         sq_error *err);
void sq_samples_close(sq_samples *s);

/* A few built-in texts as token prompts, for comparisons without data. */
sq_status sq_samples_builtin(sq_samples *out, const sq_frontend *f, sq_error *err);

#endif
