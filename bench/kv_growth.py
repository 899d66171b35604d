"""Memory of a conversation against its length: python3 bench/kv_growth.py [squint] [model]

One run a length; prints tokens, bytes of the KV cache, bytes a token of its capacity, and the largest resident size, so
that growth in proportion (or its absence) shows. The last line asks for more than the model's positions."""
import json
import subprocess
import sys

squint = sys.argv[1] if len(sys.argv) > 1 else "build/squint"
model = sys.argv[2] if len(sys.argv) > 2 else "models/squint-vl-5m"


def run(words):
    """(report or None, largest resident bytes, exit code, error text) of one run."""
    prog = [squint, "run", model, "--prompt", "red " * words, "--max-new-tokens", "4", "--json", "-q"]
    watch = ("import resource, subprocess, sys\nr = subprocess.run(sys.argv[1:])\n"
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\nsys.exit(r.returncode)")
    p = subprocess.run([sys.executable, "-c", watch, *prog], capture_output=True, text=True)
    *out, rss = p.stdout.splitlines()
    return (json.loads(out[0]) if p.returncode == 0 else None), int(rss), p.returncode, p.stderr.strip()


print(f"{'tokens':>8} {'KV bytes':>12} {'a token':>8} {'largest RSS':>12}")
for words in (100, 600, 1250, 2500, 5000, 10000, 15000):
    report, rss, _, err = run(words)
    if report is None:
        sys.exit(err)
    kv = report["kv"]
    print(f"{kv['tokens']:8} {kv['bytes']:12} {kv['bytes'] // kv['capacity_tokens']:8} {rss:12}")
_, _, code, err = run(20000)
print(f"beyond the limit: exit {code}: {err}")
