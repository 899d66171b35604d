/* The families' tables, one file each; arch.c lists them. */
#ifndef SQ_ARCH_FAMILIES_H
#define SQ_ARCH_FAMILIES_H

#include "arch/arch.h"

extern const sq_arch sq_arch_llama;
extern const sq_arch sq_arch_qwen2;
extern const sq_arch sq_arch_qwen2_vl;
extern const sq_arch sq_arch_qwen2_5_vl;
extern const sq_arch sq_arch_mistral;
extern const sq_arch sq_arch_llava;
extern const sq_arch sq_arch_llava_next;
extern const sq_arch sq_arch_vila;

/* The decoder block that Llama and every Qwen share: taps 0 q/k/v, 1 o, 2 gate/up, 3 down. */
#define SQ_DECODER_LINEARS(QKV_BIAS)                                                               \
    {                                                                                              \
        {SQ_L_Q, "self_attn.q_proj", SQ_D_Q, SQ_D_HIDDEN, QKV_BIAS, 0},                            \
            {SQ_L_K, "self_attn.k_proj", SQ_D_KV, SQ_D_HIDDEN, QKV_BIAS, 0},                       \
            {SQ_L_V, "self_attn.v_proj", SQ_D_KV, SQ_D_HIDDEN, QKV_BIAS, 0},                       \
            {SQ_L_O, "self_attn.o_proj", SQ_D_HIDDEN, SQ_D_Q, QKV_BIAS < 0 ? -1 : 0, 1},           \
            {SQ_L_GATE, "mlp.gate_proj", SQ_D_INTER, SQ_D_HIDDEN, QKV_BIAS < 0 ? -1 : 0, 2},       \
            {SQ_L_UP, "mlp.up_proj", SQ_D_INTER, SQ_D_HIDDEN, QKV_BIAS < 0 ? -1 : 0, 2},           \
            {SQ_L_DOWN, "mlp.down_proj", SQ_D_HIDDEN, SQ_D_INTER, QKV_BIAS < 0 ? -1 : 0, 3},       \
    }

/* Where smoothing scales fold in that block (AutoAWQ's mappings; v -> o per v channel under GQA).
 */
#define SQ_DECODER_FOLDS                                                                           \
    {                                                                                              \
        {0, 0, -1, 0}, {1, -1, SQ_L_V, 1}, {2, 1, -1, 0}, { 3, -1, SQ_L_UP, 0 }                    \
    }
#define SQ_DECODER_NORMS                                                                           \
    {                                                                                              \
        {"input_layernorm", SQ_D_HIDDEN, 0}, { "post_attention_layernorm", SQ_D_HIDDEN, 2 }        \
    }

#endif
