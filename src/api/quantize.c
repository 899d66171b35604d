/* Calibrating, quantizing, verifying, evaluating: argument checks in front of quant/. */
#include "api/api.h"
#include "api/report.h"
#include "quant/quant.h"

sq_status sq_quantize(const char *model, const char *out, const sq_quantize_options *options,
                      const sq_progress *progress, char **report, sq_error *err) {
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(out, "out", err));
    SQ_TRY(sq_need_arg(options, "options", err));
    st = sq_quantize_run(model, out, options, progress, &r, err);
fail:
    return sq_report_text(r, report, st, err);
}

sq_status sq_calibrate(const char *model, const char *stats, const sq_quantize_options *options,
                       const sq_progress *progress, char **report, sq_error *err) {
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(stats, "stats", err));
    SQ_TRY(sq_need_arg(options, "options", err));
    st = sq_calibrate_run(model, stats, options, progress, &r, err);
fail:
    return sq_report_text(r, report, st, err);
}

sq_status sq_verify(const char *out, const sq_verify_options *options, const sq_progress *progress,
                    char **report, sq_error *err) {
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(out, "out", err));
    SQ_TRY(sq_need_arg(options, "options", err));
    st = sq_verify_run(out, options, progress, &r, err);
fail:
    return sq_report_text(r, report, st, err);
}

sq_status sq_eval(const char *model, const sq_eval_options *options, const sq_progress *progress,
                  char **report, sq_error *err) {
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(options, "options", err));
    st = sq_eval_run(model, options, progress, &r, err);
    if (options->report != NULL && (st == SQ_OK || st == SQ_ECHECK)) { /* a limit not met, too */
        sq_error other = {0};
        sq_status saved = sq_report_save(model, options, r, &other);
        if (saved != SQ_OK) {
            st = sq_fail(err, saved, "%s", other.text);
        }
    }
fail:
    return sq_report_text(r, report, st, err);
}

sq_status sq_convert_layout(const char *model, const char *out, const char *format,
                            const char *target, const sq_progress *progress, sq_error *err) {
    sq_layout layout;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(out, "out", err));
    SQ_TRY(sq_need_arg(format, "format", err));
    if (!sq_layout_parse(format, &layout)) {
        return sq_fail(err, SQ_EARG,
                       "format '%s' is not there; wanted hf, compressed-tensors, awq-gemm, "
                       "awq-gemv, gptq or gptq-v2",
                       format);
    }
    st = sq_convert_run(model, out, layout, target, progress, err);
fail:
    return st;
}

sq_status sq_convert_gguf(const char *model, const char *out, const sq_gguf_options *options,
                          const sq_progress *progress, sq_error *err) {
    sq_gguf_options none = {0};
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(out, "out", err));
    st = sq_gguf_run(model, out, options == NULL ? &none : options, progress, err);
fail:
    return st;
}
