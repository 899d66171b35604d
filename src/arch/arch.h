/* What a model family is, as tables: how config.json names its dimensions, which tensors it has
 * under which names, which linears share an input, where a smoothing scale folds. No arithmetic, no
 * I/O. A new family is one file here plus one row in arch.c. */
#ifndef SQ_ARCH_ARCH_H
#define SQ_ARCH_ARCH_H

#include <stddef.h>
#include <stdint.h>

/* Families differ only by these enumerators, which the forward pass implements. */
typedef enum sq_norm_kind { SQ_NORM_RMS, SQ_NORM_LAYER } sq_norm_kind;
typedef enum sq_act_kind {
    SQ_ACT_SILU,
    SQ_ACT_QUICK_GELU,
    SQ_ACT_GELU,
    SQ_ACT_GELU_TANH
} sq_act_kind;
typedef enum sq_rope_kind { SQ_ROPE_TEXT, SQ_ROPE_MROPE } sq_rope_kind;
/* Step of the temporal position between two temporal patches of a video. */
typedef enum sq_video_step { SQ_VIDEO_STEP_ONE, SQ_VIDEO_STEP_SECONDS } sq_video_step;
typedef enum sq_vision_kind { SQ_VISION_NONE, SQ_VISION_QWEN } sq_vision_kind;

/* Dimensions by symbol; tensor shapes below are written with them. */
typedef enum sq_dim {
    SQ_D_END,        /* ends a shape */
    SQ_D_VOCAB,      /* text vocabulary */
    SQ_D_HIDDEN,     /* text width */
    SQ_D_INTER,      /* text MLP width */
    SQ_D_Q,          /* heads * head_dim */
    SQ_D_KV,         /* kv_heads * head_dim */
    SQ_D_V_WIDTH,    /* vision width */
    SQ_D_V_INTER,    /* vision MLP width */
    SQ_D_V_QKV,      /* 3 * vision width */
    SQ_D_V_MERGED,   /* vision width * merge^2 */
    SQ_D_V_OUT,      /* merger's output: the text width */
    SQ_D_V_CHANNELS, /* image channels */
    SQ_D_V_TEMPORAL, /* temporal patch size */
    SQ_D_V_PATCH,    /* patch size */
    SQ_D_COUNT
} sq_dim;

/* Roles of linears (with optional bias). SQ_L_* index arrays of a layer. */
typedef enum sq_linear_role {
    SQ_L_Q,
    SQ_L_K,
    SQ_L_V,
    SQ_L_O,
    SQ_L_GATE,
    SQ_L_UP,
    SQ_L_DOWN,
    SQ_L_TEXT_COUNT,
    SQ_V_QKV = 0,
    SQ_V_PROJ,
    SQ_V_GATE, /* absent in an ungated MLP */
    SQ_V_UP,   /* fc1 in an ungated MLP */
    SQ_V_DOWN, /* fc2 */
    SQ_V_COUNT,
    SQ_M_FC1 = 0,
    SQ_M_FC2,
    SQ_M_COUNT
} sq_linear_role;

/* Which part of the model a linear belongs to: schemes are chosen by part. */
typedef enum sq_part { SQ_PART_TEXT, SQ_PART_VISION, SQ_PART_MERGER, SQ_PART_HEAD } sq_part;

/* A linear of a layer: its stem under the layer's prefix, symbolic shape [out][in], and its tap
 * (linears with one tap number share one input and so one calibration statistic). */
typedef struct sq_linear_row {
    int role;
    const char *stem; /* "self_attn.q_proj" */
    sq_dim out, in;
    int bias; /* 1: there is a bias; -1: by config (attention_bias, mlp_bias) */
    int tap;
} sq_linear_row;

/* A norm of a layer: its stem, width, and the tap that its output feeds. */
typedef struct sq_norm_row {
    const char *stem;
    sq_dim dim;
    int tap;
} sq_norm_row;

/* Where a smoothing scale on a tap's input channels folds into. */
typedef struct sq_fold_row {
    int tap;    /* inputs of the linears with this tap are divided by the scale */
    int norm;   /* index into norms, or -1 */
    int linear; /* role of the previous linear whose output rows are divided, or -1 */
    int per_kv; /* 1: the previous linear is v_proj under GQA: one scale a v channel, shared by the
                   query heads that read it */
} sq_fold_row;

typedef struct sq_block_rows {
    const sq_linear_row *linears;
    size_t n_linears;
    const sq_norm_row *norms; /* [0] before attention, [1] before the MLP */
    size_t n_norms;
    const sq_fold_row *folds;
    size_t n_folds;
    int n_taps;
} sq_block_rows;

/* A family. Names are the canonical (published) ones; `rename` maps what a file may say to them. */
typedef struct sq_arch {
    const char *model_type; /* "qwen2_5_vl" */
    const char *title;      /* "Qwen2.5-VL" */
    sq_rope_kind rope;
    sq_norm_kind vision_norm;
    sq_act_kind act;
    int qkv_bias; /* 1: q, k, v have biases; -1: attention_bias of the config */
    double default_rope_theta;
    const char *embed;        /* "model.embed_tokens" */
    const char *layer_prefix; /* "model.layers.%d." */
    const char *final_norm;   /* "model.norm" */
    const char *head;         /* "lm_head" */
    sq_block_rows text;
    sq_vision_kind vision;
    sq_video_step video_step;
    int vision_gated;   /* 1: gate/up/down MLP */
    int vision_windows; /* 1: window attention by config */
    sq_act_kind vision_act;
    double default_tokens_per_second;
    const char *v_width_key;    /* config key of the tower's width: embed_dim or hidden_size */
    const char *v_inter_key;    /* config key of the MLP width, or NULL: width * mlp_ratio */
    const char *v_patch_embed;  /* "visual.patch_embed.proj" */
    const char *v_layer_prefix; /* "visual.blocks.%d." */
    const char *v_merger_norm;  /* "visual.merger.ln_q" */
    sq_block_rows v_block;
    sq_block_rows v_merger; /* prefix "visual.merger." */
    const char *v_merger_prefix;
    const char *image_token, *video_token, *vision_start, *vision_end;
    const char *builtin_template; /* Jinja, when the checkpoint has none */
    const char *const *keep;      /* regexes of modules that stay in high precision by default */
} sq_arch;

/* The family of a config's model_type; NULL when unknown. */
const sq_arch *sq_arch_find(const char *model_type);
size_t sq_arch_count(void);
const sq_arch *sq_arch_at(size_t i);

/* Maps a tensor name found in a file to the canonical name, as HF's conversion mapping does: strips
 * trainers' prefixes ("module.", "base_model.model."), "model.visual." -> "visual.",
 * "model.language_model." and "language_model." -> "model.". Writes at most `cap` bytes with NUL;
 * returns 0 when it does not fit. */
int sq_arch_canonical(const sq_arch *a, const char *file_name, char *out, size_t cap);

#endif
