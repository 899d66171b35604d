/* Packed matrices as arrays that may lie in a file: model/packed keeps them beside the model. */
#ifndef SQ_KERNELS_PACKED_H
#define SQ_KERNELS_PACKED_H

#include "kernels/kernels.h"

/* Names the layout of internal.h, which all ISAs share; to be changed with it. */
extern const char sq_packed_layout[];

enum { SQ_WEIGHT_PARTS = 7 }; /* codes, scales, offsets, half, zeros, sums, place and order */
typedef struct sq_weight_part {
    const void *data; /* NULL: the matrix has none */
    size_t bytes;
} sq_weight_part;
void sq_weight_parts(const sq_weight *w, sq_weight_part out[SQ_WEIGHT_PARTS]);
/* The way back: kind, n, k, k_padded and group of w are set; it borrows the parts, which need
 * 8-byte alignment. Returns 0, w unusable, unless they are what such a matrix consists of. */
int sq_weight_borrow(sq_weight *w, const sq_weight_part parts[SQ_WEIGHT_PARTS]);

#endif
