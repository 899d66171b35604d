/* Which linear gets what, found before any work: every column count that a group does not divide is
 * known here. */
#ifndef SQ_QUANT_PLAN_H
#define SQ_QUANT_PLAN_H

#include "format/layouts.h"
#include "model/model.h"
#include "quant/codes.h"
#include "quant/policy.h"
#include "squint/squint.h"

typedef struct sq_plan_row {
    const sq_linear *linear;
    int quantize, awq, gptq;
    sq_grid grid;
    const char *note; /* what was done about columns that the group does not divide; NULL */
} sq_plan_row;

typedef struct sq_plan {
    sq_plan_row *rows; /* in order of execution */
    size_t n;
    sq_policy policy;
    int ranks;               /* --tp; 0: none */
    int64_t inter, inter_to; /* the MLP's width, and what it is widened to (0: not) */
    int gguf;                /* for GGUF's blocks of 32, by way of a folder of compressed-tensors */
    sq_layout layout;        /* how the linears are stored */
    int half;                /* config.json says float16: --target's kernels take no other type */
    double damp;             /* GPTQ's, for its config */
    char note[512];          /* what the user should know of the profile; "" for nothing */
} sq_plan;

/* Checks the options (SQ_EARG names the one that is wrong) and decides. */
sq_status sq_plan_make(sq_plan *out, const sq_net *net, const sq_quantize_options *options,
                       sq_error *err);
/* Group and padding of a row's grid; may decide to keep the linear as it is. */
void sq_plan_fit(sq_plan_row *r, int64_t group, sq_indivisible how);
/* Whether the layout holds what the plan wants; SQ_EARG names the linear, with what to do in the
 * hint. */
sq_status sq_plan_check_layout(const sq_plan *p, sq_error *err);
/* AutoAWQ's layouts have one group size for all. */
sq_status sq_plan_one_group(const sq_plan *p, sq_error *err);
/* A visitor of sq_net_each_linear: user is the size_t that it counts in. */
sq_status sq_plan_count(void *user, sq_linear *l, sq_error *err);
/* The group size that AutoAWQ's and GPTQ's configs say for a row: 0 (one group a row) where every
 * row has one. */
int sq_plan_group(const sq_plan *p, const sq_plan_row *r);
void sq_plan_close(sq_plan *p);
const sq_plan_row *sq_plan_find(const sq_plan *p, const sq_linear *l);

#endif
