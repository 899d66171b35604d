/* Llama and SmolLM2 (transformers models/llama), and text-only Qwen2/2.5 (models/qwen2). */
#include "arch/families.h"

static const sq_linear_row llama_linears[] = SQ_DECODER_LINEARS(-1);
static const sq_linear_row qwen2_linears[] = SQ_DECODER_LINEARS(1);
static const sq_norm_row norms[] = SQ_DECODER_NORMS;
static const sq_fold_row folds[] = SQ_DECODER_FOLDS;
static const char *const keep[] = {"lm_head", NULL};

/* LlamaConfig's and MistralConfig's class defaults: the published LLaVA-1.5 relies on them. */
#define LLAMA_DEFAULTS                                                                             \
    "{\"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 11008, "                \
    "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"max_position_embeddings\": 2048}"
#define MISTRAL_DEFAULTS                                                                           \
    "{\"vocab_size\": 32000, \"hidden_size\": 4096, \"intermediate_size\": 14336, "                \
    "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "         \
    "\"max_position_embeddings\": 131072, \"sliding_window\": 4096}"

/* What the three have in common. */
#define DECODER(linears)                                                                           \
    .rope = SQ_ROPE_TEXT, .act = SQ_ACT_SILU, .default_rope_theta = 10000.0,                       \
    .embed = "model.embed_tokens", .layer_prefix = "model.layers.%d.", .final_norm = "model.norm", \
    .head = "lm_head", .text = {linears, 7, norms, 2, folds, 4, 4}, .keep = keep

const sq_arch sq_arch_llama = {
    .model_type = "llama",
    .title = "Llama",
    DECODER(llama_linears),
    .text_defaults = LLAMA_DEFAULTS,
};

/* Mistral (models/mistral), the language model of some LLaVA-NeXT checkpoints: Llama but for its
 * window. */
const sq_arch sq_arch_mistral = {
    .model_type = "mistral",
    .title = "Mistral",
    DECODER(llama_linears),
    .text_defaults = MISTRAL_DEFAULTS,
};

const sq_arch sq_arch_qwen2 = {
    .model_type = "qwen2",
    .title = "Qwen2",
    DECODER(qwen2_linears),
    .builtin_template = "chatml",
};
