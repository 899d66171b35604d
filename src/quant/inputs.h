/* What rounding the inputs to 8 bits, row by row, costs: measured on the rows that the statistics
 * keep as a sample. */
#ifndef SQ_QUANT_INPUTS_H
#define SQ_QUANT_INPUTS_H

#include "quant/stats.h"

/* e[sample_rows][k] = rounded(x / scale) * scale - x over the sample, times the root of the row's
 * weight; scale[k] nullable. */
void sq_inputs_error(const sq_stat *s, const float *scale, int symmetric, float *e);
/* Sum of squares of e W' over every step-th of n output rows of w[n][k], as a mean over the
 * sampled rows and scaled up to all n. tmp [SQ_STAT_SAMPLE][ceil(n / step)]. */
double sq_inputs_loss(const sq_stat *s, const float *e, const float *w, int64_t n, int64_t step,
                      float *tmp);

#endif
