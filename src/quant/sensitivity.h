/* What each quantized layer costs by itself. */
#ifndef SQ_QUANT_SENSITIVITY_H
#define SQ_QUANT_SENSITIVITY_H

#include "quant/samples.h"
#include "squint/progress.h"

/* For every block (decoder layer, tower layer, merger) in which `model` has a quantized linear: the
 * reference with this block alone taken from the model, compared with the reference. A scale folds
 * inside of its block, so a block is what can be exchanged. *list: [{"name", "layer", "kl",
 * "top1_agreement"}] in order of execution, means over all positions of the prompts; NULL when the
 * two have other dimensions or nothing is quantized. */
sq_status sq_sensitivity(const sq_net *model, const sq_net *reference, const sq_prompt *prompts,
                         size_t n, const sq_progress *progress, json_t **list, sq_error *err);

#endif
