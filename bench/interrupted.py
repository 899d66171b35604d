"""Runs that are killed, and disks that are full: python3 bench/interrupted.py SQUINT [kill|disk] [--kills 10] [--seed 0] [--only a,b]

kill: each command below is run once without a break. Then again, ended by SIGKILL at random moments and resumed until
it was killed that many times; nothing may stand under the final name before the command is done, and what it gives in
the end has to be equal byte for byte.
disk: the output lies on a tmpfs that is too small by more or less, down to the last file. Wanted: exit status 4, a
message that names the file, nothing under the final name; with more space the same command goes on and gives the same
bytes. Mounting takes root: elsewhere the program enters a user namespace of its own (unshare -r -m); where that is not
allowed it says so and ends with 2.

The embedded model and its calibration data; exit status 1 when anything is not as wanted."""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parent.parent
MODEL, CALIB = ROOT / "models/squint-vl-5m", ROOT / "tests/data/vl/calib.jsonl"
DATA = ["--calib", CALIB, "--samples", 8]
# name: verb, name of the output, flags
CASES = {
    "awq": ("quantize", "out", ["--method", "awq", "--vision", "w8a8", *DATA]),
    "awq+gptq": ("quantize", "out", ["--method", "awq+gptq", "--vision", "w8a8", *DATA]),
    "calibrate": ("calibrate", "out.stats", ["--vision", "w8a8", *DATA]),
    "sequential": ("quantize", "out", ["--method", "gptq", "--sequential", *DATA]),
    "activations in a file": ("quantize", "out", ["--method", "awq", "--max-ram", "16MiB", *DATA]),
    "gguf": ("quantize", "out.gguf", ["--method", "awq", "--format", "gguf", *DATA]),
}
NO_SPACE = 4


def command(args, name, folder):
    verb, out, flags = CASES[name]
    return [str(x) for x in (args.squint.resolve(), verb, MODEL, "-o", folder / out, *flags, "-q")], folder / out


def reference(args, name, folder):
    folder.mkdir()
    words, out = command(args, name, folder)
    start = time.perf_counter()
    measure.output(*words)
    return out, time.perf_counter() - start


def done(folder):
    """Units in the journals of unfinished work."""
    n = 0
    for journal in folder.glob("*.partial/journal.json"):
        try:
            n = max(n, len(json.loads(journal.read_text())["done"]))
        except (OSError, ValueError):
            pass  # removed, or half of it, at this very moment
    return n


def kill(args, name, tmp):
    want, seconds = reference(args, name, tmp / "whole")
    words, out = command(args, name, tmp / "parts")
    out.parent.mkdir()
    kills = finished = most = bad = 0
    while kills < args.kills:
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(timeout=args.random.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
            most = max(most, done(out.parent))
            if not out.exists():
                continue  # and resume
        # Complete: at the end of the command, or killed between the last rename and the end.
        finished += 1
        bad += bool(measure.different(want, out))
        shutil.rmtree(out.parent)
        out.parent.mkdir()
    measure.output(*words)
    wrong = measure.different(want, out)
    bad += bool(wrong)
    left = [x.name for x in out.parent.iterdir() if "partial" in x.name or "work" in x.name or "tmp" in x.name]
    print(f"{name:24} {seconds:7.1f} s uninterrupted; killed {kills} times, at most {most} units done; finished {finished + 1} "
          f"times, {'all equal' if not bad else f'{bad} DIFFERENT {wrong}'}{f', LEFT {left}' if left else ''}", flush=True)
    return not bad and not left


def disk(args, name, tmp):
    want, _ = reference(args, name, tmp / "whole")
    size = sum(x.stat().st_size for x in want.parent.rglob("*") if x.is_file())
    ok, seen = True, []
    for share in (0.02, 0.4, 0.9, 0.97, 0.99, 1.0, 1.005, 1.01, 1.02, 1.05, 1.1, 1.5):
        space = tmp / "space"
        space.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(size * share)}", "tmpfs", space], check=True)
        try:
            words, out = command(args, name, space)
            p = subprocess.run(words, capture_output=True, text=True)
            if p.returncode:
                good = p.returncode == NO_SPACE and not out.exists() and "No space left" in p.stderr and str(space) in p.stderr
                units = done(space)
                subprocess.run(["mount", "-o", f"remount,size={8 * size + (1 << 26)}", space], check=True)
                p2 = subprocess.run(words, capture_output=True, text=True)
                good = good and p2.returncode == 0
                seen.append(f"{share:g}: {units}")
                if not good:
                    print(f"{name}, {share:g} of {size} bytes: exit {p.returncode}, then {p2.returncode}: {p.stderr} {p2.stderr}")
                ok &= good
            wrong = measure.different(want, out) if out.exists() else ["nothing"]
            if wrong:
                print(f"{name}, {share:g} of {size} bytes: DIFFERENT {wrong}")
            ok &= not wrong
        finally:
            subprocess.run(["umount", space], check=True)
            space.rmdir()
    print(f"{name:24} too small at (share of {size} bytes: units kept) {', '.join(seen)}; {'exit 4, then equal' if ok else 'FAILED'}",
          flush=True)
    return ok and len(seen) > 1


def may_mount():
    """Enters a mount namespace of its own; False where that is not allowed."""
    if os.environ.get("SQUINT_BENCH_MOUNTS") == "1":
        return True
    own = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
    if subprocess.run([*own, "true"], capture_output=True).returncode:
        return False
    os.environ["SQUINT_BENCH_MOUNTS"] = "1"
    os.execvp(own[0], [*own, sys.executable, *sys.argv])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("what", nargs="?", choices=("kill", "disk"), default="kill")
    ap.add_argument("--kills", type=int, default=10)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--only", default=",".join(CASES))
    args = ap.parse_args()
    if args.what == "disk" and not may_mount():
        print("neither root nor a user namespace: a small disk cannot be mounted here")
        sys.exit(2)
    args.random = random.Random(args.seed)
    ok = True
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as tmp:
            ok &= (kill if args.what == "kill" else disk)(args, name, Path(tmp))
    sys.exit(not ok)


main()
