"""The judge of quantize_quality.py in transformers, float32: PEER_PYTHON bench/torch_judge.py MODEL FOLDER EVAL.txt WINDOWS

Prints {"kl", "top1", "ppl"} of FOLDER against MODEL over WINDOWS windows of 512 tokens, as `squint eval --against` counts them:
KL and first choices at every position, perplexity over those that have a next token."""
import json
import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 512


@torch.no_grad()
def main():
    model, folder, text, windows = sys.argv[1:5]
    ids = AutoTokenizer.from_pretrained(model)(Path(text).read_text(encoding="utf-8"))["input_ids"]
    reference, quantized = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32, attn_implementation="eager").eval()
                            for p in (model, folder))
    kl = agree = positions = nll = predicted = 0
    for i in range(min(int(windows), math.ceil(len(ids) / WINDOW))):
        w = torch.tensor([ids[i * WINDOW:(i + 1) * WINDOW]])
        p, q = (m(w).logits[0].double().log_softmax(-1) for m in (reference, quantized))
        kl += float((p.exp() * (p - q)).sum())
        agree += int((p.argmax(-1) == q.argmax(-1)).sum())
        positions += w.shape[1]
        nll -= float(q[:-1].gather(1, w[0, 1:, None]).sum())
        predicted += w.shape[1] - 1
    print(json.dumps({"kl": kl / positions, "top1": agree / positions, "ppl": math.exp(nll / predicted)}))


main()
