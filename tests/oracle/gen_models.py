#!/usr/bin/env python3
"""Writes tests/golden/models: small random-weight checkpoints and what transformers says of them.

    python tests/oracle/gen_models.py            all of them
    python tests/oracle/gen_models.py --only NAME

Everything is computed in float32 with eager attention, whatever the stored type. Seeds are tried
from the one given upward until the greedy continuations are usable as a test: no special token
among them, no razor-thin margin, not one token repeated. See README.md beside this file.
"""
import argparse
import importlib.metadata
import json
import os
import shutil
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import media  # noqa: E402
import tiny_tokenizer  # noqa: E402
from model_specs import SPECS, full_config, is_vlm, preprocessor  # noqa: E402
from oracle import Oracle  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent / "golden" / "models"
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NEW_TOKENS = 64
MIN_MARGIN = 1e-3
SPECIAL_SCALE = 0.3  # rows of special tokens in embedding and head: never the greedy choice


def T(text):
    return {"type": "text", "text": text}


def I(name):
    return {"type": "image", "image": "../media/" + name}


def V(name):
    return {"type": "video", "video": "../media/" + name}


def user(*parts):
    return {"role": "user", "content": list(parts)}


TEXT_CASES = {
    "text": [{"role": "user", "content": "Name 3 things that don't fly."}],
    "text-turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What's 12 + 7?"},
        {"role": "assistant", "content": "19 — naïve but right."},
        {"role": "user", "content": "And\n\n  twice   that?"},
    ],
}
VLM_CASES = {
    **TEXT_CASES,
    "image": [user(I("even.png"), T("What is this?"))],
    "image-resized": [user(T("Which colour? "), I("odd-a.png"))],
    "two-images": [user(I("odd-a.png"), T("This is one, and then "), I("odd-b.png"),
                        T(" is another. Which is bigger?"))],
    # 6 frames at 2 a second, 56x56: three temporal steps of 1 s on a 2x2 grid, so that the time
    # positions pass the spatial ones: tells the rules after a video apart.
    "video": [user(V("six-rgb.mp4"), T("Which way does it move?"))],
    # 5 frames at 3 a second, 4 taken: second_per_grid 0.8333: tells truncating the seconds from
    # truncating the product with tokens_per_second.
    "video-fraction": [user(V("five-rgb.mp4"), T("Faster?"))],
    # 4 frames, one in 4 s: second_per_grid 8. The video's time runs past the whole rest of the
    # prompt, so the first new token's position is not the prompt's last plus one.
    "video-slow": [user(T("Now "), V("slow-rgb.mp4"))],
    "second-turn": [
        user(T("Hello there.")),
        {"role": "assistant", "content": "Hi! Show me a picture."},
        user(I("odd-b.png"), T("Here it is: count the discs.")),
    ],
    "image-and-video": [
        user(I("odd-b.png"), T("first")),
        {"role": "assistant", "content": "Noted."},
        user(V("six-rgb.mp4"), T("and "), I("even.png"), T("?")),
    ],
}


def versions():
    names = ["transformers", "torch", "torchvision", "tokenizers", "safetensors", "numpy",
             "pillow", "av"]
    return {n: importlib.metadata.version(n) for n in names}


def random_weights(model, spec, seed, first_special):
    """State dict by module name: linears of gain about 1.2, norms about 1, biases not zero."""
    gen = torch.Generator().manual_seed(seed)
    out = {}
    for name, p in model.state_dict().items():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        r = torch.randn(p.shape, generator=gen)
        fan_in = p[0].numel() if p.dim() > 1 else 1
        if "norm" in name or name.endswith("ln_q.weight") or name.endswith("ln_q.bias"):
            w = 0.2 * r + (1.0 if name.endswith("weight") else 0.0)
        elif p.dim() == 1:
            w = 0.2 * r
        elif name.endswith("embed_tokens.weight"):
            tied = spec.config.get("tie_word_embeddings")
            w = r * (spec.head_gain / fan_in**0.5 if tied else 0.6)
        elif name.endswith("lm_head.weight"):
            w = r * (spec.head_gain / fan_in**0.5)
        elif "patch_embed" in name:
            w = r * (1.0 / fan_in**0.5)
        elif name.endswith(("o_proj.weight", "down_proj.weight")) and "visual" not in name:
            w = r * (2.0 / fan_in**0.5)
        else:
            w = r * (1.2 / fan_in**0.5)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            w[first_special:] *= SPECIAL_SCALE
        out[name] = w.to(TORCH[spec.dtype])
    if spec.config.get("tie_word_embeddings"):
        out.pop("lm_head.weight", None)
    return out


def file_name(name, spec):
    """The module's name as this fixture's file has it."""
    if spec.new_names or not is_vlm(spec):
        return name
    if name.startswith("model.visual."):
        return name[len("model."):]
    return name.replace("model.language_model.", "model.", 1)


def write_weights(folder, state, spec):
    tensors = {file_name(k, spec): v.contiguous() for k, v in state.items()}
    if spec.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    # Cut by bytes in the order of the names, so that one layer lies in two shards.
    names = sorted(tensors)
    size = {n: tensors[n].numel() * tensors[n].element_size() for n in names}
    total, done, groups = sum(size.values()), 0, [[] for _ in range(spec.shards)]
    for n in names:
        groups[min(done * spec.shards // total, spec.shards - 1)].append(n)
        done += size[n]
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, group in enumerate(groups):
        assert group
        file = f"model-{i + 1:05d}-of-{spec.shards:05d}.safetensors"
        save_file({n: tensors[n] for n in group}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({n: file for n in group})
    dump(folder / "model.safetensors.index.json", index)


def dump(path, obj):
    path.write_text(json.dumps(obj, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(folder, spec, seed, tokenizer):
    """The checkpoint in HF layout, without the expected values."""
    text, ids, size = tokenizer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dump(folder / "config.json", full_config(spec, ids, size))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    in_config = tiny_tokenizer.TEMPLATE if spec.template == "tokenizer" else None
    (folder / "tokenizer_config.json").write_text(
        tiny_tokenizer.tokenizer_config(in_config), encoding="utf-8")
    if spec.template == "jinja":
        (folder / "chat_template.jinja").write_text(tiny_tokenizer.TEMPLATE, encoding="utf-8")
    elif spec.template == "json":
        dump(folder / "chat_template.json", {"chat_template": tiny_tokenizer.TEMPLATE})
    dump(folder / "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": False,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"]})
    if is_vlm(spec):
        for name, content in preprocessor(spec).items():
            dump(folder / name, content)
    oracle_model = Oracle.skeleton(folder)
    write_weights(folder, random_weights(oracle_model, spec, seed, min(ids.values())), spec)


def logit_rows(n):
    """The rows that are kept: three spread over the prompt, and the last four."""
    return sorted({*(i * (n - 4) // 3 for i in range(3)), *range(max(0, n - 4), n)})


def usable(greedy, margins, ids):
    first_special = min(ids.values())
    faults = [len(greedy) != NEW_TOKENS or max(greedy) >= first_special,
              min(margins) <= MIN_MARGIN, len(set(greedy)) < 5]
    if any(faults):
        print("  not usable (special, margin, monotonous):", faults, min(margins), flush=True)
    return not any(faults)


def run_cases(folder, spec, ids):
    """(tensors, cases) or None when a continuation is not usable."""
    oracle = Oracle(folder)
    tensors, cases, pixels = {}, [], {}
    order = sorted((VLM_CASES if is_vlm(spec) else TEXT_CASES).items(), key=lambda kv: kv[0])
    for name, messages in order:
        inputs = oracle.prepare(messages, folder)
        greedy, margins = oracle.greedy(inputs, NEW_TOKENS)
        if not usable(greedy, margins, ids):
            return None
        again, _ = oracle.greedy(inputs, NEW_TOKENS, use_cache=False)
        assert greedy == again, (spec.name, name, "cached and uncached differ")
        logits = oracle.logits(inputs)
        rows = logit_rows(len(inputs.ids))
        position_ids, delta = oracle.positions(inputs)
        key = name + "."
        tensors[key + "input_ids"] = torch.tensor(inputs.ids, dtype=torch.int32)
        tensors[key + "position_ids"] = position_ids.to(torch.int32)
        tensors[key + "rope_delta"] = torch.tensor([delta], dtype=torch.int32)
        tensors[key + "logit_rows"] = torch.tensor(rows, dtype=torch.int32)
        tensors[key + "logits"] = logits[rows]
        tensors[key + "greedy"] = torch.tensor(greedy, dtype=torch.int32)
        case = {
            "name": name, "messages": messages, "prompt": inputs.prompt, "tokens": len(inputs.ids),
            "greedy_text": oracle.decode(greedy), "greedy_min_margin": round(min(margins), 6),
            "float64_difference": float(f"{oracle.float64_difference(inputs, logits):.3g}"),
            "media": [],
        }
        for i, item in enumerate(inputs.media):
            tensors[f"{key}vision.{i}"] = oracle.vision(item)
            pixels[item.key] = item.pixels
            case["media"].append({
                "kind": item.kind, "file": item.file, "pixels": item.key, "grid_thw": item.grid,
                "tokens": item.grid[0] * item.grid[1] * item.grid[2] // 4,
                **({"second_per_grid": item.second_per_grid, "frames": item.frames}
                   if item.kind == "video" else {})})
        cases.append(case)
    return tensors, cases, pixels


def make(spec, tokenizer):
    folder = ROOT / spec.name
    ids = tokenizer[1]
    for seed in range(spec.seed, spec.seed + 4000, 100):
        write_folder(folder, spec, seed, tokenizer)
        result = run_cases(folder, spec, ids)
        if result is not None:
            break
    else:
        raise SystemExit(f"{spec.name}: no seed gives usable continuations")
    tensors, cases, pixels = result
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, folder / "expected.safetensors")
    dump(folder / "expected.json", {
        "about": "tests/oracle/gen_models.py; float32, eager attention", "versions": versions(),
        "seed": seed, "model": spec.name, "new_tokens": NEW_TOKENS, "cases": cases})
    kb = sum(f.stat().st_size for f in folder.iterdir()) / 1024
    print(f"{spec.name}: seed {seed}, {len(cases)} cases, {kb:.0f} KiB, margin >= "
          f"{min(c['greedy_min_margin'] for c in cases):.4f}, float64 difference <= "
          f"{max(c['float64_difference'] for c in cases):.2g}", flush=True)
    return pixels


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--only")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    media.write(ROOT / "media")
    tokenizer = tiny_tokenizer.build()
    pixels = {}
    for spec in SPECS:
        if args.only in (None, spec.name):
            for key, value in make(spec, tokenizer).items():
                assert key not in pixels or torch.equal(pixels[key], value), key
                pixels[key] = value
    if args.only is None:
        save_file({k: v.contiguous() for k, v in pixels.items()},
                  ROOT / "media" / "pixels.safetensors")
    for file in ROOT.glob("*/*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
