/* quantization_config of any of the packages: which layout, and what a module has. */
#ifndef SQ_FORMAT_QCONFIG_H
#define SQ_FORMAT_QCONFIG_H

#include <jansson.h>

#include "format/ct.h"
#include "format/layouts.h"

typedef struct sq_qconfig sq_qconfig;

/* By quant_method: compressed-tensors; awq (bits or w_bit, group_size or q_group_size, version or
 * format gemm|gemv, zero_point, modules_to_not_convert); gptq (bits, group_size, sym,
 * checkpoint_format gptq|gptq_v2, dynamic). desc_act says nothing that g_idx does not. */
sq_status sq_qconfig_open(sq_qconfig **out, const json_t *quantization_config, sq_error *err);
void sq_qconfig_close(sq_qconfig **q);
sq_layout sq_qconfig_layout(const sq_qconfig *q);
/* 1 and *out when the module is quantized, 0 when the config leaves it out: for compressed-tensors
 * as sq_ct_reader_scheme; for awq when an entry of modules_to_not_convert is part of the name
 * (AutoAWQ's, vLLM's and SGLang's rule); for gptq when the first pattern of `dynamic` that matches
 * begins with "-:". */
int sq_qconfig_scheme(const sq_qconfig *q, const char *module, sq_ct_scheme *out);

/* {"quant_method":"awq",…}; group_size 0: one group a row. skip: names left in high precision.
 * Owned by the caller. */
json_t *sq_awq_config(sq_layout layout, int group_size, char *const *skip, size_t n_skip);

/* A rule of GPTQ's `dynamic`. */
typedef struct sq_gptq_rule {
    char *pattern; /* as Python's re.match takes it */
    int skip;      /* the module is not quantized */
    sq_ct_scheme scheme;
} sq_gptq_rule;
/* {"quant_method":"gptq",…}, also what quantize_config.json holds. Owned by the caller. */
json_t *sq_gptq_config(sq_layout layout, const sq_ct_scheme *base, const sq_gptq_rule *rules,
                       size_t n_rules, double damp, const char *quantizer);

#endif
