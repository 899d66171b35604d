/* What work was made of: a run is resumed, and statistics are used, only with the same. */
#ifndef SQ_QUANT_FINGERPRINT_H
#define SQ_QUANT_FINGERPRINT_H

#include "model/model.h"
#include "squint/squint.h"

/* FNV-1a over 64-bit words, the last one filled with zeros: any one word that differs gives
 * another value. */
uint64_t sq_hash_words(uint64_t h, const void *p, size_t n);
extern const uint64_t sq_hash_start;

/* Of the config and of a taste of every tensor: equal shapes with other numbers are another model.
 */
sq_status sq_model_mark(const sq_net *net, uint64_t *out, sq_error *err);
/* Of everything that decides the bytes of an output: this version, the verb, the model, the
 * options, the data with its pictures and videos, the kernels (a CPU that multiplies bf16 pairs
 * gives other last digits). stats: what sq_stats_file_open says of --stats, or 0. */
sq_status sq_fingerprint(const char *verb, const sq_net *net, const sq_quantize_options *o,
                         uint64_t stats, char out[17], sq_error *err);

#endif
