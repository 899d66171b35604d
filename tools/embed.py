#!/usr/bin/env python3
"""embed.py IN OUT.c NAME: a text file as `const char NAME[]`, ended by NUL, for a build without files beside the program."""
import pathlib
import sys

source, out, name = sys.argv[1:]
data = pathlib.Path(source).read_bytes()
if b"\0" in data:
    sys.exit(f"{source}: holds a NUL byte, wanted text")
rows = [", ".join(str(b - 256 if b > 127 else b) for b in data[i : i + 24]) for i in range(0, len(data), 24)]
pathlib.Path(out).write_text(f"extern const char {name}[];\nconst char {name}[] = {{\n    " + ",\n    ".join(rows + ["0"]) + "};\n")
