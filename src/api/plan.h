/* What the parts of a plan share. All sums are of the configuration alone, as the passes allocate.
 */
#ifndef SQ_API_PLAN_H
#define SQ_API_PLAN_H

#include <jansson.h>

#include "model/kv.h"
#include "model/prompt.h"
#include "quant/policy.h"

typedef struct sq_planning {
    sq_config config;
    sq_preproc preproc;
    sq_policy policy;
    int schemed;                   /* a scheme was given: linears are counted as it stores them */
    int dense;                     /* bytes of an element that is not quantized */
    uint64_t part[SQ_PARTS], disk; /* weights in memory by part, and in files */
    uint64_t packed[SQ_PARTS];     /* of these, what is packed when the model is opened; the rest
                                      are the files' pages, in memory once they are read */
    uint64_t linear[SQ_PARTS];     /* how many weights its linears have */
    uint64_t tensors, written;     /* of the configuration, and of what quantize would write */
    int bits, act_bits;            /* of packed linears of a file: the first one's */
    int round_head;                /* running it rounds a dense head: sq_model_set_head */
    uint64_t head;                 /* what the rounded head takes */
    uint64_t program;              /* bytes of the process before any model */
    sq_pixels picture;             /* grid and tokens of the picture or video asked for */
    uint64_t vision;               /* what encoding it takes */
} sq_planning;

/* ---- weights: plan_weights.c ---- */

/* Counts under the policy; as the files hold them when no scheme was given and `files` says that
 * there are some. */
sq_status sq_plan_weights(sq_planning *p, const char *model, int files, sq_error *err);
uint64_t sq_plan_weight_bytes(const sq_planning *p);
/* The weights of a conversation once they are read: the tower's pages only with a picture, of
 * embeddings that are no head's only a window. */
uint64_t sq_plan_read_bytes(const sq_planning *p, int64_t context);
/* While the model is opened: packed weights, and the matrix that a rounded head is made from. */
uint64_t sq_plan_open_bytes(const sq_planning *p);

/* ---- run: plan.c ---- */

uint64_t sq_plan_kv_token(const sq_config *c);
uint64_t sq_plan_total(const sq_planning *p, int64_t context, int64_t batch);

/* ---- work and time: plan_work.c ---- */

/* Of the data that quantize works from: {"samples", "seq", "tokens", "activation_bytes",
 * "statistics_bytes" (of the largest stage), "statistics_file_bytes", "total_bytes" (of
 * `calibrate`)}; NULL for a method that needs none. */
json_t *sq_plan_calibration(const sq_planning *p, const sq_plan_options *o);
/* {"method", "work_bytes" (of the largest tap), "stage_bytes" (of the largest stage, or of
 * embedding the samples; beside their activations), "verify_bytes", "total_bytes" (the whole
 * command at its peak), "disk_bytes"}. */
json_t *sq_plan_quantize(const sq_planning *p, const sq_plan_options *o);
/* Measures this machine (under a second) and forecasts from it: {"read_bytes_per_s",
 * "prefill_flop_per_s", "vision_flop_per_s", "prefill_s", "prefill_tokens_per_s",
 * "decode_tokens_per_s", "vision_s", "calibrate_s"}. */
json_t *sq_plan_times(const sq_planning *p, const sq_plan_options *o, int64_t context);

#endif
