"""What the quantization benchmarks share: commands with wall time and peak memory, token sequences, llm-compressor's runs."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(command, log, env=None):
    """(seconds, peak resident bytes) of the whole command, its children included; its output goes to the file `log`."""
    start = time.perf_counter()
    with open(log, "wb") as f:
        child = subprocess.Popen([str(x) for x in command], stdout=f, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = Path(log).read_text(errors="replace")[-1500:]
        raise RuntimeError(f"exit {child.returncode}: {' '.join(map(str, command))}\n{tail}")
    return seconds, usage.ru_maxrss * 1024


def output(*command):
    """What the command writes to standard output."""
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {' '.join(map(str, command))}\n{done.stderr[-1500:]}")
    return done.stdout


def squint_json(squint, *args):
    return json.loads(output(squint, *args, "--json", "-q"))


def calibration_ids(squint, model, calib, samples, length):
    """The sequences Squint makes of a file of {"text": …} lines (src/quant/samples.c): the texts joined by an empty line,
    encoded as one, cut to pieces of `length`. Checked: HF's ids of the start are those that squint answers itself."""
    from tokenizers import Tokenizer
    with open(calib, encoding="utf-8") as f:
        text = "\n\n".join(json.loads(line)["text"] for line in f if line.strip())
    ids = Tokenizer.from_file(str(Path(model) / "tokenizer.json")).encode(text).ids
    if len(ids) < samples * length:
        raise SystemExit(f"{calib}: {len(ids)} tokens; wanted {samples} x {length}")
    lines = [x for x in text.split("\n") if x][:400]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
        f.flush()
        out = subprocess.run([str(squint), "tokenize", str(model), "--file", f.name], capture_output=True, text=True, check=True)
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    for line, row in zip(lines, out.stdout.splitlines()):
        if json.loads(row) != tokenizer.encode(line).ids:
            raise SystemExit(f"squint and HF tokenizers differ in {line!r}")
    return [ids[i * length:(i + 1) * length] for i in range(samples)]


def different(a, b):
    """Names of the files in which two files or folders differ; empty when they are equal byte for byte."""
    a, b = Path(a), Path(b)
    if a.is_file() and b.is_file():
        return [] if a.read_bytes() == b.read_bytes() else [b.name]
    names = {x.relative_to(top).as_posix() for top in (a, b) for x in top.rglob("*") if x.is_file()}
    return sorted(n for n in names if not (a / n).is_file() or not (b / n).is_file() or
                  (a / n).read_bytes() != (b / n).read_bytes())


def fingerprint(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(Path(p).read_bytes() if isinstance(p, Path) else str(p).encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


def llmcompressor(python, model, ids_file, method, group, out, dtype="float32"):
    """One run of the peer as a process of its own, its imports included."""
    shutil.rmtree(out, ignore_errors=True)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    return run([python, HERE / "llmcompressor_run.py", model, ids_file, method, group, out, dtype], f"{out}.log",
               {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"})


def machine():
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Python {sys.version.split()[0]}"
