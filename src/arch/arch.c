/* The list of families and the one rule for tensor prefixes. */
#include "arch/arch.h"

#include <stdio.h>
#include <string.h>

#include "arch/families.h"

static const sq_arch *const families[] = {
    &sq_arch_llama,   &sq_arch_qwen2, &sq_arch_qwen2_vl,   &sq_arch_qwen2_5_vl,
    &sq_arch_mistral, &sq_arch_llava, &sq_arch_llava_next, &sq_arch_vila,
};

size_t sq_arch_count(void) { return sizeof families / sizeof *families; }

const sq_arch *sq_arch_at(size_t i) { return i < sq_arch_count() ? families[i] : NULL; }

const sq_arch *sq_arch_find(const char *model_type) {
    for (size_t i = 0; i < sq_arch_count(); i++) {
        if (strcmp(families[i]->model_type, model_type) == 0) {
            return families[i];
        }
    }
    return NULL;
}

int sq_arch_canonical(const sq_arch *a, const char *file_name, char *out, size_t cap) {
    static const struct {
        const char *from, *to;
    } rules[] = {
        {"model.visual.", "visual."},
        {"model.vision_tower.vision_model.", "vision_tower."},
        {"model.vision_tower.", "vision_tower."},
        {"vision_tower.vision_model.", "vision_tower."},
        {"vision_tower.vision_tower.vision_model.", "vision_tower."},
        {"model.multi_modal_projector.", "multi_modal_projector."},
        {"model.image_newline", "image_newline"},
        {"llm.", ""},
        {"model.language_model.lm_head.", "lm_head."},
        {"model.language_model.", "model."},
        {"language_model.model.", "model."},
        {"language_model.lm_head.", "lm_head."},
        {"language_model.", "model."},
    };
    const char *s = file_name;
    (void)a;
    if (strncmp(s, "module.", 7) == 0) {
        s += 7;
    }
    if (strncmp(s, "base_model.model.", 17) == 0) {
        s += 17;
    }
    const char *to = "";
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        size_t n = strlen(rules[i].from);
        if (strncmp(s, rules[i].from, n) == 0) {
            to = rules[i].to;
            s += n;
            break;
        }
    }
    int n = snprintf(out, cap, "%s%s", to, s);
    return n >= 0 && (size_t)n < cap;
}

void sq_arch_published(const sq_arch *a, const char *canonical, char *out, size_t cap) {
    for (size_t i = 0; a->published != NULL && a->published[i][0] != NULL; i++) {
        size_t n = strlen(a->published[i][0]);
        if (strncmp(canonical, a->published[i][0], n) == 0) {
            snprintf(out, cap, "%s%s", a->published[i][1], canonical + n);
            return;
        }
    }
    snprintf(out, cap, "%s", canonical);
}
