"""The embedded model under every method and profile, on its test split: python3 bench/embedded_methods.py SQUINT [--only a,b] [--samples N]

One table: questions answered right, mean IoU of boxes, right directions, KL to the bf16 model (nats a token, over prompts and
answers of the split), share of equal first choices, bits a weight (of the whole checkpoint, and of the quantized linears),
seconds of `squint quantize`. Calibration: the 64 conversations of tests/data/vl/calib.jsonl; groups of 64 unless said. 64
does not divide 288: those layers are padded."""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parent.parent
MODEL, DATA = ROOT / "models/squint-vl-5m", ROOT / "tests/data/vl"
G64 = ["--group-size", 64]
# name: flags, and what is wanted of it: points of accuracy lost at most
CASES = {
    "rtn": (["--method", "rtn", *G64], None),
    "awq": (["--method", "awq", *G64], None),
    "gptq": (["--method", "gptq", *G64], None),
    "awq+gptq": (["--method", "awq+gptq", *G64], 1.0),
    "rtn, symmetric": (["--method", "rtn", "--sym", *G64], None),
    "awq+gptq, symmetric": (["--method", "awq+gptq", "--sym", *G64], None),
    "awq+gptq, groups of 32": (["--method", "awq+gptq", "--group-size", 32], None),
    "mixed, 4.5 bits": (["--method", "awq+gptq", "--target-bits", 4.5], None),
    "w8a16": (["--scheme", "w8a16"], None),
    "w8a8": (["--scheme", "w8a8"], 0.5),
    "w8a8, tower too": (["--scheme", "w8a8", "--vision", "w8a8"], None),
    "w4a8, groups of 32": (["--scheme", "w4a8", "--group-size", 32], None),
    "w4a8 awq+gptq, groups of 32": (["--method", "awq+gptq", "--scheme", "w4a8", "--group-size", 32], None),
    "mobile.json": (["--profile", ROOT / "profiles/mobile.json"], None),
    "desktop.json": (["--profile", ROOT / "profiles/desktop.json"], None),
    "server.json": (["--profile", ROOT / "profiles/server.json"], None),
}


def score(squint, folder, samples, against=None):
    args = ["eval", folder, "--task", DATA / "test.jsonl"]
    args += ["--against", against] if against else []
    r = measure.squint_json(squint, *args, *(["--samples", samples] if samples else []))
    r["direction"] = r["kinds"].get("direction", {}).get("score", float("nan"))
    return r


def bits(folder):
    """(stored bits a weight of the quantized linears with scales and zero points, bytes of all tensors)."""
    stored = weights = total = 0
    config = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    width = {t: g["weights"]["num_bits"] for g in config.get("config_groups", {}).values() for t in g["targets"]}
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        header.pop("__metadata__", None)
        for name, t in header.items():
            size = t["data_offsets"][1] - t["data_offsets"][0]
            total += size
            layer = name.rsplit(".", 1)[0]
            if f"{layer}.weight_scale" in header:
                part = name.rsplit(".", 1)[1]
                stored += 8 * size if part not in ("bias", "weight_shape") else 0
                weights += count(t, part, layer, width)
    return stored / weights if weights else 16.0, total


def count(t, part, layer, width):
    """Weights that a tensor of codes holds, padding included."""
    if part == "weight":
        return t["shape"][0] * t["shape"][1]
    if part != "weight_packed":
        return 0
    import re
    b = next((b for p, b in width.items() if p == "Linear" or p == layer or (p[:3] == "re:" and re.match(p[3:], layer))),
             min(width.values()))
    return t["shape"][0] * t["shape"][1] * 32 // b


def row(name, r, base, seconds, folder, wanted):
    b, size = bits(folder)
    end = ""
    if wanted is not None:
        lost = 100 * (base["accuracy"] - r["accuracy"])
        end = f"   lost {lost:.2f} points (wanted at most {wanted}: {'yes' if lost <= wanted else 'NO'})"
    print(f"{name:30} {100 * r['accuracy']:6.1f} % {r['mean_iou']:6.3f} {100 * r['direction']:7.1f} % {r.get('kl', 0):9.5f} "
          f"{100 * r.get('top1_agreement', 1):7.2f} % {b:6.2f} {size / 1e6:8.2f} MB {seconds:7.1f} s{end}", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("--only")
    ap.add_argument("--samples", type=int)
    args = ap.parse_args()
    known = subprocess.run([str(args.squint), "quantize", "--help"], capture_output=True, text=True).stdout
    print(f"{'':30} {'right':>8} {'IoU':>6} {'direction':>9} {'KL':>9} {'first':>9} {'bits':>6} {'checkpoint':>11} {'time':>9}")
    base = score(args.squint, MODEL, args.samples)
    row("bf16", base, base, 0.0, MODEL, None)
    for name, (flags, wanted) in CASES.items():
        if args.only and name not in args.only.split(","):
            continue
        missing = [f for f in flags if str(f).startswith("--") and str(f) not in known]
        if missing:
            print(f"{name:30} this squint has no {missing[0]}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp) / "out"
            seconds, _ = measure.run([args.squint, "quantize", MODEL, "-o", out, *flags, "--calib", DATA / "calib.jsonl",
                                      "--no-verify", "-q"], Path(tmp) / "log")
            row(name, score(args.squint, out, args.samples, MODEL), base, seconds, out, wanted)
    print(measure.machine())


main()
