#include "quant/plan.h"

#include <string.h>

sq_status sq_plan_count(void *user, sq_linear *l, sq_error *err) {
    (void)l;
    (void)err;
    ++*(size_t *)user;
    return SQ_OK;
}

void sq_plan_fit(sq_plan_row *r, int64_t group, sq_indivisible how) {
    sq_fit f = sq_policy_fit(r->linear->weight.k, group, how);
    r->grid.k = r->linear->weight.k;
    r->grid.k_padded = f.columns;
    r->grid.group = f.kept ? r->grid.group : f.group;
    r->quantize &= !f.kept;
    r->note = f.note != NULL ? f.note : r->note;
}

static sq_status decide(void *user, sq_linear *l, sq_error *err) {
    sq_plan *plan = user;
    sq_plan_row *r = &plan->rows[plan->n++];
    const sq_policy *policy = &plan->policy;
    const sq_part_policy *p = &policy->part[l->part];
    if (l->file == NULL) {
        return sq_fail(err, SQ_EARG, "'%s' is quantized already; wanted the original checkpoint",
                       l->name);
    }
    *r = (sq_plan_row){
        .linear = l, .quantize = p->bits != 0, .awq = policy->awq, .gptq = policy->gptq};
    r->grid = (sq_grid){.bits = p->bits,
                        .symmetric = p->symmetric,
                        .act_bits = p->act_bits,
                        .act_symmetric = p->act_symmetric,
                        .scale_type =
                            plan->layout == SQ_LAYOUT_CT && !plan->gguf ? l->file->dtype : SQ_F16};
    /* Scale times zero point is Q4_1's minimum: 7 + 4 bits are as many as float16 has. */
    r->grid.scale_bits = plan->gguf && p->bits == 4 && !p->symmetric ? 7 : 0;
    if (r->quantize) {
        sq_plan_fit(r, p->group, policy->indivisible);
    }
    return SQ_OK;
}

sq_status sq_plan_make(sq_plan *out, const sq_net *net, const sq_quantize_options *o,
                       sq_error *err) {
    *out = (sq_plan){0};
    sq_status st;
    SQ_TRY(sq_policy_read(&out->policy, o, err));
    if (!(o->damp >= 0 && o->damp <= 1)) {
        return sq_fail(err, SQ_EARG, "damping out of range; got %g, wanted 0..1", o->damp);
    }
    out->gguf = o->format != NULL && strcmp(o->format, "gguf") == 0;
    if (o->format != NULL && !out->gguf && !sq_layout_parse(o->format, &out->layout)) {
        return sq_fail(err, SQ_EARG,
                       "format '%s' is not there; wanted compressed-tensors, awq-gemm, awq-gemv, "
                       "gptq, gptq-v2 or gguf",
                       o->format);
    }
    out->damp = o->damp == 0 ? 0.01 : o->damp;
    if (sq_policy_needs_data(&out->policy) && o->calib == NULL && o->stats == NULL) {
        sq_fail(err, SQ_EARG, "this method needs data; wanted --calib FILE.jsonl or --stats FILE");
        sq_hint(err, "add --calib FILE.jsonl, or use --method rtn");
        return SQ_EARG;
    }
    if (o->sequential && (o->stats != NULL || !sq_policy_needs_data(&out->policy))) {
        return sq_fail(err, SQ_EARG,
                       "--sequential runs data through what is quantized so far; wanted a method "
                       "with data, and --calib instead of --stats");
    }
    SQ_TRY(sq_policy_check_tied(&out->policy, net->config.tied, err));
    if (o->tp < 0) {
        return sq_fail(err, SQ_EARG, "--tp out of range; got %d, wanted 1 or more", o->tp);
    }
    if (o->target_bits != 0 && !sq_policy_needs_data(&out->policy)) {
        return sq_fail(err, SQ_EARG, "--target-bits measures on data; wanted a method with data");
    }
    size_t n = 0;
    sq_net *reading = (sq_net *)(uintptr_t)net; /* the visitors only read */
    sq_net_every_linear(reading, sq_plan_count, &n, err);
    out->rows = sq_alloc(n, sizeof *out->rows, "a plan", err);
    st = out->rows == NULL ? SQ_ENOMEM : sq_net_every_linear(reading, decide, out, err);
    SQ_TRY(st);
    out->ranks = o->tp;
    SQ_TRY(st);
    st = sq_plan_check_layout(out, err);
fail:
    if (st != SQ_OK) {
        sq_plan_close(out);
    }
    return st;
}

/* The largest usual group that divides the columns of every linear; 0 when none does. */
static int64_t common_group(const sq_plan *p) {
    for (int64_t g = 128; g >= 16; g /= 2) {
        int divides = 1;
        for (size_t i = 0; i < p->n; i++) {
            divides &= !p->rows[i].quantize || p->rows[i].linear->weight.k % g == 0;
        }
        if (divides) {
            return g;
        }
    }
    return 0;
}

static int every_row_whole(const sq_plan *p) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].quantize && p->rows[i].grid.group != p->rows[i].grid.k) {
            return 0;
        }
    }
    return 1;
}

int sq_plan_group(const sq_plan *p, const sq_plan_row *r) {
    return every_row_whole(p) ? 0 : (int)r->grid.group;
}

/* What one row wants that the layout has no place for. */
static sq_status check_row(const sq_plan *p, const sq_plan_row *r, sq_error *err) {
    const sq_grid *g = &r->grid;
    const char *name = sq_layout_name(p->layout);
    sq_layout_form f = {p->layout, g->bits, r->linear->weight.n, r->linear->weight.k, g->group};
    sq_status st = sq_layout_check(&f, 1, err);
    if (st != SQ_OK && g->k_padded != g->k && common_group(p) > 0) {
        sq_hint(err, "add --group-size %lld, which divides every linear's columns",
                (long long)common_group(p));
    } else if (st != SQ_OK && g->k_padded != g->k) {
        sq_hint(err, "add --on-indivisible keep, or use --format compressed-tensors");
    } else if (st != SQ_OK && g->bits != 4 && sq_layout_is_awq(p->layout)) {
        sq_hint(err, "add --scheme w4a16, or use --format gptq-v2");
    } else if (st != SQ_OK) {
        sq_hint(err, "use --format compressed-tensors%s",
                sq_linear_vision(r->linear) ? ", or --vision keep" : "");
    } else if (r->linear->part == SQ_PART_HEAD || r->linear->part == SQ_PART_EMBED) {
        st = sq_fail(err, SQ_EARG, "%s keeps embeddings and head as they are", name);
        sq_hint(err, "use --format compressed-tensors, or leave them out");
    } else if (g->act_bits != 0) {
        st = sq_fail(err, SQ_EARG, "%s has no place for rounded inputs (w8a8, w4a8)", name);
        sq_hint(err, "use --format compressed-tensors");
    } else if (p->layout == SQ_LAYOUT_GPTQ && !g->symmetric) {
        st = sq_fail(err, SQ_EARG,
                     "gptq (v1) keeps zero points less one and holds no zero point 0, so that "
                     "GPTQModel takes symmetric ones alone");
        sq_hint(err, "add --sym, or use --format gptq-v2");
    }
    if (st != SQ_OK) {
        sq_error_prefix(err, "%s: ", r->linear->file_name);
    }
    return st;
}

sq_status sq_plan_one_group(const sq_plan *p, sq_error *err) {
    const sq_plan_row *first = NULL;
    int whole = every_row_whole(p);
    for (size_t i = 0; sq_layout_is_awq(p->layout) && !whole && i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        first = first == NULL && r->quantize ? r : first;
        if (r->quantize && r->grid.group != first->grid.group) {
            return sq_fail(
                err, SQ_EARG, "%s: %s has one group size for all; got %lld, and %lld in %s",
                r->linear->file_name, sq_layout_name(p->layout), (long long)r->grid.group,
                (long long)first->grid.group, first->linear->file_name);
        }
    }
    return SQ_OK;
}

/* What ggml's blocks have no place for. */
static sq_status check_blocks(const sq_plan_row *r, sq_error *err) {
    const sq_grid *g = &r->grid;
    if (g->k % 32 != 0 || g->group % 32 != 0) {
        sq_fail(err, SQ_EARG,
                "%s: GGUF's blocks are of 32 columns; got %lld columns in groups of %lld",
                r->linear->file_name, (long long)g->k, (long long)g->group);
        sq_hint(err, "add --group-size 32 --on-indivisible keep%s",
                sq_linear_vision(r->linear) ? ", or --vision keep" : "");
        return SQ_EARG;
    }
    if (g->bits == 8 && !g->symmetric) {
        sq_fail(err, SQ_EARG, "%s: GGUF's 8-bit blocks (Q8_0) have no zero points",
                r->linear->file_name);
        sq_hint(err, "add --sym");
        return SQ_EARG;
    }
    if (g->act_bits != 0) {
        sq_fail(err, SQ_EARG, "%s: GGUF has no place for rounded inputs (w8a8, w4a8)",
                r->linear->file_name);
        sq_hint(err, "use --scheme w8a16 --sym, or --format compressed-tensors");
        return SQ_EARG;
    }
    return SQ_OK;
}

/* A folder that says it is quantized and holds nothing that is cannot be opened by anyone. */
static sq_status check_any(const sq_plan *p, sq_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->rows[i].quantize) {
            return SQ_OK;
        }
    }
    sq_fail(err, SQ_EARG, "nothing would be quantized; the group divides no linear's columns");
    sq_hint(err, "leave --on-indivisible keep out, or add a --group-size that divides them");
    return SQ_EARG;
}

sq_status sq_plan_check_layout(const sq_plan *p, sq_error *err) {
    sq_status st = check_any(p, err);
    for (size_t i = 0; p->gguf && st == SQ_OK && i < p->n; i++) {
        st = p->rows[i].quantize ? check_blocks(&p->rows[i], err) : SQ_OK;
    }
    if (st != SQ_OK) {
        return st;
    }
    for (size_t i = 0; p->layout != SQ_LAYOUT_CT && st == SQ_OK && i < p->n; i++) {
        st = p->rows[i].quantize ? check_row(p, &p->rows[i], err) : SQ_OK;
    }
    if (st == SQ_EUNSUPPORTED && err != NULL) {
        err->status = SQ_EARG;
    }
    if (st != SQ_OK) {
        return SQ_EARG;
    }
    st = sq_plan_one_group(p, err);
    if (st != SQ_OK) {
        sq_hint(err, "add --group-size %lld, or use --format gptq-v2",
                (long long)(common_group(p) > 0 ? common_group(p) : -1));
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
