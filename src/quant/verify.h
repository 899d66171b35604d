/* What the verification's files share. */
#ifndef SQ_QUANT_VERIFY_H
#define SQ_QUANT_VERIFY_H

#include "quant/samples.h"
#include "squint/squint.h"

typedef struct sq_verify_state {
    const char *out;
    const sq_verify_options *o;
    const sq_progress *progress;
    sq_arena arena;
    sq_checkpoint *files;
    sq_kv_type kv_type;   /* of the folder's own runs */
    sq_net *net, *source; /* what was written, and the original (may be NULL) */
    sq_frontend front;
    json_t *record, *checks;
    int failed;
    char first[480];
} sq_verify_state;

/* One line of the report; NAN for no value or no limit. */
void sq_verify_line(sq_verify_state *v, const char *name, int ok, double value, double limit,
                    const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* Cached equals uncached: whole prompt, token by token, random chunks, two turns; with pictures and
 * a clip when the model has a tower. */
sq_status sq_verify_cache(sq_verify_state *v, sq_error *err);
/* *same = 1 when the greedy continuation repeats one token and the original's does not. */
sq_status sq_verify_degenerate(sq_verify_state *v, const sq_prompt *p, int *same, sq_error *err);

#endif
