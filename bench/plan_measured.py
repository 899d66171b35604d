"""What squint plan says of memory beside what a run takes: python3 bench/plan_measured.py [--work FOLDER] [MODEL ...]

Without MODEL: the embedded model, and random weights of SmolLM2-135M and of Qwen2-VL-2B in bf16 and W4A16, made in --work
where they are not there yet. One conversation each that fills the context, with a picture where the model takes one, in a
process of its own; plan is asked for the very length that the cache reached.

Weights: those of the opened model as the kernels hold them, and its other tensors (inspect); KV cache: run's own count;
total: the largest resident size of the process (wait4), in which mapped pages of the weight files count. With --calibrate
instead the largest resident size of quantize by three methods, verification included, and of calibrate, beside plan's; of
Qwen2-VL-2B four layers. Exit 1 when a limit does not hold.

A system that pages out what was not touched for a while makes a slow run's pages fewer than they were."""
import argparse
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from measure import machine, run, squint_json

ROOT = Path(__file__).resolve().parent.parent
NEW_TOKENS = 8
LIMITS = {"weights": 0.01, "KV": 0.01, "total": 0.10, "calibrate": 0.15, "awq": 0.15, "gptq": 0.15, "rtn": 0.15}


def write_png(path, width, height):
    """A picture of noise, 8-bit RGB."""
    noise = random.Random(0)
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def words(squint, model, tokens):
    """Text of random letters that the model's tokenizer cuts into so many tokens, or a few less."""
    letters = random.Random(1)
    text = "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(4 * tokens))
    count = lambda s: len(json.loads(subprocess.run([squint, "tokenize", model], input=s, capture_output=True, text=True, check=True).stdout))
    length = len(text)
    while (n := count(text[:length])) > tokens:  # a token takes much the same everywhere
        length = min(length - 1, int(length * tokens / n))
    return text[:length]


def held(squint, model):
    """Bytes of the weights of the opened model: linears as the kernels hold them, every other tensor as it is stored."""
    report = squint_json(squint, "inspect", model, "--tensors")
    linears = {x["name"] for x in report["linears"]}
    rest = (t["bytes"] for t in report["tensors"] if t["name"].rpartition(".")[0] not in linears or t["name"].endswith(".bias"))
    return sum(x["bytes"] for x in report["linears"]) + sum(rest)


def models(squint, work, quantizing):
    def made(name, *command):
        folder = work / name
        if not folder.exists():
            subprocess.run([squint, *map(str, command), "-o", folder, "-q"], check=True)
        return folder

    if quantizing:
        return [ROOT / "models/squint-vl-5m", made("smollm2-135m", "synth", "smollm2-135m"),
                made("qwen2-vl-2b-4", "synth", "qwen2-vl-2b", "--layers", 4)]
    dense = made("qwen2-vl-2b", "synth", "qwen2-vl-2b")
    return [ROOT / "models/squint-vl-5m", made("smollm2-135m", "synth", "smollm2-135m"), dense,
            made("qwen2-vl-2b-w4a16", "quantize", dense, "--method", "rtn", "--scheme", "w4a16", "--group-size", "128", "--no-verify")]


def compare(model, rows):
    """Prints a line a quantity; whether all are within their limits."""
    good = True
    for what, planned, measured in rows:
        far = abs(planned / measured - 1) > LIMITS[what]
        good &= not far
        print(f"{Path(model).name:20} {what:12} {planned:14,} {measured:14,} {planned / measured:8.3f}"
              f"{f'   wanted within {LIMITS[what]:.0%}' if far else ''}", flush=True)
    return good


def conversation(squint, model, context, size, folder):
    sees = "vision_config" in json.loads((Path(model) / "config.json").read_text())
    picture = ["--image", "x".join(map(str, size))] if sees else []
    plan = squint_json(squint, "plan", model, "--context", context, *picture, "--no-times")
    text = words(squint, model, context - plan["vision_tokens"] - NEW_TOKENS - 64)  # 64: the template's own
    command = [squint, "run", model, "--prompt", text, "--max-new-tokens", NEW_TOKENS, "--json", "-q"]
    if sees:
        write_png(folder / "picture.png", *size)
        command += ["--image", folder / "picture.png"]
    else:
        command += ["--raw"]
    _, peak = run(command, folder / "run.log")
    kv = json.loads((folder / "run.log").read_text())["kv"]
    plan = squint_json(squint, "plan", model, "--context", kv["tokens"], *picture, "--no-times")
    return compare(f"{model}", [("weights", plan["weights_bytes"], held(squint, model)), ("KV", plan["kv_bytes"], kv["bytes"]),
                                ("total", plan["total_bytes"], peak)])


def quantizing(squint, model, samples, folder):
    """calibrate, and quantize as it is called by default, with texts of random letters cut to the default length."""
    letters = random.Random(2)
    with open(folder / "texts.jsonl", "w") as f:
        for _ in range(samples):
            f.write(json.dumps({"text": "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(2048))}) + "\n")
    data = ["--calib", folder / "texts.jsonl", "--samples", samples]
    good = True
    for method in ("awq", "gptq", "rtn"):
        plan = squint_json(squint, "plan", model, "--method", method, "--samples", samples, "--no-times")
        given = data if method != "rtn" else []
        _, peak = run([squint, "quantize", model, "-o", folder / method, "--method", method, *given, "-q"], folder / "quantize.log")
        good &= compare(model, [(method, plan["quantize"]["total_bytes"], peak)])
        shutil.rmtree(folder / method)
    plan = squint_json(squint, "plan", model, "--samples", samples, "--no-times")
    _, peak = run([squint, "calibrate", model, "-o", folder / "stats", *data, "-q"], folder / "calibrate.log")
    return good & compare(model, [("calibrate", plan["calibration"]["total_bytes"], peak)])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    p.add_argument("--squint", default="build/squint")
    p.add_argument("--work", type=Path, help="folder for the models that are made (7 GB)")
    p.add_argument("--context", type=int, default=8192)
    p.add_argument("--image", default="1024x1024", metavar="WxH")
    p.add_argument("--calibrate", type=int, default=0, metavar="N", help="instead of a conversation: calibrate and quantize with N samples")
    o = p.parse_args()
    if not o.models and o.work is None:
        p.error("wanted MODEL or --work")
    size = tuple(int(x) for x in o.image.split("x"))
    print(f"{'model':20} {'':12} {'planned':>14} {'measured':>14} {'ratio':>8}   ({machine()})")
    good = True
    for model in o.models or models(o.squint, o.work, o.calibrate):
        with tempfile.TemporaryDirectory() as folder:
            if o.calibrate:
                good &= quantizing(o.squint, model, o.calibrate, Path(folder))
            else:
                good &= conversation(o.squint, model, o.context, size, Path(folder))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
