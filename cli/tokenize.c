/* tokenize: a line of text to an array of ids, and back. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

typedef struct counts {
    int64_t lines, bytes, ids;
    double load_s, seconds; /* opening; reading, coding and writing */
} counts;

typedef sq_status (*line_fn)(sq_text_codec *codec, const char *line, size_t len, counts *c,
                             sq_error *err);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Writes the decimal digits of an id, which is never negative; returns how many. */
static size_t put_id(char *to, int32_t id) {
    char digits[12];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + id % 10);
        id /= 10;
    } while (id > 0);
    for (size_t i = 0; i < n; i++) {
        to[i] = digits[n - 1 - i];
    }
    return n;
}

static sq_status encode_line(sq_text_codec *codec, const char *line, size_t len, counts *c,
                             sq_error *err) {
    const int32_t *ids;
    size_t n, used = 0;
    char buf[4096];
    sq_status st = sq_text_codec_encode(codec, line, len, &ids, &n, err);
    if (st != SQ_OK) {
        return st;
    }
    buf[used++] = '[';
    for (size_t i = 0; i < n; i++) {
        if (used > sizeof buf - 32) {
            fwrite(buf, 1, used, stdout);
            used = 0;
        }
        if (i > 0) {
            buf[used++] = ',';
        }
        used += put_id(buf + used, ids[i]);
    }
    buf[used++] = ']';
    buf[used++] = '\n';
    fwrite(buf, 1, used, stdout);
    c->ids += (int64_t)n;
    return SQ_OK;
}

static sq_status bad_ids(sq_error *err, const char *got) {
    err->status = SQ_EFORMAT;
    snprintf(err->text, sizeof err->text, "not ids; got %.200s, wanted a JSON array of ids", got);
    return SQ_EFORMAT;
}

static sq_status read_ids(const char *line, size_t len, int32_t **out, size_t *n, sq_error *err) {
    json_error_t je;
    json_t *list = json_loadb(line, len, JSON_DECODE_ANY, &je);
    size_t count = json_array_size(list), i;
    sq_status st = list == NULL           ? bad_ids(err, je.text)
                   : !json_is_array(list) ? bad_ids(err, "another JSON value")
                                          : SQ_OK;
    json_t *v;
    *out = calloc(count + 1, sizeof **out);
    json_array_foreach(list, i, v) {
        json_int_t id = json_integer_value(v);
        if (*out == NULL || st != SQ_OK) {
            break;
        }
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX) {
            st = bad_ids(err, "an item that is no whole number from 0 to 2147483647");
            break;
        }
        (*out)[i] = (int32_t)id;
    }
    json_decref(list);
    *n = count;
    if (*out == NULL) {
        *err = (sq_error){SQ_ENOMEM, "not enough memory for the ids", ""};
        st = SQ_ENOMEM;
    }
    return st;
}

/* A JSON string on standard output: UTF-8 as it is, escapes only where JSON wants them. */
static void put_json_string(const char *s, size_t n) {
    static const char named[] = "btn\0fr"; /* of 8..13 */
    size_t done = 0;
    putchar_unlocked('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s[i];
        if (ch >= 0x20 && ch != '"' && ch != '\\') {
            continue;
        }
        fwrite(s + done, 1, i - done, stdout);
        done = i + 1;
        if (ch >= 0x20) {
            printf("\\%c", ch);
        } else if (ch >= 8 && ch <= 13 && ch != 11) {
            printf("\\%c", named[ch - 8]);
        } else {
            printf("\\u%04x", ch);
        }
    }
    fwrite(s + done, 1, n - done, stdout);
    putchar_unlocked('"');
    putchar_unlocked('\n');
}

static sq_status decode_line(sq_text_codec *codec, const char *line, size_t len, counts *c,
                             sq_error *err) {
    int32_t *ids;
    const char *text;
    size_t n, text_len;
    sq_status st = read_ids(line, len, &ids, &n, err);
    if (st == SQ_OK) {
        st = sq_text_codec_decode(codec, ids, n, &text, &text_len, err);
    }
    if (st == SQ_OK) {
        put_json_string(text, text_len);
        c->ids += (int64_t)n;
    }
    free(ids);
    return st;
}

/* Names the line in the error. */
static sq_status at_line(sq_status st, int64_t line, sq_error *err) {
    char text[sizeof err->text];
    snprintf(text, sizeof text, "line %lld: %.560s", (long long)line, err->text);
    memcpy(err->text, text, sizeof text);
    return st;
}

static sq_status io_error(sq_error *err, int code, const char *what, const char *path) {
    *err = (sq_error){code == ENOSPC ? SQ_ENOSPC : code == ENOMEM ? SQ_ENOMEM : SQ_EIO, "", ""};
    snprintf(err->text, sizeof err->text, "cannot %s '%.400s'; %s", what, path, strerror(code));
    return err->status;
}

static sq_status each_line(sq_text_codec *codec, FILE *in, const char *name, line_fn fn, counts *c,
                           sq_error *err) {
    char *line = NULL;
    size_t cap = 0;
    sq_status st = SQ_OK;
    while (st == SQ_OK) {
        errno = 0;
        ssize_t len = getdelim(&line, &cap, '\n', in);
        if (len < 0) {
            st = feof(in) ? SQ_OK : io_error(err, errno, "read", name);
            break;
        }
        c->lines++;
        c->bytes += len;
        len -= line[len - 1] == '\n';
        st = fn(codec, line, (size_t)len, c, err);
        if (st != SQ_OK) {
            st = at_line(st, c->lines, err);
        } else if (ferror(stdout)) {
            st = io_error(err, errno, "write", "standard output");
        }
    }
    free(line);
    if (fflush(stdout) != 0 && st == SQ_OK) {
        st = io_error(err, errno, "write", "standard output");
    }
    return st;
}

static sq_status run(const char *model, const char *file, line_fn fn, counts *c, sq_error *err) {
    sq_text_codec *codec = NULL;
    FILE *in = file == NULL ? stdin : fopen(file, "rb");
    if (in == NULL) {
        return io_error(err, errno, "open", file);
    }
    double start = now();
    sq_status st = sq_text_codec_open(&codec, model, err);
    c->load_s = now() - start;
    if (st == SQ_OK) {
        st = each_line(codec, in, file == NULL ? "standard input" : file, fn, c, err);
        c->seconds = now() - start - c->load_s;
    }
    sq_text_codec_close(&codec);
    if (file != NULL) {
        fclose(in);
    }
    return st;
}

int verb_tokenize(int argc, char **argv) {
    static char out[1 << 18];
    cli_common common = {0};
    const char *pos[1], *file = NULL;
    int decode = 0;
    const cli_option options[] = {
        {"--file", CLI_TEXT, &file, "FILE  lines to read (standard input)"},
        {"--decode", CLI_FLAG, &decode, "each line is a JSON array of ids; answers JSON strings"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    int status = cli_parse("tokenize", argc, argv, options, pos, 1, 1, &common);
    if (status >= 0) {
        return status;
    }
    counts c = {0};
    sq_error err = {0};
    if (isatty(STDOUT_FILENO) == 0) {
        setvbuf(stdout, out, _IOFBF, sizeof out);
    }
    sq_status st = run(pos[0], file, decode ? decode_line : encode_line, &c, &err);
    if (st == SQ_OK && common.json && !common.quiet) {
        fprintf(stderr,
                "{\"lines\": %lld, \"bytes\": %lld, \"ids\": %lld, \"load_s\": %.6f, "
                "\"seconds\": %.6f}\n",
                (long long)c.lines, (long long)c.bytes, (long long)c.ids, c.load_s, c.seconds);
    }
    return st == SQ_OK ? EXIT_OK : cli_fail(&err);
}
