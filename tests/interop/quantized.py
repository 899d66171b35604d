"""Folders that `squint quantize` wrote, opened by transformers with compressed-tensors.

Two folders: with groups of 128 and padding (the default), and with `--on-indivisible
smaller-group`, where every group divides its layer. transformers has no notion of a padded layer:
what it says of the first folder is printed, and must be the known refusal or a correct load.
"""
import traceback

import torch

from oracle import Oracle

TOLERANCE = 1e-3
# What compressed-tensors and transformers say when a layer's inputs are not whole groups.
REFUSALS = ("divisble by the given group_size", "divisible", "size mismatch", "mismatch",
            "shape")


def open_dequantized(folder):
    from transformers import CompressedTensorsConfig
    return Oracle(folder, quantization_config=CompressedTensorsConfig(dequantize=True))


def compare_folder(report, squint, name, folder, cases, base, difference, may_refuse):
    try:
        oracle = open_dequantized(folder)
    except Exception as e:
        text = f"{type(e).__name__}: {str(e).strip()[-500:]}"
        if may_refuse and any(r in text for r in REFUSALS):
            report.check(f"{name}: transformers refuses, as known", True, text)
        else:
            traceback.print_exc()
            report.check(f"{name}: transformers opens the folder", False, text)
        return
    report.check(f"{name}: transformers opens the folder", True)
    for case, messages in cases.items():
        try:
            want = oracle.logits(oracle.prepare(messages, base))
            _, got = squint.logits(folder, messages, base)
            rel, row = difference(got, want)
            report.check(f"{name}/{case}: logits", rel <= TOLERANCE, f"{rel:.2e} at row {row}")
        except Exception as e:
            report.check(f"{name}/{case}", False, f"{type(e).__name__}: {e}")


def check_quantized(report, squint, args, work, cases, draw_media, difference):
    torch.manual_seed(0)
    model = args.model.resolve()
    if not (model / "config.json").exists():
        report.skip("quantized", f"no {model}")
        return
    if not (work / "a.png").exists():
        draw_media(work)
    made = []
    if args.quantized:
        made.append(("given", args.quantized.resolve(), True))
    else:
        for name, flags, may_refuse in (
                ("padded", ("--on-indivisible", "pad"), True),
                ("smaller groups", ("--on-indivisible", "smaller-group"), False)):
            out = work / name.replace(" ", "-")
            try:
                squint.call("quantize", model, "-o", out, "--method", "rtn", *flags)
                made.append((name, out, may_refuse))
            except RuntimeError as e:
                report.check(f"quantize {name}", False, str(e))
    for name, folder, may_refuse in made:
        compare_folder(report, squint, f"quantized {name}", folder, cases, work, difference,
                       may_refuse)
