"""llama.cpp, by llama-cpp-python's low-level calls: `quantize IN.gguf OUT.gguf TYPE`, or
`run FILE.gguf PROMPT DECODE THREADS` after a warm-up; one JSON line."""
import ctypes
import random
import sys

import llama_cpp as L

import rates

TYPES = {"Q4_0": L.LLAMA_FTYPE_MOSTLY_Q4_0, "Q4_1": L.LLAMA_FTYPE_MOSTLY_Q4_1}


def quantize(source, target, kind):
    params = L.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    if L.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp does not quantize {source}")


def run(path, prompt, decode, threads):
    L.llama_backend_init()
    model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch = prompt + decode + 8, prompt, 512, threads, threads
    context = L.llama_init_from_model(model, p)
    vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    batch = L.llama_batch_init(prompt, 0, 1)

    def feed(n, at):
        for i, token in enumerate(random.choices(range(vocab // 4, vocab // 2), k=n)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at + i, 1, 0
            batch.logits[i] = i == n - 1
        batch.n_tokens = n
        if L.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        L.llama_synchronize(context)

    rates.report(lambda: L.llama_memory_clear(L.llama_get_memory(context), True), feed, prompt, decode)


if sys.argv[1] == "quantize":
    quantize(*sys.argv[2:5])
else:
    run(sys.argv[2], *map(int, sys.argv[3:6]))
