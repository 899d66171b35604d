/* What a checkpoint is, and what this machine is. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "kernels/kernels.h"
#include "model/model.h"

typedef struct listing {
    json_t *list;
    int64_t parameters, weight_bytes;
} listing;

/* The largest usual group that divides the columns; 0 when none does. */
static int64_t best_group(int64_t k) {
    static const int64_t usual[] = {256, 128, 64, 32, 16};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        if (k % usual[i] == 0) {
            return usual[i];
        }
    }
    return 0;
}

static const char *part_name(sq_part p) {
    static const char *const names[] = {"text", "vision", "merger", "head"};
    return names[p];
}

static sq_status list_linear(void *user, sq_linear *l, sq_error *err) {
    listing *s = user;
    json_t *o =
        json_pack("{s:s, s:s, s:[I, I], s:s, s:I, s:b, s:I, s:I}", "name", l->file_name, "part",
                  part_name(l->part), "shape", (json_int_t)l->weight.n, (json_int_t)l->weight.k,
                  "type", l->quantized ? "packed" : sq_dtype_name(l->file->dtype), "bytes",
                  (json_int_t)sq_weight_bytes(&l->weight), "quantized", l->quantized,
                  "largest_group", (json_int_t)best_group(l->weight.k), "padding_at_128",
                  (json_int_t)(sq_round_up(l->weight.k, 128) - l->weight.k));
    if (o != NULL && l->quantized) {
        json_object_set_new(o, "bits", json_integer(l->scheme.bits));
        json_object_set_new(o, "group_size", json_integer(l->weight.group));
        json_object_set_new(o, "padded_columns", json_integer(l->weight.k_padded - l->weight.k));
    }
    return json_array_append_new(s->list, o) == 0 ? SQ_OK : sq_fail(err, SQ_ENOMEM, "the report");
}

static json_t *tensor_list(const sq_checkpoint *c) {
    json_t *list = json_array();
    for (size_t i = 0; i < sq_checkpoint_count(c); i++) {
        const sq_tensor *t = sq_checkpoint_at(c, i);
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++) {
            json_array_append_new(shape, json_integer(t->shape[d]));
        }
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:s}", "name", t->name, "type",
                                              sq_dtype_name(t->dtype), "shape", shape, "bytes",
                                              (json_int_t)t->bytes, "file",
                                              sq_checkpoint_shard_name(c, t->shard)));
    }
    return list;
}

static json_t *describe(const sq_net *n) {
    const sq_config *c = &n->config;
    const int64_t *d = c->dims;
    json_t *r = json_pack("{s:s, s:s, s:s, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}}",
                          "family", c->arch->title, "model_type", c->arch->model_type, "dtype",
                          c->dtype, "text", "layers", (json_int_t)c->layers, "hidden",
                          (json_int_t)d[SQ_D_HIDDEN], "intermediate", (json_int_t)d[SQ_D_INTER],
                          "heads", (json_int_t)c->heads, "kv_heads", (json_int_t)c->kv_heads,
                          "head_dim", (json_int_t)c->head_dim, "vocab", (json_int_t)d[SQ_D_VOCAB],
                          "max_positions", (json_int_t)c->max_positions, "tied", c->tied);
    if (r != NULL && c->tower != NULL) {
        json_t *full = json_array();
        for (int64_t i = 0; i < c->v_layers; i++) {
            if (c->v_full[i]) {
                json_array_append_new(full, json_integer(i));
            }
        }
        json_object_set_new(
            r, "vision",
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "layers", (json_int_t)c->v_layers,
                      "width", (json_int_t)d[SQ_D_V_WIDTH], "intermediate",
                      (json_int_t)d[SQ_D_V_INTER], "heads", (json_int_t)c->v_heads, "patch",
                      (json_int_t)c->patch, "merge", (json_int_t)c->merge, "window",
                      (json_int_t)(c->tower->windows ? c->window : 0), "full_attention", full));
    }
    return r;
}

sq_status sq_inspect(const char *model, int tensors, char **report, sq_error *err) {
    sq_net *n = NULL;
    json_t *r = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_net_open(&n, model, err));
    r = describe(n);
    listing s = {.list = json_array()};
    json_object_set_new(r, "linears", s.list);
    SQ_TRY(sq_net_each_linear(n, list_linear, &s, err));
    json_object_set_new(r, "bytes", json_integer((json_int_t)sq_checkpoint_bytes(n->ckpt)));
    json_object_set_new(r, "shards", json_integer(sq_checkpoint_shards(n->ckpt)));
    json_object_set_new(r, "tensor_count", json_integer((json_int_t)sq_checkpoint_count(n->ckpt)));
    if (n->quantization != NULL) {
        json_object_set(r, "quantization_config", (json_t *)(uintptr_t)n->quantization);
    }
    if (tensors) {
        json_object_set_new(r, "tensors", tensor_list(n->ckpt));
    }
fail:
    sq_net_close(&n);
    return sq_report_text(r, st == SQ_OK ? report : NULL, st, err);
}

sq_status sq_devices(char **report, sq_error *err) {
    const sq_kernels *tables[16];
    size_t n = sq_kernels_available(tables, 16);
    json_t *names = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(names, json_string(tables[i]->name));
    }
    json_t *r =
        json_pack("{s:s, s:i, s:o, s:s, s:f, s:f, s:f, s:f, s:s}", "cpu_flags", sq_cpu_flags(),
                  "threads", sq_threads(), "kernels", names, "chosen", sq_kernels_get()->name,
                  "memory_bandwidth_bytes_per_s", sq_measure_bandwidth(), "f32_flop_per_s",
                  sq_measure_sgemm() * 1e9, "bf16_flop_per_s", sq_measure_bf16() * 1e9,
                  "int8_op_per_s", sq_measure_rounded(8, SQ_ROUND_8_SYMMETRIC) * 1e9,
                  "other_backends", "none: this build computes on the CPU");
    return sq_report_text(r, report, SQ_OK, err);
}
