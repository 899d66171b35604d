/* The table of what engines have kernels for, and a plan held against it. Facts were read in the
 * files that each row names, as of the release it names. */
#include "quant/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "quant/split.h"

static const char *const names[SQ_TARGETS] = {"none",         "vllm",      "sglang",
                                              "transformers", "llama.cpp", "squint"};

const char *sq_target_name(sq_target t) { return names[t]; }

#define V(a, b, c) ((a)*1000000 + (b)*1000 + (c))

/* The releases that were read, the oldest and the newest. llama.cpp: numbers of llama-cpp-python,
 * whose llama.cpp was run. */
static const int known[SQ_TARGETS][2] = {{0},
                                         {V(0, 11, 0), V(0, 33, 0)},
                                         {V(0, 5, 5), V(0, 5, 23)},
                                         {V(5, 17, 0), V(5, 23, 0)},
                                         {V(0, 3, 36), V(0, 3, 36)},
                                         {V(0, 1, 0), V(0, 1, 0)}};

static void version_text(int v, char out[16]) {
    snprintf(out, 16, "%d.%d.%d", v / 1000000, v / 1000 % 1000, v % 1000);
}

const char *sq_engine_text(sq_engine e, char out[SQ_ENGINE_TEXT]) {
    char version[16];
    version_text(e.version, version);
    snprintf(out, SQ_ENGINE_TEXT, "%s@%s", names[e.kind], version);
    return out;
}

const char *sq_engine_known(sq_engine e, char out[SQ_ENGINE_TEXT]) {
    char first[16], last[16];
    version_text(known[e.kind][0], first);
    version_text(known[e.kind][1], last);
    snprintf(out, SQ_ENGINE_TEXT, strcmp(first, last) == 0 ? "%s" : "%s and %s", first, last);
    return out;
}

/* "0.11", "v0.11.2": 0 when it is none. */
static int parse_version(const char *text) {
    int part[3] = {0}, n = 0;
    text += *text == 'v';
    while (n < 3 && *text >= '0' && *text <= '9') {
        char *end;
        long v = strtol(text, &end, 10);
        part[n++] = v > 999 ? 999 : (int)v;
        text = end + (*end == '.');
    }
    return *text == '\0' && n > 0 ? V(part[0], part[1], part[2]) : 0;
}

static sq_status parse_engine(const char *name, sq_engine *out, sq_error *err) {
    size_t n = strcspn(name, "@");
    for (int i = 1; i < SQ_TARGETS; i++) {
        if (strlen(names[i]) == n && memcmp(name, names[i], n) == 0) {
            *out = (sq_engine){(sq_target)i, known[i][1]};
        }
    }
    if (out->kind == SQ_TARGET_NONE) {
        return sq_fail(err, SQ_EARG,
                       "target '%s' is not there; wanted vllm, sglang, transformers, llama.cpp or "
                       "squint, with or without @VERSION",
                       name);
    }
    if (name[n] == '@') {
        out->version = parse_version(name + n + 1);
    }
    return out->version == 0
               ? sq_fail(err, SQ_EARG,
                         "target '%s' has no version there; wanted one such as 0.11.0", name)
               : SQ_OK;
}

sq_status sq_target_parse(const char *name, sq_engine *out, sq_error *err) {
    char text[SQ_ENGINE_TEXT];
    *out = (sq_engine){0};
    sq_status st = name == NULL ? SQ_OK : parse_engine(name, out, err);
    if (st == SQ_OK && out->version < known[out->kind][0]) {
        sq_fail(err, SQ_EARG,
                "target '%s' is older than what is known of it; its rules were read from %s", name,
                sq_engine_known(*out, text));
        sq_hint(err, "use --target %s to hold it to the newest of these", names[out->kind]);
        st = SQ_EARG;
    }
    return st;
}

int sq_target_fuses(sq_target t) { return t == SQ_TARGET_VLLM || t == SQ_TARGET_SGLANG; }

/* ---- the table ---- */

enum {
    VLLM = 1 << SQ_TARGET_VLLM,
    SGLANG = 1 << SQ_TARGET_SGLANG,
    TRANSFORMERS = 1 << SQ_TARGET_TRANSFORMERS,
    SQUINT = 1 << SQ_TARGET_SQUINT
};
enum {
    CT = 1 << SQ_LAYOUT_CT,
    GEMM = 1 << SQ_LAYOUT_AWQ_GEMM,
    GEMV = 1 << SQ_LAYOUT_AWQ_GEMV,
    GPTQ = 1 << SQ_LAYOUT_GPTQ,
    GPTQ_V2 = 1 << SQ_LAYOUT_GPTQ_V2
};
enum { SYM = 1, ASYM = 2 };
/* Groups of a rule; CHANNEL is one group a row. Powers of two stand for themselves. */
enum { CHANNEL = 1, ANY = 2, MARLIN = 32 | 64 | 128 | CHANNEL, GPTQMODEL = 2032 | CHANNEL };

struct sq_target_rule {
    unsigned engines, layouts;
    int bits; /* 4, 8 or both or-ed */
    int act;  /* bits of rounded inputs; 0: weights alone */
    int zeros;
    int64_t groups;
    int rows, columns; /* the matrix of a rank is in multiples of them; rows 0: of a packed word */
    int padding;       /* zero columns behind the linear's own are taken */
    int half;
    const char *kernel, *source; /* the file as of `since` */
    int since, before; /* read from this release on; in this one it was no more (0: it is yet) */
};

#define VLLM_QUANT "vllm-project/vllm vllm/model_executor/layers/quantization/"
#define SGLANG_QUANT "sgl-project/sglang python/sglang/srt/layers/quantization/"
#define TF_QUANT "huggingface/transformers src/transformers/quantizers/"

#define VLLM_KERNELS "vllm-project/vllm vllm/model_executor/kernels/linear/mixed_precision/"
enum {
    V11 = V(0, 11, 0), /* vllm */
    V33 = V(0, 33, 0),
    S5 = V(0, 5, 5), /* sglang */
    S23 = V(0, 5, 23),
    T17 = V(5, 17, 0) /* transformers; with gptqmodel 7.7 */
};

static const sq_target_rule rules[] = {
    /* AutoAWQ. The engines read every layout as gemm, whatever `version` says. From 0.33 on vllm
     * pads what Marlin's tiles do not divide. */
    {VLLM, GEMM, 4, 0, SYM | ASYM, MARLIN, 64, 128, 0, 0, "awq_marlin",
     VLLM_QUANT "utils/marlin_utils.py", V11, V33},
    {VLLM, GEMM, 4, 0, SYM | ASYM, MARLIN, 0, 8, 0, 0, "auto_awq (marlin)",
     VLLM_QUANT "auto_awq.py", V33, 0},
    {SGLANG, GEMM, 4, 0, SYM | ASYM, MARLIN, 64, 128, 0, 0, "awq_marlin", SGLANG_QUANT "awq.py", S5,
     0},
    {VLLM, GEMM, 4, 0, SYM | ASYM, ANY, 0, 1, 0, 1, "awq", VLLM_QUANT "awq.py", V11, 0},
    {SGLANG, GEMM, 4, 0, SYM | ASYM, ANY, 0, 1, 0, 1, "awq", SGLANG_QUANT "awq.py", S5, 0},
    {TRANSFORMERS, GEMM, 4, 0, SYM | ASYM, 16 | MARLIN, 0, 1, 0, 1, "gemm",
     TF_QUANT "quantizer_awq.py; ModelCloud/GPTQModel gptqmodel/nn_modules/qlinear/torch_awq.py",
     T17, 0},
    {TRANSFORMERS, GEMV, 4, 0, SYM | ASYM, 32 | 64 | 128, 1, 8, 0, 1, "gemv",
     TF_QUANT "quantizer_awq.py; casper-hansen/AutoAWQ awq/modules/linear/gemv.py", T17, 0},
    /* GPTQ. Marlin takes symmetric codes and ignores qzeros, so that v1 and v2 are the same. The
     * kernels that took zero points are gone from vllm 0.33 and sglang 0.5.23. */
    {VLLM, GPTQ | GPTQ_V2, 4 | 8, 0, SYM, MARLIN, 64, 128, 0, 0, "gptq_marlin",
     VLLM_QUANT "gptq_marlin.py", V11, V33},
    {VLLM, GPTQ | GPTQ_V2, 4 | 8, 0, SYM, MARLIN, 0, 8, 0, 0, "auto_gptq (marlin)",
     VLLM_QUANT "auto_gptq.py", V33, 0},
    {SGLANG, GPTQ | GPTQ_V2, 4 | 8, 0, SYM, MARLIN, 64, 128, 0, 0, "gptq_marlin",
     SGLANG_QUANT "gptq.py", S5, 0},
    {VLLM, GPTQ, 4 | 8, 0, SYM | ASYM, ANY | CHANNEL, 0, 1, 0, 1, "gptq (exllama; v1 alone)",
     VLLM_QUANT "gptq.py", V11, V33},
    {SGLANG, GPTQ, 4 | 8, 0, ASYM, ANY | CHANNEL, 0, 1, 0, 1, "gptq (exllama; v1 alone)",
     SGLANG_QUANT "gptq.py", S5, S23},
    {TRANSFORMERS, GPTQ, 4 | 8, 0, SYM, GPTQMODEL, 0, 1, 0, 0, "gptqmodel (v1: symmetric alone)",
     TF_QUANT "quantizer_gptq.py; ModelCloud/GPTQModel gptqmodel/models/loader.py", T17, 0},
    {TRANSFORMERS, GPTQ_V2, 4 | 8, 0, SYM | ASYM, GPTQMODEL, 0, 1, 0, 0, "gptqmodel",
     TF_QUANT "quantizer_gptq.py; ModelCloud/GPTQModel gptqmodel/nn_modules/qlinear/__init__.py",
     T17, 0},
    /* compressed-tensors, weights alone (pack-quantized). */
    {VLLM, CT, 4 | 8, 0, SYM, MARLIN, 64, 128, 0, 0, "WNA16 (marlin)",
     VLLM_QUANT "kernels/mixed_precision/marlin.py", V11, V33},
    {VLLM, CT, 4, 0, ASYM, MARLIN, 64, 128, 0, 0, "WNA16 (marlin, uint4 with zero points)",
     VLLM_QUANT "compressed_tensors/schemes/compressed_tensors_wNa16.py", V11, V33},
    {VLLM, CT, 4 | 8, 0, SYM, MARLIN, 0, 8, 0, 0, "WNA16 (marlin)", VLLM_KERNELS "marlin.py", V33,
     0},
    {VLLM, CT, 4, 0, ASYM, MARLIN, 0, 8, 0, 0, "WNA16 (marlin, uint4 with zero points)",
     VLLM_KERNELS "marlin.py", V33, 0},
    {VLLM, CT, 4 | 8, 0, SYM, ANY, 0, 1, 0, 1, "WNA16 (exllama)",
     VLLM_QUANT "kernels/mixed_precision/exllama.py", V11, 0},
    {SGLANG, CT, 4 | 8, 0, SYM, MARLIN, 64, 128, 0, 0, "WNA16 (marlin)",
     SGLANG_QUANT "compressed_tensors/compressed_tensors.py", S5, 0},
    {SGLANG, CT, 4, 0, ASYM, MARLIN, 64, 128, 0, 0, "WNA16 (marlin, uint4 with zero points)",
     SGLANG_QUANT "compressed_tensors/schemes/compressed_tensors_wNa16.py", S23, 0},
    /* compressed-tensors, inputs rounded too (int-quantized). */
    {VLLM, CT, 8, 8, SYM, CHANNEL, 1, 1, 0, 0, "W8A8Int8",
     VLLM_QUANT "compressed_tensors/compressed_tensors.py", V11, 0},
    {SGLANG, CT, 8, 8, SYM, CHANNEL, 1, 1, 0, 0, "W8A8Int8",
     SGLANG_QUANT "compressed_tensors/compressed_tensors.py", S5, 0},
    {VLLM, CT, 4, 8, SYM, ANY | CHANNEL, 1, 1, 0, 0, "W4A8Int (Arm CPUs and Intel GPUs)",
     VLLM_QUANT "compressed_tensors/compressed_tensors.py", V11, 0},
    /* transformers 5.23 with compressed-tensors 0.20 refuses packed zero points (tests/interop). */
    {TRANSFORMERS, CT, 4 | 8, 0, SYM, ANY | CHANNEL, 1, 1, 0, 0, "compressed-tensors",
     TF_QUANT "quantizer_compressed_tensors.py", T17, 0},
    {TRANSFORMERS, CT, 4 | 8, 8, SYM, ANY | CHANNEL, 1, 1, 0, 0, "compressed-tensors",
     TF_QUANT "quantizer_compressed_tensors.py", T17, 0},
    /* Squint itself. */
    {SQUINT, CT | GEMM | GEMV | GPTQ | GPTQ_V2, 4 | 8, 0, SYM | ASYM, ANY | CHANNEL, 1, 1, 1, 0,
     "squint", "src/model/bind_quant.c", V(0, 1, 0), 0},
    {SQUINT, CT, 4 | 8, 8, SYM | ASYM, ANY | CHANNEL, 1, 1, 1, 0, "squint",
     "src/model/bind_quant.c", V(0, 1, 0), 0},
};
enum { N_RULES = sizeof rules / sizeof *rules };

int sq_target_half(const sq_target_rule *r) { return r->half; }
const char *sq_target_source(const sq_target_rule *r) { return r->source; }
const char *sq_target_kernel(const sq_target_rule *r) { return r->kernel; }

/* ---- one linear ---- */

/* How far a linear gets in a rule; the farthest one is what the error speaks of. */
enum { AT_LAYOUT, AT_INPUTS, AT_BITS, AT_ZEROS, AT_GROUP, AT_DIVISION, AT_PADDING, AT_SHAPE, FITS };

static int group_fits(const sq_target_rule *r, const sq_target_linear *l) {
    int64_t g = l->scheme.group_size;
    if (g == 0) {
        return (r->groups & CHANNEL) != 0;
    }
    return (r->groups & ANY) != 0 || ((g & (g - 1)) == 0 && g > ANY && (r->groups & g) != 0);
}

static int fit(const sq_target_rule *r, const sq_target_linear *l) {
    const sq_ct_scheme *s = &l->scheme;
    int rows = r->rows == 0 ? 32 / (s->bits == 8 ? 8 : 4) : r->rows;
    if ((r->layouts & 1u << l->layout) == 0) {
        return AT_LAYOUT;
    }
    if (r->act != s->act_bits) {
        return AT_INPUTS;
    }
    if ((r->bits & s->bits) == 0) {
        return AT_BITS;
    }
    if ((r->zeros & (s->symmetric ? SYM : ASYM)) == 0) {
        return AT_ZEROS;
    }
    if (!group_fits(r, l)) {
        return AT_GROUP;
    }
    if (l->padding > 0 && !r->padding) {
        return AT_PADDING;
    }
    if (s->group_size > 0 && (l->k_rank + l->padding) % s->group_size != 0) {
        return AT_DIVISION;
    }
    return l->n_rank % rows != 0 || l->k_rank % r->columns != 0 ? AT_SHAPE : FITS;
}

static int holds(const sq_target_rule *r, sq_engine e) {
    return (r->engines & 1u << e.kind) != 0 && e.version >= r->since &&
           (r->before == 0 || e.version < r->before);
}

static void explain(sq_engine e, const sq_target_linear *l, int at, const sq_target_rule *r,
                    sq_error *err) {
    char text[SQ_ENGINE_TEXT];
    const char *engine = sq_engine_text(e, text), *layout = sq_layout_name(l->layout);
    const sq_ct_scheme *s = &l->scheme;
    switch (at) {
    case AT_LAYOUT:
        sq_fail(err, SQ_EUNSUPPORTED, "%s does not read the layout %s", engine, layout);
        sq_hint(err, "use --format compressed-tensors, awq-gemm or gptq");
        break;
    case AT_INPUTS:
    case AT_BITS:
        sq_fail(err, SQ_EUNSUPPORTED, "%s has no kernel for w%da%d of %s", engine, s->bits,
                s->act_bits == 0 ? 16 : s->act_bits, layout);
        sq_hint(err, "use --scheme w4a16, or --scheme w8a8 --sym --group-size -1");
        break;
    case AT_ZEROS:
        sq_fail(err, SQ_EUNSUPPORTED, "%s has no kernel for %s codes of %d bits in %s", engine,
                s->symmetric ? "symmetric" : "asymmetric", s->bits, layout);
        sq_hint(err, "add --sym, or use --format awq-gemm, which keeps zero points");
        break;
    case AT_GROUP:
        sq_fail(err, SQ_EUNSUPPORTED, "%s has no kernel of %s for groups of %d", engine, layout,
                s->group_size == 0 ? -1 : s->group_size);
        sq_hint(err, "add --group-size %s",
                (r->groups & (ANY | 128)) != 0 ? "128, 64 or 32" : "-1");
        break;
    case AT_PADDING:
        sq_fail(err, SQ_EUNSUPPORTED, "%s takes no padding; got %lld columns in groups of %d",
                engine, (long long)l->k, s->group_size);
        sq_hint(err, "add --on-indivisible smaller-group, channel or keep");
        break;
    case AT_DIVISION:
        sq_fail(err, SQ_EUNSUPPORTED, "%s wants whole groups; got %lld columns in groups of %d",
                engine, (long long)l->k_rank, s->group_size);
        sq_hint(err, "use a --group-size that divides %lld", (long long)l->k_rank);
        break;
    default:
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s's %s wants outputs in multiples of %d and inputs of %d; got %lld x %lld",
                engine, r->kernel, r->rows == 0 ? 32 / s->bits : r->rows, r->columns,
                (long long)l->n_rank, (long long)l->k_rank);
        sq_hint(err, l->layout == SQ_LAYOUT_CT && !s->symmetric && e.kind == SQ_TARGET_VLLM
                         ? "add --sym, or use --format awq-gemm, whose kernels take this shape"
                         : "use --format awq-gemm, whose kernels take more shapes");
        break;
    }
}

const sq_target_rule *sq_target_find(sq_engine e, const sq_target_linear *l, sq_error *err) {
    const sq_target_rule *nearest = NULL;
    int best = -1;
    if (e.kind == SQ_TARGET_LLAMACPP) {
        sq_fail(err, SQ_EUNSUPPORTED, "llama.cpp runs GGUF files; got %s",
                sq_layout_name(l->layout));
        sq_hint(err, "use --format gguf, with -o FILE.gguf");
        return NULL;
    }
    for (int i = 0; i < N_RULES; i++) {
        int at = holds(&rules[i], e) ? fit(&rules[i], l) : -1;
        if (at == FITS) {
            return &rules[i];
        }
        if (at > best) {
            best = at;
            nearest = &rules[i];
        }
    }
    explain(e, l, best, nearest, err);
    return NULL;
}

/* ---- what is fused and split ---- */

static const char *last_part(const char *module) {
    const char *dot = strrchr(module, '.');
    return dot == NULL ? module : dot + 1;
}

int sq_target_fusion(const char *module) {
    static const char *const fused[] = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"};
    for (int i = 0; i < 5; i++) {
        if (strcmp(last_part(module), fused[i]) == 0) {
            return i < 3 ? 1 : 2;
        }
    }
    return 0;
}

int sq_target_splits_inputs(const char *module) {
    static const char *const split[] = {"o_proj", "down_proj", "out_proj", "proj", "fc2"};
    for (int i = 0; i < 5; i++) {
        if (strcmp(last_part(module), split[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

/* ---- a plan ---- */

static int siblings(const sq_linear *a, const sq_linear *b) {
    size_t n = (size_t)(last_part(a->name) - a->name);
    int f = sq_target_fusion(a->name);
    return a == b || (f != 0 && f == sq_target_fusion(b->name) &&
                      strncmp(a->name, b->name, n) == 0 && last_part(b->name) == b->name + n);
}

static sq_ct_scheme scheme_of(const sq_plan_row *r) {
    return (sq_ct_scheme){.bits = r->quantize ? r->grid.bits : 16,
                          .group_size = r->grid.group == r->grid.k ? 0 : (int)r->grid.group,
                          .symmetric = r->grid.symmetric,
                          .act_bits = r->grid.act_bits,
                          .act_symmetric = r->grid.act_symmetric};
}

/* Outputs of a linear that one rank has: ranks share a KV head where there are more of them. */
static int64_t rank_rows(const sq_plan *p, const sq_config *c, const sq_linear *l, int ranks) {
    int64_t n = sq_split_rows(p, l);
    if (sq_target_splits_inputs(l->name)) {
        return n;
    }
    return l->row->out == SQ_D_KV && c->kv_heads < ranks ? c->head_dim : n / ranks;
}

/* A rank's outputs of the matrix that the row becomes part of; SQ_EARG when its parts differ. */
static sq_status fuse(const sq_plan *p, const sq_config *c, const sq_plan_row *r, int ranks,
                      int64_t *n, sq_error *err) {
    sq_ct_scheme s = scheme_of(r);
    *n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const sq_plan_row *other = &p->rows[i];
        if (!siblings(r->linear, other->linear)) {
            continue;
        }
        sq_ct_scheme o = scheme_of(other);
        if (other->quantize != r->quantize || (r->quantize && memcmp(&s, &o, sizeof s) != 0)) {
            sq_fail(err, SQ_EARG, "%s and %s become one matrix there, which has one scheme",
                    r->linear->file_name, other->linear->file_name);
            sq_hint(err, "give all of q/k/v, and both of gate/up, one scheme and group");
            return SQ_EARG;
        }
        *n += rank_rows(p, c, other->linear, ranks);
    }
    return SQ_OK;
}

/* Whether tensor-parallel ranks get equal shares of a row. */
static sq_status check_share(const sq_plan *p, const sq_config *c, const sq_linear *l, int ranks,
                             sq_error *err) {
    int inputs = sq_target_splits_inputs(l->name), shared = l->row->out == SQ_D_KV;
    int64_t n = inputs ? sq_split_columns(p, l) : sq_split_rows(p, l);
    if (n % ranks == 0 || (shared && c->kv_heads < ranks)) {
        return SQ_OK;
    }
    sq_fail(err, SQ_EARG, "%s: %lld %s do not split over %d ranks", l->file_name, (long long)n,
            inputs ? "inputs" : "outputs", ranks);
    sq_hint(err, "use another --tp");
    return SQ_EARG;
}

static sq_status check_row(const sq_plan *p, const sq_config *c, const sq_plan_row *r, sq_engine e,
                           int *half, sq_error *err) {
    const sq_linear *l = r->linear;
    sq_target t = e.kind;
    int ranks = p->ranks > 1 && sq_target_fuses(t) ? p->ranks : 1;
    int outside = l->part == SQ_PART_EMBED || l->part == SQ_PART_HEAD;
    int64_t n = sq_split_rows(p, l), k = sq_split_columns(p, l), n_rank = n;
    sq_status st = SQ_OK;
    if (sq_target_fuses(t) && !outside) {
        SQ_TRY(fuse(p, c, r, ranks, &n_rank, err));
    }
    if (!r->quantize) {
        return SQ_OK;
    }
    if (outside && t != SQ_TARGET_SQUINT) {
        sq_fail(err, SQ_EARG, "%s: %s keeps embeddings and head in 16 bits", l->file_name,
                names[t]);
        sq_hint(err, "leave out --embedding and --lm-head");
        return SQ_EARG;
    }
    SQ_TRY(check_share(p, c, l, ranks, err));
    sq_target_linear x = {.layout = p->layout,
                          .scheme = scheme_of(r),
                          .n = n,
                          .k = k,
                          .n_rank = n_rank,
                          .k_rank = sq_target_splits_inputs(l->name) ? k / ranks : k,
                          .padding = k == l->weight.k ? r->grid.k_padded - k : 0};
    const sq_target_rule *rule = sq_target_find(e, &x, err);
    if (rule == NULL) {
        sq_error_prefix(err, "%s: ", l->file_name);
        err->status = SQ_EARG;
        return SQ_EARG;
    }
    *half |= rule->half;
fail:
    return st;
}

sq_status sq_target_plan(const sq_plan *p, const sq_config *c, sq_engine e, int *half,
                         sq_error *err) {
    sq_error own = {0};
    sq_target t = e.kind;
    err = err == NULL ? &own : err;
    *half = 0;
    if (t == SQ_TARGET_NONE || (t == SQ_TARGET_LLAMACPP && p->gguf)) {
        return SQ_OK;
    }
    if (p->gguf && t != SQ_TARGET_SQUINT) {
        sq_fail(err, SQ_EARG, "%s is given a folder; got --format gguf", names[t]);
        sq_hint(err, "use --format compressed-tensors, or --target llama.cpp");
        return SQ_EARG;
    }
    for (size_t i = 0; i < p->n; i++) {
        sq_status st = check_row(p, c, &p->rows[i], e, half, err);
        if (st != SQ_OK) {
            return st;
        }
    }
    return SQ_OK;
}

void sq_target_note(sq_engine e, const sq_progress *progress) {
    char text[SQ_ENGINE_TEXT], from[SQ_ENGINE_TEXT];
    if (e.kind != SQ_TARGET_NONE) {
        sq_progress_note(progress, "held to what %s has kernels for (rules read from %s)",
                         sq_engine_text(e, text), sq_engine_known(e, from));
    }
}
