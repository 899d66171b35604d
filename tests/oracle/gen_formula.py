#!/usr/bin/env python3
"""Writes tests/golden/models/formula.json: models whose weights are a formula of the tensor's name.

No weight file is needed: a C test makes the weights itself. The formula: with h the 64-bit FNV-1a
hash of the module's name and i the element's index, z = h + (i + 1) * 0x9E3779B97F4A7C15, then the
splitmix64 finalizer, v = (z >> 40) / 2^23 - 1. Tensors of two or more dimensions are v / 4, norm
weights 1 + v / 8, other vectors v / 8. The picture: p(y, x, c, f) = (7y + 13x + 29c + 5((xy) >> 3)
+ 3((x ^ y) & 31) + 37f) & 255. Names are those of transformers' modules (model.visual.…).
"""
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402

from gen_models import ROOT, versions  # noqa: E402
from model_specs import MEAN, STD  # noqa: E402

MASK = (1 << 64) - 1
NORMS = ("norm.weight", "layernorm.weight", "norm1.weight", "norm2.weight", "ln_q.weight")


def formula(name, shape):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    v = (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    if len(shape) >= 2:
        v = 0.25 * v
    else:
        v = 1 + 0.125 * v if name.endswith(NORMS) else 0.125 * v
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def picture(height, width, frame=0):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    v = 7 * y + 13 * x + 29 * c + 5 * ((x * y) >> 3) + 3 * ((x ^ y) & 31) + 37 * frame
    return (v & 255).astype(np.uint8)


def patches(frames):
    """[t, h, w, 3] uint8, t even -> rows in transformers' order, and the grid."""
    mean = (np.array(MEAN, np.float32) * np.float32(255)).astype(np.float32)
    std = (np.array(STD, np.float32) * np.float32(255)).astype(np.float32)
    x = (frames.astype(np.float32) - mean) / std
    t, h, w, _ = x.shape
    x = x.reshape(t // 2, 2, h // 28, 2, 14, w // 28, 2, 14, 3)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 1176)
    return torch.from_numpy(np.ascontiguousarray(x)), [t // 2, h // 14, w // 14]


TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
T1 = {"vocab_size": 97, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
      "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **TEXT}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
VLM_TEXT = {"vocab_size": 160, "rms_norm_eps": 1e-6, "rope_parameters": {
    "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}, **TEXT}
TOKENS = {"image_token_id": 150, "video_token_id": 151, "vision_start_token_id": 152,
          "vision_end_token_id": 153, "tie_word_embeddings": False}
TOWER2 = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64}
TOWER25 = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
           "out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1],
           "tokens_per_second": 2}
LLAMA_IDS = [1, 5, 9, 42, 7, 3]


def build(kind, config):
    if kind == "llama":
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**config))
    elif kind == "qwen2":
        model = tf.Qwen2ForCausalLM(tf.Qwen2Config(**config))
    elif kind == "qwen2_vl":
        model = tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(**config))
    else:
        model = tf.Qwen2_5_VLForConditionalGeneration(tf.Qwen2_5_VLConfig(**config))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(formula(name, tuple(p.shape)))
    return model.eval()


def rounded(values):
    return [float(f"{float(v):.9g}") for v in values]


@torch.no_grad()
def case(name, kind, config, ids, frames=None, is_video=False, seconds=None, new=8):
    model = build(kind, config)
    kwargs = {"input_ids": torch.tensor([ids])}
    out = {"name": name, "model_type": kind, "config": config, "input_ids": ids}
    if frames is not None:
        pixels, grid = patches(frames)
        word = "video" if is_video else "image"
        token = 151 if is_video else 150
        kwargs["pixel_values_videos" if is_video else "pixel_values"] = pixels
        kwargs[f"{word}_grid_thw"] = torch.tensor([grid])
        kwargs["mm_token_type_ids"] = torch.tensor(
            [[(2 if is_video else 1) if i == token else 0 for i in ids]])
        if seconds is not None:
            kwargs["second_per_grid_ts"] = torch.tensor([seconds])
            out["second_per_grid"] = seconds
        vision = model.model.visual(pixels, grid_thw=torch.tensor([grid])).pooler_output
        pos, delta = model.model.get_rope_index(**{
            k: v for k, v in kwargs.items() if not k.startswith("pixel")})
        out.update(kind=word, grid_thw=grid, height=frames.shape[1], width=frames.shape[2],
                   frames=int(frames.shape[0]) if is_video else 1,
                   pixel_row0={str(i): rounded([pixels[0, i]])[0] for i in (0, 1, 196, 392)},
                   vision_first=rounded(vision[0, :4]), vision_last=rounded(vision[-1, :4]),
                   position_ids=pos[:, 0].tolist(), rope_delta=int(delta))
    logits = model(**kwargs, use_cache=False).logits[0]
    if frames is not None:
        model.model.rope_deltas = None
    greedy = model.generate(**kwargs, max_new_tokens=new, do_sample=False, eos_token_id=-1,
                            pad_token_id=0)[0, len(ids):].tolist()
    out.update(last_logits=rounded(logits[-1, :16]), logits_l2=rounded([logits.norm()])[0],
               argmax=int(logits[-1].argmax()), greedy=greedy)
    return out


def main():
    torch.set_num_threads(1)
    still = np.repeat(picture(56, 84)[None], 2, 0)
    wide = np.repeat(picture(84, 140)[None], 2, 0)
    clip = np.stack([picture(56, 56, f) for f in range(4)])
    image_ids = [1, 2, 152, *[150] * 6, 153, 3, 4]
    video_ids = [1, 2, 152, *[151] * 8, 153, 3, 4]
    qwen2 = {**T1, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
             "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    vl2 = {"text_config": VLM_TEXT, "vision_config": TOWER2, **TOKENS}
    vl25 = {"text_config": VLM_TEXT, "vision_config": TOWER25, **TOKENS}
    cases = [
        case("t1", "llama", T1, LLAMA_IDS),
        case("t1-llama3", "llama", {**T1, "rope_parameters": LLAMA3}, LLAMA_IDS),
        case("t1-linear", "llama", {**T1, "rope_parameters": LINEAR}, LLAMA_IDS),
        case("t2", "qwen2", qwen2, LLAMA_IDS),
        case("t3-image", "qwen2_vl", vl2, image_ids, still),
        case("t3-video", "qwen2_vl", vl2, video_ids, clip, True),
        case("t4-image", "qwen2_5_vl", vl25, [1, 2, 152, *[150] * 15, 153, 3, 4], wide),
        case("t4-video", "qwen2_5_vl", vl25, video_ids, clip, True, 1.0),
        case("t4-video-fraction", "qwen2_5_vl", vl25, video_ids, clip, True, 0.75),
    ]
    text = json.dumps({"about": "tests/oracle/gen_formula.py; float32, eager attention",
                       "versions": versions(), "cases": cases}, indent=1) + "\n"
    (ROOT / "formula.json").write_text(text, encoding="utf-8")
    for c in cases:
        print(c["name"], c["last_logits"][:6], c["argmax"], c["greedy"], c.get("vision_first"))


if __name__ == "__main__":
    main()
