#include "quant/inputs.h"

#include <math.h>

void sq_inputs_error(const sq_stat *s, const float *scale, int symmetric, float *e) {
    int64_t k = s->k;
    for (int64_t i = 0; i < s->sample_rows * k; i++) {
        e[i] = s->sample[i] / (scale == NULL ? 1.0f : scale[i % k]);
    }
    sq_fake_quantize_rows(e, k, s->sample_rows, k, symmetric);
    for (int64_t r = 0; r < s->sample_rows; r++) {
        const float *x = s->sample + r * k;
        float root = sqrtf(sq_stat_row_weight(x, k)), *to = e + r * k;
        for (int64_t c = 0; c < k; c++) {
            to[c] = root * (to[c] * (scale == NULL ? 1.0f : scale[c]) - x[c]);
        }
    }
}

double sq_inputs_loss(const sq_stat *s, const float *e, const float *w, int64_t n, int64_t step,
                      float *tmp) {
    int64_t cols = sq_ceil_div(n, step);
    double sum = 0;
    if (s->sample_rows == 0) {
        return 0;
    }
    sq_sgemm(1, s->sample_rows, cols, s->k, 1.0f, e, s->k, w, step * s->k, 0.0f, tmp, cols);
    for (int64_t i = 0; i < s->sample_rows * cols; i++) {
        sum += (double)tmp[i] * (double)tmp[i];
    }
    return sum / (double)s->sample_rows * (double)n / (double)cols;
}
