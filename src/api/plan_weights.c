/* Weights by part: in files, and in memory as the kernels hold them. */
#include <stdio.h>
#include <string.h>

#include "api/plan.h"
#include "format/qconfig.h"
#include "format/safetensors.h"

/* ---- from the configuration ---- */

static int is_linear(const char *name, int rank) {
    return rank == 2 && strstr(name, "embed") == NULL;
}

/* Whether a scheme of its part can apply to it. */
static int is_matrix(const char *name, sq_part part, int rank) {
    return is_linear(name, rank) || (part == SQ_PART_EMBED && rank == 2);
}

/* "NAME.weight" or another tensor of the module. */
static int of_module(const char *name, const char *module) {
    size_t n = strlen(module);
    return strncmp(name, module, n) == 0 && name[n] == '.';
}

static sq_status count_tensor(void *user, const char *name, sq_part part, int rank,
                              const int64_t *shape, sq_error *err) {
    sq_planning *p = user;
    int64_t n = shape[0], k = 1;
    p->tensors++;
    p->written++;
    part = of_module(name, p->config.text->embed) ? SQ_PART_EMBED : part;
    (void)err;
    for (int i = 1; i < rank; i++) {
        k *= shape[i];
    }
    const sq_part_policy *q = &p->policy.part[part];
    sq_fit f = sq_policy_fit(k, q->group, p->policy.indivisible);
    if (!p->schemed || !is_matrix(name, part, rank) || q->bits == 0 || f.kept) {
        p->part[part] += (uint64_t)(n * k * p->dense);
        p->disk += (uint64_t)(n * k * p->dense);
        return SQ_OK;
    }
    int64_t groups = f.columns / f.group;
    int64_t stored = q->act_bits != 0 ? f.columns : sq_round_up(f.columns * q->bits, 32) / 8;
    uint64_t packed = sq_packed_bytes(q->bits, n, k, f.columns, f.group, q->symmetric ? 2 : 3);
    p->part[part] += packed;
    p->packed[part] += packed;
    p->written += q->symmetric ? 2 : 3; /* scale, shape, zero points */
    p->disk +=
        (uint64_t)(n * (stored + groups * 2) + (q->symmetric ? 0 : n * groups * q->bits / 8));
    return SQ_OK;
}

static sq_status count_linear(void *user, const char *name, sq_part part, int rank,
                              const int64_t *shape, sq_error *err) {
    sq_planning *p = user;
    (void)err;
    if (is_linear(name, rank)) {
        p->linear[part] += (uint64_t)(shape[0] * shape[1]);
    }
    return SQ_OK;
}

/* ---- from the files ---- */

/* Whether a tensor of zero points says anything else than the middle, as each layout stores it. */
static int has_offsets(const sq_tensor *zero) {
    const unsigned char *z = zero == NULL ? NULL : zero->data;
    for (size_t i = 1; z != NULL && i < zero->bytes; i++) {
        if (z[i] != z[0]) {
            return 1;
        }
    }
    return z != NULL && zero->bytes > 0 && z[0] != 0x88 && z[0] != 0x77 && z[0] != 0x80 &&
           z[0] != 0x7f;
}

static int exact_in_f16(const sq_tensor *t) {
    const char *p = t->data;
    size_t size = sq_dtype_size(t->dtype);
    for (size_t i = 0; i < t->bytes / size; i++) {
        float v;
        sq_to_f32(&v, p + i * size, t->dtype, 1);
        if (sq_f16_to_f32(sq_f32_to_f16(v)) != v) {
            return 0;
        }
    }
    return 1;
}

static int holds_codes(const sq_tensor *t) {
    return sq_dtype_block(t->dtype) > 1 || sq_ends_with(t->name, ".weight_packed") ||
           sq_ends_with(t->name, ".qweight") ||
           (t->dtype == SQ_I8 && sq_ends_with(t->name, ".weight"));
}

typedef struct wanted {
    const char *name;
    int64_t columns;
} wanted;

static sq_status take_columns(void *user, const char *name, sq_part part, int rank,
                              const int64_t *shape, sq_error *err) {
    wanted *w = user;
    (void)part;
    (void)err;
    if (strcmp(name, w->name) == 0) {
        w->columns = 1;
        for (int i = 1; i < rank; i++) {
            w->columns *= shape[i];
        }
    }
    return SQ_OK;
}

/* Columns of a module's weight, which its codes are padded behind; `stored` where none is known. */
static int64_t columns_of(const sq_config *c, const char *stem, int64_t stored) {
    char file[600], name[600];
    wanted w = {name, 0};
    snprintf(file, sizeof file, "%s.weight", stem);
    int known = sq_arch_canonical(c->arch, file, name, sizeof name) &&
                sq_config_tensors(c, take_columns, &w, NULL) == SQ_OK;
    return known && w.columns > 0 && w.columns < stored ? w.columns : stored;
}

/* compressed-tensors' codes as the kernels hold them, without scales and sums. */
static uint64_t code_bytes(const sq_config *c, const sq_qconfig *q, const sq_tensor *t) {
    char stem[512];
    sq_ct_scheme s = {.bits = 8};
    const char *dot = strrchr(t->name, '.');
    snprintf(stem, sizeof stem, "%.*s", (int)(dot - t->name), t->name);
    if (q == NULL || !sq_qconfig_scheme(q, stem, &s) || (s.bits != 4 && s.bits != 8)) {
        return t->bytes;
    }
    int64_t n = t->shape[0], stored = t->shape[1] * (t->dtype == SQ_I8 ? 1 : 32 / s.bits);
    int64_t k = columns_of(c, stem, stored);
    int64_t group = s.group_size > 0 && s.group_size < stored ? s.group_size : stored;
    return sq_packed_bytes(s.bits, n, k, stored, group, 0) -
           (uint64_t)sq_round_up(n, 16) * sizeof(int32_t);
}

/* Scales become f16 or f32 and bring offsets where there are zero points, which go into these;
 * orders of columns are held both ways, ggml's blocks become 4- or 8-bit rows. */
static uint64_t in_memory(const sq_config *config, const sq_checkpoint *c, const sq_qconfig *q,
                          const sq_tensor *t, int *packed) {
    static const char *const gone[] = {".weight_zero_point", ".weight_shape", ".qzeros", ".g_idx",
                                       ".weight_g_idx"};
    static const char *const scale[][2] = {{".weight_scale", ".weight_zero_point"},
                                           {".scales", ".qzeros"}};
    static const struct {
        sq_dtype type;
        int bits, group, scale;
    } blocks[] = {{SQ_Q4_0, 4, 32, 2}, {SQ_Q4_1, 4, 32, 8}, {SQ_Q5_0, 8, 32, 2},
                  {SQ_Q5_1, 8, 32, 8}, {SQ_Q8_0, 8, 32, 2}, {SQ_Q4_K, 4, 32, 8},
                  {SQ_Q5_K, 8, 32, 8}, {SQ_Q6_K, 8, 16, 4}};
    *packed = 1;
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        if (sq_ends_with(t->name, gone[i])) {
            return 0;
        }
    }
    for (size_t i = 0; t->rank == 2 && i < sizeof blocks / sizeof *blocks; i++) {
        if (t->dtype == blocks[i].type) {
            return sq_packed_bytes(blocks[i].bits, t->shape[0], t->shape[1], t->shape[1],
                                   blocks[i].group, blocks[i].scale);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        if (sq_ends_with(t->name, scale[i][0])) {
            char zero[512];
            size_t stem = strlen(t->name) - strlen(scale[i][0]);
            snprintf(zero, sizeof zero, "%.*s%s", (int)stem, t->name, scale[i][1]);
            int64_t n = t->shape[i == 0 ? 0 : t->rank - 1];
            uint64_t cells = t->bytes / sq_dtype_size(t->dtype) / (uint64_t)n;
            int offsets = has_offsets(sq_checkpoint_find(c, zero)), half = exact_in_f16(t);
            return (uint64_t)sq_round_up(n, 16) *
                   (cells * (half ? 2 + offsets : 4 + 4 * offsets) + 4);
        }
    }
    if (t->rank == 2 && (sq_ends_with(t->name, ".weight_packed") ||
                         (t->dtype == SQ_I8 && sq_ends_with(t->name, ".weight")))) {
        return code_bytes(config, q, t);
    }
    *packed = holds_codes(t) || t->owned;
    return t->bytes;
}

static sq_part part_of(const sq_config *c, const char *file_name) {
    char name[512];
    sq_arch_canonical(c->arch, file_name, name, sizeof name);
    return of_module(name, c->text->embed)  ? SQ_PART_EMBED
           : of_module(name, c->text->head) ? SQ_PART_HEAD
           : c->tower == NULL               ? SQ_PART_TEXT
           : strncmp(name, "visual.merger.", 14) == 0 || strstr(name, "projector.") != NULL
               ? SQ_PART_MERGER
           : strncmp(name, "vis", 3) == 0 ? SQ_PART_VISION
                                          : SQ_PART_TEXT;
}

/* The part that the head is of. */
static sq_part head_of(const sq_config *c) { return c->tied ? SQ_PART_EMBED : SQ_PART_HEAD; }

/* How the products of packed codes run: bits of the weights, and of the inputs where these are
 * rounded. */
static void note_scheme(sq_planning *p, const sq_qconfig *q, const sq_tensor *t) {
    char stem[512];
    sq_ct_scheme s = {.bits = sq_dtype_size(t->dtype) * 8 > 6 * sq_dtype_block(t->dtype) ? 8 : 4};
    const char *dot = strrchr(t->name, '.');
    snprintf(stem, sizeof stem, "%.*s", dot == NULL ? 0 : (int)(dot - t->name), t->name);
    if (q != NULL) {
        sq_qconfig_scheme(q, stem, &s);
    }
    p->bits = s.bits;
    p->act_bits = s.act_bits;
}

static sq_status count_file(sq_planning *p, const char *model, sq_error *err) {
    sq_checkpoint *c = NULL;
    sq_qconfig *q = NULL;
    const json_t *how = json_object_get(p->config.json, "quantization_config");
    sq_status st = sq_checkpoint_open(&c, model, err);
    if (json_is_object(how) && sq_qconfig_open(&q, how, NULL) != SQ_OK) {
        q = NULL; /* opening the model says why */
    }
    int quantized = 0;
    for (size_t i = 0; st == SQ_OK && i < sq_checkpoint_count(c); i++) {
        const sq_tensor *t = sq_checkpoint_at(c, i);
        sq_part part = part_of(&p->config, t->name);
        int packed = 0;
        uint64_t bytes = in_memory(&p->config, c, q, t, &packed);
        quantized |= holds_codes(t) && part < SQ_PART_HEAD;
        if (holds_codes(t) && part == SQ_PART_TEXT && p->bits == 0) {
            note_scheme(p, q, t);
        }
        p->disk += t->bytes;
        p->part[part] += bytes;
        p->packed[part] += packed ? bytes : 0;
    }
    p->round_head = quantized && p->packed[head_of(&p->config)] == 0;
    sq_qconfig_close(&q);
    sq_checkpoint_close(&c);
    return st;
}

sq_status sq_plan_weights(sq_planning *p, const char *model, int files, sq_error *err) {
    sq_status st;
    memset(p->part, 0, sizeof p->part);
    memset(p->packed, 0, sizeof p->packed);
    memset(p->linear, 0, sizeof p->linear);
    p->disk = 0;
    p->tensors = p->written = 0;
    SQ_TRY(sq_config_tensors(&p->config, count_linear, p, err));
    st = !p->schemed && files ? count_file(p, model, err)
                              : sq_config_tensors(&p->config, count_tensor, p, err);
    if (p->schemed) {
        p->round_head = p->packed[SQ_PART_TEXT] > 0 && p->packed[head_of(&p->config)] == 0;
    }
    const int64_t *d = p->config.dims;
    p->head = p->round_head ? sq_packed_bytes(8, d[SQ_D_VOCAB], d[SQ_D_HIDDEN],
                                              sq_round_up(d[SQ_D_HIDDEN], 128), 128, 2)
                            : 0;
fail:
    return st;
}

uint64_t sq_plan_weight_bytes(const sq_planning *p) {
    uint64_t sum = 0;
    for (int i = 0; i < SQ_PARTS; i++) {
        sum += p->part[i];
    }
    return sum;
}

/* Dense weights of a part: the files' pages. */
static uint64_t pages(const sq_planning *p, sq_part part) {
    return p->part[part] - p->packed[part];
}

uint64_t sq_plan_read_bytes(const sq_planning *p, int64_t context) {
    uint64_t sum = sq_plan_weight_bytes(p) + p->head, embed = pages(p, SQ_PART_EMBED);
    if (p->vision == 0) {
        sum -= pages(p, SQ_PART_VISION) + pages(p, SQ_PART_MERGER);
    }
    if (p->round_head && !p->config.tied) {
        sum -= pages(p, SQ_PART_HEAD); /* read once, and given back */
    }
    if (p->round_head || !p->config.tied) {
        sum -= embed - sq_embed_window(&p->config, context, embed);
    }
    return sum;
}

uint64_t sq_plan_open_bytes(const sq_planning *p) {
    uint64_t sum = p->round_head ? p->head + pages(p, head_of(&p->config)) : 0;
    for (int i = 0; i < SQ_PARTS; i++) {
        sum += p->packed[i];
    }
    return sum;
}
