"""transformers in bfloat16: `FOLDER PROMPT DECODE THREADS` of a language model's folder; one JSON line."""
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main(folder, prompt, decode, threads):
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    vocab = model.config.vocab_size
    with torch.inference_mode():
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            out = model(torch.randint(vocab // 4, vocab // 2, (1, prompt)), use_cache=True, logits_to_keep=1)
            prefill = prompt / (time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(decode):
                out = model(torch.randint(vocab // 4, vocab // 2, (1, 1)), past_key_values=out.past_key_values, use_cache=True)
            rate = decode / (time.perf_counter() - start)
    print(json.dumps({"prefill_tokens_per_s": prefill, "decode_tokens_per_s": rate}))


main(sys.argv[1], *map(int, sys.argv[2:5]))
