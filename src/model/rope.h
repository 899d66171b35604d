/* Rotary frequencies and M-RoPE rows. */
#ifndef SQ_MODEL_ROPE_H
#define SQ_MODEL_ROPE_H

#include "model/config.h"

/* inv[dim / 2]: theta^(-2i / dim), rounded step by step as torch does in f32 (models.md 3.1). */
void sq_rope_inv_freq(float *inv, int64_t dim, double theta);
/* The text model's, with linear or llama3 scaling (transformers modeling_rope_utils.py). */
void sq_rope_text_freq(float *inv, const sq_config *c);

#endif
