"""transformers in bfloat16: `FOLDER PROMPT DECODE THREADS` of a language model's folder; one JSON line."""
import sys

import torch
from transformers import AutoModelForCausalLM

import rates


def main(folder, prompt, decode, threads):
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    vocab, cache = model.config.vocab_size, None

    def feed(n, at):
        nonlocal cache
        ids = torch.randint(vocab // 4, vocab // 2, (1, n))
        cache = model(ids, past_key_values=cache if at else None, use_cache=True, logits_to_keep=1).past_key_values

    with torch.inference_mode():
        rates.report(lambda: None, feed, prompt, decode)


main(sys.argv[1], *map(int, sys.argv[2:5]))
