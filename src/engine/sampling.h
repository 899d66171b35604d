/* Choosing the next token from logits: greedy, or temperature with top-k, top-p, min-p and a
 * repetition penalty in the order of transformers' logits processors. */
#ifndef SQ_ENGINE_SAMPLING_H
#define SQ_ENGINE_SAMPLING_H

#include <jansson.h>

#include "base/error.h"
#include "squint/squint.h"

typedef struct sq_sampler {
    sq_sampling options;
    uint64_t state;
    struct sq_candidate *candidates; /* [vocab] */
    float *scores;                   /* [vocab] */
    int64_t vocab;
} sq_sampler;

/* Checks the ranges (SQ_EARG) and allocates all that sampling needs. `dflt` is
 * generation_config.json or NULL. */
sq_status sq_sampler_open(sq_sampler *s, const sq_sampling *options, const json_t *dflt,
                          int64_t vocab, sq_error *err);
void sq_sampler_close(sq_sampler *s);
/* history: ids so far, for the repetition penalty. -1 when the logits are not numbers. */
int32_t sq_sampler_next(sq_sampler *s, const float *logits, const int32_t *history, size_t n);

#endif
