/* The running activations of all calibration samples: [tokens][hidden] each, and before that the
 * rows of their pictures; in memory, or in an unlinked file when a memory limit asks for it. */
#ifndef SQ_QUANT_HIDDEN_H
#define SQ_QUANT_HIDDEN_H

#include "quant/samples.h"
#include "quant/stage.h"
#include "quant/stats.h"
#include "squint/progress.h"

/* A picture that goes through the tower block by block. */
typedef struct sq_picture {
    size_t sample;
    int64_t start;   /* its first token there */
    sq_pixels shape; /* without patches */
    float *state;    /* sq_vision_state_floats, into `data` */
} sq_picture;

typedef struct sq_hidden {
    const sq_net *net;
    sq_work *work;
    sq_picture *pictures;
    size_t n_pictures; /* 0: the tokens of pictures are there from the start */
    size_t n;
    int64_t *tokens;         /* [n] */
    float **rows;            /* [n], into `data` */
    sq_positions *positions; /* [n], copies */
    float *data;
    size_t bytes;
    int mapped;
} sq_hidden;

typedef struct sq_hidden_options {
    const sq_frontend *front; /* of the samples */
    int vision;     /* pictures wait before the tower, and sq_hidden_stage takes them through */
    size_t max_ram; /* near that many bytes (0: never) the rows live in a file in `dir` */
    const char *dir;
} sq_hidden_options;

/* Embeds every sample, one with its pixels at a time; pictures go through the tower once. Prompts
 * are freed on the way. */
sq_status sq_hidden_open(sq_hidden *h, const sq_net *net, sq_samples *samples,
                         const sq_hidden_options *o, const sq_progress *progress, sq_error *err);
/* Everything through one stage as the net holds it; the sink (nullable) sees the linears' inputs.
 * look: the rows stay what they were, only the sink learns of it. Stages come in order. */
sq_status sq_hidden_stage(sq_hidden *h, const sq_stage *stage, const sq_tap_sink *sink, int look,
                          sq_error *err);
void sq_hidden_close(sq_hidden *h);

#endif
