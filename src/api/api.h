/* What the public calls share: argument checks, and reports as text. */
#ifndef SQ_API_API_H
#define SQ_API_API_H

#include <jansson.h>

#include "base/error.h"
#include "squint/squint.h"

/* SQ_EARG naming the argument when p is NULL. */
sq_status sq_need_arg(const void *p, const char *name, sq_error *err);
/* config.json of a shape that synth knows; NULL when it is none. Owned by the caller. */
json_t *sq_synth_config(const char *name);
/* Takes the report (nullable) and stores its text in *out (nullable). Returns st, or SQ_ENOMEM. */
sq_status sq_report_text(json_t *report, char **out, sq_status st, sq_error *err);

#endif
