/* plan --svg: memory over the context, a line a scheme, the memory there is dashed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

enum { W = 720, H = 420, LEFT = 76, RIGHT = 110, TOP = 52, BOTTOM = 48, MAX_LINES = 4 };

typedef struct plot {
    FILE *f;
    double lo, hi, top; /* log2 of the contexts; bytes */
} plot;

static double number(const json_t *o, const char *key) {
    return (double)json_integer_value(json_object_get(o, key));
}

static double x_of(const plot *p, double context) {
    double span = p->hi > p->lo ? p->hi - p->lo : 1;
    return LEFT + (log2(context) - p->lo) / span * (W - LEFT - RIGHT);
}

static double y_of(const plot *p, double bytes) {
    return H - BOTTOM - bytes / p->top * (H - TOP - BOTTOM);
}

/* Text for XML. */
static void put_text(FILE *f, const char *s) {
    for (; *s != '\0'; s++) {
        if (*s == '<' || *s == '>' || *s == '&') {
            fprintf(f, "&#%d;", *s);
        } else {
            fputc(*s, f);
        }
    }
}

/* 1, 2 or 5 times a power of ten: about five of them up to the top. */
static double step_of(double top) {
    double unit = pow(10, floor(log10(top / 5))), n = top / 5 / unit;
    return unit * (n > 5 ? 10 : n > 2 ? 5 : n > 1 ? 2 : 1);
}

static void draw_axes(const plot *p, const json_t *rows) {
    size_t i;
    json_t *row;
    double step = step_of(p->top);
    for (double v = 0; v <= p->top; v += step) {
        fprintf(p->f,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                LEFT, W - RIGHT, y_of(p, v), y_of(p, v), LEFT - 8, y_of(p, v) + 4, cli_bytes(v));
    }
    json_array_foreach(rows, i, row) {
        double n = number(row, "context");
        char label[32];
        snprintf(label, sizeof label, n >= 1024 ? "%.0fk" : "%.0f", n >= 1024 ? n / 1024 : n);
        fprintf(p->f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x_of(p, n),
                H - BOTTOM + 18, label);
    }
    fprintf(p->f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">context, tokens</text>\n",
            (LEFT + W - RIGHT) / 2, H - 8);
}

static void draw_line(const plot *p, const json_t *scheme, int i, double *label_y) {
    const json_t *rows = json_object_get(scheme, "table");
    size_t k;
    json_t *row;
    double x = 0, y = 0;
    fprintf(p->f, "<polyline class=\"s%d\" points=\"", i);
    json_array_foreach(rows, k, row) {
        x = x_of(p, number(row, "context"));
        y = y_of(p, number(row, "total_bytes"));
        fprintf(p->f, "%s%.1f,%.1f", k == 0 ? "" : " ", x, y);
    }
    /* Labels at the ends, at least a line apart: schemes come from the largest down. */
    *label_y = y < *label_y + 16 ? *label_y + 16 : y;
    fprintf(p->f, "\"/>\n<text class=\"t%d\" x=\"%.1f\" y=\"%.1f\">", i, x + 8, *label_y + 4);
    put_text(p->f, json_string_value(json_object_get(scheme, "scheme")));
    fputs("</text>\n", p->f);
}

static void draw(plot *p, const json_t *r) {
    const json_t *rows = json_object_get(r, "table"), *schemes = json_object_get(r, "schemes");
    double memory = number(r, "memory_bytes"), label_y = -100;
    size_t i;
    json_t *s;
    fprintf(p->f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
            "font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<style>\n"
            "svg { background: #ffffff; } text { fill: #1c1c1a; } .grid { stroke: #deded8; }\n"
            "polyline { fill: none; stroke-width: 2.5; } .memory { stroke: #62625c; "
            "stroke-dasharray: 6 4; stroke-width: 1.5; }\n"
            ".s0 { stroke: #2a6fcb; } .s1 { stroke: #d1581a; } .s2 { stroke: #1f8a4c; } .s3 { "
            "stroke: #8a4fb5; }\n"
            "@media (prefers-color-scheme: dark) { svg { background: #21211f; } text { fill: "
            "#ecece6; } .grid { stroke: #3a3a36; } .memory { stroke: #a5a59d; }\n"
            ".s0 { stroke: #6ea8f5; } .s1 { stroke: #f08b52; } .s2 { stroke: #5cc98a; } .s3 { "
            "stroke: #c39ae0; } }\n</style>\n<text x=\"%d\" y=\"26\" font-size=\"15\" "
            "font-weight=\"600\">",
            W, H, LEFT);
    put_text(p->f, json_string_value(json_object_get(r, "family")));
    fputs(": memory over the context</text>\n", p->f);
    draw_axes(p, rows);
    if (memory <= p->top) {
        fprintf(p->f,
                "<line class=\"memory\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                "<text x=\"%d\" y=\"%.1f\">memory: %s</text>\n",
                LEFT, W - RIGHT, y_of(p, memory), y_of(p, memory), LEFT + 6, y_of(p, memory) - 5,
                cli_bytes(memory));
    }
    json_array_foreach(schemes, i, s) {
        if (i < MAX_LINES) {
            draw_line(p, s, (int)i, &label_y);
        }
    }
    fputs("</svg>\n", p->f);
}

int cli_plan_svg(const char *report, const char *path) {
    json_t *r = json_loads(report, 0, NULL), *s, *row;
    const json_t *rows = json_object_get(r, "table");
    size_t i, k, n = json_array_size(rows);
    plot p = {fopen(path, "w"), 0, 0, 1};
    json_array_foreach(json_object_get(r, "schemes"), i, s) {
        json_array_foreach(json_object_get(s, "table"), k, row) {
            p.top = fmax(p.top, number(row, "total_bytes"));
        }
    }
    double memory = number(r, "memory_bytes");
    p.top = 1.05 * (memory > p.top && memory < 2 * p.top ? memory : p.top);
    p.lo = n > 0 ? log2(number(json_array_get(rows, 0), "context")) : 0;
    p.hi = n > 0 ? log2(number(json_array_get(rows, n - 1), "context")) : 0;
    int ok = p.f != NULL;
    if (ok) {
        draw(&p, r);
        ok = !ferror(p.f);
        ok = fclose(p.f) == 0 && ok;
    }
    json_decref(r);
    return ok;
}
