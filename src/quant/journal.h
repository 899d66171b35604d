/* What makes work on a folder resumable: journal.json beside the unfinished files, {"fingerprint",
 * "done": {unit: what is known of it}, "hashes": {tensor: hash}}. */
#ifndef SQ_QUANT_JOURNAL_H
#define SQ_QUANT_JOURNAL_H

#include <jansson.h>

#include "base/file.h"

/* The journal of an earlier run in `dir` with this fingerprint (*resumed 1), or a new one in a
 * folder that is made empty. Owned by the caller. */
sq_status sq_journal_open(json_t **out, const char *dir, const char *fingerprint, int resume,
                          int *resumed, sq_error *err);
/* NULL while the unit is not done. Borrowed. */
const json_t *sq_journal_done(const json_t *journal, const char *unit);
/* Records the unit, whose data is on the disk by now. Takes `entry`. */
sq_status sq_journal_commit(json_t *journal, const char *dir, const char *unit, json_t *entry,
                            sq_error *err);
sq_status sq_journal_save(const json_t *journal, const char *dir, sq_error *err);
/* Before the folder gets its final name. */
sq_status sq_journal_remove(const char *dir, sq_error *err);
/* After a failure: a folder in which nothing is done goes. */
void sq_journal_abandon(const json_t *journal, const char *dir);

#endif
