#include "api/api.h"

#include <stdlib.h>

#include "base/mem.h"
#include "kernels/kernels.h"

const char *sq_version(void) { return SQ_VERSION; }

void sq_text_free(char *text) { free(text); }

sq_status sq_need_arg(const void *p, const char *name, sq_error *err) {
    return p != NULL ? SQ_OK : sq_fail(err, SQ_EARG, "argument '%s' is missing", name);
}

sq_status sq_report_text(json_t *report, char **out, sq_status st, sq_error *err) {
    if (out != NULL) {
        *out = report == NULL ? NULL : json_dumps(report, JSON_COMPACT | JSON_ENCODE_ANY);
        if (*out == NULL && report != NULL && st == SQ_OK) {
            st = sq_fail(err, SQ_ENOMEM, "not enough memory for the report");
        }
    }
    json_decref(report);
    return st;
}

sq_status sq_runtime_init(const sq_runtime_options *o, sq_error *err) {
    sq_status st = sq_need_arg(o, "options", err);
    if (st != SQ_OK) {
        return st;
    }
    if (o->threads < 0 || o->threads > 4096) {
        return sq_fail(err, SQ_EARG, "threads out of range; got %d, wanted 0..4096", o->threads);
    }
    sq_set_threads(o->threads);
    sq_memory_limit(o->max_ram);
    return sq_kernels_select(o->cpu, err);
}
