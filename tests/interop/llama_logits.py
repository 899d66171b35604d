"""What llama.cpp makes of a GGUF file, by llama-cpp-python. In a process of its own: it may be another Python's.

python llama_logits.py FILE.gguf IDS OUT.npy [TEXTS IDS_OUT]         the logits of every token; the ids of texts, a line each
python llama_logits.py --picture FILE MMPROJ PICTURE BEFORE AFTER OUT.npy   the last row's, after a picture (.npy, RGB) between two lists of ids
python llama_logits.py --tower FILE MMPROJ PICTURE BEFORE AFTER OUT.npy FEATURES.npy   the same without a tokenizer in between, and the
                                                                     picture's embeddings; positions of one axis alone
python llama_logits.py --quantize FROM TO                            Q4_K_M
"""
import ctypes
import sys

import llama_cpp
import numpy as np
from llama_cpp import Llama


CACHE = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # F16 unless told


def numbers(text):
    return [int(i) for i in text.split(",") if i]


def tokens(path, ids, out, texts=None, ids_out=None):
    ids = numbers(ids)
    net = Llama(model_path=path, n_ctx=len(ids) + 8, n_batch=512, n_threads=2, **CACHE, logits_all=True, verbose=False)
    net.eval(ids)
    np.save(out, np.array(net._scores, dtype=np.float32)[:len(ids)])
    if texts is not None:
        with open(texts, encoding="utf-8") as f, open(ids_out, "w", encoding="utf-8") as g:
            for line in f:
                g.write(",".join(map(str, net.tokenize(line.rstrip("\n").encode(), add_bos=False, special=True))) + "\n")


def open_picture(path, mmproj, image):
    from llama_cpp import mtmd_cpp as m
    net = Llama(model_path=path, n_ctx=2048, n_batch=512, n_threads=2, **CACHE, verbose=False)
    params = m.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup, params.print_timings = False, 2, False, False
    ctx = m.mtmd_init_from_file(mmproj.encode(), net._model.model, params)
    assert ctx, "mmproj"
    pixels = np.load(image)
    bitmap = m.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    return m, net, ctx, bitmap


def chunks_of(m, ctx, bitmap, text):
    given = m.mtmd_input_text(text, len(text), False, True)
    chunks = m.mtmd_input_chunks_init()
    assert m.mtmd_tokenize(ctx, chunks, ctypes.byref(given), (m.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0, "tokenize"
    return chunks


def save_last_row(net, out):
    row = llama_cpp.llama_get_logits_ith(net._ctx.ctx, -1)
    np.save(out, np.ctypeslib.as_array(row, shape=(net.n_vocab(),)).astype(np.float32))


def picture(path, mmproj, image, before, after, out):
    m, net, ctx, bitmap = open_picture(path, mmproj, image)
    chunks = chunks_of(m, ctx, bitmap, net.detokenize(numbers(before), special=True) + m.mtmd_default_marker() +
                       net.detokenize(numbers(after), special=True))
    past = llama_cpp.llama_pos(0)
    assert m.mtmd_helper_eval_chunks(ctx, net._ctx.ctx, chunks, 0, 0, 512, True, ctypes.byref(past)) == 0, "eval"
    save_last_row(net, out)


def tower(path, mmproj, image, before, after, out, features):
    m, net, ctx, bitmap = open_picture(path, mmproj, image)
    chunks = chunks_of(m, ctx, bitmap, m.mtmd_default_marker())
    found = [c for c in (m.mtmd_input_chunks_get(chunks, i) for i in range(m.mtmd_input_chunks_size(chunks)))
             if m.mtmd_input_chunk_get_type(c) == m.MTMD_INPUT_CHUNK_TYPE_IMAGE]
    assert len(found) == 1 and m.mtmd_encode_chunk(ctx, found[0]) == 0, "encode"
    n = m.mtmd_input_chunk_get_n_tokens(found[0])
    embedded = m.mtmd_get_output_embd(ctx)
    np.save(features, np.ctypeslib.as_array(embedded, shape=(n, net.n_embd())).astype(np.float32))
    if numbers(before):
        net.eval(numbers(before))
    past = llama_cpp.llama_pos(net.n_tokens)
    no_callback = m.mtmd_helper_post_decode_callback()
    assert m.mtmd_helper_decode_image_chunk(ctx, net._ctx.ctx, found[0], embedded, net.n_tokens, 0, 512, ctypes.byref(past),
                                            no_callback, None) == 0, "decode"
    net.n_tokens = past.value
    net.eval(numbers(after))
    save_last_row(net, out)


def quantize(path, out):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 2
    assert llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(params)) == 0


if sys.argv[1] == "--version":
    print(llama_cpp.__version__)
else:
    {"--picture": picture, "--tower": tower, "--quantize": quantize}.get(sys.argv[1], lambda *a: tokens(sys.argv[1], *a))(*sys.argv[2:])
