/* A checkpoint bound to its architecture, and its forward passes. Immutable after opening: many
 * sequences may use one model. All arithmetic is f32 over the stored weights. */
#ifndef SQ_MODEL_MODEL_H
#define SQ_MODEL_MODEL_H

#include "format/ct.h"
#include "format/safetensors.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/kv.h"
#include "model/packed.h"
#include "vision/preprocess.h"

/* y = x W^T + b. `name` is the module's canonical name, `file_name` the stem in the file (without
 * ".weight"). */
typedef struct sq_linear {
    const sq_linear_row *row;
    const char *name, *file_name;
    sq_part part;
    int layer; /* in its stack; 0 for the merger */
    int tap;   /* global tap id: see sq_model_tap_name; -1 for the head */
    sq_weight weight;
    int quantized;
    sq_ct_scheme scheme;   /* when quantized */
    const sq_tensor *file; /* ".weight" of a dense linear */
    float *bias;           /* [n] f32 or NULL */
    int bf16;              /* dense: inputs are rounded to bf16 (sq_matmul_bf16) */
} sq_linear;

/* Whether it is of the tower or what follows it. */
static inline int sq_linear_vision(const sq_linear *l) {
    return l->part == SQ_PART_VISION || l->part == SQ_PART_MERGER;
}

typedef struct sq_norm {
    const char *name, *file_name;
    const sq_tensor *file;
    float *weight, *bias; /* f32 copies; bias may be NULL */
} sq_norm;

typedef struct sq_block {
    sq_linear linears[SQ_V_COUNT]; /* by role; weight.n == 0 when absent */
    sq_norm norms[2];
} sq_block;

typedef struct sq_net {
    sq_config config;
    sq_checkpoint *ckpt;
    unsigned char *in_block;  /* [tensors of ckpt] 1: of a block or the projector */
    unsigned char *bound;     /* [tensors of ckpt] 1: the model uses it */
    json_t *quantization;     /* borrowed from config.json; NULL for a plain checkpoint */
    sq_arena arena;           /* names and small tables */
    sq_linear embed, head;    /* [vocab][hidden]; head equals embed when tied */
    sq_linear_row outside[2]; /* their rows */
    sq_norm final_norm;
    sq_block *layers;   /* [config.layers] */
    sq_block *v_layers; /* [config.v_layers] */
    sq_linear patch_embed;
    sq_block merger; /* linears SQ_M_*, norms[0] */
    float *inv_freq; /* [head_dim / 2] */
    float *v_inv_freq;
    float *class_embed, *v_positions,
        *newline; /* of towers of fixed size; NULL where there is none */
    sq_norm pre_norm;
    sq_packed *packed; /* where packed linears were looked for first; NULL */
    int head_bits;     /* that the head was rounded to; 0 */
} sq_net;

typedef struct sq_net_options {
    int skip_weights_check; /* reserved, 0 */
} sq_net_options;

/* Opens a folder: config, tensors, names; binds every tensor of the architecture as a view. Every
 * missing, extra and mis-shaped tensor is reported in one error. compressed-tensors checkpoints are
 * packed into the kernels' layout. */
sq_status sq_net_open(sq_net **out, const char *dir, sq_error *err);
/* The same; linears that are kept packed beside the model (packed.h) are mapped. */
sq_status sq_net_open_packed(sq_net **out, const char *dir, sq_error *err);
/* Keeps what is packed now beside a model that sq_net_open_packed opened, unless all of it lies
 * there. *bytes: of what was written; 0: nothing had to be. */
sq_status sq_net_keep_packed(const sq_net *n, size_t *bytes, sq_error *err);
void sq_net_close(sq_net **n);
/* Gives back the pages of the files that have been read; they come again when they are needed. */
void sq_net_release(const sq_net *n);

/* From now on dense BF16 linears of the blocks round their inputs to bf16, as other engines do with
 * such a checkpoint: twice as fast where the CPU multiplies bf16 pairs, else without effect. At
 * first all is f32. */
void sq_net_use_bf16(sq_net *n);
/* Rounds a head that is stored dense to 8 or 4 bits in memory: decoding reads all of it for every
 * token. */
sq_status sq_net_round_head(sq_net *n, int bits, sq_error *err);

/* Calls f for every quantizable linear in order of execution: vision blocks, merger, text layers.
 */
typedef sq_status (*sq_linear_fn)(void *user, sq_linear *l, sq_error *err);
sq_status sq_net_each_linear(sq_net *n, sq_linear_fn f, void *user, sq_error *err);
/* And after them for what lies outside the blocks: the embeddings, and the head where it is not the
 * same. */
sq_status sq_net_every_linear(sq_net *n, sq_linear_fn f, void *user, sq_error *err);

/* Taps: each distinct linear input has a number 0..sq_net_taps-1. A tap callback sees the input
 * rows once a pass, before the linears that share it run. */
int sq_net_taps(const sq_net *n);
const char *sq_net_tap_name(const sq_net *n,
                            int tap); /* "model.layers.0.self_attn.q_proj": its first linear */
typedef struct sq_tap_sink {
    sq_status (*rows)(void *user, int tap, const float *x, int64_t ldx, int64_t rows, int64_t k,
                      sq_error *err);
    void *user;
    int taps_only; /* a decoder layer ends with its last tap: nobody wants what comes out of it */
} sq_tap_sink;

/* Positions of tokens: three rows (T, H, W), all equal for text. */
typedef struct sq_positions {
    int32_t *p[3];
    int64_t n, cap;
    int64_t next; /* position of the next text token: the rope state of the sequence */
} sq_positions;

/* A scratch space for one sequence's passes; grows between steps. */
typedef struct sq_work sq_work;
sq_status sq_work_open(sq_work **out, const sq_net *n, sq_error *err);
void sq_work_close(sq_work **w);

/* Vision tower and merger or projector on one picture or clip: out [px->tokens][hidden], in the
 * order of the placeholders. Memory is linear in the patches. Several images are several calls.
 * `sink` may be NULL. */
sq_status sq_vision_forward(const sq_net *n, sq_work *w, const sq_pixels *px, float *out,
                            const sq_tap_sink *sink, sq_error *err);

/* The same in steps, for calibration block by block: `state` holds sq_vision_state_floats between
 * them. Only sq_vision_embed reads px->patches; sq_vision_project uses the state up. */
size_t sq_vision_state_floats(const sq_config *c, const sq_pixels *px);
sq_status sq_vision_embed(const sq_net *n, sq_work *w, const sq_pixels *px, float *state,
                          sq_error *err);
sq_status sq_vision_layer(const sq_net *n, sq_work *w, const sq_pixels *px, int64_t layer,
                          float *state, const sq_tap_sink *sink, sq_error *err);
sq_status sq_vision_project(const sq_net *n, sq_work *w, const sq_pixels *px, float *state,
                            float *out, const sq_tap_sink *sink, sq_error *err);

/* Bytes that encoding this picture takes at its peak, patches and features included, known from its
 * shape alone (sq_pixels_plan_image). */
size_t sq_vision_peak(const sq_config *c, const sq_pixels *px);

/* Bytes beside weights and KV cache that a sequence of so many tokens takes at its peak. */
size_t sq_text_peak(const sq_config *c, int64_t context);
/* Of these, what the layers work in: all that a pass of calibration takes. */
size_t sq_text_work(const sq_config *c, int64_t context);
/* Bytes of the embeddings' pages that are in memory at once where they are dense and no head reads
 * them: of the rows of a chunk, each with what the system maps around it. */
size_t sq_embed_window(const sq_config *c, int64_t context, size_t bytes);

/* h[n][hidden] = embeddings of ids. */
void sq_embed(const sq_net *n, const int32_t *ids, int64_t count, float *h);

/* One decoder layer over `count` rows of h (in place), appended at kv position kv->tokens (not
 * advanced): room must be reserved. `kv_layer` is the index inside kv (0 for a one-layer cache used
 * in calibration). cos/sin come from sq_rope_rows. Processes in chunks of rows so that the scratch
 * is bounded. */
sq_status sq_text_layer(const sq_net *n, sq_work *w, int layer, sq_kv *kv, int64_t kv_layer,
                        const float *cos, const float *sin, float *h, int64_t count,
                        const sq_tap_sink *sink, sq_error *err);
/* cos and sin [count][head_dim / 2] for positions p[3][count]. */
void sq_rope_rows(const sq_net *n, const int32_t *const p[3], int64_t count, float *cos,
                  float *sin);
/* All layers over rows of h in place, then kv->tokens += count. Only the last `wanted` rows of h
 * are what leaves the last layer: of those before them, it computes keys and values alone. */
sq_status sq_text_forward(const sq_net *n, sq_work *w, sq_kv *kv, const int32_t *const p[3],
                          float *h, int64_t count, int64_t wanted, sq_error *err);
/* The next row of each of `count` timelines (at most SQ_CHUNK) in one pass over the weights:
 * h[count][hidden] in place, positions p[3][count]; then each kv[i]->tokens grows by one. A row
 * comes out as it does by itself. */
sq_status sq_text_step(const sq_net *n, sq_work *w, sq_kv *const *kv, int64_t count,
                       const int32_t *const p[3], float *h, sq_error *err);
/* logits [count][vocab] of rows of h (final norm and head). */
sq_status sq_logits(const sq_net *n, sq_work *w, const float *h, int64_t count, float *logits,
                    sq_error *err);

/* M-RoPE positions as transformers' get_rope_index gives them; appended to pos. Text: `count`
 * tokens. */
sq_status sq_positions_text(sq_positions *pos, int64_t count, sq_error *err);
/* An image or video; where the text has one axis alone, its tokens follow each other. */
sq_status sq_positions_vision(sq_positions *pos, const sq_config *c, const sq_pixels *px,
                              sq_error *err);
/* Appends tokens [from, from + count) of another list as they are. */
sq_status sq_positions_copy(sq_positions *pos, const sq_positions *other, int64_t from,
                            int64_t count, sq_error *err);
/* Forgets tokens from n on; the first forgotten one starts text or a picture. */
void sq_positions_truncate(sq_positions *pos, int64_t n);
void sq_positions_free(sq_positions *pos);

#endif
