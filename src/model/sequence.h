/* One timeline over a model: its tokens, KV cache and rope state. Sampling and re-use of prefixes
 * are built on top (engine/); verification and calibration use it as it is. */
#ifndef SQ_MODEL_SEQUENCE_H
#define SQ_MODEL_SEQUENCE_H

#include "model/prompt.h"

typedef struct sq_seq {
    const sq_net *net;
    sq_work *work;
    sq_kv kv;
    sq_ids ids;             /* what is in the cache */
    sq_positions positions; /* of those tokens: the rope state */
    float *logits;          /* [vocab] of the last token fed */
    float *h;               /* scratch for a chunk, owned */
    int64_t h_cap;
    double vision_s; /* seconds spent in the tower by this sequence */
} sq_seq;

sq_status sq_seq_open(sq_seq *out, const sq_net *net, sq_error *err);
void sq_seq_close(sq_seq *s);

/* Called with logits rows [first, first + rows) of a prompt, counted from the prompt's start. */
typedef sq_status (*sq_logits_fn)(void *user, int64_t first, int64_t rows, const float *logits,
                                  sq_error *err);

/* Feeds tokens [from, prompt->ids.len) of a prompt whose first `from` tokens are in the cache
 * already, in chunks of at most `chunk` tokens (0: default; an image may lie across chunks).
 * Afterwards s->logits is the last token's row. `each` (nullable) sees every row's logits. Running
 * past config.max_positions is SQ_ELIMIT before any work, running out of memory SQ_ENOMEM; both
 * leave the sequence as it was before the call. */
sq_status sq_seq_feed(sq_seq *s, const sq_prompt *prompt, int64_t from, int64_t chunk,
                      sq_logits_fn each, void *user, sq_error *err);
/* Feeds one generated text token. */
sq_status sq_seq_push(sq_seq *s, int32_t id, sq_error *err);
/* One token to each of n sequences of one net, in one pass over the weights: the logits of each are
 * those that it gets by itself. An error, a limit that one of them has reached for example, leaves
 * all as they were. */
sq_status sq_seq_push_each(sq_seq *const *s, const int32_t *ids, int64_t n, sq_error *err);
/* Forgets tokens from n on. */
void sq_seq_truncate(sq_seq *s, int64_t n);
int32_t sq_argmax(const float *x,
                  int64_t n); /* first of equals; NaN never wins; -1 when all are NaN */
int sq_is_eos(const sq_config *c, int32_t id);
/* Greedy continuation of at most max_new tokens, appended to out (without the final EOS). */
sq_status sq_seq_greedy(sq_seq *s, int64_t max_new, sq_ids *out, sq_error *err);

#endif
