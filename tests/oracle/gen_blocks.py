#!/usr/bin/env python3
"""Writes tests/golden/quant/blocks.safetensors: GGUF blocks by ggml itself, and what gguf-py says that they stand for.

    python tests/oracle/gen_blocks.py

llama-cpp-python 0.3.36 (ggml_quantize_chunk of the ggml inside it) and gguf 0.19. TYPE.blocks is U8 [rows][bytes of a row],
TYPE.values F32 [rows][columns]. Where Squint writes the type (Q4_0, Q4_1, Q8_0), the numbers are TYPE.codes [rows][columns] less
TYPE.zeros times TYPE.scale [rows][groups of 32], each group with the codes at both ends of the range, so that ggml finds them again.
"""
import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "golden" / "quant" / "blocks.safetensors"
ROWS, COLUMNS = 3, 512
WRITTEN = {"Q4_0": (0, 15, 8), "Q4_1": (0, 15, None), "Q8_0": (1, 255, 128)}  # least and largest code, zero point
READ = ("Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


def ggml():
    folder = Path(llama_cpp.__file__).parent / "lib"
    f = ctypes.CDLL(str(next(folder.glob("libggml-base.*")))).ggml_quantize_chunk
    f.restype = ctypes.c_size_t
    f.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return f


def blocks(f, kind, values):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((ROWS, COLUMNS // block * size), np.uint8)
    assert f(int(kind), values.ctypes.data, out.ctypes.data, 0, ROWS, COLUMNS, None) == out.size
    return out


def main():
    rng, f, out = np.random.default_rng(1), ggml(), {}
    for name in (*WRITTEN, *READ):
        kind, values = gguf.GGMLQuantizationType[name], rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
        if name in WRITTEN:
            low, high, zero = WRITTEN[name]
            codes = rng.integers(low, high + 1, (ROWS, COLUMNS // 32, 32))
            codes[..., 0], codes[..., 31] = low, high
            zeros = rng.integers(0, 16, codes.shape[:2]) if zero is None else np.full(codes.shape[:2], zero)
            scale = 2.0 ** -rng.integers(3, 9, codes.shape[:2])
            values = ((codes - zeros[..., None]) * scale[..., None]).astype(np.float32).reshape(ROWS, COLUMNS)
            out |= {f"{name}.codes": codes.reshape(ROWS, COLUMNS).astype(np.uint8), f"{name}.zeros": zeros.astype(np.uint8),
                    f"{name}.scale": scale.astype(np.float32)}
        made = blocks(f, kind, values)
        back = gguf.dequantize(made, kind)
        assert name not in WRITTEN or np.array_equal(back, values), name
        out |= {f"{name}.blocks": made, f"{name}.values": np.ascontiguousarray(back, np.float32)}
    save_file(out, OUT)


if __name__ == "__main__":
    main()
