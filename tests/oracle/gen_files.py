"""Checkpoints that do not lie in one Hugging Face folder: VILA-1.5's three folders with a SentencePiece tokenizer.model,
GGUF with every block type, llama2.c's .bin with tokenizer.bin. Called by gen_families.py.

The expected values come from transformers on the same weights; blocks are dequantized by the gguf package.
"""
import copy
import io
import json
import random
import shutil
import struct

import gguf
import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

import gen_families as FAM
import gen_models as G
import media
import tiny_tokenizer
from model_specs import text

WORDS = ("the a cat dog sees picture of red green blue circle square and is on under bigger than small what which "
         "colour how many there USER ASSISTANT question answer chat between user assistant naive").split()


def sp_model():
    """A small SentencePiece BPE model with byte fallback, trained on made-up sentences."""
    rng = random.Random(5)
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))) + rng.choice([".", "?", "!", ":", " 12", ""])
             for _ in range(3000)]
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=420, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, allow_whitespace_only_pieces=True, split_digits=True, pad_id=-1, minloglevel=2)
    return out.getvalue()


def llama(vocab, seed, **kw):
    config = transformers.LlamaConfig(vocab_size=vocab, bos_token_id=1, eos_token_id=2, **kw)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    spec = type("S", (), {"config": {"tie_word_embeddings": kw.get("tie_word_embeddings", False)}, "dtype": "F32",
                          "head_gain": 3.0})
    state = G.random_weights(model, spec, seed, vocab)
    for k in state:
        if k.endswith(("embed_tokens.weight", "lm_head.weight")):
            state[k][:259] *= G.SPECIAL_SCALE
    model.load_state_dict(state, strict=False)
    if kw.get("tie_word_embeddings"):
        model.tie_weights()
    return model


def greedy(step, ids):
    """NEW_TOKENS by arg-max of step(list of ids) -> logits of the last position."""
    new, margins = [], []
    for _ in range(FAM.NEW_TOKENS):
        row = step(ids + new)
        top = row.topk(2)
        new.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return new, margins


def case(name, messages, prompt, ids, logits, new, margins, extra):
    n, rows = len(ids), G.logit_rows(len(ids))
    put = {"input_ids": torch.tensor(ids, dtype=torch.int32),
           "position_ids": torch.arange(n, dtype=torch.int32).expand(3, n).contiguous(),
           "rope_delta": torch.tensor([0], dtype=torch.int32), "logit_rows": torch.tensor(rows, dtype=torch.int32),
           "logits": logits[rows].contiguous(), "greedy": torch.tensor(new, dtype=torch.int32), **extra}
    return ({f"{name}.{k}": v.contiguous() for k, v in put.items()},
            {"name": name, "messages": messages, "prompt": prompt, "tokens": n,
             "greedy_min_margin": round(min(margins), 6)})


def good(new, margins, vocab):
    return min(margins) > G.MIN_MARGIN and len(set(new)) >= 5 and all(259 <= t < vocab for t in new)


# ---- VILA-1.5 ----

SIG = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=2, image_size=35, patch_size=7)


class ThreeFolders:
    """llm/, vision_tower/ and mm_projector/ of the VILA family: what its members share. `image` is the picture's id."""

    @torch.no_grad()
    def run(self, ids, feats):
        rows, k = [], 0
        for t in ids:
            if t == self.image:
                rows.append(feats[k])
                k += 1
            else:
                rows.append(self.llm.model.embed_tokens(torch.tensor([t])))
        return self.llm(inputs_embeds=torch.cat(rows)[None], use_cache=False).logits[0].float()

    @staticmethod
    def make_folders(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("llm", "vision_tower", "mm_projector"):
            (folder / part).mkdir(parents=True)

    def write_weights(self, folder):
        state = {k: v.contiguous() for k, v in self.llm.state_dict().items() if "inv_freq" not in k}
        save_file(state, folder / "llm" / "model.safetensors", metadata={"format": "pt"})
        tower = {("" if k.startswith("vision_model.") else "vision_model.") + k: v.contiguous()
                 for k, v in self.tower.state_dict().items()}
        save_file(tower, folder / "vision_tower" / "model.safetensors", metadata={"format": "pt"})
        save_file(self.proj, folder / "mm_projector" / "model.safetensors", metadata={"format": "pt"})


class Vila(ThreeFolders):
    """llm/, vision_tower/, mm_projector/ in memory, and the way through them (llava_arch.py of VILA-1.5)."""
    image = -200

    def __init__(self, seed, kind, column_major):
        self.sp = spm.SentencePieceProcessor(model_proto=sp_model())
        self.kind, self.column_major, self.side = kind, column_major, 3 if "3x3" in kind else 2
        self.llm = llama(420, seed, **{k: v for k, v in text(36, 44, 2, 3, 1, rms_norm_eps=1e-5).items()
                                       if k != "use_cache"}, tie_word_embeddings=False)
        torch.manual_seed(seed)
        self.tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIG)).eval()
        for name, p in self.tower.named_parameters():
            with torch.no_grad():
                p.copy_(0.2 * torch.randn(p.shape) + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        gen = torch.Generator().manual_seed(seed + 1)
        r = lambda *s: 0.3 * torch.randn(*s, generator=gen)
        c, h = 20 * self.side**2, 36
        norm = lambda k, n: {f"layers.{k}.weight": 1 + r(n), f"layers.{k}.bias": r(n)}
        lin = lambda k, o, i: {f"layers.{k}.weight": r(o, i), f"layers.{k}.bias": r(o)}
        self.proj = ({**norm(1, c), **lin(2, 60, c), **norm(4, 60), **lin(5, h, 60), **lin(7, h, h)} if self.side == 3
                     else {**norm(1, c), **lin(2, h, c), **lin(4, h, h)})

    @torch.no_grad()
    def features(self, pixels):
        x = self.tower(pixels, output_hidden_states=True).hidden_states[-2][0]
        side = SIG["image_size"] // SIG["patch_size"]
        m, p = self.side, self.proj
        x = x.view(side, side, -1)
        pad = -side % m
        x = F.pad(x, (0, 0, 0, pad, 0, pad))
        cells = (side + pad) // m
        x = x.view(cells, m, cells, m, -1).permute(0, 2, 1, 3, 4).reshape(cells, cells, -1)
        x = (x.transpose(0, 1) if self.column_major else x).reshape(cells * cells, -1)
        ln = lambda k, x: F.layer_norm(x, x.shape[-1:], p[f"layers.{k}.weight"], p[f"layers.{k}.bias"])
        lin = lambda k, x: x @ p[f"layers.{k}.weight"].T + p[f"layers.{k}.bias"]
        if m == 3:
            return lin(7, F.gelu(lin(5, ln(4, F.gelu(lin(2, ln(1, x)))))))
        return lin(4, F.gelu(lin(2, ln(1, x))))

    def pixels(self, path):
        size = SIG["image_size"]
        im = media.read_image(path)
        from PIL import Image
        im = (im if isinstance(im, Image.Image) else Image.fromarray(np.asarray(im))).convert("RGB")
        a = np.asarray(im.resize((size, size), Image.BICUBIC)).astype(np.float64) * (1 / 255)
        return ((torch.from_numpy(a).float() - 0.5) / 0.5).permute(2, 0, 1)[None]

    def ids(self, prompt):
        """tokenizer_image_token of VILA-1.5: BOS once, the pieces around a picture by themselves."""
        out = [1]
        for i, piece in enumerate(prompt.split("<image>")):
            out += ([-200] if i else []) + self.sp.encode(piece)
        return out

    def write(self, folder):
        self.make_folders(folder)
        llm_cfg = {**self.llm.config.to_dict(), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        llm_cfg = {k: v for k, v in llm_cfg.items() if v is not None}
        vit = {**SIG, "model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"],
               "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3}
        proj = {"model_type": "v2l_projector", "mm_projector_type": self.kind, "architectures": ["MultimodalProjector"]}
        G.dump(folder / "config.json", {
            "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "llm_cfg": llm_cfg,
            "vision_tower_cfg": vit, "mm_projector_cfg": proj, "image_aspect_ratio": "resize", "num_video_frames": 3,
            "mm_hidden_size": 20, "hidden_size": 36, "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "cls_patch", "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
            "transformers_version": "4.36.2"})
        G.dump(folder / "llm" / "config.json", llm_cfg)
        G.dump(folder / "vision_tower" / "config.json", vit)
        G.dump(folder / "vision_tower" / "preprocessor_config.json", FAM.siglip_processor(SIG["image_size"]))
        G.dump(folder / "mm_projector" / "config.json", proj)
        G.dump(folder / "llm" / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
        G.dump(folder / "llm" / "tokenizer_config.json", {
            "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True,
            "tokenizer_class": "LlamaTokenizer"})
        (folder / "llm" / "tokenizer.model").write_bytes(self.sp.serialized_model_proto())
        self.write_weights(folder)


class Nvila(ThreeFolders):
    """NVILA-8B's way at a small size: dynamic_s2 (mm_utils.dynamic_s2_preprocess, llava_arch.merge_features_for_dynamic_s2),
    Qwen2 as the language model, a line break after each picture."""
    SCALES, LAST = (1, 2, 3), 3

    def __init__(self, seed):
        body, ids, size = tiny_tokenizer.build()
        from tokenizers import AddedToken, Tokenizer
        self.tok = Tokenizer.from_str(body)
        self.tok.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
        self.special, self.image = min(ids.values()), self.tok.token_to_id("<image>")
        config = transformers.Qwen2Config(vocab_size=size, **{k: v for k, v in text(
            36, 44, 2, 3, 1, rope_theta=1000000.0).items() if k != "use_cache"}, tie_word_embeddings=False,
            eos_token_id=ids["<|im_end|>"], bos_token_id=ids["<|endoftext|>"])
        self.llm = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        spec = type("S", (), {"config": {}, "dtype": "F32", "head_gain": 3.0})
        self.llm.load_state_dict(G.random_weights(self.llm, spec, seed, self.special), strict=False)
        torch.manual_seed(seed)
        self.tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**NSIG)).eval()
        for name, p in self.tower.named_parameters():
            with torch.no_grad():
                p.copy_(0.2 * torch.randn(p.shape) + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        r = lambda *s: 0.3 * torch.randn(*s)
        c, h = 4 * 3 * NSIG["hidden_size"], 36
        self.proj = {"layers.1.weight": 1 + r(c), "layers.1.bias": r(c), "layers.2.weight": 0.5 * r(h, c),
                     "layers.2.bias": r(h), "layers.4.weight": r(h, h), "layers.4.bias": r(h)}

    def tiles(self, path, alone):
        """[tiles, 3, side, side] and the last level's (columns, rows)."""
        from PIL import Image
        size = NSIG["image_size"]
        im = media.read_image(path)
        im = (im if isinstance(im, Image.Image) else Image.fromarray(np.asarray(im))).convert("RGB")
        grids = [(1, 1)]
        if alone:
            w, h = im.size
            ratios = sorted({(i, j) for n in range(9, 13) for i in range(1, n + 1) for j in range(1, n + 1)
                             if 9 <= i * j <= 12}, key=lambda x: (x[0] * x[1], x[0]))
            best, grid = float("inf"), (1, 1)
            for c, r in ratios:
                off = abs(w / h - c / r)
                if off < best or (off == best and w * h > 0.5 * size * size * c * r):
                    best, grid = off, (c, r)
            grids = [(k, k) for k in self.SCALES[:-1]] + [grid]
        out = []
        for c, r in grids:
            a = np.asarray(im.resize((c * size, r * size), Image.BICUBIC)).astype(np.float64) * (1 / 255)
            a = ((torch.from_numpy(a).float() - 0.5) / 0.5).permute(2, 0, 1)
            out += [a[:, y * size:(y + 1) * size, x * size:(x + 1) * size] for y in range(r) for x in range(c)]
        return torch.stack(out), grids[-1] if alone else None

    @torch.no_grad()
    def features(self, tiles, grid):
        x = self.tower(tiles, output_hidden_states=True).hidden_states[-2]
        side = NSIG["image_size"] // NSIG["patch_size"]
        x = x.view(-1, side, side, x.shape[-1])
        if grid is None:
            blocks, shape = torch.cat([x] * 3, -1), (1, 1)
        else:
            maps, at = [], 0
            c, r = grid
            for k in [(1, 1), (2, 2), (c, r)]:
                part = x[at:at + k[0] * k[1]].view(k[1], k[0], side, side, -1)
                maps.append(part.permute(4, 0, 2, 1, 3).reshape(1, x.shape[-1], k[1] * side, k[0] * side))
                at += k[0] * k[1]
            maps = [F.interpolate(m, size=(r * side, c * side), mode="area") for m in maps]
            whole = torch.cat(maps, 1)[0].permute(1, 2, 0)
            blocks = whole.view(r, side, c, side, -1).permute(0, 2, 1, 3, 4).reshape(r * c, side, side, -1)
            shape = (r, c)
        pad = -side % 2
        blocks = F.pad(blocks, (0, 0, 0, pad, 0, pad))
        m = (side + pad) // 2
        y = blocks.view(-1, m, 2, m, 2, blocks.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, 4 * blocks.shape[-1])
        p = self.proj
        y = F.layer_norm(y, y.shape[-1:], p["layers.1.weight"], p["layers.1.bias"])
        y = F.gelu(y @ p["layers.2.weight"].T + p["layers.2.bias"]) @ p["layers.4.weight"].T + p["layers.4.bias"]
        r, c = shape
        return y.view(r, c, m, m, -1).permute(0, 2, 1, 3, 4).reshape(r * m * c * m, -1)

    def write(self, folder):
        self.make_folders(folder)
        llm_cfg = {k: v for k, v in {**self.llm.config.to_dict(), "model_type": "qwen2"}.items() if v is not None}
        vit = {**NSIG, "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
        proj = {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample"}
        G.dump(folder / "config.json", {
            "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "llm_cfg": llm_cfg,
            "vision_tower_cfg": vit, "mm_projector_cfg": proj, "image_aspect_ratio": "dynamic_s2", "s2": False,
            "s2_scales": "18,36,54", "s2_resize_output_to_scale_idx": -1, "dynamic_s2": True, "num_video_frames": 8,
            "mm_hidden_size": 3 * NSIG["hidden_size"], "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "cls_patch", "chat_template": None, "transformers_version": "4.46.0"})
        for part, cfg in (("llm", llm_cfg), ("vision_tower", vit), ("mm_projector", proj)):
            G.dump(folder / part / "config.json", cfg)
        G.dump(folder / "vision_tower" / "preprocessor_config.json", FAM.siglip_processor(NSIG["image_size"]))
        (folder / "llm" / "tokenizer.json").write_text(self.tok.to_str())
        cfg = json.loads(tiny_tokenizer.tokenizer_config(NVILA_TEMPLATE))
        G.dump(folder / "llm" / "tokenizer_config.json", cfg)
        G.dump(folder / "llm" / "generation_config.json", {"eos_token_id": self.llm.config.eos_token_id})
        self.write_weights(folder)


NSIG = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=18, patch_size=6)
NVILA_TEMPLATE = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
                  "You are a helpful assistant<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is "
                  "string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
                  "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
                  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def nvila(name, seed):
    folder = G.ROOT / name
    cases = {"wide": [FAM.user(FAM.I("odd-a.png"), FAM.T("What is this?"))],
             "even": [FAM.user(FAM.I("even.png"), FAM.T("And this?"))],
             "two": [FAM.user(FAM.I("odd-b.png"), FAM.I("odd-a.png"), FAM.T("Which is bigger?"))]}
    for seed in range(seed, seed + 100000, 1000):
        v = Nvila(seed)
        v.write(folder)
        wrap = transformers.PreTrainedTokenizerFast(tokenizer_object=v.tok, chat_template=NVILA_TEMPLATE)
        tensors, listed = {}, []
        for key, messages in sorted(cases.items()):
            prompt = wrap.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            files = [p["image"] for m in messages for p in m["content"] if p["type"] == "image"]
            pairs = [v.tiles(folder / f, len(files) == 1) for f in files]
            feats = [v.features(*p) for p in pairs]
            raw, ids, k = [], [], 0
            for t in v.tok.encode(prompt, add_special_tokens=False).ids:
                raw += [t] + (v.tok.encode("\n").ids if t == v.image else [])
            for t in raw:
                ids += [t] * (len(feats[k]) if t == v.image else 1)
                k += t == v.image
            n = len(ids)
            new, margins = greedy(lambda seq: v.run(raw + seq[n:], feats)[-1], ids)
            if min(margins) <= G.MIN_MARGIN or len(set(new)) < 5 or max(new) >= v.special:
                break
            extra = {}
            for i, (f, t) in enumerate(zip(feats, pairs)):
                extra[f"vision.{i}"], extra[f"tiles.{i}"] = f, t[0]
            a, b = case(key, messages, prompt, ids, v.run(raw, feats), new, margins, extra)
            tensors.update(a)
            listed.append(b)
        else:
            FAM.finish(folder, type("S", (), {"name": name}), seed, (tensors, listed))
            return
        print("  not usable:", name, key, min(margins), len(set(new)), flush=True)


def vila_prompt(messages):
    out = FAM.VILA_SYSTEM
    for m in messages:
        body = m["content"] if isinstance(m["content"], str) else "".join(
            {"image": "<image>\n"}.get(p["type"], p.get("text")) for p in m["content"])
        out += ("USER: " + body + " ") if m["role"] == "user" else ("ASSISTANT: " + body + "</s>")
    return out + "ASSISTANT:"


def vila(name, kind, column_major, seed):
    folder = G.ROOT / name
    cases = {"image": [FAM.user(FAM.I("odd-a.png"), FAM.T("What is this?"))],
             "two": [FAM.user(FAM.I("odd-b.png"), FAM.T("and "), FAM.I("even.png"), FAM.T("which is bigger?"))],
             "text": [{"role": "user", "content": "How many cats?"}]}
    for seed in range(seed, seed + 100000, 1000):
        v = Vila(seed, kind, column_major)
        v.write(folder)
        tensors, listed = {}, []
        for key, messages in sorted(cases.items()):
            prompt = vila_prompt(messages)
            files = [p["image"] for m in messages if not isinstance(m["content"], str) for p in m["content"]
                     if p["type"] == "image"]
            tiles = [v.pixels(folder / f) for f in files]
            feats = [v.features(t) for t in tiles]
            raw, ids, k = v.ids(prompt), [], 0
            for t in raw:
                ids += [t] * (len(feats[k]) if t == -200 else 1)
                k += t == -200
            step = lambda seq: v.run(compress(seq, feats), feats)[-1]
            new, margins = greedy(step, ids)
            if not good(new, margins, 420):
                break
            logits = v.run(raw, feats)
            extra = {}
            for i, (f, t) in enumerate(zip(feats, tiles)):
                extra[f"vision.{i}"], extra[f"tiles.{i}"] = f, t
            a, b = case(key, messages, prompt, ids, logits, new, margins, extra)
            tensors.update(a)
            listed.append(b)
        else:
            FAM.finish(folder, type("S", (), {"name": name}), seed, (tensors, listed))
            return
        print("  not usable:", name, key, min(margins), len(set(new)), flush=True)


def compress(ids, feats):
    """Expanded placeholders back to one for each picture."""
    out, k, i = [], 0, 0
    while i < len(ids):
        out.append(ids[i])
        i += len(feats[k]) if ids[i] == -200 else 1
        k += out[-1] == -200
    return out


# ---- SentencePiece alone ----

def sp_cases():
    """tokenizer.model and what sentencepiece says of hard strings."""
    folder = G.ROOT.parent / "text" / "spm"
    folder.mkdir(exist_ok=True)
    sp = spm.SentencePieceProcessor(model_proto=sp_model())
    (folder / "tokenizer.model").write_bytes(sp.serialized_model_proto())
    strings = ["", " ", "the cat", " the cat", "the  cat   sees", "naïve café", "日本語 text", "🙂👍🏽", "a\nb\n\nc", "\t tab",
               "12345 3.14", "<s> in text </s>", "<0x41>", "the▁cat", "ASSISTANT: answer", "x" * 300, "  ", "é\u0301",
               "whatever the user asks\u00a0now", "circle circlecircle"]
    rng = random.Random(9)
    strings += ["".join(rng.choice(["the", " ", "a", "cat ", "é", "▁", "\n", "q", "picture", "日", "1"]) for _ in range(20))
                for _ in range(60)]
    plain = [s for s in strings if "<s>" not in s and "<0x" not in s]
    G.dump(folder / "cases.json", [{"text": s, "ids": sp.encode(s)} for s in plain])
    (folder / "tokenizer_config.json").write_text('{"legacy": true, "bos_token": "<s>", "eos_token": "</s>"}\n')
    for f in folder.iterdir():
        f.chmod(0o644)
    print("spm:", len(plain), "strings", flush=True)


# ---- GGUF ----

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q4_K", "Q5_K"]


def to_gguf_rows(w, heads):
    """llama.cpp's permute: rows of q and k from halves to interleaved pairs."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def gguf_file(name, seed):
    """One Llama of width 256 whose linears take every type in turn; vocabulary of the tiny byte-level tokenizer."""
    folder = G.ROOT / name
    body, ids, size = tiny_tokenizer.build()
    tok = json.loads(body)
    kw = dict(hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=512, tie_word_embeddings=False,
              rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 64})
    for seed in range(seed, seed + 100000, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = transformers.LlamaConfig(vocab_size=size, **kw)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        spec = type("S", (), {"config": {}, "dtype": "F32", "head_gain": 3.0})
        state = G.random_weights(model, spec, seed, min(ids.values()))
        w = gguf.GGUFWriter(str(folder / "model.gguf"), "llama")
        metadata(w, kw, tok, ids, size)
        put_tensors(w, state, kw, model)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        model.load_state_dict(state, strict=False)
        step = lambda seq: logits_of(model, seq)[-1]
        from tokenizers import Tokenizer
        t = Tokenizer.from_str(body)
        tensors, listed = {}, []
        for key, messages in sorted({k: FAM.plain(v) for k, v in G.TEXT_CASES.items()}.items()):
            prompt = transformers.PreTrainedTokenizerFast(
                tokenizer_object=t, chat_template=tiny_tokenizer.TEMPLATE).apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True)
            seq = t.encode(prompt, add_special_tokens=False).ids
            new, margins = greedy(step, seq)
            if min(margins) <= 10 * G.MIN_MARGIN or len(set(new)) < 5 or max(new) >= min(ids.values()):
                break
            a, b = case(key, messages, prompt, seq, logits_of(model, seq), new, margins, {})
            tensors.update(a)
            listed.append(b)
        else:
            FAM.finish(folder, type("S", (), {"name": name}), seed, (tensors, listed))
            return
        print("  not usable:", name, key, min(margins), len(set(new)), flush=True)


@torch.no_grad()
def logits_of(model, seq):
    return model(torch.tensor([seq]), use_cache=False).logits[0].float()


def metadata(w, kw, tok, ids, size):
    w.add_block_count(kw["num_hidden_layers"])
    w.add_context_length(kw["max_position_embeddings"])
    w.add_embedding_length(kw["hidden_size"])
    w.add_feed_forward_length(kw["intermediate_size"])
    w.add_head_count(kw["num_attention_heads"])
    w.add_head_count_kv(kw["num_key_value_heads"])
    w.add_layer_norm_rms_eps(kw["rms_norm_eps"])
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(kw["hidden_size"] // kw["num_attention_heads"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    names = {v: k for k, v in tok["model"]["vocab"].items()}
    added = {a["id"]: a for a in tok["added_tokens"]}
    w.add_token_list([added[i]["content"] if i in added else names[i] for i in range(size)])
    w.add_token_types([(3 if added[i]["special"] else 4) if i in added else 1 for i in range(size)])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
    w.add_eos_token_id(ids["<|im_end|>"])
    w.add_add_bos_token(False)
    w.add_chat_template(tiny_tokenizer.TEMPLATE)


def put_tensors(w, state, kw, model):
    """Quantizes each linear to the next type; `state` gets what the file then means."""
    mine = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    turn = 0
    plain = 10000.0 ** -(torch.arange(0, 64, 2).double() / 64)
    w.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.double()).float().numpy())
    for name, value in state.items():
        a = value.float().numpy()
        if name in whole:
            out = whole[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            out = f"blk.{layer}.{mine[rest.rsplit('.', 1)[0]]}.{rest.rsplit('.', 1)[1]}"
        heads = {"attn_q": kw["num_attention_heads"], "attn_k": kw["num_key_value_heads"]}.get(out.split(".")[-2], 0)
        if a.ndim == 1:
            w.add_tensor(out, a)
            continue
        kind = gguf.GGMLQuantizationType["Q6_K" if name.startswith("lm_head") else
                                         "Q8_0" if name.startswith("model.embed") else TYPES[turn % len(TYPES)]]
        turn += not name.startswith(("lm_head", "model.embed"))
        rows = to_gguf_rows(a, heads) if heads else a
        data = quantize(np.ascontiguousarray(rows), kind)
        w.add_tensor(out, data, raw_dtype=kind)
        back = gguf.dequantize(data, kind).reshape(a.shape)
        if heads:
            back = back.reshape(heads, a.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(a.shape)
        state[name] = torch.from_numpy(back.copy())


def quantize(a, kind):
    """gguf-py quantizes the plain types; of the K types any valid block will do: its meaning is what dequantize says."""
    try:
        return gguf.quantize(a, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng(a.shape[0])
        blocks = rng.integers(0, 256, (a.shape[0], a.shape[1] // block, size), dtype=np.uint8)
        d = np.float16(0.004 if kind.name != "Q6_K" else 0.0004).tobytes()
        at = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind.name]
        for o in at:
            blocks[:, :, o], blocks[:, :, o + 1] = d[0], d[1]
        return blocks.reshape(a.shape[0], -1)


# ---- llama2.c ----

def llama2c(name, version, seed, shared):
    folder = G.ROOT / name
    sp = spm.SentencePieceProcessor(model_proto=sp_model())
    kw = dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              rms_norm_eps=1e-5, max_position_embeddings=256, tie_word_embeddings=shared)
    for seed in range(seed, seed + 100000, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = llama(420, seed, **kw)
        state = {k: v.float() for k, v in model.state_dict().items()}
        group = 16
        if version == 2:
            for k, v in state.items():
                if v.dim() == 2:
                    g = v.reshape(-1, group)
                    s = (g.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
                    state[k] = ((g / s).round() * s).reshape(v.shape)
            model.load_state_dict(state, strict=False)
        write_bin(folder / "model.bin", state, kw, version, shared, group)
        write_tokenizer_bin(folder / "tokenizer.bin", sp)
        tensors, listed = {}, []
        for key, s in (("long", "the cat sees a picture of the dog and naïve 日 chat"), ("short", "the cat is on a red circle and 12")):
            ids = [1] + sp.encode(s)
            new, margins = greedy(lambda q: logits_of(model, q)[-1], ids)
            if not good(new, margins, 420):
                break
            a, b = case(key, None, s, ids, logits_of(model, ids), new, margins, {})
            tensors.update(a)
            listed.append({k: v for k, v in b.items() if k != "messages"})
        else:
            FAM.finish(folder, type("S", (), {"name": name}), seed, (tensors, listed))
            return
        print("  not usable:", name, key, min(margins), len(set(new)), flush=True)


def write_bin(path, state, kw, version, shared, group):
    """llama2.c export.py: legacy_export, version1_export, version2_export."""
    n, heads, kv = kw["num_hidden_layers"], kw["num_attention_heads"], kw["num_key_value_heads"]
    layer = lambda role: [state[f"model.layers.{i}.{role}.weight"] for i in range(n)]
    swap = lambda ws, h: [torch.from_numpy(to_gguf_rows(w.numpy(), h).copy()) for w in ws]
    head = [state["model.embed_tokens.weight"]]
    q, k = swap(layer("self_attn.q_proj"), heads), swap(layer("self_attn.k_proj"), kv)
    v, o = layer("self_attn.v_proj"), layer("self_attn.o_proj")
    w1, w2, w3 = layer("mlp.gate_proj"), layer("mlp.down_proj"), layer("mlp.up_proj")
    norms = layer("input_layernorm"), layer("post_attention_layernorm"), [state["model.norm.weight"]]
    last = [] if shared else [state["lm_head.weight"]]
    dims = (kw["hidden_size"], kw["intermediate_size"], n, heads, kv, 420, kw["max_position_embeddings"])
    with open(path, "wb") as f:
        put = lambda ws: [f.write(w.float().numpy().tobytes()) for w in ws]
        if version == 0:
            f.write(struct.pack("iiiiiii", *dims[:5], dims[5] if shared else -dims[5], dims[6]))
            hd = dims[0] // heads
            angle = np.outer(np.arange(dims[6]), 10000.0 ** -(np.arange(0, hd, 2) / hd)).astype(np.float32)
            for ws in (head, norms[0], q, k, v, o, norms[1], w1, w2, w3, norms[2]):
                put(ws)
            f.write(np.cos(angle).tobytes() + np.sin(angle).tobytes())
            put(last)
            return
        f.write(struct.pack("I", 0x616B3432) + struct.pack("i", version) + struct.pack("iiiiiii", *dims))
        f.write(struct.pack("B", int(shared)) + (struct.pack("i", group) if version == 2 else b""))
        f.write(b"\0" * (256 - f.tell()))
        for ws in norms:
            put(ws)
        for ws in (head, q, k, v, o, w1, w2, w3, last):
            for w in ws:
                if version == 1:
                    put([w])
                    continue
                g = w.reshape(-1, group)
                s = (g.abs().amax(1) / 127).clamp(min=1e-12)
                f.write((g / s[:, None]).round().to(torch.int8).numpy().tobytes() + s.float().numpy().tobytes())


def write_tokenizer_bin(path, sp):
    """llama2.c tokenizer.py export."""
    pieces = []
    for i in range(sp.vocab_size()):
        t = sp.id_to_piece(i)
        t = "\n<s>\n" if i == sp.bos_id() else "\n</s>\n" if i == sp.eos_id() else t
        pieces.append((t.replace("\u2581", " ").encode(), sp.get_score(i)))
    with open(path, "wb") as f:
        f.write(struct.pack("I", max(len(b) for b, _ in pieces)))
        for b, s in pieces:
            f.write(struct.pack("fI", s, len(b)) + b)


def main(only=None):
    jobs = {"vila15-llama": lambda: vila("vila15-llama", "mlp_downsample", True, 201),
            "vila-3x3": lambda: vila("vila-3x3", "mlp_downsample_3x3_fix", False, 202),
            "nvila-s2": lambda: nvila("nvila-s2", 207),
            "spm": sp_cases,
            "gguf-llama": lambda: gguf_file("gguf-llama", 203),
            "llama2c-v0": lambda: llama2c("llama2c-v0", 0, 204, True),
            "llama2c-v1": lambda: llama2c("llama2c-v1", 1, 205, False),
            "llama2c-v2": lambda: llama2c("llama2c-v2", 2, 206, True)}
    for name, job in jobs.items():
        if only in (None, name):
            job()
