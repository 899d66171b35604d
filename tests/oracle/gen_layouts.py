#!/usr/bin/env python3
"""Writes tests/golden/quant/layouts.safetensors: quantized linears packed by the packages themselves.

    python tests/oracle/gen_layouts.py

AutoAWQ 0.2.9: WQLinear_GEMM.from_linear and WQLinear_GEMV.from_linear. GPTQModel 7.7.0: TorchLinear.pack_original, its v1 by
convert_gptq_v2_to_v1_format_module; its AwqTorchLinear.pack must give AutoAWQ's words. Neither needs a GPU. Both recover the
codes from a dense weight, so scales are powers of two, which lose nothing. Each case NAME has the inputs NAME.codes [n][k],
NAME.zeros and NAME.scale [n][groups], and what the package made of them: NAME.qweight, .qzeros, .scales and, for GPTQ, .g_idx.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "golden" / "quant" / "layouts.safetensors"
CASES = {  # layout, bits, n, k, group (-1: one a row), zero points, act-order
    "gemm-32": ("gemm", 4, 64, 96, 32, "any", False), "gemm-128": ("gemm", 4, 32, 256, 128, "any", False),
    "gemm-8s": ("gemm", 4, 32, 64, 64, 8, False),
    "gemv-32": ("gemv", 4, 48, 288, 32, "any", False), "gemv-64": ("gemv", 4, 40, 192, 64, "any", False),
    "gemv-128": ("gemv", 4, 32, 1280, 128, "any", False),
    "v2-32": ("gptq_v2", 4, 64, 96, 32, "any", False), "v2-row": ("gptq_v2", 4, 32, 96, -1, "any", False),
    "v2-8bit": ("gptq_v2", 8, 32, 128, 64, "any", False), "v2-act": ("gptq_v2", 4, 32, 128, 32, "any", True),
    "v1-sym": ("gptq", 4, 64, 128, 128, 8, False), "v1-8bit": ("gptq", 8, 32, 128, 64, 128, False),
    "v1-act": ("gptq", 4, 32, 128, 32, "from 1", True), "v1-zero": ("gptq", 4, 32, 128, 32, "any", False)}


def inputs(bits, n, k, group, zero, act, rng):
    """Codes, zero points, scales, the group of each column."""
    groups, top = k // group, 2 ** bits - 1
    codes = torch.randint(0, top + 1, (n, k), generator=rng)
    low = 1 if zero == "from 1" else 0
    zeros = torch.randint(low, top + 1, (n, groups), generator=rng) if isinstance(zero, str) else torch.full((n, groups), zero)
    scales = 2.0 ** -torch.randint(3, 9, (n, groups), generator=rng).float()
    g_idx = torch.arange(k) // group
    return codes, zeros, scales, g_idx[torch.randperm(k, generator=rng)] if act else g_idx


def linear_of(codes, zeros, scales, g_idx):
    linear = torch.nn.Linear(codes.shape[1], codes.shape[0], bias=False)
    linear.weight.data = (codes - zeros[:, g_idx]) * scales[:, g_idx]
    return linear


def autoawq(layout, linear, group, zeros, scales):
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.modules.linear.gemv import WQLinear_GEMV
    made = {"gemm": WQLinear_GEMM, "gemv": WQLinear_GEMV}[layout].from_linear(
        linear.half(), 4, group, scales=scales.half().T.contiguous() if layout == "gemm" else scales.half(),
        zeros=zeros.T.contiguous() if layout == "gemm" else zeros)
    return {"qweight": made.qweight, "qzeros": made.qzeros, "scales": made.scales}


def same_as_gptqmodel(made, linear, group, zeros, scales):
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    other = AwqTorchLinear(bits=4, group_size=group, sym=False, desc_act=False, in_features=linear.in_features,
                          out_features=linear.out_features, bias=False, register_buffers=True)
    other.pack(linear.float(), scales, zeros)
    for key in ("qweight", "qzeros", "scales"):
        assert torch.equal(made[key], getattr(other, key)), key


def gptqmodel(layout, bits, group, linear, zeros, scales, g_idx, act):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
    made = TorchLinear(bits=bits, group_size=group, sym=False, desc_act=act, in_features=linear.in_features,
                       out_features=linear.out_features, bias=False, register_buffers=True)
    made.pack_original(linear, scales, zeros, g_idx.int())
    if layout == "gptq":
        convert_gptq_v2_to_v1_format_module(made, QuantizeConfig(bits=bits, group_size=group))
    return {"qweight": made.qweight, "qzeros": made.qzeros, "scales": made.scales, "g_idx": made.g_idx.int()}


def main():
    rng, out = torch.Generator().manual_seed(1), {}
    for name, (layout, bits, n, k, group, zero, act) in CASES.items():
        group = k if group == -1 else group
        codes, zeros, scales, g_idx = inputs(bits, n, k, group, zero, act, rng)
        linear = linear_of(codes, zeros, scales, g_idx)
        if layout in ("gemm", "gemv"):
            made = autoawq(layout, linear, group, zeros, scales)
            if layout == "gemm":
                same_as_gptqmodel(made, linear, group, zeros, scales)
        else:
            made = gptqmodel(layout, bits, group, linear, zeros, scales, g_idx, act)
        out |= {f"{name}.codes": codes.byte(), f"{name}.zeros": zeros.byte(), f"{name}.scale": scales}
        out |= {f"{name}.{key}": v.detach().contiguous() for key, v in made.items()}
    save_file(out, OUT)


if __name__ == "__main__":
    main()
