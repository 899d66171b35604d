/* What each part of a model gets: from flags, with a profile (JSON) laid over them. */
#ifndef SQ_QUANT_POLICY_H
#define SQ_QUANT_POLICY_H

#include "arch/arch.h"
#include "base/error.h"
#include "squint/squint.h"

enum { SQ_PARTS = SQ_PART_EMBED + 1 };

typedef struct sq_part_policy {
    int bits; /* 0: kept as it is */
    int symmetric;
    int act_bits, act_symmetric; /* 8: inputs are rounded row by row */
    int64_t group;               /* -1: one group a row */
} sq_part_policy;

typedef struct sq_policy {
    sq_part_policy part[SQ_PARTS]; /* by sq_part */
    int awq, gptq;
    sq_indivisible indivisible;
} sq_policy;

/* A profile's own keys: "language", "vision", "merger", "embedding", "lm_head", each {"scheme":
 * w4a16|w8a16|w8a8|w4a8|keep, "group_size": N, "symmetric": true|false}, embeddings and head
 * without w8a8 and w4a8; "method"; "on_indivisible". torchchat's as they are: "linear:int4",
 * "linear:int8", "linear:a8w4dq" with "groupsize" and "bitwidth" (of the language model) or
 * "embedding"; "precision" and "executor" say nothing here. An unknown key, value or range is
 * SQ_EARG and is named. */
sq_status sq_policy_read(sq_policy *out, const sq_quantize_options *o, sq_error *err);
/* SQ_EARG where the head has a scheme and the embeddings, which it is in a tied model, have none.
 */
sq_status sq_policy_check_tied(const sq_policy *p, int tied, sq_error *err);

/* How a linear of k columns is laid out. */
typedef struct sq_fit {
    int kept;               /* as it is: the group does not divide its columns */
    int64_t group, columns; /* k, or a multiple of the group above it */
    const char *note;       /* what was done; NULL: the group divides */
} sq_fit;
sq_fit sq_policy_fit(int64_t k, int64_t group, sq_indivisible how);

/* Whether the method works from data. */
static inline int sq_policy_needs_data(const sq_policy *p) { return p->awq || p->gptq; }
/* Whether anything before the language model is quantized. */
static inline int sq_policy_vision(const sq_policy *p) {
    return p->part[SQ_PART_VISION].bits != 0 || p->part[SQ_PART_MERGER].bits != 0;
}

#endif
