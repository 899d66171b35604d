/* Which range of a group's weights its codes should cover. All weights must be finite. */
#ifndef SQ_QUANT_RANGES_H
#define SQ_QUANT_RANGES_H

#include "quant/codes.h"
#include "quant/stats.h"

/* back[k]: what one row of g->k weights becomes under the ranges of its groups (NULL: all of them).
 */
void sq_ranges_round_row(const sq_grid *g, const float *w, const sq_range *ranges, float *back);

/* ranges[n][groups] of w[n][k] with the least sum of h[k] (back - w)^2: both ends shrink together,
 * then each on its own. */
void sq_ranges_weighted(const sq_grid *g, const float *w, int64_t n, const float *h,
                        sq_range *ranges);

/* Moves the ends of ranges[n][groups], group after group in two sweeps, where that makes d X'X d'
 * of a row smaller, d = (back - w) / scale (scale[k] nullable). The errors of the other groups
 * count, so groups come to cancel each other's; no step is uphill. */
sq_status sq_ranges_joint(const sq_grid *g, const float *w, int64_t n, const float *scale,
                          const sq_stat *stat, sq_range *ranges, sq_error *err);

#endif
