/* Qwen2-VL and Qwen2.5-VL (transformers models/qwen2_vl, models/qwen2_5_vl); VLM-R1 is the latter.
 */
#include "arch/families.h"

static const sq_linear_row text_linears[] = SQ_DECODER_LINEARS(1);
static const sq_norm_row text_norms[] = SQ_DECODER_NORMS;
static const sq_fold_row text_folds[] = SQ_DECODER_FOLDS;

/* Vision block taps: 0 qkv, 1 proj, 2 first MLP linears, 3 last MLP linear. */
static const sq_linear_row mlp_linears[] = {
    {SQ_V_QKV, "attn.qkv", SQ_D_V_QKV, SQ_D_V_WIDTH, 1, 0},
    {SQ_V_PROJ, "attn.proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 1},
    {SQ_V_UP, "mlp.fc1", SQ_D_V_INTER, SQ_D_V_WIDTH, 1, 2},
    {SQ_V_DOWN, "mlp.fc2", SQ_D_V_WIDTH, SQ_D_V_INTER, 1, 3},
};
static const sq_linear_row gated_linears[] = {
    {SQ_V_QKV, "attn.qkv", SQ_D_V_QKV, SQ_D_V_WIDTH, 1, 0},
    {SQ_V_PROJ, "attn.proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 1},
    {SQ_V_GATE, "mlp.gate_proj", SQ_D_V_INTER, SQ_D_V_WIDTH, 1, 2},
    {SQ_V_UP, "mlp.up_proj", SQ_D_V_INTER, SQ_D_V_WIDTH, 1, 2},
    {SQ_V_DOWN, "mlp.down_proj", SQ_D_V_WIDTH, SQ_D_V_INTER, 1, 3},
};
static const sq_norm_row vision_norms[] = {{"norm1", SQ_D_V_WIDTH, 0}, {"norm2", SQ_D_V_WIDTH, 2}};
static const sq_fold_row mlp_folds[] = {{0, 0, -1, 0}, {2, 1, -1, 0}};
static const sq_fold_row gated_folds[] = {{0, 0, -1, 0}, {2, 1, -1, 0}, {3, -1, SQ_V_UP, 0}};

static const sq_linear_row merger_linears[] = {
    {SQ_M_FC1, "mlp.0", SQ_D_V_MERGED, SQ_D_V_MERGED, 1, 0},
    {SQ_M_FC2, "mlp.2", SQ_D_V_OUT, SQ_D_V_MERGED, 1, 1},
};
static const sq_norm_row merger_norms[] = {{"ln_q", SQ_D_V_WIDTH, -1}};
static const char *const keep[] = {"lm_head", "re:.*visual\\..*", NULL};

#define TOWER                                                                                      \
    .kind = SQ_TOWER_QWEN, .eps = 1e-6, .depth_key = "depth", .heads_key = "num_heads",            \
    .patch_embed = "visual.patch_embed.proj", .layer_prefix = "visual.blocks.%d."

static const sq_tower qwen2_tower = {
    TOWER,
    .norm = SQ_NORM_LAYER,
    .act = SQ_ACT_QUICK_GELU,
    .width_key = "embed_dim",
    .block = {mlp_linears, 4, vision_norms, 2, mlp_folds, 2, 4},
};
static const sq_tower qwen2_5_tower = {
    TOWER,
    .norm = SQ_NORM_RMS,
    .act = SQ_ACT_SILU,
    .gated = 1,
    .windows = 1,
    .default_tokens_per_second = 4.0,
    .width_key = "hidden_size",
    .inter_key = "intermediate_size",
    .block = {gated_linears, 5, vision_norms, 2, gated_folds, 3, 4},
};
static const sq_tower *const qwen2_towers[] = {&qwen2_tower, NULL};
static const sq_tower *const qwen2_5_towers[] = {&qwen2_5_tower, NULL};
static const sq_projector merger = {.prefix = "visual.merger.",
                                    .rows = {merger_linears, 2, merger_norms, 1, NULL, 0, 2}};
static const sq_projector *const mergers[] = {&merger, NULL};

#define COMMON                                                                                     \
    .rope = SQ_ROPE_MROPE, .act = SQ_ACT_SILU, .qkv_bias = 1, .default_rope_theta = 1000000.0,     \
    .embed = "model.embed_tokens", .layer_prefix = "model.layers.%d.", .final_norm = "model.norm", \
    .head = "lm_head", .text = {text_linears, 7, text_norms, 2, text_folds, 4, 4},                 \
    .projectors = mergers, .view = SQ_VIEW_QWEN, .text_key = "text_config",                        \
    .vision_key = "vision_config", .image_token = "<|image_pad|>", .video_token = "<|video_pad|>", \
    .vision_start = "<|vision_start|>", .vision_end = "<|vision_end|>",                            \
    .builtin_template = "qwen-vl", .raw_template = "raw-qwen-vl", .keep = keep

const sq_arch sq_arch_qwen2_vl = {
    .model_type = "qwen2_vl",
    .title = "Qwen2-VL",
    COMMON,
    .towers = qwen2_towers,
    .video_step = SQ_VIDEO_STEP_ONE,
};

const sq_arch sq_arch_qwen2_5_vl = {
    .model_type = "qwen2_5_vl",
    .title = "Qwen2.5-VL",
    COMMON,
    .towers = qwen2_5_towers,
    .video_step = SQ_VIDEO_STEP_SECONDS,
};
