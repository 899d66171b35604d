"""Speed beside llama.cpp, OpenVINO and transformers, on the same checkpoint, threads and machine, in turn:

    python3 bench/peers.py SQUINT [--shape qwen2-vl-2b] [--layers N] [--work DIR] [--venv DIR] [--peers llama.cpp,openvino,transformers]
                           [-p 512] [-n 64] [--image 672x448] [--rounds 3] [--threads 2]

The checkpoint is `squint synth SHAPE` (random weights). Squint runs it as W4A16 and W4A8 in groups of 128 with zero points and
W8A8, the tower as W8A8, with the output head in 8 bits (its default) and in 4. llama.cpp gets the language model as GGUF and
quantizes it itself to Q4_0 (4.5 bits, symmetric) and Q4_1 (with a minimum: what AWQ needs); its head is Q6_K, 6.6 bits. OpenVINO
gets it from optimum-intel as int4, symmetric, groups of 128 (64 where those do not divide the columns), the head in 8 bits. The towers: OpenVINO's is transformers' module
traced for the one size of picture, weights in int8; llama.cpp's the mmproj file in F16. Prompts differ from run to run. Each run is
a process of its own, which warms up first; a round runs all of them and measures the machine's own rates, and rounds follow each
other, A B C A B C. Figures are medians (lowest to highest); ratios are medians of the rounds' own.

--venv: a virtual environment for the peers, made from bench/peers/requirements.txt when it is not there; single interpreters may
be given instead with --python llama.cpp=PATH,openvino=PATH,transformers=PATH. --work keeps checkpoints (10 GB for the 2B shape)."""
import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import measure

HERE = Path(__file__).resolve().parent / "peers"
SCHEMES = {"W4A16 asym": ["--scheme", "w4a16"], "W4A8 asym": ["--scheme", "w4a8", "--asym"], "W8A8": ["--scheme", "w8a8"]}


def python_of(args, peer):
    given = dict(x.split("=", 1) for x in args.python.split(",") if x)
    if peer in given:
        return given[peer]
    python = args.venv / "bin/python"
    if not python.exists():
        print(f"setting up {args.venv}", flush=True)
        measure.output(sys.executable, "-m", "venv", args.venv)
        # llama.cpp by clang: as gcc 12 builds it, it dies of an illegal instruction on CPUs with AMX
        measure.output("env", "CC=clang", "CXX=clang++", args.venv / "bin/pip", "install", "-q", "-r", HERE / "requirements.txt")
    return python


def made(path, command):
    """The path, made by the command unless it is there."""
    if not path.exists():
        print(f"making {path.name}", flush=True)
        measure.output(*command)
    return path


def prepare(args, work):
    """name: command of one run, which prints one JSON object with the rates last."""
    s, runs = args.squint, {}
    layers = ["--layers", args.layers] if args.layers else []
    model = made(work / "model", [s, "synth", args.shape, "-o", work / "model", "-q", *layers])
    text = "vision_config" not in json.loads((model / "config.json").read_text())
    for name, flags in SCHEMES.items():
        out = work / ("squint-" + name.lower().replace(" ", "-"))
        vision = [] if text else ["--vision", "w8a8"]
        made(out, [s, "quantize", model, "-o", out, "--method", "rtn", *flags, *vision, "--no-verify", "-q"])
        bench = [s, "bench", out, "-p", args.p, "-n", args.n, "--repeat", 1, "--threads", args.threads, "-q", "--json"]
        runs[f"squint {name}"] = bench + ([] if text else ["--image", args.image])
        if name == "W4A16 asym":
            runs[f"squint {name}, head 4 bits"] = [*bench, "--lm-head", "w4a16"]
    if not text:
        runs["squint bf16, the tower alone"] = [s, "bench", model, "-p", 0, "-n", 0, "--repeat", 1, "--compute", "bf16", "--image",
                                                args.image, "--threads", args.threads, "-q", "--json"]
    tail = [args.p, args.n, args.threads]
    (work / "towers").mkdir(exist_ok=True)
    if args.peers:
        gguf = made(work / "model.gguf", [s, "convert", model, "-o", work / "model.gguf", "--format", "gguf", "--text-only", "-q"])
        lm = made(work / "language", [s, "convert", gguf, "-o", work / "language", "-q"])
    if "llama.cpp" in args.peers:
        python = python_of(args, "llama.cpp")
        for kind in ("Q4_0", "Q4_1"):
            file = made(work / f"model-{kind}.gguf", [python, HERE / "llamacpp.py", "quantize", gguf, work / f"model-{kind}.gguf", kind])
            runs[f"llama.cpp {kind}"] = [python, HERE / "llamacpp.py", "run", file, *tail]
        if not text:
            made(work / "towers/model-mmproj.gguf", [s, "convert", model, "-o", work / "towers/model.gguf", "--format", "gguf",
                                                     "--dtype", "F16", "-q"])
            runs["llama.cpp's tower, f16"] = [python, HERE / "llamacpp_tower.py", work / "model-Q4_0.gguf",
                                              work / "towers/model-mmproj.gguf", args.image, args.threads]
    if "openvino" in args.peers:
        python = python_of(args, "openvino")
        widths = json.loads((lm / "config.json").read_text())  # its groups must divide the columns
        group = 128 if all(widths[k] % 128 == 0 for k in ("hidden_size", "intermediate_size")) else 64
        folder = made(work / "openvino", [Path(python).parent / "optimum-cli", "export", "openvino", "-m", lm, "--task",
                                          "text-generation-with-past", "--weight-format", "int4", "--group-size", group, "--sym",
                                          "--ratio", "1.0", work / "openvino"])
        runs["OpenVINO int4"] = [python, HERE / "openvino_lm.py", folder, *tail]
        if not text:
            xml = made(work / "towers/tower.xml", [python, HERE / "openvino_tower.py", "convert", model, work / "towers/tower.xml",
                                                   args.image])
            runs["OpenVINO's tower, int8"] = [python, HERE / "openvino_tower.py", "run", xml, args.threads]
    if "transformers" in args.peers:
        runs["transformers bf16"] = [python_of(args, "transformers"), HERE / "hf.py", lm, *tail]
    return runs


def cell(values, digits=1):
    values = sorted(v for v in values if v)
    return f"{statistics.median(values):8.{digits}f} ({values[0]:.{digits}f}-{values[-1]:.{digits}f})" if values else f"{'-':>8}"


def ratio(mine, theirs, key, inverse=False):
    """The median of the rounds' own ratios; '-' where one of the two has no such figure."""
    pairs = [(a[key], b[key]) for a, b in zip(mine, theirs) if a.get(key) and b.get(key)]
    return f"{statistics.median(b / a if inverse else a / b for a, b in pairs):.2f}" if pairs else "-"


COLUMNS = {"prefill_tokens_per_s": ("prefill, tokens/s", 1), "decode_tokens_per_s": ("decode, tokens/s", 1), "vision_s": ("vision, s", 2),
           "bandwidth_share": ("of the read rate", 2)}
RATES = {"memory_bandwidth_bytes_per_s": "read", "f32_flop_per_s": "f32", "bf16_flop_per_s": "bf16", "int8_op_per_s": "int8"}


def table(results, devices):
    print(f"\n{'':32} " + " ".join(f"{title:26}" for title, _ in COLUMNS.values()))
    for name, rounds in results.items():
        print(f"{name:32} " + " ".join(f"{cell([r.get(key) for r in rounds], digits):26}" for key, (_, digits) in COLUMNS.items()))
    print("the machine, G a second: " + "   ".join(f"{name} {cell([d[key] / 1e9 for d in devices])}" for key, name in RATES.items()))
    peers = [n for n in results if not n.startswith("squint")]
    print("\nSquint's rate over each one's (prefill, decode, vision), medians of the rounds' ratios")
    for name in results:
        if name.startswith("squint"):
            print(f"{name:32} " + "   ".join(
                f"{p}: " + ", ".join(ratio(results[name], results[p], key, key == "vision_s") for key in list(COLUMNS)[:3]) for p in peers))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("--shape", default="qwen2-vl-2b")
    ap.add_argument("--layers", type=int)
    ap.add_argument("--work", type=Path)
    ap.add_argument("--venv", type=Path, default=Path("venv-peers"))
    ap.add_argument("--python", default="")
    ap.add_argument("--peers", default="llama.cpp,openvino,transformers")
    ap.add_argument("-p", type=int, default=512)
    ap.add_argument("-n", type=int, default=64)
    ap.add_argument("--image", default="672x448")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    args.peers = [x for x in args.peers.split(",") if x]
    args.squint = args.squint.resolve()
    with tempfile.TemporaryDirectory() as tmp:
        work = (args.work or Path(tmp)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        runs = prepare(args, work)
        results, devices = {name: [] for name in runs}, []
        for i in range(args.rounds):
            for name, command in runs.items():
                results[name].append(json.loads(measure.output(*command).strip().splitlines()[-1]))
                got = results[name][-1]
                print(f"  {name}: " + ", ".join(f"{title} {got[key]:.{digits}f}" for key, (title, digits) in COLUMNS.items()
                                                if got.get(key)), flush=True)
            devices.append(json.loads(measure.output(args.squint, "devices", "--json", "--threads", args.threads)))
            print(f"round {i + 1} of {args.rounds}: {measure.machine()}", flush=True)
        table(results, devices)


main()
