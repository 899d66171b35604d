#include "ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *cli_user_message(const cli_list *images, const cli_list *videos, const char *text) {
    json_t *parts = json_array();
    for (size_t i = 0; i < images->n; i++) {
        json_array_append_new(parts,
                              json_pack("{s:s, s:s}", "type", "image", "image", images->items[i]));
    }
    for (size_t i = 0; i < videos->n; i++) {
        json_array_append_new(parts,
                              json_pack("{s:s, s:s}", "type", "video", "video", videos->items[i]));
    }
    if (json_array_size(parts) == 0) {
        json_decref(parts);
        return json_pack("{s:s, s:s}", "role", "user", "content", text);
    }
    json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", text));
    return json_pack("{s:s, s:o}", "role", "user", "content", parts);
}

static json_t *from_file(const char *verb, const char *path, char **base, int *status) {
    json_error_t je;
    json_t *v = json_load_file(path, 0, &je);
    json_t *list = json_is_object(v) ? json_object_get(v, "messages") : v;
    if (!json_is_array(list)) {
        fprintf(stderr, "squint: %s: '%s' holds no messages; %s, wanted a JSON array\n", verb, path,
                v == NULL ? je.text : "got something else");
        json_decref(v);
        *status = EXIT_INPUT;
        return NULL;
    }
    const char *slash = strrchr(path, '/');
    *base = slash == NULL ? NULL : strndup(path, (size_t)(slash - path) + 1);
    return v; /* an object's other keys are variables of the template */
}

int cli_chat_template(const char *verb, const cli_ask *a, const char **out, char **owned) {
    *owned = NULL;
    *out = a->raw ? "raw" : a->chat_template;
    FILE *f = *out == NULL || a->raw ? NULL : fopen(*out, "rb");
    if (f == NULL) {
        return 1; /* a name; an unknown one is told by the library */
    }
    enum { MOST = 4 << 20 };
    *owned = calloc(1, MOST + 1);
    size_t n = *owned == NULL ? 0 : fread(*owned, 1, MOST, f);
    int bad = *owned == NULL || ferror(f) || n == MOST || n == 0;
    fclose(f);
    if (bad) {
        fprintf(stderr, "squint: %s: cannot read the template '%s'\n", verb, *out);
        free(*owned);
        *owned = NULL;
        return 0;
    }
    *out = *owned;
    return 1;
}

json_t *cli_messages(const char *verb, const cli_ask *a, char **base, int *status) {
    *base = NULL;
    if (a->messages_file != NULL) {
        return from_file(verb, a->messages_file, base, status);
    }
    if (a->prompt == NULL) {
        *status =
            cli_usage("%s: nothing to say; wanted --prompt TEXT or --messages FILE.json", verb);
        return NULL;
    }
    json_t *user = cli_user_message(&a->images, &a->videos, a->prompt);
    json_t *list = json_array();
    if (user == NULL) {
        *status = cli_usage("%s: the prompt is not valid UTF-8", verb);
        json_decref(list);
        return NULL;
    }
    if (a->system != NULL) {
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "role", "system", "content", a->system));
    }
    json_array_append_new(list, user);
    return list;
}
