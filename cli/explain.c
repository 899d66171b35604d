/* explain: what schemes, methods, formats, options and errors mean. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "topics.h"

enum { MAX_OPTIONS = 512, MAX_WORD = 64, WIDE = 88, NEAREST = 3 };

/* An option of a verb; verb NULL: of every verb. */
typedef struct known_option {
    const char *verb, *name, *help;
} known_option;

typedef struct known {
    known_option options[MAX_OPTIONS];
    size_t n;
} known;

static void add_option(void *user, const char *verb, const cli_option *o) {
    known *k = user;
    for (size_t i = 0; verb == NULL && i < k->n; i++) {
        if (k->options[i].verb == NULL && strcmp(k->options[i].name, o->name) == 0) {
            return;
        }
    }
    if (k->n < MAX_OPTIONS) {
        k->options[k->n++] = (known_option){verb, o->name, o->help};
    }
}

/* ---- names ---- */

/* Lower case, without leading dashes; an exit status by its number, spaces as dashes. */
static void plain(char out[MAX_WORD], const char *word, size_t len) {
    size_t n = 0;
    while (len > 1 && word[0] == '-' && !isdigit((unsigned char)word[1])) {
        word++;
        len--;
    }
    for (; n < len && n + 1 < MAX_WORD; n++) {
        out[n] = word[n] == ' ' ? '-' : (char)tolower((unsigned char)word[n]);
    }
    out[n] = '\0';
}

/* The next of a comma-separated list into `out`; NULL ends. */
static const char *next_name(const char *list, char out[MAX_WORD]) {
    if (list == NULL || *list == '\0') {
        return NULL;
    }
    size_t n = strcspn(list, ",");
    snprintf(out, MAX_WORD, "%.*s", (int)n, list);
    return list[n] == ',' ? list + n + 1 : list + n;
}

static int same(const char *name, const char *word) {
    char a[MAX_WORD];
    plain(a, name, strlen(name));
    return strcmp(a, word) == 0;
}

static int topic_is(const cli_topic *t, const char *word) {
    char alias[MAX_WORD];
    int yes = same(t->name, word);
    for (const char *a = t->aliases; !yes && (a = next_name(a, alias)) != NULL;) {
        yes = same(alias, word);
    }
    return yes;
}

/* Levenshtein's distance of two short words. */
static int distance(const char *a, const char *b) {
    int row[MAX_WORD + 1], n = (int)strlen(b);
    for (int j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (int i = 0; a[i] != '\0'; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int change = corner + (a[i] != b[j]), edge = row[j + 1] < row[j] ? row[j + 1] : row[j];
            corner = row[j + 1];
            row[j + 1] = change < edge + 1 ? change : edge + 1;
        }
    }
    return row[n];
}

/* ---- output ---- */

/* Paragraphs between line feeds, wrapped. */
static void print_wrapped(const char *text) {
    size_t column = 0;
    for (const char *s = text; *s != '\0';) {
        size_t bytes = strcspn(s, " \n"), letters = 0;
        for (size_t i = 0; i < bytes; i++) {
            letters += ((unsigned char)s[i] & 0xc0) != 0x80;
        }
        if (column > 0 && column + 1 + letters > WIDE) {
            putchar('\n');
            column = 0;
        }
        printf("%s%.*s", column > 0 ? " " : "", (int)bytes, s);
        column += letters + (column > 0);
        s += bytes;
        if (*s == '\n') {
            puts("\n");
            column = 0;
        }
        s += *s != '\0';
    }
    putchar('\n');
}

/* The name as it is typed, from the table or an option. */
static const char *kind_of(const cli_topic *t) { return t == NULL ? "option" : t->kind; }

static json_t *uses(const known *k, const char *word) {
    json_t *list = json_array();
    for (size_t i = 0; i < k->n; i++) {
        if (same(k->options[i].name, word)) {
            json_array_append_new(
                list, json_pack("{s:s, s:s}", "verb",
                                k->options[i].verb == NULL ? "every verb" : k->options[i].verb,
                                "help", k->options[i].help));
        }
    }
    return list;
}

/* A topic as JSON: of the table, or an option that the table says nothing more about. */
static json_t *topic_json(const known *k, const cli_topic *t, const char *name) {
    char word[MAX_WORD];
    json_t *o = json_pack("{s:s, s:s}", "kind", kind_of(t), "name", name), *see = json_array();
    if (t != NULL && t->summary != NULL) {
        json_object_set_new(o, "summary", json_string(t->summary));
    }
    if (t != NULL) {
        json_object_set_new(o, "text", json_string(t->text));
    }
    for (const char *s = t == NULL ? NULL : t->see; (s = next_name(s, word)) != NULL;) {
        json_array_append_new(see, json_string(word));
    }
    json_object_set_new(o, "see", see);
    if (strcmp(kind_of(t), "option") == 0) {
        plain(word, name, strlen(name));
        json_object_set_new(o, "verbs", uses(k, word));
    }
    return o;
}

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s == NULL ? "" : s;
}

static void print_topic(const json_t *o) {
    size_t i;
    json_t *v;
    printf("%s (%s)%s%s\n", str(o, "name"), str(o, "kind"),
           json_object_get(o, "summary") == NULL ? "" : ": ", str(o, "summary"));
    json_array_foreach(json_object_get(o, "verbs"), i, v) {
        printf("  %-10s %s\n", str(v, "verb"), str(v, "help"));
    }
    if (str(o, "text")[0] != '\0') {
        putchar('\n');
        print_wrapped(str(o, "text"));
    }
    json_array_foreach(json_object_get(o, "see"), i, v) {
        printf("%s%s", i == 0 ? "\nsee also: " : ", ", json_string_value(v));
    }
    puts(json_array_size(json_object_get(o, "see")) == 0 ? "" : "\n");
}

/* ---- the verb ---- */

static json_t *find(const known *k, const char *topic) {
    char word[MAX_WORD];
    json_t *found = json_array();
    plain(word, topic, strlen(topic));
    int option = 0;
    for (const cli_topic *t = cli_topics; t->name != NULL; t++) {
        if (topic_is(t, word)) {
            option |= strcmp(t->kind, "option") == 0;
            json_array_append_new(found, topic_json(k, t, t->name));
        }
    }
    for (size_t i = 0; !option && i < k->n; i++) {
        if (same(k->options[i].name, word)) {
            option = 1;
            json_array_append_new(found, topic_json(k, NULL, k->options[i].name));
        }
    }
    return found;
}

typedef struct nearest {
    char word[MAX_WORD];
    const char *name[NEAREST];
    int far[NEAREST];
} nearest;

/* Keeps the name among the nearest; one that holds the word counts as near. */
static void consider(nearest *n, const char *candidate, const char *name) {
    char c[MAX_WORD];
    plain(c, candidate, strlen(candidate));
    int far = strlen(n->word) > 2 && strstr(c, n->word) != NULL ? 1 : distance(n->word, c);
    int most = strlen(n->word) < 5 ? 2 : (int)strlen(n->word) / 2, i = 0;
    while (i < NEAREST && n->name[i] != NULL && n->far[i] <= far) {
        if (strcmp(n->name[i++], name) == 0) {
            return;
        }
    }
    if (i == NEAREST || far > most) {
        return;
    }
    int last = i; /* the name's later place, or the end, is given up */
    while (last < NEAREST - 1 && n->name[last] != NULL && strcmp(n->name[last], name) != 0) {
        last++;
    }
    memmove(&n->name[i + 1], &n->name[i], (size_t)(last - i) * sizeof n->name[0]);
    memmove(&n->far[i + 1], &n->far[i], (size_t)(last - i) * sizeof n->far[0]);
    n->name[i] = name;
    n->far[i] = far;
}

static int unknown(const known *k, const char *topic) {
    nearest n = {{0}, {NULL}, {0}};
    char alias[MAX_WORD];
    plain(n.word, topic, strlen(topic));
    for (const cli_topic *t = cli_topics; t->name != NULL; t++) {
        consider(&n, t->name, t->name);
        for (const char *a = t->aliases; (a = next_name(a, alias)) != NULL;) {
            consider(&n, alias, t->name);
        }
    }
    for (size_t i = 0; i < k->n; i++) {
        consider(&n, k->options[i].name, k->options[i].name);
    }
    int status = cli_usage(
        "explain: no such topic; got '%s', wanted one that 'squint explain' lists", topic);
    for (int i = 0; i < NEAREST && n.name[i] != NULL; i++) {
        fprintf(stderr, "%s%s", i == 0 ? "nearest: " : ", ", n.name[i]);
    }
    if (n.name[0] != NULL) {
        fputc('\n', stderr);
    }
    return status;
}

/* Every topic and option, once; options in the order of the verbs. */
static json_t *all(const known *k) {
    json_t *list = json_array();
    for (const cli_topic *t = cli_topics; t->name != NULL; t++) {
        if (strcmp(t->kind, "option") != 0) {
            json_array_append_new(list, topic_json(k, t, t->name));
        }
    }
    for (size_t i = 0; i < k->n; i++) {
        size_t j = 0;
        char word[MAX_WORD];
        const char *name = k->options[i].name;
        while (strcmp(k->options[j].name, name) != 0) {
            j++;
        }
        const cli_topic *t = cli_topics;
        plain(word, name, strlen(name));
        while (t->name != NULL && (strcmp(t->kind, "option") != 0 || !topic_is(t, word))) {
            t++;
        }
        if (j == i) {
            json_t *o = topic_json(k, t->name == NULL ? NULL : t, name);
            json_object_set_new(o, "summary", json_string(k->options[i].help));
            json_array_append_new(list, o);
        }
    }
    return list;
}

static void print_list(const json_t *list) {
    size_t i;
    json_t *t;
    const char *kind = "";
    json_array_foreach(list, i, t) {
        if (strcmp(kind, str(t, "kind")) != 0) {
            printf("%s%s\n", i == 0 ? "" : "\n", kind = str(t, "kind"));
        }
        printf("  %-22s %s\n", str(t, "name"), str(t, "summary"));
    }
}

int verb_explain(int argc, char **argv) {
    cli_common common = {0};
    const char *pos[1] = {NULL};
    const cli_option options[] = {{NULL, CLI_FLAG, NULL, NULL}};
    known k = {.n = 0};
    char *topic[1];
    /* An option is a topic here: "squint explain --group-size". */
    int as_option = argc > 0 && argv[0][0] == '-' && strcmp(argv[0], "--help") != 0 &&
                    strcmp(argv[0], "--json") != 0 && strcmp(argv[0], "-q") != 0;
    int status = cli_parse("explain", argc - as_option, argv + as_option, options, pos, 0,
                           1 - as_option, &common);
    if (status >= 0) {
        return status;
    }
    topic[0] = as_option ? argv[0] : (char *)(uintptr_t)pos[0];
    cli_each_option(add_option, &k);
    json_t *list = topic[0] == NULL ? all(&k) : find(&k, topic[0]);
    if (json_array_size(list) == 0) {
        status = unknown(&k, topic[0]);
    } else if (common.json) {
        json_t *o = json_pack("{s:O}", "topics", list);
        char *text = json_dumps(o, JSON_COMPACT);
        puts(text == NULL ? "{}" : text);
        free(text);
        json_decref(o);
    } else if (topic[0] == NULL) {
        print_list(list);
    } else {
        size_t i;
        json_t *t;
        json_array_foreach(list, i, t) { print_topic(t); }
    }
    json_decref(list);
    return status < 0 ? EXIT_OK : status;
}
