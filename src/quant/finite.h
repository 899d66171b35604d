#ifndef SQ_QUANT_FINITE_H
#define SQ_QUANT_FINITE_H

#include "model/model.h"

/* SQ_EFORMAT names the first tensor of the model that holds NaN or infinity: no method, no
 * statistics and no run gets past it. Reads every dense weight once. */
sq_status sq_check_finite(const sq_net *net, sq_error *err);

#endif
