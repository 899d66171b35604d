/* What one run of quantize or calibrate holds, and its parts: data and statistics (calibrate.c), a
 * block (block.c), the whole (quantize.c). */
#ifndef SQ_QUANT_JOB_H
#define SQ_QUANT_JOB_H

#include "quant/hidden.h"
#include "quant/mixed.h"
#include "quant/output.h"
#include "quant/stage.h"
#include "quant/stats_file.h"

typedef struct sq_job {
    sq_net *net;
    sq_frontend front;
    sq_plan plan;
    sq_output out;
    sq_samples samples;
    sq_hidden hidden;
    sq_mixed mixed; /* --target-bits */
    sq_checkpoint *stats_file;
    sq_stats_head head; /* what the statistics are of; version 0: there are none */
    uint64_t model;     /* sq_model_mark */
    const sq_quantize_options *o;
    const sq_progress *progress;
    json_t *layers;
    double calibrate_s, quantize_s, write_s;
    double embed_s, statistics_s; /* parts of calibrate_s */
    sq_error *err;
} sq_job;
void sq_job_close(sq_job *j);

/* Samples, embedded; with pictures' way through the tower where the plan wants it measured. What
 * does not fit the memory limit lies in a file in `dir`. */
sq_status sq_job_read_data(sq_job *j, const char *dir);
/* The samples go through a stage, or its statistics are read from the file. look: the samples stay
 * where they are. stats[SQ_STAGE_TAPS], zeroed; NULL: they only go on. A tap that saw no rows has k
 * = 0 there. */
sq_status sq_job_stats(sq_job *j, const sq_stage *s, sq_stat *stats, int look);
void sq_stats_close(sq_stat stats[SQ_STAGE_TAPS]);

/* Adds what the calibration was made of. */
void sq_job_report_data(const sq_job *j, json_t *report);

/* What the report says of a linear; errors: its own, plain rounding's, and its outputs' size;
 * tokens: rows of calibration data that came through, -1 where none was wanted. */
json_t *sq_job_entry(const sq_plan_row *row, const char *method, const double errors[3],
                     const char *fallback, int64_t tokens);
/* Quantizes a block, writes it whole and commits it. stats: NULL for rounding to nearest. */
sq_status sq_job_block(sq_job *j, const sq_stage *s, const sq_stat *stats);
/* And what lies outside the blocks: embeddings and head, rounded to nearest where the plan says so;
 * final norm, patch embedding and harmless extras. */
sq_status sq_job_outside(sq_job *j);

#endif
