"""python llama_logits.py FILE.gguf IDS OUT.npy: the logits of every token, by llama.cpp (llama-cpp-python)."""
import sys

import numpy as np
from llama_cpp import Llama

path, ids, out = sys.argv[1], [int(i) for i in sys.argv[2].split(",")], sys.argv[3]
net = Llama(model_path=path, n_ctx=len(ids) + 8, n_batch=512, n_threads=2, logits_all=True, verbose=False)
net.eval(ids)
np.save(out, np.array(net._scores, dtype=np.float32)[:len(ids)])
if len(sys.argv) > 4:  # the ids of texts, a line each
    with open(sys.argv[4], encoding="utf-8") as f, open(sys.argv[5], "w", encoding="utf-8") as g:
        for line in f:
            g.write(",".join(map(str, net.tokenize(line.rstrip("\n").encode(), add_bos=False, special=True))) + "\n")
