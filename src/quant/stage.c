#include "quant/stage.h"

#include <stdio.h>

static int64_t before_text(const sq_net *n) {
    return n->config.tower == NULL ? 0 : n->config.v_layers + 1;
}

int64_t sq_stage_count(const sq_net *n) { return before_text(n) + n->config.layers; }

sq_stage sq_stage_at(sq_net *n, int64_t i) {
    const sq_config *c = &n->config;
    int64_t text = i - before_text(n);
    sq_stage s = {SQ_PART_TEXT, text, NULL, &c->text->text, 0, ""};
    if (text >= 0) {
        s.block = &n->layers[text];
    } else if (i < c->v_layers) {
        s = (sq_stage){SQ_PART_VISION, i, &n->v_layers[i], &c->tower->block, 0, ""};
    } else {
        s = (sq_stage){SQ_PART_MERGER, 0, &n->merger, &c->projector->rows, 0, ""};
    }
    for (size_t r = 0; r < s.rows->n_linears; r++) {
        if (s.rows->linears[r].tap == 0) {
            s.tap = s.block->linears[s.rows->linears[r].role].tap;
        }
    }
    snprintf(s.unit, sizeof s.unit, "%s.%lld", text < 0 ? "vision" : "text",
             (long long)(text < 0 ? i : text));
    return s;
}

int64_t sq_stage_columns(const sq_net *n, const sq_stage *s, int tap) {
    for (size_t r = 0; r < s->rows->n_linears; r++) {
        if (s->rows->linears[r].tap == tap) {
            return n->config.dims[s->rows->linears[r].in];
        }
    }
    return 0;
}
