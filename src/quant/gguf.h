/* Internal to gguf.c and gguf_vision.c: the tensors of a GGUF file while it is planned and written.
 */
#ifndef SQ_QUANT_GGUF_H
#define SQ_QUANT_GGUF_H

#include "base/log.h"
#include "format/gguf_write.h"
#include "format/qconfig.h"
#include "model/model.h"
#include "squint/squint.h"

/* A tensor of the file: rows [row0, row0 + rows) of a matrix, a vector of floats, or one frame of a
 * patch embedding. */
typedef struct sq_gguf_item {
    char name[96];
    sq_dtype type;
    int rank;
    int64_t shape[4];
    const sq_weight *dense;          /* floats as they lie in the file */
    const sq_linear *linear;         /* or codes */
    const float *vector;             /* or numbers */
    int64_t row0, rows, k, heads;    /* heads: rows go into the order of interleaved rotary pairs */
    int64_t frame, frames, channels; /* of a patch embedding [n][channels][frames][cells] */
} sq_gguf_item;

typedef struct sq_gguf_job {
    sq_net *net;
    sq_qconfig *q; /* NULL for a plain folder */
    const char *model;
    const sq_gguf_options *o;
    int has_dtype;
    sq_dtype dtype; /* of what is not quantized, with has_dtype */
    sq_gguf_item *items;
    size_t n, cap;
    int64_t rounded; /* scales and minima that --lossy rounded */
    sq_arena arena;
    sq_gguf_writer *w;
    const sq_progress *progress;
    sq_error *err;
} sq_gguf_job;

/* Each plans one tensor more. NULL vectors are left out. */
sq_status sq_gguf_item_vector(sq_gguf_job *j, const char *name, const float *v, int64_t n);
sq_status sq_gguf_item_rows(sq_gguf_job *j, const char *name, const float *v, int64_t rows,
                            int64_t k);
sq_status sq_gguf_item_linear(sq_gguf_job *j, const char *name, const sq_linear *l, int64_t row0,
                              int64_t rows, int64_t heads);
sq_status sq_gguf_item_patch(sq_gguf_job *j, const char *name, const sq_weight *w, int64_t frame);
/* general.file_type: by the type that most of the numbers have (llama.h, enum llama_ftype). */
void sq_gguf_put_file_type(sq_gguf_job *j);

/* clip.* and the tower's tensors, as llama.cpp's tools/mtmd/clip.cpp reads them. SQ_EUNSUPPORTED
 * for a projector that it has no like of. */
sq_status sq_gguf_vision(sq_gguf_job *j);

#endif
