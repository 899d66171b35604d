/* convert: a checkpoint of any source as a Hugging Face folder, ggml's blocks widened to floats. */
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "format/safetensors.h"
#include "format/source.h"
#include "kernels/kernels.h"

static const uint64_t shard_bytes = 5000000000u;

typedef struct converting {
    sq_checkpoint *from;
    sq_arena arena;
    sq_dtype dtype; /* of what is widened */
    sq_dtype main;  /* of most of the numbers then */
    sq_st_writer *writer;
    const sq_progress *progress;
    sq_error *err;
} converting;

/* The rope divisors of GGUF have no place in a folder; config.json would have to say them. */
static int left_out(const sq_tensor *t) {
    return strstr(t->name, "model.rotary_emb.factors") != NULL;
}

static sq_dtype widened(const converting *c, const sq_tensor *t) {
    return sq_dtype_block(t->dtype) > 1 ? c->dtype : t->dtype;
}

static void find_main(converting *c) {
    uint64_t numbers[SQ_BF16 + 1] = {0};
    c->main = c->dtype;
    for (size_t i = 0; i < sq_checkpoint_count(c->from); i++) {
        const sq_tensor *t = sq_checkpoint_at(c->from, i);
        sq_dtype type = widened(c, t);
        uint64_t n = 1;
        for (int k = 0; k < t->rank; k++) {
            n *= (uint64_t)t->shape[k];
        }
        if (type <= SQ_BF16 && (numbers[type] += n) > numbers[c->main]) {
            c->main = type;
        }
    }
}

/* llama.cpp's converter widens norms, biases and positions to F32; they go back where the type of
 * the other numbers holds them. */
static int goes_back(const converting *c, const sq_tensor *t) {
    size_t n = t->bytes / sizeof(float);
    if (t->dtype != SQ_F32 || c->main == SQ_F32) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t narrow;
        float v, back;
        memcpy(&v, (const char *)t->data + i * sizeof v, sizeof v);
        sq_from_f32(&narrow, c->main, &v, 1);
        sq_to_f32(&back, &narrow, c->main, 1);
        if (memcmp(&v, &back, sizeof v) != 0) {
            return 0;
        }
    }
    return 1;
}

static sq_status open_writer(converting *c, const char *dir) {
    size_t n = sq_checkpoint_count(c->from), k = 0;
    sq_tensor_spec *specs = sq_arena_alloc(&c->arena, n + 1, sizeof *specs, c->err);
    if (specs == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(c->from, i);
        if (left_out(t)) {
            return sq_fail(c->err, SQ_EUNSUPPORTED,
                           "the file scales its rotary frequencies by a tensor (rope_freqs); a "
                           "config.json for that is not written yet");
        }
        specs[k] = (sq_tensor_spec){.name = t->name, .rank = t->rank};
        specs[k].dtype = goes_back(c, t) ? c->main : widened(c, t);
        memcpy(specs[k++].shape, t->shape, sizeof t->shape);
    }
    return sq_st_writer_open(&c->writer, dir, specs, k, shard_bytes, 0, c->err);
}

static sq_status put_widened(converting *c, const sq_tensor *t) {
    sq_weight w = {0};
    size_t n = (size_t)(t->shape[0] * t->shape[1]);
    sq_status st = t->rank == 2
                       ? sq_weight_blocks(&w, t->dtype, t->data, t->shape[0], t->shape[1], c->err)
                       : sq_fail(c->err, SQ_EUNSUPPORTED, "'%s' is no matrix", t->name);
    float *f = st == SQ_OK ? sq_alloc_raw(n, sizeof *f, t->name, c->err) : NULL;
    void *out = f != NULL ? sq_alloc_raw(n, sq_dtype_size(c->dtype), t->name, c->err) : NULL;
    if (out != NULL) {
        sq_weight_rows_f32(&w, 0, t->shape[0], f);
        sq_from_f32(out, c->dtype, f, n);
        st = sq_st_writer_put(c->writer, t->name, out, n * sq_dtype_size(c->dtype), c->err);
    } else if (st == SQ_OK) {
        st = SQ_ENOMEM;
    }
    sq_weight_free(&w);
    sq_free(f);
    sq_free(out);
    return st;
}

static sq_status put_narrowed(converting *c, const sq_tensor *t) {
    size_t n = t->bytes / sizeof(float);
    uint16_t *out = sq_alloc_raw(n, sizeof *out, t->name, c->err);
    if (out == NULL) {
        return SQ_ENOMEM;
    }
    sq_from_f32(out, c->main, t->data, n);
    sq_status st = sq_st_writer_put(c->writer, t->name, out, n * sizeof *out, c->err);
    sq_free(out);
    return st;
}

static sq_status put_all(converting *c) {
    size_t n = sq_checkpoint_count(c->from);
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(c->from, i);
        st = sq_dtype_block(t->dtype) > 1 ? put_widened(c, t)
             : goes_back(c, t)            ? put_narrowed(c, t)
                               : sq_st_writer_put(c->writer, t->name, t->data, t->bytes, c->err);
        sq_tensor_release(t);
        if (st == SQ_OK &&
            !sq_progress_tick(c->progress, "convert", (int64_t)i + 1, (int64_t)n, t->name)) {
            st = sq_fail(c->err, SQ_ECANCELLED, "stopped");
        }
    }
    return st == SQ_OK ? sq_st_writer_finish(&c->writer, c->err) : st;
}

static sq_status put_files(converting *c, const char *model, const char *dir) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json", "preprocessor_config.json"};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < sizeof names / sizeof *names; i++) {
        json_t *v = NULL;
        char *to = sq_path_join(&c->arena, dir, names[i], c->err);
        st = to == NULL ? SQ_ENOMEM : sq_source_json(model, names[i], &v, c->err);
        if (st == SQ_OK && v != NULL && i == 0) {
            static const char *const types[] = {"float32", "float16", "bfloat16"};
            json_object_set_new(v, "torch_dtype", json_string(types[c->main]));
        }
        if (st == SQ_OK && v != NULL) {
            st = sq_json_save(to, v, c->err);
        }
        json_decref(v);
    }
    return st;
}

sq_status sq_convert(const char *model, const char *out, const char *dtype,
                     const sq_progress *progress, sq_error *err) {
    converting c = {.dtype = SQ_BF16, .progress = progress, .err = err};
    char *partial = NULL;
    sq_status st;
    SQ_TRY(sq_need_arg(model, "model", err));
    SQ_TRY(sq_need_arg(out, "out", err));
    if (dtype != NULL && (!sq_dtype_parse(dtype, &c.dtype) || c.dtype > SQ_BF16)) {
        return sq_fail(err, SQ_EARG, "type '%s' is not there; wanted F32, F16 or BF16", dtype);
    }
    sq_source_kind kind = sq_source_kind_of(model);
    if (kind != SQ_SOURCE_GGUF && kind != SQ_SOURCE_LLAMA2C) {
        return sq_fail(err, SQ_EARG,
                       "'%s' is a folder already; wanted a .gguf or llama2.c .bin file", model);
    }
    if (sq_file_exists(out)) {
        return sq_fail(err, SQ_EARG, "'%s' exists already; wanted a new folder", out);
    }
    partial = sq_arena_printf(&c.arena, err, "%s.partial", out);
    st = partial == NULL ? SQ_ENOMEM : sq_checkpoint_open(&c.from, model, err);
    SQ_TRY(st);
    find_main(&c);
    SQ_TRY(sq_remove_tree(partial, err));
    SQ_TRY(sq_make_dirs(partial, err));
    SQ_TRY(open_writer(&c, partial));
    SQ_TRY(put_all(&c));
    SQ_TRY(put_files(&c, model, partial));
    if (rename(partial, out) != 0) {
        st = sq_fail_errno(err, "cannot rename to", out);
    }
fail:
    sq_st_writer_close(&c.writer);
    sq_checkpoint_close(&c.from);
    sq_arena_free(&c.arena);
    return st;
}
