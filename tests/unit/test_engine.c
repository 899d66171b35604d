/* What a session does with words: templates given or left out, variables, defaults of the
 * checkpoint, stop strings, limits that are told before work, videos for models without any. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "engine/engine.h"

static char *golden(const char *name) {
    static char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", root ? root : ".", name);
    return path;
}

static sq_engine *open_engine(const char *name, const sq_media_options *media) {
    sq_engine *e = NULL;
    sq_error err = {0};
    if (sq_engine_open(&e, golden(name), media, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return e;
}

static sq_prompt prompt_of(const sq_engine *e, const sq_input *in) {
    sq_prompt p;
    sq_error err = {0};
    if (sq_engine_prompt(e, in, &p, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return p;
}

/* The rendered text of a prompt. */
static void renders(const sq_engine *e, sq_input in, const char *want) {
    sq_prompt p = prompt_of(e, &in);
    assert_string_equal(p.text, want);
    sq_prompt_free(&p);
}

#define SAY "[{\"role\": \"user\", \"content\": \"Hi\"}]"

static void templates_by_choice(void **state) {
    (void)state;
    sq_engine *e = open_engine("smollm2-like-bf16", NULL);
    renders(e, (sq_input){.messages = SAY, .chat_template = "raw"}, "Hi");
    renders(e, (sq_input){.messages = SAY, .chat_template = "chatml"},
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    renders(e, (sq_input){.messages = SAY, .chat_template = "{{ messages[0]['content'] }}!"},
            "Hi!");
    renders(e,
            (sq_input){.messages = "{\"messages\": " SAY ", \"tools\": [{\"name\": \"f\"}]}",
                       .chat_template = "{{ tools[0]['name'] }}{{ messages | length }}"},
            "f1");
    renders(e, (sq_input){.messages = SAY, .chat_template = "llama-3", .no_generation_prompt = 1},
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
    sq_error err = {0};
    sq_prompt p;
    sq_input bad = {.messages = SAY, .chat_template = "nothing"};
    assert_int_equal(sq_engine_prompt(e, &bad, &p, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "nothing"));
    sq_engine_close(&e);
}

/* BOS comes before raw text where the tokenizer's post-processor puts one. */
static void raw_text_has_bos(void **state) {
    (void)state;
    sq_engine *e = open_engine("llama-linear-f16", NULL);
    sq_input in = {.messages = SAY, .chat_template = "raw"};
    sq_prompt p = prompt_of(e, &in);
    assert_int_equal(p.ids.data[0], 1);
    assert_int_not_equal(p.ids.data[1], 1);
    sq_prompt_free(&p);
    sq_engine_close(&e);
}

static void defaults_of_the_checkpoint(void **state) {
    (void)state;
    sq_sampler s;
    sq_error err = {0};
    json_t *g = json_loads(
        "{\"top_k\": 1, \"top_p\": 0.5, \"repetition_penalty\": 2.0, \"min_p\": 0.1}", 0, NULL);
    sq_sampling none = {0}, off = {.top_k = -1, .top_p = 1, .repetition_penalty = 1, .min_p = -1};
    assert_int_equal(sq_sampler_open(&s, &none, g, 4, &err), SQ_OK);
    assert_int_equal(s.options.top_k, 1);
    assert_true(s.options.top_p == 0.5 && s.options.repetition_penalty == 2.0 &&
                s.options.min_p == 0.1);
    /* Greedy follows the penalty: 3.0 / 2 falls below 2.0. */
    const float logits[4] = {3.0f, 2.0f, -1.0f, 0.0f};
    const int32_t seen[] = {0};
    assert_int_equal(sq_sampler_next(&s, logits, seen, 1), 1);
    sq_sampler_close(&s);
    assert_int_equal(sq_sampler_open(&s, &off, g, 4, &err), SQ_OK);
    assert_int_equal(s.options.top_k, 0);
    assert_int_equal(sq_sampler_next(&s, logits, seen, 1), 0);
    sq_sampler_close(&s);
    json_decref(g);
}

static void stop_strings(void **state) {
    (void)state;
    sq_engine *e = open_engine("qwen2-text-f32", NULL);
    sq_conversation *c = NULL;
    sq_error err = {0};
    sq_result r;
    sq_input in = {.messages = SAY};
    sq_sampling o = {.max_new_tokens = 24, .repetition_penalty = 1};
    assert_int_equal(sq_conversation_open(&c, e, &err), SQ_OK);
    assert_int_equal(sq_conversation_generate(c, &in, &o, NULL, NULL, &r, &err), SQ_OK);
    assert_true(strlen(r.text) > 8);
    char *whole = strdup(r.text), cut[4] = {whole[4], whole[5], whole[6], 0};
    const char *const stops[] = {"never there", cut};
    o.stop = stops;
    o.n_stop = 2;
    assert_int_equal(sq_conversation_generate(c, &in, &o, NULL, NULL, &r, &err), SQ_OK);
    assert_string_equal(r.finish_reason, "stop");
    assert_int_equal(strlen(r.text), (size_t)(strstr(whole, cut) - whole));
    assert_memory_equal(r.text, whole, strlen(r.text));
    free(whole);
    sq_conversation_close(&c);
    sq_engine_close(&e);
}

#define LOOK                                                                                       \
    "[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"image\": \"odd-a.png\"}, "        \
    "{\"type\": \"text\", \"text\": \"?\"}]}]"

/* Refused from the picture's header, with both numbers. */
static void limits_before_pixels(void **state) {
    (void)state;
    char base[4096];
    snprintf(base, sizeof base, "%s", golden("media"));
    sq_engine *e = open_engine("qwen2vl-nested-f32", NULL);
    sq_input in = {.messages = LOOK, .base_dir = base};
    sq_error err = {0};
    sq_prompt p;
    int64_t positions = e->net->config.max_positions;
    e->net->config.max_positions = 20;
    assert_int_equal(sq_engine_prompt(e, &in, &p, &err), SQ_ELIMIT);
    assert_non_null(strstr(err.text, "at most 20"));
    e->net->config.max_positions = positions;
    sq_memory_limit(sq_memory_used() + 100000);
    assert_int_equal(sq_engine_prompt(e, &in, &p, &err), SQ_ENOMEM);
    sq_memory_limit(0);
    p = prompt_of(e, &in);
    sq_prompt_free(&p);
    sq_engine_close(&e);
}

/* What the tower allocates stays below what was said before. */
static void vision_peak_is_kept(void **state) {
    static const char *const models[] = {"qwen25vl-nested-f32", "llavanext-clip-f32", "nvila-s2"};
    (void)state;
    char base[4096];
    snprintf(base, sizeof base, "%s", golden("media"));
    for (size_t i = 0; i < 3; i++) {
        sq_engine *e = open_engine(models[i], NULL);
        sq_input in = {.messages = LOOK, .base_dir = base};
        sq_prompt p = prompt_of(e, &in);
        const sq_pixels *px = &p.slots[0].pixels;
        size_t need = sq_vision_peak(&e->net->config, px),
               width = (size_t)e->net->config.dims[SQ_D_HIDDEN];
        size_t patches =
            (size_t)(px->grid_t * px->grid_h * px->grid_w * px->patch_dim) * sizeof(float);
        sq_error err = {0};
        sq_work *w = NULL;
        /* The patches are there already; 64 KiB for what is rounded up. */
        sq_memory_limit(sq_memory_used() + need - patches + 65536);
        assert_int_equal(sq_work_open(&w, e->net, &err), SQ_OK);
        float *out = sq_alloc((size_t)px->tokens * width, sizeof *out, "features", &err);
        assert_non_null(out);
        if (sq_vision_forward(e->net, w, px, out, NULL, &err) != SQ_OK) {
            fail_msg("%s: %s", models[i], err.text);
        }
        sq_memory_limit(0);
        sq_free(out);
        sq_work_close(&w);
        sq_prompt_free(&p);
        sq_engine_close(&e);
    }
}

/* VILA takes a video as pictures: num_video_frames of them, or as many as the flags say. */
static void video_as_frames(void **state) {
    (void)state;
    char base[4096];
    snprintf(base, sizeof base, "%s", golden("media"));
    sq_media_options two = {.max_frames = 2};
    for (int i = 0; i < 2; i++) {
        sq_engine *e = open_engine("vila15-llama", i == 0 ? NULL : &two);
        sq_input in = {.messages =
                           "[{\"role\": \"user\", \"content\": [{\"type\": \"video\", \"video\": "
                           "\"six-rgb.mp4\"}, {\"type\": \"text\", \"text\": \"?\"}]}]",
                       .base_dir = base};
        sq_prompt p = prompt_of(e, &in);
        assert_int_equal(p.n_slots, i == 0 ? 3 : 2);
        assert_int_not_equal(p.slots[0].hash, p.slots[1].hash);
        sq_prompt_free(&p);
        sq_engine_close(&e);
    }
}

/* The plan of a published shape, by its arithmetic, and what does not fit. */
static void plans(void **state) {
    (void)state;
    char *text = NULL;
    sq_error err = {0};
    sq_plan_options o = {
        .context = 8192, .scheme = "w4a16", .width = 448, .height = 672, .memory = (size_t)8 << 30};
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_OK);
    json_t *r = json_loads(text, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(r, "kv_bytes_per_token")),
                     2 * 28 * 2 * 128 * 4);
    assert_int_equal(json_integer_value(json_object_get(r, "kv_bytes")), (int64_t)57344 * 8192);
    assert_int_equal(json_integer_value(json_object_get(r, "vision_tokens")), 384);
    assert_int_equal(json_integer_value(json_object_get(r, "max_context_tokens")), 32768);
    /* every weight is of a part; the embeddings are the head as well and are rounded for that */
    const json_t *parts = json_object_get(r, "parts");
    int64_t sum = 0;
    const char *part;
    json_t *bytes;
    json_object_foreach((json_t *)(uintptr_t)parts, part, bytes) {
        sum += json_integer_value(bytes);
    }
    assert_int_equal(sum, json_integer_value(json_object_get(r, "weights_bytes")));
    assert_int_equal(json_integer_value(json_object_get(parts, "embeddings")), 151936 * 1536 * 2);
    int64_t tower = json_integer_value(json_object_get(parts, "vision")) +
                    json_integer_value(json_object_get(parts, "merger"));
    int64_t seen = json_integer_value(json_object_get(r, "resident_weights_bytes"));
    assert_true(seen < sum); /* of the embeddings only the rows of a chunk */
    double weights = (double)json_integer_value(json_object_get(r, "weights_bytes"));
    assert_true(weights > 2.4e9 &&
                weights < 2.7e9); /* 1.31 billion at 4.5 bits, the rest in bf16 */
    json_decref(r);
    sq_text_free(text);
    o.width = o.height = 0; /* nobody reads the tower */
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_OK);
    r = json_loads(text, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(r, "resident_weights_bytes")),
                     seen - tower);
    json_decref(r);
    sq_text_free(text);
    o.width = o.height = 448;
    o.memory = (size_t)2 << 30;
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_ENOMEM);
    assert_non_null(text);
    sq_text_free(text);
    text = NULL;
    o.context = 40000;
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_ELIMIT);
    assert_null(text);
    assert_int_equal(sq_plan_memory("no-such-shape", NULL, &text, &err), SQ_EFORMAT);
    sq_plan_options small = {.context = 100};
    assert_int_equal(sq_plan_memory(golden("vila15-llama"), &small, &text, &err), SQ_OK);
    sq_text_free(text);
}

/* A scheme for each part, from flags or a profile: as quantize reads it. What is planned before is
 * what the folder holds after. */
static void plans_parts(void **state) {
    static const struct {
        const char *profile; /* NULL: the flags */
        sq_plan_options flags;
    } rows[] = {
        {"{\"method\": \"rtn\", \"language\": {\"scheme\": \"w4a8\", \"group_size\": 32}, "
         "\"vision\": "
         "{\"scheme\": \"w8a16\", \"group_size\": -1, \"symmetric\": true}, \"embedding\": "
         "{\"scheme\": "
         "\"w8a16\", \"group_size\": -1, \"symmetric\": true}}",
         {0}},
        {"{\"method\": \"rtn\", \"language\": {\"scheme\": \"w8a8\"}, \"merger\": {\"scheme\": "
         "\"w4a16\", \"group_size\": 64}, \"on_indivisible\": \"keep\"}",
         {0}},
        {NULL, {.embedding = "w8a16", .symmetric = 1, .indivisible = SQ_CHANNEL}},
    };
    char dir[] = "/tmp/squint-plan-XXXXXX", model[600], out[64], profile[64];
    static const char *const same[] = {"language", "vision", "merger", "embeddings"};
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    snprintf(profile, sizeof profile, "%s/profile.json", dir);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sq_plan_options p = rows[i].flags, stored = {0};
        sq_error err = {0};
        char *text = NULL, *after = NULL;
        snprintf(out, sizeof out, "%s/%zu", dir, i);
        if (rows[i].profile != NULL) {
            assert_int_equal(sq_file_write(profile, rows[i].profile, strlen(rows[i].profile), NULL),
                             SQ_OK);
            p.profile = profile;
        }
        sq_quantize_options q = {.method = "rtn",
                                 .profile = p.profile,
                                 .symmetric = p.symmetric,
                                 .embedding = p.embedding,
                                 .indivisible = p.indivisible,
                                 .no_verify = 1};
        assert_int_equal(sq_quantize(model, out, &q, NULL, NULL, &err), SQ_OK);
        assert_int_equal(sq_plan_memory(model, &p, &text, &err), SQ_OK);
        assert_int_equal(sq_plan_memory(out, &stored, &after, &err), SQ_OK);
        json_t *a = json_loads(text, 0, NULL), *b = json_loads(after, 0, NULL);
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(a, "parts"), same[k])),
                json_integer_value(json_object_get(json_object_get(b, "parts"), same[k])));
        }
        double got = (double)json_integer_value(json_object_get(a, "disk_bytes")),
               want = (double)json_integer_value(json_object_get(b, "disk_bytes"));
        assert_true(fabs(got - want) <= 1e-3 * want);
        json_decref(a);
        json_decref(b);
        sq_text_free(text);
        sq_text_free(after);
    }
    sq_error err = {0};
    char *text = NULL;
    sq_plan_options head = {.lm_head = "w8a16"}, wrong = {.embedding = "w8a8"};
    assert_int_equal(sq_plan_memory(model, &head, &text, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "lm_head is the embeddings"));
    assert_int_equal(sq_plan_memory(model, &wrong, &text, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "inputs are not rounded there"));
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

/* Bytes of the weights of a net as they lie in memory. */
static sq_status add_linear(void *user, sq_linear *l, sq_error *err) {
    (void)err;
    *(double *)user += (double)sq_weight_bytes(&l->weight);
    return SQ_OK;
}

static double report_number(const json_t *r, const char *key) {
    return (double)json_integer_value(json_object_get(r, key));
}

/* What the plan says of a stored model's linears is what they take when it is opened: the rest of
 * both is the same, dense tensors as they are. */
static void weights_as_stored(const char *model) {
    char *text = NULL;
    sq_error err = {0};
    sq_net *net = NULL;
    sq_plan_options o = {.context = 64};
    assert_int_equal(sq_plan_memory(model, &o, &text, &err), SQ_OK);
    json_t *r = json_loads(text, 0, NULL);
    assert_true(json_is_integer(json_object_get(r, "memory_bytes")));
    assert_true(json_is_boolean(json_object_get(r, "fits")));
    assert_int_equal(sq_net_open(&net, model, &err), SQ_OK);
    double want = (double)sq_weight_bytes(&net->embed.weight),
           got = report_number(r, "weights_bytes");
    sq_net_each_linear(net, add_linear, &want, NULL);
    if (net->head.weight.data != net->embed.weight.data) {
        want += (double)sq_weight_bytes(&net->head.weight);
    }
    for (size_t i = 0; i < sq_checkpoint_count(net->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(net->ckpt, i);
        if (t->rank != 2 && strstr(t->name, ".weight_shape") == NULL) { /* norms, biases, conv */
            want += (double)t->bytes;
        }
    }
    if (!(fabs(got - want) <= 0.01 * want)) {
        fail_msg("%s: %.0f bytes planned, %.0f in memory", model, got, want);
    }
    sq_net_close(&net);
    json_decref(r);
    sq_text_free(text);
}

static void plans_of_files(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-plan-XXXXXX", out[64], model[600];
    sq_error err = {0};
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    assert_non_null(mkdtemp(dir));
    snprintf(out, sizeof out, "%s/w4", dir);
    sq_quantize_options q = {.method = "rtn", .vision = "w8a16", .no_verify = 1};
    assert_int_equal(sq_quantize(model, out, &q, NULL, NULL, &err), SQ_OK);
    weights_as_stored(model);
    weights_as_stored(out);
    weights_as_stored(golden("gguf-llama/model.gguf"));
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

/* Where a video is pictures frame by frame, each is one of its own: tokens and pixels add up, the
 * tower sees one at a time. More tokens than positions, or than the context, are an error. */
static void plans_of_frames(void **state) {
    (void)state;
    sq_error err = {0};
    char *text = NULL;
    double bytes[2], tokens[2];
    for (int i = 0; i < 2; i++) {
        sq_plan_options o = {.memory = (size_t)64 << 30, .frames = i == 0 ? 1 : 5};
        assert_int_equal(sq_plan_memory("vila-1.5-3b", &o, &text, &err), SQ_OK);
        json_t *r = json_loads(text, 0, NULL);
        bytes[i] = report_number(r, "vision_peak_bytes");
        tokens[i] = report_number(r, "vision_tokens");
        assert_int_equal(report_number(json_object_get(r, "frame"), "width"), 640);
        assert_int_equal(report_number(r, "max_frames"), 4096 / 196 / 2 * 2);
        json_decref(r);
        sq_text_free(text);
    }
    assert_int_equal(tokens[1], 5 * tokens[0]);
    assert_int_equal(bytes[1] - bytes[0], 4 * (378 * 378 * 3 * 4 + 640 * 480 * 3));
    text = NULL;
    sq_plan_options many = {.frames = 40}, small = {.frames = 5, .context = 500};
    assert_int_equal(sq_plan_memory("vila-1.5-3b", &many, &text, &err), SQ_ELIMIT);
    assert_int_equal(sq_plan_memory("vila-1.5-3b", &small, &text, &err), SQ_EARG);
    assert_non_null(strstr(err.text, "980"));
    assert_null(text);
    sq_plan_options text_only = {.frames = 2};
    assert_int_equal(sq_plan_memory("smollm2-135m", &text_only, &text, &err), SQ_EARG);
}

/* Other schemes, calibration, the largest video; what is larger takes more. */
static void plans_of_work(void **state) {
    (void)state;
    char *text = NULL;
    sq_error err = {0};
    double before = 0;
    sq_plan_options o = {.context = 2048, .memory = (size_t)8 << 30, .width = 448, .height = 448};
    for (int frames = 0; frames <= 16; frames += 8) {
        o.frames = frames;
        assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_OK);
        json_t *r = json_loads(text, 0, NULL);
        assert_true(report_number(r, "vision_peak_bytes") > before);
        before = report_number(r, "vision_peak_bytes");
        /* frames that fit: that many, and not two more */
        sq_plan_options most = o;
        char *other = NULL;
        most.frames = (int64_t)report_number(r, "max_frames");
        most.context = 0; /* as long as it takes */
        assert_true(most.frames > 16);
        assert_int_equal(sq_plan_memory("qwen2-vl-2b", &most, &other, &err), SQ_OK);
        sq_text_free(other);
        other = NULL;
        most.frames += 2;
        assert_int_not_equal(sq_plan_memory("qwen2-vl-2b", &most, &other, &err), SQ_OK);
        sq_text_free(other);
        const json_t *schemes = json_object_get(r, "schemes");
        assert_int_equal(json_array_size(schemes), 3);
        double last = 1e18;
        for (size_t i = 0; i < 3; i++) {
            double bytes = report_number(json_array_get(schemes, i), "weights_bytes");
            assert_true(bytes < last);
            last = bytes;
        }
        assert_null(json_object_get(r, "times"));
        json_decref(r);
        sq_text_free(text);
    }
    o.frames = 0;
    o.samples = 16;
    o.seq = 256;
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_OK);
    json_t *r = json_loads(text, 0, NULL);
    const json_t *c = json_object_get(r, "calibration");
    /* 448 x 448: 256 tokens, three positions beside each */
    assert_int_equal(report_number(c, "activation_bytes"), 16 * 256 * (1536 * 4 + 12));
    /* X'X of the inputs of q, o, gate (1536) and down (8960), two vectors and 128 rows of each */
    assert_int_equal(report_number(c, "statistics_bytes"), 3 * (1536 * 1536 * 4 + 1536 * 12) +
                                                               8960 * 8960 * 4 + 8960 * 12 +
                                                               128 * 4 * (3 * 1536 + 8960));
    json_decref(r);
    sq_text_free(text);
    o.method = "rtn";
    o.rates = 1;
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_OK);
    r = json_loads(text, 0, NULL);
    assert_null(json_object_get(r, "calibration"));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(r, "quantize"), "method")), "rtn");
    c = json_object_get(r, "times");
    assert_true(json_number_value(json_object_get(c, "decode_tokens_per_s")) > 0);
    assert_true(json_number_value(json_object_get(c, "vision_s")) > 0);
    json_decref(r);
    sq_text_free(text);
    o.samples = -1;
    assert_int_equal(sq_plan_memory("qwen2-vl-2b", &o, &text, &err), SQ_EARG);
}

/* What quantize allocates at its peak is what the plan says; in the pass of a layer, that counts
 * the pages of its weights too. */
static void plan_of_quantize_is_kept(void **state) {
    static const char *const methods[] = {"rtn", "awq", "gptq"};
    (void)state;
    char dir[] = "/tmp/squint-plan-XXXXXX", out[64], data[64], model[600];
    sq_error err = {0};
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    assert_non_null(mkdtemp(dir));
    snprintf(data, sizeof data, "%s/data.jsonl", dir);
    sq_buf b = {0};
    for (int i = 0; i < 400; i++) {
        sq_buf_printf(&b, "{\"text\": \"The %d red circles are left of %d squares.\"}\n", i, 3 * i);
    }
    assert_int_equal(sq_file_write(data, b.data, b.len, &err), SQ_OK);
    sq_buf_free(&b);
    for (size_t i = 0; i < 3; i++) {
        char *text = NULL;
        sq_plan_options o = {.method = methods[i], .samples = 8, .seq = 256, .context = 64};
        assert_int_equal(sq_plan_memory(model, &o, &text, &err), SQ_OK);
        json_t *r = json_loads(text, 0, NULL);
        double planned = report_number(json_object_get(r, "quantize"), "stage_bytes") +
                         report_number(json_object_get(r, "calibration"), "activation_bytes");
        double layer = report_number(json_object_get(r, "parts"), "language") / 4;
        json_decref(r);
        sq_text_free(text);
        snprintf(out, sizeof out, "%s/%s", dir, methods[i]);
        sq_quantize_options q = {.method = methods[i],
                                 .calib = i == 0 ? NULL : data,
                                 .samples = 8,
                                 .seq = 256,
                                 .no_verify = 1};
        sq_memory_peak_reset();
        double before = (double)sq_memory_used();
        if (sq_quantize(model, out, &q, NULL, NULL, &err) != SQ_OK) {
            fail_msg("%s", err.text);
        }
        double peak = (double)sq_memory_peak() - before;
        double least = i == 0 ? planned : planned - layer;
        if (!(peak <= 1.15 * planned && peak >= 0.9 * least)) {
            fail_msg("%s: %.0f bytes planned, %.0f allocated", methods[i], planned, peak);
        }
    }
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
}

/* Pages of [p, p + n) that this process has in memory; -1 where that cannot be known. */
static int64_t present(const void *p, size_t n) {
    FILE *f = fopen("/proc/self/pagemap", "rb");
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)p / page;
    int64_t sum = f == NULL || fseek(f, (long)(first * 8), SEEK_SET) != 0 ? -1 : 0;
    for (uintptr_t i = first; sum >= 0 && i <= ((uintptr_t)p + n - 1) / page; i++) {
        uint64_t word = 0;
        sum = fread(&word, sizeof word, 1, f) == 1 ? sum + (int64_t)(word >> 63) : -1;
    }
    if (f != NULL) {
        fclose(f);
    }
    return sum;
}

/* Embeddings that no head reads: the rows of a prompt leave no pages behind. */
static void embeddings_are_given_back(void **state) {
    (void)state;
    char dir[] = "/tmp/squint-plan-XXXXXX", out[64], model[600];
    sq_error err = {0};
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    assert_non_null(mkdtemp(dir));
    snprintf(out, sizeof out, "%s/w4", dir);
    sq_quantize_options q = {.method = "rtn", .no_verify = 1};
    assert_int_equal(sq_quantize(model, out, &q, NULL, NULL, &err), SQ_OK);
    sq_engine *e = NULL;
    sq_seq seq;
    sq_prompt p;
    int32_t ids[64];
    assert_int_equal(sq_engine_open(&e, out, NULL, &err), SQ_OK);
    assert_int_equal(sq_engine_set_head(e, NULL, &err), SQ_OK);
    int64_t vocab = e->net->config.dims[SQ_D_VOCAB];
    for (int i = 0; i < 64; i++) {
        ids[i] = (int32_t)(i * vocab / 64);
    }
    const sq_tensor *t = e->net->embed.file;
    int64_t all = (int64_t)(t->bytes / (size_t)sysconf(_SC_PAGESIZE));
    assert_int_equal(sq_prompt_tokens(&p, &e->front, ids, 64, &err), SQ_OK);
    assert_int_equal(sq_seq_open(&seq, e->net, &err), SQ_OK);
    assert_int_equal(sq_seq_feed(&seq, &p, 0, 0, NULL, NULL, &err), SQ_OK);
    int64_t left = present(t->data, t->bytes);
    sq_seq_close(&seq);
    sq_prompt_free(&p);
    sq_engine_close(&e);
    assert_int_equal(sq_remove_tree(dir, NULL), SQ_OK);
    if (left < 0) {
        skip();
    }
    assert_true(left < all / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_by_choice),
        cmocka_unit_test(raw_text_has_bos),
        cmocka_unit_test(defaults_of_the_checkpoint),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(limits_before_pixels),
        cmocka_unit_test(vision_peak_is_kept),
        cmocka_unit_test(video_as_frames),
        cmocka_unit_test(plans),
        cmocka_unit_test(plans_parts),
        cmocka_unit_test(plans_of_files),
        cmocka_unit_test(plans_of_work),
        cmocka_unit_test(plan_of_quantize_is_kept),
        cmocka_unit_test(plans_of_frames),
        cmocka_unit_test(embeddings_are_given_back),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
