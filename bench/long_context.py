"""Time of a decoded token against the tokens in the cache: python3 bench/long_context.py MODEL [--squint build/cli/squint]
    [--depths 0,2048,8192,32768] [--kv f32,f16,bf16,int8] [--layers N] [--rounds 3] [--decode 8]

MODEL is a folder, or a shape of `squint synth` (qwen2-vl-2b), which is made with --layers of its layers and rounded to 4 bits.
Each round runs every type and depth once, in turn, so that a busy machine disturbs all of them alike. A line is the median of a
type and depth: milliseconds a token, what is more than at the smallest depth, what the bytes of the cache take at the read rate
that the same runs measured, and their quotient (1.2 wanted)."""
import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import machine, output, squint_json

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--squint", default="build/squint")
parser.add_argument("--depths", default="0,2048,8192,32768")
parser.add_argument("--kv", default="f32,f16,bf16,int8")
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--decode", type=int, default=8)
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
                                    "--repeat", 1, "--kv-type", kv)
                    runs.setdefault((kv, depth), []).append(r)
    print(f"{args.model}, {machine()}, {args.rounds} rounds of {args.decode} tokens")
    print(f"{'KV':>5} {'depth':>7} {'ms a token':>11} {'more':>8} {'by bytes':>9} {'quotient':>9} {'GB/s':>6}")
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
            explained = 1e3 * (bytes_read - base_bytes) / rate
            quotient = (ms - base) / explained if explained else 0.0
            missed |= not quotient <= 1.2
            print(f"{kv:>5} {depth:7} {ms:11.2f} {ms - base:8.2f} {explained:9.2f} {quotient:9.2f} {rate / 1e9:6.1f}")
    print("more than the bytes explain, by more than 20 %: " + ("some" if missed else "none"))


if __name__ == "__main__":
    sys.exit(main())
