/* Weights by part: in files, and in memory as the kernels hold them. */
#include <string.h>

#include "api/plan.h"
#include "format/safetensors.h"

enum {
    CHUNK = 128,    /* columns of the kernels' packed rows: 16 bytes a bit of the code */
    SCALE_BYTES = 8 /* of a group: scale and offset in f32 */
};

static uint64_t packed_bytes(int64_t n, int64_t columns, int bits, int64_t groups) {
    return (uint64_t)(n *
                      (sq_ceil_div(columns, CHUNK) * (CHUNK / 8) * bits + groups * SCALE_BYTES));
}

/* ---- from the configuration ---- */

static int is_linear(const char *name, int rank) {
    return rank == 2 && strstr(name, "embed") == NULL;
}

static sq_status count_tensor(void *user, const char *name, sq_part part, int rank,
                              const int64_t *shape, sq_error *err) {
    sq_planning *p = user;
    int64_t n = shape[0], k = 1;
    (void)err;
    for (int i = 1; i < rank; i++) {
        k *= shape[i];
    }
    const sq_part_policy *q = &p->policy.part[part];
    if (!p->schemed || !is_linear(name, rank) || part == SQ_PART_HEAD || q->bits == 0) {
        p->part[part] += (uint64_t)(n * k * p->dense);
        p->disk += (uint64_t)(n * k * p->dense);
        return SQ_OK;
    }
    int64_t group = q->group < 0 ? k : q->group, kp = sq_round_up(k, group), groups = kp / group;
    int64_t stored = q->act_bits != 0 ? kp : sq_round_up(kp * q->bits, 32) / 8;
    p->part[part] += packed_bytes(n, kp, q->bits, groups);
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

static int ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Codes keep their bytes (rows filled up to a chunk), each scale brings an offset, zero points and
 * orders of columns go into these; ggml's blocks become 4- or 8-bit rows. */
static uint64_t in_memory(const sq_tensor *t) {
    static const char *const gone[] = {".weight_zero_point", ".weight_shape", ".qzeros", ".g_idx",
                                       ".weight_g_idx"};
    static const struct {
        sq_dtype type;
        int bits, group;
    } blocks[] = {{SQ_Q4_0, 4, 32}, {SQ_Q4_1, 4, 32}, {SQ_Q5_0, 8, 32}, {SQ_Q5_1, 8, 32},
                  {SQ_Q8_0, 8, 32}, {SQ_Q4_K, 4, 32}, {SQ_Q5_K, 8, 32}, {SQ_Q6_K, 8, 16}};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        if (ends_with(t->name, gone[i])) {
            return 0;
        }
    }
    for (size_t i = 0; t->rank == 2 && i < sizeof blocks / sizeof *blocks; i++) {
        if (t->dtype == blocks[i].type) {
            return packed_bytes(t->shape[0], t->shape[1], blocks[i].bits,
                                t->shape[1] / blocks[i].group);
        }
    }
    if (ends_with(t->name, ".weight_scale") || ends_with(t->name, ".scales")) {
        return t->bytes / sq_dtype_size(t->dtype) * SCALE_BYTES;
    }
    if (ends_with(t->name, ".weight_packed") && t->rank == 2) {
        return (uint64_t)(t->shape[0] * sq_round_up(t->shape[1] * 4, CHUNK / 2));
    }
    return t->bytes;
}

static sq_part part_of(const sq_config *c, const char *file_name) {
    char name[512];
    if (c->tower == NULL) {
        return SQ_PART_TEXT;
    }
    sq_arch_canonical(c->arch, file_name, name, sizeof name);
    return strncmp(name, "visual.merger.", 14) == 0 || strstr(name, "projector.") != NULL
               ? SQ_PART_MERGER
           : strncmp(name, "vis", 3) == 0 ? SQ_PART_VISION
                                          : SQ_PART_TEXT;
}

static sq_status count_file(sq_planning *p, const char *model, sq_error *err) {
    sq_checkpoint *c = NULL;
    sq_status st = sq_checkpoint_open(&c, model, err);
    for (size_t i = 0; st == SQ_OK && i < sq_checkpoint_count(c); i++) {
        const sq_tensor *t = sq_checkpoint_at(c, i);
        p->disk += t->bytes;
        p->part[part_of(&p->config, t->name)] += in_memory(t);
    }
    sq_checkpoint_close(&c);
    return st;
}

sq_status sq_plan_weights(sq_planning *p, const char *model, int files, sq_error *err) {
    sq_status st;
    memset(p->part, 0, sizeof p->part);
    memset(p->linear, 0, sizeof p->linear);
    p->disk = 0;
    p->embed = (uint64_t)(p->config.dims[SQ_D_VOCAB] * p->config.dims[SQ_D_HIDDEN] * p->dense);
    SQ_TRY(sq_config_tensors(&p->config, count_linear, p, err));
    st = !p->schemed && files ? count_file(p, model, err)
                              : sq_config_tensors(&p->config, count_tensor, p, err);
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
