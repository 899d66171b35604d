/* One tap: the linears that share an input are scaled (AWQ, SmoothQuant), their ranges found,
 * rounded (to nearest or by GPTQ) and compared with plain rounding by trace((W' - W) X'X (W' -
 * W)'), the squared error of their outputs over the calibration rows. */
#ifndef SQ_QUANT_TAP_H
#define SQ_QUANT_TAP_H

#include "quant/codes.h"
#include "quant/gptq.h"
#include "quant/stats.h"

enum { SQ_TAP_LINEARS = 4 };

/* The linears that share one input, as plain f32 matrices. */
typedef struct sq_tap_group {
    int n;
    int64_t k;
    const sq_linear *linears[SQ_TAP_LINEARS];
    float *w[SQ_TAP_LINEARS]; /* [n][k], owned by the caller */
    sq_grid grids[SQ_TAP_LINEARS];
    int scale; /* 1: search a scale for the input channels (AWQ) */
    int clip;  /* 1: search a clip */
    int mse;   /* 1: without data, ranges of the least squared weight error instead of whole ones */
    int gptq;  /* 1: round by GPTQ where that is better */
    sq_gptq_options gptq_options;
    int64_t share; /* query heads that read one v channel; 1 elsewhere */
    int64_t head_dim;
} sq_tap_group;

typedef struct sq_tap_result {
    float *scale;                   /* [k]; NULL: none */
    sq_codes codes[SQ_TAP_LINEARS]; /* of W * scale */
    double error[SQ_TAP_LINEARS]; /* mean squared output error a row, weighted (stats.h), of what is
                                     stored */
    double rtn_error[SQ_TAP_LINEARS];     /* of round to nearest without scale and clip */
    double signal[SQ_TAP_LINEARS];        /* mean squared output a row: what an error is held to */
    const char *method[SQ_TAP_LINEARS];   /* "rtn", "awq", "gptq", "awq+gptq": what it came to */
    const char *fallback[SQ_TAP_LINEARS]; /* why plain rounding was taken; NULL */
} sq_tap_result;

/* Searches and quantizes. may_scale: there is an op to fold into. stat may be NULL (round to
 * nearest). Never worse than round to nearest in any linear's error. */
sq_status sq_quantize_tap(const sq_tap_group *g, const sq_stat *stat, int may_scale,
                          sq_tap_result *out, sq_error *err);
void sq_tap_result_close(sq_tap_result *r);

#endif
