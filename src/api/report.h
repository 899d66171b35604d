/* The evaluation as one HTML page. */
#ifndef SQ_API_REPORT_H
#define SQ_API_REPORT_H

#include <jansson.h>

#include "base/error.h"
#include "squint/squint.h"

/* Writes o->report: the template report.html with the evaluation (the report of sq_eval), both
 * models' dimensions, what quantize recorded in the folder and verify finds there, the examples'
 * pictures and the commands, as JSON in its place. The page asks for nothing outside of itself. */
sq_status sq_report_save(const char *model, const sq_eval_options *o, const json_t *eval,
                         sq_error *err);

#endif
