/* The blocks in order of execution: the tower's, its merger or projector, the decoder's layers. */
#ifndef SQ_QUANT_STAGE_H
#define SQ_QUANT_STAGE_H

#include "model/model.h"

enum { SQ_STAGE_TAPS = 8 };

typedef struct sq_stage {
    sq_part part;
    int64_t index; /* among those of its part */
    sq_block *block;
    const sq_block_rows *rows;
    int tap;       /* the net's number of its first tap */
    char unit[32]; /* "vision.0" .. "vision.N" (the merger), "text.0" .. */
} sq_stage;

int64_t sq_stage_count(const sq_net *n);
sq_stage sq_stage_at(sq_net *n, int64_t i);
/* Columns of a tap's input. */
int64_t sq_stage_columns(const sq_net *n, const sq_stage *s, int tap);

#endif
