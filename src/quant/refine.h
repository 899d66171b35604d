/* What is left to gain after rounding: codes move one at a time, by the whole output error. */
#ifndef SQ_QUANT_REFINE_H
#define SQ_QUANT_REFINE_H

#include "quant/codes.h"
#include "quant/stats.h"

/* Coordinate descent (Behdin et al. 2023, QuantEase) on codes that stand for ws[n][k] = W * scale
 * (scale[k] nullable): one sweep over the columns, each code moving to the nearest value of the
 * best one that it could take, by d (X'X + damp * mean diagonal) d', d the row's error in W's own
 * channels. No step is uphill, to what the products' rounding leaves (bf16 where the CPU has it).
 */
sq_status sq_refine_codes(sq_codes *c, const float *ws, const float *scale, const sq_stat *stat,
                          double damp, sq_error *err);

#endif
