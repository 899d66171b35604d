/* Statistics of one distinct linear input: mean |x|, max |x|, X'X. Every method is a function of
 * weights and these; they are sums, so runs over different data can be added. */
#ifndef SQ_QUANT_STATS_H
#define SQ_QUANT_STATS_H

#include "model/model.h"

typedef struct sq_stat {
    int64_t k, rows;
    double *sum_abs; /* [k] */
    float *max_abs;  /* [k] */
    float *xx;       /* [k][k] */
} sq_stat;

sq_status sq_stat_open(sq_stat *s, int64_t k, sq_error *err);
void sq_stat_close(sq_stat *s);
void sq_stat_add(sq_stat *s, const float *x, int64_t ldx, int64_t rows);

/* trace(d X'X d') over rows of d[m][k]; tmp [m][k]. */
double sq_stat_loss(const sq_stat *s, const float *d, int64_t m, float *tmp);

/* The statistics of taps [first, first + n); a sink for the forward pass. */
typedef struct sq_stat_set {
    int first, n;
    sq_stat *stats;
} sq_stat_set;
sq_status sq_stat_set_sink(void *user, int tap, const float *x, int64_t ldx, int64_t rows,
                           int64_t k, sq_error *err);

/* A file with every tap: NAME.sum_abs (F64), .max_abs, .xx (F32), .rows (I64), NAME the tap's first
 * linear. */
sq_status sq_stat_load(sq_stat *s, const sq_checkpoint *file, const char *name, int64_t k,
                       sq_error *err);

#endif
