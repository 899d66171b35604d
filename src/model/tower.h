/* Internal to the vision passes: rows of one picture on their way through the blocks. */
#ifndef SQ_MODEL_TOWER_H
#define SQ_MODEL_TOWER_H

#include "model/work.h"

typedef struct sq_tower_run {
    const sq_net *net;
    sq_work *w;
    const sq_tap_sink *sink;
    int64_t rows, width;
    float *x;                    /* [rows][width], through the blocks in place */
    float *feats;                /* [rows][n_select * width]: what x was after the selected blocks;
                                    NULL: the last one's alone is used (Qwen) */
    int rotary;                  /* w->vcos, w->vsin hold the rows' angles */
    int64_t *order;              /* Qwen: [rows / merge^2] natural unit of each position */
    int64_t *windows, n_windows; /* bounds of attention windows in rows: n_windows + 1 */
    int64_t *slots, n_slots;     /* bounds of what attends in a full block: temporal slots, tiles */
} sq_tower_run;

/* The scratch that the blocks need for t->rows rows. */
sq_status sq_tower_reserve(const sq_tower_run *t, sq_error *err);

sq_status sq_tower_tap(const sq_tower_run *t, const sq_linear *l, float *x, int64_t rows, int64_t k,
                       sq_error *err);
/* y rows of x normed, both [rows][n]. */
void sq_tower_norm(const sq_tower_run *t, float *y, const float *x, int64_t rows, int64_t n,
                   const sq_norm *norm, float eps);
void sq_activate(sq_act_kind act, float *x, int64_t n);

/* A kind of tower: the picture's layout from its shape alone, with the scratch for it; its patches
 * to t->x; what the blocks made of them to tokens. */
sq_status sq_qwen_lay_out(sq_tower_run *t, sq_arena *a, const sq_pixels *px, sq_error *err);
void sq_qwen_embed(const sq_tower_run *t, const sq_pixels *px);
sq_status sq_qwen_merge(const sq_tower_run *t, float *out, sq_error *err);

sq_status sq_vit_lay_out(sq_tower_run *t, sq_arena *a, const sq_pixels *px, sq_error *err);
void sq_vit_embed(const sq_tower_run *t, const sq_pixels *px);
sq_status sq_vit_project(const sq_tower_run *t, const sq_pixels *px, float *out, sq_error *err);

#endif
