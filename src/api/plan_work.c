/* What making the model small takes, and how long running it takes on this machine. */
#include "api/plan.h"

#include "kernels/kernels.h"

/* As quantize allocates: quant/stats.c, tap.c, ranges.c, refine.c, awq.c, gptq.c, kernels/matmul.c.
 */
enum {
    SAMPLE_ROWS = 128,                 /* of a tap's inputs that are kept */
    STAT_ROWS = 512,                   /* of a tap's inputs while they come */
    ERROR_ROWS = 256,                  /* rows of a tap's error, twice */
    SEEN_ROWS = 256,                   /* outputs that an error is looked at in */
    SEARCH_ROWS = 128,                 /* of the scale search, three times */
    TILE = 64,                         /* rows a thread of the range search and of GPTQ */
    MOVES = 8,                         /* of a range */
    BLOCK = 128,                       /* columns that GPTQ rounds at once, */
    LANES = 6 * SQ_GPTQ_LANES * BLOCK, /* what its kernel works in */
    SLICE = 16 << 20,                  /* bytes of a tensor that are copied at once */
    EDGES = 2 * 4096,                  /* pages that a tensor shares with its neighbours */
    SHARED_COLUMNS = 48,
    /* Passes of samples beside those of a conversation: oneDNN's code and its copies of operands,
     * what is left of the text. Measured on models of 9 MB to 1.5 GB. */
    PASSES = 5000000
};

/* The linears that share an input. */
typedef struct tap_shape {
    int64_t k, rows, widest; /* columns; rows of its linears in all, and of the largest */
} tap_shape;

/* A kind of stage: decoder layer, tower block, merger. */
typedef struct stage_kind {
    sq_part part;
    const sq_block_rows *rows;
    int64_t count;
} stage_kind;

static int stages_of(const sq_config *c, stage_kind out[3]) {
    int n = 0;
    out[n++] = (stage_kind){SQ_PART_TEXT, &c->text->text, c->layers};
    if (c->tower != NULL) {
        out[n++] = (stage_kind){SQ_PART_VISION, &c->tower->block, c->v_layers};
        out[n++] = (stage_kind){SQ_PART_MERGER, &c->projector->rows, 1};
    }
    return n;
}

static tap_shape shape_of(const sq_config *c, const sq_block_rows *rows, int tap) {
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

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- one stage ---- */

/* Floats of the searches beside weights and codes: they come one after the other. */
static int64_t search_floats(const sq_planning *p, const tap_shape *s, int64_t group, int bits) {
    int64_t threads = sq_threads(), k = s->k, groups = sq_ceil_div(k, group);
    int64_t width = group < k ? group : k, search = 0;
    if (p->policy.awq) {
        search = 2 * SEARCH_ROWS * k + larger(SEARCH_ROWS * k, SEARCH_ROWS * SAMPLE_ROWS) +
                 SAMPLE_ROWS * k + 4 * k;
    }
    int64_t joint = bits >= 8 ? 0 : TILE * k + 2 * TILE * MOVES * width + 2 * TILE * width;
    int64_t rounding = TILE * k + TILE * BLOCK + LANES;
    int products = p->policy.gptq || bits < 8; /* with X'X or the factor in bf16 */
    int64_t narrow =
        products && sq_kernels_get()->tile_bf16 != NULL ? k * k / 2 + threads * TILE * k / 2 : 0;
    int64_t encode = s->widest * groups * 2 + threads * (p->policy.gptq ? rounding : joint) +
                     narrow; /* and ranges */
    return larger(search, encode);
}

/* Bytes of one tap's work beside the statistics: its weights, one linear's scaled, errors, codes.
 */
static uint64_t tap_bytes(const sq_planning *p, sq_part part, const tap_shape *s) {
    const sq_part_policy *q = &p->policy.part[part];
    sq_fit f = sq_policy_fit(s->k, q->group, p->policy.indivisible);
    int64_t k = s->k, group = f.kept || f.group > k ? k : f.group;
    int64_t groups = sq_ceil_div(k, group), data = sq_policy_needs_data(&p->policy);
    int64_t floats =
        s->rows * k + s->widest * k + 2 * ERROR_ROWS * k + SAMPLE_ROWS * (k + SEEN_ROWS) + 2 * k;
    int64_t codes = s->rows * groups * (group + 5); /* a byte a code, scales, zero points */
    if (data) {
        floats += search_floats(p, s, group, q->bits) + (p->policy.gptq ? k * (k + BLOCK) : 0);
        codes *= p->policy.awq ? 2 : 1; /* what another scale gives beside the best */
    }
    return (uint64_t)(floats * (int64_t)sizeof(float) + codes);
}

/* Sums over the taps of a stage. */
typedef struct stage_sums {
    uint64_t stats, rows, pages, work; /* X'X and so on; its scratch; dense weights; largest tap */
} stage_sums;

static stage_sums sums_of(const sq_planning *p, const stage_kind *g) {
    stage_sums s = {0};
    for (int t = 0; t < g->rows->n_taps; t++) {
        tap_shape tap = shape_of(&p->config, g->rows, t);
        uint64_t k = (uint64_t)tap.k, work = tap_bytes(p, g->part, &tap);
        s.stats += k * k * 4 + k * 12 + SAMPLE_ROWS * k * 4;
        s.rows += STAT_ROWS * k * 4;
        s.pages += (uint64_t)tap.rows * k * (uint64_t)p->dense;
        s.work = p->policy.part[g->part].bits != 0 && work > s.work ? work : s.work;
    }
    return s;
}

/* ---- the samples ---- */

typedef struct sample_plan {
    int64_t samples, seq, tokens;
    uint64_t activations, embedding; /* bytes; of embedding them beside that */
    uint64_t pass[SQ_PARTS];         /* of a pass through a stage */
} sample_plan;

/* Of `seq` tokens each, a picture of the plan's size among them. */
static sample_plan samples_of(const sq_planning *p, const sq_plan_options *o) {
    const sq_config *c = &p->config;
    const int64_t *d = c->dims;
    sample_plan s = {o->samples > 0 ? o->samples : 128, o->seq > 0 ? o->seq : 512, 0, 0, 0, {0}};
    s.seq = larger(s.seq, p->picture.tokens);
    s.tokens = s.samples * s.seq;
    s.activations = (uint64_t)s.tokens * (uint64_t)(d[SQ_D_HIDDEN] * (int64_t)sizeof(float) + 12);
    uint64_t kv = (uint64_t)(2 * c->kv_heads * c->head_dim * sq_round_up(s.seq, SQ_KV_BLOCK));
    int64_t widest = larger(d[SQ_D_INTER], d[SQ_D_HIDDEN]), threads = sq_threads();
    uint64_t narrow = (uint64_t)(SAMPLE_ROWS * widest + threads * SHARED_COLUMNS * widest / 2);
    s.pass[SQ_PART_TEXT] =
        sq_text_work(c, s.seq) + (kv + (uint64_t)(s.seq * c->head_dim) + narrow) * sizeof(float);
    s.embedding = sq_embed_window(c, s.seq, p->part[SQ_PART_EMBED]);
    if (p->vision == 0) {
        return s;
    }
    s.pass[SQ_PART_VISION] = s.pass[SQ_PART_MERGER] = p->vision;
    s.embedding += p->vision;
    if (sq_policy_vision(&p->policy)) {
        s.activations +=
            (uint64_t)s.samples * sq_vision_state_floats(c, &p->picture) * sizeof(float);
    } else {
        s.embedding += p->part[SQ_PART_VISION] + p->part[SQ_PART_MERGER];
    }
    return s;
}

/* Whether the samples go through a stage of this kind to be measured. */
static int is_measured(const sq_planning *p, sq_part part) {
    return sq_policy_needs_data(&p->policy) &&
           (part == SQ_PART_TEXT || (p->vision > 0 && sq_policy_vision(&p->policy)));
}

/* Rounding the embeddings or a head of its own (quant/outside.c): the matrix in the file's pages, a
 * byte a code, scales and zero points, and what is stored of it. */
static uint64_t outside_bytes(const sq_planning *p) {
    const int64_t *d = p->config.dims;
    uint64_t most = 0;
    for (int i = SQ_PART_HEAD; i <= SQ_PART_EMBED; i++) {
        const sq_part_policy *q = &p->policy.part[i];
        sq_fit f = sq_policy_fit(d[SQ_D_HIDDEN], q->group, p->policy.indivisible);
        if (q->bits == 0 || f.kept || (i == SQ_PART_HEAD && p->config.tied)) {
            continue;
        }
        uint64_t row = (uint64_t)(d[SQ_D_HIDDEN] * p->dense + f.columns + f.columns * q->bits / 8 +
                                  f.columns / f.group * 8);
        uint64_t bytes = (uint64_t)d[SQ_D_VOCAB] * row;
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* The most that a stage, or embedding the samples, takes beside their activations: of `calibrate`,
 * or with `work` of quantize until it verifies. */
static uint64_t stage_peak(const sq_planning *p, const sample_plan *s, int work, uint64_t *stats) {
    stage_kind kinds[3];
    int n = stages_of(&p->config, kinds), data = sq_policy_needs_data(&p->policy);
    uint64_t most = data ? s->embedding : 0, outside = work ? outside_bytes(p) : 0;
    most = outside > most ? outside : most;
    for (int i = 0; i < n; i++) {
        stage_sums g = sums_of(p, &kinds[i]);
        int measured = is_measured(p, kinds[i].part);
        uint64_t pass = measured ? g.stats + g.rows + g.pages + s->pass[kinds[i].part] : 0;
        uint64_t block = work ? (measured ? g.stats : 0) + g.work : 0;
        most = pass > most ? pass : most;
        most = block > most ? block : most;
        *stats = measured && g.stats > *stats ? g.stats : *stats;
    }
    return most;
}

static uint64_t base_bytes(const sq_planning *p) {
    return p->program + (sq_policy_needs_data(&p->policy) ? PASSES : 0);
}

json_t *sq_plan_calibration(const sq_planning *p, const sq_plan_options *o) {
    sample_plan s = samples_of(p, o);
    stage_kind kinds[3];
    int n = stages_of(&p->config, kinds);
    uint64_t stats = 0, file = 0,
             total = base_bytes(p) + s.activations + stage_peak(p, &s, 0, &stats);
    if (!sq_policy_needs_data(&p->policy)) {
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        file += is_measured(p, kinds[i].part)
                    ? sums_of(p, &kinds[i]).stats * (uint64_t)kinds[i].count
                    : 0;
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "samples", (json_int_t)s.samples, "seq",
                     (json_int_t)s.seq, "tokens", (json_int_t)s.tokens, "activation_bytes",
                     (json_int_t)s.activations, "statistics_bytes", (json_int_t)stats,
                     "statistics_file_bytes", (json_int_t)file, "total_bytes", (json_int_t)total);
}

json_t *sq_plan_quantize(const sq_planning *p, const sq_plan_options *o) {
    sample_plan s = samples_of(p, o);
    stage_kind kinds[3];
    int n = stages_of(&p->config, kinds);
    uint64_t stats = 0, work = 0, packed = 0, stage = stage_peak(p, &s, 1, &stats),
             total = base_bytes(p) + stage + (sq_policy_needs_data(&p->policy) ? s.activations : 0);
    for (int i = 0; i < n; i++) {
        uint64_t w = sums_of(p, &kinds[i]).work;
        work = w > work ? w : work;
    }
    for (int i = 0; i < SQ_PARTS; i++) {
        packed += p->packed[i];
    }
    /* It opens what was written, beside the original, and reads every tensor slice by slice; of
     * each its first and last page stay. */
    uint64_t edges = EDGES * (p->tensors + p->written);
    uint64_t verify = base_bytes(p) + packed + (p->disk < SLICE ? p->disk : SLICE) + edges;
    const char *method = p->policy.gptq  ? p->policy.awq ? "awq+gptq" : "gptq"
                         : p->policy.awq ? "awq"
                                         : "rtn";
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I}", "method", method, "work_bytes", (json_int_t)work,
        "stage_bytes", (json_int_t)stage, "verify_bytes", (json_int_t)verify, "total_bytes",
        (json_int_t)(verify > total ? verify : total), "disk_bytes", (json_int_t)p->disk);
}

/* ---- time ---- */

/* Operations of a forward pass over `tokens` after none: linears, and attention to half of the
 * square. */
static double text_flops(const sq_planning *p, double tokens) {
    return 2 * (double)p->linear[SQ_PART_TEXT] * tokens;
}

static double attention_flops(const sq_planning *p, double tokens) {
    const sq_config *c = &p->config;
    return 2 * (double)(c->heads * c->head_dim * c->layers) * tokens * tokens;
}

/* Patches that a linear of the tower sees; *full: of those, what a row attends to, summed over the
 * layers. */
static double vision_rows(const sq_planning *p, double *full) {
    const sq_config *c = &p->config;
    const sq_pixels *px = &p->picture;
    double rows = c->tower != NULL && c->tower->kind == SQ_TOWER_QWEN
                      ? (double)(px->grid_h * px->grid_w)
                      : (c->tower == NULL ? 0 : (double)sq_config_tile_rows(c));
    double window = c->tower != NULL && c->tower->windows
                        ? (double)(c->window / c->patch) * (double)(c->window / c->patch)
                        : rows;
    *full = 0;
    for (int64_t l = 0; l < c->v_layers; l++) {
        *full += c->v_full[l] ? rows : window < rows ? window : rows;
    }
    return (double)px->grid_t * rows;
}

/* FLOP/s of a part's linears: as they are stored, or as they are packed. */
static double part_rate(const sq_planning *p, sq_part part, double f32) {
    const sq_part_policy *q = &p->policy.part[part];
    if (p->packed[part] == 0) {
        return f32;
    }
    int bits = p->schemed ? q->bits : p->bits, act = p->schemed ? q->act_bits : p->act_bits;
    return 1e9 * sq_measure_rounded(bits == 8 ? 8 : 4, act == 8 ? SQ_ROUND_8 : SQ_ROUND_16);
}

json_t *sq_plan_times(const sq_planning *p, const sq_plan_options *o, int64_t context) {
    const sq_config *c = &p->config;
    double read = sq_measure_bandwidth(), f32 = sq_measure_sgemm() * 1e9;
    double bf16 =
        p->dense == 2 && sq_kernels_get()->tile_bf16 != NULL ? sq_measure_bf16() * 1e9 : f32;
    double text = part_rate(p, SQ_PART_TEXT, f32), vision = part_rate(p, SQ_PART_VISION, f32);
    sample_plan s = samples_of(p, o);
    uint64_t head = p->round_head ? p->head : p->part[c->tied ? SQ_PART_EMBED : SQ_PART_HEAD];
    double token =
        (double)(p->part[SQ_PART_TEXT] + head) + (double)sq_plan_kv_token(c) * (double)context;
    double moments = 0, full, rows = vision_rows(p, &full);
    if (!(read > 0 && f32 > 0 && bf16 > 0 && text > 0 && vision > 0)) {
        return NULL;
    }
    for (int t = 0; t < c->text->text.n_taps; t++) { /* X'X, of which half is computed */
        double k = (double)shape_of(c, &c->text->text, t).k;
        moments += k * k * (double)s.tokens * (double)c->layers;
    }
    double prefill =
        text_flops(p, (double)context) / text + attention_flops(p, (double)context) / f32;
    double see = (2 * rows * (double)p->linear[SQ_PART_VISION] +
                  2 * (double)p->picture.tokens * (double)p->linear[SQ_PART_MERGER]) /
                     vision +
                 4 * rows * full * (double)c->dims[SQ_D_V_WIDTH] / f32;
    double calibrate =
        ((double)s.samples * text_flops(p, (double)s.seq) + moments) / bf16 +
        (double)s.samples * (attention_flops(p, (double)s.seq) / f32 + (p->vision > 0 ? see : 0));
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "read_bytes_per_s", read,
                     "prefill_flop_per_s", text, "vision_flop_per_s", vision, "prefill_s", prefill,
                     "prefill_tokens_per_s", (double)context / prefill, "decode_tokens_per_s",
                     read / token, "vision_s", see, "calibrate_s", calibrate);
}
