/* Internal to bind.c and bind_quant.c: a checkpoint while it is bound. */
#ifndef SQ_MODEL_BIND_H
#define SQ_MODEL_BIND_H

#include "format/qconfig.h"
#include "model/model.h"

typedef struct sq_named {
    char *canonical;
    const sq_tensor *tensor;
    int used, in_block;
} sq_named;

typedef struct sq_binder {
    sq_net *net;
    sq_named *names; /* sorted by canonical name */
    size_t n_names;
    sq_qconfig *q; /* NULL for a plain checkpoint */
    int in_block;  /* what is found now belongs to a block or the projector */
    sq_buf problems;
    int n_problems;
    sq_arena scratch;
    sq_error *err;
} sq_binder;

/* One more line of the error at the end; fmt "missing": "missing WHAT DETAIL"; "text": WHAT
 * as it is; else "WHAT: DETAIL". */
void sq_bind_problem(sq_binder *b, const char *fmt, const char *what, const char *detail);
/* The tensor of a canonical name, marked as used; NULL when there is none. */
const sq_tensor *sq_bind_find(sq_binder *b, const char *stem, const char *suffix);
/* Records a problem unless the tensor has this shape and one of the float types. */
int sq_bind_check(sq_binder *b, const sq_tensor *t, int rank, const int64_t *shape);
/* A tensor's name without its suffix, in the net's arena. */
char *sq_bind_stem(sq_binder *b, const sq_tensor *t, const char *suffix);

/* Binds a linear [n][k] whose codes some package stored (`.weight_packed`, `.weight` of int8,
 * `.qweight`): packs it into the kernels' layout. 0 in *found when there are none. */
sq_status sq_bind_quantized(sq_binder *b, sq_linear *l, int64_t n, int64_t k, int *found);

/* Opens quantization_config: config.json's, or that of the files which AutoGPTQ and AutoAWQ wrote
 * beside it once. */
sq_status sq_bind_config(sq_binder *b, const char *dir);

#endif
