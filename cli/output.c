/* Errors, progress, reports. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

int cli_fail(const sq_error *err) {
    cli_progress_done();
    fprintf(stderr, "squint: %s\n", err->text);
    if (err->hint[0] != '\0') {
        fprintf(stderr, "%s\n", err->hint);
    }
    switch (err->status) {
    case SQ_OK:
        return EXIT_OK;
    case SQ_ECHECK:
        return EXIT_CHECK;
    case SQ_EARG:
        return EXIT_USAGE;
    case SQ_EFORMAT:
    case SQ_EUNSUPPORTED:
    case SQ_EIO:
        return EXIT_INPUT;
    case SQ_ENOMEM:
    case SQ_ENOSPC:
    case SQ_ELIMIT:
        return EXIT_ROOM;
    default:
        return EXIT_OTHER;
    }
}

static struct {
    char stage[32];
    double start, last;
    int open; /* a bar is on the screen */
} bar;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int tick(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)user;
    double t = now();
    int tty = isatty(STDERR_FILENO);
    if (strcmp(stage, bar.stage) != 0) {
        cli_progress_done();
        snprintf(bar.stage, sizeof bar.stage, "%s", stage);
        bar.start = t;
        bar.last = 0;
        if (!tty) {
            fprintf(stderr, "%s: %lld steps\n", stage, (long long)total);
        }
    }
    if (!tty || (done < total && t - bar.last < 0.1)) {
        return 0;
    }
    bar.last = t;
    bar.open = 1;
    double rate = done > 0 && t > bar.start ? (double)done / (t - bar.start) : 0;
    fprintf(stderr, "\r\033[K%-10s %lld/%lld", stage, (long long)done, (long long)total);
    if (rate > 0) {
        fprintf(stderr, "  %.1f/s  ETA %.0f s", rate, (double)(total - done) / rate);
    }
    if (detail != NULL) {
        fprintf(stderr, "  %.48s", detail);
    }
    return 0;
}

static void note(void *user, const char *text) {
    (void)user;
    cli_progress_done();
    fprintf(stderr, "%s\n", text);
}

const sq_progress *cli_progress(const cli_common *common) {
    static const sq_progress loud = {tick, note, NULL};
    return common->quiet ? NULL : &loud;
}

void cli_progress_done(void) {
    if (bar.open) {
        fputc('\n', stderr);
        bar.open = 0;
    }
}

int cli_report(const cli_common *common, char *report, sq_status st, const sq_error *err,
               void (*show)(const json_t *report)) {
    cli_progress_done();
    if (report != NULL && common->json) {
        puts(report);
    } else if (report != NULL) {
        json_t *r = json_loads(report, JSON_DECODE_ANY, NULL);
        if (r != NULL) {
            show(r);
            json_decref(r);
        }
    }
    sq_text_free(report);
    int status = st == SQ_OK ? EXIT_OK : cli_fail(err);
    return fflush(stdout) == 0 || status != EXIT_OK ? status : EXIT_OTHER;
}

const char *cli_bytes(double n) {
    static char bufs[8][24];
    static int next;
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    char *b = bufs[next++ % 8];
    int u = 0;
    while (n >= 1000 && u < 4) {
        n /= 1000;
        u++;
    }
    snprintf(b, sizeof bufs[0], u == 0 ? "%.0f %s" : "%.2f %s", n, units[u]);
    return b;
}

double cli_real(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}
