/* squint: verbs and help. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "cli.h"

const cli_verb cli_verbs[] = {
    {"demo", "[--keep DIR]",
     "quantize, verify and ask the embedded model; a table before and after", "squint demo",
     verb_demo},
    {"inspect", "MODEL [--tensors]", "family, dimensions, what could be quantized with which group",
     "squint inspect models/squint-vl-5m", verb_inspect},
    {"plan", "MODEL|SHAPE [options]",
     "memory and disk before any work; the largest context that fits",
     "squint plan qwen2-vl-2b --scheme w4a16 --context 8192 --image 1280x960 --memory 8GiB",
     verb_plan},
    {"quantize", "MODEL -o OUT [options]", "calibrate once, quantize layer by layer, write, verify",
     "squint quantize models/squint-vl-5m -o out --method awq --calib tests/data/vl/calib.jsonl",
     verb_quantize},
    {"calibrate", "MODEL -o STATS --calib FILE.jsonl",
     "the statistics alone, to reuse in many runs",
     "squint calibrate models/squint-vl-5m -o stats.safetensors --calib tests/data/vl/calib.jsonl",
     verb_calibrate},
    {"verify", "OUT [--against MODEL] [--level L]", "reopen what was written and prove it",
     "squint verify out --against models/squint-vl-5m", verb_verify},
    {"run", "MODEL --prompt TEXT [options]", "one answer",
     "squint run models/squint-vl-5m --image photo.png --prompt 'How many objects are there?'",
     verb_run},
    {"chat", "MODEL [options]", "a conversation in the terminal; /image FILE adds a picture",
     "squint chat models/squint-vl-5m", verb_chat},
    {"logits", "MODEL -o FILE.safetensors [options]", "logits of every position of a prompt",
     "squint logits models/squint-vl-5m --text 'Hello' -o logits.safetensors", verb_logits},
    {"tokenize", "MODEL [--file FILE] [--decode]",
     "a JSON array of ids for each line of text, or the other way",
     "echo 'Hello world' | squint tokenize models/squint-vl-5m", verb_tokenize},
    {"eval", "MODEL --task FILE.jsonl | --text FILE", "accuracy, boxes, perplexity, KL",
     "squint eval models/squint-vl-5m --task tests/data/vl/test.jsonl", verb_eval},
    {"synth", "SHAPE -o DIR [--layers N]", "a checkpoint of a published shape with random weights",
     "squint synth qwen2-vl-2b -o synth-2b --layers 4", verb_synth},
    {"convert", "IN -o OUT",
     "a GGUF or llama2.c file as a folder; a quantized folder in another layout",
     "squint convert model.gguf -o folder", verb_convert},
    {"bench", "MODEL [-p 512] [-n 128] [--image WxH]",
     "vision, prefill and decode apart, beside this machine's read rate",
     "squint bench models/squint-vl-5m -p 64 -n 32 --image 320x240", verb_bench},
    {"devices", "", "CPU flags, chosen kernels, measured bandwidth and arithmetic rate",
     "squint devices", verb_devices},
    {"explain", "[TOPIC]", "what schemes, methods, formats, options and errors mean",
     "squint explain w4a16", verb_explain},
    {NULL, NULL, NULL, NULL, NULL},
};

/* In the contract, and not built yet. */
static const char *const later[] = {"serve"};

const cli_verb *cli_find(const char *name) {
    for (const cli_verb *v = cli_verbs; v->name != NULL; v++) {
        if (strcmp(v->name, name) == 0) {
            return v;
        }
    }
    return NULL;
}

static void help(FILE *f) {
    fprintf(
        f,
        "squint %s: make a vision-language model small, prove that it still sees, and run it\n\n"
        "usage: squint VERB …   (squint VERB --help shows its options)\n\n",
        sq_version());
    for (const cli_verb *v = cli_verbs; v->name != NULL; v++) {
        fprintf(f, "  %-10s %s\n", v->name, v->summary);
    }
}

/* Threads that wait for each other spin only briefly: on a busy machine the default (milliseconds)
 * makes everything several times slower. OpenMP reads this when it is loaded, so the program starts
 * itself once more; what the user has set stays. */
static void spin_briefly(char **argv) {
    if (getenv("GOMP_SPINCOUNT") == NULL && getenv("OMP_WAIT_POLICY") == NULL &&
        setenv("GOMP_SPINCOUNT", "2000", 1) == 0) {
        execv("/proc/self/exe", argv); /* where that is not possible all goes on as it is */
    }
}

/* What other libraries allocate: blocks of a megabyte and more go back to the system when they are
 * freed. glibc otherwise comes to keep blocks of up to 32 MiB. */
static void return_blocks(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int main(int argc, char **argv) {
    spin_briefly(argv);
    return_blocks();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file limit is an error from write, not a death */
    if (argc < 2) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("squint %s\n", sq_version());
        return EXIT_OK;
    }
    const cli_verb *v = cli_find(argv[1]);
    if (v != NULL) {
        return v->run(argc - 2, argv + 2);
    }
    for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
        if (strcmp(later[i], argv[1]) == 0) {
            return cli_usage("'%s' is not there yet", argv[1]);
        }
    }
    return cli_usage("unknown verb; got '%s', wanted one of those that 'squint --help' lists",
                     argv[1]);
}
