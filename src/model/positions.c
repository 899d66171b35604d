/* M-RoPE positions as transformers' get_rope_index gives them (models/qwen2_vl and
 * qwen2_5_vl, 5.23). */
#include <math.h>
#include <string.h>

#include "model/model.h"

static sq_status reserve(sq_positions *pos, int64_t more, sq_error *err) {
    int64_t want = pos->n + more;
    if (want <= pos->cap) {
        return SQ_OK;
    }
    int64_t cap = want > 2 * pos->cap ? want : 2 * pos->cap;
    for (int r = 0; r < 3; r++) {
        void *p = pos->p[r];
        sq_status st = sq_grow(&p, (size_t)pos->n * sizeof(int32_t), (size_t)cap, sizeof(int32_t),
                               "positions", err);
        if (st != SQ_OK) {
            return st;
        }
        pos->p[r] = p;
    }
    pos->cap = cap;
    return SQ_OK;
}

sq_status sq_positions_text(sq_positions *pos, int64_t count, sq_error *err) {
    sq_status st = reserve(pos, count, err);
    if (st != SQ_OK) {
        return st;
    }
    for (int64_t i = 0; i < count; i++) {
        for (int r = 0; r < 3; r++) {
            pos->p[r][pos->n + i] = (int32_t)(pos->next + i);
        }
    }
    pos->n += count;
    pos->next += count;
    return SQ_OK;
}

sq_status sq_positions_copy(sq_positions *pos, const sq_positions *other, int64_t from,
                            int64_t count, sq_error *err) {
    sq_status st = reserve(pos, count, err);
    for (int r = 0; st == SQ_OK && r < 3; r++) {
        memcpy(pos->p[r] + pos->n, other->p[r] + from, (size_t)count * sizeof(int32_t));
    }
    if (st == SQ_OK) {
        pos->n += count;
        pos->next = from + count == other->n ? other->next : other->p[0][from + count];
    }
    return st;
}

sq_status sq_positions_vision(sq_positions *pos, const sq_config *c, const sq_pixels *px,
                              sq_error *err) {
    if (c->text->rope != SQ_ROPE_MROPE) {
        return sq_positions_text(pos, px->tokens, err);
    }
    int64_t grid_t = px->grid_t, gh = px->grid_h / c->merge, gw = px->grid_w / c->merge;
    /* torch multiplies whole numbers by a python float in f32, then truncates. */
    float step = 1.0f;
    if (px->is_video && c->arch->video_step == SQ_VIDEO_STEP_SECONDS) {
        step = (float)(c->tokens_per_second * px->second_per_grid);
    }
    sq_status st = reserve(pos, grid_t * gh * gw, err);
    if (st != SQ_OK) {
        return st;
    }
    int64_t at = pos->n;
    for (int64_t t = 0; t < grid_t; t++) {
        for (int64_t y = 0; y < gh; y++) {
            for (int64_t x = 0; x < gw; x++, at++) {
                pos->p[0][at] = (int32_t)(pos->next + (int64_t)((float)t * step));
                pos->p[1][at] = (int32_t)(pos->next + y);
                pos->p[2][at] = (int32_t)(pos->next + x);
            }
        }
    }
    pos->n = at;
    pos->next += gh > gw ? gh : gw;
    return SQ_OK;
}

void sq_positions_truncate(sq_positions *pos, int64_t n) {
    if (n < pos->n) {
        pos->next = pos->p[0][n];
        pos->n = n;
    }
}

void sq_positions_free(sq_positions *pos) {
    for (int r = 0; r < 3; r++) {
        sq_free(pos->p[r]);
    }
    *pos = (sq_positions){0};
}
