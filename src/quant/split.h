/* --tp N: a tensor-parallel engine gives each of N ranks a share of the heads and of the MLP. The
 * MLP is widened with zeros until the shares are whole groups: its outputs stay what they were. */
#ifndef SQ_QUANT_SPLIT_H
#define SQ_QUANT_SPLIT_H

#include <jansson.h>

#include "quant/codes.h"
#include "quant/plan.h"

/* Checks that heads and groups can be shared by plan->ranks (more than 1) and plans the widening;
 * SQ_EARG names what cannot. Called once every row has its grid. */
sq_status sq_split_plan(sq_plan *plan, const sq_net *net, sq_error *err);
/* Dimensions of a linear as they are written; its own when nothing is widened. */
int64_t sq_split_rows(const sq_plan *p, const sq_linear *l);
int64_t sq_split_columns(const sq_plan *p, const sq_linear *l);
/* c with `rows` rows and `columns` stored columns: what is new stands for 0. */
sq_status sq_split_codes(sq_codes *out, const sq_codes *c, int64_t rows, int64_t columns,
                         sq_error *err);
/* t [n][k] of a float type as [rows][columns] bytes with zeros; sq_free it. */
void *sq_split_dense(const sq_tensor *t, int64_t rows, int64_t columns, sq_error *err);
/* Writes the new width into config.json's values. */
void sq_split_config(const sq_plan *p, json_t *config);
/* What the record says of it, for verification; NULL without --tp. */
json_t *sq_split_record(const sq_plan *p);
/* 1: b is a with zero rows and columns added, or packed with them, as `record` says. */
int sq_split_widened(const json_t *record, const sq_tensor *a, const sq_tensor *b);

#endif
