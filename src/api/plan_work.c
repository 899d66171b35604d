/* What making the model small takes, and how long running it takes on this machine. */
#include "api/plan.h"

#include "kernels/kernels.h"

/* As quantize allocates: quant/tap.c, ranges.c, awq.c, gptq.c. */
enum {
    ERROR_ROWS = 256,  /* rows of a tap's error, twice */
    SEARCH_ROWS = 128, /* of the scale search, three times */
    TILE = 64,         /* rows a thread of the range search */
    MOVES = 8          /* of a range */
};

typedef struct tap_shape {
    int64_t k, rows, widest; /* columns; rows of its linears in all, and of the largest */
} tap_shape;

static tap_shape shape_of(const sq_config *c, int tap) {
    const sq_block_rows *rows = &c->text->text;
    tap_shape s = {0, 0, 0};
    for (size_t i = 0; i < rows->n_linears; i++) {
        const sq_linear_row *r = &rows->linears[i];
        if (r->tap == tap) {
            s.k = c->dims[r->in];
            s.rows += c->dims[r->out];
            s.widest = c->dims[r->out] > s.widest ? c->dims[r->out] : s.widest;
        }
    }
    return s;
}

/* Bytes of one tap's work beside the statistics. */
static uint64_t tap_bytes(const sq_planning *p, const tap_shape *s) {
    const sq_part_policy *q = &p->policy.part[SQ_PART_TEXT];
    int64_t threads = sq_threads(), k = s->k, group = q->group < 0 || q->group > k ? k : q->group;
    int64_t groups = sq_ceil_div(k, group), kp = groups * group;
    int64_t floats = s->rows * k + s->widest * k + 2 * ERROR_ROWS * k; /* weights, scaled, errors */
    int64_t search = 3 * SEARCH_ROWS * k;
    int64_t ranges =
        s->widest * groups * 2 + threads * (2 * TILE * k + 2 * TILE * MOVES * group + TILE * group);
    int64_t rounding = p->policy.gptq ? threads * (2 * TILE * k + 2 * TILE * group) : 0;
    int64_t most = search > ranges ? search : ranges;
    floats += (most > rounding ? most : rounding) + (p->policy.gptq ? k * k : 0);
    int64_t codes = s->rows * (kp + 5 * groups); /* a byte a code, scales, zero points */
    codes += p->policy.awq ? codes : 0;          /* plain rounding beside what the scale gives */
    return (uint64_t)(floats * (int64_t)sizeof(float) + codes);
}

json_t *sq_plan_calibration(const sq_planning *p, const sq_plan_options *o) {
    const sq_config *c = &p->config;
    int64_t samples = o->samples > 0 ? o->samples : 128, seq = o->seq > 0 ? o->seq : 512;
    int64_t tokens = samples * seq;
    uint64_t stats = 0, work = 0, layer = 0;
    uint64_t activations = (uint64_t)(tokens * c->dims[SQ_D_HIDDEN]) * sizeof(float);
    for (int t = 0; t < c->text->text.n_taps; t++) {
        tap_shape s = shape_of(c, t);
        uint64_t bytes = tap_bytes(p, &s);
        stats += (uint64_t)(s.k * s.k * 4 + s.k * 12);
        work = bytes > work ? bytes : work;
        layer += (uint64_t)(s.rows * s.k * p->dense);
    }
    uint64_t pass =
        sq_text_peak(c, seq) + sq_plan_kv_token(c) / (uint64_t)c->layers * (uint64_t)seq;
    uint64_t most = p->program + activations + stats + layer + (work > pass ? work : pass);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "method",
                     p->policy.gptq ? p->policy.awq ? "awq+gptq" : "gptq" : "awq", "samples",
                     (json_int_t)samples, "seq", (json_int_t)seq, "tokens", (json_int_t)tokens,
                     "activation_bytes", (json_int_t)activations, "statistics_bytes",
                     (json_int_t)stats, "statistics_file_bytes",
                     (json_int_t)(stats * (uint64_t)c->layers), "work_bytes", (json_int_t)work,
                     "total_bytes", (json_int_t)most, "disk_bytes", (json_int_t)p->disk);
}

/* ---- time ---- */

/* Operations of a forward pass over `tokens` after none: linears, and attention to half of the
 * square. */
static double text_flops(const sq_planning *p, double tokens) {
    const sq_config *c = &p->config;
    double width = (double)(c->heads * c->head_dim * c->layers);
    return 2 * (double)p->linear[SQ_PART_TEXT] * tokens + 2 * width * tokens * tokens;
}

/* Of the tower and what joins it to the language model; attention within a picture or slot. */
static double vision_flops(const sq_planning *p) {
    const sq_config *c = &p->config;
    const sq_pixels *px = &p->picture;
    double slots = (double)px->grid_t;
    double rows = c->tower != NULL && c->tower->kind == SQ_TOWER_QWEN
                      ? (double)(px->grid_h * px->grid_w)
                      : (c->tower == NULL ? 0 : (double)sq_config_tile_rows(c));
    double full = 0, window = c->tower != NULL && c->tower->windows
                                  ? (double)(c->window / c->patch) * (double)(c->window / c->patch)
                                  : rows;
    for (int64_t l = 0; l < c->v_layers; l++) {
        full += c->v_full[l] ? rows : window < rows ? window : rows;
    }
    return slots * rows *
               (2 * (double)p->linear[SQ_PART_VISION] + 4 * full * (double)c->dims[SQ_D_V_WIDTH]) +
           2 * (double)px->tokens * (double)p->linear[SQ_PART_MERGER];
}

json_t *sq_plan_times(const sq_planning *p, const sq_plan_options *o, int64_t context) {
    const sq_config *c = &p->config;
    double read = sq_measure_bandwidth(), flops = sq_measure_sgemm() * 1e9;
    int64_t samples = o->samples > 0 ? o->samples : 128, seq = o->seq > 0 ? o->seq : 512;
    double weights =
        (double)(p->part[SQ_PART_TEXT] + p->part[SQ_PART_HEAD]) - (c->tied ? 0 : (double)p->embed);
    double token = weights + (double)sq_plan_kv_token(c) * (double)context, moments = 0;
    if (!(read > 0 && flops > 0)) {
        return NULL;
    }
    for (int t = 0; t < c->text->text.n_taps; t++) { /* X'X, of which half is computed */
        double k = (double)shape_of(c, t).k;
        moments += k * k * (double)(samples * seq) * (double)c->layers;
    }
    double prefill = text_flops(p, (double)context) / flops;
    double calibrate = ((double)samples * text_flops(p, (double)seq) + moments) / flops;
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "read_bytes_per_s", read,
                     "f32_flop_per_s", flops, "prefill_s", prefill, "prefill_tokens_per_s",
                     (double)context / prefill, "decode_tokens_per_s", read / token, "vision_s",
                     vision_flops(p) / flops, "calibrate_s", calibrate);
}
