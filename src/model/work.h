/* The scratch space of one sequence's passes: buffers that grow between steps, never inside one. */
#ifndef SQ_MODEL_WORK_H
#define SQ_MODEL_WORK_H

#include "model/model.h"

enum {
    SQ_CHUNK = 256,    /* token rows a text pass works on at once */
    SQ_V_CHUNK = 1024, /* patch rows of a vision linear at once */
    SQ_Q_TILE = 64     /* query rows of an attention tile */
};

typedef struct sq_scratch {
    float *data;
    size_t cap;
} sq_scratch;

struct sq_work {
    const sq_net *net;
    sq_scratch x, qkv, att, gate, up, scores; /* activations; scores is one tile a thread */
    sq_scratch kv_rows;                       /* a block of the cache as numbers, by thread */
    sq_scratch cos, sin, logits;
    sq_scratch vx, vy, vqkv, vatt, vcos, vsin, vwords; /* vision */
};

/* Number of the calling OpenMP thread, 0..sq_threads()-1. */
int sq_thread(void);

/* Shows the input of the linears that share l's tap to the sink. */
sq_status sq_enter_linears(const sq_linear *l, const sq_tap_sink *sink, const float *x, int64_t ldx,
                           int64_t rows, int64_t k, sq_error *err);
/* y[i] = x W^T + b of linears that share their input, at most SQ_PRODUCTS; x is rounded to 8 bits,
 * row by row, where a linear's scheme says so. */
void sq_linears_rows(const sq_linear *const *l, int count, const float *x, int64_t ldx,
                     int64_t rows, float *const *y, const int64_t *ldy);
void sq_linear_rows(const sq_linear *l, const float *x, int64_t ldx, int64_t rows, float *y,
                    int64_t ldy);

/* At least n floats; content is not kept. */
sq_status sq_scratch_need(sq_scratch *s, size_t n, const char *what, sq_error *err);

/* One attention tile: rows q[rows][hd] (stride ldq) against `total` keys; the caller gives keys and
 * values as blocks. Row i sees keys [0, seen0 + i * seen_step). out[rows][hd] (stride ldo). scores:
 * rows * total floats. */
typedef struct sq_attn_tile {
    const float *q;
    int64_t ldq, rows, hd, total;
    int64_t seen0, seen_step;
    int by_key; /* few rows that see the same keys: each key is read once */
    float *out;
    int64_t ldo;
    float *scores;
    float scale;
} sq_attn_tile;
/* All rows of one head against each other in products of bf16 (the table's tile_bf16), softmax in
 * f32: q, k and v [rows][hd] of stride ld, hd even; out[rows][hd] of stride ldo. scores: SQ_Q_TILE
 * * rows floats; words: sq_attend_words(rows, hd). */
typedef struct sq_attn_bf16 {
    const float *q, *k, *v;
    int64_t ld, rows, hd, ldo;
    float *out, *scores, scale;
    uint32_t *words;
} sq_attn_bf16;
int64_t sq_attend_words(int64_t rows, int64_t hd);
void sq_attend_bf16(const sq_attn_bf16 *a);
/* Keys (which = 0) or values (1) of block b, *n rows of stride *ld; NULL ends. */
typedef const float *(*sq_kv_block_fn)(const void *ctx, int64_t b, int which, int64_t *n,
                                       int64_t *ld);
void sq_attend(const sq_attn_tile *t, sq_kv_block_fn blocks, const void *ctx);

#endif
