#!/usr/bin/env python3
"""Writes tests/golden/quant/ct.safetensors: linears that compressed-tensors' own compressors stored, and what it computes of them.

    python tests/oracle/gen_ct.py

compressed-tensors 0.20: pack-quantized and int-quantized, `compress` of a weight that codes, zero points and scales stand for exactly.
Each case NAME has NAME.codes [n][k] and NAME.zeros [n][groups] counted from 0, NAME.scale in float32, and the stored tensors
(NAME.weight_packed or .weight, .weight_scale, .weight_zero_point, .weight_shape). Where inputs are rounded: NAME.x [rows][k], and
NAME.y [rows][n], the product of x as its dynamic per-token rounding leaves it, summed in float64. Among the rows are steps' very
middles, both ends of the range, an outlier, one sign alone, and zeros.
"""
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "golden" / "quant" / "ct.safetensors"
PACKED, INT = "pack-quantized", "int-quantized"
CASES = {  # format, bits, n, k, group (None: one a row), symmetric weights, symmetric inputs (None: not rounded)
    "packed-sym-32": (PACKED, 4, 40, 96, 32, True, None), "packed-asym-32": (PACKED, 4, 36, 96, 32, False, None),
    "packed-asym-128": (PACKED, 4, 32, 256, 128, False, None), "packed-row": (PACKED, 4, 32, 72, None, False, None),
    "packed-8bit": (PACKED, 8, 40, 64, 32, True, None), "packed-8bit-asym": (PACKED, 8, 34, 64, 64, False, None),
    "w8a8": (INT, 8, 40, 96, None, True, True), "w8a8-asym-inputs": (INT, 8, 40, 160, None, True, False),
    "w8a8-asym": (INT, 8, 24, 96, None, False, True), "w4a8-32": (INT, 4, 40, 160, 32, True, True),
    "w4a8-asym-32": (INT, 4, 24, 96, 32, False, True), "w4a8-asym-128": (INT, 4, 24, 256, 128, False, False)}


def rows_of(k, symmetric, rng):
    """Inputs whose step is 1 in the first two rows, so that halves are the middles of steps."""
    x = torch.randn(8, k, generator=rng)
    x[0] = torch.arange(k) - k // 2 + 0.5
    x[1] = -x[0]
    low, high = (-127.5, 127.5) if symmetric else (-100.0, 155.0)
    x[0, :2], x[1, :2] = torch.tensor([low, high]), torch.tensor([high - 1, low]) if symmetric else torch.tensor([high, low])
    x[2, k // 3] = 700.0
    x[3] = x[3].abs()
    x[4] = -x[4].abs()
    x[5] = 0
    x[6] *= 1e-6
    return x


def rounded(x, symmetric):
    args = QuantizationArgs(num_bits=8, type="int", strategy="token", symmetric=symmetric, dynamic=True)
    scale, zero = compute_dynamic_scales_and_zp(x[None], args, None)  # by itself, [rows, k] would be one token
    return fake_quantize(x[None], scale, zero, args)[0]


def case(name, kind, bits, n, k, group, symmetric, inputs, rng):
    half, groups = 2 ** (bits - 1), k // (group or k)
    codes = torch.randint(0, 2 * half, (n, k), generator=rng)
    zeros = torch.full((n, groups), half) if symmetric else torch.randint(0, 2 * half, (n, groups), generator=rng)
    scale = (torch.rand(n, groups, generator=rng) * 0.02 + 0.005).bfloat16()
    wide = lambda t: t.repeat_interleave(k // groups, 1)  # noqa: E731
    weight = (codes - wide(zeros)) * wide(scale.float())
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group" if group else "channel", group_size=group)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": (zeros - half).to(torch.int8)}
    made = BaseCompressor.get_value_from_registry(kind).compress(state, QuantizationScheme(targets=["Linear"], weights=args))
    made |= {"codes": codes.byte(), "zeros": zeros.byte(), "scale": scale.float()}
    if inputs is not None:
        x = rows_of(k, inputs, rng)
        made |= {"x": x, "y": (rounded(x, inputs).double() @ weight.double().T).float()}
    return {f"{name}.{key}": v.contiguous() for key, v in made.items()}


def main():
    rng, out = torch.Generator().manual_seed(1), {}
    for name, row in CASES.items():
        out |= case(name, *row, rng)
    save_file(out, OUT)


if __name__ == "__main__":
    main()
