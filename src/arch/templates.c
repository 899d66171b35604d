/* Chat templates by name, for checkpoints without one or with one that cannot be read: the
 * published forms of the families (models.md 5.3). */
#include <string.h>

#include "arch/arch.h"

/* Content as text: a string, or parts whose pictures are marked as `image` says. */
#define CONTENT(image, video)                                                                      \
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"                      \
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" image                   \
    "{% elif part['type'] == 'video' %}" video "{% elif 'text' in part %}{{ part['text'] }}"       \
    "{% endif %}{% endfor %}{% endif %}"
#define QWEN_CONTENT                                                                               \
    CONTENT("<|vision_start|><|image_pad|><|vision_end|>",                                         \
            "<|vision_start|><|video_pad|><|vision_end|>")
#define MARK_CONTENT CONTENT("<image>\n", "<image>\n")

static const struct {
    const char *name, *text;
} templates[] = {
    {"chatml",
     "{% for message in messages %}<|im_start|>{{ message['role'] }}\n" QWEN_CONTENT
     "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {"qwen-vl", "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
                "<|im_start|>{{ message['role'] }}\n" QWEN_CONTENT "<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {"llama-2",
     "{% for message in messages %}{% if message['role'] == 'system' %}{% elif "
     "message['role'] == 'user' %}{{ bos_token }}[INST] {% if loop.index0 <= 1 and "
     "messages[0]['role'] == 'system' %}<<SYS>>\n{{ messages[0]['content'] }}\n<</SYS>>\n\n"
     "{% endif %}" MARK_CONTENT " [/INST]{% else %} " MARK_CONTENT
     " {{ eos_token }}{% endif %}{% endfor %}"},
    {"llama-3",
     "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
     "<|end_header_id|>\n\n" MARK_CONTENT "<|eot_id|>{% endfor %}"
     "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"},
    {"vicuna",
     "{{ bos_token }}{% if messages[0]['role'] != 'system' %}A chat between a curious user and an "
     "artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
     "to the user's questions. {% endif %}{% for message in messages %}{% if message['role'] == "
     "'user' %}USER: " MARK_CONTENT
     " {% elif message['role'] == 'assistant' %}ASSISTANT: " MARK_CONTENT
     "</s>{% else %}" MARK_CONTENT " {% endif %}{% endfor %}"
     "{% if add_generation_prompt %}ASSISTANT:{% endif %}"},
    {"llava",
     "{% for message in messages %}{% if message['role'] != 'system' %}"
     "{{ message['role'].upper() + ': '}}{% endif %}{% if message['content'] is string %}"
     "{{ message['content'] + ' ' }}{% else %}{% for content in message['content'] | "
     "selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in "
     "message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
     "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif "
     "%}"},
    {"mistral", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' "
                "%}[INST] " MARK_CONTENT " [/INST]{% else %}" MARK_CONTENT
                "{{ eos_token }}{% endif %}{% endfor %}"},
    {"raw", "{% for message in messages %}" MARK_CONTENT "{% endfor %}"},
    {"raw-qwen-vl", "{% for message in messages %}" QWEN_CONTENT "{% endfor %}"},
};

const char *sq_arch_template(const char *name) {
    for (size_t i = 0; name != NULL && i < sizeof templates / sizeof *templates; i++) {
        if (strcmp(templates[i].name, name) == 0) {
            return templates[i].text;
        }
    }
    return NULL;
}
