/* Statistics of one distinct linear input: mean |x|, max |x|, X'X and some of its rows. Every
 * method is a function of weights and these.
 *
 * In X'X and in every error made from it a row counts by sq_stat_row_weight: the few tokens that
 * attention sinks on have inputs hundreds of times as long as all others and would rule the sum,
 * though what they become hardly matters. */
#ifndef SQ_QUANT_STATS_H
#define SQ_QUANT_STATS_H

#include "model/model.h"

enum { SQ_STAT_SAMPLE = 128 }; /* rows kept at most, evenly spaced */

typedef struct sq_stat {
    int64_t k, rows;
    double *sum_abs; /* [k] */
    float *max_abs;  /* [k] */
    float *xx;       /* [k][k], of rows times the root of their weight */
    float *sample;   /* [SQ_STAT_SAMPLE][k], the first sample_rows of them used */
    int64_t sample_rows;
    float *block; /* scratch of sq_stat_add: rows times the root of their weight */
} sq_stat;

sq_status sq_stat_open(sq_stat *s, int64_t k, sq_error *err);
void sq_stat_close(sq_stat *s);
sq_status sq_stat_add(sq_stat *s, const float *x, int64_t ldx, int64_t rows, sq_error *err);
/* No rows come any more: frees the scratch. */
void sq_stat_complete(sq_stat *s);
/* 1 / rms(x); 0 of a row of zeros. */
float sq_stat_row_weight(const float *x, int64_t k);

/* trace(d X'X d') over rows of d[m][k]; tmp [m][k]. */
double sq_stat_loss(const sq_stat *s, const float *d, int64_t m, float *tmp);

/* The statistics of taps [first, first + n); a sink for the forward pass. */
typedef struct sq_stat_set {
    int first, n;
    sq_stat *stats;
} sq_stat_set;
sq_status sq_stat_set_sink(void *user, int tap, const float *x, int64_t ldx, int64_t rows,
                           int64_t k, sq_error *err);

/* What a file of statistics holds of a tap: tensors NAME.suffix, NAME the tap's first linear. */
enum { SQ_STAT_PARTS = 5 };
typedef struct sq_stat_part {
    const char *suffix;
    sq_dtype type;
    int rank;
    int64_t shape[2];
    void *data; /* of s; NULL while s is closed */
    size_t bytes;
} sq_stat_part;
void sq_stat_parts(sq_stat *s, int64_t k, sq_stat_part out[SQ_STAT_PARTS]);

sq_status sq_stat_load(sq_stat *s, const sq_checkpoint *file, const char *name, int64_t k,
                       sq_error *err);

#endif
