/* The codes of a quantized linear as ggml's blocks (ggml-common.h), bit for bit. */
#ifndef SQ_FORMAT_GGUF_BLOCKS_H
#define SQ_FORMAT_GGUF_BLOCKS_H

#include "format/qlinear.h"

/* The smallest type of block that stands for exactly the same numbers. 4 bits: Q4_0 where every
 * zero point is 8, Q4_K where groups are whole multiples of 256, Q4_1 where every scale * zero is a
 * float16, else Q5_0, which holds code - zero. 8 bits: Q8_0. Scales are float16 in all of them.
 * What cannot be held is SQ_EUNSUPPORTED and names `what`; `lossy` rounds scales and minima to
 * float16 instead, 4-bit codes with zero points then become Q4_1. *rounded: how many of them were
 * (may be NULL). */
sq_status sq_gguf_block_type(const sq_qlinear *q, int lossy, const char *what, sq_dtype *out,
                             int64_t *rounded, sq_error *err);
/* Row r as blocks of that type: k / block of them. */
void sq_gguf_block_row(const sq_qlinear *q, sq_dtype type, int64_t r, uint8_t *out);
/* Numbers rounded to Q8_0 as ggml's own quantizer does; 32 divides n. */
void sq_gguf_round_q8_0(const float *x, int64_t n, uint8_t *out);

#endif
