/* Llama and SmolLM2 (transformers models/llama), and text-only Qwen2/2.5 (models/qwen2). */
#include "arch/families.h"

static const sq_linear_row llama_linears[] = SQ_DECODER_LINEARS(-1);
static const sq_linear_row qwen2_linears[] = SQ_DECODER_LINEARS(1);
static const sq_norm_row norms[] = SQ_DECODER_NORMS;
static const sq_fold_row folds[] = SQ_DECODER_FOLDS;
static const char *const keep[] = {"lm_head", NULL};

#define CHATML                                                                                     \
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] "       \
    "}}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

const sq_arch sq_arch_llama = {
    .model_type = "llama",
    .title = "Llama",
    .rope = SQ_ROPE_TEXT,
    .act = SQ_ACT_SILU,
    .default_rope_theta = 10000.0,
    .embed = "model.embed_tokens",
    .layer_prefix = "model.layers.%d.",
    .final_norm = "model.norm",
    .head = "lm_head",
    .text = {llama_linears, 7, norms, 2, folds, 4, 4},
    .keep = keep,
};

const sq_arch sq_arch_qwen2 = {
    .model_type = "qwen2",
    .title = "Qwen2",
    .rope = SQ_ROPE_TEXT,
    .act = SQ_ACT_SILU,
    .default_rope_theta = 10000.0,
    .embed = "model.embed_tokens",
    .layer_prefix = "model.layers.%d.",
    .final_norm = "model.norm",
    .head = "lm_head",
    .text = {qwen2_linears, 7, norms, 2, folds, 4, 4},
    .builtin_template = CHATML,
    .keep = keep,
};
