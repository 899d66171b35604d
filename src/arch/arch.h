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
/* A tower with rotary positions and a merger of cells, or one with learned positions (CLIP,
 * SigLIP). */
typedef enum sq_tower_kind { SQ_TOWER_QWEN, SQ_TOWER_VIT } sq_tower_kind;
/* How a picture becomes what the tower sees, and its features tokens. */
typedef enum sq_view_kind {
    SQ_VIEW_QWEN,   /* any size, in multiples of patch * merge */
    SQ_VIEW_CROP,   /* shortest edge, centre crop: one tile */
    SQ_VIEW_ANYRES, /* the whole, then tiles of the best fitting grid; a newline after each row */
    SQ_VIEW_SQUASH  /* one tile, aspect ignored */
} sq_view_kind;

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
    SQ_D_V_MID,      /* projector's inner width, where it is neither of the others */
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
    SQ_V_Q,    /* q, k, v apart instead of SQ_V_QKV */
    SQ_V_K,
    SQ_V_V,
    SQ_V_COUNT,
    SQ_M_FC1 = 0,
    SQ_M_FC2,
    SQ_M_FC3,
    SQ_M_COUNT
} sq_linear_role;

/* Which part of the model a linear belongs to: schemes are chosen by part. */
typedef enum sq_part {
    SQ_PART_TEXT,
    SQ_PART_VISION,
    SQ_PART_MERGER,
    SQ_PART_HEAD,
    SQ_PART_EMBED
} sq_part;

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

/* A vision tower. Keys are those of vision_config. */
typedef struct sq_tower {
    const char *model_type; /* of vision_config, where a family takes several towers */
    sq_tower_kind kind;
    sq_norm_kind norm;
    sq_act_kind act;
    double eps;
    int gated;   /* gate/up/down MLP */
    int windows; /* window attention by config */
    double default_tokens_per_second;
    const char *depth_key, *width_key, *heads_key;
    const char *inter_key;   /* NULL: width * mlp_ratio */
    const char *patch_embed; /* "visual.patch_embed.proj" */
    int patch_bias;
    const char *class_embed, *positions, *pre_norm; /* NULL where there is none */
    const char *layer_prefix;                       /* "visual.blocks.%d." */
    sq_block_rows block;
} sq_tower;

/* From features to the text width: linears in the order of the rows, GELU between them, a norm
 * before the linear whose tap it names. side x side cells are joined first. */
typedef struct sq_projector {
    const char *name;   /* mm_projector_type, where a family takes several */
    const char *prefix; /* "visual.merger." */
    sq_block_rows rows;
    int side;         /* 0: spatial_merge_size of the config */
    int mid_per_cell; /* SQ_D_V_MID = this * feature width */
} sq_projector;

/* A family. Names are the canonical (published) ones; `rename` maps what a file may say to them. */
typedef struct sq_arch {
    const char *model_type; /* "qwen2_5_vl" */
    const char *title;      /* "Qwen2.5-VL" */
    /* text; absent (embed NULL) where text_config names another family */
    sq_rope_kind rope;
    sq_act_kind act;
    int qkv_bias; /* 1: q, k, v have biases; -1: attention_bias of the config */
    double default_rope_theta;
    const char *embed;        /* "model.embed_tokens" */
    const char *layer_prefix; /* "model.layers.%d." */
    const char *final_norm;   /* "model.norm" */
    const char *head;         /* "lm_head" */
    sq_block_rows text;
    const char
        *text_defaults; /* JSON: what the family's class takes where a nested config is silent */
    /* vision; towers is NULL for a text model */
    const sq_tower *const *towers;         /* NULL at the end; one, or chosen by model_type */
    const sq_projector *const *projectors; /* NULL at the end; one, or chosen by name */
    sq_view_kind view;
    sq_video_step video_step;
    const char *text_key, *vision_key; /* of the nested configs */
    const char *const (*published)[2]; /* prefixes: canonical, published; NULL at the end */
    const char *newline;               /* vector after each row of tiles, or NULL */
    const char *image_token, *video_token, *vision_start, *vision_end;
    const char *builtin_template;   /* by name, when the checkpoint has none */
    const char *raw_template;       /* contents alone, pictures as the family marks them */
    const char *const *keep;        /* regexes of modules that stay in high precision by default */
    const char *const *superfluous; /* prefixes of tensors that a file may have and nobody needs */
} sq_arch;

/* The family of a config's model_type; NULL when unknown. */
const sq_arch *sq_arch_find(const char *model_type);
/* The name under which the family's checkpoints are published. Writes at most `cap` bytes with NUL.
 */
void sq_arch_published(const sq_arch *a, const char *canonical, char *out, size_t cap);

/* A built-in chat template's Jinja by its name: chatml, qwen-vl, llama-2, llama-3, vicuna, llava,
 * mistral, raw, raw-qwen-vl; NULL when there is none. */
const char *sq_arch_template(const char *name);
size_t sq_arch_count(void);
const sq_arch *sq_arch_at(size_t i);

/* Maps a tensor name found in a file to the canonical name, as HF's conversion mapping does: strips
 * trainers' prefixes ("module.", "base_model.model."), "model.visual." -> "visual.",
 * "model.language_model." and "language_model." -> "model.". Writes at most `cap` bytes with NUL;
 * returns 0 when it does not fit. */
int sq_arch_canonical(const sq_arch *a, const char *file_name, char *out, size_t cap);

#endif
