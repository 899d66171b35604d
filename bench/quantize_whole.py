"""A whole vision-language model quantized by one command, its stages beside what the arithmetic allows:

    python3 bench/quantize_whole.py SQUINT [--shape qwen2-vl-2b] [--layers N] [--pictures 128] [--size 448] [--method awq]
                                    [--work FOLDER] [flags of quantize after --]

The model is `squint synth SHAPE` (random weights); the data are conversations of a picture, a question and an answer. What is
counted: multiply-adds of the tower (each picture once), of the language model's layers over all tokens, and of X'X above the
diagonal; each over the rate that `squint devices` measures for bf16 products (f32 where the CPU has none). Quantizing itself has no
such limit: its share is printed. Peak memory is the process's own."""
import argparse
import json
import random
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import measure


def png(path, size, seed):
    """Coloured squares with noise, so that no two pictures are alike."""
    rng, cell = random.Random(seed), max(size // 14, 1)
    colours = [[bytes(rng.randrange(256) for _ in range(3)) for _ in range(size // cell + 1)] for _ in range(size // cell + 1)]
    rows = b"".join(b"\0" + b"".join(colours[y // cell][x // cell] for x in range(size)) for y in range(size))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def data(folder, pictures, size):
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(pictures):
        png(folder / f"{i}.png", size, i)
        question = [{"type": "image", "image": f"{i}.png"},
                    {"type": "text", "text": "Which colours are in the picture, and where is the brightest square?"}]
        lines.append({"messages": [{"role": "user", "content": question},
                                   {"role": "assistant", "content": f"Many colours; the brightest square is number {i}."}]})
    (folder / "calib.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder / "calib.jsonl"


def work_of(config, size, pictures, tokens):
    """Operations of each stage: {name: 2 x multiply-adds}."""
    v = config["vision_config"]
    width, depth, mlp = v["embed_dim"], v["depth"], v["embed_dim"] * v.get("mlp_ratio", 4)
    patches = (size // v["patch_size"]) ** 2
    merged, group = config["hidden_size"], v["spatial_merge_size"] ** 2 * width
    patch_inputs = 3 * v["temporal_patch_size"] * v["patch_size"] ** 2
    tower = patches * (depth * (4 * width * width + 2 * width * mlp) + patch_inputs * width)
    tower += depth * 2 * patches * patches * width + patches // v["spatial_merge_size"] ** 2 * (group * group + group * merged)
    h, inter, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    each = 2 * h * h + 2 * h * kv + 3 * h * inter
    length = tokens / pictures
    forward = layers * tokens * (each + length * h)  # causal attention: half of length x length, twice
    moments = layers * tokens * (3 * h * h + inter * inter) / 2
    return {"tower": 2 * tower * pictures, "forward": 2 * forward, "X'X": 2 * moments}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("--shape", default="qwen2-vl-2b")
    ap.add_argument("--layers", type=int)
    ap.add_argument("--pictures", type=int, default=128)
    ap.add_argument("--size", type=int, default=448)
    ap.add_argument("--method", default="awq")
    ap.add_argument("--work", type=Path)
    ap.add_argument("flags", nargs="*")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        work = (args.work or Path(tmp)).resolve()
        model, out = work / "model", work / "out"
        if not (model / "config.json").exists():
            measure.output(args.squint, "synth", args.shape, "-o", model, "-q", *(["--layers", args.layers] if args.layers else []))
        calib = data(work / "pictures", args.pictures, args.size)
        shutil.rmtree(out, ignore_errors=True)
        machine = json.loads(measure.output(args.squint, "devices", "--json"))
        rate = machine["bf16_flop_per_s"] or machine["f32_flop_per_s"]
        r = json.loads(measure.output(args.squint, "quantize", model, "-o", out, "--method", args.method, "--calib", calib,
                                      "--samples", args.pictures, "--no-verify", "--no-resume", "-q", "--json", *args.flags))
        s, config = r["seconds"], json.loads((model / "config.json").read_text())
        need = work_of(config, args.size, args.pictures, r["tokens"])
        took = {"tower": s["embed"], "forward": s["calibrate"] - s["embed"] - s["statistics"], "X'X": s["statistics"]}
        print(f"{args.shape}, {config['num_hidden_layers']} layers, {args.pictures} pictures of {args.size}x{args.size}, "
              f"{r['tokens']} tokens, {args.method}; products at {rate / 1e9:.0f} GFLOP/s; {measure.machine()}")
        for name, seconds in took.items():
            print(f"{name:10} {need[name] / 1e12:8.1f} TFLOP {seconds:8.1f} s, the limit {need[name] / rate:6.1f} s: {need[name] / rate / seconds:.2f} of it")
        print(f"{'quantize':10} {'':14} {s['quantize']:8.1f} s\n{'write':10} {'':14} {s['write']:8.1f} s")
        print(f"{'in all':10} {'':14} {s['total']:8.1f} s; peak memory {r['peak_rss_bytes'] / 1e6:.0f} MB, model {r['bytes_before'] / 1e6:.0f} -> "
              f"{r['bytes_after'] / 1e6:.0f} MB")


main()
