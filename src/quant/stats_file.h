/* The file of statistics that `calibrate` writes and `quantize --stats` reads: safetensors, of each
 * tap the parts of sq_stat_parts as NAME.suffix and a hash of them as NAME.check, and one tensor
 * that says what all of it is of. */
#ifndef SQ_QUANT_STATS_FILE_H
#define SQ_QUANT_STATS_FILE_H

#include "quant/samples.h"
#include "quant/stage.h"
#include "quant/stats.h"

enum { SQ_STATS_VERSION = 2 }; /* 1: of no hashes and no such tensor */

/* "squint.statistics", I64; `check` is a hash of the others. */
typedef struct sq_stats_head {
    int64_t version, model, tokens, picture_tokens, samples, dropped, unused, check;
} sq_stats_head;
sq_stats_head sq_stats_head_of(uint64_t model, const sq_samples *samples);

/* Lays out dir/model.safetensors for the stages from `first` on, before any work: one block's
 * statistics are in memory at a time. resume as in sq_st_writer_open. */
sq_status sq_stats_file_create(sq_st_writer **out, const char *dir, sq_net *net, int64_t first,
                               int resume, sq_error *err);
/* Statistics of the tap `name`; of no rows: SQ_EINTERNAL. */
sq_status sq_stats_file_put(sq_st_writer *w, const char *name, sq_stat *s, sq_error *err);
sq_status sq_stats_file_head(sq_st_writer *w, const sq_stats_head *head, sq_error *err);

/* Opens a file and checks all of it: SQ_EFORMAT when it is of another version, of another model
 * than the mark's (sq_model_mark), or not what was written. *mark stands for its content. */
sq_status sq_stats_file_open(sq_checkpoint **out, const char *path, uint64_t model,
                             sq_stats_head *head, uint64_t *mark, sq_error *err);

#endif
