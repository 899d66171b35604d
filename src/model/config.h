/* A checkpoint's dimensions, read from config.json by its family's tables. */
#ifndef SQ_MODEL_CONFIG_H
#define SQ_MODEL_CONFIG_H

#include <jansson.h>

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "model/kv.h"

typedef enum sq_rope_scaling { SQ_ROPE_PLAIN, SQ_ROPE_LINEAR, SQ_ROPE_LLAMA3 } sq_rope_scaling;

enum { SQ_MAX_EOS = 16, SQ_MAX_SELECT = 8, SQ_MAX_SCALES = 4 };

typedef struct sq_config {
    const sq_arch *arch;
    const sq_arch *text;           /* whose decoder it is: arch, or the family of text_config */
    const sq_tower *tower;         /* NULL: a text model */
    const sq_projector *projector; /* NULL: a text model */
    int64_t dims[SQ_D_COUNT];      /* by symbol */
    /* text */
    int64_t layers, heads, kv_heads, head_dim, max_positions;
    float rms_eps;
    sq_kv_type kv_type; /* of sequences to come: no part of the checkpoint */
    int tied, attention_bias, mlp_bias;
    double rope_theta;
    sq_rope_scaling rope_scaling;
    double rope_factor, rope_low, rope_high, rope_original;
    int64_t mrope[3]; /* sections in pairs; they sum to head_dim / 2 */
    /* vision; zero when the model has none */
    int64_t v_layers, v_heads, v_head_dim, patch, temporal_patch, merge, channels, window;
    int64_t tile;                  /* pixels a side of what a tower of fixed size sees */
    int64_t select[SQ_MAX_SELECT]; /* after how many layers features are taken, ascending */
    int n_select;
    int64_t scales[SQ_MAX_SCALES]; /* tiles a side of each level (NVILA's dynamic_s2): 1, 2, 3 */
    int n_scales;                  /* 1: no levels */
    int media_newline;             /* a line break follows each picture's tokens (NVILA) */
    int projector_bias;
    int drop_first;   /* a tile's first token is no feature (CLIP's class) */
    int column_major; /* tokens of a tile run down the columns (VILA-1.5) */
    sq_act_kind v_act;
    sq_act_kind projector_act;
    float v_eps;
    double tokens_per_second;
    uint8_t *v_full; /* [v_layers] 1: full attention */
    /* special tokens, -1 when absent */
    int32_t image_token, video_token, vision_start, vision_end, bos, pad;
    int32_t eos[SQ_MAX_EOS]; /* of config.json and generation_config.json */
    int n_eos;
    const char *dtype;  /* "bfloat16", …: what the config says, "" when silent */
    json_t *json;       /* the whole config.json, owned */
    json_t *generation; /* the whole generation_config.json or NULL, owned */
} sq_config;

/* Reads dir/config.json (flat or nested) and generation_config.json. Every dimension is checked for
 * range and consistency (heads divide, GQA divides, sections sum) before anything is derived from
 * it. */
sq_status sq_config_load(sq_config *out, const char *dir, sq_error *err);
/* The same from an object alone, which it takes; `where` names it in errors. */
sq_status sq_config_parse(sq_config *out, json_t *json, const char *where, sq_error *err);
void sq_config_free(sq_config *c);

/* Calls `each` for every tensor of the configuration under its canonical name, shapes as in files.
 */
typedef sq_status (*sq_tensor_fn)(void *user, const char *name, sq_part part, int rank,
                                  const int64_t *shape, sq_error *err);
sq_status sq_config_tensors(const sq_config *c, sq_tensor_fn each, void *user, sq_error *err);
/* Whether a linear of this part has a bias. */
int sq_config_bias(const sq_config *c, const sq_linear_row *row, sq_part part);
/* "model.layers.%d." with the number. */
enum { SQ_LAYER_PREFIX = 128 };
void sq_layer_prefix(char out[SQ_LAYER_PREFIX], const char *pattern, int layer);

/* The vision half, when the text half is read; `vision` is its nested object. Internal to
 * config*.c. */
sq_status sq_config_vision(sq_config *c, const json_t *vision, const json_t *projector,
                           const char *path, sq_error *err);
/* Of a tower of fixed size: patches a side, rows of the tower, tokens that a tile becomes. */
static inline int64_t sq_config_tile_side(const sq_config *c) { return c->tile / c->patch; }
static inline int64_t sq_config_tile_rows(const sq_config *c) {
    int64_t side = sq_config_tile_side(c);
    return side * side + (c->tower->class_embed != NULL);
}
static inline int64_t sq_config_tile_tokens(const sq_config *c) {
    int64_t side = sq_ceil_div(sq_config_tile_side(c), c->merge);
    return c->merge > 1 ? side * side : sq_config_tile_rows(c) - c->drop_first;
}

#endif
