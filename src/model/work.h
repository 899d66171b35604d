/* The scratch space of one sequence's passes: buffers that grow between steps, never inside one. */
#ifndef SQ_MODEL_WORK_H
#define SQ_MODEL_WORK_H

#include "model/model.h"

enum {
    SQ_CHUNK = 512,    /* token rows a text pass works on at once */
    SQ_V_CHUNK = 1024, /* patch rows of a vision linear at once */
    SQ_Q_TILE = 64     /* query rows of an attention tile */
};

typedef struct sq_scratch {
    float *data;
    size_t cap;
} sq_scratch;

struct sq_work {
    const sq_net *net;
    sq_scratch x, qkv, att, gate, up, scores; /* activations; scores: attention's own space */
    sq_scratch cos, sin, logits;
    sq_scratch team;  /* each thread's own of a step */
    int64_t share[2]; /* rows, and the floats that a share of any linear's product takes then */
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

/* One head of a tower: query rows q[rows][hd] against keys and values [total][hd], all of stride
 * ld; out[rows][hd] of stride ldo. scores: rows * total floats. In f32. */
typedef struct sq_attn_tile {
    const float *q, *k, *v;
    int64_t ld, rows, hd, total;
    float *out;
    int64_t ldo;
    float *scores, scale;
} sq_attn_tile;
void sq_attend(const sq_attn_tile *t);
/* All rows of one head against each other in products of bf16 (where the CPU has them: the table's
 * tile_bf16), softmax in f32: q, k and v [rows][hd] of stride ld, hd even; out[rows][hd] of stride
 * ldo. words: sq_attend_words(rows, hd). */
typedef struct sq_attn_bf16 {
    const float *q, *k, *v;
    int64_t ld, rows, hd, ldo;
    float *out, scale;
    uint32_t *words;
} sq_attn_bf16;
int64_t sq_attend_words(int64_t rows, int64_t hd);
void sq_attend_bf16(const sq_attn_bf16 *a);
/* Token rows at positions [at, at + rows) of the KV cache, which holds their keys and values
 * already: each sees what comes before it, and itself. qkv: rows of stride ld that begin with the
 * query heads, not rotated; cos and sin [rows][head_dim / 2]; out[rows][heads * head_dim].
 *
 * Products are of what the cache holds, summed in f32: f32 and f16 in f32, bf16 in bf16 (queries
 * and weights rounded to it, with any kernels), int8 in integers (queries and weights with 16
 * bits). With `bf16` many rows over an f32 or f16 cache are multiplied in bf16, too, where the CPU
 * does. Without it a row's result does not depend on how many there are, nor on the threads. */
typedef struct sq_cached {
    const sq_kv *kv;
    int64_t layer, heads, at, rows;
    const float *qkv;
    int64_t ld;
    const float *cos, *sin;
    int bf16;
    float *out;
} sq_cached;
/* Floats of space for rows of a sequence of so many tokens, these included. */
int64_t sq_cached_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t rows,
                         int64_t tokens);
void sq_attend_cached(const sq_cached *a, float *space);
/* The same of one row by a team: each thread does its share; when all have, each joins its part. */
void sq_attend_share(const sq_cached *a, float *space, int part, int parts);
void sq_attend_join(const sq_cached *a, float *space, int part, int parts);

/* Rows of one or several timelines: of each so many, one timeline's behind the other's. */
typedef struct sq_lines {
    sq_kv *const *kv;
    int64_t n, rows, after; /* `after` tokens behind those that count in the caches */
    int64_t skip;           /* of one timeline's rows: the first, of which keys and values are all
                               that is wanted */
    int64_t layer;          /* of the caches */
    const float *cos, *sin; /* of all rows */
} sq_lines;
/* Rotates a head's keys (which 0) in place and stores them, or its values (1), as token `at`: x is
 * the row of qkv. */
void sq_store_head(const sq_net *n, sq_kv *kv, int64_t layer, int which, int64_t head, float *qkv,
                   const float *cos, const float *sin, int64_t at);
/* The products of the first linears of l that take their inputs in one way; how many. */
int sq_alike_linears(const sq_linear *const *l, int count, float *const *y, const int64_t *ldy,
                     sq_product *p);
/* A linear that does not round its inputs to 8 bits keeps all but the last digits of f32's. */
sq_rounding sq_rounding_of(const sq_linear *l);
/* All layers over one token of at most SQ_SHARE_ROWS timelines, by one team of threads: h
 * [n][hidden] in place. The scratch for activations is reserved. */
sq_status sq_team_layers(const sq_net *n, sq_work *w, const sq_lines *t, int64_t keys, float *h,
                         sq_error *err);

#endif
