/* Scales for input channels, folded into the op before: AWQ's (Lin et al. 2023; AutoAWQ's grid,
 * formats.md 2.2), or SmoothQuant's where the inputs are rounded too. */
#ifndef SQ_QUANT_AWQ_H
#define SQ_QUANT_AWQ_H

#include "quant/tap.h"

/* The scale[k] with the least loss on rounding to nearest, a sample of the output rows looked at.
 * The loss is trace(D X'X D'), D the rows' errors; with `gptq` (whose factor is that of X'X itself)
 * the sum of D^2 times the factor's squared diagonal, which is what remains when the other columns
 * make up for each error. *found = 0: none beats no scale. */
sq_status sq_search_scale(const sq_tap_group *g, const sq_stat *stat, const sq_gptq *gptq,
                          float *scale, int *found, sq_error *err);

#endif
