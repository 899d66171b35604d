/* The texts of `squint explain`: one table, read by nothing else. */
#ifndef CLI_TOPICS_H
#define CLI_TOPICS_H

typedef struct cli_topic {
    const char *kind; /* "scheme", "method", "format", "option", "error", "exit status", "word" */
    const char *name; /* as it is typed: "w4a16", "--group-size", "SQ_EARG" */
    const char *aliases; /* other names, comma separated; or NULL */
    const char *summary; /* one line; NULL for an option, whose line is its help */
    const char *text;    /* paragraphs, broken by '\n' */
    const char *see;     /* names of other topics, comma separated; or NULL */
} cli_topic;

extern const cli_topic cli_topics[]; /* ended by a NULL name; kinds lie together */

#endif
