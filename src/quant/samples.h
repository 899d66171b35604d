/* Data to calibrate or compare on: JSON lines of conversations or texts, as prompts. */
#ifndef SQ_QUANT_SAMPLES_H
#define SQ_QUANT_SAMPLES_H

#include "model/sequence.h"

typedef struct sq_sample {
    sq_prompt prompt;
    json_t *line; /* the whole line; NULL for a piece of plain text */
} sq_sample;

/* What is there of a conversation once it is read: its line; the prompt with the shapes of its
 * pictures, since the pixels of all samples together may not fit; the prompt with the pixels. */
typedef enum sq_samples_form { SQ_LOAD_LINES, SQ_LOAD_SHAPES, SQ_LOAD_PIXELS } sq_samples_form;

typedef struct sq_samples {
    sq_sample *items;
    size_t n;
    int64_t tokens, skipped;
    char *dir; /* of the file */
} sq_samples;

/* Reads at most max samples (0: all). Conversations stay whole, `{"text": …}` lines are joined by a
 * blank line and cut into pieces of `seq` tokens. With `questions`, only the part before the last
 * assistant turn is the prompt and the generation prompt is added. A bad line is SQ_EFORMAT with
 * its number; no sample at all is an error. */
sq_status sq_samples_read(sq_samples *out, const sq_frontend *f, const char *path, int64_t max,
                          int64_t seq, sq_samples_form load, sq_error *err);
/* Builds the prompt of a conversation, with the pixels of its pictures. */
sq_status sq_sample_load(sq_sample *s, const sq_frontend *f, const char *dir, int generation,
                         sq_error *err);
void sq_samples_close(sq_samples *s);

/* A few built-in texts as token prompts, for comparisons without data. */
sq_status sq_samples_builtin(sq_samples *out, const sq_frontend *f, sq_error *err);

#endif
