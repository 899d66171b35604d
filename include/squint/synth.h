/* Checkpoints of published shapes with random weights, to measure and plan without a download. */
#ifndef SQUINT_SYNTH_H
#define SQUINT_SYNTH_H

#include <stdint.h>

#include "squint/progress.h"
#include "squint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the shape ("qwen2-vl-2b", …) to a new folder that appears only when complete. layers > 0
 * limits the layers of text and tower. Weights depend on the seed alone. A folder with config.json
 * is a shape of its own: its other files (tokenizer, templates) are copied. Anything else is
 * SQ_EARG and lists the shapes that are known. */
SQ_API sq_status sq_synth(const char *shape, const char *out_dir, int layers, uint64_t seed,
                          const sq_progress *progress, sq_error *err);

#ifdef __cplusplus
}
#endif
#endif
