"""Speed of squint tokenize beside HF tokenizers, one thread each: python3 bench/tokenize_speed.py [squint] [copies]

The lines of tests/interop/real_tokenizers.py, `copies` times in another order (default 5), and the Python
sources of the standard library. A B A B, three rounds; median seconds, and the median of the rounds' ratios.

Neither side's load time counts. squint's seconds are its own (`tokenize --json`): reading the file, encoding, writing JSON
to a file. HF's are of encode(line).ids line by line over decoded strings in memory, and of encode_batch_fast over the list
(no offsets; its quickest way), without reading or writing anything. Ids are compared first. Not named tokenize.py: that would
hide Python's own module."""
import glob
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/interop"))

import json  # noqa: E402

from tokenizers import Tokenizer  # noqa: E402

from real_tokenizers import build, make_lines  # noqa: E402

ROUNDS = 3
squint = sys.argv[1] if len(sys.argv) > 1 else "build/squint"
copies = int(sys.argv[2]) if len(sys.argv) > 2 else 5


def squint_seconds(folder, path, out):
    with open(out, "wb") as f:
        done = subprocess.run([squint, "tokenize", folder, "--file", path, "--json"], stdout=f, stderr=subprocess.PIPE, check=True)
    return json.loads(done.stderr)["seconds"]


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(title, folder, lines, work):
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    path, out = work / "lines.txt", work / "ids.txt"
    path.write_bytes(b"".join(x + b"\n" for x in lines))
    texts = [x.decode("utf-8", errors="replace") for x in lines]
    squint_seconds(folder, path, out)
    with open(out, encoding="utf-8") as f:
        same = sum(json.loads(row) == hf.encode(t, add_special_tokens=False).ids for row, t in zip(f, texts))
    assert same == len(texts), f"{title}: {len(texts) - same} lines differ"
    a, b, c = [], [], []
    for _ in range(ROUNDS):
        a.append(squint_seconds(folder, path, out))
        b.append(timed(lambda: [hf.encode(t, add_special_tokens=False).ids for t in texts]))
        c.append(timed(lambda: hf.encode_batch_fast(texts, add_special_tokens=False)))
    mb, median = path.stat().st_size / 1e6, statistics.median
    print(f"{title:22} {mb:6.1f} MB {median(a):8.3f} s {mb / median(a):6.1f} MB/s   HF encode {median(b):7.3f} s, "
          f"{median(x / y for x, y in zip(b, a)):5.1f} times squint's   encode_batch_fast {median(c):7.3f} s, "
          f"{median(x / y for x, y in zip(c, a)):5.1f} times", flush=True)


def main():
    hard = [line for _, line in make_lines()] * copies
    random.Random(4).shuffle(hard)
    code = []
    for file in sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py")):
        code += Path(file).read_bytes().split(b"\n")
    with tempfile.TemporaryDirectory() as tmp:
        for name, folder in build(tmp).items():
            measure(f"{name}, hard lines", folder, hard, Path(tmp))
            measure(f"{name}, Python sources", folder, code, Path(tmp))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


main()
