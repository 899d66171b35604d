/* The option parser and help of one verb. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cli_usage(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("squint: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return EXIT_USAGE;
}

int cli_indivisible(const char *verb, const char *text, sq_indivisible *out) {
    static const char *const names[] = {"pad", "smaller-group", "channel", "keep"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (sq_indivisible)i;
            return 1;
        }
    }
    cli_usage("%s: bad value for --on-indivisible; got '%s', wanted pad, smaller-group, channel or "
              "keep",
              verb, text);
    return 0;
}

static int parse_bytes(const char *s, size_t *out) {
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},         {"B", 1},           {"kB", 1e3},
                 {"KB", 1e3},     {"MB", 1e6},        {"GB", 1e9},
                 {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0},
                 {"K", 1024.0},   {"M", 1048576.0},   {"G", 1073741824.0}};
    for (size_t i = 0; end != s && v >= 0 && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].unit) == 0 && v * units[i].factor < 9e18) {
            *out = (size_t)(v * units[i].factor);
            return 1;
        }
    }
    return 0;
}

static int parse_size(const char *text, int64_t *size) {
    long long w = 0, h = 0;
    char rest;
    if (sscanf(text, "%lldx%lld%c", &w, &h, &rest) != 2 || w < 1 || h < 1) {
        return 0;
    }
    size[0] = w;
    size[1] = h;
    return 1;
}

static int store(const char *verb, const cli_option *o, const char *value) {
    char *end = NULL;
    errno = 0;
    int ok = 1;
    switch (o->kind) {
    case CLI_FLAG:
        *(int *)o->to = 1;
        break;
    case CLI_TEXT:
        *(const char **)o->to = value;
        break;
    case CLI_LIST: {
        cli_list *l = o->to;
        ok = l->n < sizeof l->items / sizeof *l->items;
        if (ok) {
            l->items[l->n++] = value;
        }
        break;
    }
    case CLI_INT:
        *(int64_t *)o->to = strtoll(value, &end, 10);
        ok = errno == 0 && end != value && *end == '\0';
        break;
    case CLI_REAL:
        *(double *)o->to = strtod(value, &end);
        ok = errno == 0 && end != value && *end == '\0';
        break;
    case CLI_BYTES:
        ok = parse_bytes(value, o->to);
        break;
    case CLI_SIZE:
        ok = parse_size(value, o->to);
        break;
    }
    return ok ? -1
              : cli_usage("%s: bad value for %s; got '%s', wanted %s", verb, o->name, value,
                          o->help);
}

static void show_help(const char *verb, const cli_option *options, const cli_option *common) {
    const cli_verb *v = cli_find(verb);
    printf("usage: squint %s %s\n\n%s\n\n", v->name, v->args, v->summary);
    for (int pass = 0; pass < 2; pass++) {
        for (const cli_option *o = pass == 0 ? options : common; o->name != NULL; o++) {
            printf("  %-20s %s\n", o->name, o->help);
        }
    }
    printf("\nexample:\n  %s\n", v->example);
}

static const cli_option *find(const cli_option *list, const char *name, size_t len) {
    for (; list->name != NULL; list++) {
        if (strlen(list->name) == len && strncmp(list->name, name, len) == 0) {
            return list;
        }
    }
    return NULL;
}

/* While options are listed the verbs go no further than cli_parse. */
static struct {
    cli_option_fn f;
    void *user;
} visitor;

void cli_each_option(cli_option_fn f, void *user) {
    visitor.f = f;
    visitor.user = user;
    for (const cli_verb *v = cli_verbs; v->name != NULL; v++) {
        v->run(0, NULL);
    }
    visitor.f = NULL;
}

static int visit(const char *verb, const cli_option *options, const cli_option *shared) {
    for (int pass = 0; pass < 2; pass++) {
        for (const cli_option *o = pass == 0 ? options : shared; o->name != NULL; o++) {
            int own = pass == 0 || strcmp(o->name, "--mmproj") == 0; /* not every verb's */
            visitor.f(visitor.user, own ? verb : NULL, o);
        }
    }
    return EXIT_OK;
}

/* Whether a verb opens a model. */
static int takes_model(const char *verb) {
    const char *args = cli_find(verb)->args;
    return strncmp(args, "MODEL", 5) == 0 || strncmp(args, "IN", 2) == 0;
}

/* The language model and its mmproj as one model, which lives as long as the program. */
static const char *join_model(const char *verb, const char *model, const char *mmproj) {
    static char both[8192];
    int n = snprintf(both, sizeof both, "%s+%s", model, mmproj);
    if (n < 0 || (size_t)n >= sizeof both) {
        cli_usage("%s: the paths of MODEL and --mmproj are too long", verb);
        return NULL;
    }
    return both;
}

int cli_parse(const char *verb, int argc, char **argv, const cli_option *options, const char **pos,
              int min_pos, int max_pos, cli_common *common) {
    int64_t threads = 0;
    int n_pos = 0;
    const char *mmproj = NULL;
    const cli_option shared[] = {
        {"--json", CLI_FLAG, &common->json, "one JSON object on standard output"},
        {"--threads", CLI_INT, &threads, "N  threads to use (all cores)"},
        {"--cpu", CLI_TEXT, &common->runtime.cpu,
         "MASK  kernels that may be used, such as c,avx2 (see devices)"},
        {"--max-ram", CLI_BYTES, &common->runtime.max_ram, "SIZE  limit on memory, such as 4GiB"},
        {"-q", CLI_FLAG, &common->quiet, "no progress"},
        {"--help", CLI_FLAG, &common->help, "this text"},
        {takes_model(verb) ? "--mmproj" : NULL, CLI_TEXT, &mmproj,
         "FILE.gguf  the vision tower of a MODEL in GGUF (none where a folder holds both)"},
        {NULL, CLI_FLAG, NULL, NULL},
    };
    if (visitor.f != NULL) {
        return visit(verb, options, shared);
    }
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *eq = strchr(a, '=');
        if (a[0] != '-' || a[1] == '\0') {
            if (n_pos == max_pos) {
                return cli_usage("%s: unexpected argument '%s'", verb, a);
            }
            pos[n_pos++] = a;
            continue;
        }
        size_t len = eq != NULL && a[1] == '-' ? (size_t)(eq - a) : strlen(a);
        const cli_option *o = find(options, a, len);
        if (o == NULL) {
            o = find(shared, a, len);
        }
        if (o == NULL) {
            return cli_usage("%s: unknown option '%s'; see 'squint %s --help'", verb, a, verb);
        }
        const char *value = a[len] == '=' ? a + len + 1 : NULL;
        if (o->kind != CLI_FLAG && value == NULL && ++i == argc) {
            return cli_usage("%s: %s wants a value: %s", verb, o->name, o->help);
        }
        int bad = store(verb, o, value != NULL ? value : argv[i]);
        if (bad >= 0) {
            return bad;
        }
    }
    if (common->help) {
        show_help(verb, options, shared);
        return EXIT_OK;
    }
    if (n_pos < min_pos) {
        return cli_usage("%s: too few arguments; wanted: squint %s %s", verb, verb,
                         cli_find(verb)->args);
    }
    if (threads < 0 || threads > 4096) {
        return cli_usage("%s: bad value for --threads; got %lld, wanted 0..4096", verb,
                         (long long)threads);
    }
    if (mmproj != NULL && (pos[0] = join_model(verb, pos[0], mmproj)) == NULL) {
        return EXIT_USAGE;
    }
    common->runtime.threads = (int)threads;
    sq_error err = {0};
    return sq_runtime_init(&common->runtime, &err) == SQ_OK ? -1 : cli_fail(&err);
}
