/* The folder that a quantization writes: OUT.partial with the tensors, a journal of finished layers
 * and a record for verification; renamed to OUT when complete. */
#ifndef SQ_QUANT_OUTPUT_H
#define SQ_QUANT_OUTPUT_H

#include "format/qconfig.h"
#include "format/qlinear.h"
#include "quant/plan.h"
#include "quant/tap.h"

typedef struct sq_output {
    sq_arena arena;
    const sq_net *net;
    const sq_plan *plan;
    const char *source, *final;
    char *partial;
    sq_st_writer *writer;
    json_t *journal; /* quant/journal.h; a unit's entry is the list of its layers */
    int resumed, finished;
} sq_output;

/* Refuses an existing OUT. `fingerprint` names model, options and data: another one in OUT.partial
 * starts anew. */
sq_status sq_output_open(sq_output *o, const sq_net *net, const sq_plan *plan, const char *source,
                         const char *out, const char *fingerprint, int resume, sq_error *err);
/* Layer entries of a unit ("text.3", "vision", …) that is written already; NULL when it is not.
 * Borrowed. */
const json_t *sq_output_done(const sq_output *o, const char *unit);
sq_status sq_output_codes(sq_output *o, const sq_linear *l, const sq_codes *c, sq_error *err);
/* The same of a linear that was read from a checkpoint. */
sq_status sq_output_linear(sq_output *o, const sq_linear *l, const sq_qlinear *q, sq_error *err);
/* And how it is read, whatever its layout (sq_qlinear_free). */
sq_status sq_output_read(const sq_net *net, const sq_qconfig *config, const sq_linear *l,
                         sq_qlinear *q, sq_error *err);
/* A tensor of the source with other numbers of the same type. */
sq_status sq_output_floats(sq_output *o, const sq_tensor *t, const float *data, sq_error *err);
/* 1 for a tensor of the source that a quantized linear's own take the place of. */
int sq_output_replaces(const sq_output *o, const sq_tensor *t);
sq_status sq_output_copy(sq_output *o, const sq_tensor *t, sq_error *err);
/* Syncs, then records the unit. Takes entries. */
sq_status sq_output_commit(sq_output *o, const char *unit, json_t *entries, sq_error *err);
/* config.json, the other files byte for byte, squint.json; renames. layers, options: NULL where
 * nothing is known of them. */
sq_status sq_output_finish(sq_output *o, json_t *layers, json_t *options, sq_error *err);
void sq_output_close(sq_output *o);

/* FNV-1a 64 as 16 hex digits. */
void sq_hash_text(const void *p, size_t n, char out[17]);
/* Of a tensor, slice by slice, so that not all of it stays in memory. */
void sq_hash_tensor(const sq_tensor *t, char out[17]);
/* quantization_config for what the plan does, as the layout's package writes it. Owned by the
 * caller. */
json_t *sq_output_config(sq_output *o, sq_error *err);
/* AutoAWQ's kernels and most loaders of its layouts take float16 alone: the type that config.json
 * names becomes float16, wherever it stands. */
void sq_output_set_half(json_t *config);

/* 1 for files that the writer makes itself: weights, index, config.json and the other files of
 * quantization configs, squint.json. */
int sq_output_own_file(const char *name);

#endif
