/* The words and pictures of `run`, `chat` and `logits` as messages. */
#ifndef CLI_ASK_H
#define CLI_ASK_H

#include "cli.h"

typedef struct cli_ask {
    const char *prompt, *system, *messages_file, *text, *tokens;
    cli_list images, videos;
    sq_media_options media;
    const char *kv_type;
    const char *chat_template; /* a name or FILE */
    int raw;
} cli_ask;

/* Rows for an option table (end it yourself). */
#define CLI_ASK_OPTIONS(a)                                                                         \
    {"--prompt", CLI_TEXT, &(a).prompt, "TEXT  what to say"},                                      \
        {"--system", CLI_TEXT, &(a).system, "TEXT  system message"},                               \
        {"--image", CLI_LIST, &(a).images,                                                         \
         "FILE  a picture (PNG, JPEG, WebP); may be given again"},                                 \
        {"--video", CLI_LIST, &(a).videos,                                                         \
         "FILE  a video or a folder of frames; may be given again"},                               \
        {"--messages", CLI_TEXT, &(a).messages_file, "FILE.json  the whole conversation"},         \
        KV_OPTION((a).kv_type),                                                                    \
        {"--image-min-tokens", CLI_INT, &(a).media.image_min_tokens,                               \
         "N  tokens of a picture at least"},                                                       \
        {"--image-max-tokens", CLI_INT, &(a).media.image_max_tokens,                               \
         "N  tokens of a picture at most"},                                                        \
        {"--fps", CLI_REAL, &(a).media.fps, "F  frames a second taken from a video"},              \
        {"--min-frames", CLI_INT, &(a).media.min_frames, "N  frames of a video at least"},         \
        {"--max-frames", CLI_INT, &(a).media.max_frames, "N  frames of a video at most"},          \
        {"--video-total-pixels", CLI_INT, &(a).media.video_total_pixels,                           \
         "N  pixels of all frames of a video together at most"},                                   \
        {"--raw", CLI_FLAG, &(a).raw, "the words as they are, without a chat template"}, {         \
        "--chat-template", CLI_TEXT, &(a).chat_template,                                           \
            "NAME|FILE  builtin, chatml, llama-2, llama-3, vicuna, llava, mistral, qwen-vl, or "   \
            "Jinja in a file"                                                                      \
    }

/* One user message: pictures, then videos, then the text. Owned. */
json_t *cli_user_message(const cli_list *images, const cli_list *videos, const char *text);
/* What the options say of the chat template, for sq_input: NULL for the checkpoint's own. *owned is
 * to be freed. Returns 0 with an error printed when the file cannot be read. */
int cli_chat_template(const char *verb, const cli_ask *a, const char **out, char **owned);
/* The messages that the options mean: --messages FILE, or --system and --prompt. *base is the
 * folder that paths are relative to (owned, may be NULL). Returns NULL with an error printed and
 * *status set. */
json_t *cli_messages(const char *verb, const cli_ask *a, char **base, int *status);

#endif
