/* A mixed plan: bits and group of each tap's linears, so that their average meets a target. */
#ifndef SQ_QUANT_MIXED_H
#define SQ_QUANT_MIXED_H

#include <jansson.h>

#include "quant/plan.h"
#include "quant/samples.h"
#include "quant/stats.h"

enum { SQ_MIXED_OPTIONS = 5 };

/* Linears that share an input get one scheme (q, k and v; gate and up): engines fuse them. */
typedef struct sq_mixed_tap {
    size_t rows[4]; /* of the plan */
    int n, option, cheapest;
    double weights; /* how many it holds */
    double kl;      /* nats a token that its cheapest option costs the model alone; 0: not known */
    double bits[SQ_MIXED_OPTIONS], noise[SQ_MIXED_OPTIONS];
    char note[96];
} sq_mixed_tap;

typedef struct sq_mixed {
    sq_plan *plan;
    const sq_net *net;
    double target, bits; /* wanted, and what it came to */
    sq_mixed_tap *taps;
    size_t n;
    int sensed; /* sq_mixed_sense was there */
} sq_mixed;

/* target: bits a weight of the language model, scales and zero points counted. The plan's 4-bit
 * linears may get one group a row, groups of 128, 64 or 32 columns, or 8 bits with one group a row.
 * SQ_EARG where no such plan is. */
sq_status sq_mixed_open(sq_mixed *m, sq_plan *plan, const sq_net *net, double target,
                        sq_error *err);
/* Measures a layer's taps from their statistics: for each option the error that rounding to nearest
 * makes in the outputs, relative to the outputs themselves. */
sq_status sq_mixed_measure(sq_mixed *m, int layer, const sq_stat *stats, sq_error *err);
/* What each tap costs the whole model: KL against the original with only this tap's linears rounded
 * by their cheapest option. After sq_mixed_measure of all layers. */
sq_status sq_mixed_sense(sq_mixed *m, const sq_samples *samples, const sq_progress *progress,
                         sq_error *err);
/* Starts from the cheapest option everywhere and buys, while the target allows, what lowers the sum
 * of the costs most for its bits; a cost is a relative error, times the KL that one of it makes
 * where that is known. Rewrites the plan; its notes live as long as m. */
void sq_mixed_decide(sq_mixed *m);
void sq_mixed_close(sq_mixed *m);

#endif
