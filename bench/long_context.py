"""Time of a decoded token against the tokens in the cache: python3 bench/long_context.py MODEL [--squint build/cli/squint]
    [--depths 512,2048,8192,16384,32000] [--kv f32,f16,bf16,int8] [--layers N] [--rounds 3] [--decode 8]
    [--cpu MASK]

MODEL is a folder, or a shape of `squint synth` (qwen2-vl-2b), which is made with --layers of its layers and rounded to 4 bits.
Each round runs every type and depth once, in turn, so that a busy machine disturbs all of them alike; the cache is filled with
noise. A line is the median of a type and depth: milliseconds a token; the time over that at the smallest depth, of what the bytes
that a token reads have grown by (1.2 wanted); what the time has grown by, over those bytes at the read rate of the same runs."""
import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import machine, output, squint_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--squint", default="build/squint")
parser.add_argument("--depths", default="512,2048,8192,16384,32000")
parser.add_argument("--kv", default="f32,f16,bf16,int8")
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--decode", type=int, default=8)
parser.add_argument("--cpu", help="kernels that may be used, such as c,avx2")
args = parser.parse_args()
depths = sorted(int(x) for x in args.depths.split(","))
types = args.kv.split(",")


def prepare(folder):
    """The model's folder: as given, or made in `folder`."""
    if Path(args.model).is_dir():
        return args.model
    output(args.squint, "synth", args.model, "-o", f"{folder}/dense", "--layers", args.layers, "-q")
    output(args.squint, "quantize", f"{folder}/dense", "-o", f"{folder}/w4", "--method", "rtn", "-q")
    return f"{folder}/w4"


def main():
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(folder)
        runs = {}
        for _ in range(args.rounds):
            for kv in types:
                for depth in depths:
                    r = squint_json(args.squint, "bench", model, "-p", 1, "-n", args.decode, "--depth", depth,
                                    "--repeat", 1, "--kv-type", kv, *(["--cpu", args.cpu] if args.cpu else []))
                    runs.setdefault((kv, depth), []).append(r)
    print(f"{args.model}, {machine()}, {args.rounds} rounds of {args.decode} tokens")
    print(f"{'KV':>5} {'depth':>7} {'ms a token':>11} {'MB read':>8} {'time/bytes':>11} {'more/bytes':>11} {'GB/s':>6}")
    missed = False
    for kv in types:
        base = 0.0
        for depth in depths:
            rows = runs[kv, depth]
            ms = 1e3 / statistics.median(r["decode_tokens_per_s"] for r in rows)
            rate = statistics.median(r["memory_bandwidth_bytes_per_s"] for r in rows)
            bytes_read = rows[0]["bytes_per_decoded_token"]
            if depth == depths[0]:
                base, base_bytes = ms, bytes_read
            share = ms / base / (bytes_read / base_bytes)
            explained = 1e3 * (bytes_read - base_bytes) / rate
            more = (ms - base) / explained if explained else 0.0
            missed |= not share <= 1.2
            print(f"{kv:>5} {depth:7} {ms:11.2f} {bytes_read / 1e6:8.1f} {share:11.2f} {more:11.2f} {rate / 1e9:6.1f}", flush=True)
    print("more than the bytes explain, by more than 20 %: " + ("some" if missed else "none"))


if __name__ == "__main__":
    sys.exit(main())
