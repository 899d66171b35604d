"""Text for calibration and evaluation from what a Debian machine with Python has: python3 bench/quantize_texts.py FOLDER

FOLDER/calib.jsonl (one line {"text": …}) and FOLDER/eval.txt, from different sources, each a round-robin of pieces of prose:

  calibration  the language reference of Python (pydoc_data.topics), the licences of /usr/share/common-licenses, Perl's .pod
               files (/usr/share/perl), and the descriptions of the installed Python packages (their METADATA)
  evaluation   docstrings of the standard library of at least 300 letters, README and NEWS files of /usr/share/doc

The texts differ from machine to machine: the program prints their SHA-256, and figures are to be compared within a run."""
import ast
import glob
import hashlib
import importlib.metadata
import json
import os
import random
import re
import sys
from pathlib import Path

PIECE = 1200            # letters of a piece, cut at an empty line
CALIBRATION = 160_000   # letters; 64 pieces of 256 tokens take some 70,000
EVALUATION = 160_000


def is_prose(text):
    words = re.sub(r"\s+", " ", text)
    return 8 * sum(c.isalpha() or c in " ,." for c in words) >= 7 * len(words)


def pieces(text):
    """Paragraphs joined to pieces; tables, listings and lists of names, where fewer than seven in eight of the characters
    are letters, spaces, commas or full stops, are left out."""
    out, now = [], ""
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        paragraph = paragraph.rstrip()
        if len(paragraph) < 60 or not is_prose(paragraph):
            continue
        now = f"{now}\n\n{paragraph}" if now else paragraph
        if len(now) >= PIECE:
            out.append(now)
            now = ""
    return out


def read(path):
    return Path(path).read_text(encoding="utf-8", errors="ignore")


def topics():
    from pydoc_data.topics import topics as table
    return [p for key in sorted(table) for p in pieces(table[key])]


def licences():
    files = (f for f in sorted(glob.glob("/usr/share/common-licenses/*")) if not os.path.islink(f))
    return [p for f in files for p in pieces(read(f))]


def pods():
    files = sorted(glob.glob("/usr/share/perl/5*/**/*.pod", recursive=True))
    return [p for f in files for p in pieces(re.sub(r"[A-Z]<+\s?(.*?)\s?>+", r"\1", read(f)))]


def descriptions():
    out = []
    for d in sorted(importlib.metadata.distributions(), key=lambda d: d.metadata["Name"] or ""):
        out += pieces(d.metadata.get_payload() or "")[:2]
    return out


def docstrings():
    out = []
    for file in sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py")):
        tree, kinds = ast.parse(read(file)), (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]
        out += [d for d in found if len(d) >= 300]
    return [d for d in out if is_prose(d)]


def readmes():
    names = ("README", "README.md", "README.Debian", "NEWS", "README.rst", "README.txt")
    files = (f for n in names for f in sorted(glob.glob(f"/usr/share/doc/*/{n}")))
    return [p for f in files if not os.path.islink(f) for p in pieces(read(f))[:6]]


def mixed(sources, limit):
    """One piece of each source in turn, in a fixed random order."""
    for s in sources:
        random.Random(5).shuffle(s)
    out, size = [], 0
    while size < limit and any(sources):
        for s in sources:
            if s:
                out.append(s.pop())
                size += len(out[-1])
    return "\n\n".join(out)


def make(folder):
    """(path of the calibration, path of the evaluation)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    calib, held = folder / "calib.jsonl", folder / "eval.txt"
    text = mixed([topics(), licences(), pods(), descriptions()], CALIBRATION)
    calib.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    held.write_text(mixed([docstrings(), readmes()], EVALUATION), encoding="utf-8")
    for p in (calib, held):
        print(f"{p}: {p.stat().st_size} bytes, SHA-256 {hashlib.sha256(p.read_bytes()).hexdigest()[:16]}")
    return calib, held


if __name__ == "__main__":
    make(sys.argv[1])
