#include "quant/plan.h"

#include <string.h>

typedef struct making {
    sq_plan *plan;
    const sq_quantize_options *o;
    int64_t group;
    int bits, vision_bits, awq, gptq;
    int act_bits, act_symmetric, symmetric; /* of the language model */
} making;

static sq_status count(void *user, sq_linear *l, sq_error *err) {
    (void)l;
    (void)err;
    ++*(size_t *)user;
    return SQ_OK;
}

/* The largest usual group below the wanted one that divides; 0 when none does. */
static int64_t smaller_group(int64_t k, int64_t group) {
    for (int64_t g = group / 2; g >= 4; g /= 2) {
        if (k % g == 0) {
            return g;
        }
    }
    return 0;
}

static void fit_group(sq_plan_row *r, int64_t group, sq_indivisible how) {
    int64_t k = r->linear->weight.k, smaller = smaller_group(k, group);
    r->grid.k = r->grid.k_padded = k;
    if (group < 0 || k % group == 0) {
        r->grid.group = group < 0 ? k : group;
    } else if (how == SQ_KEEP) {
        r->quantize = 0;
        r->note = "kept: the group does not divide the columns";
    } else if (how == SQ_SMALLER_GROUP && smaller > 0) {
        r->grid.group = smaller;
        r->note = "a smaller group that divides the columns";
    } else if (how == SQ_CHANNEL || how == SQ_SMALLER_GROUP) {
        r->grid.group = k;
        r->note = "one group a row: the group does not divide the columns";
    } else {
        r->grid.group = group;
        r->grid.k_padded = sq_round_up(k, group);
        r->note = "padded with zero columns";
    }
}

static sq_status decide(void *user, sq_linear *l, sq_error *err) {
    making *m = user;
    sq_plan_row *r = &m->plan->rows[m->plan->n++];
    int bits = l->part == SQ_PART_TEXT ? m->bits : m->vision_bits;
    if (l->file == NULL) {
        return sq_fail(err, SQ_EARG, "'%s' is quantized already; wanted the original checkpoint",
                       l->name);
    }
    *r = (sq_plan_row){.linear = l, .quantize = bits != 0, .awq = m->awq, .gptq = m->gptq};
    int text = l->part == SQ_PART_TEXT;
    r->grid = (sq_grid){.bits = bits,
                        .symmetric = text ? m->symmetric : m->o->symmetric,
                        .act_bits = text ? m->act_bits : 0,
                        .act_symmetric = m->act_symmetric,
                        .scale_type = l->file->dtype};
    if (r->quantize) {
        fit_group(r, text || m->o->group_size != 0 ? m->group : 128, m->o->indivisible);
    }
    return SQ_OK;
}

static int is(const char *value, const char *name, const char *fallback) {
    return strcmp(value == NULL ? fallback : value, name) == 0;
}

/* Bits of weights and of inputs. W8A8 is symmetric, one scale a row (compressed-tensors' preset);
 * W4A8 is torchao's A8W4DQ: symmetric groups, inputs with a zero point. */
static int read_scheme(making *m, const char *scheme) {
    static const struct {
        const char *name;
        int bits, act_bits, act_symmetric;
    } known[] = {{"w4a16", 4, 0, 0}, {"w8a16", 8, 0, 0}, {"w8a8", 8, 8, 1}, {"w4a8", 4, 8, 0}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (is(scheme, known[i].name, "w4a16")) {
            m->bits = known[i].bits;
            m->act_bits = known[i].act_bits;
            m->act_symmetric = known[i].act_symmetric;
            m->symmetric = m->act_bits != 0 || m->o->symmetric;
            return 1;
        }
    }
    return 0;
}

int sq_plan_needs_data(const sq_quantize_options *o) { return !is(o->method, "rtn", "awq"); }

sq_status sq_plan_make(sq_plan *out, const sq_net *net, const sq_quantize_options *o,
                       sq_error *err) {
    *out = (sq_plan){0};
    making m = {.plan = out, .o = o};
    m.awq = is(o->method, "awq", "awq") || is(o->method, "awq+gptq", "awq");
    m.gptq = is(o->method, "gptq", "awq") || is(o->method, "awq+gptq", "awq");
    if (!m.awq && !m.gptq && !is(o->method, "rtn", "awq")) {
        return sq_fail(err, SQ_EARG, "method '%s' is not there; wanted rtn, awq, gptq or awq+gptq",
                       o->method);
    }
    if (!(o->damp >= 0 && o->damp <= 1)) {
        return sq_fail(err, SQ_EARG, "damping out of range; got %g, wanted 0..1", o->damp);
    }
    if (!read_scheme(&m, o->scheme)) {
        return sq_fail(err, SQ_EARG, "scheme '%s' is not there; wanted w4a16, w8a16, w8a8 or w4a8",
                       o->scheme);
    }
    int keep = is(o->vision, "keep", "keep");
    m.vision_bits = is(o->vision, "w4a16", "keep") ? 4 : is(o->vision, "w8a16", "keep") ? 8 : 0;
    if (!keep && m.vision_bits == 0) {
        return sq_fail(err, SQ_EARG, "vision '%s' is not there; wanted keep, w8a16 or w4a16",
                       o->vision);
    }
    if (!is(o->format, "compressed-tensors", "compressed-tensors")) {
        return sq_fail(err, SQ_EARG, "format '%s' is not there; wanted compressed-tensors",
                       o->format);
    }
    m.group = o->group_size != 0 ? o->group_size : is(o->scheme, "w8a8", "w4a16") ? -1 : 128;
    if (m.group != -1 && (m.group < 4 || m.group > 65536 || m.group % 4 != 0)) {
        return sq_fail(err, SQ_EARG,
                       "group size out of range; got %lld, wanted -1 or a multiple of 4",
                       (long long)m.group);
    }
    if (sq_plan_needs_data(o) && o->calib == NULL && o->stats == NULL) {
        sq_fail(err, SQ_EARG, "method %s needs data; wanted --calib FILE.jsonl or --stats FILE",
                o->method == NULL ? "awq" : o->method);
        sq_hint(err, "add --calib FILE.jsonl, or use --method rtn");
        return SQ_EARG;
    }
    size_t n = 0;
    sq_net *reading = (sq_net *)(uintptr_t)net; /* the visitors only read */
    sq_net_each_linear(reading, count, &n, err);
    out->rows = sq_alloc(n, sizeof *out->rows, "a plan", err);
    sq_status st = out->rows == NULL ? SQ_ENOMEM : sq_net_each_linear(reading, decide, &m, err);
    if (st != SQ_OK) {
        sq_plan_close(out);
    }
    return st;
}

void sq_plan_close(sq_plan *p) {
    sq_free(p->rows);
    *p = (sq_plan){0};
}

const sq_plan_row *sq_plan_find(const sq_plan *p, const sq_linear *l) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].linear == l) {
            return &p->rows[i];
        }
    }
    return NULL;
}
