/* Two models on the same prompts: KL and first choices over every position. */
#ifndef SQ_QUANT_COMPARE_H
#define SQ_QUANT_COMPARE_H

#include "quant/samples.h"

#define SQ_NEAR_TIE 0.1 /* of probability */

typedef struct sq_comparison {
    double kl,
        nll; /* sums in nats: KL(reference || model), and the model's negative log-likelihood */
    double reference_nll; /* the reference's, over the same tokens */
    int64_t near; /* positions that agree, or where the reference is within SQ_NEAR_TIE of a tie */
    int64_t positions, predicted, agree,
        bad; /* compared; with a next token; equal first choice; not numbers */
} sq_comparison;

/* Adds one prompt. reference may be NULL: only the likelihood of the prompt's own tokens. */
sq_status sq_compare(sq_comparison *c, const sq_net *model, const sq_net *reference,
                     const sq_prompt *prompt, sq_error *err);
/* The same in two steps, for many models against one: the reference's logits [ids.len][vocab]
 * (sq_free), then a model that must have that vocabulary. */
sq_status sq_compare_reference(float **logits, const sq_net *reference, const sq_prompt *prompt,
                               sq_error *err);
sq_status sq_compare_to(sq_comparison *c, const sq_net *model, const float *logits,
                        const sq_prompt *prompt, sq_error *err);

#endif
