/* What other engines load: a table of rules with its sources, a plan held against it before any
 * work, and a folder read as the engine's loader would read it. */
#ifndef SQ_QUANT_TARGET_H
#define SQ_QUANT_TARGET_H

#include "quant/plan.h"

typedef enum sq_target {
    SQ_TARGET_NONE,
    SQ_TARGET_VLLM,
    SQ_TARGET_SGLANG,
    SQ_TARGET_TRANSFORMERS,
    SQ_TARGET_LLAMACPP,
    SQ_TARGET_SQUINT,
    SQ_TARGETS
} sq_target;

const char *sq_target_name(sq_target t);
/* An engine of a version, in millions, thousands and ones: 0.11.2 is 11002. */
typedef struct sq_engine {
    sq_target kind;
    int version;
} sq_engine;
/* "vllm", which is the newest version that the rules were read from, or "vllm@0.11". NULL: none.
 * SQ_EARG names what there is, or what is known when the version is older than all that was read;
 * a newer one is held to the newest rules. */
sq_status sq_target_parse(const char *name, sq_engine *out, sq_error *err);
enum { SQ_ENGINE_TEXT = 48 };
const char *sq_engine_text(sq_engine e, char out[SQ_ENGINE_TEXT]);  /* "vllm@0.33.0" */
const char *sq_engine_known(sq_engine e, char out[SQ_ENGINE_TEXT]); /* "0.11.0 and 0.33.0" */
/* Whether q/k/v and gate/up become one matrix each, which has one scheme. */
int sq_target_fuses(sq_target t);

/* A linear as an engine would hold it. */
typedef struct sq_target_linear {
    sq_layout layout;
    sq_ct_scheme scheme;
    int64_t n, k;    /* of the linear itself */
    int64_t n_rank;  /* outputs of the matrix of one rank, fused ones together */
    int64_t k_rank;  /* and its inputs */
    int64_t padding; /* zero columns behind k */
} sq_target_linear;

/* One way in which engines run a linear. */
typedef struct sq_target_rule sq_target_rule;
/* The first rule that takes the linear, those for any type of activations first; NULL when there is
 * none, with the reason and the choices in err (SQ_EUNSUPPORTED). */
const sq_target_rule *sq_target_find(sq_engine e, const sq_target_linear *l, sq_error *err);
int sq_target_half(const sq_target_rule *r);           /* it computes in float16 alone */
const char *sq_target_source(const sq_target_rule *r); /* the engine's file that says so */
const char *sq_target_kernel(const sq_target_rule *r); /* its name there */

/* Fused linears: 0 none, 1 of q/k/v, 2 of gate/up. */
int sq_target_fusion(const char *module);
/* Whether a tensor-parallel engine splits the linear's inputs. */
int sq_target_splits_inputs(const char *module);

/* Refuses a plan that the engine has no kernel for (SQ_EARG, with a hint); *half: config.json has
 * to say float16. */
sq_status sq_target_plan(const sq_plan *p, const sq_config *c, sq_engine e, int *half,
                         sq_error *err);
/* Tells which version a plan was held to; silent without one. */
void sq_target_note(sq_engine e, const sq_progress *progress);

/* Calls `finding` for each thing in the folder (llama.cpp: the GGUF file) that the engine would
 * reject or silently misread; `what` names the file, tensor or key. Errors are of memory alone. */
typedef void (*sq_target_finding)(void *user, const char *what, const char *why);
sq_status sq_target_check(const char *path, sq_engine e, sq_target_finding finding, void *user,
                          sq_error *err);

#endif
