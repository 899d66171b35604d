/* A checkpoint's dimensions, read from config.json by its family's tables. */
#ifndef SQ_MODEL_CONFIG_H
#define SQ_MODEL_CONFIG_H

#include <jansson.h>

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"

typedef enum sq_rope_scaling { SQ_ROPE_PLAIN, SQ_ROPE_LINEAR, SQ_ROPE_LLAMA3 } sq_rope_scaling;

enum { SQ_MAX_EOS = 16 };

typedef struct sq_config {
    const sq_arch *arch;
    int64_t dims[SQ_D_COUNT]; /* by symbol */
    /* text */
    int64_t layers, heads, kv_heads, head_dim, max_positions;
    float rms_eps;
    int tied, attention_bias, mlp_bias;
    double rope_theta;
    sq_rope_scaling rope_scaling;
    double rope_factor, rope_low, rope_high, rope_original;
    int64_t mrope[3]; /* sections in pairs; they sum to head_dim / 2 */
    /* vision; zero when the model has none */
    int64_t v_layers, v_heads, v_head_dim, patch, temporal_patch, merge, channels, window;
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
void sq_config_free(sq_config *c);

#endif
