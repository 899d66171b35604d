/* compressed-tensors `pack-quantized`: codes <-> words, and its quantization_config.
 * Follows compressed_tensors/compressors/pack_quantized (see docs/ARCHITECTURE.md). */
#ifndef SQ_FORMAT_CT_H
#define SQ_FORMAT_CT_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* words[n][ceil(k*bits/32)]: element k of a row at bit k*bits, unsigned code (signed value +
 * 2^(bits-1)), tail bits 0. bits is 4 or 8. codes[n][k], one byte each. */
int64_t sq_ct_row_words(int64_t k, int bits);
void sq_ct_pack_rows(uint32_t *words, const uint8_t *codes, int64_t n, int64_t k, int bits);
void sq_ct_unpack_rows(uint8_t *codes, const uint32_t *words, int64_t n, int64_t k, int bits);

/* weight_zero_point: int32 [ceil(n*bits/32)][groups], packed along the output rows.
 * zeros[n][groups]. */
int64_t sq_ct_zero_rows(int64_t n, int bits);
void sq_ct_pack_zeros(uint32_t *words, const uint8_t *zeros, int64_t n, int64_t groups, int bits);
void sq_ct_unpack_zeros(uint8_t *zeros, const uint32_t *words, int64_t n, int64_t groups, int bits);

/* One scheme of a quantization_config, for the linears that `targets` match. */
typedef struct sq_ct_scheme {
    int bits;       /* 4 or 8 */
    int group_size; /* columns a group; 0 for one group a row (strategy "channel") */
    int symmetric;
    int act_bits; /* 0: weight only; 8: dynamic per token activations */
    int act_symmetric;
} sq_ct_scheme;

/* Builds {"quant_method":"compressed-tensors","format":…,"config_groups":{…},"ignore":[…],…}: group
 * i has schemes[i] and targets[i] (exact module names, or the single "Linear"). Owned by the
 * caller. */
json_t *sq_ct_config(const sq_ct_scheme *schemes, char *const *const *targets,
                     const size_t *n_targets, size_t n_schemes, char *const *ignore,
                     size_t n_ignore);

/* Reads a quantization_config; gives the scheme of a module name ("model.layers.0.mlp.down_proj",
 * class Linear) as compressed-tensors would match it: ignore first, then exact names, "re:"
 * patterns (anchored at the start, by PCRE2) and class names. */
typedef struct sq_ct_reader sq_ct_reader;
sq_status sq_ct_reader_open(sq_ct_reader **out, const json_t *quantization_config, sq_error *err);
void sq_ct_reader_close(sq_ct_reader **r);
/* 1 and *out when the module is quantized, 0 when it is not. */
int sq_ct_reader_scheme(const sq_ct_reader *r, const char *module, sq_ct_scheme *out);

#endif
