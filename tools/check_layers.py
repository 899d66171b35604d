#!/usr/bin/env python3
"""The layer law of docs/ARCHITECTURE.md: a file includes headers of its own folder or of a lower layer; folders of one
layer never include each other; the CLI sees the public headers only. Also: the size limits, and nothing below the CLI
ends the process or prints."""
import pathlib
import re
import sys

LAYER = {"base": 0, "kernels": 1, "format": 1, "text": 2, "vision": 2, "arch": 2, "model": 3, "quant": 4, "engine": 4,
         "api": 5}
MAX_LINES = 1000
root = pathlib.Path(__file__).resolve().parent.parent
bad = []

for path in sorted([*root.glob("src/*/*.[ch]"), *root.glob("cli/*.[ch]"), *root.glob("tests/**/*.[ch]")]):
    name, lines = path.relative_to(root), path.read_text().splitlines()
    if len(lines) > MAX_LINES:
        bad.append(f"{name}: {len(lines)} lines, wanted at most {MAX_LINES}")
    own = name.parts[1] if name.parts[0] == "src" else None
    for i, line in enumerate(lines, 1):
        m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if m:
            top = m.group(1).split("/")[0]
            if name.parts[0] == "cli" and "/" in m.group(1) and top != "squint":
                bad.append(f"{name}:{i}: the CLI includes '{m.group(1)}', wanted public headers only")
            if own and top in LAYER and top != own and LAYER[top] >= LAYER[own]:
                bad.append(f"{name}:{i}: '{own}' includes '{top}', which is not a lower layer")
            if own and "/" not in m.group(1):
                bad.append(f"{name}:{i}: include paths are rooted; got '{m.group(1)}'")
        if own and re.search(r"(?<![\w.>])(abort|exit|_exit|printf|puts|putchar|perror)\s*\(", line):
            if not line.lstrip().startswith(("*", "/*", "//")):
                bad.append(f"{name}:{i}: ends the process or prints below the CLI")

for b in bad:
    print(b)
print(f"{len(bad)} breaches of the layer law")
sys.exit(bool(bad))
