#!/usr/bin/env python3
"""Writes the fixtures of the families beyond Qwen-VL into tests/golden/models: LLaVA-1.5, LLaVA-NeXT, VILA, more
Llama and Qwen2 layouts, fine-tunes with other names, GGUF and llama2.c files.

    python tests/oracle/gen_families.py [--only NAME]

Same rules as gen_models.py, whose functions it uses: float32, eager attention, seeds tried until the greedy
continuations are usable. VILA has no code in transformers: its parts are (SiglipVisionModel, LlamaForCausalLM), the
projector is written out here from NVlabs/VILA's base_projector.py.
"""
import argparse
import copy
import json
import shutil
import struct

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

import gen_models as G
import media
import tiny_tokenizer
from model_specs import MEAN, STD, text

NEW_TOKENS = 48
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# images first, then texts #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{% if message['role'] != 'assistant' %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in "
    "message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}"
    "{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
VILA_SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
               "detailed, and polite answers to the user's questions. ")


def sp_tokenizer(extra=("<image>", "<pad>"), scores=False):
    """A Llama-like tokenizer.json: Prepend and Replace, byte fallback, BOS by the post-processor."""
    mark = "\u2581"
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    chars = [mark] + [chr(c) for c in range(33, 127)]
    words = [mark + "t", "he", mark + "the", "in", "er", "is", mark + "is", "US", "ER", "USER", mark + mark, "ing",
             mark + "a", "ST", "AN", "STAN", "IS", "AS", "ISTAN", "qu"]
    vocab = {p: i for i, p in enumerate(pieces + chars + words)}
    ranked = []
    for w in words:  # as SentencePiece's scores order them: the earlier word first
        ranked += [(w[:k], w[k:]) for k in range(1, len(w)) if w[:k] in vocab and w[k:] in vocab]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=ranked, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    tok.decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", *extra)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tok


def T(s):
    return {"type": "text", "text": s}


def I(name):
    return {"type": "image", "image": "../media/" + name}


def user(*parts):
    return {"role": "user", "content": list(parts)}


LLAVA_CASES = {
    "image": [user(I("even.png"), T("What is this?"))],
    "odd-image": [user(T("Which colour?"), I("odd-a.png"))],
    "two-images": [user(I("odd-a.png"), I("odd-b.png"), T("Which is bigger?"))],
    "second-turn": [user(T("Hello there.")), {"role": "assistant", "content": [T("Hi! Show me.")]},
                    user(I("odd-b.png"), T("Here: count the discs."))],
    "text": [user(T("Name 3 things."))],
}

CLIP = dict(model_type="clip_vision_model", hidden_size=24, intermediate_size=36, num_hidden_layers=3,
            num_attention_heads=3, image_size=42, patch_size=14, projection_dim=16, vocab_size=64)
SIGLIP = dict(model_type="siglip_vision_model", hidden_size=20, intermediate_size=28, num_hidden_layers=3,
              num_attention_heads=2, image_size=32, patch_size=7)


class Spec:
    def __init__(self, name, config, dtype="F32", shards=1, rename=None, seed=0, processor=None, sp=False,
                 cases=None, extra_files=None):
        self.name, self.config, self.dtype, self.shards, self.seed = name, config, dtype, shards, seed
        self.rename, self.processor, self.sp = rename or (lambda n: n), processor, sp
        self.cases, self.extra_files, self.head_gain = cases, extra_files or {}, 3.0
        self.new_names = True


def llava_old(n):
    """Module names of 5.x -> names as published."""
    n = n.replace("model.vision_tower.", "vision_tower.vision_model.").replace("model.multi_modal", "multi_modal")
    n = n.replace("model.language_model.", "language_model.model.").replace("model.image_newline", "image_newline")
    return "language_model." + n if n.startswith("lm_head") else n


def clip_processor(kind, tile, pinpoints=None):
    c = {"crop_size": {"height": tile, "width": tile}, "do_center_crop": True, "do_convert_rgb": True,
         "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_std": STD,
         "image_processor_type": kind, "resample": 3, "rescale_factor": 0.00392156862745098,
         "size": {"shortest_edge": tile}}
    if pinpoints:
        c["image_grid_pinpoints"] = pinpoints
        c["do_pad"] = True
    return c


def siglip_processor(tile):
    return {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "SiglipImageProcessor",
            "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"height": tile, "width": tile}}


PINS = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
SPECS = [
    # As llava-hf publishes LLaVA-1.5: old names, F16, CLIP, layer -2, no class token.
    Spec("llava-clip-f16", dict(
        architectures=["LlavaForConditionalGeneration"], model_type="llava", ignore_index=-100,
        projector_hidden_act="gelu", vision_feature_layer=-2, vision_feature_select_strategy="default",
        text_config=text(36, 44, 2, 3, 3, model_type="llama", rms_norm_eps=1e-5), tie_word_embeddings=False,
        torch_dtype="float16", vision_config=CLIP), "F16", rename=llava_old, seed=101, sp=True,
        processor=clip_processor("CLIPImageProcessor", 42)),
    # 5.x names, SigLIP, two feature layers, every token kept, Qwen2 as the language model, three shards.
    Spec("llava-siglip-bf16", dict(
        architectures=["LlavaForConditionalGeneration"], model_type="llava", projector_hidden_act="gelu",
        vision_feature_layer=[-3, -1], vision_feature_select_strategy="full", multimodal_projector_bias=False,
        text_config=text(40, 36, 2, 5, 1, model_type="qwen2", rope_theta=1000000.0, tie_word_embeddings=True),
        tie_word_embeddings=True, vision_config=SIGLIP), "BF16", shards=3, seed=102,
        processor=siglip_processor(32)),
    Spec("llavanext-clip-f32", dict(
        architectures=["LlavaNextForConditionalGeneration"], model_type="llava_next", image_grid_pinpoints=PINS,
        projector_hidden_act="gelu", vision_feature_layer=-2, vision_feature_select_strategy="default",
        text_config=text(32, 40, 2, 4, 2, model_type="llama", rms_norm_eps=1e-5, rope_parameters={
            "rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
        tie_word_embeddings=False, vision_config=CLIP), rename=llava_old, seed=103, sp=True,
        processor=clip_processor("LlavaNextImageProcessor", 42, PINS)),
    Spec("llavanext-mistral-bf16", dict(
        architectures=["LlavaNextForConditionalGeneration"], model_type="llava_next", image_grid_pinpoints=PINS[:3],
        projector_hidden_act="gelu", vision_feature_layer=-2, vision_feature_select_strategy="default",
        text_config=text(48, 40, 2, 4, 1, model_type="mistral", rms_norm_eps=1e-5, sliding_window=None,
                         rope_theta=1000000.0),
        tie_word_embeddings=False, vision_config={**CLIP, "hidden_size": 16, "num_attention_heads": 1}), "BF16",
        seed=104, sp=True, processor=clip_processor("LlavaNextImageProcessor", 42, PINS[:3])),
    # Biases everywhere, linear scaling in 5.x's form, tied, F16.
    Spec("llama-linear-f16", dict(
        architectures=["LlamaForCausalLM"], model_type="llama",
        **text(44, 52, 2, 2, 2, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5, rope_parameters={
            "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), tie_word_embeddings=True), "F16",
        seed=105, sp=True),
    # stories15M's proportions: six heads of 48 without groups, tied.
    Spec("llama-stories-bf16", dict(
        architectures=["LlamaForCausalLM"], model_type="llama",
        **text(288, 64, 1, 6, 6, rms_norm_eps=1e-5, rope_theta=10000.0), tie_word_embeddings=True), "BF16",
        seed=106, sp=True),
    # SmolLM2's: three heads a KV head, head width 64 / 3 of the width.
    Spec("smollm2-like-bf16", dict(
        architectures=["LlamaForCausalLM"], model_type="llama",
        **text(36, 48, 3, 9, 3, rms_norm_eps=1e-5, rope_theta=100000.0, rope_scaling=None, is_llama_config=True,
               rope_interleaved=False), tie_word_embeddings=True), "BF16", seed=107),
    Spec("qwen25-untied-bf16", dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2",
        **text(56, 44, 3, 4, 1, rope_theta=1000000.0, use_sliding_window=False, sliding_window=131072,
               max_window_layers=3), tie_word_embeddings=False), "BF16", shards=2, seed=108),
]
# A fine-tune as VLM-R1's trainer leaves it: another class name, wrapped modules, files nobody asked for.
VLM_R1 = Spec("vlmr1-bf16", dict(
    architectures=["Qwen2_5_VLForConditionalGenerationGRPO"], model_type="qwen2_5_vl",
    **text(40, 44, 2, 5, 1, rope_theta=1000000.0, rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]}),
    tie_word_embeddings=True, torch_dtype="bfloat16",
    vision_config={"depth": 2, "hidden_act": "silu", "hidden_size": 24, "intermediate_size": 36, "num_heads": 2,
                   "in_chans": 3, "out_hidden_size": 40, "patch_size": 14, "spatial_merge_size": 2,
                   "spatial_patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
                   "temporal_patch_size": 2, "tokens_per_second": 2}), "BF16", shards=2, seed=109,
    extra_files={"trainer_state.json": '{"best_metric": null, "global_step": 500}\n',
                 "training_args.txt": "num_generations 8\n"})


def weights(model, spec, seed, special):
    """random_weights of gen_models, with what CLIP and SigLIP have besides."""
    state = G.random_weights(model, G_like(spec), seed, special)
    gen = torch.Generator().manual_seed(seed + 7)
    for name in state:
        if name.endswith("norm.bias") or "layer_norm" in name and name.endswith("bias"):
            state[name] = (0.2 * torch.randn(state[name].shape, generator=gen)).to(state[name].dtype)
        elif "layer_norm" in name or "layrnorm" in name or "post_layernorm" in name:
            r = torch.randn(state[name].shape, generator=gen)
            state[name] = (0.2 * r + (1.0 if name.endswith("weight") else 0.0)).to(state[name].dtype)
        elif "position_embedding" in name or "class_embedding" in name or "image_newline" in name:
            state[name] = (0.5 * torch.randn(state[name].shape, generator=gen)).to(state[name].dtype)
    return {k: v for k, v in state.items() if not k.endswith("position_ids")}


class G_like:
    def __init__(self, spec):
        self.config = {"tie_word_embeddings": spec.config.get("tie_word_embeddings")}
        self.dtype, self.head_gain = spec.dtype, spec.head_gain


def is_llava(spec):
    return spec.config["model_type"].startswith("llava")


def tokenizer_of(spec):
    """(tokenizer.json, special ids, size, tokenizer_config)."""
    if not spec.sp:
        body, ids, size = tiny_tokenizer.build()
        template = LLAVA_TEMPLATE if is_llava(spec) else tiny_tokenizer.TEMPLATE
        cfg = json.loads(tiny_tokenizer.tokenizer_config(template))
        if is_llava(spec):
            tok = Tokenizer.from_str(body)
            tok.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
            body, size = tok.to_str(), tok.get_vocab_size()
            ids = {**ids, "<image>": tok.token_to_id("<image>")}
            cfg["image_token"] = "<image>"
        return body, ids, size, cfg
    tok = sp_tokenizer()
    ids = {t: tok.token_to_id(t) for t in ("<s>", "</s>", "<image>", "<pad>")}
    cfg = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
           "pad_token": "<pad>", "legacy": True, "model_max_length": 512, "clean_up_tokenization_spaces": False,
           "tokenizer_class": "LlamaTokenizer" if is_llava(spec) else "PreTrainedTokenizerFast",
           "chat_template": LLAVA_TEMPLATE if is_llava(spec) else VICUNA}
    return tok.to_str(), ids, tok.get_vocab_size(), cfg


VICUNA = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% elif "
          "m['role'] == 'assistant' %}ASSISTANT: {{ m['content'] }}{{ eos_token }}{% else %}{{ m['content'] }} "
          "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")


def write_folder(folder, spec, seed):
    body, ids, size, cfg = tokenizer_of(spec)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = copy.deepcopy(spec.config)
    inner = config.get("text_config", config)
    inner["vocab_size"] = size
    inner["bos_token_id"], inner["eos_token_id"] = (1, 2) if spec.sp else (ids["<|endoftext|>"], ids["<|im_end|>"])
    if is_llava(spec):
        config["image_token_index"] = ids["<image>"]
        config["pad_token_id"] = ids.get("<pad>", ids.get("<|endoftext|>"))
        G.dump(folder / "preprocessor_config.json", spec.processor)
        vit = config["vision_config"]
        drop = config["vision_feature_select_strategy"] == "default"
        clip = vit["model_type"].startswith("clip")
        G.dump(folder / "processor_config.json", {
            "processor_class": "LlavaProcessor", "patch_size": vit["patch_size"], "image_token": "<image>",
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
            "num_additional_image_tokens": 1 if clip else 0})
        assert drop == clip
    G.dump(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(body, encoding="utf-8")
    G.dump(folder / "tokenizer_config.json", cfg)
    eos = 2 if spec.sp else [ids["<|im_end|>"], ids["<|endoftext|>"]]
    G.dump(folder / "generation_config.json", {"do_sample": False, "eos_token_id": eos, "pad_token_id": 0})
    for name, content in spec.extra_files.items():
        (folder / name).write_text(content)
    cls = CLASSES.get(config["model_type"], transformers.AutoModelForCausalLM)
    conf = transformers.AutoConfig.from_pretrained(folder)
    model = cls(conf) if config["model_type"] in CLASSES else cls.from_config(conf)
    first = 0 if spec.sp else min(ids.values())
    state = weights(model, spec, seed, first if not spec.sp else size - 2)
    if spec.sp:
        for name in state:  # never choose a control or byte token
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                state[name][:259] = (state[name][:259].float() * G.SPECIAL_SCALE).to(state[name].dtype)
    shard(folder, {spec.rename(k): v.contiguous() for k, v in state.items()}, spec.shards)
    return ids, size


def shard(folder, tensors, count):
    holder = type("S", (), {"shards": count, "new_names": True, "config": {}})
    G.write_weights(folder, tensors, holder)


CLASSES = {"llava": transformers.LlavaForConditionalGeneration,
           "llava_next": transformers.LlavaNextForConditionalGeneration,
           "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration}


class Runner:
    """One folder in float32: prompts through template and processor, logits, greedy continuation."""

    def __init__(self, folder, spec):
        self.spec, self.folder = spec, folder
        config = transformers.AutoConfig.from_pretrained(folder)
        cls = CLASSES.get(config.model_type, transformers.AutoModelForCausalLM)
        self.model, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                               output_loading_info=True)
        lost = {k: v for k, v in info.items() if v and k != "error_msgs"}
        lost.pop("unexpected_keys", None)
        assert not lost, lost
        self.model.eval()
        self.tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            **{k: v for k, v in json.loads((folder / "tokenizer_config.json").read_text()).items()
               if k in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")})
        self.image = (transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
                      if is_llava(spec) else None)
        self.double = None

    def prepare(self, messages):
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        raw = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        files = [p["image"] for m in messages if not isinstance(m["content"], str) for p in m["content"]
                 if p["type"] == "image"]
        kwargs, features, tiles = {}, [], []
        if files:
            images = [media.read_image(self.folder / f) for f in files]
            for im in images:
                batch = self.image(im, return_tensors="pt")
                px = batch["pixel_values"]
                tiles.append(px[0] if px.dim() == 5 else px)
                with torch.no_grad():
                    out = self.model.model.get_image_features(px, **(
                        {"image_sizes": batch["image_sizes"]} if "image_sizes" in batch else {}))
                out = out.pooler_output if hasattr(out, "pooler_output") else out
                features.append(out[0] if isinstance(out, (list, tuple)) else out.reshape(-1, out.shape[-1]))
            batch = self.image(images, return_tensors="pt")
            kwargs = {k: batch[k] for k in ("pixel_values", "image_sizes") if k in batch}
        token = self.model.config.image_token_id if files else -1
        ids, k = [], 0
        for t in raw:
            if t == token:
                ids += [t] * len(features[k])
                k += 1
            else:
                ids.append(t)
        assert k == len(features)
        kwargs["input_ids"] = torch.tensor([ids])
        return prompt, ids, kwargs, features, tiles, files

    @torch.no_grad()
    def logits(self, kwargs):
        return self.model(**kwargs, use_cache=False).logits[0].float()

    @torch.no_grad()
    def greedy(self, kwargs, use_cache):
        out = self.model.generate(**kwargs, attention_mask=torch.ones_like(kwargs["input_ids"]),
                                  max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=use_cache,
                                  output_logits=True, return_dict_in_generate=True)
        new = out.sequences[0, kwargs["input_ids"].shape[1]:].tolist()
        margins = []
        for step in out.logits:
            top = step[0].float().topk(2).values
            margins.append(float(top[0] - top[1]))
        return new, margins

    @torch.no_grad()
    def noise(self, kwargs, logits):
        if self.double is None:
            self.double = copy.deepcopy(self.model).double()
        k = {n: v.double() if v.is_floating_point() else v for n, v in kwargs.items()}
        exact = self.double(**k, use_cache=False).logits[0]
        return float((exact - logits).abs().max() / exact.abs().max())


def plain(messages):
    """Text parts as strings, for templates without parts."""
    return [{**m, "content": m["content"] if isinstance(m["content"], str) else
             "".join(p["text"] for p in m["content"])} for m in messages]


def usable(new, margins, special):
    return (len(new) == NEW_TOKENS and not any(special(t) for t in new) and min(margins) > G.MIN_MARGIN
            and len(set(new)) >= 5)


def run(folder, spec, ids, size, runner=None, cases=None):
    r = runner or Runner(folder, spec)
    tensors, out = {}, []
    special = (lambda t: t < 259 or t >= size - 2) if spec.sp else (lambda t: t >= min(ids.values()))
    if cases is None:
        cases = LLAVA_CASES if is_llava(spec) else {k: plain(v) for k, v in G.TEXT_CASES.items()}
    for name, messages in sorted(cases.items()):
        prompt, tokens, kwargs, features, tiles, files = r.prepare(messages)
        new, margins = r.greedy(kwargs, True)
        if not usable(new, margins, special):
            print("  not usable:", spec.name, name, len(new), min(margins), len(set(new)), flush=True)
            return None
        assert r.greedy(kwargs, False)[0] == new, (spec.name, name)
        logits = r.logits(kwargs)
        rows = G.logit_rows(len(tokens))
        n = len(tokens)
        put = {"input_ids": torch.tensor(tokens, dtype=torch.int32),
               "position_ids": torch.arange(n, dtype=torch.int32).expand(3, n).contiguous(),
               "rope_delta": torch.tensor([0], dtype=torch.int32),
               "logit_rows": torch.tensor(rows, dtype=torch.int32), "logits": logits[rows].contiguous(),
               "greedy": torch.tensor(new, dtype=torch.int32)}
        for i, (f, t) in enumerate(zip(features, tiles)):
            put[f"vision.{i}"] = f.float().contiguous()
            put[f"tiles.{i}"] = t.float().contiguous()
        tensors.update({f"{name}.{k}": v for k, v in put.items()})
        out.append({"name": name, "messages": messages, "prompt": prompt, "tokens": n,
                    "greedy_text": r.tokenizer.decode(new), "greedy_min_margin": round(min(margins), 6),
                    "float64_difference": float(f"{r.noise(kwargs, logits):.3g}"),
                    "media": [{"kind": "image", "file": f, "tokens": len(x)} for f, x in zip(files, features)]})
    return tensors, out


def finish(folder, spec, seed, result, about="tests/oracle/gen_families.py; float32, eager attention"):
    tensors, cases = result
    save_file(tensors, folder / "expected.safetensors")
    G.dump(folder / "expected.json", {"about": about, "versions": G.versions(), "seed": seed, "model": spec.name,
                                      "new_tokens": NEW_TOKENS, "cases": cases})
    for f in folder.rglob("*"):
        f.chmod(0o755 if f.is_dir() else 0o644)
    kb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1024
    print(f"{spec.name}: seed {seed}, {len(cases)} cases, {kb:.0f} KiB", flush=True)


def make(spec):
    folder = G.ROOT / spec.name
    for seed in range(spec.seed, spec.seed + 100000, 1000):
        ids, size = write_folder(folder, spec, seed)
        result = run(folder, spec, ids, size)
        if result is not None:
            finish(folder, spec, seed, result)
            return
    raise SystemExit(f"{spec.name}: no seed gives usable continuations")


def make_vlm_r1():
    """gen_models' own way, then the names as a trainer wraps them."""
    import model_specs
    from safetensors import safe_open
    s = model_specs.Spec(VLM_R1.name, VLM_R1.config, nested=False, new_names=False, dtype="BF16", shards=2,
                         template="json", seed=VLM_R1.seed)
    G.make(s, tiny_tokenizer.build())
    folder = G.ROOT / s.name
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(folder / file, "pt") as f:
            tensors = {"base_model.model." + k: f.get_tensor(k) for k in f.keys()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
    index["weight_map"] = {"base_model.model." + k: v for k, v in index["weight_map"].items()}
    G.dump(folder / "model.safetensors.index.json", index)
    for name, content in VLM_R1.extra_files.items():
        (folder / name).write_text(content)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--only")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for spec in SPECS:
        if args.only in (None, spec.name):
            make(spec)
    if args.only in (None, VLM_R1.name):
        make_vlm_r1()
    import gen_files
    gen_files.main(args.only)


if __name__ == "__main__":
    main()
