"""A vision tower in llama.cpp (mtmd): `MODEL.gguf MMPROJ.gguf WxH THREADS`; seconds of encoding a picture after a warm-up, as one
JSON line."""
import ctypes
import json
import random
import sys
import time

import llama_cpp as L
import llama_cpp.mtmd_cpp as M


def main(text, mmproj, size, threads):
    width, height = map(int, size.split("x"))
    L.llama_backend_init()
    model = L.llama_model_load_from_file(text.encode(), L.llama_model_default_params())
    p = M.mtmd_context_params_default()
    p.use_gpu, p.n_threads, p.print_timings = False, threads, False
    context = M.mtmd_init_from_file(mmproj.encode(), model, p)
    if not context:
        raise SystemExit(f"llama.cpp does not load {mmproj}")
    pixels = (ctypes.c_uint8 * (3 * width * height)).from_buffer_copy(random.randbytes(3 * width * height))
    bitmap = M.mtmd_bitmap_init(width, height, pixels)
    chunks = M.mtmd_input_chunks_init()
    marker = M.mtmd_default_marker()
    words = M.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
    if M.mtmd_tokenize(context, chunks, ctypes.byref(words), (M.mtmd_bitmap_p_ctypes * 1)(bitmap), 1):
        raise SystemExit("mtmd_tokenize failed")
    picture = next(c for c in (M.mtmd_input_chunks_get(chunks, i) for i in range(M.mtmd_input_chunks_size(chunks)))
                   if M.mtmd_input_chunk_get_type(c) == M.MTMD_INPUT_CHUNK_TYPE_IMAGE)
    seconds = []
    for _ in range(3):  # the first warms up
        start = time.perf_counter()
        if M.mtmd_encode_chunk(context, picture):
            raise SystemExit("mtmd_encode_chunk failed")
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"vision_s": min(seconds[1:]), "image_tokens": M.mtmd_input_chunk_get_n_tokens(picture)}))


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
