#!/usr/bin/env python3
"""Writes tests/golden/quant/gptq.safetensors: GPTQ as published (Frantar et al. 2022; llm-compressor 0.14 gptq_quantize.py with
static groups and "static" act order), in float64, on matrices of odd shapes.

    python tests/oracle/gen_gptq.py
"""
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "golden" / "quant" / "gptq.safetensors"
CASES = {  # rows, columns, group, bits, symmetric, act order, dead columns
    "asym": (24, 96, 32, 4, False, True, 0), "sym": (17, 80, 16, 4, True, True, 0),
    "natural": (24, 96, 32, 4, False, False, 0), "dead": (12, 64, 64, 4, False, True, 5),
    "eight": (12, 72, 72, 8, True, True, 0), "ragged": (20, 72, 32, 4, False, True, 0)}


def gptq(w, h, scales, zeros, group, top, act_order, damp=0.01):
    w, h = w.clone().double(), h.clone().double()
    k = w.shape[1]
    order = torch.argsort(torch.diag(h), descending=True, stable=True) if act_order else torch.arange(k)
    dead = torch.diag(h) == 0
    mean = torch.diag(h).mean()
    h[dead, dead] = 1
    w[:, dead] = 0
    w, h = w[:, order], h[order][:, order]
    h += torch.eye(k).double() * damp * mean
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = torch.zeros_like(w)
    for i in range(k):
        g = int(order[i]) // group
        s, z = scales[:, g].double(), zeros[:, g].double()
        q = (torch.round(w[:, i] / s) + z).clamp(0, top)
        codes[:, i] = q
        err = (w[:, i] - (q - z) * s) / u[i, i]
        w[:, i:] -= err[:, None] * u[i, i:][None]
    back = torch.empty_like(codes)
    back[:, order] = codes
    return back.to(torch.uint8)


def main():
    gen = torch.Generator().manual_seed(3)
    r = lambda *s: torch.randn(*s, generator=gen)
    out = {}
    for name, (n, k, group, bits, sym, act, dead) in CASES.items():
        w = r(n, k)
        x = r(400, k) @ (torch.eye(k) + 0.4 * r(k, k)) * torch.linspace(0.3, 3, k)
        x[:, :dead] = 0
        xx = x.T @ x
        top = 2**bits - 1
        groups = -(-k // group)
        scales, zeros = torch.empty(n, groups), torch.empty(n, groups)
        for g in range(groups):
            part = w[:, g * group:(g + 1) * group]
            lo, hi = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[:, g] = torch.maximum(-lo, hi) / (top / 2) if sym else (hi - lo) / top
            zeros[:, g] = 2**(bits - 1) if sym else torch.round(-lo / scales[:, g]).clamp(0, top)
        codes = gptq(w, xx, scales, zeros, group, top, act)
        meta = torch.tensor([n, k, group, bits, int(sym), int(act)], dtype=torch.int32)
        out.update({f"{name}.w": w, f"{name}.xx": xx, f"{name}.scales": scales, f"{name}.zeros": zeros.to(torch.uint8),
                    f"{name}.codes": codes, f"{name}.meta": meta})
    OUT.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT, metadata={"torch": torch.__version__})
    OUT.chmod(0o644)


if __name__ == "__main__":
    main()
