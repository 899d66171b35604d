#include "model/rope.h"

#include <math.h>

#include "model/model.h"

void sq_rope_inv_freq(float *inv, int64_t dim, double theta) {
    for (int64_t i = 0; i < dim / 2; i++) {
        float e = (float)(2 * i) / (float)dim;
        float p = (float)pow(theta, (double)e);
        inv[i] = 1.0f / p;
    }
}

void sq_rope_text_freq(float *inv, const sq_config *c) {
    sq_rope_inv_freq(inv, c->head_dim, c->rope_theta);
    if (c->rope_scaling == SQ_ROPE_PLAIN) {
        return;
    }
    float factor = (float)c->rope_factor;
    float low = (float)(c->rope_original / c->rope_low),
          high = (float)(c->rope_original / c->rope_high);
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        float wave = (float)(2 * M_PI) / inv[i];
        if (c->rope_scaling == SQ_ROPE_LINEAR || wave > low) {
            inv[i] /= factor;
        } else if (wave >= high) {
            float smooth = ((float)c->rope_original / wave - (float)c->rope_low) /
                           (float)(c->rope_high - c->rope_low);
            inv[i] = (1 - smooth) * inv[i] / factor + smooth * inv[i];
        }
    }
}

void sq_rope_rows(const sq_net *n, const int32_t *const p[3], int64_t count, float *cos_rows,
                  float *sin_rows) {
    const sq_config *c = &n->config;
    int64_t half = c->head_dim / 2, first = half, second = 0;
    if (c->text->rope == SQ_ROPE_MROPE) {
        first = c->mrope[0];
        second = c->mrope[1];
    }
#pragma omp parallel for schedule(static) if (count > 256)
    for (int64_t t = 0; t < count; t++) {
        for (int64_t i = 0; i < half; i++) {
            int row = i < first ? 0 : i < first + second ? 1 : 2;
            float angle = (float)p[row][t] * n->inv_freq[i];
            cos_rows[t * half + i] = cosf(angle);
            sin_rows[t * half + i] = sinf(angle);
        }
    }
}
