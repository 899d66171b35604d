/* Squint: make a vision-language model small, prove that it still sees, and run it.
 *
 * Handles are opaque; _open takes T **, _close takes T **, sets it to NULL and accepts NULL and
 * half-built objects. Every call returns sq_status and fills the nullable sq_error on failure.
 * Strings returned through char ** are owned by the caller: sq_text_free. Reports are JSON with the
 * keys of the command line's --json.
 *
 * A model is a path: a folder in the Hugging Face layout, a llama2.c .bin file, a GGUF file, a
 * folder of a language model and its mmproj in GGUF, or both as "MODEL.gguf+MMPROJ.gguf". */
#ifndef SQUINT_SQUINT_H
#define SQUINT_SQUINT_H

#include <stddef.h>
#include <stdint.h>

#include "squint/progress.h"
#include "squint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

SQ_API const char *sq_version(void);
SQ_API void sq_text_free(char *text);

/* Process-wide: threads (0: all cores), kernel mask (NULL: best; "c", "avx2", … comma separated),
 * memory limit in bytes (0: none). */
typedef struct sq_runtime_options {
    int threads;
    const char *cpu;
    size_t max_ram;
} sq_runtime_options;
SQ_API sq_status sq_runtime_init(const sq_runtime_options *options, sq_error *err);

/* ---- running ---- */

typedef struct sq_model sq_model;     /* immutable: many sessions may share it */
typedef struct sq_session sq_session; /* one conversation: owns its KV cache */

/* Overrides of pre-processing; 0 keeps the checkpoint's value. */
typedef struct sq_media_options {
    int64_t image_min_tokens, image_max_tokens;
    double fps;
    int64_t min_frames, max_frames, video_total_pixels;
} sq_media_options;

SQ_API sq_status sq_model_open(sq_model **out, const char *path, const sq_media_options *media,
                               sq_error *err);
/* The same, quicker from the second time on: packed weights are kept in a file beside the model
 * (FOLDER/squint.packed, FILE.packed), as large as they are in memory, and mapped. keep_packed
 * writes it, to be called when the head is set, before sessions; it does nothing where the file is
 * complete. A file that is cut off, damaged or of other model files is not taken, but written anew;
 * where that fails (a full disk, a folder that is read only) all goes on without. Both say so to
 * the log. */
SQ_API sq_status sq_model_open_packed(sq_model **out, const char *path,
                                      const sq_media_options *media, const sq_progress *progress,
                                      sq_error *err);
SQ_API sq_status sq_model_keep_packed(sq_model *model, const sq_progress *progress, sq_error *err);
/* How the KV cache of sessions opened from now on is stored: "f32" (at first), "f16", "bf16" or
 * "int8" (a scale for each head and token); NULL changes nothing. */
SQ_API sq_status sq_model_set_kv_type(sq_model *model, const char *type, sq_error *err);
/* In what dense BF16 weights are multiplied: "f32" (at first, and NULL), or "bf16": inputs are
 * rounded to bf16, as other engines do, where the CPU multiplies bf16 pairs. */
SQ_API sq_status sq_model_set_compute(sq_model *model, const char *type, sq_error *err);
/* How the output head is held from now on: "keep" (as stored), "w8a16" or "w4a16" (rounded to
 * nearest in memory: decoding reads all of it for every token); NULL: "w8a16" where the model's
 * other linears are quantized and its head is not. At first as stored; to be called once, before
 * sessions. */
SQ_API sq_status sq_model_set_head(sq_model *model, const char *scheme, sq_error *err);
/* "w8a16" or "w4a16" where sq_model_set_head rounded it, else NULL. */
SQ_API const char *sq_model_head(const sq_model *model);
SQ_API void sq_model_close(sq_model **model);
SQ_API int64_t sq_model_vocab(const sq_model *model);
SQ_API int64_t sq_model_max_positions(const sq_model *model);
SQ_API double sq_model_load_seconds(const sq_model *model);

/* What is said: exactly one of messages (JSON array of cli.md's form, or an object that holds it as
 * "messages" beside more template variables such as "tools"), text (no template) or tokens. */
typedef struct sq_input {
    const char *messages, *text;
    const int32_t *tokens;
    size_t n_tokens;
    const char *base_dir;      /* paths in messages are relative to it; NULL: current folder */
    const char *chat_template; /* NULL: the checkpoint's; "raw": contents alone; "builtin", a name
                                  (chatml, llama-2, llama-3, vicuna, llava, mistral, qwen-vl) or
                                  Jinja text */
    int no_generation_prompt;  /* leave out the assistant's header at the end */
} sq_input;

typedef struct sq_sampling {
    int64_t max_new_tokens; /* <= 0: 512 */
    /* 0 takes generation_config.json's value, where it has one, except for the temperature */
    double temperature;        /* 0: greedy */
    double top_p, min_p;       /* top_p 1, min_p < 0: off */
    int64_t top_k;             /* < 0: off */
    double repetition_penalty; /* 1: off */
    uint64_t seed;
    const char *const *stop; /* stop strings, n_stop of them */
    size_t n_stop;
    int no_cache; /* recompute everything for every token (to check the cache) */
} sq_sampling;

typedef struct sq_image_info {
    int64_t width, height, resized_width, resized_height, tokens;
    int is_video;
    int64_t frames;
    double second_per_grid;
    size_t peak_bytes; /* that encoding it takes, by the plan's arithmetic */
} sq_image_info;

/* Valid until the next call on the session. */
typedef struct sq_result {
    const char *text;
    const int32_t *tokens;
    size_t n_tokens;
    int64_t prompt_tokens, reused_tokens;
    const char *finish_reason; /* "stop", "length", "limit" */
    double vision_s, prefill_s, decode_s;
    int64_t kv_tokens, kv_capacity_tokens;
    size_t kv_bytes;
    const sq_image_info *images;
    size_t n_images;
    double first_token_s; /* since the call began: pictures read, vision and prefill */
} sq_result;

SQ_API sq_status sq_session_open(sq_session **out, sq_model *model, sq_error *err);
SQ_API void sq_session_close(sq_session **session);
/* Generates the answer to an input. The cache keeps what is shared with the previous call (longest
 * common prefix), so a growing conversation costs only its new part. `piece` (nullable) gets text
 * as it comes, complete UTF-8; return non-zero to stop. At the model's position limit before any
 * token is produced: SQ_ELIMIT with the numbers; out of memory: SQ_ENOMEM; the session stays
 * usable. */
SQ_API sq_status sq_session_generate(sq_session *session, const sq_input *input,
                                     const sq_sampling *sampling,
                                     int (*piece)(void *user, const char *text), void *user,
                                     sq_result *result, sq_error *err);
/* Logits of every position: `rows` gets f32 [count][vocab] in order. ids of the whole prompt come
 * with the first call's `ids` (borrowed). */
SQ_API sq_status sq_session_logits(sq_session *session, const sq_input *input,
                                   sq_status (*rows)(void *user, int64_t first, int64_t count,
                                                     int64_t vocab, const float *logits,
                                                     const int32_t *ids, int64_t n_ids),
                                   void *user, sq_error *err);
/* The same to a safetensors file with input_ids (I32 [n]) and logits (F32 [n, vocab]); *report is
 * JSON. */
SQ_API sq_status sq_logits_save(sq_session *session, const sq_input *input, const char *path,
                                char **report, sq_error *err);

/* ---- text and ids ---- */

/* A model's tokenizer with its buffers: one thread at a time. */
typedef struct sq_text_codec sq_text_codec;
/* A model, a folder with tokenizer.json alone, or the path of a tokenizer.json. */
SQ_API sq_status sq_text_codec_open(sq_text_codec **out, const char *path, sq_error *err);
SQ_API void sq_text_codec_close(sq_text_codec **codec);
/* Ids of text[0..len), without BOS or template; special tokens in the text are recognised, broken
 * UTF-8 reads as U+FFFD. *ids is valid until the next call on the codec. */
SQ_API sq_status sq_text_codec_encode(sq_text_codec *codec, const char *text, size_t len,
                                      const int32_t **ids, size_t *n, sq_error *err);
/* Text of ids, special tokens included; ids that the tokenizer has not give nothing. *text (UTF-8,
 * NUL-terminated beyond len) is valid until the next call on the codec. */
SQ_API sq_status sq_text_codec_decode(sq_text_codec *codec, const int32_t *ids, size_t n,
                                      const char **text, size_t *len, sq_error *err);

/* ---- making it small ---- */

typedef enum sq_indivisible { SQ_PAD, SQ_SMALLER_GROUP, SQ_CHANNEL, SQ_KEEP } sq_indivisible;

typedef struct sq_quantize_options {
    const char *method;   /* "rtn", "awq" (default), "gptq", "awq+gptq" */
    const char *profile;  /* JSON laid over the flags: quant/policy.h, profiles/; NULL: none */
    double damp;          /* GPTQ: share of the mean diagonal; 0: 0.01 */
    int no_act_order;     /* GPTQ: columns as they lie */
    const char *scheme;   /* "w4a16" (default), "w8a16", "w8a8", "w4a8" (A8W4DQ) */
    int64_t group_size;   /* 0: 128; -1: one group a row */
    double target_bits;   /* of a language weight, scales counted: bits and groups are chosen by
                             layer, in a pass over the data of its own; 0: as the scheme says */
    int symmetric;        /* 0: asymmetric */
    const char *vision;   /* "keep" (default), "w8a16", "w4a16": tower and merger */
    const char *calib;    /* JSON lines; needed by awq unless stats is given */
    int64_t samples, seq; /* 0: 128 samples at most, sequences of 512 tokens of plain text */
    const char *stats;    /* statistics file of sq_calibrate */
    sq_indivisible indivisible;
    const char *embedding, *lm_head; /* "keep" (default), "w8a16", "w4a16" */
    int tp; /* ranks of a tensor-parallel engine: the MLP is widened with zeros until each gets
               whole groups; 0 or 1: none */
    const char *format; /* "compressed-tensors" (default), "awq-gemm", "awq-gemv", "gptq",
                         * "gptq-v2", "gguf" (out is then a file that ends in .gguf) */
    const char
        *target; /* "vllm", "sglang", "transformers", "llama.cpp", "squint": the engine that
                    has to load it; refused before any work where it has no kernel. NULL: any */
    int no_resume, no_verify, no_clip;
    int mse_range;  /* round-to-nearest without data: ranges of the least squared weight error */
    int sequential; /* statistics of a layer come from the quantized layers before it; 0: from the
                       original ones, in one pass that serves every method */
    size_t max_ram; /* activations go to disk above it; 0: no limit */
} sq_quantize_options;

/* Calibrates once, quantizes layer by layer, writes OUT; OUT appears under its name only when
 * complete, work is kept in OUT.partial and resumed. *report: cli.md's keys of `quantize`. */
SQ_API sq_status sq_quantize(const char *model, const char *out, const sq_quantize_options *options,
                             const sq_progress *progress, char **report, sq_error *err);
SQ_API sq_status sq_calibrate(const char *model, const char *stats,
                              const sq_quantize_options *options, const sq_progress *progress,
                              char **report, sq_error *err);

/* ---- proving it ---- */

typedef struct sq_verify_options {
    const char *against; /* the original; NULL: only what the folder itself shows */
    const char *level;   /* "structure", "codes", "layers", "cache", "logits" (each includes those
                            before);   NULL: all */
    const char *data;    /* JSON lines to compare on; NULL: built-in texts */
    int64_t samples;     /* 0: 16 */
    double max_kl, min_top1; /* limits; 0: defaults */
    const char *kv_type;     /* of the folder's own runs; see sq_model_set_kv_type */
    const char *target;      /* an engine as sq_quantize_options': whether it would load the folder
                                (llama.cpp: the .gguf file) and read it right. Without a level this
                                alone, for folders of any program */
} sq_verify_options;
/* SQ_ECHECK when a check does not hold; *report is filled then, too. */
SQ_API sq_status sq_verify(const char *out, const sq_verify_options *options,
                           const sq_progress *progress, char **report, sq_error *err);

typedef struct sq_eval_options {
    const char *against;              /* another model for KL and agreement */
    const char *text;                 /* plain text file: perplexity over windows */
    const char *task;                 /* JSON lines with answer or bbox */
    int64_t window, windows, samples; /* 0: 512, all, all */
    double min_accuracy, min_iou, max_kl, max_perplexity; /* limits; 0: none; not met: SQ_ECHECK */
    const char *kv_type; /* of the model; see sq_model_set_kv_type */
    const char *report;  /* NULL, or an HTML page to write: all that is measured, in one file that
                            needs no network. The other model answers, too, and with it come examples
                            and what each quantized layer costs alone. */
} sq_eval_options;
SQ_API sq_status sq_eval(const char *model, const sq_eval_options *options,
                         const sq_progress *progress, char **report, sq_error *err);

/* ---- looking ---- */

/* A GGUF (with a mmproj or without) or llama2.c file as a Hugging Face folder `out` (safetensors,
 * config, tokenizer, processor), which appears when complete; ggml's blocks are widened to dtype
 * ("BF16" when NULL, "F16", "F32"), F32 that the type of most numbers holds exactly goes back to
 * it. */
SQ_API sq_status sq_convert(const char *model, const char *out, const char *dtype,
                            const sq_progress *progress, sq_error *err);
/* A quantized folder in another layout ("compressed-tensors", "awq-gemm", "awq-gemv", "gptq",
 * "gptq-v2"), codes and zero points untouched; SQ_EUNSUPPORTED names the linear that the layout
 * cannot hold, or whose scales it cannot hold exactly. target: an engine that has to load it, as
 * sq_quantize_options'; may be NULL. */
SQ_API sq_status sq_convert_layout(const char *model, const char *out, const char *format,
                                   const char *target, const sq_progress *progress, sq_error *err);

typedef struct sq_gguf_options {
    const char *dtype; /* of what is not quantized: F32, F16, BF16, Q8_0; NULL: as it is stored */
    int lossy;         /* round scales that float16 does not hold, instead of SQ_EUNSUPPORTED */
    int text_only;     /* the language model alone, without the file of the vision tower */
} sq_gguf_options;
/* A folder, plain or quantized, as GGUF of version 3 for llama.cpp: the language model as `out`,
 * which ends in .gguf, tower and projector beside it as "…-mmproj.gguf". Codes are untouched. */
SQ_API sq_status sq_convert_gguf(const char *model, const char *out, const sq_gguf_options *options,
                                 const sq_progress *progress, sq_error *err);

/* What it takes, before any work. model: a checkpoint, a folder with config.json alone, or the name
 * of a shape that sq_synth knows. */
typedef struct sq_plan_options {
    int64_t context;       /* tokens; 0: 4096, at most what the model has */
    int64_t batch;         /* sequences at once; 0: 1 */
    int64_t width, height; /* of a picture; 0: none */
    int64_t frames;        /* of a video of that size (0 x 0: 640 x 480); 0: a picture */
    const char *scheme;    /* NULL: as stored; else as sq_quantize_options' */
    int64_t group_size;    /* 0: 128 */
    int symmetric;         /* 1: without zero points */
    const char *vision;    /* scheme of the tower; NULL: kept */
    const char *embedding, *lm_head, *profile; /* as sq_quantize_options'; with one of them, or with
                                                  `vision`, the scheme is w4a16 unless given */
    sq_indivisible indivisible;
    size_t memory;        /* what there is; 0: what the system has available */
    const char *method;   /* of quantize, for what calibration takes; NULL: awq */
    int64_t samples, seq; /* of the calibration; 0: 128 of 512 tokens */
    const char *kv_type;  /* see sq_model_set_kv_type */
    int rates;            /* 1: measure this machine (under a second) and forecast times */
} sq_plan_options;
/* *report: cli.md's keys of `plan`. SQ_ENOMEM, with the report, when it does not fit. */
SQ_API sq_status sq_plan_memory(const char *model, const sq_plan_options *options, char **report,
                                sq_error *err);
SQ_API sq_status sq_inspect(const char *model, int tensors, char **report, sq_error *err);
typedef struct sq_bench_options {
    int64_t prompt, decode; /* tokens fed at once, then one by one; 0: not measured */
    int64_t depth;          /* tokens in the cache before the prompt */
    int64_t sessions;       /* that decode together, a token of each in one pass; 0: 1 */
    int64_t width, height;  /* of a picture for the vision tower; 0: none */
    int64_t repeat;         /* rounds, each with a prompt of its own, after one that warms up */
    const char *kv_type;    /* see sq_model_set_kv_type */
    const char *head;       /* see sq_model_set_head */
    const char *compute;    /* see sq_model_set_compute */
    int packed;             /* see sq_model_open_packed */
    int cold; /* the system forgets the model's files first, so that loading reads the disk */
} sq_bench_options;
/* Speed with random tokens and a picture of noise. *report: cli.md's keys of `bench` (medians),
 * their spread, and the share of this machine's read rate that decoding reaches. */
SQ_API sq_status sq_bench(const char *model, const sq_bench_options *options,
                          const sq_progress *progress, char **report, sq_error *err);
SQ_API sq_status sq_devices(char **report, sq_error *err);

#ifdef __cplusplus
}
#endif
#endif
