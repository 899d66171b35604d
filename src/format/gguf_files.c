/* Which files a path to GGUF means. */
#include <stdio.h>
#include <string.h>

#include "format/gguf_model.h"

static int is_named(const char *path) {
    return strlen(path) > strlen(".gguf") && sq_ends_with(path, ".gguf");
}

static int has_magic(const char *path) {
    char magic[4] = "";
    FILE *f = fopen(path, "rb");
    size_t got = f == NULL ? 0 : fread(magic, 1, sizeof magic, f);
    if (f != NULL) {
        fclose(f);
    }
    return got == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
}

/* Of "A+B", where A is a file, B is or would be one, and the whole is none, the length of A; else
 * 0.
 */
static size_t first_of_pair(const char *path) {
    char part[4096];
    size_t found = 0;
    for (const char *plus = strchr(path, '+'); plus != NULL && found == 0 && !sq_file_exists(path);
         plus = strchr(plus + 1, '+')) {
        size_t n = (size_t)(plus - path);
        if (n > 0 && n < sizeof part && (sq_file_exists(plus + 1) || is_named(plus + 1))) {
            snprintf(part, sizeof part, "%.*s", (int)n, path);
            found = sq_file_exists(part) ? n : 0;
        }
    }
    return found;
}

/* The .gguf files of a folder that is no Hugging Face folder. */
static size_t list_gguf(sq_arena *a, const char *dir, char ***out) {
    static const char *const others[] = {"config.json", "model.safetensors",
                                         "model.safetensors.index.json"};
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char *path = sq_path_join(a, dir, others[i], NULL);
        if (path == NULL || sq_file_exists(path)) {
            return 0;
        }
    }
    if (sq_list_dir(a, dir, out, &n, NULL) != SQ_OK) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (is_named((*out)[i])) {
            (*out)[kept++] = (*out)[i];
        }
    }
    return kept;
}

int sq_gguf_is(const char *path) {
    if (sq_is_dir(path)) {
        sq_arena a = {0};
        char **names;
        size_t n = list_gguf(&a, path, &names);
        sq_arena_free(&a);
        return n > 0;
    }
    return has_magic(path) || is_named(path) || first_of_pair(path) > 0;
}

/* Language models and mmprojs of a folder: one of the former, at most one of the latter. */
static sq_status of_folder(sq_gguf_paths *out, sq_arena *a, const char *dir, sq_error *err) {
    char **names, *path;
    size_t n = list_gguf(a, dir, &names), texts = 0, visions = 0;
    sq_buf list = {0};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        sq_gguf g;
        path = sq_path_join(a, dir, names[i], err);
        st = path == NULL ? SQ_ENOMEM : sq_gguf_open(&g, path, err);
        if (st != SQ_OK) {
            break;
        }
        int vision =
            sq_gguf_text_is(sq_gguf_string(sq_gguf_find(&g, "general.architecture")), "clip");
        sq_gguf_close(&g);
        *(vision ? &out->vision : &out->text) = path;
        texts += !vision;
        visions += vision;
        sq_buf_printf(&list, "%s%s", i == 0 ? "" : ", ", names[i]);
    }
    if (st == SQ_OK && (texts != 1 || visions > 1)) {
        st = sq_fail(err, SQ_EARG,
                     "'%s' holds %zu language models and %zu mmprojs (%.300s); wanted one, and at "
                     "most one",
                     dir, texts, visions, list.data == NULL ? "" : list.data);
        sq_hint(err, "name the file, and --mmproj FILE beside it for pictures");
    }
    sq_buf_free(&list);
    return st;
}

sq_status sq_gguf_find_paths(sq_gguf_paths *out, sq_arena *a, const char *path, sq_error *err) {
    *out = (sq_gguf_paths){NULL, NULL};
    size_t first = first_of_pair(path);
    if (sq_is_dir(path)) {
        return of_folder(out, a, path, err);
    }
    out->text = first > 0 ? sq_arena_printf(a, err, "%.*s", (int)first, path)
                          : sq_arena_strdup(a, path, err);
    if (first > 0) {
        out->vision = sq_arena_strdup(a, path + first + 1, err);
    }
    if (out->text == NULL || (first > 0 && out->vision == NULL)) {
        return SQ_ENOMEM;
    }
    return first == 0 || (has_magic(out->text) && !sq_is_dir(out->text))
               ? SQ_OK
               : sq_fail(err, SQ_EARG,
                         "'%s' is no GGUF file; a mmproj goes with a language model in GGUF",
                         out->text);
}
