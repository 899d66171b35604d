/* The running activations of all calibration samples: [tokens][hidden] each, in memory, or in an
 * unlinked file when a memory limit asks for it. */
#ifndef SQ_QUANT_HIDDEN_H
#define SQ_QUANT_HIDDEN_H

#include "quant/samples.h"
#include "quant/stats.h"
#include "squint/progress.h"

typedef struct sq_hidden {
    const sq_net *net;
    sq_work *work;
    size_t n;
    int64_t *tokens;         /* [n] */
    float **rows;            /* [n], into `data` */
    sq_positions *positions; /* [n], copies */
    float *data;
    size_t bytes;
    int mapped;
} sq_hidden;

/* Embeds every sample, pictures through the tower. Prompts' pixels are freed on the way. Above
 * max_ram bytes (0: never) the rows live in a file in `dir`. */
sq_status sq_hidden_open(sq_hidden *h, const sq_net *net, const sq_frontend *f, sq_samples *samples,
                         size_t max_ram, const char *dir, const sq_progress *progress,
                         sq_error *err);
/* Every sample through one layer as the net holds it; the sink (nullable) sees the linears' inputs.
 * look: the rows stay what they were, only the sink learns of it. */
sq_status sq_hidden_layer(sq_hidden *h, int layer, const sq_tap_sink *sink, int look,
                          sq_error *err);
void sq_hidden_close(sq_hidden *h);

#endif
