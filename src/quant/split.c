#include "quant/split.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

enum {
    SHARE = 128, /* columns that vLLM's Marlin kernels take at least of a rank's share */
    LEAST_GROUP = 8,
};

static int wide_rows(const sq_linear *l) {
    return l->part == SQ_PART_TEXT && l->row->out == SQ_D_INTER;
}
static int wide_columns(const sq_linear *l) {
    return l->part == SQ_PART_TEXT && l->row->in == SQ_D_INTER;
}

int64_t sq_split_rows(const sq_plan *p, const sq_linear *l) {
    return wide_rows(l) && p->inter_to != 0 ? p->inter_to : l->weight.n;
}

int64_t sq_split_columns(const sq_plan *p, const sq_linear *l) {
    return wide_columns(l) && p->inter_to != 0 ? p->inter_to : l->weight.k;
}

static int64_t common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

/* A group that divides a rank's share of the attention's output: heads cannot be padded. */
static sq_status share_attention(sq_plan_row *r, int ranks, sq_error *err) {
    int64_t share = r->linear->weight.k / ranks, group = common_divisor(share, r->grid.group);
    if (!r->quantize || r->grid.group == r->grid.k) {
        return SQ_OK;
    }
    if (group < LEAST_GROUP) {
        return sq_fail(err, SQ_EARG,
                       "'%s' cannot be split over %d ranks: %lld columns each, and no group "
                       "divides them; wanted fewer ranks or --group-size -1",
                       r->linear->name, ranks, (long long)share);
    }
    if (group != r->grid.group || r->grid.k_padded != r->grid.k) {
        r->grid.group = group;
        r->grid.k_padded = r->grid.k;
        r->note = "a smaller group that divides each rank's share";
    }
    return SQ_OK;
}

sq_status sq_split_plan(sq_plan *plan, const sq_net *net, sq_error *err) {
    const sq_config *c = &net->config;
    int ranks = plan->ranks;
    int64_t unit = SHARE, inter = c->dims[SQ_D_INTER];
    if (ranks > 1024 || c->heads % ranks != 0 ||
        (c->kv_heads % ranks != 0 && ranks % c->kv_heads != 0)) {
        return sq_fail(err, SQ_EARG,
                       "--tp %d does not divide the attention; got %lld heads, %lld of them for "
                       "keys and values",
                       ranks, (long long)c->heads, (long long)c->kv_heads);
    }
    for (size_t i = 0; i < plan->n; i++) {
        sq_plan_row *r = &plan->rows[i];
        const sq_linear *l = r->linear;
        if (l->part == SQ_PART_TEXT && l->row->in == SQ_D_Q) {
            sq_status st = share_attention(r, ranks, err);
            if (st != SQ_OK) {
                return st;
            }
        }
        if (wide_columns(l) && r->quantize && r->grid.group != r->grid.k) {
            unit *= r->grid.group / common_divisor(unit, r->grid.group);
        }
        if (wide_rows(l) && l->bias != NULL) {
            return sq_fail(err, SQ_EUNSUPPORTED, "--tp cannot widen an MLP with biases; got '%s'",
                           l->name);
        }
    }
    int64_t to = sq_round_up(inter, unit * ranks);
    plan->inter = inter;
    plan->inter_to = to == inter ? 0 : to;
    size_t used = strlen(plan->note);
    snprintf(plan->note + used, sizeof plan->note - used,
             "%sintermediate_size %lld%s over %d ranks: %lld columns each", used == 0 ? "" : "; ",
             (long long)to, to == inter ? "" : ", widened with zeros,", ranks,
             (long long)(to / ranks));
    return SQ_OK;
}

sq_status sq_split_codes(sq_codes *out, const sq_codes *c, int64_t rows, int64_t columns,
                         sq_error *err) {
    const sq_grid *g = &c->grid;
    sq_grid wide = *g;
    if (columns != g->k_padded) {
        wide.k = wide.k_padded = columns;
        wide.group = g->group == g->k ? columns : g->group;
    }
    int64_t groups = g->k_padded / g->group, to = columns / wide.group;
    sq_status st = sq_codes_open(out, &wide, rows, err);
    for (int64_t r = 0; st == SQ_OK && r < rows; r++) {
        for (int64_t k = 0; k < to; k++) {
            int old = r < c->n && k < groups;
            uint8_t zero = old ? c->zeros[r * groups + k] : (uint8_t)(1 << (g->bits - 1));
            out->scales[r * to + k] = old ? c->scales[r * groups + k] : 1.0f;
            out->zeros[r * to + k] = zero;
            memset(out->codes + r * columns + k * wide.group, zero, (size_t)wide.group);
        }
        if (r < c->n) {
            memcpy(out->codes + r * columns, c->codes + r * g->k_padded, (size_t)g->k_padded);
        }
    }
    return st;
}

void *sq_split_dense(const sq_tensor *t, int64_t rows, int64_t columns, sq_error *err) {
    size_t es = sq_dtype_size(t->dtype), from = (size_t)t->shape[1] * es, to = (size_t)columns * es;
    char *p = sq_alloc((size_t)rows, to, t->name, err);
    for (int64_t r = 0; p != NULL && r < t->shape[0]; r++) {
        memcpy(p + (size_t)r * to, (const char *)t->data + (size_t)r * from, from);
    }
    return p;
}

void sq_split_config(const sq_plan *p, json_t *config) {
    json_t *text = json_object_get(config, "text_config");
    json_t *const places[] = {config, text};
    for (int i = 0; p->inter_to != 0 && i < 2; i++) {
        if (json_object_get(places[i], "intermediate_size") != NULL) {
            json_object_set_new(places[i], "intermediate_size",
                                json_integer((json_int_t)p->inter_to));
        }
    }
}

json_t *sq_split_record(const sq_plan *p) {
    return p->ranks < 2 ? NULL
                        : json_pack("{s:i, s:[I, I]}", "ranks", p->ranks, "intermediate_size",
                                    (json_int_t)p->inter,
                                    (json_int_t)(p->inter_to == 0 ? p->inter : p->inter_to));
}

static int all_zero(const char *p, size_t n) {
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

int sq_split_widened(const json_t *record, const sq_tensor *a, const sq_tensor *b) {
    const json_t *sizes = json_object_get(record, "intermediate_size");
    int64_t from = json_integer_value(json_array_get(sizes, 0)),
            to = json_integer_value(json_array_get(sizes, 1));
    if (a->rank != 2 || b->rank != 2) {
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        if (b->shape[i] != a->shape[i] && (a->shape[i] != from || b->shape[i] != to)) {
            return 0;
        }
    }
    if (b->dtype != a->dtype) {
        return b->dtype == SQ_I8; /* codes: their zeros are not all bits 0 */
    }
    size_t es = sq_dtype_size(a->dtype), old = (size_t)a->shape[1] * es,
           row = (size_t)b->shape[1] * es;
    const char *x = a->data, *y = b->data;
    for (int64_t r = 0; r < b->shape[0]; r++) {
        size_t same = r < a->shape[0] ? old : 0;
        if (memcmp(x + (size_t)r * old, y + (size_t)r * row, same) != 0 ||
            !all_zero(y + (size_t)r * row + same, row - same)) {
            return 0;
        }
    }
    return 1;
}
