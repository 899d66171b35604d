/* Entry points of this layer; api/ checks arguments and turns the reports into text. Report keys:
 * cli.md. */
#ifndef SQ_QUANT_QUANT_H
#define SQ_QUANT_QUANT_H

#include <jansson.h>

#include "base/error.h"
#include "format/layouts.h"
#include "squint/squint.h"

sq_status sq_quantize_run(const char *model, const char *out, const sq_quantize_options *options,
                          const sq_progress *progress, json_t **report, sq_error *err);
sq_status sq_calibrate_run(const char *model, const char *stats, const sq_quantize_options *options,
                           const sq_progress *progress, json_t **report, sq_error *err);
/* A quantized folder in another package's layout. */
sq_status sq_convert_run(const char *model, const char *out, sq_layout layout, const char *target,
                         const sq_progress *progress, sq_error *err);
/* SQ_EARG unless `out` is a new name that ends in .gguf. */
sq_status sq_gguf_check_output(const char *out, sq_error *err);
/* A folder, plain or quantized, as GGUF. */
sq_status sq_gguf_run(const char *model, const char *out, const sq_gguf_options *options,
                      const sq_progress *progress, sq_error *err);
sq_status sq_verify_run(const char *out, const sq_verify_options *options,
                        const sq_progress *progress, json_t **report, sq_error *err);
sq_status sq_eval_run(const char *model, const sq_eval_options *options,
                      const sq_progress *progress, json_t **report, sq_error *err);

#endif
