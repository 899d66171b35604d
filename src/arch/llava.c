/* LLaVA-1.5 and LLaVA-NeXT (transformers models/llava, llava_next) and VILA-1.5 / NVILA
 * (NVlabs/VILA): a CLIP or SigLIP tower (models/clip, siglip), a projector, and a language model of
 * another family. */
#include "arch/families.h"

/* Tower block taps: 0 q/k/v, 1 out, 2 fc1, 3 fc2. */
static const sq_linear_row linears[] = {
    {SQ_V_Q, "self_attn.q_proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 0},
    {SQ_V_K, "self_attn.k_proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 0},
    {SQ_V_V, "self_attn.v_proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 0},
    {SQ_V_PROJ, "self_attn.out_proj", SQ_D_V_WIDTH, SQ_D_V_WIDTH, 1, 1},
    {SQ_V_UP, "mlp.fc1", SQ_D_V_INTER, SQ_D_V_WIDTH, 1, 2},
    {SQ_V_DOWN, "mlp.fc2", SQ_D_V_WIDTH, SQ_D_V_INTER, 1, 3},
};
static const sq_norm_row norms[] = {{"layer_norm1", SQ_D_V_WIDTH, 0},
                                    {"layer_norm2", SQ_D_V_WIDTH, 2}};
static const sq_fold_row folds[] = {{0, 0, -1, 0}, {1, -1, SQ_V_V, 0}, {2, 1, -1, 0}};

#define VIT                                                                                        \
    .kind = SQ_TOWER_VIT, .norm = SQ_NORM_LAYER, .depth_key = "num_hidden_layers",                 \
    .width_key = "hidden_size", .heads_key = "num_attention_heads",                                \
    .inter_key = "intermediate_size", .patch_embed = "vision_tower.embeddings.patch_embedding",    \
    .positions = "vision_tower.embeddings.position_embedding",                                     \
    .layer_prefix = "vision_tower.encoder.layers.%d.",                                             \
    .block = {linears, 6, norms, 2, folds, 3, 4}

static const sq_tower clip = {
    VIT,
    .model_type = "clip_vision_model",
    .act = SQ_ACT_QUICK_GELU,
    .eps = 1e-5,
    .class_embed = "vision_tower.embeddings.class_embedding",
    .pre_norm = "vision_tower.pre_layrnorm", /* the published spelling */
};
static const sq_tower siglip = {
    VIT, .model_type = "siglip_vision_model", .act = SQ_ACT_GELU_TANH, .eps = 1e-6, .patch_bias = 1,
};
static const sq_tower *const towers[] = {&clip, &siglip, NULL};

/* ---- projectors ---- */

static const sq_linear_row llava_linears[] = {
    {SQ_M_FC1, "linear_1", SQ_D_V_OUT, SQ_D_V_MERGED, -1, 0},
    {SQ_M_FC2, "linear_2", SQ_D_V_OUT, SQ_D_V_OUT, -1, 1},
};
static const sq_projector llava_projector = {
    .prefix = "multi_modal_projector.", .rows = {llava_linears, 2, NULL, 0, NULL, 0, 2}, .side = 1};
static const sq_projector *const llava_projectors[] = {&llava_projector, NULL};

/* VILA's modules are numbered; the blocks without parameters count too. */
static const sq_linear_row down2_linears[] = {
    {SQ_M_FC1, "layers.2", SQ_D_V_OUT, SQ_D_V_MERGED, 1, 0},
    {SQ_M_FC2, "layers.4", SQ_D_V_OUT, SQ_D_V_OUT, 1, 1},
};
static const sq_norm_row down2_norms[] = {{"layers.1", SQ_D_V_MERGED, 0}};
static const sq_linear_row down3_linears[] = {
    {SQ_M_FC1, "layers.2", SQ_D_V_MID, SQ_D_V_MERGED, 1, 0},
    {SQ_M_FC2, "layers.5", SQ_D_V_OUT, SQ_D_V_MID, 1, 1},
    {SQ_M_FC3, "layers.7", SQ_D_V_OUT, SQ_D_V_OUT, 1, 2},
};
static const sq_norm_row down3_norms[] = {{"layers.1", SQ_D_V_MERGED, 0},
                                          {"layers.4", SQ_D_V_MID, 1}};
static const sq_linear_row mlp2_linears[] = {
    {SQ_M_FC1, "layers.0", SQ_D_V_OUT, SQ_D_V_MERGED, 1, 0},
    {SQ_M_FC2, "layers.2", SQ_D_V_OUT, SQ_D_V_OUT, 1, 1},
};
static const sq_linear_row linear_linears[] = {
    {SQ_M_FC1, "layers", SQ_D_V_OUT, SQ_D_V_MERGED, 1, 0}};

#define DOWN2                                                                                      \
    .prefix = "mm_projector.", .rows = {down2_linears, 2, down2_norms, 1, NULL, 0, 2}, .side = 2
static const sq_projector down2 = {.name = "mlp_downsample", DOWN2};
static const sq_projector down2_fix = {.name = "mlp_downsample_2x2_fix", DOWN2};
static const sq_projector down3 = {.name = "mlp_downsample_3x3_fix",
                                   .prefix = "mm_projector.",
                                   .rows = {down3_linears, 3, down3_norms, 2, NULL, 0, 3},
                                   .side = 3,
                                   .mid_per_cell = 3};
static const sq_projector mlp2 = {.name = "mlp2x_gelu",
                                  .prefix = "mm_projector.",
                                  .rows = {mlp2_linears, 2, NULL, 0, NULL, 0, 2},
                                  .side = 1};
static const sq_projector linear = {.name = "linear",
                                    .prefix = "mm_projector.",
                                    .rows = {linear_linears, 1, NULL, 0, NULL, 0, 1},
                                    .side = 1};
static const sq_projector *const vila_projectors[] = {&down2, &down2_fix, &down3,
                                                      &mlp2,  &linear,    NULL};

/* ---- families ---- */

static const char *const keep[] = {"re:.*lm_head", "re:.*vision_tower.*",
                                   "re:.*multi_modal_projector.*", "re:.*mm_projector.*", NULL};
/* Layers behind the one that is read, and what only contrastive training needs. */
static const char *const superfluous[] = {"vision_tower.encoder.layers.",
                                          "vision_tower.post_layernorm.", "vision_tower.head.",
                                          "vision_tower.embeddings.position_ids", NULL};

static const char *const llava_names[][2] = {{"vision_tower.", "vision_tower.vision_model."},
                                             {"model.", "language_model.model."},
                                             {"lm_head.", "language_model.lm_head."},
                                             {NULL, NULL}};
static const char *const vila_names[][2] = {{"vision_tower.", "vision_tower.vision_model."},
                                            {"model.", "llm.model."},
                                            {"lm_head.", "llm.lm_head."},
                                            {NULL, NULL}};

#define COMMON .towers = towers, .image_token = "<image>", .keep = keep, .superfluous = superfluous
#define NESTED .published = llava_names, .text_key = "text_config", .vision_key = "vision_config"

const sq_arch sq_arch_llava = {
    .model_type = "llava",
    .title = "LLaVA",
    COMMON,
    NESTED,
    .projectors = llava_projectors,
    .view = SQ_VIEW_CROP,
    .builtin_template = "llava",
};

const sq_arch sq_arch_llava_next = {
    .model_type = "llava_next",
    .title = "LLaVA-NeXT",
    COMMON,
    NESTED,
    .projectors = llava_projectors,
    .view = SQ_VIEW_ANYRES,
    .newline = "image_newline",
    .builtin_template = "llava",
};

const sq_arch sq_arch_vila = {
    .model_type = "llava_llama",
    .title = "VILA",
    COMMON,
    .published = vila_names,
    .text_key = "llm_cfg",
    .vision_key = "vision_tower_cfg",
    .projectors = vila_projectors,
    .view = SQ_VIEW_SQUASH,
    .builtin_template = "vicuna",
};
