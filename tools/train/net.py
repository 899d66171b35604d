"""Qwen2.5-VL in PyTorch, batched and masked for training on a CPU. Parameter names are the published ones, so a
state dict goes into transformers as it is; export.py checks that both give the same logits."""
import torch
import torch.nn as nn
import torch.nn.functional as F

CFG = dict(hidden=288, inter=512, layers=4, heads=6, kv=2, hd=48, theta=10000.0, sections=(6, 9, 9), eps=1e-6,
           v_width=160, v_inter=340, v_depth=4, v_heads=5, full=(2,), window=4, merge=2, patch_dim=1176)


class RMSNorm(nn.Module):
    def __init__(self, n, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rotate(x, cos, sin):
    x = x.float()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class VisionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        w, i = c["v_width"], c["v_inter"]
        self.norm1, self.norm2 = RMSNorm(w), RMSNorm(w)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(w, 3 * w), "proj": nn.Linear(w, w)})
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(w, i), "up_proj": nn.Linear(w, i), "down_proj": nn.Linear(i, w)})
        self.h = c["v_heads"]

    def forward(self, x, cos, sin, mask):
        b, n, w = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(b, n, 3, self.h, w // self.h).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn["proj"](o.transpose(1, 2).reshape(b, n, w))
        m = self.mlp
        y = self.norm2(x)
        return x + m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        w = c["v_width"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, w, (2, 14, 14), (2, 14, 14), bias=False)})
        self.blocks = nn.ModuleList([VisionBlock(c) for _ in range(c["v_depth"])])
        self.merger = nn.ModuleDict({"ln_q": RMSNorm(w), "mlp": nn.Sequential(
            nn.Linear(4 * w, 4 * w), nn.GELU(), nn.Linear(4 * w, c["hidden"]))})
        self.cache = {}

    def tables(self, gh, gw):
        """cos, sin [n, hd/2] and the window mask [n, n] of a slot of gh x gw merged cells, in HF's patch order."""
        if (gh, gw) not in self.cache:
            r, q, dy, dx = torch.meshgrid(torch.arange(gh), torch.arange(gw), torch.arange(2), torch.arange(2), indexing="ij")
            y, x = (2 * r + dy).reshape(-1), (2 * q + dx).reshape(-1)
            half = self.c["v_width"] // self.c["v_heads"] // 2
            inv = 1.0 / (10000.0 ** (torch.arange(0, half, 2).float() / half))
            ang = torch.cat([y[:, None] * inv, x[:, None] * inv], -1)
            s = self.c["window"]
            win = ((r // s) * 1000 + q // s).reshape(-1)
            self.cache[gh, gw] = ang.cos(), ang.sin(), win[:, None] == win[None, :]
        return self.cache[gh, gw]

    def forward(self, patches, gh, gw):
        """patches [slots, gh*gw*4, 1176] -> [slots, gh*gw, hidden]."""
        s, n, _ = patches.shape
        w = self.c["v_width"]
        x = patches.reshape(s * n, -1) @ self.patch_embed["proj"].weight.view(w, -1).t()
        x = x.view(s, n, w).float()
        cos, sin, mask = self.tables(gh, gw)
        for i, b in enumerate(self.blocks):
            x = b(x, cos, sin, None if i in self.c["full"] else mask)
        x = self.merger["ln_q"](x).view(s, n // 4, 4 * w)
        return self.merger["mlp"](x)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, q, kv, i = c["hidden"], c["heads"] * c["hd"], c["kv"] * c["hd"], c["inter"]
        self.c = c
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(h), RMSNorm(h)
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(h, q), "k_proj": nn.Linear(h, kv), "v_proj": nn.Linear(h, kv),
                                        "o_proj": nn.Linear(q, h, bias=False)})
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(h, i, bias=False), "up_proj": nn.Linear(h, i, bias=False),
                                  "down_proj": nn.Linear(i, h, bias=False)})

    def forward(self, x, cos, sin, mask):
        b, n, _ = x.shape
        c, a = self.c, self.self_attn
        y = self.input_layernorm(x)
        q = a["q_proj"](y).view(b, n, c["heads"], c["hd"]).transpose(1, 2)
        k = a["k_proj"](y).view(b, n, c["kv"], c["hd"]).transpose(1, 2)
        v = a["v_proj"](y).view(b, n, c["kv"], c["hd"]).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        g = c["heads"] // c["kv"]
        o = F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), attn_mask=mask)
        x = x + a["o_proj"](o.transpose(1, 2).reshape(b, n, -1))
        y, m = self.post_attention_layernorm(x), self.mlp
        return x + m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))


class Text(nn.Module):
    def __init__(self, c, vocab):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, c["hidden"])
        self.layers = nn.ModuleList([Layer(c) for _ in range(c["layers"])])
        self.norm = RMSNorm(c["hidden"])


class VL(nn.Module):
    def __init__(self, vocab, c=CFG):
        super().__init__()
        self.c = c
        self.visual, self.model = Vision(c), Text(c, vocab)
        self.apply(self.init)

    @staticmethod
    def init(m):
        if isinstance(m, (nn.Linear, nn.Conv3d, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02 if isinstance(m, nn.Embedding) else 0.7 / m.weight[0].numel() ** 0.5)
            if getattr(m, "bias", None) is not None:
                nn.init.zeros_(m.bias)

    def forward(self, ids, features, where, pos, mask):
        """ids [b, n]; features [b, m, hidden] overwrite the positions `where` [m] (the same for the batch); pos
        [b, 3, n]; mask [b, 1, n, n] bool. Returns logits [b, n, vocab]."""
        c = self.c
        x = self.model.embed_tokens(ids)
        if features is not None:
            x = x.index_copy(1, where, features.to(x.dtype))
        half = c["hd"] // 2
        inv = 1.0 / (c["theta"] ** (torch.arange(0, half).float() * 2 / c["hd"]))
        sec = torch.repeat_interleave(torch.arange(3), torch.tensor(c["sections"]))
        ang = pos.float()[:, sec, :].transpose(1, 2) * inv
        cos, sin = ang.cos()[:, None], ang.sin()[:, None]
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, h):
        return h @ self.model.embed_tokens.weight.t()
