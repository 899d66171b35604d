"""Writes the trained weights as a Hugging Face folder through transformers' own save_pretrained, and checks it."""
import argparse
import os

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (AutoProcessor, GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration,
                          Qwen2_5_VLProcessor, Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLVideoProcessor)

import batch as B
from make_data import MAX_PIXELS, MIN_PIXELS
from net import VL

TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] "
    "== 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}"
    "Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content "
    "%}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}")


def build_config(c, vocab, token):
    rope = {"rope_type": "default", "mrope_section": list(c["sections"]), "rope_theta": c["theta"]}
    text = dict(vocab_size=vocab, hidden_size=c["hidden"], intermediate_size=c["inter"],
                num_hidden_layers=c["layers"], num_attention_heads=c["heads"], num_key_value_heads=c["kv"],
                hidden_act="silu", max_position_embeddings=16384, rms_norm_eps=c["eps"], rope_parameters=rope,
                bos_token_id=token("<|endoftext|>"), eos_token_id=token("<|im_end|>"), pad_token_id=None,
                tie_word_embeddings=True, max_window_layers=c["layers"])
    vision = dict(depth=c["v_depth"], hidden_size=c["v_width"], hidden_act="silu", intermediate_size=c["v_inter"],
                  num_heads=c["v_heads"], in_channels=3, patch_size=14, spatial_merge_size=c["merge"],
                  temporal_patch_size=2, tokens_per_second=2, window_size=28 * c["window"],
                  out_hidden_size=c["hidden"], fullatt_block_indexes=list(c["full"]))
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"), vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"), tie_word_embeddings=True)


def build_processor(tokenizer_file):
    tok = Qwen2Tokenizer.from_pretrained(os.path.dirname(tokenizer_file), eos_token="<|im_end|>",
                                         pad_token="<|endoftext|>", unk_token=None, model_max_length=16384)
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    image = Qwen2VLImageProcessor(size=dict(size))
    video = Qwen2VLVideoProcessor(size=dict(size), do_sample_frames=True, fps=2.0)
    return Qwen2_5_VLProcessor(image_processor=image, tokenizer=tok, video_processor=video, chat_template=TEMPLATE)


def to_hf(state, config):
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    mapped = {"model.visual." + k[7:] if k.startswith("visual.") else "model.language_model." + k[6:]: v
              for k, v in state.items()}
    mapped["lm_head.weight"] = mapped["model.language_model.embed_tokens.weight"]
    model.load_state_dict(mapped, strict=True)
    model.tie_weights()
    return model


@torch.no_grad()
def compare(mine, hf, tokenizer):
    """Largest difference of logits in f32 between the training code and transformers, positions included."""
    builder, worst, rng = B.Builder(tokenizer), {}, np.random.default_rng(3)
    for kind, sizes, slots in (("text", [], 0), ("image", [(9, 5)], 0), ("pair", [(4, 6), (5, 3)], 0),
                               ("clip", [(5, 6)], 3), ("clip of 8 frames", [(3, 7)], 4)):
        s = B.Sequence(builder)
        s.text(B.SYSTEM)
        rows, thw = [], []
        for gw, gh in sizes:
            s.vision(max(1, slots), gh, gw, slots > 0)
            shape = (1, 2 * max(1, slots), gh * 28, gw * 28, 3)
            rows.append((B.patches(torch.from_numpy(rng.integers(0, 255, shape, np.uint8))), gh, gw))
            thw.append([max(1, slots), gh * 2, gw * 2])
        s.turn("color", "What color is the circle?", "red", 0)
        ids, pos = torch.tensor([s.id]), torch.from_numpy(np.concatenate(s.pos, 1)[None])
        features, extra = None, {}
        if rows:
            features = torch.cat([mine.visual(*r).reshape(1, -1, mine.c["hidden"]) for r in rows], 1)
            flat, thw = torch.cat([r[0].reshape(-1, 1176) for r in rows]), torch.tensor(thw)
            extra = dict(pixel_values_videos=flat, video_grid_thw=thw, second_per_grid_ts=torch.tensor([1.0])) \
                if slots else dict(pixel_values=flat, image_grid_thw=thw)
            kinds = torch.zeros_like(ids).int()
            kinds[0, s.where] = 2 if slots else 1
            extra["mm_token_type_ids"] = kinds
        mask = B.attention_mask(torch.tensor([s.seg]))
        a = mine.logits(mine(ids, features, torch.tensor(s.where), pos, mask))
        b = hf(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
        worst[kind] = (a - b).abs().max().item()
    return worst


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--state", required=True, help="last.pt of train.py")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    tokenizer = Tokenizer.from_file(a.tokenizer)
    token, saved = tokenizer.token_to_id, torch.load(a.state, weights_only=False)
    mine = VL(tokenizer.get_vocab_size(), saved["cfg"])
    mine.load_state_dict(saved["model"])
    mine.eval()
    hf = to_hf(mine.state_dict(), build_config(saved["cfg"], tokenizer.get_vocab_size(), token))
    worst = compare(mine, hf, tokenizer)
    print("largest logit difference", worst)
    assert max(worst.values()) < 1e-3
    hf.generation_config = GenerationConfig(
        bos_token_id=token("<|endoftext|>"), pad_token_id=token("<|endoftext|>"),
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")], do_sample=False)
    hf.to(torch.bfloat16).save_pretrained(a.out)
    build_processor(a.tokenizer).save_pretrained(a.out)
    Qwen2_5_VLForConditionalGeneration.from_pretrained(a.out)
    again = AutoProcessor.from_pretrained(a.out)
    for text in ("Find the red circle. 123 + 4\n\n  e\u0301t\u00e9 \u65e5\u672c <|im_end|>", "red"):
        assert again.tokenizer(text)["input_ids"] == tokenizer.encode(text).ids, text
    print({f: os.path.getsize(os.path.join(a.out, f)) for f in sorted(os.listdir(a.out))})


if __name__ == "__main__":
    main()
