/* A matrix of ggml's blocks as codes, the reverse of format/gguf_blocks. */
#ifndef SQ_QUANT_FROM_BLOCKS_H
#define SQ_QUANT_FROM_BLOCKS_H

#include "format/qlinear.h"

/* Codes as they are stored, scales and zero points of the same numbers: Q4_0, Q4_1 and Q4_K as 4
 * bits, Q5_0 as 4 where its codes fit, the others as 8. Neighbouring groups that agree in every row
 * become one, so that what was written in groups of 128 has them again. SQ_EUNSUPPORTED, which
 * names `what`, where an offset is no whole multiple of its scale. Free with sq_qlinear_free. */
sq_status sq_blocks_read(sq_qlinear *q, const sq_tensor *t, const char *what, sq_error *err);

#endif
