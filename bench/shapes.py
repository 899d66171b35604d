"""Columns that groups do not divide: python3 bench/shapes.py SQUINT [--only 288,3420,4304,3696,29568] [--large] [--schemes a,b] [--methods a,b] [--ways a,b]

Each model below, by every method and scheme, padded; and by round-to-nearest and AWQ + GPTQ with every other way of
--on-indivisible: quantized, verified against the original at every level, and asked about a picture. One line each: linears,
how many of them were padded (by how many columns) or noted, the error of the layers over round-to-nearest's, the KL of the
answers, and what failed; exit status 1 when anything did. Random weights (`squint synth` of a folder with config.json), small but for
the dimension in question, which may well repeat one token: that check alone is left out for them. Statistics are taken once a model.

 288    the embedded model (288 and 512 columns; tower 160 and 340), groups of 256
 3420   Qwen2.5-VL with MLPs of 3420 columns, as its own tower has, groups of 128
 4304   LLaVA with SigLIP, MLPs of 4304 columns, as SigLIP has, groups of 128
 3696   Llama with an MLP of 3696 columns, --tp 8 (29568 / 8), groups of 128
 29568  the same with 29568 columns, as Qwen2-VL-72B has; round-to-nearest, and with --large (8 GB of memory) the other methods"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parent.parent
GOLDEN, DATA = ROOT / "tests/golden/models", ROOT / "tests/data/vl"
EMBEDDED = ROOT / "models/squint-vl-5m"
PICTURE = DATA / "test-000.png"
TEXT = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
RANKS = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 1,
         "max_position_embeddings": 4096}
# name: the config to start from, what changes in it, group, more flags
MODELS = {
    "288": (EMBEDDED, None, 256, []),
    "3420": (GOLDEN / "qwen25vl-flat-bf16", {
        **TEXT, "intermediate_size": 3420, "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
        "vision_config": {"hidden_size": 128, "num_heads": 4, "intermediate_size": 3420, "out_hidden_size": 256}}, 128, []),
    "4304": (GOLDEN / "llava-siglip-bf16", {
        "text_config": {**TEXT, "intermediate_size": 4304},
        "vision_config": {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 4304}}, 128, []),
    "3696": (GOLDEN / "smollm2-like-bf16", {**RANKS, "intermediate_size": 3696}, 128, ["--tp", 8]),
    "29568": (GOLDEN / "smollm2-like-bf16", {**RANKS, "intermediate_size": 29568}, 128, ["--tp", 8]),
}
SCHEMES = {"w4a16": ["--scheme", "w4a16"], "w4a16 sym": ["--scheme", "w4a16", "--sym"], "w8a16": ["--scheme", "w8a16"],
           "w8a8": ["--scheme", "w8a8"], "w4a8": ["--scheme", "w4a8"]}
METHODS = ("rtn", "awq", "gptq", "awq+gptq")
WAYS = ("pad", "smaller-group", "channel", "keep")


def merged(old, new):
    return {**old, **{k: merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v
                      for k, v in new.items()}}


def make_model(args, name, work):
    source, changes, _, _ = MODELS[name]
    if changes is None:
        return source
    shape, model = work / "shape", work / "model"
    shutil.copytree(source, shape, ignore=shutil.ignore_patterns("*.safetensors*", "expected*"))
    config = merged(json.loads((source / "config.json").read_text()), changes)
    config.pop("head_dim", None)
    (shape / "config.json").write_text(json.dumps(config))
    measure.output(args.squint, "synth", shape, "-o", model, "-q")
    return model


def data(name, work):
    """Conversations with pictures; for a model without a tower the words alone."""
    if "vision_config" in json.loads((MODELS[name][0] / "config.json").read_text()):
        return DATA / "calib.jsonl"
    lines = (DATA / "calib.jsonl").read_text().splitlines()
    (work / "calib.jsonl").write_text(json.dumps({"text": "\n".join(lines)}) + "\n")
    return work / "calib.jsonl"


def cases(args, name):
    large = args.large
    for scheme in args.schemes.split(","):
        for method in args.methods.split(","):
            if name == "29568" and method != "rtn" and not (large and scheme == "w4a16"):
                continue
            for way in args.ways.split(","):
                # One group a row divides everything.
                if way == "pad" or (method in ("rtn", "awq+gptq") and scheme != "w8a8" and name != "29568"):
                    yield scheme, method, way


def one(args, name, model, calib, stats, work, case):
    scheme, method, way = case
    _, changes, group, flags = MODELS[name]
    vision = calib.parent == DATA
    out, failed, r, kl = work / "out", [], None, float("nan")
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    words = [args.squint, "quantize", model, "-o", out, "--method", method, *SCHEMES[scheme], "--group-size", group, *flags,
             "--on-indivisible", way, "--no-verify", *(["--vision", scheme.split()[0]] if vision else [])]
    words += [] if method == "rtn" else ["--stats", stats]
    p = subprocess.run([str(x) for x in [*words, "--json", "-q"]], capture_output=True, text=True)
    if p.returncode:
        failed.append(f"quantize: {p.stderr.strip()}")
    else:
        r = json.loads(p.stdout)
        p = subprocess.run([str(x) for x in (args.squint, "verify", out, "--against", model, "--data", calib, "--samples", 2,
                                             "--max-kl", 5, "--min-top1", 0.01, "--json", "-q")], capture_output=True, text=True)
        checks = json.loads(p.stdout)["checks"] if p.stdout else []
        wrong = [c["name"] for c in checks if not c["ok"] and not (c["name"] == "degenerate output" and changes is not None)]
        if wrong or not checks:
            failed.append(f"verify: {wrong} {p.stderr.strip()}")
        kl = next((c["value"] for c in checks if c["name"] == "kl"), None)
        p = subprocess.run([str(x) for x in (args.squint, "run", out, "--prompt", "What is it?", "--max-new-tokens", 4,
                                             *(["--image", PICTURE] if vision else []), "--json", "-q")],
                           capture_output=True, text=True)
        if p.returncode or not json.loads(p.stdout)["tokens"]:
            failed.append(f"run: {p.stderr.strip()}")
    line = f"{name:6}{scheme:10}{method:9}{way:14}"
    if r is not None:
        layers = r["layers"]
        rtn = sum(x["rtn_error"] for x in layers)
        wider = sorted({x["padded_columns"] for x in layers} - {0})
        line += (f"{len(layers):3} linears, {sum(x['padded_columns'] > 0 for x in layers):2} padded {str(wider):16}"
                 f"{len(r['kept']):3} kept, {sum(x.get('note') is not None for x in layers):2} notes  error {sum(x['error'] for x in layers) / rtn:.3f}"
                 f"  KL {kl if kl is None else round(kl, 4)}  {r.get('tp') or ''}")
    print(f"{line}  {time.perf_counter() - start:.1f} s  {'; '.join(failed) if failed else 'ok'}", flush=True)
    return not failed


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("--only", default=",".join(MODELS))
    ap.add_argument("--large", action="store_true")
    ap.add_argument("--schemes", default=",".join(SCHEMES))
    ap.add_argument("--methods", default=",".join(METHODS))
    ap.add_argument("--ways", default=",".join(WAYS))
    args = ap.parse_args()
    args.squint = args.squint.resolve()
    n = bad = 0
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as tmp:
            work = Path(tmp)
            model, calib, stats = make_model(args, name, work), data(name, work), work / "stats"
            if args.methods != "rtn" and (name != "29568" or args.large):
                vision = ["--vision", "w8a16"] if calib.parent == DATA else []
                measure.output(args.squint, "calibrate", model, "-o", stats, "--calib", calib, "--samples", 6, "--seq", 128,
                               *vision, "-q")
            for case in cases(args, name):
                n += 1
                bad += not one(args, name, model, calib, stats, work, case)
    print(f"{n} combinations, {bad} failed")
    sys.exit(bad > 0)


main()
